"""What a suite came to."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from constructions.suite.rows import Row
from verify.certificate import upward

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["SuiteResult"]


@dataclass(frozen=True)
class SuiteResult:
    """rows: one per entry, in order; out: the folder of results.jsonl, results.csv and NAME.safetensors; reused: how many rows were
    there from an earlier run."""

    rows: tuple[Row, ...]
    out: Path
    reused: int = 0

    @property
    def proved(self) -> int:
        """How many entries were proved."""
        return sum(row.proved for row in self.rows)

    @property
    def all_proved(self) -> bool:
        return self.proved == len(self.rows)

    @property
    def median_tokens(self) -> float | None:
        """Over the proved entries; None if there are none."""
        return _median([row.tokens for row in self.rows if row.proved and row.tokens is not None])

    @property
    def max_tokens(self) -> int | None:
        """Over the proved entries; None if there are none."""
        return max((row.tokens for row in self.rows if row.proved and row.tokens is not None), default=None)

    @property
    def median_seconds(self) -> float | None:
        """Compiling and proving, over the proved entries; None if there are none."""
        return _median([row.seconds for row in self.rows if row.proved])

    def table(self) -> Table:
        """For a terminal: `rich.print(result.table())`."""
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, show_edge=False, caption=self.summary(), caption_justify="left")
        for title in ("name", "status", "method"):
            table.add_column(title, overflow="fold")
        for title in ("variables", "tokens", "layers", "eps", "error at most", "seconds"):
            table.add_column(title, justify="right", no_wrap=True)
        table.add_column("message", overflow="fold")
        for row in self.rows:
            table.add_row(
                row.name,
                row.status,
                row.method or "",
                str(row.variables),
                _shown(row.tokens),
                _shown(row.layers),
                "" if row.eps is None else f"{row.eps:.3g}",
                "" if row.error is None else upward(row.error),
                f"{row.seconds:.2f}",
                row.message,
            )
        return table

    def summary(self) -> str:
        """One line."""
        words = f"{self.proved} of {len(self.rows)} proved"
        if self.proved:
            words += f"; tokens: median {self.median_tokens:g}, most {self.max_tokens}; seconds: median {self.median_seconds:.2f}"
        return words + (f"; {self.reused} from an earlier run" if self.reused else "")

    def __repr__(self) -> str:
        return f"<SuiteResult {self.summary()}; in {self.out}>"


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _shown(value: int | None) -> str:
    return "" if value is None else str(value)
