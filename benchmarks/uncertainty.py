"""Nine test functions of uncertainty quantification, of the package uqtestfuns: NumPy code that is traced as it stands, and where it is used."""

from __future__ import annotations

import time
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

import numpy as np

from constructions.compile import compile_prefix
from constructions.errors import CompileError, NotProvedError
from constructions.from_sympy import from_sympy
from constructions.suite import Row
from constructions.suite.attained import attained_range
from constructions.trace import NotTraceable, trace
from verify import Box

__all__ = ["FUNCTIONS", "domain_of", "installed", "row"]

FUNCTIONS = MappingProxyType({
    "Ishigami": {}, "Borehole": {}, "OTLCircuit": {}, "Piston": {}, "WingWeight": {}, "RobotArm": {}, "Friedman10D": {},
    "SobolG": {"input_dimension": 8}, "Franke1": {},
})  # fmt: skip
"""Names of classes, and what they are made with."""
_UNBOUNDED = frozenset({"normal", "lognormal", "gumbel", "exponential", "logitnormal"})


def installed() -> bool:
    """Whether the package is there."""
    return find_spec("uqtestfuns") is not None


def domain_of(prob_input: Any) -> Box:
    """Where a function is to be approximated: the support of its inputs; where that is unbounded, mean +- 3 sigma for a normal
    distribution and the 0.1 % quantiles for any other."""
    sides = []
    for marginal in prob_input.marginals:
        if marginal.distribution == "normal":
            mean, sigma = marginal.parameters
            lo, hi = mean - 3 * sigma, mean + 3 * sigma
        elif marginal.distribution in _UNBOUNDED:
            lo, hi = np.ravel(marginal.icdf(np.array([0.001, 0.999])))
        else:
            lo, hi = marginal.lower, marginal.upper
        sides.append((float(lo), float(hi)))
    return Box(sides)


def row(name: str, eps_rel: float, time_limit: float) -> Row:
    """One function, compiled as a circuit at eps_rel times (a lower bound of) its range. seconds: of tracing, compiling and proving."""
    function = getattr(import_module("uqtestfuns"), name)(**FUNCTIONS[name])
    box = domain_of(function.prob_input)
    started = time.perf_counter()
    out = Row("", name, "error", box.dimension, time_limit=time_limit)
    traced = trace(function, bounds=list(zip(box.lo, box.hi, strict=True)))
    if isinstance(traced, NotTraceable):
        return replace(out, message=str(traced))
    names = [s.name for s in traced.symbols]
    sides = dict(zip(names, zip(box.lo, box.hi, strict=True), strict=True))
    span = attained_range(from_sympy(traced.expressions, names), Box(sides))
    out = replace(out, range=span, eps=eps_rel * span)
    try:
        c = compile_prefix(function, eps_rel * span, box, method="circuit", time_limit=time_limit, progress=False)
    except NotProvedError as error:
        return replace(out, status=str(error.status), message=str(error), seconds=time.perf_counter() - started)
    except CompileError as error:
        return replace(out, message=str(error), seconds=time.perf_counter() - started)
    return replace(
        out,
        status=str(c.certificate.status),
        tokens=c.length,
        layers=len(c.model.layers),
        heads=sum(len(layer.heads) for layer in c.model.layers),
        error=c.certificate.error_upper,
        seconds=time.perf_counter() - started,
    )
