"""A target as data: an expression is a table of operations, read from and written to JSON and never evaluated as code.

Nodes are stored in topological order (arguments come before their users), so evaluation is one pass over the table and a
shared sub-expression is stored once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import flint
import numpy as np
from jaxtyping import Float

__all__ = ["CONSTANTS", "UNARY", "Expression", "ExpressionError", "Node", "plain_name"]

UNARY = (
    "exp", "log", "sin", "cos", "tan", "sinh", "cosh", "tanh", "asin", "acos", "atan", "asinh", "acosh", "atanh", "erf", "abs",
    "sinc",
)  # fmt: skip
"""Functions of one argument; sinc u is sin(u)/u, and 1 at u = 0."""
CONSTANTS = {"pi": math.pi, "e": math.e}
"""Named real constants, with their float64 value (enclosed exactly in a proof)."""
_VARIADIC = ("add", "mul", "min", "max")
_MAX_NODES = 200_000
_MAX_DIGITS = 2000


def plain_name(name: str) -> bool:
    """Whether a name reads as one symbol: a letter or _, then letters, digits, _, braces or primes; a leading backslash is allowed."""
    return len(name) <= 64 and re.fullmatch(r"\\?[^\W\d][\w{}']*", name) is not None


class ExpressionError(ValueError):
    """A stored expression is not well formed; the message names the node."""


@dataclass(frozen=True)
class Node:
    """One operation.

    op: "var" (value: index of the variable), "const" (value: "p", "p/q", "pi" or "e"), "add", "mul", "min", "max" (any number
    of arguments), "pow" (one argument, value: the exponent "p" or "p/q"; real powers, so a fractional one needs a
    non-negative base), "select" (arguments c, a, b; value ">" or ">=": a where c > 0 (c >= 0), b elsewhere), or a name in UNARY.
    """

    op: str
    args: tuple[int, ...] = ()
    value: str | None = None


@dataclass(frozen=True)
class Expression:
    """A vector of real expressions in named variables.

    nodes: the table, in topological order; outputs: the node of each component; variables: the names, in the order of the
    coordinates of a point.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]
    variables: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.outputs:
            raise ExpressionError("expression: no outputs")
        if len(self.nodes) > _MAX_NODES:
            raise ExpressionError(f"expression: {len(self.nodes)} nodes, at most {_MAX_NODES} are accepted")
        for name in self.variables:
            if not plain_name(name):
                raise ExpressionError(f"expression: variable {name[:40]!r} is not a plain name (letters, digits, _)")
        if len(set(self.variables)) != len(self.variables):
            raise ExpressionError(f"expression: repeated variables in {self.variables}")
        for i, node in enumerate(self.nodes):
            _check(i, node, len(self.variables))
        for o in self.outputs:
            if not 0 <= o < len(self.nodes):
                raise ExpressionError(f"expression: output {o} is not a node")

    @property
    def dimension(self) -> int:
        """Number of variables."""
        return len(self.variables)

    def __str__(self) -> str:
        texts = _texts(self)
        parts = [texts[o] for o in self.outputs]
        return parts[0] if len(parts) == 1 else "[" + ", ".join(parts) + "]"

    def evaluate(self, points: Float[np.ndarray, "batch n"]) -> Float[np.ndarray, "batch k"]:
        """Plain float64 values: for plots, samples and constructions, never for a proof."""
        columns = [points[:, i] for i in range(self.dimension)]
        values: list[Any] = []
        with np.errstate(all="ignore"):
            for node in self.nodes:
                values.append(_float_value(node, [values[a] for a in node.args], columns))
        return np.stack([np.broadcast_to(values[o], (len(points),)) for o in self.outputs], axis=-1).astype(np.float64)

    def enclose_point(self, point: Sequence[flint.arb]) -> list[flint.arb]:
        """Balls that contain the values at one point, at python-flint's current precision."""
        values: list[flint.arb] = []
        for node in self.nodes:
            values.append(_arb_value(node, [values[a] for a in node.args], point))
        return [values[o] for o in self.outputs]

    def to_json(self) -> dict[str, Any]:
        """A plain structure of lists and strings."""
        rows = [[n.op, list(n.args), n.value] for n in self.nodes]
        return {"variables": list(self.variables), "nodes": rows, "outputs": list(self.outputs)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Expression:
        """The inverse of `to_json`. Raises ExpressionError for anything else."""
        try:
            nodes = tuple(
                Node(_text(op), tuple(_index(a) for a in args), None if v is None else _text(v))
                for op, args, v in data["nodes"]
            )
            outputs = tuple(_index(o) for o in data["outputs"])
            variables = tuple(_text(v) for v in data["variables"])
        except (KeyError, TypeError, ValueError) as error:
            raise ExpressionError(f"expression: not readable ({error})") from error
        return Expression(nodes, outputs, variables)


def _text(x: Any) -> str:
    if not isinstance(x, str):
        raise TypeError(f"{x!r} is not text")
    return x


def _index(x: Any) -> int:
    if isinstance(x, bool) or not isinstance(x, int):
        raise TypeError(f"{x!r} is not an index")
    return x


def rational(text: str) -> Fraction:
    """ "p" or "p/q" as an exact fraction; refuses anything else (in particular huge exponents such as "1e999999")."""
    body = text[1:] if text[:1] == "-" else text
    if len(text) > _MAX_DIGITS or not all(part.isascii() and part.isdigit() for part in body.split("/", 1)):
        raise ExpressionError(
            f"expression: {text[:40]!r} is not a rational number p or p/q of at most {_MAX_DIGITS} characters"
        )
    try:
        return Fraction(text)
    except ZeroDivisionError as error:
        raise ExpressionError(f"expression: {text[:40]!r} divides by zero") from error


def _check(i: int, node: Node, variables: int) -> None:
    where = f"expression: node {i} ({node.op!r})"
    if any(not 0 <= a < i for a in node.args):
        raise ExpressionError(f"{where}: arguments must be earlier nodes, got {node.args}")
    count, value = len(node.args), node.value
    if node.op == "var":
        number = value is not None and len(value) <= 9 and value.isascii() and value.isdigit()
        if count or value is None or not number or int(value) >= variables:
            raise ExpressionError(f"{where}: {(value or '')[:20]!r} is not one of the {variables} variables")
    elif node.op == "const":
        if count or value is None:
            raise ExpressionError(f"{where}: takes a value and no arguments")
        if value not in CONSTANTS:
            rational(value)
    elif node.op == "pow":
        if count != 1 or value is None:
            raise ExpressionError(f"{where}: takes one argument and an exponent")
        p = rational(value)
        if abs(p) > 10_000 or p.denominator > 2**64:
            raise ExpressionError(
                f"{where}: exponent {value} is outside [-10000, 10000] or has a denominator above 2^64"
            )
    elif node.op == "select":
        if count != 3 or value not in (">", ">="):
            raise ExpressionError(f"{where}: takes three arguments and '>' or '>='")
    elif node.op in _VARIADIC:
        if count < 1 or value is not None:
            raise ExpressionError(f"{where}: takes at least one argument")
    elif node.op in UNARY:
        if count != 1 or value is not None:
            raise ExpressionError(f"{where}: takes one argument")
    else:
        raise ExpressionError(f"{where}: unknown operation")


def _float_value(node: Node, args: list[Any], columns: list[np.ndarray]) -> Any:
    if node.op == "var":
        return columns[int(node.value or 0)]
    if node.op == "const":
        value = node.value or "0"
        return np.float64(CONSTANTS[value] if value in CONSTANTS else _float_rational(value))
    if node.op == "pow":
        return _float_power(args[0], Fraction(node.value or "1"))
    if node.op == "select":
        hit = args[0] > 0 if node.value == ">" else args[0] >= 0
        return np.where(hit, args[1], args[2])
    if node.op == "erf":
        from scipy.special import erf

        return erf(args[0])
    if node.op == "sinc":  # NumPy's is sin(pi u)/(pi u)
        return np.where(args[0] == 0, 1.0, np.sin(args[0]) / args[0])
    if node.op in _VARIADIC:
        step: Callable[[Any, Any], Any] = {"add": np.add, "mul": np.multiply, "min": np.minimum, "max": np.maximum}[
            node.op
        ]
        out = args[0]
        for a in args[1:]:
            out = step(out, a)
        return out
    names = {
        "asin": "arcsin",
        "acos": "arccos",
        "atan": "arctan",
        "asinh": "arcsinh",
        "acosh": "arccosh",
        "atanh": "arctanh",
    }
    return getattr(np, names.get(node.op, node.op))(args[0])


def _float_rational(text: str) -> float:
    q = Fraction(text)
    try:
        return q.numerator / q.denominator
    except OverflowError:
        return math.inf if q > 0 else -math.inf


def _float_power(base: Any, p: Fraction) -> Any:
    if p.denominator == 1:
        return np.power(base, float(p.numerator))
    if p == Fraction(1, 2):
        return np.sqrt(base)
    return np.power(base, float(p))


def _arb_rational(text: str) -> flint.arb:
    q = Fraction(text)
    return flint.arb(flint.fmpq(q.numerator, q.denominator))


def _arb_value(node: Node, args: list[flint.arb], point: Sequence[flint.arb]) -> flint.arb:
    if node.op == "var":
        return point[int(node.value or 0)]
    if node.op == "const":
        value = node.value or "0"
        return flint.arb.pi() if value == "pi" else flint.arb(1).exp() if value == "e" else _arb_rational(value)
    if node.op == "pow":
        q = Fraction(node.value or "1")
        if q.denominator == 1:
            return args[0] ** q.numerator if q >= 0 else 1 / args[0] ** (-q.numerator)
        root = args[0].sqrt() if q.denominator == 2 else None
        if root is not None:
            return root**q.numerator if q >= 0 else 1 / root ** (-q.numerator)
        if args[0] == 0 and q > 0:
            return flint.arb(0)
        return args[0] ** flint.arb(flint.fmpq(q.numerator, q.denominator))
    if node.op == "select":
        c = args[0]
        if c > 0 or (node.value == ">=" and c == 0):
            return args[1]
        if c < 0 or (node.value == ">" and c == 0):
            return args[2]
        return args[1].union(args[2])
    if node.op in ("add", "mul", "min", "max"):
        out = args[0]
        for a in args[1:]:
            out = (
                out + a
                if node.op == "add"
                else out * a
                if node.op == "mul"
                else out.min(a)
                if node.op == "min"
                else out.max(a)
            )
        return out
    if node.op == "abs":
        return abs(args[0])
    return getattr(args[0], node.op)()


_PRECEDENCE = {"add": 1, "mul": 2, "pow": 3}


def _texts(expression: Expression) -> list[str]:
    """Readable text of every node, long ones abbreviated."""
    out: list[tuple[str, int]] = []

    def wrap(i: int, level: int) -> str:
        text, own = out[i]
        return f"({text})" if own < level else text

    for node in expression.nodes:
        level = 4
        if node.op == "var":
            text = expression.variables[int(node.value or 0)]
        elif node.op == "const":
            text = node.value or "0"
            if len(text) > 24:
                text = repr(_float_rational(text))
            level = 1 if text.startswith("-") else 2 if "/" in text else 4
        elif node.op == "add":
            text, level = " + ".join(wrap(a, 1) for a in node.args).replace("+ -", "- "), 1
        elif node.op == "mul":
            text, level = "*".join(wrap(a, 2) for a in node.args), 2
            text = "-" + text[3:] if text.startswith("-1*") else text.replace("(-1)*", "-", 1)
            level = 1 if text.startswith("-") else 2
        elif node.op == "pow":
            if node.value == "1/2":
                text = f"sqrt({out[node.args[0]][0]})"
            elif node.value == "-1":
                text, level = "1/" + wrap(node.args[0], 4), 2
            else:
                exponent = node.value or ""
                text, level = wrap(node.args[0], 4) + "**" + (exponent if exponent.isdigit() else f"({exponent})"), 3
        elif node.op == "select":
            c, a, b = (out[j][0] for j in node.args)
            text = f"({a} if {c} {node.value} 0 else {b})"
        else:
            text = f"{node.op}(" + ", ".join(out[a][0] for a in node.args) + ")"
        if len(text) > 400:
            text, level = text[:396] + " ...", 4
        out.append((text, level))
    return [t for t, _ in out]
