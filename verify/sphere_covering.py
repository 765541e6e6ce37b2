"""A priori bound on a sphere: softmax heads with keys lambda b_j against Lipschitz functions, from the covering radius alone.

Theorem (after Petrov, Torr and Bibi 2024, split and classical heads). Let f be L-Lipschitz in the geodesic distance on S^m, every
x within R of some direction b_j, |v_j - f(b_j)| <= e, and the logits lambda <x, b_j> + rho_j, |rho_j| <= rho, up to a common
shift. With w the softmax weights, of which data tokens of score 0 and value 0 take the part q (then without any shift),

    |g(x) - f(x)| <= sum_j w_j (L angle(x, b_j) + e) + q |f(x)| <= L (R + T) + e + q F,    (q and rounding grow with their number)

with T and q from `verify.sphere_net`, and F = max |v_j| + e + L R >= |f(x)| as some b_j is within R of x.

Every number is taken from the stored keys and values: the b_j are the directions of the keys, lambda is the mean of their norms, and
rho is what their norms and biases differ by.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import KDTree

from verify.affine import AffineHead
from verify.ball import EXP_RELATIVE_ERROR, TINY, U, gamma
from verify.certificate import Certificate, Status
from verify.charts import at_points
from verify.regularity import lipschitz_constant
from verify.sphere import Sphere
from verify.sphere_net import angular_spread, data_share, sphere_covering_radius_at_most
from verify.target import ExpressionTarget, LipschitzTarget

if TYPE_CHECKING:
    from verify.bisection import Bisection
    from verify.prove import Claim

__all__ = ["A_PRIORI", "BY_BISECTION_UP_TO", "by_sphere_covering"]

A_PRIORI = "a priori"
"""How the route of a certificate begins that a theorem gave; here it holds for every sequence up to the length it was applied to."""

BY_BISECTION_UP_TO = 2
"""Dimension m of a sphere up to which a known target is proved by bisection, which is sharper."""


def by_sphere_covering(
    claim: Claim, head: AffineHead, search: Bisection, max_boxes: int, deadline: float
) -> Certificate | None:
    """The theorem above; None where it does not decide and bisection should be tried."""
    target, domain = claim.target, claim.domain
    assert isinstance(domain, Sphere)
    known = isinstance(target, ExpressionTarget)
    if known and domain.m <= BY_BISECTION_UP_TO:
        return None
    search.probe()
    if search.best_lower > claim.eps:
        return search.refuted()
    found = None
    if head.normalised and head.parameter_gamma == 0:
        found = _bound(claim, head, max_boxes, deadline)
    if found is not None:
        upper, rounding, boxes = found
        lower = min(search.best_lower, upper)
        return Certificate(
            Status.PROVED,
            claim.eps,
            upper,
            lower,
            search.point(),
            rounding,
            search.boxes + boxes,
            route=f"{A_PRIORI}: covering theorem on the sphere, covering radius by bisection",
        )
    if known and domain.m == 3:
        return None
    return search.undecided(
        "the covering lemma does not give eps, and bisection is for known targets, m <= 3", search.whole()
    )


def _bound(claim: Claim, head: AffineHead, max_boxes: int, deadline: float) -> tuple[float, float, int] | None:
    """(upper bound with rounding, rounding, boxes), or None."""
    tokens, n = head.prefix_tokens, head.slopes.shape[1]
    keys = head.slopes[:tokens]
    norms = np.sqrt((keys**2).sum(axis=1))
    lam = float(norms.mean())
    if not (lam > 0 and math.isfinite(lam) and norms.min() > 0):
        return None
    shift = 0.0 if head.data_tokens else float(head.biases[:tokens].mean())
    off = np.abs(norms - lam) + np.abs(head.biases[:tokens] - shift) + head.logit_slack[:tokens]
    residual = float(off.max()) * (1 + 1e-9) + (n + 16) * U * (lam + float(norms.max()) + abs(shift))
    directions = keys / norms[:, None]
    constant, mismatch = _regularity(claim, head, directions)
    constant = max(constant, 1e-300)  # 0 times an infinite spread would be NaN
    if not (constant < math.inf and math.isfinite(mismatch)):
        return None
    size = float((np.sqrt((head.slope_scale**2).sum(axis=1)) + head.bias_scale).max()) * (1 + 1e-9)
    step = (head.logit_gamma + 2 * U) * size + 2 * EXP_RELATIVE_ERROR
    step += float((head.executed_slack + head.logit_slack).max())
    if not step < 0.01:
        return None
    spread = float(np.ptp(head.values, axis=0).max())
    rounding = (step * 1.02 * spread * 2 + head.output_gamma * 2.1 * float(head.value_scale.max()) + TINY) * 1.01
    largest = float(np.abs(head.values).max())

    def bound(radius: float) -> float:
        share = data_share(lam, radius, head.data_tokens, residual) if head.data_tokens else 0.0
        at_most = largest + mismatch + constant * radius
        excess = angular_spread(keys, lam, radius, residual)
        return (constant * (radius + excess) + mismatch + share * at_most + rounding) * (1 + 1e-9)

    seen = 0
    for radius in _radii(claim, keys, bound):
        upper = bound(radius)
        if not upper <= claim.eps or seen >= max_boxes:
            continue
        covered, boxes = sphere_covering_radius_at_most(keys, radius, max_boxes - seen, deadline)
        seen += boxes
        if covered:
            return upper, rounding, seen
    return None


def _regularity(claim: Claim, head: AffineHead, directions: np.ndarray) -> tuple[float, float]:
    """L, and e >= |v_j - f(b_j)| for the exact directions b_j, which are within (n + 16) u of the computed ones.

    For chords u <= 1 the angle 2 asin(u / 2) is at most u (1 + u^2 / 16).
    """
    target, domain = claim.target, claim.domain
    tokens, n = directions.shape
    values = head.values[:tokens]
    own = head.value_gamma * head.value_scale[:tokens]
    if isinstance(target, LipschitzTarget):
        chord = float(np.sqrt(((directions - target.points) ** 2).sum(axis=1)).max()) * (1 + 1e-12) + 8 * (n + 16) * U
        if chord > 1:
            return math.inf, math.inf
        angle = chord * (1 + chord * chord / 16) * (1 + 1e-12)
        return target.lipschitz, float((np.abs(values - target.values) + own).max()) * (
            1 + 4 * U
        ) + target.lipschitz * angle
    assert isinstance(target, ExpressionTarget)
    assert isinstance(domain, Sphere)
    constant = lipschitz_constant(target.expression, domain).upper
    at = target.series(at_points(domain, directions), 1)
    off = 0.0
    for i, part in enumerate(at.parts):
        ball = part[0]
        assert ball is not None
        miss = np.abs(ball.mid[:, 0] - values[:, i]) * (1 + 4 * U) + ball.rad[:, 0] + at.remainder[:, i] + own[:, i]
        off = max(off, float(np.where(np.isnan(miss), np.inf, miss).max()))
    return constant, off * (1 + gamma(8)) + constant * 4 * (n + 16) * U


def _radii(claim: Claim, keys: np.ndarray, bound: Callable[[float], float]) -> list[float]:
    """Radii to try, smallest first: a little above what a sample shows, and the largest for which the bound is within eps."""
    directions = keys / np.sqrt((keys**2).sum(axis=1, keepdims=True))
    chord = float(np.asarray(KDTree(directions).query(claim.domain.sample(20_000))[0]).max())
    sampled = 2 * math.asin(min(1.0, chord / 2))
    lo, hi = sampled, 3.0
    if not bound(lo * 1.0001 + 1e-12) <= claim.eps:
        return []
    for _ in range(40):  # the bound rises with the radius
        middle = 0.5 * (lo + hi)
        lo, hi = (middle, hi) if bound(middle) <= claim.eps else (lo, middle)
    tries = [sampled * (1 + slack) + 1e-12 for slack in (1e-4, 1e-3, 1e-2, 4e-2)]
    return [r for r in tries if r < lo] + [lo]
