"""The smallest max_i |e_i| over (t, b) of one head, and the dual vectors that prove it: a second-order cone programme.

(Z_i + t) e_i = Z_i g_i + b - t z_i, b in the range of the output matrix, t in [0, inf]. For every f, |e_i| <= f is a convex cone in (b, t), so the
least f is a quasi-convex problem. Its dual: vectors w_i with sum_i w_i orthogonal to the range, and the bound
min(sum Z_i <w_i, g_i> / sum Z_i |w_i|, -sum <w_i, z_i> / sum |w_i|). For two examples whose targets lie in the range, w_1 = -w_2 = -v with v the
point of the segment [A, B] nearest 0, A = (z_1 - z_2)/2, B = -(Z_1 g_1 - Z_2 g_2)/(Z_1 + Z_2), and the floor is |v|: closed form.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize_scalar

from constructions.wang2023.floor.cones import Cones, frame_of, minimised, multipliers
from constructions.wang2023.floor.shares import worst_weights

__all__ = ["Optimum", "free_optimum", "optimum_at"]

_EVEN, _WIDEST = 30.0, 1e12
"""Masses with ratios up to the first go with one unit of t; ratios beyond the second are not resolved."""
_NEAR_END = 1e-8
"""Infima at t = 0 and t = inf are approached to this relative distance."""


@dataclass(frozen=True, eq=False)
class Optimum:
    """value: max_i |e_i|; unit: U, of t, the mean mass by default; share: s = t/(t + U), in [0, 1]; b / (t + U) (d_out,); duals w (examples, d_out) and nu, of the half-space."""

    value: float
    share: float
    b: Float[np.ndarray, " d_out"]
    duals: Float[np.ndarray, "examples d_out"]
    multiplier: float
    unit: float


def free_optimum(
    mass: Float[np.ndarray, " examples"], g: Float[np.ndarray, "examples d_out"], z: Float[np.ndarray, "examples d_out"],
    basis: Float[np.ndarray, "d_out rank"],
) -> Optimum:  # fmt: skip
    """Over all (t, b). basis: orthonormal, of the output matrix's range."""
    outside = np.abs(z - z @ basis @ basis.T).max()
    if len(mass) == 2 and outside <= 1e-13 * np.abs(z).max():
        return _pair(mass, g, z)
    mean, spread = float(mass.mean()), float(mass.max() / max(mass.min(), 1e-300))
    if spread < _EVEN:
        return optimum_at(None, mass, g, z, basis)
    # t may have to be anywhere between the masses: several units for it, the best point and the best dual vectors of all
    units = np.geomspace(mean, mean / min(spread, _WIDEST), 9)
    with np.errstate(all="ignore"):
        found = [optimum_at(None, mass, g, z, basis, unit=float(unit)) for unit in units]
    best = min(found, key=lambda f: f.value if np.isfinite(f.value) else np.inf)
    duals = max(found, key=lambda f: _proved(f.duals, mass, g, z)).duals
    if not best.value <= _proved(duals, mass, g, z) * (1 + 1e-7):
        other = _scanned(mass, g, z, basis)
        best = other if not best.value <= other.value else best
    return replace(best, duals=duals)


def _scanned(mass: np.ndarray, g: np.ndarray, z: np.ndarray, basis: np.ndarray) -> Optimum:
    """The best point by a search over ln t alone: slower and less exact than the cone programme, but masses of any ratio do not disturb it.

    For one t the dual is a least squares problem with weights: e_i = b/R_i + f_i is least at b = -sum(eta f/R)/sum(eta/R^2) in the range.
    """

    def solved(theta: float) -> tuple[float, np.ndarray]:
        t = float(np.exp(theta))
        radius = mass + t
        f = (mass[:, None] * g - t * z) / radius[:, None]

        def point(eta: np.ndarray) -> np.ndarray:
            b = -((eta / radius) @ f) / ((eta / radius) @ (1 / radius))
            return basis @ (basis.T @ b)

        def squares(eta: np.ndarray) -> np.ndarray:
            return ((point(eta) / radius[:, None] + f) ** 2).sum(axis=1)

        eta = worst_weights(len(mass), squares)
        return float(np.sqrt(squares(eta).max())), point(eta) / t

    grid = np.arange(np.log(max(mass.min(), 1e-300)) - 20, np.log(mass.max()) + 20, 1.0)
    values = [solved(float(theta))[0] for theta in grid]
    k = int(np.argmin(values))
    inner: Any = minimize_scalar(
        lambda x: solved(float(x))[0], bounds=(grid[k] - 1, grid[k] + 1), method="bounded", options={"xatol": 1e-10}
    )
    theta = float(inner.x)
    value, a = solved(theta)
    return Optimum(value, 0.5, a / 2, np.zeros_like(z), 0.0, float(np.exp(theta)))


def _proved(w: np.ndarray, mass: np.ndarray, g: np.ndarray, z: np.ndarray) -> float:
    """The bound that dual vectors give over all t."""
    size = np.linalg.norm(w, axis=1)
    if not np.isfinite(w).all() or not size.sum() > 0 or not mass @ size > 0:
        return -np.inf
    return min(float(mass @ (w * g).sum(axis=1) / (mass @ size)), -float((w * z).sum() / size.sum()))


def _pair(mass: np.ndarray, g: np.ndarray, z: np.ndarray) -> Optimum:
    a = (z[0] - z[1]) / 2
    b = -(mass[0] * g[0] - mass[1] * g[1]) / mass.sum()
    span = a - b
    length = span @ span
    sigma = float(np.clip(a @ span / length, 0.0, 1.0)) if length > 0 else 0.5  # v = (1 - sigma) A + sigma B
    v = a - sigma * span
    inside = min(max(sigma, _NEAR_END), 1 - _NEAR_END)
    ratio = (1 - inside) / inside  # t = mean Z (1 - sigma)/sigma
    unit = mass / mass.mean()
    # e_i = (b - c_i)/(Z_i + t): the best b divides the segment from c_1 to c_2 in the ratio of the Z_i + t
    centre, radius = ratio * z - unit[:, None] * g, unit + ratio
    point = (radius[1] * centre[0] + radius[0] * centre[1]) / radius.sum()
    return Optimum(
        float(np.linalg.norm(v)), ratio / (1 + ratio), point / (1 + ratio), np.stack([-v, v]), 0.0, float(mass.mean())
    )


def optimum_at(
    share: float | None, mass: Float[np.ndarray, " examples"], g: np.ndarray, z: np.ndarray, basis: np.ndarray,
    half: tuple[Float[np.ndarray, " d_out"], float] | None = None, unit: float | None = None,
) -> Optimum:  # fmt: skip
    """With t held (None: free), and <c, b> <= k for half = (c, k), in units of t + U; unit: U, the mean mass by default."""
    unit_of_t = float(mass.mean()) if unit is None else unit
    scaled = mass / unit_of_t
    rows = np.concatenate([scaled[:, None] * g, z, *([half[0][None]] if half else [])])
    inside = rows @ basis
    inner = basis @ frame_of(inside)
    frame = np.concatenate([inner, frame_of(rows - inside @ basis.T, float(np.linalg.norm(rows)))], axis=1)
    c, y, dims = (scaled[:, None] * g) @ frame, z @ frame, inner.shape[1]
    scale = max(float(np.abs(c).max(initial=0.0)), float(np.abs(y).max(initial=0.0)), 1e-300)
    normal = half[0] @ inner if half else np.zeros(dims)
    length = float(np.linalg.norm(normal))
    level = np.inf
    if half and length > 0:
        normal, level = normal / length, half[1] / scale / length
    cones = Cones(scaled, c / scale, y / scale, dims, normal, level, share)
    x = minimised(cones)
    weights, nu = multipliers(cones, x)
    e = cones.scaled_errors(x)
    size = np.linalg.norm(e, axis=1)
    duals = weights[:, None] * e / np.where(size > 0, size, 1.0)[:, None]
    duals[int(weights.argmax()), :dims] -= duals[:, :dims].sum(axis=0) + nu * normal  # exactly balanced, up to rounding
    value = float(cones.ratios(x).max()) * scale
    nu = nu / length if length > 0 else 0.0
    return Optimum(value, float(x[-2]), inner @ x[:dims] * scale, duals @ frame.T, nu, unit_of_t)
