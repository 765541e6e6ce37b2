"""Whether a given model is invertible on a ball: proved, or not decided and by which block."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from constructions.stated_html import Carded
from verify.certificate import downward, upward
from verify.invertible import Invertible
from verify.invertible_lipschitz import BlockBound, stack_bounds
from verify.invertible_model import ResidualModel
from verify.statement import Verdict
from verify.statement_file import Stated, save_statement

__all__ = ["Invertibility", "invertibility"]


@dataclass(frozen=True, eq=False, repr=False)
class Invertibility(Carded):
    """The verdict for a model on the ball of `radius`, prefixes within `prefix_radius`. bounds: block by block, for models that are not invertible too."""

    model: ResidualModel
    radius: float
    prefix_radius: float
    bounds: tuple[BlockBound, ...]
    statement: Invertible
    verdict: Verdict

    @property
    def proved(self) -> bool:
        """Whether the model is proved invertible there."""
        return self.verdict.proved

    @property
    def least_slope(self) -> float:
        """|tau(X) - tau(X')| >= least_slope |X - X'|, proved; 0 where nothing is."""
        return self.verdict.lower

    @property
    def table(self) -> str:
        """A line for each block: its radius and Lipschitz constant."""
        lines = [
            f"{self.model.block_name(k)}: radius {upward(b.radius, 4)}, Lipschitz constant <= {upward(b.lipschitz, 4)}"
            for k, b in enumerate(self.bounds)
        ]
        return "\n".join(lines)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write statement and verdict."""
        return save_statement(path, Stated(self.statement, self.verdict))

    def __repr__(self) -> str:
        where = f"on the ball of radius {self.radius:.4g}, prefixes within {self.prefix_radius:.4g}"
        if self.proved:
            return f"<Invertibility proved {where}: |tau(X) - tau(X')| >= {downward(self.least_slope, 4)} |X - X'|>"
        return f"<Invertibility {self.verdict.status} {where}: {self.verdict.reason}>"


def invertibility(
    model: ResidualModel, radius: float, prefix_radius: float, *, seconds: float = math.inf
) -> Invertibility:
    """Decide whether the model is invertible on sequences of tokens of norm at most `radius`, under every prefix of tokens of norm at most `prefix_radius`.

    Raises StatementError (a ValueError) for a radius that is not positive and finite.
    """
    statement = Invertible(model, radius, prefix_radius)
    verdict = statement.decide(seconds=seconds)
    return Invertibility(
        model, radius, prefix_radius, tuple(stack_bounds(model, radius, prefix_radius)), statement, verdict
    )
