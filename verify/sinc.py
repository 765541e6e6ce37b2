"""sinc(u) = sin(u)/u, 1 at 0: Taylor coefficients at points and over intervals, also across 0.

Write a_k(u) = sinc^(k)(u)/k!. From sinc(u) = int_0^1 cos(u t) dt, differentiated under the integral,
|sinc^(k)(u)| <= int_0^1 t^k dt = 1/(k+1) for every real u, hence  (B)  |a_k(u)| <= 1/(k+1)!.

At a point m with |m| >= 1: the k-th Taylor coefficient of u sinc(u) = sin u gives m a_k + a_(k-1) = sin(m + k pi/2)/k!, and the
division by m does not enlarge errors.
At |m| < 1: sinc(u) = sum_j (-1)^j u^(2j)/(2j+1)!, cut before degree N and moved to m as a polynomial. What is cut contributes to a_k at
most sum_(n >= N) C(n, k) |m|^(n-k)/(n+1)! <= sum_(n >= N) 1/(k! (n-k)! (n+1)) <= 2/(k! (N-k)! (N+1)), over even n: for N > k + 1 the
terms fall at least by a factor 6.

Over [m - r, m + r], by Taylor's formula with Lagrange's remainder, a_k(m + h) is a_k(m) + E_1 with |E_1| <= r (k+1)/(k+2)!, and
a_k(m) + (k+1) a_(k+1)(m) h + E_2 with |E_2| <= r^2 C(k+2, 2)/(k+3)!, because a_k^(j)/j! = C(k+j, j) a_(k+j) and by (B); the
enclosure is the intersection of both and of (B). The range itself, k = 0, comes from the ends on |u| <= 4.49: sinc falls there in |u|,
for u^2 sinc'(u) = g(u) = u cos u - sin u has g(0) = 0, g' = -u sin u <= 0 on [0, pi] and >= 0 on [pi, 4.49], and g(4.49) < -0.01.
"""

from __future__ import annotations

from math import comb, factorial, inf, nan

import flint
import numpy as np

from verify.ball import Ball
from verify.precision import arb_bounds, working_precision

__all__ = ["sinc_coefficients"]

_FALLS_UNTIL = 4.49
_SERIES_MARGIN = 30  # terms beyond the last coefficient: what is cut is below 2^-107 of 1/k!
_PRECISION = 96


def sinc_coefficients(u: Ball, order: int) -> list[Ball]:
    """Enclosures of sinc^(k)(v)/k!, k = 0..order, for every v of each ball, in the shape of u; NaN where u is not finite."""
    mid, rad = u.mid.ravel(), u.rad.ravel()
    lo, hi = np.full((2, order + 1, mid.size), nan)
    with working_precision(_PRECISION + 2 * factorial(order + 3).bit_length()):
        for i in range(mid.size):
            m, r = float(mid[i]), float(rad[i])
            if np.isfinite(m) and np.isfinite(r):
                lo[:, i], hi[:, i] = _over(m, r, order) if r else _bounds(_at(m, order))
    return [Ball.between(a.reshape(u.shape), b.reshape(u.shape)) for a, b in zip(lo, hi, strict=True)]


def _at(m: float, order: int) -> list[flint.arb]:
    """a_0(m), ..., a_order(m)."""
    return _recurrence(flint.arb(m), order) if abs(m) >= 1 else _moved(flint.arb(m), order)


def _recurrence(m: flint.arb, order: int) -> list[flint.arb]:
    sine, cosine = m.sin(), m.cos()
    turned = (sine, cosine, -sine, -cosine)
    out = [sine / m]
    for k in range(1, order + 1):
        out.append((turned[k % 4] / factorial(k) - out[-1]) / m)
    return out


def _moved(m: flint.arb, order: int) -> list[flint.arb]:
    cut = order + _SERIES_MARGIN
    series = [_reciprocal((-1) ** (n // 2) * factorial(n + 1)) if n % 2 == 0 else flint.arb(0) for n in range(cut)]
    at_m = flint.arb_poly(series)(flint.arb_poly([m, flint.arb(1)]))
    return [at_m[k] + _ball(2 * _reciprocal(factorial(k) * factorial(cut - k) * (cut + 1))) for k in range(order + 1)]


def _over(m: float, r: float, order: int) -> tuple[list[float], list[float]]:
    """Ends of the ranges of a_0, ..., a_order over [m - r, m + r]."""
    at, size = _at(m, order + 1), flint.arb(r)
    lo, hi = [], []
    for k in range(order + 1):
        first = _ball(size * (k + 1) * _reciprocal(factorial(k + 2)))
        second = _ball(size) * (k + 1) * at[k + 1] + _ball(size * size * comb(k + 2, 2) * _reciprocal(factorial(k + 3)))
        every = [at[k] + first, at[k] + second, _ball(_reciprocal(factorial(k + 1)))]
        ends = [arb_bounds(x) for x in every]
        lo.append(max(a for a, _ in ends))
        hi.append(min(b for _, b in ends))
    a, b = _range(flint.arb(m) - size, flint.arb(m) + size)
    lo[0], hi[0] = max(lo[0], a), min(hi[0], b)
    return lo, hi


def _range(lo: flint.arb, hi: flint.arb) -> tuple[float, float]:
    """Bounds of sinc between two numbers, from the ends where it is monotone in |u|."""
    far = abs(lo).max(abs(hi))
    if not far < _FALLS_UNTIL:
        return -inf, inf
    top = 1.0 if not (lo > 0 or hi < 0) else arb_bounds(abs(lo).min(abs(hi)).sinc())[1]
    return arb_bounds(far.sinc())[0], top


def _bounds(values: list[flint.arb]) -> tuple[list[float], list[float]]:
    ends = [arb_bounds(x) for x in values]
    return [a for a, _ in ends], [b for _, b in ends]


def _reciprocal(n: int) -> flint.arb:
    return flint.arb(1) / n


def _ball(radius: flint.arb) -> flint.arb:
    """All numbers of at most this size."""
    return flint.arb(0, 1) * radius
