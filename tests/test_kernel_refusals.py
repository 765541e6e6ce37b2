"""Claims and files that would read as something they do not say are refused."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp
from tampering import rewrite

import constructions
import verify
from constructions import Box, compile_prefix
from constructions.compiled import backbone
from constructions.from_sympy import from_sympy
from verify import (
    Alternation,
    Claim,
    Expression,
    ExpressionError,
    ExpressionTarget,
    Node,
    Prefix,
    prove,
    value_range,
    zigzag,
)

x, y = sp.symbols("x y")


def test_sums_of_values_that_overflow_are_undecided():
    """Each value is finite; their sum, before it is divided by the sum of the weights, is not."""
    prefix = Prefix(((np.zeros((4, 2)),),), ((np.full((4, 1), 6e307),),))
    target = ExpressionTarget(Expression((Node("const", (), str(int(6e307))),), (0,), ("x",)))
    assert prove(Claim(backbone(1, 1), prefix, target, Box([(0, 1)]), 1e297)).status == "undecided"


def test_the_names_of_target_and_domain_must_agree():
    target = ExpressionTarget(from_sympy([x - y], ["x", "y"]))
    prefix = Prefix(((np.zeros((1, 3)),),), ((np.zeros((1, 1)),),))
    with pytest.raises(ValueError, match="domain in"):
        Claim(backbone(2, 1), prefix, target, Box({"y": (0, 1), "x": (0, 1)}), 1.0)


@pytest.mark.parametrize("variables", [("x", "x"), ("0*x",), ("a b",), ("\x1b[31m",), ("",)])
def test_variables_are_distinct_plain_names(variables):
    with pytest.raises(ExpressionError, match="variable"):
        Expression((Node("var", (), "0"),), (0,), variables)


def test_a_target_defined_nowhere_is_refused():
    f = sp.sin(40 * x) + sp.sqrt(sp.sin(x) ** 2 + sp.cos(x) ** 2 - 1 - sp.Rational(1, 10**30))
    assert value_range(from_sympy([f], ["x"]), Box([(0, 1)])).bad is not None


@pytest.mark.parametrize("points", [((0.0,), (0.0, 1.0)), ((0.0,), (None,)), ((0.0,), (float("nan"),))])
def test_malformed_alternations_do_not_hold(points):
    target = ExpressionTarget(from_sympy([sp.sin(9 * x)], ["x"]))
    assert not Alternation(points, 0.0, 0.1).holds(target, Box([(0, 1)]))


@pytest.mark.parametrize("arguments", [(1, 0, 1, 0), (float("inf"), 0, 1, 1), (-1, 0, 1, 1), (1, 1, 0, 1)])
def test_zigzags_without_meaning_are_refused(arguments):
    with pytest.raises(ValueError, match="zigzag"):
        zigzag(*arguments)


def test_the_condition_of_a_black_box_cannot_be_edited_away(tmp_path):
    def f(t):
        if not isinstance(t, np.ndarray):
            raise TypeError("numbers only")
        return np.abs(t)

    path = compile_prefix(f, 0.2, Box([(-1, 1)]), lipschitz=1.0).save(tmp_path / "a.prefix.safetensors")

    def forge(document):
        document["certificate"] |= {"conditional": False, "assumptions": []}

    forged = rewrite(path, tmp_path / "forged.prefix.safetensors", document=forge)
    with pytest.raises(verify.ArtefactError, match="conditional"):
        constructions.load(forged)
