"""The sign of an expression over a box, from rigorous ranges on a few sub-boxes that cover it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from verify.ball import Ball
from verify.domain import Box
from verify.expression import Expression
from verify.jets import jets

__all__ = ["Sign", "sign_on_box"]

_ROUNDS, _MAX_BOXES, _SAMPLES = 6, 64, 16


@dataclass(frozen=True)
class Sign:
    """What is certain at every point where the expression is defined; several may hold (all four where it is defined nowhere)."""

    non_negative: bool
    positive: bool
    non_positive: bool
    negative: bool

    @staticmethod
    def unknown() -> Sign:
        """Nothing is certain."""
        return Sign(False, False, False, False)


def sign_on_box(expression: Expression, domain: Box, spend: Callable[[int], None]) -> Sign:
    """The sign of the first output. spend: told the work, in steps of a few microseconds, before it is done.

    A box that leaves the sign open is halved along its widest side, relative to the domain's. Samples of both signs end the search:
    they can only make the answer "unknown".
    """
    spend(10 * len(expression.nodes))
    samples = expression.evaluate(domain.sample(_SAMPLES))[:, 0]
    above, below = bool((samples > 0).any()), bool((samples < 0).any())
    if above and below:
        return Sign.unknown()
    used = sorted({int(node.value or 0) for node in expression.nodes if node.op == "var"})
    lo, hi = (end[None, :] for end in domain.bounds)
    width = hi - lo
    weak = False
    for turn in range(_ROUNDS):
        spend(len(expression.nodes) * (20 + 5 * len(lo)))
        value = jets(expression, Ball.between(lo, hi), np.zeros_like(lo), 0)[0][0]
        if value is None:  # identically zero
            return Sign(True, False, True, False)
        least = (
            -value.upper()[:, 0] if below else value.lower()[:, 0]
        )  # of minus the expression where that is the guess
        unsettled = np.flatnonzero(~(least > 0))  # the boxes left out so far are settled: the expression is > 0 there
        if not len(unsettled):
            return Sign(False, False, True, True) if below else Sign(True, True, False, False)
        weak = weak or bool((least[unsettled] >= 0).all())
        if not used or 2 * len(unsettled) > _MAX_BOXES or turn == _ROUNDS - 1:
            break
        lo, hi = lo[unsettled], hi[unsettled]
        rows = np.arange(len(lo))
        axis = np.array(used)[np.argmax(((hi - lo) / width)[:, used], axis=1)]
        middle = lo[rows, axis] + (hi[rows, axis] - lo[rows, axis]) * 0.5
        left, right = hi.copy(), lo.copy()
        left[rows, axis] = right[rows, axis] = middle
        lo, hi = np.concatenate([lo, right]), np.concatenate([left, hi])
    return Sign(weak and not below, False, weak and below, False)
