"""Moments of a softmax head over cells: the sums of which a Taylor series of a head is made."""

from __future__ import annotations

from math import factorial

import numpy as np

from verify.ball import TINY, Ball, gamma, inverse
from verify.monomials import homogeneous_product, monomials

__all__ = ["Moments", "quotient", "raised", "slope_tail"]


def slope_tail(
    slope: np.ndarray, weights: np.ndarray, reach: np.ndarray, growth: np.ndarray, order: int, count: int
) -> np.ndarray:
    """sum_j p_j |slope_j|_1 |y_j|^(J-1)/(J-1)! e^|y_j|: tail of the part of the numerator that is linear in tau."""
    term = weights * np.abs(slope).sum(axis=2) * reach ** (order - 1) / factorial(order - 1) * growth
    return term.sum(axis=1) * (1 + 2 * gamma(count + 8 + order)) + TINY


class Moments:
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


def raised(parts: list[Ball], extra: list[Ball], axis: int, n: int) -> list[Ball]:
    """parts + tau_axis * extra, cut at the same degree."""
    out = [parts[0]]
    unit = np.zeros((1, n))
    unit[0, axis] = 1.0
    for d in range(1, len(parts)):
        out.append(parts[d] + homogeneous_product(extra[d - 1], Ball.exact(unit), n, d - 1, 1))
    return out


def quotient(numerator: list[Ball], denominator: list[Ball], n: int) -> list[Ball]:
    reciprocal = inverse(denominator[0])
    q: list[Ball] = []
    for d in range(len(numerator)):
        rest = numerator[d]
        for i in range(d):
            rest = rest - homogeneous_product(q[i], denominator[d - i], n, i, d - i)
        q.append(rest * reciprocal)
    return q
