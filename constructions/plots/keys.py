"""Where a head's keys point to on the sphere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from constructions.compiled import Compiled

__all__ = ["directions", "key_sizes"]


def directions(c: Compiled) -> tuple[Float[np.ndarray, "some n"], np.ndarray]:
    """Unit vectors along the slopes, where a token's logit is largest, and the tokens' indices. A slope of 0 points nowhere."""
    size = np.linalg.norm(c.slopes, axis=1)
    which = np.flatnonzero(size > 0)
    return c.slopes[which] / size[which, None], which


def key_sizes(c: Compiled) -> str:
    """The sharpness, which is the keys' norm, and the sizes that rounding depends on, in words."""
    size = np.linalg.norm(c.slopes, axis=1)
    low, high = float(size.min()), float(size.max())
    spread = f"{high:.3g}" if high - low <= 1e-3 * high else f"{low:.3g} to {high:.3g}"
    return f"sharpness |slope| {spread},  max|value| {c.max_value:.3g}"
