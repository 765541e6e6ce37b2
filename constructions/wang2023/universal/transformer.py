"""The universal transformer: one g for a whole family of functions, each of which is a prompt.

After Wang, Chauhan, Wang and Hsieh, *Universality and Limitations of Prompt Tuning* (2023), Theorem 1, with the construction of Yun, Bhojanapalli, Rawat, Reddi and Kumar,
*Are Transformers Universal Approximators of Sequence-to-Sequence Functions?* (2020). The prompt is prepended to the input and lives in the same
space [0, 1]^d; g(prompt, X) are the last m tokens of what leaves the stack. The weights know the family, not which of its functions is wanted.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from constructions.errors import CompileError
from constructions.stated_html import Carded
from constructions.wang2023.universal.blocks import join
from constructions.wang2023.universal.contextual import exact_bits, selective_shifts
from constructions.wang2023.universal.execute import execute
from constructions.wang2023.universal.grid import Grid
from constructions.wang2023.universal.lookup import value_mapping
from constructions.wang2023.universal.quantise import clamp, quantisation
from constructions.wang2023.universal.sizes import Plan, plan
from constructions.wang2023.universal.temperature import inverse_temperature, stack_error
from verify import Stated, Status, Verdict, save_statement
from verify.family import Family
from verify.stack import Stack

__all__ = ["MOST_BLOCKS", "TooLargeError", "Universal", "prompts_of", "universal_transformer"]

MOST_BLOCKS = 400_000
"""Deeper stacks are planned, not built."""


class TooLargeError(CompileError):
    """A transformer that is too deep to build, or whose numbers float64 does not hold exactly. plan: what it would take."""

    plan: Plan

    def __init__(self, plan: Plan, reason: str) -> None:
        super().__init__(
            f"{reason} Take a larger eps, a smaller Lipschitz constant or fewer dimensions. {plan}", plan=plan
        )


def prompts_of(grid: Grid, index: Int[np.ndarray, " k"], length: int) -> Float[np.ndarray, "k length d"]:
    """The prompts of functions number `index`: the number's digits in base G, highest first, divided by G."""
    powers = [grid.cells**e for e in range(length * grid.d - 1, -1, -1)]
    digits = np.stack([index // power % grid.cells for power in powers], axis=-1)
    return digits.reshape(len(index), length, grid.d) / grid.cells


@dataclass(frozen=True, eq=False)
class Universal(Carded):
    """g, with its family.

    grid: the family; stack: the weights; margin: the share of a cell on which quantisation is not finished; tolerance: 0 for hardmax,
    for softmax the error its temperature was derived for. `statement` says that every function of the family is computed from its prompt.
    """

    grid: Grid
    stack: Stack
    margin: float
    tolerance: float

    @property
    def prompt_length(self) -> int:
        """Tokens of a prompt."""
        return self.stack.n - self.stack.m

    @property
    def plan(self) -> Plan:
        """The formulas' values, which are the sizes of what is built."""
        return plan(self.grid)

    def prompt(self, table: int | Int[np.ndarray, "points N"]) -> Float[np.ndarray, "p d"]:
        """The prompt of a function: its number, or its table of levels. Raises CompileError if it is not in the family."""
        index = table if isinstance(table, (int, np.integer)) else self.grid.index(np.asarray(table))
        if not 0 <= index < self.grid.functions:
            raise CompileError(f"table = {index}: the family has functions number 0 to {self.grid.functions - 1}.")
        return prompts_of(self.grid, np.array([int(index)]), self.prompt_length)[0]

    def __call__(
        self, prompt: Float[np.ndarray, "p d"], x: Float[np.ndarray, "*batch m d"]
    ) -> Float[np.ndarray, "*batch m d"]:
        """Run every block in float64 on [prompt, x]. x: (..., m, d), or (...) for d = m = 1."""
        g = self.grid
        points = np.asarray(x, dtype=np.float64)
        shape = points.shape
        if g.components == 1 and shape[-2:] != (1, 1):
            points = points[..., None, None]
        if points.ndim < 2 or points.shape[-2:] != (g.m, g.d):
            raise ValueError(f"x: shape {shape}, expected (..., {g.m}, {g.d})")
        if np.shape(prompt) != (self.prompt_length, g.d):
            raise ValueError(f"prompt: shape {np.shape(prompt)}, expected ({self.prompt_length}, {g.d})")
        if not ((points >= 0) & (points <= 1)).all():
            raise ValueError("x: has entries outside [0, 1], where g approximates nothing. Rescale the input.")
        flat = points.reshape(-1, g.m, g.d)
        tokens = np.concatenate([np.broadcast_to(prompt, (len(flat), *np.shape(prompt))), flat], axis=1)
        return execute(self.stack, tokens).reshape(shape)

    def dense(self, block: int) -> Mapping[str, np.ndarray]:
        """All weights of one block, the half that is zero included: W_Q, W_K, W_V (2, 1, d), b_Q (2, 1), W_O (2, d, 1), W_1 (4, d), b_1 (4,), W_2 (d, 4)."""
        s, d = self.stack, self.grid.d
        if not 0 <= block < s.depth:
            raise IndexError(f"block = {block}, the stack has blocks 0 to {s.depth - 1}")
        a = int(s.order[:block].sum())
        f = block - a
        attention = s.order[block] == 1
        zero = np.zeros((2, d))
        q, k, v, o = (getattr(s, name)[a] if attention else zero for name in ("query", "key", "value", "out"))
        return {
            "W_Q": q[:, None], "W_K": k[:, None], "W_V": v[:, None], "W_O": o[:, :, None],
            "b_Q": (s.bias[a] if attention else np.zeros(2))[:, None],
            "W_1": np.zeros((4, d)) if attention else s.first[f], "b_1": np.zeros(4) if attention else s.offset[f],
            "W_2": np.zeros((d, 4)) if attention else s.second[f],
        }  # fmt: skip

    @cached_property
    def statement(self) -> Family:
        """Every function of the family, from its prompt, at every grid point."""
        g = self.grid
        prompts = prompts_of(g, np.arange(g.functions), self.prompt_length)
        return Family(self.stack, g.cells, g.levels, g.steps, prompts, self.tolerance)

    @cached_property
    def verdict(self) -> Verdict:
        """What the kernel says about the statement: runs every (function, input) pair."""
        return self.statement.decide()

    @property
    def a_priori(self) -> float:
        """The bound on |softmax - hardmax| that follows from the temperature alone; 0 for hardmax, inf where it says nothing."""
        return 0.0 if math.isinf(self.stack.beta) else stack_error(self.grid, self.stack.n, self.stack.beta)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Weights, prompts, family and verdict as one file, for `verify.check_statement`."""
        return save_statement(path, Stated(self.statement, self.verdict, {"construction": "universal transformer"}))

    def __repr__(self) -> str:
        g, s = self.grid, self.stack
        kind = "hardmax" if math.isinf(s.beta) else f"softmax, inverse temperature {s.beta:.6g}"
        found = self.__dict__.get("verdict")
        words = "not checked yet" if found is None else str(found.status)
        if found is not None and found.status is Status.PROVED:
            words = f"proved on all {int(found.numbers['pairs'])} pairs"
        return (
            f"<Universal {g.functions} functions [0, 1]^{g.components} -> [0, 1]^{g.components}, prompts of {self.prompt_length} tokens, {s.depth} blocks of 2 "
            f"heads of size 1 and width 4, {kind}; {words}>"
        )


def universal_transformer(
    grid: Grid, *, margin: float = 2.0**-24, softmax: bool = False, tolerance: float = 1e-2, beta: float | None = None
) -> Universal:
    """Build g for a family.

    margin: the share of every cell that is not quantised, rounded down to a power of two; softmax: softmax attention at the inverse temperature
    derived for `tolerance`, or at `beta` if given (nothing is derived for that one: the kernel decides). Raises TooLargeError, with the plan, for a
    stack above MOST_BLOCKS blocks or numbers beyond float64, CompileError for arguments out of range.
    """
    if not 0 < margin < 1:
        raise CompileError(
            f"margin = {margin!r} is not a share of a cell. Pass a number between 0 and 1, for example 2**-24."
        )
    if beta is not None and not 0 < beta < math.inf:
        raise CompileError(f"beta = {beta!r} is not a finite number > 0. Pass one, or softmax=False for hardmax.")
    margin = 2.0 ** math.floor(math.log2(margin))
    sizes = plan(grid)
    if sizes.depth is None or sizes.prompt is None or sizes.depth > MOST_BLOCKS or not sizes.exact:
        raise TooLargeError(sizes, f"More than {MOST_BLOCKS} blocks.")
    tokens = sizes.prompt + grid.m
    bits = max(exact_bits(grid, tokens), tokens.bit_length() + grid.cells.bit_length() + round(-math.log2(margin)))
    if bits > 52:
        raise TooLargeError(sizes, f"Numbers of {bits} bits: float64 holds 52.")
    temperature = math.inf
    if softmax or beta is not None:
        temperature = inverse_temperature(grid, tokens, tolerance) if beta is None else beta
    prompts = prompts_of(grid, np.arange(grid.functions), sizes.prompt)
    parts = [
        quantisation(grid, tokens, margin),
        selective_shifts(grid, tokens),
        value_mapping(grid, prompts),
        clamp(grid),
    ]
    position = np.repeat(np.arange(tokens, dtype=np.float64)[:, None], grid.d, axis=1)
    return Universal(
        grid, join(grid.m, position, parts, temperature), margin, 0.0 if math.isinf(temperature) else tolerance
    )
