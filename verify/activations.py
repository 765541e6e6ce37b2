"""Activations of which the kernel knows values and slopes: what they are, between which numbers their derivative lies on an interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import flint

from verify.precision import arb_bounds
from verify.statement import StatementError

__all__ = ["ACTIVATIONS", "Activation", "activation"]


@dataclass(frozen=True)
class Activation:
    """value: on a ball. slopes: for lo <= hi a pair that encloses every difference quotient between points of [lo, hi] (inf allowed)."""

    name: str
    value: Callable[[flint.arb], flint.arb]
    slopes: Callable[[float, float], tuple[float, float]]


def _relu(x: flint.arb) -> flint.arb:
    return (x + abs(x)) / 2


def _relu_slopes(lo: float, hi: float) -> tuple[float, float]:
    return (1.0 if lo >= 0 else 0.0), (0.0 if hi <= 0 else 1.0)


def _enclosed(
    derivative: Callable[[flint.arb], flint.arb], points: list[float], least: float, most: float
) -> tuple[float, float]:
    """Bounds of a derivative that is monotone between the points, within what it never leaves."""
    bounds = [arb_bounds(derivative(flint.arb(p))) for p in points if math.isfinite(p)]
    if len(bounds) < len(points) or any(map(math.isnan, (end for pair in bounds for end in pair))):
        return least, most
    return max(min(low for low, _ in bounds), least), min(max(high for _, high in bounds), most)


def _tanh_derivative(x: flint.arb) -> flint.arb:
    return 1 / x.cosh() ** 2


def _tanh_slopes(lo: float, hi: float) -> tuple[float, float]:
    # even, falling with |x|: monotone between the ends and 0
    return _enclosed(_tanh_derivative, [lo, hi, *([0.0] if lo < 0 < hi else [])], 0.0, 1.0)


def _normal(x: flint.arb) -> flint.arb:
    return (1 + (x / flint.arb(2).sqrt()).erf()) / 2


def _gelu(x: flint.arb) -> flint.arb:
    return x * _normal(x)


def _gelu_derivative(x: flint.arb) -> flint.arb:
    return _normal(x) + x * (-x * x / 2).exp() / (2 * flint.arb.pi()).sqrt()


def _gelu_slopes(lo: float, hi: float) -> tuple[float, float]:
    # gelu'' = phi(x)(2 - x^2): monotone between the ends and +-sqrt(2), where gelu' = 1.12890... and -0.12890...
    turns = [p for p in (-math.sqrt(2), math.sqrt(2)) if lo <= p + 1e-9 and hi >= p - 1e-9]
    low, high = _enclosed(_gelu_derivative, [lo, hi, *turns], -0.12905, 1.12905)
    # the turn itself is irrational: at the float next to it gelu' misses its extreme by less than 1e-15 (second order)
    return (low - 1e-15, high + 1e-15) if turns else (low, high)


def _table() -> Mapping[str, Activation]:
    known = (
        Activation("relu", _relu, _relu_slopes),
        Activation("tanh", lambda x: x.tanh(), _tanh_slopes),
        Activation("gelu", _gelu, _gelu_slopes),
    )
    return MappingProxyType({a.name: a for a in known})


ACTIVATIONS: Mapping[str, Activation] = _table()
"""relu; tanh; gelu, the exact one x Phi(x)."""


def activation(name: object) -> Activation:
    """The activation of that name. Raises StatementError for any other, and for a function: no Lipschitz constant of it is known."""
    if isinstance(name, str) and name in ACTIVATIONS:
        return ACTIVATIONS[name]
    what = "is a function" if callable(name) else "is unknown"
    raise StatementError(
        f"activation = {name!r} {what}: no Lipschitz constant is proved for it, which the bound of a feed-forward block assumes; "
        f"choose one of {', '.join(map(repr, ACTIVATIONS))}"
    )
