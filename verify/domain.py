"""Where a target is approximated: a closed box with float64 endpoints."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from verify.expression import plain_name

__all__ = ["Box", "BoxError"]


class BoxError(ValueError):
    """An empty, reversed or unbounded box; the message names the side."""


@dataclass(frozen=True, init=False)
class Box:
    """The closed box of all x with lo_i <= x_i <= hi_i.

    `Box({"x": (-1, 1), "y": (0, 2)})` names its coordinates; `Box([(-1, 1), (0, 2)])` leaves them to be named after the
    target's variables; `Box.unit(n)` is [0, 1]^n. Endpoints are rounded to float64: the rounded box is the domain.
    Raises BoxError for an empty, reversed or infinite side, or a repeated name.
    """

    lo: tuple[float, ...]
    hi: tuple[float, ...]
    names: tuple[str, ...] | None

    def __init__(self, sides: Mapping[Any, Iterable[Any]] | Iterable[Iterable[Any]]) -> None:
        names = tuple(str(name) for name in sides) if isinstance(sides, Mapping) else None
        rows = list(sides.values()) if isinstance(sides, Mapping) else list(sides)
        lo, hi = [], []
        for i, row in enumerate(rows):
            label = names[i] if names else f"side {i}"
            try:
                a, b = row
                a, b = float(a), float(b)
            except (TypeError, ValueError) as error:
                raise BoxError(f"domain: {label} is {row!r}, expected a pair (lo, hi) of numbers") from error
            if not (math.isfinite(a) and math.isfinite(b)):
                raise BoxError(f"domain: {label} is ({a:g}, {b:g}), which is not bounded; give two finite ends")
            if not a < b:
                word = "empty" if a == b else "reversed"
                raise BoxError(f"domain: {label} is ({a:g}, {b:g}), which is {word}; give lo < hi")
            if b - a > 1e150 or b - a < 1e-150 or max(abs(a), abs(b)) > 1e150:
                raise BoxError(
                    f"domain: {label} is ({a:g}, {b:g}), beyond the scale float64 can carry; rescale the variable"
                )
            lo.append(a)
            hi.append(b)
        if not rows:
            raise BoxError("domain: a box needs at least one side")
        if names and not all(plain_name(name) for name in names):
            raise BoxError(f"domain: coordinate names {names} must be plain names (letters, digits, _)")
        if names and len(set(names)) != len(names):
            raise BoxError(f"domain: repeated coordinate names in {names}")
        object.__setattr__(self, "lo", tuple(lo))
        object.__setattr__(self, "hi", tuple(hi))
        object.__setattr__(self, "names", names)

    @staticmethod
    def unit(n: int) -> Box:
        """[0, 1]^n."""
        return Box([(0.0, 1.0)] * n)

    @property
    def dimension(self) -> int:
        """Number of coordinates n."""
        return len(self.lo)

    @property
    def bounds(self) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Lower and upper corner."""
        return np.array(self.lo), np.array(self.hi)

    def named(self, names: Iterable[str]) -> Box:
        """The same box with coordinate names."""
        return Box(dict(zip(names, zip(self.lo, self.hi, strict=True), strict=True)))

    def sample(self, count: int, seed: int = 0) -> Float[np.ndarray, "count n"]:
        """Uniform random points, seeded."""
        lo, hi = self.bounds
        points = lo + (hi - lo) * np.random.default_rng(seed).random((count, self.dimension))
        return np.clip(points, lo, hi)

    def contains(self, points: Float[np.ndarray, "batch n"]) -> np.ndarray:
        """Which points lie in the closed box."""
        lo, hi = self.bounds
        return np.all((points >= lo) & (points <= hi), axis=-1)

    def to_json(self) -> dict[str, Any]:
        """A plain structure; floats as hexadecimal text."""
        names = None if self.names is None else list(self.names)
        return {"lo": [a.hex() for a in self.lo], "hi": [b.hex() for b in self.hi], "names": names}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Box:
        """The inverse of `to_json`. Raises BoxError, KeyError or ValueError."""
        box = Box([(float.fromhex(a), float.fromhex(b)) for a, b in zip(data["lo"], data["hi"], strict=True)])
        return box if data["names"] is None else box.named([str(n) for n in data["names"]])

    def __repr__(self) -> str:
        names = self.names or tuple(f"x{i}" for i in range(self.dimension))
        return (
            "Box("
            + ", ".join(f"{n}: [{a:.12g}, {b:.12g}]" for n, a, b in zip(names, self.lo, self.hi, strict=True))
            + ")"
        )
