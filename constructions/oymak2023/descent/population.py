"""The three steps with infinitely many samples: expectations over the contextual data model, in closed form.

Averages over pairs (delta_q, delta_w) are E_delta; I = (1 - zeta)T irrelevant tokens; e = eta for the squared loss, eta/2 for the logistic one.

*Head from zero.* E[y h] = c w*, c = E_delta[zeta - (1 - zeta)delta_w]: w_1 = a w*, a = e c.

*Prompt at q = 0.* Let U = y sigma a <w*, mean of the irrelevant noise>, of variance s^2 = sigma^2 a^2 |w*|^2/I. Then y f = kappa + (1 - zeta)U with kappa =
a |w*|^2(zeta - (1 - zeta)delta_w), and X^T(a * (Xw - f)) = zeta(1 - zeta)(difference of the groups' means)(difference of their scores) + the covariance within
the irrelevant group, which is independent of U and has the label-free mean sigma^2 a w* (1 - zeta)(1 - 1/I). What is multiplied by an odd power of y averages
to 0; what is left lies along q*:

    squared   a |w*|^2 zeta(1 - zeta) E_delta (1 + delta_q)[(1 - kappa)(1 + delta_w) + a sigma^2/T] q*
    logistic  zeta(1 - zeta) E_delta (1 + delta_q) E_U[sigmoid(-kappa - (1 - zeta)U)((1 + delta_w)a|w*|^2 - U)] q*

(squared: E U^2 (1 - zeta) = a^2|w*|^2 sigma^2/T). U is Gaussian; the expectation over it is a Gauss-Hermite sum.

*Head at q_1 = t q*, from zero.* E[y h] = E[p - (1 - p)delta_w] w* with the mass p on relevant tokens, exactly by `attention_law`; from w_1, squared loss:
w_1 + eta(E m - a(|w*|^2 E m^2 + sigma^2 E v))w*, m = p - (1 - p)delta_w.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import expit

from constructions.oymak2023.asymptotics.attention_law import exact_moments
from constructions.oymak2023.data import ContextualData
from constructions.oymak2023.descent.steps import Loss, Steps, check_loss
from constructions.oymak2023.errors import ContextError

__all__ = ["PopulationSteps", "population_steps"]

_NODES = 80


@dataclass(frozen=True)
class PopulationSteps:
    """w_1 = first_head w*, q_1 = prompt q*, w_2 = second_head w*. mass: of the attention on relevant tokens under q_1, averaged (zeta before the step)."""

    first_head: float
    prompt: float
    second_head: float
    mass: float

    def steps(self, data: ContextualData) -> Steps:
        """As vectors."""
        return Steps(self.first_head * data.w_star, self.prompt * data.q_star, self.second_head * data.w_star)


def population_steps(
    data: ContextualData, *, head_step: float, prompt_step: float, loss: Loss = "squared", restart: bool = True
) -> PopulationSteps:
    """The limit of `three_steps` as n grows.

    Raises ContextError where noise is bounded or on relevant tokens, or where sigma|q_1| > 4 (take a shorter prompt_step); ValueError for an unknown loss, and
    for the logistic loss without `restart`, whose last step has no such formula.
    """
    check_loss(loss)
    if data.bound is not None or data.noisy_relevant:
        what, value = ("bound", data.bound) if data.bound is not None else ("noisy_relevant", True)
        raise ContextError(argument=what, value=value, reason="is outside what the expectations assume, Gaussian noise on the irrelevant tokens",
                           next_step="Take bound=None and noisy_relevant=False; three_steps on samples knows no such restriction.")  # fmt: skip
    if loss == "logistic" and not restart:
        raise ValueError("restart = False has no closed form for the logistic loss. Take restart=True, or the squared loss.")  # fmt: skip
    zeta, size = data.share, float(data.w_star @ data.w_star)
    e = head_step if loss == "squared" else head_step / 2
    a = e * float((zeta - (1 - zeta) * data.pairs[:, 1]).mean())
    t = prompt_step * float(np.mean([pull(data, a, a * a * size, dq, dw, loss) for dq, dw in data.pairs]))
    q2 = float(data.q_star @ data.q_star)
    nu = abs(t) * data.noise * np.sqrt(q2)
    if nu > 4:
        raise ContextError(argument="prompt_step", value=prompt_step, reason=f"makes sigma|q_1| = {nu:.3g}, above 4: single noisy tokens win the softmax",
                           next_step=f"Take prompt_step <= {3.9 * prompt_step / nu:.3g}.")  # fmt: skip
    masses, means, seconds, spreads = [], [], [], []
    for delta_q, delta_w in data.pairs:
        m = exact_moments(t * q2 * (1 + delta_q), data.relevant, data.irrelevant, float(nu))
        mean = m.mass - (1 - m.mass) * delta_w
        masses.append(m.mass)
        means.append(mean)
        seconds.append(mean**2 + (1 + delta_w) ** 2 * m.mass_variance)
        spreads.append(data.noise**2 * m.spread)
    second = e * float(np.mean(means))
    if not restart:
        second += a - head_step * a * (size * float(np.mean(seconds)) + float(np.mean(spreads)))
    return PopulationSteps(a, t, second, float(np.mean(masses)))


def pull(data: ContextualData, a: float, squared: float, delta_q: float, delta_w: float, loss: Loss) -> float:
    """Coefficient of q* in minus the expected prompt gradient for one pair and the head a w* + noise of squared length `squared` (a^2|w*|^2 without noise)."""
    zeta, size = data.share, float(data.w_star @ data.w_star)
    kappa = a * size * (zeta - (1 - zeta) * delta_w)
    if loss == "squared":
        inside = (1 - kappa) * (1 + delta_w) * a * size + squared * data.noise**2 / data.tokens
    else:
        g, weight = gauss(_NODES)
        u = g * data.noise * np.sqrt(squared / data.irrelevant)
        inside = float(weight @ (expit(-kappa - (1 - zeta) * u) * ((1 + delta_w) * a * size - u)))
    return zeta * (1 - zeta) * (1 + delta_q) * inside


def gauss(nodes: int) -> tuple[Float[np.ndarray, " nodes"], Float[np.ndarray, " nodes"]]:
    """Nodes and probabilities of the standard normal's Gauss rule."""
    g, weight = np.polynomial.hermite_e.hermegauss(nodes)
    return g, weight / weight.sum()
