"""The error of one attention layer on its examples, with a low-rank update, a prompt, both or neither: an upper bound proved by running it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from verify.certificate import Status, upward
from verify.lora_run import BITS, AttentionTask, LowRank, OutOfTime, Prompt, run, squared_errors
from verify.precision import arb_bounds, working_precision
from verify.statement import Statement, Verdict
from verify.stored_arrays import stored_number

__all__ = ["LayerError"]


@dataclass(frozen=True, eq=False)
class LayerError(Statement):
    """max_i |output_i - target_i| <= bound for the layer with `update` and `prompt`. Raises StatementError for shapes that do not fit."""

    task: AttentionTask
    bound: float
    update: LowRank | None = None
    prompt: Prompt | None = None

    kind: ClassVar[str] = "layer-error"

    def __post_init__(self) -> None:
        object.__setattr__(self, "bound", stored_number("bound", self.bound, least=0.0))
        if self.update is not None:
            object.__setattr__(self, "update", self.update.fitted(self.task))
        if self.prompt is not None:
            object.__setattr__(self, "prompt", self.prompt.fitted(self.task))

    @property
    def sentence(self) -> str:
        parts = []
        if self.update is not None:
            parts.append(f"a rank-{self.update.rank} update of the {self.update.to}")
        if self.prompt is not None:
            parts.append(f"a prompt of {self.prompt.tokens} tokens")
        subject = " and ".join(parts) or "the layer as it is"
        return f"{subject} fits {self.task.examples} examples within {upward(self.bound, 6)}"

    @property
    def quantity(self) -> str:
        return "max_i |output_i - target_i| (Euclidean)"

    def decide(self, *, seconds: float = math.inf) -> Verdict:
        """Both ends of the error, from one run in ball arithmetic."""
        with working_precision(BITS):
            try:
                squares = squared_errors(run(self.task, self.update, self.prompt, time.monotonic() + seconds))
            except OutOfTime:
                reason = f"out of time after {seconds:g} s; allow more seconds"
                return Verdict(Status.UNDECIDED, 0.0, math.inf, reason=reason)
            bounds = [arb_bounds(square) for square in squares]
        if not all(math.isfinite(low) and math.isfinite(high) for low, high in bounds):
            place = next(i for i, pair in enumerate(bounds) if not all(map(math.isfinite, pair)))
            reason = f"the output of example {place} leaves the range of numbers that can be enclosed; use smaller weights or keys"
            return Verdict(Status.UNDECIDED, 0.0, math.inf, reason=reason)
        lower = math.nextafter(math.sqrt(max(max(low for low, _ in bounds), 0.0)), -math.inf)
        lower, upper = max(lower, 0.0), math.nextafter(math.sqrt(max(high for _, high in bounds)), math.inf)
        route = "one run of the layer in ball arithmetic"
        if upper <= self.bound:
            return Verdict(Status.PROVED, lower, upper, route)
        if lower > self.bound:
            return Verdict(Status.REFUTED, lower, upper, route, f"some error is at least {lower!r}")
        return Verdict(
            Status.UNDECIDED, lower, upper, route, "the bound lies within the enclosure; state a little more"
        )

    def to_json(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        arrays = self.task.arrays()
        data: dict[str, Any] = {"bound": self.bound.hex()}
        if self.update is not None:
            data["to"] = self.update.to
            arrays |= {"up": self.update.up, "down": self.update.down}
        if self.prompt is not None:
            arrays |= {"prompt_keys": self.prompt.keys, "prompt_values": self.prompt.values}
        return data, arrays

    @classmethod
    def from_json(cls, data: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> LayerError:
        update = LowRank(data["to"], arrays["up"], arrays["down"]) if "to" in data else None
        prompt = Prompt(arrays["prompt_keys"], arrays["prompt_values"]) if "prompt_keys" in arrays else None
        return cls(AttentionTask.of(arrays), float.fromhex(data["bound"]), update, prompt)
