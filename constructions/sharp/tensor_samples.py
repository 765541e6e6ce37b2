"""Where an n-dimensional target is sampled: tensor Chebyshev grids to fit on, interleaved grids to check on.

Everything numerical happens on the reference cube [-1, 1]^n, so that boxes of any size and place behave alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

__all__ = [
    "Box",
    "Samples",
    "Target",
    "chebyshev_axis",
    "check_points",
    "fit_points",
    "sample",
    "scattered_points",
    "tensor_points",
]

Target = Callable[[Float[np.ndarray, "points n"]], Float[np.ndarray, "points k"]]


@dataclass(frozen=True, eq=False)
class Box:
    """The domain prod [lo_i, hi_i]; `point` maps the reference cube [-1, 1]^n onto it."""

    lo: Float[np.ndarray, " n"]
    hi: Float[np.ndarray, " n"]

    @property
    def centre(self) -> Float[np.ndarray, " n"]:
        """Midpoint of the box, (n,)."""
        return 0.5 * self.lo + 0.5 * self.hi

    @property
    def radius(self) -> Float[np.ndarray, " n"]:
        """Half the side lengths, (n,)."""
        return 0.5 * self.hi - 0.5 * self.lo

    def point(self, xi: Float[np.ndarray, "points n"]) -> Float[np.ndarray, "points n"]:
        """Reference coordinates to coordinates of the box, clipped so that rounding never leaves it."""
        return np.clip(self.centre + self.radius * xi, self.lo, self.hi)


@dataclass(frozen=True, eq=False)
class Samples:
    """Points of the reference cube (points, n) and the target's values there (points, k)."""

    points: Float[np.ndarray, "points n"]
    values: Float[np.ndarray, "points k"]


def chebyshev_axis(count: int) -> Float[np.ndarray, " count"]:
    """Chebyshev points of the second kind (ends included) on [-1, 1]; `count` >= 2."""
    return np.sin(0.5 * np.pi * np.linspace(-1.0, 1.0, count))


def tensor_points(axes: list[Float[np.ndarray, " m"]]) -> Float[np.ndarray, "points n"]:
    """All combinations of the axes' points, last axis fastest."""
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))


def fit_points(n: int, count: int) -> Float[np.ndarray, "points n"]:
    """The tensor Chebyshev grid with about `count` points, at least 5 an axis."""
    per_axis = max(5, int(np.ceil(count ** (1.0 / n))))
    return tensor_points([chebyshev_axis(per_axis)] * n)


def check_points(n: int, count: int) -> Float[np.ndarray, "points n"]:
    """About `count` points that interleave those of `fit_points`: half Chebyshev and half equispaced per axis.

    The density is the arithmetic mean of the two laws, so neither the boundary layer nor the middle is thin; ends
    are included. The odd offset keeps it from coinciding with a fit grid of any size.
    """
    per_axis = max(8 if n < 4 else 5, int(np.ceil(count ** (1.0 / n))))
    u = np.linspace(-1.0, 1.0, per_axis)
    return tensor_points([0.5 * u + 0.5 * np.sin(0.5 * np.pi * u)] * n)


def scattered_points(n: int, count: int) -> Float[np.ndarray, "count n"]:
    """The additive recurrence modulo 1 of the powers of 1/p, p^(n+1) = p + 1 (Roberts' R_n sequence), in [-1, 1]^n.

    Low discrepancy and no symmetry: what a grid hides along its diagonals, such as a kink at x = y, these points see.
    """
    root = 1.5
    for _ in range(60):
        root = (1.0 + root) ** (1.0 / (n + 1.0))
    steps = root ** -np.arange(1.0, n + 1.0)
    return 2.0 * ((0.5 + np.arange(count)[:, None] * steps) % 1.0) - 1.0


def sample(f: Target, box: Box, points: Float[np.ndarray, "points n"]) -> Samples:
    """Evaluate f, batched, at the images of `points`; a 1-D answer is read as k = 1."""
    values = np.asarray(f(box.point(points)), dtype=np.float64)
    return Samples(points, values.reshape(len(points), -1))
