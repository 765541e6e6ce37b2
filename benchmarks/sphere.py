"""Heads on spheres: black boxes against the thinnest coverings, smooth functions against Fourier coefficients.

A black box is known by its geodesic Lipschitz constant L and its values: the keys must be a net of covering radius eps / L. On S^1 that
takes ceil(pi L / eps) points; on S^2 no covering of many caps is thinner than the hexagonal one, of 8 pi / (3 sqrt(3)) = 4.84 times
(L / eps)^2 (Kershner 1939, Fejes Toth 1953). The classical head is one frozen head for every target, eps and sequence length; here it is
also run, on sequences of each length it is proved for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp
from jaxtyping import Float
from rich.table import Table

from benchmarks.fourier import FourierLength, circle, fourier_length
from benchmarks.functions import X, Y, lambdified
from benchmarks.outcome import Outcome, Request, columns, number
from constructions import Compiled, CompileError, compile_prefix
from verify import Sphere

__all__ = ["angle_to", "run", "worst_error_in_sequences"]

_LENGTH = 64
"""Data tokens up to which the classical head is proved, and run."""
_SMOOTH_EPS = 1e-9
_Z = sp.Symbol("z")
_SMOOTH: tuple[sp.Expr, ...] = (
    sp.exp(X) * sp.sin(3 * Y),
    sp.exp(X),
    16 * X**5 - 20 * X**3 + 5 * X,
    1 / (sp.Rational(12, 10) - X),
    sp.sin(10 * X),
    sp.tanh(3 * X + Y),
    1 / (sp.Rational(105, 100) - Y),
)
"""On the circle: entire functions, a single harmonic (the third is cos 5t), poles at several distances from the circle."""
_THREE_OUTPUTS = [X * Y, Y * _Z, sp.exp(_Z)]


@dataclass(frozen=True)
class _Entry:
    """One call of compile_prefix; c is None where it was refused."""

    words: str
    c: Compiled | None
    seconds: float

    @property
    def proved(self) -> bool:
        return self.c is not None and self.c.certificate.proved

    @property
    def promised(self) -> int | None:
        """The theorem's number of tokens."""
        return None if self.c is None or self.c.theorem is None else self.c.theorem.tokens()

    @property
    def within_bound(self) -> bool:
        return self.c is not None and self.promised is not None and self.c.length <= self.promised


@dataclass(frozen=True)
class _Smooth:
    """The shortest head, the classical head, and what polynomials need."""

    auto: _Entry
    classical: _Entry
    length: FourierLength | None

    @property
    def ratio(self) -> float | None:
        return self.auto.c.length / self.length.tried if self.auto.c and self.length else None


def run(request: Request) -> Outcome:
    """Three tables: black boxes, smooth functions on the circle, three outputs on S^2."""
    black, metrics = _black_boxes(request)
    smooth = _smooth(request)
    metrics |= _smooth_metrics(smooth)
    vector, vector_table = _three_outputs(request)
    entries = [*black, *(r.auto for r in smooth), *(r.classical for r in smooth), *vector]
    metrics |= {f"tokens_s2_three_outputs_{e.c.method}": e.c.length for e in vector if e.c}
    metrics |= {
        "claims": len(entries),
        "proved": sum(e.proved for e in entries),
        "within_bound": sum(e.within_bound for e in entries),
        "max_seconds": max(e.seconds for e in entries),
    }
    return Outcome((_black_table(black), _smooth_table(smooth), vector_table), metrics)


def angle_to(
    point: Float[np.ndarray, " n"], slope: float = 1.0
) -> Callable[[Float[np.ndarray, "P n"]], Float[np.ndarray, " P"]]:
    """slope times the geodesic distance to a point, computed one number at a time, so that it cannot be traced: a black box."""
    unit = np.asarray(point, dtype=np.float64) / np.linalg.norm(point)

    def angle(points: Float[np.ndarray, "P n"]) -> Float[np.ndarray, " P"]:
        rows = [[float(x) for x in row] for row in points]
        cosines = [sum(a * b for a, b in zip(row, unit.tolist(), strict=True)) for row in rows]
        return np.array([slope * math.acos(min(1.0, max(-1.0, c))) for c in cosines])

    return angle


def worst_error_in_sequences(
    c: Compiled, f: Callable[[np.ndarray], np.ndarray], length: int, tokens: int = 2048, seed: int = 0
) -> float:
    """The largest error of a classical head at any token of random sequences of `length` points, about `tokens` points in all."""
    count = -(-tokens // length)
    points = c.domain.sample(count * length, seed=seed)
    found = c.sequences(points.reshape(count, length, -1)).reshape(len(points), -1)
    return float(np.abs(found - f(points).reshape(len(points), -1)).max())


def _entry(words: str, f: Any, eps: float, domain: Sphere, request: Request, **options: Any) -> _Entry:
    started = time.perf_counter()
    try:
        c = compile_prefix(f, eps, domain, effort=request.effort, progress=False, **options)
    except CompileError:
        c = None
    return _Entry(words, c, time.perf_counter() - started)


def _black_boxes(request: Request) -> tuple[list[_Entry], dict[str, float]]:
    """S^1 at a coarse eps in every sequence; S^2 at a fine one; S^3."""
    on_circle = angle_to(np.array([0.6, 0.8]), 3.0)
    one = _entry("S^1, L = 3, eps = 1.2, classical", on_circle, 1.2, Sphere(1), request, lipschitz=3.0, method="classical", sequence_length=_LENGTH)  # fmt: skip
    metrics: dict[str, float] = {"optimal_s1": math.ceil(math.pi * 3 / 1.2)}
    if one.c is not None:
        lengths = range(1, _LENGTH + 1)
        errors = [
            worst_error_in_sequences(one.c, on_circle, length, seed=length)
            for length in request.track(lengths, "sequences of every length")
        ]
        metrics |= {
            "tokens_s1": one.c.length,
            "lengths_checked": len(errors),
            "max_error_in_sequences": max(errors),
            "proved_error_s1": one.c.certificate.error_upper,
        }
    cases = [(2, 0.5)] if request.quick else [(2, 0.1), (3, 0.5)]
    entries = [one]
    for m, eps in request.track(cases, "black boxes"):
        f = angle_to(np.array([0.3, 0.5, 0.81, 0.2])[: m + 1])
        # what happens once per process (loading, compiling) was paid by the circle above
        entry = _entry(f"S^{m}, L = 1, eps = {eps:g}", f, eps, Sphere(m), request, lipschitz=1.0)
        entries.append(entry)
        if entry.c is not None:
            metrics |= {f"tokens_s{m}": entry.c.length, f"seconds_s{m}": entry.seconds}
            metrics |= {"ratio_s2": entry.c.length / _thinnest(1 / eps)} if m == 2 else {}
    return entries, metrics


def _thinnest(ratio: float) -> float:
    """The area of S^2 divided by the hexagon of circumradius eps / L, (3 sqrt(3) / 2) (eps / L)^2. ratio: L / eps."""
    return 4 * math.pi / (1.5 * math.sqrt(3)) * ratio**2


def _black_table(entries: list[_Entry]) -> Table:
    table = columns(
        "black boxes: the angle to a point", "sphere", "tokens", "theorem", "proved error", "status", "seconds",
        caption="theorem: tokens that suffice for every function of that constant. The proofs are conditional on the constant.",
    )  # fmt: skip
    for e in entries:
        _row(table, e)
    return table


def _row(table: Table, e: _Entry) -> None:
    if e.c is None:
        table.add_row(e.words, "refused", *["-"] * 3, number(e.seconds))
        return
    certificate = e.c.certificate
    table.add_row(e.words, str(e.c.length), number(e.promised), number(certificate.error_upper, 4), str(certificate.status), number(e.seconds))  # fmt: skip


def _smooth(request: Request) -> list[_Smooth]:
    functions = _SMOOTH[1:3] if request.quick else _SMOOTH
    return [_measured(f, request) for f in request.track(functions, "smooth functions")]


def _measured(f: sp.Expr, request: Request) -> _Smooth:
    g = lambdified(f, X, Y)
    return _Smooth(
        _entry(str(f), f, _SMOOTH_EPS, Sphere(1), request),
        _entry(str(f), f, _SMOOTH_EPS, Sphere(1), request, method="classical", sequence_length=_LENGTH),
        fourier_length(lambda t: g(*circle(t).T), _SMOOTH_EPS),
    )


def _smooth_table(rows: list[_Smooth]) -> Table:
    table = columns(
        f"smooth functions on S^1 at {_SMOOTH_EPS:g}", "function", "tokens", "head", "Fourier", "at least", "ratio", "status", "seconds", "classical",
        caption="Fourier: coefficients 2n + 1 of a trigonometric polynomial of the same sampled error (the better of series and "
        "interpolant). At least: no trigonometric polynomial of that error has fewer. Some of the coefficients may vanish. "
        f"Classical: tokens of the frozen head in sequences of up to {_LENGTH}.",
    )  # fmt: skip
    for r in rows:
        c, classical = r.auto.c, r.classical.c
        fourier = ("-", "-") if r.length is None else (str(r.length.tried), str(r.length.least))
        table.add_row(
            r.auto.words, *(("refused", "-") if c is None else (str(c.length), c.method)), *fourier, number(r.ratio),
            "-" if c is None else str(c.certificate.status), number(r.auto.seconds), "refused" if classical is None else str(classical.length),
        )  # fmt: skip
    return table


def _smooth_metrics(rows: list[_Smooth]) -> dict[str, float]:
    known = [(r.auto.c.length, r.length) for r in rows if r.auto.c and r.length]
    if not known:
        return {}
    ratios = [tokens / length.tried for tokens, length in known]
    return {
        "smooth_functions": len(rows),
        "smooth_tokens_total": sum(r.auto.c.length for r in rows if r.auto.c),
        "smooth_tokens_total_classical": sum(r.classical.c.length for r in rows if r.classical.c),
        "best_fourier_ratio": min(ratios),
        "mean_fourier_ratio": math.exp(sum(map(math.log, ratios)) / len(ratios)),
        "worst_fourier_ratio": max(ratios),
        "worst_ratio_to_any_polynomial": max(tokens / length.least for tokens, length in known),
    }


def _three_outputs(request: Request) -> tuple[list[_Entry], Table]:
    eps = 1e-1 if request.quick else 1e-3
    table = columns(
        f"(xy, yz, exp z) on S^2 at {eps:g}", "head", "tokens", "theorem", "proved error", "status", "seconds"
    )
    heads = ["split"] if request.quick else ["split", "core", "classical"]
    entries = [
        _entry(method, _THREE_OUTPUTS, eps, Sphere(2), request, method=method)
        for method in request.track(heads, "three outputs")
    ]
    for e in entries:
        _row(table, e)
    return entries, table
