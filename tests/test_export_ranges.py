"""Claims that a float format must not prove: points, sums and products beyond its range, what is lost below it, and formats that cannot be."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import sympy as sp

from constructions import compile_prefix
from constructions.compiled import backbone
from verify import Box, Claim, Prefix, prove
from verify.formats import BFLOAT16, FLOAT32, FLOAT64, FloatFormat, FormatError, prove_in_format
from verify.model import Head, Layer, Transformer

X = sp.Symbol("x")
SIXTEEN = FloatFormat("sixteen bits", 16, 2.0**-126, 2.0**127, 4)
SQUARE = Box([(-1, 1)])


@pytest.fixture(scope="module")
def nothing():
    """The target 0."""
    return compile_prefix(sp.Integer(0) * X, 1.0, SQUARE).claim.target


def one_head(keys, values, target, box, eps, model=None):
    keys, values = np.asarray(keys, dtype=float), np.asarray(values, dtype=float).reshape(len(keys), -1)
    found = backbone(keys.shape[1] - 1, values.shape[1]) if model is None else model
    return Claim(found, Prefix(((keys,),), ((values,),)), target, box, eps)


def frozen(embedding=1.0, query=1.0, output=1.0, readout=1.0):
    head = Head(np.diag([query, 1.0]), np.array([[output]]))
    return Transformer(np.array([[embedding], [0.0]]), np.array([0.0, 1.0]), (Layer((head,)),), np.array([[readout]]))


@pytest.fixture(scope="module")
def tanh():
    return compile_prefix(sp.tanh(X), 0.01, SQUARE).claim.target


def test_a_domain_beyond_the_range_is_refused(nothing):
    """The point itself is infinite in the format, whatever multiplies it."""
    for dtype in ("float32", "bfloat16"):
        for keys in ([[0.0, 1.0], [0.0, 0.0]], [[1e-38, 0.0], [0.0, 0.0]]):
            found = prove_in_format(one_head(keys, [1.0, 1.0], nothing, Box([(-1e39, 1e39)]), 10.0), dtype)
            assert not found.proved
            assert "range" in found.certificate.reason
    shrinks = one_head([[1e-9, 0.0], [0.0, 0.0]], [1.0, 1.0], nothing, Box([(-1e39, 1e39)]), 10.0, frozen(2.0**-100))
    assert prove(shrinks).proved  # and everything but the point is small
    assert not prove_in_format(shrinks, "float32").proved
    # the real function is proved, and so is the execution where points fit
    near = prove_in_format(
        one_head([[0.0, 1.0], [0.0, 0.0]], [1.0, 1.0], nothing, Box([(-1e30, 1e30)]), 10.0), "float32"
    )
    assert near.proved


@pytest.mark.parametrize(
    ("sizes", "key", "value"),
    [
        ((2.0**64, 2.0**64, 1.0, 1.0), 2.0**-126, 1.0),
        ((1.0, 1.0, 2.0**66, 2.0**-126), 1.0, 2.0**60),
        ((1.0, 1.0, 2.0**27, 2.0**-126), 1.0, 2.0**100),
    ],
)
def test_what_overflows_between_the_matrices_is_refused(sizes, key, value, tanh):
    claim = one_head([[key, 0.0], [-key, 0.0]], [value, -value], tanh, SQUARE, 10.0, frozen(*sizes))
    assert prove(claim).proved
    found = prove_in_format(claim, "float32")
    assert not found.proved
    assert "range" in found.certificate.reason


@pytest.mark.parametrize(
    ("sizes", "key", "value"),
    [
        ((2.0**-126, 1.0, 1.0, 1.0), 2.0**126, 1.0),
        ((1.0, 2.0**-126, 1.0, 1.0), 2.0**126, 1.0),
        ((1.0, 1.0, 2.0**126, 1.0), 1.0, 2.0**-126),
        ((1.0, 1.0, 1.0, 2.0**126), 1.0, 2.0**-126),
    ],
)
def test_what_underflows_and_is_brought_back_is_refused(sizes, key, value, tanh):
    claim = one_head([[key, 0.0], [-key, 0.0]], [value, -value], tanh, SQUARE, 0.01, frozen(*sizes))
    assert prove(claim).proved
    assert not prove_in_format(claim, "float32").proved


def test_huge_logits_are_refused(nothing):
    """exp2 of a fused difference is then e to the power of a rounding error, which is nothing like 1; also in a block that does not count."""
    for keys in ([[0.0, 1.2345e11], [0.0, 1.2345e11]], [[0.0, -1.2345e11], [0.0, 0.0]]):
        claim = one_head(keys, [1.0, 1.0], nothing, SQUARE, 10.0)
        assert prove(claim).proved
        assert not prove_in_format(claim, "float32").proved


def test_only_float64_is_float64(nothing):
    narrow = FloatFormat("float64 with few exponents", 53, 2.0**-6, 2.0**100, 8)
    claim = one_head([[1.0, 0.0], [-1.0, -3.5]], [0.0, 1.0], nothing, SQUARE, 2.0)
    exact = prove_in_format(claim, FLOAT64).certificate
    found = prove_in_format(claim, narrow)
    weight = 2.0**-6 - 1e-3  # a weight that is lost
    assert not found.proved or found.certificate.rounding > weight
    assert exact.rounding < 1e-12
    small = replace(FLOAT64, largest=4.0)  # holds the parameters, and not much else
    assert not prove_in_format(claim, small).proved


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("block", 0), ("block", 2.5), ("block", True), ("precision", 1), ("precision", 54), ("precision", 24.0),
        ("exp_units", -1), ("exp_units", math.nan), ("exp_units", math.inf), ("exp_units", 2.0**30),
        ("smallest_normal", 0.0), ("smallest_normal", math.nan), ("smallest_normal", 2.0), ("smallest_normal", 5e-324),
        ("largest", math.inf), ("largest", math.nan), ("largest", 0.5), ("largest", "1"), ("name", ""), ("name", None),
    ],
)  # fmt: skip
def test_formats_that_cannot_be(field, value):
    with pytest.raises(FormatError, match=field):
        replace(FLOAT32, **{field: value})


def test_names_of_formats():
    claim = one_head(
        [[1.0, 0.0], [-1.0, 0.0]],
        [1.0, 1.0],
        compile_prefix(sp.Integer(1) + 0 * X, 1.0, SQUARE).claim.target,
        SQUARE,
        1.0,
    )
    for form in (np.float32, "float32", "torch.float32", np.dtype("float32")):
        assert prove_in_format(claim, form).form is FLOAT32
    for form in (None, [], "float16", 1.5, float):
        with pytest.raises(FormatError, match="unknown"):
            prove_in_format(claim, form)


def test_what_is_assumed_of_the_formats():
    """Stated in the literature or by the machine: SLEEF's u20, bfloat16's cast of a float32 exponential, blocks of flash attention."""
    assert (FLOAT32.exp_units, FLOAT32.block) == (40, 32)
    assert (BFLOAT16.exp_units, BFLOAT16.block) == (2, 32)
    assert (FLOAT64.exp_units, FLOAT64.block) == (8, 32)
    for form in (FLOAT32, BFLOAT16, SIXTEEN):
        for n in (1, 7, 100):
            exact = Fraction(n) * Fraction(form.unit) / (1 - Fraction(n) * Fraction(form.unit))
            assert exact <= Fraction(form.gamma(n)) <= exact * (1 + Fraction(1, 2**40))
        assert form.gamma(int(0.5 / form.unit)) == math.inf
