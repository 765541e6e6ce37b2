"""A circuit executed in a float format: the proof of `verify.circuit_proof` with one more execution in every bound of the stream.

`circuit_stream` bounds |h_s - e_s| for the real function and the float64 execution alike. Here the bound has to hold for the execution in
the format as well. Layer by layer, with u the format's unit round-off, eta its smallest normal number and R_s a bound of |h_s|:

  point    rounded to the format: u sup |x| + eta on the input slots;
  logits   of a head, per token: gamma_{d+2} |K_j| R, 3 u (|K_j| R + M) for the difference from the maximum, c u ceil(N / block) for exp and
           16 d eta, as for a single head (`format_head`), with M <= max_j |K_j| R; these enter the head's reading where the float64
           execution's do (`executed`), so the head's bisection carries them to its output;
  means    2 G / (1 - G) max |v_j|, G = gamma_{N + ceil(N/block) + 10}, and what underflows, 8 (N + 4) eta max(1, |v|), on the output;
  stream   gamma_{heads + 3} of everything that is added up; the output matrix and the readout copy.

The errors of a layer's input pass through reads and Lipschitz bounds of the nodes as in `circuit_stream`: they are part of |h_s - e_s|.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from threadpoolctl import threadpool_limits

from verify.ball import UP, gamma
from verify.bisection import Progress
from verify.certificate import Certificate, upward
from verify.circuit import CircuitHint
from verify.circuit_proof import UNREADABLE, bound_on_box, decided, of_reasonable_size
from verify.circuit_ranges import ranges
from verify.circuit_stream import Heads, Refused, Stream
from verify.domain import Box
from verify.format_arithmetic import FloatFormat
from verify.model import Prefix, Transformer
from verify.target import ExpressionTarget

__all__ = ["prove_circuit_in"]


def prove_circuit_in(
    model: Transformer,
    prefix: Prefix,
    target: ExpressionTarget,
    domain: Box,
    eps: float,
    hint: CircuitHint,
    form: FloatFormat,
    *,
    seconds: float = math.inf,
    progress: Progress | None = None,
) -> Certificate:
    """Prove |execution in the format - target| <= eps over the box, for parameters that are numbers of the format, and the same of the real
    function; or undecided, with the reason."""
    report = progress or (lambda done, words: None)
    deadline = time.monotonic() + seconds
    lo, hi = domain.bounds
    rounded = (form.unit * np.maximum(np.abs(lo), np.abs(hi)) + form.smallest_normal) * UP
    with np.errstate(all="ignore"), threadpool_limits(1, "blas"):
        try:
            of_reasonable_size(hint, domain.dimension)
            heads = Heads(prefix, hint, ranges(hint.circuit, domain), eps, deadline, report)
            upper = bound_on_box(model, target, domain, heads, rounded, _InFormat(form))
        except UNREADABLE as error:
            return decided(eps, 0.0, None, refusal=str(error))
    route = "a posteriori: a circuit of single heads, each by Taylor models on boxes"
    return decided(eps, 0.0, None, upper, heads.boxes, route)


@dataclass(frozen=True)
class _InFormat:
    """The execution in a format, as `circuit_stream.through_layers` asks for it."""

    form: FloatFormat

    def gamma(self, terms: int) -> float:
        """Of a sum in the format."""
        return self.form.gamma(terms)

    def holds(self, stream: Stream) -> None:
        """Refuse streams near the end of the format's range."""
        if not 4 * float(stream.size.max() + stream.error.max()) < self.form.largest:
            raise Refused(f"the stream leaves the range of {self.form.name}")

    def head(
        self, keys: Float[np.ndarray, "tokens d"], values: Float[np.ndarray, " tokens"], stream: Stream
    ) -> tuple[Float[np.ndarray, " tokens"], float]:
        """The terms `logits` and `means` above."""
        return _head_in(keys, values, stream, self.form)

    def words(self, values: Float[np.ndarray, " tokens"], executed: Float[np.ndarray, " tokens"], output: float) -> str:
        """An error of d in every logit moves a mean by at most (e^d - 1) times the spread of the values, roughly."""
        most = math.expm1(min(float(executed.max()), 3.0)) * float(np.ptp(values)) + output
        size = float(np.abs(values).max())
        return f"{self.form.name} rounding of this head, of values up to {size:.2g}, is at most {upward(most)}"


def _head_in(keys: np.ndarray, values: np.ndarray, stream: Stream, form: FloatFormat) -> tuple[np.ndarray, float]:
    """What the format's execution adds to the errors of a head's logits (tokens,), and to that of its output."""
    count, d = keys.shape
    blocks = -(-count // form.block)
    reach = (stream.size + stream.error) * UP
    size = (np.abs(keys) @ reach) * (1 + gamma(d + 4))
    top = float(size.max())
    largest = max(1.0, float(np.abs(values).max()))
    if not (4 * top < form.largest and 4 * count * largest < form.largest):
        raise Refused(f"logits or values leave the range of {form.name}")
    executed = form.gamma(d + 5) * size + 3 * form.unit * top + form.exp_units * form.unit * blocks
    sums = form.gamma(count + blocks + 10)
    if not sums < 0.5:
        raise Refused(f"sums of {count} terms accumulated in {form.name} have no useful bound")
    output = sums / (1 - sums) * float(np.abs(values).max()) * 2
    output += 8 * (count + 4) * form.smallest_normal * largest
    return (executed + 16 * d * form.smallest_normal * (1 + float(np.abs(keys).max()))) * UP, output
