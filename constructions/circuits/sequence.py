"""Circuits on sequences: a layer that gathers the tokens, then the layers of a circuit on the flattened sequence, the same at every token.

The stream of a token: its own inputs (n), its position (T, one-hot), what is gathered, work slots, k output slots, the constant 1. Layer 0
has fixed weights: head t scores GATHER on token t and 0 on others, and copies its inputs; a prefix token of score 0 and value 0 stands for
the prefix. What leaks in from elsewhere is at most (T + 1) e^-GATHER max|x|, far below a rounding.

*Turned.* A function that commutes with turning the sequence around (token t's output is token 0's of x_t, x_{t+1}, ..., x_{t-1}) needs one
circuit for all tokens, that of token 0: here head r gathers token t + r for token t, the token's own inputs are there already.

*Gated.* Otherwise every token gathers the same, and computes all different outputs; heads that write an output of other positions get one
token more, of value 0, whose key reads the position. With logits of the head's tokens in [low, high] (where `low` is below the largest at
every point), the gate's is high + M where the output does not belong and low - M where it does: the head's total weight there, or the
gate's here, is at most tokens e^-M.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import log
from re import fullmatch
from typing import Any

import numpy as np
import sympy as sp
from jaxtyping import Float

from constructions.circuits.compile import CircuitProposal, propose_circuits
from constructions.circuits.sequence_slots import SequenceSlots
from constructions.errors import DomainError
from constructions.petrov2024.sequence import flat_expressions
from verify import Box, ExpressionTarget, Head, Layer, Prefix, Sequences, Transformer
from verify.circuit import CircuitHint
from verify.circuit_ranges import ranges
from verify.format_arithmetic import FLOAT64, FloatFormat

__all__ = ["GATHER", "SequenceCircuit", "propose_sequence_circuits", "sequence_backbone", "turns_around"]

GATHER = 45.0
"""How far above all others the gathered token's score is."""
_MARGIN = 20.0
"""M beyond what brings a gate's effect down to eps."""
_ALIKE = 1e-9
_TURNED = 4
"""Circuits for a function that seems to turn around, before others."""


@dataclass(frozen=True, eq=False)
class SequenceCircuit:
    """A circuit proposed for a sequence function. grid: the stream's slots, heads of each layer, nodes as in `CircuitProposal`, and what the
    tokens gather."""

    model: Transformer
    prefix: Prefix
    hint: CircuitHint
    grid: dict[str, Any]

    @property
    def length(self) -> int:
        """Prefix tokens in total."""
        return self.prefix.length


def sequence_backbone(n: int, T: int, work: int, k: int, heads: Sequence[int], turned: bool) -> Transformer:
    """The same weights for every function with these numbers: T tokens of n coordinates, slots, and heads in each layer after the first."""
    slots = SequenceSlots(n, T, work, k, turned)
    eye = np.eye(slots.width)
    gather = []
    for r in range(slots.gatherers):
        start = n + T + r * n
        place = eye[n : n + T]
        if turned:  # token t asks for the position t + r + 1
            asked, key = np.roll(place, r + 1, axis=0), GATHER * place
        else:
            asked, key = eye[-1:], GATHER * place[r : r + 1]
        gather.append(Head(asked, eye[:, start : start + n], key, eye[:n]))
    layers = [Layer((Head(eye, eye),) * count, residual=True) for count in heads]
    readout = eye[slots.width - 1 - k : slots.width - 1]
    return Transformer(eye[:, :n], eye[-1], (Layer(tuple(gather), residual=True), *layers), readout, eye[n : n + T])


def turns_around(target: ExpressionTarget, domain: Sequences) -> bool:
    """Whether the target seems to commute with turning the sequence around, by its values at random sequences."""
    points = domain.sample(200, seed=3)
    values = target.evaluate(points.reshape(len(points), -1)).reshape(len(points), domain.T, -1)
    turned = np.roll(points, -1, axis=1)
    expected = target.evaluate(turned.reshape(len(points), -1)).reshape(values.shape)
    return bool(np.all(np.abs(np.roll(values, -1, axis=1) - expected) <= _ALIKE * (1 + np.abs(expected))))


def propose_sequence_circuits(
    f: Any,
    target: ExpressionTarget,
    domain: Sequences,
    eps: float,
    *,
    max_tokens: int,
    deadline: float,
    form: FloatFormat = FLOAT64,
) -> Iterator[SequenceCircuit]:
    """Circuits for T lists of k expressions, shortest first; for a function that turns around, those of one circuit for all tokens before others.

    f: expressions in the names of `domain.names`, token-major; form: the format that heads are chosen for. Raises UnsupportedExpressionError if no circuit is known, naming the part, and
    DomainError for coordinates that are called like nodes.
    """
    if any(fullmatch(r"n\d+", name) for name in domain.names):
        raise DomainError(
            value=domain,
            reason="has coordinates n1, n2, ..., which is what the nodes of a circuit are called",
            next_step="Choose another name than n for the coordinate of a token, or method='two-layer'.",
        )
    flat = [sp.sympify(e) for e in flat_expressions(f)]
    expressions = [e.xreplace({s: sp.Symbol(s.name) for s in e.free_symbols}) for e in flat]
    k = len(expressions) // domain.T
    plain = list(range(k))
    options = {"max_tokens": max_tokens, "deadline": deadline, "form": form}
    if domain.T > 1 and turns_around(target, domain):
        # some only: it may turn around up to rounding
        yield from islice(_built(expressions[:k], [plain] * domain.T, domain, eps, True, options), _TURNED)
    distinct: dict[tuple[int, sp.Expr], int] = {}
    which = [[distinct.setdefault((c, expressions[t * k + c]), len(distinct)) for c in plain] for t in range(domain.T)]
    yield from _built([e for _, e in distinct], which, domain, eps, False, options)


def _built(
    expressions: list[sp.Expr],
    which: list[list[int]],
    domain: Sequences,
    eps: float,
    turned: bool,
    options: dict[str, Any],
) -> Iterator[SequenceCircuit]:
    """which[t][c]: the expression that is output c of token t."""
    box = domain.flattened
    symbols = [sp.Symbol(name) for name in domain.names]
    # gates and what is gathered move the outputs by next to nothing, but by something
    for proposal in propose_circuits(expressions, symbols, box, eps * (1 - 1e-6), **options):
        made = _on_sequences(proposal, which, domain, eps, turned)
        if made.length <= options["max_tokens"]:
            yield made


def _on_sequences(
    proposal: CircuitProposal, which: list[list[int]], domain: Sequences, eps: float, turned: bool
) -> SequenceCircuit:
    """The model of a circuit on the flattened sequence, its slots moved into the stream of a token, gates added."""
    lowered, circuit = proposal.lowered, proposal.lowered.hint.circuit
    T, n, k, N = domain.T, domain.box.dimension, len(which[0]), domain.dimension
    outputs = len(circuit.outputs.outputs)
    work = len(lowered.slot_names) - N - outputs - 1
    slots = SequenceSlots(n, T, work, k, turned)
    output_of = {q: c for row in which for c, q in enumerate(row)}
    moved = np.array([
        *slots.variables,
        *range(slots.first_work, slots.first_work + work),
        *(slots.first_work + work + output_of[q] for q in range(outputs)),
        slots.width - 1,
    ])  # fmt: skip
    low, high = _slot_ranges(lowered.hint, domain.flattened, len(lowered.slot_names))
    keys: list[list[np.ndarray]] = [[np.zeros((1, T if turned else 1))] * slots.gatherers]
    values: list[list[np.ndarray]] = [[np.zeros((1, n))] * slots.gatherers]
    gated = {at[:2]: at[2] - N - work for at in lowered.hint.places if at[2] >= N + work}
    for l, (layer_keys, layer_values) in enumerate(zip(lowered.prefix.keys, lowered.prefix.values, strict=True)):
        keys.append([])
        values.append([])
        for h, (own_keys, own_values) in enumerate(zip(layer_keys, layer_values, strict=True)):
            new_keys, new_values = (_spread(x, moved, slots.width) for x in (own_keys, own_values))
            q = gated.get((l, h))
            belongs = None if q is None else np.array([q in row for row in which])
            if belongs is not None and not belongs.all():
                gate = _gate(own_keys, np.abs(own_values).max(), low, high, eps)
                token = np.zeros((1, slots.width))
                token[0, n : n + T] = np.where(belongs, *gate)
                new_keys, new_values = np.vstack([new_keys, token]), np.vstack([new_values, np.zeros_like(token)])
            keys[-1].append(new_keys)
            values[-1].append(new_values)
    model = sequence_backbone(n, T, work, k, [len(layer) for layer in keys[1:]], turned)
    table = circuit.outputs
    every = replace(table, outputs=tuple(table.outputs[q] for row in which for q in row))
    places = tuple((l + 1, h, int(moved[s])) for l, h, s in lowered.hint.places)
    hint = CircuitHint(replace(circuit, outputs=every), places, lowered.hint.tolerances)
    prefix = Prefix(tuple(map(tuple, keys)), tuple(map(tuple, values)))
    nodes = lowered.slot_names[N : N + work]
    names = [*slots.before_work(domain.names), *nodes, *(f"out{c}" for c in range(k)), "1"]
    heads = [len(layer.heads) for layer in model.layers]
    grid = {**proposal.grid, "slots": names, "heads": heads, "gathers": "turned" if turned else "in order"}
    return SequenceCircuit(model, prefix, hint, grid)


def _spread(x: Float[np.ndarray, "tokens d"], moved: np.ndarray, width: int) -> Float[np.ndarray, "tokens width"]:
    """Columns of the plain stream at their places in a token's; outputs of different positions share a slot, in which a head has one only."""
    out = np.zeros((len(x), width))
    for column, place in enumerate(moved):
        out[:, place] += x[:, column]
    return out


def _slot_ranges(hint: CircuitHint, box: Box, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of what each slot of the plain stream holds at the end."""
    low, high = np.zeros(d), np.zeros(d)
    low[: box.dimension], high[: box.dimension] = box.bounds
    low[-1] = high[-1] = 1.0
    for (_, _, s), known in zip(hint.places, ranges(hint.circuit, box), strict=True):
        low[s] += known.lo
        high[s] += known.hi
    return low, high


def _gate(
    keys: Float[np.ndarray, "tokens d"], largest: float, low: np.ndarray, high: np.ndarray, eps: float
) -> tuple[float, float]:
    """A gate's logits where the output belongs and where it does not."""
    middle, half = keys @ (low + high) / 2, np.abs(keys) @ (high - low) / 2
    margin = _MARGIN + log(len(keys) * max(largest / eps, 1.0))
    return float((middle - half).max() - margin), float((middle + half).max() + margin)
