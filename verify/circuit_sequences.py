"""Proof of a circuit on sequences: one layer gathers the tokens, then the circuit's heads run alike at every token.

The stream of token t: its own inputs (n slots), its position (T slots, one-hot), gathered slots, work slots, output slots, the constant 1.

*Layer 0* attends to the data tokens, its scores come from positions alone: it is an affine map of the flattened sequence, known as balls
(`gathered.first_layer`). So each slot holds a coordinate of the sequence, or nothing, within

    sum |A_s - unit vector| sup |x| + |c_s| + rounding.

Where a row of A is nearest to a unit vector decides which: nothing is believed about what is gathered from where. With T heads of layer 0 the
circuit's T n variables are what was gathered; with T - 1, the token's own inputs and then what was gathered (each token may see the
sequence turned around). A token's own inputs, its position and the constant are exact: layer 0 writes nothing there.

*The other layers* are `circuit_stream`, once for every token t. Keys may read the position: those entries count as constants at t. A node
placed in a slot that is read out takes part at t if the circuit's output for t mentions it; elsewhere its head is shown to be silent.

At token t the output slots then hold sums of nodes, functions of what token t sees; put in terms of the sequence these must *equal* the
target's outputs of position t. The bound is the largest over tokens.

A node may be undefined where nothing depends on it. None is here: each is used by some output, and what the tokens see are permutations
of the sequence that leave the box as it is, so the identities show every node to be defined all over the box.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from threadpoolctl import threadpool_limits

from verify.ball import TINY, UP, U, gamma
from verify.bisection import Progress
from verify.certificate import Certificate
from verify.circuit import CircuitHint, used_variables
from verify.circuit_proof import (
    UNREADABLE,
    circuit_outputs,
    copies_only,
    decided,
    equals_target,
    every_node_is_needed,
    of_reasonable_size,
    read_out,
    samples,
    witness_among,
)
from verify.circuit_ranges import ranges
from verify.circuit_stream import Execution, Heads, Refused, Stream, through_layers
from verify.expression import Expression
from verify.gathered import first_layer, within_floats
from verify.model import Prefix, Transformer
from verify.sequences import Sequences
from verify.target import ExpressionTarget

__all__ = ["bound_on_sequences", "prove_circuit_on_sequences", "taking_part"]


@dataclass(frozen=True)
class _Layout:
    """variables: the slot of each of the circuit's variables; outputs: the slots read out; own: slots that no head may write to."""

    variables: tuple[int, ...]
    outputs: tuple[int, ...]
    own: int


def prove_circuit_on_sequences(
    model: Transformer,
    prefix: Prefix,
    target: ExpressionTarget,
    domain: Sequences,
    eps: float,
    hint: CircuitHint,
    *,
    seconds: float = math.inf,
    progress: Progress | None = None,
) -> Certificate:
    """Prove or refute |model - target| <= eps for every sequence of the domain's box, with a circuit as a hint; gaps are not used.

    target: T k outputs in the T n flattened variables, token-major, known to be defined on the box. hint: its places count layers from the one
    that gathers, 0; its outputs say which nodes each token's outputs are made of. Undecided where the hint does not lead there.
    """
    report = progress or (lambda done, words: None)
    deadline = time.monotonic() + seconds
    with np.errstate(all="ignore"), threadpool_limits(1, "blas"):
        lower, witness = 0.0, None
        try:
            within_floats(model, prefix, domain)
            points = samples(domain.flattened)
            lower, witness = witness_among(model, prefix, target, points.reshape(len(points), domain.T, -1))
            if lower > eps:
                return decided(eps, lower, witness)
            of_reasonable_size(hint, domain.flattened.dimension)
            heads = Heads(prefix, hint, ranges(hint.circuit, domain.flattened), eps, deadline, report)
            upper = bound_on_sequences(model, target, domain, heads)
        except UNREADABLE as error:
            return decided(eps, lower, witness, refusal=str(error))
    route = "a posteriori: a circuit of single heads after a layer that gathers, each by Taylor models on boxes"
    return decided(eps, lower, witness, upper, heads.boxes, route)


def bound_on_sequences(
    model: Transformer,
    target: ExpressionTarget,
    domain: Sequences,
    heads: Heads,
    execution: Execution | None = None,
    gathered: Callable[[Stream, int], Stream] = lambda stream, t: stream,
) -> float:
    """A bound of |model - target| for every sequence, for the real function, its float64 execution and one more. gathered: token t's stream
    after layer 0, its errors enlarged to hold for that one. Raises Refused where the circuit does not lead there."""
    layout = _layout(model, heads.prefix, heads.hint, domain)
    box, k = domain.flattened, model.outputs
    worst, needed = 0.0, set[int]()
    for t in range(domain.T):
        stream, seen = _gathered(model, heads.prefix, domain, layout, t)
        stream = gathered(stream, t)
        live = taking_part(heads.hint, layout.outputs, t)
        through_layers(heads, stream, range(1, len(model.layers)), lambda i, live=live: i in live, execution)
        needed |= {v for s in layout.outputs for v in stream.holds.get(s, [])}
        composed = _in_terms_of(circuit_outputs(heads.hint, list(layout.outputs), stream), seen)
        table = target.expression
        own = ExpressionTarget(replace(table, outputs=table.outputs[t * k : (t + 1) * k]))
        equals_target(composed, own, box)
        worst = float(np.max([worst, *stream.error[list(layout.outputs)]]))  # NaN stays
    every_node_is_needed(heads.hint, needed)
    return worst * (1 + 4 * U) + TINY


def _layout(model: Transformer, prefix: Prefix, hint: CircuitHint, domain: Sequences) -> _Layout:
    """Where things are. Raises Refused for a model that is not of the kind described above."""
    n, d, T = model.inputs, model.embedding.shape[0], domain.T
    eye = np.eye(d)
    if not (np.array_equal(model.embedding, eye[:, :n]) and np.array_equal(model.offset, eye[-1])):
        raise Refused("the embedding does not put a token into the first slots and 1 into the last")
    if d <= n + T or model.positions is None or not np.array_equal(model.positions, eye[n : n + T]):
        raise Refused(f"the positions are not one-hot in slots {n} to {n + T - 1}")
    first = model.layers[0]
    if not first.residual or not all(head.normalised for head in first.heads):
        raise Refused("layer 0 is not residual, or has a head without normalisation")
    kept = [*range(n + T), d - 1]
    if any(head.output[kept].any() for head in first.heads):
        raise Refused("layer 0 writes over a token's inputs, its position or the constant")
    if len(first.heads) not in (T - 1, T):
        raise Refused(f"layer 0 has {len(first.heads)} heads, for {T} tokens {T} or {T - 1} gather")
    gathered = tuple(range(n + T, n + T + n * len(first.heads)))
    variables = gathered if len(first.heads) == T else (*range(n), *gathered)
    own = n + T + len(gathered)
    if own >= d - 1 or len(hint.circuit.variables) != len(variables):
        raise Refused(f"the circuit has {len(hint.circuit.variables)} variables, the stream {d} slots")
    kept_for = "an input, a position, what was gathered, or the constant"
    copies_only(model, prefix, hint, range(1, len(model.layers)), own, kept_for)
    if len(hint.circuit.outputs.outputs) != T * model.outputs:
        raise Refused(f"the circuit has {len(hint.circuit.outputs.outputs)} outputs, expected {T * model.outputs}")
    return _Layout(variables, tuple(read_out(model)), own)


def taking_part(hint: CircuitHint, outputs: tuple[int, ...], t: int) -> set[int]:
    """Nodes that take part at token t: all but those in a slot that is read out whose output at t does not mention them. outputs: the slots
    that are read out."""
    circuit, k = hint.circuit, len(outputs)
    n = len(circuit.variables)
    mentioned = {
        s: used_variables(replace(circuit.outputs, outputs=(circuit.outputs.outputs[t * k + c],)))
        for c, s in enumerate(outputs)
    }
    return {i for i, (_, _, s) in enumerate(hint.places) if s not in mentioned or n + i in mentioned[s]}


def _gathered(
    model: Transformer, prefix: Prefix, domain: Sequences, layout: _Layout, t: int
) -> tuple[Stream, tuple[int, ...]]:
    """Token t's stream after layer 0, and which coordinate of the sequence each of the circuit's variables is there.

    Raises Refused unless the circuit's variables are the coordinates of the sequence, each once, those of a token in their order.
    """
    n, d, T = model.inputs, model.embedding.shape[0], domain.T
    linear, constant, slack = first_layer(model, prefix, domain, t)
    far = np.tile(np.maximum(np.abs(domain.box.lo), np.abs(domain.box.hi)), T)
    at = np.argmax(np.abs(linear.mid), axis=1)
    near = np.abs(linear.mid[np.arange(d), at] - 1) < 0.5
    unit = np.where(near[:, None], np.eye(T * n)[at], 0.0)
    unit[layout.own :] = 0.0  # what layer 0 leaves in slots for nodes is error
    off = (np.abs(linear.mid - unit) * (1 + 4 * U) + linear.rad) * UP
    error = (off @ far * (1 + gamma(T * n + 4)) + constant.magnitude() + slack) * UP + TINY
    size = unit @ far
    # exact: one product with 1, sums with zeros
    exact = [*range(n + T), d - 1]
    error[exact] = 0.0
    at[:n], size[:n] = t * n + np.arange(n), far[:n]
    size[n : n + T] = np.eye(T)[t]
    size[-1] = 1.0
    seen = tuple(int(at[s]) for s in layout.variables)
    holding = np.array([row.any() for row in unit])
    holding[:n] = True
    if not all(holding[s] for s in layout.variables) or sorted(seen) != list(range(T * n)):
        raise Refused(f"layer 0 does not gather the whole sequence at token {t}")
    if any(v % n != j % n for j, v in enumerate(seen)):
        raise Refused(f"layer 0 gathers the coordinates of a token in another order at token {t}")
    # a token's own inputs may be gathered a second time: then what reads the first copy is error
    holds = {s: [j] for j, s in enumerate(layout.variables)}
    return Stream(size, error, holds, (n + t, d - 1)), seen


def _in_terms_of(composed: Expression, seen: tuple[int, ...]) -> Expression:
    """The function of the sequence that a function of what a token sees is."""
    nodes = [replace(e, value=str(seen[int(e.value or 0)])) if e.op == "var" else e for e in composed.nodes]
    return replace(composed, nodes=tuple(nodes))
