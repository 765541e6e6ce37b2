"""A theorem that says how many tokens suffice, as a SymPy expression, and its evaluation that never rounds the wrong way.

Symbols, positive unless said: EPS the sup error, LIPSCHITZ the geodesic Lipschitz constant L >= 0, SUP = F >= sup |f|, LENGTH = T the number
of data tokens, DIMENSION = m of the sphere S^m.

Evaluation. The numbers put in are floats, hence exact rationals. Sums, products, integer powers and roots of perfect squares
stay exact rationals; everything else is a ball (python-flint), and floor and ceiling of a ball are balls too, so the result
contains the true value whatever happens. The precision is doubled until the ball holds one integer, and the end on the safe
side is returned even if it never does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import flint
import sympy as sp

from verify.precision import arb_bounds, working_precision

__all__ = ["DIMENSION", "EPS", "LENGTH", "LIPSCHITZ", "SUP", "CapShare", "Plan", "Theorem", "enclose", "plan"]

EPS = sp.Symbol("eps", positive=True)
LIPSCHITZ = sp.Symbol("L", nonnegative=True)
SUP = sp.Symbol("F", nonnegative=True)
LENGTH = sp.Symbol("T", nonnegative=True)
DIMENSION = sp.Symbol("m", positive=True, integer=True)

LARGEST_POWER = 400
"""Bounds above 10^400 are reported by their logarithm only."""
_PRECISIONS = (128, 512, 2048, 8192)
_EXACT_BITS = 8192

Number = Fraction | flint.arb


class CapShare(sp.Function):
    """sigma_m(r), the share of S^m taken by a cap of angular radius r >= 0: int_0^r sin^{m-1} / int_0^pi sin^{m-1}, 1 beyond r = pi.

    With sin^2 t = s it is I_{sin^2 r}(m/2, 1/2) / 2 for r <= pi/2 (regularised incomplete beta), and 1 - sigma_m(pi - r) beyond.
    """

    nargs = 2

    def _eval_rewrite_as_Integral(self, m: sp.Expr, r: sp.Expr, **_: Any) -> sp.Expr:
        t = sp.Dummy("t", real=True)
        end = sp.Min(r, sp.pi)
        return sp.Integral(sp.sin(t) ** (m - 1), (t, 0, end)) / sp.Integral(sp.sin(t) ** (m - 1), (t, 0, sp.pi))


def enclose(expression: sp.Expr, values: Mapping[str, float]) -> Number:
    """The value of an expression at the numbers given, exact or as a ball at python-flint's present precision.

    Known: + * ^, pi, E, floor, ceiling, Max, Min, CapShare. Raises ValueError for a symbol without a number, TypeError for any
    other function.
    """
    if isinstance(expression, sp.Symbol):
        if expression.name not in values:
            raise ValueError(f"{expression.name} has no value among {sorted(values)}. Pass one for every symbol.")
        return Fraction(values[expression.name])
    if isinstance(expression, sp.Rational):
        return Fraction(int(expression.p), int(expression.q))
    if expression is sp.pi:
        return flint.arb.pi()
    if expression is sp.E:
        return flint.arb.const_e()
    args = [enclose(a, values) for a in expression.args]  # type: ignore[arg-type]
    if isinstance(expression, sp.Add):
        return _fold(args, lambda a, b: a + b)
    if isinstance(expression, sp.Mul):
        # An exact zero is zero whatever it multiplies, a ball that is not finite included.
        return Fraction(0) if any(isinstance(a, Fraction) and a == 0 for a in args) else _fold(args, lambda a, b: a * b)
    if isinstance(expression, sp.Pow):
        return _power(*args)
    if isinstance(expression, sp.ceiling):
        return _ceiling(args[0])
    if isinstance(expression, sp.floor):
        return -_ceiling(-args[0])
    if isinstance(expression, sp.Max):
        return _fold(args, lambda a, b: max(a, b) if _exact(a, b) else _ball(a).max(_ball(b)))
    if isinstance(expression, sp.Min):
        return _fold(args, lambda a, b: min(a, b) if _exact(a, b) else _ball(a).min(_ball(b)))
    if isinstance(expression, CapShare):
        return _cap_share(*args)
    raise TypeError(
        f"{expression.func.__name__} in {expression}: no enclosure is known. Write it with + * ^ floor ceiling Max Min."
    )


def _exact(*numbers: Number) -> bool:
    return all(isinstance(x, Fraction) for x in numbers)


def _ball(x: Number) -> flint.arb:
    return flint.arb(flint.fmpq(x.numerator, x.denominator)) if isinstance(x, Fraction) else x


def _fold(args: list[Number], combine: Any) -> Number:
    total = args[0]
    for x in args[1:]:
        total = combine(total, x) if _exact(total, x) else combine(_ball(total), _ball(x))
    return total


def _power(base: Number, exponent: Number) -> Number:
    """base^exponent: exact for integers of reasonable size and for square roots of perfect squares."""
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        if exponent.denominator == 2 and base >= 0:
            root = Fraction(math.isqrt(base.numerator), math.isqrt(base.denominator))
            if root * root == base:
                base, exponent = root, Fraction(exponent.numerator)
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if exponent.denominator == 1 and abs(exponent.numerator) * bits <= _EXACT_BITS:
            return base**exponent.numerator
    if isinstance(exponent, Fraction) and exponent == Fraction(1, 2):
        return _ball(base).sqrt()
    if isinstance(exponent, Fraction) and exponent.denominator == 1:
        return _ball(base) ** flint.fmpz(exponent.numerator)
    return _ball(base) ** _ball(exponent)


def _ceiling(x: Number) -> Number:
    if isinstance(x, Fraction):
        return Fraction(math.ceil(x))
    rounded = x.ceil()
    whole = rounded.unique_fmpz()
    # Beyond the working precision no integer is known: the ball itself, widened by floor's and ceiling's at most one unit.
    return rounded if whole is None else Fraction(int(whole))


def _cap_share(m: Number, r: Number) -> flint.arb:
    """The incomplete beta function for r away from pi/2; a ball that straddles pi/2 is split there, as sigma is increasing."""
    radius, half = _ball(r), flint.arb.pi() / 2
    if radius >= 2 * half:
        return flint.arb(1)

    def below(t: flint.arb) -> flint.arb:
        return t.sin() ** 2

    if radius <= half:
        return below(radius).beta_lower(_ball(m) / 2, flint.arb("0.5"), True) / 2
    if radius >= half:
        rest = (2 * half - radius).max(flint.arb(0))
        return 1 - below(rest).beta_lower(_ball(m) / 2, flint.arb("0.5"), True) / 2
    return flint.arb(0).union(flint.arb(1))


def _whole(expression: sp.Expr, values: Mapping[str, float], up: bool) -> tuple[int | None, float, float]:
    """The value rounded up to an integer from the ball's upper (or lower) end, or None beyond 10^400, and bounds of its log10."""
    ball, low, high = flint.arb(), math.nan, math.nan
    for bits in _PRECISIONS:
        with working_precision(bits):
            value = enclose(expression, values)
            if isinstance(value, Fraction) and value <= 0:
                return math.ceil(value), -math.inf, -math.inf
            ball = _ball(value)
            if not (ball.is_finite() and ball > 0):
                continue
            low, high = arb_bounds(ball.log() / flint.arb(10).log())
            if low > LARGEST_POWER:
                return None, low, high
            if isinstance(value, Fraction):
                return math.ceil(value), low, high
            least, most = ball.lower().ceil().unique_fmpz(), ball.upper().ceil().unique_fmpz()
            if least is not None and most is not None and least == most:
                return int(most), low, high
    if not ball.is_finite():
        raise ArithmeticError(f"{expression} could not be enclosed at {dict(values)}.")
    with working_precision(_PRECISIONS[-1]):
        end = (ball.upper() if up else ball.lower()).ceil().unique_fmpz()
    if end is None:
        raise ArithmeticError(f"{expression} could not be rounded to an integer at {dict(values)}.")
    return int(end), low, high


@dataclass(frozen=True, eq=False)
class Theorem:
    """How many tokens suffice, and how few cannot.

    name, statement, source: in words. bound: N as an expression of the symbols of this file; None where only the rate is known.
    values: the numbers it is evaluated at, by symbol name. lower: no head of the kind `lower_statement` names has fewer tokens; None
    where nothing is known. rate: growth as eps -> 0 up to a constant that may depend on m. hypotheses: what is assumed.

    Raises ValueError if a symbol has no finite value.
    """

    name: str
    statement: str
    source: str
    bound: sp.Expr | None
    values: Mapping[str, float]
    lower: sp.Expr | None = None
    lower_statement: str = ""
    rate: sp.Expr | None = None
    hypotheses: str = ""

    def __post_init__(self) -> None:
        for name in self._symbols():
            if not (name in self.values and math.isfinite(self.values[name])):
                raise ValueError(
                    f"{name} = {self.values.get(name)!r} in {self.name}: a finite number is needed. Pass one in values."
                )

    def _symbols(self) -> list[str]:
        """Names of the symbols of both bounds."""
        return sorted({s.name for e in (self.bound, self.lower) if e is not None for s in e.atoms(sp.Symbol)})

    def tokens(self) -> int | None:
        """The bound, rounded up; None where it exceeds 10^400 (see log10_tokens). Raises ValueError where only a rate is known."""
        return _whole(self._bound(), self.values, up=True)[0]

    def log10_tokens(self) -> float:
        """log10 of the bound, rounded up. Raises ValueError where only a rate is known."""
        return _whole(self._bound(), self.values, up=True)[2]

    def lower_tokens(self) -> int | None:
        """The lower bound, at least 1 (1 where none is known); None where it exceeds 10^400."""
        found = 1 if self.lower is None else _whole(self.lower, self.values, up=False)[0]
        return None if found is None else max(1, found)

    def log10_lower(self) -> float:
        """log10 of the lower bound, rounded down; at least 0."""
        return 0.0 if self.lower is None else max(0.0, _whole(self.lower, self.values, up=False)[1])

    def _bound(self) -> sp.Expr:
        if self.bound is None:
            raise ValueError(f"{self.name}: only the rate {self.rate} is known, without its constant. Read .rate.")
        return self.bound

    def __str__(self) -> str:
        at = ", ".join(f"{k} = {v:g}" for k, v in self.values.items() if k == "m" or k in self._symbols())
        lines = [f"{self.name}: {self.statement}"]
        if self.bound is None:
            lines.append(f"  N = O({self.rate}), constant unknown")
        else:
            lines.append(f"  N <= {self.bound} = {_shown(self.tokens(), self.log10_tokens())} at {at}")
        if self.lower is not None:
            lines.append(f"  {self.lower_statement}: N >= {_shown(self.lower_tokens(), self.log10_lower())}")
        if self.hypotheses:
            lines.append(f"  Assumed: {self.hypotheses}")
        lines.append(f"  Source: {self.source}")
        return "\n".join(lines)


def _shown(count: int | None, log10: float) -> str:
    if count is None:
        return f"about 10^{log10:.6g}"
    return str(count) if count < 10**15 else f"about {10 ** (log10 % 1):.3f}e{int(log10)}"


@dataclass(frozen=True)
class Plan:
    """What a bound would take to build: nothing is built.

    tokens: None beyond 10^400; log10_tokens: rounded up; bytes, log10_bytes: float64 slopes, biases and values of a single head.
    """

    tokens: int | None
    log10_tokens: float
    bytes: int | None
    log10_bytes: float

    def fits(self, memory: int) -> bool:
        """Whether the arrays alone fit into `memory` bytes."""
        return self.bytes is not None and self.bytes <= memory

    def __str__(self) -> str:
        size = "more bytes than 10^400" if self.bytes is None else _bytes(self.bytes, self.log10_bytes)
        return f"planned, not built: {_shown(self.tokens, self.log10_tokens)} tokens, {size}"


def _bytes(count: int, log10: float) -> str:
    for power, unit in enumerate(("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")):
        if count < 1024 ** (power + 1):
            return f"{count / 1024**power:.4g} {unit}"
    return f"about 10^{log10:.1f} bytes"


def plan(theorem: Theorem, n_inputs: int, outputs: int) -> Plan:
    """Tokens and memory of the head the theorem promises: 8 (n_inputs + 1 + outputs) bytes a token.

    n_inputs: coordinates of an input (m + 1 on S^m); outputs: of f. Raises ValueError for a count below 1, or a theorem without bound.
    """
    for name, count in (("n_inputs", n_inputs), ("outputs", outputs)):
        if count < 1:
            raise ValueError(f"{name} = {count}: a head has at least one. Pass a count >= 1.")
    each = 8 * (n_inputs + 1 + outputs)
    tokens, log10 = theorem.tokens(), theorem.log10_tokens()
    log10_bytes = math.nextafter(log10 + math.log10(each), math.inf)
    return Plan(tokens, log10, None if tokens is None else tokens * each, log10_bytes)
