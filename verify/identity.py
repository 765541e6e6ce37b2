"""Whether two expressions are the same function on a box, proved by bringing both to a normal form.

`prove_equal(left, right, domain)` is True only if at every point of the box where `right` is defined (all its nodes, except branches
of a `select` that are not taken) `left` is defined too, and their outputs are equal real numbers. Two parts:

  equality    The normal forms of the outputs (`verify.normal_form`) differ by zero. By their invariant they have the expressions'
              values wherever these are defined, so the outputs agree wherever both are.
  definedness Node by node, in order: an operation of `left` with a restricted domain (logarithm, negative or fractional power, tan,
              asin, acos, acosh, atanh) has an argument that lies in it. Its nodes being defined by induction, the argument has the
              value of its normal form; that lies in the domain by a rigorous range over the box, or because `right` applies an
              operation with the same domain to an argument of equal normal form, and is defined at the point.

Undecided is the answer to anything else, also to expressions beyond the limits on size. No floating-point number decides anything but
through the outward bounds of `verify.jets`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from verify.domain import Box
from verify.expression import Expression, Node, rational
from verify.normal_form import NormalForms
from verify.signs import sign_on_box
from verify.sums import ONE, Sum, Undecided

__all__ = ["Identity", "prove_equal"]

_MAX_NODES = 3_000


@dataclass(frozen=True)
class Identity:
    """equal: whether it is proved that the expressions denote one function. reason: why not, if not. True as a condition if equal."""

    equal: bool
    reason: str = ""

    def __bool__(self) -> bool:
        return self.equal


@dataclass(frozen=True)
class _Condition:
    """An operation needs its argument to be: "nonzero", "non_negative", or "positive"."""

    kind: str
    argument: Sum


def prove_equal(left: Expression, right: Expression, domain: Box) -> Identity:
    """Whether `left` is certainly defined and equal to `right` wherever `right` is defined on the box (see above).

    Both have the same variables, which name the box's sides in their order, and as many outputs. Raises nothing for expressions that
    are well formed: what cannot be decided is not equal, with the reason.
    """
    if left.variables != right.variables or domain.dimension != right.dimension:
        return Identity(False, f"variables {left.variables} and {right.variables} on {domain.dimension} sides")
    if domain.names is not None and domain.names != right.variables:
        return Identity(False, f"the box names {domain.names}, the expressions {right.variables}")
    if len(left.outputs) != len(right.outputs):
        return Identity(False, f"{len(left.outputs)} and {len(right.outputs)} outputs")
    found = _compared(left, right, NormalForms(domain), domain)
    if not found and _takes_roots(left):
        again = _compared(left, right, NormalForms(domain, squares_kept=True), domain)
        return again if again else found
    return found


def _compared(left: Expression, right: Expression, forms: NormalForms, domain: Box) -> Identity:
    """The same by one kind of normal form."""
    try:
        given, wanted = _values(forms, left), _values(forms, right)
        for i, (a, b) in enumerate(zip(left.outputs, right.outputs, strict=True)):
            if not forms.is_zero(forms.difference(given[a], wanted[b])):
                return Identity(False, f"output {i}: the normal forms differ")
        known = _facts(forms, right, wanted)
        for node, condition in _conditions(forms, left, given, everywhere=True):
            if not known.implies(condition) and not _as_written(left, node, condition.kind, domain, forms.spend):
                return Identity(False, f"node {node} ({left.nodes[node].op}) of the left side may be undefined")
    except (Undecided, RecursionError) as limit:
        return Identity(False, f"undecided: {limit}")
    return Identity(True)


def _takes_roots(expression: Expression) -> bool:
    return any(node.op == "pow" and rational(node.value or "1").denominator > 1 for node in expression.nodes)


def _as_written(expression: Expression, node: int, kind: str, domain: Box, spend: Callable[[int], None]) -> bool:
    """Whether the range of a logarithm's or power's argument, as the table has it, meets the condition: (x - y)^2 + 1 is seen to be positive,
    which its expanded form may hide."""
    if expression.nodes[node].op not in ("log", "pow"):
        return False
    sign = sign_on_box(replace(expression, outputs=expression.nodes[node].args), domain, spend)
    return sign.positive or (kind == "nonzero" and sign.negative) or (kind == "non_negative" and sign.non_negative)


def _reached(expression: Expression, everywhere: bool) -> list[int]:
    """The nodes that the outputs use; unless `everywhere`, without the branches of a select, of which one is not taken."""
    reached, work = set(), list(expression.outputs)
    while work:
        i = work.pop()
        if i not in reached:
            reached.add(i)
            node = expression.nodes[i]
            work += node.args[:1] if node.op == "select" and not everywhere else node.args
    if len(reached) > _MAX_NODES:
        raise Undecided(f"more than {_MAX_NODES} nodes")
    return sorted(reached)


def _values(forms: NormalForms, expression: Expression) -> dict[int, Sum]:
    """The normal form of every node in use."""
    values: dict[int, Sum] = {}
    for i in _reached(expression, everywhere=True):
        node = expression.nodes[i]
        values[i] = _value(forms, node, [values[a] for a in node.args])
    return values


def _value(forms: NormalForms, node: Node, args: list[Sum]) -> Sum:
    op = node.op
    if op == "var":
        return forms.variable(int(node.value or 0))
    if op == "const":
        if node.value in ("pi", "e"):
            return forms.pi() if node.value == "pi" else forms.exp(ONE)
        return forms.constant(rational(node.value or "0"))
    if op == "add":
        return forms.total(*args)
    if op == "mul":
        out = args[0]
        for other in args[1:]:
            out = forms.product(out, other)
        return out
    if op == "pow":
        return forms.power(args[0], rational(node.value or "1"))
    if op in ("min", "max"):  # (a + b -+ |a - b|)/2
        out = args[0]
        for other in args[1:]:
            gap = forms.absolute(forms.difference(out, other))
            total = forms.total(out, other, gap) if op == "max" else forms.difference(forms.total(out, other), gap)
            out = forms.scaled(total, Fraction(1, 2))
        return out
    if op == "select":
        return forms.choice(node.value or ">", args)
    return _function(forms, op, args[0])


def _function(forms: NormalForms, op: str, u: Sum) -> Sum:
    half = Fraction(1, 2)
    if op in ("exp", "log"):
        return forms.exp(u) if op == "exp" else forms.log(u)
    if op == "abs":
        return forms.absolute(u)
    if op in ("sin", "cos"):
        return forms.circular(op, u)
    if op == "tan":
        return forms.product(forms.circular("sin", u), forms.power(forms.circular("cos", u), -1))
    if op in ("sinh", "cosh"):
        back = forms.scaled(forms.exp(forms.scaled(u, -1)), half)
        return forms.total(forms.scaled(forms.exp(u), half), forms.scaled(back, -1 if op == "sinh" else 1))
    if op == "tanh":  # 1 - 2/(exp(2u) + 1)
        doubled = forms.total(forms.exp(forms.scaled(u, 2)), ONE)
        return forms.difference(ONE, forms.scaled(forms.power(doubled, -1), 2))
    if op == "acos":
        return forms.difference(forms.scaled(forms.pi(), half), forms.opaque("asin", u))
    if op == "atanh":
        ends = forms.log(forms.total(ONE, u)), forms.log(forms.difference(ONE, u))
        return forms.scaled(forms.difference(*ends), half)
    return forms.opaque(op, u)  # asin, atan, asinh, acosh, erf, sinc


def _conditions(
    forms: NormalForms, expression: Expression, values: dict[int, Sum], everywhere: bool
) -> Iterator[tuple[int, _Condition]]:
    """What the arguments of the expression's nodes must satisfy."""
    for i in _reached(expression, everywhere):
        node = expression.nodes[i]
        if node.op == "pow":
            q = rational(node.value or "1")
            if q < 0 or q.denominator > 1:
                kind = "nonzero" if q.denominator == 1 else "positive" if q < 0 else "non_negative"
                yield i, _Condition(kind, values[node.args[0]])
        elif node.op == "log":
            yield i, _Condition("positive", values[node.args[0]])
        elif node.op == "tan":
            yield i, _Condition("nonzero", forms.circular("cos", values[node.args[0]]))
        elif node.op in ("asin", "acos", "atanh"):
            for side in (1, -1):
                room = forms.total(ONE, forms.scaled(values[node.args[0]], side))
                yield i, _Condition("positive" if node.op == "atanh" else "non_negative", room)
        elif node.op == "acosh":
            yield i, _Condition("non_negative", forms.difference(values[node.args[0]], ONE))


def _facts(forms: NormalForms, expression: Expression, values: dict[int, Sum]) -> _Facts:
    """What holds wherever the expression is defined."""
    found = [condition for _, condition in _conditions(forms, expression, values, everywhere=False)]
    nonzero = frozenset(
        forms.bare(atom)
        for condition in found
        if condition.kind in ("positive", "nonzero") and condition.argument
        for atom, _ in forms.factored(condition.argument)[1]
    )
    return _Facts(forms, nonzero, tuple(c for c in found if c.kind != "nonzero"))


@dataclass(frozen=True)
class _Facts:
    """What holds wherever the right side is defined. nonzero: atoms, since a product that is not 0 has no factor that is;
    signed: arguments of logarithms and roots."""

    forms: NormalForms
    nonzero: frozenset[int]
    signed: tuple[_Condition, ...]

    def implies(self, wanted: _Condition) -> bool:
        """Whether the condition holds by a range over the box, or by these facts."""
        u, kind = wanted.argument, wanted.kind
        if not u:
            return kind == "non_negative"
        sign = self.forms.sign(u)
        if sign.positive or (kind == "nonzero" and sign.negative) or (kind == "non_negative" and sign.non_negative):
            return True
        if kind == "nonzero":
            return self._nonzero(u)
        return (kind == "non_negative" or self._nonzero(u)) and self._non_negative(u)

    def _nonzero(self, u: Sum) -> bool:
        """No factor of u vanishes; for u = c prod u_i^(a_i) exp(w), c is not 0."""
        for atom, _ in self.forms.factored(u)[1]:
            sign = self.forms.atom_sign(atom)
            if not (sign.positive or sign.negative or self.forms.bare(atom) in self.nonzero):
                return False
        return True

    def _non_negative(self, u: Sum) -> bool:
        """Up to factors that are >= 0, u is a fact's argument up to factors that are > 0; or nothing but such factors."""
        c, rest = self._undetermined(u, strict=False)
        if not rest and c > 0:
            return True
        known = [self._undetermined(fact.argument, strict=True) for fact in self.signed if fact.argument]
        return (c, rest) in known or self._undetermined(u, strict=True) in known

    def _undetermined(self, u: Sum, strict: bool) -> tuple[int, frozenset[tuple[int, int | Fraction]]]:
        """The sign of u's coefficient and its factors that are not known to be >= 0 (> 0)."""
        c, powers, _w = self.forms.factored(u)
        rest = []
        for atom, q in powers:
            sign = self.forms.atom_sign(atom)
            if not sign.positive and (strict or not (sign.non_negative or q % 2 == 0 or Fraction(q).denominator > 1)):
                rest.append((atom, q))
        return (1 if c > 0 else -1), frozenset(rest)
