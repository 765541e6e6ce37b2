"""An independent 50-digit oracle: reads a saved artefact's bytes by itself and evaluates head and target with mpmath.

No code of the kernel is used: the safetensors container, the model's formula and the expression table are all read anew from
their written description. What a certificate says must agree with what this file computes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import mpmath
import numpy as np

__all__ = ["Oracle", "expression_values", "read_container"]

mp = mpmath.mp.clone()
mp.dps = 50

Number = Any  # an mpmath number of this file's own context


def read_container(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays and metadata of a safetensors file: 8 bytes of length, a JSON header, raw little-endian data."""
    data = Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    body = data[8 + length :]
    metadata = header.pop("__metadata__", {})
    arrays = {}
    for name, entry in header.items():
        assert entry["dtype"] == "F64", name
        start, end = entry["data_offsets"]
        arrays[name] = np.frombuffer(body[start:end], dtype="<f8").reshape(entry["shape"])
    return arrays, metadata


def exact(x: float) -> Number:
    """A float64 as the number it is."""
    return mp.mpf(float(x))


def _rational(text: str) -> Number:
    p, _, q = text.partition("/")
    return mp.mpf(int(p)) / mp.mpf(int(q or "1"))


def _real(x: Number) -> Number:
    """A real value, or NaN where the real function is undefined."""
    return mp.nan if isinstance(x, mp.mpc) or not mp.isfinite(x) else x


def _power(base: Number, text: str) -> Number:
    p = Fraction(text)
    if p.denominator == 1:
        return mp.nan if base == 0 and p < 0 else mp.power(base, int(p))
    if base < 0 or (base == 0 and p < 0):
        return mp.nan
    return mp.mpf(0) if base == 0 else mp.power(base, _rational(text))


def _unary(op: str, x: Number) -> Number:
    if (op == "log" and x <= 0) or (op in ("asin", "acos", "atanh") and abs(x) > 1) or (op == "acosh" and x < 1):
        return mp.nan
    if op == "atanh" and abs(x) == 1:
        return mp.nan
    return _real(abs(x) if op == "abs" else getattr(mp, op)(x))


def expression_values(table: dict[str, Any], point: Sequence[Number]) -> list[Number]:
    """Values of a stored expression ({"nodes": [[op, args, value], ...], "outputs": [...]}) at one point; NaN: undefined."""
    values: list[Number] = []
    for op, indices, value in table["nodes"]:
        args = [values[i] for i in indices]
        if op == "select":
            condition = args[0]
            hit = condition > 0 if value == ">" else condition >= 0
            values.append(mp.nan if mp.isnan(condition) else args[1] if hit else args[2])
        elif any(mp.isnan(a) for a in args):
            values.append(mp.nan)
        elif op == "var":
            values.append(point[int(value)])
        elif op == "const":
            values.append(+mp.pi if value == "pi" else +mp.e if value == "e" else _rational(value))
        elif op == "add":
            values.append(mp.fsum(args))
        elif op == "mul":
            values.append(mp.fprod(args))
        elif op in ("min", "max"):
            values.append(min(args) if op == "min" else max(args))
        elif op == "pow":
            values.append(_power(args[0], value))
        else:
            values.append(_unary(op, args[0]))
    return [values[o] for o in table["outputs"]]


def _norm(difference: list[Number], name: str) -> Number:
    sizes = [abs(d) for d in difference]
    return mp.sqrt(mp.fsum(s * s for s in sizes)) if name == "l2" else max(sizes) if name == "linf" else mp.fsum(sizes)


class Oracle:
    """One saved artefact of a single layer with a single head, in exact weights and 50-digit arithmetic."""

    def __init__(self, path: str | Path) -> None:
        self.arrays, metadata = read_container(path)
        self.document = json.loads(metadata["document"])
        assert [row["heads"] for row in self.document["layers"]] == [1]
        self.eps = float.fromhex(self.document["eps"])
        self.lo = np.array([float.fromhex(a) for a in self.document["domain"]["lo"]])
        self.hi = np.array([float.fromhex(a) for a in self.document["domain"]["hi"]])
        head = "model.layers.0.heads.0"
        embedding, offset, query, output, readout = (
            self.arrays[name]
            for name in ("model.embedding", "model.offset", f"{head}.query", f"{head}.output", "model.readout")
        )
        keys, values = self.arrays["prefix.0.0.keys"], self.arrays["prefix.0.0.values"]
        self.slopes = self._chain(keys, query, embedding)
        self.biases = [row[0] for row in self._chain(keys, query, offset[:, None])]
        self.values = self._chain(values, output.T, readout.T)

    @staticmethod
    def _chain(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> list[list[Number]]:
        """The exact product a b c (at 50 digits); products with zero are left out."""
        inner = [
            [mp.fsum(exact(x) * exact(y) for x, y in zip(row, column, strict=True) if x and y) for column in c.T]
            for row in b
        ]
        return [
            [mp.fsum(exact(x) * inner[i][k] for i, x in enumerate(row) if x) for k in range(c.shape[1])] for row in a
        ]

    def head(self, point: Sequence[float]) -> list[Number]:
        """The model's exact value at one float64 point."""
        x = [exact(p) for p in point]
        logits = [
            b + mp.fsum(a * t for a, t in zip(row, x, strict=True))
            for row, b in zip(self.slopes, self.biases, strict=True)
        ]
        top = max(logits)
        weights = [mp.exp(s - top) for s in logits]
        total = mp.fsum(weights)
        return [
            mp.fsum(w * v[i] for w, v in zip(weights, self.values, strict=True)) / total
            for i in range(len(self.values[0]))
        ]

    def target(self, point: Sequence[float]) -> list[list[Number]]:
        """Values the target may take at a point, component by component: one, or several (at a tie, or for a class of
        functions the two extreme ones); NaN where it is undefined."""
        meta = self.document["target"]
        x = [exact(p) for p in point]
        if meta["kind"] == "expression":
            return [[v] for v in expression_values(meta["expression"], x)]
        if meta["kind"] == "lipschitz":
            return self._extremes(meta, x)
        axes = [self.arrays[f"target.axis{i}"] for i in range(meta["dimension"])]
        values = self.arrays["target.values"]
        outputs = range(values.shape[-1])
        if meta["interpolation"] == "nearest":
            choices = [
                [j for j in range(len(a)) if abs(x[i] - exact(a[j])) == min(abs(x[i] - exact(t)) for t in a)]
                for i, a in enumerate(axes)
            ]
            return [[exact(values[(*index, o)]) for index in product(*choices)] for o in outputs]
        cells = [
            min(max(int(np.searchsorted(a, p, side="right")) - 1, 0), len(a) - 2)
            for a, p in zip(axes, point, strict=True)
        ]
        parts = [(t - exact(a[k])) / (exact(a[k + 1]) - exact(a[k])) for t, a, k in zip(x, axes, cells, strict=True)]
        found = []
        for o in outputs:
            terms = []
            for corner in product((0, 1), repeat=len(axes)):
                weight = mp.fprod(t if c else 1 - t for t, c in zip(parts, corner, strict=True))
                terms.append(weight * exact(values[(*(k + c for k, c in zip(cells, corner, strict=True)), o)]))
            found.append([mp.fsum(terms)])
        return found

    def _extremes(self, meta: dict[str, Any], x: list[Number]) -> list[list[Number]]:
        """McShane's largest and least extension of the recorded values: both belong to the class if the data do."""
        constant = exact(float.fromhex(meta["lipschitz"]))
        points, values = self.arrays["target.points"], self.arrays["target.values"]
        away = [constant * _norm([t - exact(z) for t, z in zip(x, row, strict=True)], meta["norm"]) for row in points]
        return [
            [
                min(exact(v) + d for v, d in zip(column, away, strict=True)),
                max(exact(v) - d for v, d in zip(column, away, strict=True)),
            ]
            for column in values.T
        ]

    def error(self, point: Sequence[float]) -> Number:
        """|head - target| at a point, largest over components and admissible values; NaN where the target is undefined."""
        worst = mp.mpf(0)
        for g, candidates in zip(self.head(point), self.target(point), strict=True):
            for f in candidates:
                if mp.isnan(f):
                    return mp.nan
                worst = max(worst, abs(g - f))
        return worst

    def largest_error(self, points: np.ndarray, refine: int = 3) -> tuple[Number, list[float]]:
        """The largest error at these points of the domain and at a few between the worst ones' neighbours: a lower bound of the
        sup error, with the point where it is attained."""
        found = [(self.error(p), list(map(float, p))) for p in points]
        found = [pair for pair in found if not mp.isnan(pair[0])]
        if not found:
            return mp.mpf(0), list(map(float, self.lo))
        best = max(found, key=lambda pair: pair[0])
        step = (self.hi - self.lo) / max(2.0, len(points) ** (1 / len(self.lo)))
        for _ in range(refine):  # a pattern search around the worst point
            centre = np.array(best[1])
            moves = np.concatenate([np.diag(step), -np.diag(step)])
            near = [(self.error(p), list(map(float, p))) for p in np.clip(centre + moves, self.lo, self.hi)]
            near = [pair for pair in near if not mp.isnan(pair[0])] + [best]
            best = max(near, key=lambda pair: pair[0])
            step = step / 2
        return best
