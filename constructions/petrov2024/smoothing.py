"""Averaging over the sphere with the von Mises-Fisher kernel: how far it moves a Lipschitz function, and what sampling it costs.

y ~ vMF(x, lambda) on S^m has density c e^{lambda <x, y>} with respect to the *normalised* surface measure. t = <x, y> = cos theta has
density proportional to e^{lambda t} (1 - t^2)^{nu - 1/2}, nu = (m - 1)/2, and Poisson's integral for I_nu gives

    c = lambda^nu / (2^nu Gamma(nu + 1) I_nu(lambda)),    E[t] = -(log c)' = A = I_{nu+1}(lambda) / I_nu(lambda).

Moments. E[1 - t^2] = m A / lambda (integrate (e^{lambda t})' (1 - t^2)^{nu + 1/2} by parts). With u = 1 - t therefore
E[u] = 1 - A and E[u^2] = 1 - 2A + E[t^2] = 2(1 - A) - m A / lambda; and A' = Var t = 1 - A^2 - m A / lambda.

Angle (smoothing_bound). theta^2 = 4 arcsin^2 sqrt(u/2) = 2 sum_{n>=1} (2u)^n / (n^2 binom(2n, n)) = 2u + u^2/3 + ..., all coefficients
positive; so (theta^2 - 2u)/u^2 increases on (0, 2] and is at most its value at u = 2, kappa = (pi^2 - 4)/4:

    theta^2 <= 2u + kappa u^2,    E[theta] <= sqrt(E[theta^2]) <= sqrt(2(1 - A) + kappa (2(1 - A) - m A / lambda)).

Hence |f * vMF - f| <= L E[theta] for every L-Lipschitz f.

Core head (core_error). Cut S^m into cells V_k of measure omega_k, all within an angle delta of b_k, and take the unnormalised head
g(x) = sum_k omega_k c e^{lambda <x, b_k>} f(b_k), the construction of Petrov, Torr and Bibi (2024, arXiv 2402.14753). For y in V_k,
theta' = angle(x, b_k) differs from theta = angle(x, y) by at most delta; Taylor's formula gives |cos theta' - cos theta| <= z / lambda with
z = lambda (delta sin theta + delta^2/2), and |1 - e^{+-z}| <= e^z - 1, so with F >= sup |f|

    |g - f| <= L E[theta] + L delta + F E[e^z - 1].                                                                     (core)

Closed parameters (core_closed_form). With w = max(F, eps),

    y = 6 eps / (13 w + 12 eps),    lambda = m (4 (1 + y)^2 L^2 / eps^2 + 3),    delta = y / sqrt(m lambda)

make the right-hand side of (core) at most eps, for every m >= 1. Proof, by the share p = 1/(2(1 + y)) of eps:

1. 1 - A <= m/(2 lambda) for m >= 2, because the density of u is that of Gamma(m/2, lambda) times the non-increasing (2 - u)^{m/2-1}.
   For m = 1 and lambda >= 9/4, 1 - A <= 1/(2 lambda) + 1/(4 lambda^2): B = 1 - 1/(2 lambda) - 1/(4 lambda^2) satisfies
   B' <= 1 - B^2 - B/lambda from 9/4 on and B(9/4) < A(9/4), so A, which satisfies it with equality, stays above.
2. L E[theta] <= p eps. With s = p eps / L, lambda = m (1/s^2 + 3) and s^2 lambda^2 >= m lambda + 3 m^2. For m >= 2, 1. gives
   E[u^2] <= m^2/(2 lambda^2), so E[theta^2] <= m/lambda + kappa m^2/(2 lambda^2) <= s^2 as kappa/2 < 3. For m = 1, E[u^2] <= 1/lambda^2 +
   1/(4 lambda^3), so E[theta^2] <= 1/lambda + (1/2 + kappa + kappa/(4 lambda))/lambda^2 <= s^2 as 1/2 + kappa (1 + 1/12) < 3.
3. L delta <= y p eps, because sqrt(m lambda) >= m L/(p eps).
4. F E[e^z - 1] <= eps/2. As sin^2 theta <= 2u, Young's inequality with a = lambda delta and alpha = y/2 gives
   a sin theta <= alpha + a^2 u/(2 alpha) = y/2 + rho lambda u, rho = y/m. The derivative of log E[e^{tau u}] is 1 - A(lambda - tau), so by 1.
   E[e^{rho lambda u}] <= (1 - rho)^{-m/2} <= e^{(m/2) rho/(1 - rho)}; for m = 1 the exponent gains rho/(4 lambda (1 - rho)) <= rho/(12 (1 - rho))
   (lambda (1 - rho) >= 3 * 0.76 > 9/4, y <= 6/25). As lambda delta^2/2 = y^2/(2m), for every m

       log E[e^z] <= y/2 + (7/12) y/(1 - y) + y^2/2 = (13/12) y + y^2 ((7/12)/(1 - y) + 1/2).

   Let x = eps/(2w) <= 1/2 and D = 13/12 + 2x, so that y = x/D. This is at most x - x^2/2 <= log(1 + x) iff
   (7/12)/(1 - y) + 1/2 <= 2D - D^2/2; the left is at most 1.268 (y <= 0.24), the right is concave on [13/12, 25/12] with 1.58 and
   1.99 at the ends. So E[e^z] - 1 <= x and F x <= eps/2.
5. p eps + y p eps + eps/2 = eps. QED. As eps -> 0, delta ~ 3 eps^2 / (13 m L F).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import flint
import numpy as np
from scipy.optimize import minimize_scalar, root_scalar

from verify.precision import arb_bounds, working_precision

__all__ = [
    "core_closed_form",
    "core_error",
    "core_parameters",
    "log_normaliser",
    "mean_cosine",
    "normaliser",
    "sampling_growth",
    "smoothing",
    "smoothing_bound",
]

_BITS = 96
_NODES = 400


def _checked(lam: float, m: int) -> None:
    if not (math.isfinite(lam) and lam > 0):
        raise ValueError(f"lam = {lam!r}: the sharpness is a finite number > 0. Pass one, for example 16.0.")
    if not (isinstance(m, int | np.integer) and m >= 1):
        raise ValueError(f"m = {m!r}: the dimension of the sphere is an integer >= 1 (1 for the circle).")


def _bits(lam: float, m: int) -> int:
    """1 - A is about m/(2 lambda), E[u^2] its square: as many bits cancel."""
    return _BITS + 4 * abs(math.frexp(lam)[1]) + 4 * int(m).bit_length()


def _scaled_normaliser(lam: float, m: int) -> flint.arb:
    """c e^lambda."""
    nu, x = flint.arb(m - 1) / 2, flint.arb(lam)
    return (x / 2) ** nu / ((nu + 1).gamma() * x.bessel_i(nu, True))


def _mean_cosine(lam: float, m: int) -> flint.arb:
    nu, x = flint.arb(m - 1) / 2, flint.arb(lam)
    return x.bessel_i(nu + 1, True) / x.bessel_i(nu, True)


def normaliser(lam: float, m: int) -> tuple[float, float]:
    """Bounds of c: the factor that makes c e^{lambda <x, y>} a density for the normalised measure. Underflows beyond lambda = 700.

    Raises ValueError for lam <= 0 or m < 1, as all functions of this file.
    """
    _checked(lam, m)
    with working_precision(_bits(lam, m)):
        return arb_bounds(_scaled_normaliser(lam, m) * (-flint.arb(lam)).exp())


def log_normaliser(lam: float, m: int) -> tuple[float, float]:
    """Bounds of log c."""
    _checked(lam, m)
    with working_precision(_bits(lam, m)):
        return arb_bounds(_scaled_normaliser(lam, m).log() - flint.arb(lam))


def mean_cosine(lam: float, m: int) -> tuple[float, float]:
    """Bounds of A = E[cos theta]."""
    _checked(lam, m)
    with working_precision(_bits(lam, m)):
        return arb_bounds(_mean_cosine(lam, m))


def smoothing_bound(lam: float, m: int) -> float:
    """sqrt(2(1 - A) + kappa (2(1 - A) - m A / lambda)) >= E[theta], rounded up; at most pi."""
    _checked(lam, m)
    with working_precision(_bits(lam, m)):
        a = _mean_cosine(lam, m)
        kappa = (flint.arb.pi() ** 2 - 4) / 4
        return min(math.pi, arb_bounds((2 * (1 - a) + kappa * (2 * (1 - a) - m * a / lam)).sqrt())[1])


def _expectation(weight: Callable[[flint.acb], flint.acb], lam: float, m: int) -> tuple[float, float]:
    """Bounds of E[weight(theta)], weight entire: int_0^pi weight e^{lambda (cos - 1)} sin^{m-1} times a factor that is c e^lambda
    Gamma((m+1)/2) / (sqrt(pi) Gamma(m/2)). Integrated in pieces that double in length from the bulk, of width sqrt(m / lambda), on: about a
    piece [c, 2c] the integrand is small on a complex neighbourhood too, so that the quadrature accepts it at once."""
    with working_precision(_bits(lam, m)):
        half, pi = flint.arb(m) / 2, flint.arb.pi()
        factor = _scaled_normaliser(lam, m) * (half + flint.arb("0.5")).gamma() / (pi.sqrt() * half.gamma())
        x = flint.acb(lam)

        def integrand(t: flint.acb, _: bool) -> flint.acb:
            # cos t - 1 = -2 sin^2(t/2): of a ball of radius r about 0 the sine is of size r, the cosine only within r of 1
            return factor * weight(t) * (-2 * x * (t / 2).sin() ** 2).exp() * t.sin() ** (m - 1)

        doublings = range(max(0, math.ceil(math.log2(3 / math.sqrt(m / lam)))))
        cuts = [flint.arb(0), *(flint.arb(math.sqrt(m / lam) * 2.0**i) for i in doublings), pi]
        total = flint.acb(0)
        for a, b in pairwise(cuts):
            total += flint.acb.integral(integrand, flint.acb(a), flint.acb(b), rel_tol=2.0**-60, abs_tol=2.0**-70)
        return arb_bounds(total.real)


def smoothing(lam: float, m: int) -> tuple[float, float]:
    """Bounds of E[theta], the mean angle between x and y ~ vMF(x, lambda)."""
    _checked(lam, m)
    return _expectation(lambda t: t, lam, m)


def sampling_growth(lam: float, delta: float, m: int) -> tuple[float, float]:
    """Bounds of E[e^{lambda (delta sin theta + delta^2/2)} - 1], what replacing y by a point within delta costs, relative to F."""
    _checked(lam, m)
    if not 0 <= delta <= 4:
        raise ValueError(f"delta = {delta!r}: an angle between 0 and pi is expected.")
    x, d = flint.acb(lam), flint.acb(delta)
    return _expectation(lambda t: (x * d * (t.sin() + d / 2)).exp() - 1, lam, m)


def core_error(lam: float, delta: float, L: float, F: float, m: int) -> float:
    """L E[theta] + L delta + F E[e^z - 1], rounded up: bounds the core head's error on cells of radius delta (see the head of this file)."""
    if not (math.isfinite(L) and L >= 0 and math.isfinite(F) and F >= 0):
        raise ValueError(f"L = {L!r}, F = {F!r}: finite numbers >= 0 are expected.")
    with working_precision(_BITS):
        # Each product of floats is rounded once more than exactly; balls take care of it.
        parts = (flint.arb(smoothing(lam, m)[1]), flint.arb(delta), flint.arb(sampling_growth(lam, delta, m)[1]))
        upper = arb_bounds(L * parts[0] + L * parts[1] + F * parts[2])[1]
    return upper if not math.isnan(upper) else math.inf


def core_closed_form(eps: float, L: float, F: float, m: int) -> tuple[float, float]:
    """(lambda, delta) of the closed parameters, delta rounded down a little."""
    if not (math.isfinite(eps) and eps > 0):
        raise ValueError(f"eps = {eps!r}: a finite number > 0 is expected.")
    y = 6 * eps / (13 * max(F, eps) + 12 * eps)
    lam = m * (4 * (1 + y) ** 2 * (L / eps) ** 2 + 3)
    return lam, y / math.sqrt(m * lam) * (1 - 1e-12)


def core_parameters(eps: float, L: float, F: float, m: int) -> tuple[float, float]:
    """(lambda, delta) with core_error(lambda, delta, L, F, m) <= eps and delta about as large as possible.

    A search in float64 over lambda, whose winner is checked by core_error; the closed parameters where that fails. Raises ValueError for
    eps <= 0.
    """
    lam, delta = core_closed_form(eps, L, F, m)
    if L == 0 or F == 0:
        return lam, delta

    def widest(log_lam: float) -> float:
        return _widest(math.exp(log_lam), eps, L, F, m)

    middle = math.log(lam)
    found: Any = minimize_scalar(
        lambda s: -widest(s), bounds=(middle - 4, middle + 1), method="bounded", options={"xatol": 1e-4}
    )
    best_lam, best = math.exp(found.x), widest(found.x)
    for shrink in (1e-9, 1e-6, 1e-3):
        if best * (1 - shrink) > delta and core_error(best_lam, best * (1 - shrink), L, F, m) <= eps:
            return best_lam, best * (1 - shrink)
    return lam, delta


def _widest(lam: float, eps: float, L: float, F: float, m: int) -> float:
    """The delta at which core_error is eps, by quadrature in float64; 0 where no delta does."""
    end = min(math.pi, 6 * math.sqrt((m + 20) / lam))
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    theta = 0.5 * end * (nodes + 1)
    sine = np.sin(theta)
    with np.errstate(divide="ignore"):
        logs = np.log(weights) - 2 * lam * np.sin(theta / 2) ** 2 + (m - 1) * np.log(np.maximum(sine, 1e-300))
    density = np.exp(logs - logs.max())
    density /= density.sum()
    mean = float(density @ theta)

    def excess(delta: float) -> float:
        growth = np.minimum(lam * delta * (sine + delta / 2), 700.0)
        return L * mean + L * delta + F * float(density @ np.expm1(growth)) - eps

    if excess(0.0) >= 0:
        return 0.0
    if excess(math.pi) <= 0:
        return math.pi
    return float(root_scalar(excess, bracket=(0.0, math.pi), method="brentq", xtol=1e-16, rtol=1e-13).root)
