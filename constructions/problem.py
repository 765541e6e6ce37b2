"""What the user asked for, understood: a target on a box, how to evaluate it, and what is known about its regularity."""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import sympy as sp
from jaxtyping import Float

from constructions.errors import (
    CompileError,
    DomainError,
    FreeSymbolError,
    LipschitzError,
    UndefinedTargetError,
    UnsupportedExpressionError,
)
from constructions.from_sympy import from_sympy
from constructions.removable import without_removable
from constructions.trace import NotTraceable, by_name, evaluate_callable, trace, traced_assumption
from verify import (
    Box,
    BoxError,
    ExpressionTarget,
    GridTarget,
    Provenance,
    Sphere,
    TargetError,
    lipschitz_constant,
    value_range,
)

__all__ = ["GridData", "Problem", "understand"]


@dataclass(frozen=True, eq=False)
class GridData:
    """Samples on a grid as a target: axes (n increasing arrays; a single array for n = 1) and values of shape (len(axis_1), ..., len(axis_n)) or with one
    more axis of k outputs; interpolation "linear" (multilinear) or "nearest". The Lipschitz constant is computed from the data.
    """

    axes: Any
    values: Any
    interpolation: str = "linear"


@dataclass(frozen=True, eq=False)
class Problem:
    """A target on a box or a sphere.

    target: the kernel's target, or None for a black box (its target is made from the values a construction samples);
    evaluate: (m, n) -> (m, k) float64; expressions, symbols: SymPy form where there is one; lipschitz, norm: the constant and the
    norm of |x - y| it refers to, None if not needed yet; scalar: whether the user's f returns numbers rather than vectors.
    """

    domain: Box | Sphere
    evaluate: Callable[[Float[np.ndarray, "m n"]], Float[np.ndarray, "m k"]]
    target: ExpressionTarget | GridTarget | None
    outputs: int
    name: str
    expressions: tuple[sp.Expr, ...] | None = None
    symbols: tuple[sp.Symbol, ...] = ()
    lipschitz: float | None = None
    norm: str = "l2"
    black_box_because: str = ""
    assumptions: tuple[str, ...] = ()

    @property
    def provenance(self) -> Provenance:
        """How the target's regularity is known."""
        return Provenance.DECLARED if self.target is None else self.target.provenance

    def constant(self) -> float:
        """A Lipschitz constant: the declared one, from the data, or derived (rigorous upper bound; inf if unbounded)."""
        return self._constant

    @cached_property
    def _constant(self) -> float:
        if self.lipschitz is not None and self.target is None:
            return self.lipschitz
        if isinstance(self.target, ExpressionTarget):
            return lipschitz_constant(self.target.expression, self.domain, self.norm).upper
        if isinstance(self.target, GridTarget):
            return _grid_constant(self.target, self.norm)
        raise LipschitzError(value=None, because=self.black_box_because)


def understand(f: Any, domain: Any, lipschitz: Any, norm: str) -> Problem:
    """Turn the arguments of `compile_prefix` into a problem. Raises the errors of errors.py."""
    constant = _declared(lipschitz)
    if norm not in ("l2", "linf", "l1"):
        raise CompileError(f"norm = {norm!r} is unknown. Choose among: 'l2', 'linf', 'l1'.")
    if isinstance(domain, Sphere):
        from constructions.sphere_problem import on_sphere  # it builds Problems, so it imports this module

        return on_sphere(f, domain, constant)
    problem = _understand(f, domain, constant, norm)
    if constant is not None and problem.target is not None:
        _contradicted(
            replace(problem, lipschitz=constant)
        )  # a declared constant is not needed here, but must not be wrong
    return problem


def _understand(f: Any, domain: Any, constant: float | None, norm: str) -> Problem:
    if isinstance(f, GridData):
        return _from_grid(f, domain, norm)
    if isinstance(f, sp.MatrixBase):
        f = f.flat()
    if isinstance(f, (sp.Expr, numbers.Real)) or (
        isinstance(f, (list, tuple)) and f and all(isinstance(e, (sp.Expr, numbers.Real)) for e in f)
    ):
        many = isinstance(f, (list, tuple))
        expressions: tuple[Any, ...] = tuple(sp.sympify(e) for e in (f if many else [f]))
        return _from_expressions(expressions, domain, norm)
    if isinstance(f, sp.Lambda):
        variables: Any = f.variables
        return _from_expressions((f.expr,), _ordered(domain, [s.name for s in variables]), norm)
    if callable(f):
        return _from_callable(f, domain, constant, norm)
    raise CompileError(
        f"f = {f!r} of type {type(f).__name__} is not a target. Pass a SymPy expression, a list of them, a NumPy callable, or GridData(axes, values)."
    )


def _declared(lipschitz: Any) -> float | None:
    if lipschitz is None:
        return None
    try:
        value = float(lipschitz)
    except (TypeError, ValueError) as error:
        raise LipschitzError(value=lipschitz) from error
    if not (np.isfinite(value) and value >= 0):
        raise LipschitzError(value=lipschitz)
    return value


def _box(domain: Any) -> Box | None:
    if domain is None or isinstance(domain, Box):
        return domain
    try:
        return Box(domain)
    except BoxError as error:
        raise DomainError(value=domain, reason=f"is not a box: {error}") from error
    except TypeError as error:
        raise DomainError(
            value=domain, reason="is not a box", next_step='Pass Box({"x": (lo, hi)}) or Box([(lo, hi), ...]).'
        ) from error


def _ordered(domain: Any, names: list[str]) -> Any:
    box = _box(domain)
    if box is None:
        return Box.unit(len(names)).named(names)
    if box.names is None and box.dimension == len(names):
        return box.named(names)
    return box


def _from_expressions(expressions: tuple[Any, ...], domain: Any, norm: str) -> Problem:
    free = sorted({s.name for e in expressions for s in e.free_symbols})
    box = _box(domain)
    if box is None:
        names = free or ["x"]
        box = Box.unit(len(names)).named(names)
    elif box.names is None:
        if len(free) > box.dimension:
            raise FreeSymbolError(symbols=free[box.dimension :], known=free[: box.dimension])
        if free and len(free) != box.dimension:
            raise DomainError(
                value=box, reason=f"has {box.dimension} sides but f has the {len(free)} symbols {', '.join(free)}",
                next_step='Name the sides, for example Box({"x": (0, 1)}).',
            )  # fmt: skip
        box = box.named(free or [f"x{i}" for i in range(box.dimension)])
    names = list(box.names or ())
    missing = [s for s in free if s not in names]
    if missing:
        raise FreeSymbolError(symbols=missing, known=names)
    expressions = tuple(without_removable(e) for e in expressions)
    table = from_sympy(expressions, names)
    target = ExpressionTarget(table)
    found = value_range(table, box)
    if found.bad is not None:
        enclosure = [(n, a, b) for n, (a, b) in zip(names, found.bad, strict=True)]
        raise UndefinedTargetError(expression=table, enclosure=enclosure)
    by_name = {s.name: s for e in expressions for s in e.free_symbols}
    symbols = tuple(by_name.get(n, sp.Symbol(n)) for n in names)
    return Problem(box, table.evaluate, target, len(expressions), str(table), expressions, symbols, norm=norm)


def _arity(f: Callable[..., Any]) -> int | None:
    try:
        parameters = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):
        return getattr(f, "nin", None)
    required = [
        p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
    ]
    return len(required) or 1


def _from_callable(f: Callable[..., Any], domain: Any, constant: float | None, norm: str) -> Problem:
    box = _box(domain)
    if box is None:
        box = Box.unit(_arity(f) or 1)
    if box.names is not None:
        f = by_name(f, box.names)
    bounds = list(zip(box.lo, box.hi, strict=True))
    traced = trace(f, bounds=bounds, names=box.names)
    if not isinstance(traced, NotTraceable):
        names = [s.name for s in traced.symbols]
        try:
            problem = _from_expressions(traced.expressions, box if box.names else box.named(names), norm)
            return replace(problem, assumptions=(traced_assumption(traced.samples),))
        except UnsupportedExpressionError as error:
            if constant is None:
                raise
            traced = NotTraceable(str(error))
    if constant is None:
        raise LipschitzError(value=None, because=traced.reason)
    name = getattr(f, "__name__", type(f).__name__)

    def evaluate(points: Float[np.ndarray, "m n"]) -> Float[np.ndarray, "m k"]:
        return evaluate_callable(f, points)

    probe = evaluate(np.concatenate([box.sample(8), np.array([box.lo, box.hi])]))
    if box.names is None:
        box = box.named(["x"] if box.dimension == 1 else [f"x{i}" for i in range(box.dimension)])
    problem = Problem(
        box, evaluate, None, probe.shape[1], f"black box {name}", lipschitz=constant, norm=norm, black_box_because=traced.reason
    )  # fmt: skip
    _contradicted(problem)
    return problem


def _contradicted(problem: Problem) -> None:
    """Raise LipschitzError if two sampled values contradict the declared constant: random points, each with near and far partners."""
    assert problem.lipschitz is not None
    lo, hi = problem.domain.bounds
    base = problem.domain.sample(400, seed=1)
    pieces = [base]
    generator = np.random.default_rng(2)
    for scale in (1e-1, 1e-2, 1e-3, 1e-5):
        pieces.append(np.clip(base + (hi - lo) * scale * generator.uniform(-1, 1, base.shape), lo, hi))
    values = [problem.evaluate(p) for p in pieces]
    pairs = [(i, j, values[i], values[j]) for i, j in [(0, 1), (0, 2), (0, 3), (0, 4)]]
    far = (pieces[0], np.roll(pieces[0], 1, axis=0), values[0], np.roll(values[0], 1, axis=0))
    order = {"l2": 2, "linf": np.inf, "l1": 1}[problem.norm]
    for p, q, a, b in [*((pieces[i], pieces[j], a, b) for i, j, a, b in pairs), far]:
        distance = np.linalg.norm(p - q, ord=order, axis=1)
        change = np.abs(a - b).max(axis=1)
        # rounding of f itself: a few units in the last place of its values and of its argument
        size = np.maximum(np.abs(a), np.abs(b)).max(axis=1) + problem.lipschitz * np.abs(p).sum(axis=1)
        noise = 64 * np.finfo(float).eps * size
        bad = change - noise > problem.lipschitz * distance * (1 + 1e-9)
        if bad.any():
            rate = np.where(bad, change / np.maximum(distance, 1e-300), 0)
            i = int(np.argmax(rate))
            pair = (tuple(map(float, p[i])), tuple(map(float, q[i])))
            raise LipschitzError(value=problem.lipschitz, pair=pair, slope=float(rate[i]))


def _from_grid(data: GridData, domain: Any, norm: str) -> Problem:
    try:
        single = isinstance(data.axes, np.ndarray) and data.axes.ndim == 1 and data.axes.dtype != object
        axes = tuple(np.asarray(a, dtype=np.float64) for a in ([data.axes] if single else data.axes))
        values = np.asarray(data.values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise CompileError(f"f: grid data must be numbers ({error}).") from error
    if values.ndim == len(axes):
        values = values[..., None]
    try:
        target = GridTarget(axes, values, data.interpolation)
    except TargetError as error:
        raise CompileError(f"f: grid data do not fit together: {error}") from error
    hull = Box([(float(a[0]), float(a[-1])) for a in axes])
    box = _box(domain) or hull
    if box.dimension != hull.dimension or any(
        a < c or b > d for a, b, c, d in zip(box.lo, box.hi, hull.lo, hull.hi, strict=True)
    ):
        raise DomainError(
            value=box, reason=f"is not inside the grid {hull}", next_step="The interpolant is known on the grid only."
        )
    if box.names is None:
        box = box.named(["x"] if box.dimension == 1 else [f"x{i}" for i in range(box.dimension)])
    return Problem(box, target.evaluate, target, target.outputs, str(target), norm=norm)


def _grid_constant(target: GridTarget, norm: str) -> float:
    """A multilinear interpolant's partial derivative along an axis is a convex combination of the slopes of that axis's edges, so
    the largest edge slope bounds it; the gradient's dual norm is at most that of the vector of these bounds. A nearest interpolant
    jumps: its constant is infinite unless the values are all equal."""
    if target.interpolation == "nearest":
        return 0.0 if float(np.ptp(target.values.reshape(-1, target.outputs), axis=0).max()) == 0 else float("inf")
    slopes = []
    for i, a in enumerate(target.axes):
        shape = [1] * target.values.ndim
        shape[i] = -1
        slopes.append(np.abs(np.diff(target.values, axis=i) / np.diff(a).reshape(shape)).max())
    order = {"l2": 2, "linf": 1, "l1": np.inf}[norm]
    return float(np.linalg.norm(slopes, ord=order) * (1 + 1e-12))
