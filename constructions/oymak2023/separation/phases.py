"""Phase diagrams of the separation: proved bounds of the best accuracy and what optimised weights reach, over (zeta, delta_q, delta_w)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from constructions.oymak2023.errors import ContextError
from constructions.oymak2023.recorded import Recorded
from constructions.oymak2023.separation.accuracy import self_attention_threshold, sufficient_threshold
from constructions.oymak2023.separation.training import KINDS, Trained, train
from constructions.progress import reporting
from verify.context_rival import ContextRival

__all__ = [
    "DiagonalDiagram",
    "PhaseDiagram",
    "diagonal_diagram",
    "measured_accuracies",
    "phase_diagram",
    "proved_accuracies",
]

_SCREENED = 200
"""Random weights per setting, of which the best are optimised."""

Progress = bool | Callable[[float, str], None] | None


class _Compared:
    """Measured accuracies beside proved bounds of the best one, arrays of one shape."""

    lower: np.ndarray
    upper: np.ndarray
    measured: np.ndarray

    @property
    def excess(self) -> float:
        """The most by which a measured accuracy exceeds the proved bound: never above 0."""
        return float((self.measured - self.upper).max())

    @property
    def reached(self) -> float:
        """Share of cells where the optimisation reaches the proved lower bound."""
        return float((self.measured >= self.lower).mean())


@dataclass(frozen=True, eq=False, repr=False)
class PhaseDiagram(_Compared, Recorded):
    """Best accuracies on {(0, 0), (delta_q, delta_w)} (family "origin") or {(delta_q, delta_w), (delta_q, -delta_w)} ("sign"), noise-free.

    relevant: (z,) relevant tokens out of `tokens`; delta_q: (a,), delta_w: (b,). lower, upper (proved) and measured: (4, z, a, b), in the order of
    `KINDS`. restarts, steps, seed: of the optimisation.
    """

    family: str
    tokens: int
    relevant: Float[np.ndarray, " z"]
    delta_q: Float[np.ndarray, " a"]
    delta_w: Float[np.ndarray, " b"]
    lower: Float[np.ndarray, "4 z a b"]
    upper: Float[np.ndarray, "4 z a b"]
    measured: Float[np.ndarray, "4 z a b"]
    restarts: int
    steps: int
    seed: int

    def __repr__(self) -> str:
        cells = self.measured[0].size
        return f"<PhaseDiagram {self.family!r}: {cells} settings, measured at most {max(self.excess, 0.0):g} above the proved bounds, {100 * self.reached:.1f} % of them reached>"


@dataclass(frozen=True, eq=False, repr=False)
class DiagonalDiagram(_Compared, Recorded):
    """Self-attention on the mixtures `hard_mixture(family, delta)`, over (zeta, delta).

    relevant: (z,) out of `tokens`; delta: (a,). lower, upper (proved), measured: (z, a). threshold: (z, 2), `self_attention_threshold`;
    sufficient: (z,), the closed form.
    """

    family: str
    tokens: int
    relevant: Float[np.ndarray, " z"]
    delta: Float[np.ndarray, " a"]
    lower: Float[np.ndarray, "z a"]
    upper: Float[np.ndarray, "z a"]
    measured: Float[np.ndarray, "z a"]
    threshold: Float[np.ndarray, "z 2"]
    sufficient: Float[np.ndarray, " z"]
    restarts: int
    steps: int
    seed: int

    def __repr__(self) -> str:
        return f"<DiagonalDiagram {self.family!r}: {self.measured.size} settings, measured at most {max(self.excess, 0.0):g} above the proved bounds, {100 * self.reached:.1f} % of them reached>"


def phase_diagram(
    family: str = "origin",
    *,
    tokens: int = 20,
    relevant: Sequence[int] = (4, 10),
    delta_q: Sequence[float] = tuple(np.arange(-2, 6.1, 0.5)),
    delta_w: Sequence[float] = tuple(np.arange(-5, 5.1, 0.5)),
    restarts: int = 8,
    steps: int = 250,
    seed: int = 0,
    progress: Progress = None,
) -> PhaseDiagram:
    """Theory (the kernel's verdict in every cell) and measurement (Adam from `restarts` random weights). Raises ContextError, StatementError (ValueErrors)."""
    _check(family, tokens, relevant)
    counts, first, second = (np.asarray(a, dtype=np.float64) for a in (relevant, delta_q, delta_w))
    count, dq, dw = (a.ravel() for a in np.meshgrid(counts, first, second, indexing="ij"))
    other = np.zeros((len(dq), 2)) if family == "origin" else np.column_stack([dq, -dw])
    pairs = np.stack([np.column_stack([dq, dw]), other], axis=1)
    shape = (len(KINDS), len(counts), len(first), len(second))
    with reporting(progress) as report:
        found = measured_accuracies(
            count, tokens, pairs, KINDS, restarts, steps, seed, lambda done: report(0.5 * done, "optimising")
        )
        low, high = proved_accuracies(
            count, tokens, pairs, KINDS, found, lambda done: report(0.5 + 0.5 * done, "proving bounds")
        )
    measured = np.array([found[kind].best for kind in KINDS]).reshape(shape)
    return PhaseDiagram(
        family,
        tokens,
        counts,
        first,
        second,
        low.reshape(shape),
        high.reshape(shape),
        measured,
        restarts,
        steps,
        seed,
    )


def diagonal_diagram(
    family: str = "origin",
    *,
    tokens: int = 20,
    relevant: Sequence[int] = tuple(range(2, 17, 2)),
    delta: Sequence[float] = tuple(np.geomspace(0.25, 16, 25)),
    restarts: int = 16,
    steps: int = 300,
    seed: int = 0,
    progress: Progress = None,
) -> DiagonalDiagram:
    """Self-attention's sharp threshold: proved on both sides, and measured. Raises ContextError, StatementError (ValueErrors)."""
    _check(family, tokens, relevant)
    counts, deltas = np.asarray(relevant, dtype=np.float64), np.asarray(delta, dtype=np.float64)
    count, d = (a.ravel() for a in np.meshgrid(counts, deltas, indexing="ij"))
    zero = 0 * d
    other = [zero, zero] if family == "origin" else [d, -d]
    pairs = np.stack([np.column_stack([d, d]), np.column_stack(other)], axis=1)
    shape = (len(counts), len(deltas))
    kind = ("self-attention",)
    with reporting(progress) as report:
        found = measured_accuracies(
            count, tokens, pairs, kind, restarts, steps, seed, lambda done: report(0.4 * done, "optimising")
        )
        low, high = proved_accuracies(
            count, tokens, pairs, kind, found, lambda done: report(0.4 + 0.4 * done, "proving bounds")
        )
        threshold = []
        for k, c in enumerate(counts):
            threshold.append(self_attention_threshold(int(c), tokens - int(c)))
            report(0.8 + 0.2 * k / len(counts), "locating the threshold")
    sufficient = np.array([sufficient_threshold(int(c), tokens - int(c)) for c in counts])
    return DiagonalDiagram(
        family,
        tokens,
        counts,
        deltas,
        low.reshape(shape),
        high.reshape(shape),
        found["self-attention"].best.reshape(shape),
        np.array(threshold),
        sufficient,
        restarts,
        steps,
        seed,
    )


def proved_accuracies(
    relevant: Float[np.ndarray, " p"],
    tokens: int,
    pairs: Float[np.ndarray, "p k 2"],
    kinds: Sequence[str],
    found: Mapping[str, Trained],
    report: Callable[[float], None] = lambda done: None,
) -> Float[np.ndarray, "2 kinds p"]:
    """The kernel's (lower, upper) bounds of the best accuracy over all weights, for every problem.

    found: optimised self-attention weights, which the kernel runs for its lower bound.
    "prompt": lower 1 where delta_q > -1 for all pairs, or delta_q < -1 for all: then a cold prompt along +-q_star leaves the relevant tokens alone
    (`compile_context_prompt`); otherwise what averaging, the prompt 0, has. Its upper bound is 1 everywhere: no limit is claimed.
    """
    out = np.ones((2, len(kinds), len(pairs)))
    for j in range(len(pairs)):
        count = int(relevant[j])
        for i, kind in enumerate(kinds):
            if kind == "prompt":
                gap = 1 + pairs[j, :, 0]
                if not ((gap > 0).all() or (gap < 0).all()):
                    out[0, i, j] = ContextRival("averaging", count, tokens - count, pairs[j], 1.0).decide().lower
                continue
            weights = found[kind].best_weights if kind == "self-attention" else {}
            hints = (weights["scores"][j], weights["head"][j]) if weights else (None, None)
            verdict = ContextRival(kind, count, tokens - count, pairs[j], 1.0, *hints).decide()
            out[:, i, j] = verdict.lower, verdict.upper
        report((j + 1) / len(pairs))
    return out


def measured_accuracies(
    relevant: Float[np.ndarray, " p"],
    tokens: int,
    pairs: Float[np.ndarray, "p k 2"],
    kinds: Sequence[str],
    restarts: int,
    steps: int,
    seed: int,
    report: Callable[[float], None] = lambda done: None,
) -> dict[str, Trained]:
    """Weights optimised on the noise-free data, all 2k equally likely cases of it, in coordinates of q_star and w_star; by kind of model."""
    x, y = _support(pairs)
    share = np.column_stack([relevant, tokens - relevant]) / tokens
    return {
        kind: train(
            kind,
            (x, y, share),
            restarts=restarts,
            steps=steps,
            seed=seed + i,
            screened=_SCREENED,
            report=lambda done, i=i: report((i + done) / len(kinds)),
        )
        for i, kind in enumerate(kinds)
    }


def _support(pairs: Float[np.ndarray, "p k 2"]) -> tuple[Float[np.ndarray, "p 2k 2 2"], Float[np.ndarray, "p 2k"]]:
    """The two distinct tokens of every (y, pair), in coordinates of q_star and w_star, and the labels."""
    p, k, _ = pairs.shape
    y = np.broadcast_to(np.repeat([1.0, -1.0], k), (p, 2 * k))
    doubled = np.concatenate([pairs, pairs], axis=1)
    x = np.empty((p, 2 * k, 2, 2))
    x[:, :, 0, 0], x[:, :, 0, 1] = 1.0, y
    x[:, :, 1, 0], x[:, :, 1, 1] = -doubled[:, :, 0], -doubled[:, :, 1] * y
    return x, y


def _check(family: str, tokens: int, relevant: Sequence[int]) -> None:
    if family not in ("origin", "sign"):
        raise ContextError(
            argument="family", value=repr(family), reason="is unknown", next_step="Choose 'origin' or 'sign'."
        )
    for count in relevant:
        if not (float(count).is_integer() and 0 < count < tokens):
            raise ContextError(
                argument="relevant",
                value=count,
                reason=f"leaves no token of one kind out of {tokens}",
                next_step="zeta = relevant/tokens must be in (0, 1).",
            )
