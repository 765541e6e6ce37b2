"""Elements that branch: truth values, selection and extremes, with continuity kept visible where it can be seen."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import sympy as sp
from sympy.logic.boolalg import Boolean

from constructions.trace.graph import postorder, relate, substitute
from constructions.trace.outcome import CannotTrace

__all__ = ["Ranges", "as_condition", "as_number", "compare", "decided", "extreme", "is_condition", "select"]

_MAX_INNER = 6
Ranges = Mapping[Any, tuple[Any, Any]]
"""Exact lower and upper ends of the variables' intervals."""


def is_condition(e: Any) -> bool:
    """Whether the element is a truth value."""
    return isinstance(e, Boolean) and not isinstance(e, sp.Expr)  # SymPy's symbols are both


def _is_true(condition: Any) -> bool | None:
    return True if condition in (sp.true, True) else False if condition in (sp.false, False) else None


def as_number(e: Any) -> Any:
    """A truth value used as a number is 1 or 0."""
    return select(e, sp.S.One, sp.S.Zero) if is_condition(e) else e


def as_condition(e: Any) -> Any:
    """A number used as a truth value: is it nonzero?"""
    return e if is_condition(e) else compare(sp.Ne, e, sp.S.Zero)


def compare(relation: Any, a: Any, b: Any) -> Any:
    """The relation between two elements."""
    return relate(relation, as_number(a), as_number(b))


def decided(condition: Any, ranges: Ranges) -> Any:
    """True or false where the ranges decide a comparison of variables and rational numbers; any other condition as it is."""
    if not isinstance(condition, (sp.Gt, sp.Ge, sp.Lt, sp.Le, sp.Eq, sp.Ne)):
        return condition
    sides = (condition.lhs, condition.rhs) if isinstance(condition, (sp.Eq, sp.Ne)) else (condition.gts, condition.lts)
    more, less = (_ends(e, ranges) for e in sides)
    if more is None or less is None:
        return condition
    above, below = bool(more[0] > less[1]), bool(more[1] < less[0])
    if isinstance(condition, (sp.Eq, sp.Ne)):
        apart = above or below
        return condition if not apart else sp.true if isinstance(condition, sp.Ne) else sp.false
    if isinstance(condition, (sp.Ge, sp.Le)):
        above = bool(more[0] >= less[1])
    else:
        below = bool(more[1] <= less[0])
    return sp.true if above else sp.false if below else condition


def _ends(e: Any, ranges: Ranges) -> tuple[Any, Any] | None:
    """Least and largest value of a variable or a rational number; None for anything else."""
    return (e, e) if e.is_Rational or e in (sp.oo, -sp.oo) else ranges.get(e)


def select(condition: Any, a: sp.Expr, b: sp.Expr) -> sp.Expr:
    """a where the condition holds, b elsewhere; compound conditions are nested, so every Piecewise tests one relation.

    With d the difference of the two sides of "d > 0" (or >=) and a - b = c d for a number c, the value is b + c max(d, 0)
    everywhere, d = 0 included (c |d| / 2 if a = -b): so |x|, relu and leaky relu written with np.where are visibly continuous.
    """
    known = _is_true(condition)
    if known is not None or a == b:
        return a if known is not False else b
    if isinstance(condition, sp.Not):
        return select(condition.args[0], b, a)
    if isinstance(condition, sp.And):
        return functools.reduce(lambda inner, c: select(c, inner, b), condition.args, a)
    if isinstance(condition, sp.Or):
        return functools.reduce(lambda inner, c: select(c, a, inner), condition.args, b)
    if isinstance(condition, sp.Ne):
        return select(sp.Eq(*condition.args, evaluate=False), b, a)
    if isinstance(condition, (sp.Gt, sp.Ge, sp.Lt, sp.Le)):
        more: Any = condition.gts
        less: Any = condition.lts
        scale = _multiple(a - b, more - less)
        if (scale, b) in ((1, less), (-1, more)):
            return extreme(sp.Max if scale == 1 else sp.Min, a, b)
        if scale is not None:
            return scale / 2 * sp.Abs(more - less) if a == -b else b + scale * extreme(sp.Max, more - less, sp.S.Zero)
    # SymPy wants no branches inside a condition: decide the inner branch first.
    inner = [node for node in postorder([condition]) if isinstance(node, sp.Piecewise)]
    if len(inner) > _MAX_INNER:
        raise CannotTrace(f"it compares a value made of more than {_MAX_INNER} branches")
    if inner:
        yes, no = (substitute([condition], {inner[0]: branch.args[0]})[0] for branch in inner[0].args)
        return select(inner[0].args[0].args[1], select(yes, a, b), select(no, a, b))
    return sp.Piecewise((a, condition), (b, True), evaluate=False)


def _multiple(e: sp.Expr, d: sp.Expr) -> sp.Expr | None:
    """The number c with e = c d, where it can be seen from the coefficients; None otherwise."""
    (p, e_part), (q, d_part) = e.as_content_primitive(), d.as_content_primitive()
    return p / q if e_part == d_part else -p / q if e_part == -d_part else None


def extreme(kind: Any, *arguments: sp.Expr) -> Any:
    """sp.Max or sp.Min, numbers folded. SymPy would compare all pairs: seconds for a neural network, minutes for a wide one."""
    flat = dict.fromkeys(x for e in arguments for x in (e.args if isinstance(e, kind) else (e,)))
    number = kind(*(x for x in flat if x.is_number))  # of none: the neutral infinity
    rest = [x for x in flat if not x.is_number]
    if not rest or number == (sp.oo if kind is sp.Max else -sp.oo):
        return number
    if number.is_finite:
        rest.append(number)
    return rest[0] if len(rest) == 1 else kind(*rest, evaluate=False)
