"""Rewriting an expression into circuits: every candidate equals the target, shares what can be shared and fuses what can be fused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from constructions.circuits import IR, circuits_for, composed, to_circuit
from constructions.circuits.costs import read_ranges
from constructions.circuits.ir import Z1, Z2, Z, depths, node_values
from constructions.circuits.known import Known
from constructions.circuits.ranges import bounds
from constructions.errors import UnsupportedExpressionError
from constructions.from_sympy import from_sympy
from constructions.parse import parse_domain
from verify import Box, Expression

FEYNMAN = [
    ("I.6.2", "sqrt(2)*exp(-theta**2/(2*sigma**2))/(2*sqrt(pi)*sigma)", "sigma=1:3, theta=1:3"),
    ("I.8.14", "sqrt((-x1 + x2)**2 + (-y1 + y2)**2)", "x1=1:5, x2=1:5, y1=1:5, y2=1:5"),
    ("I.10.7", "m_0/sqrt(1 - v**2/c**2)", "m_0=1:5, v=1:2, c=3:10"),
    ("I.12.1", "Nn*mu", "mu=1:5, Nn=1:5"),
    ("I.12.4", "q1/(4*pi*epsilon*r**2)", "q1=1:5, epsilon=1:5, r=1:5"),
    ("I.12.11", "q*(B*v*sin(theta) + Ef)", "q=1:5, Ef=1:5, B=1:5, v=1:5, theta=1:5"),
    ("I.13.12", "G*m1*m2*(1/r2 - 1/r1)", "m1=1:5, m2=1:5, r1=1:5, r2=1:5, G=1:5"),
    ("I.14.4", "k_spring*x**2/2", "k_spring=1:5, x=1:5"),
    ("I.15.3t", "(t - u*x/c**2)/sqrt(1 - u**2/c**2)", "x=1:5, c=3:10, u=1:2, t=1:5"),
    ("I.16.6", "(u + v)/(1 + u*v/c**2)", "c=1:5, v=1:5, u=1:5"),
    ("I.18.12", "F*r*sin(theta)", "r=1:5, F=1:5, theta=0:5"),
    ("I.24.6", "m*x**2*(omega**2 + omega_0**2)/4", "m=1:3, omega=1:3, omega_0=1:3, x=1:3"),
    ("I.26.2", "asin(n*sin(theta2))", "n=0:1, theta2=1:5"),
    ("I.29.4", "omega/c", "omega=1:10, c=1:10"),
    ("I.30.3", "Int_0*sin(n*theta/2)**2/sin(theta/2)**2", "Int_0=1:5, theta=1:5, n=1:5"),
    ("I.32.5", "a**2*q**2/(6*pi*c**3*epsilon)", "q=1:5, a=1:5, epsilon=1:5, c=1:5"),
    ("I.34.8", "B*q*v/p", "q=1:5, v=1:5, B=1:5, p=1:5"),
    ("I.34.14", "omega_0*(1 + v/c)/sqrt(1 - v**2/c**2)", "c=3:10, v=1:2, omega_0=1:5"),
    ("I.37.4", "I1 + I2 + 2*sqrt(I1*I2)*cos(delta)", "I1=1:5, I2=1:5, delta=1:5"),
    ("I.39.1", "3*V*pr/2", "pr=1:5, V=1:5"),
    ("I.39.22", "T*kb*n/V", "n=1:5, T=1:5, V=1:5, kb=1:5"),
    ("I.41.16", "h*omega**3/(2*pi**3*c**2*(exp(h*omega/(2*pi*T*kb)) - 1))", "omega=1:5, T=1:5, h=1:5, kb=1:5, c=1:5"),
    ("I.43.31", "T*kb*mob", "mob=1:5, T=1:5, kb=1:5"),
    ("I.44.4", "T*kb*n*log(V2/V1)", "n=1:5, kb=1:5, T=1:5, V1=1:5, V2=1:5"),
    ("I.48.2", "c**2*m/sqrt(1 - v**2/c**2)", "m=1:5, v=1:2, c=3:10"),
    ("II.2.42", "A*kappa*(-T1 + T2)/d", "kappa=1:5, T1=1:5, T2=1:5, A=1:5, d=1:5"),
    ("II.4.23", "q/(4*pi*epsilon*r)", "q=1:5, epsilon=1:5, r=1:5"),
    ("II.6.15a", "3*p_d*z*sqrt(x**2 + y**2)/(4*pi*epsilon*r**5)", "epsilon=1:3, p_d=1:3, r=1:3, x=1:3, y=1:3, z=1:3"),
    ("II.8.7", "3*q**2/(20*pi*d*epsilon)", "q=1:5, epsilon=1:5, d=1:5"),
    ("II.10.9", "sigma_den/(epsilon*(chi + 1))", "sigma_den=1:5, epsilon=1:5, chi=1:5"),
    ("II.11.17", "n_0*(Ef*p_d*cos(theta)/(T*kb) + 1)", "n_0=1:3, kb=1:3, T=1:3, theta=1:3, p_d=1:3, Ef=1:3"),
    ("II.11.27", "Ef*alpha*epsilon*n/(-alpha*n/3 + 1)", "n=0:1, alpha=0:1, epsilon=1:2, Ef=1:2"),
    ("II.13.17", "I_/(2*pi*c**2*epsilon*r)", "epsilon=1:5, c=1:5, I_=1:5, r=1:5"),
    ("II.13.34", "rho_c_0*v/sqrt(1 - v**2/c**2)", "rho_c_0=1:5, v=1:2, c=3:10"),
    ("II.15.5", "-Ef*p_d*cos(theta)", "p_d=1:5, Ef=1:5, theta=1:5"),
    ("II.24.17", "sqrt(-pi**2/d**2 + omega**2/c**2)", "omega=4:6, c=1:2, d=2:4"),
    ("II.27.18", "Ef**2*epsilon", "epsilon=1:5, Ef=1:5"),
    ("II.34.2", "q*r*v/2", "q=1:5, v=1:5, r=1:5"),
    ("II.34.29a", "h*q/(4*pi*m)", "q=1:5, h=1:5, m=1:5"),
    ("II.35.18", "n_0/(exp(B*mom/(T*kb)) + exp(-B*mom/(T*kb)))", "n_0=1:3, kb=1:3, T=1:3, mom=1:3, B=1:3"),
    (
        "II.36.38",
        "H*mom/(T*kb) + M*alpha*mom/(T*c**2*epsilon*kb)",
        "mom=1:3, H=1:3, kb=1:3, T=1:3, alpha=1:3, epsilon=1:3, c=1:3, M=1:3",
    ),
    ("II.38.3", "A*Y*x/d", "Y=1:5, A=1:5, d=1:5, x=1:5"),
    ("III.4.32", "1/(exp(h*omega/(2*pi*T*kb)) - 1)", "h=1:5, omega=1:5, kb=1:5, T=1:5"),
    ("III.7.38", "4*pi*B*mom/h", "mom=1:5, B=1:5, h=1:5"),
    (
        "III.9.52",
        "8*pi*Ef*p_d*sin(t*(omega - omega_0)/2)**2/(h*t*(omega - omega_0)**2)",
        "p_d=1:3, Ef=1:3, t=1:3, h=1:3, omega=1:5, omega_0=1:5",
    ),
    ("III.12.43", "h*n/(2*pi)", "n=1:5, h=1:5"),
    ("III.14.14", "I_0*(exp(Volt*q/(T*kb)) - 1)", "I_0=1:5, q=1:2, Volt=1:2, kb=1:2, T=1:2"),
    ("III.15.14", "h**2/(8*pi**2*E_n*d**2)", "h=1:5, E_n=1:5, d=1:5"),
    ("III.17.37", "beta_*(alpha*cos(theta) + 1)", "beta_=1:5, alpha=1:5, theta=1:5"),
    ("III.21.20", "-A_vec*q*rho_c_0/m", "rho_c_0=1:5, q=1:5, A_vec=1:5, m=1:5"),
]
"""Formulas of the Feynman Symbolic Regression Database (Udrescu and Tegmark, 2020) with the ranges of their variables."""


def problem(text: str, ranges: str) -> tuple[Any, list[sp.Symbol], Box]:
    sides = parse_domain(ranges)
    assert isinstance(sides, dict)
    symbols = {name: sp.Symbol(name, real=True) for name in sides}
    read: Any = sp.sympify
    return read(text, locals=symbols), list(symbols.values()), Box(sides)


def circuits(text: str, ranges: str) -> list[IR]:
    expression, symbols, box = problem(text, ranges)
    return circuits_for([expression], symbols, box)


def functions(ir: IR) -> list[str]:
    return [str(node.function) for node in ir.nodes]


def values(expression: Expression, box: Box) -> np.ndarray:
    return expression.evaluate(box.sample(200, seed=7))


@pytest.mark.parametrize(("name", "text", "ranges"), FEYNMAN, ids=[row[0] for row in FEYNMAN])
def test_every_candidate_equals_its_formula_on_finite_ranges(name: str, text: str, ranges: str) -> None:
    expression, symbols, box = problem(text, ranges)
    found = circuits_for([expression], symbols, box)
    names = [s.name for s in symbols]
    target = values(from_sympy([expression], names), box)
    size = np.maximum(np.abs(target), np.ptp(target))
    for ir in found:
        assert np.all(np.abs(values(to_circuit(ir).composed(), box) - target) <= 1e-9 * size)
        ranges_of_reads = read_ranges(ir, Known(box))
        assert ranges_of_reads is not None
        assert np.all(np.isfinite(np.concatenate([np.ravel(r) for r in ranges_of_reads])))
        assert all(len(node.reads) == len(node.arguments) for node in ir.nodes)
        assert max(depths(ir)) <= 6


def test_newton_with_nine_inputs_has_three_layers() -> None:
    text = "G*m1*m2/((x2 - x1)**2 + (y2 - y1)**2 + (z2 - z1)**2)"
    ir = circuits(text, "G=1:2, m1=1:2, m2=1:2, x1=3:4, x2=1:2, y1=3:4, y2=1:2, z1=3:4, z2=1:2")[0]
    assert max(depths(ir)) == 3
    assert sorted(functions(ir)) == sorted(["z**2"] * 3 + ["log(z)"] * 4 + ["exp(z)"])


def test_a_product_of_three_positives_is_three_logarithms_and_an_exponential() -> None:
    found = circuits("a*b*c", "a=1:5, b=1:5, c=1:5")
    assert any(sorted(functions(ir)) == ["exp(z)", "log(z)", "log(z)", "log(z)"] for ir in found)
    assert any(functions(ir) == ["z1*z2", "z1*z2"] for ir in found)


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("exp(-theta**2/2)", "theta=1:3"),
        ("log((x - y)**2)", "x=1:2, y=3:4"),
        ("1/sqrt(1 + x + 2*y)", "x=0:1, y=0:1"),
        ("sin(3*u)/u", "u=-1:1"),
        ("x**2 + 2*x*y + y**2", "x=1:5, y=1:5"),
        ("sqrt(x - y)*exp(y - x)/(1 + x - y)", "x=2:3, y=0:1"),
        ("Abs(x + y)", "x=-1:1, y=-1:1"),
        ("Max(x - y, 0)", "x=-1:1, y=-1:1"),
        ("Piecewise((x**2, x > 0), (0, True))", "x=-1:1"),
    ],
)
def test_a_function_of_one_form_is_one_node(text: str, ranges: str) -> None:
    assert len(circuits(text, ranges)[0].nodes) == 1


def test_what_depends_on_one_ratio_is_fused_into_one_node_of_logarithms() -> None:
    ir = circuits("(1 + v/c)/sqrt(1 - v**2/c**2)", "c=3:10, v=1:2")[0]
    assert len(ir.nodes) == 3
    assert sorted(functions(ir))[-2:] == ["log(z)", "log(z)"]


@pytest.mark.parametrize(
    ("text", "kink"), [("Max(x, y)", sp.Max(Z, 0)), ("Min(x, y)", sp.Min(Z, 0)), ("Abs(x - y)*x", sp.Abs(Z))]
)
def test_extremes_are_one_kink_of_a_difference(text: str, kink: sp.Expr) -> None:
    ir = circuits(text, "x=-1:1, y=-1:1")[0]
    assert [node.function for node in ir.nodes].count(kink) == 1
    assert len(ir.nodes) == 2


def test_branches_in_two_variables_become_a_node_of_two_forms() -> None:
    ir = circuits("Piecewise((x**2, x > y), (x*y, True))", "x=-1:1, y=-1:1")[0]
    assert any(len(node.reads) == 2 and node.function.has(sp.Piecewise) for node in ir.nodes)


def test_components_share_their_common_parts() -> None:
    x, y = sp.symbols("x y", real=True)
    ir = circuits_for([x * y, x * y + sp.sin(x), sp.exp(x * y)], [x, y], Box({"x": (1, 2), "y": (-1, 1)}))[0]
    assert [node.function for node in ir.nodes].count(Z1 * Z2) == 1
    assert len(ir.nodes) == 3
    separate = circuits_for([x * sp.sin(y) + sp.sin(y)], [x, y], Box({"x": (-1, 2), "y": (-1, 1)}))[0]
    assert functions(separate).count("sin(z)") == 1


def test_outputs_are_plain_sums_of_nodes() -> None:
    ir = circuits("3*x**2 + 5*x + 2*y - 7*exp(x - y) + 4", "x=-1:1, y=-1:1")[0]
    terms = [term for output in ir.outputs for term in sp.Add.make_args(output)]
    assert all(isinstance(term, sp.Symbol) and term.name.startswith("n") for term in terms)


def test_an_affine_target_is_one_linear_node() -> None:
    (node,) = circuits("x + 2*y - 1", "x=-1:1, y=-1:1")[0].nodes
    assert node.function - Z == node.function.subs(Z, 0)


def test_a_removable_singularity_stays_inside_one_node() -> None:
    ir = circuits("t*sin(t*(a - b)/2)**2/(a - b)**2", "t=1:3, a=1:5, b=1:5")[0]
    assert sum(node.function.has(sp.sinc) for node in ir.nodes) == 1
    assert all(np.isfinite(node_values(ir, np.array([[1.5, 2.0, 4.0]]))[0][0]))


def test_variables_may_be_called_like_nodes() -> None:
    ir = circuits("n0*n1", "n0=1:5, n1=1:5")[0]
    assert to_circuit(ir).variables == ("n0_", "n1_")


def test_floats_stay_exact() -> None:
    ir = circuits("x**0.7*y**0.49", "x=1:2, y=1:2")[0]
    assert not any(node.function.has(sp.Float) or any(r.has(sp.Float) for r in node.reads) for node in ir.nodes)


def test_the_given_cost_decides() -> None:
    expression, symbols, box = problem("a*b*c", "a=1:5, b=1:5, c=1:5")
    dear = circuits_for([expression], symbols, box, cost=lambda f, ranges: 50.0 if len(ranges) == 2 else 3.0)
    assert all(len(node.reads) == 1 for node in dear[0].nodes)
    squares = circuits_for(
        [expression], symbols, box, cost=lambda f, ranges: 50.0 if len(ranges) == 2 or f.has(sp.log) else 3.0
    )
    assert "z**2" in " ".join(functions(squares[0]))
    assert len(circuits_for([expression], symbols, box, limit=1)) == 1


def test_what_has_no_circuit_is_refused_with_its_name() -> None:
    x, y = sp.symbols("x y", real=True)
    with pytest.raises(UnsupportedExpressionError, match="log"):
        circuits_for([sp.log(x) * y], [x, y], Box({"x": (-1, 1), "y": (-1, 1)}))


def test_composed_is_the_target_again() -> None:
    x, y = sp.symbols("x y", positive=True)
    for ir in circuits_for([x * y**2 / (1 + x)], [x, y], Box({"x": (1, 2), "y": (1, 2)})):
        assert sp.simplify(composed(ir)[0] - x * y**2 / (1 + x)) == 0


BOUNDED = [
    "x*y", "sin(3*x)*y", "cos(x*y)", "tan(x/2)", "(x - y)**2", "x**2*y - x", "Abs(x) - y", "Max(x, y) - Min(x, y)", "log(y)/y",
    "asin(2*x/5)", "acos(2*x/5)*y", "erf(x) - atan(y)", "1/(1 + x**2)", "sqrt(x**2 + y**2)", "exp(-x**2/y)", "acosh(1 + y)",
    "tanh(x)**3*sinh(y)", "(x + 2)**y", "asinh(x) + atanh(x/3)*cosh(y)", "Piecewise((x**2, x > 0), (0, True))",
]  # fmt: skip


@pytest.mark.parametrize("text", BOUNDED)
@settings(max_examples=15, deadline=None)
@given(a=st.floats(-1.5, 1.0), b=st.floats(0.25, 2.0), wide=st.floats(0.01, 1.0), high=st.floats(0.01, 2.0))
def test_bounds_contain_all_values_and_are_close(text: str, a: float, b: float, wide: float, high: float) -> None:
    expression, symbols, _ = problem(text, "x=0:1, y=0:1")
    box = Box({"x": (a, a + wide), "y": (b, b + high)})
    lo, hi = bounds(expression, box)
    corners = np.array([(x, y) for x in (a, a + wide) for y in (b, b + high)])
    points = np.concatenate([box.sample(2000, seed=1), corners])
    sampled = from_sympy([expression], [s.name for s in symbols]).evaluate(points)
    slack = 1e-9 * (1 + np.abs(sampled).max())
    assert lo <= sampled.min() + slack
    assert hi >= sampled.max() - slack
    assert hi - lo <= 1.5 * np.ptp(sampled) + 0.1 * (1e-2 + np.abs(sampled).max())
