"""Test functions of uncertainty quantification (the package uqtestfuns), which nobody here wrote, go through tracing unchanged, and compile."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

from benchmarks.uncertainty import FUNCTIONS, domain_of
from constructions.compile import compile_prefix
from constructions.from_sympy import from_sympy
from constructions.suite.attained import attained_range
from constructions.trace import TracedTarget, trace
from verify import Box

uq = pytest.importorskip("uqtestfuns")

SLOW = frozenset({"RobotArm", "SobolG"})
"""Compiled for a coarser eps (half a minute for both at 1e-3): `--campaign 2` and the benchmark `circuits` do not spare them."""
MOST_TOKENS = {
    "Ishigami": 24, "Borehole": 40, "OTLCircuit": 40, "Piston": 45, "WingWeight": 31, "RobotArm": 125, "Friedman10D": 14,
    "SobolG": 95, "Franke1": 36,
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_formula_is_the_function(name):
    """The object itself is traced, with its checks of shape and domain and its parameters."""
    function = getattr(uq, name)(**FUNCTIONS[name])
    box = domain_of(function.prob_input)
    traced = trace(function, bounds=list(zip(box.lo, box.hi, strict=True)))
    assert isinstance(traced, TracedTarget), traced
    assert all(not e.atoms(sp.Float) for e in traced.expressions)
    names = [s.name for s in traced.symbols]
    table = from_sympy(traced.expressions, names)
    points = box.sample(500, seed=7)
    np.testing.assert_allclose(table.evaluate(points)[:, 0], function(points), rtol=1e-9, atol=1e-11)


def test_domains_are_bounded_where_the_inputs_are_not():
    box = domain_of(uq.Borehole().prob_input)
    assert box.lo[0] == pytest.approx(0.1 - 3 * 0.0161812)
    assert box.lo[1] == pytest.approx(np.exp(7.71 - 3.090232 * 1.0056), rel=1e-5)
    assert (box.lo[2], box.hi[2]) == (63070.0, 115600.0)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_function_is_compiled_and_proved(name, campaign):
    """compile_prefix takes the object as it is: proved at 1e-3 of its range for the formula it was traced to, which is said."""
    function = getattr(uq, name)(**FUNCTIONS[name])
    box = domain_of(function.prob_input)
    traced = trace(function, bounds=list(zip(box.lo, box.hi, strict=True)))
    assert isinstance(traced, TracedTarget), traced
    names = [s.name for s in traced.symbols]
    # max - min of values that are attained: no more than the range
    span = attained_range(from_sympy(traced.expressions, names), Box(dict(zip(names, zip(*box.bounds, strict=True), strict=True))))  # fmt: skip
    relative = 5e-2 if name in SLOW and campaign < 2 else 1e-3
    # the length must not depend on how busy the machine is
    result = compile_prefix(function, eps=relative * span, domain=box, method="circuit", time_limit=900)
    assert result.certificate.proved
    assert any("tracing" in text for text in result.certificate.assumptions)
    assert result.length <= MOST_TOKENS[name]
    points = box.sample(2000, seed=3)
    worst = np.abs(result(points)[:, 0] - function(points)).max()
    assert worst <= result.certificate.error_upper <= result.eps
