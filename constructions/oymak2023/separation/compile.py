"""`compile_context_prompt`: a prompt and a head of finite temperature, with a margin that the kernel proves on the whole support of the data."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from constructions.oymak2023.data import ContextualData
from constructions.oymak2023.errors import ContextError, MarginError
from constructions.oymak2023.model import PromptAttention
from constructions.oymak2023.runtime import as_transformer
from constructions.oymak2023.separation.temperature import isolation_gap, reach, smallest_temperature
from constructions.stated_html import Carded
from verify.certificate import Status, downward, upward
from verify.context_margin import ContextMargin
from verify.model import Prefix, Transformer
from verify.statement import Verdict
from verify.statement_file import Stated, save_statement

__all__ = ["ContextPrompt", "compile_context_prompt", "margin_statement"]

_MORE = (1e-10, 1e-7, 1e-4, 1e-2, 0.1)
"""How much colder than the smallest temperature is tried, until the kernel agrees."""
_LESS = (1e-9, 1e-6, 1e-3, 1e-2)


@dataclass(frozen=True, eq=False, repr=False)
class ContextPrompt(Carded):
    """prompt = temperature * q_star, head = w_star/|w_star|^2, so that a relevant token alone has the margin 1.

    verdict: y f(X) >= the margin for every X of the support. too_warm: a temperature at which the kernel refutes the margin (None if there is none
    to show: without a prompt it holds already, or the caller chose the temperature).
    """

    data: ContextualData
    temperature: float
    too_warm: float | None
    statement: ContextMargin
    verdict: Verdict

    @property
    def prompt(self) -> Float[np.ndarray, " d"]:
        """The prompt vector q."""
        return self.statement.prompt

    @property
    def head(self) -> Float[np.ndarray, " d"]:
        """The head w."""
        return self.statement.head

    @property
    def margin(self) -> float:
        """A proved lower bound of y f(X) over the whole support; -inf without a proof."""
        return self.verdict.lower

    @property
    def accuracy(self) -> float | None:
        """1.0 where a positive margin is proved; None where nothing is."""
        return 1.0 if self.verdict.proved and self.margin > 0 else None

    @property
    def model(self) -> PromptAttention:
        """f, to be called on sequences (n, T, d)."""
        return PromptAttention(self.prompt, self.head)

    def transformer(self) -> tuple[Transformer, Prefix]:
        """f as a frozen layer on the shared runtime; its input is `runtime.with_prompt(self.prompt, x)`."""
        return as_transformer(self.model)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """One file, which `verify.check_statement` proves again from its numbers alone."""
        return save_statement(path, Stated(self.statement, self.verdict, {"temperature": self.temperature}))

    def __repr__(self) -> str:
        lower, upper = self.verdict.lower, self.verdict.upper
        words = f"y f(X) >= {downward(lower, 6)} on the whole support, least margin within {upper - lower:.1e} of that"
        if not self.verdict.proved:
            words = self.verdict.reason
        warm = "" if self.too_warm is None else f" (refuted at {upward(1 - self.too_warm / self.temperature, 2)} less)"
        sure = ", accuracy 1" if self.accuracy is not None else ""
        return f"<ContextPrompt {self.verdict.status}{sure}: {words}; temperature {self.temperature:.7g}{warm}; {self.data!r}>"


def margin_statement(
    data: ContextualData, temperature: float, margin: float, spread: tuple[float, float] = (0.0, 0.0)
) -> ContextMargin:
    """The statement that the prompt temperature * q_star and the head w_star/|w_star|^2 have this margin on the support."""
    if not math.isfinite(data.radius):
        raise ContextError(
            argument="bound",
            value=None,
            reason="leaves Gaussian noise without a largest norm: every set of sequences has some probability, so that no margin holds on the whole support",
            next_step="Give bound=r, the largest Euclidean norm of a token's noise.",
        )
    if not (len(spread) == 2 and all(math.isfinite(s) and s >= 0 for s in spread)):
        raise ContextError(
            argument="spread",
            value=spread,
            reason="is no pair of half-widths >= 0",
            next_step="Give (for delta_q, for delta_w), (0, 0) for the pairs alone.",
        )
    dq, dw = data.pairs.T
    rows = np.column_stack([dq - spread[0], dq + spread[0], dw - spread[1], dw + spread[1]])
    if any(spread):
        rows[:, ::2], rows[:, 1::2] = np.nextafter(rows[:, ::2], -np.inf), np.nextafter(rows[:, 1::2], np.inf)
    head = data.w_star / float(data.w_star @ data.w_star)
    return ContextMargin(
        temperature * data.q_star,
        head,
        data.q_star,
        data.w_star,
        data.relevant,
        data.irrelevant,
        rows,
        data.radius,
        margin,
        data.noisy_relevant,
    )


def compile_context_prompt(
    data_model: ContextualData,
    margin: float,
    *,
    temperature: float | None = None,
    spread: tuple[float, float] = (0.0, 0.0),
    seconds: float = math.inf,
) -> ContextPrompt:
    """The warmest prompt along q_star whose margin is at least `margin`, proved for every X of the support (so its accuracy is 1).

    margin: in (0, 1) in general: 1 is what a relevant token alone gives. temperature: None finds the smallest that reaches the margin; a number is
    taken as it is. spread: the pairs (delta_q, delta_w) may be off by so much. seconds: for each run of the kernel.
    Raises ContextError (Gaussian noise without a bound; a margin that is not a positive number), MarginError where no temperature reaches
    the margin, saying the largest that one reaches. Both are ValueErrors. The verdict is undecided only if the kernel runs out of time or numbers.
    """
    if not (isinstance(margin, (int, float, np.number)) and math.isfinite(margin) and margin > 0):
        raise ContextError(
            argument="margin",
            value=repr(margin),
            reason="is not a positive finite number",
            next_step="Give the least y f(X) you accept, for example 0.5.",
        )
    margin = float(margin)
    margin_statement(data_model, 0.0, margin, spread)  # refuses what cannot be stated before any search
    if temperature is not None:
        if not math.isfinite(temperature):
            raise ContextError(
                argument="temperature",
                value=temperature,
                reason="is not finite",
                next_step="Give a finite number, or None for the smallest that does.",
            )
        statement = margin_statement(data_model, float(temperature), margin, spread)
        return ContextPrompt(data_model, float(temperature), None, statement, statement.decide(seconds=seconds))
    smallest = smallest_temperature(data_model, margin, spread)
    if smallest is None:
        raise _unreachable(data_model, margin, spread)
    tried = [smallest] if smallest == 0 else [smallest * (1 + more) for more in _MORE]
    statement, verdict, used = None, None, smallest
    for used in tried:
        statement = margin_statement(data_model, used, margin, spread)
        verdict = statement.decide(seconds=seconds)
        if verdict.proved:
            break
    assert statement is not None
    assert verdict is not None
    # float64 rounds the margins of very cold prompts up to their limit, which none attains
    if not verdict.proved and margin >= reach(data_model, spread).margin:
        raise _unreachable(data_model, margin, spread)
    return ContextPrompt(data_model, used, _refuted_below(data_model, smallest, margin, spread), statement, verdict)


def _refuted_below(data: ContextualData, smallest: float, margin: float, spread: tuple[float, float]) -> float | None:
    """A temperature a little below the smallest at which the kernel refutes the margin."""
    if smallest == 0:
        return None
    for less in _LESS:
        warmer = smallest * (1 - less)
        if margin_statement(data, warmer, margin, spread).decide().status is Status.REFUTED:
            return warmer
    return None


def _unreachable(data: ContextualData, margin: float, spread: tuple[float, float]) -> MarginError:
    """Which assumption keeps the margin out of reach, and what can be had."""
    best = reach(data, spread)
    least = float(data.pairs[:, 0].min()) - spread[0]
    if best.isolated:
        where = "1, the value of a relevant token" + (
            ", less bound/|w_star| for its noise" if data.noisy_relevant else ""
        )
        reason = f"is out of reach: prompts along q_star come to every margin below {best.margin:.6g} ({where}), and to none from there"
        step = f"Pass a margin below {best.margin:.6g}."
    else:
        if least <= -1 and float(data.pairs[:, 0].max()) + spread[0] >= -1:
            why = f"delta_q = {least:.4g} <= -1 puts irrelevant tokens as far along q_star as relevant ones, where no temperature isolates the relevant ones"
        else:
            gap = max(isolation_gap(data, sign, spread) for sign in (1, -1)) / float(np.linalg.norm(data.q_star))
            why = f"noise of norm {data.radius:.4g} closes the distance of irrelevant from relevant tokens along q_star (what is left is {gap:.4g}, and must be positive)"
        reason = f"is out of reach: {why}; the largest margin of a prompt along q_star is about {best.margin:.6g}, at temperature {best.temperature:.6g}"
        step = (
            f"Pass a margin below {best.margin:.6g}."
            if best.margin > 0
            else "No positive margin exists along q_star: change the data model (larger |q_star|, smaller bound, delta_q > -1)."
        )
    return MarginError(margin=margin, reachable=best.margin, reason=reason, next_step=step)
