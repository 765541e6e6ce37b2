"""How well the first prompt q_1 points along q*, and how many samples that takes: a prediction to leading order in d/n.

With n fresh samples for each step, w_1 = a w* + e b q* + noise of variance e^2 sigma^2(1 - zeta)/(Tn) in every direction (the mean of labelled features), b = E[zeta - (1 - zeta)delta_q]
times the mean label, which has variance 1/n. So |w_1|^2 = B and <q*, w_1>^2 = P on average,

    B = a^2|w*|^2 + e^2 b^2|q*|^2/n + d e^2 sigma^2(1 - zeta)/(Tn),    P = e^2 |q*|^2 (b^2|q*|^2 + sigma^2(1 - zeta)/T)/n.

Given w_1, q_1 is a mean over n samples of r X^T(a * (Xw_1 - f)): its expectation is g q*, g that of the population but with |w_1|^2 = B (the head's
noise correlates residuals and scores, which helps), plus zeta(1 - zeta)(1 + delta_q)(1 + delta_w)<q*, w_1> w*; what
one sample adds to it away from q* has the squared length, on average,

    V = E r^2 {zeta^2 (1 - zeta)^2 D (d sigma^2/I + (1 + delta_w)^2|w*|^2) + (1 - zeta)^2 sigma^4 B (I - 1)(d + I)/I^2},
    D = (1 + delta_w)^2 a^2|w*|^4 + (1 + delta_q)^2 P + sigma^2 B/I,

from the difference of the group means times that of the scores, and from the covariance within the irrelevant group: a Wishart matrix of I - 1 degrees of freedom, over I,
times w_1. Hence tan^2 of the angle between q_1 and q* is V/n over (g|q*|)^2: for large d a function of d/n alone, so the sample size that reaches a
given alignment is proportional to d (the terms without d shift it by a constant). Small shares: g ~ zeta^2, V ~ zeta^2 as long as the first head's noise is small: n ~ d/zeta^2.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from constructions.oymak2023.data import ContextualData
from constructions.oymak2023.descent.population import gauss, population_steps, pull
from constructions.oymak2023.descent.steps import Loss
from constructions.oymak2023.errors import ContextError

__all__ = ["predicted_alignment", "predicted_samples"]


def predicted_alignment(data: ContextualData, n: float, *, head_step: float, loss: Loss = "squared") -> float:
    """|cos| of the angle between q_1 and q* after steps on n fresh samples each. Raises as `population_steps`; ContextError for n that is not positive."""
    if not (np.isfinite(n) and n > 0):
        raise ContextError(argument="n", value=n, reason="is not positive", next_step="Give the number of samples of a step.")  # fmt: skip
    return float(1 / np.sqrt(1 + _tangent(data, n, head_step, loss)))


def predicted_samples(data: ContextualData, *, level: float, head_step: float, loss: Loss = "squared") -> float:
    """n (not rounded) at which the predicted |cos| is `level` in (0, 1). Raises ContextError for other levels, and where the population step vanishes."""
    if not 0 < level < 1:
        raise ContextError(argument="level", value=level, reason="is not in (0, 1)", next_step="Give a cosine, for example 0.7.")  # fmt: skip
    wanted, low, high = 1 / level**2 - 1, np.log(1e-6), np.log(1e15)
    population = population_steps(data, head_step=head_step, prompt_step=1e-9, loss=loss)
    scale = head_step * float(np.abs(data.pairs).max(initial=1.0))
    if abs(population.first_head) < 1e-12 * scale or not _tangent(data, float(np.exp(high)), head_step, loss) < wanted:
        raise ContextError(argument="zeta", value=data.zeta, reason="makes the expected step of the head or of the prompt vanish, so that no sample size is enough",
                           next_step="Change zeta or delta_w so that zeta differs from (1 - zeta) times the mean of delta_w.")  # fmt: skip

    def excess(t: float) -> float:
        return float(np.log(_tangent(data, float(np.exp(t)), head_step, loss) / wanted))

    return float(np.exp(brentq(excess, float(low), float(high))))  # pyright: ignore[reportArgumentType, reportCallIssue]


def _tangent(data: ContextualData, n: float, head_step: float, loss: Loss) -> float:
    """tan^2 of the angle."""
    limit = population_steps(
        data, head_step=head_step, prompt_step=1e-9, loss=loss
    )  # the prompt step's size plays no role
    a = limit.first_head
    e2 = (head_step if loss == "squared" else head_step / 2) ** 2
    zeta, sigma2, i, d = data.share, data.noise**2, data.irrelevant, data.dimension
    q2, w2 = float(data.q_star @ data.q_star), float(data.w_star @ data.w_star)
    delta_q, delta_w = data.pairs.T
    offset, share = float((zeta - (1 - zeta) * delta_q).mean()) ** 2, zeta * (1 - zeta)
    per_direction = sigma2 * (1 - zeta) / data.tokens
    b = a * a * w2 + e2 * (offset * q2 + d * per_direction) / n
    p = e2 * q2 * (offset * q2 + per_direction) / n
    kappa = a * w2 * (zeta - (1 - zeta) * delta_w)
    nodes, weight = gauss(80)
    yf = kappa[:, None] + (1 - zeta) * np.sqrt(sigma2 * b / i) * nodes
    r2 = ((1 - yf) ** 2 if loss == "squared" else expit(-yf) ** 2) @ weight
    difference = (1 + delta_w) ** 2 * (a * w2) ** 2 + (1 + delta_q) ** 2 * p + sigma2 * b / i
    between = share**2 * difference * (d * sigma2 / i + (1 + delta_w) ** 2 * w2)
    within = (1 - zeta) ** 2 * sigma2**2 * b * (i - 1) * (d + i) / i**2
    drift = float((share * (1 + delta_q) * (1 + delta_w)).mean()) ** 2 * p * w2
    drift *= 1.0 if loss == "squared" else 0.25
    g = float(np.mean([pull(data, a, b, dq, dw, loss) for dq, dw in data.pairs]))
    signal = g * g * q2
    return (float((r2 * (between + within)).mean()) / n + drift) / signal if signal > 0 else np.inf
