"""The sharp Lipschitz construction: keys at the centres of a covering of the box, values f there.

For f L-Lipschitz, weights w_j(x) proportional to exp(-beta |x - c_j|^2) and values v_j = f(p_j), p_j the projection of
c_j onto the box,

    |sum_j w_j v_j - f(x)| <= L sum_j w_j |x - p_j| <= L sum_j w_j |x - c_j|,

because projections onto convex sets do not increase distances to points of the set. With cells of covering radius R
the sum is R up to an excess from the softmax not being a maximum, so the number of tokens is the covering number of
the box at radius eps/L. In one dimension that is ceil(L (hi - lo) / 2 eps), which no head can beat: a zigzag of slopes
+-L changes sign that often, and a sum of N exponentials has at most N - 1 real zeros (Descartes, Laguerre).

The excess where cells are boxes of widths h_i and the weights products over the axes with beta_i h_i^2 = b. Between
neighbouring centres of one axis at distances (h - s)/2 and (h + s)/2 the odds are e^{b s/h}, so the pair contributes

    E d = h/2 - (s/2) tanh(b s / 2h) <= h/2,    E d^2 = h^2/4 + s^2/4 - (h s/2) tanh(b s / 2h) <= h^2/4   (b >= 2.2),

and the next centres, at 3h/2 from the midpoint with relative weight e^{-2b}, add 2 e^{-2b} of h/2 to E d and 8 e^{-2b}
of h^2/4 to E d^2, at worst in the middle (s = 0); 2.1 and 9 below include the centres beyond (b >= 4). Hence
* "l1" (and n = 1): sum_i E d_i, relative excess 2.1 e^{-2b};
* "l2": (sum_i E d_i^2)^{1/2}, relative excess 4.5 e^{-2b};
* "linf": max_i d_i <= R + max_i [far_i] s_i/2 for R = max h_i/2, and s/(1 + e^{bs/h}) <= .2785 h/b: relative excess
  .2785 n/b, plus 2.1 n e^{-2b}. This one decays slowly: corners of cubes need a large b.

For A_n* the excess is small for a different reason. At the centre o of a Delaunay simplex its n + 1 vertices tie at
distance R; around it, u = x - o, the vertices give sum w d^2 = R^2 + |u|^2 - 2 <u, E_w(c - o)>, and the centroid of a
simplex of A_n* is o, so that <u, E_w(c - o)> is about 2 beta Var<u, c - o>, which exceeds |u|^2/2 for beta R^2 = 8. The
other lattice points are further from o, by a factor of 2 in the plane, and weigh e^{-3 beta R^2}. Stretching moves the
centroid away from o, which costs a little; what remains is measured at the worst of many points and reported as such.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil, exp, isfinite

import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree

from constructions.proposal import Proposal, Term
from constructions.sharp.arguments import Corner, checked_box, checked_eps, checked_values
from constructions.sharp.box_coverings import BoxCovering, box_coverings

__all__ = ["covering_length", "propose_covering"]

_NORMS = ("l1", "l2", "linf")
# What is left to the prover, and to the softmax, in order of increasing length. In the plane and above the first
# covering is never exactly eps/L: nobody could prove it.
_SLACKS = (0.01, 0.02, 0.04, 0.08, 0.16)
_SHARPNESS = 8.0
# The softmax may use this share of the slack (the excess is then 1e-3 at 1 %), or 1e-4 where that is more.
_SHARE_OF_SOFTMAX = 0.1
_TOLERATED_EXCESS = 1e-4
_UNIT_ROUNDOFF = 2.0**-53


def _checked_arguments(
    lipschitz: float, lo: Corner, hi: Corner, eps: float, norm: str
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The box as two (n,) arrays; ValueError for arguments no covering exists for."""
    low, high = checked_box(lo, hi)
    checked_eps(eps)
    if not (isfinite(lipschitz) and lipschitz >= 0):
        raise ValueError(
            f"lipschitz = {lipschitz} must be finite and not negative: bound the slope of the target first."
        )
    if norm not in _NORMS:
        raise ValueError(f"norm = {norm!r} is unknown: use one of {', '.join(_NORMS)}.")
    return low, high


def _half_diagonal(lengths: np.ndarray, norm: str) -> float:
    """Distance from the centre of a box to its corners."""
    return float(np.linalg.norm(lengths / 2, ord={"l1": 1, "l2": 2, "linf": np.inf}[norm]))


def _first_slack(n: int, norm: str) -> float:
    """Slack of the shortest proposal: 0 where the excess is known in closed form and the integers leave some anyway."""
    return _SLACKS[0] if n > 1 and norm == "l2" else 0.0


def covering_length(
    lipschitz: float,
    lo: Corner,
    hi: Corner,
    eps: float,
    norm: str = "l2",
    slack: float | None = None,
) -> int:
    """Number of tokens of the shortest covering with L R <= (1 - slack) eps, without building it.

    lo, hi: (n,), or numbers for n = 1. slack: in [0, 1); by default that of the first proposal: 0 in one dimension and for "l1" and "linf", else 1 %.
    Exact, but for A_n* with more than 10^5 cells in n >= 3 (a mean over its positions). One dimension:
    ceil(L (hi - lo) / 2 (1 - slack) eps); where that quotient is (nearly) an integer nothing is left for the softmax,
    and the first proposal has one token more. Raises ValueError for bad arguments. Memory is bounded for any answer.
    """
    low, high = _checked_arguments(lipschitz, lo, hi, eps, norm)
    lengths = high - low
    if slack is None:
        slack = _first_slack(len(lengths), norm)
    if not 0 <= slack < 1:
        raise ValueError(f"slack = {slack} must lie in [0, 1): it is the share of eps left to the prover.")
    if lipschitz * _half_diagonal(lengths, norm) <= eps:
        return 1
    radius = (1 - slack) * eps / lipschitz
    if not np.all(lengths / radius < 1e290):
        raise ValueError(f"eps = {eps} is out of reach for lipschitz = {lipschitz}: the count overflows. Increase eps.")
    return box_coverings(lengths, radius, norm)[0].length


def _product_excess(norm: str, n: int, b: float) -> float:
    """Relative excess of product weights on boxes (derived at the head of this file), valid for b >= 4."""
    if n == 1 or norm == "l1":
        return 2.1 * exp(-2 * b)
    if norm == "l2":
        return 4.5 * exp(-2 * b)
    return 0.2785 * n / b + 2.1 * n * exp(-2 * b)


def _product_sharpness(norm: str, n: int, gap: float) -> float | None:
    """b = beta h^2 whose excess leaves most of the relative gap eps/LR - 1; None if even a large b cannot."""
    if norm == "linf" and n > 1:
        b = max(_SHARPNESS, 0.28 * n / min(gap / 4, 0.01))
        return b if b <= 1e5 else None
    for b in np.arange(_SHARPNESS, 19.0):
        if _product_excess(norm, n, float(b)) <= min(gap / 2, _TOLERATED_EXCESS):
            return float(b)
    return None


def _worst_mean_distance(
    centres: Float[np.ndarray, "tokens n"], beta: float, radius: float, half: Float[np.ndarray, " n"]
) -> float:
    """sup over the box of sum_j w_j |x - c_j|, sampled: random points, then a climb from the worst of them.

    Only the nearest centres carry weight, so each sample costs one k-nearest-neighbour query.
    """
    n = centres.shape[1]
    rng = np.random.default_rng(0)
    tree = KDTree(centres)
    neighbours = min(len(centres), (0, 8, 24, 60, 120, 250)[n])

    def mean_distance(x: np.ndarray) -> np.ndarray:
        distance, _ = tree.query(x, k=neighbours)
        distance = np.reshape(distance, (len(x), neighbours))
        weight = np.exp(-beta * (distance**2 - distance[:, :1] ** 2))
        return np.sum(weight * distance, axis=1) / np.sum(weight, axis=1)

    start = centres[rng.choice(len(centres), size=1500)] + radius * rng.uniform(-1, 1, size=(1500, n))
    points = np.clip(start, -half, half)
    values = mean_distance(points)
    for step in radius * 0.25 * 0.6 ** np.arange(12):
        top = points[np.argsort(values)[-60:]]
        points = np.clip(np.repeat(top, 12, axis=0) + step * rng.normal(size=(720, n)), -half, half)
        points = np.concatenate([points, top])
        values = mean_distance(points)
    return float(np.max(values))


def _logits(
    centres: np.ndarray, precision: np.ndarray, middle: np.ndarray
) -> tuple[Float[np.ndarray, "tokens n"], Float[np.ndarray, " tokens"]]:
    """Slopes and biases of -sum_i beta_i (x_i - m_i - c_i)^2 without its part common to all tokens.

    Centres c are relative to the middle m of the box, so slopes are as small as they can be; the biases
    -beta c^2 - 2 beta c m are shifted to be as much above as below 0.
    """
    slopes = 2.0 * precision * centres
    biases = -np.sum(precision * centres**2, axis=1) - slopes @ middle
    return slopes, biases - 0.5 * (np.max(biases) + np.min(biases))


def _with_softmax(covering: BoxCovering, eps_radius: float, norm: str, half: np.ndarray) -> tuple | None:
    """Centres, per-axis precision, relative excess and its inequality; None if the covering leaves no room for it."""
    n = len(half)
    gap = eps_radius / covering.radius - 1
    if covering.length == 1:
        if gap < 0:
            return None
        return covering.centres(), np.zeros(n), 0.0, "one token: w = 1"
    if gap <= 0:
        return None
    centres = covering.centres()
    if covering.widths is not None:
        b = _product_sharpness(norm, n, gap)
        if b is None:
            return None
        inequality = f"sum_j w_j |x - c_j| <= R (1 + excess), product weights with beta_i h_i^2 = {b:.4g}"
        return centres, b / covering.widths**2, _product_excess(norm, n, b), inequality
    # Stretched lattices are not perfectly symmetric about their holes: some need sharper weights.
    measured = np.inf
    beta = _SHARPNESS / covering.radius**2
    for factor in (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0):
        beta = factor * _SHARPNESS / covering.radius**2
        measured = _worst_mean_distance(centres, beta, covering.radius, half) / covering.radius - 1
        if measured <= max(_TOLERATED_EXCESS, _SHARE_OF_SOFTMAX * gap):
            break
    if measured >= gap:
        return None
    inequality = f"sum_j w_j |x - c_j| <= R (1 + excess), beta R^2 = {beta * covering.radius**2:.4g}, excess sampled"
    return centres, np.full(n, beta), max(measured, 0.0), inequality


def _proposal(
    evaluate: Callable[[np.ndarray], np.ndarray],
    covering: BoxCovering,
    lipschitz: float,
    low: np.ndarray,
    high: np.ndarray,
    eps: float,
    norm: str,
) -> Proposal | None:
    """The head on this covering; None where softmax tail and rounding do not fit into eps."""
    middle = low + 0.5 * (high - low)
    built = _with_softmax(covering, eps / lipschitz, norm, 0.5 * (high - low))
    if built is None:
        return None
    centres, precision, excess, inequality = built
    slopes, biases = _logits(centres, precision, middle)
    reach = np.maximum(np.abs(low), np.abs(high))
    # Two tokens that tie are off by the rounding of their logits, and so is the weight between their values.
    rounding = 2 * _UNIT_ROUNDOFF * (2 + float(np.max(np.abs(slopes) @ reach + np.abs(biases))))
    radius = covering.radius
    total = lipschitz * radius * (1 + excess + rounding)
    if total > eps * (1 - 1e-12) and covering.length > 1:
        return None
    points = np.clip(centres + middle, low, high)
    values = checked_values(evaluate, points)
    terms = (
        Term("covering", lipschitz * radius, f"min_j |x - c_j| <= R = {radius:.6g}, |f(x) - f(c)| <= L |x - c|",
             "covering radius (Conway and Sloane 1992); optimal in the plane (Kershner 1939)"),
        Term("softmax tail", lipschitz * radius * excess, inequality, "two-point means and Gaussian tails"),
        Term("rounding", lipschitz * radius * rounding, "u sum_j w_j |v_j - g| (2 + |logit_j|)", "IEEE 754 binary64"),
    )  # fmt: skip
    grid = {
        "lattice": covering.lattice,
        "covering_radius": radius,
        "beta": float(precision[0]) if np.all(precision == precision[0]) else precision,
        "centres": centres + middle,
        "points": points,
        "norm": norm,
    }
    return Proposal(slopes, biases, values, "covering", grid, terms, error_estimate=total)


def propose_covering(
    evaluate: Callable[[Float[np.ndarray, "m n"]], Float[np.ndarray, "m k"]],
    lipschitz: float,
    lo: Corner,
    hi: Corner,
    eps: float,
    *,
    norm: str = "l2",
    max_tokens: int = 100_000,
) -> Iterator[Proposal]:
    """Heads for any f with |f(x) - f(y)| <= lipschitz |x - y| on the box, shortest first, with growing slack.

    lo, hi: (n,), or numbers for n = 1. evaluate: (m, n) -> (m, k), called at points of the closed box only; the Lipschitz constant holds for each output.
    norm: of the domain, "l1", "l2" or "linf". Nothing is yielded beyond max_tokens (see `covering_length`).
    grid["points"] are the evaluated points, and values == evaluate(points) exactly. error_estimate is the sum of the
    terms: the worst case over all such f, not an error of this one. Raises ValueError for bad arguments, or where the
    target is not finite.
    """
    low, high = _checked_arguments(lipschitz, lo, hi, eps, norm)
    return _ladder(evaluate, lipschitz, low, high, eps, norm, max_tokens)


def _ladder(
    evaluate: Callable[[np.ndarray], np.ndarray],
    lipschitz: float,
    low: np.ndarray,
    high: np.ndarray,
    eps: float,
    norm: str,
    max_tokens: int,
) -> Iterator[Proposal]:
    """The generator behind `propose_covering`, whose arguments are checked before the first proposal is asked for."""
    lengths = high - low
    # Also L = 0; a box that one ball covers needs no softmax, hence no slack.
    if lipschitz * _half_diagonal(lengths, norm) <= eps:
        if max_tokens >= 1:
            yield _single(evaluate, lipschitz, low, high, norm)
        return
    eps_radius = eps / lipschitz
    first = _first_slack(len(lengths), norm)
    slacks = [slack for slack in (0.0, *_SLACKS) if slack >= first]
    radii = [eps_radius * (1 - slack) for slack in slacks]
    if len(lengths) == 1 and lengths[0] / eps_radius < 2.0 * max_tokens + 2:
        count = ceil(lengths[0] / (2 * eps_radius) * (1 - 5e-16))
        radii[1:1] = [lengths[0] / (2 * (count + 1)) * (1 + 1e-14)]
    if not np.all(lengths / radii[-1] < 1e290):
        return
    longest = 0
    for radius in radii:
        best = box_coverings(lengths, radius, norm)[0]
        if best.length > max_tokens:
            return
        if best.length <= longest:
            continue
        proposal = _proposal(evaluate, best, lipschitz, low, high, eps, norm)
        if proposal is not None:
            longest = proposal.length
            yield proposal


def _single(
    evaluate: Callable[[np.ndarray], np.ndarray], lipschitz: float, low: np.ndarray, high: np.ndarray, norm: str
) -> Proposal:
    """The constant f(middle)."""
    half = 0.5 * (high - low)
    points = (low + half)[None, :]
    radius = _half_diagonal(high - low, norm)
    values = checked_values(evaluate, points)
    term = Term("covering", lipschitz * radius, "|f(x) - f(c)| <= L |x - c|", "definition of the Lipschitz constant")
    grid = {
        "lattice": "point",
        "covering_radius": radius,
        "beta": 0.0,
        "centres": points,
        "points": points,
        "norm": norm,
    }
    return Proposal(np.zeros((1, len(low))), np.zeros(1), values, "covering", grid, (term,), lipschitz * radius)
