"""What tracing ends in: a formula, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass

import sympy as sp

__all__ = ["CannotTrace", "NotTraceable", "TracedTarget", "traced_assumption"]


@dataclass(frozen=True)
class TracedTarget:
    """The formula of a callable.

    expressions: one per component. symbols: the coordinates of a point, in order, all `real=True`. scalar: whether the
    callable returns shape (...) rather than (..., k). samples: at how many points the formula agreed with the callable.
    """

    expressions: tuple[sp.Expr, ...]
    symbols: tuple[sp.Symbol, ...]
    scalar: bool
    samples: int = 0


@dataclass(frozen=True)
class NotTraceable:
    """Why a callable has no formula; it can still be used as a black box with a Lipschitz constant."""

    reason: str


class CannotTrace(TypeError):
    """Raised inside the callable being traced; `trace` turns it into `NotTraceable`, also where the callable catches it."""


def traced_assumption(samples: int) -> str:
    """What a proof about a traced callable rests on, for its certificate. samples: the number of points compared."""
    return (
        "traced, not proved: the formula was obtained by tracing the callable and agreed with it at "
        f"{samples} sampled points; what is proved is about the formula"
    )
