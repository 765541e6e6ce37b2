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

import flint
import numpy as np
from jaxtyping import Float

from verify.domain import Box
from verify.expression import Expression
from verify.precision import working_precision

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
        if not all(math.isfinite(x) for x in numbers) or self.lipschitz < 0 or self.eps <= 0 or self.hi <= self.lo or self.tokens < 1:
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

    def holds(self, expression: Expression, domain: Box) -> bool:
        """Check with balls: points on one line in order, inside the domain, signs alternate, all beyond eps."""
        if len(self.points) <= 1:
            return True
        points = np.array(self.points)
        if points.shape[1] != expression.dimension or not domain.contains(points).all() or not _in_order(self.points):
            return False
        with working_precision(128):
            signs = [_sign(expression, p, self.theta, self.eps, self.component) for p in self.points]
        return all(s != 0 for s in signs) and all(a == -b for a, b in zip(signs, signs[1:], strict=False))

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


def _sign(expression: Expression, point: tuple[float, ...], theta: float, eps: float, component: int) -> int:
    value = expression.enclose_point([flint.arb(x) for x in point])[component] - flint.arb(theta)
    if value > flint.arb(eps):
        return 1
    return -1 if value < -flint.arb(eps) else 0


def alternation(expression: Expression, domain: Box, eps: float, samples: int = 4001) -> Alternation:
    """Search the best constant theta along each axis through the domain's centre, and certify what is found.

    The number of alternations of f - theta beyond eps is computed on a sample for a few hundred theta; the winner's points are
    then checked rigorously and dropped down to those that hold. Always returns a certificate that holds (perhaps of one token).
    """
    lo, hi = domain.bounds
    best = Alternation(((float(lo[0]),) + tuple(float(x) for x in lo[1:]),), 0.0, eps)
    for axis in range(domain.dimension):
        points = np.tile(lo + (hi - lo) * 0.5, (samples, 1))
        points[:, axis] = np.clip(np.linspace(lo[axis], hi[axis], samples), lo[axis], hi[axis])
        values = expression.evaluate(points)
        for component in range(values.shape[1]):
            f = values[:, component]
            finite = np.isfinite(f)
            if not finite.any():
                continue
            for theta in np.unique(np.quantile(f[finite], np.linspace(0, 1, 301))):
                chosen = _alternating(f - theta, eps)
                if len(chosen) > len(best.points):
                    found = tuple(tuple(float(x) for x in points[i]) for i in chosen)
                    candidate = Alternation(found, float(theta), eps, component)
                    if candidate.holds(expression, domain):
                        best = candidate
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
