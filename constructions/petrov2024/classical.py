"""The classical head: data tokens take part in the softmax, and one pretrained head serves every target, eps and sequence length.

Theorem (Petrov, Torr and Bibi 2024, arXiv 2402.14753, the classical attention head). Hidden size d = 3(m+1), three blocks of m+1
coordinates. A point x becomes the data token (x, 0, 0), a prefix token is (0, lambda b_k, f(b_k)), zero-padded. The frozen weights

    W_Q reads block 1,    W_K reads block 2,    W_V moves block 3 to block 1

give prefix scores lambda<x, b_k> and values f(b_k); data tokens have key 0, hence score 0, and value 0. At a query x, in a sequence of T,

    g(x) = sum_k e^{lambda<x, b_k>} f(b_k) / (T + sum_k e^{lambda<x, b_k>}):

the split head's answer up to F T e^{-lambda cos R} (`net_head`), whatever the other tokens are and wherever x stands. W_Q, W_K, W_V
know nothing of f, L, eps or T: that is the pretrained head. It is one object for each m.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
from jaxtyping import Float

from constructions.errors import CompileError
from constructions.petrov2024.split import fitted_and_net
from constructions.petrov2024.values import classical_family
from constructions.proposal import Proposal
from verify import Head, Prefix, Transformer
from verify.model import Layer

__all__ = [
    "TooManyOutputsError",
    "embedding",
    "model",
    "prefix_of",
    "prefix_tokens",
    "pretrained",
    "propose_classical",
]


class TooManyOutputsError(CompileError):
    """The pretrained head moves values through a block of m + 1 coordinates. outputs: those of f; most: m + 1."""

    outputs: int
    most: int

    def __init__(self, *, outputs: int, most: int) -> None:
        message = (
            f"f has {outputs} outputs, but the classical head on S^{most - 1} has hidden size {3 * most} and carries values in a block "
            f"of {most}. Use method='split', or compile the outputs in groups of at most {most}."
        )
        super().__init__(message, outputs=outputs, most=most)


@cache
def pretrained(m: int) -> Layer:
    """The frozen head on S^m: query (m+1, d), key (m+1, d), value (m+1, d), output (d, m+1), d = 3(m+1). The same object each time."""
    size = _block_size(m)
    zero, one = np.zeros((size, size)), np.eye(size)
    return Layer(
        (
            Head(
                query=np.hstack([one, zero, zero]),
                key=np.hstack([zero, one, zero]),
                value=np.hstack([zero, zero, one]),
                output=np.vstack([one, zero, zero]),
            ),
        )
    )


def embedding(m: int) -> Float[np.ndarray, "d n"]:
    """x -> (x, 0, 0)."""
    size = _block_size(m)
    return np.eye(3 * size, size)


def model(m: int, outputs: int) -> Transformer:
    """The pretrained head with its embedding; read out are the first `outputs` coordinates of block 1.

    Raises TooManyOutputsError for more than m + 1.
    """
    size = _checked_outputs(m, outputs)
    return Transformer(embedding(m), np.zeros(3 * size), (pretrained(m),), np.eye(outputs, 3 * size))


def prefix_tokens(keys: Float[np.ndarray, "N n"], values: Float[np.ndarray, "N k"], m: int) -> Float[np.ndarray, "N d"]:
    """p_k = (0, lambda b_k, v_k, 0 ...): keys are the rows lambda b_k. Raises TooManyOutputsError for k > m + 1."""
    size = _checked_outputs(m, values.shape[1])
    tokens = np.zeros((len(keys), 3 * size))
    tokens[:, size : 2 * size] = keys
    tokens[:, 2 * size : 2 * size + values.shape[1]] = values
    return tokens


def prefix_of(tokens: Float[np.ndarray, "N d"], m: int) -> Prefix:
    """Keys W_K p and values W_V p of the pretrained head: selections of coordinates, hence exact."""
    head = pretrained(m).heads[0]
    assert head.key is not None
    assert head.value is not None
    return Prefix(((tokens @ head.key.T,),), ((tokens @ head.value.T,),))


def propose_classical(
    evaluate: Callable[[np.ndarray], np.ndarray],
    m: int,
    eps: float,
    *,
    lipschitz: float | None,
    smooth: bool,
    sequence_length: int,
    max_tokens: int,
    deadline: float | None = None,
) -> Iterator[Proposal]:
    """Classical heads for f on S^m within eps in every sequence of 1 to `sequence_length` tokens, shortest first.

    evaluate: (P, m+1) points -> (P, k). lipschitz, smooth: as in `propose_split`. Biases are all zero. Raises
    TooManyOutputsError for k > m + 1, ValueError for a sequence_length below 1.
    """
    if sequence_length < 1:
        raise ValueError(f"sequence_length = {sequence_length}: a sequence has at least one token.")
    _checked_outputs(m, np.asarray(evaluate(np.eye(1, m + 1))).shape[1])
    yield from fitted_and_net(
        evaluate,
        m,
        eps,
        classical_family(sequence_length),
        lipschitz=lipschitz,
        smooth=smooth,
        max_tokens=max_tokens,
        deadline=deadline,
    )


def _block_size(m: int) -> int:
    if m < 1:
        raise ValueError(f"m = {m}: the sphere S^m needs m >= 1.")
    return m + 1


def _checked_outputs(m: int, outputs: int) -> int:
    size = _block_size(m)
    if not 1 <= outputs <= size:
        raise TooManyOutputsError(outputs=outputs, most=size)
    return size
