"""Seconds and memory of every engine on 100 000 points and 1000 tokens.

Every engine has a process of its own, which reports its own peak; the processes are asked in turn. All use the same number of
threads: OMP_NUM_THREADS where it is set, else the processors.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.functions import hardest_lipschitz
from benchmarks.outcome import Outcome, Request, columns, number
from constructions import Box, compile_prefix, load
from constructions.engines import ENGINES, available_engines
from verify import zigzag

__all__ = ["run"]


@dataclass(frozen=True)
class _Measured:
    """start: seconds of the first call; peak_mb: largest resident memory so far, above what it was with everything imported."""

    seconds: list[float]
    start: float
    peak_mb: float
    output: np.ndarray


def run(request: Request) -> Outcome:
    """One row per engine, and one for the automatic choice."""
    batch, tokens, rounds = (2000, 50, 2) if request.quick else (100_000, 1000, 7)
    threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    # the sharpest head of that length: the covering of the hardest Lipschitz function
    eps = 1 / (tokens - 0.5)
    hardest = hardest_lipschitz(zigzag(1.0, -1.0, 1.0, eps))
    c = compile_prefix(hardest, eps, Box([(-1, 1)]), method="covering", lipschitz=1.0, progress=False)
    names = [*available_engines(), "auto"]
    with tempfile.TemporaryDirectory() as folder:
        path = c.save(Path(folder) / "head.prefix.safetensors")
        measured = _measure(request, names, path, batch, rounds, threads)
    return _outcome(measured, batch, c.length, threads, c.certificate.rounding)


def _measure(
    request: Request, names: list[str], path: Path, batch: int, rounds: int, threads: int
) -> dict[str, _Measured]:
    spawn = get_context("spawn")
    pools = {n: ProcessPoolExecutor(1, spawn, initializer=_use_threads, initargs=(threads,)) for n in names}
    try:
        first = {n: pool.submit(_first_call, n, path, batch).result() for n, pool in pools.items()}
        seconds: dict[str, list[float]] = {n: [] for n in names}
        for _ in request.track(range(rounds), "evaluating"):
            for n, pool in pools.items():
                seconds[n].append(pool.submit(_timed_call, n, path, batch).result())
        peaks = {n: pool.submit(_peak_mb).result() for n, pool in pools.items()}
        return {n: _Measured(seconds[n], first[n][0], peaks[n] - first[n][1], first[n][2]) for n in names}
    finally:
        for pool in pools.values():
            pool.shutdown()


def _outcome(measured: dict[str, _Measured], batch: int, tokens: int, threads: int, rounding: float) -> Outcome:
    table = columns(
        f"{batch} points, {tokens} tokens, {threads} threads", "engine", "seconds", "ratio to torch", "first call s", "peak MB", "difference from numpy",
        caption=f"seconds: median of {len(measured['numpy'].seconds)} calls, in turn; the first call imports and compiles. Two engines may differ by twice "
        f"the certificate's rounding bound, {2 * rounding:.3g}. Peak: resident memory above that of the process with its packages imported.",
    )  # fmt: skip
    seconds = {n: statistics.median(m.seconds) for n, m in measured.items()}
    reference = measured["numpy"].output
    apart = {n: float(np.abs(m.output - reference).max()) for n, m in measured.items()}
    for name in (*(e.name for e in ENGINES), "auto"):
        if name not in measured:
            table.add_row(name, "not installed")
            continue
        ratio = seconds[name] / seconds["torch"] if "torch" in seconds else None
        table.add_row(
            name,
            number(seconds[name]),
            number(ratio),
            number(measured[name].start),
            number(measured[name].peak_mb),
            number(apart[name]),
        )
    metrics: dict[str, float] = {f"seconds_{n}": s for n, s in seconds.items()}
    metrics |= {f"peak_mb_{n}": m.peak_mb for n, m in measured.items()}
    metrics |= {"threads": threads, "peak_mb": max(m.peak_mb for m in measured.values())}
    metrics |= {
        "max_difference": max(apart.values()),
        "max_difference_over_bound": max(apart.values()) / (2 * rounding),
    }
    if "torch" in seconds:
        metrics |= {f"ratio_{n}_torch": seconds[n] / seconds["torch"] for n in seconds if n != "torch"}
    return Outcome((table,), metrics)


def _use_threads(threads: int) -> None:
    """In the worker, before any engine is imported: Numba reads this when it is imported, and `_first_call` sets PyTorch's."""
    os.environ["NUMBA_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(threads)


def _points(batch: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, batch)


def _first_call(engine: str, path: Path, batch: int) -> tuple[float, float, np.ndarray]:
    """In the worker: seconds of the first call, resident megabytes before it, and what it computed."""
    c, x = load(path), _points(batch)
    started = time.perf_counter()
    for e in ENGINES:
        if e.name == engine:
            e.starts()
    importing = time.perf_counter() - started
    before = _status("VmRSS")
    started = time.perf_counter()
    output = c(x, engine=engine)
    return importing + time.perf_counter() - started, before, output


def _timed_call(engine: str, path: Path, batch: int) -> float:
    c, x = load(path), _points(batch)
    started = time.perf_counter()
    c(x, engine=engine)
    return time.perf_counter() - started


def _peak_mb() -> float:
    return _status("VmHWM")


def _status(field: str) -> float:
    """Megabytes from Linux's /proc/self/status; elsewhere the peak that `resource` knows, which a process may inherit."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        import resource
        import sys

        size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return size / (2**20 if sys.platform == "darwin" else 2**10)
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(field + ":"))
