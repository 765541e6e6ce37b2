"""What no weights can do: the best accuracy of averaging, linear prompt-attention and self-attention on a mixture of contextual data."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cmp_to_key
from typing import Any, ClassVar

import flint
import numpy as np
from jaxtyping import Float

from verify.certificate import Status, upward
from verify.context_margin import token_count
from verify.context_noise import OutOfTime
from verify.context_shares import best_strength, collinear_side
from verify.precision import working_precision
from verify.statement import Statement, StatementError, Verdict
from verify.stored_arrays import stored_array, stored_number

__all__ = ["RIVALS", "ContextRival"]

RIVALS = ("averaging", "linear", "self-attention")
_BITS = 128
_MOST_PAIRS = 256
_HALF = Fraction(1, 2)
_ROUTE = {
    "averaging": "every direction of the head, in rational arithmetic",
    "linear": "the label's coefficient alone, in rational arithmetic",
    "self-attention": "mean attention on relevant tokens on one side of delta/(1 + delta), every direction of the head",
}

Vector = tuple[Fraction, Fraction]


@dataclass(frozen=True, eq=False)
class ContextRival(Statement):
    """No weights of the rival have an accuracy above `accuracy` on the noise-free data; f(X) = 0 counts one half.

    The data: y = +-1 and a row (delta_q, delta_w) of `pairs`, all equally likely; `relevant` tokens r = q_star + y w_star and `irrelevant` tokens
    i = -delta_q q_star - delta_w y w_star; q_star and w_star independent. z = relevant/(relevant + irrelevant).
    Rivals, with any weights: averaging <w, mean x_t>; linear <w, X^T X q>/T; self-attention <w, mean_t X^T softmax(X W x_t)>.

    Only a = <w, q_star>, b = <w, w_star> and the like matter, and they are free. Write A = y<w, r> = y a + b, A' = y<w, i> = -y delta_q a - delta_w b.
    *Averaging*: y f = z A + (1 - z) A', linear in (a, b). The count of positive ones changes where one vanishes: all such
      directions and one between each two are tried, exactly.
    *Linear*: y f = y C + L D with D = z + (1 - z) delta_q delta_w, L = <w, q_star><q, w_star> + <w, w_star><q, q_star> and C independent of y. So where
      L D <= 0 at most one of the two labels is right: each pair counts 1 if L D > 0 and at most 1/2 otherwise, for either sign of L.
    *Self-attention*: y f = P A + (1 - P) A', P in (0, 1) the mean attention on relevant tokens. If delta_q = delta_w = delta then A' = -delta A and
      y f = c A, whose sign is A's times the one of c, which `collinear_side` knows for all W or leaves free. Otherwise y f > 0 for some P in
      (0, 1) needs A > 0 or A' > 0. That is again a count that depends on the direction (a, b) alone. P is taken to be free in every case on its own,
      so the count is an upper bound.
    Examples, threshold t = 1/((1 - z) min(z, 1 - z)) - 1:
      pairs (0, 0), (D, D) with D >= t: i = 0 gives y f = P A, and (D, D) gives y f = c A with c < 0: exactly one is right, accuracy 1/2.
      pairs (D, D), (D, -D) with D >= t: both labels right under (D, D), where y f = c A with c < 0, means A < 0 for both labels; then both are wrong
      under (D, -D), where A' for y is D times A for -y: at most 3 of 4.
    The lower end of the verdict: weights that attain it, in exact or ball arithmetic; `scores` ((2, 2): x^T W x' for x, x' among q_star, w_star) and
    `head` ((a, b)) are further weights to try for self-attention. Nothing else depends on them.
    """

    rival: str
    relevant: int
    irrelevant: int
    pairs: Float[np.ndarray, "k 2"]
    accuracy: float
    scores: Float[np.ndarray, "2 2"] | None = None
    head: Float[np.ndarray, " 2"] | None = None

    kind: ClassVar[str] = "context-rival"

    def __post_init__(self) -> None:
        if self.rival not in RIVALS:
            raise StatementError(f"rival = {self.rival!r}: expected one of {', '.join(RIVALS)}")
        for name in ("relevant", "irrelevant"):
            object.__setattr__(self, name, token_count(name, getattr(self, name)))
        pairs = stored_array("pairs", self.pairs, (None, 2))
        if not 1 <= len(pairs) <= _MOST_PAIRS:
            raise StatementError(f"pairs: {len(pairs)} rows, expected 1 to {_MOST_PAIRS} of (delta_q, delta_w)")
        object.__setattr__(self, "pairs", pairs)
        object.__setattr__(self, "accuracy", stored_number("accuracy", self.accuracy, least=0.0))
        if (self.scores is None) != (self.head is None):
            raise StatementError("scores and head: weights to try come together, or not at all")
        if self.scores is not None:
            object.__setattr__(self, "scores", stored_array("scores", self.scores, (2, 2)))
            object.__setattr__(self, "head", stored_array("head", self.head, (2,)))

    @property
    def sentence(self) -> str:
        total = self.relevant + self.irrelevant
        return (
            f"no weights of {self.rival} are right with probability above {upward(self.accuracy, 6)} on {len(self.pairs)} equally likely "
            f"pairs (delta_q, delta_w), {self.relevant} of {total} tokens relevant, no noise"
        )

    @property
    def quantity(self) -> str:
        return f"best accuracy of {self.rival} over all weights"

    def decide(self, *, seconds: float = math.inf) -> Verdict:
        """An upper bound for all weights, and weights that come to the lower one."""
        deadline = time.monotonic() + seconds
        route = _ROUTE[self.rival]
        try:
            low, high = {"averaging": _averaging, "linear": _linear, "self-attention": _self_attention}[self.rival](
                self, deadline
            )
        except OutOfTime:
            reason = f"out of time after {seconds:g} s; allow more seconds"
            return Verdict(Status.UNDECIDED, 0.0, 1.0, route, reason)
        lower, upper = float(low), float(high)
        if Fraction(lower) > low:
            lower = math.nextafter(lower, 0.0)
        if Fraction(upper) < high:
            upper = math.nextafter(upper, 2.0)
        if high <= Fraction(self.accuracy):
            return Verdict(Status.PROVED, lower, upper, route)
        if low > Fraction(self.accuracy):
            return Verdict(Status.REFUTED, lower, upper, route, f"some weights are right with probability {lower!r}")
        return Verdict(
            Status.UNDECIDED, lower, upper, route, f"only {upper!r} is proved for all weights; state that much"
        )

    def to_json(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        data = {
            "rival": self.rival,
            "relevant": self.relevant,
            "irrelevant": self.irrelevant,
            "accuracy": self.accuracy.hex(),
        }
        arrays = {"pairs": self.pairs}
        if self.scores is not None and self.head is not None:
            arrays |= {"scores": self.scores, "head": self.head}
        return data, arrays

    @classmethod
    def from_json(cls, data: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> ContextRival:
        return cls(
            data["rival"],
            data["relevant"],
            data["irrelevant"],
            arrays["pairs"],
            float.fromhex(data["accuracy"]),
            arrays.get("scores"),
            arrays.get("head"),
        )

    @property
    def share(self) -> Fraction:
        """z."""
        return Fraction(self.relevant, self.relevant + self.irrelevant)

    def rational_pairs(self) -> list[Vector]:
        """The pairs as the exact numbers that they are."""
        return [(Fraction(float(a)), Fraction(float(b))) for a, b in self.pairs]


def _averaging(s: ContextRival, deadline: float) -> tuple[Fraction, Fraction]:
    z = s.share
    best = _best_of_means([(z - (1 - z) * dq, z - (1 - z) * dw) for dq, dw in s.rational_pairs()], deadline)
    return best, best


def _linear(s: ContextRival, deadline: float) -> tuple[Fraction, Fraction]:
    z, pairs = s.share, s.rational_pairs()
    labels = [z + (1 - z) * dq * dw for dq, dw in pairs]
    known = max(sum(sign * d > 0 for d in labels) for sign in (1, -1))
    upper = (known + _HALF * (len(pairs) - known)) / len(pairs)
    # a prompt along q_star, or along w_star, sees (C, D) up to free factors: the same count as for averaging
    lower = max(
        _best_of_means([(z + (1 - z) * pair[k] ** 2, d) for pair, d in zip(pairs, labels, strict=True)], deadline)
        for k in (0, 1)
    )
    return lower, upper


def _self_attention(s: ContextRival, deadline: float) -> tuple[Fraction, Fraction]:
    pairs = s.rational_pairs()
    sides = [collinear_side(s.relevant, s.irrelevant, float(dq), deadline) if dq == dw else None for dq, dw in pairs]
    lines = [(Fraction(y), Fraction(1)) for y in (1, -1)]
    lines += [(-y * dq, -dw) for dq, dw in pairs for y in (1, -1)]

    def count(w: Vector) -> Fraction:
        total = Fraction(0)
        for (dq, dw), side in zip(pairs, sides, strict=True):
            for y in (1, -1):
                first, second = y * w[0] + w[1], -y * dq * w[0] - dw * w[1]
                if side is None:
                    total += 1 if max(first, second) > 0 else _HALF if first == second == 0 else 0
                elif side == 0 or first == 0:
                    total += 1 if first != 0 else _HALF
                else:
                    total += 1 if side * first > 0 else 0
        return total / (2 * len(pairs))

    upper = _best_direction(lines, count, deadline)
    lower = _averaging(s, deadline)[0]
    with working_precision(_BITS):
        for scores, head in _tried(s):
            if lower >= upper:
                break
            lower = max(lower, _attained(s, scores, head))
    return lower, upper


def _tried(s: ContextRival) -> list[tuple[Any, Any]]:
    """The weights given, and weights that often do: attention along q_star, with a head that reads w_star alone."""
    strengths = [sign * strength for strength in (0.1, 0.3, 1.0, 3.0, 10.0, 30.0) for sign in (1.0, -1.0)]
    strengths += [best_strength(s.relevant, s.irrelevant, float(a)) for a in np.unique(s.pairs[:, 0]) if a > 0]
    found: list[tuple[Any, Any]] = [] if s.scores is None else [(s.scores, s.head)]
    return found + [([[strength, 0.0], [0.0, 0.0]], [0.0, 1.0]) for strength in strengths]


def _attained(s: ContextRival, scores: Any, head: Any) -> Fraction:
    """A proved lower bound of the accuracy of these weights: what is not certainly right or exactly 0 counts as wrong."""
    m = [[flint.arb(float(v)) for v in row] for row in scores]
    a, b = (flint.arb(float(v)) for v in head)
    z, odds = flint.arb(s.relevant) / (s.relevant + s.irrelevant), flint.arb(s.irrelevant) / s.relevant
    right = 0
    for dq, dw in s.pairs:
        for y in (1, -1):
            r = (flint.arb(1), flint.arb(y))
            i = (-flint.arb(float(dq)), -flint.arb(float(dw)) * y)
            gap = (r[0] - i[0], r[1] - i[1])
            share = flint.arb(0)
            for query, part in ((r, z), (i, 1 - z)):
                score = sum((query[j] * m[j][k] * gap[k] for j in (0, 1) for k in (0, 1)), flint.arb(0))
                share += part / (1 + odds * (-score).exp())
            answer = y * (share * (a * r[0] + b * r[1]) + (1 - share) * (a * i[0] + b * i[1]))
            right += bool(answer > 0)
    return Fraction(right, 2 * len(s.pairs))


def _best_of_means(means: list[Vector], deadline: float) -> Fraction:
    """max over (a, b) of the share of cases (mean, y) with y mean_0 a + mean_1 b > 0, zeros counting one half. Exact."""
    cases = [(y * m, n) for m, n in means for y in (1, -1)]

    def count(w: Vector) -> Fraction:
        values = [m * w[0] + n * w[1] for m, n in cases]
        return Fraction(sum(2 * (v > 0) + (v == 0) for v in values), 2 * len(cases))

    return _best_direction(cases, count, deadline)


def _best_direction(lines: list[Vector], count: Callable[[Vector], Fraction], deadline: float) -> Fraction:
    """max of `count` over all (a, b), if it changes only where some line (n_0 a + n_1 b) vanishes: on the lines, between two, and at 0."""
    on = [p for n0, n1 in lines if (n0, n1) != (0, 0) for p in ((n1, -n0), (-n1, n0))]
    # axes too: then neighbours are less than half a turn apart and their sum lies between them
    on += [(Fraction(x), Fraction(y)) for x, y in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    on.sort(key=cmp_to_key(_turn))
    best = count((Fraction(0), Fraction(0)))
    for p, q in zip(on, on[1:] + on[:1], strict=True):
        if time.monotonic() > deadline:
            raise OutOfTime
        best = max(best, count(p), count((p[0] + q[0], p[1] + q[1])))
    return best


def _turn(p: Vector, q: Vector) -> int:
    """Order of two directions by angle, exactly."""
    halves = [0 if (y > 0 or (y == 0 and x > 0)) else 1 for x, y in (p, q)]
    if halves[0] != halves[1]:
        return halves[0] - halves[1]
    cross = p[0] * q[1] - p[1] * q[0]
    return -1 if cross > 0 else 1 if cross < 0 else 0
