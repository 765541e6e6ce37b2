"""Two layers and the sup norm everywhere: copy the sequence into every token, then one head on R^{T d}.

The residual stream has the slots token (d), position (T), one, copies (T d), out (k). *Layer 1*: T heads over the data tokens; head p
scores 50 [position = p], so that it writes token p into the p-th block of copies of every token, up to (T + 1) e^{-50} max|x| (a null
token, of score 0 and value 0, stands for the prefix). *Layer 2*: one head whose query is (copies, 1, position). Token j of group p
has the key (a_j, b_j, G e_p), where (a_j, b_j) is a head compiled for f_p on the flattened box: at position p its group is G
above all others.

With |s| <= R for all logits <a_j, X> + b_j on the box, G = 2 R + 60 leaves the other groups less than N e^{-60}. So the error is that
of the compiled heads, and the number of tokens their sum: N ~ (L / 2 eps)^{T d} per position at worst as for any target on
R^{T d}, far fewer for smooth ones, where one scalar code needs 2^{K T d} always and is wrong on its exceptional set.
"""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np
from jaxtyping import Float

from constructions.petrov2024.sequence import SequenceProposal, flat_expressions, sequence_target
from verify import Box, Head, Layer, Prefix, Transformer
from verify.sequences import Sequences

__all__ = ["compile_two_layer", "two_layers"]

GATHER = 50.0
"""How far above all others the copied token's score is."""


def compile_two_layer(f: Any, T: int, box: Box, eps: float, **options: Any) -> SequenceProposal:
    """Two layers within eps of a sequence function everywhere.

    f, box: as for `compile_sequence`. options: of `compile_prefix`, which compiles each position's function on the flattened box. Raises what
    `compile_prefix` raises.
    """
    from constructions.compile import compile_prefix  # that module knows all constructions, this one among them

    target, k = sequence_target(f, T, box)
    flattened = Sequences(T, box).flattened
    expressions = flat_expressions(f)
    groups, methods = [], []
    for p in range(T):
        # a little less than eps: layer 1 and the gates move the logits by next to nothing, but by something
        found = compile_prefix(expressions[p * k : (p + 1) * k], eps * (1 - 1e-4), flattened, method="head", **options)
        groups.append((found.keys[:, :-1], found.keys[:, -1], found.values))
        methods.append(found.method)
    model, prefix = two_layers(groups, T, box)
    notes = {"groups": [len(b) for _, b, _ in groups], "methods": methods, "layers": 2}
    return SequenceProposal(model, prefix, target, Sequences(T, box), eps, None, inf, notes)


def two_layers(
    groups: list[tuple[Float[np.ndarray, "tokens n"], Float[np.ndarray, " tokens"], Float[np.ndarray, "tokens k"]]],
    T: int,
    box: Box,
) -> tuple[Transformer, Prefix]:
    """The model and prefix for one head (slopes, biases, values) per position, on the flattened sequence."""
    d, k = box.dimension, groups[0][2].shape[1]
    n = T * d
    one, copies, out = d + T, d + T + 1, d + T + 1 + n
    width = out + k

    def rows(count: int, start: int) -> np.ndarray:
        matrix = np.zeros((count, width))
        matrix[np.arange(count), start + np.arange(count)] = 1.0
        return matrix

    positions = np.zeros((T, width))
    positions[np.arange(T), d + np.arange(T)] = 1.0
    offset = np.zeros(width)
    offset[one] = 1.0
    gather = []
    for p in range(T):
        key = np.zeros((1, width))
        key[0, d + p] = GATHER
        gather.append(Head(rows(1, one), rows(d, copies + p * d).T, key, rows(d, 0)))
    query = np.concatenate([rows(n, copies), rows(1, one), rows(T, d)])
    keys, values = _gated(groups, T, box)
    layers = (Layer(tuple(gather), residual=True), Layer((Head(query, rows(k, out).T),), residual=True))
    model = Transformer(rows(d, 0).T, offset, layers, rows(k, out), positions)
    null = (np.zeros((1, 1)), np.zeros((1, d)))
    return model, Prefix((tuple(null[0] for _ in range(T)), (keys,)), (tuple(null[1] for _ in range(T)), (values,)))


def _gated(groups: list[tuple[np.ndarray, np.ndarray, np.ndarray]], T: int, box: Box) -> tuple[np.ndarray, np.ndarray]:
    lo, hi = (np.tile(x, T) for x in box.bounds)
    far = np.maximum(np.abs(lo), np.abs(hi))
    keys, values = [], []
    largest = max(float((np.abs(a) @ far + np.abs(b)).max()) for a, b, _ in groups)
    for p, (slopes, biases, own) in enumerate(groups):
        gate = np.zeros((len(biases), T))
        gate[:, p] = 2 * largest + 60
        keys.append(np.concatenate([slopes, biases[:, None], gate], axis=1))
        values.append(own)
    return np.concatenate(keys), np.concatenate(values)
