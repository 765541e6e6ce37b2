"""Families of exponents for heads of one variable, in coordinates where the interval is [-1, 1].

A head with slopes a_j is a ratio of exponential sums in z = e^t. Three families of slopes cover smooth targets:

- equispaced, a_j = A (j/(N-1) - 1/2): ratios of polynomials of degree N-1 in e^{ht}, h = A/(N-1). Reference biases
  log C(N-1, j) make the weights the Bernstein basis in sigmoid(ht). A pole of the target at distance d from the
  interval is reachable with positive denominators once A >= pi/d, since the zeros of a polynomial with positive
  coefficients of degree n avoid the sector |arg z| < pi/n (Obrechkoff).
- one-sided geometric, {0} and +-(b q^i): resolves a singularity at or near one end on every scale.
- two-sided geometric: both ends; and for a narrow feature inside, geometric differences from the extreme slopes.
- lattice, a_j = c_j / sigma^2 with b_j = -c_j^2 / (2 sigma^2): Gaussians about one spacing wide at equispaced
  centres c_j. Bernstein polynomials of degree n are sqrt(n)/2 spacings wide, too wide to hold a high frequency without
  huge values; Gaussians of one spacing resolve everything below the Nyquist frequency of their lattice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy.special import gammaln

__all__ = ["Exponents", "exponents"]


@dataclass(frozen=True)
class Exponents:
    """One member of a family.

    span: difference of extreme slopes; for a lattice, the half-width covered by the centres, 1 being the interval's.
    side: +1 or -1, the end that is refined, 0 for none; centre: the kink, for that family; width: a lattice's
    Gaussian width in spacings; tapered: geometric exponents that thin out towards the large ones.
    """

    family: str
    span: float
    side: int = 0
    centre: float = 0.0
    width: float = 1.0
    tapered: bool = False

    def scaled(self, factor: float) -> Exponents:
        """The same family with its span multiplied, or for a lattice its width."""
        if self.family == "lattice":
            return replace(self, width=self.width * factor)
        return replace(self, span=self.span * factor)


def exponents(member: Exponents, tokens: int) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """Slopes, increasing, and reference biases (each basis function of moderate size on [-1, 1])."""
    if tokens == 1:
        return np.zeros(1), np.zeros(1)
    n = tokens - 1
    if member.family == "equispaced":
        j = np.arange(tokens)
        return member.span * (j / n - 0.5), gammaln(n + 1) - gammaln(j + 1) - gammaln(n - j + 1)
    if member.family == "lattice":
        centres = member.span * (2 * np.arange(tokens) / n - 1)
        variance = (member.width * 2 * member.span / n) ** 2
        return centres / variance, -(centres**2) / (2 * variance)
    if member.family == "geometric":
        slopes = np.concatenate([[0.0], _wing(member.span, n, member.tapered)])
        biases = _tangents(slopes)
        return (slopes, biases) if member.side > 0 else (-slopes[::-1], biases[::-1])
    if member.family == "ends":
        wing = _wing(member.span / 2, tokens // 2, member.tapered)
        lowered = _tangents(wing)
    else:
        wing, lowered = _kink(member.span / 2, tokens)
    slopes = np.concatenate([-wing[::-1], np.zeros(tokens % 2), wing])
    biases = np.concatenate([lowered[::-1], np.zeros(tokens % 2), lowered])
    return slopes, biases - slopes * member.centre


def _tangents(slopes: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Biases that make exponential j dominate at distance about 1/a_j from the end t = 1: tangents of -log(1 - t)."""
    return np.log1p(slopes) - slopes


def _kink(top: float, tokens: int) -> tuple[Float[np.ndarray, " half"], Float[np.ndarray, " half"]]:
    """Slopes and biases on one side of a feature of width 1/top: tangents of top d - log d at geometric distances d.

    At distance d only slopes within about 1/d of each other share the weight, so the *differences* from the extreme
    slope are geometric: s_j(d) = (top - 1/d_j) d - log(top d_j).
    """
    count = tokens // 2
    distances = np.geomspace(1.0 / top, 2.0, count + 1)[1:] if tokens % 2 else np.geomspace(1.4 / top, 2.0, count)
    return top - 1.0 / distances, -np.log(top * distances)


def _wing(top: float, count: int, tapered: bool) -> Float[np.ndarray, " count"]:
    """Exponents from about 1/2 up to top, geometric, or tapered: log a_j linear in -sqrt(count + 1 - j).

    Near a singularity of strength s^p an absolute error of eps allows a relative one of eps/s^p: exponents 1/s may
    thin out as s decreases, as the tapered poles of Trefethen, Nakatsukasa and Weideman (2021) do.
    """
    low = min(0.5, top / 2)
    if count <= 1:
        return np.full(count, top)
    if not tapered:
        return np.geomspace(low, top, count)
    steps = np.sqrt(count) - np.sqrt(np.arange(count, 0, -1))
    return low * (top / low) ** (steps / steps[-1])
