"""Statements in words: what is stated, and what the kernel found."""

from __future__ import annotations

import math

from verify import Stated, Verdict

__all__ = ["explained", "verdict_lines"]

_WIDTH = 18


def verdict_lines(stated: Stated, verdict: Verdict) -> list[str]:
    """The statement and a verdict on it, line by line; numbers in full."""
    lines = [
        _line("states", stated.statement.sentence),
        _line("status", str(verdict.status).upper()),
        _line("quantity", stated.statement.quantity),
        _line("bounds", f"at least {verdict.lower!r}, at most {_finite(verdict.upper)}"),
    ]
    lines += [
        _line(name, str(int(x)) if float(x).is_integer() else repr(float(x))) for name, x in verdict.numbers.items()
    ]
    if verdict.route:
        lines.append(_line("route", verdict.route))
    if verdict.reason:
        lines.append(_line("reason", verdict.reason))
    return lines + [_line("assumes", a) for a in verdict.assumptions]


def explained(stated: Stated) -> str:
    """What a file says of its statement: nothing is proved again."""
    lines = verdict_lines(stated, stated.verdict)
    lines[1] += ", as stored in the file"
    return "\n".join([*lines, *(_line(f"note: {name}", str(value)) for name, value in stated.notes.items())])


def _line(name: str, words: str) -> str:
    return f"{name:<{_WIDTH}}{words}" if len(name) < _WIDTH else f"{name}  {words}"


def _finite(x: float) -> str:
    return "infinity (unknown)" if math.isinf(x) else repr(x)
