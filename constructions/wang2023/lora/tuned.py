"""Prompts found by training: keys and values of N tokens, L-BFGS on a smooth maximum of the squared errors. Sampled, nothing is proved here."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from constructions.wang2023.lora.layer import SingleHead, outputs
from verify.lora_run import AttentionTask, Prompt
from verify.statement import StatementError

__all__ = ["TunedPrompt", "tuned_prompt"]

TunedPrompt = tuple[Prompt, float]
"""A prompt and its largest error, computed in float64."""


def tuned_prompt(task: AttentionTask, tokens: int, *, starts: int = 3, steps: int = 400, seed: int = 0) -> TunedPrompt:
    """The best of `starts` runs from random prompts of `tokens` tokens. Raises StatementError (a ValueError) for fewer than one token or start.

    The loss is log sum_i exp(beta |error_i|^2) / beta with beta growing from 1 to 10^4 over the squared error without a prompt.
    """
    if tokens < 1 or starts < 1 or steps < 1:
        raise StatementError(f"tokens = {tokens}, starts = {starts}, steps = {steps}: all must be at least 1")
    rng = np.random.default_rng(seed)
    layer = SingleHead(task.w_q, task.w_k, task.w_v)
    d_k, d_v = len(task.w_q), len(task.w_v)
    queries = task.sequences[:, -1, :] @ task.w_q.T / np.sqrt(d_k)
    own = np.asarray(logsumexp(np.einsum("nk,ntk->nt", queries, task.sequences @ task.w_k.T), axis=1))
    plain = outputs(layer, task.sequences)
    size = max(float(((plain - task.targets) ** 2).sum(axis=1).max()), 1e-300)

    def loss(flat: Float[np.ndarray, " p"], beta: float) -> tuple[float, Float[np.ndarray, " p"]]:
        keys, values = flat[: tokens * d_k].reshape(tokens, d_k), flat[tokens * d_k :].reshape(tokens, d_v)
        share = softmax(np.column_stack([own, queries @ keys.T]), axis=1)
        answers = np.vstack([np.zeros((1, d_v)), values])
        mixed = share[:, :1] * plain + share[:, 1:] @ values
        errors = mixed - task.targets
        scaled = beta * (errors**2).sum(axis=1) / size
        by_output = 2 * softmax(scaled)[:, None] * errors / size
        # d output / d logit_j = share_j (value_j - output), the sequence itself counting as one token of value a_i
        moved = by_output @ answers.T - np.einsum("nv,nv->n", by_output, mixed)[:, None]
        by_logit = share[:, 1:] * moved[:, 1:]
        gradient = np.concatenate([(by_logit.T @ queries).ravel(), (share[:, 1:].T @ by_output).ravel()])
        return float(np.asarray(logsumexp(scaled))) / beta, gradient

    best: TunedPrompt | None = None
    for _ in range(starts):
        flat = np.concatenate([rng.standard_normal(tokens * d_k), rng.standard_normal(tokens * d_v)])
        for beta in (1.0, 10.0, 100.0, 1e3, 1e4):
            flat = minimize(loss, flat, args=(beta,), jac=True, method="L-BFGS-B", options={"maxiter": steps}).x
        prompt = Prompt(flat[: tokens * d_k].reshape(tokens, d_k), flat[tokens * d_k :].reshape(tokens, d_v))
        miss = outputs(layer, task.sequences, prompt=prompt) - task.targets
        error = float(np.linalg.norm(miss, axis=1).max())
        if best is None or error < best[1]:
            best = prompt, error
    assert best is not None
    return best
