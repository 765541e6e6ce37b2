"""Nets of the unit sphere S^{n-1}: that a set of directions covers it, and what a sharp softmax over a covering set averages.

Distances are angles. Nothing here calls a library's sine: vectors are compared through chords, |a - b| = 2 sin(angle / 2) for
unit a and b, with IEEE operations and explicit slack, and single numbers are computed with python-flint.
"""

from __future__ import annotations

import math
import time

import flint
import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree

from verify.ball import U, gamma
from verify.precision import arb_bounds, working_precision

__all__ = ["angular_spread", "data_share", "sphere_covering_radius_at_most"]

_BATCH = 200_000
_BITS = 128
# sin x >= the Taylor polynomial that ends with -x^11 / 11!, for every x >= 0 (an alternating bound: integrate cos x <= 1)
_SINE = tuple((-1.0) ** k / math.factorial(2 * k + 1) for k in range(6))


def _directions(rows: Float[np.ndarray, "tokens n"]) -> Float[np.ndarray, "some n"]:
    """Rows divided by their norms, each within (n + 8) u of the exact direction; rows without a direction are left out.

    Dividing by the largest entry keeps the squares from overflowing and underflowing: it moves each entry by u relatively; the norm
    is computed with a relative error below (n/2 + 2) u, which changes the length alone; the last division adds u again.
    """
    rows = np.asarray(rows, dtype=np.float64)
    largest = np.abs(rows).max(axis=1, initial=0.0)
    usable = np.isfinite(rows).all(axis=1) & (largest > 0)
    scaled = rows[usable] / largest[usable, None]
    return scaled / np.sqrt((scaled**2).sum(axis=1))[:, None]


def _half_sine_chord(angle: Float[np.ndarray, " boxes"]) -> Float[np.ndarray, " boxes"]:
    """A number below 2 sin(angle / 2) for 0 <= angle <= 3; 0 for a negative angle.

    Horner's scheme for 2 x p(x^2), x = angle / 2 <= 3/2: every partial value is at most 1 and its argument at most 9/4, with the
    coefficients falling fast enough that all roundings together miss less than 30 u x.
    """
    x = 0.5 * np.maximum(angle, 0.0)
    square = x * x
    value = np.full_like(x, _SINE[-1])
    for coefficient in _SINE[-2::-1]:
        value = value * square + coefficient
    return 2 * x * value - 128 * U * x


def sphere_covering_radius_at_most(
    centres: Float[np.ndarray, "tokens n"], radius: float, max_boxes: int, deadline: float = math.inf
) -> tuple[bool, int]:
    """Whether every point of the unit sphere S^{n-1}, n >= 2, certainly has a centre within the angle `radius`; and the boxes seen.

    centres: any vectors, of which only the directions count. False means not proved: a gap, more than max_boxes boxes, or
    time.monotonic() past the deadline. Raises ValueError for n < 2 or a radius that is NaN.

    The sphere is the radial image of the 2n faces of the cube [-1, 1]^n, and those are bisected. A box V of a face, with centre c and
    half-diagonal h, lies outside the ball of radius r = min_V |v| >= 1. For v in V the segment from c to v stays in V, and radial
    projection x -> x / |x| stretches a curve at x by at most 1 / |x| (its derivative there is 1/|x| times an orthogonal projection).
    So the image of the segment is a curve of length at most |v - c| / r, no shorter than the angle between its ends: all of V is seen
    within h / r of c. The box passes if the nearest centre b has angle(c, b) <= radius - h / r, that is

        |c/|c| - b/|b||  <=  2 sin((radius - h / r) / 2).

    The tree only proposes b: the distance is recomputed. A radius between 3 and pi is treated as 3.
    """
    n = centres.shape[1]
    if n < 2 or math.isnan(radius):
        raise ValueError(
            f"centres of shape {centres.shape}, radius = {radius}: need vectors of n >= 2 entries and a number."
        )
    # no angle exceeds pi, and math.pi is the last float below it
    radius, no_demand = min(radius, 3.0), radius > math.pi
    units = _directions(centres)
    if len(units) == 0 or not radius > 0:
        return False, 0
    if no_demand:
        return True, 0
    tree = KDTree(units)
    # both ends of a chord are within (n + 8) u of the exact ones; its own rounding is relative
    off, slack = 2 * (n + 8) * U, 1 + (2 * n + 16) * U
    work, seen = [_cube_faces(n, radius, max_boxes)], 0
    while work:
        low, high = work.pop()
        if len(low) > _BATCH:
            work.append((low[_BATCH:], high[_BATCH:]))
            low, high = low[:_BATCH], high[:_BATCH]
        seen += len(low)
        if seen > max_boxes or time.monotonic() > deadline:
            return False, seen
        centre = low + (high - low) * 0.5
        half = np.maximum(high - centre, centre - low)
        least = np.sqrt((np.maximum(0.0, np.maximum(low, -high)) ** 2).sum(axis=1))
        view = np.sqrt((half**2).sum(axis=1)) / least * slack
        unit = _directions(centre)
        chord = np.sqrt(((unit - units[tree.query(unit)[1]]) ** 2).sum(axis=1)) * slack + off
        passed = chord <= _half_sine_chord((radius - view) * (1 - 4 * U))
        if passed.all():
            continue
        if (chord > 2 * math.sin(radius / 2) * (1 + 1e-9) + 4 * off).any():
            return False, seen  # a gap, as far as floats can tell
        low, high, centre, half = (a[~passed] for a in (low, high, centre, half))
        axis, rows = np.argmax(half, axis=1), np.arange(len(low))
        if half[rows, axis].max() < 2.0**-40:
            return False, seen
        left, right = high.copy(), low.copy()
        left[rows, axis] = centre[rows, axis]
        right[rows, axis] = centre[rows, axis]
        work.append((np.concatenate([low, right]), np.concatenate([left, high])))
    return True, seen


def _cube_faces(
    n: int, radius: float, max_boxes: int
) -> tuple[Float[np.ndarray, "boxes n"], Float[np.ndarray, "boxes n"]]:
    """Corners of boxes that make up the 2n faces of [-1, 1]^n: a face is a box without extent along its axis.

    Its other sides are cut into equally many parts, about as wide as the radius, but not into more boxes than may be looked at.
    """
    most = max(1, int((max_boxes / (4 * n)) ** (1 / (n - 1))))
    parts = min(most, max(1, math.ceil(2 * math.sqrt(n - 1) / radius)))
    ends = np.linspace(-1.0, 1.0, parts + 1)  # its first and last entries are exact, and neighbours share the others
    low = np.stack([e.ravel() for e in np.meshgrid(*[ends[:-1]] * (n - 1), indexing="ij")], axis=1)
    high = np.stack([e.ravel() for e in np.meshgrid(*[ends[1:]] * (n - 1), indexing="ij")], axis=1)
    faces = [(axis, side) for axis in range(n) for side in (-1.0, 1.0)]
    return (
        np.concatenate([np.insert(low, axis, side, axis=1) for axis, side in faces]),
        np.concatenate([np.insert(high, axis, side, axis=1) for axis, side in faces]),
    )


def _most_within(units: Float[np.ndarray, "tokens n"], cosines: list[float]) -> list[int]:
    """For each cosine a bound, from above, of how many directions some direction has at an angle of at least that cosine, itself included.

    A computed inner product of rows within (n + 8) u of unit vectors misses the exact one by less than (4 n + 32) u.
    """
    n = units.shape[1]
    block = max(1, 4_000_000 // len(units))
    thresholds = [cosine - (4 * n + 32) * U - 2 * gamma(n) for cosine in cosines]
    most = [0] * len(cosines)
    for start in range(0, len(units), block):
        inner = units[start : start + block] @ units.T
        for i, threshold in enumerate(thresholds):
            most[i] = max(most[i], int((inner >= threshold).sum(axis=1).max()))
    return most


def angular_spread(directions: Float[np.ndarray, "tokens n"], lam: float, radius: float, residual: float) -> float:
    """T such that sum_j w_j(x) angle(x, b_j) <= radius + T for every x of the sphere; inf where nothing is proved.

    w = softmax(s), s_j(x) = lam <x, b_j> + phi(x) + rho_j(x) with |rho_j| <= residual and any phi; b_j is the direction of row j. Given
    that every x has some b_j within R = radius (to be proved elsewhere, see sphere_covering_radius_at_most).

    Lemma. Let R < near <= pi, s = min(sin R, sin near), at most K directions lie within `near` of any x besides its nearest one, and
    let  T >= K e^{2 rho - 1} / (lam s) e^{-lam s T} + B,  B = N (pi - R) e^{2 rho - lam (cos R - cos near)}.  Then the claim holds.
    Proof. Fix x; t_j = angle(x, b_j) - R, and 0 is a nearest direction, t_0 <= 0. The claim is sum_j w_j (t_j - T) <= 0. Divide by w_0:
    token 0 contributes at most -T. The others with t_j <= T contribute at most 0. For those with t_j > T > 0, as cos decreases,
    w_j / w_0 <= e^{2 rho - lam (cos angle_0 - cos angle_j)} <= e^{2 rho - lam (cos R - cos(R + t_j))}.
      - within `near`: sine is concave on [0, pi], so at least s on [R, near], and cos R - cos(R + t) >= s t. Each contributes at most
        e^{2 rho} (t - T) e^{-lam s t} <= e^{2 rho} e^{-1 - lam s T} / (lam s), the maximum over t.
      - beyond `near`: each at most (pi - R) e^{2 rho - lam (cos R - cos near)}.
    In total at most -T + K e^{2 rho - 1} / (lam s) e^{-lam s T} + B <= 0. QED.

    The right side falls with T, so equality gives the best T: with z = lam s (T - B), z e^z = K e^{2 rho - 1 - lam s B}, Lambert's W.
    K: directions within `near` of x are within near + R of its nearest one, so K + 1 <= max_i #{j : angle(b_i, b_j) <= near + R}.
    """
    units = _directions(directions)
    tokens = len(directions)
    if not (lam > 0 and math.isfinite(lam) and 0 < radius < 3 and residual >= 0 and math.isfinite(residual)):
        return math.inf
    if len(units) < tokens or tokens == 0:
        return math.inf
    with working_precision(_BITS):
        one, pi = flint.arb(1), flint.arb.pi()
        r, sharpness, rho = flint.arb(radius), flint.arb(lam), flint.arb(residual)
        # candidates: the far tokens' share N pi e^{-y} is a small part, or a tiny one, of 1 / lam; or as far as sine allows
        base = math.log(4 * tokens * (1 + lam))
        nears = [
            2 * math.asin(math.sqrt(v)) for y in (base, base + 6) if (v := (1 - math.cos(radius) + y / lam) / 2) < 1
        ]
        nears = [near for near in [*nears, math.pi - radius] if radius < near < 3.1]
        if not nears:
            return math.inf
        cosines = [arb_bounds((flint.arb(near) + r).cos())[0] if near + radius < 3.1 else -2.0 for near in nears]
        best = math.inf
        for near, count in zip(nears, _most_within(units, cosines), strict=True):
            end = flint.arb(near)
            least = min(arb_bounds(r.sin())[0], arb_bounds(end.sin())[0])
            if not least > 0:
                continue
            rate = sharpness * flint.arb(least)
            far = tokens * (pi - r) * (2 * rho - sharpness * (r.cos() - end.cos())).exp()
            spread = far + ((count - 1) * (2 * rho - one - rate * far).exp()).lambertw() / rate
            upper = arb_bounds(spread)[1]
            best = min(best, upper) if upper >= 0 else best  # False for NaN
    return best


def data_share(lam: float, radius: float, length: int, residual: float) -> float:
    """An upper bound of the softmax weight that `length` data tokens of score 0 get together, for every x of the sphere.

    Prefix scores are s_j = lam <x, b_j> + rho_j, |rho_j| <= residual, here without a common shift. The nearest direction is within
    R = radius, so sum_j e^{s_j} >= e^{lam cos R - rho} =: 1/q and the share is length / (length + sum_j e^{s_j}) <= length q / (1 + length q).
    1.0 where an argument is not a finite number.
    """
    if length == 0:
        return 0.0
    if (
        not all(math.isfinite(v) for v in (lam, radius, residual))
        or not 0 <= radius <= math.pi
        or lam < 0
        or length < 0
    ):
        return 1.0
    with working_precision(_BITS):
        q = (flint.arb(residual) - flint.arb(lam) * flint.arb(radius).cos()).exp()
        upper = arb_bounds(1 - 1 / (1 + length * q))[1]
    return min(1.0, upper) if upper >= 0 else 1.0
