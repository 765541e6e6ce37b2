"""The pieces a domain is cut into: x = centre + axes tau with tau in [-1, 1]^n, and a curve on which the last tau lies.

A box is the case of diagonal axes. A patch of a sphere is a thin oriented box: its first axes are tangent, the last one is
normal and as short as the patch is flat; on the sphere the last coordinate of tau is a function of the others (`Curve`), which
is put into the polynomials of head and target once these are subtracted (see `restrict`).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Float

from verify.ball import TINY, UP, Ball, U, gamma
from verify.monomials import Jet, homogeneous_product, monomials

__all__ = ["Cells", "Curve", "restrict"]


@dataclass(frozen=True, eq=False)
class Curve:
    """tau_n as a function of t_i = r_i tau_i, i = 1..m, m = n - 1, on each cell:

        tau_n = -(1 - sqrt(1 - |t|^2) + d) / depth,   |d| <= missing,   |t|^2 <= square <= 1/2,   and |tau_n| <= 1.

    radii: (boxes, m); square, depth, missing: (boxes,); known: (boxes,) False where none of this is known.
    """

    radii: Float[np.ndarray, "boxes m"]
    square: Float[np.ndarray, " boxes"]
    depth: Float[np.ndarray, " boxes"]
    missing: Float[np.ndarray, " boxes"]
    known: np.ndarray

    def __len__(self) -> int:
        return len(self.square)

    def series(self, order: int) -> tuple[Jet, Float[np.ndarray, " boxes"]]:
        """A jet of degree < order in m variables and a bound of what it misses (inf where nothing is known).

        1 - sqrt(1 - s) = sum_k a_k s^k with a_1 = 1/2, a_{k+1} = a_k (2k - 1) / (2k + 2): positive and decreasing, so what is left after K
        terms is at most a_{K+1} s^{K+1} / (1 - s).
        """
        boxes, m = self.radii.shape
        rows = monomials(m, 2)
        at = [int(np.flatnonzero(rows[:, i] == 2)[0]) for i in range(m)]
        quadratic = Ball(np.zeros((boxes, len(rows))), np.zeros((boxes, len(rows))))
        quadratic.mid[:, at] = self.radii**2
        quadratic.rad[:, at] = U * quadratic.mid[:, at] + TINY
        inverse_depth = Ball(1 / self.depth, 2 * U / self.depth)[:, None]
        parts: Jet = [None] * order
        power, a, terms = Ball.exact(np.ones((boxes, 1))), Fraction(1, 2), (order - 1) // 2
        for k in range(1, terms + 1):
            power = homogeneous_product(power, quadratic, m, 2 * (k - 1), 2)
            parts[2 * k] = power * Ball(np.array(-float(a)), np.array(U * float(a))) * inverse_depth
            a = a * Fraction(2 * k - 1, 2 * k + 2)
        s = self.square
        tail = float(a) * s ** (terms + 1) / (1 - s) * (1 + gamma(2 * terms + 16))
        return parts, np.where(self.known, (tail + self.missing) / self.depth * UP, np.inf)


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells of a domain: every point of a cell is centre + axes tau for some tau in [-1, 1]^n (on the curve, if there is one).

    centre: (boxes, n); axes: (boxes, n) half-widths of boxes, or (boxes, n, n) whose columns are the axes; lo, hi: (boxes, n) a
    box that contains the cell and, for every point of it, the segment from the centre.
    """

    centre: Float[np.ndarray, "boxes n"]
    axes: np.ndarray
    lo: Float[np.ndarray, "boxes n"]
    hi: Float[np.ndarray, "boxes n"]
    curve: Curve | None = None

    @staticmethod
    def boxes(lo: Float[np.ndarray, "boxes n"], hi: Float[np.ndarray, "boxes n"]) -> Cells:
        """Boxes given by their corners; the half-widths are rounded up."""
        c = lo + (hi - lo) * 0.5
        return Cells(c, np.maximum(hi - c, c - lo) * (1 + 4 * U), lo, hi)

    def __len__(self) -> int:
        return len(self.centre)

    @property
    def half(self) -> Float[np.ndarray, "boxes n"]:
        """Upper bounds of |x_i - centre_i|."""
        if self.axes.ndim == 2:
            return self.axes
        return np.abs(self.axes).sum(axis=2) * (1 + gamma(self.axes.shape[2] + 1))

    def along(self, d: Float[np.ndarray, "boxes tokens n"]) -> tuple[np.ndarray, np.ndarray]:
        """The linear forms <d, axes tau>: coefficients (boxes, tokens, n) and (boxes, tokens) bounds of the sum of their errors,
        for coefficients d that are themselves off by at most u |d| each (a rounded difference)."""
        if self.axes.ndim == 2:
            y = d * self.axes[:, None, :]
            return y, 4 * U * np.abs(y).sum(axis=2)
        n = d.shape[2]
        size = np.abs(d) @ np.abs(self.axes)
        return d @ self.axes, ((U + gamma(n)) * (1 + gamma(4 * n)) * size.sum(axis=2) + n * TINY) * UP


def _times(a: Jet, rest_a: np.ndarray, b: Jet, rest_b: np.ndarray, m: int) -> tuple[Jet, np.ndarray]:
    """Product of a +- rest_a and b +- rest_b over [-1, 1]^m, cut below the degree len(a); what is cut joins the rest."""
    order = len(a)
    sizes_a, sizes_b = _sizes(a, len(rest_a)), _sizes(b, len(rest_b))
    out: Jet = [None] * order
    cut = np.zeros(len(rest_a))
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            if x is None or y is None:
                continue
            if i + j >= order:
                cut = cut + sizes_a[i] * sizes_b[j]
                continue
            term = homogeneous_product(x, y, m, i, j)
            old = out[i + j]
            out[i + j] = term if old is None else old + term
    total_a, total_b = sum(sizes_a, np.zeros(len(rest_a))), sum(sizes_b, np.zeros(len(rest_a)))
    rest = cut + total_a * rest_b + rest_a * (total_b + rest_b)
    return out, rest * (1 + gamma(4 * order * order + 8)) + TINY


def _sizes(parts: Jet, boxes: int) -> list[np.ndarray]:
    return [np.zeros(boxes) if p is None else p.magnitude().sum(axis=1) * (1 + gamma(p.shape[1] + 1)) for p in parts]


def restrict(parts: Jet, curve: Curve) -> tuple[Jet, Float[np.ndarray, " boxes"]]:
    """A polynomial p(tau_1, ..., tau_n) on the curve: a jet in m = n - 1 variables and a rest,
    |p(tau, tau_n) - jet(tau)| <= rest for all tau in [-1, 1]^m and tau_n of the curve.

    p = sum_k p_k(tau) tau_n^k, by Horner's scheme with products of polynomials that carry a bound of what is cut and of what
    the curve's series misses. Where the curve is not known the rest is infinite.
    """
    order, boxes, m = len(parts), len(curve), curve.radii.shape[1]
    last, missed = curve.series(order)
    by_power = _by_power(parts, m, boxes)
    out, rest = by_power[order - 1], np.zeros(boxes)
    for k in range(order - 2, -1, -1):
        out, rest = _times(out, rest, last, missed, m)
        out = [q if p is None else p if q is None else p + q for p, q in zip(out, by_power[k], strict=True)]
    first = out[0] if out[0] is not None else Ball.exact(np.zeros((boxes, 1)))
    return [first, *out[1:]], np.where(curve.known, rest * UP, np.inf)


def _by_power(parts: Jet, m: int, boxes: int) -> list[Jet]:
    """Coefficients of tau_n^k: for each k a jet in the first m variables, of the same length."""
    order = len(parts)
    out: list[Jet] = [[None] * order for _ in range(order)]
    for d, part in enumerate(parts):
        if part is None:
            continue
        powers = monomials(m + 1, d)
        for k in range(d + 1):
            chosen = np.flatnonzero(powers[:, m] == k)
            index = {tuple(row): i for i, row in enumerate(powers[chosen, :m].tolist())}
            order_of = [index[tuple(row)] for row in monomials(m, d - k).tolist()]
            piece = part[:, chosen[order_of]]
            out[k][d - k] = Ball(
                np.broadcast_to(piece.mid, (boxes, len(chosen))), np.broadcast_to(piece.rad, (boxes, len(chosen)))
            )
    return out
