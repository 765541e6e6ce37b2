"""What a construction hands over: the arrays of one head, and why it should work. Nothing here is believed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

__all__ = ["Proposal", "Term"]


@dataclass(frozen=True)
class Term:
    """One term of an a-priori error budget: its value, the inequality it comes from and the source of that."""

    name: str
    value: float
    inequality: str
    source: str


@dataclass(frozen=True, eq=False)
class Proposal:
    """A head with logits s_j(x) = <slopes_j, x> + biases_j and values v_j, proposed for a target.

    slopes: (tokens, n); biases: (tokens,); values: (tokens, k), all float64.
    method: the construction's name, as `compile_prefix(method=...)` takes it.
    grid: the discretisation it was built on (keys, spacing, covering radius, ...), for `c.grid`.
    terms: the a-priori error budget; empty where the construction is numerical (minimax).
    error_estimate: sampled sup error, never a bound.
    """

    slopes: Float[np.ndarray, "tokens n"]
    biases: Float[np.ndarray, " tokens"]
    values: Float[np.ndarray, "tokens k"]
    method: str
    grid: Mapping[str, Any] = field(default_factory=dict)
    terms: tuple[Term, ...] = ()
    error_estimate: float = float("nan")

    @property
    def length(self) -> int:
        """Number of prefix tokens."""
        return len(self.biases)
