"""Two examples with a shared last token that no prompt memorises, built for a given layer so that the floor is nearly all of the targets' distance.

Contexts base +- delta with delta orthogonal to every head's score vector kappa_h give both examples the same logits, so the same masses Z^h, and any prompt adds
the same to both outputs: e_1 - e_2 = sum_h m_h d_h - (z_1 - z_2) with d_h = O_h(a_1^h - a_2^h) and m_h = Z^h/(Z^h + t_h) in [0, 1], all that a
prompt decides. With z_1 - z_2 = sum_h d_h/2 + 2c, c orthogonal to all d_h, the least |e_1 - e_2|/2 is |c|, at m_h = 1/2, where t_h = Z^h.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from scipy.linalg import null_space

from constructions.wang2023.floor.cones import frame_of
from constructions.wang2023.floor.errors import FloorError
from constructions.wang2023.floor.floor import prompt_floor
from constructions.wang2023.floor.forward import apply_block, score_vectors, summary
from constructions.wang2023.floor.ranks import Room, room_of
from constructions.wang2023.floor.result import PromptFloor
from verify.prompt_floor import AttentionLayer
from verify.statement import StatementError

__all__ = ["random_layer", "unmemorable"]

_BEYOND = 1.5
"""By how much the mean token's logit is pushed above what the entropy allows, where O W_V is injective: then the tie costs something."""


def unmemorable(
    layer: AttentionLayer,
    *,
    seed: int,
    last: Float[np.ndarray, " d"] | None = None,
    context: int = 1,
    contrast: float = 1.0,
) -> PromptFloor:
    """Examples X_1, X_2 of context + 1 tokens, targets y_1, y_2, their floor over all prompts, and the prompt that attains it.

    last: the shared last token, standard normal by default; contrast: |c| over |sum_h d_h|; floor / (|z_1 - z_2|/2) is contrast / sqrt(contrast^2 + 1/16).
    Raises FloorError where the layer cannot tell contexts with equal logits apart, and as `prompt_floor`.
    """
    if context < 1 or not (math.isfinite(contrast) and contrast > 0):
        raise StatementError(
            f"context = {context!r}, contrast = {contrast!r}: expected context >= 1 and a finite contrast > 0."
        )
    rng = np.random.default_rng(seed)
    x0 = rng.standard_normal(layer.width) if last is None else np.asarray(last, dtype=np.float64)
    if x0.shape != (layer.width,) or not np.isfinite(x0).all():
        raise StatementError(f"last: shape {x0.shape}, expected ({layer.width},) and finite numbers.")
    kappa = score_vectors(layer, x0)
    room = room_of(layer, kappa)
    across = null_space(kappa)
    if across.shape[1] == 0:
        raise FloorError(
            where="query, key",
            value=f"the {layer.heads} heads' score vectors span all {layer.width} coordinates",
            assumption="contexts with equal logits exist (d > heads)",
            next_step="Pass examples of your own to prompt_floor.",
        )
    draw = rng.standard_normal((2, context, across.shape[1])) @ across.T
    base, delta = x0 + draw[0], draw[1]
    examples = [np.concatenate([base + sign * delta, x0[None]]) for sign in (1.0, -1.0)]
    s = summary(layer, examples)
    values = np.einsum("hvd,nhd->nhv", layer.value, s.mean)
    seen = np.einsum("hov,nhv->noh", layer.outputs, values)
    d = seen[0] - seen[1]  # (d_out, heads)
    length = float(np.linalg.norm(d.sum(axis=1)))
    if not length > 1e-9 * np.abs(seen).max():
        raise FloorError(
            where="value, output",
            value="sum_h O_h W_V (x_1 - x_2) is 0 for contexts with equal logits",
            assumption="the outputs differ between the examples",
            next_step="Pass another seed, or examples of your own to prompt_floor.",
        )
    z = seen.sum(axis=2).mean(axis=0) + np.array([[0.5], [-0.5]]) * _gap(layer, d, contrast * length, rng)
    if room is Room.TIED:
        c = np.linalg.lstsq((layer.outputs[0] @ layer.value[0]).T, kappa[0], rcond=None)[0]
        z += (math.log(2 * context) + _BEYOND) / (2 * float(c @ c)) * c
    before = s.constant + z
    targets = apply_block(layer.feedforward, before)
    return prompt_floor(layer, examples, targets, before=before)


def _gap(layer: AttentionLayer, d: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    """z_1 - z_2. Where the range of the output has no direction beside the d_h: their sum backwards, which prompts can only drown (t = inf)."""
    along = frame_of(d.T)
    span = frame_of(layer.stacked.T)
    c = span @ rng.standard_normal(span.shape[1])
    c -= along @ (along.T @ c)
    c -= along @ (along.T @ c)
    if span.shape[1] <= along.shape[1] or not np.linalg.norm(c) > 1e-8:
        return -d.sum(axis=1)
    return d.sum(axis=1) / 2 + 2 * size * c / np.linalg.norm(c)


def random_layer(d: int, d_v: int, *, seed: int, heads: int = 1, d_k: int | None = None) -> AttentionLayer:
    """Normal weights of variance 1/d; outputs side by side, or, for several heads with heads * d_v = d, one random output matrix."""
    rng = np.random.default_rng(seed)
    width = d if d_k is None else d_k
    query, key = rng.standard_normal((2, heads, width, d)) / math.sqrt(d)
    value = rng.standard_normal((heads, d_v, d)) / math.sqrt(d)
    output = None
    if heads > 1:
        whole = rng.standard_normal((d, heads * d_v)) / math.sqrt(d)
        output = whole.reshape(d, heads, d_v).transpose(1, 0, 2)
    return AttentionLayer(query, key, value, output)
