"""Why one scalar code cannot be right everywhere: the swap map f(x1, x2) = (x2, x1).

In the T + 2 layers of sequence.py, token p's output depends on the sequence through the code z alone, z: [0,1]^n -> R continuous.
*Lebesgue's covering theorem*: if finitely many closed sets, none meeting two opposite faces, cover [0,1]^n, then some n + 1 of them
have a common point. Hence every continuous z: [0,1]^n -> R^M with M < n has a fibre with a connected component that meets two
opposite faces. Otherwise each fibre, being compact, splits into finitely many closed pieces none of which meets two, and so does
the preimage of a small neighbourhood of its value; finitely many of these cover the image, a closed refinement of that cover has
no M + 2 sets with a common point (the dimension of R^M is M), and the pieces of its preimages contradict the theorem, M + 1 <= n.

For n = 2 and M = 1 there are two sequences, on the faces x_i = 0 and x_i = 1 for one i, of the same code, hence of the same outputs;
the swap map's outputs differ there by 1 in one component. So **every** prefix of **every** such model has sup error >= 1/2 on the
swap map, whatever its keys and values.

`obstruction` finds a witness for a given model: it walks across a jump of the top digit, where z sweeps over half of all codes
within a strip of width ~ h ln(.)/B, and takes the sequence of the largest error, which a point ball of the kernel then bounds
from below. On that path the first token's coordinate hardly moves, while the output that should equal it runs over values half the
range away.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from constructions.petrov2024.sequence import SequenceProposal
from verify import forward
from verify.ball import U
from verify.cells import Cells
from verify.propagate import enclose_model

__all__ = ["Obstruction", "obstruction"]


@dataclass(frozen=True)
class Obstruction:
    """witness: a sequence, flattened; error: rigorous lower bound of |model - target| there, of the real and the executed model."""

    witness: tuple[float, ...]
    error: float


def obstruction(proposal: SequenceProposal, *, points: int = 401) -> Obstruction:
    """A sequence near a jump of a top digit where the model is far from its target, with a rigorous bound of the error there.

    proposal: of `compile_sequence`. Each coordinate in turn crosses its middle jump within the strip, the others rest at centres of
    the lowest, highest and middle cells; the path is then refined around its worst point.
    """
    box, T = proposal.domain.box, proposal.domain.T
    lo, hi = proposal.domain.flattened.bounds
    width = (hi - lo) / 2 ** proposal.grid["K"]
    strip = np.tile(np.asarray(proposal.grid["half_width"]), T)
    jump = (lo + hi) / 2
    best, witness = -1.0, lo
    for axis in range(len(lo)):
        for rest in (lo + width / 2, hi - width / 2, jump - width / 2, jump + width / 2):
            middle, reach = jump[axis], strip[axis]
            for _ in range(3):
                path = np.tile(rest, (points, 1))
                path[:, axis] = np.clip(middle + np.linspace(-reach, reach, points), lo[axis], hi[axis])
                found = forward(proposal.model, proposal.prefix, path.reshape(points, T, box.dimension))
                error = np.abs(found.reshape(points, -1) - proposal.target.evaluate(path)).max(axis=1)
                worst = int(np.argmax(error))
                if error[worst] > best:
                    best, witness = float(error[worst]), path[worst].copy()
                middle, reach = path[worst, axis], reach / 50
    return Obstruction(tuple(float(x) for x in witness), _lower_bound(proposal, witness))


def _lower_bound(proposal: SequenceProposal, point: np.ndarray) -> float:
    """|model - target| from below at a point: a point ball of the model against one of the target."""
    shape = (1, proposal.domain.T, proposal.domain.box.dimension)
    g = enclose_model(proposal.model, proposal.prefix, point.reshape(shape), point.reshape(shape))
    f = proposal.target.series(Cells.boxes(point[None], point[None]), 1)
    best = 0.0
    for i, part in enumerate(f.parts):
        value = part[0]
        assert value is not None
        mid, rad = g.mid.reshape(-1)[i], g.rad.reshape(-1)[i]
        apart = abs(float(value.mid[0, 0]) - float(mid)) * (1 - 4 * U)
        best = max(best, apart - (float(value.rad[0, 0]) + float(f.remainder[0, i]) + float(rad)) * (1 + 8 * U))
    return best
