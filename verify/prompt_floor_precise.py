"""The layer run on a prompt in ball arithmetic of many digits: for prompts whose numbers are so large that float64 enclosures are wide.

An infimum at mass t -> 0 is approached by tokens of size 1/t whose logits cancel to ln t; their enclosures lose what cancels.
"""

from __future__ import annotations

import math
import time

import flint
import numpy as np
from jaxtyping import Float

from verify.ball import UP
from verify.precision import arb_bounds, working_precision
from verify.prompt_floor_layer import AttentionLayer, FeedForward
from verify.prompt_floor_run import Prompt

__all__ = ["precise_errors"]

_BITS = 160


def _matrix(array: np.ndarray) -> flint.arb_mat:
    return flint.arb_mat([[flint.arb(x) for x in row] for row in np.atleast_2d(array).tolist()])


def precise_errors(
    layer: AttentionLayer,
    prompt: Prompt,
    examples: list[np.ndarray],
    targets: np.ndarray,
    deadline: float = math.inf,
) -> Float[np.ndarray, " examples"]:
    """Upper bounds of |layer(prompt, X_i)_last - y_i|; NaN where nothing is known, and for the examples left when `deadline` (time.monotonic()) passed."""
    with working_precision(_BITS):
        return np.array([_error(layer, prompt, x, y, deadline) for x, y in zip(examples, targets, strict=True)])


def _error(layer: AttentionLayer, prompt: Prompt, example: np.ndarray, target: np.ndarray, deadline: float) -> float:
    if time.monotonic() > deadline:
        return math.nan
    tokens = np.concatenate([prompt.tokens, example])
    counts = [*prompt.counts.tolist(), *[1.0] * len(example)]
    query_bias, value_bias, output_bias = layer.offsets
    last = _matrix(tokens[-1][:, None])
    rows = _matrix(tokens)
    out = _matrix(output_bias[:, None])
    if layer.residual:
        out = out + last
    root = flint.arb(layer.query.shape[1]).sqrt()
    for h in range(layer.heads):
        if time.monotonic() > deadline:
            return math.nan
        query = _matrix(layer.query[h]) * last + _matrix(query_bias[h][:, None])
        logits = [z / root for z in (rows * (_matrix(layer.key[h].T) * query)).entries()]
        top = max(logits, key=lambda z: float(z.mid()))
        weights = [k * (z - top.mid()).exp() for z, k in zip(logits, counts, strict=True)]
        mass = sum(weights, flint.arb(0))
        mean = (flint.arb_mat([[w / mass for w in weights]]) * rows).transpose()
        out = out + _matrix(layer.outputs[h]) * (_matrix(layer.value[h]) * mean + _matrix(value_bias[h][:, None]))
    if layer.feedforward is not None:
        out = _block(layer.feedforward, out)
    total = sum(((u - flint.arb(y)) ** 2 for u, y in zip(out.entries(), target.tolist(), strict=True)), flint.arb(0))
    above = arb_bounds(total)[1]
    return math.sqrt(above) * UP if above >= 0 else math.nan


def _block(block: FeedForward, u: flint.arb_mat) -> flint.arb_mat:
    hidden = _matrix(block.first) * u + _matrix(block.biases[0][:, None])
    image = flint.arb_mat([[_activation(block, x)] for x in hidden.entries()])
    out = _matrix(block.second) * image + _matrix(block.biases[1][:, None])
    return u + out if block.residual else out


def _activation(block: FeedForward, x: flint.arb) -> flint.arb:
    if block.activation == "tanh":
        return x.tanh()
    if block.activation == "gelu":
        return x * (1 + (x / flint.arb(2).sqrt()).erf()) / 2
    slope = {"identity": 1.0, "relu": 0.0, "leaky_relu": float(block.slope)}[block.activation]
    if x > 0:
        return x
    return x * slope if x < 0 else x.union(x * slope)  # the sign is not known: both ends of every case
