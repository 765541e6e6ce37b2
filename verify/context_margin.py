"""The least margin of softmax prompt-attention over the whole support of bounded-noise contextual data: accuracy 1, proved and not sampled."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import flint
import numpy as np
from jaxtyping import Float

from verify.certificate import Status, downward
from verify.context_attack import Plane, worst_noise
from verify.context_noise import OutOfTime, TokenTerm, least_term
from verify.precision import arb_bounds, arb_from_bounds, working_precision
from verify.statement import Statement, StatementError, Verdict
from verify.stored_arrays import stored_array, stored_number

__all__ = ["ContextMargin"]

_BITS = 128
_TOLERANCE = 1e-13
_GAPS = (1e-11, 1e-9, 1e-7, 1e-6, 1e-5, 1e-3, 0.1)
"""How far below the attack a bound is tried, relative to the size of the values."""
_MOST_TOKENS = 2**53
_MOST_BOXES = 4096
_AT_ONCE = 256
"""Cases whose worst noise is proposed together, between two looks at the clock."""
_ROUTE = "worst noise of every token alone (fractional programme), bisection in ball arithmetic"


@dataclass(frozen=True, eq=False)
class ContextMargin(Statement):
    """y f(X) >= margin on the support, f(X) = <head, X^T softmax(X prompt)>.

    The support: y = +-1; (delta_q, delta_w) in one of the boxes `deltas`, rows (lowest delta_q, highest, lowest delta_w, highest);
    `relevant` tokens q_star + y w_star, `irrelevant` tokens -delta_q q_star - delta_w y w_star + e_t with any |e_t| <= radius (Euclidean, each
    its own); with noisy_relevant the relevant tokens have such noise too. All vectors (d,); q_star and w_star need not be orthogonal.

    Theorem. Let m be a number, s and v the noise-free logit and signed value y<head, x> of a token, u = y head. Then y f >= m for all noise
    exactly if  n_R e^{s_R} g_R + n_I e^{s_I} g_I >= 0  with  g = min_{|e| <= r} e^{<prompt, e>} (v - m + <u, e>)  (without noise g_R = v_R - m).
    Proof. The softmax denominator is positive, so y f >= m means sum_t e^{s_t} (v_t - m) >= 0; the noises are independent, so the least sum is
    the sum of the least terms, each attained. g grows with v, so a box counts with its least v, and e^{s_I - s_R} with the end of
    its range that makes the term smaller. `TokenTerm` turns g into a function on [0, pi].
    """

    prompt: Float[np.ndarray, " d"]
    head: Float[np.ndarray, " d"]
    q_star: Float[np.ndarray, " d"]
    w_star: Float[np.ndarray, " d"]
    relevant: int
    irrelevant: int
    deltas: Float[np.ndarray, "k 4"]
    radius: float
    margin: float
    noisy_relevant: bool = False

    kind: ClassVar[str] = "context-margin"

    def __post_init__(self) -> None:
        prompt = stored_array("prompt", self.prompt, (None,))
        if len(prompt) == 0:
            raise StatementError("prompt: shape (0,), expected at least one entry")
        object.__setattr__(self, "prompt", prompt)
        for name in ("head", "q_star", "w_star"):
            object.__setattr__(self, name, stored_array(name, getattr(self, name), prompt.shape))
        for name in ("relevant", "irrelevant"):
            object.__setattr__(self, name, token_count(name, getattr(self, name)))
        deltas = stored_array("deltas", self.deltas, (None, 4))
        if len(deltas) == 0:
            raise StatementError(
                "deltas: no rows; give at least one (lowest delta_q, highest, lowest delta_w, highest)"
            )
        if len(deltas) > _MOST_BOXES:
            raise StatementError(f"deltas: {len(deltas)} rows, at most {_MOST_BOXES}; state them in several parts")
        for row, (a, b, c, d) in enumerate(deltas):
            if a > b or c > d:
                raise StatementError(f"deltas[{row}] = ({a}, {b}, {c}, {d}): a lowest value above the highest")
        object.__setattr__(self, "deltas", deltas)
        object.__setattr__(self, "radius", stored_number("radius", self.radius, least=0.0))
        object.__setattr__(self, "margin", stored_number("margin", self.margin))
        if not isinstance(self.noisy_relevant, (bool, np.bool_)):
            raise StatementError(f"noisy_relevant = {self.noisy_relevant!r}: expected True or False")
        object.__setattr__(self, "noisy_relevant", bool(self.noisy_relevant))

    @property
    def tokens(self) -> int:
        """T."""
        return self.relevant + self.irrelevant

    @property
    def sentence(self) -> str:
        noise = f"noise of norm <= {downward(self.radius, 6)} on {'every token' if self.noisy_relevant else 'irrelevant tokens'}"
        return (
            f"y f(X) >= {downward(self.margin, 6)} for both labels, {len(self.deltas)} sets of (delta_q, delta_w), "
            f"{self.relevant} of {self.tokens} tokens relevant, {noise}"
        )

    @property
    def quantity(self) -> str:
        return "min over the support of y f(X)"

    def decide(self, *, seconds: float = math.inf) -> Verdict:
        """Both ends of the least margin: an attack run in ball arithmetic, and the theorem a little below it. -inf, inf: not known."""
        deadline = time.monotonic() + seconds
        with working_precision(_BITS):
            attack, place = self._attack(deadline)
            numbers: dict[str, float] = {}
            if place is not None:
                numbers = {"label": place[0], "delta_q": place[1], "delta_w": place[2]}
            if attack < self.margin:
                return Verdict(
                    Status.REFUTED, -math.inf, attack, _ROUTE, f"some X has y f(X) <= {attack!r}", numbers=numbers
                )
            try:
                lower = self._lower(attack, deadline)
            except OutOfTime:
                reason = f"out of time after {seconds:g} s; allow more seconds"
                return Verdict(Status.UNDECIDED, -math.inf, attack, _ROUTE, reason, numbers=numbers)
        if lower >= self.margin:
            return Verdict(Status.PROVED, lower, attack, _ROUTE, numbers=numbers)
        reason = "the margin lies within the enclosure; state a little less"
        if lower == -math.inf:
            reason = "the weights leave the range of numbers that can be enclosed, or the noise is too strong for bisection; use a smaller prompt"
        return Verdict(Status.UNDECIDED, lower, attack, _ROUTE, reason, numbers=numbers)

    def _lower(self, attack: float, deadline: float) -> float:
        """The largest m among some below the attack, and the stated margin, for which the theorem's inequality is proved."""
        size = abs(attack) if math.isfinite(attack) else 1.0
        tried = [attack - gap * size for gap in _GAPS if math.isfinite(attack)]
        tried = sorted({m for m in [*tried, self.margin] if math.isfinite(m)}, reverse=True)
        for m in tried:
            if self._holds(m, deadline):
                return m
        return -math.inf

    def _holds(self, m: float, deadline: float) -> bool:
        """Whether the theorem's inequality is proved for m, every label and every box."""
        for y, row in itertools.product((1, -1), self.deltas):
            if time.monotonic() > deadline:
                raise OutOfTime
            case = _Case(self, y, row)
            known = case.least_terms(m, deadline)
            if known is None:
                return False
            first, second = known
            # NaN and balls that reach below zero fail here
            if not self.relevant * first + self.irrelevant * case.odds * second >= 0:
                return False
        return True

    def _attack(self, deadline: float) -> tuple[float, tuple[float, float, float] | None]:
        """An upper bound of the least margin, and the (y, delta_q, delta_w) that gives it: the attack's noise, run in ball arithmetic.
        The best so far when the deadline passes, after one case at least."""
        cases = [(y, point) for y in (1, -1) for row in self.deltas for point in corners(row)]
        best, place = math.inf, None
        for start in range(0, len(cases), _AT_ONCE):
            some = cases[start : start + _AT_ONCE]
            for (y, point), (first, second) in zip(some, self._proposed(some), strict=True):
                case = _Case(self, y, (point[0], point[0], point[1], point[1]))
                high = arb_bounds(case.run(first, second))[1]
                if high < best:  # NaN never is
                    best, place = high, (float(y), *point)
                if time.monotonic() > deadline:
                    return best, place
        return best, place

    def _proposed(self, cases: list[tuple[int, tuple[float, float]]]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Noise (relevant, irrelevant) for every case, from float64; zeros where it says nothing."""
        with np.errstate(all="ignore"):
            kappa = float(np.linalg.norm(self.prompt))
            along = self.prompt / kappa if 0 < kappa < math.inf else np.zeros_like(self.prompt)
            drift = float(along @ self.head)
            across = self.head - drift * along
            beta = float(np.linalg.norm(across))
            if not beta > 1e-14 * float(np.linalg.norm(self.head)):
                across, beta = np.zeros_like(across), 0.0
            y = np.array([case[0] for case in cases], dtype=np.float64)
            delta = np.array([case[1] for case in cases])
            good = self.q_star + y[:, None] * self.w_star
            bad = -delta[:, :1] * self.q_star - delta[:, 1:] * y[:, None] * self.w_star
            odds = math.log(self.irrelevant) - math.log(self.relevant) + (bad - good) @ self.prompt
            ones = np.ones(len(y))
            plane = Plane(odds, y * (good @ self.head), y * (bad @ self.head), kappa * ones, drift * y, beta * ones)
            worst = worst_noise(plane, self.radius, self.noisy_relevant)
            radius = self.radius * (1 - 2.0**-40)

            def noise(angle: float, label: float) -> np.ndarray:
                unit = across / beta if beta > 0 else across
                e = -radius * (math.cos(angle) * along + label * math.sin(angle) * unit)
                return e if np.isfinite(e).all() else np.zeros_like(e)

            still = np.zeros_like(along)
            firsts = [
                noise(float(t), label) if self.noisy_relevant else still
                for t, label in zip(worst.relevant_angle, y, strict=True)
            ]
            seconds = [noise(float(t), label) for t, label in zip(worst.irrelevant_angle, y, strict=True)]
        return list(zip(firsts, seconds, strict=True))

    def to_json(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        data = {
            "relevant": self.relevant,
            "irrelevant": self.irrelevant,
            "radius": self.radius.hex(),
            "margin": self.margin.hex(),
            "noisy_relevant": self.noisy_relevant,
        }
        names = ("prompt", "head", "q_star", "w_star", "deltas")
        return data, {name: getattr(self, name) for name in names}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> ContextMargin:
        return cls(
            arrays["prompt"],
            arrays["head"],
            arrays["q_star"],
            arrays["w_star"],
            data["relevant"],
            data["irrelevant"],
            arrays["deltas"],
            float.fromhex(data["radius"]),
            float.fromhex(data["margin"]),
            data["noisy_relevant"],
        )


class _Case:
    """One label and one box: the numbers of the theorem as balls."""

    def __init__(self, s: ContextMargin, y: int, row: Any) -> None:
        self.statement, self.y = s, y
        self.prompt, self.head = _balls(s.prompt), _balls(s.head)
        q, w = _balls(s.q_star), _balls(s.w_star)
        delta_q, delta_w = arb_from_bounds(float(row[0]), float(row[1])), arb_from_bounds(float(row[2]), float(row[3]))
        pq, pw, hq, hw = (_dot(a, b) for a in (self.prompt, self.head) for b in (q, w))
        self.relevant_value = y * hq + hw
        self.irrelevant_value = -y * delta_q * hq - delta_w * hw
        self.odds = (-(1 + delta_q) * pq - (1 + delta_w) * y * pw).exp()
        self.good = [a + y * b for a, b in zip(q, w, strict=True)]
        self.bad = [-delta_q * a - delta_w * y * b for a, b in zip(q, w, strict=True)]

    def least_terms(self, m: float, deadline: float) -> tuple[flint.arb, flint.arb] | None:
        """Lower bounds of g_R and g_I, or None."""
        radius = flint.arb(self.statement.radius)
        kappa = _dot(self.prompt, self.prompt).sqrt()
        plain = not np.any(self.statement.prompt)
        drift = flint.arb(0) if plain else self.y * _dot(self.prompt, self.head) / kappa
        rest = self.head
        if not plain:
            rest = [h - drift * self.y * p / kappa for h, p in zip(self.head, self.prompt, strict=True)]
        # h falls with beta: its upper end stands for all of the ball
        square = _dot(rest, rest).upper()
        beta = flint.arb(square.sqrt().upper()) if square.is_finite() else flint.arb("nan")
        found = []
        for value, noisy in (
            (self.relevant_value, self.statement.noisy_relevant),
            (self.irrelevant_value, True),
        ):
            gap = flint.arb((value - m).lower())
            if noisy and radius > 0:
                term = TokenTerm(gap, radius * kappa, radius * drift, radius * beta)
                gap = least_term(term, _TOLERANCE, deadline)
            if gap is None or not gap.is_finite():
                return None
            found.append(gap)
        return found[0], found[1]

    def run(self, first: np.ndarray, second: np.ndarray) -> flint.arb:
        """y f(X) with this noise on all relevant and on all irrelevant tokens; NaN if the noise is longer than the radius."""
        s = self.statement
        limit = flint.arb(s.radius) ** 2
        logits, values = [], []
        for token, noise in ((self.good, _balls(first)), (self.bad, _balls(second))):
            if not _dot(noise, noise) <= limit:
                return flint.arb("nan")
            x = [a + b for a, b in zip(token, noise, strict=True)]
            logits.append(_dot(x, self.prompt))
            values.append(self.y * _dot(x, self.head))
        share = 1 / (1 + (logits[1] - logits[0]).exp() * s.irrelevant / s.relevant)
        # a convex combination: the difference form is tight however small the share
        return (
            values[1] + share * (values[0] - values[1])
            if share < 0.5
            else values[0] + (1 - share) * (values[1] - values[0])
        )


def corners(row: Float[np.ndarray, " 4"]) -> list[tuple[float, float]]:
    """The distinct corners of a box of (delta_q, delta_w)."""
    return sorted({(float(a), float(b)) for a in row[:2] for b in row[2:]})


def token_count(name: str, x: Any) -> int:
    """A positive whole number of tokens. Raises StatementError."""
    if isinstance(x, (bool, np.bool_)) or not isinstance(x, (int, np.integer)) or not 1 <= x <= _MOST_TOKENS:
        raise StatementError(f"{name} = {x!r}: expected a whole number of tokens from 1 to 2^53")
    return int(x)


def _balls(x: np.ndarray) -> list[flint.arb]:
    return [flint.arb(float(v)) for v in x]


def _dot(a: list[flint.arb], b: list[flint.arb]) -> flint.arb:
    return sum((x * y for x, y in zip(a, b, strict=True)), flint.arb(0))
