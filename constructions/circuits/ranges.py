"""Ranges of SymPy expressions over a box: interval arithmetic, ends where the expression is monotone, bisection elsewhere."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import sympy as sp
from jaxtyping import Float

from constructions.circuits.intervals import enclose
from constructions.circuits.ir import Z
from constructions.from_sympy import from_sympy
from verify.domain import Box
from verify.expression import Expression

__all__ = ["Range", "bounds", "function_range"]

Range = tuple[float, float]
_ROUNDS = 8
_KEPT = 32
_CLOSE = 1e-3


def bounds(expression: sp.Expr, domain: Box) -> Range:
    """Numbers lo <= f <= hi on the box, whose names are the expression's variables; infinite where nothing could be bounded.

    Up to float64 rounding these are bounds; they are close to the range (about 1e-3 of the value) for functions that bisection resolves
    in a few rounds. Raises what `from_sympy` raises for what the kernel cannot enclose.
    """
    names = domain.names or ()
    used = sorted((str(s) for s in expression.free_symbols), key=names.index)
    if not used:
        value = float(expression)
        return value, value
    lo, hi = domain.bounds
    at = [names.index(name) for name in used]
    table = from_sympy([expression], used)
    return least(table, lo[at], hi[at]), -least(from_sympy([-expression], used), lo[at], hi[at])


@lru_cache(maxsize=4096)
def function_range(function: sp.Expr, lo: float, hi: float) -> Range:
    """Bounds of a function of z on [lo, hi]; infinite where it may be undefined."""
    if not function.free_symbols:
        return float(function), float(function)
    if lo == hi:
        value = float(from_sympy([function], [Z.name]).evaluate(np.array([[lo]]))[0, 0])
        return (value, value) if math.isfinite(value) else (-math.inf, math.inf)
    return bounds(function, Box({Z.name: (lo, hi)}))


def least(expression: Expression, lo: Float[np.ndarray, " n"], hi: Float[np.ndarray, " n"]) -> float:
    """A number below the expression on the box, close to its infimum; -inf where it may be undefined.

    Branch and bound: a variable in which the expression is monotone on a cell is set to the end where it is least, a cell
    whose bound is below the best known value is halved along the axis that moves the value most.
    """
    a, b = lo[None], hi[None]
    best, below = math.inf, math.inf
    low = np.array([-math.inf])
    for _ in range(_ROUNDS):
        found = enclose(expression, a, b)
        a, b = np.where(found.up <= 0, b, a), np.where(found.down >= 0, a, b)
        low = np.nan_to_num(enclose(expression, a, b).lo, nan=-math.inf)
        samples = expression.evaluate(np.concatenate([a, b, a + (b - a) * 0.5]))[:, 0]
        best = min(best, float(np.nanmin(np.append(samples, best))))
        tolerance = _CLOSE * (_CLOSE + abs(best)) if math.isfinite(best) else 0.0
        halved = np.any(a < b, axis=1) & (low < best - tolerance)
        order = np.flatnonzero(halved)[np.argsort(low[halved], kind="stable")][:_KEPT]
        halved[:] = False
        halved[order] = True
        below = min(below, float(np.min(low[~halved], initial=math.inf)))
        if not halved.any():
            return below
        a, b, low = a[halved], b[halved], low[halved]
        steepest = np.minimum(np.maximum(-found.down, found.up)[halved], 1e300)
        axis, rows = np.argmax(np.where(b > a, steepest * (b - a) + 1e-300, -1.0), axis=1), np.arange(len(a))
        middle = (a + (b - a) * 0.5)[rows, axis]
        left, right = b.copy(), a.copy()
        left[rows, axis], right[rows, axis] = middle, middle
        a, b = np.concatenate([a, right]), np.concatenate([left, b])
    return min(below, float(np.min(low)))
