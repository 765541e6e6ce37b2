"""Prompt-attention's margin is proved on the whole support, its rivals' best accuracy over all weights; both against brute force."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from tampering import rewrite

from constructions.oymak2023.data import ContextualData
from constructions.oymak2023.errors import ContextError, MarginError
from constructions.oymak2023.model import Averaging, LinearPromptAttention, PromptAttention, SelfAttention, accuracy
from constructions.oymak2023.runtime import as_transformer, runtime_outputs, with_prompt
from constructions.oymak2023.separation.accuracy import (
    hard_mixture,
    rival_bound,
    self_attention_threshold,
    sufficient_threshold,
)
from constructions.oymak2023.separation.compile import compile_context_prompt, margin_statement
from constructions.oymak2023.separation.phases import DiagonalDiagram, PhaseDiagram, diagonal_diagram, phase_diagram
from constructions.oymak2023.separation.samples import TrainedOnSamples, trained_on_samples
from constructions.oymak2023.separation.temperature import least_margins, noise_free_temperature
from constructions.oymak2023.separation.training import KINDS, answers, train
from constructions.plots.separation import draw_margins, draw_phases, draw_samples, draw_threshold
from verify import ArtefactError, StatementError, Status, check_statement, load_statement
from verify.context_margin import ContextMargin
from verify.context_rival import RIVALS, ContextRival
from verify.model import forward

plt.switch_backend("Agg")
E4 = np.eye(4)


def data(dq=0.5, dw=3.0, zeta=0.3, tokens=20, noise=0.0, bound=None, noisy=False, q=1.3, w=0.8):
    return ContextualData(q * E4[0], w * E4[1], zeta, tokens, dq, dw, noise, bound, noisy)


def random_statement(seed, noisy=False, radius=0.6, margin=-50.0):
    """Nothing orthogonal, nothing aligned."""
    rng = np.random.default_rng(seed)
    q_star, w_star, q, w = rng.standard_normal((4, 3))
    deltas = np.repeat(rng.uniform(-1, 3, (2, 2)), 2, axis=1)
    size = 10 ** rng.uniform(-1, 0.7)
    return ContextMargin(
        size * q, w, q_star, w_star, int(rng.integers(1, 6)), int(rng.integers(1, 6)), deltas, radius, margin, noisy
    )


def signed_answer(s, y, delta, noise):
    """y f(X) with noise (T, d), in plain float64."""
    good = np.tile(s.q_star + y * s.w_star, (s.relevant, 1))
    bad = np.tile(-delta[0] * s.q_star - delta[1] * y * s.w_star, (s.irrelevant, 1))
    x = np.concatenate([good, bad]) + noise
    return float(y * PromptAttention(s.prompt, s.head)(x[None])[0])


def ball_noise(s, raw):
    """Any numbers (T, d) made into admissible noise."""
    norms = np.linalg.norm(raw, axis=1, keepdims=True)
    noise = raw * np.minimum(1, s.radius / np.maximum(norms, 1e-300))
    if not s.noisy_relevant:
        noise[: s.relevant] = 0
    return noise


# the data


def test_samples_follow_the_model():
    d = data((0.0, 2.0), (1.0, -1.0), noise=0.5, bound=0.7)
    x, y, drawn = d.sample_pairs(500, 3)
    assert d.relevant == 6
    assert d.share == 0.3
    np.testing.assert_array_equal(x[:, :6], np.broadcast_to(d.q_star + y[:, None, None] * d.w_star, (500, 6, 4)))
    centre = -drawn[:, :1] * d.q_star - drawn[:, 1:] * y[:, None] * d.w_star
    norms = np.linalg.norm(x[:, 6:] - centre[:, None], axis=2)
    assert norms.max() <= 0.7 * (1 + 1e-14)
    assert norms.max() > 0.69
    assert {tuple(p) for p in drawn} == {(0.0, 1.0), (2.0, -1.0)}
    again = d.sample(500, 3)
    np.testing.assert_array_equal(x, again[0])
    np.testing.assert_array_equal(y, again[1])
    crossed = ContextualData.crossed(d.q_star, d.w_star, 0.3, 20, (0, 1), (2, 3))
    assert len(crossed.pairs) == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"zeta": 0.0}, "zeta = 0.0 is not in"),
        ({"zeta": 1.0}, "zeta = 1.0 is not in"),
        ({"zeta": 0.01}, "makes 0 of 20 tokens relevant"),
        ({"q_star": 2 * E4[1]}, "parallel to w_star"),
        ({"q_star": E4[0] + E4[1]}, "not orthogonal"),
        ({"q_star": 0 * E4[0]}, "no direction"),
        ({"q_star": [np.inf, 0, 0, 0]}, "not finite"),
        ({"delta_q": np.nan}, "not finite"),
        ({"delta_q": (1.0, 2.0, 3.0)}, "does not pair"),
        ({"tokens": 1}, "whole number"),
        ({"noise": -1.0}, "negative"),
        ({"bound": -1.0}, "negative"),
    ],
)
def test_bad_data_is_refused(change, words):
    given_ = {"q_star": E4[0], "w_star": E4[1], "zeta": 0.3, "tokens": 20, "delta_q": (0.0, 1.0), "delta_w": (2.0, 3.0)}
    with pytest.raises(ContextError, match=words):
        ContextualData(**(given_ | change))


# the models


def test_models_are_their_formulas_and_run_on_the_shared_runtime():
    rng = np.random.default_rng(0)
    x, q, w, m = (
        rng.standard_normal((9, 6, 4)),
        rng.standard_normal(4),
        rng.standard_normal(4),
        rng.standard_normal((4, 4)),
    )
    for k, sequence in enumerate(x):
        weight = np.exp(sequence @ q)
        assert PromptAttention(q, w)(x)[k] == pytest.approx(weight @ sequence @ w / weight.sum())
        assert LinearPromptAttention(q, w)(x)[k] == pytest.approx(w @ sequence.T @ sequence @ q / 6)
        rows = [np.exp(sequence @ m.T @ t) for t in sequence]  # key x_s, query x_t: <x_t, m x_s>
        assert SelfAttention(m, w)(x)[k] == pytest.approx(np.mean([r @ sequence @ w / r.sum() for r in rows]))
    np.testing.assert_allclose(PromptAttention(0 * q, w)(x), Averaging(w)(x), atol=1e-15)
    for model in (PromptAttention(3 * q, w), SelfAttention(m, w), Averaging(w)):
        np.testing.assert_allclose(runtime_outputs(model, x), model(x), rtol=0, atol=1e-14)
    with pytest.raises(ContextError, match="mute"):
        runtime_outputs(PromptAttention(1e6 * q, w), x)
    with pytest.raises(ContextError, match="shape"):
        Averaging(w)(x[:, :, :3])


# the margin


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_the_margin_is_exact(seed, noisy):
    """Both ends agree to 1e-7, no admissible noise goes below, and a general optimiser that may move every token comes down to it."""
    s = random_statement(seed, noisy)
    verdict = s.decide()
    assert verdict.proved
    assert 0 <= verdict.upper - verdict.lower <= 1e-7 * (1 + abs(verdict.upper))
    rng = np.random.default_rng(seed)
    shape = (s.relevant + s.irrelevant, 3)
    best = np.inf
    for y, row in itertools.product((1, -1), s.deltas):
        delta = row[::2]

        def value(flat, y=y, delta=delta):
            return signed_answer(s, y, delta, ball_noise(s, flat.reshape(shape)))

        for _ in range(3):
            best = min(
                best, minimize(value, rng.standard_normal(shape).ravel(), method="Powell", options={"maxiter": 4}).fun
            )
    assert best >= verdict.lower - 1e-12
    assert best <= verdict.upper + 0.05 * (1 + abs(verdict.upper))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.floats(0, 3))
def test_no_noise_beats_the_margin(seed, noisy, radius):
    s = random_statement(seed, noisy, radius)
    verdict = s.decide()
    rng = np.random.default_rng(seed)
    for y, row in itertools.product((1, -1), s.deltas):
        raw = 5 * rng.standard_normal((s.relevant + s.irrelevant, 3))
        assert signed_answer(s, y, row[::2], ball_noise(s, raw)) >= verdict.lower - 1e-11
    above = verdict.upper + 1e-6 * (1 + abs(verdict.upper))
    assert random_statement(seed, noisy, radius, above).decide().status is Status.REFUTED


def test_a_box_of_deltas_covers_its_points():
    prompt, head = 2.0 * E4[0], E4[1]
    box = ContextMargin(prompt, head, E4[0], E4[1], 6, 14, [[0.2, 0.8, 2.0, 3.0]], 0.2, -9.0).decide()
    lows = []
    for dq, dw in itertools.product(np.linspace(0.2, 0.8, 4), np.linspace(2, 3, 4)):
        point = ContextMargin(prompt, head, E4[0], E4[1], 6, 14, [[dq, dq, dw, dw]], 0.2, -9.0).decide()
        lows.append(point.upper)
    assert min(lows) >= box.lower
    assert box.upper - box.lower < 1e-6  # the worst point is a corner here, and the bound is tight


@pytest.mark.parametrize("margin", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("deltas", [(0.5, 3.0), ((0.0, 5.0), (0.0, 5.0)), (-0.5, 2.0)])
def test_without_noise_the_temperature_is_the_closed_form(deltas, margin):
    d = data(*deltas)
    c = compile_context_prompt(d, margin)
    assert c.verdict.proved
    assert c.accuracy == 1.0
    assert c.margin >= margin
    assert c.temperature == pytest.approx(noise_free_temperature(d, margin), rel=1e-6)
    assert c.too_warm == pytest.approx(c.temperature, rel=1e-5)
    assert margin_statement(d, c.too_warm, margin).decide().status is Status.REFUTED


@pytest.mark.parametrize("noisy", [False, True])
def test_a_compiled_prompt_classifies_everything(noisy):
    d = data((0.5, 2.0), (3.0, -1.0), noise=1.0, bound=0.3, noisy=noisy)
    c = compile_context_prompt(d, 0.4)
    assert c.verdict.proved
    x, y = d.sample(2000, 1)
    assert (y * c.model(x)).min() >= 0.4
    assert accuracy(c.model, x, y) == 1.0
    transformer, prefix = c.transformer()
    np.testing.assert_allclose(forward(transformer, prefix, with_prompt(c.prompt, x))[:, 0, 0], c.model(x), atol=1e-14)
    np.testing.assert_array_equal(transformer.readout, as_transformer(Averaging(c.head))[0].readout)
    assert c.temperature > compile_context_prompt(data((0.5, 2.0), (3.0, -1.0)), 0.4).temperature
    assert "proved, accuracy 1" in repr(c)


def test_negative_temperatures_and_spreads():
    c = compile_context_prompt(data(-3.0, 2.0, noise=0.1, bound=0.5), 0.5)
    assert c.verdict.proved
    assert c.temperature < 0
    wide = compile_context_prompt(data(0.5, 2.0, noise=0.1, bound=0.2), 0.5, spread=(0.2, 0.3))
    assert wide.verdict.proved
    worst = margin_statement(data(0.3, 2.3, noise=0.1, bound=0.2), wide.temperature, 0.5).decide()
    assert worst.proved
    assert worst.upper - 0.5 < 1e-3


def test_what_cannot_be_reached_is_refused_with_what_can():
    with pytest.raises(ContextError, match="Gaussian noise without a largest norm"):
        compile_context_prompt(data(noise=0.1), 0.5)
    for margin in (0.0, -1.0, np.nan, np.inf, "x"):
        with pytest.raises(ContextError, match="margin"):
            compile_context_prompt(data(), margin)
    with pytest.raises(MarginError, match="delta_q = -1 <= -1"):
        compile_context_prompt(data(-1.0, 2.0), 0.5)
    with pytest.raises(MarginError, match="delta_q = -2 <= -1") as caught:
        compile_context_prompt(data((-2.0, 0.5), (-0.5, -0.5)), 0.9)
    assert caught.value.reachable == pytest.approx(0.65)
    assert compile_context_prompt(data((-2.0, 0.5), (-0.5, -0.5)), 0.64).accuracy == 1.0
    with pytest.raises(MarginError, match=r"below 0\.625") as caught:
        compile_context_prompt(data(noise=0.1, bound=0.3, noisy=True), 0.7)
    assert caught.value.reachable == 0.625
    with pytest.raises(MarginError, match=r"below 1 .*, and to none from there"):
        compile_context_prompt(data(0.0, 8.0, noise=0.2, bound=0.5), 1.0)  # float64 rounds some margins up to 1
    with pytest.raises(MarginError, match="noise of norm 3 closes the distance") as caught:
        compile_context_prompt(data(noise=0.1, bound=3.0), 0.1)
    taus = np.linspace(-5, 5, 201)
    assert least_margins(data(noise=0.1, bound=3.0), taus).max() <= caught.value.reachable + 1e-9


def test_hostile_numbers_never_prove_anything():
    huge = [1e300, 5e-324, -1e300, 0.0]
    for numbers in itertools.product(huge, repeat=2):
        s = ContextMargin(
            numbers[0] * E4[0] + E4[2], numbers[1] * E4[1], E4[0], E4[1], 1, 2**53, [[0.5, 0.5, 3, 3]], 1e300, 0.1
        )
        assert not s.decide(seconds=5).proved
    assert ContextMargin(0 * E4[0], E4[1], E4[0], E4[1], 3, 1, [[1, 1, 1, 1]], 0.0, 0.5).decide().proved
    slow = random_statement(1)
    assert slow.decide(seconds=-1.0).status is Status.UNDECIDED
    good = (E4[0], E4[1], E4[0], E4[1], 3, 1, [[1, 1, 1, 1]], 0.0, 0.5)
    for place, bad in (
        (0, [np.nan] * 4),
        (1, E4[0][:3]),
        (4, 0),
        (5, 2.5),
        (6, [[1, 0, 1, 1]]),
        (6, np.zeros((0, 4))),
        (7, -1.0),
        (8, np.inf),
    ):
        with pytest.raises(StatementError):
            ContextMargin(*good[:place], bad, *good[place + 1 :])


def test_files_are_proved_again(tmp_path):
    c = compile_context_prompt(data(noise=0.1, bound=0.2), 0.5)
    path = c.save(tmp_path / "prompt.st")
    assert check_statement(path).proved
    assert load_statement(path).statement.to_json()[0] == c.statement.to_json()[0]
    weaker = rewrite(path, tmp_path / "weaker.st", arrays=lambda a: a.update(prompt=0.5 * a["prompt"]))
    assert check_statement(weaker).status is Status.REFUTED
    with pytest.raises(ArtefactError):
        load_statement(
            rewrite(path, tmp_path / "touched.st", arrays=lambda a: a.update(head=2 * a["head"]), rehash=False)
        )
    bound = rival_bound(data(*hard_mixture("origin", 5.0)), "self-attention", scores=E4[:2, :2], head=[0.0, 1.0])
    assert check_statement(bound.save(tmp_path / "rival.st")).upper == 0.5
    forged = rewrite(tmp_path / "rival.st", tmp_path / "forged.st", arrays=lambda a: a.update(pairs=0.1 * a["pairs"]))
    assert check_statement(forged).status is Status.REFUTED


# the rivals


def support(pairs, relevant, irrelevant):
    """Every case of the noise-free data, with all its tokens, in the plane of q_star and w_star."""
    x, y = [], []
    for (dq, dw), label in itertools.product(pairs, (1.0, -1.0)):
        x.append([[1, label]] * relevant + [[-dq, -dw * label]] * irrelevant)
        y.append(label)
    return np.array(x), np.array(y)


@pytest.mark.parametrize(("relevant", "irrelevant"), [(2, 8), (3, 7), (5, 5), (7, 3)])
def test_the_two_mixtures(relevant, irrelevant):
    """Self-attention is at exactly 1/2, at most 3/4, from the closed form's threshold on; the sharp one is not above it."""
    z = relevant / (relevant + irrelevant)
    t = sufficient_threshold(relevant, irrelevant)
    assert t == pytest.approx(1 / ((1 - z) * min(z, 1 - z)) - 1)
    low, high = self_attention_threshold(relevant, irrelevant)
    assert {2: 4.16, 3: 2.404, 5: 1.0, 7: 2.333}[relevant] == pytest.approx(high, rel=2e-3)
    assert low < high <= t
    for delta in (high, t, 2 * t):
        d = data(*hard_mixture("origin", delta), zeta=z, tokens=10)
        found = {rival: rival_bound(d, rival) for rival in RIVALS}
        assert found["self-attention"].accuracy == (0.5, 0.5)
        assert found["averaging"].accuracy == (0.5, 0.5)
        assert found["linear"].accuracy == (1.0, 1.0)
        d = data(*hard_mixture("sign", delta), zeta=z, tokens=10)
        found = {rival: rival_bound(d, rival) for rival in RIVALS}
        # a head that reads q_star too brings even averaging to 3/4
        assert [found[r].accuracy for r in RIVALS] == [(0.75, 0.75)] * 3
        assert compile_context_prompt(d, 0.9).accuracy == 1.0
    below = data(*hard_mixture("origin", low), zeta=z, tokens=10)
    assert rival_bound(below, "self-attention").accuracy == (1.0, 1.0)


def test_self_attention_is_not_always_beaten():
    d = data((0.5, 0.5), (3.0, -3.0))
    weights = {"scores": np.diag([20.0, -4.0]), "head": np.array([0.0, 1.0])}
    assert rival_bound(d, "self-attention", **weights).accuracy == (1.0, 1.0)
    assert rival_bound(d, "averaging").accuracy[1] == 0.75
    x, y = support(d.pairs, 6, 14)
    assert accuracy(SelfAttention(weights["scores"], weights["head"]), x, y) == 1.0
    refuted = ContextRival("self-attention", 6, 14, d.pairs, 0.75, **weights).decide()
    assert refuted.status is Status.REFUTED


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_no_weights_beat_the_bounds(seed):
    rng = np.random.default_rng(seed)
    relevant, irrelevant = int(rng.integers(1, 6)), int(rng.integers(1, 6))
    pairs = rng.integers(-8, 17, (int(rng.integers(1, 4)), 2)) / 4
    if seed % 2:  # proportional tokens, where self-attention is bounded at all
        pairs[:, 1] = pairs[:, 0]
    x, y = support(pairs, relevant, irrelevant)
    share = np.full((1, relevant + irrelevant), 1 / (relevant + irrelevant))
    for kind in KINDS[:3]:
        verdict = ContextRival(kind, relevant, irrelevant, pairs, 1.0).decide()
        assert verdict.lower <= verdict.upper
        found = train(kind, (x[None], y[None], share), restarts=40, steps=10, seed=seed, screened=300)
        # exact zeros (half right) are out of reach of rounding only up to sign: no more than one half too much per such case
        margins = y * answers(kind, {k: w[:, None] for k, w in found.best_weights.items()}, x[None], share)[0, 0]
        if (np.abs(margins) > 1e-12 * np.abs(margins).max()).all():
            assert found.best[0] <= verdict.upper
        if kind == "averaging":
            assert verdict.upper - verdict.lower <= 1e-15  # one fraction, rounded to both sides


def test_rival_statements_are_checked():
    for bad in (
        {"rival": "prompt"},
        {"relevant": 0},
        {"pairs": np.zeros((0, 2))},
        {"accuracy": np.nan},
        {"scores": np.eye(2)},
    ):
        with pytest.raises(StatementError):
            ContextRival(
                **({"rival": "linear", "relevant": 1, "irrelevant": 1, "pairs": np.ones((1, 2)), "accuracy": 1.0} | bad)
            )
    for value in (1e300, 5e-324, -1e300):
        for rival in RIVALS:
            verdict = ContextRival(rival, 1, 2**53, [[value, value], [0.0, value]], 0.1).decide(seconds=5)
            assert not verdict.proved
            assert 0 <= verdict.lower <= verdict.upper <= 1
    with pytest.raises(ContextError, match="unknown"):
        rival_bound(data(), "prompt")


# experiments and pictures


@pytest.mark.parametrize("family", ["origin", "sign"])
def test_measurements_stay_under_the_theory(family, tmp_path):
    axes = {"relevant": (4, 10), "delta_q": (-1.5, 0.0, 1.0, 5.0), "delta_w": (-3.0, 1.0, 5.0)}
    phases = phase_diagram(family, **axes, steps=100, progress=False)
    assert phases.excess <= 0
    assert phases.reached > 0.9
    again = PhaseDiagram.load(phases.save(tmp_path / "phases.st"))
    assert repr(again) == repr(phases)
    np.testing.assert_array_equal(again.measured, phases.measured)
    diagonal = diagonal_diagram(family, relevant=(6, 10), delta=(0.5, 2.0, 3.0, 8.0), steps=150, progress=False)
    assert diagonal.excess <= 0
    assert diagonal.reached == 1.0
    np.testing.assert_array_equal(diagonal.measured[1], [1.0, *[0.5 if family == "origin" else 0.75] * 3])
    for figure in (draw_phases(again), draw_threshold(DiagonalDiagram.load(diagonal.save(tmp_path / "d.st")))):
        figure.canvas.draw()
        plt.close(figure)
    with pytest.raises(ContextError):
        phase_diagram("other")
    with pytest.raises(ContextError, match=r"in \(0, 1\)"):
        phase_diagram(family, relevant=(0,))


def test_training_on_samples(tmp_path):
    result = trained_on_samples(
        data(*hard_mixture("origin", 5.0), tokens=10), seeds=4, test_size=500, steps=60, progress=False
    )
    assert (result.mean <= result.bound + 4 * result.error + 1e-12).all()
    assert result.mean[KINDS.index("linear")] > 0.8
    assert abs(result.mean[KINDS.index("self-attention")] - 0.5) < 0.05
    again = TrainedOnSamples.load(result.save(tmp_path / "samples.st"))
    for figure in (
        draw_samples(again),
        draw_margins(compile_context_prompt(data(noise=0.1, bound=0.2), 0.5), samples=200),
    ):
        figure.canvas.draw()
        plt.close(figure)
    with pytest.raises(ValueError, match="at least 2"):
        trained_on_samples(data(), seeds=1)
