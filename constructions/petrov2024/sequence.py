"""Any sequence function with T + 2 attention layers (Petrov, Torr and Bibi 2024, section 4), compiled and ready to be proved.

The residual stream of every token has named slots:

    token (d)      the token itself, put there by the embedding
    position (T)   one-hot, put there by the positional encoding
    one            the constant 1
    digits (G)     layer 1: sum_i phi_i(x_i), the interleaved digits of the token, on each of G grids (here G = 1)
    code (G)       layer 2: z = sum_p 2^{-p} digits of token p, the same at every token
    out (k)        layers 3..T+2: layer p + 2 writes token p's output

All layers are residual: what a layer writes stays. *Layer 1*: one head per coordinate, 2^K tokens at the centres of cells of width
h, logits -(B/h^2)(x - c)^2 up to a common term, values phi_i. *Layer 2*: one head over the data tokens; the position alone decides
the score, -p ln 2, and one null token of score -T ln 2 completes sum_{p<=T} 2^{-p} to 1, so that the softmax weights are exactly
2^{-p}. *Layer p + 2*: one token per code with the value of f_p at the cell's centre, and a null token of value 0 whose logit
nu + omega [position = p] lies above all codes at other positions and below them at p.

*Where it is right.* A neighbouring cell's weight at distance t from a jump is e^{-2Bt/h}, the digits are off by at most twice
that, and z by at most 2 d e^{-2Bt/h}. Codes stay apart while 2 M |dz| <= 1/8 (kolmogorov.py: a neighbouring code is A below, moved by
2 A M |dz|), so for t >= (h / 2B) ln(40 d M) the error is the modulus of f on a cell,
plus tails of order e^{-3A/4}. The exceptional set
{some |x_i - jump| < t} has relative measure at most T d (2^K - 1) 2t / len = T d (1 - 2^{-K}) ln(40 d M) / B: the sharpness B
buys it. *No* prefix makes the sup norm small everywhere (obstruction.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf, log, log2
from typing import Any

import numpy as np
import sympy as sp
from jaxtyping import Float

from constructions.errors import CompileError, EpsilonError, TooLongError
from constructions.from_sympy import from_sympy
from constructions.petrov2024.kolmogorov import Code, most_digits
from verify import Box, ExpressionTarget, Head, Layer, Prefix, Transformer
from verify.ball import Ball
from verify.cells import Cells
from verify.polynomial import sup_norm
from verify.sequences import Sequences

__all__ = [
    "Grid",
    "SequenceProposal",
    "Slots",
    "assemble",
    "compile_sequence",
    "flat_expressions",
    "modulus",
    "sequence_target",
]

SEPARATION = 40.0
"""A: how far below its neighbours lie in the logits of a code."""


@dataclass(frozen=True)
class Slots:
    """Where things are in the residual stream, see the module's docstring."""

    d: int
    T: int
    grids: int
    k: int

    @property
    def one(self) -> int:
        return self.d + self.T

    @property
    def width(self) -> int:
        return self.d + self.T + 1 + 2 * self.grids + self.k

    def token(self, i: int) -> int:
        return i

    def position(self, p: int) -> int:
        """p = 0..T-1."""
        return self.d + p

    def digits(self, g: int) -> int:
        return self.one + 1 + g

    def code(self, g: int) -> int:
        return self.one + 1 + self.grids + g

    def out(self, c: int) -> int:
        return self.one + 1 + 2 * self.grids + c

    def row(self, *entries: tuple[int, float]) -> Float[np.ndarray, " width"]:
        """A vector with the given entries."""
        out = np.zeros(self.width)
        for slot, value in entries:
            out[slot] += value
        return out


@dataclass(frozen=True, eq=False)
class Grid:
    """2^K cells per coordinate of a token, starting at `start` (d,), of widths `width` (d,)."""

    code: Code
    start: Float[np.ndarray, " d"]
    width: Float[np.ndarray, " d"]

    def jumps(self, i: int) -> Float[np.ndarray, " jumps"]:
        """Where coordinate i passes from one cell to the next."""
        return self.start[i] + self.width[i] * np.arange(1, 2**self.code.K)

    def edges(self, i: int, box: Box) -> Float[np.ndarray, " edges"]:
        """The cells' ends, inside the box."""
        ends = self.start[i] + self.width[i] * np.arange(2**self.code.K + 1)
        return np.clip(ends, box.lo[i], box.hi[i])

    def boxes(self, box: Box) -> tuple[Float[np.ndarray, "codes n"], Float[np.ndarray, "codes n"]]:
        """Corners of the product cell of each code, cut off at the box."""
        index = self.code.cells()
        ends = [self.edges(i, box) for i in range(self.code.d)] * self.code.T
        lo = np.stack([e[index[:, q]] for q, e in enumerate(ends)], axis=1)
        hi = np.stack([e[index[:, q] + 1] for q, e in enumerate(ends)], axis=1)
        return lo, hi


@dataclass(frozen=True, eq=False)
class SequenceProposal:
    """A model and a prefix proposed for a sequence function. Nothing here is believed: `verify.prove_sequences` decides.

    domain: the sequences, with the exceptional set left out where there is one; cuts: per coordinate of a token, where a proof
    should cut; modulus: sup over the cells of |f - f(centre)|; grid: sizes and parameters.
    """

    model: Transformer
    prefix: Prefix
    target: ExpressionTarget
    domain: Sequences
    eps: float
    cuts: tuple[Float[np.ndarray, " cuts"], ...] | None
    modulus: float
    grid: dict[str, Any]

    @property
    def length(self) -> int:
        """Prefix tokens in total, over layers and heads."""
        return self.prefix.length


def sequence_target(f: Any, T: int, box: Box) -> tuple[ExpressionTarget, int]:
    """The kernel's target and the number k of outputs per token, from T lists of k expressions, or T k expressions in a row.

    Symbols are named as `Sequences(T, box).names`. Raises CompileError where their number does not fit, FreeSymbolError for others.
    """
    flat = flat_expressions(f)
    if not flat or len(flat) % T:
        raise CompileError(
            f"f: {len(flat)} expressions for {T} tokens. Pass T lists of k expressions, one list per token, or T k expressions."
        )
    table = from_sympy(tuple(sp.sympify(e) for e in flat), list(Sequences(T, box).names))
    return ExpressionTarget(table), len(flat) // T


def flat_expressions(f: Any) -> list[Any]:
    """The expressions of a nested list (or a matrix, or a single one), in order."""
    if isinstance(f, sp.MatrixBase):
        return f.flat()
    if isinstance(f, (list, tuple)):
        return [e for part in f for e in flat_expressions(part)]
    return [f]


def modulus(target: ExpressionTarget, grid: Grid, box: Box) -> tuple[float, Float[np.ndarray, "codes outputs"]]:
    """sup over all cells of |f - f(centre)|, bounded by Taylor models, and the values at the centres."""
    lo, hi = grid.boxes(box)
    values = target.evaluate(lo + (hi - lo) * 0.5)
    worst = 0.0
    with np.errstate(all="ignore"):
        for start in range(0, len(lo), 8192):
            part = slice(start, start + 8192)
            series = target.series(Cells.boxes(lo[part], hi[part]), 2)
            for i in range(target.outputs):
                first = series.parts[i][0]
                assert first is not None
                centre = first - Ball.exact(values[part, i : i + 1])
                size = sup_norm([centre, *series.parts[i][1:]], lo.shape[1]) + series.remainder[:, i]
                worst = max(worst, float(np.where(np.isnan(size), np.inf, size).max()))
    return worst, values


def compile_sequence(
    f: Any,
    T: int,
    box: Box,
    eps: float,
    *,
    measure: float = 1e-2,
    K: int | None = None,
    max_tokens: int = 300_000,
) -> SequenceProposal:
    """A transformer of T + 2 attention layers within eps of a sequence function off an exceptional set.

    f: T lists of k SymPy expressions (or T k in a row) in the names of `Sequences(T, box)`: x1, x2, ... for one coordinate per token. box:
    of one token. eps: sup norm off the exceptional set, maximum over tokens and outputs. measure: relative measure that the exceptional
    set may have. K: binary digits per coordinate; by default the fewest with a modulus below eps.

    Raises CompileError (with the K that fits) where float64 or max_tokens do not allow the digits needed, or where the measure is too
    small for the logits of layer 1.
    """
    if not (np.isfinite(eps) and eps > 0):
        raise EpsilonError(value=eps)
    if not 0 < measure < 1:
        raise CompileError(f"measure = {measure!r} is not a fraction of the domain. Pass a number between 0 and 1.")
    target, k = sequence_target(f, T, box)
    grid, size, values = _digits_for(target, T, box, eps, K, max_tokens)
    code = grid.code
    reach = log(40 * code.d * code.size)
    sharpness = max(code.T * code.d * reach / measure, 4 * reach)
    half = reach / (2 * sharpness) * grid.width
    gaps = [(i, float(c), float(half[i])) for i in range(code.d) for c in grid.jumps(i)]
    _refuse_blurred(grid, sharpness, measure)
    model, prefix = assemble((grid,), (values,), k, sharpness)
    notes = {"K": code.K, "codes": code.size, "sharpness": sharpness, "half_width": half.tolist(), "layers": T + 2}
    return SequenceProposal(model, prefix, target, Sequences(T, box, gaps), eps, None, size, notes)


def _digits_for(
    target: ExpressionTarget, T: int, box: Box, eps: float, K: int | None, max_tokens: int
) -> tuple[Grid, float, np.ndarray]:
    """The fewest digits whose cells have a modulus below eps, less what tails and rounding take."""
    lo, hi = box.bounds
    digits = K or 1
    while True:
        code = Code(T, box.dimension, digits)
        if (needed := tokens_needed(code)) > max_tokens:
            raise TooLongError(needed=needed, max_tokens=max_tokens)
        grid = Grid(code, lo, (hi - lo) / 2**digits)
        reached, values = modulus(target, grid, box)
        if K is not None or reached <= eps * (1 - 1e-3):
            return grid, reached, values
        digits = _next(code, reached, eps, max_tokens)


def tokens_needed(code: Code) -> int:
    """Prefix tokens of all T + 2 layers."""
    return code.T * (code.size + 1) + code.d * 2**code.K + 1


def _next(code: Code, reached: float, eps: float, max_tokens: int) -> int:
    """One digit more, unless it is clear that the modulus cannot come down to eps.

    The way from a cell's centre to a point of it passes through the centre of a cell of half the width: the modulus halves with each
    digit at best. Its bound by Taylor models may be up to about three times too large: 1.5 digits.
    """
    wanted = code.K + max(1, ceil(log2(reached / eps) - 1.5)) if reached < inf else code.K + 1
    most = most_digits() // (code.T * code.d)
    if wanted > most:
        cause = f"the modulus of f on cells: K = {wanted} binary digits are needed and float64 logits carry K T d <= {most_digits()}"
        raise EpsilonError(value=eps, reachable=reached * 2.0 ** (code.K - most) * 1.5, dominating=cause)
    if (needed := tokens_needed(Code(code.T, code.d, wanted))) > max_tokens:
        fits = max(K for K in range(code.K, wanted) if tokens_needed(Code(code.T, code.d, K)) <= max_tokens)
        larger = f"a larger eps (K = {fits} fits and reaches about {reached * 2.0 ** (code.K - fits):.3g})"
        raise TooLongError(needed=needed, max_tokens=max_tokens, options=(larger, f"max_tokens={needed}"))
    return code.K + 1


def _refuse_blurred(grid: Grid, sharpness: float, measure: float) -> None:
    """Layer 1's logits have three terms of total size 3/4 B 4^K; keep their rounding, 20 u of that, below 0.1."""
    size = 0.75 * sharpness * 4.0**grid.code.K
    if 20 * 2.0**-53 * size > 0.1:
        least = measure * 20 * 2.0**-53 * size / 0.1
        raise CompileError(
            f"measure = {measure:g} needs logits of size {size:.3g} in layer 1, which float64 does not resolve. Pass measure >= {least:.3g}."
        )


def assemble(
    grids: Sequence[Grid], values: Sequence[Float[np.ndarray, "codes outputs"]], k: int, sharpness: float
) -> tuple[Transformer, Prefix]:
    """The T + 2 layers for one grid, or for G parallel ones whose outputs are averaged. values: f at the cells, token-major."""
    code = grids[0].code
    slots = Slots(code.d, code.T, len(grids), k)
    embedding = np.zeros((slots.width, code.d))
    embedding[: code.d] = np.eye(code.d)
    positions = np.zeros((code.T, slots.width))
    for p in range(code.T):
        positions[p, slots.position(p)] = 1.0
    readout = np.stack([slots.row((slots.out(c), 1.0)) for c in range(k)])
    parts = [_digit_layer(slots, grids, sharpness), _sum_layer(slots)]
    parts += [_output_layer(slots, grids, values, p) for p in range(code.T)]
    layers = tuple(Layer(tuple(h for h, _, _ in part), residual=True) for part in parts)
    keys = tuple(tuple(a for _, a, _ in part) for part in parts)
    every = tuple(tuple(v for _, _, v in part) for part in parts)
    model = Transformer(embedding, slots.row((slots.one, 1.0)), layers, readout, positions)
    return model, Prefix(keys, every)


_Part = list[tuple[Head, np.ndarray, np.ndarray]]


def _digit_layer(slots: Slots, grids: Sequence[Grid], sharpness: float) -> _Part:
    """Layer 1: cells to digits. Query (x_i - m, 1) with m the middle of the cells, logits 2 beta (c - m)(x - m) - beta (c - m)^2."""
    out: _Part = []
    for g, grid in enumerate(grids):
        cells = 2**grid.code.K
        for i in range(slots.d):
            middle = grid.start[i] + grid.width[i] * cells / 2
            query = np.stack([slots.row((slots.token(i), 1.0), (slots.one, -middle)), slots.row((slots.one, 1.0))])
            offset = np.arange(cells) - (cells - 1) / 2  # (c - m) / h
            keys = np.stack([2 * sharpness * offset / grid.width[i], -sharpness * offset**2], axis=1)
            output = slots.row((slots.digits(g), 1.0))[:, None]
            out.append((Head(query, output), keys, grid.code.digit_values(i)[:, None]))
    return out


def _sum_layer(slots: Slots) -> _Part:
    """Layer 2: one head over the data tokens, score -p ln 2, and a null token of score -T ln 2; values: the digits."""
    query = slots.row((slots.one, 1.0))[None]
    key = slots.row(*((slots.position(p), -(p + 1) * log(2)) for p in range(slots.T)))[None]
    value = np.stack([slots.row((slots.digits(g), 1.0)) for g in range(slots.grids)])
    output = np.stack([slots.row((slots.code(g), 1.0)) for g in range(slots.grids)], axis=1)
    return [(Head(query, output, key, value), np.array([[-slots.T * log(2)]]), np.zeros((1, slots.grids)))]


def _output_layer(slots: Slots, grids: Sequence[Grid], values: Sequence[np.ndarray], p: int) -> _Part:
    """Layer p + 3 (p from 0): the codes' values at position p; elsewhere the null token of value 0 takes all the weight."""
    out: _Part = []
    output = np.stack([slots.row((slots.out(c), 1.0)) for c in range(slots.k)], axis=1)
    for g, grid in enumerate(grids):
        count, gap = grid.code.size, grid.code.gap
        centre = (1 - gap) / 2
        query = np.stack(
            [
                slots.row((slots.code(g), 1.0), (slots.one, -centre)),
                slots.row((slots.one, 1.0)),
                slots.row((slots.position(p), 1.0)),
            ]
        )
        m = np.arange(count) - (count - 1) / 2
        top = SEPARATION * (count**2 / 4 + 1)
        null = [[0.0, top, -top - SEPARATION]]
        keys = np.concatenate([np.stack([2 * SEPARATION * m / gap, -SEPARATION * m**2, np.zeros(count)], axis=1), null])
        own = values[g][:, p * slots.k : (p + 1) * slots.k] / len(grids)
        out.append((Head(query, output), keys, np.concatenate([own, np.zeros((1, slots.k))])))
    return out
