"""What `prompt_floor` and `unmemorable` return: the floor, between two proved numbers, with the prompt that comes down to it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from constructions.stated_html import Carded
from constructions.wang2023.floor.forward import errors
from verify import Stated, Verdict, save_statement
from verify.certificate import downward, upward
from verify.prompt_floor import AttentionLayer, PromptFloorStatement

__all__ = ["PromptFloor"]

_MOST_ROWS = 2**20


@dataclass(frozen=True, eq=False)
class PromptFloor(Carded):
    """statement: for every prompt of every length the error is at least its floor; verdict: the kernel's; notes: of the construction, believed by nobody."""

    statement: PromptFloorStatement
    verdict: Verdict
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def floor(self) -> tuple[float, float]:
        """Proved bounds (lower, upper) of inf over prompts of max_i |layer(prompt, X_i)_last - y_i|: the dual's, and the built prompt's."""
        return self.verdict.lower, self.verdict.upper

    @property
    def gap(self) -> float:
        """(upper - lower) / upper; 0 if both are 0."""
        lower, upper = self.floor
        return (upper - lower) / upper if upper > 0 else 0.0

    @property
    def layer(self) -> AttentionLayer:
        """The frozen weights."""
        return self.statement.layer

    @property
    def examples(self) -> tuple[np.ndarray, ...]:
        """Sequences (tokens_i, d) with one last token."""
        return self.statement.examples

    @property
    def targets(self) -> Float[np.ndarray, "examples d_out"]:
        """What the last token's outputs should be."""
        return self.statement.targets

    @property
    def tokens(self) -> tuple[Float[np.ndarray, "distinct d"], Float[np.ndarray, " distinct"]]:
        """The prompt built: its distinct tokens, and how often each occurs."""
        found, counts = self.statement.hints.prompt, self.statement.hints.counts
        if found is None:
            return np.zeros((0, self.layer.width)), np.zeros(0)
        return found, np.ones(len(found)) if counts is None else counts

    @property
    def length(self) -> int:
        """Tokens of the prompt built."""
        return int(self.tokens[1].sum())

    @property
    def prompt(self) -> Float[np.ndarray, "tokens d"]:
        """The prompt built, token by token. Raises ValueError where an infimum takes more than 2^20 of them: see `tokens`."""
        distinct, counts = self.tokens
        if self.length > _MOST_ROWS:
            raise ValueError(
                f"prompt: {self.length} tokens do not fit into an array; `tokens` gives the distinct ones with their numbers."
            )
        return np.repeat(distinct, counts.astype(int), axis=0)

    def error(self, prompt: Float[np.ndarray, "tokens d"]) -> float:
        """max_i |layer(prompt, X_i)_last - y_i| of any prompt, in plain float64."""
        return float(errors(self.layer, np.asarray(prompt, dtype=np.float64), self.examples, self.targets).max())

    def save(self, path: str | os.PathLike[str]) -> Path:
        """One file, which `verify.check_statement` proves again from its numbers alone."""
        return save_statement(path, Stated(self.statement, self.verdict, dict(self.notes)))

    def __repr__(self) -> str:
        lower, upper = self.floor
        shape = f"d = {self.layer.width}, heads = {self.layer.heads}, d_v = {self.layer.value_width}, {len(self.examples)} examples"
        bounds = f"{downward(lower, 7)} <= floor <= {upward(upper, 7)}"
        reason = f"; {self.verdict.reason}" if self.verdict.reason else ""
        apart = f"gap {upward(self.gap, 2)}" if lower > 0 else "no floor above 0 is proved"
        return f"<PromptFloor {self.verdict.status}: {bounds} ({apart}), attained by {self.length} token{'' if self.length == 1 else 's'}; {shape}{reason}>"
