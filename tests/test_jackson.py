"""Token bounds on the sphere: rounded the safe way, ordered as they must be, and met by heads built as their proofs say."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import betainc, ive, roots_gegenbauer

from constructions.petrov2024.jackson import (
    METHODS,
    bound_table,
    continuous_selection_bound,
    net_radius,
    packing_bound,
    plot_bounds,
    theorem_for,
)
from constructions.petrov2024.smoothing import core_closed_form
from constructions.theorem import DIMENSION, EPS, CapShare, Theorem, enclose, plan

BUILT = tuple(method for method in METHODS if method != "paper")


def of(expression, **values):
    return Theorem("test", "", "", expression, values)


# --- evaluation -----------------------------------------------------------------------------------------------------


def test_integers_are_met_exactly():
    q = sp.sqrt(DIMENSION) / EPS
    assert of(sp.ceiling(q), m=4, eps=0.25).tokens() == 8
    assert of(sp.floor(q) + 1, m=4, eps=0.25).tokens() == 9
    # 0.1 is a little above one tenth, so 1/eps is a little below ten
    assert of(sp.ceiling(1 / EPS), eps=0.1).tokens() == 10
    assert of(sp.floor(1 / EPS), eps=0.1).tokens() == 9
    assert theorem_for("split", 4, eps=256.0, lipschitz=1008.0).tokens() == 10 * 8**4
    assert theorem_for("split", 4, eps=np.nextafter(256.0, 0), lipschitz=1008.0).tokens() == 10 * 9**4


@pytest.mark.parametrize("k", [1, 2, 3, 7, 1000, 10**9, 10**15])
@pytest.mark.parametrize("ulps", [-1, 0, 1])
def test_pi_over_eps_next_to_an_integer(k, ulps):
    eps = math.pi / k
    for _ in range(abs(ulps)):
        eps = math.nextafter(eps, math.copysign(math.inf, ulps))
    with mpmath.workdps(80):
        exact = mpmath.pi / mpmath.mpf(eps)
        assert of(sp.ceiling(sp.pi / EPS), eps=eps).tokens() == int(mpmath.ceil(exact))
        points = int(mpmath.ceil(exact)) - 1  # the most points more than 2 eps apart on the circle
        assert theorem_for("core", 1, eps=eps, lipschitz=1.0, bound_f=9.0).lower_tokens() == max(1, points)
        split = theorem_for("split", 1, eps=eps, lipschitz=1.0)
        assert split.tokens() == int(mpmath.floor(exact * 64 / 63)) + 1
        assert split.lower_tokens() == 2 * int(mpmath.ceil(exact / 2)) - 1


def test_undecidable_rounding_goes_the_safe_way():
    """sqrt(2) sqrt(3) - sqrt(6) is zero, which balls cannot see: an upper bound takes the larger integer, a lower the smaller."""
    hidden = sp.ceiling(5 + EPS ** sp.Rational(1, 2) * sp.sqrt(3) - sp.sqrt(6))
    assert of(hidden, eps=2.0).tokens() in (6, 7)
    assert Theorem("test", "", "", None, {"eps": 2.0}, hidden).lower_tokens() in (4, 5)


def test_numbers_between_float64_and_the_limit_are_integers():
    value = of(1 / CapShare(DIMENSION, EPS), m=9, eps=1e-9).tokens()
    assert value is not None
    with mpmath.workdps(120):
        share = mpmath.betainc(mpmath.mpf(9) / 2, 0.5, 0, mpmath.sin(mpmath.mpf(1e-9)) ** 2, regularized=True) / 2
        assert value == int(mpmath.ceil(1 / share))


@pytest.mark.parametrize(("m", "r"), [(1, 0.3), (2, 1.0), (3, 1.5), (3, 2.0), (8, 0.1), (2, 3.0), (5, 3.2)])
def test_cap_share(m, r):
    got = enclose(CapShare(DIMENSION, EPS), {"m": m, "eps": r})
    half = betainc(m / 2, 0.5, math.sin(r) ** 2) / 2
    assert float(got) == pytest.approx(1.0 if r >= math.pi else half if r <= math.pi / 2 else 1 - half, rel=1e-10)  # type: ignore[arg-type]
    if r < math.pi:
        assert float(CapShare(sp.Integer(m), sp.Float(r)).rewrite(sp.Integral).evalf()) == pytest.approx(
            float(got), rel=1e-6
        )  # type: ignore[arg-type]


def test_evaluation_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="eps = None"):
        of(EPS)
    with pytest.raises(ValueError, match="eps = inf"):
        of(EPS, eps=math.inf)
    with pytest.raises(TypeError, match="cos"):
        of(sp.cos(EPS), eps=1.0).tokens()


# --- the table ------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    method=st.sampled_from(BUILT),
    m=st.integers(1, 40),
    eps=st.floats(1e-6, 20),
    lipschitz=st.floats(0, 50),
    size=st.floats(0, 50),
)
def test_lower_bounds_are_below_upper_bounds(method, m, eps, lipschitz, size):
    theorem = theorem_for(method, m, eps=eps, lipschitz=lipschitz, bound_f=size)
    upper, lower = theorem.tokens(), theorem.lower_tokens()
    if upper is not None:
        assert lower is not None
        assert 1 <= lower <= upper
        assert math.log10(upper) <= theorem.log10_tokens() <= math.log10(upper) + 1e-9
    assert 0 <= theorem.log10_lower() <= theorem.log10_tokens()
    assert str(theorem)


@pytest.mark.parametrize("method", BUILT)
@pytest.mark.parametrize("m", [1, 2, 3, 9])
def test_tokens_are_monotone(method, m):
    def tokens(**change):
        return theorem_for(method, m, **({"eps": 0.1, "lipschitz": 2.0, "bound_f": 1.0} | change)).log10_tokens()

    for finer, coarser in itertools.pairwise([0.001, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0]):
        assert tokens(eps=finer) >= tokens(eps=coarser)
    for smoother, rougher in itertools.pairwise([0.0, 0.1, 1.0, 3.0, 100.0]):
        assert tokens(lipschitz=smoother) <= tokens(lipschitz=rougher)
        assert tokens(bound_f=smoother) <= tokens(bound_f=rougher)
    assert tokens(length=1) == tokens(length=10**6)


@pytest.mark.parametrize(("method", "power"), [("split", 1), ("classical", 1), ("deconvolution", 1), ("core", 2)])
@pytest.mark.parametrize("m", [1, 2, 8])
def test_the_exponent_in_eps(method, power, m):
    fine, finer = (theorem_for(method, m, eps=eps, lipschitz=1.0, bound_f=1.0).log10_tokens() for eps in (1e-7, 1e-8))
    assert finer - fine == pytest.approx(power * m, abs=1e-3)


def test_huge_dimensions_are_reported_by_their_logarithm():
    theorem = theorem_for("core", 10**6, eps=1e-3, lipschitz=1.0, bound_f=1.0)
    assert theorem.tokens() is None
    assert 1e7 < theorem.log10_tokens() < 1e8
    planned = plan(theorem, 10**6 + 1, 1)
    assert planned.tokens is None
    assert not planned.fits(2**60)
    assert "not built" in str(planned)
    assert theorem_for("split", 64, eps=0.1, lipschitz=1.0).tokens() == 130 * 82**64


def test_plan_counts_tokens_and_bytes():
    planned = plan(theorem_for("split", 2, eps=0.1, lipschitz=1.0), 3, 1)
    assert planned.tokens == 6 * 15**2
    assert planned.bytes == 8 * 5 * 1350
    assert planned.fits(54_000)
    assert not planned.fits(53_999)
    assert planned.log10_bytes >= math.log10(54_000)
    with pytest.raises(ValueError, match="outputs = 0"):
        plan(theorem_for("split", 2, eps=0.1, lipschitz=1.0), 3, 0)


def test_the_papers_bound_is_a_rate():
    theorem = theorem_for("paper", 8, eps=0.1, lipschitz=1.0)
    assert theorem.rate == EPS ** (-10 - 14 * DIMENSION - 4 * DIMENSION**2)
    assert "constant unknown" in str(theorem)
    with pytest.raises(ValueError, match="only the rate"):
        theorem.tokens()


@pytest.mark.parametrize(
    ("method", "m", "options", "match"),
    [
        ("spline", 2, {}, "method"),
        ("core", 2, {}, "bound_f"),
        ("split", 0, {}, "m = 0"),
        ("split", 2, {"eps": 0.0}, "eps"),
        ("split", 2, {"lipschitz": -1.0}, "lipschitz"),
        ("split", 2, {"bound_f": math.nan}, "bound_f"),
        ("split", 2, {"length": -1}, "length"),
    ],
)
def test_refusals(method, m, options, match):
    with pytest.raises(ValueError, match=match):
        theorem_for(method, m, **({"eps": 0.1, "lipschitz": 1.0} | options))


# --- the lemmas -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "q"), [(1, 3), (2, 4), (3, 3), (5, 2), (2, 1)])
def test_the_cubed_net_covers(m, q):
    axis = (2 * np.arange(q) + 1) / q - 1
    face = np.stack(np.meshgrid(*[axis] * m, indexing="ij"), axis=-1).reshape(-1, m)
    faces = [np.insert(face, i, sign, axis=1) for i in range(m + 1) for sign in (-1.0, 1.0)]
    net = np.concatenate(faces)
    net /= np.linalg.norm(net, axis=1, keepdims=True)
    assert len(net) == 2 * (m + 1) * q**m
    corners = np.insert(
        np.stack(np.meshgrid(*[np.linspace(-1, 1, q + 1)] * m, indexing="ij"), -1).reshape(-1, m), 0, 1.0, 1
    )
    x = np.concatenate([np.random.default_rng(0).normal(size=(2000, m + 1)), corners])
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    assert np.arccos(np.clip((x @ net.T).max(axis=1), -1, 1)).max() <= math.sqrt(m) / q + 1e-9


@pytest.mark.parametrize("eps", [0.9, 0.31, 0.05])
def test_a_split_head_of_the_promised_length_is_within_eps(eps):
    """Circle, equispaced keys, the sharpness of the proof: sum w angle <= eps / L in float64, beside any number of data tokens."""
    lipschitz, size, data = 1.5, 2.0, 1000
    tokens = theorem_for("classical", 1, eps=eps, lipschitz=lipschitz, bound_f=size, length=data).tokens()
    assert tokens is not None
    eta, r = 2.0**-10, net_radius(eps, lipschitz)
    assert math.pi / tokens <= r
    gap = math.cos(r) - math.cos((1 + eta / 2) * r)
    lam = max(
        math.log(4 * math.pi * tokens * lipschitz / (eta * eps)) / gap,
        math.log(8 * size * data / (eta * eps)) / math.cos(r),
    )
    keys = 2 * np.pi * np.arange(tokens) / tokens
    x = np.linspace(0, 2 * np.pi / tokens, 2001)[:, None]
    angles = np.abs((x - keys + np.pi) % (2 * np.pi) - np.pi)
    scores = lam * np.cos(angles)
    top = scores.max(axis=1, keepdims=True)
    weights = np.exp(scores - top)
    mass = weights.sum(axis=1, keepdims=True)
    assert (lipschitz * (weights * angles).sum(axis=1) / mass[:, 0] + size * data * np.exp(-top[:, 0])).max() <= eps


@pytest.mark.parametrize("n", [1, 2, 5, 16])
def test_favards_polynomial_deconvolved_on_three_keys_a_degree(n):
    lipschitz, count, tokens = 2.0, 4096, 3 * n
    t = 2 * np.pi * np.arange(count) / count
    teeth = n  # the worst function: a zigzag with n teeth
    phase = (t * teeth / (2 * np.pi)) % 1
    f = lipschitz * (2 * np.pi / teeth) * (np.abs(phase - 0.5) - 0.25)
    c = np.fft.fft(f)[:n] / count
    j = np.arange(1, n) * np.pi / (2 * n)
    c[1:] *= j / np.tan(j)
    lam = max(0.05, n * n / 8)
    keys = 2 * np.pi * np.arange(tokens) / tokens
    spectrum = np.zeros(tokens, dtype=complex)
    spectrum[:n] = c / ive(np.arange(n), lam)
    spectrum[tokens - n + 1 :] = np.conj(spectrum[1:n])[::-1]
    amplitudes = np.fft.ifft(spectrum).real
    g = np.exp(lam * (np.cos(t[:, None] - keys) - 1)) @ amplitudes
    assert np.abs(g - f).max() <= math.pi / 2 * lipschitz / n * 1.001


@pytest.mark.parametrize("m", [1, 2, 3, 4, 7, 12, 30])
def test_the_largest_gegenbauer_zero(m):
    for k in (2, 3, 5, 10, 40):
        largest = math.pi / (2 * k) if m == 1 else math.acos(roots_gegenbauer(k, (m - 1) / 2)[0].max())
        bound = math.sqrt(m * (m + 4) / 2) / k
        assert largest <= bound or bound > math.pi / 2


def test_free_keys_chosen_continuously():
    assert continuous_selection_bound(1, eps=0.1, lipschitz=1.0) == 11  # 31 points, three numbers a token
    assert continuous_selection_bound(2, eps=5.0, lipschitz=1.0) == 1
    assert continuous_selection_bound(2, eps=0.1, lipschitz=0.0) == 1
    points = Theorem("packing", "", "", None, {"m": 2, "eps": 0.1, "L": 1.0}, packing_bound(2)).lower_tokens()
    assert points == math.ceil(2 / (1 - math.cos(0.2)))


@pytest.mark.parametrize(("m", "eps", "size"), [(1, 0.2, 1.0), (3, 0.05, 2.0), (6, 1.0, 0.5)])
def test_the_core_bound_is_the_partition_at_the_closed_parameters(m, eps, size):
    _, delta = core_closed_form(eps, 1.0, size, m)
    cells = math.ceil(math.pi / delta) if m == 1 else 2 * (m + 1) * math.ceil(math.sqrt(m) / delta) ** m
    assert theorem_for("core", m, eps=eps, lipschitz=1.0, bound_f=size).tokens() == cells


# --- table and picture ----------------------------------------------------------------------------------------------


def test_bound_table():
    table = bound_table([1.0, 0.1, 0.01], 3, lipschitz=2.0, size=1.5)
    assert table.slope == 10 + 42 + 36
    assert np.all(np.diff(table.core) > 0)
    assert np.all(table.lower <= table.split)
    assert np.all(table.lower <= table.core)


def test_plot_bounds():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    axes = plot_bounds(eps=[1.0, 0.1, 0.01], m=(1, 8))
    words = [text.get_text() for legend in (axes.get_legend(), *axes.artists) if legend for text in legend.get_texts()]  # type: ignore[attr-defined]
    assert "m = 8" in words
    assert any("378" in w for w in words)
    assert len(axes.lines) == 7
    plt.close("all")
    with pytest.raises(ValueError, match="at least two"):
        plot_bounds(eps=[0.1])
