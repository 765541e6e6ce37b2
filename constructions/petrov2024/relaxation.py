"""Moving the points of a sphere so that their covering radius falls.

The convex hull of points b_i of the unit sphere S^m has facets {x : <u_f, x> = d_f} with outward unit normals u_f. No
point lies beyond a facet, so the open cap of angle arccos d_f about u_f is empty, and the deepest holes are such caps:

    covering radius = max_f arccos d_f.

It is a maximum of smooth functions, so a power mean of 1 - d_f is minimised instead, with powers that grow. Gradient: write the
foot of the perpendicular, d_f u_f = sum_i mu_i b_i with sum_i mu_i = 1 over the facet's vertices. From <u_f, b_i> = d_f,
d(d_f) = <du_f, b_i> + <u_f, db_i> for every i; weighted by mu_i, and as <du_f, d_f u_f> = 0,

    d(d_f) = sum_i mu_i <u_f, db_i>.

The sum over facets is continuous where the hull's combinatorics change: there the facets on both sides lie in one plane.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import acos, inf

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize
from scipy.spatial import ConvexHull, QhullError

__all__ = ["Facets", "covering_radius", "hull_facets", "relaxed", "unit_rows"]

# Powers of the mean, one descent each: the first smooths the landscape, the last is close to the maximum. With each, how far
# above its goal the covering radius may still be after it: a thousand points of S^2 never made up for more later.
_POWERS = ((6.0, 1.03), (20.0, 1.012), (80.0, 1.004), (300.0, 1.0015), (1200.0, 1.0))


@dataclass(frozen=True, eq=False)
class Facets:
    """The simplices of a convex hull: vertices (indices), outward unit normals, distances of their planes from 0."""

    vertices: Int[np.ndarray, "facets n"]
    normals: Float[np.ndarray, "facets n"]
    distances: Float[np.ndarray, " facets"]

    @property
    def radius(self) -> float:
        """The covering radius of the hull's vertices as points of the unit sphere."""
        return acos(max(-1.0, min(1.0, float(self.distances.min()))))


def unit_rows(points: Float[np.ndarray, "tokens n"]) -> Float[np.ndarray, "tokens n"]:
    """The rows divided by their Euclidean norms."""
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def hull_facets(points: Float[np.ndarray, "tokens n"]) -> Facets | None:
    """The convex hull of points of the unit sphere; None where it is flat (fewer than n + 1 points in general position)."""
    if len(points) <= points.shape[1]:
        return None
    try:
        hull = ConvexHull(points)
    except QhullError:
        return None
    return Facets(hull.simplices, hull.equations[:, :-1], -hull.equations[:, -1])


def covering_radius(points: Float[np.ndarray, "tokens n"]) -> float:
    """Largest angle from a point of the sphere to the nearest of the points, as computed in floats; pi for a flat hull (at most)."""
    facets = hull_facets(points)
    return np.pi if facets is None else facets.radius


def _power_mean(facets: Facets, points: np.ndarray, power: float) -> tuple[float, Float[np.ndarray, "tokens n"]]:
    """log of the power mean of 1 - d_f, and its gradient with respect to the points."""
    depth = 1.0 - facets.distances
    deepest = float(depth.max())
    share = (depth / deepest) ** power
    total = float(share.sum())
    corners = np.swapaxes(points[facets.vertices], 1, 2)
    foot = (facets.distances[:, None] * facets.normals)[:, :, None]
    barycentric = np.linalg.solve(corners, foot)[:, :, 0]
    pull = (share / (total * depth))[:, None] * barycentric
    gradient = np.zeros_like(points)
    for column in range(points.shape[1]):
        step = pull[:, column, None] * facets.normals
        for axis in range(points.shape[1]):
            gradient[:, axis] -= np.bincount(facets.vertices[:, column], step[:, axis], len(points))
    return np.log(deepest) + np.log(total) / power, gradient


class _Stop(Exception):
    """The deadline has passed, or a hull is flat: the best points so far stand."""


def relaxed(
    points: Float[np.ndarray, "tokens n"],
    *,
    steps: int = 150,
    goal: float = 0.0,
    patience: float = 1.0,
    deadline: float = inf,
) -> tuple[Float[np.ndarray, "tokens n"], float]:
    """Points of the unit sphere with a smaller covering radius, and that radius; never a larger one than before.

    steps: L-BFGS steps for each power. goal: a covering radius that is small enough to end; it also ends where the goal has become
    unlikely, the later the larger `patience` is. 0: go as far as possible. deadline: of time.monotonic(). Deterministic, up to the
    deadline.
    """
    shape = points.shape
    best = (covering_radius(points), points)

    def objective(flat: np.ndarray, power: float) -> tuple[float, np.ndarray]:
        nonlocal best
        raw = flat.reshape(shape)
        size = np.linalg.norm(raw, axis=1, keepdims=True)
        here = raw / size
        facets = hull_facets(here)
        if facets is None or time.monotonic() > deadline:
            raise _Stop
        if len(np.unique(facets.vertices)) == len(here) and facets.radius < best[0]:
            best = (facets.radius, here)
            if facets.radius <= goal:
                raise _Stop
        value, gradient = _power_mean(facets, here, power)
        gradient -= np.sum(gradient * here, axis=1, keepdims=True) * here
        return value, (gradient / size).ravel()

    current = points
    try:
        for power, allowance in _POWERS:
            found = minimize(
                objective,
                current.ravel(),
                args=(power,),
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": steps, "maxcor": 20},
            )
            current = unit_rows(found.x.reshape(shape))
            if best[0] > goal * allowance**patience > 0:
                break
    except (_Stop, np.linalg.LinAlgError):
        pass
    return best[1], best[0]
