"""From normalised coordinates to the float64 numbers that are stored, measured as they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from constructions.sharp.deadline import check_deadline
from constructions.sharp.families import Exponents
from constructions.sharp.samples import Samples

__all__ = ["StoredHead", "store"]

_UNIT_ROUNDOFF = 2.0**-53


@dataclass(frozen=True, eq=False)
class StoredHead:
    """slopes, biases: (N,); values: (N, k); error: sampled sup error of the float64 head; rounding: its estimate.

    origin: the family of exponents the search started from.
    """

    slopes: np.ndarray
    biases: np.ndarray
    values: np.ndarray
    error: float
    rounding: float
    origin: Exponents

    @property
    def total(self) -> float:
        """Sampled error plus rounding."""
        return self.error + self.rounding

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.biases)


def store(
    samples: Samples,
    slopes: Float[np.ndarray, " N"],
    biases: Float[np.ndarray, " N"],
    values: Float[np.ndarray, "N k"],
    origin: Exponents,
    deadline: float | None = None,
) -> StoredHead:
    """The head in the target's own coordinates, with its error as float64 evaluates it on the fine grid.

    A common affine function of x added to all logits does not change a softmax. What rounds are the logits of the
    tokens that carry weight, near the upper envelope max_j s_j, which is convex: its best affine approximation, with
    the slope of its chord (Chebyshev), is subtracted.
    Raises DeadlinePassed where `deadline` passes.
    """
    check_deadline(deadline, len(samples.x) * len(biases) * (60.0 + 8.0 * values.shape[1]))
    ends = np.array([(biases - slopes).max(), (biases + slopes).max()])
    slopes = slopes - 0.5 * (ends[1] - ends[0])
    stored = slopes / samples.radius
    shifted = biases - slopes * (samples.centre / samples.radius)
    envelope = (samples.x[:, None] * stored + shifted).max(axis=1)
    shifted = shifted - 0.5 * (envelope.max() + envelope.min())
    outputs = samples.offset + samples.scale * values
    error, rounding = _measure(samples, stored, shifted, outputs)
    return StoredHead(stored, shifted, outputs, error, rounding, origin)


def _measure(samples: Samples, slopes, biases, values) -> tuple[float, float]:
    """Sampled sup error of the float64 head, and u max_x sum_j w_j |v_j - g| (2 + |a_j x| + |s_j|).

    Perturbing the logits by d_j moves g by sum_j w_j (v_j - g) d_j to first order; product, sum, shift and exponential
    each contribute a unit roundoff times the size of what they round.
    """
    products = samples.x[:, None] * slopes
    logits = products + biases
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    outputs = weights @ values
    error = float(np.abs(outputs - samples.values).max())
    size = weights * (2.0 + np.abs(logits) + np.abs(products))
    spread = np.abs(values[None] - outputs[:, None, :])
    rounding = _UNIT_ROUNDOFF * float(np.einsum("mn,mnk->mk", size, spread).max())
    return (error, rounding) if np.isfinite(error + rounding) else (np.inf, np.inf)
