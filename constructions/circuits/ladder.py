"""Ladders: for every number of tokens the smallest tolerance a head for one function reaches. Rungs are found when asked for.

What a ladder promises is sampled: the proof comes later, from the arrays alone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from constructions.circuits.head_cache import load, store
from constructions.circuits.rungs import Rung

__all__ = ["ENOUGH", "Ladder", "NodeHead", "Rungs"]


@dataclass(frozen=True, eq=False)
class NodeHead:
    """A head for one node: sum_j w_j(u) values_j approximates function(u) - <alpha, u> - beta on the box [lo, hi].

    slopes: (tokens, m), biases, values: (tokens,); lo, hi, alpha: (m,); alpha = 0 and beta = 0 unless the affine part was left out.
    error: sampled sup error over the box; rounding: estimated error of float64 evaluation.
    """

    slopes: np.ndarray
    biases: np.ndarray
    values: np.ndarray
    error: float
    lo: np.ndarray
    hi: np.ndarray
    alpha: np.ndarray
    beta: float
    rounding: float

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return len(self.biases)

    @property
    def size(self) -> float:
        """Largest |value|."""
        return float(np.abs(self.values).max())

    def evaluate(self, points: Float[np.ndarray, "batch m"]) -> Float[np.ndarray, " batch"]:
        """The head's outputs in plain float64, affine part not included."""
        logits = points @ self.slopes.T + self.biases
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return (weights @ self.values) / weights.sum(axis=1)


ENOUGH = 1e-11
"""Relative tolerance below which no better rung is looked for: rounding is near."""


class Rungs(ABC):
    """The rungs of one canonical problem, each found once: in memory, on disk (`folder`; None: not), or by a search.

    key: what they depend on; dimension: coordinates of the box; most: tokens beyond which no rung is looked for.
    """

    def __init__(self, key: str, dimension: int, most: int, folder: Path | None) -> None:
        self.key, self.dimension, self.most, self.folder = key, dimension, most, folder
        self._known: dict[int, Rung] = {}

    def rung(self, tokens: int) -> Rung:
        """The best rung with at most so many tokens; at most `most` are used. Tolerances decrease with tokens."""
        tokens = min(tokens, self.most)
        if tokens not in self._known:
            found = load(self.folder, self.key, tokens, self.dimension)
            if found is None:
                below = self.rung(tokens - 1) if tokens > 1 else None
                if below is not None and below.tolerance <= ENOUGH:
                    return below
                found = self.search(tokens, below)
                if below is not None and not found.tolerance < below.tolerance:
                    found = below
                store(self.folder, self.key, tokens, found)
            self._known[tokens] = found
        return self._known[tokens]

    @abstractmethod
    def search(self, tokens: int, below: Rung | None) -> Rung:
        """The best head found with exactly so many tokens, given the best with fewer."""


class Ladder(ABC):
    """Heads for one node. `most`: the number of tokens beyond which `error` does not decrease any more."""

    most: int

    @abstractmethod
    def error(self, tokens: int) -> float:
        """The smallest tolerance for which a head of at most so many tokens is known to be good enough; inf below 1 token.

        Sampled error and rounding take no more than their shares of it, so `head(error(tokens))` has at most `tokens`.
        """

    @abstractmethod
    def head(self, tolerance: float) -> NodeHead | None:
        """The shortest head for this tolerance, None if none is found."""

    def tokens(self, tolerance: float) -> int | None:
        """The length of the shortest head on the ladder for this tolerance, None beyond its end."""
        least = math.inf
        for tokens in range(1, self.most + 1):
            error = self.error(tokens)
            if error <= tolerance:
                return tokens
            if tokens % 20 == 0:
                # twenty tokens that gain nothing: the ladder has ended
                if not error < least:
                    return None
                least = error
        return None
