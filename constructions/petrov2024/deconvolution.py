"""Circular harmonics of a head on equispaced keys: deconvolution in closed form, aliasing, Favard's multipliers.

On S^1 write x = (cos t, sin t). The Jacobi-Anger expansion e^{lambda cos t} = sum_l I_l(lambda) e^{ilt} turns tokens at the
angles b_k = s + 2 pi k/N, k < N, with amplitudes a_k = (1/N) sum_r V_r e^{irb_k} (r over the residues modulo N) into

    sum_k a_k e^{lambda cos(t - b_k)} = sum_l I_l(lambda) e^{ilt} V_{l mod N} e^{-i(l - r)s},                             (*)

r the representative of l's residue: every harmonic r is multiplied by I_r(lambda) and copied ("aliased") to r + iN.
So V_r = c_r / I_r(lambda) reproduces a trigonometric polynomial sum_{|j|<n} c_j e^{ijt} up to

    sum_{|j|<n} |c_j| sum_{i != 0} I_{|j+iN|}(lambda) / I_j(lambda),                                       (aliasing)

which falls with N and rises with lambda, while the amplitudes fall with lambda. Petrov, Torr and Bibi (2024, arXiv
2402.14753) sample f instead of deconvolving; the core head is theirs.

Exponentially scaled Bessel functions (scipy.special.ive) stand for e^{-lambda} I_l(lambda): nothing overflows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Complex, Float
from scipy.special import ive

__all__ = [
    "aliasing",
    "bessel_ratios",
    "circle_points",
    "deconvolved_amplitudes",
    "equispaced_angles",
    "favard_multipliers",
    "fourier_coefficients",
]

Evaluate = Callable[[np.ndarray], np.ndarray]


def circle_points(angles: Float[np.ndarray, " P"]) -> Float[np.ndarray, "P 2"]:
    """Points (cos t, sin t) of S^1."""
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def equispaced_angles(count: int, shift: float = 0.0) -> Float[np.ndarray, " count"]:
    """shift + 2 pi k / count, k < count."""
    return shift + 2 * np.pi * np.arange(count) / count


def fourier_coefficients(evaluate: Evaluate, count: int) -> Complex[np.ndarray, "count k"]:
    """Discrete Fourier coefficients from `count` samples, in NumPy's order: row l belongs to e^{ilt}, rows from the end to -l."""
    return np.fft.fft(np.asarray(evaluate(circle_points(equispaced_angles(count))), dtype=np.float64), axis=0) / count


def bessel_ratios(orders: np.ndarray, sharpness: float | np.ndarray) -> np.ndarray:
    """I_l(lambda) / I_0(lambda) for integer orders of any sign; `sharpness` broadcasts against `orders`."""
    return ive(np.abs(orders), sharpness) / ive(0, sharpness)


def aliasing(degree: int, tokens: int, sharpness: float) -> float:
    """max_{|j| <= degree} sum_{i != 0} I_{|j+iN|}(lambda) / I_j(lambda): by how much a harmonic's copies exceed it."""
    j = np.arange(degree + 1)
    reach = np.arange(1, 2 + int(np.ceil((40 + 8 * np.sqrt(sharpness) + degree) / tokens)))
    i = np.concatenate([-reach, reach])
    copies = ive(np.abs(j[:, None] + i * tokens), sharpness).sum(axis=1)
    return float(np.max(copies / ive(j, sharpness)))


def favard_multipliers(n: int) -> Float[np.ndarray, " n"]:
    """mu_j = (j pi / 2n) cot(j pi / 2n), j < n, mu_0 = 1.

    The trigonometric polynomial sum_{|j|<n} mu_j f_j e^{ijt} is within (pi/2) L / n of every L-Lipschitz f, and no linear (or
    other) method of degree < n does better for the class: J. Favard (1937), N. I. Akhiezer and M. G. Krein (1937).
    """
    angles = np.arange(1, n) * np.pi / (2 * n)
    return np.concatenate([[1.0], angles / np.tan(angles)])


def deconvolved_amplitudes(
    coefficients: Complex[np.ndarray, "n k"], tokens: int, sharpness: float
) -> Float[np.ndarray, "tokens k"]:
    """a_k e^{lambda} on keys 2 pi k / N for the real trigonometric polynomial with coefficients c_0, ..., c_{n-1} (c_{-j} = conj c_j).

    a_k = (1/N) sum_{|j|<n} c_j e^{ijb_k} / I_j(lambda), the theorem of the head of this file. Needs tokens >= 2n - 1.
    """
    n = len(coefficients)
    scaled = coefficients / ive(np.arange(n), sharpness)[:, None]
    spectrum = np.zeros((tokens, coefficients.shape[1]), dtype=complex)
    spectrum[:n] = scaled
    spectrum[tokens - n + 1 :] = np.conj(scaled[:0:-1])
    return np.fft.ifft(spectrum, axis=0).real
