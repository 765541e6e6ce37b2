"""From a builder's nodes to a circuit: unused nodes dropped, coefficients of the outputs absorbed into the nodes' functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy as sp

from constructions.circuits.ir import IR, Node, Z, node_symbol, replaced

__all__ = ["absorbed", "pruned"]


def pruned(ir: IR) -> IR:
    """The circuit without nodes that no output depends on, numbered anew."""
    needed = {s for o in ir.outputs for s in o.free_symbols}
    for i in range(len(ir.nodes) - 1, -1, -1):
        if node_symbol(i) in needed:
            needed |= {s for r in ir.nodes[i].reads for s in r.free_symbols}
    kept = [i for i in range(len(ir.nodes)) if node_symbol(i) in needed]
    new = {node_symbol(old): node_symbol(i) for i, old in enumerate(kept)}
    nodes = tuple(Node(tuple(replaced(r, new) for r in ir.nodes[i].reads), ir.nodes[i].function) for i in kept)
    return IR(ir.variables, nodes, tuple(replaced(o, new) for o in ir.outputs))


def absorbed(ir: IR) -> IR:
    """Every output a plain sum of nodes, as far as possible.

    A node that one output alone uses takes its coefficient there, one of them the constant too. What an output reads of the variables
    goes into a node of its own use whose read is parallel to it, or becomes a node with function z. Shared nodes keep their
    coefficients in the outputs.
    """
    nodes, outputs = list(ir.nodes), list(ir.outputs)
    for k in range(len(outputs)):
        form = _Form(outputs[k], ir.variables)
        own = [i for i in form.nodes if _uses(nodes, outputs, node_symbol(i)) == 1]
        for i in own:
            nodes[i] = Node(nodes[i].reads, form.nodes[i] * nodes[i].function)
            form.nodes[i] = sp.S.One
        for i in own:
            factor = _ratio(form.linear, nodes[i], ir.variables)
            if factor is not None and form.linear:
                offset = nodes[i].reads[0].as_independent(*nodes[i].reads[0].free_symbols, as_Add=True)[0]
                nodes[i] = Node(nodes[i].reads, nodes[i].function + factor * (Z - offset))
                form.linear = {}
        if form.linear:
            read = sp.Add(*(c * v for v, c in form.linear.items()))
            nodes.append(Node((read,), Z + form.offset))
            form.nodes[len(nodes) - 1], form.linear, form.offset = sp.S.One, {}, sp.S.Zero
        elif own and form.offset != 0:
            nodes[own[0]] = Node(nodes[own[0]].reads, nodes[own[0]].function + form.offset)
            form.offset = sp.S.Zero
        outputs[k] = form.expression()
    return IR(ir.variables, tuple(nodes), tuple(outputs))


class _Form:
    """An output as coefficients of nodes and of variables, and a constant."""

    def __init__(self, output: sp.Expr, variables: Sequence[sp.Symbol]) -> None:
        self.nodes: dict[int, sp.Expr] = {}
        self.linear: dict[sp.Symbol, sp.Expr] = {}
        self.offset: sp.Expr = sp.S.Zero
        for term in sp.Add.make_args(sp.expand(output)):
            symbols = term.free_symbols
            if not symbols:
                self.offset += term
                continue
            symbol: Any = next(iter(symbols))  # affine: one symbol a term
            coefficient = term / symbol
            if symbol in variables:
                self.linear[symbol] = self.linear.get(symbol, sp.S.Zero) + coefficient
            else:
                i = int(symbol.name[1:])
                self.nodes[i] = self.nodes.get(i, sp.S.Zero) + coefficient

    def expression(self) -> sp.Expr:
        return sp.Add(*(c * node_symbol(i) for i, c in self.nodes.items()), self.offset)


def _uses(nodes: Sequence[Node], outputs: Sequence[sp.Expr], symbol: sp.Symbol) -> int:
    reads = [r for n in nodes for r in n.reads]
    return sum(symbol in e.free_symbols for e in [*reads, *outputs])


def _ratio(linear: dict[sp.Symbol, sp.Expr], node: Node, variables: Sequence[sp.Symbol]) -> sp.Expr | None:
    """The factor c with linear = c read, up to a constant."""
    if len(node.reads) != 1 or node.reads[0].free_symbols != set(linear) or not set(linear) <= set(variables):
        return None
    ratios = {sp.cancel(c / node.reads[0].coeff(v)) for v, c in linear.items()}
    return ratios.pop() if len(ratios) == 1 else None
