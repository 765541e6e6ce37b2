"""Prompt-attention and self-attention on the shared runtime: frozen attention layers of `verify.model`, run by its reference forward pass.

Prompt-attention is what a frozen layer computes at a prompt token put before the data: token q with a flag 1 behind it, data tokens with
a flag 0. The query of a token is the token with the flag times MUTE, the key is the token with minus the flag; so the prompt's score for a
data token x is <q, x>, and for itself |q|^2 - MUTE: its own weight vanishes, as that of the layer's prefix token of key (0, -1) and value 0.
Self-attention has the flag 1 on every query and 0 on every key, and the same mute prefix token.

Linear prompt-attention has no softmax and no place on this runtime: it stays an explicit model. Averaging is prompt-attention with q = 0.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from constructions.oymak2023.errors import ContextError
from constructions.oymak2023.model import Averaging, PromptAttention, SelfAttention
from verify.model import Head, Layer, Prefix, Transformer, forward

__all__ = ["MUTE", "as_transformer", "runtime_outputs", "with_prompt"]

MUTE = 2.0**20
"""Score by which the prompt and the prefix token are muted; a weight below e^-700 is none."""
_LARGEST = 2.0**18


def as_transformer(model: PromptAttention | Averaging | SelfAttention) -> tuple[Transformer, Prefix]:
    """The frozen layer and its mute prefix. For prompt-attention the layer depends on the head alone: the prompt is a token of the input.

    Inputs have d + 1 numbers per token, see `with_prompt`. Prompt-attention's answer is output 0 of token 0, self-attention's the mean over tokens.
    """
    d = len(model.head)
    wide = np.eye(d + 1)
    value = np.eye(d, d + 1)
    query, key = wide.copy(), wide.copy()
    offset = np.zeros(d + 1)
    if isinstance(model, SelfAttention):
        query = np.zeros((d + 1, d + 1))
        query[:d, :d] = model.weights.T
        key[d, d] = 0.0
        offset[d] = 1.0
    else:
        key[d, d] = -1.0
    query[d, d] = MUTE
    head = Head(query, np.eye(d), key, value)
    mute = np.append(np.zeros(d), -1.0)[None]
    transformer = Transformer(wide, offset, (Layer((head,)),), model.head[None])
    return transformer, Prefix(((mute,),), ((np.zeros((1, d)),),))


def with_prompt(prompt: Float[np.ndarray, " d"], x: Float[np.ndarray, "n T d"]) -> Float[np.ndarray, "n T+1 d+1"]:
    """The prompt token (flag 1) before the data tokens (flag 0)."""
    n, length, d = x.shape
    out = np.zeros((n, length + 1, d + 1))
    out[:, 0, :d], out[:, 0, d] = prompt, 1.0
    out[:, 1:, :d] = x
    return out


def runtime_outputs(
    model: PromptAttention | Averaging | SelfAttention, x: Float[np.ndarray, "n T d"]
) -> Float[np.ndarray, " n"]:
    """The model's answers as `verify.model.forward` computes them. Raises ContextError where scores are so large that muting could fail."""
    x = np.asarray(x, dtype=np.float64)
    transformer, prefix = as_transformer(model)
    if isinstance(model, SelfAttention):
        largest = float(np.abs(model.weights).sum() * np.abs(x).max(initial=0.0) ** 2)
        _check(largest)
        tokens = np.concatenate([x, np.zeros((*x.shape[:2], 1))], axis=2)
        return forward(transformer, prefix, tokens)[:, :, 0].mean(axis=1)
    prompt = model.prompt if isinstance(model, PromptAttention) else np.zeros(len(model.head))
    _check(float(np.abs(prompt).sum() * max(np.abs(x).max(initial=0.0), np.abs(prompt).max())))
    return forward(transformer, prefix, with_prompt(prompt, x))[:, 0, 0]


def _check(largest: float) -> None:
    if not largest <= _LARGEST:
        raise ContextError(
            argument="model",
            value=f"weights with scores up to {largest:.3g}",
            reason=f"has scores above {_LARGEST:.3g}, where the mute token could be heard",
            next_step="Use a smaller prompt or smaller weights.",
        )
