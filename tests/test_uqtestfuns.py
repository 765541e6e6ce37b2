"""Test functions of uncertainty quantification (the package uqtestfuns), which nobody here wrote, go through tracing unchanged."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

from constructions.from_sympy import from_sympy
from constructions.trace import TracedTarget, trace
from verify import Box

uq = pytest.importorskip("uqtestfuns")

FUNCTIONS = {
    "Ishigami": {}, "Borehole": {}, "OTLCircuit": {}, "Piston": {}, "WingWeight": {}, "RobotArm": {}, "Friedman10D": {},
    "SobolG": {"input_dimension": 8}, "Franke1": {},
}  # fmt: skip
UNBOUNDED = frozenset({"normal", "lognormal", "gumbel", "exponential", "logitnormal"})


def domain_of(prob_input) -> Box:
    """Where a function is to be approximated: the support of its inputs; where that is unbounded, mean +- 3 sigma for a normal
    distribution and the 0.1 % quantiles for any other."""
    sides = []
    for marginal in prob_input.marginals:
        if marginal.distribution == "normal":
            mean, sigma = marginal.parameters
            lo, hi = mean - 3 * sigma, mean + 3 * sigma
        elif marginal.distribution in UNBOUNDED:
            lo, hi = np.ravel(marginal.icdf(np.array([0.001, 0.999])))
        else:
            lo, hi = marginal.lower, marginal.upper
        sides.append((float(lo), float(hi)))
    return Box(sides)


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
