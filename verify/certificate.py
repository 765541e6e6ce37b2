"""The outcome of a proof: three-valued, with its numbers, its witness and everything it assumes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from enum import StrEnum
from typing import Any

__all__ = ["EXECUTION", "Certificate", "CertificateError", "Status", "downward", "unbounded", "upward"]

EXECUTION = (
    "float64 execution: IEEE-754 arithmetic rounding to nearest, sums in any order, exp within 8 units of round-off "
    "(the bound on the real function does not need this)"
)
"""The model of the machine under which the rounding of the forward pass is bounded."""


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


class CertificateError(ValueError):
    """A stored certificate that is not readable; the message names the field."""


class Status(StrEnum):
    """What is known about "the sup error is at most eps"."""

    PROVED = "proved"
    REFUTED = "refuted"
    UNDECIDED = "undecided"


_ADVICE = {
    Status.PROVED: "the bound holds at every point of the domain",
    Status.REFUTED: "the error exceeds eps at the witness; compile with more tokens or a larger eps",
    Status.UNDECIDED: "the prover could not decide; allow more boxes, look at the unresolved place, or ask for a larger eps",
}


@dataclass(frozen=True)
class Certificate:
    """What the kernel established about a claim `sup |model - target| <= eps`.

    The error is the maximum over output components. error_upper: rigorous upper bound over the whole domain, `rounding`
    included (inf when none was reached); error_lower: rigorous lower bound of the sup error of the real function; witness: the
    point where it is attained; rounding: bound of |float64 forward pass - real function|; boxes: boxes examined; unresolved: a
    box where the prover gave up; assumptions: everything the statement depends on; conditional: whether one of them is a
    *declared* Lipschitz constant; route: which theorem or procedure gave the bound, in a few words; exceptional: measure, relative to
    the domain's, of a set on which nothing is claimed (at most so much; 0 where the bound holds everywhere); lp: (p, bound of the
    L^p norm of the error over the whole domain, exceptional set included, with respect to the uniform probability measure).
    """

    status: Status
    eps: float
    error_upper: float
    error_lower: float
    witness: tuple[float, ...] | None
    rounding: float
    boxes: int
    assumptions: tuple[str, ...] = ()
    conditional: bool = False
    unresolved: tuple[tuple[float, float], ...] | None = None
    reason: str = ""
    route: str = ""
    exceptional: float = 0.0
    lp: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if math.isnan(self.error_upper) or not self.error_lower >= 0 or not self.rounding >= 0 or self.boxes < 0:
            raise CertificateError("certificate: error_upper, error_lower, rounding and boxes must be numbers >= 0")
        if self.lp is not None and not (len(self.lp) == 2 and 1 <= self.lp[0] < math.inf and 0 < self.lp[1] < math.inf):
            raise CertificateError("certificate: lp must be a pair of finite numbers p >= 1 and a bound > 0")
        if not 0 <= self.exceptional < 1:
            raise CertificateError("certificate: exceptional must be in [0, 1)")
        proved = self.status is Status.PROVED
        if proved and not (self.error_upper <= self.eps):  # NaN fails here
            raise CertificateError(
                f"certificate: status proved with error_upper = {self.error_upper!r} > eps = {self.eps!r}"
            )
        if proved and not (self.error_lower <= self.error_upper and self.rounding < math.inf):
            raise CertificateError(
                "certificate: status proved with error_lower > error_upper, or without a bound of rounding"
            )
        if self.status is Status.REFUTED and not (self.error_lower > self.eps and self.witness is not None):
            raise CertificateError("certificate: status refuted without a witness above eps")

    @property
    def proved(self) -> bool:
        """Whether the claim is proved (possibly conditionally)."""
        return self.status is Status.PROVED

    @property
    def advice(self) -> str:
        """What the outcome means and what to do next."""
        return _ADVICE[self.status]

    def __repr__(self) -> str:
        mode = " (conditional)" if self.conditional and self.proved else ""
        mode += f" (outside a set of measure {upward(self.exceptional)})" if self.exceptional and self.proved else ""
        head = f"<Certificate {self.status}{mode}: {downward(self.error_lower, 4)} <= sup error <= {upward(self.error_upper, 4)}, eps = {self.eps:.4g}"
        if self.status is Status.REFUTED and self.witness is not None:
            head += f", witness ({', '.join(f'{w:.6g}' for w in self.witness)})"
        if self.status is Status.UNDECIDED and self.reason:
            head += f"; {self.reason}"
        return head + ">"

    def to_json(self) -> dict[str, Any]:
        """A plain structure; floats as hexadecimal text, so that nothing is rounded."""
        return {
            "status": str(self.status),
            "eps": float(self.eps).hex(),
            "error_upper": float(self.error_upper).hex(),
            "error_lower": float(self.error_lower).hex(),
            "witness": None if self.witness is None else [float(w).hex() for w in self.witness],
            "rounding": float(self.rounding).hex(),
            "boxes": self.boxes,
            "assumptions": list(self.assumptions),
            "conditional": self.conditional,
            "unresolved": None
            if self.unresolved is None
            else [[float(a).hex(), float(b).hex()] for a, b in self.unresolved],
            "reason": self.reason,
            "route": self.route,
            "exceptional": float(self.exceptional).hex(),
            "lp": None if self.lp is None else [float(x).hex() for x in self.lp],
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Certificate:
        """The inverse of `to_json`. Raises CertificateError for anything else, also for inconsistent numbers."""
        try:
            witness, unresolved = data["witness"], data["unresolved"]
            return Certificate(
                status=Status(data["status"]),
                eps=float.fromhex(data["eps"]),
                error_upper=float.fromhex(data["error_upper"]),
                error_lower=float.fromhex(data["error_lower"]),
                witness=None if witness is None else tuple(float.fromhex(w) for w in witness),
                rounding=float.fromhex(data["rounding"]),
                boxes=int(data["boxes"]),
                assumptions=tuple(str(a) for a in data["assumptions"]),
                conditional=bool(data["conditional"]),
                unresolved=None
                if unresolved is None
                else tuple((float.fromhex(a), float.fromhex(b)) for a, b in unresolved),
                reason=str(data["reason"]),
                route=str(data.get("route", "")),
                exceptional=float.fromhex(data["exceptional"]) if "exceptional" in data else 0.0,
                lp=_pair(data.get("lp")),
            )
        except CertificateError:
            raise
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CertificateError(f"certificate: not readable ({error!r})") from error


def _pair(data: Any) -> tuple[float, float] | None:
    if data is None:
        return None
    if not isinstance(data, list) or len(data) != 2:
        raise CertificateError("certificate: 'lp' is not a pair")
    return float.fromhex(data[0]), float.fromhex(data[1])


def unbounded(
    eps: float, boxes: int, reason: str, unresolved: tuple[tuple[float, float], ...] | None = None, **extra: Any
) -> Certificate:
    """An undecided certificate without any bound."""
    known = {"error_lower": 0.0, "witness": None, "rounding": math.inf} | extra
    return Certificate(Status.UNDECIDED, eps, math.inf, boxes=boxes, reason=reason, unresolved=unresolved, **known)
