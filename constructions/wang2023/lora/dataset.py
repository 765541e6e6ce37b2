"""Datasets that a rank-1 update of one matrix of an attention layer generates, and memorises.

Examples (p_i, r_i, x_i), read at x_i, whose 3n values are orthogonal. Base logits are whatever the frozen layer gives.

* Keys. W_K += up down with <down, p_i> = 1, <down, r_i> = -1, <down, x_i> = 0 and <W_Q x_i, up> / sqrt(d_k) = g moves the three logits by g, -g
  and 0, so that the answer goes from a mean a_i of three values towards that of p_i. Values of different examples are orthogonal, hence so
  are z_i - tau_i a_i for all tau: the floor of `verify.lora_floor` has its closed form.
* Queries. W_Q += up down with <down, x_i> = g sqrt(d_k), up such that <up, W_K p_i> = 1, <up, W_K r_i> = -1, <up, W_K x_i> = 0: the same movement.
* Values. W_V += up down moves z_i - a_i along one direction only: a single token imitates it, see `prompts.one_token`.

Tokens. With V = W_V of full row rank d_v >= 3n, a token with value e is V^+ e. For the keys, x_i must have equal <W_Q^T up, x_i> = <b, e>, where
b = (V^+)^T W_Q^T up: the values of x_1 ... x_n are orthonormal with sum along b (up is any vector with b != 0), those of p_i, r_i orthogonal to them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from constructions.stated_html import Carded
from constructions.wang2023.lora.layer import SingleHead, outputs
from verify.certificate import upward
from verify.lora_error import LayerError
from verify.lora_run import UPDATED, AttentionTask, LowRank
from verify.statement import StatementError, Verdict
from verify.statement_file import Stated, save_statement

__all__ = ["LoraDataset", "generated_dataset"]

SHORT = 0.5
"""Length of the values of r and x, beside 1 of p."""

DRAWS = 32
"""Random sets of values to choose from."""

MEMORISED = 1e-9
"""The error within which the update is stated to fit its examples; float64 targets leave about 1e-16."""


@dataclass(frozen=True, eq=False, repr=False)
class LoraDataset(Carded):
    """n examples that a rank-1 update memorises. statement, verdict: that it does, proved by running the updated layer."""

    layer: SingleHead
    sequences: Float[np.ndarray, "n 3 d"]
    targets: Float[np.ndarray, "n d_v"]
    update: LowRank
    statement: LayerError
    verdict: Verdict

    @property
    def examples(self) -> int:
        """n."""
        return len(self.sequences)

    @property
    def task(self) -> AttentionTask:
        """The frozen layer with the examples."""
        return self.statement.task

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the statement that the update memorises the examples."""
        return save_statement(path, Stated(self.statement, self.verdict))

    def __repr__(self) -> str:
        head = f"<LoraDataset n = {self.examples}, rank-{self.update.rank} update of the {self.update.to} ({self.update.numbers} numbers)"
        words = f"error <= {upward(self.verdict.upper)}" if self.verdict.proved else self.verdict.reason
        return f"{head}, {self.verdict.status}: {words}>"


def generated_dataset(
    layer: SingleHead, n: int, *, update: str = "keys", strength: float = 4.0, seed: int = 0
) -> LoraDataset:
    """n examples that a rank-1 update of `update` generates, in the module's way. strength: g, or the length by which values move.

    Raises StatementError (a ValueError) for an unknown update, n < 1, a strength that is not positive and finite, or weights to which
    the construction does not apply: W_V of rank below 3n, or queries (keys) that the layer maps to zero.
    """
    if update not in UPDATED:
        raise StatementError(f"update = {update!r}: expected one of {', '.join(map(repr, UPDATED))}")
    if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
        raise StatementError(f"n = {n!r}: expected a number of examples, 1 or more")
    if not 0 < strength < 100:
        raise StatementError(f"strength = {strength!r}: expected a number in (0, 100); logits move by so much")
    back = _right_inverse(layer.w_v, 3 * n)
    rng = np.random.default_rng(seed)
    up, b = _reaching(layer.w_q, back, rng) if update == "keys" else (np.zeros(0), None)
    draws = [_values(layer, back, b, n, rng) for _ in range(DRAWS)]
    p, r, x = max(draws, key=lambda draw: _margin(layer, back, *draw))
    size = _token_size(layer, back, p, r, x)
    sequences = size * np.stack([p.T @ back.T, r.T @ back.T, x.T @ back.T], axis=1)
    root = np.sqrt(len(layer.w_q))
    if update == "keys":
        down = layer.w_v.T @ (p.sum(axis=1) - r.sum(axis=1) / SHORT**2) / size
        found, row = root * up / (size * (b @ x[:, 0])), strength * down
    elif update == "queries":
        found = _separating(size * layer.w_k @ back, p, r, x)
        row = strength * root * (layer.w_v.T @ x.sum(axis=1)) / (SHORT**2 * size)
    else:  # values move along one random direction, by more or less according to the example
        direction = rng.standard_normal(len(layer.w_v))
        found = size * strength * direction / np.linalg.norm(direction)
        row = layer.w_v.T @ (p @ rng.uniform(0.5, 1.5, n)) / size
    low_rank = LowRank(update, found[:, None], row[None, :])
    targets = outputs(layer, sequences, update=low_rank)
    task = AttentionTask(layer.w_q, layer.w_k, layer.w_v, sequences, targets)
    statement = LayerError(task, MEMORISED, low_rank)
    return LoraDataset(layer, sequences, targets, statement.update or low_rank, statement, statement.decide())


def _right_inverse(w_v: Float[np.ndarray, "d_v d"], needed: int) -> Float[np.ndarray, "d d_v"]:
    """V^+ with V V^+ = 1. Raises StatementError where the theorem's assumption on the rank fails."""
    d_v = len(w_v)
    if d_v < needed:
        raise StatementError(
            f"w_v: {d_v} rows, but {needed // 3} examples need 3n = {needed} orthonormal values: take a smaller n"
        )
    sizes = np.linalg.svd(w_v, compute_uv=False)
    rank = int((sizes > 1e-10 * sizes[0]).sum())
    if rank < d_v:
        raise StatementError(
            f"w_v: rank {rank} (singular values from {sizes[0]:.3g} to {sizes[-1]:.3g}), but full row rank {d_v} is assumed; drop the dependent rows"
        )
    return np.linalg.pinv(w_v)


def _reaching(
    w_q: Float[np.ndarray, "d_k d"], back: Float[np.ndarray, "d d_v"], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A unit vector up and b = (V^+)^T W_Q^T up, not zero."""
    through = w_q @ back
    if not np.linalg.norm(through) > 1e-10 * np.linalg.norm(w_q) * np.linalg.norm(back):
        raise StatementError(
            f"w_q: queries vanish on the tokens that have values (norm {np.linalg.norm(through):.3g}); no update of the keys "
            "moves a logit there: update the queries or choose other weights"
        )
    up = through @ rng.standard_normal(through.shape[1])
    up /= np.linalg.norm(up)
    return up, through.T @ up


def _values(
    layer: SingleHead, back: np.ndarray, b: np.ndarray | None, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Orthogonal values of p, r and x, (d_v, n) each; signs and order of p and r such that the frozen layer prefers p_i to r_i. Those of r and x
    are half as long: with equal shares a_i then lies before the point of its ray that is nearest to p_i."""
    x = _beside(np.zeros((len(back.T), 0)), n, rng) if b is None else _simplex_around(b, n, rng)
    both = _beside(x, 2 * n, rng)
    likes = np.einsum("kn,kn->n", layer.w_q @ back @ x, layer.w_k @ back @ both[:, :n])
    dislikes = np.einsum("kn,kn->n", layer.w_q @ back @ x, layer.w_k @ back @ both[:, n:])
    swap = np.abs(dislikes) > np.abs(likes)
    p = np.where(swap, both[:, n:] * np.sign(dislikes), both[:, :n] * np.sign(likes))
    r = np.where(swap, -both[:, :n] * np.sign(likes), -both[:, n:] * np.sign(dislikes))
    return p, SHORT * r, SHORT * x


def _margin(layer: SingleHead, back: np.ndarray, p: np.ndarray, r: np.ndarray, x: np.ndarray) -> float:
    """min_i of <p_i, a_i> - |a_i|^2 for the unprompted answers: where it is positive and the update is strong, the point of [0, a_i] nearest to the
    target is a_i itself, and prompts of little mass come arbitrarily near the floor."""
    size = _token_size(layer, back, p, r, x)
    share = outputs(layer, size * np.stack([p.T @ back.T, r.T @ back.T, x.T @ back.T], axis=1)) / size
    return float((np.einsum("nv,vn->n", share, p) - (share * share).sum(axis=1)).min())


def _token_size(layer: SingleHead, back: np.ndarray, p: np.ndarray, r: np.ndarray, x: np.ndarray) -> float:
    """1, or less where the frozen layer's logits would exceed 1: a softmax that is nearly hard leaves an update little to move."""
    logits = (layer.w_q @ back @ x).T @ (layer.w_k @ back @ np.hstack([p, r, x])) / np.sqrt(len(layer.w_q))
    return min(1.0, 1.0 / np.sqrt(max(float(np.abs(logits).max()), 1e-300)))


def _simplex_around(b: Float[np.ndarray, " d_v"], n: int, rng: np.random.Generator) -> Float[np.ndarray, "d_v n"]:
    """n orthonormal columns with equal inner products |b| / sqrt(n) with b: an orthonormal basis that starts with b, turned by a matrix
    whose first row is constant."""
    basis = np.linalg.qr(np.column_stack([b, rng.standard_normal((len(b), n - 1))]))[0]
    basis[:, 0] *= np.sign(basis[:, 0] @ b)
    turn = np.linalg.qr(np.column_stack([np.ones(n), rng.standard_normal((n, n - 1))]))[0]
    turn[:, 0] = 1 / np.sqrt(n)
    return basis @ turn.T


def _beside(taken: Float[np.ndarray, "d_v k"], more: int, rng: np.random.Generator) -> Float[np.ndarray, "d_v more"]:
    """`more` random orthonormal columns orthogonal to the orthonormal ones taken."""
    k = taken.shape[1]
    full = np.linalg.qr(np.column_stack([taken, rng.standard_normal((len(taken), more))]))[0]
    return full[:, k:]


def _separating(
    keys: Float[np.ndarray, "d_k d_v"], p: np.ndarray, r: np.ndarray, x: np.ndarray
) -> Float[np.ndarray, " d_k"]:
    """up with <up, W_K t> = 1, -1, 0 on the p, r and x. Raises StatementError where keys are too dependent for that."""
    tokens = np.hstack([p, r, x])
    wanted = np.repeat([1.0, -1.0, 0.0], p.shape[1])
    up = np.linalg.lstsq((keys @ tokens).T, wanted, rcond=None)[0]
    miss = float(np.abs((keys @ tokens).T @ up - wanted).max())
    if not miss < 1e-8:
        raise StatementError(
            f"w_k: no update of the queries separates the tokens (best miss {miss:.3g}); the {tokens.shape[1]} keys need rank {tokens.shape[1]}, "
            f"W_K has {len(keys)} rows: update the keys instead"
        )
    return up
