"""Rigorous enclosures of a core head, a softmax head without its normalisation: g(x) = sum_j e^{s_j(x)} v_j.

On the cell x = c + axes tau, with p_j the computed e^{s_j(c)} and y_j the computed <a_j, axes>: g = sum p_j v_j e^{<y_j, tau>}, each
term off by a factor e^{+-rho_j} for everything that p and y got wrong. The series is the one of the moments of the exponential;
what is cut at degree J is at most sum p_j |v_j| |y_j|^J / J! e^{|y_j|}.
"""

from __future__ import annotations

from math import factorial

import numpy as np

from verify.affine import AffineHead
from verify.ball import EXP_RELATIVE_ERROR, TINY, UP, Ball, U, exp, gamma
from verify.cells import Cells
from verify.compensated import accurate_affine
from verify.head import HeadSeries
from verify.moments import Moments
from verify.monomials import Jet

__all__ = ["MOST", "enclose_core"]

MOST = 600.0
"""Logits beyond this size are not handled: their exponentials leave float64's range."""


def enclose_core(head: AffineHead, cells: Cells, order: int) -> HeadSeries:
    """Enclose a core head over each cell by a polynomial of degree < order in tau and a remainder; nothing is known (NaN, inf) where
    logits are larger than MOST. Arguments and result are those of `verify.head.enclose_head`."""
    a, b = head.slopes, head.biases
    boxes, n = cells.centre.shape
    outputs = head.values.shape[1]
    with np.errstate(all="ignore"):
        far = np.maximum(np.abs(cells.lo), np.abs(cells.hi))
        size = far @ head.slope_scale.T + head.bias_scale
        high, low = accurate_affine(cells.centre, a, b)
        weights = exp(Ball(high, np.zeros_like(high))).mid
        y, y_error = cells.along(np.broadcast_to(a[None], (boxes, *a.shape)))
        reach = (np.abs(y).sum(axis=2) + y_error) * (1 + 8 * U * (n + 1)) + TINY
        rho = (
            np.abs(low)
            + (8 * (n + 1) ** 2 * U * U + head.parameter_gamma) * size
            + y_error
            + head.parameter_gamma * (cells.half @ head.slope_scale.T)
            + head.logit_slack
            + 12 * U
        ) * UP
        executed = (head.logit_gamma * size + 2 * EXP_RELATIVE_ERROR + head.logit_slack + head.executed_slack) * UP
        # a term below e^-550 all over the cell is bounded by 1e-200 (e^-550 < 1e-238), in floats as well, and left out
        faint = (high + reach + rho + executed <= -550) & (size <= 1e9)
        known = faint | ((size <= MOST) & (reach <= 100) & (rho <= 3) & (executed <= 3))
        weights = np.where(faint, 0.0, weights)
        reach, rho, executed = (np.where(faint | ~known, 0.0, x) for x in (reach, rho, executed))
        least = np.where(known, np.where(faint, 1e-200, 0.0), np.inf)
        grow = exp(Ball.exact(reach)).upper()
        largest = weights * grow * (1 + 16 * U) + least  # of the weight over the cell
        wrong = largest * np.expm1(rho) * (1 + 1e-6) + least
        run = largest * np.expm1(executed) * (1 + 1e-6) + least
        tail = largest * reach**order / factorial(order) * (1 + gamma(order + 8))
        moments = Moments(y, weights, order)
        slack = 1 + 2 * gamma(len(b) + 16)
        parts: list[Jet] = []
        remainder, rounding = np.empty((boxes, outputs)), np.empty((boxes, outputs))
        for i in range(outputs):
            v = np.abs(head.values[:, i])
            off = head.value_gamma * head.value_scale[:, i]
            parts.append(list(moments.parts(np.broadcast_to(head.values[:, i], weights.shape))))
            true = (largest + wrong) * (1 + 4 * U)
            remainder[:, i] = ((tail + wrong) @ v + true @ off) * slack + TINY
            # the executed sums: each weight off by `run`, and the roundings of the sum and of what follows
            moved = (run * (1 + np.expm1(rho))) @ (v + off)
            rounding[:, i] = (moved + head.output_gamma * 1.1 * (true @ (head.value_scale[:, i] + off))) * slack + TINY
        spread = (weights[:, :, None] * np.abs(head.values).max(axis=1)[None, :, None] * np.abs(y)).sum(axis=1)
    return HeadSeries(parts, remainder, rounding, spread)
