"""Alignment of the learned prompt and test error after three steps, against n, d and zeta; and the trajectory. Saved with its configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from constructions.oymak2023.data import ContextualData
from constructions.oymak2023.descent.alignment import predicted_alignment, predicted_samples
from constructions.oymak2023.descent.population import PopulationSteps, population_steps
from constructions.oymak2023.descent.rate import RateFit, fit_rate
from constructions.oymak2023.descent.steps import Loss, Steps, three_steps
from constructions.oymak2023.recorded import Recorded
from constructions.progress import reporting

__all__ = ["DescentConfiguration", "DescentExperiment", "experiment", "full", "model_errors", "quick"]

LEVEL = float(np.sqrt(0.5))
"""Success: at most 45 degrees between q_1 and q*."""

_BLOCK = 2**22
"""Numbers of a block of data that is drawn at once."""


@dataclass(frozen=True)
class DescentConfiguration:
    """context, label: |q*| and |w*|; tokens, delta_q, delta_w, noise: of the data. zeta with dimensions and ratios (n/d per step) make the first table; zetas with
    dimension, zeta_tokens (tokens there) and zeta_factors (multiples of the predicted n*) the second. prompt: |q_1|/|q*| that the prompt step is chosen to have with infinitely many samples."""

    context: float
    label: float
    tokens: int
    delta_q: float
    delta_w: float
    noise: float
    loss: Loss
    head_step: float
    prompt: float
    zeta: float
    dimensions: tuple[int, ...]
    ratios: tuple[float, ...]
    zetas: tuple[float, ...]
    dimension: int
    zeta_tokens: int
    zeta_factors: tuple[float, ...]
    seeds: int
    test: int
    seed: int

    def data(self, d: int, zeta: float, tokens: int | None = None) -> ContextualData:
        """The data model in d dimensions (default: `tokens` of the configuration)."""
        q_star, w_star = np.eye(d)[:2]
        count = self.tokens if tokens is None else tokens
        return ContextualData(self.context * q_star, self.label * w_star, zeta, count, self.delta_q, self.delta_w, self.noise)  # fmt: skip

    def prompt_step(self, data: ContextualData) -> float:
        """gamma."""
        tiny = population_steps(data, head_step=self.head_step, prompt_step=1e-9, loss=self.loss)
        return self.prompt / abs(tiny.prompt) * 1e-9

    def population(self, data: ContextualData) -> PopulationSteps:
        """The steps with infinitely many samples."""
        step = self.prompt_step(data)
        return population_steps(data, head_step=self.head_step, prompt_step=step, loss=self.loss)

    def predicted_alignment(self, data: ContextualData, n: float) -> float:
        """|cos| after steps on n samples each."""
        return predicted_alignment(data, n, head_step=self.head_step, loss=self.loss)

    def predicted_samples(self, data: ContextualData) -> float:
        """n*."""
        return predicted_samples(data, level=LEVEL, head_step=self.head_step, loss=self.loss)


def full(seed: int = 0) -> DescentConfiguration:
    """Four dimensions up to 320, four shares, 48 seeds."""
    return DescentConfiguration(
        2.0, 1.0, 5, 0.0, 0.0, 1.0, "squared", 0.5, 0.6, 0.2, (40, 80, 160, 320), (0.5, 1.0, 2.0, 3.0, 5.0),
        (0.1, 0.2, 0.3, 0.4), 120, 10, (0.4, 0.7, 1.2, 2.0), 48, 1000, seed,
    )  # fmt: skip


def quick(seed: int = 0) -> DescentConfiguration:
    """Three small dimensions: seconds."""
    return DescentConfiguration(
        2.0, 1.0, 5, 0.0, 0.0, 1.0, "squared", 0.5, 0.6, 0.2, (15, 30, 60), (1.0, 2.0, 4.0, 8.0), (0.2, 0.4), 30, 10, (0.25, 1.0, 4.0), 24, 300, seed,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class DescentExperiment(Recorded):
    """samples (dimensions, ratios): n per step; alignment, error (dimensions, ratios, seeds): |cos| of q_1 and q*, test error of (q_1, w_2). zeta_...: the same for the
    shares of relevant tokens. trajectory (steps, ratios, seeds): test error from zero (0.5), with w_1 alone, with (q_1, w_1), with (q_1, w_2), in the largest dimension."""

    configuration: DescentConfiguration
    samples: np.ndarray
    alignment: Float[np.ndarray, "dimensions ratios seeds"]
    error: Float[np.ndarray, "dimensions ratios seeds"]
    zeta_samples: np.ndarray
    zeta_alignment: Float[np.ndarray, "zetas factors seeds"]
    zeta_error: Float[np.ndarray, "zetas factors seeds"]
    trajectory: Float[np.ndarray, "steps ratios seeds"]
    trajectory_limit: Float[np.ndarray, " steps"]

    @cached_property
    def rate(self) -> RateFit:
        """n* against d; the derived exponent is 1."""
        c = self.configuration
        return fit_rate(np.array(c.dimensions), self.samples, self.alignment, LEVEL, seed=c.seed)

    @cached_property
    def zeta_rate(self) -> RateFit:
        """n* against zeta: zeta^-2 for small zeta, no pure power otherwise; see `predicted_zeta_samples` for what is derived."""
        c = self.configuration
        return fit_rate(np.array(c.zetas), self.zeta_samples, self.zeta_alignment, LEVEL, seed=c.seed)

    @cached_property
    def error_rate(self) -> RateFit:
        """The n at which the mean test error comes down to 0.2, against d. Raises ValueError where the table does not reach it."""
        c = self.configuration
        return fit_rate(np.array(c.dimensions), self.samples, self.error, 0.2, seed=c.seed)

    @property
    def predicted_exponent(self) -> float:
        """Exponent fitted in the same way to the derived n* at the same finite dimensions; tends to 1 as they grow."""
        return float(np.polyfit(np.log(self.configuration.dimensions), np.log(self.predicted_rate_samples), 1)[0])

    @property
    def predicted_rate_samples(self) -> Float[np.ndarray, " dimensions"]:
        """The derived n* at each dimension."""
        c = self.configuration
        return np.array([c.predicted_samples(c.data(d, c.zeta)) for d in c.dimensions])

    @property
    def predicted_zeta_samples(self) -> Float[np.ndarray, " zetas"]:
        """The derived n* at each share of relevant tokens."""
        c = self.configuration
        return np.array([c.predicted_samples(c.data(c.dimension, z, c.zeta_tokens)) for z in c.zetas])

    def __repr__(self) -> str:
        low, high = self.rate.interval
        largest = self.configuration.dimensions[-1]
        return (
            f"<DescentExperiment n* ~ d^{self.rate.exponent:.3f} (95 % interval [{low:.3f}, {high:.3f}], derived: {self.predicted_exponent:.3f} at these d, 1 in the limit); "
            f"n* = {self.rate.crossings[-1]:.4g} at d = {largest}, derived {self.predicted_rate_samples[-1]:.4g}>"
        )


def experiment(
    configuration: DescentConfiguration | None = None, *, progress: bool | Callable[[float, str], None] | None = None
) -> DescentExperiment:
    """Run the whole configuration (default: `full`). Each step has its own samples. Raises what the data model and `three_steps` raise."""
    c = full() if configuration is None else configuration
    first = np.array([[max(round(r * d), 2) for r in c.ratios] for d in c.dimensions])
    second = np.array([[max(round(f * c.predicted_samples(c.data(c.dimension, z, c.zeta_tokens))), 2) for f in c.zeta_factors] for z in c.zetas])  # fmt: skip
    cells = [
        (0, i, j, c.data(d, c.zeta), int(first[i, j])) for i, d in enumerate(c.dimensions) for j in range(len(c.ratios))
    ]
    cells += [(1, i, j, c.data(c.dimension, z, c.zeta_tokens), int(second[i, j])) for i, z in enumerate(c.zetas) for j in range(len(c.zeta_factors))]  # fmt: skip
    found = [np.empty((2, *table.shape, c.seeds)) for table in (first, second)]
    trajectory = np.empty((4, len(c.ratios), c.seeds))
    work = [float(data.dimension * data.tokens * n) for _, _, _, data, n in cells]
    done = np.cumsum([0.0, *work]) / sum(work)
    with reporting(progress) as report:
        for k, (table, i, j, data, n) in enumerate(cells):
            report(float(done[k]), f"descent: d = {data.dimension}, zeta = {data.share:.2g}, n = {n}")
            rng = np.random.default_rng([c.seed, table, i, j])
            steps = _runs(c, data, n, rng)
            errors = model_errors(data, steps.q_1, steps.w_2, c.test, rng)
            found[table][:, i, j] = np.abs(steps.alignment(data.q_star)), errors
            if table == 0 and i == len(c.dimensions) - 1:
                zero = np.zeros_like(steps.w_1)
                before = [model_errors(data, q, steps.w_1, c.test, rng) for q in (zero, steps.q_1)]
                trajectory[:, j] = np.full(c.seeds, 0.5), *before, errors
    limit = _limit_errors(c, c.data(c.dimensions[-1], c.zeta))
    return DescentExperiment(c, first, found[0][0], found[0][1], second, found[1][0], found[1][1], trajectory, limit)


def _runs(c: DescentConfiguration, data: ContextualData, n: int, rng: np.random.Generator) -> Steps:
    """c.seeds independent runs of three steps on 3n fresh samples, in blocks."""
    block = max(1, _BLOCK // (3 * n * data.tokens * data.dimension))
    parts = []
    step = c.prompt_step(data)
    for start in range(0, c.seeds, block):
        runs = min(block, c.seeds - start)
        x, y = data.sample(runs * 3 * n, rng)
        x, y = x.reshape(runs, 3 * n, *x.shape[1:]), y.reshape(runs, 3 * n)
        parts.append(three_steps(x, y, head_step=c.head_step, prompt_step=step, loss=c.loss, fresh=True))
    return Steps(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("w_1", "q_1", "w_2")))


def _limit_errors(c: DescentConfiguration, data: ContextualData) -> np.ndarray:
    """Test errors of the trajectory with infinitely many samples, from 100000 sequences."""
    s = c.population(data).steps(data)
    rng = np.random.default_rng([c.seed, 2])
    zero = np.zeros_like(s.q_1)
    pairs = ((zero, s.w_1), (s.q_1, s.w_1), (s.q_1, s.w_2))
    return np.array([0.5, *(model_errors(data, q[None], w[None], 100_000, rng)[0] for q, w in pairs)])


def model_errors(
    data: ContextualData,
    q: Float[np.ndarray, "runs d"],
    w: Float[np.ndarray, "runs d"],
    test: int,
    seed: int | np.random.Generator,
) -> Float[np.ndarray, " runs"]:
    """Test error of sign f for each model (q, w), on `test` fresh sequences each (ties count one half).

    A model sees its data through <q, x> and <w, x> only, so these two projections of the noise are drawn, not the tokens: the same law. Needs Gaussian noise (ValueError).
    """
    if data.bound is not None or data.noisy_relevant:
        raise ValueError("bound or noisy_relevant is set: the projections of the noise are Gaussian for unbounded noise on irrelevant tokens only.")  # fmt: skip
    rng = np.random.default_rng(seed)
    errors = np.empty(len(q))
    for k, (prompt, head) in enumerate(zip(q, w, strict=True)):
        y = 2.0 * rng.integers(0, 2, test) - 1.0
        delta_q, delta_w = data.pairs[rng.integers(0, len(data.pairs), test)].T
        size = float(np.linalg.norm(prompt))
        shared = float(head @ prompt) / size if size > 0 else 0.0
        own = float(np.sqrt(max(head @ head - shared * shared, 0.0)))
        g = rng.standard_normal((test, data.irrelevant))
        a, b, e, f = (float(v @ u) for v in (prompt, head) for u in (data.q_star, data.w_star))
        logit = data.noise * size * g - (a * delta_q + b * y * delta_w)[:, None]
        top = np.maximum(logit.max(axis=1), a + b * y)
        weight, relevant = np.exp(logit - top[:, None]), data.relevant * np.exp(a + b * y - top)
        # given the logits, the weighted mean of the heads' scores: the rest of the noise is one normal number
        score = weight.sum(axis=1) * -(e * delta_q + f * y * delta_w) + data.noise * shared * (weight * g).sum(axis=1)
        score += data.noise * own * np.sqrt((weight**2).sum(axis=1)) * rng.standard_normal(test)
        value = y * (score + relevant * (e + f * y))
        errors[k] = (value < 0).mean() + (value == 0).mean() / 2
    return errors
