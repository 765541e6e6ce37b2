"""The core head: unnormalised, g = sum_k e^{<slopes_k, x> + biases_k} v_k.

Theorem (Petrov, Torr and Bibi 2024, arXiv 2402.14753, the lemmas on the core attention head). Every continuous f on S^m is approximated by
g(x) = sum_k e^{lambda<x, b_k>} p_k: smooth f with the von Mises-Fisher kernel c e^{lambda<x, y>}, cut S^m into cells V_k of area omega_k
around b_k, and take p_k = omega_k c f(b_k), which is `paper_core`; `smoothing` derives its error

    |g - f| <= L E[theta] + L delta + F E[e^z - 1]   (delta the cells' radius).

`propose_core` deconvolves instead of sampling: values are fitted, and smooth f need about as many tokens as they have harmonics.
`favard_core` does so for the whole Lipschitz class of the circle. With N >= 2n - 1 keys and multipliers mu_j (`favard_multipliers`)

    |g - f| <= (pi/2) L / n  +  sum_{0<|j|<n} |mu_j f_j| sum_{i != 0} I_{|j+iN|}(lambda)/I_j(lambda)  (+ the same for j = 0),

so N about pi L / eps suffices, the split head's covering number, where the paper's own route needs O(L F / eps^2).

Exponentials are at most 1: <slopes_k, x> is at most lambda and the bias subtracts it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil, log, pi

import numpy as np

from constructions.petrov2024.deconvolution import (
    circle_points,
    deconvolved_amplitudes,
    equispaced_angles,
    favard_multipliers,
    fourier_coefficients,
)
from constructions.petrov2024.equal_area import EqualAreaPartition, cap_share, equal_area_partition
from constructions.petrov2024.smooth import propose_smooth
from constructions.petrov2024.smoothing import core_error, core_parameters, log_normaliser
from constructions.petrov2024.values import CORE
from constructions.proposal import Proposal, Term

__all__ = ["favard_core", "paper_core", "propose_core"]

Evaluate = Callable[[np.ndarray], np.ndarray]

_SOURCE = "Petrov, Torr and Bibi 2024 (arXiv 2402.14753), core head"
_FAVARD = "J. Favard 1937; N. I. Akhiezer and M. G. Krein 1937"
_SAMPLES = 4096


def propose_core(
    evaluate: Evaluate, m: int, eps: float, *, max_tokens: int, deadline: float | None = None
) -> Iterator[Proposal]:
    """Core heads with fitted values for a known f on S^1 or S^2, shortest first. evaluate: (P, m+1) points -> (P, k)."""
    yield from propose_smooth(evaluate, m, eps, CORE, max_tokens=max_tokens, deadline=deadline)


def favard_core(evaluate: Evaluate, n: int, N: int, lam: float) -> Proposal:
    """The core head on N equispaced keys of S^1 that is within (pi/2) L / n, plus aliasing, of f for every L-Lipschitz f.

    evaluate: (P, 2) points -> (P, k); its harmonics are taken from 4096 samples (16 n if that is more), which for an L-Lipschitz f moves
    each by L pi/4096 at most. Raises ValueError unless n >= 1, N >= 2n - 1 and lam > 0.
    """
    if n < 1 or 2 * n - 1 > N or not lam > 0:
        raise ValueError(f"n = {n}, N = {N}, lam = {lam}: need n >= 1, N >= 2n - 1 keys and a sharpness > 0.")
    harmonics = fourier_coefficients(evaluate, max(_SAMPLES, 16 * n))[:n] * favard_multipliers(n)[:, None]
    keys = circle_points(equispaced_angles(N))
    return Proposal(
        slopes=lam * keys,
        biases=np.full(N, -lam),
        values=deconvolved_amplitudes(harmonics, N, lam),
        method=CORE.method,
        grid={"keys": keys, "sharpness": lam, "degree": n - 1},
        terms=(Term("best approximation / L", pi / (2 * n), "(pi/2) / n", _FAVARD),),
    )


def paper_core(
    evaluate: Evaluate, lipschitz: float, size: float, m: int, eps: float, *, max_tokens: int = 100_000
) -> Proposal | None:
    """The paper's core head: s_k = lambda<x, b_k> + ln(omega_k c), values f(b_k), on equal areas of radius delta (`core_parameters`).

    lipschitz: geodesic; size: a bound of |f|. None where more than `max_tokens` cells would be needed. Raises ValueError for
    eps <= 0.
    """
    lam, delta = core_parameters(eps, lipschitz, size, m)
    cells = _cells(m, delta, max_tokens)
    if cells is None:
        return None
    tokens = len(cells.centres)
    low, high = log_normaliser(lam, m)
    return Proposal(
        slopes=lam * cells.centres,
        biases=np.full(tokens, 0.5 * (low + high) - log(tokens)),
        values=np.asarray(evaluate(cells.centres), dtype=np.float64),
        method=CORE.method,
        grid={"keys": cells.centres, "sharpness": lam, "cell radius": delta, "area": 1 / tokens},
        terms=(
            Term("core", core_error(lam, delta, lipschitz, size, m), "L E[theta] + L delta + F E[e^z - 1]", _SOURCE),
        ),
    )


def _cells(m: int, delta: float, longest: int) -> EqualAreaPartition | None:
    """A partition into cells of radius delta at most, the number of cells within a tenth of the least that will do."""
    tokens = ceil(pi / delta * (1 + 1e-12)) if m == 1 else ceil(1 / cap_share(m, min(delta, pi)))
    while tokens <= longest:
        cells = equal_area_partition(m, tokens)
        if float(np.max(cells.radii())) <= delta:
            return cells
        tokens += 1 if m == 1 else max(1, tokens // 10)
    return None
