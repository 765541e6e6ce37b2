"""How many tokens each node gets: the fewest in total for which the errors, times their sensitivities, stay within eps.

A knapsack with one choice per node, solved exactly by dynamic programming over total tokens (small integers). Rungs are dear and are
found only where they can matter: an unknown rung is taken to cost its ladder's `least`, nothing in float64, and while the optimum of that optimistic table is shorter
than the best allocation of known rungs, the unknown rungs it uses are looked up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from constructions.circuits.ladder import Ladder

__all__ = ["allocate", "tolerances"]

Choices = list[tuple[int, float]]


def allocate(ladders: Sequence[Ladder], sensitivities: Sequence[float], eps: float) -> list[int] | None:
    """Tokens of every node, the smallest total with sum_i sensitivity_i error_i(tokens_i) <= eps; None if the ladders end before.

    Exact: no other choice of rungs has a smaller total. Raises ValueError unless there are as many sensitivities as ladders, each
    finite and at least 0, and eps > 0.
    """
    if len(ladders) != len(sensitivities):
        raise ValueError(f"sensitivities: {len(sensitivities)} of them for {len(ladders)} ladders; pass one for each")
    if not all(s >= 0 and math.isfinite(s) for s in sensitivities):
        raise ValueError(
            f"sensitivities = {list(sensitivities)}: each must be a finite number >= 0; is a range unbounded?"
        )
    if not eps > 0:
        raise ValueError(f"eps = {eps}: must be positive")
    known = [1] * len(ladders)
    while True:
        certain = [
            _falling([(n, s * ladder.error(n)) for n in range(1, last + 1)], eps)
            for ladder, s, last in zip(ladders, sensitivities, known, strict=True)
        ]
        hopeful = [
            choices
            if last >= ladder.most or (choices and choices[-1][1] <= s * ladder.least)
            else [*choices, (last + 1, s * ladder.least)]
            for choices, ladder, s, last in zip(certain, ladders, sensitivities, known, strict=True)
        ]
        best, found = _cheapest(hopeful, eps), _cheapest(certain, eps)
        if best is None:
            return None
        if found is not None and sum(found) <= sum(best):
            return found
        # the optimistic optimum uses at least one unknown rung, or the known rungs would have found it
        known = [max(last, n) for last, n in zip(known, best, strict=True)]


def tolerances(
    ladders: Sequence[Ladder], sensitivities: Sequence[float], eps: float, tokens: Sequence[int]
) -> list[float]:
    """A tolerance for every node of an allocation: its rung's, all scaled up by what the allocation leaves of eps.

    Nodes without error, or without influence, get eps.
    """
    reached = [ladder.error(count) for ladder, count in zip(ladders, tokens, strict=True)]
    used = sum(s * e for s, e in zip(sensitivities, reached, strict=True))
    slack = max(1.0, eps / used * (1.0 - 1e-12)) if used > 0 else 1.0
    return [e * slack if e > 0 else eps for e in reached]


def _falling(choices: Choices, eps: float) -> Choices:
    """Those that fit alone and cost less than every shorter one."""
    out: Choices = []
    for tokens, cost in choices:
        if cost <= eps and (not out or cost < out[-1][1]):
            out.append((tokens, cost))
    return out


def _cheapest(choices: Sequence[Choices], eps: float) -> list[int] | None:
    """One choice for each node with the smallest total of tokens, and among those the smallest cost, within eps."""
    costs = np.zeros(1)  # by total tokens: the smallest cost so far
    history: list[np.ndarray] = []
    for options in choices:
        if not options:
            return None
        reached = np.full(len(costs) + options[-1][0], np.inf)
        taken = np.zeros(len(reached), dtype=int)
        for tokens, cost in options:
            window = slice(tokens, tokens + len(costs))
            better = costs + cost < reached[window]
            reached[window] = np.where(better, costs + cost, reached[window])
            taken[window] = np.where(better, tokens, taken[window])
        costs = np.where(reached <= eps, reached, np.inf)
        history.append(taken)
    within = np.flatnonzero(np.isfinite(costs))
    if len(within) == 0:
        return None
    total, result = int(within[0]), []
    for taken in reversed(history):
        result.append(int(taken[total]))
        total -= result[-1]
    return result[::-1]
