"""Which constructions apply where, how many tokens their theorems promise, and the theorem behind a result."""

from __future__ import annotations

from typing import Any

import numpy as np

from constructions.circuits.compile import CircuitProposal
from constructions.methods import METHODS, Method
from constructions.petrov2024.jackson import net_radius, theorem_for
from constructions.petrov2024.nets import net_bound
from constructions.problem import Problem
from constructions.proposal import Proposal
from constructions.sharp.covering import covering_length
from constructions.sphere_methods import SPHERE_METHODS, sphere_dimension
from constructions.theorem import Theorem
from verify import Sphere, value_range

__all__ = ["ALL_TABLES", "COVERS", "methods_for", "theorem_of", "tokens_needed"]

ALL_TABLES = (METHODS, SPHERE_METHODS)
"""The tables for boxes and for spheres."""
COVERS = ("covering", "split", "classical")
"""Constructions that need a Lipschitz constant only."""


def methods_for(domain: Any) -> tuple[Method, ...]:
    """The constructions for a domain."""
    return SPHERE_METHODS if isinstance(domain, Sphere) else METHODS


def tokens_needed(problem: Problem, eps: float) -> int | None:
    """Tokens a covering needs, without building it; None where no Lipschitz constant is finite."""
    constant = problem.constant()
    if not np.isfinite(constant):
        return None
    if isinstance(problem.domain, Sphere):
        return 1 if constant == 0 else net_bound(problem.domain.m, net_radius(eps, constant))
    lo, hi = problem.domain.bounds
    return covering_length(constant, lo, hi, eps, norm=problem.norm)


def theorem_of(
    problem: Problem, proposal: Proposal | CircuitProposal, sequence_length: int, eps: float
) -> Theorem | None:
    """The theorem that bounds the length of what was built, evaluated for this target; None on a box, or without a finite constant."""
    if not isinstance(problem.domain, Sphere) or not isinstance(proposal, Proposal):
        return None
    constant = problem.constant()
    if not 0 < constant < np.inf:
        return None
    if problem.target is not None and hasattr(problem.target, "expression"):
        size = value_range(problem.target.expression, problem.domain).upper  # pyright: ignore
    else:
        size = float(np.abs(proposal.values).max()) + constant * np.pi
    return theorem_for(
        proposal.method,
        sphere_dimension(problem),
        eps=eps,
        lipschitz=constant,
        bound_f=max(size, 1e-300),
        length=sequence_length,
    )
