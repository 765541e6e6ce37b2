"""Keys, biases and values of one head fitted together: variable projection with Levenberg-Marquardt steps.

A head with keys (a_j, b_j) and values v_j has W = softmax(x a^T + b), g = W v and

    dg/dv_j = w_j,     dg/db_j = w_j (v_j - g),     dg/da_j = w_j (v_j - g) x.

The values enter linearly, so they are eliminated (Golub & Pereyra 1973): for keys theta, v(theta) solves the ridge
problem min |R(W v - f)|^2 + mu sum_j (|R w_j|^2 + 1e-12 points) v_j^2 (R = diag of row weights), and by the envelope theorem the
reduced cost has the gradient J^T R^2 r, J the derivative at frozen v (that of the tiny ridge term is left out). Its
Gauss-Newton matrix is the Schur complement J^T R^2 J - C^T (W^T R^2 W + ridge)^{-1} C with C = W^T R^2 J, summed over
output coordinates (Kaufman's approximation). The ridge is relative to the columns because what float64 evaluation
rounds is sum_j w_j |v_j|: a token of small weight may have a large value, up to a point.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.linalg import LinAlgError, cho_factor, cho_solve, cholesky, solve_triangular

from constructions.sharp.deadline import check_deadline
from constructions.sharp.tensor_head import Head, softmax_weights
from constructions.sharp.tensor_samples import Samples

__all__ = ["Fit", "fit_head", "newton_work"]

_CHOLESKY_RIDGE = 1e-14
# Large matrix products run several times faster than the other work that deadlines are estimated from.
_PRODUCT = 0.25
_DAMPING = (1e-14, 1e8)  # smallest damping used, and the one at which a fit is given up


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted head with the row weights it was fitted in, and its error on the fit grid.

    sup, rms: of the residual (unweighted), sup over points and coordinates. importance: for every token, how much
    the squared residual would grow if its weight were taken away (first order, values refitted), (tokens,).
    """

    head: Head
    emphasis: Float[np.ndarray, " points"]
    sup: float
    rms: float
    damping: float
    importance: Float[np.ndarray, " tokens"]
    steps: int


@dataclass(frozen=True, eq=False)
class _State:
    """The reduced problem at given keys: values solved, residual and cost at hand."""

    head: Head
    weights: np.ndarray  # R W, (points, tokens)
    basis: np.ndarray  # R W T with T^T (W^T R^2 W + ridge) T = 1: all but orthonormal columns, (points, tokens)
    residual: np.ndarray  # g - f, (points, k)
    cost: float
    orthogonal: bool  # whether the basis is orthonormal to rounding

    @property
    def sup(self) -> float:
        return float(np.abs(self.residual).max())

    @property
    def rms(self) -> float:
        return float(np.sqrt(np.mean(self.residual**2)))


def newton_work(tokens: int, points: int, n: int, k: int) -> float:
    """Floating-point operations of one step, leading terms: what budgets are counted in."""
    wide = tokens * (n + 1)
    return 1e7 + points * tokens * (tokens + 60.0) + k * wide * (points + tokens) * (wide + 2.0 * tokens) + wide**3


def _solve(
    slopes: np.ndarray,
    biases: np.ndarray,
    samples: Samples,
    row: np.ndarray,
    ridge: float,
    deadline: float | None = None,
) -> _State | None:
    """Values by the ridge problem at the given keys; None where it breaks down numerically.

    By Cholesky where the ridge is above the rounding of the Gram matrix, else by orthogonal triangularisation of
    [R W / norms; sqrt(ridge)], about four times the work.
    """
    points, tokens = len(row), len(biases)
    check_deadline(deadline, 60.0 * points * tokens)
    weights = softmax_weights(samples.points, slopes, biases)
    norms = np.sqrt(np.sum((weights * row[:, None]) ** 2, axis=0) + 1e-12 * len(row))
    scaled = weights * row[:, None] / norms
    target = samples.values * row[:, None]
    check_deadline(deadline, _PRODUCT * (2.0 if ridge >= _CHOLESKY_RIDGE else 6.0) * points * tokens**2)
    try:
        if ridge >= _CHOLESKY_RIDGE:
            gram = scaled.T @ scaled
            gram[np.diag_indices_from(gram)] += ridge
            factor = np.asarray(cholesky(gram, check_finite=False))
            basis = np.asarray(solve_triangular(factor, scaled.T, trans=1, check_finite=False)).T
        else:
            stacked = np.concatenate([scaled, np.sqrt(ridge) * np.eye(len(biases))])
            full, factor = np.linalg.qr(stacked)
            basis = full[: len(row)]
        coefficients = solve_triangular(factor, basis.T @ target, check_finite=False)
    except (LinAlgError, ValueError):
        return None
    values = coefficients / norms[:, None]
    residual = weights @ values - samples.values
    cost = float(np.sum((residual * row[:, None]) ** 2) + ridge * np.sum(coefficients**2))
    scaled *= norms
    if not np.isfinite(cost):
        return None
    return _State(Head(slopes, biases, values), scaled, basis, residual, cost, ridge < _CHOLESKY_RIDGE)


def _normal_equations(
    state: _State, samples: Samples, row: np.ndarray, deadline: float | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gauss-Newton matrix and gradient of the reduced cost in (biases, slopes axis by axis), and diag(J^T R^2 J)."""
    points, tokens = state.weights.shape
    n = samples.points.shape[1]
    wide = tokens * (n + 1)
    matrix, gradient, diagonal = np.zeros((wide, wide)), np.zeros(wide), np.zeros(wide)
    jacobian = np.empty((points, wide), order="F")
    for c in range(samples.values.shape[1]):
        check_deadline(deadline, 20.0 * points * wide)
        output = state.residual[:, c] + samples.values[:, c]
        block = jacobian[:, :tokens]
        np.multiply(state.weights, state.head.values[:, c] - output[:, None], out=block)
        for i in range(n):
            np.multiply(block, samples.points[:, i : i + 1], out=jacobian[:, (i + 1) * tokens : (i + 2) * tokens])
        diagonal += np.einsum("ij,ij->j", jacobian, jacobian)
        gradient += jacobian.T @ (state.residual[:, c] * row)
        check_deadline(deadline, _PRODUCT * 2.0 * points * wide * tokens)
        cross = state.basis.T @ jacobian
        check_deadline(deadline, _PRODUCT * points * wide * (2.0 * wide + (2.0 * tokens if state.orthogonal else 0.0)))
        if state.orthogonal:  # projected first: the difference below would cancel where little is left
            jacobian -= state.basis @ cross
            matrix += jacobian.T @ jacobian
        else:
            matrix += jacobian.T @ jacobian - cross.T @ cross
    return matrix, gradient, diagonal


def fit_head(
    head: Head,
    samples: Samples,
    *,
    steps: int,
    emphasis: Float[np.ndarray, " points"] | None = None,
    sharpen: float = 0.0,
    damping: float = 1e-3,
    stop_sup: float = 0.0,
    stop_rms: float = 0.0,
    horizon: int = 0,
    ridge: float = 1e-13,
    deadline: float | None = None,
) -> Fit | None:
    """Improve all parameters of `head` on the samples by at most `steps` Levenberg-Marquardt steps.

    sharpen: 0 minimises the mean square in the given row weights; > 0 multiplies the row weights by
    |residual|^sharpen after every step (Lawson), which drives the fit towards the smallest sup error.
    stop_sup, stop_rms: stop as soon as the fit-grid error is below. horizon: if positive, stop when at the rate of the
    last five steps the root mean square would not reach `stop_rms` within that many more. Returns the best iterate (in sup when sharpening, else the
    last, which has the least mean square), or None if not even the start could be evaluated. Raises DeadlinePassed
    where `deadline` passes.
    """
    row = np.ones(len(samples.points)) if emphasis is None else emphasis
    state = _solve(head.slopes, head.biases, samples, row, ridge, deadline)
    if state is None:
        return None
    tokens, n = head.slopes.shape
    best, best_row, history, importance, used = state, row, [state.rms], np.ones(tokens), 0
    while used < steps:
        used += 1
        matrix, gradient, diagonal = _normal_equations(state, samples, row, deadline)
        importance = np.abs(np.diag(matrix)[:tokens])
        trial = None
        while damping <= _DAMPING[1]:
            check_deadline(deadline, len(matrix) ** 3 / 3.0)
            damped = matrix.copy()
            damped[np.diag_indices_from(damped)] += damping * (diagonal + 1e-3 * max(float(diagonal.max()), 1e-300))
            try:
                move = -cho_solve(cho_factor(damped, overwrite_a=True, check_finite=False), gradient)
            except (LinAlgError, ValueError):
                damping *= 8.0
                continue
            slopes = state.head.slopes + move[tokens:].reshape(n, tokens).T
            trial = _solve(slopes, state.head.biases + move[:tokens], samples, row, ridge, deadline)
            if trial is not None and trial.cost < state.cost:
                break
            trial = None
            damping *= 5.0
        if trial is None:
            if sharpen == 0.0:
                break
            trial, damping = state, 1e-2  # stationary in these row weights: go on to the next ones
        damping = max(0.15 * damping, _DAMPING[0])
        state = trial
        if sharpen == 0.0 or state.sup < best.sup:
            best, best_row = state, row
        if state.sup <= stop_sup or state.rms <= stop_rms:
            break
        if sharpen > 0.0:
            size = np.abs(state.residual).max(axis=1)
            row = row * np.maximum(size / max(state.sup, 1e-300), 1e-2) ** sharpen
            row = row / np.sqrt(np.mean(row**2))
            again = _solve(state.head.slopes, state.head.biases, samples, row, ridge, deadline)
            if again is None:
                break
            state = again
        else:
            history.append(state.rms)
            if horizon and _hopeless(history, stop_rms, horizon):
                break
    return Fit(best.head, best_row, best.sup, best.rms, damping, importance, used)


def _hopeless(history: list[float], goal: float, horizon: int) -> bool:
    """Whether the geometric rate of the last five steps misses the goal after `horizon` more."""
    if len(history) < 9 or history[-1] <= goal:
        return False
    rate = np.log(max(history[-6], 1e-300) / max(history[-1], 1e-300)) / 5.0
    return bool(np.log(history[-1] / max(goal, 1e-300)) > horizon * rate)
