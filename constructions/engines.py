"""Evaluation engines behind one call."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from verify.model import Prefix, Transformer, forward

__all__ = ["evaluate"]


def evaluate(
    model: Transformer, prefix: Prefix, x: Float[np.ndarray, "batch n"], engine: str = "auto"
) -> Float[np.ndarray, "batch k"]:
    """The reference forward pass."""
    return forward(model, prefix, x)
