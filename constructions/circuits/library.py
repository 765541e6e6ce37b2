"""Heads for nodes of one variable: the fewest tokens for a tolerance, from canonical problems that many functions share."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import sympy as sp

from constructions.circuits.arithmetic import FLOAT64, Arithmetic
from constructions.circuits.canonical import Canonical, canonical
from constructions.circuits.head_cache import cache_folder, load, store
from constructions.circuits.key_starts import key_starts
from constructions.circuits.ladder import Ladder, NodeHead, PlacedLadder, Rungs
from constructions.circuits.rungs import Fit, Rung, measure, search, tamed
from constructions.parse import parse_expression
from constructions.sharp.minimax import propose_minimax
from constructions.sharp.samples import Samples, sample
from verify.expression import Expression

__all__ = ["Ladder", "NodeHead", "NodeLadder", "estimate", "heads_for"]

SEARCHED_TOKENS = 10
"""Longest head searched for its own sake; longer ones come from the search for a given tolerance, `propose_minimax`."""
MOST_TOKENS = 100
"""Longest head of a ladder."""
_CHECKS = 2001


def heads_for(
    function: sp.Expr | Expression,
    lo: float,
    hi: float,
    *,
    modulo_affine: bool = False,
    arithmetic: Arithmetic = FLOAT64,
) -> NodeLadder:
    """The ladder of heads for a function of one variable on [lo, hi].

    modulo_affine: heads may leave out any affine function alpha u + beta of the argument, which the nodes that read this one add for
    free; each `NodeHead` says which. arithmetic: where they are to run. Raises ValueError for more than one variable, or an empty or infinite box.
    """
    if isinstance(function, Expression):
        if len(function.outputs) != 1:
            raise ValueError(f"function = {function}: has {len(function.outputs)} outputs; pass one of them")
        parsed = parse_expression(str(function), function.variables)
        function = parsed[0] if isinstance(parsed, list) else parsed
    problem = canonical(_primitive(sp.sympify(function)), *_snapped(float(lo), float(hi)), affine=modulo_affine)
    return NodeLadder(
        problem, float(lo), float(hi), _rungs(problem.function, modulo_affine, cache_folder(), arithmetic)
    )


def _primitive(e: Any) -> Any:
    """log(c p) as log(c) + log(p) and |c p| as c |p| for the content c of a sum c p: functions that differ by no more share a ladder."""
    if not e.args:
        return e
    e = e.func(*(_primitive(a) for a in e.args))
    if isinstance(e, (sp.log, sp.Abs)) and e.args[0].is_Add:
        content, rest = e.args[0].as_content_primitive()
        if content.is_positive and content != 1:
            return sp.log(content) + sp.log(rest) if isinstance(e, sp.log) else content * sp.Abs(rest)
    return e


def _snapped(lo: float, hi: float) -> tuple[float, float]:
    """The ends on a grid of 2^-44 of their size, within the box: what differs by rounding alone shares a ladder.

    A head is measured on the box itself, before it is used.
    """
    if not (math.isfinite(lo) and math.isfinite(hi)):
        return lo, hi
    step = 2.0 ** (math.frexp(max(abs(lo), abs(hi)))[1] - 44)
    low, high = math.ceil(lo / step) * step, math.floor(hi / step) * step
    return (low, high) if low < high else (lo, hi)


def estimate(
    function: sp.Expr | Expression, lo: float, hi: float, tolerance: float, *, modulo_affine: bool = False
) -> int:
    """Tokens that a head for this tolerance takes, extrapolated beyond the first rungs at the rate of the last; nothing long is built.

    Raises ValueError as `heads_for` does.
    """
    ladder = heads_for(function, lo, hi, modulo_affine=modulo_affine)
    first = 5
    for tokens in range(1, first + 1):
        if ladder.error(tokens) <= tolerance:
            return tokens
    rate = max(0.25, np.log(max(ladder.error(2) / ladder.error(first), 1.0)) / (first - 2))
    return first + int(np.ceil(np.log(ladder.error(first) / tolerance) / rate)) if np.isfinite(rate) else 10**6


class NodeLadder(PlacedLadder["_OneVariable"]):
    """The ladder of a canonical problem in the coordinates of one node."""

    most = MOST_TOKENS

    def __init__(self, problem: Canonical, lo: float, hi: float, rungs: _OneVariable) -> None:
        super().__init__(rungs)
        self.problem, self.lo, self.hi = problem, lo, hi
        self.least = self.scale() * rungs.arithmetic.floor

    def scale(self) -> float:
        return abs(self.problem.scale) * self.rungs.unit

    def tamed(self, rung: Rung, tolerance: float) -> Rung:
        return self.rungs.tamed(rung, tolerance)

    def placed(self, rung: Rung) -> NodeHead:
        """From t to u = centre + radius t, from g to f; measured again as stored."""
        problem, unit = self.problem, self.rungs.unit
        slopes = rung.slopes / problem.radius
        biases = rung.biases - slopes[:, 0] * problem.centre
        scale = problem.scale * unit
        values = scale * rung.values
        factor = scale * rung.factors[0] + problem.scale * self.rungs.line[1]
        constant = problem.offset + problem.scale * self.rungs.line[0]
        alpha = problem.linear + factor / problem.radius
        beta = constant - factor * problem.centre / problem.radius
        if not problem.affine:
            values, alpha, beta = values + constant, 0.0, 0.0
        u = 0.5 * (self.lo + self.hi) + 0.5 * (self.hi - self.lo) * np.sin(np.linspace(-np.pi / 2, np.pi / 2, _CHECKS))
        u = np.clip(u, self.lo, self.hi)
        t = (u - problem.centre) / problem.radius
        wanted = problem.scale * problem.evaluate(t) + problem.offset
        wanted = wanted - constant - factor * t if problem.affine else wanted
        error, rounding = measure(u[:, None], wanted, slopes, biases, values, self.rungs.arithmetic)
        box = np.array([self.lo]), np.array([self.hi])
        return NodeHead(slopes, biases, values, error, *box, np.array([alpha]), float(beta), rounding)


@lru_cache(maxsize=4096)
def _rungs(function: sp.Expr, affine: bool, folder: Path | None, arithmetic: Arithmetic) -> _OneVariable:
    """One set of rungs for all nodes with this canonical problem."""
    return _OneVariable(Canonical(function, affine), folder, arithmetic)


class _OneVariable(Rungs):
    """g = line + unit y on [-1, 1]; the rungs are heads for y, |y| <= 1."""

    def __init__(self, problem: Canonical, folder: Path | None, arithmetic: Arithmetic) -> None:
        super().__init__(problem.key, 1, SEARCHED_TOKENS, folder, arithmetic)
        self._long: list[Rung] = []
        self._ended = False
        self.problem = problem
        t = np.sin(np.linspace(-np.pi / 2, np.pi / 2, 257))
        with np.errstate(all="ignore"):
            g = problem.evaluate(t)
        self.line, self.unit = (0.0, 0.0), 1.0
        self.finite = bool(np.isfinite(g).all())
        if self.finite:
            middle, slope = 0.5 * (g.max() + g.min()), 0.0
            if problem.affine:
                slope = 0.5 * float(g[-1] - g[0])
                rest = g - slope * t
                middle = 0.5 * (rest.max() + rest.min())
            self.line = (float(middle), slope)
            self.unit = float(np.abs(g - middle - slope * t).max())
            if self.unit <= 4e-16 * np.abs(g).max(initial=0.0):
                self.unit = 0.0
        self._samples: Samples | None = None

    def normalised(self, t: np.ndarray) -> np.ndarray:
        return (self.problem.evaluate(t) - self.line[0] - self.line[1] * t) / self.unit

    @property
    def samples(self) -> Samples | None:
        if self._samples is None:
            taken = sample(lambda t: self.normalised(t)[:, None], -1.0, 1.0, 1e-8)
            # both halves are fitted: a free linear part need not respect a mirror symmetry
            self._samples = None if taken is None else replace(taken, signs=(0,))
        return self._samples

    def search(self, tokens: int, below: Rung | None) -> Rung:
        flat_error = 0.0 if self.unit == 0.0 else 1.0
        flat = Rung(np.zeros((1, 1)), np.zeros(1), np.zeros(1), np.zeros(1), flat_error, 0.0, self.arithmetic)
        if not self.finite:
            return replace(flat, error=np.inf)
        if tokens == 1 or self.unit == 0.0:
            return flat
        samples = self.samples
        if samples is None:
            return replace(flat, error=np.inf)
        fit = self.fit(samples, tokens, below.tolerance if below is not None and np.isfinite(below.tolerance) else 1.0)
        return search(fit, key_starts(samples, fit, tokens, below), below)

    def fit(self, samples: Samples, tokens: int, guess: float) -> Fit:
        """The points for heads of this length, of an error like a hundredth of `guess`."""
        count = max(72, 24 * tokens)
        # a key that is seen at an end alone must gain nothing: points cluster there
        gap = 0.5 * (np.pi / count) ** 2
        ends = 1.0 - gap * np.array([1e-3, 0.03, 0.2, 0.5])
        t = np.unique(np.concatenate([samples.working(count, 0.01 * guess)[0], ends, -ends]))
        checks = samples.t[:: max(1, len(samples.t) // 4000)]
        wanted = self.normalised(checks)
        return Fit(t[:, None], self.normalised(t), checks[:, None], wanted, self.problem.affine, self.arithmetic)

    def tamed(self, rung: Rung, tolerance: float) -> Rung:
        """Smaller values where the tolerance (of y) allows."""
        samples = self.samples
        if samples is None or self.unit == 0.0 or rung.tokens > SEARCHED_TOKENS:
            return rung
        return tamed(self.fit(samples, rung.tokens, tolerance), rung, tolerance)

    def rung(self, tokens: int) -> Rung:
        """Also beyond the searched rungs: heads for tolerances that fall by four from the last of them."""
        best = super().rung(min(tokens, SEARCHED_TOKENS))
        if tokens <= SEARCHED_TOKENS or best.tolerance <= self.arithmetic.enough or not np.isfinite(best.tolerance):
            return best
        while not self._ended and (not self._long or self._long[-1].tokens <= tokens):
            aim = (self._long[-1] if self._long else best).tolerance / 4.0
            # one tolerance may be missed where a smaller one is met
            tries = (self.within(aim / share) for share in (1.0, 2.0, 5.0) if aim / share > self.arithmetic.enough)
            found = next((rung for rung in tries if rung is not None), None)
            self._ended = found is None
            if found is not None:
                self._long.append(found)
        return min([best, *(r for r in self._long if r.tokens <= tokens)], key=lambda r: r.tolerance)

    def within(self, tolerance: float) -> Rung | None:
        """The shortest head found for this tolerance (of y) by the search that is given one; None if it finds none."""
        if not self.finite or self.unit == 0.0 or self.samples is None:
            return None
        key = f"{self.key} within {float(tolerance).hex()}"
        known = load(self.folder, key, MOST_TOKENS, 1, self.arithmetic)
        if known is not None:
            return known
        # the linear part that suits the longest searched rung suits longer ones about as well
        factors = super().rung(SEARCHED_TOKENS).factors
        checks = self.samples.t
        wanted = self.normalised(checks) - factors[0] * checks
        for proposal in propose_minimax(
            lambda t: (self.normalised(t) - factors[0] * t)[:, None],
            -1.0,
            1.0,
            self.arithmetic.error_share * tolerance,
            max_tokens=MOST_TOKENS,
        ):
            arrays = proposal.slopes, proposal.biases, proposal.values[:, 0]
            found = measure(checks[:, None], wanted, *arrays, self.arithmetic)
            rung = Rung(*arrays, factors, *found, self.arithmetic)
            if rung.tolerance <= tolerance:
                store(self.folder, key, MOST_TOKENS, rung)
                return rung
        return None
