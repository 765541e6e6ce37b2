"""What pictures are made of: float64 values of model, target and attention weights at sample points. Nothing here is a bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from verify import LipschitzTarget, Target, forward

if TYPE_CHECKING:
    from constructions.compiled import Compiled

__all__ = ["Sampled", "attention_weights", "grid_2d", "line", "sampled"]

_BLOCK = 2_000_000
"""Entries of the largest temporary array: points times tokens."""


@dataclass(frozen=True, eq=False)
class Sampled:
    """Model and target at points.

    points: (m, n); model: (m, k); low, high: (m, k), the values the target may take there. They are equal for a target that can
    be evaluated; a black box is known by its recorded values and its constant only, and may be anything in between.
    """

    points: Float[np.ndarray, "m n"]
    model: Float[np.ndarray, "m k"]
    low: Float[np.ndarray, "m k"]
    high: Float[np.ndarray, "m k"]

    @property
    def error(self) -> Float[np.ndarray, " m"]:
        """|model - target|, the largest over outputs; for a black box the worst case over all functions that fit the record."""
        return np.maximum(np.abs(self.model - self.low), np.abs(self.high - self.model)).max(axis=1)


def sampled(c: Compiled, points: Float[np.ndarray, "m n"]) -> Sampled:
    """Run the reference forward pass and the target at points of the domain."""
    low, high = _target_range(c.target, points)
    return Sampled(points, forward(c.model, c.prefix, points), low, high)


def _target_range(
    target: Target, points: Float[np.ndarray, "m n"]
) -> tuple[Float[np.ndarray, "m k"], Float[np.ndarray, "m k"]]:
    """McShane's extensions for a Lipschitz target: max_j (y_j - L |x - z_j|) <= f(x) <= min_j (y_j + L |x - z_j|)."""
    if not isinstance(target, LipschitzTarget):
        values = target.evaluate(points)
        return values, values
    from scipy.spatial.distance import cdist

    metric = {"l2": "euclidean", "linf": "chebyshev", "l1": "cityblock"}[target.norm]
    low, high = np.empty((len(points), target.outputs)), np.empty((len(points), target.outputs))
    rows = max(1, _BLOCK // len(target.points))
    for start in range(0, len(points), rows):
        part = slice(start, start + rows)
        reach = target.lipschitz * cdist(points[part], target.points, metric)  # pyright: ignore[reportArgumentType, reportCallIssue]
        for i in range(target.outputs):
            low[part, i] = (target.values[:, i] - reach).max(axis=1)
            high[part, i] = (target.values[:, i] + reach).min(axis=1)
    return low, high


def attention_weights(c: Compiled, points: Float[np.ndarray, "m n"]) -> Float[np.ndarray, "m tokens"]:
    """softmax(<a_j, x> + b_j), one row per point."""
    logits = points @ c.keys[:, :-1].T + c.keys[:, -1]
    logits -= logits.max(axis=1, keepdims=True)
    weights = np.exp(logits)
    return weights / weights.sum(axis=1, keepdims=True)


def line(c: Compiled, axis: int, count: int) -> Float[np.ndarray, "count n"]:
    """Points on the line through the domain's centre along one axis, ends included."""
    lo, hi = c.domain.bounds
    points = np.tile(lo + (hi - lo) * 0.5, (count, 1))
    points[:, axis] = np.clip(np.linspace(lo[axis], hi[axis], count), lo[axis], hi[axis])
    return points


def grid_2d(c: Compiled, count: int) -> tuple[Float[np.ndarray, " count"], Float[np.ndarray, " count"], np.ndarray]:
    """Mid-points of count x count cells of the first two coordinates, the others at the domain's centre: the two axes, and the points
    (count * count, n) with the first coordinate varying fastest, as images are laid out."""
    lo, hi = c.domain.bounds
    inner = (np.arange(count) + 0.5) / count
    x, y = (lo[i] + (hi[i] - lo[i]) * inner for i in (0, 1))
    points = np.tile(lo + (hi - lo) * 0.5, (count * count, 1))
    points[:, 0], points[:, 1] = np.tile(x, count), np.repeat(y, count)
    return x, y, points
