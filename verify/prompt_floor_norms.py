"""Norms of vectors and singular values of matrices, enclosed in outward-rounded float64."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from verify.ball import TINY, UP, Ball, U, gamma, matmul

__all__ = ["norms_above", "norms_below", "singular_values"]

Array = Float[np.ndarray, "..."]


def norms_above(x: Ball) -> Array:
    """Floats above the Euclidean norm of each row (last axis); NaN or inf where nothing is known.

    Entries are divided by the largest, so that no square overflows; what a quotient's square loses to underflow is under its bound's slack.
    """
    return np.asarray(_norms(x.magnitude()) * (1 + 4 * gamma(x.shape[-1] + 8)) + TINY)


def norms_below(x: Ball) -> Array:
    """Floats below the Euclidean norm of each row, at least 0; NaN where nothing is known."""
    least = np.maximum(np.nextafter(np.abs(x.mid) - x.rad, -np.inf), 0.0)
    return np.asarray(np.maximum(_norms(least) * (1 - 4 * gamma(x.shape[-1] + 8)) - TINY, 0.0))


def _norms(entries: Array) -> Array:
    largest = entries.max(axis=-1)
    scale = np.where(largest > 0, largest, 1.0)
    return np.asarray(scale * np.sqrt(((entries / scale[..., None]) ** 2).sum(axis=-1)))


def singular_values(a: Ball) -> tuple[float, float]:
    """(lo, hi) with lo |x| <= |A x| <= hi |x| for every x and every matrix of the ball (rows, columns); lo = 0 if no more is known.

    With V from a floating-point singular value decomposition, B = A V and E = V^T V - I, |E| <= e in the row-sum norm,
    (1 - e)|x|^2 <= |V x|^2 <= (1 + e)|x|^2, and Gershgorin's discs of B^T B bound its eigenvalues. Nothing is assumed of V: a
    poor V gives poor bounds.
    """
    columns = a.shape[1]
    if not (np.isfinite(a.mid).all() and np.isfinite(a.rad).all()):
        return 0.0, math.inf
    largest = float(np.abs(a.mid).max())
    if not 1e-100 < largest < 1e100:  # squares would leave the range of float64
        return 0.0, float(norms_above(Ball(a.mid.ravel(), a.rad.ravel())))
    try:
        v = np.linalg.svd(a.mid, full_matrices=True)[2].T
    except np.linalg.LinAlgError:
        v = np.eye(columns)
    basis = Ball.exact(np.ascontiguousarray(v))
    b = matmul(a, basis)
    gram = matmul(Ball(b.mid.T, b.rad.T), b)
    error = matmul(Ball(v.T, np.zeros_like(v.T)), basis) - Ball.exact(np.eye(columns))
    loose = 1 + 4 * gamma(columns + 2)
    e = float(error.magnitude().sum(axis=1).max()) * loose
    if not e < 0.5:
        return 0.0, float(norms_above(Ball(a.mid.ravel(), a.rad.ravel())))
    off = np.where(np.eye(columns, dtype=bool), 0.0, gram.magnitude()).sum(axis=1) * loose
    high = float((np.diag(gram.magnitude()) + off).max()) / (1 - e) * UP
    low = float((np.diag(gram.lower()) - off * UP).min()) / (1 + e)
    lo = math.sqrt(low) * (1 - 32 * U) if low > 0 else 0.0  # 32u: the few roundings of the lines above
    hi = math.sqrt(high) * UP
    return (lo, hi) if lo <= hi else (0.0, math.inf)
