"""The circuit in SymPy form: nodes that are functions of one affine form (or two), outputs that are affine in everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp
from jaxtyping import Float

from constructions.from_sympy import from_sympy
from verify.circuit import Circuit, CircuitNode

__all__ = ["IR", "Z1", "Z2", "Node", "Z", "composed", "depths", "node_symbol", "node_values", "replaced", "to_circuit"]

Z = sp.Symbol("z", real=True)
"""What a node of one affine form is a function of."""
Z1 = sp.Symbol("z1", real=True)
Z2 = sp.Symbol("z2", real=True)
"""What a node of two affine forms is a function of."""


def node_symbol(i: int) -> sp.Symbol:
    """The value of node i, as later nodes and the outputs read it."""
    return sp.Symbol(f"n{i}", real=True)


def replaced(e: sp.Expr, new: Mapping[Any, Any]) -> sp.Expr:
    """The expression with symbols replaced, all at once."""
    out: Any = e.xreplace(dict(new))
    return out


@dataclass(frozen=True)
class Node:
    """One head's work. reads: one or two expressions, affine in the variables and in earlier nodes; function: of z, or of z1 and z2."""

    reads: tuple[sp.Expr, ...]
    function: sp.Expr

    @property
    def arguments(self) -> tuple[sp.Symbol, ...]:
        """(z,) or (z1, z2)."""
        return (Z,) if len(self.reads) == 1 else (Z1, Z2)


@dataclass(frozen=True)
class IR:
    """nodes: in topological order; outputs: affine in the variables and in the nodes."""

    variables: tuple[sp.Symbol, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[sp.Expr, ...]


def to_circuit(ir: IR) -> Circuit:
    """The same circuit in the kernel's table form. Raises what `from_sympy` raises for a function the kernel cannot enclose."""
    names = [v.name for v in ir.variables]
    nodes = []
    for i, node in enumerate(ir.nodes):
        known = [*names, *(f"n{j}" for j in range(i))]
        function = from_sympy([node.function], [a.name for a in node.arguments])
        nodes.append(CircuitNode(from_sympy(node.reads, known), function))
    outputs = from_sympy(ir.outputs, [*names, *(f"n{j}" for j in range(len(ir.nodes)))])
    return Circuit(tuple(names), tuple(nodes), outputs)


def composed(ir: IR) -> tuple[sp.Expr, ...]:
    """The outputs as functions of the variables alone."""
    values: dict[sp.Basic, sp.Basic] = {}
    for i, node in enumerate(ir.nodes):
        reads = [replaced(r, values) for r in node.reads]
        values[node_symbol(i)] = replaced(node.function, dict(zip(node.arguments, reads, strict=True)))
    return tuple(replaced(o, values) for o in ir.outputs)


def depths(ir: IR) -> tuple[int, ...]:
    """Layer of each node, from 1: one more than the deepest node that it reads."""
    found: dict[sp.Basic, int] = {}
    for i, node in enumerate(ir.nodes):
        read = {s for r in node.reads for s in r.free_symbols}
        found[node_symbol(i)] = 1 + max((found.get(s, 0) for s in read), default=0)
    return tuple(found.values())


def node_values(
    ir: IR, points: Float[np.ndarray, "batch n"]
) -> tuple[Float[np.ndarray, "batch nodes"], Float[np.ndarray, "batch k"]]:
    """Float64 values of every node and of every output at the points: node by node, as the model will compute them."""
    names, columns = [v.name for v in ir.variables], points
    for i, node in enumerate(ir.nodes):
        reads = affine_values(node.reads, names, columns)
        value = from_sympy([node.function], [a.name for a in node.arguments]).evaluate(reads)
        names, columns = [*names, f"n{i}"], np.concatenate([columns, value], axis=1)
    return columns[:, points.shape[1] :], affine_values(ir.outputs, names, columns)


def affine_values(
    forms: Sequence[sp.Expr], names: Sequence[str], columns: Float[np.ndarray, "batch m"]
) -> Float[np.ndarray, "batch k"]:
    """Values of affine forms in the named columns."""
    at = {name: i for i, name in enumerate(names)}
    out = np.zeros((len(columns), len(forms)))
    for k, form in enumerate(forms):
        for term in sp.Add.make_args(form):
            symbols = [str(s) for s in term.free_symbols]  # affine: one symbol a term, or none
            coefficient: Any = term.as_independent(*term.free_symbols, as_Add=False)[0] if symbols else term
            out[:, k] += float(coefficient) * (columns[:, at[symbols[0]]] if symbols else 1.0)
    return out
