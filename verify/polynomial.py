"""Bounds of a polynomial over the cube [-1, 1]^n through its Bernstein coefficients.

A polynomial lies between the least and the largest of its Bernstein coefficients on an interval, with an error that falls
quadratically in the interval's width (Cargo and Shisha 1966): each axis is cut into a few equal pieces.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from verify.ball import TINY, Ball, U, gamma
from verify.monomials import Jet, monomials

__all__ = ["sup_norm"]


@lru_cache(maxsize=64)
def _transform(order: int, pieces: int) -> tuple[np.ndarray, np.ndarray]:
    """(pieces * order, order) matrix from coefficients in tau^j, j < order, on [-1, 1] to Bernstein coefficients on each piece,
    and a bound of its rounding.

    On the piece tau = l + w u, u in [0, 1]: tau^j = sum_m C(j,m) l^(j-m) w^m u^m, and the coefficient of u^m contributes
    C(i,m)/C(order-1,m) to the i-th Bernstein coefficient.
    """
    n = order - 1
    rows = []
    for s in range(pieces):
        l, w = Fraction(2 * s, pieces) - 1, Fraction(2, pieces)
        powers = [[math.comb(j, m) * l ** (j - m) * w**m for m in range(j + 1)] for j in range(order)]
        for i in range(order):
            ratio = [Fraction(math.comb(i, m), math.comb(n, m)) for m in range(i + 1)]
            rows.append(
                [float(sum((ratio[m] * powers[j][m] for m in range(min(i, j) + 1)), Fraction(0))) for j in range(order)]
            )
    matrix = np.array(rows)
    return matrix, np.abs(matrix) * U + 1e-300  # float(Fraction) is correctly rounded


def sup_norm(parts: Jet, n: int, pieces: int = 3) -> Float[np.ndarray, " boxes"]:
    """Upper bounds of |p| over [-1, 1]^n. parts: homogeneous parts (boxes, K_d), degree 0 first, not all None.

    n <= 3: tensor Bernstein coefficients; beyond, |p_0| plus the sum of the magnitudes of all other coefficients.
    """
    order = len(parts)
    boxes = next(p.shape[0] for p in parts if p is not None)
    if n > 3 or order == 1:
        out = np.zeros(boxes)
        for part in parts:
            if part is not None:
                out = np.nextafter(out + part.magnitude().sum(axis=1) * (1 + gamma(part.shape[1])), np.inf)
        return out
    mid, rad = (np.zeros((boxes, *([order] * n))) for _ in range(2))
    for d, part in enumerate(parts):
        if part is None:
            continue
        index = tuple(monomials(n, d).T)
        mid[(slice(None), *index)] = part.mid
        rad[(slice(None), *index)] = part.rad
    matrix, rounding = _transform(order, pieces if n < 3 else 1)
    slack = gamma(order + 2)
    for axis in range(1, n + 1):
        mid, rad = np.moveaxis(mid, axis, -1), np.moveaxis(rad, axis, -1)
        size = np.abs(mid)
        new_rad = (rad @ (np.abs(matrix) + rounding).T + size @ (rounding + slack * np.abs(matrix)).T) * (
            1 + 4 * slack
        ) + TINY
        mid, rad = np.moveaxis(mid @ matrix.T, -1, axis), np.moveaxis(new_rad, -1, axis)
    return Ball(mid, rad).magnitude().reshape(boxes, -1).max(axis=1)
