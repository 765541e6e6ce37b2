"""Laplacian-corrected values: the rate in the spacing, the saturation, and what the search proposes."""

from __future__ import annotations

import time

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from constructions.proposal import Proposal
from constructions.sharp.heat_series import heat_series
from constructions.sharp.laplacian import LatticeChoice, laplacian_head, propose_laplacian

x, y, z = sympy.symbols("x y z")


def head(proposal: Proposal, points: np.ndarray) -> np.ndarray:
    """The softmax head at (m, n) points."""
    logits = points @ proposal.slopes.T + proposal.biases
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True) @ proposal.values


def slope(expr: sympy.Expr, symbols: list[sympy.Symbol], spacings: list[float], choice: LatticeChoice) -> float:
    """Exponent of the error as a power of the spacing."""
    box = np.ones(len(symbols))
    errors = [
        laplacian_head(expr, symbols, -box, box, LatticeChoice(h, choice.ratio, choice.order, choice.margin, choice.lattice))
        for h in spacings
    ]  # fmt: skip
    return float(np.polyfit(np.log(spacings), np.log([error.error_estimate for error in errors]), 1)[0])


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_error_falls_like_spacing_to_twice_the_order(order: int) -> None:
    choice = LatticeChoice(0.0, 1.25, order, 9.0)
    assert slope(sympy.sin(3 * x), [x], [0.1, 0.07, 0.05], choice) == pytest.approx(2 * order, abs=0.15)


@pytest.mark.parametrize(("order", "lattice"), [(1, "cubic"), (2, "cubic"), (2, "A_2*"), (3, "A_2*")])
def test_rate_in_the_plane(order: int, lattice: str) -> None:
    choice = LatticeChoice(0.0, 1.1, order, 7.0, lattice)
    assert slope(sympy.sin(2 * x + y), [x, y], [0.2, 0.15, 0.1], choice) == pytest.approx(2 * order, abs=0.3)


def test_error_saturates_at_the_size_of_the_first_harmonic() -> None:
    """sigma/h = 0.6: relative to h the error stops falling, at 4 pi (sigma^2/h) e^{-2 pi^2 0.36} |f'|."""
    for spacing in (0.05, 0.0125):
        proposal = laplacian_head(sympy.sin(3 * x), [x], -1.0, 1.0, LatticeChoice(spacing, 0.6, 5, 9.0))
        saturation = next(term.value for term in proposal.terms if term.name == "saturation")
        assert proposal.error_estimate == pytest.approx(saturation, rel=0.05)


def test_sampled_error_is_within_the_budget_when_the_margin_is_generous() -> None:
    for order, spacing in [(1, 0.02), (2, 0.05), (3, 0.1), (5, 0.15)]:
        proposal = laplacian_head(sympy.exp(sympy.sin(2 * x)), [x], -1.0, 1.0, LatticeChoice(spacing, 1.1, order, 8.0))
        assert proposal.error_estimate <= sum(term.value for term in proposal.terms)


TARGETS = [
    (sympy.sin(3 * x), [x], 1e-4, 14),
    (sympy.sin(3 * x), [x], 1e-7, 24),
    (1 / (1 + 25 * x**2), [x], 1e-4, 50),
    (sympy.tanh(5 * x), [x], 1e-3, 30),
    (sympy.sqrt(x + sympy.Rational(51, 50)), [x], 1e-2, 60),
    (sympy.sech(4 * x), [x], 1e-3, 25),
    (sympy.exp(-(x**2) - y**2), [x, y], 1e-3, 90),
    (sympy.sin(3 * x) * sympy.cos(2 * y), [x, y], 1e-2, 70),
]


@pytest.mark.parametrize(("expr", "symbols", "eps", "most"), TARGETS)
def test_proposals_are_within_eps_and_short(expr, symbols, eps, most) -> None:
    n = len(symbols)
    proposals = list(propose_laplacian(expr, symbols, -np.ones(n), np.ones(n), eps, max_tokens=500))
    lengths = [proposal.length for proposal in proposals]
    assert lengths
    assert lengths[0] <= most
    assert lengths == sorted(set(lengths))
    points = np.random.default_rng(0).uniform(-1, 1, size=(20_000, n))
    exact = sympy.lambdify(symbols, expr.rewrite(sympy.cosh), "numpy")(*points.T)
    for proposal in proposals:
        assert np.max(np.abs(head(proposal, points)[:, 0] - exact)) <= eps
        assert proposal.method == "laplacian"
        assert {"spacing", "sigma", "order", "margin"} <= set(proposal.grid)


def test_three_dimensions() -> None:
    proposal = next(iter(propose_laplacian(sympy.cos(x + y * z), [x, y, z], -np.ones(3), np.ones(3), 0.05)))
    points = np.random.default_rng(0).uniform(-1, 1, size=(5000, 3))
    exact = np.cos(points[:, 0] + points[:, 1] * points[:, 2])
    assert np.max(np.abs(head(proposal, points)[:, 0] - exact)) <= 0.05
    assert proposal.length < 300


def test_several_outputs_share_the_keys() -> None:
    proposal = next(iter(propose_laplacian([sympy.sin(3 * x), sympy.cos(2 * x)], [x], 0.0, 2.0, 1e-4)))
    points = np.linspace(0, 2, 3001)[:, None]
    exact = np.concatenate([np.sin(3 * points), np.cos(2 * points)], axis=1)
    assert np.max(np.abs(head(proposal, points) - exact)) <= 1e-4


@settings(max_examples=8, deadline=None)
@given(
    shift=st.floats(-5, 5),
    width=st.floats(0.2, 3.0),
    frequency=st.floats(0.5, 4.0),
    eps=st.sampled_from([1e-2, 1e-3, 1e-5]),
)
def test_waves_on_any_interval(shift: float, width: float, frequency: float, eps: float) -> None:
    expr = sympy.sin(sympy.Float(frequency) * x + 1)
    proposal = next(iter(propose_laplacian(expr, [x], shift, shift + width, eps)))
    points = np.linspace(shift, shift + width, 5001)[:, None]
    assert np.max(np.abs(head(proposal, points) - np.sin(frequency * points + 1))) <= eps


def test_constants_take_one_token() -> None:
    proposal = next(iter(propose_laplacian(sympy.Integer(2), [x], 0.0, 1.0, 1e-6)))
    assert proposal.length == 1
    assert proposal.values[0, 0] == 2


def test_no_proposal_where_the_method_does_not_apply() -> None:
    assert list(propose_laplacian(sympy.Abs(x), [x], -1.0, 1.0, 1e-2)) == []
    assert list(propose_laplacian(1 / x, [x], -1.0, 1.0, 1e-2)) == []
    assert list(propose_laplacian(sympy.log(x), [x], -1.0, 1.0, 1e-2)) == []
    assert list(propose_laplacian(sympy.sin(50 * x), [x], -1.0, 1.0, 1e-6, max_tokens=20)) == []
    assert list(propose_laplacian(sympy.sin(10**6 * x), [x], -1.0, 1.0, 1e-6, max_tokens=10**9)) == []


def test_keys_stay_where_the_target_is_defined() -> None:
    proposal = next(iter(propose_laplacian(sympy.log(x + sympy.Rational(11, 10)), [x], -1.0, 1.0, 0.02)))
    assert np.all(np.isfinite(proposal.values))
    points = np.linspace(-1, 1, 5001)[:, None]
    assert np.max(np.abs(head(proposal, points) - np.log(points + 1.1))) <= 0.02


def test_heat_series_values_are_the_backward_heat_flow() -> None:
    """On an eigenfunction, Delta sin 3x = -9 sin 3x, the series is the truncated exponential e^{9t}."""
    series = heat_series(sympy.sin(3 * x), [x], 3)
    points = np.linspace(-1, 1, 7)[:, None]
    t = 0.05
    expected = (1 + 9 * t + (9 * t) ** 2 / 2) * np.sin(3 * points)
    assert np.allclose(series.values(points, t, 3), expected, rtol=1e-12)


def test_bad_arguments_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="eps"):
        propose_laplacian(sympy.sin(x), [x], 0.0, 1.0, 0.0)
    with pytest.raises(ValueError, match="lo"):
        propose_laplacian(sympy.sin(x), [x], 1.0, 0.0, 0.1)
    with pytest.raises(ValueError, match="symbol"):
        propose_laplacian(sympy.sin(x), [x, y], 0.0, 1.0, 0.1)
    with pytest.raises(ValueError, match="expr contains"):
        propose_laplacian(sympy.sin(x * z), [x], 0.0, 1.0, 0.1)
    with pytest.raises(ValueError, match="cannot be evaluated"):
        propose_laplacian(sympy.Function("unknown")(x), [x], 0.0, 1.0, 0.1)
    with pytest.raises(ValueError, match="order"):
        laplacian_head(sympy.Abs(x), [x], -1.0, 1.0, LatticeChoice(0.1, 1.0, 2, 5.0))
    with pytest.raises(ValueError, match="margin"):
        laplacian_head(sympy.log(x), [x], 0.1, 1.0, LatticeChoice(0.1, 1.0, 2, 5.0))


def test_a_deadline_in_the_past_yields_nothing() -> None:
    assert list(propose_laplacian(sympy.sin(3 * x), [x], -1.0, 1.0, 1e-3, deadline=time.monotonic() - 1.0)) == []


def test_an_expression_nested_too_deeply_yields_nothing() -> None:
    nested = sympy.sin(x)
    for _ in range(60):
        nested = sympy.sin(3 * nested + x)
    assert list(propose_laplacian(nested, [x], -1.0, 1.0, 1e-3, deadline=time.monotonic() + 2.0)) == []


def test_huge_integers_raise_nothing() -> None:
    step = sympy.Piecewise((2, x > 0.9995), (0, True))
    list(propose_laplacian(step**70 / sympy.Integer(2) ** 70 + x, [x], 0.0, 1.0, 1e-3))
