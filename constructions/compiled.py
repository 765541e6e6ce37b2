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
    Sequences,
    Sphere,
    Target,
    Transformer,
    ZigZag,
    alternation,
    forward,
    zigzag,
)
from verify import load as load_artefact
from verify import save as save_artefact
from verify.prove import Domain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from constructions.circuits.compile import CircuitProposal
    from constructions.circuits.stream import Trace
    from constructions.export.backbone import Backbone, BackboneConfig
    from constructions.export.torch_module import PrefixModule
    from constructions.theorem import Theorem

__all__ = ["Compiled", "PlotKind", "backbone", "claim_of", "load"]

PlotKind = Literal["fit", "error", "tokens", "attention", "convergence", "bound", "circuit"]


def backbone(n: int, k: int, normalised: bool = True) -> Transformer:
    """The fixed, hand-built attention weights for functions R^n -> R^k: the same for every target and every eps.

    The stream is (x, 1): the embedding copies the point and the offset adds a constant coordinate, so that a key (a, b) makes
    the logit <a, x> + b. Query and output matrices are identities, and the head attends to its prefix alone. normalised: False for
    a core head, which sums exponentials and does not divide.
    """
    embedding = np.vstack([np.eye(n), np.zeros((1, n))])
    offset = np.zeros(n + 1)
    offset[n] = 1.0
    return Transformer(embedding, offset, (Layer((Head(np.eye(n + 1), np.eye(k), normalised=normalised),)),), np.eye(k))


def claim_of(
    proposal: Proposal | CircuitProposal, target: Target, domain: Box | Sphere, eps: float, sequence_length: int = 1
) -> Claim:
    """The claim that what is proposed, as a prefix on its fixed backbone, is within eps of the target."""
    if not isinstance(proposal, Proposal):
        made = proposal.lowered
        return Claim(made.model, made.prefix, target, domain, eps, circuit=made.hint)
    k = proposal.values.shape[1]
    if proposal.method == "classical":
        from constructions.petrov2024 import classical

        m = domain.dimension - 1
        prefix = classical.prefix_of(classical.prefix_tokens(proposal.slopes, proposal.values, m), m)
        return Claim(classical.model(m, k), prefix, target, domain, eps, sequence_length)
    keys = np.column_stack([proposal.slopes, proposal.biases])
    prefix = Prefix(((keys,),), ((proposal.values,),))
    model = backbone(domain.dimension, k, normalised=proposal.method != "core")
    return Claim(model, prefix, target, domain, eps)


@dataclass(frozen=True, eq=False)
class Compiled:
    """A compiled prefix. Calling it runs the model.

    claim: model, prefix, target, domain and eps; certificate: what the kernel proved about them; method: the construction;
    grid: the discretisation it was built on; terms: the construction's a-priori error budget; rechecked: False for an object
    read from a file, whose certificate is the stored one until `verify.check` proves it again; theorem: the paper's, with a bound of
    the length as a formula, where there is one.
    """

    claim: Claim
    certificate: Certificate
    method: str
    grid: Mapping[str, Any] = field(default_factory=dict)
    terms: tuple[Term, ...] = ()
    rechecked: bool = True
    attempts: tuple[tuple[str, int, str], ...] = ()
    theorem: Theorem | None = None

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
    def domain(self) -> Domain:
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
        """Slopes and bias of every token's logit; slopes alone where the head has no biases (classical)."""
        return self.prefix.keys[0][0]

    @property
    def slopes(self) -> Float[np.ndarray, "tokens n"]:
        """Slopes of every token's logit."""
        return self.keys[:, : self.domain.dimension]

    @property
    def biases(self) -> Float[np.ndarray, " tokens"]:
        """Bias of every token's logit."""
        return self.keys[:, -1] if self.keys.shape[1] > self.domain.dimension else np.zeros(len(self.keys))

    @property
    def values(self) -> Float[np.ndarray, "tokens k"]:
        """Value of every token."""
        return self.prefix.values[0][0][:, : self.target.outputs]

    @property
    def max_value(self) -> float:
        """Largest |value|."""
        return max(float(np.abs(values).max()) for layer in self.prefix.values for values in layer)

    @property
    def max_logit(self) -> float:
        """Largest |logit| on the domain: at a corner of a box, along a key on a sphere; for sequences and circuits the largest |key|_1."""
        a, b = self.slopes, self.biases
        if isinstance(self.domain, Sequences) or self.claim.circuit is not None:
            return max(float(np.abs(keys).sum(axis=1).max()) for layer in self.prefix.keys for keys in layer)
        if isinstance(self.domain, Sphere):
            return float((np.linalg.norm(a, axis=1) + np.abs(b)).max())
        lo, hi = self.domain.bounds
        middle, half = a @ (lo + (hi - lo) / 2) + b, np.abs(a) @ ((hi - lo) / 2)
        return float((np.abs(middle) + half).max())

    @cached_property
    def lower_bound(self) -> ZigZag | Alternation | None:
        """A certified lower bound on the tokens of any single head: alternations of this very target where it is known; for one
        known by its Lipschitz constant, the zigzag that some function of the class is (along the longest side). None on a
        sphere, which contains no segment: see `theorem.lower` for heads with fixed keys."""
        if not isinstance(self.domain, Box):
            return None
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
        if isinstance(self.domain, Sequences):
            return self.sequences(points)
        n = self.domain.dimension
        if n == 1 and points.ndim <= 1:
            points = points[..., None]
        if points.ndim == 0 or points.shape[-1] != n:
            raise ValueError(f"x: shape {np.shape(x)}, expected (..., {n}): one row of {n} coordinates per point")
        if isinstance(self.domain, Sphere):
            on_sphere(self.domain, points)
        out = evaluate(self.model, self.prefix, points.reshape(-1, n), engine)
        return out.reshape(*points.shape[:-1], out.shape[-1])

    def sequences(self, x: Any) -> Float[np.ndarray, "*batch T k"]:
        """Run the model on sequences: (..., T, n) -> (..., T, k), every token attending to the prefix and, if the head does, to the
        others. Raises ValueError for a sequence longer than the certificate covers, or points of the wrong shape."""
        points, n = np.asarray(x), self.model.inputs
        if points.dtype.kind not in "fiub" or points.ndim < 2 or points.shape[-1] != n:
            raise ValueError(f"x: shape {points.shape}, expected real sequences (..., T, {n})")
        if isinstance(self.domain, Sequences) and points.shape[-2] != self.domain.T:
            raise ValueError(f"x: sequences of {points.shape[-2]} tokens, the target is a function of {self.domain.T}")
        points = points.astype(np.float64, copy=False)
        heads = [head for layer in self.model.layers for head in layer.heads]
        attends = any(head.attends_to_data for head in heads) and not isinstance(self.domain, Sequences)
        if attends and points.shape[-2] > self.claim.sequence_length:
            raise ValueError(
                f"x: sequences of {points.shape[-2]} tokens, proved for at most {self.claim.sequence_length}: compile with a larger "
                "sequence_length"
            )
        if isinstance(self.domain, Sphere):
            on_sphere(self.domain, points)
        out = forward(self.model, self.prefix, points.reshape(-1, *points.shape[-2:]))
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

    def trace(self, x: Any) -> Trace:
        """For a circuit: what every slot of the stream holds after every layer at one point x (n,), or in one sequence (T, n), beside what
        the circuit says it should.

        Raises ValueError for a result that is no circuit, or a point or sequence of the wrong shape.
        """
        from constructions.circuits.stream import trace

        return trace(self, x)

    def plot(self, kind: PlotKind = "fit", ax: Axes | None = None, **options: Any) -> Axes:
        """Draw with matplotlib: "fit", "error" (measured error and certified bound), "tokens", "attention" or "convergence"; on a sphere also
        "bound" (the theorem's tokens against eps). A circuit has "circuit" (its graph) in place of "tokens" and "attention"."""
        from constructions.plots import plot

        return plot(self, kind, ax, **options)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write model, prefix, target and certificate to one safetensors file, whole or not at all."""
        scalars = {k: v for k, v in self.grid.items() if not isinstance(v, np.ndarray)}
        construction = {
            "method": self.method,
            "grid": _plain(scalars),
            "terms": [[t.name, float(t.value).hex(), t.inequality, t.source] for t in self.terms],
            "theorem": None if self.theorem is None else {k: float(v).hex() for k, v in self.theorem.values.items()},
        }
        arrays = {k: v for k, v in self.grid.items() if isinstance(v, np.ndarray) and v.dtype.kind in "fiu"}
        return save_artefact(path, Artefact(self.claim, self.certificate, construction, arrays))

    def to_torch(self, dtype: Any = "float64", device: Any = "cpu", **options: Any) -> PrefixModule:
        """A frozen `torch.nn.Module` in float64, float32 or bfloat16: see `constructions.export.to_torch`."""
        from constructions.export import to_torch

        return to_torch(self, dtype, device, **options)

    def to_onnx(self, path: str | os.PathLike[str], dtype: str = "float64", **options: Any) -> Path:
        """An ONNX file in float64 or float32: see `constructions.export.to_onnx`."""
        from constructions.export import to_onnx

        return to_onnx(self, path, dtype, **options)

    def to_peft(
        self, path: str | os.PathLike[str], backbone: Backbone | BackboneConfig | None = None, **options: Any
    ) -> Path:
        """A PEFT prefix-tuning adapter for the universal backbone: see `constructions.export.to_peft`."""
        from constructions.export import to_peft

        return to_peft(self, path, backbone, **options)


def on_sphere(sphere: Sphere, points: Float[np.ndarray, "*batch n"]) -> None:
    """Raise ValueError if a point is not on the sphere up to rounding: nothing is proved about it."""
    inside = sphere.contains(points)
    if not inside.all():
        worst = points.reshape(-1, points.shape[-1])[int(np.argmin(inside.ravel()))]
        raise ValueError(
            f"x: ({', '.join(f'{v:.6g}' for v in worst)}) has norm {float(np.linalg.norm(worst)):.17g}, not on {sphere!r}: divide by the norm "
            "(in float64)"
        )


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
    method = str(notes.get("method", "?"))
    theorem = _theorem(method, notes.get("theorem"))
    return Compiled(artefact.claim, artefact.certificate, method, grid, terms, rechecked=False, theorem=theorem)


def _theorem(method: str, stored: Any) -> Theorem | None:
    """The theorem behind a stored result, from the numbers it was evaluated at; None where there is none, or they are no numbers."""
    if not isinstance(stored, Mapping):
        return None
    from constructions.petrov2024.jackson import theorem_for

    try:
        at = {str(k): float.fromhex(v) for k, v in stored.items()}
        m, length = int(at["m"]), int(at.get("T", 1))
        return theorem_for(method, m, eps=at["eps"], lipschitz=at["L"], bound_f=at.get("F"), length=length)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
