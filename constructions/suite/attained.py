"""How far the values of a formula reach over a box: a rigorous lower bound, from values that it takes."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize

from verify import Box, Expression
from verify.ball import Ball
from verify.jets import jets

__all__ = ["attained_range"]

_MOST_CORNERS = 1024
_RANDOM = 1000
_STARTS = 3


def attained_range(expression: Expression, box: Box) -> float:
    """A lower bound of max f - min f over the box, of the output where it is smallest.

    f(p) - f(q) is at most the range for any two points p and q of the box. Candidates are the corners (1024 of them at most), the
    centre, 1000 seeded random points, and where L-BFGS-B gets from the best of them; f is enclosed there by ball arithmetic. The
    bound is therefore rigorous whatever the search finds, and in practice sharp. Where f is not defined nothing is counted; nan if that
    is everywhere.
    """
    candidates = _candidates(box)
    enclosed = _values(expression, candidates)
    spans = []
    for output in range(len(expression.outputs)):
        low, high = (enclosed[output].mid + sign * enclosed[output].rad for sign in (-1, 1))
        known = np.isfinite(low) & np.isfinite(high)
        if not known.any():
            return math.nan
        values = np.where(known, (low + high) / 2, np.nan)
        better = np.concatenate([_climbed(expression, box, output, s, candidates, values) for s in (1.0, -1.0)])
        found = _values(expression, better)[output]
        bottoms = np.concatenate([high[known], _finite(found.mid + found.rad)])
        tops = np.concatenate([low[known], _finite(found.mid - found.rad)])
        # two roundings each in the ends of a ball, one in the difference
        top, bottom = float(tops.max()), float(bottoms.min())
        spans.append(max(0.0, top - bottom - 8 * sys.float_info.epsilon * (abs(top) + abs(bottom))))
    return min(spans)


def _candidates(box: Box) -> Float[np.ndarray, "points n"]:
    lo, hi = box.bounds
    n = box.dimension
    if 2**n <= _MOST_CORNERS:
        picks = np.array(list(itertools.product((False, True), repeat=n)))
    else:
        picks = np.random.default_rng(1).integers(0, 2, size=(_MOST_CORNERS, n)).astype(bool)
    return np.concatenate([np.where(picks, hi, lo), (lo + (hi - lo) / 2)[None], box.sample(_RANDOM)])


def _values(expression: Expression, points: Float[np.ndarray, "points n"]) -> list[Ball]:
    """Enclosures (points,) of every output at the points; nan or infinite where it is not certainly defined."""
    found = jets(expression, Ball.exact(points), np.ones_like(points), 0, strict=True)
    heads = [jet[0] for jet in found]
    return [Ball(h.mid[:, 0], h.rad[:, 0]) for h in heads if h is not None]


def _finite(x: Float[np.ndarray, " points"]) -> Float[np.ndarray, " points"]:
    return x[np.isfinite(x)]


def _climbed(
    expression: Expression, box: Box, output: int, sign: float, candidates: np.ndarray, values: np.ndarray
) -> Float[np.ndarray, "starts n"]:
    """Where a local search ends that makes sign * f small, from the candidates where it is smallest; points of the box."""
    lo, hi = box.bounds
    starts = candidates[np.argsort(np.where(np.isnan(values), np.inf, sign * values))[:_STARTS]]
    goal = _goal(expression, output, sign, lo, hi)
    ends = [minimize(goal, (s - lo) / (hi - lo), jac=True, bounds=[(0.0, 1.0)] * len(lo)).x for s in starts]
    return np.clip(lo + np.clip(ends, 0.0, 1.0) * (hi - lo), lo, hi)


def _goal(
    expression: Expression, output: int, sign: float, lo: np.ndarray, hi: np.ndarray
) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """sign * f and its slopes by differences, all in one evaluation, in coordinates that make the box [0, 1]^n."""
    n, step = len(lo), 1e-7

    def goal(t: np.ndarray) -> tuple[float, np.ndarray]:
        inward = np.where(t > 0.5, -step, step)
        points = lo + np.concatenate([t[None], t + np.diag(inward)]) * (hi - lo)
        with np.errstate(all="ignore"):
            values = sign * expression.evaluate(points)[:, output]
        if not np.isfinite(values[0]):
            return 1e300, np.zeros(n)
        slopes = (values[1:] - values[0]) / inward
        return float(values[0]), np.where(np.isfinite(slopes), slopes, 0.0)

    return goal
