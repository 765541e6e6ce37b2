"""Claim about a sequence function -> Certificate: cells of the domain, balls around the model, Taylor models of the target.

A cell is a product of intervals, one for each of the T d flattened coordinates: what the gaps leave of a coordinate, cut further
at given places (where a digit of the model jumps, say). On each cell the model's output lies in a ball (mid, rad) that also
contains the float64 execution (see propagate.py), and the target within `remainder` of a polynomial P, so

    |model - target| <= sup |P - mid| + rad + remainder.

A cell that does not pass is halved, along each axis in turn (relative to its first width). Point balls at sampled sequences give
rigorous lower bounds. Outcomes are those of verify.prove: proved, refuted with a witness, or undecided.

*L^p*. With the error at most e off the exceptional set, S everywhere and the exceptional set's relative measure at most mu,

    ( mean over the domain of |error|^p )^{1/p} <= ( e^p + S^p mu )^{1/p}.

S is the same bound on one box, the whole domain: there it says little more than that outputs of heads are convex combinations of
values, which is enough. Certificates state as `rounding` twice the largest radius of a ball: an upper bound of |float64 - real|, tight
where the model is nearly constant on cells and far too large where it is not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import flint
import numpy as np
from jaxtyping import Float
from threadpoolctl import threadpool_limits

from verify.ball import UP, Ball, U
from verify.boxes import corners, halves
from verify.cells import Cells
from verify.certificate import EXECUTION, Certificate, Status, unbounded
from verify.model import Prefix, Transformer, forward
from verify.polynomial import sup_norm
from verify.precision import arb_bounds, working_precision
from verify.propagate import enclose_model
from verify.regularity import value_range
from verify.sequences import Sequences
from verify.target import ExpressionTarget

__all__ = ["SequenceProof", "prove_sequences"]

Progress = Callable[[float, str], None]
_BATCH = 1024


@dataclass(frozen=True)
class SequenceProof:
    """certificate: of sup |model - target| <= eps over the domain, the exceptional set left out; exceptional_measure: upper bound of
    its measure relative to the whole; error_everywhere: upper bound of the error, exceptional set included; lp_bound: upper bound of
    the p-th root of the mean of |error|^p over everything (maximum over tokens and outputs; inf unless proved)."""

    certificate: Certificate
    exceptional_measure: float
    error_everywhere: float
    p: float
    lp_bound: float


@dataclass(frozen=True, eq=False)
class _Bounds:
    upper: np.ndarray
    lower: np.ndarray
    rounding: np.ndarray


def prove_sequences(
    model: Transformer,
    prefix: Prefix,
    target: ExpressionTarget,
    domain: Sequences,
    eps: float,
    *,
    cuts: Sequence[Float[np.ndarray, " cuts"]] | None = None,
    order: int = 2,
    p: float = 2.0,
    max_boxes: int = 2_000_000,
    seconds: float = math.inf,
    progress: Progress | None = None,
) -> SequenceProof:
    """Prove or refute |model - target| <= eps on all sequences of the domain, maximum over tokens and outputs.

    target: an expression in the T d flattened variables with T k outputs, token-major (token 1's k outputs first). cuts: per
    coordinate of a token, where intervals are cut before the proof starts. order: degree of the target's Taylor models. p: of the
    L^p bound. max_boxes, seconds: give up, undecided, beyond. Raises ValueError where the sizes do not fit.
    """
    if not (math.isfinite(eps) and eps > 0):
        raise ValueError(f"eps: {eps!r}, expected a finite number > 0")
    if not p >= 1:
        raise ValueError(f"p: {p!r}, expected a number >= 1")
    if model.inputs != domain.box.dimension or target.dimension != domain.dimension:
        raise ValueError(
            f"claim: model reads tokens of dimension {model.inputs}, target {target.dimension} variables, domain {domain.T} x {domain.box.dimension}"
        )
    if target.outputs != domain.T * model.outputs:
        raise ValueError(
            f"claim: target has {target.outputs} outputs, expected {domain.T} tokens x {model.outputs} outputs"
        )
    model.accepts(prefix)
    model.admits(domain.T)
    claim = _Claim(model, prefix, target, domain, eps, order)
    measure = domain.measure_of_gaps()
    found = value_range(target.expression, domain.flattened, tightness=math.inf)
    if found.bad is not None:
        certificate = unbounded(eps, 0, "the target is undefined or unbounded, or seems so", found.bad)
        return SequenceProof(_with_assumptions(certificate), measure, math.inf, p, math.inf)
    with np.errstate(all="ignore"), threadpool_limits(1, "blas"):
        deadline = time.monotonic() + seconds
        certificate = _search(claim, cuts, max_boxes, deadline, progress or (lambda done, words: None))
        everywhere = certificate.error_upper
        if domain.gaps:
            everywhere = float(max(_everywhere(claim), 0.0))
    lp = math.inf
    if certificate.proved:
        lp = _lp(certificate.error_upper, everywhere, measure, p) if measure > 0 else certificate.error_upper
    return SequenceProof(_with_assumptions(certificate), measure, everywhere, p, lp)


def _with_assumptions(certificate: Certificate) -> Certificate:
    return Certificate(**{**certificate.__dict__, "assumptions": (EXECUTION,)})


@dataclass(frozen=True, eq=False)
class _Claim:
    model: Transformer
    prefix: Prefix
    target: ExpressionTarget
    domain: Sequences
    eps: float
    order: int

    def bound(self, lo: np.ndarray, hi: np.ndarray, order: int) -> _Bounds:
        """Bounds of the error on boxes (boxes, T d)."""
        shape = (len(lo), self.domain.T, self.domain.box.dimension)
        g = enclose_model(self.model, self.prefix, lo.reshape(shape), hi.reshape(shape))
        g = Ball(g.mid.reshape(len(lo), -1), g.rad.reshape(len(lo), -1))
        f = self.target.series(Cells.boxes(lo, hi), order)
        upper, lower = np.zeros(len(lo)), np.zeros(len(lo))
        for i in range(self.target.outputs):
            first = f.parts[i][0]
            assert first is not None
            rest = (f.remainder[:, i] + g.rad[:, i]) * UP
            centre = first - Ball.exact(g.mid[:, i : i + 1])
            size = sup_norm([centre, *f.parts[i][1:]], lo.shape[1])
            bound = (size + rest) * UP
            upper = np.maximum(upper, np.where(np.isnan(bound), np.inf, bound))
            below = (np.abs(centre.mid[:, 0]) - centre.rad[:, 0] - rest) - 8 * U * np.abs(centre.mid[:, 0])
            lower = np.maximum(lower, np.where(np.isnan(below), 0.0, below))
        return _Bounds(upper, lower, (2 * g.rad.max(axis=1)) * UP)


def _search(
    claim: _Claim, cuts: Sequence[np.ndarray] | None, max_boxes: int, deadline: float, progress: Progress
) -> Certificate:
    eps, lower, witness = claim.eps, *_probe(claim)
    boxes, upper, rounding = 0, 0.0, 0.0
    worst: tuple[np.ndarray, np.ndarray] | None = None
    if lower > eps:
        return _refuted(eps, lower, witness, boxes)
    intervals = [_intervals(claim.domain, i, cuts) for i in range(claim.domain.box.dimension)] * claim.domain.T
    total = math.prod(len(pieces) for pieces in intervals)
    if total > max_boxes:
        return unbounded(
            eps, 0, f"{total} cells, more than max_boxes = {max_boxes}", error_lower=lower, witness=witness
        )
    for start in range(0, total, _BATCH):
        progress(start / total, "proving")
        work = [_cells(intervals, start, min(start + _BATCH, total))]
        while work:
            if time.monotonic() > deadline:
                place = tuple((float(a), float(b)) for a, b in zip(work[-1][0][0], work[-1][1][0], strict=True))
                reason = f"gave up after {boxes} boxes: the time is over"
                return unbounded(eps, boxes, reason, place, error_lower=lower, witness=witness)
            lo, hi, width = work.pop()
            found = claim.bound(lo, hi, claim.order)
            boxes += len(lo)
            best = int(np.argmax(found.lower))
            centre = lo[best] + (hi[best] - lo[best]) * 0.5
            if found.lower[best] > lower and _contains(claim.domain, centre):
                lower, witness = float(found.lower[best]), tuple(float(x) for x in centre)
                if lower > eps:
                    return _refuted(eps, lower, witness, boxes)
            passed = found.upper <= eps
            if passed.any():
                rounding = max(rounding, float(found.rounding[passed].max()))
                most = int(np.argmax(np.where(passed, found.upper, -1.0)))
                if worst is None or found.upper[most] > upper:
                    upper, worst = float(found.upper[most]), (lo[most], hi[most])
            if passed.all():
                continue
            lo, hi, width = lo[~passed], hi[~passed], width[~passed]
            place = tuple((float(a), float(b)) for a, b in zip(lo[0], hi[0], strict=True))
            if boxes + 2 * len(lo) > max_boxes or time.monotonic() > deadline:
                reason = f"gave up after {boxes} boxes"
                return unbounded(eps, boxes, reason, place, error_lower=lower, witness=witness)
            middle = lo + (hi - lo) * 0.5
            relative = np.where((lo < middle) & (middle < hi), (hi - lo) / np.where(width > 0, width, 1.0), -1.0)
            cut, stuck = halves(lo, hi, np.argmax(relative, axis=1))
            if stuck is not None:
                place = tuple((float(a), float(b)) for a, b in zip(lo[stuck], hi[stuck], strict=True))
                return unbounded(eps, boxes, "a box became too small to cut", place, error_lower=lower, witness=witness)
            low, high, widths = *cut, np.concatenate([width, width])
            work += [
                (low[s : s + _BATCH], high[s : s + _BATCH], widths[s : s + _BATCH]) for s in range(0, len(low), _BATCH)
            ]
    if worst is not None:  # the error is largest somewhere at the rim of a cell, rarely at a sampled sequence
        centre, half = worst[0] + (worst[1] - worst[0]) * 0.5, (worst[1] - worst[0]) * (0.5 - 1e-9)
        lower, witness = max((lower, witness), _at_points(claim, corners(centre - half, centre + half)), key=_first)
    progress(1.0, "proved")
    return Certificate(Status.PROVED, eps, upper, min(lower, upper), witness, rounding, boxes)


def _refuted(eps: float, lower: float, witness: tuple[float, ...] | None, boxes: int) -> Certificate:
    return Certificate(Status.REFUTED, eps, math.inf, lower, witness, math.inf, boxes, reason="witness found")


def _contains(domain: Sequences, point: np.ndarray) -> bool:
    return bool(domain.contains(point.reshape(domain.T, domain.box.dimension)))


def _first(found: tuple[float, tuple[float, ...] | None]) -> float:
    return found[0]


def _probe(claim: _Claim) -> tuple[float, tuple[float, ...] | None]:
    """A rigorous lower bound of the error at the worst few of some sampled sequences, with its witness."""
    return _at_points(claim, claim.domain.sample(1000).reshape(1000, -1))


def _at_points(claim: _Claim, points: Float[np.ndarray, "batch coordinates"]) -> tuple[float, tuple[float, ...] | None]:
    """The largest rigorous lower bound of the error at the worst eight of these points that lie in the domain."""
    shape = (len(points), claim.domain.T, claim.domain.box.dimension)
    outputs = forward(claim.model, claim.prefix, points.reshape(shape)).reshape(len(points), -1)
    error = np.abs(outputs - claim.target.evaluate(points)).max(axis=1)
    chosen = points[np.argsort(np.where(np.isnan(error), -1.0, error))[-8:]]
    chosen = chosen[claim.domain.contains(chosen.reshape(-1, *shape[1:]))]
    if not len(chosen):
        return 0.0, None
    lower = claim.bound(chosen, chosen, 1).lower
    best = int(np.argmax(lower))
    if not lower[best] > 0:
        return 0.0, None
    return float(lower[best]), tuple(float(x) for x in chosen[best])


def _intervals(domain: Sequences, i: int, cuts: Sequence[np.ndarray] | None) -> np.ndarray:
    """The closed intervals (pieces, 2) that cover what is left of coordinate i, cut at the given places."""
    out = []
    for lo, hi in domain.good_intervals(i):
        inner = np.unique(np.asarray(cuts[i], dtype=np.float64)) if cuts is not None else np.empty(0)
        edges = np.concatenate([[lo], inner[(inner > lo) & (inner < hi)], [hi]])
        out.append(np.stack([edges[:-1], edges[1:]], axis=1))
    return np.concatenate(out)


def _cells(intervals: list[np.ndarray], start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    index = np.unravel_index(np.arange(start, stop), tuple(len(pieces) for pieces in intervals))
    lo = np.stack([pieces[i, 0] for pieces, i in zip(intervals, index, strict=True)], axis=1)
    hi = np.stack([pieces[i, 1] for pieces, i in zip(intervals, index, strict=True)], axis=1)
    return lo, hi, hi - lo


def _everywhere(claim: _Claim) -> float:
    """An upper bound of the error on the whole domain, exceptional set included: one box, all values in the hull."""
    lo, hi = claim.domain.flattened.bounds
    return float(claim.bound(lo[None], hi[None], 1).upper[0])


def _lp(off: float, everywhere: float, measure: float, p: float) -> float:
    """(off^p + everywhere^p measure)^{1/p}, rounded up."""
    if not (math.isfinite(off) and math.isfinite(everywhere)):
        return math.inf
    with working_precision(80):
        exponent = flint.arb(p)
        inside = flint.arb(off) ** exponent + flint.arb(everywhere) ** exponent * flint.arb(measure)
        high = arb_bounds(inside ** (1 / exponent))[1]
    return math.inf if math.isnan(high) else high
