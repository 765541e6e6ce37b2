"""Monte Carlo of the known prompt: features drawn from their exact law, least squares on them, test error of the head.

Only the noise along the prompt moves the attention weights. So a sequence costs its irrelevant logits and d normal numbers instead of T d: the law of
h = X^T softmax(Xq) is the same, without approximation (a test compares with whole sequences).
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from scipy.special import ndtr

from constructions.oymak2023.asymptotics.features import known_prompt
from constructions.oymak2023.asymptotics.formula import check_samples
from constructions.oymak2023.data import ContextualData

__all__ = ["head_errors", "sample_features"]


def head_errors(
    data: ContextualData, q: Float[np.ndarray, " d"], n: int, *, seeds: int, seed: int, test: int = 400
) -> Float[np.ndarray, " seeds"]:
    """Test error of the least-squares head for each of `seeds` independent training sets of n sequences.

    The error is integrated over the label noise of all directions but q in closed form, and averaged over `test` fresh sequences for what is left: unbiased.
    Raises ContextError as `predicted_error`.
    """
    q = known_prompt(data, q)
    check_samples(n, data.dimension)
    errors = np.empty(seeds)
    for k, stream in enumerate(np.random.SeedSequence(seed).spawn(seeds)):
        rng = np.random.default_rng(stream)
        centre, scale = _given_weights(data, q, n, rng)
        h = _with_noise(data, q, centre, scale, rng)
        head = np.linalg.solve(h.T @ h, h.sum(axis=0))
        centre, scale = _given_weights(data, q, test, rng)
        length = float(np.linalg.norm(_without(q, head)))
        errors[k] = ndtr(-(centre @ head) / (scale * length)).mean()
    return errors


def sample_features(
    data: ContextualData, q: Float[np.ndarray, " d"], n: int, seed: int | np.random.Generator
) -> Float[np.ndarray, "n d"]:
    """n features times their labels, y h. Raises ContextError as `known_prompt`."""
    q, rng = known_prompt(data, q), np.random.default_rng(seed)
    return _with_noise(data, q, *_given_weights(data, q, n, rng), rng)


def _given_weights(
    data: ContextualData, q: np.ndarray, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(mean (n, d), standard deviation (n,)) of y h given the label, the pair and the attention weights."""
    length = float(np.linalg.norm(q))
    direction = q / length if length > 0 else data.q_star / np.linalg.norm(data.q_star)
    y = 2.0 * rng.integers(0, 2, n) - 1.0
    delta_q, delta_w = data.pairs[rng.integers(0, len(data.pairs), n)].T
    advantage = (1 + delta_q) * float(q @ data.q_star) + y * (1 + delta_w) * float(q @ data.w_star)
    g = rng.standard_normal((n, data.irrelevant))
    weights = np.exp(data.noise * length * g - advantage[:, None])
    total = data.relevant + weights.sum(axis=1)
    p = data.relevant / total
    shift = np.einsum("nt,nt->n", weights, g) / total
    scale = data.noise * np.sqrt(np.einsum("nt,nt->n", weights, weights)) / total
    along_q, along_w = p - (1 - p) * delta_q, p - (1 - p) * delta_w
    centre = (
        np.outer(y * along_q, data.q_star)
        + np.outer(along_w, data.w_star)
        + np.outer(y * data.noise * shift, direction)
    )
    return centre, scale


def _with_noise(
    data: ContextualData, q: np.ndarray, centre: np.ndarray, scale: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    noise = rng.standard_normal(centre.shape)
    return centre + scale[:, None] * _without(q if np.any(q) else data.q_star, noise)


def _without(q: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """vectors (..., d) less their component along q."""
    size = math.sqrt(float(q @ q))
    if size == 0:
        return vectors
    unit = q / size
    return vectors - (vectors @ unit)[..., None] * unit
