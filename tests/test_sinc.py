"""sinc: its Taylor coefficients against 50 digits, its continuous extension of sin(u)/u, and formulas with it proved."""

import time
from math import comb, factorial

import mpmath
import numpy as np
import pytest
import sympy as sp
from formulas import apply, expression, var

from constructions.circuits.compile import propose_circuits
from constructions.circuits.intervals import enclose
from constructions.compile import compile_prefix
from constructions.from_sympy import from_sympy
from constructions.parse import parse_expression
from constructions.removable import without_removable
from verify import Box, ExpressionTarget, prove
from verify.ball import Ball
from verify.identity import prove_equal
from verify.jets import jets
from verify.prove import Claim
from verify.sinc import sinc_coefficients

mp = mpmath.mp.clone()
mp.dps = 50
ORDER = 14
POINTS = (0.0, 1e-300, -1e-9, 0.3, -0.75, 1.0, -1.0, 0.999999, 1.5, np.pi, 4.4934, -7.25, 40.0, 90.0)
x, y, t, a, b = sp.symbols("x y t a b", real=True)


def coefficient(u, k: int):
    """sinc^(k)(u)/k! by the series in u, summed in far more digits than it cancels."""
    with mp.workdps(60 + int(abs(u))):
        u, total, n = mp.mpf(u), mp.mpf(0), k + k % 2
        while n < k + 120 or n < k + 8 * abs(u):
            total += (-1) ** (n // 2) * comb(n, k) * u ** (n - k) / factorial(n + 1)
            n += 2
        return total


def contains(ball: Ball, i: int, true) -> bool:
    return abs(mp.mpf(float(ball.mid[i, 0])) - true) <= mp.mpf(float(ball.rad[i, 0]))


def test_coefficients_at_points_are_tight():
    found = sinc_coefficients(Ball.exact(np.array(POINTS)[:, None]), ORDER)
    for k, ball in enumerate(found):
        assert (ball.rad[:, 0] <= 1e-15 / mpmath.factorial(k + 1)).all()
        for i, u in enumerate(POINTS):
            assert contains(ball, i, coefficient(u, k)), (u, k)


@pytest.mark.parametrize("width", [1e-12, 1e-3, 0.2, 3.0])
def test_coefficients_over_intervals_hold_and_shrink_with_them(width):
    lo = np.array([0.0, -width / 2, -width / 3, 0.9, -1.05, 3.0, 4.4, -12.0])[:, None]
    found = sinc_coefficients(Ball.between(lo, lo + width), ORDER)
    for k, ball in enumerate(found):
        assert (ball.rad[:, 0] <= (width + 1e-15) / mpmath.factorial(k)).all()
        for i, start in enumerate(lo[:, 0]):
            for share in (0.0, 0.25, 0.5, 0.9, 1.0):
                u = min(float(start) + share * width, float(start + width))
                assert contains(ball, i, coefficient(u, k)), (u, k)


def test_what_is_not_finite_is_not_bounded():
    found = sinc_coefficients(Ball(np.array([[np.inf], [0.0], [np.nan]]), np.array([[0.0], [np.inf], [0.0]])), 2)
    assert all(np.isnan(ball.mid).all() or not np.isfinite(ball.rad).any() for ball in found)


def test_jets_of_a_composition_across_zero():
    """sinc(x y) along the diagonal from 0: the Taylor coefficients of sinc(s^2)."""
    f = expression(apply("sinc", var(0) * var(1)), n=2)
    jet = jets(f, Ball.exact(np.zeros((1, 2))), np.ones((1, 2)), 8)[0]
    for d in range(9):
        part = jet[d]
        total = 0.0 if part is None else float(part.mid[0].sum())
        assert total == pytest.approx(float(coefficient(0, d // 2)) if d % 2 == 0 else 0.0, abs=1e-14)


def test_values():
    f = expression(apply("sinc", var()))
    at = np.array([[0.0], [np.pi], [-0.5]])
    assert f.evaluate(at)[:, 0] == pytest.approx([1.0, 0.0, np.sin(0.5) / 0.5], abs=1e-15)


def test_float_intervals_enclose_values_and_slopes():
    f = from_sympy([sp.sinc(x)], ["x"])
    rng = np.random.default_rng(0)
    lo = rng.uniform(-12, 12, (300, 1))
    hi = lo + rng.uniform(0, 6, (300, 1))
    found = enclose(f, lo, hi)
    for share in np.linspace(0, 1, 21):
        u = lo + share * (hi - lo)
        value = f.evaluate(u)[:, 0]
        slope = (np.cos(u[:, 0]) - value) / u[:, 0]
        assert (found.lo - 1e-12 <= value).all()
        assert (value <= found.hi + 1e-12).all()
        assert (found.down[:, 0] - 1e-6 <= slope).all()
        assert (slope <= found.up[:, 0] + 1e-6).all()


EXTENDED = [
    (sp.sin(x) / x, sp.sinc(x)),
    (sp.sin(t * (a - b) / 2) ** 2 / (t * (a - b) ** 2), t * sp.sinc(t * (a - b) / 2) ** 2 / 4),
    (sp.sin(x) * sp.sin(2 * x) / x**2, 2 * sp.sinc(x) * sp.sinc(2 * x)),
    (sp.sin(x) ** 3 / x, sp.sinc(x) * sp.sin(x) ** 2),
    (sp.exp(1 + sp.sin(x * y) / x), sp.exp(1 + y * sp.sinc(x * y))),
    (sp.sin(a - b) / sp.expand(t * (a - b)), sp.sinc(a - b) / t),
    (y * sp.sin(x / y) / x, sp.sinc(x / y)),
    (sp.sin(0.5 * x) / x, sp.sinc(0.5 * x) / 2),
]  # fmt: skip


@pytest.mark.parametrize(("written", "extension"), EXTENDED)
def test_removable_singularities(written, extension):
    assert without_removable(written) == extension


@pytest.mark.parametrize(
    "e", [sp.sin(x) / x**2, sp.sin(x * y) / (x + y), sp.cos(x) / x, sp.sin(x) * x, sp.sin(1 / x) / x]
)
def test_others_stay(e):
    assert without_removable(e) is e


def test_numbers_stay_exact():
    """0.3 is not 3/10: the quotient of the arguments is the float's exact value."""
    made = without_removable(sp.sin(0.3 * x) / x)
    assert made == sp.Rational(0.3) * sp.sinc(0.3 * x)


def test_sinc_is_even_and_otherwise_unknown_to_identities():
    domain = Box({"x": (-1.0, 1.0), "y": (-1.0, 1.0)})

    def table(u):
        return from_sympy([sp.sinc(u, evaluate=False)], ["x", "y"])

    assert prove_equal(table(x - y), table(y - x), domain)
    assert not prove_equal(table(x - y), table(x + y), domain)


def test_sin_over_x_is_proved_across_zero():
    compiled = compile_prefix(sp.sin(x) / x, 1e-6, domain=Box({"x": (-5.0, 5.0)}))
    assert compiled.certificate.proved


def test_a_transition_probability_is_proved_across_resonance():
    text = "8*pi*Ef*p_d*sin(t*(omega - omega_0)/2)**2/(h*t*(omega - omega_0)**2)"
    sides = {n: (1.0, 5.0 if n.startswith("omega") else 3.0) for n in ("p_d", "Ef", "t", "h", "omega", "omega_0")}
    f, domain = parse_expression(text), Box(sides)
    symbols = [next(s for s in f.free_symbols if s.name == n) for n in sides]
    target = ExpressionTarget(from_sympy([f], list(sides)))
    eps = 1e-3 * float(np.ptp(target.evaluate(domain.sample(20_000))))
    for p in propose_circuits([f], symbols, domain, eps, max_tokens=500, deadline=time.monotonic() + 60):
        claim = Claim(p.lowered.model, p.lowered.prefix, target, domain, eps, circuit=p.lowered.hint)
        if prove(claim, seconds=60).proved:
            return
    pytest.fail("no circuit was proved")
