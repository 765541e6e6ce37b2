"""Compile for one head of layer 0: keys by linear programmes over its finite set of queries, values as asked, a proof over every text.

Trigger: one key for each value of f, separated by `constructions.pretrained.separation`. The demands in nats (T tokens of text, C keys, values within
`span` of each other): gap >= log(8 (C - 1) span / eps), dominance >= log(8 T (max|u| + max|v|) / eps) above the largest data logit, exclusion <= log(spill / C)
below the sibling's own token; each with what the programmes may miss and float32 may lose on top, which is raised until the kernel agrees.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import sympy as sp

from constructions.pretrained.enumeration import Context
from constructions.pretrained.separation import Demands, NoKeys, Separated, separate
from constructions.pretrained.site import Site, SiteError, weights_of
from constructions.progress import reporting
from verify.certificate import upward
from verify.projected import EnumeratedLayer
from verify.statement import StatementError, Verdict
from verify.statement_file import Stated, save_statement
from verify.stored_arrays import stored_number
from verify.token_head import TokenHead
from verify.token_trigger import HeadStatement, TokenTrigger

__all__ = ["CompiledAtSite", "compile_layer0", "notes_of", "refuse_half_precision"]

_ALLOWANCES = (0.7, 1.7, 3.7)
"""Nats on top of what the budget asks, for float32's rounding of logits: tried one after the other."""


@dataclass(frozen=True, eq=False)
class CompiledAtSite:
    """A prefix for one head, with what is proved about it. notes: how it was found; nobody believes them."""

    site: Site
    statement: HeadStatement
    verdict: Verdict
    notes: Mapping[str, Any]

    def __repr__(self) -> str:
        tokens = len(self.statement.prefix.keys)
        return f"<CompiledAtSite {self.verdict.status}: error <= {upward(self.verdict.upper)} on every text of <= {self.statement.prefix.length} tokens; {tokens} prefix tokens; {self.site!r}>"

    @cached_property
    def _known(self) -> WeakKeyDictionary[Any, tuple[Any, str]]:
        """The weights of models that were asked about."""
        return WeakKeyDictionary()

    @property
    def length(self) -> int:
        """Prefix tokens."""
        return len(self.statement.prefix.keys)

    @property
    def keys(self) -> np.ndarray:
        """(N, width), as cached (after the rotation)."""
        return self.statement.prefix.keys

    @property
    def values(self) -> np.ndarray:
        """(N, width)."""
        return self.statement.prefix.values

    def save(self, path: str | Path) -> Path:
        """Write statement and verdict; `verify.check_statement(path, weights=...)` decides it again from the file and the weights."""
        return save_statement(path, Stated(self.statement, self.verdict, dict(self.notes)))

    def cache(self, model: Any, silent: np.ndarray | None = None) -> Any:
        """A transformers DynamicCache for `model(ids, past_key_values=...)`; silent: from `injection.silent_directions`, keys that the other layers and
        groups ignore (on sampled text; nothing about them is proved). Raises SiteError for a model whose layer 0 is not the one of the statement."""
        from constructions.pretrained.injection import cache_of

        found = weights_of(model, self._known)
        if found != self.statement.weights:
            raise SiteError(
                f"model: its layer 0 has other weights (SHA-256 {found[:16]}) than the one this prefix is proved for ({self.statement.weights[:16]}); compile for this model"
            )
        return cache_of(
            model, {(0, self.site.first_layer.group(self.statement.prefix.head)): (self.keys, self.values)}, silent
        )

    def to_peft(self, path: str | Path, model: Any, silent: np.ndarray | None = None) -> Path:
        """Write the same cache as a PEFT prefix-tuning adapter of the model."""
        from constructions.pretrained.adapter import save_adapter

        return save_adapter(path, model, self.cache(model, silent))


def compile_layer0(
    f: Any,
    eps: float,
    site: Site,
    *,
    offset: np.ndarray | None = None,
    direction: np.ndarray | None = None,
    tokenizer: Any = None,
    seed: int = 0,
    progress: bool | Callable[[float, str], None] | None = None,
) -> CompiledAtSite:
    """See `constructions.pretrained.site.compile_at_site`. The head's output is offset + f direction, both (width,); by default f in coordinate 0, zeros
    elsewhere. tokenizer: for a predicate, where the site's model brings none. Raises SiteError, with the numbers, where nothing can be compiled."""
    assert site.head is not None
    layer = site.first_layer
    if not 0 <= site.head < layer.heads:
        raise SiteError(f"head = {site.head}: the layer has heads 0 to {layer.heads - 1}")
    base = _vector("offset", offset, layer.width, 0)
    along = _vector("direction", direction, layer.width, 1)
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise SiteError(f"seed = {seed!r}: expected a whole number >= 0")
    if isinstance(f, sp.Expr) and not isinstance(f, sp.MatrixBase):
        from constructions.pretrained.read_out import compile_read_out

        return compile_read_out(f, eps, site, base, along, progress)
    table = _table(f, site, layer, tokenizer)
    codes, classes = np.unique(table, return_inverse=True)
    largest = float(np.abs(codes).max()) * max(1.0, float(np.abs(along).max()))
    if largest > 1e9:
        raise SiteError(f"f: values from {codes[0]:.3g} to {codes[-1]:.3g}; with the direction's size at most 1e9")
    span = float(np.ptp(codes)) * float(np.abs(along).max())
    started = time.perf_counter()
    with reporting(progress) as report:
        context = Context.of(site, layer, base + codes[:, None] * along, eps)
        for allowance in _ALLOWANCES:

            def demanded(of: Context, allowance: float = allowance) -> Demands:
                return of.demands(classes[of.rows], max(span, eps), eps, allowance)

            try:
                found, context = context.separate(demanded, report, seed)
            except NoKeys as error:
                raise SiteError(_why_not(error, demanded(context), site, seed)) from error
            prefix = context.prefix(found.keys * math.sqrt(layer.width), codes, base, along)
            refuse_half_precision(site, layer, prefix)
            common = float(codes[np.bincount(classes).argmax()])
            marked = np.flatnonzero(table != common)
            spill = site.spill if site.exclusive and layer.siblings(site.head) else 1.0
            statement = TokenTrigger(prefix, layer.sha256, eps, spill, marked, table[marked], common)
            report(0.95, "proof over every token and position")
            verdict = statement.decide(weights=layer)
            if verdict.proved:
                break
    notes = notes_of(found, allowance, time.perf_counter() - started)
    return CompiledAtSite(site, statement, verdict, notes)


def notes_of(found: Separated, allowance: float, seconds: float) -> dict[str, Any]:
    return {
        "rounds": found.rounds,
        "queries in the programme": found.queries,
        "allowance": allowance,
        "seconds": seconds,
    }


def _vector(name: str, x: np.ndarray | None, width: int, default: float) -> np.ndarray:
    if x is None:
        return np.r_[float(default), np.zeros(width - 1)]
    vector = np.asarray(x)
    if vector.dtype.kind not in "fiu" or vector.shape != (width,) or not np.isfinite(vector).all():
        raise SiteError(f"{name}: shape {vector.shape}, {vector.dtype}; expected ({width},), finite real numbers")
    if np.abs(vector).max() > 1e9:
        raise SiteError(f"{name}: has an entry of size {np.abs(vector).max():.3g}, at most 1e9")
    return vector.astype(np.float64)


def _table(f: Any, site: Site, layer: EnumeratedLayer, tokenizer: Any) -> np.ndarray:
    """f of every token."""
    table = np.zeros(layer.vocabulary)
    for token, mark in _marks(f, site, tokenizer).items():
        if isinstance(token, bool | np.bool_) or not isinstance(token, int | np.integer) or not 0 <= token < len(table):
            raise SiteError(
                f"f: token {token!r}; expected numbers 0 to {len(table) - 1} (of a mask, np.flatnonzero(mask))"
            )
        try:
            table[token] = stored_number(f"f: the value of token {token}", mark)
        except StatementError as error:
            raise SiteError(str(error)) from error
    different = len(np.unique(np.append(table, 0.0)))
    if different > 16:
        raise SiteError(
            f"f: {different - 1} different values, at most 15: every value takes a key that is separated from all others"
        )
    return table


def _marks(f: Any, site: Site, tokenizer: Any) -> dict[Any, Any]:
    """Tokens with their values. Raises SiteError for what is neither a set, nor a predicate, nor a mapping."""
    if isinstance(f, Mapping):
        return dict(f)
    if isinstance(f, str | bytes | type | sp.Basic | sp.MatrixBase):
        raise SiteError(
            f"f: {f!r}; expected a set of token numbers, a predicate on decoded text, a mapping from tokens to values, or a sympy expression in one variable"
        )
    if callable(f):
        words, f = getattr(f, "__name__", repr(f)), site.tokens_where(f, tokenizer)  # type: ignore[arg-type]
        if not len(f):
            raise SiteError(f"f: {words} holds for no token's text; look at tokenizer.decode([i]) for what it is given")
    return dict.fromkeys(np.ravel(f).tolist() if isinstance(f, np.ndarray) else f if isinstance(f, Iterable) else [f], 1.0)  # fmt: skip


def _why_not(error: NoKeys, demands: Demands, site: Site, seed: int) -> str:
    """What would make the programme feasible: found out by leaving demands away."""

    def feasible(**changes: Any) -> bool:
        try:
            separate(Demands(**{**demands.__dict__, **changes}), seed)
        except NoKeys:
            return False
        return True

    at_start = {"cosines": demands.cosines[:1], "sines": demands.sines[:1]}
    if demands.siblings and feasible(siblings=()):
        step = "Without the sibling heads' exclusion there are keys: pass Site(exclusive=False), or another head"
    elif feasible(siblings=(), **at_start):
        step = "At a single position there are keys: pass a shorter Site(length=...), or another head"
    else:
        step = "Not even at a single position: these tokens are not linearly separable from the others by this head's queries; choose other tokens or another head"
    return f"f at {site!r}: {error}. {step}"


def refuse_half_precision(site: Site, layer: EnumeratedLayer, prefix: TokenHead) -> None:
    """Raise SiteError for a run in bfloat16 or float16, with the numbers: rounding the query alone, u |q_i| a coordinate, moves a logit by so much."""
    if site.dtype == "float32":
        return
    unit = {"bfloat16": 2.0**-8, "float16": 2.0**-11}[site.dtype]
    view = next(iter(layer.views(prefix.head, prefix.positions)))
    q, size = np.abs(view.queries.exact), np.abs(prefix.keys)
    half = layer.width // 2
    moved = unit * float((q[:, :half] @ np.minimum(size[:, :half], size[:, half:]).T).max()) / math.sqrt(layer.width)
    raise SiteError(
        f"dtype = {site.dtype!r}: rounding the queries to it may move a logit by {moved:.3g} nats (keys up to {size.max():.0f}), and nothing is proved for it; run layer 0 in float32"
    )
