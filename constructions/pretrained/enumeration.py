"""The queries of a head of layer 0 that the programmes for its keys look at, and what is demanded of the keys there.

Where positions are rotations the programmes look at all queries. Where they are added to the embedding every position has a whole vocabulary of queries: the
programmes look at some positions, then all others are passed through, and their queries whose demands are violated most join the next programme.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from constructions.pretrained.separation import SLACK, Demands, NoKeys, Report, Separated, separate, violations
from constructions.pretrained.site import Site, SiteError
from verify.encoder_layer import EncoderLayer
from verify.first_layer import FirstLayer
from verify.projected import SINGLE, EnumeratedLayer, View
from verify.token_head import TokenHead

__all__ = ["Context"]


_FIRST_LOOKED_AT = (0, 1, 2, 8, 32, 128)
"""Positions of an encoder at which the first programme sees the whole vocabulary, and the last position with them."""
_JOIN, _PASSES = 40, 12
"""Queries of each other view that join the next programme at most; passes through all views."""


@dataclass(frozen=True, eq=False)
class Context:
    """What demands of all kinds are made from.

    queries: those looked at, (queries, width), rows: whose they are, numbers of tokens, data: the largest data logit of each; turned by the angles of
    cosines, sines, (positions, width / 2); tokens: of the prefix; largest: above |u| + |v|; siblings: queries of other heads with their own tokens' logits.
    """

    site: Site
    layer: EnumeratedLayer
    tokens: int
    rows: Int[np.ndarray, " queries"]
    queries: Float[np.ndarray, "queries width"]
    data: Float[np.ndarray, " queries"]
    cosines: Float[np.ndarray, "positions pairs"]
    sines: Float[np.ndarray, "positions pairs"]
    largest: float
    siblings: tuple[tuple[np.ndarray, np.ndarray], ...]

    @staticmethod
    def of(site: Site, layer: EnumeratedLayer, values: np.ndarray, eps: float) -> Context:
        """Raises SiteError where float32's softmax alone costs more than eps, and where the layer has too few positions."""
        head, positions = site.head or 0, _positions(site, len(values))
        group = layer.group(head)
        largest_data, largest_value = layer.largest_value(group, positions), float(np.abs(values).max())
        site.refuse_mixing(eps, largest_data)
        floor = (7 * (site.length + len(values)) + 200) * SINGLE * max(largest_data, largest_value)
        if floor >= 0.75 * eps:
            raise SiteError(
                f"eps = {eps:g}: softmax over {site.length} + {len(values)} tokens with values up to {largest_value:.3g} may round by {floor:.2g} in float32; "
                "raise eps, or ask for smaller values or shorter texts"
            )
        views = tuple(_looked_at(site, layer, positions))
        data_of = layer.data_logits(group, positions)
        if isinstance(layer, EncoderLayer):
            different, turns = views, (views[0].cosines, views[0].sines)
        else:  # all views are of the same queries, turned by other angles
            different = views[:1]
            turns = (np.concatenate([v.cosines for v in views]), np.concatenate([v.sines for v in views]))
        data = np.concatenate([data_of(view) for view in different])
        queries = np.concatenate([view.queries.exact for view in different])
        siblings = _siblings(layer, head) if site.exclusive and isinstance(layer, FirstLayer) else ()
        rows = np.tile(np.arange(layer.vocabulary), len(different))
        largest = largest_data + largest_value
        return Context(site, layer, len(values), rows, queries, data, *turns, largest, siblings)

    @property
    def positions(self) -> range:
        """Of queries: from 0 (explicit position_ids) or from the prefix length (a cache shifts them) on."""
        return _positions(self.site, self.tokens)

    def separate(
        self, make: Callable[[Context], Demands], report: Report, seed: int = 0, tolerance: float = SLACK
    ) -> tuple[Separated, Context]:
        """Keys for the demands on all queries, `make` of a context, and the context with the queries that had to be looked at. Raises NoKeys."""
        context = self
        for n in range(_PASSES):
            found = separate(make(context), seed, report, tolerance)
            if not isinstance(self.layer, EncoderLayer):
                return found, context
            worst, more = context._others(make, found.keys, tolerance)
            report(
                min(0.9, n / 5), f"keys: {len(more.rows)} queries looked at, worst violation elsewhere {worst:.2f} nats"
            )
            if worst <= tolerance:
                return found, context
            context = more
        raise NoKeys(f"after {_PASSES} passes through all positions a demand is still violated by {worst:.2f} nats")

    def _others(self, make: Callable[[Context], Demands], keys: np.ndarray, tolerance: float) -> tuple[float, Context]:
        """The largest violation over all views, and the context with the most violated queries of each."""
        data_of = self.layer.data_logits(self.layer.group(self.site.head or 0), self.positions)
        everyone, worst = np.arange(self.layer.vocabulary), -math.inf
        parts = [(self.rows, self.queries, self.data)]
        for view in self.layer.views(self.site.head or 0, self.positions):
            here = replace(self, rows=everyone, queries=view.queries.exact, data=data_of(view))
            missing = violations(make(here), keys)
            worst = max(worst, float(missing.max()))
            few = np.argsort(-missing)[:_JOIN]
            few = few[missing[few] > 0.2 * tolerance]
            parts.append((few, here.queries[few], here.data[few]))
        rows, queries, data = (np.concatenate(x) for x in zip(*parts, strict=True))
        return worst, replace(self, rows=rows, queries=queries, data=data)

    def demands(self, classes: Int[np.ndarray, " queries"], span: float, eps: float, allowance: float) -> Demands:
        """For one key a class; see `layer0`."""
        extra = SLACK + allowance
        gap = math.log(8 * max(1, self.tokens - 1) * span / eps) + extra
        floor = self.data + math.log(8 * self.site.length * self.largest / eps) + extra
        below = math.log(self.tokens / self.site.spill) + extra
        siblings = tuple((q, own - below) for q, own in self.siblings)
        return Demands(self.queries, classes, max(gap, 1.0), floor, siblings, self.cosines, self.sines)

    def prefix(self, keys: np.ndarray, codes: np.ndarray, base: np.ndarray, along: np.ndarray) -> TokenHead:
        """Rounded to float32, as it will be cached."""
        single, values = (x.astype(np.float32).astype(np.float64) for x in (keys, base + codes[:, None] * along))
        frequencies, positions = self.site.frequencies.astype(np.float64), self.positions
        head, length = self.site.head or 0, self.site.length
        return TokenHead(head, single, values, codes, base, along, frequencies, positions[0], positions[-1], length)


def _positions(site: Site, tokens: int) -> range:
    """All positions of a text behind so many tokens, and without them. Raises SiteError where a layer has fewer."""
    layer = site.first_layer
    if isinstance(layer, EncoderLayer) and site.length + tokens > len(layer.position):
        raise SiteError(
            f"length = {site.length}: with {tokens} prefix tokens the last position would be {site.length + tokens - 1}, the model has {len(layer.position)}; "
            f"pass Site(length={max(1, len(layer.position) - tokens)}) or less"
        )
    return range(site.length + tokens)


def _looked_at(site: Site, layer: EnumeratedLayer, positions: range) -> Iterator[View]:
    if not isinstance(layer, EncoderLayer):
        yield from layer.views(site.head or 0, positions)
        return
    for p in sorted({*(p for p in _FIRST_LOOKED_AT if p in positions), positions[-1]}):
        yield from layer.views(site.head or 0, range(p, p + 1))


def _siblings(layer: FirstLayer, head: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    keys, scale = layer.keys(layer.group(head)), 1 / math.sqrt(layer.width)
    found = []
    for h in layer.siblings(head):
        q = layer.queries(h).exact
        found.append((q * 1.0, (q * keys.exact).sum(axis=1) * scale))
    return tuple(found)
