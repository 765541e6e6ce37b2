"""Short heads by optimising every key: Levenberg-Marquardt over slopes and biases, values eliminated, many starts at once.

The fit is y ~ sum_j w_j v_j + sum_i c_i psi_i, w the softmax weights and psi_i functions that cost no token (the coordinates, where
the affine part is free). For given keys the best values solve a linear least-squares problem (variable projection, Golub and Pereyra
1973), with Kaufman's Jacobian (1975) in the keys. The limits of short heads are degenerate (keys that coalesce, values that grow):
what stops them is rounding, u sum_j w_j |v_j - g| (2 + |logit_j|), so each value is charged a ridge row lambda max_x w_j(x) v_j,
lambda a roundoff over the share of the tolerance that rounding may take. Lawson's weights (1961) then turn the fit into a minimax one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

__all__ = ["LEAST_PEAK", "Fitted", "fit_keys", "projected_cost", "softmax"]

# A token whose weight stays below this is charged as if it had it: values are stored as well as multiplied by weights.
LEAST_PEAK = 1e-6
_LAWSON_STEPS = 60
_CONVERGED = 1.03


@dataclass(frozen=True, eq=False)
class Fitted:
    """The best fit met from each of c starts.

    slopes: (c, N, n); biases: (c, N); values: (c, N); free: (c, q), the factors of the free functions; error: (c,), the largest
    residual on the fitted points; size: (c,), the largest max_x w_j(x) |v_j|.
    """

    slopes: np.ndarray
    biases: np.ndarray
    values: np.ndarray
    free: np.ndarray
    error: np.ndarray
    size: np.ndarray


def softmax(
    points: Float[np.ndarray, "m n"], slopes: Float[np.ndarray, "*c N n"], biases: Float[np.ndarray, "*c N"]
) -> Float[np.ndarray, "*c m N"]:
    """Softmax weights of every token at every point."""
    logits = points @ np.swapaxes(slopes, -1, -2) + biases[..., None, :]
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


@dataclass(eq=False)
class _State:
    """One linear fit per start: weights (c, m, N), coefficients (c, N + q), residuals (c, m) unweighted, q: (c, rows, N + q)
    orthonormal, peak: (c, N) each token's point of largest weight, cost (c,)."""

    weights: np.ndarray
    coefficients: np.ndarray
    residuals: np.ndarray
    basis: np.ndarray
    peak: np.ndarray
    ridged: np.ndarray
    cost: np.ndarray

    def take(self, rows: np.ndarray) -> _State:
        return _State(*(getattr(self, name)[rows] for name in _FIELDS))

    def put(self, rows: np.ndarray, other: _State, chosen: np.ndarray) -> None:
        for name in _FIELDS:
            getattr(self, name)[rows] = getattr(other, name)[chosen]


_FIELDS = ("weights", "coefficients", "residuals", "basis", "peak", "ridged", "cost")


def _project(points, targets, free, slopes, biases, omega, charge) -> _State:
    """Best values and free factors of each start under the weights omega: (c, m)."""
    c, tokens = biases.shape
    m, q = free.shape
    ridge, least = charge
    weights = softmax(points, slopes, biases)
    peak = weights.argmax(axis=1)
    top = np.maximum(np.take_along_axis(weights, peak[:, None, :], axis=1)[:, 0], 1e-300)
    columns = np.concatenate([weights, np.broadcast_to(free, (c, m, q))], axis=2)
    scale = np.concatenate([top + least, np.ones((c, q))], axis=1)
    rows = np.zeros((c, m + tokens + q, tokens + q))
    rows[:, :m] = columns / scale[:, None, :] * omega[:, :, None]
    diagonal = np.arange(tokens + q)
    rows[:, m + diagonal, diagonal] = ridge
    rows[~np.isfinite(rows)] = 0.0
    basis, triangle = np.linalg.qr(rows)
    right = np.einsum("cmk,cm->ck", basis[:, :m], targets * omega)
    scaled = np.linalg.solve(triangle, right[..., None])[..., 0]
    coefficients = scaled / scale
    residuals = targets - np.einsum("cmk,ck->cm", columns / scale[:, None, :], scaled)
    ridged = -ridge * scaled
    cost = ((residuals * omega) ** 2).sum(axis=1) + (ridged**2).sum(axis=1)
    cost = np.where(np.isfinite(cost), cost, np.inf)
    return _State(weights, coefficients, residuals, basis, peak, ridged, cost)


def _jacobian(points, state: _State, omega, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Kaufman's Jacobian of the fit (not the residual) in (biases, slopes), and the residual, ridge rows included.

    dg/db_j = w_j (v_j - g_head), dg/da_j = x dg/db_j; a ridge row lambda w_j(x_j) v_j moves as w_j itself does at its peak x_j.
    """
    c, m, tokens = state.weights.shape
    n = points.shape[1]
    total = state.coefficients.shape[1]
    values = state.coefficients[:, :tokens]
    head = np.einsum("cmk,ck->cm", state.weights, values)
    by_bias = state.weights * (values[:, None, :] - head[:, :, None])
    top = np.take_along_axis(
        state.weights, np.swapaxes(state.peak[:, None, :], 1, 2), axis=1
    )  # (c, j, i): w_i at j's peak
    own = np.take_along_axis(state.weights, state.peak[:, None, :], axis=1)[:, 0]
    ridge_rows = ridge * (values * own)[:, :, None] * (np.eye(tokens) - top)
    matrix = np.zeros((c, m + total, tokens * (1 + n)))
    matrix[:, :m, :tokens] = by_bias * omega[:, :, None]
    matrix[:, m : m + tokens, :tokens] = ridge_rows
    at_peak = points[state.peak]  # (c, j, n)
    for i in range(n):
        part = slice(tokens * (1 + i), tokens * (2 + i))
        matrix[:, :m, part] = matrix[:, :m, :tokens] * points[:, i, None]
        matrix[:, m : m + tokens, part] = ridge_rows * at_peak[:, :, i, None]
    matrix -= state.basis @ (np.swapaxes(state.basis, 1, 2) @ matrix)
    residual = np.concatenate([state.residuals * omega, state.ridged], axis=1)
    return matrix, residual


def fit_keys(
    points: Float[np.ndarray, "m n"],
    targets: Float[np.ndarray, " m"],
    free: Float[np.ndarray, "m q"],
    slopes: Float[np.ndarray, "c N n"],
    biases: Float[np.ndarray, "c N"],
    *,
    ridge: float,
    iterations: int = 80,
    lawson: int = _LAWSON_STEPS,
    keep: int = 3,
    least_peak: float = LEAST_PEAK,
) -> Fitted:
    """Minimise the largest residual from each start; after the least-squares stage only the `keep` best starts go on.

    points: of order one; targets: of order one; ridge: the charge lambda of the module's text, for residuals in the mean square;
    least_peak: added to max_x w_j(x) in it, so that values are charged for their size too.
    """
    with np.errstate(all="ignore"):
        charge = ridge * np.sqrt(len(points)), least_peak
        slopes, biases, state, _ = _descend(points, targets, free, slopes, biases, None, charge, iterations, keep=keep)
        order = np.argsort(state.cost, kind="stable")[:keep]
        return _lawson(points, targets, free, slopes[order], biases[order], charge, lawson)


def projected_cost(
    points: Float[np.ndarray, "m n"],
    targets: Float[np.ndarray, " m"],
    free: Float[np.ndarray, "m q"],
    slopes: Float[np.ndarray, "c N n"],
    biases: Float[np.ndarray, "c N"],
    *,
    ridge: float,
) -> Float[np.ndarray, " c"]:
    """Mean square that each start's best values reach, ridge rows included: which starts are worth moving."""
    with np.errstate(all="ignore"):
        charge = ridge * np.sqrt(len(points)), LEAST_PEAK
        cost = _project(points, targets, free, slopes, biases, np.ones((len(biases), len(points))), charge).cost
    return cost / len(points)


def _descend(points, targets, free, slopes, biases, omega, charge, iterations, damping=None, keep=1):
    """Levenberg-Marquardt steps from every start, each with its own damping, until none improves."""
    c, tokens = biases.shape
    n = points.shape[1]
    slopes, biases = slopes.copy(), biases.copy()
    omega = np.ones((c, len(points))) if omega is None else omega
    damping = np.full(c, 1e-2) if damping is None else damping
    state = _project(points, targets, free, slopes, biases, omega, charge)
    live = np.arange(c)
    stalled = np.zeros(c, dtype=int)
    for step in range(iterations):
        if len(live) == 0:
            break
        now = state.take(live)
        matrix, residual = _jacobian(points, now, omega[live], charge[0])
        matrix[~np.isfinite(matrix)] = 0.0
        scale = np.sqrt(np.einsum("cmp,cmp->cp", matrix, matrix))
        scale = np.maximum(scale, 1e-9 * scale.max(axis=1, keepdims=True)) + 1e-300
        # the triangular factor of (matrix, residual) holds all that a step needs
        joined = np.concatenate([matrix / scale[:, None, :], np.nan_to_num(residual)[..., None]], axis=2)
        triangle = np.asarray(np.linalg.qr(joined, mode="r"))
        width = matrix.shape[2]
        u, s, vt = np.linalg.svd(triangle[:, :width, :width])
        gradient = np.einsum("cqp,cq->cp", u, triangle[:, :width, width])
        relative = np.zeros(len(live))
        pending = np.arange(len(live))
        for _ in range(3):
            mu = damping[live[pending], None]
            move = np.einsum("cqp,cq->cp", vt[pending], gradient[pending] * s[pending] / (s[pending] ** 2 + mu))
            move = np.clip(move / scale[pending], -2.0, 2.0)
            rows = live[pending]
            trial_biases = biases[rows] + move[:, :tokens]
            trial_slopes = slopes[rows] + np.swapaxes(move[:, tokens:].reshape(-1, n, tokens), 1, 2)
            trial_biases = trial_biases - trial_biases.max(axis=1, keepdims=True)
            trial = _project(points, targets, free, trial_slopes, trial_biases, omega[rows], charge)
            better = trial.cost < state.cost[rows]
            good = rows[better]
            relative[pending[better]] = 1 - trial.cost[better] / state.cost[good]
            slopes[good], biases[good] = trial_slopes[better], trial_biases[better]
            damping[good] = np.maximum(damping[good] / 6, 1e-16)
            state.put(good, trial, better)
            pending = pending[~better]
            damping[live[pending]] *= 6
            if len(pending) == 0:
                break
        stalled[live] = np.where(relative < 1e-4, stalled[live] + 1, 0)
        stay = stalled[live] < 4
        if step % 10 == 9 and len(live) > keep:
            # the worse half is left where it is
            stay &= state.cost[live] <= np.median(state.cost[live])
        live = live[stay]
    return slopes, biases, state, damping


def _lawson(points, targets, free, slopes, biases, charge, steps) -> Fitted:
    """Reweight by the size of the residuals between steps; the best of all iterates by largest residual."""
    c, tokens = biases.shape
    omega = np.ones((c, len(points)))
    damping = np.full(c, 1e-4)
    best: Fitted | None = None
    for step in range(steps + 1):
        slopes, biases, state, damping = _descend(
            points, targets, free, slopes, biases, omega, charge, 1 if step else 0, damping
        )
        found = _fitted(slopes, biases, state, tokens)
        if best is None:
            best = found
        else:
            better = found.error < best.error
            for name in ("slopes", "biases", "values", "free", "error", "size"):
                getattr(best, name)[better] = getattr(found, name)[better]
        size = np.abs(state.residuals)
        # a weighted mean square is below every minimax error in reach of these keys
        floor = np.sqrt((omega**2 * size**2).mean(axis=1))
        if (best.error <= _CONVERGED * floor).all():
            break
        power = omega**2 * (size / (size.max(axis=1, keepdims=True) + 1e-300))
        power = np.maximum(np.nan_to_num(power), 1e-8 * np.nan_to_num(power).max(axis=1, keepdims=True) + 1e-300)
        omega = np.sqrt(power / power.mean(axis=1, keepdims=True))
        damping = np.clip(damping, 1e-12, 1e-2)
    assert best is not None
    return best


def _fitted(slopes, biases, state: _State, tokens: int) -> Fitted:
    values, free = state.coefficients[:, :tokens], state.coefficients[:, tokens:]
    own = np.take_along_axis(state.weights, state.peak[:, None, :], axis=1)[:, 0]
    error = np.abs(state.residuals).max(axis=1)
    error = np.where(np.isfinite(error), error, np.inf)
    return Fitted(
        slopes.copy(), biases.copy(), values.copy(), free.copy(), error, np.abs(values * own).max(axis=1, initial=0.0)
    )
