"""Lower bounds on length: certificates hold in exact arithmetic, fall with any change, and no head ever beats one."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from formulas import apply, fitted_bernstein, lift, named, target, var
from hypothesis import given
from hypothesis import strategies as st

from verify import Alternation, Box, GridTarget, ZigZag, alternation, zigzag


@given(st.floats(1e-3, 1e3), st.floats(-10, 10), st.floats(1e-3, 20), st.floats(1e-3, 10))
def test_the_strongest_zigzag_holds_and_one_more_does_not(lipschitz, lo, width, eps):
    hi = lo + width
    found = zigzag(lipschitz, lo, hi, eps)
    assert found.holds()
    assert not replace(found, tokens=found.tokens + 1).holds()
    length = Fraction(hi) - Fraction(lo)
    assert found.tokens == max(1, math.ceil(Fraction(lipschitz) * length / (2 * Fraction(eps))))
    if found.tokens > 1:  # the witness alternates beyond eps, tokens times, and is Lipschitz
        amplitude = Fraction(lipschitz) * length / (2 * (found.tokens - 1))
        assert amplitude > Fraction(eps)
        x = np.linspace(lo, hi, found.tokens)
        if found.tokens < 2000:
            values = found.evaluate(x)
            assert np.allclose(
                values,
                (-1.0) ** np.arange(found.tokens) * float(amplitude),
                rtol=1e-6,
                atol=1e-6 * lipschitz * max(1, abs(lo), abs(hi)),
            )


def test_a_whole_quotient_claims_nothing_more():
    assert zigzag(1.0, 0.0, 1.0, 0.125).tokens == 4
    assert zigzag(1.0, 0.0, 1.0, np.nextafter(0.125, 0)).tokens == 5
    assert zigzag(0.0, 0.0, 1.0, 1.0).tokens == 1
    assert zigzag(1.0, 0.0, 1.0, 100.0).tokens == 1


@pytest.mark.parametrize(
    "change",
    [
        {"eps": math.nan},
        {"eps": 0.0},
        {"eps": -1.0},
        {"lipschitz": math.inf},
        {"lipschitz": -1.0},
        {"lipschitz": math.nan},
        {"hi": 0.0},
        {"hi": -1.0},
        {"tokens": 0},
        {"tokens": -3},
        {"tokens": 6},
        {"eps": 0.2},
        {"lipschitz": 0.8},
    ],
)
def test_a_changed_zigzag_does_not_hold(change):
    good = zigzag(1.0, 0.0, 1.0, 0.1)
    assert good == ZigZag(1.0, 0.0, 1.0, 0.1, 5)
    assert not replace(good, **change).holds()


def test_the_zigzag_witness_is_lipschitz():
    found = zigzag(3.0, -1.0, 2.0, 0.2)
    x = np.linspace(-1, 2, 5001)
    y = found.evaluate(x)
    assert (np.abs(np.diff(y)) <= 3.0 * np.diff(x) * (1 + 1e-9) + 1e-12).all()


def test_alternations_of_a_sine():
    f = target(apply("sin", var() * 10))
    box = Box([(0.0, math.pi)])
    found = alternation(f, box, 0.5)
    assert found.tokens == 10  # ten half-waves
    assert found.holds(f, box)
    assert alternation(f, box, 1.5).tokens == 1


def test_a_constant_offset_does_not_hide_them():
    f = target(apply("sin", var() * 10) + 100)
    found = alternation(f, Box([(0.0, math.pi)]), 0.5)
    assert found.tokens >= 10
    assert found.holds(f, Box([(0.0, math.pi)]))


@pytest.mark.parametrize("n", [1, 2])
def test_grid_targets_and_planes(n):
    rng = np.random.default_rng(n)
    axis = np.arange(8.0)
    values = rng.choice([-1.0, 1.0], (8,) * n)[..., None] if n == 2 else ((-1.0) ** np.arange(8))[:, None]
    f = GridTarget((axis,) * n, values, "linear")
    box = Box([(0.0, 7.0)] * n)
    found = alternation(f, box, 0.3)
    assert found.holds(f, box)
    if n == 1:
        assert found.tokens == 8


def test_a_fitted_head_is_never_shorter_than_a_certificate():
    f = target(apply("cos", var() * 9) * apply("exp", var()))
    box = Box([(-1.0, 1.0)])
    x = np.linspace(-1, 1, 2001)[:, None]
    for tokens in (2, 3, 5, 8, 12, 20):
        slopes, biases, values = fitted_bernstein(f, (-1, 1), tokens)
        logits = x @ slopes.T + biases
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        error = np.abs((weights / weights.sum(axis=1, keepdims=True)) @ values - f.evaluate(x)).max()
        assert alternation(f, box, float(error) * 1.01).tokens <= tokens


def certificate() -> tuple[Alternation, object, Box]:
    f = target(apply("sin", var() * 10))
    box = Box([(0.0, 3.0)])
    return alternation(f, box, 0.5), f, box


def test_tampered_alternations_do_not_hold():
    good, f, box = certificate()
    points = good.points
    assert good.holds(f, box)
    bad = [
        replace(good, points=points[::2]),  # the signs no longer alternate
        replace(good, points=points[:2] + points[1:]),  # a point twice
        replace(good, points=(points[1], points[0], *points[2:])),  # out of order
        replace(good, points=(*points, (4.0,))),  # outside the domain
        replace(good, points=(*points, (math.nan,))),
        replace(good, points=tuple((*p, 0.0) for p in points)),  # another dimension
        replace(good, eps=1.1),
        replace(good, eps=math.nan),
        replace(good, eps=-0.5),
        replace(good, eps=0.0),
        replace(good, theta=2.0),
        replace(good, theta=math.nan),
        replace(good, component=1),
        replace(good, component=-1),
    ]
    for changed in bad:
        assert not changed.holds(f, box), changed


def test_points_must_lie_on_one_line():
    f = target(apply("sin", var(0) * 10), n=2)
    box = Box([(0.0, 3.0), (0.0, 1.0)])
    good = alternation(f, box, 0.5)
    assert good.tokens >= 9
    bent = replace(good, points=(*good.points[:-1], (good.points[-1][0], good.points[-1][1] + 1e-12)))
    assert not bent.holds(f, box)


def test_values_at_exactly_eps_do_not_count():
    f = target(var())
    points = ((-0.5,), (0.5,))
    box = Box([(-1.0, 1.0)])
    assert not Alternation(points, 0.0, 0.5).holds(f, box)
    assert Alternation(points, 0.0, float(np.nextafter(0.5, 0)) - 1e-15).holds(f, box)


def test_undefined_values_count_for_nothing():
    f = target(apply("log", var()) * 1000 + named("pi"))
    box = Box([(-1.0, 2.0)])
    assert alternation(f, box, 0.5).holds(f, box)
    assert not Alternation(((-0.5,), (0.5,)), 0.0, 0.5).holds(f, box)


def test_a_square_wave_alternates_about_zero():
    f = target(apply("select", apply("sin", var() * 7), lift(1), lift(-1), value=">"))
    box = Box([(0.0, 3.0)])
    points = tuple(((k + 0.5) * math.pi / 7,) for k in range(6))
    assert Alternation(points, 0.0, 0.9).holds(f, box)
    assert not Alternation(points, 0.0, 1.0).holds(f, box)
    assert alternation(f, box, 0.9).holds(f, box)
