"""Walks over SymPy expressions that visit shared nodes once and need no recursion: SymPy's own traversals repeat them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sympy as sp

from constructions.trace.outcome import CannotTrace

__all__ = ["bits_of", "postorder", "relate", "substitute"]

_MAX_NODES = 100_000


def postorder(roots: Iterable[sp.Basic]) -> list[sp.Basic]:
    """The distinct nodes below the roots, arguments before users."""
    seen: set[sp.Basic] = set()
    order: list[sp.Basic] = []
    stack = [(root, False) for root in roots]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            if len(seen) > _MAX_NODES:
                raise CannotTrace(f"its formula has more than {_MAX_NODES} operations")
            stack.append((node, True))
            stack.extend((argument, False) for argument in node.args)
    return order


def substitute(roots: Iterable[sp.Basic], mapping: Mapping[sp.Basic, sp.Basic]) -> list[sp.Basic]:
    """`xreplace` that visits shared nodes once and lets SymPy re-evaluate nothing that was left unevaluated."""
    roots = list(roots)
    new: dict[sp.Basic, sp.Basic] = dict(mapping)
    for node in postorder(roots):
        if node not in new:
            arguments = [new[a] for a in node.args]
            if all(a is b for a, b in zip(arguments, node.args, strict=True)):
                new[node] = node
            elif getattr(node, "is_Relational", False):
                new[node] = relate(node.func, *arguments)
            else:
                lazy = {"evaluate": False} if isinstance(node, (sp.Max, sp.Min, sp.Piecewise)) else {}
                new[node] = node.func(*arguments, **lazy)
    return [new[root] for root in roots]


def relate(relation: Any, a: Any, b: Any) -> Any:
    """The relation between two numbers, decided only where they are constants or the same."""
    # SymPy would search its assumptions for an answer, which takes minutes on the sums of a small neural network.
    return relation(a, b, evaluate=bool(a == b or (a.is_number and b.is_number)))


def bits_of(number: sp.Basic) -> int:
    """Size of a rational number's numerator or denominator, the larger one; 0 for anything else."""
    return max(abs(int(number.p)), int(number.q)).bit_length() if isinstance(number, sp.Rational) else 0
