"""A circuit on sequences executed in a float format: the walk of `verify.format_circuit` at every token, after a layer that gathers in the format.

Layer 0 must copy: every head's value matrix selects coordinates of the token (never a position or the constant, which are larger), its output matrix places each in a gathered slot of its own,
and its prefix tokens have the value 0. Then a gathered slot is a mean of copies of rounded coordinates x~_s of size at most X, under weights that
do not depend on the data (`gathered.first_layer`). With u, eta, G and c of the format as in `format_circuit`:

  scores   have sizes S_j = |q||k_j|, with |q| <= |W_Q| |r_t| and |k_s| <= |W_K| |r_s|, r_s the position and constant of token s; products and
           sums of both read-outs and of the score are within gamma_{2 d + d_k + 8} S_j, the difference from the maximum, its scaling and
           exp within 4 u (S_j + max S) + c u / (1 - c u) ceil(tokens / block); underflow of differences and of d + d_k products a read-out
           4 (ceil(tokens / block) + 1) eta + 16 (d + d_k) eta (1 + |q| + |K| + |W_K|); together rho_j, t = max e^{rho_j} - 1 < 1/2;
  weights  move the mean by t / (1 - t) sum w_j |v_j - g|. If coordinate b is gathered, with weight w_b, sum w_j |v_j - g| is at most
           2 sum_{j != b} w_j |v_j - v_b| <= 2 (sum_{j != b} w_j |v_j| + (1 - w_b) |v_b|), which is part of the bound of what the slot of
           the real function misses: at most twice the error that `circuit_sequences` gives it;
  sums     G / (1 - G) (1 + 4 t / (1 - t)) 2 X and 48 (tokens + 4) eta max(1, X) e^{8 u max S}, as for any head; adding to 0 is exact;
  point    u X + eta, on a token's own inputs too.

Slots for nodes stay 0: layer 0 must not write there.
"""

from __future__ import annotations

import math
import time

import numpy as np
from threadpoolctl import threadpool_limits

from verify.ball import UP, U, gamma
from verify.bisection import Progress
from verify.certificate import Certificate
from verify.circuit import CircuitHint
from verify.circuit_proof import UNREADABLE, decided, of_reasonable_size
from verify.circuit_ranges import ranges
from verify.circuit_sequences import bound_on_sequences
from verify.circuit_stream import Heads, Refused, Stream
from verify.format_arithmetic import FloatFormat
from verify.format_circuit import ExecutionInFormat
from verify.gathered import within_floats
from verify.model import Head, Prefix, Transformer
from verify.sequences import Sequences
from verify.target import ExpressionTarget

__all__ = ["prove_circuit_on_sequences_in"]


def prove_circuit_on_sequences_in(
    model: Transformer,
    prefix: Prefix,
    target: ExpressionTarget,
    domain: Sequences,
    eps: float,
    hint: CircuitHint,
    form: FloatFormat,
    *,
    seconds: float = math.inf,
    progress: Progress | None = None,
) -> Certificate:
    """Prove |execution in the format - target| <= eps for every sequence of the domain's box, for parameters that are numbers of the format, and
    the same of the real function; or undecided, with the reason."""
    report = progress or (lambda done, words: None)
    deadline = time.monotonic() + seconds

    def gathered(stream: Stream, t: int) -> Stream:
        return _gathered_in(model, prefix, domain, form, stream, t)

    with np.errstate(all="ignore"), threadpool_limits(1, "blas"):
        try:
            within_floats(model, prefix, domain)
            of_reasonable_size(hint, domain.flattened.dimension)
            heads = Heads(prefix, hint, ranges(hint.circuit, domain.flattened), eps, deadline, report)
            upper = bound_on_sequences(model, target, domain, heads, ExecutionInFormat(form), gathered)
        except UNREADABLE as error:
            return decided(eps, 0.0, None, refusal=str(error))
    route = "a posteriori: a circuit of single heads after a layer that gathers, each by Taylor models on boxes"
    return decided(eps, 0.0, None, upper, heads.boxes, route)


def _gathered_in(
    model: Transformer, prefix: Prefix, domain: Sequences, form: FloatFormat, stream: Stream, t: int
) -> Stream:
    """The stream after layer 0, its errors a bound for the execution in the format as well."""
    n, d, T = model.inputs, model.embedding.shape[0], domain.T
    far = float(np.maximum(np.abs(domain.box.lo), np.abs(domain.box.hi)).max())
    point = (form.unit * far + form.smallest_normal) * UP
    if not 16 * (T + 1) * far < form.largest:
        raise Refused(f"the tokens leave the range of {form.name}")
    assert model.positions is not None
    constants = np.abs(model.positions[:T]) + np.abs(model.offset)  # (T, d): one-hot positions and the constant
    error = stream.error.copy()
    error[:n] = error[:n] + point
    taken: set[int] = set(range(n + T)) | {d - 1}
    for h, head in enumerate(model.layers[0].heads):
        slots = _slots(head, prefix.values[0][h], h, n)
        if taken & slots:
            raise Refused(f"layer 0 head {h} writes where another head, an input, a position or the constant is")
        taken |= slots
        moved, sums, lost = _mean_in(head, prefix.keys[0][h], constants, t, form)
        at = sorted(slots)
        mean = error[at] * (1 + 2 * moved) + point + sums * 2 * far + lost * max(1.0, far)
        error[at] = mean * (1 + 4 * form.unit)  # of rounded coordinates
    return Stream(stream.size, error, stream.holds, stream.ones)


def _slots(head: Head, values: np.ndarray, h: int, inputs: int) -> set[int]:
    """Where a head of layer 0 writes. Raises Refused unless all it does is copy coordinates of the token, the first `inputs` slots."""
    if head.value is None or head.key is None or values.any() or head.value[:, inputs:].any():
        raise Refused(f"layer 0 head {h} does more than gather")
    for matrix in (head.value, head.output.T):
        rows = np.abs(matrix).sum(axis=1)
        if not (np.isin(matrix, (0.0, 1.0)).all() and (rows == 1).all()):
            raise Refused(f"layer 0 head {h} does not copy")
    slots = np.flatnonzero(head.output.any(axis=1))
    if len(slots) != head.output.shape[1]:
        raise Refused(f"layer 0 head {h} adds coordinates up")
    return set(slots.tolist())


def _mean_in(
    head: Head, keys: np.ndarray, constants: np.ndarray, t: int, form: FloatFormat
) -> tuple[float, float, float]:
    """t / (1 - t), the relative error of the sums, and what underflow may lose of values of size 1."""
    assert head.key is not None
    T, d = constants.shape
    count = len(keys) + T
    blocks = -(-count // form.block)
    query = np.abs(head.query) @ constants[t]
    own = constants @ np.abs(head.key).T
    if not 8 * max(float(query.max()), float(own.max()), float(np.abs(keys).max(initial=0.0))) < form.largest:
        raise Refused(f"queries or keys of layer 0 leave the range of {form.name}")
    sizes = np.concatenate([np.abs(keys) @ query, own @ query])
    sizes = sizes * (1 + gamma(2 * d + keys.shape[1] + 8))
    swing = float(np.exp(8 * form.unit * sizes.max()))
    if not (8 * float(sizes.max()) < form.largest and swing < 2):
        raise Refused(f"the scores of layer 0 leave the range of {form.name}")
    rho = form.gamma(2 * d + keys.shape[1] + 8) * sizes + 4 * form.unit * (sizes + sizes.max()) * (1 + 1e-3)
    blocked = form.exp_units * form.unit / (1 - form.exp_units * form.unit) * blocks
    rho = rho + 4 * (blocks + 1) * form.smallest_normal
    reach = 1 + query.max() + np.abs(keys).max() + np.abs(head.key).sum(axis=1).max()
    rho = rho + blocked + 16 * (d + keys.shape[1]) * form.smallest_normal * reach * (1 + 8 * U)
    off = math.expm1(min(float(rho.max()), 3.0)) * UP
    sums = form.gamma(count + blocks + 7)
    if not (off < 0.5 and sums < 0.5):
        raise Refused(f"the scores of layer 0 are not resolved in {form.name}")
    return (
        off / (1 - off) * UP,
        sums / (1 - sums) * (1 + 4 * off / (1 - off)) * UP,
        48 * (count + 4) * form.smallest_normal * swing,
    )
