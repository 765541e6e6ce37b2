"""The shortest head for a smooth target of one variable: free exponents, free positive denominator, minimax values.

A head g = sum_j w_j v_j is a ratio of exponential sums with positive denominator. The search goes from cheap to dear:

1. `free_denominators` on whole families of exponents finds the shortest length a *linear* method reaches;
2. `refine` moves keys and biases from the best of those starts at shorter and shorter lengths;
3. with time left (`effort`), tokens are deleted from the best head and its keys shaken, again and again.

A proposal is accepted on the error of the head as float64 evaluates it on the fine grid, plus an estimate of its
rounding. That is a sampled error, never a bound: the verifier decides.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from constructions.proposal import Proposal
from constructions.sharp.deadline import DeadlinePassed, check_deadline
from constructions.sharp.families import Exponents, exponents
from constructions.sharp.rational import free_denominators
from constructions.sharp.refine import refine
from constructions.sharp.samples import Samples, sample
from constructions.sharp.starts import deletions, members, neighbours, pairs, perturbed
from constructions.sharp.stored import StoredHead, store

__all__ = ["propose_minimax"]

# Sampled error plus rounding stays below this share of eps: maxima between fine-grid points, and the proof's slack.
_MARGIN = 0.985
# Floating-point operations the linear method may spend before a search without effort stops looking further.
_BUDGET = 4e9
# Keys are moved from a linear start whose error is at most this multiple of the tolerance...
_REACH = 30.0
# ... or, below a length already reached, this one.
_REACH_BELOW = 1e4

Start = tuple[np.ndarray, np.ndarray, Exponents]


def propose_minimax(
    f: Callable[[np.ndarray], np.ndarray],
    lo: float,
    hi: float,
    eps: float,
    *,
    effort: float = 0.0,
    max_tokens: int = 400,
    breakpoints: Sequence[float] = (),
    deadline: float | None = None,
) -> Iterator[Proposal]:
    """Heads whose sampled sup error on [lo, hi], rounding included, is below eps: the shortest found first.

    f: (m,) -> (m, k), evaluated once, on points of [lo, hi] only. effort: seconds of further search for shorter
    heads; 0 stops after a bounded amount of work. What follows the first proposal is computed when asked for: heads
    of the same length with more margin, then longer ones. Yields nothing if no head of at most max_tokens is found
    or f is not finite somewhere; raises nothing. deadline: of time.monotonic(), after which the search stops with the
    heads already found; without one (and without effort) no clock is read.
    """
    with np.errstate(all="ignore"):
        if not eps > 0 or max_tokens < 1:
            return
        try:
            samples = sample(f, lo, hi, eps, breakpoints, deadline)
        except (DeadlinePassed, ArithmeticError, RecursionError):
            return
        if samples is None:
            return
        search = _Search(samples, eps, max_tokens, limit=deadline)
        end = time.monotonic() + effort
        # if a factorisation of extreme keys does not converge or time is over, what was found before stands
        with contextlib.suppress(np.linalg.LinAlgError, DeadlinePassed):
            search.run()
            if effort > 0:
                search.deadline = end
                search.persist(np.random.default_rng(0))
    if not search.heads:
        return
    shortest = min(search.heads)
    yield _proposal(search.heads[shortest])
    search.deadline = None
    for tokens, share in ((shortest, 0.6), (shortest + 1, 0.8), (shortest + 2, 0.5), (shortest + 4, 0.3)):
        if tokens <= max_tokens:
            with np.errstate(all="ignore"):
                try:
                    head = search.spare(tokens, share)
                except (np.linalg.LinAlgError, DeadlinePassed):
                    head = None
            if head is not None:
                yield _proposal(head)
    for tokens in sorted(search.heads)[1:]:
        yield _proposal(search.heads[tokens])


def _proposal(head: StoredHead) -> Proposal:
    return Proposal(
        slopes=head.slopes[:, None],
        biases=head.biases,
        values=head.values,
        method="minimax",
        grid={"family": head.origin.family, "span": float(np.ptp(head.slopes)), "exponents": head.slopes},
        error_estimate=head.error,
    )


@dataclass(eq=False)
class _Search:
    """One search in coordinates where interval and values are [-1, 1]; what it has tried, and the heads it found.

    heads: best stored head of each length. scans: results of the linear method at each length, by exponents.
    elite: keys reached by refinement at each length, successful or not, best first.
    deadline: when `effort` is over, which ends a refinement with its best; limit: when everything must, at once.
    """

    samples: Samples
    eps: float
    max_tokens: int
    deadline: float | None = None
    limit: float | None = None
    heads: dict[int, StoredHead] = field(default_factory=dict)
    scans: dict[int, dict[Exponents, tuple[float, np.ndarray, np.ndarray]]] = field(default_factory=dict)
    elite: dict[int, list[tuple[float, np.ndarray, np.ndarray, Exponents]]] = field(default_factory=dict)
    grids: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    spent: float = 0.0

    @property
    def tolerance(self) -> float:
        """The tolerance in normalised values, margin taken off."""
        return _MARGIN * self.eps / self.samples.scale

    @property
    def least(self) -> int:
        """No head with fewer tokens works: N exponentials have at most N - 1 sign changes (Descartes-Laguerre)."""
        return max(2, self.samples.crossings + 1)

    def late(self) -> bool:
        """Whether the time granted by `effort` is over."""
        return self.deadline is not None and time.monotonic() > self.deadline

    # What a search does at one length.

    def grid(self, tokens: int, dense: bool = False) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, "m k"]]:
        """Working points for this length: seven for each token, or `dense`: three times as many."""
        count = max(64, min(7 * tokens, 3 * tokens + 200)) * (3 if dense else 1)
        if count not in self.grids:
            self.grids[count] = self.samples.working(count, self.tolerance)
        return self.grids[count]

    def price(self, tokens: int) -> float:
        """Rough number of operations of the linear method for one candidate of this length."""
        targets = self.grid(tokens)[1]
        unknowns = (tokens + 1) // 2 if self.samples.mirrored else tokens
        return 40.0 * targets.size * unknowns**2

    def scan(self, tokens: int, candidates: Sequence[Exponents]) -> list[tuple[Exponents, float]]:
        """Run the linear method for these exponents; all that was tried at this length with its error, best first."""
        check_deadline(self.limit)
        known = self.scans.setdefault(tokens, {})
        new = [member for member in dict.fromkeys(candidates) if member not in known]
        affordable = int(_BUDGET / 8 / self.price(tokens))
        new = new[: max(2, affordable)]
        if new:
            pairs = [exponents(member, tokens) for member in new]
            slopes, references = np.array([s for s, _ in pairs]), np.array([b for _, b in pairs])
            points, targets = self.grid(tokens)
            self.spent += self.price(tokens) * len(new)
            # directions that only values of size 1/rank reach would cost more in rounding than they gain
            rank = float(np.clip(1e-15 / self.tolerance, 1e-14, 1e-6))
            signs = self.samples.signs
            biases, errors = free_denominators(
                points, targets, signs, slopes, references, rank=rank, deadline=self.limit
            )
            for i, member in enumerate(new):
                known[member] = (float(errors[i]), slopes[i], biases[i])
        return self.ranked(tokens)

    def ranked(self, tokens: int) -> list[tuple[Exponents, float]]:
        """Exponents tried at this length with the linear method's error, best first."""
        tried = self.scans.get(tokens, {})
        return sorted(((member, error) for member, (error, _, _) in tried.items()), key=lambda entry: entry[1])

    def starts(self, tokens: int, count: int) -> list[Start]:
        """Keys of the best linear results at this length."""
        best = [member for member, error in self.ranked(tokens)[:count] if np.isfinite(error)]
        return [(*self.scans[tokens][member][1:], member) for member in best]

    def polish(self, tokens: int, starts: list[Start], *, iterations=60, lawson=25, share=1.0) -> StoredHead | None:
        """Refine these starts; the first acceptable head, which is also kept in `heads`."""
        if not starts:
            return None
        points, targets = self.grid(tokens)
        slopes, biases = np.array([s for s, _, _ in starts]), np.array([b for _, b, _ in starts])
        slopes = slopes - 0.5 * (slopes.max(axis=1) + slopes.min(axis=1))[:, None]
        tolerance = share * self.tolerance
        # a token whose weight stays below this peak would need a value larger by its inverse
        log_floor = min(-9.0, float(np.log(min(1.0, tolerance))) - 4.0)
        result = refine(
            points,
            targets,
            self.samples.signs,
            slopes,
            biases,
            tolerance=0.985 * tolerance,
            iterations=iterations,
            lawson=lawson,
            log_floor=log_floor,
            clock=self.late,
            deadline=self.limit,
        )
        order = np.argsort(result.error)
        pool = self.elite.setdefault(tokens, [])
        pool += [(float(result.error[i]), result.slopes[i], result.biases[i], starts[i][2]) for i in order]
        pool.sort(key=lambda entry: entry[0])
        del pool[12:]
        self.spent += result.work * self.price(tokens)
        for i in order[:2]:
            if result.error[i] > 1.05 * tolerance:
                break
            origin = starts[i][2]
            if self.keep(result.slopes[i], result.biases[i], result.values[i], origin, share):
                return self.heads[tokens]
            # within the tolerance on the working points but not between them
            points, targets = self.grid(tokens, dense=True)
            dense = refine(
                points,
                targets,
                self.samples.signs,
                result.slopes[i : i + 1],
                result.biases[i : i + 1],
                tolerance=0.99 * tolerance,
                iterations=20,
                lawson=25,
                log_floor=log_floor,
                clock=self.late,
                deadline=self.limit,
            )
            self.spent += 3 * dense.work * self.price(tokens)
            if self.keep(dense.slopes[0], dense.biases[0], dense.values[0], origin, share):
                return self.heads[tokens]
        return None

    def keep(self, slopes, biases, values, origin: Exponents, share: float) -> bool:
        """Store this head if its error, rounding included, is below this share of what is allowed."""
        head = store(self.samples, slopes, biases, values, origin, self.limit)
        accepted = head.total <= share * _MARGIN * self.eps
        if accepted and (head.length not in self.heads or head.total < self.heads[head.length].total):
            self.heads[head.length] = head
        return accepted

    # The strategy over lengths.

    def run(self) -> None:
        """Fill `heads`."""
        if self.constant() or self.least > self.max_tokens:
            return
        self.short()
        if not self.heads:
            self.ascend()
        if self.heads:
            self.descend()

    def constant(self) -> bool:
        """One token, at the mid-range of the target."""
        origin = Exponents("equispaced", 0.0)
        head = store(self.samples, np.zeros(1), np.zeros(1), np.zeros((1, self.samples.y.shape[1])), origin, self.limit)
        if head.total <= _MARGIN * self.eps:
            self.heads[1] = head
        return bool(self.heads)

    def short(self) -> None:
        """Lengths two to four, where refinement is so cheap that exact heads (exp, tanh, sech) are always looked for."""
        candidates = members(self.samples)
        for tokens in range(self.least, min(4, self.max_tokens) + 1):
            self.scan(tokens, candidates)
            starts = self.starts(tokens, 8)
            if tokens == 4 and self.samples.degree > 40:
                starts += pairs(self.samples, self.tolerance)
            if self.polish(tokens, starts, iterations=40):
                return

    def ascend(self) -> None:
        """Longer and longer, by the convergence seen so far, until a linear start refines to the tolerance."""
        everything = members(self.samples)
        lowest = self.least + (self.least // 3 if self.least <= 20 else 4)
        tokens = int(np.clip(round(0.2 * self.samples.degree), max(5, lowest), max(14, lowest)))
        candidates = everything
        previous: tuple[int, float] | None = None
        reach = _REACH
        for _ in range(14):
            tokens = min(tokens, self.max_tokens)
            ranked = self.scan(tokens, candidates)
            best = ranked[0][1]
            if best <= reach * self.tolerance:
                if self.polish(tokens, self.starts(tokens, 4)):
                    return
                # the next attempt waits for a clearly better start
                reach = best / self.tolerance / 2.5
            if tokens == self.max_tokens or self.spent > _BUDGET:
                return
            slope = 1.8
            slow = previous is not None and best > previous[1] / 2
            if previous is not None and best < previous[1]:
                slope = max(0.7, np.log(previous[1] / best) / (tokens - previous[0]))
            previous = (tokens, best)
            step = np.log(max(best / (reach * self.tolerance), 1.0)) / slope
            tokens += int(np.clip(np.ceil(step), 1, max(6, tokens // 3)))
            candidates = neighbours(ranked) if best < 0.05 and not slow else [*neighbours(ranked), *everything]

    def descend(self) -> None:
        """Shorter and shorter while refinement succeeds; a mirrored target may skip one parity."""
        refused = set(self.elite) - set(self.heads)
        misses = 0
        while self.spent <= _BUDGET:
            shortest = min(self.heads)
            tokens = shortest - 1 - misses
            if misses == 0:
                # a linear start far below the tolerance allows a longer step, at about e^4 a token
                best = min((error for error, _, _ in self.scans.get(shortest, {}).values()), default=self.tolerance)
                tokens -= max(0, int(np.log(max(self.tolerance / best, 1.0)) / 4.0) - 1)
                tokens = max(tokens, max((n for n in refused if n < shortest), default=0) + 1)
            if tokens < self.least or tokens in refused or tokens >= shortest:
                return
            ranked = self.scan(tokens, neighbours(self.ranked(min(n for n in self.scans if n >= tokens))))
            reach = _REACH_BELOW * (100.0 if tokens <= 8 else 1.0)
            if ranked[0][1] <= reach * self.tolerance and self.polish(tokens, self.starts(tokens, 4)):
                misses = 0
                continue
            refused.add(tokens)
            if tokens == shortest - 1 - misses:
                misses += 1
            if misses > (1 if self.samples.mirrored else 0):
                return

    def persist(self, rng: np.random.Generator) -> None:
        """Until time is over: finer families, deletions from longer heads, shaken keys, one or two tokens below."""
        rounds: dict[int, int] = {}
        while self.heads and not self.late() and min(self.heads) > self.least:
            tokens = min(self.heads) - 1
            if self.samples.mirrored and rounds.get(tokens, 0) > rounds.get(tokens - 1, 0) and tokens > self.least:
                tokens -= 1
            turn = rounds.get(tokens, 0)
            rounds[tokens] = turn + 1
            self.polish(tokens, self.later_starts(tokens, turn, rng), iterations=120, lawson=40)

    def later_starts(self, tokens: int, turn: int, rng: np.random.Generator) -> list[Start]:
        """First the linear method on finer spans, then deletions, then perturbations of the best keys so far."""
        if turn == 0:
            near = min((n for n in self.scans if n >= tokens), default=None)
            if near is not None:
                self.scan(tokens, neighbours(self.ranked(near), fine=True))
            return self.starts(tokens, 12)
        if turn == 1:
            longer = [entry for n in (tokens + 1, tokens + 2) for entry in self.elite.get(n, [])[:2]]
            return [
                (s, b, origin)
                for _, slopes, biases, origin in longer
                for s, b in deletions(slopes, biases, tokens, self.samples.mirrored)
            ][:16]
        pool = self.elite.get(tokens, [])[:6] or [(0.0, *start) for start in self.starts(tokens, 4)]
        if not pool:
            return []
        chosen = [pool[min(len(pool) - 1, int(rng.exponential(1.5)))] for _ in range(8)]
        return [(*perturbed(s, b, self.samples.mirrored, rng), origin) for _, s, b, origin in chosen]

    def spare(self, tokens: int, share: float) -> StoredHead | None:
        """A head of this length with error below this share of eps, for when the shortest one is refused."""
        if tokens not in self.scans or tokens not in self.heads:
            near = min(self.scans, key=lambda n: abs(n - tokens), default=None)
            if near is None:
                return None
            self.scan(tokens, neighbours(self.ranked(near)))
        starts = [(s, b, origin) for _, s, b, origin in self.elite.get(tokens, [])[:2]] + self.starts(tokens, 3)
        return self.polish(tokens, starts, share=share)
