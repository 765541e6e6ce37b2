"""What a benchmark is given and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

__all__ = ["Benchmark", "Outcome", "Request", "columns", "number"]


@dataclass(frozen=True)
class Request:
    """effort: seconds that `compile_prefix` may spend on a shorter prefix, where a benchmark compiles; quick: a few small cases,
    enough to see that the benchmark runs; track: wraps a sequence of steps in a progress bar; suite: a file of formulas to measure instead
    of the benchmark's own, for one that `takes_suite`."""

    effort: float = 0.0
    quick: bool = False
    track: Callable[[Sequence[Any], str], Any] = lambda steps, words: steps
    suite: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """tables: what a person reads; metrics: what is compared from one run to the next."""

    tables: tuple[Table, ...]
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Benchmark:
    """A name for the command line, one line about it, and the measurement."""

    name: str
    summary: str
    run: Callable[[Request], Outcome]
    takes_suite: bool = False


def columns(title: str, *names: str, caption: str | None = None) -> Table:
    """An empty table whose first column is text and whose others are numbers."""
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for i, name in enumerate(names):
        table.add_column(name, justify="left" if i == 0 else "right")
    return table


def number(x: float | None, digits: int = 3) -> str:
    """A short number; a dash for what was not measured."""
    return "-" if x is None else str(x) if isinstance(x, int) else f"{x:.{digits}g}"
