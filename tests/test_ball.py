"""Ball arithmetic: every operation encloses the exact result, on random and on hostile inputs."""

from fractions import Fraction
from math import inf, isfinite, nan

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verify.ball import EXP_RELATIVE_ERROR, TINY, Ball, U, exp, gamma, inverse, matmul, total

HOSTILE = [
    0.0,
    -0.0,
    5e-324,
    -5e-324,
    2.2e-308,
    1e-200,
    -1e-160,
    1.0,
    -1.0,
    1 + 2.0**-52,
    -1 - 2.0**-52,
    1e16,
    -1e16,
    1e150,
    -1e200,
    1.7e308,
    -1.7e308,
]
mids = st.one_of(st.sampled_from(HOSTILE), st.floats(allow_nan=False, allow_infinity=False), st.floats(-2, 2))
rads = st.one_of(st.just(0.0), st.sampled_from([5e-324, 1e-200, 1e-16, 1.0, 1e100]), st.floats(0, 4))
fractions01 = st.sampled_from([Fraction(-1), Fraction(0), Fraction(1), Fraction(1, 3), Fraction(-7, 9)])


def ball(mid: float, rad: float) -> Ball:
    return Ball(np.array([mid]), np.array([rad]))


def member(mid: float, rad: float, where: Fraction) -> Fraction:
    return Fraction(mid) + Fraction(rad) * where


def encloses(found: Ball, value: Fraction, index: tuple[int, ...] = (0,)) -> bool:
    """Whether the ball contains the value; a ball of infinite or NaN radius or midpoint states nothing."""
    mid, rad = float(found.mid[index]), float(found.rad[index])
    if not isfinite(mid):
        return not isfinite(rad)  # an overflow must not look like a small ball
    return not isfinite(rad) or abs(Fraction(mid) - value) <= Fraction(rad)


def bounds_hold(found: Ball, value: Fraction) -> bool:
    low, high, size = (float(x[0]) for x in (found.lower(), found.upper(), found.magnitude()))
    return all(
        (not isfinite(b)) or ok
        for b, ok in (
            (low, low == -inf or (isfinite(low) and Fraction(low) <= value)),
            (high, not isfinite(high) or value <= Fraction(high)),
            (size, not isfinite(size) or abs(value) <= Fraction(size)),
        )
    )


OPERATIONS = {
    "add": (lambda a, b: a + b, lambda x, y: x + y),
    "sub": (lambda a, b: a - b, lambda x, y: x - y),
    "mul": (lambda a, b: a * b, lambda x, y: x * y),
}


@given(name=st.sampled_from(sorted(OPERATIONS)), a=mids, ra=rads, b=mids, rb=rads, s=fractions01, t=fractions01)
def test_binary_operations_enclose(name, a, ra, b, rb, s, t):
    of_balls, of_numbers = OPERATIONS[name]
    with np.errstate(all="ignore"):
        found = of_balls(ball(a, ra), ball(b, rb))
        value = of_numbers(member(a, ra, s), member(b, rb, t))
        assert encloses(found, value)
        assert bounds_hold(found, value)


@given(a=mids, ra=rads, b=mids, s=fractions01)
def test_scale_shift_neg_and_inverse_enclose(a, ra, b, s):
    x = member(a, ra, s)
    with np.errstate(all="ignore"):
        assert encloses(ball(a, ra).scale(b), x * Fraction(b))
        assert encloses(ball(a, ra).shift(b), x + Fraction(b))
        assert encloses(-ball(a, ra), -x)
        assert encloses(ball(a, ra).enlarge(abs(b)), x)
        if x != 0:
            assert encloses(inverse(ball(a, ra)), 1 / x)
        else:
            assert inverse(ball(a, ra)).rad[0] == inf


@given(a=mids, b=mids)
def test_between_and_hull_contain_both_ends(a, b):
    lo, hi = sorted((a, b))
    with np.errstate(all="ignore"):
        found = Ball.between(np.array([lo]), np.array([hi]))
        assert encloses(found, Fraction(lo))
        assert encloses(found, Fraction(hi))
        both = ball(a, 0.0).hull(ball(b, abs(a)))
        for value in (Fraction(a), Fraction(b), Fraction(b) + Fraction(abs(a))):
            assert encloses(both, value)


def test_between_of_a_point_is_exact():
    x = np.array([0.0, 5e-324, -1e300, 0.1])
    assert (Ball.between(x, x).rad == 0).all()
    assert (Ball.between(x, x).mid == x).all()


@pytest.mark.parametrize("bad", [nan, inf, -inf])
@pytest.mark.parametrize("good", [0.0, 1.0, -1e-300, 1e300])
def test_nothing_unbounded_becomes_bounded(bad, good):
    with np.errstate(all="ignore"):
        for x in (ball(1.0, abs(bad)), ball(bad, abs(bad))):
            for found in (
                x + ball(good, 0.0),
                x - ball(good, 1.0),
                ball(good, 0.0) - x,
                x.scale(2.0),
                x.shift(good),
                x.hull(ball(good, 0.0)),
                -x,
                x.enlarge(1.0),
            ):
                assert not np.isfinite(found.rad[0]) or not np.isfinite(found.mid[0])
                assert not found.magnitude()[0] <= 1e308  # no comparison against it succeeds
            found = x * ball(good, 0.0)
            assert not found.magnitude()[0] <= 1e308
        assert not inverse(ball(1.0, abs(bad))).magnitude()[0] <= 1e308
        assert not exp(ball(nan, 0.0)).magnitude()[0] <= 1e308
        assert not exp(ball(0.0, abs(bad))).magnitude()[0] <= 1e308


def test_unselected_elements_do_not_leak():
    x = Ball(np.array([1.0, nan]), np.array([0.0, inf]))
    y = Ball(np.array([nan, 2.0]), np.array([nan, 0.0]))
    chosen = x.where(np.array([True, False]), y)
    assert (chosen.mid == [1.0, 2.0]).all()
    assert (chosen.rad == 0).all()


@pytest.mark.parametrize("seed", range(6))
def test_total_and_matmul_enclose_in_any_order(seed):
    rng = np.random.default_rng(seed)
    for _ in range(20):
        m, n, k = rng.integers(1, 12, 3)
        spread = rng.choice([0, 3, 30])
        a = rng.standard_normal((m, n)) * 10.0 ** rng.integers(-spread, spread + 1, (m, n))
        b = rng.standard_normal((n, k)) * 10.0 ** rng.integers(-spread, spread + 1, (n, k))
        if n >= 2:  # cancellation
            a[:, -1], b[-1] = a[:, 0], -b[0]
        ra, rb = (np.abs(x) * rng.choice([0.0, 1e-18, 1e-3]) for x in (a, b))
        s, t = (Fraction(int(rng.integers(-8, 9)), 8) for _ in range(2))
        order = rng.permutation(n)
        found, summed = (
            matmul(Ball(a[:, order], ra[:, order]), Ball(b[order], rb[order])),
            total(Ball(a[:, order], ra[:, order]), 1),
        )
        for i in range(m):
            row = [member(x, r, s) for x, r in zip(a[i], ra[i], strict=True)]
            assert encloses(summed, sum(row, Fraction(0)), (i,))
            for j in range(k):
                column = [member(x, r, t) for x, r in zip(b[:, j], rb[:, j], strict=True)]
                assert encloses(found, sum((x * y for x, y in zip(row, column, strict=True)), Fraction(0)), (i, j))


def test_an_overflow_inside_a_sum_bounds_nothing():
    """1.7e308 + 1.7e308 - 1.7e308 is finite, but passes through infinity in floating point."""
    x = np.array([1.7e308, 1.7e308, -1.7e308])
    with np.errstate(all="ignore"):
        for found in (total(Ball.exact(x), 0), matmul(Ball.exact(x[None]), Ball.exact(np.ones((3, 1))))):
            value = Fraction(1.7e308)
            low, high = float(np.ravel(found.lower())[0]), float(np.ravel(found.upper())[0])
            assert not isfinite(low) or Fraction(low) <= value
            assert not isfinite(high) or value <= Fraction(high)


def test_gamma_is_higham_and_refuses_too_many_terms():
    for n in (1, 7, 10**6):
        exact = Fraction(n, 2**53) / (1 - Fraction(n, 2**53))
        assert exact <= Fraction(gamma(n)) <= exact * (1 + Fraction(1, 2**40))
    with pytest.raises(ValueError, match="too many terms"):
        gamma(2**53)


def test_exp_at_points_is_within_its_stated_error():
    rng = np.random.default_rng(5)
    edges = np.array(
        [0.0, -0.0, 600.0, -600.0, -690.0, 5e-324, -5e-324, 1e-17, 0.34657359, -0.34657359, 0.34657360, np.log(2) * 0.5]
    )
    halves = (np.arange(-990, 866) + 0.5) * np.log(2)  # where the reduction changes its multiple of ln 2
    x = np.concatenate(
        [
            edges,
            halves,
            np.nextafter(halves, inf),
            rng.uniform(-690, 600, 3000),
            rng.uniform(-2, 2, 3000),
            -(10.0 ** rng.uniform(-20, 2.8, 1000)),
        ]
    )
    x = x[(x >= -690) & (x <= 600)]
    found = exp(Ball.exact(x))
    worst = 0.0
    with mpmath.workdps(40):
        for xi, value, rad in zip(x, found.mid, found.rad, strict=True):
            true = mpmath.exp(mpmath.mpf(float(xi)))
            difference = abs(true - mpmath.mpf(float(value)))
            worst = max(worst, float(difference / true))
            assert difference <= mpmath.mpf(float(rad))
    assert worst <= EXP_RELATIVE_ERROR
    assert worst <= 5 * U  # the derivation's own figure


@given(x=st.floats(-5000, 720), r=st.one_of(st.just(0.0), st.floats(0, 120)), s=fractions01)
def test_exp_of_balls_encloses(x, r, s):
    found = exp(ball(x, r))
    mid, rad = float(found.mid[0]), float(found.rad[0])
    if not isfinite(rad):
        assert x > 600 or r > 100
        return
    with mpmath.workdps(40):
        at = mpmath.mpf(x) + mpmath.mpf(r) * s.numerator / s.denominator
        assert abs(mpmath.exp(at) - mid) <= rad


def test_exp_far_below_is_next_to_nothing_and_far_above_unknown():
    found = exp(Ball.exact(np.array([-691.0, -1e6, -1e300, 601.0, 1e300])))
    assert (found.magnitude()[:3] <= 3 * TINY).all()
    assert (found.rad[3:] == inf).all()
