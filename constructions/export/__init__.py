"""Compiled prefixes where models run: PyTorch modules, ONNX graphs, PEFT adapters on a Hugging Face backbone, and training
that starts from one. Extras, imported when used."""

from constructions.export.adapter import backbone_for, past_key_values, to_peft
from constructions.export.adapter_folder import checked_adapter
from constructions.export.checked import ExecutionError, ExportError, MissingExtraError
from constructions.export.formats import to_onnx, to_torch
from constructions.export.warm_start import WarmStart, warm_start

__all__ = [
    "ExecutionError",
    "ExportError",
    "MissingExtraError",
    "WarmStart",
    "backbone_for",
    "checked_adapter",
    "past_key_values",
    "to_onnx",
    "to_peft",
    "to_torch",
    "warm_start",
]
