"""Attention to a prefix in one pass over the tokens, as a loop that Numba compiles: no array of weights is ever built.

A block of points is carried through all tokens at once, so that every inner loop runs over points and becomes vector
instructions without any sum being reordered. The first pass finds each point's largest logit, the second computes the logits
again, which costs less than storing them.

The exponential is written out because a call to the C library would not become vector instructions. For x <= 0 with k the
integer nearest to x / ln 2 and r = x - k ln 2, |r| <= 0.3466: e^x = 2^k e^r, e^r by its Taylor polynomial of degree 13, whose
remainder |r|^14 e^|r| / 14! < 6e-18 is 0.06 units of round-off 2^-53. Horner's rule adds at most about one unit: the terms after
1 + r are below 0.07, so their rounding is scaled down. k ln 2 is subtracted in two parts, the first with 32 bits: k times it is
exact for |k| < 2^11, and so is the difference (Cody, Waite 1980). Below -708 the result is e^-708 < 1e-307, where a float has no
full relative accuracy: the prover allows 1e-290 for underflow.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Float

__all__ = ["attend", "compiled"]

_C2, _C3, _C4, _C5, _C6, _C7, _C8, _C9, _C10, _C11, _C12, _C13 = (1.0 / math.factorial(i) for i in range(2, 14))
_ROUND = 1.5 * 2.0**52  # adding this rounds to an integer, which then stands in the low bits of the sum
_LOG2E = 1.0 / math.log(2.0)
_LN2_HIGH = float.fromhex("0x1.62e42fee00000p-1")
_LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
_LEAST = -708.0


def attend(
    queries: Float[np.ndarray, "d_k points"],
    keys: Float[np.ndarray, "tokens d_k"],
    values: Float[np.ndarray, "tokens d_v"],
    out: Float[np.ndarray, "d_v points"],
) -> None:
    """Write softmax(<q, k_j>)-weighted means of the values to `out`, one column per point. Logits must be finite."""
    width, points = queries.shape
    tokens, outputs = values.shape
    logit = np.empty(points)
    largest = np.full(points, -np.inf)
    mass = np.zeros(points)
    shifted = np.empty(points)
    exponent = shifted.view(np.int64)
    weight = np.empty(points)
    weight_bits = weight.view(np.int64)
    out[:] = 0.0
    for j in range(tokens):
        for p in range(points):
            logit[p] = queries[0, p] * keys[j, 0]
        for i in range(1, width):
            for p in range(points):
                logit[p] += queries[i, p] * keys[j, i]
        for p in range(points):
            largest[p] = max(largest[p], logit[p])
    for j in range(tokens):
        for p in range(points):
            logit[p] = queries[0, p] * keys[j, 0]
        for i in range(1, width):
            for p in range(points):
                logit[p] += queries[i, p] * keys[j, i]
        for p in range(points):
            x = max(logit[p] - largest[p], _LEAST)
            s = x * _LOG2E + _ROUND
            shifted[p] = s
            k = s - _ROUND
            r = (x - k * _LN2_HIGH) - k * _LN2_LOW
            y = _C13
            y = y * r + _C12
            y = y * r + _C11
            y = y * r + _C10
            y = y * r + _C9
            y = y * r + _C8
            y = y * r + _C7
            y = y * r + _C6
            y = y * r + _C5
            y = y * r + _C4
            y = y * r + _C3
            y = y * r + _C2
            y = y * r + 1.0
            weight[p] = y * r + 1.0
        for p in range(points):
            weight_bits[p] += exponent[p] << 52  # times 2^k: k is added to the exponent field
        for p in range(points):
            mass[p] += weight[p]
        for i in range(outputs):
            for p in range(points):
                out[i, p] += values[j, i] * weight[p]
    for i in range(outputs):
        for p in range(points):
            out[i, p] /= mass[p]


def compiled() -> Any:
    """`attend` as machine code that runs without the interpreter lock; kept on disk where Numba finds a place for it.

    "contract" alone lets a product and a sum round once instead of twice; nothing is reassociated.
    """
    import numba

    options = {"nogil": True, "fastmath": {"contract"}}
    try:
        return numba.njit(cache=True, **options)(attend)
    except RuntimeError:  # no writable place
        return numba.njit(**options)(attend)
