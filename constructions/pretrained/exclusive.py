"""Whether one head of a later layer could have a prefix to itself: a linear programme on calibration text, and its answer in nats.

The heads of a group read the same keys. A head has the prefix to itself if a key z (over sqrt(width)) has
    <z, q>  >= d + log(1/share)    for its own queries q, whose data tokens have the log-sum-exp d: the prefix outweighs the text;
    <z, q'> <= d' + log(spill)     for the queries q' of its siblings: they give it next to nothing.
The programme finds the z that misses these by least. More keys do not help: each of them has to obey the second line, and for every own query one has to obey the first,
so a miss that one key cannot avoid on a set of queries only goes away where different keys serve different queries; `missed` is about one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import linprog

__all__ = ["Exclusivity", "exclusivity"]

_START, _BATCH, _ROUNDS = 300, 150, 40
_LONGEST = 1e4
"""Of a coordinate of z: beyond it float32 rounds logits by whole nats."""


@dataclass(frozen=True)
class Exclusivity:
    """missed: nats by which the best key misses a demand, 0 if it misses none; own, siblings: demands of either kind; share, spill: what was demanded."""

    missed: float
    own: int
    siblings: int
    share: float
    spill: float

    def __str__(self) -> str:
        demands = f"{self.own} queries to give the text at most {self.share:.2g} and {self.siblings} of its siblings to give the prefix at most {self.spill:.2g}"
        if self.missed <= 0:
            return f"one key gets {demands}, on the calibration text"
        return f"no key gets {demands}: the best misses by {self.missed:.1f} nats, on the calibration text"


def exclusivity(
    queries: Float[np.ndarray, "count width"],
    data: Float[np.ndarray, " count"],
    own: Bool[np.ndarray, " count"],
    share: float,
    spill: float,
    seed: int = 0,
) -> Exclusivity:
    """queries: of all heads of a group; data: log-sum-exp of the data logits of each; own: those of the head. The programme grows by the most violated demands."""
    width = queries.shape[1]
    sign = np.where(own, 1.0, -1.0)
    bound = np.where(own, data - math.log(share), -(data + math.log(spill)))  # sign <z, q> >= bound
    rows = sign[:, None] * queries
    rng = np.random.default_rng(seed)
    chosen = np.unique(np.concatenate([rng.choice(np.flatnonzero(part), min(_START, int(part.sum())), replace=False) for part in (own, ~own)]))  # fmt: skip
    missed = 0.0
    for _ in range(_ROUNDS):
        table = np.hstack([-rows[chosen], -np.ones((len(chosen), 1))])
        limits = [(-_LONGEST, _LONGEST)] * width + [(0, None)]
        found = linprog(np.r_[np.zeros(width), 1.0], A_ub=table, b_ub=-bound[chosen], bounds=limits, method="highs-ds")
        missed = float(found.x[-1])  # there always is a solution: a large miss
        lacking = bound - rows @ found.x[:-1] - missed
        worst = np.argsort(-lacking)[:_BATCH]
        worst = worst[lacking[worst] > 0.01]
        if not len(worst):
            break
        chosen = np.union1d(chosen, worst)
    return Exclusivity(missed, int(own.sum()), int((~own).sum()), share, spill)
