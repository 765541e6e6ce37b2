"""Shortest smooth head on S^2: fitted values on spread-out keys, lengths by bisection, sharpnesses by a scan.

The span of e^{lambda<x, b_k>}, k < (n+1)^2, contains almost all spherical harmonics of degree n as lambda falls (each
harmonic of degree j is multiplied by i_j(lambda), the modified spherical Bessel function: Funk-Hecke), and the values grow
as 1/i_j. For each length there is a best sharpness, where the approximation still improves and rounding does not yet hurt.
Keys are the golden-angle spiral, available for every length (E. B. Saff and A. B. J. Kuijlaars, "Distributing many points on
a sphere", 1997; R. Swinbank and R. J. Purser, 2006).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from constructions.petrov2024.smooth_head import ERROR_SHARE, SmoothHead, cap_on_values
from constructions.petrov2024.values import Family, fit_values, sup_error
from constructions.sharp.deadline import check_deadline

__all__ = ["golden_spiral", "sphere_heads"]

Evaluate = Callable[[np.ndarray], np.ndarray]

_OVERSAMPLING = 4
_CHECKS = 6000
_ROUNDS = 20
_GAIN = 3.0
_EXCHANGES = 3
# Up to this length every length is tried.
_BISECTED = 80
_SETTLED = 60
_LONGEST = 1500
_SHARPEST = 64.0


def golden_spiral(count: int, start: float = 0.5) -> Float[np.ndarray, "count 3"]:
    """`count` spread-out points of S^2: heights equidistant, azimuths by the golden angle."""
    i = np.arange(count) + 0.5
    z = 1 - 2 * i / count
    azimuth = np.pi * (1 + 5**0.5) * (i + start)
    r = np.sqrt(1 - z * z)
    points = np.stack([r * np.cos(azimuth), r * np.sin(azimuth), z], axis=1)
    return points / np.linalg.norm(points, axis=1, keepdims=True)


@dataclass(frozen=True, eq=False)
class _Search:
    """One target, its head and the share of eps the sampled error is to stay below."""

    evaluate: Evaluate
    family: Family
    eps: float
    goal: float
    size: float
    deadline: float | None

    def fitted(
        self, keys: np.ndarray, sharpness: float, points: np.ndarray, checks: np.ndarray, rounds: int
    ) -> SmoothHead:
        """Values fitted on `points`; error and size measured on `checks`."""
        tokens = len(keys)
        check_deadline(self.deadline, (1 + rounds) * 6.0 * len(points) * tokens**2 + 30.0 * len(checks) * tokens)
        cap = cap_on_values(tokens, sharpness, 3, self.eps, self.size)
        values = fit_values(
            points,
            self._targets(points),
            keys,
            sharpness,
            self.family,
            goal=0.97 * self.goal * self.eps,
            cap=cap,
            rounds=rounds,
        )
        error, size = sup_error(checks, self._targets(checks), keys, sharpness, values, self.family)
        return SmoothHead(keys, sharpness, values, float(error.max()), size)

    def screened(self, tokens: int, sharpnesses: np.ndarray) -> SmoothHead:
        """The best least-squares head of a length: the smallest values among those that will do, else the smallest error."""
        keys, points = golden_spiral(tokens), golden_spiral(_OVERSAMPLING * tokens, 0.1)
        checks = golden_spiral(2 * _OVERSAMPLING * tokens, 0.3)
        heads = [self.fitted(keys, float(s), points, checks, 0) for s in sharpnesses]
        good = [head for head in heads if head.within(0.9 * self.eps, self.goal)]
        return min(good, key=lambda head: head.size) if good else min(heads, key=lambda head: head.error)

    def refined(self, tokens: int, sharpness: float) -> SmoothHead:
        """Towards minimax values, with the worst points of a fine grid, found to their local maxima, joining the samples."""
        keys, points = golden_spiral(tokens), golden_spiral(_OVERSAMPLING * tokens, 0.1)
        checks = golden_spiral(max(_CHECKS, 40 * tokens), 0.7)
        head = self.fitted(keys, sharpness, points, checks, _ROUNDS)
        for _ in range(_EXCHANGES):
            worst, error = self._worst(head, checks)
            head = replace(head, error=max(head.error, error))
            if head.within(self.eps, self.goal) or head.error > _GAIN * self.goal * self.eps:
                break
            points, checks = np.concatenate([points, worst]), np.concatenate([checks, worst])
            head = self.fitted(keys, sharpness, points, checks, _ROUNDS)
        return head

    def attempt(self, tokens: int, sharpnesses: np.ndarray) -> SmoothHead | None:
        """A head of this length within the goal; refinement is tried where least squares comes near."""
        trial = self.screened(tokens, sharpnesses)
        if trial.error > _GAIN * self.goal * self.eps:
            return None
        trial = self.refined(tokens, trial.sharpness)
        return trial if trial.within(self.eps, self.goal) else None

    def _worst(self, head: SmoothHead, checks: np.ndarray) -> tuple[Float[np.ndarray, "P 3"], float]:
        """The largest errors among the checks, followed uphill by a shrinking pattern search; the points and the largest error."""
        error, _ = self._errors(head, checks)
        points = checks[np.argsort(error)[-len(head.keys) // 2 - 8 :]]
        error, _ = self._errors(head, points)
        step = 2.0 / np.sqrt(len(checks))
        directions = golden_spiral(12)
        for _ in range(7):
            moved = points[:, None] + step * directions
            moved /= np.linalg.norm(moved, axis=2, keepdims=True)
            there = self._errors(head, moved.reshape(-1, 3))[0].reshape(len(points), -1)
            best = np.argmax(there, axis=1)
            gain = there[np.arange(len(points)), best]
            points = np.where((gain > error)[:, None], moved[np.arange(len(points)), best], points)
            error = np.maximum(gain, error)
            step *= 0.6
        return points, float(error.max())

    def _errors(self, head: SmoothHead, points: np.ndarray) -> tuple[np.ndarray, float]:
        return sup_error(points, self._targets(points), head.keys, head.sharpness, head.values, self.family)

    def _targets(self, points: np.ndarray) -> np.ndarray:
        return np.asarray(self.evaluate(points), dtype=np.float64)


def sphere_heads(
    evaluate: Evaluate, family: Family, eps: float, *, max_tokens: int, deadline: float | None = None
) -> Iterator[SmoothHead]:
    """Heads on spiral keys of S^2 whose sampled error is at most 0.9 eps, shortest first; one of half that error follows.

    evaluate: (P, 3) points of the sphere -> (P, k). Lengths beyond `max_tokens` or 1500 are not tried. Raises DeadlinePassed
    where `deadline` (of time.monotonic()) passes.
    """
    start = 4
    size = float(np.max(np.abs(evaluate(golden_spiral(_CHECKS, 0.7)))))
    for goal in (ERROR_SHARE, ERROR_SHARE / 2):
        search = _Search(evaluate, family, eps, goal, size, deadline)
        head = _shortest(search, start, min(max_tokens, _LONGEST))
        if head is None:
            return
        yield head
        start = len(head.keys)


def _shortest(search: _Search, start: int, longest: int) -> SmoothHead | None:
    """Lengths grow by a quarter until a head will do; the shortest is sought from the last hopeless length on."""
    sharpnesses = every = search.family.sharpnesses(search.size, search.goal * search.eps, _SHARPEST)
    if len(every) == 0:
        return None
    hopeless = tokens = min(start, longest)
    while True:
        head = search.screened(tokens, sharpnesses)
        near = head.error <= _GAIN * search.goal * search.eps
        found = search.refined(tokens, head.sharpness) if near else None
        if found is not None and found.within(search.eps, search.goal):
            break
        if tokens >= longest:
            return None
        if not near:
            hopeless = tokens
        if tokens > _SETTLED:
            # the best sharpness moves slowly with the length
            at = int(np.argmin(np.abs(every - head.sharpness)))
            sharpnesses = every[max(0, at - 2) : at + 4]
        tokens = min(longest, max(tokens + 1, int(1.25 * tokens)))
    if tokens > _BISECTED:
        return _bisected(search, hopeless, tokens, sharpnesses, found)
    trials = (search.attempt(length, sharpnesses) for length in range(hopeless, tokens))
    return next((trial for trial in trials if trial is not None), found)


def _bisected(search: _Search, low: int, high: int, sharpnesses: np.ndarray, best: SmoothHead) -> SmoothHead:
    """Long heads: success is nearly monotone in the length, and a percent of it is not worth more trials."""
    while high - low > max(1, high // 80):
        middle = (low + high) // 2
        trial = search.attempt(middle, sharpnesses)
        best = best if trial is None else trial
        low, high = (middle, high) if trial is None else (low, middle)
    return best
