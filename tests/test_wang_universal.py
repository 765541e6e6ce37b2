"""One transformer, every function of a quantised Lipschitz family a prompt: checked pair by pair, in exact arithmetic, and refuted where it is not so."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from tampering import rewrite

from constructions.wang2023.universal import (
    Grid,
    plan,
    plan_prompt,
    sizes,
    temperature,
    universal_transformer,
)  # fmt: skip
from constructions.wang2023.universal.blocks import join
from constructions.wang2023.universal.contextual import context_numbers, numbering, selective_shifts
from constructions.wang2023.universal.execute import execute
from constructions.wang2023.universal.quantise import quantisation
from verify import StatementError, Status, check_statement, load_statement
from verify.artefact import ArtefactError
from verify.stack import Plan

GRIDS = [Grid(1, 1, 4, 2, 1), Grid(1, 1, 4, 4, 1), Grid(1, 1, 2, 8, 2), Grid(1, 2, 2, 2, 1), Grid(2, 1, 2, 2, 1)]
x, y = sp.symbols("x y")


@pytest.fixture(scope="module")
def four():
    return universal_transformer(Grid(1, 1, 4, 4, 1))


# --- the family and its sizes -------------------------------------------------------------------------------------------


def brute_family(grid: Grid) -> int:
    """All tables of one component, tried one by one, with the Lipschitz condition between every two points."""
    points = list(itertools.product(range(grid.cells), repeat=grid.components))
    apart = [
        (i, j, max(abs(a - b) for a, b in zip(p, q, strict=True)))
        for (i, p), (j, q) in itertools.combinations(enumerate(points), 2)
    ]
    return sum(
        all(abs(q[i] - q[j]) <= grid.steps * r for i, j, r in apart)
        for q in itertools.product(range(grid.levels), repeat=len(points))
    )  # fmt: skip


@pytest.mark.parametrize("grid", [*GRIDS, Grid(1, 1, 4, 4, 2), Grid(1, 2, 2, 4, 1), Grid(1, 2, 2, 4, 0)], ids=str)
def test_the_family_size_formula_counts_the_functions_that_satisfy_the_lipschitz_condition(grid):
    assert len(grid.component) == brute_family(grid)
    assert plan(grid).functions == grid.functions == brute_family(grid) ** grid.components
    assert plan(grid).exact


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_depth_width_and_prompt_length_formulas_are_those_of_what_is_built(grid):
    g = universal_transformer(grid)
    at = {sizes.DIMENSION: grid.d, sizes.DATA: grid.m, sizes.CELLS: grid.cells, sizes.FUNCTIONS: grid.functions}
    assert sizes.PROMPT_LENGTH.subs(at) == g.prompt_length == plan(grid).prompt
    assert (
        sizes.DEPTH.subs(at | {sizes.PROMPT: g.prompt_length})
        == g.stack.depth
        == plan(grid).depth
        == len(g.stack.order)
    )
    assert g.stack.first.shape[1] == sizes.WIDTH
    assert g.stack.query.shape[1] == sizes.HEADS
    block = g.dense(g.stack.depth // 2)
    assert block["W_Q"].shape == (2, 1, grid.d)
    assert block["W_1"].shape == (4, grid.d)
    assert g.statement.prompts.shape == (grid.functions, g.prompt_length, grid.d)


def test_walks_are_counted_by_the_eigenvalues_of_the_path():
    walks: Any = sizes.GridWalks
    for g, h in [(4, 2), (8, 4), (16, 8), (9, 5)]:
        closed = walks(sizes.CELLS, sizes.LEVELS, 1).rewrite(sp.Sum).subs({sizes.CELLS: g, sizes.LEVELS: h})
        assert float(closed.doit().evalf()) == pytest.approx(int(walks(g, h, 1)), rel=1e-9)
    assert sizes.Digits(4096, 8) == 4
    assert sizes.Digits(4097, 8) == 5


def test_sizes_are_evaluated_where_nothing_can_be_built():
    found: Any = plan_prompt(1e-2, 1.0)
    assert found.exact
    assert found.functions > 10**40
    assert found.depth > found.functions
    assert found.grid.lipschitz >= 1
    assert "planned, not built" in str(found)
    assert plan_prompt(1e-3, 1.0, d=2, m=2).log10_depth > 1e6


def test_the_bound_of_the_family_size_is_above_the_family():
    formula, exact = sizes.family_size(2)
    at = {sizes.CELLS: 2, sizes.LEVELS: 4, sizes.STEPS: 1}
    assert not exact
    assert formula.subs(at) >= plan(Grid(1, 2, 2, 4, 1)).functions


# --- the three steps ----------------------------------------------------------------------------------------------------


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 2))
def test_quantisation_sends_a_cell_short_of_its_margin_to_its_lower_end(value, token):
    grid, margin = Grid(1, 1, 4, 2, 1), 2.0**-10
    layers = quantisation(grid, 3, margin)
    z = Fraction(value) + token
    cell = math.floor(4 * (z - token))
    for first, offset, second in zip(layers.first, layers.offset, layers.second, strict=True):
        hidden = [
            max(Fraction(float(a[0])) * z + Fraction(float(b)), Fraction(0)) for a, b in zip(first, offset, strict=True)
        ]
        z += sum(Fraction(float(c)) * h for c, h in zip(second[0], hidden, strict=True))
    if 4 * Fraction(value) <= cell + 1 - Fraction(margin):
        assert z == token + Fraction(cell, 4)


@pytest.mark.parametrize(
    ("grid", "tokens"),
    [(Grid(1, 1, 2, 2, 1), 3), (Grid(1, 1, 4, 2, 1), 3), (Grid(2, 1, 2, 2, 1), 3), (Grid(1, 1, 2, 2, 1), 6)],
)
def test_selective_shifts_number_every_token_of_every_sequence_differently(grid, tokens):
    digits = np.array(list(itertools.product(range(grid.cells), repeat=tokens * grid.d))).reshape(-1, tokens, grid.d)
    position = np.repeat(np.arange(tokens, dtype=float)[:, None], grid.d, axis=1)
    stack = join(tokens, position, [quantisation(grid, tokens, 0.5), selective_shifts(grid, tokens)])
    found = stack.run(digits / grid.cells, Plan.of(stack))
    np.testing.assert_array_equal(found.lo, found.hi)
    numbers = found.lo @ numbering(grid) * grid.cells
    np.testing.assert_array_equal(numbers, context_numbers(grid, digits))
    assert len(np.unique(numbers)) == numbers.size


def test_a_stack_of_two_tokens_is_refused():
    with pytest.raises(ValueError, match="three tokens"):
        selective_shifts(Grid(1, 1, 2, 2, 1), 2)


# --- one transformer, every function, every grid point ------------------------------------------------------------------


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_every_function_of_the_family_is_computed_from_its_prompt_at_every_grid_point_exactly(grid):
    g = universal_transformer(grid)
    assert g.verdict.proved
    assert g.verdict.upper == 0
    assert g.verdict.numbers["pairs"] == grid.functions * grid.points
    assert "proved on all" in repr(g)


@pytest.mark.parametrize("grid", [Grid(1, 1, 4, 4, 1), Grid(2, 1, 2, 2, 1)], ids=str)
def test_every_block_executed_in_float64_gives_the_same_numbers(grid):
    g = universal_transformer(grid)
    index = np.arange(0, grid.functions, 5)
    tables = grid.outputs(grid.tables(index))
    for i, expected in zip(index, tables, strict=True):
        found = g(g.prompt(int(i)), grid.inputs)
        np.testing.assert_array_equal(found.reshape(grid.points, -1), expected)


def test_inputs_and_prompts_within_their_cells_give_what_the_grid_point_gives(four):
    g = four
    generator = np.random.default_rng(0)
    cell, i = generator.integers(0, 4, 50), 33
    inside = (cell + generator.random(50) * 0.99) / 4
    expected = g.grid.outputs(g.grid.tables(np.array([i]))[0, :, 0])[cell]
    np.testing.assert_allclose(g(g.prompt(i), inside), expected, atol=1e-9)
    moved = g.prompt(i) + generator.random(g.prompt(i).shape) * 0.2
    np.testing.assert_allclose(g(moved, inside), expected, atol=1e-9)


def test_outputs_stay_in_the_unit_interval_on_the_margins_too(four):
    on_margins = (np.arange(1, 5) - four.margin * 4 * 0.3) / 4
    out = four(four.prompt(5), np.append(on_margins, 1.0))
    assert ((out >= 0) & (out <= 1)).all()


def test_a_prompt_of_another_function_is_refuted_with_the_pair(four):
    prompts = four.statement.prompts.copy()
    prompts[[10, 11]] = prompts[[11, 10]]
    verdict = replace(four.statement, prompts=prompts).decide()
    assert verdict.status is Status.REFUTED
    assert "function 10 with values" in verdict.reason
    assert "grid point" in verdict.reason
    assert verdict.lower == 0.25
    assert verdict.numbers["wrong"] == 2


@pytest.mark.parametrize(
    ("name", "place", "change"),
    [
        ("second", (150, 0, 0), 1e6), ("offset", (150, 0), 0.05), ("out", (9, 0, 0), 0.5), ("bias", (9, 0), -0.3),
        ("query", (9, 1, 0), 0.1), ("value", (9, 0, 0), 0.25), ("key", (-1, 0, 0), -2.0), ("position", (-1, 0), 0.5),
    ],
)  # fmt: skip
def test_a_changed_weight_is_refuted(four, name, place, change):
    array = getattr(four.stack, name).copy()
    array[place] += change
    verdict = replace(four.statement, stack=replace(four.stack, **{name: array})).decide()
    assert verdict.status is Status.REFUTED
    assert verdict.numbers["wrong"] >= 1


@pytest.mark.parametrize("seed", range(20))
def test_a_verdict_on_changed_weights_agrees_with_executing_them(seed):
    g = universal_transformer(Grid(1, 1, 4, 2, 1))
    generator = np.random.default_rng(seed)
    name = str(generator.choice([n for n in g.stack.arrays() if n != "order"]))
    array = getattr(g.stack, name).copy()
    array.reshape(-1)[generator.integers(array.size)] *= generator.choice([0.0, 0.5, 1.1, 2.0, -1.0])
    changed = replace(g.statement, stack=replace(g.stack, **{name: array}))
    points = g.grid.points
    tokens = [np.repeat(g.statement.prompts, points, axis=0), np.tile(g.grid.inputs, (g.grid.functions, 1, 1))]
    expected = g.grid.outputs(g.grid.tables(np.arange(g.grid.functions))).reshape(-1, 1, 1)
    error = np.abs(execute(changed.stack, np.concatenate(tokens, axis=1)) - expected).max()
    verdict = changed.decide()
    assert verdict.lower - 1e-6 <= error <= verdict.upper + 1e-6
    assert verdict.proved or error > 0


def test_a_missing_prompt_is_refuted_by_the_kernels_own_enumeration(four):
    verdict = replace(four.statement, prompts=four.statement.prompts[:-1]).decide()
    assert verdict.status is Status.REFUTED
    assert "68 functions" in verdict.reason


def test_without_time_nothing_is_decided(four):
    assert four.statement.decide(seconds=0.0).status is Status.UNDECIDED


def test_a_larger_family_than_there_are_prompts_is_refuted_without_enumerating_it(four):
    verdict = replace(four.statement, cells=64, levels=64).decide()
    assert verdict.status is Status.REFUTED
    assert "at least" in verdict.reason


@pytest.mark.parametrize("number", [1e300, -1e300, 5e-324, 0.0])
@pytest.mark.parametrize("name", ["second", "offset", "first", "out", "key", "position"])
def test_hostile_weights_never_crash_and_are_proved_only_where_hardmax_ignores_them(four, name, number):
    array = np.full_like(getattr(four.stack, name), number)
    verdict = replace(four.statement, stack=replace(four.stack, **{name: array})).decide()
    assert verdict.proved == (name == "key" and number == 1e300)  # a positive factor of all logits


def test_statements_that_make_no_sense_are_refused(four):
    with pytest.raises(StatementError, match="power of two"):
        replace(four.statement, cells=6)
    with pytest.raises(StatementError, match="tolerance"):
        replace(four.statement, tolerance=math.nan)
    with pytest.raises(StatementError, match="prompts"):
        replace(four.statement, prompts=four.statement.prompts[:, :-1])
    with pytest.raises(StatementError, match="not finite"):
        replace(four.stack, out=four.stack.out + np.inf)
    with pytest.raises(StatementError, match="beta"):
        replace(four.stack, beta=math.nan)


def test_a_saved_family_is_decided_again_and_a_forged_one_gets_an_honest_verdict(four, tmp_path):
    path = four.save(tmp_path / "family.st")
    assert check_statement(path).proved
    assert load_statement(path).statement.sentence == four.statement.sentence

    def spoil(arrays):
        arrays["second"][60] *= 1.5

    with pytest.raises(ArtefactError):
        check_statement(rewrite(path, tmp_path / "bad.st", arrays=spoil, rehash=False))
    assert check_statement(rewrite(path, tmp_path / "forged.st", arrays=spoil)).status is Status.REFUTED


# --- softmax ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_at_the_derived_temperature_softmax_is_within_the_tolerance_on_the_whole_family(grid):
    g = universal_transformer(grid, softmax=True, tolerance=1e-3)
    assert g.a_priori <= 1e-3 * (1 + 1e-9)
    assert g.verdict.proved
    assert 0 < g.verdict.upper <= 1e-3


def test_softmax_at_too_high_a_temperature_is_refuted(four):
    warm = universal_transformer(four.grid, beta=50.0)
    assert warm.a_priori == math.inf
    assert warm.verdict.status is Status.REFUTED
    assert "function" in warm.verdict.reason
    assert not universal_transformer(four.grid, beta=1.0).verdict.proved


def test_a_head_errs_by_no_more_than_the_bound():
    """Numbers delta apart, a query delta/2 away from zero: the softmax mean misses the largest by at most tau, and by much of it."""
    grid, tokens = Grid(1, 1, 4, 4, 1), 5
    z = np.arange(tokens) / grid.cells
    for beta in (64.0, 128.0, 400.0):
        weights = np.exp(beta * (z - z[-1]) / (2 * grid.cells))
        error = z[-1] - float(weights @ z / weights.sum())
        assert error <= temperature.head_error(grid, tokens, beta)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 5), st.floats(1e-6, 0.1))
def test_the_derived_temperature_makes_the_derived_error_the_tolerance(tokens, tolerance):
    grid = Grid(1, 1, 4, 2, 1)
    beta = temperature.inverse_temperature(grid, tokens + 1, tolerance)
    assert temperature.stack_error(grid, tokens + 1, beta) <= min(tolerance, 1 / 32) * (1 + 1e-9)
