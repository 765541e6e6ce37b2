"""Where things are in a token's stream of a circuit on sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from verify import Transformer

__all__ = ["SequenceSlots"]


@dataclass(frozen=True)
class SequenceSlots:
    """Own inputs (n), position (T), what is gathered, work, outputs (k), the constant 1. turned: a token gathers the T - 1 others, from the next
    one on; otherwise all T in their order."""

    n: int
    T: int
    work: int
    k: int
    turned: bool

    @staticmethod
    def of(model: Transformer, T: int) -> SequenceSlots:
        """Of a model that has this form, for sequences of T tokens."""
        n, k, gatherers = model.inputs, model.outputs, len(model.layers[0].heads)
        work = len(model.offset) - n - T - gatherers * n - k - 1
        return SequenceSlots(n, T, work, k, gatherers < T)

    @property
    def gatherers(self) -> int:
        """Heads of layer 0."""
        return self.T - self.turned

    @property
    def first_work(self) -> int:
        """The first slot that nodes write to."""
        return self.n + self.T + self.gatherers * self.n

    @property
    def width(self) -> int:
        """Slots in total."""
        return self.first_work + self.work + self.k + 1

    @property
    def variables(self) -> list[int]:
        """Slots of the sequence as the token sees it, token-major."""
        gathered = list(range(self.n + self.T, self.first_work))
        return [*range(self.n), *gathered] if self.turned else gathered

    def seen(self, variable: int, t: int) -> int:
        """Which coordinate of the flattened sequence token t (from 0) has in the slot of a variable."""
        token, coordinate = divmod(variable, self.n)
        return ((token + t) % self.T if self.turned else token) * self.n + coordinate

    def before_work(self, variables: Sequence[str]) -> list[str]:
        """Names of the slots that no node writes to, the constant apart."""
        own = variables[: self.n] if self.turned else [f"own {name}" for name in variables[: self.n]]
        positions = [f"position {t + 1}" for t in range(self.T)]
        return [*own, *positions, *(variables[self.n :] if self.turned else variables)]
