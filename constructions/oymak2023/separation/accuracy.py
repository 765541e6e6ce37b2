"""The best accuracy that weights of a rival can have on a contextual mixture: bounds that the kernel proves, and thresholds."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import Float

from constructions.oymak2023.data import ContextualData
from constructions.oymak2023.errors import ContextError
from constructions.stated_html import Carded
from verify.certificate import downward, upward
from verify.context_rival import RIVALS, ContextRival
from verify.statement import Verdict
from verify.statement_file import Stated, save_statement

__all__ = ["RivalBound", "hard_mixture", "rival_bound", "self_attention_threshold", "sufficient_threshold"]


@dataclass(frozen=True, eq=False, repr=False)
class RivalBound(Carded):
    """No weights of `rival` are right with probability above `accuracy[1]` on the noise-free mixture (proved); some reach `accuracy[0]`."""

    statement: ContextRival
    verdict: Verdict

    @property
    def rival(self) -> str:
        """Which model."""
        return self.statement.rival

    @property
    def accuracy(self) -> tuple[float, float]:
        """Proved bounds (lower, upper) of the best accuracy over all weights; f(X) = 0 counts one half."""
        return self.verdict.lower, self.verdict.upper

    def save(self, path: str | os.PathLike[str]) -> Path:
        """One file, which `verify.check_statement` proves again."""
        return save_statement(path, Stated(self.statement, self.verdict))

    def __repr__(self) -> str:
        low, high = self.accuracy
        return f"<RivalBound {self.verdict.status}: {downward(low, 4)} <= best accuracy of {self.rival} over all weights <= {upward(high, 4)}>"


def rival_bound(
    data: ContextualData,
    rival: str,
    *,
    scores: Float[np.ndarray, "2 2"] | None = None,
    head: Float[np.ndarray, " 2"] | None = None,
) -> RivalBound:
    """The least accuracy that the kernel proves to bound all weights of a rival, on the data without its noise.

    rival: "averaging", "linear" or "self-attention". scores, head: weights to try for the lower end, in the coordinates of q_star and w_star
    (`ContextRival`). Raises ContextError for an unknown rival.
    """
    if rival not in RIVALS:
        raise ContextError(
            argument="rival",
            value=repr(rival),
            reason="is unknown",
            next_step=f"Choose among {', '.join(map(repr, RIVALS))}.",
        )
    first = ContextRival(rival, data.relevant, data.irrelevant, data.pairs, 1.0, scores, head)
    verdict = first.decide()
    # what was just proved is the statement
    statement = ContextRival(rival, data.relevant, data.irrelevant, data.pairs, verdict.upper, scores, head)
    return RivalBound(statement, verdict)


def sufficient_threshold(relevant: int, irrelevant: int) -> float:
    """t = 1/((1 - z) min(z, 1 - z)) - 1, z = relevant/(relevant + irrelevant), rounded up: from Delta = t on, self-attention is exactly at 1/2 on
    the mixture (0, 0), (Delta, Delta), by a proof in whole numbers."""
    total = relevant + irrelevant
    exact = Fraction(total**2, irrelevant * min(relevant, irrelevant)) - 1
    value = float(exact)
    return value if Fraction(value) >= exact else math.nextafter(value, math.inf)


def self_attention_threshold(relevant: int, irrelevant: int, *, width: float = 1e-3) -> tuple[float, float]:
    """(lower, upper) within a factor 1 + width: at Delta = lower the kernel shows weights of accuracy 1 on (0, 0), (Delta, Delta), at upper it proves that
    every self-attention layer is exactly at 1/2.

    There is one threshold: the accuracy is 1/2 as soon as sup_s P(s) < Delta/(1 + Delta) (`verify.context_shares`), and 1 below.
    """
    low, high = 0.0, sufficient_threshold(relevant, irrelevant)
    while high - low > width * high:
        middle = 0.5 * (low + high)
        verdict = ContextRival(
            "self-attention", relevant, irrelevant, np.array([[0.0, 0.0], [middle, middle]]), 0.5
        ).decide()
        if verdict.proved:
            high = middle
        elif verdict.lower == 1.0:
            low = middle
        else:
            break
    return low, high


def hard_mixture(family: str, delta: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """(delta_q values, delta_w values), read together: "origin" is {(0, 0), (delta, delta)}, "sign" is {(delta, delta), (delta, -delta)}.

    Raises ContextError for an unknown family.
    """
    if family == "origin":
        return (0.0, delta), (0.0, delta)
    if family == "sign":
        return (delta, delta), (delta, -delta)
    raise ContextError(
        argument="family", value=repr(family), reason="is unknown", next_step="Choose 'origin' or 'sign'."
    )
