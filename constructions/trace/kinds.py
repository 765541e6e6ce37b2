"""The NumPy type a symbolic array stands for, and which elements it may hold: truth values, integers or float64 numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import sympy as sp
from sympy.functions.elementary.piecewise import ExprCondPair

from constructions.trace.branches import as_number, is_condition
from constructions.trace.elementwise import exact_elements
from constructions.trace.graph import postorder
from constructions.trace.outcome import CannotTrace

__all__ = ["BOOL", "FLOAT", "INTEGER", "fit", "no_narrowing"]

BOOL, INTEGER, FLOAT = (np.dtype(t) for t in (np.bool_, np.int64, np.float64))
_RANK = {BOOL: 0, INTEGER: 1, FLOAT: 2}
_EXACT = 2**53
"""Integers up to here are float64 numbers, and int64 arithmetic on them does not wrap around."""


def fit(elements: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The elements as an array of that type holds them; the array itself if nothing changes, so that views stay views.

    Raises CannotTrace for any type but bool, int64 and float64, whose arithmetic rounds or wraps around in other ways, and for
    elements that such an array cannot hold exactly.
    """
    if dtype not in _RANK:
        raise CannotTrace(f"NumPy would compute it in {dtype}: only float64 (and truth values, int64) can be traced")
    convert = _truth if dtype == BOOL else as_number
    flat = list(elements.flat)
    new = [convert(e if isinstance(e, sp.Basic) else exact_elements(e)[()]) for e in flat]
    if dtype == INTEGER and any(b >= _EXACT for b in _magnitudes(new)):
        raise CannotTrace("NumPy would compute it in int64, which truncates or may wrap around: write 1.0 instead of 1")
    if all(a is b for a, b in zip(new, flat, strict=True)):
        return elements
    result = np.empty_like(elements, dtype=object)
    for i, e in zip(np.ndindex(elements.shape), new, strict=True):
        result[i] = e
    return result


def no_narrowing(value: Any, dtype: np.dtype) -> None:
    """Raises CannotTrace when assigning the value to an array of that type would truncate it."""
    if isinstance(value, (list, tuple)):
        for v in value:
            no_narrowing(v, dtype)
        return
    given = value.dtype if hasattr(value, "dtype") else np.dtype(type(value))
    if given.kind not in "biuf" or (given.kind != "b" and dtype == BOOL) or (given.kind == "f" and dtype == INTEGER):
        raise CannotTrace(f"it assigns {given} values to an array of {dtype}, which truncates them")


def _truth(e: Any) -> Any:
    if is_condition(e):
        return e
    if e in (0, 1):
        return sp.true if e == 1 else sp.false
    raise CannotTrace("it puts numbers into an array of truth values, which NumPy truncates to True")


def _magnitudes(elements: Iterable[Any]) -> list[float]:
    """Upper bounds of |e| over all inputs where e is made of integers by ring operations and branches; inf otherwise."""
    elements = list(elements)
    bound: dict[Any, Any] = {}
    for node in postorder(elements):
        parts = [bound[a] for a in node.args]
        if isinstance(node, sp.Integer):
            bound[node] = abs(int(node))
        elif isinstance(node, ExprCondPair):
            bound[node] = parts[0]
        elif isinstance(node, sp.Add):
            bound[node] = sum(parts)
        elif isinstance(node, sp.Mul):
            # a factor of inf and one of 0 would give nan
            bound[node] = math.inf if math.inf in parts else math.prod(parts)
        elif isinstance(node, (sp.Max, sp.Min, sp.Piecewise, sp.Abs)):
            bound[node] = max(parts)
        else:
            bound[node] = math.inf
    return [bound[e] for e in elements]
