"""What caches and hooks need to know of a transformers model: its layers, groups of keys, their width, and where its attention is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Shape", "attentions", "inner", "is_encoder", "output_of", "shape_of"]


@dataclass(frozen=True)
class Shape:
    """layers, groups (key and value heads of a layer), heads (query heads), width (of a key)."""

    layers: int
    groups: int
    heads: int
    width: int


def is_encoder(model: Any) -> bool:
    """Whether the model is laid out like BERT."""
    return hasattr(model, "embeddings")


def shape_of(model: Any) -> Shape:
    """Of a model of the Llama or BERT family."""
    config = model.config
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Shape(config.num_hidden_layers, groups, heads, width)


def inner(model: Any) -> Any:
    """The layers without the head on top."""
    return model if is_encoder(model) else model.model


def attentions(model: Any) -> list[Any]:
    """The module of each layer that projects queries, keys and values."""
    if is_encoder(model):
        return [block.attention.self for block in model.encoder.layer]
    return [block.self_attn for block in model.model.layers]


def output_of(model: Any, layer: int) -> Any:
    """The module whose first argument is what the heads of a layer put out, side by side."""
    return (
        model.encoder.layer[layer].attention.output if is_encoder(model) else model.model.layers[layer].self_attn.o_proj
    )
