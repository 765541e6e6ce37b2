"""Targets on a sphere: expressions in the ambient coordinates, callables of points or of coordinates, and black boxes."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from dataclasses import replace
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
from constructions.problem import Problem
from constructions.trace import NotTraceable, by_name, evaluate_callable, trace, traced_assumption
from verify import ExpressionTarget, Sphere, value_range
from verify.prove import MOST_DIMENSIONS

__all__ = ["on_sphere"]


def on_sphere(f: Any, domain: Sphere, constant: float | None) -> Problem:
    """What the user asked for on S^m. constant: a declared geodesic Lipschitz constant. Raises the errors of errors.py."""
    if domain.m > MOST_DIMENSIONS:
        raise DomainError(
            value=domain,
            reason=f"is beyond m = {MOST_DIMENSIONS}, where nothing is built or proved",
            next_step="constructions.petrov2024.jackson.theorem_for gives the bounds for every m.",
        )
    if isinstance(f, sp.MatrixBase):
        f = f.flat()
    if isinstance(f, sp.Lambda):
        names: Any = [s.name for s in f.variables]
        return _from_expressions((f.expr,), domain.named(names) if domain.names is None else domain)
    many = isinstance(f, (list, tuple)) and bool(f) and all(isinstance(e, (sp.Expr, numbers.Real)) for e in f)
    if many or isinstance(f, (sp.Expr, numbers.Real)):
        problem = _from_expressions(tuple(sp.sympify(e) for e in (f if isinstance(f, (list, tuple)) else [f])), domain)
        if constant is not None:
            _contradicted(replace(problem, lipschitz=constant))
        return problem
    if callable(f):
        return _from_callable(f, domain, constant)
    raise CompileError(
        f"f = {f!r} of type {type(f).__name__} is not a target on {domain!r}. Pass a SymPy expression in the ambient coordinates, a list "
        "of them, or a NumPy callable."
    )


def _named(domain: Sphere, free: list[str]) -> Sphere:
    """The sphere with names for its coordinates: its own, or x, y, z (x0, x1, ... for m > 2)."""
    names = domain.names or domain.default_names()
    if domain.names is None and not set(free) <= set(names):
        raise DomainError(
            value=domain,
            reason=f"has the ambient coordinates {', '.join(names)}, and f has the symbols {', '.join(free)}",
            next_step=f"Name the coordinates in their order: Sphere({domain.m}, symbols=(...)).",
        )
    missing = [s for s in free if s not in names]
    if missing:
        raise FreeSymbolError(symbols=missing, known=list(names))
    return domain.named(names)


def _from_expressions(expressions: tuple[Any, ...], domain: Sphere) -> Problem:
    domain = _named(domain, sorted({s.name for e in expressions for s in e.free_symbols}))
    names = list(domain.names or ())
    table = from_sympy(expressions, names)
    found = value_range(table, domain)
    if found.bad is not None:
        raise UndefinedTargetError(
            expression=table, enclosure=[(n, a, b) for n, (a, b) in zip(names, found.bad, strict=True)]
        )
    by = {s.name: s for e in expressions for s in e.free_symbols}
    symbols = tuple(by.get(n, sp.Symbol(n)) for n in names)
    target = ExpressionTarget(table)
    return Problem(domain, table.evaluate, target, len(expressions), str(table), expressions, symbols, norm="geodesic")


def _from_callable(f: Callable[..., Any], domain: Sphere, constant: float | None) -> Problem:
    if domain.names is not None:
        f = by_name(f, domain.names)
    traced = trace(f, bounds=[(-1.0, 1.0)] * domain.dimension, names=domain.names or domain.default_names())
    if not isinstance(traced, NotTraceable):
        try:
            named = domain.named([s.name for s in traced.symbols])
            problem = _from_expressions(traced.expressions, named)
            return replace(problem, assumptions=(traced_assumption(traced.samples),))
        except (UnsupportedExpressionError, UndefinedTargetError) as error:
            if constant is None:
                raise
            traced = NotTraceable(str(error))
    if constant is None:
        raise LipschitzError(value=None, because=traced.reason)
    name = getattr(f, "__name__", type(f).__name__)
    domain = domain if domain.names is not None else domain.named(domain.default_names())

    def evaluate(points: Float[np.ndarray, "m n"]) -> Float[np.ndarray, "m k"]:
        return evaluate_callable(f, points)

    probe = evaluate(domain.sample(16))
    problem = Problem(
        domain,
        evaluate,
        None,
        probe.shape[1],
        f"black box {name}",
        lipschitz=constant,
        norm="geodesic",
        black_box_because=traced.reason,
    )
    _contradicted(problem)
    return problem


def _contradicted(problem: Problem) -> None:
    """Raise LipschitzError if two sampled values contradict the declared geodesic constant: random points, near and far partners."""
    assert problem.lipschitz is not None
    base = problem.domain.sample(400, seed=1)
    generator = np.random.default_rng(2)
    values = problem.evaluate(base)
    partners = [np.roll(base, 1, axis=0)]
    for scale in (1.0, 1e-1, 1e-2, 1e-3, 1e-5):
        moved = base + scale * generator.normal(size=base.shape)
        partners.append(moved / np.linalg.norm(moved, axis=1, keepdims=True))
    for other in partners:
        there = problem.evaluate(other)
        angle = 2 * np.arcsin(np.minimum(np.linalg.norm(base - other, axis=1) / 2, 1.0))
        change = np.abs(values - there).max(axis=1)
        size = np.maximum(np.abs(values), np.abs(there)).max(axis=1) + problem.lipschitz
        # f's own rounding, and that of a point: near a pole acos turns a rounding u into an angle sqrt(2 u)
        noise = 64 * np.finfo(float).eps * size + 4e-8 * problem.lipschitz
        bad = change - noise > problem.lipschitz * angle * (1 + 1e-9)
        if bad.any():
            rate = np.where(bad, change / np.maximum(angle, 1e-300), 0)
            i = int(np.argmax(rate))
            pair = (tuple(map(float, base[i])), tuple(map(float, other[i])))
            raise LipschitzError(value=problem.lipschitz, pair=pair, slope=float(rate[i]))
