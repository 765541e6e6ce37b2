"""What a model maps to a given sequence under a given prefix: that it exists, that it is the only one in a ball, and where it is.

Backwards, block by block. Let the block's output be known to within e of y, and let a candidate x be given with residual |x + F(x) - y| <= rho. On the ball
B(x, r) with r = (rho + e) / (1 - l) the map z -> y' - F(z) contracts, and it maps the ball to itself for |y' - y| <= e, because
|y' - F(z) - x| <= e + rho + l r = r: so a preimage exists in B(x, r) (Banach), provided that B(x, r) lies in the ball on which l < 1 is the Lipschitz
constant of F. There it is the only one in the whole ball, because the model is injective.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import flint
import numpy as np
from jaxtyping import Float

from verify.certificate import Status, upward
from verify.invertible import least_slope, token_norm
from verify.invertible_model import AttentionBlock, ResidualModel, RunTimeout, block_output, rows_of
from verify.precision import arb_bounds, working_precision
from verify.statement import Statement, StatementError, Verdict
from verify.stored_arrays import stored_array, stored_number

__all__ = ["Preimage", "fitted_prefixes"]

_BITS = 128


def fitted_prefixes(model: ResidualModel, prefixes: Sequence[Any]) -> tuple[Float[np.ndarray, "N d"], ...]:
    """One array of prefix tokens for each attention block, (N, d), N may be 0. Raises StatementError naming the first that does not fit."""
    wanted = sum(isinstance(block, AttentionBlock) for block in model.blocks)
    if len(prefixes) != wanted:
        raise StatementError(
            f"prefixes: {len(prefixes)}, but the model has {wanted} attention blocks; give one (N, {model.dimension}) array for each"
        )
    return tuple(stored_array(f"prefixes[{k}]", p, (None, model.dimension)) for k, p in enumerate(prefixes))


@dataclass(frozen=True, eq=False)
class Preimage(Statement):
    """There is exactly one sequence of tokens of norm at most `radius` that the model with these prefixes maps to `output`, and it is within `error` of states[0].

    output: (T, d); states: (blocks, T, d), approximations of each block's input, those after the first are hints; prefixes: one for each attention block.
    Raises StatementError for shapes that do not fit.
    """

    model: ResidualModel
    radius: float
    prefixes: tuple[Float[np.ndarray, "N d"], ...]
    output: Float[np.ndarray, "T d"]
    states: Float[np.ndarray, "blocks T d"]
    error: float

    kind: ClassVar[str] = "invertible-preimage"

    def __post_init__(self) -> None:
        object.__setattr__(self, "radius", stored_number("radius", self.radius, above=0.0))
        object.__setattr__(self, "error", stored_number("error", self.error, least=0.0))
        object.__setattr__(self, "prefixes", fitted_prefixes(self.model, self.prefixes))
        output = stored_array("output", self.output, (None, self.model.dimension))
        if len(output) == 0:
            raise StatementError("output: a sequence of no tokens; give at least one")
        object.__setattr__(self, "output", output)
        object.__setattr__(self, "states", stored_array("states", self.states, (len(self.model.blocks), *output.shape)))

    @property
    def prefix_radius(self) -> float:
        """A float above the norm of every prefix token."""
        return max((token_norm(p)[1] for p in self.prefixes if len(p)), default=0.0)

    @property
    def sentence(self) -> str:
        return f"exactly one input with tokens of norm at most {self.radius!r} gives this output, and the stored one is within {upward(self.error)} of it"

    @property
    def quantity(self) -> str:
        return "distance of the stored sequence to the preimage (largest Euclidean norm of a token)"

    def decide(self, *, seconds: float = math.inf) -> Verdict:
        """upper: r of the module's text after all blocks."""
        deadline = time.monotonic() + seconds
        slopes = least_slope(self.model, self.radius, self.prefix_radius, deadline)
        route = "Banach's fixed point theorem, block by block from the last"
        numbers = slopes.numbers(self.model)
        if slopes.failure:
            return Verdict(Status.UNDECIDED, 0.0, math.inf, route, slopes.failure, numbers=numbers)
        off, after = 0.0, self.output
        left = list(self.prefixes)
        with working_precision(_BITS):
            for k in reversed(range(len(self.model.blocks))):
                bound, block, state = slopes.bounds[k], self.model.blocks[k], self.states[k]
                prefix = left.pop() if isinstance(block, AttentionBlock) else None
                try:
                    added = block_output(
                        block, rows_of(state), prefix if prefix is not None and len(prefix) else None, deadline
                    )
                except RunTimeout:
                    reason = f"out of time after {seconds:g} s at {self.model.block_name(k)}; allow more seconds"
                    return Verdict(Status.UNDECIDED, 0.0, math.inf, route, reason, numbers=numbers)
                residual = _residual(rows_of(state), added, rows_of(after))
                reached = (
                    (flint.arb(off) + flint.arb(residual)) / (1 - flint.arb(bound.lipschitz))
                    if residual < math.inf
                    else flint.arb("inf")
                )
                off = arb_bounds(reached)[1]
                if not off < math.inf:
                    reason = f"{self.model.block_name(k)}: its output at the stored state could not be enclosed"
                    return Verdict(Status.UNDECIDED, 0.0, math.inf, route, reason, numbers=numbers)
                if not arb_bounds(flint.arb(token_norm(state)[1]) + flint.arb(off))[1] <= bound.radius:
                    reason = (
                        f"{self.model.block_name(k)}: the stored state (norm {token_norm(state)[1]:.6g}, known to {upward(off)}) does not stay in the ball of radius "
                        f"{bound.radius:.6g} on which the block contracts; the output may have no preimage there, or take a larger radius"
                    )
                    return Verdict(Status.UNDECIDED, 0.0, math.inf, route, reason, numbers=numbers)
                after = state
        if off <= self.error:
            return Verdict(Status.PROVED, 0.0, off, route, numbers=numbers)
        reason = f"the stored sequence is within {upward(off)} of the preimage, not known to be within {self.error!r}; iterate more, or state a larger error"
        return Verdict(Status.UNDECIDED, 0.0, off, route, reason, numbers=numbers)

    def to_json(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        names, arrays = self.model.stored()
        lengths = [len(p) for p in self.prefixes]
        arrays |= {f"prefix{k}": p for k, p in enumerate(self.prefixes) if len(p)}
        data = {"blocks": names, "radius": self.radius.hex(), "error": self.error.hex(), "prefixes": lengths}
        return data, {**arrays, "output": self.output, "states": self.states}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Preimage:
        model = ResidualModel.restored(data["blocks"], arrays)
        prefixes = tuple(
            arrays[f"prefix{k}"] if n else np.zeros((0, model.dimension)) for k, n in enumerate(data["prefixes"])
        )
        return cls(
            model,
            float.fromhex(data["radius"]),
            prefixes,
            arrays["output"],
            arrays["states"],
            float.fromhex(data["error"]),
        )


def _residual(x: list[list[flint.arb]], added: list[list[flint.arb]], y: list[list[flint.arb]]) -> float:
    """A float above the largest norm of a token of x + added - y; inf where nothing is known."""
    highs = [
        arb_bounds(sum(((a + f - b) ** 2 for a, f, b in zip(p, q, r, strict=True)), flint.arb(0)).sqrt())[1]
        for p, q, r in zip(x, added, y, strict=True)
    ]
    return max(highs) if all(h >= 0 for h in highs) else math.inf
