"""What a node costs in tokens, roughly, before its keys have been found; and the ranges on which it is needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import sympy as sp

from constructions.circuits.fused import affine_parts
from constructions.circuits.ir import IR, Z1, Z2, Node, Z, node_symbol, replaced
from constructions.circuits.known import Known, Value, finite, narrower
from constructions.circuits.ranges import Range, function_range

__all__ = ["Cost", "read_ranges", "total", "typical_tokens"]

Cost = Callable[[sp.Expr, tuple[Range, ...]], float]
"""(function, ranges of its one or two arguments) -> tokens."""


def typical_tokens(function: sp.Expr, ranges: tuple[Range, ...]) -> float:
    """Tokens at an error near 1e-3 of the function's range, by kind: what optimised keys reach."""
    if len(ranges) == 2:
        return 5.0
    if affine_parts(function) is not None:
        return 2.0
    rest = function.as_independent(Z, as_Add=True)[1]
    core: Any = rest.as_independent(Z, as_Add=False)[1]
    if core.func is sp.exp and affine_parts(core.args[0]) is not None:
        return 2.0
    if core.func is sp.log and affine_parts(core.args[0]) is not None:
        return 3.0
    if core.is_Pow and core.exp == 2 and affine_parts(core.base) is not None:
        return 3.0
    if core.has(sp.sin, sp.cos, sp.tan) and len(ranges) == 1:
        lo, hi = ranges[0]
        frequency = _frequency(core, lo, hi)
        return 4.0 + max(0.0, frequency - 1.5)
    return 4.0


def _frequency(function: sp.Expr, lo: float, hi: float) -> float:
    """Periods on the range: largest turn of a sine's argument, over 2 pi."""
    turns = [0.0]
    for f in function.atoms(sp.sin, sp.cos, sp.tan):
        a, b = function_range(f.args[0], lo, hi)
        turns.append((b - a) / (2 * math.pi) if math.isfinite(b - a) else 100.0)
    return max(turns)


def read_ranges(ir: IR, known: Known) -> tuple[tuple[Range, ...], ...] | None:
    """Where every node's reads lie over the domain; None if a node may be undefined there."""
    values: dict[sp.Basic, Value] = {}
    out = []
    for i, node in enumerate(ir.nodes):
        ranges = tuple(known.affine(r, values) for r in node.reads)
        inside = {s: e for s, (e, _) in values.items()}
        reads = [replaced(r, inside) for r in node.reads]
        explicit = replaced(node.function, dict(zip(node.arguments, reads, strict=True)))
        found = _value_range(node, ranges, explicit, known)
        if not finite(found) and len(ranges) == 1:
            ranges = (narrower(ranges[0], known.range(reads[0])),)
            found = _value_range(node, ranges, explicit, known)
        if not all(finite(r) for r in (*ranges, found)):
            return None
        values[node_symbol(i)] = (explicit, found)
        out.append(ranges)
    return tuple(out)


def _value_range(node: Node, ranges: tuple[Range, ...], explicit: sp.Expr, known: Known) -> Range:
    if len(ranges) == 1:
        return known.function(node.function, ranges[0])
    scale, core = node.function.as_independent(*node.arguments, as_Add=False)
    if core == Z1 * Z2:
        ends = [float(scale) * x * y for x in ranges[0] for y in ranges[1]]
        return min(ends), max(ends)
    return known.range(explicit)


def total(ir: IR, ranges: Sequence[tuple[Range, ...]], cost: Cost) -> float:
    """Tokens of all nodes."""
    return sum(cost(node.function, r) for node, r in zip(ir.nodes, ranges, strict=True))
