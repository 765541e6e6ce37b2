"""A compiled prefix as a PyTorch module: the frozen weights and the prefix as buffers, nothing to train, attention by PyTorch.

`scaled_dot_product_attention` has a fast block-wise algorithm only where keys and values are equally wide; zero coordinates change no
logit and no value, so the narrower of the two is padded, and in float32 and bfloat16 both up to 16, a vector register, or to a multiple
of 8, which CUDA's kernels ask for. Its 1/sqrt(d) is switched off (scale 1): a fixed scale belongs to the weights.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from constructions.export.machine import as_certified, attention, not_finite
from verify.certificate import Certificate
from verify.model import Head, Layer, Prefix, Transformer

__all__ = ["PrefixHead", "PrefixModule"]


class PrefixHead(nn.Module):
    """One head with its prefix: (batch, T, d) -> (batch, T, d_out). Buffers keys, values: (tokens, width), padded to one width."""

    keys: Tensor
    values: Tensor
    query: Tensor | None
    output: Tensor | None
    key: Tensor | None
    value: Tensor | None

    def __init__(
        self, head: Head, keys: np.ndarray, values: np.ndarray, dtype: torch.dtype, whole: bool = False
    ) -> None:
        super().__init__()
        self.whole = whole
        self.width = _fast_width(max(keys.shape[1], values.shape[1]), dtype)
        self.normalised = head.normalised
        widths = (self.width - keys.shape[1], self.width - values.shape[1])
        _buffer(self, "keys", np.pad(keys, ((0, 0), (0, widths[0]))), dtype)
        _buffer(self, "values", np.pad(values, ((0, 0), (0, widths[1]))), dtype)
        # rows for coordinates that are only padding give queries and data keys of the full width
        _buffer(self, "query", _unless_identity(np.pad(head.query, ((0, widths[0]), (0, 0)))), dtype)
        _buffer(self, "output", _unless_identity(np.pad(head.output, ((0, 0), (0, widths[1])))), dtype)
        _buffer(self, "key", None if head.key is None else np.pad(head.key, ((0, widths[0]), (0, 0))), dtype)
        _buffer(self, "value", None if head.value is None else np.pad(head.value, ((0, widths[1]), (0, 0))), dtype)

    def forward(self, stream: Tensor) -> Tensor:
        """Attend to the prefix, and to the data tokens where the head does."""
        queries = stream if self.query is None else nn.functional.linear(stream, self.query)
        if self.key is not None and self.value is not None:
            batch = (len(stream), -1, -1)
            keys = torch.cat([self.keys.expand(batch), nn.functional.linear(stream, self.key)], dim=1)
            values = torch.cat([self.values.expand(batch), nn.functional.linear(stream, self.value)], dim=1)
            mixed = self._attend(queries, keys, values)
        else:  # tokens see the same keys: all of them are the queries of one attention
            flat = queries.reshape(1, -1, self.width)
            mixed = self._attend(flat, self.keys[None], self.values[None]).reshape(*queries.shape[:-1], self.width)
        return mixed if self.output is None else nn.functional.linear(mixed, self.output)

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        if not self.normalised:  # the core head does not divide
            return torch.exp(queries @ keys.mT) @ values
        return attention(queries[:, None], keys[:, None], values[:, None], self.whole)[:, 0]


class PrefixModule(nn.Module):
    """A frozen model with its prefix: points (batch, n) -> (batch, k), or sequences (batch, T, n) -> (batch, T, k).

    All weights are buffers: `parameters()` is empty, gradients reach the inputs alone. certificate: what is proved of it in its dtype; where it is
    proved, `forward` refuses to run in another one. tokens: the least and the most in a sequence that it is about, None for any number; whole: it is
    about a softmax computed in a single piece. Points that are not finite give NaN.
    """

    embedding: Tensor | None
    offset: Tensor
    positions: Tensor | None
    readout: Tensor | None

    def __init__(
        self,
        model: Transformer,
        prefix: Prefix,
        certificate: Certificate,
        dtype: torch.dtype = torch.float64,
        tokens: tuple[int, int] | None = None,
        whole: bool = False,
    ) -> None:
        super().__init__()
        model.accepts(prefix)
        self.certified_dtype = dtype if certificate.proved else None
        self.tokens = tokens if certificate.proved else None
        self.together = any(head.attends_to_data for layer in model.layers for head in layer.heads)
        self.certificate, self.inputs, self.outputs = certificate, model.inputs, model.outputs
        self.residual = tuple(layer.residual for layer in model.layers)
        _buffer(self, "embedding", _unless_identity(model.embedding), dtype)
        _buffer(self, "offset", model.offset, dtype)
        _buffer(self, "positions", model.positions, dtype)
        _buffer(self, "readout", _unless_identity(model.readout), dtype)
        self.layers = nn.ModuleList(_heads(layer, prefix, l, dtype, whole) for l, layer in enumerate(model.layers))

    def forward(self, x: Tensor) -> Tensor:
        """Run the model. Points of another dtype, arrays and lists are converted.

        Raises ValueError for points of the wrong shape and for sequences of another length than certified, TypeError for what is no real
        array, ExecutionError for an execution that the certificate is not about.
        """
        if self.certified_dtype is not None:
            as_certified(self.certified_dtype, self.offset)
        x = _real(x, self.offset)
        if x.ndim not in (2, 3) or x.shape[-1] != self.inputs:
            raise ValueError(
                f"x: shape {tuple(x.shape)}, expected (batch, {self.inputs}) points or (batch, T, {self.inputs}) sequences"
            )
        length = x.shape[1] if x.ndim == 3 else 1
        if self.tokens is not None and not self.tokens[0] <= length <= self.tokens[1]:
            least, most = self.tokens
            number = str(most) if least == most else f"{least} to {most}"
            raise ValueError(
                f"x: sequences of {length} tokens, the certificate is about {number}. Compile for others, or set module.tokens = None to run it "
                "without a certificate"
            )
        points = (x if x.ndim == 3 else x[:, None, :]).to(self.offset.dtype)
        stream = (points if self.embedding is None else nn.functional.linear(points, self.embedding)) + self.offset
        if self.positions is not None:
            if stream.shape[1] > len(self.positions):
                raise ValueError(
                    f"x: sequences of {stream.shape[1]} tokens, the model has {len(self.positions)} positions"
                )
            stream = stream + self.positions[: stream.shape[1]]
        for residual, heads in zip(self.residual, self.layers, strict=True):
            added = [head(stream) for head in cast(nn.ModuleList, heads)]
            total = added[0]
            for more in added[1:]:
                total = total + more
            stream = stream + total if residual else total
        out = stream if self.readout is None else nn.functional.linear(stream, self.readout)
        out = out + not_finite(points, self.together)
        return out if x.ndim == 3 else out[:, 0, :]

    def extra_repr(self) -> str:
        """One line: shapes and what is proved."""
        return f"{self.inputs} -> {self.outputs}, {self.certificate!r}"


def _heads(layer: Layer, prefix: Prefix, l: int, dtype: torch.dtype, whole: bool) -> nn.ModuleList:
    triples = zip(layer.heads, prefix.keys[l], prefix.values[l], strict=True)
    return nn.ModuleList(PrefixHead(head, keys, values, dtype, whole) for head, keys, values in triples)


def _real(x: Any, like: Tensor) -> Tensor:
    if not isinstance(x, Tensor):
        try:
            x = torch.as_tensor(x, device=like.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(
                f"x: {type(x).__name__}, expected a tensor of points, or an array or lists ({error})"
            ) from error
    if x.is_complex():
        raise TypeError(f"x: {x.dtype}, expected real numbers")
    return x


def _fast_width(width: int, dtype: torch.dtype) -> int:
    return width if dtype == torch.float64 else 16 if width <= 16 else -(-width // 8) * 8


def _buffer(module: nn.Module, name: str, array: np.ndarray | None, dtype: torch.dtype) -> None:
    module.register_buffer(name, None if array is None else torch.tensor(array, dtype=torch.float64).to(dtype))


def _unless_identity(matrix: np.ndarray) -> np.ndarray | None:
    """None for an identity: it need not be multiplied with."""
    return None if np.array_equal(matrix, np.eye(*matrix.shape)) and matrix.shape[0] == matrix.shape[1] else matrix
