"""Best values for fixed keys: a linear problem, solved by column-scaled QR for many candidate heads at once.

For fixed slopes and biases the head is linear in its values, g = W v, W the softmax weights on the sample points.
Least squares with weights omega is solved through the QR factorisation of the column-scaled matrix with a tiny ridge
below it; Lawson's iteration (C. L. Lawson, 1961) multiplies omega^2 by |residual| until the largest residual is
minimal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from constructions.sharp.deadline import check_deadline
from constructions.sharp.mirror import fold, unfold

__all__ = ["RIDGE", "Fit", "fit_values", "lawson_update", "softmax_weights"]

# Relative size of the ridge: sum_j w_j |v_j| beyond about 1e-2 / RIDGE starts to cost, long before float64
# cancellation would make the values useless.
RIDGE = 1e-14


@dataclass(frozen=True, eq=False)
class Fit:
    """Least-squares values of a batch of heads ("c" candidates) on m points.

    weights: (c, m, N) softmax weights; values: (c, N, k); outputs g: (c, m, k); residuals y - g: (c, m, k);
    bases: for each mirror sign, (sign, output indices, orthonormal basis (c, m, n) of the weighted columns).
    cost: (c,) weighted sum of squared residuals.
    """

    weights: np.ndarray
    values: np.ndarray
    outputs: np.ndarray
    residuals: np.ndarray
    bases: tuple[tuple[int, tuple[int, ...], np.ndarray], ...]
    cost: np.ndarray

    @property
    def error(self) -> Float[np.ndarray, " c"]:
        """Largest residual of each candidate."""
        return np.abs(self.residuals).max(axis=(1, 2))

    def take(self, index) -> Fit:
        """The candidates selected by an index or mask."""
        return Fit(
            self.weights[index],
            self.values[index],
            self.outputs[index],
            self.residuals[index],
            tuple((sign, outputs, basis[index]) for sign, outputs, basis in self.bases),
            self.cost[index],
        )


def softmax_weights(
    points: Float[np.ndarray, " m"], slopes: Float[np.ndarray, "*c N"], biases: Float[np.ndarray, "*c N"]
) -> Float[np.ndarray, "*c m N"]:
    """Softmax over the tokens of slopes * point + biases, by subtracting the largest logit."""
    logits = points[:, None] * slopes[..., None, :] + biases[..., None, :]
    logits -= logits.max(axis=-1, keepdims=True)
    weights = np.exp(logits, out=logits)
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights


def fit_values(
    points: Float[np.ndarray, " m"],
    targets: Float[np.ndarray, "m k"],
    signs: tuple[int, ...],
    slopes: Float[np.ndarray, "c N"],
    biases: Float[np.ndarray, "c N"],
    omega: Float[np.ndarray, "c m"],
    ridge: float = RIDGE,
    deadline: float | None = None,
) -> Fit:
    """Weighted least-squares values; `signs` gives each output's mirror sign (0: none).

    Raises DeadlinePassed where `deadline` passes.
    """
    check_deadline(deadline, 20.0 * len(slopes) * len(points) * slopes.shape[1])
    weights = softmax_weights(points, slopes, biases)
    candidates, m, tokens = weights.shape
    values = np.empty((candidates, tokens, targets.shape[1]))
    bases = []
    for sign in sorted(set(signs)):
        check_deadline(deadline, candidates * m * tokens * (8.0 * tokens + 4.0 * len(signs)))
        outputs = tuple(i for i, s in enumerate(signs) if s == sign)
        columns = fold(weights, sign) * omega[..., None]
        scale = np.sqrt(np.einsum("cmn,cmn->cn", columns, columns)) + 1e-300
        n = columns.shape[-1]
        stacked = np.concatenate(
            [columns / scale[:, None, :], np.broadcast_to(ridge * np.eye(n), (candidates, n, n))], 1
        )
        q, r = np.linalg.qr(stacked)
        basis = q[:, :m]
        rhs = np.swapaxes(basis, 1, 2) @ (targets[:, outputs] * omega[..., None])
        coefficients = np.linalg.solve(r, rhs) / scale[..., None]
        values[..., outputs] = np.swapaxes(unfold(np.swapaxes(coefficients, 1, 2), sign, tokens), 1, 2)
        bases.append((sign, outputs, basis))
    check_deadline(deadline, candidates * m * len(signs) * (2.0 * tokens + 10.0))
    result = weights @ values
    residuals = targets - result
    cost = np.einsum("cmk,cm->c", residuals**2, omega**2)
    return Fit(weights, values, result, residuals, tuple(bases), np.where(np.isfinite(cost), cost, np.inf))


def lawson_update(omega: Float[np.ndarray, "c m"], residuals: Float[np.ndarray, "c m k"]) -> Float[np.ndarray, "c m"]:
    """Lawson weights omega * sqrt(|residual|), floored so that no point is forgotten, with mean square one."""
    size = np.abs(residuals).max(axis=2)
    top = size.max(axis=1, keepdims=True) + 1e-300
    updated = omega * np.sqrt(np.maximum(size / top, 1e-3))
    return updated / np.sqrt(np.mean(updated**2, axis=1, keepdims=True))
