"""A function of a projective read-out at a head of layer 0: values of a covering of its interval.

For t(q) = <r, q>/<c, q> with kappa = <c, q> > 0 on all queries, keys z + beta (2 y_j r - y_j^2 c) give weights proportional to exp(-beta kappa (t - y_j)^2):
the cell in which t lies wins, whatever kappa, which only sharpens. Midpoints y_j of N equal cells of width h and code_j the middle of f's range on its cell
leave an error of (oscillation of f on a cell)/2 and a little where cells meet (beta kappa_min h^2 >= `_SHARPNESS`).
  c: the vector of smallest max |c| with <c, R_p q> >= 1 on all queries. r: given, or the direction in which q/kappa varies most among the rotated pairs that
turn by less than 0.1 in all positions; scaled so that t fills [-1, 1].
  z, common to all keys, lifts the head over its data tokens and buries it for the siblings: a linear programme once beta is known.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from itertools import pairwise

import numpy as np
import sympy as sp

from constructions.from_sympy import from_sympy
from constructions.pretrained.enumeration import Context
from constructions.pretrained.layer0 import CompiledAtSite, notes_of, refuse_half_precision
from constructions.pretrained.separation import Demands, NoKeys
from constructions.pretrained.site import Site, SiteError, direction_of
from constructions.progress import reporting
from verify.projected import EnumeratedLayer, View, turned_back
from verify.token_read_out import TokenReadOut, read_out, turned

__all__ = ["compile_read_out"]

_SHARPNESS = 6.0
_MOST_TOKENS = 64
_DENSE = 4001
_SLOW = 0.1


def compile_read_out(
    f: sp.Expr,
    eps: float,
    site: Site,
    base: np.ndarray,
    along: np.ndarray,
    progress: bool | Callable[[float, str], None] | None = None,
) -> CompiledAtSite:
    """f: an expression in one variable, on [-1, 1]. Raises SiteError with the numbers where it cannot be done."""
    names = sorted(str(s) for s in f.free_symbols)
    if len(names) != 1:
        raise SiteError(
            f"f: {f} has the variables {', '.join(names) or 'none'}, expected one: the read-out, scaled to [-1, 1]"
        )
    expression = from_sympy([f], names)
    layer, started = site.first_layer, time.perf_counter()
    reach = float(np.abs(along).max())
    with reporting(progress) as report:
        count, codes = _covering(expression.evaluate, eps, reach)
        most = min(_MOST_TOKENS, math.ceil(1.5 * count) + 1)  # the proof may ask for more tokens
        context = Context.of(site, layer, base + np.resize(codes, most)[:, None] * along, eps)
        r, c, kappa = _directions(site, layer, context, report)
        for _ in range(3):
            codes = _values(expression.evaluate, count)
            context = Context.of(site, layer, base + codes[:, None] * along, eps)
            bumps, found = _keys(context, count, r, c, kappa, eps, report)
            keys = (found.keys[0] + bumps) * math.sqrt(layer.width)
            prefix = context.prefix(keys, codes, base, along)
            refuse_half_precision(site, layer, prefix)
            spill = site.spill if site.exclusive and layer.siblings(site.head or 0) else 1.0
            statement = TokenReadOut(prefix, layer.sha256, eps, spill, r, c, expression, -1.0, 1.0)
            report(0.95, f"proof over every token and position, {count} prefix tokens")
            verdict = statement.decide(weights=layer)
            count = math.ceil(1.2 * count)
            if verdict.proved or count > _MOST_TOKENS:
                break
    return CompiledAtSite(site, statement, verdict, notes_of(found, 0.0, time.perf_counter() - started))


def _values(f: Callable[[np.ndarray], np.ndarray], count: int) -> np.ndarray:
    """Middle of f's (sampled) range on each of `count` equal cells of [-1, 1]."""
    t = np.linspace(-1, 1, _DENSE)
    y = f(t[:, None])[:, 0]
    if not np.isfinite(y).all():
        raise SiteError(f"f: not finite at {t[~np.isfinite(y)][0]:.3g}, expected a function defined on [-1, 1]")
    edges = np.linspace(-1, 1, count + 1)
    cells = [y[(t >= a - 1e-9) & (t <= b + 1e-9)] for a, b in pairwise(edges)]
    return np.array([0.5 * (cell.min() + cell.max()) for cell in cells])


def _covering(f: Callable[[np.ndarray], np.ndarray], eps: float, reach: float) -> tuple[int, np.ndarray]:
    """The fewest equal cells on which f varies by less than 2 * 0.85 eps."""
    t = np.linspace(-1, 1, _DENSE)
    for count in range(1, _MOST_TOKENS + 1):
        codes = _values(f, count)
        cell = np.minimum(((t + 1) * count / 2).astype(int), count - 1)
        if reach * np.abs(f(t[:, None])[:, 0] - codes[cell]).max() <= 0.85 * eps:
            return count, codes
    y = f(t[:, None])[:, 0]
    steepest = int(np.abs(np.diff(y)).argmax())
    if reach * abs(y[steepest + 1] - y[steepest]) > 1.7 * eps:
        raise SiteError(
            f"f: jumps by {abs(y[steepest + 1] - y[steepest]):.3g} near t = {t[steepest]:.3g}. A head's output is continuous in the query, and of so many queries some are near "
            f"the jump: half of it is lost there. Raise eps above {0.5 * reach * abs(y[steepest + 1] - y[steepest]):.3g}, smooth f, or mark tokens instead (a set, a trigger)"
        )
    raise SiteError(f"eps = {eps:g}: more than {_MOST_TOKENS} prefix tokens would be needed; raise eps")


def _directions(
    site: Site, layer: EnumeratedLayer, context: Context, report: Callable[[float, str], None]
) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """r and c with t in [-1, 1], and the range of kappa."""
    q, slow = context.queries, np.tile(site.frequencies * len(context.positions) < _SLOW, 2)
    c = None if site.positive is None else direction_of("positive", site.positive, layer.width)
    if c is None:

        def above_one(of: Context) -> Demands:
            n = len(of.queries)
            return Demands(of.queries, np.zeros(n, int), 0.0, np.ones(n), (), of.cosines, of.sines)

        try:
            c = context.separate(above_one, report, tolerance=0.05)[0].keys[0]
        except NoKeys as error:
            raise SiteError(f"positive: {site!r} has no direction c with <c, q> > 0 on all queries: {error}") from error
    r = None if site.read_out is None else direction_of("read_out", site.read_out, layer.width)
    if r is None:
        if slow.sum() < 2:
            raise SiteError(
                f"length = {site.length}: every rotated pair turns by more than {_SLOW} in so many positions; pass Site(read_out=...)"
            )
        part = (q / (q @ c)[:, None])[:, slow]
        r = np.zeros(layer.width)
        r[slow] = np.linalg.svd(part - part.mean(axis=0), full_matrices=False)[2][0]
    r, c = np.asarray(r, dtype=np.float64), np.asarray(c, dtype=np.float64)
    t, kappa = _ranges(layer.views(site.head or 0, context.positions), r, c)
    if not kappa[0] > 0:
        raise SiteError(
            f"positive: <c, q> falls to {kappa[0]:.3g} at {site!r}, expected a positive number; pass Site(positive=None) to have c found"
        )
    report(0.4, f"read-out: {t[0]:.3g} to {t[1]:.3g}, kappa {kappa[0]:.3g} to {kappa[1]:.3g}")
    half = 0.5 * (t[1] - t[0]) * (1 + 1e-6)
    if not half > 1e-6:
        raise SiteError("read_out: the read-out hardly varies over the queries; pass another direction")
    return (r - 0.5 * (t[0] + t[1]) * c) / half, c, kappa


def _ranges(views: Iterable[View], r: np.ndarray, c: np.ndarray) -> tuple[tuple[float, float], tuple[float, float]]:
    """Ranges of t and kappa over all queries."""
    low, high, least, most = math.inf, -math.inf, math.inf, 0.0
    for view in views:
        backs, q = turned(view, r, c), view.queries.exact
        for start in range(0, len(q), 4096):
            t, kappa = read_out(q[start : start + 4096], backs)
            low, high = min(low, float(t.min())), max(high, float(t.max()))
            least, most = min(least, float(kappa.min())), max(most, float(kappa.max()))
    return (low, high), (least, most)


def _keys(context: Context, count: int, r: np.ndarray, c: np.ndarray, kappa: tuple[float, float], eps: float, report: Callable[[float, str], None]):  # fmt: skip
    """beta (2 y_j r - y_j^2 c) for each j, and the common part."""
    width = 2.0 / count
    y = -1 + width * (np.arange(count) + 0.5)
    beta = _SHARPNESS / (kappa[0] * width**2)
    bumps = beta * (2 * y[:, None] * r - (y * y)[:, None] * c)
    backs = np.array([turned_back(b, context.cosines, context.sines) for b in bumps])

    def lifted(of: Context) -> Demands:
        classes = np.zeros(len(of.queries), int)
        demands = of.demands(classes, 1.0, eps, 3.0)
        floor = demands.floor - _best(of.queries, backs).min(axis=1)
        siblings = tuple((q, ceiling - _best(q, backs).max(axis=1)) for q, ceiling in demands.siblings)
        return Demands(of.queries, classes, 0.0, floor, siblings, of.cosines, of.sines)

    try:
        return bumps, context.separate(lifted, report)[0]
    except NoKeys as error:
        hint = (
            "pass Site(exclusive=False), another head, or another read-out" if context.siblings else "pass another head"
        )
        raise SiteError(f"{context.site!r}: the keys cannot be lifted over the data tokens: {error}; {hint}") from error


def _best(q: np.ndarray, backs: np.ndarray) -> np.ndarray:
    """(tokens, positions): the largest of the logits."""
    best = np.full((len(q), backs.shape[1]), -np.inf, dtype=np.float32)
    single = q.astype(np.float32)
    for back in backs.astype(np.float32):
        np.maximum(best, single @ back.T, out=best)
    return best.astype(np.float64)
