"""Bernstein heads: exact polynomials of t = sigmoid(h x) in one to three variables, and fits of analytic functions."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import binom

from constructions.proposal import Proposal
from constructions.sharp.bernstein import bernstein_coefficients, bernstein_head, multi_indices, propose_bernstein


def head(proposal: Proposal, points: np.ndarray) -> np.ndarray:
    """The softmax head at (m, n) points."""
    logits = points @ proposal.slopes.T + proposal.biases
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True) @ proposal.values


def barycentric(points: np.ndarray, middle: np.ndarray, steepness: np.ndarray) -> np.ndarray:
    """t_i = e^{y_i} / (1 + sum_l e^{y_l}), y = h (x - middle)."""
    exponentials = np.exp(steepness * (points - middle))
    return exponentials / (1 + exponentials.sum(axis=1, keepdims=True))


@pytest.mark.parametrize(("degree", "n"), [(0, 1), (5, 1), (4, 2), (3, 3), (2, 5)])
def test_one_token_per_multi_index(degree: int, n: int) -> None:
    alphas = multi_indices(degree, n)
    assert alphas.shape == (comb(degree + n, n), n)
    assert len(np.unique(alphas, axis=0)) == len(alphas)
    assert np.all(alphas >= 0)
    assert np.all(alphas.sum(axis=1) <= degree)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 3),
    degree=st.integers(0, 9),
    seed=st.integers(0, 2**32 - 1),
    steepness=st.floats(0.2, 5.0),
    shift=st.floats(-3, 3),
)
def test_every_polynomial_in_t_is_reproduced_to_rounding(n, degree, seed, steepness, shift) -> None:
    rng = np.random.default_rng(seed)
    powers = rng.normal(size=(comb(degree + n, n), 2)) * 10.0 ** rng.integers(-3, 4)
    lo = shift + rng.uniform(-1, 0, size=n)
    hi = lo + rng.uniform(0.5, 2.0, size=n)
    steep = steepness * rng.uniform(0.5, 1.0, size=n)
    proposal = bernstein_head(bernstein_coefficients(powers, degree, n), degree, lo, hi, steep)
    assert proposal.length == comb(degree + n, n)
    points = rng.uniform(lo, hi, size=(200, n))
    t = barycentric(points, 0.5 * (lo + hi), steep)
    exact = np.prod(t[:, None, :] ** multi_indices(degree, n), axis=2) @ powers
    # Weights times values bound the conditioning; both sides round.
    scale = np.max(np.abs(proposal.values)) + np.max(np.abs(powers)) * len(powers)
    assert np.max(np.abs(head(proposal, points) - exact)) <= 1e-13 * scale


@settings(max_examples=30, deadline=None)
@given(degree=st.integers(1, 30), power=st.integers(0, 30))
def test_coefficients_of_monomials_are_quotients_of_binomials(degree: int, power: int) -> None:
    power = min(power, degree)
    coefficients = bernstein_coefficients(np.eye(degree + 1)[:, power : power + 1], degree, 1)[:, 0]
    expected = [float(Fraction(comb(i, power), comb(degree, power))) for i in range(degree + 1)]
    assert np.array_equal(coefficients, expected)


def test_one_dimensional_keys_are_equispaced_with_binomial_biases() -> None:
    proposal = bernstein_head(np.zeros((7, 1)), 6, -1.0, 1.0, 1.5)
    assert np.allclose(np.diff(proposal.slopes[:, 0]), 1.5)
    assert np.allclose(np.exp(proposal.biases - proposal.biases[0]), binom(6, np.arange(7)))


ONE_DIMENSIONAL = [
    ("sin 3x", lambda x: np.sin(3 * x), 1e-6, 11),
    ("exp", np.exp, 1e-9, 12),
    ("1/(1+25x^2)", lambda x: 1 / (1 + 25 * x**2), 1e-6, 40),
    ("tanh 5x", lambda x: np.tanh(5 * x), 1e-6, 25),
    ("exp(-20x^2)", lambda x: np.exp(-20 * x**2), 1e-9, 30),
    ("cos 20x", lambda x: np.cos(20 * x), 1e-3, 26),
]


@pytest.mark.parametrize(("name", "target", "eps", "most"), ONE_DIMENSIONAL)
def test_analytic_functions_are_met_within_eps(name, target, eps, most) -> None:
    proposals = list(propose_bernstein(target, -1.0, 1.0, eps))
    lengths = [proposal.length for proposal in proposals]
    assert lengths, name
    assert lengths[0] <= most, name
    assert lengths == sorted(set(lengths))
    x = np.linspace(-1, 1, 20_011)[:, None]
    for proposal in proposals:
        assert np.max(np.abs(head(proposal, x) - target(x))) <= eps
        assert proposal.error_estimate <= eps


def test_length_grows_like_the_logarithm_of_the_accuracy() -> None:
    lengths = [
        next(iter(propose_bernstein(lambda x: np.exp(np.sin(2 * x)), -1.0, 1.0, eps))).length
        for eps in (1e-2, 1e-4, 1e-6, 1e-8)
    ]
    steps = np.diff(lengths)
    assert np.all(steps >= 1)
    assert np.max(steps) <= 2.5 * np.min(steps)


def test_a_polynomial_in_t_takes_its_degree() -> None:
    def target(x):
        return 1 / (1 + np.exp(-x)) ** 3

    assert next(iter(propose_bernstein(target, -1.0, 1.0, 1e-10))).length <= 4


@pytest.mark.parametrize(("n", "eps", "most"), [(2, 1e-4, 60), (3, 1e-2, 90)])
def test_several_variables_and_outputs(n: int, eps: float, most: int) -> None:
    def target(x: np.ndarray) -> np.ndarray:
        return np.stack([np.exp(-np.sum(x**2, axis=1) / 2), np.cos(x.sum(axis=1))], axis=1)

    proposal = next(iter(propose_bernstein(target, -np.ones(n), np.ones(n), eps)))
    assert proposal.length <= most
    x = np.random.default_rng(0).uniform(-1, 1, size=(20_000, n))
    assert np.max(np.abs(head(proposal, x) - target(x))) <= eps


@settings(max_examples=10, deadline=None)
@given(shift=st.floats(-20, 20), width=st.floats(0.05, 4.0), frequency=st.floats(0.2, 3.0))
def test_waves_on_any_interval(shift: float, width: float, frequency: float) -> None:
    def target(x):
        return np.sin(frequency * x)

    proposal = next(iter(propose_bernstein(target, shift, shift + width, 1e-6)))
    x = np.linspace(shift, shift + width, 3001)[:, None]
    assert np.max(np.abs(head(proposal, x) - target(x))) <= 1e-6


def test_no_proposal_where_the_degree_is_out_of_reach() -> None:
    assert list(propose_bernstein(np.abs, -1.0, 1.0, 1e-5)) == []
    assert list(propose_bernstein(lambda x: np.cos(20 * x), -1.0, 1.0, 1e-3, max_tokens=15)) == []
    assert list(propose_bernstein(np.sin, -1.0, 1.0, 1e-3, max_tokens=0)) == []


def test_many_variables_do_not_explode() -> None:
    proposal = next(iter(propose_bernstein(lambda x: x.sum(axis=1, keepdims=True), -np.ones(8), np.ones(8), 0.5)))
    x = np.random.default_rng(0).uniform(-1, 1, size=(20_000, 8))
    assert np.max(np.abs(head(proposal, x)[:, 0] - x.sum(axis=1))) <= 0.5


def test_constants_take_one_token() -> None:
    proposal = next(iter(propose_bernstein(lambda x: np.full((len(x), 1), 4.0), [0, 0], [1, 1], 1e-9)))
    assert proposal.length == 1
    assert proposal.values[0, 0] == pytest.approx(4.0)


def test_bad_arguments_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="eps"):
        propose_bernstein(np.sin, 0.0, 1.0, -1.0)
    with pytest.raises(ValueError, match="lo"):
        propose_bernstein(np.sin, 1.0, 1.0, 0.1)
    with np.errstate(divide="ignore"), pytest.raises(ValueError, match="not finite at x"):
        next(iter(propose_bernstein(lambda x: 1 / x, 0.0, 1.0, 0.1)))
    with pytest.raises(ValueError, match="multi-index"):
        bernstein_head(np.zeros((4, 1)), 5, 0.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="steepness"):
        bernstein_head(np.zeros((4, 1)), 3, 0.0, 1.0, 0.0)
    with pytest.raises(ValueError, match="rows"):
        bernstein_coefficients(np.zeros((4, 1)), 5, 1)
    with pytest.raises(ValueError, match="finite"):
        bernstein_coefficients(np.full((6, 1), np.nan), 5, 1)
