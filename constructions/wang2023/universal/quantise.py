"""Step one: feed-forward layers that send every coordinate of every token to the lower end of its cell; step four: a clamp to [0, 1].

Token t (t = 0, 1, ...) has the position t added to each of its coordinates, so it lives in [t, t + 1) and no cell is shared. For the cell
[a, a + 1/G] one layer adds to the coordinate z

    phi(z) = -relu(z - a) + (1/mu) relu(z - b) - (1/mu - 1) relu(z - c),     b = a + (1 - mu)/G,  c = a + 1/G:

-(z - a) on [a, b], a steep way back to zero on [b, c], zero elsewhere. So [a, b] goes to a, exactly, and other cells stay. Yun et al. use the
discontinuous phi(z) = -(z - a) on [a, c), whose three pieces a continuous network only approximates: the margin (b, c), a share mu of the cell, is the price.
"""

from __future__ import annotations

import itertools

import numpy as np

from constructions.wang2023.universal.blocks import FeedForward
from constructions.wang2023.universal.grid import Grid

__all__ = ["clamp", "quantisation"]


def quantisation(grid: Grid, tokens: int, margin: float) -> FeedForward:
    """d * tokens * G layers. margin: mu, a power of two below one, so that its reciprocal is exact."""
    cells = list(itertools.product(range(tokens), range(grid.d), range(grid.cells)))
    first, offset, second = (
        np.zeros((len(cells), 4, grid.d)),
        np.zeros((len(cells), 4)),
        np.zeros((len(cells), grid.d, 4)),
    )
    for layer, (token, i, k) in enumerate(cells):
        a = token + k / grid.cells
        first[layer, :3, i] = 1.0
        offset[layer, :3] = -a, -(a + (1 - margin) / grid.cells), -(a + 1 / grid.cells)
        second[layer, i, :3] = -1.0, 1 / margin, -(1 / margin - 1)
    return FeedForward(first, offset, second)


def clamp(grid: Grid) -> FeedForward:
    """d layers: z_i + relu(-z_i) - relu(z_i - 1) = min(max(z_i, 0), 1). Whatever a token met on a margin, its output is in [0, 1]."""
    first, offset, second = np.zeros((grid.d, 4, grid.d)), np.zeros((grid.d, 4)), np.zeros((grid.d, grid.d, 4))
    for i in range(grid.d):
        first[i, 0, i], first[i, 1, i] = -1.0, 1.0
        offset[i, 1] = -1.0
        second[i, i, :2] = 1.0, -1.0
    return FeedForward(first, offset, second)
