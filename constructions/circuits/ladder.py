"""Ladders: for every number of tokens the smallest tolerance a head for one function reaches. Rungs are found when asked for.

What a ladder promises is sampled: the proof comes later, from the arrays alone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Float

from constructions.circuits.arithmetic import FLOAT64, Arithmetic
from constructions.circuits.head_cache import load, store
from constructions.circuits.rungs import Rung

__all__ = ["Ladder", "NodeHead", "Rungs"]


@dataclass(frozen=True, eq=False)
class NodeHead:
    """A head for one node: sum_j w_j(u) values_j approximates function(u) - <alpha, u> - beta on the box [lo, hi].

    slopes: (tokens, m), biases, values: (tokens,); lo, hi, alpha: (m,); alpha = 0 and beta = 0 unless the affine part was left out.
    error: sampled sup error over the box; rounding: estimated error of evaluation in the arithmetic it is for.
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


_PATIENCE, _GAINED, _NEAR = 3, 0.7, 5000.0
"""In a format narrower than float64 a ladder ends where so many tokens more do not reach this factor, within so many units of round-off."""


class Rungs(ABC):
    """The rungs of one canonical problem, each found once: in memory, on disk (`folder`; None: not), or by a search.

    key: what they depend on beside the arithmetic they are for; dimension: coordinates of the box; most: tokens beyond which no rung is
    looked for.
    """

    def __init__(
        self, key: str, dimension: int, most: int, folder: Path | None, arithmetic: Arithmetic = FLOAT64
    ) -> None:
        self.key, self.dimension, self.most, self.folder = arithmetic.key(key), dimension, most, folder
        self.arithmetic = arithmetic
        self._known: dict[int, Rung] = {}

    def rung(self, tokens: int) -> Rung:
        """The best rung with at most so many tokens; at most `most` are used. Tolerances decrease with tokens."""
        tokens = min(tokens, self.most)
        if tokens not in self._known:
            found = load(self.folder, self.key, tokens, self.dimension, self.arithmetic)
            if found is None:
                below = self.rung(tokens - 1) if tokens > 1 else None
                if below is not None and (below.tolerance <= self.arithmetic.enough or self._stalled(below, tokens)):
                    return below
                found = self.search(tokens, below)
                if below is not None and not found.tolerance < below.tolerance:
                    found = below
                store(self.folder, self.key, tokens, found)
            self._known[tokens] = found
        return self._known[tokens]

    def _stalled(self, below: Rung, tokens: int) -> bool:
        """Whether rounding is all that is left: some last rungs gained little, and are near what rounding allows."""
        arithmetic, before = self.arithmetic, tokens - 1 - _PATIENCE
        if arithmetic.apart or before < 1 or below.tolerance > _NEAR * arithmetic.unit:
            return False
        return below.tolerance > _GAINED * self.rung(before).tolerance

    @abstractmethod
    def search(self, tokens: int, below: Rung | None) -> Rung:
        """The best head found with exactly so many tokens, given the best with fewer."""


class Ladder(ABC):
    """Heads for one node. `most`: the number of tokens beyond which `error` does not decrease any more."""

    most: int
    least: float = 0.0
    """What no rung is expected to fall below: `allocate` looks for none that would have to."""

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


_R = TypeVar("_R", bound=Rungs)


class PlacedLadder(Ladder, Generic[_R]):
    """Rungs of a canonical problem in the coordinates of one node.

    In float64 a rung's tolerance is scaled to the node. In a narrower format rounding weighs as much as the error and depends on the
    coordinates, so rungs are placed first and measured there.
    """

    def __init__(self, rungs: _R) -> None:
        self.rungs = rungs
        self._placed_best: list[tuple[float, NodeHead | None]] = [(math.inf, None)]

    @abstractmethod
    def scale(self) -> float:
        """From the rungs' tolerances to the node's."""

    @abstractmethod
    def placed(self, rung: Rung) -> NodeHead:
        """A rung in the node's coordinates; measured again as stored."""

    def tamed(self, rung: Rung, tolerance: float) -> Rung:
        """A rung with smaller values where a tolerance relative to the rungs' own allows them."""
        return rung

    def error(self, tokens: int) -> float:
        if tokens < 1:
            return math.inf
        if self.rungs.arithmetic.apart:
            scale = self.scale()
            return scale * self.rungs.rung(tokens).tolerance if scale else 0.0
        return self._best(tokens)[0]

    def head(self, tolerance: float) -> NodeHead | None:
        shortest = self.tokens(tolerance)
        if shortest is None:
            return None
        arithmetic, scale = self.rungs.arithmetic, self.scale()
        if not arithmetic.apart:
            return self._best(shortest)[1]
        for tokens in range(shortest, min(shortest + 3, self.most) + 1):
            rung = self.rungs.rung(tokens)
            head = self.placed(self.tamed(rung, tolerance / scale) if scale else rung)
            if arithmetic.serves(head.error, head.rounding, tolerance):
                return head
        return None

    def _best(self, tokens: int) -> tuple[float, NodeHead | None]:
        """The smallest tolerance of the placed rungs of at most so many tokens, and its head."""
        known = self._placed_best
        last: Rung | None = None
        while len(known) <= tokens:
            rung = self.rungs.rung(len(known))
            tolerance, head = known[-1]
            if rung is not last and np.isfinite(rung.tolerance):
                placed = self.placed(rung)
                reached = self.rungs.arithmetic.tolerance(placed.error, placed.rounding)
                if reached < tolerance:
                    tolerance, head = reached, placed
            last = rung
            known.append((tolerance, head))
        return known[tokens]
