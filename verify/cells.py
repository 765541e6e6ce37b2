"""The pieces a domain is cut into: x = centre + axes tau with tau in [-1, 1]^n, and a curve on which the last tau lies.

A box is the case of diagonal axes. A patch of a sphere is a thin oriented box: its first axes are tangent, the last one is
normal and as short as the patch is flat; on the sphere the last coordinate of tau is a function of the others (`Curve`), which
is put into the polynomials of head and target once these are subtracted (see `restrict`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from verify.ball import TINY, UP, Ball, U, gamma
from verify.monomials import Jet, homogeneous_product, monomials

__all__ = ["Cells", "Curve", "restrict"]


@dataclass(frozen=True, eq=False)
class Curve:
    """tau_n as a function of (tau_1, ..., tau_m), m = n - 1: |tau_n - parts(tau)| <= rest, and |tau_n| <= 1, on each cell.

    parts: a jet in m variables; rest: (boxes,), inf where nothing is known.
    """

    parts: Jet
    rest: Float[np.ndarray, " boxes"]


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
    total_a, total_b = sum(sizes_a), sum(sizes_b)
    rest = cut + total_a * rest_b + rest_a * (total_b + rest_b)
    return out, rest * (1 + gamma(4 * order * order + 8)) + TINY


def _sizes(parts: Jet, boxes: int) -> list[np.ndarray]:
    return [np.zeros(boxes) if p is None else p.magnitude().sum(axis=1) * (1 + gamma(p.shape[1] + 1)) for p in parts]


def restrict(parts: Jet, curve: Curve) -> tuple[Jet, Float[np.ndarray, " boxes"]]:
    """A polynomial p(tau_1, ..., tau_n) on the curve: a jet in m = n - 1 variables and a rest,
    |p(tau, tau_n) - jet(tau)| <= rest for all tau in [-1, 1]^m and tau_n of the curve.

    p = sum_k p_k(tau) tau_n^k, by Horner's scheme with products of polynomials that carry a bound of what is cut and of what
    the curve's parts miss. Where the curve's rest is infinite so is the result's.
    """
    order = len(parts)
    boxes = len(curve.rest)
    m = monomials_in(curve)
    by_power = _by_power(parts, m, boxes)
    zero = np.zeros(boxes)
    out, rest = by_power[order - 1], zero
    for k in range(order - 2, -1, -1):
        out, rest = _times(out, rest, curve.parts[:order], _tail(curve, order), m)
        out = [q if p is None else p if q is None else p + q for p, q in zip(out, by_power[k], strict=True)]
    first = out[0] if out[0] is not None else Ball.exact(np.zeros((boxes, 1)))
    return [first, *out[1:]], rest * UP


def monomials_in(curve: Curve) -> int:
    """The number m of variables of a curve: its part of degree 1 has m coefficients."""
    part = curve.parts[1] if len(curve.parts) > 1 else None
    if part is None:
        raise ValueError("a curve stores its part of degree 1, zero or not")
    return part.shape[1]


def _tail(curve: Curve, order: int) -> np.ndarray:
    """The rest of the curve cut below degree `order`."""
    return (curve.rest + sum(_sizes(curve.parts[order:], len(curve.rest)), np.zeros(len(curve.rest)))) * UP


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
