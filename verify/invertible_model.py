"""Stacks of residual attention and residual feed-forward blocks, as arrays: sequence in, sequence of the same length out.

    attention      x_t + sum_h W_O^h sum_s softmax_s(<W_Q^h x_t, W_K^h y_s> / sqrt(d_k)) W_V^h y_s,   y: the block's prefix tokens, then all x_s
    feed-forward   x_t + W_2 act(W_1 x_t + b_1) + b_2

No normalisation layers, and the attention is not masked (the Lipschitz bounds hold for masked attention as well: it leaves out some y_s).
Every attention block has a prefix of its own, tokens in the stream's space.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import flint
import numpy as np
from jaxtyping import Float

from verify.activations import activation
from verify.statement import StatementError
from verify.stored_arrays import stored_array

__all__ = [
    "AttentionBlock",
    "Block",
    "FeedForwardBlock",
    "ResidualModel",
    "Rows",
    "RunTimeout",
    "block_output",
    "rows_of",
]

Rows = list[list[flint.arb]]
"""T tokens of d balls."""


class RunTimeout(Exception):
    """The caller's seconds are over."""


@dataclass(frozen=True, eq=False)
class AttentionBlock:
    """Heads first. w_q, w_k: (H, d_k, d); w_v: (H, d_v, d); w_o: (H, d, d_v). Raises StatementError for other shapes or entries not finite."""

    w_q: Float[np.ndarray, "H d_k d"]
    w_k: Float[np.ndarray, "H d_k d"]
    w_v: Float[np.ndarray, "H d_v d"]
    w_o: Float[np.ndarray, "H d d_v"]

    def __post_init__(self) -> None:
        w_q = stored_array("w_q", self.w_q, (None, None, None))
        heads, _, d = w_q.shape
        w_v = stored_array("w_v", self.w_v, (heads, None, d))
        if 0 in (*w_q.shape, *w_v.shape):
            raise StatementError(f"w_q, w_v: shapes {w_q.shape} and {w_v.shape}; none may be empty")
        object.__setattr__(self, "w_q", w_q)
        object.__setattr__(self, "w_k", stored_array("w_k", self.w_k, w_q.shape))
        object.__setattr__(self, "w_v", w_v)
        object.__setattr__(self, "w_o", stored_array("w_o", self.w_o, (heads, d, w_v.shape[1])))

    name = "attention"

    @property
    def dimension(self) -> int:
        return self.w_q.shape[2]


@dataclass(frozen=True, eq=False)
class FeedForwardBlock:
    """w_1: (m, d); b_1: (m,); w_2: (d, m); b_2: (d,); activation: a name of `verify.activations`. Raises StatementError."""

    w_1: Float[np.ndarray, "m d"]
    b_1: Float[np.ndarray, " m"]
    w_2: Float[np.ndarray, "d m"]
    b_2: Float[np.ndarray, " d"]
    activation: str = "relu"

    def __post_init__(self) -> None:
        w_1 = stored_array("w_1", self.w_1, (None, None))
        m, d = w_1.shape
        if 0 in w_1.shape:
            raise StatementError(f"w_1: shape {w_1.shape}; it may not be empty")
        object.__setattr__(self, "w_1", w_1)
        object.__setattr__(self, "b_1", stored_array("b_1", self.b_1, (m,)))
        object.__setattr__(self, "w_2", stored_array("w_2", self.w_2, (d, m)))
        object.__setattr__(self, "b_2", stored_array("b_2", self.b_2, (d,)))
        activation(self.activation)

    name = "feed-forward"

    @property
    def dimension(self) -> int:
        return self.w_1.shape[1]


Block = AttentionBlock | FeedForwardBlock


@dataclass(frozen=True, eq=False)
class ResidualModel:
    """Blocks in order. Raises StatementError where there are none, or widths differ, naming the block."""

    blocks: tuple[Block, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))
        if not self.blocks:
            raise StatementError("blocks: none; a model needs at least one")
        for k, block in enumerate(self.blocks):
            if not isinstance(block, (AttentionBlock, FeedForwardBlock)):
                raise StatementError(
                    f"block {k + 1}: {type(block).__name__}, expected AttentionBlock or FeedForwardBlock"
                )
            if block.dimension != self.dimension:
                raise StatementError(f"block {k + 1}: width {block.dimension}, but block 1 has {self.dimension}")

    @property
    def dimension(self) -> int:
        """d."""
        return self.blocks[0].dimension

    def block_name(self, k: int) -> str:
        """As in "block 2 (attention)"."""
        return f"block {k + 1} ({self.blocks[k].name})"

    def __repr__(self) -> str:
        return f"<ResidualModel d = {self.dimension}: {', '.join(block.name for block in self.blocks)}>"

    def stored(self) -> tuple[list[str], dict[str, np.ndarray]]:
        """For each block "attention" or its activation, and the arrays by name."""
        names = [block.activation if isinstance(block, FeedForwardBlock) else block.name for block in self.blocks]
        arrays = {
            f"block{k}.{f.name}": getattr(block, f.name)
            for k, block in enumerate(self.blocks)
            for f in fields(block)
            if f.name != "activation"
        }
        return names, arrays

    @staticmethod
    def restored(names: Sequence[str], arrays: Mapping[str, np.ndarray]) -> ResidualModel:
        """The inverse of `stored`. Raises KeyError for a missing array, StatementError for what fits no model."""
        blocks: list[Block] = []
        for k, name in enumerate(names):
            kind = AttentionBlock if name == AttentionBlock.name else FeedForwardBlock
            parts: dict[str, Any] = {
                f.name: arrays[f"block{k}.{f.name}"] for f in fields(kind) if f.name != "activation"
            }
            blocks.append(
                AttentionBlock(**parts) if kind is AttentionBlock else FeedForwardBlock(**parts, activation=name)
            )
        return ResidualModel(tuple(blocks))


def rows_of(x: Float[np.ndarray, "T d"]) -> Rows:
    """Exact balls."""
    return [[flint.arb(float(v)) for v in row] for row in x]


def block_output(block: Block, x: Rows, prefix: Float[np.ndarray, "N d"] | None, deadline: float) -> Rows:
    """What the block adds to the stream (without the residual term) at every token, at the precision of the caller's context. Raises RunTimeout."""
    if time.monotonic() > deadline:
        raise RunTimeout
    tokens = flint.arb_mat(x)
    if isinstance(block, FeedForwardBlock):
        act = activation(block.activation).value
        hidden = (tokens * flint.arb_mat(rows_of(block.w_1)).transpose()).tolist()
        hidden = [[act(h + flint.arb(float(b))) for h, b in zip(row, block.b_1, strict=True)] for row in hidden]
        out = (flint.arb_mat(hidden) * flint.arb_mat(rows_of(block.w_2)).transpose()).tolist()
        return [[o + flint.arb(float(b)) for o, b in zip(row, block.b_2, strict=True)] for row in out]
    every = flint.arb_mat(([] if prefix is None else rows_of(prefix)) + x)
    total = flint.arb_mat(len(x), block.dimension)
    for w_q, w_k, w_v, w_o in zip(block.w_q, block.w_k, block.w_v, block.w_o, strict=True):
        if time.monotonic() > deadline:
            raise RunTimeout
        queries = tokens * flint.arb_mat(rows_of(w_q)).transpose()
        keys = every * flint.arb_mat(rows_of(w_k)).transpose()
        values = every * flint.arb_mat(rows_of(w_v)).transpose() * flint.arb_mat(rows_of(w_o)).transpose()
        logits = (queries * keys.transpose() * (1 / flint.arb(len(w_q)).sqrt())).tolist()
        total = total + flint.arb_mat([_softmax(row) for row in logits]) * values
    return total.tolist()


def _softmax(logits: list[flint.arb]) -> list[flint.arb]:
    largest = max((float(l.mid()) for l in logits if l.is_finite()), default=0.0)
    shift = flint.arb(largest if abs(largest) < 1e300 else 0.0)  # changes nothing, keeps exponentials finite
    powers = [(l - shift).exp() for l in logits]
    total = sum(powers, flint.arb(0))
    return [p / total for p in powers]
