"""Partition of S^m into N regions of equal area and small diameter (Leopardi 2006, recursive zonal partition).

Angles are theta_1, ..., theta_{m-1} in [0, pi] and theta_m in [0, 2 pi):  x = (cos theta_1, sin theta_1 cos theta_2, ...,
sin theta_1 ... sin theta_m). A region is a box of angles. Two polar caps have one region each; the zone between is cut into collars
whose numbers of regions m_i follow their areas, rounded so that the errors do not add up; then the collars' boundaries are placed
so that a collar has exactly m_i / N of the area, and a collar is cut as S^{m-1} is cut into m_i regions.

Areas. The share of S^m with theta_1 <= theta is I_x(m/2, m/2), x = sin^2(theta / 2), as (sin theta)^{m-1} d theta is proportional
to (x (1-x))^{m/2-1} dx. A box's share is a product of such differences, one for each angle (dimensions m, m-1, ..., 1).

Radii and diameters. Points (theta, y) and (theta', y') of S^m with y, y' on S^{m-1} at an angle alpha have, with c = cos alpha,

    cos(distance) = cos theta cos theta' + c sin theta sin theta' = (1+c)/2 cos(theta - theta') + (1-c)/2 cos(theta + theta').

For alpha at most a, |theta - theta'| at most u <= pi and theta + theta' in [v, v'] it falls with alpha, and is at least
(1 + cos a)/2 cos u + (1 - cos a)/2 min cos[v, v']. By recursion from the last angle on this bounds the distance from a region's centre
(theta' fixed) and between two of its points. The computation is done in ball arithmetic.

Boundaries are stored in units of pi: 0, 1 and 2 are then exact, neighbours share their boundary, and nothing of the sphere is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, floor, lgamma, log, pi

import flint
import numpy as np
from jaxtyping import Float
from scipy.special import betainc, betaincinv

from verify.precision import arb_bounds, working_precision

__all__ = ["EqualAreaPartition", "cap_angle", "cap_share", "equal_area_centres", "equal_area_partition"]

_BITS = 128


def cap_share(m: int, angle: float) -> float:
    """Share of the area of S^m within this angle of a point (0 <= angle <= pi), in floats."""
    return float(betainc(m / 2, m / 2, np.sin(angle / 2) ** 2))


def cap_angle(m: int, share: float) -> float:
    """The angle of the cap that has this share of the area of S^m, in floats; the inverse of `cap_share`."""
    if share > 0.5:
        return pi - cap_angle(m, 1 - share)
    return float(2 * np.arcsin(np.sqrt(betaincinv(m / 2, m / 2, share))))


def _collars(m: int, count: int) -> list[int]:
    """Numbers of regions from pole to pole, those of the caps (1) included; Leopardi's rounding."""
    polar = cap_angle(m, 1 / count)
    collars = max(1, round((pi - 2 * polar) / _ideal_side(m, count))) if count > 2 else 0
    width = (pi - 2 * polar) / max(collars, 1)
    regions, carried = [1], 0.0
    for i in range(collars):
        ideal = count * (cap_share(m, polar + (i + 1) * width) - cap_share(m, polar + i * width))
        regions.append(floor(ideal + carried + 0.5))
        carried += ideal - regions[-1]
    # the ideals add up to count - 2, and so do the rounded ones unless the last float was off
    regions[-1] += count - 1 - sum(regions)
    return [*[k for k in regions if k > 0], 1]


def _ideal_side(m: int, count: int) -> float:
    """The side of an m-dimensional cube with 1 / count of the area of S^m, 2 pi^{(m+1)/2} / Gamma((m+1)/2)."""
    area = log(2) + (m + 1) / 2 * log(pi) - lgamma((m + 1) / 2)
    return exp((area - log(count)) / m)


def _boxes(m: int, count: int) -> tuple[Float[np.ndarray, "count m"], Float[np.ndarray, "count m"]]:
    """Lower and upper angles of the regions, in units of pi."""
    if m == 1:
        ends = 2.0 * np.arange(count + 1) / count
        return ends[:-1, None], ends[1:, None]
    whole = np.append(np.ones(m - 1), 2.0)
    if count == 1:
        return np.zeros((1, m)), whole[None, :]
    lows, highs = [], []
    done, below = 0, 0.0
    pieces = _collars(m, count)
    for position, regions in enumerate(pieces):
        done += regions
        above = 1.0 if done == count else cap_angle(m, done / count) / pi
        polar = position in (0, len(pieces) - 1)
        low, high = (np.zeros((1, m - 1)), whole[None, 1:]) if polar else _boxes(m - 1, regions)
        lows.append(np.column_stack([np.full(regions, below), low]))
        highs.append(np.column_stack([np.full(regions, above), high]))
        below = above
    return np.concatenate(lows), np.concatenate(highs)


def _middles(low: np.ndarray, high: np.ndarray) -> Float[np.ndarray, "N m"]:
    """Angles of the centres in units of pi: the middle of an interval, or the pole it contains."""
    middle = (low + high) / 2
    colatitude = middle[:, :-1]
    colatitude[low[:, :-1] == 0] = 0.0
    colatitude[(high[:, :-1] == 1) & (low[:, :-1] > 0)] = 1.0
    return middle


def _cartesian(angles: Float[np.ndarray, "N m"]) -> Float[np.ndarray, "N n"]:
    """Unit vectors of angles in radians."""
    ring = np.cumprod(np.sin(angles), axis=1)
    before = np.column_stack([np.ones(len(angles)), ring[:, :-1]])
    return np.column_stack([before * np.cos(angles), ring[:, -1]])


@dataclass(frozen=True, eq=False)
class EqualAreaPartition:
    """low, high: angles of the N regions in units of pi; centres: unit vectors (rounded to floats)."""

    low: Float[np.ndarray, "N m"]
    high: Float[np.ndarray, "N m"]
    centres: Float[np.ndarray, "N n"]

    def area_bounds(self) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
        """Enclosures of each region's share of the sphere's area, proved."""
        m = self.low.shape[1]
        with working_precision(_BITS):
            shares: dict[tuple[int, float, float], flint.arb] = {}
            bounds = []
            for low, high in zip(self.low.tolist(), self.high.tolist(), strict=True):
                share = flint.arb(1)
                for i, (a, b) in enumerate(zip(low, high, strict=True)):
                    if (i, a, b) not in shares:
                        shares[i, a, b] = _cap_share(m - i, b) - _cap_share(m - i, a)
                    share *= shares[i, a, b]
                bounds.append(arb_bounds(share))
        return np.array([b[0] for b in bounds]), np.array([b[1] for b in bounds])

    def radii(self) -> Float[np.ndarray, " N"]:
        """Bounds, proved, of the angle from a region's centre, as stored, to the region's points."""
        with working_precision(_BITS):
            bounds = [
                _extent(*row)[0] + _offset(row[2], c)
                for row, c in zip(self._rows(), self.centres.tolist(), strict=True)
            ]
            return np.array([arb_bounds(bound)[1] for bound in bounds])

    def diameters(self) -> Float[np.ndarray, " N"]:
        """Bounds, proved, of the angle between two points of a region."""
        with working_precision(_BITS):
            return np.array([arb_bounds(_extent(*row)[1])[1] for row in self._rows()])

    def _rows(self) -> list[tuple[list[float], list[float], list[float]]]:
        """Lower, upper and middle angles, region by region."""
        middle = _middles(self.low, self.high)
        return list(zip(self.low.tolist(), self.high.tolist(), middle.tolist(), strict=True))


def equal_area_partition(m: int, count: int) -> EqualAreaPartition:
    """Leopardi's partition of S^m into `count` regions; for m = 1 equal arcs. Raises ValueError for m < 1 or count < 1."""
    if m < 1 or count < 1:
        raise ValueError(f"m, count = {m}, {count}: need a sphere S^m with m >= 1 and at least one region.")
    low, high = _boxes(m, count)
    return EqualAreaPartition(low, high, _cartesian(pi * _middles(low, high)))


def equal_area_centres(m: int, count: int) -> Float[np.ndarray, "count n"]:
    """The regions' centres alone."""
    return equal_area_partition(m, count).centres


def _cap_share(k: int, angle: float) -> flint.arb:
    """Share of S^k up to the angle, in units of pi: int_0 sin^{k-1} / int_0^pi sin^{k-1}; for k = 1 that of the full turn.

    J_p = int_0 sin^p: J_p = ((p-1) J_{p-2} - sin^{p-1} cos) / p, J_0 = theta, J_1 = 1 - cos.
    """
    if k == 1:
        return flint.arb(angle) / 2
    sine, cosine = flint.arb(angle).sin_pi(), flint.arb(angle).cos_pi()
    p = (k - 1) % 2
    value, whole = (1 - cosine, flint.arb(2)) if p else (flint.arb(angle) * flint.arb.pi(), flint.arb.pi())
    while p < k - 1:
        p += 2
        value = ((p - 1) * value - sine ** (p - 1) * cosine) / p
        whole = (p - 1) * whole / p
    return value / whole


def _farthest(apart: flint.arb, low: flint.arb, high: flint.arb, alpha: flint.arb) -> flint.arb:
    """An upper bound of the distance at the head of the file; |theta - theta'| <= apart, theta + theta' in [low, high], units of pi."""
    c = alpha.cos()
    least = flint.arb(-1) if not (high < 1 or low > 1) else low.cos_pi().min(high.cos_pi())
    cosine = ((1 + c) / 2 * apart.cos_pi() + (1 - c) / 2 * least).lower()
    return flint.arb.pi() if not cosine > -1 else flint.arb(0) if cosine > 1 else cosine.acos()


def _upper(x: flint.arb) -> flint.arb:
    """The upper end as an exact number, at most pi: an angle's bound that the next step may increase."""
    return x.upper().min(flint.arb.pi().upper())


def _extent(low: list[float], high: list[float], middle: list[float]) -> tuple[flint.arb, flint.arb]:
    """Bounds of a box's radius about the centre of these middle angles, and of its diameter, by recursion from the last angle."""
    turn = flint.arb.pi()
    radius = _upper(turn * (flint.arb(high[-1]) - middle[-1]).max(flint.arb(middle[-1]) - low[-1]))
    diameter = _upper(turn * (flint.arb(high[-1]) - low[-1]))
    for a, b, t in zip(low[-2::-1], high[-2::-1], middle[-2::-1], strict=True):
        if t in (0.0, 1.0):
            # a pole: the distance is the colatitude, whatever the other angles are
            radius = _upper(turn * (b if t == 0.0 else 1 - flint.arb(a)))
        else:
            apart = (flint.arb(b) - t).max(flint.arb(t) - a)
            radius = _upper(_farthest(apart, flint.arb(a) + t, flint.arb(b) + t, radius))
        through = _farthest(flint.arb(b) - a, 2 * flint.arb(a), 2 * flint.arb(b), diameter)
        diameter = _upper(through.min(2 * radius))
    return radius, diameter


def _offset(middle: list[float], centre: list[float]) -> flint.arb:
    """Bound of the angle between the stored centre c and the exact one e: sin(angle) <= |c - e|, so angle <= pi/2 |c - e|."""
    total, ring = flint.arb(0), flint.arb(1)
    for angle, stored in zip(middle, centre, strict=False):
        total += (ring * flint.arb(angle).cos_pi() - stored) ** 2
        ring *= flint.arb(angle).sin_pi()
    total += (ring - centre[-1]) ** 2
    return flint.arb.pi() / 2 * total.sqrt()
