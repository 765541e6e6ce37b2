"""A proved lower bound of one token's term e^{<q, e>} (gap + <u, e>) over all noise |e| <= r, by bisection in ball arithmetic."""

from __future__ import annotations

import heapq
import math
import time

import flint

from verify.precision import arb_from_bounds

__all__ = ["OutOfTime", "TokenTerm", "least_term"]

_MOST_PIECES = 20_000


class OutOfTime(RuntimeError):
    """The deadline passed in the middle of a proof."""


class TokenTerm:
    """h(t) = e^{-k cos t} (gap - a cos t - b sin t), t in [0, pi], b >= 0: the least value of the term over noise of given <q, e>.

    k = r|q|, a = r<u, q>/|q|, b = r|u - <u, q>q/|q|^2|. For e of norm <= r with <q, e> = -k cos t the other part of e, orthogonal to q, has
    norm <= r sin t and changes <u, e> by at most b sin t; hence the term is >= h(t), and every <q, e> in [-k, k] is some -k cos t.
    """

    def __init__(self, gap: flint.arb, k: flint.arb, a: flint.arb, b: flint.arb) -> None:
        self.gap, self.k, self.a, self.b = gap, k, a, b

    def value(self, t: flint.arb) -> flint.arb:
        """h(t)."""
        sin, cos = t.sin_cos()
        return (-self.k * cos).exp() * (self.gap - self.a * cos - self.b * sin)

    def slope(self, t: flint.arb) -> flint.arb:
        """h'(t)."""
        sin, cos = t.sin_cos()
        factor = self.gap - self.a * cos - self.b * sin
        return (-self.k * cos).exp() * (self.k * sin * factor + self.a * sin - self.b * cos)

    def below(self, low: float, high: float) -> tuple[flint.arb, flint.arb, flint.arb]:
        """A lower bound of h on [low, high], h at the middle, and e^{-k cos} there.

        The mean value form h(c) + h'([low, high]) ([low, high] - c) and the plain interval evaluation; the larger lower end counts.
        """
        middle = flint.arb(0.5 * (low + high))
        piece = arb_from_bounds(low, high)
        at = self.value(middle)
        form = at + self.slope(piece) * (piece - middle)
        plain = self.value(piece)
        ends = [bound.lower() for bound in (form, plain) if bound.is_finite()]
        bound = max(ends) if ends else flint.arb("-inf")
        return bound, at, (-self.k * middle.cos()).exp()


def least_term(term: TokenTerm, tolerance: float, deadline: float) -> flint.arb | None:
    """An exact number <= h on [0, pi], within `tolerance` (relative to the size of the term where it is least) of the minimum; coarser
    after 20000 pieces. None where nothing finite comes out. Raises OutOfTime.
    """
    top = math.nextafter(math.pi, 4.0)  # a float above pi: the interval covers [0, pi]
    size = abs(term.gap) + abs(term.a) + abs(term.b)
    best: flint.arb | None = None
    scale = flint.arb(0)
    # bounds are exact arbs; the counter decides between equal ones
    bound, at, weight = term.below(0.0, top)
    if not (term.gap.is_finite() and term.k.is_finite() and size.is_finite()):
        return None
    heap: list[tuple[_Ordered, int, float, float]] = [(_Ordered(bound), 0, 0.0, top)]
    if at.is_finite():
        best, scale = at.upper(), (weight * size).lower()
    for count in range(1, _MOST_PIECES):
        if count % 64 == 0 and time.monotonic() > deadline:
            raise OutOfTime
        lowest = heap[0][0].bound
        if best is not None and lowest.is_finite() and best - lowest <= tolerance * scale:
            return lowest
        _, _, low, high = heapq.heappop(heap)
        middle = 0.5 * (low + high)
        if not low < middle < high:
            return lowest if lowest.is_finite() else None
        for number, (start, end) in enumerate(((low, middle), (middle, high))):
            bound, at, weight = term.below(start, end)
            heapq.heappush(heap, (_Ordered(bound), 2 * count + number, start, end))
            if at.is_finite() and (best is None or at.upper() < best):
                best, scale = at.upper(), (weight * size).lower()
    lowest = heap[0][0].bound
    return lowest if lowest.is_finite() else None


class _Ordered:
    """Exact arbs with a total order for the heap."""

    __slots__ = ("bound",)

    def __init__(self, bound: flint.arb) -> None:
        self.bound = bound

    def __lt__(self, other: _Ordered) -> bool:
        return bool(self.bound < other.bound)
