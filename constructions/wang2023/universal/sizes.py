"""How large all this is, as SymPy formulas in the symbols of this file: depth, prompt length, family size, temperature.

Blocks, with n = P + m tokens, F functions and N = d m:

    quantisation        d n G          one feed-forward layer per coordinate and cell, each token in its own unit of length
    contextual mapping  n G^d + 1      one selective shift per possible token, one global shift
    value mapping       m F G^N        one look-up layer per function, input and data token
    clamp               d              one feed-forward layer per coordinate

Every block has two heads of size one and feed-forward width four. A prompt of P tokens with entries in {0, 1/G, ...} numbers G^{d P} functions, so
P = ceil(log F / (d log G)); at least three tokens altogether, so that the first shift leaves the range of the others (see `contextual`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import sympy as sp

from constructions.wang2023.universal.grid import Grid

__all__ = [
    "CELLS", "CLAMP", "CONTEXT", "DATA", "DEPTH", "DIMENSION", "FUNCTIONS", "HEADS", "HEAD_SIZE", "LEVELS", "LOOKUP", "PROMPT", "PROMPT_LENGTH",
    "QUANTISATION", "STEPS", "WIDTH", "Digits", "GridWalks", "Plan", "a_priori_error", "family_size", "plan",
]  # fmt: skip

DIMENSION, DATA, CELLS, LEVELS, FUNCTIONS, PROMPT = sp.symbols("d m G H F P", positive=True, integer=True)
STEPS = sp.Symbol("s", nonnegative=True, integer=True)
HEADS, HEAD_SIZE, WIDTH = 2, 1, 4
_MOST_DIGITS = 4000


class Digits(sp.Function):
    """Least k with base^k >= count: ceil(log count / log base), exact for integers."""

    nargs = 2

    @classmethod
    def eval(cls, count: sp.Expr, base: sp.Expr) -> sp.Integer | None:
        if not (isinstance(count, sp.Integer) and isinstance(base, sp.Integer)):
            return None
        k, power, most, b = 0, 1, int(count), int(base)
        while power < most:
            k, power = k + 1, power * b
        return sp.Integer(k)

    def _eval_rewrite_as_ceiling(self, count: sp.Expr, base: sp.Expr, **_: Any) -> sp.Expr:
        return sp.ceiling(sp.log(count) / sp.log(base))


class GridWalks(sp.Function):
    """Sequences of length G in {0..H-1} with steps of at most s: e^T A^{G-1} e for the matrix A_ij = [|i - j| <= s], e all ones.

    s = 1: A has eigenvalues 1 + 2 cos(k pi/(H+1)) and eigenvectors sin(i k pi/(H+1)), whose sums are cot(k pi/(2(H+1))) for odd k, 0 for even k.
    """

    nargs = 3

    @classmethod
    def eval(cls, cells: sp.Expr, levels: sp.Expr, steps: sp.Expr) -> sp.Integer | None:
        if not all(isinstance(x, sp.Integer) for x in (cells, levels, steps)):
            return None
        g, h, s = int(cells), int(levels), int(steps)
        counts = [1] * h
        for _ in range(g - 1):
            sums = [0]
            for c in counts:
                sums.append(sums[-1] + c)
            counts = [sums[min(h, i + s + 1)] - sums[max(0, i - s)] for i in range(h)]
        return sp.Integer(sum(counts))

    def _eval_rewrite_as_Sum(self, cells: sp.Expr, levels: sp.Expr, steps: sp.Expr, **_: Any) -> sp.Expr:
        if steps != 1:
            return self
        k = sp.Symbol("k", integer=True, positive=True)
        angle = (2 * k - 1) * sp.pi / (levels + 1)
        term = (1 + 2 * sp.cos(angle)) ** (cells - 1) * sp.cot(angle / 2) ** 2
        return 2 / (levels + 1) * sp.Sum(term, (k, 1, sp.floor((levels + 1) / 2)))


PROMPT_LENGTH = sp.Max(1, 3 - DATA, Digits(FUNCTIONS, CELLS**DIMENSION))
_TOKENS = PROMPT + DATA
QUANTISATION = DIMENSION * _TOKENS * CELLS
CONTEXT = _TOKENS * CELLS**DIMENSION + 1
LOOKUP = DATA * FUNCTIONS * CELLS ** (DIMENSION * DATA)
CLAMP = DIMENSION
DEPTH = QUANTISATION + CONTEXT + LOOKUP + CLAMP


def family_size(components: int, two_cells: bool = False) -> tuple[sp.Expr, bool]:
    """F as a formula in G, H and s, and whether it is exact.

    One component: walks. Two cells a side: all K = 2^N points are neighbours, and tables with max - min <= s number
    (H - s)(s+1)^K - (H - s - 1) s^K for s < H (lowest value a and range: those in [a, a+s] less those in [a+1, a+s]). Otherwise an upper bound: one
    value, then min(2s + 1, H) choices at each further point of a path through the grid. Independent components multiply.
    """
    n = components
    if n == 1:
        return cast(sp.Expr, GridWalks(CELLS, LEVELS, STEPS)), True
    if two_cells:
        k, s = sp.Integer(2) ** n, sp.Min(STEPS, LEVELS - 1)
        return ((LEVELS - s) * (s + 1) ** k - (LEVELS - s - 1) * s**k) ** n, True
    return (LEVELS * sp.Min(2 * STEPS + 1, LEVELS) ** (CELLS**n - 1)) ** n, False


def a_priori_error(grid: Grid, p: float, lipschitz: float, margin: float) -> float:
    """The L^p error of every f: [0, 1]^N -> [0, 1]^N with this Lipschitz constant (sup norm), rounded up.

    At distance r from the centre of its cell, |f - g| <= L r + 1/(2H) per component; r = t/(2G) has density N t^{N-1} on [0, 1]. On the margins |f - g| <= 1.
    Evaluated by an upper Riemann sum.
    """
    n, pieces = grid.components, 512
    total = 0.0
    for i in range(pieces):
        share = ((i + 1) / pieces) ** n - (i / pieces) ** n
        total += share * (lipschitz * (i + 1) / pieces / (2 * grid.cells) + 0.5 / grid.levels) ** p
    return (n * (total + n * margin)) ** (1 / p) * (1 + 1e-9)


@dataclass(frozen=True)
class Plan:
    """What a grid's transformer takes: nothing is built.

    functions, prompt, depth: integers, or None where they have more than 4000 digits; exact: False where the family size is an upper bound (then so
    are prompt length and depth); the logarithms, base 10, are of the same numbers.
    """

    grid: Grid
    functions: int | None
    prompt: int | None
    depth: int | None
    log10_functions: float
    log10_depth: float
    exact: bool

    @property
    def bytes(self) -> int | None:
        """Memory of the weights in float64: 8 d + 4 numbers a feed-forward block, 8 d + 2 an attention block."""
        return None if self.depth is None else 8 * (8 * self.grid.d + 4) * self.depth

    def __repr__(self) -> str:
        return f"<Plan {self}>"

    def __str__(self) -> str:
        g, most = self.grid, "" if self.exact else "at most "
        log10_prompt = math.log10(max(1.0, self.log10_functions / (g.d * math.log10(g.cells))))
        return (
            f"planned, not built: G = {g.cells}, H = {g.levels}, s = {g.steps}: family of {most}{_shown(self.functions, self.log10_functions)} functions, "
            f"prompts of {most}{_shown(self.prompt, log10_prompt)} tokens, depth {most}{_shown(self.depth, self.log10_depth)}, width {WIDTH}, "
            f"{HEADS} heads of size {HEAD_SIZE}"
        )


def _shown(count: int | None, log10: float) -> str:
    if count is None:
        return f"10^{log10:.6g}"
    return str(count) if count < 10**15 else f"{10 ** (math.log10(count) % 1):.3g}e{int(math.log10(count))}"


def plan(grid: Grid) -> Plan:
    """The formulas at a grid's numbers, exact integers where they can be written down."""
    d, m, g, h, s = grid.d, grid.m, grid.cells, grid.levels, grid.steps
    n = grid.components
    formula, exact = family_size(n, g == 2)
    points = float(g) ** n if n * math.log2(g) < 1000 else math.inf
    log10 = (
        n * (math.log10(h) + (points - 1) * math.log10(min(2 * s + 1, h))) if s else n * math.log10(h)
    )  # of the upper bound
    if log10 > _MOST_DIGITS:
        prompt = math.ceil(log10 / (d * math.log10(g)) * (1 + 1e-12)) if log10 < 1e15 else None
        return Plan(grid, None, prompt, None, log10, log10 + math.log10(m) + n * math.log10(g) + 1e-9, False)
    if n == 1 and g * h > 2**22:  # the walks would take long to count
        formula, exact = LEVELS * sp.Min(2 * STEPS + 1, LEVELS) ** (CELLS - 1), False
    at = {DIMENSION: d, DATA: m, CELLS: g, LEVELS: h, STEPS: s}
    functions = int(formula.subs(at))
    prompt = int(PROMPT_LENGTH.subs(at | {FUNCTIONS: functions}))
    depth = int(DEPTH.subs(at | {FUNCTIONS: functions, PROMPT: prompt}))
    return Plan(grid, functions, prompt, depth, math.log10(max(functions, 1)), math.log10(depth), exact)
