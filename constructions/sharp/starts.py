"""Where searches start: which exponents to try for a target, and which keys to try once a head has been found."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from constructions.sharp.families import Exponents
from constructions.sharp.samples import Samples

__all__ = ["deletions", "members", "neighbours", "pairs", "perturbed"]


def members(samples: Samples) -> list[Exponents]:
    """A first list of exponents, from every family that can suit the target.

    Equispaced spans cover poles (pi/d and more), lattices oscillations; geometric ones refine the end where the target varies more.
    """
    lattices = [
        Exponents("lattice", span, width=width)
        for span, width in ((1.02, 1.0), (1.1, 0.8), (1.1, 1.0), (1.1, 1.25), (1.1, 1.6), (1.25, 1.1), (1.25, 1.5))
    ]
    if samples.crossings > 24:
        return lattices + [Exponents("equispaced", ratio * samples.crossings) for ratio in (3.5, 5.0)]
    spans = [1.0, 4.0, 9.0, 13.0, 18.0, 24.0, 32.0, 48.0, 75.0, 115.0, 170.0]
    result = [Exponents("equispaced", span) for span in spans] + lattices
    y = samples.y[samples.regular]
    edge = max(1, len(y) // 16)
    left, right = np.abs(y[edge] - y[0]).max(), np.abs(y[-1] - y[-1 - edge]).max()
    side = 1 if right > left else -1
    if not samples.mirrored:
        result += [Exponents("geometric", span, side) for span in (4.0, 12.0, 30.0, 80.0, 220.0)]
        result += [Exponents("geometric", 12.0, -side)]
    result += [Exponents("ends", span) for span in (40.0, 150.0, 500.0)]
    if samples.degree <= 60:
        return result
    # Not smooth on the scale of the interval. A variation at distance d from an end needs exponents up to about 1/d.
    for top in _decades(200.0, 3.0 / min(samples.edges)):
        for tapered in (False, True):
            one = Exponents("geometric", top, side, tapered=tapered)
            result.append(Exponents("ends", top, tapered=tapered) if samples.mirrored else one)
    if samples.degree > 150:
        for top in np.geomspace(20.0, 2e4, 7):
            result.append(Exponents("kink", float(top), centre=samples.steepest))
    return result


def _decades(low: float, high: float) -> list[float]:
    """From low to high, about two a decade, at most seven, none if high < low."""
    if not high > low:
        return []
    return list(np.geomspace(low, high, int(np.clip(2 * np.log10(high / low), 2, 7))))


def pairs(samples: Samples, tolerance: float) -> list[tuple[np.ndarray, np.ndarray, Exponents]]:
    """Keys of four tokens, two nearly equal slopes on either side of a kink.

    As two slopes coalesce their span contains t e^{at}, so the ratio contains t tanh(kt), a smooth |t|: four tokens
    follow a kink to within 0.14/k, for any k.
    """
    result = []
    for sharpness in (3.0, 10.0, 30.0, 100.0, *(np.array([0.1, 0.3, 1.0]) / tolerance)):
        slopes = np.array([-sharpness - 0.5, -sharpness + 0.5, sharpness - 0.5, sharpness + 0.5])
        result.append((slopes, -slopes * samples.steepest, Exponents("kink", 2 * sharpness, centre=samples.steepest)))
    return result


def neighbours(ranked: list[tuple[Exponents, float]], fine: bool = False) -> list[Exponents]:
    """The best exponents so far of each promising family, and the same with spans a little smaller and larger."""
    best = ranked[0][1]
    heads: dict[tuple[str, int, bool], Exponents] = {}
    for member, error in ranked:
        if error <= 300 * best:
            heads.setdefault((member.family, member.side, member.tapered), member)
    leading = [member for member, _ in ranked[:3]] + list(heads.values())[:3]
    first = leading[0]
    ratios = (0.75, 0.87, 0.94, 1.06, 1.15, 1.3) if fine else (1 / 1.25, 1.25)
    result = leading + [first.scaled(ratio) for ratio in ratios]
    for other in list(heads.values())[1:3]:
        result += [other.scaled(ratio) for ratio in ((0.8, 0.9, 1.1, 1.25) if fine else (1 / 1.25, 1.25))]
    return list(dict.fromkeys(result))


def deletions(
    slopes: Float[np.ndarray, " N"], biases: Float[np.ndarray, " N"], tokens: int, mirrored: bool
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Keys with one token fewer (or a mirrored pair fewer): every way to reach this length in one step."""
    excess = len(slopes) - tokens
    if not mirrored:
        if excess != 1:
            return []
        return [(np.delete(slopes, j), np.delete(biases, j)) for j in range(len(slopes))]
    half = len(slopes) // 2
    if excess == 2:
        return [(np.delete(slopes, [j, -1 - j]), np.delete(biases, [j, -1 - j])) for j in range(half)]
    if excess != 1:
        return []
    if len(slopes) % 2:
        return [(np.delete(slopes, half), np.delete(biases, half))]
    merged = np.delete(slopes, half)
    merged[half - 1] = 0.0
    return [(merged, np.delete(biases, half))]


def perturbed(
    slopes: Float[np.ndarray, " N"], biases: Float[np.ndarray, " N"], mirrored: bool, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Keys and biases shaken by a random amount, a hundredth to all of their spacing."""
    tokens = len(slopes)
    size = 10.0 ** rng.uniform(-2, 0)
    gaps = np.gradient(np.sort(slopes)) if tokens > 1 else np.ones(1)
    slopes = np.sort(slopes) * (1 + 0.3 * size * rng.standard_normal()) + size * gaps * rng.standard_normal(tokens)
    biases = biases + 2 * size * rng.standard_normal(tokens)
    if mirrored:
        return 0.5 * (slopes - slopes[::-1]), 0.5 * (biases + biases[::-1])
    return slopes, biases
