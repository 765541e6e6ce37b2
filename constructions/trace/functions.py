"""The NumPy functions that are no ufuncs, on object arrays of exact elements."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
import sympy as sp
from numpy.lib.array_utils import normalize_axis_tuple

from constructions.trace.branches import as_condition, as_number, extreme, select
from constructions.trace.elementwise import (
    REDUCTIONS,
    apply,
    elementwise,
    exact_elements,
    float_only,
    matrix_product,
    reduce_axes,
    reduce_extreme,
    total_of,
)
from constructions.trace.formulas import sinc
from constructions.trace.outcome import CannotTrace

__all__ = ["FUNCTIONS", "MULTILINEAR", "REARRANGING", "piecewise"]


def _reduction(ufunc: Any) -> Callable[..., Any]:
    def reduction(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        return reduce_axes(REDUCTIONS[ufunc], a, axis, dtype, out, keepdims)

    return reduction


def _extremum(ufunc: Any) -> Callable[..., Any]:
    def extremum(a: Any, axis: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        return reduce_axes(REDUCTIONS[ufunc], a, axis, None, out, keepdims)

    return extremum


def _where(condition: Any, a: Any, b: Any) -> np.ndarray:
    return elementwise(lambda c, u, v: select(as_condition(c), as_number(u), as_number(v)), condition, a, b)


def _select(conditions: Sequence[Any], choices: Sequence[Any], default: Any = 0) -> Any:
    result = default
    for condition, choice in zip(reversed(conditions), reversed(choices), strict=True):
        result = _where(condition, choice, result)
    return result


def piecewise(x: Any, conditions: Any, pieces: Sequence[Any]) -> np.ndarray:
    """np.piecewise, its functions evaluated: a later condition overrides an earlier one, and one piece more than conditions is the default."""
    conditions = list(conditions) if isinstance(conditions, (list, tuple)) else [conditions]
    if len(pieces) not in (len(conditions), len(conditions) + 1):
        raise CannotTrace("np.piecewise needs one function per condition, or one more")
    result = _where(True, pieces[-1] if len(pieces) > len(conditions) else 0, np.zeros_like(x))
    for condition, piece in zip(conditions, pieces, strict=False):
        result = _where(condition, piece, result)
    return result


def _clip(a: Any, a_min: Any = None, a_max: Any = None, out: Any = None, *, min: Any = None, max: Any = None) -> Any:
    low, high = a_min if min is None else min, a_max if max is None else max
    if out is not None:
        raise CannotTrace("np.clip(..., out=) is not supported")
    result = a if low is None else apply(np.maximum, a, low)
    return result if high is None else apply(np.minimum, result, high)


def _count(a: Any, axis: Any) -> int:
    data = exact_elements(a)
    return data.size if axis is None else math.prod(data.shape[i] for i in normalize_axis_tuple(axis, data.ndim))


def _mean(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
    return apply(np.divide, reduce_axes(total_of, a, axis, dtype, out, keepdims), _count(a, axis))


def _var(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: int = 0, keepdims: bool = False) -> Any:
    squares = apply(np.square, apply(np.subtract, a, _mean(a, axis, keepdims=True)))
    total = reduce_axes(total_of, squares, axis, dtype, out, keepdims)
    return apply(np.divide, total, _count(a, axis) - ddof)


def _std(*args: Any, **kwargs: Any) -> Any:
    return apply(np.sqrt, _var(*args, **kwargs))


def _ptp(a: Any, axis: Any = None) -> Any:
    largest, smallest = (reduce_axes(reduce_extreme(kind), a, axis) for kind in (sp.Max, sp.Min))
    return apply(np.subtract, largest, smallest)


def _norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    lengths = axis is None or np.ndim(axis) == 0
    if ord in (None, "fro") or (lengths and ord == 2):
        return apply(np.sqrt, reduce_axes(total_of, apply(np.square, x), axis, keepdims=keepdims))
    if not lengths or (axis is None and np.ndim(x) > 1) or isinstance(ord, str) or ord == 0:
        raise CannotTrace(f"np.linalg.norm(ord={ord!r}, axis={axis!r}) has no formula here")
    sizes = apply(np.absolute, x)
    if abs(ord) == math.inf:
        return reduce_axes(reduce_extreme(sp.Max if ord > 0 else sp.Min), sizes, axis, keepdims=keepdims)
    total = reduce_axes(total_of, apply(np.power, sizes, ord), axis, keepdims=keepdims)
    return total if ord == 1 else apply(np.power, total, Fraction(1) / Fraction(ord))


def _dot(a: Any, b: Any) -> Any:
    if not np.ndim(a) or not np.ndim(b):
        return apply(np.multiply, a, b)
    if np.ndim(b) > 2:
        raise CannotTrace("np.dot with a second argument of more than two axes: use np.matmul or np.einsum")
    return matrix_product(a, b)


def _polyval(p: Any, x: Any) -> Any:
    return functools.reduce(lambda value, c: apply(np.add, apply(np.multiply, value, x), c), p, np.zeros_like(x))


def _interp(x: Any, xp: Any, fp: Any, left: Any = None, right: Any = None, period: Any = None) -> Any:
    """fp_0 + sum_k (s_k - s_{k-1}) max(x - xp_k, 0), s_k the slope right of knot k, zero outside the knots."""
    knots, values = [list(exact_elements(v)) for v in (xp, fp)]
    if left is not None or right is not None or period is not None or any(b <= a for a, b in pairwise(knots)):
        raise CannotTrace("np.interp with left=, right=, period= or knots that do not increase has no formula here")
    run = range(len(knots) - 1)
    slopes = [sp.S.Zero, *((values[i + 1] - values[i]) / (knots[i + 1] - knots[i]) for i in run), sp.S.Zero]

    def formula(u: sp.Expr) -> sp.Expr:
        hinges = zip(knots, slopes, slopes[1:], strict=False)
        return sp.Add(
            values[0], *((after - before) * extreme(sp.Max, u - knot, sp.S.Zero) for knot, before, after in hinges)
        )

    return elementwise(formula, x)


def _full_like(
    a: Any, fill_value: Any, dtype: Any = None, order: str = "K", subok: bool = True, shape: Any = None
) -> Any:
    if shape is not None:
        raise CannotTrace("np.full_like(..., shape=) is not supported")
    float_only(dtype)
    result = np.empty_like(exact_elements(a), dtype=object)
    result[...] = exact_elements(fill_value)
    return result


def _like(value: int) -> Callable[..., Any]:
    return lambda a, dtype=None, order="K", subok=True, shape=None: _full_like(a, value, dtype, shape=shape)


FUNCTIONS: Mapping[Hashable, Callable[..., Any]] = MappingProxyType({
    np.sum: _reduction(np.add), np.prod: _reduction(np.multiply), np.max: _extremum(np.maximum), np.amax: _extremum(np.maximum),
    np.min: _extremum(np.minimum), np.amin: _extremum(np.minimum), np.all: _extremum(np.logical_and),
    np.any: _extremum(np.logical_or), np.mean: _mean, np.var: _var, np.std: _std, np.ptp: _ptp, np.linalg.norm: _norm,
    np.where: _where, np.select: _select, np.clip: _clip, np.dot: _dot, np.polyval: _polyval,
    np.interp: _interp, np.sinc: lambda x: elementwise(lambda e: sinc(as_number(e)), x),
    np.zeros_like: _like(0), np.empty_like: _like(0), np.ones_like: _like(1), np.full_like: _full_like,
    np.shape: np.shape, np.ndim: np.ndim, np.real: lambda a: a,
    np.size: np.size,
})  # fmt: skip
"""By NumPy function: the same function of object arrays, lists of them, and numbers."""


REARRANGING = frozenset({
    np.reshape, np.ravel, np.transpose, np.permute_dims, np.swapaxes, np.moveaxis, np.squeeze, np.expand_dims, np.stack, np.concatenate,
    np.hstack, np.vstack, np.dstack, np.column_stack, np.atleast_1d, np.atleast_2d, np.atleast_3d, np.broadcast_to,
    np.broadcast_arrays, np.split, np.array_split, np.flip, np.roll, np.repeat, np.tile, np.take, np.diagonal, np.append, np.copy,
})  # fmt: skip
"""Functions that only move elements: NumPy's own code runs on the object array."""


MULTILINEAR = frozenset(
    {np.inner, np.outer, np.tensordot, np.einsum, np.kron, np.cross, np.diff, np.cumsum, np.cumprod, np.trace}
)
"""Functions made of + and * alone: NumPy's own code runs on object arrays, after numbers were made exact."""
