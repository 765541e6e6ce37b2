"""Prompts that reach the floor in the limit, and the single token that imitates an update of the values.

A prompt of N tokens with little mass and huge values adds C V, where c_ij > 0 is the share of token j in example i. What it must undo is M^T with
rows z_i - a_i. For orthogonal rows of lengths d_i, with D = diag(d), the best rank-N correction leaves D (1 - P) D^-1 M^T with an orthogonal projection P
of rank N, hence errors d_i (1 - P)_ii^(1/2), such that d_i^2 (1 - P)_ii = floor^2 on the examples of the largest d_i: Schur and Horn say which diagonals a projection can have, Bendel and
Mickey's rotations build it. C must be positive: conjugating P with signs changes no diagonal and makes some vector h of its range positive, and
h + (a little of each basis vector) spans the range. Keys with <q_i, k_j> = ln c_ij exist where the queries are independent.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

from constructions.wang2023.lora.layer import SingleHead, outputs
from verify.lora_run import AttentionTask, Prompt
from verify.statement import StatementError

__all__ = ["best_prompt", "imitating_prompt", "one_token", "served", "with_row_norms"]

MASS = 1e-8
"""Total share of a prompt's tokens: the distance to the floor is of that order, values are of the order of its inverse."""


def one_token(task: AttentionTask, mass: float) -> Prompt:
    """The prompt of one token that imitates a rank-1 update of the values that moves all answers the same way, with an error of the order `mass`.

    Let z_i - a_i = c_i u with c_i > 0. A key with <q_i, k> = ln(mass c_i / max c) + ln Z_i and the value max(c) u / mass give the output
    (a_i + (mass c_i / max c) value) / (1 + mass c_i / max c) = z_i + O(mass). Raises StatementError where answers do not all move along one ray or no such key
    exists.
    """
    if not 0 < mass < 1:
        raise StatementError(f"mass = {mass!r}: expected a share in (0, 1)")
    layer = SingleHead(task.w_q, task.w_k, task.w_v)
    moved = task.targets - outputs(layer, task.sequences)
    ray = _ray(moved)
    if ray is None:
        raise StatementError(
            "targets: answers must all move along one ray, as an update of the values with positive coefficients does; singular values of "
            f"what a prompt has to add: {np.linalg.svd(moved, compute_uv=False)[:3]}"
        )
    keys = _keys(task, mass * ray[0][:, None])
    if keys is None:
        raise StatementError(
            f"w_q: queries cannot be addressed one by one; they must be linearly independent, which needs d_k >= {task.examples}, and it is {len(task.w_q)}"
        )
    return Prompt(keys, ray[1][None, :] / mass)


def best_prompt(task: AttentionTask, tokens: int, mass: float = MASS) -> Prompt | None:
    """A prompt of `tokens` tokens near the floor where targets minus outputs are nearly orthogonal; None where queries are too dependent to address
    examples one by one. `tokens` >= n are enough to come near any targets: the first n tokens address one example each."""
    n = task.examples
    moved = task.targets - outputs(SingleHead(task.w_q, task.w_k, task.w_v), task.sequences)
    if tokens >= n:
        return imitating_prompt(task, tokens)
    if tokens == 1 and (ray := _ray(moved)) is not None:
        keys = _keys(task, mass * ray[0][:, None])
        return None if keys is None else Prompt(keys, ray[1][None, :] / mass)
    lengths = np.linalg.norm(moved, axis=1)
    chosen, left = served(lengths, tokens)
    complement = with_row_norms(left)
    basis = np.linalg.qr(complement, mode="complete")[0][:, complement.shape[1] :]
    shares, basis = _positive(basis)
    full = np.full((n, tokens), mass * 1e-16)
    long = lengths[chosen, None]
    shares = long * shares  # the projection is of rows of unit length: what it corrects is d_i (P rows / d)_i
    full[chosen] = mass * shares / shares.max()
    plan = long * (basis @ (basis.T @ (moved[chosen] / np.maximum(long, 1e-300))))
    keys = _keys(task, full)
    if keys is None:
        return None
    return Prompt(keys, np.linalg.lstsq(full[chosen], plan, rcond=None)[0])


def served(lengths: Float[np.ndarray, " n"], tokens: int) -> tuple[Float[np.ndarray, " s"], Float[np.ndarray, " s"]]:
    """Which examples the best prompt of N < n tokens serves, and what part of each squared length it leaves: floor^2 / d_i^2, which sum to s - N.

    floor^2 = max_{s > N} (s - N) / sum_{i <= s} d_i^-2 over the s longest; at the best s every part is at most 1.
    """
    order = np.argsort(lengths)[::-1]
    with np.errstate(divide="ignore"):
        inverse = np.cumsum(lengths[order] ** -2.0)
    squares = [
        (s - tokens) / inverse[s - 1] for s in range(tokens + 1, len(order) + 1)
    ]  # 1 / inf = 0 for a length of zero
    s = tokens + 1 + int(np.argmax(squares))
    chosen = order[:s]
    if max(squares) == 0:  # fewer than N + 1 examples to move: serve any, leave nothing to speak of
        return chosen, np.repeat([0.0, 1.0], [tokens, s - tokens])
    return chosen, np.minimum(max(squares) / lengths[chosen] ** 2, 1.0)


def with_row_norms(squares: Float[np.ndarray, " s"]) -> Float[np.ndarray, "s k"]:
    """An isometry F with the given squared row norms in [0, 1], which sum to an integer k: rows of the identity and of zeros, turned in
    pairs. At each step one row is neither unit nor zero; with a zero row it makes any smaller norm, with a unit row any larger one."""
    s, k = len(squares), round(float(squares.sum()))
    f = np.eye(s, k)
    units, zeros = list(range(1, k)), list(range(k, s))
    part = 0  # the row in between; its norm may be 1 to begin with
    for square in (targets := list(squares))[:-1]:
        have = float(f[part] @ f[part])
        other = zeros if (have >= square and zeros) or not units else units
        if not other:
            break
        row = other.pop()
        theirs = float(f[row] @ f[row])
        # cos^2 have + sin^2 theirs = square; the rows are orthogonal
        sin2 = min(max((have - square) / (have - theirs), 0.0), 1.0) if have != theirs else 0.0
        c, t = np.sqrt(1 - sin2), np.sqrt(sin2)
        f[[part, row]] = np.stack([c * f[part] + t * f[row], c * f[row] - t * f[part]])
        part = row
    # rows come out in an order of their own: match them to the norms asked for
    out = np.empty_like(f)
    out[np.argsort(targets)] = f[np.argsort((f * f).sum(axis=1))]
    return out


def _positive(basis: Float[np.ndarray, "s N"]) -> tuple[Float[np.ndarray, "s N"], Float[np.ndarray, "s N"]]:
    """Positive columns that span the range of D B, and D B, for an orthonormal B and suitable signs D: of some vectors of the range of B the one with the
    largest least entry is made positive, and small parts of the basis are added to it."""
    rng = np.random.default_rng(0)
    tried = rng.standard_normal((200, basis.shape[1])) @ basis.T
    tried /= np.linalg.norm(tried, axis=1, keepdims=True)
    inside = tried[int(np.argmax(np.abs(tried).min(axis=1)))]
    turned = np.sign(inside)[:, None] * basis
    inside = np.abs(inside)
    step = 0.9 * inside.min() / np.abs(turned).max()
    return inside[:, None] + step * turned, turned


def _ray(moved: Float[np.ndarray, "n d_v"]) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " d_v"]] | None:
    """Coefficients in (0, 1] and a vector with moved = their outer product, up to rounding; None where there are none."""
    u, s, vt = np.linalg.svd(moved, full_matrices=False)
    along = u[:, 0] * np.sign(u[0, 0])
    if s[1:].max(initial=0.0) > 1e-8 * s[0] or not along.min() > 1e-8 * along.max():
        return None
    return along / along.max(), vt[0] * np.sign(u[0, 0]) * s[0] * along.max()


def imitating_prompt(task: AttentionTask, tokens: int, sharpness: float = 30.0) -> Prompt | None:
    """n tokens, one for every example, that bring each answer to its target within e^-sharpness; further tokens have no mass to speak of."""
    n = task.examples
    shares = np.full((n, tokens), np.exp(-2 * sharpness))
    np.fill_diagonal(shares, 0.5)
    keys = _keys(task, shares)
    if keys is None:
        return None
    values = np.zeros((tokens, task.targets.shape[1]))
    layer = SingleHead(task.w_q, task.w_k, task.w_v)
    values[:n] = 2 * task.targets - outputs(layer, task.sequences)
    return Prompt(keys, values)


def _keys(task: AttentionTask, shares: Float[np.ndarray, "n N"]) -> Float[np.ndarray, "N d_k"] | None:
    """Keys that give token j the share c_ij of the softmax in example i: ln c_ij + ln Z_i - ln(1 - sum_j c_ij) as logits, Z_i the sequence's own mass.

    None where the queries are too dependent for that.
    """
    root = np.sqrt(len(task.w_q))
    queries = task.sequences[:, -1, :] @ task.w_q.T / root
    own = logsumexp(np.einsum("nk,ntk->nt", queries, task.sequences @ task.w_k.T), axis=1)
    logits = np.log(shares) + (np.asarray(own) - np.log1p(-shares.sum(axis=1)))[:, None]
    found = np.linalg.lstsq(queries, logits, rcond=None)[0]
    miss = float(np.abs(queries @ found - logits).max())
    return found.T if miss < 1e-8 and np.isfinite(found).all() else None
