"""Expression -> circuits -> heads -> models: the passes of method="circuit", as proposals for the kernel.

1. rewrite   `circuits_for`: candidate circuits, the cheapest by estimate first
2. normalise  every output a sum of nodes (`lower.normalised`)
3. ranges    what each node reads (`verify.circuit_ranges`: the ranges the kernel will use)
4. ladders   for each node, the error of its best head of 1, 2, 3, ... tokens (`library`)
5. allocate  tokens to nodes so that sum of sensitivity times error is within eps, as few as possible (`allocate`)
6. lower     slots, layers, keys and values on the universal backbone (`lower.lower`)

For a format narrower than float64 the ladders of step 4 are its own (`arithmetic`): rounding counts as error does, so heads have moderate
values, at about the same length. What cannot be held is refused by the least that such ladders round by, before any head is searched for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp
from jaxtyping import Float

from constructions.circuits.allocate import allocate
from constructions.circuits.arithmetic import Arithmetic, arithmetic_of
from constructions.circuits.candidates import circuits_for
from constructions.circuits.clamp import clamped
from constructions.circuits.ir import IR, Z1, Z2, Node, to_circuit
from constructions.circuits.ladder import Ladder
from constructions.circuits.library import heads_for
from constructions.circuits.lower import Lowered, NodeTokens, lower, normalised
from constructions.circuits.products import product_heads
from constructions.circuits.sensitivity import sensitivities_and_margins
from constructions.errors import EpsilonError
from constructions.proposal import Term
from verify import Box
from verify.circuit import Circuit
from verify.circuit_ranges import NodeRange, ranges, variation
from verify.format_arithmetic import FLOAT64 as FLOAT64_FORMAT
from verify.format_arithmetic import FloatFormat

__all__ = ["CircuitProposal", "propose_circuits"]

_TRIED = 6
"""Candidate circuits whose heads are worked out."""
_SHARES = (0.88, 0.7, 0.5, 0.35)
"""Of eps, given to the heads: the kernel's bounds are not first-order, and float64 rounds."""
_HALVINGS = 6
"""Steps towards the smallest eps that a refusal names."""


@dataclass(frozen=True, eq=False)
class CircuitProposal:
    """A lowered circuit. ir: in SymPy form; budget: (tokens, sensitivity, sampled error) of each node."""

    lowered: Lowered
    ir: IR
    budget: tuple[tuple[int, float, float], ...]
    method: str = "circuit"

    @property
    def length(self) -> int:
        """Prefix tokens in total."""
        return self.lowered.prefix.length

    @property
    def grid(self) -> dict[str, Any]:
        """Names of the stream's slots, heads of each layer, and each node's function with its tokens, sensitivity and sampled error."""
        nodes = [
            [str(node.function), ", ".join(map(str, node.reads)), tokens, weight, error]
            for node, (tokens, weight, error) in zip(self.ir.nodes, self.budget, strict=True)
        ]
        heads = [len(layer.heads) for layer in self.lowered.model.layers]
        return {"slots": list(self.lowered.slot_names), "heads": heads, "nodes": nodes}

    terms: tuple[Term, ...] = ()


@dataclass(frozen=True, eq=False)
class _Planned:
    """A candidate with its ranges and sensitivities. served: with functions continued beyond their domains: what heads are built for;
    margins: how far beyond its range a head is stretched to serve; lost: the part of eps that this costs."""

    ir: IR
    served: IR
    circuit: Circuit
    known: list[NodeRange]
    weights: list[float]
    margins: list[float]
    lost: float


def propose_circuits(
    expressions: Sequence[sp.Expr],
    symbols: Sequence[sp.Symbol],
    domain: Box,
    eps: float,
    *,
    max_tokens: int,
    deadline: float,
    form: FloatFormat = FLOAT64_FORMAT,
) -> Iterator[CircuitProposal]:
    """Circuits whose sampled error budget is within eps: shortest first, then the same again with more room.

    form: the format their heads are chosen for. Raises EpsilonError, with numbers, where a format narrower than float64 does not hold eps.
    """
    arithmetic = arithmetic_of(form)
    plans = [
        p
        for ir in circuits_for(expressions, symbols, domain, limit=_TRIED)
        if (p := _planned(ir, domain, eps)) is not None
    ]
    if plans and not arithmetic.apart:
        nearest = min(plans, key=lambda plan: _least(plan, arithmetic))
        if eps < _least(nearest, arithmetic) < math.inf:  # said before any head is searched for
            raise _not_held(eps, 1.5 * _attainable(nearest, domain, eps, arithmetic), arithmetic)
    given: set[tuple[int, tuple[tuple[int, float, float], ...]]] = set()
    for share in _SHARES:
        made = []
        for plan in plans:
            if time.monotonic() > deadline:
                break
            found = _allocated(plan, domain, eps * share, arithmetic)
            if found is not None and found.length <= max_tokens and (id(plan), found.budget) not in given:
                given.add((id(plan), found.budget))
                made.append(found)
        made.sort(key=lambda p: (p.length, len(p.lowered.model.layers)))
        yield from made
    if not given and not arithmetic.apart and time.monotonic() < deadline:
        reach = [r for plan in plans if math.isfinite(r := _reach(plan, arithmetic)) and r > eps * _SHARES[0]]
        if reach:
            raise _not_held(eps, min(reach) / _SHARES[0], arithmetic)


def _not_held(eps: float, reachable: float, arithmetic: Arithmetic) -> EpsilonError:
    cause = f"rounding of {arithmetic.name} in the heads of a circuit"
    return EpsilonError(value=eps, reachable=reachable * 1.05, dominating=cause, form=arithmetic.name)


def _least(plan: _Planned, arithmetic: Arithmetic) -> float:
    """What no heads of a plan are expected to fall below; nothing is searched for it."""
    try:
        ladders = _ladders(plan, arithmetic)
    except (ValueError, sp.PolynomialError):
        return math.inf
    sizes = [arithmetic.least(r.size) for r in plan.known]
    return plan.lost + sum(
        w * (ladder.least + size) for w, ladder, size in zip(plan.weights, ladders, sizes, strict=True)
    )


def _attainable(plan: _Planned, domain: Box, eps: float, arithmetic: Arithmetic) -> float:
    """The smallest eps, roughly, that is not below what the heads are expected to reach: with a larger one nodes of infinite slope get more
    room, and matter less."""
    low, high = eps, _least(plan, arithmetic)
    for _ in range(_HALVINGS if any(plan.margins) and math.isfinite(high) else 0):
        middle = math.sqrt(low * high)
        again = _planned(plan.ir, domain, middle)
        within = again is not None and _least(again, arithmetic) <= middle
        low, high = (low, middle) if within else (middle, high)
    return high


def _reach(plan: _Planned, arithmetic: Arithmetic) -> float:
    """The smallest error that the ladders of a plan reach; inf where there is a node without."""
    try:
        ladders = _ladders(plan, arithmetic)
    except (ValueError, sp.PolynomialError):
        return math.inf
    return plan.lost + sum(w * ladder.error(ladder.most) for w, ladder in zip(plan.weights, ladders, strict=True))


def _planned(ir: IR, domain: Box, eps: float) -> _Planned | None:
    """Ranges and sensitivities of a candidate; None where a range is not finite."""
    try:
        plain = normalised(ir)
        circuit = to_circuit(plain)
    except (ValueError, TypeError, ArithmeticError):
        return None
    known = ranges(circuit, domain)
    if not all(np.isfinite([r.lo, r.hi, *r.reads[0], *r.reads[1]]).all() for r in known):
        return None
    served = clamped(plain, known)
    singular = [a.function != b.function for a, b in zip(plain.nodes, served.nodes, strict=True)]
    weights, margins = sensitivities_and_margins(circuit, known, singular, eps)
    if not np.isfinite(weights).all():
        return None
    lost = sum(
        weight * variation(node.function, *r.reads, np.full(len(r.reads[0]), margin))
        for node, r, weight, margin in zip(circuit.nodes, known, weights, margins, strict=True)
        if margin > 0
    )
    return _Planned(plain, served, circuit, known, weights, margins, lost)


def _ladders(plan: _Planned, arithmetic: Arithmetic) -> list[Ladder]:
    """A ladder for every node. Raises ValueError or PolynomialError where there is none."""
    return [
        _ladder(node, *_served(known, margin), arithmetic)
        for node, known, margin in zip(plan.served.nodes, plan.known, plan.margins, strict=True)
    ]


def _allocated(plan: _Planned, domain: Box, budget: float, arithmetic: Arithmetic) -> CircuitProposal | None:
    """Heads for every node, or None where they cannot be had within the budget."""
    try:
        ladders = _ladders(plan, arithmetic)
    except (
        ValueError,
        sp.PolynomialError,
    ):  # no head for a function, such as one that is not defined on all of its range
        return None
    counts = allocate(ladders, plan.weights, budget - plan.lost) if budget > plan.lost else None
    if counts is None:
        return None
    heads = []
    for ladder, count, node, known, margin in zip(
        ladders, counts, plan.ir.nodes, plan.known, plan.margins, strict=True
    ):
        tolerance = ladder.error(count)
        head = ladder.head(tolerance)
        if head is None:
            return None
        slopes, biases = np.asarray(head.slopes), np.asarray(head.biases)
        if margin > 0:
            slopes, biases = _stretched(slopes, biases, known, margin)
        heads.append(NodeTokens(slopes, biases, np.asarray(head.values) + _constant(node), tolerance))
    lowered = lower(plan.ir, domain, heads, plan.circuit)
    entries = tuple((len(h.biases), w, h.error) for h, w in zip(heads, plan.weights, strict=True))
    return CircuitProposal(lowered, plan.ir, entries)


def _ladder(node: Node, lo: np.ndarray, hi: np.ndarray, arithmetic: Arithmetic) -> Ladder:
    """The heads for a node: of one variable, or the product of two."""
    if len(lo) == 1:
        return heads_for(node.function, float(lo[0]), float(hi[0]), arithmetic=arithmetic)
    product = sp.Poly(node.function, Z1, Z2)
    factor = product.coeff_monomial(Z1 * Z2)
    if product.total_degree() != 2 or sp.expand(node.function - factor * Z1 * Z2 - product.coeff_monomial(1)) != 0:
        raise ValueError(f"{node.function} is not a product")
    return product_heads(lo, hi, factor=float(factor), arithmetic=arithmetic)


def _constant(node: Node) -> float:
    """What is added to a product."""
    return 0.0 if len(node.reads) == 1 else float(sp.Poly(node.function, Z1, Z2).coeff_monomial(1))


def _stretched(
    slopes: Float[np.ndarray, "tokens 1"], biases: Float[np.ndarray, " tokens"], known: NodeRange, margin: float
) -> tuple[Float[np.ndarray, "tokens 1"], Float[np.ndarray, " tokens"]]:
    """A head for g on [lo, hi] as one for g(A u) on [lo - margin, hi + margin], with A the affine map between them: next to an end where
    the slope of g is infinite a head must not be asked about anything beyond."""
    lo, hi = known.reads
    factor = (hi - lo) / (hi - lo + 2 * margin)
    return slopes * factor, biases + slopes @ (lo - factor * (lo - margin))


def _served(known: NodeRange, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """The range a head is built for: a thousandth more than what is read, as what is read is a little wrong; where it is stretched later,
    no more."""
    lo, hi = known.reads
    if margin > 0:  # the end of a function's domain, which bounds of ranges miss by a rounding
        return np.round(lo, 9), np.round(hi, 9)
    width = hi - lo
    size = np.maximum(np.abs(lo), np.abs(hi))
    room = np.maximum(1e-3 * width, 1e-12 * size) if width.any() else 1e-9 * (1 + size)
    low, high = lo - room, hi + room
    return np.where((lo > 0) & (low <= 0), 0.5 * lo, low), np.where((hi < 0) & (high >= 0), 0.5 * hi, high)
