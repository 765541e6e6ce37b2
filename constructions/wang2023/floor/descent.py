"""Gradient prompt-tuning without PyTorch: Adam on the closed-form gradient of one attention layer, for layers without a feed-forward block.

With logits l_t = <kappa, p_t>, weights w = softmax(l), mass m = log sum exp(l), mean a = sum w_t p_t and share s_i = sigmoid(m - log Z_i), head h adds
O (s_i V a + (1 - s_i) v_i) to example i. Hence, for c_i = O^T (d loss / d output_i),

    da = sum_i s_i V^T c_i,      dm = sum_i s_i (1 - s_i) <c_i, V a - v_i>,      dp_t = w_t da + w_t (dm + <da, p_t - a>) kappa.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from scipy.special import expit, logsumexp, softmax

from constructions.wang2023.floor.forward import Summary, summary
from constructions.wang2023.floor.result import PromptFloor
from verify.prompt_floor import AttentionLayer

__all__ = ["descended"]

_DECAY, _SQUARES, _SMALL = 0.9, 0.999, 1e-8
"""Adam's constants, as in PyTorch."""


def descended(
    floor: PromptFloor, start: Float[np.ndarray, "starts tokens d"], steps: int, rate: float
) -> tuple[Float[np.ndarray, "steps starts"], Float[np.ndarray, "starts tokens d"]]:
    """(best error so far, each start's best prompt). Raises ValueError for a layer with a feed-forward block."""
    if floor.layer.feedforward is not None:
        raise ValueError('engine = "numpy": the gradient of a feed-forward block is left to engine="torch".')
    s = summary(floor.layer, floor.examples)
    values = np.einsum("hvd,nhd->nhv", floor.layer.value, s.mean)
    size = max(floor.floor[1], 1e-12) if np.isfinite(floor.floor[1]) else 1.0
    prompt, first, second = start.copy(), np.zeros_like(start), np.zeros_like(start)
    least, kept, history = np.full(len(start), np.inf), start.copy(), []
    for step in range(steps):
        hardness = (10 + 1000 * (step / steps) ** 2) / size
        worst, slope = _loss(floor.layer, s, values, floor.targets, prompt, hardness)
        better = worst < least
        least = np.where(better, worst, least)
        kept[better] = prompt[better]
        history.append(least.copy())
        first = _DECAY * first + (1 - _DECAY) * slope
        second = _SQUARES * second + (1 - _SQUARES) * slope**2
        size_of_step = rate * (1 + math.cos(math.pi * step / steps)) / 2 / (1 - _DECAY ** (step + 1))
        prompt = prompt - size_of_step * first / (np.sqrt(second / (1 - _SQUARES ** (step + 1))) + _SMALL)
    return np.stack(history), kept


def _loss(
    layer: AttentionLayer, s: Summary, values: Float[np.ndarray, "n h v"], targets: Float[np.ndarray, "n o"],
    prompt: Float[np.ndarray, "starts tokens d"], hardness: float,
) -> tuple[Float[np.ndarray, " starts"], Float[np.ndarray, "starts tokens d"]]:  # fmt: skip
    """(max_i |e_i|, gradient of log sum_i exp(hardness |e_i|) / hardness)."""
    logits = np.einsum("hd,std->sht", s.kappa, prompt)
    weights, mass = softmax(logits, axis=2), np.asarray(logsumexp(logits, axis=2))
    mean = np.einsum("sht,std->shd", weights, prompt)
    share = expit(mass[:, None] - s.log_mass)  # (starts, n, h)
    gap = np.einsum("hvd,shd->shv", layer.value, mean)[:, None] - values
    e = np.einsum("hov,snhv->sno", layer.outputs, values + share[..., None] * gap) + s.constant - targets
    length = np.linalg.norm(e, axis=2)
    by_output = softmax(hardness * length, axis=1)[..., None] * e / np.maximum(length, 1e-300)[..., None]
    back = np.einsum("hov,sno->snhv", layer.outputs, by_output)
    by_mean = np.einsum("hvd,snh,snhv->shd", layer.value, share, back)
    by_mass = ((back * gap).sum(axis=3) * share * (1 - share)).sum(axis=1)  # (starts, h)
    along = np.einsum("shd,std->sht", by_mean, prompt) - (by_mean * mean).sum(axis=2)[..., None]
    by_logit = weights * (by_mass[..., None] + along)
    slope = np.einsum("sht,shd->std", weights, by_mean) + np.einsum("sht,hd->std", by_logit, s.kappa)
    return length.max(axis=1), slope
