"""Sequence functions: compile_prefix on `Sequences(T, Box(...))`.

"sequence" is the T + 2 layer construction with one scalar code, proved off an exceptional set and in L^p; "shifted" averages M of them
and holds everywhere; "two-layer" copies the sequence into every token, then runs one head; "circuit" copies it and then runs the layers of
a circuit. "auto" takes the shorter of the last two, which hold everywhere.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import sympy as sp
from threadpoolctl import threadpool_limits

from constructions.circuits.sequence import propose_sequence_circuits
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
from constructions.petrov2024.sequence import SequenceProposal, compile_sequence, sequence_target
from constructions.petrov2024.shifted import compile_shifted
from constructions.petrov2024.two_layer import compile_two_layer
from constructions.progress import reporting
from constructions.trace import NotTraceable, trace, traced_assumption
from verify import Certificate, Claim, ExpressionTarget, Sequences, prove, value_range
from verify.formats import FormatError, prove_in_format

__all__ = ["SEQUENCE_METHODS", "compile_sequences"]

SEQUENCE_METHODS = ("circuit", "two-layer", "shifted", "sequence")
_ATTEMPTS = 8
"""Circuits that are tried."""
_PATIENCE = 4.0
"""Seconds in which two layers are to be shorter than a circuit."""


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
    with reporting(progress) as report, threadpool_limits(1, "blas"):
        report(0.0, "reading the target")
        expressions, assumptions = _expressions(f, domain)
        target, _ = sequence_target(expressions, domain.T, domain.box)
        _defined(target, domain)
        asked = _Asked(expressions, target, domain, eps, report, assumptions)
        if limits.form.precision < 53:
            if method not in ("auto", "circuit"):
                raise MethodError(
                    value=method,
                    known=["auto", "circuit"],
                    reason=f"is proved in float64 alone, dtype is {limits.form.name!r}",
                )
            return _by_circuit(asked, limits)
        if method == "auto":
            return _shortest(asked, limits)
        return _by_circuit(asked, limits) if method == "circuit" else _by_proposal(asked, method, limits)


@dataclass(frozen=True, eq=False)
class _Asked:
    """What is to be compiled. assumptions: what tracing assumed."""

    expressions: Any
    target: ExpressionTarget
    domain: Sequences
    eps: float
    report: Callable[[float, str], None]
    assumptions: tuple[str, ...]


def _shortest(asked: _Asked, limits: Limits) -> Compiled:
    """A circuit, or two layers if those are shorter or no circuit is proved.

    Two layers take T tokens to gather and at least one for each position: that bounds what a position may take in a shorter one. They are
    looked for a few seconds only: in four dimensions and more that something is not there is slow to find out.
    """
    try:
        found = _by_circuit(asked, limits)
    except CompileError:
        return _by_proposal(asked, "two-layer", limits)
    most = found.length - 2 * asked.domain.T
    if most < 1 or limits.passed:
        return found
    try:
        few = replace(limits, max_tokens=most, deadline=min(limits.deadline, time.monotonic() + _PATIENCE))
        proposal = _propose(asked.expressions, asked.domain, asked.eps, "two-layer", few)
        if proposal.length >= found.length:
            return found
        shorter = _of_proposal(proposal, asked, "two-layer", limits)
    except CompileError:
        return found
    return replace(shorter, attempts=found.attempts + shorter.attempts)


def _by_circuit(asked: _Asked, limits: Limits) -> Compiled:
    """The first circuit that is proved. Raises UnsupportedExpressionError, NotProvedError, or CompileError where there is none."""
    asked.report(0.0, "constructing (circuit)")
    options = {"max_tokens": limits.max_tokens, "deadline": limits.deadline, "form": limits.form}
    proposals = propose_sequence_circuits(asked.expressions, asked.target, asked.domain, asked.eps, **options)
    attempts: list[tuple[str, int, str]] = []
    best: Certificate | None = None
    for proposal in islice(proposals, _ATTEMPTS):
        claim = Claim(proposal.model, proposal.prefix, asked.target, asked.domain, asked.eps, circuit=proposal.hint)
        try:
            claim, certificate = _certificate(claim, "circuit", asked, limits)
        except FormatError as error:
            raise CompileError(f"dtype = {limits.form.name!r}: {error}. Leave dtype at 'float64'.") from error
        attempts.append(("circuit", proposal.length, str(certificate.status)))
        if certificate.proved:
            return Compiled(claim, certificate, "circuit", proposal.grid, attempts=tuple(attempts))
        best = certificate if best is None or certificate.error_lower < best.error_lower else best
        if limits.passed:
            break
    late = "The time limit passed: pass a larger time_limit or a larger eps" if limits.passed else ""
    if best is None:
        raise CompileError(
            f"method = 'circuit' found nothing of at most {limits.max_tokens} tokens for eps = {asked.eps:g}. "
            + (f"{late}." if late else "Pass a larger eps, a smaller domain, a larger max_tokens, or another method.")
        )
    raise NotProvedError(certificate=best, status=str(best.status), eps=asked.eps, next_step=late)


def _by_proposal(asked: _Asked, method: str, limits: Limits) -> Compiled:
    """What one of the other constructions proposes, proved."""
    asked.report(0.0, f"constructing ({method})")
    proposal = _propose(asked.expressions, asked.domain, asked.eps, method, limits)
    if proposal.length > limits.max_tokens:
        raise TooLongError(needed=proposal.length, max_tokens=limits.max_tokens, options=["a larger eps"])
    return _of_proposal(proposal, asked, method, limits)


def _of_proposal(proposal: SequenceProposal, asked: _Asked, method: str, limits: Limits) -> Compiled:
    claim = Claim(proposal.model, proposal.prefix, proposal.target, proposal.domain, proposal.eps, cuts=proposal.cuts)
    claim, certificate = _certificate(claim, method, asked, limits)
    if not certificate.proved:
        late = "The time limit passed: pass a larger time_limit or a larger eps" if limits.passed else ""
        raise NotProvedError(certificate=certificate, status=str(certificate.status), eps=proposal.eps, next_step=late)
    attempts = ((method, proposal.length, str(certificate.status)),)
    return Compiled(claim, certificate, method, proposal.grid, attempts=attempts)


def _certificate(claim: Claim, method: str, asked: _Asked, limits: Limits) -> tuple[Claim, Certificate]:
    """The claim, rounded to a format narrower than float64 if that was asked for, and the kernel's certificate with what tracing assumed: of
    float64, or of the format where that is not proved. Raises FormatError."""
    words = f"proving {claim.prefix.length} tokens ({method})"
    asked.report(0.0, words)
    options = {"seconds": limits.seconds_left, "progress": lambda done, _: asked.report(done, words)}
    if limits.form.precision == 53:
        found = prove(claim, **options)
    else:
        narrow = prove_in_format(claim, limits.form, **options)
        claim, found = narrow.claim, narrow.real if narrow.proved else narrow.certificate
    return claim, replace(found, assumptions=found.assumptions + asked.assumptions)


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


def _defined(target: ExpressionTarget, domain: Sequences) -> None:
    """Raise UndefinedTargetError where f is not defined on the box of all sequences."""
    flattened = domain.flattened
    found = value_range(target.expression, flattened)
    if found.bad is not None:
        names = flattened.names or ()
        raise UndefinedTargetError(
            expression=target.expression,
            enclosure=[(n, a, b) for n, (a, b) in zip(names, found.bad, strict=True)],
        )
    assert np.isfinite(found.upper)
