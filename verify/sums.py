"""Finite sums of rational coefficients times powers of atoms times one exponential, on a box: their ring, leaves and signs.

A sum is a mapping from monomials to non-zero fractions; a monomial is (powers, w): a sorted tuple of (atom, rational exponent) and
the number of the sum in the exponential's argument, exp(w). Atoms are variables, pi, primes under a root, functions of sums
("log", "sin", ...), sums under a power ("sum"), absolute values ("abs") and atoms that are <= 0 on the box, negated ("neg").

The invariant that every operation keeps, and the side conditions of its rules, are in `verify.normal_form`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from math import floor
from types import MappingProxyType

from verify.domain import Box
from verify.expression import ExpressionError
from verify.signs import Sign, sign_on_box
from verify.sum_table import table_of

__all__ = ["ONE", "Monomial", "Powers", "Sum", "Sums", "Undecided", "collected", "exponent", "merged"]

Exponent = Fraction | int
Powers = tuple[tuple[int, Exponent], ...]
Monomial = tuple[Powers, int]
Sum = Mapping[Monomial, Fraction]

UNIT: Monomial = ((), 0)
ONE: Sum = MappingProxyType({UNIT: Fraction(1)})
_ODD = frozenset({"sin", "asin", "asinh", "atan", "erf"})
_EVEN = frozenset({"cos", "sinc"})
_REDUCIBLE = frozenset({"prime", "abs", "sum", "sin", "cos"})
_MAX_WORK, _MAX_TERMS, _MAX_DEPTH, _MAX_NESTED = 400_000, 2_000, 24, 3
_MAX_BITS, _MAX_TRIG, _MAX_EXPONENT = 4_096, 12, 10_000


class Undecided(Exception):
    """The expressions are too large, or use something without a rule; the message says what."""


class Sums:
    """The atoms and sums met so far, on one box, with a budget of work. squares_kept: powers 2, 3, ... of sums with a root in them
    stay powers, as (sqrt(P) - B)^2 + c, once multiplied out, is not seen to be a product again."""

    def __init__(self, domain: Box, squares_kept: bool = False) -> None:
        self.domain = domain
        self.squares_kept = squares_kept
        self._work = _MAX_WORK
        self._nested = 0  # tests for zero within tests for zero, through the arguments of the functions they meet
        self._atoms: list[tuple[str, tuple[int, ...], str]] = []
        self._atom_number: dict[tuple[str, tuple[int, ...], str], int] = {}
        self._atom_depth: list[int] = []
        self._atom_signs: dict[int, Sign] = {}
        self._sums: list[Sum] = []
        self._sum_number: dict[frozenset[tuple[Monomial, Fraction]], int] = {}
        self._sum_depth: list[int] = []
        self._sum_signs: dict[int, Sign] = {}
        self._sum_risks: dict[int, frozenset[tuple[str, int]]] = {}
        self._joins: dict[tuple[int, int], int] = {}
        self._arguments: list[int] = []
        self._number({})  # sum 0 is the empty one: exp(0) = 1

    def constant(self, c: Fraction | int) -> Sum:
        """A rational number."""
        return {UNIT: self._checked(Fraction(c))} if c else {}

    def pi(self) -> Sum:
        """The constant pi."""
        return self._power_of(self._atom("pi", ()), 1)

    def variable(self, index: int) -> Sum:
        """A coordinate of the box."""
        return self._leaf("var", (), str(index))

    def total(self, *sums: Sum) -> Sum:
        """The sum of sums."""
        out: dict[Monomial, Fraction] = {}
        for s in sums:
            self.spend(len(s))
            for monomial, c in s.items():
                value = out.get(monomial, 0) + c
                if value:
                    out[monomial] = self._checked(value)
                else:
                    out.pop(monomial, None)
        if len(out) > _MAX_TERMS:
            raise Undecided(f"a sum of more than {_MAX_TERMS} terms")
        return out

    def scaled(self, s: Sum, c: Fraction | int) -> Sum:
        """c times a sum, c != 0."""
        return {monomial: self._checked(value * c) for monomial, value in s.items()}

    def difference(self, a: Sum, b: Sum) -> Sum:
        """a - b."""
        return self.total(a, self.scaled(b, -1))

    def product(self, a: Sum, b: Sum) -> Sum:
        """The expanded product."""
        out: dict[Monomial, Fraction] = {}
        for (p, v), c in a.items():
            for (q, w), d in b.items():
                self.spend(1 + len(p) + len(q))
                powers, joined, coefficient = merged(p, q), self._join(v, w), self._checked(c * d)
                if self._settled(powers):
                    terms: Sum = {(powers, joined): coefficient}
                else:
                    terms = self._monomial(coefficient, powers, joined)
                for monomial, e in terms.items():
                    value = out.get(monomial, 0) + e
                    if value:
                        out[monomial] = value
                    else:
                        out.pop(monomial, None)
                if len(out) > _MAX_TERMS:
                    raise Undecided(f"a product of more than {_MAX_TERMS} terms")
        return out

    def _shifted(self, s: Sum, by: Powers) -> Sum:
        """The product with powers of atoms, cancelled before they are expanded."""
        self.spend(len(s) * (5 + len(by)))
        return self.total(*(self._monomial(c, merged(powers, by), w) for (powers, w), c in s.items()))

    def is_zero(self, s: Sum) -> bool:
        """Whether the sum is certainly 0 wherever all its terms are defined.

        The terms are put over their common denominator: multiplying by u^q, where u^-q occurs in a term, changes nothing about
        being 0 where that term is defined, and lets u^q and its sum be compared after expansion."""
        if not s or self._nested >= _MAX_NESTED:
            return not s
        self._nested += 1
        try:
            for _ in range(4):
                lowest: dict[int, Exponent] = {}
                for powers, _w in s:
                    for atom, q in powers:
                        if q < 0 and self._atoms[atom][0] in _REDUCIBLE:
                            lowest[atom] = min(q, lowest.get(atom, 0))
                if not lowest:
                    break
                s = self._shifted(s, tuple(sorted((a, -q) for a, q in lowest.items())))
        finally:
            self._nested -= 1
        return not s

    def circular(self, op: str, s: Sum) -> Sum:
        """sin s or cos s."""
        (pi, _), *_ = next(iter(self.pi()))[0]
        turns = round(2 * s.get((((pi, 1),), 0), Fraction(0)))
        if turns:  # sin and cos of u + turns pi/2
            s = self.difference(s, self.scaled(self.pi(), Fraction(turns, 2)))
            phase = (turns + (op == "cos")) % 4  # cos u = sin(u + pi/2)
            value = self.circular("sin" if phase % 2 == 0 else "cos", s)
            return self.scaled(value, -1 if phase >= 2 else 1)
        if self.is_zero(s):
            return {} if op == "sin" else ONE
        return self._function(op, s)

    def opaque(self, op: str, s: Sum) -> Sum:
        """A function of which no more than its parity and its zero at 0 is known."""
        return {} if op in _ODD and self.is_zero(s) else self._function(op, s)

    # ---- signs ------------------------------------------------------------------------------------------------------

    def sign(self, s: Sum) -> Sign:
        """What is certain of the sign of a sum, wherever it is defined."""
        if not s:
            return Sign(True, False, True, False)
        up, down = self._plain_sign(s), self._plain_sign(self.scaled(s, -1))
        if up[0] or down[0]:
            return Sign(up[0], up[1], down[0], down[1])
        number = self._number(s)
        if number not in self._sum_signs:
            self._sum_signs[number] = self._range_sign(s)
        return self._sum_signs[number]

    def _plain_sign(self, s: Sum) -> tuple[bool, bool]:
        """(>= 0, > 0) of a sum of terms that are each >= 0."""
        positive = False
        for (powers, _w), c in s.items():
            if c < 0 or not all(self._known_sign(a, e) for a, e in powers):
                return False, False
            positive = positive or all(self.atom_sign(a).positive for a, _ in powers)
        return True, positive

    def _known_sign(self, atom: int, exponent: Exponent) -> bool:
        """Whether a power is >= 0 wherever it is defined."""
        return not isinstance(exponent, int) or exponent % 2 == 0 or self.atom_sign(atom).non_negative

    def atom_sign(self, atom: int) -> Sign:
        """The sign of an atom."""
        kind, args, value = self._atoms[atom]
        if kind == "var":
            lo, hi = self.domain.lo[int(value)], self.domain.hi[int(value)]
            return Sign(lo >= 0, lo > 0, hi <= 0, hi < 0)
        if kind in ("pi", "prime"):
            return Sign(True, True, False, False)
        if kind in ("sum", "abs", "neg"):
            inner = self.sign(self._sums[args[0]])
            if kind == "sum":
                return inner
            positive, negative = inner.positive, inner.negative
            if kind == "neg":
                return Sign(inner.non_positive, negative, inner.non_negative, positive)
            return Sign(True, positive or negative, False, False)
        if atom not in self._atom_signs:
            self._atom_signs[atom] = self._range_sign({(((atom, 1),), 0): Fraction(1)})
        return self._atom_signs[atom]

    def _range_sign(self, s: Sum) -> Sign:
        try:
            expression = table_of(s, self._atoms, self._sums, self.domain.dimension, self.spend)
            return sign_on_box(expression, self.domain, self.spend)
        except ExpressionError:  # a constant or exponent that a table refuses
            return Sign.unknown()

    def _same(self, s: Sum, known: Sum) -> bool:
        """Whether `known` may stand for s: it is defined wherever s is, and equal there."""
        if s == known:
            return True
        return self.is_zero(self.difference(s, known)) and self._risks(known) <= self._risks(s)

    def _risks(self, s: Sum) -> frozenset[tuple[str, int]]:
        """What can leave a sum undefined somewhere on the box: powers of atoms of unsuitable sign, and functions whose argument is
        not certainly in their domain. Sums with the same risks are defined at the same points."""
        number = self._number(s)
        if number not in self._sum_risks:
            found: set[tuple[str, int]] = set()
            for powers, w in s:
                self.spend(1 + len(powers))
                found |= self._risks(self._sums[w]) if w else set()
                for atom, q in powers:
                    kind, args, _ = self._atoms[atom]
                    sign = self.atom_sign(atom)
                    if q < 0 and not (sign.positive or sign.negative):
                        found.add(("inverse", atom))
                    if not isinstance(q, int) and not sign.non_negative:
                        found.add(("root", atom))
                    if kind in ("asin", "acosh") or (kind == "log" and not self.sign(self._sums[args[0]]).positive):
                        found.add((kind, atom))
                    if kind == "select":  # what a branch risks, it risks only where it is taken
                        found.add((kind, atom))
                    for inner in args[: 1 if kind == "select" else None]:
                        found |= self._risks(self._sums[inner])
            self._sum_risks[number] = frozenset(found)
        return self._sum_risks[number]

    # ---- leaves -----------------------------------------------------------------------------------------------------

    def _leaf(self, kind: str, args: tuple[int, ...], value: str = "") -> Sum:
        """An atom as a sum; one that is <= 0 on the box is written as minus its negative, which roots and logarithms accept."""
        atom = self._atom(kind, args, value)
        sign = self.atom_sign(atom)
        if sign.non_positive and not sign.non_negative:
            return {(((self._atom("neg", (self._number({(((atom, 1),), 0): Fraction(1)}),)), 1),), 0): Fraction(-1)}
        return self._power_of(atom, 1)

    def _function(self, op: str, s: Sum) -> Sum:
        """op(s), of an argument that is certainly equal, up to the sign that parity allows, to one met before if there is one."""
        for kind, args, _ in self._atoms:
            if kind == op:
                known = self._sums[args[0]]
                if self._same(s, known):
                    return self._leaf(op, args)
                if op in _ODD | _EVEN and self._same(self.scaled(s, -1), known):
                    return self.scaled(self._leaf(op, args), -1 if op in _ODD else 1)
        return self._leaf(op, (self._number(s),))

    def _absolute_of(self, atom: int) -> int:
        """The atom |u|."""
        if self.atom_sign(atom).non_negative:
            return atom
        return self._atom("abs", (self._number({(((atom, 1),), 0): Fraction(1)}),))

    def _power_of(self, atom: int, q: Exponent) -> Sum:
        return self._monomial(Fraction(1), ((atom, q),), 0)

    def _atom(self, kind: str, args: tuple[int, ...], value: str = "") -> int:
        key = (kind, args, value)
        if key not in self._atom_number:
            depth = 1 + max((self._sum_depth[a] for a in args), default=0)
            if depth > _MAX_DEPTH:
                raise Undecided(f"functions nested more than {_MAX_DEPTH} deep")
            self.spend(10)
            self._atom_number[key] = len(self._atoms)
            self._atoms.append(key)
            self._atom_depth.append(depth)
        return self._atom_number[key]

    def _number(self, s: Sum) -> int:
        key = frozenset(s.items())
        self.spend(len(key))
        if key not in self._sum_number:
            self._sum_number[key] = len(self._sums)
            depths = [self._atom_depth[a] for powers, _ in s for a, _q in powers]
            depths += [1 + self._sum_depth[w] for _, w in s if w]
            self._sum_depth.append(max(depths, default=0))
            self._sums.append(s)
            if self._sum_depth[-1] > _MAX_DEPTH:
                raise Undecided(f"exponentials nested more than {_MAX_DEPTH} deep")
        return self._sum_number[key]

    # ---- monomials --------------------------------------------------------------------------------------------------

    def _settled(self, powers: Powers) -> bool:
        """Whether a product of powers is in normal form as it stands."""
        circular = 0
        for atom, q in powers:
            kind = self._atoms[atom][0]
            if kind not in _REDUCIBLE:
                continue
            if kind in ("sin", "cos"):
                circular += q if isinstance(q, int) and q > 0 else 0
                if circular > 1:
                    return False
            elif not self._stays(atom, q) and (q >= (2 if kind == "abs" else 1) or (q < 0 and kind != "sum")):
                return False
        return True

    def _monomial(self, c: Fraction, powers: Powers, w: int) -> Sum:
        """A product of powers in normal form: integer parts of roots of primes, even powers of absolute values and positive integer
        powers of sums are taken out; products of sines and cosines become sums of sines and cosines."""
        kept: list[tuple[int, Exponent]] = []
        expanded: list[Sum] = []
        waves: list[int] = []
        for atom, q in powers:
            kind, args, value = self._atoms[atom]
            whole = floor(q)
            if kind == "prime" and whole:
                c, q = c * number_power(Fraction(int(value)), whole), exponent(q - whole)
            elif kind == "abs" and (whole := 2 * floor(q / Fraction(2))):
                ((inner, _), *_), _w = next(iter(self._sums[args[0]]))
                expanded.append(self._power_of(inner, whole))
                q = exponent(q - whole)
            elif kind == "sum" and whole >= 1 and not self._stays(atom, q):
                expanded.append(self._repeated(self._sums[args[0]], whole))
                q = exponent(q - whole)
            elif kind in ("sin", "cos") and isinstance(q, int) and q > 0:
                if q + len(waves) > _MAX_TRIG:
                    raise Undecided(f"a product of more than {_MAX_TRIG} sines")
                waves += [atom] * q
                continue
            if q:
                kept.append((atom, q))
        if len(waves) == 1:
            kept = sorted([*kept, (waves.pop(), 1)])
        out: Sum = {(tuple(kept), w): self._checked(c)}
        if waves:
            out = self.product(out, self._linear(waves))
        for s in expanded:
            out = self.product(out, s)
        return out

    def _linear(self, waves: list[int]) -> Sum:
        """A product of sines and cosines, at least two, as a sum of single ones."""
        out: list[tuple[Fraction, str, Sum]] = []
        for atom in waves:
            op, args, _ = self._atoms[atom]
            b = self._sums[args[0]]
            if not out:
                out = [(Fraction(1), op, b)]
                continue
            longer = []
            for c, kind, a in out:
                plus, minus, half = self.total(a, b), self.difference(a, b), c / 2
                if kind == op:  # 2 sin a sin b = cos(a-b) - cos(a+b), 2 cos a cos b = cos(a-b) + cos(a+b)
                    longer += [(half, "cos", minus), (half if op == "cos" else -half, "cos", plus)]
                else:  # 2 sin a cos b = sin(a+b) + sin(a-b), 2 cos a sin b = sin(a+b) - sin(a-b)
                    longer += [(half, "sin", plus), (half if kind == "sin" else -half, "sin", minus)]
            out = longer
        return self.total(*(self.scaled(self.circular(op, s), c) for c, op, s in out))

    def _stays(self, atom: int, q: Exponent) -> bool:
        kind, args, _ = self._atoms[atom]
        return self.squares_kept and kind == "sum" and q >= 2 and self._rooted(self._sums[args[0]])

    def _rooted(self, s: Sum) -> bool:
        return any(self._atoms[a][0] == "sum" and Fraction(q).denominator > 1 for powers, _ in s for a, q in powers)

    def _repeated(self, s: Sum, q: int) -> Sum:
        """s^q for q >= 1, expanded."""
        out, base = ONE, s
        while q:
            if q & 1:
                out = self.product(out, base)
            q >>= 1
            base = self.product(base, base) if q else base
        return out

    def _join(self, v: int, w: int) -> int:
        """The number of the sum of two exponentials' arguments."""
        if not v or not w:
            return v or w
        key = (min(v, w), max(v, w))
        if key not in self._joins:
            self._joins[key] = self._argument(self.total(self._sums[v], self._sums[w]))
        return self._joins[key]

    def _times(self, w: int, q: Fraction) -> int:
        return self._argument(self.scaled(self._sums[w], q)) if w else 0

    def _argument(self, s: Sum) -> int:
        """The number of an exponential's argument: of one met before, if they are certainly equal."""
        if self.is_zero(s):
            return 0
        number = self._number(s)
        if number not in self._arguments:
            for known in self._arguments:
                if self._same(s, self._sums[known]):
                    return known
            self._arguments.append(number)
        return number

    def spend(self, work: int) -> None:
        self._work -= work
        if self._work < 0:
            raise Undecided("too much work")

    def _checked(self, c: Fraction) -> Fraction:
        if c.numerator.bit_length() + c.denominator.bit_length() > _MAX_BITS:
            raise Undecided(f"a coefficient of more than {_MAX_BITS} bits")
        return c


def number_power(c: Fraction, q: int) -> Fraction:
    """c^q, c != 0, unless it is too long."""
    if abs(q) * max(c.numerator.bit_length(), c.denominator.bit_length()) > 2 * _MAX_BITS and abs(c) != 1:
        raise Undecided(f"a coefficient of more than {_MAX_BITS} bits")
    return c**q


def exponent(q: Exponent) -> Exponent:
    """An exponent as an int where it is one. Raises Undecided for those that an expression may not have."""
    if abs(q) > _MAX_EXPONENT or Fraction(q).denominator > 2**64:
        raise Undecided("an exponent that is too large or too fine")
    return int(q) if Fraction(q).denominator == 1 else q


def merged(p: Powers, q: Powers) -> Powers:
    """The powers of a product."""
    return collected([*p, *q]) if p and q else p or q


def collected(powers: Iterable[tuple[int, Exponent]]) -> Powers:
    """Powers with equal atoms added up, sorted by atom."""
    out: dict[int, Exponent] = {}
    for atom, q in powers:
        out[atom] = out[atom] + q if atom in out else q
    return tuple(sorted((a, exponent(q)) for a, q in out.items() if q))
