"""Certificates of executions in float64, float32 and bfloat16: the same claim, about the numbers of the format.

Two things happen to a compiled prefix that is run in a narrower format. Its parameters are rounded: the rounded ones are exact numbers
again, and the claim about the model with these parameters is proved from nothing, like any other. And its execution rounds: that is
bounded in `format_head` and `format_circuit` with the format's unit round-off in place of float64's. For a claim "within eps"

    |execution - f| <= |model with rounded parameters - f| + |execution - model with rounded parameters| <= eps

has to be shown; where it cannot, the two terms say why ("the format cannot hold eps"). float64 is the format of `prove`, for an execution as
in `verify.model.forward`; other kernels that run in float64 are bounded in the same way (`prove_in_blocks`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from verify.affine import UnsupportedModelError
from verify.bisection import Progress
from verify.certificate import EXECUTION, Certificate, Status, unbounded, upward
from verify.domain import Box
from verify.format_arithmetic import (
    BFLOAT16,
    FLOAT32,
    FLOAT64,
    FORMATS,
    FloatFormat,
    FormatError,
    cast_model,
    cast_prefix,
)
from verify.format_circuit import prove_circuit_in
from verify.format_head import Executed, executed_in, rounding_on_boxes, rounding_on_domain
from verify.format_sequences import prove_circuit_on_sequences_in
from verify.prove import Claim, prove
from verify.sequences import Sequences
from verify.target import ExpressionTarget, GridTarget

__all__ = [
    "BFLOAT16",
    "FLOAT32",
    "FLOAT64",
    "FORMATS",
    "FloatFormat",
    "FormatError",
    "InFormat",
    "cast_claim",
    "format_named",
    "prove_in_blocks",
    "prove_in_format",
]


_MORE_BOXES = 20
"""How many times the boxes that the real function took may be spent on the execution in a format."""


@dataclass(frozen=True, eq=False)
class InFormat:
    """A claim in a float format. claim: the one with rounded parameters; real: what is proved of its real function (float64's rounding
    included); certificate: of the execution in the format, its `rounding` bounds |execution - real function of the rounded parameters|."""

    form: FloatFormat
    claim: Claim
    real: Certificate
    certificate: Certificate

    @property
    def proved(self) -> bool:
        """Whether the execution in the format is proved to be within eps."""
        return self.certificate.proved

    def __repr__(self) -> str:
        found = self.certificate
        if found.proved:
            return (
                f"<InFormat {self.form.name} proved: error <= {upward(found.error_upper)}, rounding <= {upward(found.rounding)}, "
                f"eps = {found.eps:.4g}>"
            )
        return f"<InFormat {self.form.name} {found.status}: {found.reason}>"


def cast_claim(claim: Claim, form: FloatFormat) -> Claim:
    """The claim about the model and the prefix rounded to the format. Raises FormatError where they do not fit."""
    return replace(claim, model=cast_model(claim.model, form), prefix=cast_prefix(claim.prefix, form))


def prove_in_format(
    claim: Claim,
    form: FloatFormat | Any,
    *,
    max_boxes: int = 200_000,
    seconds: float = math.inf,
    progress: Progress | None = None,
) -> InFormat:
    """Prove that the model, parameters rounded to the format and executed in it, is within eps of the target.

    form: a format, or one of `FORMATS` by its name or type (torch.float32). max_boxes, seconds: for each of the two proofs; undecided
    beyond. Raises FormatError for an unknown name and for parameters that the format cannot represent.
    """
    form = format_named(form)
    cast = cast_claim(claim, form)
    options = {"max_boxes": max_boxes, "seconds": seconds, "progress": progress}
    real = prove(cast, tightness=0.5, **options)
    if form == FLOAT64:
        return InFormat(form, cast, real, real)
    if not real.proved:
        return InFormat(form, cast, real, _parameters_miss(real, form))
    return InFormat(form, cast, real, _execution(cast, real, form, max_boxes, seconds, progress))


def prove_in_blocks(claim: Claim, real: Certificate, *, seconds: float = math.inf) -> Certificate:
    """A certificate of the float64 execution that covers attention kernels too, from one that does not.

    `prove` assumes exp and a division, as in `forward`. Kernels compute the softmax in blocks, with exp2 and a reciprocal; the assumption
    of the certificate that is returned is then `FLOAT64.execution`. Where that cannot be shown, or nothing is proved, `real` is returned.
    """
    if not real.proved:
        return real
    found = _execution(claim, real, FLOAT64, 200_000, seconds, None)
    return found if found.proved else real


def format_named(form: Any) -> FloatFormat:
    """A format by itself, its name, or what is written like it (torch.float32, numpy.float32). Raises FormatError for anything else."""
    if isinstance(form, FloatFormat):
        return form
    name = form.__name__ if isinstance(form, type) else str(form).removeprefix("torch.")
    if name not in FORMATS:
        raise FormatError(f"format: {form!r} is unknown. Pass one of {', '.join(FORMATS)}.")
    return FORMATS[name]


def _execution(
    cast: Claim, real: Certificate, form: FloatFormat, max_boxes: int, seconds: float, progress: Progress | None
) -> Certificate:
    """What is proved of the execution of parameters that are numbers of the format, whose real function holds eps."""
    if cast.circuit is not None and isinstance(cast.target, ExpressionTarget):
        where = (cast.model, cast.prefix, cast.target)
        what = (cast.eps, cast.circuit, form)
        if isinstance(cast.domain, Sequences):
            found = prove_circuit_on_sequences_in(*where, cast.domain, *what, seconds=seconds, progress=progress)
        else:
            assert isinstance(cast.domain, Box)
            found = prove_circuit_in(*where, cast.domain, *what, seconds=seconds, progress=progress)
        return _executed(found, real, form) if found.proved else _undecided(real, form, found.reason)
    if isinstance(cast.domain, Sequences):
        return _undecided(real, form, "sequences are handled in float64 alone, but for circuits")
    try:
        return _single_head(cast, real, form, max_boxes, seconds, progress)
    except UnsupportedModelError as error:
        return _undecided(real, form, str(error))


def _single_head(
    cast: Claim, real: Certificate, form: FloatFormat, max_boxes: int, seconds: float, progress: Progress | None
) -> Certificate:
    done = executed_in(cast, form)
    if not done.fits:
        return _undecided(real, form, f"intermediate results may leave the range of {form.name}")
    if math.isinf(done.head.output_gamma):
        return _undecided(
            real, form, f"sums of {len(done.head.biases)} terms accumulated in {form.name} have no bound at all"
        )
    over_all = rounding_on_domain(cast, done, form)
    upper = (real.error_upper + over_all) * (1 + 1e-12)
    if form == FLOAT64 and upper <= cast.eps:  # so small that nothing is to be gained
        return _executed(replace(real, error_upper=upper, rounding=over_all), real, form)
    by_boxes = done.in_boxes is not None and done.lost < 0.5 * cast.eps and not done.head.data_tokens
    if by_boxes and isinstance(cast.target, ExpressionTarget | GridTarget):
        most = min(max_boxes, _MORE_BOXES * real.boxes + 2000)
        found = rounding_on_boxes(cast, done, most, seconds, progress)
        if found.proved:
            return _executed(_with_lost(found, cast.eps, done, over_all), real, form)
    if (
        not upper <= cast.eps and (real.error_lower + over_all) * (1 + 1e-8) < cast.eps
    ):  # nearer to the truth, it may do
        nearer = replace(cast, eps=cast.eps * (1 - 1e-9) - over_all)
        finer = prove(nearer, max_boxes=max_boxes, seconds=seconds, progress=progress)
        if finer.proved:
            real, upper = replace(finer, eps=cast.eps), (finer.error_upper + over_all) * (1 + 1e-12)
    if upper <= cast.eps:
        return _executed(replace(real, error_upper=upper, rounding=over_all), real, form)
    return _cannot_hold(real, over_all, form)


def _with_lost(found: Certificate, eps: float, done: Executed, over_all: float) -> Certificate:
    """The bisection's certificate, with what underflow may lose; its bound of the rounding or the one for the whole domain at once,
    whichever is smaller."""
    rounding = min((found.rounding + done.lost) * (1 + 1e-12), over_all)
    upper = min((found.error_upper + done.lost) * (1 + 1e-12), eps)
    return replace(found, eps=eps, error_upper=upper, error_lower=min(found.error_lower, upper), rounding=rounding)


def _executed(found: Certificate, real: Certificate, form: FloatFormat) -> Certificate:
    """Assumptions of the proof about the real function, float64's machine replaced by the format's."""
    assumptions = (form.execution, *(a for a in real.assumptions if a != EXECUTION))
    lower = min(max(real.error_lower, found.error_lower), found.error_upper)
    return replace(found, assumptions=assumptions, conditional=real.conditional, error_lower=lower)


def _undecided(real: Certificate, form: FloatFormat, reason: str) -> Certificate:
    found = unbounded(
        real.eps, real.boxes, f"{form.name}: {reason}", error_lower=real.error_lower, witness=real.witness
    )
    assumptions = (form.execution, *(a for a in real.assumptions if a != EXECUTION))
    return replace(found, assumptions=assumptions, conditional=real.conditional)


def _parameters_miss(real: Certificate, form: FloatFormat) -> Certificate:
    """The claim about rounded parameters is refuted, or could not be proved."""
    if real.status is Status.REFUTED:
        return replace(
            real,
            reason=f"parameters rounded to {form.name} miss the target by {real.error_lower:.3g} at the witness; eps is {real.eps:.3g}",
        )
    return _undecided(real, form, f"the claim about parameters rounded to {form.name} is not proved ({real.reason})")


def _cannot_hold(real: Certificate, rounding: float, form: FloatFormat) -> Certificate:
    reason = (
        f"{form.name} rounding is at most {upward(rounding)} and the rounded parameters miss by at most {upward(real.error_upper)}; "
        f"eps is {real.eps:.3g}. Use a wider format or a larger eps"
    )
    return replace(_undecided(real, form, reason), rounding=rounding)
