"""A function continued beyond the ends of its domain: u^(p/q) as max(u, 0)^(p/q), asin and acos of an argument kept in [-1, 1].

Wherever the function is defined the continuation has the same value. A head may read its argument a little outside; there it is compared
with the continuation.
"""

from __future__ import annotations

from fractions import Fraction

from verify.expression import Expression, Node

__all__ = ["continued"]


def continued(expression: Expression) -> Expression:
    """The expression with every positive fractional power, asin and acos continued."""
    table: list[Node] = []
    at: list[int] = []

    def put(op: str, args: tuple[int, ...] = (), value: str | None = None) -> int:
        table.append(Node(op, args, value))
        return len(table) - 1

    for node in expression.nodes:
        args = tuple(at[a] for a in node.args)
        if node.op == "pow" and Fraction(node.value or "1").denominator > 1 and Fraction(node.value or "1") > 0:
            args = (put("max", (args[0], put("const", (), "0"))),)
        elif node.op in ("asin", "acos"):
            above = put("max", (args[0], put("const", (), "-1")))
            args = (put("min", (above, put("const", (), "1"))),)
        at.append(put(node.op, args, node.value))
    return Expression(tuple(table), tuple(at[o] for o in expression.outputs), expression.variables)
