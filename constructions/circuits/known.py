"""What is known about a problem's parts over its domain: ranges, computed once for all candidate circuits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import sympy as sp

from constructions.circuits.conjugate import written_out
from constructions.circuits.ir import Z, replaced
from constructions.circuits.ranges import Range, bounds, function_range
from constructions.errors import CompileError
from verify.domain import Box

__all__ = ["Known", "Value", "finite", "narrower"]

_DYNAMIC_RANGE = 1e6  # a logarithm of a factor that comes closer to 0 costs more tokens than a product node
_SLACK = 1e-9
_EVERYWHERE: Range = (-math.inf, math.inf)
Value = tuple[sp.Expr, Range]
"""A node's value as an expression in the variables, and where it lies."""


class Known:
    """Ranges over one domain, remembered."""

    def __init__(self, domain: Box) -> None:
        self.domain = domain
        names = domain.names or ()
        self._sides = dict(zip(names, zip(domain.lo, domain.hi, strict=True), strict=True))
        self._ranges: dict[sp.Expr, Range] = {}
        self._functions: dict[tuple[sp.Expr, Range], Range] = {}

    def range(self, e: sp.Expr) -> Range:
        """Bounds of an expression in the variables; infinite where nothing is known."""
        if e not in self._ranges:
            try:
                self._ranges[e] = bounds(written_out(e), self.domain)
            except CompileError:
                self._ranges[e] = _EVERYWHERE
        return self._ranges[e]

    def affine(self, form: sp.Expr, values: Mapping[sp.Basic, Value]) -> Range:
        """Bounds of an affine form of variables and nodes: term by term, sharpened if terms share variables."""
        lo = hi = 0.0
        used: set[sp.Basic] = set()
        shared = False
        for term in sp.Add.make_args(form):
            if not term.free_symbols:
                lo, hi = lo + float(term), hi + float(term)
                continue
            symbol: Any = next(iter(term.free_symbols))  # affine: one symbol a term
            explicit, side = values[symbol] if symbol in values else (symbol, self._sides[str(symbol)])
            shared = shared or not used.isdisjoint(explicit.free_symbols)
            used |= explicit.free_symbols
            slope: Any = term.coeff(symbol)
            ends = [float(slope) * x for x in side]
            lo, hi = lo + min(ends), hi + max(ends)
        if not shared:
            return lo, hi
        return narrower((lo, hi), self.range(replaced(form, {s: e for s, (e, _) in values.items()})))

    def function(self, function: sp.Expr, read: Range) -> Range:
        """Bounds of a function of z on a range, which rounding may have widened past an end of where the function is defined.

        A function with a removable singularity inside (sin(z)/z at 0) is bounded on the two sides of it, a hair away.
        """
        key = (function, read)
        if key not in self._functions:
            self._functions[key] = _defined_range(function, *read)
        return self._functions[key]

    @staticmethod
    def safely_positive(lo: float, hi: float) -> bool:
        """Whether a logarithm of the factor is a smooth function that a few tokens hold."""
        return lo > 0 and hi < math.inf and hi <= _DYNAMIC_RANGE * lo


def narrower(a: Range, b: Range) -> Range:
    """The numbers in both."""
    return max(a[0], b[0]), min(a[1], b[1])


def finite(r: Range) -> bool:
    """Whether both ends are numbers."""
    return math.isfinite(r[0]) and math.isfinite(r[1])


def _defined_range(function: sp.Expr, lo: float, hi: float) -> Range:
    if not (math.isfinite(lo) and math.isfinite(hi)):
        return _EVERYWHERE
    try:
        found = function_range(function, lo, hi)
        if not finite(found):
            slack = _SLACK * (hi - lo)
            found = function_range(function, lo + slack, hi - slack)
        if not finite(found) and lo < 0 < hi and _removable(function):
            gap = 1e-3 * (hi - lo)
            sides = [function_range(function, a, b) for a, b in ((lo, -gap), (gap, hi)) if a < b]
            found = min(s[0] for s in sides), max(s[1] for s in sides)
        return found
    except CompileError:
        return _EVERYWHERE


def _removable(function: sp.Expr) -> bool:
    """Whether the function has a finite limit at 0 on both sides, by values nearby."""
    near = [function.subs(Z, sp.Float(x, 40)) for x in (-1e-8, -1e-9, 1e-9, 1e-8)]
    try:
        values = [float(v) for v in near]
    except TypeError:
        return False
    return max(values) - min(values) <= 1e-4 * max(1.0, abs(values[0]))
