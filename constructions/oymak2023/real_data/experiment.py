"""Which attention reads the framed digit: every model on the same sequences, with the same budget, over several seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import t as student

from constructions.oymak2023.real_data.framed_digits import framed_digits
from constructions.oymak2023.real_data.rivals import RIVALS, Budget, train
from constructions.oymak2023.recorded import Recorded
from constructions.progress import reporting

__all__ = ["RealDataConfiguration", "RealDataExperiment", "experiment", "full", "quick"]


@dataclass(frozen=True)
class RealDataConfiguration:
    """See `framed_digits` and `Budget`; seeds: independent splits of the images, sequences and starts."""

    digits: tuple[int, int]
    tokens: int
    relevant: int
    sizes: tuple[int, int, int]
    contrast: float
    noise: float
    steps: int
    rates: tuple[float, ...]
    decays: tuple[float, ...]
    seeds: int
    seed: int


def full(seed: int = 0) -> RealDataConfiguration:
    """Threes and eights, two framed patches of eight, twelve seeds: about a minute."""
    return RealDataConfiguration((3, 8), 8, 2, (1000, 400, 2000), 1.0, 0.1, 200, (0.03, 0.1), (1e-3,), 12, seed)


def quick(seed: int = 0) -> RealDataConfiguration:
    """Two seeds, fewer sequences and steps: seconds."""
    return RealDataConfiguration((3, 8), 6, 2, (600, 300, 1000), 1.0, 0.1, 120, (0.03, 0.1), (1e-3,), 2, seed)


@dataclass(frozen=True, eq=False)
class RealDataExperiment(Recorded):
    """accuracy, validation (models, seeds): on the test and validation splits; numbers (models,): trainable parameters; frame (models, seeds): |cos| of the prompt and the
    frame's direction, nan for models without a prompt; example, example_attention: a
    test sequence (T, 10, 10) of the first seed (centred) and the softmax prompt on it."""

    configuration: RealDataConfiguration
    names: tuple[str, ...]
    accuracy: Float[np.ndarray, "models seeds"]
    validation: Float[np.ndarray, "models seeds"]
    numbers: np.ndarray
    frame: Float[np.ndarray, "models seeds"]
    example: Float[np.ndarray, "T 10 10"]
    example_attention: Float[np.ndarray, " T"]

    @property
    def mean(self) -> Float[np.ndarray, " models"]:
        """Mean test accuracy of each model."""
        return self.accuracy.mean(axis=1)

    @property
    def half_width(self) -> Float[np.ndarray, " models"]:
        """Half width of the 95 % interval of the mean over seeds (Student's t)."""
        seeds = self.accuracy.shape[1]
        return student.ppf(0.975, seeds - 1) * self.accuracy.std(axis=1, ddof=1) / np.sqrt(seeds)

    def advantage(self, rival: str) -> tuple[float, float]:
        """(mean, half width of the 95 % interval) of the softmax prompt's accuracy less the rival's, seed by seed. Raises ValueError for an unknown rival."""
        if rival not in self.names:
            raise ValueError(f"rival = {rival!r} is unknown. Choose among: {', '.join(map(repr, self.names))}.")
        gap = self.accuracy[self.names.index("softmax prompt")] - self.accuracy[self.names.index(rival)]
        return float(gap.mean()), float(student.ppf(0.975, len(gap) - 1) * gap.std(ddof=1) / np.sqrt(len(gap)))

    def __repr__(self) -> str:
        rows = zip(self.names, self.mean, self.half_width, strict=True)
        return f"<RealDataExperiment test accuracy: {', '.join(f'{n} {m:.3f} ± {h:.3f}' for n, m, h in rows)} (sampled, {self.accuracy.shape[1]} seeds)>"


def experiment(
    configuration: RealDataConfiguration | None = None, *, progress: bool | Callable[[float, str], None] | None = None
) -> RealDataExperiment:
    """Run the whole configuration (default: `full`). Raises ModuleNotFoundError without scikit-learn, ValueError as `framed_digits` or for fewer than 2 seeds."""
    c = full() if configuration is None else configuration
    if c.seeds < 2:
        raise ValueError(f"seeds = {c.seeds}: an interval needs at least two.")
    names = tuple(RIVALS)
    scores, frames = np.empty((2, len(names), c.seeds)), np.full((len(names), c.seeds), np.nan)
    numbers = np.zeros(len(names), dtype=np.int64)
    example, attention = np.empty(0), np.empty(0)
    budget = Budget(c.steps, c.rates, c.decays)
    with reporting(progress) as report:
        for s in range(c.seeds):
            data = framed_digits(
                digits=c.digits, tokens=c.tokens, relevant=c.relevant, sizes=c.sizes, contrast=c.contrast, noise=c.noise, seed=c.seed + s
            )  # fmt: skip
            for k, name in enumerate(names):
                report((s + k / len(names)) / c.seeds, f"framed digits, seed {s + 1} of {c.seeds}: {name}")
                found = train(name, data, budget, c.seed + s)
                scores[:, k, s] = found.accuracy, found.validation
                numbers[k] = found.numbers
                if len(found.weights) == 2 and found.weights[1].ndim == 1:
                    q = found.weights[1]
                    frames[k, s] = abs(float(q @ data.frame)) / float(np.linalg.norm(q))
                    if name == "softmax prompt" and s == 0:
                        x = data.test.x[0]
                        logits = x @ q
                        attention = np.exp(logits - logits.max())
                        attention /= attention.sum()
                        example = x.reshape(len(x), 10, 10)
    return RealDataExperiment(c, names, scores[0], scores[1], numbers, frames, example, attention)
