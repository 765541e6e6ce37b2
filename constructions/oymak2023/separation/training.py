"""Many small models trained at once by gradient descent: what each kind of model reaches when its weights are optimised. Nothing here is proved.

Weights are found by Adam on the logistic loss of y f(X), with gradients in closed form, for many problems and many restarts in one array.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import expit, softmax

__all__ = ["KINDS", "Trained", "answers", "train"]

KINDS = ("averaging", "linear", "self-attention", "prompt")
_RATE = 0.1
_MOMENTS = (0.9, 0.99)

Weights = dict[str, Float[np.ndarray, "..."]]
Batch = tuple[Float[np.ndarray, "p n T d"], Float[np.ndarray, "p n"], Float[np.ndarray, "p T"]]
"""x, y, and the share of every token in its sequence: 1/T, or what it stands for where equal tokens are written once."""


@dataclass(frozen=True, eq=False)
class Trained:
    """weights: head (p, R, d) and prompt (p, R, d) or scores (p, R, d, d), of the last step. loss: (p, R), of the last step.
    best: (p,) the largest training accuracy seen, over restarts and steps; f(X) = 0 counts one half. best_weights: (p, ...), which had it."""

    weights: Weights
    loss: Float[np.ndarray, "p R"]
    best: Float[np.ndarray, " p"]
    best_weights: Weights

    def chosen(self) -> Weights:
        """The weights of the restart with the least loss, (p, 1, ...)."""
        pick = np.argmin(self.loss, axis=1)
        return {name: w[np.arange(len(pick)), pick][:, None] for name, w in self.weights.items()}


def answers(
    kind: str, weights: Weights, x: Float[np.ndarray, "p n T d"], share: Float[np.ndarray, "p T"]
) -> Float[np.ndarray, "p R n"]:
    """f(X) for every problem and restart."""
    return _forward(kind, weights, x, share)[0]


def train(
    kind: str,
    batch: Batch,
    *,
    restarts: int,
    steps: int,
    seed: int,
    screened: int = 0,
    report: Callable[[float], None] = lambda done: None,
) -> Trained:
    """Adam from `restarts` random weights per problem, of sizes between 0.1 and 10; or from the most accurate of `screened` such weights.

    Raises ValueError for an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind = {kind!r}: expected one of {', '.join(KINDS)}")
    x, y, share = batch
    weights = _started(kind, len(x), max(restarts, screened), x.shape[3], np.random.default_rng(seed))
    if screened > restarts:
        right = _right(y, answers(kind, weights, x, share))
        kept = np.argsort(-right, axis=1, kind="stable")[:, :restarts]
        weights = {name: w[np.arange(len(x))[:, None], kept] for name, w in weights.items()}
    best, loss = np.full(len(x), -1.0), np.zeros((len(x), restarts))
    best_weights = {name: w[:, 0].copy() for name, w in weights.items()}
    first = {name: np.zeros_like(w) for name, w in weights.items()}
    second = {name: np.zeros_like(w) for name, w in weights.items()}
    for step in range(steps + 1):
        f, backward = _forward(kind, weights, x, share)
        margin = y[:, None] * f
        loss = np.logaddexp(0.0, -margin).mean(axis=2)
        right = _right(y, f)
        top = right.argmax(axis=1)
        better = np.flatnonzero(right.max(axis=1) > best)
        best[better] = right[better, top[better]]
        for name, w in weights.items():
            best_weights[name][better] = w[better, top[better]]
        report(step / max(steps, 1))
        if step == steps or best.min() == 1.0:
            break
        slope = -y[:, None] * expit(-margin) / y.shape[1]
        for name, gradient in backward(slope).items():
            first[name] = _MOMENTS[0] * first[name] + (1 - _MOMENTS[0]) * gradient
            second[name] = _MOMENTS[1] * second[name] + (1 - _MOMENTS[1]) * gradient**2
            a, b = (m / (1 - r ** (step + 1)) for m, r in zip((first[name], second[name]), _MOMENTS, strict=True))
            weights[name] = weights[name] - _RATE * a / (np.sqrt(b) + 1e-12)
    return Trained(weights, loss, best, best_weights)


def _started(kind: str, p: int, restarts: int, d: int, rng: np.random.Generator) -> Weights:
    shapes: dict[str, tuple[int, ...]] = {"head": (d,)}
    if kind in ("linear", "prompt"):
        shapes["prompt"] = (d,)
    if kind == "self-attention":
        shapes["scores"] = (d, d)
    weights: Weights = {}
    for name, shape in shapes.items():
        size = 10 ** rng.uniform(-1, 1, (p, restarts)).reshape(p, restarts, *(1 for _ in shape))
        weights[name] = size * rng.standard_normal((p, restarts, *shape))
    return weights


def _right(y: Float[np.ndarray, "p n"], f: Float[np.ndarray, "p R n"]) -> Float[np.ndarray, "p R"]:
    """Accuracies; zeros count one half."""
    return (0.5 * (1 + np.sign(y[:, None] * f))).mean(axis=2)


def _forward(
    kind: str, weights: Weights, x: Float[np.ndarray, "p n T d"], share: Float[np.ndarray, "p T"]
) -> tuple[Float[np.ndarray, "p R n"], Callable[[Float[np.ndarray, "p R n"]], Weights]]:
    """f, and the map from dloss/df to gradients."""
    values = _along(x, weights["head"])
    if kind == "averaging":
        f = np.einsum("pt,prnt->prn", share, values)
        mean = np.einsum("pt,pntd->pnd", share, x)
        return f, lambda g: {"head": np.einsum("prn,pnd->prd", g, mean)}
    if kind == "linear":
        scores = _along(x, weights["prompt"]) * share[:, None, None]
        f = (scores * values).sum(axis=3)
        shared = values * share[:, None, None]
        return f, lambda g: {"head": _back(g[..., None] * scores, x), "prompt": _back(g[..., None] * shared, x)}
    if kind == "prompt":
        attention = softmax(_along(x, weights["prompt"]) + np.log(share)[:, None, None], axis=3)
        f = (attention * values).sum(axis=3)
        return f, lambda g: {
            "head": _back(g[..., None] * attention, x),
            "prompt": _back(g[..., None] * attention * (values - f[..., None]), x),
        }
    queries = np.matmul(x[:, None], weights["scores"][:, :, None])  # (p, R, n, T, d)
    logits = np.matmul(queries, x[:, None].swapaxes(3, 4)) + np.log(share)[:, None, None, None]
    attention = softmax(logits, axis=4)
    read = np.matmul(attention, values[..., None])[..., 0]
    f = (read * share[:, None, None]).sum(axis=3)

    def backward(g: Float[np.ndarray, "p R n"]) -> Weights:
        weight = g[..., None] * share[:, None, None]
        mixed = np.matmul(weight[..., None, :], attention)[..., 0, :]
        pull = weight[..., None] * attention * (values[..., None, :] - read[..., None])
        left = np.matmul(x[:, None].swapaxes(3, 4), pull)
        return {"head": _back(mixed, x), "scores": np.matmul(left, x[:, None]).sum(axis=2)}

    return f, backward


def _along(x: Float[np.ndarray, "p n T d"], w: Float[np.ndarray, "p R d"]) -> Float[np.ndarray, "p R n T"]:
    """<x_t, w> for every restart."""
    p, n, length, d = x.shape
    return np.matmul(w, x.reshape(p, n * length, d).swapaxes(1, 2)).reshape(p, w.shape[1], n, length)


def _back(weight: Float[np.ndarray, "p R n T"], x: Float[np.ndarray, "p n T d"]) -> Float[np.ndarray, "p R d"]:
    """sum_{n, t} weight x_t."""
    p, n, length, d = x.shape
    return np.matmul(weight.reshape(p, -1, n * length), x.reshape(p, n * length, d))
