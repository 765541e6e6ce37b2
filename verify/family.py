"""One transformer for a whole family of functions, a prompt for each.

The *family*: all q: {0..G-1}^N -> {0..H-1}^N, N = d m, each component of which changes by at most s between neighbours, points at distance 1 in the sup norm.
(Then by at most s r at distance r: two grid points are joined by r such steps.) It holds the quantisation of every f: [0, 1]^N -> [0, 1]^N with
|f(x) - f(y)|_inf <= (s G / H) |x - y|_inf, in cells of side 1/G with values (j + 1/2)/H: floor(H f) clipped to H - 1 is monotone and
commutes with adding integers, so it changes by at most s wherever H f does. The kernel enumerates the family itself, in lexicographic order.

`Family` states that prompt number i makes the stack compute function number i, at every grid point.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from verify.certificate import Status, upward
from verify.stack import OutOfTime, Plan, Span, Stack
from verify.statement import Statement, StatementError, Verdict
from verify.stored_arrays import stored_array, stored_integer, stored_number

__all__ = ["Family", "TooManyFunctions", "component_functions", "dyadic", "few_points", "grid_points"]

_CHUNK = 2**16  # numbers held at once
_MOST_COMPONENTS = 200_000
_MOST_ENTRIES = 2**24
"""Of the table of functions: 128 MiB."""


def grid_points(n: int, cells: int) -> Int[np.ndarray, "points n"]:
    """{0..cells-1}^n in lexicographic order."""
    return np.indices((cells,) * n).reshape(n, -1).T


class TooManyFunctions(StatementError):
    """More functions than were asked for, or than fit into memory. at_least: there are at least so many."""

    def __init__(self, reason: str, at_least: int) -> None:
        super().__init__(reason)
        self.at_least = at_least


def component_functions(
    n: int, cells: int, levels: int, steps: int, *, most: int = _MOST_COMPONENTS, deadline: float = math.inf
) -> Int[np.ndarray, "functions points"]:
    """All maps {0..cells-1}^n -> {0..levels-1} that change by at most `steps` between neighbours in the sup norm, in lexicographic order.

    Raises TooManyFunctions beyond `most` of them (at most 200 000) or beyond 2^24 table entries, OutOfTime beyond `deadline` (time.monotonic()).

    Point by point: a map of the points so far is continued by every value within `steps` of all its neighbours', an interval, so only what survives is
    built. The interval is never empty, so the count only grows. For two points of the prefix of the grid at distance r are joined by r steps within it
    (from the later one diagonally into the slab below, which is complete and convex, or, in the same slab, by induction on n), so a map of the
    prefix changes by at most steps * r at distance r and McShane's min over p of f(p) + steps |x - p| extends it.
    """
    points = grid_points(n, cells)
    most = min(most, _MOST_COMPONENTS)
    name = f"cells = {cells}, levels = {levels}, steps = {steps}"
    steps = min(steps, levels)
    columns: list[np.ndarray] = []
    for i in range(len(points)):
        if time.monotonic() > deadline:
            raise OutOfTime
        near = np.flatnonzero(np.abs(points[:i] - points[i]).max(axis=1) == 1).tolist() if i else []
        low = np.zeros(len(columns[0]) if columns else 1, dtype=np.int64)
        high = np.full_like(low, levels - 1)
        for j in near:
            low, high = np.maximum(low, columns[j] - steps), np.minimum(high, columns[j] + steps)
        counts = high - low + 1
        size = int(counts.sum())
        if size > most:
            raise TooManyFunctions(f"{name}: at least {size} functions, at most {most} are enumerated", size)
        if size * (i + 1) > _MOST_ENTRIES:
            reason = f"{name}: at least {size} functions on {i + 1} of {len(points)} points are too many to enumerate; take a smaller grid"
            raise TooManyFunctions(reason, size)
        if size == len(low):
            columns.append(low)
            continue
        parent = np.repeat(np.arange(len(low)), counts)
        first = np.cumsum(counts) - counts
        columns = [column[parent] for column in columns]
        columns.append(low[parent] + np.arange(size) - first[parent])
    return np.stack(columns, axis=1)


def dyadic(name: str, value: int) -> int:
    """The value. Raises StatementError unless it is a power of two."""
    value = stored_integer(name, value, least=1, most=2**20)
    if value & (value - 1):
        raise StatementError(f"{name} = {value}: expected a power of two, 1 to 2^20: then float64 is exact on the grid")
    return value


def few_points(cells: int, n: int) -> None:
    """Raise StatementError for more grid points than are run."""
    if n > 12 or cells**n > 4096:
        raise StatementError(f"cells = {cells}: {cells}^{n} grid points, at most 4096 (and N = {n} <= 12)")


@dataclass(frozen=True, eq=False)
class Family(Statement):
    """Every function of the family is computed by the stack from its prompt, at every grid point, within `tolerance` in the sup norm.

    prompts: (functions, n - m, d), in the kernel's order of the family (functions of one component in lexicographic order; N components: the first
    varies slowest). Raises StatementError for numbers that fit no such statement.
    """

    kind: ClassVar[str] = "family"
    stack: Stack
    cells: int
    levels: int
    steps: int
    prompts: Float[np.ndarray, "functions p d"]
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "cells", dyadic("cells", self.cells))
        object.__setattr__(self, "levels", dyadic("levels", self.levels))
        prompts = stored_array("prompts", self.prompts, (None, self.stack.n - self.stack.m, self.stack.d))
        object.__setattr__(self, "prompts", prompts)
        object.__setattr__(self, "steps", stored_integer("steps", self.steps, least=0))
        object.__setattr__(self, "tolerance", stored_number("tolerance", self.tolerance, least=0.0))
        few_points(self.cells, self.components)

    @property
    def components(self) -> int:
        """N = d m."""
        return self.stack.d * self.stack.m

    @property
    def sentence(self) -> str:
        """What is stated."""
        kind = "hardmax" if math.isinf(self.stack.beta) else f"softmax (inverse temperature {self.stack.beta!r})"
        n = self.components
        return (
            f"one {kind} transformer of {self.stack.depth} blocks computes each of the {len(self.prompts)} functions {{0..{self.cells - 1}}}^{n} -> "
            f"{{0..{self.levels - 1}}}^{n} of step <= {self.steps} from its prompt of {self.stack.n - self.stack.m} tokens, at every grid point, "
            f"within {upward(self.tolerance, 6)}"
        )

    @property
    def quantity(self) -> str:
        """What the bounds bound."""
        return "the largest error over all functions and grid points, sup norm"

    @np.errstate(all="ignore")
    def decide(self, *, seconds: float = math.inf) -> Verdict:
        """Run the stack on every (function, grid point) pair."""
        deadline = time.monotonic() + seconds
        n, route = (
            self.components,
            "every pair run through the stack, on intervals that are points where float64 is exact",
        )
        try:
            component = component_functions(
                n, self.cells, self.levels, self.steps, most=max(1, len(self.prompts)), deadline=deadline
            )
        except OutOfTime:
            return Verdict(Status.UNDECIDED, 0.0, math.inf, route, "out of time while the family was enumerated")
        except TooManyFunctions as error:
            if error.at_least**n > len(self.prompts):
                reason = (
                    f"the family has at least {error.at_least**n} functions, the statement {len(self.prompts)} prompts"
                )
                return Verdict(Status.REFUTED, 0.0, math.inf, route, reason)
            return Verdict(Status.UNDECIDED, 0.0, math.inf, route, str(error))
        count = len(component) ** n
        if count != len(self.prompts):
            reason = f"the family has {count} functions, the statement {len(self.prompts)} prompts"
            return Verdict(Status.REFUTED, 0.0, math.inf, route, reason)
        worst, upper, wrong, unknown, witness, plan = 0.0, 0.0, 0, 0, "", None
        points = grid_points(n, self.cells)
        inputs = (points / self.cells).reshape(-1, self.stack.m, self.stack.d)
        each = max(1, _CHUNK // (len(points) * self.stack.position.size))
        for start in range(0, count, each):
            index = np.arange(start, min(start + each, count))
            parts = np.unravel_index(index, (len(component),) * n)
            values = (np.stack([component[p] for p in parts], axis=-1) + 0.5) / self.levels  # (functions, points, N)
            tokens = np.concatenate(
                [np.repeat(self.prompts[index], len(points), axis=0), np.tile(inputs, (len(index), 1, 1))], axis=1
            )
            try:
                plan = plan or Plan.of(self.stack, deadline)
                found = self.stack.run(tokens, plan, deadline)
            except OutOfTime:
                return Verdict(Status.UNDECIDED, worst, math.inf, route, f"out of time at function {start} of {count}")
            low, high = _distance(found, values.reshape(-1, self.stack.m, self.stack.d))
            low, high = low.max(axis=(1, 2)), high.max(axis=(1, 2))
            upper = max(upper, float(high.max()))
            wrong += int((low > self.tolerance).sum())
            unknown += int(((high > self.tolerance) & (low <= self.tolerance)).sum())
            if low.max() > worst or (not witness and low.max() > self.tolerance):
                worst = max(worst, float(low.max()))
                i, k = divmod(int(low.argmax()), len(points))
                seen = found[int(low.argmax())]
                table = np.round(values[i] * self.levels - 0.5).astype(int)
                shown = f" with values {table.T.tolist()}" if table.size <= 256 else ""
                witness = (
                    f"function {start + i}{shown} at the grid point "
                    f"{points[k].tolist()}: output between {seen.lo.ravel().tolist()} and {seen.hi.ravel().tolist()}, expected {values[i, k].tolist()}"
                )
        counts = {"pairs": count * len(points), "functions": count, "wrong": wrong, "undecided": unknown}
        numbers = {name: float(x) for name, x in (counts | {"depth": self.stack.depth}).items()}
        if wrong:
            return Verdict(Status.REFUTED, worst, upper, route, f"{wrong} pairs are wrong; {witness}", (), numbers)
        if unknown or not upper <= self.tolerance:
            reason = f"{unknown} pairs are enclosed too widely to be decided"
            return Verdict(Status.UNDECIDED, worst, upper, route, reason, (), numbers)
        return Verdict(Status.PROVED, worst, upper, route, "", (), numbers)

    def to_json(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The inverse of `from_json`."""
        data = self.stack.to_json() | {"cells": self.cells, "levels": self.levels, "steps": self.steps}
        data["tolerance"] = float(self.tolerance).hex()
        return data, self.stack.arrays() | {"prompts": self.prompts}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Family:
        """The inverse of `to_json`."""
        stack = Stack.from_json(data, arrays)
        cells, levels, steps = (data[name] for name in ("cells", "levels", "steps"))
        return cls(stack, cells, levels, steps, arrays["prompts"], float.fromhex(data["tolerance"]))


def _distance(found: Span, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of |found - values|, values exact."""
    gap = found - Span.exact(values)
    low = np.where(gap.lo > 0, gap.lo, np.where(gap.hi < 0, -gap.hi, 0.0))
    return low, np.maximum(np.abs(gap.lo), np.abs(gap.hi))
