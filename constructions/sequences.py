"""Sequence functions: compile_prefix on `Sequences(T, Box(...))`.

"sequence" is the T + 2 layer construction with one scalar code, proved off an exceptional set and in L^p; "shifted" averages M of them
and holds everywhere; "two-layer" copies the sequence into every token, then runs one head. "auto" takes the last: shortest, and
everywhere.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import sympy as sp
from threadpoolctl import threadpool_limits

from constructions.compiled import Compiled
from constructions.errors import (
    CompileError,
    DomainError,
    MethodError,
    NotProvedError,
    TooLongError,
    UndefinedTargetError,
)
from constructions.methods import Limits
from constructions.petrov2024.sequence import SequenceProposal, compile_sequence
from constructions.petrov2024.shifted import compile_shifted
from constructions.petrov2024.two_layer import compile_two_layer
from constructions.progress import reporting
from constructions.trace import NotTraceable, trace, traced_assumption
from verify import Claim, Sequences, prove, value_range

__all__ = ["SEQUENCE_METHODS", "compile_sequences"]

SEQUENCE_METHODS = ("two-layer", "shifted", "sequence")


def compile_sequences(f: Any, eps: float, domain: Sequences, method: str, limits: Limits, progress: Any) -> Compiled:
    """Compile a map from T tokens to T tokens. f: T lists of k expressions (or T k in a row) in the flattened coordinates `domain.names`,
    or a callable of these T d numbers, which is traced. Raises the errors of errors.py."""
    if method != "auto" and method not in SEQUENCE_METHODS:
        raise MethodError(value=method, known=["auto", *SEQUENCE_METHODS])
    if domain.gaps:
        raise DomainError(
            value=domain,
            reason="has gaps, which the construction chooses",
            next_step="Pass Sequences(T, Box(...)) without gaps.",
        )
    method = SEQUENCE_METHODS[0] if method == "auto" else method
    with reporting(progress) as report, threadpool_limits(1, "blas"):
        report(0.0, f"constructing ({method})")
        expressions, assumptions = _expressions(f, domain)
        proposal = _propose(expressions, domain, eps, method, limits)
        report(0.0, f"proving {proposal.length} tokens ({method})")
        return _proved(proposal, method, limits, report, assumptions)


def _expressions(f: Any, domain: Sequences) -> tuple[Any, tuple[str, ...]]:
    """The target as expressions, and what tracing assumed."""
    if isinstance(f, (sp.Expr, sp.MatrixBase, list, tuple)) or not callable(f):
        return f, ()
    flattened = domain.flattened

    def stacked(*arguments: Any) -> Any:
        """f, with a tuple or list of results (of lists, one per token) as one array."""
        found = f(*arguments)
        return np.stack(_results(found), axis=-1) if isinstance(found, (tuple, list)) else found

    stacked.__signature__ = inspect.signature(f)  # type: ignore[attr-defined]
    traced = trace(stacked, bounds=list(zip(flattened.lo, flattened.hi, strict=True)), names=None)
    if isinstance(traced, NotTraceable):
        raise CompileError(
            f"f = {f!r} could not be traced: {traced.reason}. Pass expressions in {', '.join(domain.names)}, one list per token."
        )
    renamed = {s: sp.Symbol(n) for s, n in zip(traced.symbols, domain.names, strict=True)}
    return [e.xreplace(renamed) for e in traced.expressions], (traced_assumption(traced.samples),)


def _results(found: Any) -> list[Any]:
    return [x for part in found for x in _results(part)] if isinstance(found, (tuple, list)) else [found]


def _propose(f: Any, domain: Sequences, eps: float, method: str, limits: Limits) -> SequenceProposal:
    if method == "two-layer":
        options = {"max_tokens": limits.max_tokens, "effort": limits.effort, "progress": False}
        return compile_two_layer(f, domain.T, domain.box, eps, **options, time_limit=min(limits.seconds_left, 1e8))
    build = compile_sequence if method == "sequence" else compile_shifted
    return build(f, domain.T, domain.box, eps, max_tokens=limits.max_tokens)


def _proved(
    proposal: SequenceProposal,
    method: str,
    limits: Limits,
    report: Callable[[float, str], None],
    assumptions: tuple[str, ...],
) -> Compiled:
    _defined(proposal)
    if proposal.length > limits.max_tokens:
        raise TooLongError(needed=proposal.length, max_tokens=limits.max_tokens, options=["a larger eps"])
    claim = Claim(proposal.model, proposal.prefix, proposal.target, proposal.domain, proposal.eps, cuts=proposal.cuts)
    words = f"proving {proposal.length} tokens ({method})"
    certificate = prove(claim, seconds=limits.seconds_left, progress=lambda done, _: report(done, words))
    if not certificate.proved:
        late = "The time limit passed: pass a larger time_limit or a larger eps" if limits.passed else ""
        raise NotProvedError(certificate=certificate, status=str(certificate.status), eps=proposal.eps, next_step=late)
    noted = {**certificate.__dict__, "assumptions": certificate.assumptions + assumptions}
    attempts = ((method, proposal.length, str(certificate.status)),)
    return Compiled(claim, type(certificate)(**noted), method, proposal.grid, attempts=attempts)


def _defined(proposal: SequenceProposal) -> None:
    """Raise UndefinedTargetError where f is not defined on the box of all sequences."""
    flattened = proposal.domain.flattened
    found = value_range(proposal.target.expression, flattened)
    if found.bad is not None:
        names = flattened.names or ()
        raise UndefinedTargetError(
            expression=proposal.target.expression,
            enclosure=[(n, a, b) for n, (a, b) in zip(names, found.bad, strict=True)],
        )
    assert np.isfinite(found.upper)
