"""Affine forms in doubled working precision: error-free products and sums (Dekker 1971, Knuth 1969; Ogita, Rump, Oishi 2005)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

__all__ = ["accurate_affine"]

_SPLIT = 2.0**27 + 1


def _product(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """p + e = x y exactly, p = fl(x y), apart from overflow (NaN) and underflow (below 2^-1020 in all)."""
    p = x * y
    xs, ys = _SPLIT * x, _SPLIT * y
    xh, yh = xs - (xs - x), ys - (ys - y)
    xl, yl = x - xh, y - yh
    return p, ((xh * yh - p) + xh * yl + xl * yh) + xl * yl


def _sum(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """s + e = x + y exactly, s = fl(x + y)."""
    s = x + y
    z = s - x
    return s, (x - (s - z)) + (y - z)


def accurate_affine(
    x: Float[np.ndarray, "boxes n"], a: Float[np.ndarray, "tokens n"], b: Float[np.ndarray, " tokens"]
) -> tuple[Float[np.ndarray, "boxes tokens"], Float[np.ndarray, "boxes tokens"]]:
    """high + low close to <a_j, x> + b_j.

    The products and sums are error-free; only the 2n + 1 error terms, each at most u (n + 1) times the sum S of the absolute
    values of the terms, are added up with rounding: |high + low - exact| <= (2n + 1) u * (2n + 1) u S (1 + O(u)) <= 8 (n + 1)^2 u^2 S.
    """
    high, low = _product(x[:, :1], a[:, 0][None])
    for i in range(1, x.shape[1]):
        p, error = _product(x[:, i : i + 1], a[:, i][None])
        high, rest = _sum(high, p)
        low = low + (rest + error)
    high, rest = _sum(high, np.broadcast_to(b[None], high.shape))
    return high, low + rest
