"""Stacks of residual blocks in float64: made at random, and run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.special import softmax
from scipy.stats import norm

from verify.invertible_model import AttentionBlock, Block, FeedForwardBlock, ResidualModel
from verify.invertible_preimage import fitted_prefixes
from verify.statement import StatementError

__all__ = ["added", "apply_model", "prefix_of_blocks", "random_model", "random_prefixes"]


def random_model(
    d: int,
    layers: int,
    *,
    heads: int = 2,
    hidden: int | None = None,
    activation: str = "gelu",
    scale: float = 1.0,
    seed: int,
) -> ResidualModel:
    """`layers` times an attention block and a feed-forward block with Gaussian weights; heads of size d // heads, hidden width 4 d.

    scale multiplies W_O and W_2, hence every block's Lipschitz constant. Raises StatementError (a ValueError) for an activation that is not known, or
    heads that do not divide d.
    """
    if heads < 1 or d % heads:
        raise StatementError(f"heads = {heads}: must divide d = {d}")
    rng = np.random.default_rng(seed)
    m, size = hidden or 4 * d, d // heads
    blocks: list[Block] = []
    for _ in range(layers):
        w_q, w_k, w_v = (rng.standard_normal((heads, size, d)) / np.sqrt(d) for _ in range(3))
        blocks.append(AttentionBlock(w_q, w_k, w_v, scale * rng.standard_normal((heads, d, size)) / np.sqrt(d)))
        w_1, w_2 = rng.standard_normal((m, d)) / np.sqrt(d), scale * rng.standard_normal((d, m)) / np.sqrt(m)
        blocks.append(FeedForwardBlock(w_1, 0.1 * rng.standard_normal(m), w_2, np.zeros(d), activation))
    return ResidualModel(tuple(blocks))


def random_prefixes(
    model: ResidualModel, tokens: int, radius: float, *, seed: int
) -> tuple[Float[np.ndarray, "N d"], ...]:
    """Prefix tokens of norm just below `radius` in random directions, for every attention block."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in (block for block in model.blocks if isinstance(block, AttentionBlock)):
        p = rng.standard_normal((tokens, model.dimension))
        found.append(radius * (1 - 1e-12) * p / np.linalg.norm(p, axis=1, keepdims=True))
    return tuple(found)


_FLOAT = {"relu": lambda x: np.maximum(x, 0.0), "tanh": np.tanh, "gelu": lambda x: x * norm.cdf(x)}


def added(
    block: Block, x: Float[np.ndarray, "T d"], prefix: Float[np.ndarray, "N d"] | None = None
) -> Float[np.ndarray, "T d"]:
    """What a block adds to the stream, in float64."""
    if isinstance(block, FeedForwardBlock):
        return _FLOAT[block.activation](x @ block.w_1.T + block.b_1) @ block.w_2.T + block.b_2
    every = x if prefix is None else np.vstack([prefix, x])
    queries, keys, values = (
        np.einsum("hkd,td->htk", w, t) for w, t in ((block.w_q, x), (block.w_k, every), (block.w_v, every))
    )
    share = softmax(np.einsum("htk,hsk->hts", queries, keys) / np.sqrt(block.w_q.shape[1]), axis=-1)
    return np.einsum("hdv,hts,hsv->td", block.w_o, share, values)


def prefix_of_blocks(
    model: ResidualModel, prefixes: Sequence[Float[np.ndarray, "N d"]] | None
) -> list[Float[np.ndarray, "N d"] | None]:
    """The prefix of every block, None for feed-forward blocks and where there is none. Raises StatementError for a number that does not fit."""
    empty = [np.zeros((0, model.dimension)) for block in model.blocks if isinstance(block, AttentionBlock)]
    left = list(fitted_prefixes(model, empty if prefixes is None else prefixes))
    return [left.pop(0) if isinstance(block, AttentionBlock) else None for block in model.blocks]


def apply_model(
    model: ResidualModel, x: Float[np.ndarray, "T d"], prefixes: Sequence[Float[np.ndarray, "N d"]] | None = None
) -> Float[np.ndarray, "T d"]:
    """The model's output in float64 (nothing is proved here). prefixes: one array of tokens for each attention block."""
    for block, prefix in zip(model.blocks, prefix_of_blocks(model, prefixes), strict=True):
        x = x + added(block, x, prefix)
    return x
