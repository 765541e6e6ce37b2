"""Which side of delta/(1 + delta) the attention on relevant tokens is on, whatever the weights of a mean-pooled self-attention layer."""

from __future__ import annotations

import time

import flint
import numpy as np
from scipy.special import expit

from verify.context_noise import OutOfTime
from verify.precision import arb_from_bounds, working_precision

__all__ = ["best_strength", "collinear_side"]

_BITS = 128
_MOST_PIECES = 20_000
_FARTHEST = 2.0**40


def collinear_side(relevant: int, irrelevant: int, delta: float, deadline: float) -> int:
    """The sign of c = P - (1 - P) delta for every layer: +1 or -1 where it is proved to be one, 0 where it is free or not known.

    A sequence of tokens r (share z) and i = -delta r (share 1 - z): with s = r^T W r the score differences of r against i are (1 + delta) s for the
    query r and -delta (1 + delta) s for the query i, so the mean attention on relevant tokens is, with l = log(z/(1 - z)),

        P(s) = z sigmoid(l + (1 + delta) s) + (1 - z) sigmoid(l - delta (1 + delta) s),    0 < P < 1.

    delta <= 0: c = P (1 + delta) - delta lies strictly between its values -delta >= 0 at P = 0 and 1 at P = 1: +1.
    delta > 0, for s >= 0 the second sigmoid is at most sigmoid(l) = z, for s <= 0 the first: P < 1 - (1 - z) min(z, 1 - z). So c < 0 if
    1 + delta >= 1/((1 - z) min(z, 1 - z)), in whole numbers below. Otherwise the sign of P - delta/(1 + delta) is decided on pieces of the line,
    on which both sigmoids are monotone.
    """
    if delta <= 0:
        return 1
    least = min(relevant, irrelevant)
    total = relevant + irrelevant
    numerator, denominator = delta.as_integer_ratio()
    if (denominator + numerator) * irrelevant * least >= denominator * total**2:
        return -1
    with working_precision(_BITS):
        z = flint.arb(relevant) / total
        share = _Share(z, flint.arb(relevant) / irrelevant, flint.arb(delta))
        middle = share.excess(flint.arb(0), flint.arb(0))
        if middle < 0:
            return -1 if _one_sided(share, -1, deadline) else 0
        if middle > 0:
            return 1 if _one_sided(share, 1, deadline) else 0
    return 0


def best_strength(relevant: int, irrelevant: int, delta: float) -> float:
    """An s at which P(s) of `collinear_side` is about as large as it gets, in float64."""
    z, odds = relevant / (relevant + irrelevant), np.log(relevant / irrelevant)
    size = np.geomspace(1e-4, 1e4, 4001) / (1 + abs(delta))
    s = np.concatenate([-size, size])
    with np.errstate(over="ignore", invalid="ignore"):
        share = z * expit(odds + (1 + delta) * s) + (1 - z) * expit(odds - delta * (1 + delta) * s)
    return float(s[np.nanargmax(share)]) if np.isfinite(share).any() else 0.0


class _Share:
    """P(s) - delta/(1 + delta)."""

    def __init__(self, z: flint.arb, odds: flint.arb, delta: flint.arb) -> None:
        self.z, self.odds, self.delta = z, odds, delta
        self.limit = delta / (1 + delta)

    def excess(self, first: flint.arb, second: flint.arb) -> flint.arb:
        """The value with s = first in the first sigmoid and s = second in the other one."""
        up = 1 / (1 + (-(1 + self.delta) * first).exp() / self.odds)
        down = 1 / (1 + (self.delta * (1 + self.delta) * second).exp() / self.odds)
        return self.z * up + (1 - self.z) * down - self.limit


def _one_sided(share: _Share, side: int, deadline: float) -> bool:
    """Whether side * (P(s) - delta/(1 + delta)) > 0 is proved for all real s."""

    def holds(low: float, high: float) -> bool:
        # the first sigmoid rises with s, the second falls: these are the extremes of both on [low, high]
        ends = (high, low) if side < 0 else (low, high)
        return bool(side * share.excess(flint.arb(ends[0]), flint.arb(ends[1])) > 0)

    far = 1.0
    while not (_tail(share, side, far) and _tail(share, side, -far)):
        far *= 2
        if far > _FARTHEST:
            return False
    pieces = [(-far, far)]
    for count in range(_MOST_PIECES):
        if not pieces:
            return True
        if count % 64 == 0 and time.monotonic() > deadline:
            raise OutOfTime
        low, high = pieces.pop()
        if holds(low, high):
            continue
        middle = 0.5 * (low + high)
        if not low < middle < high or side * share.excess(flint.arb(middle), flint.arb(middle)) <= 0:
            return False
        pieces += [(low, middle), (middle, high)]
    return False


def _tail(share: _Share, side: int, start: float) -> bool:
    """Whether it is proved from `start` on, away from 0. What a sigmoid still has to go there is in [its value, its limit]."""
    at = flint.arb(start)
    up = 1 / (1 + (-(1 + share.delta) * at).exp() / share.odds)
    down = 1 / (1 + (share.delta * (1 + share.delta) * at).exp() / share.odds)
    limits = (1.0, 0.0) if start > 0 else (0.0, 1.0)
    up, down = (x.union(arb_from_bounds(end, end)) for x, end in zip((up, down), limits, strict=True))
    return bool(side * (share.z * up + (1 - share.z) * down - share.limit) > 0)
