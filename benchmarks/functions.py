"""Target functions that several benchmarks share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import sympy as sp

from verify import Box, ZigZag

__all__ = ["ANALYTIC", "INTERVAL", "SQUARE", "X", "Y", "franke", "hardest_lipschitz", "lambdified"]

X, Y = sp.symbols("x y")
INTERVAL = Box([(-1.0, 1.0)])
SQUARE = Box([(-1.0, 1.0), (-1.0, 1.0)])

ANALYTIC: tuple[sp.Expr, ...] = (
    sp.sin(3 * X),
    sp.exp(X),
    1 / (1 + 25 * X**2),
    sp.tanh(5 * X),
    sp.cos(20 * X),
    sp.exp(-20 * X**2),
    sp.sqrt(sp.Rational(102, 100) + X),
    sp.log(sp.Rational(11, 10) + X),
    sp.atan(10 * X),
    X * sp.sin(10 * X),
    1 / (sp.Rational(12, 10) - X),
    sp.sech(8 * X),
)
"""On [-1, 1]: entire functions, poles at several distances from the interval, a branch point close to its end."""


def hardest_lipschitz(lower: ZigZag) -> Callable[[np.ndarray], np.ndarray]:
    """The zigzag that witnesses a lower bound, made flatter by a millionth: rounded in float64, the witness itself has pairs of
    close points between which it is slightly too steep for its Lipschitz constant."""
    return lambda x: (1 - 1e-6) * lower.evaluate(x)


def franke() -> sp.Expr:
    """Franke's function, carried from the unit square to [-1, 1]^2 (R. Franke, A critical comparison of some methods for
    interpolation of scattered data, 1979)."""
    u, v = 9 * (X + 1) / 2, 9 * (Y + 1) / 2
    return (
        sp.Rational(3, 4) * sp.exp(-((u - 2) ** 2 + (v - 2) ** 2) / 4)
        + sp.Rational(3, 4) * sp.exp(-((u + 1) ** 2) / 49 - (v + 1) / 10)
        + sp.Rational(1, 2) * sp.exp(-((u - 7) ** 2 + (v - 3) ** 2) / 4)
        - sp.Rational(1, 5) * sp.exp(-((u - 4) ** 2) - (v - 7) ** 2)
    )


def lambdified(expression: sp.Expr, *symbols: sp.Symbol) -> Callable[..., np.ndarray]:
    """The expression as a NumPy function of arrays."""
    f: Any = sp.lambdify(symbols, expression, "numpy")
    return lambda *x: np.asarray(f(*x), dtype=np.float64)
