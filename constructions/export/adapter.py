"""`to_peft`: a compiled prefix as a PEFT prefix-tuning adapter, and the backbone it is loaded onto.

PEFT stores a prefix as one float32 matrix (tokens, layers * 2 * heads * width), keys before values in each layer, and hands it to the model as
past_key_values. So the parameters are the float32 ones, whatever the backbone runs in, and the certificate is about these.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from constructions.export.checked import ExportError, required
from constructions.export.placement import Sizes, adapter_array, filled, needs
from verify.certificate import Certificate
from verify.formats import FLOAT32, FORMATS, FormatError, cast_claim, prove_in_format
from verify.prove import Claim, prove

if TYPE_CHECKING:
    from constructions.compiled import Compiled
    from constructions.export.backbone import Backbone, BackboneConfig

__all__ = ["backbone_for", "past_key_values", "to_peft"]

_FAST_WIDTH = 16
"""Slots are filled up to a multiple of this: a vector register of float32."""
_NAMES = ("adapter_config.json", "adapter_model.safetensors", "certificate.json")


def backbone_for(*compiled: Compiled, dtype: Any = "float32") -> Backbone:
    """A backbone that holds every one of these compiled prefixes, as small as that allows (the width a multiple of 16).

    dtype: what it runs in, a name or torch.dtype. Raises MissingExtraError without transformers, ExportError for a prefix that no backbone
    holds, or if none is given.
    """
    if not compiled:
        raise ExportError("backbone_for: no compiled prefix given; it takes those that the backbone is to hold")
    torch = required("torch", "backbone_for")
    required("transformers", "backbone_for")
    from constructions.export.backbone import Backbone, BackboneConfig

    every = [needs(c) for c in compiled]
    sizes = Sizes(*(max(getattr(s, f) for s in every) for f in ("inputs", "outputs", "work", "layers", "heads")))
    work = sizes.work + (-sizes.width) % _FAST_WIDTH
    config = BackboneConfig(sizes.inputs, sizes.outputs, work, sizes.layers, sizes.heads)
    return Backbone(config).to(getattr(torch, str(dtype).removeprefix("torch."))).eval()


def to_peft(
    c: Compiled,
    path: str | os.PathLike[str],
    backbone: Backbone | BackboneConfig | None = None,
    dtype: str = "float32",
    *,
    tokens: int | None = None,
    unproved: bool = False,
) -> Path:
    """Write a folder that `PeftModel.from_pretrained(backbone, path)` loads: adapter_config.json, adapter_model.safetensors (float32) and
    certificate.json.

    backbone: what it is for (None: the one `backbone_for(c)` makes); dtype: what the backbone will run in, and what is certified, with
    parameters rounded to float32; tokens: number of prefix tokens, where others are to have as many; unproved: write it even if that
    dtype is not proved to hold eps. The folder is written whole or not at all; an adapter that is there is replaced. Raises
    MissingExtraError without peft, ExportError where the prefix does not fit the backbone, the dtype, or the place.
    """
    required("peft", "to_peft")
    sizes = _sizes(c, backbone)
    needs(c)
    claim = filled(c.claim, tokens)
    claim, certificate = _certified(claim, dtype)
    if not certificate.proved and not unproved:
        raise ExportError(
            f"to_peft: parameters in float32, run in {dtype}: not proved to be within eps = {c.eps:.4g}: "
            f"{certificate.reason or certificate.status}. Pass dtype='float64' and run the backbone in it, compile with a larger eps, or pass "
            "unproved=True"
        )
    array = adapter_array(claim, sizes)
    return _write(Path(path), array, sizes, certificate, dtype)


def past_key_values(c: Compiled, backbone: Backbone, tokens: int | None = None, batch: int = 1) -> Any:
    """The prefix as a transformers cache for `backbone(inputs_embeds=..., past_key_values=...)`: what PEFT injects, without PEFT.

    Parameters are rounded to float32 as in the adapter, then to the backbone's dtype.
    """
    torch = required("torch", "past_key_values")
    from transformers.cache_utils import DynamicCache

    array = adapter_array(cast_claim(filled(c.claim, tokens), FLOAT32), _sizes(c, backbone))
    prefix = torch.from_numpy(array.astype(np.float32)).to(backbone.dtype).to(backbone.device)
    prefix = prefix.permute(1, 2, 3, 0, 4)[:, :, None].expand(-1, -1, batch, -1, -1, -1)
    return DynamicCache([(layer[0], layer[1]) for layer in prefix])


def _sizes(c: Compiled, backbone: Any) -> Sizes:
    if backbone is None:
        required("transformers", "to_peft")
        backbone = backbone_for(c)
    config = getattr(backbone, "config", backbone)
    return Sizes(config.inputs, config.outputs, config.work, config.num_hidden_layers, config.num_attention_heads)


def _certified(claim: Claim, dtype: str) -> tuple[Claim, Certificate]:
    """The claim with float32 parameters, and what is proved of its execution in a dtype."""
    if dtype not in FORMATS:
        raise ExportError(f"dtype: {dtype!r} is unknown. Pass one of {', '.join(FORMATS)}.")
    try:
        stored = cast_claim(claim, FLOAT32)
        if dtype == "float64":
            return stored, prove(stored, max_boxes=200_000, seconds=60.0)
        return stored, prove_in_format(stored, dtype, seconds=60.0).certificate
    except FormatError as error:
        raise ExportError(f"to_peft: {error}. PEFT stores float32: compile with a larger eps.") from error


def _write(
    path: Path,
    array: Float[np.ndarray, "tokens layers two heads width"],
    sizes: Sizes,
    certificate: Certificate,
    dtype: str,
) -> Path:
    """Write the folder under another name and move it into place."""
    from peft import PrefixTuningConfig, TaskType
    from safetensors.numpy import save_file

    if path.exists() and (not path.is_dir() or any(p.name not in (*_NAMES, "README.md") for p in path.iterdir())):
        raise ExportError(f"path: {path} exists and is no adapter. Choose another place")
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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
            folder = Path(scratch) / path.name
            folder.mkdir()
            config.save_pretrained(str(folder))
            matrix = np.ascontiguousarray(array.reshape(count, -1), dtype=np.float32)
            save_file({"prompt_embeddings": matrix}, folder / _NAMES[1], {"format": "pt"})
            (folder / _NAMES[2]).write_text(json.dumps({"dtype": dtype, **certificate.to_json()}, indent=2) + "\n")
            if path.exists():
                shutil.move(str(path), Path(scratch) / "replaced")
            os.replace(folder, path)
    except OSError as error:
        raise ExportError(f"path: {path} cannot be written ({error.strerror})") from error
    return path
