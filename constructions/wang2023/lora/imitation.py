"""Why an update of the values gives no floor that lasts: one token whose value is large enough imitates it as closely as wanted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from constructions.stated_html import Carded
from constructions.wang2023.lora.dataset import LoraDataset
from constructions.wang2023.lora.prompts import one_token
from verify.certificate import upward
from verify.lora_error import LayerError
from verify.statement import Verdict
from verify.statement_file import Stated, save_statement

__all__ = ["Imitation", "imitations"]


@dataclass(frozen=True, eq=False, repr=False)
class Imitation(Carded):
    """One token with a value of length `size` has at most this error (proved by running the layer)."""

    size: float
    error: float
    statement: LayerError
    verdict: Verdict

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the statement with its prompt."""
        return save_statement(path, Stated(self.statement, self.verdict))

    def __repr__(self) -> str:
        return f"<Imitation {self.verdict.status}: one token of value {self.size:.3g} has error <= {upward(self.error, 4)}>"


def imitations(
    dataset: LoraDataset, masses: Sequence[float] = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
) -> tuple[Imitation, ...]:
    """The error of one token against the size of its value, for a dataset that an update of the values generates. The error falls like mass, which is the inverse of the value's size.

    Raises StatementError (a ValueError) where the targets do not all move along one ray: an update of keys or queries cannot be imitated so.
    """
    found = []
    for mass in masses:
        prompt = one_token(dataset.task, mass)
        upper = LayerError(dataset.task, 0.0, prompt=prompt).decide().upper
        statement = LayerError(dataset.task, upper, prompt=prompt)
        found.append(Imitation(float(np.linalg.norm(prompt.values)), upper, statement, statement.decide()))
    return tuple(found)
