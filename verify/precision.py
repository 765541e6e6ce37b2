"""python-flint's precision is global: the one place that sets it, and the outward conversions between arb and float64."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import flint

__all__ = ["arb_bounds", "arb_from_bounds", "working_precision"]


@contextmanager
def working_precision(bits: int) -> Iterator[None]:
    """Run the body with python-flint's working precision at `bits`, and put the old one back whatever happens."""
    before = flint.ctx.prec
    flint.ctx.prec = bits
    try:
        yield
    finally:
        flint.ctx.prec = before


def arb_bounds(x: flint.arb) -> tuple[float, float]:
    """Float64 bounds lo <= x <= hi of a ball; (nan, nan) where the ball is not finite.

    `float(arb)` rounds to nearest and drops the radius, so each end is taken as an exact number and moved one float outward.
    """
    if not x.is_finite():
        return math.nan, math.nan
    lo, hi = float(x.lower()), float(x.upper())
    if math.isnan(lo) or math.isnan(hi):
        return math.nan, math.nan
    return math.nextafter(lo, -math.inf), math.nextafter(hi, math.inf)


def arb_from_bounds(lo: float, hi: float) -> flint.arb:
    """A ball that contains [lo, hi]."""
    return flint.arb(lo).union(flint.arb(hi))
