"""One small family of problems for every univariate node: f(u) on [lo, hi] as offset + linear u + scale g(t), |t| <= 1.

An affine change of u is absorbed by a head's keys, a factor and a constant by its values. So log depends on hi/lo alone, exp on the
width, a power on hi/lo, a square (its affine part free) on nothing, sin and cos on width and phase, any other function of an affine
argument on the image of the box. Parameters are rounded up to a grid, which widens the box a little: a head for more serves less, and
tables are shared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp
from jaxtyping import Float

from constructions.from_sympy import from_sympy

__all__ = ["Canonical", "canonical"]

_T = sp.Symbol("t", real=True)
_STEPS = 512  # grid points of a parameter per doubling: the box grows by at most 0.14 %
_PHASE = 1e-10  # grid of the phases of a sine


@dataclass(frozen=True)
class Canonical:
    """f(u) = offset + linear u + scale g(t) with u = centre + radius t; the box of u lies in |t| <= 1 (radius may be negative).

    function: g, in t alone, its numbers exact; affine: whether heads may leave out an affine function.
    """

    function: sp.Expr
    affine: bool
    offset: float = 0.0
    linear: float = 0.0
    scale: float = 1.0
    centre: float = 0.0
    radius: float = 1.0

    @property
    def key(self) -> str:
        """What the heads of g depend on, as text."""
        return f"{'affine-free' if self.affine else 'full'} {sp.srepr(self.function)}"

    def evaluate(self, t: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
        """g in plain float64."""
        return from_sympy([self.function], ["t"]).evaluate(np.asarray(t)[:, None])[:, 0]


def canonical(function: sp.Expr, lo: float, hi: float, *, affine: bool) -> Canonical:
    """The problem that the heads of this function of one symbol solve on [lo, hi].

    affine: what f(u) contains of an affine function goes into offset and linear and is nobody's work.
    Raises ValueError for an empty or infinite box, or for more than one symbol.
    """
    if not (math.isfinite(lo) and math.isfinite(hi) and lo < hi):
        raise ValueError(f"lo, hi = {lo}, {hi}: needs finite lo < hi; a read-out that is constant needs no head")
    symbols = sorted(function.free_symbols, key=str)
    if len(symbols) > 1:
        raise ValueError(f"function = {function}: has the symbols {symbols}; pass a function of one symbol")
    if not symbols:
        return Canonical(sp.Integer(0), affine, offset=_number(function))
    u = sp.Symbol(str(symbols[0]), real=True)
    offset, linear, rest = _split(function.subs(symbols[0], u), u, affine)
    if rest.is_zero:
        return Canonical(sp.Integer(0), affine, offset, linear)
    scale, core = rest.as_independent(u, as_Add=False)
    inner = _known(core, u, lo, hi, affine) or _any(core, u, lo, hi, affine)
    factor = _number(scale)
    return Canonical(
        inner.function,
        affine,
        offset + factor * inner.offset,
        linear + factor * inner.linear,
        factor * inner.scale,
        inner.centre,
        inner.radius,
    )


def _number(x: sp.Basic) -> float:
    return float(sp.N(x, 30))


def _exact(x: float) -> sp.Expr:
    return sp.Rational(x)


def _above(x: float) -> float:
    """The smallest point of the grid above x > 0."""
    return 2.0 ** (math.ceil(_STEPS * math.log2(x * (1.0 + 1e-11))) / _STEPS)


def _split(f: Any, u: sp.Symbol, affine: bool) -> tuple[float, float, sp.Expr]:
    """Constant terms, the factor of u in linear terms (where it is free), and the rest; quadratics become one square."""
    poly = f.as_poly(u) if f.is_polynomial(u) else None
    if poly is not None and poly.degree() <= 1:
        slope, at_zero = poly.coeff_monomial(u), poly.coeff_monomial(1)
        return (_number(at_zero), _number(slope), sp.Integer(0)) if affine else (_number(at_zero), 0.0, slope * u)
    if poly is not None and poly.degree() == 2:
        a, b, c = (poly.coeff_monomial(u**i) for i in (2, 1, 0))
        middle = b / (2 * a)
        return _number(c - a * middle**2), 0.0, sp.Mul(a, sp.Pow(u + middle, 2), evaluate=False) if middle else a * u**2
    offset, linear, rest = 0.0, 0.0, []
    for term in sp.Add.make_args(f):
        factor, part = term.as_independent(u, as_Add=False)
        if part == 1:
            offset += _number(factor)
        elif part == u and affine:
            linear += _number(factor)
        else:
            rest.append(term)
    return offset, linear, sp.Add(*rest)


def _argument(argument: Any, u: sp.Symbol) -> tuple[float, float] | None:
    """p and q of p u + q."""
    poly = argument.as_poly(u) if argument.is_polynomial(u) else None
    if poly is None or poly.degree() != 1:
        return None
    return _number(poly.coeff_monomial(u)), _number(poly.coeff_monomial(1))


def _known(core: Any, u: sp.Symbol, lo: float, hi: float, affine: bool) -> Canonical | None:
    """A function of p u + q that scales, or depends on the box of p u + q alone."""
    if core == u:
        return Canonical(_T, affine, 0.5 * (lo + hi), 0.0, 0.5 * (hi - lo), 0.5 * (lo + hi), 0.5 * (hi - lo))
    if core.is_Pow and not core.args[0].has(u):
        core = sp.Function("exp_of")(core.args[1] * sp.log(core.args[0]))
    if core.is_Pow and not core.args[1].is_Rational:
        return None
    if not (core.is_Pow or (core.is_Function and len(core.args) == 1)):
        return None
    found = _argument(core.args[0], u)
    if found is None:
        return None
    p, q = found
    low, high = sorted((p * lo + q, p * hi + q))
    inside = Canonical(sp.Integer(0), affine, centre=0.5 * (low + high), radius=0.5 * (high - low))
    name = core.func.__name__
    if name in ("exp", "exp_of"):
        inside = _exp(inside)
    elif name == "log":
        inside = _log(inside) if low > 0 else None
    elif name == "Pow":
        inside = _power(inside, core.args[1])
    elif name in ("sin", "cos"):
        inside = _sine(inside, math.pi / 2 if name == "cos" else 0.0)
    else:
        function = core.func(_exact(inside.centre) + _exact(inside.radius) * _T)
        inside = Canonical(function, affine, centre=inside.centre, radius=inside.radius)
    if inside is None:
        return None
    # v = p u + q; a linear part in v is one in u
    offset, linear = inside.offset + inside.linear * q, inside.linear * p
    return Canonical(inside.function, affine, offset, linear, inside.scale, (inside.centre - q) / p, inside.radius / p)


def _exp(box: Canonical) -> Canonical:
    width = _above(box.radius)
    return Canonical(
        sp.exp(_exact(width) * _T), box.affine, scale=math.exp(box.centre), centre=box.centre, radius=width
    )


def _widened(low: float, high: float) -> tuple[float, float, float]:
    """Centre, radius and their quotient for [low, low r], r on the grid and at least high/low; low > 0."""
    log_ratio = _above(math.log(high / low))
    quotient = math.tanh(0.5 * log_ratio)
    centre = 0.5 * low * (1.0 + math.exp(log_ratio))
    return centre, centre * quotient, quotient


def _log(box: Canonical) -> Canonical:
    centre, radius, quotient = _widened(box.centre - box.radius, box.centre + box.radius)
    function = sp.log(1 + _exact(quotient) * _T)
    return Canonical(function, box.affine, offset=math.log(centre), centre=centre, radius=radius)


def _power(box: Canonical, exponent: Any) -> Canonical | None:
    low, high = box.centre - box.radius, box.centre + box.radius
    k = float(exponent)
    whole = bool(exponent.is_Integer)
    if exponent == 2 and box.affine:
        # (c + h t)^2 = -c^2 + 2 c v + h^2 t^2 at v = c + h t
        c, h = box.centre, box.radius
        return Canonical(_T**2, True, -c * c, 2 * c, h * h, c, h)
    if low > 0 or (high < 0 and whole):
        sign = 1.0 if low > 0 else -1.0
        centre, radius, quotient = _widened(*sorted((sign * low, sign * high)))
        function = (1 + _exact(quotient) * _T) ** exponent
        return Canonical(function, box.affine, scale=sign**k * centre**k, centre=sign * centre, radius=sign * radius)
    if low < 0 and not whole:
        return None
    function = (_exact(box.centre / box.radius) + _T) ** exponent
    return Canonical(function, box.affine, scale=box.radius**k, centre=box.centre, radius=box.radius)


def _sine(box: Canonical, shift: float) -> Canonical:
    """sin of the phase (in [0, pi/2], by sign and reflection) plus w t, the phase on a grid."""
    phase = (box.centre + shift) % (2 * math.pi)
    sign = 1.0
    if phase >= math.pi:
        phase, sign = phase - math.pi, -1.0
    mirror = 1.0
    if phase > math.pi / 2:
        phase, mirror = math.pi - phase, -1.0
    rounded = round(phase / _PHASE) * _PHASE
    centre = box.centre + mirror * (rounded - phase)
    width = _above(box.radius + abs(rounded - phase))
    function = sp.sin(_exact(rounded) + _exact(width) * _T)
    return Canonical(function, box.affine, scale=sign, centre=centre, radius=mirror * width)


def _any(core: Any, u: sp.Symbol, lo: float, hi: float, affine: bool) -> Canonical:
    centre, radius = 0.5 * (lo + hi), 0.5 * (hi - lo)
    function = core.xreplace({u: _exact(centre) + _exact(radius) * _T})
    return Canonical(function, affine, centre=centre, radius=radius)
