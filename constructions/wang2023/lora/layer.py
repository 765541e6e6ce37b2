"""One softmax head read at the last token, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import softmax

from verify.lora_run import LowRank, Prompt
from verify.stored_arrays import stored_array

__all__ = ["SingleHead", "outputs", "random_head"]


@dataclass(frozen=True, eq=False)
class SingleHead:
    """Frozen weights. w_q, w_k: (d_k, d); w_v: (d_v, d), an output matrix folded into it. Raises StatementError (a ValueError) for shapes
    that do not fit or entries that are not finite."""

    w_q: Float[np.ndarray, "d_k d"]
    w_k: Float[np.ndarray, "d_k d"]
    w_v: Float[np.ndarray, "d_v d"]

    def __post_init__(self) -> None:
        object.__setattr__(self, "w_q", stored_array("w_q", self.w_q, (None, None)))
        object.__setattr__(self, "w_k", stored_array("w_k", self.w_k, self.w_q.shape))
        object.__setattr__(self, "w_v", stored_array("w_v", self.w_v, (None, self.w_q.shape[1])))

    def __repr__(self) -> str:
        return f"<SingleHead d = {self.w_q.shape[1]}, d_k = {len(self.w_q)}, d_v = {len(self.w_v)}>"


def random_head(d: int, d_k: int | None = None, d_v: int | None = None, *, seed: int) -> SingleHead:
    """Gaussian W_Q and W_K of variance 1/d, W_V with random orthonormal rows; d_k and d_v default to d. Logits of unit tokens are of the order d^(-1/2).

    Raises ValueError for d_v > d.
    """
    rng = np.random.default_rng(seed)
    if (d_v or d) > d:
        raise ValueError(f"d_v = {d_v}: at most d = {d} rows can be orthonormal")
    w_q, w_k = (rng.standard_normal((d_k or d, d)) / np.sqrt(d) for _ in range(2))
    return SingleHead(w_q, w_k, np.linalg.qr(rng.standard_normal((d, d_v or d)))[0].T)


def outputs(
    layer: SingleHead,
    sequences: Float[np.ndarray, "n T d"],
    *,
    update: LowRank | None = None,
    prompt: Prompt | None = None,
) -> Float[np.ndarray, "n d_v"]:
    """What the layer answers at the last token of every sequence, in float64 (nothing is proved here)."""
    weights: dict[str, Any] = {"queries": layer.w_q, "keys": layer.w_k, "values": layer.w_v}
    if update is not None:
        weights[update.to] = weights[update.to] + update.up @ update.down
    queries = sequences[:, -1, :] @ weights["queries"].T / np.sqrt(len(layer.w_q))
    logits = np.einsum("nk,ntk->nt", queries, sequences @ weights["keys"].T)
    values = sequences @ weights["values"].T
    if prompt is None:
        return np.einsum("nt,ntv->nv", softmax(logits, axis=1), values)
    share = softmax(np.hstack([logits, queries @ prompt.keys.T]), axis=1)
    length = sequences.shape[1]
    return np.einsum("nt,ntv->nv", share[:, :length], values) + share[:, length:] @ prompt.values
