"""SymPy expression -> the kernel's expression table: what is proved is about exactly this table, which prints as a formula."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import sympy as sp

from constructions.errors import FreeSymbolError, UnsupportedExpressionError
from verify.expression import Expression, ExpressionError, Node

__all__ = ["from_sympy"]

_FUNCTIONS: dict[type, str] = {
    sp.exp: "exp", sp.log: "log", sp.sin: "sin", sp.cos: "cos", sp.tan: "tan", sp.sinh: "sinh", sp.cosh: "cosh",
    sp.tanh: "tanh", sp.asin: "asin", sp.acos: "acos", sp.atan: "atan", sp.asinh: "asinh", sp.acosh: "acosh",
    sp.atanh: "atanh", sp.erf: "erf", sp.Abs: "abs",
}  # fmt: skip
_RECIPROCALS = {sp.sec: sp.cos, sp.csc: sp.sin, sp.cot: sp.tan, sp.sech: sp.cosh, sp.csch: sp.sinh, sp.coth: sp.tanh}


class _Table:
    """The nodes made so far; equal nodes are shared."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = {name: i for i, name in enumerate(names)}
        self.nodes: list[Node] = []
        self.index: dict[Node, int] = {}
        self.done: dict[sp.Basic, int] = {}

    def add(self, op: str, *args: int, value: str | None = None) -> int:
        node = Node(op, args, value)
        if node not in self.index:
            self.index[node] = len(self.nodes)
            self.nodes.append(node)
        return self.index[node]

    def constant(self, q: Fraction | int) -> int:
        return self.add("const", value=str(Fraction(q)))

    def visit(self, e: sp.Basic) -> int:
        if e not in self.done:
            self.done[e] = self._lower(e)
        return self.done[e]

    def _lower(self, e: sp.Basic) -> int:
        if isinstance(e, sp.Symbol):
            if e.name not in self.names:
                raise FreeSymbolError(symbols=[e.name], known=list(self.names))
            return self.add("var", value=str(self.names[e.name]))
        if isinstance(e, sp.Rational):
            return self.constant(Fraction(int(e.p), int(e.q)))
        if isinstance(e, sp.Float):
            exact = sp.Rational(e)  # a binary float is a rational number: nothing is rounded
            return self.constant(Fraction(int(exact.p), int(exact.q)))
        if e is sp.pi:
            return self.add("const", value="pi")
        if e is sp.E:
            return self.add("const", value="e")
        if isinstance(e, sp.Add | sp.Mul):
            return self.add("add" if isinstance(e, sp.Add) else "mul", *(self.visit(a) for a in e.args))
        if isinstance(e, sp.Pow):
            return self._power(e)
        if isinstance(e, sp.Max | sp.Min):
            return self.add("max" if isinstance(e, sp.Max) else "min", *(self.visit(a) for a in e.args))
        if isinstance(e, sp.Piecewise):
            return self._piecewise(e)
        for kind, op in _FUNCTIONS.items():
            if isinstance(e, kind) and len(e.args) == 1:
                return self.add(op, self.visit(e.args[0]))
        for kind, base in _RECIPROCALS.items():
            if isinstance(e, kind):
                return self.add("pow", self.visit(base(e.args[0])), value="-1")
        if isinstance(e, sp.NumberSymbol):  # EulerGamma, GoldenRatio, ...: rewritten where possible
            other = e.expand(func=True)
            if other != e:
                return self.visit(other)
        if isinstance(e, sp.log) and len(e.args) == 2:
            return self.visit(sp.log(e.args[0]) / sp.log(e.args[1]))
        raise UnsupportedExpressionError(part=e)

    def _power(self, e: sp.Pow) -> int:
        base, exponent = e.base, e.exp
        if base is sp.E:
            return self.add("exp", self.visit(exponent))
        if isinstance(exponent, sp.Float):
            exponent = sp.Rational(exponent)
        if isinstance(exponent, sp.Rational):
            q = Fraction(int(exponent.p), int(exponent.q))
            if abs(q) <= 10_000 and q.denominator <= 2**64:
                return self.add("pow", self.visit(base), value=str(q))
        # a^b = exp(b log a), as for every real power with a varying exponent
        return self.add("exp", self.add("mul", self.visit(exponent), self.add("log", self.visit(base))))

    def _piecewise(self, e: sp.Piecewise) -> int:
        *head, (last, condition) = [(v, c) for v, c in e.args]
        if condition is not sp.true and condition != True:  # noqa: E712 (a SymPy boolean)
            raise UnsupportedExpressionError(part=e, reason="has no final branch that holds everywhere else")
        out = self.visit(last)
        for value, c in reversed(head):
            out = self._choose(c, self.visit(value), out)
        return out

    def _choose(self, c: sp.Basic, yes: int, no: int) -> int:
        if c is sp.true or c is sp.false:
            return yes if c is sp.true else no
        if isinstance(c, sp.And):
            for part in c.args:
                yes = self._choose(part, yes, no)
            return yes
        if isinstance(c, sp.Or):
            for part in c.args:
                no = self._choose(part, yes, no)
            return no
        if isinstance(c, sp.Not):
            return self._choose(c.args[0], no, yes)
        if isinstance(c, sp.Gt | sp.Ge | sp.Lt | sp.Le):
            left, right = (c.lhs, c.rhs) if isinstance(c, sp.Gt | sp.Ge) else (c.rhs, c.lhs)
            value = ">" if isinstance(c, sp.Gt | sp.Lt) else ">="
            return self.add("select", self.visit(left - right), yes, no, value=value)
        raise UnsupportedExpressionError(part=c, reason="is a condition other than <, <=, >, >=, and, or, not")


def from_sympy(expressions: Sequence[sp.Expr], names: Sequence[str]) -> Expression:
    """Lower real SymPy expressions in the named variables to the kernel's table.

    Floats become the exact rational numbers they are. Raises FreeSymbolError for a symbol without a name in `names`, and
    UnsupportedExpressionError naming the sub-expression for anything the kernel has no enclosure for.
    """
    table = _Table(names)
    try:
        outputs = tuple(table.visit(sp.sympify(e)) for e in expressions)
        return Expression(tuple(table.nodes), outputs, tuple(names))
    except ExpressionError as error:
        raise UnsupportedExpressionError(part=list(expressions), reason=str(error)) from error
    except RecursionError as error:
        raise UnsupportedExpressionError(part="of the target", reason="is nested too deeply") from error

