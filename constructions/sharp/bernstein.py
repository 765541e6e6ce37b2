"""Bernstein heads: polynomials in t = sigmoid(h x) are exact, and analytic functions need O(log^n 1/eps) tokens.

One token per multi-index alpha in n variables with |alpha| <= d, logits <alpha, y> + ln(d! / alpha! (d - |alpha|)!),
y_i = h_i (x_i - m_i). With barycentric t_i = e^{y_i} / (1 + sum_l e^{y_l}), t_0 = 1 - sum t_i, the multinomial theorem
gives the softmax denominator (1 + sum_l e^{y_l})^d, so the weights are the Bernstein basis of the simplex,

    w_alpha = (d; alpha) t^alpha t_0^{d - |alpha|},

C(d + n, n) tokens whose values are the Bernstein coefficients: every polynomial of degree d in t is a head, exactly.
From monomials: t^beta = t^beta (t_0 + ... + t_n)^{d - |beta|} = sum_alpha prod_i C(alpha_i, beta_i) / (d; beta) w_alpha
(Farouki, "The Bernstein polynomial basis: a centennial retrospective", 2012, section 3).

x -> t is analytic, with poles at y = +-i pi (n = 1): f analytic near the box is analytic near its image in t, and
polynomial approximation in t converges geometrically.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, comb, inf, prod

import numpy as np
from jaxtyping import Float, Int
from scipy.special import gammaln
from scipy.stats import qmc

from constructions.proposal import Proposal, Term
from constructions.sharp.arguments import Corner, checked_box, checked_eps, checked_values
from constructions.sharp.deadline import check_deadline, until_deadline
from constructions.sharp.sampled_error import box_samples, sampled_error

__all__ = ["bernstein_coefficients", "bernstein_head", "multi_indices", "propose_bernstein"]

Target = Callable[[Float[np.ndarray, "m n"]], Float[np.ndarray, "m k"]]

# h times half the side, tried for every degree: from nearly linear in x to the whole simplex.
_STEEPNESSES = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 9.0, 13.0)
# Singular values below these shares of the largest are dropped: the values stay small where they can.
_CUTOFFS = (1e-15, 1e-13, 1e-11, 1e-9)
# Shares of eps the search aims at, in order of increasing length.
_TARGETS = (0.97, 0.8, 0.4, 0.1)
# Longer heads are refused: the least-squares problem grows with the cube of the length.
_LONGEST = {1: 320, 2: 700}
_LONGEST_OTHERWISE = 900
# Above this length only steepnesses near the one that was best for a shorter head are tried.
_FULL_SCAN = 70


def multi_indices(degree: int, n: int) -> Int[np.ndarray, "tokens n"]:
    """All alpha in n variables with |alpha| <= degree, in lexicographic order: one row per token."""
    rows = np.zeros((1, 0), dtype=np.int64)
    for _ in range(n):
        left = degree - rows.sum(axis=1)
        parent = np.repeat(np.arange(len(rows)), left + 1)
        entry = np.concatenate([np.arange(room + 1) for room in left])
        rows = np.column_stack([rows[parent], entry])
    return rows


def _log_multinomials(alphas: Int[np.ndarray, "tokens n"], degree: int) -> Float[np.ndarray, " tokens"]:
    """ln of d! / (alpha! (d - |alpha|)!)."""
    rest = degree - alphas.sum(axis=1)
    return gammaln(degree + 1.0) - gammaln(alphas + 1.0).sum(axis=1) - gammaln(rest + 1.0)


def _logits(
    degree: int, steepness: Float[np.ndarray, " n"], middle: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "tokens n"], Float[np.ndarray, " tokens"]]:
    """Slopes and biases of the Bernstein weights, t = 1/(n + 1) at the middle; the common slope is taken off."""
    n = len(steepness)
    alphas = multi_indices(degree, n)
    slopes = (alphas - degree / (n + 1)) * steepness
    biases = _log_multinomials(alphas, degree) - slopes @ middle
    return slopes, biases - 0.5 * (np.max(biases) + np.min(biases))


def bernstein_coefficients(powers: Float[np.ndarray, "tokens k"], degree: int, n: int) -> Float[np.ndarray, "tokens k"]:
    """Bernstein coefficients on the simplex of polynomials in t_1..t_n given by their power coefficients.

    powers: (C(degree + n, n), k), row j the coefficients of t^beta, beta = multi_indices(degree, n)[j]. Exact rational
    arithmetic, rounded once. Raises ValueError where the number of rows does not fit or an entry is not finite.
    """
    betas = [tuple(int(entry) for entry in row) for row in multi_indices(degree, n)]
    powers = np.asarray(powers, dtype=float)
    if powers.ndim != 2 or len(powers) != len(betas):
        raise ValueError(
            f"powers has shape {powers.shape}, but degree {degree} in {n} variables needs {len(betas)} rows."
        )
    if not np.all(np.isfinite(powers)):
        raise ValueError("powers must be finite: a coefficient is infinite or NaN.")
    scaled = {}
    for beta, row in zip(betas, powers, strict=True):
        if np.any(row):
            # 1 / (d; beta), as a product of binomials.
            multinomial = prod(comb(degree - sum(beta[:i]), beta[i]) for i in range(n))
            scaled[beta] = [Fraction(float(entry)) / multinomial for entry in row]
    coefficients = np.zeros_like(powers)
    for j, alpha in enumerate(betas):
        total = [Fraction(0)] * powers.shape[1]
        for beta, row in scaled.items():
            factor = prod(comb(a, b) for a, b in zip(alpha, beta, strict=True))
            if factor:
                total = [have + factor * entry for have, entry in zip(total, row, strict=True)]
        coefficients[j] = [float(entry) for entry in total]
    return coefficients


def bernstein_head(
    coefficients: Float[np.ndarray, "tokens k"], degree: int, lo: Corner, hi: Corner, steepness: Corner
) -> Proposal:
    """The head that equals the polynomial in t with these Bernstein coefficients.

    coefficients: (C(degree + n, n), k), in the order of `multi_indices`; lo, hi: (n,); steepness: h, a number or (n,),
    with t_i = e^{h_i (x_i - m_i)} / (1 + sum_l e^{h_l (x_l - m_l)}), m the middle of the box. There is no
    approximation, so the budget is rounding alone. Raises ValueError for shapes that do not fit or h <= 0.
    """
    low, high = checked_box(lo, hi)
    n = len(low)
    steep = np.broadcast_to(np.asarray(steepness, dtype=float), (n,))
    values = np.asarray(coefficients, dtype=float)
    if degree < 0 or values.ndim != 2 or len(values) != comb(degree + n, n):
        raise ValueError(
            f"coefficients has shape {values.shape}, but degree {degree} in {n} variables has {comb(max(degree, 0) + n, n)}"
            " tokens: give one row per multi-index."
        )
    if not (np.all(np.isfinite(steep)) and np.all(steep > 0)):
        raise ValueError(f"steepness = {steepness} must be positive and finite: t would not depend on x.")
    slopes, biases = _logits(degree, steep, 0.5 * (low + high))
    points = box_samples(low, high, 500)
    _, rounding = sampled_error(slopes, biases, values, points, np.zeros((len(points), values.shape[1])))
    term = Term("rounding", rounding, "u sum_j w_j |v_j - g| (2 + |logit_j|)", "IEEE 754 binary64; sampled")
    grid = {"degree": degree, "steepness": steep}
    return Proposal(slopes, biases, values, "bernstein", grid, (term,), error_estimate=rounding)


@dataclass(frozen=True, eq=False)
class _Fit:
    """Best head of one degree: steepness (in half sides), values and sampled error, rounding included."""

    degree: int
    steepness: float
    values: Float[np.ndarray, "tokens k"]
    error: float


@dataclass(frozen=True, eq=False)
class _Problem:
    """The target, its box and the points where candidates are judged."""

    f: Target
    low: Float[np.ndarray, " n"]
    high: Float[np.ndarray, " n"]
    points: Float[np.ndarray, "m n"]
    targets: Float[np.ndarray, "m k"]

    @property
    def n(self) -> int:
        """Number of variables."""
        return len(self.low)

    def logits(self, degree: int, steepness: float) -> tuple[np.ndarray, np.ndarray]:
        """Slopes and biases with the same steepness, in half sides, on every axis."""
        return _logits(degree, 2 * steepness / (self.high - self.low), 0.5 * (self.low + self.high))


def _fit_points(low: np.ndarray, high: np.ndarray, tokens: int) -> Float[np.ndarray, "m n"]:
    """At least 2.5 points per token with Chebyshev's density: least squares there is close to minimax.

    A tensor grid in up to three variables; beyond, where a grid would explode, cosines of evenly spread points.
    """
    n = len(low)
    if n <= 3:
        side = ceil((2.5 * tokens) ** (1.0 / n)) + 4
        nodes = np.cos(np.pi * np.arange(side) / (side - 1))
        unit = np.stack([axis.ravel() for axis in np.meshgrid(*[nodes] * n, indexing="ij")], axis=1)
    else:
        unit = np.cos(np.pi * qmc.Halton(n, scramble=False).random(4 * tokens + 100))
    return 0.5 * (low + high) + 0.5 * (high - low) * unit


def _fit(problem: _Problem, degree: int, steepnesses: tuple[float, ...], deadline: float | None = None) -> _Fit:
    """Least squares for the values, over steepnesses and cut-offs.

    The Bernstein weights on a part of the simplex are nearly dependent; their singular vectors are the well-conditioned
    basis, and leaving out the smallest keeps values (hence rounding) moderate at no loss of accuracy.
    Raises DeadlinePassed where `deadline` passes.
    """
    check_deadline(deadline)
    points = _fit_points(problem.low, problem.high, comb(degree + problem.n, problem.n))
    targets = checked_values(problem.f, points)
    best = _Fit(degree, steepnesses[0], np.zeros((0, 0)), inf)
    for steepness in steepnesses:
        check_deadline(deadline, 10.0 * len(points) * comb(degree + problem.n, problem.n) ** 2)
        slopes, biases = problem.logits(degree, steepness)
        logits = points @ slopes.T + biases
        weights = np.exp(logits - np.max(logits, axis=1, keepdims=True))
        weights /= np.sum(weights, axis=1, keepdims=True)
        scale = np.max(weights, axis=0)
        # Tokens that never carry weight would only get huge values.
        scale = np.maximum(scale, 1e-8)
        left, singular, right = np.linalg.svd(weights / scale, full_matrices=False)
        projected = left.T @ targets
        for cutoff in _CUTOFFS:
            kept = singular > cutoff * singular[0]
            values = (right[kept].T @ (projected[kept] / singular[kept, None])) / scale[:, None]
            error = sum(sampled_error(slopes, biases, values, problem.points, problem.targets, deadline))
            if error < best.error:
                best = _Fit(degree, steepness, values, error)
    return best


def _nearby(steepness: float) -> tuple[float, ...]:
    """Steepnesses around one."""
    return (0.7 * steepness, steepness, 1.4 * steepness)


def propose_bernstein(
    f: Target, lo: Corner, hi: Corner, eps: float, *, max_tokens: int = 2_000, deadline: float | None = None
) -> Iterator[Proposal]:
    """Heads of the smallest degree whose sampled error is within eps, then of higher degrees.

    f: (m, n) -> (m, k), analytic near the box (others converge too slowly to be found); lo, hi: (n,), or numbers for
    n = 1. Nothing is yielded beyond max_tokens, nor beyond a few hundred tokens. error_estimate is sampled, plus
    rounding. deadline: of time.monotonic(), after which nothing more is yielded. Raises ValueError for bad arguments or
    where f is not finite.
    """
    low, high = checked_box(lo, hi)
    return until_deadline(_ladder(f, low, high, checked_eps(eps), max_tokens, deadline))


def _ladder(
    f: Target, low: np.ndarray, high: np.ndarray, eps: float, max_tokens: int, deadline: float | None
) -> Iterator[Proposal]:
    """The generator behind `propose_bernstein`, whose arguments are checked before the first proposal is asked for."""
    check_deadline(deadline)
    n = len(low)
    points = box_samples(low, high, 1_501 if n == 1 else 1_500)
    problem = _Problem(f, low, high, points, checked_values(f, points))
    fine = box_samples(low, high, 6_007 if n == 1 else 6_000)
    fine_targets = checked_values(f, fine)
    longest = min(max_tokens, _LONGEST.get(n, _LONGEST_OTHERWISE))
    highest = -1
    while comb(highest + 1 + n, n) <= longest:
        highest += 1
    fits: dict[int, _Fit] = {}

    def fit(degree: int, near: _Fit | None) -> _Fit:
        if degree not in fits:
            full = near is None or comb(degree + n, n) <= _FULL_SCAN
            fits[degree] = _fit(
                problem, degree, _STEEPNESSES if full or near is None else _nearby(near.steepness), deadline
            )
        return fits[degree]

    yielded = -1
    for target in _TARGETS:
        found = _smallest_degree(fit, target * eps, highest)
        if found is None:
            return
        if found.degree <= yielded:
            continue
        slopes, biases = problem.logits(found.degree, found.steepness)
        error, rounding = sampled_error(slopes, biases, found.values, fine, fine_targets, deadline)
        if error + rounding > 0.995 * eps:
            continue
        yielded = found.degree
        terms = (
            Term("fit", error, "max |g - f| at samples", "least squares on Chebyshev points"),
            Term("rounding", rounding, "u sum_j w_j |v_j - g| (2 + |logit_j|)", "IEEE 754 binary64; sampled"),
        )
        grid = {"degree": found.degree, "steepness": 2 * found.steepness / (high - low)}
        yield Proposal(slopes, biases, found.values, "bernstein", grid, terms, error_estimate=error + rounding)


def _smallest_degree(fit: Callable[[int, _Fit | None], _Fit], eps: float, highest: int) -> _Fit | None:
    """Doubling until the error is <= eps, then bisection; None where the highest degree is not enough."""
    if highest < 0:
        return None
    low, best = -1, fit(0, None)
    while best.error > eps:
        low = best.degree
        if low == highest:
            return None
        best = fit(min(highest, max(1, 2 * low)), best)
    while best.degree - low > 1:
        trial = fit((low + best.degree) // 2, best)
        if trial.error <= eps:
            best = trial
        else:
            low = trial.degree
    return best
