"""`to_torch` and `to_onnx`: a compiled prefix for where models run, with the certificate of the format it goes out in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from constructions.export.checked import ExportError, certified, described, dtype_name, place, required
from verify.formats import FLOAT64
from verify.sequences import Sequences

if TYPE_CHECKING:
    from constructions.compiled import Compiled
    from constructions.export.torch_module import PrefixModule

__all__ = ["to_onnx", "to_torch"]


def to_torch(c: Compiled, dtype: Any = "float64", device: Any = "cpu", *, unproved: bool = False) -> PrefixModule:
    """A frozen `torch.nn.Module` computing the compiled function: points (batch, n) -> (batch, k), or sequences (batch, T, n).

    dtype: float64, float32 or bfloat16, as a name or torch.dtype. The module's `certificate` is what is proved of its execution in that
    dtype; `unproved`: export even where nothing is. Raises MissingExtraError without PyTorch, ExportError where the dtype is not one of
    these or does not hold eps, or the device is not there.
    """
    torch = required("torch", "to_torch")
    name = dtype_name(dtype)
    found = certified(c, name, unproved)
    from constructions.export.torch_module import PrefixModule

    whole = name == "float64" and found.proved and FLOAT64.execution not in found.certificate.assumptions
    parts = (found.claim.model, found.claim.prefix, found.certificate, getattr(torch, name))
    module = PrefixModule(*parts, tokens=_tokens(c), whole=whole)
    try:
        return module.to(device).eval()
    except (AssertionError, RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        raise ExportError(f"device: {device!r} cannot be used ({error}). Pass device='cpu'.") from error


def _tokens(c: Compiled) -> tuple[int, int] | None:
    """The least and the most tokens in a sequence that a certificate is about; None where tokens do not see one another."""
    if isinstance(c.domain, Sequences):
        return (c.domain.T, c.domain.T)
    if any(head.attends_to_data for layer in c.model.layers for head in layer.heads):
        return (1, c.claim.sequence_length)
    return None


def to_onnx(c: Compiled, path: str | os.PathLike[str], dtype: Any = "float64", *, unproved: bool = False) -> Path:
    """Write an ONNX file (input x, output y) that onnxruntime runs: x is (batch, n), or (batch, T, n) where tokens attend to one another.

    dtype: float64 or float32, as a name or type. The certificate's numbers go into the file's metadata. The file is written whole or not at all. A batch's
    attention weights (batch x tokens) are held in memory by the runtime: give it batches of some thousands. For tokens that attend
    to one another T is free; metadata say how many the certificate is about. Raises MissingExtraError without onnx, ExportError where the dtype is
    another or does not hold eps, or the path cannot be one.
    """
    required("onnx", "to_onnx")
    target, name = place(path), dtype_name(dtype)
    if name not in ("float64", "float32"):
        raise ExportError(f"dtype: {dtype!r}, an ONNX graph is float64 or float32. Use to_torch for bfloat16.")
    found = certified(c, name, unproved)
    from constructions.export.onnx_graph import onnx_model, write_onnx

    heads = [head for layer in c.model.layers for head in layer.heads]
    sequences = isinstance(c.domain, Sequences) or any(head.attends_to_data for head in heads)
    model, prefix = found.claim.model, found.claim.prefix
    notes, tokens = described(found.certificate, name), _tokens(c)
    if tokens is not None:
        notes["prefix_compiler.tokens"] = f"{tokens[0]} to {tokens[1]}"
    return write_onnx(target, onnx_model(model, prefix, name, sequences, notes))
