"""Jets across kinks: abs, min, max and selection, where a box may see both branches.

Where a branch is certain the jet is that branch's. On a box it may be certain with equality at some points, since the function *is* that branch
all over the box; at a single point (`thin`) a tie decides nothing about derivatives. Where it is not, degree 0 is the hull of both, degree 1 the hull of both slopes if the
join is continuous (Clarke's subdifferential: enough for a mean value form), and every higher degree is unbounded.
"""

from __future__ import annotations

import numpy as np

from verify.ball import Ball
from verify.monomials import Jet, monomials

__all__ = ["absolute", "dense", "extreme", "negate", "selection", "undefined_where"]


def negate(u: Jet) -> Jet:
    """Minus a jet."""
    return [None if part is None else -part for part in u]


def dense(part: Ball | None, boxes: int, size: int) -> Ball:
    """A part as full arrays (boxes, size); an identically zero one as zeros."""
    if part is None:
        return Ball(np.zeros((boxes, size)), np.zeros((boxes, size)))
    return Ball(np.broadcast_to(part.mid, (boxes, size)), np.broadcast_to(part.rad, (boxes, size)))


def _pick(choice: np.ndarray, a: Jet, b: Jet, order: int, n: int, undecided: np.ndarray, continuous: bool) -> Jet:
    """Part by part: a where choice > 0, b where choice < 0, and where undecided the hull (degree 0, and degree 1 if the join is
    continuous) or nothing (infinite radius)."""
    out: Jet = []
    boxes = len(choice)
    for d in range(order + 1):
        size = len(monomials(n, d))
        x, y = (dense(part, boxes, size) for part in (a[d], b[d]))
        if a[d] is None and b[d] is None and not undecided.any():
            out.append(None)
            continue
        joined = (
            x.hull(y)
            if d == 0 or (d == 1 and continuous)
            else Ball(np.zeros((boxes, size)), np.full((boxes, size), np.inf))
        )
        out.append(joined.where(undecided[:, None], x.where((choice > 0)[:, None], y)))
    return out


def absolute(u: Jet, n: int, order: int, boxes: int, thin: bool) -> Jet:
    """|u|."""
    head = dense(u[0], boxes, 1)
    lo, hi = head.lower()[:, 0], head.upper()[:, 0]
    sign = np.where(lo > 0, 1, np.where(hi < 0, -1, 0))
    if not thin:
        sign = np.where(lo >= 0, 1, np.where(hi <= 0, -1, sign))
    out = _pick(np.where(sign == 0, 1, sign), u, negate(u), order, n, sign == 0, continuous=True)
    if (sign == 0).any():
        top = np.maximum(np.abs(lo), np.abs(hi))[:, None]
        out[0] = Ball.between(np.zeros_like(top), top).where((sign == 0)[:, None], dense(out[0], boxes, 1))
    return out


def extreme(op: str, a: Jet, b: Jet, n: int, order: int, boxes: int, thin: bool) -> Jet:
    """max(a, b) or min(a, b), by `op`."""
    x, y = dense(a[0], boxes, 1), dense(b[0], boxes, 1)
    if op == "min":
        return negate(extreme("max", negate(a), negate(b), n, order, boxes, thin))
    choice = np.where(x.lower() > y.upper(), 1, np.where(x.upper() < y.lower(), -1, 0))[:, 0]
    if not thin:
        choice = np.where((x.lower() >= y.upper())[:, 0], 1, np.where((x.upper() <= y.lower())[:, 0], -1, choice))
    out = _pick(choice, a, b, order, n, choice == 0, continuous=True)
    both = Ball.between(np.maximum(x.lower(), y.lower()), np.maximum(x.upper(), y.upper()))
    out[0] = both.where((choice == 0)[:, None], dense(out[0], boxes, 1))
    return out


def selection(strict: bool, c: Jet, a: Jet, b: Jet, n: int, order: int, boxes: int, thin: bool) -> Jet:
    """a where c > 0 (strict) or c >= 0, b elsewhere."""
    head = dense(c[0], boxes, 1)
    lo, hi = head.lower()[:, 0], head.upper()[:, 0]
    yes = lo > 0 if strict else lo >= 0
    no = hi <= 0 if strict else hi < 0
    choice = np.where(yes, 1, np.where(no, -1, 0))
    value = _pick(choice, a, b, 0, n, choice == 0, continuous=False)
    if thin:
        choice = np.where(lo > 0, 1, np.where(hi < 0, -1, 0))
    return value + _pick(choice, a, b, order, n, choice == 0, continuous=False)[1:]


def undefined_where(c: Jet, value: Jet, boxes: int) -> Jet:
    """The jet, NaN where the condition c is: strict evaluation says so where something may be undefined."""
    head = dense(c[0], boxes, 1)
    lost = np.isnan(head.mid) | np.isnan(head.rad)
    whole = dense(value[0], boxes, 1)
    return [Ball(np.where(lost, np.nan, whole.mid), np.where(lost, np.nan, whole.rad)), *value[1:]]
