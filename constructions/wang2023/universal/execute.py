"""The stack run literally: every block in float64, one after the other, attention as a matrix of weights, feed-forward layers as two matrix products."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from scipy.special import softmax

from verify.stack import Stack

__all__ = ["attention_weights", "execute"]


def attention_weights(logits: Float[np.ndarray, "batch n n"], beta: float = math.inf) -> Float[np.ndarray, "batch n n"]:
    """softmax(beta logits) along the last axis; hardmax, which divides the weight among ties, for beta = inf."""
    if math.isinf(beta):
        best = logits == logits.max(axis=-1, keepdims=True)
        return best / best.sum(axis=-1, keepdims=True)
    return softmax(beta * logits, axis=-1)


def execute(stack: Stack, tokens: Float[np.ndarray, "batch n d"]) -> Float[np.ndarray, "batch m d"]:
    """The data tokens that leave the stack, positions added here. Tokens do not meet after the last attention block, so from there only the
    data tokens are computed."""
    z = tokens + stack.position
    attention = np.flatnonzero(stack.order == 1)
    last, a, f = (int(attention[-1]) if len(attention) else -1), 0, 0
    for block, kind in enumerate(stack.order):
        if kind == 1:
            added = np.zeros_like(z)
            for h in range(2):
                if not stack.out[a, h].any():
                    continue
                q = z @ stack.query[a, h] + stack.bias[a, h]
                k, v = z @ stack.key[a, h], z @ stack.value[a, h]
                weights = attention_weights(q[:, :, None] * k[:, None, :], stack.beta)
                added += np.einsum("bqk,bk->bq", weights, v)[..., None] * stack.out[a, h]
            z, a = z + added, a + 1
        else:
            hidden = np.maximum(z @ stack.first[f].T + stack.offset[f], 0.0)
            z, f = z + hidden @ stack.second[f].T, f + 1
        if block == last:
            z = z[:, -stack.m :]
    return z[:, -stack.m :]
