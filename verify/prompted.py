"""One function of [0, 1]^(d m), reached by a prompt of the stack within eps in L^p.

1. The feed-forward layers before the first attention layer, taken one coordinate at a time as piecewise linear maps in exact rational arithmetic, send
   the whole segment [k, k + 1 - margin]/G of every cell to the point k/G. So the output on the product of such segments
   is the output at the grid point, which `Stack.run` encloses.
2. The last layer that touches a coordinate maps the real line into a bounded interval: bounds of the output everywhere, the exceptional set of
   relative measure 1 - (1 - margin)^N included.
3. integral |f - g|_p^p over pieces of the segments, with f enclosed by arb on every piece (or from f(centre) and a declared Lipschitz constant). A piece at
   the end of f's domain, as [0, h] for x^(3/2), is enclosed wherever f is defined.
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
from jaxtyping import Float

from verify.ball import Ball
from verify.certificate import Status, downward, upward
from verify.expression import Expression
from verify.family import dyadic, few_points, grid_points
from verify.jets import jets
from verify.precision import arb_bounds, working_precision
from verify.stack import OutOfTime, Plan, Span, Stack
from verify.statement import Statement, StatementError, Verdict
from verify.stored_arrays import stored_array, stored_integer, stored_number

__all__ = ["Prompted"]

_MOST_PIECES = 200_000


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
    """(integral over [0, 1]^N, where f is defined, of sum_i |f_i - g_i(prompt, .)|^p)^(1/p) <= eps, for g the stack.

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
        object.__setattr__(self, "cells", dyadic("cells", self.cells))
        shape = (self.stack.n - self.stack.m, self.stack.d)
        object.__setattr__(self, "prompt", stored_array("prompt", self.prompt, shape))
        object.__setattr__(self, "centres", stored_array("centres", self.centres, (None, None)))
        for name in ("margin", "p", "eps"):
            object.__setattr__(self, name, stored_number(name, getattr(self, name), above=0.0))
        object.__setattr__(self, "lipschitz", stored_number("lipschitz", self.lipschitz, least=0.0))
        object.__setattr__(self, "pieces", stored_integer("pieces", self.pieces, least=1, most=_MOST_PIECES))
        n = self.components
        few_points(self.cells, n)
        if not self.margin < 1:
            raise StatementError(f"margin = {self.margin}: expected a share of a cell, between 0 and 1")
        if not 1 <= self.p <= 64:
            raise StatementError(f"p = {self.p}: expected an exponent between 1 and 64")
        if (self.cells * self.pieces) ** n > _MOST_PIECES:
            raise StatementError(f"pieces = {self.pieces}: expected >= 1 and (cells pieces)^{n} <= {_MOST_PIECES}")
        if self.expression is not None:
            if not isinstance(self.expression, Expression):
                raise StatementError(f"expression: {type(self.expression).__name__}, expected an Expression or None")
            if self.expression.dimension != n or len(self.expression.outputs) != n:
                raise StatementError(
                    f"expression: {self.expression.dimension} variables, {len(self.expression.outputs)} outputs, expected {n} of both"
                )
        elif self.centres.shape != (self.cells**n, n):
            raise StatementError(f"centres: shape {self.centres.shape}, expected ({self.cells**n}, {n})")

    @property
    def components(self) -> int:
        """N = d m."""
        return self.stack.d * self.stack.m

    @property
    def sentence(self) -> str:
        """What is stated."""
        target = "a declared Lipschitz function" if self.expression is None else str(self.expression)
        return f"with its prompt of {len(self.prompt)} tokens the transformer of {self.stack.depth} blocks is within {upward(self.eps, 6)} of {target} in L^{_shown(self.p)}"

    @property
    def quantity(self) -> str:
        """What the bounds bound."""
        return f"the L^{_shown(self.p)} error on [0, 1]^{self.components}"

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
        numbers = {"depth": float(stack.depth), "prompt": float(len(self.prompt)), "exceptional": exceptional}
        if upper <= self.eps:
            return Verdict(Status.PROVED, lower, upper, route, "", assumptions, numbers)
        reason = f"the L^{_shown(self.p)} error is at least {downward(lower)} and at most {upward(upper)}, eps = {self.eps!r}"
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
            for piece, certain in self._enclosed(cell):
                for i, (f, (g_lo, g_hi)) in enumerate(zip(piece, ranges, strict=True)):
                    a, b = arb_bounds(f)
                    if not np.isfinite([a, b, lo[i], hi[i]]).all():
                        return 0.0, math.inf, 1.0
                    a, b, y, z = (flint.arb(x) for x in (a, b, float(lo[i]), float(hi[i])))
                    if certain:
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

    def _enclosed(self, cell: int) -> Iterator[tuple[list[flint.arb], bool]]:
        """f on the pieces of a cell, and whether it is certainly defined on all of the piece; a last piece reaches over the margin to the cell's end, so that
        all together cover the cell."""
        n, g, kept = self.components, self.cells, 1 - Fraction(self.margin)
        corner = [cell // g ** (n - 1 - i) % g for i in range(n)]
        cuts = [kept * j / self.pieces for j in range(self.pieces)] + [Fraction(1)]
        for index in itertools.product(range(self.pieces), repeat=n):
            if self.expression is not None:
                sides = [((k + cuts[j]) / g, (k + cuts[j + 1]) / g) for k, j in zip(corner, index, strict=True)]
                found = self.expression.enclose_point([_rational(a).union(_rational(b)) for a, b in sides])
                certain = all(f.is_finite() for f in found)
                yield (found, True) if certain else (_where_defined(self.expression, sides), False)
            else:
                radius = max(max(abs(cuts[j] - Fraction(1, 2)), abs(cuts[j + 1] - Fraction(1, 2))) for j in index) / g
                spread = self.lipschitz * _rational(radius)
                yield [flint.arb(float(v)) + spread * flint.arb(0, 1) for v in self.centres[cell]], True

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
        prompt, centres = arrays["prompt"], arrays["centres"]
        return cls(stack, prompt, data["cells"], margin, p, eps, expression, centres, lipschitz, data["pieces"])


_DECLARED = "f is Lipschitz in the sup norm with constant {!r} (declared), and its values at the cells' centres are the stored numbers (evaluated in float64)"


def _shown(p: float) -> str:
    """An exponent in full."""
    return str(int(p)) if p.is_integer() else repr(p)


def _where_defined(expression: Expression, sides: list[tuple[Fraction, Fraction]]) -> list[flint.arb]:
    """f at the points of a box in [0, 1]^N where it is defined; not finite where it cannot be bounded, or is defined nowhere."""
    lo = np.array([[max(0.0, math.nextafter(float(a), -math.inf)) for a, _ in sides]])
    hi = np.array([[min(1.0, math.nextafter(float(b), math.inf)) for _, b in sides]])
    heads = [
        parts[0] or Ball.exact(np.zeros((1, 1)))
        for parts in jets(expression, Ball.between(lo, hi), np.ones_like(lo), 0)
    ]
    return [flint.arb(float(h.mid[0, 0]), float(h.rad[0, 0])) for h in heads]


def _rational(x: Fraction) -> flint.arb:
    return flint.arb(flint.fmpq(x.numerator, x.denominator))
