"""From hardmax to softmax: at which inverse temperature the whole stack is within a stated tolerance of the hardmax one.

Units of z: delta = 1/G, D = G^d, n tokens, C the global shift's factor. Let eta bound the error of every token's <u, z> before some attention layer, eta <= delta/8.

*One head.* At a selective shift the exact queries are at least delta/2 away from zero and the exact numbers delta apart; so with errors |q| >= 3 delta/8, and the largest number (or
smallest) y_r leads by gaps Delta_k >= 3 delta/4. The softmax output o obeys

    |o - y_r| <= sum_{k != r} Delta_k e^{-beta |q| Delta_k} <= tau = (n - 1)(3 delta/4) e^{-9 beta delta^2/32}     if 9 beta delta^2/32 >= 1,

as x e^{-a x} decreases from x = 1/a on. The global shift has query 1 >= 3 delta/8. |y_r - its exact value| <= eta.

*One layer.* A token at the level moves by D (o_1 - o_2): its error becomes at most eta + D (2 eta + 2 tau). Any other token sees the same y_r in both heads, and o_1, o_2 lie on the same side of it:
the error grows by at most D tau. A token is at the level of one layer only. Over the D layers of one token, eta -> (1 + 2D)(eta + D^2 tau) at most.

*The stack.* After n D layers eta <= (D/2)(1 + 2D)^{n+1} tau, and after the global shift, eta + C (eta + tau),

    eta <= A tau,     A = (1 + C) D (1 + 2D)^{n+1}.

With A tau <= min(tolerance, delta/8) every look-up is met on its plateau, adds exactly what it would, and the clamp is 1-Lipschitz: the output's error, all in the first
coordinate, is at most A tau. Hence beta = (32 G^2/9) log(3 A (n - 1)/(4 G min(tolerance, 1/(8G)))).
"""

from __future__ import annotations

import math

import sympy as sp

from constructions.errors import CompileError
from constructions.wang2023.universal.contextual import global_factor
from constructions.wang2023.universal.grid import Grid
from constructions.wang2023.universal.sizes import CELLS, DATA, DIMENSION, PROMPT

__all__ = ["FACTOR", "INVERSE_TEMPERATURE", "TOLERANCE", "head_error", "inverse_temperature", "stack_error"]

TOLERANCE = sp.Symbol("tol", positive=True)
FACTOR = sp.Symbol("C", positive=True, integer=True)
BETA = sp.Symbol("beta", positive=True)
_N, _D = PROMPT + DATA, CELLS**DIMENSION

HEAD_ERROR = (_N - 1) * sp.Rational(3, 4) / CELLS * sp.exp(-9 * BETA / (32 * CELLS**2))
AMPLIFICATION = (1 + FACTOR) * _D * (1 + 2 * _D) ** (_N + 1)
INVERSE_TEMPERATURE = (
    32 * CELLS**2 / sp.Integer(9)
    * sp.log(3 * AMPLIFICATION * (_N - 1) / (4 * CELLS * sp.Min(TOLERANCE, 1 / (8 * CELLS))))
)  # fmt: skip


def _at(grid: Grid, tokens: int) -> dict[sp.Symbol, int]:
    factor = global_factor(grid, tokens)
    return {DIMENSION: grid.d, DATA: grid.m, CELLS: grid.cells, PROMPT: tokens - grid.m, FACTOR: factor}


def inverse_temperature(grid: Grid, tokens: int, tolerance: float) -> float:
    """beta at which the softmax stack is within `tolerance` of the hardmax one (sup norm, every input off the margins), rounded up."""
    if not 0 < tolerance < math.inf:
        raise CompileError(f"tolerance = {tolerance!r} is not a finite number > 0. Pass one, for example 1e-3.")
    return float(INVERSE_TEMPERATURE.subs(_at(grid, tokens) | {TOLERANCE: sp.Rational(tolerance)}).evalf(30)) * (
        1 + 1e-12
    )


def head_error(grid: Grid, tokens: int, beta: float) -> float:
    """tau, the error of one softmax head."""
    return float(HEAD_ERROR.subs(_at(grid, tokens) | {BETA: sp.Rational(beta)}).evalf(30)) * (1 + 1e-12)


def stack_error(grid: Grid, tokens: int, beta: float) -> float:
    """A tau, the error of the stack; inf where it exceeds 1/(8G) or 9 beta/(32 G^2) < 1, and the derivation says nothing."""
    at = _at(grid, tokens) | {BETA: sp.Rational(beta)}
    error = float((AMPLIFICATION * HEAD_ERROR).subs(at).evalf(30)) * (1 + 1e-12)
    return error if error <= 1 / (8 * grid.cells) and 9 * beta >= 32 * grid.cells**2 else math.inf
