"""The preimage of a sequence, block by block from the last: x <- y - F(x), and a bound of what is left."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from constructions.stated_html import Carded
from constructions.wang2023.invertible.model import added, prefix_of_blocks
from verify.certificate import upward
from verify.invertible_lipschitz import stack_bounds
from verify.invertible_model import ResidualModel
from verify.invertible_preimage import Preimage
from verify.statement import Verdict
from verify.statement_file import Stated, save_statement

__all__ = ["Inverse", "inverse"]


@dataclass(frozen=True, eq=False, repr=False)
class Inverse(Carded):
    """sequence: what the model maps to the output, within `error` (proved; inf where it is not); iterations: in total."""

    sequence: Float[np.ndarray, "T d"]
    error: float
    iterations: int
    statement: Preimage
    verdict: Verdict

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the statement with the block states and its verdict."""
        return save_statement(path, Stated(self.statement, self.verdict))

    def __repr__(self) -> str:
        if self.verdict.proved:
            return f"<Inverse proved: the only preimage in the ball of radius {self.statement.radius:.4g} is within {upward(self.error)}; {self.iterations} iterations>"
        return f"<Inverse {self.verdict.status}: {self.verdict.reason}>"


def inverse(
    model: ResidualModel,
    output: Float[np.ndarray, "T d"],
    radius: float,
    *,
    prefixes: Sequence[Float[np.ndarray, "N d"]] | None = None,
    most: int = 2000,
    seconds: float = math.inf,
) -> Inverse:
    """The sequence of tokens of norm at most `radius` that the model with these prefixes maps to `output`, by Banach iteration.

    Tokens that leave the ball on which a block contracts are drawn back to its surface: that is a contraction too, and keeps the iteration where
    the bound holds. It stops where float64 gains nothing more. Raises StatementError (a ValueError) for shapes that do not fit.
    """
    by_block = prefix_of_blocks(model, prefixes)
    empty = [np.zeros((0, model.dimension))] * len([p for p in by_block if p is not None])
    shell = Preimage(
        model, radius, tuple(prefixes or empty), output, np.zeros((len(model.blocks), *np.shape(output))), 0.0
    )
    bounds = stack_bounds(model, shell.radius, shell.prefix_radius)
    y, states, total = np.array(shell.output), [], 0
    for k in reversed(range(len(model.blocks))):
        largest = bounds[k].radius if k < len(bounds) else math.inf
        x, count = _solved(lambda x, k=k, y=y: y - added(model.blocks[k], x, by_block[k]), y, largest, most)
        total += count
        states.append(x)
        y = x
    states = np.array(states[::-1])
    reached = Preimage(model, shell.radius, shell.prefixes, shell.output, states, 0.0).decide(seconds=seconds)
    if not reached.upper < math.inf:
        return Inverse(
            states[0],
            math.inf,
            total,
            Preimage(model, shell.radius, shell.prefixes, shell.output, states, 0.0),
            reached,
        )
    statement = Preimage(model, shell.radius, shell.prefixes, shell.output, states, reached.upper)
    return Inverse(states[0], reached.upper, total, statement, statement.decide(seconds=seconds))


def _solved(step, start: Float[np.ndarray, "T d"], radius: float, most: int) -> tuple[Float[np.ndarray, "T d"], int]:
    """Iterate until the change is no longer halved within ten steps, or is zero."""

    def inside(x: Float[np.ndarray, "T d"]) -> Float[np.ndarray, "T d"]:
        norms = np.linalg.norm(x, axis=1, keepdims=True)
        return x * np.minimum(1.0, radius / np.maximum(norms, 1e-300)) if math.isfinite(radius) else x

    x, best, since = inside(start), math.inf, 0
    for count in range(1, most + 1):
        after = inside(step(x))
        change = float(np.abs(after - x).max())
        x = after
        since = 0 if change < 0.999 * best else since + 1
        best = min(best, change)
        if change == 0 or since >= 10 or not math.isfinite(change):
            return x, count
    return x, most
