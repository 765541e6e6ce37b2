"""`to_torch` and `to_onnx`: a compiled prefix for where models run, with the certificate of the format it goes out in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from constructions.export.checked import ExportError, certified, described, required
from verify.sequences import Sequences

if TYPE_CHECKING:
    from constructions.compiled import Compiled
    from constructions.export.torch_module import PrefixModule

__all__ = ["to_onnx", "to_torch"]


def to_torch(c: Compiled, dtype: Any = "float64", device: Any = "cpu", *, unproved: bool = False) -> PrefixModule:
    """A frozen `torch.nn.Module` computing the compiled function: points (batch, n) -> (batch, k), or sequences (batch, T, n).

    dtype: float64, float32 or bfloat16, as a name or torch.dtype. The module's `certificate` is what is proved of its execution in that
    dtype; `unproved`: export even where nothing is. Raises MissingExtraError without PyTorch, ExportError where the dtype is not one of
    these or does not hold eps.
    """
    torch = required("torch", "to_torch")
    name = str(dtype).removeprefix("torch.")
    found = certified(c, name, unproved)
    from constructions.export.torch_module import PrefixModule

    module = PrefixModule(found.claim.model, found.claim.prefix, found.certificate, getattr(torch, name))
    return module.to(device).eval()


def to_onnx(c: Compiled, path: str | os.PathLike[str], dtype: str = "float64", *, unproved: bool = False) -> Path:
    """Write an ONNX file (input x, output y) that onnxruntime runs: x is (batch, n), or (batch, T, n) where tokens attend to one another.

    dtype: "float64" or "float32". The certificate's numbers go into the file's metadata. The file is written whole or not at all. A batch's
    attention weights (batch x tokens) are held in memory by the runtime: give it batches of some thousands. Raises MissingExtraError
    without onnx, ExportError where the dtype is another or does not hold eps.
    """
    required("onnx", "to_onnx")
    if dtype not in ("float64", "float32"):
        raise ExportError(f"dtype: {dtype!r}, an ONNX graph is float64 or float32. Use to_torch for bfloat16.")
    found = certified(c, dtype, unproved)
    from constructions.export.onnx_graph import onnx_model, write_onnx

    heads = [head for layer in c.model.layers for head in layer.heads]
    sequences = isinstance(c.domain, Sequences) or any(head.attends_to_data for head in heads)
    model, prefix = found.claim.model, found.claim.prefix
    return write_onnx(path, onnx_model(model, prefix, dtype, sequences, described(found.certificate, dtype)))
