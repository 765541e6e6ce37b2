"""All entries of a suite, on any executor; what is finished is on the disk before the next is looked at."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Executor, Future, as_completed
from contextlib import closing
from pathlib import Path
from typing import Any

from constructions.errors import MethodError
from constructions.progress import reporting
from constructions.suite.entries import Entry, SuiteError, checked_entries
from constructions.suite.result import SuiteResult
from constructions.suite.rows import Row, append, as_csv, key_of, program_version, read_rows
from constructions.suite.work import compile_entry
from verify.artefact import ArtefactError, load, write_whole
from verify.formats import FormatError, format_named

__all__ = ["run_suite"]

Task = Callable[[Entry, str], tuple[Row, bytes | None]]


def run_suite(
    entries: Iterable[Entry | Mapping[str, Any]],
    *,
    eps_rel: float,
    method: str = "auto",
    executor: Executor | None = None,
    out: Path,
    progress: bool | Callable[[float, str], None] | None = None,
    time_limit: float = 120.0,
    dtype: str = "float64",
) -> SuiteResult:
    """Compile and prove every entry at eps_rel times the range of its formula over its box.

    The range is max - min, bounded from below by values that the formula takes (`attained_range`), so that eps is never more than
    eps_rel times the true one. executor: any `concurrent.futures.Executor`, such as `WorkerPool(2)` or a Dask cluster's
    `distributed.Client(...).get_executor()`; None: one after the other, here. out: a folder, made if need be; it gets NAME.safetensors for
    every proved entry, results.jsonl and results.csv. time_limit: seconds for each entry's search. dtype: the float format to compile for.

    Finished entries are not computed again when the same suite is run again in the same folder: a proved one if its file is
    unchanged, a failed one unless it may take longer now. An entry that fails is a row with its message; one whose worker was
    lost is tried again by the next run. After an exception (KeyboardInterrupt) the folder holds all that was finished.

    Raises SuiteError (a CompileError) for what concerns the whole suite, and MethodError for an unknown method.
    """
    checked = checked_entries(entries)
    for name, value in (("eps_rel", eps_rel), ("time_limit", time_limit)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not (math.isfinite(value) and value > 0):
            raise SuiteError(f"{name} = {value!r} is not a positive number.")
    try:
        form = format_named(dtype)
    except FormatError as error:
        raise SuiteError(f"dtype: {error}") from error
    journal = _folder(Path(out)) / "results.jsonl"
    program = program_version()
    keys = {key_of(e, eps_rel, method, program, form.name): e for e in checked}
    stored = read_rows(journal)
    rows = {
        k: stored[k] for k, e in keys.items() if k in stored and _counts(stored[k], journal.parent / e.file, time_limit)
    }
    reused, todo = len(rows), {k: e for k, e in keys.items() if k not in rows}
    task = functools.partial(
        compile_entry, eps_rel=float(eps_rel), method=method, time_limit=float(time_limit), dtype=form.name
    )
    try:
        with reporting(progress) as report, closing(_outcomes(todo, task, executor)) as outcomes:
            report(len(rows) / len(keys), "compiling")
            for row, data in outcomes:
                if data is not None:
                    write_whole(journal.parent / keys[row.key].file, data)
                if row.time_limit:  # 0 for an entry that was lost: not finished
                    append(journal, row)
                rows[row.key] = row
                report(len(rows) / len(keys), f"{row.name}: {row.status}")
    finally:
        ordered = tuple(rows[k] for k in keys if k in rows)
        write_whole(journal.parent / "results.csv", as_csv(ordered).encode())
    return SuiteResult(ordered, journal.parent, reused)


def _folder(out: Path) -> Path:
    """The folder, made if need be, with a journal that can be written. Raises SuiteError before any work is done."""
    try:
        out.mkdir(exist_ok=True)
        (out / "results.jsonl").open("ab").close()
    except OSError as error:
        raise SuiteError(
            f"out = {out}: results cannot be written there ({error.strerror}). Name another folder."
        ) from error
    return out


def _counts(row: Row, file: Path, time_limit: float) -> bool:
    """Whether a stored row need not be computed again: a proved one if its file is what was written, and says so itself."""
    if not row.proved:
        return row.time_limit >= time_limit
    try:
        if hashlib.sha256(file.read_bytes()).hexdigest() != row.sha256:
            return False
        held = load(file)
    except (OSError, ArtefactError):
        return False
    return held.certificate.proved and held.claim.eps == row.eps and held.certificate.error_upper == row.error


def _outcomes(
    todo: Mapping[str, Entry], task: Task, executor: Executor | None
) -> Generator[tuple[Row, bytes | None], None, None]:
    """Outcomes as they come. When the caller stops asking, what has not begun is cancelled."""
    if executor is None:
        for key, entry in todo.items():
            yield task(entry, key)
        return
    futures: dict[Future[tuple[Row, bytes | None]], str] = {}
    try:
        for key, entry in todo.items():
            futures[executor.submit(task, entry, key)] = key
        for future in as_completed(futures):
            key = futures[future]
            try:
                yield future.result()
            except MethodError:
                raise
            except Exception as error:  # of the executor: `compile_entry` raises nothing else
                message = f"its worker was lost: {type(error).__name__}: {error}"
                yield Row(key, todo[key].name, "error", len(todo[key].domain), message=message), None
    finally:
        for future in futures:
            future.cancel()
