"""A circuit executed in a float format: the proof of `verify.circuit_proof` with one more execution in every bound of the stream.

`circuit_stream` bounds |h_s - e_s| for the real function and the float64 execution alike. Here the bound has to hold for the execution in
the format as well. Layer by layer, with u the format's unit round-off, eta its smallest normal number and R_s a bound of |h_s|:

  point    rounded to the format: u sup |x| + eta on the input slots;
  logits   of a head, per token: gamma_{m+2} |K_j| R, m the most coordinates in which a key is not zero (products with zeros and sums with them
           are exact); 4 u (B_j + M) for the differences from maxima and a scaling by log2 e, where B_j bounds |s_j| and M bounds
           |max_j s_j| <= max(|max_j inf s_j|, |max_j sup s_j|) over all that may be read; c u / (1 - c u) ceil(N / block) for exp; and
           16 d eta (1 + |K|) + 4 (ceil(N / block) + 1) eta for what underflows (all as in `format_head`).
           These enter the head's reading where the float64 execution's do (`executed`), so the head's bisection carries them to its output;
  means    with executed weights w' and G = gamma_{N + ceil(N/block) + 7}: numerator and denominator are sums of positive factors 1 + theta,
           |theta| <= G, on w'_j v_j and w'_j, so their quotient misses the mean g' of the values under w' by at most
           G / (1 - G) (sum w'_j |v_j| + |g'|). With t = max_j e^{rho_j} - 1 < 1/2, rho_j all that the logits are off by,
           w'_j <= (1 + t) / (1 - t) w_j and |g' - g| <= 2 t / (1 - t) sum w_j |v_j|: so at most
           G / (1 - G) (1 + 4 t / (1 - t)) (sum w_j |v_j| + |g|), which the bisection bounds box by box (`sums`). Values may be huge where
           their weights are small: not max |v| counts, but the mean of |v|;
           48 (N + 4) eta max(1, |v|) e^{8 u max B} for what underflows, on the output, and on its way into the stream;
  stream   gamma_{k + 1} of everything that is added up where k heads write; the output matrix and the readout copy.

The errors of a layer's input pass through reads and Lipschitz bounds of the nodes as in `circuit_stream`: they are part of |h_s - e_s|.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from threadpoolctl import threadpool_limits

from verify.ball import UP, U, gamma
from verify.bisection import Progress
from verify.certificate import Certificate, upward
from verify.circuit import CircuitHint
from verify.circuit_proof import UNREADABLE, bound_on_box, decided, of_reasonable_size
from verify.circuit_ranges import ranges
from verify.circuit_stream import Heads, Reading, Refused, Stream
from verify.domain import Box
from verify.format_arithmetic import FloatFormat
from verify.model import Prefix, Transformer
from verify.target import ExpressionTarget

__all__ = ["ExecutionInFormat", "prove_circuit_in"]


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
            upper = bound_on_box(model, target, domain, heads, rounded, ExecutionInFormat(form))
        except UNREADABLE as error:
            return decided(eps, 0.0, None, refusal=str(error))
    route = "a posteriori: a circuit of single heads, each by Taylor models on boxes"
    return decided(eps, 0.0, None, upper, heads.boxes, route)


@dataclass(frozen=True)
class ExecutionInFormat:
    """The execution in a format, as `circuit_stream.through_layers` asks for it."""

    form: FloatFormat

    def gamma(self, terms: int) -> float:
        """Of a sum in the format."""
        return self.form.gamma(terms)

    def holds(self, stream: Stream) -> None:
        """Refuse streams near the end of the format's range."""
        if not 8 * float(stream.size.max() + stream.error.max()) < self.form.largest:
            raise Refused(f"the stream leaves the range of {self.form.name}")

    def head(
        self,
        keys: Float[np.ndarray, "tokens d"],
        values: Float[np.ndarray, " tokens"],
        reading: Reading,
        stream: Stream,
    ) -> tuple[Float[np.ndarray, " tokens"], float, float]:
        """The terms `logits` and `means` above."""
        return _head_in(keys, values, reading, stream, self.form)

    def words(self, values: Float[np.ndarray, " tokens"], reading: Reading) -> str:
        """An error of d in every logit moves a mean by at most (e^d - 1) times the spread of the values, roughly."""
        size = float(np.abs(values).max())
        most = math.expm1(min(float(reading.executed.max()), 3.0)) * float(np.ptp(values)) + 2 * reading.sums * size
        return f"{self.form.name} rounding of this head, of values up to {size:.2g}, is at most {upward(most)}"


def _head_in(
    keys: np.ndarray, values: np.ndarray, reading: Reading, stream: Stream, form: FloatFormat
) -> tuple[np.ndarray, float, float]:
    """What the format's execution adds to the errors of a head's logits (tokens,), the relative error of its sums, and what it loses of the
    output."""
    count, d = keys.shape
    blocks = -(-count // form.block)
    reach = (stream.size + stream.error) * UP
    size = (np.abs(keys) @ reach) * (1 + gamma(d + 4))
    largest = max(1.0, float(np.abs(values).max()))
    inner = form.gamma(int(np.count_nonzero(keys, axis=1).max()) + 2) * size
    blocked = form.exp_units * form.unit / (1 - form.exp_units * form.unit) * blocks
    low, high = reading.logits()
    own, top = np.maximum(np.abs(low), np.abs(high)) + inner, max(abs(float(low.max())), abs(float(high.max())))
    swing = float(np.exp(8 * form.unit * own.max()))
    if not (8 * float(size.max()) < form.largest and 8 * count * largest * swing < form.largest):
        raise Refused(f"logits or values leave the range of {form.name}")
    executed = inner + 4 * form.unit * (own + top + float(inner.max())) + blocked
    lost = form.smallest_normal * (16 * d * (1 + float(np.abs(keys).max())) + 4 * (blocks + 1))
    executed = (executed + lost) * (1 + 8 * U)
    sums = form.gamma(count + blocks + 7)
    off = math.expm1(min(float((executed + reading.executed).max()), 3.0)) * UP
    if not (sums < 0.5 and off < 0.5 and blocked < math.log(2)):
        raise Refused(
            f"a head of {count} tokens, logits off by up to {math.log1p(off):.2g}, has no useful bound in {form.name}"
        )
    taken = 48 * (count + 4) * form.smallest_normal * largest * swing
    return executed, sums / (1 - sums) * (1 + 4 * off / (1 - off)) * (1 + 8 * U), taken
