"""One transformer layer as arrays: softmax attention with several heads, its output matrices, a feed-forward block.

    u   = [x_last] + sum_h O_h (sum_j p^h_j (V_h y_j + b^V_h)) + b^O,   p^h = softmax_j( <Q_h x_last + b^Q_h, K_h y_j> / sqrt(d_k) )
    out = F(u),   F(u) = [u] + W_2 sigma(W_1 u + b_1) + b_2

is the output at the last token; y_j runs over the prompt and the sequence, x_last included; terms in square brackets are there if the layer is
residual. A bias of the keys adds the same number to every logit and changes nothing, so there is none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from verify.statement import StatementError
from verify.stored_arrays import stored_number

__all__ = ["ACTIVATIONS", "AttentionLayer", "FeedForward", "finite_array"]

ACTIVATIONS = ("identity", "relu", "leaky_relu", "tanh", "gelu")
"""Element-wise functions whose slopes lie in a known interval; gelu is x Phi(x), not its tanh approximation."""


def finite_array(name: str, value: Any, dimensions: int) -> np.ndarray:
    """A float64 array with so many axes, all of length >= 1 and all numbers finite. Raises StatementError naming the argument."""
    try:
        given = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise StatementError(f"{name}: not an array of numbers ({error}). Pass a float64 array.") from error
    if given.dtype.kind not in "fiub":
        raise StatementError(f"{name}: type {given.dtype}, expected real numbers. Pass a float64 array.")
    array = np.array(given, dtype=np.float64, order="C")
    if array.ndim != dimensions or 0 in array.shape:
        raise StatementError(f"{name}: shape {array.shape}, expected {dimensions} axes, none of them empty.")
    if not np.isfinite(array).all():
        at = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise StatementError(
            f"{name}: entry {at} is {array[at]}; every number must be finite. Check how it was loaded or trained."
        )
    array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False)
class FeedForward:
    """F(u) = [u] + W_2 sigma(W_1 u + b_1) + b_2, applied to every token.

    first: W_1 (width, d_out), second: W_2 (d_out, width), biases (width,) and (d_out,), zero by default; activation: one of `ACTIVATIONS`; slope:
    of leaky_relu on the negative axis, in (0, 1]; residual: whether u is added. Raises StatementError for anything else.
    """

    first: Float[np.ndarray, "width d_out"]
    second: Float[np.ndarray, "d_out width"]
    first_bias: Float[np.ndarray, " width"] | None = None
    second_bias: Float[np.ndarray, " d_out"] | None = None
    activation: str = "relu"
    residual: bool = True
    slope: float = 0.01

    def __post_init__(self) -> None:
        first, second = finite_array("first", self.first, 2), finite_array("second", self.second, 2)
        width, d = first.shape
        if second.shape != (d, width):
            raise StatementError(
                f"second: shape {second.shape}, expected {(d, width)} after first with shape {first.shape}."
            )
        biases = {}
        for name, size in (("first_bias", width), ("second_bias", d)):
            given = getattr(self, name)
            biases[name] = finite_array(name, np.zeros(size) if given is None else given, 1)
            if biases[name].shape != (size,):
                raise StatementError(f"{name}: shape {biases[name].shape}, expected ({size},).")
        if self.activation not in ACTIVATIONS:
            raise StatementError(f"activation: {self.activation!r} is unknown. Choose among {', '.join(ACTIVATIONS)}.")
        slope = stored_number("slope", self.slope, above=0.0)
        if slope > 1:
            raise StatementError(f"slope: {slope!r} is not in (0, 1].")
        object.__setattr__(self, "slope", slope)
        for name, value in {"first": first, "second": second, **biases}.items():
            object.__setattr__(self, name, value)

    @property
    def biases(self) -> tuple[np.ndarray, np.ndarray]:
        """b_1 and b_2."""
        assert self.first_bias is not None
        assert self.second_bias is not None
        return self.first_bias, self.second_bias


@dataclass(frozen=True, eq=False)
class AttentionLayer:
    """query, key: (heads, d_k, d); value: (heads, d_v, d); output: (heads, d_out, d_v). One head may leave out the first axis.

    output None: the heads side by side (d_out = heads * d_v). Logits are divided by sqrt(d_k), always: fold another temperature into the query.
    query_bias (heads, d_k), value_bias (heads, d_v), output_bias (d_out,): zero by default. residual: whether the last token is added to
    the attention's output (needs d_out = d). feedforward: None for none. Raises StatementError naming the argument.
    """

    query: Float[np.ndarray, "heads d_k d"]
    key: Float[np.ndarray, "heads d_k d"]
    value: Float[np.ndarray, "heads d_v d"]
    output: Float[np.ndarray, "heads d_out d_v"] | None = None
    feedforward: FeedForward | None = None
    query_bias: Float[np.ndarray, "heads d_k"] | None = None
    value_bias: Float[np.ndarray, "heads d_v"] | None = None
    output_bias: Float[np.ndarray, " d_out"] | None = None
    residual: bool = False

    def __post_init__(self) -> None:
        def headed(name: str, axes: int) -> np.ndarray:
            try:
                value = np.asarray(getattr(self, name))
            except (TypeError, ValueError) as error:
                raise StatementError(f"{name}: not an array of numbers ({error}). Pass a float64 array.") from error
            return finite_array(name, value[None] if value.ndim == axes - 1 else value, axes)

        query, key, value = (headed(name, 3) for name in ("query", "key", "value"))
        heads, d_k, d = query.shape
        d_v = value.shape[1]
        if key.shape != query.shape:
            raise StatementError(f"key: shape {key.shape}, expected that of query, {query.shape}.")
        if value.shape != (heads, d_v, d):
            raise StatementError(f"value: shape {value.shape}, expected ({heads}, d_v, {d}).")
        if self.output is None:
            output = finite_array("output", np.eye(heads * d_v).reshape(heads * d_v, heads, d_v).transpose(1, 0, 2), 3)
        else:
            output = headed("output", 3)
        d_out = output.shape[1]
        if output.shape != (heads, d_out, d_v):
            raise StatementError(f"output: shape {output.shape}, expected ({heads}, d_out, {d_v}).")
        found = {"query": query, "key": key, "value": value, "output": output}
        for name, shape in (("query_bias", (heads, d_k)), ("value_bias", (heads, d_v)), ("output_bias", (d_out,))):
            found[name] = np.zeros(shape) if getattr(self, name) is None else headed(name, len(shape))
            if found[name].shape != shape:
                raise StatementError(f"{name}: shape {found[name].shape}, expected {shape}.")
        if self.residual and d_out != d:
            raise StatementError(
                f"residual: the last token has {d} coordinates and the output {d_out}. Pass residual=False."
            )
        if self.feedforward is not None and self.feedforward.first.shape[1] != d_out:
            raise StatementError(
                f"feedforward: takes {self.feedforward.first.shape[1]} coordinates, the attention gives {d_out}."
            )
        for name, array in found.items():
            object.__setattr__(self, name, array)

    @property
    def heads(self) -> int:
        """Number of heads."""
        return len(self.query)

    @property
    def width(self) -> int:
        """d, the width of a token."""
        return self.query.shape[2]

    @property
    def value_width(self) -> int:
        """d_v, of each head."""
        return self.value.shape[1]

    @property
    def outputs(self) -> Float[np.ndarray, "heads d_out d_v"]:
        """The output matrices."""
        assert self.output is not None
        return self.output

    @property
    def offsets(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The biases of query, value and output."""
        assert self.query_bias is not None
        assert self.value_bias is not None
        assert self.output_bias is not None
        return self.query_bias, self.value_bias, self.output_bias

    @property
    def stacked(self) -> Float[np.ndarray, "d_out heads_d_v"]:
        """[O_1 ... O_H]."""
        return np.concatenate(list(self.outputs), axis=1)

    @property
    def attention(self) -> AttentionLayer:
        """The same layer without its feed-forward block."""
        return replace(self, feedforward=None)

    def to_json(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """A plain structure and arrays by name."""
        bq, bv, bo = self.offsets
        arrays = {"query": self.query, "key": self.key, "value": self.value, "output": self.outputs}
        arrays |= {"query_bias": bq, "value_bias": bv, "output_bias": bo}
        data: dict[str, Any] = {"residual": self.residual, "feedforward": None}
        if self.feedforward is not None:
            ff = self.feedforward
            arrays |= {
                "ff.first": ff.first,
                "ff.second": ff.second,
                "ff.first_bias": ff.biases[0],
                "ff.second_bias": ff.biases[1],
            }
            data["feedforward"] = {"activation": ff.activation, "residual": ff.residual, "slope": float(ff.slope).hex()}
        return data, arrays

    @staticmethod
    def from_json(data: dict[str, Any], arrays: dict[str, np.ndarray]) -> AttentionLayer:
        """The inverse of `to_json`."""
        ff, block = None, data["feedforward"]
        if block is not None:
            if not isinstance(block["residual"], bool):
                raise StatementError(f"feedforward.residual: {block['residual']!r}, expected true or false")
            ff = FeedForward(
                arrays["ff.first"],
                arrays["ff.second"],
                arrays["ff.first_bias"],
                arrays["ff.second_bias"],
                block["activation"],
                block["residual"],
                float.fromhex(block["slope"]),
            )
        if not isinstance(data["residual"], bool):
            raise StatementError(f"residual: {data['residual']!r}, expected true or false")
        return AttentionLayer(
            arrays["query"],
            arrays["key"],
            arrays["value"],
            arrays["output"],
            ff,
            arrays["query_bias"],
            arrays["value_bias"],
            arrays["output_bias"],
            data["residual"],
        )
