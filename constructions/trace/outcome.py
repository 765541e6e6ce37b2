"""What tracing ends in: a formula, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass

import sympy as sp

__all__ = ["CannotTrace", "NotTraceable", "TracedTarget"]


@dataclass(frozen=True)
class TracedTarget:
    """The formula of a callable.

    expressions: one per component. symbols: the coordinates of a point, in order, all `real=True`. scalar: whether the
    callable returns shape (...) rather than (..., k).
    """

    expressions: tuple[sp.Expr, ...]
    symbols: tuple[sp.Symbol, ...]
    scalar: bool


@dataclass(frozen=True)
class NotTraceable:
    """Why a callable has no formula; it can still be used as a black box with a Lipschitz constant."""

    reason: str


class CannotTrace(TypeError):
    """Raised inside the callable being traced; `trace` turns it into `NotTraceable`."""
