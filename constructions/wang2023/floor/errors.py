"""What a floor cannot be computed for: the assumption of the theorem that fails, and where."""

from __future__ import annotations

from constructions.errors import CompileError

__all__ = ["FloorError"]


class FloorError(CompileError):
    """assumption: which one fails; where: the weights at fault."""

    assumption: str
    where: str

    def __init__(self, *, where: str, value: str, assumption: str, next_step: str) -> None:
        super().__init__(
            f"{where}: {value}; the assumption '{assumption}' fails. {next_step}", assumption=assumption, where=where
        )
