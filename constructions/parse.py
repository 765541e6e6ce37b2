"""Formulas and domains from text, for the command line: "exp(-x**2) + y^2", "[cos(x), sin(x)]", "x=-1:1, y=0:2*pi".

The text is never executed: Python's own grammar (`ast.parse`, which only builds a tree) reads it, and the tree is folded
into SymPy with a short list of node types and functions; everything else is refused with its column. Decimals are exact
(0.1 is 1/10). Time and memory are bounded: characters, nesting, the digits of every number and the size of every constant
are limited before SymPy is called.
"""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

import sympy as sp

from constructions.errors import DomainError, ParseError
from constructions.trace import FORMULAS, select
from verify import Sphere, SphereError

__all__ = ["parse_domain", "parse_expression"]

_MAX_CHARACTERS = 10_000
_MAX_NESTING = 100
_MAX_ARGUMENTS = 1_000
_MAX_DIGITS = 400
_MAX_BITS = 4096
_LETTERS = re.compile(r"[A-Za-z0-9_+\-*/^().,\[\]<>= ]")
_NUMBER = re.compile(r"(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_RESERVED = re.compile(r"(?<![A-Za-z0-9_.])(?:lambda|del)(?![A-Za-z0-9_])")
"""Physics' names that Python's grammar keeps for itself."""
_CONSTANTS: Mapping[str, sp.Expr] = MappingProxyType({"pi": sp.pi, "e": sp.E})

_NUMPY_NAMES = MappingProxyType({
    "abs": "absolute", "asin": "arcsin", "acos": "arccos", "atan": "arctan", "atan2": "arctan2", "asinh": "arcsinh",
    "acosh": "arccosh", "atanh": "arctanh", "ln": "log", "sigmoid": "expit", "pow": "power",
    **{name: name for name in (
        "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "logaddexp", "sqrt", "cbrt", "square", "hypot", "sin", "cos",
        "tan", "arcsin", "arccos", "arctan", "arctan2", "sinh", "cosh", "tanh", "arcsinh", "arccosh", "arctanh", "erf",
        "erfc", "expit", "sinc", "sign",
    )},
})  # fmt: skip
_TWO_ARGUMENTS = frozenset({"arctan2", "hypot", "logaddexp", "power"})
_EXTREMES = MappingProxyType({"max": "maximum", "maximum": "maximum", "min": "minimum", "minimum": "minimum"})
_FUNCTIONS = frozenset({*_NUMPY_NAMES, *_EXTREMES, "where"})
_RELATIONS: Mapping[type[ast.cmpop], Any] = MappingProxyType(
    {ast.Gt: sp.Gt, ast.GtE: sp.Ge, ast.Lt: sp.Lt, ast.LtE: sp.Le}
)


def parse_expression(text: str, variables: Iterable[str] = ()) -> sp.Expr | list[sp.Expr]:
    """The expression written in `text`, or the list of its components for "[..., ...]".

    Every name that is not a function, `pi` or `e` becomes a symbol with `real=True`; so do those among `variables`, where they are not
    called: with variables=["e"], "e*x" is a product of two variables. `^` is a power, as `**` is.
    Raises ParseError, which names the column.
    """
    reader = _Reader.of(text, variables)
    tree = reader.tree()
    if isinstance(tree, ast.List):
        if not tree.elts:
            raise reader.error(tree, "the list of components is empty")
        return [reader.expression(e, 1) for e in tree.elts]
    return reader.expression(tree, 0)


def parse_domain(text: str) -> dict[str, tuple[float, float]] | Sphere:
    """The ranges written in `text`, in order: "x=-1:1, y=0:2*pi" gives {"x": (-1.0, 1.0), "y": (0.0, 6.283185307179586)}; "sphere:2"
    is S^2 and "sphere:2:u,v,w" names its coordinates.

    Bounds are constant expressions, rounded to the nearest float64. Raises ParseError for the form (the column is named),
    DomainError for a range that is empty or reversed.
    """
    ranges: dict[str, tuple[float, float]] = {}
    _checked_length(text)
    if re.match(r"\s*sphere\s*:", text):
        return _sphere(text)
    for start, piece in _pieces(text, ","):
        name, equals, interval = piece.partition("=")
        ends = list(_pieces(interval, ":"))
        if not equals or len(ends) != 2:
            raise ParseError(
                text=text,
                column=start + 1,
                reason="a range is missing",
                next_step="Write name=lo:hi, for example x=-1:1.",
            )
        key = name.strip()
        if not _NAME.fullmatch(key) or key in _FUNCTIONS or key in _CONSTANTS:
            raise ParseError(text=text, column=start + 1, reason=f"{key!r} cannot be the name of a variable")
        if key in ranges:
            raise ParseError(text=text, column=start + 1, reason=f"{key!r} has a second range")
        offset = start + len(name) + 1
        low, high = (_constant(text, offset + at, end) for at, end in ends)
        if not low < high:
            raise DomainError(value=f"{key}={low!r}:{high!r}", reason="is empty or reversed")
        ranges[key] = (low, high)
    return ranges


def _sphere(text: str) -> Sphere:
    """ "sphere:M" or "sphere:M:NAMES". Raises ParseError for the form, DomainError for a sphere that does not exist."""
    _, size, *names = (piece.strip() for piece in text.split(":"))
    if not re.fullmatch(r"-?\d{1,9}", size) or len(names) > 1:
        raise ParseError(
            text=text,
            column=1,
            reason="a sphere is missing its dimension",
            next_step="Write sphere:2, or sphere:2:x,y,z.",
        )
    try:
        return Sphere(int(size), names[0] if names else None)
    except SphereError as error:
        raise DomainError(value=text, reason=f"is not a sphere: {error}", next_step="Write sphere:2.") from error


def _pieces(text: str, separator: str) -> Iterator[tuple[int, str]]:
    """The parts of `text` between separators outside brackets, with the position of each."""
    depth = start = 0
    for i, letter in enumerate(text):
        depth += (letter in "([") - (letter in ")]")
        if letter == separator and depth == 0:
            yield start, text[start:i]
            start = i + 1
    yield start, text[start:]


def _constant(text: str, offset: int, part: str) -> float:
    try:
        reader = _Reader.of(part)
        value = reader.fold(reader.tree(), 0).value
    except ParseError as error:
        column = offset + error.column
        raise ParseError(text=text, column=column, reason=error.reason, next_step=error.next_step) from error
    if value is None:
        raise ParseError(
            text=text, column=offset + 1, reason=f"{part.strip()!r} is not a constant", next_step="A bound is a number."
        )
    return value


@dataclass(frozen=True)
class _Folded:
    """A sub-expression, with its float64 value if it is constant.

    Every constant has to be finite in float64 before anything is built on it. SymPy evaluates a constant to as many digits as
    it needs; sin(exp(exp(6))) is admissible, and cheap, but the digits of sin(exp(exp(exp(6)))) would never end.
    """

    expression: Any
    value: float | None = None


def _checked_length(text: str) -> None:
    if len(text) > _MAX_CHARACTERS:
        raise ParseError(
            text=text, column=_MAX_CHARACTERS + 1, reason=f"the text has more than {_MAX_CHARACTERS} characters"
        )


@dataclass(frozen=True)
class _Reader:
    """text: as given; source: what Python's grammar reads; columns: position in `text` of every position in `source`; variables: names
    that are variables whatever else they mean."""

    text: str
    source: str
    columns: tuple[int, ...]
    variables: frozenset[str] = frozenset()

    @staticmethod
    def of(text: str, variables: Iterable[str] = ()) -> _Reader:
        """Refuses what could not be part of any formula, then writes `^` as `**` and `lambda` as `_lambda`."""
        _checked_length(text)
        depth = 0
        for i, letter in enumerate(text):
            depth += (letter in "([") - (letter in ")]")
            if not _LETTERS.fullmatch(letter):
                raise ParseError(
                    text=text, column=i + 1, reason=f"the character {letter!r} has no meaning in a formula"
                )
            if depth > _MAX_NESTING:
                raise ParseError(text=text, column=i + 1, reason=f"brackets are nested more than {_MAX_NESTING} deep")
        start = len(text) - len(text.lstrip())
        body = text.strip()
        longer = {found.start() for found in _RESERVED.finditer(body)}
        columns = [start + i for i, c in enumerate(body) for _ in range(2 if c == "^" or i in longer else 1)]
        source = _RESERVED.sub(lambda found: f"_{found[0]}", body).replace("^", "**")
        return _Reader(text, source, (*columns, start + len(body)), frozenset(variables))

    def tree(self) -> ast.expr:
        """The syntax tree. Nothing is compiled or run."""
        if not self.source:
            raise ParseError(
                text=self.text, column=1, reason="the formula is empty", next_step="Write for example sin(3*x)."
            )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Python comments on "2(x)" and the like; we refuse it below
                return ast.parse(self.source, mode="eval").body
        except SyntaxError as error:
            column = self._column((error.offset or 1) - 1)
            step = "A product needs a sign: 2*x." if str(error.msg).startswith("invalid decimal") else ""
            raise ParseError(
                text=self.text, column=column, reason=f"not a formula ({error.msg})", next_step=step
            ) from error
        except (RecursionError, MemoryError, ValueError) as error:
            raise ParseError(
                text=self.text, column=1, reason="nested too deeply, or too many operations in a row"
            ) from error

    def error(self, node: ast.expr, reason: str, next_step: str = "") -> ParseError:
        return ParseError(text=self.text, column=self._column(node.col_offset), reason=reason, next_step=next_step)

    def _column(self, offset: int) -> int:
        return self.columns[max(0, min(offset, len(self.columns) - 1))] + 1

    def expression(self, node: ast.expr, depth: int) -> sp.Expr:
        return self.fold(node, depth).expression

    def fold(self, node: ast.expr, depth: int) -> _Folded:
        """The SymPy expression of a syntax tree; the only place where node types are admitted."""
        if depth > _MAX_NESTING:
            raise self.error(node, f"nested more than {_MAX_NESTING} deep")
        if isinstance(node, ast.Constant):
            return self._number(node)
        if isinstance(node, ast.Name):
            return self._name(node)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
            operand = self.fold(node.operand, depth + 1)
            return self._apply(node, lambda a: -a, operand) if isinstance(node.op, ast.USub) else operand
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub)):
            return self._chain(node, depth, (ast.Add, ast.Sub), sp.Add, lambda a: -a)
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mult, ast.Div)):
            return self._chain(node, depth, (ast.Mult, ast.Div), sp.Mul, lambda a: 1 / a)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            return self._power(node, self.fold(node.left, depth + 1), self.fold(node.right, depth + 1))
        if isinstance(node, ast.Call):
            return self._call(node, depth)
        raise self.error(
            node,
            f"{_KINDS.get(type(node), type(node).__name__)} is not allowed in a formula",
            _STEPS.get(type(node), ""),
        )

    def _number(self, node: ast.Constant) -> _Folded:
        literal = self.source[node.col_offset : node.end_col_offset]
        if not _NUMBER.fullmatch(literal):
            raise self.error(node, f"{literal[:40]!r} is not a decimal number")
        if len(literal) > _MAX_DIGITS or abs(Decimal(literal).adjusted()) > _MAX_DIGITS:
            raise self.error(node, f"the number {literal[:40]!r} has more than {_MAX_DIGITS} digits")
        return self._finite(node, sp.Rational(literal))

    def _name(self, node: ast.Name) -> _Folded:
        name = self._spelled(node)
        if name in _CONSTANTS and name not in self.variables:
            return _Folded(_CONSTANTS[name], float(_CONSTANTS[name]))
        if name in _FUNCTIONS and name not in self.variables:
            raise self.error(node, f"{name!r} is a function", f"Write {name}(...).")
        if not _NAME.fullmatch(name) or name.lower() in ("inf", "nan", "infinity"):
            raise self.error(node, f"{name[:40]!r} cannot be the name of a variable")
        return _Folded(sp.Symbol(name, real=True))

    def _spelled(self, node: ast.Name) -> str:
        """The name as the text has it: without an underscore that `of` put there."""
        added = node.id.startswith("_") and self.text[self._column(node.col_offset) - 1] != "_"
        return node.id[1:] if added else node.id

    def _finite(self, node: ast.expr, expression: Any) -> _Folded:
        """An expression whose arguments are numbers of moderate size, with its value."""
        try:
            value = float(expression)
        except (TypeError, ValueError, OverflowError):
            value = math.nan
        if not math.isfinite(value):
            raise self.error(node, "a constant is undefined, not real, or too large for float64")
        return _Folded(expression, value)

    def _apply(self, node: ast.expr, formula: Callable[..., Any], *arguments: _Folded) -> _Folded:
        result = formula(*(a.expression for a in arguments))
        if any(a.value is None for a in arguments):
            if result.has(sp.zoo, sp.nan, sp.oo, -sp.oo, sp.I):
                raise self.error(node, "a part of the formula is infinite or not real everywhere")
            if any(_bits(number) > _MAX_BITS for number in result.atoms(sp.Rational)):
                raise self.error(node, f"a coefficient has more than {_MAX_BITS} bits")
            return _Folded(result)
        return self._finite(node, result)

    def _chain(self, node: ast.BinOp, depth: int, kinds: tuple[type, ...], combine: Any, inverse: Any) -> _Folded:
        """a + b - c + ... in one step, so that a long sum is neither deep nor quadratic. kinds: (direct, inverse) operators."""
        operands: list[_Folded] = []
        rest: ast.expr = node
        while isinstance(rest, ast.BinOp) and isinstance(rest.op, kinds):
            operand = self.fold(rest.right, depth + 1)
            if isinstance(rest.op, ast.Div) and operand.expression.is_zero:
                raise self.error(rest.right, "division by zero")
            operands.append(self._apply(rest.right, inverse, operand) if isinstance(rest.op, kinds[1]) else operand)
            rest = rest.left
        operands.append(self.fold(rest, depth + 1))
        return self._apply(node, combine, *reversed(operands))

    def _power(self, node: ast.expr, base: _Folded, exponent: _Folded) -> _Folded:
        if base.value == 0 and exponent.value is not None and exponent.value < 0:
            raise self.error(node, "division by zero")
        if exponent.value is not None:
            # SymPy multiplies integer powers out, those of coefficients included: (3*x)**n holds 3**n.
            bits = max((_bits(number) for number in base.expression.atoms(sp.Rational)), default=1)
            if abs(exponent.value) * bits > _MAX_BITS:
                raise self.error(node, f"the power would need numbers of more than {_MAX_BITS} bits")
        return self._apply(node, lambda a, b: a**b, base, exponent)

    def _call(self, node: ast.Call, depth: int) -> _Folded:
        if not isinstance(node.func, ast.Name):
            product = isinstance(node.func, (ast.Constant, ast.BinOp))
            step = "A product needs a sign: 2*(x + 1)." if product else _STEPS.get(type(node.func), _known())
            raise self.error(node, "only a function of the list can be called", step)
        name = self._spelled(node.func)
        if name not in _FUNCTIONS:
            near = get_close_matches(name, sorted(_FUNCTIONS), n=1)
            raise self.error(
                node, f"the function {name[:40]!r} is unknown", f"Did you mean {near[0]}?" if near else _known()
            )
        if node.keywords:
            raise self.error(node, f"{name} takes no named arguments")
        expected = 3 if name == "where" else 2 if _NUMPY_NAMES.get(name) in _TWO_ARGUMENTS else 1
        if (name in _EXTREMES and not 1 < len(node.args) <= _MAX_ARGUMENTS) or (
            name not in _EXTREMES and len(node.args) != expected
        ):
            wanted = (
                "two or more arguments" if name in _EXTREMES else f"{expected} argument{'s' if expected > 1 else ''}"
            )
            raise self.error(node, f"{name} takes {wanted}, not {len(node.args)}")
        if name == "where":
            return self._where(node, depth)
        arguments = [self.fold(a, depth + 1) for a in node.args]
        if name in _EXTREMES:
            return self._apply(node, FORMULAS[_EXTREMES[name]], *arguments)
        if name == "pow":
            return self._power(node, *arguments)
        return self._apply(node, FORMULAS[_NUMPY_NAMES[name]], *arguments)

    def _where(self, node: ast.Call, depth: int) -> _Folded:
        test = node.args[0]
        if not isinstance(test, ast.Compare) or len(test.ops) != 1 or type(test.ops[0]) not in _RELATIONS:
            raise self.error(test, "where needs one comparison", "Write for example where(x < 0, -x, x).")
        left, right = self.fold(test.left, depth + 1), self.fold(test.comparators[0], depth + 1)
        relation = _RELATIONS[type(test.ops[0])](left.expression, right.expression, evaluate=False)
        a, b = (self.fold(x, depth + 1) for x in node.args[1:])
        if left.value is not None and right.value is not None:
            return a if relation.doit() == sp.true else b
        return _Folded(select(relation, a.expression, b.expression))


def _bits(number: sp.Rational) -> int:
    return max(abs(int(number.p)), int(number.q)).bit_length()


def _known() -> str:
    return f"Known functions: {', '.join(sorted(_FUNCTIONS))}."


_KINDS: Mapping[type[ast.expr], str] = MappingProxyType({
    ast.Attribute: "a dotted name", ast.Lambda: "a lambda", ast.ListComp: "a comprehension", ast.GeneratorExp: "a comprehension",
    ast.Subscript: "indexing", ast.Compare: "a comparison", ast.IfExp: "a conditional", ast.BoolOp: "and/or", ast.List: "a list",
    ast.Tuple: "a comma", ast.UnaryOp: "this sign", ast.BinOp: "this operator", ast.Starred: "a star", ast.Await: "await",
})  # fmt: skip
_STEPS: Mapping[type[ast.expr], str] = MappingProxyType({
    ast.Attribute: "Write sin(x), not np.sin(x).", ast.Compare: "Write where(x < 0, -x, x).",
    ast.IfExp: "Write where(x < 0, -x, x).", ast.BoolOp: "Nest where(...).", ast.Tuple: "Write several components as [a, b].",
    ast.List: "A list is allowed around the whole formula only.", ast.Subscript: "Give every coordinate a name of its own.",
})  # fmt: skip
