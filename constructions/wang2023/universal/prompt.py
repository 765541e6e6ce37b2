"""A prompt for a Lipschitz function of the user's: quantise it, look its number up, let the kernel prove the L^p error."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from constructions.captions import shortened, upward
from constructions.errors import CompileError, EpsilonError, LipschitzError, NotProvedError
from constructions.problem import Problem, understand
from constructions.stated_html import Carded
from constructions.wang2023.universal.contextual import exact_bits
from constructions.wang2023.universal.grid import Grid
from constructions.wang2023.universal.interpolant import as_formulas
from constructions.wang2023.universal.sizes import Plan, a_priori_error, plan
from constructions.wang2023.universal.transformer import (
    MOST_BLOCKS,
    TooLargeError,
    Universal,
    universal_transformer,
)
from verify import Box, ExpressionTarget, GridTarget, Stated, Verdict, save_statement
from verify.prompted import Prompted

__all__ = ["CompiledPrompt", "compile_prompt", "plan_prompt"]

_PIECES = (1024, 4096)
_LARGEST = 2**30
_ROUNDING = Fraction(1, 10**9)


@dataclass(frozen=True, eq=False)
class CompiledPrompt(Carded):
    """A prompt with which the universal transformer `model` approximates a function in L^p.

    prompt: (P, d), prepended to the input; table: (G^N, N), the quantised function it numbers; statement, verdict: the L^p error, proved; lipschitz: f's
    constant in the sup norm, derived or declared; name: f.
    """

    model: Universal
    prompt: Float[np.ndarray, "P d"]
    table: Int[np.ndarray, "points N"]
    statement: Prompted
    verdict: Verdict
    lipschitz: float
    name: str
    notes: tuple[str, ...] = ()

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What the bound depends on: nothing for a formula, the declared constant for a callable that was not traced, for one that was that the formula is it."""
        return (*self.notes, *self.verdict.assumptions)

    @property
    def eps(self) -> float:
        """The requested L^p error."""
        return self.statement.eps

    @property
    def p(self) -> float:
        """The exponent."""
        return self.statement.p

    @property
    def bound(self) -> float:
        """The proved bound of the L^p error."""
        return self.verdict.upper

    @property
    def uniform(self) -> float:
        """A bound, known before f, of the L^p error of *every* function of this Lipschitz constant on the same model, by its own prompt."""
        g = self.model
        return a_priori_error(g.grid, self.p, self.lipschitz, g.margin) + g.tolerance * g.grid.components ** (
            1 / self.p
        )

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return len(self.prompt)

    @property
    def conditional(self) -> bool:
        """Whether the bound depends on a declared Lipschitz constant and on sampled values."""
        return bool(self.verdict.assumptions)

    def __call__(self, x: Any) -> Float[np.ndarray, "*batch m d"]:
        """g(prompt, x), every block run in float64. x: (..., m, d), or (...) for d = m = 1."""
        return self.model(self.prompt, x)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Weights, prompt, target and verdict as one file, for `verify.check_statement`."""
        return save_statement(
            path,
            Stated(
                self.statement,
                self.verdict,
                {"construction": "prompt of the universal transformer", "assumptions": list(self.assumptions)},
            ),
        )

    def __repr__(self) -> str:
        words = str(self.verdict.status)
        if self.verdict.proved:
            words = f"proved: L^{self.p:g} error ≤ {upward(self.bound)} ≤ eps = {self.eps:g}"
        if self.conditional:
            words += ", if the declared Lipschitz constant and the sampled values hold"
        depth = self.model.stack.depth
        return f"<CompiledPrompt {shortened(self.name, 60)}: {self.length} tokens for a transformer of {depth} blocks; {words}>"


def plan_prompt(eps: float, lipschitz: float, *, p: float = 2, d: int = 1, m: int = 1) -> Plan:
    """The least deep transformer that serves every f: [0, 1]^{d x m} -> [0, 1]^{d x m} of this Lipschitz constant (sup norm) up to eps in L^p, whether
    it can be built or not: of each G with its least H, by doubling until the depth no longer falls. Raises CompileError for arguments out of range."""
    eps, p = _checked(eps, p)
    if not 0 <= lipschitz < math.inf:
        raise LipschitzError(value=lipschitz)
    best: Plan | None = None
    cells = 2
    while cells <= _LARGEST:
        levels = next(
            (
                h
                for h in _powers(1, _LARGEST)
                if _uniform(Grid(d, m, cells, h, _steps(lipschitz, cells, h)), p, lipschitz, eps) <= eps
            ),
            None,
        )
        if levels is not None:
            found = plan(Grid(d, m, cells, levels, _steps(lipschitz, cells, levels)))
            if best is not None and found.log10_depth >= best.log10_depth:
                break
            best = found
        cells *= 2
    if best is None:
        raise EpsilonError(
            value=eps, reachable=d * m * (lipschitz + 1) / _LARGEST, dominating="the largest grid that is planned"
        )
    return best


def compile_prompt(
    f: Any,
    eps: float,
    *,
    p: float = 2,
    d: int = 1,
    m: int = 1,
    lipschitz: float | None = None,
    variables: Sequence[str] | None = None,
    model: Universal | None = None,
    softmax: bool = False,
    uniform: bool = True,
) -> CompiledPrompt:
    """The prompt with which one universal transformer computes f: [0, 1]^{m x d} -> [0, 1]^{m x d} up to eps in L^p.

    f: a SymPy expression (a list of N = d m of them; entries of the token array row by row, in the order of `variables`, by default alphabetical), or a
    callable, which is sampled at the cells' centres if it cannot be traced and then needs `lipschitz` (sup norm): the bound is conditional on that, and says so;
    or GridData on a grid that reaches over [0, 1]^N (its linear interpolant, as a formula; beyond 128 values by its constant, as a callable).
    A formula whose constant cannot be derived, as x**(3/2), takes `lipschitz` to choose the grid; its bound is unconditional.
    The norm of f - g is (integral of sum_i |f_i - g_i|^p)^{1/p}. model: the transformer to prompt; by default the least deep one that serves every function of f's
    Lipschitz constant up to eps; if that is too deep to build, or uniform is False, the least deep one that serves f.

    Raises EpsilonError, LipschitzError, CompileError (values outside [0, 1], wrong number of components), TooLargeError with the `plan` if every such transformer is
    too deep to build, NotProvedError if `model` does not reach eps.
    """
    eps, p = _checked(eps, p)
    problem, constant = _target(f, d, m, lipschitz, variables)
    if model is not None:
        grids = [model.grid]
        if (model.grid.d, model.grid.m) != (d, m):
            raise CompileError(
                f"model: tokens ({model.grid.m}, {model.grid.d}), f has (m, d) = ({m}, {d}). Pass a model of these sizes."
            )
    else:
        grids = _candidates(problem, constant, eps, p, d, m, uniform)
    verdict: Verdict | None = None
    for grid in grids[:3]:
        g = model or universal_transformer(grid, margin=_margin(grid.components, eps, p), softmax=softmax)
        table = _quantised(problem, grid)
        try:
            prompt = g.prompt(table)
        except CompileError:
            if model is not None:
                raise
            continue
        statement = _stated(problem, g, prompt, constant, eps, p)
        verdict = statement.decide()
        if verdict.proved:
            return CompiledPrompt(
                g,
                statement.prompt,
                table,
                statement,
                verdict,
                min(constant, grid.lipschitz),
                problem.name,
                problem.assumptions,
            )
    if verdict is None:
        sizes = plan_prompt(eps, constant, p=p, d=d, m=m)
        raise TooLargeError(
            sizes, f"eps = {eps:g} for Lipschitz constant {constant:.4g} needs more than {MOST_BLOCKS} blocks."
        )
    step = f"The model proves L^{p:g} error <= {upward(verdict.upper)}: pass eps >= that, or a model with more cells and levels"
    raise NotProvedError(certificate=verdict, status=str(verdict.status), eps=eps, next_step=step)


def _checked(eps: float, p: float) -> tuple[float, float]:
    try:
        eps, p = float(eps), float(p)
    except (TypeError, ValueError) as error:
        raise EpsilonError(value=eps) from error
    if not 0 < eps < math.inf:
        raise EpsilonError(value=eps)
    if not 1 <= p <= 64:
        raise CompileError(f"p = {p} is not an exponent between 1 and 64. Pass one, for example p=2.")
    return eps, p


def _target(f: Any, d: int, m: int, lipschitz: float | None, variables: Sequence[str] | None) -> tuple[Problem, float]:
    """The problem on the unit box and its Lipschitz constant in the sup norm. Raises what `understand` does, and CompileError for values outside [0, 1]."""
    Grid(d, m, 2, 1, 0)  # refuses sizes that are no sizes
    box = Box.unit(d * m)
    problem = understand(f, box if variables is None else box.named(variables), lipschitz, "linf")
    if problem.outputs != d * m:
        raise CompileError(
            f"f: {problem.outputs} components, expected d m = {d * m}: one for each entry of the output. Pass a list of {d * m}."
        )
    constant, found = problem.constant(), problem
    if isinstance(problem.target, GridTarget) and problem.outputs == d * m:
        formulas = as_formulas(problem.target, list(problem.domain.names or ()))
        if formulas is not None:
            found = replace(understand(formulas, problem.domain, None, "linf"), name=problem.name)
    if not math.isfinite(constant) and lipschitz is not None:
        constant = float(lipschitz)  # it chooses the grid; what is proved of a formula does not depend on it
    if not math.isfinite(constant):
        raise CompileError(
            "f: no finite Lipschitz constant was found on [0, 1]^N: a derivative could not be bounded somewhere. If f is Lipschitz all the same, as x**(3/2) "
            "is, pass lipschitz= (sup norm); if not, as sqrt(x), pass a Lipschitz function."
        )
    points = np.concatenate(
        [problem.domain.sample(512, seed=0), np.array(list(itertools.product((0.0, 0.5, 1.0), repeat=d * m)))]
    )
    values = problem.evaluate(points)
    if not (np.isfinite(values) & (values >= -1e-9) & (values <= 1 + 1e-9)).all():
        k, i = np.argwhere(~((values >= -1e-9) & (values <= 1 + 1e-9)))[0]
        raise CompileError(
            f"f: component {i} is {values[k, i]:.6g} at {points[k].tolist()}, outside [0, 1]. Shift and scale f so that its values are in [0, 1]."
        )
    return found, constant


def _powers(low: int, high: int) -> list[int]:
    return [1 << k for k in range(low.bit_length() - 1, high.bit_length())]


def _steps(lipschitz: float, cells: int, levels: int) -> int:
    """The least s with s G / H >= L, or H - 1, which allows every table. A constant derived from f is an upper bound by some units of round-off, which must
    not cost a step: that f's table is in the family is checked."""
    return min(levels - 1, math.ceil(Fraction(lipschitz) * levels / cells * (1 - _ROUNDING) - _ROUNDING))


def _margin(components: int, eps: float, p: float) -> float:
    """A power of two so small that the margins contribute at most eps^p/1000, but not below 2^-36, for float64's sake."""
    return 2.0 ** -max(8, min(36, math.ceil(math.log2(1000.0 * components**2) - p * math.log2(eps))))


def _uniform(grid: Grid, p: float, lipschitz: float, eps: float) -> float:
    return a_priori_error(grid, p, lipschitz, _margin(grid.components, eps, p))


def _candidates(problem: Problem, lipschitz: float, eps: float, p: float, d: int, m: int, first: bool) -> list[Grid]:
    """Grids that can be built, by depth; first those that serve the whole class, if `first`."""
    ranked: list[tuple[bool, int, Grid]] = []
    for cells, levels in itertools.product(_powers(2, 64), _powers(1, 64)):
        grid = Grid(d, m, cells, levels, _steps(lipschitz, cells, levels))
        sizes = plan(grid)
        if (
            sizes.depth is None
            or sizes.prompt is None
            or sizes.depth > MOST_BLOCKS
            or not sizes.exact
            or exact_bits(grid, sizes.prompt + m) > 52
        ):
            continue
        uniform = _uniform(grid, p, lipschitz, eps) <= eps
        if uniform or _sampled(problem, grid, p) <= eps:
            ranked.append((first and not uniform, sizes.depth, grid))
    return [grid for *_, grid in sorted(ranked, key=lambda item: item[:2])]


def _quantised(problem: Problem, grid: Grid) -> Int[np.ndarray, "points N"]:
    """floor(H f) at the centres, at most H - 1."""
    values = problem.evaluate(grid.centres)
    return np.clip(np.floor(values * grid.levels), 0, grid.levels - 1).astype(np.int64)


def _sampled(problem: Problem, grid: Grid, p: float) -> float:
    """The L^p error of the quantised function at random points: decides what is tried, proves nothing."""
    points = problem.domain.sample(4096, seed=3)
    cell = np.ravel_multi_index(
        tuple(np.minimum(points * grid.cells, grid.cells - 1).astype(int).T), (grid.cells,) * grid.components
    )
    error = np.abs(problem.evaluate(points) - grid.outputs(_quantised(problem, grid))[cell])
    return float((error**p).sum(axis=1).mean() ** (1 / p))


def _stated(problem: Problem, g: Universal, prompt: np.ndarray, lipschitz: float, eps: float, p: float) -> Prompted:
    n, cells = g.grid.components, g.grid.cells
    pieces = max(1, int(_PIECES[n > 1] ** (1 / n)) // cells)
    if isinstance(problem.target, ExpressionTarget):
        return Prompted(g.stack, prompt, cells, g.margin, p, eps, problem.target.expression, pieces=pieces)
    centres = problem.evaluate(g.grid.centres)
    return Prompted(g.stack, prompt, cells, g.margin, p, eps, None, centres, lipschitz, pieces)
