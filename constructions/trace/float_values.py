"""Float64 values of a formula, optionally with every operation perturbed."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import sympy as sp
from jaxtyping import Float
from scipy import special
from sympy.functions.elementary.piecewise import ExprCondPair

from constructions.trace.graph import postorder
from constructions.trace.outcome import CannotTrace, TracedTarget

__all__ = ["float_values"]


_FLOAT_FUNCTIONS: Mapping[Any, Any] = MappingProxyType({
    sp.exp: np.exp, sp.log: np.log, sp.sin: np.sin, sp.cos: np.cos, sp.tan: np.tan, sp.asin: np.arcsin, sp.acos: np.arccos,
    sp.atan: np.arctan, sp.sinh: np.sinh, sp.cosh: np.cosh, sp.tanh: np.tanh, sp.asinh: np.arcsinh, sp.acosh: np.arccosh,
    sp.atanh: np.arctanh, sp.erf: special.erf, sp.Abs: np.abs, sp.Gt: np.greater, sp.Ge: np.greater_equal, sp.Lt: np.less,
    sp.Le: np.less_equal, sp.Eq: np.equal, sp.sinc: lambda x: np.sinc(x / np.pi),
})  # fmt: skip
_FLOAT_FOLDS: Mapping[Any, Any] = MappingProxyType(
    {sp.Add: np.add, sp.Mul: np.multiply, sp.Max: np.maximum, sp.Min: np.minimum}
)


def float_values(
    traced: TracedTarget, points: Float[np.ndarray, "m n"], rng: np.random.Generator | None
) -> Float[np.ndarray, "m k"]:
    """Float64 values of the formula, visiting shared nodes once; with `rng`, every operation is perturbed."""
    values: dict[sp.Basic, Any] = {s: points[:, i] for i, s in enumerate(traced.symbols)}
    constants: set[sp.Basic] = set()
    for node in postorder(traced.expressions):
        if node in values:
            continue
        if isinstance(node, sp.Expr) and constants.issuperset(node.args):
            constants.add(node)
            values[node] = _float_constant(node)
            continue
        value = _float_value(node, [values[a] for a in node.args])
        if rng is not None and isinstance(node, sp.Expr):
            value = value * (1 + 2.0**-46 * rng.uniform(-1, 1, size=len(points)))
        values[node] = value
    return np.stack([np.broadcast_to(values[e], len(points)) for e in traced.expressions], axis=-1)


def _float_constant(node: Any) -> np.float64:
    """By SymPy, with as many digits as it takes: the parts of sqrt(1 + 10**-600) may overflow where it does not."""
    try:
        return np.float64(float(node))
    except (TypeError, OverflowError):  # complex, or too large
        return np.float64(np.nan)


def _float_value(node: Any, arguments: list[Any]) -> Any:
    if isinstance(node, sp.Pow):
        root = node.exp == sp.S.Half
        return np.sqrt(arguments[0]) if root else np.power(arguments[0], arguments[1])
    if isinstance(node, ExprCondPair):
        return tuple(arguments)
    if isinstance(node, sp.Piecewise):
        *branches, (otherwise, _) = arguments
        return functools.reduce(lambda rest, pair: np.where(pair[1], pair[0], rest), reversed(branches), otherwise)
    if type(node) in _FLOAT_FOLDS:
        return functools.reduce(_FLOAT_FOLDS[type(node)], arguments)
    if type(node) in _FLOAT_FUNCTIONS:
        return _FLOAT_FUNCTIONS[type(node)](*arguments)
    if node in (sp.true, sp.false):
        return node is sp.true
    raise CannotTrace(f"its formula contains {node}, which cannot be evaluated")
