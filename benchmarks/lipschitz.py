"""Prefix lengths of functions known by their Lipschitz constant alone.

One variable: the covering construction against ceil(L (hi - lo) / 2 eps), below which no single head serves the class; the target is
the zigzag that proves this, a millionth flatter. Two variables: against the area divided by 2.598 (eps / L)^2, the area (3 sqrt(3) / 2) R^2 of the
hexagon of circumradius R, which no covering of a large region beats (Kershner 1939).
"""

from __future__ import annotations

import math
import time
from fractions import Fraction

import numpy as np
from scipy.spatial import KDTree

from benchmarks.functions import hardest_lipschitz
from benchmarks.outcome import Outcome, Request, columns, number
from constructions import Box, compile_prefix
from verify import zigzag

__all__ = ["run"]

_LINE = (
    (1.0, -1.0, 1.0, 0.1),
    (1.0, -1.0, 1.0, 0.03),
    (1.0, 0.0, 1.0, 1e-3),
    (7.3, -2.0, 5.0, 0.05),
    (math.pi, 0.0, 10.0, 0.025),
    (100.0, 0.0, 1.0, 0.07),
    (0.01, -50.0, 50.0, 0.004),
    (3.0, 0.125, 0.375, 1.0),
)
"""L, lo, hi, eps."""

_FINENESS = (20, 100)
"""Side of the square in units of eps / L."""


def run(request: Request) -> Outcome:
    """Both tables."""
    line = columns(
        "one variable: the hardest L-Lipschitz function", "L, interval, eps", "tokens", "ceil(L len / 2 eps)", "certified lower bound",
        "excess", "status", "seconds",
    )  # fmt: skip
    excess, certified, proved = [], 0, 0
    cases = _LINE[:2] if request.quick else _LINE
    for constant, lo, hi, eps in request.track(cases, "one variable"):
        lower = zigzag(constant, lo, hi, eps)
        started = time.perf_counter()
        c = compile_prefix(
            hardest_lipschitz(lower), eps, Box([(lo, hi)]), method="covering", lipschitz=constant, progress=False
        )
        seconds = time.perf_counter() - started
        law = math.ceil(Fraction(constant) * (Fraction(hi) - Fraction(lo)) / (2 * Fraction(eps)))
        excess.append(c.length - law)
        certified += lower.holds() and lower.tokens == law
        proved += c.certificate.proved
        line.add_row(
            f"L = {constant:.4g}, [{lo:g}, {hi:g}], {eps:g}", str(c.length), str(law), f"{lower.tokens} {'holds' if lower.holds() else 'FAILS'}",
            str(excess[-1]), str(c.certificate.status), number(seconds),
        )  # fmt: skip
    plane = columns(
        "two variables: distance to the nearest of forty points",
        "side / (eps / L)",
        "tokens",
        "optimal density",
        "ratio",
        "status",
        "seconds",
    )
    sites = KDTree(np.random.default_rng(0).uniform(0, 1, (40, 2)))
    ratios: dict[str, float] = {}
    finenesses = _FINENESS[:1] if request.quick else _FINENESS
    for fineness in request.track(finenesses, "two variables"):
        eps = 1.0 / fineness
        started = time.perf_counter()
        c = compile_prefix(
            lambda p: sites.query(p)[0], eps, Box([(0, 1), (0, 1)]), method="covering", lipschitz=1.0, progress=False
        )
        seconds = time.perf_counter() - started
        optimal = 1 / (1.5 * math.sqrt(3) * eps**2)
        ratios[f"ratio_side{fineness}"] = c.length / optimal
        proved += c.certificate.proved
        plane.add_row(
            str(fineness),
            str(c.length),
            number(optimal, 4),
            number(c.length / optimal, 4),
            str(c.certificate.status),
            number(seconds),
        )
    metrics = {
        "max_excess_tokens": max(excess),
        "lower_bounds_certified": certified,
        "lower_bounds_tried": len(cases),
        "proved": proved,
        "claims": len(cases) + len(finenesses),
    }
    return Outcome((line, plane), metrics | ratios)
