"""Rigorous enclosures of a single softmax head over many boxes at once.

The head is g(x) = sum_j w_j(x) v_j, w = softmax(s), s_j(x) = <a_j, x> + b_j. On the box x = c + r tau, tau in [-1,1]^n, let
p_j be the *computed* weights at c (unnormalised, floats), y_j the computed (a_j - abar) r, and v0 a float near g(c):

    ghat(tau) = v0 + N(tau)/D(tau),   D = sum p_j e^{<y_j,tau>},   N = sum p_j (v_j - v0) e^{<y_j,tau>}.

Everything that p and y got wrong is a factor 1 + theta_j on token j's weight, |theta_j| <= e^{rho_j} - 1. So is the rounding
of the float64 forward pass, and both cost (with w the weights of ghat)

    |g - ghat| <= sum_j w_j |theta_j| |v_j - ghat| / (1 - sum_j w_j |theta_j|).                                     (*)

Proof: sum w(1+th)v / sum w(1+th) - ghat = sum w th (v - ghat) / (1 + sum w th). QED.

The series of ghat: moments D_k = sum p y^k / k!, N_k likewise; the quotient series q = N/D up to degree < J; and from
N - q D = (products of degree >= J) + R_N - q R_D, with |R_D| <= sum p |y|_1^J / J! e^{|y|_1} and the same for N,

    |ghat - v0 - q| <= (sum_{i+k>=J} |q_i||D_k| + R_N + |q| R_D) / inf D,   inf D >= D_0 (1 - |D_1| / D_0)

by Jensen's inequality (D / D_0 >= e^{<D_1, tau>/D_0} >= 1 - |D_1|_1 / D_0). abar is the mean key, so D_1 is nearly zero.

Tokens whose weight is at most e^{gap_j} times another token's everywhere on a region may be left out there: with
delta = sum e^{gap_j}, this moves g by at most sum e^{gap_j} |v_j - g|.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import factorial

import numpy as np
from jaxtyping import Float, Int

from verify.affine import AffineHead
from verify.ball import EXP_RELATIVE_ERROR, TINY, UP, Ball, U, exp, gamma
from verify.cells import Cells
from verify.compensated import accurate_affine
from verify.moments import Moments, quotient, raised, slope_tail
from verify.monomials import Jet

__all__ = [
    "HeadSeries",
    "TokenValues",
    "Tokens",
    "enclose_head",
    "select_tokens",
]

_UNDERFLOW = 1e-100
"""Absolute error of a logit that covers every underflow on the way to it (see _within_scale)."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens that matter on a region, and what the others may contribute there.

    index: kept tokens; share: upper bound of the total weight of the rest relative to a kept one; moment (k,): upper bound of
    sum share_j |v_j| over the rest.
    """

    index: Int[np.ndarray, " kept"]
    share: float
    moment: Float[np.ndarray, " k"]


def select_tokens(head: AffineHead, candidates: Tokens, region: Cells, negligible: float) -> Tokens:
    """Drop tokens whose weight is below e^negligible times another's all over the region (one cell).

    gap_j = sup over the region of s_j - s_best <= (s_j - s_best)(c) + |<a_j - a_best, axes>|_1, computed with its own rounding bound.
    """
    index = candidates.index
    c = region.centre[0]
    a, b = head.slopes[index], head.biases[index]
    logits = a @ c + b
    size = head.slope_scale[index] @ np.maximum(np.abs(region.lo[0]), np.abs(region.hi[0])) + head.bias_scale[index]
    best = int(np.argmax(logits))
    slack = (gamma(a.shape[1] + 4) + 2 * head.parameter_gamma) * (size + size[best]) * UP
    slack = slack + (head.logit_slack[index] + head.logit_slack[index][best]) * UP
    swing, swing_error = region.along((a - a[best])[None])
    reach = (np.abs(swing[0]).sum(axis=1) + swing_error[0]) * (1 + gamma(a.shape[1] + 4))
    gap = (logits - logits[best]) + reach + slack + 1e-9
    # a token whose logit is itself uncertain stays, so that a dropped one's weight is off by a factor of at most 3
    uncertain = head.logit_gamma * size + head.executed_slack[index]
    keep = ~((gap < negligible) & (uncertain < 0.5))
    keep[best] = True
    dropped = exp(Ball.exact(gap[~keep])).upper()
    values = head.value_scale[index][~keep] * (1 + 2 * head.value_gamma)  # at least |values|
    grow = UP * (1 + gamma(len(index) + 2))
    # tokens dropped earlier were compared with a token that may itself be dropped now, at most e^{gap} <= 1 below `best`
    return Tokens(index[keep], (candidates.share + dropped.sum()) * grow, (candidates.moment + dropped @ values) * grow)


@dataclass(frozen=True, eq=False)
class HeadSeries:
    """A head over boxes: |g_i(c + r tau) - parts_i(tau)| <= remainder[:, i]; the float64 forward pass adds at most rounding.

    parts: one jet per output; remainder, rounding: (boxes, k); spread: (boxes, n) how much the weights vary along each axis.
    """

    parts: list[Jet]
    remainder: Float[np.ndarray, "boxes k"]
    rounding: Float[np.ndarray, "boxes k"]
    spread: Float[np.ndarray, "boxes n"]


@dataclass(frozen=True, eq=False)
class TokenValues:
    """Token values that depend on the box: value (boxes, tokens) plus <slope, tau> (boxes, tokens, n), give or take excess;
    largest: bound of all of them, for tokens that were dropped."""

    value: np.ndarray
    slope: np.ndarray
    excess: np.ndarray
    largest: float


def enclose_head(
    head: AffineHead, tokens: Tokens, cells: Cells, order: int, own: TokenValues | None = None
) -> HeadSeries:
    """Enclose the head over each cell by a polynomial of degree < order in tau and a remainder.

    With `own`, the head's values are replaced by box-dependent, affine ones (one output): used to bound the error against all
    Lipschitz functions, where token j is off by at most L |x - z_j|.
    """
    c, r = cells.centre, cells.half
    boxes, n = c.shape
    a, b = head.slopes[tokens.index], head.biases[tokens.index]
    count = len(b)
    far = np.maximum(np.abs(cells.lo), np.abs(cells.hi))
    size = (
        far @ head.slope_scale[tokens.index].T + head.bias_scale[tokens.index]
    )  # (boxes, tokens) magnitude of a logit's terms
    with np.errstate(all="ignore"):
        logits, tail_of_logits = accurate_affine(c, a, b)
        top = logits.max(axis=1, keepdims=True)
        relative = (logits - top) + tail_of_logits
        # three roundings of the differences; the doubled working precision itself misses at most 8 (n+1)^2 u^2 of the terms
        logit_error = (
            (8 * (n + 1) ** 2 * U * U + head.parameter_gamma) * size + 2 * U * (np.abs(relative) + np.abs(logits - top))
        ) * UP + _UNDERFLOW
        weights = exp(Ball(relative, np.zeros_like(relative))).mid
        weights /= weights.sum(
            axis=1, keepdims=True
        )  # the ball of exp and this division: at most 12 u relative, see rho
        mean_key = weights @ a
        y, y_error = cells.along(a[None] - mean_key[:, None, :])
        reach = (np.abs(y).sum(axis=2) + y_error) * (1 + 8 * U * (n + 1)) + TINY
        # what p and y got wrong, as a relative error of the token's weight: exp and scaling, the logit at c, the slopes
        rho = (
            logit_error
            + y_error
            + head.parameter_gamma * (r @ head.slope_scale[tokens.index].T)
            + head.logit_slack[tokens.index]
            + 12 * U
        ) * UP
        # the forward pass: logits, their difference from the maximum (<= gap at c + 2 * largest reach), exp
        executed = (
            _executed_logit_error(head, tokens.index, far, r, logits, size)
            + U * (np.abs(relative) + 2 * reach.max(axis=1, keepdims=True))
            + 2 * EXP_RELATIVE_ERROR
            + head.logit_slack[tokens.index]
            + head.executed_slack[tokens.index]
        ) * UP + _UNDERFLOW
        # below e^-650 the computed weight may be off by its own size: it was raised to e^-690 here (to e^-700 in the forward pass)
        vanishing = relative < -650
        rho, executed = np.where(vanishing, rho + 1, rho), np.where(vanishing, executed + 1, executed)
        if own is None:
            values = head.values[tokens.index]
            start = weights @ values  # (boxes, k)
            deviations = values.T[None] - start[:, :, None]  # (boxes, k, tokens)
            value_error = (head.value_gamma * head.value_scale[tokens.index]).T[None] + U * np.abs(deviations)
            magnitude = np.abs(head.value_scale[tokens.index].T)[
                None
            ]  # what is summed, before W_O and the readout mix it
        else:
            start = (weights * own.value).sum(axis=1)[:, None]
            deviations = (own.value - start)[:, None, :]
            value_error = own.excess[:, None, :] + U * np.abs(deviations)
            magnitude = np.abs(own.value)[:, None, :]
        outputs = start.shape[1]
        grow = exp(Ball.exact(np.minimum(reach, 200.0)))
        growth = np.where(reach > 100, np.inf, grow.mid + grow.rad)
        moments = Moments(y, weights, order)
        d = moments.parts(np.ones((boxes, count)))
        d_low, d_first = d[0].lower()[:, 0], d[1].magnitude().sum(axis=1) if order > 1 else np.full(boxes, np.inf)
        if order == 1:
            d_first = (weights * reach).sum(axis=1) * (1 + gamma(count + 4))
        floor = (d_low - d_first * (1 + 4 * U)) * (1 - 4 * U)
        floor = np.where(floor > 0, floor, np.nan)

        def mean_bound(h: np.ndarray) -> np.ndarray:
            """Upper bound over the box of sum_j w_j(tau) h_j for h >= 0; h: (boxes, ..., tokens)."""
            lifted = (weights * growth)[:, None, :] * h if h.ndim == 3 else weights * growth * h
            shape = (-1, 1) if h.ndim == 3 else (-1,)
            mean = (lifted.sum(axis=-1) * (1 + 2 * gamma(count + 8)) + TINY) / floor.reshape(shape) * UP
            return np.fmin(mean, h.max(axis=-1))  # the weights add up to one

        tail = reach**order / factorial(order) * growth * weights * UP  # (boxes, tokens)
        r_d = tail.sum(axis=1) * (1 + 2 * gamma(count + 8 + order)) + TINY
        parts: list[Jet] = []
        remainder, rounding = np.empty((boxes, outputs)), np.empty((boxes, outputs))
        weight_error = np.expm1(np.minimum(rho, 3.0)) * (1 + 1e-6)
        step_error = np.expm1(np.minimum(executed, 3.0)) * (1 + 1e-6)
        weight_error = np.where(rho <= 3, weight_error, np.inf)
        step_error = np.where(executed <= 3, step_error, np.inf)
        total_weight_error, total_step_error = mean_bound(weight_error), mean_bound(step_error)
        for i in range(outputs):
            dv = deviations[:, i, :]
            numerator = moments.parts(dv)
            if own is not None:
                for axis in range(n):
                    numerator = raised(numerator, moments.parts(own.slope[:, :, axis]), axis, n)
            q = quotient(numerator, d, n)
            q_sizes = [p.magnitude().sum(axis=1) for p in q]
            d_sizes = [p.magnitude().sum(axis=1) for p in d]
            products = np.zeros(boxes)
            for k in range(order):
                for m in range(max(0, order - k), order):
                    products = products + q_sizes[k] * d_sizes[m]
            r_n = (tail * np.abs(dv)).sum(axis=1) * (1 + 2 * gamma(count + 8 + order)) + TINY
            if own is not None:
                r_n = r_n + slope_tail(own.slope, weights, reach, growth, order, count)
            q_total = sum(q_sizes)
            main = (products + r_n + q_total * r_d) / floor * (1 + 1e-9) + TINY
            away = q_total + main  # |ghat - v0| over the box
            wobble = mean_bound(weight_error * np.abs(dv)) + total_weight_error * away
            if own is not None:
                wobble = wobble + mean_bound(weight_error * np.abs(own.slope).sum(axis=2))
            # what the values got wrong counts with the true weights, at most (1 + theta) / (1 - sum w theta) times those of ghat
            wobble = wobble + mean_bound(value_error[:, i, :] * (1 + weight_error))
            wobble = wobble / _positive(1 - total_weight_error)
            if own is None:
                dropped = tokens.moment[i] + tokens.share * (np.abs(start[:, i]) + away + wobble)
            else:
                dropped = np.full(boxes, tokens.share * own.largest)
            remainder[:, i] = (main + wobble + dropped) * (1 + 64 * U) + TINY
            # true weights are at most (1 + weight_error) / (1 - total_weight_error) times those of ghat
            true = (1 + weight_error) * (1 + 4 * U)
            mean_size = mean_bound(np.broadcast_to(magnitude[:, i, :], weights.shape) * true)
            shift = mean_bound(step_error * true * (np.abs(dv) + value_error[:, i, :])) + mean_bound(
                step_error * true
            ) * (away + wobble)
            moved = shift / _positive(1 - 2 * total_step_error)
            sums = head.output_gamma * (mean_size + np.abs(start[:, i]) + away + wobble)
            rounding[:, i] = (
                (moved + sums) / _positive(1 - total_weight_error) + 4 * (1 + head.output_gamma) * dropped
            ) * (1 + 1e-6) + TINY
            q[0] = q[0].shift(start[:, i : i + 1])
            parts.append(list(q))
    variation = (weights[:, :, None] * np.abs(y)).sum(axis=1)
    return HeadSeries(parts, remainder, rounding, variation)


def _executed_logit_error(
    head: AffineHead, index: np.ndarray, far: np.ndarray, r: np.ndarray, logits: np.ndarray, size: np.ndarray
) -> np.ndarray:
    """Rounding of the logits in the forward pass, (boxes, tokens).

    In general logit_gamma * (|a||x| + |b|). A query (x, 1) takes products of which only those with x round, and one sum:
    u |a||x| + u |a x + b| (1 + u), where |a x + b| is at most |logit at c| + |a| r on the box.
    """
    if head.slopes.shape[1] == 1 and head.logit_gamma == gamma(2) and head.parameter_gamma == 0:
        scale = head.slope_scale[index].T
        return U * ((far + r) @ scale + np.abs(logits)) * UP
    return head.logit_gamma * size * UP


def _positive(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0.5, x, np.nan)
