"""The same T + 2 layers, sup norm *everywhere*: M parallel codes on grids shifted against each other, averaged.

Grid s = 0..M-1 starts at lo - s h / M, with h = len / (2^K - 1 + 1/M) so that 2^K cells of each still cover [lo, hi]. Near a jump of
one grid its code sweeps over others, and its output is somewhere among f's values: off by at most osc f = max f - min f. The
jumps of a coordinate are h/M apart over all grids, so with strips of half-width below h/2M a coordinate lies in the strip of at
most one grid, a sequence of n = T d coordinates in those of at most n grids, and

    sup |average - f| <= (1 - n/M) modulus(h) + (n/M) osc f,     modulus(h) <= L_inf h / 2  (L sqrt(n) h / 2 for L Lipschitz in l2).

As M codes reach R^M, this does not contradict the covering theorem that forbids it for one (obstruction.py): M > n.
The grids' errors partly cancel in the average, so K and M are chosen with the first term sampled; what is true the kernel finds
out, by taking the strips as cells of their own.
"""

from __future__ import annotations

from math import log

import numpy as np
from jaxtyping import Float

from constructions.errors import CompileError, EpsilonError, TooLongError
from constructions.petrov2024.kolmogorov import Code, most_digits
from constructions.petrov2024.sequence import Grid, SequenceProposal, assemble, modulus, sequence_target
from verify import Box, ExpressionTarget
from verify.sequences import Sequences

__all__ = ["compile_shifted", "shifted_grids"]


def shifted_grids(T: int, box: Box, K: int, copies: int) -> tuple[Grid, ...]:
    """M grids of 2^K cells per coordinate, shifted by h/M, each covering the box."""
    lo, hi = box.bounds
    code = Code(T, box.dimension, K)
    width = (hi - lo) / (2**K - 1 + 1 / copies)
    # one part in 10^12 more, so that rounding leaves no sliver uncovered
    width = width * (1 + 1e-12)
    return tuple(Grid(code, lo - s * width / copies, width) for s in range(copies))


def compile_shifted(
    f: object,
    T: int,
    box: Box,
    eps: float,
    *,
    K: int | None = None,
    copies: int | None = None,
    max_tokens: int = 300_000,
) -> SequenceProposal:
    """A transformer of T + 2 attention layers within eps of a sequence function everywhere.

    f, box: as for `compile_sequence`. K, copies (M): by default the pair with the fewest tokens whose estimate is below eps. Raises
    EpsilonError or TooLongError with numbers where there is none within float64's digits or within max_tokens.
    """
    if not (np.isfinite(eps) and eps > 0):
        raise EpsilonError(value=eps)
    if copies is not None and (isinstance(copies, bool) or copies < 1):
        raise CompileError(f"copies = {copies!r} is not a number of grids. Pass a whole number >= 1.")
    target, k = sequence_target(f, T, box)
    digits, number = _choose(target, T, box, eps, K, copies, max_tokens)
    grids = shifted_grids(T, box, digits, number)
    found = [modulus(target, grid, box) for grid in grids]
    reach = log(40 * box.dimension * grids[0].code.size)
    sharpness = 8 * number * reach  # strips of half-width reach h / 2B = h / 16M
    model, prefix = assemble(grids, [values for _, values in found], k, sharpness)
    cuts = []
    for i in range(box.dimension):
        jumps = np.concatenate([grid.jumps(i) for grid in grids])
        half = reach / (2 * sharpness) * grids[0].width[i]
        cuts.append(np.sort(np.concatenate([jumps - half, jumps + half])))
    size = max(m for m, _ in found)
    notes = {"K": digits, "copies": number, "codes": grids[0].code.size, "sharpness": sharpness, "layers": T + 2}
    return SequenceProposal(model, prefix, target, Sequences(T, box), eps, tuple(cuts), size, notes)


def _choose(
    target: ExpressionTarget, T: int, box: Box, eps: float, K: int | None, copies: int | None, max_tokens: int
) -> tuple[int, int]:
    """(K, M) with the fewest tokens among those whose estimate, (n/M) osc f plus the sampled error of the average, is below eps."""
    n = T * box.dimension
    points = Sequences(T, box).flattened.sample(1000)
    values = target.evaluate(points)
    oscillation = float(np.ptp(values, axis=0).max()) * 1.05
    best: tuple[int, int, int] | None = None
    least = np.inf
    for digits in range(1, most_digits() // n + 1) if K is None else [K]:
        per_copy = T * (2 ** (digits * n) + 1) + box.dimension * 2**digits
        number = copies or n + 1
        while best is None or number * per_copy + 1 < best[0]:
            if number * per_copy + 1 > max_tokens and copies is None:
                break
            averaged = _sampled(target, shifted_grids(T, box, digits, number), points, values)
            size = n / number * oscillation + averaged
            least = min(least, size)
            if size <= 0.97 * eps or copies is not None:
                best = (number * per_copy + 1, digits, number)
                break
            if number >= 8 * n and averaged > 0.97 * eps:
                break  # more copies of cells this large do not help
            # no fewer copies can do than those whose strips alone would leave room
            number = max(number + max(1, number // 8), int(n * oscillation / eps))
    if best is None:
        raise EpsilonError(
            value=eps,
            reachable=1.05 * least,
            dominating=f"the strips and cells of what max_tokens = {max_tokens} allows",
        )
    if best[0] > max_tokens:
        raise TooLongError(needed=best[0], max_tokens=max_tokens)
    return best[1], best[2]


def _sampled(
    target: ExpressionTarget,
    grids: tuple[Grid, ...],
    points: Float[np.ndarray, "samples n"],
    values: Float[np.ndarray, "samples outputs"],
) -> float:
    """The sampled error of the average over the grids of f at the centres of the cells that hold a point."""
    lo, hi = points.min(axis=0), points.max(axis=0)
    mean = np.zeros_like(values)
    for grid in grids:
        start, width = np.tile(grid.start, grid.code.T), np.tile(grid.width, grid.code.T)
        cell = np.clip(np.floor((points - start) / width), 0, 2**grid.code.K - 1)
        left, right = np.maximum(start + cell * width, lo), np.minimum(start + (cell + 1) * width, hi)
        mean += target.evaluate((left + right) / 2) / len(grids)
    return float(np.abs(mean - values).max())
