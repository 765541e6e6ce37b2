"""One entry, from text to proof, in whatever process it is handed to."""

from __future__ import annotations

import hashlib
import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from constructions.compile import compile_prefix
from constructions.compiled import Compiled
from constructions.errors import CompileError, MethodError, NotProvedError
from constructions.from_sympy import from_sympy
from constructions.parse import parse_expression
from constructions.suite.attained import attained_range
from constructions.suite.entries import Entry
from constructions.suite.rows import Row
from verify import Box

__all__ = ["compile_entry"]


def compile_entry(
    entry: Entry, key: str, *, eps_rel: float, method: str, time_limit: float, dtype: str = "float64"
) -> tuple[Row, bytes | None]:
    """The row of an entry, and the file of its compiled prefix if it was proved (with a narrower dtype: in that format too). Whatever is wrong with the entry is told by the row.

    A method that does not exist is nothing an entry could be blamed for: raises MethodError.
    """
    started = time.perf_counter()
    row = Row(key, entry.name, "error", len(entry.domain), time_limit=time_limit)
    data: bytes | None = None
    try:
        f, box, span = _understood(entry)
        # one rounding of the product, and eps must not exceed it
        row = replace(row, range=span, eps=math.nextafter(eps_rel * span, 0.0))
        compiled = compile_prefix(
            f, row.eps or 0.0, box, method=method, time_limit=time_limit, dtype=dtype, progress=False
        )
        data = _file_of(compiled)
        row = _described(row, compiled, entry, data)
    except NotProvedError as error:
        row = replace(row, status=str(error.status), message=str(error))
    except MethodError as error:
        if error.reason == "is unknown":
            raise
        row = replace(row, message=str(error))
    except CompileError as error:
        row = replace(row, message=str(error))
    except Exception as error:  # the next entry may be fine
        row = replace(row, message=f"a defect of this program: {type(error).__name__}: {error}")
    return replace(row, seconds=time.perf_counter() - started), data


def _understood(entry: Entry) -> tuple[Any, Box, float]:
    """The expression, its box, and a lower bound of its range. Raises CompileError."""
    sides = {name: (lo, hi) for name, lo, hi in entry.domain}
    f = parse_expression(entry.expression, sides)
    try:
        box = Box(sides)
    except ValueError as error:
        raise CompileError(str(error)) from error
    expressions = f if isinstance(f, list) else [f]
    unknown = sorted({str(s) for e in expressions for s in e.free_symbols} - set(sides))
    if unknown:
        raise CompileError(f"domain: {', '.join(unknown)} has no range. Add it, for example {unknown[0]!r}: [0, 1].")
    span = attained_range(from_sympy(tuple(expressions), list(sides)), box)
    if math.isnan(span):
        raise CompileError(f"f = {entry.expression} is undefined at every point that was tried. Restrict the domain.")
    if span == 0.0:
        raise CompileError(
            f"f = {entry.expression} is constant over its box, as far as can be seen: an error relative to its range is none. Use `prefixc compile`."
        )
    return f, box, span


def _file_of(compiled: Compiled) -> bytes:
    """What `save` writes, as bytes: a worker need not see the folder of the results."""
    with tempfile.TemporaryDirectory() as folder:
        return compiled.save(Path(folder) / "prefix.safetensors").read_bytes()


def _described(row: Row, compiled: Compiled, entry: Entry, data: bytes) -> Row:
    certificate = compiled.certificate
    return replace(
        row,
        status=str(certificate.status),
        method=compiled.method,
        tokens=compiled.length,
        layers=len(compiled.model.layers),
        heads=sum(len(layer.heads) for layer in compiled.model.layers),
        error=certificate.error_upper,
        rounding=certificate.rounding,
        file=entry.file,
        sha256=hashlib.sha256(data).hexdigest(),
    )
