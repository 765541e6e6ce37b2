"""Where a sequence function is approximated: T tokens, each in one box, perhaps with an exceptional set left out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Float

from verify.domain import Box, BoxError

__all__ = ["Gap", "Sequences"]

Gap = tuple[int, float, float]
"""(coordinate of the token 0..d-1, centre, half_width): the exceptional sequences have |x_i - centre| < half_width."""

_MOST_COORDINATES = 64


@dataclass(frozen=True, init=False)
class Sequences:
    """All sequences of T tokens, each in the box; points are arrays (..., T, d).

    gaps: (coordinate, centre, half_width) triples. A sequence is *exceptional*, and not in the domain, if some token has
    |x_i - centre| < half_width for one of them; the domain itself stays closed. An attention head is continuous, so a head that
    reads off a digit must be wrong somewhere near a jump of the digit: this is where.

    Flattened coordinates are token-major: x1, x2, ... for d = 1; x1_1, x1_2, x2_1, ... for d > 1 (token 1 coordinate 1, token 1
    coordinate 2, token 2 coordinate 1). A box with names u, v gives u1, v1, u2, v2, ...

    Raises BoxError naming the argument for T < 1, for more than 64 flattened coordinates, for a gap of a coordinate that does not
    exist or that is not finite and positive, and where the gaps leave nothing of a coordinate.
    """

    T: int
    box: Box
    gaps: tuple[Gap, ...]

    def __init__(self, T: int, box: Box, gaps: Iterable[Gap] = ()) -> None:
        if isinstance(T, bool) or not isinstance(T, (int, np.integer)) or T < 1:
            raise BoxError(f"T = {T!r}: a sequence has at least one token; give a whole number >= 1")
        if not isinstance(box, Box):
            raise BoxError(f"box = {box!r}: expected the Box of one token; give Box([(lo, hi), ...])")
        if T * box.dimension > _MOST_COORDINATES:
            raise BoxError(
                f"T = {T}: {T} tokens of dimension {box.dimension} are more than {_MOST_COORDINATES} coordinates; give a smaller T"
            )
        object.__setattr__(self, "T", int(T))
        object.__setattr__(self, "box", box)
        object.__setattr__(self, "gaps", tuple(_checked(gap, i, box) for i, gap in enumerate(gaps)))
        if len(set(self.names)) < self.dimension:
            raise BoxError(
                f"box: names {box.names} make flattened names that are not different: {self.names}; choose others"
            )
        if self.gaps and self.measure_of_gaps() >= 1:
            raise BoxError("gaps: nothing is left of the domain, or too little to tell; give smaller half-widths")
        for i in range(box.dimension):
            if not self.good_intervals(i):
                raise BoxError(
                    f"gaps: nothing is left of coordinate {i} of a token, [{box.lo[i]:g}, {box.hi[i]:g}]; give smaller half-widths"
                )

    @property
    def dimension(self) -> int:
        """Flattened dimension T d."""
        return self.T * self.box.dimension

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the flattened coordinates, token-major."""
        d = self.box.dimension
        if self.box.names is not None:
            return tuple(f"{name}{t}" for t in range(1, self.T + 1) for name in self.box.names)
        if d == 1:
            return tuple(f"x{t}" for t in range(1, self.T + 1))
        return tuple(f"x{t}_{i}" for t in range(1, self.T + 1) for i in range(1, d + 1))

    @property
    def flattened(self) -> Box:
        """The box of dimension T d, exceptional set included."""
        sides = list(zip(self.box.lo, self.box.hi, strict=True)) * self.T
        return Box(dict(zip(self.names, sides, strict=True)))

    def good_intervals(self, coordinate: int) -> list[tuple[float, float]]:
        """What the gaps leave of one coordinate of a token, as closed intervals with ends rounded outward (they cover it)."""
        out, start = [], self.box.lo[coordinate]
        for lo, hi in self._merged(coordinate):
            end = _outward(lo, up=True)
            if start <= end and Fraction(start) <= lo:
                out.append((start, min(end, self.box.hi[coordinate])))
            start = max(_outward(hi, up=False), start)
        if start <= self.box.hi[coordinate]:
            out.append((start, self.box.hi[coordinate]))
        return out

    def _merged(self, coordinate: int) -> list[tuple[Fraction, Fraction]]:
        """The union of a coordinate's gaps as disjoint open intervals, exactly, those that meet the box."""
        lo, hi = Fraction(self.box.lo[coordinate]), Fraction(self.box.hi[coordinate])
        spans = [(Fraction(c) - Fraction(w), Fraction(c) + Fraction(w)) for i, c, w in self.gaps if i == coordinate]
        out: list[tuple[Fraction, Fraction]] = []
        for a, b in sorted((a, b) for a, b in spans if a < hi and b > lo):
            if out and a < out[-1][1]:
                out[-1] = (out[-1][0], max(b, out[-1][1]))
            else:
                out.append((a, b))
        return out

    def measure_of_gaps(self, relative: bool = True) -> float:
        """An upper bound of the measure of the exceptional set: relative to the domain's volume, or absolute.

        Computed exactly and rounded up: with phi_i the fraction of coordinate i that its gaps cover, and coordinates independent,
        the exceptional fraction is 1 - prod_i (1 - phi_i)^T.
        """
        kept, volume = Fraction(1), Fraction(1)
        for i in range(self.box.dimension):
            lo, hi = Fraction(self.box.lo[i]), Fraction(self.box.hi[i])
            covered = sum((min(b, hi) - max(a, lo) for a, b in self._merged(i)), Fraction(0))
            kept *= (1 - covered / (hi - lo)) ** self.T
            volume *= (hi - lo) ** self.T
        bad = (1 - kept) * (1 if relative else volume)
        return 0.0 if bad == 0 else math.nextafter(float(bad), math.inf)

    def contains(self, points: Float[np.ndarray, "*batch T d"]) -> np.ndarray:
        """Which sequences lie in the domain (in the box and not exceptional).

        A float sequence at the very edge of a gap counts as exceptional if rounding leaves that open.
        """
        array = np.asarray(points, dtype=np.float64)
        if array.ndim < 2 or array.shape[-2:] != (self.T, self.box.dimension):
            raise BoxError(
                f"points: shape {array.shape}, expected (..., {self.T}, {self.box.dimension}): T tokens of dimension d"
            )
        inside = np.all(self.box.contains(array), axis=-1)
        for i, centre, width in self.gaps:
            distance = np.abs(array[..., i] - centre)  # within a relative 2^-53 of the exact one
            inside &= np.all(distance * (1 - 2.0**-51) >= width, axis=-1)
        return inside

    def sample(self, count: int, seed: int = 0) -> Float[np.ndarray, "count T d"]:
        """Uniform random sequences of the domain, seeded: coordinate by coordinate from what the gaps leave."""
        generator = np.random.default_rng(seed)
        out = np.empty((count, self.T, self.box.dimension))
        for i in range(self.box.dimension):
            pieces = np.array(self.good_intervals(i))
            lengths = np.maximum(pieces[:, 1] - pieces[:, 0], 0.0)
            total = lengths.sum()
            share = lengths / total if total > 0 else np.full(len(lengths), 1 / len(lengths))
            which = generator.choice(len(pieces), size=(count, self.T), p=share)
            u = generator.random((count, self.T))
            lo, hi = pieces[which, 0], pieces[which, 1]
            out[..., i] = np.clip(lo + u * (hi - lo), lo, hi)
        return out

    def to_json(self) -> dict[str, Any]:
        """A plain structure; floats as hexadecimal text."""
        return {
            "T": self.T,
            "lo": [float(a).hex() for a in self.box.lo],
            "hi": [float(b).hex() for b in self.box.hi],
            "names": None if self.box.names is None else list(self.box.names),
            "gaps": [[i, float(c).hex(), float(w).hex()] for i, c, w in self.gaps],
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Sequences:
        """The inverse of `to_json`. Raises BoxError for anything else."""
        try:
            box = Box([(float.fromhex(a), float.fromhex(b)) for a, b in zip(data["lo"], data["hi"], strict=True)])
            if data["names"] is not None:
                box = box.named([str(name) for name in data["names"]])
            gaps = [(i, float.fromhex(c), float.fromhex(w)) for i, c, w in data["gaps"]]
            return Sequences(data["T"], box, gaps)
        except BoxError:
            raise
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise BoxError(f"sequences: not readable ({error!r})") from error

    def __repr__(self) -> str:
        left_out = f", {len(self.gaps)} gaps" if self.gaps else ""
        return f"Sequences(T={self.T}, {', '.join(self.names)}: tokens in {self.box!r}{left_out})"


def _checked(gap: Any, index: int, box: Box) -> Gap:
    try:
        i, centre, width = gap
        coordinate, c, w = i, float(centre), float(width)
    except (TypeError, ValueError) as error:
        raise BoxError(f"gaps[{index}] = {gap!r}: expected (coordinate, centre, half_width)") from error
    if isinstance(coordinate, bool) or not isinstance(coordinate, (int, np.integer)):
        raise BoxError(f"gaps[{index}]: coordinate {coordinate!r} is not a whole number; give 0 to {box.dimension - 1}")
    if not 0 <= coordinate < box.dimension:
        raise BoxError(f"gaps[{index}]: a token has no coordinate {coordinate}; give 0 to {box.dimension - 1}")
    if not (math.isfinite(c) and abs(c) <= 1e151 and 0 < w <= 1e151):
        raise BoxError(f"gaps[{index}]: centre {c!r}, half-width {w!r}; give finite numbers, half-width > 0")
    return int(coordinate), c, w


def _outward(x: Fraction, up: bool) -> float:
    """A float on the far side of x: >= x if `up`, <= x otherwise; x itself if it is a float."""
    near = float(x)
    exact = Fraction(near)
    if up and exact < x:
        return math.nextafter(near, math.inf)
    if not up and exact > x:
        return math.nextafter(near, -math.inf)
    return near
