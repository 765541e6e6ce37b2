"""How cold a prompt tau q_star has to be: the least margin as a function of the temperature, in float64 (the kernel proves it afterwards)."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize_scalar

from constructions.oymak2023.data import ContextualData
from verify.context_attack import Plane, worst_noise

__all__ = ["Reach", "least_margins", "noise_free_temperature", "reach", "smallest_temperature"]

_PER_DECADE = 24
_COLDEST = 120.0
"""Gap of logits at which the other tokens' weight is below every margin that float64 can tell from 1."""


def least_margins(
    data: ContextualData, temperatures: Float[np.ndarray, " k"], spread: tuple[float, float] = (0.0, 0.0)
) -> Float[np.ndarray, " k"]:
    """The least y f(X) over the support, for prompts temperatures * q_star and the head w_star/|w_star|^2. (k,).

    The worst noise is exact up to rounding (`verify.context_attack`); by orthogonality both labels give the same. spread: half-widths of the boxes around the pairs.
    """
    taus = np.asarray(temperatures, dtype=np.float64)
    points = np.unique(
        np.concatenate([data.pairs + np.multiply(sign, spread) for sign in itertools.product((1, -1), repeat=2)]),
        axis=0,
    )
    size_q, size_w = np.linalg.norm(data.q_star), np.linalg.norm(data.w_star)
    tau, dq = (a.ravel() for a in np.broadcast_arrays(taus[:, None], points[:, 0]))
    dw = np.broadcast_to(points[:, 1], (len(taus), len(points))).ravel()
    odds = math.log(data.irrelevant / data.relevant) - tau * size_q**2 * (1 + dq)
    ones = np.ones(len(tau))
    # w is orthogonal to the prompt, so that beta = |w| and alpha = 0
    plane = Plane(odds, ones, -dw, np.abs(tau) * size_q, 0 * ones, ones / size_w)
    worst = worst_noise(plane, data.radius, data.noisy_relevant).margin
    return worst.reshape(len(taus), len(points)).min(axis=1)


def noise_free_temperature(data: ContextualData, margin: float) -> float:
    """The smallest temperature with noise-free margin >= margin, for margin < 1 and all delta_q > -1, delta_w > -1 (else NaN).

    rho - (1 - rho) delta_w >= m with rho = sigmoid(log(share/(1 - share)) + tau Q^2 (1 + delta_q)) is linear in tau after a logit:
    tau >= (log((m + delta_w)/(1 - m)) - log(share/(1 - share))) / (Q^2 (1 + delta_q)); 0 at least.
    """
    dq, dw = data.pairs.T
    if not (margin < 1 and (dq > -1).all() and (dw > -1).all()):
        return math.nan
    size = float(data.q_star @ data.q_star)
    with np.errstate(divide="ignore"):
        needed = np.log(np.maximum(margin + dw, 0.0) / (1 - margin)) - math.log(data.relevant / data.irrelevant)
    return max(0.0, float((needed / (size * (1 + dq))).max()))


@dataclass(frozen=True)
class Reach:
    """margin: the largest least margin found, or its limit for cold prompts; temperature: where, inf for a limit;
    isolated: whether cold prompts of one sign single out the relevant tokens whatever the noise."""

    margin: float
    temperature: float
    isolated: bool


def isolation_gap(data: ContextualData, sign: int, spread: tuple[float, float] = (0.0, 0.0)) -> float:
    """The least gap of logits between relevant and irrelevant tokens per unit of temperature: sign (1 + delta_q) Q^2 less r Q, or 2 r Q where
    relevant tokens are noisy. Positive: isolation."""
    size = float(np.linalg.norm(data.q_star))
    lost = (2 if data.noisy_relevant else 1) * data.radius * size
    return float((sign * (1 + data.pairs[:, 0])).min() - spread[0]) * size**2 - lost


def reach(data: ContextualData, spread: tuple[float, float] = (0.0, 0.0)) -> Reach:
    """The largest margin of prompts tau q_star, tau real."""
    best = Reach(-math.inf, 0.0, False)
    for sign in (1, -1):
        if isolation_gap(data, sign, spread) > 0:
            # only relevant tokens are left: their value is 1, less r/W where the noise points against w_star
            limit = 1 - (data.radius / float(np.linalg.norm(data.w_star)) if data.noisy_relevant else 0.0)
            best = max(best, Reach(limit, sign * math.inf, True), key=lambda r: r.margin)
        taus = _grid(data, sign, spread)
        margins = least_margins(data, taus, spread)
        if best.isolated and margins.max() <= best.margin:
            continue
        top = int(np.argmax(margins))
        low, high = taus[max(top - 1, 0)], taus[min(top + 1, len(taus) - 1)]
        found, value = float(taus[top]), float(margins[top])
        if low != high:
            found, value = _near(data, spread, *sorted((float(low), float(high))), found, value)
        best = max(best, Reach(value, found, best.isolated), key=lambda r: r.margin)
    return best


def _near(
    data: ContextualData, spread: tuple[float, float], low: float, high: float, found: float, value: float
) -> tuple[float, float]:
    """A maximum of the margin on [low, high], or (found, value) where that is no better."""
    near: Any = minimize_scalar(
        lambda t: -float(least_margins(data, np.array([t]), spread)[0]), bounds=(low, high), method="bounded"
    )
    return (float(near.x), -float(near.fun)) if -near.fun > value else (found, value)


def smallest_temperature(data: ContextualData, margin: float, spread: tuple[float, float] = (0.0, 0.0)) -> float | None:
    """The temperature of least size with margin at least `margin`, to 1e-12 relative; None where a grid of both signs shows none.

    Where the relevant tokens are isolated by positive temperatures, and their own noise leaves them above the margin, the temperatures that reach
    it form an interval up to infinity, so the smallest is a true threshold: for fixed noise the condition is n_R (v_R - m) + sum_t e^{-tau g_t} (v_t - m) >= 0 with
    gaps g_t > 0 and v_R >= m, of which every negative term shrinks with tau.
    """
    found: list[float] = []
    peak: Reach | None = None
    for sign in (1, -1):
        taus = _grid(data, sign, spread)
        good = least_margins(data, taus, spread) >= margin
        if not good.any():
            peak = peak or reach(data, spread)  # the margin may lie between the grid's best and the maximum
            if peak.margin < margin or not math.isfinite(peak.temperature) or peak.temperature * sign <= 0:
                continue
            inside, outside = peak.temperature, 0.0
        else:
            first = int(np.argmax(good))
            if first == 0:
                return 0.0
            outside, inside = float(taus[first - 1]), float(taus[first])
        for _ in range(60):
            middle = 0.5 * (outside + inside)
            if abs(inside - outside) <= 1e-12 * abs(inside):
                break
            if least_margins(data, np.array([middle]), spread)[0] >= margin:
                inside = middle
            else:
                outside = middle
        found.append(inside)
    return min(found, key=abs) if found else None


def _grid(data: ContextualData, sign: int, spread: tuple[float, float]) -> Float[np.ndarray, " k"]:
    """0, then temperatures of growing size and one sign."""
    size = float(data.q_star @ data.q_star)
    unit = size * max(1.0, float(np.abs(1 + data.pairs[:, 0]).max()))
    gap = isolation_gap(data, sign, spread)
    coldest = _COLDEST / gap if gap > 1e-6 * size else _COLDEST / unit
    warmest = 1e-3 / unit
    count = 2 + round(_PER_DECADE * math.log10(max(coldest / warmest, 10.0)))
    return sign * np.concatenate([[0.0], np.geomspace(warmest, max(coldest, 10 * warmest), count)])
