"""Bernstein bounds over the cube: always an upper bound, and tight within what their derivation says."""

import mpmath
import numpy as np
import pytest

from verify.ball import Ball
from verify.jets import monomials
from verify.polynomial import sup_norm


def random_parts(rng, n: int, order: int, boxes: int, rad: float, sparse: bool) -> list:
    parts = []
    for d in range(order):
        k = len(monomials(n, d))
        if sparse and d and rng.random() < 0.4:
            parts.append(None)
            continue
        mid = rng.standard_normal((boxes, k)) * 10.0 ** rng.uniform(-3, 3)
        parts.append(Ball(mid, np.abs(mid) * rad))
    return parts


def values(parts, box: int, tau, sign: int = 0):
    """Polynomial at points tau (points, n), coefficients moved to sign times their radius."""
    out = np.zeros(len(tau))
    for d, part in enumerate(parts):
        if part is not None:
            powers = np.prod(tau[:, None, :] ** monomials(tau.shape[1], d)[None], axis=2)
            out = out + powers @ (part.mid[box] + sign * part.rad[box])
    return out


def dense(n: int) -> np.ndarray:
    axis = np.linspace(-1, 1, {1: 2001, 2: 61, 3: 21, 4: 9}[n])
    return np.stack([m.ravel() for m in np.meshgrid(*[axis] * n, indexing="ij")], axis=1)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("order", [1, 2, 3, 5, 9])
def test_an_upper_bound_everywhere(n, order):
    if n >= 3 and order > 5:
        pytest.skip("no proof uses it")
    rng = np.random.default_rng(10 * n + order)
    tau = dense(n)
    for rad in (0.0, 1e-3):
        parts = random_parts(rng, n, order, 4, rad, sparse=True)
        bound = sup_norm(parts, n)
        for box in range(4):
            for sign in (-1, 0, 1):
                assert np.abs(values(parts, box, tau, sign)).max() <= bound[box] * (1 + 1e-12)


def test_an_upper_bound_to_the_last_digit():
    """p = 1 - tau^2 + tiny: compared in 50 digits, at the maximum."""
    for order, coefficients in ((2, [0.1, 0.7]), (3, [1.0, 1e-17, -1.0]), (4, [1e16, -3.0, 1.0, 5.0])):
        parts = [Ball.exact(np.array([[c]])) for c in coefficients]
        assert len(parts) == order
        bound = mpmath.mpf(float(sup_norm(parts, 1)[0]))
        with mpmath.workdps(50):
            points = [mpmath.mpf(k) / 500 for k in range(-500, 501)]
            top = max(abs(mpmath.fsum(mpmath.mpf(c) * t**k for k, c in enumerate(coefficients))) for t in points)
            assert top <= bound


@pytest.mark.parametrize(("n", "slack"), [(1, 1.25), (2, 1.6)])
def test_tight_for_smooth_parts(n, slack):
    """Falling coefficients, as a Taylor series in a small box has: the bound is close to the maximum."""
    rng = np.random.default_rng(n)
    for _ in range(10):
        parts = [Ball.exact(rng.standard_normal((1, len(monomials(n, d)))) * 0.5**d) for d in range(6)]
        top = np.abs(values(parts, 0, dense(n))).max()
        assert top <= sup_norm(parts, n)[0] <= slack * top


def test_linear_polynomials_are_bounded_exactly():
    for n in (1, 2, 3):
        parts = [Ball.exact(np.array([[1.0]])), Ball.exact(np.full((1, n), -0.5))]
        assert sup_norm(parts, n)[0] == pytest.approx(1 + 0.5 * n, rel=1e-13)


def test_a_parabola_is_known_to_a_ninth():
    """tau^2 - 1/2 on three pieces: Bernstein coefficients miss the range by at most the width squared over four."""
    parts = [Ball.exact(np.array([[-0.5]])), None, Ball.exact(np.array([[1.0]]))]
    assert 0.5 <= sup_norm(parts, 1)[0] <= 0.5 + 1 / 9 + 1e-12


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_an_unbounded_coefficient_bounds_nothing(bad, n):
    for degree in range(3):
        for where in ("mid", "rad"):
            parts = [Ball(np.zeros((2, len(monomials(n, d)))), np.zeros((2, len(monomials(n, d))))) for d in range(3)]
            getattr(parts[degree], where)[0, 0] = bad
            with np.errstate(all="ignore"):
                bound = sup_norm(parts, n)
            assert not bound[0] <= 1e308
            assert bound[1] <= 1e-280  # the other box is untouched


def test_coefficients_of_any_size():
    for size in (1e-300, 1e-160, 1e150, 1e300):
        parts = [Ball.exact(np.array([[size]])), Ball.exact(np.array([[size]])), Ball.exact(np.array([[size]]))]
        with np.errstate(all="ignore"):
            assert not sup_norm(parts, 1)[0] < 3 * size * (1 - 1e-12)
