"""A univariate function of one linear form, not yet a node: composing with it is free until its value has to be read beside others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sympy as sp

from constructions.circuits.ir import Z, replaced

__all__ = ["Form", "Fused", "affine_parts", "constant", "form_expression", "of_form", "parallel", "stripped"]

Form = tuple[tuple[sp.Symbol, sp.Expr], ...]
"""A linear form: symbols in the order of their names with coefficients; normalised: the first coefficient is 1."""


@dataclass(frozen=True)
class Fused:
    """x -> function(read(x)); function: of z; read: a normalised form, empty for a constant."""

    function: sp.Expr
    read: Form

    def then(self, function: sp.Expr) -> Fused:
        """A function of z applied to this."""
        return Fused(replaced(function, {Z: self.function}), self.read)


def constant(value: sp.Expr) -> Fused:
    """The same value everywhere."""
    return Fused(value, ())


def of_form(coefficients: Mapping[sp.Symbol, sp.Expr], offset: sp.Expr) -> Fused:
    """An affine form as a function of its normalised direction."""
    terms = [(s, c) for s, c in sorted(coefficients.items(), key=lambda t: t[0].name) if c != 0]
    if not terms:
        return constant(offset)
    scale = terms[0][1]
    return Fused(scale * Z + offset, tuple((s, c / scale) for s, c in terms))


def form_expression(read: Form, offset: sp.Expr = sp.S.Zero) -> sp.Expr:
    """The form as a SymPy sum."""
    return sp.Add(*(c * s for s, c in read), offset)


def affine_parts(function: Any) -> tuple[sp.Expr, sp.Expr] | None:
    """(a, b) if the function is a z + b."""
    if not function.has(Z):
        return sp.S.Zero, function
    if not function.is_polynomial(Z):
        return None
    expanded: Any = sp.expand(function)
    slope = expanded.coeff(Z, 1)
    offset: Any = sp.expand(expanded - slope * Z)
    return None if offset.has(Z) or slope.has(Z) else (slope, offset)


def stripped(function: Any) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    """(core, a, b) with function = a core + b; functions that differ by an affine map of their values share the core."""
    offset, rest = function.as_independent(Z, as_Add=True)
    scale, core = rest.as_independent(Z, as_Add=False)
    if core.is_Add and core.could_extract_minus_sign():
        scale, core = -scale, sp.Add(*(-t for t in core.args))
    return core, scale, offset


def parallel(coefficients: Mapping[sp.Symbol, sp.Expr], read: Form) -> sp.Expr | None:
    """The factor c with coefficients = c read, if there is one."""
    nonzero = {s: c for s, c in coefficients.items() if c != 0}
    if not nonzero:
        return sp.S.Zero
    if set(nonzero) != {s for s, _ in read}:
        return None
    factor = nonzero[read[0][0]]
    return factor if all(nonzero[s] == factor * c for s, c in read) else None
