"""Directions in the space of a group's queries, found on text by linear programmes: where they are positive, and what tells them apart.

c with <c, q> >= 1 on every query seen and max <c, q> as small as possible: a few hundred constraints, then all queries are looked at and the most violated
join, until none is violated. Infeasible is an answer: Farkas' lemma gives non-negative weights of a few queries whose sum is next to zero, so that no c is
positive on them. r, where none is given: the direction in which q/<c, q> varies most, or a probe that tells marked tokens from others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import linprog, nnls

from constructions.pretrained.recording import record
from constructions.pretrained.shape import shape_of
from constructions.pretrained.site import SiteError

__all__ = ["NoDirection", "Positive", "positive_direction", "probe", "quiet_directions", "shortest_positive", "widest"]

_START, _BATCH, _ROUNDS = 256, 192, 60
_RIDGE = 1e-5


class NoDirection(SiteError):
    """No direction is positive on all queries; the message names the queries that prove it."""


@dataclass(frozen=True, eq=False)
class Positive:
    """direction: (m,), with <direction, q> in [1, ratio] on the queries seen; rounds of the linear programme."""

    direction: Float[np.ndarray, " m"]
    ratio: float
    rounds: int


def positive_direction(queries: Float[np.ndarray, "count m"], seed: int = 0) -> Positive:
    """The c of smallest max <c, q> with <c, q> >= 1 on all queries. Raises NoDirection with the reason where there is none."""
    count = len(queries)
    mean = queries.mean(axis=0)
    along = queries @ mean
    rng = np.random.default_rng(seed)
    order = np.argsort(along)
    chosen = np.unique(np.concatenate([order[: _START // 2], order[-_START // 4 :], rng.integers(0, count, _START)]))
    for rounds in range(1, _ROUNDS + 1):
        part = queries[chosen]
        found = _programme(part)
        if found is None:
            raise NoDirection(_farkas(part, count))
        c, ratio = found
        z = queries @ c
        missed = np.maximum(1 - z, z / ratio - 1)
        worst = np.argsort(-missed)[:_BATCH]
        worst = worst[missed[worst] > 1e-6]
        if not len(worst):
            return Positive(c / z.min(), float(z.max() / z.min()), rounds)
        chosen = np.union1d(chosen, worst)
    if z.min() > 0:  # near enough: the ratio is that of all queries
        return Positive(c / z.min(), float(z.max() / z.min()), _ROUNDS)
    raise NoDirection(f"no positive direction for {count} queries within {_ROUNDS} rounds; calibrate on fewer texts")


def _programme(queries: np.ndarray) -> tuple[np.ndarray, float] | None:
    """min T, 1 <= <c, q> <= T; None: infeasible."""
    count, m = queries.shape
    rows = np.block([[-queries, np.zeros((count, 1))], [queries, -np.ones((count, 1))]])
    right = np.concatenate([-np.ones(count), np.zeros(count)])
    cost = np.concatenate([np.zeros(m), [1.0]])
    found = linprog(cost, A_ub=rows, b_ub=right, bounds=[(None, None)] * m + [(1, None)], method="highs")
    return (found.x[:m], float(found.x[m])) if found.status == 0 else None


def _farkas(queries: np.ndarray, count: int) -> str:
    """The reason: non-negative weights, summing to 1, for which the queries (of length about 1) sum to nearly zero."""
    unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    weights, left = nnls(np.vstack([unit.T, np.ones(len(unit))]), np.concatenate([np.zeros(unit.shape[1]), [1.0]]))
    used = int((weights > 1e-9).sum())
    return f"no direction c has <c, q> > 0 on all {count} queries: {used} of them, scaled to length 1 and weighted, have a mean of length {left:.1g}, so any c is negative on one. Take another layer or group, or fewer kinds of text"


def shortest_positive(queries: Float[np.ndarray, "count m"]) -> Float[np.ndarray, " m"] | None:
    """The shortest c with <c, q> >= 1 on all queries: p/|p|^2 for the point p of their convex hull nearest to 0; None where that is 0.

    p by non-negative least squares over the queries met so far, those with the smallest <p, q> joining; much quicker than the programme for the smallest ratio.
    """
    size = float(np.sqrt((queries**2).sum(axis=1).mean()))
    scaled = queries / size
    chosen = np.argsort(scaled @ scaled.mean(axis=0))[:64]
    p, z = scaled[0], np.zeros(1)
    for _ in range(_ROUNDS):
        part = scaled[chosen]
        right = np.concatenate([np.zeros(part.shape[1]), [1.0]])
        weights, _ = nnls(np.vstack([part.T, np.ones(len(part))]), right)
        p = np.asarray(weights @ part / weights.sum())
        z = scaled @ p
        if z.min() >= 0.98 * (p @ p) > 1e-8:
            return p / float(z.min()) / size
        chosen = np.union1d(chosen[weights > 0], np.argsort(z)[:64])
    return p / float(z.min()) / size if z.min() > 0 else None


def widest(queries: Float[np.ndarray, "count m"], c: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """The direction in which q/<c, q> varies most."""
    part = queries / (queries @ c)[:, None]
    return np.linalg.svd(part - part.mean(axis=0), full_matrices=False)[2][0]


def probe(queries: Float[np.ndarray, "count m"], marked: Bool[np.ndarray, " count"]) -> Float[np.ndarray, " m"]:
    """A direction r with <r, q> > 0 on marked queries and < 0 on others, as far as there is one: logistic regression, both kinds weighing the same, by
    Newton's method with a small ridge."""
    if not (marked.any() and (~marked).any()):
        raise SiteError(
            f"marked: {int(marked.sum())} of {len(marked)} tokens of the calibration text are marked, expected some and not all"
        )
    sign = np.where(marked, 1.0, -1.0)
    weight = np.where(marked, 0.5 / marked.sum(), 0.5 / (~marked).sum())
    ridge = _RIDGE * float((queries**2).mean())
    r = np.zeros(queries.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(np.clip(sign * (queries @ r), -500, 500)))
        slope = -(queries * (weight * sign * p)[:, None]).sum(axis=0) + ridge * r
        bend = queries.T @ (queries * (weight * p * (1 - p))[:, None]) + ridge * np.eye(len(r))
        step = np.linalg.solve(bend, slope)
        r = r - step
        if np.abs(step).max() < 1e-8 * np.abs(r).max():
            break
    return r


def quiet_directions(
    model: Any, pieces: Sequence[np.ndarray], tokens: int, report: Callable[[float, str], None] | None = None
) -> Float[np.ndarray, "layers groups m"]:
    """For every layer and group a direction with <c, q> >= 1 on the queries of sample texts that start at position `tokens`: keys far out in the opposite
    direction get next to no attention *on such texts*. Where the programme has no solution, the mean query over its squared length."""
    shape = shape_of(model)
    layers, groups, width = shape.layers, shape.groups, shape.width
    queries: list[list[np.ndarray]] = [[] for _ in range(layers)]
    for i, ids in enumerate(pieces):
        for layer, found in record(model, ids, range(layers), start=tokens).items():
            queries[layer].append(found.queries.astype(np.float32))
        if report:
            report(0.5 * (i + 1) / len(pieces), "queries of every layer")
    out = np.empty((layers, groups, width))
    for layer in range(layers):
        q = np.concatenate(queries[layer]).reshape(-1, groups, shape.heads // groups, width)
        queries[layer] = []
        for group in range(groups):
            part = q[:, group].reshape(-1, width).astype(np.float64)
            found = shortest_positive(part)
            mean = part.mean(axis=0)
            out[layer, group] = mean / max(float(mean @ mean), 1e-30) if found is None else found
        if report:
            report(0.5 + 0.5 * (layer + 1) / layers, "directions along which prefix keys are ignored")
    return out
