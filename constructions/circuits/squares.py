"""Completing squares: a p^2 + b q^2 + c p q r with c^2 = 4 a b, |r| <= 1, as (sqrt(a) p - s sqrt(b) q)^2 + |c| p q (1 + ...), terms of one sign.

x^2 + y^2 - 2 x y cos(t) = (x - y)^2 + 2 x y (1 - cos(t)): under a root a sum of terms that are not negative keeps its range from reaching
below 0, and what each step has lost there is not squared away.
"""

from __future__ import annotations

import itertools
from typing import Any

import sympy as sp

__all__ = ["completed"]

_BOUNDED = (sp.cos, sp.sin, sp.tanh, sp.erf)


def completed(e: Any) -> Any:
    """The expression with every such sum written so; a part that is not one is left as it is."""
    if not e.args:
        return e
    e = e.func(*(completed(a) for a in e.args))
    return _sum(e) if e.is_Add else e


def _sum(e: Any) -> Any:
    terms = list(e.args)
    for first, second in itertools.combinations(terms, 2):
        (a, p), (b, q) = _square(first), _square(second)
        if p is None or q is None:
            continue
        for cross in terms:
            if cross is first or cross is second:
                continue
            c, rest = (cross / (p * q)).as_coeff_Mul()
            if isinstance(rest, _BOUNDED) and c**2 == 4 * a * b:
                others = [t for t in terms if t not in (first, second, cross)]
                sign = 1 if c > 0 else -1
                squared = (sp.sqrt(a) * p - sp.sqrt(b) * q) ** 2
                return (
                    _sum(sp.Add(squared, abs(c) * p * q * (1 + sign * rest), *others, evaluate=True))
                    if others
                    else (squared + abs(c) * p * q * (1 + sign * rest))
                )
    return e


def _square(term: Any) -> tuple[Any, Any]:
    """a and p of a p^2 with a > 0 rational; (0, None) if the term is not of this kind."""
    a, rest = term.as_coeff_Mul()
    if a > 0 and rest.is_Pow and rest.exp == 2 and rest.base.free_symbols:
        return a, rest.base
    return sp.S.Zero, None
