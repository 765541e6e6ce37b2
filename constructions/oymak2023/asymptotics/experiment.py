"""The formula against Monte Carlo on a grid of settings, and the optimal temperature: one experiment, saved with its configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float
from scipy.stats import t as student

from constructions.oymak2023.asymptotics.formula import predicted_error
from constructions.oymak2023.asymptotics.simulate import head_errors
from constructions.oymak2023.asymptotics.temperature import TemperatureScan, scan_temperatures
from constructions.oymak2023.data import ContextualData
from constructions.oymak2023.recorded import Recorded
from constructions.progress import reporting

__all__ = ["AsymptoticsConfiguration", "AsymptoticsExperiment", "Setting", "experiment", "full", "quick"]

Setting = tuple[float, float, tuple[float, ...], float, float, float]
"""(zeta, delta_q, values of delta_w, tau, tilt, d/n): the prompt is tau (q* + tilt w*/|w*|)."""


@dataclass(frozen=True)
class AsymptoticsConfiguration:
    """dimension d, tokens T, noise sigma, |q*| = 1, label: |w*|; settings of the grid; seeds: training sets per setting; seed of everything;
    temperature: the setting whose tau is scanned (its own tau and tilt unused); temperature_seeds: training sets per temperature."""

    dimension: int
    tokens: int
    noise: float
    label: float
    settings: tuple[Setting, ...]
    seeds: int
    seed: int
    temperature: Setting
    temperature_seeds: int

    def data(self, setting: Setting) -> ContextualData:
        """The data model of one setting."""
        zeta, delta_q, delta_w, _, _, _ = setting
        q_star, w_star = np.eye(self.dimension)[:2]
        shift = delta_w[0] if len(delta_w) == 1 else delta_w
        return ContextualData(q_star, self.label * w_star, zeta, self.tokens, delta_q, shift, self.noise)

    def samples(self, setting: Setting) -> int:
        """n for the setting's d/n."""
        return round(self.dimension / setting[-1])

    def prompt(self, setting: Setting) -> Float[np.ndarray, " d"]:
        """q of the setting."""
        q = np.zeros(self.dimension)
        q[0], q[1] = setting[3], setting[3] * setting[4]
        return q


def full(seed: int = 0) -> AsymptoticsConfiguration:
    """36 settings: two shares of relevant tokens, three laws of the shifts, three temperatures and d/n, some prompts off q*."""
    laws = ((0.0, (0.5,)), (0.5, (1.0,)), (0.5, (0.5, -0.5)))
    grid = [
        (zeta, delta_q, delta_w, tau, 0.2 if tau > 0 and (k + j) % 3 == 2 else 0.0, ratio)
        for j, (zeta, (delta_q, delta_w)) in enumerate(product((0.2, 0.4), laws))
        for k, (tau, ratio) in enumerate(product((0.0, 0.6, 1.2), (0.2, 0.6)))
    ]
    return AsymptoticsConfiguration(100, 200, 1.0, 0.3, tuple(grid), 100, seed, (0.4, 0.0, (0.5,), 0.0, 0.0, 0.25), 100)


def quick(seed: int = 0) -> AsymptoticsConfiguration:
    """Six small settings: seconds, for tests and for a first look."""
    grid = [(0.4, 0.5, (1.0,), tau, 0.0, ratio) for tau, ratio in product((0.0, 0.5, 1.0), (0.25, 0.5))]
    return AsymptoticsConfiguration(30, 60, 1.0, 0.5, tuple(grid), 40, seed, (0.4, 0.0, (0.5,), 0.0, 0.0, 0.25), 20)


@dataclass(frozen=True, eq=False)
class AsymptoticsExperiment(Recorded):
    """configuration, then per setting: predicted (this T, corrected for finite d), limit (this T, d to infinity), closed (closed form), closed_reliable (whether that
    claims to hold), errors (settings, seeds) of the Monte Carlo; temperature: the scan."""

    configuration: AsymptoticsConfiguration
    predicted: Float[np.ndarray, " settings"]
    limit: Float[np.ndarray, " settings"]
    closed: Float[np.ndarray, " settings"]
    closed_reliable: np.ndarray
    errors: Float[np.ndarray, "settings seeds"]
    temperature: TemperatureScan

    @property
    def settings(self) -> int:
        """How many settings."""
        return len(self.predicted)

    @property
    def measured(self) -> Float[np.ndarray, " settings"]:
        """Monte Carlo means."""
        return self.errors.mean(axis=1)

    @property
    def band(self) -> Float[np.ndarray, " settings"]:
        """Half width of the 99 % band of the mean: Student's t over the seeds."""
        seeds = self.errors.shape[1]
        return student.ppf(0.995, seeds - 1) * self.errors.std(axis=1, ddof=1) / np.sqrt(seeds)

    def inside(self, values: Float[np.ndarray, " settings"] | None = None) -> np.ndarray:
        """Which of the values (default: the predictions) lie inside the band."""
        return np.abs((self.predicted if values is None else values) - self.measured) <= self.band

    @property
    def settings_inside_band(self) -> int:
        """How many predictions lie inside the 99 % band of the Monte Carlo; a true formula has 0.99 times `settings` there on average."""
        return int(self.inside().sum())

    def __repr__(self) -> str:
        count = f"{self.settings_inside_band} of {self.settings} settings inside the 99 % band (expected {0.99 * self.settings:.1f})"
        return f"<AsymptoticsExperiment {count}; {self.temperature!r}>"


def experiment(
    configuration: AsymptoticsConfiguration | None = None,
    *,
    progress: bool | Callable[[float, str], None] | None = None,
) -> AsymptoticsExperiment:
    """Run the whole configuration (default: `full`). Raises ContextError for a setting that the formula refuses, before anything is run."""
    c = full() if configuration is None else configuration
    cases = [(c.data(s), c.prompt(s), c.samples(s)) for s in c.settings]
    closed = [predicted_error(*case, closed=True) for case in cases]
    errors, predictions = np.empty((len(cases), c.seeds)), []
    with reporting(progress) as report:
        for k, case in enumerate(cases):
            report(0.7 * k / len(cases), f"asymptotics: setting {k + 1} of {len(cases)}")
            predictions.append(predicted_error(*case, seed=c.seed))
            errors[k] = head_errors(*case, seeds=c.seeds, seed=c.seed + 1000 * (k + 1))
        scan = scan_temperatures(
            c.data(c.temperature), c.samples(c.temperature), seeds=c.temperature_seeds, seed=c.seed,
            progress=lambda done, words: report(0.7 + 0.3 * done, words),
        )  # fmt: skip
    return AsymptoticsExperiment(
        c, np.array([p.error for p in predictions]), np.array([p.limit for p in predictions]), np.array([p.error for p in closed]),
        np.array([p.reliable for p in closed]), errors, scan,
    )  # fmt: skip
