"""What softmax does with noisy logits: moments of the attention weights, exactly and to leading order.

R tokens have the logit D, I tokens the logit nu g_t, g_t ~ N(0, 1) independent. With A = R e^D, L_t = e^(nu g_t) and S = sum L_t three numbers of
the attention weights matter:

    p = A / (A + S)                 mass on the R tokens,
    e = sum L_t g_t / (A + S)       weighted mean of the noise along the prompt: the prompt selects what points its way,
    v = sum L_t^2 / (A + S)^2       sum of squared weights: variance of the weighted mean of noise in any other direction.

Exactly: 1/(A + S)^k = int_0^inf x^(k-1)/(k-1)! e^(-x(A + S)) dx, and the expectation factors over tokens. With phi_ab(x) = E[g^a L^b e^(-xL)],

    E p = A int e^(-xA) phi_00^I,   E p^2 = A^2 int x e^(-xA) phi_00^I,   E v = I int x e^(-xA) phi_02 phi_00^(I-1),   and so on.

One-dimensional integrals of smooth functions: the trapezoidal rule, in log x and in g, converges geometrically.

To leading order in 1/I: S is I e^(nu^2/2) (1 + fluctuations of variance (e^(nu^2) - 1)/I), hence p = sigmoid(ln(A/I) - nu^2/2), e = (1 - p) nu,
v = (1 - p)^2 e^(nu^2)/I; variances by the delta method. The relative variance of sum L_t^2 is (e^(4 nu^2) - 1)/I: the leading order needs this small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

__all__ = ["AttentionMoments", "exact_moments", "leading_moments"]

_LOG_STEP = 0.2
_STEP = 0.08


@dataclass(frozen=True)
class AttentionMoments:
    """mass, mass_variance: of p; shift, shift_variance: of e; mass_shift: covariance of p and e; spread, spread_variance: of v."""

    mass: float
    mass_variance: float
    shift: float
    shift_variance: float
    mass_shift: float
    spread: float
    spread_variance: float


def leading_moments(advantage: float, relevant: int, irrelevant: int, nu: float) -> AttentionMoments:
    """advantage: D; nu: standard deviation of the irrelevant logits. Leading order in 1/irrelevant.

    Delta method for p = 1/(1 + bM), e = b p N, with M = mean L, N = mean gL, M = e^(nu^2/2) and N = nu M on average:
    dp = -p(1-p) dM/M, de = (1-p)(dN - nu(1-p) dM)/M; per token Var L = M^2(e^(nu^2) - 1), Cov(L, gL) = M^2(2 nu e^(nu^2) - nu),
    Var gL = M^2((1 + 4nu^2)e^(nu^2) - nu^2).
    """
    square = nu * nu
    p = float(expit(advantage + math.log(relevant / irrelevant) - square / 2))
    o, big = 1 - p, math.exp(square)
    mm, mn, nn = (big - 1), (2 * nu * big - nu), ((1 + 4 * square) * big - square)
    n = irrelevant
    return AttentionMoments(
        mass=p,
        mass_variance=(p * o) ** 2 * mm / n,
        shift=o * nu,
        shift_variance=o**2 * (nn - 2 * nu * o * mn + (nu * o) ** 2 * mm) / n,
        mass_shift=-p * o**2 * (mn - nu * o * mm) / n,
        spread=o**2 * big / n,
        spread_variance=o**4 * big**2 * math.expm1(4 * square) / n**3,
    )


def exact_moments(advantage: float, relevant: int, irrelevant: int, nu: float) -> AttentionMoments:
    """The same, without approximation but for quadrature (about ten digits for nu <= 4). Raises ValueError for nu outside [0, 4]."""
    if not 0 <= nu <= 4:
        raise ValueError(
            f"nu = {nu}: the irrelevant logits' standard deviation must lie in [0, 4] for the quadrature; take a shorter prompt or less noise."
        )
    n = irrelevant
    g = np.arange(-9.0, 9.0 + 4 * nu + _STEP, _STEP)
    density = np.exp(-g * g / 2) * _STEP / math.sqrt(2 * math.pi)
    log_a = math.log(relevant) + advantage
    centre = -np.logaddexp(log_a, math.log(n) + nu * nu / 2)  # -ln of the typical A + S
    t = np.arange(centre - 45.0, centre + nu * 9.0 + 6.0, _LOG_STEP)  # ln x
    x = np.exp(t)[:, None]
    damped = np.exp(-x * np.exp(nu * g)) * density

    def phi(a: int, b: int) -> np.ndarray:
        return damped @ (g**a * np.exp(b * nu * g))

    base = np.maximum(phi(0, 0), 1e-300)
    log_weight = -np.exp(np.minimum(t + log_a, 700.0)) + n * np.log(base)

    def integral(power: int, factor: np.ndarray | float = 1.0) -> float:
        """int x^(power-1)/(power-1)! e^(-xA) phi_00^n factor dx, dx = x dt."""
        inside = np.exp(np.maximum(power * t + log_weight, -745.0)) * factor
        return float(inside.sum()) * _LOG_STEP / math.factorial(power - 1)

    two, gl, ggl = phi(0, 2) / base, phi(1, 1) / base, phi(2, 2) / base
    a = math.exp(log_a)
    p, p2 = a * integral(1), a * a * integral(2)
    e = n * integral(1, gl)
    e2 = n * integral(2, ggl) + n * (n - 1) * integral(2, gl**2)
    pe = a * n * integral(2, gl)
    v = n * integral(2, two)
    v2 = n * integral(4, phi(0, 4) / base) + n * (n - 1) * integral(4, two**2)
    return AttentionMoments(p, max(p2 - p * p, 0.0), e, max(e2 - e * e, 0.0), pe - p * e, v, max(v2 - v * v, 0.0))
