"""A formula is compared with the callable it was traced from, up to rounding."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from constructions.trace.breakpoints import around_breakpoints
from constructions.trace.convention import Convention
from constructions.trace.float_values import float_values
from constructions.trace.graph import postorder
from constructions.trace.outcome import NotTraceable, TracedTarget

__all__ = ["compared"]

_RANDOM = 2000
_MOST_CORNERS = 1024
_BATCHES = (1, 2, 3, 7, 64, 1000, 1500)
_JITTERS = 8
_MOST_VALUES = 2**24


def compared(
    f: Callable[..., Any],
    traced: TracedTarget,
    constant: bool,
    convention: Convention,
    box: Float[np.ndarray, "n 2"],
    rng: np.random.Generator,
) -> TracedTarget | NotTraceable:
    """The formula, if f agrees with it at all sampled points of the box, in one batch and in batches of other lengths.

    constant: whether f may return one number for all points. Points: random ones, the corners (1024 of them at most), the centre,
    and in one dimension those around the formula's branches. Where the formula is finite f has to be, too.
    """
    points = _points(traced, box, rng)
    formula = _in_blocks(traced, points, None)
    batches = [slice(len(points) - k, len(points)) for k in (len(points), len(points), *_BATCHES)]
    results = []
    for batch in batches:
        size = batch.stop - batch.start
        wanted = (size,) if traced.scalar else (size, len(traced.expressions))
        values = np.asarray(f(*convention.arguments(points[batch])))
        if values.dtype.kind not in "biuf":
            return NotTraceable(f"it returned an array of {values.dtype}, not of float64")
        if (constant and values.shape == ()) or (size == 1 and values.size == len(traced.expressions)):
            values = np.broadcast_to(values.reshape(-1), (size, len(traced.expressions))).reshape(wanted)
        if values.shape != wanted:
            return NotTraceable(f"{size} points gave the shape {values.shape} where the formula gives {wanted}")
        results.append(values.astype(np.float64).reshape(size, -1))
    if not np.array_equal(results[0], results[1], equal_nan=True):
        return NotTraceable("two calls with the same points gave different values: it is random or keeps state")
    for batch, values in zip(batches, results, strict=True):
        why = _disagreement(traced, points[batch], values, formula[batch], rng)
        if why is not None:
            return NotTraceable(why)
    return replace(traced, samples=len(points))


def _points(traced: TracedTarget, box: Float[np.ndarray, "n 2"], rng: np.random.Generator) -> Float[np.ndarray, "m n"]:
    n = len(box)
    if 2**n <= _MOST_CORNERS:
        corners = np.array(list(itertools.product(*box)))
    else:
        corners = box[np.arange(n), rng.integers(0, 2, size=(_MOST_CORNERS, n))]
    parts = [corners, box.mean(axis=1)[None], rng.uniform(*box.T, size=(_RANDOM, n))]
    if n == 1:
        parts.append(around_breakpoints(traced, *map(float, box[0])))
    return rng.permutation(np.concatenate(parts))


def _disagreement(
    traced: TracedTarget,
    points: Float[np.ndarray, "m n"],
    values: Float[np.ndarray, "m k"],
    formula: Float[np.ndarray, "m k"],
    rng: np.random.Generator,
) -> str | None:
    """Where f and its formula differ beyond rounding, as a sentence; None if nowhere.

    Differences up to 2^-46 (1 or |f|) are rounding, also because SymPy may have cancelled exactly what f cancels in floats: sin(pi)
    is 0 here, 1e-16 there. Where they are larger, how much rounding may matter is measured by Monte Carlo arithmetic (D. S.
    Parker, 1997): the formula is evaluated again with every intermediate result multiplied by 1 + delta, |delta| <= 2^-46 (64 units
    in the last place, so that sums in another order and less careful library functions are covered), and four times the spread is
    allowed on top.
    """
    unit = 2.0**-46 * np.maximum(1.0, np.nan_to_num(np.abs(formula), posinf=1.0))
    # A formula that is not finite is no formula there, and a value that is not finite agrees with no finite one.
    agree = (np.abs(values - formula) <= unit) | (values == formula) | (np.isnan(values) & np.isnan(formula))
    rows = np.nonzero(~agree.all(axis=1))[0]
    if not len(rows):
        return None
    jittered = [_in_blocks(traced, points[rows], rng) - formula[rows] for _ in range(_JITTERS)]
    spread = np.max(np.abs(np.nan_to_num(jittered)), axis=0)
    agree[rows] |= np.abs(values - formula)[rows] <= 4 * spread + unit[rows]
    if agree.all():
        return None
    i, j = np.argwhere(~agree)[0]
    at = ", ".join(f"{s} = {x:.17g}" for s, x in zip(traced.symbols, points[i], strict=True))
    return f"at {at} it returns {values[i, j]:.17g} but its formula {formula[i, j]:.17g}: not a fixed function, or undefined there"


def _in_blocks(
    traced: TracedTarget, points: Float[np.ndarray, "m n"], rng: np.random.Generator | None
) -> Float[np.ndarray, "m k"]:
    """float_values in blocks: every operation's values are kept, and a formula may have 100 000 of them."""
    rows = max(16, _MOST_VALUES // len(postorder(traced.expressions)))
    blocks = [float_values(traced, points[i : i + rows], rng) for i in range(0, len(points), rows)]
    return np.concatenate(blocks)
