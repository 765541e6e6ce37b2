"""Tensor grids of keys: long prefixes at the price of a few one-dimensional least-squares problems.

If exponents form a grid and biases are a sum over the axes, the weights are products of one-dimensional softmax
weights, w_{ij..}(x) = w_i(x_1) w_j(x_2) .., and on a tensor grid of samples the least-squares values are
V = (W_1^+ x W_2^+ x ..) F, one pseudo-inverse an axis. How many keys an axis needs is seen axis by axis: with P_i the
orthogonal projector of axis i, |F - P_1 P_2 .. F| <= sum_i |F - P_i F| in the Frobenius norm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.linalg import svd
from scipy.special import gammaln

from constructions.sharp.deadline import check_deadline
from constructions.sharp.tensor_head import Head, softmax_weights
from constructions.sharp.tensor_lattice import parabola_keys
from constructions.sharp.tensor_samples import Samples, chebyshev_axis, tensor_points

__all__ = ["AxisKeys", "product_heads"]

_SAMPLES = (400, 129, 41, 17, 9)  # Chebyshev points an axis for n = 1, 2, ..
_FAMILIES = (("Gaussian", 0.35), ("Bernstein", 0.3), ("Bernstein", 0.7), ("Bernstein", 1.3), ("Bernstein", 2.2))
_CUTOFF = 1e-12


@dataclass(frozen=True, eq=False)
class AxisKeys:
    """Keys of one axis with the pseudo-inverse (back basis^T) of their weights at the Chebyshev points."""

    family: str
    slopes: Float[np.ndarray, " keys"]
    biases: Float[np.ndarray, " keys"]
    basis: np.ndarray  # orthonormal basis of the weights' range, (points, rank)
    back: np.ndarray  # coordinates in that basis to values, (keys, rank)

    @property
    def span(self) -> float:
        """Largest difference of two slopes."""
        return float(np.ptp(self.slopes))


def _axis_keys(count: int, family: str, width: float, points: np.ndarray) -> AxisKeys:
    """`count` keys of one family.

    Gaussian: equispaced, reaching 1.5 spacings beyond [-1, 1], width the sharpness b h^2. Bernstein: slopes 0, h, ..,
    (count - 1) h with h = width and biases log binomial, whose weights are the Bernstein polynomials in sigmoid(h x);
    they reproduce all polynomials in it, so they do not saturate.
    """
    steps = np.arange(count) - 0.5 * (count - 1)
    if family == "Gaussian":
        spacing = 2.0 / max(count - 4.0, 1.0)
        keys, biases = parabola_keys(spacing * steps[:, None], np.array([[width / spacing**2]]))
        slopes = keys[:, 0]
    else:
        j = np.arange(count)
        slopes, biases = width * steps, gammaln(count) - gammaln(j + 1.0) - gammaln(count - j)
    left, values, right = svd(softmax_weights(points[:, None], slopes[:, None], biases), full_matrices=False)
    rank = int(np.sum(values > _CUTOFF * values[0]))
    return AxisKeys(family, slopes, biases, left[:, :rank], right[:rank].T / values[:rank])


def _applied(matrix: np.ndarray, tensor: np.ndarray, axis: int) -> np.ndarray:
    """The matrix applied along one axis of the tensor."""
    return np.moveaxis(np.tensordot(matrix, tensor, axes=(1, axis)), 0, axis)


def _shortest_axis(
    tensor: np.ndarray, axis: int, goal: float, points: np.ndarray, deadline: float | None
) -> AxisKeys | None:
    """Fewest keys, over the families, whose weights reproduce the samples along one axis to `goal` in sup norm."""

    def enough(keys: AxisKeys) -> bool:
        check_deadline(deadline, 4.0 * tensor.size * (len(keys.biases) + 4.0))
        seen = _applied(keys.basis.T, tensor, axis)
        return float(np.abs(tensor - _applied(keys.basis, seen, axis)).max()) <= goal

    best: AxisKeys | None = None
    for family, width in _FAMILIES:
        most = len(points) * 3 // 4 if best is None else len(best.biases) - 1
        low, count = 0, 1
        while count < most and not enough(_axis_keys(count, family, width, points)):
            low, count = count, min(most, max(count + 1, count * 5 // 4))
        if count > most or not enough(_axis_keys(count, family, width, points)):
            continue
        while count - low > 1:
            middle = (count + low) // 2
            low, count = (low, middle) if enough(_axis_keys(middle, family, width, points)) else (middle, count)
        best = _axis_keys(count, family, width, points)
    return best


def product_heads(
    n: int,
    sampled: Callable[[np.ndarray], Samples],
    goal: float,
    max_tokens: int,
    deadline: float | None = None,
) -> Iterator[tuple[Head, dict[str, object]]]:
    """Heads on tensor grids of keys, for smaller and smaller error along the axes; nothing where an axis fails.

    sampled maps points (m, n) of the reference cube to the target's samples there; goal is the sup error aimed at. Raises
    DeadlinePassed where `deadline` passes.
    """
    count = _SAMPLES[n - 1] if n <= len(_SAMPLES) else 0
    if count == 0:
        return
    points = chebyshev_axis(count)
    samples = sampled(tensor_points([points] * n))
    tensor = samples.values.reshape([count] * n + [-1])
    for share in (0.6, 0.25, 0.08):
        axes: list[AxisKeys] = []
        for axis in range(n):
            keys = _shortest_axis(tensor, axis, share * goal, points, deadline)
            if keys is None:
                return
            axes.append(keys)
        shape = tuple(len(keys.biases) for keys in axes)
        if np.prod([float(m) for m in shape]) > max_tokens:
            return
        # In two steps: the pseudo-inverse, multiplied out, would cancel against large numbers of its own.
        values = tensor
        for axis, keys in enumerate(axes):
            values = _applied(keys.basis.T, values, axis)
        for axis, keys in enumerate(axes):
            values = _applied(keys.back, values, axis)
        slopes = tensor_points([keys.slopes for keys in axes])
        biases = tensor_points([keys.biases for keys in axes]).sum(axis=1)
        grid: dict[str, object] = {
            "family": "tensor " + "/".join(keys.family for keys in axes),
            "shape": shape,
            "span": tuple(keys.span for keys in axes),
        }
        yield Head(slopes, biases, values.reshape(len(slopes), -1)), grid
