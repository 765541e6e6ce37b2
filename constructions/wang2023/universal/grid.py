"""The finite family: quantised Lipschitz functions [0, 1]^{d x m} -> [0, 1]^{d x m}, and the numbering of its members by prompts.

Cells of side 1/G in the input, levels (j + 1/2)/H in the output. A member is a table q: {0..G-1}^N -> {0..H-1}^N, N = d m, each component of which changes by
at most s between neighbouring cells (sup norm). x -> floor(H x) clipped to H - 1 is monotone and commutes with adding integers, so
the quantisation of f is a member as soon as f is Lipschitz in the sup norm with constant at most s G / H.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from constructions.errors import CompileError
from verify.family import component_functions, grid_points

__all__ = ["Grid"]


@dataclass(frozen=True)
class Grid:
    """Sizes of a family: d numbers a token, m tokens, `cells` G a side, `levels` H of an output, `steps` s between neighbours.

    G and H are powers of two: then every number of the construction is a dyadic fraction. Raises CompileError otherwise.
    """

    d: int
    m: int
    cells: int
    levels: int
    steps: int

    def __post_init__(self) -> None:
        for name, least in (("d", 1), ("m", 1), ("cells", 2), ("levels", 1), ("steps", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise CompileError(f"{name} = {value!r} is not an integer >= {least}. Pass one.")
        for name in ("cells", "levels"):
            value = getattr(self, name)
            if value & (value - 1):
                raise CompileError(
                    f"{name} = {value} is not a power of two, which makes float64 exact on the grid. Pass {1 << value.bit_length()}."
                )

    @property
    def components(self) -> int:
        """N = d m."""
        return self.d * self.m

    @property
    def points(self) -> int:
        """Grid points, G^N."""
        return self.cells**self.components

    @property
    def lipschitz(self) -> float:
        """The largest Lipschitz constant (sup norm) all of whose functions are in the family once quantised: s G / H; inf if s allows every table."""
        return math.inf if self.steps >= self.levels - 1 else self.steps * self.cells / self.levels

    @cached_property
    def component(self) -> Int[np.ndarray, "functions points"]:
        """All tables of one component, in lexicographic order. Raises StatementError beyond 200 000."""
        return component_functions(self.components, self.cells, self.levels, self.steps)

    @property
    def functions(self) -> int:
        """Members of the family."""
        return len(self.component) ** self.components

    @property
    def inputs(self) -> Float[np.ndarray, "points m d"]:
        """The grid points, lower corners of the cells."""
        return (grid_points(self.components, self.cells) / self.cells).reshape(-1, self.m, self.d)

    @property
    def centres(self) -> Float[np.ndarray, "points N"]:
        """The cells' centres."""
        return (grid_points(self.components, self.cells) + 0.5) / self.cells

    def tables(self, index: Int[np.ndarray, " k"]) -> Int[np.ndarray, "k points N"]:
        """Members by number."""
        parts = np.unravel_index(index, (len(self.component),) * self.components)
        return np.stack([self.component[p] for p in parts], axis=-1)

    def outputs(self, tables: Int[np.ndarray, "*k N"]) -> Float[np.ndarray, "*k N"]:
        """The values levels stand for."""
        return (tables + 0.5) / self.levels

    def index(self, table: Int[np.ndarray, "points N"]) -> int:
        """The number of a member. Raises CompileError naming two neighbours whose values are too far apart, if it is none."""
        if table.shape != (self.points, self.components):
            raise CompileError(f"table: shape {table.shape}, expected ({self.points}, {self.components}).")
        if table.min() < 0 or table.max() >= self.levels:
            raise CompileError(
                f"table: values between {table.min()} and {table.max()}, expected 0 to {self.levels - 1}."
            )
        numbers = []
        for i in range(self.components):
            found = np.flatnonzero((self.component == table[:, i]).all(axis=1))
            if not len(found):
                raise CompileError(self._too_steep(table[:, i], i))
            numbers.append(int(found[0]))
        return int(np.ravel_multi_index(tuple(numbers), (len(self.component),) * self.components))

    def _too_steep(self, values: Int[np.ndarray, " points"], i: int) -> str:
        points = grid_points(self.components, self.cells)
        apart = np.abs(points[:, None] - points).max(axis=-1)
        a, b = np.argwhere((apart == 1) & (np.abs(values[:, None] - values) > self.steps))[0]
        return (
            f"table: component {i} goes from {values[a]} at cell {points[a].tolist()} to {values[b]} at its neighbour {points[b].tolist()}, more than "
            f"{self.steps}: not in the family. Take a grid with more steps."
        )
