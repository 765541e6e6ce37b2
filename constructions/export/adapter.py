"""`to_peft`: a compiled prefix as a PEFT prefix-tuning adapter, and the backbone it is loaded onto.

PEFT stores a prefix as one float32 matrix (tokens, layers * 2 * heads * width), keys before values in each layer, and hands it to the model as
past_key_values. So the parameters are the float32 ones, whatever the backbone runs in, and the certificate is about these.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from constructions.export.adapter_folder import sizes_of, write_adapter
from constructions.export.checked import ExportError, dtype_name, place, required
from constructions.export.placement import Sizes, adapter_array, filled, needs
from verify.certificate import Certificate, unbounded
from verify.formats import FLOAT32, FLOAT64, FormatError, cast_claim, prove_in_blocks, prove_in_format
from verify.prove import Claim, prove

if TYPE_CHECKING:
    from constructions.compiled import Compiled
    from constructions.export.backbone import Backbone, BackboneConfig

__all__ = ["backbone_for", "past_key_values", "to_peft"]

_FAST_WIDTH = 16
"""Slots are filled up to a multiple of this: a vector register of float32."""


def backbone_for(*compiled: Compiled, dtype: Any = "float32") -> Backbone:
    """A backbone that holds every one of these compiled prefixes, as small as that allows (the width a multiple of 16).

    dtype: what it runs in, float64, float32 or bfloat16, a name or type. Raises MissingExtraError without transformers, ExportError for a
    prefix that no backbone holds, another dtype, or if nothing compiled is given.
    """
    if not compiled:
        raise ExportError("backbone_for: no compiled prefix given; it takes those that the backbone is to hold")
    for c in compiled:
        if not all(hasattr(c, name) for name in ("model", "claim")):
            raise ExportError(f"backbone_for: {c!r} is no compiled prefix; it takes those that the backbone is to hold")
    name = dtype_name(dtype)
    torch = required("torch", "backbone_for")
    required("transformers", "backbone_for")
    from constructions.export.backbone import Backbone, BackboneConfig

    every = [needs(c) for c in compiled]
    sizes = Sizes(*(max(getattr(s, f) for s in every) for f in ("inputs", "outputs", "work", "layers", "heads")))
    work = sizes.work + (-sizes.width) % _FAST_WIDTH
    config = BackboneConfig(sizes.inputs, sizes.outputs, work, sizes.layers, sizes.heads)
    return Backbone(config).to(getattr(torch, name)).eval()


def to_peft(
    c: Compiled,
    path: str | os.PathLike[str],
    backbone: Backbone | BackboneConfig | None = None,
    dtype: Any = None,
    *,
    tokens: int | None = None,
    unproved: bool = False,
) -> Path:
    """Write a folder that `PeftModel.from_pretrained(backbone, path)` loads: adapter_config.json, adapter_model.safetensors (float32) and
    certificate.json.

    backbone: what it is for (None: the one `backbone_for(c)` makes); dtype: what the backbone will run in, and what is certified, with
    parameters rounded to float32 (None: what a given model runs in, float32 without one); tokens: number of prefix tokens, where others are to
    have as many; unproved: write it even if that dtype is not proved to hold eps. The folder is written whole or not at all; an adapter that is
    there is replaced. `adapter_folder.checked_adapter` reads it again. Raises MissingExtraError without peft, ExportError where the prefix does
    not fit the backbone, the dtype, or the place.
    """
    required("peft", "to_peft")
    where = place(path)
    runs_in = _runs_in(backbone)
    name = dtype_name(dtype) if dtype is not None else runs_in or "float32"
    if runs_in not in (None, name):
        raise ExportError(
            f"dtype: {name}, but the backbone given runs in {runs_in}. Pass dtype='{runs_in}', or backbone.to(torch.{name})"
        )
    sizes = _sizes(c, backbone)
    needs(c)
    claim = filled(c.claim, tokens)
    claim, certificate = _certified(claim, name)
    if not certificate.proved and not unproved:
        raise ExportError(
            f"to_peft: parameters in float32, run in {name}: not proved to be within eps = {c.eps:.4g}: "
            f"{certificate.reason or certificate.status}. Pass dtype='float64' and run the backbone in it, compile with a larger eps, or pass "
            "unproved=True"
        )
    return write_adapter(where, adapter_array(claim, sizes), sizes, certificate, name)


def past_key_values(c: Compiled, backbone: Backbone, tokens: int | None = None, batch: int = 1) -> Any:
    """The prefix as a transformers cache for `backbone(inputs_embeds=..., past_key_values=...)`: what PEFT injects, without PEFT.

    Parameters are rounded to float32 as in the adapter, then to the backbone's dtype.
    """
    torch = required("torch", "past_key_values")
    required("transformers", "past_key_values")
    if isinstance(batch, bool) or not isinstance(batch, (int, np.integer)) or batch < 1:
        raise ExportError(f"batch: {batch!r}, expected a whole number >= 1")
    sizes = _sizes(c, backbone)
    if _runs_in(backbone) is None:
        raise ExportError(
            "past_key_values: it takes the backbone itself, which has a dtype and a device, not its configuration"
        )
    from transformers.cache_utils import DynamicCache

    array = adapter_array(cast_claim(filled(c.claim, tokens), FLOAT32), sizes)
    prefix = torch.from_numpy(array.astype(np.float32)).to(backbone.dtype).to(backbone.device)
    prefix = prefix.permute(1, 2, 3, 0, 4)[:, :, None].expand(-1, -1, int(batch), -1, -1, -1)
    return DynamicCache([(layer[0], layer[1]) for layer in prefix])


def _runs_in(backbone: Any) -> str | None:
    """The dtype of a model, None for a configuration or nothing."""
    return (
        str(backbone.dtype).removeprefix("torch.")
        if hasattr(backbone, "parameters") and hasattr(backbone, "dtype")
        else None
    )


def _sizes(c: Compiled, backbone: Any) -> Sizes:
    if backbone is None:
        required("transformers", "to_peft")
        backbone = backbone_for(c)
    return sizes_of(backbone)


def _certified(claim: Claim, dtype: str) -> tuple[Claim, Certificate]:
    """The claim with float32 parameters, and what is proved of its execution in a dtype, attention in blocks included."""
    try:
        stored = cast_claim(claim, FLOAT32)
        if dtype != "float64":
            return stored, prove_in_format(stored, dtype, seconds=60.0).certificate
    except FormatError as error:
        raise ExportError(f"to_peft: {error}. PEFT stores float32: compile with a larger eps.") from error
    found = prove_in_blocks(stored, prove(stored, max_boxes=200_000, seconds=60.0), seconds=60.0)
    if found.proved and FLOAT64.execution not in found.assumptions:
        reason = "float64: proved for one softmax in a single piece, not in blocks"
        found = unbounded(found.eps, found.boxes, reason, error_lower=found.error_lower, witness=found.witness)
    return stored, found
