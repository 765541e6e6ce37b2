"""Lower bounds on the length of any single head, as certificates that are checked from their own numbers.

Lemma (Descartes, Laguerre). A sum of N exponentials with real exponents, not identically zero, has at most N - 1 real zeros,
and fewer sign changes than terms.

Along a line x = p + t q, a head with N tokens minus a constant theta is sum_j (v_j - theta) e^{s_j} / sum_j e^{s_j}, with s_j affine in
t: its numerator is a sum of at most N exponentials. If f - theta takes values beyond +eps and below -eps in turn at m points of
the line, every g within eps of f changes sign m - 1 times between them, hence N >= m. Nothing is assumed of g's keys, norms or
values, and data tokens whose value is zero change nothing when theta = 0 or there are none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Float

from verify.ball import Ball
from verify.cells import Cells
from verify.domain import Box
from verify.jets import jets
from verify.target import ExpressionTarget, GridTarget

__all__ = ["Alternation", "ZigZag", "alternation", "zigzag"]


@dataclass(frozen=True)
class ZigZag:
    """No single head with fewer than `tokens` tokens is within eps of *every* L-Lipschitz function on [lo, hi].

    The witness is the zigzag of slope +-L and amplitude A = L (hi - lo) / (2 (tokens - 1)) > eps, which alternates `tokens` times between
    +A and -A at equally spaced points (tokens = 1 needs no witness: a prefix has at least one token). All numbers are the exact
    values of the floats given.
    """

    lipschitz: float
    lo: float
    hi: float
    eps: float
    tokens: int

    def holds(self) -> bool:
        """Check the certificate in exact rational arithmetic: the amplitude is above eps, strictly."""
        numbers = (self.lipschitz, self.lo, self.hi, self.eps)
        if (
            not all(math.isfinite(x) for x in numbers)
            or self.lipschitz < 0
            or self.eps <= 0
            or self.hi <= self.lo
            or self.tokens < 1
        ):
            return False
        if self.tokens == 1:
            return True
        length = Fraction(self.hi) - Fraction(self.lo)
        return Fraction(self.lipschitz) * length > 2 * Fraction(self.eps) * (self.tokens - 1)

    def evaluate(self, x: Float[np.ndarray, " batch"]) -> Float[np.ndarray, " batch"]:
        """The witness, in float64: value (-1)^i A at the i-th extremum."""
        if self.tokens == 1:
            return np.zeros_like(x)
        spacing = (self.hi - self.lo) / (self.tokens - 1)
        phase = (x - self.lo) / spacing
        return self.lipschitz * spacing * (np.abs(phase % 2 - 1) - 0.5)

    def __repr__(self) -> str:
        return f"<ZigZag: no head with fewer than {self.tokens} tokens serves every {self.lipschitz:.6g}-Lipschitz function to {self.eps:.6g}>"


def zigzag(lipschitz: float, lo: float, hi: float, eps: float) -> ZigZag:
    """The strongest zigzag certificate: the largest n with L (hi - lo) > 2 eps (n - 1), that is n = ceil(L (hi - lo) / 2 eps), in
    exact arithmetic (one more when the quotient is an integer does not follow: there A = eps, and nothing is claimed)."""
    if not (all(math.isfinite(v) for v in (lipschitz, lo, hi, eps)) and lipschitz >= 0 and lo < hi and eps > 0):
        raise ValueError(
            f"zigzag({lipschitz!r}, {lo!r}, {hi!r}, {eps!r}): expected lipschitz >= 0, lo < hi, eps > 0, all finite"
        )
    quotient = Fraction(lipschitz) * (Fraction(hi) - Fraction(lo)) / (2 * Fraction(eps))
    return ZigZag(lipschitz, lo, hi, eps, max(1, math.ceil(quotient)))


@dataclass(frozen=True)
class Alternation:
    """No single head with fewer than `tokens` tokens is within eps of *this* f: f - theta alternates beyond +-eps at the points.

    points: float coordinates along a line in the domain, in order; component: which output; theta: the constant.
    """

    points: tuple[tuple[float, ...], ...]
    theta: float
    eps: float
    component: int = 0

    @property
    def tokens(self) -> int:
        """The lower bound: the number of alternating points."""
        return max(1, len(self.points))

    def holds(self, target: ExpressionTarget | GridTarget, domain: Box) -> bool:
        """Check with balls: points on one line in order, inside the domain, signs alternate, all beyond eps."""
        if len(self.points) <= 1:
            return True
        try:
            points = np.array(self.points, dtype=np.float64)
        except (TypeError, ValueError):
            return False
        if (
            points.ndim != 2
            or not np.isfinite(points).all()
            or points.shape[1] != target.dimension
            or not domain.contains(points).all()
            or not _in_order(self.points)
        ):
            return False
        if not 0 <= self.component < target.outputs or not (math.isfinite(self.theta) and self.eps > 0):
            return False
        with np.errstate(all="ignore"):
            series = target.series(
                Cells.boxes(points, points), 1
            )  # cells that are points: the zeroth part and a rounding-sized remainder
            value = series.parts[self.component][0]
            assert value is not None
            if isinstance(
                target, ExpressionTarget
            ):  # points that may lie where the target is not defined count for nothing
                exact = jets(target.expression, Ball.exact(points), np.zeros_like(points), 0, strict=True)[
                    self.component
                ][0]
                value = exact if exact is not None else value
            distance = value.enlarge(series.remainder[:, self.component]).shift(-self.theta)
            signs = np.where(distance.lower() > self.eps, 1, np.where(distance.upper() < -self.eps, -1, 0))
        return bool((signs != 0).all() and (signs[1:] == -signs[:-1]).all())

    def __repr__(self) -> str:
        return f"<Alternation: no head with fewer than {self.tokens} tokens is within {self.eps:.4g} of this target>"


def _in_order(points: tuple[tuple[float, ...], ...]) -> bool:
    """Exactly collinear and strictly ordered: each point is base + t (end - base), checked in rational arithmetic."""
    base, end = ([Fraction(x) for x in p] for p in (points[0], points[-1]))
    direction = [b - a for a, b in zip(base, end, strict=True)]
    axis = max(range(len(direction)), key=lambda i: abs(direction[i]))
    if direction[axis] == 0:
        return False
    last = None
    for p in points:
        t = (Fraction(p[axis]) - base[axis]) / direction[axis]
        if last is not None and t <= last:
            return False
        if any(Fraction(x) != b + t * d for x, b, d in zip(p, base, direction, strict=True)):
            return False
        last = t
    return True


def alternation(
    target: ExpressionTarget | GridTarget, domain: Box, eps: float, samples: int = 4001, lines: int = 5
) -> Alternation:
    """Search lines along the axes and the best constant theta on each, and certify what is found.

    In n > 1 dimensions `lines`^(n-1) parallel lines per axis are tried (at most 125). The number of alternations of f - theta
    beyond eps is counted on a sample for a few hundred theta; the winner's points are then checked rigorously. Always returns a
    certificate that holds (perhaps of one token).
    """
    lo, hi = domain.bounds
    best = Alternation((tuple(float(x) for x in lo),), 0.0, eps)
    n = domain.dimension
    offsets = [np.full(n, 0.5)] if n == 1 or lines ** (n - 1) > 125 else _grid(n, lines)
    for axis in range(n):
        for offset in offsets:
            if offset[axis] != 0.5:
                continue  # the axis's own coordinate runs along the line
            points = np.tile(np.clip(lo + (hi - lo) * offset, lo, hi), (samples, 1))
            points[:, axis] = np.clip(np.linspace(lo[axis], hi[axis], samples), lo[axis], hi[axis])
            values = target.evaluate(points)
            for component in range(values.shape[1]):
                theta, chosen = _best_constant(values[:, component], eps, len(best.points))
                if len(chosen) > len(best.points):
                    found = tuple(tuple(float(x) for x in points[i]) for i in chosen)
                    candidate = Alternation(found, theta, eps, component)
                    if candidate.holds(target, domain):
                        best = candidate
    return best


def _grid(n: int, lines: int) -> list[np.ndarray]:
    steps = np.linspace(0, 1, lines)
    return list(np.stack([g.ravel() for g in np.meshgrid(*[steps] * n, indexing="ij")], axis=1))


def _best_constant(f: Float[np.ndarray, " samples"], eps: float, known: int) -> tuple[float, list[int]]:
    """The constant theta with the most alternations of f - theta, if more than `known`, and their indices."""
    best: tuple[float, list[int]] = (0.0, [])
    finite = f[np.isfinite(f)]
    if len(finite) == 0 or np.ptp(finite) <= 2 * eps:
        return best
    # between two neighbouring candidates nothing changes but by the samples' own resolution
    turning = finite[1:-1][(np.diff(finite)[1:] > 0) != (np.diff(finite)[:-1] > 0)] if len(finite) > 2 else finite
    if len(turning) + 2 <= known:
        return best  # f has too few monotone pieces
    for theta in np.unique(np.quantile(finite, np.linspace(0, 1, 301))):
        chosen = _alternating(f - theta, eps)
        if len(chosen) > max(known, len(best[1])):
            best = (float(theta), chosen)
    return best


def _alternating(values: np.ndarray, eps: float) -> list[int]:
    """Indices of extreme points between which the values alternate beyond +-eps."""
    margin = eps * (1 + 1e-9) + 1e-300
    signs = np.where(values > margin, 1, np.where(values < -margin, -1, 0))
    index = np.flatnonzero(signs)
    if len(index) == 0:
        return []
    change = np.flatnonzero(np.diff(signs[index]) != 0)
    runs = np.split(index, change + 1)
    return [int(run[np.argmax(np.abs(values[run]))]) for run in runs]
