"""A model made invertible: output matrices scaled down, block by block, until every Lipschitz constant is below a limit."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from verify.invertible_lipschitz import block_bound
from verify.invertible_model import AttentionBlock, Block, ResidualModel
from verify.statement import StatementError
from verify.stored_arrays import stored_number

__all__ = ["Rescaled", "rescaled"]


@dataclass(frozen=True, eq=False, repr=False)
class Rescaled:
    """model: the new one; factors: what W_O or W_2 (and b_2) of each block were multiplied by, 1 where nothing had to change."""

    model: ResidualModel
    factors: tuple[float, ...]

    def __repr__(self) -> str:
        return f"<Rescaled by {', '.join(f'{f:.3g}' for f in self.factors)}: {self.model!r}>"


def rescaled(model: ResidualModel, radius: float, prefix_radius: float, *, limit: float = 0.5) -> Rescaled:
    """Multiply each block's output matrix by the largest factor up to 1 that brings its Lipschitz constant on its ball to `limit` or less.

    A block's constant is proportional to its output matrix, and the ball of the next block shrinks with it, so one pass from the first block to the last is enough.
    Raises StatementError (a ValueError) for a limit outside (0, 1), or a block whose constant could not be bounded at all.
    """
    radius, prefix_radius = (
        stored_number("radius", radius, above=0.0),
        stored_number("prefix_radius", prefix_radius, least=0.0),
    )
    if not 0 < limit < 1:
        raise StatementError(f"limit = {limit!r}: expected a Lipschitz constant in (0, 1)")
    blocks: list[Block] = []
    factors = []
    for k, block in enumerate(model.blocks):
        bound = block_bound(block, radius, prefix_radius)
        if not bound.lipschitz < math.inf:
            raise StatementError(
                f"{model.block_name(k)}: no finite Lipschitz constant on the ball of radius {radius:.4g}; its weights are too large"
            )
        factor = 1.0
        while (
            bound.lipschitz > limit
        ):  # once, and again where the bound found for the new weights is a little less sharp
            step = limit / bound.lipschitz * (1 - 1e-6)
            factor, block = factor * step, _scaled(block, step)
            bound = block_bound(block, radius, prefix_radius)
        blocks.append(block)
        factors.append(factor)
        radius = bound.after
    return Rescaled(ResidualModel(tuple(blocks)), tuple(factors))


def _scaled(block: Block, factor: float) -> Block:
    if isinstance(block, AttentionBlock):
        return replace(block, w_o=factor * block.w_o)
    return replace(block, w_2=factor * block.w_2, b_2=factor * block.b_2)
