"""The constructions `compile_prefix` can use, in one visible table."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import sympy as sp

from constructions.circuits.compile import CircuitProposal, propose_circuits
from constructions.circuits.single import propose_single
from constructions.problem import Problem
from constructions.proposal import Proposal
from constructions.sharp.bernstein import propose_bernstein
from constructions.sharp.covering import propose_covering
from constructions.sharp.laplacian import propose_laplacian
from constructions.sharp.minimax import propose_minimax
from constructions.sharp.minimax_nd import propose_minimax_nd
from constructions.sharp.sharpen import sharpened
from constructions.sharp.steps import propose_steps
from verify import Box, Provenance
from verify.format_arithmetic import FLOAT64, FloatFormat

__all__ = ["METHODS", "Limits", "Method"]


@dataclass(frozen=True)
class Limits:
    """What a search may use: tokens; seconds to spend on something shorter; the time (time.monotonic()) at which to give up; the
    longest sequence whose data tokens a head must cope with; the float format that the result is to run in."""

    max_tokens: int
    effort: float = 0.0
    deadline: float = math.inf
    sequence_length: int = 1
    form: FloatFormat = FLOAT64

    @property
    def seconds_left(self) -> float:
        """Until the deadline, at least 0."""
        return max(0.0, self.deadline - time.monotonic())

    @property
    def passed(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() > self.deadline


@dataclass(frozen=True)
class Method:
    """One construction.

    refusal: why it does not apply to a problem, or None; propose: (problem, eps, limits) -> proposals, shortest first;
    dominated_by: a construction whose heads include this one's keys with the *best* values, so that "auto" need not ask this
    one where that one found something.
    """

    name: str
    summary: str
    refusal: Callable[[Problem], str | None]
    propose: Callable[[Problem, float, Limits], Iterator[Proposal | CircuitProposal]]
    dominated_by: str | None = None


def _needs_formula(problem: Problem) -> str | None:
    return (
        "needs a target with a formula or grid data; a black box has a Lipschitz constant only"
        if problem.target is None
        else None
    )


def _needs_sympy(problem: Problem) -> str | None:
    return None if problem.expressions is not None else "needs a SymPy expression, whose Laplacians it takes"


def _minimax(problem: Problem, eps: float, limits: Limits) -> Iterator[Proposal]:
    lo, hi = problem.domain.bounds
    if problem.domain.dimension == 1:
        if limits.form.precision < 53 and problem.expressions is not None and len(problem.expressions) == 1:
            ends, most = (float(lo[0]), float(hi[0])), limits.max_tokens
            yield from propose_single(problem.expressions[0], *ends, eps, form=limits.form, max_tokens=most)
        yield from propose_minimax(
            _scalar(problem),
            float(lo[0]),
            float(hi[0]),
            eps,
            effort=limits.effort,
            max_tokens=min(limits.max_tokens, 400),
            deadline=limits.deadline,
        )
    else:
        yield from propose_minimax_nd(
            problem.evaluate,
            lo,
            hi,
            eps,
            effort=limits.effort,
            max_tokens=min(limits.max_tokens, 4000),
            deadline=limits.deadline,
        )


def _scalar(problem: Problem) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: problem.evaluate(np.asarray(x, dtype=np.float64)[:, None])


def _bernstein(problem: Problem, eps: float, limits: Limits) -> Iterator[Proposal]:
    lo, hi = problem.domain.bounds
    yield from propose_bernstein(problem.evaluate, lo, hi, eps, max_tokens=limits.max_tokens, deadline=limits.deadline)


def _laplacian(problem: Problem, eps: float, limits: Limits) -> Iterator[Proposal]:
    lo, hi = problem.domain.bounds
    assert problem.expressions is not None
    yield from propose_laplacian(
        list(problem.expressions), problem.symbols, lo, hi, eps, max_tokens=limits.max_tokens, deadline=limits.deadline
    )


def _covering(problem: Problem, eps: float, limits: Limits) -> Iterator[Proposal]:
    """Cells for the Lipschitz constant; for a known function of one variable, cells of equal oscillation instead."""
    lo, hi = problem.domain.bounds
    if problem.target is not None and problem.domain.dimension == 1:
        # each token's value is one of a range-long ladder of steps of at most 2 eps
        values = problem.evaluate(np.linspace(lo, hi, 257))
        if np.ptp(values, axis=0).max() > 2 * eps * limits.max_tokens:
            return
        yield from propose_steps(
            _scalar(problem), float(lo[0]), float(hi[0]), eps, max_tokens=limits.max_tokens, deadline=limits.deadline
        )
        return
    constant = problem.constant()
    if not np.isfinite(constant):
        return
    for proposal in propose_covering(
        problem.evaluate, constant, lo, hi, eps, norm=problem.norm, max_tokens=limits.max_tokens
    ):
        lemma = problem.provenance is Provenance.DECLARED and problem.norm == "l2" and problem.domain.dimension > 1
        sharp = sharpened(proposal, constant, eps, lo, hi) if lemma else None
        if sharp is not None:
            yield sharp
        yield proposal


def _no_circuit(problem: Problem) -> str | None:
    if problem.expressions is None:
        return "needs a SymPy expression, which it takes apart"
    kinks = sum(len(e.atoms(sp.Abs, sp.Min, sp.Max)) for e in problem.expressions)
    if problem.domain.dimension == 1 and kinks < 2:
        return "is for several variables, or several kinks: for one variable a single head is the shortest"
    return None


def _circuit(problem: Problem, eps: float, limits: Limits) -> Iterator[CircuitProposal]:
    assert problem.expressions is not None
    assert isinstance(problem.domain, Box)
    yield from propose_circuits(
        problem.expressions,
        problem.symbols,
        problem.domain,
        eps,
        max_tokens=limits.max_tokens,
        deadline=limits.deadline,
        form=limits.form,
    )


METHODS: tuple[Method, ...] = (
    Method("circuit", "layers of heads, each for one step of the formula", _no_circuit, _circuit),
    Method("minimax", "best values on free keys and free denominators", _needs_formula, _minimax),
    Method("bernstein", "exact polynomials in sigmoid(h x)", _needs_formula, _bernstein, dominated_by="minimax"),
    Method(
        "laplacian", "Gaussian keys with Laplacian-corrected values", _needs_sympy, _laplacian, dominated_by="minimax"
    ),
    Method("covering", "one token per cell of a covering", lambda problem: None, _covering),
)
