"""Vectorised ball arithmetic on float64 arrays: every result encloses the exact one, rounding included.

A `Ball` is a pair of arrays (mid, rad) standing for all reals x with |x - mid| <= rad, element by element. Nothing here
switches the processor's rounding mode: each operation computes its midpoint in round-to-nearest and *adds a bound* of the
rounding error to the radius. Two facts of IEEE-754 double precision carry every derivation below, with u = 2^-53:

  (R)  fl(a op b) = (a op b)(1 + d),  |d| <= u,  for op in + - * /,  apart from underflow;
  (U)  underflow loses less than 2^-1022 (2^-1074 with gradual underflow), which `TINY` covers many times over.

A radius is itself computed with k <= 16 roundings of non-negative terms; the factor `UP` = 1 + 32u makes up for them.
An overflow or a NaN stays in the radius or the midpoint, and no comparison against it can succeed: such an element is
*undecided*, never proved.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Float

__all__ = ["TINY", "UP", "Ball", "U", "exp", "gamma", "inverse", "matmul", "total"]

U = 2.0**-53
"""Unit round-off of float64."""
UP = 1.0 + 32 * U
"""Makes up for the roundings inside the computation of a radius."""
TINY = 1e-290
"""Added to every radius: covers underflow in a product, a quotient or an exponential."""

Array = Float[np.ndarray, "..."]


def gamma(n: int) -> float:
    """Higham's gamma_n = n u / (1 - n u), rounded up: a sum or inner product of n terms, in any order, with or without
    fused multiply-add, differs from the exact one by at most gamma_n times the sum of absolute values."""
    if n * U >= 0.5:
        raise ValueError(f"n = {n}: too many terms for an error bound in float64")
    return n * U / (1 - n * U) * UP


@dataclass(frozen=True, eq=False)
class Ball:
    """An array of balls. mid, rad: float64 arrays of one shape; rad >= 0 (inf or NaN: nothing is known)."""

    mid: Array
    rad: Array

    @staticmethod
    def exact(x: Array | float) -> Ball:
        """Balls of radius zero."""
        mid = np.asarray(x, dtype=np.float64)
        return Ball(mid, np.zeros_like(mid))

    @staticmethod
    def between(lo: Array, hi: Array) -> Ball:
        """The smallest convenient balls that contain [lo, hi], element by element."""
        mid = lo + (hi - lo) * 0.5
        rad = np.maximum(hi - mid, mid - lo) * UP + np.where(hi == lo, 0.0, TINY)
        return Ball(mid, rad)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.mid.shape

    def __getitem__(self, index: object) -> Ball:
        return Ball(self.mid[index], self.rad[index])  # type: ignore[index]

    def lower(self) -> Array:
        """A float below every element's ball; NaN where the midpoint overflowed."""
        low = np.where(self.rad == 0, self.mid, np.nextafter(self.mid - self.rad, -np.inf))
        return np.where(np.isfinite(self.mid), low, np.nan)

    def upper(self) -> Array:
        """A float above every element's ball; NaN where the midpoint overflowed."""
        high = np.where(self.rad == 0, self.mid, np.nextafter(self.mid + self.rad, np.inf))
        return np.where(np.isfinite(self.mid), high, np.nan)

    def magnitude(self) -> Array:
        """A float above |x| for every x of the ball."""
        return np.where(self.rad == 0, np.abs(self.mid), np.nextafter(np.abs(self.mid) + self.rad, np.inf))

    def __neg__(self) -> Ball:
        return Ball(-self.mid, self.rad)

    def __add__(self, other: Ball) -> Ball:
        # |fl(a+b) - (a+b)| <= u |fl(a+b)|, and a sum never underflows to a wrong value.
        mid = self.mid + other.mid
        return Ball(mid, (self.rad + other.rad + U * np.abs(mid)) * UP + TINY)

    def __sub__(self, other: Ball) -> Ball:
        return self + (-other)

    def __mul__(self, other: Ball) -> Ball:
        # |ab - AB| <= |A| rb + ra (|B| + rb) for a in A +- ra, b in B +- rb; plus u |fl(AB)| for the product itself.
        mid = self.mid * other.mid
        rad = np.abs(self.mid) * other.rad + self.rad * (np.abs(other.mid) + other.rad) + U * np.abs(mid)
        return Ball(mid, rad * UP + TINY)

    def scale(self, factor: Array | float) -> Ball:
        """Product with an exact factor."""
        mid = self.mid * factor
        return Ball(mid, (self.rad * np.abs(factor) + U * np.abs(mid)) * UP + TINY)

    def shift(self, by: Array | float) -> Ball:
        """Sum with an exact number."""
        mid = self.mid + by
        return Ball(mid, (self.rad + U * np.abs(mid)) * UP + TINY)

    def enlarge(self, by: Array | float) -> Ball:
        """The same midpoints with a larger radius."""
        return Ball(self.mid, (self.rad + by) * UP)

    def hull(self, other: Ball) -> Ball:
        """Balls that contain both."""
        return Ball.between(np.minimum(self.lower(), other.lower()), np.maximum(self.upper(), other.upper()))

    def where(self, condition: np.ndarray, other: Ball) -> Ball:
        """Self where the condition holds, the other elsewhere (no value of an unselected element leaks)."""
        return Ball(np.where(condition, self.mid, other.mid), np.where(condition, self.rad, other.rad))


def inverse(x: Ball) -> Ball:
    """1/x; an infinite radius where x may be zero.

    |1/y - 1/m| = |y - m| / (|y| |m|) <= r / ((|m| - r)|m|) for |y - m| <= r < |m|; plus u |fl(1/m)|.
    """
    gap = np.abs(x.mid) * (1 - 4 * U) - x.rad * UP
    ok = gap > 0
    with np.errstate(all="ignore"):
        mid = 1.0 / np.where(ok, x.mid, 1.0)
        rad = (x.rad / np.where(ok, gap, 1.0) * np.abs(mid) * (1 + 4 * U) + 2 * U * np.abs(mid)) * UP + TINY
    return Ball(np.where(ok, mid, 0.0), np.where(ok, rad, np.inf))


def total(x: Ball, axis: int) -> Ball:
    """Sum along an axis, whatever the order of the additions."""
    n = x.mid.shape[axis]
    mid = x.mid.sum(axis)
    slack = gamma(n) * (1 + 2 * gamma(n))
    rad = x.rad.sum(axis) + slack * (np.abs(x.mid).sum(axis) + x.rad.sum(axis))
    return Ball(mid, rad * UP + TINY)


def matmul(x: Ball, y: Ball) -> Ball:
    """Matrix product (leading axes broadcast as in numpy.matmul), whatever the order of the additions.

    |fl(XY) - XY| <= gamma_n |X||Y|, and the radii enter as |X| ry + rx (|Y| + ry); the two matrix products of non-negative
    arrays that give the radius are themselves low by at most a factor 1 - gamma_n.
    """
    n = x.mid.shape[-1]
    ax, ay = np.abs(x.mid), np.abs(y.mid)
    g = gamma(n + 2)
    mid = x.mid @ y.mid
    rad = ax @ (y.rad + g * ay) + x.rad @ (ay + y.rad)
    return Ball(mid, rad * (1 + 4 * g) * UP + n * TINY)


# exp: constants of the reduction x = k ln 2 + t. LN2_HI has 32 significant bits, so k * LN2_HI is exact for |k| < 2^21.
_LN2_HI = math.ldexp(math.floor(math.ldexp(math.log(2.0), 32)), -32)
_LN2_LO = 1.9082149292705877e-10
_TAYLOR = tuple(float(Fraction(1, math.factorial(k))) for k in range(14))
EXP_RELATIVE_ERROR = 8 * U


def _exp_point(x: Array) -> Array:
    """e^x within a relative error of EXP_RELATIVE_ERROR for -700 <= x <= 700, from IEEE operations alone.

    k = rint(x / ln 2), t = x - k ln 2, |t| <= ln(2)/2 + 2^-50 < 0.3466.
      - k LN2_HI is exact, x - k LN2_HI is rounded by at most u |.| <= 0.35 u; k LN2_LO (<= 2e-7) by 2e-7 u; the second
        difference by 0.35 u; LN2_HI + LN2_LO misses ln 2 by < 2^-84, times |k| <= 1010: < 2^-73. So |dt| <= 0.71 u.
      - the Taylor polynomial of degree 13 misses e^t by at most t^14/14! e^|t| <= 0.055 u e^t * e^{2|t|} < 0.12 u e^t.
      - Horner's scheme p_k = c_k + t p_{k+1}: each step's error is at most u(|t p| + |p_k|) + u c_k + |t| (error of p_{k+1}),
        which sums to less than 3.2 u e^t for |t| <= 0.35 (checked: the recursion's fixed point).
      - scaling by 2^k is exact in this range.
    In total < 0.75 + 0.12 + 3.2 < 5 units u, stated as 8.
    """
    k = np.rint(x * 1.4426950408889634)
    t = (x - k * _LN2_HI) - k * _LN2_LO
    p = np.full_like(t, _TAYLOR[13])
    for c in _TAYLOR[12::-1]:
        p *= t
        p += c
    return np.ldexp(p, k.astype(np.int32))


def exp(x: Ball) -> Ball:
    """e^x. Below -600 the value is under TINY; above 700 nothing is known (infinite radius).

    |e^y - E| <= e^m (e^r - 1) + 8u E for |y - m| <= r, with e^r - 1 <= r e^r.
    """
    mid, rad = np.broadcast_arrays(x.mid, x.rad)
    ok = (mid <= 600) & (rad <= 100)  # False for NaN
    m = np.where(ok, np.maximum(mid, -690.0), 0.0)
    r = np.where(ok, rad, 0.0)
    value = _exp_point(m)
    growth = np.where(r > 0, r * _exp_point(r) * (1 + 16 * U), 0.0)
    error = value * (growth + EXP_RELATIVE_ERROR) * UP + TINY
    # a midpoint below -690 was raised to -690: both values lie in [0, e^(r - 690)], and e^-690 < 1e-299 < TINY e^-20
    error = np.where(mid < -690.0, error + TINY * _exp_point(np.minimum(r, 100.0)), error)
    return Ball(np.where(ok, value, 0.0), np.where(ok, error, np.inf))
