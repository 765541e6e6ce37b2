"""Object arrays of exact elements: made from numbers, combined by NumPy's broadcasting, reduced along axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import numpy as np
import sympy as sp
from numpy.lib.array_utils import normalize_axis_tuple

from constructions.trace.branches import as_number, extreme
from constructions.trace.formulas import multiply
from constructions.trace.outcome import CannotTrace
from constructions.trace.ufuncs import UFUNCS, logical

__all__ = [
    "REDUCTIONS",
    "apply",
    "elementwise",
    "exact",
    "exact_elements",
    "float_only",
    "matrix_product",
    "reduce_axes",
    "reduce_extreme",
    "total_of",
]


def exact(value: Any) -> Any:
    """`value` as a SymPy object with nothing rounded: a float becomes the rational number it is (0.5 -> 1/2).

    Raises CannotTrace for NaN and for anything that is not a real number, a truth value or a SymPy expression.
    """
    if isinstance(value, sp.Basic):
        return value
    held = getattr(value, "elements", None)
    if isinstance(held, np.ndarray) and held.ndim == 0:  # a symbolic array without axes, put into an object array
        return held[()]
    if isinstance(value, (bool, np.bool_)):
        return sp.true if value else sp.false
    if isinstance(value, (int, np.integer)):
        value = int(value)
        # NumPy rounds other integers to float64, the formula would not
        if value.bit_length() > 1023 or int(float(value)) != value:
            raise CannotTrace(f"it contains an integer of {value.bit_length()} bits that is no float64 number")
        return sp.Integer(value)
    if isinstance(value, Fraction):
        return sp.Rational(value.numerator, value.denominator)
    if isinstance(value, (float, np.floating)):
        if np.isnan(value):
            raise CannotTrace(
                "it contains the constant nan, or an array of numbers changed by += or out= under another name"
            )
        if np.isinf(value):
            return sp.oo if value > 0 else -sp.oo
        if value != np.float64(value):
            raise CannotTrace(f"it contains {value!r}, which is no float64 number")
        return sp.Rational(*value.as_integer_ratio())
    raise CannotTrace(
        f"it contains {value!r}, a {type(value).__name__}: only real numbers and NumPy arrays can be traced"
    )


def exact_elements(value: Any) -> np.ndarray:
    """A number, an array, or a (nested) list of them, as an object array of exact SymPy elements."""
    if isinstance(value, (list, tuple)):
        return np.stack([exact_elements(v) for v in value])
    raw = value if isinstance(value, np.ndarray) else np.array(value, dtype=object)
    out = np.empty_like(raw, dtype=object)  # of the same memory order: what is a view in NumPy shall be one here
    for i in np.ndindex(raw.shape):
        out[i] = exact(raw[i])
    return out


def elementwise(formula: Callable[..., Any], *inputs: Any) -> np.ndarray:
    """NumPy's broadcasting, one formula per element."""
    arrays = [exact_elements(a) for a in inputs]
    result = np.frompyfunc(formula, len(arrays), 1)(*arrays)
    return result if isinstance(result, np.ndarray) else exact_elements(result)


def apply(ufunc: Any, *inputs: Any) -> np.ndarray:
    """An element-wise ufunc on exact elements."""
    return elementwise(UFUNCS[ufunc], *inputs)


def float_only(dtype: Any) -> None:
    """Raises CannotTrace for an explicit `dtype=` other than float64."""
    if dtype is not None and np.dtype(dtype) != np.float64:
        raise CannotTrace(f"dtype={dtype!r} rounds or truncates; float64 is what f is traced in")


def reduce_axes(
    combine: Callable[..., Any], a: Any, axis: Any = 0, dtype: Any = None, out: Any = None, keepdims: bool = False
) -> np.ndarray:
    """combine(*row) of every row along the axes (None: all of them); the signature is that of NumPy's reductions."""
    float_only(dtype)
    data = exact_elements(a)
    axes = tuple(range(data.ndim)) if axis is None else normalize_axis_tuple(axis, data.ndim)
    if out is not None:
        raise CannotTrace("out= is supported for element-wise functions only")
    kept = [i for i in range(data.ndim) if i not in axes]
    shape = [data.shape[i] for i in kept]
    rows = data.transpose([*kept, *axes]).reshape([*shape, -1])
    result = np.empty(shape, dtype=object)
    for i in np.ndindex(*shape):
        result[i] = combine(*rows[i])
    return result.reshape([1 if i in axes else s for i, s in enumerate(data.shape)]) if keepdims else result


def reduce_extreme(kind: Any) -> Callable[..., Any]:
    """The largest (kind sp.Max) or smallest (sp.Min) element of a row."""
    return lambda *row: extreme(kind, *(as_number(e) for e in row))


def total_of(*row: Any) -> sp.Expr:
    """The sum of a row."""
    return sp.Add(*(as_number(e) for e in row))  # one flattening instead of one per term


REDUCTIONS: Mapping[Any, Callable[..., Any]] = MappingProxyType({
    np.add: total_of, np.multiply: lambda *row: sp.Mul(*(as_number(e) for e in row)), np.maximum: reduce_extreme(sp.Max),
    np.minimum: reduce_extreme(sp.Min), np.logical_and: logical(sp.And), np.logical_or: logical(sp.Or),
})  # fmt: skip
"""How a ufunc combines a row of elements: its `reduce`."""


def matrix_product(a: Any, b: Any) -> np.ndarray:
    """np.matmul: vectors become a row or a column first, and the axis added is removed again."""
    left, right = exact_elements(a), exact_elements(b)
    if not left.ndim or not right.ndim:
        raise CannotTrace("matmul needs arrays, not numbers")
    rows = left[None, :] if left.ndim == 1 else left
    columns = right[:, None] if right.ndim == 1 else right
    if rows.shape[-1] != columns.shape[-2]:
        raise CannotTrace(f"matmul of shapes {left.shape} and {right.shape} does not fit")
    terms = elementwise(multiply, rows[..., :, :, None], columns[..., None, :, :])
    result = reduce_axes(total_of, terms, axis=-2)
    result = result[..., 0] if right.ndim == 1 else result
    if left.ndim > 1:
        return result
    return result[..., 0, :] if right.ndim > 1 else result[..., 0]
