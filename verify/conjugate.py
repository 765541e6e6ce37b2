"""Ranges of sqrt(b^2 + c) - b, c >= 0, where b may be large: the difference of two nearly equal numbers, bounded as c / (sqrt(b^2 + c) + b).

In real numbers t(b, c) = sqrt(b^2 + c) - b decreases in b and increases in c, so its range over b in [b_1, b_2], c in [c_1, c_2] with
c_1 >= 0 is [t(b_2, c_1), t(b_1, c_2)], whatever the dependence between b and c.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import flint
import numpy as np

from verify.ball import Ball
from verify.dominance import Combination, linear_combination
from verify.expression import Expression, Node
from verify.precision import arb_bounds

__all__ = ["Conjugate", "conjugates", "sharpened"]


@dataclass(frozen=True)
class Conjugate:
    """A sum that equals sqrt(o^2 + c) + o. others, rest: the nodes whose sums are o and c."""

    others: tuple[int, ...]
    rest: tuple[int, ...]


@lru_cache(maxsize=256)
def conjugates(expression: Expression) -> dict[int, Conjugate]:
    """The sums of an expression that are of this kind, by node."""
    nodes = expression.nodes
    found = {}
    for i, node in enumerate(nodes):
        if node.op == "add":
            for root in node.args:
                kind = _conjugate(nodes, node, root)
                if kind is not None:
                    found[i] = kind
                    break
    return found


def _conjugate(nodes: Sequence[Node], node: Node, root: int) -> Conjugate | None:
    if not (nodes[root].op == "pow" and nodes[root].value == "1/2" and node.args.count(root) == 1):
        return None
    inside = nodes[nodes[root].args[0]]
    others = tuple(a for a in node.args if a != root)
    form = linear_combination(nodes, others)
    if inside.op != "add" or not form:
        return None
    for square in inside.args:
        if inside.args.count(square) == 1 and _is_square(nodes, square, form):
            return Conjugate(others, tuple(a for a in inside.args if a != square))
    return None


def _is_square(nodes: Sequence[Node], square: int, form: Combination) -> bool:
    """Whether a node is, as written, the square of a sum or of its negative."""
    if nodes[square].op == "pow" and nodes[square].value == "2":
        base = linear_combination(nodes, nodes[square].args)
        if base in (form, {m: -k for m, k in form.items()}):
            return True
    if len(form) > 1:
        return False
    ((monomial, factor),) = form.items()
    return linear_combination(nodes, [square]) == {frozenset((f, 2 * k) for f, k in monomial): factor**2}


def sharpened(natural: Ball, others: Ball, rest: Ball) -> Ball:
    """The intersection of a sum's ball with the bounds above, where c is certainly not negative; all balls (boxes, 1) or (1, 1)."""
    ends = (-others.upper(), -others.lower(), rest.lower(), rest.upper())
    b_lo, b_hi, c_lo, c_hi = (np.broadcast_to(x, natural.shape) for x in ends)
    low, high = natural.lower().copy(), natural.upper().copy()
    # NaN may say that something is undefined there, which must stay seen
    usable = (
        ~np.isnan(low[:, 0])
        & ~np.isnan(high[:, 0])
        & (c_lo[:, 0] >= 0)
        & np.isfinite(c_hi[:, 0])
        & np.isfinite(b_lo[:, 0])
        & np.isfinite(b_hi[:, 0])
    )
    for k in np.flatnonzero(usable):
        low[k, 0] = np.fmax(low[k, 0], arb_bounds(_value(b_hi[k, 0], c_lo[k, 0]))[0])
        high[k, 0] = np.fmin(high[k, 0], arb_bounds(_value(b_lo[k, 0], c_hi[k, 0]))[1])
    better = usable[:, None] & (low <= high) & np.isfinite(low) & np.isfinite(high)
    new = Ball.between(np.where(better, low, 0.0), np.where(better, high, 0.0))
    return Ball(np.where(better, new.mid, natural.mid), np.where(better, new.rad, natural.rad))


def _value(b: float, c: float) -> flint.arb:
    root = (flint.arb(float(b)) ** 2 + flint.arb(float(c))).sqrt()
    if b <= 0:
        return root - flint.arb(float(b))
    return flint.arb(float(c)) / (root + flint.arb(float(b)))
