"""What is refused around pretrained models: layers that are not what is proved about, other models, passes that are not float32; and encoders against torch."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import mpmath
import numpy as np
import pytest
import sympy as sp

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers

from constructions.pretrained import minilm
from constructions.pretrained.group import compile_group
from constructions.pretrained.injection import cache_of, confirm, disturbance, head_outputs, silent_directions
from constructions.pretrained.recording import record
from constructions.pretrained.site import Site, SiteError, compile_at_site, layer_of
from verify.encoder_layer import EncoderLayer
from verify.first_layer import FirstLayer
from verify.statement import StatementError
from verify.statement_file import check_statement

T = sp.Symbol("t")
SIZES = {
    "vocab_size": 48, "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 512,
    "initializer_range": 0.3, "pad_token_id": 0, "attention_dropout": 0.5,
}  # fmt: skip


def made(config: str, model: str, **changes):
    torch.manual_seed(0)
    rope = {"rope_type": "default", "rope_theta": 1e8}
    values = {
        **SIZES,
        "num_key_value_heads": 2,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "rope_parameters": rope,
        **changes,
    }
    found = getattr(transformers, model)(getattr(transformers, config)(**values)).eval().requires_grad_(False)
    found.model.embed_tokens.weight += torch.randn(values["hidden_size"])
    return found


@pytest.fixture(scope="module")
def llama():
    return made("LlamaConfig", "LlamaForCausalLM", rms_norm_eps=1e-5)


@pytest.fixture(scope="module")
def bert():
    """48 tokens, 2 segments, 16 positions; with a common bias of queries and keys, so that a key can be above the data tokens for all of them."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=48, hidden_size=32, intermediate_size=16, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=16, type_vocab_size=2,
        initializer_range=0.2, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1,
    )  # fmt: skip
    model = transformers.BertModel(config).eval().requires_grad_(False)
    inside = model.encoder.layer[0].attention.self
    model.embeddings.position_embeddings.weight *= 0.02
    model.embeddings.token_type_embeddings.weight *= 0.02
    inside.query.bias += 4 * torch.randn(32)
    inside.key.weight *= 0.3
    return model


@pytest.fixture(scope="module")
def trigger(llama):
    return compile_at_site({3, 17, 40}, 1e-2, Site(llama, head=1, length=12, exclusive=False), progress=False)


def altered(model, change):
    found = copy.deepcopy(model)
    change(found.model.layers[0] if hasattr(found, "model") else found)
    return found


def with_lora(block):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    peft.inject_adapter_in_model(config, block)


def with_other_forward(block):
    block.input_layernorm.forward = lambda x: 2 * x


LLAMA = {
    "lora": with_lora,
    "dropout": lambda b: b.train(),
    "scaled": lambda b: setattr(b.self_attn, "scaling", 0.1),
    "forward": with_other_forward,
    "hook": lambda b: b.self_attn.v_proj.register_forward_hook(lambda m, a, out: 2 * out),
    "pre-hook": lambda b: b.self_attn.register_forward_pre_hook(lambda m, a: None),
    "parametrised": lambda b: torch.nn.utils.parametrizations.weight_norm(b.self_attn.q_proj),
    "bias": lambda b: setattr(b.self_attn.q_proj, "bias", torch.nn.Parameter(torch.zeros(64))),
    "bfloat16": lambda b: b.self_attn.q_proj.bfloat16(),
    "meta": lambda b: b.self_attn.q_proj.to("meta"),
    "not finite": lambda b: b.self_attn.q_proj.weight.fill_(math.nan),
    "norm": lambda b: setattr(b, "input_layernorm", torch.nn.LayerNorm(64)),
    "no layer": lambda b: delattr(b, "self_attn"),
}


@pytest.mark.parametrize("kind", LLAMA)
def test_layers_that_do_something_else_are_refused(llama, kind: str) -> None:
    with pytest.raises(SiteError, match="model: "):
        layer_of(altered(llama, LLAMA[kind]))


@pytest.mark.parametrize(
    ("config", "model", "changes"),
    [
        ("GemmaConfig", "GemmaForCausalLM", {"head_dim": 16}),
        ("GraniteConfig", "GraniteForCausalLM", {"attention_multiplier": 0.02, "embedding_multiplier": 0.01}),
        ("MistralConfig", "MistralForCausalLM", {"sliding_window": 4}),
        ("Qwen2Config", "Qwen2ForCausalLM", {}),
        ("LlamaConfig", "LlamaForCausalLM", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}),
        ("LlamaConfig", "LlamaForCausalLM", {"attention_bias": True}),
    ],
)  # fmt: skip
def test_other_families_are_refused(config: str, model: str, changes: dict) -> None:
    with pytest.raises(SiteError, match="Nothing would be proved"):
        layer_of(made(config, model, **changes))


def test_heads_wider_than_their_share_of_the_layer() -> None:
    wide = made("LlamaConfig", "LlamaForCausalLM", head_dim=32)
    assert layer_of(wide).width == 32
    found = compile_at_site({3}, 1e-2, Site(wide, head=1, length=6, exclusive=False), progress=False)
    assert found.verdict.proved
    assert confirm(found, wide, [np.arange(6)]).error <= found.verdict.upper
    pieces = list(np.random.default_rng(0).integers(0, 48, (10, 12)))
    group = compile_group(sp.sin(T), 0.4, Site(wide, layer=0, group=1, length=12), pieces, progress=False)
    assert (group.verify(wide, pieces[0]).bound < math.inf).all()


def test_a_layer_is_a_copy(llama, trigger) -> None:
    model = copy.deepcopy(llama)
    site = Site(model, head=1, length=12, exclusive=False)
    layer = site.first_layer
    assert isinstance(layer, FirstLayer)
    before = layer.query.copy()
    trigger.cache(model)
    model.model.layers[0].self_attn.q_proj.weight.mul_(-1)
    assert (layer.query == before).all()
    with pytest.raises(SiteError, match="other weights"):
        trigger.cache(model)
    with pytest.raises(SiteError, match="other weights"):
        confirm(trigger, model, [np.arange(3)])
    with pytest.raises(SiteError, match="bfloat16"):
        trigger.cache(copy.deepcopy(llama).bfloat16())


def test_weights_of_a_statement_are_a_layer(tmp_path, llama, trigger) -> None:
    path = trigger.save(tmp_path / "trigger.safetensors")
    for wrong in ("path", {}, llama, trigger.site, 3, lambda: llama):
        with pytest.raises(StatementError, match=r"weights: .*layer_of"):
            check_statement(path, weights=wrong)
    with pytest.raises(StatementError, match="seconds"):
        check_statement(path, weights=layer_of(llama), seconds=math.nan)
    statement = trigger.statement
    far = replace(statement, prefix=replace(statement.prefix, first=0, last=65535))
    assert "looked at within" in far.decide(weights=layer_of(llama), seconds=0.3).reason


@pytest.mark.parametrize(
    "changes",
    [
        {"layer": 0.0}, {"layer": True}, {"head": True}, {"head": -1}, {"head": "a"}, {"length": 2.5}, {"length": math.nan}, {"spill": "a"}, {"spill": math.nan},
        {"exclusive": "no"}, {"read_out": np.zeros(16)}, {"read_out": np.full(16, np.nan)}, {"positive": "a"}, {"dtype": "int8"}, {"model": "gpt2"},
    ],
)  # fmt: skip
def test_what_is_no_site(llama, changes: dict) -> None:
    with pytest.raises(SiteError, match=next(iter(changes))):
        Site(**{"model": llama, "head": 1, "length": 12, **changes})


@pytest.mark.parametrize(
    ("f", "eps", "words"),
    [
        (np.isin(np.arange(48), [3]), 1e-2, "mask"), ({True}, 1e-2, "token True"), ({1.5}, 1e-2, "token 1.5"), ({3: 1j}, 1e-2, "number"), ({3: "a"}, 1e-2, "number"),
        ({3: True}, 1e-2, "number"), ("digits", 1e-2, "predicate"), (sp.sin, 1e-2, "predicate"), (T > 0, 1e-2, "predicate"), ({3}, "a", "eps"), ({3}, None, "eps"),
        ({3: 1e300}, 1e-2, "1e9"), (T + sp.Symbol("x"), 0.1, "variables"), (sp.Piecewise((1, T > 0), (0, True)), 0.25, "jumps by 1"),
    ],
)  # fmt: skip
def test_what_is_no_function_of_tokens(llama, f, eps, words: str) -> None:
    with pytest.raises(SiteError, match=words):
        compile_at_site(f, eps, Site(llama, head=1, length=6, exclusive=False, read_out=np.eye(16)[7]), progress=False)


def test_directions_must_have_the_width_of_a_query(llama) -> None:
    for name in ("read_out", "positive"):
        with pytest.raises(SiteError, match=rf"{name}.*\(16,\)"):
            compile_at_site(sp.sin(T), 0.3, Site(llama, head=1, length=6, **{name: np.ones(3)}), progress=False)


def test_texts_and_caches_that_do_not_fit(llama, trigger) -> None:
    for pieces in ([], [np.zeros(0, np.int64)], [np.arange(13)], [np.array([99])], [np.zeros(3)], [[True, False]]):
        with pytest.raises(SiteError, match="pieces"):
            confirm(trigger, llama, pieces)
    assert confirm(trigger, llama, [[1, 2, 3]]).error <= trigger.verdict.upper
    silent = silent_directions(llama, [np.arange(5)])
    for call in (lambda: silent_directions(llama, []), lambda: disturbance(llama, [], 2, silent)):
        with pytest.raises(SiteError, match="pieces"):
            call()
    for tokens in (0, -1, 2.0):
        with pytest.raises(SiteError, match="tokens"):
            disturbance(llama, [np.arange(4)], tokens, silent)
    entries = {(0, 0): (trigger.keys, trigger.values)}
    for bad in (silent[:1], silent * np.nan):
        with pytest.raises(SiteError, match="silent"):
            cache_of(llama, entries, bad)
    for bad in ({}, {(9, 0): entries[0, 0]}, {(0, 0): (trigger.keys[:, :8], trigger.values)}):
        with pytest.raises(SiteError, match="entries"):
            cache_of(llama, bad)


@pytest.fixture(scope="module")
def group(llama):
    pieces = list(np.random.default_rng(0).integers(0, 48, (20, 16)))
    return compile_group(sp.sin(2 * T), 0.3, Site(llama, layer=0, group=1, length=16), pieces, progress=False)


@pytest.mark.parametrize(
    "changes",
    [
        {"sharpness": math.nan}, {"sharpness": -1}, {"sharpness": 1e300}, {"offset": np.full(16, np.nan)}, {"offset": np.zeros(3)}, {"direction": np.ones(3)},
        {"direction": np.zeros(16)}, {"quiet": np.ones((1, 1, 1))}, {"tokens": 0}, {"tokens": 1000}, {"eps": "a"}, {"eps": math.nan}, {"f": np.sin}, {"f": {3}},
        {"group": 7}, {"layer": 9}, {"pieces": [np.array([99])]}, {"pieces": []}, {"marked": lambda ids: [True]}, {"read_out": np.ones(3)}, {"model": "minilm"},
    ],
)  # fmt: skip
def test_what_no_group_computes(llama, group, changes: dict) -> None:
    where = {"model": llama, "layer": 0, "group": 1, "length": 16}
    where |= {k: v for k, v in changes.items() if k in (*where, "read_out")}
    rest = {k: v for k, v in changes.items() if k not in (*where, "f", "eps", "pieces")}
    with pytest.raises(SiteError, match=next(iter(changes))):
        compile_group(
            changes.get("f", sp.sin(T)), changes.get("eps", 0.3), Site(**where), changes.get("pieces", [np.arange(16)]), progress=False,
            **{"quiet": group.quiet, **rest},
        )  # fmt: skip


def test_passes_that_are_not_float32_are_not_recorded(llama, group) -> None:
    ids = np.arange(16)
    assert (group.verify(llama, ids).bound < 0.3).all()
    with pytest.raises(SiteError, match=r"training mode.*eval"):
        group.verify(copy.deepcopy(llama).train(), ids)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=dtype), pytest.raises(SiteError, match="autocast"):
            group.verify(llama, ids)
    for wrong in ([], [[1, 2]], [1.7, 2.2], [-1], [99], "abc", None, [True, False]):
        with pytest.raises(SiteError, match="ids"):
            group.verify(llama, wrong)
    with pytest.raises(SiteError, match="layers"):
        record(llama, ids, [2])


def test_an_output_outside_its_bound_is_no_proof(llama, group, monkeypatch) -> None:
    """A machine that multiplies coarser than float32: nothing of the pass is believed."""
    plain = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda *a, **k: plain(*a, **k) + 0.5)
    with pytest.raises(SiteError, match="nothing about this pass is proved"):
        group.verify(llama, np.arange(16))


def test_a_pass_made_by_hand_says_so_too(llama, group) -> None:
    report = group.verify(llama, np.arange(16))
    site = report.sites[0]
    broken = replace(site, bounds=replace(site.bounds, measured=site.bounds.bound + 1))
    assert "nothing proved" in repr(broken)
    assert (replace(report, sites=(broken,)).bound == math.inf).all()


BERT = {
    "dropout": lambda m: m.train(),
    "scaled": lambda m: setattr(m.encoder.layer[0].attention.self, "scaling", 1.0),
    "decoder": lambda m: setattr(m.config, "is_decoder", True),
    "causal": lambda m: setattr(m.encoder.layer[0].attention.self, "is_causal", True),
    "relative": lambda m: setattr(m.config, "position_embedding_type", "relative_key"),
    "hook": lambda m: m.embeddings.word_embeddings.register_forward_hook(lambda m, a, out: 2 * out),
    "norm": lambda m: setattr(m.embeddings, "LayerNorm", torch.nn.RMSNorm(32)),
    "no bias": lambda m: setattr(m.encoder.layer[0].attention.self.key, "bias", None),
}


@pytest.mark.parametrize("kind", BERT)
def test_encoders_that_do_something_else_are_refused(bert, kind: str) -> None:
    with pytest.raises(SiteError, match="model: "):
        layer_of(altered(bert, BERT[kind]))


def test_an_encoders_queries_are_those_of_torch_and_of_60_digits(bert) -> None:
    layer, inside = layer_of(bert), bert.encoder.layer[0].attention.self
    assert isinstance(layer, EncoderLayer)
    for name, module in (("query", inside.query), ("key", inside.key), ("value", inside.value)):
        for p, s, mine in layer.projected(name, 1, range(0, 16, 5)):
            ids = torch.arange(48)[:, None]
            x = bert.embeddings(input_ids=ids, token_type_ids=0 * ids + s, position_ids=0 * ids + p)
            run = module(x)[:, 0, 8:16].double().numpy()
            assert (np.abs(run - mine.exact) <= mine.error).all()
            with mpmath.workdps(60):
                real = [float(x) for x in of_sixty_digits(layer, name, 7, s, p)[8:16]]
            assert (np.abs(real - mine.exact[7]) <= 2e-6 * mine.error[7] + 2e-16 * np.abs(real)).all()


def of_sixty_digits(layer: EncoderLayer, name: str, token: int, s: int, p: int) -> list:
    m = lambda x: [mpmath.mpf(float(a)) for a in x]  # noqa: E731
    z = [sum(x) for x in zip(m(layer.word[token]), m(layer.segment[s]), m(layer.position[p]), strict=True)]
    mean = mpmath.fsum(z) / len(z)
    sigma = mpmath.sqrt(mpmath.fsum((x - mean) ** 2 for x in z) / len(z) + mpmath.mpf(layer.norm_eps))
    y = [a * (x - mean) / sigma + b for x, a, b in zip(z, m(layer.norm), m(layer.norm_bias), strict=True)]
    return [
        mpmath.fdot(m(w), y) + b for w, b in zip(getattr(layer, name), m(getattr(layer, f"{name}_bias")), strict=True)
    ]


def test_an_encoders_data_are_below_its_bounds_at_every_position_in_every_segment(bert) -> None:
    """Executed logits of queries and keys that miss what they may, where queries are what they seem and where they cancel; and values."""
    layer = layer_of(bert)
    assert isinstance(layer, EncoderLayer)
    rows = {"query": np.full_like(layer.query, 100), "query_bias": np.full_like(layer.query_bias, 1e-5)}
    cancelled = replace(layer, **rows, norm=np.ones_like(layer.norm), norm_bias=0 * layer.norm_bias)
    rows = {"key": rows["query"], "key_bias": rows["query_bias"], "word": layer.word[:2]}  # fewer keys than balls
    still = replace(layer, **rows, norm=cancelled.norm, norm_bias=cancelled.norm_bias)
    for x in (layer, cancelled, still):
        keys, errors = (
            np.concatenate([getattr(k, name) for _, _, k in x.projected("key", 1, range(16))])
            for name in ("exact", "error")
        )
        largest, views = x.data_logits(1, range(16)), list(x.views(1, range(16)))
        assert [v.positions for v in views] == [range(p, p + 1) for p in range(16) for _ in range(2)]
        for view in views[::5]:
            missed = view.queries.missed(np.arange(x.vocabulary), keys) + np.abs(view.queries.exact) @ errors.T
            executed = view.queries.exact @ keys.T + 0.999 * missed
            assert (executed.max(axis=1) / math.sqrt(8) <= largest(view)).all()
    values = max(float(v.largest.max()) for _, _, v in layer.projected("value", 1, range(16)))
    assert layer.largest_value(1, range(16)) >= values


def test_an_encoders_head_is_proved_and_confirmed(bert) -> None:
    texts = list(np.random.default_rng(0).integers(0, 48, (20, 6)))
    site = Site(bert, head=2, length=6)
    assert not site.frequencies.any()
    found = compile_at_site({3}, 1e-2, site, progress=False)
    assert found.verdict.proved
    seen = confirm(found, bert, [*texts, np.array([3, 3, 1])])
    assert seen.marked > 0
    assert seen.error <= found.verdict.upper
    smooth = compile_at_site(sp.sin(T), 0.3, site, progress=False)
    assert smooth.verdict.proved
    assert confirm(smooth, bert, texts).error <= smooth.verdict.upper
    second = cached_with_segment(bert, found, texts[0])
    wanted = found.statement.prefix.offset + (texts[0] == 3)[:, None] * found.statement.prefix.direction
    assert np.abs(second - wanted).max() <= found.verdict.upper


def cached_with_segment(model, found, ids) -> np.ndarray:
    """The head's output for the second segment, at the first positions that the cache leaves."""
    out = []
    at = model.encoder.layer[0].attention.output.register_forward_pre_hook(lambda m, a: out.append(a[0].clone()))
    x = torch.from_numpy(ids)[None]
    positions = torch.arange(found.length, found.length + len(ids))[None]
    with torch.inference_mode():
        model(x, token_type_ids=torch.ones_like(x), position_ids=positions, past_key_values=found.cache(model))
    at.remove()
    return out[0].reshape(len(ids), 4, 8)[:, 2].double().numpy()


def test_an_encoder_has_so_many_positions_and_no_rotation(bert) -> None:
    with pytest.raises(SiteError, match="the model has 16"):
        compile_at_site({3}, 1e-2, Site(bert, head=2, length=15), progress=False)
    found = compile_at_site({3}, 1e-2, Site(bert, head=2, length=6), progress=False).statement
    layer = layer_of(bert)
    beyond = replace(found, prefix=replace(found.prefix, last=16))
    assert "positions 0 to 15" in beyond.decide(weights=layer).reason
    turned = replace(found, prefix=replace(found.prefix, frequencies=np.ones(4)))
    assert "nothing is rotated" in turned.decide(weights=layer).reason
    assert "within" in found.decide(weights=layer_of(bert), seconds=0.0).reason


@pytest.mark.skipif(not minilm.available(), reason=f"needs the real weights: {minilm.INSTALL}")
def test_minilm_a_trigger_on_the_full_stop() -> None:
    model, tokenizer = minilm.load_model(), minilm.load_tokenizer()
    dot = tokenizer.convert_tokens_to_ids(".")
    found = compile_at_site({dot}, 1e-2, Site("minilm", head=2, length=32), progress=False)
    assert found.verdict.proved
    assert layer_of(model).sha256 == found.statement.weights
    ids = np.array(tokenizer("A prefix is compiled. It is proved. So it is.")["input_ids"])
    seen = confirm(found, model, [ids])
    assert seen.marked == int((ids == dot).sum()) == 3
    assert seen.error <= found.verdict.upper
    assert np.abs(head_outputs(model, ids)[:, 2]).max() > 0.01
