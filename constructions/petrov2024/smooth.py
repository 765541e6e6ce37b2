"""Shortest smooth heads on S^1 and S^2, as proposals."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from constructions.petrov2024.circle import circle_heads
from constructions.petrov2024.smooth_head import proposal
from constructions.petrov2024.sphere import sphere_heads
from constructions.petrov2024.values import Family
from constructions.proposal import Proposal
from constructions.sharp.deadline import until_deadline

__all__ = ["propose_smooth"]


def propose_smooth(
    evaluate: Callable[[np.ndarray], np.ndarray],
    m: int,
    eps: float,
    family: Family,
    *,
    max_tokens: int,
    deadline: float | None = None,
) -> Iterator[Proposal]:
    """Heads with fitted values whose sampled error is at most 0.9 eps, shortest first; none for m >= 3.

    There a known function could only be proved through its Lipschitz constant, which fitted values do not use.
    """
    search = {1: circle_heads, 2: sphere_heads}.get(m)
    if search is None:
        return
    heads = search(evaluate, family, eps, max_tokens=max_tokens, deadline=deadline)
    yield from until_deadline(proposal(head, family) for head in heads)
