"""Sampled errors of a head on a box: how the closed-form constructions decide what to propose. Never a bound."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.stats import qmc

from constructions.sharp.deadline import check_deadline

__all__ = ["box_samples", "sampled_error"]

_UNIT_ROUNDOFF = 2.0**-53
# Entries of the largest weight matrix held at once.
_CHUNK = 2_000_000


def box_samples(lo: Float[np.ndarray, " n"], hi: Float[np.ndarray, " n"], count: int) -> Float[np.ndarray, "m n"]:
    """About 3/2 count evenly spread points of the box, a third of them on faces, and the corners; deterministic."""
    n = len(lo)
    if n == 1:
        return np.linspace(lo, hi, count)
    inner = qmc.Halton(n, scramble=False).random(count)
    faces = qmc.Halton(n, scramble=False).random(count // 2)
    # Every third coordinate, in turn, is moved to the nearer face.
    moved = (np.arange(len(faces))[:, None] + np.arange(n)) % 3 == 0
    faces = np.where(moved, np.round(faces), faces)
    axes = min(n, 8)
    corners = np.stack(np.meshgrid(*[[0.0, 1.0]] * axes, indexing="ij"), axis=-1).reshape(-1, axes)
    corners = np.pad(corners, ((0, 0), (0, n - axes)))
    return lo + (hi - lo) * np.concatenate([inner, faces, corners])


def sampled_error(
    slopes: Float[np.ndarray, "tokens n"],
    biases: Float[np.ndarray, " tokens"],
    values: Float[np.ndarray, "tokens k"],
    points: Float[np.ndarray, "m n"],
    targets: Float[np.ndarray, "m k"],
    deadline: float | None = None,
) -> tuple[float, float]:
    """Largest |g - f| at the points, and the largest rounding estimate u sum_j w_j |v_j - g| (2 + |logit_j|).

    |logit_j| is taken as sum_i |slopes_ji x_i| + |biases_j|: products and bias round on their own, however much of
    them cancels. Raises DeadlinePassed where `deadline` passes.
    """
    error = rounding = 0.0
    rows = max(1, _CHUNK // len(biases))
    sizes = np.abs(slopes)
    for start in range(0, len(points), rows):
        check_deadline(deadline)
        x, f = points[start : start + rows], targets[start : start + rows]
        logits = x @ slopes.T + biases
        weights = np.exp(logits - np.max(logits, axis=1, keepdims=True))
        weights /= np.sum(weights, axis=1, keepdims=True)
        g = weights @ values
        error = max(error, float(np.max(np.abs(g - f))))
        parts = weights * (2 + np.abs(x) @ sizes.T + np.abs(biases))
        for output in range(values.shape[1]):
            check_deadline(deadline)
            spread = np.sum(parts * np.abs(values[:, output] - g[:, output, None]), axis=1)
            rounding = max(rounding, _UNIT_ROUNDOFF * float(np.max(spread)))
    return error, rounding
