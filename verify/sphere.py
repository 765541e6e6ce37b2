"""The unit sphere S^m in R^(m+1) as a domain, and its patches as thin oriented boxes.

Charts are the 2(m+1) faces of the cube [-1, 1]^(m+1), projected radially: v -> v/|v|. A box of a face is a patch. It is held by
x = c + T t + c zeta with c close to the patch's middle and T close to an orthonormal basis of its tangent space.

Lemma. Let M = (T, c) be any real matrix with |M'M - I| <= e in the spectral norm, e <= 1/8, and x a unit vector with
x = c0 + T t + c zeta, |c - c0| <= u. Then |t|^2 + (1 + zeta)^2 = 1 + d with |d| <= 4 (e + u); and if <c, x> > 0,
zeta = sqrt(1 - |t|^2 + d) - 1, which is within |d| / (2 sqrt(1 - s - |d|)) of sqrt(1 - s) - 1, s = |t|^2. Proof. y = (t, 1 + zeta) has x = M y + (c0 - c), so |M y| is within u of 1 and |y|^2 within
e |y|^2 of |M y|^2. QED.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from verify.ball import TINY, UP, U, gamma
from verify.cells import Cells, Curve
from verify.domain import BoxError
from verify.expression import plain_name

__all__ = ["Sphere", "SphereError", "around", "patches"]


class SphereError(BoxError):
    """A sphere that does not exist; the message names the argument."""


@dataclass(frozen=True, init=False)
class Sphere:
    """S^m = {x in R^(m+1): |x| = 1}, with the geodesic distance (the angle) between points.

    m: its dimension, at least 1; symbols: names (or SymPy symbols) of the m + 1 ambient coordinates; by default x, y, z for
    m <= 2 and x0, ..., xm beyond, or left to the target's. Raises SphereError for anything else.

    Points are given to a model as floats, which lie near the sphere, not on it: a claim about S^m is about every float point
    within `slack` of it, against the target at the nearest point of the sphere. x / numpy.linalg.norm(x) is such a point.
    """

    m: int
    names: tuple[str, ...] | None

    def __init__(self, m: int, symbols: Iterable[Any] | str | None = None) -> None:
        if isinstance(m, bool) or not isinstance(m, (int, np.integer)) or m < 1:
            raise SphereError(f"domain: Sphere(m = {m!r}), expected a whole number m >= 1: S^1 is the circle")
        if m > 1000:
            raise SphereError(f"domain: Sphere(m = {m}), beyond m = 1000 nothing can be built")
        names = None
        if symbols is not None:
            listed = symbols.replace(",", " ").split() if isinstance(symbols, str) else list(symbols)
            names = tuple(str(s) for s in listed)
            if len(names) != m + 1:
                raise SphereError(f"domain: Sphere({m}) has {m + 1} ambient coordinates, got the symbols {names}")
            if not all(plain_name(n) for n in names) or len(set(names)) != len(names):
                raise SphereError(f"domain: symbols {names} must be different plain names (letters, digits, _)")
        object.__setattr__(self, "m", int(m))
        object.__setattr__(self, "names", names)

    @property
    def dimension(self) -> int:
        """Number m + 1 of coordinates of a point."""
        return self.m + 1

    @property
    def lo(self) -> tuple[float, ...]:
        """Lower corner of the cube around it."""
        return (-1.0,) * self.dimension

    @property
    def hi(self) -> tuple[float, ...]:
        """Upper corner of the cube around it."""
        return (1.0,) * self.dimension

    @property
    def bounds(self) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Corners of the cube around it."""
        return np.array(self.lo), np.array(self.hi)

    @property
    def slack(self) -> float:
        """How far (Euclidean) a float point may be from the sphere: 2 (m + 1) + 8 units of round-off."""
        return (2 * self.dimension + 8) * U

    def named(self, names: Iterable[str]) -> Sphere:
        """The same sphere with coordinate names."""
        return Sphere(self.m, tuple(names))

    def default_names(self) -> tuple[str, ...]:
        """x, y, z where they suffice, x0, ..., xm beyond."""
        return ("x", "y", "z")[: self.dimension] if self.m <= 2 else tuple(f"x{i}" for i in range(self.dimension))

    def sample(self, count: int, seed: int = 0) -> Float[np.ndarray, "count n"]:
        """Uniform random points, seeded."""
        points = np.random.default_rng(seed).normal(size=(count, self.dimension))
        return points / np.linalg.norm(points, axis=1, keepdims=True)

    def contains(self, points: Float[np.ndarray, "batch n"]) -> np.ndarray:
        """Which float points are within `slack` of the sphere.

        |x|^2 computed in any order is within gamma_n |x|^2; with | |x|^2 - 1 | <= 2 (n + 6) u as computed, | |x| - 1 | is
        at most (n + 6) u + gamma_n / 2 + O(u^2) < (2 n + 8) u.
        """
        n = self.dimension
        with np.errstate(all="ignore"):
            return np.abs((np.asarray(points, dtype=np.float64) ** 2).sum(axis=-1) - 1) <= 2 * (n + 6) * U

    def to_json(self) -> dict[str, Any]:
        """A plain structure."""
        return {"m": self.m, "names": None if self.names is None else list(self.names)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Sphere:
        """The inverse of `to_json`. Raises SphereError or KeyError."""
        return Sphere(data["m"], data["names"])

    def __repr__(self) -> str:
        names = self.names or self.default_names()
        return f"Sphere({self.m}; {', '.join(names)})"


def patches(m: int, face: int, lo: Float[np.ndarray, "boxes m"], hi: Float[np.ndarray, "boxes m"]) -> Cells:
    """Boxes [lo, hi] of a face of the cube, projected radially onto S^m. face: 2 axis + (1 for the side +1).

    For v in the box and x = v/|v|: <T_i, x> = (<T_i, v_c> + <T_i, v - v_c>) / |v|, with |v| at least the norm of the point of
    the box nearest to the origin.
    """
    axis, side = face // 2, 1.0 if face % 2 else -1.0
    others = [i for i in range(m + 1) if i != axis]
    boxes = len(lo)
    v = np.empty((boxes, m + 1))
    v[:, axis] = side
    v[:, others] = lo + (hi - lo) * 0.5
    half = np.zeros((boxes, m + 1))
    half[:, others] = np.maximum(hi - v[:, others], v[:, others] - lo) * (1 + 4 * U)
    nearest = np.where((lo <= 0) & (hi >= 0), 0.0, np.minimum(np.abs(lo), np.abs(hi)))
    least = np.sqrt(1 + (nearest**2).sum(axis=1)) * (1 - gamma(m + 8))
    c = np.clip(v / np.sqrt((v**2).sum(axis=1, keepdims=True)), -1.0, 1.0)
    tangent = _tangent(c, others)
    size = np.abs(tangent).swapaxes(1, 2)  # (boxes, m, m + 1)
    offset = (
        np.abs(np.einsum("bik,bk->bi", tangent.swapaxes(1, 2), v))
        + gamma(m + 4) * (size @ np.abs(v)[:, :, None])[:, :, 0]
    )
    reach = (offset + (size @ half[:, :, None])[:, :, 0] * (1 + gamma(m + 4))) / least[:, None] * (1 + 8 * U)
    # <c, v> >= <c, v_c> - |c| |half| must be positive: then <c, x> is
    ahead = np.einsum("bk,bk->b", c, v) - np.sqrt((half**2).sum(axis=1)) > 1e-6
    return _oriented(c, tangent, reach, ahead)


def around(points: Float[np.ndarray, "boxes n"]) -> Cells:
    """Cells that hold, for each given point, the point of the sphere straight below or above it (points within 1e-9 of it)."""
    boxes, n = points.shape
    c = np.clip(points / np.sqrt((points**2).sum(axis=1, keepdims=True)), -1.0, 1.0)
    skipped = np.argmax(np.abs(c), axis=1)
    tangent = np.empty((boxes, n, n - 1))
    for axis in range(n):
        rows = skipped == axis
        tangent[rows] = _tangent(c[rows], [i for i in range(n) if i != axis])
    return _oriented(c, tangent, np.zeros((boxes, n - 1)), np.ones(boxes, dtype=bool))


def _tangent(c: np.ndarray, others: list[int]) -> np.ndarray:
    """Columns (boxes, n, m) close to an orthonormal basis of the space orthogonal to c: Gram and Schmidt, twice."""
    boxes, n = c.shape
    out = np.zeros((boxes, n, len(others)))
    for k, i in enumerate(others):
        t = np.zeros((boxes, n))
        t[:, i] = 1.0
        for _ in range(2):
            t = t - c * np.einsum("bi,bi->b", c, t)[:, None]
            for j in range(k):
                t = t - out[:, :, j] * np.einsum("bi,bi->b", out[:, :, j], t)[:, None]
            t = t / np.sqrt((t**2).sum(axis=1, keepdims=True))
        out[:, :, k] = t
    return out


def _oriented(c: np.ndarray, tangent: np.ndarray, reach: np.ndarray, ahead: np.ndarray) -> Cells:
    """The oriented boxes that hold the points x of the sphere with |<T_i, x>| <= reach_i and <c, x> > 0 (where `ahead`).

    The axes are floats fl(r_i T_i), fl(W c), so the true frame is M = (axes / (r, W)), entrywise within u of the computed one;
    |M'M - I| is bounded by the largest row sum of the computed defect and of its rounding, and t = M^-1 x differs from
    <T_i, x> by at most 2 e.
    """
    n, m = tangent.shape[1:]
    frame = np.concatenate([tangent, c[:, :, None]], axis=2)
    defect = np.abs(frame.swapaxes(1, 2) @ frame - np.eye(n)) + (gamma(n + 4) + 4 * U) * (
        np.abs(frame).swapaxes(1, 2) @ np.abs(frame)
    )
    e = defect.sum(axis=2).max(axis=1) * (1 + gamma(4 * n)) + 4 * n * U
    r = (reach + 4 * e[:, None]) * UP
    s = (r**2).sum(axis=1) * (1 + gamma(m + 4))
    d = 8 * (e + 2 * U)
    known = ahead & (s <= 0.5) & (e <= 1e-9)
    s_in = np.where(known, s, 0.5)
    missing = d / 1.2  # |d| / (2 sqrt(1 - s - d)) with s <= 1/2, d <= 1e-8
    depth = (s_in / (2 - s_in) * (1 + 16 * U) + 2 * missing) * UP  # 1 - sqrt(1 - s) <= s / (2 - s)
    axes = np.concatenate([tangent * r[:, None, :], (c * depth[:, None])[:, :, None]], axis=2)
    half = np.abs(axes).sum(axis=2) * (1 + gamma(n + 4)) + TINY
    lo, hi = np.maximum(np.nextafter(c - half, -2.0), -1.0), np.minimum(np.nextafter(c + half, 2.0), 1.0)
    lo, hi = np.where(known[:, None], lo, -1.0), np.where(known[:, None], hi, 1.0)
    return Cells(c, axes, lo, hi, Curve(r, s_in, depth, missing, known))
