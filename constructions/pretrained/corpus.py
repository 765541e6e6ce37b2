"""Text to calibrate on and text held out: documents of many kinds, deduplicated, split by document.

`shipped`: short documents written for this project (stories, letters, dialogue, lists, tables, code, six languages), in text/*.txt. `from_standard_library`: what
every Python brings, read where it is installed and not shipped again: the language reference as pydoc shows it, docstrings, sources, the licence.
A paragraph that has occurred before, up to case and spaces, is left out. A document is either calibration text or held out, as the hash of its name says.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np

__all__ = ["Document", "deduplicated", "from_standard_library", "pieces_of", "shipped", "split"]

_DOCSTRINGS = ("argparse", "bisect", "calendar", "csv", "decimal", "difflib", "doctest", "fractions", "heapq", "locale", "optparse", "pickle", "random", "shelve", "statistics", "string", "textwrap", "turtle", "unittest", "zipfile")  # fmt: skip
_SOURCES = ("bisect", "colorsys", "fnmatch", "keyword", "quopri", "sched", "textwrap", "types")


@dataclass(frozen=True)
class Document:
    """name: unique, its first word the kind; source: where the text comes from."""

    name: str
    text: str
    source: str


def shipped() -> list[Document]:
    """The project's own documents, by name."""
    folder = files("constructions.pretrained") / "text"
    found = sorted((f for f in folder.iterdir() if f.name.endswith(".txt")), key=lambda f: f.name)
    return [Document(f.name[:-4], f.read_text(encoding="utf-8"), "written for this project") for f in found]


def from_standard_library() -> list[Document]:
    """Documents of the running Python (they differ a little between versions)."""
    source = "Python standard library, read where it is installed"
    found = []
    for name in _DOCSTRINGS:
        module = importlib.import_module(name)
        parts = [module.__doc__ or ""]
        parts += [inspect.getdoc(x) or "" for _, x in sorted(vars(module).items(), key=lambda i: i[0]) if inspect.isclass(x) or inspect.isfunction(x)]  # fmt: skip
        found.append(Document(f"docstrings_{name}", "\n\n".join(parts)[:6000], source))
    for name in _SOURCES:
        found.append(Document(f"source_{name}", inspect.getsource(importlib.import_module(name))[:5000], source))
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    found += [Document(f"reference_{name}", topics[name][:4000], source) for name in sorted(topics)]
    return found


def deduplicated(documents: Iterable[Document], least: int = 60) -> list[Document]:
    """Without paragraphs that have occurred before, up to case and spaces, and without documents of which less than `least` characters are left."""
    seen: set[str] = set()
    kept = []
    for d in documents:
        fresh = []
        for paragraph in re.split(r"\n\s*\n", d.text):
            key = re.sub(r"\s+", " ", paragraph).strip().lower()
            if key and key not in seen:
                seen.add(key)
                fresh.append(paragraph.strip("\n"))
        text = "\n\n".join(fresh)
        if len(text) >= least:
            kept.append(Document(d.name, text, d.source))
    return kept


def split(documents: Sequence[Document], held_out: float = 0.5, seed: int = 0) -> tuple[list[Document], list[Document]]:
    """(calibration, held out): by the hash of a document's name, whatever else there is."""

    def place(d: Document) -> float:
        return int.from_bytes(hashlib.sha256(f"{seed}:{d.name}".encode()).digest()[:7]) / 2**56

    return [d for d in documents if place(d) >= held_out], [d for d in documents if place(d) < held_out]


def pieces_of(documents: Sequence[Document], tokenizer: Any, length: int, most: int | None = None, each: int | None = None) -> list[np.ndarray]:  # fmt: skip
    """Token numbers in pieces of at most `length` that never span two documents; at most `each` tokens of a document and `most` altogether."""
    found, left = [], most if most is not None else 1 << 60
    for d in documents:
        ids = np.asarray(tokenizer(d.text)["input_ids"], dtype=np.int64)[:each][:left]
        left -= len(ids)
        found += [ids[i : i + length] for i in range(0, len(ids), length)]
        if left <= 0:
            break
    return [p for p in found if len(p) > 1]
