"""What a suite is made of, and how it is read from a file."""

from __future__ import annotations

import json
import math
import numbers
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from constructions.errors import CompileError

__all__ = ["Entry", "SuiteError", "checked_entries", "read_entries"]

_FIELDS = ("name", "expression", "domain")
_FILE_NAME = re.compile(r"[^\x00-\x1f/\\:*?\"<>|.][^\x00-\x1f/\\:*?\"<>|]{0,99}")
_EXAMPLE = '{"name": "gauss", "expression": "exp(-x**2)", "domain": {"x": [-1, 1]}}'


class SuiteError(CompileError):
    """A suite that cannot be run at all: its file is not readable, or its folder not writable. What is wrong with one formula
    is a row of the table instead."""


@dataclass(frozen=True)
class Entry:
    """One formula. name: also the stem of its file; expression: for `parse_expression`; domain: (symbol, lo, hi) of every variable,
    in order."""

    name: str
    expression: str
    domain: tuple[tuple[str, float, float], ...]

    @property
    def file(self) -> str:
        """Name of the file that its compiled prefix goes to."""
        return f"{self.name}.safetensors"

    @staticmethod
    def of(data: Any, place: str = "entry") -> Entry:
        """From {"name": str, "expression": str, "domain": {symbol: [lo, hi]}}. Raises SuiteError for any other form, naming the
        place and the field; whether the formula and the ranges make sense is found out when they are compiled."""
        if not isinstance(data, Mapping):
            raise SuiteError(f"{place}: is {_shown(data)}, not an object. Write {_EXAMPLE}.")
        odd = [*(f for f in _FIELDS if f not in data), *(f for f in data if f not in _FIELDS)]
        if odd:
            what = "is missing" if odd[0] in _FIELDS else "is unknown"
            raise SuiteError(f"{place}: the field {odd[0]!r} {what}. Write {_EXAMPLE}.")
        name, expression, domain = (data[f] for f in _FIELDS)
        if (
            not isinstance(name, str)
            or not _FILE_NAME.fullmatch(name)
            or len(name.encode(errors="surrogatepass")) > 200
        ):
            raise SuiteError(
                f"{place}: name = {_shown(name)} cannot be the name of a file. Use up to 100 letters, digits, spaces, '.', '_' and '-'."
            )
        if not isinstance(expression, str):
            raise SuiteError(f"{place} ({name}): expression = {_shown(expression)} is not text.")
        if not isinstance(domain, Mapping):
            raise SuiteError(
                f"{place} ({name}): domain = {_shown(domain)} is not an object of ranges. Write {_EXAMPLE}."
            )
        return Entry(
            name, expression, tuple((str(s), *_range(side, f"{place} ({name})", s)) for s, side in domain.items())
        )


def _range(side: Any, place: str, symbol: Any) -> tuple[float, float]:
    try:
        lo, hi = side
        if any(isinstance(v, bool) or not isinstance(v, numbers.Real) for v in (lo, hi)):
            raise TypeError
        return float(lo), float(hi)
    except (TypeError, ValueError, OverflowError) as error:
        raise SuiteError(f"{place}: domain.{symbol} = {_shown(side)} is not a pair [lo, hi] of numbers.") from error


def read_entries(path: str | os.PathLike[str]) -> list[Entry]:
    """The entries of a JSON file, a list of {"name", "expression", "domain": {symbol: [lo, hi]}}.

    Raises SuiteError naming the file, and the line or the entry at fault.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise SuiteError(f"{path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise SuiteError(f"{path}: is not UTF-8 text.") from error
    try:
        data = json.loads(text, object_pairs_hook=_unique, parse_constant=_refused)
    except json.JSONDecodeError as error:
        raise SuiteError(f"{path}, line {error.lineno}, column {error.colno}: not JSON ({error.msg}).") from error
    except (ValueError, RecursionError) as error:
        raise SuiteError(f"{path}: not JSON ({error}).") from error
    if not isinstance(data, list):
        raise SuiteError(f"{path}: holds {_shown(data)}, not a list of entries. Write [{_EXAMPLE}].")
    return checked_entries(data, f"{path}, ")


def checked_entries(data: Iterable[Any], place: str = "") -> list[Entry]:
    """Entries, or mappings that describe them. Raises SuiteError for an empty suite, for what is no entry and for a name that occurs twice, upper and
    lower case taken as equal, as some file systems do."""
    entries = [d if isinstance(d, Entry) else Entry.of(d, f"{place}entry {i}") for i, d in enumerate(data, start=1)]
    if not entries:
        raise SuiteError(f"{place}entries: there are none. Write [{_EXAMPLE}].")
    first: dict[str, int] = {}
    for i, entry in enumerate(entries, start=1):
        before = first.setdefault(entry.name.casefold(), i)
        if before != i:
            raise SuiteError(
                f"{place}entry {i}: name = {entry.name!r} is that of entry {before}. Give each a name of its own."
            )
    return entries


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice!r} occurs twice in one object")
    return dict(pairs)


def _refused(constant: str) -> float:
    raise ValueError(f"{constant} is no number of JSON")


def _shown(value: Any) -> str:
    text = repr(value) if not isinstance(value, float) or math.isfinite(value) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
