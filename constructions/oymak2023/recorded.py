"""Experiments as files: configuration and results together, so that a picture is drawn again without running anything again.

One safetensors file per experiment: arrays as arrays, everything else as JSON in the metadata, a hash over both; nothing in it executes.
"""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Self, get_type_hints

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialise

from verify.artefact import ArtefactError, content_hash, write_whole

__all__ = ["Recorded"]

_FORMAT = "prefix-compiler experiment"


class Recorded:
    """For frozen dataclasses whose fields are arrays, numbers, texts, tuples of these, or such dataclasses: `save` and `load`."""

    def save(self, path: str | Path) -> Path:
        """Write configuration and results, whole or not at all. Raises ArtefactError if the place cannot be written."""
        arrays: dict[str, np.ndarray] = {}
        text = json.dumps(_packed(self, "", arrays), sort_keys=True)
        metadata = {
            "format": _FORMAT,
            "kind": type(self).__name__,
            "document": text,
            "sha256": content_hash(arrays, text),
        }
        write_whole(Path(path), serialise({k: np.ascontiguousarray(a) for k, a in arrays.items()}, metadata))
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote. Raises ArtefactError naming the file and what is wrong with it."""
        try:
            with safe_open(str(path), framework="numpy") as stream:
                metadata = stream.metadata() or {}
                arrays = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a mapping)
        except (SafetensorError, OSError, ValueError) as error:
            raise ArtefactError(f"{path}: not a whole safetensors file ({error})") from error
        if metadata.get("format") != _FORMAT or metadata.get("kind") != cls.__name__:
            found = metadata.get("kind", metadata.get("format", "no experiment"))
            raise ArtefactError(f"{path}: holds {found!r}, expected a saved {cls.__name__}")
        text = metadata.get("document", "")
        if metadata.get("sha256") != content_hash(arrays, text):
            raise ArtefactError(f"{path}: its contents do not match its hash; run the experiment again")
        try:
            return _unpacked(cls, json.loads(text), "", arrays)
        except (KeyError, TypeError, ValueError) as error:
            raise ArtefactError(f"{path}: written by another version of this program ({error})") from error


def _packed(record: Any, prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for f in fields(record):
        value = getattr(record, f.name)
        if isinstance(value, np.ndarray):
            arrays[prefix + f.name] = value
        elif is_dataclass(value):
            document[f.name] = _packed(value, f"{prefix}{f.name}.", arrays)
        else:
            document[f.name] = value
    return document


def _unpacked(kind: Any, document: dict[str, Any], prefix: str, arrays: dict[str, np.ndarray]) -> Any:
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for f in fields(kind):
        if prefix + f.name in arrays:
            values[f.name] = arrays[prefix + f.name]
        elif is_dataclass(hints[f.name]):
            values[f.name] = _unpacked(hints[f.name], document[f.name], f"{prefix}{f.name}.", arrays)
        else:
            values[f.name] = _tuples(document[f.name])
    return kind(**values)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
