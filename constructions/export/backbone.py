"""The universal backbone as a Hugging Face model: attention and nothing else, frozen weights of zeros and ones, no function inside.

The residual stream has slots [inputs | work | outputs | 1]. The embedding copies a point into the input slots and puts 1 into the last, every
head's query and output matrix is an identity, every head attends to its prefix alone (past_key_values), every layer is residual, and the
readout copies the output slots. What the model computes is in its prefix: one model, many functions, one PEFT adapter each.

Tokens do not see one another: a batch of points is best given as one sequence, inputs_embeds of shape (1, points, inputs), which needs
one copy of the prefix. An attention mask has nothing to mask and is not read.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import BaseModelOutput

from constructions.export.machine import attention, autocast, not_finite

__all__ = ["Backbone", "BackboneConfig", "register"]


class BackboneConfig(PretrainedConfig):
    """inputs, outputs: coordinates of a point and of a result; work: slots between them for circuits; num_hidden_layers,
    num_attention_heads: the same number of heads in every layer, each as wide as the stream."""

    model_type = "prefix_compiler_backbone"

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 1,
        work: int = 0,
        num_hidden_layers: int = 1,
        num_attention_heads: int = 1,
        **kwargs: Any,
    ) -> None:
        given = {
            "inputs": inputs,
            "outputs": outputs,
            "num_hidden_layers": num_hidden_layers,
            "num_attention_heads": num_attention_heads,
        }
        for name, count in (*given.items(), ("work", work)):
            if count < (0 if name == "work" else 1):
                raise ValueError(f"{name}: {count}, expected a whole number >= {0 if name == 'work' else 1}")
        self.inputs, self.outputs, self.work = inputs, outputs, work
        self.num_hidden_layers, self.num_attention_heads = num_hidden_layers, num_attention_heads
        self.width = inputs + work + outputs + 1
        self.hidden_size = self.width * num_attention_heads  # what PEFT divides by the heads to get the width of a key
        self.vocab_size = 0
        kwargs.pop("width", None)
        kwargs.pop("hidden_size", None)
        kwargs.pop("vocab_size", None)
        super().__init__(**kwargs)

    @property
    def output_slots(self) -> range:
        """Where the readout looks."""
        return range(self.inputs + self.work, self.inputs + self.work + self.outputs)


class _Attention(nn.Module):
    """All heads of a layer on their prefixes: keys, values (batch, heads, tokens, width); no 1/sqrt(d)."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.heads, self.width = config.num_attention_heads, config.width
        self.q_proj = nn.Linear(self.width, self.heads * self.width, bias=False)
        self.o_proj = nn.Linear(self.heads * self.width, self.width, bias=False)

    def forward(self, stream: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        batch, length, _ = stream.shape
        queries = self.q_proj(stream).view(batch, length, self.heads, self.width).transpose(1, 2)
        mixed = attention(queries, keys, values)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, self.heads * self.width))


class Backbone(PreTrainedModel):
    """inputs_embeds: points (batch, T, inputs) -> last_hidden_state (batch, T, outputs), with a prefix as past_key_values."""

    config_class = BackboneConfig
    base_model_prefix = "backbone"
    main_input_name = "inputs_embeds"
    _supports_sdpa = True

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Linear(config.inputs, config.width)
        self.layers = nn.ModuleList(_Attention(config) for _ in range(config.num_hidden_layers))
        self.readout = nn.Linear(config.width, config.outputs, bias=False)
        self.post_init()
        self._init_weights(self)
        self.requires_grad_(False)

    def _init_weights(self, module: nn.Module) -> None:
        """Zeros and ones, the same for every configuration; called by transformers for weights that a file lacks."""
        if module is not self or self.embedding.weight.is_meta:
            return
        config = self.config
        with torch.no_grad():
            self.embedding.weight.copy_(torch.eye(config.width, config.inputs))
            self.embedding.bias.copy_(torch.eye(config.width)[-1])
            self.readout.weight.copy_(torch.eye(config.width)[list(config.output_slots)])
            for layer in cast("list[_Attention]", list(self.layers)):
                eye = torch.eye(config.width)
                layer.q_proj.weight.copy_(eye.repeat(config.num_attention_heads, 1))
                layer.o_proj.weight.copy_(eye.repeat(1, config.num_attention_heads))

    def get_input_embeddings(self) -> nn.Module:
        """The layer that puts points into the stream; there is no vocabulary."""
        return self.embedding

    def forward(
        self,
        input_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput | tuple[Tensor]:
        """Raises ValueError for token ids, without points or a prefix, and for shapes that do not fit. Points that are not finite give NaN;
        autocast changes nothing.

        A prefix of the right shapes that was made for other inputs cannot be told from one for these: see `adapter_folder.checked_adapter`.
        """
        config = self.config
        if input_ids is not None or inputs_embeds is None:
            raise ValueError(
                f"inputs_embeds: points of shape (batch, T, {config.inputs}) are expected; there are no token ids"
            )
        if inputs_embeds.ndim != 3 or inputs_embeds.shape[-1] != config.inputs:
            raise ValueError(f"inputs_embeds: shape {tuple(inputs_embeds.shape)}, expected (batch, T, {config.inputs})")
        prefix = _layers_of(past_key_values, config.num_hidden_layers)
        for l, pair in enumerate(prefix):
            _fits(l, *pair, len(inputs_embeds), cast("BackboneConfig", config))
        own = self.embedding.weight
        points = inputs_embeds.to(own.dtype)
        # what is certified of a prefix is about the model's own dtype
        with torch.autocast(own.device.type, enabled=False) if autocast(own) else nullcontext():
            stream = self.embedding(points)
            for layer, (keys, values) in zip(self.layers, prefix, strict=True):
                stream = stream + layer(stream, keys.to(stream.dtype), values.to(stream.dtype))
            out = self.readout(stream) + not_finite(points)
        return (out,) if return_dict is False else BaseModelOutput(last_hidden_state=out)


def _layers_of(prefix: Any, layers: int) -> list[tuple[Tensor, Tensor]]:
    """Keys and values per layer, from a cache or a tuple of pairs."""
    if prefix is None:
        raise ValueError(
            "past_key_values: none; the backbone computes what its prefix says. Load an adapter with PeftModel"
        )
    found: list[tuple[Tensor, Tensor]]
    if isinstance(prefix, Cache):
        layers_of_cache = cast("list[Any]", prefix.layers if isinstance(prefix, DynamicCache) else [])
        found = [(layer.keys, layer.values) for layer in layers_of_cache]
    else:
        found = [(pair[0], pair[1]) for pair in prefix]
    if len(found) != layers:
        raise ValueError(f"past_key_values: {len(found)} layers, the backbone has {layers}")
    return found


def _fits(l: int, keys: Tensor, values: Tensor, batch: int, config: BackboneConfig) -> None:
    """One head would be used for all, and one of many heads' widths for another's, without a word."""
    heads, width = config.num_attention_heads, config.width
    expected = f"(batch, {heads} heads, tokens, {width} slots)"
    for name, found in (("keys", keys), ("values", values)):
        shape = tuple(found.shape)
        if found.ndim != 4 or shape[1] != heads or shape[3] != width or shape[2] == 0:
            raise ValueError(
                f"past_key_values: {name} of layer {l} have shape {shape}, expected {expected}: the prefix is for another backbone"
            )
        if shape[0] not in (1, batch):
            raise ValueError(
                f"past_key_values: {name} of layer {l} are for a batch of {shape[0]}, there are {batch} sequences of points"
            )
    if keys.shape != values.shape:
        raise ValueError(f"past_key_values: layer {l} has keys {tuple(keys.shape)} and values {tuple(values.shape)}")


def register() -> None:
    """Let AutoConfig and AutoModel find the backbone by its model_type; nothing registers it on import."""
    AutoConfig.register(BackboneConfig.model_type, BackboneConfig, exist_ok=True)
    AutoModel.register(BackboneConfig, Backbone, exist_ok=True)
