"""Boxes as pairs of corner arrays: the first cut of a region, halving, corners."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from verify.target import LipschitzTarget, Target

__all__ = ["corners", "first_boxes", "halves"]


def corners(lo: Float[np.ndarray, " n"], hi: Float[np.ndarray, " n"]) -> np.ndarray:
    """The corners of a box (of its first ten axes)."""
    n = min(len(lo), 10)
    out = np.tile(lo, (2**n, 1))
    for i in range(n):
        out[np.arange(2**n) >> i & 1 == 1, i] = hi[i]
    return out


def first_boxes(target: Target, lo: np.ndarray, hi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A region cut where the target changes its formula."""
    n = len(lo)
    edges = []
    for axis in range(n):
        cuts = [] if isinstance(target, LipschitzTarget) else target.breakpoints(axis, lo[axis], hi[axis])
        if n == 1 and len(cuts) == 0:
            cuts = np.linspace(lo[0], hi[0], 9)[1:-1]
        edges.append(np.unique(np.concatenate([[lo[axis]], np.asarray(cuts), [hi[axis]]])))
    low = np.stack([g.ravel() for g in np.meshgrid(*[e[:-1] for e in edges], indexing="ij")], axis=1)
    high = np.stack([g.ravel() for g in np.meshgrid(*[e[1:] for e in edges], indexing="ij")], axis=1)
    return low, high


def halves(lo: np.ndarray, hi: np.ndarray, axis: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], int | None]:
    """Halve each box along its axis; the second result is the index of a box that has no float strictly inside."""
    rows = np.arange(len(lo))
    a, b = lo[rows, axis], hi[rows, axis]
    middle = a + (b - a) * 0.5
    stuck = ~((a < middle) & (middle < b))
    if stuck.any():
        return (lo, hi), int(np.argmax(stuck))
    left_hi, right_lo = hi.copy(), lo.copy()
    left_hi[rows, axis] = middle
    right_lo[rows, axis] = middle
    return (np.concatenate([lo, right_lo]), np.concatenate([left_hi, hi])), None
