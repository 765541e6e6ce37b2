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
from dataclasses import replace

import numpy as np
from threadpoolctl import threadpool_limits

from verify.ball import TINY, UP, U, gamma
from verify.bisection import Progress
from verify.certificate import Certificate, upward
from verify.circuit import CircuitHint
from verify.circuit_proof import _layout, circuit_outputs, decided, equals_target
from verify.circuit_ranges import ranges
from verify.circuit_stream import Heads, Refused, Stream, _node, _read
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
    with np.errstate(all="ignore"), threadpool_limits(1, "blas"):
        heads = Heads(prefix, hint, ranges(hint.circuit, domain), eps, time.monotonic() + seconds, report)
        try:
            slots = _layout(model, prefix, hint)
            stream = _start(model, domain, form)
            for l in range(len(model.layers)):
                _layer(heads, stream, l, form)
            equals_target(circuit_outputs(hint, slots, stream), target, domain)
        except Refused as error:
            return decided(eps, 0.0, None, refusal=str(error))
        upper = float(np.max(stream.error[slots])) * (1 + 4 * U) + TINY
    route = "a posteriori: a circuit of single heads, each by Taylor models on boxes"
    return decided(eps, 0.0, None, upper, heads.boxes, route)


def _start(model: Transformer, domain: Box, form: FloatFormat) -> Stream:
    """The stream before the first layer: the rounded point, zeros and 1."""
    n, d = model.inputs, model.embedding.shape[0]
    lo, hi = domain.bounds
    stream = Stream(np.zeros(d), np.zeros(d), {s: [s] for s in range(n)}, (d - 1,))
    stream.size[:n] = np.maximum(np.abs(lo), np.abs(hi))
    stream.size[-1] = 1.0
    stream.error[:n] = (form.unit * stream.size[:n] + form.smallest_normal) * UP
    return stream


def _layer(heads: Heads, stream: Stream, l: int, form: FloatFormat) -> None:
    """`circuit_stream.through_layers` for one layer, every token alike."""
    hint, prefix, d = heads.hint, heads.prefix, len(stream.size)
    added, written = np.zeros(d), np.zeros(d)
    new: list[tuple[int, int]] = []  # what is written is in the stream for later layers only
    for i, (at, h, s) in enumerate(hint.places):
        if at != l:
            continue
        if time.monotonic() > heads.deadline:
            raise Refused("the time is over")
        heads.report(i / len(hint.places), "proving heads")
        reading = _read(prefix.keys[l][h], i, heads, stream)
        values = prefix.values[l][h][:, s]
        executed, output = _head_in(prefix.keys[l][h], values, stream, form)
        reading = replace(reading, executed=(reading.executed + executed) * UP)
        try:
            added[s] += (_node(values, reading, i, heads) + output) * UP
        except Refused as error:
            most = math.expm1(min(float(reading.executed.max()), 3.0)) * float(np.ptp(values)) + output
            size = float(np.abs(values).max())
            raise Refused(
                f"{error}; {form.name} rounding of this head, of values up to {size:.2g}, is at most {upward(most)}"
            ) from error
        written[s] += heads.known[i].size
        new.append((s, heads.variables + i))
    covered = {(h, s) for at, h, s in hint.places if at == l}
    for h in range(len(prefix.keys[l])):
        for s in np.flatnonzero(np.any(prefix.values[l][h] != 0, axis=0)):
            if (h, int(s)) not in covered:
                raise Refused(f"layer {l} head {h} writes to slot {int(s)}, which the circuit does not mention")
    for s, member in new:
        stream.holds.setdefault(s, []).append(member)
    everything = stream.size + stream.error + written + added
    stream.error = (stream.error + added + form.gamma(len(prefix.keys[l]) + 3) * everything) * UP
    stream.size = (stream.size + written) * UP
    if not 4 * float(stream.size.max() + stream.error.max()) < form.largest:
        raise Refused(f"layer {l}: the stream leaves the range of {form.name}")


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
