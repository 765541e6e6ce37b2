"""Test error of the least-squares head on n samples of d features, as a formula.

*Gaussian features, any n > d.* y_i h_i = mu + Sigma^(1/2) g_i; least squares fits the target 1 and does not care for the basis, so Sigma = I and
|mu| = theta. The head is proportional to S^-1 x with x the mean and S the scatter matrix of the y_i h_i, independent: x ~ N(mu, I/n), S ~ Wishart_d(n - 1). Seen
from u = x/|x|, S^-1 u is proportional to u - b, b orthogonal to u, in a uniformly random direction, |b|^2 = chi^2_(d-1)/chi^2_(n-d+1). Hence

    error = Phi(-(theta cos - theta sin b_1)/sqrt(1 + |b|^2)),   cos = angle of x and mu,

whose law is that of five independent scalars: g_1 (along mu), chi^2_(d-1) (the rest of x), the normal b_1, chi^2_(d-2) and chi^2_(n-d+1). As d, n grow with d/n
at gamma, |b|^2 -> gamma/(1 - gamma), cos -> theta/sqrt(theta^2 + gamma), b_1 -> 0:

    error -> Phi(-theta^2 sqrt(1 - gamma)/sqrt(theta^2 + gamma)).

*Given the attention weights* features are Gaussian (see `features`): y h has a mean a_k on the few coordinates of span(q*, w*, q) and independent noise of
variance s_k^2 on the others and on the part of the few that is orthogonal to q, k running over the weights' law (probabilities pi_k). Let xi solve
sum pi_k s_k^2 xi/(1 + s_k^2 xi) = gamma (a sample's leverage is 1 - r_k, r_k = 1/(1 + s_k^2 xi)). Projecting the other coordinates out leaves weighted least
squares with weights r_k on the few, alpha = E[r(a a^T + O)]^-1 E[r a], O_k = s_k^2 (I - q^ q^^T) the covariance there, and the rest of the head has
|w|^2 = xi E[t^2 s^2 r^2]/E[s^2 r^2], t^2 = (1 - a.alpha)^2 + alpha.O alpha (both from the resolvent of the Gram matrix, one sample left out). So, as d and n grow at a fixed T,

    error -> sum pi_k Phi(-a_k.alpha/sqrt(alpha.O_k alpha + |w|^2 s_k^2)),

which is the formula above when all k agree. What a finite d changes is taken from the Gaussian case of the same limit. The sum over k is
over draws of the weights' law (one law for each sigma|q| and number of irrelevant tokens), with its exactly known moments as control variates.

*Closed form*, for large T: p, e, v at their leading order, whose fluctuations count as Gaussian noise. Needs (e^(4 sigma^2 |q|^2) - 1)/((1 - zeta)T) small.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, ndtr, ndtri
from scipy.stats import chi2

from constructions.oymak2023.asymptotics.features import Features, features
from constructions.oymak2023.data import ContextualData
from constructions.oymak2023.errors import ContextError

__all__ = ["Prediction", "gaussian_error", "limiting_error", "predicted_error"]

IRREGULAR = 0.5
"""Relative variance of the spread from which the closed form is flagged: a few tokens then carry the average, whose law is far from Gaussian."""

_DRAWS = 60_000
_CHUNK = 2_000


@dataclass(frozen=True, eq=False)
class Prediction:
    """error: predicted test error at this n and d; limit: without the correction for finite d; signal: the theta of Gaussian features with that limit; ratio: d/n; irregularity:
    see `Features`; reliable: whether the formula's assumptions hold well enough; reason: why not."""

    error: float
    limit: float
    signal: float
    ratio: float
    irregularity: float
    reliable: bool
    reason: str = ""

    def __repr__(self) -> str:
        flag = "" if self.reliable else f", outside the formula's range: {self.reason}"
        return f"<Prediction test error {self.error:.5g} at d/n = {self.ratio:.3g}, theta = {self.signal:.4g}{flag}>"


def check_samples(n: int, d: int) -> None:
    """Raises ContextError unless n > d: with n <= d least squares interpolates, and the formula is another one."""
    if n <= d:
        raise ContextError(argument="n", value=n, reason=f"is not above d = {d}: least squares then fits every label exactly and the formula does not hold",
                           next_step=f"Take at least n = {d + 1} samples, better {2 * d}.")  # fmt: skip


def limiting_error(theta: float, ratio: float) -> float:
    """Phi(-theta^2 sqrt(1 - ratio)/sqrt(theta^2 + ratio)), ratio = d/n. Raises ContextError unless 0 <= ratio < 1."""
    if not 0 <= ratio < 1:
        raise ContextError(argument="d/n", value=ratio, reason="is not in [0, 1)", next_step="The formula needs more samples than dimensions, n > d.")  # fmt: skip
    if theta == 0:
        return 0.5
    return float(ndtr(-(theta**2) * math.sqrt(1 - ratio) / math.sqrt(theta**2 + ratio)))


def gaussian_error(theta: float, n: int, d: int, nodes: int = 8) -> float:
    """Expected test error for Gaussian features at finite n > d >= 3: the five scalars' expectation by a product of Gauss rules."""
    check_samples(n, d)
    g, weight_g = np.polynomial.hermite_e.hermegauss(nodes)
    weight_g = weight_g / weight_g.sum()

    def chi(freedom: int) -> np.ndarray:
        """chi^2 at the probabilities of the normal nodes: an expectation over it is one over a normal."""
        return chi2.ppf(ndtr(g), freedom)

    g1, rest, b1, b2, scale = np.meshgrid(g, chi(d - 1), g, chi(d - 2), chi(n - d + 1), indexing="ij", sparse=True)
    weight = np.einsum("a,b,c,d,e->abcde", *[weight_g] * 5)
    along, across = theta + g1 / math.sqrt(n), np.sqrt(rest / n)
    norm = np.hypot(along, across)
    margin = theta * (along - across * b1 / np.sqrt(scale)) / norm
    return float((weight * ndtr(-margin / np.sqrt(1 + (b1**2 + b2) / scale))).sum())


def predicted_error(data: ContextualData, q: np.ndarray, n: int, *, closed: bool = False, seed: int = 0) -> Prediction:
    """Test error of the least-squares head (no intercept) on n fresh sequences under the known prompt q (d,), averaged over training sets.

    closed: the closed form for large T, flagged where a few tokens carry the average; otherwise the limit at this T. seed: of the draws of the weights' law.
    Raises ContextError for n <= d, d < 4, sigma|q| > 4, and data outside the assumptions (see `known_prompt`).
    """
    d = data.dimension
    check_samples(n, d)
    if d < 4:
        raise ContextError(argument="d", value=d, reason="leaves no direction outside span(q*, w*, q)", next_step="Take d >= 4; the formula is for large d.")  # fmt: skip
    law, ratio = features(data, q, exact=not closed), d / n
    limit = _closed_limit(law, ratio) if closed else _limit(data, np.asarray(q, dtype=np.float64), law, ratio, seed)
    theta = _equivalent_signal(limit, ratio)
    error = limit + gaussian_error(theta, n, d) - limiting_error(theta, ratio)
    reliable = not closed or law.irregularity <= IRREGULAR
    logits = data.noise * float(np.linalg.norm(q))
    reason = f"sigma|q| = {logits:.3g} with {data.irrelevant} irrelevant tokens: few of them carry the average (relative variance {law.irregularity:.3g})"
    return Prediction(
        float(np.clip(error, 0, 1)), limit, theta, ratio, law.irregularity, reliable, "" if reliable else reason
    )


def _equivalent_signal(error: float, ratio: float) -> float:
    """theta with limiting_error(theta, ratio) = error; 0 from one half on."""
    k2 = max(-float(ndtri(error)), 0.0) ** 2 / (1 - ratio)
    return math.sqrt((k2 + math.sqrt(k2 * k2 + 4 * k2 * ratio)) / 2)


def _closed_limit(law: Features, ratio: float) -> float:
    count = len(law.spread)
    return float(_atom_errors(law.means, law.covariances, law.spread, np.full(count, 1 / count), ratio).mean())


def _limit(data: ContextualData, q: np.ndarray, law: Features, ratio: float, seed: int) -> float:
    size, k = float(np.linalg.norm(q)), law.basis.shape[1]
    log_s, shift, squares = _weights_law(data.noise * size, data.irrelevant, seed)
    along = law.basis.T @ (q / size) if size > 0 else np.eye(k)[0]
    across = np.eye(k) - np.outer(along, along)
    q_star, w_star = law.basis.T @ data.q_star, law.basis.T @ data.w_star
    means, controls, known = [], [], []
    atoms = [(pair, y) for pair in data.pairs for y in (1.0, -1.0)]
    for ((delta_q, delta_w), y), m in zip(atoms, law.moments, strict=True):
        advantage = (1 + delta_q) * float(q @ data.q_star) + y * (1 + delta_w) * float(q @ data.w_star)
        p = expit(math.log(data.relevant) + advantage - log_s)
        contrast = (1 + delta_q) * q_star + y * (1 + delta_w) * w_star
        constant = delta_q * q_star + y * delta_w * w_star
        means.append(y * (np.outer(p, contrast) - constant + np.outer((1 - p) * shift * data.noise, along)))
        v = (1 - p) ** 2 * squares
        controls.append(np.stack([p, p * p, v]))
        known.append((m.mass, m.mass_variance + m.mass**2, m.spread))
    control = np.stack(controls)  # (atoms, 3, draws)
    s2 = data.noise**2 * control[:, 2].ravel()
    a = np.concatenate(means)
    errors = _atom_errors(a, s2[:, None, None] * across, s2, np.full(len(s2), 1 / len(s2)), ratio).reshape(
        len(atoms), -1
    )
    return float(np.mean([_controlled(e, c, t) for e, c, t in zip(errors, control, known, strict=True)]))


def _controlled(values: np.ndarray, controls: np.ndarray, known: Sequence[float]) -> float:
    """Mean of values, less what its regression on the controls (3, draws) explains of their deviation from their known means."""
    spread = controls.std(axis=1)
    keep = spread > 1e-9 * np.abs(controls).max(axis=1)
    if not keep.any():
        return float(values.mean())
    centred = (controls[keep] - controls[keep].mean(axis=1, keepdims=True)) / spread[keep, None]
    slope = np.linalg.lstsq(centred.T, values - values.mean(), rcond=None)[0]
    return float(values.mean() - slope @ ((controls[keep].mean(axis=1) - np.array(known)[keep]) / spread[keep]))


@lru_cache(maxsize=8)
def _weights_law(nu: float, tokens: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws of ln S, sum L g/S and sum L^2/S^2 (see `attention_law`), which depend on the data through nu and the number of tokens alone."""
    if nu == 0:
        rng = np.random.default_rng([seed, tokens])
        return np.full(256, math.log(tokens)), rng.standard_normal(256) / math.sqrt(tokens), np.full(256, 1 / tokens)
    rng = np.random.default_rng([seed, tokens])
    drawn = []
    for _ in range(_DRAWS // _CHUNK):
        g = rng.standard_normal((_CHUNK, tokens))
        weights = np.exp(nu * g)
        s = weights.sum(axis=1)
        drawn.append((np.log(s), np.einsum("nt,nt->n", weights, g) / s, np.einsum("nt,nt->n", weights, weights) / s**2))
    log_s, shift, squares = (np.concatenate(part) for part in zip(*drawn, strict=True))
    return log_s, shift, squares


def _atom_errors(a: np.ndarray, o: np.ndarray, s2: np.ndarray, pi: np.ndarray, ratio: float) -> np.ndarray:
    """Each atom's limiting error: a (atoms, k), o (atoms, k, k), s2 and pi (atoms,)."""
    unit = float(pi @ s2)
    a, o, s2 = a / math.sqrt(unit), o / unit, s2 / unit
    xi = _leverage_root(s2, pi, ratio)
    weight = pi / (1 + s2 * xi)
    alpha = np.linalg.solve(np.tensordot(weight, o, 1) + (a.T * weight) @ a, weight @ a)
    margin, variance = a @ alpha, np.einsum("k,akl,l->a", alpha, o, alpha)
    squares = weight / (1 + s2 * xi) * s2
    rest = xi * float(squares @ ((1 - margin) ** 2 + variance)) / float(squares.sum())
    return ndtr(-margin / np.sqrt(variance + rest * s2))


def _leverage_root(s2: np.ndarray, pi: np.ndarray, ratio: float) -> float:
    """xi with E[s^2 xi/(1 + s^2 xi)] = ratio."""

    def excess(log_xi: float) -> float:
        x = s2 * math.exp(log_xi)
        return float(pi @ (x / (1 + x))) - ratio

    return math.exp(brentq(excess, -60.0, 60.0, xtol=1e-10))  # pyright: ignore[reportArgumentType]
