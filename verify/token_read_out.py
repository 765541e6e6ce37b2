"""A function of a projective read-out, computed by a head of the first layer for every text.

t(q) = <r, q> / <c, q> needs no constant coordinate, only <c, q> > 0 on all queries, which the enumeration sees. phi = f(t), with f enclosed in ball
arithmetic on `CELLS` cells of its interval, t of the real query. Of <r, q> and <c, q> float64 misses
  - by the inner product and the turned r, (width + 16) 2^-53 |q| |r|;
  - by q itself, which is float64's own W x and may have cancelled: `Projected.uncertain`.
With a and b their sums for r and c, and b <= <c, q> / 2, t is known within 2 (a + |t| b) / <c, q>.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from verify.ball import Ball
from verify.expression import Expression
from verify.jets import jets
from verify.projected import EnumeratedLayer, View, turned_back
from verify.statement import StatementError
from verify.stored_arrays import stored_array, stored_number
from verify.token_head import Target
from verify.token_trigger import HeadStatement

__all__ = ["CELLS", "TokenReadOut", "read_out", "turned"]

CELLS = 1 << 14


def read_out(
    queries: Float[np.ndarray, "tokens width"], backs: tuple[np.ndarray, np.ndarray]
) -> tuple[Float[np.ndarray, "tokens positions"], Float[np.ndarray, "tokens positions"]]:
    """t and <c, q> for tokens at positions; backs: r and c turned back to each position, (positions, width) each."""
    r, c = backs
    positive = queries @ c.T
    with np.errstate(all="ignore"):
        return (queries @ r.T) / positive, positive


def turned(view: View, r: Float[np.ndarray, " width"], c: Float[np.ndarray, " width"]) -> tuple[np.ndarray, np.ndarray]:
    """r and c turned back to each position of a view."""
    return turned_back(r, view.cosines, view.sines), turned_back(c, view.cosines, view.sines)


@dataclass(frozen=True, eq=False)
class TokenReadOut(HeadStatement):
    """phi = expression(t), t = <read_out, q>/<positive, q> in [lo, hi] for every query q (otherwise nothing is proved)."""

    kind: ClassVar[str] = "token-read-out"

    read_out: Float[np.ndarray, " width"]
    positive: Float[np.ndarray, " width"]
    expression: Expression
    lo: float
    hi: float

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("read_out", "positive"):
            array = stored_array(name, getattr(self, name), self.prefix.offset.shape)
            if not (np.abs(array) <= 1e9).all():
                raise StatementError(f"{name}: has an entry of size {np.abs(array).max():.3g}, at most 1e9")
            object.__setattr__(self, name, array)
        if not isinstance(self.expression, Expression):
            raise StatementError(f"expression: {type(self.expression).__name__}, expected a verify Expression")
        if self.expression.dimension != 1 or len(self.expression.outputs) != 1:
            raise StatementError(f"expression: {self.expression}, expected one value of one variable")
        for name in ("lo", "hi"):
            stored_number(name, getattr(self, name))
        if not (-1e9 <= self.lo < self.hi <= 1e9 and self.hi - self.lo >= 1e-6 * max(abs(self.lo), abs(self.hi))):
            raise StatementError(
                f"lo = {self.lo}, hi = {self.hi}: expected an interval, not shorter than 1e-6 of its ends"
            )

    @property
    def sentence(self) -> str:
        return f"head {self.prefix.head} of layer 0 computes {self.expression} of a read-out in [{self.lo:g}, {self.hi:g}]: {self._where()}"

    def target(self, layer: EnumeratedLayer) -> Target:
        sizes = np.linalg.norm(self.read_out), np.linalg.norm(self.positive)
        edges = np.linspace(self.lo, self.hi, CELLS + 1)
        range_of = jets(
            self.expression, Ball.between(edges[:-1], edges[1:])[:, None], np.ones((CELLS, 1)), 0, strict=True
        )[0][0]
        assert range_of is not None
        low, high = (np.broadcast_to(x.reshape(-1), (CELLS,)) for x in (range_of.lower(), range_of.upper()))
        step = (self.hi - self.lo) / CELLS
        unit = (layer.width + 16) * 2.0**-53 * 1.001

        def phi(view: View, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            queries = view.queries.exact[rows]
            backs = turned(view, self.read_out, self.positive)
            t, positive = read_out(queries, backs)
            norms = np.linalg.norm(queries, axis=1)[:, None]
            with np.errstate(all="ignore"):
                a, b = (
                    unit * norms * size + view.queries.uncertain(rows, back)
                    for size, back in zip(sizes, backs, strict=True)
                )
                pad = 2 * (a + np.abs(t) * b) / positive
                inside = (positive > 2 * b) & (t - pad >= self.lo) & (t + pad <= self.hi) & (pad <= 0.25 * step)
                # the edges of cells are rounded by less than a pad of 1e-3 step
                i, j = (
                    np.clip(np.where(inside, (t + d - self.lo) / step, 0.0), 0, CELLS - 1).astype(int)
                    for d in (-pad - 1e-3 * step, pad + 1e-3 * step)
                )
            return (
                np.where(inside, np.minimum(low[i], low[j]), np.nan),
                np.where(inside, np.maximum(high[i], high[j]), np.nan),
            )

        return phi

    def to_json(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        data, arrays = self._shared_json()
        data |= {"expression": self.expression.to_json(), "lo": float(self.lo).hex(), "hi": float(self.hi).hex()}
        return data, arrays | {"read_out": self.read_out, "positive": self.positive}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> TokenReadOut:
        return cls(
            *cls._shared_from(data, arrays),
            arrays["read_out"],
            arrays["positive"],
            Expression.from_json(data["expression"]),
            float.fromhex(data["lo"]),
            float.fromhex(data["hi"]),
        )
