"""Franke's function on [-1, 1]^2: prefix tokens against the coefficients of tensor-product Chebyshev polynomials."""

from __future__ import annotations

import time

from benchmarks.chebyshev import tensor_coefficients_needed
from benchmarks.functions import SQUARE, X, Y, franke, lambdified
from benchmarks.outcome import Outcome, Request, columns, number
from constructions import compile_prefix

__all__ = ["run"]

_EPS = (1e-2, 1e-4, 1e-6)
_QUICK = (0.3,)


def run(request: Request) -> Outcome:
    """One row per eps."""
    f = franke()
    table = columns(
        "Franke's function", "eps", "tokens", "Chebyshev coefficients", "ratio", "proved error", "status", "seconds", "construction",
        caption="coefficients: the smallest m x m whose error on 301 x 301 points is at most eps; seconds: construction and proof",
    )  # fmt: skip
    metrics: dict[str, float] = {"proved": 0}
    for eps in request.track(_QUICK if request.quick else _EPS, "Franke's function"):
        coefficients = tensor_coefficients_needed(lambdified(f, X, Y), eps)
        started = time.perf_counter()
        c = compile_prefix(f, eps, SQUARE, effort=request.effort, progress=False)
        seconds = time.perf_counter() - started
        ratio = c.length / coefficients if coefficients else None
        table.add_row(
            f"{eps:g}", str(c.length), number(coefficients), number(ratio), number(c.certificate.error_upper, 4), str(c.certificate.status),
            number(seconds), c.method,
        )  # fmt: skip
        metrics |= {f"tokens_{eps:.0e}": c.length, f"seconds_{eps:.0e}": seconds}
        if coefficients and ratio:
            metrics |= {f"chebyshev_{eps:.0e}": coefficients, f"ratio_{eps:.0e}": ratio}
        metrics["proved"] += c.certificate.proved
    return Outcome((table,), metrics)
