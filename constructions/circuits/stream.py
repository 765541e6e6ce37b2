"""What the residual stream of a circuit holds for one input, slot by slot and layer by layer, beside what it should hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from constructions.circuits.describe import hint_of, slot_names
from verify import Prefix, Transformer, forward
from verify.circuit import Circuit

if TYPE_CHECKING:
    from constructions.compiled import Compiled

__all__ = ["Trace", "trace"]


@dataclass(frozen=True, eq=False)
class Trace:
    """Row 0 of values and ideal is the embedded input, row l + 1 the stream after layer l; columns are slots, called names.

    values: the model's, in float64; ideal: the circuit's, with every head replaced by its function, in float64.
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
    """The stream for one point x (n,), after every layer. Raises ValueError for a result that is no circuit, or another shape."""
    hint, n = hint_of(c), c.model.inputs
    point = np.atleast_1d(np.asarray(x))
    if point.dtype.kind not in "fiub" or point.shape != (n,):
        raise ValueError(
            f"x: shape {np.shape(x)} and type {point.dtype}, expected one point of {n} real coordinates, shape ({n},)"
        )
    point = point.astype(np.float64)
    start = c.model.embedding @ point + c.model.offset
    values = [start, *(_after(c, layers, point) for layers in range(1, len(c.model.layers) + 1))]
    ideal = np.tile(start, (len(values), 1))
    for (layer, _, slot), value in zip(hint.places, _node_values(hint.circuit, point), strict=True):
        ideal[layer + 1 :, slot] += value
    return Trace(slot_names(c), np.array(values), ideal)


def _after(c: Compiled, layers: int, point: Float[np.ndarray, " n"]) -> Float[np.ndarray, " d"]:
    """The stream after so many layers: the output of the model that ends there and reads everything out."""
    whole = c.model
    model = Transformer(whole.embedding, whole.offset, whole.layers[:layers], np.eye(len(whole.offset)))
    return forward(model, Prefix(c.prefix.keys[:layers], c.prefix.values[:layers]), point[None])[0]


def _node_values(circuit: Circuit, point: Float[np.ndarray, " n"]) -> list[float]:
    known = list(point)
    for node in circuit.nodes:
        reads = node.reads.evaluate(np.array([known]))
        known.append(float(node.function.evaluate(reads)[0, 0]))
    return known[len(point) :]
