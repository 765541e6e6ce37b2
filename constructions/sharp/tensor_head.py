"""One softmax head on the reference cube: its weights, its best values for given keys, and its sampled error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from constructions.sharp.deadline import check_deadline
from constructions.sharp.tensor_samples import Samples

__all__ = ["Head", "drop_tokens", "head_error", "lawson_values", "log_normaliser", "softmax_weights"]


@dataclass(frozen=True, eq=False)
class Head:
    """g(x) = sum_j w_j(x) values_j with w = softmax(slopes x + biases), x in the reference cube."""

    slopes: Float[np.ndarray, "tokens n"]
    biases: Float[np.ndarray, " tokens"]
    values: Float[np.ndarray, "tokens k"]

    @property
    def length(self) -> int:
        """Number of tokens."""
        return len(self.biases)

    def __call__(self, x: Float[np.ndarray, "points n"]) -> Float[np.ndarray, "points k"]:
        """The head's output at every point, (points, k)."""
        return softmax_weights(x, self.slopes, self.biases) @ self.values

    def recentred(self, x: Float[np.ndarray, "points n"]) -> Head:
        """The same function, with a common affine function taken off all logits.

        Adding one affine function to every logit changes no weight. Taking off the mean of the gradient of
        log sum_j e^{s_j} over the points x, and its mean value, keeps the logits of the heavy tokens small.
        """
        slope = softmax_weights(x, self.slopes, self.biases).mean(axis=0) @ self.slopes
        slopes = self.slopes - slope
        return Head(slopes, self.biases - np.mean(log_normaliser(x, slopes, self.biases)), self.values)


def softmax_weights(
    x: Float[np.ndarray, "points n"], slopes: Float[np.ndarray, "tokens n"], biases: Float[np.ndarray, " tokens"]
) -> Float[np.ndarray, "points tokens"]:
    """Row-wise softmax of x slopes^T + biases."""
    logits = x @ slopes.T + biases
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits


def log_normaliser(
    x: Float[np.ndarray, "points n"], slopes: Float[np.ndarray, "tokens n"], biases: Float[np.ndarray, " tokens"]
) -> Float[np.ndarray, " points"]:
    """log sum_j e^{s_j(x)}, the convex function whose gradient is the mean slope."""
    logits = x @ slopes.T + biases
    top = logits.max(axis=1)
    return top + np.log(np.exp(logits - top[:, None]).sum(axis=1))


def head_error(
    head: Head, samples: Samples, batch: int = 1 << 22, deadline: float | None = None
) -> tuple[float, np.ndarray]:
    """max_x |g(x) - f(x)| over the samples, largest coordinate (inf if not finite), and where it is near its largest.

    The second is the indices of the up to 64 worst samples. Raises DeadlinePassed where `deadline` passes.
    """
    rows = max(1, batch // max(1, head.length))
    parts = [slice(start, start + rows) for start in range(0, len(samples.points), rows)]
    sizes = []
    for part in parts:
        check_deadline(deadline)
        sizes.append(np.abs(head(samples.points[part]) - samples.values[part]).max(axis=1))
    size = np.concatenate(sizes)
    size[~np.isfinite(size)] = np.inf
    return float(size.max()), np.argsort(size)[-64:]


def drop_tokens(head: Head, gone: np.ndarray) -> Head:
    """The head without the tokens whose indices are given."""
    return Head(np.delete(head.slopes, gone, 0), np.delete(head.biases, gone), np.delete(head.values, gone, 0))


def lawson_values(
    head: Head,
    samples: Samples,
    emphasis: Float[np.ndarray, " points"],
    steps: int,
    cutoff: float = 1e-14,
    deadline: float | None = None,
) -> Head:
    """Values that nearly minimise the sampled sup error for the head's keys, started from weights `emphasis`.

    For given keys the best values solve a linear Chebyshev problem. Lawson's algorithm (1961): weighted least
    squares, weights multiplied by |residual| (here by its square root, which is slower and steadier) after each
    step; the best iterate is kept, the given values included. Least squares by SVD with columns scaled to unit
    norm, directions below `cutoff` dropped, which bounds the values. Raises DeadlinePassed where `deadline` passes.
    """
    weights = softmax_weights(samples.points, head.slopes, head.biases)

    def residual(values: np.ndarray) -> np.ndarray:
        return np.abs(weights @ values - samples.values).max(axis=1)

    best, best_error = head.values, float(residual(head.values).max())
    row = emphasis.copy()
    for _ in range(steps):
        check_deadline(deadline, 10.0 * weights.size * weights.shape[1])
        matrix = weights * row[:, None]
        scale = np.maximum(np.linalg.norm(matrix, axis=0), 1e-150)
        try:
            solved = np.linalg.lstsq(matrix / scale, samples.values * row[:, None], rcond=cutoff)[0]
        except (np.linalg.LinAlgError, ValueError):
            break
        values = solved / scale[:, None]
        size = residual(values)
        error = float(size.max())
        if not np.isfinite(error):
            break
        if error < best_error:
            best, best_error = values, error
        if error == 0.0:
            break
        row = row * np.maximum(size / error, 1e-3) ** 0.5
        row /= np.sqrt(np.mean(row**2))
    return Head(head.slopes, head.biases, best)
