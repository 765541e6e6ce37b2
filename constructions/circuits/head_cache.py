"""Rungs on disk, one file each, named by the hash of what they depend on. A cache only: it may be lost, damaged or switched off.

The folder is $PREFIXC_CACHE, or the user's cache folder where that is unset; "", "0" or "off" switch the cache off. Files are JSON
numbers, written whole (a temporary name, then a rename) and checked when read: whatever does not fit is a miss.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

from constructions.circuits.arithmetic import FLOAT64, Arithmetic
from constructions.circuits.rungs import Rung

__all__ = ["cache_folder", "load", "store"]

VERSION = 1
"""Raised whenever the search or the format changes: older files are then never looked at."""
_LARGEST = 1_000_000  # bytes


def cache_folder() -> Path | None:
    """Where rungs are kept; None if the cache is switched off."""
    chosen = os.environ.get("PREFIXC_CACHE")
    if chosen is not None:
        return None if chosen.strip().lower() in ("", "0", "off", "none") else Path(chosen)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "prefix-compiler" / "heads"


def _path(folder: Path, key: str, tokens: int) -> Path:
    digest = hashlib.sha256(f"{VERSION}\n{key}\n{tokens}".encode()).hexdigest()
    return folder / f"{digest}.json"


def load(folder: Path | None, key: str, tokens: int, dimension: int, arithmetic: Arithmetic = FLOAT64) -> Rung | None:
    """The stored rung, or None if there is none that fits. arithmetic: what it was searched for, which the key says as well."""
    if folder is None:
        return None
    try:
        path = _path(folder, key, tokens)
        if path.stat().st_size > _LARGEST:
            return None
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["version"] != VERSION or data["key"] != key:
            return None
        arrays = [np.array(data[name], dtype=np.float64) for name in ("slopes", "biases", "values", "factors")]
        error, rounding = float(data["error"]), float(data["rounding"])
        count = data["tokens"]
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError):
        return None
    shapes = [(count, dimension), (count,), (count,), (dimension,)]
    if not isinstance(count, int) or not 1 <= count <= tokens or [a.shape for a in arrays] != shapes:
        return None
    if not all(np.isfinite(a).all() for a in arrays) or not (error >= 0 and rounding >= 0):
        return None
    slopes, biases, values, factors = arrays
    return Rung(slopes, biases, values, factors, error, rounding, arithmetic)


def store(folder: Path | None, key: str, tokens: int, rung: Rung) -> None:
    """Keep a rung; a folder that cannot be written is no error."""
    if folder is None or not np.isfinite(rung.error + rung.rounding):
        return
    data = {name: getattr(rung, name).tolist() for name in ("slopes", "biases", "values", "factors")}
    data |= {"version": VERSION, "key": key, "tokens": rung.tokens, "error": rung.error, "rounding": rung.rounding}
    name = ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".part", delete=False, encoding="utf-8") as file:
            name = file.name
            json.dump(data, file)
        os.replace(name, _path(folder, key, tokens))
    except OSError:
        if name:
            with contextlib.suppress(OSError):
                Path(name).unlink()
