"""Statements beside compiled prefixes, impossibility results among them: what is stated, decided from stored numbers, saved and re-checked.

A `Claim` is about the sup error of one model with one prefix. A `Statement` is about anything else a theorem speaks of: "no prompt of any
length brings this layer's error below 0.97 on these two examples", "this layer is invertible on this ball". It holds arrays and
numbers, and a `decide` that derives the verdict from them alone, in outward-rounded arithmetic. A *hint* among the arrays (a dual vector, a
subdivision) may make `decide` quick; no truth depends on it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from verify.certificate import Status, downward, upward

__all__ = ["Statement", "StatementError", "Verdict", "shown_text"]

_LONGEST_TEXT = 10_000


class StatementError(ValueError):
    """Arrays or numbers that make no statement; the message names the argument, its value and what was expected."""


def shown_text(name: str, text: Any) -> str:
    """Text of a file that a terminal may show: one line, nothing that moves the cursor or changes colours. Raises StatementError."""
    if not isinstance(text, str):
        raise StatementError(f"{name}: {type(text).__name__}, expected text")
    if len(text) > _LONGEST_TEXT:
        raise StatementError(f"{name}: {len(text)} characters, at most {_LONGEST_TEXT}; shorten it")
    if not text.isprintable():
        raise StatementError(f"{name} = {text[:60]!r}: expected one line of printable characters; remove the others")
    return text


@dataclass(frozen=True)
class Verdict:
    """What the kernel established about a statement.

    lower <= quantity <= upper is rigorous for the statement's `quantity` (0 and inf where nothing is known); status says whether
    the statement, an inequality about it, is proved, refuted or undecided; numbers: further rigorous bounds, by name; route: the theorem
    or procedure; reason: why it is not proved, or which assumption of the theorem fails and where; assumptions: what it depends on.
    """

    status: Status
    lower: float
    upper: float
    route: str = ""
    reason: str = ""
    assumptions: tuple[str, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if math.isnan(self.lower) or math.isnan(self.upper):
            raise StatementError(f"verdict: lower = {self.lower}, upper = {self.upper}; NaN is no bound")
        if self.status is Status.PROVED and not self.lower <= self.upper:
            raise StatementError(f"verdict: proved with lower = {self.lower} > upper = {self.upper}")
        if self.status is not Status.PROVED and not self.reason:
            raise StatementError(f"verdict: {self.status} without a reason")

    @property
    def proved(self) -> bool:
        """Whether the statement is proved."""
        return self.status is Status.PROVED

    def __repr__(self) -> str:
        head = f"<Verdict {self.status}: {downward(self.lower, 6)} <= quantity <= {upward(self.upper, 6)}"
        return f"{head}; {self.reason}>" if self.reason else f"{head}>"

    def to_json(self) -> dict[str, Any]:
        """A plain structure; floats as hexadecimal text, so that nothing is rounded."""
        return {
            "status": str(self.status),
            "lower": float(self.lower).hex(),
            "upper": float(self.upper).hex(),
            "route": self.route,
            "reason": self.reason,
            "assumptions": list(self.assumptions),
            "numbers": {name: float(x).hex() for name, x in self.numbers.items()},
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Verdict:
        """The inverse of `to_json`. Raises StatementError for anything else, text that is not printable included: a terminal will show it."""
        try:
            return Verdict(
                Status(data["status"]),
                float.fromhex(data["lower"]),
                float.fromhex(data["upper"]),
                shown_text("verdict.route", data["route"]),
                shown_text("verdict.reason", data["reason"]),
                tuple(shown_text("verdict.assumptions", a) for a in data["assumptions"]),
                {shown_text("verdict.numbers", name): float.fromhex(x) for name, x in data["numbers"].items()},
            )
        except StatementError:
            raise
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise StatementError(f"verdict: not readable ({error!r})") from error


class Statement(ABC):
    """A frozen dataclass of arrays and numbers with a verdict that follows from them. kind: its name in files."""

    kind: ClassVar[str]

    @property
    @abstractmethod
    def sentence(self) -> str:
        """What is stated, in one line, with its numbers."""

    @property
    @abstractmethod
    def quantity(self) -> str:
        """What `Verdict.lower` and `Verdict.upper` bound, in a few words with its norm."""

    @abstractmethod
    def decide(self, *, seconds: float = math.inf) -> Verdict:
        """The verdict, from the stored numbers alone. Undecided beyond `seconds`."""

    @abstractmethod
    def to_json(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """A plain structure (floats as hexadecimal text) and float64 arrays by name, from which `from_json` restores the statement."""

    @classmethod
    @abstractmethod
    def from_json(cls, data: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Statement:
        """The inverse of `to_json`. Raises StatementError, KeyError, TypeError or ValueError for anything else."""
