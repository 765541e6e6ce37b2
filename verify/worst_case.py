"""The error of a head against every Lipschitz function at once, on boxes."""

from __future__ import annotations

import numpy as np

from verify.affine import AffineHead
from verify.ball import UP, U
from verify.cells import Cells
from verify.head import Tokens, TokenValues, enclose_head
from verify.polynomial import sup_norm
from verify.target import LipschitzTarget

__all__ = ["worst_case"]


def worst_case(
    head: AffineHead,
    target: LipschitzTarget,
    tokens: Tokens,
    cells: Cells,
    order: int,
    largest: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """|g(x) - f(x)| <= sum_j w_j |v_j - f(x)| <= sum_j w_j (L |x - z_j| + |v_j - y_j|) for every f of the class.

    largest: bound of the summands for dropped tokens. Returns, per box, the upper bound with rounding, the rounding, and the spread of the
    weights (boxes, n).

    |x - z| is enclosed by an affine function of tau and an excess. l2: |d + h| <= |d| + <d/|d|, h> + |h|^2/(2|d|) for
    d = c - z (as sqrt(1 + t) <= 1 + t/2). l1: exact where no coordinate changes sign. linf, and boxes too close to z: the
    norm at the centre, give or take the norm of the half-widths.
    """
    index, n = tokens.index, cells.centre.shape[1]
    z = target.points[index]
    c, r = cells.centre, cells.half
    mismatch = np.abs(head.values[index] - target.values[index]).max(axis=1)
    mismatch = mismatch * (1 + 4 * U) + (head.value_gamma * head.value_scale[index]).max(axis=1)
    d = c[:, None, :] - z[None]
    error = 16 * (n + 4) * U  # relative rounding of the distances below, and of d itself
    if target.norm == "l2":
        distance = np.sqrt((d**2).sum(axis=2))
        half = np.sqrt((r**2).sum(axis=1))[:, None]
        away = distance > half
        safe = np.where(away, distance, 1.0)
        slope = np.where(away[:, :, None], d / safe[:, :, None], 0.0) * r[:, None, :]
        excess = np.where(away, half**2 / (2 * safe), half)
    else:
        sizes = np.abs(d)
        signs_fixed = sizes >= r[:, None, :]
        if target.norm == "l1":
            distance = sizes.sum(axis=2)
            slope = np.where(signs_fixed, np.sign(d), 0.0) * r[:, None, :]
            excess = np.where(signs_fixed, 0.0, r[:, None, :]).sum(axis=2)
        else:
            distance = sizes.max(axis=2)
            first = np.argmax(sizes, axis=2)[:, :, None]
            others = np.where(np.arange(n) == first, -np.inf, sizes + r[:, None, :]).max(axis=2)
            lead = np.take_along_axis(sizes - r[:, None, :], first, axis=2)[:, :, 0]
            alone = lead >= np.maximum(others, 0.0)
            slope = np.where((np.arange(n) == first) & alone[:, :, None], np.sign(d), 0.0) * r[:, None, :]
            excess = np.where(alone, 0.0, r.max(axis=1)[:, None])
    excess = excess * (1 + error) + error * (
        distance + np.abs(c).max(axis=1)[:, None] + np.abs(z).max(axis=1)[None] + r.sum(axis=1)[:, None]
    )
    constant = target.lipschitz
    own = TokenValues(
        constant * distance + mismatch, constant * slope, (constant * excess + 4 * U * mismatch) * UP, largest
    )
    g = enclose_head(head, tokens, cells, order, own)
    run = enclose_head(head, tokens, cells, 2)
    rounding = run.rounding.max(axis=1)
    upper = ((sup_norm(g.parts[0], n) + g.remainder[:, 0]) * UP + rounding) * UP
    return upper, rounding, g.spread
