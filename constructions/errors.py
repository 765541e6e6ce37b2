"""Every way a request can be refused: one class per reason, each naming the argument, its value, the reason and the next step.

All derive from `CompileError`, itself a `ValueError`. The facts a caller may want to act on are attributes, so no message
ever has to be parsed, and instances survive pickling (process pools) with these attributes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

__all__ = [
    "CallableError",
    "CompileError",
    "DomainError",
    "EpsilonError",
    "FreeSymbolError",
    "LipschitzError",
    "MethodError",
    "NotProvedError",
    "ParseError",
    "TooLongError",
    "UndefinedTargetError",
    "UnsupportedExpressionError",
]

_SHOWN = 200


class CompileError(ValueError):
    """A request that cannot be honoured. Base of every refusal; `fields` become attributes."""

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.__dict__.update(fields)

    def __reduce__(self) -> tuple[Any, ...]:
        # The subclasses' constructors take keywords only; the default protocol would call them with the message.
        return _rebuild, (type(self), str(self), dict(self.__dict__))


def _rebuild(kind: type[CompileError], message: str, fields: dict[str, Any]) -> CompileError:
    error = kind.__new__(kind, message)
    error.__dict__.update(fields)
    return error


def _show(value: object) -> str:
    """`value` as text, its middle left out where it is long."""
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]} ... {text[-_SHOWN // 2 :]}"


def _point(point: Sequence[float]) -> str:
    return "(" + ", ".join(f"{float(x):.17g}" for x in point) + ")"


class EpsilonError(CompileError):
    """`eps` is no admissible error, or is below what float64 delivers, or the format that was asked for.

    value: what was passed. reachable: the smallest error that can be delivered (in a narrow format an estimate of what can be proved), when `value` is a
    positive number below it.
    dominating: the error term that forbids less. form: the name of the format.
    """

    value: object
    reachable: float | None
    dominating: str | None
    form: str

    def __init__(
        self,
        *,
        value: object,
        reachable: float | None = None,
        dominating: str | None = None,
        form: str = "float64",
    ) -> None:
        if reachable is not None:
            term = f" (the dominating term is {dominating})" if dominating else ""
            message = (
                f"eps = {value} cannot be reached: the smallest error float64 delivers for this target is about "
                f"{reachable:.3g}{term}. Pass eps >= {reachable:.3g}."
            )
            if form != "float64":
                message = (
                    f"eps = {value} is out of reach in {form}: these constructions can be expected to prove about {reachable:.3g}{term}. "
                    f"Pass eps >= {reachable:.3g}, or dtype='float64'."
                )
        else:
            message = (
                f"eps = {value!r} {_why_no_epsilon(value)}. Pass the largest error you accept, for example eps=1e-3."
            )
        super().__init__(message, value=value, reachable=reachable, dominating=dominating, form=form)


def _why_no_epsilon(value: object) -> str:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return "is not a number"
    return "is not a number" if math.isnan(number) else "is not finite" if math.isinf(number) else "is not positive"


class DomainError(CompileError):
    """The domain is empty, reversed, infinite, malformed, or of the wrong dimension.

    value: the offending domain or interval; reason: a clause such as "is empty"; argument: which argument it came from.
    """

    value: object
    reason: str
    argument: str

    def __init__(self, *, value: object, reason: str, next_step: str = "", argument: str = "domain") -> None:
        step = next_step or "Give a finite interval (lo, hi) with lo < hi for every variable."
        super().__init__(f"{argument} = {_show(value)} {reason}. {step}", value=value, reason=reason, argument=argument)


class UndefinedTargetError(CompileError):
    """The target is undefined or unbounded somewhere in the domain.

    expression: the target, or the part of it at fault. enclosure: a box that contains a bad place, as (name, lo, hi) for
    every variable. reason: "is undefined" or "is unbounded".
    """

    expression: object
    enclosure: list[tuple[str, float, float]]
    reason: str

    def __init__(
        self,
        *,
        expression: object,
        enclosure: Iterable[tuple[str, float, float]],
        reason: str = "is undefined or unbounded",
    ) -> None:
        box = [(str(name), float(lo), float(hi)) for name, lo, hi in enclosure]
        where = ", ".join(f"{name} in [{lo:.17g}, {hi:.17g}]" for name, lo, hi in box)
        message = (
            f"f = {_show(expression)} {reason} for some {where}. "
            "Restrict the domain so that it stays away from there, or rewrite f without the singularity."
        )
        super().__init__(message, expression=expression, enclosure=box, reason=reason)


class FreeSymbolError(CompileError):
    """The symbols of the target and those of the domain do not fit together.

    symbols: names at fault. known: names that do have a range. clash: True when the domain names one variable twice.
    """

    symbols: tuple[str, ...]
    known: tuple[str, ...]
    clash: bool

    def __init__(self, *, symbols: Iterable[object], known: Iterable[object] = (), clash: bool = False) -> None:
        bad, good = tuple(str(s) for s in symbols), tuple(str(s) for s in known)
        if clash:
            message = f"domain names {', '.join(bad)} more than once. Give every variable exactly one range."
        else:
            given = f" (the domain has {', '.join(good)})" if good else ""
            example = ", ".join(f"{name!r}: (0, 1)" for name in bad)
            message = f"f contains {', '.join(bad)}, which has no range{given}. Add it to the domain, for example {{{example}}}."
        super().__init__(message, symbols=bad, known=good, clash=clash)


class LipschitzError(CompileError):
    """The Lipschitz constant is missing, invalid, or refuted by two values of f.

    value: what was passed (None: nothing). pair: two points that refute it; slope: |f(p) - f(q)| / |p - q| there.
    reason: "missing", "invalid" or "refuted".
    """

    value: object
    pair: tuple[tuple[float, ...], tuple[float, ...]] | None
    slope: float | None
    reason: str

    def __init__(
        self, *, value: object = None, pair: tuple[Sequence[float], Sequence[float]] | None = None, slope: float | None = None,
        because: str = "",
    ) -> None:  # fmt: skip
        points = None if pair is None else (tuple(float(x) for x in pair[0]), tuple(float(x) for x in pair[1]))
        if points is not None:
            reason, rate = "refuted", math.nan if slope is None else slope
            message = (
                f"lipschitz = {value} is refuted by f itself: between {_point(points[0])} and {_point(points[1])} "
                f"it changes at the rate {rate:.6g}. Pass a constant of at least {rate:.6g}."
            )
        elif value is None:
            reason = "missing"
            why = f" ({because})" if because else ""
            message = (
                f"lipschitz is missing: f is a black box{why}, so no bound between its samples can be proved. Pass lipschitz=L "
                "with |f(p) - f(q)| <= L |p - q|, or write f with NumPy functions or SymPy so that L can be derived."
            )
        else:
            reason = "invalid"
            message = (
                f"lipschitz = {value!r} is not a finite number >= 0. Pass a constant L with |f(p) - f(q)| <= L |p - q|."
            )
        super().__init__(message, value=value, pair=points, slope=slope, reason=reason)


class CallableError(CompileError):
    """A callable returned the wrong shape, a non-finite value, or raised.

    problem: a clause such as "returned nan". point: where (None when the shape is wrong everywhere). The original
    exception, if there is one, is `__cause__`.
    """

    problem: str
    point: tuple[float, ...] | None

    def __init__(
        self, *, problem: str, point: Sequence[float] | None = None, next_step: str, cause: BaseException | None = None
    ) -> None:
        where = None if point is None else tuple(float(x) for x in point)
        at = "" if where is None else f" at {_point(where)}"
        super().__init__(f"f {problem}{at}. {next_step}", problem=problem, point=where)
        self.__cause__ = cause


class TooLongError(CompileError):
    """The prefix needed is longer than allowed. needed, max_tokens: both lengths; options: what would help."""

    needed: int
    max_tokens: int
    options: tuple[str, ...]

    def __init__(self, *, needed: int, max_tokens: int, options: Iterable[str] = ()) -> None:
        steps = tuple(options) or ("a larger eps", "a smaller domain", f"max_tokens={needed}")
        message = (
            f"max_tokens = {max_tokens} is too few: {needed} tokens are needed. What would help: {'; '.join(steps)}."
        )
        super().__init__(message, needed=needed, max_tokens=max_tokens, options=steps)


class UnsupportedExpressionError(CompileError):
    """A sub-expression has no counterpart here. part: the sub-expression; expression: the whole it was found in."""

    part: object
    expression: object
    reason: str

    def __init__(
        self, *, part: object, expression: object = None, reason: str = "is not supported", next_step: str = ""
    ) -> None:
        whole = "" if expression is None or str(expression) == str(part) else f" (in f = {_show(expression)})"
        step = next_step or "Rewrite it with elementary functions, or pass f as a callable together with lipschitz=."
        message = f"f: the sub-expression {_show(part)}{whole} {reason}. {step}"
        super().__init__(message, part=part, expression=expression, reason=reason)


class NotProvedError(CompileError):
    """No construction was proved to be within eps. certificate: that of the best attempt; status: "refuted" or "undecided"."""

    certificate: Any
    status: str
    eps: float | None

    def __init__(self, *, certificate: Any, status: str, eps: float | None = None, next_step: str = "") -> None:
        goal = "the requested error" if eps is None else f"eps = {eps:g}"
        what = (
            "is exceeded by the best attempt"
            if status == "refuted"
            else "could neither be proved nor refuted for the best attempt"
        )
        step = next_step or "Pass a larger eps, a smaller domain or another method"
        message = f"{goal} {what} (status: {status}). {step.rstrip('.')}; the attempt is this error's `certificate`."
        super().__init__(message, certificate=certificate, status=status, eps=eps)


class MethodError(CompileError):
    """`method` is unknown or does not apply. value: what was passed; known: the methods that would do; reason: why not."""

    value: object
    known: tuple[str, ...]
    reason: str

    def __init__(self, *, value: object, known: Iterable[str], reason: str = "is unknown") -> None:
        names = tuple(known)
        near = get_close_matches(str(value), names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near and near[0] != value else ""
        choices = ", ".join(repr(n) for n in names) or "none"
        super().__init__(
            f"method = {value!r} {reason}.{hint} Choose among: {choices}.", value=value, known=names, reason=reason
        )


class ParseError(CompileError):
    """A text is not a formula or a domain. text: the input; column: where, counted from 1; reason: why; next_step: a hint."""

    text: str
    column: int
    reason: str
    next_step: str

    def __init__(self, *, text: str, column: int, reason: str, next_step: str = "") -> None:
        step = f" {next_step}" if next_step else ""
        message = f"{_excerpt(text, column)!r}, column {column}: {reason}.{step}"
        super().__init__(message, text=text, column=column, reason=reason, next_step=next_step)


def _excerpt(text: str, column: int) -> str:
    """At most 60 characters of `text` around `column`."""
    start = max(0, min(column - 30, len(text) - 60))
    return ("..." if start else "") + text[start : start + 60] + ("..." if start + 60 < len(text) else "")
