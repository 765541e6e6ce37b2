"""The split head: softmax over the prefix alone, g = sum_k e^{lambda<x, b_k>} v_k / sum_k e^{lambda<x, b_k>}.

Theorem (Petrov, Torr and Bibi 2024, arXiv 2402.14753; their split head attends with fixed queries x to the prefix). Every continuous
f: S^m -> R^k is approximated by such a head. Here with rates: for L-Lipschitz f as many tokens suffice as balls of radius eps/L cover
S^m (`net_head`); for smooth f on S^1 and S^2 about as many as f has Fourier coefficients or spherical harmonics above eps, because the
denominator is nearly constant on evenly spread keys and the values undo the smoothing (`deconvolution`, `values`).

The paper's symbols: lambda, b_k, and v_k = f(b_k); ours differ from it in the values of smooth targets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from math import inf, pi

import numpy as np

from constructions.petrov2024.net_head import propose_net
from constructions.petrov2024.nets import fewest_points, net_bound
from constructions.petrov2024.smooth import propose_smooth
from constructions.petrov2024.values import SPLIT, Family
from constructions.proposal import Proposal

__all__ = ["fitted_and_net", "propose_split"]


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
    yield from fitted_and_net(
        evaluate, m, eps, SPLIT, lipschitz=lipschitz, smooth=smooth, max_tokens=max_tokens, deadline=deadline
    )


def fitted_and_net(
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
    """Fitted heads and the net head, shortest first as far as that is known without searching for a net that would not be taken.

    No net of covering radius eps/L has fewer than `fewest_points` points: where a fitted head is no longer, it goes first.
    """
    known = lipschitz is not None and 0 < lipschitz < inf
    radius = min(eps / lipschitz, pi) if known and lipschitz else pi

    def net() -> list[Proposal]:
        if lipschitz is None or not np.isfinite(lipschitz):
            return []
        options = {"lipschitz": lipschitz, "max_tokens": max_tokens, "deadline": deadline}
        return list(propose_net(evaluate, m, eps, family, **options))

    if not smooth:
        yield from net()
        return
    longest = min(max_tokens, net_bound(m, radius)) if known else max_tokens
    # a target with kinks may have no short fitted head: leave half of the time to the net
    until = deadline if deadline is None or not known else time.monotonic() + 0.5 * (deadline - time.monotonic())
    fitted = propose_smooth(evaluate, m, eps, family, max_tokens=longest, deadline=until)
    first = next(fitted, None)
    if first is not None and known and first.length <= fewest_points(m, radius):
        yield first
        yield from fitted
        yield from net()
        return
    nets = net()
    yield from (p for p in nets if first is None or p.length < first.length)
    if first is not None:
        yield first
        yield from fitted
        yield from (p for p in nets if p.length >= first.length)
