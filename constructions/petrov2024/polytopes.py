"""Regular polytopes whose vertices are good nets: the simplex and the cross-polytope in every dimension, the 24-cell and the 600-cell."""

from __future__ import annotations

from itertools import permutations, product
from math import sqrt

import numpy as np
from jaxtyping import Float

from constructions.petrov2024.relaxation import unit_rows

__all__ = ["polytopes"]


def _simplex(m: int) -> Float[np.ndarray, "N n"]:
    """The m + 2 vertices: unit vectors of R^{m+2} minus their mean, in an orthonormal basis of their hyperplane."""
    centred = np.eye(m + 2) - 1 / (m + 2)
    basis = np.linalg.svd(centred)[2][: m + 1]
    return unit_rows(centred @ basis.T)


def _signs(row: tuple[float, ...]) -> list[tuple[float, ...]]:
    """The row with all choices of signs of its entries that are not 0."""
    return list(product(*[(v, -v) if v else (0.0,) for v in row]))


def _even(order: tuple[int, ...]) -> bool:
    """Whether a permutation is even: an even number of inversions."""
    return sum(order[i] > order[j] for i in range(len(order)) for j in range(i + 1, len(order))) % 2 == 0


def _24_cell() -> Float[np.ndarray, "24 4"]:
    """The permutations of (+-1, +-1, 0, 0), scaled."""
    return np.array(sorted({p for row in _signs((1.0, 1.0, 0.0, 0.0)) for p in permutations(row)})) / sqrt(2.0)


def _600_cell() -> Float[np.ndarray, "120 4"]:
    """+-unit vectors, (+-1/2)^4, and the even permutations of (+-phi, +-1, +-1/phi, 0) / 2."""
    phi = (1 + sqrt(5.0)) / 2
    rows = [row[i:] + row[:i] for row in _signs((1.0, 0.0, 0.0, 0.0)) for i in range(4)]
    rows += _signs((0.5, 0.5, 0.5, 0.5))
    for row in _signs((phi / 2, 0.5, 0.5 / phi, 0.0)):
        rows += [tuple(row[i] for i in order) for order in permutations(range(4)) if _even(order)]
    return unit_rows(np.array(rows))


def polytopes(m: int) -> list[tuple[str, Float[np.ndarray, "N n"]]]:
    """Names and vertices on S^m, m >= 1, in order of their number."""
    n = m + 1
    found = [("simplex", _simplex(m)), ("cross-polytope", np.concatenate([np.eye(n), -np.eye(n)]))]
    if m == 3:
        found += [("24-cell", _24_cell()), ("600-cell", _600_cell())]
    return found
