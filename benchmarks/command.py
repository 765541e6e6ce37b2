"""The command line: list the benchmarks, or run one, print its tables and write its metrics."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.catalogue import BENCHMARKS
from benchmarks.outcome import Request
from constructions.suite import SuiteError

__all__ = ["RESULTS", "UNKNOWN_NAME", "app", "store"]

RESULTS = Path(__file__).parent / "results"
UNKNOWN_NAME = 3
"""Exit code for a name that is not in the table, or a suite that cannot be used."""

app = typer.Typer(add_completion=False)


@app.command()
def main(
    name: Annotated[str | None, typer.Argument(help="Benchmark to run; none lists them.")] = None,
    effort: Annotated[float, typer.Option(min=0.0, help="Seconds compile_prefix may spend on a shorter prefix.")] = 0.0,
    quick: Annotated[bool, typer.Option("--quick", help="A few small cases; written only with --results.")] = False,
    suite: Annotated[
        Path | None,
        typer.Option(
            help="Formulas to measure instead (circuits), a file as for `prefixc suite`; written only with --results."
        ),
    ] = None,
    results: Annotated[Path | None, typer.Option(help="Folder for NAME.json; default benchmarks/results.")] = None,
) -> None:
    """Run one benchmark from scratch, print its tables and write its metrics to NAME.json."""
    console, notes = Console(), Console(stderr=True)
    if name is None:
        _list(console)
        return
    chosen = next((b for b in BENCHMARKS if b.name == name), None)
    if chosen is None:
        notes.print(f"[bold]{name}[/bold] is not a benchmark. Choose one of:")
        _list(notes)
        raise typer.Exit(UNKNOWN_NAME)

    if suite is not None and not chosen.takes_suite:
        takers = ", ".join(b.name for b in BENCHMARKS if b.takes_suite)
        notes.print(f"--suite {suite}: {name} has no formulas to replace. Use it with {takers}.")
        raise typer.Exit(UNKNOWN_NAME)

    def bar(steps: Sequence[Any], words: str) -> Iterable[Any]:
        return track(steps, words, console=notes, transient=True)

    try:
        outcome = chosen.run(Request(effort, quick, bar, suite))
    except SuiteError as error:
        notes.print(f"--suite {error}", markup=False)
        raise typer.Exit(UNKNOWN_NAME) from error
    wide = console if console.is_terminal else Console(width=140)
    for table in outcome.tables:
        wide.print(table)
    if not outcome.metrics:
        notes.print("nothing was measured, nothing is written")
        return
    wide.print(_metrics(outcome.metrics))
    folder = results if results is not None else None if quick or suite is not None else RESULTS
    if folder is not None:
        console.print(f"written: {store(outcome.metrics, folder, name)}")


def store(metrics: Mapping[str, float], folder: Path, name: str) -> Path:
    """Write a flat object of finite numbers, sorted, to six digits, so that two runs can be compared line by line."""
    flat = {
        key: int(x) if float(x).is_integer() else float(f"{x:.6g}")
        for key, x in sorted(metrics.items())
        if math.isfinite(x)
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(flat, indent=2) + "\n")
    return path


def _list(console: Console) -> None:
    table = Table(box=None, show_header=False)
    for benchmark in BENCHMARKS:
        table.add_row(f"[bold]{benchmark.name}[/bold]", benchmark.summary)
    console.print(table)


def _metrics(metrics: Mapping[str, float]) -> Table:
    table = Table(title="metrics", title_justify="left", box=None, show_header=False)
    for key, x in sorted(metrics.items()):
        table.add_row(key, f"{x:.6g}")
    return table
