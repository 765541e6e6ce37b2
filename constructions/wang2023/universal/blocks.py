"""Blocks as arrays: feed-forward layers of width four and attention layers with two heads of size one, joined to a `verify.stack.Stack`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from verify.stack import Stack

__all__ = ["Attention", "FeedForward", "join"]


@dataclass(frozen=True, eq=False)
class FeedForward:
    """Layers z += second relu(first z + offset). first: (layers, 4, d), offset: (layers, 4), second: (layers, d, 4)."""

    first: Float[np.ndarray, "layers 4 d"]
    offset: Float[np.ndarray, "layers 4"]
    second: Float[np.ndarray, "layers d 4"]


@dataclass(frozen=True, eq=False)
class Attention:
    """Layers with two heads of size one. query, key, value, out: (layers, 2, d), bias: (layers, 2), added to the query."""

    query: Float[np.ndarray, "layers 2 d"]
    bias: Float[np.ndarray, "layers 2"]
    key: Float[np.ndarray, "layers 2 d"]
    value: Float[np.ndarray, "layers 2 d"]
    out: Float[np.ndarray, "layers 2 d"]


def join(
    m: int, position: Float[np.ndarray, "n d"], parts: list[FeedForward | Attention], beta: float = math.inf
) -> Stack:
    """One stack of the parts in order, m data tokens, inverse temperature beta."""
    dense = [part for part in parts if isinstance(part, FeedForward)]
    heads = [part for part in parts if isinstance(part, Attention)]
    order = np.concatenate(
        [np.full(len(part.bias), 1.0) if isinstance(part, Attention) else np.zeros(len(part.offset)) for part in parts]
    )

    def stacked(name: str, layers: list) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in layers]).astype(np.float64)

    return Stack(
        m, position.astype(np.float64), order,
        **{name: stacked(name, heads) for name in ("query", "bias", "key", "value", "out")},
        **{name: stacked(name, dense) for name in ("first", "offset", "second")},
        beta=beta,
    )  # fmt: skip
