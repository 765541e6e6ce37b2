"""Step three: one feed-forward layer per function, input and data token, which replaces the token by the function's value.

A data token with context number c has <u, z> = c/G and is one known vector z_c. The layer adds

    (y - z_c) phi(<u, z>),     phi(t) = 4G [relu(t - a) - relu(t - b) - relu(t - b') + relu(t - a')],   a, a' = (c -+ 1/2)/G,  b, b' = (c -+ 1/4)/G:

phi is 1 within 1/(4G) of c/G, and 0 from 1/(2G) on. Numbers of other contexts are a unit 1/G away at least, so nothing else moves; the plateau makes room for the softmax
version's error. The layers go from the largest number to the smallest, so that in float64 a token's remaining layers all have their hinges above it, where every relu is
exactly 0: y lies in (0, 1), and so <u, y> lies below all context numbers.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from constructions.wang2023.universal.blocks import FeedForward
from constructions.wang2023.universal.contextual import context_numbers, numbering
from constructions.wang2023.universal.grid import Grid

__all__ = ["value_mapping"]


def value_mapping(grid: Grid, prompts: Float[np.ndarray, "functions p d"]) -> FeedForward:
    """m F G^N layers: function number i, indexed by prompts[i], on every grid point."""
    functions, length = prompts.shape[:2]
    tables = grid.outputs(grid.tables(np.arange(functions)))  # (functions, points, N)
    inputs = grid.inputs
    sequences = np.concatenate(
        [np.repeat(prompts, len(inputs), axis=0), np.tile(inputs, (functions, 1, 1))], axis=1
    )  # (pairs, n, d)
    digits = np.rint(sequences * grid.cells).astype(np.int64)
    tokens = length + grid.m
    number = context_numbers(grid, digits)
    place = np.arange(tokens) * sum(grid.cells**i for i in range(grid.d)) * grid.cells
    moved = number - digits @ np.array([grid.cells**i for i in range(grid.d)]) - place  # by attention, in units of 1/G
    known = sequences + np.arange(tokens)[:, None]
    known[:, :, 0] += moved / grid.cells
    known, number = known[:, length:].reshape(-1, grid.d), number[:, length:].reshape(-1)
    change = tables.reshape(-1, grid.d) - known  # components are the data tokens' entries, row by row
    order = np.argsort(-number, kind="stable")
    number, change = number[order].astype(np.float64), change[order]
    first = np.tile(numbering(grid), (len(number), 4, 1))
    offset = -(number[:, None] + np.array([-0.5, -0.25, 0.25, 0.5])) / grid.cells
    second = change[:, :, None] * (4.0 * grid.cells * np.array([1.0, -1.0, -1.0, 1.0]))
    return FeedForward(first, offset, second)
