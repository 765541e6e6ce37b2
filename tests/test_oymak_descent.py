"""Three gradient steps of prompt-attention: explicit = automatic, samples tend to the population, the prompt aligns when n/d is large; framed digits."""

from dataclasses import replace
from importlib.util import find_spec

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from constructions.oymak2023 import descent
from constructions.oymak2023.data import ContextualData
from constructions.oymak2023.descent.rate import crossing
from constructions.plots import descent as pictures
from verify import ArtefactError

plt.switch_backend("Agg")
Q, W = np.eye(6)[:2]


def data(zeta=0.3, tokens=20, delta_q=0.5, delta_w=0.2, noise=0.8, **other):
    return ContextualData(1.3 * Q, 0.9 * W, zeta, tokens, delta_q, delta_w, noise, **other)


def loss_value(x, y, q, w, loss):
    """The loss as it is defined, sample by sample."""
    total = 0.0
    for tokens, label in zip(x, y, strict=True):
        a = np.exp(tokens @ q)
        f = (a / a.sum()) @ tokens @ w
        total += (label - f) ** 2 / 2 if loss == "squared" else np.log1p(np.exp(-label * f))
    return total / len(y)


@pytest.mark.parametrize("engine", ["complex", "torch"])
def test_explicit_steps_equal_automatic_differentiation(engine):
    if engine == "torch" and find_spec("torch") is None:
        pytest.skip("PyTorch is not installed")
    assert descent.gradient_gap_max(engine) < 1e-10


@given(seed=st.integers(0, 10**6), loss=st.sampled_from(["squared", "logistic"]), size=st.floats(0.1, 3))
def test_gradients_away_from_zero(seed, loss, size):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((4, 3, 2)), rng.choice([-1.0, 1.0], 4)
    q, w, h = *(size * rng.standard_normal((2, 2))), 1e-6
    for gradient, move in ((descent.prompt_gradient, (1, 0)), (descent.head_gradient, (0, 1))):
        found = gradient(x, y, q, w, loss)
        for k, unit in enumerate(np.eye(2)):
            up, down = (loss_value(x, y, q + s * move[0] * unit, w + s * move[1] * unit, loss) for s in (h, -h))
            assert found[k] == pytest.approx((up - down) / (2 * h), abs=1e-7 * (1 + size**2))


def test_runs_are_independent_of_each_other():
    x, y = data().sample(5 * 12, 0)
    x, y = x.reshape(5, 12, *x.shape[1:]), y.reshape(5, 12)
    together = descent.three_steps(x, y, head_step=1.0, prompt_step=3.0, fresh=True)
    for k in range(5):
        alone = descent.three_steps(x[k], y[k], head_step=1.0, prompt_step=3.0, fresh=True)
        for name in ("w_1", "q_1", "w_2"):
            assert getattr(together, name)[k] == pytest.approx(getattr(alone, name), abs=1e-13)


MODELS = [
    data(),
    data(delta_q=(0.5, -0.2, 0.1), delta_w=(1.0, -0.5, 0.3)),
    data(tokens=10, delta_w=1.0),
    data(noise=0.0),
]


@pytest.mark.parametrize("model", MODELS, ids=["fixed", "random", "negative", "noise-free"])
@pytest.mark.parametrize(("loss", "restart"), [("squared", True), ("squared", False), ("logistic", True)])
def test_samples_tend_to_the_population(model, loss, restart):
    options = {"head_step": 1.0, "prompt_step": 10.0, "loss": loss, "restart": restart}
    limit = descent.population_steps(model, **options).steps(model)
    runs, n = 12, 6000
    x, y = model.sample(runs * n, 5)
    found = descent.three_steps(x.reshape(runs, n, *x.shape[1:]), y.reshape(runs, n), fresh=True, **options)
    for name in ("w_1", "q_1", "w_2"):
        values, expected = getattr(found, name), getattr(limit, name)
        error = values.std(axis=0, ddof=1) / np.sqrt(runs)
        # 11 degrees of freedom, 216 entries; q_1's finite n moves w_2 by O(1/n)
        assert (np.abs(values.mean(axis=0) - expected) <= 6 * error + 2e-3 * np.abs(expected).max() + 1e-12).all()


def test_negative_correlation_turns_the_prompt_away():
    """zeta < (1 - zeta) delta_w: the first head points along -w*, and the prompt along -q*."""
    limit = descent.population_steps(data(delta_w=1.0), head_step=1.0, prompt_step=1.0)
    assert limit.first_head < 0
    assert limit.prompt < 0
    assert limit.mass < 0.3


def test_the_third_head_sees_the_mass_moved():
    before = descent.population_steps(data(), head_step=1.0, prompt_step=1e-9)
    after = descent.population_steps(data(), head_step=1.0, prompt_step=20.0)
    assert before.mass == pytest.approx(0.3, abs=1e-6)
    assert before.second_head == pytest.approx(before.first_head, abs=1e-6)
    assert after.mass > 0.6
    assert after.second_head > 3 * after.first_head


@pytest.mark.parametrize("model", [data(), data(delta_q=(0.5, 0.0), delta_w=(0.3, -0.4), tokens=9)])
def test_model_errors_are_those_of_whole_sequences(model):
    rng = np.random.default_rng(0)
    x, y = model.sample(60_000, 1)
    for q, w in (
        (0.7 * Q + 0.2 * rng.standard_normal(6), W + 0.5 * rng.standard_normal(6)),
        (np.zeros(6), W + 0.3 * Q),
    ):
        a = np.exp(x @ q)
        f = (a * (x @ w)).sum(axis=1)
        whole = (f * y < 0).mean()
        fast = descent.model_errors(model, q[None], w[None], 60_000, 2)[0]
        assert abs(whole - fast) < 4 * np.sqrt(2 * whole * (1 - whole) / 60_000)


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_alignment_is_predicted(loss):
    c = replace(descent.quick(), loss=loss, seeds=50)
    model = c.data(60, 0.2)
    for n in (60, 240):
        x, y = model.sample(50 * 3 * n, n)
        found = descent.three_steps(
            x.reshape(50, 3 * n, *x.shape[1:]), y.reshape(50, 3 * n), head_step=0.5, prompt_step=1.0, loss=loss, fresh=True
        ).alignment(model.q_star)  # fmt: skip
        error = found.std(ddof=1) / np.sqrt(50)
        assert abs(found.mean() - c.predicted_alignment(model, n)) < 4 * error + 0.02


def test_the_derived_sample_size_is_proportional_to_d():
    c = descent.full()
    n = [c.predicted_samples(c.data(d, 0.2)) for d in (10**3, 10**4)]
    assert np.log10(n[1] / n[0]) == pytest.approx(1, abs=0.01)
    assert c.predicted_alignment(c.data(10**3, 0.2), n[0]) == pytest.approx(np.sqrt(0.5), abs=1e-9)


def test_an_exponent_is_found_again():
    rng = np.random.default_rng(0)
    x, samples = np.array([10.0, 20, 40, 80]), np.array([[5.0, 20, 80, 320, 1280]] * 4)
    curve = 1 / (1 + (2 * x[:, None] ** 1.3 / samples))
    fit = descent.fit_rate(x, samples, curve[..., None] + 0.02 * rng.standard_normal((4, 5, 50)), 0.5)
    assert fit.contains(1.3)
    assert fit.interval[1] - fit.interval[0] < 0.2
    assert crossing(samples[0], np.array([0.9, 0.8, 0.6, 0.3, 0.1]), 0.45) == pytest.approx(160)


@pytest.fixture(scope="module")
def quick():
    return descent.experiment(descent.quick())


def test_experiment_is_seeded_saved_and_drawn(quick, tmp_path):
    again = descent.experiment(descent.quick())
    assert np.array_equal(quick.alignment, again.alignment)
    path = quick.save(tmp_path / "descent.st")
    stored = descent.DescentExperiment.load(path)
    assert stored.configuration == quick.configuration
    assert np.array_equal(stored.error, quick.error)
    assert repr(stored) == repr(quick)
    for draw in (
        pictures.draw_alignment,
        pictures.draw_rate,
        pictures.draw_success,
        pictures.draw_trajectory,
        pictures.draw_zeta,
    ):
        plt.close(draw(stored))
    path.write_bytes(path.read_bytes()[:-8] + b"12345678")
    with pytest.raises(ArtefactError, match="hash"):
        descent.DescentExperiment.load(path)


def test_more_samples_help(quick):
    means = quick.alignment.mean(axis=2)
    assert (np.diff(means, axis=1) > 0).all()
    assert (quick.error[:, 0].mean(axis=1) > quick.error[:, -1].mean(axis=1) + 0.1).all()
    assert quick.trajectory_limit[3] < quick.trajectory_limit[1]


def test_refusals():
    x, y = data().sample(10, 0)
    steps = {"head_step": 1.0, "prompt_step": 1.0}
    with pytest.raises(ValueError, match="head_step = 0"):
        descent.three_steps(x, y, head_step=0.0, prompt_step=1.0)
    with pytest.raises(ValueError, match="not divisible by 3"):
        descent.three_steps(x, y, fresh=True, **steps)
    with pytest.raises(ValueError, match="unknown"):
        descent.three_steps(x, y, loss="hinge", **steps)
    with pytest.raises(ValueError, match="does not fit"):
        descent.three_steps(x[:5], y, **steps)
    with pytest.raises(ValueError, match="bound"):
        descent.population_steps(data(bound=1.0), **steps)
    with pytest.raises(ValueError, match="prompt_step <="):
        descent.population_steps(data(), head_step=1.0, prompt_step=1e4)
    with pytest.raises(ValueError, match="restart"):
        descent.population_steps(data(), loss="logistic", restart=False, **steps)
    with pytest.raises(ValueError, match="vanish"):
        descent.predicted_samples(data(zeta=0.5, delta_w=1.0), level=0.7, head_step=1.0)
    if find_spec("torch") is None:
        with pytest.raises(ModuleNotFoundError, match=r"prefix-compiler\[torch\]"):
            descent.gradient_gap(x, y, **steps)
