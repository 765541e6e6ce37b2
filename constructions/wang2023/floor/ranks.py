"""What the theorem assumes of the weights, looked at in floating point: which prompts exist."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from jaxtyping import Float

from constructions.wang2023.floor.errors import FloorError
from verify.prompt_floor import AttentionLayer

__all__ = ["Room", "room_of"]

_SMALL = 1e-11
"""Singular values below this share of the largest count as zero: beyond it a prompt's numbers lose their accuracy."""


class Room(StrEnum):
    """FREE: every mass goes with every average, one token is enough; TIED: O W_V is injective, the entropy ties them; HEADS: several heads."""

    FREE = "free"
    TIED = "tied"
    HEADS = "heads"


def _rank(matrix: Float[np.ndarray, "rows columns"]) -> tuple[int, np.ndarray]:
    s = np.linalg.svd(matrix, compute_uv=False)
    return int((s > _SMALL * s.max()).sum()) if s.max() > 0 else 0, s


def room_of(layer: AttentionLayer, kappa: Float[np.ndarray, "heads d"]) -> Room:
    """Raises FloorError naming the head, the numbers and the assumption."""
    d, d_v = layer.width, layer.value_width
    for h in range(layer.heads):
        where = f"head {h}"
        if not np.isfinite(kappa[h]).all():
            raise FloorError(
                where=where,
                value="kappa = W_K^T W_Q x0 / sqrt(d_k) overflows",
                assumption="finite logits",
                next_step="Scale query or key down.",
            )
        rank, s = _rank(layer.value[h])
        if rank < min(d, d_v):
            raise FloorError(
                where=f"{where}, W_V",
                value=f"rank {rank} of {min(d, d_v)}, singular value {rank} (counted from 0) is {s[rank]:.3g}, the largest {s[0]:.3g}",
                assumption="W_V has full rank",
                next_step="Drop the dependent rows of W_V and fold them into the output matrix.",
            )
        if layer.heads == 1 and _rank(layer.outputs[0] @ layer.value[0])[0] == d:
            if not np.abs(kappa[0]).max() > 0:
                raise FloorError(
                    where=f"{where}, kappa",
                    value="kappa = W_K^T W_Q x0 / sqrt(d_k) is 0, so a prompt's mass is its number of tokens",
                    assumption="kappa is not 0",
                    next_step="Pass another last token, or weights W_Q, W_K with W_K^T W_Q x0 != 0.",
                )
            return Room.TIED
        size = float(np.linalg.norm(kappa[h]))
        if d_v < d and (size == 0 or _rank(np.concatenate([layer.value[h] / s[0], kappa[h][None] / size]))[0] <= d_v):
            raise FloorError(
                where=f"{where}, kappa",
                value=f"kappa = W_K^T W_Q x0 / sqrt(d_k), of length {size:.3g}, lies in the row space of W_V up to rounding",
                assumption="kappa is not in the row space of W_V",
                next_step="Pass another last token: only for special ones is a token's logit a function of its value.",
            )
        if d_v >= d and layer.heads == 1:  # O loses some of V p
            raise FloorError(
                where=f"{where}, output",
                value=f"O W_V has rank {_rank(layer.outputs[0] @ layer.value[0])[0]} and is not injective, though W_V is",
                assumption="O W_V is injective, or d_v < d",
                next_step="Fold O into W_V: value = O W_V with only as many rows as its rank, and output = None.",
            )
    return Room.FREE if layer.heads == 1 else Room.HEADS
