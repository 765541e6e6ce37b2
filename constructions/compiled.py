"""The object `compile_prefix` returns: a model, its prefix, and the certificate that says how well it computes the target."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from constructions.engines import evaluate
from constructions.proposal import Proposal, Term
from verify import (
    Alternation,
    Artefact,
    ArtefactError,
    Box,
    Certificate,
    Claim,
    Head,
    Layer,
    LipschitzTarget,
    Prefix,
    Target,
    Transformer,
    ZigZag,
    alternation,
    zigzag,
)
from verify import load as load_artefact
from verify import save as save_artefact

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Compiled", "PlotKind", "backbone", "claim_of", "load"]

PlotKind = Literal["fit", "error", "tokens", "attention", "convergence"]


def backbone(n: int, k: int) -> Transformer:
    """The fixed, hand-built attention weights for functions R^n -> R^k: the same for every target and every eps.

    The stream is (x, 1): the embedding copies the point and the offset adds a constant coordinate, so that a key (a, b) makes
    the logit <a, x> + b. Query and output matrices are identities, and the head attends to its prefix alone.
    """
    embedding = np.vstack([np.eye(n), np.zeros((1, n))])
    offset = np.zeros(n + 1)
    offset[n] = 1.0
    return Transformer(embedding, offset, (Layer((Head(np.eye(n + 1), np.eye(k)),)),), np.eye(k))


def claim_of(proposal: Proposal, target: Target, domain: Box, eps: float) -> Claim:
    """The claim that a proposed head, as a prefix on the fixed backbone, is within eps of the target."""
    keys = np.column_stack([proposal.slopes, proposal.biases])
    prefix = Prefix(((keys,),), ((proposal.values,),))
    return Claim(backbone(domain.dimension, proposal.values.shape[1]), prefix, target, domain, eps)


@dataclass(frozen=True, eq=False)
class Compiled:
    """A compiled prefix. Calling it runs the model.

    claim: model, prefix, target, domain and eps; certificate: what the kernel proved about them; method: the construction;
    grid: the discretisation it was built on; terms: the construction's a-priori error budget; rechecked: False for an object
    read from a file, whose certificate is the stored one until `verify.check` proves it again.
    """

    claim: Claim
    certificate: Certificate
    method: str
    grid: Mapping[str, Any] = field(default_factory=dict)
    terms: tuple[Term, ...] = ()
    rechecked: bool = True
    attempts: tuple[tuple[str, int, str], ...] = ()

    @property
    def model(self) -> Transformer:
        """The frozen weights."""
        return self.claim.model

    @property
    def prefix(self) -> Prefix:
        """Keys (tokens, n + 1) and values (tokens, k) of the prefix."""
        return self.claim.prefix

    @property
    def target(self) -> Target:
        """What is approximated."""
        return self.claim.target

    @property
    def domain(self) -> Box:
        """Where."""
        return self.claim.domain

    @property
    def eps(self) -> float:
        """The requested sup error."""
        return self.claim.eps

    @property
    def length(self) -> int:
        """Prefix tokens in total."""
        return self.prefix.length

    @property
    def keys(self) -> Float[np.ndarray, "tokens n_plus_1"]:
        """Slopes and bias of every token's logit."""
        return self.prefix.keys[0][0]

    @property
    def values(self) -> Float[np.ndarray, "tokens k"]:
        """Value of every token."""
        return self.prefix.values[0][0]

    @property
    def max_value(self) -> float:
        """Largest |value|."""
        return float(np.abs(self.values).max())

    @property
    def max_logit(self) -> float:
        """Largest |logit| at a corner of the domain (a logit is affine, so nowhere is it larger)."""
        lo, hi = self.domain.bounds
        a, b = self.keys[:, :-1], self.keys[:, -1]
        middle, half = a @ (lo + (hi - lo) / 2) + b, np.abs(a) @ ((hi - lo) / 2)
        return float((np.abs(middle) + half).max())

    @cached_property
    def lower_bound(self) -> ZigZag | Alternation:
        """A certified lower bound on the tokens of any single head: alternations of this very target where it is known; for one
        known by its Lipschitz constant, the zigzag that some function of the class is (along the longest side)."""
        if isinstance(self.target, LipschitzTarget):
            side = int(np.argmax(np.subtract(self.domain.hi, self.domain.lo)))
            return zigzag(self.target.lipschitz, self.domain.lo[side], self.domain.hi[side], self.eps)
        return alternation(self.target, self.domain, self.eps)

    def __call__(self, x: Any, engine: str = "auto") -> Float[np.ndarray, "*batch k"]:
        """Run the model in float64: points (..., n) -> (..., k). For n = 1 an array of shape (m,) is m points.

        The certificate covers points of the domain only. engine: "auto" (the fastest installed), "numpy" (the reference),
        "torch" or "numba". Raises ValueError for points of the wrong shape or type.
        """
        points = np.asarray(x)
        if points.dtype.kind not in "fiub":
            raise ValueError(f"x: type {points.dtype}, expected real numbers")
        points = points.astype(np.float64, copy=False)
        n = self.domain.dimension
        if n == 1 and points.ndim <= 1:
            points = points[..., None]
        if points.ndim == 0 or points.shape[-1] != n:
            raise ValueError(f"x: shape {np.shape(x)}, expected (..., {n}): one row of {n} coordinates per point")
        out = evaluate(self.model, self.prefix, points.reshape(-1, n), engine)
        return out.reshape(*points.shape[:-1], out.shape[-1])

    def __repr__(self) -> str:
        from constructions.describe import text_repr

        return text_repr(self)

    def _repr_html_(self) -> str:
        from constructions.html import html_repr

        return html_repr(self)

    def explain(self) -> str:
        """The proof with its numbers: every term of the budget, its inequality and its source."""
        from constructions.describe import explain

        return explain(self)

    def plot(self, kind: PlotKind = "fit", ax: Axes | None = None, **options: Any) -> Axes:
        """Draw with matplotlib: "fit", "error" (measured error and certified bound), "tokens", "attention" or "convergence"."""
        from constructions.plots import plot

        return plot(self, kind, ax, **options)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write model, prefix, target and certificate to one safetensors file, whole or not at all."""
        scalars = {k: v for k, v in self.grid.items() if not isinstance(v, np.ndarray)}
        construction = {
            "method": self.method,
            "grid": _plain(scalars),
            "terms": [[t.name, float(t.value).hex(), t.inequality, t.source] for t in self.terms],
        }
        arrays = {k: v for k, v in self.grid.items() if isinstance(v, np.ndarray) and v.dtype.kind in "fiu"}
        return save_artefact(path, Artefact(self.claim, self.certificate, construction, arrays))


def _plain(x: Any) -> Any:
    """JSON-ready copy of scalars, sequences and mappings."""
    if isinstance(x, Mapping):
        return {str(k): _plain(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [_plain(v) for v in x]
    if isinstance(x, (bool, str)) or x is None:
        return x
    if isinstance(x, (int, np.integer)):
        return int(x)
    if isinstance(x, (float, np.floating)):
        return float(x) if np.isfinite(x) else str(x)
    return str(x)


def load(path: str | os.PathLike[str]) -> Compiled:
    """Read a compiled prefix from its file, without executing anything stored. Its certificate is the stored one: call
    `verify.check(path)` to prove it again. Raises verify.ArtefactError naming the file and the field."""
    artefact = load_artefact(path)
    notes = artefact.construction
    try:
        grid = dict(notes.get("grid", {})) | dict(artefact.arrays)
    except (TypeError, ValueError) as error:
        raise ArtefactError(f"{path}: field 'construction.grid' is not a mapping") from error
    try:
        terms = tuple(Term(str(n), float.fromhex(v), str(i), str(s)) for n, v, i, s in notes.get("terms", []))
    except (TypeError, ValueError):
        terms = ()
    return Compiled(artefact.claim, artefact.certificate, str(notes.get("method", "?")), grid, terms, rechecked=False)
