"""Functions at the end of their domain: sqrt where its argument may be 0, asin where it may be 1.

What a head reads is a little wrong, so it may lie outside the domain of the node's function though the exact value never does. There the
function is continued: sqrt(max(u, 0)), asin(min(max(u, -1), 1)). The kernel continues it in the same way, and bounds
the error of reading by the range of the function near the end, where its slope is not bounded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy as sp

from constructions.circuits.ir import IR, Node, Z
from constructions.from_sympy import from_sympy
from verify.ball import Ball
from verify.circuit_ranges import NodeRange
from verify.jets import jets

__all__ = ["clamped"]

_NEAR = 1e-6
"""Relative to the range of the argument: how close to the end counts as touching it."""


def clamped(ir: IR, known: list[NodeRange]) -> IR:
    """The circuit with functions continued beyond the ends of their domains where what they read comes that close."""
    nodes = [
        Node(node.reads, _continued(node.function, float(r.reads[0][0]), float(r.reads[1][0])))
        if len(node.reads) == 1
        else node
        for node, r in zip(ir.nodes, known, strict=True)
    ]
    return IR(ir.variables, tuple(nodes), ir.outputs)


def _continued(e: Any, lo: float, hi: float) -> Any:
    if not e.has(Z) or not np.isfinite([lo, hi]).all():
        return e
    e = e.func(*(_continued(a, lo, hi) for a in e.args)) if e.args else e
    if isinstance(e, sp.Pow) and e.exp.is_Rational and not e.exp.is_Integer and e.exp > 0:
        low, high = _range(e.base, lo, hi)
        return sp.Pow(sp.Max(e.base, 0), e.exp, evaluate=False) if low <= _NEAR * (high - low) else e
    if isinstance(e, (sp.asin, sp.acos)):
        low, high = _range(e.args[0], lo, hi)
        near = _NEAR * (high - low)
        inside = e.args[0]
        if low <= -1 + near:
            inside = sp.Max(inside, -1)
        if high >= 1 - near:
            inside = sp.Min(inside, 1)
        return e.func(inside, evaluate=False) if inside is not e.args[0] else e
    return e


def _range(e: Any, lo: float, hi: float) -> tuple[float, float]:
    """Range of an expression in z over [lo, hi], from 64 pieces."""
    edges = np.linspace(lo, hi, 65)
    part = jets(from_sympy([e], ["z"]), Ball.between(edges[:-1, None], edges[1:, None]), np.ones((64, 1)), 0)[0][0]
    assert part is not None
    return float(np.nanmin(part.lower())), float(np.nanmax(part.upper()))
