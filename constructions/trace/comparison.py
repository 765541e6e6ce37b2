"""A formula is compared with the callable it was traced from, up to rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from constructions.trace.convention import Convention
from constructions.trace.float_values import float_values
from constructions.trace.outcome import TracedTarget

__all__ = ["disagreement"]

_JITTERS = 8


def disagreement(
    f: Callable[..., Any],
    traced: TracedTarget,
    constant: bool,
    convention: Convention,
    points: Float[np.ndarray, "m n"],
    rng: np.random.Generator,
) -> str | None:
    """Where f and its formula differ beyond rounding, as a sentence; None if nowhere.

    How much rounding may matter is measured by Monte Carlo arithmetic (D. S. Parker, 1997): the formula is evaluated again
    with every intermediate result multiplied by 1 + delta, |delta| <= 2^-46 (64 units in the last place, so that sums in
    another order and less careful library functions are covered), and differences up to four times the spread are allowed,
    plus 2^-46 (1 or |f|) because SymPy may have cancelled exactly what f cancels in floats: sin(pi) is 0 here, 1e-16 there.
    """
    shape = (len(points),) if traced.scalar else (len(points), len(traced.expressions))
    first, second = (np.asarray(f(*convention.arguments(points)), dtype=np.float64) for _ in range(2))
    if constant and first.shape == second.shape == ():
        first, second = (np.broadcast_to(v, shape) for v in (first, second))
    if first.shape != shape or second.shape != shape:
        return f"{len(points)} points gave the shape {first.shape} where the formula gives {shape}"
    if not np.array_equal(first, second, equal_nan=True):
        return "two calls with the same points gave different values: it is random or keeps state"
    values = first.reshape(len(points), -1)
    formula = float_values(traced, points, None)
    spread = np.max(
        [np.abs(np.nan_to_num(float_values(traced, points, rng) - formula)) for _ in range(_JITTERS)], axis=0
    )
    unit = np.maximum(1.0, np.nan_to_num(np.abs(formula), posinf=1.0))
    close = np.abs(values - formula) <= 4 * spread + 2.0**-46 * unit
    agree = close | (values == formula) | (np.isnan(values) & np.isnan(formula))
    if agree.all():
        return None
    i, j = np.argwhere(~agree)[0]
    at = ", ".join(f"{s} = {x:.17g}" for s, x in zip(traced.symbols, points[i], strict=True))
    return f"at {at} it returns {values[i, j]:.17g} but its formula {formula[i, j]:.17g}: not a fixed function, or undefined there"
