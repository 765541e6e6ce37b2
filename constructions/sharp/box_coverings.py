"""Coverings of a box by few cells of a given covering radius: the candidates among which `covering` takes the shortest.

Every function takes the side lengths of the box, which is centred at 0, and a radius, and returns the candidate with
its number of cells BEFORE any array is made, so that a caller can refuse 10^15 tokens at no cost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import ceil, inf, prod, sqrt

import numpy as np
from jaxtyping import Float
from scipy.stats import qmc

from constructions.sharp.lattice import (
    a_star_with_radius,
    body_centred,
    cells_meeting_box,
    covering_radius,
    expected_cells,
    points_near_box,
)

__all__ = ["BoxCovering", "box_coverings", "hexagonal_rows", "rectangular"]

# Lattice points that the search over positions may look at in total: keeps it near a second.
_SEARCH_BUDGET = 400_000
# Above this many cells the boundary is too small a share for the position to matter.
_SEARCH_LIMIT = 100_000
# Most integers tried per axis around the continuous optimum.
_WINDOW = 9


@dataclass(frozen=True, eq=False)
class BoxCovering:
    """Cells that cover a box [-lengths/2, lengths/2], not built yet.

    length: number of cells; exact unless `exact` is False (then the mean over positions of the lattice).
    radius: largest distance from a point of the box to the nearest centre, in the norm asked for.
    widths: (n,) cell widths where the cells are boxes, else None; then weights can be products over the axes.
    centres: makes the (length, n) centres.
    """

    lattice: str
    length: int
    radius: float
    widths: Float[np.ndarray, " n"] | None
    centres: Callable[[], Float[np.ndarray, "length n"]]
    exact: bool = True


def _integer(value: float) -> int:
    """ceil as a Python int, with the few ulps of a quotient forgiven, finite even when the value is not."""
    return max(1, ceil(min(value * (1 - 5e-16), 1e300)))


def _equal_halves(halves: np.ndarray, radius: float, power: int) -> tuple[int, float] | None:
    """How many of the ascending half-lengths get a single layer, and half the common cell width of the other axes.

    This is the continuous minimum of prod m_i under sum (halves_i / m_i)^power <= radius^power, m_i >= 1.
    """
    for layered in range(len(halves)):
        left = radius**power - float(np.sum(halves[:layered] ** power))
        if left <= 0:
            return None
        half_width = (left / (len(halves) - layered)) ** (1.0 / power)
        if half_width <= halves[layered]:
            return layered, half_width
    return len(halves), radius


def _axis_counts(lengths: np.ndarray, radius: float, power: int) -> tuple[int, ...] | None:
    """Few m_i with sum (lengths_i / 2 m_i)^power <= radius^power: prod m_i is minimised over a window of integers.

    All axes but the longest range over integers around the continuous optimum, and the longest takes what they leave.
    """
    order = np.argsort(lengths, kind="stable")
    halves = [float(half) for half in 0.5 * lengths[order]]
    continuous = _equal_halves(np.array(halves), radius, power)
    if continuous is None:
        return None
    layered, half_width = continuous
    if layered == len(halves):
        return (1,) * len(halves)
    spread = _WINDOW if len(halves) <= 4 else 2
    windows = [[1, 2]] * layered
    for half in halves[layered:-1]:
        first = max(1, int(min(half / half_width, 1e300)) - spread // 3)
        windows.append([first + step for step in range(spread)])
    if len(windows) > 12:
        windows = [[_integer(half / half_width)] for half in halves[:-1]]
    best: tuple[int, ...] | None = None
    for choice in product(*windows):
        left = radius**power - sum((half / m) ** power for half, m in zip(halves, choice, strict=False))
        if left <= 0:
            continue
        counts = (*choice, _integer(halves[-1] / left ** (1.0 / power)))
        if best is None or prod(counts) < prod(best):
            best = counts
    if best is None:
        return None
    ranks = np.argsort(order)
    return tuple(best[rank] for rank in ranks)


def rectangular(lengths: Float[np.ndarray, " n"], radius: float, norm: str) -> BoxCovering | None:
    """Boxes in a rectangular grid: optimal for "linf", where the covering radius is half the largest width.

    For "l1" and "l2" it is the norm of half the widths. None where not even rounding leaves room for a grid.
    """
    if norm == "linf":
        counts: tuple[int, ...] | None = tuple(_integer(float(length) / (2 * radius)) for length in lengths)
    else:
        counts = _axis_counts(lengths, radius, {"l1": 1, "l2": 2}[norm])
    if counts is None:
        return None
    widths = lengths / np.array([float(m) for m in counts])
    order = {"l1": 1, "l2": 2, "linf": inf}[norm]

    def centres() -> np.ndarray:
        axes = [(np.arange(m) + 0.5) * (length / m) - 0.5 * length for m, length in zip(counts, lengths, strict=True)]
        return np.stack([mesh.ravel() for mesh in np.meshgrid(*axes, indexing="ij")], axis=1)

    return BoxCovering("boxes", prod(counts), float(np.linalg.norm(widths / 2, ord=order)), widths, centres)


def hexagonal_rows(lengths: Float[np.ndarray, " 2"], radius: float) -> BoxCovering | None:
    """Rows of hexagons along axis 0, stretched to end flush with the box.

    Points a apart, rows b apart and shifted by a/2: the Delaunay triangle (0,0), (a,0), (a/2,b) has circumradius
    R = a^2/8b + b/2 (acute for b >= a/2), and a cell has vertical edges at +-a/2 of half-height b - R.
    Along the rows, either all rows have p points and (p - 1/2) a = length (the rows start at a/2 and 0 in turn), or
    p and p + 1 points in turn and p a = length. Across, m rows cover (m - 1) b + 2 (b - R) = m b - a^2/4b, so b is the
    larger root of m b^2 - S b - a^2/4 = 0, S the length across, and p fixes the largest b that R allows:
    b <= R + sqrt(R^2 - a^2/4).
    """
    along, across = (float(length) for length in lengths)
    ideal = along / (sqrt(3.0) * radius)
    # Rows of cells narrower than 0.8 or wider than 2/sqrt(3) of the ideal never win.
    steps = np.arange(-40, 60)
    columns = np.unique(np.maximum(1, np.concatenate([np.rint(ideal * (1 + steps / 200)), np.rint(ideal) + steps])))
    best: tuple[int, float, int, int, bool, float, float] | None = None
    for p, even in product(columns, (True, False)):
        a = along / (p - 0.5 if even else p)
        if a > 2 * radius:
            continue
        b = radius + sqrt(radius**2 - a**2 / 4)
        m = _integer(across / b + (a / (2 * b)) ** 2)
        count = m * int(p) if even else m * int(p) + m // 2
        if best is not None and count > best[0]:
            continue
        b = max((across + sqrt(across**2 + m * a**2)) / (2 * m), a / 2)
        reached = a**2 / (8 * b) + b / 2
        if best is None or (count, reached) < best[:2]:
            best = (count, reached, int(p), m, even, a, b)
    if best is None:
        return None
    count, reached, p, m, even, a, b = best

    def centres() -> np.ndarray:
        heights = (np.arange(m) - 0.5 * (m - 1)) * b
        longer = p if even else p + 1
        first = a * (np.arange(p) + 0.5)
        second = a * np.arange(longer)
        rows = [first if row % 2 == 0 else second for row in range(m)]
        x = np.concatenate(rows) - 0.5 * along
        return np.stack([x, np.repeat(heights, [len(row) for row in rows])], axis=1)

    return BoxCovering("A_2*", count, reached, None, centres)


def _swapped(covering: BoxCovering | None) -> BoxCovering | None:
    """The same covering with the two axes exchanged."""
    if covering is None:
        return None
    return BoxCovering(covering.lattice, covering.length, covering.radius, None, lambda: covering.centres()[:, ::-1])


def _body_centred_flush(lengths: Float[np.ndarray, " 3"], radius: float) -> BoxCovering | None:
    """A_3* as a body-centred grid stretched so that both faces of the box are planes of lattice points.

    The lattice is mirror symmetric in such a plane, so a point of the box is never nearer to a lattice point outside
    than to its mirror image inside: the points of the closed box suffice. With k_i half-edges per side there are
    prod(floor(k_i/2) + 1) corners and prod(ceil(k_i/2)) body centres.
    """
    ideal = 2 * lengths / (4 / sqrt(5.0) * radius)
    if np.any(ideal > 1e9):
        return None
    windows = [np.unique(np.maximum(1, int(k) + np.arange(-1, 4))) for k in ideal]
    choices = np.stack([mesh.ravel() for mesh in np.meshgrid(*windows, indexing="ij")], axis=1)
    bases = np.stack([body_centred(2 * lengths / k).superbase for k in choices])
    radii = covering_radius(bases)
    counts = np.prod(choices // 2 + 1.0, axis=1) + np.prod((choices + 1) // 2 + 0.0, axis=1)
    counts[radii > radius * (1 + 1e-12)] = inf
    best = int(np.lexsort((radii, counts))[0])
    if not np.isfinite(counts[best]):
        return None
    halves = choices[best]

    def centres() -> np.ndarray:
        axes = [np.linspace(-0.5, 0.5, k + 1) * length for k, length in zip(halves, lengths, strict=True)]
        grids = [np.meshgrid(*(axis[parity::2] for axis in axes), indexing="ij") for parity in (0, 1)]
        return np.concatenate([np.stack([mesh.ravel() for mesh in grid], axis=1) for grid in grids])

    return BoxCovering("A_3*", int(counts[best]), float(radii[best]), None, centres)


@cache
def _positions(n: int, count: int) -> np.ndarray:
    """Deterministic, evenly spread positions of the lattice modulo itself; the first is 0."""
    return qmc.Halton(n, scramble=False).random(count)


def _a_star_placed(lengths: Float[np.ndarray, " n"], radius: float) -> BoxCovering | None:
    """A_n* of exactly this radius: the cells that meet the box, at the best of a few positions of the lattice."""
    n = len(lengths)
    lattice = a_star_with_radius(n, radius)
    expected = expected_cells(lattice, lengths)
    hi = 0.5 * lengths
    lo = -hi

    def placed(position: np.ndarray) -> np.ndarray:
        near = points_near_box(lattice, lattice.basis @ position, lo, hi, radius)
        return near[cells_meeting_box(lattice, near, lo, hi)]

    if expected > _SEARCH_LIMIT:
        length = _integer(expected)
        return BoxCovering(lattice.name, length, radius, None, lambda: placed(np.zeros(n)), exact=False)
    # In five dimensions the cell has thousands of facets, and each position costs that much more.
    trials = int(np.clip(_SEARCH_BUDGET / (expected * (1, 1, 1, 1, 8, 100)[n]), 1, 64))
    positions = _positions(n, trials)
    counts = [len(placed(position)) for position in positions]
    best = positions[int(np.argmin(counts))]
    return BoxCovering(lattice.name, min(counts), radius, None, lambda: placed(best))


def _flattened(
    family: Callable[[np.ndarray, float], BoxCovering | None], lengths: np.ndarray, radius: float, axes: np.ndarray
) -> BoxCovering | None:
    """A covering of the face spanned by `axes`, one layer across the others: R^2 = R_face^2 + sum (length/2)^2."""
    others = np.setdiff1d(np.arange(len(lengths)), axes)
    thickness = float(np.sum((0.5 * lengths[others]) ** 2))
    if thickness >= radius**2:
        return None
    face = family(lengths[axes], sqrt(radius**2 - thickness))
    if face is None:
        return None

    def centres() -> np.ndarray:
        flat = face.centres()
        full = np.zeros((len(flat), len(lengths)))
        full[:, axes] = flat
        return full

    return BoxCovering(face.lattice, face.length, sqrt(face.radius**2 + thickness), None, centres, face.exact)


_FAMILIES: dict[int, tuple[Callable[[np.ndarray, float], BoxCovering | None], ...]] = {
    2: (hexagonal_rows, lambda lengths, radius: _swapped(hexagonal_rows(lengths[::-1], radius))),
    3: (_body_centred_flush, _a_star_placed),
    4: (_a_star_placed,),
    5: (_a_star_placed,),
}


def box_coverings(lengths: Float[np.ndarray, " n"], radius: float, norm: str) -> tuple[BoxCovering, ...]:
    """All candidates for a box of these side lengths, shortest first, ties by covering radius.

    lengths: (n,), positive; radius: positive; norm: "l1", "l2" or "linf". A_n* (n <= 5) for "l2" only, also on a face
    of the box with one layer across its thin sides; rectangular grids in every norm and dimension.
    """
    candidates = [rectangular(lengths, radius, norm)]
    if norm == "l2":
        by_length = np.argsort(-lengths, kind="stable")
        for m in range(2, min(len(lengths), 5) + 1):
            axes = np.sort(by_length[:m])
            candidates += [_flattened(family, lengths, radius, axes) for family in _FAMILIES[m]]
    found = [candidate for candidate in candidates if candidate is not None]
    return tuple(sorted(found, key=lambda candidate: (candidate.length, candidate.radius)))
