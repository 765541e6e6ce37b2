"""What circuits rest on: sums that are not negative, roots minus large numbers, how far a function moves, forms of expressions; and heads at the
end of a function's domain."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from constructions.circuits import circuits_for, conjugate, squares
from constructions.circuits.ir import to_circuit
from constructions.circuits.library import heads_for
from constructions.circuits.phases import rotated
from constructions.circuits.products import product_heads
from constructions.circuits.sensitivity import sensitivities, sensitivities_and_margins
from constructions.compile import compile_prefix
from constructions.from_sympy import from_sympy
from constructions.parse import parse_expression
from verify import Box, Expression
from verify.ball import Ball
from verify.circuit_ranges import ranges, variation
from verify.conjugate import conjugates, sharpened
from verify.dominance import dominated, linear_combination
from verify.expression import Node
from verify.identity import _compared, prove_equal
from verify.jets import jets
from verify.normal_form import NormalForms

x, y, t, u, z = sp.symbols("x y t u z", real=True)
SIDES = {"x": (-3, 3), "y": (-3, 3), "t": (-10, 10)}


def table(e, names="x y t"):
    return from_sympy([e], names.split())


def last_sum(expression: Expression) -> int:
    return max(i for i, node in enumerate(expression.nodes) if node.op == "add")


def certainly_not_negative(expression: Expression, sides) -> bool:
    """Whether the kernel takes the root of the first output for defined on the whole box: strict evaluation is NaN where it may not be."""
    lo, hi = zip(*sides.values(), strict=True)
    root = Node("pow", (expression.outputs[0],), "1/2")
    rooted = Expression((*expression.nodes, root), (len(expression.nodes),), expression.variables)
    box = Ball.between(np.array([lo], dtype=float), np.array([hi], dtype=float))
    value = jets(rooted, box, np.zeros((1, len(lo))), 0, strict=True)[0][0]
    assert value is not None
    return bool(np.isfinite(value.mid[0, 0] + value.rad[0, 0]))


def in_high_precision(expression: Expression, point) -> Any:
    """The value at a point in 50 digits, None where it is undefined."""
    with mpmath.workdps(50):
        parsed = parse_expression(str(expression), expression.variables)
        f = sp.lambdify(sp.symbols(expression.variables), parsed, "mpmath")
        try:
            value = f(*map(mpmath.mpf, point))
        except (ValueError, ZeroDivisionError):
            return None
        return None if isinstance(value, mpmath.mpc) else value


# Sums that squares keep from being negative.

DOMINATED = [
    x**2 + y**2 - 2 * x * y * sp.cos(t),
    2 * x**2 + y**2 + 2 * x * y * sp.sin(t),
    x**2 + y**2 - 2 * x * y,
    x**4 + y**2 - 2 * x**2 * y * sp.tanh(t) + sp.exp(t),
    x**2 + y**2 + t**2 - x * y * sp.cos(t) - y * t - x * t * sp.sin(x),
    x**2 - 2 * x**2 * sp.cos(t) + x**2,
]
NEAR_MISSES = [
    x**2 + y**2 - sp.Rational(2001, 1000) * x * y * sp.cos(t),
    sp.Rational(999, 1000) * x**2 + y**2 - 2 * x * y * sp.cos(t),
    x**2 + y**2 - 2 * x * y * sp.cos(t) - sp.Rational(1, 10**9),
    x**2 + y**2 - 2 * x * y * sp.cos(t) + t,
    x**2 + y**2 - 2 * x * y * t,
    x**2 + y**2 + t**2 - 2 * x * y - 2 * y * t - 2 * x * t,
    x**2 - x * y,
]


@pytest.mark.parametrize("e", DOMINATED, ids=str)
def test_sums_of_squares_with_bounded_factors_are_not_negative(e):
    expression = table(e)
    assert certainly_not_negative(expression, SIDES)
    assert (expression.evaluate(Box(SIDES).sample(2000, seed=1)) >= -1e-9).all()


@pytest.mark.parametrize("e", NEAR_MISSES, ids=str)
def test_what_can_be_negative_is_not_claimed(e):
    assert not certainly_not_negative(table(e), SIDES)


def test_terms_that_are_no_squares_are_handed_back():
    expression = table(x**2 + y**2 - 2 * x * y * sp.cos(t) + sp.exp(x * t))
    enough, others = dominated(expression.nodes, expression.nodes[last_sum(expression)])
    assert enough
    assert [expression.nodes[i].op for i in others] == ["exp"]


def test_too_many_terms_are_left_alone():
    long = Node("add", (0,) * 65)
    assert dominated((Node("var", (), "0"), long), long) == (False, [])
    assert linear_combination((Node("var", (), "0"), long), [1]) is None


def test_linear_combinations_are_exact():
    e = x / 3 + y * x / 7 - x / 3 + sp.Rational(2, 5)
    expression = Expression(
        (Node("var", (), "0"), Node("const", (), "1/3"), Node("mul", (0, 1)), Node("const", (), "-1/3"), Node("mul", (0, 3)), Node("add", (2, 4, 1))),
        (5,), ("x",),
    )  # fmt: skip
    assert linear_combination(expression.nodes, [5]) == {frozenset(): Fraction(1, 3)}
    assert e == x * y / 7 + sp.Rational(2, 5)


factors = st.sampled_from(
    [x, y, t, sp.cos(t), sp.sin(x * y), x - y, sp.exp(x), sp.tanh(y), sp.Abs(t), sp.sqrt(y**2 + 1)]
)
terms = st.tuples(st.integers(-3, 3), st.lists(factors, min_size=1, max_size=3)).map(lambda p: p[0] * sp.Mul(*p[1]))
squared = st.tuples(st.integers(1, 3), factors).map(lambda p: p[0] * p[1] ** 2)


@settings(max_examples=120)
@given(st.lists(st.one_of(terms, squared), min_size=2, max_size=5), st.integers(0, 100))
def test_random_sums_claimed_not_negative_are_not(parts, seed):
    e = sp.Add(*parts)
    if not e.free_symbols:
        return
    expression = table(e)
    for sides in (SIDES, {"x": (0, 2), "y": (-1, 2), "t": (0, 1)}):
        if certainly_not_negative(expression, sides):
            for point in Box(sides).sample(15, seed=seed):
                value = in_high_precision(expression, point)
                assert value is None or value >= -(mpmath.mpf(10) ** -40), (e, point)


# sqrt(b^2 + c) - b.

DIFFERENCES = [
    (sp.sqrt(x**2 + y) - x, (1, 1e6), (1, 2)),
    (sp.sqrt((x - 2 * y) ** 2 + 3) + x - 2 * y, (-5, 5), (0, 1)),
    (sp.sqrt(4 * x**2 + y) - 2 * x, (1e4, 1e8), (1e-6, 1e-3)),
    (sp.sqrt(x**2 + y**2 + 1) - x, (-3, 1e5), (-1, 1)),
]


@pytest.mark.parametrize(("e", "of_x", "of_y"), DIFFERENCES, ids=str)
def test_differences_of_large_numbers_are_bounded_sharply(e, of_x, of_y):
    expression = table(e, "x y")
    assert conjugates(expression)
    lo, hi = np.array([of_x, of_y], dtype=float).T
    value = jets(expression, Ball.between(lo[None], hi[None]), np.zeros((1, 2)), 0)[0][0]
    assert value is not None
    points = np.concatenate([Box([of_x, of_y]).sample(60, seed=2), list(itertools.product(of_x, of_y))])
    exact = [v for p in points if (v := in_high_precision(expression, p)) is not None]
    low, high = float(value.lower()[0, 0]), float(value.upper()[0, 0])
    assert low <= min(exact)
    assert max(exact) <= high
    assert low >= 0 or "2*y" in str(e)  # dependent b and c may keep the natural range
    if not sp.sympify(e).has(y**2, (x - 2 * y) ** 2):
        assert high - low <= 1.001 * float(max(exact) - min(exact)) + 1e-12


@settings(max_examples=150)
@given(st.floats(-1e8, 1e8), st.floats(0, 1e4), st.floats(1e-100, 1e6), st.floats(0, 1e3), st.sampled_from([-1, 1]))
def test_ranges_of_differences_are_never_wrong(b, width, c, more, sign):
    e = table(sp.sqrt(x**2 + y) + sign * x, "x y")
    lo, hi = np.array([[b, c]]), np.array([[b + width, c + more]])
    value = jets(e, Ball.between(lo, hi), np.zeros((1, 2)), 0)[0][0]
    assert value is not None
    for i in (0, 0.3, 1):
        for j in (0, 0.7, 1):
            p = np.array([b + i * width, c + j * more]).clip(lo[0], hi[0])
            with mpmath.workdps(250):
                exact = mpmath.sqrt(mpmath.mpf(p[0]) ** 2 + mpmath.mpf(p[1])) + sign * mpmath.mpf(p[0])
            assert value.lower()[0, 0] <= exact <= value.upper()[0, 0]


def test_what_is_no_such_difference_is_not_taken_for_one():
    for e in (
        sp.sqrt(x**2 + y) - 2 * x,
        sp.sqrt(x**2 + y) - y,
        sp.sqrt(2 * x**2 + y) - x,
        2 * sp.sqrt(x**2 + y) - x,
        sp.cbrt(x**2 + y) - x,
    ):
        assert not conjugates(table(e, "x y")), e


def test_undefined_stays_undefined():
    """c may be negative: nothing is sharpened, and strict evaluation says NaN where the root is not defined."""
    e = table(sp.sqrt(x**2 + y) - x, "x y")
    lo, hi = np.array([[1.0, -9.0]]), np.array([[2.0, 1.0]])
    value = jets(e, Ball.between(lo, hi), np.zeros((1, 2)), 0, strict=True)[0][0]
    assert value is not None
    assert np.isnan(value.mid[0, 0]) or np.isnan(value.rad[0, 0])
    nothing = Ball(np.array([[np.nan]]), np.array([[np.nan]]))
    side, rest = (
        Ball.between(np.array([[-2.0]]), np.array([[-1.0]])),
        Ball.between(np.array([[1.0]]), np.array([[2.0]])),
    )
    kept = sharpened(nothing, side, rest)
    assert np.isnan(kept.mid).all()
    assert np.isnan(kept.rad).all()


def test_roots_of_dominated_sums_are_defined():
    """sqrt(x^2 + y^2 - 2 x y cos t) in strict evaluation: its argument's ball reaches below 0, and it is not NaN."""
    lo, hi = np.array([[1.0, 1.0, 0.0]]), np.array([[5.0, 5.0, 4.0]])
    for factor, defined in ((2, True), (sp.Rational(2001, 1000), False)):
        e = table(sp.sqrt(x**2 + y**2 - factor * x * y * sp.cos(t)))
        value = jets(e, Ball.between(lo, hi), np.zeros((1, 3)), 0, strict=True)[0][0]
        assert value is not None
        assert np.isfinite(value.rad[0, 0]) == defined


# How far a function can move.

MOVING = [
    (sp.sqrt(z), 0.0, 4.0, 1e-4),
    (sp.sqrt(z), 0.0, 4.0, 0.3),
    (sp.asin(z), -1.0, 1.0, 1e-3),
    (sp.exp(z), -1.0, 3.0, 1e-2),
    (sp.sin(5 * z), 0.0, 3.0, 0.05),
    (1 / z, 0.01, 1.0, 1e-3),
    (sp.Abs(z) - z**2, -1.0, 1.0, 0.02),
    (sp.sqrt(z**2 + 1) - z, -2.0, 1e3, 1e-2),
]


@pytest.mark.parametrize(("f", "lo", "hi", "delta"), MOVING, ids=str)
def test_variation_is_a_bound_and_a_close_one(f, lo, hi, delta):
    expression = from_sympy([f], ["z"])
    bound = variation(expression, np.array([lo]), np.array([hi]), np.array([delta]))
    low = np.concatenate([np.linspace(lo, hi - delta, 4001), lo + (hi - delta - lo) * np.geomspace(1e-12, 1, 400)])
    moves = np.abs(np.diff([expression.evaluate(p[:, None])[:, 0] for p in (low, np.minimum(low + delta, hi))], axis=0))
    assert moves.max() * (1 - 1e-9) <= bound
    assert bound <= 2.5 * moves.max()


@settings(max_examples=40)
@given(
    st.floats(-3, 2), st.floats(0.1, 3), st.floats(-3, 2), st.floats(0.1, 3), st.floats(1e-6, 0.5), st.floats(0, 0.5)
)
def test_variation_of_products_is_never_too_small(a, w, b, v, d, e):
    expression = from_sympy([sp.Symbol("z1") * sp.Symbol("z2")], ["z1", "z2"])
    lo, hi, delta = np.array([a, b]), np.array([a + w, b + v]), np.array([d, e])
    bound = variation(expression, lo, hi, delta)
    points = Box([(a, a + w), (b, b + v)]).sample(400, seed=3)
    for sign in ([1, 1], [1, -1]):
        others = np.clip(points + delta * sign, lo, hi)
        moves = np.abs(expression.evaluate(points) - expression.evaluate(others))
        assert moves.max() * (1 - 1e-12) <= bound


def test_variation_of_what_is_not_defined_is_infinite():
    expression = from_sympy([1 / z], ["z"])
    assert variation(expression, np.array([-1.0]), np.array([1.0]), np.array([0.1])) == np.inf


# Forms.

REWRITINGS = [
    (squares.completed, sp.sqrt(x**2 + y**2 - 2 * x * y * sp.cos(t)), sp.sqrt((x - y) ** 2 + 2 * x * y * (1 - sp.cos(t)))),
    (squares.completed, 4 * x**2 + 9 * y**2 + 12 * x * y * sp.sin(t) + u, (2 * x + 3 * y) ** 2 - 12 * x * y * (1 - sp.sin(t)) + u),
    (squares.completed, x**2 + y**2 - 3 * x * y * sp.cos(t), x**2 + y**2 - 3 * x * y * sp.cos(t)),
    (squares.completed, x**2 - y**2 - 2 * x * y * sp.cos(t), x**2 - y**2 - 2 * x * y * sp.cos(t)),
    (rotated, (x * sp.sin(t) + y * sp.sin(t + u)) ** 2 + (x * sp.cos(t) + y * sp.cos(t + u)) ** 2, y**2 * sp.sin(u) ** 2 + (x + y * sp.cos(u)) ** 2),
    (rotated, 2 * sp.sin(t) ** 2 * x**2 + 2 * sp.cos(t) ** 2 * x**2, 2 * sp.sin(t) ** 2 * x**2 + 2 * sp.cos(t) ** 2 * x**2),
    (rotated, (x * sp.sin(t) + y * sp.sin(u)) ** 2 + (x * sp.cos(t) - y * sp.cos(u)) ** 2, (x * sp.sin(t) + y * sp.sin(u)) ** 2 + (x * sp.cos(t) - y * sp.cos(u)) ** 2),
    (rotated, (x * sp.sin(t) + y * sp.sin(u)) ** 2 + 3 * (x * sp.cos(t) + y * sp.cos(u)) ** 2, (x * sp.sin(t) + y * sp.sin(u)) ** 2 + 3 * (x * sp.cos(t) + y * sp.cos(u)) ** 2),
]  # fmt: skip


@pytest.mark.parametrize(("rewrite", "before", "after"), REWRITINGS)
def test_forms_are_found_and_keep_the_value(rewrite, before, after):
    found = rewrite(before)
    names = "x y t u"
    points = Box([(1, 5)] * 4).sample(200, seed=1)
    np.testing.assert_allclose(table(found, names).evaluate(points), table(before, names).evaluate(points), atol=1e-9)
    assert sp.expand(found - after) == 0 or sp.expand((found - after).rewrite(sp.cos)) == 0 or found == after
    assert (found == before) == (after == before)


def test_a_completed_square_of_the_other_sign_is_written_the_other_way():
    found = squares.completed(x**2 + y**2 + 2 * x * y * sp.cos(t))
    assert found == (x + y) ** 2 - 2 * x * y * (1 - sp.cos(t)) or found == (x - y) ** 2 + 2 * x * y * (1 + sp.cos(t))


def test_a_root_and_its_base_are_one_function():
    a = sp.Symbol("a", positive=True)
    for sign, kind in ((1, conjugate.RootSum), (-1, conjugate.RootDifference)):
        e = 1 / (3 * sp.sqrt((x - 2 * y) ** 2 + a) + 3 * sign * (x - 2 * y))
        found = conjugate.conjugated(e)
        (function,) = found.atoms(conjugate.RootDifference)
        assert type(function) is kind
        assert sp.simplify(function.args[0] - (x - 2 * y) / sp.sqrt(a)) == 0
        points = Box([(-2, 2), (-2, 2), (1, 5)]).sample(100, seed=2)
        np.testing.assert_allclose(
            from_sympy([conjugate.written_out(found)], ["x", "y", "a"]).evaluate(points),
            from_sympy([e], ["x", "y", "a"]).evaluate(points),
            rtol=1e-9,
        )
    # the rest under the root must be known to be positive
    assert conjugate.conjugated(sp.sqrt(x**2 + y) - x) == sp.sqrt(x**2 + y) - x


def test_a_root_kept_as_a_square_decides_what_expanding_does_not():
    """The second normal form: (sqrt(s) + x)^2 under a root stays a square."""
    names = ["x", "y"]
    left = from_sympy([sp.sqrt((sp.sqrt(x**2 + 1) + x) ** 2 * (y**2 + 1))], names)
    right = from_sympy([(sp.sqrt(x**2 + 1) + x) * sp.sqrt(y**2 + 1)], names)
    box = Box({"x": (1, 2), "y": (-1, 1)})
    assert prove_equal(left, right, box)
    for kept in (False, True):  # neither form claims what is false
        wrong = from_sympy([(sp.sqrt(x**2 + 1) + x) * sp.sqrt(y**2 + 1) + sp.Rational(1, 10**9)], names)
        assert not _compared(left, wrong, NormalForms(box, squares_kept=kept), box)


@pytest.mark.parametrize("kept", [False, True])
def test_both_normal_forms_have_the_values(kept):
    """Sums of roots, squared and not: equal only to what is equal."""
    box = Box({"x": (1, 2), "y": (1, 2)})
    r = sp.sqrt(x + y)
    pairs = [
        ((r - 1) ** 2 * x, x * (r - 1) * (r - 1), True),
        ((r - 1) ** 2 * x, x * (r - 1) ** 2 + (r - 1) / 1000, False),
        (sp.sqrt((r - 1) ** 2), r - 1, True),
        (sp.sqrt((r - 1) ** 2), 1 - r, False),
        ((r - 1) ** 4, (r - 1) ** 2, False),
    ]
    for a, b, equal in pairs:
        left, right = (from_sympy([e], ["x", "y"]) for e in (a, b))
        found = bool(_compared(left, right, NormalForms(box, squares_kept=kept), box))
        assert not (found and not equal), (a, b)
        if equal:
            assert prove_equal(left, right, box), (a, b)


# Ladders that are shared.


@pytest.mark.parametrize(
    ("lo", "hi"),
    [
        ([0, -1], [1, 1]), ([-1e-3, 2.0], [1.001, 3.5]), ([-7, -5], [-2, 0]), ([1e-12, -3], [1, 1]), ([1e6, 4], [1e6 + 1, 5]),
    ],
)  # fmt: skip
def test_a_product_is_served_on_a_box_a_little_wider(lo, hi):
    low, high = np.array(lo, dtype=float), np.array(hi, dtype=float)
    ladder = product_heads(low, high)
    served = ladder.centre - np.abs(ladder.radii), ladder.centre + np.abs(ladder.radii)
    assert (served[0] <= low + 1e-9 * (high - low)).all()
    assert (served[1] >= high - 1e-9 * (high - low)).all()
    assert (served[1] - served[0] <= 1.01 * (high - low)).all()
    head = ladder.head(0.3 * float(np.prod(high - low)))
    assert head is not None
    points = Box(list(zip(lo, hi, strict=True))).sample(500, seed=6)
    assert np.abs(head.evaluate(points) - points.prod(axis=1)).max() <= 0.3 * float(np.prod(high - low))


def test_nearly_equal_problems_share_a_ladder():
    one, other = (product_heads(np.array([a, 0.0]), np.array([b, 1.0])) for a, b in ((-1.002, 1.001), (-2.001, 2.003)))
    assert one.rungs is other.rungs
    absolute = sp.Abs(4 * z - 2)
    same = [
        sp.log(absolute / 2 + sp.Rational(1, 2)),
        sp.log(3 * absolute + 3),
        sp.log(sp.Abs(2 * z - 1) + sp.Rational(1, 2)),
    ]
    keys = {heads_for(f, lo, 1.0).rungs.key for f in same for lo in (0.1, np.nextafter(0.1, 1))}
    assert len(keys) == 1


def test_an_arm_is_as_long_whichever_way_it_points():
    """Distance from its foot of an arm of two parts: one phase less, and the root is not 0."""
    arm = sp.sqrt((x * sp.sin(t) + y * sp.sin(t + u)) ** 2 + (x * sp.cos(t) + y * sp.cos(t + u)) ** 2)
    box = Box({"t": (0, 6), "u": (0, 2), "x": (2, 3), "y": (1, 2)})
    assert all(
        "t" not in map(str, r.free_symbols) for n in circuits_for([arm], [t, u, x, y], box)[0].nodes for r in n.reads
    )
    names = ["t", "u", "x", "y"]
    assert prove_equal(from_sympy([rotated(arm)], names), from_sympy([arm], names), box)


# Sensitivities, and heads at the end of a function's domain.


def circuit_of(e, sides):
    symbols = sorted(e.free_symbols, key=str)
    box = Box(sides)
    circuit = to_circuit(circuits_for([e], symbols, box)[0])
    return circuit, ranges(circuit, box)


def test_sensitivities_bound_what_an_error_of_a_node_does():
    e = sp.exp(-((x / y) ** 2) / 2) / y
    circuit, known = circuit_of(e, {"x": (1, 3), "y": (1, 3)})
    weights = sensitivities(circuit, known)
    assert len(weights) == len(circuit.nodes)
    points = Box([(1, 3), (1, 3)]).sample(200, seed=5)

    def outputs(wrong: int, error: float) -> np.ndarray:
        columns = [points]
        for i, node in enumerate(circuit.nodes):
            read = node.reads.evaluate(np.concatenate(columns, axis=1))
            columns.append(node.function.evaluate(read) + (error if i == wrong else 0.0))
        return circuit.outputs.evaluate(np.concatenate(columns, axis=1))

    for i, weight in enumerate(weights):
        assert np.abs(outputs(i, 1e-6) - outputs(i, 0.0)).max() <= 1.01e-6 * weight


def test_the_margin_of_a_singular_node_moves_the_output_as_it_should():
    circuit, known = circuit_of(sp.sqrt(x - y), {"x": (2, 3), "y": (1, 2)})
    eps = 1e-2
    weights, margins = sensitivities_and_margins(circuit, known, [True] * len(known), eps)
    assert all(np.isfinite(weights))
    assert 0 < margins[-1] < 0.01
    assert np.sqrt(margins[-1]) <= 0.15 * eps
    smooth, none = sensitivities_and_margins(circuit, known, [False] * len(known), eps)
    assert none == [0.0] * len(known)
    assert smooth[-1] == weights[-1] == 1.0


a, d, n = sp.symbols("a d n")
X1, X2, T1, T2 = sp.symbols("x1 x2 t1 t2")
AT_AN_END = {
    "asin": (sp.asin(a / (n * d)), {"a": (1, 2), "d": (2, 5), "n": (1, 5)}, 1e-3 * (np.pi / 2 - np.arcsin(1 / 25))),
    "law of cosines": (
        sp.sqrt(X1**2 + X2**2 - 2 * X1 * X2 * sp.cos(T1 - T2)), {s: (1, 5) for s in ("x1", "x2", "t1", "t2")}, 1e-3 * 9.986,
    ),
    "square root": (sp.sqrt(x - y), {"x": (1, 2), "y": (0, 1)}, 1e-2),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(AT_AN_END))
def test_a_head_is_stretched_where_the_slope_is_infinite(name):
    e, sides, eps = AT_AN_END[name]
    result = compile_prefix(e, eps, Box(sides), method="circuit")
    assert result.certificate.proved
    assert result.certificate.error_upper <= eps
    points = result.domain.sample(3000, seed=4)
    corners = np.array(list(itertools.product(*sides.values())), dtype=float)
    points = np.concatenate([points, corners])
    exact = from_sympy([e], list(sides)).evaluate(points)
    defined = np.isfinite(exact)
    assert np.abs(result(points) - exact)[defined].max() <= result.certificate.error_upper
