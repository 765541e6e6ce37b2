"""The three steps by differentiating the loss itself: PyTorch in float64, or complex steps in NumPy where PyTorch is not installed."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal

import numpy as np
from jaxtyping import Float

from constructions.oymak2023.data import ContextualData
from constructions.oymak2023.descent.steps import Loss, Steps, check_loss, three_steps

__all__ = ["automatic_steps", "gradient_gap", "gradient_gap_max"]

Engine = Literal["torch", "complex"]

_IMAGINARY = 1e-30
"""Step of the complex difference: Im L(w + i s e_k)/s has an error of order s^2 and nothing cancels, so s may be this small."""

Gradient = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def automatic_steps(
    x: Float[np.ndarray, "n T d"],
    y: Float[np.ndarray, " n"],
    *,
    head_step: float,
    prompt_step: float,
    loss: Loss = "squared",
    fresh: bool = False,
    restart: bool = True,
    engine: Engine = "torch",
) -> Steps:
    """`three_steps` of one data set with gradients that know nothing of its formulas.

    Raises ModuleNotFoundError with the command that installs PyTorch, ValueError for an unknown engine or loss.
    """
    check_loss(loss)
    if engine not in ("torch", "complex"):
        raise ValueError(f"engine = {engine!r} is unknown. Choose 'torch' or 'complex'.")
    if engine == "torch" and find_spec("torch") is None:
        raise ModuleNotFoundError("engine='torch' needs PyTorch, which is not installed. Run pip install 'prefix-compiler[torch]', or take engine='complex'.")  # fmt: skip
    differentiate = _by_torch(loss) if engine == "torch" else _by_complex_steps(loss)
    third, zero = len(y) // 3, np.zeros(x.shape[-1])
    parts = [slice(k * third, (k + 1) * third) if fresh else slice(None) for k in range(3)]
    w_1 = -head_step * differentiate(x[parts[0]], y[parts[0]], zero, zero)[1]
    q_1 = -prompt_step * differentiate(x[parts[1]], y[parts[1]], zero, w_1)[0]
    start = zero if restart else w_1
    return Steps(w_1, q_1, start - head_step * differentiate(x[parts[2]], y[parts[2]], q_1, start)[1])


def gradient_gap(
    x: Float[np.ndarray, "n T d"],
    y: Float[np.ndarray, " n"],
    *,
    head_step: float,
    prompt_step: float,
    loss: Loss = "squared",
    fresh: bool = False,
    restart: bool = True,
    engine: Engine = "torch",
) -> float:
    """Largest difference of an entry of w_1, q_1, w_2 between the explicit formulas and `automatic_steps`, relative to the largest entry of each (at least 1)."""
    options = {
        "head_step": head_step,
        "prompt_step": prompt_step,
        "loss": loss,
        "fresh": fresh,
        "restart": restart,
    }
    ours, theirs = three_steps(x, y, **options), automatic_steps(x, y, **options, engine=engine)
    pairs = ((ours.w_1, theirs.w_1), (ours.q_1, theirs.q_1), (ours.w_2, theirs.w_2))
    return max(float(np.abs(a - b).max()) / max(float(np.abs(b).max()), 1.0) for a, b in pairs)


def gradient_gap_max(engine: Engine = "torch", *, seed: int = 0) -> float:
    """Largest `gradient_gap` over three data models (one with random shifts, one with noise on every token), both losses, fresh or shared samples, with and without restart."""
    q_star, w_star = np.eye(7)[:2]
    gaps = []
    for k, (delta_q, delta_w, noisy) in enumerate(
        ((0.5, 0.2, False), ((0.5, -0.2, 0.1), (1.0, -0.5, 0.3), False), (0.2, 1.0, True))
    ):
        data = ContextualData(1.3 * q_star, 0.9 * w_star, 0.3, 12, delta_q, delta_w, 0.8, noisy_relevant=noisy)
        x, y = data.sample(90, np.random.default_rng([seed, k]))
        gaps += [
            gradient_gap(x, y, head_step=2.0, prompt_step=9.0, loss=loss, fresh=fresh, restart=restart, engine=engine)
            for loss in ("squared", "logistic") for fresh in (False, True) for restart in (False, True)
        ]  # fmt: skip
    return max(gaps)


def _by_torch(loss: Loss) -> Gradient:
    import torch

    def gradient(x: np.ndarray, y: np.ndarray, q: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        tokens, labels = torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(np.ascontiguousarray(y))
        prompt, head = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (q, w))
        attended = torch.einsum("nt,ntd->nd", torch.softmax(tokens @ prompt, dim=1), tokens)
        f = attended @ head
        value = ((labels - f) ** 2 / 2).mean() if loss == "squared" else torch.nn.functional.softplus(-labels * f).mean()  # fmt: skip
        value.backward()
        assert prompt.grad is not None
        assert head.grad is not None
        return prompt.grad.numpy(), head.grad.numpy()

    return gradient


def _by_complex_steps(loss: Loss) -> Gradient:
    def value(x: np.ndarray, y: np.ndarray, q: np.ndarray, w: np.ndarray) -> complex:
        s = x @ q
        a = np.exp(s - np.real(s).max(axis=1, keepdims=True))
        f = np.einsum("nt,nt->n", a, x @ w) / a.sum(axis=1)
        return complex(((y - f) ** 2 / 2 if loss == "squared" else np.log(1 + np.exp(-y * f))).mean())

    def gradient(x: np.ndarray, y: np.ndarray, q: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        steps = 1j * _IMAGINARY * np.eye(x.shape[-1])
        in_q = np.array([value(x, y, q + step, w.astype(complex)).imag for step in steps]) / _IMAGINARY
        in_w = np.array([value(x, y, q.astype(complex), w + step).imag for step in steps]) / _IMAGINARY
        return in_q, in_w

    return gradient
