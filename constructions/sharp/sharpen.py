"""Coverings with sharper keys: what the kernel's covering lemma can prove at once, whatever the number of tokens.

With logits -beta |x - c_j|^2 the error against every L-Lipschitz function is at most L (R + T), R the covering radius and
T <= K / (2 e beta R) for K centres near any point (verify/covering.py). Values and centres stay; beta grows until T takes a fifth of
the room between R and eps/L. In the plane K is about a dozen, so one per cent of room asks for beta R^2 of about a thousand,
and the logits' rounding, u beta |x - c|^2, stays below 1e-6 for domains of a thousand radii.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from constructions.proposal import Proposal, Term

__all__ = ["sharpened"]


def sharpened(proposal: Proposal, lipschitz: float, eps: float, lo: np.ndarray, hi: np.ndarray) -> Proposal | None:
    """The same covering with isotropic Gaussian keys sharp enough for the covering lemma; None where there is no room for it.

    proposal: from `propose_covering` with norm "l2" (or n = 1). lo, hi: (n,) corners of the domain.
    """
    centres, radius = proposal.grid.get("centres"), float(proposal.grid.get("covering_radius", math.nan))
    room = eps / lipschitz - radius
    if centres is None or len(centres) < 2 or not room > 1e-9 * radius:
        return None
    n = centres.shape[1]
    # balls of half the spacing within 1.4 R of a point; the spacing of a good covering is at least about R
    crowd = min(float(len(centres)), (1 + 2.8) ** n)
    beta = crowd / (2 * math.e * radius * 0.2 * room)
    middle = lo + (hi - lo) * 0.5
    offsets = centres - middle
    slopes = 2 * beta * offsets
    biases = -beta * (offsets**2).sum(axis=1) - slopes @ middle
    reach = float((np.abs(slopes) @ np.maximum(np.abs(lo), np.abs(hi)) + np.abs(biases)).max())
    if (
        2.0**-53 * reach > 1e-3
        or 2.0**-51 * reach * float(np.ptp(proposal.values, axis=0).max()) > 0.2 * lipschitz * room
    ):
        return None
    tail = Term(
        "softmax tail",
        0.2 * lipschitz * room,
        "sum_j w_j (|x - c_j| - R) <= K / (2 e beta R)",
        "covering lemma, verify/covering.py",
    )
    terms = tuple(tail if t.name == "softmax tail" else t for t in proposal.terms)
    return replace(proposal, slopes=slopes, biases=biases, grid={**proposal.grid, "beta": beta}, terms=terms)
