"""The features that a known prompt hands to the head: h = X^T softmax(Xq), their law given the label and the pair (delta_q, delta_w).

Irrelevant tokens have the logits <q, -delta_q q* - delta_w y w*> + sigma|q| g_t, relevant ones <q, q* + y w*>: the difference is
D_y = (1 + delta_q)<q, q*> + y(1 + delta_w)<q, w*>. With p, e, v of `attention_law` and q^ = q/|q|, exactly and for every prompt,

    h = p(q* + y w*) - (1 - p)(delta_q q* + delta_w y w*) + sigma e q^ + sigma sqrt(v) xi,    xi ~ N(0, I) on the complement of q^, independent:

the part of the noise orthogonal to q does not move the weights. So in K = span(q*, w*, q), at most three dimensions, the feature has the mean and
the covariance written below, and is Gaussian of standard deviation sigma sqrt(v) in each of the other directions. The head sees y h: the label
decides the sign of what does not depend on it (the offset along q* and q), so each pair gives two *atoms*, one for each label.

For q = tau q*: mean of y h along w*: m w*, m = p - (1 - p) delta_w; its variance along w*: sigma^2 v |w*|^2 ... plus |w*|^2 (1 + delta_w)^2 Var p, which is of
the same order 1/T as the noise and must not be left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from constructions.oymak2023.asymptotics.attention_law import AttentionMoments, exact_moments, leading_moments
from constructions.oymak2023.data import ContextualData
from constructions.oymak2023.errors import ContextError

__all__ = ["Features", "features", "known_prompt"]


@dataclass(frozen=True, eq=False)
class Features:
    """Law of y h: equally likely atoms. basis (d, k): orthonormal, spans K. means (atoms, k), covariances (atoms, k, k) within K; spread, spread_variance
    (atoms,): mean and variance over sequences of the variance in every direction outside K. moments: of the attention weights, one per atom."""

    basis: Float[np.ndarray, "d k"]
    means: Float[np.ndarray, "atoms k"]
    covariances: Float[np.ndarray, "atoms k k"]
    spread: Float[np.ndarray, " atoms"]
    spread_variance: Float[np.ndarray, " atoms"]
    moments: tuple[AttentionMoments, ...]

    @property
    def signal(self) -> float:
        """theta: Mahalanobis length of the mean of y h; the best linear head on Gaussian features errs with probability Phi(-theta)."""
        mean = self.means.mean(axis=0)
        second = (self.covariances + self.means[:, :, None] * self.means[:, None, :]).mean(axis=0)
        return float(np.sqrt(max(mean @ np.linalg.solve(second - np.outer(mean, mean), mean), 0.0)))

    @property
    def irregularity(self) -> float:
        """Largest relative variance of the spread: 0 if every sequence is averaged equally well, above 1 if single tokens decide."""
        return float((self.spread_variance / self.spread**2).max())


def known_prompt(data: ContextualData, q: Float[np.ndarray, " d"]) -> Float[np.ndarray, " d"]:
    """q as an array, checked with the assumptions on the data. Raises ContextError: Gaussian noise above 0 on irrelevant tokens alone is assumed, q finite (d,)."""
    vector = np.asarray(q, dtype=np.float64)
    if vector.shape != (data.dimension,) or not np.isfinite(vector).all():
        raise ContextError(argument="q", value=f"array of shape {vector.shape}", reason=f"is no finite vector of d = {data.dimension} entries",
                           next_step="Give the prompt, for example 2.0 * data.q_star.")  # fmt: skip
    if data.noise == 0:
        raise ContextError(argument="noise", value=0.0, reason="leaves no more than three directions in the features, so least squares has no unique head",
                           next_step="Take noise > 0; without noise the margin is known in closed form.")  # fmt: skip
    if data.bound is not None or data.noisy_relevant:
        what, value = ("bound", data.bound) if data.bound is not None else ("noisy_relevant", True)
        raise ContextError(argument=what, value=value, reason="is outside what the formula assumes, Gaussian noise on the irrelevant tokens",
                           next_step="Take bound=None and noisy_relevant=False.")  # fmt: skip
    return vector


def features(data: ContextualData, q: Float[np.ndarray, " d"], *, exact: bool = True) -> Features:
    """The law of y h under the prompt q. exact=False: closed form, to leading order in 1/T. Raises ContextError (see `known_prompt`), ValueError for sigma|q| > 4."""
    q = known_prompt(data, q)
    basis = span(data, q)
    sigma, length = data.noise, float(np.linalg.norm(q))
    along = basis.T @ (q / length) if length > 0 else np.eye(basis.shape[1])[0]
    across = np.eye(basis.shape[1]) - np.outer(along, along)
    q_star, w_star = basis.T @ data.q_star, basis.T @ data.w_star
    means, covariances, moments = [], [], []
    law = exact_moments if exact else leading_moments
    for delta_q, delta_w in data.pairs:
        for y in (1.0, -1.0):
            advantage = (1 + delta_q) * float(q @ data.q_star) + y * (1 + delta_w) * float(q @ data.w_star)
            m = law(advantage, data.relevant, data.irrelevant, sigma * length)
            contrast = (1 + delta_q) * q_star + y * (1 + delta_w) * w_star
            mean = m.mass * contrast - delta_q * q_star - y * delta_w * w_star + sigma * m.shift * along
            cross = sigma * m.mass_shift * np.outer(contrast, along)
            means.append(y * mean)
            covariances.append(m.mass_variance * np.outer(contrast, contrast) + cross + cross.T
                               + sigma**2 * (m.shift_variance * np.outer(along, along) + m.spread * across))  # fmt: skip
            moments.append(m)
    spread = sigma**2 * np.array([m.spread for m in moments])
    variance = sigma**4 * np.array([m.spread_variance for m in moments])
    return Features(basis, np.array(means), np.array(covariances), spread, variance, tuple(moments))


def span(data: ContextualData, q: Float[np.ndarray, " d"]) -> Float[np.ndarray, "d k"]:
    """Orthonormal basis of span(q*, w*, q): q*/Q, w*/W and what is left of q."""
    directions = [data.q_star / np.linalg.norm(data.q_star), data.w_star / np.linalg.norm(data.w_star)]
    rest = q - sum(float(u @ q) * u for u in directions)
    size = float(np.linalg.norm(rest))
    if size > 1e-9 * max(float(np.linalg.norm(q)), math.ulp(1.0)) and size > 0:
        directions.append(rest / size)
    return np.stack(directions, axis=1)
