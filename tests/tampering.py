"""Copies of a saved artefact with changed numbers and a hash that is right again: what a forger would do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import oracle
from safetensors.numpy import save as serialise

from verify.artefact import content_hash

__all__ = ["rewrite"]


def rewrite(
    source: Path,
    target_path: Path,
    *,
    document: Callable[[Any], Any] | None = None,
    arrays: Callable[[dict[str, np.ndarray]], Any] | None = None,
    metadata: Callable[[dict[str, str]], Any] | None = None,
    rehash: bool = True,
) -> Path:
    """A copy of a file with changes, its hash made right again."""
    stored, meta = oracle.read_container(source)
    stored = {k: np.array(v) for k, v in stored.items()}
    parsed = json.loads(meta["document"])
    if document:
        document(parsed)
    if arrays:
        arrays(stored)
    meta["document"] = json.dumps(parsed, sort_keys=True)
    if rehash:
        meta["sha256"] = content_hash(stored, meta["document"])
    if metadata:
        metadata(meta)
    target_path.write_bytes(serialise({k: np.ascontiguousarray(v) for k, v in stored.items()}, meta))
    return target_path
