"""A priori bound for Gaussian keys against every Lipschitz function: a covering radius is all that matters.

Lemma. Let s_j(x) = -beta |x - c_j|^2 + phi(x) + rho_j with |rho_j| <= rho, let every x of the domain have a centre within R
(Euclidean), and let |v_j - f(x)| <= L (|x - c_j| + zeta) + e. Then for every near > R

    |g(x) - f(x)| <= L (R + T + zeta) + e,
    T = e^{2 rho} ( K / (2 e beta R) + N (near - R) e^{-beta (near^2 - R^2)} ),

where K bounds how many centres lie within `near` of a point, provided 2 beta R (near - R) >= 1.
Proof. u_j = |x - c_j|, d = min u_j <= R. Comparing with the nearest centre, w_j <= e^{-beta (u_j^2 - d^2) + 2 rho}; so
sum w_j u_j <= R + sum_{u_j > R} (u_j - R) e^{-beta (u_j^2 - R^2) + 2 rho}. With t = u_j - R, u_j^2 - R^2 >= 2 R t, and
t e^{-2 beta R t} <= 1 / (2 e beta R); it decreases for t >= 1 / (2 beta R), so every centre beyond `near` contributes at most
its value there. K <= (1 + 2 near / s)^n for centres at least s apart: disjoint balls of radius s/2 in a ball of radius
near + s/2. QED.

Nothing is taken from the construction: beta and the centres are *fitted* to the stored keys, and rho is what the fit leaves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree

from verify.affine import AffineHead
from verify.ball import EXP_RELATIVE_ERROR, TINY, UP, U, gamma
from verify.domain import Box
from verify.target import LipschitzTarget

__all__ = [
    "CoveringBound",
    "GaussianKeys",
    "covering_bound",
    "covering_radius_at_most",
    "gaussian_keys",
    "spread_of_error",
]


@dataclass(frozen=True, eq=False)
class GaussianKeys:
    """Logits read as -beta |x - centres_j|^2 + (common function of x), each off by at most `residual` on the domain."""

    centres: Float[np.ndarray, "tokens n"]
    beta: float
    residual: float


def gaussian_keys(head: AffineHead, domain: Box) -> GaussianKeys | None:
    """Fit b_j = c0 + <g, a_j> - kappa |a_j|^2; then s_j(x) = -|x + g - 2 kappa a_j|^2 / (4 kappa) + phi(x) + residual_j.

    Any g and kappa > 0 would do: the residuals are bounded for the numbers the fit returned. The centre 2 kappa a_j - g is
    itself computed in floats; what that misses enters the residual, as beta | |x - c|^2 - |x - c'|^2 | <= beta |c - c'|
    (|x - c| + |x - c'|). None where no such fit exists or the domain is far off.
    """
    a, b = head.slopes, head.biases
    tokens, n = a.shape
    if tokens < n + 2 or head.parameter_gamma > 0:
        return None
    scale = np.abs(a).max()
    if not scale > 0:
        return None
    unit = a / scale
    design = np.column_stack([np.ones(tokens), unit, (unit**2).sum(axis=1)])
    fit, *_ = np.linalg.lstsq(design, b, rcond=None)
    kappa, g = -float(fit[-1]) / scale**2, fit[1:-1] / scale
    if not (kappa > 0 and math.isfinite(kappa) and np.isfinite(g).all()):
        return None
    square = (a**2).sum(axis=1)
    terms = np.abs(b) + abs(float(fit[0])) + np.abs(a) @ np.abs(g) + kappa * square
    off = np.abs(b - (float(fit[0]) + a @ g - kappa * square)) + gamma(2 * n + 8) * terms
    beta = 0.25 / kappa
    centres = 2 * kappa * a - g
    lo, hi = domain.bounds
    shift = 4 * U * (np.abs(2 * kappa * a) + np.abs(g)).sum(axis=1).max()
    reach = (
        np.sqrt((np.maximum(np.abs(centres - lo), np.abs(centres - hi)) ** 2).sum(axis=1).max()) * (1 + 1e-9) + shift
    )
    # beta = 0.25 / kappa is rounded by u: beta' |x - c|^2 moves by at most 2 u beta reach^2
    residual = (off.max() + beta * shift * 2 * reach + 4 * U * beta * reach**2) * (1 + 1e-9)
    return GaussianKeys(centres, beta, float(residual)) if math.isfinite(residual) else None


def covering_radius_at_most(centres: np.ndarray, domain: Box, radius: float, max_boxes: int) -> tuple[bool, int]:
    """Whether every point of the box certainly has a centre within `radius` (Euclidean), by bisection; and the boxes examined.

    A box passes if |its centre - nearest centre| + |its half-diagonal| <= radius. Distances from the k-d tree are recomputed
    from the nearest index, so the tree only proposes.
    """
    tree = KDTree(centres)
    lo, hi = domain.bounds
    n = domain.dimension
    count = np.maximum(1, np.minimum(2**16, np.ceil((hi - lo) / (radius / math.sqrt(n)))).astype(int))
    if np.prod(count.astype(float)) > max_boxes:
        return False, 0
    edges = [
        np.unique(np.concatenate([np.linspace(a, b, k + 1), [a, b]])) for a, b, k in zip(lo, hi, count, strict=True)
    ]
    low = np.stack([m.ravel() for m in np.meshgrid(*[e[:-1] for e in edges], indexing="ij")], axis=1)
    high = np.stack([m.ravel() for m in np.meshgrid(*[e[1:] for e in edges], indexing="ij")], axis=1)
    work, seen = [(low, high)], 0
    slack = 1 + (4 * n + 16) * U
    while work:
        low, high = work.pop()
        if len(low) > 200_000:
            work.append((low[200_000:], high[200_000:]))
            low, high = low[:200_000], high[:200_000]
        seen += len(low)
        c = low + (high - low) * 0.5
        half = np.maximum(high - c, c - low)
        nearest = centres[tree.query(c)[1]]
        size = np.sqrt(((c - nearest) ** 2).sum(axis=1)) + np.sqrt((half**2).sum(axis=1))
        rounding = 4 * U * (np.abs(c) + np.abs(nearest)).sum(axis=1)
        short = ~((size * slack + rounding) <= radius)
        if not short.any():
            continue
        if seen > max_boxes or half[short].max() < radius * 2.0**-20:
            return False, seen
        low, high, c, half = low[short], high[short], c[short], half[short]
        axis = np.argmax(half, axis=1)
        rows = np.arange(len(low))
        left, right = high.copy(), low.copy()
        left[rows, axis] = c[rows, axis]
        right[rows, axis] = c[rows, axis]
        work.append((np.concatenate([low, right]), np.concatenate([left, high])))
    return True, seen


def _separation(centres: np.ndarray) -> float:
    """A lower bound of the least distance between two centres."""
    index = np.asarray(KDTree(centres).query(centres, k=2)[1])[:, 1]
    exact = np.sqrt(((centres - centres[index]) ** 2).sum(axis=1))
    return float(exact.min() * (1 - 1e-9) - 4 * U * np.abs(centres).max() * centres.shape[1])


def spread_of_error(keys: GaussianKeys, radius: float) -> float:
    """T of the lemma for this covering radius: how much sum w_j |x - c_j| can exceed it. inf where the lemma does not apply."""
    tokens, n = keys.centres.shape
    separation = _separation(keys.centres)
    if separation <= 0 or keys.residual > 0.1:
        return math.inf
    best = math.inf
    for factor in (1.05, 1.1, 1.2, 1.4, 1.7, 2.0):
        near = factor * radius
        if 2 * keys.beta * radius * (near - radius) < 1:
            continue
        count = min(float(tokens), (1 + 2 * near / separation) ** n)
        exponent = min(keys.beta * (near**2 - radius**2) * (1 - 1e-9), 700.0)
        far = tokens * (near - radius) * math.exp(-exponent) * (1 + 1e-6)
        best = min(best, count / (2 * math.e * keys.beta * radius) + far)
    return best * math.exp(2 * keys.residual) * (1 + 1e-9) * UP


@dataclass(frozen=True)
class CoveringBound:
    """upper: bound of the sup error, rounding included, for every function of the class; boxes: examined for the radius."""

    upper: float
    rounding: float
    boxes: int


def covering_bound(
    head: AffineHead, target: LipschitzTarget, domain: Box, eps: float, max_boxes: int
) -> CoveringBound | None:
    """Apply the lemma: find the largest covering radius that keeps the error within eps, and check that the centres have it.
    None where the keys are not Gaussian, the norm is another, or the radius is not certainly reached."""
    n = domain.dimension
    if target.norm != "l2" and n > 1:
        return None
    keys = gaussian_keys(head, domain)
    if keys is None:
        return None
    lo, hi = domain.bounds
    constant = target.lipschitz
    # |x - z| <= |x - clip(c)| + |clip(c) - z| <= |x - c| + zeta, as projection onto a convex set does not increase distances
    zeta = float(np.sqrt(((np.clip(keys.centres, lo, hi) - target.points) ** 2).sum(axis=1)).max()) * (1 + 1e-9)
    zeta += 8 * U * float(np.abs(target.points).max()) * n
    mismatch = float((np.abs(head.values - target.values) + head.value_gamma * head.value_scale).max()) * (1 + 4 * U)
    far = np.maximum(np.abs(lo), np.abs(hi))
    size = float((head.slope_scale @ far + head.bias_scale).max())
    step = head.logit_gamma * size + 2 * U * size + 2 * EXP_RELATIVE_ERROR
    if not step < 0.01:
        return None
    spread = float(np.ptp(head.values, axis=0).max())
    rounding = (step * 1.02 * spread * 2 + head.output_gamma * 2.1 * float(head.value_scale.max()) + TINY) * 1.01
    if constant == 0:
        return None
    # the largest covering radius that would do: eps = L (R + T(R) + zeta) + e + rounding; T falls with R, so two rounds suffice
    room = (eps - mismatch - rounding) / constant - zeta
    radius = room * (1 - 1e-9)
    for _ in range(3):
        radius = (room - spread_of_error(keys, radius)) * (1 - 1e-6) if radius > 0 else 0.0
    if not radius > 0:
        return None
    excess = spread_of_error(keys, radius)
    upper = (constant * (radius + excess + zeta) + mismatch + rounding) * (1 + 1e-9)
    if not upper <= eps:
        return None
    covered, seen = covering_radius_at_most(keys.centres, domain, radius, max_boxes)
    return CoveringBound(upper, rounding, seen) if covered else None
