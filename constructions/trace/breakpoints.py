"""Where a formula of one variable branches, so that it can be compared with its callable just beside."""

from __future__ import annotations

import itertools
from typing import Any, cast

import numpy as np
import sympy as sp
from jaxtyping import Float

from constructions.trace.float_values import float_values
from constructions.trace.graph import postorder
from constructions.trace.outcome import TracedTarget

__all__ = ["around_breakpoints"]

_GRID = 2001
_BISECTIONS = 50
_MOST_GAPS = 200
_MOST_CROSSINGS = 200
_OFFSETS = np.array([-1e-2, -1e-3, -1e-6, -1e-9, 1e-9, 1e-6, 1e-3, 1e-2])


def around_breakpoints(traced: TracedTarget, low: float, high: float) -> Float[np.ndarray, "m 1"]:
    """Points of [low, high] on both sides of every sign change, seen on a grid, of what the formula's branches compare.

    Not the places themselves: there the callable's own rounding decides which branch it takes.
    """
    gaps = _gaps(traced)
    if not gaps or low == high:
        return np.empty((0, 1))
    differences = TracedTarget(tuple(gaps), traced.symbols, False)
    grid = np.linspace(low, high, _GRID)
    sign = np.sign(float_values(differences, grid[:, None], None))
    row, column = np.nonzero((sign[:-1] != sign[1:]) & ~np.isnan(sign[:-1]) & ~np.isnan(sign[1:]))
    chosen = np.unique(np.linspace(0, len(row) - 1, min(len(row), _MOST_CROSSINGS)).astype(int)) if len(row) else []
    row, column = row[chosen], column[chosen]
    left, right = grid[row], grid[row + 1]
    for _ in range(_BISECTIONS if len(row) else 0):
        middle = (left + right) / 2
        values = float_values(differences, middle[:, None], None)[np.arange(len(row)), column]
        same = np.sign(values) == sign[row, column]
        left, right = np.where(same, middle, left), np.where(same, right, middle)
    beside = (left[:, None] + (high - low) * _OFFSETS).ravel()
    return np.clip(beside, low, high)[:, None]


def _gaps(traced: TracedTarget) -> list[sp.Expr]:
    """Expressions at whose zeros the formula switches between branches."""
    gaps: dict[sp.Expr, None] = {}
    relation: Any = sp.core.relational.Relational
    for node in cast(list[Any], postorder(traced.expressions)):
        if isinstance(node, relation):
            gaps[sp.Add(node.lhs, -node.rhs)] = None
        elif isinstance(node, sp.Abs):
            gaps[node.args[0]] = None
        elif isinstance(node, (sp.Max, sp.Min)):
            gaps.update({sp.Add(a, -b): None for a, b in itertools.combinations(cast(Any, node.args), 2)})
        if len(gaps) >= _MOST_GAPS:
            break
    return [g for g in gaps if g.free_symbols][:_MOST_GAPS]
