"""A function of one variable as one head for a format narrower than float64: of a circuit's ladders, which count rounding as they search."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import sympy as sp

from constructions.circuits.arithmetic import arithmetic_of
from constructions.circuits.library import heads_for
from constructions.proposal import Proposal
from verify.format_arithmetic import FloatFormat

__all__ = ["propose_single"]

_SHARES = (0.97, 0.8, 0.6)
"""Of eps: inputs and parameters are rounded too, and the ladders' estimates are no bounds."""


def propose_single(
    expression: sp.Expr, lo: float, hi: float, eps: float, *, form: FloatFormat, max_tokens: int
) -> Iterator[Proposal]:
    """Heads for an expression in one symbol on [lo, hi] that should be within eps in the format, shortest first; none for what is not finite there."""
    ladder = heads_for(expression, lo, hi, arithmetic=arithmetic_of(form))
    given = 0
    for share in _SHARES:
        tokens = ladder.tokens(eps * share)
        if tokens is None or not given < tokens <= max_tokens:
            continue
        head = ladder.head(eps * share)
        if head is None:
            continue
        given = head.tokens
        yield Proposal(
            slopes=head.slopes,
            biases=head.biases,
            values=head.values[:, None],
            method="minimax",
            grid={
                "family": f"free keys for {form.name}",
                "span": float(np.ptp(head.slopes)),
                "exponents": head.slopes[:, 0],
            },
            error_estimate=head.error,
        )
