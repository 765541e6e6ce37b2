"""The sample size at which descent succeeds, and the exponent with which it grows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

__all__ = ["RateFit", "crossing", "fit_rate"]


@dataclass(frozen=True)
class RateFit:
    """n* = constant x^exponent; interval: of the exponent, at the given confidence. crossings: n* at each x; crossing_intervals: likewise. undefined: share of the
    bootstrap draws in which a curve missed the level (left out of the intervals)."""

    exponent: float
    constant: float
    interval: tuple[float, float]
    confidence: float
    crossings: tuple[float, ...]
    crossing_intervals: tuple[tuple[float, float], ...]
    undefined: float

    def contains(self, exponent: float) -> bool:
        """Whether an exponent lies in the interval."""
        return self.interval[0] <= exponent <= self.interval[1]

    def __repr__(self) -> str:
        low, high = self.interval
        return f"<RateFit exponent {self.exponent:.3f} in [{low:.3f}, {high:.3f}] ({self.confidence:.0%}, bootstrap over seeds)>"


def fit_rate(
    x: Float[np.ndarray, " points"],
    samples: Float[np.ndarray, "points sizes"],
    values: Float[np.ndarray, "points sizes seeds"],
    level: float,
    *,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> RateFit:
    """Least squares of ln n* on ln x, n* where the mean over seeds crosses `level` (see `crossing`), with a bootstrap over seeds within each cell.

    Raises ValueError for fewer than two points, or where the level is not crossed.
    """
    if len(x) < 2:
        raise ValueError(f"x has {len(x)} points: an exponent needs at least two.")
    rng = np.random.default_rng(seed)
    stars = np.empty((draws + 1, len(x)))
    for k in range(len(x)):
        chosen = rng.integers(0, values.shape[2], (draws, *values.shape[1:]))
        means = np.take_along_axis(values[k][None], chosen, axis=2).mean(axis=2)
        stars[:, k] = crossing(samples[k], np.concatenate([values[k].mean(axis=1)[None], means]), level)
    if not np.isfinite(stars[0]).all():
        missed = [float(v) for v in np.asarray(x)[~np.isfinite(stars[0])]]
        raise ValueError(f"level = {level} is not crossed at x = {missed}: measure at smaller or larger sample sizes.")
    good = stars[np.isfinite(stars).all(axis=1)]
    t = np.log(x) - np.log(x).mean()
    slopes = np.log(good) @ t / (t @ t)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(slopes[1:], tails)
    intervals = np.quantile(good[1:], tails, axis=0).T
    return RateFit(
        float(slopes[0]), float(np.exp(np.log(stars[0]).mean() - slopes[0] * np.log(x).mean())), (float(low), float(high)), confidence,
        tuple(map(float, stars[0])), tuple((float(a), float(b)) for a, b in intervals), 1 - len(good) / len(stars),
    )  # fmt: skip


def crossing(
    samples: Float[np.ndarray, " sizes"], values: Float[np.ndarray, "... sizes"], level: float
) -> Float[np.ndarray, ...]:
    """Where each curve first passes the level, by linear interpolation in ln n; nan where it does not."""
    above = values >= level if values[..., -1].mean() >= values[..., 0].mean() else values <= level
    first = above.argmax(axis=-1)
    ok = above.any(axis=-1) & (first > 0)
    right = np.where(ok, first, 1)[..., None]
    v0, v1 = (np.take_along_axis(values, right - k, axis=-1)[..., 0] for k in (1, 0))
    t0, t1 = (np.log(samples)[right - k][..., 0] for k in (1, 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(ok, np.exp(t0 + (level - v0) / (v1 - v0) * (t1 - t0)), np.nan)
