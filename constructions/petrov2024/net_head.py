"""Net heads: every L-Lipschitz function on S^m by keys lambda b_k on a net and the values f(b_k), split or classical.

Theorem (Petrov, Torr and Bibi 2024, arXiv 2402.14753, split and classical heads; the rate is ours). Let every point of S^m have a b_k
within the angle R, and w = softmax(lambda <x, b_k>). g = sum_k w_k f(b_k) is a mean of values of f, so

    |g(x) - f(x)| <= L sum_k w_k angle(x, b_k) <= L (R + T(lambda)),
    T(lambda) = K / (e lambda s) + N pi e^{-lambda (cos R - cos near)},   s = min(sin R, sin near),

for any near in (R, pi), K the largest number of b_k within `near` of a point. Proof: with u_k = angle(x, b_k) and d = min u_k <= R,
w_k <= e^{-lambda(cos d - cos u_k)}. Tokens with u_k <= R contribute R at most; for u_k in (R, near], cos R - cos u_k >= s (u_k - R) as
the sine is concave, so (u_k - R) w_k <= t e^{-lambda s t} <= 1/(e lambda s); each of the others adds pi times its weight. QED.

T data tokens of score and value 0 take the share T/(T + sum_k e^{s_k}) <= T e^{-lambda cos R}: another F T e^{-lambda cos R}, F = sup |f|,
for R < pi/2. So N is a covering number, and lambda is free: T(lambda) falls as 1/lambda, rounding rises as u lambda.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import asin, ceil, cos, e, inf, log, pi, sin

import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree

from constructions.petrov2024.equal_area import cap_share
from constructions.petrov2024.nets import Net, sphere_net
from constructions.petrov2024.values import Family
from constructions.proposal import Proposal, Term

__all__ = ["net_sharpness", "propose_net"]

Evaluate = Callable[[np.ndarray], np.ndarray]

_SOURCE = "Petrov, Torr and Bibi 2024 (arXiv 2402.14753), with the covering lemma of this file"
# Parts of eps kept between the net's radius and eps/L, smallest (shortest net) first. On the circle nets come in closed form, so
# the first costs no token; elsewhere they are searched for, and a radius this close to eps/L has the same length in practice.
_MARGINS = {1: (2.0**-30, 2.0**-20, 2.0**-10, 2.0**-6, 2.0**-4, 0.25, 0.5)}
_OTHER_MARGINS = (2.0**-10, 2.0**-6, 2.0**-4, 0.25, 0.5)
# Of the gap between net radius and eps/L: the softmax's spread, the data tokens, rounding get at most these parts.
_SPREAD, _DATA, _ROUNDING = 0.25, 0.2, 0.1
_UNIT_ROUNDOFF = 2.0**-53


def propose_net(
    evaluate: Evaluate,
    m: int,
    eps: float,
    family: Family,
    *,
    lipschitz: float,
    max_tokens: int,
    deadline: float | None = None,
) -> Iterator[Proposal]:
    """The shortest net head found for the Lipschitz constant (geodesic); nothing where it exceeds max_tokens or float64's precision.

    evaluate: (P, m+1) points -> (P, k). family: SPLIT, or classical_family(longest). A function that changes by eps at most on the
    whole sphere gets a single token of the split head.
    """
    if family.longest == 0 and lipschitz * pi < eps:
        yield _single(evaluate, m, family, lipschitz)
    widest = eps / lipschitz if lipschitz > 0 else inf
    for margin in _MARGINS.get(m, _OTHER_MARGINS):
        # beyond a right angle a net's keys leave points where all logits are negative: data tokens would win there
        radius = min((1 - margin) * widest, _WIDEST_CLASSICAL if family.longest else pi / 2)
        if cap_share(m, radius) * max_tokens < 1:
            return  # by area alone; at radii where a search for the net would be long
        net = sphere_net(m, radius, max_tokens=max_tokens, deadline=inf if deadline is None else deadline)
        if net is None or len(net.points) > max_tokens:
            return
        values = np.asarray(evaluate(net.points), dtype=np.float64)
        sharpness = net_sharpness(net, min(widest, pi), lipschitz, values, family.longest)
        if sharpness is not None:
            yield _proposal(net, values, sharpness, lipschitz, family)
            return


_WIDEST_CLASSICAL = 1.4


def net_sharpness(
    net: Net, widest: float, lipschitz: float, values: Float[np.ndarray, "N k"], longest: int = 0
) -> float | None:
    """A lambda for which L (R + T(lambda)), the data tokens' share and rounding stay below L * widest; None where none does.

    The least such lambda, or up to 4 times it where rounding allows.
    """
    radius = net.radius
    gap = widest - radius
    if not gap > 0:
        return None
    near = min(2.2 * radius, 0.5 * (radius + pi))
    chords = KDTree(net.points)
    # all of the b_k within `near` of a point x are within near + R of the one nearest to x
    reach = 2 * asin(min(1.0, sin(min(near + radius, pi) / 2)))
    chord = 2 * sin(reach / 2) + 1e-9
    sample = net.points[:: max(1, len(net.points) // 2000)]
    count = int(np.max(chords.query_ball_point(sample, chord, return_length=True)))
    slope = min(sin(radius), sin(near))
    spread = _SPREAD * gap
    least = max(
        2 * count / (e * slope * spread),
        log(2 * len(net.points) * pi / spread) / (cos(radius) - cos(near)),
    )
    size = float(np.max(np.abs(values))) + lipschitz * radius
    if longest:
        if not cos(radius) > 0:
            return None
        allowed = _DATA * max(lipschitz * gap, 0.0)
        least = max(least, log(max(longest * size / max(allowed, 1e-300), 1.0)) / cos(radius))
    ambient = net.points.shape[1]
    rounding = _UNIT_ROUNDOFF * (ambient + 6) * 4 * max(float(np.ptp(values, axis=0).max()), lipschitz * radius)
    most = _ROUNDING * lipschitz * gap / rounding if rounding > 0 else inf
    return None if least > most else min(4 * least, most, float(2 ** ceil(log(4 * least, 2))))


def _single(evaluate: Evaluate, m: int, family: Family, lipschitz: float) -> Proposal:
    point = np.eye(1, m + 1)
    values = np.asarray(evaluate(point), dtype=np.float64)
    return _proposal(Net(point, pi, "one point"), values, 1.0, lipschitz, family)


def _proposal(net: Net, values: np.ndarray, sharpness: float, lipschitz: float, family: Family) -> Proposal:
    covering = Term("covering", lipschitz * net.radius, "L R, R the net's covering radius", _SOURCE)
    return Proposal(
        slopes=sharpness * net.points,
        biases=np.zeros(len(net.points)),
        values=values,
        method=family.method,
        grid={
            "keys": net.points,
            "sharpness": sharpness,
            "covering radius": net.radius,
            "net": net.construction,
            **({"longest sequence": family.longest} if family.longest else {}),
        },
        terms=(covering,),
    )
