"""What a contextual data model or a separation cannot be made from: the argument, its value, the reason and the next step."""

from __future__ import annotations

from constructions.errors import CompileError

__all__ = ["ContextError", "MarginError"]


class ContextError(CompileError):
    """argument: which one; value: what was passed; reason: a clause such as "is not in (0, 1)"."""

    argument: str
    value: object
    reason: str

    def __init__(self, *, argument: str, value: object, reason: str, next_step: str) -> None:
        super().__init__(f"{argument} = {value} {reason}. {next_step}", argument=argument, value=value, reason=reason)


class MarginError(CompileError):
    """A margin that no temperature is known to reach. reachable: the largest that one is known to reach (at most 0: none), up to rounding."""

    margin: float
    reachable: float

    def __init__(self, *, margin: float, reachable: float, reason: str, next_step: str) -> None:
        super().__init__(f"margin = {margin!r} {reason}. {next_step}", margin=margin, reachable=reachable)
