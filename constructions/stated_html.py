"""The card a notebook shows for a result with a statement: static HTML, no script, nothing fetched, nothing decided again."""

from __future__ import annotations

import math
from html import escape
from typing import Any

from constructions.captions import downward, shortened, upward
from verify import Status, Verdict

__all__ = ["Carded"]

_MARKS = {Status.PROVED: ("✓", "#2e9e6b"), Status.REFUTED: ("✗", "#d9534f"), Status.UNDECIDED: ("?", "#d9822b")}


class Carded:
    """Gives a result with `statement` and `verdict` its card. A verdict that is computed on demand is shown only once it has been."""

    def _repr_html_(self) -> str:
        me: Any = self
        verdict: Verdict | None = vars(me).get("verdict")
        rows = [("states", _text(me.statement.sentence)), ("status", _status(verdict))]
        if verdict is not None:
            rows.append((_text(me.statement.quantity), _bounds(verdict)))
            rows += [("reason", _text(verdict.reason))] if verdict.reason else []
            rows += [("proof", _text(verdict.route))] if verdict.route else []
            rows += [("assumes", _text(a)) for a in verdict.assumptions]
        cells = "".join(
            f'<tr style="background:transparent"><th style="text-align:left;vertical-align:top;padding:2px 12px 2px 0;font-weight:600;max-width:240px;'
            f'background:transparent">{name}</th><td style="text-align:left;padding:2px 0;background:transparent">{cell}</td></tr>'
            for name, cell in rows
        )
        return (
            '<div style="color:inherit;background:transparent;font-size:13px;line-height:1.45;max-width:860px">'
            f'<div style="font-weight:700;margin-bottom:4px">{_text(type(self).__name__)}</div>'
            f'<table style="border-collapse:collapse;border:none;margin:0;font-size:13px"><tbody>{cells}</tbody></table></div>'
        )


def _status(verdict: Verdict | None) -> str:
    if verdict is None:
        return "not checked yet: see <code>.verdict</code>"
    mark, colour = _MARKS[verdict.status]
    return f'<b><span style="color:{colour}">{mark}</span> {verdict.status}</b>'


def _bounds(verdict: Verdict) -> str:
    upper = "" if math.isinf(verdict.upper) else f", ≤ {upward(verdict.upper, 7)}"
    return f"≥ {downward(verdict.lower, 7)}{upper}"


def _text(words: str) -> str:
    return escape(shortened(str(words), 600), quote=True)
