"""The four models trained on samples and tested on fresh ones, beside what is proved of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from constructions.oymak2023.data import ContextualData
from constructions.oymak2023.recorded import Recorded
from constructions.oymak2023.separation.accuracy import rival_bound
from constructions.oymak2023.separation.training import KINDS, answers, train
from constructions.progress import reporting
from verify.certificate import upward
from verify.context_rival import RIVALS

__all__ = ["TrainedOnSamples", "trained_on_samples"]


@dataclass(frozen=True, eq=False, repr=False)
class TrainedOnSamples(Recorded):
    """test, train: (4, seeds) accuracies in the order of `KINDS`; bound: (4,) proved best accuracy of any weights on the data without noise (1 for
    prompt-attention: no limit). noisy: whether the data had noise, of which the bounds say nothing."""

    setting: str
    noisy: bool
    test: Float[np.ndarray, "4 seeds"]
    train: Float[np.ndarray, "4 seeds"]
    bound: Float[np.ndarray, " 4"]
    train_size: int
    test_size: int
    restarts: int
    steps: int
    seed: int

    @property
    def mean(self) -> Float[np.ndarray, " 4"]:
        """Mean test accuracy over seeds."""
        return self.test.mean(axis=1)

    @property
    def error(self) -> Float[np.ndarray, " 4"]:
        """Standard error of `mean` over seeds."""
        return self.test.std(axis=1, ddof=1) / np.sqrt(self.test.shape[1])

    def __repr__(self) -> str:
        rows = (
            f"{kind} {m:.3f} +- {e:.3f} (bound {upward(b, 3)})"
            for kind, m, e, b in zip(KINDS, self.mean, self.error, self.bound, strict=True)
        )
        return f"<TrainedOnSamples {self.test.shape[1]} seeds, sampled: {', '.join(rows)}>"


def trained_on_samples(
    data: ContextualData,
    *,
    seeds: int = 8,
    train_size: int = 100,
    test_size: int = 1000,
    restarts: int = 6,
    steps: int = 200,
    seed: int = 0,
    progress: bool | Callable[[float, str], None] | None = None,
) -> TrainedOnSamples:
    """Every model trained by Adam on `train_size` sequences from `restarts` random weights, the restart of least training loss tested, `seeds` times.

    All seeds and restarts are one array. Raises ValueError for fewer than two seeds.
    """
    if seeds < 2:
        raise ValueError(f"seeds = {seeds}: at least 2 are needed for an error bar")
    rng = np.random.default_rng(seed)
    drawn = [data.sample(train_size + test_size, rng) for _ in range(seeds)]
    x, y = np.stack([d[0] for d in drawn]), np.stack([d[1] for d in drawn])
    share = np.full((seeds, data.tokens), 1 / data.tokens)
    fit = (x[:, :train_size], y[:, :train_size], share)
    test, trained = [], []
    with reporting(progress) as report:
        for i, kind in enumerate(KINDS):
            found = train(
                kind,
                fit,
                restarts=restarts,
                steps=steps,
                seed=seed + i,
                report=lambda done, i=i, kind=kind: report((i + done) / len(KINDS), f"training {kind}"),
            )
            chosen = found.chosen()
            f = answers(kind, chosen, x, share)[:, 0]
            right = 0.5 * (1 + np.sign(y * f))
            trained.append(right[:, :train_size].mean(axis=1))
            test.append(right[:, train_size:].mean(axis=1))
    bound = [rival_bound(data, kind).accuracy[1] if kind in RIVALS else 1.0 for kind in KINDS]
    return TrainedOnSamples(
        repr(data),
        data.noise > 0,
        np.array(test),
        np.array(trained),
        np.array(bound),
        train_size,
        test_size,
        restarts,
        steps,
        seed,
    )
