"""Keys to start from: the tangent planes of a parabola at the points of a covering lattice."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.linalg import cholesky

from constructions.sharp.deadline import check_deadline

__all__ = ["lattice_points", "parabola_keys"]

# What finding and sorting one lattice point takes, in floating-point operations.
_SORTING = 4e3


def lattice_points(
    metric: Float[np.ndarray, "n n"], count: int, shift: float = 0.0, deadline: float | None = None
) -> tuple[Float[np.ndarray, "count n"], float]:
    """`count` points of A_n* filling the cube [-1, 1]^n, and the lattice distance (cube root of the cell volume).

    metric: symmetric positive definite of determinant 1; the lattice is the image of A_n* under metric^(-1/2), so its
    cells are as round as can be had in that metric (A_n* is the best known lattice covering for n <= 5: Conway & Sloane,
    chapter 2). The points are those smallest in sup norm; `shift` moves the lattice by that multiple of a generic
    vector, without which symmetric targets would start on a saddle. Raises DeadlinePassed where `deadline` passes.
    """
    n = len(metric)
    # Gram matrix of A_n*, up to scale: (n+1) I - ones; rows of its Cholesky factor are basis vectors.
    basis = np.asarray(cholesky((n + 1.0) * np.eye(n) - 1.0, lower=True))
    values, vectors = np.linalg.eigh(metric)
    basis = basis @ (vectors / np.sqrt(values)) @ vectors.T
    basis /= abs(np.linalg.det(basis)) ** (1.0 / n)
    # At unit density a cube of side count^(1/n) holds `count` points; coefficients are x inv(basis).
    side = 0.5 * count ** (1.0 / n) + np.abs(basis).sum(axis=0).max()
    reach = np.ceil(side * np.abs(np.linalg.inv(basis)).sum(axis=0)).astype(int) + 1
    check_deadline(deadline, _SORTING * float(np.prod(2.0 * reach + 1.0)))
    cells = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), axis=-1).reshape(-1, n)
    points = (cells + shift * np.sqrt(2.0 + np.arange(n))) @ basis
    size = np.abs(points).max(axis=1)
    order = np.lexsort((*points.T, np.round(size, 9)))[:count]
    radius = max(float(size[order].max()), 1e-12)
    return points[order] / radius, 1.0 / radius


def parabola_keys(
    centres: Float[np.ndarray, "tokens n"], sharpness: Float[np.ndarray, "n n"]
) -> tuple[Float[np.ndarray, "tokens n"], Float[np.ndarray, " tokens"]]:
    """Slopes 2 B c and biases -<c, B c>: logits equal -<x - c, B (x - c)> plus <x, B x>.

    The last term is common to all tokens, so the weights are those of Gaussians at the centres.
    """
    slopes = 2.0 * centres @ sharpness
    return slopes, -0.5 * np.sum(slopes * centres, axis=1)
