"""Free positive denominators: Sanathanan-Koerner iteration with non-negative least squares.

With fixed slopes the head is P/D, P any combination of the exponentials, D any *positive* one: freeing D (the biases)
turns a fixed basis into rational approximation. Sanathanan and Koerner (1963) linearise ||f - P/D|| as
||(f D - P)/D_old||; eliminating P with an orthonormal basis Q of the numerators over D_old leaves
min ||(I - Q Q^T) diag(f/D_old) B d|| over d > 0, a non-negative least-squares problem (Lawson-Hanson) in the
coefficients d of D = B d, B the reference basis scaled to peak one. Many slopes are tried in one batch.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.optimize import nnls

from constructions.sharp.deadline import check_deadline
from constructions.sharp.mirror import fold, unfold
from constructions.sharp.values import softmax_weights

__all__ = ["free_denominators"]


def free_denominators(
    points: Float[np.ndarray, " m"],
    targets: Float[np.ndarray, "m k"],
    signs: tuple[int, ...],
    slopes: Float[np.ndarray, "c N"],
    references: Float[np.ndarray, "c N"],
    *,
    iterations: int = 4,
    floor: float = 1e-10,
    rank: float = 1e-14,
    deadline: float | None = None,
) -> tuple[Float[np.ndarray, "c N"], Float[np.ndarray, " c"]]:
    """Biases found for each candidate's slopes, and the largest residual of the denominator-weighted best numerator.

    references: (c, N) biases of the reference basis; floor: smallest coefficient of a peak-one basis function in a
    denominator of mean one; rank: relative singular value below which a direction of the numerators is not used.
    The reference denominator is kept where nothing better is found. Candidates whose iteration breaks down get error inf.
    Raises DeadlinePassed where `deadline` passes.
    """
    candidates, tokens = slopes.shape
    m = len(points)
    basis = softmax_weights(points, slopes, references)
    peaks = basis.max(axis=1)
    if any(signs):
        # both ends of a mirrored pair: the peak over the whole interval
        peaks = np.maximum(peaks, peaks[:, ::-1])
    # a token too narrow to be seen on the points underflows to an empty column
    peaks = np.maximum(peaks, 1e-300)
    basis /= peaks[:, None, :]
    folded = fold(basis, 1 if any(signs) else 0)
    n = folded.shape[-1]
    numerators = []
    for sign in sorted(set(signs)):
        check_deadline(deadline, 10.0 * candidates * m * n * n)
        outputs = [i for i, s in enumerate(signs) if s == sign]
        u, s, _ = np.linalg.svd(fold(basis, sign), full_matrices=False)
        # directions below rounding are dropped: zeroed here and again after each orthogonalisation
        numerators.append((outputs, u, (s > rank * s[:, :1])[:, None, :]))
    denominator = np.ones((candidates, m))
    # the reference itself: the softmax weights sum to one
    best = fold(peaks, 1)[:, :n] / 2 if any(signs) else peaks.copy()
    alive = np.ones(candidates, dtype=bool)
    normal = folded.mean(axis=1)
    orthonormal = [numerator * kept for _, numerator, kept in numerators]
    check_deadline(deadline, 6.0 * candidates * m * n * len(signs))
    best_error = _residual(targets, [outputs for outputs, _, _ in numerators], orthonormal)
    for _ in range(iterations):
        blocks = []
        for (outputs, _, _), q in zip(numerators, orthonormal, strict=True):
            for i in outputs:
                check_deadline(deadline, 4.0 * candidates * m * n * n)
                scaled = folded * (targets[:, i] / denominator)[..., None]
                blocks.append(scaled - q @ (np.swapaxes(q, 1, 2) @ scaled))
        # stacking the blocks, filling the system and its triangular factor
        check_deadline(deadline, candidates * len(blocks) * m * n * (20.0 + 2.0 * n))
        matrix = np.concatenate(blocks, axis=1)
        matrix /= np.abs(matrix).max(axis=(1, 2), keepdims=True) + 1e-300
        matrix = np.concatenate([matrix, normal[:, None, :]], axis=1)
        shift = -floor * matrix.sum(axis=2)
        shift[:, -1] += 1.0
        system = np.concatenate([matrix, shift[..., None]], axis=2)
        system[~np.isfinite(system)] = 0.0
        reduced = np.asarray(np.linalg.qr(system, mode="r"))
        coefficients = np.ones((candidates, n))
        for c in np.flatnonzero(alive):
            check_deadline(deadline)
            try:
                coefficients[c] = floor + nnls(reduced[c, :, :-1], reduced[c, :, -1], maxiter=20 * n)[0]
            except (RuntimeError, ValueError):
                alive[c] = False
        denominator = np.einsum("cmn,cn->cm", folded, coefficients)
        mean = denominator.mean(axis=1)
        coefficients /= mean[:, None]
        denominator /= mean[:, None]
        for block, (_, numerator, kept) in enumerate(numerators):
            check_deadline(deadline, 4.0 * candidates * m * n * n)
            orthonormal[block] = np.linalg.qr(numerator / denominator[..., None])[0] * kept
        check_deadline(deadline, 6.0 * candidates * m * n * len(signs))
        error = _residual(targets, [outputs for outputs, _, _ in numerators], orthonormal)
        better = alive & (error < best_error)
        best_error = np.where(better, error, best_error)
        best = np.where(better[:, None], coefficients, best)
        if not alive.any():
            break
    biases = references + np.log(unfold(best, 1 if any(signs) else 0, tokens) / peaks)
    return biases - biases.max(axis=1, keepdims=True), best_error


def _residual(
    targets: Float[np.ndarray, "m k"], groups: list[list[int]], bases: list[np.ndarray]
) -> Float[np.ndarray, " c"]:
    """Largest residual of the targets after projection on each group's orthonormal basis (c, m, n)."""
    largest = np.zeros(len(bases[0]))
    for outputs, q in zip(groups, bases, strict=True):
        y = targets[:, outputs]
        residual = y - q @ (np.swapaxes(q, 1, 2) @ y)
        largest = np.maximum(largest, np.abs(residual).max(axis=(1, 2)))
    return np.where(np.isfinite(largest), largest, np.inf)
