"""How many Fourier coefficients a function on the circle needs for a sampled sup error: the measure that tokens are compared with.

Two trigonometric polynomials of each degree n, of 2n + 1 coefficients, are tried, and the better one counts: the truncated Fourier
series, and the interpolant in 2n + 1 equispaced angles.

No polynomial of degree below k is within eps where the k-th harmonic of f, of amplitude A = |a_k cos kt + b_k sin kt|, has
pi A / 4 > eps: with p the polynomial and cos(kt - s) in phase with the harmonic, pi A = int (f - p) cos(kt - s) <= 4 sup |f - p|. The
largest such k gives a lower bound of 2k + 1 coefficients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

__all__ = ["FourierLength", "circle", "fourier_length"]

_RESOLVED = 8192
"""Equispaced angles in which the error is sampled and the reference series computed: far more than any function here needs."""


@dataclass(frozen=True)
class FourierLength:
    """tried: coefficients of the shorter polynomial found; least: no polynomial of the same error has fewer (up to the sampling)."""

    tried: int
    least: int


def circle(angles: Float[np.ndarray, " count"]) -> Float[np.ndarray, "count 2"]:
    """The points (cos t, sin t)."""
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def fourier_length(
    f: Callable[[Float[np.ndarray, " count"]], Float[np.ndarray, " count"]], eps: float, most: int = 600
) -> FourierLength | None:
    """Coefficients 2n + 1 of the least degree n tried whose sampled error is at most eps; None above degree `most`.

    f: function of the angle.
    """
    wanted = f(_angles(_RESOLVED))
    series = np.fft.rfft(wanted) / _RESOLVED
    audible = np.flatnonzero(np.pi / 4 * 2 * np.abs(series[1:]) > eps) + 1
    least = 2 * int(audible[-1]) + 1 if len(audible) else 1
    for n in range(most + 1):
        count = 2 * n + 1
        for c in (series[: n + 1], np.fft.rfft(f(_angles(count))) / count):
            if np.abs(np.fft.irfft(c, _RESOLVED) * _RESOLVED - wanted).max() <= eps:
                return FourierLength(count, least)
    return None


def _angles(count: int) -> Float[np.ndarray, " count"]:
    return 2 * np.pi * np.arange(count) / count
