"""Proof of a deep model through a circuit: each head against its own function, errors carried through reads and Lipschitz bounds.

The model: a residual stream h, layers of heads on their prefixes alone, output matrices that copy, a readout that selects slots.
The circuit says what slot s should hold after each layer: the inputs (input slots) and the values of the nodes placed there. None of it is
believed: `verify.circuit_stream` bounds what every slot misses of that, head by head, for the real function and for the float64 execution.

At the end the sum over an output's slot is the error against the circuit's function, which must *equal* the target: `identity.prove_equal`.
A proof in n variables is a sum of proofs in one or two.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from threadpoolctl import threadpool_limits

from verify.affine import UnsupportedModelError
from verify.ball import TINY, UP, U
from verify.bisection import Progress
from verify.boxes import corners
from verify.cells import Cells
from verify.certificate import EXECUTION, Certificate, Status, unbounded
from verify.circuit import CircuitHint, table_size, used_variables
from verify.circuit_ranges import ranges
from verify.circuit_stream import Execution, Heads, Refused, Stream, through_layers
from verify.domain import Box, BoxError
from verify.expression import Expression, ExpressionError, Node
from verify.identity import prove_equal
from verify.model import Prefix, Transformer, forward
from verify.propagate import enclose_model
from verify.target import ExpressionTarget

__all__ = [
    "UNREADABLE",
    "bound_on_box",
    "circuit_outputs",
    "copies_only",
    "decided",
    "equals_target",
    "every_node_is_needed",
    "of_reasonable_size",
    "prove_circuit",
    "read_out",
    "samples",
    "witness_among",
]

_MOST_ROWS = 6_000
"""Rows of a circuit's tables, all nodes together."""


def prove_circuit(
    model: Transformer,
    prefix: Prefix,
    target: ExpressionTarget,
    domain: Box,
    eps: float,
    hint: CircuitHint,
    *,
    seconds: float = math.inf,
    progress: Progress | None = None,
) -> Certificate:
    """Prove or refute sup |model - target| <= eps over the box, with a circuit as a hint. Undecided where the hint does not lead there."""
    report = progress or (lambda done, words: None)
    deadline = time.monotonic() + seconds
    with np.errstate(all="ignore"), threadpool_limits(1, "blas"):
        lower, witness = 0.0, None
        try:
            lower, witness = witness_among(model, prefix, target, samples(domain)[:, None, :])
            if lower > eps:
                return decided(eps, lower, witness)
            of_reasonable_size(hint, domain.dimension)
            heads = Heads(prefix, hint, ranges(hint.circuit, domain), eps, deadline, report)
            upper = bound_on_box(model, target, domain, heads)
        except UNREADABLE as error:
            return decided(eps, lower, witness, refusal=str(error))
    route = "a posteriori: a circuit of single heads, each by Taylor models on boxes"
    return decided(eps, lower, witness, upper, heads.boxes, route)


UNREADABLE = (Refused, UnsupportedModelError, ExpressionError, BoxError, RecursionError, OverflowError)
"""What a hint or a model that is not what it is said to be may come to."""


def samples(domain: Box) -> Float[np.ndarray, "count n"]:
    """Points where an error is looked for: random ones and corners."""
    return np.concatenate([domain.sample(2000), corners(*domain.bounds)])


def of_reasonable_size(hint: CircuitHint, variables: int) -> None:
    """Raise Refused for a circuit in other variables, or too large to be looked at."""
    if len(hint.circuit.variables) != variables:
        raise Refused(f"the circuit is in {len(hint.circuit.variables)} variables, the domain has {variables}")
    if table_size(hint.circuit) > _MOST_ROWS:
        raise Refused(f"the circuit's tables have more than {_MOST_ROWS} rows")


def every_node_is_needed(hint: CircuitHint, needed: set[int]) -> None:
    """Raise Refused if some node is part of no output. needed: variables and nodes that outputs are sums of."""
    circuit, n = hint.circuit, len(hint.circuit.variables)
    reached = set(needed)
    for i in range(len(circuit.nodes) - 1, -1, -1):
        if n + i not in reached:
            raise Refused(f"node {i} is needed for no output")
        reached |= used_variables(circuit.nodes[i].reads)


def decided(
    eps: float,
    lower: float,
    witness: tuple[float, ...] | None,
    upper: float = math.inf,
    boxes: int = 0,
    route: str = "",
    refusal: str = "",
) -> Certificate:
    """The certificate for an error known to be at least `lower` and at most `upper`, in real arithmetic and executed."""
    if lower > eps:
        return Certificate(
            Status.REFUTED, eps, math.inf, lower, witness, math.inf, 0, (EXECUTION,), reason="witness found"
        )
    if not upper <= eps:  # also NaN
        reason = refusal or f"the errors of the heads add up to {upper:.3g}"
        found = unbounded(eps, boxes, reason, error_lower=lower, witness=witness)
        return replace(found, assumptions=(EXECUTION,))
    # both the real function and its execution are within `upper` of the target
    return Certificate(
        Status.PROVED, eps, upper, min(lower, upper), witness, 2 * upper, boxes, (EXECUTION,), route=route
    )


def witness_among(
    model: Transformer, prefix: Prefix, target: ExpressionTarget, sequences: Float[np.ndarray, "count T n"]
) -> tuple[float, tuple[float, ...] | None]:
    """The largest error among the sequences (a point is one of a single token), bounded from below at the worst few by balls through all
    layers. target: of the flattened sequence, its outputs token-major."""
    points = sequences.reshape(len(sequences), -1)
    outputs = forward(model, prefix, sequences).reshape(len(points), -1)
    wanted = target.evaluate(points)
    if not np.isfinite(outputs[np.isfinite(wanted).all(axis=1)]).all():
        raise UnsupportedModelError("the model's output is not a number at some points of the domain")
    error = np.abs(outputs - wanted).max(axis=1)
    chosen = np.argsort(np.where(np.isnan(error), -1.0, error))[-4:]
    worst = points[chosen]
    out = enclose_model(model, prefix, sequences[chosen], sequences[chosen])
    mid, rad = out.mid.reshape(len(worst), -1), out.rad.reshape(len(worst), -1)
    f = target.series(Cells.boxes(worst, worst), 1)
    best = np.zeros(len(worst))
    for i in range(target.outputs):
        part = f.parts[i][0]
        assert part is not None
        gap = np.abs(mid[:, i] - part.mid[:, 0]) * (1 - 4 * U)
        below = gap - (rad[:, i] + part.rad[:, 0] + f.remainder[:, i]) * UP
        best = np.maximum(best, np.where(np.isnan(below), 0.0, below))
    at = int(np.argmax(best))
    return float(best[at]), tuple(float(x) for x in worst[at])


def bound_on_box(
    model: Transformer,
    target: ExpressionTarget,
    domain: Box,
    heads: Heads,
    rounded: Float[np.ndarray, " n"] | None = None,
    execution: Execution | None = None,
) -> float:
    """A bound of |model - target| on the box, for the real function, its float64 execution and one more. rounded: what that one's points are off by.

    Raises Refused where the circuit does not lead there.
    """
    n, d = model.inputs, model.embedding.shape[0]
    slots = _layout(model, heads.prefix, heads.hint)
    lo, hi = domain.bounds
    stream = Stream(np.zeros(d), np.zeros(d), {s: [s] for s in range(n)}, (d - 1,))
    stream.size[:n] = np.maximum(np.abs(lo), np.abs(hi))
    stream.size[-1] = 1.0
    stream.error[:n] = 0.0 if rounded is None else rounded
    through_layers(heads, stream, range(len(model.layers)), execution=execution)
    every_node_is_needed(heads.hint, {v for s in slots for v in stream.holds.get(s, [])})
    equals_target(circuit_outputs(heads.hint, slots, stream), target, domain)
    return float(np.max(stream.error[slots])) * (1 + 4 * U) + TINY


def _layout(model: Transformer, prefix: Prefix, hint: CircuitHint) -> list[int]:
    """The slots that are read out. Raises Refused for a model that is not of the kind described above."""
    n, d = model.inputs, model.embedding.shape[0]
    eye = np.eye(d)
    offset = eye[-1]
    if d <= n or not (np.array_equal(model.embedding, eye[:, :n]) and np.array_equal(model.offset, offset)):
        raise Refused("the embedding does not put the inputs into the first slots and 1 into the last")
    if model.positions is not None:
        raise Refused("circuits are proved for models without positional encodings")
    copies_only(model, prefix, hint, range(len(model.layers)), n, "an input or the constant")
    return read_out(model)


def copies_only(model: Transformer, prefix: Prefix, hint: CircuitHint, layers: range, kept: int, what: str) -> None:
    """Raise Refused unless these layers are residual, of heads on their prefixes alone that copy, write nothing to the first `kept` slots and
    the constant (`what` they hold), and every node has a place of its own in them."""
    d = model.embedding.shape[0]
    eye = np.eye(d)
    for l in layers:
        for h, head in enumerate(model.layers[l].heads):
            copies = np.array_equal(head.query, eye) and np.array_equal(head.output, eye)
            if not copies or head.attends_to_data or not head.normalised or not model.layers[l].residual:
                raise Refused(f"layer {l} head {h} is not one of the backbone's")
    for i, (l, h, s) in enumerate(hint.places):
        if not (l in layers and 0 <= h < len(model.layers[l].heads) and kept <= s < d - 1):
            raise Refused(f"node {i} has no place at layer {l}, head {h}, slot {s}")
    if len(set(hint.places)) != len(hint.places):
        raise Refused("two nodes have the same place")
    if any(np.abs(v[:, -1]).any() or np.abs(v[:, :kept]).any() for l in layers for v in prefix.values[l]):
        raise Refused(f"a head writes over {what}")


def read_out(model: Transformer) -> list[int]:
    """The slots that the readout selects. Raises Refused if it does anything else."""
    rows = model.readout
    if not ((rows != 0).sum(axis=1) == 1).all() or not (rows.max(axis=1) == 1).all():
        raise Refused("the readout does not select slots")
    return [int(np.flatnonzero(row)[0]) for row in rows]


def circuit_outputs(hint: CircuitHint, slots: list[int], stream: Stream) -> Expression:
    """What the read-out slots hold, as an expression: sums of nodes (and of an input, if an input slot is read)."""
    circuit = hint.circuit
    names = circuit.names(len(circuit.nodes))
    table = [Node("var", (), str(v)) for v in range(len(names))]
    outputs = []
    for s in slots:
        members = stream.holds.get(s, [])
        if not members:
            raise Refused(f"slot {s} is read out and nothing was written to it")
        table.append(Node("add", tuple(members)))
        outputs.append(len(table) - 1)
    return replace(circuit, outputs=Expression(tuple(table), tuple(outputs), names)).composed()


def equals_target(composed: Expression, target: ExpressionTarget, domain: Box) -> None:
    """Raise Refused unless the circuit's function is proved to be the target on the domain."""
    if len(composed.variables) != len(target.expression.variables):
        raise Refused(f"the circuit is in {composed.variables}, the target in {target.expression.variables}")
    # names are the circuit's own; its variables are the slots of the inputs, in their order
    found = prove_equal(replace(composed, variables=target.expression.variables), target.expression, domain)
    if not found:
        raise Refused(f"the circuit's function is not known to equal the target: {getattr(found, 'reason', '')}")
