"""What the closed-form constructions are called with, checked: the box, the accuracy, and the values of the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite

import numpy as np
from jaxtyping import Float, Shaped

__all__ = ["Corner", "checked_box", "checked_eps", "checked_values"]

# A corner of a box: (n,) numbers, or one number for n = 1.
Corner = float | int | Sequence[float | int] | Shaped[np.ndarray, "..."]


def checked_box(lo: Corner, hi: Corner) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Both corners as (n,) arrays. Raises ValueError where shapes differ, or the box is empty or not finite."""
    low = np.atleast_1d(np.asarray(lo, dtype=float))
    high = np.atleast_1d(np.asarray(hi, dtype=float))
    if low.ndim != 1 or low.shape != high.shape or low.size == 0:
        raise ValueError(f"lo and hi must be vectors of the same length, got shapes {low.shape} and {high.shape}.")
    if not (np.all(np.isfinite(low)) and np.all(np.isfinite(high)) and np.all(low < high)):
        raise ValueError(f"lo must lie below hi on every axis and both must be finite, got lo = {lo}, hi = {hi}.")
    return low, high


def checked_eps(eps: float) -> float:
    """The accuracy as a float. Raises ValueError unless it is positive and finite."""
    if not (isfinite(eps) and eps > 0):
        raise ValueError(
            f"eps = {eps} must be positive and finite: the number of tokens grows without bound as it falls."
        )
    return float(eps)


def checked_values(
    target: Callable[[np.ndarray], np.ndarray], points: Float[np.ndarray, "m ..."]
) -> Float[np.ndarray, "m k"]:
    """The target at the points. Raises ValueError where it returns another number of rows, or is not finite."""
    values = np.asarray(target(points), dtype=float)
    if values.ndim != 2 or len(values) != len(points):
        raise ValueError(
            f"the target must return (m, k) values, but points {points.shape} gave {values.shape}: return one row per point."
        )
    bad = np.flatnonzero(~np.all(np.isfinite(values), axis=1))
    if len(bad):
        raise ValueError(f"the target is not finite at x = {points[bad[0]]}: restrict the box to where it is defined.")
    return values
