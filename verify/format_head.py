"""What executing a single head in a float format may add to its error.

The execution in a format of unit round-off u reads the point rounded to the format, computes logits with inner products of m terms in any
order, weights as exp of differences from a maximum (block by block, rescaled once per block, or with exp2 of logits times log2 e), and
means in any order. Everything that this does to token j's weight is a factor 1 + theta_j, |theta_j| <= e^{rho_j} - 1, with

    rho_j = gamma_{m+1} S_j                 logit: products, sums and the rounding of the point, S_j = |a_j||x| + |b_j|
          + 3 u (S_j + M)                   difference from the maximum, |s_max| <= M, and two roundings of a scaling by log2 e
          + c u ceil(N / block)             exp within c u, once more for each rescaling (the differences telescope to s_max - s_j)
          + 16 m eta (1 + max |a|)          products, and a point, below the smallest normal number eta.

M = sup |max_j s_j| is at most the larger of |max_j inf s_j| and |max_j sup s_j|. Numerator and denominator see the same factors up to the
roundings of sums, of a weight before it meets its value, of rescalings, of the quotient by way of a reciprocal, and of the result: with
G = gamma_{N + ceil(N/block) + 7} and executed weights w', at most G / (1 - G) (sum w'|v| + |sum w' v|). Executed weights
are at most (1 + t) / (1 - t) times the real ones, t = max_j e^{rho_j} - 1 < 1/2, so that the bisection, which takes means with the real
weights w, is given G / (1 - G) (1 + 4 t / (1 - t)). So a head in the format is an `AffineHead` with a larger `logit_gamma` (per S_j),
`executed_slack` (the rest of rho_j) and `output_gamma`, and the bisection that bounds the float64 execution bounds this one. Weights
that underflow miss at most eta each, of a sum that is at least (about) 1: 8 (N + 4) eta max(1, |v|) on top.

Where the bisection does not apply (data tokens, classes of Lipschitz functions) the same is bounded for the whole domain at once:

    |executed - real| <= t / (1 - t) (max v - min v) + 2 G / (1 - G) max |v|.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from threadpoolctl import threadpool_limits

from verify.affine import AffineHead, affine_head
from verify.ball import UP, U, gamma
from verify.bisection import Bisection, Progress
from verify.certificate import Certificate
from verify.core import MOST
from verify.domain import Box
from verify.format_arithmetic import FloatFormat
from verify.sphere import Sphere

if TYPE_CHECKING:
    from verify.prove import Claim

__all__ = ["Executed", "executed_in", "rounding_on_boxes", "rounding_on_domain"]


@dataclass(frozen=True, eq=False)
class Executed:
    """head: the head with the execution's errors in a format; in_boxes: the same for the bisection, None where weights are too uncertain for
    it; lost: what underflow may add to an output; fits: whether no intermediate
    result leaves the format's range."""

    head: AffineHead
    in_boxes: AffineHead | None
    lost: float
    fits: bool


def executed_in(claim: Claim, form: FloatFormat) -> Executed:
    """The head of a claim whose parameters are already numbers of the format. Raises UnsupportedModelError for models that are no single
    head.

    On a sphere the claim in a format is about its points within (2 n + 8) u of the sphere, and about float64 points near it, rounded.
    """
    assert isinstance(claim.domain, Box | Sphere)
    near = claim.domain.slack if isinstance(claim.domain, Sphere) else 0.0
    head = affine_head(claim.model, claim.prefix, claim.sequence_length, near)
    count, m = len(head.biases), claim.prefix.keys[0][0].shape[1]
    blocks = -(-(count + claim.sequence_length) // form.block)
    lo, hi = claim.domain.bounds
    with np.errstate(all="ignore"):
        size = (head.slope_scale @ np.maximum(np.abs(lo), np.abs(hi)) + head.bias_scale) * (1 + 4 * gamma(m + 8))
        logits = form.gamma(_terms(head.logit_gamma) + 5)
        top = _largest_logit(head, lo, hi, size, logits)
        largest = max(1.0, float(np.abs(head.value_scale).max()), float(np.abs(claim.prefix.values[0][0]).max()))
        constant = 3 * form.unit * top + form.exp_units * form.unit * blocks
        constant += 16 * m * form.smallest_normal * (1 + float(head.slope_scale.max()))
        # what the float64 reading puts here are the point's distance from the sphere and the sum of T equal weights, in units of U
        share = 1 - (claim.sequence_length + 2) * form.unit
        scaled = head.executed_slack * (form.unit / U) / share if share > 0.5 else np.full(count, np.inf)
        slack = (scaled + constant) * UP
        off = math.expm1(min(float((logits * size + slack).max()), 3.0))
        sums = form.gamma(_terms(head.output_gamma) + blocks + 5)
        output = sums / (1 - sums) if sums < 0.5 else math.inf
        inside = float(size.max()) * 4 < form.largest and 4 * (count + claim.sequence_length) * largest < form.largest
        if not head.normalised:
            room = min(MOST, math.log(form.largest) - 8)
            inside &= float(size.max()) + math.log(4 * (count + 1) * largest) < room
    changed = replace(head, logit_gamma=logits, executed_slack=slack, output_gamma=output)
    lost = 8 * (count + claim.sequence_length + 4) * form.smallest_normal * largest
    by_boxes = replace(changed, output_gamma=output * (1 + 4 * off / (1 - off))) if off < 0.5 else None
    return Executed(changed, by_boxes, lost, bool(inside))


def _terms(bound: float) -> int:
    """The n of a float64 gamma_n, or one more."""
    return math.ceil(bound / U)


def _largest_logit(head: AffineHead, lo: np.ndarray, hi: np.ndarray, size: np.ndarray, logits: float) -> float:
    """A bound of |max_j s_j| on the domain's bounding box, real and executed (within `logits` times size)."""
    middle, half = lo + (hi - lo) * 0.5, (hi - lo) * (0.5 + 4 * U)
    centre = head.slopes @ middle + head.biases
    reach = head.slope_scale @ half
    off = (gamma(len(lo) + 8) + 2 * head.parameter_gamma + logits) * size + head.logit_slack
    least, most = (centre - reach - off).max(), (centre + reach + off).max()
    return float(max(abs(least), abs(most)) * (1 + 8 * U))


def rounding_on_domain(claim: Claim, done: Executed, form: FloatFormat) -> float:
    """A bound of |execution in the format - real function| for the whole domain at once; inf where nothing is known."""
    head = done.head
    assert isinstance(claim.domain, Box | Sphere)
    if not done.fits or not math.isfinite(head.output_gamma):
        return math.inf
    lo, hi = claim.domain.bounds
    with np.errstate(all="ignore"):
        size = head.slope_scale @ np.maximum(np.abs(lo), np.abs(hi)) + head.bias_scale
        rho = (head.logit_gamma * size + head.executed_slack + head.logit_slack) * (1 + 1e-9)
        biggest = float(rho.max())
        values = head.value_scale * (1 + 2 * head.value_gamma)
        top = float(values.max())
        if not head.normalised:
            known = biggest <= 3 and float(size.max()) < MOST
            weights = np.exp(size) * (1 + 1e-12) if known else np.full(len(size), np.inf)
            total = float((weights @ values).max())
            return (math.expm1(biggest) + head.output_gamma * (2 + math.expm1(biggest))) * total * (
                1 + 1e-6
            ) + done.lost
        if not biggest < 0.3:
            return 2 * top * (1 + 2 * head.output_gamma) + done.lost  # both are means of the values
        off = math.expm1(biggest) * (1 + 1e-9)
        spread = float((np.ptp(head.values, axis=0) + 2 * head.value_gamma * values.max(axis=0)).max())
        moved = off / (1 - off) * spread
        return (moved + 2 * head.output_gamma * top) * (1 + 1e-6) + done.lost


def rounding_on_boxes(
    claim: Claim, done: Executed, max_boxes: int, seconds: float, progress: Progress | None
) -> Certificate:
    """The bisection of the claim with the format's execution in place of float64's: its certificate, without what underflow may lose.

    For `done.in_boxes` that is there, and more eps than what underflow may lose.
    """
    assert done.in_boxes is not None
    allowed = replace(claim, eps=claim.eps * (1 - 1e-9) - done.lost)
    deadline = time.monotonic() + seconds
    with np.errstate(all="ignore"), threadpool_limits(1, "blas"):
        return Bisection(cast("Any", allowed), done.in_boxes, max_boxes, progress, deadline).run(math.inf)
