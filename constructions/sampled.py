"""What pictures are made of: float64 values of model, target and attention weights at sample points. Nothing here is a bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from verify import Box, LipschitzTarget, Prefix, Sphere, Target, Transformer, forward

if TYPE_CHECKING:
    from constructions.compiled import Compiled

__all__ = [
    "Sampled",
    "attends_to_data",
    "attention_weights",
    "circle",
    "grid_2d",
    "line",
    "pictured",
    "sampled",
    "shown_length",
]

_BLOCK = 2_000_000
"""Entries of the largest temporary array: points times tokens."""
_LONGEST = 256
"""Tokens of a sampled sequence, at most: the cost of a point grows with them."""


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


def pictured(c: Compiled) -> Box | Sphere:
    """The domain, if it is of points. Raises ValueError for a function of sequences, of which there are no pictures."""
    if not isinstance(c.domain, (Box, Sphere)):
        raise ValueError(
            f"domain = {c.domain!r}: pictures exist for functions on boxes and spheres, and this is a function of sequences. Evaluate it "
            "at sequences of your own, or read its `certificate` and `explain()`."
        )
    return c.domain


def sampled(c: Compiled, points: Float[np.ndarray, "m n"]) -> Sampled:
    """Run the reference forward pass and the target at points of the domain. A head that attends to data tokens too sees them in
    sequences of `shown_length` tokens."""
    low, high = _target_range(c.target, points)
    if attends_to_data(c) and c.claim.sequence_length > 1:
        model = _in_sequences(c.model, c.prefix, points, shown_length(c))
    else:
        model = forward(c.model, c.prefix, points)
    return Sampled(points, model, low, high)


def shown_length(c: Compiled) -> int:
    """Tokens of a sampled sequence: the greatest number the claim covers, if a picture can afford it."""
    return min(c.claim.sequence_length, _LONGEST)


def attends_to_data(c: Compiled) -> bool:
    """Whether data tokens take part in the softmax, beside the prefix."""
    return any(head.attends_to_data for layer in c.model.layers for head in layer.heads)


def _in_sequences(
    model: Transformer, prefix: Prefix, points: Float[np.ndarray, "m n"], length: int
) -> Float[np.ndarray, "m k"]:
    """The points one after the other in sequences of `length`, the last one filled up with copies of the last point."""
    missing = -len(points) % length
    filled = np.concatenate([points, np.repeat(points[-1:], missing, axis=0)])
    out = forward(model, prefix, filled.reshape(-1, length, points.shape[1]))
    return out.reshape(len(filled), -1)[: len(points)]


def _target_range(
    target: Target, points: Float[np.ndarray, "m n"]
) -> tuple[Float[np.ndarray, "m k"], Float[np.ndarray, "m k"]]:
    """McShane's extensions for a Lipschitz target: max_j (y_j - L |x - z_j|) <= f(x) <= min_j (y_j + L |x - z_j|), with angles for
    distances on a sphere."""
    if not isinstance(target, LipschitzTarget):
        values = target.evaluate(points)
        return values, values
    from scipy.spatial.distance import cdist

    metric = {"l2": "euclidean", "linf": "chebyshev", "l1": "cityblock", "geodesic": "euclidean"}[target.norm]
    low, high = np.empty((len(points), target.outputs)), np.empty((len(points), target.outputs))
    rows = max(1, _BLOCK // len(target.points))
    for start in range(0, len(points), rows):
        part = slice(start, start + rows)
        reach = cdist(points[part], target.points, metric)  # pyright: ignore[reportArgumentType, reportCallIssue]
        if target.norm == "geodesic":  # from chords to angles
            reach = 2 * np.arcsin(np.minimum(reach / 2, 1.0))
        reach *= target.lipschitz
        for i in range(target.outputs):
            low[part, i] = (target.values[:, i] - reach).max(axis=1)
            high[part, i] = (target.values[:, i] + reach).min(axis=1)
    return low, high


def attention_weights(c: Compiled, points: Float[np.ndarray, "m n"]) -> Float[np.ndarray, "m tokens"]:
    """softmax(<a_j, x> + b_j), one row per point.

    A head that attends to its T data tokens gives them scores 0: they are in the denominator, and a row adds up to less than 1. A
    head that does not normalise has no weights; its row holds the shares of its exponentials.
    """
    logits = points @ c.slopes.T + c.biases
    others = np.log(c.claim.sequence_length) if attends_to_data(c) else -np.inf
    top = np.maximum(logits.max(axis=1, keepdims=True), others)
    weights = np.exp(logits - top)
    return weights / (weights.sum(axis=1, keepdims=True) + np.exp(others - top))


def circle(count: int) -> tuple[Float[np.ndarray, " count"], Float[np.ndarray, "count 2"]]:
    """Angles from -pi to pi, ends included, and their points on S^1."""
    angle = np.linspace(-np.pi, np.pi, count)
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return angle, points / np.linalg.norm(points, axis=1, keepdims=True)


def line(c: Compiled, axis: int, count: int) -> Float[np.ndarray, "count n"]:
    """Points on the line through the domain's centre along one axis, ends included."""
    lo, hi = pictured(c).bounds
    points = np.tile(lo + (hi - lo) * 0.5, (count, 1))
    points[:, axis] = np.clip(np.linspace(lo[axis], hi[axis], count), lo[axis], hi[axis])
    return points


def grid_2d(c: Compiled, count: int) -> tuple[Float[np.ndarray, " count"], Float[np.ndarray, " count"], np.ndarray]:
    """Mid-points of count x count cells of the first two coordinates, the others at the domain's centre: the two axes, and the points
    (count * count, n) with the first coordinate varying fastest, as images are laid out."""
    lo, hi = pictured(c).bounds
    inner = (np.arange(count) + 0.5) / count
    x, y = (lo[i] + (hi[i] - lo[i]) * inner for i in (0, 1))
    points = np.tile(lo + (hi - lo) * 0.5, (count * count, 1))
    points[:, 0], points[:, 1] = np.tile(x, count), np.repeat(y, count)
    return x, y, points
