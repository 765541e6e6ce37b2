"""The search for a short head: climb in length, drop tokens, sharpen.

A head with N tokens has N (n + 1 + k) parameters, while a linear basis of N functions has N k: moving the keys pays.
Starting from Gaussian keys on a covering lattice, Levenberg-Marquardt steps with the values projected out find a
least-squares fit, the least important tokens are dropped while that fit stays good, and reweighted steps push it
towards the smallest sup error. Work is counted in floating-point operations, so the result does not depend on a clock.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

import numpy as np

from constructions.sharp.deadline import DeadlinePassed, check_deadline
from constructions.sharp.tensor_head import Head, drop_tokens, lawson_values, log_normaliser, softmax_weights
from constructions.sharp.tensor_lattice import lattice_points, parabola_keys
from constructions.sharp.tensor_newton import Fit, fit_head, newton_work
from constructions.sharp.tensor_problem import Candidate, Problem, accepted

__all__ = ["free_key_heads", "roomier_heads"]

_RATE = 2e10  # floating-point operations taken for one second of effort
_BASE_WORK = (7e9, 5e10)  # spent on shortening at effort 0: always allowed; and at most, however long the climb took
_NEWTON_TOKENS = 420  # longest prefix whose keys are optimised
_LAWSON_TOKENS = 150  # longest prefix whose values are polished by singular value decompositions


def free_key_heads(problem: Problem, effort: float, max_tokens: int) -> list[Candidate]:
    """Climb in length until least squares succeeds, drop tokens while it does, sharpen, and go on shortening."""
    found: list[Candidate] = []
    # time over: what was found before stands
    with contextlib.suppress(DeadlinePassed):
        _climb(problem, effort, max_tokens, found)
    return found


def _climb(problem: Problem, effort: float, max_tokens: int, found: list[Candidate]) -> None:
    """Append to `found`; raises DeadlinePassed."""
    tokens, hopeless, last = 2, 0, None
    errors: list[tuple[int, float]] = []
    limit = _BASE_WORK[1] * 3 + effort * _RATE
    while tokens <= min(max_tokens, _NEWTON_TOKENS) and problem.work < limit and not found:
        starts = [_start(problem, tokens, s) for s in ((0.35, 1.0) if tokens <= 40 else (0.35,))]
        if last is not None and tokens <= 100:
            starts.append(_grown(problem, last.head, tokens - last.head.length))
        fits: list[Fit] = []
        for head in starts:
            fit = _smooth(problem, head)
            if fit is None:
                continue
            fits.append(fit)
            for shorter in reversed(_descent(problem, fit, effort * _RATE)) if tokens > 20 else [fit]:
                success = _sharpened(problem, shorter)
                if success is not None:
                    found.append(success)
                    break
            if found:
                break
        if not found:
            if fits:
                last = min(fits, key=lambda fit: fit.rms)
                errors.append((tokens, last.rms))
            tokens, wanted = _next_length(problem, tokens, errors)
            hopeless = hopeless + 1 if wanted > 4 * _NEWTON_TOKENS else 0
            if hopeless > 1 and tokens > 90:
                break
    if found:
        budget = problem.work + min(max(_BASE_WORK[0], 1.0 * problem.work), _BASE_WORK[1]) + effort * _RATE
        _shorten(problem, found, budget, effort * _RATE)


def _next_length(problem: Problem, tokens: int, errors: list[tuple[int, float]]) -> tuple[int, float]:
    """The next length to try, +5% to +50%, and the length wanted by the law log error ~ -c tokens^(1/n)."""
    least, most = tokens + max(1, tokens // 20), tokens + max(1, tokens // 2)
    if len(errors) < 3:
        return (least if tokens < 8 else most), 0.0
    (short, before), (long, after) = errors[-3], errors[-1]
    p = 1.0 / problem.n
    rate = np.log(max(before / after, 1.0 + 1e-9)) / max(long**p - short**p, 1e-9)
    wanted = (tokens**p + np.log(max(after / (0.35 * problem.goal), 1.05)) / rate) ** problem.n
    wanted = float(wanted) if np.isfinite(wanted) else np.inf
    return int(np.clip(min(wanted, 1e9), least, most)), wanted


def _start(problem: Problem, tokens: int, sharpness: float, shift: float = 0.0, round_cells: bool = False) -> Head:
    """Gaussian keys on a covering lattice reaching a little outside of the cube, finer where the target is steeper.

    sharpness: b h^2 for lattice distance h; small is smooth, large is a Voronoi look-up.
    """
    metric = np.eye(problem.n) if round_cells else problem.metric
    centres, spacing = lattice_points(metric, tokens, shift, problem.deadline)
    stretch = 1.0 + 0.15 * spacing
    slopes, biases = parabola_keys(stretch * centres, sharpness / (stretch * spacing) ** 2 * metric)
    return Head(slopes, biases, np.zeros((tokens, problem.k)))


def _grown(problem: Problem, head: Head, extra: int) -> Head:
    """The head with tokens added where the residual is largest.

    With L = log sum_j e^{s_j}, the tangent plane of L at a point z is a logit that nowhere exceeds L and touches it at
    z: the new token takes half of the weight there and less elsewhere, over the width that the head already has at z.
    """
    samples = problem.fit_grid(head.length + extra)
    weights = softmax_weights(samples.points, head.slopes, head.biases)
    level = log_normaliser(samples.points, head.slopes, head.biases)
    residual = np.abs(weights @ head.values - samples.values).max(axis=1)
    slopes, biases, values = [head.slopes], [head.biases], [head.values]
    for _ in range(extra):
        check_deadline(problem.deadline)
        z = int(np.argmax(residual))
        slope = weights[z] @ head.slopes
        slopes.append(slope[None])
        biases.append(np.array([level[z] - samples.points[z] @ slope]))
        values.append(samples.values[z : z + 1])
        share = np.minimum(np.exp(samples.points @ slope + biases[-1] - level), 1.0)
        residual = residual * (1.0 - share) ** 2
    return Head(np.concatenate(slopes), np.concatenate(biases), np.concatenate(values))


def _smooth(problem: Problem, head: Head, patience: float = 1.0) -> Fit | None:
    """Least squares on all parameters until the root mean square promises a sup error of eps."""
    tokens = head.length
    samples = problem.fit_grid(tokens)
    horizon = int(patience * np.clip(2e5 / tokens**2, 40, 200))
    stop, ridge = 0.25 * problem.goal, problem.ridge(tokens)
    fit = fit_head(
        head, samples, steps=2 * horizon, horizon=horizon, stop_rms=stop, ridge=ridge, deadline=problem.deadline
    )
    problem.work += (1 + (fit.steps if fit else 0)) * newton_work(tokens, len(samples.points), problem.n, problem.k)
    return fit


def _sharpened(problem: Problem, fit: Fit) -> Candidate | None:
    """From a least-squares fit to a small sup error, on a denser grid; the check decides.

    In the experience of many targets sharpening ends with a sup error of two or more root mean squares: other fits are
    not worth the work.
    """
    tokens, goal = fit.head.length, problem.goal
    if fit.rms > (0.8 if tokens <= 12 else 0.5) * goal:
        return None
    samples = problem.fit_grid(tokens, 2.0)
    sharp = fit_head(
        fit.head,
        samples,
        steps=20,
        sharpen=0.15,
        damping=fit.damping,
        stop_sup=0.8 * goal,
        ridge=problem.ridge(tokens),
        deadline=problem.deadline,
    )
    steps = 1 + (sharp.steps if sharp else 0)
    problem.work += steps * newton_work(tokens, len(samples.points), problem.n, problem.k)
    if sharp is None or sharp.sup > 1.3 * goal:
        return None
    grid: dict[str, object] = {"family": "free keys", "shape": (tokens,)}
    problem.work += 150.0 * tokens * len(problem.check_grid(tokens).points)
    found = accepted(problem, sharp.head, grid, sharp)
    if found is None and tokens <= _LAWSON_TOKENS:
        samples = problem.fit_grid(tokens, 3.0)
        problem.work += 5 * 30.0 * tokens**2 * len(samples.points)
        head = lawson_values(sharp.head, samples, np.ones(len(samples.points)), 5, deadline=problem.deadline)
        found = accepted(problem, head, grid, sharp)
    return found


def _descent(problem: Problem, fit: Fit, extra: float) -> list[Fit]:
    """The fit and ever shorter ones: the least important tokens dropped while least squares stays small enough.

    Ends when one token less fails, or the work done since the start of the search has grown 2.5-fold (plus `extra`).
    """
    chain = [fit]
    if fit.rms > 0.27 * problem.goal:
        return chain
    step = max(1, fit.head.length // 8)
    budget, eased = max(_BASE_WORK[0], 2.5 * problem.work) + extra, False
    while step and problem.work < budget:
        head = drop_tokens(chain[-1].head, np.argsort(chain[-1].importance)[:step])
        shorter = _smooth(problem, head, patience=0.6)
        if shorter is not None and shorter.rms <= 0.27 * problem.goal:
            chain.append(shorter)
            step = min(2 * step if eased else step, max(1, shorter.head.length // 8))
            eased = True
        else:
            step, eased = step // 2, False
    return chain


def _shorten(problem: Problem, found: list[Candidate], budget: float, extra: float) -> None:
    """Append ever shorter candidates: the least important tokens are dropped and the rest refitted.

    Where that fails one token below the shortest, fresh lattices and other tokens to drop are tried in turn, until the
    budget is spent or the work since the last success outgrows (by more than `extra`) half of what led to it.
    """
    step = max(1, found[-1].head.length // 25)
    tried, since = 0, problem.work
    while problem.work < budget and problem.work - since < max(_BASE_WORK[0], 0.5 * since) + extra and tried < 500:
        shortest = min(found, key=lambda c: c.head.length)
        tokens = shortest.head.length - step
        if tokens < 2 or shortest.fit is None:
            return
        turn = tried // 2
        if tried % 2 == 0 and turn + step <= shortest.head.length:
            head = drop_tokens(shortest.head, np.argsort(shortest.fit.importance)[turn : turn + step])
        else:
            sharpness = (0.5, 0.25, 1.0, 0.7, 0.35)[turn % 5]
            head = _start(problem, tokens, sharpness, 0.31 * tried, round_cells=turn % 2 == 1)
        fit = _smooth(problem, head)
        success = _sharpened(problem, fit) if fit is not None else None
        if success is not None:
            found.append(success)
            tried, since = 0, problem.work
        elif step > 1:
            step, tried = step // 2, 0
        else:
            tried += 1


def roomier_heads(problem: Problem, shortest: Candidate) -> list[Candidate]:
    """A longer head with less than half the error, grown from the shortest one; empty if a few steps do not find it."""
    with contextlib.suppress(DeadlinePassed):
        return _roomier(problem, shortest)
    return []


def _roomier(problem: Problem, shortest: Candidate) -> list[Candidate]:
    """The same; raises DeadlinePassed."""
    tighter = replace(problem, eps=0.45 * problem.eps)
    length = shortest.head.length
    head = _grown(problem, shortest.head, max(1, length // 8))
    for _ in range(3):
        fit = _smooth(tighter, head)
        if fit is None:
            return []
        success = _sharpened(tighter, fit)
        if success is not None:
            return [success]
        head = _grown(problem, fit.head, max(1, length // 8))
    return []
