"""What the residual stream of a circuit holds for one input, slot by slot and layer by layer, beside what it should hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from constructions.circuits.describe import hint_of, slot_names
from constructions.circuits.sequence_slots import SequenceSlots
from verify import Prefix, Sequences, Transformer, forward
from verify.circuit import Circuit, CircuitHint
from verify.circuit_sequences import taking_part

if TYPE_CHECKING:
    from constructions.compiled import Compiled

__all__ = ["Trace", "trace"]


@dataclass(frozen=True, eq=False)
class Trace:
    """Row 0 of values and ideal is the embedded input, row l + 1 the stream after layer l; columns are slots, called names.

    values: the model's, in float64; ideal: the circuit's, with every head replaced by its function, in float64. Of a sequence: the slots of
    all tokens side by side, called "token 1: x1".
    """

    names: tuple[str, ...]
    values: Float[np.ndarray, "stages slots"]
    ideal: Float[np.ndarray, "stages slots"]

    def __repr__(self) -> str:
        stages = ["input", *(f"after layer {l}" for l in range(len(self.values) - 1))]
        head = ["slot", *(column for s in stages for column in (s, "ideal")), "difference"]
        rows = []
        for name, value, ideal in zip(self.names, self.values.T, self.ideal.T, strict=True):
            pairs = [f"{v:.8g}" for pair in zip(value, ideal, strict=True) for v in pair]
            rows.append([name, *pairs, f"{value[-1] - ideal[-1]:.2e}"])
        widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
        lines = (
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(r, widths, strict=True))
            )
            for r in (head, *rows)
        )
        return "\n".join(lines)


def trace(c: Compiled, x: Any) -> Trace:
    """The stream for one point x (n,), or one sequence (T, n), after every layer. Raises ValueError for a result that is no circuit, or another
    shape."""
    hint, n = hint_of(c), c.model.inputs
    if isinstance(c.domain, Sequences):
        return _of_sequence(c, hint, c.domain.T, x)
    point = np.atleast_1d(np.asarray(x))
    if point.dtype.kind not in "fiub" or point.shape != (n,):
        raise ValueError(
            f"x: shape {np.shape(x)} and type {point.dtype}, expected one point of {n} real coordinates, shape ({n},)"
        )
    point = point.astype(np.float64)
    start = c.model.embedding @ point + c.model.offset
    values = [start, *(_after(c, layers, point[None])[0] for layers in range(1, len(c.model.layers) + 1))]
    ideal = np.tile(start, (len(values), 1))
    for (layer, _, slot), value in zip(hint.places, _node_values(hint.circuit, point), strict=True):
        ideal[layer + 1 :, slot] += value
    return Trace(slot_names(c), np.array(values), ideal)


def _of_sequence(c: Compiled, hint: CircuitHint, T: int, x: Any) -> Trace:
    n, slots = c.model.inputs, SequenceSlots.of(c.model, T)
    points = np.asarray(x)
    if points.dtype.kind not in "fiub" or points.shape != (T, n):
        raise ValueError(
            f"x: shape {points.shape} and type {points.dtype}, expected one sequence of {T} tokens of {n} real coordinates, shape ({T}, {n})"
        )
    points = points.astype(np.float64)
    positions = 0.0 if c.model.positions is None else c.model.positions[:T]
    start = points @ c.model.embedding.T + c.model.offset + positions
    later = [_after(c, layers, points[None])[0] for layers in range(1, len(c.model.layers) + 1)]
    values, ideal = np.array([start, *later]), np.tile(start, (len(later) + 1, 1, 1))
    read_out = tuple(int(s) for s in np.abs(c.model.readout).argmax(axis=1))
    for t in range(T):
        seen = points.ravel()[[slots.seen(j, t) for j in range(T * n)]]
        ideal[1:, t, slots.variables] = seen
        live = taking_part(hint, read_out, t)
        for i, value in enumerate(_node_values(hint.circuit, seen)):
            layer, _, slot = hint.places[i]
            ideal[layer + 1 :, t, slot] += value if i in live else 0.0
    names = tuple(f"token {t + 1}: {name}" for t in range(T) for name in slot_names(c))
    return Trace(names, values.reshape(len(values), -1), ideal.reshape(len(ideal), -1))


def _after(c: Compiled, layers: int, points: Float[np.ndarray, "*batch n"]) -> Float[np.ndarray, "*batch d"]:
    """The stream after so many layers: the output of the model that ends there and reads everything out."""
    whole = c.model
    model = Transformer(
        whole.embedding, whole.offset, whole.layers[:layers], np.eye(len(whole.offset)), whole.positions
    )
    return forward(model, Prefix(c.prefix.keys[:layers], c.prefix.values[:layers]), points)


def _node_values(circuit: Circuit, point: Float[np.ndarray, " n"]) -> list[float]:
    known = list(point)
    for node in circuit.nodes:
        reads = node.reads.evaluate(np.array([known]))
        known.append(float(node.function.evaluate(reads)[0, 0]))
    return known[len(point) :]
