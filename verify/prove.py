"""Claim -> Certificate: what is refused, which proof is tried, and how proofs for several sequence lengths make one.

Every outcome is a theorem about the stored numbers:
  proved      by bisection every cell of a partition of the domain passed, or a covering lemma applies;
  refuted     at some point, the witness, the error is certainly larger than eps;
  undecided   anything else (a cell too small to cut, the limit on boxes, NaN, a model this prover cannot read).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from threadpoolctl import threadpool_limits

from verify.affine import AffineHead, UnsupportedModelError, affine_head
from verify.ball import UP, U
from verify.bisection import Bisection, Progress
from verify.boxes import halves
from verify.certificate import EXECUTION, Certificate, Status, unbounded
from verify.charts import charts
from verify.circuit import CircuitHint
from verify.circuit_proof import prove_circuit
from verify.circuit_sequences import prove_circuit_on_sequences
from verify.domain import Box
from verify.gathered import prove_gathered
from verify.model import Prefix, Transformer
from verify.regularity import Enclosed, value_range
from verify.sequence_proof import prove_sequences
from verify.sequences import Sequences
from verify.sphere import Sphere
from verify.sphere_covering import A_PRIORI, by_sphere_covering
from verify.target import ExpressionTarget, GridTarget, LipschitzTarget, Target

__all__ = ["MOST_DIMENSIONS", "Claim", "Domain", "Progress", "error_profile", "prove"]

MOST_DIMENSIONS = 16
"""m of the largest sphere on which anything is proved."""


Domain = Box | Sphere | Sequences
"""Where a claim can be made."""


@dataclass(frozen=True, eq=False)
class Claim:
    """sup over the domain of |model(x; prefix) - target(x)|, maximum over outputs, is at most eps.

    On a sphere: for every float point within `domain.slack` of it, against the target at the nearest point of the sphere.
    sequence_length: for a model that attends to data tokens, the claim is made for every token of every sequence of at most
    this many points of the domain. On `Sequences` the target maps the flattened sequence to the flattened outputs, token-major;
    cuts: where each coordinate of a token is best cut by a proof, a hint on which no truth depends. circuit: what a model of several layers
    is said to compute head by head, another hint.
    """

    model: Transformer
    prefix: Prefix
    target: Target
    domain: Domain
    eps: float
    sequence_length: int = 1
    cuts: tuple[np.ndarray, ...] | None = None
    circuit: CircuitHint | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.eps) and self.eps > 0):
            raise ValueError(f"eps: {self.eps!r}, expected a finite number > 0")
        if isinstance(self.sequence_length, bool) or not (
            isinstance(self.sequence_length, int) and self.sequence_length >= 1
        ):
            raise ValueError(f"sequence_length: {self.sequence_length!r}, expected a whole number >= 1")
        if isinstance(self.domain, Sphere) and isinstance(self.target, GridTarget):
            raise ValueError("claim: values on a grid are not a target on a sphere")
        if isinstance(self.target, LipschitzTarget) and (
            (self.target.norm == "geodesic") != isinstance(self.domain, Sphere)
        ):
            raise ValueError(f"claim: a constant in the {self.target.norm} norm on {self.domain!r}")
        n, k = self.domain.dimension, self.target.outputs
        if isinstance(self.domain, Sequences):
            if self.sequence_length != 1:
                raise ValueError(f"sequence_length: {self.sequence_length!r}, on Sequences it is 1: T is the domain's")
            self._fits_sequences(self.domain)
            return
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

    def _fits_sequences(self, domain: Sequences) -> None:
        if not isinstance(self.target, ExpressionTarget):
            raise ValueError("claim: a target on sequences is an expression")
        if self.target.expression.variables != domain.names:
            raise ValueError(f"claim: target in {self.target.expression.variables}, sequences in {domain.names}")
        if self.model.inputs != domain.box.dimension or self.target.outputs != domain.T * self.model.outputs:
            raise ValueError(
                f"claim: {domain.T} tokens of dimension {domain.box.dimension}, a model {self.model.inputs} -> {self.model.outputs}, and a "
                f"target with {self.target.outputs} outputs"
            )
        if self.cuts is not None and len(self.cuts) != domain.box.dimension:
            raise ValueError(f"claim: cuts for {len(self.cuts)} coordinates of a token, it has {domain.box.dimension}")
        self.model.accepts(self.prefix)
        self.model.admits(domain.T)


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
    if isinstance(claim.domain, Sequences):
        return _sequences(claim, claim.domain, max_boxes, seconds, progress)
    if claim.circuit is not None and isinstance(claim.domain, Box):
        return _circuit(claim, claim.domain, claim.circuit, seconds, progress)
    assumptions = [EXECUTION]
    conditional = isinstance(claim.target, LipschitzTarget)
    if isinstance(claim.target, LipschitzTarget):
        assumptions.append(
            f"declared, not proved: the target is Lipschitz with constant {claim.target.lipschitz!r} in the {claim.target.norm} norm and "
            f"takes the {len(claim.target.points)} recorded values"
        )
    lengths = sorted({1, claim.sequence_length})
    if not any(head.attends_to_data for layer in claim.model.layers for head in layer.heads):
        lengths = lengths[:1]
    near = claim.domain.slack if isinstance(claim.domain, Sphere) else 0.0
    deadline = time.monotonic() + seconds
    found: list[Certificate] = []
    step = 0.0
    noted: set[str] = set()
    try:
        for length in reversed(
            lengths
        ):  # the a priori bound for the longest holds for all: shares and rounding grow with T
            with np.errstate(all="ignore"), threadpool_limits(1, "blas"):
                head = affine_head(claim.model, claim.prefix, length, near)
                noted |= _refuse(claim, head, deadline)
                found.append(_decide(claim, head, tightness, max_boxes, progress, deadline))
                step = max(step, _step(claim, head))
            if not found[-1].proved or found[-1].route.startswith(A_PRIORI):
                break
    except UnsupportedModelError as error:
        return unbounded(claim.eps, 0, str(error), assumptions=tuple(assumptions), conditional=conditional)
    together = _together(found, step)
    if together.status is Status.REFUTED and len(lengths) > 1:
        together = replace(together, reason=f"witness found, in a sequence of {lengths[-len(found)]} tokens")
    return replace(together, assumptions=(*assumptions, *sorted(noted)), conditional=conditional)


def _circuit(claim: Claim, domain: Box, hint: CircuitHint, seconds: float, progress: Progress | None) -> Certificate:
    """A claim about a deep model that comes with its circuit."""
    if not isinstance(claim.target, ExpressionTarget):
        return unbounded(claim.eps, 0, "a circuit is proved against an expression", assumptions=(EXECUTION,))
    start = time.monotonic()
    found = value_range(claim.target.expression, domain, tightness=math.inf, deadline=start + seconds)
    if found.bad is not None:
        reason = "the target is undefined or unbounded, or seems so"
        return unbounded(claim.eps, 0, reason, found.bad, assumptions=(EXECUTION,))
    parts = (claim.model, claim.prefix, claim.target, domain, claim.eps, hint)
    left = max(0.0, seconds - (time.monotonic() - start))
    proof = prove_circuit(*parts, seconds=left, progress=progress)
    return replace(proof, assumptions=(*proof.assumptions, *_taken_as_defined(found)))


def _sequences(
    claim: Claim, domain: Sequences, max_boxes: int, seconds: float, progress: Progress | None
) -> Certificate:
    """A claim about sequences: one that comes with its circuit, head by head; two layers that gather and then read by Taylor models;
    anything else by balls through all layers."""
    assert isinstance(claim.target, ExpressionTarget)
    start = time.monotonic()
    seen = value_range(claim.target.expression, domain.flattened, tightness=math.inf, deadline=start + seconds)
    noted = (EXECUTION, *_taken_as_defined(seen))
    if claim.circuit is not None and not domain.gaps:
        if seen.bad is not None:
            reason = "the target is undefined or unbounded, or seems so"
            return unbounded(claim.eps, 0, reason, seen.bad, assumptions=noted)
        parts = (claim.model, claim.prefix, claim.target, domain, claim.eps, claim.circuit)
        return replace(prove_circuit_on_sequences(*parts, seconds=seconds, progress=progress), assumptions=noted)
    if not domain.gaps and len(claim.model.layers) == 2:
        parts = (claim.model, claim.prefix, claim.target, domain, claim.eps)
        found = prove_gathered(*parts, max_boxes=max_boxes, seconds=seconds, progress=progress)
        if found.status is not Status.UNDECIDED:
            route = "a posteriori: layer 1 as an affine map, layer 2 by Taylor models on boxes"
            return replace(found, route=route, assumptions=noted)
    left = max(0.0, seconds - (time.monotonic() - start))
    parts = (claim.model, claim.prefix, claim.target, domain, claim.eps)
    options = {"max_boxes": max_boxes, "seconds": left, "progress": progress}
    try:
        proof = prove_sequences(*parts, cuts=claim.cuts, **options)
        if claim.cuts is not None and proof.certificate.boxes == 0 and proof.certificate.status is Status.UNDECIDED:
            proof = prove_sequences(*parts, **options)  # the hint was of no help
    except UnsupportedModelError as error:
        return unbounded(claim.eps, 0, str(error), assumptions=noted)
    lp = (proof.p, proof.lp_bound) if proof.certificate.proved and math.isfinite(proof.lp_bound) else None
    return replace(
        proof.certificate,
        route="a posteriori: balls through all layers on cells" if proof.certificate.proved else "",
        exceptional=proof.exceptional_measure if domain.gaps else 0.0,
        lp=lp,
        assumptions=noted,
    )


def _step(claim: Claim, head: AffineHead) -> float:
    """An upper bound of the relative rounding of any token's weight on the domain."""
    assert not isinstance(claim.domain, Sequences)
    lo, hi = claim.domain.bounds
    size = head.slope_scale @ np.maximum(np.abs(lo), np.abs(hi)) + head.bias_scale
    return float(((head.logit_gamma + 4 * U) * size + 32 * U + head.executed_slack + head.logit_slack).max()) * (
        1 + 1e-6
    )


def _decide(
    claim: Claim, head: AffineHead, tightness: float, max_boxes: int, progress: Progress | None, deadline: float
) -> Certificate:
    search = Bisection(claim, head, max_boxes, progress, deadline)
    if isinstance(claim.domain, Sphere):
        a_priori = by_sphere_covering(claim, head, search, max_boxes, deadline)
    else:
        a_priori = search.by_covering()
    return a_priori or search.run(tightness)


def _together(found: list[Certificate], step: float) -> Certificate:
    """One certificate for all sequence lengths from those for the shortest and the longest.

    T data tokens of score 0 and value 0 turn the mean h of the prefix's values, of total weight S, into g_T = S h / (T + S): for
    1 <= T <= T_max it lies on the segment between g_1 and g_{T_max}, and the error, a convex function of g, is at most the larger one
    of theirs. Lengths that could not be proved or are refuted decide. step: relative rounding of a token's weight, at any length.
    """
    if len(found) == 1 or not found[-1].proved:
        return found[-1]
    best = max(found, key=lambda c: c.error_lower)
    # |g_1 - g_Tmax| <= 2 eps; a token's weight at T is at most that at 1 (prefix) or at T_max (data), its value is at most 2 eps
    # farther from g_T than from the nearer end, so rounding at T is at most that at both ends and its factor times 4 eps
    rounding = (sum(c.rounding for c in found) + step * 4 * best.eps) * (1 + 1e-6)
    upper = (max(c.error_upper for c in found) + rounding) * UP
    if not (upper <= best.eps and step < 0.01):
        return unbounded(best.eps, best.boxes, "rounding for sequences between the shortest and the longest", None)
    return replace(best, error_upper=upper, rounding=rounding, boxes=sum(c.boxes for c in found))


def _taken_as_defined(found: Enclosed) -> tuple[str, ...]:
    """The assumption that a target is defined where only the corners of small boxes say so."""
    if not found.corners:
        return ()
    return (
        f"not proved: that the target is defined everywhere; boxes of relative width {found.corners:.2g}, where its domain seems to end, were "
        "looked at by their corners. The bound holds wherever it is defined",
    )


def _refuse(claim: Claim, head: AffineHead, deadline: float = math.inf) -> set[str]:
    """What has to be assumed about the target. Raise UnsupportedModelError where nothing should be proved: a target that is not defined all over the domain (bounds on boxes
    hold only where it is), or recorded values that no Lipschitz function takes (a proof would be vacuous)."""
    target = claim.target
    noted: set[str] = set()
    assert not isinstance(claim.domain, Sequences)
    if isinstance(claim.domain, Sphere) and claim.domain.m > MOST_DIMENSIONS:
        raise UnsupportedModelError(f"spheres beyond m = {MOST_DIMENSIONS} are not handled")
    if isinstance(target, ExpressionTarget):
        found = value_range(target.expression, claim.domain, tightness=math.inf, deadline=deadline)
        if found.bad is not None:
            place = ", ".join(f"[{a:.6g}, {b:.6g}]" for a, b in found.bad)
            raise UnsupportedModelError(f"the target is undefined or unbounded, or seems so, in {place}")
        noted |= set(_taken_as_defined(found))
    if isinstance(target, LipschitzTarget):
        if not head.normalised:
            raise UnsupportedModelError("a head without normalisation against a Lipschitz class is not handled")
        if head.data_tokens and not isinstance(claim.domain, Sphere):
            raise UnsupportedModelError("data tokens beside a Lipschitz class are handled on spheres")
        if len(target.points) != head.prefix_tokens:
            raise UnsupportedModelError(
                "a Lipschitz target needs one recorded value per token, in the order of the tokens"
            )
        if isinstance(claim.domain, Sphere) and not claim.domain.contains(target.points).all():
            raise UnsupportedModelError("a recorded point is not on the sphere")
        if target.contradicts_itself():
            raise UnsupportedModelError("the recorded values contradict the declared Lipschitz constant")
    return noted


def error_profile(
    claim: Claim, cells: int = 200, levels: int = 10
) -> tuple[Float[np.ndarray, "boxes n"], Float[np.ndarray, "boxes n"], Float[np.ndarray, " boxes"]]:
    """Rigorous upper bounds of |model - target|, rounding included, on each box of a regular partition of the domain.

    cells: per axis for n <= 2; a box that is too coarse for a bound below 2 eps is cut inside, up to `levels` times. Returns lower
    corners, upper corners and bounds (inf where none was reached). For plots: a proof needs fewer boxes. Boxes only: raises
    ValueError on a sphere.
    """
    if not isinstance(claim.domain, Box):
        raise ValueError(f"error_profile: needs a box, got {claim.domain!r}")
    head = affine_head(claim.model, claim.prefix)
    _refuse(claim, head)
    lo, hi = claim.domain.bounds
    n = len(lo)
    edges = [np.unique(np.clip(np.linspace(a, b, cells + 1), a, b)) for a, b in zip(lo, hi, strict=True)]
    low = np.stack([g.ravel() for g in np.meshgrid(*[e[:-1] for e in edges], indexing="ij")], axis=1)
    high = np.stack([g.ravel() for g in np.meshgrid(*[e[1:] for e in edges], indexing="ij")], axis=1)
    upper = np.zeros(len(low))
    with np.errstate(all="ignore"):
        search = Bisection(claim, head, 0, None)
        (region,) = charts(claim.domain)
        tokens = search.all_tokens()
        batch = search.batch(tokens)
        part_lo, part_hi, owner = low, high, np.arange(len(low))
        for level in range(levels + 1):
            found = np.empty(len(part_lo))
            axis = np.zeros(len(part_lo), dtype=int)
            for start in range(0, len(part_lo), batch):
                piece = slice(start, start + batch)
                bounds = search.bound(tokens, region.chart.cells(part_lo[piece], part_hi[piece]), search.order)
                found[piece], axis[piece] = bounds.upper, search.axis(bounds, region, part_lo[piece], part_hi[piece])
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
