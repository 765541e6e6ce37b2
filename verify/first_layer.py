"""The first attention layer of a language model with rotary positions: its queries are a finite set.

Token b enters layer 0 as x_b = norm * e_b / sqrt(mean(e_b^2) + norm_eps), whatever the text; its query q_b = W_Q x_b, key and value likewise; at
position p query and key are turned by R_p. So (vocabulary) x (positions) queries are all there are, and all can be looked at.

Rounding. u = 2^-24. A float32 run obeys `FLOAT32`; g(n) = n u / (1 - n u) bounds the relative error of n roundings in a row (Higham). With d
coordinates in x:
  - mean(e^2): d + 1 roundings of non-negative terms, + norm_eps one more and one for norm_eps itself, halved by the square root, which
    takes 4 of its own: a factor within g(d/2 + 10) of 1, common to all coordinates of x and so of W x. Two products: g(2) |x_i| each.
  - W x: d roundings in any order. So q' = (1 + a) q + c with |a| <= g(d/2 + 10), |c| <= g(d + 6) (1 + g(d/2 + 10)) |W| |x|.
Float64 is used here for q and c themselves; its errors are below 2^-53 (2d + 100) |W||x| < 1e-6 of the bound of c, which is taken 1 + 1e-6 times as large
(so that the run is within the bound of the float64 numbers, and they are within 1e-6 of the bound of the real ones).
Underflow, t = 2^-126, of operands and results: e r with r <= 1/sqrt(norm_eps) loses t (r + 1), times norm_i and its product t (r + 2) |norm_i| + t sqrt(d);
W x loses |W| of that, t |x_i| a coordinate for W itself (sum |x_i| <= d max |norm|) and 2 t a term. With the roundings on top at most
    2 t d (max |W| ((1/sqrt(norm_eps) + 2) max |norm| + sqrt(d) + 1) + max |norm| + 2).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from verify.projected import (  # fmt: skip
    MOST_WIDTH,
    SINGLE,
    TINY,
    EnumeratedLayer,
    Projected,
    View,
    data_logits,
    rotations,
    single_array,
    still,
)
from verify.statement import StatementError
from verify.stored_arrays import stored_integer, stored_number

__all__ = ["FLOAT32", "FirstLayer"]

FLOAT32 = (
    "float32 execution: IEEE-754 single precision rounding to nearest, sums and inner products in any order with or without fused multiply-add "
    "(no TF32, no bfloat16), exp within 64 and rsqrt within 4 units of round-off, cos and sin of the float32 product position x frequency within 4 units, "
    "subnormal numbers kept or flushed, softmax after subtraction of the largest logit, in one go or in blocks of at least 64 tokens"
)
"""The model of the machine under which a layer's rounding is bounded."""

_INFLATE = 1 + 1e-6
_LARGEST = 1e6  # of any coordinate: nothing then overflows
_POSITIONS, _NUMBERS = 512, 1 << 15  # of one view: with 256 keys its arrays are below 64 MiB


@dataclass(frozen=True, eq=False)
class FirstLayer(EnumeratedLayer):
    """What the attention of layer 0 depends on, as float32 arrays, copied into memory that nothing can write to.

    embedding: (vocabulary, d); norm: (d,), the weight of the RMS norm, norm_eps its epsilon; query: (heads * width, d); key, value: (groups * width, d);
    heads: number of query heads, groups: of key and value heads; head h reads group h // (heads // groups); frequencies: (width / 2,), by which position p turns
    coordinates i and i + width/2 by the angle p frequencies_i. Logits are scaled by 1/sqrt(width). Raises StatementError for arrays that fit no such layer.
    """

    embedding: Float[np.ndarray, "vocabulary d"]
    norm: Float[np.ndarray, " d"]
    norm_eps: float
    query: Float[np.ndarray, "rows d"]
    key: Float[np.ndarray, "rows d"]
    value: Float[np.ndarray, "rows d"]
    heads: int
    groups: int
    frequencies: Float[np.ndarray, " pairs"]

    def __post_init__(self) -> None:
        heads = stored_integer("heads", self.heads, least=1)
        if heads % stored_integer("groups", self.groups, least=1, most=heads):
            raise StatementError(f"heads = {heads}, groups = {self.groups}: expected groups to divide heads")
        if stored_number("norm_eps", self.norm_eps, least=1e-12) > 1:
            raise StatementError(f"norm_eps = {self.norm_eps}: expected a number between 1e-12 and 1")
        embedding, rows = np.shape(self.embedding), np.shape(self.query)
        if len(embedding) != 2 or not embedding[0] or not 1 <= embedding[1] <= 2**16:
            raise StatementError(
                f"embedding: shape {embedding}, expected (tokens, d) with a token at least, and d <= 65536"
            )
        width = rows[0] // heads if len(rows) == 2 else 0
        if width % 2 or not 2 <= width <= MOST_WIDTH:
            raise StatementError(
                f"query: shape {rows}, {heads} heads; expected an even number of rows a head, at most {MOST_WIDTH}"
            )
        d = embedding[1]
        shapes = {
            "embedding": embedding,
            "norm": (d,),
            "query": (heads * width, d),
            "key": (self.groups * width, d),
            "value": (self.groups * width, d),
            "frequencies": (width // 2,),
        }
        for name, shape in shapes.items():
            object.__setattr__(self, name, single_array(name, getattr(self, name), shape, _LARGEST))

    @property
    def vocabulary(self) -> int:
        return len(self.embedding)

    @property
    def width(self) -> int:
        """Coordinates of a query, a key, a value."""
        return len(self.query) // self.heads

    def group(self, head: int) -> int:
        """The key and value head that a query head reads."""
        return head // (self.heads // self.groups)

    def siblings(self, head: int) -> tuple[int, ...]:
        """The other query heads that read the same keys, and so see the same prefix."""
        per = self.heads // self.groups
        first = per * self.group(head)
        return tuple(h for h in range(first, first + per) if h != head)

    @cached_property
    def sha256(self) -> str:
        """Of shapes, configuration and every stored number: the layer that a statement is about."""
        digest = hashlib.sha256(f"rotary {self.heads} {self.groups} {float(self.norm_eps).hex()}".encode())
        for name in ("embedding", "norm", "query", "key", "value", "frequencies"):
            array = getattr(self, name)
            digest.update(f"{name} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array, dtype="<f4").data)
        return digest.hexdigest()

    @cached_property
    def _normalised(self) -> Float[np.ndarray, "vocabulary d"]:
        e = self.embedding.astype(np.float64)
        return e / np.sqrt((e * e).mean(axis=1, keepdims=True) + self.norm_eps) * self.norm

    @cached_property
    def _projected(self) -> dict[tuple[str, int], Projected]:
        return {}

    def _project(self, name: str, index: int) -> Projected:
        """The rows of one head or group; kept, since constructing and proving ask for the same."""
        if (name, index) not in self._projected:
            rows = getattr(self, name)[self.width * index : self.width * (index + 1)]
            self._projected[name, index] = self._product(rows)
        return self._projected[name, index]

    def _product(self, rows: np.ndarray) -> Projected:
        x, w = self._normalised, rows.astype(np.float64)
        d = x.shape[1]
        common = _growth(0.5 * d + 10) * _INFLATE
        steepest, largest = (float(np.abs(a).max()) for a in (w, self.norm))
        lost = 2 * TINY * d * (steepest * ((self.norm_eps**-0.5 + 2) * largest + math.sqrt(d) + 1) + largest + 2)
        free = _growth(d + 6) * (1 + common) * (np.abs(x) @ np.abs(w).T) * _INFLATE + lost
        nothing, zeros = np.zeros(len(x)), np.zeros(len(w))
        return Projected(x @ w.T, free, nothing + common, nothing, zeros, zeros)

    def queries(self, head: int) -> Projected:
        """Queries of a head, before the rotation, unscaled."""
        return self._project("query", head)

    def keys(self, group: int) -> Projected:
        """Keys of a group, before the rotation."""
        return self._project("key", group)

    def values(self, group: int) -> Projected:
        """Values of a group."""
        return self._project("value", group)

    @property
    def assumption(self) -> str:
        """The machine's model under which the rounding is bounded."""
        return FLOAT32

    def fit(self, frequencies: Float[np.ndarray, " pairs"], positions: range) -> None:
        """Raises StatementError where the layer rotates by other frequencies. It has all positions."""
        if not np.array_equal(frequencies, self.frequencies):
            raise StatementError("frequencies: the layer rotates by others; a statement is about the layer's own")

    def views(self, head: int, positions: range, deadline: float = math.inf) -> Iterator[View]:
        """The queries of all tokens, with some hundred positions each."""
        count = min(_POSITIONS, _NUMBERS // self.width)
        for start in range(0, len(positions), count):
            some = positions[start : start + count]
            yield View(self.queries(head), some, *rotations(self.frequencies, some, deadline))

    def largest_value(self, group: int, positions: range, deadline: float = math.inf) -> float:
        """Above every coordinate of every value."""
        still(deadline)
        return float(self.values(group).largest.max() * _INFLATE)

    def data_logits(
        self, group: int, positions: range, deadline: float = math.inf
    ) -> Callable[[View], Float[np.ndarray, " tokens"]]:
        """See `projected.data_logits`; the same whatever the positions, so the views of a head share them."""
        keys = self.keys(group)
        known: list[tuple[Projected, np.ndarray]] = []

        def largest(view: View) -> Float[np.ndarray, " tokens"]:
            if not known or known[-1][0] is not view.queries:
                known[:] = [(view.queries, data_logits(view.queries, keys, deadline))]
            return known[-1][1]

        return largest


def _growth(n: float) -> float:
    """g(n): relative error of n roundings in float32."""
    return n * SINGLE / (1 - n * SINGLE)
