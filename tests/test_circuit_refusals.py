"""Circuits that must not be proved: overflow beside the output, conditions that are undefined, hints that are none. Nothing crashes."""

import numpy as np
import pytest
import sympy as sp

from constructions import compile_prefix
from constructions.errors import UndefinedTargetError
from constructions.from_sympy import from_sympy
from verify import (
    Box,
    Claim,
    Expression,
    ExpressionTarget,
    Head,
    Layer,
    Node,
    Prefix,
    Transformer,
    forward,
    prove,
    value_range,
)
from verify.circuit import Circuit, CircuitError, CircuitHint, CircuitNode

x = sp.Symbol("x", real=True)


def table(rows, outputs, variables=("x",)):
    return Expression(tuple(Node(*row) for row in rows), outputs, variables)


def backbone(inputs, d, heads, slot):
    eye = np.eye(d)
    return Transformer(eye[:, :inputs], eye[-1], (Layer((Head(eye, eye),) * heads, True),), eye[[slot]])


def claim_of_a_half(loud: float, tolerance=1e300, tokens=64, needed=False):
    """1/2 from one head, while another writes `loud` from many tokens to a slot that nobody reads (or to the same output)."""
    model = backbone(1, 4, 2, 2)
    read, later = table([("var", (), "0")], (0,)), table([("var", (), "0")], (0,), ("x", "n0"))
    nodes = (
        CircuitNode(read, table([("const", (), str(int(loud)))], (0,), ("z",))),
        CircuitNode(later, table([("const", (), "1/2")], (0,), ("z",))),
    )
    circuit = Circuit(("x",), nodes, table([("var", (), "2")], (0,), ("x", "n0", "n1")))
    values, half = np.zeros((tokens, 4)), np.zeros((tokens, 4))
    values[:, 1], half[:, 2] = loud, 0.5
    keys = np.zeros((tokens, 4))
    hint = CircuitHint(circuit, ((0, 0, 1), (0, 1, 2)), (tolerance, 1e-3))
    target = ExpressionTarget(table([("const", (), "1/2")], (0,)))
    return Claim(model, Prefix(((keys, keys),), ((values, half),)), target, Box({"x": (0, 1)}), 1e-3, circuit=hint)


def test_an_overflow_in_a_slot_that_nobody_reads_is_seen():
    """64 tokens of 2^1020 sum to infinity, and 0 times infinity is not a number in every slot."""
    claim = claim_of_a_half(2.0**1020)
    with np.errstate(all="ignore"):
        assert np.isnan(forward(claim.model, claim.prefix, np.array([[0.5]]))).all()
    assert not prove(claim).proved


def test_a_node_that_no_output_needs_is_refused():
    found = prove(claim_of_a_half(2.0**20))
    assert not found.proved
    assert "needed for no output" in found.reason


CONDITIONS = [
    sp.Piecewise((x, sp.log(x) > -1), (x + sp.Rational(1, 100), True)),
    sp.Piecewise((x, sp.sqrt(x) + 1 > 0), (x, True), evaluate=False),
    sp.Piecewise((sp.sin(x), sp.acosh(x) > 1), (sp.cos(x), True)),
]


@pytest.mark.parametrize("f", CONDITIONS, ids=["log", "sqrt", "acosh"])
def test_a_condition_that_is_undefined_leaves_the_target_undefined(f):
    assert value_range(from_sympy([f], ["x"]), Box([(-1, 1)])).bad is not None if f.has(sp.Piecewise) else True
    with pytest.raises(UndefinedTargetError):
        compile_prefix(f, 0.05, {"x": (-1, 1)})


def test_the_zeroth_power_of_something_undefined_is_undefined():
    f = table([("var", (), "0"), ("log", (0,)), ("pow", (1,), "0")], (2,))
    assert value_range(f, Box([(-1, 1)])).bad is not None
    assert value_range(f, Box([(0.5, 1)])).upper == pytest.approx(1.0)


def changed(**parts):
    claim = compile_prefix(sp.exp(x) * sp.Symbol("y"), 1e-2, {"x": (0, 1), "y": (1, 2)}, method="circuit").claim
    hint = claim.circuit
    assert hint is not None
    return claim, CircuitHint(**{"circuit": hint.circuit, "places": hint.places, "tolerances": hint.tolerances} | parts)


@pytest.mark.parametrize("size", [0.0, 1e-300, 1.7e308, float("inf"), float("nan"), -1.0])
def test_tolerances_are_believed_in_nothing(size):
    claim, hint = changed(tolerances=(size,) * len(changed()[1].tolerances))
    assert prove(Claim(claim.model, claim.prefix, claim.target, claim.domain, claim.eps, circuit=hint)).proved


def test_a_circuit_in_other_variables_is_refused():
    claim = claim_of_a_half(1.0)
    one = table([("const", (), "1/2")], (0,), ("z",))
    read = table([("var", (), "0")], (0,), ("x", "y"))
    circuit = Circuit(("x", "y"), (CircuitNode(read, one),), table([("var", (), "2")], (0,), ("x", "y", "n0")))
    found = prove(
        Claim(
            claim.model,
            claim.prefix,
            claim.target,
            claim.domain,
            1e-3,
            circuit=CircuitHint(circuit, ((0, 1, 2),), (1e-3,)),
        )
    )
    assert "2 variables" in found.reason


@pytest.mark.parametrize("place", [(0.0, 0, 1), (True, 0, 1), (0, 1), ("0", 0, 1)], ids=str)
def test_places_are_whole_numbers(place):
    claim = claim_of_a_half(1.0)
    assert claim.circuit is not None
    with pytest.raises(CircuitError, match="place of node 0"):
        CircuitHint(claim.circuit.circuit, (place, (0, 1, 2)), (1.0, 1.0))


def test_long_chains_of_constants_end():
    rows = [("const", (), "1"), *(("mul", (i, 0)) for i in range(2500)), ("var", (), "0"), ("mul", (2500, 2501))]
    reads = table(rows, (2502,))
    circuit = Circuit(
        ("x",),
        (CircuitNode(reads, table([("const", (), "1/2")], (0,), ("z",))),),
        table([("var", (), "1")], (0,), ("x", "n0")),
    )
    model = backbone(1, 3, 1, 1)
    values = np.array([[0.0, 0.5, 0.0]])
    claim = Claim(
        model, Prefix(((np.zeros((1, 3)),),), ((values,),)), ExpressionTarget(table([("const", (), "1/2")], (0,))), Box({"x": (0, 1)}), 1e-3,
        circuit=CircuitHint(circuit, ((0, 0, 1),), (1e-3,)),
    )  # fmt: skip
    assert prove(claim, seconds=20).proved
