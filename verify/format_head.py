"""What executing a single head in a float format may add to its error.

The execution in a format of unit round-off u reads the point rounded to the format, computes logits with inner products of m terms in any
order, weights as exp of differences from a maximum (block by block, rescaled once per block, or with exp2 of logits times log2 e), and
means in any order. Everything that this does to token j's weight is a factor 1 + theta_j, |theta_j| <= e^{rho_j} - 1, with

    rho_j = gamma_{m+2} S_j                 logit: products, sums, the rounding of the point and of s_j log2 e, S_j = |a_j||x| + |b_j|
          + 4 u (S_j + M)                   difference from a maximum and scaling by log2 e, |s_max| <= M (below)
          + c u / (1 - c u) ceil(N / block) exp within c u, once more for each rescaling
          + 2 l_j + 4 (ceil(N / block) + 1) eta   what is below the smallest normal number eta, of the logit (below) and of differences.

The differences: a token is weighed against its block's maximum B, s_j <= B <= s_max, and rescaled with B - s_max. log2 e is rounded,
u |s_j - s_max|; s_j - B, in one fused operation or not, u |s_j - B|; rescalings, a difference and a product each, telescope to
2 u |B - s_max|; B and s_max times log2 e round by u |B| + u |s_max|: 4 u (|s_j| + |s_max|) together, as |B| <= max(|s_j|, |s_max|). Where s_j log2 e
is rounded by itself, too, that is u |s_j| more. Where s_j log2 e is fused and B log2 e is not, exponents of a block, the maximum's own
included, are all moved by up to u |B| on top: that cancels in the quotient, but sums may grow or shrink by e^{8 u max S} on the way.

M = sup |max_j s_j| is at most the larger of |max_j inf s_j| and |max_j sup s_j|. Numerator and denominator see the same factors up to the
roundings of sums, of a weight before it meets its value, of rescalings, of the quotient by way of a reciprocal, and of the result: with
G = gamma_{N + ceil(N/block) + 7} and executed weights w', at most G / (1 - G) (sum w'|v| + |sum w' v|). Executed weights
are at most (1 + t) / (1 - t) times the real ones, t = max_j e^{rho_j} - 1 < 1/2, so that the bisection, which takes means with the real
weights w, is given G / (1 - G) (1 + 4 t / (1 - t)). So a head in the format is an `AffineHead` with a larger `logit_gamma` (per S_j),
`executed_slack` (the rest of rho_j) and `output_gamma`, and the bisection that bounds the float64 execution bounds this one.

Underflow: a result below eta may be lost. If what a matrix W is applied to has lost l, the product has lost |W| l + 2 k eta, k the terms of a
row (copies lose nothing): from the point, eta, by way of embedding and query to the logits, l_j. Relative errors of a chain whose gamma is
finite at most double it. Of a mean of N values of size at most V >= 1, with a denominator of at least e^{-8 u max S} / 2, weights (at exp, at a
cast, by a rescaling), products, sums, rescalings and a reciprocal lose at most 12 (N + 4) eta V e^{8 u max S}, times 4; then by way of the
output and readout matrices in the same way.

Range: every vector on this way, losses included, weights' sums times e^{8 u max S} (a core head's times e^{max S + 3}), and hence the point
itself, has to stay eight times below the format's largest number (`fits`).

On a sphere a point of the format is r = (2 n + 8) u from it: |x_i| <= 1 + r, and logits are off by |a_j|_1 r (1 + gamma).

Where the bisection does not apply (data tokens, classes of Lipschitz functions) the same is bounded for the whole domain at once:

    |executed - real| <= t / (1 - t) (max v - min v) + 2 G / (1 - G) max |v|.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from jaxtyping import Float
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
    it; reach: bounds of the coordinates of a point in the format; lost: what underflow may add to an output; fits: whether no intermediate
    result leaves the format's range."""

    head: AffineHead
    in_boxes: AffineHead | None
    reach: Float[np.ndarray, " n"]
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
    u, eta, tokens = form.unit, form.smallest_normal, len(head.biases) + claim.sequence_length
    blocks = -(-tokens // form.block)
    lo, hi = claim.domain.bounds
    lo, hi = lo - near * (u / U) * UP, hi + near * (u / U) * UP
    reach = np.maximum(np.abs(lo), np.abs(hi))
    with np.errstate(all="ignore"):
        size = (head.slope_scale @ reach + head.bias_scale) * (1 + 4 * gamma(len(lo) + 8))
        logits = form.gamma(_terms(head.logit_gamma) + 6)  # the point, s_j log2 e, and 4 u S_j
        swing = float(np.exp(8 * u * size.max())) if head.normalised else 1.0
        weight = swing if head.normalised else float(np.exp(size.max() + 3))
        chain = _chain(claim, reach, tokens, swing, weight, eta)
        # what the float64 reading puts here are the point's distance from the sphere and the sum of T equal weights, in units of U
        share = 1 - (claim.sequence_length + 2) * u
        scaled = head.executed_slack * (u / U) / share if share > 0.5 else np.full(len(size), np.inf)
        slack = scaled * (1 + logits) + chain.lost_of_logits + 4 * (blocks + 1) * eta
        top = _largest_logit(head, lo, hi, logits * size + slack + head.logit_slack, size)
        exp = form.exp_units * u / (1 - form.exp_units * u) * blocks
        slack = (slack + 4 * u * top + exp) * UP
        off = math.expm1(min(float((logits * size + slack).max()), 3.0))
        sums = form.gamma(_terms(head.output_gamma) + blocks + 5)
        output = sums / (1 - sums) if sums < 0.5 else math.inf
        inside = (
            8 * max(float(size.max()), chain.largest) < form.largest and math.isfinite(logits) and exp < math.log(2)
        )
    changed = replace(head, logit_gamma=logits, executed_slack=slack, output_gamma=output)
    by_boxes = replace(changed, output_gamma=output * (1 + 4 * off / (1 - off))) if off < 0.5 else None
    return Executed(changed, by_boxes, reach, chain.lost_of_outputs, bool(inside))


@dataclass(frozen=True, eq=False)
class _Carried:
    """A vector on its way through the model: bounds of its entries' sizes and of what underflow has taken from them; the largest so far."""

    size: Float[np.ndarray, " d"]
    lost: Float[np.ndarray, " d"]
    largest: float

    def through(self, weights: np.ndarray, eta: float, offset: np.ndarray | None = None) -> _Carried:
        """weights times the vector, plus an offset."""
        shift = np.zeros(len(weights)) if offset is None else np.abs(offset)
        terms = np.count_nonzero(weights, axis=1) + (shift != 0)
        copies = (terms <= 1) & np.isin(np.abs(weights), (0.0, 1.0)).all(axis=1)
        size = np.abs(weights) @ self.size + shift
        lost = (np.abs(weights) @ self.lost + np.where(copies, 0.0, 2 * terms * eta)) * (1 + 1e-9)
        return _Carried(size, lost, max(self.largest, float((size + lost).max())))


@dataclass(frozen=True, eq=False)
class _Chain:
    """largest: bound of every vector; lost_of_logits (tokens,), lost_of_outputs: what underflow may cost."""

    largest: float
    lost_of_logits: Float[np.ndarray, " tokens"]
    lost_of_outputs: float


def _chain(
    claim: Claim, reach: Float[np.ndarray, " n"], tokens: int, swing: float, weight: float, eta: float
) -> _Chain:
    """From the point to the logits, and from the values to the outputs. Data tokens' scores and values are sums of zeros, exact.

    swing: how much sums of weights may grow or shrink; weight: the largest weight before it is divided."""
    model, head = claim.model, claim.model.layers[0].heads[0]
    keys, values = claim.prefix.keys[0][0], claim.prefix.values[0][0]
    point = _Carried(reach, np.full(len(reach), eta), float(reach.max()))
    logits = point.through(model.embedding, eta, model.offset).through(head.query, eta).through(keys, eta)
    lost = np.append(logits.lost, 0.0) if head.attends_to_data else logits.lost
    each = np.abs(values).max(axis=0)
    taken = np.full(len(each), 48 * (tokens + 4) * eta * max(1.0, float(each.max())) * swing)
    total = np.full(len(each), tokens * weight * max(1.0, float(each.max())))
    mean = _Carried(total, taken, max(logits.largest, float((total + taken).max())))
    outputs = mean.through(head.output, eta).through(model.readout, eta)
    return _Chain(outputs.largest, 2 * lost, 2 * float(outputs.lost.max()))


def _terms(bound: float) -> int:
    """The n of a float64 gamma_n, or one more."""
    return math.ceil(bound / U)


def _largest_logit(head: AffineHead, lo: np.ndarray, hi: np.ndarray, executed: np.ndarray, size: np.ndarray) -> float:
    """A bound of |max_j s_j| on [lo, hi], for the real logits and for those within `executed` of them; size: of the logits."""
    middle, half = lo + (hi - lo) * 0.5, (hi - lo) * (0.5 + 4 * U)
    centre = head.slopes @ middle + head.biases
    off = head.slope_scale @ half + (gamma(len(lo) + 8) + 2 * head.parameter_gamma) * size + executed
    least, most = (centre - off).max(), (centre + off).max()
    return float(max(abs(least), abs(most)) * (1 + 8 * U))


def rounding_on_domain(claim: Claim, done: Executed, form: FloatFormat) -> float:
    """A bound of |execution in the format - real function| for the whole domain at once; inf where nothing is known."""
    head = done.head
    if not done.fits or not math.isfinite(head.output_gamma):
        return math.inf
    with np.errstate(all="ignore"):
        size = head.slope_scale @ done.reach + head.bias_scale
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
