"""Which sub-expressions are certainly not negative on a box, by rules: a sum of squares is >= 0 though its ball may reach below."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from verify.ball import Ball
from verify.dominance import dominations
from verify.expression import Expression

__all__ = ["not_negative"]

_ALWAYS = ("exp", "cosh", "abs", "acos")
_WITH_ARGUMENT = ("sinh", "tanh", "asinh", "atanh", "asin", "atan", "erf", "acosh")
"""Increasing functions that vanish at 0 (or start there): not negative where their argument is not."""


def not_negative(
    index: int, expression: Expression, signs: list[np.ndarray], centre: Ball, constant_low: float
) -> np.ndarray:
    """For each box, whether a node's value is >= 0 at every point where it is defined.

    signs: those of all earlier nodes; centre: the boxes, as balls (boxes, n); constant_low: a lower bound of a constant's
    value. Rules: sums and products of such terms, sums that squares dominate, a product of a factor with itself, even powers, powers of
    such a base, functions that are.
    """
    node = expression.nodes[index]
    args = [signs[a] for a in node.args]
    none = np.zeros(centre.shape[0], dtype=bool)
    if node.op == "var":
        return centre.lower()[:, int(node.value or 0)] >= 0
    if node.op == "const":
        return np.full(len(none), constant_low >= 0)
    if node.op == "add":
        plain = np.logical_and.reduce(args)
        enough, others = (False, ()) if plain.all() else dominations(expression).get(index, (False, ()))
        return plain | np.logical_and.reduce([~none, *(signs[i] for i in others)]) if enough else plain
    if node.op == "mul":
        odd = [a for a in set(node.args) if node.args.count(a) % 2 == 1]
        return np.logical_and.reduce([signs[a] for a in odd]) if odd else ~none
    if node.op == "pow":
        p = Fraction(node.value or "1")
        return ~none if p.denominator > 1 or p.numerator % 2 == 0 else args[0]
    if node.op == "max":
        return np.logical_or.reduce(args)
    if node.op == "min":
        return np.logical_and.reduce(args)
    if node.op == "select":
        return args[1] & args[2]
    if node.op in _ALWAYS:
        return ~none
    return args[0] if node.op in _WITH_ARGUMENT else none
