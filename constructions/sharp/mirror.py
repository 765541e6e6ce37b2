"""Mirror symmetry of a target about the centre of its interval, and the folding of token axes it allows.

If f(-t) = s f(t), s = +1 or -1, the head may be taken symmetric: slopes odd under reversal of the token order, biases
even, so that w_j(-t) = w_{N-1-j}(t), and values v_{N-1-j} = s v_j. Every unknown then counts once per pair of tokens
and only t >= 0 needs sampling: half the unknowns and half the equations.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

__all__ = ["fold", "unfold"]


def fold(array: Float[np.ndarray, "*batch tokens"], sign: int) -> Float[np.ndarray, "*batch folded"]:
    """Sum (sign +1) or difference (-1) of mirrored tokens; sign 0 returns the array unchanged.

    The transpose of `unfold`, except that the central token of an odd number enters once for +1 and vanishes for -1.
    """
    if sign == 0:
        return array
    tokens = array.shape[-1]
    half = tokens // 2
    mirrored = array[..., ::-1][..., :half]
    if sign < 0:
        return array[..., :half] - mirrored
    pairs = array[..., :half] + mirrored
    return np.concatenate([pairs, array[..., half : half + 1]], axis=-1) if tokens % 2 else pairs


def unfold(array: Float[np.ndarray, "*batch folded"], sign: int, tokens: int) -> Float[np.ndarray, "*batch tokens"]:
    """The (anti)symmetric array over all tokens with these entries on the first half (and the centre, for +1)."""
    if sign == 0:
        return array
    half = tokens // 2
    pairs = array[..., :half]
    if tokens % 2 == 0:
        centre = array[..., :0]
    elif sign > 0:
        centre = array[..., half:]
    else:
        centre = np.zeros_like(array, shape=(*array.shape[:-1], 1))
    return np.concatenate([pairs, centre, sign * pairs[..., ::-1]], axis=-1)
