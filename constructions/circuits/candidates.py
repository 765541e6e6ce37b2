"""Several circuits for the same expressions, cheapest first: written forms times ways to multiply, improved one choice at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp

from constructions.circuits.conjugate import conjugated
from constructions.circuits.costs import Cost, read_ranges, total, typical_tokens
from constructions.circuits.finish import absorbed, pruned
from constructions.circuits.ir import IR, Z1, Z2, Node, Z, depths, node_values, replaced
from constructions.circuits.known import Known
from constructions.circuits.phases import rotated
from constructions.circuits.rewrite import Builder
from constructions.circuits.squares import completed
from constructions.errors import CompileError, UnsupportedExpressionError
from constructions.from_sympy import from_sympy
from constructions.removable import without_removable
from verify.domain import Box

__all__ = ["circuits_for"]

_POINTS = 200
_TOLERANCE = 1e-9
_BUILDS = 60
_WORK = 1_200  # builds times operations: long expressions get fewer candidates
_LONG = 80
_GROWTH = 2
_MAX_EXPONENT = 24
_Key = tuple[str, sp.Expr]


@dataclass(frozen=True)
class _Candidate:
    tokens: float
    depth: int
    ir: IR
    form: int
    choices: Mapping[_Key, str]
    asked: Mapping[_Key, Sequence[str]]


def circuits_for(
    expressions: Sequence[sp.Expr],
    variables: Sequence[sp.Symbol],
    domain: Box,
    *,
    cost: Callable | None = None,
    limit: int = 12,
) -> list[IR]:
    """Different circuits that equal the expressions on the domain, the one with the fewest estimated tokens first.

    variables: in the order of the domain's coordinates; cost: (function, ranges of its arguments) -> tokens. Raises
    UnsupportedExpressionError if no circuit is known, naming the part.
    """
    targets, symbols = _renamed(expressions, variables, domain)
    box = Box({s.name: (lo, hi) for s, lo, hi in zip(symbols, domain.lo, domain.hi, strict=True)})
    search = _Search(targets, symbols, box, cost or typical_tokens)
    found = search.run()
    if not found:
        raise search.failure or UnsupportedExpressionError(
            part=str(targets[0]), reason="has no circuit whose nodes are all defined on the domain"
        )
    original = dict(zip(symbols, variables, strict=True))
    return [_in_symbols(c.ir, original) for c in found[:limit]]


def _renamed(
    expressions: Sequence[sp.Expr], variables: Sequence[sp.Symbol], domain: Box
) -> tuple[list[sp.Expr], tuple[sp.Symbol, ...]]:
    """Real symbols for the variables, positive where the domain is, none of which reads as a node (n0, n1, ...); exact numbers.

    A float is the rational number that it is, so that coefficients computed from it stay exact and the circuit equals the target.
    """
    taken = {v.name for v in variables}
    symbols = []
    for v, least in zip(variables, domain.lo, strict=True):
        name = v.name
        while re.fullmatch(r"n\d+", name) or (name != v.name and name in taken):
            name += "_"
        symbols.append(sp.Symbol(name, positive=True) if least > 0 else sp.Symbol(name, real=True))
    new: dict[sp.Basic, sp.Basic] = dict(zip(variables, symbols, strict=True))
    exact = [without_removable(sp.sympify(e)) for e in expressions]
    for e in exact:
        new |= {number: sp.Rational(number) for number in e.atoms(sp.Float)}
    return [replaced(e, new) for e in exact], tuple(symbols)


def _in_symbols(ir: IR, symbols: Mapping[sp.Symbol, sp.Symbol]) -> IR:
    """The circuit in the caller's symbols; a renamed variable keeps its new name, for its own is a node's."""
    new = {v: s if s.name == v.name else v for v, s in symbols.items()}
    nodes = tuple(Node(tuple(replaced(r, new) for r in n.reads), n.function) for n in ir.nodes)
    return IR(tuple(new[v] for v in ir.variables), nodes, tuple(replaced(o, new) for o in ir.outputs))


class _Search:
    """All circuits seen for one problem."""

    def __init__(self, targets: Sequence[sp.Expr], symbols: tuple[sp.Symbol, ...], box: Box, cost: Cost) -> None:
        self.symbols, self.box, self.cost = symbols, box, cost
        self.known = Known(box)
        self.points = box.sample(_POINTS)
        self.values = from_sympy(targets, [s.name for s in symbols]).evaluate(self.points)
        self.forms = list(_forms(targets))
        self.seen: dict[IR, _Candidate] = {}
        operations = sum(int(sp.count_ops(e)) for e in targets)
        self.most = min(_BUILDS, max(8, _WORK // max(operations, 1)))
        self.failure: CompileError | None = None
        side = ((-1.0, 1.0),)
        squares = ("squares",) if cost(Z1 * Z2, side * 2) > 2 * cost(Z**2, side) else ()
        self.ways = ("log", "tree", "shift", *squares)
        self.builds = 0

    def run(self) -> list[_Candidate]:
        """Every form with every uniform way to multiply; then the best ones, one choice changed at a time, while that helps."""
        for form in range(len(self.forms)):
            for way in self.ways:
                asked = self.build(form, {}, {"product": way, "group": "no"})
                if any(kind == "group" for kind, _ in asked):
                    self.build(form, {}, {"product": way, "group": "yes"})
        tried: set[IR] = set()
        while self.builds < self.most:
            best = next((c for c in self.ranked()[:4] if c.ir not in tried), None)
            if best is None:
                break
            tried.add(best.ir)
            for key, options in best.asked.items():
                for option in options:
                    if option != best.choices[key] and (key[0] != "product" or option in self.ways):
                        self.build(best.form, {**best.choices, key: option}, {})
        return self.ranked()

    def ranked(self) -> list[_Candidate]:
        return sorted(self.seen.values(), key=lambda c: (c.tokens, c.depth, len(c.ir.nodes)))

    def build(self, form: int, choices: Mapping[_Key, str], default: Mapping[str, str]) -> Mapping[_Key, Sequence[str]]:
        """One circuit, kept if it is new and valid; returns what was asked."""
        made: dict[_Key, str] = {}
        asked: dict[_Key, Sequence[str]] = {}

        def choose(kind: str, e: sp.Expr, options: Sequence[str]) -> str:
            key = (kind, e)
            wish = choices.get(key, default.get(kind, options[0]))
            made[key] = wish if wish in options else options[0]
            asked[key] = options
            return made[key]

        self.builds += 1
        builder = Builder(self.known, choose)
        try:
            values = [builder.affine(builder.convert(target)) for target in self.forms[form]]
            outputs = tuple(builder.in_nodes(value) for value in values)
            ir = absorbed(pruned(IR(self.symbols, tuple(builder.nodes), outputs)))
            ranges = None if ir in self.seen else read_ranges(ir, self.known)
        except CompileError as error:
            self.failure = self.failure or error
            return asked
        if ranges is not None and self.agrees(ir):
            tokens, depth = total(ir, ranges, self.cost), max(depths(ir), default=0)
            self.seen[ir] = _Candidate(tokens, depth, ir, form, made, asked)
        return asked

    def agrees(self, ir: IR) -> bool:
        """Whether the circuit has the target's values at random points."""
        with np.errstate(all="ignore"):
            values = node_values(ir, self.points)[1]
        size = np.maximum(np.abs(self.values), np.ptp(self.values, axis=0, keepdims=True))
        return bool(np.all(np.abs(values - self.values) <= _TOLERANCE * np.maximum(size, 1e-300)))


def _forms(targets: Sequence[sp.Expr]) -> Iterator[list[Any]]:
    """The expressions as they are written, with completed squares, with phases counted from each other, expanded, over a common denominator, factored; without repetitions or what is far longer.

    Polynomial algebra is left alone on long expressions and where an exponent is no small rational: a float's is a polynomial of degree
    2^52 in a root.
    """
    size = sum(int(sp.count_ops(e)) for e in targets)
    exponents: list[Any] = [p.exp for e in targets for p in e.atoms(sp.Pow) if p.exp.is_Rational]
    if size > _LONG or any(abs(q.p) > _MAX_EXPONENT or q.q > _MAX_EXPONENT for q in exponents):
        rewrites: tuple[Callable[..., Any], ...] = (
            lambda e: e,
            conjugated,
            _conjugated_and_factored,
            completed,
            rotated,
            sp.expand_mul,
        )
    else:
        rewrites = (
            lambda e: e,
            conjugated,
            _conjugated_and_factored,
            completed,
            rotated,
            sp.expand,
            sp.together,
            lambda e: sp.factor(sp.together(e)),
            sp.factor_terms,
        )
    seen: set[tuple[Any, ...]] = set()
    for rewrite in rewrites:
        try:
            form = tuple(rewrite(e) for e in targets)
        except (sp.PolynomialError, ArithmeticError, NotImplementedError, RecursionError):
            continue
        if form not in seen and sum(int(sp.count_ops(e)) for e in form) <= _GROWTH * size + _LONG / 4:
            seen.add(form)
            yield list(form)


def _conjugated_and_factored(e: sp.Expr) -> Any:
    new = conjugated(e)
    return e if new == e else sp.factor_terms(new)
