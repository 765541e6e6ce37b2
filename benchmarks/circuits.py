"""Circuits: fifty physics formulas of 2 to 8 variables at 1e-3 and 1e-6 of their range, Newton's law of nine, and NumPy functions.

The formulas and their ranges are fifty of the AI Feynman benchmark's (Udrescu and Tegmark 2020); eps is relative to
max - min of the formula over its box (`attained_range`). At 1e-3 they are compiled for float32 too, and proved in it. Each is measured alone: in a process of its own, which has loaded the program
and compiled nothing, with an empty cache of heads. Where the package uqtestfuns is installed, nine of its functions are traced and compiled at
1e-3 as well. "Warm" is the same again, in another process, with the cache that was left.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import uncertainty
from benchmarks.outcome import Outcome, Request, columns, number
from constructions.suite import Entry, Row, read_entries
from constructions.suite.work import compile_entry

__all__ = ["FORMULAS", "NEWTON", "run"]

FORMULAS = Path(__file__).parent / "data" / "feynman.json"
_SIDES = {**dict.fromkeys(("m1", "m2", "G"), (1.0, 2.0)), **dict.fromkeys(("x1", "y1", "z1"), (3.0, 4.0)), **dict.fromkeys(("x2", "y2", "z2"), (1.0, 2.0))}  # fmt: skip
NEWTON = Entry(
    "I.9.18", "G*m1*m2/((x2-x1)**2+(y2-y1)**2+(z2-z1)**2)", tuple((name, lo, hi) for name, (lo, hi) in _SIDES.items())
)
"""The force between two masses, in three dimensions."""
_QUICK = ("I.12.1", "I.39.1")
_COARSE, _FINE = "1e-3", "1e-6"
_SINGLE = "1e-3_float32"
_TIME_LIMIT = 60.0


@dataclass(frozen=True)
class _Measured:
    """A formula at one eps: with an empty cache, and, where that was asked for, with the cache it left."""

    cold: Row
    warm: Row | None


def run(request: Request) -> Outcome:
    """A table for each eps, one for Newton's law, and one for functions of uqtestfuns."""
    entries = read_entries(request.suite or FORMULAS)
    if request.quick:
        entries = [e for e in entries if e.name in _QUICK] or entries[:2]
    measurements = [(entry, eps) for eps in (_COARSE, _FINE) for entry in entries]
    found: dict[str, list[_Measured]] = {_COARSE: [], _FINE: []}
    for entry, eps in request.track(measurements, "circuits"):
        found[eps].append(_measured(entry, eps, again=eps == _COARSE))
    newton = _measured(NEWTON, _COARSE, again=False)
    single = [_single(entry) for entry in request.track(entries, "circuits in float32")]
    metrics: dict[str, float] = {"formulas": len(entries)} | _summary(
        [m.cold for m in single if m.cold.proved], _SINGLE
    )
    for eps, rows in found.items():
        metrics |= _summary([m.cold for m in rows if m.cold.proved], eps)
    warm = [m.warm.seconds for m in found[_COARSE] if m.warm is not None and m.warm.proved]
    if warm:
        metrics[f"median_seconds_warm_{_COARSE}"] = statistics.median(warm)
    metrics |= {"proved_newton": int(newton.cold.proved)}
    for name, count in (("tokens", newton.cold.tokens), ("layers", newton.cold.layers)):
        metrics |= {} if count is None else {f"{name}_newton": count}
    name = FORMULAS.stem if request.suite is None else request.suite.stem
    tables = [_table(f"{name} at {eps} of range", rows) for eps, rows in found.items()]
    tables.append(_table(f"{name} at {_COARSE} of range, for float32", single))
    tables.append(_table(f"Newton's law at {_COARSE} of range", [newton]))
    if uncertainty.installed() and not request.quick and request.suite is None:
        functions = [_function(f) for f in request.track(list(uncertainty.FUNCTIONS), "uqtestfuns")]
        tables.append(_table(f"uqtestfuns at {_COARSE} of range", functions))
        tokens = [m.cold.tokens for m in functions if m.cold.proved and m.cold.tokens is not None]
        metrics |= {"proved_uqtestfuns": len(tokens)} | ({"max_tokens_uqtestfuns": max(tokens)} if tokens else {})
    return Outcome(tuple(tables), metrics)


def _summary(proved: Sequence[Row], eps: str) -> dict[str, float]:
    """Tokens and seconds are those of the formulas that were proved; without any there are none."""
    tokens = [row.tokens for row in proved if row.tokens is not None]
    summary: dict[str, float] = {f"proved_{eps}": len(proved)}
    if not tokens:
        return summary
    seconds = [row.seconds for row in proved]
    return summary | {
        f"median_tokens_{eps}": statistics.median(tokens),
        f"max_tokens_{eps}": max(tokens),
        f"median_seconds_{eps}": statistics.median(seconds),
        f"max_seconds_{eps}": max(seconds),
    }


def _measured(entry: Entry, eps: str, again: bool) -> _Measured:
    lost = Row("", entry.name, "error", len(entry.domain))
    with tempfile.TemporaryDirectory() as folder:
        cold = _alone(lost, _row, entry, float(eps), folder)
        return _Measured(cold, _alone(lost, _row, entry, float(eps), folder) if again else None)


def _single(entry: Entry) -> _Measured:
    lost = Row("", entry.name, "error", len(entry.domain))
    with tempfile.TemporaryDirectory() as folder:
        return _Measured(_alone(lost, _row, entry, float(_COARSE), folder, "float32"), None)


def _function(name: str) -> _Measured:
    with tempfile.TemporaryDirectory() as folder:
        return _Measured(_alone(Row("", name, "error", 0), _function_row, name, folder), None)


def _alone(lost: Row, work: Callable[..., Row], *arguments: Any) -> Row:
    """A row worked out by a new process; `lost` where that ends early."""
    try:
        with ProcessPoolExecutor(1, _context()) as pool:
            return pool.submit(work, *arguments).result()
    except BrokenProcessPool as error:
        return replace(lost, message=f"its process was lost: {error}")


def _context() -> BaseContext:
    """Copies of a process that has loaded this module and done nothing else; where there are none, new processes load it."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _row(entry: Entry, eps_rel: float, folder: str, dtype: str = "float64") -> Row:
    """In the new process: the cache of heads is in the folder."""
    os.environ["PREFIXC_CACHE"] = folder
    # one variable needs no circuit: such a formula, of another suite, is one head
    method = "circuit" if len(entry.domain) > 1 else "auto"
    row, _ = compile_entry(entry, "", eps_rel=eps_rel, method=method, time_limit=_TIME_LIMIT, dtype=dtype)
    return row


def _function_row(name: str, folder: str) -> Row:
    """The same for a function of uqtestfuns."""
    os.environ["PREFIXC_CACHE"] = folder
    return uncertainty.row(name, float(_COARSE), _TIME_LIMIT)


def _table(title: str, rows: Sequence[_Measured]) -> Table:
    table = columns(
        title, "formula", "variables", "tokens", "layers", "heads", "eps", "proved error", "status", "seconds", "warm", "message",
        caption="seconds: the formula's range, compiling, proving and saving, with an empty cache of heads; warm: with its cache.",
    )  # fmt: skip
    for m in rows:
        row, warm = m.cold, None if m.warm is None else m.warm.seconds
        table.add_row(
            row.name, str(row.variables), number(row.tokens), number(row.layers), number(row.heads), number(row.eps), number(row.error), row.status,
            number(row.seconds), number(warm), row.message[:60],
        )  # fmt: skip
    return table
