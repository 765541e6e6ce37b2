"""What no prompt can do: floors against brute force, random and trained prompts, attaining prompts, honest verdicts, named errors."""

import importlib.util
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from constructions.wang2023.floor import (
    AttentionLayer,
    FeedForward,
    FloorError,
    prompt_floor,
    random_layer,
    unmemorable,
)
from constructions.wang2023.floor.forward import errors, summary
from constructions.wang2023.floor.tuning import tune_prompts
from verify import StatementError, Status, check_statement, load_statement
from verify.artefact import ArtefactError


def examples_of(d, count, seed, tokens=3):
    rng = np.random.default_rng(seed)
    last = rng.standard_normal(d)
    return [np.vstack([rng.standard_normal((tokens - 1, d)), last]) for _ in range(count)], rng


def random_case(d, d_v, count, seed, heads=1):
    layer = random_layer(d, d_v, seed=seed, heads=heads)
    examples, rng = examples_of(d, count, seed)
    return prompt_floor(layer, examples, 2 * rng.standard_normal((count, layer.outputs.shape[1])))


KINDS = {
    "free pair": lambda: unmemorable(random_layer(6, 3, seed=1), seed=2),
    "free five": lambda: random_case(6, 3, 5, 3),
    "free, an infimum at t = 0": lambda: random_case(8, 4, 2, 2),
    "tied pair": lambda: unmemorable(random_layer(5, 5, seed=1), seed=2),
    "tied three": lambda: random_case(4, 4, 3, 1),
    "heads": lambda: unmemorable(random_layer(8, 4, seed=1, heads=2), seed=2),
    "heads, unequal masses": lambda: random_case(8, 4, 2, 5, heads=2),
    "tall output": lambda: with_output(6, 3, 8, 3),
    "wide output": lambda: with_output(6, 5, 3, 4),
}


def with_output(d, d_v, d_out, count):
    layer = random_layer(d, d_v, seed=7)
    examples, rng = examples_of(d, count, 8)
    layer = replace(layer, output=rng.standard_normal((d_out, d_v)), output_bias=rng.standard_normal(d_out))
    return prompt_floor(layer, examples, rng.standard_normal((count, d_out)))


@pytest.fixture(scope="module", params=list(KINDS))
def case(request):
    return KINDS[request.param]()


def test_lower_and_upper_meet(case):
    lower, upper = case.floor
    assert case.verdict.proved
    assert 0 < lower <= upper
    tied = case.layer.width == case.layer.value_width
    assert case.gap <= (1e-3 if case.statement.hints.cuts is not None else 1e-5 if tied else 1e-6)


def test_no_random_prompt_is_below(case):
    rng = np.random.default_rng(0)
    for _ in range(150):
        length = int(rng.integers(0, 65))
        prompt = rng.standard_normal((length, case.layer.width)) * 10 ** rng.uniform(-3, 6)
        if rng.random() < 0.5 and case.length <= 64:  # near the best prompt
            prompt = case.prompt + rng.standard_normal(case.prompt.shape) * 10 ** rng.uniform(-9, 0)
        assert case.error(prompt) >= case.floor[0] * (1 - 1e-9)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_no_optimised_prompt_is_below(case, length):
    rng = np.random.default_rng(length)
    d = case.layer.width

    def loss(p):
        e = errors(case.layer, p.reshape(length, d), case.examples, case.targets)
        return float((e**8).sum() ** 0.125)

    found = minimize(loss, rng.standard_normal(length * d), method="L-BFGS-B", options={"maxiter": 60}).x
    assert case.error(found.reshape(length, d)) >= case.floor[0] * (1 - 1e-9)


def test_the_built_prompt_attains_the_upper_bound(case):
    if case.length <= 10_000:
        assert case.error(case.prompt) == pytest.approx(case.floor[1], rel=1e-6)
    tokens, counts = case.tokens
    assert tokens.shape == (len(counts), case.layer.width)
    assert case.length == counts.sum()


def test_repr_and_file(case, tmp_path):
    assert repr(case).startswith("<PromptFloor proved")
    assert "\n" not in repr(case)
    path = case.save(tmp_path / "floor.st")
    again = load_statement(path)
    assert again.verdict == case.verdict
    assert check_statement(path) == case.verdict
    assert "every prompt of every length" in again.statement.sentence
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    path.write_bytes(bytes(raw))
    with pytest.raises(ArtefactError, match="sha256"):
        load_statement(path)


@given(st.integers(0, 10**6), st.sampled_from([2, 3, 6]))
@settings(max_examples=40, deadline=None)
def test_closed_form_against_brute_force(seed, d_v):
    """Two examples: the least of |s B + (1 - s) A| over a grid of s, that is of every mass, is the certified floor."""
    r = random_case(d_v + 2, d_v, 2, seed)
    s = summary(r.layer, r.examples)
    z = r.targets - s.constant
    a = s.mean[:, 0] @ r.layer.value[0].T
    mass = np.exp(s.log_mass[:, 0])
    first, last = (z[0] - z[1]) / 2, (mass[0] * (z[0] - a[0]) - mass[1] * (z[1] - a[1])) / mass.sum()
    share = np.linspace(0, 1, 20001)[:, None]
    brute = np.linalg.norm((1 - share) * first + share * last, axis=1).min()
    assert r.floor[0] <= brute * (1 + 1e-12)
    assert r.floor[1] >= brute - 1e-4
    assert r.gap <= 1e-6


@cache
def small_floor(d_v, seed):
    return unmemorable(random_layer(3, d_v, seed=seed), seed=seed)


@given(st.integers(0, 10**6), st.integers(1, 6), st.floats(-3, 6), st.booleans())
@settings(max_examples=60, deadline=None)
def test_no_prompt_at_all(seed, length, magnitude, tied):
    r = small_floor(3 if tied else 2, seed % 7)
    prompt = np.random.default_rng(seed).standard_normal((length, 3)) * 10**magnitude
    assert r.error(prompt) >= r.floor[0] * (1 - 1e-9)


def test_the_entropy_costs_something():
    """W_V invertible: the floor is strictly above the one without the tie."""
    layer = random_layer(6, 6, seed=4)
    r = unmemorable(layer, seed=1)
    s = summary(layer, r.examples)
    z, a, mass = r.targets - s.constant, s.mean[:, 0] @ layer.value[0].T, np.exp(s.log_mass[:, 0])
    unconstrained = min(
        np.linalg.norm(
            (1 - x) * (z[0] - z[1]) / 2 + x * (mass[0] * (z[0] - a[0]) - mass[1] * (z[1] - a[1])) / mass.sum()
        )
        for x in np.linspace(0, 1, 1001)
    )
    assert r.floor[0] > unconstrained * 1.0001
    assert r.gap <= 1e-5


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh", "gelu", "identity"])
@pytest.mark.parametrize("heads", [1, 2])
def test_residual_feed_forward(activation, heads):
    rng = np.random.default_rng(1)
    plain = random_layer(8, 4, seed=1, heads=heads)
    d = plain.outputs.shape[1]
    first, second = rng.standard_normal((12, d)), rng.standard_normal((d, 12))
    first, second = first / np.linalg.norm(first, 2), second * 0.4 / np.linalg.norm(second, 2)
    block = FeedForward(first, second, rng.standard_normal(12), rng.standard_normal(d), activation)
    r = unmemorable(replace(plain, feedforward=block), seed=2)
    lower, upper = r.floor
    lipschitz = r.verdict.numbers["feedforward_lipschitz"]
    assert 0.4 <= lipschitz <= 0.4521
    assert lower == pytest.approx((1 - lipschitz) * r.verdict.numbers["attention_floor"], rel=1e-6)
    assert lower <= upper <= (1 + lipschitz) * r.verdict.numbers["attention_floor"] * (1 + 1e-6)
    own = prompt_floor(r.layer, r.examples, r.targets)  # the inverse by Banach's iteration
    assert own.floor[0] == pytest.approx(lower, rel=1e-6)
    for _ in range(30):
        assert r.error(rng.standard_normal((4, 8))) >= lower
    steep = replace(plain, feedforward=replace(block, second=second * 4))
    bad = unmemorable(steep, seed=2)
    assert bad.verdict.status is Status.UNDECIDED
    assert "not below 1" in bad.verdict.reason
    assert bad.floor[1] < np.inf


def test_feed_forward_without_residual():
    rng = np.random.default_rng(3)
    square = FeedForward(*rng.standard_normal((2, 4, 4)), activation="leaky_relu", residual=False, slope=0.5)
    r = unmemorable(replace(random_layer(8, 4, seed=1), feedforward=square), seed=2)
    assert r.verdict.proved
    assert 0 < r.floor[0] < r.floor[1]
    for change, words in (
        ({"activation": "relu"}, "invertible activation"),
        ({"first": np.ones((4, 4))}, "'first' is not proved injective"),
    ):
        bad = unmemorable(replace(r.layer, feedforward=replace(square, **change)), seed=2)
        assert bad.verdict.status is Status.UNDECIDED
        assert words in bad.verdict.reason


def test_degenerate_examples():
    layer = random_layer(6, 3, seed=1)
    (x, other), rng = examples_of(6, 2, 0)
    y = rng.standard_normal(3)
    same = prompt_floor(layer, [x, x], np.stack([y, y]))
    assert same.verdict.proved
    assert same.floor[0] == 0
    assert same.floor[1] < 1e-9
    apart = prompt_floor(layer, [x, x], np.stack([y, y + 1]))
    assert apart.floor[0] == pytest.approx(np.sqrt(3) / 2, rel=1e-7)
    own = prompt_floor(layer, [x, other], np.stack([errors_free_output(layer, x), errors_free_output(layer, other)]))
    assert own.floor[1] < 1e-9  # what the layer does anyway


def errors_free_output(layer, x):
    s = summary(layer, [x])
    return s.mean[0, 0] @ layer.value[0].T @ layer.outputs[0].T + s.constant


def test_named_errors():
    good = random_layer(6, 3, seed=1)
    examples, rng = examples_of(6, 2, 0)
    targets = rng.standard_normal((2, 3))
    singular = good.value.copy()
    singular[0, 2] = singular[0, 0] + singular[0, 1]
    with pytest.raises(FloorError, match=r"head 0, W_V: rank 2 of 3.*full rank") as caught:
        prompt_floor(replace(good, value=singular), examples, targets)
    assert caught.value.assumption == "W_V has full rank"
    with pytest.raises(FloorError, match="kappa is not in the row space"):
        prompt_floor(replace(good, query=np.zeros_like(good.query)), examples, targets)
    inside = replace(good, key=np.broadcast_to(good.value[0].sum(axis=0), (1, 6, 6)))
    with pytest.raises(FloorError, match="row space of W_V"):
        prompt_floor(inside, examples, targets)
    with pytest.raises(FloorError, match="kappa is not 0"):
        unmemorable(replace(random_layer(4, 4, seed=1), key=np.zeros((1, 4, 4))), seed=0)
    with pytest.raises(StatementError, match=r"value: entry \(0, 1, 2\) is nan"):
        AttentionLayer(good.query, good.key, np.where(np.arange(18).reshape(1, 3, 6) == 8, np.nan, good.value))
    with pytest.raises(StatementError, match=r"examples\[1\]: its last token differs"):
        prompt_floor(good, [examples[0], examples[1] + 1], targets)
    with pytest.raises(StatementError, match="targets: shape"):
        prompt_floor(good, examples, targets[:1])
    with pytest.raises(StatementError, match="residual"):
        replace(good, residual=True)
    with pytest.raises(StatementError, match="activation"):
        FeedForward(np.eye(3), np.eye(3), activation="softplus")
    with pytest.raises(StatementError, match="context"):
        unmemorable(good, seed=0, context=0)


@pytest.mark.parametrize("seed", range(12))
def test_extreme_numbers_are_refused_by_name_or_bounded(seed):
    rng = np.random.default_rng(seed)
    heads, d, d_v, count = (int(k) for k in rng.integers(1, 5, 4))
    scale = [float(x) for x in 10.0 ** rng.choice([-150, -5, 0, 0, 0, 5, 150], size=6)]
    query, key, value = (rng.standard_normal((heads, k, d)) * x for k, x in zip((d, d, d_v), scale, strict=False))
    layer = AttentionLayer(query, key, value)
    last = rng.standard_normal(d) * scale[3]
    examples = [np.vstack([rng.standard_normal((2, d)) * scale[4], last]) for _ in range(count)]
    try:
        r = prompt_floor(layer, examples, rng.standard_normal((count, heads * d_v)) * scale[5])
    except FloorError as error:
        understood = error.assumption != ""
    else:
        understood = 0 <= r.floor[0] <= r.floor[1] and "contradict" not in r.verdict.reason
    assert understood


def test_a_hundred_floors():
    """d = 4 ... 64 with d_v < d: every floor proved, to 1e-6; W_V invertible: to 1e-3 (here much closer)."""
    for k in range(25):
        d = (4, 8, 16, 32, 64)[k % 5]
        r = unmemorable(random_layer(d, max(1, d * (1 + k % 4) // 5), seed=k), seed=k)
        assert r.verdict.proved
        assert r.floor[0] > 0
        assert r.gap <= 1e-6
    for k in range(4):
        d = (4, 8, 16, 32)[k]
        r = unmemorable(random_layer(d, d, seed=k), seed=k)
        assert r.verdict.proved
        assert r.floor[0] > 0
        assert r.gap <= 1e-3


def test_the_floor_is_most_of_the_targets_distance():
    r = unmemorable(random_layer(16, 8, seed=0), seed=0, contrast=2.0)
    assert r.floor[0] > 0.97 * np.linalg.norm(r.targets[0] - r.targets[1]) / 2


needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is an extra")


@needs_torch
def test_from_torch_and_tuning():
    import matplotlib
    import torch

    from constructions.plots.floor import draw_curves, draw_rays
    from constructions.wang2023.floor.from_torch import layer_from_torch

    matplotlib.use("Agg")
    torch.manual_seed(0)
    module = torch.nn.MultiheadAttention(8, 2, batch_first=True).double()
    with torch.no_grad():
        module.in_proj_bias.normal_()
    r = unmemorable(layer_from_torch(module), seed=1)
    for x, y in zip(r.examples, r.targets, strict=True):
        tokens = torch.from_numpy(np.concatenate([r.prompt, x]))[None]
        assert np.linalg.norm(module(tokens, tokens, tokens)[0][0, -1].detach().numpy() - y) <= r.floor[1] * (1 + 1e-9)
    encoder = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, activation="gelu").double()
    with pytest.raises(FloorError, match="LayerNorm"):
        layer_from_torch(encoder)
    encoder.norm1 = encoder.norm2 = torch.nn.Identity()
    with torch.no_grad():
        encoder.linear2.weight *= 0.3
    both = unmemorable(layer_from_torch(encoder), seed=1)
    assert both.verdict.proved
    assert both.floor[0] > 0
    tokens = torch.from_numpy(np.concatenate([both.prompt, both.examples[0]]))[None]
    assert np.linalg.norm(encoder(tokens)[0, -1].detach().numpy() - both.targets[0]) <= both.floor[1] * (1 + 1e-9)
    single = unmemorable(random_layer(6, 3, seed=1), seed=2)
    curves = tune_prompts(single, (1, 4), seed=0, starts=2, steps=300)
    assert single.floor[0] <= curves.best <= 1.05 * single.floor[1]
    assert len(draw_curves(single, curves).axes) == len(draw_rays(single).axes) == 1
    with pytest.raises(ValueError, match="one head"):
        draw_rays(r)


@needs_torch
def test_both_engines_take_the_same_steps():
    r = unmemorable(random_layer(6, 3, seed=0, heads=2), seed=0)
    one, two = (tune_prompts(r, (1, 3), seed=0, starts=2, steps=50, engine=e) for e in ("numpy", "torch"))
    np.testing.assert_allclose(one.errors, two.errors, rtol=1e-9)
    np.testing.assert_allclose(one.prompts[1], two.prompts[1], rtol=1e-6)


def test_tuning_without_torch_stops_at_the_floor():
    r = unmemorable(random_layer(6, 3, seed=1), seed=2)
    curves = tune_prompts(r, (1, 4), seed=0, starts=2, steps=300, engine="numpy")
    assert r.floor[0] <= curves.best <= 1.05 * r.floor[1]
    assert (np.diff(curves.errors, axis=1) <= 0).all()
    block = FeedForward(0.1 * np.eye(3), np.eye(3), activation="tanh")
    with pytest.raises(ValueError, match="feed-forward"):
        tune_prompts(unmemorable(replace(r.layer, feedforward=block), seed=0), (1,), seed=0, engine="numpy")
    with pytest.raises(ValueError, match="engine"):
        tune_prompts(r, (1,), seed=0, engine="jax")


def test_the_gradient_is_that_of_the_loss():
    """Against differences of the largest error of one example alone, which the loss then is."""
    from constructions.wang2023.floor.descent import _loss
    from constructions.wang2023.floor.forward import summary

    r = unmemorable(random_layer(5, 2, seed=0, heads=2), seed=0)
    s = summary(r.layer, r.examples)
    values = np.einsum("hvd,nhd->nhv", r.layer.value, s.mean)
    prompt = np.random.default_rng(0).standard_normal((1, 3, 5))
    slope = _loss(r.layer, s, values, r.targets, prompt, 1e6)[1]
    for t, i in [(0, 0), (1, 3), (2, 4)]:
        step = np.zeros_like(prompt)
        step[0, t, i] = 1e-6
        ends = [_loss(r.layer, s, values, r.targets, prompt + sign * step, 1e6)[0][0] for sign in (1, -1)]
        assert slope[0, t, i] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-7)


def test_without_torch(monkeypatch):
    from constructions.wang2023.floor import tuning

    monkeypatch.setattr(tuning, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'prefix-compiler\[torch\]'"):
        tuning.tune_prompts(KINDS["free pair"](), seed=0)
