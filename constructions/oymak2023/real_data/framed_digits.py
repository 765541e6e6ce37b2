"""Handwritten digits among digits: sequences of small images of which only the framed ones count.

scikit-learn's digits (8 x 8 pixels). A token is a patch of 10 x 10 pixels: a digit inside a frame one pixel wide, bright around relevant patches and dark around the others.
The label says which of two digits the framed patches show; the distracting patches show either of the two, at random. So every pixel of a distractor looks
like one of a relevant patch, and only the frame, the context's direction, tells them apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from jaxtyping import Float

__all__ = ["FramedDigits", "Split", "framed_digits"]

SIDE = 10
"""Pixels of a patch's side: a digit and its frame."""


@dataclass(frozen=True, eq=False)
class Split:
    """Sequences x (n, T, 100) and labels y (n,), +-1."""

    x: Float[np.ndarray, "n T d"]
    y: Float[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class FramedDigits:
    """Three splits made of disjoint images, all centred and scaled with the training images' mean and standard deviation; frame (100,): frame's direction, of length 1."""

    train: Split
    validation: Split
    test: Split
    frame: Float[np.ndarray, " d"]


def framed_digits(
    *,
    digits: tuple[int, int] = (3, 8),
    tokens: int = 8,
    relevant: int = 2,
    sizes: tuple[int, int, int] = (1000, 400, 2000),
    contrast: float = 1.0,
    noise: float = 0.1,
    seed: int,
) -> FramedDigits:
    """Draw the three splits (sizes: sequences of each).

    contrast: brightness of the frame of relevant patches, as a share of full ink; noise: standard deviation of every pixel's noise, likewise. Raises ModuleNotFoundError
    with the command that installs scikit-learn; ValueError for digits that are not two of 0..9, or relevant not in [1, tokens).
    """
    if len(set(digits)) != 2 or not set(digits) <= set(range(10)):
        raise ValueError(f"digits = {digits}: give two different digits of 0 to 9, for example (3, 8).")
    if not 1 <= relevant < tokens:
        raise ValueError(f"relevant = {relevant} is not in [1, {tokens - 1}]: some patches must count and some must not.")  # fmt: skip
    if find_spec("sklearn") is None:
        raise ModuleNotFoundError(
            "framed_digits needs scikit-learn, which is not installed. Run pip install 'prefix-compiler[data]'."
        )
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(seed)
    images, shown = load_digits(return_X_y=True)
    pools = [[part / 16 for part in _thirds(images[shown == digit], rng)] for digit in digits]
    frame = np.pad(np.zeros((SIDE - 2, SIDE - 2)), 1, constant_values=1.0).ravel()
    splits = [
        _sequences((pools[0][k], pools[1][k]), sizes[k], tokens, relevant, contrast * frame, noise, rng)
        for k in range(3)
    ]
    train = splits[0].x.reshape(-1, SIDE * SIDE)
    mean, scale = train.mean(axis=0), float(np.sqrt(train.var(axis=0).mean()))
    scaled = [Split((s.x - mean) / scale, s.y) for s in splits]
    return FramedDigits(scaled[0], scaled[1], scaled[2], frame / np.linalg.norm(frame))


def _thirds(images: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    return np.array_split(images[rng.permutation(len(images))], 3)


def _sequences(
    pools: tuple[np.ndarray, np.ndarray],
    n: int,
    tokens: int,
    relevant: int,
    frame: np.ndarray,
    noise: float,
    rng: np.random.Generator,
) -> Split:
    second = rng.integers(0, 2, n)
    kinds = rng.integers(0, 2, (n, tokens))
    kinds[:, :relevant] = second[:, None]
    drawn = np.where(
        kinds == 1, rng.integers(0, len(pools[1]), kinds.shape), rng.integers(0, len(pools[0]), kinds.shape)
    )
    ink = np.where(
        (kinds == 1)[..., None],
        pools[1][np.minimum(drawn, len(pools[1]) - 1)],
        pools[0][np.minimum(drawn, len(pools[0]) - 1)],
    )
    x = np.pad(ink.reshape(n, tokens, SIDE - 2, SIDE - 2), ((0, 0), (0, 0), (1, 1), (1, 1))).reshape(n, tokens, -1)
    x[:, :relevant] += frame
    x += noise * rng.standard_normal(x.shape)
    order = rng.permuted(np.tile(np.arange(tokens), (n, 1)), axis=1)  # attention does not see it, people do
    return Split(np.take_along_axis(x, order[..., None], axis=1), 2.0 * second - 1)
