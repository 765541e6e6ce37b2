"""Samples of a target on one interval, taken once and shared by every step of the search.

The fine grid holds Chebyshev extreme points t = sin(pi (2i - M)/(2M)), and points graded geometrically towards both
ends and towards every breakpoint, where a square root or a kink hides between Chebyshev points. Working grids are
subsets, so the target is never evaluated again. Values are normalised to [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.fft import dct

from constructions.sharp.deadline import check_deadline

__all__ = ["Samples", "sample"]

_FINE = 2048
_FINEST = 16384


@dataclass(frozen=True, eq=False)
class Samples:
    """A target on [lo, hi], x = centre + radius t, f = offset + scale y, |y| <= 1.

    x, t: (m,) fine grid; values: (m, k) target; y: (m, k) normalised; regular: (m,) true on Chebyshev points;
    signs: each output's mirror sign about the centre, all zero unless every output has one;
    steepest: the point t inside where the slope changes most (the centre, if mirrored);
    edges: for either end, the distance within which the target stays within the tolerance of its value there;
    degree: number of Chebyshev coefficients whose tail, as sampled, is below the tolerance (the grid size if none).
    """

    lo: float
    hi: float
    centre: float
    radius: float
    x: np.ndarray
    t: np.ndarray
    values: np.ndarray
    y: np.ndarray
    regular: np.ndarray
    offset: np.ndarray
    scale: float
    signs: tuple[int, ...]
    steepest: float
    edges: tuple[float, float]
    degree: int
    crossings: int

    @property
    def mirrored(self) -> bool:
        """Whether every output is even or odd about the centre."""
        return any(self.signs)

    def working(self, count: int, tolerance: float) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, "m k"]]:
        """About `count` Chebyshev points; where they do not resolve the target, also graded points where it varies.

        Only t >= 0 if the target is mirrored.
        """
        chebyshev = np.flatnonzero(self.regular)
        m = len(chebyshev) - 1
        half = np.unique(np.round(np.linspace(0, m // 2, max(4, min(count, m) // 2) + 1)).astype(int))
        index = chebyshev[np.unique(np.concatenate([half, m - half]))]
        extra = np.flatnonzero(~self.regular)
        if len(extra) and self.degree > 2 * count:
            near = np.clip(np.searchsorted(self.t[index], self.t[extra]), 0, len(index) - 1)
            close = np.abs(self.y[extra] - self.y[index[near]]).max(axis=1)
            before = np.abs(self.y[extra] - self.y[index[np.maximum(near - 1, 0)]]).max(axis=1)
            extra = extra[np.minimum(close, before) > 0.5 * tolerance]
            index = np.union1d(index, extra)
        if self.mirrored:
            index = index[self.t[index] >= 0]
        return self.t[index], self.y[index]


def _grid(fine: int, lo: float, hi: float, breakpoints: Sequence[float]) -> tuple[np.ndarray, ...]:
    """Fine grid: x, t and the mask of Chebyshev points, increasing in x, symmetric when there are no breakpoints."""
    centre, radius = 0.5 * lo + 0.5 * hi, 0.5 * hi - 0.5 * lo
    chebyshev = np.sin(np.pi * (2 * np.arange(fine + 1) - fine) / (2 * fine))
    graded = radius * 10.0 ** np.arange(-1.0, -15.5, -0.25)
    parts = [centre + radius * chebyshev, lo + graded, hi - graded]
    around = 2.0 * radius * 10.0 ** np.arange(-0.5, -9.5, -0.25)
    for point in breakpoints:
        if lo < point < hi:
            parts += [np.array([point]), point + around, point - around]
    x = np.clip(np.concatenate(parts), lo, hi)
    regular = np.concatenate([np.ones(fine + 1, dtype=bool), np.zeros(len(x) - fine - 1, dtype=bool)])
    x[0], x[fine] = lo, hi
    order = np.lexsort((~regular, x))
    x, regular = x[order], regular[order]
    keep = np.concatenate([[True], np.diff(x) > 0]) | regular
    x, regular = x[keep], regular[keep]
    t = np.clip((x - centre) / radius, -1.0, 1.0)
    return x, t, regular


def sample(
    f: Callable[[np.ndarray], np.ndarray],
    lo: float,
    hi: float,
    eps: float,
    breakpoints: Sequence[float] = (),
    deadline: float | None = None,
) -> Samples | None:
    """Sample f: (m,) -> (m, k) on [lo, hi], finer if 2049 Chebyshev points do not resolve it to eps.

    Returns None where a value is not finite or the interval has no interior. Raises DeadlinePassed where `deadline` passes.
    """
    if not (np.isfinite(lo) and np.isfinite(hi) and lo < hi):
        return None
    fine, points = _FINE, list(breakpoints)
    while True:
        check_deadline(deadline)
        x, t, regular = _grid(fine, lo, hi, points)
        values = np.asarray(f(x), dtype=np.float64).reshape(len(x), -1)
        check_deadline(deadline, 30.0 * values.size)
        if not np.isfinite(values).all():
            return None
        top, bottom = values.max(axis=0), values.min(axis=0)
        offset = 0.5 * top + 0.5 * bottom
        scale = float((0.5 * top - 0.5 * bottom).max())
        if not 0.0 < scale < np.inf:
            scale = 1.0
        y = (values - offset) / scale
        # a cosine transform, then bends: a few passes over all values
        check_deadline(deadline, 200.0 * values.size)
        degree = _degree(y[regular], eps / scale)
        steepest = _steepest(t, y)
        if degree < fine // 8 or fine >= _FINEST:
            break
        fine *= 8
        if not breakpoints:
            # on both sides of the centre, so that the grid stays symmetric
            points = [0.5 * lo + 0.5 * hi + s * steepest * (0.5 * hi - 0.5 * lo) for s in (-1, 1)]
    check_deadline(deadline, 100.0 * values.size)
    centre, radius = 0.5 * lo + 0.5 * hi, 0.5 * hi - 0.5 * lo
    signs = _signs(y[regular], offset, scale)
    centred = y[regular]
    largest = 0
    for i in range(centred.shape[1]):
        large = centred[np.abs(centred[:, i]) > eps / scale, i]
        largest = max(largest, int(np.count_nonzero(np.diff(np.sign(large)))))
    return Samples(
        lo,
        hi,
        centre,
        radius,
        x,
        t,
        values,
        y,
        regular,
        offset,
        scale,
        signs,
        0.0 if any(signs) else steepest,
        _edges(t, y, eps / scale),
        degree,
        largest,
    )


def _signs(y: Float[np.ndarray, "m k"], offset: np.ndarray, scale: float) -> tuple[int, ...]:
    """Mirror signs to a few units of rounding, zero for all outputs unless each has one."""
    tolerance = 1e-14 * (1 + np.abs(offset) / scale)
    even = np.abs(y - y[::-1]).max(axis=0) <= tolerance
    odd = np.abs(y + y[::-1]).max(axis=0) <= tolerance
    if not np.all(even | odd):
        return (0,) * y.shape[1]
    return tuple(1 if e else -1 for e in even)


def _degree(y: Float[np.ndarray, "m k"], tolerance: float) -> int:
    """Number of Chebyshev coefficients after which their sum is below half the tolerance."""
    coefficients = np.abs(np.asarray(dct(y, type=1, axis=0)) / (len(y) - 1)).max(axis=1)
    # the rounding plateau of the transform is not a tail
    tails = np.cumsum(coefficients[::-1])[::-1] - 2e-15 * np.arange(len(coefficients), 0, -1)
    resolved = np.flatnonzero(tails <= 0.5 * tolerance)
    return max(1, int(resolved[0]) if len(resolved) else len(tails))


def _steepest(t: Float[np.ndarray, " m"], y: Float[np.ndarray, "m k"]) -> float:
    """Where the slope changes most, or, if values jump, where they jump; the ends excluded."""
    inside = np.abs(t) < 0.999
    t, y = t[inside], y[inside]
    slopes = np.diff(y, axis=0) / np.maximum(np.diff(t), 1e-300)[:, None]
    bends = np.abs(np.diff(slopes, axis=0)).max(axis=1)
    return float(t[1:-1][int(np.argmax(bends))])


def _edges(t: Float[np.ndarray, " m"], y: Float[np.ndarray, "m k"], tolerance: float) -> tuple[float, float]:
    """Distance from either end at which the target first differs from its end value by more than the tolerance."""
    left = np.abs(y - y[0]).max(axis=1) > tolerance
    right = np.abs(y - y[-1]).max(axis=1) > tolerance
    first = float(t[int(np.argmax(left))] + 1) if left.any() else 2.0
    last = float(1 - t[len(t) - 1 - int(np.argmax(right[::-1]))]) if right.any() else 2.0
    return max(first, 1e-15), max(last, 1e-15)
