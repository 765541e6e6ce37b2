"""Taylor coefficients of expressions in many variables, over many boxes at once, in ball arithmetic.

For a box with centre c and half-widths r, write x = c + r tau, tau in [-1, 1]^n. A jet is the list of the homogeneous parts,
degree by degree, of the Taylor series in tau: part d is a ball array (boxes, K_d) over the K_d = C(n+d-1, d) monomials of
degree d, or None where it is identically zero.

Two evaluations bound a function over a box (Taylor's theorem with Lagrange's remainder, along the segment from c to x):
  - at the *point* c: the coefficients of degree < m;
  - at the *box* itself (the zeroth coefficients of the variables are the whole box): the coefficients of degree m enclose
    f^(m)(xi)/m! for every xi of the box, hence |f(x) - sum_{d<m}| <= sum of the magnitudes of part m.
Where a function is not m times differentiable on the box, part m has an infinite radius and a smaller m is taken:
m = 1 needs a Lipschitz function only (abs, min, max give the hull of their one-sided slopes), m = 0 is a plain range.

Elementary functions use the Euler operator E = sum tau_i d/dtau_i, which multiplies part d by d: y = phi(u) gives
E y = phi'(u) E u, so  d y_d = sum_{j=1..d} j u_j psi_{d-j}  with psi = phi'(u). One-dimensional recurrences thus hold in any
dimension with products of homogeneous parts. Zeroth parts come from python-flint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import flint
import numpy as np

from verify.ball import TINY, Ball, U, inverse
from verify.conjugate import conjugates, sharpened
from verify.expression import Expression, Node
from verify.kinks import absolute, dense, extreme, negate, selection, undefined_where
from verify.monomials import Jet, homogeneous_product, monomials
from verify.nonnegative import not_negative
from verify.precision import arb_bounds, working_precision
from verify.sinc import sinc_coefficients

__all__ = ["jets"]

_PRECISION = 80


def _times(a: Jet, b: Jet, n: int, degree: int) -> Ball | None:
    """Part `degree` of a product of jets."""
    if degree == 0 and a[0] is not None and b[0] is not None:
        return _range_product(a[0], b[0])
    out: Ball | None = None
    for i in range(degree + 1):
        x, y = a[i], b[degree - i]
        if x is None or y is None:
            continue
        term = homogeneous_product(x, y, n, i, degree - i)
        out = term if out is None else out + term
    return out


def _range_product(a: Ball, b: Ball) -> Ball:
    """Product of ranges from their ends: tighter than the product of balls, which for [0, h] [a, b] reaches below zero."""
    product = a * b
    if not (a.rad.any() and b.rad.any()):
        return product
    ends = [x * y for x in (a.lower(), a.upper()) for y in (b.lower(), b.upper())]
    lo, hi = np.minimum.reduce(ends), np.maximum.reduce(ends)
    lo, hi = lo - 2 * U * np.abs(lo) - TINY, hi + 2 * U * np.abs(hi) + TINY
    both = (a.lower() >= 0) & (b.lower() >= 0)
    return Ball.between(np.where(both, np.maximum(lo, 0.0), lo), hi)


def _sum(a: Ball | None, b: Ball | None) -> Ball | None:
    return b if a is None else a if b is None else a + b


def _total(table: list[Jet], which: Sequence[int]) -> Ball:
    """The sum of the values of some nodes."""
    out = _head(table[which[0]])
    for k in which[1:]:
        out = out + _head(table[k])
    return out


def _elementwise(x: Ball, function: Callable[[flint.arb], flint.arb]) -> Ball:
    """Values of a function on balls, one by one through python-flint; NaN where it cannot be bounded."""
    flat_mid, flat_rad = x.mid.ravel(), x.rad.ravel()
    lo, hi = np.full(flat_mid.size, np.nan), np.full(flat_mid.size, np.nan)
    for i in range(flat_mid.size):
        m, r = float(flat_mid[i]), float(flat_rad[i])
        if np.isfinite(m) and np.isfinite(r):
            lo[i], hi[i] = arb_bounds(function(flint.arb(m, r) if r else flint.arb(m)))
    return Ball.between(lo.reshape(x.shape), hi.reshape(x.shape))


def _monotone(
    x: Ball,
    function: Callable[[flint.arb], flint.arb],
    floor: float = -np.inf,
    ceiling: float = np.inf,
    strict: bool = False,
    sure: np.ndarray | None = None,
) -> Ball:
    """Range of an increasing function from the two ends of each ball (tight, and exact at the end of its domain).

    The argument is intersected with [floor, ceiling], the closed set on which the function is defined: the bound then holds at
    every point of the box *where the expression is defined*. An argument entirely outside gives NaN; a strict one also where the
    argument reaches outside by more than a rounding of its own width.
    """
    lo, hi = x.lower().ravel(), x.upper().ravel()
    out_lo, out_hi = np.full(lo.size, np.nan), np.full(lo.size, np.nan)
    for i in range(lo.size):
        a, b = float(lo[i]), float(hi[i])
        if not (np.isfinite(a) and np.isfinite(b)) or b < floor or a > ceiling:
            continue
        if strict and ((a < floor and not (sure is not None and sure[i])) or b > ceiling):
            continue
        a, b = max(a, floor), min(b, ceiling)
        below = arb_bounds(function(flint.arb(a)))
        above = below if a == b else arb_bounds(function(flint.arb(b)))
        out_lo[i], out_hi[i] = below[0], above[1]
    return Ball.between(out_lo.reshape(x.shape), out_hi.reshape(x.shape))


def _primitive(u: Jet, value: Ball, psi: Jet, n: int, order: int) -> Jet:
    """y with y_0 = value and E y = psi E u; `psi` may be filled while this runs (see _with_feedback)."""
    out: Jet = [value]
    for d in range(1, order + 1):
        out.append(_euler_step(u, psi, n, d))
    return out


def _euler_step(u: Jet, psi: Jet, n: int, d: int) -> Ball | None:
    """(1/d) sum_{j=1..d} j u_j psi_{d-j}."""
    out: Ball | None = None
    for j in range(1, d + 1):
        x, y = u[j], psi[d - j]
        if x is None or y is None:
            continue
        term = homogeneous_product(x, y, n, j, d - j).scale(float(j))
        out = term if out is None else out + term
    return None if out is None else out.scale(1.0 / d).enlarge(U * np.abs(out.mid))


def _exp(u: Jet, n: int, order: int) -> Jet:
    y: Jet = [_monotone(_head(u), lambda x: x.exp())]
    for d in range(1, order + 1):
        y.append(_euler_step(u, y, n, d))
    return y


def _pair(u: Jet, n: int, order: int, first: Ball, second: Ball, sign: float) -> tuple[Jet, Jet]:
    """(sin, cos) for sign = -1, (sinh, cosh) for sign = +1: E s = c E u, E c = sign s E u."""
    s: Jet = [first]
    c: Jet = [second]
    for d in range(1, order + 1):
        ds, dc = _euler_step(u, c, n, d), _euler_step(u, s, n, d)
        s.append(ds)
        c.append(None if dc is None else dc.scale(sign))
    return s, c


def _self_referential(u: Jet, n: int, order: int, value: Ball, sign: float) -> Jet:
    """tanh (sign = -1) and tan (sign = +1): y' = 1 + sign y^2."""
    y: Jet = [value]
    z: Jet = [(value * value).scale(sign).shift(1.0)]
    for d in range(1, order + 1):
        y.append(_euler_step(u, z, n, d))
        square = _times(y, y, n, d)
        z.append(None if square is None else square.scale(sign))
    return y


def _power(u: Jet, n: int, order: int, p: Fraction, strict: bool = False, sure: np.ndarray | None = None) -> Jet:
    if p.denominator == 1 and 0 <= p.numerator <= 64:
        return _integer_power(u, n, order, p.numerator)
    head = _head(u)
    if p.denominator > 1:
        with_sign = (lambda x: _real_power(x, p)) if p > 0 else (lambda x: 1 / _real_power(x, -p))
        if p > 0:
            value = _monotone(head, with_sign, floor=0.0, strict=strict, sure=sure)
        else:  # decreasing on (0, inf)
            value = -_monotone(head, lambda x: -with_sign(x), floor=0.0, strict=strict)
    else:
        value = _reciprocal_power(head, -p.numerator) if p < 0 else _elementwise(head, lambda x: x**p.numerator)
    reciprocal = inverse(head)
    q = p.numerator / p.denominator
    q_ball = Ball(np.array(q), np.array(0.0 if Fraction(q) == p else U * abs(q)))
    y: Jet = [value]
    for d in range(1, order + 1):  # u E y = p y E u
        acc: Ball | None = None
        for j in range(1, d + 1):
            a, b = u[j], y[d - j]
            if a is None or b is None:
                continue
            factor = q_ball.scale(float(j)).shift(-float(d - j))
            term = homogeneous_product(a, b, n, j, d - j) * Ball(
                np.full((1, 1), factor.mid), np.full((1, 1), factor.rad)
            )
            acc = term if acc is None else acc + term
        if acc is None:
            y.append(None)
        else:
            part = acc * reciprocal
            y.append(part.scale(1.0 / d).enlarge(U * np.abs(part.mid)))
    return y


def _reciprocal_power(x: Ball, p: int) -> Ball:
    """Range of x^-p, p >= 1, from the ends: |x|^-p decreases in |x|, and has the sign of x where p is odd. NaN where x may be zero."""
    lo, hi = x.lower(), x.upper()
    near, far = np.minimum(np.abs(lo), np.abs(hi)), np.maximum(np.abs(lo), np.abs(hi))
    split = ~((lo > 0) | (hi < 0))
    ends = [_elementwise(Ball.exact(np.where(split, np.nan, v)), lambda t: 1 / t**p) for v in (far, near)]
    low, high = ends[0].lower(), ends[1].upper()
    turned = (hi < 0) & (p % 2 == 1)
    return Ball.between(np.where(turned, -high, low), np.where(turned, -low, high))


def _real_power(x: flint.arb, p: Fraction) -> flint.arb:
    """x^p for x >= 0, p > 0."""
    if x == 0:
        return flint.arb(0)
    return x.sqrt() ** p.numerator if p.denominator == 2 else x ** flint.arb(flint.fmpq(p.numerator, p.denominator))


def _integer_power(u: Jet, n: int, order: int, p: int) -> Jet:
    head = _head(u)
    if p == 0:
        # 1 where the base is defined
        return _constant(Ball(np.ones(head.shape), np.where(np.isnan(head.mid + head.rad), np.nan, 0.0)), order)
    out: Jet | None = None
    base, k = u, p
    while k:  # binary powering
        if k & 1:
            out = base if out is None else _product([out, base], n, order)
        k >>= 1
        if k:
            base = _product([base, base], n, order)
    assert out is not None
    out = list(out)
    if p % 2 == 0:  # the range of an even power is known better from the magnitudes
        lo, hi = head.lower(), head.upper()
        small = np.where((lo <= 0) & (hi >= 0), 0.0, np.minimum(np.abs(lo), np.abs(hi)))
        large = np.maximum(np.abs(lo), np.abs(hi))
        bounds = [_elementwise(Ball.exact(x), lambda t: t**p) for x in (small, large)]
        out[0] = Ball.between(np.maximum(bounds[0].lower(), 0.0), bounds[1].upper())
    return out


def _product(factors: list[Jet], n: int, order: int) -> Jet:
    out = factors[0]
    for f in factors[1:]:
        out = [_times(out, f, n, d) for d in range(order + 1)]
    return out


def _composed(u: Jet, coefficients: list[Ball], n: int, order: int) -> Jet:
    """phi(u) from phi^(k)(u_0)/k!: the parts of sum_k a_k w^k, w = u - u_0, by Horner's scheme (w has no constant part)."""
    w: Jet = [None, *u[1:]]
    out = _constant(coefficients[order], 0)
    for k in range(order - 1, -1, -1):
        inner: Jet = [*out, None]
        out = [coefficients[k], *(_times(w, inner, n, d) for d in range(1, order - k + 1))]
    return out


def _constant(value: Ball, order: int) -> Jet:
    return [value, *([None] * order)]


def _head(u: Jet) -> Ball:
    assert u[0] is not None
    return u[0]


def _integrated(op: str, u: Jet, n: int, order: int, strict: bool) -> Jet:
    """Functions whose derivative is algebraic (or, for erf, a Gaussian) in the argument."""
    head = _head(u)
    if op == "log":
        value, psi = _monotone(head, lambda x: x.log(), floor=0.0, strict=strict), _power(u, n, order, Fraction(-1))
    else:
        square = _integer_power(u, n, order, 2)
        if op == "erf":
            value = _monotone(head, lambda x: x.erf())
            scale = _elementwise(Ball.exact(np.ones((1, 1))), lambda x: 2 / flint.arb.pi().sqrt())
            psi = [None if part is None else part * scale for part in _exp(negate(square), n, order)]
        elif op == "atan":
            value, psi = _monotone(head, lambda x: x.atan()), _power(_plus(square, 1.0), n, order, Fraction(-1))
        elif op == "atanh":
            value, psi = (
                _monotone(head, lambda x: x.atanh(), -1.0, 1.0, strict),
                _power(_plus(negate(square), 1.0), n, order, Fraction(-1)),
            )
        elif op == "asinh":
            value, psi = _monotone(head, lambda x: x.asinh()), _power(_plus(square, 1.0), n, order, Fraction(-1, 2))
        elif op == "acosh":
            value, psi = (
                _monotone(head, lambda x: x.acosh(), floor=1.0, strict=strict),
                _power(_plus(square, -1.0), n, order, Fraction(-1, 2)),
            )
        else:  # asin, acos
            value = _monotone(head, lambda x: x.asin(), -1.0, 1.0, strict)
            psi = _power(_plus(negate(square), 1.0), n, order, Fraction(-1, 2))
            if op == "acos":
                half_pi = _elementwise(Ball.exact(np.ones((1, 1))), lambda x: flint.arb.pi() / 2)
                value, psi = half_pi - value, negate(psi)
    return _primitive(u, value, psi, n, order)


def _plus(u: Jet, c: float) -> Jet:
    return [_head(u).shift(c), *u[1:]]


def _unary(op: str, u: Jet, n: int, order: int, boxes: int, strict: bool, thin: bool) -> Jet:
    head = _head(u)
    if op == "exp":
        return _exp(u, n, order)
    if op in ("sin", "cos"):
        s, c = _pair(u, n, order, _elementwise(head, lambda x: x.sin()), _elementwise(head, lambda x: x.cos()), -1.0)
        return s if op == "sin" else c
    if op in ("sinh", "cosh"):
        s, c = _pair(u, n, order, _monotone(head, lambda x: x.sinh()), _elementwise(head, lambda x: x.cosh()), 1.0)
        return s if op == "sinh" else c
    if op == "tanh":
        return _self_referential(u, n, order, _monotone(head, lambda x: x.tanh()), -1.0)
    if op == "tan":
        return _self_referential(u, n, order, _elementwise(head, lambda x: x.tan()), 1.0)
    if op == "sinc":
        return _composed(u, sinc_coefficients(head, order), n, order)
    if op == "abs":
        return absolute(u, n, order, boxes, thin)
    return _integrated(op, u, n, order, strict)


def _variable(i: int, centre: Ball, radius: np.ndarray, n: int, order: int) -> Jet:
    out: Jet = [centre[:, i : i + 1], *([None] * order)]
    if order >= 1:
        if radius.ndim == 3:
            out[1] = Ball.exact(radius[:, i, :])
        else:
            slope = np.zeros(radius.shape)
            slope[:, i] = radius[:, i]
            out[1] = Ball.exact(slope)
    return out


def jets(expression: Expression, centre: Ball, radius: np.ndarray, order: int, strict: bool = False) -> list[Jet]:
    """Taylor coefficients in tau of each output, for x = centre + radius * tau.

    centre: (boxes, n) balls, points or whole boxes; radius: (boxes, n) half-widths, or (boxes, n, n) whose columns are the axes of
    oriented cells, exact. Returns one jet per output, parts 0..order; an entry that cannot be bounded has an infinite or NaN radius. The values hold at every point where the
    expression is defined (as a real function); with `strict`, a box that may reach where it is not gets NaN.
    """
    boxes, n = centre.shape
    thin = not centre.rad.any()
    table: list[Jet] = []
    signs: list[np.ndarray] = []
    special = conjugates(expression)

    def sign_of(argument: int) -> np.ndarray | None:
        """Where an argument is certainly not negative; only strict evaluation asks."""
        if not strict:
            return None
        for k in range(len(signs), argument + 1):
            of = expression.nodes[k]
            low = _constant_bounds(of)[0] if of.op == "const" else 0.0
            signs.append(not_negative(k, expression, signs, centre, low))
        return signs[argument]

    with np.errstate(all="ignore"), working_precision(_PRECISION):
        for node in expression.nodes:
            args = [table[a] for a in node.args]
            if node.op == "var":
                value: Jet = _variable(int(node.value or 0), centre, radius, n, order)
            elif node.op == "const":
                lo, hi = _constant_bounds(node)
                value = _constant(Ball.between(np.array([[lo]]), np.array([[hi]])), order)
            elif node.op == "add":
                value = list(args[0])
                for other in args[1:]:
                    value = [_sum(p, q) for p, q in zip(value, other, strict=True)]
                kind, whole = special.get(len(table)), value[0]
                if kind is not None and kind.rest and whole is not None:
                    value[0] = sharpened(whole, _total(table, kind.others), _total(table, kind.rest))
            elif node.op == "mul":
                value = _product(args, n, order)
            elif node.op == "pow":
                value = _power(args[0], n, order, Fraction(node.value or "1"), strict, sign_of(node.args[0]))
            elif node.op in ("min", "max"):
                value = args[0]
                for other in args[1:]:
                    value = extreme(node.op, value, other, n, order, boxes, thin)
            elif node.op == "select":
                value = selection(node.value == ">", args[0], args[1], args[2], n, order, boxes, thin)
                if strict:
                    value = undefined_where(args[0], value, boxes)
            else:
                value = _unary(node.op, args[0], n, order, boxes, strict, thin)
            table.append(value)
    return [
        [p if p is None else dense(p, boxes, len(monomials(n, d))) for d, p in enumerate(table[o])]
        for o in expression.outputs
    ]


def _constant_bounds(node: Node) -> tuple[float, float]:
    value = node.value or "0"
    if value not in ("pi", "e"):
        q = Fraction(value)
        try:
            nearest = q.numerator / q.denominator
        except OverflowError:
            return np.nan, np.nan
        if Fraction(nearest) == q:
            return nearest, nearest
    return arb_bounds(Expression((node,), (0,), ()).enclose_point([])[0])
