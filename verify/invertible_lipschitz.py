"""Lipschitz constants of attention and feed-forward blocks on balls, and how far they move the stream, in outward-rounded arithmetic.

Norm of a sequence: the largest Euclidean norm of its tokens. |.| of a matrix: spectral. Data tokens in the ball of radius R, prefix tokens in that of R_P,
R_y = max(R, R_P); any number of either.

Attention, one head. With U = W_O W_V, N = W_Q^T W_K / sqrt(d_k), weights w_s, mean y' and c_s = y_s - y', the output of token t moves along u by

    sum_{s data} w_s <delta_s, a + <a, c_s> q> + <delta_t, N C a>,      a = U^T u, q = N^T x_t, C = sum_s w_s c_s c_s^T.

Take norms of delta_s <= 1. The first sum is at most the root mean square of |a + <a, c> q|, and as the mean of c is 0 that is
(|a|^2 + |q|^2 a^T C a)^(1/2). So the head has Lipschitz constant at most

    sup (|U^T u|^2 + (|N| R)^2 a^T C a)^(1/2) + |N C a|    over unit u and C >= 0 with trace C <= R_y^2.

(The cruder |U| (1 + |N| R R_y + |N| R_y^2) follows by taking everything apart.) For any alpha, s > 0, by (x)^(1/2) <= alpha/2 + x/(2 alpha), by
b^T C a <= (s a^T C a + b^T C b / s)/2 for b = N^T e, and by a a^T <= U^T U, b b^T <= N^T N,

    Lip <= alpha/2 + |U|^2 / (2 alpha) + R_y^2 lambda_max(((|N| R)^2 / (2 alpha) + s/2) U^T U + N^T N / (2 s)),

and the largest eigenvalue is the squared norm of two matrices stacked. alpha and s are found numerically: no truth depends on them.

Several heads, with a_h = U_h^T u for one u, e and x_t: the least of

* the sum of the heads' constants;
* |W_O| times the root of the sum of squares of the heads' constants with U = W_V;
* jointly, for any D_h > 0, by Cauchy and Schwarz over the heads. The first part is at most sum_h |a_h| (1 + R_y^2 |N_h^T x|^2)^(1/2), so at most
  |[D_h U_h]| (sum_h D_h^-2 + R^2 R_y^2 |[N_h / D_h]|^2)^(1/2) with matrices side by side. In the second <e, N C a> = a^T C b <= R_y^2 (|a| |b| + <a, b>) / 2
  (the largest eigenvalue of the symmetric part of a b^T), so it is at most R_y^2 (|[D_h U_h]| |[N_h / D_h]| + |sum_h U_h N_h^T|) / 2;
* the same with another first part, good on small balls: weights of a head with logits in an interval of length rho_h = 2 |N_h| R R_y differ from uniform
  ones by at most 2 tanh(rho_h / 4) in l^1, hence |sum_h U_h| + sum_h 2 tanh(rho_h / 4) |U_h| + R R_y |[D_h U_h]| |[N_h / D_h]|.

Feed-forward blocks: `verify.invertible_feed_forward`.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import flint
import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize

from verify.ball import Ball, matmul
from verify.invertible_feed_forward import feed_forward_bounds
from verify.invertible_model import AttentionBlock, Block, ResidualModel, RunTimeout
from verify.precision import arb_bounds, working_precision
from verify.spectral import spectral_upper

__all__ = ["BlockBound", "block_bound", "stack_bounds"]

_BITS = 128


@dataclass(frozen=True)
class BlockBound:
    """radius: of the ball the block is looked at on; lipschitz: above its Lipschitz constant there, without the residual term; reach: above the
    norm of what it adds; after: above the norm of what comes out. inf where nothing is known."""

    radius: float
    lipschitz: float
    reach: float

    @property
    def after(self) -> float:
        return math.nextafter(self.radius + self.reach, math.inf)


def stack_bounds(model: ResidualModel, radius: float, prefix_radius: float) -> list[BlockBound]:
    """For every block the bounds on the ball that its input stays in, if the model's input is in the ball of `radius`. Stops early where
    a block's reach is not finite."""
    bounds = []
    with working_precision(_BITS), np.errstate(all="ignore"):
        for block in model.blocks:
            bounds.append(block_bound(block, radius, prefix_radius))
            radius = bounds[-1].after
            if not radius < math.inf:
                break
    return bounds


def block_bound(block: Block, radius: float, prefix_radius: float, deadline: float = math.inf) -> BlockBound:
    """The module's bounds for one block. Raises RunTimeout beyond `deadline` (time.monotonic()), looked at before every head."""
    with working_precision(_BITS), np.errstate(all="ignore"):
        if isinstance(block, AttentionBlock):
            return BlockBound(radius, *_attention(block, radius, max(radius, prefix_radius), deadline))
        return BlockBound(radius, *feed_forward_bounds(block, radius))


def _up(x: flint.arb) -> float:
    """A float above; inf for what is not known."""
    high = arb_bounds(x)[1]
    return high if high >= 0 else math.inf


def _in_time(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise RunTimeout


def _attention(block: AttentionBlock, radius: float, furthest: float, deadline: float) -> tuple[float, float]:
    heads = len(block.w_q)

    def each(matrices: list[Ball]) -> list[float]:
        found = []
        for u, n in zip(matrices, logits, strict=True):
            _in_time(deadline)
            found.append(_head(u, n, root, radius, furthest))
        return found

    products = [matmul(Ball.exact(o), Ball.exact(v)) for o, v in zip(block.w_o, block.w_v, strict=True)]
    logits = [matmul(Ball.exact(q.T), Ball.exact(k)) for q, k in zip(block.w_q, block.w_k, strict=True)]
    root = flint.arb(block.w_q.shape[1]).sqrt()
    lengths = [spectral_upper(p) for p in products]
    values = [spectral_upper(Ball.exact(v)) for v in block.w_v]
    joined = spectral_upper(Ball.exact(np.concatenate(list(block.w_o), axis=1)))
    beside = _beside(products, [1.0] * heads)
    single = sum((flint.arb(l) for l in each(products)), flint.arb(0))
    alone = each([Ball.exact(v) for v in block.w_v])
    together = flint.arb(joined) * sum((flint.arb(l) ** 2 for l in alone), flint.arb(0)).sqrt()
    reaches = (
        _up(flint.arb(furthest) * sum((flint.arb(l) for l in lengths), flint.arb(0))),
        _up(flint.arb(furthest) * flint.arb(beside) * flint.arb(heads).sqrt()),
        _up(flint.arb(furthest) * flint.arb(joined) * sum((flint.arb(l) ** 2 for l in values), flint.arb(0)).sqrt()),
    )
    _in_time(deadline)
    jointly = _jointly(products, logits, root, radius, furthest) if heads > 1 else math.inf
    return min(_up(single), _up(together), jointly), min(reaches)


def _beside(matrices: list[Ball], factors: list[float]) -> float:
    """A float above the norm of the matrices side by side, each times its factor."""
    scaled = [m.scale(f) for m, f in zip(matrices, factors, strict=True)]
    return spectral_upper(Ball(np.hstack([m.mid for m in scaled]), np.hstack([m.rad for m in scaled])))


def _jointly(products: list[Ball], logits: list[Ball], root: flint.arb, radius: float, furthest: float) -> float:
    """The two joint bounds, for D_h = 1 and for the D_h that makes D_h U_h and N_h / D_h equally long."""
    sizes = [(spectral_upper(u), spectral_upper(n)) for u, n in zip(products, logits, strict=True)]
    if not all(0 < size < 1e100 for pair in sizes for size in pair):
        return math.inf
    mixed = [matmul(u, Ball(n.mid.T, n.rad.T)) for u, n in zip(products, logits, strict=True)]
    crossed = flint.arb(spectral_upper(_added(mixed))) / root
    summed = flint.arb(spectral_upper(_added(products)))
    both = flint.arb(radius) * flint.arb(furthest)
    square = flint.arb(furthest) ** 2
    apart = sum((2 * (flint.arb(n) / root * both / 2).tanh() * flint.arb(u) for u, n in sizes), flint.arb(0))
    best = math.inf
    for factors in ([1.0] * len(sizes), [math.ldexp(1.0, round(math.log2(n / u) / 2)) for u, n in sizes]):
        outer = flint.arb(_beside(products, factors))
        inner = flint.arb(_beside(logits, [1 / f for f in factors])) / root  # powers of two: exact
        counted = sum((1 / flint.arb(f) ** 2 for f in factors), flint.arb(0))
        first = _up(outer * (counted + (both * inner) ** 2).sqrt())
        second = _up(summed + apart + both * outer * inner)
        best = min(best, _up(flint.arb(min(first, second)) + square * (outer * inner + crossed) / 2))
    return best


def _added(matrices: list[Ball]) -> Ball:
    total = matrices[0]
    for m in matrices[1:]:
        total = total + m
    return total


def _head(u: Ball, n: Ball, root: flint.arb, radius: float, furthest: float) -> float:
    """The bound for one head with output matrix u and W_Q^T W_K = n, minimised over alpha and s."""
    size_u, size_n = spectral_upper(u), spectral_upper(n)
    if not (size_u < math.inf and size_n < math.inf and furthest < math.inf):
        return math.inf
    if size_u == 0:
        return 0.0
    slope = flint.arb(size_n) / root
    plain = _up(flint.arb(size_u) * (1 + slope * flint.arb(radius) * furthest + slope * flint.arb(furthest) ** 2))
    scale = float(root.mid())
    moves = size_n / scale * radius
    if size_n == 0 or not (1e-100 < moves * furthest < 1e100 and 1e-100 < size_u < 1e100 and 1e-100 < furthest < 1e100):
        return plain
    uu, nn = u.mid.T @ u.mid, n.mid.T @ n.mid / scale**2

    def rough(logs: Float[np.ndarray, 2]) -> float:
        alpha, s = size_u * np.exp(logs[0]), moves / max(radius, 1e-300) / size_u * np.exp(logs[1])
        top = np.linalg.eigvalsh((moves**2 / (2 * alpha) + s / 2) * uu + nn / (2 * s))[-1]
        return float(alpha / 2 + size_u**2 / (2 * alpha) + furthest**2 * top)

    try:
        logs = minimize(
            rough, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-9, "maxiter": 200}
        ).x
    except (np.linalg.LinAlgError, ValueError):
        return plain
    alpha = flint.arb(float(size_u * np.exp(logs[0])))
    s = flint.arb(float(moves / max(radius, 1e-300) / size_u * np.exp(logs[1])))
    # floats above the square roots of the two factors, then one stack of matrices whose squared norm is the largest eigenvalue
    factor_u = _up(((slope * flint.arb(radius)) ** 2 / (2 * alpha) + s / 2).sqrt())
    factor_n = _up(1 / (root * (2 * s).sqrt()))
    if not (factor_u < math.inf and factor_n < math.inf):
        return plain
    upper, lower = u.scale(factor_u), n.scale(factor_n)
    top = spectral_upper(Ball(np.vstack([upper.mid, lower.mid]), np.vstack([upper.rad, lower.rad])))
    bound = alpha / 2 + flint.arb(size_u) ** 2 / (2 * alpha) + flint.arb(furthest) ** 2 * flint.arb(top) ** 2
    return min(_up(bound), plain)
