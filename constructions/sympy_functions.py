"""Which SymPy functions the kernel has a counterpart for, directly or by definition, and why others have none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import sympy as sp
from sympy.codegen import cfunctions
from sympy.core.function import AppliedUndef
from sympy.logic.boolalg import Boolean

from constructions.errors import UnsupportedExpressionError

__all__ = ["DEFINITIONS", "FUNCTIONS", "refused", "why_not"]

FUNCTIONS: Mapping[type, str] = MappingProxyType({
    sp.exp: "exp", sp.log: "log", sp.sin: "sin", sp.cos: "cos", sp.tan: "tan", sp.sinh: "sinh", sp.cosh: "cosh",
    sp.tanh: "tanh", sp.asin: "asin", sp.acos: "acos", sp.atan: "atan", sp.asinh: "asinh", sp.acosh: "acosh",
    sp.atanh: "atanh", sp.erf: "erf", sp.Abs: "abs", sp.sinc: "sinc",
})  # fmt: skip
"""The kernel's functions of one argument."""


def _half_angle(y: Any, x: Any) -> Any:
    """tan(t/2) = sin t / (1 + cos t): undefined exactly on y = 0, x <= 0, where atan2 jumps, so the kernel sees a crossing."""
    return 2 * sp.atan(y / (sp.sqrt(x**2 + y**2) + x))


DEFINITIONS: Mapping[type, Callable[..., Any]] = MappingProxyType({
    sp.sec: lambda x: 1 / sp.cos(x), sp.csc: lambda x: 1 / sp.sin(x), sp.cot: lambda x: 1 / sp.tan(x),
    sp.sech: lambda x: 1 / sp.cosh(x), sp.csch: lambda x: 1 / sp.sinh(x), sp.coth: lambda x: 1 / sp.tanh(x),
    sp.asec: lambda x: sp.acos(1 / x), sp.acsc: lambda x: sp.asin(1 / x), sp.acot: lambda x: sp.atan(1 / x),
    sp.asech: lambda x: sp.acosh(1 / x), sp.acsch: lambda x: sp.asinh(1 / x), sp.acoth: lambda x: sp.atanh(1 / x),
    sp.erfc: lambda x: 1 - sp.erf(x), sp.erf2: lambda a, b: sp.erf(b) - sp.erf(a), sp.atan2: _half_angle,
    cfunctions.exp2: lambda x: sp.S(2) ** x, cfunctions.expm1: lambda x: sp.exp(x) - 1, cfunctions.log1p: lambda x: sp.log(1 + x),
    cfunctions.log2: lambda x: sp.log(x) / sp.log(2), cfunctions.log10: lambda x: sp.log(x) / sp.log(10),
    cfunctions.Sqrt: sp.sqrt, cfunctions.Cbrt: sp.cbrt, cfunctions.hypot: lambda x, y: sp.sqrt(x**2 + y**2),
    cfunctions.fma: lambda x, y, z: x * y + z, sp.re: lambda x: x, sp.conjugate: lambda x: x, sp.UnevaluatedExpr: lambda x: x,
})  # fmt: skip
"""Functions by their definition in others; undefined, for the kernel to notice, where they jump or are not real."""

_JUMPS = (sp.sign, sp.Heaviside, sp.floor, sp.ceiling, sp.frac, sp.Mod)
_UNEVALUATED = (sp.Integral, sp.Sum, sp.Product, sp.Derivative, sp.Limit, sp.Subs)
_SHOWN_NODES = 60
_SHOWN_BITS = 8_000  # Python refuses to print integers of more than 4300 digits


def refused(part: Any, reason: str = "is not supported", next_step: str = "") -> UnsupportedExpressionError:
    """The error that names `part`; a large one by its function, for SymPy's printer recurses, and repeats what is shared."""
    stack, seen = [part], 0
    while stack and seen <= _SHOWN_NODES:
        stack.extend(getattr(stack.pop(), "args", ()))
        seen += 1
    shown = part
    if stack or any(
        number.bit_length() > _SHOWN_BITS for a in part.atoms(sp.Rational) for number in (int(a.p), int(a.q))
    ):
        shown = f"{part.func.__name__}(...)"
    return UnsupportedExpressionError(part=shown, reason=reason, next_step=next_step)


def why_not(e: Any) -> tuple[str, str]:
    """The reason and the next step for an expression without a rule ("" for the usual ones)."""
    if isinstance(e, _JUMPS):
        where = "If it cannot jump inside the domain, write the branch that holds there; if eps is larger than half its jump, write it with Piecewise."
        return "is discontinuous: no head is within less than half its jump", where
    if isinstance(e, sp.DiracDelta):
        return "is a distribution, not a function", ""
    if any(e is infinite for infinite in (sp.nan, sp.oo, sp.S.NegativeInfinity, sp.zoo)):
        return "is not a finite number", "Look for a division by zero, or a pole, where f was built."
    if e is sp.I or isinstance(e, sp.arg):
        return "is not real", "Write the real and the imaginary part as two components."
    if isinstance(e, sp.NumberSymbol):
        return (
            "is a constant without an exact enclosure here",
            "Use pi, E, algebraic numbers, or a rational number near it.",
        )
    if isinstance(e, _UNEVALUATED):
        return f"is an unevaluated {type(e).__name__}", "Evaluate it before, for example with f.doit()."
    if isinstance(e, AppliedUndef):
        return "is a function without a definition", "Replace it by its formula."
    if isinstance(e, Boolean):
        return "is a truth value, not a number", "Write Piecewise((1, condition), (0, True))."
    return "is not supported", ""
