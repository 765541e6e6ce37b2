"""The models that are compared: softmax prompt-attention and its three rivals, in float64.

X: (n, T, d) sequences; every model answers one number per sequence, whose sign is the predicted label:

    prompt-attention         <w, X^T softmax(X q)>
    linear prompt-attention  <w, X^T X q> / T
    self-attention           <w, mean_t X^T softmax(X W x_t)>, mean-pooled
    averaging                <w, X^T 1> / T
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float
from scipy.special import softmax

from constructions.oymak2023.errors import ContextError

__all__ = ["Averaging", "LinearPromptAttention", "PromptAttention", "SelfAttention", "SequenceModel", "accuracy"]


class SequenceModel(Protocol):
    """Anything that answers one number per sequence."""

    def __call__(self, x: Float[np.ndarray, "n T d"], /) -> Float[np.ndarray, " n"]: ...


@dataclass(frozen=True, eq=False)
class _Prompted:
    """A prompt and a head, both (d,)."""

    prompt: Float[np.ndarray, " d"]
    head: Float[np.ndarray, " d"]

    def __post_init__(self) -> None:
        _store(self, "head", (None,))
        _store(self, "prompt", self.head.shape)


class PromptAttention(_Prompted):
    """f(X) = <head, X^T softmax(X prompt)>. prompt, head: (d,)."""

    def __call__(self, x: Float[np.ndarray, "n T d"], /) -> Float[np.ndarray, " n"]:
        x = _sequences(x, len(self.head))
        return np.einsum("nt,nt->n", softmax(x @ self.prompt, axis=1), x @ self.head)


class LinearPromptAttention(_Prompted):
    """f(X) = <head, X^T X prompt> / T. prompt, head: (d,)."""

    def __call__(self, x: Float[np.ndarray, "n T d"], /) -> Float[np.ndarray, " n"]:
        x = _sequences(x, len(self.head))
        return np.einsum("nt,nt->n", x @ self.prompt, x @ self.head) / x.shape[1]


@dataclass(frozen=True, eq=False)
class SelfAttention:
    """f(X) = <head, mean_t X^T softmax(X weights^T x_t)>: the score of key x_s for query x_t is <x_t, weights x_s>. weights: (d, d)."""

    weights: Float[np.ndarray, "d d"]
    head: Float[np.ndarray, " d"]

    def __post_init__(self) -> None:
        _store(self, "head", (None,))
        _store(self, "weights", (len(self.head), len(self.head)))

    def __call__(self, x: Float[np.ndarray, "n T d"], /) -> Float[np.ndarray, " n"]:
        x = _sequences(x, len(self.head))
        share = softmax(x @ self.weights @ x.transpose(0, 2, 1), axis=2).mean(axis=1)
        return np.einsum("nt,nt->n", share, x @ self.head)


@dataclass(frozen=True, eq=False)
class Averaging:
    """f(X) = <head, mean_t x_t>: prompt-attention with the prompt 0."""

    head: Float[np.ndarray, " d"]

    def __post_init__(self) -> None:
        _store(self, "head", (None,))

    def __call__(self, x: Float[np.ndarray, "n T d"], /) -> Float[np.ndarray, " n"]:
        x = _sequences(x, len(self.head))
        return x.mean(axis=1) @ self.head


def accuracy(model: SequenceModel, x: Float[np.ndarray, "n T d"], y: Float[np.ndarray, " n"]) -> float:
    """Share of sequences with y f(X) > 0; f(X) = 0 counts one half."""
    return float((0.5 * (1 + np.sign(y * model(x)))).mean())


def _store(model: object, name: str, shape: tuple[int | None, ...]) -> None:
    array = np.array(getattr(model, name), dtype=np.float64)
    fits = array.ndim == len(shape) and all(s is None or s == have for s, have in zip(shape, array.shape, strict=True))
    if not fits or array.size == 0:
        wanted = "(" + ", ".join("d" if s is None else str(s) for s in shape) + ")"
        raise ContextError(
            argument=name,
            value=f"array of shape {array.shape}",
            reason=f"is not of shape {wanted}",
            next_step="Give weights that fit the tokens.",
        )
    if not np.isfinite(array).all():
        raise ContextError(
            argument=name, value="array", reason="has entries that are not finite", next_step="Repair the weights."
        )
    array.setflags(write=False)
    object.__setattr__(model, name, array)


def _sequences(x: Float[np.ndarray, "n T d"], d: int) -> Float[np.ndarray, "n T d"]:
    array = np.asarray(x, dtype=np.float64)
    if array.ndim != 3 or array.shape[2] != d or array.shape[1] == 0:
        raise ContextError(
            argument="x",
            value=f"array of shape {array.shape}",
            reason=f"is not of shape (n, T, {d})",
            next_step="Give sequences of tokens, or weights that fit them.",
        )
    return array
