"""A progress bar for anything that takes longer than two seconds, and none for what does not."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["reporting"]

_PATIENCE = 2.0


@contextmanager
def reporting(progress: bool | Callable[[float, str], None] | None) -> Iterator[Callable[[float, str], None]]:
    """A callback (fraction, words).

    progress: None shows a bar on a terminal or in a notebook after two seconds; True shows it at once, terminal or not; False never; a callable
    receives every report itself.
    """
    if callable(progress):
        yield progress
        return
    watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    if progress is False or (progress is None and not watched):
        yield lambda done, words: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    started = time.monotonic()
    state: dict[str, Any] = {"bar": None, "task": None}

    def report(done: float, words: str) -> None:
        if state["bar"] is None:
            if progress is not True and time.monotonic() - started < _PATIENCE:
                return
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
            )
            state["bar"] = Progress(*columns, console=Console(stderr=True), transient=True)
            state["bar"].start()
            state["task"] = state["bar"].add_task(words, total=1.0)
        state["bar"].update(state["task"], completed=done, description=words)

    try:
        yield report
    finally:
        if state["bar"] is not None:
            state["bar"].stop()
