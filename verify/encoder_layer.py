"""The first attention layer of an encoder with absolute positions (BERT): its queries, too, are a finite set.

Token b at position p in segment s enters layer 0 as y = norm * (z - mean z) / sigma + norm_bias, z = word_b + segment_s + position_p,
sigma^2 = var z + norm_eps, whatever the text; q = W y + bias. So (vocabulary) x (positions) x (segments) queries are all there are. With A = W diag(norm),
    W y + bias = (A word_b + A offset - (mean word_b + mean offset) A 1) / sigma + W norm_bias + bias,    offset = segment_s + position_p,
so that each costs `width` operations once A word and A offset are known, and one inner product for sigma.

Rounding. u = 2^-24, g(n) = n u / (1 - n u) (Higham), d coordinates, S_i = |word_i| + |segment_i| + |position_i| >= |z_i|, M = mean S, Q = mean S^2. Of a float32 run:
  - z' - z: two roundings, g(2) S_i; the mean, in any order: within g(d + 4) M;
  - variance: in two passes, by Welford's or Chan's recurrences or as mean z^2 - (mean z)^2 it misses that of z' by at most g(4d + 32) mean z'^2; and that of
    z by 2 sqrt(mean z^2 mean (z' - z)^2) + ... <= g(5) Q more. With norm_eps, sigma'^2 is within r = g(4d + 50) max(Q / sigma^2, 1) of sigma^2, relatively. For
    r <= 1/4, (1 - r)^(-1/2) - 1 <= 0.62 r, so 1/sigma', rounded by 4 units, is within eta = 0.65 r + 6u;
  - y: (z' - mean') / sigma' norm + norm_bias with its products and sums in any order is y but for a factor within eta of 1 on norm (z - mean z) / sigma, a shift
    by at most (1 + eta) g(d + 4) M / sigma along norm, and (1 + eta) g(9) |norm_i| (S_i + M) / sigma + g(3) |norm_bias_i| in each coordinate;
  - W y' + bias, d + 1 roundings in any order. So q' is q but for that factor on q - (W norm_bias + bias), that shift along A 1, and in each coordinate
    (1 + eta) (g(16) |A| (S + M) + g(d + 2) |A| |z - mean z|) / sigma + g(d + 6) (|W| |norm_bias| + |bias|),
    where g(9) (1 + g(d + 2)) + g(d + 2) g(d + 4) <= g(16) for d <= 8192.
|A| S, |A| |z - mean z| and Q are bounded by sums of a token's and an offset's part (Minkowski: sqrt Q <= rms |word| + rms (|segment| + |position|)).
Float64 is used for q and sigma; its errors have the same form with 2^-53 for u and less than d + 100 for every constant, below 1e-6 of the above: the run
is within the bound of the float64 numbers, and they are within 1e-6 of the bound of the real ones.
Underflow, t = 2^-126, of operands and results: z - mean loses 14 t, divided by sigma and times norm_i at most 16 t max |norm| / sqrt(norm_eps), and W of that less
than 16 t 1e3 1e3 8192 / sqrt(1e-13) < 5e-21 for the sizes that are admitted; all else is below 1e-25.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.cluster.vq import kmeans2

from verify.projected import MOST_WIDTH, SINGLE, EnumeratedLayer, Projected, View, single_array, still
from verify.statement import StatementError
from verify.stored_arrays import stored_integer, stored_number

__all__ = ["ENCODER_FLOAT32", "EncoderLayer"]

ENCODER_FLOAT32 = (
    "float32 execution: IEEE-754 single precision rounding to nearest, sums and inner products in any order with or without fused multiply-add "
    "(no TF32, no bfloat16), the variance of LayerNorm within (4 d + 32) units of round-off of the mean square, exp within 64 and rsqrt within 4 units, "
    "subnormal numbers kept or flushed, softmax after subtraction of the largest logit, in one go or in blocks of at least 64 tokens"
)
"""The model of the machine under which the layer's rounding is bounded."""

_INFLATE = 1 + 1e-6
_LARGEST = 1e3  # of any number: nothing then overflows
_AT_ONCE = 64  # offsets whose inner products with all words are in memory

_BALLS, _SAMPLE = 64, 20_000
_PROJECTIONS = ("query", "key", "value")


@dataclass(frozen=True, eq=False)
class EncoderLayer(EnumeratedLayer):
    """What the attention of layer 0 depends on, as float32 arrays, copied into memory that nothing can write to.

    word: (vocabulary, d), position: (positions, d), segment: (segments, d) embeddings; norm, norm_bias: (d,), of the LayerNorm, norm_eps its epsilon; query, key,
    value: (heads * width, d) with query_bias, key_bias, value_bias: (heads * width,). Every head has keys of its own, and scales logits by 1/sqrt(width).
    Raises StatementError for arrays that fit no such layer.
    """

    word: Float[np.ndarray, "vocabulary d"]
    position: Float[np.ndarray, "positions d"]
    segment: Float[np.ndarray, "segments d"]
    norm: Float[np.ndarray, " d"]
    norm_bias: Float[np.ndarray, " d"]
    norm_eps: float
    query: Float[np.ndarray, "rows d"]
    query_bias: Float[np.ndarray, " rows"]
    key: Float[np.ndarray, "rows d"]
    key_bias: Float[np.ndarray, " rows"]
    value: Float[np.ndarray, "rows d"]
    value_bias: Float[np.ndarray, " rows"]
    heads: int
    frequencies: Float[np.ndarray, " pairs"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        heads = stored_integer("heads", self.heads, least=1)
        if stored_number("norm_eps", self.norm_eps, least=1e-13) > 1:
            raise StatementError(f"norm_eps = {self.norm_eps}: expected a number between 1e-13 and 1")
        shapes: dict[str, tuple[int, ...]] = {n: np.shape(getattr(self, n)) for n in ("word", "position", "segment", "query")}  # fmt: skip
        if any(len(s) != 2 for s in shapes.values()) or not 1 <= shapes["word"][1] <= 2**13:
            raise StatementError(f"word: shape {shapes['word']}, query: {shapes['query']}; expected (tokens, d) and (rows, d), d from 1 to 8192")  # fmt: skip
        d, rows = shapes["word"][1], shapes["query"][0]
        if not rows or rows % (2 * heads) or rows // heads > MOST_WIDTH:
            raise StatementError(f"query: {rows} rows, {heads} heads; expected an even number of rows a head, at most {MOST_WIDTH}")  # fmt: skip
        shapes |= {n: (shapes[n][0], d) for n in ("word", "position", "segment")} | {"norm": (d,), "norm_bias": (d,)}
        for name in _PROJECTIONS:
            shapes |= {name: (rows, d), f"{name}_bias": (rows,)}
        for name, shape in shapes.items():
            object.__setattr__(self, name, single_array(name, getattr(self, name), shape, _LARGEST))
        object.__setattr__(self, "frequencies", np.zeros(rows // heads // 2, dtype=np.float32))

    @property
    def vocabulary(self) -> int:
        return len(self.word)

    @property
    def width(self) -> int:
        """Coordinates of a query, a key, a value."""
        return len(self.query) // self.heads

    @property
    def assumption(self) -> str:
        """The machine's model under which the rounding is bounded."""
        return ENCODER_FLOAT32

    def group(self, head: int) -> int:
        """Every head reads its own keys."""
        return head

    def siblings(self, head: int) -> tuple[int, ...]:
        """No other head reads the same keys."""
        return ()

    def fit(self, frequencies: Float[np.ndarray, " pairs"], positions: range) -> None:
        """Raises StatementError for a rotary embedding, and for positions that the layer does not have."""
        if np.any(frequencies):
            raise StatementError("frequencies: the layer has absolute positions, nothing is rotated; expected zeros")
        if positions[-1] >= len(self.position):
            raise StatementError(f"last = {positions[-1]}: the layer has positions 0 to {len(self.position) - 1}")

    @cached_property
    def sha256(self) -> str:
        """Of shapes, configuration and every stored number: the layer that a statement is about."""
        digest = hashlib.sha256(f"encoder {self.heads} {float(self.norm_eps).hex()}".encode())
        names = ["word", "position", "segment", "norm", "norm_bias"]
        names += [n + end for n in _PROJECTIONS for end in ("", "_bias")]
        for name in names:
            array = getattr(self, name)
            digest.update(f"{name} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array, dtype="<f4").data)
        return digest.hexdigest()

    @cached_property
    def _words(self) -> tuple[np.ndarray, np.ndarray]:
        """Words less their mean, in float64, and their absolute values' root mean square and mean: (vocabulary, 3) with the mean of the words."""
        w = self.word.astype(np.float64)
        mean = w.mean(axis=1)
        return w - mean[:, None], np.stack([mean, np.abs(w).mean(axis=1), np.sqrt((w * w).mean(axis=1))], axis=1)

    @cached_property
    def _maps(self) -> dict[tuple[str, int], tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        return {}

    def _map(self, name: str, head: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """A word, |A| |word|, |A| |word - its mean| for all words, and A; kept, since constructing and proving ask for the same."""
        if (name, head) not in self._maps:
            rows = slice(self.width * head, self.width * (head + 1))
            a = getattr(self, name)[rows].astype(np.float64) * self.norm.astype(np.float64)
            w, centred = self.word.astype(np.float64), self._words[0]
            self._maps[name, head] = (w @ a.T, *(np.abs(x) @ np.abs(a).T for x in (w, centred)), a)
        return self._maps[name, head]

    def projected(
        self, name: str, head: int, positions: range, deadline: float = math.inf
    ) -> Iterator[tuple[int, int, Projected]]:
        """(position, segment, queries or keys or values of a head of all tokens there). Raises OutOfSeconds."""
        d, rows = self.word.shape[1], slice(self.width * head, self.width * (head + 1))
        mapped, sizes, apart_sizes, a = self._map(name, head)
        centred, words = self._words
        spread = (centred * centred).mean(axis=1)
        ones, absolute = a.sum(axis=1), np.abs(a).sum(axis=1)
        w, b = (getattr(self, n)[rows].astype(np.float64) for n in (name, f"{name}_bias"))
        beta = self.norm_bias.astype(np.float64)
        constant, largest_constant = w @ beta + b, np.abs(w) @ np.abs(beta) + np.abs(b)
        g = _growth
        everywhere = [(p, s) for p in positions for s in range(len(self.segment))]
        for start in range(0, len(everywhere), _AT_ONCE):
            places = everywhere[start : start + _AT_ONCE]
            offsets = np.array([self.segment[s].astype(np.float64) + self.position[p] for p, s in places])
            above = np.array([np.abs(self.segment[s].astype(np.float64)) + np.abs(self.position[p]) for p, s in places])
            means = offsets.mean(axis=1)
            apart = offsets - means[:, None]
            crosses = centred @ apart.T
            for i, (p, s) in enumerate(places):
                still(deadline)
                variance = spread + 2 * crosses[:, i] / d + float((apart[i] ** 2).mean())
                sigma2 = np.maximum(variance, 0.0) + self.norm_eps
                shares = (words[:, 2] + math.sqrt(float((above[i] ** 2).mean()))) ** 2 / sigma2
                r = g(4 * d + 50) * np.maximum(shares, 1.0) * _INFLATE
                eta = 0.65 * r + 6 * SINGLE
                once = (1 + eta) / np.sqrt(sigma2)
                mean = words[:, 1] + above[i].mean()
                size = g(16) * (sizes + np.abs(a) @ above[i] + mean[:, None] * absolute)
                size += g(d + 2) * (apart_sizes + np.abs(a) @ np.abs(apart[i]))
                free = (once[:, None] * size + g(d + 6) * largest_constant) * _INFLATE + 1e-20
                exact = (mapped + a @ offsets[i] - (words[:, 0] + means[i])[:, None] * ones) / np.sqrt(sigma2)[:, None]
                shift = g(d + 4) * mean * once * _INFLATE
                free = np.where((r <= 0.25)[:, None], free, np.inf)
                yield p, s, Projected(exact + constant, free, eta, shift, constant, ones)

    def views(self, head: int, positions: range, deadline: float = math.inf) -> Iterator[View]:
        """One view for each position and segment."""
        still_there = np.ones((1, self.width // 2))
        for p, _, queries in self.projected("query", head, positions, deadline):
            yield View(queries, range(p, p + 1), still_there, 0.0 * still_there)

    @cached_property
    def _found(self) -> dict[tuple[str, int, range], Any]:
        return {}

    def largest_value(self, group: int, positions: range, deadline: float = math.inf) -> float:
        """Above every coordinate of every value."""
        if ("value", group, positions) not in self._found:
            each = (float(v.largest.max()) for _, _, v in self.projected("value", group, positions, deadline))
            self._found["value", group, positions] = max(each) * _INFLATE
        return self._found["value", group, positions]

    def data_logits(
        self, group: int, positions: range, deadline: float = math.inf
    ) -> Callable[[View], Float[np.ndarray, " tokens"]]:
        """Of each ball of keys at most <q, centre> + |q| radius (Cauchy-Schwarz), with what the inner product and the scale round."""
        if ("key", group, positions) not in self._found:
            self._found["key", group, positions] = self._balls(group, positions, deadline)
        centres, radii, longest = self._found["key", group, positions]
        scale = 1 / math.sqrt(self.width)

        def largest(view: View) -> Float[np.ndarray, " tokens"]:
            q, norms = view.queries, view.queries.norms()
            near = q.exact @ centres.T + q.error @ np.abs(centres).T + norms[:, None] * radii
            rounded = 2 * (self.width + 64) * SINGLE * norms * longest
            return (near.max(axis=1) + rounded + 1e-12 * norms * longest) * scale + 1e-20

        return largest

    def _balls(self, head: int, positions: range, deadline: float) -> tuple[np.ndarray, np.ndarray, float]:
        """Centres (balls, width) and radii (balls,) of balls that hold the executed keys of all tokens and positions, and above the longest of them."""
        few = sorted({positions[i * (len(positions) - 1) // 8] for i in range(9)})
        sample = [x.exact for p in few for _, _, x in self.projected("key", head, range(p, p + 1), deadline)]
        points = np.concatenate(sample)
        points = points[:: max(1, len(points) // _SAMPLE)]
        with warnings.catch_warnings():  # of an empty cluster, whose centre stays where it was
            warnings.simplefilter("ignore")
            centres, _ = kmeans2(points, points[:: max(1, len(points) // _BALLS)], minit="matrix", iter=20)
        centres = centres[np.isfinite(centres).all(axis=1)]
        squares, radii, longest = (centres**2).sum(axis=1), np.zeros(len(centres)), 0.0
        for _, _, keys in self.projected("key", head, positions, deadline):
            nearest = (squares - 2 * keys.exact @ centres.T).argmin(axis=1)  # any choice would do
            apart = np.linalg.norm(np.abs(keys.exact - centres[nearest]) + keys.error, axis=1) * _INFLATE
            np.maximum.at(radii, nearest, apart)
            longest = max(longest, float(keys.norms().max()))
        return centres, radii, longest


def _growth(n: int) -> float:
    """g(n): relative error of n roundings in float32."""
    return n * SINGLE / (1 - n * SINGLE)
