"""Where the search for a rung of one variable starts: families of exponents, coalescing keys, and the rung below."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from constructions.circuits.free_keys import projected_cost
from constructions.circuits.rungs import Fit, Rung
from constructions.sharp.families import exponents
from constructions.sharp.samples import Samples
from constructions.sharp.starts import members

__all__ = ["key_starts"]

_FROM_FAMILIES = 8
_COALESCING = (0.02, 0.3)


def key_starts(
    samples: Samples, fit: Fit, tokens: int, below: Rung | None
) -> tuple[Float[np.ndarray, "c N 1"], Float[np.ndarray, "c N"]]:
    """Slopes and biases of every start."""
    families = [exponents(member, tokens) for member in members(samples)]
    slopes = np.array([s for s, _ in families])[..., None]
    biases = np.array([b for _, b in families])
    cost = projected_cost(fit.points, fit.targets, fit.free, slopes, biases, ridge=fit.arithmetic.ridge)
    best = np.argsort(cost, kind="stable")[:_FROM_FAMILIES]
    chosen = [(slopes[i, :, 0], biases[i]) for i in best]
    rng = np.random.default_rng(tokens)
    gap = 1.0 / max(tokens - 1, 1)
    shaken = [
        (s + 0.4 * np.ptp(s) * gap * rng.standard_normal(tokens), b + rng.standard_normal(tokens))
        for s, b in chosen[:4]
    ]
    # limits in which keys coalesce (V tanh(u/V), differences of exponentials) are met from small spans
    even = np.linspace(-1.0, 1.0, tokens)
    tight = [(0.5 * span * even, side * even) for span in _COALESCING for side in (0.0, 1.3, -1.3)]
    grown = _grown(below, tokens) if below is not None and below.tokens > 1 else []
    starts = chosen + shaken + tight + grown
    return np.array([s for s, _ in starts])[..., None], np.array([b for _, b in starts])


def _grown(below: Rung, tokens: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The keys of a shorter head resampled, and with one more key between two or beyond either end."""
    order = np.argsort(below.slopes[:, 0], kind="stable")
    slopes, biases = below.slopes[order, 0], below.biases[order]
    count = len(slopes)
    place = np.linspace(0, count - 1, tokens)
    out = [
        (stretch * np.interp(place, np.arange(count), slopes), np.interp(place, np.arange(count), biases))
        for stretch in (1.0, 1.2, 1.4)
    ]
    if tokens != count + 1:
        return out
    for i in range(count + 1):
        if i == 0:
            new = 2 * slopes[0] - slopes[1], 2 * biases[0] - biases[1] - 1
        elif i == count:
            new = 2 * slopes[-1] - slopes[-2], 2 * biases[-1] - biases[-2] - 1
        else:
            new = 0.5 * (slopes[i] + slopes[i - 1]), 0.5 * (biases[i] + biases[i - 1])
        out.append((np.insert(slopes, i, new[0]), np.insert(biases, i, new[1])))
    return out
