"""Callables without a formula: called carefully, their failures located."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from constructions.errors import CallableError, DomainError
from constructions.trace.convention import Convention, calling_convention

__all__ = ["evaluate_callable"]


_VECTORISE = (
    "f is called on arrays: n arrays of shape (m,), or one of shape (m, n) ((m,) for n = 1), and returns (m,) or (m, k). "
    "If it is written for one point, wrap it: np.vectorize(f), or np.vectorize(f, signature='(n)->()') for a function of points."
)


def evaluate_callable(f: Callable[..., Any], points: Float[np.ndarray, "m n"]) -> Float[np.ndarray, "m k"]:
    """Values of a black box at the points, called by the conventions of `trace`.

    Raises CallableError when f raises (the point and the exception are attached), returns the wrong shape or type, or
    returns NaN or an infinity (the point is attached); DomainError when `points` is not a non-empty (m, n) array.
    """
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or not points.size:
        raise DomainError(
            value=points.shape, reason="is not the shape (m, n) of at least one point", argument="points.shape"
        )
    m, n = points.shape
    convention = calling_convention(f, n, None)
    # An f written for single points would pass unnoticed on a batch of 1 or n points: repeat one of them.
    padded = points
    while len(padded) in (1, n):
        padded = np.concatenate([padded, points[-1:]])
    try:
        result = f(*convention.arguments(padded))
    except Exception as error:
        point, cause = _first_failure(f, convention, points, error)
        raise CallableError(
            problem=f"raised {type(cause).__name__} ({cause})", point=point.tolist(), next_step=_VECTORISE, cause=cause
        ) from cause
    values = _real_array(result, len(padded))[:m]
    bad = ~np.isfinite(values)
    if bad.any():
        i, j = np.argwhere(bad)[0]
        raise CallableError(
            problem=f"returned {values[i, j]}",
            point=points[i].tolist(),
            next_step="Restrict the domain to where f is finite, or define f there.",
        )
    return values


def _real_array(result: Any, rows: int) -> Float[np.ndarray, "rows k"]:
    try:
        raw = np.asarray(result)
        if np.iscomplexobj(raw):
            raise CallableError(
                problem="returned complex numbers",
                next_step="Return the real and the imaginary part as two components.",
            )
        values = raw.astype(np.float64)
    except (TypeError, ValueError) as error:
        if isinstance(error, CallableError):
            raise
        kind = type(result).__name__
        raise CallableError(
            problem=f"returned a {kind} that is no array of numbers", next_step=_VECTORISE, cause=error
        ) from error
    if values.shape != (rows,) and not (values.ndim == 2 and len(values) == rows and values.shape[1]):
        raise CallableError(problem=f"returned the shape {values.shape} for {rows} points", next_step=_VECTORISE)
    return values.reshape(rows, -1)


def _first_failure(
    f: Callable[..., Any], convention: Convention, points: Float[np.ndarray, "m n"], error: Exception
) -> tuple[np.ndarray, Exception]:
    """A point at which f raises, by bisection, and what it raises there; the first point if f fails on batches only."""
    block = points
    while len(block) > 1:
        half = block[: len(block) // 2]
        caught = _exception(f, convention, half)
        block, error = (half, caught) if caught is not None else (block[len(half) :], error)
    caught = _exception(f, convention, block)
    return (points[0], error) if caught is None else (block[0], caught)


def _exception(f: Callable[..., Any], convention: Convention, block: Float[np.ndarray, "m n"]) -> Exception | None:
    # At least as many rows as leave no room for `if x > 0` or math.sin(x) to work by accident.
    padded = np.concatenate([block, *[block[-1:]] * 2])
    try:
        f(*convention.arguments(padded))
    except Exception as error:
        return error
    return None
