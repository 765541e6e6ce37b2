"""Nets of the sphere S^m: points such that nothing is further than `radius` (an angle) from one of them, as few as can be found.

Lower bounds say how much there is to gain. By area N >= 1 / (share of the sphere in a cap); on S^2 Fejes Toth (1953): a triangulation
with N vertices has 2N - 4 faces, and no covering is thinner than if all were equilateral, of area 4 pi / (2N - 4) = 2 pi / (N - 2) and
so of angles 2 omega = (pi + 2 pi / (N - 2)) / 3, omega = pi N / (6 (N - 2)): a covering radius of at least arccos(cot omega / sqrt 3).

Upper bound, for every m: cut the 2(m+1) faces of the cube [-1, 1]^{m+1} into q^m cells each and project their centres c. In a cell
|v - c| <= sqrt(m) / q; the segment from c to v stays in the face, outside the open unit ball, where radial projection does not
stretch a curve (its derivative at x has norm 1 / |x| <= 1); so the projected segment, and the shorter great arc, have length at most
sqrt(m) / q. With q = ceil(sqrt(m) / radius): N <= 2 (m+1) ceil(sqrt(m) / radius)^m.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import acos, atan, ceil, cos, floor, inf, isfinite, pi, sqrt, tan

import numpy as np
from jaxtyping import Float

from constructions.petrov2024.equal_area import cap_share, equal_area_centres
from constructions.petrov2024.icosahedral import geodesic_classes, geodesic_grid
from constructions.petrov2024.polytopes import polytopes
from constructions.petrov2024.relaxation import covering_radius, relaxed, unit_rows

__all__ = ["Net", "circle_net", "cubed_net", "fewest_points", "net_bound", "sphere_net"]

# Up to these many points, random starts are tried beside the others; and, on S^2, every number of points.
_RANDOM, _EVERY = 60, 250
# On S^m, m >= 3, every number of points is tried where the lower bound is up to this one.
_FEW = 10
# Simplices of one convex hull that a search may compute, and (simplices * steps * (m-1)) for one power in a relaxation.
_LARGEST_HULL = 400_000
_RELAXATION = 300_000
# Hulls up to this many simplices are cheap enough for relaxing the net that was chosen once more.
_FINISHED = 30_000
# Simplices per point of the hull of many points spread evenly over S^m, about (Poisson Delaunay triangulations are similar).
_SIMPLICES = {2: 2.0, 3: 6.8, 4: 32.0, 5: 190.0}
# A search for a net ends after about so many relaxations.
_TRIALS = 8


@dataclass(frozen=True, eq=False)
class Net:
    """points: (N, m+1) unit rows; radius: their covering radius (an angle) as computed in floats, an estimate and not a proof."""

    points: Float[np.ndarray, "N n"]
    radius: float
    construction: str


def net_bound(m: int, radius: float) -> int:
    """A number of points that suffices for every m >= 1 and radius > 0, and that `sphere_net` does not exceed.

    2 (m+1) ceil(sqrt(m) / radius)^m for m >= 2; the equal angles of the circle for m = 1. Raises ValueError for other arguments.
    """
    _check(m, radius)
    if radius >= pi:
        return 1
    return floor(pi / radius) + 1 if m == 1 else 2 * (m + 1) * ceil(sqrt(m) / radius) ** m


def _check(m: int, radius: float) -> None:
    if m < 1:
        raise ValueError(f"m = {m}: the sphere S^m needs m >= 1, S^1 being the circle.")
    if not (radius > 0 and isfinite(radius)):
        raise ValueError(f"radius = {radius}: a covering radius is a positive angle in radians.")


def fewest_points(m: int, radius: float) -> int:
    """A lower bound for the number of points of S^m with this covering radius: by area, and by Fejes Toth for m = 2."""
    _check(m, radius)
    if radius >= pi:
        return 1
    if m == 1:
        return max(1, ceil(pi / radius * (1 - 1e-12)))
    fewest = ceil(1 / cap_share(m, radius) * (1 - 1e-9))
    if radius >= pi / 2:
        return max(2, fewest)
    # m + 1 vectors of R^{m+1} have some u != 0 with <u, b_j> <= 0 for all: it is orthogonal to them, or solves <u, b_j> = -1
    fewest = max(fewest, m + 2)
    if m == 2:
        # the same bound solved for N, to begin with: 2 + 2 pi / (area of the equilateral triangle of circumradius `radius`)
        angle = 2 * atan(1 / (cos(radius) * sqrt(3)))
        fewest = max(fewest, floor((2 + 2 * pi / (3 * angle - pi)) * (1 - 1e-9 - 1e-15 / radius**2)))
        for _ in range(1000):
            if not acos(min(1.0, 1 / (tan(pi * fewest / (6 * (fewest - 2))) * sqrt(3)))) > radius * (1 + 1e-12):
                break
            fewest += 1
    return fewest


def circle_net(radius: float) -> Net:
    """Equal angles on the circle: N = ceil(pi / radius), the fewest there can be, as each point covers an arc of 2 radius."""
    count = fewest_points(1, radius)
    angles = 2 * pi * np.arange(count) / count
    return Net(np.stack([np.cos(angles), np.sin(angles)], axis=1), pi / count, "equal angles")


def cubed_net(m: int, q: int) -> Net:
    """The centres of q^m cells on each of the 2(m+1) faces of the cube, projected: covering radius at most sqrt(m) / q.

    Raises ValueError for m < 1 or q < 1.
    """
    if m < 1 or q < 1:
        raise ValueError(f"m, q = {m}, {q}: need the dimension m >= 1 and q >= 1 cells per side.")
    middles = (2 * np.arange(q) + 1) / q - 1
    cells = np.stack([e.ravel() for e in np.meshgrid(*[middles] * m, indexing="ij")], axis=1)
    faces = [np.insert(cells, axis, side, axis=1) for axis in range(m + 1) for side in (-1.0, 1.0)]
    return Net(unit_rows(np.concatenate(faces)), sqrt(m) / q, f"cubed sphere, {q} cells per side")


def _fibonacci(count: int) -> Float[np.ndarray, "count 3"]:
    """Points at equal steps of height on S^2, turning by the golden angle."""
    i = np.arange(count) + 0.5
    height, angle = 1 - 2 * i / count, pi * (1 + sqrt(5.0)) * i
    ring = np.sqrt(1 - height**2)
    return np.stack([ring * np.cos(angle), ring * np.sin(angle), height], axis=1)


def _starts(m: int, count: int) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    """Sets of `count` points of S^m that may relax to a good net, the most promising first; not made yet."""
    for name, vertices in polytopes(m):
        if len(vertices) == count:
            yield name, lambda vertices=vertices: vertices
    if m == 2:
        # twisted and stretched classes are as good as the regular ones once relaxed; those least sheared come first
        classes = [c for c in geodesic_classes(count, count, stretch=3) if c.length == count]
        for grid in sorted(classes, key=lambda c: c.shear)[: 4 if count <= 700 else 1 + (count <= 3000)]:
            yield str(grid), lambda grid=grid: geodesic_grid(grid)
        if count <= 2 * _EVERY or not classes:
            yield "Fibonacci spiral", lambda: _fibonacci(count)
    else:
        yield "equal areas", lambda: equal_area_centres(m, count)
    if count <= _RANDOM:
        for seed in range(4):
            rng = np.random.default_rng([m, count, seed])
            yield "random points", lambda rng=rng: unit_rows(rng.normal(size=(count, m + 1)))


def _affordable(m: int, count: int) -> bool:
    """Whether a convex hull of so many points is."""
    return m in _SIMPLICES and count * _SIMPLICES[m] <= _LARGEST_HULL


def _jittered(points: Float[np.ndarray, "N n"]) -> Float[np.ndarray, "N n"]:
    """The points moved by a little, seeded: facets with more than n vertices become simplices that have a gradient."""
    typical = len(points) ** (-1 / (points.shape[1] - 1))
    return unit_rows(points + 1e-5 * typical * np.random.default_rng(len(points)).normal(size=points.shape))


def _steps(m: int, count: int) -> int:
    """How many steps of a descent a relaxation of so many points may take for each power."""
    return int(min(150, max(10, _RELAXATION / (count * _SIMPLICES[m] * (m - 1)))))


def _best_of(m: int, count: int, radius: float, deadline: float) -> Net:
    """The best relaxed net of `count` points; ends with the first whose radius fits. radius = 0: as far as it goes."""
    steps = _steps(m, count)
    patience = 1.0 if m == 2 and count > 300 else 2.5 if m == 2 else 8.0
    best: Net | None = None
    for name, start in _starts(m, count):
        plain = start()
        before = covering_radius(plain)
        if before <= radius * (1 + 1e-12):
            return Net(plain, before, name)
        points, reached = relaxed(_jittered(plain), steps=steps, goal=radius, patience=patience, deadline=deadline)
        if best is None or reached < best.radius:
            best = Net(points, reached, f"{name}, relaxed")
        if best.radius <= radius or time.monotonic() > deadline:
            break
    assert best is not None  # every count has a start
    return best


def _counts_every(m: int, radius: float, longest: int) -> Iterator[int]:
    """Numbers of points to try in increasing order: all of them, or on S^2 those of a geodesic class."""
    fewest = fewest_points(m, radius)
    # what relaxes best has about 1.025 times as many points as the bound
    first, last = int(1.017 * fewest), min(longest, int(1.2 * fewest) + 30)
    if m > 2 or fewest <= _EVERY:
        yield from range(first, last + 1)
    else:
        lengths, tried = sorted({c.length for c in geodesic_classes(first, last, stretch=1)}), 0
        for length in lengths:
            if length >= 1.002 * tried:
                yield length
                tried = length


def _upwards(m: int, radius: float, longest: int, deadline: float) -> Net | None:
    """The first net that fits when the number of points grows step by step."""
    for count in _counts_every(m, radius, longest):
        if time.monotonic() > deadline or not _affordable(m, count):
            return None
        net = _best_of(m, count, radius, deadline)
        if net.radius <= radius * (1 + 1e-12):
            return net
    return None


def _by_scaling(m: int, radius: float, longest: int, deadline: float) -> Net | None:
    """The first net that fits, found by N (its radius)^m = constant: a first relaxation, as far as it goes, says what the constant is."""
    # what relaxes well has about this many times the points of the bound by area
    count = min(int((1.85 + 0.6 * (m - 3)) * fewest_points(m, radius)) + 1, longest)
    goal, best = 0.0, None
    for _ in range(_TRIALS):
        if count < 1 or count > longest or not _affordable(m, count) or time.monotonic() > deadline:
            break
        net = _best_of(m, count, goal, deadline)
        fits = net.radius <= radius * (1 + 1e-12)
        if fits:
            best = net
        if goal > 0 and fits:
            break
        scaled = ceil(count * (net.radius / radius) ** m)
        # a second net is tried only where the first leaves something to gain
        if fits and scaled > 0.99 * count:
            break
        ceiling = longest if best is None else len(best.points) - 1
        # with a goal it gives up early, and its radius says nothing about the constant
        count = min(max(scaled, 1), ceiling) if goal == 0 else ceil((1 + 0.004 * m) * count)
        if count > ceiling:
            break
        goal = radius
    return best


def sphere_net(m: int, radius: float, *, max_tokens: int = 20_000, deadline: float = inf) -> Net | None:
    """The shortest net found with an (estimated) covering radius of at most `radius`; None where all have more than max_tokens.

    Once the number of points is settled they are relaxed further, so that there is room to spare. Never longer
    than `net_bound(m, radius)`. The result is the same every time unless the deadline, a moment of time.monotonic(), ends the search. Raises ValueError for m < 1 or a radius that is not positive.
    """
    longest = min(max_tokens, net_bound(m, radius))
    if fewest_points(m, radius) > longest:
        return None
    if radius >= pi:
        return Net(np.eye(1, m + 1), pi, "one point")
    if radius >= pi / 2:
        return Net(np.eye(1, m + 1) * np.array([[1.0], [-1.0]]), pi / 2, "two poles")
    if m == 1:
        return circle_net(radius)
    candidates = [net for net in _known(m) if net.radius <= radius * (1 + 1e-12) and len(net.points) <= longest]
    if net_bound(m, radius) <= max_tokens:
        candidates.append(cubed_net(m, ceil(sqrt(m) / radius)))
    shortest = min(candidates, key=lambda net: len(net.points), default=None)
    if shortest is not None:
        longest = len(shortest.points) - 1
    step_by_step = m == 2 or fewest_points(m, radius) <= _FEW
    found = (_upwards if step_by_step else _by_scaling)(m, radius, longest, deadline) or shortest
    return None if found is None else _finished(found, deadline)


def _finished(net: Net, deadline: float) -> Net:
    """The net with its points relaxed without a goal, where that is cheap."""
    m = net.points.shape[1] - 1
    if not _affordable(m, len(net.points)) or len(net.points) * _SIMPLICES[m] > _FINISHED:
        return net
    points, radius = relaxed(net.points, steps=_steps(m, len(net.points)), deadline=deadline)
    return Net(points, radius, net.construction) if radius < net.radius * (1 - 1e-9) else net


def _known(m: int) -> list[Net]:
    """The polytopes with their covering radii in closed form: the angle to a facet's centre."""
    radii = {
        "simplex": acos(1 / (m + 1)),
        "cross-polytope": acos(1 / sqrt(m + 1)),
        "24-cell": pi / 4,
        "600-cell": acos((3 + sqrt(5.0)) / sqrt(32.0)),
    }
    return [Net(vertices, radii[name], name) for name, vertices in polytopes(m)]
