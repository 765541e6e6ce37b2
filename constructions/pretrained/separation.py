"""Keys that tell classes of tokens apart at every position, by linear programmes with constraint generation.

Layer 0 has (vocabulary) x (positions) queries R_p q_b, and every demand on the keys z_c = k_c / sqrt(width), one key for each class c, is linear in them:
  gap:        <z_c - z_l, R_p q_b> >= gap                   for b of class c and every l != c: the right key wins;
  dominance:  <z_c, R_p q_b> >= floor_b                     the data tokens get next to nothing;
  exclusion:  <z_c, R_p q'_b> <= ceiling'_b  for every c    queries q' of a sibling head give the prefix next to nothing.
The smallest max |z| is sought: float32 rounding grows with it. A programme over some hundred queries is solved, all queries are looked at, the most
violated ones join, until none is violated by more than a tolerance. If the demands on a subset cannot be met, those on all queries cannot.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linprog

from verify.projected import turned_back

__all__ = ["SLACK", "Demands", "NoKeys", "Report", "Separated", "separate", "violations"]

Report = Callable[[float, str], None]

SLACK = 0.25
"""Nats by which a demand may be missed; callers ask for that much more than they need."""
_START, _BATCH, _ROUNDS = 300, 120, 60


class NoKeys(ValueError):
    """No keys meet the demands; the message says which programme has no solution."""


@dataclass(frozen=True, eq=False)
class Demands:
    """queries: (V, width), before the rotation; classes: (V,), numbers of keys 0..C-1; gap: in nats; floor: (V,); siblings: pairs of queries (V, width) and
    ceilings (V,); cosines, sines: (positions, width / 2)."""

    queries: Float[np.ndarray, "V width"]
    classes: Int[np.ndarray, " V"]
    gap: float
    floor: Float[np.ndarray, " V"]
    siblings: tuple[tuple[Float[np.ndarray, "V width"], Float[np.ndarray, " V"]], ...]
    cosines: Float[np.ndarray, "positions pairs"]
    sines: Float[np.ndarray, "positions pairs"]

    @property
    def count(self) -> int:
        """Keys."""
        return int(self.classes.max()) + 1


@dataclass(frozen=True, eq=False)
class Separated:
    """keys: (C, width), to be multiplied by sqrt(width); rounds, queries: of the last programme; worst: the largest violation left, in nats."""

    keys: Float[np.ndarray, "C width"]
    rounds: int
    queries: int
    worst: float


@dataclass(eq=False)
class _Programme:
    """Rows a of demands <a, z> >= b on the stacked keys."""

    width: int
    count: int
    rows: list[np.ndarray] = field(default_factory=list)
    bounds: list[np.ndarray] = field(default_factory=list)

    def add(self, parts: list[tuple[np.ndarray, np.ndarray]], bound: np.ndarray) -> None:
        """parts: (keys (M,), coefficients (M, width)) whose products are summed."""
        m = len(bound)
        row = np.zeros((m, self.count, self.width))
        for keys, coefficients in parts:
            row[np.arange(m), keys] += coefficients
        self.rows.append(row.reshape(m, -1))
        self.bounds.append(bound)

    def solve(self) -> np.ndarray | None:
        """The keys of smallest max |z|, or None if the demands contradict each other."""
        a, b = np.vstack(self.rows), np.concatenate(self.bounds)
        n = a.shape[1]
        ones = np.ones((n, 1))
        table = np.vstack(
            [
                np.hstack([-a, np.zeros((len(a), 1))]),
                np.hstack([np.eye(n), -ones]),
                np.hstack([-np.eye(n), -ones]),
            ]
        )
        right = np.concatenate([-b, np.zeros(2 * n)])
        bounds = [(None, None)] * n + [(0, None)]
        found = linprog(np.r_[np.zeros(n), 1.0], A_ub=table, b_ub=right, bounds=bounds, method="highs-ds")
        return None if found.status != 0 else found.x[:n].reshape(self.count, self.width)


def separate(
    demands: Demands, seed: int = 0, report: Callable[[float, str], None] | None = None, tolerance: float = SLACK
) -> Separated:
    """Keys that meet the demands within the tolerance. Raises NoKeys where there are none (or none were found in 60 rounds)."""
    rng = np.random.default_rng(seed)
    programme = _Programme(demands.queries.shape[1], demands.count)
    kinds = _kinds(demands)
    positions = len(demands.cosines)
    for kind in kinds:
        among = kind.tokens if kind.tokens is not None else np.arange(len(demands.classes))
        few = rng.choice(among, min(_START, len(among)), replace=False)
        kind.demand(programme, few, rng.integers(0, positions, len(few)))
    for n in range(_ROUNDS):
        z = programme.solve()
        total = sum(len(b) for b in programme.bounds)
        if z is None:
            raise NoKeys(
                f"the linear programme over {total} of the demands has no solution: no {demands.count} keys of any size meet them"
            )
        backs = np.array([turned_back(k, demands.cosines, demands.sines) for k in z], dtype=np.float32)
        worst = max(kind.violate(programme, backs, tolerance) for kind in kinds)
        if report is not None:
            report(min(0.9, n / 20), f"keys: {total} demands, worst violation {worst:.2f} nats")
        if worst <= tolerance:
            return Separated(z, n + 1, total, worst)
    raise NoKeys(f"after {_ROUNDS} rounds of constraint generation a demand is still violated by {worst:.2f} nats")


def violations(demands: Demands, keys: Float[np.ndarray, "C width"]) -> Float[np.ndarray, " V"]:
    """The most by which a demand on each query is violated, at its worst position, in nats."""
    found = np.full(len(demands.classes), -np.inf)
    backs = np.array([turned_back(k, demands.cosines, demands.sines) for k in keys])
    for c in range(demands.count):
        members = np.flatnonzero(demands.classes == c)
        q = demands.queries[members]
        found[members] = demands.floor[members] - (q @ backs[c].T).min(axis=1)
        for other in range(len(keys)):
            if other != c:
                gap = demands.gap - (q @ (backs[c] - backs[other]).T).min(axis=1)
                found[members] = np.maximum(found[members], gap)
    return found


@dataclass(frozen=True, eq=False)
class _Kind:
    """Demands <z_plus - z_minus, R_p q> >= bound (minus may be absent). tokens: those concerned, None for all."""

    queries: np.ndarray
    single: np.ndarray  # the same in float32, for looking at all of them
    bound: np.ndarray
    plus: int | None
    minus: int | None
    tokens: np.ndarray | None
    cosines: np.ndarray
    sines: np.ndarray

    def demand(self, programme: _Programme, tokens: np.ndarray, positions: np.ndarray) -> None:
        if not len(tokens):
            return
        q = self.queries[tokens]
        a, b = np.split(q, 2, axis=1)
        c, s = self.cosines[positions], self.sines[positions]
        turned = np.concatenate([a * c - b * s, b * c + a * s], axis=1)
        parts = [
            (np.full(len(tokens), key), sign * turned)
            for key, sign in ((self.plus, 1.0), (self.minus, -1.0))
            if key is not None
        ]
        programme.add(parts, self.bound[tokens])

    def violate(self, programme: _Programme, backs: np.ndarray, tolerance: float) -> float:
        """Look at all queries; the most violated demands join. Returns the largest violation."""
        back = (backs[self.plus] if self.plus is not None else 0) - (backs[self.minus] if self.minus is not None else 0)
        tokens = self.tokens if self.tokens is not None else np.arange(len(self.bound))
        missing, where = np.empty(len(tokens)), np.empty(len(tokens), dtype=int)
        for start in range(0, len(tokens), 8192):
            rows = slice(start, start + 8192)
            s = self.single[tokens[rows]] @ np.asarray(back).T
            where[rows] = s.argmin(axis=1)
            missing[rows] = self.bound[tokens[rows]] - s.min(axis=1)
        order = np.argsort(-missing)[:_BATCH]
        order = order[missing[order] > 0.2 * tolerance]
        self.demand(programme, tokens[order], where[order])
        return float(missing.max(initial=-math.inf))


def _kinds(d: Demands) -> list[_Kind]:
    singles = {id(q): q.astype(np.float32) for q in (d.queries, *(q for q, _ in d.siblings))}

    def kind(q: np.ndarray, bound: np.ndarray, plus: int | None, minus: int | None, tokens: np.ndarray | None) -> _Kind:
        return _Kind(q, singles[id(q)], bound, plus, minus, tokens, d.cosines, d.sines)

    found = []
    for c in range(d.count):
        members = np.flatnonzero(d.classes == c)
        found.append(kind(d.queries, d.floor, c, None, members))
        gap = np.full(len(d.classes), d.gap)
        found += [kind(d.queries, gap, c, other, members) for other in range(d.count) if other != c]
        found += [kind(q, -ceiling, None, c, None) for q, ceiling in d.siblings]
    return found
