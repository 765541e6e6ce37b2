"""A head with keys lambda b_k on the sphere and fitted values: how large values may be, and how it becomes a proposal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from constructions.petrov2024.values import Family, rounding_unit
from constructions.proposal import Proposal

__all__ = ["ERROR_SHARE", "SmoothHead", "cap_on_values", "proposal"]

ERROR_SHARE = 0.9
"""Sampled sup errors are brought below this share of eps."""
_ROUNDING_SHARE = 0.05
_LARGEST = 1e5


@dataclass(frozen=True, eq=False)
class SmoothHead:
    """keys b_k: (tokens, m+1), |b_k| = 1; values: (tokens, k); error: sampled sup error; size: sampled sup of sum_k E_k |v_k| / D."""

    keys: Float[np.ndarray, "tokens n"]
    sharpness: float
    values: Float[np.ndarray, "tokens k"]
    error: float
    size: float

    def within(self, eps: float, share: float = ERROR_SHARE) -> bool:
        """Whether sampled error and rounding leave room below eps."""
        rounding = rounding_unit(len(self.keys), self.sharpness, self.keys.shape[1]) * self.size
        return self.error <= share * eps and rounding <= 2 * _ROUNDING_SHARE * eps


def cap_on_values(tokens: int, sharpness: float, ambient: int, eps: float, size: float) -> float:
    """The sum_k E_k |v_k| / D at which rounding reaches a twentieth of eps, at most 1e5 times size = sup |f|: enclosing a sum with
    more cancellation than that costs a proof more boxes than the few tokens saved are worth."""
    return min(_ROUNDING_SHARE * eps / rounding_unit(tokens, sharpness, ambient), _LARGEST * max(size, eps))


def proposal(head: SmoothHead, family: Family) -> Proposal:
    """The arrays of a fitted head. The core head's exponentials are kept below 1 by biases of -lambda; the others have none."""
    tokens = len(head.keys)
    return Proposal(
        slopes=head.sharpness * head.keys,
        biases=np.zeros(tokens) if family.normalised else np.full(tokens, -head.sharpness),
        values=head.values,
        method=family.method,
        grid={
            "keys": head.keys,
            "sharpness": head.sharpness,
            "largest value": float(np.max(np.abs(head.values))),
            "rounding": rounding_unit(tokens, head.sharpness, head.keys.shape[1]) * head.size,
        },
        error_estimate=head.error,
    )
