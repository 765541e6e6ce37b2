"""Words for titles and tables: numbers rounded to the safe side, and a status that never says more than is known."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import TYPE_CHECKING

from verify import Status

if TYPE_CHECKING:
    from constructions.compiled import Compiled

__all__ = ["downward", "names_of", "shortened", "status_words", "upward"]


def upward(x: float, digits: int = 3) -> str:
    """x to a few significant digits, rounded towards +infinity: "<= upward(bound)" stays true."""
    return _rounded(x, digits, ROUND_CEILING)


def downward(x: float, digits: int = 3) -> str:
    """x to a few significant digits, rounded towards -infinity: ">= downward(bound)" stays true."""
    return _rounded(x, digits, ROUND_FLOOR)


def _rounded(x: float, digits: int, mode: str) -> str:
    if not math.isfinite(x):
        return str(x)
    return f"{float(Context(prec=digits, rounding=mode).create_decimal(Decimal(x))):.{digits}g}"


def shortened(text: str, width: int) -> str:
    """At most `width` characters of a text, the end left out."""
    return text if len(text) <= width else text[: width - 4] + " ..."


def names_of(c: Compiled) -> tuple[str, ...]:
    """The coordinates' names."""
    return c.domain.names or tuple(f"x{i}" for i in range(c.domain.dimension))


def status_words(c: Compiled) -> str:
    """The certificate in one short line. That of a file is a claim until it is proved again, and says so."""
    cert = c.certificate
    if cert.status is Status.PROVED:
        words = f"proved: sup error ≤ {upward(cert.error_upper)}"
        if cert.conditional:
            words += ", if the declared Lipschitz constant holds"
    elif cert.status is Status.REFUTED:
        words = f"refuted: sup error ≥ {downward(cert.error_lower)} > eps"
    else:
        words = "undecided"
    if c.rechecked:
        return words
    return f"as stored in the file, not proved again: {words.replace('proved: ', '')}"
