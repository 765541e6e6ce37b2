"""Several heads at once: a lower bound over all their masses, from dual vectors on boxes that cover the cube of shares.

Head h hears the prompt with mass t_h = s_h/(1 - s_h) (in units e^shift_h), s in [0, 1]^heads; r_i^h(s) = (1 - s_h) Z_i^h + s_h is (Z_i^h + t_h)/(1 + t_h). Take vectors
c_i^h with O_g^T c_i^h = 0 for g != h and O_h^T sum_i c_i^h = 0, and c_i orthogonal to all ranges. With w_i(s) = sum_h r_i^h(s) c_i^h + c_i the prompt's averages drop out:

    sum_i <w_i(s), e_i> = N(s) = sum_h (1 - s_h) sum_i Z_i^h <c_i^h, O_h a_i^h> - sum_i <w_i(s), z_i>,      max_i |e_i| >= N(s)/D(s),  D(s) = sum_i |w_i(s)|.

N is affine in s and D convex, so N - f D is concave and non-negative on a box if it is at its corners: on a box N/D is at least its least value at the corners. The
ends s_h = 0 (no prompt for that head) and s_h = 1 (nothing else) belong to the cube. Stored vectors miss the conditions by residuals, which corrections of
length residual / (least singular value of [O_1 ... O_H]) cancel, as in `verify.prompt_floor_dual`.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float

from verify.ball import UP, Ball, U, matmul, total
from verify.prompt_floor_layer import AttentionLayer
from verify.prompt_floor_norms import norms_above, singular_values
from verify.prompt_floor_run import Masses

__all__ = ["MOST_HEADS", "Cover", "boxes_bound", "leaves"]

MOST_HEADS = 8
"""2^heads corners are looked at for each box."""


@dataclass(frozen=True, eq=False)
class Cover:
    """cuts (nodes, 2): the cube's bisections in pre-order, (axis, position) or (-1, anything) for a box that is not cut; inner (boxes, heads, examples, d_out):
    c_i^h; outer (boxes, examples, d_out): c_i."""

    cuts: Float[np.ndarray, "nodes 2"]
    inner: Float[np.ndarray, "boxes heads examples d_out"]
    outer: Float[np.ndarray, "boxes examples d_out"]


def leaves(cuts: Float[np.ndarray, "nodes 2"], heads: int) -> list[tuple[tuple[float, ...], tuple[float, ...]]] | None:
    """The boxes (lower, upper corner) in the order of the tree; None if the cuts do not describe a cover of the cube."""
    waiting, found = [((0.0,) * heads, (1.0,) * heads)], []
    for axis, at in cuts.tolist():
        if not waiting:
            return None
        low, high = waiting.pop()
        if axis == -1:
            found.append((low, high))
            continue
        if axis not in range(heads) or not low[int(axis)] < at < high[int(axis)]:
            return None
        a = int(axis)
        waiting.append(((*low[:a], at, *low[a + 1 :]), high))
        waiting.append((low, (*high[:a], at, *high[a + 1 :])))
    return None if waiting else found


def boxes_bound(layer: AttentionLayer, found: Masses, z: Ball, cover: Cover, deadline: float = math.inf) -> float:
    """The least bound over all boxes; 0 where nothing is proved, or beyond `deadline` (time.monotonic()): every box counts."""
    boxes = leaves(cover.cuts, layer.heads) if layer.heads <= MOST_HEADS else None
    stacked = Ball.exact(layer.stacked)
    least = singular_values(stacked)[0]
    if boxes is None or len(boxes) != len(cover.inner) or least == 0:
        return 0.0
    outputs = Ball.exact(np.ascontiguousarray(layer.outputs.transpose(0, 2, 1)))
    average = Ball(found.average.mid.transpose(1, 0, 2), found.average.rad.transpose(1, 0, 2))
    image = matmul(average, outputs)  # O_h a_i^h: (heads, examples, d_out)
    mass = Ball(found.mass.mid.T, found.mass.rad.T)  # (heads, examples)
    own = np.repeat(np.eye(layer.heads, dtype=bool), layer.value_width, axis=1)  # (heads, heads * d_v)
    worst = np.inf
    for (low, high), inner, outer in zip(boxes, cover.inner, cover.outer, strict=True):
        if time.monotonic() > deadline:
            return 0.0
        c, beside = _corrected(inner, outer, stacked, own, least)
        worst = min(worst, _least_corner(low, high, c, beside, mass, image, z))
        if worst <= 0:
            return 0.0
    return worst


def _corrected(inner: np.ndarray, outer: np.ndarray, stacked: Ball, own: np.ndarray, least: float) -> tuple[Ball, Ball]:
    seen = matmul(Ball.exact(inner), stacked)  # (heads, examples, heads * d_v)
    others = norms_above(Ball(np.where(own[:, None], 0.0, seen.mid), np.where(own[:, None], 0.0, seen.rad)))
    summed = total(seen, 1)
    sums = norms_above(Ball(np.where(own, summed.mid, 0.0), np.where(own, summed.rad, 0.0)))
    radius = others / least
    radius[:, -1] += sums / least
    c = Ball(inner, np.broadcast_to(radius[:, :, None] * UP, inner.shape))
    beside = norms_above(matmul(Ball.exact(outer), stacked)) / least * UP
    return c, Ball(outer, np.broadcast_to(beside[:, None], outer.shape))


def _least_corner(
    low: tuple[float, ...], high: tuple[float, ...], c: Ball, beside: Ball, mass: Ball, image: Ball, z: Ball
) -> float:
    corners = np.array(list(product(*zip(low, high, strict=True))))  # (corners, heads)
    rest = Ball.exact(1.0) - Ball.exact(corners)
    radii = rest[:, :, None] * mass[None] + Ball.exact(corners[:, :, None])  # r_i^h: (corners, heads, examples)
    w = total(radii[..., None] * c[None], 1) + beside[None]
    gained = total(mass * total(c * image, 2), 1)  # (heads,)
    n = total(rest * gained[None], 1) - total(total(w * z[None], 2), 1)
    d = norms_above(w).sum(axis=1) * (1 + 4 * c.shape[1] * U) * UP
    top = n.lower()
    good = (top > 0) & (d > 0) & np.isfinite(d)
    return float(np.where(good, top / np.where(good, d, 1.0) * (1 - 4 * U), 0.0).min())
