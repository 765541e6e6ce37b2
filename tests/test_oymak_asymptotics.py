"""A known prompt and an unknown head: moments of attention, the law of features, the error formula against Monte Carlo, the best temperature; framed digits."""

import sys
from importlib.util import find_spec

import matplotlib.pyplot as plt
import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from constructions.oymak2023 import asymptotics, real_data
from constructions.oymak2023.data import ContextualData
from constructions.plots.asymptotics import draw_agreement, draw_temperature
from constructions.plots.real_data import draw_accuracy, draw_example
from verify import ArtefactError

plt.switch_backend("Agg")


def data(d=6, zeta=0.3, tokens=20, delta_q=0.5, delta_w=0.2, noise=0.8, **other):
    q, w = np.eye(d)[:2]
    return ContextualData(1.1 * q, 0.9 * w, zeta, tokens, delta_q, delta_w, noise, **other)


@pytest.mark.parametrize(
    ("advantage", "relevant", "irrelevant", "nu"), [(1.0, 4, 16, 0.8), (2.0, 10, 190, 1.5), (-1.0, 3, 9, 2.5)]
)
def test_exact_moments_are_those_of_samples(advantage, relevant, irrelevant, nu):
    g = np.random.default_rng(0).standard_normal((100_000, irrelevant))
    weights, a = np.exp(nu * g), relevant * np.exp(advantage)
    total = a + weights.sum(axis=1)
    p, e, v = a / total, (weights * g).sum(axis=1) / total, (weights**2).sum(axis=1) / total**2
    m = asymptotics.exact_moments(advantage, relevant, irrelevant, nu)

    def near(samples, value):
        return abs(samples.mean() - value) < 4.5 * samples.std() / np.sqrt(len(samples))

    assert near(p, m.mass)
    assert near(e, m.shift)
    assert near(v, m.spread)
    assert near((p - m.mass) ** 2, m.mass_variance)
    assert near((e - m.shift) ** 2, m.shift_variance)
    assert near((p - m.mass) * (e - m.shift), m.mass_shift)
    assert near((v - m.spread) ** 2, m.spread_variance)


def test_one_irrelevant_token_to_ten_digits():
    """I = 1: p = A/(A + e^(nu g)), one integral that mpmath does directly."""
    a, nu = mp.mpf(2), mp.mpf("0.9")
    with mp.workdps(25):
        direct = mp.quad(lambda g: a / (a + mp.exp(nu * g)) * mp.npdf(g), [-12, -4, 0, 4, 12])
        spread = mp.quad(lambda g: (mp.exp(nu * g) / (a + mp.exp(nu * g))) ** 2 * mp.npdf(g), [-12, -4, 0, 4, 12])
    m = asymptotics.exact_moments(float(mp.log(2)), 1, 1, 0.9)
    assert m.mass == pytest.approx(float(direct), rel=1e-10)
    assert m.spread == pytest.approx(float(spread), rel=1e-10)


@given(advantage=st.floats(-2, 3), share=st.floats(0.05, 0.9), nu=st.floats(0, 1.0))
def test_the_closed_form_is_the_limit_of_many_tokens(advantage, share, nu):
    gaps = []
    for tokens in (2_000, 32_000):
        relevant = round(share * tokens)
        exact = asymptotics.exact_moments(advantage, relevant, tokens - relevant, nu)
        leading = asymptotics.leading_moments(advantage, relevant, tokens - relevant, nu)
        gaps.append([
            abs(exact.mass - leading.mass), abs(exact.shift - leading.shift), abs(exact.spread / leading.spread - 1),
            tokens * abs(exact.mass_variance - leading.mass_variance), tokens * abs(exact.shift_variance - leading.shift_variance) / 10,
        ])  # fmt: skip
    coarse, fine = np.array(gaps)
    assert (fine <= coarse / 4 + 1e-6).all()  # errors of order 1/T: a sixteenth, up to higher orders
    assert fine.max() < 0.02


@pytest.mark.parametrize("tilt", [0.0, 0.3])
def test_features_have_the_law_of_whole_sequences(tilt):
    model = data(delta_q=(0.5, 0.1), delta_w=(0.2, -0.3))
    q = 0.8 * model.q_star + tilt * model.w_star + 0.2 * np.eye(6)[3]
    x, y = model.sample(60_000, 1)
    a = np.exp(x @ q)
    whole = y[:, None] * np.einsum("nt,ntd->nd", a, x) / a.sum(axis=1, keepdims=True)
    fast = asymptotics.sample_features(model, q, 60_000, 2)
    for f in (lambda h: h, lambda h: np.einsum("ni,nj->nij", h, h).reshape(len(h), -1), lambda h: h**4):
        one, two = f(whole), f(fast)
        error = np.sqrt((one.var(axis=0) + two.var(axis=0)) / 60_000)
        assert (np.abs(one.mean(axis=0) - two.mean(axis=0)) < 4.5 * error + 1e-12).all()
    law = asymptotics.features(model, q)
    mean = law.basis @ law.means.mean(axis=0)
    assert (np.abs(whole.mean(axis=0) - mean) < 4.5 * whole.std(axis=0) / np.sqrt(60_000)).all()
    inside = whole @ law.basis
    second = (law.covariances + law.means[:, :, None] * law.means[:, None, :]).mean(axis=0)
    assert np.einsum("ni,nj->ij", inside, inside) / 60_000 == pytest.approx(second, abs=0.02 * second.max())
    outside = whole[:, 5]
    assert (outside**2).mean() == pytest.approx(law.spread.mean(), rel=0.03)


@pytest.mark.parametrize("theta", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("n", [12, 30, 100])
def test_gaussian_features_at_finite_size(theta, n):
    """The five-scalar law against least squares itself."""
    d, rng, errors = 10, np.random.default_rng(n), []
    mean = theta * np.eye(d)[0]
    for _ in range(1500):
        h = mean + rng.standard_normal((n, d))
        head = np.linalg.lstsq(h, np.ones(n), rcond=None)[0]
        errors.append(float(mp.ncdf(-(head @ mean) / np.linalg.norm(head))))
    error = np.std(errors) / np.sqrt(len(errors))
    assert abs(np.mean(errors) - asymptotics.gaussian_error(theta, n, d)) < 4 * error + 2e-4


def test_finite_size_tends_to_the_limit():
    for theta, ratio in ((1.0, 0.3), (2.0, 0.1), (0.5, 0.8)):
        gaps = [
            abs(asymptotics.gaussian_error(theta, round(d / ratio), d) - asymptotics.limiting_error(theta, ratio))
            for d in (100, 1000)
        ]
        assert gaps[1] < 0.15 * gaps[0] + 1e-5


def test_no_samples_too_few_and_infinitely_many():
    assert asymptotics.limiting_error(1.5, 0.0) == pytest.approx(float(mp.ncdf(-1.5)))
    assert asymptotics.limiting_error(1.5, 1 - 1e-12) == pytest.approx(0.5, abs=1e-5)
    assert asymptotics.limiting_error(0.0, 0.5) == 0.5


@pytest.mark.parametrize("seed", range(2))
def test_the_formula_is_independent_of_its_draws(seed):
    model = data(d=60, tokens=60, noise=1.0)
    first, second = (asymptotics.predicted_error(model, model.q_star, 150, seed=s).error for s in (seed, seed + 10))
    assert first == pytest.approx(second, rel=1.5e-2)


def test_the_closed_form_agrees_where_it_is_not_flagged_and_tokens_are_many():
    model = data(d=50, tokens=4000, noise=1.0, zeta=0.2, delta_w=1.0)
    model = ContextualData(model.q_star, 0.1 * model.w_star, 0.2, 4000, 0.5, 1.0, 1.0)
    full, closed = (asymptotics.predicted_error(model, 0.5 * model.q_star, 200, closed=c) for c in (False, True))
    assert closed.reliable
    assert closed.error == pytest.approx(full.error, rel=0.01)
    hot = asymptotics.predicted_error(model, 3.0 * model.q_star, 200, closed=True)
    assert not hot.reliable
    assert "sigma|q| = 3.3" in hot.reason
    assert "outside the formula's range" in repr(hot)


@pytest.fixture(scope="module")
def quick():
    return asymptotics.experiment(asymptotics.quick())


def test_monte_carlo_agrees_inside_its_band(quick):
    """Six settings: two or more outside a 99 % band have the probability 1.5e-3 if the formula is exact."""
    assert quick.settings_inside_band >= quick.settings - 1
    assert not quick.inside(quick.predicted + 3 * quick.band).any()
    assert quick.temperature.agrees


def test_experiment_is_saved_and_drawn(quick, tmp_path):
    path = quick.save(tmp_path / "asymptotics.st")
    stored = asymptotics.AsymptoticsExperiment.load(path)
    assert stored.configuration == quick.configuration
    assert np.array_equal(stored.errors, quick.errors)
    assert stored.temperature.interval == quick.temperature.interval
    assert repr(stored) == repr(quick)
    plt.close(draw_temperature(stored.temperature))
    plt.close(draw_agreement(stored))
    with pytest.raises(ArtefactError, match="expected a saved TemperatureScan"):
        asymptotics.TemperatureScan.load(path)


def test_the_best_temperature_is_below_the_peak_of_the_mass():
    model = data(d=40, tokens=80, zeta=0.4, delta_q=0.0, delta_w=0.5, noise=1.0)
    tau, error = asymptotics.optimal_temperature(model, 160, closed=True)
    assert 0 < tau < asymptotics.mass_peak(model)
    for other in (0.8 * tau, 1.2 * tau):
        assert asymptotics.predicted_error(model, other * model.q_star, 160, closed=True).error > error


def test_refusals():
    model = data(d=8)
    with pytest.raises(ValueError, match="n = 8 is not above d = 8"):
        asymptotics.predicted_error(model, model.q_star, 8)
    with pytest.raises(ValueError, match="n = 5 is not above"):
        asymptotics.head_errors(model, model.q_star, 5, seeds=2, seed=0)
    with pytest.raises(ValueError, match="needs more samples than dimensions"):
        asymptotics.limiting_error(1.0, 1.2)
    with pytest.raises(ValueError, match=r"\[0, 4\]"):
        asymptotics.predicted_error(model, 9 * model.q_star, 20)
    with pytest.raises(ValueError, match="noise = 0"):
        asymptotics.predicted_error(data(d=8, noise=0.0), model.q_star, 20)
    with pytest.raises(ValueError, match="bound"):
        asymptotics.predicted_error(data(d=8, bound=2.0), model.q_star, 20)
    with pytest.raises(ValueError, match="no finite vector"):
        asymptotics.predicted_error(model, np.full(8, np.nan), 20)
    with pytest.raises(ValueError, match="delta_q"):
        asymptotics.optimal_temperature(data(d=8, delta_q=-2.0), 20)


def test_rivals_have_true_gradients():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 4, 5))
    for name, (forward, shapes) in real_data.RIVALS.items():
        weights, g = tuple(0.5 * rng.standard_normal(s) for s in shapes(5)), rng.standard_normal(3)
        found = forward(weights, x)[1](g)
        for k, w in enumerate(weights):
            step = rng.standard_normal(w.shape)
            up, down = (forward((*weights[:k], w + s * step, *weights[k + 1 :]), x)[0] @ g for s in (1e-6, -1e-6))
            assert (found[k] * step).sum() == pytest.approx((up - down) / 2e-6, rel=1e-6), name


@pytest.mark.skipif(find_spec("sklearn") is None, reason="scikit-learn is not installed")
def test_the_prompt_reads_framed_digits_best(tmp_path):
    found = real_data.experiment(real_data.quick())
    best = found.names.index("softmax prompt")
    assert (found.accuracy[best] > found.accuracy[found.names.index("averaging")] + 0.05).all()
    assert found.mean.argmax() == best
    stored = real_data.RealDataExperiment.load(found.save(tmp_path / "digits.st"))
    assert repr(stored) == repr(found)
    plt.close(draw_accuracy(stored))
    plt.close(draw_example(stored))


def test_digits_are_refused_with_the_reason(monkeypatch):
    with pytest.raises(ValueError, match="two different digits"):
        real_data.framed_digits(digits=(3, 3), seed=0)
    with pytest.raises(ValueError, match="relevant = 8"):
        real_data.framed_digits(relevant=8, seed=0)
    monkeypatch.setattr(sys.modules["constructions.oymak2023.real_data.framed_digits"], "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"prefix-compiler\[data\]"):
        real_data.framed_digits(seed=0)
