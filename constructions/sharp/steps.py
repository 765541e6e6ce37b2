"""A known function of one variable as smoothed steps: one token per interval on which f varies by at most 2 eps.

Cells [t_{i-1}, t_i] with mid-range values v_i, logits with s_{i+1}(x) - s_i(x) = kappa_i (x - t_i), kappa_i > 0: the
slopes increase, so token i is the largest logit exactly on its cell. About TV(f) / 2 eps tokens, where a Lipschitz
constant alone asks for L (hi - lo) / 2 eps: nothing is spent where f is flat.

At a crossing g is a mean of v_i and v_{i+1}. With |f - v| <= rho on each cell, at x = t_i - d the other value is off by
at most rho + omega(d), omega the modulus of continuity of f near t_i, and weighs at most e^{-kappa_i d}:

    |g(x) - f(x)| <= rho + max_d omega(d) e^{-kappa_i d} = rho + M_i / (e kappa_i)   where omega(d) <= M_i d.

So kappa_i = M_i / (e theta eps) costs theta eps. Cells further away are dominated as soon as kappa_i h >= 2 ln(8/theta)
for both neighbouring widths h: their weights fall off geometrically, while values differ by at most 2 rho per cell.

Cutting greedily from the left is optimal, for any number of outputs: the property "varies by at most 2 rho" passes to
subintervals, so no partition can be ahead of the greedy one at any cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import e, isfinite, log

import numpy as np
from jaxtyping import Float

from constructions.proposal import Proposal, Term
from constructions.sharp.arguments import checked_eps, checked_values
from constructions.sharp.deadline import check_deadline, until_deadline

__all__ = ["propose_steps"]

Target = Callable[[Float[np.ndarray, " m"]], Float[np.ndarray, "m k"]]

# rho = (1 - slack) eps, in order of increasing length.
_SLACKS = (0.001, 0.01, 0.02, 0.04, 0.08, 0.16)
_FIRST_SAMPLES = 8_193
_MOST_SAMPLES = 1_500_000
# Consecutive samples differ by at most this share of eps, unless they are neighbouring floats.
_RESOLUTION = 0.05
# The same around a local extremum, whose height the samples must not miss.
_EXTREMUM_RESOLUTION = 5e-4
_UNIT_ROUNDOFF = 2.0**-53
# Tokens on each side of the largest logit that the sampled check adds up; the others weigh less than (theta/8)^8.
_WINDOW = 4


@dataclass(frozen=True, eq=False)
class _Partition:
    """Cuts t_1 < ... < t_{N-1} and the extremes of f on the N cells."""

    cuts: Float[np.ndarray, " cuts"]
    low: Float[np.ndarray, "cells k"]
    high: Float[np.ndarray, "cells k"]

    @property
    def oscillation(self) -> float:
        """Half the largest variation on a cell: the error of the best constant there."""
        return 0.5 * float(np.max(self.high - self.low))


def _sampled(
    f: Target, lo: float, hi: float, eps: float, deadline: float | None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Points and values of f, refined until neighbours differ by little; None if that takes too many points."""
    x = np.linspace(lo, hi, _FIRST_SAMPLES)
    y = checked_values(f, x)
    # The grid halves at most until neighbouring floats are reached.
    for _ in range(60):
        check_deadline(deadline)
        step = np.diff(y, axis=0)
        turns = np.any(step[:-1] * step[1:] < 0, axis=1)
        extremal = np.append(turns, False) | np.insert(turns, 0, False)
        tolerance = eps * np.where(extremal, _EXTREMUM_RESOLUTION, _RESOLUTION)
        middle = 0.5 * (x[:-1] + x[1:])
        wide = (middle > x[:-1]) & (middle < x[1:])
        coarse = np.flatnonzero((np.max(np.abs(step), axis=1) > tolerance) & wide)
        if len(coarse) == 0:
            return x, y
        if len(x) + len(coarse) > _MOST_SAMPLES:
            return None
        x = np.insert(x, coarse + 1, middle[coarse])
        y = np.insert(y, coarse + 1, checked_values(f, middle[coarse]), axis=0)
    return x, y


def _greedy(x: np.ndarray, y: np.ndarray, rho: float, most: int, deadline: float | None) -> _Partition | None:
    """Cells as long as they can be with variation <= 2 rho, on the polygon through the samples; None beyond `most`."""
    cuts, low, high = [], [], []
    start, begin = 0, y[0]
    stride = 256
    while True:
        if len(low) == most:
            return None
        below, above = begin, begin
        first = start
        while first < len(x):
            check_deadline(deadline)
            # Extremes so far, in blocks: what a cell costs is proportional to the samples in it.
            block = y[first : first + stride]
            lows = np.minimum(np.minimum.accumulate(block, axis=0), below)
            highs = np.maximum(np.maximum.accumulate(block, axis=0), above)
            over = np.flatnonzero(np.any(highs - lows > 2 * rho, axis=1))
            if len(over):
                break
            below, above = lows[-1], highs[-1]
            first += len(block)
        else:
            low.append(below)
            high.append(above)
            return _Partition(np.array(cuts), np.array(low), np.array(high))
        end = int(over[0])
        if end > 0:
            below, above = lows[end - 1], highs[end - 1]
        index = first + end
        left_x = x[index - 1] if index > start else (cuts[-1] if cuts else x[0])
        left_y = y[index - 1] if index > start else begin
        # How far along the segment the first output uses up its 2 rho.
        rise = y[index] - left_y
        room = np.where(rise > 0, below + 2 * rho - left_y, left_y - (above - 2 * rho))
        share = float(np.min(np.where(rise != 0, room / np.where(rise != 0, np.abs(rise), 1.0), 1.0)))
        share = min(max(share, 0.0), 1.0)
        cut = float(left_x + share * (x[index] - left_x))
        begin = left_y + share * rise
        if cuts and cut <= cuts[-1]:
            return None
        cuts.append(cut)
        low.append(np.minimum(below, begin))
        high.append(np.maximum(above, begin))
        start = index


def _evened(x: np.ndarray, y: np.ndarray, partition: _Partition, rho: float, deadline: float | None) -> _Partition:
    """The same number of cells with the smallest variation: greedy leaves a nearly empty last cell."""
    best, lower, upper = partition, 0.0, rho
    # With very many cells the last one hardly matters, and each trial costs a pass over all samples.
    for _ in range(max(3, min(14, 30_000 // len(partition.low)))):
        middle = 0.5 * (lower + upper)
        trial = _greedy(x, y, middle, len(partition.low), deadline)
        if trial is None:
            lower = middle
        else:
            best, upper = trial, middle
    return best


def _sharpness(partition: _Partition, x: np.ndarray, y: np.ndarray, theta: float, eps: float) -> np.ndarray:
    """kappa_i: steep enough for the slope of f around the cut and for the widths of both cells (head of this file)."""
    cuts = partition.cuts
    edges = np.concatenate([[x[0]], cuts, [x[-1]]])
    width = np.minimum(np.diff(edges)[:-1], np.diff(edges)[1:])
    slope = np.max(np.abs(np.diff(y, axis=0)), axis=1) / np.diff(x)
    around = 0.2 * width
    first = np.clip(np.searchsorted(x, cuts - around) - 1, 0, len(slope) - 1)
    last = np.clip(np.searchsorted(x, cuts + around), first + 1, len(slope))
    # maximum.reduceat over pairs (first, last): every other entry is the maximum over first..last.
    pairs = np.stack([first, last], axis=1).ravel()
    steepest = np.maximum.reduceat(np.append(slope, 0.0), pairs)[::2]
    return np.maximum(steepest / (e * theta * eps), 2 * log(8 / theta) / width)


def _worst_error(partition: _Partition, kappa: np.ndarray, values: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    """max |g - f| at the samples, from the few tokens that carry weight there."""
    cells = len(values)
    largest = np.searchsorted(partition.cuts, x)
    steps = np.arange(-_WINDOW, _WINDOW + 1)
    tokens = largest[:, None] + steps
    real = (tokens >= 0) & (tokens < cells)
    # Differences s_{i+1} - s_i accumulate over the window; constants cancel in the softmax.
    between = np.clip(tokens[:, :-1], 0, max(cells - 2, 0))
    if cells == 1:
        return float(np.max(np.abs(values - y)))
    difference = kappa[between] * (x[:, None] - partition.cuts[between])
    logits = np.concatenate([np.zeros((len(x), 1)), np.cumsum(difference, axis=1)], axis=1)
    logits = np.where(real, logits, -np.inf)
    weights = np.exp(logits - np.max(logits, axis=1, keepdims=True))
    weights /= np.sum(weights, axis=1, keepdims=True)
    g = np.einsum("mt,mtk->mk", weights, values[np.clip(tokens, 0, cells - 1)])
    return float(np.max(np.abs(g - y)))


def _check_points(partition: _Partition, kappa: np.ndarray, lo: float, hi: float) -> np.ndarray:
    """Points on both sides of every cut, at the distances where the crossing is decided, and inside every cell."""
    distances = np.array([-3.0, -2.0, -1.0, -0.5, -0.2, 0.0, 0.2, 0.5, 1.0, 2.0, 3.0])
    near = (partition.cuts[:, None] + distances / kappa[:, None]).ravel()
    edges = np.concatenate([[lo], partition.cuts, [hi]])
    inner = (edges[:-1, None] + np.linspace(0.05, 0.95, 7) * np.diff(edges)[:, None]).ravel()
    return np.clip(np.concatenate([near, inner]), lo, hi)


def _logits(partition: _Partition, kappa: np.ndarray, middle: float) -> tuple[np.ndarray, np.ndarray]:
    """Slopes (cumulated kappa) and biases (cumulated -kappa t), centred in slope, position and height."""
    slopes = np.concatenate([[0.0], np.cumsum(kappa)])
    # A common slope changes nothing; the middle one is taken off around the middle of the interval.
    common = 0.5 * (slopes[0] + slopes[-1])
    biases = np.concatenate([[0.0], np.cumsum(-kappa * (partition.cuts - middle))])
    slopes = slopes - common
    biases = biases - slopes * middle
    return slopes[:, None], biases - 0.5 * (np.max(biases) + np.min(biases))


def _proposal(
    f: Target,
    partition: _Partition,
    x: np.ndarray,
    y: np.ndarray,
    lo: float,
    hi: float,
    eps: float,
    deadline: float | None,
) -> Proposal | None:
    """The head on this partition, at the smallest sharpness whose sampled error leaves half of the slack."""
    values = 0.5 * (partition.low + partition.high)
    rho = partition.oscillation
    slack = 1 - rho / eps
    if slack <= 0:
        return None
    theta = 0.5 * slack
    for _ in range(6):
        check_deadline(deadline)
        kappa = _sharpness(partition, x, y, theta, eps)
        points = _check_points(partition, kappa, lo, hi)
        error = max(
            _worst_error(partition, kappa, values, points, checked_values(f, points)),
            _worst_error(partition, kappa, values, x[:: 1 + len(x) // 200_000], y[:: 1 + len(x) // 200_000]),
        )
        if error <= eps * (1 - 0.25 * slack):
            break
        theta *= 0.5
    else:
        return None
    slopes, biases = _logits(partition, kappa, 0.5 * (lo + hi))
    logits = float(np.max(np.abs(slopes[:, 0]) * max(abs(lo), abs(hi)) + np.abs(biases)))
    rounding = 4 * _UNIT_ROUNDOFF * rho * (2 + logits)
    if error + rounding > eps * (1 - 0.2 * slack):
        return None
    terms = (
        Term("oscillation", rho, "max over the cells of (max f - min f) / 2", "best constant on an interval"),
        Term("crossing", max(error - rho, 0.0), "M_i / (e kappa_i), M_i the slope of f around t_i; sampled", "derived"),
        Term("rounding", rounding, "u sum_j w_j |v_j - g| (2 + |logit_j|)", "IEEE 754 binary64"),
    )
    grid = {"cuts": partition.cuts, "sharpness": kappa, "oscillation": rho}
    return Proposal(slopes, biases, values, "covering", grid, terms, error_estimate=error + rounding)


def propose_steps(
    f: Target, lo: float, hi: float, eps: float, *, max_tokens: int = 100_000, deadline: float | None = None
) -> Iterator[Proposal]:
    """Heads on the fewest intervals on which the known f varies by at most 2 eps, then with more slack.

    f: (m,) -> (m, k), continuous; sampled at up to 1.5 million points of [lo, hi]. Nothing is yielded beyond max_tokens,
    nor where f jumps by more than 2 eps (a head is continuous) or varies too fast to be resolved by samples.
    deadline: of time.monotonic(), after which nothing more is yielded.
    error_estimate is sampled, plus rounding. Raises ValueError for bad arguments or where f is not finite.
    """
    if not (isfinite(lo) and isfinite(hi) and lo < hi):
        raise ValueError(f"lo must lie below hi and both must be finite, got lo = {lo}, hi = {hi}.")
    return until_deadline(_ladder(f, float(lo), float(hi), checked_eps(eps), max_tokens, deadline))


def _ladder(f: Target, lo: float, hi: float, eps: float, max_tokens: int, deadline: float | None) -> Iterator[Proposal]:
    """The generator behind `propose_steps`, whose arguments are checked before the first proposal is asked for."""
    check_deadline(deadline)
    sampled = _sampled(f, lo, hi, eps, deadline)
    if sampled is None:
        return
    x, y = sampled
    longest = 0
    for slack in _SLACKS:
        partition = _greedy(x, y, (1 - slack) * eps, max_tokens, deadline)
        if partition is None:
            return
        if len(partition.low) <= longest:
            continue
        evened = _evened(x, y, partition, (1 - slack) * eps, deadline)
        proposal = _proposal(f, evened, x, y, lo, hi, eps, deadline)
        if proposal is not None:
            longest = proposal.length
            yield proposal
