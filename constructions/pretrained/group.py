"""Compile f for a whole key/value group of any layer: calibrated on text, certified after the fact for each token of a pass.

The query heads of a group read the same keys and values, so all of them compute f of their own read-out t = <r, q>/<c, q>. With y_j the midpoints of N
equal cells of [-1, 1], of width h, keys B c + beta (2 y_j r - y_j^2 c) give weights exp(-beta kappa (t - y_j)^2), kappa = <c, q>:
  beta = sharpness / (kappa_min h^2), so that the cell of t wins; B lifts the best key over the data tokens: log(P/D) >= log(4 (max |v| + max |u|)/eps) on every
query of the calibration text; c and r from `constructions.pretrained.calibrate`, r scaled and shifted so that t fills [-1, 1] there.
f of t outside [-1, 1] is f at the nearer end.

f is specified at the queries of the run *with* the prefix: what is compiled in lower layers, and the keys to be ignored in all others, shift them a little.
Calibration runs with just that prefix in place, so it sees the queries that later runs on such text have. Nothing is proved in advance: other text may
have other queries. `CalibratedPrefix.verify` bounds the error of every token of a pass from the arrays of the pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sympy as sp
from jaxtyping import Float

from constructions.from_sympy import from_sympy
from constructions.pretrained import smollm
from constructions.pretrained.calibrate import Positive, positive_direction, probe, quiet_directions, widest
from constructions.pretrained.exclusive import exclusivity
from constructions.pretrained.injection import cache_of
from constructions.pretrained.recording import Recorded, record, token_numbers
from constructions.pretrained.shape import Shape, is_encoder, shape_of
from constructions.pretrained.site import Site, SiteError, direction_of, positive_number
from constructions.progress import reporting
from verify.expression import Expression

__all__ = ["CalibratedPrefix", "CompiledGroup", "compile_group", "covering_of"]

_MOST_TOKENS = 64
_DENSE = 4001
_SINGLE = 2.0**-24


@dataclass(frozen=True, eq=False)
class CompiledGroup:
    """keys, values: (N, width), numbers of float32; the heads' outputs are to be offset + f(t) direction, within eps. kappa: its range on the calibration
    text, of `calibrated` queries; largest_logit: of the prefix keys there."""

    layer: int
    group: int
    keys: Float[np.ndarray, "N width"]
    values: Float[np.ndarray, "N width"]
    offset: Float[np.ndarray, " width"]
    direction: Float[np.ndarray, " width"]
    read_out: Float[np.ndarray, " width"]
    positive: Float[np.ndarray, " width"]
    expression: Expression
    eps: float
    kappa: tuple[float, float]
    calibrated: int
    largest_logit: float

    def __repr__(self) -> str:
        low, high = self.kappa
        return (
            f"<CompiledGroup layer {self.layer}, group {self.group}: {self.expression} within {self.eps:g} on {self.calibrated} calibration queries, "
            f"kappa {low:.3g} to {high:.3g}, {len(self.keys)} tokens; nothing proved in advance>"
        )


@dataclass(frozen=True, eq=False)
class CalibratedPrefix:
    """What `compile_group` returns: one prefix for several sites, `groups` from the lowest layer up; quiet: (layers, groups, width), see `quiet_directions`."""

    groups: tuple[CompiledGroup, ...]
    quiet: Float[np.ndarray, "layers groups width"] = field(repr=False)
    pieces: tuple[np.ndarray, ...] = field(repr=False, default=())

    @property
    def length(self) -> int:
        """Prefix tokens."""
        return len(self.groups[0].keys)

    def cache(self, model: Any) -> Any:
        """The prefix as past_key_values; a cache grows in use, make one for each run. Raises SiteError for a model of another shape."""
        return cache_of(model, {(g.layer, g.group): (g.keys, g.values) for g in self.groups}, self.quiet)

    def verify(self, model: Any, ids: np.ndarray) -> Any:
        """One forward pass over a text; a rigorous bound for each token and head. See `constructions.pretrained.posterior.verify_pass`."""
        from constructions.pretrained.posterior import verify_pass

        return verify_pass(self, model, ids)

    def to_peft(self, path: Any, model: Any) -> Any:
        """The prefix as a PEFT adapter. See `constructions.pretrained.adapter.save_adapter`."""
        from constructions.pretrained.adapter import save_adapter

        return save_adapter(path, model, self.cache(model))


def compile_group(
    f: sp.Expr,
    eps: float,
    site: Site,
    pieces: Sequence[np.ndarray],
    *,
    on: CalibratedPrefix | None = None,
    marked: Callable[[np.ndarray], np.ndarray] | None = None,
    offset: np.ndarray | None = None,
    direction: np.ndarray | None = None,
    tokens: int = 1,
    sharpness: float = 6.0,
    quiet: np.ndarray | None = None,
    model: Any = None,
    seed: int = 0,
    progress: bool | Callable[[float, str], None] | None = None,
) -> CalibratedPrefix:
    """Compile f, an expression in one variable on [-1, 1], for `site.layer`, `site.group`.

    pieces: token numbers of the calibration texts, each at most `site.length` long; on: a prefix that has something in lower layers already (N as there);
    marked: token numbers -> booleans, whose probe is the read-out where `site.read_out` is not given (then t = 0 separates them), else the
    direction of most variation is; offset: by default the heads' mean output on the text; direction: by default the first coordinate; tokens: at least so many
    prefix tokens; sharpness: beta kappa h^2 at the smallest kappa, larger makes
    steps steeper and logits larger; quiet: from `quiet_directions`, where known; model: the loaded `site.model`. Raises SiteError with the numbers where it cannot be done.
    """
    expression = _expression(f, site)
    eps, sharpness = positive_number("eps", eps), positive_number("sharpness", sharpness)
    if sharpness > 1e6:
        raise SiteError(f"sharpness = {sharpness:g}: at most 1e6; keys that large overflow float32")
    for name, x, least, most in (("tokens", tokens, 1, _MOST_TOKENS), ("seed", seed, 0, 2**32 - 1)):
        if isinstance(x, bool) or not isinstance(x, int | np.integer) or not least <= x <= most:
            raise SiteError(f"{name} = {x!r}: expected a whole number, {least} to {most}")
    if on is not None and on.groups[-1].layer >= site.layer:
        raise SiteError(
            f"layer = {site.layer}: `on` has something in layer {on.groups[-1].layer}; compile from the lowest layer up"
        )
    model, shape = _model(site, model)
    pieces = [token_numbers("pieces", ids, model, site.length) for ids in pieces]
    if not pieces:
        raise SiteError("pieces: no texts, expected the token numbers of some")
    width = shape.width
    along = np.eye(width)[0] if direction is None else direction_of("direction", direction, width)
    if offset is not None and (np.any(offset) or np.shape(offset) != (width,)):
        direction_of("offset", offset, width)
    for name in ("read_out", "positive"):
        if getattr(site, name) is not None:
            direction_of(name, getattr(site, name), width)
    if quiet is not None and (np.shape(quiet) != (shape.layers, shape.groups, width) or not np.isfinite(quiet).all()):
        raise SiteError(f"quiet: shape {np.shape(quiet)}, expected {(shape.layers, shape.groups, width)}, finite; pass quiet_directions(model, ...)")  # fmt: skip
    reach = float(np.abs(along).max())
    codes = covering_of(expression, eps, reach, on.length if on else tokens)
    if on is not None and len(codes) != on.length:
        raise SiteError(f"eps = {eps:g}: {len(codes)} prefix tokens, the prefix it is to join has {on.length}; every layer needs the same number, pass tokens={len(codes)} there")  # fmt: skip
    with reporting(progress) as report:
        quiet = on.quiet if on else quiet
        if quiet is None:
            quiet = quiet_directions(model, pieces, len(codes), report)
        seen = _Seen.of(model, site, pieces, on, quiet, len(codes))
        site.refuse_mixing(eps, seen.largest)
        if site.head is not None:
            _refuse_alone(site, seen, shape, pieces, eps)
        report(0.8, f"read-out of {len(seen.queries)} queries")
        c = _positive(site, seen, seed)
        r = _read_out(site, seen, c.direction, marked, pieces)
        base = seen.mean if offset is None else np.zeros(width) + np.asarray(offset, dtype=np.float64)
        values = _single(base + codes[:, None] * along)
        keys, largest = _keys(seen, r, c.direction, len(codes), eps, float(np.abs(values).max()), sharpness)
    _refuse(site, keys, largest, eps, reach * float(np.ptp(codes)))
    kappa = seen.queries @ c.direction
    limits = (float(kappa.min()), float(kappa.max()))
    made = CompiledGroup(site.layer, site.group or 0, keys, values, base, along, r, c.direction, expression, eps, limits, len(kappa), largest)  # fmt: skip
    return CalibratedPrefix((*(on.groups if on else ()), made), quiet, tuple(pieces))


def _expression(f: Any, site: Site) -> Expression:
    """f for the kernel. Raises SiteError for what is no expression in one variable."""
    if not isinstance(site, Site):
        raise SiteError(f"site: {site!r}, expected a Site(group=...), whose heads all compute f")
    if not isinstance(f, sp.Expr) or isinstance(f, sp.MatrixBase) or len(f.free_symbols) != 1:
        raise SiteError(f"f: {f!r}, expected a sympy expression in one variable, the read-out on [-1, 1]")
    return from_sympy([f], [str(s) for s in f.free_symbols])


def _model(site: Site, model: Any) -> tuple[Any, Shape]:
    """The model and its shape. Raises SiteError where it has no such layer or group."""
    if model is None:
        if site.model == "minilm":
            raise SiteError(
                "model = 'minilm': groups are compiled for causal models; pass Site('smollm2', ...) or a Llama"
            )
        model = smollm.load_model() if isinstance(site.model, str) else site.model
    if is_encoder(model) or not hasattr(model, "model"):
        raise SiteError(f"model: {type(model).__name__}; groups are compiled for causal models laid out like Llama")
    shape = shape_of(model)
    if not 0 <= site.layer < shape.layers or not 0 <= _group(site, shape) < shape.groups:
        raise SiteError(f"layer = {site.layer}, group = {site.group}: the model has layers 0 to {shape.layers - 1}, groups 0 to {shape.groups - 1}")  # fmt: skip
    return model, shape


def _group(site: Site, shape: Shape) -> int:
    """The group of a site, or of its head."""
    return site.group if site.group is not None else (site.head or 0) // (shape.heads // shape.groups)


def _refuse_alone(site: Site, seen: _Seen, shape: Shape, pieces: Sequence[np.ndarray], eps: float) -> None:
    """A head of a later layer has no prefix to itself; the programme's numbers say why, or how little that it has one on this text says."""
    head = (site.head or 0) % (shape.heads // shape.groups)
    number = np.concatenate([np.repeat(np.arange(seen.heads), len(ids)) for ids in pieces])
    share = min(0.5, eps / (4 * seen.largest))
    found = exclusivity(seen.queries * seen.scale, seen.data, number == head, share, site.spill)
    step = f"compile the group of the {seen.heads} heads that read the same keys: Site(layer={site.layer}, group={_group(site, shape)})"
    more = "" if found.missed > 0 else "; on other text it may not, and nothing bounds by how much"
    raise SiteError(f"head = {site.head} of layer {site.layer}, alone: {found}{more}; {step}")


@dataclass(frozen=True, eq=False)
class _Seen:
    """All queries of the group's heads on the calibration text, text by text and head by head; `data`: log-sum-exp of the data logits of each;
    mean: of the heads' outputs without the prefix; largest: of the data values."""

    queries: Float[np.ndarray, "count width"]
    data: Float[np.ndarray, " count"]
    mean: Float[np.ndarray, " width"]
    largest: float
    heads: int
    scale: float

    @staticmethod
    def of(model: Any, site: Site, pieces: Sequence[np.ndarray], on: CalibratedPrefix | None, quiet: np.ndarray, count: int) -> _Seen:  # fmt: skip
        width, group = quiet.shape[2], _group(site, shape_of(model))
        silent = -60 * math.sqrt(width) * np.broadcast_to(quiet[site.layer, group], (count, width))
        entries = {(g.layer, g.group): (g.keys, g.values) for g in (on.groups if on else ())}
        entries[site.layer, group] = (silent, np.zeros((count, width)))
        runs: list[Recorded] = [
            record(model, ids, [site.layer], cache_of(model, entries, quiet))[site.layer] for ids in pieces
        ]
        heads = runs[0].heads(group)
        queries, data = [], []
        for run in runs:
            keys, n = run.keys[group, run.prefix :], len(run.queries)
            for q in run.queries[:, heads].swapaxes(0, 1):
                logits = np.where(np.tri(n, dtype=bool), q @ keys.T * run.scale, -np.inf)
                top = logits.max(axis=1)
                queries.append(q)
                data.append(top + np.log(np.exp(logits - top[:, None]).sum(axis=1)))
        mean = np.concatenate([r.outputs[:, heads].reshape(-1, width) for r in runs]).mean(axis=0)
        largest = max(float(np.abs(r.values[group]).max()) for r in runs)
        return _Seen(
            np.concatenate(queries), np.concatenate(data), mean, largest, heads.stop - heads.start, runs[0].scale
        )


def covering_of(f: Expression, eps: float, reach: float, least: int = 1) -> np.ndarray:
    """Middles of f's (sampled) range on the fewest equal cells, at least `least`, of [-1, 1] on which f varies by less than 2 * 0.7 eps / reach; a jump of f
    gets an edge if one is near enough."""
    t = np.linspace(-1, 1, _DENSE)
    y = f.evaluate(t[:, None])[:, 0]
    if not np.isfinite(y).all():
        raise SiteError(f"f: not finite at {t[~np.isfinite(y)][0]:.3g}, expected a function defined on [-1, 1]")
    for count in range(least, _MOST_TOKENS + 1):
        cell = np.minimum(((t + 1) * count / 2 + 1e-9).astype(int), count - 1)
        cells = [y[cell == i] for i in range(count)]
        codes = np.array([0.5 * (c[1:-1].min() + c[1:-1].max()) for c in cells])
        if reach * max(np.ptp(c[1:-1]) for c in cells) <= 1.4 * eps:
            return codes
    raise SiteError(f"eps = {eps:g}: more than {_MOST_TOKENS} prefix tokens would be needed; raise eps")


def _positive(site: Site, seen: _Seen, seed: int) -> Positive:
    if site.positive is None:
        return positive_direction(seen.queries, seed)
    c = np.asarray(site.positive, dtype=np.float64)
    kappa = seen.queries @ c
    if not kappa.min() > 0:
        raise SiteError(
            f"positive: <c, q> falls to {kappa.min():.3g} on the calibration text; pass Site(positive=None) to have c found"
        )
    return Positive(c / kappa.min(), float(kappa.max() / kappa.min()), 0)


def _read_out(site: Site, seen: _Seen, c: np.ndarray, marked: Any, pieces: Sequence[np.ndarray]) -> np.ndarray:
    """r with t in [-1, 1] on the calibration text; for a probe both signs keep their sides."""
    kappa = seen.queries @ c
    if site.read_out is None and marked is not None:
        flags = np.concatenate([np.tile(_flags(marked, ids), seen.heads) for ids in pieces])
        r = probe(seen.queries, flags)
        return r / float(np.abs(seen.queries @ r / kappa).max() * (1 + 1e-9))
    r = widest(seen.queries, c) if site.read_out is None else np.asarray(site.read_out, dtype=np.float64)
    t = seen.queries @ r / kappa
    half = 0.5 * (t.max() - t.min()) * (1 + 1e-9)
    if not half > 1e-9:
        raise SiteError("read_out: the read-out does not vary on the calibration text; pass another direction")
    return (r - 0.5 * (t.max() + t.min()) * c) / half


def _flags(marked: Callable[[np.ndarray], np.ndarray], ids: np.ndarray) -> np.ndarray:
    flags = np.asarray(marked(ids))
    if flags.shape != ids.shape:
        raise SiteError(
            f"marked: gave shape {flags.shape} for a text of {len(ids)} tokens, expected a boolean for each"
        )
    return flags.astype(bool)


def _keys(
    seen: _Seen, r: np.ndarray, c: np.ndarray, count: int, eps: float, largest: float, sharpness: float
) -> tuple[np.ndarray, float]:
    """The N keys in float32, and the largest logit on the calibration text."""
    kappa = seen.queries @ c
    y = -1 + (2 * np.arange(count) + 1) / count
    beta = sharpness * count**2 / (4 * kappa.min()) if count > 1 else 0.0
    bumps = beta * (2 * y[:, None] * r - (y * y)[:, None] * c)
    best = (seen.queries @ bumps.T).max(axis=1)
    lift = seen.data + math.log(4 * (largest + seen.largest) / eps) - best
    height = max(0.0, float((lift / kappa).max()))
    keys = _single((height * c + bumps) / seen.scale)
    return keys, float(np.abs(seen.queries @ keys.T).max() * seen.scale)


def _single(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, dtype=np.float64).astype(np.float32).astype(np.float64)


def _refuse(site: Site, keys: np.ndarray, largest: float, eps: float, span: float) -> None:
    """Half precision rounds logits by about unit * logit, which moves the output by span times that where two cells meet."""
    unit = {"bfloat16": 2.0**-8, "float16": 2.0**-11}.get(site.dtype, _SINGLE)
    if site.dtype == "float16" and np.abs(keys).max() > 65504:
        raise SiteError(f"dtype = 'float16': holds at most 65504, the keys reach {np.abs(keys).max():.3g}; use float32")
    if unit > _SINGLE and unit * largest * span > eps:
        raise SiteError(f"dtype = {site.dtype!r}: logits up to {largest:.3g} are rounded by {unit * largest:.2g}, which may move the output by {unit * largest * span:.2g} > eps = {eps:g}; use float32")  # fmt: skip
