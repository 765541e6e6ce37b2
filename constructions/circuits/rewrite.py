"""One expression -> one circuit: what depends on a single form is one univariate node, products are logarithms or product nodes.

A value under construction is a `Fused`: a univariate function of one linear form that has not become a node yet. Functions compose
with it, sums and products of values with the same read stay one value. It becomes a node only where it must be read beside others.
What is not determined by this (how to multiply, mostly) is asked of `choose`, so that one builder gives many circuits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import sympy as sp

from constructions.circuits import powers, singular
from constructions.circuits.conjugate import RootDifference
from constructions.circuits.fused import Fused, affine_parts, constant, form_expression, of_form, parallel, stripped
from constructions.circuits.ir import Z1, Z2, Node, Z, node_symbol, replaced
from constructions.circuits.known import Known, Value, finite, narrower
from constructions.circuits.ranges import Range
from constructions.errors import UnsupportedExpressionError

__all__ = ["Builder", "Choose"]

Choose = Callable[[str, sp.Expr, Sequence[str]], str]
"""(kind, expression, options) -> one of the options."""
_Product = list[tuple[sp.Expr, Fused]]


class Builder:
    """Collects the nodes of one circuit. known: ranges over the domain, shared by all circuits of an expression."""

    def __init__(self, known: Known, choose: Choose) -> None:
        self.known, self.choose = known, choose
        self.nodes: list[Node] = []
        self._index: dict[object, int] = {}
        self._done: dict[sp.Expr, Fused] = {}
        self._values: dict[sp.Basic, Value] = {}

    # What a value is in the variables, and where it lies.

    def explicit(self, value: Fused) -> sp.Expr:
        """The value as an expression in the variables."""
        return replaced(value.function, {Z: self._in_variables(form_expression(value.read))})

    def in_nodes(self, value: Fused) -> sp.Expr:
        """An affine value as an expression in the variables and nodes."""
        return replaced(value.function, {Z: form_expression(value.read)})

    def _in_variables(self, form: sp.Expr) -> sp.Expr:
        return replaced(form, {s: e for s, (e, _) in self._values.items()})

    def reads(self, value: Fused) -> Range:
        """Where the value's read lies."""
        return self.known.affine(form_expression(value.read), self._values)

    def range(self, value: Fused) -> Range:
        """Where the value lies: by its function; as an expression in the variables where that does not tell its sign."""
        found = self.known.function(value.function, self.reads(value))
        if finite(found) and not found[0] <= 0 <= found[1]:
            return found
        return narrower(found, self.known.range(self.explicit(value)))

    # Sums and nodes.

    def sum(self, terms: Iterable[Fused]) -> Fused:
        """The sum: one function if all terms read the same form, else an affine form of nodes."""
        linear: dict[sp.Symbol, sp.Expr] = {}
        offset: sp.Expr = sp.S.Zero
        groups: dict[object, Fused] = {}
        for term in terms:
            parts = affine_parts(term.function)
            if parts is not None:
                _accumulate(linear, term.read, parts[0])
                offset += parts[1]
            elif term.read in groups:
                groups[term.read] = Fused(groups[term.read].function + term.function, term.read)
            else:
                groups[term.read] = term
        if len(groups) == 1:
            (only,) = groups.values()
            factor = parallel(linear, only.read)
            if factor is not None:
                return Fused(only.function + factor * Z + offset, only.read)
        for group in groups.values():
            scale, symbol, constant_part = self.emit(group)
            if symbol is not None:
                linear[symbol] = linear.get(symbol, sp.S.Zero) + scale
            offset += constant_part
        return of_form(linear, offset)

    def emit(self, value: Fused) -> tuple[sp.Expr, sp.Symbol | None, sp.Expr]:
        """A node for a value that is not affine: (a, n, b), the value being a n + b; equal nodes are shared."""
        core, scale, offset = stripped(value.function)
        if not core.has(Z):
            return sp.S.Zero, None, value.function
        key = (core, value.read)
        if key not in self._index:
            kept = Fused(core, value.read)
            found = self.known.function(core, self.reads(kept))
            self._add(key, Node((form_expression(value.read),), core), (self.explicit(kept), found))
        return scale, node_symbol(self._index[key]), offset

    def affine(self, value: Fused) -> Fused:
        """The value as an affine form, by a node where needed."""
        if affine_parts(value.function) is not None:
            return value
        scale, symbol, offset = self.emit(value)
        return constant(offset) if symbol is None else of_form({symbol: scale}, offset)

    def _add(self, key: object, node: Node, value: Value) -> None:
        self._index[key] = len(self.nodes)
        self._values[node_symbol(len(self.nodes))] = value
        self.nodes.append(node)

    # Products.

    def times(self, a: Fused, b: Fused, squares: bool = False) -> Fused:
        """The product of two values: a bivariate node, or two squares."""
        if a.read == b.read or not a.read or not b.read:
            return Fused(a.function * b.function, a.read or b.read)
        (p, q), (r, s) = (affine_parts(self.affine(v).function) or (sp.S.Zero, sp.S.Zero) for v in (a, b))
        a, b = self.affine(a), self.affine(b)
        first, second = Fused(Z + q / p, a.read), Fused(Z + s / r, b.read)
        if squares:
            return self._by_squares(first, second, p * r)
        reads = tuple(
            sorted((form_expression(v.read, v.function - Z) for v in (first, second)), key=sp.default_sort_key)
        )
        if reads not in self._index:
            explicit = self.explicit(first) * self.explicit(second)
            ends = [x * y for x in self.range(first) for y in self.range(second)]
            self._add(reads, Node(reads, Z1 * Z2), (explicit, (min(ends), max(ends))))
        return of_form({node_symbol(self._index[reads]): p * r}, sp.S.Zero)

    def _by_squares(self, a: Fused, b: Fused, scale: sp.Expr) -> Fused:
        """a b = ((a + r b)^2 - (a - r b)^2)/(4 r), r balancing the two widths."""
        (alo, ahi), (blo, bhi) = self.reads(a), self.reads(b)
        balanced = (ahi - alo) / (bhi - blo) if bhi > blo else 1.0
        ratio = sp.Rational(max(1, round(16 * balanced)), 16) if math.isfinite(balanced) else sp.S.One
        terms = []
        for sign in (1, -1):
            square = self.sum([a, b.then(sign * ratio * Z)]).then(Z**2)
            terms.append(square.then(sign * scale / (4 * ratio) * Z))
        return self.sum(terms)

    def product(self, factors: _Product, whole: sp.Expr) -> Fused:
        """The product of (expression, value) pairs."""
        merged: dict[object, tuple[sp.Expr, Fused]] = {}
        scale: sp.Expr = sp.S.One
        for e, value in factors:
            if not value.read:
                scale *= value.function
            elif value.read in merged:
                before, fused = merged[value.read]
                merged[value.read] = (before * e, Fused(fused.function * value.function, value.read))
            else:
                merged[value.read] = (e, value)
        positive: _Product = []
        signed: _Product = []
        for e, value in merged.values():
            lo, hi = self.range(value)
            if self.known.safely_positive(lo, hi):
                positive.append((e, value))
            elif self.known.safely_positive(-hi, -lo):
                positive.append((-e, value.then(-Z)))
                scale = -scale
            else:
                signed.append((e, value))
        if len(merged) <= 1:
            found = (positive or signed or [(sp.S.One, constant(sp.S.One))])[0][1]
            return found.then(scale * Z)
        options = ["log"] if len(positive) > 1 else []
        options += ["tree", "squares"]
        if len(signed) == 1 and positive and finite(self.known.range(self.explicit(signed[0][1]))):
            options.append("shift")
        way = self.choose("product", whole, options)
        if way == "shift":
            return self._shifted(signed[0], positive, scale)
        if way == "log":
            logarithm = self.sum(self.logarithm(value) for _, value in positive)
            values = [value for _, value in signed] + [logarithm.then(sp.exp(Z))]
        else:
            values = [value for _, value in signed] + self._by_exponents(positive, way == "squares")
        return self._tree(values, way == "squares").then(scale * Z)

    def _shifted(self, signed: tuple[sp.Expr, Fused], positive: _Product, scale: sp.Expr) -> Fused:
        """s P = (s + K) P - K P with s + K > 0: two exponentials that share the logarithms of P."""
        _, value = signed
        lo, hi = self.range(value)
        shift = sp.Rational(f"{(hi - lo) / 2 - lo:.2g}")
        rest = self.sum(self.logarithm(v) for _, v in positive)
        lifted = self.sum([rest, self.logarithm(value.then(Z + shift))])
        return self.sum([lifted.then(scale * sp.exp(Z)), rest.then(-scale * shift * sp.exp(Z))])

    def _by_exponents(self, factors: _Product, squares: bool) -> list[Fused]:
        """Factors with the same exponent are multiplied first: x^2 y^2 = (x y)^2, one power for both."""
        groups: dict[sp.Expr, list[Fused]] = {}
        out = []
        for e, value in factors:
            base, exponent = e.as_base_exp()
            if (
                exponent.is_number
                and exponent != 1
                and self.known.safely_positive(*self.known.range(base))
                and base is not sp.E
            ):
                groups.setdefault(exponent, []).append(self.convert(base))
            else:
                out.append(value)
        for exponent, bases in groups.items():
            out.append(self._tree(bases, squares).then(Z**exponent))
        return out

    def _tree(self, values: list[Fused], squares: bool) -> Fused:
        """Pairs, then pairs of pairs: least depth."""
        while len(values) > 1:
            pairs = [values[i : i + 2] for i in range(0, len(values), 2)]
            values = [self.times(*p, squares=squares) if len(p) == 2 else p[0] for p in pairs]
        return values[0]

    def logarithm(self, value: Fused) -> Fused:
        """log of a positive value."""
        lo, hi = self.reads(value)
        return Fused(powers.log_of(value.function, lo, hi), value.read)

    # Expressions.

    def convert(self, e: sp.Expr) -> Fused:
        """The value of an expression in the variables. Raises UnsupportedExpressionError for a function of several forms."""
        if e not in self._done:
            self._done[e] = self._convert(e)
        return self._done[e]

    def _convert(self, e: Any) -> Fused:
        if not e.free_symbols:
            return constant(e)
        if isinstance(e, sp.Symbol):
            return Fused(Z, ((e, sp.S.One),))
        if isinstance(e, sp.Add):
            return self.sum(self.convert(t) for t in e.args)
        if isinstance(e, sp.Mul):
            return self._mul(e)
        if isinstance(e, sp.Pow) and not e.exp.is_number and e.base is not sp.E:
            return self._general_power(e)
        if isinstance(e, sp.Pow) and e.base is not sp.E:
            if isinstance(e.base, sp.Mul):
                spread = powers.spread(e, self.known.range)
                if spread is not None:
                    return self._mul(spread)
            return self.convert(e.base).then(Z**e.exp)
        if isinstance(e, RootDifference):
            inside: Any = e.args[0]
            return self.convert(inside).then(type(e).of(Z))
        if isinstance(e, sp.Max | sp.Min):
            return self._extreme(e)
        if isinstance(e, sp.log) and isinstance(e.args[0], sp.Mul):
            return self.logarithm(self.convert(e.args[0]))
        arguments: list[Any] = [a for a in e.args if isinstance(a, sp.Expr)]
        if isinstance(e, sp.Abs):
            return self._absolute(self.convert(e.args[0]))
        if len(e.args) == 1 and len(arguments) == 1:
            return self.convert(arguments[0]).then(_applied(e, Z))
        if isinstance(e, sp.Piecewise):
            return self._piecewise(e)
        if len(e.args) == 2 and len(arguments) == 2:
            first, second = (self.convert(a) for a in arguments)
            return self._bivariate(first, second, _applied(e, Z1, Z2))
        raise UnsupportedExpressionError(
            part=str(e), reason="is a function of more than two arguments, for which no circuit is known"
        )

    def _mul(self, e: Any) -> Fused:
        whole = e
        e = powers.flattened(e, self.known.range)
        factors: _Product = []
        rest, fused = singular.removed(e, self.known.range)
        for function, argument, explicit in fused:
            factors.append((explicit, self.convert(argument).then(function)))
        factors += [
            (f, self.convert(f))
            for f in powers.grouped(rest, lambda f: self.choose("group", f, ["no", "yes"]) == "yes")
        ]
        return self.product(factors, whole)

    def _absolute(self, value: Fused) -> Fused:
        """|u|, without a kink where the sign of u is known."""
        lo, hi = self.range(value)
        return value if lo >= 0 else value.then(-Z) if hi <= 0 else value.then(sp.Abs(Z))

    def _general_power(self, e: Any) -> Fused:
        """a^b = exp(b log a), fused if both are functions of the same form."""
        base, exponent = self.convert(e.base), self.convert(e.exp)
        logarithm = self.logarithm(base)
        if logarithm.read == exponent.read or not logarithm.read:
            return Fused(base.function**exponent.function, exponent.read)
        parts: _Product = [(e.exp, exponent), (sp.log(e.base), logarithm)]
        return self.product(parts, e).then(sp.exp(Z))

    def _extreme(self, e: Any) -> Fused:
        """max(a, b, ...) = b + max(a - b, 0), one at a time; one function if all read the same form."""
        values = [self.convert(a) for a in e.args]
        found = values[0]
        for value in values[1:]:
            if found.read == value.read or not found.read or not value.read:
                found = Fused(e.func(found.function, value.function), found.read or value.read)
            else:
                gap = self.sum([found, value.then(-Z)])
                found = self.sum([value, gap.then(e.func(Z, sp.S.Zero))])
        return found

    def _piecewise(self, e: Any) -> Fused:
        """Branch by branch from the last: b + (a - b where the condition holds, else 0), a function of the condition's form and a - b."""
        *head, (last, last_condition) = e.args
        if last_condition != sp.true:
            raise UnsupportedExpressionError(part=str(e), reason="has no final branch that holds everywhere else")
        found = self.convert(last)
        for branch, condition in reversed(head):
            if not isinstance(condition, sp.Gt | sp.Ge | sp.Lt | sp.Le):
                raise UnsupportedExpressionError(
                    part=str(condition), reason="is not one comparison, so no circuit is known"
                )
            more: Any = condition.gts
            gap = self.convert(more - condition.lts)
            yes = self.convert(branch)
            strict = isinstance(condition, sp.Gt | sp.Lt)
            holds = sp.Gt(Z, 0) if strict else sp.Ge(Z, 0)
            forms = {v.read for v in (gap, yes, found) if v.read}
            if len(forms) == 1:
                choice = sp.Piecewise((yes.function, replaced(holds, {Z: gap.function})), (found.function, True))
                found = Fused(choice, forms.pop())
            else:
                step = self.sum([yes, found.then(-Z)])
                chosen = self._bivariate(gap, step, sp.Piecewise((Z2, replaced(holds, {Z: Z1})), (sp.S.Zero, True)))
                found = self.sum([found, chosen])
        return found

    def _bivariate(self, first: Fused, second: Fused, function: sp.Expr) -> Fused:
        """One node for a function of two values; a univariate one if both are functions of one form."""
        if first.read == second.read or not first.read or not second.read:
            inside = replaced(function, {Z1: first.function, Z2: second.function})
            return Fused(inside, first.read or second.read)
        function = replaced(function, {Z1: replaced(first.function, {Z: Z1}), Z2: replaced(second.function, {Z: Z2})})
        key = (function, first.read, second.read)
        if key not in self._index:
            reads = (form_expression(first.read), form_expression(second.read))
            inside = dict(zip((Z1, Z2), (self._in_variables(r) for r in reads), strict=True))
            explicit = replaced(function, inside)
            self._add(key, Node(reads, function), (explicit, self.known.range(explicit)))
        return of_form({node_symbol(self._index[key]): sp.S.One}, sp.S.Zero)


def _applied(e: Any, *arguments: sp.Symbol) -> sp.Expr:
    """The expression's outermost function of other arguments."""
    return e.func(*arguments)


def _accumulate(linear: dict[sp.Symbol, sp.Expr], read: Iterable[tuple[sp.Symbol, sp.Expr]], factor: sp.Expr) -> None:
    for symbol, coefficient in read:
        linear[symbol] = linear.get(symbol, sp.S.Zero) + factor * coefficient
