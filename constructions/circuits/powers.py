"""Powers and logarithms of products, spread over the factors where signs allow it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sympy as sp

from constructions.circuits.ranges import Range, function_range

__all__ = ["flattened", "grouped", "log_of", "spread"]


def spread(e: Any, known: Callable[[sp.Expr], Range]) -> sp.Expr | None:
    """(a b)^p = a^p b^p: for integer p, or where every factor but one is certainly positive. None if it is not so."""
    if not e.exp.is_number:
        return None
    if not e.exp.is_Integer:
        doubtful = [f for f in e.base.args if not f.is_positive and not (not f.is_number and known(f)[0] > 0)]
        if len(doubtful) > 1 or any(f.is_number for f in doubtful):
            return None
    return sp.Mul(*(sp.Pow(f, e.exp) for f in e.base.args))


def flattened(e: sp.Expr, known: Callable[[sp.Expr], Range]) -> sp.Expr:
    """A product whose factors are no powers of products."""
    factors = []
    for f in sp.Mul.make_args(e):
        inner = spread(f, known) if isinstance(f, sp.Pow) and isinstance(f.base, sp.Mul) else None
        factors.append(f if inner is None else flattened(inner, known))
    return sp.Mul(*factors)


def log_of(function: Any, lo: float, hi: float) -> sp.Expr:
    """log of a function of z that is positive on [lo, hi], as a sum of logarithms of positive parts where it is one."""
    if isinstance(function, sp.exp):
        exponent: Any = function.exp
        return exponent
    if isinstance(function, sp.Abs):
        inner = function.args[0]
        least, most = function_range(inner, lo, hi)
        return log_of(inner if least > 0 else -inner, lo, hi) if least > 0 or most < 0 else sp.log(function)
    if isinstance(function, sp.Mul) and all(_positive(f, lo, hi) for f in function.args):
        return sp.Add(*(log_of(f, lo, hi) for f in function.args))
    if isinstance(function, sp.Pow) and function.exp.is_number and _positive(function.base, lo, hi):
        return function.exp * log_of(function.base, lo, hi)
    return sp.log(function)


def _positive(function: sp.Expr, lo: float, hi: float) -> bool:
    return function.is_positive is True or function_range(function, lo, hi)[0] > 0


def grouped(e: sp.Expr, wanted: Callable[[sp.Expr], bool]) -> list[sp.Expr]:
    """The factors; those whose product occurs inside another factor stay together if `wanted` says so.

    a b/(1 - a b) is one function of the product a b, which the flat list of factors hides.
    """
    factors = [f for f in sp.Mul.make_args(e)]
    inside = {m for f in factors for m in f.atoms(sp.Mul)}
    for m in sorted(inside, key=sp.default_sort_key, reverse=True):
        parts = [p for p in m.args if not p.is_number]
        if len(parts) > 1 and len(parts) < len(factors) and all(p in factors for p in parts):
            joined = sp.Mul(*parts)
            if wanted(joined):
                for p in parts:
                    factors.remove(p)
                return [joined, *factors]
    return factors
