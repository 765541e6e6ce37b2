"""`compile_prompt`: a prompt for a user's function, its L^p error proved, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sympy as sp
from tampering import rewrite

from constructions import GridData
from constructions.errors import CompileError, EpsilonError, LipschitzError, NotProvedError
from constructions.from_sympy import from_sympy
from constructions.wang2023.universal import (
    Grid,
    TooLargeError,
    compile_prompt,
    universal_transformer,
)  # fmt: skip
from constructions.wang2023.universal.interpolant import as_formulas
from verify import Status, check_statement
from verify.target import GridTarget

x, y = sp.symbols("x y")


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


@pytest.mark.parametrize("f", [x ** sp.Rational(3, 2), sp.sqrt(x**3), (1 - x) ** sp.Rational(3, 2), lambda t: t**1.5])
def test_a_formula_at_the_end_of_its_domain_takes_a_declared_constant_and_is_proved_without_it(f):
    """No derivative of x^(3/2) can be enclosed at 0. The constant chooses the grid; the proof is of the formula, [0, h] included."""
    with pytest.raises(CompileError, match="pass lipschitz="):
        compile_prompt(f, 0.2)
    c = compile_prompt(f, 0.2, lipschitz=1.5)
    assert c.verdict.proved
    assert not c.conditional
    assert c.statement.expression is not None


def test_a_formula_that_is_undefined_somewhere_is_not_proved():
    c = compile_prompt(x / 2 + sp.Rational(1, 4), 0.2)
    expression = from_sympy((sp.sqrt(x - sp.Rational(1, 3)),), ["x"])
    verdict = replace(c.statement, expression=expression, eps=10.0).decide()
    assert verdict.status is Status.UNDECIDED


def test_grid_data_are_a_formula_and_proved_without_a_condition():
    axes, values = [np.array([0.0, 0.2, 0.5, 1.5])], np.array([0.1, 0.6, 0.3, 0.9])
    c = compile_prompt(GridData(axes, values), 0.2)
    assert c.verdict.proved
    assert not c.conditional
    assert "interpolant" in repr(c)
    at = (np.arange(2000) + 0.5) / 2000
    measured = np.mean(np.abs(c(at) - np.interp(at, axes[0], values)) ** 2) ** 0.5
    assert c.verdict.lower - 1e-4 <= measured <= c.bound + 1e-4


def test_grid_data_of_two_variables_as_formulas_are_the_interpolant():
    axes = [np.linspace(0, 1, 3), np.array([0, 0.3, 1.0])]
    target = GridTarget(tuple(axes), np.random.default_rng(0).random((3, 3, 2)), "linear")
    formulas: Any = as_formulas(target, ["x", "y"])
    points = np.random.default_rng(1).random((50, 2))
    found = sp.lambdify((x, y), formulas)(*points.T)
    np.testing.assert_allclose(np.stack(found, axis=-1), target.evaluate(points), atol=1e-12)


def test_large_grids_go_by_their_constant_and_jumps_are_refused():
    large = GridData([np.linspace(0, 1, 200)], np.linspace(0.2, 0.6, 200))
    assert compile_prompt(large, 0.2).conditional
    with pytest.raises(CompileError, match="Lipschitz"):
        compile_prompt(GridData([[0, 0.5, 1]], [0.1, 0.5, 0.2], interpolation="nearest"), 0.2)


def test_a_traced_callable_says_that_its_formula_was_sampled():
    c = compile_prompt(lambda t: t / 2 + 0.25, 0.2)
    assert not c.conditional  # what is proved is about the formula, which the repr shows
    assert "traced, not proved" in c.assumptions[0]
