"""The first three gradient steps of prompt-attention f(X) = <w, X^T softmax(Xq)>, from zero, by explicit formulas.

Loss L = mean over samples of (y - f)^2/2 (squared) or ln(1 + e^(-yf)) (logistic). With h = X^T a, a = softmax(Xq), and the residual r = -dL/df = y - f, or
y sigmoid(-yf):

    grad_w = -mean r h,        grad_q = -mean r X^T(diag a - a a^T)Xw = -mean r X^T(a * (Xw - f)),

at q = 0 with a = 1/T. From (q, w) = (0, 0): w_1 = eta mean y h/(1 or 2), q_1 = gamma mean r X^T(a * (Xw_1 - f)), and w_2 = eta mean r h at q_1, from w = 0 again
(`restart`, so that what the prompt has learned is seen alone) or w_1 plus it at the residuals of (q_1, w_1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.special import expit

__all__ = ["Loss", "Steps", "head_gradient", "prompt_gradient", "three_steps"]

Loss = Literal["squared", "logistic"]


@dataclass(frozen=True, eq=False)
class Steps:
    """w_1, q_1, w_2: (..., d), leading axes those of the data (independent runs)."""

    w_1: Float[np.ndarray, "... d"]
    q_1: Float[np.ndarray, "... d"]
    w_2: Float[np.ndarray, "... d"]

    def alignment(self, q_star: Float[np.ndarray, " d"]) -> Float[np.ndarray, ...]:
        """Cosine of q_1 and q_star; 0 where q_1 vanishes."""
        sizes = np.linalg.norm(self.q_1, axis=-1) * float(np.linalg.norm(q_star))
        return np.divide(self.q_1 @ q_star, sizes, out=np.zeros_like(sizes), where=sizes > 0)


def three_steps(
    x: Float[np.ndarray, "... n T d"],
    y: Float[np.ndarray, "... n"],
    *,
    head_step: float,
    prompt_step: float,
    loss: Loss = "squared",
    fresh: bool = False,
    restart: bool = True,
) -> Steps:
    """The three steps, for every leading index at once.

    head_step, prompt_step: eta and gamma, positive. fresh: each step on its own third of the samples (n divisible by 3). Raises ValueError for steps that are
    not positive, an unknown loss, shapes that do not fit, and n not divisible by 3 with `fresh`.
    """
    check_loss(loss)
    for name, value in (("head_step", head_step), ("prompt_step", prompt_step)):
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name} = {value}: a step must be positive and finite; take, for example, 1.0.")
    n = y.shape[-1]
    if x.ndim < 3 or x.shape[:-2] != y.shape or n == 0:
        raise ValueError(f"x of shape {x.shape} does not fit y of shape {y.shape}: give x (..., n, T, d) and y (..., n), n >= 1.")  # fmt: skip
    if fresh and n % 3:
        raise ValueError(f"n = {n} is not divisible by 3: with fresh=True each step takes a third of the samples.")
    thirds = [slice(k * n // 3, (k + 1) * n // 3) if fresh else slice(None) for k in range(3)]
    (x1, y1), (x2, y2), (x3, y3) = ((x[..., part, :, :], y[..., part]) for part in thirds)
    zero = np.zeros((*y.shape[:-1], x.shape[-1]))
    w_1 = -head_step * head_gradient(x1, y1, zero, zero, loss)
    q_1 = -prompt_step * prompt_gradient(x2, y2, zero, w_1, loss)
    start = zero if restart else w_1
    return Steps(w_1, q_1, start - head_step * head_gradient(x3, y3, q_1, start, loss))


def head_gradient(
    x: Float[np.ndarray, "... n T d"],
    y: Float[np.ndarray, "... n"],
    q: Float[np.ndarray, "... d"],
    w: Float[np.ndarray, "... d"],
    loss: Loss,
) -> Float[np.ndarray, "... d"]:
    """Gradient of the loss in w."""
    a = _weights(x, q)
    r = residual((a * _scores(x, w)).sum(axis=-1), y, loss)
    return -_combined(r[..., None] * a, x) / y.shape[-1]


def prompt_gradient(
    x: Float[np.ndarray, "... n T d"],
    y: Float[np.ndarray, "... n"],
    q: Float[np.ndarray, "... d"],
    w: Float[np.ndarray, "... d"],
    loss: Loss,
) -> Float[np.ndarray, "... d"]:
    """Gradient of the loss in q."""
    a, scores = _weights(x, q), _scores(x, w)
    f = (a * scores).sum(axis=-1)
    r = residual(f, y, loss)
    return -_combined(r[..., None] * a * (scores - f[..., None]), x) / y.shape[-1]


def residual(f: Float[np.ndarray, ...], y: Float[np.ndarray, ...], loss: Loss) -> Float[np.ndarray, ...]:
    """-dL/df of one sample."""
    return y - f if loss == "squared" else y * expit(-y * f)


def check_loss(loss: str) -> None:
    """Raises ValueError for a loss that is not known."""
    if loss not in ("squared", "logistic"):
        raise ValueError(f"loss = {loss!r} is unknown. Choose 'squared' or 'logistic'.")


def _weights(x: np.ndarray, q: np.ndarray) -> np.ndarray:
    """softmax(Xq): (..., n, T)."""
    s = _scores(x, q)
    a = np.exp(s - s.max(axis=-1, keepdims=True))
    return a / a.sum(axis=-1, keepdims=True)


def _scores(x: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Xv: (..., n, T). One matrix product for each run."""
    if not np.any(v):
        return np.zeros(x.shape[:-1])
    return (x.reshape(*x.shape[:-3], -1, x.shape[-1]) @ v[..., None]).reshape(x.shape[:-1])


def _combined(c: np.ndarray, x: np.ndarray) -> np.ndarray:
    """sum over samples and tokens of c (..., n, T) times x: (..., d)."""
    return (c.reshape(*c.shape[:-2], 1, -1) @ x.reshape(*x.shape[:-3], -1, x.shape[-1]))[..., 0, :]
