"""Minimise f subject to |(1 - s) c_i + b - s y_i| <= f r_i(s), r_i = (1 - s) unit_i + s, and <n, b> <= level: SLSQP, then Newton."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize, nnls, root

__all__ = ["Cones", "frame_of", "minimised", "multipliers"]

_ACTIVE = 1e-5
"""Relative slack below which a cone counts as active; one that is not gets the weight 0."""
_INSIDE = 1e-6
"""Closer than this to 0 or 1, s counts as being at its end."""


@dataclass(frozen=True, eq=False)
class Cones:
    """Unknowns x = (b (dims,), s, f). unit: masses over their mean; c, y: (examples, frame), of which b moves the first `dims` coordinates; normal:
    n, of length 1; level: inf for no half-space; share: s, if it is held."""

    unit: Float[np.ndarray, " examples"]
    c: Float[np.ndarray, "examples frame"]
    y: Float[np.ndarray, "examples frame"]
    dims: int
    normal: Float[np.ndarray, " dims"]
    level: float
    share: float | None

    def scaled_errors(self, x: np.ndarray) -> Float[np.ndarray, "examples frame"]:
        """r_i e_i."""
        e = (1 - x[-2]) * self.c - x[-2] * self.y
        e[:, : self.dims] += x[: self.dims]
        return e

    def radii(self, x: np.ndarray) -> Float[np.ndarray, " examples"]:
        """r_i."""
        return (1 - x[-2]) * self.unit + x[-2]

    def ratios(self, x: np.ndarray) -> Float[np.ndarray, " examples"]:
        """|e_i|."""
        return np.linalg.norm(self.scaled_errors(x), axis=1) / np.maximum(self.radii(x), 1e-300)

    def slack(self, x: np.ndarray) -> float:
        """level - <n, b>."""
        return float(self.level - self.normal @ x[: self.dims])

    def moves(self, x: np.ndarray) -> bool:
        """Whether s is free and not at an end."""
        return self.share is None and _INSIDE < x[-2] < 1 - _INSIDE


def frame_of(rows: Float[np.ndarray, "count d"], scale: float = 0.0) -> Float[np.ndarray, "d rank"]:
    """Orthonormal columns that span the rows. scale: of what the rows are left over from, if they are a remainder."""
    u, s, _ = np.linalg.svd(rows.T, full_matrices=False)
    return u[:, s > 1e-13 * max(float(s.max(initial=0.0)), scale, 1e-300)]


def minimised(p: Cones) -> Float[np.ndarray, " unknowns"]:
    """The best x found; its f is exact, max_i |e_i|."""
    x = np.zeros(p.dims + 2)
    x[-2] = 0.5 if p.share is None else p.share
    x[: p.dims] = -p.scaled_errors(x)[:, : p.dims].mean(axis=0)
    if np.isfinite(p.level):
        x[: p.dims] += min(p.slack(x), 0.0) * p.normal
    x[-1] = float(p.ratios(x).max()) * 1.01 + 1e-12
    goal = np.zeros_like(x)
    goal[-1] = 1.0

    def room(x: np.ndarray) -> np.ndarray:
        return (x[-1] * p.radii(x)) ** 2 - (p.scaled_errors(x) ** 2).sum(axis=1)

    def slope(x: np.ndarray) -> np.ndarray:
        e, r = p.scaled_errors(x), p.radii(x)
        in_s = 2 * x[-1] ** 2 * r * (1 - p.unit) + 2 * (e * (p.c + p.y)).sum(axis=1)
        return np.column_stack([-2 * e[:, : p.dims], in_s, 2 * x[-1] * r**2])

    limits: list[dict[str, Any]] = [{"type": "ineq", "fun": room, "jac": slope}]
    if np.isfinite(p.level):
        row = np.concatenate([-p.normal, [0.0, 0.0]])[None]
        limits.append({"type": "ineq", "fun": lambda x: np.array([p.slack(x)]), "jac": lambda x: row})
    ends = (0.0, 1.0) if p.share is None else (p.share, p.share)
    found = minimize(
        lambda x: x[-1],
        x,
        jac=lambda x: goal,
        bounds=[(None, None)] * p.dims + [ends, (0.0, None)],
        constraints=limits,
        method="SLSQP",
        options={"maxiter": 300, "ftol": 1e-15},
    ).x
    if np.isfinite(p.level):  # back into the half-space, exactly as far as rounding allows
        found[: p.dims] += min(p.slack(found), 0.0) * p.normal
    found[-1] = p.ratios(found).max()
    return _polished(p, found) if found[-1] > 1e-9 else found


def multipliers(p: Cones, x: Float[np.ndarray, " unknowns"]) -> tuple[Float[np.ndarray, " examples"], float]:
    """Non-negative least squares for sum_i eta_i e_i/|e_i| + nu n = 0 among the coordinates that move, sum_i eta_i = 1, and, where s is
    free, a derivative in s that vanishes, is >= 0 at s = 0, is <= 0 at s = 1 (a last unknown takes up what is left)."""
    e, r = p.scaled_errors(x), p.radii(x)
    size = np.linalg.norm(e, axis=1)
    value = float((size / r).max())
    active = size >= (1 - _ACTIVE) * value * r
    directions = np.where(active[:, None], e / np.where(size > 0, size, 1.0)[:, None], 0.0)
    normal = p.normal if p.slack(x) <= 1e-6 else np.zeros(p.dims)
    rows = [
        np.column_stack([directions[:, : p.dims].T, normal, 0 * normal]),
        np.append(active.astype(float), [0.0, 0.0])[None],
    ]
    if p.share is None:
        in_s = np.where(active, -(directions * (p.c + p.y)).sum(axis=1) - value * (1 - p.unit), 0.0)
        end = 0.0 if p.moves(x) else -1.0 if x[-2] < 0.5 else 1.0
        rows.append(np.append(in_s, [0.0, end])[None])
    right = np.zeros(sum(len(row) for row in rows))
    right[p.dims] = 1.0
    found = nnls(np.concatenate(rows), right)[0]
    return found[:-2], float(found[-2])


def _polished(p: Cones, x: np.ndarray) -> np.ndarray:
    """Newton on the optimality conditions of the active cones; the old point where it does not help."""
    dims, moves, value = p.dims, p.moves(x), float(x[-1])
    active = np.flatnonzero(p.ratios(x) >= value * (1 - _ACTIVE))
    tight = p.slack(x) <= 1e-7
    eta, nu = multipliers(p, x)
    count = len(active)

    def point(v: np.ndarray) -> np.ndarray:
        return np.concatenate([v[:dims], [v[dims] if moves else x[-2], v[dims + 1]]])

    def conditions(v: np.ndarray) -> np.ndarray:
        at = point(v)
        e, r = p.scaled_errors(at)[active], p.radii(at)[active]
        size = np.linalg.norm(e, axis=1)
        directions, weights = e / size[:, None], v[dims + 2 : dims + 2 + count]
        in_s = weights @ (-(directions * (p.c + p.y)[active]).sum(axis=1) - at[-1] * (1 - p.unit[active]))
        ends = [in_s if moves else v[dims] - x[-2], weights.sum() - 1.0, -p.slack(at) if tight else v[-1]]
        return np.concatenate([weights @ directions[:, :dims] + v[-1] * p.normal, ends, size - at[-1] * r])

    start = np.concatenate([x[:dims], [x[-2], value], eta[active], [nu]])
    with np.errstate(all="ignore"):
        found = root(conditions, start, method="hybr", options={"xtol": 1e-14}).x
        new = point(found)
        if not np.isfinite(found).all() or not 0 <= new[-2] <= 1:
            return x
        new[-1] = p.ratios(new).max()
    return new if new[-1] <= value * (1 + 1e-7) and p.slack(new) >= -1e-9 else x
