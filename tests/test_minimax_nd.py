"""The n-dimensional minimax construction: what it proposes meets eps on samples of our own, with few tokens."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from constructions.proposal import Proposal
from constructions.sharp.minimax_nd import propose_minimax_nd
from constructions.sharp.tensor_head import Head, lawson_values, log_normaliser, softmax_weights
from constructions.sharp.tensor_lattice import lattice_points, parabola_keys
from constructions.sharp.tensor_newton import fit_head
from constructions.sharp.tensor_product import product_heads
from constructions.sharp.tensor_samples import Samples, check_points, fit_points


def franke(p: np.ndarray) -> np.ndarray:
    x, y = 9 * p[:, 0], 9 * p[:, 1]
    return (
        0.75 * np.exp(-((x - 2) ** 2 + (y - 2) ** 2) / 4)
        + 0.75 * np.exp(-((x + 1) ** 2) / 49 - (y + 1) / 10)
        + 0.5 * np.exp(-((x - 7) ** 2 + (y - 3) ** 2) / 4)
        - 0.2 * np.exp(-((x - 4) ** 2) - (y - 7) ** 2)
    )[:, None]


def column(f):
    return lambda p: f(*p.T)[:, None]


def output(proposal: Proposal, x: np.ndarray) -> np.ndarray:
    """An evaluation written independently of the construction's own."""
    logits = x @ proposal.slopes.T + proposal.biases
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (weights @ proposal.values) / weights.sum(axis=1, keepdims=True)


def sampled_error(f, lo, hi, proposal: Proposal) -> float:
    lo, hi = np.asarray(lo, float), np.asarray(hi, float)
    unit = np.random.default_rng(0).random((20_000, len(lo)))
    corners = np.array(list(itertools.product((0.0, 1.0), repeat=len(lo))))
    x = lo + (hi - lo) * np.concatenate([unit, np.round(unit[:2000]), corners])
    return float(np.abs(output(proposal, x) - f(x)).max())


# target, box, eps, most tokens allowed: generous against what is reached, far below Chebyshev coefficients
TARGETS = {
    "franke": (franke, [0, 0], [1, 1], 1e-2, 26),
    "product": (column(lambda x, y: x * y), [-1, -1], [1, 1], 1e-3, 8),
    "affine": (column(lambda x, y: x + 2 * y), [-1, -1], [1, 1], 1e-3, 3),
    "exponential": (column(lambda x, y: np.exp(x + y)), [-1, -1], [1, 1], 1e-3, 3),
    "trigonometric": (column(lambda x, y: np.sin(2 * x) * np.cos(y) + x * y / 2), [-1, -1], [1, 1], 1e-3, 15),
    "gaussian": (column(lambda x, y: np.exp(-(x**2) - y**2)), [-1, -1], [1, 1], 1e-3, 12),
    "rational": (column(lambda x, y: 1 / (1 + x**2 + 4 * y**2)), [-1, -1], [1, 1], 1e-3, 16),
    "far box": (column(lambda x, y: np.cos((x - 1e3) * 20 + y / 50)), [999.9, -50], [1000.1, 50], 1e-3, 20),
    "three variables": (column(lambda x, y, z: np.sin(x + y * z)), [0, 0, 0], [1, 1, 1], 1e-2, 10),
    "two outputs": (
        lambda p: np.stack([np.sin(p.sum(axis=1)), 3 * np.cos(p[:, 0] * p[:, 1])], axis=1),
        [-1, -1],
        [1, 1],
        1e-2,
        14,
    ),
}


@pytest.mark.parametrize("name", TARGETS)
def test_first_proposal_is_short_and_accurate(name: str) -> None:
    f, lo, hi, eps, most = TARGETS[name]
    proposals = list(itertools.islice(propose_minimax_nd(f, np.array(lo), np.array(hi), eps), 2))
    assert proposals
    assert proposals[0].length <= most
    for proposal in proposals:
        assert proposal.method == "minimax"
        assert proposal.error_estimate <= eps
        assert proposal.slopes.shape == (proposal.length, len(lo))
        assert proposal.values.shape == (proposal.length, f(np.array([lo], float)).shape[1])
        assert sampled_error(f, lo, hi, proposal) <= eps
    assert [p.length for p in proposals] == sorted(p.length for p in proposals)


def test_scaling_target_and_box_changes_nothing_but_units() -> None:
    f = column(lambda x, y: 1 / (1 + x**2 + y))
    first = next(propose_minimax_nd(f, np.array([-1.0, 0.0]), np.array([1.0, 1.0]), 1e-2))
    g = column(lambda x, y: 1e6 * f(np.stack([x / 1e3, y * 1e3], axis=1))[:, 0])
    second = next(propose_minimax_nd(g, np.array([-1e3, 0.0]), np.array([1e3, 1e-3]), 1e4))
    assert first.length == second.length


def test_is_deterministic() -> None:
    f = column(lambda x, y: np.tanh(x - y**2))
    one, two = (next(propose_minimax_nd(f, -np.ones(2), np.ones(2), 1e-2)) for _ in range(2))
    assert np.array_equal(one.values, two.values)
    assert np.array_equal(one.slopes, two.slopes)


def test_constants_take_one_token() -> None:
    (proposal,) = propose_minimax_nd(column(lambda x, y: 0 * x + 7.0), np.zeros(2), np.ones(2), 1e-9)
    assert proposal.length == 1
    assert proposal.values[0, 0] == 7.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_targets_that_are_not_finite_yield_nothing(bad: float) -> None:
    f = column(lambda x, y: np.where(x > 0.5, bad, y))
    assert list(propose_minimax_nd(f, np.zeros(2), np.ones(2), 1e-2)) == []


def test_nothing_fits_too_few_tokens() -> None:
    assert list(propose_minimax_nd(franke, np.zeros(2), np.ones(2), 1e-4, max_tokens=6)) == []


@pytest.mark.parametrize(
    ("lo", "hi", "eps"), [([0, 0], [1, 0], 0.1), ([0, 0], [1, np.inf], 0.1), ([0, 0], [1, 1], 0.0)]
)
def test_refuses_empty_boxes_and_errors(lo: list, hi: list, eps: float) -> None:
    with pytest.raises(ValueError, match="needs"):
        next(propose_minimax_nd(franke, np.array(lo), np.array(hi), eps))


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 4), count=st.integers(1, 60), aspect=st.floats(1.0, 4.0))
def test_lattice_fills_the_cube(n: int, count: int, aspect: float) -> None:
    metric = np.diag(np.geomspace(aspect, 1 / aspect, n) if n > 1 else np.ones(1))
    points, spacing = lattice_points(metric, count, shift=0.1)
    assert points.shape == (count, n)
    assert spacing > 0
    assert np.abs(points).max() == pytest.approx(1.0)
    assert len(np.unique(np.round(points, 9), axis=0)) == count


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(1, 3))
def test_recentring_keeps_the_function(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    head = Head(5 * rng.normal(size=(7, n)), 9 * rng.normal(size=7), rng.normal(size=(7, 2)))
    x = check_points(n, 60)
    moved = head.recentred(x)
    assert np.allclose(head(x), moved(x), atol=1e-12)
    assert abs(log_normaliser(x, moved.slopes, moved.biases).mean()) < 1e-9


def test_parabola_keys_weigh_like_gaussians() -> None:
    centres, sharpness = np.array([[0.0, 0.0], [1.0, 0.5], [-0.3, 1.0]]), np.array([[2.0, 0.5], [0.5, 1.0]])
    x = fit_points(2, 30)
    away = x[:, None] - centres
    expected = np.exp(-np.einsum("pji,ik,pjk->pj", away, sharpness, away))
    weights = softmax_weights(x, *parabola_keys(centres, sharpness))
    assert np.allclose(weights, expected / expected.sum(axis=1, keepdims=True))


def test_newton_steps_recover_a_head() -> None:
    """Started beside a head, fitting its output finds it again: the derivatives are right for several outputs."""
    rng = np.random.default_rng(5)
    truth = Head(2 * rng.normal(size=(4, 2)), rng.normal(size=4), rng.normal(size=(4, 2)))
    x = fit_points(2, 200)
    start = Head(truth.slopes + 0.05 * rng.normal(size=(4, 2)), truth.biases, np.zeros((4, 2)))
    for ridge in (1e-13, 1e-26):
        fit = fit_head(start, Samples(x, truth(x)), steps=60, ridge=ridge)
        assert fit is not None
        assert fit.sup < 1e-7


def test_lawson_lowers_the_sup_error() -> None:
    x = fit_points(2, 300)
    samples = Samples(x, np.exp(x[:, :1] * x[:, 1:]))
    centres, spacing = lattice_points(np.eye(2), 9)
    head = Head(*parabola_keys(centres, 0.5 / spacing**2 * np.eye(2)), np.zeros((9, 1)))
    errors = [
        float(np.abs(lawson_values(head, samples, np.ones(len(x)), steps)(x) - samples.values).max())
        for steps in (1, 12)
    ]
    assert errors[1] < 0.9 * errors[0]


def test_product_heads_reach_tight_errors() -> None:
    f = column(lambda x, y: np.sin(2 * x) * np.exp(y) / 3)
    head, grid = next(product_heads(2, lambda p: Samples(p, f(p)), 1e-9, 1000))
    x = check_points(2, 2000)
    assert np.abs(head(x) - f(x)).max() < 1e-9
    shape = grid["shape"]
    assert isinstance(shape, tuple)
    assert np.prod(shape) == head.length


def test_a_deadline_in_the_past_yields_nothing_and_samples_nothing() -> None:
    called = []
    assert list(propose_minimax_nd(called.append, np.zeros(2), np.ones(2), 1e-3, deadline=time.monotonic() - 1.0)) == []
    assert called == []


def test_a_deadline_far_away_changes_nothing() -> None:
    f = column(lambda x, y: np.sin(x + y * y))
    free = next(propose_minimax_nd(f, np.zeros(2), np.ones(2), 1e-2))
    timed = next(propose_minimax_nd(f, np.zeros(2), np.ones(2), 1e-2, deadline=time.monotonic() + 1e6))
    assert np.array_equal(free.slopes, timed.slopes)
    assert np.array_equal(free.values, timed.values)


def test_a_deadline_ends_a_hard_search() -> None:
    f = column(lambda x, y, z, w: np.sin(3 * x * y + 5 * z * w) * np.cos(4 * x * z))
    start = time.monotonic()
    list(propose_minimax_nd(f, np.zeros(4), np.ones(4), 1e-3, deadline=start + 2.0))
    assert time.monotonic() - start < 30.0  # without it: minutes
