"""The shortest single head for a smooth target of several variables: keys, biases and values all optimised.

First the heads of `tensor_search`, whose keys are free; after them, as fallbacks, a roomier one and tensor grids of keys.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from constructions.proposal import Proposal
from constructions.sharp.deadline import DeadlinePassed
from constructions.sharp.tensor_head import Head
from constructions.sharp.tensor_problem import Candidate, Problem, accepted, normal_form, on_box
from constructions.sharp.tensor_product import product_heads
from constructions.sharp.tensor_samples import Box, Target
from constructions.sharp.tensor_search import free_key_heads, roomier_heads

__all__ = ["propose_minimax_nd"]

_MOST_VARIABLES = 6  # a fit grid of five points an axis has 5^n of them


def propose_minimax_nd(
    f: Target,
    lo: Float[np.ndarray, " n"],
    hi: Float[np.ndarray, " n"],
    eps: float,
    *,
    effort: float = 0.0,
    max_tokens: int = 4000,
    deadline: float | None = None,
) -> Iterator[Proposal]:
    """Heads whose sampled sup error on the box [lo, hi] is at most eps, the shortest first.

    f maps (m, n) points to (m, k) values. What is yielded after the first are fallbacks, longer and with more margin.
    The sampled error is measured on a grid that was not fitted, and includes the estimate
    u sum_j w_j |v_j - g| (2 + |logit_j|) of what float64 evaluation rounds (u = 2^-53); it proves nothing.
    effort: seconds, roughly, to spend on shortening beyond the default. Work and memory are bounded, the result is
    deterministic. Yields nothing if f is not finite, n > 6, or no head of at most `max_tokens` tokens was found.
    deadline: of time.monotonic(), after which the search stops with what it has; without one no clock is read.
    Raises ValueError for an empty box, or eps not positive.
    """
    lo, hi = np.asarray(lo, dtype=np.float64).ravel(), np.asarray(hi, dtype=np.float64).ravel()
    if lo.shape != hi.shape or not np.all(np.isfinite(hi - lo)) or not np.all(lo < hi):
        raise ValueError(f"lo, hi = {lo}, {hi}: needs finite lo < hi of one shape; pass the corners of a box")
    if not eps > 0.0 or not np.isfinite(eps):
        raise ValueError(f"eps = {eps}: needs a positive finite error; ask for one above the rounding level")
    if len(lo) > _MOST_VARIABLES:
        return
    try:
        problem = normal_form(f, Box(lo, hi), float(eps), deadline)
        if problem is None or max_tokens < 1:
            return
        constant = Head(np.zeros((1, problem.n)), np.zeros(1), np.zeros((1, problem.k)))
        found = accepted(problem, constant, {"family": "constant", "shape": (1,), "span": (0.0,) * problem.n})
    except (DeadlinePassed, ArithmeticError, RecursionError):
        return
    if found is None:
        shortest = free_key_heads(problem, effort, max_tokens)
        yield from _in_order(problem, shortest, max_tokens)
        if shortest:
            yield from _in_order(
                problem, roomier_heads(problem, min(shortest, key=lambda c: c.head.length)), max_tokens
            )
        yield from _in_order(problem, _product_keys(problem, max_tokens), max_tokens)
    else:
        yield _proposal(problem, found)


def _proposal(problem: Problem, candidate: Candidate) -> Proposal:
    head = on_box(problem, candidate.head)
    return Proposal(
        head.slopes,
        head.biases,
        head.values,
        method="minimax",
        grid=candidate.grid,
        error_estimate=candidate.error * problem.scale,
    )


def _in_order(problem: Problem, found: list[Candidate], max_tokens: int) -> Iterator[Proposal]:
    """Shortest first; of the longer ones those whose error is clearly smaller than all before."""
    least = np.inf
    for candidate in sorted(found, key=lambda c: (c.head.length, c.error)):
        if candidate.head.length <= max_tokens and candidate.error < 0.8 * least:
            least = candidate.error
            yield _proposal(problem, candidate)


def _product_keys(problem: Problem, max_tokens: int) -> list[Candidate]:
    """The tensor grids of Gaussian keys that meet eps."""
    heads = product_heads(
        problem.n, lambda points: problem.samples("product", points), problem.goal, max_tokens, problem.deadline
    )
    found: list[Candidate] = []
    with contextlib.suppress(DeadlinePassed):
        for head, grid in heads:
            candidate = accepted(problem, head, grid)
            if candidate is not None:
                found.append(candidate)
    return found
