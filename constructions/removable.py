"""Removable singularities: sin(w)^k v^-j with w = c v and j <= k is c^j sinc(w)^j sin(w)^(k - j), which is defined at v = 0 too.

sinc u = sin(u)/u, 1 at u = 0. Where v is not 0 the two sides are the same number, so what replaces an expression is its continuous
extension to the points where v = 0: the target is then this extension. c = w/v must itself be defined wherever w is, that is, have no
denominator but w's. Only this pattern is looked for, in the factors of a product; all numbers are exact (a float is the rational number
that it is).
"""

from __future__ import annotations

from typing import Any

import sympy as sp

__all__ = ["removed_factors", "without_removable"]

_LARGEST = 200
"""Parts of an argument or a base beyond which no quotient is worked out."""
_LARGEST_EXPONENT = 1_000
"""Of a float in base 2."""


def without_removable(expression: sp.Expr) -> sp.Expr:
    """The continuous extension of the expression where its products have removable singularities of the kind sin(u)/u; itself otherwise."""
    made: dict[int, Any] = {}  # by identity, without recursion: expressions may be nested deeply
    kept: list[Any] = []  # what is rewritten must live as long as its id is used
    stack: list[tuple[Any, bool]] = [(expression, False)]
    while stack:
        e, ready = stack.pop()
        if id(e) in made:
            continue
        if not ready:
            stack += [(e, True), *((a, False) for a in e.args)]
            continue
        args = [made[id(a)] for a in e.args]
        new = e if all(a is b for a, b in zip(args, e.args, strict=True)) else e.func(*args)
        factors = removed_factors(new) if isinstance(new, sp.Mul) else None
        made[id(e)] = new if factors is None else sp.Mul(*factors)
        kept.append(e)
    return made[id(expression)]


def removed_factors(product: sp.Mul) -> list[Any] | None:
    """The factors of the product's continuous extension; None if it has no such singularity.

    Pole by pole, the highest first: what one leaves, c^j, may cancel the next. Every step uses up a sine.
    """
    whole: Any = product
    while (step := _without_one_pole(whole)) is not None:
        whole = step
    return None if whole is product else list(sp.Mul.make_args(whole))


def _without_one_pole(product: Any) -> Any:
    factors = list(sp.Mul.make_args(product))
    if not any(_sine(f) for f in factors):
        return None
    factors = [part for f in factors for part in sp.Mul.make_args(_factored(f))]
    poles = [f for f in factors if isinstance(f, sp.Pow) and isinstance(f.exp, sp.Integer) and f.exp < 0]
    for pole in sorted(poles, key=lambda f: int(f.exp)):
        rewritten = _cancelled(pole, [f for f in factors if f is not pole])
        if rewritten is not None:
            return sp.Mul(*rewritten)
    return None


def _factored(factor: Any) -> Any:
    """A power of a sum with a negative exponent, over the rationals: what vanishes may be hidden in a denominator that is expanded."""
    if not (
        isinstance(factor, sp.Pow) and factor.exp.is_Integer and factor.exp < 0 and isinstance(factor.base, sp.Add)
    ):
        return factor
    if not _small(factor.base) or factor.base.has(sp.Float):
        return factor
    try:
        return sp.factor(factor.base) ** factor.exp
    except (sp.PolynomialError, ArithmeticError, NotImplementedError):
        return factor


def _sine(factor: Any) -> tuple[Any, int] | None:
    """sin(w) and k of sin(w)^k, k a positive integer."""
    base, exponent = (factor.base, factor.exp) if isinstance(factor, sp.Pow) else (factor, sp.S.One)
    return (base, int(exponent)) if isinstance(base, sp.sin) and exponent.is_Integer and exponent > 0 else None


def _cancelled(pole: Any, others: list[Any]) -> list[Any] | None:
    """The other factors times v^-j, j = m_1 + m_2 + ..., each sin(w_i)^(k_i), m_i <= k_i, taking v^-(m_i); None if they cannot."""
    left, out = int(-pole.exp), []
    for factor in others:
        sine = _sine(factor) if left else None
        ratio = None if sine is None else _ratio(sine[0].args[0], pole.base)
        if sine is None or ratio is None:
            out.append(factor)
            continue
        taken = min(left, sine[1])
        left -= taken
        content, primitive = ratio.as_content_primitive()
        out += [content**taken, primitive**taken, sp.sinc(sine[0].args[0]) ** taken, sine[0] ** (sine[1] - taken)]
    return None if left else out


def _ratio(w: Any, v: Any) -> Any:
    """w/v, if it is defined wherever w is; None otherwise, or if that is not seen."""
    if not v.free_symbols or not (_small(w) and _small(v)):
        return None
    numbers = {x: sp.Rational(x) for e in (w, v) for x in e.atoms(sp.Float)}
    w, v = w.xreplace(numbers), v.xreplace(numbers)
    try:
        ratio = sp.cancel(w / v)
        more = sp.fraction(sp.cancel(ratio * sp.fraction(sp.together(w))[1]))[1]
    except (sp.PolynomialError, ArithmeticError, NotImplementedError):
        return None
    return None if more.free_symbols else sp.factor(ratio)


def _small(e: Any) -> bool:
    """Whether it has few parts and no number of very many digits."""
    stack, seen = [e], 0
    while stack and seen <= _LARGEST:
        part = stack.pop()
        if isinstance(part, sp.Float) and (not part.is_finite or abs(int(part._mpf_[2])) > _LARGEST_EXPONENT):
            return False
        if isinstance(part, sp.Piecewise):
            return False
        stack.extend(part.args)
        seen += 1
    return not stack
