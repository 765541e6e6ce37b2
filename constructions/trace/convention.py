"""How a callable is called: one array per variable, or one array of points."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from constructions.errors import CallableError, DomainError

__all__ = ["Convention", "by_name", "calling_convention"]


@dataclass(frozen=True)
class Convention:
    """How f is called: with `dimension` arrays of shape (m,), or with one array, (m, n), or (m,) when n = 1."""

    separate: bool
    names: tuple[str, ...]

    @property
    def dimension(self) -> int:
        return len(self.names)

    def arguments(self, points: Any) -> list[Any]:
        """points: (m, n), an array or a SymbolicArray. Copies, because f may write into what it is given."""
        if self.separate or self.dimension == 1:
            return [points[:, i].copy() for i in range(self.dimension)]
        return [points.copy()]


def calling_convention(f: Callable[..., Any], dimension: int | None, names: Sequence[str] | None) -> Convention:
    """Counts the required positional parameters of f; raises CallableError when they do not fit the dimension."""
    parameters, variadic = _parameters(f)
    count = len(parameters)
    n = len(names) if dimension is None and names is not None else dimension
    if variadic:
        n = max(count, 1) if n is None else n
        parameters = [*parameters, *(f"x{i}" for i in range(count, n))] if count else [f"x{i}" for i in range(n)]
        count = n
    n = max(count, 1) if n is None else n
    if count == 0 or (count > 1 and count != n):
        raise CallableError(
            problem=f"takes {count} arguments where the domain has {n} variables",
            next_step="Let f take one array per variable, or one array of points of shape (..., n).",
        )
    if names is not None and len(names) != n:
        raise DomainError(
            value=list(names), reason=f"names {len(names)} variables where there are {n}", argument="names"
        )
    if names is None:
        names = parameters if count == n else [f"x{i}" for i in range(n)]
    return Convention(separate=count > 1, names=tuple(names))


def by_name(f: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """f with its arguments in the order of `names`, the sides of a box, where these are the names of its parameters.

    f itself where it takes one argument, *args, or has no names, and where no side is called like a parameter: the order counts then.
    Raises DomainError when only some of the names agree.
    """
    parameters, variadic = _parameters(f)
    common = set(parameters) & set(names)
    if variadic or isinstance(f, np.ufunc) or len(parameters) < 2 or list(names) == parameters or not common:
        return f
    if common != set(parameters) or common != set(names):
        raise DomainError(
            value=list(names),
            reason=f"agrees only partly with the parameters of f, {parameters}",
            argument="the names of the domain",
            next_step="Give the sides the names of the parameters (in any order), or other names (the order counts then).",
        )
    order = [list(names).index(p) for p in parameters]

    def reordered(*arguments: Any) -> Any:
        return f(*(arguments[i] for i in order))

    reordered.__name__ = getattr(f, "__name__", type(f).__name__)
    return reordered


def _parameters(f: Callable[..., Any]) -> tuple[list[str], bool]:
    """Names of the required positional parameters, and whether f also takes *args."""
    if isinstance(f, np.vectorize):
        f = f.pyfunc
    if isinstance(f, np.ufunc):
        return (["x"] if f.nin == 1 else [f"x{i}" for i in range(f.nin)]), False
    try:
        parameters = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):  # compiled functions need not have one
        return ["x"], False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p.name for p in positional if p.default is p.empty]
    return (required or [p.name for p in positional[:1]]), any(p.kind == p.VAR_POSITIONAL for p in parameters)
