"""Trainable numbers and errors on both sides, as the number of examples grows.

A rank-r update of a matrix of d_k rows and d columns costs r (d_k + d) numbers, whatever n; a prompt of N tokens costs N d, and N < n leaves an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from constructions.progress import reporting
from constructions.wang2023.lora.dataset import LoraDataset, generated_dataset
from constructions.wang2023.lora.floor import ShortPromptFloor, short_prompt_floor
from constructions.wang2023.lora.layer import random_head
from constructions.wang2023.lora.tuned import tuned_prompt
from verify.certificate import downward, upward

__all__ = ["ParametersRow", "parameters_table"]


@dataclass(frozen=True, eq=False, repr=False)
class ParametersRow:
    """n examples in dimension d. dataset: with the update that memorises them; floors: for prompts of 0 to n tokens, or those asked for; tuned: by the
    number of tokens the least error that training found (sampled)."""

    n: int
    d: int
    dataset: LoraDataset
    floors: tuple[ShortPromptFloor, ...]
    tuned: tuple[tuple[int, float], ...] = ()

    @property
    def update_numbers(self) -> int:
        """Trainable numbers of the update."""
        return self.dataset.update.numbers

    @property
    def update_error(self) -> float:
        """Its error, proved."""
        return self.dataset.verdict.upper

    @property
    def enough_tokens(self) -> int:
        """The fewest tokens listed whose floor is 0: no fewer memorise the examples."""
        return next((f.tokens for f in self.floors if f.floor == 0), self.n)

    def prompt_numbers(self, tokens: int) -> int:
        """Trainable numbers of a prompt of so many tokens of the stream's dimension."""
        return tokens * self.d

    def __repr__(self) -> str:
        last = max((f for f in self.floors if f.floor > 0), key=lambda f: f.tokens, default=None)
        words = (
            f"; {last.tokens} token{'' if last.tokens == 1 else 's'} ({self.prompt_numbers(last.tokens)} numbers) >= {downward(last.floor, 4)} (proved)"
            if last
            else ""
        )
        return (
            f"<ParametersRow n = {self.n}, d = {self.d}: update {self.update_numbers} numbers, error <= {upward(self.update_error)} (proved){words}; "
            f"{self.enough_tokens} tokens need {self.prompt_numbers(self.enough_tokens)} numbers>"
        )


def parameters_table(
    ns: Sequence[int],
    *,
    d: int | None = None,
    tokens: Sequence[int] | None = None,
    update: str = "keys",
    strength: float = 4.0,
    seed: int = 0,
    tune: bool = False,
    progress: bool | None = None,
) -> tuple[ParametersRow, ...]:
    """One row for each n, on random layers. d: dimension of the stream (3n each if None); tokens: lengths of prompts (0 to n if None; those above n are left out);
    tune: also train prompts (seconds for each). Raises StatementError (a ValueError) as `generated_dataset` does, for d < 3n too."""
    rows = []
    with reporting(progress) as report:
        for k, n in enumerate(ns):
            report(k / len(ns), f"{n} examples")
            width = 3 * n if d is None else d
            dataset = generated_dataset(random_head(width, seed=seed), n, update=update, strength=strength, seed=seed)
            lengths = range(n + 1) if tokens is None else sorted({t for t in tokens if t <= n})
            floors = tuple(short_prompt_floor(dataset, t) for t in lengths)
            tuned = tuple((t, tuned_prompt(dataset.task, t, seed=seed)[1]) for t in lengths if t > 0) if tune else ()
            rows.append(ParametersRow(n, width, dataset, floors, tuned))
    return tuple(rows)
