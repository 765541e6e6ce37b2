"""Levenberg-Marquardt over keys and biases by variable projection, for many starts at once.

The values are eliminated (Golub and Pereyra, 1973): for given slopes a and biases b they are the least-squares values,
and with Kaufman's simplification (1975) the Jacobian of the residual y - g is -(I - Q Q^T) J, where

    dg/db_j = w_j (v_j - g),        dg/da_j = t w_j (v_j - g)

and Q is an orthonormal basis of the weight columns. Starts move in lockstep, each with its own damping; once the
root-mean-square residual of a start is below the tolerance, Lawson's weights turn the least-squares fit into a
minimax fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from constructions.sharp.deadline import check_deadline
from constructions.sharp.mirror import fold, unfold
from constructions.sharp.values import Fit, fit_values, lawson_update, softmax_weights

__all__ = ["Refined", "raise_peaks", "refine"]


@dataclass(frozen=True, eq=False)
class Refined:
    """The best head met from each start: slopes, biases (c, N), values (c, N, k), error (c,) on the sample points.

    work: number of (start, iteration) pairs.
    """

    slopes: np.ndarray
    biases: np.ndarray
    values: np.ndarray
    error: np.ndarray
    work: int


def raise_peaks(
    points: Float[np.ndarray, " m"],
    slopes: Float[np.ndarray, "c N"],
    biases: Float[np.ndarray, "c N"],
    log_floor: float,
    mirrored: bool,
) -> Float[np.ndarray, "c N"]:
    """Biases raised until every token's largest weight is about exp(log_floor): tokens nobody sees need huge values."""
    peaks = softmax_weights(points, slopes, biases).max(axis=1)
    if mirrored:
        peaks = np.maximum(peaks, peaks[:, ::-1])
    with np.errstate(divide="ignore"):
        raised = biases + np.maximum(0.0, log_floor - np.maximum(np.log(peaks), -600.0))
    return raised - raised.max(axis=1, keepdims=True)


def jacobian(
    points: Float[np.ndarray, " m"],
    signs: tuple[int, ...],
    fit: Fit,
    omega: Float[np.ndarray, "c m"],
    deadline: float | None = None,
) -> tuple[Float[np.ndarray, "c rows p"], Float[np.ndarray, "c rows"]]:
    """Projected Jacobian of the outputs in (slopes, biases), folded, and the weighted residuals, outputs stacked.

    Raises DeadlinePassed where `deadline` passes.
    """
    odd, even = (-1, 1) if any(signs) else (0, 0)
    blocks, residuals = [], []
    for _, outputs, basis in fit.bases:
        for i in outputs:
            check_deadline(deadline, fit.weights.size * (30.0 + 8.0 * fit.weights.shape[2]))
            by_bias = fit.weights * (fit.values[:, None, :, i] - fit.outputs[:, :, None, i]) * omega[..., None]
            block = np.concatenate([fold(points[:, None] * by_bias, odd), fold(by_bias, even)], axis=2)
            blocks.append(block - basis @ (np.swapaxes(basis, 1, 2) @ block))
            residuals.append(fit.residuals[:, :, i] * omega)
    check_deadline(deadline, 10.0 * len(blocks) * blocks[0].size)
    if len(blocks) == 1:
        return blocks[0], residuals[0]
    return np.concatenate(blocks, axis=1), np.concatenate(residuals, axis=1)


def refine(
    points: Float[np.ndarray, " m"],
    targets: Float[np.ndarray, "m k"],
    signs: tuple[int, ...],
    slopes: Float[np.ndarray, "c N"],
    biases: Float[np.ndarray, "c N"],
    *,
    tolerance: float,
    iterations: int = 60,
    lawson: int = 25,
    log_floor: float = -23.0,
    clock: Callable[[], bool] = lambda: False,
    deadline: float | None = None,
) -> Refined:
    """Minimise the largest residual from each start; stops early once one start is within `tolerance`.

    clock: says when to give up with the best so far. Raises DeadlinePassed where `deadline` passes.
    """
    mirrored = any(signs)
    candidates, tokens = slopes.shape
    m = len(points)
    biases = raise_peaks(points, slopes, biases, log_floor, mirrored)
    omega = np.ones((candidates, m))
    fit = fit_values(points, targets, signs, slopes, biases, omega, deadline=deadline)
    best_error, best = fit.error, [slopes.copy(), biases.copy(), fit.values.copy()]
    best_error = np.where(np.isfinite(best_error), best_error, np.inf)
    live = np.arange(candidates)
    damping = np.full(candidates, 1e-2)
    stalled = np.zeros(candidates, dtype=int)
    weighted = np.zeros(candidates, dtype=int)
    pace = np.full(candidates, 2.0)
    work = 0
    half = tokens // 2 if mirrored else tokens
    for step in range(iterations + lawson):
        if len(live) == 0 or best_error.min() <= tolerance or clock():
            break
        work += len(live)
        matrix, residual = jacobian(points, signs, fit, omega, deadline)
        check_deadline(deadline, matrix.size * (20.0 + 2.0 * matrix.shape[2]))
        scale = np.sqrt(np.einsum("cmp,cmp->cp", matrix, matrix))
        # a column of rounding noise (a gauge direction) must not move anything
        scale = np.where(
            scale > 1e-11 * scale.max(axis=1, keepdims=True) + 1e-300,
            np.maximum(scale, 1e-6 * scale.max(axis=1, keepdims=True)),
            np.inf,
        )
        matrix = matrix / scale[:, None, :]
        matrix[~np.isfinite(matrix)] = 0.0
        normal = np.swapaxes(matrix, 1, 2) @ matrix
        check_deadline(deadline, 10.0 * normal.size * normal.shape[2])
        eigenvalues, vectors = np.linalg.eigh(normal)
        eigenvalues = np.maximum(eigenvalues, 0.0)
        gradient = np.einsum("cmp,cm->cp", matrix, np.nan_to_num(residual))
        gradient = np.einsum("cpq,cp->cq", vectors, gradient)
        pending = np.arange(len(live))
        relative = np.zeros(len(live))
        moved = np.zeros(len(live), dtype=bool)
        new_slopes, new_biases = slopes.copy(), biases.copy()
        for _ in range(4):
            d = np.einsum(
                "cpq,cq->cp", vectors[pending], gradient[pending] / (eigenvalues[pending] + damping[pending, None])
            )
            d = d / scale[pending]
            d = np.clip(d, -3.0, 3.0)
            trial_slopes = slopes[pending] + unfold(d[:, :half], -1 if mirrored else 0, tokens)
            trial_biases = biases[pending] + unfold(d[:, half:], 1 if mirrored else 0, tokens)
            trial_biases = raise_peaks(points, trial_slopes, trial_biases, log_floor, mirrored)
            trial = fit_values(points, targets, signs, trial_slopes, trial_biases, omega[pending], deadline=deadline)
            better = trial.cost < fit.cost[pending]
            accepted = pending[better]
            if len(accepted):
                relative[accepted] = (fit.cost[accepted] - trial.cost[better]) / fit.cost[accepted]
                moved[accepted] = True
                new_slopes[accepted], new_biases[accepted] = trial_slopes[better], trial_biases[better]
                damping[accepted] = np.maximum(damping[accepted] / 8, 1e-15)
                fit = _replace(fit, accepted, trial, better)
            pending = pending[~better]
            damping[pending] *= 8
            if len(pending) == 0:
                break
        slopes, biases = new_slopes, new_biases
        error = fit.error
        improved = error < best_error[live]
        rows = live[improved]
        best_error[rows] = error[improved]
        for store, current in zip(best, (slopes, biases, fit.values), strict=True):
            store[rows] = current[improved]
        # A start leaves least squares for Lawson once it is converged, or already close enough to the tolerance.
        stalled = np.where(relative < 1e-3, stalled + 1, 0)
        rms = np.sqrt(fit.cost / (m * targets.shape[1]))
        promising = rms < tolerance
        to_lawson = promising & ((weighted > 0) | (stalled >= 2) | ~moved | (error < 3 * tolerance))
        weighted = weighted + to_lawson
        # Recent speed of log(rms): a start that cannot arrive in the steps left, even at twice that speed, is dropped.
        pace = 0.75 * pace - 0.125 * np.log1p(-np.minimum(relative, 1 - 1e-12))
        late = np.log(rms / tolerance) > 1.0 + 2.0 * pace * (iterations - step)
        drop = (~promising & ((stalled >= 5) | ~moved | late)) | (weighted > lawson)
        if to_lawson.any():
            updated = lawson_update(omega[to_lawson], fit.residuals[to_lawson])
            omega = omega.copy()
            omega[to_lawson] = updated
            refit = fit_values(points, targets, signs, slopes[to_lawson], biases[to_lawson], updated, deadline=deadline)
            fit = _replace(fit, np.flatnonzero(to_lawson), refit, np.ones(len(updated), dtype=bool))
            damping[to_lawson] = np.minimum(damping[to_lawson], 1e-2)
        if drop.any():
            stay = ~drop
            live, slopes, biases, omega = live[stay], slopes[stay], biases[stay], omega[stay]
            damping, stalled, weighted, pace = damping[stay], stalled[stay], weighted[stay], pace[stay]
            fit = fit.take(stay)
    return Refined(best[0], best[1], best[2], best_error, work)


def _replace(fit: Fit, rows: np.ndarray, source: Fit, chosen: np.ndarray) -> Fit:
    """`fit` with these rows overwritten by the chosen candidates of `source`."""
    if chosen.all() and len(rows) == len(fit.cost):
        return source
    for target, new in (
        (fit.weights, source.weights),
        (fit.values, source.values),
        (fit.outputs, source.outputs),
        (fit.residuals, source.residuals),
        (fit.cost, source.cost),
    ):
        target[rows] = new[chosen]
    bases = []
    for (sign, outputs, basis), (_, _, other) in zip(fit.bases, source.bases, strict=True):
        copy = np.array(basis)
        copy[rows] = other[chosen]
        bases.append((sign, outputs, copy))
    return Fit(fit.weights, fit.values, fit.outputs, fit.residuals, tuple(bases), fit.cost)
