"""Ranges and Lipschitz constants of expressions: rigorous from both sides, on known cases and random formulas."""

import math
from fractions import Fraction

import numpy as np
import oracle
import pytest
from formulas import Formula, apply, expression, lift, random_formula, var

from verify import Box, lipschitz_constant, value_range

mp = oracle.mp

KNOWN = [  # formula, side, Lipschitz constant, sup of |f|
    (apply("sin", var() * 3), (-1.0, 1.0), 3.0, 1.0),
    (apply("exp", var()), (0.0, 1.0), math.e, math.e),
    (var() ** 3 - var(), (-2.0, 2.0), 11.0, 6.0),
    (apply("abs", var()) * 5, (-1.0, 2.0), 5.0, 10.0),
    (apply("max", var(), var() * -3), (-1.0, 1.0), 3.0, 3.0),
    (apply("tanh", var() * 4), (-1.0, 1.0), 4.0, math.tanh(4)),
    (lift(Fraction(1, 3)), (-1.0, 1.0), 0.0, 1 / 3),
    (var(), (1e6, 1e6 + 1e-3), 1.0, 1e6 + 1e-3),
]


@pytest.mark.parametrize(("f", "side", "lipschitz", "size"), KNOWN)
def test_known_constants(f, side, lipschitz, size):
    for norm in ("l2", "linf", "l1"):  # one variable: the norms agree
        found = lipschitz_constant(expression(f), Box([side]), norm)
        assert found.lower <= lipschitz * (1 + 1e-14) <= found.upper * (1 + 1e-14)
        assert found.upper <= lipschitz * 1.02 + 1e-12
        assert found.bad is None
    found = value_range(expression(f), Box([side]))
    assert found.lower <= size * (1 + 1e-14)
    assert size * (1 - 1e-14) <= found.upper <= size * 1.06


def test_dual_norms_in_two_variables():
    f = expression(var(0) * 3 - var(1) * 4, n=2)
    for norm, true in (("l2", 5.0), ("linf", 7.0), ("l1", 4.0)):
        found = lipschitz_constant(f, Box.unit(2), norm)
        assert found.lower <= true <= found.upper <= true * 1.001


def test_several_outputs_take_the_largest():
    f = expression(var() * 2, apply("sin", var() * 7), n=1)
    found = lipschitz_constant(f, Box([(-1, 1)]))
    assert 7 * (1 - 1e-12) <= found.upper <= 7.1
    assert value_range(f, Box([(-1, 1)])).upper >= 2


def test_an_output_that_is_constant_beside_one_that_is_not():
    found = lipschitz_constant(expression(var() * var(), lift(1)), Box([(-1, 1)]))
    assert 2 * (1 - 1e-12) <= found.upper <= 2.05


@pytest.mark.parametrize("seed", range(9))
@pytest.mark.parametrize("norm", ["l2", "linf", "l1"])
def test_no_secant_is_steeper_than_the_constant(seed, norm):
    rng = np.random.default_rng(seed)
    n = 1 + seed % 3
    f = expression(random_formula(rng, n, 3, kinks=True), n=n)
    box = Box([(-0.8, 0.9)] * n)
    found = lipschitz_constant(f, box, norm, max_boxes=3000)
    spread = value_range(f, box, max_boxes=1000)
    table = f.to_json()
    order = {"l2": 2, "linf": np.inf, "l1": 1}[norm]
    points = box.sample(40, seed)
    near = np.clip(points + 1e-4 * rng.standard_normal(points.shape), -0.8, 0.9)
    for p, q in zip(points, np.concatenate([near[:20], points[::-1][20:]]), strict=True):
        a, b = (oracle.expression_values(table, [mp.mpf(float(t)) for t in x])[0] for x in (p, q))
        if not (mp.isnan(a) or mp.isnan(b)) and (p != q).any():
            assert abs(a - b) <= found.upper * np.linalg.norm(p - q, ord=order) * (1 + 1e-9) + 1e-40
            assert abs(a) <= spread.upper


UNBOUNDED = [
    (var() ** "1/2", (0.0, 1.0)),
    (apply("asin", var()), (-1.0, 1.0)),
    (apply("select", var(), lift(1), lift(0), value=">"), (-1.0, 1.0)),
    (apply("select", var() - Fraction(1, 3), lift(1), lift(0), value=">="), (-1.0, 1.0)),
    (var() ** -1, (-1.0, 1.0)),
    (apply("log", var()), (0.0, 1.0)),
]


@pytest.mark.parametrize(("f", "side"), UNBOUNDED)
def test_where_no_constant_exists_the_place_is_named(f, side):
    found = lipschitz_constant(expression(f), Box([side]), max_boxes=3000)
    assert found.upper == math.inf
    assert found.bad is not None
    assert not math.isnan(found.lower)


def test_a_pole_is_not_given_a_range():
    for f, side, place in (
        (var() ** -1, (-1.0, 1.0), 0.0),
        (apply("log", var()), (0.0, 1.0), 0.0),
        (apply("tan", var()), (1.0, 2.0), math.pi / 2),
        (apply("log", var()), (-1.0, 1.0), None),
    ):
        found = value_range(expression(f), Box([side]))
        assert found.upper == math.inf
        assert found.bad is not None
        if place is not None:
            assert found.bad[0][0] - 1e-6 <= place <= found.bad[0][1] + 1e-6


def test_an_edge_of_the_domain_has_a_range():
    for f, side, size in (
        (var() ** "1/2", (0.0, 4.0), 2.0),
        (apply("asin", var()), (-1.0, 1.0), math.pi / 2),
        (apply("acosh", var()), (1.0, 2.0), math.acosh(2)),
    ):
        found = value_range(expression(f), Box([side]))
        assert size * (1 - 1e-12) <= found.upper <= size * 1.06


DEGENERATE: list[
    tuple[Formula, float]
] = [  # formulas that are constant although a branch with a slope touches at the centre
    (apply("min", apply("abs", var()), lift(0)), 0.0),
    (apply("max", apply("abs", var()) * -5, lift(0)), 0.0),
    (apply("select", var() * var() * -1, var() * 5, lift(0), value=">="), 0.0),
    (apply("min", apply("abs", var()), lift(0)) + var(), 1.0),
]


@pytest.mark.parametrize(("f", "true"), DEGENERATE)
def test_a_branch_active_at_one_point_gives_no_lower_bound(f, true):
    """The slope of a branch that is active only at the box centre is no slope of the function."""
    found = lipschitz_constant(expression(f), Box([(-1, 1)]), max_boxes=500)
    assert found.lower <= true * (1 + 1e-12) <= found.upper * (1 + 1e-12)


def test_the_limit_on_boxes_is_respected():
    f = expression(apply("sin", var(0) * 50) * apply("cos", var(1) * 50), n=2)
    found = lipschitz_constant(f, Box.unit(2), max_boxes=200, tightness=1e-9)
    assert found.upper >= 49
    assert found.lower <= found.upper
