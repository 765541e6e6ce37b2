"""Rigorous ranges and Lipschitz constants of expressions over a box, by bisection with ball arithmetic."""

from __future__ import annotations

import math
import time
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


_EDGE = {1: 2.0**-20, 2: 2.0**-8, 3: 2.0**-4}
"""By dimension: relative width down to which the end of f's domain is looked at where it cannot be done everywhere to the last."""
_Bound = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Enclosed:
    """Bounds lower <= quantity <= upper, rigorous (on a sphere `lower` is a sample next to it, not a bound); bad: a box on which nothing
    could be bounded (upper is then inf); corners: 0, or the largest relative width of a box on which only its corners tell that f is
    defined: upper then bounds f wherever it is defined."""

    lower: float
    upper: float
    bad: tuple[tuple[float, float], ...] | None = None
    corners: float = 0.0


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
    expression: Expression,
    domain: Box | Sphere,
    *,
    tightness: float = 0.05,
    max_boxes: int = 4_000,
    deadline: float = math.inf,
) -> Enclosed:
    """Bounds of sup |f| over the domain, maximum over outputs; `bad` tells where f is undefined or unbounded (or seems so).

    Where a small box still seems to reach out of f's domain, as for acos of an argument that is 1 somewhere, f must have a bounded range
    there, perhaps be defined at every corner and certainly at one; `corners` says so.
    """
    if isinstance(domain, Sphere):
        return _on_sphere(
            lambda face: _sizes(expression, domain, face),
            domain,
            tightness,
            max_boxes,
            lambda face: _touching(expression, domain, face),
            deadline,
        )

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

    return _supremum(bound, domain, tightness, max_boxes, touching, deadline=deadline)


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


def _touching(expression: Expression, domain: Sphere, face: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Bounds on small patches that only touch the end of f's domain; NaN on others."""

    def bound(lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
        cells = patches(domain.m, face, lo, hi)
        scale = np.ones_like(cells.lo)
        upper = np.max(
            [x.magnitude()[:, 0] for x in _heads(jets(expression, Ball.between(cells.lo, cells.hi), scale, 0))], axis=0
        )
        certain, possible = np.zeros(len(lo), dtype=bool), np.ones(len(lo), dtype=bool)
        varied = min(domain.m, 8)
        corners = np.zeros((2**varied, domain.m))
        corners[:, :varied] = np.stack(np.meshgrid(*[(0, 1)] * varied, indexing="ij"), axis=-1).reshape(-1, varied)
        for corner in corners:
            at = Ball.exact(patches(domain.m, face, *[np.where(corner == 1, hi, lo)] * 2).centre)
            for strict in (True, False):
                values = _heads(jets(expression, at, scale, 0, strict=strict))
                finite = np.isfinite(np.max([h.magnitude() for h in values], axis=0))[:, 0]
                certain, possible = (certain | finite, possible) if strict else (certain, possible & finite)
        return np.where(certain & possible, upper, np.nan)

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


def _on_sphere(
    bound: Callable[[int], _Bound],
    domain: Sphere,
    tightness: float,
    max_boxes: int,
    touching: Callable[[int], Callable[[np.ndarray, np.ndarray], np.ndarray]] | None = None,
    deadline: float = math.inf,
) -> Enclosed:
    """The supremum over the faces of the cube around a sphere, one after the other: each only as sharply as the largest needs."""
    lower, upper, corners = 0.0, 0.0, 0.0
    least = {1: 2.0**-16, 2: 2.0**-9}.get(domain.m, 2.0**-5) if touching is not None else 2.0**-20
    for face in range(2 * domain.dimension):
        touch = None if touching is None else touching(face)
        found = _supremum(
            bound(face),
            Box([(-1.0, 1.0)] * domain.m),
            tightness,
            max_boxes,
            touch,
            known=lower,
            smallest=least,
            deadline=deadline,
        )
        if found.bad is not None:
            lo, hi = (np.array([[side[k] for side in found.bad]]) for k in (0, 1))
            cell = patches(domain.m, face, lo, hi)
            place = tuple((float(a), float(b)) for a, b in zip(cell.lo[0], cell.hi[0], strict=True))
            return Enclosed(found.lower, np.inf, place)
        lower, upper = max(lower, found.lower), max(upper, found.upper)
        corners = max(corners, found.corners)
    return Enclosed(lower, upper, None, corners)


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
    smallest: float = 2.0**-40,
    deadline: float = math.inf,
) -> Enclosed:
    """Bisect the boxes with the largest bounds until the supremum is known within `tightness`, or max_boxes are spent.

    Unbounded boxes are cut first, the narrowest of them before the others. One that stays unbounded down to a relative width of
    `smallest` is bad unless `touching` bounds it, and then it is not cut again. Where f's domain ends along a surface there are too many
    such boxes: if the boxes run out, the rest is cut evenly down to `_EDGE` and asked `touching` as well. known: a lower bound
    of the supremum from elsewhere; deadline: of time.monotonic(), after which what is unbounded is bad.
    """
    lo, hi = (x[None] for x in domain.bounds)
    width = hi - lo
    with np.errstate(all="ignore"):
        upper, lower_here = (np.broadcast_to(x, (1,)) for x in bound(lo, hi))
    lower, seen, corners = float(np.nanmax(np.append(lower_here, known))), 1, 0.0
    while True:
        finite = np.isfinite(upper)
        worst = float(upper.max()) if finite.all() else np.inf
        if worst < np.inf and (tightness == np.inf or worst <= lower * (1 + tightness) + TINY):
            return Enclosed(lower, worst, None, corners)
        relative = ((hi - lo) / width).max(axis=1)
        late = time.monotonic() > deadline
        spent = seen >= max_boxes or late
        if spent and finite.all():
            return Enclosed(lower, worst, None, corners)
        wide = _EDGE[min(lo.shape[1], 3)]
        last = touching is None or late or seen >= 2 * max_boxes or (spent and bool((relative[~finite] <= wide).all()))
        stuck = ~finite & ((relative < smallest) | (spent and last))
        if stuck.any():
            allowed = stuck & (relative <= max(wide if spent else 0.0, smallest))
            upper = upper.copy()
            if touching is not None and allowed.any():
                with np.errstate(all="ignore"):
                    upper[allowed] = touching(lo[allowed], hi[allowed])
                corners = max(corners, float(relative[allowed].max()))
            bad = stuck & ~np.isfinite(upper)
            if bad.any():
                i = int(np.argmin(np.where(bad, relative, np.inf)))
                return Enclosed(lower, np.inf, tuple((float(a), float(b)) for a, b in zip(lo[i], hi[i], strict=True)))
            continue
        threshold = lower * (1 + tightness) if finite.all() else np.inf
        cut = ((upper > threshold) & (relative >= smallest)) | ~finite
        if not finite.all():  # first find out whether the unbounded places go away
            chosen = np.flatnonzero(~finite)
            chosen = chosen[relative[chosen] > wide] if spent else chosen[np.argsort(relative[chosen])[:64]]
            cut = np.zeros(len(cut), dtype=bool)
            cut[chosen] = True
        elif not cut.any():
            return Enclosed(lower, worst, None, corners)
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
