"""One transformer for a whole family of functions, a prompt for each; and one function of [0, 1]^(d m) reached by a prompt.

The *family*: all q: {0..G-1}^N -> {0..H-1}^N, N = d m, each component of which changes by at most s between neighbours, points at distance 1 in the sup norm.
(Then by at most s r at distance r: two grid points are joined by r such steps.) It holds the quantisation of every f: [0, 1]^N -> [0, 1]^N with
|f(x) - f(y)|_inf <= (s G / H) |x - y|_inf, in cells of side 1/G with values (j + 1/2)/H: floor(H f) clipped to H - 1 is monotone and
commutes with adding integers, so it changes by at most s wherever H f does. The kernel enumerates the family itself, in lexicographic order.

`Family` states that prompt number i makes the stack compute function number i, at every grid point. `Prompted` states an L^p error:

  1. The feed-forward layers before the first attention layer, taken one coordinate at a time as piecewise linear maps in exact rational arithmetic, send
     the whole segment [k, k + 1 - margin]/G of every cell to the point k/G. So the output on the product of such segments
     is the output at the grid point, which `Stack.run` encloses.
  2. The last layer that touches a coordinate maps the real line into a bounded interval: bounds of the output everywhere, the exceptional set of
     relative measure 1 - (1 - margin)^N included.
  3. integral |f - g|_p^p over pieces of the segments, with f enclosed by arb on every piece (or from f(centre) and a declared Lipschitz constant).
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar

import flint
import numpy as np
from jaxtyping import Float, Int

from verify.certificate import Status, downward, upward
from verify.expression import Expression
from verify.precision import arb_bounds, working_precision
from verify.stack import OutOfTime, Plan, Span, Stack
from verify.statement import Statement, StatementError, Verdict

__all__ = ["Family", "Prompted", "component_functions", "grid_points"]

_CHUNK = 2**16  # numbers held at once
_MOST_COMPONENTS = 200_000
_MOST_PIECES = 200_000


def grid_points(n: int, cells: int) -> Int[np.ndarray, "points n"]:
    """{0..cells-1}^n in lexicographic order."""
    return np.indices((cells,) * n).reshape(n, -1).T


def component_functions(n: int, cells: int, levels: int, steps: int) -> Int[np.ndarray, "functions points"]:
    """All maps {0..cells-1}^n -> {0..levels-1} that change by at most `steps` between neighbours in the sup norm, in lexicographic order.

    Raises StatementError beyond 200 000 of them.
    """
    points = grid_points(n, cells)
    rows = np.zeros((1, 0), dtype=np.int64)
    for i in range(len(points)):
        near = np.flatnonzero(np.abs(points[:i] - points[i]).max(axis=1) == 1) if i else np.zeros(0, dtype=int)
        if len(rows) * levels > 16 * _MOST_COMPONENTS:
            raise StatementError(f"cells = {cells}, levels = {levels}: too many functions to enumerate")
        value = np.tile(np.arange(levels), len(rows))
        rows = np.column_stack([np.repeat(rows, levels, axis=0), value])
        rows = rows[(np.abs(rows[:, near] - value[:, None]) <= steps).all(axis=1)]
    if len(rows) > _MOST_COMPONENTS:
        raise StatementError(f"cells = {cells}, levels = {levels}: {len(rows)} functions, at most {_MOST_COMPONENTS}")
    return rows


def _dyadic(name: str, value: int) -> None:
    if not (isinstance(value, int) and 1 <= value <= 2**20 and value & (value - 1) == 0):
        raise StatementError(f"{name} = {value}: expected a power of two, 1 to 2^20: then float64 is exact on the grid")


def _few_points(cells: int, n: int) -> None:
    if n > 12 or cells**n > 4096:
        raise StatementError(f"cells = {cells}: {cells}^{n} grid points, at most 4096 (and N = {n} <= 12)")


def _prompts(stack: Stack, prompts: np.ndarray) -> None:
    shape = (stack.n - stack.m, stack.d)
    if prompts.ndim != 3 or prompts.shape[1:] != shape or not np.isfinite(prompts).all():
        raise StatementError(f"prompts: shape {prompts.shape}, expected (functions, {shape[0]}, {shape[1]}), finite")


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
        _dyadic("cells", self.cells)
        _dyadic("levels", self.levels)
        _prompts(self.stack, self.prompts)
        if self.steps < 0:
            raise StatementError(f"steps = {self.steps}: expected an integer >= 0")
        if not 0 <= self.tolerance < math.inf:
            raise StatementError(f"tolerance = {self.tolerance}: expected a finite number >= 0")
        _few_points(self.cells, self.components)

    @property
    def components(self) -> int:
        """N = d m."""
        return self.stack.d * self.stack.m

    @property
    def sentence(self) -> str:
        """What is stated."""
        kind = "hardmax" if math.isinf(self.stack.beta) else f"softmax (inverse temperature {self.stack.beta:.6g})"
        n = self.components
        return (
            f"one {kind} transformer of {self.stack.depth} blocks computes each of the {len(self.prompts)} functions {{0..{self.cells - 1}}}^{n} -> "
            f"{{0..{self.levels - 1}}}^{n} of step <= {self.steps} from its prompt of {self.stack.n - self.stack.m} tokens, at every grid point, "
            f"within {self.tolerance:g}"
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
            component = component_functions(n, self.cells, self.levels, self.steps)
        except StatementError as error:
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
                witness = (
                    f"function {start + i} with values {np.round(values[i] * self.levels - 0.5).astype(int).T.tolist()} at the grid point "
                    f"{points[k].tolist()}: output between {seen.lo.ravel().tolist()} and {seen.hi.ravel().tolist()}, expected {values[i, k].tolist()}"
                )
        numbers = {"pairs": count * len(points), "functions": count, "wrong": wrong, "undecided": unknown}
        numbers["depth"] = self.stack.depth
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
        cells, levels, steps = (int(data[name]) for name in ("cells", "levels", "steps"))
        prompts = np.asarray(arrays["prompts"], dtype=np.float64)
        return cls(stack, cells, levels, steps, prompts, float.fromhex(data["tolerance"]))


def _distance(found: Span, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of |found - values|, values exact."""
    gap = found - Span.exact(values)
    low = np.where(gap.lo > 0, gap.lo, np.where(gap.hi < 0, -gap.hi, 0.0))
    return low, np.maximum(np.abs(gap.lo), np.abs(gap.hi))


def _piecewise(stack: Stack, f: int, i: int) -> list[tuple[Fraction, Fraction, Fraction]] | None:
    """(c, a, b) with t -> t + sum c relu(a t + b) what feed-forward layer f does to coordinate i; None if other coordinates enter."""
    parts = []
    for r in np.flatnonzero(stack.second[f, i]):
        row = stack.first[f, r]
        if np.delete(row, i).any():
            return None
        c, a, b = (Fraction(float(x)) for x in (stack.second[f, i, r], row[i], stack.offset[f, r]))
        parts.append((c, a, b))
    return parts


def _image(parts: list[tuple[Fraction, Fraction, Fraction]], lo: Fraction, hi: Fraction) -> tuple[Fraction, Fraction]:
    """The exact image of a segment: the map is linear between hinges."""
    hinges = [h for _, a, b in parts if a and lo < (h := -b / a) < hi]
    values = [t + sum((c * max(a * t + b, Fraction(0)) for c, a, b in parts), Fraction(0)) for t in (lo, *hinges, hi)]
    return min(values), max(values)


def quantisers(stack: Stack, i: int) -> list[list[tuple[Fraction, Fraction, Fraction]]] | None:
    """What the feed-forward layers before the first attention layer do to coordinate i, one by one; None if other coordinates enter."""
    until = np.flatnonzero(stack.order == 1)
    found = [_piecewise(stack, f, i) for f in range(int(until[0]) if len(until) else stack.depth)]
    return None if any(parts is None for parts in found) else [parts for parts in found if parts]


def output_range(stack: Stack, i: int) -> tuple[Fraction, Fraction] | None:
    """Bounds of coordinate i of every output, whatever the input: the range of the last layer that touches it, if its ends are flat."""
    a, f = int(stack.order.sum()), stack.depth - int(stack.order.sum())
    for kind in stack.order[::-1]:
        if kind == 1:
            a -= 1
            if stack.out[a, :, i].any():
                return None
            continue
        f -= 1
        if not stack.second[f, i].any():
            continue
        parts = _piecewise(stack, f, i)
        if parts is None:
            return None
        left, right = (1 + sum(c * x for c, x, _ in parts if (x < 0) == side and x) for side in (True, False))
        hinges = [-b / x for _, x, b in parts if x]
        return None if left or right or not hinges else _image(parts, min(hinges), max(hinges))
    return None


@dataclass(frozen=True, eq=False)
class Prompted(Statement):
    """(integral over [0, 1]^N of sum_i |f_i - g_i(prompt, .)|^p)^(1/p) <= eps, for g the stack.

    cells: G; margin: the share of every cell, next to its right end, where quantisation is not finished; expression: f, its variables and outputs the
    entries of the (m, d) array of data tokens, row by row; or else centres (G^N, N): the values of a declared Lipschitz function (sup norm, constant
    `lipschitz`) at the cells' centres; pieces: into how many pieces a segment is cut for the integral, a hint.
    Raises StatementError for numbers that fit no such statement.
    """

    kind: ClassVar[str] = "prompted"
    stack: Stack
    prompt: Float[np.ndarray, "p d"]
    cells: int
    margin: float
    p: float
    eps: float
    expression: Expression | None = None
    centres: Float[np.ndarray, "points N"] = field(default_factory=lambda: np.zeros((0, 0)))
    lipschitz: float = 0.0
    pieces: int = 32

    def __post_init__(self) -> None:
        _dyadic("cells", self.cells)
        _prompts(self.stack, self.prompt[None])
        n = self.components
        _few_points(self.cells, n)
        if not 0 < self.margin < 1:
            raise StatementError(f"margin = {self.margin}: expected a share of a cell, between 0 and 1")
        if not 1 <= self.p <= 64:
            raise StatementError(f"p = {self.p}: expected an exponent between 1 and 64")
        if not 0 < self.eps < math.inf:
            raise StatementError(f"eps = {self.eps}: expected a finite number > 0")
        if not (self.pieces >= 1 and (self.cells * self.pieces) ** n <= _MOST_PIECES):
            raise StatementError(f"pieces = {self.pieces}: expected >= 1 and (cells pieces)^{n} <= {_MOST_PIECES}")
        if self.expression is not None:
            if self.expression.dimension != n or len(self.expression.outputs) != n:
                raise StatementError(
                    f"expression: {self.expression.dimension} variables, {len(self.expression.outputs)} outputs, expected {n} of both"
                )
        elif self.centres.shape != (self.cells**n, n) or not np.isfinite(self.centres).all():
            raise StatementError(f"centres: shape {self.centres.shape}, expected ({self.cells**n}, {n}) finite values")
        elif not 0 <= self.lipschitz < math.inf:
            raise StatementError(f"lipschitz = {self.lipschitz}: expected a finite number >= 0")

    @property
    def components(self) -> int:
        """N = d m."""
        return self.stack.d * self.stack.m

    @property
    def sentence(self) -> str:
        """What is stated."""
        target = "a declared Lipschitz function" if self.expression is None else str(self.expression)
        return f"with its prompt of {len(self.prompt)} tokens the transformer of {self.stack.depth} blocks is within {self.eps:g} of {target} in L^{self.p:g}"

    @property
    def quantity(self) -> str:
        """What the bounds bound."""
        return f"the L^{self.p:g} error on [0, 1]^{self.components}"

    @np.errstate(all="ignore")
    def decide(self, *, seconds: float = math.inf) -> Verdict:
        """Quantisation exactly, the grid points by running the stack, the integral piece by piece."""
        deadline = time.monotonic() + seconds
        route = (
            "exact quantisation off the margins, the stack run at every grid point, f enclosed on every piece of a cell"
        )
        assumptions = () if self.expression else (_DECLARED.format(self.lipschitz),)
        stack, n, g, margin = self.stack, self.components, self.cells, Fraction(self.margin)

        def undecided(reason: str) -> Verdict:
            return Verdict(Status.UNDECIDED, 0.0, math.inf, route, reason, assumptions)

        layers = [quantisers(stack, i) for i in range(stack.d)]
        for token, i, k in itertools.product(range(stack.n - stack.m, stack.n), range(stack.d), range(g)):
            if time.monotonic() > deadline:
                return undecided("out of time")
            shift, maps = Fraction(float(stack.position[token, i])), layers[i]
            lo, hi = shift + Fraction(k, g), shift + (k + 1 - margin) / g
            for parts in maps or ():
                lo, hi = _image(parts, lo, hi)
            if maps is None or lo != hi:
                where = f"coordinate {i} of token {token} is not quantised on cell {k}"
                return undecided(f"{where}: the segment short of the margin is not sent to one point")
        ranges = [output_range(stack, i) for i in range(stack.d)]
        if any(r is None for r in ranges):
            return undecided("no layer bounds the output on the margins")
        inputs = (grid_points(n, g) / g).reshape(-1, stack.m, stack.d)
        tokens = np.concatenate([np.repeat(self.prompt[None], len(inputs), axis=0), inputs], axis=1)
        try:
            found = stack.run(tokens, Plan.of(stack, deadline), deadline)
            with working_precision(80):
                lower, upper, exceptional = self._integral(found, [r for r in ranges if r] * stack.m, deadline)
        except OutOfTime:
            return undecided("out of time")
        numbers = {"depth": stack.depth, "prompt": len(self.prompt), "exceptional": exceptional}
        if upper <= self.eps:
            return Verdict(Status.PROVED, lower, upper, route, "", assumptions, numbers)
        reason = f"the L^{self.p:g} error is at least {downward(lower)} and at most {upward(upper)}, eps = {self.eps:g}"
        return Verdict(
            Status.REFUTED if lower > self.eps else Status.UNDECIDED, lower, upper, route, reason, assumptions, numbers
        )

    def _integral(
        self, found: Span, ranges: list[tuple[Fraction, Fraction]], deadline: float
    ) -> tuple[float, float, float]:
        """Bounds of the L^p error, and the measure of the exceptional set."""
        n, kept = self.components, 1 - Fraction(self.margin)
        exceptional = 1 - kept**n
        outputs = found.lo.reshape(-1, n), found.hi.reshape(-1, n)
        low = high = outside = flint.arb(0)
        for cell, lo, hi in zip(range(self.cells**n), *outputs, strict=True):
            if time.monotonic() > deadline:
                raise OutOfTime
            worst = [flint.arb(0)] * n
            for piece in self._enclosed(cell):
                for i, (f, (g_lo, g_hi)) in enumerate(zip(piece, ranges, strict=True)):
                    a, b = arb_bounds(f)
                    if not np.isfinite([a, b, lo[i], hi[i]]).all():
                        return 0.0, math.inf, 1.0
                    a, b, y, z = (flint.arb(x) for x in (a, b, float(lo[i]), float(hi[i])))
                    low += self._power((y - b).max(a - z).max(flint.arb(0)).lower())
                    high += self._power((b - y).max(z - a))
                    worst[i] = worst[i].max(b - _rational(g_lo)).max(_rational(g_hi) - a)
            outside += sum((self._power(w) for w in worst), flint.arb(0))
        volume = _rational((kept / (self.cells * self.pieces)) ** n)
        high = high * volume + outside * _rational(exceptional / self.cells**n)
        root = 1 / flint.arb(self.p)
        top, bottom = high.upper(), (low * volume).lower()
        upper = arb_bounds(top**root)[1] if top > 0 else 0.0
        lower = max(0.0, arb_bounds(bottom**root)[0]) if bottom > 0 else 0.0
        return lower, math.inf if math.isnan(upper) else upper, math.nextafter(float(exceptional), math.inf)

    def _power(self, x: flint.arb) -> flint.arb:
        """x^p for x >= 0; an upper bound of max(x, 0)^p for a ball that holds 0."""
        if not x > 0:
            return flint.arb(0) if x <= 0 else x.upper() ** flint.arb(self.p)
        return x ** int(self.p) if self.p == int(self.p) else x ** flint.arb(self.p)

    def _enclosed(self, cell: int) -> Iterator[list[flint.arb]]:
        """f on the pieces of a cell; a last piece reaches over the margin to the cell's end, so that all together cover the cell."""
        n, g, kept = self.components, self.cells, 1 - Fraction(self.margin)
        corner = [cell // g ** (n - 1 - i) % g for i in range(n)]
        cuts = [kept * j / self.pieces for j in range(self.pieces)] + [Fraction(1)]
        for index in itertools.product(range(self.pieces), repeat=n):
            if self.expression is not None:
                box = [
                    _rational((k + cuts[j]) / g).union(_rational((k + cuts[j + 1]) / g))
                    for k, j in zip(corner, index, strict=True)
                ]
                yield self.expression.enclose_point(box)
            else:
                radius = max(max(abs(cuts[j] - Fraction(1, 2)), abs(cuts[j + 1] - Fraction(1, 2))) for j in index) / g
                spread = self.lipschitz * _rational(radius)
                yield [flint.arb(float(v)) + spread * flint.arb(0, 1) for v in self.centres[cell]]

    def to_json(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The inverse of `from_json`."""
        data = self.stack.to_json() | {"cells": self.cells, "pieces": self.pieces}
        data |= {name: float(getattr(self, name)).hex() for name in ("margin", "p", "eps", "lipschitz")}
        data["expression"] = None if self.expression is None else self.expression.to_json()
        return data, self.stack.arrays() | {"prompt": self.prompt, "centres": self.centres}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Prompted:
        """The inverse of `to_json`."""
        stack = Stack.from_json(data, arrays)
        expression = None if data["expression"] is None else Expression.from_json(data["expression"])
        margin, p, eps, lipschitz = (float.fromhex(data[name]) for name in ("margin", "p", "eps", "lipschitz"))
        prompt, centres = (np.asarray(arrays[name], dtype=np.float64) for name in ("prompt", "centres"))
        return cls(
            stack, prompt, int(data["cells"]), margin, p, eps, expression, centres, lipschitz, int(data["pieces"])
        )


_DECLARED = "f is Lipschitz in the sup norm with constant {:.6g} (declared), and its values at the cells' centres are the stored numbers (evaluated in float64)"


def _rational(x: Fraction) -> flint.arb:
    return flint.arb(flint.fmpq(x.numerator, x.denominator))
