"""The formula of every NumPy ufunc that has one: numeric, comparing, logical."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import sympy as sp
from scipy import special

from constructions.trace.branches import as_condition, as_number, compare, is_condition
from constructions.trace.formulas import FORMULAS, multiply
from constructions.trace.outcome import CannotTrace

__all__ = ["RELATIONS", "UFUNCS", "logical"]


_ALIASES = {"fmax": "maximum", "fmin": "minimum", "radians": "deg2rad", "degrees": "rad2deg"}
_RELATIONS = {
    "greater": sp.Gt,
    "greater_equal": sp.Ge,
    "less": sp.Lt,
    "less_equal": sp.Le,
    "equal": sp.Eq,
    "not_equal": sp.Ne,
}


def logical(kind: Callable[..., Any]) -> Callable[..., Any]:
    """And, Or, Not or a function of such, of elements that may be numbers."""
    return lambda *args: kind(*(as_condition(a) for a in args))


def _xor(a: Any, b: Any) -> Any:
    return sp.And(sp.Or(a, b), sp.Not(sp.And(a, b)))


def _bitwise(kind: Callable[..., Any]) -> Callable[..., Any]:
    def formula(*args: Any) -> Any:
        if not all(is_condition(a) for a in args):
            raise CannotTrace("bitwise operations are defined for comparisons only")
        return kind(*args)

    return formula


def _of_truths(kind: Callable[..., Any], otherwise: Callable[..., Any]) -> Callable[..., Any]:
    """`kind` where all arguments are truth values."""
    return lambda *args: kind(*args) if all(is_condition(a) for a in args) else otherwise(*args)


def _ufunc_table() -> dict[Any, Callable[..., Any]]:
    """Formulas by ufunc object, not by name: a foreign ufunc that happens to be called "exp" is not np.exp."""

    def numeric(formula: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: formula(*(as_number(a) for a in args))

    table: dict[Any, Callable[..., Any]] = {}
    for name, formula in FORMULAS.items():
        if name != "sinc":  # np.sinc is no ufunc, and special.sinc does not exist
            table[getattr(np, name, None) or getattr(special, name)] = numeric(formula)
    for alias, name in _ALIASES.items():
        table[getattr(np, alias)] = numeric(FORMULAS[name])
    for name, relation in _RELATIONS.items():
        table[getattr(np, name)] = functools.partial(compare, relation)
    # Between truth values NumPy's + and maximum are "or", * and minimum are "and" (- raises there, as it does here).
    for ufunc, kind in {np.add: sp.Or, np.maximum: sp.Or, np.minimum: sp.And}.items():
        table[ufunc] = _of_truths(kind, table[ufunc])
    table[np.multiply] = _of_truths(sp.And, multiply)
    table[np.absolute] = _of_truths(lambda a: a, table[np.absolute])
    for name, kind in {"and": sp.And, "or": sp.Or, "xor": _xor, "not": sp.Not}.items():
        table[getattr(np, "logical_" + name)] = logical(kind)
    for name, kind in {"bitwise_and": sp.And, "bitwise_or": sp.Or, "bitwise_xor": _xor, "invert": sp.Not}.items():
        table[getattr(np, name)] = _bitwise(kind)
    return table


UFUNCS: Mapping[Any, Callable[..., Any]] = MappingProxyType(_ufunc_table())
"""Formulas of elements by ufunc."""


RELATIONS = frozenset(getattr(np, name) for name in _RELATIONS)
"""The ufuncs that compare."""
