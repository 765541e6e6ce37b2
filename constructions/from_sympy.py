"""SymPy expression -> the kernel's expression table: what is proved is about exactly this table, which prints as a formula.

Variables are real, and so is every sub-expression wherever the kernel finds the target defined. The rules of the lowering are
generators: each yields the sub-expressions whose nodes it needs and returns its own node, so nesting is limited by memory alone.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import sympy as sp
from sympy.logic.boolalg import BooleanFunction, to_nnf

from constructions.errors import CompileError, FreeSymbolError, UnsupportedExpressionError
from constructions.removable import removed_factors
from constructions.sympy_functions import DEFINITIONS, FUNCTIONS, refused, why_not
from verify.expression import Expression, ExpressionError, Node

__all__ = ["from_sympy"]

_STRICT: Mapping[Any, str] = MappingProxyType({sp.Gt: ">", sp.Ge: ">=", sp.Lt: ">", sp.Le: ">="})
_MAX_EXPONENT = 10_000
_MAX_UNORDERED = 8
_MAX_BITS = 6_000  # below the 2000 characters that the table allows a constant

_Rule = Generator[sp.Basic, int, int]


class _Table:
    """The nodes made so far; equal nodes are shared."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = {name: i for i, name in enumerate(names)}
        self.nodes: list[Node] = []
        self.index: dict[Node, int] = {}
        self.done: dict[int, tuple[sp.Basic, int]] = {}  # by identity: hashing and comparing expressions recurses

    def add(self, op: str, *args: int, value: str | None = None) -> int:
        if op in ("add", "mul", "min", "max") and len(args) == 1:
            return args[0]
        node = Node(op, args, value)
        if node not in self.index:
            self.index[node] = len(self.nodes)
            self.nodes.append(node)
        return self.index[node]

    def constant(self, q: Fraction | int) -> int:
        return self.add("const", value=str(Fraction(q)))

    def negative(self, i: int) -> int:
        return self.add("mul", self.constant(-1), i)

    def lower(self, root: sp.Basic) -> int:
        """The node of an expression; an explicit stack of rules instead of recursion."""
        stack: list[tuple[Any, Generator[Any, Any, int]]] = [(root, self._rule(root))]
        found: Any = None
        while stack:
            try:
                part = stack[-1][1].send(found)
            except StopIteration as finished:
                e, _ = stack.pop()
                found = finished.value
                self.done[id(e)] = (e, found)
            else:
                _, found = self.done.get(id(part), (part, None))
                if found is None:
                    stack.append((part, self._rule(part)))
        return self.done[id(root)][1]

    def _rule(self, e: Any) -> _Rule:
        if isinstance(e, sp.Symbol):
            if e.name not in self.names:
                raise FreeSymbolError(symbols=[e.name], known=list(self.names))
            return self.add("var", value=str(self.names[e.name]))
        if isinstance(e, sp.Rational | sp.Float):
            return self.constant(_fraction(e))
        if e is sp.pi or e is sp.E:
            return self.add("const", value="pi" if e is sp.pi else "e")
        if isinstance(e, sp.Mul):
            return (yield from self._product(e))
        if isinstance(e, sp.Add | sp.Max | sp.Min):
            op = "add" if isinstance(e, sp.Add) else "max" if isinstance(e, sp.Max) else "min"
            return self.add(op, *(yield from self._all(e.args)))
        if isinstance(e, sp.Pow):
            return (yield from self._power(e))
        if isinstance(e, sp.Piecewise):
            return (yield from self._piecewise(e))
        if isinstance(e, sp.im):  # not simply 0: undefined wherever its argument is
            return self._times([self.constant(0), (yield e.args[0])])
        for kind, op in FUNCTIONS.items():
            if isinstance(e, kind) and len(e.args) == 1:
                return self.add(op, (yield e.args[0]))
        if type(e) in DEFINITIONS:
            return (yield DEFINITIONS[type(e)](*e.args))
        if isinstance(e, sp.NumberSymbol):
            closed = e.expand(func=True)  # GoldenRatio = (1 + sqrt 5)/2
            if closed != e:
                return (yield closed)
        raise refused(e, *why_not(e))

    def _all(self, parts: Sequence[Any]) -> Generator[sp.Basic, int, list[int]]:
        nodes = []
        for part in parts:
            nodes.append((yield part))
        return nodes

    def _product(self, e: Any) -> _Rule:
        factors = removed_factors(e) or list(e.args)
        for jump in [a for a in factors if isinstance(a, sp.sign)]:
            rest = list(factors)
            rest.remove(jump)
            factors = _absorbed(jump.args[0], rest) or factors  # what stays is refused by its own rule
        return self._times((yield from self._all(factors)))

    def _times(self, nodes: list[int]) -> int:
        """A product; 0 if a factor is 0 and the others are defined everywhere."""
        leaves = all(self.nodes[i].op in ("var", "const") for i in nodes)
        zero = self.constant(0) if leaves and any(self.nodes[i] == Node("const", (), "0") for i in nodes) else None
        return self.add("mul", *nodes) if zero is None else zero

    def _power(self, e: Any) -> _Rule:
        base, exponent = e.base, e.exp
        if base is sp.E:
            return self.add("exp", (yield exponent))
        if isinstance(base, sp.Number) and base < 0 and not isinstance(exponent, sp.Integer):
            raise refused(e, "is not real: a negative number has real powers for integer exponents only")
        if isinstance(exponent, sp.Rational | sp.Float):
            q = _fraction(exponent)
            if (
                isinstance(base, sp.Pow)
                and isinstance(base.exp, sp.Integer)
                and base.exp > 0
                and base.exp % 2 == 0
                and q > 0
            ):
                base, q = (
                    sp.Abs(base.base, evaluate=False),
                    int(base.exp) * q,
                )  # sqrt(x**2) = |x|, also where SymPy does not know that x is real
            if abs(q) <= _MAX_EXPONENT and q.denominator <= 2**64:
                node = yield base
                return node if q == 1 else self.add("pow", node, value=str(q))
            if q.denominator == 1:
                return (yield from self._long_power(e, base, q.numerator))
        # a^b = exp(b log a), as for every real power with a varying exponent
        power, logarithm = (yield exponent), self.add("log", (yield base))
        return self.add("exp", self.add("mul", power, logarithm))

    def _long_power(self, e: Any, base: Any, n: int) -> _Rule:
        """u^n = (u^10000)^k u^r, defined for negative u too."""
        if abs(n) > _MAX_EXPONENT**2:
            raise refused(e, f"has an exponent beyond {_MAX_EXPONENT**2}")
        k, r = divmod(abs(n), _MAX_EXPONENT)
        node = yield base
        parts = [
            self.add("pow", self.add("pow", node, value=str(_MAX_EXPONENT)), value=str(k)),
            self.add("pow", node, value=str(r)),
        ]
        power = self.add("mul", *parts[: 2 if r else 1])
        return power if n > 0 else self.add("pow", power, value="-1")

    def _piecewise(self, e: Any) -> _Rule:
        branches: list[tuple[Any, Any]] = []
        for value, condition in e.args:
            verdict = yield from self._verdict(condition)
            if verdict is not False:
                branches.append((value, condition))
            if verdict:
                break
        else:
            # The conditions may exhaust all cases without saying so: x < 0, x >= 0.
            if not _exhaustive([c for _, c in branches]):
                step = "Write the last branch as (value, True)."
                raise refused(e, "has no final branch that holds everywhere else", step)
        *head, (last, _) = branches
        out = yield last
        for value, condition in reversed(head):
            out = yield from self._choose(condition, (yield value), out)
        return out

    def _verdict(self, c: Any) -> Generator[sp.Basic, int, bool | None]:
        """Whether the condition is known to hold, or to fail, whatever the variables; None if it depends on them."""
        if c is sp.true or c is sp.false:
            return c is sp.true
        if not isinstance(c, sp.Rel) or not isinstance(c.lhs, sp.Expr):
            return None
        node = self.nodes[(yield _difference(c))]
        if node.op != "const" or node.value in ("pi", "e"):
            return None
        return bool(c.func(sp.Rational(node.value) * (-1 if isinstance(c, sp.Lt | sp.Le) else 1), 0))

    def _choose(self, c: Any, yes: int, no: int) -> _Rule:
        """The node of: yes where c holds, no elsewhere."""
        if c is sp.true or c is sp.false:
            return yes if c is sp.true else no
        if isinstance(c, sp.And):
            for part in c.args:
                yes = yield from self._choose(part, yes, no)
            return yes
        if isinstance(c, sp.Or):
            for part in c.args:
                no = yield from self._choose(part, yes, no)
            return no
        if isinstance(c, sp.Not):
            return (yield from self._choose(c.args[0], no, yes))
        if isinstance(c, BooleanFunction):  # Xor, Implies, Equivalent, ITE: in terms of and, or, not
            return (yield from self._choose(to_nnf(c, simplify=False), yes, no))
        if not isinstance(c, sp.Rel) or not isinstance(c.lhs, sp.Expr):
            raise refused(c, "is a condition other than a comparison of numbers, or and, or, not of such")
        d = yield _difference(c)
        if isinstance(c, sp.Ne):
            yes, no = no, yes
        if isinstance(c, sp.Eq | sp.Ne):  # d >= 0 and -d >= 0
            yes = self.add("select", self.negative(d), yes, no, value=">=")
        return self.add("select", d, yes, no, value=_STRICT.get(c.func, ">="))


def _absorbed(u: Any, factors: list[Any]) -> list[Any] | None:
    """sign(u) times the factors, as factors without the jump: they contain |u|^q or u^k, so that the product is continuous.

    real_root and the derivatives of |u| are written so. None if no such factor is seen, of u or of every factor of u.
    """
    for i, (base, q) in enumerate(f.as_base_exp() for f in factors):
        size = base.args[0] if isinstance(base, sp.Abs) else None
        if size is not None and (size == u or size == -u) and q.is_Rational and q > 0:
            return [*factors[:i], _hinge(u) ** q - _hinge(-u) ** q, *factors[i + 1 :]]  # one of the two is zero
        if base == u and q.is_Integer and q > 0:
            return [*factors[:i], sp.Abs(u, evaluate=False), u ** (q - 1), *factors[i + 1 :]]
    joined: list[Any] | None = factors
    for part in sp.Mul.make_args(u):
        base, m = part.as_base_exp()
        if joined is None or (part == u and m == 1) or not (m.is_Integer and m > 0):
            return None
        if m % 2:
            joined = _absorbed(base, joined)
        elif not any(_vanishes(f, base) for f in joined):
            return None
    return joined


def _vanishes(factor: Any, u: Any) -> bool:
    """Whether the factor is visibly zero where u is, a power of it; then sign(u^2) makes no difference."""
    base, q = factor.as_base_exp()
    return q.is_Rational and q > 0 and (base == u or (isinstance(base, sp.Abs) and base.args[0] == u))


def _exhaustive(conditions: Sequence[Any]) -> bool:
    either = sp.Or(*conditions)
    return either is sp.true or (len(conditions) <= _MAX_UNORDERED and either.simplify() is sp.true)


def _hinge(u: Any) -> Any:
    return sp.Max(u, sp.S.Zero, evaluate=False)  # SymPy would search its assumptions


def _difference(c: Any) -> Any:
    """What is positive (or not negative, or zero) where the comparison holds; SymPy cancels what the sides share."""
    more: Any
    less: Any
    more, less = (c.gts, c.lts) if isinstance(c, sp.Gt | sp.Ge | sp.Lt | sp.Le) else (c.lhs, c.rhs)
    return more - less


def _fraction(e: Any) -> Fraction:
    """The exact value of a number: a binary float is a rational number, nothing is rounded."""
    # Before a power of 2 is written out.
    bits = abs(int(e._mpf_[2])) if isinstance(e, sp.Float) else int(e.p).bit_length() + int(e.q).bit_length()
    if bits > _MAX_BITS:
        raise refused(e, f"is a constant of more than {_MAX_BITS} bits", "Round it, or rescale f.")
    exact: Any = sp.Rational(e)
    return Fraction(int(exact.p), int(exact.q))


def _needed(nodes: Sequence[Node], outputs: Sequence[int], names: Sequence[str]) -> Expression:
    """The table without the nodes that no output uses: conditions and branches that were decided beforehand."""
    used = set(outputs)
    for i in range(len(nodes) - 1, -1, -1):
        if i in used:
            used.update(nodes[i].args)
    new = {old: i for i, old in enumerate(sorted(used))}
    kept = tuple(Node(nodes[i].op, tuple(new[a] for a in nodes[i].args), nodes[i].value) for i in new)
    return Expression(kept, tuple(new[o] for o in outputs), tuple(names))


def from_sympy(expressions: Sequence[sp.Expr], names: Sequence[str]) -> Expression:
    """Lower real SymPy expressions in the named variables to the kernel's table.

    Floats become the exact rational numbers they are. Where a product has a removable singularity, sin(c v)^k v^-j with j <= k, the
    table is its continuous extension, c^j sinc(c v)^j sin(c v)^(k - j): equal wherever v is not 0 (see constructions.removable). Raises FreeSymbolError for a symbol without a name in `names`, and
    UnsupportedExpressionError naming the sub-expression for anything the kernel has no enclosure for.
    """
    table = _Table(names)
    try:
        outputs = [table.lower(sp.sympify(e, strict=True)) for e in expressions]
        return _needed(table.nodes, outputs, names)
    except sp.SympifyError as error:
        raise UnsupportedExpressionError(part=repr(error.expr), reason="is not a SymPy expression") from error
    except CompileError:
        raise
    except ExpressionError as error:
        raise UnsupportedExpressionError(part="of the target", reason=f"does not fit the table ({error})") from error
    except RecursionError as error:  # SymPy's own arithmetic, on a comparison of deep expressions
        raise UnsupportedExpressionError(part="of the target", reason="is nested too deeply for SymPy") from error
