"""Functions of whole sequences: the tokens of four constructions for the same target and eps.

"circuit" and "two-layer" copy the sequence into every token and then are a circuit, or one head on R^{Td}; "sequence" is the T + 2 layer construction with one
scalar code, proved off an exceptional set; "shifted" averages several codes on shifted grids and holds everywhere.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import sympy as sp

from benchmarks.outcome import Outcome, Request, columns, number
from constructions import Box, Compiled, CompileError, compile_prefix
from verify import Sequences

__all__ = ["run"]

_METHODS = ("circuit", "two-layer", "sequence", "shifted")
_A, _B, _C = sp.symbols("x1 x2 x3")


@dataclass(frozen=True)
class _Case:
    name: str
    f: list[list[sp.Expr]]
    eps: float
    methods: tuple[str, ...] = _METHODS


_CASES = (
    _Case("swap", [[_B], [_A]], 0.4),
    _Case("kinks", [[sp.Abs(sp.sin(3 * _A) - _B)], [sp.Max(_A, 1 - _B)]], 0.45),
    _Case("swap_fine", [[_B], [_A]], 0.2),
    # so many cells that shifted grids would need more than 10^5 tokens
    _Case(
        "triple",
        [[_A * _B * _C], [sp.sin(_A + _B) * _C], [_A + _B * _C]],
        0.1,
        methods=("circuit", "two-layer", "sequence"),
    ),
)


def run(request: Request) -> Outcome:
    """One table, a row for each target and construction."""
    table = columns(
        "functions of sequences of numbers in [0, 1]", "target", "eps", "construction", "layers", "tokens", "proved error", "left out", "L^2 error", "seconds",
        caption="left out: a bound of the measure of the sequences about which nothing is claimed. L^2 error: a bound over all sequences.",
    )  # fmt: skip
    cases = _CASES[:1] if request.quick else _CASES
    steps = [(case, method) for case in cases for method in case.methods]
    metrics: dict[str, float] = {"claims": len(steps), "proved": 0, "max_left_out": 0.0}
    longest = 0.0
    for case, method in request.track(steps, "sequences"):
        started = time.perf_counter()
        c = _compiled(case, method, request.effort)
        seconds = time.perf_counter() - started
        longest = max(longest, seconds)
        if c is None:
            table.add_row(case.name, f"{case.eps:g}", method, "-", "refused", *["-"] * 3, number(seconds))
            continue
        certificate = c.certificate
        lp = number(certificate.error_upper if certificate.lp is None else certificate.lp[1])
        table.add_row(
            case.name, f"{case.eps:g}", method, str(len(c.model.layers)), str(c.length), number(certificate.error_upper), number(certificate.exceptional), lp, number(seconds),
        )  # fmt: skip
        metrics["proved"] += certificate.proved
        metrics["max_left_out"] = max(metrics["max_left_out"], certificate.exceptional)
        metrics[f"tokens_{case.name}_{method.replace('-', '_')}"] = c.length
    return Outcome((table,), metrics | {"max_seconds": longest})


def _compiled(case: _Case, method: str, effort: float) -> Compiled | None:
    """None where it is refused, or not proved."""
    domain = Sequences(len(case.f), Box([(0, 1)]))
    try:
        return compile_prefix(case.f, case.eps, domain, method=method, effort=effort, progress=False)
    except CompileError:
        return None
