"""Step two: attention layers that give every token a number that determines the whole quantised sequence and the token's place in it.

u = (1, G, ..., G^{d-1}) numbers the quantised tokens: G <u, z> of token t (t = 0, ..., n - 1) is an integer l_t in [t S G, t S G + D - 1], with
S = 1 + G + ... + G^{d-1} and D = G^d <= S G. So l_0 < l_1 < ... In these units:

*Selective shift* at level l. Two heads have keys and values <u, z>, queries <u, z> - l + 1/2 and <u, z> - l - 1/2, outputs +D and -D in the first coordinate. A token at
level l has a positive and a negative query: hardmax takes the largest number for the first head, the smallest for the second, and the token moves by
D (max - min). At any other level both heads agree and nothing moves. The layers go through the D levels of token 0, then of token 1, and so on:

    l'_0 = l_0 + D (l_{n-1} - l_0),       l'_t = l_t + D (l'_{t-1} - l_t):

l'_{t-1} is the largest number by then and l_t the smallest. For n >= 3, l'_0 >= D ((n - 1) S G - D + 1) exceeds every level (n - 1) S G + D - 1 of the last token, for
(D - 1)(n - 1) S G >= 2 D (D - 1) >= D^2: no shifted token is shifted again. And l'_t - l'_{t-1} = (D - 1)(l'_{t-1} - l_t) > 0: the next one is larger still.

*It is one to one.* l'_t = l_t mod D, and l_t is one of D consecutive integers, so l'_t determines l_t, then l'_{t-1}, ..., l'_0 = l_0 + D (l_{n-1} - l_0): l'_{n-1}
determines all of l.

*Global shift.* One head with constant query adds C max_t l' = C l'_{n-1} to every token. l'_t <= D^{t+1} (n S G - 1) < C, so the final numbers l'_t + C l'_{n-1}
are different for different sequences, and for different tokens.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from constructions.wang2023.universal.blocks import Attention
from constructions.wang2023.universal.grid import Grid

__all__ = ["context_numbers", "exact_bits", "global_factor", "numbering", "selective_shifts"]


def numbering(grid: Grid) -> Float[np.ndarray, " d"]:
    """u."""
    return float(grid.cells) ** np.arange(grid.d)


def global_factor(grid: Grid, tokens: int) -> int:
    """C: the least power of two not below n S G D^n."""
    return 1 << (tokens * grid.cells * _span(grid) * grid.cells ** (grid.d * tokens) - 1).bit_length()


def exact_bits(grid: Grid, tokens: int) -> int:
    """Bits of the largest number of the construction, in units of the smallest fraction: at most 52, or float64 is not exact."""
    factor = global_factor(grid, tokens).bit_length() - 1
    return 2 * factor + 1 + max(2, (2 * grid.levels).bit_length() - grid.cells.bit_length())


def _span(grid: Grid) -> int:
    """S."""
    return sum(grid.cells**i for i in range(grid.d))


def selective_shifts(grid: Grid, tokens: int) -> Attention:
    """n D + 1 layers: the selective shifts, then the global one. Needs tokens >= 3."""
    if tokens < 3:
        raise ValueError(f"tokens = {tokens}: the first shift leaves the range of the others from three tokens on")
    u, each = numbering(grid), grid.cells**grid.d
    levels = np.array([token * _span(grid) + k / grid.cells for token in range(tokens) for k in range(each)])
    layers = len(levels) + 1
    query, out = np.zeros((layers, 2, grid.d)), np.zeros((layers, 2, grid.d))
    bias = np.zeros((layers, 2))
    query[:-1] = u
    bias[:-1, 0], bias[:-1, 1] = -levels + 0.5 / grid.cells, -levels - 0.5 / grid.cells
    out[:-1, 0, 0], out[:-1, 1, 0] = each, -each
    bias[-1, 0], out[-1, 0, 0] = 1.0, global_factor(grid, tokens)
    reads = np.tile(u, (layers, 2, 1))
    return Attention(query, bias, reads, reads, out)


def context_numbers(grid: Grid, digits: Int[np.ndarray, "batch n d"]) -> Int[np.ndarray, "batch n"]:
    """The final numbers, G <u, z>, of sequences of digits (coordinates in units of 1/G, positions not added), by the formulas above."""
    tokens, each = digits.shape[1], grid.cells**grid.d
    u = np.array([grid.cells**i for i in range(grid.d)])
    level = digits @ u + np.arange(tokens) * _span(grid) * grid.cells
    shifted = np.empty_like(level)
    largest = level[:, -1]
    for t in range(tokens):
        largest = level[:, t] + each * (largest - level[:, t])
        shifted[:, t] = largest
    return shifted + global_factor(grid, tokens) * shifted[:, -1:]
