"""A layer's weights out of a PyTorch module, exactly: every float32 is a float64."""

from __future__ import annotations

from typing import Any

import numpy as np

from constructions.wang2023.floor.errors import FloorError
from verify.prompt_floor import AttentionLayer, FeedForward

__all__ = ["layer_from_torch"]


def layer_from_torch(module: Any) -> AttentionLayer:
    """nn.MultiheadAttention, or a module like nn.TransformerEncoderLayer: `self_attn`, `linear1`, `activation`, `linear2`, both residual.

    The last token's output in evaluation mode (no dropout). A causal mask changes nothing for it. Layer norms are not invertible, so `norm1` and `norm2`
    must be absent or nn.Identity(). The keys' bias adds one number to all logits and is left out. Raises FloorError for what the theorem does not cover.
    """
    if hasattr(module, "self_attn"):
        for name in ("norm1", "norm2"):
            norm = getattr(module, name, None)
            if norm is not None and type(norm).__name__ != "Identity":
                raise FloorError(
                    where=name,
                    value=f"a {type(norm).__name__} forgets the scale and the mean of its input",
                    assumption="what follows the attention is invertible",
                    next_step=f"Set module.{name} = torch.nn.Identity(), or pass module.self_attn to bound the attention alone.",
                )
        return _attention(module.self_attn, residual=True, block=_block(module))
    if not hasattr(module, "out_proj"):
        raise FloorError(
            where="module",
            value=f"a {type(module).__name__} has neither self_attn nor out_proj",
            assumption="a single attention layer",
            next_step="Pass an nn.MultiheadAttention, a module like nn.TransformerEncoderLayer, or arrays in an AttentionLayer.",
        )
    return _attention(module, residual=False, block=None)


def _numbers(tensor: Any) -> np.ndarray:
    return np.array(tensor.detach().cpu().double().numpy())


def _attention(module: Any, residual: bool, block: FeedForward | None) -> AttentionLayer:
    d, heads = module.embed_dim, module.num_heads
    if module.in_proj_weight is None or module.kdim != d or module.vdim != d:
        raise FloorError(
            where="kdim, vdim",
            value=f"{module.kdim} and {module.vdim}, embed_dim = {d}",
            assumption="self-attention",
            next_step="Pass a module whose keys and values have its embedding's width.",
        )
    if module.bias_k is not None or module.bias_v is not None or module.add_zero_attn:
        raise FloorError(
            where="bias_k, bias_v, add_zero_attn",
            value="set, so a token of its own is appended to every sequence",
            assumption="the sequence is what is attended to",
            next_step="Pass add_bias_kv=False and add_zero_attn=False.",
        )
    query, key, value = _numbers(module.in_proj_weight).reshape(3, heads, d // heads, d)
    output = _numbers(module.out_proj.weight).reshape(d, heads, d // heads).transpose(1, 0, 2)
    query_bias = value_bias = None
    if module.in_proj_bias is not None:
        query_bias, _, value_bias = _numbers(module.in_proj_bias).reshape(3, heads, d // heads)
    output_bias = None if module.out_proj.bias is None else _numbers(module.out_proj.bias)
    return AttentionLayer(query, key, value, output, block, query_bias, value_bias, output_bias, residual)


def _block(module: Any) -> FeedForward | None:
    if not hasattr(module, "linear1"):
        return None
    first, second = module.linear1, module.linear2
    b1, b2 = (None if linear.bias is None else _numbers(linear.bias) for linear in (first, second))
    name, slope = _activation(module.activation)
    return FeedForward(_numbers(first.weight), _numbers(second.weight), b1, b2, name, True, slope)


def _activation(given: Any) -> tuple[str, float]:
    name = getattr(given, "__name__", type(given).__name__).lower().replace("leakyrelu", "leaky_relu")
    if name == "gelu" and getattr(given, "approximate", "none") != "none":
        name = "gelu with the tanh approximation"
    if name not in ("identity", "relu", "leaky_relu", "tanh", "gelu"):
        raise FloorError(
            where="activation",
            value=f"{name} is not one whose slopes are known here",
            assumption="an activation with known slopes",
            next_step="Use relu, leaky_relu, tanh or gelu (exact).",
        )
    return name, float(getattr(given, "negative_slope", 0.01))
