"""A whole sequence as one number: interleaved binary digits, summed over the tokens by the scores of one attention head.

Kolmogorov and Arnold represent a function of n variables as g(sum_p phi_p(x_p)); Schmidt-Hieber ("The Kolmogorov-Arnold
representation theorem revisited", 2021) takes for phi_p an interleaving of digits, f(x) = g(sum_p base^{-p} phi(x_p)). Petrov,
Torr and Bibi (2024, section 4) run that through T + 2 attention layers. Here the digits come from cells: coordinate i of a
token lies in cell n = 0..2^K - 1, n = sum_j b_j 2^{K-j}, and

    phi_i(n) = sum_{j=1..K} b_j 2^{-((j-1) T d + i T)},     z = sum_{p=1..T} 2^{-p} sum_i phi_i(n_{p,i}),

so digit j of coordinate i of token p has place value 2^{-((j-1) T d + i T + p)}: every place 1..K T d is used once, and z runs
through the multiples of 2^{-K T d} in [0, 1). Since what layer 1 writes is discrete, base 2 is enough (a Cantor-like set with
base 3 separates codes of *continuous* digits), and all gaps between codes are equal.

*How many digits float64 carries.* The last layers tell M = 2^{K T d} codes apart by logits s_m = 2 A (m - mbar)(zeta - mbar) -
A (m - mbar)^2, zeta = z / gap: at code n they are A [(n - mbar)^2 - (m - n)^2], neighbours are A below. Each is a sum of three
products of total size at most 3/4 A M^2, rounded by 7 u times that in the kernel's count, once for each of the two tokens that
are compared; the code separates while that stays below A/4: 10.5 u M^2 <= 1/4. The criterion does not involve A.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, log2, sqrt

import numpy as np
from jaxtyping import Float, Int

from constructions.errors import CompileError

__all__ = ["Code", "most_digits"]

_ROUND_OFF = 2.0**-53


def most_digits() -> int:
    """The largest K T d that float64 logits tell apart (see the module's docstring): 10.5 u 4^{K T d} <= 1/4."""
    return floor(log2(sqrt(0.25 / (10.5 * _ROUND_OFF))))


@dataclass(frozen=True)
class Code:
    """The code of sequences of T tokens of dimension d by K binary digits per coordinate.

    Raises CompileError where K T d exceeds what float64 resolves, with the K that fits.
    """

    T: int
    d: int
    K: int

    def __post_init__(self) -> None:
        for name in ("T", "d", "K"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise CompileError(f"{name} = {value!r} is not a whole number >= 1. Pass a positive whole number.")
        limit = most_digits()
        if self.digits > limit:
            fits = limit // (self.T * self.d)
            step = (
                f"K = {fits} fits: pass a larger eps"
                if fits
                else f"No K fits {self.T * self.d} coordinates in one code: use the two-layer construction"
            )
            raise CompileError(
                f"K = {self.K}: {self.T} tokens of dimension {self.d} take K T d = {self.digits} binary digits, and float64 logits tell "
                f"apart {limit}. {step}, or the two-layer construction."
            )

    @property
    def digits(self) -> int:
        """K T d."""
        return self.K * self.T * self.d

    @property
    def size(self) -> int:
        """Number M = 2^{K T d} of codes."""
        return 2**self.digits

    @property
    def gap(self) -> float:
        """Distance 2^{-K T d} of neighbouring codes."""
        return 2.0**-self.digits

    def digit_values(self, i: int) -> Float[np.ndarray, " cells"]:
        """phi_i of the cells 0..2^K - 1, exact."""
        n = np.arange(2**self.K)
        out = np.zeros(2**self.K)
        for j in range(1, self.K + 1):
            out += (n >> (self.K - j) & 1) * 2.0 ** -((j - 1) * self.T * self.d + i * self.T)
        return out

    def cells(self) -> Int[np.ndarray, "codes coordinates"]:
        """The cell of each flattened coordinate (token-major) for every code m = z / gap: the inverse of the code."""
        m = np.arange(self.size)
        out = np.zeros((self.size, self.T * self.d), dtype=np.int64)
        for p in range(1, self.T + 1):
            for i in range(self.d):
                for j in range(1, self.K + 1):
                    place = (j - 1) * self.T * self.d + i * self.T + p
                    out[:, (p - 1) * self.d + i] |= (m >> (self.digits - place) & 1) << (self.K - j)
        return out

    def value(self, cells: Int[np.ndarray, "batch coordinates"]) -> Float[np.ndarray, " batch"]:
        """z of sequences given by their cells, exact."""
        rows = np.asarray(cells).reshape(-1, self.T, self.d)
        out = np.zeros(len(rows))
        for i in range(self.d):
            phi = self.digit_values(i)
            for p in range(1, self.T + 1):
                out += 2.0**-p * phi[rows[:, p - 1, i]]
        return out
