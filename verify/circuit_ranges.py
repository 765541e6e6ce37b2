"""Ranges of a circuit's nodes over a box, coefficients of its read-outs, and how much a node's function can vary."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from verify.ball import TINY, UP, Ball, U, gamma, matmul
from verify.circuit import Circuit
from verify.domain import Box
from verify.expression import Expression
from verify.jets import jets
from verify.precision import arb_bounds, working_precision

__all__ = ["NodeRange", "affine_form", "grown", "ranges", "variation"]

_CELLS = 1024
_PIECES = 128
_ROUNDS, _CLOSE = 8, 1.2
"""How often pieces are cut again, and how close to the guess a bound of the variation should come."""


@dataclass(frozen=True, eq=False)
class NodeRange:
    """lo, hi: of the node's value; reads: lower and upper bounds (m,) of what it reads. All outward; infinite or NaN if unbounded."""

    lo: float
    hi: float
    reads: tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]

    @property
    def size(self) -> float:
        """A bound of |value|."""
        return max(abs(self.lo), abs(self.hi))


def affine_form(reads: Expression) -> Ball | None:
    """Coefficients (m, variables + 1) of affine expressions, the constant last; None where one is not affine *as written*: a sum of
    products of which at most one factor is not a constant."""
    width = len(reads.variables) + 1
    table: list[Ball | None] = []
    constant: list[bool] = []
    for node in reads.nodes:
        constant.append(node.op != "var" and all(constant[a] for a in node.args))
    known = _constants(reads, constant)
    for i, node in enumerate(reads.nodes):
        args = [table[a] for a in node.args]
        if node.op == "var":
            unit = np.zeros(width)
            unit[int(node.value or 0)] = 1.0
            table.append(Ball.exact(unit))
        elif constant[i]:
            lo, hi = known[i]
            ball = Ball.exact(np.zeros(width))
            last = Ball.between(np.array(lo), np.array(hi))
            ball.mid[-1], ball.rad[-1] = float(last.mid), float(last.rad)
            table.append(ball)
        elif node.op == "add" and all(a is not None for a in args):
            total = Ball.exact(np.zeros(width))
            for a in args:
                assert a is not None
                total = Ball(total.mid + a.mid, (total.rad + a.rad + U * np.abs(total.mid + a.mid)) * UP)
            table.append(total)
        elif node.op == "mul" and all(a is not None for a in args) and sum(not constant[a] for a in node.args) <= 1:
            product: Ball | None = None
            for a, index in zip(args, node.args, strict=True):
                if not constant[index]:
                    product = a
            assert product is not None
            for a, index in zip(args, node.args, strict=True):
                if constant[index]:
                    assert a is not None
                    factor = Ball(np.full(width, a.mid[-1]), np.full(width, a.rad[-1]))
                    scaled = product * factor
                    zero = (product.mid == 0) & (product.rad == 0)
                    product = Ball(np.where(zero, 0.0, scaled.mid), np.where(zero, 0.0, scaled.rad))
            table.append(product)
        else:
            table.append(None)
    rows = [table[o] for o in reads.outputs]
    if any(r is None for r in rows):
        return None
    found = [r for r in rows if r is not None]
    return Ball(np.stack([r.mid for r in found]), np.stack([r.rad for r in found]))


def _constants(expression: Expression, still: list[bool]) -> dict[int, tuple[float, float]]:
    """Bounds of the nodes that depend on no variable."""
    chosen = [i for i, alone in enumerate(still) if alone]
    if not chosen:
        return {}
    index = {i: k for k, i in enumerate(chosen)}
    kept = [replace(expression.nodes[i], args=tuple(index[a] for a in expression.nodes[i].args)) for i in chosen]
    with working_precision(80):
        values = Expression(tuple(kept), tuple(range(len(kept))), ()).enclose_point([])
        return {i: arb_bounds(value) for i, value in zip(chosen, values, strict=True)}


def ranges(circuit: Circuit, domain: Box) -> list[NodeRange]:
    """Bounds of what every node reads and of its value, over cells of the domain (about a thousand) and then over all of them."""
    lo, hi = domain.bounds
    n = len(lo)
    pieces = max(1, int(_CELLS ** (1 / n) + 1e-9))
    edges = [
        np.concatenate([[a], a + (b - a) * np.arange(1, pieces) / pieces, [b]]) for a, b in zip(lo, hi, strict=True)
    ]
    low = np.stack([g.ravel() for g in np.meshgrid(*[e[:-1] for e in edges], indexing="ij")], axis=1)
    high = np.stack([g.ravel() for g in np.meshgrid(*[e[1:] for e in edges], indexing="ij")], axis=1)
    values = Ball.between(low, high)  # (cells, variables so far)
    out: list[NodeRange] = []
    with np.errstate(all="ignore"):
        for node in circuit.nodes:
            form = affine_form(node.reads)
            m = len(node.reads.outputs)
            if form is None:
                wide = np.full(m, np.inf)
                out.append(NodeRange(-np.inf, np.inf, (-wide, wide)))
                value = Ball(np.zeros(len(low)), np.full(len(low), np.inf))
            else:
                read = matmul(values, Ball(form.mid[:, :-1].T, form.rad[:, :-1].T))
                read = read + Ball(form.mid[:, -1][None], form.rad[:, -1][None])
                part = jets(node.function, read, np.ones_like(read.mid), 0)[0][0]
                assert part is not None
                value = Ball(part.mid[:, 0], part.rad[:, 0])
                reads = (read.lower().min(axis=0), read.upper().max(axis=0))
                out.append(NodeRange(float(value.lower().min()), float(value.upper().max()), reads))
            values = Ball(np.column_stack([values.mid, value.mid]), np.column_stack([values.rad, value.rad]))
    return out


def grown(
    lo: Float[np.ndarray, " m"], hi: Float[np.ndarray, " m"], delta: Float[np.ndarray, " m"]
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """The interval of everything within delta of [lo, hi], and not thinner than floats can cut."""
    width = np.maximum(delta, 64 * U * np.maximum(np.abs(lo), np.abs(hi)) + 1e-140)
    return np.nextafter(lo - width, -np.inf), np.nextafter(hi + width, np.inf)


def variation(
    function: Expression, lo: Float[np.ndarray, " m"], hi: Float[np.ndarray, " m"], delta: Float[np.ndarray, " m"]
) -> float:
    """sup |g(z) - g(z')| over z, z' of the box [lo, hi] with |z_i - z'_i| <= delta_i; inf where it cannot be bounded.

    On each piece, enlarged by delta: sum_i sup |d_i g| delta_i (mean value theorem), or the width of g's range if that is smaller, as next to
    a point where the slope is infinite. Pieces shrink geometrically towards both ends.
    """
    m = len(lo)
    edges = []
    for a, b in zip(lo, hi, strict=True):
        count = _PIECES if m == 1 else 12
        towards = (b - a) * 2.0 ** -np.arange(2, 50 if m == 1 else 12)
        points = np.concatenate([np.linspace(a, b, count + 1), a + towards, b - towards])
        edges.append(np.unique(np.clip(points, a, b)))
    low = np.stack([g.ravel() for g in np.meshgrid(*[e[:-1] for e in edges], indexing="ij")], axis=1)
    high = np.stack([g.ravel() for g in np.meshgrid(*[e[1:] for e in edges], indexing="ij")], axis=1)
    worst, least = _moved(function, low, high, lo, hi, delta)
    for _ in range(_ROUNDS):
        # an enclosure of a slope on a wide piece may be far too large: cut where it is the largest
        top = worst > np.maximum(_CLOSE * np.nanmax(np.append(least, 0.0)), 0.25 * worst.max())
        if not top.any() or not np.isfinite(worst.max()) or top.sum() > 4 * _PIECES:
            break
        axis = np.argmax((high - low)[top], axis=1)
        middle = low[top] + 0.5 * (high - low)[top]
        rows = np.arange(len(middle))
        left, right = high[top].copy(), low[top].copy()
        left[rows, axis] = right[rows, axis] = middle[rows, axis]
        low, high = np.concatenate([low[~top], low[top], right]), np.concatenate([high[~top], left, high[top]])
        more = _moved(function, low[-2 * len(rows) :], high[-2 * len(rows) :], lo, hi, delta)
        worst, least = (np.concatenate([old[~top], new]) for old, new in zip((worst, least), more, strict=True))
    return float(worst.max()) * UP + TINY


def _moved(
    function: Expression, low: np.ndarray, high: np.ndarray, lo: np.ndarray, hi: np.ndarray, delta: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For pieces [low, high]: an upper bound of the variation, and what the slope at the middle suggests (a guess)."""
    m = len(lo)
    low = np.maximum(np.nextafter(low - delta * UP, -np.inf), lo)
    high = np.minimum(np.nextafter(high + delta * UP, np.inf), hi)
    with np.errstate(all="ignore"):
        found = jets(function, Ball.between(low, high), np.ones_like(low), 1)[0]
        width = np.full(len(low), np.inf) if found[0] is None else 2 * found[0].rad[:, 0] * UP
        if found[1] is None:
            slope = guess = np.zeros(len(low))
        else:
            slope = (found[1].magnitude() * delta).sum(axis=1) * (1 + gamma(m + 4))
            guess = (np.abs(found[1].mid) * delta).sum(axis=1)
        worst = np.fmin(np.where(np.isnan(slope), np.inf, slope), np.where(np.isnan(width), np.inf, width))
    return worst, np.minimum(np.where(np.isnan(guess), 0.0, guess), worst)
