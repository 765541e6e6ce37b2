"""A statement and its verdict as one file, in the format of `verify.artefact`: arrays, a JSON document, a hash, nothing executable."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as serialise

from verify.artefact import FORMAT, VERSION, ArtefactError, content_hash, read_parts, write_whole
from verify.certificate import Status
from verify.statement import Statement, StatementError, Verdict, shown_text
from verify.statements import STATEMENTS

__all__ = ["Stated", "check_statement", "holds_statement", "load_statement", "save_statement"]


@dataclass(frozen=True, eq=False)
class Stated:
    """A statement with the verdict it was saved with, and notes that nobody believes (the construction, its seed)."""

    statement: Statement
    verdict: Verdict
    notes: Mapping[str, Any] = field(default_factory=dict)


def save_statement(path: str | os.PathLike[str], stated: Stated) -> Path:
    """Write a statement, whole or not at all. Returns the path. Raises ArtefactError if the place cannot be written."""
    target = Path(path)
    data, arrays = stated.statement.to_json()
    document = {
        "statement": stated.statement.kind,
        "data": data,
        "verdict": stated.verdict.to_json(),
        "notes": dict(stated.notes),
    }
    text = json.dumps(document, sort_keys=True, allow_nan=False)
    stored = {name: np.array(array, dtype=np.float64, order="C") for name, array in arrays.items()}
    metadata = {"format": FORMAT, "version": VERSION, "document": text, "sha256": content_hash(stored, text)}
    write_whole(target, serialise(stored, metadata))
    return target


def holds_statement(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a statement (False: something else, such as a compiled prefix). Raises ArtefactError for what is no artefact at all."""
    try:
        document = json.loads(read_parts(Path(path))[1])
    except (ValueError, RecursionError) as error:
        if isinstance(error, ArtefactError):
            raise
        return False
    return isinstance(document, dict) and "statement" in document


def load_statement(path: str | os.PathLike[str]) -> Stated:
    """Read a statement. Executes nothing that is stored. Raises ArtefactError naming the file and the field."""
    target = Path(path)
    arrays, text = read_parts(target)
    try:
        document = json.loads(text)
        if "statement" not in document:
            raise ArtefactError(f"{target}: field 'statement' is missing; this is a compiled prefix, see `verify.load`")
        if document["statement"] not in STATEMENTS:
            raise ArtefactError(
                f"{target}: field 'statement' is {document['statement']!r}, expected one of {sorted(STATEMENTS)}"
            )
        statement = STATEMENTS[document["statement"]].from_json(document["data"], arrays)
        verdict = Verdict.from_json(document["verdict"])
        notes = dict(document["notes"])
        for name, value in notes.items():
            shown_text(f"notes.{shown_text('notes', name)}", str(value))
        return Stated(statement, verdict, notes)
    except ArtefactError:
        raise
    except StatementError as error:
        raise ArtefactError(f"{target}: {error}") from error
    except KeyError as error:
        raise ArtefactError(f"{target}: field {error.args[0]!r} is missing") from error
    except (TypeError, ValueError, AttributeError, IndexError, RecursionError, OverflowError) as error:
        raise ArtefactError(f"{target}: field 'document' is not readable ({error})") from error


def check_statement(path: str | os.PathLike[str], **options: Any) -> Verdict:
    """Decide the statement in a file again, from the file alone. The stored verdict plays no part, except that a stored "proved" which
    cannot be proved again is said so in `reason`."""
    stated = load_statement(path)
    fresh = stated.statement.decide(**options)
    if stated.verdict.proved and fresh.status is Status.UNDECIDED:
        return replace(
            fresh, reason="the file's verdict says proved, but that could not be proved again; " + fresh.reason
        )
    return fresh
