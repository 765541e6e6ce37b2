"""The best temperature of a known direction: a short prompt tells tokens apart too little, a long one listens to their noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize_scalar

from constructions.oymak2023.asymptotics.features import known_prompt
from constructions.oymak2023.asymptotics.formula import check_samples, predicted_error
from constructions.oymak2023.asymptotics.simulate import head_errors
from constructions.oymak2023.data import ContextualData
from constructions.oymak2023.errors import ContextError
from constructions.oymak2023.recorded import Recorded
from constructions.progress import reporting

__all__ = ["TemperatureScan", "mass_peak", "optimal_temperature", "scan_temperatures"]


def mass_peak(data: ContextualData) -> float:
    """tau = (1 + delta_q)/sigma^2 (the mean delta_q): where q = tau q* puts most mass on the relevant tokens, to leading order in 1/T. The least error comes earlier:
    the noise that passes has the variance e^(tau^2 sigma^2 |q*|^2)/T per unit of mass squared, which grows with tau."""
    return (1 + float(data.pairs[:, 0].mean())) / data.noise**2


def optimal_temperature(data: ContextualData, n: int, *, closed: bool = False) -> tuple[float, float]:
    """(tau, error): the least predicted test error of the prompts tau q*, tau between 0 and the peak of the mass (at most sigma tau |q*| = 4).

    Brent's method between the neighbours of the best of 13 temperatures. Raises ContextError as `predicted_error`.
    """
    check_samples(n, data.dimension)
    known_prompt(data, data.q_star)
    if mass_peak(data) <= 0:
        raise ContextError(argument="delta_q", value=data.delta_q, reason="is at most -1 on average: the context of irrelevant tokens is not behind that of relevant ones",
                           next_step="Take delta_q > -1; otherwise -q_star is the direction to scan.")  # fmt: skip
    top = min(1.2 * mass_peak(data), _largest(data))

    def error(tau: float) -> float:
        return predicted_error(data, tau * data.q_star, n, closed=closed).error

    taus = np.linspace(0, top, 13)
    best = int(np.argmin([error(t) for t in taus]))
    bounds = (taus[max(best - 1, 0)], taus[min(best + 1, 12)])
    found = minimize_scalar(error, bounds=bounds, method="bounded", options={"xatol": 1e-3 * top})
    return float(found.x), float(found.fun)  # pyright: ignore[reportAttributeAccessIssue]


def _largest(data: ContextualData) -> float:
    """sigma tau |q*| = 4."""
    return 4 / (data.noise * float(np.linalg.norm(data.q_star)))


@dataclass(frozen=True, eq=False)
class TemperatureScan(Recorded):
    """description: of the data and n. taus: where both were evaluated; formula, closed: predictions there; errors (taus, seeds): Monte Carlo, the same random numbers at every tau;
    predicted, predicted_closed: optimal temperatures of the formulas; found, interval: of a cubic through the Monte Carlo means near the least, with a 99 % bootstrap interval over seeds."""

    description: str
    taus: Float[np.ndarray, " taus"]
    formula: Float[np.ndarray, " taus"]
    closed: Float[np.ndarray, " taus"]
    closed_reliable: np.ndarray
    errors: Float[np.ndarray, "taus seeds"]
    predicted: float
    predicted_error: float
    predicted_closed: float
    peak: float
    found: float
    interval: tuple[float, float]

    @property
    def agrees(self) -> bool:
        """Whether the formula's optimum lies in the interval of the one found, both through the same cubic (which moves either by some thousandths)."""
        return self.interval[0] <= self.fitted_prediction <= self.interval[1]

    @property
    def fitted_prediction(self) -> float:
        """Optimum of the cubic through the formula's values at the same temperatures."""
        return _optima(self.taus, self.formula[:, None].T, _near(self.errors))[0]

    def __repr__(self) -> str:
        low, high = self.interval
        return f"<TemperatureScan predicted tau = {self.predicted:.4g}, found {self.found:.4g} in [{low:.4g}, {high:.4g}] (99 %), {self.errors.shape[1]} seeds>"


def scan_temperatures(
    data: ContextualData,
    n: int,
    *,
    seeds: int = 100,
    seed: int = 0,
    points: int = 13,
    progress: bool | Callable[[float, str], None] | None = None,
) -> TemperatureScan:
    """Predict the optimal temperature and find it: Monte Carlo at `points` temperatures around the predicted one.

    Raises ContextError as `predicted_error`, ValueError for fewer than 7 points or 2 seeds.
    """
    if points < 7 or seeds < 2:
        raise ValueError(
            f"points = {points}, seeds = {seeds}: a curve with an interval needs at least 7 points and 2 seeds."
        )
    with reporting(progress) as report:
        report(0.0, "optimal temperature from the formula")
        tau, least = optimal_temperature(data, n)
        width = max(tau, 0.25 * mass_peak(data))  # also where no temperature beats the plain average
        taus = np.linspace(max(tau - 0.6 * width, 0.0), min(tau + 0.7 * width, _largest(data)), points)
        formula = np.array([predicted_error(data, t * data.q_star, n).error for t in taus])
        closed = [predicted_error(data, t * data.q_star, n, closed=True) for t in taus]
        errors = np.empty((len(taus), seeds))
        for k, t in enumerate(taus):
            report((k + 1) / (len(taus) + 1), f"Monte Carlo at tau = {t:.3g}")
            errors[k] = head_errors(data, t * data.q_star, n, seeds=seeds, seed=seed)
    found, interval = _found(taus, errors, seed)
    return TemperatureScan(
        f"{data!r}, n = {n}", taus, formula, np.array([c.error for c in closed]), np.array([c.reliable for c in closed]), errors, tau, least,
        optimal_temperature(data, n, closed=True)[0], mass_peak(data), found, interval,
    )  # fmt: skip


def _found(taus: np.ndarray, errors: np.ndarray, seed: int, draws: int = 2000) -> tuple[float, tuple[float, float]]:
    chosen = np.random.default_rng(seed).integers(0, errors.shape[1], (draws, errors.shape[1]))
    means = np.concatenate([errors.mean(axis=1)[None], errors[:, chosen].mean(axis=2).T])
    least = _optima(taus, means, _near(errors))
    low, high = np.quantile(least[1:], [0.005, 0.995])
    return float(least[0]), (float(low), float(high))


def _near(errors: np.ndarray) -> slice:
    """Seven temperatures around the least mean."""
    centre = int(np.clip(errors.mean(axis=1).argmin(), 3, len(errors) - 4))
    return slice(centre - 3, centre + 4)


def _optima(taus: np.ndarray, curves: np.ndarray, near: slice) -> np.ndarray:
    """Where the cubic through the logarithm of each curve (rows) is least."""
    width, centre = taus[1] - taus[0], taus[near][3]
    fits = np.polynomial.polynomial.polyfit((taus[near] - centre) / width, np.log(curves[:, near]).T, 3)
    fine = np.linspace(-3, 3, 1201)
    return fine[np.polynomial.polynomial.polyval(fine, fits).argmin(axis=1)] * width + centre
