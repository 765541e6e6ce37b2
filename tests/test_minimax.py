"""The one-dimensional minimax construction: accuracy as stored, lengths, symmetry, bounded work."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from constructions.proposal import Proposal
from constructions.sharp.families import Exponents, exponents
from constructions.sharp.minimax import propose_minimax
from constructions.sharp.mirror import fold, unfold
from constructions.sharp.rational import free_denominators
from constructions.sharp.refine import refine
from constructions.sharp.samples import sample
from constructions.sharp.values import fit_values, softmax_weights


def evaluate(proposal: Proposal, x: np.ndarray) -> np.ndarray:
    """The head as float64 evaluates it, written independently of the construction."""
    logits = x[:, None] * proposal.slopes[:, 0] + proposal.biases
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (weights / weights.sum(axis=1, keepdims=True)) @ proposal.values


def shortest(f, lo, hi, eps, **options) -> Proposal:
    """The first proposal, its error checked on a grid the construction has not seen."""
    proposal = next(propose_minimax(lambda x: np.reshape(f(x), (len(x), -1)), lo, hi, eps, **options))
    x = np.clip(0.5 * (lo + hi) - 0.5 * (hi - lo) * np.cos(np.linspace(0, np.pi, 7001)), lo, hi)
    error = np.abs(evaluate(proposal, x) - np.reshape(f(x), (len(x), -1))).max()
    assert error <= eps
    assert proposal.method == "minimax"
    assert proposal.slopes.shape == (proposal.length, 1)
    return proposal


# (target, eps, most tokens allowed): lengths measured, so that a regression is seen.
LENGTHS = [
    (lambda x: np.sin(3 * x), 1e-3, 4),
    (lambda x: np.sin(3 * x), 1e-6, 6),
    (np.exp, 1e-9, 2),
    (lambda x: np.tanh(5 * x), 1e-9, 2),
    (lambda x: expit(12 * (x - 0.3)), 1e-9, 2),
    (lambda x: 1 / np.cosh(8 * x), 1e-9, 3),
    (lambda x: 1 / (1 + 25 * x * x), 1e-6, 9),
    (lambda x: np.exp(-20 * x * x), 1e-3, 5),
    (lambda x: np.sqrt(1.02 + x), 1e-3, 5),
    (lambda x: np.log(1.1 + x), 1e-6, 9),
    (lambda x: np.arctan(10 * x), 1e-3, 6),
    (lambda x: np.cos(20 * x), 1e-6, 19),
    (lambda x: np.cos(100 * x), 1e-6, 80),
    (np.abs, 1e-3, 5),
]


@pytest.mark.parametrize(("f", "eps", "most"), LENGTHS)
def test_lengths(f, eps, most):
    assert shortest(f, -1.0, 1.0, eps).length <= most


@pytest.mark.parametrize(
    ("f", "lo", "hi", "eps"),
    [
        (lambda x: x, 0.0, 1e6, 1.0),
        (lambda x: 1e6 * np.sin(3 * x), -1.0, 1.0, 1.0),
        (lambda x: 1e-6 * np.sin(3 * x), -1.0, 1.0, 1e-12),
        (lambda x: 1e3 + np.sin(3 * x), -1.0, 1.0, 1e-6),
        (lambda x: np.sin(3 * x), 1000.0, 1001.0, 1e-6),
        (lambda x: x**7 - 2 * x**4 + x, -1.0, 1.0, 1e-6),
        (lambda x: np.sqrt(1.0 - x), -1.0, 1.0, 1e-3),
        (np.sqrt, 0.0, 1e6, 1.0),
        (lambda x: np.stack([np.cos(5 * x), np.sin(5 * x)], axis=1), -1.0, 1.0, 1e-6),
        (lambda x: np.stack([np.cos(5 * x), np.sin(5 * x)], axis=1), 0.0, 2.0, 1e-6),
    ],
)
def test_intervals_scales_and_outputs(f, lo, hi, eps):
    shortest(f, lo, hi, eps)


def test_never_shorter_than_its_sign_changes_allow():
    # cos 20x changes sign 13 times on [-1, 1]: at least 14 exponentials
    assert shortest(lambda x: np.cos(20 * x), -1.0, 1.0, 1e-3).length >= 14


def test_constant_is_one_token():
    proposal = shortest(lambda x: np.full_like(x, 7.0), -1.0, 1.0, 1e-9)
    assert proposal.length == 1
    assert proposal.values[0, 0] == 7.0


def test_samples_once_and_inside():
    calls = []

    def f(x):
        calls.append(len(x))
        assert x.min() >= 0.1
        assert x.max() <= 0.7
        return np.sin(x)[:, None]

    assert next(propose_minimax(f, 0.1, 0.7, 1e-6)).length <= 4
    assert len(calls) == 1


def test_fallbacks_have_more_margin_or_tokens():
    found = list(propose_minimax(lambda x: np.sin(3 * x)[:, None], -1.0, 1.0, 1e-6))
    assert len(found) >= 3
    assert all(p.length >= found[0].length for p in found)
    assert min(p.error_estimate for p in found[1:]) < 0.5e-6


def test_deterministic():
    first, second = (next(propose_minimax(lambda x: np.exp(-20 * x * x)[:, None], -1.0, 1.0, 1e-6)) for _ in range(2))
    np.testing.assert_array_equal(first.slopes, second.slopes)
    np.testing.assert_array_equal(first.values, second.values)


@pytest.mark.parametrize(
    ("f", "options"),
    [
        (np.sign, {}),
        (lambda x: np.random.default_rng(0).standard_normal(len(x)), {}),
        (lambda x: np.where(x > 0, np.nan, 1.0), {}),
        (lambda x: np.sin(3 * x), {"max_tokens": 3}),
    ],
)
def test_yields_nothing_rather_than_raising(f, options):
    assert list(propose_minimax(lambda x: f(x)[:, None], -1.0, 1.0, 1e-6, **options)) == []


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.floats(-3, 3), min_size=2, max_size=4),
    st.lists(st.floats(-2, 2), min_size=4, max_size=4),
    st.lists(st.floats(-5, 5), min_size=4, max_size=4),
)
def test_heads_are_found_again(slopes, biases, values):
    # a head of N tokens is a target that N tokens approximate; the search may not need more than a few extra
    n = len(slopes)
    a, b, v = 3 * np.array(slopes), np.array(biases[:n]), np.array(values[:n])
    proposal = shortest(lambda x: softmax_weights(x, a, b) @ v, -1.0, 1.0, 1e-5)
    assert proposal.length <= n + 4


@pytest.mark.parametrize("tokens", [2, 5, 8])
@pytest.mark.parametrize("sign", [1, -1])
def test_fold_is_adjoint_to_unfold(tokens, sign):
    rng = np.random.default_rng(tokens)
    full = unfold(rng.standard_normal((3, (tokens + (sign > 0)) // 2)), sign, tokens)
    np.testing.assert_array_equal(full, sign * full[..., ::-1])
    array = rng.standard_normal((3, tokens))
    half = full[..., : fold(array, sign).shape[-1]]
    np.testing.assert_allclose((fold(array, sign) * half).sum(-1), (array * full).sum(-1), atol=1e-13)
    np.testing.assert_array_equal(fold(array, 0), array)


@pytest.mark.parametrize(
    "member",
    [
        Exponents("equispaced", 9.0),
        Exponents("geometric", 40.0, 1),
        Exponents("geometric", 40.0, -1),
        Exponents("ends", 100.0),
        Exponents("kink", 60.0, centre=0.3),
        Exponents("lattice", 1.1),
    ],
)
@pytest.mark.parametrize("tokens", [1, 2, 3, 6])
def test_families_are_increasing(member, tokens):
    slopes, biases = exponents(member, tokens)
    assert slopes.shape == biases.shape == (tokens,)
    assert np.all(np.diff(slopes) > 0)


def test_free_denominator_finds_a_rational_exactly():
    # 1/(2 + cosh 4x): poles of e^{4x} on the negative axis, three equispaced exponents
    t = np.cos(np.linspace(0, np.pi, 60))
    y = (1 / (2 + np.cosh(4 * t)))[:, None]
    slopes, references = exponents(Exponents("equispaced", 8.0), 3)
    biases, error = free_denominators(t, y, (0,), slopes[None], references[None])
    assert error[0] < 1e-12
    fit = fit_values(t, y, (0,), slopes[None], biases, np.ones((1, 60)))
    assert fit.error[0] < 1e-12


def test_refinement_recovers_slopes():
    t = np.cos(np.linspace(0, np.pi, 80))
    y = np.tanh(5 * t)[:, None]
    result = refine(t, y, (0,), np.array([[-3.0, 3.0]]), np.zeros((1, 2)), tolerance=1e-12)
    assert result.error[0] < 1e-12
    np.testing.assert_allclose(np.ptp(result.slopes[0]), 10.0, rtol=1e-9)


def test_samples_know_mirror_signs_and_sign_changes():
    even = sample(lambda x: np.cos(7 * x)[:, None], -2.0, 4.0, 1e-6)
    assert even is not None
    assert even.signs == (0,)
    both = sample(lambda x: np.stack([np.cos(7 * x), np.sin(7 * x)], axis=1), -1.0, 1.0, 1e-6)
    assert both is not None
    # normalising cos 7x about its mid-range keeps it even
    assert both.signs == (1, -1)
    assert both.crossings == 5


def test_a_deadline_in_the_past_yields_nothing_and_samples_nothing():
    called = []
    assert list(propose_minimax(called.append, -1.0, 1.0, 1e-3, deadline=time.monotonic() - 1.0)) == []
    assert called == []


def test_a_deadline_far_away_changes_nothing():
    def target(x):
        return np.cos(20 * x)[:, None]

    free = next(propose_minimax(target, -1.0, 1.0, 1e-4))
    timed = next(propose_minimax(target, -1.0, 1.0, 1e-4, deadline=time.monotonic() + 1e6))
    assert np.array_equal(free.slopes, timed.slopes)
    assert np.array_equal(free.values, timed.values)


def test_a_deadline_ends_a_search_with_very_many_outputs():
    start = time.monotonic()
    list(propose_minimax(lambda x: np.sin(np.outer(x, np.arange(500))), -1.0, 1.0, 1e-2, deadline=start + 2.0))
    assert time.monotonic() - start < 30.0  # without it: minutes
