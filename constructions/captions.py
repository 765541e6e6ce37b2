"""Words for titles and tables: numbers rounded to the safe side, and a status that never says more than is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from verify import Sphere, Status
from verify.certificate import downward, upward

if TYPE_CHECKING:
    from constructions.compiled import Compiled

__all__ = ["downward", "names_of", "shortened", "status_words", "upward"]


def shortened(text: str, width: int) -> str:
    """At most `width` characters of a text, the end left out."""
    return text if len(text) <= width else text[: width - 4] + " ..."


def names_of(c: Compiled) -> tuple[str, ...]:
    """The coordinates' names."""
    if c.domain.names:
        return c.domain.names
    if isinstance(c.domain, Sphere):
        return c.domain.default_names()
    return tuple(f"x{i}" for i in range(c.domain.dimension))


def status_words(c: Compiled) -> str:
    """The certificate in one short line. That of a file is a claim until it is proved again, and says so."""
    cert = c.certificate
    if cert.status is Status.PROVED:
        words = f"proved: sup error ≤ {upward(cert.error_upper)}"
        if cert.exceptional:
            words += f" outside a set of measure ≤ {upward(cert.exceptional)}"
        if cert.conditional:
            words += ", if the declared Lipschitz constant holds"
    elif cert.status is Status.REFUTED:
        words = f"refuted: sup error ≥ {downward(cert.error_lower)} > eps"
    else:
        words = "undecided"
    if c.rechecked:
        return words
    return f"as stored in the file, not proved again: {words.replace('proved: ', '')}"
