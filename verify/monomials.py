"""Homogeneous polynomials in n variables over many boxes: the parts that jets and series are made of."""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations_with_replacement

import numpy as np

from verify.ball import TINY, UP, Ball, gamma

__all__ = ["Jet", "homogeneous_product", "monomials"]

Jet = list[Ball | None]
"""Homogeneous parts by degree, each (boxes, K_d); None is identically zero."""


@lru_cache(maxsize=256)
def monomials(n: int, degree: int) -> np.ndarray:
    """Exponents (K_d, n) of the monomials of one degree, in a fixed order."""
    rows = []
    for combo in combinations_with_replacement(range(n), degree):
        rows.append([combo.count(i) for i in range(n)])
    return np.array(rows, dtype=np.int64).reshape(-1, n)


@lru_cache(maxsize=1024)
def _product_matrix(n: int, d1: int, d2: int) -> np.ndarray:
    """(K_d1 * K_d2, K_{d1+d2}) zero-one matrix: which product monomial a pair of monomials contributes to."""
    target = {tuple(row): i for i, row in enumerate(monomials(n, d1 + d2))}
    m1, m2 = monomials(n, d1), monomials(n, d2)
    out = np.zeros((len(m1) * len(m2), len(target)))
    for i, a in enumerate(m1):
        for j, b in enumerate(m2):
            out[i * len(m2) + j, target[tuple(a + b)]] = 1.0
    return out


def homogeneous_product(a: Ball, b: Ball, n: int, d1: int, d2: int) -> Ball:
    """Product of homogeneous parts: (boxes, K_d1) x (boxes, K_d2) -> (boxes, K_{d1+d2})."""
    if d1 == 0 or d2 == 0 or n == 1:
        return a * b
    matrix = _product_matrix(n, d1, d2)
    boxes = max(a.shape[0], b.shape[0])
    pairs = a.shape[1] * b.shape[1]

    def collect(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x[:, :, None] * y[:, None, :]).reshape(boxes, pairs) @ matrix

    am, bm = np.abs(a.mid), np.abs(b.mid)
    slack = gamma(min(a.shape[1], b.shape[1]) + 2)
    rad = collect(am, b.rad + slack * bm) + collect(a.rad, bm + b.rad)
    return Ball(collect(a.mid, b.mid), rad * (1 + 4 * slack) * UP + pairs * TINY)
