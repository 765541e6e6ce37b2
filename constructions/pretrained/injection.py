"""A compiled prefix inside the running model: as past_key_values, with a hook that reads a head's output.

A cache holds the same number N of entries in every layer and group. Where nothing is compiled the entries should be ignored: `silent_directions` gives, for each
layer and group, a direction along which the queries of sample texts are positive; keys far out in the opposite direction have next to no weight *on such
texts*. Nothing is proved about them (but for layer 0, nothing can be); what they cost is measured by `disturbance`.
The attention mask is omitted: with a cache of N entries one of the text's length is silently wrong. Without position_ids the text starts at position N.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from constructions.export.checked import required
from constructions.pretrained.layer0 import CompiledAtSite
from constructions.pretrained.recording import token_numbers
from constructions.pretrained.shape import Shape, attentions, inner, is_encoder, output_of, shape_of
from constructions.pretrained.site import SiteError
from verify.projected import EnumeratedLayer
from verify.token_trigger import HeadStatement

__all__ = ["Confirmed", "cache_of", "confirm", "disturbance", "head_outputs", "silent_directions", "token_pieces"]

_FAR = 60.0
"""Nats below zero that a silent key gets for a query at the mean."""


def token_pieces(tokenizer: Any, text: str, length: int) -> list[np.ndarray]:
    """Consecutive pieces of a text's tokens, `length` each (the last may be shorter)."""
    ids = np.asarray(tokenizer(text, verbose=False)["input_ids"], dtype=np.int64)
    return [ids[i : i + length] for i in range(0, len(ids), length)]


def silent_directions(model: Any, pieces: Iterable[np.ndarray]) -> np.ndarray:
    """(layers, groups, width): mean query after the rotation over sample texts and the heads of a group, divided by its squared length.

    Raises SiteError for no texts or what is no token, MissingExtraError without torch or transformers.
    """
    torch = required("torch", "silent_directions", "pretrained")
    texts = _texts(pieces, model)
    shape = shape_of(model)
    groups, width = shape.groups, shape.width
    sums = torch.zeros(shape.layers, groups, width, dtype=torch.float64)

    rotary = required("transformers.models.llama.modeling_llama", "silent_directions", "pretrained")

    def reader(layer: int) -> Any:
        def hook(module: Any, args: Any, kwargs: Any) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            project = module.query if is_encoder(model) else module.q_proj
            q = project(hidden).view(1, hidden.shape[1], -1, width).transpose(1, 2)
            if not is_encoder(model):
                q, _ = rotary.apply_rotary_pos_emb(q, q, *kwargs["position_embeddings"])
            sums[layer] += q[0].reshape(groups, -1, width).double().mean(1)

        return hook

    handles = [
        attention.register_forward_pre_hook(reader(i), with_kwargs=True)
        for i, attention in enumerate(attentions(model))
    ]
    try:
        with torch.inference_mode():
            for ids in texts:
                inner(model)(torch.from_numpy(ids)[None], use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    means = sums.numpy() / len(texts)
    return means / np.maximum((means * means).sum(axis=-1, keepdims=True), 1e-30)


def cache_of(
    model: Any, entries: Mapping[tuple[int, int], tuple[np.ndarray, np.ndarray]], silent: np.ndarray | None = None
) -> Any:
    """A DynamicCache with (keys, values), each (N, width), for some (layer, group), and silent keys with zero values for all others.

    silent: from `silent_directions`; None: zero keys, whose share of the attention is not small. Raises SiteError for unequal N and
    what does not fit the model, MissingExtraError without torch or transformers.
    """
    torch = required("torch", "cache_of", "pretrained")
    transformers = required("transformers", "cache_of", "pretrained")
    shape = shape_of(model)
    groups, width = shape.groups, shape.width
    n = _length(entries, shape)
    if silent is not None and (np.shape(silent) != (shape.layers, groups, width) or not np.isfinite(silent).all()):
        raise SiteError(f"silent: shape {np.shape(silent)}, expected {(shape.layers, groups, width)}, finite; pass silent_directions(model, ...)")  # fmt: skip
    cache = transformers.DynamicCache(config=model.config)
    for layer in range(shape.layers):
        keys, values = np.zeros((groups, n, width)), np.zeros((groups, n, width))
        for group in range(groups):
            if (layer, group) in entries:
                keys[group], values[group] = entries[layer, group]
            elif silent is not None:
                keys[group] = -_FAR * np.sqrt(width) * silent[layer, group]
        k, v = (torch.from_numpy(x).to(model.dtype)[None] for x in (keys, values))
        cache.update(k, v, layer)
    return cache


def _length(entries: Mapping[tuple[int, int], tuple[np.ndarray, np.ndarray]], shape: Shape) -> int:
    """N. Raises SiteError for entries that do not fit."""
    lengths = {len(k) for k, _ in entries.values()}
    if len(lengths) != 1:
        raise SiteError(f"entries: {sorted(lengths)} prefix tokens; every layer needs the same number")
    (n,) = lengths
    for (layer, group), arrays in entries.items():
        if not (0 <= layer < shape.layers and 0 <= group < shape.groups):
            raise SiteError(f"entries: layer {layer}, group {group}; the model has layers 0 to {shape.layers - 1} and groups 0 to {shape.groups - 1}")  # fmt: skip
        if n < 1 or any(np.shape(x) != (n, shape.width) for x in arrays):
            raise SiteError(f"entries: shapes {[np.shape(x) for x in arrays]} in layer {layer}, expected (N, {shape.width}): made for another model")  # fmt: skip
    return n


def _texts(pieces: Iterable[np.ndarray], model: Any, most: int | None = None) -> list[np.ndarray]:
    texts = [token_numbers("pieces", ids, model, most) for ids in pieces]
    if not texts:
        raise SiteError("pieces: no texts, expected the token numbers of one at least")
    return texts


class _Enough(Exception):
    """The layer asked for has been read; later layers need not run."""


def head_outputs(model: Any, ids: np.ndarray, cache: Any = None, layer: int = 0) -> np.ndarray:
    """(tokens, heads, width): what each head of a layer puts out, before the output projection. Later layers are not run."""
    torch = required("torch", "head_outputs", "pretrained")
    ids = token_numbers("ids", ids, model)
    found: list[Any] = []

    def read(module: Any, args: Any) -> None:
        found.append(args[0].detach().clone())
        raise _Enough

    handle = output_of(model, layer).register_forward_pre_hook(read)
    try:
        with torch.inference_mode(), suppress(_Enough):
            inner(model)(torch.from_numpy(ids)[None], past_key_values=cache, use_cache=cache is not None)
    finally:
        handle.remove()
    return found[0][0].reshape(len(ids), shape_of(model).heads, -1).numpy().astype(np.float64)


@dataclass(frozen=True)
class Confirmed:
    """On real text: tokens run, those on which f is not its usual value, the largest error of a coordinate, and the most that a sibling head moved."""

    tokens: int
    marked: int
    error: float
    siblings_moved: float

    def __repr__(self) -> str:
        return f"<Confirmed (sampled) on {self.tokens} tokens, {self.marked} marked: error <= {self.error:.3g}, siblings moved <= {self.siblings_moved:.3g}>"


def confirm(
    compiled: CompiledAtSite, model: Any, pieces: Sequence[np.ndarray], silent: np.ndarray | None = None
) -> Confirmed:
    """Run the model with the prefix on texts and compare the head's output with f, token by token.

    `siblings_moved` compares with a run without the prefix at the same positions (they only matter relative to each other).
    Raises SiteError for texts that the proof is not about, and for another model.
    """
    statement, layer = compiled.statement, compiled.site.first_layer
    p = statement.prefix
    pieces = _texts(pieces, model, p.length)
    outputs, moved = [], 0.0
    for ids in pieces:
        out, plain = head_outputs(model, ids, compiled.cache(model, silent)), head_outputs(model, ids)
        outputs.append(out[:, p.head])
        for h in layer.siblings(p.head):
            moved = max(moved, float(np.abs(out[:, h] - plain[:, h]).max()))
    usual = float(np.median(p.codes)) if len(p.codes) > 2 else float(getattr(statement, "elsewhere", 0.0))
    error, marked = 0.0, 0
    for i, lo, hi in _wanted(statement, layer, pieces):
        found = np.array([out[i] for out in outputs if i < len(out)])
        value = 0.5 * (lo + hi)
        error = max(error, float(np.abs(found - (p.offset + value[:, None] * p.direction)).max()))
        marked += int((np.abs(value - usual) > 1e-12).sum())
    return Confirmed(sum(map(len, pieces)), marked, error, moved)


def _wanted(
    statement: HeadStatement, layer: EnumeratedLayer, pieces: Sequence[np.ndarray]
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """For the i-th token of the texts that have one: bounds of phi, in the order of the texts."""
    p, phi = statement.prefix, statement.target(layer)
    behind = range(len(p.keys), len(p.keys) + max(map(len, pieces)))  # where a cache puts a text
    seen: set[int] = set()
    for view in layer.views(p.head, behind):
        for at, position in enumerate(view.positions):
            if position in seen:  # another segment
                continue
            seen.add(position)
            i = position - behind[0]
            tokens = np.array([ids[i] for ids in pieces if i < len(ids)])
            lo, hi = phi(view, tokens)
            column = min(at, lo.shape[1] - 1)
            yield i, lo[:, column], hi[:, column]


def disturbance(model: Any, pieces: Sequence[np.ndarray], tokens: int, silent: np.ndarray) -> tuple[float, float]:
    """Mean and largest KL divergence (nats) of the next-token distribution when every layer holds `tokens` silent entries: what a prefix costs where it is to be ignored.

    Raises SiteError for no texts or no tokens."""
    torch = required("torch", "disturbance", "pretrained")
    pieces = _texts(pieces, model)
    if isinstance(tokens, bool) or not isinstance(tokens, int | np.integer) or tokens < 1:
        raise SiteError(f"tokens = {tokens!r}: expected a number of prefix tokens, at least 1")
    silent = np.asarray(silent)
    if silent.ndim != 3:
        raise SiteError(
            f"silent: shape {silent.shape}, expected (layers, groups, width); pass silent_directions(model, ...)"
        )
    width = shape_of(model).width
    first = -_FAR * np.sqrt(width) * np.broadcast_to(silent[0, 0], (tokens, width))
    entries = {(0, 0): (first, np.zeros((tokens, width)))}
    found = []
    with torch.inference_mode():
        for ids in pieces:
            x = torch.from_numpy(ids)[None]
            plain = model(x, use_cache=False).logits[0].double().log_softmax(-1)
            held = model(x, past_key_values=cache_of(model, entries, silent)).logits[0].double().log_softmax(-1)
            found.append((plain.exp() * (plain - held)).sum(-1))
    kl = torch.cat(found)
    return float(kl.mean()), float(kl.max())
