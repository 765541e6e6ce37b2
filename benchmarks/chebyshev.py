"""How many Chebyshev coefficients a function needs for a sampled sup error: the measure that tokens are compared with.

Three polynomials are tried for every degree, and the best counts: the interpolants in Chebyshev points of the first and the second
kind, and the truncated Chebyshev series (Trefethen, Approximation Theory and Approximation Practice, chapters 2 to 4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float
from numpy.polynomial.chebyshev import chebvander
from scipy.fft import dct

__all__ = ["coefficients_needed", "tensor_coefficients_needed"]

_RESOLVED = 2048
"""Points in which the reference series is computed: far more than any function here needs."""


def coefficients_needed(f: Callable[[np.ndarray], np.ndarray], eps: float, most: int = 600) -> int | None:
    """Coefficients of the shortest polynomial tried whose error on 4001 points of [-1, 1] is at most eps; None above `most`."""
    x = np.linspace(-1, 1, 4001)
    basis = chebvander(x, most - 1)
    wanted = f(x)
    series = _first_kind(f(_first_kind_points(_RESOLVED)))
    for count in range(1, most + 1):
        for c in _polynomials(f, count, series):
            if np.abs(basis[:, :count] @ c - wanted).max() <= eps:
                return count
    return None


def tensor_coefficients_needed(
    f: Callable[[np.ndarray, np.ndarray], np.ndarray], eps: float, most: int = 100
) -> int | None:
    """The same on [-1, 1]^2 with m x m coefficients of tensor products, on 301 x 301 points: the smallest m^2."""
    x = np.linspace(-1, 1, 301)
    basis = chebvander(x, most - 1)
    wanted = f(x[:, None], x[None])

    def rows(a: np.ndarray) -> np.ndarray:
        return _first_kind(_first_kind(a).T).T

    fine = _first_kind_points(200)
    series = rows(f(fine[:, None], fine[None]))
    for count in range(2, most + 1):
        first, second = _first_kind_points(count), _second_kind_points(count)
        values = f(second[:, None], second[None])
        tried = (
            series[:count, :count],
            rows(f(first[:, None], first[None])),
            _second_kind(_second_kind(values).T).T,
        )
        if any(np.abs(basis[:, :count] @ c @ basis[:, :count].T - wanted).max() <= eps for c in tried):
            return count * count
    return None


def _polynomials(f: Callable[[np.ndarray], np.ndarray], count: int, series: np.ndarray) -> Iterator[np.ndarray]:
    yield series[:count]
    yield _first_kind(f(_first_kind_points(count)))
    if count > 1:
        yield _second_kind(f(_second_kind_points(count)))


def _first_kind_points(count: int) -> Float[np.ndarray, " count"]:
    return np.cos((np.arange(count) + 0.5) * np.pi / count)


def _second_kind_points(count: int) -> Float[np.ndarray, " count"]:
    return np.cos(np.arange(count) * np.pi / (count - 1))


def _first_kind(values: np.ndarray) -> np.ndarray:
    """Values in points of the first kind to coefficients, along the first axis."""
    c = np.asarray(dct(values, type=2, axis=0)) / len(values)
    c[0] /= 2
    return c


def _second_kind(values: np.ndarray) -> np.ndarray:
    """Values in points of the second kind to coefficients, along the first axis."""
    c = np.asarray(dct(values, type=1, axis=0)) / (len(values) - 1)
    c[0] /= 2
    c[-1] /= 2
    return c
