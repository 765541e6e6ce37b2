"""Rows of the table, and results.jsonl: one line per finished entry, appended and never rewritten."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType, NoneType

import constructions
import verify
from constructions.suite.entries import Entry

__all__ = ["Row", "append", "as_csv", "key_of", "program_version", "read_rows"]


@dataclass(frozen=True)
class Row:
    """What came of one entry.

    key: content of the entry, eps_rel, method and program (`key_of`); status: "proved", "refuted", "undecided" or "error"; range: lower bound of the
    formula's range over its box; eps: eps_rel times it; method: the construction that was proved; error: proved bound of the sup
    error, rounding included; seconds: of compiling and proving; time_limit: what it was allowed; message: of a failure; file,
    sha256: of the compiled prefix. None: there is no such number.
    """

    key: str
    name: str
    status: str
    variables: int
    range: float | None = None
    eps: float | None = None
    method: str | None = None
    tokens: int | None = None
    layers: int | None = None
    heads: int | None = None
    error: float | None = None
    rounding: float | None = None
    seconds: float = 0.0
    time_limit: float = 0.0
    message: str = ""
    file: str | None = None
    sha256: str | None = None

    @property
    def proved(self) -> bool:
        return self.status == "proved"


_COLUMNS = tuple(f.name for f in fields(Row))
_TYPES = MappingProxyType({
    **dict.fromkeys(("key", "name", "status", "message"), str), "variables": int,
    **dict.fromkeys(("seconds", "time_limit"), (int, float)),
    **dict.fromkeys(("range", "eps", "error", "rounding"), (int, float, NoneType)),
    **dict.fromkeys(("tokens", "layers", "heads"), (int, NoneType)),
    **dict.fromkeys(("method", "file", "sha256"), (str, NoneType)),
})  # fmt: skip


def program_version() -> str:
    """Version of the package with a digest of its source: what it computed before a change may not be what it computes now."""
    try:
        number = version("prefix-compiler")
    except PackageNotFoundError:  # run from its folder
        number = "0"
    digest = hashlib.sha256()
    for package in (constructions, verify):
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return f"{number}+{digest.hexdigest()[:16]}"


def key_of(entry: Entry, eps_rel: float, method: str, program: str, dtype: str = "float64") -> str:
    """Digest of all that a result depends on (eps is a function of the entry and eps_rel)."""
    sides = [[name, lo.hex(), hi.hex()] for name, lo, hi in entry.domain]
    parts = [entry.name, entry.expression, sides, float(eps_rel).hex(), method, program]
    parts += [] if dtype == "float64" else [dtype]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def read_rows(path: Path) -> dict[str, Row]:
    """Rows by key, later lines first; a torn line, as a killed run leaves it, or one of another form is no row."""
    rows: dict[str, Row] = {}
    if not path.exists():
        return rows
    for line in path.read_bytes().split(b"\n"):
        try:
            data = json.loads(line)
            row = Row(**data)
        except (ValueError, TypeError, RecursionError):
            continue
        if not all(isinstance(getattr(row, name), kinds) for name, kinds in _TYPES.items()):
            continue
        rows[row.key] = row
    return rows


def append(path: Path, row: Row) -> None:
    """Add a line and wait until it is on the disk. A torn line before it is ended first. Raises OSError."""
    line = json.dumps(asdict(row), allow_nan=False).encode() + b"\n"
    with path.open("a+b") as stream:
        if stream.seek(0, os.SEEK_END):
            stream.seek(-1, os.SEEK_END)
            line = line if stream.read(1) == b"\n" else b"\n" + line
        stream.write(line)
        stream.flush()
        os.fsync(stream.fileno())


def as_csv(rows: Iterable[Row]) -> str:
    """The rows as comma-separated values, with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()
