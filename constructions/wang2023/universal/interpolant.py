"""Grid data as a formula: the multilinear interpolant, exactly, so that what is proved of it needs no Lipschitz constant.

With h = t_{i+1} - t_i the ramp r_i(t) = 1/2 + (|t - t_i| - |t - t_{i+1}|)/(2h) is 0 up to t_i, 1 from t_{i+1} on and linear between, so hat number i is
r_{i-1} - r_i (r_{-1} = 1, r_last = 0) and the interpolant is the sum over grid points of value times product of hats. Numbers are the floats, as fractions.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import sympy as sp
from jaxtyping import Float

from verify.target import GridTarget

__all__ = ["MOST_VALUES", "as_formulas"]

MOST_VALUES = 128
"""Grids with more points stay data: their formula would take long to enclose."""


def as_formulas(target: GridTarget, names: list[str]) -> list[sp.Expr] | None:
    """One expression for each output, in the variables `names`; None for a nearest interpolant (which jumps), or one that is too large."""
    count = math.prod(len(axis) for axis in target.axes)
    if target.interpolation != "linear" or count > MOST_VALUES:
        return None
    hats = [_hats(axis, sp.Symbol(name)) for axis, name in zip(target.axes, names, strict=True)]
    places = list(itertools.product(*(range(len(axis)) for axis in target.axes)))
    return [
        sp.Add(
            *(_exact(target.values[(*p, o)]) * sp.Mul(*(h[i] for h, i in zip(hats, p, strict=True))) for p in places)
        )
        for o in range(target.outputs)
    ]


def _hats(axis: Float[np.ndarray, " points"], t: sp.Symbol) -> list[sp.Expr]:
    knots = [_exact(x) for x in axis]
    ramps = [sp.Rational(1, 2) + (sp.Abs(t - a) - sp.Abs(t - b)) / (2 * (b - a)) for a, b in itertools.pairwise(knots)]
    return [left - right for left, right in itertools.pairwise([sp.Integer(1), *ramps, sp.Integer(0)])]


def _exact(x: float) -> sp.Expr:
    part = Fraction(float(x))
    return sp.Rational(part.numerator, part.denominator)
