"""Upper bounds of spectral norms, rounding included: a numerical singular value decomposition, and a proof of what it may be off by."""

from __future__ import annotations

import math

import numpy as np

from verify.ball import UP, Ball, gamma, matmul

__all__ = ["frobenius_upper", "spectral_upper"]


def frobenius_upper(x: Ball) -> float:
    """A float above the Frobenius norm of every matrix in the ball; inf where nothing is known.

    Entries are scaled by the largest one, so that no square underflows or overflows; a sum of k squares of rounded quotients is
    low by at most gamma_{k+2}.
    """
    size = x.magnitude()
    largest = float(size.max(initial=0.0))
    if not math.isfinite(largest):  # NaN too
        return math.inf
    if largest == 0.0:
        return 0.0
    # a quotient that underflows is below 1e-290 and is made up for by adding that to each
    parts = size / largest + 1e-290
    total = float(np.sum(parts * parts)) * (1 + 2 * gamma(parts.size + 4))
    bound = largest * math.sqrt(total) * UP
    return bound if math.isfinite(bound) else math.inf


def spectral_upper(x: Ball) -> float:
    """A float above the spectral norm |A| of every matrix A in the ball; inf where nothing is known. Within a relative 1e-13 or so of it.

    With any U, s, V: A = U diag(s) V^T + E, so |A| <= |U| max|s| |V| + |E|_F, and |U|^2 = |U^T U| <= 1 + |U^T U - I|_F. A numerical
    decomposition makes E and U^T U - I as small as rounding; no truth depends on it. A is scaled by a power of two first.
    """
    if x.mid.size == 0:
        return 0.0
    with np.errstate(all="ignore"):
        largest = float(x.magnitude().max())
        if not math.isfinite(largest):
            return math.inf
        if largest == 0.0:
            return 0.0
        _, exponent = math.frexp(largest)
        if not -400 < exponent < 400:
            return frobenius_upper(x)
        scale = math.ldexp(1.0, -exponent)
        a = x.scale(scale)
        try:
            u, s, vt = np.linalg.svd(a.mid, full_matrices=False)
        except np.linalg.LinAlgError:
            return frobenius_upper(x)
        if not (np.isfinite(u).all() and np.isfinite(s).all() and np.isfinite(vt).all()):
            return frobenius_upper(x)
        product = matmul(matmul(Ball.exact(u), Ball.exact(np.diag(s))), Ball.exact(vt))
        rest = frobenius_upper(a - product)
        skew_u = frobenius_upper(matmul(Ball.exact(u.T), Ball.exact(u)) - Ball.exact(np.eye(len(s))))
        skew_v = frobenius_upper(matmul(Ball.exact(vt), Ball.exact(vt.T)) - Ball.exact(np.eye(len(s))))
        bound = (float(np.abs(s).max()) * math.sqrt((1 + skew_u) * (1 + skew_v)) * UP + rest) * UP
    least = min(bound / scale * UP, frobenius_upper(x))
    return least if math.isfinite(least) else math.inf
