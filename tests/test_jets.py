"""Taylor coefficients in ball arithmetic against mpmath's derivatives; ranges over boxes; kinks and edges of domains."""

import json
import math
from fractions import Fraction

import mpmath
import numpy as np
import oracle
import pytest
from formulas import apply, expression, lift, named, random_formula, var
from hypothesis import given
from hypothesis import strategies as st

from verify import Expression, ExpressionError, Node
from verify.ball import Ball
from verify.cells import Cells
from verify.expression import UNARY
from verify.jets import Jet, homogeneous_product, jets, monomials
from verify.target import ExpressionTarget

mp = oracle.mp


def coefficients(f: Expression, at, direction, order: int) -> list:
    """Taylor coefficients of t -> f(at + t direction) by mpmath's own differentiation."""
    table = f.to_json()

    def along(t):
        return oracle.expression_values(table, [a + t * d for a, d in zip(at, direction, strict=True)])[0]

    return mp.taylor(along, 0, order)


def evaluate_part(part: Ball | None, degree: int, box: int, tau) -> tuple:
    """Value and radius of a homogeneous part at tau."""
    if part is None:
        return mp.mpf(0), mp.mpf(0)
    mid, rad = mp.mpf(0), mp.mpf(0)
    for e, m, r in zip(monomials(len(tau), degree), part.mid[box], part.rad[box], strict=True):
        power = mp.fprod(t ** int(k) for t, k in zip(tau, e, strict=True))
        mid += mp.mpf(float(m)) * power
        rad += mp.mpf(float(r)) * abs(power)
    return mid, rad


def assert_contains(jet: Jet, degree: int, box: int, tau, true) -> bool:
    """Whether part `degree` is bounded; if so it must contain the true coefficient (differentiation is good to 1e-25)."""
    part = jet[degree]
    if part is not None and not (np.isfinite(part.rad[box]).all() and np.isfinite(part.mid[box]).all()):
        return False
    mid, rad = evaluate_part(part, degree, box, tau)
    assert abs(true - mid) <= rad + mp.mpf(10) ** -25 * (1 + abs(true)), (degree, mid, rad, true)
    return True


def random_boxes(rng, n, count, scale=0.8):
    lo = rng.uniform(-scale, scale, (count, n))
    return lo, lo + rng.choice([0.0, 1e-12, 1e-3, 0.15], (count, 1)) * rng.random((count, n))


def check(f: Expression, lo, hi, order: int, rng, scale=1.0) -> int:
    """Both evaluations of the module's docstring against the truth; how many coefficients were bounded."""
    n = lo.shape[1]
    radius = scale * rng.random(lo.shape)
    centre = lo + (hi - lo) * 0.5
    at_centre = jets(f, Ball.exact(centre), radius, order)[0]
    at_box = jets(f, Ball.between(lo, hi), radius, order)[0]
    bounded = 0
    for box in range(len(lo)):
        tau = [mp.mpf(float(t)) for t in rng.uniform(-1, 1, n)]
        direction = [mp.mpf(float(r)) * t for r, t in zip(radius[box], tau, strict=True)]
        inside = lo[box] + (hi[box] - lo[box]) * rng.random(n)
        for jet, place in ((at_centre, centre[box]), (at_box, np.clip(inside, lo[box], hi[box])), (at_box, hi[box])):
            true = coefficients(f, [mp.mpf(float(p)) for p in place], direction, order)
            for d in range(order + 1):
                bounded += assert_contains(jet, d, box, tau, true[d])
    return bounded


SAFE = {
    "log": lambda x: x + 2,
    "acosh": lambda x: x + 3,
    "asin": lambda x: x * Fraction(3, 4),
    "acos": lambda x: x * Fraction(3, 4),
    "atanh": lambda x: x * Fraction(3, 4),
}


@pytest.mark.parametrize("op", [u for u in UNARY if u != "abs"])
def test_elementary_functions(op):
    rng = np.random.default_rng(UNARY.index(op))
    inner = SAFE.get(op, lambda x: x * Fraction(5, 4))
    for f, n in (
        (apply(op, inner(var())), 1),
        (apply(op, inner(var(0) * var(1) - var(1) * var(1) * Fraction(1, 2))), 2),
    ):
        lo, hi = random_boxes(rng, n, 5)
        assert check(expression(f, n=n), lo, hi, 5, rng) == 5 * 3 * 6


@pytest.mark.parametrize(
    "power",
    ["0", "1", "2", "3", "7", "64", "65", "-1", "-2", "-7", "1/2", "-1/2", "3/2", "1/3", "-5/3", "22/7", "9999/10000"],
)
def test_powers(power):
    rng = np.random.default_rng(len(power))
    for f, n in (((var() + 2) ** power, 1), ((var(0) * var(1) + Fraction(5, 2)) ** power, 2)):
        lo, hi = random_boxes(rng, n, 4)
        assert check(expression(f, n=n), lo, hi, 4, rng) == 4 * 3 * 5


def test_integer_powers_of_negative_numbers_and_around_zero():
    rng = np.random.default_rng(2)
    for power in (2, 3, 4, 5, -1, -2, -3, 66, 67):
        f = expression(var() ** power)
        lo = np.array([[-1.5], [-0.7], [-0.2], [0.0]])
        hi = np.array([[-1.1], [-0.5], [0.3], [0.2]])
        table = f.to_json()
        values = jets(f, Ball.between(lo, hi), np.ones_like(lo), 0)[0][0]
        for box in range(4):
            for t in rng.random(6):
                x = mp.mpf(float(lo[box, 0] + (hi[box, 0] - lo[box, 0]) * t))
                true = oracle.expression_values(table, [x])[0]
                if np.isfinite(values.rad[box, 0]) and not mp.isnan(true):
                    assert abs(true - mp.mpf(float(values.mid[box, 0]))) <= mp.mpf(float(values.rad[box, 0]))
                else:
                    assert power < 0
        if power in (2, 4, 66):
            assert values.lower()[2, 0] >= -1e-15  # the range of an even power is not negative


@pytest.mark.parametrize("seed", range(24))
def test_random_nested_formulas(seed):
    rng = np.random.default_rng(seed)
    n = 1 + seed % 3
    f = expression(random_formula(rng, n, 4), n=n)
    lo, hi = random_boxes(rng, n, 3)
    order = {1: 5, 2: 4, 3: 3}[n]
    assert check(f, lo, hi, order, rng) > 0


def test_far_from_the_origin_and_tiny_radii():
    rng = np.random.default_rng(1)
    f = expression(apply("sin", var() * Fraction(1, 1000)) + apply("log", var()))
    lo = np.array([[1e6], [123456.789]])
    assert check(f, lo, lo + 1e-3, 5, rng, scale=1e-3) == 36
    assert check(f, lo, np.nextafter(lo, np.inf), 5, rng, scale=1e-10) == 36


def test_constants_are_enclosed_not_rounded():
    for f, true in ((named("pi"), mp.pi), (named("e"), mp.e), (lift(Fraction(1, 3)), mp.mpf(1) / 3)):
        value = jets(expression(f), Ball.exact(np.zeros((1, 1))), np.ones((1, 1)), 0)[0][0]
        assert abs(+true - mp.mpf(float(value.mid[0, 0]))) <= mp.mpf(float(value.rad[0, 0]))
        assert 0 < value.rad[0, 0] < 1e-15
    assert jets(expression(lift(Fraction(1, 4))), Ball.exact(np.zeros((1, 1))), np.ones((1, 1)), 0)[0][0].rad[0, 0] == 0
    for text in ("1" + "0" * 400, "-1" + "0" * 400):
        huge = jets(
            Expression((Node("const", (), text),), (0,), ("x",)), Ball.exact(np.zeros((1, 1))), np.ones((1, 1)), 0
        )[0][0]
        assert not huge.magnitude()[0, 0] <= 1e308
    tiny = jets(
        Expression((Node("const", (), "1/1" + "0" * 400),), (0,), ("x",)),
        Ball.exact(np.zeros((1, 1))),
        np.ones((1, 1)),
        0,
    )[0][0]
    assert tiny.lower()[0, 0] <= 0 < tiny.upper()[0, 0]


# ---- kinks, jumps and edges


def value_and_slope(f: Expression, lo: float, hi: float) -> tuple[Ball, Ball | None, Ball | None]:
    jet = jets(f, Ball.between(np.array([[lo]]), np.array([[hi]])), np.array([[1.0]]), 2)[0]
    assert jet[0] is not None
    return jet[0], jet[1], jet[2]


KINKED = {
    "abs": apply("abs", var()),
    "max": apply("max", var() * 3, var() * -2 + Fraction(1, 16)),
    "min": apply("min", apply("sin", var()), var() * -1, lift(Fraction(1, 8))),
    "nested": apply("abs", apply("abs", var()) - Fraction(1, 8)),
    "under exp": apply("exp", apply("abs", var()) * -3),
}


@pytest.mark.parametrize("name", sorted(KINKED))
def test_kinks_give_a_range_and_all_secant_slopes(name):
    f = expression(KINKED[name])
    table = f.to_json()
    rng = np.random.default_rng(0)
    for lo, hi in ((-0.25, 0.5), (-1e-9, 1e-9), (0.0, 0.5), (-0.3, 0.0), (0.05, 0.2)):
        value, slope, second = value_and_slope(f, lo, hi)
        assert slope is not None
        assert np.isfinite(slope.rad[0, 0])
        points = [mp.mpf(float(lo + (hi - lo) * t)) for t in rng.random(12)]
        heights = [oracle.expression_values(table, [x])[0] for x in points]
        for x, y in zip(points, heights, strict=True):
            assert value.lower()[0, 0] <= y <= value.upper()[0, 0]
            for x2, y2 in zip(points, heights, strict=True):
                if x != x2:
                    secant = (y - y2) / (x - x2)
                    assert slope.lower()[0, 0] - 1e-20 <= secant <= slope.upper()[0, 0] + 1e-20
        if name == "abs" and lo < 0 < hi:
            assert second is not None
            assert not np.isfinite(second.rad[0, 0])


def test_a_jump_has_a_range_and_no_slope():
    f = expression(apply("select", var(), var() + 1, lift(-1), value=">"))
    value, slope, _ = value_and_slope(f, -0.5, 0.5)
    assert value.lower()[0, 0] <= -1
    assert value.upper()[0, 0] >= 1.5
    assert slope is not None
    assert not np.isfinite(slope.rad[0, 0])
    value, slope, _ = value_and_slope(f, 0.1, 0.5)
    assert slope is not None
    assert abs(slope.mid[0, 0] - 1) < 1e-12


@pytest.mark.parametrize(("relation", "at_zero"), [(">", -1.0), (">=", 1.0)])
def test_select_at_its_boundary(relation, at_zero):
    f = expression(apply("select", var(), lift(1), lift(-1), value=relation))
    value, _, _ = value_and_slope(f, 0.0, 0.0)
    assert value.lower()[0, 0] == value.upper()[0, 0] == at_zero
    assert f.evaluate(np.array([[0.0]]))[0, 0] == at_zero
    assert oracle.expression_values(f.to_json(), [mp.mpf(0)])[0] == at_zero


def test_an_undefined_branch_that_is_not_taken_does_no_harm():
    f = expression(apply("select", var(), var() ** "1/2", apply("log", var() * -1 + 1), value=">"))
    for lo, hi in ((0.25, 0.5), (-0.5, -0.25)):
        value, slope, second = value_and_slope(f, lo, hi)
        for part in (value, slope, second):
            assert part is not None
            assert np.isfinite(part.rad[0, 0])
    value, _, _ = value_and_slope(f, -0.1, 0.2)
    assert value.lower()[0, 0] <= 0
    assert value.upper()[0, 0] >= math.sqrt(0.2)


EDGES = [
    (var() ** "1/2", 0.0, 0.25, 0.0, 0.5),
    (var() ** "3/2", 0.0, 0.25, 0.0, 0.125),
    (apply("asin", var()), 0.5, 1.0, math.asin(0.5), math.pi / 2),
    (apply("acos", var()), 0.5, 1.0, 0.0, math.acos(0.5)),
    (apply("acosh", var()), 1.0, 2.0, 0.0, math.acosh(2.0)),
]


@pytest.mark.parametrize(("f", "lo", "hi", "low", "high"), EDGES)
def test_at_the_edge_of_a_domain_there_is_a_range_but_no_slope(f, lo, hi, low, high):
    value, slope, _ = value_and_slope(expression(f), lo, hi)
    assert low - 1e-12 <= value.lower()[0, 0] <= low + 1e-300 + 1e-15
    assert high - 1e-15 <= value.upper()[0, 0] <= high + 1e-12
    assert slope is not None
    assert not slope.magnitude()[0, 0] <= 1e308


@pytest.mark.parametrize(
    ("f", "lo", "hi"),
    [
        (apply("log", var()), 0.0, 1.0),
        (var() ** -1, -1.0, 1.0),
        (var() ** "-1/2", 0.0, 1.0),
        (apply("tan", var()), 1.0, 2.0),
        (apply("atanh", var()), 0.5, 1.0),
        (apply("exp", var() * 1000), 0.0, 1.0),
    ],
)
def test_poles_and_overflow_have_no_range(f, lo, hi):
    value, _, _ = value_and_slope(expression(f), lo, hi)
    assert not value.magnitude()[0, 0] <= 1e308


@pytest.mark.parametrize(
    ("f", "lo", "hi"),
    [
        (apply("log", var()), -2.0, -1.0),
        (var() ** "1/2", -2.0, -1.0),
        (apply("asin", var()), 2.0, 3.0),
        (apply("acosh", var()), 0.0, 0.5),
    ],
)
def test_nothing_is_claimed_where_nothing_is_defined(f, lo, hi):
    value, _, _ = value_and_slope(expression(f), lo, hi)
    assert not value.magnitude()[0, 0] <= 1e308


@given(st.integers(0, 10**6))
def test_homogeneous_products(seed):
    rng = np.random.default_rng(seed)
    n, d1, d2 = (int(i) for i in (rng.integers(1, 4), rng.integers(0, 4), rng.integers(0, 4)))
    k1, k2 = len(monomials(n, d1)), len(monomials(n, d2))
    a, b = (rng.standard_normal((1, k)) * 10.0 ** rng.integers(-5, 6, (1, k)) for k in (k1, k2))
    ra, rb = np.abs(a) * 1e-3, np.abs(b) * 1e-9
    found = homogeneous_product(Ball(a, ra), Ball(b, rb), n, d1, d2)
    true: dict[tuple[int, ...], Fraction] = {}
    s, t = Fraction(int(rng.integers(-4, 5)), 4), Fraction(int(rng.integers(-4, 5)), 4)
    for e1, x, rx in zip(monomials(n, d1), a[0], ra[0], strict=True):
        for e2, y, ry in zip(monomials(n, d2), b[0], rb[0], strict=True):
            key = tuple(e1 + e2)
            true[key] = true.get(key, Fraction(0)) + (Fraction(x) + s * Fraction(rx)) * (Fraction(y) + t * Fraction(ry))
    for e, mid, rad in zip(monomials(n, d1 + d2), found.mid[0], found.rad[0], strict=True):
        assert abs(Fraction(mid) - true[tuple(e)]) <= Fraction(rad)


# ---- expressions as data


@pytest.mark.parametrize("seed", range(10))
def test_json_round_trip(seed):
    rng = np.random.default_rng(seed)
    n = 1 + seed % 3
    f = expression(random_formula(rng, n, 5, kinks=True), random_formula(rng, n, 2), n=n)
    again = Expression.from_json(json.loads(json.dumps(f.to_json())))
    assert again == f
    assert str(again) == str(f)
    x = rng.uniform(-0.5, 0.5, (5, n))
    assert np.array_equal(again.evaluate(x), f.evaluate(x), equal_nan=True)
    for row, values in zip(x, f.evaluate(x), strict=True):
        true = oracle.expression_values(f.to_json(), [mp.mpf(float(t)) for t in row])
        for a, b in zip(values, true, strict=True):
            assert (math.isnan(a) and mp.isnan(b)) or abs(mp.mpf(float(a)) - b) <= 1e-9 * (1 + abs(b))


GOOD = {"variables": ["x"], "nodes": [["var", [], "0"], ["sin", [0], None]], "outputs": [1]}
BAD_NODES = [
    ["var", [], "1"], ["var", [], "-1"], ["var", [], None], ["var", [], "x"], ["var", [0], "0"], ["var", [], "9" * 5000],
    ["const", [], None], ["const", [], "1e5"], ["const", [], "1.5"], ["const", [], "inf"], ["const", [], "nan"], ["const", [], "1/0"], ["const", [], ""], ["const", [], "1/"],
    ["const", [], "1/2/3"], ["const", [], "--1"], ["const", [], "١"], ["const", [], "9" * 3000], ["const", [], 1], ["const", [0], "1"],
    ["sin", [], None], ["sin", [0, 0], None], ["sin", [0], "1"], ["sin", [1], None], ["sin", [2], None], ["sin", [-1], None], ["sin", ["0"], None], ["sin", [True], None], ["sin", [0.0], None],
    ["pow", [0], None], ["pow", [0], "x"], ["pow", [0], "100000"], ["pow", [0, 0], "2"], ["pow", [0], "1/0"],
    ["select", [0, 0], ">"], ["select", [0, 0, 0], "<"], ["select", [0, 0, 0], None], ["add", [], None], ["max", [0], "1"], ["__import__", [0], None], ["", [], None], ["sin", [0]], "sin", None,
]  # fmt: skip


@pytest.mark.parametrize("node", BAD_NODES, ids=lambda node: str(node)[:30])
def test_malformed_nodes_are_refused(node):
    with pytest.raises(ExpressionError):
        Expression.from_json({**GOOD, "nodes": [GOOD["nodes"][0], node], "outputs": [0]})


@pytest.mark.parametrize(
    "change",
    [
        {"outputs": []},
        {"outputs": [2]},
        {"outputs": [-1]},
        {"outputs": None},
        {"outputs": ["0"]},
        {"nodes": None},
        {"nodes": 3},
        {"variables": [1]},
        {"variables": None},
        {"nodes": [["var", [], "0"]] * 200_001},
    ],
    ids=lambda change: str(change)[:30],
)
def test_malformed_tables_are_refused(change):
    with pytest.raises(ExpressionError):
        Expression.from_json({**GOOD, **change})
    with pytest.raises(ExpressionError):
        Expression.from_json({k: v for k, v in GOOD.items() if k not in change})


def test_float_values_agree_with_mpmath_at_a_glance():
    """The module's own erf and friends mean what their names say."""
    for op in UNARY:
        x = 1.5 if op == "acosh" else 0.5
        assert expression(apply(op, var())).evaluate(np.array([[x]]))[0, 0] == pytest.approx(
            float(mpmath.fabs(x)) if op == "abs" else float(getattr(mpmath, op)(x))
        )


@pytest.mark.parametrize(("op", "sign"), [("max", -1), ("min", 1)])
def test_a_branch_that_only_touches_at_the_centre_lends_no_derivatives(op, sign):
    """max(-x^2, 0) is 0 on [-r, r]: the centre's tie must not pass on the second derivative of the branch that is never active."""
    f = ExpressionTarget(expression(apply(op, var() * var() * sign, lift(0))))
    series = f.series(Cells.boxes(np.array([[-0.5]]), np.array([[0.5]])), 6)
    middle = sum(float(p.mid[0, 0]) * 0.9**d for d, p in enumerate(series.parts[0]) if p is not None)
    assert abs(middle) <= float(series.remainder[0, 0]) + 1e-12
