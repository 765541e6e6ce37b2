"""Sums that squares keep from being negative: x^2 + y^2 - 2 x y cos(t) >= 0, for every x, y and t.

A sum of terms a_p p^2 (a_p > 0, p a product of sub-expressions) and c p q r with |r| <= 1 is at least sum_p (a_p - sum_{c p q r} |c|/2) p^2, as
|p q r| <= (p^2 + q^2)/2: not negative if no bracket is. The arithmetic on coefficients is rational, hence exact.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

from verify.expression import Expression, Node

__all__ = ["Combination", "dominated", "dominations", "linear_combination"]

_BOUNDED = ("sin", "cos", "tanh", "erf")
"""Functions that lie in [-1, 1]."""
_MOST_TERMS = 24
_MOST_PAIRS = 4_000
"""Pairs of squares looked at, for all terms of an expression."""
Monomial = frozenset[tuple[int, int]]
"""Sub-expressions and their powers."""
Combination = dict[Monomial, Fraction]


@lru_cache(maxsize=256)
def dominations(expression: Expression) -> dict[int, tuple[bool, list[int]]]:
    """For the sums of an expression that squares keep from being negative: (True, the terms that must not be negative)."""
    found, left = {}, _MOST_PAIRS
    for i, node in enumerate(expression.nodes):
        if node.op == "add" and left > 0:
            left -= len(node.args) ** 3 // 8
            answer = dominated(expression.nodes, node)
            if answer[0]:
                found[i] = answer
    return found


def dominated(nodes: Sequence[Node], node: Node) -> tuple[bool, list[int]]:
    """Whether the sum `node` (its arguments point into `nodes`) is not negative wherever the terms listed are not: terms that are neither
    squares nor dominated by them. (False, []) where squares do not suffice."""
    terms = _terms(nodes, node)
    if terms is None:
        return False, []
    parts = [_monomial(nodes, t) for t in terms]
    squares: dict[Monomial, Fraction] = {}
    for factor, powers in parts:
        if factor > 0 and powers and all(k % 2 == 0 for k in powers.values()):
            root = frozenset((f, k // 2) for f, k in powers.items())
            squares[root] = squares.get(root, Fraction(0)) + factor
    left = dict(squares)
    others: list[int] = []
    for term, (factor, powers) in zip(terms, parts, strict=True):
        if factor >= 0 and all(k % 2 == 0 for k in powers.values()):
            continue
        pair = _pair(nodes, powers, squares)
        if pair is None:
            others.append(term)
            continue
        for root in pair:
            left[root] -= abs(factor) / 2
    return all(a >= 0 for a in left.values()), others


def _terms(nodes: Sequence[Node], node: Node) -> list[int] | None:
    """The terms of a sum of sums; None if there are too many."""
    out: list[int] = []
    stack = list(reversed(node.args))
    while stack:
        i = stack.pop()
        if nodes[i].op == "add":
            stack += reversed(nodes[i].args)
        else:
            out.append(i)
        if len(out) + len(stack) > _MOST_TERMS:
            return None
    return out


def linear_combination(nodes: Sequence[Node], sum_of: Sequence[int]) -> Combination | None:
    """The sum of some nodes as rational factors of products of powers of other nodes; None if there are too many."""
    terms = _terms(nodes, Node("add", tuple(sum_of)))
    if terms is None:
        return None
    out: Combination = {}
    for term in terms:
        factor, powers = _monomial(nodes, term)
        key = frozenset(powers.items())
        out[key] = out.get(key, Fraction(0)) + factor
    return {key: factor for key, factor in out.items() if factor}


def _monomial(nodes: Sequence[Node], term: int) -> tuple[Fraction, Counter[int]]:
    """A rational factor and whole powers of sub-expressions, whose product is the term."""
    factor, powers = Fraction(1), Counter[int]()
    stack = [(term, 1)]
    while stack and len(powers) <= _MOST_TERMS:
        i, power = stack.pop()
        node = nodes[i]
        exponent = Fraction(node.value or "1") if node.op == "pow" else None
        if node.op == "mul":
            stack += [(a, power) for a in node.args]
        elif exponent is not None and exponent.denominator == 1 and 0 < exponent.numerator <= 8 and power <= 8:
            stack.append((node.args[0], power * exponent.numerator))
        elif node.op == "const" and node.value not in ("pi", "e"):
            factor *= Fraction(node.value or "0") ** power
        else:
            powers[i] += power
    for i, power in stack:  # too long to be looked at: as it stands
        powers[i] += power
    return factor, powers


def _pair(
    nodes: Sequence[Node], powers: Counter[int], squares: dict[Monomial, Fraction]
) -> tuple[Monomial, Monomial] | None:
    """Two roots of squares whose product times something in [-1, 1] has these powers."""
    for p, q in itertools.combinations_with_replacement(squares, 2):
        rest = Counter(powers)
        rest.subtract(dict(p))
        rest.subtract(dict(q))
        if all(k == 0 or (k > 0 and nodes[i].op in _BOUNDED) for i, k in rest.items()):
            return p, q
    return None
