"""The kinds of statements, by their names in files: one visible table."""

from __future__ import annotations

from verify.statement import Statement

__all__ = ["STATEMENTS"]

STATEMENTS: dict[str, type[Statement]] = {}
