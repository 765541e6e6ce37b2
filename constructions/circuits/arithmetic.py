"""What heads are chosen for: the arithmetic they run in, as far as it decides how large values may be for an accuracy.

A short head is accurate by tiny differences of logits times large values, so it rounds: an error of d_j in logit j moves the mean g by
w_j (v_j - g) d_j, and the sums by a few units of sum_j w_j |v_j| + |g|. In float64 that is so far below the error that it gets a small
share of a tolerance of its own, and an estimate of an execution does. In a narrower format both are of one size: they are added, and
the estimate is what the kernel will prove (`verify.format_circuit`), in which an exponential may be off by `FloatFormat.exp_units`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from verify.format_arithmetic import FloatFormat

__all__ = ["FLOAT64", "Arithmetic", "arithmetic_of"]


@dataclass(frozen=True)
class Arithmetic:
    """Rounding of a head: unit * max over points of sum_j w_j |v_j - g| (weight + logit (|s_j| + |<a_j, x>|)) + (N + sums) (sum_j w_j |v_j| + |g|).

    name: of the format; unit: its round-off; weight, logit: units of it per weight, and per size of a logit; sums: units of a mean's
    sums beside its N tokens, None where they are not looked at; ridge: what a value is charged in a fit whose residuals are of
    order one; enough: relative tolerance below which no better head is looked for; apart: whether error and rounding have shares
    of a tolerance of their own, else they are added; error_share: the share of an error in the first case, of both in the second;
    placed_share: the same once a head is placed in a node's coordinates and measured on other points; rounding_share: of rounding.
    """

    name: str
    unit: float
    weight: float
    logit: float
    sums: int | None
    ridge: float
    enough: float
    apart: bool
    error_share: float
    placed_share: float
    rounding_share: float

    def rounding(
        self,
        weights: Float[np.ndarray, "m N"],
        values: Float[np.ndarray, " N"],
        logits: Float[np.ndarray, "m N"],
        products: Float[np.ndarray, "m N"],
    ) -> float:
        """The estimate above at the points given by weights, logits s_j and sums of the absolute products of <a_j, x>."""
        outputs = weights @ values
        sizes = (
            weights
            * np.abs(values - outputs[:, None])
            * (self.weight + self.logit * np.abs(logits) + self.logit * products)
        )
        total = sizes.sum(axis=1)
        if self.sums is not None:
            total = total + (len(values) + self.sums) * (weights @ np.abs(values) + np.abs(outputs))
        return self.unit * float(total.max())

    def tolerance(self, error: float, rounding: float) -> float:
        """The smallest tolerance that a head's sampled error and rounding leave room in."""
        if self.apart:
            return max(error / self.error_share, rounding / self.rounding_share)
        return (error + rounding) / self.error_share

    def serves(self, error: float, rounding: float, tolerance: float) -> bool:
        """Whether a head placed in its node's coordinates, where it rounds differently, is good enough."""
        if self.apart:
            return error <= self.placed_share * tolerance and rounding <= 2 * self.rounding_share * tolerance
        return self.tolerance(error, rounding) <= tolerance

    @property
    def floor(self) -> float:
        """About the least tolerance, relative to a function's range, of any head of one variable."""
        return 0.0 if self.apart else self.enough

    def key(self, problem: str) -> str:
        """A problem's name together with the arithmetic; float64's is the problem's own."""
        return problem if self == FLOAT64 else f"{self} {problem}"

    def least(self, size: float) -> float:
        """What an execution of a head may be off by whatever its tokens: sum_j w_j |v_j| >= |g|, up to `size` somewhere."""
        return self.unit * 2 * (1 + self.sums) * size if self.sums is not None else 0.0


_UNIT_ROUNDOFF = 2.0**-53
_ROUNDING_SHARE = 0.02

FLOAT64 = Arithmetic(
    name="float64",
    unit=_UNIT_ROUNDOFF,
    weight=2.0,
    logit=1.0,
    sums=None,
    # lambda^2 per value balances rounding / share against the residual; 8 stands for the usual 2 + |logit|
    ridge=8.0 * _UNIT_ROUNDOFF / _ROUNDING_SHARE,
    enough=1e-11,
    apart=True,
    error_share=0.97,  # what is left is for peaks between samples and the proof's slack
    placed_share=0.975,
    rounding_share=_ROUNDING_SHARE,
)
"""Where heads run unless another format is asked for."""


def arithmetic_of(form: FloatFormat) -> Arithmetic:
    """The arithmetic of a format; for float64 `FLOAT64`, whose estimate is that of an execution and not of a proof.

    Of the kernel's terms per logit, gamma_{m+2} (|a_j||x| + |b_j|) + 4 u (|s_j| + |max s|) + c u for exp, with |b_j| <= |s_j| + |<a_j, x>| and m = 2
    to 4 coordinates read: about 8 u (|s_j| + |<a_j, x>|) + (c + 4) u. Its sums are within gamma_{N + 8}.
    """
    if form.precision == 53:
        return FLOAT64
    weight = form.exp_units + 4.0
    return Arithmetic(
        name=form.name,
        unit=form.unit,
        weight=weight,
        logit=8.0,
        sums=8,
        ridge=1.5 * weight * form.unit,
        enough=64 * form.unit,
        apart=False,
        error_share=0.95,
        placed_share=0.95,
        rounding_share=0.95,
    )
