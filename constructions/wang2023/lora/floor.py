"""The certified floor of the error over all prompts of N tokens, and the prompt that comes as near to it as wanted."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from constructions.stated_html import Carded
from constructions.wang2023.lora.dataset import LoraDataset
from constructions.wang2023.lora.prompts import best_prompt
from verify.certificate import downward, upward
from verify.lora_floor import LoraFloor
from verify.lora_run import AttentionTask, Prompt
from verify.statement import Verdict
from verify.statement_file import Stated, save_statement

__all__ = ["ShortPromptFloor", "short_prompt_floor"]


@dataclass(frozen=True, eq=False, repr=False)
class ShortPromptFloor(Carded):
    """floor <= max_i |error_i| for every prompt of `tokens` tokens (proved); attained: the error of `prompt` (proved, by running the layer)."""

    tokens: int
    floor: float
    attained: float
    prompt: Prompt | None
    statement: LoraFloor
    verdict: Verdict

    @property
    def gap(self) -> float:
        """attained / floor - 1; inf without a floor."""
        return self.attained / self.floor - 1 if self.floor > 0 else math.inf

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write statement, prompt and verdict."""
        return save_statement(path, Stated(self.statement, self.verdict))

    def __repr__(self) -> str:
        head = f"<ShortPromptFloor {self.tokens} token{'' if self.tokens == 1 else 's'}, {self.verdict.status}: {downward(self.floor, 6)} <= error of every prompt"
        return head + (f", one prompt reaches {upward(self.attained, 6)}>" if self.attained < math.inf else ">")


def short_prompt_floor(
    dataset: LoraDataset | AttentionTask, tokens: int, *, prompt: Prompt | None = None, seconds: float = math.inf
) -> ShortPromptFloor:
    """The largest floor that the kernel proves for prompts of `tokens` tokens, as a statement, with a prompt that shows the other side.

    prompt: the one to show; None constructs the best one known (`prompts.best_prompt`). Raises StatementError for a negative number of tokens.
    """
    task = dataset.task if isinstance(dataset, LoraDataset) else dataset
    shown = best_prompt(task, tokens) if prompt is None and tokens > 0 else prompt
    first = LoraFloor(task, tokens, 0.0, shown)
    verdict = first.decide(seconds=seconds)
    # what was just proved is the statement: deciding it again would give the same bounds
    statement = LoraFloor(task, tokens, verdict.lower, first.prompt)
    return ShortPromptFloor(tokens, verdict.lower, verdict.upper, first.prompt, statement, verdict)
