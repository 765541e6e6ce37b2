"""What a certificate of an execution is about, looked at when a module runs: its dtype, no autocast, no float32 products in less than float32.

Which kernel runs is chosen here as well. On a GPU the memory-efficient attention kernels may compute float32 products from TF32 parts, so PyTorch's
plain softmax (`SDPBackend.MATH`) is asked for there; and wherever a certificate is about one softmax in a single piece (`whole`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from constructions.export.checked import ExecutionError

__all__ = ["as_certified", "attention", "autocast", "not_finite"]


def as_certified(dtype: torch.dtype, at: Tensor) -> None:
    """Raise ExecutionError unless a module with the weight `at`, certified in `dtype`, runs in it."""
    without = "or set module.certified_dtype = None to run it without a certificate"
    if at.dtype != dtype:
        raise ExecutionError(
            f"module: certified in {dtype}, now in {at.dtype}. Export it in the dtype that it is to run in (to_torch(dtype=...)), {without}"
        )
    if autocast(at):
        raise ExecutionError(
            f"module: certified in {dtype}, autocast would run it in {torch.get_autocast_dtype(at.device.type)}. Call it under "
            f"torch.autocast('{at.device.type}', enabled=False), {without}"
        )
    if dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest":
        raise ExecutionError(
            f"module: certified in float32, torch.set_float32_matmul_precision('{torch.get_float32_matmul_precision()}') allows products in "
            f"less. Set it to 'highest', {without}"
        )


def autocast(at: Tensor) -> bool:
    """Whether operations on this tensor's device are cast to narrower dtypes."""
    device = at.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def attention(queries: Tensor, keys: Tensor, values: Tensor, whole: bool = False) -> Tensor:
    """softmax(queries keys^T) values, (..., heads, tokens, width) each, without a 1 / sqrt(width). whole: not in blocks."""
    if whole or queries.is_cuda:
        with sdpa_kernel(SDPBackend.MATH):
            return nn.functional.scaled_dot_product_attention(queries, keys, values, scale=1.0)
    return nn.functional.scaled_dot_product_attention(queries, keys, values, scale=1.0)


def not_finite(points: Tensor, together: bool = False) -> Tensor:
    """0 for a finite point, NaN for another, (batch, T, 1); together: for all tokens of a sequence. Added to a result: some attention kernels
    give finite numbers for NaN."""
    return (points.detach() * 0).sum((-2, -1) if together else -1, keepdim=True)
