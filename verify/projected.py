"""Queries, keys and values of every token in a first layer, what a float32 run may miss of them, and the logits they can have with one another.

A first layer is enumerated in *views*: the queries of all tokens at some positions. Where positions are rotations one view holds all of them; where a
position is added to the embedding each is a view of its own.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import flint
import numpy as np
from jaxtyping import Float, Int

from verify.precision import working_precision
from verify.statement import StatementError

__all__ = ["MOST_WIDTH", "SINGLE", "TINY", "EnumeratedLayer", "OutOfSeconds", "Projected", "View", "data_logits", "rotations", "single_array", "still", "turned_back"]  # fmt: skip

SINGLE = 2.0**-24
"""Unit round-off of float32."""
TINY = 2.0**-126
"""The smallest normal number of float32: what is below, operands included, may be lost."""
MOST_WIDTH = 4096
"""Coordinates of a query: the errors of float64's inner products are bounded for so many."""

_INFLATE = 1 + 1e-6
_FLOAT64 = 1e-6  # of a bound on float32's errors bounds those of float64: see the layers


class OutOfSeconds(Exception):
    """The time allowed is over; nothing is decided."""


def still(deadline: float) -> None:
    """Raise OutOfSeconds past the deadline (`time.monotonic`)."""
    if time.monotonic() > deadline:
        raise OutOfSeconds


def single_array(name: str, x: np.ndarray, shape: tuple[int, ...], most: float) -> Float[np.ndarray, ...]:
    """The same float32 numbers in memory that nothing can write to: a layer is hashed once, and what is hashed must be what is proved about.

    What is such memory already is not copied again. Raises StatementError for another shape or type, no numbers, or some above `most` or not finite.
    """
    if not isinstance(x, np.ndarray) or x.shape != shape or x.dtype != np.float32 or not x.size:
        found = f"shape {x.shape}, {x.dtype}" if isinstance(x, np.ndarray) else type(x).__name__
        raise StatementError(f"{name}: {found}; expected shape {shape} with at least one number, float32")
    if not (x.min() >= -most and x.max() <= most):
        raise StatementError(f"{name}: a number is not finite or above {most:g}")
    if isinstance(x.base, bytes) and x.flags.c_contiguous:
        return x
    return np.ndarray(shape, np.float32, buffer=x.tobytes())


@dataclass(frozen=True, eq=False)
class Projected:
    """Queries, keys or values of every token, before a rotation, and what a float32 run may miss of them.

    exact: (tokens, width), float64; the run has exact + a (exact - centre) + b along + c with |a| <= factor, |b| <= shift, (tokens,) each, and |c| <= free,
    (tokens, width): the error of a norm is common to all coordinates, and moves logits by little where it moves coordinates by much. centre, along: (width,).
    exact itself is real + a (exact - centre) + b along + c with 1e-6 of these bounds: float64 rounds, too, and where W x cancels all its digits may be wrong.
    """

    exact: Float[np.ndarray, "tokens width"]
    free: Float[np.ndarray, "tokens width"]
    factor: Float[np.ndarray, " tokens"]
    shift: Float[np.ndarray, " tokens"]
    centre: Float[np.ndarray, " width"]
    along: Float[np.ndarray, " width"]

    @cached_property
    def error(self) -> Float[np.ndarray, "tokens width"]:
        """Above what the run may miss of each coordinate."""
        common = self.factor[:, None] * np.abs(self.exact - self.centre)
        return (self.free + common + self.shift[:, None] * np.abs(self.along)) * _INFLATE

    def missed(self, rows: Int[np.ndarray, " m"], vectors: Float[np.ndarray, "n width"]) -> Float[np.ndarray, "m n"]:
        """Above what the run may miss of the inner products of these rows with vectors, as real numbers."""
        near = self.free[rows] @ np.abs(vectors).T
        near += self.factor[rows, None] * np.abs((self.exact[rows] - self.centre) @ vectors.T)
        return (near + self.shift[rows, None] * np.abs(vectors @ self.along)) * _INFLATE

    def uncertain(self, rows: Int[np.ndarray, " m"], vectors: Float[np.ndarray, "n width"]) -> Float[np.ndarray, "m n"]:
        """Above what the inner products of these rows of `exact` with vectors are off from those of the real numbers."""
        return _FLOAT64 * self.missed(rows, vectors)

    @property
    def largest(self) -> Float[np.ndarray, "tokens width"]:
        """Above the absolute value of each coordinate as computed."""
        return np.abs(self.exact) + self.error

    def norms(self) -> Float[np.ndarray, " tokens"]:
        """Above the length of each token's vector as computed."""
        return np.linalg.norm(self.largest, axis=1) * _INFLATE

    def pair_norms(self) -> Float[np.ndarray, "tokens pairs"]:
        """Above the length of each rotated pair (coordinates i and i + width/2) as computed, whatever the position."""
        half = self.exact.shape[1] // 2
        a = self.largest
        return np.hypot(a[:, :half], a[:, half:]) * _INFLATE


@dataclass(frozen=True, eq=False)
class View:
    """Queries of every token, turned by some angles. queries: before the rotation; positions: of these queries, as many as there are rows of cosines and
    sines, (positions, width / 2)."""

    queries: Projected
    positions: range
    cosines: Float[np.ndarray, "positions pairs"]
    sines: Float[np.ndarray, "positions pairs"]


class EnumeratedLayer(ABC):
    """A first layer whose queries are a finite set."""

    heads: int
    frequencies: Float[np.ndarray, " pairs"]
    """Of the rotary embedding, float32; zeros where nothing is rotated."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Coordinates of a query, a key, a value."""

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """Tokens."""

    @property
    @abstractmethod
    def assumption(self) -> str:
        """The machine's model under which the rounding is bounded."""

    @cached_property
    def sha256(self) -> str:
        """Of every number that the layer's attention depends on: the layer that a statement is about."""
        raise NotImplementedError

    @abstractmethod
    def group(self, head: int) -> int:
        """The key and value head that a query head reads."""

    @abstractmethod
    def siblings(self, head: int) -> tuple[int, ...]:
        """The other query heads that read the same keys, and so see the same prefix."""

    @abstractmethod
    def fit(self, frequencies: Float[np.ndarray, " pairs"], positions: range) -> None:
        """Raises StatementError where the layer rotates by other frequencies, or has no such positions."""

    @abstractmethod
    def views(self, head: int, positions: range, deadline: float = math.inf) -> Iterator[View]:
        """All queries of a head. Raises OutOfSeconds."""

    @abstractmethod
    def largest_value(self, group: int, positions: range, deadline: float = math.inf) -> float:
        """Above every coordinate of every value. Raises OutOfSeconds."""

    @abstractmethod
    def data_logits(
        self, group: int, positions: range, deadline: float = math.inf
    ) -> Callable[[View], Float[np.ndarray, " tokens"]]:
        """For each token's queries of a view, above every executed logit with the key of any token at any position. Raises OutOfSeconds."""


def data_logits(queries: Projected, keys: Projected, deadline: float = math.inf) -> Float[np.ndarray, " tokens"]:
    """D_b: above every executed logit of token b's query with any token's key, at any two positions of a rotary embedding. Raises OutOfSeconds.

    The products are of non-negative float32 numbers, each rounded up: relative error below (pairs + 4) 2^-24. Keys come by decreasing length, and a query is
    done when its length times theirs (Cauchy-Schwarz) is no more than what it has already. What is lost below the normal range, here and in the run, is at
    most 2^-126 of each factor's partner and 2^-126 of each product.
    """
    width = queries.exact.shape[1]
    up = 1 + 4 * SINGLE
    a, b = ((p.pair_norms() * up).astype(np.float32) for p in (queries, keys))
    sizes, reach = (np.linalg.norm(x.astype(np.float64), axis=1) * _INFLATE for x in (a, b))
    order = np.argsort(-reach)
    b, reach = b[order], reach[order]
    largest = np.zeros(len(a))
    alive = np.arange(len(a))
    with np.errstate(all="ignore"):
        for start in range(0, len(b), 1024):
            alive = alive[~(sizes[alive] * reach[start] <= largest[alive])]
            chunk = b[start : start + 1024].T
            for first in range(0, len(alive), 4096):
                still(deadline)
                rows = alive[first : first + 4096]
                largest[rows] = np.maximum(largest[rows], (a[rows] @ chunk).max(axis=1))
    lost = 8 * width * TINY * (1 + float(sizes.max()) + float(reach.max()))
    return (largest * (1 + 2 * (width + 64) * SINGLE) + lost) / math.sqrt(width) * _INFLATE


def rotations(
    frequencies: Float[np.ndarray, " pairs"], positions: range, deadline: float = math.inf
) -> tuple[Float[np.ndarray, "positions pairs"], Float[np.ndarray, "positions pairs"]]:
    """Cosines and sines of the float32 numbers position x frequency, each within 2^-52. Raises OutOfSeconds."""
    angles = (np.array(positions, dtype=np.float32)[:, None] * frequencies.astype(np.float32)[None]).astype(np.float64)
    sines, cosines = np.empty(angles.shape), np.empty(angles.shape)
    with working_precision(80):
        for i, row in enumerate(angles.tolist()):
            still(deadline)
            both = [flint.arb(a).sin_cos() for a in row]
            sines[i], cosines[i] = ([float(x[k].mid()) for x in both] for k in (0, 1))
    return cosines, sines


def turned_back(
    vector: Float[np.ndarray, " width"], cosines: np.ndarray, sines: np.ndarray
) -> Float[np.ndarray, "positions width"]:
    """R_p^T k for every position p: <R_p q, k> = <q, R_p^T k>."""
    a, b = np.split(vector, 2)
    return np.concatenate([a * cosines + b * sines, b * cosines - a * sines], axis=1)
