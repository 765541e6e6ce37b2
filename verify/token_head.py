"""One head of the first layer with a prefix, over every query it can meet: tokens of the vocabulary at positions, in any text.

The head's output is g = sum_j w_j v_j + (share of the data tokens), with w the softmax over prefix and data. The values are v_j = offset + code_j direction
(give or take `residue`), so g is known from the scalar G = sum_j w_j code_j over the prefix alone, and the share S of the data.

For a query (token b, position p) let s_j be the real logit of prefix key k_j, and s_j + delta_j what a float32 run has instead. With e, the error of
the computed query (`verify.first_layer`), u = 2^-24, and |k|^ the vector of |k_i| + |k_(i + width/2)| (its half swapped onto itself):
  - the error of q' before the rotation is rotated exactly: it moves s_j - s_l by what it makes of <q, R_p^T (k_j - k_l)> / 8 (8 stands for sqrt(width);
    `Projected.missed`), exact multiples of q included;
  - tables of cos and sin off by 4u, two products and a sum: 7u (|q_i| + |q_(i + width/2)|) a coordinate; inner product of `width` terms and the
    scale, (width + 8) roundings of |q'_i| |k_i|, |q'_i| <= |q_i| + |q_(i + width/2)|. Together (width + 16) u <|q| + e, |k|^> / 8 for each logit.
Neighbouring keys are compared and differences added up, so that |delta_j - delta_l| <= |A_j - A_l| + B_j + B_l =: delta_jl.

Let o be the prefix key with the largest real logit, a_j = exp(s_j - s_o), G' the prefix mean of the executed logits. Then, as
w'_j ~ a_j e^(delta_j - delta_o) and e^d - 1 <= d e^d,
    |G' - phi| <= |sum a_j code_j / sum a_j - phi| + sum_j a_j e^(delta_jo) delta_jo |code_j - G| / sum_j a_j (1 - delta_jo)+.
Data: a data token's executed logit is at most D_b = max over the vocabulary of <|q pair|, |k pair|> (1 + (width + 32) u) / 8 (Cauchy-Schwarz in each rotated
pair, whatever the two positions), so S <= T exp(D_b - s_o + delta_o) for a text of T tokens.
Softmax and weighted sum, n = T + N terms, numerator and denominator each: sums, products and rescalings of blocks (one a block) are at most 2n + 32 roundings;
exp misses by 64u, once for the token and once for each of at most n/64 blocks, and by u |s - max| in total (w |s - max| <= 1/e for each token). Together at
most (7n + 200) u max|v| (1 + 1e-3) on the output.
What underflows in logits and sums is below 1e-18 of a logit and below 1e-25 of the largest value: far inside the last two lines.
Float64, in which all this is evaluated, adds relative errors below 1e-12 to terms that the factor 1 + 1e-6 has enlarged, and 1e-12 where nothing else covers it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from verify.ball import _exp_point
from verify.first_layer import FirstLayer
from verify.projected import MOST_WIDTH, SINGLE, EnumeratedLayer, View, still, turned_back
from verify.statement import StatementError
from verify.stored_arrays import stored_array, stored_integer

__all__ = ["Examined", "Target", "TokenHead", "examine", "spill_of_sibling"]

_BLOCK = 1 << 21  # float64 numbers in one array of logits
_ROWS = 4096
_INFLATE = 1 + 1e-6
_SINGLE = ("keys", "values", "frequencies")
_TOO_LARGE = 1e7  # a logit beyond this carries no information in float32 anyway

Target = Callable[[View, np.ndarray], tuple[Float[np.ndarray, "tokens ..."], Float[np.ndarray, "tokens ..."]]]
"""(view, numbers of tokens) -> bounds of phi, (tokens, positions of the view) or (tokens, 1); NaN where phi is undefined."""


@dataclass(frozen=True, eq=False)
class TokenHead:
    """A prefix for one head of the first layer, as it is cached: keys after the rotation. Arrays are copied as float64, read-only.

    keys: (N, width), values: (N, width), numbers of float32; codes: (N,), offset, direction: (width,): values are offset + code direction up to rounding;
    frequencies: (width / 2,), float32, of the rotary embedding; positions first..last of queries; length: tokens of a text, at most.
    Raises StatementError for arrays that fit no such prefix.
    """

    head: int
    keys: Float[np.ndarray, "N width"]
    values: Float[np.ndarray, "N width"]
    codes: Float[np.ndarray, " N"]
    offset: Float[np.ndarray, " width"]
    direction: Float[np.ndarray, " width"]
    frequencies: Float[np.ndarray, " pairs"]
    first: int
    last: int
    length: int

    def __post_init__(self) -> None:
        stored_integer("head", self.head, least=0)
        n, width = stored_array("keys", self.keys, (None, None)).shape
        if not 1 <= n <= 256 or width % 2 or not 2 <= width <= MOST_WIDTH:
            raise StatementError(
                f"keys: shape {n, width}, expected 1 to 256 tokens and an even width, at most {MOST_WIDTH}"
            )
        shapes = {"keys": (n, width), "values": (n, width), "codes": (n,), "offset": (width,), "direction": (width,), "frequencies": (width // 2,)}  # fmt: skip
        for name, shape in shapes.items():
            array = stored_array(name, getattr(self, name), shape)
            if not (np.abs(array) <= 1e12).all():
                raise StatementError(f"{name}: has an entry of size {np.abs(array).max():.3g}, at most 1e12")
            if name in _SINGLE and not (array.astype(np.float32) == array).all():
                raise StatementError(f"{name}: not numbers of float32; round them first, the run will")
            object.__setattr__(self, name, array)
        last = stored_integer("last", self.last, least=0, most=2**16 - 1)
        stored_integer("first", self.first, least=0, most=last)
        stored_integer("length", self.length, least=1, most=2**16)

    @property
    def positions(self) -> range:
        return range(self.first, self.last + 1)

    @property
    def residue(self) -> float:
        """Above the largest coordinate of values - (offset + code direction)."""
        product = self.codes[:, None] * self.direction
        size = np.abs(self.values) + np.abs(self.offset) + np.abs(product)
        return float((np.abs(self.values - (self.offset + product)) + 4 * 2.0**-53 * size).max() * _INFLATE)


@dataclass(frozen=True)
class Examined:
    """Over all queries: error of the output, sup norm; its parts; the largest logit, the largest float32 error of a difference of neighbouring logits; where it is worst."""

    error: float
    scalar_error: float
    data_share: float
    execution: float
    largest_logit: float
    logit_rounding: float
    token: int
    position: int


def _fit(layer: EnumeratedLayer, prefix: TokenHead) -> None:
    if not 0 <= prefix.head < layer.heads or prefix.keys.shape[1] != layer.width:
        raise StatementError(
            f"head = {prefix.head}, keys of width {prefix.keys.shape[1]}: the layer has {layer.heads} heads of width {layer.width}"
        )
    layer.fit(prefix.frequencies, prefix.positions)


class _Logits:
    """Real prefix logits of blocks of queries and the float32 errors of their differences."""

    def __init__(self, view: View, prefix: TokenHead) -> None:
        queries = self.queries = view.queries
        width = queries.exact.shape[1]
        scale = 1 / math.sqrt(width)
        self.backs = np.array([turned_back(k, view.cosines, view.sines) * scale for k in prefix.keys])
        size = np.abs(prefix.keys)
        swapped = size + np.roll(size, width // 2, axis=1)
        self.own = (width + 17) * SINGLE * scale * _INFLATE * (queries.largest @ swapped.T)  # (tokens, N)
        self.crude = 4 * scale * _INFLATE * queries.error.sum(axis=1) * size.max()  # above |A_j| for every j, (tokens,)

    def order(self) -> np.ndarray:
        """Tokens sorted by the key that wins in the middle of the positions, so that a block meets few keys (a matter of speed only)."""
        middle = self.backs[:, self.backs.shape[1] // 2]
        return np.argsort((self.queries.exact @ middle.T).argmax(axis=1), kind="stable")

    def real(self, rows: np.ndarray) -> list[np.ndarray]:
        """s_j: (tokens, positions) for each j."""
        q = self.queries.exact[rows]
        return [q @ back.T for back in self.backs]

    def errors(self, rows: np.ndarray, keys: range) -> tuple[list[np.ndarray], np.ndarray]:
        """A_j for these neighbouring keys, from the first of them, and the error of the first one's own logit; (tokens, positions) each."""
        missed = self.queries.missed
        sums = [np.zeros((len(rows), self.backs.shape[1]))]
        for j in keys[1:]:
            sums.append(sums[-1] + missed(rows, self.backs[j] - self.backs[j - 1]))
        return sums, missed(rows, self.backs[keys[0]])


def _exp(x: np.ndarray) -> np.ndarray:
    """Above e^x (and below 1 + 1e-12 times it, + 1e-290), elementwise; inf above 600 and for NaN."""
    inside = np.clip(x, -660.0, 600.0)
    value = _exp_point(np.where(np.isnan(inside), 0.0, inside)) * (1 + 1e-13) + 1e-290
    return np.where(x <= 600.0, value, np.inf)


def _growth(delta: np.ndarray) -> np.ndarray:
    """Above e^delta - 1 for delta >= 0: delta + delta^2 up to 1.5 (the series' remainder is less), delta e^delta beyond."""
    if not delta.max() > 1.5:
        return delta * (1 + delta)
    return np.where(delta <= 1.5, delta * (1 + delta), delta * _exp(delta))


@dataclass(frozen=True, eq=False)
class _Mean:
    """Of a block: the prefix mean of the codes, how far float32 may move it, a floor of the best executed logit, and two maxima."""

    mean: np.ndarray
    moved: np.ndarray
    floor: np.ndarray
    largest: float
    slip: float


def _mean(logits: _Logits, rows: np.ndarray, codes: np.ndarray) -> _Mean:
    """See the module. Keys whose logit is at least 60 + the errors' crude bound below the best one everywhere in the block are left out: each has a
    weight below e^-60 relative to the best, exact or executed."""
    s = logits.real(rows)
    top = np.maximum.reduce(s)
    near = 60 + 4 * float(logits.crude[rows].max() * len(s)) + 2 * float(logits.own[rows].max())
    met = [j for j in range(len(s)) if not (s[j] - top).max() < -near]
    kept = range(met[0], met[-1] + 1) if met else range(len(s))
    sums, first = logits.errors(rows, kept)
    own = [logits.own[rows, j][:, None] for j in kept]
    best = np.full(top.shape, -1)
    a_best, b_best = np.zeros(top.shape), np.zeros(top.shape)
    for i, j in enumerate(kept):
        here = (best < 0) & (s[j] == top)
        best[here] = i
        np.copyto(a_best, sums[i], where=here)
        np.copyto(b_best, np.broadcast_to(own[i], top.shape), where=here)
    weights = [_exp(s[j] - top) for j in kept]
    total = np.add.reduce(weights)
    mean = np.add.reduce([w * codes[j] for w, j in zip(weights, kept, strict=True)]) / total
    moved, least, slip = np.zeros(top.shape), np.zeros(top.shape), 0.0
    for i, (w, j) in enumerate(zip(weights, kept, strict=True)):
        delta = np.where(best == i, 0.0, np.abs(sums[i] - a_best) + own[i] + b_best)
        moved += w * _growth(delta) * np.abs(codes[j] - mean)
        least += w * np.maximum(1 - delta, 0.0)
        slip = max(slip, float(delta.max()))
    dropped = len(s) * 1e-25 * (1 + float(np.ptp(codes)))
    largest = float(np.max([np.abs(x).max() for x in s]) * _INFLATE)
    return _Mean(mean, moved / least + dropped, top - (a_best + b_best) - first, largest, slip)


def examine(layer: EnumeratedLayer, prefix: TokenHead, target: Target, deadline: float = math.inf) -> Examined:
    """Bound |g - (offset + phi direction)|, sup norm over coordinates, for every token and position; inf where nothing is known.

    Raises StatementError if the prefix does not fit the layer, OutOfSeconds past the deadline (`time.monotonic`).
    """
    _fit(layer, prefix)
    group = layer.group(prefix.head)
    data_of = layer.data_logits(group, prefix.positions, deadline)
    largest_data = layer.largest_value(group, prefix.positions, deadline)
    found = [
        _examine(view, prefix, target, data_of(view), largest_data, deadline)
        for view in layer.views(prefix.head, prefix.positions, deadline)
    ]
    worst = max(found, key=lambda part: part.error)
    rounded = _softmax_rounding(prefix, largest_data)
    most = {name: max(getattr(part, name) for part in found) for name in _MAXIMA}
    return replace(worst, error=(worst.error + prefix.residue + rounded) * _INFLATE, execution=rounded, **most)


_MAXIMA = ("scalar_error", "data_share", "largest_logit", "logit_rounding")


def _softmax_rounding(prefix: TokenHead, largest_data: float) -> float:
    largest_value = float(np.abs(prefix.values).max())
    return _roundings(prefix) * max(largest_data, largest_value) * 1.001 + 1e-20


def _roundings(prefix: TokenHead) -> float:
    """(7 n + 200) u: of softmax and weighted sum."""
    return (7 * (prefix.length + len(prefix.codes)) + 200) * SINGLE


def _examine(
    view: View,
    prefix: TokenHead,
    target: Target,
    data: Float[np.ndarray, " tokens"],
    largest_data: float,
    deadline: float,
) -> Examined:
    """`examine` for one view, but for what all views share."""
    largest_value = float(np.abs(prefix.values).max())
    reach = float(np.abs(prefix.direction).max())
    codes = prefix.codes
    still(deadline)
    logits = _Logits(view, prefix)
    worst, at = -1.0, (0, 0)
    scalar = share = top = slip = 0.0
    for rows in _blocks(logits, prefix):
        still(deadline)
        with np.errstate(all="ignore"):
            found = _mean(logits, rows, codes)
            lo, hi = target(view, rows)
            miss = np.maximum(hi - found.mean, found.mean - lo) + found.moved
            miss = miss * _INFLATE + 1e-12 * (1 + np.abs(codes).max())
            shares = np.minimum(prefix.length * _exp(data[rows][:, None] - found.floor) * _INFLATE, 1.0)
            error = miss * reach + shares * (largest_data + largest_value)
            error = np.where(np.isfinite(error) & (found.largest <= _TOO_LARGE), error, np.inf)
            scalar, share = _above(scalar, miss), _above(share, shares)
        top, slip = max(top, found.largest), max(slip, found.slip)
        i = np.unravel_index(int(error.argmax()), error.shape)
        if error[i] > worst:
            worst, at = float(error[i]), (int(rows[i[0]]), view.positions[int(i[1])])
    return Examined(worst, scalar, share, 0.0, top, slip, *at)


def _above(known: float, x: np.ndarray) -> float:
    """Maximum, inf for NaN."""
    largest = float(x.max())
    return math.inf if math.isnan(largest) else max(known, largest)


def _blocks(logits: _Logits, prefix: TokenHead) -> Iterator[np.ndarray]:
    """Numbers of tokens, all of them, in blocks whose arrays fit."""
    order = logits.order()
    height = max(1, min(_ROWS, _BLOCK // (len(prefix.keys) * logits.backs.shape[1])))
    return (order[start : start + height] for start in range(0, len(order), height))


def spill_of_sibling(layer: FirstLayer, prefix: TokenHead, sibling: int, deadline: float = math.inf) -> float:
    """Above the share of its attention that another head of the group gives to the prefix, over all its queries.

    The query's own token is among the data tokens, and its logit <q, k>/8 does not depend on the position; so the share is at most
    sum_j exp(s_j + delta_j - self + error of self). Sums of n = T + N weights, their rescalings and exp (of a logit less than 104 below the largest, or it
    underflows) round numerator and denominator by less than (7 n + 200) u each; what underflows is below 1e-36 for each key.
    """
    _fit(layer, prefix)
    queries, keys = layer.queries(sibling), layer.keys(layer.group(sibling))
    width = layer.width
    scale = 1 / math.sqrt(width)
    own = (queries.exact * keys.exact).sum(axis=1) * scale
    pairs = (queries.pair_norms() * keys.pair_norms()).sum(axis=1)
    slack = (queries.error * keys.largest + np.abs(queries.exact) * keys.error).sum(axis=1) * scale
    own -= (slack + 2 * (width + 32) * SINGLE * pairs * scale) * _INFLATE
    worst = 0.0
    for view in layer.views(sibling, prefix.positions, deadline):
        logits = _Logits(view, prefix)
        for rows in _blocks(logits, prefix):
            still(deadline)
            with np.errstate(all="ignore"):
                worst = _above(worst, _mass(logits, rows, own[rows]))
    rounded = 2 * _roundings(prefix)
    return min(worst * (1 + rounded) + 1e-36 * len(prefix.keys), 1 + rounded)


def _mass(logits: _Logits, rows: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Above the weight of all prefix keys relative to that of a query's own token, (tokens,)."""
    sums, first = logits.errors(rows, range(len(logits.backs)))
    real = logits.real(rows)
    highest = [
        (x + a + first).max(axis=1) + logits.own[rows, j] for j, (x, a) in enumerate(zip(real, sums, strict=True))
    ]
    return _exp(np.array(highest) - own).sum(axis=0) * _INFLATE
