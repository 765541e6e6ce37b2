"""Prompt-attention and its rivals, with explicit gradients: one trainable model each, all trained by the same procedure.

averaging         f = <w, mean of tokens>
linear prompt     f = <w, X^T X q>/T
softmax prompt    f = <w, X^T softmax(Xq)>
self-attention    f = <w, mean over rows of softmax(X W X^T) X>, any W
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import Float
from scipy.special import expit

from constructions.oymak2023.real_data.framed_digits import FramedDigits, Split

__all__ = ["RIVALS", "Budget", "Trained", "train"]

Weights = tuple[np.ndarray, ...]
Forward = Callable[[Weights, np.ndarray], tuple[np.ndarray, Callable[[np.ndarray], Weights]]]
"""(weights, x (n, T, d)) -> f (n,) and what turns dL/df (n,) into the gradient."""


@dataclass(frozen=True)
class Budget:
    """The same for every model: Adam steps on all training sequences, logistic loss; the rates and weight decays tried, the best pair on the validation split taken; start: standard
    deviation of the initial weights."""

    steps: int = 200
    rates: tuple[float, ...] = (0.03, 0.1)
    decays: tuple[float, ...] = (1e-3,)
    start: float = 0.01


@dataclass(frozen=True, eq=False)
class Trained:
    """weights; rate, decay: chosen; accuracy: on the test split; numbers: of trainable parameters."""

    weights: Weights
    rate: float
    decay: float
    validation: float
    accuracy: float

    @property
    def numbers(self) -> int:
        """Trainable parameters."""
        return sum(w.size for w in self.weights)


def _averaging(weights: Weights, x: np.ndarray) -> tuple[np.ndarray, Callable[[np.ndarray], Weights]]:
    mean = x.mean(axis=1)
    return mean @ weights[0], lambda g: (g @ mean,)


def _linear_prompt(weights: Weights, x: np.ndarray) -> tuple[np.ndarray, Callable[[np.ndarray], Weights]]:
    w, q = weights
    a, b = x @ q / x.shape[1], x @ w  # (n, T)
    return (a * b).sum(axis=1), lambda g: (_sum(g[:, None] * a, x), _sum(g[:, None] * b, x) / x.shape[1])


def _softmax_prompt(weights: Weights, x: np.ndarray) -> tuple[np.ndarray, Callable[[np.ndarray], Weights]]:
    w, q = weights
    a, b = _softmax(x @ q), x @ w
    f = (a * b).sum(axis=1)
    return f, lambda g: (_sum(g[:, None] * a, x), _sum(g[:, None] * a * (b - f[:, None]), x))


def _self_attention(weights: Weights, x: np.ndarray) -> tuple[np.ndarray, Callable[[np.ndarray], Weights]]:
    w, big = weights[0], weights[1]
    n, t, d = x.shape
    left = (x.reshape(-1, d) @ big).reshape(n, t, d)
    a = _softmax(left @ x.transpose(0, 2, 1))  # (n, T, T): rows are queries
    b = x @ w
    rows = np.einsum("nij,nj->ni", a, b)

    def back(g: np.ndarray) -> Weights:
        pull = g[:, None, None] * a * (b[:, None, :] - rows[:, :, None]) / t
        return _sum(g[:, None] * a.mean(axis=1), x), x.reshape(-1, d).T @ (pull @ x).reshape(-1, d)

    return rows.mean(axis=1), back


RIVALS: Mapping[str, tuple[Forward, Callable[[int], tuple[tuple[int, ...], ...]]]] = MappingProxyType({
    "averaging": (_averaging, lambda d: ((d,),)),
    "linear prompt": (_linear_prompt, lambda d: ((d,), (d,))),
    "self-attention": (_self_attention, lambda d: ((d,), (d, d))),
    "softmax prompt": (_softmax_prompt, lambda d: ((d,), (d,))),
})  # fmt: skip
"""name -> (forward pass with its gradient, shapes of the weights for tokens in R^d)."""


def train(name: str, data: FramedDigits, budget: Budget, seed: int) -> Trained:
    """Train one model within the budget. Raises ValueError for an unknown name."""
    if name not in RIVALS:
        raise ValueError(f"name = {name!r} is unknown. Choose among: {', '.join(map(repr, RIVALS))}.")
    forward, shapes = RIVALS[name]
    best: Trained | None = None
    for rate in budget.rates:
        for decay in budget.decays:
            rng = np.random.default_rng(seed)
            start = tuple(budget.start * rng.standard_normal(shape) for shape in shapes(data.train.x.shape[2]))
            weights = _adam(forward, start, data.train, budget.steps, rate, decay)
            found = accuracy(forward, weights, data.validation)
            if best is None or found > best.validation:
                best = Trained(weights, rate, decay, found, accuracy(forward, weights, data.test))
    assert best is not None
    return best


def accuracy(forward: Forward, weights: Weights, split: Split) -> float:
    """Share of sequences whose label has the sign of f."""
    return float((forward(weights, split.x)[0] * split.y > 0).mean())


def _adam(forward: Forward, weights: Weights, split: Split, steps: int, rate: float, decay: float) -> Weights:
    first, second = ([np.zeros_like(w) for w in weights] for _ in range(2))
    current = [w.copy() for w in weights]
    for k in range(1, steps + 1):
        f, back = forward(tuple(current), split.x)
        gradients = back(-split.y * expit(-split.y * f) / len(f))
        for i, g in enumerate(gradients):
            g = g + decay * current[i]
            first[i] = 0.9 * first[i] + 0.1 * g
            second[i] = 0.999 * second[i] + 0.001 * g * g
            step = rate / (1 - 0.9**k)
            current[i] = current[i] - step * first[i] / (np.sqrt(second[i] / (1 - 0.999**k)) + 1e-8)
    return tuple(current)


def _softmax(s: np.ndarray) -> np.ndarray:
    a = np.exp(s - s.max(axis=-1, keepdims=True))
    return a / a.sum(axis=-1, keepdims=True)


def _sum(c: Float[np.ndarray, "n T"], x: Float[np.ndarray, "n T d"]) -> Float[np.ndarray, " d"]:
    return c.reshape(-1) @ x.reshape(-1, x.shape[2])
