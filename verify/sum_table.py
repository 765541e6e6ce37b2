"""A sum of powers of atoms written out as an expression table, for enclosures of its range."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from verify.expression import Expression, Node

__all__ = ["table_of"]

Sum = Mapping[tuple[tuple[tuple[int, Fraction | int], ...], int], Fraction]


def table_of(
    s: Sum,
    atoms: Sequence[tuple[str, tuple[int, ...], str]],
    sums: Sequence[Sum],
    dimension: int,
    spend: Callable[[int], None],
) -> Expression:
    """The table of a sum in x0, x1, ...; atoms: kind, arguments (numbers of sums) and value; spend: told the work. Raises
    ExpressionError for constants and exponents that a table refuses."""
    nodes: list[Node] = []
    index: dict[Node, int] = {}
    done: dict[tuple[str, int], int] = {}

    def add(op: str, *args: int, value: str | None = None) -> int:
        node = Node(op, args, value)
        if node not in index:
            index[node] = len(nodes)
            nodes.append(node)
        return index[node]

    def of_sum(number: int) -> int:
        if ("sum", number) not in done:
            done["sum", number] = of_terms(sums[number])
        return done["sum", number]

    def of_atom(atom: int) -> int:
        if ("atom", atom) not in done:
            kind, args, value = atoms[atom]
            if kind in ("var", "select"):
                made = add(kind, *map(of_sum, args), value=value)
            elif kind in ("pi", "prime"):
                made = add("const", value=value or "pi")
            elif kind in ("sum", "neg"):
                made = of_sum(args[0])
                made = made if kind == "sum" else add("mul", add("const", value="-1"), made)
            else:
                made = add(kind, of_sum(args[0]))
            done["atom", atom] = made
        return done["atom", atom]

    def of_terms(terms: Sum) -> int:
        rows = []
        for (powers, w), c in terms.items():
            row = [of_atom(a) if q == 1 else add("pow", of_atom(a), value=str(q)) for a, q in powers]
            row += [add("exp", of_sum(w))] if w else []
            row += [add("const", value=str(c))] if c != 1 or not row else []
            rows.append(row[0] if len(row) == 1 else add("mul", *row))
        return rows[0] if len(rows) == 1 else add("add", *rows) if rows else add("const", value="0")

    output = of_terms(s)
    spend(20 * len(nodes))
    return Expression(tuple(nodes), (output,), tuple(f"x{i}" for i in range(dimension)))
