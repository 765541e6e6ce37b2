"""Geodesic grids of the two-sphere: a triangular lattice folded onto an icosahedron, which may be stretched along an axis.

Caspar and Klug (1962): unroll the icosahedron onto the lattice of Eisenstein integers Z[w], w = e^{i pi/3}. An edge is the
vector a = h + k w; of norm T = h^2 + h k + k^2. Around an axis through two opposite vertices the faces are

    five of a cap      (i a,  (i+1) a,  i a + a w),
    ten of the belt    (i a,  (i+1) a,  i a + b)  and  (i a + b,  (i+1) a + b,  (i+1) a),     b = a / w ... (regular)
    five of the other  (i a + b,  (i+1) a + b,  i a + b + a / w),

and any other lattice vector b keeps the lattice matching along all edges (Moody 1965: the heads of phages): the belt is stretched.
With Q = Im(conj(a) b) / Im(w) in absolute value, a face of a cap has T/2 lattice points' worth of area and one of the belt Q/2, so

    N = 5 (T + Q) + 2       (regular: Q = T and N = 10 T + 2).

Every class has twelve points of five neighbours and otherwise six, the least a triangulated sphere can have.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sqrt

import numpy as np
from jaxtyping import Complex, Float
from scipy.spatial import KDTree

from constructions.petrov2024.relaxation import unit_rows

__all__ = ["GeodesicClass", "geodesic_class", "geodesic_classes", "geodesic_grid"]

_OMEGA = 0.5 + 0.5j * sqrt(3.0)


@dataclass(frozen=True, order=True)
class GeodesicClass:
    """N = `length` points: the edge h + k w of the caps, and the belt's vector `belt` = (p, q), meaning p + q w."""

    length: int
    h: int
    k: int
    belt: tuple[int, int]

    @property
    def shear(self) -> float:
        """How far the belt's vector is from the regular one, relative to the edge; 0 for a regular class."""
        p, q = _regular_belt(self.h, self.k)
        return abs(self.belt[0] - p + (self.belt[1] - q) * _OMEGA) / abs(self.h + self.k * _OMEGA)

    def __str__(self) -> str:
        stretched = "" if self.shear == 0 else f", belt {self.belt}"
        return f"geodesic ({self.h}, {self.k}){stretched}"


def _regular_belt(h: int, k: int) -> tuple[int, int]:
    """a / w = (h + k w)(1 - w) = (h + k) - h w, as w^2 = w - 1."""
    return h + k, -h


def geodesic_class(h: int, k: int, shift: tuple[int, int] = (0, 0)) -> GeodesicClass:
    """The class of edge h + k w whose belt is the regular one plus `shift`. Raises ValueError unless the belt has area."""
    p, q = _regular_belt(h, k)
    p, q = p + shift[0], q + shift[1]
    # Im(conj(h + k w)(p + q w)) / Im(w) = h q - k p, negative as the belt hangs below the cap
    belt = k * p - h * q
    if belt <= 0 or h <= 0 or k < 0:
        raise ValueError(
            f"h, k, shift = {h}, {k}, {shift}: need h > 0, k >= 0 and a belt of positive area, got {belt}."
        )
    return GeodesicClass(5 * (h * h + h * k + k * k + belt) + 2, h, k, (p, q))


def geodesic_classes(shortest: int, longest: int, stretch: int = 0) -> list[GeodesicClass]:
    """All classes of shortest <= N <= longest with h >= k, those of one length in a fixed order.

    stretch: the largest |p|, |q| of a belt's shift; 0 for the regular classes alone. A class and its mirror image count once
    when regular.
    """
    found = set()
    highest = int(sqrt(max(longest, 12) / 5.0)) + 1
    for h in range(1, highest + 1):
        for k in range(h + 1):
            for dp in range(-stretch, stretch + 1):
                for dq in range(-stretch, stretch + 1):
                    p, q = _regular_belt(h, k)
                    if k * (p + dp) - h * (q + dq) <= 0:
                        continue
                    candidate = geodesic_class(h, k, (dp, dq))
                    if shortest <= candidate.length <= longest:
                        found.add(candidate)
    return sorted(found)


def _triangle_points(corners: Complex[np.ndarray, " corners"]) -> tuple[np.ndarray, np.ndarray]:
    """Barycentric coordinates, with respect to the second and third corner, of the lattice points of a closed triangle."""
    e, f = corners[1] - corners[0], corners[2] - corners[0]
    reach = int(2 * max(abs(e), abs(f))) + 3
    a, b = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1))
    z = (a + b * _OMEGA).ravel()
    # z = s e + t f, relative to the first corner, which is a lattice point itself
    area = (np.conj(e) * f).imag
    s, t = (np.conj(z) * f).imag / area, (np.conj(e) * z).imag / area
    inside = (s > -1e-9) & (t > -1e-9) & (s + t < 1 + 1e-9)
    return s[inside], t[inside]


def geodesic_grid(grid: GeodesicClass) -> Float[np.ndarray, "N 3"]:
    """The N points on the unit sphere: the faces' lattice points, interpolated between their corners and projected radially.

    The corners of a stretched class sit where those of the icosahedron do, the lower ones turned about the axis as far as the
    belt's vector runs along the edge: a start for a relaxation, not a good net by itself.
    """
    a = grid.h + grid.k * _OMEGA
    b = grid.belt[0] + grid.belt[1] * _OMEGA
    turn = (np.conj(a) * b).real / abs(a) ** 2
    height, ring = 1 / sqrt(5.0), 2 / sqrt(5.0)
    north, south = np.array([0.0, 0.0, 1.0]), np.array([0.0, 0.0, -1.0])

    def upper(i: float) -> np.ndarray:
        return np.array([ring * np.cos(0.4 * pi * i), ring * np.sin(0.4 * pi * i), height])

    def lower(i: float) -> np.ndarray:
        return upper(i + turn) * np.array([1.0, 1.0, -1.0])

    kinds = (
        (np.array([0, a, a * _OMEGA]), lambda i: (upper(i), upper(i + 1), north)),
        (np.array([0, a, b]), lambda i: (upper(i), upper(i + 1), lower(i))),
        (np.array([b, b + a, a]), lambda i: (lower(i), lower(i + 1), upper(i + 1))),
        (np.array([b, b + a, b + a / _OMEGA]), lambda i: (lower(i), lower(i + 1), south)),
    )
    pieces = []
    for corners, place in kinds:
        s, t = _triangle_points(corners)
        for i in range(5):
            p0, p1, p2 = place(i)
            pieces.append(np.outer(1 - s - t, p0) + np.outer(s, p1) + np.outer(t, p2))
    points = unit_rows(np.concatenate(pieces))
    # a lattice point on an edge was made by both faces; distinct points are much further apart
    twins = KDTree(points).query_pairs(1e-7, output_type="ndarray")
    keep = np.ones(len(points), dtype=bool)
    keep[twins[:, 1]] = False
    return points[keep]
