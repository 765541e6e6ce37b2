"""A compiled prefix as an ONNX graph, node by node: MatMul, Add, Softmax and nothing else, float64 or float32.

Written with `onnx.helper` rather than traced, so that the graph is the model of `verify.model` and no exporter's idea of it. Data tokens' scores
and weights stand beside the prefix's (Concat, Slice): keys shared by a batch need no copies.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from verify.artefact import write_whole
from verify.model import Head, Prefix, Transformer

__all__ = ["IR_VERSION", "OPSET", "onnx_model", "write_onnx"]

OPSET = 17
"""An operator set that onnxruntime has supported since 1.12; onnx itself defaults to newer ones than a runtime accepts."""
IR_VERSION = 8

_TYPES = {"float64": (TensorProto.DOUBLE, np.float64), "float32": (TensorProto.FLOAT, np.float32)}


class _Graph:
    """Nodes and constants so far. Each operation returns the name of its result."""

    def __init__(self, dtype: type) -> None:
        self.dtype = dtype
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, array: np.ndarray, dtype: type | None = None) -> str:
        name = f"c{len(self.constants)}"
        kept = np.ascontiguousarray(array, dtype=dtype or self.dtype)
        self.constants.append(numpy_helper.from_array(kept, name))
        return name

    def apply(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def linear(self, x: str, matrix: np.ndarray) -> str:
        """x W^T; an identity is left out."""
        if matrix.shape[0] == matrix.shape[1] and np.array_equal(matrix, np.eye(len(matrix))):
            return x
        return self.apply("MatMul", x, self.constant(matrix.T))

    def whole(self, *numbers: int) -> str:
        return self.constant(np.array(numbers), np.int64)


def onnx_model(
    model: Transformer, prefix: Prefix, dtype: str, sequences: bool, notes: Mapping[str, str]
) -> onnx.ModelProto:
    """The graph with input x: (batch, n), or (batch, T, n) for `sequences`, and output y: (batch, k) or (batch, T, k), checked.

    dtype: "float64" or "float32"; the parameters must be numbers of it. T is free, or the number of positions where the model has some.
    notes: metadata. Raises ValueError for another dtype.
    """
    if dtype not in _TYPES:
        raise ValueError(f"dtype: {dtype!r}, an ONNX graph is float64 or float32")
    element, kind = _TYPES[dtype]
    model.accepts(prefix)
    g = _Graph(kind)
    stream = g.apply("Add", g.linear("x", model.embedding), g.constant(model.offset))
    if model.positions is not None:
        stream = g.apply("Add", stream, g.constant(model.positions))
    for l, layer in enumerate(model.layers):
        total = ""
        for h, head in enumerate(layer.heads):
            added = _head(g, head, prefix.keys[l][h], prefix.values[l][h], stream)
            total = added if h == 0 else g.apply("Add", total, added)
        stream = g.apply("Add", stream, total) if layer.residual else total
    g.nodes.append(helper.make_node("Identity", [g.linear(stream, model.readout)], ["y"]))
    tokens = [len(model.positions) if model.positions is not None else "T"] if sequences else []
    x = helper.make_tensor_value_info("x", element, ["batch", *tokens, model.inputs])
    y = helper.make_tensor_value_info("y", element, ["batch", *tokens, model.outputs])
    graph = helper.make_graph(g.nodes, "compiled_prefix", [x], [y], g.constants)
    built = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="prefix-compiler"
    )
    helper.set_model_props(built, dict(notes))
    onnx.checker.check_model(built, full_check=True)
    return built


def _head(g: _Graph, head: Head, keys: np.ndarray, values: np.ndarray, stream: str) -> str:
    queries = g.linear(stream, head.query)
    scores = g.apply("MatMul", queries, g.constant(keys.T))
    if not head.normalised:
        mixed = g.apply("MatMul", g.apply("Exp", scores), g.constant(values))
    elif head.key is None or head.value is None:
        mixed = g.apply("MatMul", g.apply("Softmax", scores, axis=-1), g.constant(values))
    else:
        data_keys = g.apply("MatMul", stream, g.constant(head.key.T))
        data_values = g.apply("MatMul", stream, g.constant(head.value.T))
        own = g.apply("MatMul", queries, g.apply("Transpose", data_keys, perm=[0, 2, 1]))
        weights = g.apply("Softmax", g.apply("Concat", scores, own, axis=-1), axis=-1)
        axis, start, cut, end = g.whole(-1), g.whole(0), g.whole(len(keys)), g.whole(np.iinfo(np.int64).max)
        of_prefix = g.apply("MatMul", g.apply("Slice", weights, start, cut, axis), g.constant(values))
        of_data = g.apply("MatMul", g.apply("Slice", weights, cut, end, axis), data_values)
        mixed = g.apply("Add", of_prefix, of_data)
    return g.linear(mixed, head.output)


def write_onnx(path: str | os.PathLike[str], built: onnx.ModelProto) -> Path:
    """Write the graph, whole or not at all. Raises verify.ArtefactError if the place cannot be written."""
    target = Path(path)
    write_whole(target, built.SerializeToString())
    return target
