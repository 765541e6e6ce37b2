"""The constructions for a sphere, in one visible table."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from constructions.methods import Limits, Method
from constructions.petrov2024.classical import propose_classical
from constructions.petrov2024.core import propose_core
from constructions.petrov2024.split import propose_split
from constructions.problem import Problem
from constructions.proposal import Proposal
from verify import Sphere

__all__ = ["SPHERE_METHODS", "sphere_dimension"]

_SMOOTH_UP_TO = 2
"""Dimension m up to which values are fitted: beyond, only the covering theorem proves anything, for values f(b_k)."""


def sphere_dimension(problem: Problem) -> int:
    """m of S^m."""
    assert isinstance(problem.domain, Sphere)
    return problem.domain.m


def _core_refusal(problem: Problem) -> str | None:
    if problem.target is None:
        return "needs a target with a formula; a black box has a Lipschitz constant only"
    if sphere_dimension(problem) > _SMOOTH_UP_TO:
        return f"is fitted and proved for m <= {_SMOOTH_UP_TO} only"
    return None


def _classical_refusal(problem: Problem) -> str | None:
    most = sphere_dimension(problem) + 1
    if problem.outputs <= most:
        return None
    return f"has room for m + 1 = {most} outputs in its hidden size 3 (m + 1), and f has {problem.outputs}"


def _constant(problem: Problem) -> float | None:
    constant = problem.constant()
    return constant if np.isfinite(constant) else None


def _smooth(problem: Problem) -> bool:
    return problem.target is not None and sphere_dimension(problem) <= _SMOOTH_UP_TO


def _core(problem: Problem, eps: float, limits: Limits) -> Iterator[Proposal]:
    yield from propose_core(
        problem.evaluate, sphere_dimension(problem), eps, max_tokens=limits.max_tokens, deadline=limits.deadline
    )


def _constant_head(problem: Problem, eps: float) -> Iterator[Proposal]:
    """One token, where f varies by less than 2 eps on a sample: the middle of its range."""
    if problem.target is None:
        return
    m = sphere_dimension(problem)
    values = problem.evaluate(np.concatenate([problem.domain.sample(2000), np.eye(m + 1), -np.eye(m + 1)]))
    low, high = values.min(axis=0), values.max(axis=0)
    if (high - low).max() <= 2 * eps:
        middle = (0.5 * (low + high))[None]
        yield Proposal(np.zeros((1, m + 1)), np.zeros(1), middle, "split", {"keys": np.eye(1, m + 1)})


def _split(problem: Problem, eps: float, limits: Limits) -> Iterator[Proposal]:
    yield from _constant_head(problem, eps)
    yield from propose_split(
        problem.evaluate,
        sphere_dimension(problem),
        eps,
        lipschitz=_constant(problem),
        smooth=_smooth(problem),
        max_tokens=limits.max_tokens,
        deadline=limits.deadline,
    )


def _classical(problem: Problem, eps: float, limits: Limits) -> Iterator[Proposal]:
    yield from propose_classical(
        problem.evaluate,
        sphere_dimension(problem),
        eps,
        lipschitz=_constant(problem),
        smooth=_smooth(problem),
        sequence_length=limits.sequence_length,
        max_tokens=limits.max_tokens,
        deadline=limits.deadline,
    )


SPHERE_METHODS: tuple[Method, ...] = (
    Method("split", "softmax over the prefix alone", lambda problem: None, _split),
    Method("core", "sums of exponentials, not normalised", _core_refusal, _core),
    Method("classical", "one pretrained head; data tokens share the softmax", _classical_refusal, _classical),
)
