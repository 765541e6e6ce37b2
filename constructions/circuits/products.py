"""One head for a product of two read-outs: factor x y on a box, the keys free in the plane.

On a box with centre c and radii r, x = c_1 + r_1 s and y = c_2 + r_2 t, and x y = c_1 c_2 + c_1 r_2 t + c_2 r_1 s + r_1 r_2 s t: with the
affine part left out, every box is [-1, 1]^2; else the ratios c_i / r_i make the problem, and boxes are widened a little until they lie on a grid,
so that tables are shared. Four keys at the corners of a small square give V tanh(a s) tanh(a t), V = 1/a^2, with an
error of order 1/V; free keys do far better, with values that grow: the ladder stops where rounding would take its share.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float

from constructions.circuits.arithmetic import FLOAT64, Arithmetic
from constructions.circuits.head_cache import cache_folder
from constructions.circuits.ladder import NodeHead, PlacedLadder, Rungs
from constructions.circuits.rungs import Fit, Rung, measure, search, tamed

__all__ = ["ProductLadder", "product_heads"]

MOST_TOKENS = 12
_FIT, _CHECKS = 15, 61  # points an axis
_STEPS = 256  # grid points of a ratio per unit, or of log(hi/lo) per doubling: a box grows by about 0.4 % at most


def product_heads(
    lo: Float[np.ndarray, " 2"],
    hi: Float[np.ndarray, " 2"],
    *,
    factor: float = 1.0,
    modulo_affine: bool = False,
    arithmetic: Arithmetic = FLOAT64,
) -> ProductLadder:
    """The ladder of heads for factor z1 z2 on the box [lo, hi].

    modulo_affine: heads may leave out an affine function of the two read-outs; each `NodeHead` says which.
    arithmetic: where they are to run. Raises ValueError for an empty or infinite box.
    """
    lo, hi = np.asarray(lo, dtype=np.float64), np.asarray(hi, dtype=np.float64)
    if lo.shape != (2,) or hi.shape != (2,) or not np.isfinite(hi - lo).all() or not (lo < hi).all():
        raise ValueError(f"lo, hi = {lo}, {hi}: needs two finite intervals lo < hi; a constant factor needs no product")
    sides = [
        (0.5 * (a + b), 0.5 * (b - a), 0.0) if modulo_affine else _widened(a, b)
        for a, b in zip(lo.tolist(), hi.tolist(), strict=True)
    ]
    centre, radii, ratios = (np.array(part) for part in zip(*sides, strict=True))
    rungs = _rungs((float(ratios[0]), float(ratios[1])), modulo_affine, cache_folder(), arithmetic)
    return ProductLadder(centre, radii, float(factor), modulo_affine, rungs)


def _widened(lo: float, hi: float) -> tuple[float, float, float]:
    """Centre c, radius r and c/r >= 0, which is on a grid, of an interval that holds [lo, hi]; r < 0 where c is."""
    if lo + hi < 0:
        centre, radius, ratio = _widened(-hi, -lo)
        return -centre, -radius, ratio
    ratio = (hi + lo) / (hi - lo)
    if ratio > 1.5:
        # [lo, lo e^w] has c/r = coth(w/2)
        width = 2.0 ** (math.ceil(_STEPS * math.log2(math.log(hi / lo) * (1.0 + 1e-11))) / _STEPS)
        centre, ratio = 0.5 * lo * (1.0 + math.exp(width)), 1.0 / math.tanh(0.5 * width)
        return centre, centre / ratio, ratio
    # [-b (1 - q)/(1 + q), b] has c/r = q
    ratio = math.floor(_STEPS * ratio + 1e-9) / _STEPS
    radius = hi / (1.0 + ratio)
    return ratio * radius, radius, ratio


class ProductLadder(PlacedLadder["_Product"]):
    """The ladder of (s + p)(t + q) on [-1, 1]^2 in the coordinates of one node."""

    most = MOST_TOKENS

    def __init__(self, centre: np.ndarray, radii: np.ndarray, factor: float, affine: bool, rungs: _Product) -> None:
        super().__init__(rungs)
        self.centre, self.radii, self.factor, self.affine = centre, radii, factor, affine
        self.least = 3 * self.scale() * rungs.arithmetic.floor

    @property
    def _scale(self) -> float:
        """The factor of (s + p)(t + q), times its unit."""
        return self.factor * float(self.radii[0] * self.radii[1]) * self.rungs.unit

    def scale(self) -> float:
        return abs(self._scale)

    def tamed(self, rung: Rung, tolerance: float) -> Rung:
        return tamed(self.rungs.fit(), rung, tolerance)

    def placed(self, rung: Rung) -> NodeHead:
        centre, radii = self.centre, self.radii
        slopes = rung.slopes / radii
        biases = rung.biases - slopes @ centre
        values = self._scale * rung.values
        alpha, beta = np.zeros(2), 0.0
        if self.affine:
            # x y = <(c_2, c_1), (x, y)> - c_1 c_2 + r_1 r_2 s t
            alpha = self.factor * centre[::-1] + self._scale * rung.factors / radii
            beta = float(-self.factor * centre[0] * centre[1] - self._scale * rung.factors @ (centre / radii))
        else:
            values = values + self._scale * self.rungs.middle
        square = _grid(_CHECKS)
        points = centre + radii * square
        wanted = self.factor * points[:, 0] * points[:, 1]
        if self.affine:
            wanted = self._scale * (square[:, 0] * square[:, 1] - square @ rung.factors)
        error, rounding = measure(points, wanted, slopes, biases, values, self.rungs.arithmetic)
        box = centre - np.abs(radii), centre + np.abs(radii)
        return NodeHead(slopes, biases, values, error, *box, alpha, beta, rounding)


def _grid(count: int) -> Float[np.ndarray, "m 2"]:
    """Chebyshev extreme points of the square."""
    axis = np.sin(np.linspace(-np.pi / 2, np.pi / 2, count))
    return np.stack([a.ravel() for a in np.meshgrid(axis, axis, indexing="ij")], axis=1)


@lru_cache(maxsize=1024)
def _rungs(offsets: tuple[float, float], affine: bool, folder: Path | None, arithmetic: Arithmetic) -> _Product:
    return _Product(offsets, affine, folder, arithmetic)


class _Product(Rungs):
    """(s + p)(t + q) = unit (middle + y) on [-1, 1]^2; the rungs are heads for y, |y| <= 1."""

    def __init__(self, offsets: tuple[float, float], affine: bool, folder: Path | None, arithmetic: Arithmetic) -> None:
        key = f"product {offsets[0].hex()} {offsets[1].hex()} {'affine-free' if affine else 'full'}"
        super().__init__(key, 2, MOST_TOKENS, folder, arithmetic)
        self.affine = affine
        self.offsets = np.array(offsets)
        corners = np.prod(self.offsets + _grid(2), axis=1)
        self.unit = 0.5 * float(np.ptp(corners))
        self.middle = 0.5 * float(corners.max() + corners.min()) / self.unit

    def search(self, tokens: int, below: Rung | None) -> Rung:
        if tokens == 1:
            return Rung(np.zeros((1, 2)), np.zeros(1), np.zeros(1), np.zeros(2), 1.0, 0.0, self.arithmetic)
        return search(self.fit(), _starts(tokens, below), below)

    def fit(self) -> Fit:
        """What every rung approximates."""
        points, checks = _grid(_FIT), _grid(_CHECKS)
        targets, wanted = (np.prod(p + self.offsets, axis=1) / self.unit - self.middle for p in (points, checks))
        return Fit(points, targets, checks, wanted, self.affine, self.arithmetic)


def _starts(tokens: int, below: Rung | None) -> tuple[Float[np.ndarray, "c N 2"], Float[np.ndarray, "c N"]]:
    """Regular polygons with and without a key at the centre, random keys of several sizes, the rung below with one key more."""
    rng = np.random.default_rng(tokens)
    slopes, biases = [], []
    for size in (0.2, 0.6, 1.5, 3.0):
        for inner in (0, 1):
            angle = np.pi / 4 + 2 * np.pi * np.arange(tokens - inner) / (tokens - inner)
            ring = size * np.stack([np.cos(angle), np.sin(angle)], axis=1)
            slopes.append(np.concatenate([ring, np.zeros((inner, 2))]))
            biases.append(np.zeros(tokens))
        for _ in range(3):
            slopes.append(size * rng.standard_normal((tokens, 2)))
            biases.append(rng.standard_normal(tokens))
    if below is not None and 1 < below.tokens < tokens:
        extra = tokens - below.tokens
        spread = max(0.1, float(np.abs(below.slopes).max()))
        for _ in range(8):
            slopes.append(np.concatenate([below.slopes, spread * rng.standard_normal((extra, 2))]))
            biases.append(np.concatenate([below.biases, below.biases.mean() + rng.standard_normal(extra)]))
    return np.array(slopes), np.array(biases)
