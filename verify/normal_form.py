"""Normal forms of real expressions over a box: finite sums of rational coefficients times powers of atoms times one exponential.

What every operation keeps, for operands whose values are those of the expressions A, B at each point of the box where these are
defined: *wherever the result of the operation on A, B is defined, so is every term of the returned sum, and the values agree*. A
sum may be defined at more points (x/x becomes 1), never at fewer. Powers are real powers: u^0 = 1, a negative exponent needs
u != 0, a fractional one u >= 0, both u > 0. Under "defined" below, every rule's side condition:

  u^a u^b = u^(a+b)               always: where both factors are defined so is the right side (0^a 0^b = 0 for a, b > 0).
  exp a exp b = exp(a+b)          always.
  (prod u_i^(a_i))^q, q integer   = prod u_i^(a_i q): for q < 0 no factor vanishes where the left side is defined.
  the same, q fractional          Known factors are those >= 0 wherever defined: u >= 0 by its range, a even (u^a = |u|^a), a fractional
                                  (u >= 0 by definition). If all are known they split. If others (the rest, with the coefficient's
                                  sign) are not, a known factor splits from them if it is > 0 there: by its range, or because q < 0 and
                                  the product is not 0. Else it stays in the rest: at 0 the product has a root whatever the sign of the rest.
  log prod = sum of logs          The product is > 0, hence no factor is 0, and each known factor is > 0 and splits.
  exp(c log u) = u^c              u > 0 where log u is defined.
  |prod| = prod |.|               always; |u| = u for u >= 0; |u|^(2k) = u^(2k).
  sin a cos b = (sin(a+b) + sin(a-b))/2 and its likes, parity, shifts by multiples of pi/2: always.
  S = m P (content, factors)      an identity of polynomials in the atoms; m's negative powers occur in S, so S's being defined gives them sense.

Functions of arguments that are certainly equal share an atom, if the argument that stands for both is defined where the other is.
Signs come from the box's sides, from sums of terms of one sign, or from rigorous ranges (order-0 jets on boxes that cover the box);
a range holds wherever the expression is defined, which suffices by the invariant. Whatever is too large raises `Undecided`.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from math import gcd, lcm

from verify.domain import Box
from verify.factors import factor_polynomial, prime_powers
from verify.sums import ONE, Exponent, Monomial, Powers, Sum, Sums, Undecided, collected, exponent, merged, number_power

__all__ = ["NormalForms"]


class NormalForms(Sums):
    """Sums with the elementary functions."""

    def __init__(self, domain: Box, squares_kept: bool = False) -> None:
        super().__init__(domain, squares_kept)
        self._factored: dict[int, tuple[Fraction, Powers, int]] = {}

    def power(self, s: Sum, q: Fraction | int) -> Sum:
        """s^q, real, for rational q."""
        q = exponent(Fraction(q))
        if q == 0:
            return ONE
        if not s:
            if q < 0:
                raise Undecided("a division by zero")
            return {}
        if len(s) > 1 and isinstance(q, int) and (q == 1 or (q > 0 and not (self.squares_kept and self._rooted(s)))):
            return self._repeated(s, q)
        c, powers, w = self.factored(s)
        if isinstance(q, int):
            self.spend(abs(q) * max(c.numerator.bit_length(), c.denominator.bit_length()) // 64)
            return self._monomial(number_power(c, q), _raised(powers, q), self._times(w, Fraction(q)))
        known, rest = self._known(c, powers, strict=q < 0)
        out = self.product(
            self._root(abs(c), q), self._monomial(Fraction(1), _raised(known, q), self._times(w, Fraction(q)))
        )
        if c > 0 and not rest:
            return out
        base = self._rest(c, rest)
        if not rest:
            raise Undecided("a root of something that is never positive")
        return self.product(out, self._power_of(self._atom("sum", (self._number(base),)), q))

    def log(self, s: Sum) -> Sum:
        """log s."""
        if not s:
            raise Undecided("the logarithm of zero")
        c, powers, w = self.factored(s)
        known, rest = self._known(c, powers, strict=True)
        parts = [self._sums[w], *self._log_of_number(abs(c))]
        parts += [self.scaled(self._leaf("log", (self._number(self._power_of(a, 1)),)), Fraction(e)) for a, e in known]
        if rest:
            parts.append(self._function("log", self._rest(c, rest)))
        elif c < 0:
            raise Undecided("the logarithm of something that is never positive")
        return self.total(*parts)

    def exp(self, s: Sum) -> Sum:
        """exp s."""
        out: Sum = ONE
        rest: dict[Monomial, Fraction] = {}
        for monomial, c in s.items():
            powers, w = monomial
            found = self._logarithm(powers[0][0]) if len(powers) == 1 and powers[0][1] == 1 and not w else None
            if found is None:
                rest[monomial] = c
            else:
                out = self.product(out, self.power(self._sums[found[1]], c * found[0]))
        return self.product(out, {((), self._argument(rest)): Fraction(1)})

    def absolute(self, s: Sum) -> Sum:
        """|s|."""
        if not s:
            return {}
        c, powers, w = self.factored(s)
        sized = [(a if self._known_sign(a, e) else self._absolute_of(a), e) for a, e in powers]
        return self._monomial(abs(c), collected(sized), w)

    def choice(self, value: str, parts: Iterable[Sum]) -> Sum:
        """select(c, a, b): a where c > 0 (c >= 0), b elsewhere."""
        c, a, b = parts
        sign = self.sign(c)
        if sign.positive or (sign.non_negative and value == ">="):
            return a
        if sign.negative or (sign.non_positive and value == ">"):
            return b
        if self._same(b, a):
            return a
        content = Fraction(gcd(*(x.numerator for x in c.values())), lcm(*(x.denominator for x in c.values())))
        return self._leaf("select", tuple(self._number(x) for x in (self.scaled(c, 1 / content), a, b)), value)

    def bare(self, atom: int) -> int:
        """u for an atom |u| or -u, which vanish where u does; otherwise the atom itself."""
        kind, args, _ = self._atoms[atom]
        if kind not in ("abs", "neg"):
            return atom
        ((inner, _), *_), _w = next(iter(self._sums[args[0]]))
        return inner

    # ---- factors ----------------------------------------------------------------------------------------------------

    def factored(self, s: Sum) -> tuple[Fraction, Powers, int]:
        """A non-empty sum as coefficient, powers of atoms and exponential: content, common denominator and irreducible factors."""
        if len(s) == 1:
            ((powers, w), c), *_ = s.items()
            return c, powers, w
        number = self._number(s)
        if number not in self._factored:
            self._factored[number] = self._factor(s)
        return self._factored[number]

    def _factor(self, s: Sum) -> tuple[Fraction, Powers, int]:
        content: Powers = ()
        for _ in range(4):
            lowest = _lowest(s)
            if not lowest or len(s) < 2:
                break
            content = merged(content, lowest)
            s = self._shifted(s, tuple((a, -q) for a, q in lowest))
        if not s:
            raise Undecided("a factor that is identically zero")
        if len(s) == 1:
            ((powers, w), c), *_ = s.items()
            return c, merged(content, powers), w
        w, s = self._exponential_content(s)
        size = Fraction(gcd(*(x.numerator for x in s.values())), lcm(*(x.denominator for x in s.values())))
        s, c, powers = self.scaled(s, 1 / size), size, list(content)
        for factor, multiplicity in self._irreducible(s):
            sign = self.sign(factor)
            turned = sign.non_positive or (not sign.non_negative and factor[min(factor)] < 0)
            if turned:
                factor, c = self.scaled(factor, -1), c * (-1) ** multiplicity
            powers.append((self._atom("sum", (self._number(factor),)), multiplicity))
        return c, collected(powers), w

    def _exponential_content(self, s: Sum) -> tuple[int, Sum]:
        """Divide by the least exponential of the terms, in the order in which a < b if b - a has a positive leading coefficient:
        a total order that translations keep, so that e^a S and S leave the same quotient."""
        arguments = list(dict.fromkeys(w for _, w in s))
        least = arguments[0]
        for w in arguments[1:]:
            gap = self.difference(self._sums[w], self._sums[least])
            if gap[min(gap)] < 0:
                least = w
        back = self._times(least, Fraction(-1))
        return least, self.product(s, {((), back): Fraction(1)})

    def _irreducible(self, s: Sum) -> list[tuple[Sum, int]]:
        """Factors over the rationals, in roots of the atoms and exponentials as indeterminates; multiplied out again to be sure."""
        roots: dict[int, int] = {}  # atom -> common denominator of its exponents
        steps: dict[int, Fraction] = {}  # leading-one exponent argument -> common step of its multiples
        arguments: dict[int, tuple[int, Fraction]] = {}
        for powers, w in s:
            for atom, q in powers:
                roots[atom] = lcm(roots.get(atom, 1), Fraction(q).denominator)
            if w and w not in arguments:
                multiple = self._sums[w][min(self._sums[w])]
                base = self._times(w, 1 / multiple)
                arguments[w] = base, multiple
                old = steps.get(base, multiple)
                steps[base] = Fraction(
                    gcd(old.numerator * multiple.denominator, multiple.numerator * old.denominator),
                    old.denominator * multiple.denominator,
                )
        atoms, bases = list(roots), list(steps)
        rows = {}
        for (powers, w), c in s.items():
            row = {a: int(q * roots[a]) for a, q in powers}
            base, multiple = arguments.get(w, (-1, Fraction(0)))
            tail = [int(multiple / steps[b]) if b == base else 0 for b in bases]
            rows[(*(row.get(a, 0) for a in atoms), *tail)] = c.numerator
        parts = factor_polynomial(rows)
        if parts is None:
            return [(s, 1)]
        found: list[tuple[Sum, int]] = []
        for polynomial, multiplicity in parts:
            factor: Sum = {}
            for row, c in polynomial.items():
                powers = tuple(
                    sorted((a, exponent(Fraction(k, roots[a]))) for a, k in zip(atoms, row, strict=False) if k)
                )
                w = 0
                for base, k in zip(bases, row[len(atoms) :], strict=True):
                    w = self._join(w, self._times(base, steps[base] * k)) if k else w
                factor = self.total(factor, self._monomial(Fraction(c), powers, w))
            found.append((factor, multiplicity))
        back: Sum = ONE
        for factor, multiplicity in found:
            back = self.product(back, self._repeated(factor, multiplicity))
        return found if back == s and all(len(f) > 1 for f, _ in found) else [(s, 1)]

    def _known(self, c: Fraction, powers: Powers, strict: bool) -> tuple[Powers, Powers]:
        """Split the factors of a product under a root or logarithm into those known >= 0 (as powers of their absolute values) and
        the rest; with `strict` the product is not 0. See the module's docstring for when a known factor may leave the rest."""
        known = [(a, e) for a, e in powers if self._known_sign(a, e)]
        rest = [(a, e) for a, e in powers if not self._known_sign(a, e)]
        if (rest or c < 0) and not strict:
            weak = [(a, e) for a, e in known if not self.atom_sign(a).positive]
            known, rest = [p for p in known if p not in weak], [*rest, *weak]
        if c > 0 and len(rest) == 1:  # what is left of a product >= 0 is >= 0, and so is u for an odd power u^e >= 0
            known, rest = [*known, *rest], []
        sized = [(self._absolute_of(a) if isinstance(e, int) and e % 2 == 0 else a, e) for a, e in known]
        return collected(sized), tuple(sorted(rest))

    def _rest(self, c: Fraction, rest: Powers) -> Sum:
        return self._monomial(Fraction(1 if c > 0 else -1), rest, 0)

    # ---- numbers ----------------------------------------------------------------------------------------------------

    def _primes(self, c: Fraction) -> Powers:
        """A positive number as powers of atoms for its small primes and for what they leave."""
        up, down = prime_powers(c.numerator), prime_powers(c.denominator)
        atoms = [(self._atom("prime", (), str(p)), e) for p, e in up]
        return collected([*atoms, *((self._atom("prime", (), str(p)), -e) for p, e in down)])

    def _root(self, c: Fraction, q: Exponent) -> Sum:
        """c^q for c > 0."""
        return self._monomial(Fraction(1), _raised(self._primes(c), q), 0)

    def _log_of_number(self, c: Fraction) -> list[Sum]:
        """log c for c > 0, as a sum over its primes."""
        return [
            self.scaled(self._leaf("log", (self._number(self._power_of(a, 1)),)), Fraction(e))
            for a, e in self._primes(c)
        ]

    def _logarithm(self, atom: int) -> tuple[int, int] | None:
        """(sign, argument) of an atom that is a logarithm or minus one."""
        kind, args, _ = self._atoms[atom]
        if kind == "neg":
            ((inner, _), *_), _w = next(iter(self._sums[args[0]]))
            kind, args, _ = self._atoms[inner]
            return (-1, args[0]) if kind == "log" else None
        return (1, args[0]) if kind == "log" else None


def _raised(powers: Powers, q: Exponent) -> Powers:
    return tuple((a, exponent(e * q)) for a, e in powers)


def _lowest(s: Sum) -> Powers:
    """The least exponent of each atom over the terms, 0 where it is missing."""
    every = [dict(powers) for powers, _ in s]
    atoms = sorted({a for row in every for a in row})
    lowest = ((a, min(row.get(a, 0) for row in every)) for a in atoms)
    return tuple((a, q) for a, q in lowest if q)
