"""The trace: call f on rows of symbols, check what comes back, compare it with f."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy as sp
from jaxtyping import Float

from constructions.errors import DomainError
from constructions.trace.array import SymbolicArray, unwrap
from constructions.trace.branches import as_number
from constructions.trace.comparison import compared
from constructions.trace.convention import Convention, calling_convention
from constructions.trace.elementwise import exact, exact_elements
from constructions.trace.float_values import float_values
from constructions.trace.formulas import MAX_BITS
from constructions.trace.graph import bits_of, postorder
from constructions.trace.kinds import FLOAT
from constructions.trace.outcome import CannotTrace, NotTraceable, TracedTarget

__all__ = ["trace"]

_SAMPLES = 61


def trace(
    f: Callable[..., Any],
    *,
    dimension: int | None = None,
    bounds: Sequence[tuple[float, float]] | None = None,
    names: Sequence[str] | None = None,
    seed: int = 0,
) -> TracedTarget | NotTraceable:
    """The formula of a NumPy callable, or why it has none.

    f takes n > 1 arrays of one shape, or one array: points of shape (..., n), or of shape (...) when n = 1; it returns (...)
    or (..., k). dimension: n, by default len(bounds), or else the number of f's arguments. bounds: (lo, hi) of every
    variable; with them the formula is compared with f on seeded random points, corners and points around branches. names: of the variables, by default the
    parameters of f, or x0, x1, ... for a callable on points.

    Raises CallableError when f's number of arguments does not fit, DomainError when bounds or names do not. A callable
    that fails, branches on values, mixes the rows of a batch, or is not a fixed function is NotTraceable.
    """
    box = None if bounds is None else _box(bounds)
    if box is not None and dimension not in (None, len(box)):
        raise DomainError(
            value=bounds, reason=f"has {len(box)} intervals where dimension = {dimension}", argument="bounds"
        )
    convention = calling_convention(f, len(box) if box is not None else dimension, names)
    rng = np.random.default_rng(seed)
    low, high = (-1.0, 1.0) if box is None else box.T
    points = rng.uniform(low, high, size=(_SAMPLES, convention.dimension))
    try:
        with np.errstate(all="ignore"):
            traced, constant = _trace(f, convention, points, box)
            if box is None:
                return traced
            return compared(f, traced, constant, convention, box, rng)
    except CannotTrace as error:
        return NotTraceable(str(error))
    except Exception as error:  # f is the user's: anything may come out of it
        return NotTraceable(f"calling it on symbols raised {type(error).__name__}: {error}")


def _box(bounds: Sequence[tuple[float, float]]) -> Float[np.ndarray, "n 2"]:
    box = np.asarray(bounds, dtype=np.float64)
    if box.ndim != 2 or box.shape[1] != 2 or not len(box):
        raise DomainError(value=bounds, reason="is not a sequence of intervals (lo, hi)", argument="bounds")
    if not np.isfinite(box).all() or (box[:, 0] > box[:, 1]).any():
        raise DomainError(value=bounds, reason="is infinite or reversed", argument="bounds")
    return box


def _trace(
    f: Callable[..., Any],
    convention: Convention,
    points: Float[np.ndarray, "m n"],
    box: Float[np.ndarray, "n 2"] | None,
) -> tuple[TracedTarget, bool]:
    """The formula, and whether f returned a plain number instead of an array."""
    n = convention.dimension
    symbols = tuple(sp.Symbol(name, real=True) for name in convention.names)
    batch = 2 if n != 2 else 3  # different from n, so that the two axes cannot be taken for each other
    rows = [symbols, *(tuple(sp.Dummy(name, real=True) for name in convention.names) for _ in range(batch - 1))]
    refusals: list[str] = []
    sides = [] if box is None else [(exact(lo), exact(hi)) for lo, hi in box]
    ranges = {symbol: side for row in rows for symbol, side in zip(row, sides, strict=False)}
    arguments = SymbolicArray(np.array(rows, dtype=object).reshape(batch, n), FLOAT, refusals, ranges)
    result = f(*convention.arguments(arguments))
    if refusals:
        raise CannotTrace(f"it caught an exception and went on differently: {refusals[0]}")
    if isinstance(result, np.generic) and result.dtype.itemsize > 8:
        raise CannotTrace(f"it returned a {result.dtype}")
    if isinstance(result, (int, float, np.integer, np.floating)):
        return TracedTarget((_checked(exact(result), symbols),), symbols, True), True
    if not isinstance(result, SymbolicArray) and not (isinstance(result, np.ndarray) and result.dtype != object):
        raise CannotTrace(
            f"it returned a {type(result).__name__}, not an array: use np.stack([...], axis=-1) for several components"
        )
    values = np.frompyfunc(as_number, 1, 1)(exact_elements(unwrap(result)))
    if np.shape(values) != (batch,) and not (np.ndim(values) == 2 and len(values) == batch and values.shape[1]):
        raise CannotTrace(
            f"{batch} points gave the shape {np.shape(values)}, not ({batch},) or ({batch}, k): an axis is mixed up"
        )
    components = values.reshape(batch, -1)
    expressions = tuple(_checked(e, symbols) for e in components[0])
    traced = TracedTarget(expressions, symbols, values.ndim == 1)
    wanted = float_values(traced, points, None)
    for row, others in zip(rows[1:], components[1:], strict=True):
        for e in others:
            _checked(e, row)
        other = TracedTarget(tuple(others), row, traced.scalar)
        # Values, not structure: SymPy may arrange the same expression in other symbols differently.
        if not np.allclose(float_values(other, points, None), wanted, rtol=1e-6, atol=1e-9, equal_nan=True):
            raise CannotTrace("the value at a point depends on where in the batch the point is")
    return traced, False


def _checked(e: Any, symbols: Sequence[sp.Symbol]) -> sp.Expr:
    for node in postorder([e]):
        if node in (sp.oo, -sp.oo, sp.zoo, sp.nan, sp.I):
            raise CannotTrace(f"its formula contains {node}: it is not finite, or not real")
        if isinstance(node, sp.Float):
            raise CannotTrace(f"its formula contains the rounded constant {node}")
        if bits_of(node) > MAX_BITS:
            raise CannotTrace(f"its formula contains an exact constant of more than {MAX_BITS} bits (a large power?)")
        if isinstance(node, sp.Symbol) and node not in symbols:
            raise CannotTrace(
                "the value at one point depends on other points of the batch (an axis is missing: axis=-1?)"
            )
    return e
