"""Transformers that are invertible on a ball under every bounded prefix, and what that costs: two inputs cannot share a target.

If every block x + F_k(x) has a Lipschitz constant l_k < 1 of F_k on the ball that its input stays in, then |tau(X) - tau(X')| >= prod (1 - l_k) |X - X'| for
all X, X' of the first ball (triangle inequality, block by block; balls are convex). So tau is injective there, and for one target Y of
both the larger of |tau(X) - Y| and |tau(X') - Y| is at least half of the right-hand side, whatever the prefix. Assumed: prefix tokens in a
ball, one prefix for each attention block that is the same for both inputs (a prompt that evolves with the layers is part of the state
instead), errors at every token. Norm: the largest Euclidean norm of a token. Source of the idea: Wang et al. 2023, section 4 (Theorem 3);
constants: `verify.invertible_lipschitz`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import flint
import numpy as np
from jaxtyping import Float

from verify.certificate import Status, downward, upward
from verify.invertible_lipschitz import BlockBound, block_bound
from verify.invertible_model import ResidualModel, RunTimeout
from verify.precision import arb_bounds, working_precision
from verify.statement import Statement, StatementError, Verdict
from verify.stored_arrays import stored_array, stored_number

__all__ = ["Invertible", "InvertibleFloor", "Slopes", "least_slope", "token_norm"]

_BITS = 128

ASSUMED = (
    "one prefix for each attention block, the same for every input; its tokens lie in the ball of the prefix radius",
)


@dataclass(frozen=True)
class Slopes:
    """bounds: of the blocks looked at; lower, upper: prod (1 - l_k) and prod (1 + l_k), outward; failure: the first assumption that fails, or ""."""

    bounds: tuple[BlockBound, ...]
    lower: float
    upper: float
    failure: str

    def numbers(self, model: ResidualModel) -> dict[str, float]:
        """Lipschitz constants by block."""
        return {f"Lipschitz constant of {model.block_name(k)}": b.lipschitz for k, b in enumerate(self.bounds)}


def least_slope(model: ResidualModel, radius: float, prefix_radius: float, deadline: float = math.inf) -> Slopes:
    """Bounds of |tau(X) - tau(X')| / |X - X'| on the ball of `radius`, for every prefix within `prefix_radius`."""
    bounds: list[BlockBound] = []
    failure = ""
    with working_precision(_BITS):
        lower, upper = flint.arb(1), flint.arb(1)
        for k in range(len(model.blocks)):
            if time.monotonic() > deadline:
                failure = failure or f"out of time before {model.block_name(k)}; allow more seconds"
                break
            try:
                bound = block_bound(model.blocks[k], radius if k == 0 else bounds[-1].after, prefix_radius, deadline)
            except RunTimeout:
                failure = failure or f"out of time at {model.block_name(k)}; allow more seconds"
                break
            bounds.append(bound)
            if not bound.lipschitz < 1 and not failure:
                failure = (
                    f"{model.block_name(k)}: the Lipschitz constant on the ball of radius {upward(bound.radius, 4)} is only known to be at most "
                    f"{upward(bound.lipschitz, 4)}, and less than 1 is assumed; rescale the block, or take a smaller radius"
                )
            if not bound.after < math.inf:
                break
            lower *= 1 - flint.arb(bound.lipschitz)
            upper *= 1 + flint.arb(bound.lipschitz)
        complete = len(bounds) == len(model.blocks) and bounds[-1].after < math.inf
        low = arb_bounds(lower)[0] if complete and not failure else 0.0
        high = arb_bounds(upper)[1] if complete else math.inf
    if not failure and not low > 0:
        failure = "prod (1 - l) is not above 0; rescale the model"
    return Slopes(tuple(bounds), low if low > 0 else 0.0, high if high >= 0 else math.inf, failure)


def token_norm(x: Float[np.ndarray, "T d"]) -> tuple[float, float]:
    """Floats below and above the largest Euclidean norm of a row of exact floats."""
    with working_precision(_BITS):
        norms = [arb_bounds(sum((flint.arb(float(v)) ** 2 for v in row), flint.arb(0)).sqrt()) for row in x]
        return max(0.0, max(low for low, _ in norms)), max(high for _, high in norms)


@dataclass(frozen=True, eq=False)
class Invertible(Statement):
    """The model is injective on sequences (of any length) of tokens in the ball of `radius`, under every prefix with tokens in the ball of
    `prefix_radius`. Raises StatementError for a radius that is not positive, or a prefix radius below 0."""

    model: ResidualModel
    radius: float
    prefix_radius: float

    kind: ClassVar[str] = "invertible"

    def __post_init__(self) -> None:
        object.__setattr__(self, "radius", stored_number("radius", self.radius, above=0.0))
        object.__setattr__(self, "prefix_radius", stored_number("prefix_radius", self.prefix_radius, least=0.0))

    @property
    def sentence(self) -> str:
        return (
            f"the {len(self.model.blocks)} blocks are invertible on tokens of norm at most {downward(self.radius, 6)}, under every prefix of tokens of norm at most "
            f"{downward(self.prefix_radius, 6)}"
        )

    @property
    def quantity(self) -> str:
        return (
            "inf |tau(X) - tau(X')| / |X - X'| over the ball and all such prefixes (largest Euclidean norm of a token)"
        )

    def decide(self, *, seconds: float = math.inf) -> Verdict:
        """lower: prod (1 - l_k) where all l_k < 1, else 0 and undecided; upper: prod (1 + l_k); numbers: the l_k."""
        slopes = least_slope(self.model, self.radius, self.prefix_radius, time.monotonic() + seconds)
        status = Status.UNDECIDED if slopes.failure else Status.PROVED
        return Verdict(
            status,
            slopes.lower,
            slopes.upper,
            "residual blocks with Lipschitz constants below 1",
            slopes.failure,
            assumptions=ASSUMED,
            numbers=slopes.numbers(self.model),
        )

    def to_json(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        names, arrays = self.model.stored()
        return {"blocks": names, "radius": self.radius.hex(), "prefix_radius": self.prefix_radius.hex()}, arrays

    @classmethod
    def from_json(cls, data: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Invertible:
        model = ResidualModel.restored(data["blocks"], arrays)
        return cls(model, float.fromhex(data["radius"]), float.fromhex(data["prefix_radius"]))


@dataclass(frozen=True, eq=False)
class InvertibleFloor(Statement):
    """For every target sequence Y and every prefix with tokens in the ball of `prefix_radius`: max(|tau(X) - Y|, |tau(X') - Y|) >= floor, for
    X, X' = inputs, (2, T, d). Raises StatementError for other shapes or numbers that are not finite."""

    model: ResidualModel
    inputs: Float[np.ndarray, "2 T d"]
    prefix_radius: float
    floor: float

    kind: ClassVar[str] = "invertible-floor"

    def __post_init__(self) -> None:
        inputs = stored_array("inputs", self.inputs, (2, None, self.model.dimension))
        if inputs.shape[1] == 0:
            raise StatementError("inputs: sequences of no tokens; give at least one")
        object.__setattr__(self, "inputs", inputs)
        object.__setattr__(self, "prefix_radius", stored_number("prefix_radius", self.prefix_radius, least=0.0))
        object.__setattr__(self, "floor", stored_number("floor", self.floor, least=0.0))

    @property
    def sentence(self) -> str:
        return (
            f"no prefix of tokens of norm at most {downward(self.prefix_radius, 6)} brings both inputs within {downward(self.floor, 6)} of one target, "
            "whatever the target"
        )

    @property
    def quantity(self) -> str:
        return "inf over prefixes and targets Y of max(|tau(X) - Y|, |tau(X') - Y|) (largest Euclidean norm of a token)"

    def decide(self, *, seconds: float = math.inf) -> Verdict:
        """lower, upper: half of prod (1 -+ l_k) |X - X'|, with l_k on the smallest balls that hold both inputs (a target midway between the answers attains
        at most the upper one)."""
        radius = max(token_norm(x)[1] for x in self.inputs)
        slopes = least_slope(self.model, max(radius, 5e-324), self.prefix_radius, time.monotonic() + seconds)
        low, high = _distance(*self.inputs)
        with working_precision(_BITS):
            below = arb_bounds(flint.arb(slopes.lower) * flint.arb(low) / 2)[0] if low < math.inf else math.nan
            above = (
                arb_bounds(flint.arb(slopes.upper) * flint.arb(high) / 2)[1]
                if slopes.upper < math.inf and high < math.inf
                else math.inf
            )
        lower = below if below > 0 else 0.0
        numbers = slopes.numbers(self.model)
        route = "injectivity: two answers stay apart, so one of them stays away from any target"
        if lower >= self.floor:
            return Verdict(
                Status.PROVED, lower, max(above, lower), route, "", (*ASSUMED, "targets for every token"), numbers
            )
        if above < self.floor:
            return Verdict(Status.REFUTED, lower, above, route, "a target midway is nearer to both", numbers=numbers)
        reason = slopes.failure or f"the bound reached is {downward(lower, 6)} < {self.floor!r}; state less"
        return Verdict(Status.UNDECIDED, lower, above, route, reason, numbers=numbers)

    def to_json(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        names, arrays = self.model.stored()
        data = {"blocks": names, "prefix_radius": self.prefix_radius.hex(), "floor": self.floor.hex()}
        return data, {**arrays, "inputs": self.inputs}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> InvertibleFloor:
        model = ResidualModel.restored(data["blocks"], arrays)
        return cls(model, arrays["inputs"], float.fromhex(data["prefix_radius"]), float.fromhex(data["floor"]))


def _distance(x: Float[np.ndarray, "T d"], y: Float[np.ndarray, "T d"]) -> tuple[float, float]:
    """Floats below and above the largest norm of a token of x - y."""
    with working_precision(_BITS):
        norms = [
            arb_bounds(
                sum(
                    ((flint.arb(float(a)) - flint.arb(float(b))) ** 2 for a, b in zip(p, q, strict=True)), flint.arb(0)
                ).sqrt()
            )
            for p, q in zip(x, y, strict=True)
        ]
        return max(0.0, max(low for low, _ in norms)), max(high for _, high in norms)
