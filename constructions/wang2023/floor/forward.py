"""The layer in plain float64: logits, masses, averages, outputs, errors of a prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import erf, logsumexp, softmax

from verify.prompt_floor import AttentionLayer, FeedForward

__all__ = ["Summary", "apply_block", "errors", "score_vectors", "summary"]


@dataclass(frozen=True, eq=False)
class Summary:
    """kappa (heads, d): a token's logits are kappa y; log_mass (examples, heads); mean (examples, heads, d): attention-weighted mean token;
    constant (d_out,): what the attention adds in any case; largest (heads,): logit."""

    kappa: Float[np.ndarray, "heads d"]
    log_mass: Float[np.ndarray, "examples heads"]
    mean: Float[np.ndarray, "examples heads d"]
    constant: Float[np.ndarray, " d_out"]
    largest: Float[np.ndarray, " heads"]


def score_vectors(layer: AttentionLayer, last: Float[np.ndarray, " d"]) -> Float[np.ndarray, "heads d"]:
    """kappa_h = K_h^T (Q_h x + b^Q_h) / sqrt(d_k)."""
    query = layer.query @ last + layer.offsets[0]
    return np.einsum("hkd,hk->hd", layer.key, query) / math.sqrt(layer.query.shape[1])


def summary(layer: AttentionLayer, examples: Sequence[np.ndarray]) -> Summary:
    """Of examples (tokens, d) with a shared last token."""
    last = examples[0][-1]
    kappa = score_vectors(layer, last)
    logits = [kappa @ x.T for x in examples]
    mean = np.stack([softmax(z, axis=1) @ x for z, x in zip(logits, examples, strict=True)])
    constant = layer.stacked @ layer.offsets[1].ravel() + layer.offsets[2] + (last if layer.residual else 0.0)
    largest = np.max([z.max(axis=1) for z in logits], axis=0)
    return Summary(kappa, np.stack([logsumexp(z, axis=1) for z in logits]), mean, constant, largest)


def apply_block(block: FeedForward | None, u: Float[np.ndarray, "rows d_out"]) -> Float[np.ndarray, "rows d_out"]:
    """F(u)."""
    return u if block is None else (u if block.residual else 0.0) + branch(block, u)


def branch(block: FeedForward, u: Float[np.ndarray, "rows d_out"]) -> Float[np.ndarray, "rows d_out"]:
    """G(u) = W_2 sigma(W_1 u + b_1) + b_2."""
    x = u @ block.first.T + block.biases[0]
    hidden = {
        "identity": lambda: x,
        "relu": lambda: np.maximum(x, 0.0),
        "leaky_relu": lambda: np.where(x >= 0, x, block.slope * x),
        "tanh": lambda: np.tanh(x),
        "gelu": lambda: x * (1 + erf(x / math.sqrt(2))) / 2,
    }[block.activation]()
    return hidden @ block.second.T + block.biases[1]


def errors(
    layer: AttentionLayer, prompt: Float[np.ndarray, "tokens d"], examples: Sequence[np.ndarray], targets: np.ndarray
) -> Float[np.ndarray, " examples"]:
    """|layer(prompt, X_i)_last - y_i|, in float64."""
    found = summary(layer, [np.concatenate([prompt, x]) for x in examples])
    values = np.einsum("hvd,nhd->nhv", layer.value, found.mean).reshape(len(examples), -1)
    return np.linalg.norm(apply_block(layer.feedforward, values @ layer.stacked.T + found.constant) - targets, axis=1)
