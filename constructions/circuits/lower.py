"""From a circuit to a model: heads for its nodes, slots and layers for its values, one fixed universal backbone under it all.

The backbone depends on numbers of slots, heads and layers only (`backbone`): the stream is (inputs, work slots, output slots, 1), every head has
identity matrices, every layer is residual, and the readout selects the output slots. A token's key says what is read, (a U + b e_const)
with U the coefficients of the read-out on the slots, its value what is written and where.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp
from jaxtyping import Float

from constructions.circuits.ir import IR, Node, Z, node_symbol, to_circuit
from verify import Box, Head, Layer, Prefix, Transformer
from verify.circuit import Circuit, CircuitHint
from verify.circuit_ranges import affine_form

__all__ = ["Lowered", "NodeTokens", "backbone", "lower", "normalised"]


@dataclass(frozen=True, eq=False)
class NodeTokens:
    """One node's head. slopes: (tokens, m) in what it reads; biases, values: (tokens,); error: sampled sup error over its range."""

    slopes: Float[np.ndarray, "tokens m"]
    biases: Float[np.ndarray, " tokens"]
    values: Float[np.ndarray, " tokens"]
    error: float


@dataclass(frozen=True, eq=False)
class Lowered:
    """A model that holds a circuit. slot_names: what each slot of the stream is called."""

    model: Transformer
    prefix: Prefix
    hint: CircuitHint
    slot_names: tuple[str, ...]


def backbone(inputs: int, work: int, outputs: int, heads: Sequence[int]) -> Transformer:
    """The universal backbone: the same weights for every function with these numbers of slots, and of heads in each layer."""
    d = inputs + work + outputs + 1
    eye = np.eye(d)
    offset = np.zeros(d)
    offset[-1] = 1.0
    layers = tuple(Layer((Head(eye, eye),) * count, residual=True) for count in heads)
    return Transformer(eye[:, :inputs], offset, layers, eye[inputs + work : d - 1])


def normalised(ir: IR) -> IR:
    """The same functions with every output a plain sum of nodes: factors and constants are absorbed into nodes that nothing else reads; for what
    is left (inputs, shared nodes) a node is added that reads it and hands it on."""
    nodes = list(ir.nodes)
    symbols = [node_symbol(i) for i in range(len(nodes))]
    used = [sum(r.has(s) for node in nodes for r in node.reads) + sum(o.has(s) for o in ir.outputs) for s in symbols]
    outputs: list[sp.Expr] = []
    for output in ir.outputs:
        rest: sp.Expr = sp.expand(output)
        total: Any = sp.Integer(0)
        for i, s in enumerate(symbols):
            factor = rest.coeff(s)
            if factor != 0 and used[i] == 1 and not any(o.has(s) for o in outputs):
                nodes[i] = Node(nodes[i].reads, factor * nodes[i].function)
                rest, total = sp.expand(rest - factor * s), total + s
        if rest.free_symbols:
            nodes.append(Node((rest,), Z))
            total, rest = sp.Add(total, node_symbol(len(nodes) - 1)), sp.Integer(0)
        written = total.free_symbols
        if rest != 0 or total == 0:
            last = max((i for i in range(len(nodes)) if node_symbol(i) in written), default=None)
            if last is None:
                nodes.append(Node((sp.Integer(0) * ir.variables[0],), rest + sp.Integer(0)))
                total = node_symbol(len(nodes) - 1)
            else:
                nodes[last] = Node(nodes[last].reads, nodes[last].function + rest)
        outputs.append(sp.sympify(total))
    return IR(ir.variables, tuple(nodes), tuple(outputs))


def lower(ir: IR, domain: Box, heads: Sequence[NodeTokens], circuit: Circuit | None = None) -> Lowered:
    """Assemble the model for a normalised circuit, given the head of each node."""
    circuit = to_circuit(ir) if circuit is None else circuit
    n, k = len(circuit.variables), len(ir.outputs)
    target = _output_of(ir)
    work = [i for i in range(len(ir.nodes)) if _read_by_others(ir, i) or i not in target]
    d = n + len(work) + k + 1
    slots = {i: n + work.index(i) if i in work else n + len(work) + target[i] for i in range(len(ir.nodes))}
    copies = [(i, n + len(work) + target[i]) for i in work if i in target]  # read by others and an output, too
    if copies:
        raise ValueError("an output that other nodes read needs a node of its own: normalise the circuit first")
    depths = circuit.depths()
    layers: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(max(depths) + 1)]
    places: list[tuple[int, int, int]] = []
    for i, node in enumerate(circuit.nodes):
        form = affine_form(node.reads)
        assert form is not None
        rows = np.zeros((form.shape[0], d))
        rows[:, :n] = form.mid[:, :n]
        for j in range(i):
            rows[:, slots[j]] = np.where(form.mid[:, n + j] != 0, form.mid[:, n + j], rows[:, slots[j]])
        rows[:, -1] = form.mid[:, -1]
        head = heads[i]
        keys = head.slopes @ rows
        keys[:, -1] += head.biases
        values = np.zeros((len(head.values), d))
        values[:, slots[i]] = head.values
        layer = depths[i]
        places.append((layer, len(layers[layer]), slots[i]))
        layers[layer].append((keys, values))
    model = backbone(n, len(work), k, [len(layer) for layer in layers])
    prefix = Prefix(
        tuple(tuple(keys for keys, _ in layer) for layer in layers),
        tuple(tuple(values for _, values in layer) for layer in layers),
    )
    hint = CircuitHint(circuit, tuple(places), tuple(max(float(h.error), 1e-15) for h in heads))
    names = (*circuit.variables, *(f"n{i}" for i in work), *(f"out{i}" for i in range(k)), "1")
    return Lowered(model, prefix, hint, names)


def _output_of(ir: IR) -> dict[int, int]:
    """Which output each node is a summand of."""
    return {i: o for o, output in enumerate(ir.outputs) for i in range(len(ir.nodes)) if output.has(node_symbol(i))}


def _read_by_others(ir: IR, i: int) -> bool:
    return any(r.has(node_symbol(i)) for node in ir.nodes for r in node.reads)
