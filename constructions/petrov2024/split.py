"""The split head: softmax over the prefix alone, g = sum_k e^{lambda<x, b_k>} v_k / sum_k e^{lambda<x, b_k>}.

Theorem (Petrov, Torr and Bibi 2024, arXiv 2402.14753; their split head attends with fixed queries x to the prefix). Every continuous
f: S^m -> R^k is approximated by such a head. Here with rates: for L-Lipschitz f as many tokens suffice as balls of radius eps/L cover
S^m (`net_head`); for smooth f on S^1 and S^2 about as many as f has Fourier coefficients or spherical harmonics above eps, because the
denominator is nearly constant on evenly spread keys and the values undo the smoothing (`deconvolution`, `values`).

The paper's symbols: lambda, b_k, and v_k = f(b_k); ours differ from it in the values of smooth targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from constructions.petrov2024.net_head import propose_net
from constructions.petrov2024.smooth import propose_smooth
from constructions.petrov2024.values import SPLIT, Family
from constructions.proposal import Proposal

__all__ = ["propose_split"]


def propose_split(
    evaluate: Callable[[np.ndarray], np.ndarray],
    m: int,
    eps: float,
    *,
    lipschitz: float | None,
    smooth: bool,
    max_tokens: int,
    deadline: float | None = None,
) -> Iterator[Proposal]:
    """Split heads for f on S^m within eps, shortest first.

    evaluate: (P, m+1) points of the sphere -> (P, k). lipschitz: geodesic constant, None where unknown. smooth: f may be
    evaluated anywhere and its head will be proved for this f, so fitted values are worth trying.
    """
    yield from both(
        evaluate, m, eps, SPLIT, lipschitz=lipschitz, smooth=smooth, max_tokens=max_tokens, deadline=deadline
    )


def both(
    evaluate: Callable[[np.ndarray], np.ndarray],
    m: int,
    eps: float,
    family: Family,
    *,
    lipschitz: float | None,
    smooth: bool,
    max_tokens: int,
    deadline: float | None,
) -> Iterator[Proposal]:
    """The net head, preceded by fitted heads that are shorter and followed by those that are not."""
    net = None
    if lipschitz is not None and np.isfinite(lipschitz):
        found = propose_net(evaluate, m, eps, family, lipschitz=lipschitz, max_tokens=max_tokens, deadline=deadline)
        net = list(found)
    if smooth:
        # a fitted head longer than the net would not be taken
        longest = min(max_tokens, *(p.length - 1 for p in net)) if net else max_tokens
        yield from propose_smooth(evaluate, m, eps, family, max_tokens=longest, deadline=deadline)
    yield from net or ()
