"""The largest slope found on a ball, beside the bound that is proved: sampled, a lower estimate of a block's Lipschitz constant.

The derivative of token t's output along changes delta_s of all tokens is sum_s J_ts delta_s, so with |delta_s| <= 1 its length is at most
sup_u sum_s |J_ts^T u| over unit u. Alternating u and delta never lowers it; tokens climb by L-BFGS inside the ball, x = R v / (1 + |v|^2)^(1/2). The constants are for
sequences of any length: every token but t itself may stand for many copies, whose changes are equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.special import softmax
from scipy.stats import norm

from constructions.progress import reporting
from verify.invertible_lipschitz import block_bound
from verify.invertible_model import AttentionBlock, Block, FeedForwardBlock

__all__ = ["LipschitzCurve", "largest_slope", "lipschitz_curve", "slope_at"]


def slope_at(block: Block, x: Float[np.ndarray, "T d"], prefix: Float[np.ndarray, "N d"] | None = None) -> float:
    """The norm of the derivative of what the block adds to the first token (largest change for changes of all tokens by at most 1), at x, by
    power iteration from the first matrix's top direction: a lower estimate."""
    return _slope(_derivatives(block, x, prefix))[0]


def _derivatives(
    block: Block, x: Float[np.ndarray, "T d"], prefix: Float[np.ndarray, "N d"] | None, copies: int = 1
) -> Float[np.ndarray, "T d d"]:
    """J_0s for every token s, summed over its copies (the first token has none)."""
    if isinstance(block, FeedForwardBlock):
        h = block.w_1 @ x[0] + block.b_1
        slopes = {
            "relu": lambda: (h > 0).astype(float),
            "tanh": lambda: 1 - np.tanh(h) ** 2,
            "gelu": lambda: norm.cdf(h) + h * norm.pdf(h),
        }
        return ((block.w_2 * slopes[block.activation]()) @ block.w_1)[None]
    extra = 0 if prefix is None else len(prefix)
    y = x if prefix is None else np.vstack([prefix, x])
    out = np.zeros((len(x), x.shape[1], x.shape[1]))
    many = np.full(len(y), np.log(copies))
    many[extra] = 0.0
    for w_q, w_k, w_v, w_o in zip(block.w_q, block.w_k, block.w_v, block.w_o, strict=True):
        u, n = w_o @ w_v, w_q.T @ w_k / np.sqrt(len(w_q))
        q = n.T @ x[0]
        w = softmax(y @ q + many)
        centred = y - w @ y
        moved = w[extra:, None] * (centred[extra:] @ u.T)
        out += w[extra:, None, None] * u + moved[:, :, None] * q
        out[0] += u @ (centred.T * w) @ centred @ n.T
    return out


def _slope(j: Float[np.ndarray, "T d d"], turns: int = 30) -> tuple[float, Float[np.ndarray, " d"]]:
    best, at = 0.0, np.zeros(j.shape[1])
    starts = np.linalg.svd(j.sum(axis=0))[0][:, :2].T
    for u in starts:
        for _ in range(turns):
            back = np.einsum("sab,a->sb", j, u)
            sizes = np.linalg.norm(back, axis=1)
            toward = np.einsum("sab,sb->a", j, back / np.maximum(sizes, 1e-300)[:, None])
            length = float(np.linalg.norm(toward))
            if length <= best * (1 + 1e-10):
                break
            best, at = max(best, length), u
            u = toward / max(length, 1e-300)
    return best, at


def largest_slope(
    block: Block,
    radius: float,
    prefix_radius: float,
    *,
    tokens: int = 3,
    prefix: int = 0,
    copies: int = 1000,
    starts: int = 4,
    seed: int = 0,
) -> float:
    """The largest slope of a block found by ascent over `tokens` data tokens in the ball of `radius` and `prefix` tokens in that of `prefix_radius`: at most its
    Lipschitz constant there. copies: what every token but the first stands for, up to so long sequences are looked at. Deterministic for a seed."""
    rng = np.random.default_rng(seed)
    d = block.dimension
    count = 1 if isinstance(block, FeedForwardBlock) else tokens + prefix
    limits = np.where(np.arange(count) < tokens, radius, prefix_radius)[:, None]

    def points(flat: Float[np.ndarray, " p"]) -> Float[np.ndarray, "count d"]:
        v = flat.reshape(count, d)
        return limits * v / np.sqrt(1 + (v * v).sum(axis=1, keepdims=True))

    def value(flat: Float[np.ndarray, " p"]) -> float:
        y = points(flat)
        return -_slope(_derivatives(block, y[:tokens], y[tokens:] if prefix else None, copies), turns=8)[0]

    best = 0.0
    for start in _starts(block, count, tokens, starts, rng):
        found = minimize(value, start.ravel(), method="L-BFGS-B", options={"maxiter": 30, "maxfun": 60 * count * d})
        y = points(found.x)
        best = max(best, _slope(_derivatives(block, y[:tokens], y[tokens:] if prefix else None, copies))[0])
    return best


def _starts(
    block: Block, count: int, tokens: int, many: int, rng: np.random.Generator
) -> list[Float[np.ndarray, "count d"]]:
    """Random points well inside, and for attention the configuration that the bound has in mind: opposite tokens along the direction that U and N
    both stretch, and a query that weighs them equally."""
    d = block.dimension
    found = [3 * rng.standard_normal((count, d)) / np.sqrt(d) * 2 for _ in range(many)]
    if not isinstance(block, AttentionBlock):
        return found
    for w_q, w_k, w_v, w_o in zip(block.w_q, block.w_k, block.w_v, block.w_o, strict=True):
        u, n = w_o @ w_v, w_q.T @ w_k
        both = u.T @ u / max(np.linalg.norm(u, 2) ** 2, 1e-300) + n.T @ n / max(np.linalg.norm(n, 2) ** 2, 1e-300)
        c = np.linalg.eigh(both)[1][:, -1]
        left, _, _ = np.linalg.svd(n - np.outer(n @ c, c))
        y = 0.1 * rng.standard_normal((count, d))
        y[0] += 10 * left[:, 0]
        y[1:] += 10 * np.where(np.arange(count - 1) % 2, 1.0, -1.0)[:, None] * c
        found.append(y)
    return found


@dataclass(frozen=True, eq=False, repr=False)
class LipschitzCurve:
    """A block's Lipschitz constant against the radius of the ball: proved upper bounds, and the largest slopes found (sampled)."""

    block: Block
    radii: Float[np.ndarray, " k"]
    bounds: Float[np.ndarray, " k"]
    slopes: Float[np.ndarray, " k"]

    @property
    def factor(self) -> float:
        """The largest ratio of bound to slope found."""
        return float((self.bounds / np.maximum(self.slopes, 1e-300)).max())

    def __repr__(self) -> str:
        return f"<LipschitzCurve {self.block.name}: radii {self.radii[0]:.3g} to {self.radii[-1]:.3g}, bound at most {self.factor:.3g} times the slope found>"


def lipschitz_curve(
    block: Block,
    radii: Sequence[float],
    *,
    prefix_share: float = 1.0,
    tokens: int = 3,
    prefix: int = 0,
    starts: int = 2,
    seed: int = 0,
    progress: bool | None = None,
) -> LipschitzCurve:
    """Bounds and sampled slopes at each radius; prefix tokens in the ball of prefix_share * radius."""
    bounds, slopes = [], []
    with reporting(progress) as report:
        for k, radius in enumerate(radii):
            report(k / len(radii), f"radius {radius:.3g}")
            bounds.append(block_bound(block, radius, prefix_share * radius).lipschitz)
            slopes.append(
                largest_slope(
                    block, radius, prefix_share * radius, tokens=tokens, prefix=prefix, starts=starts, seed=seed
                )
            )
    return LipschitzCurve(block, np.array(radii, dtype=float), np.array(bounds), np.array(slopes))
