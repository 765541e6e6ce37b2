"""Twelve analytic functions at three errors: how many tokens a head needs, beside what polynomials and rational functions need."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import sympy as sp

from benchmarks.chebyshev import coefficients_needed
from benchmarks.functions import ANALYTIC, INTERVAL, X, lambdified
from benchmarks.outcome import Outcome, Request, columns, number
from benchmarks.peers import aaa, aaa_terms_needed, chebfun_installed, chebfun_length
from benchmarks.timing import interleaved
from constructions import CompileError, compile_prefix
from verify import ExpressionTarget, alternation

__all__ = ["run"]

_EPS = (1e-3, 1e-6, 1e-9)


@dataclass(frozen=True)
class _Row:
    function: sp.Expr
    eps: float
    tokens: int | None
    seconds: float
    coefficients: int | None
    lower: int | None
    chebfun: int | None
    chebfun_seconds: float | None
    aaa: int | None
    aaa_seconds: float | None

    @property
    def ratio(self) -> float | None:
        return self.tokens / self.coefficients if self.tokens and self.coefficients else None


def run(request: Request) -> Outcome:
    """36 rows."""
    functions = ANALYTIC[:2] if request.quick else ANALYTIC
    cases = [(f, eps) for f in functions for eps in (_EPS[:1] if request.quick else _EPS)]
    # the first call of each pays for what is loaded and compiled once
    _compiled(X, 1e-3, 0.0)
    rows = [_measure(f, eps, request) for f, eps in request.track(cases, "analytic functions")]
    return Outcome((_table(rows),), _metrics(rows))


def _compiled(f: sp.Expr, eps: float, effort: float) -> Any:
    """None where it is refused, or not proved."""
    try:
        c = compile_prefix(f, eps, INTERVAL, effort=effort, progress=False)
    except CompileError:
        return None
    return c if c.certificate.proved else None


def _measure(f: sp.Expr, eps: float, request: Request) -> _Row:
    g = lambdified(f, X)
    scale = float(np.abs(g(np.linspace(-1, 1, 4001))).max())
    rivals: dict[str, Any] = {"compile": partial(_compiled, f, eps, request.effort)}
    terms = aaa_terms_needed(g, eps)
    if terms is not None:
        rivals["aaa"] = partial(aaa, g, terms)
    if chebfun_installed():
        rivals["chebfun"] = partial(chebfun_length, g, eps, scale)
    timed = interleaved(rivals, 1 if request.quick or request.effort else 3)
    seconds, c = timed["compile"]
    lower = None
    if c is not None and isinstance(c.target, ExpressionTarget):
        bound = alternation(c.target, c.domain, eps)
        lower = bound.tokens if bound.holds(c.target, c.domain) else None
    chebfun_seconds, chebfun = timed.get("chebfun", (None, None))
    aaa_seconds = timed["aaa"][0] if "aaa" in timed else None
    tokens = None if c is None else c.length
    return _Row(
        f, eps, tokens, seconds, coefficients_needed(g, eps), lower, chebfun, chebfun_seconds, terms, aaa_seconds
    )


def _table(rows: list[_Row]) -> Any:
    table = columns(
        "analytic functions on [-1, 1]", "function", "eps", "tokens", "lower bound", "Chebyshev", "ratio", "chebfun", "AAA", "compile s", "chebfun s", "AAA s",
        caption="Chebyshev: coefficients for the same sampled error, degree + 1 (every other one vanishes for even and odd functions). AAA: support points, each a value and a weight. Only the heads are proved; "
        "their seconds include the proof. AAA's are those of the final fit, not of the search for its length.",
    )  # fmt: skip
    absent = "-" if chebfun_installed() else "not installed"
    for r in rows:
        chebfun = (absent, absent) if r.chebfun is None else (str(r.chebfun), number(r.chebfun_seconds))
        table.add_row(
            str(r.function), f"{r.eps:g}", "not proved" if r.tokens is None else str(r.tokens), number(r.lower),
            number(r.coefficients), number(r.ratio), chebfun[0], number(r.aaa), number(r.seconds), chebfun[1], number(r.aaa_seconds),
        )  # fmt: skip
    return table


def _metrics(rows: list[_Row]) -> dict[str, float]:
    metrics: dict[str, float] = {
        "claims": len(rows),
        "proved": sum(r.tokens is not None for r in rows),
        "median_seconds": statistics.median(r.seconds for r in rows),
        "max_seconds": max(r.seconds for r in rows),
        "lower_bounds_certified": sum(r.lower is not None for r in rows),
        "tokens_total": sum(r.tokens for r in rows if r.tokens),
    }
    gaps = [r.tokens - r.lower for r in rows if r.tokens and r.lower]
    metrics |= {"max_lower_bound_gap": max(gaps), "lower_bounds_attained": sum(g == 0 for g in gaps)} if gaps else {}
    metrics |= _geometric("ratio_geomean", [r.ratio for r in rows])
    for eps in sorted({r.eps for r in rows}):
        metrics |= _geometric(f"ratio_{eps:.0e}".replace("e-0", "e-"), [r.ratio for r in rows if r.eps == eps])
    metrics |= _geometric("ratio_chebfun", [r.tokens / r.chebfun if r.tokens and r.chebfun else None for r in rows])
    metrics |= _geometric("ratio_aaa", [r.tokens / r.aaa if r.tokens and r.aaa else None for r in rows])
    times = {"chebfun": [r.chebfun_seconds for r in rows], "aaa": [r.aaa_seconds for r in rows]}
    for name, seconds in times.items():
        known = [t for t in seconds if t is not None]
        metrics |= {f"median_seconds_{name}": statistics.median(known)} if known else {}
    return metrics


def _geometric(name: str, ratios: list[float | None]) -> dict[str, float]:
    known = [math.log(r) for r in ratios if r]
    return {name: math.exp(statistics.fmean(known))} if known else {}
