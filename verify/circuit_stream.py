"""What the heads of a circuit do to the residual stream: each head against its own function, errors carried through reads and Lipschitz bounds.

Slot s of the stream should hold e_s, the sum of the circuit's variables and nodes placed there. With |h_s - e_s| <= err_s, for the real
function and for the float64 execution alike, node i at layer l, head k, slot s:

  reads   z_m = <alpha_m, (x, n)> + alpha_m0, with alpha the coefficients of the circuit's read-outs (enclosed by jets; degree 2 must vanish).
          With U_m the row of slot coefficients, h gives <U_m, h> = z_m + Delta_m,
          |Delta_m| <= sum_s |U_ms| err_s + sum |U - alpha| sup |x| + sum |U - alpha| sup |n|.
  keys    K_j = sum_m a_jm U_m + b_j e_const + rho_j, for floats a, b found by least squares: any would do, rho is what they leave. So the
          head is one with logits <a_j, zhat> + b_j + <rho_j, h>, zhat = z + Delta, on the box of all zhat (`AffineHead`, logit_slack).
          Slots that hold exactly 1 (a token's own position) are added to the constant first; that sum's rounding is part of rho.
  head    |head(zhat) - g(zhat)| <= delta on that box, rounding included: the bisection of a single head, in m <= 2 dimensions. Here g is
          continued beyond the ends of its domain (continuation.py): z lies inside, zhat perhaps not.
  node    |head - n_i| <= delta + sup |g(zhat) - g(z)|, the last bounded piece by piece by a partial derivative times |Delta|, or by the
          range of g where that is smaller.
  silent  A head that should add nothing here adds at most sum_j w_j |V_j|, and w_j <= min(1, e^{s_j - s_b}) for any token b.
  slot    err_s grows by that of each node written to it, and by the rounding of the additions.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast

import numpy as np
from jaxtyping import Float

from verify.affine import AffineHead
from verify.ball import EXP_RELATIVE_ERROR, TINY, UP, Ball, U, exp, gamma, total
from verify.bisection import Bisection, Progress
from verify.certificate import Certificate
from verify.circuit import CircuitHint
from verify.circuit_ranges import NodeRange, affine_form, grown, variation
from verify.continuation import continued
from verify.domain import Box
from verify.model import Head, Layer, Prefix, Transformer
from verify.target import ExpressionTarget

__all__ = ["Execution", "Heads", "Reading", "Refused", "Stream", "through_layers"]

_MOST = 4e149
"""Beyond this no read-out is looked at: no Box holds it."""
_NEVER_OVERFLOWS = 2.0**900
"""Sums of so little in all slots of a stream, and logits of that size, stay far inside float64's range."""


class Refused(ValueError):
    """The model is not the circuit it is said to be."""


@dataclass(frozen=True, eq=False)
class _HeadClaim:
    """What a bisection asks of a claim: one head against one function. The model is used to look for bad points only."""

    model: Transformer
    prefix: Prefix
    target: ExpressionTarget
    domain: Box
    eps: float
    sequence_length: int = 1


@dataclass
class Stream:
    """What is known of one token's stream: size (d,) bounds |e_s|, error (d,) bounds |h_s - e_s|. holds: variables and nodes that e_s is the
    sum of, numbered together (node i after all variables); slots left out may hold anything of that size. ones: slots that are exactly 1,
    the constant (the last) among them."""

    size: Float[np.ndarray, " d"]
    error: Float[np.ndarray, " d"]
    holds: dict[int, list[int]] = field(default_factory=dict)
    ones: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Reading:
    """A head's logits <slopes, zhat> + biases, give or take slack, for zhat in [lo, hi], delta around the range of z; `executed` is what
    those of the forward pass may be off by, beyond that, and `sums` the relative error of its means' numerators and denominators."""

    slopes: Float[np.ndarray, "tokens m"]
    biases: Float[np.ndarray, " tokens"]
    slack: Float[np.ndarray, " tokens"]
    executed: Float[np.ndarray, " tokens"]
    lo: Float[np.ndarray, " m"]
    hi: Float[np.ndarray, " m"]
    delta: Float[np.ndarray, " m"]
    sums: float

    def content(self) -> bytes:
        """Everything a proof about it depends on."""
        parts = (
            self.slopes,
            self.biases,
            self.slack,
            self.executed,
            self.lo,
            self.hi,
            self.delta,
            np.array([self.sums]),
        )
        return b"".join(np.ascontiguousarray(p).tobytes() for p in parts)

    def logits(self) -> tuple[Float[np.ndarray, " tokens"], Float[np.ndarray, " tokens"]]:
        """Bounds of the real function's logits for everything that may be read, lower and upper."""
        middle, half = self.lo + (self.hi - self.lo) * 0.5, (self.hi - self.lo) * (0.5 + 8 * U)
        centre, terms = self.slopes @ middle + self.biases, np.abs(self.slopes) @ np.abs(middle) + np.abs(self.biases)
        m = len(self.lo) + 8
        reach = (np.abs(self.slopes) @ half + self.slack) * (1 + gamma(m)) + gamma(m) * terms * UP
        return centre - reach, centre + reach


@dataclass
class Heads:
    """The heads of one proof. known: ranges of the nodes; boxes: examined so far; done: heads that were proved, by all that their proofs
    depend on: a head that sees the same at several tokens is proved once."""

    prefix: Prefix
    hint: CircuitHint
    known: list[NodeRange]
    eps: float
    deadline: float
    report: Progress
    boxes: int = 0
    done: dict[tuple[int, bytes], float] = field(default_factory=dict)

    @property
    def variables(self) -> int:
        """Of the circuit."""
        return len(self.hint.circuit.variables)


class Execution(Protocol):
    """One more execution of the model, beside the real function and float64's, for which the bounds of a stream are to hold."""

    def head(
        self,
        keys: Float[np.ndarray, "tokens d"],
        values: Float[np.ndarray, " tokens"],
        reading: Reading,
        stream: Stream,
    ) -> tuple[Float[np.ndarray, " tokens"], float, float]:
        """Bounds of what it adds to the errors of a head's logits; of the relative error of the sums of weights and of weighted values; and of
        what is lost of the output besides. Raises Refused where there are none."""
        ...

    def gamma(self, terms: int) -> float:
        """The relative error of a sum of so many terms."""
        ...

    def holds(self, stream: Stream) -> None:
        """Raise Refused where the stream leaves its range."""
        ...

    def words(self, values: Float[np.ndarray, " tokens"], reading: Reading) -> str:
        """How much of a head's error may be its rounding, for the message of a refusal."""
        ...


def through_layers(
    heads: Heads,
    stream: Stream,
    layers: range,
    live: Callable[[int], bool] = lambda i: True,
    execution: Execution | None = None,
) -> None:
    """Carry a token's stream through layers of the model, of heads on their prefixes alone that write where hint.places says.

    live: which nodes this token's slots hold; the head of another must add next to nothing. execution: one more that the bounds shall
    hold for. Raises Refused where a head writes to a slot that the circuit does not mention, or is not known to be near its function.
    """
    hint, prefix, d = heads.hint, heads.prefix, len(stream.size)
    for l in layers:
        added, written = np.zeros(d), np.zeros(d)
        new: list[tuple[int, int]] = []  # what is written is in the stream for later layers only
        for i, (at, h, s) in enumerate(hint.places):
            if at != l:
                continue
            if time.monotonic() > heads.deadline:
                raise Refused("the time is over")
            heads.report(i / len(hint.places), "proving heads")
            reading = _read(prefix.keys[l][h], i, heads, stream)
            values, output = prefix.values[l][h][:, s], 0.0
            if execution is not None:
                executed, sums, output = execution.head(prefix.keys[l][h], values, reading, stream)
                reading = replace(reading, executed=(reading.executed + executed) * UP, sums=max(reading.sums, sums))
            if live(i):
                try:
                    added[s] += (_node(values, reading, i, heads) + output) * UP
                except Refused as error:
                    if execution is None:
                        raise
                    raise Refused(f"{error}; {execution.words(values, reading)}") from error
                written[s] += heads.known[i].size
                new.append((s, heads.variables + i))
            else:
                added[s] += (_silent(values, reading) + output) * UP
        covered = {(h, s) for at, h, s in hint.places if at == l}
        for h in range(len(prefix.keys[l])):
            for s in np.flatnonzero(np.any(prefix.values[l][h] != 0, axis=0)):
                if (h, int(s)) not in covered:
                    raise Refused(f"layer {l} head {h} writes to slot {int(s)}, which the circuit does not mention")
        for s, member in new:
            stream.holds.setdefault(s, []).append(member)
        reach = (stream.size + stream.error) * UP
        # an overflow anywhere becomes NaN everywhere: the next product has 0 * inf
        summed = sum(len(v) * float(np.abs(v).max()) for v in prefix.values[l])
        summed += float(reach.sum() + written.sum() + added.sum())
        logits = max(float((np.abs(k) @ reach).max()) for k in prefix.keys[l])
        if not (summed < _NEVER_OVERFLOWS and logits < _NEVER_OVERFLOWS):
            raise Refused(f"layer {l}: what it computes is not known to stay within float64's range")
        everything = stream.size + stream.error + written + added
        count = len(prefix.keys[l]) + 3
        step = np.full(d, gamma(count))
        if execution is not None:  # where no head writes, zeros are added: that is exact
            writers = np.sum([np.any(v != 0, axis=0) for v in prefix.values[l]], axis=0)
            step = np.maximum(step, [execution.gamma(int(k) + 1) if k else 0.0 for k in writers])
        stream.error = (stream.error + added + step * everything) * UP
        stream.size = (stream.size + written) * UP
        if execution is not None:
            execution.holds(stream)


def _read(keys: Float[np.ndarray, "tokens d"], i: int, heads: Heads, stream: Stream) -> Reading:
    """The head of node i as a function of what the node reads."""
    hint, known, n = heads.hint, heads.known, heads.variables
    node = hint.circuit.nodes[i]
    alpha = affine_form(node.reads)  # balls (m, variables + nodes + 1)
    if alpha is None:
        raise Refused(f"node {i}: what it reads is not affine")
    if not (np.isfinite(alpha.mid).all() and np.isfinite(alpha.rad).all()):
        raise Refused(f"node {i}: the coefficients of what it reads are too large")
    m, d = alpha.shape[0], keys.shape[1]
    later = np.zeros((m, n + len(hint.circuit.nodes) + 1 - alpha.shape[1]))  # nodes numbered i and beyond are not read
    alpha = Ball(
        np.column_stack([alpha.mid[:, :-1], later, alpha.mid[:, -1]]),
        np.column_stack([alpha.rad[:, :-1], later, alpha.rad[:, -1]]),
    )
    rows, delta = np.zeros((m, d)), np.zeros(m)
    rows[:, -1] = alpha.mid[:, -1]
    delta += alpha.rad[:, -1]
    for s, members in stream.holds.items():
        rows[:, s] = alpha.mid[:, members[0]]
        for v in members:
            size = stream.size[s] if v < n else known[v - n].size
            miss = np.abs(rows[:, s] - alpha.mid[:, v]) * (1 + 4 * U) + alpha.rad[:, v]
            delta += miss * size * (1 + 4 * U)
    held = {v for members in stream.holds.values() for v in members}
    for v in range(alpha.shape[1] - 1):
        if v not in held and (alpha.mid[:, v].any() or alpha.rad[:, v].any()):
            raise Refused(f"node {i} reads something that is not in the stream yet")
    delta = (delta + np.abs(rows) @ stream.error * (1 + gamma(d + 4))) * (1 + gamma(len(held) + 8))
    reach = (stream.size + stream.error) * UP
    executed = gamma(d + 2) * (np.abs(keys) @ reach) * (1 + gamma(d + 4))
    own, rounded = _folded(keys, stream.ones)
    full = np.vstack([rows, np.eye(1, d, d - 1)])
    try:
        fit = np.linalg.lstsq(full.T, own.T, rcond=None)[0].T  # (tokens, m + 1)
    except np.linalg.LinAlgError:
        fit = np.full((len(own), m + 1), np.nan)
    if not np.isfinite(fit).all():
        raise Refused(f"node {i}: its keys do not fit what it reads")
    terms = np.abs(own) + np.abs(fit) @ np.abs(full)
    left = np.abs(own - fit @ full) + gamma(m + 6) * terms
    slack = (left @ reach + rounded) * (1 + gamma(d + 4))
    lo, hi = grown(*known[i].reads, delta)
    if not (np.abs(lo) < _MOST).all() or not (np.abs(hi) < _MOST).all():
        raise Refused(f"node {i}: what it reads is not known to be bounded")
    return Reading(fit[:, :m], fit[:, m], slack, executed, lo, hi, delta, gamma(len(keys) + 2))


def _folded(
    keys: Float[np.ndarray, "tokens d"], ones: tuple[int, ...]
) -> tuple[Float[np.ndarray, "tokens d"], Float[np.ndarray, " tokens"]]:
    """Keys with all slots that are exactly 1 added to the constant's, and a bound of that sum's rounding."""
    if len(ones) < 2:
        return keys, np.zeros(len(keys))
    some = keys[:, list(ones)]
    own = keys.copy()
    own[:, list(ones)] = 0.0
    own[:, -1] = some.sum(axis=1)
    return own, gamma(len(ones)) * np.abs(some).sum(axis=1) * UP


def _node(values: Float[np.ndarray, " tokens"], reading: Reading, i: int, heads: Heads) -> float:
    """|head's contribution - n_i| for everything that may be read."""
    key = (i, values.tobytes() + reading.content())
    if key not in heads.done:
        heads.done[key] = _proved(values, reading, i, heads)
    return heads.done[key]


def _proved(values: Float[np.ndarray, " tokens"], reading: Reading, i: int, heads: Heads) -> float:
    node, eps, lo, hi = heads.hint.circuit.nodes[i], heads.eps, reading.lo, reading.hi
    head = AffineHead(
        slopes=reading.slopes,
        biases=reading.biases,
        values=values[:, None],
        slope_scale=np.abs(reading.slopes),
        bias_scale=np.abs(reading.biases),
        value_scale=np.abs(values)[:, None],
        parameter_gamma=0.0,
        value_gamma=0.0,
        logit_gamma=0.0,
        output_gamma=reading.sums,
        logit_slack=reading.slack,
        executed_slack=reading.executed,
    )
    names = node.function.variables
    box = Box(dict(zip(names, zip(lo, hi, strict=True), strict=True)))
    given = heads.hint.tolerances[i]
    tolerance = given if 0 < given < 1e100 else eps  # a node that moves the output little may be off by more than eps
    limits = [1.5 * tolerance, *(x for x in (20 * tolerance, 1e-4 * eps, 1e-2 * eps) if x > 1.5 * tolerance), eps]
    function = continued(node.function)  # what is read may lie outside the domain of g, if only by delta
    for limit in limits:
        most = 2_000 if limit < eps else 20_000
        found = _single(head, ExpressionTarget(function), box, limit, heads.deadline, most)
        heads.boxes += found.boxes
        if found.proved:
            return (found.error_upper + variation(function, lo, hi, reading.delta)) * UP
    raise Refused(
        f"node {i} ({node.function}): its head is not within {limit:.3g} on [{lo}, {hi}]: {found.reason or found.status}"
    )


def _single(
    head: AffineHead, target: ExpressionTarget, box: Box, eps: float, deadline: float, boxes: int
) -> Certificate:
    n, k = head.slopes.shape[1], head.values.shape[1]
    offset = np.zeros(n + 1)
    offset[n] = 1.0
    layer = Layer((Head(np.eye(n + 1), np.eye(k)),))
    keys = np.concatenate([head.slopes, head.biases[:, None]], axis=1)
    model = Transformer(np.eye(n + 1, n), offset, (layer,), np.eye(k))
    claim = _HeadClaim(model, Prefix(((keys,),), ((head.values,),)), target, box, eps)
    return Bisection(cast("Any", claim), head, boxes, None, deadline).run(0.05)


def _silent(values: Float[np.ndarray, " tokens"], reading: Reading) -> float:
    """A bound of |sum_j w_j V_j| for everything that may be read, exact and executed.

    For any token b, w_j <= e^{s_j - s_b} and w_b <= 1. The execution rounds each difference from the largest logit by u 700 at most (below that
    it clamps, which adds 1.1e-304 to a weight of a sum >= 1), exp by 8u, and the means by gamma_{2 tokens + 8}, relative to sum_j w_j |V_j|;
    another's logits by reading.executed, exp and differences included, and its means by 2 reading.sums.
    """
    middle = reading.lo + (reading.hi - reading.lo) * 0.5
    b = int(np.argmax(reading.slopes @ middle + reading.biases))
    slopes = Ball.exact(reading.slopes) - Ball.exact(reading.slopes[b : b + 1])
    biases = Ball.exact(reading.biases) - Ball.exact(reading.biases[b : b + 1])
    z = Ball.between(reading.lo, reading.hi)
    gap = (total(slopes * z[None], 1) + biases).upper()
    unsure = reading.slack + reading.executed
    gap = gap + (unsure + unsure[b]) * UP + 2 * (710 * U + EXP_RELATIVE_ERROR)
    share = np.minimum(exp(Ball.exact(np.maximum(gap, -600.0) * (1 + 4 * U * np.sign(gap)))).upper(), 1.0)  # NaN stays
    share[b] = 1.0
    count = len(values)
    bound = ((share + 3e-304) * np.abs(values)).sum()
    return float(bound * (1 + 4 * max(gamma(2 * count + 16), reading.sums)) + TINY)
