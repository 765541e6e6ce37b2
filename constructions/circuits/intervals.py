"""Interval arithmetic with first derivatives on many cells at once, in plain float64: fast, for choosing, never for proving."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType

import numpy as np
from jaxtyping import Float
from scipy import special

from verify.expression import CONSTANTS, Expression, Node

__all__ = ["Interval", "enclose"]

Ends = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Interval:
    """Values lie in [lo, hi], partial derivatives in [down, up]; NaN values where the expression may be undefined."""

    lo: Float[np.ndarray, " cells"]
    hi: Float[np.ndarray, " cells"]
    down: Float[np.ndarray, "cells n"]
    up: Float[np.ndarray, "cells n"]


def enclose(expression: Expression, lo: Float[np.ndarray, "cells n"], hi: Float[np.ndarray, "cells n"]) -> Interval:
    """The first output over each cell, by the mean value form's ingredients: ranges and ranges of the derivatives."""
    table: list[Interval] = []
    with np.errstate(all="ignore"):
        for node in expression.nodes:
            table.append(_apply(node, [table[a] for a in node.args], lo, hi))
    return table[expression.outputs[0]]


def _apply(node: Node, args: list[Interval], lo: np.ndarray, hi: np.ndarray) -> Interval:
    zero = np.zeros(lo.shape)
    if node.op == "var":
        i = int(node.value or 0)
        one = zero.copy()
        one[:, i] = 1.0
        return Interval(lo[:, i], hi[:, i], one, one)
    if node.op == "const":
        text = node.value or "0"
        value = np.full(len(lo), CONSTANTS[text] if text in CONSTANTS else float(Fraction(text)))
        return Interval(value, value, zero, zero)
    if node.op == "add":
        sums = [np.sum([getattr(a, part) for a in args], axis=0) for part in ("lo", "hi", "down", "up")]
        return Interval(*sums)
    if node.op == "mul":
        out = args[0]
        for other in args[1:]:
            out = _product(out, other)
        return out
    if node.op == "pow":
        p = Fraction(node.value or "1")
        slope = _power_range(args[0].lo, args[0].hi, p - 1)
        return _chained(args[0], _power_range(args[0].lo, args[0].hi, p), (float(p) * slope[0], float(p) * slope[1]))
    if node.op in ("min", "max"):
        out = args[0]
        for other in args[1:]:
            out = _extreme(out, other, node.op == "max")
        return out
    if node.op == "select":
        return _selected(*args)
    value, slope = _UNARY[node.op]
    return _chained(args[0], value(args[0].lo, args[0].hi), slope(args[0].lo, args[0].hi))


def _times(a: Ends, b: Ends) -> Ends:
    corners = np.stack([a[0] * b[0], a[0] * b[1], a[1] * b[0], a[1] * b[1]])
    return corners.min(axis=0), corners.max(axis=0)


def _slopes(down: np.ndarray, up: np.ndarray) -> Ends:
    """A derivative of which nothing is known may be anything."""
    return np.where(np.isnan(down), -np.inf, down), np.where(np.isnan(up), np.inf, up)


def _column(x: np.ndarray) -> np.ndarray:
    return x[:, None]


def _product(a: Interval, b: Interval) -> Interval:
    lo, hi = _times((a.lo, a.hi), (b.lo, b.hi))
    first = _times((a.down, a.up), (_column(b.lo), _column(b.hi)))
    second = _times((b.down, b.up), (_column(a.lo), _column(a.hi)))
    return Interval(lo, hi, *_slopes(first[0] + second[0], first[1] + second[1]))


def _chained(u: Interval, value: Ends, slope: Ends) -> Interval:
    order = np.minimum(*slope), np.maximum(*slope)
    return Interval(*value, *_slopes(*_times((u.down, u.up), (_column(order[0]), _column(order[1])))))


def _extreme(a: Interval, b: Interval, largest: bool) -> Interval:
    pick = np.maximum if largest else np.minimum
    first = _column(a.lo >= b.hi if largest else a.hi <= b.lo)
    second = _column(b.lo >= a.hi if largest else b.hi <= a.lo)
    down = np.where(first, a.down, np.where(second, b.down, np.minimum(a.down, b.down)))
    up = np.where(first, a.up, np.where(second, b.up, np.maximum(a.up, b.up)))
    return Interval(pick(a.lo, b.lo), pick(a.hi, b.hi), down, up)


def _selected(c: Interval, a: Interval, b: Interval) -> Interval:
    """The branch that the condition decides, both (and any derivative: a jump) where it does not."""
    yes, no = c.lo > 0, c.hi < 0
    lo = np.where(yes, a.lo, np.where(no, b.lo, np.fmin(a.lo, b.lo)))
    hi = np.where(yes, a.hi, np.where(no, b.hi, np.fmax(a.hi, b.hi)))
    down = np.where(_column(yes), a.down, np.where(_column(no), b.down, -np.inf))
    up = np.where(_column(yes), a.up, np.where(_column(no), b.up, np.inf))
    return Interval(lo, hi, down, up)


def _power_range(lo: np.ndarray, hi: np.ndarray, p: Fraction) -> Ends:
    if p == 0:
        return np.ones_like(lo), np.ones_like(hi)
    q = float(p)
    if p.denominator > 1:
        lo = np.where(lo < 0, np.nan, lo)
    if p < 0:
        lo = np.where((lo <= 0) & (hi >= 0), np.nan, lo)
    a, b = lo**q, hi**q
    least, most = np.minimum(a, b), np.maximum(a, b)
    if p.denominator == 1 and p > 0 and p.numerator % 2 == 0:
        least = np.where((lo < 0) & (hi > 0), 0.0, least)
    return least, most


def _rising(f: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray, np.ndarray], Ends]:
    return lambda lo, hi: (f(lo), f(hi))


def _even(f: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray, np.ndarray], Ends]:
    """The range of a function of |x| that is monotone in it."""

    def ends(lo: np.ndarray, hi: np.ndarray) -> Ends:
        far = np.maximum(np.abs(lo), np.abs(hi))
        near = np.where((lo <= 0) & (hi >= 0), 0.0, np.minimum(np.abs(lo), np.abs(hi)))
        a, b = f(near), f(far)
        return np.minimum(a, b), np.maximum(a, b)

    return ends


def _cosine(lo: np.ndarray, hi: np.ndarray) -> Ends:
    """cos is 1 at even, -1 at odd multiples of pi."""
    a, b = np.cos(lo), np.cos(hi)
    top = np.floor(hi / (2 * math.pi)) >= np.ceil(lo / (2 * math.pi))
    bottom = np.floor((hi / math.pi - 1) / 2) >= np.ceil((lo / math.pi - 1) / 2)
    return np.where(bottom, -1.0, np.minimum(a, b)), np.where(top, 1.0, np.maximum(a, b))


def _sine(lo: np.ndarray, hi: np.ndarray) -> Ends:
    return _cosine(lo - math.pi / 2, hi - math.pi / 2)


def _tangent(lo: np.ndarray, hi: np.ndarray) -> Ends:
    pole = np.floor(hi / math.pi - 0.5) >= np.ceil(lo / math.pi - 0.5)
    return np.where(pole, np.nan, np.tan(lo)), np.where(pole, np.nan, np.tan(hi))


def _flipped(ends: Callable[[np.ndarray, np.ndarray], Ends]) -> Callable[[np.ndarray, np.ndarray], Ends]:
    def turned(lo: np.ndarray, hi: np.ndarray) -> Ends:
        a, b = ends(lo, hi)
        return -b, -a

    return turned


def _logarithm(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, np.log(x), np.nan)


def _tangent_slope(lo: np.ndarray, hi: np.ndarray) -> Ends:
    return _even(lambda x: 1 + x * x)(*_tangent(lo, hi))


_FALLS_UNTIL = 4.493409457909064
"""The first root of tan u = u: the first minimum of sinc."""
_STEEPEST = 0.4361819
"""The largest |sinc'|."""


def _sinc(lo: np.ndarray, hi: np.ndarray) -> Ends:
    """sinc is even; beyond 0 its extrema are the u_k = (k + 1/2) pi - atan(1/u_k), with the values cos u_k, ever smaller in size."""
    far = np.maximum(np.abs(lo), np.abs(hi))
    near = np.where((lo <= 0) & (hi >= 0), 0.0, np.minimum(np.abs(lo), np.abs(hi)))
    least, most = np.sort([np.sinc(near / math.pi), np.sinc(far / math.pi)], axis=0)
    first = np.maximum(1.0, np.floor(near / math.pi - 0.5))
    for k in (first, first + 1, first + 2):
        u = (k + 0.5) * math.pi
        for _ in range(6):
            u = (k + 0.5) * math.pi - np.arctan(1 / u)
        inside = (near <= u) & (u <= far)
        least = np.where(inside, np.minimum(least, np.cos(u)), least)
        most = np.where(inside, np.maximum(most, np.cos(u)), most)
    return least, most


def _sinc_slope(lo: np.ndarray, hi: np.ndarray) -> Ends:
    """From the middle, as |sinc''| <= 1/3, and by the sign that it has up to the first minimum."""
    middle = 0.5 * (lo + hi)
    away = np.where(np.abs(middle) < 1e-3, 1.0, middle)
    slope = np.where(np.abs(middle) < 1e-3, -middle / 3, (np.cos(away) - np.sin(away) / away) / away)
    room = (hi - lo) / 6 + 1e-9
    down, up = np.maximum(slope - room, -_STEEPEST), np.minimum(slope + room, _STEEPEST)
    falls, rises = (lo >= 0) & (hi <= _FALLS_UNTIL), (hi <= 0) & (lo >= -_FALLS_UNTIL)
    return np.where(rises, np.maximum(down, 0.0), down), np.where(falls, np.minimum(up, 0.0), up)


_UNARY: Mapping[str, tuple[Callable[[np.ndarray, np.ndarray], Ends], Callable[[np.ndarray, np.ndarray], Ends]]]
_UNARY = MappingProxyType({
    "exp": (_rising(np.exp), _rising(np.exp)),
    "log": (_rising(_logarithm), lambda lo, hi: (1 / hi, 1 / lo)),
    "sin": (_sine, _cosine),
    "cos": (_cosine, _flipped(_sine)),
    "tan": (_tangent, _tangent_slope),
    "sinh": (_rising(np.sinh), _even(np.cosh)),
    "cosh": (_even(np.cosh), _rising(np.sinh)),
    "tanh": (_rising(np.tanh), _even(lambda x: 1 - np.tanh(x) ** 2)),
    "asin": (_rising(np.arcsin), _even(lambda x: 1 / np.sqrt(1 - x * x))),
    "acos": (_flipped(lambda lo, hi: (-np.arccos(lo), -np.arccos(hi))), _flipped(_even(lambda x: 1 / np.sqrt(1 - x * x)))),
    "atan": (_rising(np.arctan), _even(lambda x: 1 / (1 + x * x))),
    "asinh": (_rising(np.arcsinh), _even(lambda x: 1 / np.sqrt(1 + x * x))),
    "acosh": (_rising(np.arccosh), lambda lo, hi: (1 / np.sqrt(hi * hi - 1), 1 / np.sqrt(lo * lo - 1))),
    "atanh": (_rising(np.arctanh), _even(lambda x: 1 / (1 - x * x))),
    "erf": (_rising(special.erf), _even(lambda x: 2 / math.sqrt(math.pi) * np.exp(-x * x))),
    "abs": (_even(np.abs), lambda lo, hi: (np.where(lo >= 0, 1.0, -1.0), np.where(hi <= 0, -1.0, 1.0))),
    "sinc": (_sinc, _sinc_slope),
})  # fmt: skip
"""By operation: ends of the range on [lo, hi], and of the derivative's range."""
