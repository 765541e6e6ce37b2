"""Lattices with an obtuse superbase: the covering lattices A_n*, their covering radius and their Voronoi cells.

An obtuse superbase is a set b_0, ..., b_n with sum 0 whose first n vectors span the lattice and with Selling
parameters lambda_ij = -<b_i, b_j> >= 0 (Conway and Sloane, "Low-dimensional lattices VI", 1992). Then

* the Delaunay simplices are, up to translation, the n! paths 0, b_p1, b_p1 + b_p2, ... over the permutations p of
  1..n, so the covering radius is the largest of n! circumradii;
* |sum z_i b_i|^2 = sum_{i<j} lambda_ij (z_i - z_j)^2 with z_0 = 0, a sum of forms of rank one that dice the lattice,
  so the Voronoi cell is the zonotope sum of the cells of the summands (Erdahl, "Zonotopes, dicings, and Voronoi's
  conjecture on parallelohedra", 1999): segments +-(lambda_ij / 2) B^{-T}(e_i - e_j), e_0 = 0, B = (b_1 ... b_n).

A zonotope is cut out by the normals to its (n-1)-subsets of generators, which makes "does this cell meet the box?" an
exact vectorised test: box + cell is again a zonotope.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, permutations
from math import sqrt

import numpy as np
from jaxtyping import Bool, Float

__all__ = [
    "Lattice",
    "a_star",
    "a_star_with_radius",
    "body_centred",
    "cell_generators",
    "cells_meeting_box",
    "circumradius",
    "covering_radius",
    "expected_cells",
    "is_obtuse",
    "points_near_box",
]

# Rows tested against the facets of (box + cell) at a time: bounds the memory of the test.
_CHUNK = 65_536


@dataclass(frozen=True, eq=False)
class Lattice:
    """A lattice in n dimensions, given twice: for enumeration and for geometry.

    basis: (n, n), lower triangular with positive diagonal, columns are basis vectors: enumeration then needs no search.
    superbase: (n, n + 1), columns b_0, ..., b_n with sum 0, spanning the same lattice.
    """

    name: str
    basis: Float[np.ndarray, "n n"]
    superbase: Float[np.ndarray, "n n_plus_1"]

    @property
    def dimension(self) -> int:
        """Number of coordinates."""
        return self.basis.shape[0]

    @property
    def determinant(self) -> float:
        """Volume of a cell."""
        return float(np.prod(np.diag(self.basis)))

    def stretched(self, factors: Float[np.ndarray, " n"]) -> Lattice:
        """The lattice with coordinate i multiplied by factors[i] > 0; its superbase need not stay obtuse."""
        column = np.asarray(factors, dtype=float)[:, None]
        return Lattice(self.name, self.basis * column, self.superbase * column)


def a_star(n: int) -> Lattice:
    """A_n*, the best known covering lattice for n <= 5 and Kershner's optimum in the plane.

    Scaled to determinant 1/sqrt(n + 1), where the squared covering radius is n(n + 2) / (12(n + 1)) (Conway and Sloane,
    "Sphere Packings, Lattices and Groups", chapter 4, section 6.6). The superbase e_i - (1, ..., 1)/(n + 1) of the
    hyperplane sum = 0 in n + 1 dimensions is rotated into n dimensions so that b_1, ..., b_n become triangular.
    """
    hyperplane = np.eye(n + 1) - 1.0 / (n + 1)
    # The Cholesky factor of the Gram matrix of b_1..b_n, transposed, is an isometric copy; reversing rows and columns
    # of an upper triangular matrix makes it lower triangular.
    factor = np.linalg.cholesky(hyperplane[1:, 1:]).T
    basis = factor[::-1, ::-1]
    superbase = np.concatenate([-basis.sum(axis=1, keepdims=True), basis], axis=1)
    return Lattice(f"A_{n}*", basis, superbase)


def body_centred(edges: Float[np.ndarray, " 3"]) -> Lattice:
    """The body-centred lattice of a rectangular block with these edges; A_3* when they are equal."""
    edges = np.asarray(edges, dtype=float)
    basis = np.array([[0.5, 0.0, 0.0], [0.5, 1.0, 0.0], [0.5, 0.0, 1.0]])
    superbase = 0.5 * np.array([[-1.0, -1.0, 1.0, 1.0], [-1.0, 1.0, -1.0, 1.0], [-1.0, 1.0, 1.0, -1.0]])
    return Lattice("A_3*", basis * edges[:, None], superbase * edges[:, None])


def is_obtuse(superbase: Float[np.ndarray, "*batch n n_plus_1"]) -> Bool[np.ndarray, "*batch"]:
    """Whether all Selling parameters are non-negative, up to rounding."""
    gram = np.swapaxes(superbase, -1, -2) @ superbase
    first, second = np.triu_indices(superbase.shape[-1], k=1)
    scale = np.einsum("...ii->...", gram)
    return np.asarray(np.all(gram[..., first, second] <= 1e-12 * scale[..., None], axis=-1))


def circumradius(simplices: Float[np.ndarray, "*batch n_plus_1 n"]) -> Float[np.ndarray, "*batch"]:
    """Radius of the sphere through the n + 1 vertices: the centre o solves 2<c_i - c_0, o - c_0> = |c_i - c_0|^2."""
    edges = simplices[..., 1:, :] - simplices[..., :1, :]
    centre = np.linalg.solve(2.0 * edges, np.sum(edges**2, axis=-1)[..., None])[..., 0]
    return np.asarray(np.linalg.norm(centre, axis=-1))


def covering_radius(superbase: Float[np.ndarray, "*batch n n_plus_1"]) -> Float[np.ndarray, "*batch"]:
    """Largest distance to the lattice; infinite where the superbase is not obtuse (then the paths are not Delaunay).

    The cost is n! linear systems: meant for n <= 6.
    """
    vectors = np.swapaxes(superbase, -1, -2)[..., 1:, :]
    n = vectors.shape[-1]
    largest = np.zeros(superbase.shape[:-2])
    for order in permutations(range(n)):
        path = np.cumsum(vectors[..., list(order), :], axis=-2)
        simplex = np.concatenate([np.zeros_like(path[..., :1, :]), path], axis=-2)
        largest = np.maximum(largest, circumradius(simplex))
    return np.where(is_obtuse(superbase), largest, np.inf)


def cell_generators(lattice: Lattice) -> Float[np.ndarray, "generators n"]:
    """Half-segments g whose sum of [-g, g] is the Voronoi cell of 0 (see the head of this file)."""
    base = lattice.superbase
    n = lattice.dimension
    gram = base.T @ base
    dual = np.linalg.inv(base[:, 1:])  # row i is B^{-T} e_{i+1}
    rows = np.concatenate([np.zeros((1, n)), dual], axis=0)
    pairs = list(combinations(range(n + 1), 2))
    return np.array([-0.5 * gram[i, j] * (rows[i] - rows[j]) for i, j in pairs])


def _facets(generators: Float[np.ndarray, "generators n"]) -> tuple[np.ndarray, np.ndarray]:
    """Unit normals and support values of the zonotope sum of [-g, g]."""
    n = generators.shape[1]
    unit = generators / np.maximum(np.linalg.norm(generators, axis=1, keepdims=True), 1e-300)
    if n == 1:
        normals = np.ones((1, 1))
    else:
        subsets = unit[np.array(list(combinations(range(len(unit)), n - 1)))]
        # Generalised cross product: component i is the signed minor without column i.
        minors = [np.linalg.det(np.delete(subsets, i, axis=2)) * (-1) ** i for i in range(n)]
        normals = np.stack(minors, axis=1)
        length = np.linalg.norm(normals, axis=1)
        normals = normals[length > 1e-9] / length[length > 1e-9, None]
        leading = normals[np.arange(len(normals)), np.argmax(np.abs(normals) > 1e-9, axis=1)]
        normals = normals * np.sign(leading)[:, None]
        _, unique = np.unique(np.round(normals, 9), axis=0, return_index=True)
        normals = normals[unique]
    return normals, np.sum(np.abs(generators @ normals.T), axis=0)


def cells_meeting_box(
    lattice: Lattice, points: Float[np.ndarray, "m n"], lo: Float[np.ndarray, " n"], hi: Float[np.ndarray, " n"]
) -> Bool[np.ndarray, " m"]:
    """Which of the lattice points have a Voronoi cell meeting the closed box in more than a rounding error.

    The cell of c meets the box iff c lies in the zonotope box + cell (cells are symmetric). Cells that only touch the
    box are left out: whatever of the box they touch belongs to a neighbour's cell too.
    """
    half = 0.5 * (hi - lo)
    normals, support = _facets(np.concatenate([np.diag(half), cell_generators(lattice)]))
    support = support - 1e-9 * lattice.determinant ** (1.0 / lattice.dimension)
    centre = lo + half
    meets = np.empty(len(points), dtype=bool)
    for start in range(0, len(points), _CHUNK):
        offsets = points[start : start + _CHUNK] - centre
        # Points of the box itself are inside; the facets decide only for the others.
        inside = np.all(np.abs(offsets) <= half, axis=1)
        outside = np.flatnonzero(~inside)
        rows = max(1, 4_000_000 // len(normals))
        for first in range(0, len(outside), rows):
            some = outside[first : first + rows]
            inside[some] = np.all(np.abs(offsets[some] @ normals.T) <= support, axis=1)
        meets[start : start + _CHUNK] = inside
    return meets


def expected_cells(lattice: Lattice, lengths: Float[np.ndarray, " n"]) -> float:
    """Mean number of cells that meet a box of these side lengths, over all positions: vol(box + cell) / vol(cell).

    The volume of a zonotope with full edges s_1, ..., s_m is the sum of |det| over its n-subsets (McMullen, Shephard).
    """
    edges = np.concatenate([np.diag(np.asarray(lengths, dtype=float)), 2.0 * cell_generators(lattice)])
    subsets = edges[np.array(list(combinations(range(len(edges)), lattice.dimension)))]
    return float(np.sum(np.abs(np.linalg.det(subsets)))) / lattice.determinant


def _expand_ranges(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For integer ranges first..last (inclusive, maybe empty): the range index and the integer of every element."""
    counts = np.maximum(last - first + 1, 0)
    rows = np.repeat(np.arange(len(first)), counts)
    return rows, np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts) + first[rows]


def points_near_box(
    lattice: Lattice,
    offset: Float[np.ndarray, " n"],
    lo: Float[np.ndarray, " n"],
    hi: Float[np.ndarray, " n"],
    reach: float,
) -> Float[np.ndarray, "m n"]:
    """The points of offset + lattice within Euclidean distance `reach` of the box, in a fixed order.

    The basis is triangular, so the i-th coordinate restricts only the i-th integer once the earlier ones are known:
    the enumeration is one pass per axis, vectorised, and never holds more than the points of the enlarged box.
    """
    n = lattice.dimension
    basis = lattice.basis
    points = np.asarray(offset, dtype=float)[None, :].copy()
    for i in range(n):
        step = basis[i, i]
        first = np.ceil((lo[i] - reach - points[:, i]) / step - 1e-12).astype(np.int64)
        last = np.floor((hi[i] + reach - points[:, i]) / step + 1e-12).astype(np.int64)
        rows, integers = _expand_ranges(first, last)
        points = points[rows] + integers[:, None] * basis[:, i]
        gap = np.maximum(np.maximum(lo[: i + 1] - points[:, : i + 1], points[:, : i + 1] - hi[: i + 1]), 0.0)
        points = points[np.sum(gap**2, axis=1) <= (reach * (1 + 1e-12)) ** 2]
    return points


def a_star_with_radius(n: int, radius: float) -> Lattice:
    """A_n* scaled to this covering radius."""
    unit = a_star(n)
    return unit.stretched(np.full(n, radius / sqrt(n * (n + 2) / (12.0 * (n + 1)))))
