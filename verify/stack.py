"""A deep stack of attention and feed-forward blocks with residuals, run on intervals that stay points where float64 is exact.

*The stack.* Tokens are rows: z of shape (n, d). A block adds to z what one attention layer with two heads of size one, or one feed-forward layer of width
four, computes from it (the other half of the block is zero and not stored):

    attention     z_j += sum_{h=1,2} out_h sum_k softmax_k( beta (<query_h, z_j> + bias_h) <key_h, z_k> ) <value_h, z_k>
    feed-forward  z_j += second relu(first z_j + offset)

beta = inf is hardmax: the mean over the k of largest logit (any convex combination of them, for what is proved here).

*Intervals.* `verify.ball` enlarges a radius at every operation; a `Span` [lo, hi] is moved outward by one float only where an operation rounded, which is seen
from the operands: the error of a sum is the float that Knuth's two-sum returns, and a product with a power of two (or zero) is exact. Integers and dyadic
fractions pass through any number of layers unharmed. Beyond 10^300, where two-sum may overflow, and below 10^-290, where a product
may underflow, every result is moved outward. An end that would be NaN is infinite: nothing is known.

*Sparse runs.* A feed-forward layer whose rows are one vector w adds phi(<w, z>), piecewise linear with four hinges; if phi vanishes beyond its last hinge
(decided in exact integers; before the first one it always does), the layer moves only tokens with <w, z> between them. In a run of such layers with one w and
disjoint supports a token's next layer is found by bisection, and every other layer leaves it alone, exactly. After the last
attention layer only the data tokens are followed: tokens do not meet again.
"""

from __future__ import annotations

import bisect
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from verify.ball import Ball
from verify.ball import exp as ball_exp
from verify.statement import StatementError
from verify.stored_arrays import stored_array, stored_integer, stored_number

__all__ = ["OutOfTime", "Span", "Stack"]

Array = Float[np.ndarray, "..."]
_HUGE, _SMALL = 1e300, 1e-290


@dataclass(frozen=True, eq=False)
class Span:
    """An array of intervals. lo <= hi: float64 arrays of one shape; infinite where nothing is known."""

    lo: Array
    hi: Array

    @staticmethod
    def exact(x: Array | float) -> Span:
        """Points."""
        x = np.asarray(x, dtype=np.float64)
        return Span(x, x)

    def __getitem__(self, index: object) -> Span:
        if self.lo is self.hi:
            return Span.exact(self.lo[index])  # type: ignore[index]
        return Span(self.lo[index], self.hi[index])  # type: ignore[index]

    def __add__(self, other: Span) -> Span:
        if self.lo is self.hi and other.lo is other.hi:
            s, off = _sum(self.lo, other.lo)
            if not off.any():
                return Span(s, s)
        return Span(_low(*_sum(self.lo, other.lo)), _high(*_sum(self.hi, other.hi)))

    def __neg__(self) -> Span:
        return Span.exact(-self.lo) if self.lo is self.hi else Span(-self.hi, -self.lo)

    def __sub__(self, other: Span) -> Span:
        return self + (-other)

    def scale(self, factor: Array | float) -> Span:
        """Product with exact finite factors, broadcast; a factor 0 gives 0 even where nothing is known."""
        factor = np.asarray(factor, dtype=np.float64)
        if self.lo is self.hi:
            p, off = _product(self.lo, factor)
            if not off.any():
                return Span(p, p)
        one, two = _product(self.lo, factor), _product(self.hi, factor)
        up = factor >= 0
        return Span(np.where(up, _low(*one), _low(*two)), np.where(up, _high(*two), _high(*one)))

    def times(self, other: Span) -> Span:
        """Product of two intervals."""
        ends = [_product(a, b) for a in (self.lo, self.hi) for b in (other.lo, other.hi)]
        lows, highs = [_low(*e) for e in ends], [_high(*e) for e in ends]
        return Span(np.minimum.reduce(lows), np.maximum.reduce(highs))

    def over(self, other: Span) -> Span:
        """Quotient by an interval of numbers >= 1."""
        ends = [np.nan_to_num(a / b, nan=np.inf) for a in (self.lo, self.hi) for b in (other.lo, other.hi)]
        infinite = ~(np.isfinite(self.lo) & np.isfinite(self.hi))
        low = np.where(infinite, -np.inf, np.nextafter(np.minimum.reduce(ends), -np.inf))
        return Span(low, np.where(infinite, np.inf, np.nextafter(np.maximum.reduce(ends), np.inf)))

    def relu(self) -> Span:
        """max(x, 0)."""
        if self.lo is self.hi:
            return Span.exact(np.maximum(self.lo, 0.0))
        return Span(np.maximum(self.lo, 0.0), np.maximum(self.hi, 0.0))

    def hull(self, other: Span) -> Span:
        """Both."""
        return Span(np.minimum(self.lo, other.lo), np.maximum(self.hi, other.hi))

    def where(self, condition: np.ndarray, other: Span) -> Span:
        """Self where the condition holds, the other elsewhere."""
        if self.lo is self.hi and other.lo is other.hi:
            return Span.exact(np.where(condition, self.lo, other.lo))
        return Span(np.where(condition, self.lo, other.lo), np.where(condition, self.hi, other.hi))

    def exp(self) -> Span:
        """e^x, monotone: bounds at both ends. Above 600 nothing is known of the upper end."""
        low = np.maximum(ball_exp(Ball.exact(np.clip(self.lo, -690.0, 600.0))).lower(), 0.0)
        high = ball_exp(Ball.exact(np.clip(self.hi, -690.0, 600.0))).upper()
        return Span(np.where(self.lo < -690.0, 0.0, low), np.where(self.hi > 600.0, np.inf, high))

    def linear(self, weights: Float[np.ndarray, " d"]) -> Span:
        """<weights, x> along the last axis."""
        total = self[..., 0].scale(weights[0])
        for i in range(1, len(weights)):
            total = total + self[..., i].scale(weights[i])
        return total


def _sum(a: Array, b: Array) -> tuple[Array, Array]:
    """fl(a + b) and a number of the sign of (a + b) - fl(a + b); NaN where that is not known."""
    s = a + b
    t = s - a
    error = (a - (s - t)) + (b - t)
    safe = (np.abs(s) < _HUGE) & (np.abs(a) < _HUGE) & (np.abs(b) < _HUGE)
    return s, np.where(safe, error, np.nan)


def _product(a: Array, w: Array) -> tuple[Array, Array]:
    """fl(a w), and 0 where it is exact, NaN elsewhere. 0 times anything is 0."""
    zero = (a == 0) | (w == 0)
    p, power = np.where(zero, 0.0, a * w), _power_of_two(w)
    power = power if power.all() else power | _power_of_two(a)
    exact = zero | (power & (np.abs(p) >= _SMALL) & (np.abs(p) < _HUGE))
    return p, np.where(exact, 0.0, np.nan)


def _power_of_two(x: Array) -> np.ndarray:
    return np.asarray(np.abs(np.frexp(x)[0]) == 0.5)


def _low(s: Array, error: Array) -> Array:
    low = np.where(error >= 0, s, np.nextafter(s, -np.inf))
    return np.where(np.isnan(s), -np.inf, low)


def _high(s: Array, error: Array) -> Array:
    high = np.where(error <= 0, s, np.nextafter(s, np.inf))
    return np.where(np.isnan(s), np.inf, high)


class OutOfTime(Exception):
    """The deadline passed while a stack was running."""


@dataclass(frozen=True, eq=False)
class Stack:
    """The weights of one transformer, block by block.

    m: data tokens, the last ones; position: added to the input, token by token; order: 1 for an attention block, 0 for a feed-forward block, in the order
    of execution; query, key, value, out, bias: the attention layers' weights, two heads of size one each; first, offset, second: the feed-forward
    layers' weights; beta: the inverse temperature, inf for hardmax. Raises StatementError naming the array for wrong shapes or numbers.
    """

    m: int
    position: Float[np.ndarray, "n d"]
    order: Float[np.ndarray, " depth"]
    query: Float[np.ndarray, "A 2 d"]
    bias: Float[np.ndarray, "A 2"]
    key: Float[np.ndarray, "A 2 d"]
    value: Float[np.ndarray, "A 2 d"]
    out: Float[np.ndarray, "A 2 d"]
    first: Float[np.ndarray, "F 4 d"]
    offset: Float[np.ndarray, "F 4"]
    second: Float[np.ndarray, "F d 4"]
    beta: float = math.inf

    def __post_init__(self) -> None:
        position = stored_array("position", self.position, (None, None))
        if not 1 <= position.size <= 1024:
            raise StatementError(f"position: shape {position.shape}, expected (tokens, d) with 1 to 1024 numbers")
        n, d = position.shape
        object.__setattr__(self, "m", stored_integer("m", self.m, least=1, most=n))
        hardmax = isinstance(self.beta, (float, np.floating)) and self.beta == math.inf
        object.__setattr__(self, "beta", math.inf if hardmax else stored_number("beta", self.beta, above=0.0))
        order = stored_array("order", self.order, (None,))
        if not np.isin(order, (0.0, 1.0)).all():
            raise StatementError("order: expected one 0 (feed-forward) or 1 (attention) per block")
        object.__setattr__(self, "order", order)
        a = int(order.sum())
        f = len(order) - a
        shapes = dict.fromkeys(("query", "key", "value", "out"), (a, 2, d))
        shapes |= {"bias": (a, 2), "first": (f, 4, d), "offset": (f, 4), "second": (f, d, 4), "position": (n, d)}
        for name, shape in shapes.items():
            object.__setattr__(self, name, stored_array(name, getattr(self, name), shape))

    @property
    def n(self) -> int:
        """Tokens, prompt and data together."""
        return self.position.shape[0]

    @property
    def d(self) -> int:
        """Size of a token."""
        return self.position.shape[1]

    @property
    def depth(self) -> int:
        """Blocks."""
        return len(self.order)

    def arrays(self) -> dict[str, np.ndarray]:
        """The weights by name."""
        return {name: getattr(self, name) for name in _ARRAYS}

    def to_json(self) -> dict[str, Any]:
        """What is not an array."""
        return {"m": self.m, "beta": float(self.beta).hex()}

    @staticmethod
    def from_json(data: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Stack:
        """The inverse of `to_json` and `arrays`."""
        parts = {name: arrays[name] for name in _ARRAYS}
        return Stack(data["m"], beta=float.fromhex(data["beta"]), **parts)

    @np.errstate(all="ignore")
    def run(self, tokens: Float[np.ndarray, "batch n d"], plan: Plan, deadline: float = math.inf) -> Span:
        """Enclosures (batch, m, d) of the data tokens that leave the stack. Raises OutOfTime beyond `deadline` (time.monotonic())."""
        z = Span.exact(tokens) + Span.exact(self.position)
        for i, item in enumerate(plan.items):
            if time.monotonic() > deadline:
                raise OutOfTime
            if i == plan.last_attention + 1:
                z = z[:, -self.m :]
            if isinstance(item, Run):
                z = _bumps(self, item, z, deadline)
            else:
                z = _attend(self, item, z) if item >= 0 else _feed_forward(self, ~item, z)
        return z[:, -self.m :]


_ARRAYS = ("position", "order", "query", "bias", "key", "value", "out", "first", "offset", "second")


@dataclass(frozen=True, eq=False)
class Run:
    """Consecutive feed-forward layers along one direction with disjoint supports, sorted: layer[i] moves starts[i] < <w, z> < ends[i]."""

    direction: Float[np.ndarray, " d"]
    starts: Float[np.ndarray, " layers"]
    ends: Float[np.ndarray, " layers"]
    layer: np.ndarray


@dataclass(frozen=True, eq=False)
class Plan:
    """In what portions a stack is run: attention layers (their index i), single feed-forward layers (~i), runs. Derived from the weights."""

    items: tuple[Run | int, ...]
    last_attention: int

    @staticmethod
    def of(stack: Stack, deadline: float = math.inf) -> Plan:
        """The plan of a stack. Raises OutOfTime beyond `deadline`."""
        items: list[Run | int] = []
        pending: list[tuple[float, float, int]] = []
        along: tuple[float, ...] | None = None
        a = f = 0

        def flush() -> None:
            nonlocal pending
            if pending:
                starts, ends, layer = (np.array(x) for x in zip(*pending, strict=True))
                items.append(Run(np.array(along), starts, ends, layer))
            pending = []

        for kind in stack.order:
            if time.monotonic() > deadline:
                raise OutOfTime
            if kind == 1:
                flush()
                items.append(a)
                a += 1
                continue
            if (bump := _support(stack, f)) is None:
                flush()
                items.append(~f)
            elif bump[1] < bump[2]:  # an empty support moves nothing
                if bump[0] != along:
                    flush()
                along = bump[0]
                i = bisect.bisect_left(pending, (bump[1], bump[2], f))
                if (i and pending[i - 1][1] > bump[1]) or (i < len(pending) and pending[i][0] < bump[2]):
                    flush()
                    i = 0
                pending.insert(i, (bump[1], bump[2], f))
            f += 1
        flush()
        last = max((i for i, item in enumerate(items) if not isinstance(item, Run) and item >= 0), default=-1)
        return Plan(tuple(items), last)


def _support(stack: Stack, f: int) -> tuple[tuple[float, ...], float, float] | None:
    """Direction and ends of the interval outside which feed-forward layer f adds exactly zero; None if it is no such layer."""
    if not (used := [r for r in range(4) if stack.second[f, :, r].any()]):
        return (0.0,) * stack.d, 0.0, 0.0
    rows = stack.first[f, used]
    if (rows != rows[0]).any():
        return None
    offsets = [float(b) for b in stack.offset[f, used]]
    for c in stack.second[f][:, used].tolist():  # beyond every hinge the layer adds sum_r c_r (t + b_r)
        whole = [_integer(x) for x in c]
        if sum(whole) or sum(x * _integer(b) for x, b in zip(whole, offsets, strict=True)):
            return None
    return tuple(rows[0].tolist()), -max(offsets), -min(offsets)


def _integer(x: float) -> int:
    """x in units of 2^-1074."""
    p, q = x.as_integer_ratio()
    return p << (1075 - q.bit_length())


def _relu_sum(t: Float[np.ndarray, " hits"], b: Float[np.ndarray, "hits 4"], c: Float[np.ndarray, "hits d 4"]) -> Span:
    """sum_r c_r relu(t + b_r) at points t, (hits, d)."""
    total = Span.exact(np.zeros(c.shape[:2]))
    for r in range(4):
        total = total + (Span.exact(t[:, None]) + Span.exact(b[:, r : r + 1])).relu().scale(c[:, :, r])
    return total


def _bumps(stack: Stack, run: Run, z: Span, deadline: float) -> Span:
    """Every token through the layers of a run, one layer at a time: the next one whose support it meets."""
    lo, hi = (np.array(x.reshape(-1, stack.d)) for x in (z.lo, z.hi))
    alive, last = np.arange(len(lo)), np.full(len(lo), -1)
    starts, layers = np.append(run.starts, np.inf), np.append(run.layer, -1)
    while len(alive):
        if time.monotonic() > deadline:
            raise OutOfTime
        t = Span(lo[alive], hi[alive]).linear(run.direction)
        i = np.minimum(np.searchsorted(run.ends, t.lo, side="right"), len(run.starts))
        lost = (starts[np.minimum(i + 1, len(run.starts))] < t.hi) | ~np.isfinite(t.lo) | ~np.isfinite(t.hi)
        lo[alive[lost]], hi[alive[lost]] = -np.inf, np.inf  # meets two supports: nothing is known any more
        met = ~lost & (starts[i] < t.hi) & (layers[i] > last[alive])
        alive, t, f = alive[met], Span(t.lo[met], t.hi[met]), layers[i[met]]
        if not len(alive):
            break
        b, c = stack.offset[f], stack.second[f]
        added = _relu_sum(t.lo, b, c)
        wide = t.lo < t.hi
        if wide.any():  # piecewise linear: its values at both ends and at the hinges between enclose its range
            added = added.hull(_relu_sum(t.hi, b, c))
            for r in range(4):
                inside = wide & (t.lo < -b[:, r]) & (-b[:, r] < t.hi)
                if inside.any():
                    added = added.hull(_relu_sum(np.where(inside, -b[:, r], t.lo), b, c))
        new = Span(lo[alive], hi[alive]) + added
        lo[alive], hi[alive], last[alive] = new.lo, new.hi, f
    if np.array_equal(lo, hi):
        return Span.exact(lo.reshape(z.lo.shape))
    return Span(lo.reshape(z.lo.shape), hi.reshape(z.lo.shape))


def _feed_forward(stack: Stack, f: int, z: Span) -> Span:
    """One feed-forward layer on every token."""
    total = z
    for r in range(4):
        if stack.second[f, :, r].any():
            t = (z.linear(stack.first[f, r]) + Span.exact(np.asarray(stack.offset[f, r]))).relu()
            total = total + t[..., None].scale(stack.second[f, :, r])
    return total


def _attend(stack: Stack, a: int, z: Span) -> Span:
    """One attention layer. A head's output is v_r + correction, r its key of largest logit: two heads that look at the same r with
    opposite output weights cancel exactly, whatever is known of v_r."""
    if not (heads := [h for h in range(2) if stack.out[a, h].any()]):
        return z
    seen = [_head(stack, a, h, z) for h in heads]
    total = z
    for h, (_, _, correction) in zip(heads, seen, strict=True):
        total = total + correction[..., None].scale(stack.out[a, h])
    (v, r, _), weights = seen[0], stack.out[a, heads[0]]
    twins = len(heads) == 2 and (stack.value[a, 0] == stack.value[a, 1]).all()
    cancel = Span.exact(weights) + Span.exact(stack.out[a, 1]) if twins else None
    if cancel is None or cancel.lo is not cancel.hi:
        for h, (v, r, _) in zip(heads, seen, strict=True):
            total = total + _pick(v, r)[..., None].scale(stack.out[a, h])
        return total
    other = seen[1][1]
    together = _pick(v, r)[..., None].scale(cancel.lo)
    apart = _pick(v, r)[..., None].scale(weights) + _pick(v, other)[..., None].scale(stack.out[a, 1])
    return total + together.where((r == other)[..., None], apart)


def _pick(v: Span, r: np.ndarray) -> Span:
    """v at indices r (batch, k) along the second axis."""
    if v.lo is v.hi:
        return Span.exact(np.take_along_axis(v.lo, r, 1))
    return Span(np.take_along_axis(v.lo, r, 1), np.take_along_axis(v.hi, r, 1))


def _head(stack: Stack, a: int, h: int, z: Span) -> tuple[Span, np.ndarray, Span]:
    """Values (batch, n), for every query the index of the key of largest logit, and what the head's output differs by from that value."""
    q = z.linear(stack.query[a, h]) + Span.exact(np.asarray(stack.bias[a, h]))
    k, v = z.linear(stack.key[a, h]), z.linear(stack.value[a, h])
    middle = np.nan_to_num(k.lo / 2 + k.hi / 2)
    up = q.lo + q.hi > 0
    top, bottom = middle.argmax(1)[:, None], middle.argmin(1)[:, None]
    r = np.where(up, top, bottom)
    if math.isinf(stack.beta):
        first = _spread(v, k.hi >= k.lo.max(1, keepdims=True), top)
        last = _spread(v, k.lo <= k.hi.min(1, keepdims=True), bottom)
        clear = (q.lo > 0) | (q.hi < 0)
        rest = last if clear.all() else last.where(q.hi < 0, _spread(v, np.full(v.lo.shape, True), r))
        return v, r, first.where(q.lo > 0, rest)
    everything = _spread(v, np.full(v.lo.shape, True), r)
    nothing = Span.exact(np.zeros(r.shape))
    above, below = nothing, Span.exact(np.ones(r.shape))
    reference_key, reference_value = _pick(k, r), _pick(v, r)
    for j in range(v.lo.shape[1]):
        logit = (k[:, j : j + 1] - reference_key).times(q).scale(stack.beta)
        weight = logit.exp()
        other = r != j
        above = above + weight.times(v[:, j : j + 1] - reference_value).where(other, nothing)
        below = below + weight.where(other, nothing)
    ratio = above.over(below)
    low, high = np.maximum(ratio.lo, everything.lo), np.minimum(ratio.hi, everything.hi)
    return v, r, Span(low, np.maximum(low, high))


def _spread(v: Span, candidates: np.ndarray, r: np.ndarray) -> Span:
    """(some convex combination of the candidates' values) - v_r: 0 where r is the only candidate."""
    low = np.where(candidates, v.lo, np.inf).min(1, keepdims=True)
    high = np.where(candidates, v.hi, -np.inf).max(1, keepdims=True)
    difference = (Span.exact(low) if np.array_equal(low, high) else Span(low, high)) - _pick(v, r)
    alone = (candidates.sum(1, keepdims=True) == 1) & np.take_along_axis(candidates, r, 1)
    return Span.exact(np.zeros(difference.lo.shape)).where(alone, difference)
