"""Claim -> Certificate: bisection of the domain with Taylor models of head and target.

On each box the error is at most  sup |P| + remainder(head) + remainder(target) + rounding,  with P the difference of the two
polynomials, bounded by its Bernstein coefficients; a box that does not pass is cut in two. A box centre gives a rigorous lower
bound. So every outcome is a theorem about the stored numbers:
  proved      every box of a partition of the domain passed;
  refuted     at some point, the witness, the error is certainly larger than eps;
  undecided   anything else (a box too small to cut, the limit on boxes, NaN, a model this prover cannot read).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from threadpoolctl import threadpool_limits

from verify.ball import UP, U
from verify.boxes import corners, first_boxes, halves
from verify.certificate import EXECUTION, Certificate, Status, unbounded
from verify.covering import covering_bound
from verify.domain import Box
from verify.head import AffineHead, Tokens, UnsupportedModelError, affine_head, enclose_head, select_tokens
from verify.model import Prefix, Transformer, forward
from verify.monomials import Jet
from verify.polynomial import sup_norm
from verify.regularity import value_range
from verify.target import ExpressionTarget, LipschitzTarget, Target
from verify.worst_case import worst_case

__all__ = ["Claim", "Progress", "error_profile", "prove"]

_MAX_WORK = 1e11
"""Moments of tokens over all boxes (tokens * order^n each) after which a proof gives up: some minutes."""

Progress = Callable[[float, str], None]
"""Called with the fraction of the domain that is done and a few words."""


@dataclass(frozen=True, eq=False)
class Claim:
    """sup over the domain of |model(x; prefix) - target(x)|, maximum over outputs, is at most eps."""

    model: Transformer
    prefix: Prefix
    target: Target
    domain: Box
    eps: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.eps) and self.eps > 0):
            raise ValueError(f"eps: {self.eps!r}, expected a finite number > 0")
        n, k = self.domain.dimension, self.target.outputs
        if self.target.dimension != n or self.model.inputs != n:
            raise ValueError(
                f"claim: target has {self.target.dimension} variables, model {self.model.inputs}, domain {n}"
            )
        if self.model.outputs != k:
            raise ValueError(f"claim: target has {k} outputs, model {self.model.outputs}")
        if isinstance(self.target, ExpressionTarget) and self.domain.names not in (
            None,
            self.target.expression.variables,
        ):
            raise ValueError(f"claim: target in {self.target.expression.variables}, domain in {self.domain.names}")
        self.model.accepts(self.prefix)


@dataclass(frozen=True, eq=False)
class _Bounds:
    """Per box: upper (rounding included), rounding, lower (at the centre), spread (boxes, n)."""

    upper: np.ndarray
    rounding: np.ndarray
    lower: np.ndarray
    spread: np.ndarray


def prove(
    claim: Claim,
    *,
    tightness: float = 0.05,
    max_boxes: int = 2_000_000,
    seconds: float = math.inf,
    progress: Progress | None = None,
) -> Certificate:
    """Prove or refute a claim.

    tightness: after the claim is proved, go on cutting boxes until error_upper is within this factor of error_lower, for at
    most about as much work as the proof took (0.05: within 5 %). max_boxes, seconds: give up, undecided, beyond.
    """
    assumptions = [EXECUTION]
    conditional = isinstance(claim.target, LipschitzTarget)
    if isinstance(claim.target, LipschitzTarget):
        assumptions.append(
            f"declared, not proved: the target is Lipschitz with constant {claim.target.lipschitz!r} in the {claim.target.norm} norm and "
            f"takes the {len(claim.target.points)} recorded values"
        )
    try:
        with np.errstate(all="ignore"):
            head = affine_head(claim.model, claim.prefix)
        _refuse(claim, head)
    except UnsupportedModelError as error:
        return unbounded(claim.eps, 0, str(error), assumptions=tuple(assumptions), conditional=conditional)
    with np.errstate(all="ignore"), threadpool_limits(1, "blas"):
        search = _Search(claim, head, max_boxes, progress, time.monotonic() + seconds)
        certificate = search.by_covering() or search.run(tightness)
    return Certificate(**{**certificate.__dict__, "assumptions": tuple(assumptions), "conditional": conditional})


def _refuse(claim: Claim, head: AffineHead) -> None:
    """Raise UnsupportedModelError where nothing should be proved: a target that is not defined all over the domain (bounds on boxes
    hold only where it is), or recorded values that no Lipschitz function takes (a proof would be vacuous)."""
    target = claim.target
    if isinstance(target, ExpressionTarget):
        found = value_range(target.expression, claim.domain, tightness=math.inf)
        if found.bad is not None:
            place = ", ".join(f"[{a:.6g}, {b:.6g}]" for a, b in found.bad)
            raise UnsupportedModelError(f"the target is undefined or unbounded, or seems so, in {place}")
    if isinstance(target, LipschitzTarget):
        if len(target.points) != len(head.biases):
            raise UnsupportedModelError(
                "a Lipschitz target needs one recorded value per token, in the order of the tokens"
            )
        if target.contradicts_itself():
            raise UnsupportedModelError("the recorded values contradict the declared Lipschitz constant")


@dataclass
class _Leaves:
    """Boxes of one region that passed, with their bounds."""

    tokens: Tokens
    lo: list[np.ndarray]
    hi: list[np.ndarray]
    upper: list[np.ndarray]
    rounding: list[np.ndarray]
    axis: list[np.ndarray]


class _Search:
    """The bisection of one claim."""

    def __init__(
        self, claim: Claim, head: AffineHead, max_boxes: int, progress: Progress | None, deadline: float = math.inf
    ) -> None:
        self.claim, self.head, self.max_boxes, self.deadline = claim, head, max_boxes, deadline
        self.progress = progress or (lambda done, words: None)
        self.n = claim.domain.dimension
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
        lo, hi = claim.domain.bounds
        self.width = hi - lo
        if isinstance(claim.target, LipschitzTarget):
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
        self._probe()
        if self.best_lower > eps:
            return self._refuted()
        leaves: list[_Leaves] = []
        regions = list(self._regions())
        for i, (tokens, lo, hi) in enumerate(regions):
            self.progress(i / len(regions), "proving")
            outcome = self._cover(tokens, *first_boxes(self.claim.target, lo, hi), eps, leaves)
            if outcome is not None:
                return outcome
        spent = self.boxes
        goal = self.best_lower * (1 + tightness)
        if goal < eps and not isinstance(self.claim.target, LipschitzTarget):
            self._tighten(leaves, tightness, spent + max(spent, 512))
        upper = max(float(u.max()) for leaf in leaves for u in leaf.upper if len(u))
        rounding = max(float(u.max()) for leaf in leaves for u in leaf.rounding if len(u))
        self.progress(1.0, "proved")
        return Certificate(Status.PROVED, eps, upper, min(self.best_lower, upper), self._point(), rounding, self.boxes)

    def by_covering(self) -> Certificate | None:
        """The covering lemma (see covering.py), for Gaussian keys against a Lipschitz target; None where it does not decide."""
        if not isinstance(self.claim.target, LipschitzTarget):
            return None
        found = covering_bound(self.head, self.claim.target, self.claim.domain, self.claim.eps, self.max_boxes * 4)
        if found is None:
            return None
        self.boxes += found.boxes
        self._probe()
        if self.best_lower > self.claim.eps:
            return self._refuted()
        return Certificate(
            Status.PROVED, self.claim.eps, found.upper, self.best_lower, self._point(), found.rounding, self.boxes
        )

    def _point(self) -> tuple[float, ...] | None:
        return None if self.witness is None else tuple(float(w) for w in self.witness)

    def _refuted(self) -> Certificate:
        return Certificate(
            Status.REFUTED,
            self.claim.eps,
            math.inf,
            self.best_lower,
            self._point(),
            math.inf,
            self.boxes,
            reason="witness found",
        )

    def _undecided(self, reason: str, lo: np.ndarray, hi: np.ndarray) -> Certificate:
        place = tuple((float(a), float(b)) for a, b in zip(lo, hi, strict=True))
        return unbounded(self.claim.eps, self.boxes, reason, place, error_lower=self.best_lower, witness=self._point())

    def _probe(self) -> None:
        """Look for the largest error on a sample, and bound it from below rigorously at the best few points."""
        target, domain = self.claim.target, self.claim.domain
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
                np.linspace(lo, hi, count) if self.n == 1 else np.concatenate([domain.sample(count), corners(lo, hi)])
            )
            points = np.clip(points, lo, hi)
            values = target.evaluate(points)
        error = np.abs(forward(self.claim.model, self.claim.prefix, points) - values).max(axis=1)
        error = np.where(np.isnan(error), -1.0, error)
        chosen = np.argsort(error)[-8:]
        tokens = self._all_tokens()
        step = max(1, 2_000_000 // len(self.head.biases))
        for start in range(0, len(chosen), step):
            some = points[chosen[start : start + step]]
            if isinstance(target, LipschitzTarget):
                series = enclose_head(self.head, tokens, some, some, 1)
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
                bounds = self._bound(tokens, some, some, 1)
                self._note_lower(bounds.lower, some)

    def _note_lower(self, lower: np.ndarray, centres: np.ndarray) -> None:
        lower = np.where(np.isnan(lower), -1.0, lower)
        best = int(np.argmax(lower))
        if lower[best] > self.best_lower:
            self.best_lower, self.witness = float(lower[best]), centres[best].copy()

    def _all_tokens(self) -> Tokens:
        return Tokens(np.arange(len(self.head.biases)), 0.0, np.zeros(self.head.values.shape[1]))

    def _regions(self) -> Iterator[tuple[Tokens, np.ndarray, np.ndarray]]:
        """Regions of the domain with the tokens that matter there; cut as long as that drops tokens."""
        lo, hi = self.claim.domain.bounds
        stack = [(self._all_tokens(), lo, hi, 0)]
        while stack:
            tokens, lo, hi, idle = stack.pop()
            before = len(tokens.index)
            tokens = select_tokens(self.head, tokens, lo, hi, self.negligible)
            idle = idle + 1 if len(tokens.index) > 0.95 * before else 0
            reach = np.ptp(self.head.slopes[tokens.index], axis=0) * (hi - lo)
            axis = int(np.argmax(reach))
            middle = lo[axis] + (hi[axis] - lo[axis]) * 0.5
            few = len(tokens.index) <= 48 or reach.max() < 24 or idle > 3 * self.n
            if few or not lo[axis] < middle < hi[axis]:
                yield tokens, lo, hi
                continue
            left, right = hi.copy(), lo.copy()
            left[axis] = right[axis] = middle
            stack += [(tokens, right, hi, idle), (tokens, lo, left, idle)]

    def _cover(
        self, tokens: Tokens, lo: np.ndarray, hi: np.ndarray, eps: float, leaves: list[_Leaves]
    ) -> Certificate | None:
        """Cut until every box of the region passes; None, or the outcome that stops the proof."""
        leaf = _Leaves(tokens, [], [], [], [], [])
        leaves.append(leaf)
        work = [(lo, hi)]
        batch = self._batch(tokens)
        while work:
            lo, hi = work.pop()
            if len(lo) > batch:
                work.append((lo[batch:], hi[batch:]))
                lo, hi = lo[:batch], hi[:batch]
            bounds = self._bound(tokens, lo, hi, self.order)
            self.boxes += len(lo)
            self.work += len(lo) * len(tokens.index) * self.order**self.n
            self._note_lower(bounds.lower, lo + (hi - lo) * 0.5)
            if self.best_lower > eps:
                return self._refuted()
            passed = bounds.upper <= eps  # False for NaN
            axis = self._axis(bounds, lo, hi)
            self._keep(leaf, passed, lo, hi, bounds, axis)
            if passed.all():
                continue
            lo, hi, axis = lo[~passed], hi[~passed], axis[~passed]
            if self.boxes > self.max_boxes or self.work > _MAX_WORK or time.monotonic() > self.deadline:
                return self._undecided(f"gave up after {self.boxes} boxes", lo[0], hi[0])
            cut, stuck = halves(lo, hi, axis)
            if stuck is not None:
                return self._undecided("a box became too small to cut", lo[stuck], hi[stuck])
            work.append(cut)
        return None

    def _keep(
        self, leaf: _Leaves, which: np.ndarray, lo: np.ndarray, hi: np.ndarray, bounds: _Bounds, axis: np.ndarray
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
                batch = self._batch(leaf.tokens)
                for start in range(0, len(low), batch):
                    part = slice(start, start + batch)
                    bounds = self._bound(leaf.tokens, low[part], high[part], self.order)
                    self.boxes += len(low[part])
                    self._note_lower(bounds.lower, low[part] + (high[part] - low[part]) * 0.5)
                    best = np.fmin(bounds.upper, parents[part])  # the parent's bound still holds on its half
                    kept = _Bounds(best, bounds.rounding, bounds.lower, bounds.spread)
                    every = np.ones(len(best), dtype=bool)
                    self._keep(leaf, every, low[part], high[part], kept, self._axis(bounds, low[part], high[part]))

    def _axis(self, bounds: _Bounds, lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
        """Cut along the axis on which the weights vary most; the width matters where they hardly vary."""
        score = np.where(np.isfinite(bounds.spread), bounds.spread, 0.0) + (hi - lo) / self.width
        middle = lo + (hi - lo) * 0.5
        return np.argmax(np.where((lo < middle) & (middle < hi), score, -1.0), axis=1)

    def _batch(self, tokens: Tokens) -> int:
        return int(max(1, min(4096, 600_000 // (len(tokens.index) * self.order ** max(1, self.n - 1)))))

    def _bound(self, tokens: Tokens, lo: np.ndarray, hi: np.ndarray, order: int) -> _Bounds:
        if isinstance(self.claim.target, LipschitzTarget):
            upper, rounding, spread = worst_case(self.head, self.claim.target, tokens, lo, hi, order, self.largest)
            return _Bounds(upper, rounding, np.zeros(len(lo)), spread)
        g = enclose_head(self.head, tokens, lo, hi, order)
        f = self.claim.target.series(lo, hi, order)
        upper, lower = np.zeros(len(lo)), np.zeros(len(lo))
        for i in range(self.claim.target.outputs):
            difference = _difference(g.parts[i], f.parts[i])
            rest = (g.remainder[:, i] + f.remainder[:, i]) * UP
            real = (sup_norm(difference, self.n) + rest) * UP
            upper = np.maximum(upper, (real + g.rounding[:, i]) * UP)
            first = difference[0]
            assert first is not None
            at_centre = (np.abs(first.mid[:, 0]) - first.rad[:, 0] - rest) - U * np.abs(first.mid[:, 0]) * 8
            lower = np.maximum(lower, np.where(np.isnan(at_centre), 0.0, at_centre))
        return _Bounds(upper, g.rounding.max(axis=1), lower, g.spread)


def error_profile(
    claim: Claim, cells: int = 200, levels: int = 10
) -> tuple[Float[np.ndarray, "boxes n"], Float[np.ndarray, "boxes n"], Float[np.ndarray, " boxes"]]:
    """Rigorous upper bounds of |model - target|, rounding included, on each box of a regular partition of the domain.

    cells: per axis for n <= 2; a box that is too coarse for a bound below 2 eps is cut inside, up to `levels` times. Returns lower
    corners, upper corners and bounds (inf where none was reached). For plots: a proof needs fewer boxes.
    """
    head = affine_head(claim.model, claim.prefix)
    lo, hi = claim.domain.bounds
    n = len(lo)
    edges = [np.unique(np.clip(np.linspace(a, b, cells + 1), a, b)) for a, b in zip(lo, hi, strict=True)]
    low = np.stack([g.ravel() for g in np.meshgrid(*[e[:-1] for e in edges], indexing="ij")], axis=1)
    high = np.stack([g.ravel() for g in np.meshgrid(*[e[1:] for e in edges], indexing="ij")], axis=1)
    upper = np.zeros(len(low))
    with np.errstate(all="ignore"):
        search = _Search(claim, head, 0, None)
        tokens = search._all_tokens()
        batch = search._batch(tokens)
        part_lo, part_hi, owner = low, high, np.arange(len(low))
        for level in range(levels + 1):
            found = np.empty(len(part_lo))
            axis = np.zeros(len(part_lo), dtype=int)
            for start in range(0, len(part_lo), batch):
                piece = slice(start, start + batch)
                bounds = search._bound(tokens, part_lo[piece], part_hi[piece], search.order)
                found[piece], axis[piece] = bounds.upper, search._axis(bounds, part_lo[piece], part_hi[piece])
            found = np.where(np.isnan(found), np.inf, found)
            coarse = (found > 2 * claim.eps) if level < levels else np.zeros(len(found), dtype=bool)
            np.maximum.at(upper, owner[~coarse], found[~coarse])
            if not coarse.any():
                break
            (part_lo, part_hi), stuck = halves(part_lo[coarse], part_hi[coarse], axis[coarse])
            if stuck is not None:
                np.maximum.at(upper, owner[coarse], found[coarse])
                break
            owner = np.tile(owner[coarse], 2)
    assert n == claim.domain.dimension
    return low, high, upper


def _difference(g: Jet, f: Jet) -> Jet:
    return [p if q is None else -q if p is None else p - q for p, q in zip(g, f, strict=True)]
