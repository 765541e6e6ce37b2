"""Arrays of a statement: checked once, then read-only, so that no verdict can drift from what was checked."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Float

from verify.statement import StatementError

__all__ = ["stored_array", "stored_integer", "stored_number"]


def stored_array(name: str, x: Any, shape: tuple[int | None, ...]) -> Float[np.ndarray, ...]:
    """A read-only float64 copy of an array of this shape (None: any length).

    Raises StatementError for what is not real, not finite or of another shape, naming the argument and the first bad entry.
    """
    try:
        given = np.asarray(x)
    except ValueError as error:
        raise StatementError(f"{name}: not an array ({error})") from error
    if given.dtype.kind not in "fiub":
        raise StatementError(f"{name}: type {given.dtype}, expected real numbers")
    expected = "(" + ", ".join("any" if s is None else str(s) for s in shape) + ")"
    if given.ndim != len(shape) or any(s is not None and s != have for s, have in zip(shape, given.shape, strict=True)):
        raise StatementError(f"{name}: shape {given.shape}, expected {expected}")
    array = np.array(given, dtype=np.float64, order="C")
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        place = tuple(int(i) for i in bad[0])
        raise StatementError(
            f"{name}{list(place)} = {array[place]}: not finite ({len(bad)} such entries), nothing can be proved about it; repair the weights"
        )
    array.setflags(write=False)
    return array


def stored_number(name: str, x: Any, *, least: float = -math.inf, above: float = -math.inf) -> float:
    """A finite float, at least `least` and more than `above`. Raises StatementError."""
    try:
        if np.asarray(x).dtype.kind in "bcSU":  # float() would take True, text, and with a warning complex numbers
            raise TypeError
        value = float(x)
    except (TypeError, ValueError, OverflowError) as error:
        raise StatementError(f"{name} = {str(x)[:60]!r}: expected a number") from error
    if not math.isfinite(value) or value < least or value <= above:
        wanted = f"above {above}" if above > -math.inf else f"at least {least}" if least > -math.inf else "of any size"
        raise StatementError(f"{name} = {value}: expected a finite number, {wanted}")
    return value


def stored_integer(name: str, x: Any, *, least: int, most: int = 2**53) -> int:
    """A whole number between `least` and `most`, of an integer type: 2.0 and True are none. Raises StatementError."""
    if isinstance(x, (bool, np.bool_)) or not isinstance(x, (int, np.integer)) or not least <= x <= most:
        # int(): a digit string of thousands of places would be refused by str
        shown = repr(x)[:60] if not isinstance(x, int) or abs(x) < 10**60 else "beyond 10^60"
        raise StatementError(f"{name} = {shown}: expected an integer, {least} to {most}; pass one")
    return int(x)
