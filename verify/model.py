"""What a certificate speaks about: attention heads, layers, a transformer, its prefix, and the one reference forward pass.

A token of the residual stream is h in R^d. A head with prefix keys K (tokens, d_k) and values V (tokens, d_v) computes

    q = W_Q h,   s_j = <q, K_j>  (prefix)  and  s_t = <q, W_K h_t>  (data tokens, if it attends to them),
    head(h) = W_O ( sum_j w_j V_j + sum_t w_t W_V h_t ),   w = softmax(s),

without a 1/sqrt(d_k): a fixed scale belongs to W_Q. A layer adds its heads, and the stream itself if it is residual. There is
no normalisation and no feed-forward block: everything the model does, its attention does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

__all__ = ["MEMORY_BUDGET", "Head", "Layer", "ModelError", "Prefix", "Transformer", "forward"]

MEMORY_BUDGET = 2**20
"""Bytes that one block of attention weights may take: small enough to stay in a processor's cache."""


class ModelError(ValueError):
    """Arrays that do not fit together or are not finite; the message names the array and the two shapes."""


def _matrix(name: str, x: np.ndarray, rows: int | None, columns: int | None) -> np.ndarray:
    array = np.asarray(x, dtype=np.float64)
    want = f"({'any' if rows is None else rows}, {'any' if columns is None else columns})"
    if (
        array.ndim != 2
        or (rows is not None and array.shape[0] != rows)
        or (columns is not None and array.shape[1] != columns)
    ):
        raise ModelError(f"{name}: shape {array.shape}, expected {want}")
    if not np.isfinite(array).all():
        raise ModelError(f"{name}: has entries that are not finite")
    array = array.copy()
    array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False)
class Head:
    """One attention head. query: (d_k, d); output: (d_out, d_v); key: (d_k, d) and value: (d_v, d) act on data tokens and are
    absent from a head that attends to its prefix alone (cross-attention to the prefix). normalised: without it the head sums
    e^{s_j} V_j and does not divide: the core head of Petrov, Torr and Bibi, which attends to its prefix alone."""

    query: Float[np.ndarray, "d_k d"]
    output: Float[np.ndarray, "d_out d_v"]
    key: Float[np.ndarray, "d_k d"] | None = None
    value: Float[np.ndarray, "d_v d"] | None = None
    normalised: bool = True

    def __post_init__(self) -> None:
        q = _matrix("head.query", self.query, None, None)
        o = _matrix("head.output", self.output, None, None)
        object.__setattr__(self, "query", q)
        object.__setattr__(self, "output", o)
        if 0 in q.shape or 0 in o.shape:
            raise ModelError(f"head: query {q.shape} and output {o.shape} must not be empty")
        if (self.key is None) != (self.value is None):
            raise ModelError("head: key and value matrices come together, or not at all")
        if self.key is not None and not self.normalised:
            raise ModelError("head: one without normalisation attends to its prefix alone")
        if self.key is not None and self.value is not None:
            object.__setattr__(self, "key", _matrix("head.key", self.key, q.shape[0], q.shape[1]))
            object.__setattr__(self, "value", _matrix("head.value", self.value, o.shape[1], q.shape[1]))

    @property
    def attends_to_data(self) -> bool:
        """Whether data tokens take part in the softmax."""
        return self.key is not None


@dataclass(frozen=True, eq=False)
class Layer:
    """Heads whose outputs are added up; with the stream itself where `residual`."""

    heads: tuple[Head, ...]
    residual: bool = False


@dataclass(frozen=True, eq=False)
class Prefix:
    """Keys and values of the prefix tokens, per layer and head: keys[l][h]: (tokens, d_k), values[l][h]: (tokens, d_v)."""

    keys: tuple[tuple[Float[np.ndarray, "tokens d_k"], ...], ...]
    values: tuple[tuple[Float[np.ndarray, "tokens d_v"], ...], ...]

    def __post_init__(self) -> None:
        if len(self.keys) != len(self.values):
            raise ModelError(f"prefix: {len(self.keys)} layers of keys, {len(self.values)} of values")
        keys, values = [], []
        for l, (ks, vs) in enumerate(zip(self.keys, self.values, strict=True)):
            if len(ks) != len(vs):
                raise ModelError(f"prefix: layer {l} has keys for {len(ks)} heads and values for {len(vs)}")
            row = [
                (_matrix(f"prefix.keys[{l}][{h}]", k, None, None), v)
                for h, (k, v) in enumerate(zip(ks, vs, strict=True))
            ]
            keys.append(tuple(k for k, _ in row))
            values.append(tuple(_matrix(f"prefix.values[{l}][{h}]", v, len(k), None) for h, (k, v) in enumerate(row)))
            if any(len(k) == 0 for k in keys[-1]):
                raise ModelError(f"prefix: layer {l} has a head without tokens")
        object.__setattr__(self, "keys", tuple(keys))
        object.__setattr__(self, "values", tuple(values))

    @property
    def length(self) -> int:
        """Prefix tokens in total, over layers and heads."""
        return sum(len(k) for layer in self.keys for k in layer)


@dataclass(frozen=True, eq=False)
class Transformer:
    """Frozen weights. embedding: (d, n) and offset: (d,) put a point x into the stream as h = E x + e; readout: (k, d_out).

    positions: (T, d) is the positional encoding: row t is added to the stream of token t, and the model then reads sequences of at
    most T tokens. Without it, every token is treated alike and any length will do.
    """

    embedding: Float[np.ndarray, "d n"]
    offset: Float[np.ndarray, " d"]
    layers: tuple[Layer, ...]
    readout: Float[np.ndarray, "k d_out"]
    positions: Float[np.ndarray, "T d"] | None = None

    def __post_init__(self) -> None:
        e = _matrix("model.embedding", self.embedding, None, None)
        object.__setattr__(self, "embedding", e)
        offset = _matrix("model.offset", np.asarray(self.offset, dtype=np.float64)[None], 1, e.shape[0])[0]
        object.__setattr__(self, "offset", offset)
        if not self.layers:
            raise ModelError("model: no layers")
        width = e.shape[0]
        for l, layer in enumerate(self.layers):
            if not layer.heads:
                raise ModelError(f"model: layer {l} has no heads")
            for h, head in enumerate(layer.heads):
                if head.query.shape[1] != width:
                    raise ModelError(
                        f"model: layer {l} head {h} reads width {head.query.shape[1]}, the stream has {width}"
                    )
            widths = {head.output.shape[0] for head in layer.heads} | ({width} if layer.residual else set())
            if len(widths) != 1:
                raise ModelError(f"model: layer {l} adds outputs of different widths {sorted(widths)}")
            width = widths.pop()
        object.__setattr__(self, "readout", _matrix("model.readout", self.readout, None, width))
        if self.positions is not None:
            positions = _matrix("model.positions", self.positions, None, e.shape[0])
            if len(positions) == 0:
                raise ModelError("model.positions: no rows; give one per token of the longest sequence, or None")
            object.__setattr__(self, "positions", positions)

    @property
    def inputs(self) -> int:
        """Dimension n of a point."""
        return self.embedding.shape[1]

    @property
    def outputs(self) -> int:
        """Number k of output components."""
        return self.readout.shape[0]

    def admits(self, length: int) -> None:
        """Raise ModelError if sequences of `length` tokens are longer than the positional encoding."""
        if self.positions is not None and length > len(self.positions):
            raise ModelError(
                f"x: sequences of {length} tokens, the model has positions for {len(self.positions)}; shorten the sequence"
            )

    def accepts(self, prefix: Prefix) -> None:
        """Raise ModelError unless the prefix fits the layers and heads."""
        if len(prefix.keys) != len(self.layers):
            raise ModelError(f"prefix: {len(prefix.keys)} layers, the model has {len(self.layers)}")
        for l, layer in enumerate(self.layers):
            if len(prefix.keys[l]) != len(layer.heads):
                raise ModelError(f"prefix: layer {l} has {len(prefix.keys[l])} heads, the model has {len(layer.heads)}")
            for h, head in enumerate(layer.heads):
                _matrix(f"prefix.keys[{l}][{h}]", prefix.keys[l][h], None, head.query.shape[0])
                _matrix(f"prefix.values[{l}][{h}]", prefix.values[l][h], None, head.output.shape[1])


def forward(model: Transformer, prefix: Prefix, x: Float[np.ndarray, "*batch n"]) -> Float[np.ndarray, "*batch k"]:
    """The reference forward pass in float64: stable softmax, in blocks of at most `MEMORY_BUDGET` bytes of weights.

    x: (batch, n) points, each a sequence of one token, or (batch, T, n) sequences; returns (batch, k) or (batch, T, k).
    The stream starts as (E x + e) + positions[t]. Raises ModelError if the shapes do not fit, or a sequence is longer than the
    positional encoding.
    """
    model.accepts(prefix)
    points = np.asarray(x, dtype=np.float64)
    if points.ndim not in (2, 3) or points.shape[-1] != model.inputs:
        raise ModelError(f"x: shape {points.shape}, expected (batch, {model.inputs}) or (batch, T, {model.inputs})")
    stream = (points if points.ndim == 3 else points[:, None, :]) @ model.embedding.T + model.offset
    if model.positions is not None:
        model.admits(stream.shape[1])
        stream = stream + model.positions[: stream.shape[1]]
    for l, layer in enumerate(model.layers):
        added = sum(_attend(head, prefix.keys[l][h], prefix.values[l][h], stream) for h, head in enumerate(layer.heads))
        stream = stream + added if layer.residual else np.asarray(added)
    out = stream @ model.readout.T
    return out if points.ndim == 3 else out[:, 0, :]


def _attend(head: Head, keys: np.ndarray, values: np.ndarray, stream: np.ndarray) -> np.ndarray:
    batch, length, _ = stream.shape
    queries = stream @ head.query.T
    mixed = np.empty((batch, length, values.shape[1]))
    if not head.attends_to_data:
        flat, out = queries.reshape(batch * length, -1), mixed.reshape(batch * length, -1)
        rows = max(1, MEMORY_BUDGET // (8 * len(keys)))
        for start in range(0, len(flat), rows):
            logits = flat[start : start + rows] @ keys.T
            out[start : start + rows] = (_softmax_mean if head.normalised else _weighted_sum)(logits, values)
    else:
        assert head.key is not None
        assert head.value is not None
        rows = max(1, MEMORY_BUDGET // (8 * (len(keys) + length)))
        for b in range(batch):
            data_keys, data_values = stream[b] @ head.key.T, stream[b] @ head.value.T
            every_key, every_value = np.concatenate([keys, data_keys]), np.concatenate([values, data_values])
            for start in range(0, length, rows):
                mixed[b, start : start + rows] = _softmax_mean(
                    queries[b, start : start + rows] @ every_key.T, every_value
                )
    return mixed @ head.output.T


def _softmax_mean(logits: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Softmax-weighted mean of the values; overwrites the logits.

    Weights are kept at e^-700 or above: an exponential that underflows is slow, and so small a weight is within the bounds of
    rounding for what should have been less still.
    """
    logits -= logits.max(axis=1, keepdims=True)
    np.maximum(logits, -700.0, out=logits)
    np.exp(logits, out=logits)
    return (logits @ values) / logits.sum(axis=1, keepdims=True)


def _weighted_sum(logits: np.ndarray, values: np.ndarray) -> np.ndarray:
    """sum_j e^{s_j} V_j; overwrites the logits. Weights are kept at e^-700 or above, as in `_softmax_mean`."""
    np.maximum(logits, -700.0, out=logits)
    np.exp(logits, out=logits)
    return logits @ values
