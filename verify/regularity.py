"""Rigorous ranges and Lipschitz constants of expressions over a box, by bisection with ball arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from verify.ball import TINY, UP, Ball, U, gamma
from verify.domain import Box
from verify.expression import Expression
from verify.jets import jets
from verify.monomials import Jet
from verify.sphere import Sphere, patches

__all__ = ["Enclosed", "lipschitz_constant", "value_range"]


_Bound = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Enclosed:
    """Bounds lower <= quantity <= upper, rigorous; bad: a box on which nothing could be bounded (upper is then inf)."""

    lower: float
    upper: float
    bad: tuple[tuple[float, float], ...] | None = None


def lipschitz_constant(
    expression: Expression, domain: Box | Sphere, norm: str = "l2", *, tightness: float = 0.01, max_boxes: int = 20_000
) -> Enclosed:
    """sup over the box of the gradient's dual norm, maximum over outputs: the least L with |f(x) - f(y)|_inf <= L |x - y|.

    norm: of |x - y|: "l2" (gradient in l2), "linf" (gradient in l1) or "l1" (gradient in linf). On a convex domain the supremum of
    the gradient's norm is the Lipschitz constant (mean value theorem; Clarke's subdifferential at kinks). upper is inf where the
    derivative is unbounded, as for sqrt(x) at 0. `lower` is the value at a box centre. On a sphere: the geodesic constant (see
    `_tangential`); norm is then not used.
    """
    if isinstance(domain, Sphere):
        return _on_sphere(lambda face: _tangential(expression, domain, face), domain, tightness, max_boxes)
    order = {"l2": 2, "linf": 1, "l1": np.inf}[norm]

    def bound(lo: np.ndarray, hi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        slopes = _slopes(jets(expression, Ball.between(lo, hi), np.ones_like(lo), 1), lo.shape)
        c = lo + (hi - lo) * 0.5
        centre = _slopes(jets(expression, Ball.exact(c), np.ones_like(lo), 1), lo.shape)
        upper = np.max([np.linalg.norm(s.magnitude(), ord=order, axis=1) for s in slopes], axis=0)
        lower = np.max(
            [np.linalg.norm(np.maximum(np.abs(s.mid) - s.rad, 0), ord=order, axis=1) for s in centre], axis=0
        )
        return upper * (1 + 16 * lo.shape[1] * U) * UP + TINY, lower * (1 - 1e-12)

    return _supremum(bound, domain, tightness, max_boxes)


def value_range(
    expression: Expression, domain: Box | Sphere, *, tightness: float = 0.05, max_boxes: int = 4_000
) -> Enclosed:
    """Bounds of sup |f| over the domain, maximum over outputs; `bad` tells where f is undefined or unbounded (or seems so).

    On a sphere f must be defined on thin boxes around its patches, so in a neighbourhood of it.
    """
    if isinstance(domain, Sphere):
        return _on_sphere(lambda face: _sizes(expression, domain, face), domain, tightness, max_boxes)

    def bound(lo: np.ndarray, hi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        c = lo + (hi - lo) * 0.5
        over = _heads(jets(expression, Ball.between(lo, hi), np.ones_like(lo), 0, strict=True))
        at = _heads(jets(expression, Ball.exact(c), np.ones_like(lo), 0))
        upper = np.max([x.magnitude()[:, 0] for x in over], axis=0)
        lower = np.max([np.maximum(np.abs(x.mid) - x.rad, 0)[:, 0] for x in at], axis=0)
        return upper, np.where(np.isnan(lower), 0.0, lower)

    def touching(lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
        """Bounds where f is defined, for small boxes that only touch the end of its domain: both corners must be inside."""
        over = _heads(jets(expression, Ball.between(lo, hi), np.ones_like(lo), 0))
        corners = [
            h.mid for point in (lo, hi) for h in _heads(jets(expression, Ball.exact(point), np.ones_like(lo), 0))
        ]
        upper = np.max([x.magnitude()[:, 0] for x in over], axis=0)
        certain = [
            np.isfinite(
                np.max(
                    [h.mid for h in _heads(jets(expression, Ball.exact(p), np.ones_like(lo), 0, strict=True))], axis=0
                )
            )
            for p in (lo, hi, lo + (hi - lo) * 0.5)
        ]  # f is certainly defined at one of three points, and perhaps at both corners
        return np.where(np.isfinite(np.max(corners, axis=0)[:, 0]) & np.any(certain, axis=0)[:, 0], upper, np.nan)

    return _supremum(bound, domain, tightness, max_boxes, touching)


def _sizes(expression: Expression, domain: Sphere, face: int) -> _Bound:
    def bound(lo: np.ndarray, hi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        cells = patches(domain.m, face, lo, hi)
        scale = np.ones_like(cells.lo)
        over = _heads(jets(expression, Ball.between(cells.lo, cells.hi), scale, 0, strict=True))
        at = _heads(jets(expression, Ball.exact(cells.centre), scale, 0))
        upper = np.max([x.magnitude()[:, 0] for x in over], axis=0)
        lower = np.max([np.maximum(np.abs(x.mid) - x.rad, 0)[:, 0] for x in at], axis=0)
        return upper, np.where(np.isnan(lower), 0.0, lower * (1 - 1e-9))  # the centre is not quite on the sphere

    return bound


def _tangential(expression: Expression, domain: Sphere, face: int) -> _Bound:
    """The gradient's part tangent to the sphere, whose supremum is the geodesic Lipschitz constant (integrate along geodesics).

    At x on a patch with centre c, |P_x G| <= |P_c G| + |P_x - P_c| |G| with P_x the projection orthogonal to x, and
    |P_x - P_c| = sin(angle) <= |x - c|, at most the half-diagonal of the patch; c is within 1e-12 of the sphere.
    """

    def bound(lo: np.ndarray, hi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        cells = patches(domain.m, face, lo, hi)
        c, n = cells.centre, cells.centre.shape[1]
        tangent = cells.axes[:, :, :-1] / np.sqrt((cells.axes[:, :, :-1] ** 2).sum(axis=1, keepdims=True))
        reach = np.sqrt((cells.half**2).sum(axis=1)) * (1 + gamma(n + 8)) + 1e-12
        unit = np.ones_like(c)
        upper, lower = np.zeros(len(c)), np.zeros(len(c))
        slopes = _slopes(jets(expression, Ball.between(cells.lo, cells.hi), unit, 1), c.shape)
        centre = _slopes(jets(expression, Ball.exact(c), unit, 1), c.shape)
        for over, at in zip(slopes, centre, strict=True):
            across = np.einsum("bim,bi->bm", tangent, over.mid)
            spread = np.sqrt((across**2).sum(axis=1)) + np.sqrt((over.rad**2).sum(axis=1))
            size = np.sqrt((over.magnitude() ** 2).sum(axis=1))
            upper = np.maximum(upper, (spread + (reach + 1e-12) * size) * (1 + gamma(4 * n + 32)) * UP + TINY)
            here = np.sqrt((np.einsum("bim,bi->bm", tangent, at.mid) ** 2).sum(axis=1))
            here = here * (1 - 1e-9) - np.sqrt((at.rad**2).sum(axis=1)) - 1e-9 * np.abs(at.mid).sum(axis=1)
            lower = np.maximum(lower, np.where(np.isnan(here), 0.0, here))
        return upper, np.maximum(lower, 0.0)

    return bound


def _on_sphere(bound: Callable[[int], _Bound], domain: Sphere, tightness: float, max_boxes: int) -> Enclosed:
    """The supremum over the faces of the cube around a sphere, one after the other: each only as sharply as the largest needs."""
    lower, upper = 0.0, 0.0
    for face in range(2 * domain.dimension):
        found = _supremum(bound(face), Box([(-1.0, 1.0)] * domain.m), tightness, max_boxes, known=lower)
        if found.bad is not None:
            lo, hi = (np.array([[side[k] for side in found.bad]]) for k in (0, 1))
            cell = patches(domain.m, face, lo, hi)
            place = tuple((float(a), float(b)) for a, b in zip(cell.lo[0], cell.hi[0], strict=True))
            return Enclosed(found.lower, np.inf, place)
        lower, upper = max(lower, found.lower), max(upper, found.upper)
    return Enclosed(lower, upper)


def _slopes(found: list[Jet], shape: tuple[int, ...]) -> list[Ball]:
    return [part[1] if part[1] is not None else Ball.exact(np.zeros(shape)) for part in found]


def _heads(found: list[Jet]) -> list[Ball]:
    return [part[0] for part in found if part[0] is not None]


def _supremum(
    bound: _Bound,
    domain: Box,
    tightness: float,
    max_boxes: int,
    touching: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    known: float = 0.0,
) -> Enclosed:
    """Bisect the boxes with the largest bounds until the supremum is known within `tightness`, or max_boxes are spent. A box
    that stays unbounded down to a relative width of 2^-40 is reported as bad, unless `touching` bounds it. known: a lower bound of
    the supremum from elsewhere."""
    lo, hi = (x[None] for x in domain.bounds)
    width = hi - lo
    with np.errstate(all="ignore"):
        upper, lower_here = (np.broadcast_to(x, (1,)) for x in bound(lo, hi))
    lower, seen = float(np.nanmax(np.append(lower_here, known))), 1
    while True:
        finite = np.isfinite(upper)
        worst = float(upper.max()) if finite.all() else np.inf
        if worst < np.inf and (tightness == np.inf or worst <= lower * (1 + tightness) + TINY):
            return Enclosed(lower, worst)
        relative = ((hi - lo) / width).max(axis=1)
        stuck = ~finite & (relative < 2.0**-40)
        if stuck.any() or seen >= max_boxes:
            if finite.all():
                return Enclosed(lower, worst)
            if touching is not None:
                upper = upper.copy()
                with np.errstate(all="ignore"):
                    upper[~finite] = touching(lo[~finite], hi[~finite])
                finite = np.isfinite(upper)
                if finite.all():
                    return Enclosed(lower, float(upper.max()))
            i = int(np.argmin(np.where(finite, np.inf, relative)))
            return Enclosed(lower, np.inf, tuple((float(a), float(b)) for a, b in zip(lo[i], hi[i], strict=True)))
        threshold = lower * (1 + tightness) if finite.all() else np.inf
        cut = (upper > threshold) | ~finite
        if not finite.all():  # first find out whether the unbounded places go away
            narrow = np.flatnonzero(cut)[np.argsort(relative[cut])[:64]]
            cut = np.zeros(len(cut), dtype=bool)
            cut[narrow] = True
        elif cut.sum() > 2048:
            cut &= upper >= np.partition(upper, -2048)[-2048]
        a, b = lo[cut], hi[cut]
        axis = np.argmax((b - a) / width, axis=1)
        rows = np.arange(len(a))
        middle = a[rows, axis] + (b[rows, axis] - a[rows, axis]) * 0.5
        left, right = b.copy(), a.copy()
        left[rows, axis] = middle
        right[rows, axis] = middle
        low, high = np.concatenate([a, right]), np.concatenate([left, b])
        with np.errstate(all="ignore"):
            found = bound(low, high)
        new_upper, new_lower = (np.broadcast_to(x, (len(low),)) for x in found)
        seen += len(low)
        lower = max(lower, float(np.nanmax(np.append(new_lower, 0.0))))
        lo, hi = np.concatenate([lo[~cut], low]), np.concatenate([hi[~cut], high])
        upper = np.concatenate([upper[~cut], new_upper])
