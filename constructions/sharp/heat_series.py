"""Powers of the Laplacian of a SymPy expression, as NumPy functions: what the corrected values are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import factorial

import numpy as np
import sympy
from jaxtyping import Float

from constructions.sharp.deadline import check_deadline

__all__ = ["HeatSeries", "heat_series"]

# Derivatives of nested expressions grow geometrically: beyond this many operations the next power is not formed.
_MOST_OPERATIONS = 800
# What making a NumPy function of one operation takes, in floating-point operations.
_PRINTING = 1e6
# How SymPy or the printed function fail on expressions that are too deep, too large, or have huge integers.
_BREAKDOWNS = (ArithmeticError, ValueError, RecursionError, MemoryError)
# Outside the functions NumPy prints: each is rewritten by the function next to it.
_REWRITES = (
    (sympy.sech, sympy.cosh),
    (sympy.csch, sympy.sinh),
    (sympy.coth, sympy.tanh),
    (sympy.sec, sympy.cos),
    (sympy.csc, sympy.sin),
    (sympy.cot, sympy.tan),
)
_NOT_NUMERICAL = (sympy.Derivative, sympy.Subs, sympy.DiracDelta, sympy.Integral, sympy.zoo.func, sympy.nan.func)

Numeric = Callable[[Float[np.ndarray, "m n"]], Float[np.ndarray, "m k"]]


@dataclass(frozen=True, eq=False)
class HeatSeries:
    """f, Delta f, Delta^2 f, ... and |grad f| as functions of (m, n) points; NaN where f is not real and finite.

    powers[j]: (m, n) -> (m, k), Delta^j f. gradient: (m, n) -> (m, k n).
    """

    dimension: int
    powers: tuple[Numeric, ...]
    gradient: Numeric

    def values(self, points: Float[np.ndarray, "m n"], t: float, order: int) -> Float[np.ndarray, "m k"]:
        """sum_{j < order} (-t)^j / j! Delta^j f: the heat semigroup run backwards for the time t, to this order."""
        return sum(
            (self.powers[j](points) * ((-t) ** j / factorial(j)) for j in range(1, order)), self.powers[0](points)
        )


def _numeric(expressions: Sequence[sympy.Expr], symbols: Sequence[sympy.Symbol]) -> Numeric:
    """The expressions as one vectorised function; whatever is not a real number comes out as NaN."""
    function = sympy.lambdify(list(symbols), list(expressions), modules=["scipy", "numpy"], cse=True)

    def evaluate(points: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            columns = function(*points.T)
        result = np.full((len(points), len(expressions)), np.nan)
        for i, column in enumerate(columns):
            array = np.broadcast_to(np.asarray(column), (len(points),))
            if np.iscomplexobj(array):
                array = np.where(np.imag(array) == 0, np.real(array), np.nan)
            result[:, i] = array
        return np.where(np.isfinite(result), result, np.nan)

    return evaluate


def _laplacian(expression: sympy.Expr, symbols: Sequence[sympy.Symbol], deadline: float | None = None) -> sympy.Expr:
    """Delta of the expression; products multiplied out where that merges terms (Gaussians, rational functions)."""
    check_deadline(deadline)
    plain = sympy.Add(*(sympy.diff(expression, symbol, 2) for symbol in symbols))
    if plain.count_ops() > 8 * _MOST_OPERATIONS:
        return plain
    check_deadline(deadline)
    merged = sympy.expand_mul(plain)
    return merged if merged.count_ops() < plain.count_ops() else plain


def heat_series(
    expression: sympy.Expr | Sequence[sympy.Expr],
    symbols: Sequence[sympy.Symbol],
    most: int,
    deadline: float | None = None,
) -> HeatSeries:
    """f and as many of its first `most` Laplacian powers as stay of moderate size and elementary.

    Raises ValueError for symbols that are not among `symbols`, or expressions that NumPy cannot evaluate;
    ArithmeticError or RecursionError where SymPy or NumPy give up on their depth or size; DeadlinePassed where
    `deadline` passes.
    """
    listed = list(expression) if isinstance(expression, Sequence | sympy.Tuple) else [expression]
    expressions = [sympy.sympify(item) for item in listed]
    unknown = set().union(*(item.free_symbols for item in expressions)) - set(symbols)
    if unknown:
        raise ValueError(
            f"expr contains {sorted(map(str, unknown))}, not among symbols = {tuple(symbols)}: substitute them."
        )
    for old, new in _REWRITES:
        expressions = [item.rewrite(old, new) if item.has(old) else item for item in expressions]
    check_deadline(deadline, _PRINTING * sum(item.count_ops() for item in expressions))
    try:
        powers, current = [_numeric(expressions, symbols)], expressions
        powers[0](np.zeros((2, len(symbols))))
    except (NameError, AttributeError) as error:
        raise ValueError(f"expr = {expressions} cannot be evaluated with NumPy ({error}): rewrite it.") from error
    except (TypeError, *_BREAKDOWNS) as error:
        raise ArithmeticError(f"expr cannot be evaluated with NumPy ({error}): use smaller numbers in it.") from error
    for _ in range(most):
        if sum(item.count_ops() for item in current) > _MOST_OPERATIONS:
            break
        check_deadline(deadline)
        try:
            current = [_laplacian(item, symbols, deadline) for item in current]
            if any(item.has(*_NOT_NUMERICAL) for item in current):
                break
            check_deadline(deadline, _PRINTING * sum(item.count_ops() for item in current))
            power = _numeric(current, symbols)
            power(np.zeros((2, len(symbols))))
        except (NameError, TypeError, AttributeError, *_BREAKDOWNS):
            break
        powers.append(power)
    gradient = []
    for item in expressions:
        check_deadline(deadline)
        gradient += [sympy.diff(item, symbol) for symbol in symbols]
    if any(item.has(*_NOT_NUMERICAL) for item in gradient):
        powers, gradient = powers[:1], [sympy.nan] * len(gradient)
    check_deadline(deadline, _PRINTING * sum(item.count_ops() for item in gradient))
    return HeatSeries(len(symbols), tuple(powers), _numeric(gradient, symbols))
