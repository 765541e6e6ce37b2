"""Lipschitz constants of feed-forward blocks W_2 act(W_1 x + b_1) + b_2 on balls around the origin, rounding included.

For x, x' in the ball of radius R, the i-th hidden unit's argument lies within b_i +- |w_i| R, so its difference quotient lies in [l_i, h_i], known from
the activation; with centres c_i and half widths r_i the block's increment is W_2 (c * y + r * w) with y = W_1 (x - x') and |w_i| <= |y_i|. Three bounds of its
norm over |x - x'| = 1; the least counts:

* |W_2 diag(c) W_1| + |W_2 diag(r)^(1/2)| |diag(r)^(1/2) W_1|, and the same with c = 0 and r = max(|l|, |h|);
* for any mu_i > 0 (Fazlyab et al. 2019, one hidden layer): as sum_i mu_i^2 (y_i^2 - w_i^2) >= 0 may be added, the square is at most
  max_{x, v} |A x + B v|^2 + |diag(mu) W_1 x|^2 - |v|^2 over |x| = 1, A = W_2 diag(c) W_1, B = W_2 diag(r / mu), v = mu * w. For |B| < 1 the maximum over v is
  x^T A^T K A x with K = (1 - B B^T)^(-1), so it is lambda_max(W_1^T diag(mu^2) W_1 + A^T K A). A numerical inverse K' with
  E = (1 - B B^T) K' - 1 is off by |K - K'| = |K E| <= |E| / (1 - |B|^2). The mu are found numerically: no truth depends on them.
"""

from __future__ import annotations

import math

import flint
import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize

from verify.activations import activation
from verify.ball import Ball, inverse, matmul
from verify.invertible_model import FeedForwardBlock
from verify.precision import arb_bounds
from verify.spectral import spectral_upper

__all__ = ["feed_forward_bounds"]

Vector = Float[np.ndarray, " m"]


def feed_forward_bounds(block: FeedForwardBlock, radius: float) -> tuple[float, float]:
    """Floats above the Lipschitz constant on the ball of `radius` and above the norm of what the block adds there; inf where nothing is known.

    Call inside `working_precision`.
    """
    least, most = _slopes(block, radius)
    middle = (least + most) / 2
    half = np.where(least == most, 0.0, np.nextafter(np.maximum(most - middle, middle - least), np.inf))
    lipschitz = min(
        _apart(block, middle, half),
        _apart(block, np.zeros_like(middle), np.maximum(np.abs(least), np.abs(most))),
        _together(block, middle, half),
    )
    act = activation(block.activation)
    start = [act.value(flint.arb(float(b))) for b in block.b_1]
    at_zero = [
        sum((flint.arb(float(w)) * v for w, v in zip(row, start, strict=True)), flint.arb(float(b)))
        for row, b in zip(block.w_2, block.b_2, strict=True)
    ]
    first = sum((v**2 for v in at_zero), flint.arb(0)).sqrt()
    return lipschitz, _up(first + flint.arb(lipschitz) * flint.arb(radius))


def _up(x: flint.arb) -> float:
    high = arb_bounds(x)[1]
    return high if high >= 0 else math.inf


def _slopes(block: FeedForwardBlock, radius: float) -> tuple[Vector, Vector]:
    """Floats below and above all difference quotients of each hidden unit's activation."""
    act = activation(block.activation)
    found = []
    for row, offset in zip(block.w_1, block.b_1, strict=True):
        length = sum((flint.arb(float(w)) ** 2 for w in row), flint.arb(0)).sqrt() * flint.arb(radius)
        low, high = arb_bounds(flint.arb(float(offset)) - length)[0], arb_bounds(flint.arb(float(offset)) + length)[1]
        found.append(act.slopes(low if low == low else -math.inf, high if high == high else math.inf))
    return np.array([low for low, _ in found]), np.array([high for _, high in found])


def _rows(x: Ball) -> Ball:
    return Ball(x.mid[:, None], x.rad[:, None])


def _apart(block: FeedForwardBlock, centre: Vector, width: Vector) -> float:
    """The first bound."""
    widths = Ball.exact(np.where(width > 0, np.nextafter(np.sqrt(width), np.inf), 0.0))
    around = spectral_upper(matmul(Ball.exact(block.w_2) * Ball.exact(centre), Ball.exact(block.w_1)))
    left = spectral_upper(Ball.exact(block.w_2) * widths)
    right = spectral_upper(Ball.exact(block.w_1) * _rows(widths))
    return _up(flint.arb(around) + flint.arb(left) * flint.arb(right))


def _together(block: FeedForwardBlock, centre: Vector, width: Vector) -> float:
    """The last bound."""
    w_1, w_2 = Ball.exact(block.w_1), Ball.exact(block.w_2)
    a = matmul(w_2 * Ball.exact(centre), w_1)
    mu = _multipliers(block.w_1, block.w_2, a.mid, width)
    if mu is None:
        return math.inf
    b = w_2 * (Ball.exact(width) * inverse(Ball.exact(mu)))
    size_a, size_b = spectral_upper(a), spectral_upper(b)
    if not (size_b < 1 and size_a < math.inf):
        return math.inf
    unit = Ball.exact(np.eye(len(block.w_2)))
    gram = unit - matmul(b, Ball(b.mid.T, b.rad.T))
    try:
        near = Ball.exact(np.linalg.inv(gram.mid))
    except np.linalg.LinAlgError:
        return math.inf
    off = flint.arb(spectral_upper(matmul(gram, near) - unit)) / (1 - flint.arb(size_b) ** 2)
    weighed = w_1 * _rows(Ball.exact(mu))
    form = matmul(Ball(weighed.mid.T, weighed.rad.T), weighed) + matmul(Ball(a.mid.T, a.rad.T), matmul(near, a))
    return _up((flint.arb(spectral_upper(form)) + flint.arb(size_a) ** 2 * off).sqrt())


def _multipliers(
    w_1: Float[np.ndarray, "m d"], w_2: Float[np.ndarray, "d m"], a: Float[np.ndarray, "d d"], width: Vector
) -> Vector | None:
    """mu that make the last bound small: lambda = mu^2 by L-BFGS on a smooth maximum of the eigenvalues, from the best multiple of the half widths. None where
    weights are too large or small for that."""
    sizes = [float(np.abs(x).max()) for x in (w_1, w_2)]
    if not all(1e-60 < s < 1e60 for s in sizes) or not width.max() > 1e-60:
        return None
    r = np.maximum(width, 1e-9 * width.max())

    def value(logs: Vector) -> tuple[float, Vector]:
        lam = np.exp(logs)
        taken = (w_2 * (r * r / lam)) @ w_2.T
        most = float(np.linalg.eigvalsh(taken)[-1])
        if not most < 1 - 1e-9:
            return 1e200, np.zeros_like(logs)  # outside: the line search turns back
        k = np.linalg.inv(np.eye(len(w_2)) - taken)
        eigen, vectors = np.linalg.eigh(w_1.T @ (lam[:, None] * w_1) + a.T @ k @ a)
        sharp = 60 / eigen[-1]
        share = np.exp(sharp * (eigen - eigen[-1]))
        top = share > 1e-8
        level = eigen[-1] + math.log(share.sum()) / sharp
        x = vectors[:, top]
        moved = (w_1 @ x) ** 2 - (r[:, None] * (w_2.T @ (k @ (a @ x))) / lam[:, None]) ** 2
        return float(level), lam * (moved @ (share[top] / share.sum()))

    try:
        least = float(np.linalg.norm(w_2 * np.sqrt(r), 2)) ** 2
        starts = [np.log(least * s * r) for s in np.geomspace(1.02, 10, 8)]
        start = min(starts, key=lambda logs: value(logs)[0])
        logs = minimize(value, start, jac=True, method="L-BFGS-B", options={"maxiter": 60}).x
    except (np.linalg.LinAlgError, ValueError):
        return None
    mu = np.exp(logs / 2)
    return mu if np.isfinite(mu).all() and mu.min() > 1e-100 else None
