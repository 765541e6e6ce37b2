"""Float formats that a model may be executed in: unit round-off, range, how accurate exp is taken to be, and casts.

A number cast to a format is again an exact float64 number, so a claim about a model with cast parameters is a claim like any other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from verify.ball import UP
from verify.model import Head, Layer, Prefix, Transformer

__all__ = ["BFLOAT16", "FLOAT32", "FLOAT64", "FORMATS", "FloatFormat", "FormatError", "cast_model", "cast_prefix"]


class FormatError(ValueError):
    """A format that does not exist, or numbers that it does not hold; the message names both."""


@dataclass(frozen=True)
class FloatFormat:
    """A binary floating-point format and what is assumed of an execution in it.

    precision: bits of the significand, the leading one included, so that rounding to nearest is within unit = 2^-precision relative;
    smallest_normal, largest: its range; exp_units: exp is within so many units of round-off, a number below 1/2 of them per place
    ("ulp") being 2; block: an execution may compute the softmax block by block and rescale once per so many tokens, at most.

    Everything is done in float64, whose numbers these have to be. Raises FormatError for anything else.
    """

    name: str
    precision: int
    smallest_normal: float
    largest: float
    exp_units: float
    block: int = 32

    def __post_init__(self) -> None:
        least, most = 2.0**-1022, float(np.finfo(np.float64).max)
        whole = {"precision": (self.precision, 2, 53), "block": (self.block, 1, 2**53)}
        real = {
            "smallest_normal": (self.smallest_normal, least, 1.0),
            "largest": (self.largest, 1.0, most),
            "exp_units": (self.exp_units, 0, math.inf),
        }
        if not isinstance(self.name, str) or not self.name:
            raise FormatError(f"format: name = {self.name!r}, expected text")
        for name, (given, low, high) in (*whole.items(), *real.items()):
            allowed = (int, np.integer) if name in whole else (int, float, np.integer, np.floating)
            if isinstance(given, bool) or not isinstance(given, allowed) or not low <= given <= high:
                kind = "a whole number" if name in whole else "a number"
                raise FormatError(
                    f"format {self.name!r}: {name} = {given!r}, expected {kind} in [{low:.4g}, {high:.4g}]"
                )
        if not self.exp_units * self.unit <= 0.25:
            raise FormatError(
                f"format {self.name!r}: exp_units = {self.exp_units!r} units of 2^-{self.precision} are more than a quarter: nothing is known"
            )

    @property
    def unit(self) -> float:
        """Unit round-off."""
        return 2.0**-self.precision

    @property
    def execution(self) -> str:
        """The model of the machine, in words."""
        return (
            f"{self.name} execution: inputs and parameters rounded to {self.name}; every operation rounds to nearest with unit round-off "
            f"2^-{self.precision}, results below {self.smallest_normal:.2g} may be lost; sums in any order, accumulated in {self.name} or better "
            "(no TF32, alone or three times, in matrix products or inside attention kernels: "
            "torch.set_float32_matmul_precision neither 'high' nor 'medium'); exp, or exp2 of rescaled logits, fused or not, "
            f"within {self.exp_units} units of round-off; division, or a product with a reciprocal; a softmax may be computed in blocks of "
            f"{self.block} tokens or more (the bound on the real function does not need this)"
        )

    def gamma(self, n: int) -> float:
        """Higham's gamma_n = n u / (1 - n u) for this unit round-off, rounded up; inf where n u >= 1/2: nothing is known then."""
        return n * self.unit / (1 - n * self.unit) * UP if n * self.unit < 0.5 else math.inf

    def cast(self, name: str, x: np.ndarray) -> np.ndarray:
        """The nearest numbers of the format, as float64; what is below the normal range becomes 0.

        Raises FormatError where something is too large; name: what the array is called in the message.
        """
        array = np.asarray(x, dtype=np.float64)
        if self.precision < 53:
            with np.errstate(all="ignore"):
                array = _rounded(array, self.precision)
        if not (np.abs(array) <= self.largest).all():
            worst = float(np.abs(array).max())
            raise FormatError(f"{name}: has entries of size {worst:.3g}, {self.name} holds at most {self.largest:.3g}")
        return np.where(np.abs(array) < self.smallest_normal, 0.0, array)


def _rounded(x: np.ndarray, precision: int) -> np.ndarray:
    """Round to so many significant bits, to nearest and ties to even, exactly: the significand times 2^precision is rounded to an integer."""
    significand, exponent = np.frexp(x)
    return np.ldexp(np.rint(np.ldexp(significand, precision)), exponent - precision)


FLOAT64 = FloatFormat("float64", 53, 2.0**-1022, float(np.finfo(np.float64).max), 8)
# vectorised float32 exponentials are stated within 20 units in the last place (SLEEF's u20), 40 units of round-off
FLOAT32 = FloatFormat("float32", 24, 2.0**-126, float(np.finfo(np.float32).max), 40)
# the worst case, every sum accumulated in bfloat16 itself (hardware and PyTorch accumulate in float32); exp is a float32 one, rounded
BFLOAT16 = FloatFormat("bfloat16", 8, 2.0**-126, (2 - 2.0**-7) * 2.0**127, 2)

FORMATS: dict[str, FloatFormat] = {f.name: f for f in (FLOAT64, FLOAT32, BFLOAT16)}


def cast_model(model: Transformer, form: FloatFormat) -> Transformer:
    """The model with frozen weights rounded to the format. Raises FormatError where they do not fit."""

    def head(at: str, h: Head) -> Head:
        return replace(
            h,
            query=form.cast(f"{at} query", h.query),
            output=form.cast(f"{at} output", h.output),
            key=None if h.key is None else form.cast(f"{at} key", h.key),
            value=None if h.value is None else form.cast(f"{at} value", h.value),
        )

    layers = tuple(
        Layer(tuple(head(f"layer {l} head {i}", h) for i, h in enumerate(layer.heads)), layer.residual)
        for l, layer in enumerate(model.layers)
    )
    return Transformer(
        form.cast("embedding", model.embedding),
        form.cast("offset", model.offset),
        layers,
        form.cast("readout", model.readout),
        None if model.positions is None else form.cast("positions", model.positions),
    )


def cast_prefix(prefix: Prefix, form: FloatFormat) -> Prefix:
    """The prefix rounded to the format. Raises FormatError where it does not fit."""

    def rows(what: str, arrays: tuple[tuple[np.ndarray, ...], ...]) -> tuple[tuple[np.ndarray, ...], ...]:
        return tuple(
            tuple(form.cast(f"prefix {what} of layer {l} head {h}", a) for h, a in enumerate(layer))
            for l, layer in enumerate(arrays)
        )

    return Prefix(rows("keys", prefix.keys), rows("values", prefix.values))
