"""Two inputs, one target: how well any bounded prefix can fit both."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from constructions.stated_html import Carded
from verify.certificate import downward
from verify.invertible import InvertibleFloor
from verify.invertible_model import ResidualModel
from verify.statement import Verdict
from verify.statement_file import Stated, save_statement

__all__ = ["SharedTargetFloor", "shared_target_floor"]


@dataclass(frozen=True, eq=False, repr=False)
class SharedTargetFloor(Carded):
    """floor: no prefix within the radius and no target bring both answers nearer than this (proved; 0 where nothing is)."""

    floor: float
    statement: InvertibleFloor
    verdict: Verdict

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write statement and verdict."""
        return save_statement(path, Stated(self.statement, self.verdict))

    def __repr__(self) -> str:
        head = f"<SharedTargetFloor {self.verdict.status}: "
        if self.floor > 0:
            return (
                head
                + f"error >= {downward(self.floor, 6)} for every prefix within {self.statement.prefix_radius:.4g} and every target>"
            )
        return head + f"no floor above 0; {self.verdict.reason}>"


def shared_target_floor(
    model: ResidualModel,
    first: Float[np.ndarray, "T d"],
    second: Float[np.ndarray, "T d"],
    prefix_radius: float,
    *,
    seconds: float = math.inf,
) -> SharedTargetFloor:
    """The largest floor the kernel proves for max(|tau(first) - Y|, |tau(second) - Y|) over all Y and all prefixes within `prefix_radius`.

    The balls are the smallest around the origin that hold both inputs. Where a block is not known to contract, the verdict is undecided and names it.
    Raises StatementError (a ValueError) for shapes that do not fit.
    """
    if np.shape(first) != np.shape(second):
        raise ValueError(
            f"first, second: shapes {np.shape(first)} and {np.shape(second)}, expected the same: sequences of one length"
        )
    inputs = np.stack([first, second])
    smallest = np.nextafter(0.0, 1.0)  # any floor above 0: says why there is none, where there is none
    verdict = InvertibleFloor(model, inputs, prefix_radius, float(smallest)).decide(seconds=seconds)
    statement = InvertibleFloor(model, inputs, prefix_radius, verdict.lower if verdict.proved else float(smallest))
    return SharedTargetFloor(verdict.lower if verdict.proved else 0.0, statement, verdict)
