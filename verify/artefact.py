"""A claim and its certificate as one file: safetensors for the arrays, JSON metadata for the rest, nothing executable.

Layout of the safetensors metadata (all values are text):
    format    "prefix-compiler"
    version   "1"
    document  JSON: {"layers", "target", "domain", "eps", "certificate", "construction"}
    sha256    of the document and of every array's name, shape and bytes, in the order of the names
Floats inside the document are hexadecimal text. `check` believes none of it: it reads the arrays, the target and eps, and
proves again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialise

from verify.certificate import EXECUTION, Certificate, CertificateError, Status
from verify.circuit import CircuitError, CircuitHint
from verify.domain import Box, BoxError
from verify.expression import ExpressionError
from verify.model import Head, Layer, ModelError, Prefix, Transformer
from verify.prove import Claim, Domain, Progress, prove
from verify.sequences import Sequences
from verify.sphere import Sphere
from verify.target import LipschitzTarget, TargetError, target_from

__all__ = [
    "FORMAT",
    "VERSION",
    "Artefact",
    "ArtefactError",
    "check",
    "content_hash",
    "load",
    "read_parts",
    "save",
    "write_whole",
]

FORMAT = "prefix-compiler"
VERSION = "1"


class ArtefactError(ValueError):
    """A file that is not a readable, untouched artefact; the message names the file and the field."""


@dataclass(frozen=True, eq=False)
class Artefact:
    """What a file holds: a claim, the certificate it was saved with, and the construction's own notes and arrays (believed by
    nobody; stored under "grid."). Arrays under "hint." help a proof to be quick; nothing depends on them."""

    claim: Claim
    certificate: Certificate
    construction: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


def save(path: str | os.PathLike[str], artefact: Artefact) -> Path:
    """Write an artefact, whole or not at all. Returns the path. Raises ArtefactError if the place cannot be written."""
    target = Path(path)
    arrays, document = _pack(artefact)
    text = json.dumps(document, sort_keys=True, allow_nan=False)
    metadata = {"format": FORMAT, "version": VERSION, "document": text, "sha256": content_hash(arrays, text)}
    data = serialise({name: np.ascontiguousarray(array) for name, array in arrays.items()}, metadata)
    write_whole(target, data)
    return target


def write_whole(target: Path, data: bytes) -> None:
    """Write bytes to a temporary file beside the target, then move it into place."""
    handle, temporary = -1, ""
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "wb") as stream:
            handle = -1
            stream.write(data)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, target)
    except OSError as error:
        raise ArtefactError(f"{target}: cannot be written ({error.strerror}); nothing was left behind") from error
    finally:
        if handle >= 0:
            os.close(handle)
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)


def read_parts(target: Path) -> tuple[dict[str, np.ndarray], str]:
    """The arrays and the JSON document of a file of this format, its hash checked. Raises ArtefactError naming the file and the field."""
    if not target.is_file():
        raise ArtefactError(f"{target}: no such file")
    try:
        with safe_open(str(target), framework="numpy") as stream:
            metadata = stream.metadata() or {}
            arrays = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, OverflowError, AttributeError) as error:
        raise ArtefactError(f"{target}: not a whole safetensors file ({error})") from error
    for entry in ("format", "version", "document", "sha256"):
        if entry not in metadata:
            raise ArtefactError(f"{target}: field {entry!r} is missing; this is not a compiled prefix")
    if metadata["format"] != FORMAT:
        raise ArtefactError(f"{target}: field 'format' is {metadata['format']!r}, expected {FORMAT!r}")
    if metadata["version"] != VERSION:
        raise ArtefactError(
            f"{target}: field 'version' is {metadata['version']!r}; this program reads version {VERSION}"
        )
    for name, array in arrays.items():
        if array.dtype != np.float64:
            raise ArtefactError(f"{target}: field {name!r} has type {array.dtype}, expected float64")
    if content_hash(arrays, metadata["document"]) != metadata["sha256"]:
        raise ArtefactError(
            f"{target}: field 'sha256' does not match the content; the file was changed after it was written"
        )
    return arrays, metadata["document"]


def load(path: str | os.PathLike[str]) -> Artefact:
    """Read an artefact. Executes nothing that is stored. Raises ArtefactError naming the file and the field."""
    target = Path(path)
    arrays, text = read_parts(target)
    try:
        document = json.loads(text)
        if "statement" in document:
            raise ArtefactError(f"{target}: holds a statement, not a compiled prefix; see `verify.load_statement`")
        return _unpack(arrays, document)
    except ArtefactError:
        raise
    except (ModelError, TargetError, ExpressionError, CertificateError, CircuitError, BoxError) as error:
        raise ArtefactError(f"{target}: {error}") from error
    except KeyError as error:
        raise ArtefactError(f"{target}: field {error.args[0]!r} is missing") from error
    except (TypeError, ValueError, AttributeError, IndexError, RecursionError, OverflowError) as error:
        raise ArtefactError(f"{target}: field 'document' is not readable ({error})") from error


def check(path: str | os.PathLike[str], *, progress: Progress | None = None, **options: Any) -> Certificate:
    """Prove the claim in a file again, from the file alone. Returns the fresh certificate; the stored one plays no part,
    except that a stored status "proved" which cannot be proved again is said so in `reason`."""
    artefact = load(path)
    fresh = prove(artefact.claim, progress=progress, **options)
    if artefact.certificate.proved and fresh.status is Status.UNDECIDED:
        note = "the file's certificate says proved, but that could not be proved again; " + fresh.reason
        return Certificate(**{**fresh.__dict__, "reason": note})
    return fresh


def content_hash(arrays: Mapping[str, np.ndarray], document: str) -> str:
    """SHA-256 of the document and of every array, in the order of the names."""
    digest = hashlib.sha256(document.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _consistent(certificate: Certificate, claim: Claim) -> None:
    """A stored certificate must at least state the assumptions its claim has: they cannot be edited away."""
    if certificate.conditional != isinstance(claim.target, LipschitzTarget):
        raise CertificateError("certificate: 'conditional' does not fit the target")
    if EXECUTION not in certificate.assumptions:
        raise CertificateError("certificate: 'assumptions' lacks the model of execution")
    if certificate.conditional and not any(a.startswith("declared") for a in certificate.assumptions):
        raise CertificateError("certificate: 'assumptions' lacks the declared Lipschitz constant")
    left_out = claim.domain.measure_of_gaps() if isinstance(claim.domain, Sequences) and claim.domain.gaps else 0.0
    if certificate.exceptional != left_out:
        raise CertificateError("certificate: 'exceptional' is not the measure of the domain's gaps")
    if certificate.lp is not None and not isinstance(claim.domain, Sequences):
        raise CertificateError("certificate: 'lp' belongs to claims about sequences")
    if certificate.witness is not None and not (
        len(certificate.witness) == claim.domain.dimension
        and claim.domain.contains(_points(claim.domain, certificate.witness)).all()
    ):
        raise CertificateError("certificate: 'witness' is not a point of the domain")


def _points(domain: Domain, witness: tuple[float, ...]) -> np.ndarray:
    """A witness as one point of the domain, or one sequence."""
    point = np.array([witness])
    return point.reshape(1, domain.T, -1) if isinstance(domain, Sequences) else point


def _domain(data: Mapping[str, Any]) -> Domain:
    """A stored domain. Raises BoxError, KeyError or ValueError."""
    kinds = {"box": Box, "sphere": Sphere, "sequences": Sequences}
    kind = data.get("kind", "box")
    if kind not in kinds:
        raise BoxError(f"domain: unknown kind {kind!r}")
    return kinds[kind].from_json(data)


def _pack(artefact: Artefact) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    claim = artefact.claim
    model, prefix = claim.model, claim.prefix
    arrays = {"model.embedding": model.embedding, "model.offset": model.offset, "model.readout": model.readout}
    layers = []
    for l, layer in enumerate(model.layers):
        for h, head in enumerate(layer.heads):
            name = f"model.layers.{l}.heads.{h}"
            arrays |= {f"{name}.query": head.query, f"{name}.output": head.output}
            if head.key is not None and head.value is not None:
                arrays |= {f"{name}.key": head.key, f"{name}.value": head.value}
            arrays |= {f"prefix.{l}.{h}.keys": prefix.keys[l][h], f"prefix.{l}.{h}.values": prefix.values[l][h]}
        layers.append(
            {
                "heads": len(layer.heads),
                "residual": layer.residual,
                "data": [h.attends_to_data for h in layer.heads],
                "normalised": [h.normalised for h in layer.heads],
            }
        )
    target_meta, target_arrays = claim.target.to_json()
    if claim.cuts is not None:
        arrays |= {f"hint.cuts.{i}": np.asarray(cut, dtype=np.float64) for i, cut in enumerate(claim.cuts)}
    if model.positions is not None:
        arrays["model.positions"] = model.positions
    document = {
        "layers": layers,
        "target": target_meta,
        "domain": {"kind": type(claim.domain).__name__.lower()} | claim.domain.to_json(),
        "sequence_length": claim.sequence_length,
        "circuit": None if claim.circuit is None else claim.circuit.to_json(),
        "eps": float(claim.eps).hex(),
        "certificate": artefact.certificate.to_json(),
        "construction": dict(artefact.construction),
    }
    notes = {f"grid.{name}": np.asarray(array, dtype=np.float64) for name, array in artefact.arrays.items()}
    return arrays | target_arrays | notes, document


def _unpack(arrays: dict[str, np.ndarray], document: dict[str, Any]) -> Artefact:
    layers, keys, values = [], [], []
    used = {"model.embedding", "model.offset", "model.readout", "model.positions"}
    for l, row in enumerate(document["layers"]):
        heads = []
        for h in range(int(row["heads"])):
            name = f"model.layers.{l}.heads.{h}"
            extra = {}
            if row["data"][h]:
                extra = {"key": arrays[f"{name}.key"], "value": arrays[f"{name}.value"]}
                used |= {f"{name}.key", f"{name}.value"}
            normalised = row["normalised"][h] is not False if "normalised" in row else True
            heads.append(Head(arrays[f"{name}.query"], arrays[f"{name}.output"], **extra, normalised=normalised))
            used |= {f"{name}.query", f"{name}.output", f"prefix.{l}.{h}.keys", f"prefix.{l}.{h}.values"}
        layers.append(Layer(tuple(heads), bool(row["residual"])))
        keys.append(tuple(arrays[f"prefix.{l}.{h}.keys"] for h in range(int(row["heads"]))))
        values.append(tuple(arrays[f"prefix.{l}.{h}.values"] for h in range(int(row["heads"]))))
    unknown = {name for name in arrays if name not in used and not name.startswith(("target.", "grid.", "hint."))}
    if unknown:
        raise ModelError(f"field {sorted(unknown)[0]!r} is not part of the model")
    model = Transformer(
        arrays["model.embedding"],
        arrays["model.offset"],
        tuple(layers),
        arrays["model.readout"],
        arrays.get("model.positions"),
    )
    prefix = Prefix(tuple(keys), tuple(values))
    target = target_from(document["target"], arrays)
    domain = _domain(document["domain"])
    length = document.get("sequence_length", 1)
    cuts = None
    if "hint.cuts.0" in arrays and isinstance(domain, Sequences):
        cuts = tuple(arrays[f"hint.cuts.{i}"] for i in range(domain.box.dimension))
    circuit = None if document.get("circuit") is None else CircuitHint.from_json(document["circuit"])
    claim = Claim(model, prefix, target, domain, float.fromhex(document["eps"]), length, cuts, circuit)
    certificate = Certificate.from_json(document["certificate"])
    if certificate.eps != claim.eps:
        raise CertificateError(f"certificate: eps is {certificate.eps!r}, the claim's is {claim.eps!r}")
    _consistent(certificate, claim)
    notes = {name.removeprefix("grid."): array for name, array in arrays.items() if name.startswith("grid.")}
    return Artefact(claim, certificate, dict(document["construction"]), notes)
