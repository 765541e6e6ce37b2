"""Branch and bound over the shares of several heads: where the prompt's masses should be, and dual vectors on boxes that prove it.

For given shares s the best averages solve a convex problem, min over b of max_i |e_i|, e_i = sum_h O_h ((1 - s_h) Z_i^h a_i^h + b_h)/r_i^h - z_i; its dual is
the largest, over weights eta of the examples, of the least squares min_b sum_i eta_i |e_i|^2, with dual vectors w_i = eta_i e_i.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize, minimize_scalar

from verify.prompt_floor import AttentionLayer

__all__ = ["SharesCover", "SharesProblem", "branch_and_bound", "worst_weights"]


def worst_weights(n: int, squares: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The weights that make the least squares largest; its derivative in eta is the vector of squared errors."""
    if n == 1:
        return np.ones(1)
    if n == 2:

        def negative(x: float) -> float:
            eta = np.array([x, 1 - x])
            return -float(eta @ squares(eta))

        found: Any = minimize_scalar(negative, bounds=(0.0, 1.0), method="bounded", options={"xatol": 1e-10})
        return np.array([found.x, 1 - found.x])

    def both(eta: np.ndarray) -> tuple[float, np.ndarray]:
        e = squares(eta)
        return -float(eta @ e), -e

    one = {"type": "eq", "fun": lambda eta: eta.sum() - 1, "jac": lambda eta: np.ones((1, n))}
    start = np.full(n, 1 / n)
    options = {"maxiter": 100, "ftol": 1e-14}
    found = minimize(both, start, jac=True, bounds=[(0, 1)] * n, constraints=[one], method="SLSQP", options=options).x
    found = np.clip(found, 0.0, None)
    return found / found.sum() if np.isfinite(found).all() and found.sum() > 0 else start


@dataclass(frozen=True, eq=False)
class SharesProblem:
    """mass (examples, heads) times e^-shift; image (examples, heads, d_out): O_h a_i^h; z (examples, d_out); dual: the rows of the pseudo-inverse of
    [O_1 ... O_H] by head (heads, d_v, d_out)."""

    layer: AttentionLayer
    mass: Float[np.ndarray, "examples heads"]
    image: Float[np.ndarray, "examples heads d_out"]
    z: Float[np.ndarray, "examples d_out"]
    dual: Float[np.ndarray, "heads d_v d_out"]

    def solved(self, s: Float[np.ndarray, " heads"]) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
        """(max_i |e_i|, b (heads, d_v), c_i^h (heads, examples, d_out), c_i (examples, d_out)) for given shares."""
        n, d_v, stacked = len(self.z), self.layer.value_width, self.layer.stacked
        radii = (1 - s) * self.mass + s
        rows = stacked[None] / np.repeat(radii, d_v, axis=1)[:, None, :]  # (examples, d_out, heads * d_v)
        right = self.z - (((1 - s) * self.mass / radii)[:, :, None] * self.image).sum(axis=1)

        def fitted(eta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            root = np.sqrt(np.maximum(eta, 1e-14))
            left = (rows * root[:, None, None]).reshape(-1, rows.shape[2])
            b = np.linalg.lstsq(left, (right * root[:, None]).ravel(), rcond=None)[0]
            return b, rows @ b - right

        eta = worst_weights(n, lambda eta: (fitted(eta)[1] ** 2).sum(axis=1))
        b, e = fitted(eta)
        w = np.maximum(eta, 1e-14)[:, None] * e
        seen = (w @ stacked).reshape(n, self.layer.heads, d_v) / radii[:, :, None]
        inner = np.einsum("nhv,hvo->hno", seen, self.dual)
        outer = w - np.einsum("hno,nh->no", inner, radii)
        return float(np.linalg.norm(e, axis=1).max()), b.reshape(-1, d_v), inner, outer

    def corner_bound(self, low: np.ndarray, high: np.ndarray, inner: np.ndarray, outer: np.ndarray) -> float:
        """The least N/D at the corners of a box."""
        corners = np.array(list(product(*zip(low, high, strict=True))))
        radii = (1 - corners)[:, None] * self.mass + corners[:, None]  # (corners, examples, heads)
        w = np.einsum("knh,hno->kno", radii, inner) + outer
        gained = np.einsum("hno,nho,nh->h", inner, self.image, self.mass)
        top = (1 - corners) @ gained - (w * self.z).sum(axis=(1, 2))
        size = np.linalg.norm(w, axis=2).sum(axis=1)
        return float((top / np.where(size > 0, size, 1.0)).min())


@dataclass(frozen=True, eq=False)
class SharesCover:
    """What `verify.prompt_floor_boxes.Cover` holds, and the best point met: shares (heads,), b (heads, d_v)."""

    cuts: Float[np.ndarray, "nodes 2"]
    inner: Float[np.ndarray, "boxes heads examples d_out"]
    outer: Float[np.ndarray, "boxes examples d_out"]
    share: Float[np.ndarray, " heads"]
    b: Float[np.ndarray, "heads d_v"]


def branch_and_bound(p: SharesProblem, *, most: int, tolerance: float) -> SharesCover:
    """Split the box with the least bound until `most` boxes, or until the least bound is within the tolerance of the best error met."""
    heads = p.layer.heads
    nodes: list[dict[str, Any]] = []
    best: tuple[float, np.ndarray, np.ndarray] = (np.inf, np.full(heads, 0.5), np.zeros((heads, p.layer.value_width)))
    heap: list[tuple[float, int]] = []

    def add(low: np.ndarray, high: np.ndarray) -> int:
        nonlocal best
        middle = (low + high) / 2
        value, b, inner, outer = p.solved(middle)
        if value < best[0]:
            best = value, middle, b
        bound = p.corner_bound(low, high, inner, outer)
        nodes.append({"low": low, "high": high, "inner": inner, "outer": outer, "children": None})
        heapq.heappush(heap, (bound, len(nodes) - 1))
        return len(nodes) - 1

    add(np.zeros(heads), np.ones(heads))
    while len(heap) < most and heap[0][0] < best[0] * (1 - tolerance):
        _, k = heapq.heappop(heap)
        low, high = nodes[k]["low"], nodes[k]["high"]
        axis = int((high - low).argmax())
        at = float((low[axis] + high[axis]) / 2)
        left, right = high.copy(), low.copy()
        left[axis] = right[axis] = at
        nodes[k]["children"] = (axis, at, add(low, left), add(right, high))
    cuts, inner, outer, waiting = [], [], [], [0]
    while waiting:
        node = nodes[waiting.pop()]
        if node["children"] is None:
            cuts.append((-1.0, 0.0))
            inner.append(node["inner"])
            outer.append(node["outer"])
        else:
            axis, at, first, second = node["children"]
            cuts.append((float(axis), at))
            waiting += [second, first]
    return SharesCover(np.array(cuts), np.stack(inner), np.stack(outer), best[1], best[2])
