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

from verify.ball import EXP_RELATIVE_ERROR, TINY, UP, Ball, U, exp, gamma, inverse
from verify.compensated import accurate_affine
from verify.model import Prefix, Transformer
from verify.monomials import Jet, homogeneous_product, monomials

__all__ = [
    "AffineHead",
    "HeadSeries",
    "Tokens",
    "UnsupportedModelError",
    "affine_head",
    "enclose_head",
    "select_tokens",
]

Boxes = Float[np.ndarray, "boxes n"]


class UnsupportedModelError(ValueError):
    """A model whose sup norm this prover does not handle (several layers or heads, attention to data tokens)."""


@dataclass(frozen=True, eq=False)
class AffineHead:
    """A model read as one head with affine logits.

    slopes (tokens, n), biases (tokens,), values (tokens, k) with entrywise error bounds *_error of the same shapes (zero when
    the frozen matrices only select coordinates, as hand-built ones do); the logits of the float64 forward pass are within
    logit_gamma * (|slopes| |x| + |biases|) of the exact ones, its outputs get `output_gamma` * sum w |v| on top.
    """

    slopes: Float[np.ndarray, "tokens n"]
    biases: Float[np.ndarray, " tokens"]
    values: Float[np.ndarray, "tokens k"]
    slope_scale: Float[np.ndarray, "tokens n"]
    bias_scale: Float[np.ndarray, " tokens"]
    value_scale: Float[np.ndarray, "tokens k"]
    parameter_gamma: float
    value_gamma: float
    logit_gamma: float
    output_gamma: float


def _selects(matrix: np.ndarray) -> bool:
    """Whether a product with this matrix is exact in floating point: at most one entry per row, a power of two."""
    nonzero = matrix[matrix != 0]
    return bool(((matrix != 0).sum(axis=1) <= 1).all() and (np.frexp(np.abs(nonzero))[0] == 0.5).all())


def _within_scale(name: str, matrix: np.ndarray, least: float, most: float) -> None:
    """Refuse entries whose products could leave float64's range. Within these, what underflow loses anywhere in the logits is at
    most 2^-1074 2^150 1e150 times a few dimensions, far below `_UNDERFLOW`; matrices of zeros and ones lose nothing."""
    size = np.abs(matrix[matrix != 0])
    if size.size and not (size.min() >= least and size.max() <= most):
        raise UnsupportedModelError(
            f"{name} has entries outside [{least:.3g}, {most:.3g}], beyond the scale float64 can carry"
        )


_UNDERFLOW = 1e-100
"""Absolute error of a logit that covers every underflow on the way to it (see _within_scale)."""


def affine_head(model: Transformer, prefix: Prefix) -> AffineHead:
    """Read a one-layer, one-head model that attends to its prefix alone as a head with affine logits.

    logits = K W_Q (E x + e): slopes K W_Q E, biases K W_Q e; values V W_O^T R^T. Every matrix product of inner length m is
    computed within gamma_m of the product of absolute values. Raises UnsupportedModelError for other models.
    """
    model.accepts(prefix)
    if (
        len(model.layers) != 1
        or len(model.layers[0].heads) != 1
        or model.layers[0].residual
        or model.layers[0].heads[0].attends_to_data
    ):
        raise UnsupportedModelError(
            "this prover handles one layer with one head that attends to its prefix alone, without residual"
        )
    head = model.layers[0].heads[0]
    frozen = (("embedding", model.embedding), ("offset", model.offset), ("query", head.query))
    frozen += (("output", head.output), ("readout", model.readout))
    for name, matrix in frozen:
        _within_scale(name, matrix, 2.0**-150, 2.0**150)
    if not all(np.isin(np.abs(matrix), (0.0, 1.0)).all() for _, matrix in frozen):
        _within_scale("prefix keys", prefix.keys[0][0], 0.0, 1e150)
        _within_scale("prefix values", prefix.values[0][0], 0.0, 1e150)
    keys, values = prefix.keys[0][0], prefix.values[0][0]
    d_k, d = head.query.shape
    n = model.inputs
    # a row that both copies a coordinate and adds a constant rounds
    in_place = (model.offset != 0)[:, None] & (model.embedding != 0)
    exact_in = _selects(model.embedding) and _selects(head.query) and not in_place.any()
    exact_out = _selects(head.output) and _selects(model.readout)
    query_in, query_offset = head.query @ model.embedding, head.query @ model.offset
    out = head.output.T @ model.readout.T
    size_in, size_offset = np.abs(head.query) @ np.abs(model.embedding), np.abs(head.query) @ np.abs(model.offset)
    size_out = np.abs(head.output).T @ np.abs(model.readout).T
    exact_slopes = exact_in and _selects(query_in.T)  # each slope is then a single product with a power of two
    exact_biases = exact_in and _selects(query_offset[None, :])
    parameter_gamma = 0.0 if exact_slopes and exact_biases else gamma(d_k + d + n + 4)
    exact_values = exact_out and _selects(out.T)
    # weights are summed before they are normalised, so the forward pass forms sums of up to `tokens` values
    largest = len(keys) * max(float(np.abs(values).max()), float((np.abs(values) @ size_out).max(initial=0.0)))
    if not largest < 2.0**1000:
        raise UnsupportedModelError(
            "sums of the values overflow float64 on their way through the head, output and readout"
        )
    return AffineHead(
        slopes=keys @ query_in,
        biases=keys @ query_offset,
        values=values @ out,
        slope_scale=np.abs(keys) @ size_in * (1 + gamma(d_k + d + 4)),
        bias_scale=np.abs(keys) @ size_offset * (1 + gamma(d_k + d + 4)),
        value_scale=np.abs(values) @ size_out * (1 + gamma(out.shape[0] + model.readout.shape[1] + 4)),
        parameter_gamma=parameter_gamma,
        value_gamma=0.0 if exact_values else gamma(values.shape[1] + model.readout.shape[1] + 4),
        logit_gamma=gamma(d_k) if exact_in else gamma(d_k + d + n + 4),
        output_gamma=gamma(len(keys) + 1)
        + (0.0 if exact_values else gamma(values.shape[1] + model.readout.shape[1] + 4)),
    )


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens that matter on a region, and what the others may contribute there.

    index: kept tokens; share: upper bound of the total weight of the rest relative to a kept one; moment (k,): upper bound of
    sum share_j |v_j| over the rest.
    """

    index: Int[np.ndarray, " kept"]
    share: float
    moment: Float[np.ndarray, " k"]


def select_tokens(head: AffineHead, candidates: Tokens, lo: np.ndarray, hi: np.ndarray, negligible: float) -> Tokens:
    """Drop tokens whose weight is below e^negligible times another's all over the region [lo, hi] (each (n,)).

    gap_j = sup over the region of s_j - s_best <= (s_j - s_best)(c) + <|a_j - a_best|, r>, computed with its own rounding bound.
    """
    index = candidates.index
    c = lo + (hi - lo) * 0.5
    r = np.maximum(hi - c, c - lo) * (1 + 4 * U)
    a, b = head.slopes[index], head.biases[index]
    logits = a @ c + b
    size = head.slope_scale[index] @ np.abs(np.maximum(np.abs(lo), np.abs(hi))) + head.bias_scale[index]
    slack = (gamma(a.shape[1] + 4) + 2 * head.parameter_gamma) * (size + size[np.argmax(logits)]) * UP
    best = int(np.argmax(logits))
    gap = (logits - logits[best]) + np.abs(a - a[best]) @ r * (1 + gamma(a.shape[1] + 4)) + slack + 1e-9
    # a token whose logit is itself uncertain stays, so that a dropped one's weight is off by a factor of at most 3
    keep = ~((gap < negligible) & (head.logit_gamma * size < 0.5))
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
    head: AffineHead, tokens: Tokens, lo: Boxes, hi: Boxes, order: int, own: TokenValues | None = None
) -> HeadSeries:
    """Enclose the head over each box [lo, hi] by a polynomial of degree < order in tau and a remainder.

    With `own`, the head's values are replaced by box-dependent, affine ones (one output): used to bound the error against all
    Lipschitz functions, where token j is off by at most L |x - z_j|.
    """
    n = lo.shape[1]
    c = lo + (hi - lo) * 0.5
    r = np.maximum(hi - c, c - lo) * (1 + 4 * U)
    a, b = head.slopes[tokens.index], head.biases[tokens.index]
    count = len(b)
    far = np.maximum(np.abs(lo), np.abs(hi))
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
        y = (a[None] - mean_key[:, None, :]) * r[:, None, :]
        y_size = np.abs(y).sum(axis=2)
        reach = y_size * (1 + 8 * U * (n + 1)) + TINY
        # what p and y got wrong, as a relative error of the token's weight: exp and scaling, the logit at c, the slopes
        rho = (
            logit_error + 4 * U * y_size + head.parameter_gamma * (r @ head.slope_scale[tokens.index].T) + 12 * U
        ) * UP
        # the forward pass: logits, their difference from the maximum (<= gap at c + 2 * largest reach), exp
        executed = (
            _executed_logit_error(head, tokens.index, far, r, logits, size)
            + U * (np.abs(relative) + 2 * reach.max(axis=1, keepdims=True))
            + 2 * EXP_RELATIVE_ERROR
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
        moments = _Moments(y, weights, order)
        d = moments.parts(np.ones((len(lo), count)))
        d_low, d_first = d[0].lower()[:, 0], d[1].magnitude().sum(axis=1) if order > 1 else np.full(len(lo), np.inf)
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
        remainder, rounding = np.empty((len(lo), outputs)), np.empty((len(lo), outputs))
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
                    numerator = _raise(numerator, moments.parts(own.slope[:, :, axis]), axis, n)
            q = _quotient(numerator, d, n)
            q_sizes = [p.magnitude().sum(axis=1) for p in q]
            d_sizes = [p.magnitude().sum(axis=1) for p in d]
            products = np.zeros(len(lo))
            for k in range(order):
                for m in range(max(0, order - k), order):
                    products = products + q_sizes[k] * d_sizes[m]
            r_n = (tail * np.abs(dv)).sum(axis=1) * (1 + 2 * gamma(count + 8 + order)) + TINY
            if own is not None:
                r_n = r_n + _slope_tail(own.slope, weights, reach, growth, order, count)
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
                dropped = np.full(len(lo), tokens.share * own.largest)
            remainder[:, i] = (main + wobble + dropped) * (1 + 64 * U) + TINY
            # true weights are at most (1 + weight_error) / (1 - total_weight_error) times those of ghat
            true = (1 + weight_error) * (1 + 4 * U)
            mean_size = mean_bound(np.broadcast_to(magnitude[:, i, :], weights.shape) * true)
            shift = mean_bound(step_error * true * (np.abs(dv) + value_error[:, i, :])) + mean_bound(
                step_error * true
            ) * (away + wobble)
            moved = shift / _positive(1 - 2 * total_step_error)
            sums = head.output_gamma * (mean_size + np.abs(start[:, i]) + away + wobble)
            rounding[:, i] = ((moved + sums) / _positive(1 - total_weight_error) + 4 * dropped) * (1 + 1e-6) + TINY
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


def _slope_tail(
    slope: np.ndarray, weights: np.ndarray, reach: np.ndarray, growth: np.ndarray, order: int, count: int
) -> np.ndarray:
    """sum_j p_j |slope_j|_1 |y_j|^(J-1)/(J-1)! e^|y_j|: tail of the part of the numerator that is linear in tau."""
    term = weights * np.abs(slope).sum(axis=2) * reach ** (order - 1) / factorial(order - 1) * growth
    return term.sum(axis=1) * (1 + 2 * gamma(count + 8 + order)) + TINY


class _Moments:
    """sum_j p_j h_j y_j^k / k! for all |k| < order, in ball arithmetic, for any token function h.

    A term is a product of at most 3k + 4 rounded factors, and the sum over tokens may run in any order: the error is at most
    gamma_{tokens + 4 order + 8} times the same sum of absolute values.
    """

    def __init__(self, y: np.ndarray, weights: np.ndarray, order: int) -> None:
        boxes, count, self.n = y.shape
        self.order, self.weights = order, weights
        self.slack = gamma(count + 4 * order + 8) * 1.01
        powers = []
        for axis in range(self.n):
            rows = np.empty((boxes, order, count))
            rows[:, 0] = 1.0
            for k in range(1, order):
                rows[:, k] = rows[:, k - 1] * (y[:, :, axis] / k)
            powers.append(rows)
        self.right = np.swapaxes(powers[-1], 1, 2)  # (boxes, tokens, order)
        left = np.ones((boxes, 1, count))
        for rows in powers[:-1]:
            left = (left[:, :, None, :] * rows[:, None, :, :]).reshape(boxes, -1, count)
        self.left = left
        self.index = [tuple(monomials(self.n, d).T) for d in range(order)]

    def parts(self, h: np.ndarray) -> list[Ball]:
        weighted = self.weights * h
        boxes = len(weighted)
        shape = (boxes, *([self.order] * self.n))
        mid = ((self.left * weighted[:, None, :]) @ self.right).reshape(shape)
        rad = ((np.abs(self.left) * np.abs(weighted)[:, None, :]) @ np.abs(self.right)).reshape(
            shape
        ) * self.slack + TINY
        return [Ball(mid[(slice(None), *ix)], rad[(slice(None), *ix)]) for ix in self.index]


def _raise(parts: list[Ball], extra: list[Ball], axis: int, n: int) -> list[Ball]:
    """parts + tau_axis * extra, cut at the same degree."""
    out = [parts[0]]
    unit = np.zeros((1, n))
    unit[0, axis] = 1.0
    for d in range(1, len(parts)):
        out.append(parts[d] + homogeneous_product(extra[d - 1], Ball.exact(unit), n, d - 1, 1))
    return out


def _quotient(numerator: list[Ball], denominator: list[Ball], n: int) -> list[Ball]:
    reciprocal = inverse(denominator[0])
    q: list[Ball] = []
    for d in range(len(numerator)):
        rest = numerator[d]
        for i in range(d):
            rest = rest - homogeneous_product(q[i], denominator[d - i], n, i, d - i)
        q.append(rest * reciprocal)
    return q
