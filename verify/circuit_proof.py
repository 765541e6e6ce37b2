"""Proof of a deep model through a circuit: each head against its own function, errors carried through reads and Lipschitz bounds.

The model: a residual stream h, layers of heads on their prefixes alone, output matrices that copy, a readout that selects slots.
The circuit says what slot s should hold after each layer: e_s = x_s (input slots) + the values n_i of the nodes placed there. None of it is
believed. With |h_s - e_s| <= err_s, for the real function and for the float64 execution alike, node i at layer l, head k, slot s:

  reads   z_m = <alpha_m, (x, n)> + alpha_m0, with alpha the coefficients of the circuit's read-outs (enclosed by jets; degree 2 must vanish).
          With U_m the row of slot coefficients, h gives <U_m, h> = z_m + Delta_m,
          |Delta_m| <= sum_s |U_ms| err_s + sum |U - alpha| sup |x| + sum |U - alpha| sup |n|.
  keys    K_j = sum_m a_jm U_m + b_j e_const + rho_j, for floats a, b found by least squares: any would do, rho is what they leave. So the
          head is one with logits <a_j, zhat> + b_j + <rho_j, h>, zhat = z + Delta, on the box of all zhat (`AffineHead`, logit_slack).
  head    |head(zhat) - g(zhat)| <= delta on that box, rounding included: the bisection of a single head, in m <= 2 dimensions. Here g is
          continued beyond the ends of its domain (continuation.py): z lies inside, zhat perhaps not.
  node    |head - n_i| <= delta + sup |g(zhat) - g(z)|, the last bounded piece by piece by a partial derivative times |Delta|, or by the
          range of g where that is smaller.
  slot    err_s grows by that of each node written to it, and by the rounding of the additions.

At the end the sum over an output's slot is the error against the circuit's function, which must *equal* the target: `identity.prove_equal`.
A proof in n variables is a sum of proofs in one or two.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
from threadpoolctl import threadpool_limits

from verify.affine import AffineHead
from verify.ball import TINY, UP, Ball, U, gamma
from verify.bisection import Bisection, Progress
from verify.certificate import EXECUTION, Certificate, Status, unbounded
from verify.circuit import CircuitHint
from verify.circuit_ranges import affine_form, grown, ranges, variation
from verify.continuation import continued
from verify.domain import Box
from verify.identity import prove_equal
from verify.model import Head, Layer, Prefix, Transformer, forward
from verify.propagate import enclose_model
from verify.target import ExpressionTarget

__all__ = ["prove_circuit"]


class _Refused(ValueError):
    """The model is not the circuit it is said to be."""


@dataclass(frozen=True, eq=False)
class _HeadClaim:
    """What a bisection asks of a claim: one head against one function. The model is used to look for bad points only."""

    model: Transformer
    prefix: Prefix
    target: ExpressionTarget
    domain: Box
    eps: float
    sequence_length: int = 1


@dataclass
class _Stream:
    """What is known of the stream: size (d,) bounds |e_s|, error (d,) bounds |h_s - e_s|; the last coordinate is the constant."""

    size: np.ndarray
    error: np.ndarray
    holds: dict[int, list[int]] = field(default_factory=dict)


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
        lower, witness = _probe(model, prefix, target, domain)
        if lower > eps:
            return Certificate(
                Status.REFUTED, eps, math.inf, lower, witness, math.inf, 0, (EXECUTION,), reason="witness found"
            )
        try:
            upper, boxes = _bound(model, prefix, target, domain, eps, hint, deadline, report)
        except _Refused as error:
            found = unbounded(eps, 0, str(error), error_lower=lower, witness=witness)
            return replace(found, assumptions=(EXECUTION,))
    if not upper <= eps:
        reason = f"the errors of the heads add up to {upper:.3g}"
        found = unbounded(eps, boxes, reason, error_lower=lower, witness=witness)
        return replace(found, assumptions=(EXECUTION,))
    route = "a posteriori: a circuit of single heads, each by Taylor models on boxes"
    # both the real function and its execution are within `upper` of the target
    return Certificate(
        Status.PROVED, eps, upper, min(lower, upper), witness, 2 * upper, boxes, (EXECUTION,), route=route
    )


def _probe(
    model: Transformer, prefix: Prefix, target: ExpressionTarget, domain: Box
) -> tuple[float, tuple[float, ...] | None]:
    """The largest error among samples, bounded from below at the worst few of them by balls through all layers."""
    points = domain.sample(2000)
    error = np.abs(forward(model, prefix, points) - target.evaluate(points)).max(axis=1)
    worst = points[np.argsort(np.where(np.isnan(error), -1.0, error))[-4:]]
    out = enclose_model(model, prefix, worst[:, None, :], worst[:, None, :])
    from verify.cells import Cells

    f = target.series(Cells.boxes(worst, worst), 1)
    best = np.zeros(len(worst))
    for i in range(target.outputs):
        part = f.parts[i][0]
        assert part is not None
        gap = np.abs(out.mid[:, 0, i] - part.mid[:, 0]) * (1 - 4 * U)
        below = gap - (out.rad[:, 0, i] + part.rad[:, 0] + f.remainder[:, i]) * UP
        best = np.maximum(best, np.where(np.isnan(below), 0.0, below))
    at = int(np.argmax(best))
    return float(best[at]), tuple(float(x) for x in worst[at])


def _bound(
    model: Transformer,
    prefix: Prefix,
    target: ExpressionTarget,
    domain: Box,
    eps: float,
    hint: CircuitHint,
    deadline: float,
    report: Progress,
) -> tuple[float, int]:
    circuit = hint.circuit
    n, d = model.inputs, model.embedding.shape[0]
    slots = _layout(model, prefix, hint)
    known = ranges(circuit, domain)
    lo, hi = domain.bounds
    stream = _Stream(np.zeros(d), np.zeros(d))
    stream.size[:n] = np.maximum(np.abs(lo), np.abs(hi))
    stream.size[-1] = 1.0
    stream.holds = {s: [s] for s in range(n)}  # variables and nodes are numbered together: node i is n + i
    boxes = 0
    for l, layer in enumerate(model.layers):
        added, written = np.zeros(d), np.zeros(d)
        for i, (at, h, s) in enumerate(hint.places):
            if at != l:
                continue
            if time.monotonic() > deadline:
                raise _Refused("the time is over")
            report(i / len(hint.places), "proving heads")
            delta, count = _node(prefix.keys[l][h], prefix.values[l][h][:, s], hint, i, known, stream, n, eps, deadline)
            boxes += count
            added[s] += delta
            written[s] += known[i].size
            stream.holds.setdefault(s, []).append(n + i)
        covered = {(h, s) for at, h, s in hint.places if at == l}
        for h in range(len(layer.heads)):
            for s in np.flatnonzero(np.any(prefix.values[l][h] != 0, axis=0)):
                if (h, int(s)) not in covered:
                    raise _Refused(f"layer {l} head {h} writes to slot {int(s)}, which the circuit does not mention")
        total = stream.size + stream.error + written + added
        stream.error = (stream.error + added + gamma(len(layer.heads) + 3) * total) * UP
        stream.size = (stream.size + written) * UP
    _equals_target(circuit_outputs(hint, slots, stream, n), target, domain)
    upper = max(float(stream.error[s]) for s in slots)
    return upper * (1 + 4 * U) + TINY, boxes


def _layout(model: Transformer, prefix: Prefix, hint: CircuitHint) -> list[int]:
    """The slots that are read out. Raises _Refused for a model that is not of the kind described above."""
    n, d = model.inputs, model.embedding.shape[0]
    eye = np.eye(d)
    offset = eye[-1]
    if d <= n or not (np.array_equal(model.embedding, eye[:, :n]) and np.array_equal(model.offset, offset)):
        raise _Refused("the embedding does not put the inputs into the first slots and 1 into the last")
    if model.positions is not None:
        raise _Refused("circuits are proved for models without positional encodings")
    for l, layer in enumerate(model.layers):
        for h, head in enumerate(layer.heads):
            copies = np.array_equal(head.query, eye) and np.array_equal(head.output, eye)
            if not copies or head.attends_to_data or not head.normalised or not layer.residual:
                raise _Refused(f"layer {l} head {h} is not one of the backbone's")
    for i, (l, h, s) in enumerate(hint.places):
        if not (0 <= l < len(model.layers) and 0 <= h < len(model.layers[l].heads) and n <= s < d - 1):
            raise _Refused(f"node {i} has no place at layer {l}, head {h}, slot {s}")
    if len(set(hint.places)) != len(hint.places):
        raise _Refused("two nodes have the same place")
    rows = model.readout
    if not ((rows != 0).sum(axis=1) == 1).all() or not (rows.max(axis=1) == 1).all():
        raise _Refused("the readout does not select slots")
    if any(np.abs(v[:, -1]).any() or np.abs(v[:, :n]).any() for layer in prefix.values for v in layer):
        raise _Refused("a head writes over an input or the constant")
    return [int(np.flatnonzero(row)[0]) for row in rows]


def _node(
    keys: np.ndarray,
    values: np.ndarray,
    hint: CircuitHint,
    i: int,
    known: list[Any],
    stream: _Stream,
    n: int,
    eps: float,
    deadline: float,
) -> tuple[float, int]:
    """|head's contribution - n_i| over the domain, and the boxes examined."""
    node = hint.circuit.nodes[i]
    alpha = affine_form(node.reads)  # balls (m, variables + nodes + 1)
    if alpha is None:
        raise _Refused(f"node {i}: what it reads is not affine")
    m, d = alpha.shape[0], keys.shape[1]
    later = np.zeros((m, n + len(hint.circuit.nodes) + 1 - alpha.shape[1]))  # nodes numbered i and beyond are not read
    alpha = Ball(
        np.column_stack([alpha.mid[:, :-1], later, alpha.mid[:, -1]]),
        np.column_stack([alpha.rad[:, :-1], later, alpha.rad[:, -1]]),
    )
    rows, delta = np.zeros((m, d)), np.zeros(m)
    rows[:, -1] = alpha.mid[:, -1]
    delta += alpha.rad[:, -1]
    for s, members in stream.holds.items():
        rows[:, s] = alpha.mid[:, members[0]]
        for v in members:
            size = stream.size[s] if v < n else known[v - n].size
            miss = np.abs(rows[:, s] - alpha.mid[:, v]) * (1 + 4 * U) + alpha.rad[:, v]
            delta += miss * size * (1 + 4 * U)
    held = {v for members in stream.holds.values() for v in members}
    for v in range(alpha.shape[1] - 1):
        if v not in held and (alpha.mid[:, v].any() or alpha.rad[:, v].any()):
            raise _Refused(f"node {i} reads something that is not in the stream yet")
    delta = (delta + np.abs(rows) @ stream.error * (1 + gamma(d + 4))) * (1 + gamma(len(held) + 8))
    full = np.vstack([rows, np.eye(1, d, d - 1)])
    fit = np.linalg.lstsq(full.T, keys.T, rcond=None)[0].T  # (tokens, m + 1)
    if not np.isfinite(fit).all():
        raise _Refused(f"node {i}: its keys do not fit what it reads")
    terms = np.abs(keys) + np.abs(fit) @ np.abs(full)
    left = np.abs(keys - fit @ full) + gamma(m + 6) * terms
    reach = (stream.size + stream.error) * UP
    slack = left @ reach * (1 + gamma(d + 4))
    executed = gamma(d + 2) * (np.abs(keys) @ reach) * (1 + gamma(d + 4))
    z_lo, z_hi = known[i].reads
    lo, hi = grown(z_lo, z_hi, delta)
    slopes, biases = fit[:, :m], fit[:, m]
    head = AffineHead(
        slopes=slopes,
        biases=biases,
        values=values[:, None],
        slope_scale=np.abs(slopes),
        bias_scale=np.abs(biases),
        value_scale=np.abs(values)[:, None],
        parameter_gamma=0.0,
        value_gamma=0.0,
        logit_gamma=0.0,
        output_gamma=gamma(len(values) + 2),
        logit_slack=slack,
        executed_slack=executed,
    )
    names = node.function.variables
    box = Box(dict(zip(names, zip(lo, hi, strict=True), strict=True)))
    tolerance = hint.tolerances[i] if 0 < hint.tolerances[i] < math.inf else eps
    limits = [1.5 * tolerance, *(x for x in (20 * tolerance, 1e-4 * eps, 1e-2 * eps) if x > 1.5 * tolerance), eps]
    boxes = 0
    function = continued(node.function)  # what is read may lie outside the domain of g, if only by delta
    for limit in limits:
        found = _single(head, ExpressionTarget(function), box, limit, deadline, 2_000 if limit < eps else 20_000)
        boxes += found.boxes
        if found.proved:
            break
    if not found.proved:
        raise _Refused(
            f"node {i} ({node.function}): its head is not within {limit:.3g} on [{lo}, {hi}]: {found.reason or found.status}"
        )
    moved = variation(function, lo, hi, delta)
    return (found.error_upper + moved) * UP, boxes


def _single(
    head: AffineHead, target: ExpressionTarget, box: Box, eps: float, deadline: float, boxes: int
) -> Certificate:
    n, k = head.slopes.shape[1], head.values.shape[1]
    offset = np.zeros(n + 1)
    offset[n] = 1.0
    layer = Layer((Head(np.eye(n + 1), np.eye(k)),))
    keys = np.concatenate([head.slopes, head.biases[:, None]], axis=1)
    model = Transformer(np.eye(n + 1, n), offset, (layer,), np.eye(k))
    claim = _HeadClaim(model, Prefix(((keys,),), ((head.values,),)), target, box, eps)
    return Bisection(cast("Any", claim), head, boxes, None, deadline).run(0.05)


def circuit_outputs(hint: CircuitHint, slots: list[int], stream: _Stream, n: int) -> Any:
    """What the read-out slots hold, as an expression: sums of nodes (and of an input, if an input slot is read)."""
    from verify.expression import Expression, Node

    circuit = hint.circuit
    names = circuit.names(len(circuit.nodes))
    table = [Node("var", (), str(v)) for v in range(len(names))]
    outputs = []
    for s in slots:
        members = stream.holds.get(s, [])
        if not members:
            raise _Refused(f"slot {s} is read out and nothing was written to it")
        table.append(Node("add", tuple(members)))
        outputs.append(len(table) - 1)
    return replace(circuit, outputs=Expression(tuple(table), tuple(outputs), names)).composed()


def _equals_target(composed: Any, target: ExpressionTarget, domain: Box) -> None:
    if composed.variables != target.expression.variables:
        raise _Refused(f"the circuit is in {composed.variables}, the target in {target.expression.variables}")
    found = prove_equal(composed, target.expression, domain)
    if not found:
        raise _Refused(f"the circuit's function is not known to equal the target: {getattr(found, 'reason', '')}")
