"""Charts of a domain: boxes of parameters that are bisected, and the cells of the domain that they stand for.

A box is its own chart. A sphere has the faces of the cube around it, each cut in parts that are flat enough to begin with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from verify.cells import Cells
from verify.domain import Box
from verify.sphere import Sphere, around, patches

__all__ = ["BoxChart", "Chart", "FaceChart", "Region", "at_points", "charts"]

_PIECES = 3
"""Each side of a face is cut in this many parts before anything is bounded there."""


@dataclass(frozen=True)
class BoxChart:
    """A box as its own chart."""

    domain: Box

    @property
    def bounds(self) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Corners of the box of parameters."""
        return self.domain.bounds

    def cells(self, lo: Float[np.ndarray, "boxes n"], hi: Float[np.ndarray, "boxes n"]) -> Cells:
        """The boxes themselves."""
        return Cells.boxes(lo, hi)


@dataclass(frozen=True)
class FaceChart:
    """One face of the cube around S^m, projected radially."""

    domain: Sphere
    face: int

    @property
    def bounds(self) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
        """Corners of the face."""
        return -np.ones(self.domain.m), np.ones(self.domain.m)

    def cells(self, lo: Float[np.ndarray, "boxes m"], hi: Float[np.ndarray, "boxes m"]) -> Cells:
        """Patches of the sphere."""
        return patches(self.domain.m, self.face, lo, hi)


Chart = BoxChart | FaceChart


@dataclass(frozen=True, eq=False)
class Region:
    """A box of a chart's parameters. lo, hi: (m,)."""

    chart: Chart
    lo: np.ndarray
    hi: np.ndarray

    @property
    def cell(self) -> Cells:
        """The region as one cell."""
        return self.chart.cells(self.lo[None], self.hi[None])


def charts(domain: Box | Sphere) -> list[Region]:
    """The regions that a proof starts from; together they are the domain."""
    if isinstance(domain, Box):
        chart = BoxChart(domain)
        return [Region(chart, *chart.bounds)]
    edges = np.linspace(-1.0, 1.0, _PIECES + 1)
    corners = np.stack(np.meshgrid(*[np.arange(_PIECES)] * domain.m, indexing="ij"), axis=-1).reshape(-1, domain.m)
    return [
        Region(FaceChart(domain, face), edges[corner], edges[corner + 1])
        for face in range(2 * domain.dimension)
        for corner in corners
    ]


def at_points(domain: Box | Sphere, points: Float[np.ndarray, "boxes n"]) -> Cells:
    """Cells that hold single points of the domain: for a sphere, the point of it next to each given one."""
    return Cells.boxes(points, points) if isinstance(domain, Box) else around(points)
