"""The von Mises-Fisher kernel's bounds against 50-digit arithmetic, sampling, and a head summed by brute force."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import vonmises_fisher

from constructions.petrov2024.smoothing import (
    core_closed_form,
    core_error,
    core_parameters,
    log_normaliser,
    mean_cosine,
    normaliser,
    sampling_growth,
    smoothing,
    smoothing_bound,
)

GRID = [(m, lam) for m in (1, 2, 3, 8, 40) for lam in (0.05, 1.0, 12.0, 700.0, 1e6)]


@pytest.mark.parametrize(("m", "lam"), GRID)
def test_normaliser_and_mean_cosine_contain_the_50_digit_values(m, lam):
    with mpmath.workdps(50):
        nu, x = mpmath.mpf(m - 1) / 2, mpmath.mpf(lam)
        bessel = mpmath.besseli(nu, x)
        c = x**nu / (2**nu * mpmath.gamma(nu + 1) * bessel)
        mean = mpmath.besseli(nu + 1, x) / bessel
        for (lo, hi), exact in (
            (normaliser(lam, m), c),
            (log_normaliser(lam, m), mpmath.log(c)),
            (mean_cosine(lam, m), mean),
        ):
            assert mpmath.mpf(lo) <= exact <= mpmath.mpf(hi)
            assert hi - lo <= 1e-14 * max(abs(hi), 1e-300)


@pytest.mark.parametrize(("m", "lam"), GRID)
def test_the_closed_bound_is_above_the_enclosure(m, lam):
    lo, hi = smoothing(lam, m)
    assert lo <= hi <= lo * (1 + 1e-12)
    assert hi <= smoothing_bound(lam, m) <= 1.5 * hi
    # density against t by an independent quadrature
    with mpmath.workdps(20):
        cut = min(mpmath.pi, 3 * mpmath.sqrt((m + 20) / mpmath.mpf(lam)))
        weigh = lambda g: mpmath.quad(  # noqa: E731
            lambda t: g(t) * mpmath.exp(lam * (mpmath.cos(t) - 1)) * mpmath.sin(t) ** (m - 1),
            mpmath.linspace(0, cut, 24),
        )
        mean = weigh(lambda t: t) / weigh(lambda t: 1)
        assert abs(mean - lo) <= 1e-10 * lo


@pytest.mark.parametrize(("m", "lam"), [(1, 0.5), (1, 30.0), (2, 5.0), (3, 100.0), (6, 20.0)])
def test_monte_carlo_agrees(m, lam):
    x = np.eye(m + 1)[0]
    y = vonmises_fisher(x, lam).rvs(20_000, random_state=np.random.default_rng(m))
    angles = np.arccos(np.clip(y @ x, -1, 1))
    sigma = angles.std() / math.sqrt(len(angles))
    lo, hi = smoothing(lam, m)
    assert lo - 5 * sigma <= angles.mean() <= hi + 5 * sigma
    assert angles.mean() - 5 * sigma <= smoothing_bound(lam, m)
    growth = np.expm1(lam * (0.1 * np.sin(angles) + 0.005))
    lo, hi = sampling_growth(lam, 0.1, m)
    assert abs(growth.mean() - lo) <= 5 * growth.std() / math.sqrt(len(angles)) + hi - lo


def test_the_inequality_behind_the_closed_bound():
    theta = np.linspace(1e-3, math.pi, 4001)
    u = 2 * np.sin(theta / 2) ** 2
    quotient = (theta**2 - 2 * u) / u**2
    assert np.all(np.diff(quotient) > -1e-9)
    assert quotient[-1] == pytest.approx((math.pi**2 - 4) / 4, rel=1e-12)


def test_mean_cosine_bounds_used_by_the_closed_parameters():
    assert mean_cosine(2.25, 1)[0] > 1 - 1 / 4.5 - 1 / (4 * 2.25**2)
    for lam in np.geomspace(2.25, 1e5, 40):
        assert 1 - mean_cosine(float(lam), 1)[0] <= 1 / (2 * lam) + 1 / (4 * lam**2) + 1e-15
        for m in (2, 3, 10, 100):
            assert 1 - mean_cosine(float(lam), m)[0] <= m / (2 * lam) * (1 + 1e-12) + 1e-15


def zigzag(t, lipschitz, teeth):
    """Slope +-lipschitz, `teeth` periods on the circle, mean zero."""
    phase = (t * teeth / (2 * np.pi)) % 1
    return lipschitz * (2 * np.pi / teeth) * (np.abs(phase - 0.5) - 0.25)


@pytest.mark.parametrize("teeth", [1, 3])
@pytest.mark.parametrize(("lam", "delta"), [(40.0, 0.05), (10.0, 0.2), (400.0, 0.01)])
def test_core_error_bounds_the_head_summed_by_brute_force(lam, delta, teeth):
    lipschitz, tokens = 1.3, math.ceil(math.pi / delta)
    keys = 2 * np.pi * np.arange(tokens) / tokens
    x = np.linspace(0, 2 * np.pi, 3001)
    scaled = np.exp(lam * (np.cos(x[:, None] - keys) - 1)) * math.exp(sum(log_normaliser(lam, 1)) / 2 + lam)
    g = scaled @ zigzag(keys, lipschitz, teeth) / tokens
    f = zigzag(x, lipschitz, teeth)
    size = float(np.abs(f).max())
    assert np.abs(g - f).max() <= core_error(lam, math.pi / tokens, lipschitz, size, 1)
    # the smoothed function alone is within L E[theta]
    fine = 2 * np.pi * np.arange(4096) / 4096
    weights = np.exp(lam * (np.cos(fine) - 1))
    for s in np.linspace(0, 2, 21):
        smooth = weights @ zigzag(s + fine, lipschitz, teeth) / weights.sum()
        assert abs(smooth - zigzag(s, lipschitz, teeth)) <= lipschitz * smoothing(lam, 1)[1] + 1e-12


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(1, 60),
    eps=st.floats(1e-4, 4),
    lipschitz=st.floats(1e-3, 100),
    size=st.floats(1e-3, 100),
)
def test_the_closed_parameters_keep_the_error_below_eps(m, eps, lipschitz, size):
    lam, delta = core_closed_form(eps, lipschitz, size, m)
    assert core_error(lam, delta, lipschitz, size, m) <= eps


@pytest.mark.parametrize("m", [1, 2, 5])
@pytest.mark.parametrize(
    ("eps", "lipschitz", "size"), [(0.5, 1.0, 1.0), (0.01, 1.0, 3.0), (0.1, 5.0, 1.0), (3.0, 1.0, 1.0)]
)
def test_the_best_parameters_are_wider_and_still_proved(m, eps, lipschitz, size):
    lam, delta = core_parameters(eps, lipschitz, size, m)
    assert core_error(lam, delta, lipschitz, size, m) <= eps
    assert delta >= core_closed_form(eps, lipschitz, size, m)[1]
    assert core_error(lam, min(delta * 1.01, 3.14), lipschitz, size, m) > eps or delta > 3.1


def test_degenerate_classes():
    lam, delta = core_parameters(0.1, 0.0, 1.0, 2)
    assert core_error(lam, delta, 0.0, 1.0, 2) <= 0.1
    lam, delta = core_parameters(0.1, 1.0, 0.0, 2)
    assert core_error(lam, delta, 1.0, 0.0, 2) <= 0.1


@pytest.mark.parametrize(
    "call",
    [
        lambda: smoothing(0.0, 2),
        lambda: smoothing(math.inf, 2),
        lambda: smoothing_bound(1.0, 0),
        lambda: mean_cosine(1.0, 1.5),  # type: ignore[arg-type]
        lambda: sampling_growth(1.0, -0.1, 2),
        lambda: core_error(1.0, 0.1, -1.0, 1.0, 2),
        lambda: core_parameters(0.0, 1.0, 1.0, 2),
    ],
)
def test_refusals(call):
    with pytest.raises(ValueError, match=r"expected|is an integer|finite number"):
        call()
