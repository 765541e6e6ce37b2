"""How long a proof takes, and how far the proved bound is above the true error."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import sympy as sp

from benchmarks.functions import INTERVAL, X, lambdified
from benchmarks.outcome import Outcome, Request, columns, number
from benchmarks.timing import interleaved
from constructions import CompileError, compile_prefix
from constructions.compiled import Compiled
from verify import Claim, Status, forward, prove

__all__ = ["run"]

_CASES: tuple[tuple[sp.Expr, float, str], ...] = (
    (sp.sin(3 * X), 1e-3, "minimax"),
    (sp.sin(3 * X), 1e-6, "minimax"),
    (sp.sin(3 * X), 1e-9, "minimax"),
    (sp.sin(3 * X), 1e-3, "laplacian"),
    (sp.sin(3 * X), 1e-6, "laplacian"),
    (sp.sin(3 * X), 1e-9, "laplacian"),
    (sp.sin(3 * X), 1e-9, "bernstein"),
    (sp.exp(-20 * X**2), 1e-9, "minimax"),
    (sp.exp(-20 * X**2), 1e-6, "laplacian"),
    (1 / (1 + 25 * X**2), 1e-9, "minimax"),
    (1 / (1 + 25 * X**2), 1e-3, "bernstein"),
    (sp.sqrt(sp.Rational(102, 100) + X), 1e-9, "minimax"),
    (sp.cos(20 * X), 1e-9, "minimax"),
    (sp.cos(60 * X), 1e-9, "minimax"),
    (sp.cos(150 * X), 1e-6, "minimax"),
    (X * sp.sin(10 * X), 1e-9, "bernstein"),
    (sp.tanh(5 * X), 1e-9, "minimax"),
)
_TIGHT = 1.1
_ROUNDING_SHARE = 0.05
"""Above this share of the sampled error the bound on float64's rounding, not the proof, decides: counted apart."""
_LONGEST = 100
"""Tokens up to which a head counts for the metrics; longer ones are shown."""


def run(request: Request) -> Outcome:
    """One row per head; the heads are built first, only the proofs are timed."""
    cases = _CASES[:1] if request.quick else _CASES
    built = [_built(*case) for case in request.track(cases, "building")]
    heads = [(case, c) for case, c in zip(cases, built, strict=True) if c is not None]
    rounds = 1 if request.quick else 5
    timed = interleaved({str(i): partial(prove, c.claim) for i, (_, c) in enumerate(heads)}, rounds)
    table = columns(
        "proofs in one variable", "head", "eps", "tokens", "seconds", "proved error", "sampled error", "tightness", "rounding", "boxes", "status",
        caption=f"seconds: median of {rounds} proofs, in turn; sampled error: 40001 points and a search around the largest; "
        f"tightness: proved / sampled; metrics count heads of at most {_LONGEST} tokens, "
        f"apart where the rounding bound is above {_ROUNDING_SHARE:.0%} of the sampled error",
    )  # fmt: skip
    seconds, tightness, limited, proved = [], [], [], 0
    for i, ((f, eps, method), c) in enumerate(heads):
        took, certificate = timed[str(i)]
        sampled = _largest_error(c.claim, lambdified(f, X))
        ratio = certificate.error_upper / sampled
        if c.length <= _LONGEST:
            seconds.append(took)
            (tightness if certificate.rounding <= _ROUNDING_SHARE * sampled else limited).append(ratio)
        proved += certificate.status is Status.PROVED
        table.add_row(
            f"{f} ({method})", f"{eps:g}", str(c.length), number(took), number(certificate.error_upper, 4), number(sampled, 4), number(ratio, 4),
            number(certificate.rounding), str(certificate.boxes), str(certificate.status),
        )  # fmt: skip
    for (f, eps, method), c in zip(cases, built, strict=True):
        if c is None:
            table.add_row(f"{f} ({method})", f"{eps:g}", "refused")
    metrics = {
        "heads": len(cases),
        "proved": proved,
        "heads_counted": len(seconds),
        "worst_seconds": max(seconds),
        "median_seconds": float(np.median(seconds)),
        "worst_tightness": max(tightness),
        "heads_tight": sum(t <= _TIGHT for t in tightness),
        "median_tightness": float(np.median(tightness)),
        "heads_limited_by_rounding": len(limited),
        "worst_tightness_limited_by_rounding": max(limited, default=1.0),
    }
    return Outcome((table,), metrics)


def _built(f: sp.Expr, eps: float, method: str) -> Compiled | None:
    try:
        return compile_prefix(f, eps, INTERVAL, method=method, progress=False)
    except CompileError:
        return None


def _largest_error(claim: Claim, f: Callable[[np.ndarray], np.ndarray]) -> float:
    """Largest sampled |model - target|: a fine grid, then finer ones around its ten largest errors."""
    x = np.linspace(-1.0, 1.0, 40001)
    error = _error(claim, f, x)
    step = x[1] - x[0]
    best = float(error.max())
    for i in np.argsort(error)[-10:]:
        best = max(best, float(_error(claim, f, np.clip(np.linspace(x[i] - step, x[i] + step, 101), -1.0, 1.0)).max()))
    return best


def _error(claim: Claim, f: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    return np.abs(forward(claim.model, claim.prefix, x[:, None])[:, 0] - f(x))
