"""One transformer, every function of a quantised Lipschitz family a prompt: checked pair by pair, in exact arithmetic, and refuted where it is not so."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from tampering import rewrite

from constructions.errors import CompileError, EpsilonError, LipschitzError, NotProvedError
from constructions.wang2023.universal import (
    Grid,
    TooLargeError,
    compile_prompt,
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
from verify.stack import Plan, Run, Span, Stack

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


def test_no_time_and_no_enumeration_are_undecided(four):
    assert four.statement.decide(seconds=0.0).status is Status.UNDECIDED
    large = replace(four.statement, cells=64, levels=64)
    assert large.decide().status is Status.UNDECIDED


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


# --- the kernel's arithmetic --------------------------------------------------------------------------------------------

finite = st.floats(-1e12, 1e12) | st.floats().filter(math.isfinite)


@given(finite, finite)
def test_spans_enclose_and_stay_points_where_float64_is_exact(a, b):
    with np.errstate(all="ignore"):
        for found, exact in [
            (Span.exact(np.array([a])) + Span.exact(np.array([b])), Fraction(a) + Fraction(b)),
            (Span.exact(np.array([a])).scale(np.array([b])), Fraction(a) * Fraction(b)),
            (Span.exact(np.array([a])).times(Span.exact(np.array([b]))), Fraction(a) * Fraction(b)),
        ]:
            lo, hi = float(found.lo[0]), float(found.hi[0])
            assert lo == -math.inf or Fraction(lo) <= exact
            assert hi == math.inf or exact <= Fraction(hi)
            if lo == hi:
                assert Fraction(lo) == exact
    whole = Span.exact(np.array([float(int(a) % 2**30)])) + Span.exact(np.array([0.125]))
    assert whole.lo[0] == whole.hi[0]


def random_stack(seed: int, beta: float) -> tuple[Stack, np.ndarray]:
    r = np.random.default_rng(seed)
    order = r.permutation([0.0, 0.0, 0.0, 1.0, 1.0])
    w = {name: np.round(r.normal(size=(2, 2, 2)) * 4) / 8 for name in ("query", "key", "value", "out")}
    first = np.round(r.normal(size=(3, 4, 2)) * 4) / 8
    first[0] = first[0, 0]
    second = np.round(r.normal(size=(3, 2, 4)) * 4) / 8
    stack = Stack(
        1, np.round(r.normal(size=(3, 2)) * 8) / 8, order, w["query"], np.round(r.normal(size=(2, 2)) * 4) / 8, w["key"], w["value"],
        w["out"], first, r.normal(size=(3, 4)), second, beta,
    )  # fmt: skip
    return stack, r.normal(size=(2, 3, 2))


def by_mpmath(stack: Stack, tokens: np.ndarray) -> list:
    """One sequence through the stack in 60 digits."""
    with mpmath.workdps(60):
        z = mpmath.matrix(tokens.tolist()) + mpmath.matrix(stack.position.tolist())
        n, d, a, f = stack.n, stack.d, 0, 0
        dot = lambda w, row: mpmath.fsum(mpmath.mpf(float(c)) * t for c, t in zip(w, row, strict=True))  # noqa: E731
        for kind in stack.order:
            rows = [[z[j, i] for i in range(d)] for j in range(n)]
            new = z.copy()
            for j in range(n):
                if kind == 1:
                    for h in range(2):
                        q = dot(stack.query[a, h], rows[j]) + mpmath.mpf(float(stack.bias[a, h]))
                        logits = [q * dot(stack.key[a, h], row) for row in rows]
                        best = max(logits)
                        weights = [
                            mpmath.mpf(t == best) if math.isinf(stack.beta) else mpmath.exp(stack.beta * (t - best))
                            for t in logits
                        ]
                        out = mpmath.fsum(
                            w * dot(stack.value[a, h], row) for w, row in zip(weights, rows, strict=True)
                        ) / mpmath.fsum(weights)
                        for i in range(d):
                            new[j, i] += out * mpmath.mpf(float(stack.out[a, h, i]))
                else:
                    hidden = [
                        max(dot(stack.first[f, r], rows[j]) + mpmath.mpf(float(stack.offset[f, r])), mpmath.mpf(0))
                        for r in range(4)
                    ]
                    for i in range(d):
                        new[j, i] += dot(stack.second[f, i], hidden)
            z, a, f = new, a + int(kind == 1), f + int(kind == 0)
        return [z[n - 1, i] for i in range(d)]


@pytest.mark.parametrize("beta", [math.inf, 1.0, 40.0])
@pytest.mark.parametrize("seed", range(6))
def test_the_run_encloses_any_stack(seed, beta):
    stack, tokens = random_stack(seed, beta)
    found = stack.run(tokens, Plan.of(stack))
    for k in range(len(tokens)):
        for i, exact in enumerate(by_mpmath(stack, tokens[k])):
            assert mpmath.mpf(float(found.lo[k, 0, i])) <= exact <= mpmath.mpf(float(found.hi[k, 0, i]))
            assert found.hi[k, 0, i] - found.lo[k, 0, i] < 1e-9
    np.testing.assert_allclose(execute(stack, tokens), found.lo, atol=1e-9)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_hardmax_finds_the_largest_key_near_overflow(sign):
    heads = {name: np.zeros((1, 2, 1)) for name in ("query", "key", "value", "out")}
    heads["key"][:], heads["value"][:], heads["out"][0, 0] = 1e308, 1.0, 1.0
    position = np.array([[1.25], [1.5], [1.75]])
    stack = Stack(
        1, position, np.ones(1), heads["query"], np.array([[sign, 0.0]]), heads["key"], heads["value"], heads["out"],
        np.zeros((0, 4, 1)), np.zeros((0, 4)), np.zeros((0, 1, 4)),
    )  # fmt: skip
    found = stack.run(np.zeros((1, 3, 1)), Plan.of(stack))
    exact = 1.75 + (1.75 if sign > 0 else 1.25)
    assert found.lo[0, 0, 0] <= exact <= found.hi[0, 0, 0]


def test_sparse_runs_and_layer_by_layer_runs_agree(four):
    """The same stack with every feed-forward layer on its own, in the order of execution."""
    sparse, items = Plan.of(four.stack), []
    for item in sparse.items:
        if isinstance(item, int):
            items.append(item)
            continue
        order = np.argsort(item.layer)
        items += [Run(item.direction, item.starts[[k]], item.ends[[k]], item.layer[[k]]) for k in order]
    last = max(i for i, item in enumerate(items) if isinstance(item, int) and item >= 0)
    tokens = np.concatenate(
        [np.repeat(four.statement.prompts[::9], 4, axis=0), np.tile(four.grid.inputs, (8, 1, 1))], axis=1
    )
    one, two = four.stack.run(tokens, sparse), four.stack.run(tokens, Plan(tuple(items), last))
    for end in (one.hi, two.lo, two.hi):
        np.testing.assert_array_equal(one.lo, end)
    assert len(items) == four.stack.depth > 10 * len(sparse.items) / 3


# --- a prompt for a user's function -------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [1, 2, 3.5])
def test_a_compiled_prompt_is_within_eps_in_lp_and_the_integral_agrees(p):
    f = sp.sin(2 * x) / 3 + sp.Rational(1, 4)
    c = compile_prompt(f, 0.2, p=p)
    assert c.verdict.proved
    assert c.bound <= 0.2
    assert not c.conditional
    assert c.bound <= c.uniform <= 0.2
    at = (np.arange(4000) + 0.5) / 4000
    measured = np.mean(np.abs(c(at) - (np.sin(2 * at) / 3 + 0.25)) ** p) ** (1 / p)
    assert c.verdict.lower - 1e-4 <= measured <= c.bound + 1e-4
    assert "proved: L^" in repr(c)


def test_one_transformer_serves_two_functions_by_their_prompts():
    first = compile_prompt(x / 2 + sp.Rational(1, 4), 0.2)
    second = compile_prompt(sp.Rational(3, 4) - x / 2, 0.2, model=first.model)
    assert first.verdict.proved
    assert second.verdict.proved
    assert first.model is second.model
    assert not np.array_equal(first.prompt, second.prompt)


@pytest.mark.parametrize("sizes_of", [{"m": 2}, {"d": 2}])
def test_functions_of_two_numbers_as_two_tokens_or_as_one(sizes_of):
    c = compile_prompt([x * y / 2 + sp.Rational(1, 4), (x + y) / 4 + sp.Rational(1, 4)], 0.3, softmax=True, **sizes_of)
    assert c.verdict.proved
    shape = (1, c.model.grid.m, c.model.grid.d)
    assert np.abs(c(np.full(shape, 0.1)).ravel() - [0.255, 0.3]).max() < 0.3


def test_a_callable_is_conditional_on_its_declared_constant_and_says_so():
    c = compile_prompt(np.vectorize(lambda t: 0.5 * float(t) if t > 0 else 0.0), 0.2, lipschitz=0.5)
    assert c.verdict.proved
    assert c.conditional
    assert "declared" in repr(c)
    assert "declared" in c.verdict.assumptions[0]
    with pytest.raises(LipschitzError):
        compile_prompt(np.vectorize(lambda t: 0.5 * float(t) if t > 0 else 0.0), 0.2)


def test_a_tampered_prompt_gives_another_function_and_is_refuted(tmp_path):
    c = compile_prompt(x / 2 + sp.Rational(1, 4), 0.12)
    path = c.save(tmp_path / "prompt.st")
    assert check_statement(path).proved

    def swap(arrays):
        arrays["prompt"][:] = c.model.prompt(0)

    assert check_statement(rewrite(path, tmp_path / "forged.st", arrays=swap)).status is Status.REFUTED


def test_what_the_proof_of_the_lp_error_needs_is_checked():
    c = compile_prompt(x / 2 + sp.Rational(1, 4), 0.2)
    tighter = replace(c.statement, margin=c.model.margin / 2)  # the layers do not quantise that far
    assert tighter.decide().status is Status.UNDECIDED
    assert "not quantised" in tighter.decide().reason
    second = c.model.stack.second.copy()
    second[-1] = 0  # no clamp
    unclamped = replace(c.statement, stack=replace(c.model.stack, second=second))
    assert "margins" in unclamped.decide().reason
    assert c.statement.decide(seconds=0.0).status is Status.UNDECIDED
    assert replace(c.statement, eps=1e-6).decide().status is Status.REFUTED


def test_requests_that_cannot_be_honoured_say_why():
    with pytest.raises(EpsilonError):
        compile_prompt(x, -1)
    with pytest.raises(CompileError, match="Lipschitz"):
        compile_prompt(sp.sqrt(x), 0.1)
    with pytest.raises(CompileError, match="outside"):
        compile_prompt(2 * x, 0.1)
    with pytest.raises(CompileError, match="components"):
        compile_prompt([x, x], 0.1)
    with pytest.raises(CompileError, match="power of two"):
        Grid(1, 1, 6, 4, 1)
    with pytest.raises(TooLargeError, match="planned, not built") as refused:
        compile_prompt(x, 0.001)
    assert refused.value.plan.functions is None or refused.value.plan.functions > 10**100
    coarse = universal_transformer(Grid(1, 1, 4, 2, 1))
    with pytest.raises(NotProvedError):
        compile_prompt(x, 0.01, model=coarse)
    gentle = universal_transformer(Grid(1, 1, 4, 4, 1))
    with pytest.raises(CompileError, match="not in the family"):
        compile_prompt(sp.Max(0, sp.Min(1, 8 * x - 4)), 0.3, model=gentle)
