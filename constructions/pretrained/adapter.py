"""A cache as a PEFT prefix-tuning adapter of the pretrained model: what `PeftModel.from_pretrained(model, path)` loads.

PEFT keeps a prefix as one float32 matrix (N, layers * 2 * groups * width), keys before values in each layer, and injects it as past_key_values: bit for bit the
cache it was written from.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from constructions.export.checked import required
from constructions.pretrained.shape import is_encoder, shape_of
from constructions.pretrained.site import SiteError

__all__ = ["save_adapter"]


def save_adapter(path: str | os.PathLike[str], model: Any, cache: Any) -> Path:
    """Write the cache (from `injection.cache_of`, batch 1) as an adapter folder. Returns the path.

    Raises MissingExtraError, with the command, where torch or peft is missing; SiteError if the cache is not of this model or not float32.
    """
    torch = required("torch", "save_adapter", "pretrained")
    peft = required("peft", "save_adapter", "pretrained")
    from safetensors.torch import save_file

    shape = shape_of(model)
    groups, width = shape.groups, shape.width
    parts = [part for layer in cache.layers for part in (layer.keys, layer.values)]
    n = parts[0].shape[2]
    if len(parts) != 2 * shape.layers or any(p.shape != (1, groups, n, width) for p in parts):
        raise SiteError(
            f"cache: {len(parts) // 2} layers of shape {tuple(parts[0].shape)}, expected {shape.layers} of (1, {groups}, N, {width})"
        )
    if any(p.dtype != torch.float32 for p in parts):
        raise SiteError(f"cache: {parts[0].dtype}, expected float32, which PEFT stores")
    matrix = torch.stack([p[0] for p in parts]).permute(2, 0, 1, 3).reshape(n, -1).contiguous()
    settings = peft.PrefixTuningConfig(
        task_type=peft.TaskType.FEATURE_EXTRACTION if is_encoder(model) else peft.TaskType.CAUSAL_LM,
        num_virtual_tokens=n,
        num_layers=shape.layers,
        token_dim=groups * width,
        num_attention_heads=groups,
        prefix_projection=False,
        inference_mode=True,
    )
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    settings.save_pretrained(str(folder))
    save_file({"prompt_embeddings": matrix}, folder / "adapter_model.safetensors")
    return folder
