"""What a layer computes at the last token, enclosed: logits, masses, averages, the feed-forward block, errors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import flint
import numpy as np
from jaxtyping import Float

from verify.ball import TINY, UP, Ball, U, exp, inverse, matmul, total
from verify.precision import arb_bounds, working_precision
from verify.prompt_floor_layer import AttentionLayer, FeedForward
from verify.prompt_floor_norms import norms_above, norms_below, singular_values

__all__ = ["Masses", "Prompt", "contraction", "feed_forward", "layer_errors", "masses", "score_vectors", "stack"]

GELU_SLOPE = 1.129
"""Above the largest slope of x Phi(x), Phi(sqrt 2) + sqrt 2 phi(sqrt 2) = 1.12890..., where the derivative (2 - x^2) phi(x) of the slope vanishes;
the least slope, at -sqrt 2, is -0.1289..., so gelu is not monotone."""


@dataclass(frozen=True, eq=False)
class Prompt:
    """Distinct tokens (distinct, d), none for the empty prompt, and how often each occurs (distinct,): whole numbers >= 1."""

    tokens: Float[np.ndarray, "distinct d"]
    counts: Float[np.ndarray, " distinct"]


@dataclass(frozen=True, eq=False)
class Masses:
    """Of every example and head: the softmax mass Z e^-shift and the attention average of its values. shift: (heads,), exact numbers."""

    shift: Float[np.ndarray, " heads"]
    mass: Ball  # (examples, heads)
    average: Ball  # (examples, heads, d_v), of V y, biases left out


def stack(parts: list[Ball]) -> Ball:
    """Balls of one shape along a new first axis."""
    return Ball(np.stack([p.mid for p in parts]), np.stack([p.rad for p in parts]))


def score_vectors(layer: AttentionLayer, last: Float[np.ndarray, " d"]) -> Ball:
    """kappa_h = K_h^T (Q_h x + b^Q_h) / sqrt(d_k), (heads, d): the logit of a token y is <kappa_h, y>."""
    bias = layer.offsets[0]
    query = matmul(Ball.exact(layer.query), Ball.exact(last[:, None])) + Ball.exact(bias[:, :, None])
    keys = Ball.exact(np.ascontiguousarray(layer.key.transpose(0, 2, 1)))
    d_k = layer.query.shape[1]
    inverse_root = Ball(
        np.array(1 / math.sqrt(d_k)), np.array(4 * U)
    )  # sqrt and the quotient: each within u, of numbers <= 1
    product = matmul(keys, query)[:, :, 0]
    return product * inverse_root


def masses(layer: AttentionLayer, examples: list[np.ndarray]) -> Masses:
    """Of examples (tokens, d) with one last token; the shift is the largest logit, so that no mass overflows."""
    kappa = score_vectors(layer, examples[0][-1])
    logits = [matmul(kappa, Ball.exact(np.ascontiguousarray(x.T))) for x in examples]
    shift = np.max([z.mid.max(axis=1) for z in logits], axis=0)
    shift = np.where(np.isfinite(shift), shift, 0.0)
    found = [_average(layer, z, x, shift) for z, x in zip(logits, examples, strict=True)]
    return Masses(shift, stack([m for m, _ in found]), stack([a for _, a in found]))


def _average(
    layer: AttentionLayer, logits: Ball, tokens: np.ndarray, shift: np.ndarray, counts: np.ndarray | float = 1.0
) -> tuple[Ball, Ball]:
    weights = exp(logits.shift(-shift[:, None])).scale(counts)
    mass = total(weights, 1)
    mean = matmul(weights, Ball.exact(tokens)) * inverse(mass)[:, None]
    return mass, matmul(Ball.exact(layer.value), mean[:, :, None])[:, :, 0]


def layer_errors(
    layer: AttentionLayer, prompt: Prompt, examples: list[np.ndarray], targets: np.ndarray
) -> tuple[Float[np.ndarray, " examples"], Float[np.ndarray, " examples"]]:
    """Bounds (lo, hi) of |layer(prompt, X_i)_last - y_i|; NaN where nothing is known."""
    kappa = score_vectors(layer, examples[0][-1])
    outputs = []
    for x in examples:
        tokens = np.concatenate([prompt.tokens, x])
        counts = np.concatenate([prompt.counts, np.ones(len(x))])
        logits = matmul(kappa, Ball.exact(np.ascontiguousarray(tokens.T)))
        shift = logits.mid.max(axis=1)
        _, average = _average(layer, logits, tokens, np.where(np.isfinite(shift), shift, 0.0), counts)
        outputs.append(heads_output(layer, average, x[-1]))
    error = feed_forward(layer.feedforward, stack(outputs)) - Ball.exact(targets)
    return norms_below(error), norms_above(error)


def constant(layer: AttentionLayer, last: np.ndarray) -> Ball:
    """What the attention adds whatever it attends to: [x] + sum_h O_h b^V_h + b^O, (d_out,)."""
    _, value_bias, output_bias = layer.offsets
    out = matmul(Ball.exact(layer.stacked), Ball.exact(value_bias.reshape(-1, 1)))[:, 0] + Ball.exact(output_bias)
    return out + Ball.exact(last) if layer.residual else out


def heads_output(layer: AttentionLayer, average: Ball, last: np.ndarray) -> Ball:
    """u = constant + sum_h O_h a_h for averages (heads, d_v)."""
    flat = Ball(average.mid.reshape(-1, 1), average.rad.reshape(-1, 1))
    return matmul(Ball.exact(layer.stacked), flat)[:, 0] + constant(layer, last)


def feed_forward(block: FeedForward | None, u: Ball) -> Ball:
    """F(u), row by row (rows, d_out)."""
    if block is None:
        return u
    b1, b2 = block.biases
    hidden = matmul(u, Ball.exact(np.ascontiguousarray(block.first.T))) + Ball.exact(b1)
    out = matmul(_activation(block, hidden), Ball.exact(np.ascontiguousarray(block.second.T))) + Ball.exact(b2)
    return u + out if block.residual else out


def _activation(block: FeedForward, x: Ball) -> Ball:
    if block.activation == "identity":
        return x
    if block.activation in (
        "relu",
        "leaky_relu",
    ):  # increasing, so the ends are mapped; a product's rounding is u relative
        factor = block.slope if block.activation == "leaky_relu" else 0.0
        lo, hi = x.lower(), x.upper()
        lo = np.where(lo >= 0, lo, lo * factor * (1 + 4 * U) - TINY)
        return Ball.between(lo, np.where(hi >= 0, hi, hi * factor * (1 - 4 * U) + TINY))
    lo, hi = np.full(x.shape, np.nan), np.full(x.shape, np.nan)
    with working_precision(80):
        for at in np.ndindex(*x.shape):
            if np.isfinite(x.mid[at]) and np.isfinite(x.rad[at]):
                z = flint.arb(float(x.mid[at]), float(x.rad[at]))
                y = z.tanh() if block.activation == "tanh" else z * (1 + (z / flint.arb(2).sqrt()).erf()) / 2
                lo[at], hi[at] = arb_bounds(y)
    return Ball.between(lo, hi)


def contraction(block: FeedForward | None) -> tuple[float, dict[str, float], str]:
    """(m, numbers, why) with |F(u) - F(u')| >= m |u - u'| for all u, u'; m = 0 and the failing assumption where none is proved.

    Residual: m = 1 - l, l = Lip(sigma) |W_1| |W_2| in spectral norms, needs l < 1. Otherwise m is the product of the least singular values of W_1 and
    W_2 and the least slope of sigma: it needs both injective and sigma strictly increasing with a slope bounded away from 0.
    """
    if block is None:
        return 1.0, {}, ""
    low1, high1 = singular_values(Ball.exact(block.first))
    low2, high2 = singular_values(Ball.exact(block.second))
    if block.residual:
        steepest = GELU_SLOPE if block.activation == "gelu" else 1.0
        lipschitz = steepest * high1 * UP * high2 * UP
        numbers = {"feedforward_lipschitz": lipschitz}
        if not lipschitz < 1:
            return (
                0.0,
                numbers,
                f"feed-forward: u + G(u) is not proved invertible, because Lip G <= Lip({block.activation}) |W_1| |W_2| = {steepest:g} * {high1:.6g} * {high2:.6g} "
                f"= {lipschitz:.6g} is not below 1 (the assumption of a contractive residual block fails)",
            )
        return math.nextafter(1 - lipschitz, 0.0), numbers, ""
    least = {"identity": 1.0, "leaky_relu": float(block.slope)}.get(block.activation, 0.0)
    if least == 0:
        where = "on the negative axis" if block.activation == "relu" else "far from 0"
        return 0.0, {}, (
            f"feed-forward: without a residual connection F is invertible with a bounded inverse only if the activation is, and {block.activation} has no slope bounded away "
            f"from 0 {where} (the assumption of an invertible activation fails)"
        )  # fmt: skip
    m = low1 * low2 * least * (1 - 8 * U)
    if not m > 0:
        bad = "first" if low1 == 0 else "second"
        return (
            0.0,
            {},
            f"feed-forward: the matrix {bad!r} is not proved injective, its least singular value is not above 0",
        )
    return m, {"feedforward_lower_lipschitz": m}, ""
