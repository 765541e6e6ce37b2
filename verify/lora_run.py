"""One softmax attention layer read at the last token, on a set of examples, in ball arithmetic.

    logits   l_j = <W_Q x, W_K y_j> / sqrt(d_k),  x the last token, y_j all tokens of the sequence (x among them)
    output   sum_j softmax(l)_j W_V y_j

A prompt of N tokens adds N pairs (key, value) to the sum: any vectors at all, so that prompt tokens p (key W_K p, value W_V p) and tuned
prefixes are both covered. A low-rank update adds up @ down to one of the three matrices. What follows the layer (a residual
connection, an output matrix folded into W_V) adds the same to output and target and is left out: errors are those of the attention's output.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields

import flint
import numpy as np
from jaxtyping import Float

from verify.statement import StatementError
from verify.stored_arrays import stored_array

__all__ = ["BITS", "UPDATED", "AttentionTask", "LowRank", "OutOfTime", "Prompt", "Run", "run", "squared_errors"]

BITS = 192
"""Working precision: prompts of huge values cancel up to a hundred bits and leave float64's 53."""

UPDATED = ("keys", "queries", "values")
"""What a low-rank update may be added to."""


class OutOfTime(Exception):
    """The caller's seconds are over."""


@dataclass(frozen=True, eq=False)
class AttentionTask:
    """A layer and n examples. w_q, w_k: (d_k, d); w_v: (d_v, d); sequences: (n, T, d), read at token T; targets: (n, d_v).

    Raises StatementError for shapes that do not fit and for entries that are not finite.
    """

    w_q: Float[np.ndarray, "d_k d"]
    w_k: Float[np.ndarray, "d_k d"]
    w_v: Float[np.ndarray, "d_v d"]
    sequences: Float[np.ndarray, "n T d"]
    targets: Float[np.ndarray, "n d_v"]

    def __post_init__(self) -> None:
        w_q = stored_array("w_q", self.w_q, (None, None))
        w_v = stored_array("w_v", self.w_v, (None, w_q.shape[1]))
        sequences = stored_array("sequences", self.sequences, (None, None, w_q.shape[1]))
        if 0 in (*w_q.shape, *w_v.shape, *sequences.shape):
            raise StatementError(
                f"w_q, w_v, sequences: shapes {w_q.shape}, {w_v.shape}, {sequences.shape}; none may be empty"
            )
        object.__setattr__(self, "w_q", w_q)
        object.__setattr__(self, "w_k", stored_array("w_k", self.w_k, w_q.shape))
        object.__setattr__(self, "w_v", w_v)
        object.__setattr__(self, "sequences", sequences)
        object.__setattr__(self, "targets", stored_array("targets", self.targets, (len(sequences), len(w_v))))

    @property
    def examples(self) -> int:
        """n."""
        return len(self.sequences)

    def arrays(self) -> dict[str, np.ndarray]:
        """By name, as stored."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @staticmethod
    def of(arrays: Mapping[str, np.ndarray]) -> AttentionTask:
        """The inverse of `arrays`. Raises KeyError for a missing one."""
        return AttentionTask(**{f.name: arrays[f.name] for f in fields(AttentionTask)})


@dataclass(frozen=True, eq=False)
class LowRank:
    """up @ down is added to the matrix of the keys, queries or values. up: (rows, r); down: (r, d)."""

    to: str
    up: Float[np.ndarray, "rows r"]
    down: Float[np.ndarray, "r d"]

    def fitted(self, task: AttentionTask) -> LowRank:
        """The same with shapes checked against the task. Raises StatementError."""
        if self.to not in UPDATED:
            raise StatementError(f"to = {self.to!r}: expected one of {', '.join(map(repr, UPDATED))}")
        rows, d = (task.w_v if self.to == "values" else task.w_q).shape
        down = stored_array("down", self.down, (None, d))
        up = stored_array("up", self.up, (rows, len(down)))
        if len(down) == 0:
            raise StatementError("down: rank 0 updates nothing; leave the update out")
        return LowRank(self.to, up, down)

    @property
    def rank(self) -> int:
        return len(self.down)

    @property
    def numbers(self) -> int:
        """Trainable numbers: r (rows + d)."""
        return self.up.size + self.down.size


@dataclass(frozen=True, eq=False)
class Prompt:
    """N pairs of keys (N, d_k) and values (N, d_v)."""

    keys: Float[np.ndarray, "N d_k"]
    values: Float[np.ndarray, "N d_v"]

    def fitted(self, task: AttentionTask) -> Prompt:
        """The same with shapes checked against the task. Raises StatementError."""
        keys = stored_array("keys", self.keys, (None, len(task.w_q)))
        if len(keys) == 0:
            raise StatementError("keys: no tokens; leave the prompt out")
        return Prompt(keys, stored_array("values", self.values, (len(keys), len(task.w_v))))

    @property
    def tokens(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class Run:
    """Enclosures, at the precision of the caller's context. outputs, targets: n rows of d_v balls."""

    outputs: list[list[flint.arb]]
    targets: list[list[flint.arb]]


def _matrix(x: Float[np.ndarray, "a b"]) -> flint.arb_mat:
    return flint.arb_mat([[flint.arb(float(v)) for v in row] for row in x])


def _softmax(logits: list[flint.arb]) -> list[flint.arb]:
    """Weights; shifted by a number near the largest logit, which changes nothing and keeps exponentials finite."""
    middles = [float(l.mid()) for l in logits if l.is_finite()]
    shift = flint.arb(max((m for m in middles if math.isfinite(m)), default=0.0))
    powers = [(l - shift).exp() for l in logits]
    total = sum(powers, flint.arb(0))
    return [p / total for p in powers]


def run(
    task: AttentionTask, update: LowRank | None = None, prompt: Prompt | None = None, deadline: float = math.inf
) -> Run:
    """Outputs of the layer, updated and prompted or not, as balls that contain those of exact arithmetic on the stored floats.

    Call inside `working_precision(BITS)`. Raises OutOfTime.
    """
    n, length, d = task.sequences.shape
    weights = {"queries": _matrix(task.w_q), "keys": _matrix(task.w_k), "values": _matrix(task.w_v)}
    if update is not None:
        weights[update.to] = weights[update.to] + _matrix(update.up) * _matrix(update.down)
    tokens = _matrix(task.sequences.reshape(n * length, d))
    queries = _matrix(task.sequences[:, -1, :]) * weights["queries"].transpose()
    if time.monotonic() > deadline:
        raise OutOfTime
    keys = (tokens * weights["keys"].transpose()).tolist()
    if time.monotonic() > deadline:
        raise OutOfTime
    values = (tokens * weights["values"].transpose()).tolist()
    extra_keys = [] if prompt is None else _matrix(prompt.keys).tolist()
    extra_values = [] if prompt is None else _matrix(prompt.values).tolist()
    scale = 1 / flint.arb(len(task.w_q)).sqrt()
    outputs = []
    for i, query in enumerate(queries.tolist()):
        if time.monotonic() > deadline:
            raise OutOfTime
        own = slice(i * length, (i + 1) * length)
        column = flint.arb_mat([[q * scale] for q in query])
        logits = [row[0] for row in (flint.arb_mat(keys[own] + extra_keys) * column).tolist()]
        mixed = flint.arb_mat([_softmax(logits)]) * flint.arb_mat(values[own] + extra_values)
        outputs.append(mixed.tolist()[0])
    return Run(outputs, _matrix(task.targets).tolist())


def squared_errors(result: Run) -> list[flint.arb]:
    """|output_i - target_i|^2 for every example."""
    return [
        sum(((a - z) * (a - z) for a, z in zip(out, target, strict=True)), flint.arb(0))
        for out, target in zip(result.outputs, result.targets, strict=True)
    ]
