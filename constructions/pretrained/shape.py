"""What caches and hooks need to know of a transformers model: its layers, groups of keys, their width, where its attention is, and whether layer 0 is what its
weights say.

What is proved about layer 0 is about an operation written down in `verify`, with the model's numbers. `why_not_rotary` and `why_not_absolute` recognise that
operation by the exact classes that do it, never by resemblance: models of other families have the same attribute names and scale, clip or window something.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from constructions.export.checked import required

__all__ = ["Shape", "attentions", "inner", "is_encoder", "output_of", "shape_of", "why_not_absolute", "why_not_rotary"]

_EXACT = ("sdpa", "eager")
_HARMLESS = "transformers.utils.output_capturing"
"""Where transformers defines the hooks that only copy outputs."""


@dataclass(frozen=True)
class Shape:
    """layers, groups (key and value heads of a layer), heads (query heads), width (of a key)."""

    layers: int
    groups: int
    heads: int
    width: int


def is_encoder(model: Any) -> bool:
    """Whether the model is laid out like BERT."""
    return hasattr(model, "embeddings")


def shape_of(model: Any) -> Shape:
    """Of a model of the Llama or BERT family. Raises AttributeError for something else."""
    config = model.config
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Shape(config.num_hidden_layers, groups, heads, width)


def inner(model: Any) -> Any:
    """The layers without the head on top."""
    return model if is_encoder(model) else model.model


def attentions(model: Any) -> list[Any]:
    """The module of each layer that projects queries, keys and values."""
    if is_encoder(model):
        return [block.attention.self for block in model.encoder.layer]
    return [block.self_attn for block in model.model.layers]


def output_of(model: Any, layer: int) -> Any:
    """The module whose first argument is what the heads of a layer put out, side by side."""
    return (
        model.encoder.layer[layer].attention.output if is_encoder(model) else model.model.layers[layer].self_attn.o_proj
    )


def why_not_rotary(model: Any) -> str:
    """Why layer 0 of a model is not that of `verify.first_layer`; "" where it is. Raises MissingExtraError without torch or transformers."""
    kinds, nn = _modules("llama")
    try:
        config, inside = model.config, model.model
        block, rotary = inside.layers[0], inside.rotary_emb
        attention = block.self_attn
        projections = {f"self_attn.{x}_proj": getattr(attention, f"{x}_proj") for x in "qkv"}
        parts = {
            "model": (inside, kinds.LlamaModel),
            "embed_tokens": (inside.embed_tokens, nn.Embedding),
            "rotary_emb": (rotary, kinds.LlamaRotaryEmbedding),
            "layers[0]": (block, kinds.LlamaDecoderLayer),
            "input_layernorm": (block.input_layernorm, kinds.LlamaRMSNorm),
            "self_attn": (attention, kinds.LlamaAttention),
            **{name: (part, nn.Linear) for name, part in projections.items()},
        }
        heads, groups, width = config.num_attention_heads, config.num_key_value_heads, attention.head_dim
        rows = [part.weight.shape[0] for part in projections.values()]
        return _first(
            _family(model, config, "llama", kinds.__name__),
            *(_changed(name, *part) for name, part in parts.items()),
            _unless(inside.embed_tokens.max_norm is None, "embed_tokens has a max_norm"),
            _unless(all(p.bias is None for p in projections.values()), "its projections have biases"),
            _unless(
                rotary.rope_type == "default" and rotary.attention_scaling == 1,
                f"its rotary embedding is of type {rotary.rope_type!r}, expected 'default'",
            ),
            _unless(
                rows == [heads * width, groups * width, groups * width]
                and attention.num_key_value_groups == heads // groups,
                f"its projections have {rows} rows, {heads} query heads and {groups} key heads of width {width}",
            ),
            _logits(attention, width),
            _dropout(attention.training and attention.attention_dropout),
        )
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        return f"{type(model).__name__} is not laid out like Llama ({error})"


def why_not_absolute(model: Any) -> str:
    """Why layer 0 of a model is not that of `verify.encoder_layer`; "" where it is. Raises MissingExtraError without torch or transformers."""
    kinds, nn = _modules("bert")
    try:
        config, below, block = model.config, model.embeddings, model.encoder.layer[0]
        attention = block.attention.self
        projections = {f"attention.self.{x}": getattr(attention, x) for x in ("query", "key", "value")}
        tables = {x: getattr(below, x) for x in ("word_embeddings", "position_embeddings", "token_type_embeddings")}
        variant = getattr(kinds, "BertSdpaSelfAttention", kinds.BertSelfAttention)  # of older releases
        kind = variant if type(attention) is variant else kinds.BertSelfAttention
        norm = below.LayerNorm
        parts = {
            "embeddings": (below, kinds.BertEmbeddings),
            "embeddings.LayerNorm": (norm, nn.LayerNorm),
            "embeddings.dropout": (below.dropout, nn.Dropout),
            "encoder": (model.encoder, kinds.BertEncoder),
            "encoder.layer[0]": (block, kinds.BertLayer),
            "attention": (block.attention, kinds.BertAttention),
            "attention.self": (attention, kind),
            **{name: (part, nn.Embedding) for name, part in tables.items()},
            **{name: (part, nn.Linear) for name, part in projections.items()},
        }
        positions = {getattr(x, "position_embedding_type", "absolute") for x in (config, below, attention)}
        heads, d = config.num_attention_heads, norm.weight.shape[0]
        return _first(
            _family(model, config, "bert", kinds.__name__),
            *(_changed(name, *part) for name, part in parts.items()),
            _unless(positions == {"absolute"}, f"its positions are {positions}, expected absolute ones"),
            _unless(
                not (config.is_decoder or getattr(attention, "is_decoder", False) or getattr(attention, "is_causal", False)),
                "it is a decoder (is_decoder), whose attention is causal",
            ),
            _unless(all(t.max_norm is None for t in tables.values()), "an embedding has a max_norm"),
            _unless(
                norm.normalized_shape == (d,) and norm.bias is not None and all(p.bias is not None for p in projections.values()),
                "its LayerNorm or its projections lack a bias, or LayerNorm is over another shape",
            ),
            _unless(attention.num_attention_heads == heads, f"its attention has {attention.num_attention_heads} heads, its configuration {heads}"),
            _logits(attention, attention.attention_head_size),
            _dropout(below.dropout.training and below.dropout.p),
            _dropout((attention.training or attention.dropout.training) and attention.dropout.p),
        )  # fmt: skip
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        return f"{type(model).__name__} is not laid out like BERT ({error})"


def _modules(family: str) -> tuple[Any, Any]:
    """Where transformers defines a family's classes, and torch.nn."""
    nn = required("torch", "a model passed as an object", "pretrained").nn
    required("transformers", "a model passed as an object", "pretrained")
    return import_module(f"transformers.models.{family}.modeling_{family}"), nn


def _first(*reasons: str) -> str:
    return next((reason for reason in reasons if reason), "")


def _unless(holds: bool, reason: str) -> str:
    return "" if holds else reason


def _family(model: Any, config: Any, name: str, module: str) -> str:
    known = config.model_type == name and type(model).__module__ == module
    return _unless(known, f"{type(model).__name__} is of the family {config.model_type!r}, expected {name!r} itself")


def _changed(name: str, part: Any, kind: type) -> str:
    """Why a module may compute something else than its class does, with its weight."""
    if type(part) is not kind:
        return f"{name} is a {type(part).__module__}.{type(part).__name__}, expected {kind.__name__} itself (an adapter? merge it, or take the model without it)"
    if "forward" in vars(part):
        return f"{name} has a forward of its own, set on the object"
    hooks: Iterable[Any] = (*part._forward_pre_hooks.values(), *part._forward_hooks.values())
    foreign = [hook for hook in hooks if getattr(hook, "__module__", "") != _HARMLESS]
    return f"{name} has {len(foreign)} forward hooks, which may change what it computes; remove them" if foreign else ""


def _logits(attention: Any, width: int) -> str:
    how = attention.config._attn_implementation
    return _first(
        _unless(attention.scaling == width**-0.5, f"its logits are scaled by {attention.scaling}, expected {width}^-0.5"),
        _unless(how in _EXACT, f"its attention is {how!r}, expected one of {', '.join(_EXACT)}"),
    )  # fmt: skip


def _dropout(p: float) -> str:
    return f"it is in training mode with dropout {p:g}; call model.eval()" if p else ""
