"""A certificate for each token of one forward pass with a calibrated prefix in place: about the float32 numbers that the heads put out in that pass."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from constructions.pretrained.group import CalibratedPrefix, CompiledGroup
from constructions.pretrained.recording import Recorded, record, token_numbers
from constructions.pretrained.site import SiteError
from verify.posterior import GroupPass, TokenBounds, token_bounds
from verify.statement import Verdict
from verify.statement_file import Stated, save_statement

__all__ = ["PassReport", "SitePass", "gathered", "statement_of", "verify_pass"]


@dataclass(frozen=True, eq=False)
class SitePass:
    """One site of a pass: the statement with the arrays of the pass, and bounds for each token and head."""

    compiled: CompiledGroup
    statement: GroupPass
    bounds: TokenBounds

    def __repr__(self) -> str:
        b = self.bounds.bound
        if self.bounds.refuted_at is not None:
            return f"<SitePass layer {self.compiled.layer}, group {self.compiled.group}: nothing proved; a recorded output is outside its bound, so the machine is not the one assumed>"
        within = float((b <= self.compiled.eps).mean())
        return f"<SitePass layer {self.compiled.layer}, group {self.compiled.group}: proved bounds of {b.shape[0]} tokens x {b.shape[1]} heads, median {np.median(b):.3g}, largest {b.max():.3g}, {within:.1%} <= eps = {self.compiled.eps:g}>"

    @cached_property
    def verdict(self) -> Verdict:
        """Whether every token of the pass is within eps."""
        return self.statement.decide()

    def save(self, path: str | Path) -> Path:
        """Write the pass; `verify.check_statement(path)` decides it again from the file alone."""
        return save_statement(
            path, Stated(self.statement, self.verdict, {"layer": self.compiled.layer, "group": self.compiled.group})
        )


@dataclass(frozen=True, eq=False)
class PassReport:
    """sites: one `SitePass` for each compiled group, from the lowest layer up; seconds of the pass and of its certificates."""

    sites: tuple[SitePass, ...]
    run_seconds: float
    proof_seconds: float
    ids: np.ndarray = field(repr=False)

    def __repr__(self) -> str:
        return f"<PassReport {len(self.ids)} tokens: {', '.join(repr(s) for s in self.sites)}>"

    @property
    def bound(self) -> Float[np.ndarray, " tokens"]:
        """For each token, above the error of every head of every site; inf where a recorded output refutes the bounds."""
        if any(s.bounds.refuted_at is not None for s in self.sites):
            return np.full(len(self.ids), np.inf)
        return np.max([s.bounds.bound.max(axis=1) for s in self.sites], axis=0)


def verify_pass(prefix: CalibratedPrefix, model: Any, ids: np.ndarray | Sequence[int]) -> PassReport:
    """Run the model once over a text with the prefix in place, up to the last compiled layer, and bound |head output - (offset + f(t) direction)| for every
    token and head from the arrays of that very pass (`verify.posterior`). t is the read-out of the pass's own queries.

    Raises SiteError if the run did not use this prefix, was not in float32 or dropped attention out, and where a recorded output is outside its bound: the
    machine then rounds worse than assumed, and nothing about the pass is proved.
    """
    ids = token_numbers("ids", ids, model)
    started = time.perf_counter()
    runs = record(model, ids, [g.layer for g in prefix.groups], prefix.cache(model))
    between = time.perf_counter()
    sites = []
    for g in prefix.groups:
        statement = statement_of(g, runs[g.layer])
        bounds = token_bounds(statement)
        if bounds.refuted_at is not None:
            at = bounds.refuted_at
            raise SiteError(
                f"layer = {g.layer}, group = {g.group}: the output of head {at[1]} at token {at[0]} is off by {bounds.measured[at]:.3g}, its bound is {bounds.bound[at]:.3g}. This machine "
                "rounds worse than float32 as assumed, so nothing about this pass is proved; call torch.set_float32_matmul_precision('highest') and leave autocast off"
            )
        sites.append(SitePass(g, statement, bounds))
    return PassReport(tuple(sites), between - started, time.perf_counter() - between, ids)


def statement_of(g: CompiledGroup, run: Recorded) -> GroupPass:
    """The arrays of a pass, at one site. Raises SiteError if its first keys and values are not the prefix."""
    n, heads = run.prefix, run.heads(g.group)
    keys, values = run.keys[g.group], run.values[g.group]
    if n != len(g.keys) or not (np.array_equal(keys[:n], g.keys) and np.array_equal(values[:n], g.values)):
        raise SiteError(
            f"layer = {g.layer}, group = {g.group}: the pass was run with another prefix ({n} tokens, expected {len(g.keys)})"
        )
    return GroupPass(
        run.queries[:, heads], run.outputs[:, heads], keys[:n], values[:n], keys[n:], values[n:], g.offset, g.direction, g.read_out, g.positive,
        run.scale, g.expression, g.eps,
    )  # fmt: skip


def gathered(reports: Sequence[PassReport], site: int, name: str) -> np.ndarray:
    """One field of the bounds of a site over all passes, (tokens, heads)."""
    return np.concatenate([getattr(r.sites[site].bounds, name) for r in reports])
