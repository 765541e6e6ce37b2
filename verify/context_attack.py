"""The worst noise that prompt-attention can meet on contextual data, in float64: where to look. Nothing here is believed.

For weights e^{s_t} and signed values v_t, the margin sum e^{s_t} v_t / sum e^{s_t} is at least m exactly if sum e^{s_t} (v_t - m) >= 0, and
that sum is minimal where every token's own term is. So the least margin is the fixed point of: take the minimising noise of every token
for m, put m to the margin there (Dinkelbach's iteration for fractional programs). It decreases; where it does not, m is a lower bound, and
every other step bisects between the two.

The noise e of a token enters through <q, e> and <u, e> alone, u = y w. In the plane of q and u, with alpha = <u, q>/|q| and
beta = |u - alpha q/|q||, the worst e of given <q, e> lies on the sphere: e = -r cos(t) q/|q| - r sin(t) (u - ..)/beta, t in [0, pi].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import expit

__all__ = ["Plane", "Worst", "worst_noise"]

_GRIDS = (181, 33, 33, 33, 33, 33)
"""Angles of the first grid and of those that zoom in."""
_ROUNDS = 60


@dataclass(frozen=True, eq=False)
class Plane:
    """Cases (a label and a pair delta each), all arrays (cases,). log_odds: log of the irrelevant tokens' weight over the relevant ones'
    without noise; relevant, irrelevant: their signed values y<w, x>; kappa = |q|; alpha = y<w, q>/|q|; beta >= 0 as above."""

    log_odds: Float[np.ndarray, " cases"]
    relevant: Float[np.ndarray, " cases"]
    irrelevant: Float[np.ndarray, " cases"]
    kappa: Float[np.ndarray, " cases"]
    alpha: Float[np.ndarray, " cases"]
    beta: Float[np.ndarray, " cases"]


@dataclass(frozen=True, eq=False)
class Worst:
    """margin: (cases,) the least y f(X) found; angles of the noise that gives it, on relevant and on irrelevant tokens."""

    margin: Float[np.ndarray, " cases"]
    relevant_angle: Float[np.ndarray, " cases"]
    irrelevant_angle: Float[np.ndarray, " cases"]


def worst_noise(plane: Plane, radius: float, noisy_relevant: bool) -> Worst:
    """The fixed point, from the noise-free margin downwards, every other step by bisection."""
    share = expit(-plane.log_odds)
    margin = share * plane.relevant + (1 - share) * plane.irrelevant
    first = second = np.full(len(margin), np.pi / 2)
    if radius == 0:
        return Worst(margin, first, second)
    reach = np.hypot(plane.alpha, plane.beta) * radius
    low = np.minimum(plane.relevant, plane.irrelevant) - reach
    scale = np.abs(plane.relevant) + np.abs(plane.irrelevant) + reach
    best = Worst(np.full_like(margin, np.inf), first, second)
    for count in range(_ROUNDS):
        asked = margin if count % 2 == 0 else low + 0.5 * (margin - low)
        second = _lowest(plane, plane.irrelevant - asked, radius)
        log_odds = plane.log_odds - plane.kappa * radius * np.cos(second)
        value = plane.relevant
        if noisy_relevant:
            first = _lowest(plane, plane.relevant - asked, radius)
            log_odds = log_odds + plane.kappa * radius * np.cos(first)
            value = value + _shift(plane, first, radius)
        share = expit(-log_odds)
        found = share * value + (1 - share) * (plane.irrelevant + _shift(plane, second, radius))
        better = found < best.margin
        best = Worst(
            np.where(better, found, best.margin),
            np.where(better, first, best.relevant_angle),
            np.where(better, second, best.irrelevant_angle),
        )
        low = np.where(found >= asked, np.maximum(low, asked), low)
        margin = np.minimum(found, margin)
        settled = (margin - low <= 1e-15 * scale) | ((count % 2 == 0) & (found >= asked - 1e-15 * scale))
        if settled.all():
            break
    return best


def _shift(plane: Plane, angle: Float[np.ndarray, " cases"], radius: float) -> Float[np.ndarray, " cases"]:
    """<u, e> at these angles."""
    return -radius * (plane.alpha * np.cos(angle) + plane.beta * np.sin(angle))


def _lowest(plane: Plane, gap: Float[np.ndarray, " cases"], radius: float) -> Float[np.ndarray, " cases"]:
    """The angle that minimises e^{<q, e>} (gap + <u, e>), on a grid that zooms in. Compared as logarithms: nothing overflows."""
    low, high = np.zeros_like(gap), np.full_like(gap, np.pi)
    best = low
    for count in _GRIDS:
        angle = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, count)
        exponent = -plane.kappa[:, None] * radius * np.cos(angle)
        factor = (
            gap[:, None] - radius * plane.alpha[:, None] * np.cos(angle) - radius * plane.beta[:, None] * np.sin(angle)
        )
        size = np.log(np.maximum(np.abs(factor), 1e-300))
        negative = factor < 0
        score = np.where(
            np.any(negative, axis=1, keepdims=True), np.where(negative, -(exponent + size), np.inf), exponent + size
        )
        best = np.take_along_axis(angle, np.argmin(score, axis=1)[:, None], axis=1)[:, 0]
        width = (high - low) / (count - 1)
        low, high = np.maximum(best - 2 * width, 0.0), np.minimum(best + 2 * width, np.pi)
    return best
