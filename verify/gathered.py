"""A layer that copies the sequence into every token, then one head on the prefix: read as a head with affine logits on R^{T d}.

If the scores of a layer's heads do not depend on the data (W_Q E = 0 and W_K E = 0: they come from positions and constants alone),
its softmax weights are constants, and its output at token t is an *affine* function of the flattened sequence X:

    h'_t = [E x_t + e_t] + sum_h W_O ( sum_j w_j V_j + sum_s w_s W_V (E x_s + e_s) ),      e_s = offset + positions[s],

with weights w known as balls. So h'_t = A_t X + c_t with balls for A_t and c_t: midpoints and radii. A second layer with one head
on its prefix, a query W_Q h'_t and a readout that sees nothing of the stream but what this head writes, then has affine logits

    s_j = <K_j W_Q A_t, X> + <K_j, W_Q c_t>,       output R W_O V_j.

What an affine head with floats for slopes and biases gets wrong is put into `logit_slack`, an absolute bound that holds for the real
function and for the execution alike: with S >= |h'_t - (mid A_t X + mid c_t)| entry by entry on the whole domain, rounding of the
executed first layer included (propagate.py bounds that: the ball of layer 1 over the one box that is the whole domain would be
useless, but the *rounding* of a head is at most gamma_{2 tokens + 8} max|v|, and each linear map adds gamma_n |W||x|),

    |s_j - float logit| <= |K_j| |W_Q| S + rounding of the products that form slopes and biases.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from jaxtyping import Float
from threadpoolctl import threadpool_limits

from verify.affine import AffineHead, UnsupportedModelError, within_scale
from verify.ball import TINY, UP, Ball, U, exp, gamma, inverse, matmul, total
from verify.bisection import Bisection, Progress
from verify.certificate import EXECUTION, Certificate, unbounded
from verify.domain import Box
from verify.model import Head, Layer, Prefix, Transformer
from verify.propagate import enclose_model, enclose_stream
from verify.regularity import value_range
from verify.sequences import Sequences
from verify.target import ExpressionTarget

__all__ = ["first_layer", "gathered_head", "prove_gathered", "within_floats"]


def gathered_head(model: Transformer, prefix: Prefix, domain: Sequences, position: int) -> AffineHead:
    """Token `position`'s (0..T-1) output as an affine-logit head on the flattened sequence, valid on the domain.

    Raises UnsupportedModelError unless the model has two layers of the kind described above.
    """
    model.accepts(prefix)
    model.admits(domain.T)
    if len(model.layers) != 2 or len(model.layers[1].heads) != 1:
        raise UnsupportedModelError("gathered: two layers are handled, the second with one head")
    if not all(part.normalised for layer in model.layers for part in layer.heads):
        raise UnsupportedModelError("gathered: softmax heads are handled; this model has one without normalisation")
    if not 0 <= position < domain.T:
        raise UnsupportedModelError(f"gathered: position {position}, the sequences have tokens 0..{domain.T - 1}")
    head = model.layers[1].heads[0]
    if head.attends_to_data:
        raise UnsupportedModelError("gathered: the second layer's head attends to its prefix alone")
    with np.errstate(all="ignore"):
        within_floats(model, prefix, domain)
        linear, constant, slack = first_layer(model, prefix, domain, position)
        return _second_layer(model, head, prefix, domain, linear, constant, slack)


def within_floats(model: Transformer, prefix: Prefix, domain: Sequences) -> None:
    """Raise UnsupportedModelError for models whose products may leave float64's range: entries beyond 2^+-150 in frozen matrices, beyond
    1e150 in a prefix, or a stream that is not bounded all over the domain (propagate.py bounds the execution as well, slots that nothing
    reads included)."""
    frozen = [("embedding", model.embedding), ("offset", model.offset), ("readout", model.readout)]
    frozen += [] if model.positions is None else [("positions", model.positions)]
    for l, layer in enumerate(model.layers):
        for h, head in enumerate(layer.heads):
            parts = (("query", head.query), ("key", head.key), ("value", head.value), ("output", head.output))
            frozen += [(f"layer {l} head {h} {name}", matrix) for name, matrix in parts if matrix is not None]
            within_scale(f"prefix keys of layer {l} head {h}", prefix.keys[l][h], 2.0**-300, 1e150)
            within_scale(f"prefix values of layer {l} head {h}", prefix.values[l][h], 2.0**-300, 1e150)
    for name, matrix in frozen:
        within_scale(name, matrix, 2.0**-150, 2.0**150)
    lo, hi = (side.reshape(1, domain.T, -1) for side in domain.flattened.bounds)
    streams = [*enclose_stream(model, prefix, lo, hi), enclose_model(model, prefix, lo, hi)]
    if not all(np.isfinite(ball.magnitude()).all() for ball in streams):
        raise UnsupportedModelError("gathered: what the model computes is not bounded within float64's range")


def prove_gathered(
    model: Transformer,
    prefix: Prefix,
    target: ExpressionTarget,
    domain: Sequences,
    eps: float,
    *,
    tightness: float = 0.05,
    max_boxes: int = 2_000_000,
    seconds: float = math.inf,
    progress: Progress | None = None,
) -> Certificate:
    """Prove |model - target| <= eps for every sequence of the domain's box, each position by a bisection of its own.

    target: T k outputs in the T d flattened variables, token-major. The certificate's bounds are the worst over the positions; gaps of the
    domain are not used. Raises ValueError where the sizes do not fit.
    """
    k, deadline = model.outputs, time.monotonic() + seconds
    if target.outputs != domain.T * k or target.dimension != domain.dimension:
        raise ValueError(
            f"claim: target has {target.dimension} variables and {target.outputs} outputs, expected {domain.dimension} and {domain.T * k}"
        )
    found: list[Certificate] = []
    defined = value_range(target.expression, domain.flattened, tightness=math.inf, deadline=deadline).bad is None
    for p in range(domain.T):
        expression = target.expression
        own = ExpressionTarget(replace(expression, outputs=expression.outputs[p * k : (p + 1) * k]))
        try:
            if not defined:
                raise UnsupportedModelError("the target is undefined or unbounded, or seems so")
            head = gathered_head(model, prefix, domain, p)
        except UnsupportedModelError as error:
            return unbounded(eps, 0, str(error), assumptions=(EXECUTION,))
        claim = _HeadClaim(*_one_layer(head), own, domain.flattened, eps)
        with np.errstate(all="ignore"), threadpool_limits(1, "blas"):
            search = Bisection(cast("Any", claim), head, max_boxes, progress, deadline)
            found.append(search.run(tightness))
        if not found[-1].proved:
            break
    return _worst(found)


def _worst(found: list[Certificate]) -> Certificate:
    """One certificate for all positions: a failed one decides (it comes last), else the largest bounds."""
    boxes = sum(c.boxes for c in found)
    if not found[-1].proved:
        return replace(found[-1], boxes=boxes, assumptions=(EXECUTION,))
    most = max(found, key=lambda c: c.error_lower)
    return replace(
        most,
        error_upper=max(c.error_upper for c in found),
        rounding=max(c.rounding for c in found),
        boxes=boxes,
        assumptions=(EXECUTION,),
    )


@dataclass(frozen=True, eq=False)
class _HeadClaim:
    """What a bisection asks of a claim. The model is used to look for bad points only: what is proved is about the head."""

    model: Transformer
    prefix: Prefix
    target: ExpressionTarget
    domain: Box
    eps: float
    sequence_length: int = 1


def _one_layer(head: AffineHead) -> tuple[Transformer, Prefix]:
    n, k = head.slopes.shape[1], head.values.shape[1]
    embedding = np.eye(n + 1, n)
    offset = np.zeros(n + 1)
    offset[n] = 1.0
    layer = Layer((Head(np.eye(n + 1), np.eye(k)),))
    keys = np.concatenate([head.slopes, head.biases[:, None]], axis=1)
    return Transformer(embedding, offset, (layer,), np.eye(k)), Prefix(((keys,),), ((head.values,),))


def first_layer(model: Transformer, prefix: Prefix, domain: Sequences, t: int) -> tuple[Ball, Ball, np.ndarray]:
    """A (width, T d) and c (width,) as balls for token t, and a bound (width,) of what the execution of layer 1 adds on the domain.

    For softmax heads. Raises UnsupportedModelError if their scores depend on the data, or are not resolved in float64.
    """
    layer, E = model.layers[0], model.embedding
    d, T = model.inputs, domain.T
    constants = np.broadcast_to(model.offset, (T, len(model.offset)))
    # e_s: one rounding of each sum, in the execution as here
    rows = Ball.exact(constants)
    if model.positions is not None:
        rows = rows + Ball.exact(model.positions[:T])
    far = np.tile(np.maximum(np.abs(domain.box.lo), np.abs(domain.box.hi)), T)
    stream_size = _at_most(np.abs(E) @ far[:d] + rows.magnitude(), d + 4)  # (T, width) of |h_s|
    entry_error = gamma(d + 4) * (stream_size + 2 * np.abs(model.offset)) * UP + TINY
    embedded = _embedded(E, T)  # (T, width, T d)
    linear = Ball.exact(np.zeros((layer.heads[0].output.shape[0], T * d)))
    constant = Ball.exact(np.zeros(layer.heads[0].output.shape[0]))
    slack = np.zeros(layer.heads[0].output.shape[0])
    if layer.residual:
        linear, constant = Ball.exact(embedded[t]), rows[t]
        slack = entry_error[t] + gamma(len(layer.heads) + 2) * stream_size[t]
    for h, part in enumerate(layer.heads):
        keys, values = prefix.keys[0][h], prefix.values[0][h]
        weights = _constant_weights(part, keys, rows, E, t, stream_size, entry_error)
        count = len(keys)
        mixed = matmul(weights[None, :count], Ball.exact(values))[0]  # (d_v,)
        mixed_linear = Ball.exact(np.zeros((values.shape[1], T * d)))
        size = np.abs(values).max(axis=0)
        value_error = np.zeros(values.shape[1])
        if part.value is not None:
            sources = weights[count:]
            data = matmul(rows, Ball.exact(part.value.T))  # (T, d_v)
            mixed = mixed + matmul(sources[None], data)[0]
            gathered = matmul(Ball.exact(np.broadcast_to(part.value, (T, *part.value.shape))), Ball.exact(embedded))
            mixed_linear = total(gathered * Ball(sources.mid[:, None, None], sources.rad[:, None, None]), 0)
            data_size = _at_most(stream_size @ np.abs(part.value.T), len(E))
            size = np.maximum(size, data_size.max(axis=0))
            value_error = _at_most(entry_error @ np.abs(part.value.T), len(E)).max(axis=0)
            value_error = value_error + gamma(len(E) + 2) * data_size.max(axis=0)
        executed = value_error + (gamma(2 * (count + T) + 8) + (count + T) * 3e-304) * size
        linear = linear + matmul(Ball.exact(part.output), mixed_linear)
        constant = constant + matmul(Ball.exact(part.output), mixed[:, None])[:, 0]
        through = _at_most(np.abs(part.output) @ (executed * UP), part.output.shape[1])
        products = gamma(part.output.shape[1] + len(layer.heads) + 4) * (np.abs(part.output) @ size)
        slack = (slack + through + products * UP) * UP + TINY
    return linear, constant, slack


def _embedded(E: np.ndarray, T: int) -> Float[np.ndarray, "T width coordinates"]:
    """E x_s as a linear map of the flattened sequence, for each s."""
    width, d = E.shape
    out = np.zeros((T, width, T * d))
    for s in range(T):
        out[s, :, s * d : (s + 1) * d] = E
    return out


def _constant_weights(
    head: Head, keys: np.ndarray, rows: Ball, E: np.ndarray, t: int, stream_size: np.ndarray, entry_error: np.ndarray
) -> Ball:
    """The softmax weights (tokens [+ T],) of a head whose scores do not depend on the data, for the execution too."""
    fed = (E != 0).any(axis=1)  # slots of the stream that depend on the data
    if (head.query[:, fed] != 0).any() or (head.key is not None and (head.key[:, fed] != 0).any()):
        raise UnsupportedModelError("gathered: the scores of the first layer depend on the data")
    query = matmul(rows[t : t + 1], Ball.exact(head.query.T))
    own = keys if head.key is None else np.concatenate([keys, np.zeros((len(rows.mid), keys.shape[1]))])
    every = Ball.exact(own)
    # entries of the stream that the scores read are constants: what the execution has there is off by entry_error at most
    width = len(E)
    query_error = _at_most(entry_error[t] @ np.abs(head.query.T), width) + gamma(width + 2) * (
        query.magnitude() + np.abs(rows.magnitude()[t]) @ np.abs(head.query.T)
    )
    query = query.enlarge(query_error)
    if head.key is not None:
        data = matmul(rows, Ball.exact(head.key.T))
        data_error = _at_most(entry_error @ np.abs(head.key.T), width)
        data = data.enlarge(data_error + gamma(width + 2) * (rows.magnitude() @ np.abs(head.key.T)) * UP)
        every = Ball(np.concatenate([keys, data.mid]), np.concatenate([np.zeros(keys.shape), data.rad]))
    scores = matmul(query, Ball(every.mid.T, every.rad.T))[0]
    scores = scores.enlarge(gamma(keys.shape[1] + 4) * (query.magnitude() @ every.magnitude().T)[0] * UP)
    best = int(np.argmax(scores.mid))
    difference = scores - scores[best : best + 1]
    # the execution rounds the difference from the maximum and takes an exp within 8u; e^-700 where it clamps
    difference = difference.enlarge(4 * U * (difference.magnitude() + difference.magnitude().max() + 8))
    if not (np.isfinite(difference.mid).all() and (difference.rad < 1).all()):
        raise UnsupportedModelError("gathered: the scores of the first layer are not resolved in float64")
    low = Ball(np.maximum(difference.mid, -690.0), difference.rad)
    weights = exp(low).enlarge(np.where(difference.mid < -690.0, 2e-299, 0.0))
    return weights * inverse(total(weights, 0))


def _second_layer(
    model: Transformer, head: Head, prefix: Prefix, domain: Sequences, linear: Ball, constant: Ball, slack: np.ndarray
) -> AffineHead:
    keys, values = prefix.keys[1][0], prefix.values[1][0]
    readout = model.readout
    if model.layers[1].residual and _seen(model):
        raise UnsupportedModelError("gathered: the readout sees more of the stream than the second layer's head")
    width, n = linear.shape
    far = np.tile(np.maximum(np.abs(domain.box.lo), np.abs(domain.box.hi)), domain.T)
    query_linear, query_constant = head.query @ linear.mid, head.query @ constant.mid
    size_in = np.abs(head.query) @ np.abs(linear.mid)
    size_constant = np.abs(head.query) @ np.abs(constant.mid)
    slopes, biases = keys @ query_linear, keys @ query_constant
    # what the stream misses of mid A X + mid c, on the whole domain
    stream_error = _at_most(linear.rad @ far + constant.rad + slack, n + 4)
    query_error = _at_most(np.abs(head.query) @ stream_error, width)
    through = _at_most(np.abs(keys) @ query_error, keys.shape[1])
    scale, bias_scale = np.abs(keys) @ size_in, np.abs(keys) @ size_constant
    own = (gamma(width + keys.shape[1] + 8) * (scale @ far + bias_scale)) * (1 + gamma(n + 8))
    executed = gamma(width + keys.shape[1] + 8) * (np.abs(keys) @ (np.abs(head.query) @ stream_error))
    outputs = head.output.shape[1] + readout.shape[1]
    out = head.output.T @ readout.T
    value_scale = np.abs(values) @ (np.abs(head.output).T @ np.abs(readout).T) * (1 + gamma(outputs + 4))
    return AffineHead(
        slopes=slopes,
        biases=biases,
        values=values @ out,
        slope_scale=scale * (1 + gamma(width + keys.shape[1] + 8)),
        bias_scale=bias_scale * (1 + gamma(width + keys.shape[1] + 8)),
        value_scale=value_scale,
        parameter_gamma=0.0,
        value_gamma=gamma(outputs + 4),
        logit_gamma=gamma(width + keys.shape[1] + n + 8),
        output_gamma=gamma(len(keys) + 1) + gamma(outputs + 6),
        logit_slack=(through + own + executed) * UP + 1e-100,
    )


def _seen(model: Transformer) -> bool:
    """Whether the readout may see anything that was in the stream before the second layer, by the places of non-zero entries."""
    sources = [head.output for head in model.layers[0].heads]
    if model.layers[0].residual:
        sources += [model.embedding, model.offset[:, None]]
        sources += [] if model.positions is None else [model.positions.T]
    support = (model.readout != 0).astype(np.float64)
    return any((support @ (source != 0).astype(np.float64)).any() for source in sources)


def _at_most(x: np.ndarray, terms: int) -> np.ndarray:
    """An upper bound of a product of non-negative arrays that was rounded."""
    return x * (1 + 2 * gamma(terms + 4)) + TINY
