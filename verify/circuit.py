"""A circuit: univariate (or bivariate) functions of affine read-outs, the form in which deep models are proved.

Node i has the value function(reads(x, n_0, ..., n_{i-1})), with reads affine in the variables and in earlier nodes. A circuit is a
hint: whatever it says about a model is derived again from the model's weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from verify.expression import Expression, Node

__all__ = ["Circuit", "CircuitError", "CircuitHint", "CircuitNode", "table_size", "used_variables"]


class CircuitError(ValueError):
    """A circuit that is not well formed; the message names the node."""


@dataclass(frozen=True)
class CircuitNode:
    """One head's work. reads: m = 1 or 2 outputs, affine in the circuit's variables and in n0, n1, ... of earlier nodes; function: one
    output in z (m = 1), or in z1, z2 (m = 2)."""

    reads: Expression
    function: Expression


@dataclass(frozen=True)
class Circuit:
    """nodes in topological order; outputs: k, affine in the variables and all nodes. Raises CircuitError if the names do not fit."""

    variables: tuple[str, ...]
    nodes: tuple[CircuitNode, ...]
    outputs: Expression

    def __post_init__(self) -> None:
        for i, node in enumerate(self.nodes):
            m = len(node.reads.outputs)
            if m not in (1, 2) or node.function.variables != (("z",) if m == 1 else ("z1", "z2")):
                raise CircuitError(f"circuit: node {i} reads {m} forms, its function is of {node.function.variables}")
            if node.reads.variables != self.names(i) or len(node.function.outputs) != 1:
                raise CircuitError(f"circuit: node {i} reads {node.reads.variables}, expected {self.names(i)}")
        if self.outputs.variables != self.names(len(self.nodes)):
            raise CircuitError(f"circuit: outputs in {self.outputs.variables}")

    def names(self, nodes: int) -> tuple[str, ...]:
        """The variables, then the first so many nodes."""
        return (*self.variables, *(f"n{i}" for i in range(nodes)))

    def depths(self) -> tuple[int, ...]:
        """Layer of each node, from 0: one more than the deepest node it reads."""
        out: list[int] = []
        n = len(self.variables)
        for i, node in enumerate(self.nodes):
            used = used_variables(node.reads)
            out.append(1 + max((out[j] for j in range(i) if n + j in used), default=-1))
        return tuple(out)

    def composed(self) -> Expression:
        """The function the circuit computes, as one expression in the variables alone."""
        table: list[Node] = [Node("var", (), str(i)) for i in range(len(self.variables))]
        values = list(range(len(self.variables)))
        for node in self.nodes:
            read = _append(table, node.reads, values)
            values.append(_append(table, node.function, read)[0])
        outputs = _append(table, self.outputs, values)
        return Expression(tuple(table), tuple(outputs), self.variables)


def used_variables(expression: Expression) -> set[int]:
    """Indices of the variables that occur in an expression's outputs."""
    reached, work = set(), list(expression.outputs)
    while work:
        i = work.pop()
        if i not in reached:
            reached.add(i)
            work += expression.nodes[i].args
    return {int(expression.nodes[i].value or 0) for i in reached if expression.nodes[i].op == "var"}


def _append(table: list[Node], expression: Expression, variables: list[int]) -> list[int]:
    """Copy an expression into a table, its variables replaced by nodes of the table; returns its outputs."""
    at: list[int] = []
    for node in expression.nodes:
        if node.op == "var":
            at.append(variables[int(node.value or 0)])
        else:
            table.append(Node(node.op, tuple(at[a] for a in node.args), node.value))
            at.append(len(table) - 1)
    return [at[o] for o in expression.outputs]


def table_size(circuit: Circuit) -> int:
    """Rows of all its tables."""
    return len(circuit.outputs.nodes) + sum(len(n.reads.nodes) + len(n.function.nodes) for n in circuit.nodes)


@dataclass(frozen=True)
class CircuitHint:
    """Where a model holds a circuit. places: (layer, head, slot) of each node; tolerances: the errors its heads were built for (a proof may
    start from them, nothing depends on them)."""

    circuit: Circuit
    places: tuple[tuple[int, int, int], ...]
    tolerances: tuple[float, ...]

    def __post_init__(self) -> None:
        count = len(self.circuit.nodes)
        if len(self.places) != count or len(self.tolerances) != count:
            raise CircuitError(f"circuit: {count} nodes, {len(self.places)} places, {len(self.tolerances)} tolerances")
        for i, place in enumerate(self.places):
            if len(place) != 3 or any(isinstance(x, bool) or not isinstance(x, int) for x in place):
                raise CircuitError(f"circuit: the place of node {i} is {place!r}, expected (layer, head, slot)")

    def to_json(self) -> dict[str, Any]:
        """A plain structure; floats as hexadecimal text."""
        return {
            "variables": list(self.circuit.variables),
            "nodes": [[n.reads.to_json(), n.function.to_json()] for n in self.circuit.nodes],
            "outputs": self.circuit.outputs.to_json(),
            "places": [list(p) for p in self.places],
            "tolerances": [float(t).hex() for t in self.tolerances],
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> CircuitHint:
        """The inverse of `to_json`. Raises CircuitError or ExpressionError for anything else."""
        try:
            nodes = tuple(CircuitNode(Expression.from_json(r), Expression.from_json(f)) for r, f in data["nodes"])
            variables = tuple(data["variables"])
            if not isinstance(data["variables"], list) or not all(isinstance(v, str) for v in variables):
                raise CircuitError("circuit: 'variables' is not a list of names")
            circuit = Circuit(variables, nodes, Expression.from_json(data["outputs"]))
            places = tuple((l, h, s) for l, h, s in data["places"])
            return CircuitHint(circuit, places, tuple(float.fromhex(t) for t in data["tolerances"]))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            if isinstance(error, CircuitError) or type(error).__name__ == "ExpressionError":
                raise
            raise CircuitError(f"circuit: not readable ({error!r})") from error
