"""One head of a later layer has no prefix to itself, and no head is mixed with what it did before: refused, with the numbers."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

pytest.importorskip("torch")
pytest.importorskip("transformers")

from constructions.pretrained.exclusive import exclusivity
from constructions.pretrained.group import compile_group
from constructions.pretrained.site import Site, SiteError, compile_at_site

T = sp.Symbol("t")


@pytest.fixture(scope="module")
def llama():
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=48, hidden_size=64, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-5,
        initializer_range=0.3,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    model.model.embed_tokens.weight += torch.randn(64)
    return model


def texts():
    return list(np.random.default_rng(0).integers(0, 48, (20, 16)))


def demands(queries, own):
    return exclusivity(queries, np.zeros(len(queries)), own, share=0.01, spill=1e-3)


def test_queries_on_either_side_of_a_plane_have_a_key():
    """<z, q> >= log 100 on one side and <= -log 1000 on the other: scale z."""
    rng = np.random.default_rng(1)
    q = rng.normal(size=(400, 6))
    own = q[:, 0] > 0
    q[:, 0] += np.where(own, 0.1, -0.1)
    assert demands(q, own).missed == 0
    assert "one key" in str(demands(q, own))


def test_a_query_that_both_kinds_have_costs_half_of_both_demands():
    """z cannot be above log 100 and below -log 1000 at one point: the best misses both by their mean."""
    q = np.vstack([np.eye(4), np.eye(4)[:1]])
    own = np.array([True, True, True, True, False])
    found = demands(q, own)
    assert found.missed == pytest.approx(0.5 * (np.log(100) + np.log(1000)))
    assert (found.own, found.siblings) == (4, 1)
    assert "no key" in str(found)


def test_the_best_miss_is_not_beaten_by_random_keys():
    rng = np.random.default_rng(2)
    q = rng.normal(size=(200, 3))
    own = rng.random(200) < 0.4
    least = demands(q, own).missed
    z = rng.normal(size=(20_000, 3)) * rng.exponential(3, (20_000, 1))
    s = z @ q.T
    missed = np.maximum((np.log(100) - s[:, own]).max(axis=1), (s[:, ~own] + np.log(1000)).max(axis=1))
    assert 0 < least <= missed.min() + 1e-6


def test_a_single_head_of_a_later_layer_is_refused_with_numbers(llama):
    with pytest.raises(
        SiteError, match=r"head = 2 of layer 1, alone: .* key gets 320 queries .* 320 of its siblings .*group=1"
    ):
        compile_group(sp.sin(T), 0.3, Site(llama, layer=1, head=2, length=16), texts(), model=llama, progress=False)


def test_mixing_is_refused_with_what_it_would_cost(llama):
    with pytest.raises(SiteError, match=r"mix = 0.5: values of the text reach .* pass mix=0"):
        compile_group(sp.sin(T), 0.3, Site(llama, layer=1, group=1, length=16, mix=0.5), texts(), model=llama, progress=False)  # fmt: skip
    with pytest.raises(SiteError, match=r"mix = 0.25: values of the text reach"):
        compile_at_site({3}, 1e-2, Site(llama, head=1, length=12, mix=0.25), progress=False)
    for share in (-0.1, 1.0, "half", True, float("nan")):
        with pytest.raises(SiteError, match="mix"):
            Site(llama, head=1, mix=share)
