"""The folder of a PEFT adapter: written whole or not at all, and read again with its certificate.

certificate.json says besides the certificate what it is about: the dtype, the sizes of the backbone, and the SHA-256 of the prefix. PEFT reads
none of that: `checked_adapter` does, for a folder that has been elsewhere, or a backbone that the prefix may not be for.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from constructions.export.checked import ExportError, place, required
from constructions.export.placement import Sizes
from verify.certificate import Certificate, CertificateError

__all__ = ["checked_adapter", "sizes_of", "write_adapter"]

_NAMES = ("adapter_config.json", "adapter_model.safetensors", "certificate.json")
_MATRIX = "prompt_embeddings"


def sizes_of(backbone: Any) -> Sizes:
    """The sizes of a backbone or of its configuration. Raises ExportError for anything else."""
    config = getattr(backbone, "config", backbone)
    names = ("inputs", "outputs", "work", "num_hidden_layers", "num_attention_heads")
    if not all(isinstance(getattr(config, name, None), int) for name in names):
        raise ExportError(
            f"backbone: {type(backbone).__name__}, expected what `backbone_for` makes, or its configuration"
        )
    return Sizes(*(getattr(config, name) for name in names))


def write_adapter(
    path: Path,
    array: Float[np.ndarray, "tokens layers two heads width"],
    sizes: Sizes,
    certificate: Certificate,
    dtype: str,
) -> Path:
    """Write the folder beside its place and move it there; an adapter that is there is moved away first, and back if that fails.

    Links are followed. Raises ExportError where something else is, or where nothing can be written.
    """
    required("peft", "to_peft")
    from peft import PrefixTuningConfig, TaskType
    from safetensors.numpy import save_file

    target = _target(path)
    count = len(array)
    config = PrefixTuningConfig(
        task_type=TaskType.FEATURE_EXTRACTION,
        inference_mode=True,
        num_virtual_tokens=count,
        token_dim=sizes.heads * sizes.width,
        num_transformer_submodules=1,
        num_attention_heads=sizes.heads,
        num_layers=sizes.layers,
        encoder_hidden_size=sizes.heads * sizes.width,
        prefix_projection=False,
    )
    matrix = np.ascontiguousarray(array.reshape(count, -1), dtype=np.float32)
    notes = {"dtype": dtype, "backbone": asdict(sizes), f"{_MATRIX}_sha256": _hash(matrix)}
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name[:40]}.") as scratch:
            folder = Path(scratch) / "adapter"
            folder.mkdir()
            config.save_pretrained(str(folder))
            save_file({_MATRIX: matrix}, folder / _NAMES[1], {"format": "pt"})
            (folder / _NAMES[2]).write_text(json.dumps({**notes, **certificate.to_json()}, indent=2) + "\n")
            _put(folder, target, Path(scratch) / "replaced")
    except OSError as error:
        raise ExportError(f"path: {path} cannot be written ({error.strerror or error})") from error
    return path


def _target(path: Path) -> Path:
    """The folder that a path means. Raises ExportError if something else is there."""
    try:
        target = Path(os.path.realpath(path))
        here = Path(os.path.realpath("."))
        if target == here or target in here.parents:
            raise ExportError(f"path: {path} is the current folder, or around it. Name one inside")
        if target.is_symlink():
            raise ExportError(f"path: {path} is a link to itself. Choose another place")
        if os.path.lexists(target):
            found = [p.name for p in target.iterdir()] if target.is_dir() else ["a file"]
            if found and (_NAMES[0] not in found or set(found) - {*_NAMES, "README.md"}):
                raise ExportError(f"path: {path} exists and is no adapter. Choose another place")
    except OSError as error:
        raise ExportError(f"path: {path} cannot be written ({error.strerror or error})") from error
    return target


def _put(folder: Path, target: Path, aside: Path) -> None:
    """Move a folder to where there may be another, which is moved aside, and back where the first move fails or is interrupted."""
    if not target.exists():
        os.replace(folder, target)
        return
    os.rename(target, aside)
    try:
        os.replace(folder, target)
    except BaseException:
        os.rename(aside, target)
        raise


def checked_adapter(path: str | os.PathLike[str], backbone: Any = None) -> Certificate:
    """The certificate of an adapter's folder, after a look at whether it is about the prefix that lies there, and about this backbone.

    backbone: the model it is to be loaded onto, or its configuration; None: not looked at. `PeftModel.from_pretrained` looks at nothing: a prefix
    that was changed, or one for other inputs of the same width, computes something. Raises ExportError for a folder that is no such
    adapter, a prefix whose SHA-256 is another, a backbone of other sizes or in another dtype.
    """
    required("safetensors", "checked_adapter")
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    folder = place(path)
    try:
        notes = json.loads((folder / _NAMES[2]).read_text())
        matrix = load_file(folder / _NAMES[1])[_MATRIX]
        certificate = Certificate.from_json(notes)
        dtype, made_for, digest = notes["dtype"], Sizes(**notes["backbone"]), notes[f"{_MATRIX}_sha256"]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, CertificateError) as error:
        raise ExportError(f"path: {folder} is no adapter with a certificate ({error})") from error
    if _hash(matrix) != digest:
        raise ExportError(
            f"path: the prefix in {folder / _NAMES[1]} is not the one that {_NAMES[2]} is about. Export it again, or trust nothing said there"
        )
    if backbone is None:
        return certificate
    there = sizes_of(backbone)
    if there != made_for:
        raise ExportError(
            f"backbone: {there}, the adapter is for {made_for}. Load it onto that, or export it for this one"
        )
    runs_in = str(getattr(backbone, "dtype", dtype)).removeprefix("torch.")
    if hasattr(backbone, "parameters") and runs_in != dtype:
        raise ExportError(
            f"backbone: runs in {runs_in}, the certificate is about {dtype}. Use backbone.to(torch.{dtype})"
        )
    return certificate


def _hash(matrix: Float[np.ndarray, "tokens all"]) -> str:
    """SHA-256 of shape and numbers."""
    plain = np.ascontiguousarray(matrix, dtype="<f4")
    return hashlib.sha256(repr(plain.shape).encode() + plain.tobytes()).hexdigest()
