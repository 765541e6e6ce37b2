"""compile_prefix(f, eps): understand, plan, propose, prove. Only what is proved is returned."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, overload

import numpy as np
from threadpoolctl import threadpool_limits

from constructions.circuits.compile import CircuitProposal
from constructions.compiled import Compiled, claim_of
from constructions.errors import CompileError, EpsilonError, MethodError, NotProvedError, TooLongError
from constructions.methods import Limits, Method
from constructions.problem import Problem, understand
from constructions.progress import reporting
from constructions.proposal import Proposal
from constructions.sequences import SEQUENCE_METHODS, compile_sequences
from constructions.tables import ALL_TABLES, COVERS, methods_for, theorem_of, tokens_needed
from verify import Box, Certificate, Claim, GridTarget, LipschitzTarget, Sequences, Sphere, Target, prove, value_range
from verify.affine import MOST_DATA_TOKENS
from verify.certificate import unbounded
from verify.formats import FloatFormat, FormatError, format_named, prove_in_format

__all__ = ["compile_prefix"]

Progress = bool | None | Callable[[float, str], None]
Norm = Literal["l2", "linf", "l1"]
_ATTEMPTS = 12


@overload
def compile_prefix(
    f: Any,
    eps: float,
    domain: Any = None,
    *,
    method: str = "auto",
    lipschitz: float | None = None,
    norm: Norm = "l2",
    max_tokens: int = 20_000,
    effort: float = 0.0,
    time_limit: float = 120.0,
    sequence_length: int = 64,
    dtype: Any = "float64",
    progress: Progress = None,
    site: None = None,
) -> Compiled: ...
@overload
def compile_prefix(f: Any, eps: float, *, site: Any) -> Any: ...
def compile_prefix(
    f: Any,
    eps: float,
    domain: Any = None,
    *,
    method: str = "auto",
    lipschitz: float | None = None,
    norm: Norm = "l2",
    max_tokens: int = 20_000,
    effort: float = 0.0,
    time_limit: float = 120.0,
    sequence_length: int = 64,
    dtype: Any = "float64",
    progress: Progress = None,
    site: Any = None,
) -> Any:
    """Compile a target function into an attention prefix whose sup error over the domain is *proved* to be at most eps.

    f: a SymPy expression or a list of them (vector output); a NumPy callable of n > 1 arrays, or of points (..., n) (or (...) when
    n = 1), which is traced to an expression where possible; or GridData(axes, values). A callable that cannot be traced is a
    black box and needs `lipschitz`.
    eps: sup-norm error, maximum over output components, rounding of the float64 execution included.
    domain: Box, or what Box accepts; by default the unit box [0, 1]^n. Sphere(m, symbols): f in the m + 1 ambient coordinates.
    Sequences(T, Box(...)): f maps T tokens to T tokens, as expressions in the flattened coordinates `domain.names`.
    method: "auto" (the shortest that is proved); on a box "circuit" (several layers), "head" (the shortest single
    head), "minimax", "bernstein", "laplacian" or "covering"; on a sphere "split",
    "core" or "classical"; for sequences "circuit", "two-layer", "shifted" or "sequence".
    lipschitz, norm: declared constant of a black box, |f(x) - f(y)|_inf <= lipschitz |x - y|_norm (on a sphere always the geodesic
    distance). The proof is then conditional on it.
    max_tokens: refuse, before building, what would need more. effort: seconds to spend on a shorter prefix.
    time_limit: seconds after which the search for a provable prefix gives up (an attempt under way may take somewhat longer).
    sequence_length: longest sequence for which a head that attends to data tokens ("classical") is proved.
    dtype: the float format that the prefix is to run in, "float64", "float32" or "bfloat16", or torch's or NumPy's name of it. Its
    parameters are numbers of that format then, heads are chosen for its rounding, and what is returned has been proved to be within
    eps in that format as well: `to_torch(dtype)` proves it again and says how near. The certificate is float64's, as ever.
    progress: None (a bar on a terminal after two seconds), True, False, or a callback (fraction, words).
    site: a head of a frozen pretrained model, `constructions.pretrained.Site`; then f and eps are all else that is read, and the
    result is what `constructions.pretrained.compile_at_site` returns. Without it a `Compiled` is returned.

    Raises a subclass of CompileError (a ValueError) naming the argument, the value, the reason and the next step.
    """
    eps = _accepted(eps)
    if site is not None:
        from constructions.pretrained import compile_at_site  # needs an extra

        return compile_at_site(f, eps, site)
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, (int, np.integer)) or max_tokens < 1:
        raise TooLongError(needed=1, max_tokens=max_tokens)
    for name, seconds in (("effort", effort), ("time_limit", time_limit)):
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < 1e9:
            raise CompileError(f"{name} = {seconds!r} is not a number of seconds. Pass a finite number >= 0.")
    if isinstance(sequence_length, bool) or not isinstance(sequence_length, (int, np.integer)) or sequence_length < 1:
        raise CompileError(f"sequence_length = {sequence_length!r} is not a length. Pass a whole number >= 1.")
    if sequence_length > MOST_DATA_TOKENS:
        raise CompileError(
            f"sequence_length = {sequence_length} is more than the kernel handles. Pass at most {MOST_DATA_TOKENS}."
        )
    form = _format(dtype)
    deadline = time.monotonic() + time_limit + effort
    limits = Limits(int(max_tokens), float(effort), deadline, int(sequence_length), form)
    if isinstance(domain, Sequences):
        return compile_sequences(f, eps, domain, method, limits, progress)
    chosen = _methods(method, methods_for(domain))
    with reporting(progress) as report, threadpool_limits(1, "blas"):
        report(0.0, "reading the target")
        problem = understand(f, domain, lipschitz, norm)
        _refuse_unreachable(problem, eps, form)
        usable = _applicable(problem, chosen, method)
        return _search(problem, usable, eps, limits, report)


def _accepted(eps: Any) -> float:
    try:
        value = float(eps)
    except (TypeError, ValueError) as error:
        raise EpsilonError(value=eps) from error
    if not (math.isfinite(value) and value > 0):
        raise EpsilonError(value=eps)
    return value


def _format(dtype: Any) -> FloatFormat:
    """The format of a name, a torch.dtype or a NumPy type."""
    try:
        return format_named(dtype)
    except FormatError as error:
        raise CompileError(f"dtype: {error}") from error


def _general(table: tuple[Method, ...]) -> list[str]:
    """Names that stand for several methods."""
    return ["auto", "head"] if any(m.name == "circuit" for m in table) else ["auto"]


def _methods(method: str, table: tuple[Method, ...]) -> tuple[Method, ...]:
    several = {"auto": table, "head": tuple(m for m in table if m.name != "circuit")}
    chosen = several.get(method) or tuple(m for m in table if m.name == method)
    if not chosen:
        elsewhere = any(m.name == method for other in ALL_TABLES for m in other)
        reason = "is not for this domain" if elsewhere or method in SEQUENCE_METHODS else "is unknown"
        raise MethodError(value=method, known=[*_general(table), *(m.name for m in table)], reason=reason)
    return chosen


def _applicable(problem: Problem, chosen: tuple[Method, ...], method: str) -> tuple[Method, ...]:
    reasons = {m.name: m.refusal(problem) for m in chosen}
    usable = tuple(m for m in chosen if reasons[m.name] is None)
    if not usable:
        known = [m.name for m in methods_for(problem.domain) if m.refusal(problem) is None]
        raise MethodError(
            value=method,
            known=[*_general(methods_for(problem.domain)), *known],
            reason=f"does not apply: it {reasons[method]}",
        )
    return usable


def _refuse_unreachable(problem: Problem, eps: float, form: FloatFormat) -> None:
    """Outputs of size F are rounded by at least about u F; leave room for a sum and a quotient. And a jump cannot be followed.

    In a narrower format the same is what a proof needs: its bound of a mean's sums is at least 18 u F. Heads reach about ten times that.
    """
    if isinstance(problem.domain, Box):
        far = float(np.abs(problem.domain.bounds).max())
        if 8 * far >= form.largest:
            raise CompileError(
                f"domain: reaches to {far:.3g}, beyond an eighth of the range of {form.name}. Pass a smaller domain, or dtype='float64'."
            )
    if isinstance(problem.target, GridTarget) and problem.target.interpolation == "nearest":
        jump = max(float(np.abs(np.diff(problem.target.values, axis=i)).max()) for i in range(problem.target.dimension))
        if eps <= jump / 2:
            cause = f"half the largest jump of the nearest interpolant, {jump:.6g}: a head is continuous"
            raise EpsilonError(value=eps, reachable=jump / 2 * (1 + 1e-6), dominating=cause)
    if hasattr(problem.target, "expression"):
        size = value_range(problem.target.expression, problem.domain, tightness=1.0).upper  # pyright: ignore
    else:
        size = float(np.abs(problem.evaluate(problem.domain.sample(64))).max())
    floor = 32 * form.unit * size
    if eps < floor:
        cause = f"rounding of {form.name} outputs of size {size:.3g}"
        reachable = floor if form.precision == 53 else 10 * floor
        raise EpsilonError(value=eps, reachable=reachable, dominating=cause, form=form.name)


@dataclass
class _Source:
    """One construction's stream of proposals."""

    method: Method
    stream: Iterator[Proposal | CircuitProposal]
    next: Proposal | CircuitProposal | None = None
    beyond: EpsilonError | None = None

    def advance(self) -> None:
        """Ask for the next proposal. A construction that fails inside has nothing to propose, one that cannot reach eps says so (`beyond`)."""
        try:
            self.next = next(self.stream, None)
        except EpsilonError as error:
            self.next, self.beyond = None, error
        except (ArithmeticError, ValueError, TypeError, RecursionError, np.linalg.LinAlgError) as error:
            if isinstance(error, CompileError):
                raise
            self.next = None


def _search(
    problem: Problem, methods: tuple[Method, ...], eps: float, limits: Limits, report: Callable[[float, str], None]
) -> Compiled:
    """Prove the shortest proposal among all constructions; where a proof fails, go on with that construction's next one."""
    beyond: dict[str, EpsilonError] = {}
    sources = _sources(problem, methods, eps, limits, report, beyond, shorter_only=len(methods) > 1)
    attempts: list[tuple[str, int, str]] = []
    best: Certificate | None = None
    while sources and len(attempts) < _ATTEMPTS and not limits.passed:
        source = min(sources, key=lambda s: s.next.length if s.next else math.inf)
        proposal = source.next
        assert proposal is not None
        theorem = theorem_of(problem, proposal, limits.sequence_length, eps)
        promised = None if theorem is None else theorem.tokens()
        if promised is not None and proposal.length > promised:  # what is built keeps the theorem's promise, always
            source.advance()
            if source.next is None:
                sources.remove(source)
            continue
        target = _target_for(problem, proposal)
        claim = claim_of(proposal, target, problem.domain, eps, limits.sequence_length)
        claim, certificate = _prove(claim, report, proposal, limits)
        attempts.append((proposal.method, proposal.length, str(certificate.status)))
        if certificate.proved:
            noted = replace(certificate, assumptions=certificate.assumptions + problem.assumptions)
            return Compiled(
                claim, noted, proposal.method, proposal.grid, proposal.terms, attempts=tuple(attempts), theorem=theorem
            )
        best = certificate if best is None or _nearness(certificate, limits) < _nearness(best, limits) else best
        source.advance()
        if source.next is None:
            sources.remove(source)
            if not sources:  # those that were only asked for something shorter than what then failed
                tried = {name for name, _, _ in attempts} | set(beyond)
                rest = tuple(m for m in methods if m.name not in tried)
                sources = _sources(problem, rest, eps, limits, report, beyond, shorter_only=False)
    if best is None and beyond:
        raise min(beyond.values(), key=lambda error: error.reachable or math.inf)
    return _give_up(problem, methods, eps, limits, best)


def _nearness(certificate: Certificate, limits: Limits) -> tuple[float, float]:
    """Of failed attempts the one with the smallest is told about: in a narrow format rounding decides, in float64 the error."""
    return certificate.rounding if limits.form.precision < 53 else 0.0, certificate.error_lower


def _sources(
    problem: Problem,
    methods: tuple[Method, ...],
    eps: float,
    limits: Limits,
    report: Callable[[float, str], None],
    beyond: dict[str, EpsilonError],
    shorter_only: bool,
) -> list[_Source]:
    """The constructions that have something to propose; with `shorter_only`, each only what is shorter than those before. Those that cannot
    reach eps are noted in `beyond`, by name."""
    sources: list[_Source] = []
    for method in methods:
        if limits.passed or any(source.method.name == method.dominated_by for source in sources):
            continue
        report(0.0, f"constructing ({method.name})")
        source = _Source(method, method.propose(problem, eps, limits))
        source.advance()
        if source.beyond is not None:
            beyond[method.name] = source.beyond
        if source.next is not None:
            sources.append(source)
            if shorter_only:
                limits = replace(limits, max_tokens=max(1, min(limits.max_tokens, source.next.length - 1)))
    return sources


def _target_for(problem: Problem, proposal: Proposal | CircuitProposal) -> Target:
    if problem.target is not None:
        return problem.target
    assert problem.lipschitz is not None
    assert isinstance(proposal, Proposal)
    points = proposal.grid["keys" if isinstance(problem.domain, Sphere) else "points"]
    return LipschitzTarget(points, proposal.values, problem.lipschitz, problem.norm, problem.name)


def _prove(
    claim: Claim, report: Callable[[float, str], None], proposal: Proposal | CircuitProposal, limits: Limits
) -> tuple[Claim, Certificate]:
    """The claim that was looked at, parameters rounded to the format that was asked for, and its certificate in float64; where the execution
    in the format is not proved to be within eps, that one's."""
    words = f"proving {proposal.length} tokens ({proposal.method})"
    report(0.0, words)
    if limits.form.precision == 53:
        return claim, prove(claim, seconds=limits.seconds_left, progress=lambda done, _: report(done, words))
    try:
        found = prove_in_format(  # a part of the time: where one head cannot be proved, the next may be
            claim, limits.form, seconds=0.3 * limits.seconds_left, progress=lambda done, _: report(done, words)
        )
    except FormatError as error:
        return claim, unbounded(claim.eps, 0, str(error))
    return found.claim, found.real if found.proved else found.certificate


def _give_up(
    problem: Problem, methods: tuple[Method, ...], eps: float, limits: Limits, best: Certificate | None
) -> Compiled:
    late = "The time limit passed: pass a larger time_limit or a larger eps"
    if best is not None:
        wide = limits.form.precision == 53
        if wide and math.isfinite(best.rounding) and best.rounding > 0.5 * eps:
            cause = "rounding of the float64 forward pass"
            raise EpsilonError(value=eps, reachable=4 * best.rounding, dominating=cause)
        words = best.reason or f"rounding to {limits.form.name} may move what was tried by {best.rounding:.3g}"
        narrower = "" if wide else f"{words}. Pass a larger eps, another method, or dtype='float64'"
        raise NotProvedError(
            certificate=best, status=str(best.status), eps=eps, next_step=late if limits.passed else narrower
        )
    covers = any(m.name in COVERS for m in methods)
    needed = tokens_needed(problem, eps) if covers else None
    if needed is not None and needed > limits.max_tokens and not limits.passed:
        options = ["a larger eps", "a smaller domain", f"max_tokens={needed}"]
        if isinstance(problem.domain, Sphere):
            size = needed * 8 * (problem.domain.dimension + 1 + problem.outputs)
            options = [
                "a larger eps",
                f"max_tokens up to {needed}: so many the covering theorem promises ({size:.3g} bytes)",
            ]
        elif problem.target is None:
            options.append("an expression instead of a black box, for a construction that uses smoothness")
        raise TooLongError(needed=needed, max_tokens=limits.max_tokens, options=options)
    names = ", ".join(m.name for m in methods)
    if limits.passed:
        raise CompileError(
            f"time_limit: no prefix was found in time by {names}. Pass a larger time_limit or a larger eps."
        )
    if needed is None and covers:
        raise CompileError(
            f"method = {names!r} found no head of at most {limits.max_tokens} tokens for eps = {eps:g}, and f has no finite Lipschitz "
            "constant on the domain (does it jump, or is its slope unbounded somewhere?). Pass a larger eps or a smaller domain."
        )
    if problem.target is None and isinstance(problem.domain, Sphere):
        raise CompileError(
            f"eps = {eps:g} is beyond float64 for a black box with Lipschitz constant {problem.constant():g}: keys sharp enough for it round too "
            "much. Pass a larger eps, or an expression."
        )
    others = ", ".join(repr(m) for m in ["auto", *(m.name for m in methods_for(problem.domain))] if m not in names)
    raise CompileError(
        f"method = {names!r} found no head of at most {limits.max_tokens} tokens for eps = {eps:g}. Pass a larger eps, a smaller domain, "
        f"a larger max_tokens, or another method among {others}."
    )
