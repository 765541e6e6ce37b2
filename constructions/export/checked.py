"""What every export needs: packages that may be missing, and a certificate for the format it is made in."""

from __future__ import annotations

import math
import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verify.certificate import Certificate
from verify.formats import FORMATS, FormatError, InFormat, format_named, prove_in_blocks, prove_in_format

if TYPE_CHECKING:
    from constructions.compiled import Compiled

__all__ = [
    "ExecutionError",
    "ExportError",
    "MissingExtraError",
    "certified",
    "described",
    "dtype_name",
    "place",
    "required",
]


class ExportError(ValueError):
    """Something that cannot be exported as asked; the message gives the numbers and what would do."""


class ExecutionError(RuntimeError):
    """An execution that the certificate is not about; the message says what to do."""


class MissingExtraError(ImportError):
    """A package of an extra is not installed; the message names the command that installs it."""


def required(package: str, purpose: str, extra: str = "export") -> Any:
    """Import a package of an extra. Raises MissingExtraError naming the command to run."""
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingExtraError(
            f"{purpose} needs the package {package}, which cannot be imported ({error}). Run pip install 'prefix-compiler[{extra}]'."
        ) from error


def dtype_name(dtype: Any) -> str:
    """The name of a dtype given by its name, as a torch.dtype, or as a NumPy type. Raises ExportError unless it is one of `FORMATS`."""
    try:
        return format_named(dtype).name
    except FormatError as error:
        raise ExportError(f"dtype: {dtype!r} is unknown. Pass one of {', '.join(FORMATS)}.") from error


def place(path: Any) -> Path:
    """A path to write to. Raises ExportError for what is none."""
    try:
        text = os.fsdecode(path)
    except TypeError as error:
        raise ExportError(f"path: {path!r}, expected text or a Path") from error
    if not text or "\0" in text:
        raise ExportError(
            f"path: {path!r} is {'empty' if not text else 'no path: it has a NUL character'}. Name a place"
        )
    return Path(text)


def certified(c: Compiled, name: str, unproved: bool, seconds: float = 60.0) -> InFormat:
    """The proof for a format ("float64", "float32", "bfloat16"), and the parameters in it.

    For float64 the parameters are what they are, and the certificate (of an object read from a file, the stored one) is widened to kernels that
    compute a softmax in blocks, where that can be proved. Raises ExportError where the format is unknown or does not hold
    the parameters, and, unless `unproved`, where the format is not proved to hold eps, with both terms of the error.
    """
    name = dtype_name(name)
    try:
        if name == "float64":
            wide = prove_in_blocks(c.claim, c.certificate, seconds=seconds)
            found = InFormat(FORMATS[name], c.claim, c.certificate, wide)
        else:
            found = prove_in_format(c.claim, name, seconds=seconds)
    except FormatError as error:
        raise ExportError(f"dtype {name}: {error}. Use a wider dtype.") from error
    if not found.proved and not unproved:
        step = (
            "Compile"
            if name == "float64"
            else f"Compile for it, compile_prefix(..., dtype={name!r}), export with dtype='float64', compile"
        )
        raise ExportError(
            f"dtype {name}: not proved to be within eps = {c.eps:.4g}: {found.certificate.reason or found.certificate.status}. "
            f"{step} with a larger eps, or pass unproved=True to export without a certificate."
        )
    return found


def described(certificate: Certificate, name: str) -> dict[str, str]:
    """The certificate in words that fit a file's metadata."""
    bound = certificate.error_upper
    return {
        "prefix_compiler.format": name,
        "prefix_compiler.status": str(certificate.status),
        "prefix_compiler.eps": repr(certificate.eps),
        "prefix_compiler.error_upper": repr(bound) if math.isfinite(bound) else "unknown",
        "prefix_compiler.rounding": repr(certificate.rounding) if math.isfinite(certificate.rounding) else "unknown",
        "prefix_compiler.assumptions": " | ".join(certificate.assumptions),
    }
