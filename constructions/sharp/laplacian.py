"""Laplacian-corrected values: Gaussian keys on a lattice approximate smooth functions to any even order.

Keys x_j on a lattice of step h, weights proportional to exp(-|x - x_j|^2 / 2 sigma^2), values

    v_j = sum_{k < M} (-t)^k / k! Delta^k f(x_j),   t = sigma^2 / 2

(Maz'ya and Schmidt, "Approximate Approximations", 2007, chapter 2). The error has three parts.

1. Inversion of the heat semigroup. Averaging against the Gaussian is e^{t Delta}. With phi(s) = sum_{k<M} (-s)^k/k!
   Delta^k e^{s Delta} f, phi(0) = f and the sum for phi' telescopes to (-1)^{M-1} s^{M-1}/(M-1)! Delta^M e^{s Delta} f, so
   |phi(t) - f| <= t^M / M! sup |Delta^M f|.
2. Saturation: the sum over the lattice is not the integral. By Poisson summation the first harmonics of an axis have
   size 2 e^{-2 pi^2 (sigma/h)^2}; numerator and denominator carry the same one (constants are reproduced), and the
   Gaussian turns e^{2 pi i y/h} v into a shift of v by 2 pi i sigma^2/h, so the difference is, to first order,
   4 pi (sigma^2/h) e^{-2 pi^2 (sigma/h)^2} |d_i f| for each axis: it does not vanish as h does, relative to h.
   For A_n* the shortest dual vector replaces 1/h.
3. Truncation: keys further than mu sigma from the box are left out; a Gaussian beyond one face lacks
   int_{mu sigma}^oo y G(y) dy |grad f| = sigma e^{-mu^2/2} / sqrt(2 pi) |grad f|, to first order in f.

These choose where a search starts; what is accepted is decided by errors sampled in the box.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import exp, factorial, inf, isfinite, log, pi, sqrt

import numpy as np
import sympy
from jaxtyping import Float

from constructions.proposal import Proposal, Term
from constructions.sharp.arguments import Corner, checked_box, checked_eps
from constructions.sharp.deadline import DeadlinePassed, check_deadline
from constructions.sharp.heat_series import HeatSeries, heat_series
from constructions.sharp.lattice import Lattice, a_star, points_near_box
from constructions.sharp.sampled_error import box_samples, sampled_error

__all__ = ["LatticeChoice", "laplacian_head", "propose_laplacian"]

_HIGHEST_ORDER = {1: 8, 2: 6}
# How symbolic or numeric work ends on an expression for which there is nothing to propose.
_INAPPLICABLE = (DeadlinePassed, ArithmeticError, ValueError, TypeError, RecursionError, MemoryError)
# Shares of eps the search aims at, in order of increasing length.
_TARGETS = (0.97, 0.85, 0.6, 0.3)
# Products tokens * samples that a whole search may compute.
_SEARCH_BUDGET = 150_000_000
# No head of a search is longer, whatever max_tokens allows: bounds its memory.
_LONGEST = 50_000.0


@dataclass(frozen=True)
class LatticeChoice:
    """The parameters of one head: lattice step, sigma / step, order M, margin / sigma, and which lattice."""

    spacing: float
    ratio: float
    order: int
    margin: float
    lattice: str = "cubic"

    @property
    def sigma(self) -> float:
        """Standard deviation of the Gaussian per axis."""
        return self.ratio * self.spacing


def _unit_lattice(name: str, n: int) -> Lattice:
    """The lattice scaled so that its shortest dual vector has length 1, as that of the cubic lattice of step 1.

    The dual of A_n* (at determinant 1/sqrt(n+1)) is A_n, with shortest vectors of length sqrt(2).
    """
    if name == "cubic":
        return Lattice("cubic", np.eye(n), np.concatenate([-np.ones((n, 1)), np.eye(n)], axis=1))
    return a_star(n).stretched(np.full(n, sqrt(2.0)))


def _keys(choice: LatticeChoice, lo: np.ndarray, hi: np.ndarray) -> Float[np.ndarray, "tokens n"]:
    """Lattice points within the margin of the box, placed symmetrically about its middle."""
    n = len(lo)
    lattice = _unit_lattice(choice.lattice, n).stretched(np.full(n, choice.spacing))
    reach = choice.margin * choice.sigma
    middle = 0.5 * (lo + hi)
    if choice.lattice == "cubic":
        # As many points per axis as fit into the enlarged side, centred.
        counts = np.floor((hi - lo + 2 * reach) / choice.spacing) + 1
        middle = middle + np.where(counts % 2 == 0, 0.5, 0.0) * choice.spacing
    return points_near_box(lattice, middle, lo, hi, reach)


def _expected_tokens(choice: LatticeChoice, lengths: np.ndarray) -> float:
    """Volume of the enlarged box over the volume of a cell: cheap, for refusing before anything is enumerated."""
    cell = _unit_lattice(choice.lattice, len(lengths)).determinant * choice.spacing ** len(lengths)
    return float(np.prod(lengths + 2 * choice.margin * choice.sigma)) / cell


@dataclass(frozen=True, eq=False)
class _Problem:
    """What stays the same during a search: the target, the box, and the sample points with the target there."""

    series: HeatSeries
    lo: Float[np.ndarray, " n"]
    hi: Float[np.ndarray, " n"]
    points: Float[np.ndarray, "m n"]
    targets: Float[np.ndarray, "m k"]
    deadline: float | None = None

    def head(self, choice: LatticeChoice) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Slopes, biases and values; None where f or a derivative is not finite at a key."""
        check_deadline(self.deadline)
        keys = _keys(choice, self.lo, self.hi)
        if len(keys) == 0:
            return None
        t = choice.sigma**2 / 2
        values = self.series.values(keys, t, choice.order)
        if not np.all(np.isfinite(values)):
            return None
        middle = 0.5 * (self.lo + self.hi)
        centred = keys - middle
        slopes = centred / choice.sigma**2
        biases = -0.5 * np.sum(centred**2, axis=1) / choice.sigma**2 - slopes @ middle
        return slopes, biases - 0.5 * (np.max(biases) + np.min(biases)), values

    def error(self, choice: LatticeChoice) -> tuple[int, float]:
        """Number of tokens and sampled error, rounding included; infinite where the head does not exist."""
        built = self.head(choice)
        if built is None:
            return 0, inf
        return len(built[1]), sum(sampled_error(*built, self.points, self.targets, self.deadline))


def _problem(
    series: HeatSeries, lo: np.ndarray, hi: np.ndarray, count: int, deadline: float | None = None
) -> _Problem | None:
    """The target sampled at about `count` points; None where it is not finite."""
    check_deadline(deadline)
    points = box_samples(lo, hi, count)
    targets = series.powers[0](points)
    return _Problem(series, lo, hi, points, targets, deadline) if np.all(np.isfinite(targets)) else None


@dataclass(frozen=True)
class _Sizes:
    """Sampled sup norms: |d_i f| in the box and on its faces, and |Delta^M f| for M = 1, 2, ..."""

    slope: float
    edge_slope: float
    powers: tuple[float, ...]


def _sizes(problem: _Problem) -> _Sizes:
    """Sup norms over the samples; Laplacian powers end at the first that is not finite in the box."""
    powers = []
    for power in problem.series.powers[1:]:
        check_deadline(problem.deadline)
        size = float(np.max(np.abs(power(problem.points))))
        if not isfinite(size):
            break
        powers.append(size)
    slopes = np.max(np.abs(problem.series.gradient(problem.points)), axis=1)
    on_face = np.any((problem.points == problem.lo) | (problem.points == problem.hi), axis=1)
    return _Sizes(float(np.max(slopes)), float(np.max(slopes[on_face])), tuple(powers))


def _budget(choice: LatticeChoice, sizes: _Sizes, n: int) -> tuple[float, float, float]:
    """The three parts of the error derived at the head of this file."""
    t = choice.sigma**2 / 2
    inversion = t**choice.order / factorial(choice.order) * sizes.powers[choice.order - 1]
    saturation = n * 4 * pi * choice.ratio * choice.sigma * exp(-2 * (pi * choice.ratio) ** 2) * sizes.slope
    truncation = n * choice.sigma * exp(-(choice.margin**2) / 2) / sqrt(2 * pi) * sizes.edge_slope
    return inversion, saturation, truncation


def _start(order: int, sizes: _Sizes, n: int, eps: float, lengths: np.ndarray, lattice: str) -> LatticeChoice:
    """The parameters for which the inversion error is eps/2 and saturation and truncation are eps/4 each."""
    size = sizes.powers[order - 1]
    longest = float(np.max(lengths))
    t = (0.5 * eps * factorial(order) / size) ** (1.0 / order) if size > 0 else inf
    sigma = min(sqrt(2 * t), longest)
    per_axis = max(n * sigma * sizes.slope / (0.25 * eps), 1.0)
    at_faces = max(n * sigma * sizes.edge_slope / (0.25 * eps), 1.0)
    margin = sqrt(2 * log(max(at_faces / sqrt(2 * pi), 1.01)))
    ratio = sqrt(log(max(4 * pi * per_axis * 0.8, 2.0)) / 2) / pi
    return LatticeChoice(sigma / ratio, ratio, order, margin, lattice)


def _widest(problem: _Problem, choice: LatticeChoice, eps: float, steps: int, most: float) -> tuple[int, LatticeChoice]:
    """The largest multiple of the spacing whose sampled error is <= eps, by bisection; (0, ...) if none is found."""
    lengths = problem.hi - problem.lo
    best: tuple[int, LatticeChoice] = (0, choice)
    low, high = 0.25, 4.0
    for _ in range(steps):
        factor = sqrt(low * high)
        trial = replace(choice, spacing=factor * choice.spacing)
        # A head with too many tokens is not tried at all; it could only be accepted by going wider.
        tokens, error = (0, inf) if _expected_tokens(trial, lengths) > most else problem.error(trial)
        if error <= eps:
            low = factor
            if tokens and (best[0] == 0 or tokens < best[0]):
                best = (tokens, trial)
        elif tokens == 0 and _expected_tokens(trial, lengths) > most:
            low = factor
        else:
            high = factor
    return best


def _search(
    problem: _Problem, sizes: _Sizes, eps: float, max_tokens: int, orders: Sequence[int]
) -> tuple[int, LatticeChoice] | None:
    """The fewest tokens over orders, sigma/h, margins and lattices, spacing by bisection; None if none is accepted."""
    n = len(problem.lo)
    lengths = problem.hi - problem.lo
    lattices = ("cubic",) if n == 1 or n > 5 else ("cubic", f"A_{n}*")
    starts = [_start(order, sizes, n, eps, lengths, name) for order in orders for name in lattices]
    starts.sort(key=lambda choice: _expected_tokens(choice, lengths))
    best: tuple[int, LatticeChoice] | None = None
    spent = 0.0
    # The most promising start is tried in full; each next one only while the budget lasts.
    for start in starts[:6]:
        for ratio in (1.0, 0.85, 1.15):
            for margin in (0.8, 0.6, 1.0, 0.4, 1.2):
                most = min(1.5 * max_tokens, _LONGEST) if best is None else 1.1 * best[0]
                trial = replace(
                    start, spacing=start.spacing / ratio, ratio=start.ratio * ratio, margin=start.margin * margin
                )
                cost = min(_expected_tokens(trial, lengths), most) * len(problem.points)
                if spent + 8 * cost > _SEARCH_BUDGET and best is not None:
                    return best
                if spent > 2 * _SEARCH_BUDGET:
                    return best
                tokens, choice = _widest(problem, trial, eps, 8, most)
                spent += 8 * cost
                if tokens and (best is None or tokens < best[0]):
                    best = (tokens, choice)
    return best


def _checked_arguments(
    lo: Corner, hi: Corner, symbols: Sequence[sympy.Symbol]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The box as (n,) arrays; ValueError where it does not fit the symbols."""
    low, high = checked_box(lo, hi)
    if len(low) != len(symbols):
        raise ValueError(f"lo and hi must have one entry per symbol {tuple(symbols)}, got {len(low)}.")
    return low, high


def _proposal(problem: _Problem, choice: LatticeChoice, sizes: _Sizes) -> Proposal | None:
    """The head with its budget; the error estimate comes from the samples of `problem`."""
    built = problem.head(choice)
    if built is None:
        return None
    error, rounding = sampled_error(*built, problem.points, problem.targets, problem.deadline)
    # The sum over keys stands for the integral up to half a step beyond the outermost key.
    keys = _keys(choice, problem.lo, problem.hi)
    beyond = np.minimum(problem.lo - np.min(keys, axis=0), np.max(keys, axis=0) - problem.hi)
    reached = max(0.0, float(np.min(beyond)) + 0.5 * choice.spacing) / choice.sigma
    inversion, saturation, truncation = _budget(replace(choice, margin=reached), sizes, len(problem.lo))
    source = "Maz'ya and Schmidt (2007), approximate approximations"
    terms = (
        Term("heat inversion", inversion, "t^M / M! sup |Delta^M f|, t = sigma^2/2", source),
        Term(
            "saturation", saturation, "4 pi (sigma^2/h) e^{-2 pi^2 sigma^2/h^2} |d_i f| per axis, first order", source
        ),
        Term("truncation", truncation, "sigma e^{-mu^2/2} / sqrt(2 pi) |grad f| per axis, margin mu sigma", source),
        Term("rounding", rounding, "u sum_j w_j |v_j - g| (2 + |logit_j|)", "IEEE 754 binary64"),
    )
    grid = {
        "spacing": choice.spacing,
        "sigma": choice.sigma,
        "order": choice.order,
        "margin": choice.margin * choice.sigma,
        "lattice": choice.lattice,
    }
    return Proposal(*built, "laplacian", grid, terms, error_estimate=error + rounding)


def laplacian_head(
    expr: sympy.Expr | Sequence[sympy.Expr],
    symbols: Sequence[sympy.Symbol],
    lo: Corner,
    hi: Corner,
    choice: LatticeChoice,
    samples: int = 2_000,
) -> Proposal:
    """The head with exactly these parameters, for studying rates: the error falls like spacing^(2 order).

    lo, hi: (n,). Raises ValueError for a box that does not fit the symbols, where the order is out of reach (see
    `heat_series`), or where f or a derivative is not finite at a key or in the box.
    """
    low, high = _checked_arguments(lo, hi, symbols)
    series = heat_series(expr, symbols, choice.order)
    problem = _problem(series, low, high, samples)
    sizes = None if problem is None else _sizes(problem)
    if problem is None or sizes is None or len(sizes.powers) < choice.order:
        raise ValueError(f"expr = {expr} has no finite Laplacian power {choice.order} on the box: lower the order.")
    proposal = _proposal(problem, choice, sizes)
    if proposal is None:
        raise ValueError(f"expr = {expr} is not finite on a margin of {choice.margin} sigma: lower the margin.")
    return proposal


def propose_laplacian(
    expr: sympy.Expr | Sequence[sympy.Expr],
    symbols: Sequence[sympy.Symbol],
    lo: Corner,
    hi: Corner,
    eps: float,
    *,
    max_tokens: int = 20_000,
    deadline: float | None = None,
) -> Iterator[Proposal]:
    """Heads for a smooth f given in closed form, with the fewest tokens found first, then with more slack.

    expr: an expression in `symbols`, or a list of k of them; lo, hi: (n,), or numbers for n = 1. Nothing is yielded
    where f is not smooth, not finite on the margin it would need, or needs more than max_tokens.
    Nor where symbolic work breaks down (too deep, integers too large). error_estimate is sampled, plus rounding.
    deadline: of time.monotonic(), after which nothing more is yielded. Raises ValueError for bad arguments.
    """
    low, high = _checked_arguments(lo, hi, symbols)
    checked_eps(eps)
    try:
        check_deadline(deadline)
        series = heat_series(expr, symbols, _HIGHEST_ORDER.get(len(low), 4), deadline)
    except (DeadlinePassed, ArithmeticError, RecursionError, MemoryError):
        return iter(())
    return _applicable(_ladder(series, low, high, float(eps), max_tokens, deadline))


def _applicable(proposals: Iterator[Proposal]) -> Iterator[Proposal]:
    """The same proposals, ending without an error where the expression or a derivative cannot be evaluated."""
    try:
        yield from proposals
    except _INAPPLICABLE:
        return


def _ladder(
    series: HeatSeries, low: np.ndarray, high: np.ndarray, eps: float, max_tokens: int, deadline: float | None
) -> Iterator[Proposal]:
    """The generator behind `propose_laplacian`, whose arguments are checked before the first proposal is asked for."""
    n = len(low)
    coarse = _problem(series, low, high, 500 if n == 1 else 700, deadline)
    fine = _problem(series, low, high, 4_001 if n == 1 else 4_000, deadline)
    if coarse is None or fine is None:
        return
    sizes = _sizes(fine)
    if not sizes.powers or not isfinite(sizes.slope):
        return
    orders: Sequence[int] = range(1, len(sizes.powers) + 1)
    longest = 0
    for target in _TARGETS:
        found = _search(coarse, sizes, target * eps, max_tokens, orders)
        if found is None:
            return
        tokens, choice = found
        if tokens > max_tokens:
            return
        # Fallbacks differ by little: the order that won and its neighbours are enough.
        orders = [order for order in orders if abs(order - choice.order) <= 1]
        proposal = _proposal(fine, choice, sizes)
        if proposal is not None and proposal.length > longest and proposal.error_estimate <= 0.995 * eps:
            longest = proposal.length
            yield proposal
