"""The bisection behind a proof: charts cut into cells, Taylor models of head and target on each, Bernstein bounds.

On each cell the error is at most  sup |P| + remainder(head) + remainder(target) + rounding,  with P the difference of the two
polynomials, bounded by its Bernstein coefficients; a cell that does not pass is cut in two. A cell's centre gives a rigorous
lower bound. On a patch of a sphere P is first restricted to the sphere: off it the two need not agree.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from verify.affine import AffineHead
from verify.ball import UP, U
from verify.boxes import corners, first_boxes, halves
from verify.cells import Cells, restrict
from verify.certificate import Certificate, Status, unbounded
from verify.charts import BoxChart, Region, at_points, charts
from verify.core import enclose_core
from verify.covering import covering_bound
from verify.domain import Box
from verify.head import Tokens, enclose_head, select_tokens
from verify.model import forward
from verify.monomials import Jet
from verify.polynomial import sup_norm
from verify.sequences import Sequences
from verify.sphere import Sphere
from verify.target import LipschitzTarget
from verify.worst_case import worst_case

if TYPE_CHECKING:
    from verify.prove import Claim

__all__ = ["Bisection", "Bounds", "Progress"]

_MAX_WORK = 1e11
"""Moments of tokens over all boxes (tokens * order^n each) after which a proof gives up: some minutes."""
_FEW_REACH = 200.0
"""Spread of logits on a region beyond which it pays to see which of a few tokens matter there."""
_MOST_IDLE = 60
"""Cuts in a row that drop no token."""
_MOST_CUTS = 400
"""Cuts for the sake of a few tokens: hostile slopes meet everywhere."""

Progress = Callable[[float, str], None]
"""Called with the fraction of the domain that is done and a few words."""


@dataclass(frozen=True, eq=False)
class Bounds:
    """Per box: upper (rounding included), rounding, lower (at the centre), spread (boxes, n)."""

    upper: np.ndarray
    rounding: np.ndarray
    lower: np.ndarray
    spread: np.ndarray


@dataclass
class _Leaves:
    """Boxes of one region that passed, with their bounds."""

    region: Region
    tokens: Tokens
    lo: list[np.ndarray]
    hi: list[np.ndarray]
    upper: list[np.ndarray]
    rounding: list[np.ndarray]
    axis: list[np.ndarray]


class Bisection:
    """The bisection of one claim."""

    def __init__(
        self, claim: Claim, head: AffineHead, max_boxes: int, progress: Progress | None, deadline: float = math.inf
    ) -> None:
        self.claim, self.head, self.max_boxes, self.deadline = claim, head, max_boxes, deadline
        self.progress = progress or (lambda done, words: None)
        domain = claim.domain
        assert not isinstance(domain, Sequences)
        self.domain = domain
        self.n = domain.dimension
        self.sphere = isinstance(domain, Sphere)
        self.m = self.n - 1 if self.sphere else self.n  # parameters that are bisected
        self.boxes, self.work = 0, 0
        self.best_lower, self.witness = 0.0, None
        scale = float(np.abs(head.values).max()) * 2 + claim.eps
        digits = -math.log10(max(min(claim.eps / scale, 1.0), 1e-16))
        low, high = {1: (6, 18), 2: (5, 12), 3: (4, 8)}.get(self.n, (3, 4))
        self.order = int(
            np.clip(math.ceil(1.3 * digits) + 4 if self.n == 1 else math.ceil(1.2 * digits) + 3, low, high)
        )
        while self.order > 1 and self.order**self.n > 20_000:  # high dimensions: fewer terms rather than more memory
            self.order -= 1
        largest = float(np.abs(head.values).max()) + 1.0
        share = max(claim.eps * 1e-4 / (len(head.biases) * largest), 1e-26)
        self.negligible = float(np.clip(math.log(share), -60.0, -12.0))
        lo, hi = domain.bounds
        self.width = hi - lo
        if isinstance(claim.target, LipschitzTarget) and not self.sphere:
            self.order = min(self.order, 5)
            diameter = {
                "l2": math.sqrt(float((self.width**2).sum())),
                "linf": float(self.width.max()),
                "l1": float(self.width.sum()),
            }
            off = float(np.abs(claim.target.points - np.clip(claim.target.points, lo, hi)).sum())
            mismatch = float((np.abs(head.values - claim.target.values) + head.value_gamma * head.value_scale).max())
            self.largest = (claim.target.lipschitz * (diameter[claim.target.norm] + off) + mismatch) * 1.001

    def run(self, tightness: float) -> Certificate:
        eps = self.claim.eps
        if isinstance(self.claim.target, LipschitzTarget) and self.sphere:
            return self.undecided("bisection on a sphere needs a known target", self.whole())
        self.probe()
        if self.best_lower > eps:
            return self.refuted()
        leaves: list[_Leaves] = []
        regions = list(self.regions())
        for i, (tokens, region) in enumerate(regions):
            self.progress(i / len(regions), "proving")
            outcome = self._cover(tokens, region, eps, leaves)
            if outcome is not None:
                return outcome
        spent = self.boxes
        goal = self.best_lower * (1 + tightness)
        if goal < eps and not isinstance(self.claim.target, LipschitzTarget):
            self._tighten(leaves, tightness, spent + max(spent, 512))
        upper = max(float(u.max()) for leaf in leaves for u in leaf.upper if len(u))
        rounding = max(float(u.max()) for leaf in leaves for u in leaf.rounding if len(u))
        self.progress(1.0, "proved")
        where = "patches of the sphere" if self.sphere else "boxes"
        return Certificate(
            Status.PROVED,
            eps,
            upper,
            min(self.best_lower, upper),
            self.point(),
            rounding,
            self.boxes,
            route=f"a posteriori: Taylor models on {where}, Bernstein bounds",
        )

    def by_covering(self) -> Certificate | None:
        """The covering lemma (see covering.py), for Gaussian keys against a Lipschitz target; None where it does not decide."""
        if not isinstance(self.claim.target, LipschitzTarget) or not isinstance(self.domain, Box):
            return None
        found = covering_bound(self.head, self.claim.target, self.domain, self.claim.eps, self.max_boxes * 4)
        if found is None:
            return None
        self.boxes += found.boxes
        self.probe()
        if self.best_lower > self.claim.eps:
            return self.refuted()
        return Certificate(
            Status.PROVED,
            self.claim.eps,
            found.upper,
            self.best_lower,
            self.point(),
            found.rounding,
            self.boxes,
            route="a priori: covering lemma for Gaussian keys",
        )

    def point(self) -> tuple[float, ...] | None:
        return None if self.witness is None else tuple(float(w) for w in self.witness)

    def refuted(self) -> Certificate:
        return Certificate(
            Status.REFUTED,
            self.claim.eps,
            math.inf,
            self.best_lower,
            self.point(),
            math.inf,
            self.boxes,
            reason="witness found",
        )

    def undecided(self, reason: str, cell: Cells) -> Certificate:
        place = tuple((float(a), float(b)) for a, b in zip(cell.lo[0], cell.hi[0], strict=True))
        return unbounded(self.claim.eps, self.boxes, reason, place, error_lower=self.best_lower, witness=self.point())

    def whole(self) -> Cells:
        """The whole domain's bounding box as one cell."""
        lo, hi = self.domain.bounds
        return Cells.boxes(lo[None], hi[None])

    def probe(self) -> None:
        """Look for the largest error on a sample, and bound it from below rigorously at the best few points."""
        target, domain = self.claim.target, self.domain
        lo, hi = domain.bounds
        if isinstance(target, LipschitzTarget):
            points = np.clip(target.points, lo, hi)
            inside = (points == target.points).all(axis=1)
            if not inside.any():
                return
            values = target.values[inside]
            points = points[inside]
        else:
            count = 2001 if self.n == 1 else 4000
            points = (
                domain.sample(count)
                if self.sphere
                else np.linspace(lo, hi, count)
                if self.n == 1
                else np.concatenate([domain.sample(count), corners(lo, hi)])
            )
            points = np.clip(points, lo, hi)
            values = target.evaluate(points)
        error = np.abs(forward(self.claim.model, self.claim.prefix, points) - values).max(axis=1)
        error = np.where(np.isnan(error), -1.0, error)
        chosen = np.argsort(error)[-8:]
        tokens = self.all_tokens()
        step = max(1, 2_000_000 // len(self.head.biases))
        for start in range(0, len(chosen), step):
            some = points[chosen[start : start + step]]
            if isinstance(target, LipschitzTarget):
                series = enclose_head(self.head, tokens, at_points(domain, some), 1)
                size = np.max(
                    [
                        np.abs(part[0].mid[:, 0] - values[chosen[start : start + step], i]) * (1 - 2 * U)
                        - part[0].rad[:, 0]
                        - series.remainder[:, i]
                        for i, part in enumerate(series.parts)
                        if part[0] is not None
                    ],
                    axis=0,
                )
                self._note_lower(size, some)
            else:
                bounds = self.bound(tokens, at_points(domain, some), 2 if self.sphere else 1)
                self._note_lower(bounds.lower, some)

    def _note_lower(self, lower: np.ndarray, centres: np.ndarray) -> None:
        lower = np.where(np.isnan(lower), -1.0, lower)
        best = int(np.argmax(lower))
        if lower[best] > self.best_lower:
            self.best_lower, self.witness = float(lower[best]), centres[best].copy()

    def all_tokens(self) -> Tokens:
        return Tokens(np.arange(len(self.head.biases)), 0.0, np.zeros(self.head.values.shape[1]))

    def regions(self) -> Iterator[tuple[Tokens, Region]]:
        """Regions of the domain with the tokens that matter there; cut as long as that drops tokens."""
        stack = [(self.all_tokens(), region, 0) for region in reversed(charts(self.domain))]
        cuts = 0
        while stack:
            tokens, region, idle = stack.pop()
            if not self.head.normalised:  # no token of a sum is negligible because of another
                yield tokens, region
                continue
            before = len(tokens.index)
            cell = region.cell
            tokens = select_tokens(self.head, tokens, cell, self.negligible)
            idle = idle + 1 if len(tokens.index) > 0.95 * before else 0
            lo, hi = region.lo, region.hi
            slopes = self.head.slopes[tokens.index]
            reach = np.ptp(cell.along(slopes[None])[0][0], axis=0)[: self.m] * 2
            axis = int(np.argmax(reach))
            middle = lo[axis] + (hi[axis] - lo[axis]) * 0.5
            # on a line tokens far apart in slope meet at a few points only, however close to them one has to look
            patience = _MOST_IDLE if self.m == 1 and len(tokens.index) <= 48 and cuts < _MOST_CUTS else 3 * self.m
            enough = not reach.max() >= (24 if len(tokens.index) > 48 else _FEW_REACH) or idle > patience
            if enough or (self.m > 1 and len(tokens.index) <= 48) or not lo[axis] < middle < hi[axis]:
                yield tokens, region
                continue
            cuts += 1
            left, right = hi.copy(), lo.copy()
            left[axis] = right[axis] = middle
            stack += [
                (tokens, Region(region.chart, right, hi), idle),
                (tokens, Region(region.chart, lo, left), idle),
            ]

    def _cover(self, tokens: Tokens, region: Region, eps: float, leaves: list[_Leaves]) -> Certificate | None:
        """Cut until every box of the region passes; None, or the outcome that stops the proof."""
        leaf = _Leaves(region, tokens, [], [], [], [], [])
        leaves.append(leaf)
        box = isinstance(region.chart, BoxChart)
        first = first_boxes(self.claim.target, region.lo, region.hi) if box else (region.lo[None], region.hi[None])
        work = [first]
        batch = self.batch(tokens)
        while work:
            lo, hi = work.pop()
            if len(lo) > batch:
                work.append((lo[batch:], hi[batch:]))
                lo, hi = lo[:batch], hi[:batch]
            cells = region.chart.cells(lo, hi)
            bounds = self.bound(tokens, cells, self.order)
            self.boxes += len(lo)
            self.work += len(lo) * len(tokens.index) * self.order**self.n
            self._note_lower(bounds.lower, cells.centre)
            if self.best_lower > eps:
                return self.refuted()
            passed = bounds.upper <= eps  # False for NaN
            axis = self.axis(bounds, region, lo, hi)
            self._keep(leaf, passed, lo, hi, bounds, axis)
            if passed.all():
                continue
            lo, hi, axis = lo[~passed], hi[~passed], axis[~passed]
            if self.boxes > self.max_boxes or self.work > _MAX_WORK or time.monotonic() > self.deadline:
                return self.undecided(f"gave up after {self.boxes} boxes", region.chart.cells(lo[:1], hi[:1]))
            cut, stuck = halves(lo, hi, axis)
            if stuck is not None:
                small = region.chart.cells(lo[stuck : stuck + 1], hi[stuck : stuck + 1])
                return self.undecided("a box became too small to cut", small)
            work.append(cut)
        return None

    def _keep(
        self, leaf: _Leaves, which: np.ndarray, lo: np.ndarray, hi: np.ndarray, bounds: Bounds, axis: np.ndarray
    ) -> None:
        if which.any():
            leaf.lo.append(lo[which])
            leaf.hi.append(hi[which])
            leaf.upper.append(bounds.upper[which])
            leaf.rounding.append(bounds.rounding[which])
            leaf.axis.append(axis[which])

    def _tighten(self, leaves: list[_Leaves], tightness: float, limit: int) -> None:
        """Replace the leaves with the largest bounds by their halves until the bound is tight or the limit is reached."""
        while self.boxes < limit and time.monotonic() < self.deadline:
            goal = self.best_lower * (1 + tightness)
            worst = max(float(u.max()) for leaf in leaves for u in leaf.upper if len(u))
            if worst <= goal:
                return
            threshold = max(goal, worst / 4)  # the worst ones first
            for leaf in leaves:
                lo, hi = np.concatenate(leaf.lo), np.concatenate(leaf.hi)
                upper, rounding, axis = (np.concatenate(x) for x in (leaf.upper, leaf.rounding, leaf.axis))
                coarse = upper > threshold
                if not coarse.any():
                    continue
                (low, high), stuck = halves(lo[coarse], hi[coarse], axis[coarse])
                if stuck is not None or self.boxes + len(low) > limit + 4096:
                    return
                leaf.lo, leaf.hi, leaf.upper = [lo[~coarse]], [hi[~coarse]], [upper[~coarse]]
                leaf.rounding, leaf.axis = [rounding[~coarse]], [axis[~coarse]]
                parents = np.repeat(upper[coarse][:, None], 2, axis=1).T.ravel()
                batch = self.batch(leaf.tokens)
                for start in range(0, len(low), batch):
                    part = slice(start, start + batch)
                    cells = leaf.region.chart.cells(low[part], high[part])
                    bounds = self.bound(leaf.tokens, cells, self.order)
                    self.boxes += len(low[part])
                    self._note_lower(bounds.lower, cells.centre)
                    best = np.fmin(bounds.upper, parents[part])  # the parent's bound still holds on its half
                    kept = Bounds(best, bounds.rounding, bounds.lower, bounds.spread)
                    every = np.ones(len(best), dtype=bool)
                    self._keep(
                        leaf, every, low[part], high[part], kept, self.axis(bounds, leaf.region, low[part], high[part])
                    )

    def axis(self, bounds: Bounds, region: Region, lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
        """Cut along the axis on which the weights vary most; the width matters where they hardly vary."""
        first, last = region.chart.bounds
        spread = bounds.spread[:, : self.m]
        score = np.where(np.isfinite(spread), spread, 0.0) + (hi - lo) / (last - first)
        middle = lo + (hi - lo) * 0.5
        return np.argmax(np.where((lo < middle) & (middle < hi), score, -1.0), axis=1)

    def batch(self, tokens: Tokens) -> int:
        return int(max(1, min(4096, 600_000 // (len(tokens.index) * self.order ** max(1, self.n - 1)))))

    def bound(self, tokens: Tokens, cells: Cells, order: int) -> Bounds:
        if isinstance(self.claim.target, LipschitzTarget):
            upper, rounding, spread = worst_case(self.head, self.claim.target, tokens, cells, order, self.largest)
            return Bounds(upper, rounding, np.zeros(len(cells)), spread)
        if self.head.normalised:
            g = enclose_head(self.head, tokens, cells, order)
        else:
            g = enclose_core(self.head, cells, order)
        f = self.claim.target.series(cells, order)
        upper, lower = np.zeros(len(cells)), np.zeros(len(cells))
        for i in range(self.claim.target.outputs):
            difference = _difference(g.parts[i], f.parts[i])
            rest = (g.remainder[:, i] + f.remainder[:, i]) * UP
            if cells.curve is not None:
                difference, missed = restrict(difference, cells.curve)
                rest = (rest + missed) * UP
            real = (sup_norm(difference, self.m) + rest) * UP
            upper = np.maximum(upper, (real + g.rounding[:, i]) * UP)
            first = difference[0]
            assert first is not None
            at_centre = (np.abs(first.mid[:, 0]) - first.rad[:, 0] - rest) - U * np.abs(first.mid[:, 0]) * 8
            lower = np.maximum(lower, np.where(np.isnan(at_centre), 0.0, at_centre))
        return Bounds(upper, g.rounding.max(axis=1), lower, g.spread)


def _difference(g: Jet, f: Jet) -> Jet:
    return [p if q is None else -q if p is None else p - q for p, q in zip(g, f, strict=True)]
