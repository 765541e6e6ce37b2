"""The floor where O W_V is injective: the mass and the mean token of a prompt are tied by the entropy of its attention weights.

ln t = <kappa, p> + H(q) with H(q) in [0, ln tokens], so with kappa = M^T c, M = O W_V, and b = t M p:  <c, b> <= t ln t. For fixed t that is a
half-space, and every pair (p, t) with ln t >= <kappa, p> is a prompt: with weights q of entropy ln t - <kappa, p> take tokens

    y_j = p + kappa (ln(t q_j) - <kappa, p>) / |kappa|^2,

whose logits are ln(t q_j) and whose mean under q is p.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize_scalar, root_scalar
from scipy.special import xlogy

from constructions.wang2023.floor.enclosing import Optimum, optimum_at

__all__ = ["MOST_ENTROPY", "Tied", "spread_tokens"]

MOST_ENTROPY = 36.0
"""Prompts of more than e^36 = 4e15 tokens are not built."""
_TOLERANCE = 1e-6
"""What the pieces may give away of the floor, relative."""
_MOST_PIECES = 1000


@dataclass(frozen=True, eq=False)
class Tied:
    """One head's problem: masses scaled by e^-shift, g, z (examples, d_out), an orthonormal basis of O's range, c (d_out,)."""

    mass: Float[np.ndarray, " examples"]
    shift: float
    g: Float[np.ndarray, "examples d_out"]
    z: Float[np.ndarray, "examples d_out"]
    basis: Float[np.ndarray, "d_out rank"]
    c: Float[np.ndarray, " d_out"]

    def share(self, theta: float) -> float:
        """t/(t + mean Z) at ln t = theta."""
        return 1 / (1 + float(self.mass.mean()) * math.exp(min(self.shift - theta, 600.0)))

    def at(self, theta: float) -> Optimum:
        """The constrained optimum for one t; -inf: none, inf: prompts alone."""
        if theta == math.inf:
            return optimum_at(1.0, self.mass, self.g, self.z, self.basis)
        share = 0.0 if theta == -math.inf else self.share(theta)
        return optimum_at(share, self.mass, self.g, self.z, self.basis, (self.c, share * theta if share > 0 else 0.0))

    def entropy(self, theta: float, found: Optimum) -> float:
        """ln t - <kappa, p>, of the prompt that an optimum asks for."""
        return theta - float(self.c @ found.b) / found.share

    def built(self, theta: float) -> Optimum:
        """The optimum for one t that a prompt of at most e^36 tokens reaches: <kappa, p> >= ln t - 36 too."""
        found = self.at(theta)
        if self.entropy(theta, found) <= MOST_ENTROPY:
            return found
        share = self.share(theta)
        half = (-self.c, -share * (theta - MOST_ENTROPY))
        return optimum_at(share, self.mass, self.g, self.z, self.basis, half)

    def best(self, solve: Callable[[float], Optimum]) -> tuple[float, Optimum]:
        """(ln t, optimum), the least over t of `at` or `built`: a scan, then a local search.

        Prompts that drown the examples are tied by <c, a> <= ln t alone, so the scan goes on to where the best of them is allowed.
        """
        middle = self.shift + math.log(float(self.mass.mean()))
        end = min(max(float(self.c @ self.at(math.inf).b), middle + 16) + 4, middle + 300)
        grid = np.concatenate([middle + np.linspace(-16.0, 16.0, 49), np.arange(middle + 17, end, 2.0)])
        found = [solve(float(theta)) for theta in grid]
        k = int(np.argmin([f.value for f in found]))
        ends = (float(grid[max(k - 1, 0)]), float(grid[min(k + 1, len(grid) - 1)]))
        inner: Any = minimize_scalar(
            lambda theta: solve(float(theta)).value, bounds=ends, method="bounded", options={"xatol": 1e-9}
        )
        theta = float(inner.x)
        last = solve(theta)
        return (theta, last) if last.value <= found[k].value else (float(grid[k]), found[k])

    def pieces(self, best: Optimum) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(duals, multipliers, knots) that prove value (1 - tolerance) for every t, as far as they go: from t = 0 on, each piece reaches as far as
        its dual vectors carry it, and the next one is centred as far ahead as it can be."""
        goal = best.value * (1 - _TOLERANCE)
        first, last = self.at(-math.inf), self.at(math.inf)
        duals, nus, knots = [first.duals], [first.multiplier], []
        start = self.shift + math.log(float(self.mass.mean())) - 40.0
        at = self._reach(first, start, goal) if self._margin(first, start, goal) >= 0 else start
        while len(knots) < _MOST_PIECES:
            if self._margin(last, at, goal, tail=True) >= 0:
                break
            step = 4.0
            piece = self.at(at + step)
            while self._margin(piece, at, goal) < 0 and step > 1e-6:
                step /= 2
                piece = self.at(at + step)
            if step <= 1e-6:
                break  # the kernel then says what is proved
            knots.append(at)
            duals.append(piece.duals)
            nus.append(piece.multiplier)
            at = self._reach(piece, at + step, goal)
        return np.stack([*duals, last.duals]), np.array([*nus, 0.0]), np.array([*knots, at])

    def _margin(self, piece: Optimum, theta: float, goal: float, tail: bool = False) -> float:
        """N - goal D of a piece's dual vectors at ln t = theta."""
        w, t = piece.duals, math.exp(min(theta - self.shift, 600.0))
        size = np.linalg.norm(w, axis=1)
        at_zero = self.mass @ ((w * self.g).sum(axis=1) - goal * size)
        slope = -(w * self.z).sum() - goal * size.sum()
        margin = at_zero + t * (slope - (0.0 if tail else piece.multiplier * theta))
        return min(margin, slope) if tail else margin

    def _reach(self, piece: Optimum, theta: float, goal: float) -> float:
        """How far to the right of theta the piece carries (N - goal D is concave in t)."""
        step, high = 0.5, theta
        while self._margin(piece, high + step, goal) >= 0 and step < 64:
            high, step = high + step, step * 2
        low = 0.0
        for _ in range(30):
            low, step = (
                (low + step / 2, step / 2) if self._margin(piece, high + low + step / 2, goal) >= 0 else (low, step / 2)
            )
        return high + low


def spread_tokens(
    kappa: Float[np.ndarray, " d"], mean: Float[np.ndarray, " d"], theta: float
) -> tuple[Float[np.ndarray, "distinct d"], Float[np.ndarray, " distinct"]]:
    """(tokens, counts) of a prompt with softmax mass e^theta and mean token `mean`: of the entropy h = theta - <kappa, mean> >= 0 it takes ceil(e^h) tokens,
    all equal but one."""
    entropy = min(max(theta - float(kappa @ mean), 0.0), MOST_ENTROPY)
    total = max(1, math.ceil(math.exp(entropy) * (1 - 1e-12)))
    weights, counts = np.ones(1), np.ones(1)
    if total > 1:

        def excess(first: float) -> float:
            rest = (1 - first) / (total - 1)
            return -float(xlogy(first, first)) - (total - 1) * float(xlogy(rest, rest)) - entropy

        even = 1 / total
        first = (
            even
            if excess(even) <= 0
            else float(root_scalar(excess, bracket=(even, 1.0), method="brentq", xtol=1e-18, rtol=1e-15).root)
        )
        weights, counts = np.array([first, (1 - first) / (total - 1)]), np.array([1.0, total - 1.0])
    logits = theta + np.log(weights)
    return mean + np.outer(logits - kappa @ mean, kappa) / (kappa @ kappa), counts
