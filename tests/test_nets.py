"""Nets of the sphere: their constructions, the proof that they cover, and what a sharp softmax over them averages."""

from __future__ import annotations

import time
from itertools import pairwise
from math import acos, ceil, floor, inf, pi, sin, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from constructions.petrov2024.equal_area import cap_angle, cap_share, equal_area_centres, equal_area_partition
from constructions.petrov2024.icosahedral import geodesic_class, geodesic_classes, geodesic_grid
from constructions.petrov2024.nets import circle_net, cubed_net, fewest_points, net_bound, sphere_net
from constructions.petrov2024.polytopes import polytopes
from constructions.petrov2024.relaxation import covering_radius, hull_facets, relaxed, unit_rows
from verify.sphere_net import angular_spread, data_share, sphere_covering_radius_at_most

BOXES = 2_000_000


def directions(count: int, n: int, seed: int = 0) -> np.ndarray:
    """Uniformly random points of the unit sphere."""
    return unit_rows(np.random.default_rng(seed).normal(size=(count, n)))


def angles(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Angles between rows, accurate also near 0 and pi: 2 atan2(|x - y|, |x + y|)."""
    apart = np.linalg.norm(x[:, None] - y, axis=2)
    return 2 * np.arctan2(apart, np.linalg.norm(x[:, None] + y, axis=2))


def from_angles(theta: np.ndarray) -> np.ndarray:
    """Cartesian coordinates of (theta_1, ..., theta_m), written out one coordinate at a time."""
    columns, ring = [], np.ones(len(theta))
    for angle in theta.T:
        columns.append(ring * np.cos(angle))
        ring = ring * np.sin(angle)
    return np.stack([*columns, ring], axis=1)


@pytest.mark.parametrize("radius", [3.0, 1.6, 1.0, pi / 7, 0.1, 0.013])
def test_the_circle_needs_half_its_length_over_the_radius(radius):
    net = circle_net(radius)
    assert len(net.points) == ceil(pi / radius * (1 - 1e-12)) <= net_bound(1, radius) == floor(pi / radius) + 1
    assert net.radius <= radius * (1 + 1e-12)
    assert sphere_covering_radius_at_most(net.points, radius * (1 + 1e-6), BOXES)[0]
    assert not sphere_covering_radius_at_most(net.points, net.radius * (1 - 1e-6), BOXES)[0]


def test_geodesic_grids_have_the_counts_of_their_classes():
    """N = 10 T + 2 for the regular ones, 5 (T + Q) + 2 for the stretched; twelve points with five neighbours, the others with six."""
    assert {c.length for c in geodesic_classes(12, 140)} == {12, 32, 42, 72, 92, 122, 132}
    assert geodesic_class(6, 2).length == 522
    for grid in [*geodesic_classes(12, 140), *geodesic_classes(80, 110, stretch=1), geodesic_class(4, 4, (0, -1))]:
        points = geodesic_grid(grid)
        assert len(points) == grid.length
        assert np.linalg.norm(points, axis=1) == pytest.approx(1, abs=1e-12)
        facets = hull_facets(relaxed(points, steps=10)[0])
        assert facets is not None
        degrees = np.bincount(facets.vertices.ravel())
        if grid.shear < 0.5:
            assert sorted(degrees)[:12] == [5] * 12
            assert set(degrees[np.argsort(degrees)[12:]]) <= {6}


def test_a_class_without_a_belt_is_refused():
    with pytest.raises(ValueError, match="positive area"):
        geodesic_class(2, 0, (0, 2))


@pytest.mark.parametrize(
    ("points", "radius"),
    [
        (polytopes(2)[0][1], acos(1 / 3)),
        (polytopes(2)[1][1], acos(1 / sqrt(3))),
        (polytopes(3)[2][1], pi / 4),
        (polytopes(3)[3][1], acos((1 + sqrt(5)) ** 2 / (8 * sqrt(2)))),
        (geodesic_grid(geodesic_class(1, 0)), acos(sqrt((5 + 2 * sqrt(5)) / 15))),
    ],
    ids=["tetrahedron", "octahedron", "24-cell", "600-cell", "icosahedron"],
)
def test_polytopes_have_their_textbook_covering_radius(points, radius):
    assert covering_radius(points) == pytest.approx(radius, rel=1e-9)
    assert sphere_covering_radius_at_most(points, radius * (1 + 1e-4), BOXES)[0]
    assert not sphere_covering_radius_at_most(points, radius * (1 - 1e-4), BOXES)[0]


@pytest.mark.parametrize("points", [directions(40, 3), directions(40, 4), geodesic_grid(geodesic_class(2, 1))])
def test_relaxation_improves_and_keeps_the_points_on_the_sphere(points):
    moved, radius = relaxed(points, steps=30)
    assert radius < 0.97 * covering_radius(points)
    assert radius == pytest.approx(covering_radius(moved), abs=1e-12)
    assert np.linalg.norm(moved, axis=1) == pytest.approx(1, abs=1e-12)
    again, same = relaxed(points, steps=30)
    assert radius == same
    assert np.array_equal(moved, again)


def test_relaxation_stops_at_its_goal_and_at_its_deadline():
    points = directions(40, 3)
    goal = 0.99 * covering_radius(points)
    assert relaxed(points)[1] < relaxed(points, goal=goal)[1] <= goal
    stopped, radius = relaxed(points, deadline=time.monotonic() - 1)
    assert np.array_equal(stopped, points)
    assert radius == covering_radius(points)


@pytest.mark.parametrize(("h", "k", "shift", "radius"), [(6, 2, (0, 0), 0.0985), (4, 4, (0, -1), 0.1)])
def test_about_five_hundred_points_reach_a_tenth(h, k, shift, radius):
    points, reached = relaxed(geodesic_grid(geodesic_class(h, k, shift)), goal=radius)
    assert reached <= radius
    assert len(points) <= 522
    assert sphere_covering_radius_at_most(points, radius * (1 + 1e-5), BOXES)[0]


@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 24, 65, 200])
def test_regions_have_equal_area_and_honour_their_radius_and_diameter(m, count):
    partition = equal_area_partition(m, count)
    low, high = partition.area_bounds()
    assert np.all(low * count >= 1 - 1e-12)
    assert np.all(high * count <= 1 + 1e-12)
    assert np.all(high >= low)
    radii, diameters = partition.radii(), partition.diameters()
    assert np.all(diameters <= 2 * radii * (1 + 1e-12))
    rng = np.random.default_rng([m, count])
    inside, ends = rng.random((40, count, m)), rng.integers(0, 2, (40, count, m))
    share = np.where(rng.random((40, count, m)) < 0.5, inside, ends)
    points = [from_angles(pi * (partition.low + s * (partition.high - partition.low))) for s in share]
    for x in points:
        own = 2 * np.arcsin(np.clip(np.linalg.norm(x - partition.centres, axis=1) / 2, 0, 1))
        assert np.all(own <= radii + 1e-7)
    for x, y in pairwise(points):
        apart = 2 * np.arcsin(np.clip(np.linalg.norm(x - y, axis=1) / 2, 0, 1))
        assert np.all(apart <= diameters + 1e-7)


@pytest.mark.parametrize("m", [2, 3])
def test_the_regions_shrink_as_their_number_grows(m):
    """Small diameter: at most a constant times N^{-1/m}, the constant being below that of Leopardi's tables (about 7 on S^2, 8 on S^3)."""
    for count in (50, 400, 1600):
        assert equal_area_partition(m, count).diameters().max() * count ** (1 / m) < (7, 8)[m - 2]


@pytest.mark.parametrize(("m", "count"), [(0, 5), (2, 0)])
def test_a_partition_needs_a_sphere_and_a_region(m, count):
    with pytest.raises(ValueError, match="m, count"):
        equal_area_partition(m, count)


@given(m=st.integers(1, 6), share=st.floats(1e-6, 1 - 1e-6))
@settings(max_examples=50, deadline=None)
def test_cap_angle_inverts_cap_share(m, share):
    assert cap_share(m, cap_angle(m, share)) == pytest.approx(share, rel=1e-9)


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("seed", [0, 1])
def test_coverings_are_proved_and_gaps_are_not(n, seed):
    """The radius of random points is known from their hull; without one point there is a hole where it was."""
    points = directions(60, n, seed)
    radius = covering_radius(points)
    scaled = points * np.random.default_rng(seed).uniform(0.1, 9.0, (60, 1))
    assert sphere_covering_radius_at_most(scaled, radius * (1 + 1e-4), BOXES)[0]
    assert not sphere_covering_radius_at_most(scaled, radius * (1 - 1e-4), BOXES)[0]
    for gone in range(0, 60, 7):
        fewer = np.delete(points, gone, axis=0)
        wider = covering_radius(fewer)
        assert sphere_covering_radius_at_most(fewer, radius * (1 + 1e-4), BOXES)[0] == (wider <= radius * (1 + 1e-4))
        assert not sphere_covering_radius_at_most(fewer, wider - 1e-4, BOXES)[0]


def test_a_small_hole_is_found():
    """Many points with a cap left out that is only a little larger than what the others leave."""
    points = directions(20_000, 3)
    hole = points[angles(points, np.array([[0.6, 0.64, 0.48]]))[:, 0] > 0.3]
    assert not sphere_covering_radius_at_most(hole, 0.29, BOXES)[0]
    assert sphere_covering_radius_at_most(hole, 0.33, BOXES)[0]


def test_what_cannot_be_proved_is_not_claimed():
    points = geodesic_grid(geodesic_class(2, 1))
    radius = covering_radius(points)
    assert not sphere_covering_radius_at_most(points, radius * (1 + 1e-9), 100)[0]
    assert not sphere_covering_radius_at_most(points, radius * 1.1, BOXES, deadline=time.monotonic() - 1)[0]
    assert not sphere_covering_radius_at_most(np.zeros((5, 3)), 1.0, BOXES)[0]
    assert not sphere_covering_radius_at_most(points, 0.0, BOXES)[0]
    assert not sphere_covering_radius_at_most(np.eye(1, 3), 3.0, BOXES)[0]
    # rows that are no directions cover nothing and disturb nothing
    with_junk = np.concatenate([points * 1e-200, [[np.nan, 1, 0], [np.inf, 0, 0], [0, 0, 0]]])
    assert sphere_covering_radius_at_most(with_junk, radius * 1.001, BOXES)[0]
    with pytest.raises(ValueError, match="radius"):
        sphere_covering_radius_at_most(points, float("nan"), BOXES)
    with pytest.raises(ValueError, match="shape"):
        sphere_covering_radius_at_most(np.ones((3, 1)), 1.0, BOXES)


def sampled_spread(points: np.ndarray, lam: float, noise: np.ndarray, radius: float) -> float:
    """max over many x of (sum_j w_j angle_j) - radius, logits lam <x, b_j> + noise_j."""
    n = points.shape[1]
    facets = hull_facets(points)
    assert facets is not None
    holes = unit_rows(
        np.concatenate([facets.normals + 0.1 * radius * s * directions(len(facets.normals), n) for s in (0, 1)])
    )
    x = np.concatenate([directions(2000, n), holes])
    theta = angles(x, points)
    logits = lam * np.cos(theta) + noise
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return float((weights * theta).sum(axis=1).max()) - radius


@pytest.mark.parametrize("sharpness", [3.0, 10.0, 100.0, 1e4])
@pytest.mark.parametrize(("n", "count"), [(2, 12), (3, 60), (4, 80)])
def test_the_spread_bounds_what_is_sampled(n, count, sharpness):
    points = circle_net(pi / count).points if n == 2 else directions(count, n)
    radius = covering_radius(points)
    lam = sharpness / radius**2
    rng = np.random.default_rng(0)
    for residual in (0.0, 0.3):
        bound = angular_spread(points, lam, radius * (1 + 1e-12), residual)
        noise = residual * rng.choice([-1.0, 1.0], len(points))
        assert sampled_spread(points, lam, noise, radius) <= bound * (1 + 1e-9)
    # Lambert's W: the bound falls like 1 / (lam sin radius)
    if sharpness >= 100:
        assert angular_spread(points, lam, radius, 0.0) <= 3.5 / (lam * sin(radius))


def test_the_spread_of_a_softmax_built_to_be_bad_is_bounded():
    """Many tokens just beyond the covering radius, where t e^{-lam sin(R) t} is largest."""
    rim, lam = 200, 50.0
    nearest = np.array([[1.0, 0.0, 0.0]])
    # seen from x at the angle R of `nearest`, the others lie at R + t on a small circle about x
    radius = 0.5
    x = np.array([np.cos(radius), np.sin(radius), 0.0])
    side, up = np.array([-np.sin(radius), np.cos(radius), 0.0]), np.array([0.0, 0.0, 1.0])
    worst = 0.0
    for t in (0.02, 0.05, 0.1, 0.2):
        phi = np.linspace(0, 2 * pi, rim)
        ring = np.cos(radius + t) * x + np.sin(radius + t) * (np.outer(np.cos(phi), side) + np.outer(np.sin(phi), up))
        points = np.concatenate([nearest, ring])
        theta = angles(x[None], points)[0]
        weights = np.exp(lam * (np.cos(theta) - np.cos(radius)))
        average = float((weights / weights.sum()) @ theta)
        bound = angular_spread(points, lam, radius, 0.0)
        assert average - radius <= bound
        worst = max(worst, (average - radius) / bound)
    assert worst > 0.5  # the lemma is sharp up to the count of tokens that are near


def test_no_spread_is_claimed_without_its_conditions():
    points = geodesic_grid(geodesic_class(1, 0))
    for lam, radius, residual in [(0.0, 0.7, 0.0), (inf, 0.7, 0.0), (9.0, 0.0, 0.0), (9.0, 3.1, 0.0), (9.0, 0.7, -1.0)]:
        assert angular_spread(points, lam, radius, residual) == inf
    assert angular_spread(np.concatenate([points, np.zeros((1, 3))]), 9.0, 0.7, 0.0) == inf


@pytest.mark.parametrize("length", [1, 8, 1000])
def test_data_tokens_get_at_most_their_share(length):
    points = geodesic_grid(geodesic_class(1, 1))
    radius = covering_radius(points)
    for lam in (0.5, 5.0, 40.0):
        noise = 0.2 * np.random.default_rng(0).choice([-1.0, 1.0], len(points))
        mass = np.exp(lam * np.cos(angles(directions(500, 3), points)) + noise).sum(axis=1)
        assert (length / (length + mass)).max() <= data_share(lam, radius * (1 + 1e-12), length, 0.2) <= 1
    assert data_share(1.0, float("nan"), length, 0.0) == 1.0
    assert data_share(1.0, 1.0, 0, 0.0) == 0.0


@pytest.mark.parametrize("m", [1, 2, 3, 4])
@pytest.mark.parametrize("q", [1, 2, 3, 5])
def test_the_cubed_sphere_has_its_proved_radius(m, q):
    net = cubed_net(m, q)
    assert len(net.points) == 2 * (m + 1) * q**m
    assert angles(directions(500, m + 1), net.points).min(axis=1).max() <= net.radius == sqrt(m) / q
    if m <= 2:
        assert sphere_covering_radius_at_most(net.points, net.radius, BOXES)[0]


@pytest.mark.parametrize(
    ("m", "radius"),
    [
        *[(1, 4.0), (1, 0.2), (2, 3.0), (2, 1.3), (2, 1.0), (2, 0.6), (2, 0.4), (2, 0.0995)],
        *[(3, 1.5), (3, 1.06), (3, 0.9), (3, 0.786), (3, 0.5), (3, 0.39), (4, 1.2), (6, 1.5), (6, 1.19), (9, 1.3)],
    ],
)
def test_nets_fit_their_radius_and_keep_the_bound(m, radius):
    net = sphere_net(m, radius, max_tokens=100_000)
    assert net is not None
    assert net.points.shape[1] == m + 1
    assert fewest_points(m, radius) <= len(net.points) <= net_bound(m, radius)
    assert net.radius <= radius * (1 + 1e-9)
    assert np.linalg.norm(net.points, axis=1) == pytest.approx(1, abs=1e-12)
    if m <= 3:
        assert sphere_covering_radius_at_most(net.points, radius * (1 + 1e-4), BOXES)[0]


def length(m: int, radius: float) -> int:
    """Number of points of the net found."""
    net = sphere_net(m, radius)
    assert net is not None
    return len(net.points)


def test_a_net_is_the_same_every_time_and_known_ones_are_found():
    first, second = sphere_net(2, 0.7), sphere_net(2, 0.7)
    assert first is not None
    assert second is not None
    assert np.array_equal(first.points, second.points)
    assert [length(2, r) for r in (1.24, 0.96, 0.66)] == [4, 6, 12]
    assert length(2, 0.0995) <= 502
    assert fewest_points(2, 0.1) == 485


def test_no_net_is_longer_than_allowed():
    assert sphere_net(2, 0.1, max_tokens=484) is None
    assert sphere_net(8, 0.1) is None
    # out of time: the net that needs no search
    net = sphere_net(2, 0.3, deadline=time.monotonic() - 1)
    assert net is not None
    assert len(net.points) == net_bound(2, 0.3)


@pytest.mark.parametrize(("m", "radius"), [(0, 0.5), (2, 0.0), (2, -1.0), (2, float("nan"))])
def test_arguments_without_meaning_are_refused(m, radius):
    for function in (net_bound, fewest_points, sphere_net):
        with pytest.raises(ValueError, match=r"radius|m ="):
            function(m, radius)


def test_equal_area_centres_are_a_start_in_any_dimension():
    for m in (1, 2, 3, 4, 5):
        points = equal_area_centres(m, 50)
        assert np.linalg.norm(points, axis=1) == pytest.approx(1, abs=1e-12)
        assert np.linalg.norm(points.mean(axis=0)) < 0.1
