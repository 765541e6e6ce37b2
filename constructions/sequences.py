"""Sequence functions: compile_prefix on `Sequences(T, Box(...))`."""

from __future__ import annotations

from typing import Any

from constructions.compiled import Compiled
from constructions.methods import Limits
from verify import Sequences

__all__ = ["compile_sequences"]


def compile_sequences(f: Any, eps: float, domain: Sequences, method: str, limits: Limits, progress: Any) -> Compiled:
    raise NotImplementedError
