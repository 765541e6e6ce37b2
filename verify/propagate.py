"""A whole transformer over boxes of sequences: balls around every entry of the residual stream, layer by layer.

Every ball (mid, rad) below contains both the exact real value *and* what a float64 execution computes, for every sequence of
the box. For sums and matrix products that costs one more rounding term than plain ball arithmetic: if x lies in the ball and
the execution holds some x' in the same ball, then fl(W x') is within gamma_n |W| |x'| of W x'. For a head let w be the softmax
of the true logits s_j, of the real function or of the execution. The execution computes p_j = e^{s_j - max}(1 + t_j), with

  - a rounding of the difference, u |s_j - max| <= 700 u, and of exp, 8u: |t_j| <= 710 u =: theta (the clamp at -700 excepted);
  - the clamp, which raises weights below e^-700 to it: an addition of at most 1.1e-304 to a weight of a sum that is >= 1;
  - numerator, denominator and quotient in any order: at most gamma_{2N+8} max|v| on the result.

So both outputs are convex combinations sum w_j v_j, w_j proportional to e^{s_j}(1 + t_j), give or take
N 3e-304 max|v| + gamma_{2N+8} max|v| for the execution. Take any token b, and let d_j be a ball around s_j - s_b, enlarged by
2 theta. The common motion of all logits cancels in it: s_j - s_b = <K_j - K_b, q>, with a rounding of the executed logits of
gamma |K_j| |q| each. With g_j = sup d_j three bounds hold, and they are intersected:

  (i)   *dominant token*: sum w v - v_b = sum_j w_j (v_j - v_b), w_j <= min(1, e^{g_j}), so |sum w v - v_b| <= sum_{j != b}
        min(1, e^{g_j}) |v_j - v_b|;
  (ii)  *hull*: with A the tokens of g_j >= -40, sum w v lies in the hull of {v_j : j in A}, give or take
        sum_{j not in A} e^{g_j} |v_j - v_b| (b belongs to A, since g_b = 0);
  (iii) *weights as balls*: sum_j e^{d_j} (v_j - m_b) / sum_j e^{d_j} + m_b in ball arithmetic, m_b the midpoint of v_b.

(i) is tight where one token wins, (iii) where the logits are known well, (ii) never worse than the values allow.

Tokens of no weight on a whole group of queries are dropped before (`_groups`): with respect to a token b at the centre of the
group, sum over the dropped of e^{g_j} =: sigma bounds their total weight relative to w_b, and leaving them out moves the mean
by at most sigma (max v - min v). Queries are split at the middle of the coordinate on which keys times queries vary most.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from verify.affine import UnsupportedModelError
from verify.ball import EXP_RELATIVE_ERROR, TINY, UP, Ball, U, exp, gamma, inverse, matmul, total
from verify.model import Head, Prefix, Transformer

__all__ = ["enclose_model", "enclose_stream"]

BLOCK = 2**20
"""Floats that one block of (queries, tokens) arrays may take."""
_DROP = -60.0
_NEGLIGIBLE = -40.0
_THETA = 710 * U + EXP_RELATIVE_ERROR
_HUGE = 1e290

Boxes = Float[np.ndarray, "boxes T n"]


def enclose_model(model: Transformer, prefix: Prefix, lo: Boxes, hi: Boxes) -> Ball:
    """Balls (boxes, T, k) around the outputs for every sequence with lo <= x <= hi, exact and executed.

    An entry about which nothing is known has an infinite radius. Raises ModelError if the shapes do not fit.
    """
    return enclose_stream(model, prefix, lo, hi)[-1]


def enclose_stream(model: Transformer, prefix: Prefix, lo: Boxes, hi: Boxes) -> list[Ball]:
    """The residual stream before the first layer, after each layer, and the outputs: balls (boxes, T, width).

    Raises UnsupportedModelError for heads without normalisation.
    """
    model.accepts(prefix)
    model.admits(lo.shape[1])
    if not all(head.normalised for layer in model.layers for head in layer.heads):
        raise UnsupportedModelError("propagation handles softmax heads; this model has one without normalisation")
    with np.errstate(all="ignore"):
        stream = linear(Ball.between(lo, hi), model.embedding)
        stream = rounded_sum(stream, Ball.exact(np.broadcast_to(model.offset, stream.shape)))
        if model.positions is not None:
            added = np.broadcast_to(model.positions[: lo.shape[1]], stream.shape)
            stream = rounded_sum(stream, Ball.exact(added))
        out = [stream]
        for l, layer in enumerate(model.layers):
            parts = [_head(h, prefix.keys[l][i], prefix.values[l][i], stream) for i, h in enumerate(layer.heads)]
            added_up = parts[0]
            for part in parts[1:]:
                added_up = rounded_sum(added_up, part)
            stream = _known(rounded_sum(stream, added_up) if layer.residual else added_up)
            out.append(stream)
        out.append(_known(linear(stream, model.readout)))
    return out


def linear(x: Ball, matrix: Float[np.ndarray, "m n"]) -> Ball:
    """x W^T, exact and executed: gamma_n |x| |W| for the execution on top of the ball product. Zeros of W cost nothing."""
    out = matmul(x, Ball.exact(matrix.T))
    terms = int((matrix != 0).sum(axis=1).max(initial=0))
    executed = x.magnitude() @ np.abs(matrix.T)
    return out.enlarge(gamma(terms + 1) * executed * (1 + 4 * gamma(matrix.shape[1] + 2)) * UP)


def rounded_sum(x: Ball, y: Ball) -> Ball:
    """x + y, exact and executed: one rounding of the executed sum, at most u (|mid| + rad)."""
    out = x + y
    return out.enlarge(U * out.magnitude() * UP)


def _known(x: Ball) -> Ball:
    """Infinite radius where anything is not finite or so large that an execution might overflow."""
    ok = (np.abs(x.mid) < _HUGE) & (x.rad < _HUGE)
    return Ball(np.where(ok, x.mid, 0.0), np.where(ok, x.rad, np.inf))


def _head(head: Head, keys: np.ndarray, values: np.ndarray, stream: Ball) -> Ball:
    """A head's contribution to the stream, (boxes, T, d_out)."""
    boxes, length = stream.shape[:2]
    queries = linear(stream, head.query)
    if head.key is None or head.value is None:
        flat = Ball(queries.mid.reshape(boxes * length, -1), queries.rad.reshape(boxes * length, -1))
        mid, rad = (np.empty((boxes * length, values.shape[1])) for _ in range(2))
        for rows, tokens, share in _groups(flat, keys):
            mean = _mean_over_prefix(flat[rows], keys[tokens], values[tokens], share * np.ptp(values, axis=0))
            mid[rows], rad[rows] = mean.mid, mean.rad
        mixed = Ball(mid.reshape(boxes, length, -1), rad.reshape(boxes, length, -1))
        largest, count = np.abs(values).max(axis=0), len(keys)
    else:
        data_keys, data_values = linear(stream, head.key), linear(stream, head.value)
        mixed = _mean_over_data(queries, keys, values, data_keys, data_values)
        largest = np.maximum(np.abs(values).max(axis=0), data_values.magnitude().max(axis=1)[:, None, :])
        count = len(keys) + length
    executed = (gamma(2 * count + 8) + count * 3e-304) * largest * UP
    return linear(_known(mixed.enlarge(executed)), head.output)


def _groups(queries: Ball, keys: Float[np.ndarray, "tokens d_k"]) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    """Groups of rows with the tokens that matter there, and a bound of the others' weight relative to one of these."""
    stack = [(np.arange(len(queries.mid)), np.arange(len(keys)), 0.0)]
    lo, hi = queries.mid - queries.rad, queries.mid + queries.rad
    while stack:
        rows, tokens, share = stack.pop()
        tokens, more = _select(lo[rows].min(axis=0), hi[rows].max(axis=0), keys, tokens)
        share = (share + more) * UP
        many = len(rows) * len(tokens) * max(1, keys.shape[1]) > BLOCK // 16
        if len(rows) == 1 or not (many or (len(tokens) > 64 and len(rows) > 16)):
            yield from _pieces(rows, tokens, share)
            continue
        spread = np.ptp(queries.mid[rows], axis=0) * np.ptp(keys[tokens], axis=0)
        axis = int(np.argmax(np.where(np.isfinite(spread), spread, -1.0)))
        mids = queries.mid[rows, axis]
        left = mids <= mids.min() + np.ptp(mids) * 0.5
        if left.all() or not left.any():
            yield from _pieces(rows, tokens, share)
            continue
        stack += [(rows[left], tokens, share), (rows[~left], tokens, share)]


def _pieces(rows: np.ndarray, tokens: np.ndarray, share: float) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    step = max(1, BLOCK // (8 * len(tokens)))
    for start in range(0, len(rows), step):
        yield rows[start : start + step], tokens, share


def _select(lo: np.ndarray, hi: np.ndarray, keys: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, float]:
    """Drop tokens below e^-60 times another one's weight for all queries in [lo, hi]; their total relative weight.

    A token dropped earlier was compared with one that may be dropped now, itself at most e^-60 below b: shares add up.
    """
    mid = lo + (hi - lo) * 0.5
    if not np.isfinite(mid).all() or len(tokens) <= 8:
        return tokens, 0.0
    rad = np.maximum(hi - mid, mid - lo) * (1 + 4 * U) + 2 * U * np.maximum(np.abs(lo), np.abs(hi))
    own = keys[tokens]
    best = int(np.argmax(own @ mid))
    difference = own - own[best]
    magnitude = np.abs(own) @ (np.abs(mid) + rad)
    slack = gamma(keys.shape[1] + 4) * (2 * (magnitude + magnitude[best]) + np.abs(difference) @ (np.abs(mid) + rad))
    gap = difference @ mid + np.abs(difference) @ rad + slack * UP + TINY + 4 * _THETA
    keep = ~(gap < _DROP)  # NaN stays
    keep[best] = True
    if keep.all():
        return tokens, 0.0
    dropped = exp(Ball.exact(np.maximum(gap[~keep], -390.0))).upper()
    return tokens[keep], float(dropped.sum() * (1 + gamma(len(dropped) + 2)) * UP)


def _mean_over_prefix(queries: Ball, keys: np.ndarray, values: np.ndarray, lost: np.ndarray) -> Ball:
    """sum w v over shared tokens, (rows, d_v); lost (d_v,): what tokens left out may add."""
    with np.errstate(all="ignore"):
        best = np.argmax(queries.mid @ keys.T, axis=1)
        reach = queries.magnitude()
        magnitude = reach @ np.abs(keys.T)
        mid, rad = np.zeros(magnitude.shape), np.zeros(magnitude.shape)
        size = np.zeros(magnitude.shape)
        for i in range(keys.shape[1]):
            difference = keys[:, i][None, :] - keys[best, i][:, None]
            mid += difference * queries.mid[:, i : i + 1]
            rad += np.abs(difference) * queries.rad[:, i : i + 1]
            size += np.abs(difference) * reach[:, i : i + 1]
        g = gamma(keys.shape[1] + 4)
        rows = np.arange(len(best))
        executed = g * (magnitude + magnitude[rows, best][:, None])
        difference = Ball(mid, (rad * (1 + 4 * g) + 2 * g * size + executed) * UP + 2 * _THETA + TINY)
        difference = Ball(np.where(magnitude < _HUGE, mid, np.nan), difference.rad)
    own = Ball(values[None], np.zeros((1, *values.shape)))
    return _convex(difference, best, own).enlarge(lost)


def _mean_over_data(queries: Ball, keys: np.ndarray, values: np.ndarray, data_keys: Ball, data_values: Ball) -> Ball:
    """sum w v over prefix and data tokens, (boxes, T, d_v), in blocks of boxes."""
    boxes, length, d_k = queries.shape
    tokens, d_v = len(keys) + length, values.shape[1]
    mid, rad = (np.empty((boxes, length, d_v)) for _ in range(2))
    step = max(1, BLOCK // (length * tokens * (d_k + d_v + 4)))

    def joined(fixed: np.ndarray, own: Ball, part: slice) -> Ball:
        some = own[part]
        shape = (len(some.mid), *fixed.shape)
        return Ball(
            np.concatenate([np.broadcast_to(fixed, shape), some.mid], axis=1),
            np.concatenate([np.zeros(shape), some.rad], axis=1),
        )

    for start in range(0, boxes, step):
        part = slice(start, start + step)
        k, v, q = joined(keys, data_keys, part), joined(values, data_values, part), queries[part]
        count = len(q.mid)
        best = np.argmax(q.mid @ np.swapaxes(k.mid, 1, 2), axis=2)  # (boxes, T)
        at = (np.arange(count)[:, None], best)
        magnitude = q.magnitude() @ np.swapaxes(k.magnitude(), 1, 2)
        chosen = Ball(k.mid[at][:, :, None, :], k.rad[at][:, :, None, :])
        every = Ball(k.mid[:, None], k.rad[:, None])
        same = (np.arange(tokens) == best[..., None])[..., None]
        difference = every - chosen
        difference = Ball(np.where(same, 0.0, difference.mid), np.where(same, 0.0, difference.rad))
        relative = total(difference * Ball(q.mid[:, :, None, :], q.rad[:, :, None, :]), axis=3)
        own = np.take_along_axis(magnitude, best[..., None], axis=2)
        slack = (gamma(d_k + 4) * (magnitude + own) * UP + 2 * _THETA) * UP
        rel = relative.enlarge(slack)
        flat = Ball(np.where(magnitude < _HUGE, rel.mid, np.nan), rel.rad)
        flat = Ball(flat.mid.reshape(-1, tokens), flat.rad.reshape(-1, tokens))
        repeated = Ball(np.repeat(v.mid, length, axis=0), np.repeat(v.rad, length, axis=0))
        mean = _convex(flat, best.ravel(), repeated)
        mid[part], rad[part] = mean.mid.reshape(count, length, d_v), mean.rad.reshape(count, length, d_v)
    return Ball(mid, rad)


def _convex(difference: Ball, best: np.ndarray, values: Ball) -> Ball:
    """The three bounds of the module's docstring, intersected.

    difference: (rows, tokens) balls around s_j - s_b; best: (rows,) the tokens b; values: (rows or 1, tokens, d_v).
    """
    with np.errstate(all="ignore"):
        rows = np.arange(len(best))
        known = np.isfinite(difference.mid) & np.isfinite(difference.rad)
        mid = np.where(known, difference.mid, 0.0)
        rad = np.where(known, difference.rad, np.inf)
        mid[rows, best], rad[rows, best] = 0.0, 2 * _THETA
        gap = np.minimum(np.maximum((mid + rad) * (1 + 4 * U * np.sign(mid + rad)) + TINY, -390.0), 0.0)
        share = exp(Ball.exact(gap)).upper()  # min(1, e^g)
        share[rows, best] = 0.0
        near = gap >= _NEGLIGIBLE
        weights = exp(Ball(mid, rad))
        weights = Ball(weights.mid, weights.rad)
        mass = inverse(total(weights, 1))
        slack = 1 + 2 * gamma(difference.shape[1] + 4)
        source = np.zeros(len(best), dtype=int) if len(values.mid) == 1 else rows
        out_mid, out_rad = (np.empty((len(best), values.shape[2])) for _ in range(2))
        for c in range(values.shape[2]):
            v = values[:, :, c]
            vb = Ball(v.mid[source, best], v.rad[source, best])
            off = Ball(v.mid, v.rad) - Ball.exact(vb.mid[:, None])
            apart = (off.magnitude() + vb.rad[:, None]) * UP  # |v_j - v_b|
            far = (np.where(near, 0.0, share) * apart).sum(axis=1) * slack
            # (i) the dominant token
            dominant = vb.enlarge((share * apart).sum(axis=1) * slack + TINY)
            # (ii) the hull
            low = np.where(near, v.lower(), np.inf).min(axis=1) - far * UP - TINY
            high = np.where(near, v.upper(), -np.inf).max(axis=1) + far * UP + TINY
            # (iii) weights as balls
            mean = (total(weights * off, 1) * mass) + Ball.exact(vb.mid)
            low, high = np.nextafter(low, -np.inf), np.nextafter(high, np.inf)
            for bound in (dominant, mean):
                low, high = np.fmax(low, bound.lower()), np.fmin(high, bound.upper())
            # disjoint by a rounding only if a bound was wrong: then nothing is known
            found = Ball.between(low, np.maximum(low, high))
            sound = (low <= high) & known.all(axis=1)
            out_mid[:, c] = np.where(sound, found.mid, 0.0)
            out_rad[:, c] = np.where(sound, found.rad, np.inf)
    return Ball(out_mid, out_rad)
