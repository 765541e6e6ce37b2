"""NumPy's functions as formulas of single elements."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import sympy as sp

from constructions.trace.branches import as_number, compare, extreme, is_condition, select
from constructions.trace.graph import bits_of
from constructions.trace.outcome import CannotTrace

__all__ = ["FORMULAS", "MAX_BITS", "multiply", "sinc"]

MAX_BITS = 4096
"""Size of the largest exact constant a formula may hold."""


def multiply(a: Any, b: Any) -> Any:
    """The product of two elements."""
    # (x > 0) * x is a branch, not a product: say so, for `select` to recognise.
    if is_condition(a):
        return select(a, as_number(b), sp.S.Zero)
    return select(b, a, sp.S.Zero) if is_condition(b) else a * b


def _power(a: sp.Expr, b: sp.Expr) -> sp.Expr:
    if isinstance(b, sp.Rational) and abs(b) * bits_of(a.as_coeff_Mul()[0]) > MAX_BITS:  # SymPy multiplies (c x)**b out
        raise CannotTrace(f"a power in it needs an exact constant of more than {MAX_BITS} bits")
    return a**b


def _cbrt(x: sp.Expr) -> sp.Expr:
    """The real cube root: one of the two terms is zero, and SymPy's x**(1/3) is complex for x < 0."""
    third = sp.Rational(1, 3)
    return extreme(sp.Max, x, sp.S.Zero) ** third - extreme(sp.Max, -x, sp.S.Zero) ** third


def _arctan2(y: sp.Expr, x: sp.Expr) -> sp.Expr:
    """Half-angle formula tan(t/2) = sin t / (1 + cos t): undefined exactly on y = 0, x <= 0, where atan2 jumps."""
    return 2 * sp.atan(y / (sp.sqrt(x**2 + y**2) + x))


def _sign(x: sp.Expr) -> sp.Expr:
    negative = select(compare(sp.Lt, x, sp.S.Zero), sp.S.NegativeOne, sp.S.Zero)
    return select(compare(sp.Gt, x, sp.S.Zero), sp.S.One, negative)


def sinc(x: sp.Expr) -> sp.Expr:
    """NumPy's sinc, sin(pi x) / (pi x)."""
    return sp.sinc(sp.pi * x)


FORMULAS: Mapping[str, Callable[..., Any]] = MappingProxyType({
    "add": operator.add, "subtract": operator.sub, "divide": operator.truediv, "negative": operator.neg,
    "positive": operator.pos, "absolute": sp.Abs, "fabs": sp.Abs, "conjugate": operator.pos,
    "power": _power, "float_power": _power, "square": lambda x: _power(x, sp.Integer(2)), "reciprocal": lambda x: 1 / x,
    "sqrt": sp.sqrt, "cbrt": _cbrt, "hypot": lambda x, y: sp.sqrt(x**2 + y**2),
    "exp": sp.exp, "exp2": lambda x: sp.S(2) ** x, "expm1": lambda x: sp.exp(x) - 1,
    "log": sp.log, "log2": lambda x: sp.log(x) / sp.log(2), "log10": lambda x: sp.log(x) / sp.log(10),
    "log1p": lambda x: sp.log(1 + x), "logaddexp": lambda a, b: sp.log(sp.exp(a) + sp.exp(b)),
    "logaddexp2": lambda a, b: sp.log(sp.S(2) ** a + sp.S(2) ** b) / sp.log(2),
    "sin": sp.sin, "cos": sp.cos, "tan": sp.tan, "arcsin": sp.asin, "arccos": sp.acos, "arctan": sp.atan,
    "arctan2": _arctan2, "sinh": sp.sinh, "cosh": sp.cosh, "tanh": sp.tanh, "arcsinh": sp.asinh,
    "arccosh": sp.acosh, "arctanh": sp.atanh, "deg2rad": lambda x: x * sp.pi / 180, "rad2deg": lambda x: x * 180 / sp.pi,
    "maximum": functools.partial(extreme, sp.Max), "minimum": functools.partial(extreme, sp.Min), "sign": _sign,
    "erf": sp.erf, "erfc": lambda x: 1 - sp.erf(x), "ndtr": lambda x: (1 + sp.erf(x / sp.sqrt(2))) / 2,
    "expit": lambda x: 1 / (1 + sp.exp(-x)), "logit": lambda x: sp.log(x / (1 - x)), "sinc": sinc,
})  # fmt: skip
"""Formulas by NumPy (or scipy.special) name, each taking and returning SymPy expressions of real symbols."""
