"""Removable singularities: sin(a b)^2/b^2 = a^2 (sin(u)/u)^2 with u = a b, one smooth function of u."""

from __future__ import annotations

from collections.abc import Callable

import sympy as sp

from constructions.circuits.ir import Z, replaced
from constructions.circuits.ranges import Range

__all__ = ["removed"]

_ORDER = {sp.sin: 1, sp.tan: 1, sp.sinh: 1, sp.tanh: 1, sp.asin: 1, sp.atan: 1, sp.asinh: 1, sp.atanh: 1, sp.erf: 1}
"""Order of the zero at 0 of functions that have one there."""
_Fusion = tuple[sp.Expr, sp.Expr, sp.Expr]


def removed(e: sp.Expr, known: Callable[[sp.Expr], Range]) -> tuple[sp.Expr, list[_Fusion]]:
    """The product without its removable singularities, and those: (function of z, argument, the factor itself).

    A factor b^-m whose base vanishes on the domain and a factor f(a b)^k with f(0) = 0 become (f(u)/u)^m f(u)^(k - m) and a^m.
    """
    factors, out = list(sp.Mul.make_args(e)), []
    for pole in list(factors):
        base, exponent = pole.as_base_exp()
        if not (exponent.is_Integer and exponent < 0) or not _vanishes(base, known):
            continue
        for zero in factors:
            inner, power = zero.as_base_exp()
            if type(inner) not in _ORDER or not power.is_Integer or power < -exponent:
                continue
            argument = inner.args[0]
            other = sp.cancel(argument / base)
            if _vanishes_in_denominator(other, known):
                continue
            function = (inner.func(Z) / Z) ** (-exponent) * inner.func(Z) ** (power + exponent)
            out.append((function, argument, replaced(function, {Z: argument})))
            factors.remove(zero)
            factors.remove(pole)
            factors.append(other ** (-exponent))
            break
    return sp.Mul(*factors), out


def _vanishes(e: sp.Expr, known: Callable[[sp.Expr], Range]) -> bool:
    lo, hi = known(e)
    return lo <= 0 <= hi


def _vanishes_in_denominator(e: sp.Expr, known: Callable[[sp.Expr], Range]) -> bool:
    _, denominator = sp.fraction(sp.together(e))
    return bool(denominator.free_symbols) and _vanishes(denominator, known)
