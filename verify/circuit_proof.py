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
from verify.cells import Cells
from verify.certificate import EXECUTION, Certificate, Status, unbounded
from verify.circuit import CircuitHint
from verify.circuit_ranges import ranges
from verify.circuit_stream import Heads, Refused, Stream, through_layers
from verify.domain import Box
from verify.expression import Expression, Node
from verify.identity import prove_equal
from verify.model import Prefix, Transformer, forward
from verify.propagate import enclose_model
from verify.target import ExpressionTarget

__all__ = ["circuit_outputs", "copies_only", "decided", "equals_target", "prove_circuit", "read_out", "witness_among"]


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
        try:
            lower, witness = witness_among(model, prefix, target, domain.sample(2000)[:, None, :])
        except UnsupportedModelError as error:
            return decided(eps, 0.0, None, refusal=str(error))
        if lower > eps:
            return decided(eps, lower, witness)
        heads = Heads(prefix, hint, ranges(hint.circuit, domain), eps, deadline, report)
        try:
            upper = _bound(model, target, domain, heads)
        except Refused as error:
            return decided(eps, lower, witness, refusal=str(error))
    route = "a posteriori: a circuit of single heads, each by Taylor models on boxes"
    return decided(eps, lower, witness, upper, heads.boxes, route)


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
    error = np.abs(outputs - target.evaluate(points)).max(axis=1)
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


def _bound(model: Transformer, target: ExpressionTarget, domain: Box, heads: Heads) -> float:
    n, d = model.inputs, model.embedding.shape[0]
    slots = _layout(model, heads.prefix, heads.hint)
    lo, hi = domain.bounds
    stream = Stream(np.zeros(d), np.zeros(d), {s: [s] for s in range(n)}, (d - 1,))
    stream.size[:n] = np.maximum(np.abs(lo), np.abs(hi))
    stream.size[-1] = 1.0
    through_layers(heads, stream, range(len(model.layers)))
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
    if composed.variables != target.expression.variables:
        raise Refused(f"the circuit is in {composed.variables}, the target in {target.expression.variables}")
    found = prove_equal(composed, target.expression, domain)
    if not found:
        raise Refused(f"the circuit's function is not known to equal the target: {getattr(found, 'reason', '')}")
