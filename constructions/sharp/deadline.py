"""When a search has to stop: one moment of the monotonic clock, checked between pieces of bounded work.

A search without a deadline never looks at the clock, so its result depends on its arguments alone. With one it does
the same, or stops: a piece of work is either done as always or not begun.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from constructions.proposal import Proposal

__all__ = ["DeadlinePassed", "check_deadline", "until_deadline"]

# Floating-point operations a second, on the slow side for one core: what a piece of work is expected to take.
_RATE = 4e9
# A piece of work this many seconds beyond the deadline is still begun.
_GRACE = 0.5


class DeadlinePassed(Exception):
    """The search's time is over; what it found before stands. Never leaves a construction."""


def check_deadline(deadline: float | None, work: float = 0.0) -> None:
    """Raises DeadlinePassed if `deadline` (of time.monotonic()) is over, or would be long before `work` is done.

    work: floating-point operations of the piece that comes next and cannot be interrupted. None never passes.
    """
    if deadline is not None and time.monotonic() + max(0.0, work / _RATE - _GRACE) >= deadline:
        raise DeadlinePassed


def until_deadline(proposals: Iterator[Proposal]) -> Iterator[Proposal]:
    """The same proposals, ending without an error where their generator meets its deadline."""
    try:
        yield from proposals
    except DeadlinePassed:
        return
