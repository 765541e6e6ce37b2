"""What is approximated, and how its regularity is known: derived from an expression, computed from data, or declared.

A target answers one question over many boxes at once: a polynomial in tau (x = c + r tau) and a remainder that enclose it. A
target that is only known to be Lipschitz has no such series; the prover bounds the error against every function of the class.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from jaxtyping import Float

from verify.ball import UP, Ball, U, gamma
from verify.cells import Cells
from verify.expression import Expression
from verify.jets import jets
from verify.monomials import Jet, homogeneous_product

__all__ = [
    "ExpressionTarget",
    "GridTarget",
    "LipschitzTarget",
    "Provenance",
    "Target",
    "TargetError",
    "TargetSeries",
    "target_from",
]


class Provenance(StrEnum):
    """How a target's regularity is known."""

    DERIVED = "derived"
    FROM_DATA = "from data"
    DECLARED = "declared"


class TargetError(ValueError):
    """Stored target data that do not fit together; the message names the field."""


@dataclass(frozen=True, eq=False)
class TargetSeries:
    """|f_i(c + r tau) - parts_i(tau)| <= remainder[:, i] on each box."""

    parts: list[Jet]
    remainder: Float[np.ndarray, "boxes k"]


@dataclass(frozen=True, eq=False)
class ExpressionTarget:
    """A target given by an expression: everything about it is derived."""

    expression: Expression
    provenance = Provenance.DERIVED

    @property
    def dimension(self) -> int:
        return self.expression.dimension

    @property
    def outputs(self) -> int:
        return len(self.expression.outputs)

    def evaluate(self, points: Float[np.ndarray, "batch n"]) -> Float[np.ndarray, "batch k"]:
        """Float64 values, for samples and plots."""
        return self.expression.evaluate(points)

    def breakpoints(self, axis: int, lo: float, hi: float) -> np.ndarray:
        """Where boxes are best cut; none are known beforehand."""
        return np.array([])

    def series(self, cells: Cells, order: int) -> TargetSeries:
        """Taylor coefficients at the centres up to a degree m <= order chosen cell by cell, remainder from degree m over the cell:
        m = order where the target is smooth, 1 where it has a kink, 0 where only a range is known."""
        lo = cells.lo
        at_centre = jets(self.expression, Ball.exact(cells.centre), cells.axes, order - 1)
        at_box = jets(self.expression, Ball.between(cells.lo, cells.hi), cells.axes, order)
        parts, remainders = [], []
        for centre, box in zip(at_centre, at_box, strict=True):
            tails = np.stack([_size(p, len(lo)) for p in box])  # (order + 1, boxes)
            centre_sizes = np.stack([_size(p, len(lo)) for p in centre])
            usable = np.cumsum(~np.isfinite(centre_sizes), axis=0) == 0  # degrees < m must all be finite
            head = box[0]
            assert head is not None
            tails[0] = head.rad[:, 0]
            tails[1:] = np.where(usable, tails[1:], np.inf)
            tails = np.where(np.isnan(tails), np.inf, tails)
            m = np.argmin(tails, axis=0)
            remainders.append(tails[m, np.arange(len(lo))])
            out: Jet = []
            for d, part in enumerate(centre):
                if part is None:
                    out.append(None)
                    continue
                use = (m > d)[:, None]
                out.append(Ball(np.where(use, part.mid, 0.0), np.where(use, part.rad, 0.0)))
            first = out[0] if out[0] is not None else Ball.exact(np.zeros((len(lo), 1)))
            out[0] = Ball(np.where((m == 0)[:, None], head.mid, first.mid), first.rad)
            parts.append(out)
        return TargetSeries(parts, np.stack(remainders, axis=1))

    def to_json(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        return {"kind": "expression", "expression": self.expression.to_json()}, {}

    def __str__(self) -> str:
        return str(self.expression)


def _size(part: Ball | None, boxes: int) -> np.ndarray:
    if part is None:
        return np.zeros(boxes)
    return part.magnitude().sum(axis=1) * (1 + gamma(part.shape[1] + 1))


@dataclass(frozen=True, eq=False)
class GridTarget:
    """Values on a grid, interpolated: "linear" (multilinear in each cell) or "nearest" (at a tie, every nearest value).

    axes: n increasing arrays; values: (len(axis_1), ..., len(axis_n), k).
    """

    axes: tuple[Float[np.ndarray, " points"], ...]
    values: np.ndarray
    interpolation: str
    provenance = Provenance.FROM_DATA

    def __post_init__(self) -> None:
        axes = tuple(np.array(a, dtype=np.float64) for a in self.axes)
        values = np.array(self.values, dtype=np.float64)
        if self.interpolation not in ("linear", "nearest"):
            raise TargetError(f"interpolation: {self.interpolation!r}, expected 'linear' or 'nearest'")
        for i, a in enumerate(axes):
            if a.ndim != 1 or len(a) < 2 or not np.isfinite(a).all() or not (np.diff(a) > 0).all():
                raise TargetError(f"axes[{i}]: expected at least two finite, strictly increasing numbers")
        if values.ndim != len(axes) + 1 or values.shape[:-1] != tuple(len(a) for a in axes):
            raise TargetError(
                f"values: shape {values.shape}, expected {tuple(len(a) for a in axes)} and one axis of outputs"
            )
        if not np.isfinite(values).all():
            raise TargetError("values: has entries that are not finite")
        object.__setattr__(self, "axes", axes)
        object.__setattr__(self, "values", values)

    @property
    def dimension(self) -> int:
        return len(self.axes)

    @property
    def outputs(self) -> int:
        return self.values.shape[-1]

    def evaluate(self, points: Float[np.ndarray, "batch n"]) -> Float[np.ndarray, "batch k"]:
        """Float64 values, for samples and plots; NaN outside the grid."""
        from scipy.interpolate import RegularGridInterpolator

        inside = RegularGridInterpolator(
            self.axes, self.values, method=self.interpolation, bounds_error=False, fill_value=np.nan
        )
        return inside(points)

    def breakpoints(self, axis: int, lo: float, hi: float) -> np.ndarray:
        """Where the interpolant changes its formula: the nodes, or for nearest floats on both sides of each midpoint (the
        midpoint itself need not be a float; the sliver between them belongs to both values)."""
        a = self.axes[axis]
        cuts = a if self.interpolation == "linear" else np.concatenate(_around_midpoints(a))
        return np.sort(cuts[(cuts > lo) & (cuts < hi)])

    def series(self, cells: Cells, order: int) -> TargetSeries:
        """Polynomials on boxes inside one cell of the grid; an infinite remainder across cells. Boxes only."""
        lo, hi = cells.lo, cells.hi
        if self.interpolation == "nearest":
            return self._nearest(lo, hi, order)
        return self._linear(lo, hi, order)

    def _linear(self, lo: np.ndarray, hi: np.ndarray, order: int) -> TargetSeries:
        """On a cell f = sum over corners of value * prod (t_i or 1 - t_i), t_i = (x_i - a_i)/(b_i - a_i), |t| <= 1; parts of degree
        >= order go to the remainder. A box across cells gets an infinite remainder and will be cut."""
        n, boxes = self.dimension, len(lo)
        c = lo + (hi - lo) * 0.5
        r = np.maximum(hi - c, c - lo) * (1 + 4 * U)
        inside = np.ones(boxes, dtype=bool)
        index, weights = [], []
        for i, a in enumerate(self.axes):
            k = np.clip(np.searchsorted(a, c[:, i], side="right") - 1, 0, len(a) - 2)
            inside &= (lo[:, i] >= a[k]) & (hi[:, i] <= a[k + 1])
            width = Ball.exact(a[k + 1]) - Ball.exact(a[k])
            inverse_width = Ball(1 / width.mid, (width.rad / (width.mid * width.mid) * 2 + 2 * U / width.mid) * UP)
            t0 = (Ball.exact(c[:, i]) - Ball.exact(a[k])) * inverse_width
            t1 = Ball.exact(r[:, i]) * inverse_width
            slope = Ball(np.zeros((boxes, n)), np.zeros((boxes, n)))
            slope.mid[:, i], slope.rad[:, i] = t1.mid, t1.rad
            t: Jet = [t0[:, None], slope]
            s: Jet = [(-t0).shift(1.0)[:, None], -slope]
            index.append(k)
            weights.append((s, t))
        parts, remainders = [], []
        for out in range(self.outputs):
            acc: list[Ball | None] = [None] * (n + 1)
            for corner in np.ndindex(*([2] * n)):
                value = self.values[(*(index[i] + corner[i] for i in range(n)), out)]
                product: list[Ball | None] = [Ball.exact(value[:, None])]
                for i in range(n):
                    factor = weights[i][corner[i]]
                    longer: list[Ball | None] = [None] * (len(product) + 1)
                    for d, part in enumerate(product):
                        for e in (0, 1):
                            assert part is not None
                            term = homogeneous_product(part, factor[e], n, d, e)  # pyright: ignore
                            longer[d + e] = term if longer[d + e] is None else longer[d + e] + term  # pyright: ignore
                    product = longer
                acc = [p if a is None else a if p is None else a + p for a, p in zip(acc, product, strict=True)]
            rest = sum((_size(p, boxes) for p in acc[order:]), np.zeros(boxes)) * (1 + gamma(n + 4))
            kept = acc[:order] + [None] * max(0, order - len(acc))
            parts.append(kept)
            remainders.append(np.where(inside, rest, np.inf))
        return TargetSeries(parts, np.stack(remainders, axis=1))

    def _nearest(self, lo: np.ndarray, hi: np.ndarray, order: int) -> TargetSeries:
        """The hull of the values of all nodes that are nearest to some point of the box."""
        first, last = [], []
        for i, a in enumerate(self.axes):
            below, above = _around_midpoints(a)
            first.append(np.searchsorted(above, lo[:, i], side="left"))
            last.append(np.searchsorted(below, hi[:, i], side="right"))
        parts, remainders = [], []
        inside = np.all([(lo[:, i] >= a[0]) & (hi[:, i] <= a[-1]) for i, a in enumerate(self.axes)], axis=0)
        neighbours = inside & np.all(np.stack(last) - np.stack(first) <= 1, axis=0)
        for out in range(self.outputs):
            low, high = np.full(len(lo), np.inf), np.full(len(lo), -np.inf)
            for corner in np.ndindex(*([2] * self.dimension)):
                at = tuple(np.where(corner[i], last[i], first[i]) for i in range(self.dimension))
                value = self.values[(*at, out)]
                low, high = np.minimum(low, value), np.maximum(high, value)
            ball = Ball.between(low, high)
            parts.append([Ball.exact(ball.mid[:, None]), *([None] * (order - 1))])
            remainders.append(np.where(neighbours, ball.rad, np.inf))
        return TargetSeries(parts, np.stack(remainders, axis=1))

    def to_json(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        arrays = {f"target.axis{i}": a for i, a in enumerate(self.axes)} | {"target.values": self.values}
        return {"kind": "grid", "interpolation": self.interpolation, "dimension": self.dimension}, arrays

    def __str__(self) -> str:
        return f"{self.interpolation} interpolant of {' x '.join(str(len(a)) for a in self.axes)} grid values"


def _around_midpoints(a: Float[np.ndarray, " points"]) -> tuple[np.ndarray, np.ndarray]:
    """Floats certainly below and certainly above each midpoint (a_i + a_{i+1}) / 2, whose rounding is at most u (|a_i| + |a_{i+1}|)."""
    middle = a[:-1] + (a[1:] - a[:-1]) * 0.5
    margin = 4 * U * (np.abs(a[:-1]) + np.abs(a[1:]))
    return np.nextafter(middle - margin, -np.inf), np.nextafter(middle + margin, np.inf)


_ALL_PAIRS = 4096
_BLOCK = 2**22
_NORMS = ("l2", "linf", "l1", "geodesic")


@dataclass(frozen=True, eq=False)
class LipschitzTarget:
    """Every f with |f(x) - f(y)|_inf <= lipschitz |x - y| and f(points_j) = values_j: a black box of which only that is known.

    points: (samples, n); values: (samples, k); norm: of the distance |x - y| ("l2", "linf" or "l1"), or "geodesic", the angle
    between points of a sphere. The constant is *declared*:
    a proof about this target is conditional on it.
    """

    points: Float[np.ndarray, "samples n"]
    values: Float[np.ndarray, "samples k"]
    lipschitz: float
    norm: str = "l2"
    name: str = "black box"
    provenance = Provenance.DECLARED

    def __post_init__(self) -> None:
        points, values = np.array(self.points, dtype=np.float64), np.array(self.values, dtype=np.float64)
        if points.ndim != 2 or values.ndim != 2 or len(points) != len(values) or len(points) == 0:
            raise TargetError(
                f"points {points.shape} and values {values.shape}: expected (samples, n) and (samples, k)"
            )
        if not (np.isfinite(points).all() and np.isfinite(values).all()):
            raise TargetError("points and values: have entries that are not finite")
        if not (np.isfinite(self.lipschitz) and self.lipschitz >= 0):
            raise TargetError(f"lipschitz: {self.lipschitz!r}, expected a finite number >= 0")
        if self.norm not in _NORMS:
            raise TargetError(f"norm: {self.norm!r}, expected one of {_NORMS}")
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "values", values)

    @property
    def dimension(self) -> int:
        return self.points.shape[1]

    @property
    def outputs(self) -> int:
        return self.values.shape[1]

    def contradicts_itself(self) -> bool:
        """Whether two recorded values differ by more than the constant allows: all pairs of up to 4096 points, and beyond that each point's
        nearest eight neighbours and all pairs of an evenly chosen 4096."""
        count = len(self.points)
        if count < 2:
            return False
        far = np.unique(np.linspace(0, count - 1, min(count, _ALL_PAIRS)).astype(int))
        step = max(1, _BLOCK // (len(far) * self.dimension))
        if any(self._contradicted(far[s : s + step, None], far[None]) for s in range(0, len(far), step)):
            return True
        if count <= _ALL_PAIRS:
            return False
        from scipy.spatial import KDTree

        order = {"l2": 2, "linf": np.inf, "l1": 1, "geodesic": 2}[self.norm]
        near = np.asarray(KDTree(self.points).query(self.points, k=9, p=order)[1])[:, 1:]
        near = np.minimum(near, count - 1)  # the tree says "none" for neighbours at infinite distance
        return self._contradicted(np.arange(count)[:, None], near)

    def _contradicted(self, first: np.ndarray, second: np.ndarray) -> bool:
        """Whether some pair of points, given by arrays of indices that broadcast, contradicts the constant."""
        order = {"l2": 2, "linf": np.inf, "l1": 1, "geodesic": 2}[self.norm]
        distance = np.linalg.norm(self.points[first] - self.points[second], ord=order, axis=-1)
        if self.norm == "geodesic":
            distance = 2 * np.arcsin(np.minimum(distance / 2, 1.0))
        change = np.abs(self.values[first] - self.values[second]).max(axis=-1)
        noise = 64 * U * np.abs(self.values).max()  # a black box's own rounding
        if self.norm == "geodesic":  # near a pole, acos turns a rounding u into an angle sqrt(2 u)
            noise += 4e-8 * self.lipschitz
        return bool((change > self.lipschitz * distance * (1 + 1e-9) + noise).any())

    def to_json(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        meta = {"kind": "lipschitz", "lipschitz": float(self.lipschitz).hex(), "norm": self.norm, "name": self.name}
        return meta, {"target.points": self.points, "target.values": self.values}

    def __str__(self) -> str:
        return (
            f"{self.name} (declared Lipschitz constant {self.lipschitz:.6g} in {self.norm}, {len(self.points)} values)"
        )


Target = ExpressionTarget | GridTarget | LipschitzTarget


def target_from(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> Target:
    """Rebuild a target from its stored form. Raises TargetError or ExpressionError."""
    try:
        kind = meta["kind"]
        if kind == "expression":
            return ExpressionTarget(Expression.from_json(meta["expression"]))
        if kind == "grid":
            axes = tuple(arrays[f"target.axis{i}"] for i in range(int(meta["dimension"])))
            return GridTarget(axes, arrays["target.values"], str(meta["interpolation"]))
        if kind == "lipschitz":
            constant = float.fromhex(meta["lipschitz"])
            return LipschitzTarget(
                arrays["target.points"], arrays["target.values"], constant, str(meta["norm"]), str(meta["name"])
            )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, TargetError) or type(error).__name__ == "ExpressionError":
            raise
        raise TargetError(f"target: not readable ({error!r})") from error
    raise TargetError(f"target: unknown kind {kind!r}")
