"""Lower bounds of max_i |u_i(prompt) - z_i| over all prompts of all lengths, from dual vectors.

One head. A prompt enters through its softmax mass t >= 0 and the weighted mean p of its tokens; with M = O V, b = t M p, Z_i the mass of
example i, a_i its average value and g_i = O a_i - z_i,

    (Z_i + t) e_i = Z_i g_i + b - t z_i.                                                                                     (1)

(No tokens: t = 0, b = 0. z_i: the target less what the attention adds in any case.) Vectors w_i with <sum_i w_i, b> >= -nu t ln t for every prompt give

    max_i |e_i| >= N(t)/D(t),  N = sum_i Z_i <w_i, g_i> - t sum_i <w_i, z_i> - nu t ln t,  D = sum_i |w_i| (Z_i + t).         (2)

N is concave on [0, inf) for nu >= 0 and D is affine and positive, so N/D is quasi-concave: on an interval of t it is least at an end,
at t = 0 N/D = sum Z_i<w_i, g_i> / sum Z_i|w_i|, and for nu = 0 it tends to -sum<w_i, z_i> / sum |w_i| as t grows. Pieces [t_k, t_k+1] that cover
[0, inf], each with its own (w, nu), prove the least of their bounds. The assumption on sum_i w_i holds in two cases:

  free      nu = 0 and O^T sum_i w_i = 0, since b = O(t V p);
  entropy   M^T sum_i w_i = -nu kappa: a token's logit is s_j = <kappa, y_j> and its weight q_j = e^s_j / t, so sum_j q_j (s_j - ln q_j) = ln t gives
            ln t = <kappa, p> + H(q) with the entropy H(q) >= 0, hence <sum w, b> = -nu t <kappa, p> >= -nu t ln t.

Stored vectors satisfy them up to a residual r, which a correction of w_n of length at most |r|/sigma_min cancels: the least singular value of O
in the first case, of M in the second (A^T x = r is solvable with |x| <= |r|/sigma_min(A) for an injective A). With w_n = -sum_{i<n} w_i nothing is left to cancel.

Several heads. For w_i in the orthogonal complement of the ranges of all output matrices but O_h, <w_i, e_i> sees head h only, and (2) holds with
g_i = O_h a_i^h - z_i. Two examples with almost the same masses: `matched`.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from verify.ball import UP, Ball, U, exp, matmul, total
from verify.prompt_floor_layer import AttentionLayer
from verify.prompt_floor_norms import norms_above, singular_values
from verify.prompt_floor_run import Masses, score_vectors

__all__ = ["Pieces", "head_bound", "matched", "piecewise_bound"]


@dataclass(frozen=True, eq=False)
class Pieces:
    """Intervals of ln t that cover the line, cut at the knots (pieces - 1), with dual vectors (pieces, examples, d_out), multipliers (pieces,)."""

    duals: Float[np.ndarray, "pieces examples d_out"]
    multipliers: Float[np.ndarray, " pieces"]
    knots: Float[np.ndarray, " pieces_minus_1"]


def _dot(x: Ball, y: Ball) -> Ball:
    return total(x * y, x.mid.ndim - 1)


def _end(piece: tuple[Ball, Ball, float, float], theta: float, shift: float) -> float:
    """N/D from below at ln t = theta, in units in which masses are scaled by e^-shift."""
    alpha, beta, gamma_, delta = piece[0][0], piece[0][1], piece[2], piece[3]
    nu = piece[1]
    if theta == -math.inf:
        top, bottom = alpha, gamma_
    elif theta == math.inf:
        top, bottom = beta, delta if float(nu.mid) == 0 else math.inf
    else:
        tau = exp(Ball.exact(np.float64(theta)).shift(-shift))
        top = alpha + beta * tau - nu * tau * Ball.exact(np.float64(theta))
        bottom = (gamma_ + delta * float(tau.upper())) * UP
    low = float(top.lower())
    return low / bottom * (1 - 4 * U) if low > 0 and 0 < bottom < math.inf else 0.0


def _bound(w: Ball, nu: float, ends: tuple[float, float], mass: Ball, g: Ball, z: Ball, shift: float) -> float:
    """The least of N/D at both ends; 0 where nothing is proved. w, g, z: (examples, d_out), mass: (examples,)."""
    size = norms_above(w)
    alpha = _dot(mass, _dot(w, g))
    beta = -total(_dot(w, z), 0)
    loose = 1 + 4 * len(size) * U
    gamma_ = float((mass.upper() * size).sum()) * loose * UP
    delta = float(size.sum()) * loose
    pair = Ball(np.stack([alpha.mid, beta.mid]), np.stack([alpha.rad, beta.rad]))
    piece = (pair, Ball.exact(np.float64(nu)), gamma_, delta)
    return min(_end(piece, theta, shift) for theta in ends)


def _sum_free(w: np.ndarray) -> Ball:
    """The vectors with the last one replaced by minus the sum of the others."""
    head = Ball.exact(w[:-1])
    last = -total(head, 0) if len(w) > 1 else Ball.exact(np.zeros(w.shape[1]))
    return Ball(np.concatenate([head.mid, last.mid[None]]), np.concatenate([head.rad, last.rad[None]]))


def _last_enlarged(w: np.ndarray, by: float) -> Ball:
    rad = np.zeros_like(w)
    rad[-1] = by
    return Ball(w, rad)


def piecewise_bound(
    layer: AttentionLayer, found: Masses, last: np.ndarray, z: Ball, pieces: Pieces, deadline: float = math.inf
) -> tuple[float, str]:
    """(bound, why): of a layer with one head, over every prompt. z: targets less the constant part, (examples, d_out). why: of a bound 0, also
    beyond `deadline` (time.monotonic()): every piece counts."""
    o = Ball.exact(layer.outputs[0])
    mass, g = found.mass[:, 0], matmul(found.average[:, 0], Ball(o.mid.T, o.rad.T)) - z
    least_o = singular_values(o)[0]
    m, kappa = matmul(o, Ball.exact(layer.value[0])), score_vectors(layer, last)[0]
    needs_m = bool((pieces.multipliers > 0).any())
    least_m = singular_values(m)[0] if needs_m else 0.0
    if needs_m and least_m == 0:
        return (
            0.0,
            "value: O W_V is not proved injective (its least singular value is not above 0), which the entropy inequality needs",
        )
    ends = [-math.inf, *pieces.knots.tolist(), math.inf]
    least, worst = math.inf, ""
    for k, (w, nu) in enumerate(zip(pieces.duals, pieces.multipliers.tolist(), strict=True)):
        if time.monotonic() > deadline:
            return 0.0, f"the time ran out at piece {k} of {len(pieces.duals)}"
        summed = total(Ball.exact(w), 0)
        if nu > 0:
            residual = matmul(Ball(m.mid.T, m.rad.T), summed[:, None])[:, 0] + kappa.scale(nu)
            candidates = [_last_enlarged(w, float(norms_above(residual)) / least_m * UP)]
        else:
            candidates = [_sum_free(w)]
            if least_o > 0:
                residual = matmul(Ball(o.mid.T, o.rad.T), summed[:, None])[:, 0]
                candidates.append(_last_enlarged(w, float(norms_above(residual)) / least_o * UP))
        shift = float(found.shift[0])
        here = max(_bound(c, nu, (ends[k], ends[k + 1]), mass, g, z, shift) for c in candidates)
        if here < least:
            least, worst = (
                here,
                f"the dual vectors of piece {k} (ln t from {ends[k]:.6g} to {ends[k + 1]:.6g}) prove no more than {here:.6g}",
            )
    return least, worst


def head_bound(layer: AttentionLayer, found: Masses, z: Ball, h: int, w: Float[np.ndarray, "examples d_out"]) -> float:
    """The bound that head h alone gives, whatever the prompt does to the other heads."""
    stacked = Ball.exact(layer.stacked)
    least = singular_values(stacked)[0]
    if least == 0:
        return 0.0
    heads, d_v = layer.heads, layer.value_width
    image = matmul(Ball.exact(w), stacked)  # row i: O^T w_i
    own = np.repeat(np.arange(heads) == h, d_v)
    summed = total(image, 0)
    size, rad = norms_above(Ball(np.where(own, 0.0, image.mid), np.where(own, 0.0, image.rad))), np.zeros_like(w)
    rad += (size / least * UP)[:, None]
    rad[-1] += float(norms_above(summed[own])) / least * UP
    o = layer.outputs[h]
    g = matmul(found.average[:, h], Ball.exact(np.ascontiguousarray(o.T))) - z
    return _bound(Ball(w, rad * UP), 0.0, (-math.inf, math.inf), found.mass[:, h], g, z, float(found.shift[h]))


def matched(layer: AttentionLayer, found: Masses, z: Ball, w: Float[np.ndarray, " d_out"]) -> float:
    """Two examples whose masses almost agree, in every head: the difference of the two errors does not see the prompt.

    With l_i^h = t_h/(Z_i^h + t_h) and e_i = sum_h O_h((1 - l_i^h) a_i^h + l_i^h a_P^h) - z_i, let eta >= |1 - Z_1^h/Z_2^h|, |1 - Z_2^h/Z_1^h|.
    Then |l_2/l_1 - 1| <= eta and |l_1 - l_2| <= eta. If max|e_i| <= f, the vector (l_1^h a_P^h)_h has at most the length (f + Y)/sigma,
    Y = |z_1| + sum_h |O_h||a_1^h|, sigma the least singular value of [O_1 ... O_H]. So with d_h = O_h(a_1^h - a_2^h)

        2f >= |e_1 - e_2| >= |sum_h m_h d_h - (z_1 - z_2)| - eta (|O| (f + Y)/sigma + sum_h |O_h||a_2^h|),   m_h = 1 - l_1^h in [0, 1],

    and the first term is at least (<w, z_2 - z_1> + sum_h min(0, <w, d_h>))/|w| for any w.
    """
    least, largest = singular_values(Ball.exact(layer.stacked))
    if least == 0 or len(found.mass.mid) != 2:
        return 0.0
    low, high = found.mass.lower(), found.mass.upper()
    eta = float(((np.maximum(high[0] - low[1], high[1] - low[0])) / np.minimum(low[0], low[1])).max()) * (1 + 8 * U)
    if not (low > 0).all() or not eta < 0.5:
        return 0.0
    outputs = Ball.exact(layer.outputs)
    images = [matmul(outputs, found.average[i][:, :, None])[:, :, 0] for i in (0, 1)]  # O_h a_i^h: (heads, d_out)
    value = _dot(Ball.exact(w), z[1] - z[0])
    slopes = _dot(Ball.exact(np.broadcast_to(w, images[0].shape).copy()), images[0] - images[1])
    drops = np.minimum(slopes.lower(), 0.0)
    top = (float(value.lower()) + float(drops.sum())) - (len(drops) + 2) * 2 * U * (
        float(value.magnitude()) + float(-drops.sum())
    )
    size = float(norms_above(Ball.exact(w)))
    loose = UP + 4 * len(drops) * U
    y = (float(norms_above(z[0])) + float(norms_above(images[0]).sum())) * loose
    spill = eta * (largest * y / least + float(norms_above(images[1]).sum())) * loose
    f = (top / size * (1 - 8 * U) - spill) / (2 + eta * largest / least) * (1 - 32 * U) if size > 0 else 0.0
    return f if f > 0 and math.isfinite(f) else 0.0
