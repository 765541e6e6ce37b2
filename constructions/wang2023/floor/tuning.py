"""Gradient prompt-tuning, to be seen stopping at the floor: prompts of several lengths, many starts at once; in PyTorch, or in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from jaxtyping import Float

from constructions.progress import reporting
from constructions.wang2023.floor.descent import descended
from constructions.wang2023.floor.result import PromptFloor

__all__ = ["TuningCurves", "tune_prompts"]


@dataclass(frozen=True, eq=False)
class TuningCurves:
    """lengths: of the prompts; steps: at which errors were recorded; errors (lengths, recorded): max_i |layer(prompt, X_i)_last - y_i|, the best over the
    starts and over the steps so far; final (lengths, starts): each start's best; prompts: each length's best. All sampled, in float64."""

    lengths: tuple[int, ...]
    steps: Float[np.ndarray, " recorded"]
    errors: Float[np.ndarray, "lengths recorded"]
    final: Float[np.ndarray, "lengths starts"]
    prompts: tuple[Float[np.ndarray, "tokens d"], ...]

    @property
    def best(self) -> float:
        """The least error that any start of any length came down to."""
        return float(self.errors.min())

    def __repr__(self) -> str:
        return f"<TuningCurves sampled: best error {self.best:.7g} of {self.final.shape[1]} starts for prompts of {', '.join(map(str, self.lengths))} tokens>"


def tune_prompts(
    floor: PromptFloor,
    lengths: Sequence[int] = (1, 2, 4, 8, 16, 32, 64),
    *,
    seed: int,
    starts: int = 8,
    steps: int = 1500,
    rate: float = 0.05,
    engine: str = "torch",
    progress: bool | Callable[[float, str], None] | None = None,
) -> TuningCurves:
    """Adam on the token embeddings of a prompt, for the largest error (a soft maximum that hardens), the rate falling to 0 along a cosine.

    The layer is frozen, all starts of one length are trained in one batch. engine: "torch", or "numpy" for layers without a feed-forward block, which needs
    no extra and takes the same steps. Raises ModuleNotFoundError with the command that installs PyTorch, ValueError for lengths or counts below 1, or
    another engine.
    """
    if engine not in ("torch", "numpy"):
        raise ValueError(f"engine = {engine!r}: expected 'torch' or 'numpy'.")
    if min([*lengths, starts, steps]) < 1:
        raise ValueError(f"lengths = {tuple(lengths)}, starts = {starts}, steps = {steps}: all must be at least 1.")
    if engine == "torch" and find_spec("torch") is None:
        raise ModuleNotFoundError(
            "tune_prompts needs PyTorch, which is not installed. Run pip install 'prefix-compiler[torch]', or pass engine='numpy'."
        )
    trained = _trained if engine == "torch" else descended
    recorded = np.unique(np.geomspace(1, steps, 120).astype(int))
    curves, final, prompts = [], [], []
    with reporting(progress) as report:
        for k, length in enumerate(lengths):
            report(k / len(lengths), f"prompts of {length} tokens")
            rng = np.random.default_rng([seed, length])
            history, best = trained(floor, rng.standard_normal((starts, length, floor.layer.width)), steps, rate)
            curves.append(history.min(axis=1)[recorded - 1])
            errors = np.array([floor.error(p) for p in best])
            final.append(errors)
            prompts.append(best[int(errors.argmin())])
    return TuningCurves(
        tuple(int(n) for n in lengths), recorded.astype(float), np.stack(curves), np.stack(final), tuple(prompts)
    )


def _trained(floor: PromptFloor, start: np.ndarray, steps: int, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """(best error so far (steps, starts), each start's best prompt (starts, tokens, d))."""
    import torch

    layer, last = floor.layer, floor.examples[0][-1]
    run = _outputs(layer, floor.examples, last)
    targets = torch.from_numpy(np.array(floor.targets))
    size = max(floor.floor[1], 1e-12) if np.isfinite(floor.floor[1]) else 1.0
    prompt = torch.tensor(start, requires_grad=True)
    optimiser = torch.optim.Adam([prompt], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    least, kept = torch.full((len(start),), torch.inf, dtype=torch.float64), prompt.detach().clone()
    history = []
    for step in range(steps):
        error = (run(prompt) - targets).norm(dim=-1)  # (starts, examples)
        with torch.no_grad():
            worst = error.max(dim=1).values
            better = worst < least
            least = torch.where(better, worst, least)
            kept[better] = prompt[better]
            history.append(least.numpy().copy())
        hardness = (10 + 1000 * (step / steps) ** 2) / size
        loss = (torch.logsumexp(hardness * error, dim=1) / hardness).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return np.stack(history), kept.numpy()


def _outputs(layer: Any, examples: Sequence[np.ndarray], last: np.ndarray) -> Any:
    """prompts (starts, tokens, d) -> outputs (starts, examples, d_out), differentiable."""
    import torch

    from constructions.wang2023.floor.forward import summary

    s = summary(layer, examples)
    kappa, value, output = (torch.from_numpy(np.array(a)) for a in (s.kappa, layer.value, layer.outputs))
    log_mass = torch.from_numpy(s.log_mass)
    values = torch.einsum("hvd,nhd->nhv", value, torch.from_numpy(s.mean))
    constant = torch.from_numpy(s.constant)

    def run(prompt: Any) -> Any:
        logits = torch.einsum("hd,std->sht", kappa, prompt)
        mass = torch.logsumexp(logits, dim=2)
        mean = torch.einsum("sht,std->shd", torch.softmax(logits, dim=2), prompt)
        share = torch.sigmoid(mass[:, None] - log_mass)[..., None]  # of the prompt: (starts, examples, heads, 1)
        mixed = share * torch.einsum("hvd,shd->shv", value, mean)[:, None] + (1 - share) * values
        return _block(layer.feedforward, torch.einsum("hov,snhv->sno", output, mixed) + constant)

    return run


def _block(block: Any, u: Any) -> Any:
    import torch

    if block is None:
        return u
    w1, w2, b1, b2 = (torch.from_numpy(np.array(a)) for a in (block.first, block.second, *block.biases))
    hidden = u @ w1.T + b1
    functions = {
        "identity": lambda x: x,
        "relu": torch.relu,
        "leaky_relu": lambda x: torch.nn.functional.leaky_relu(x, block.slope),
        "tanh": torch.tanh,
        "gelu": torch.nn.functional.gelu,
    }
    out = functions[block.activation](hidden) @ w2.T + b2
    return u + out if block.residual else out
