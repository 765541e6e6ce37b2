"""A model read as one head whose logits are affine in the point: what the provers of a single head work on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import flint
import numpy as np
from jaxtyping import Float

from verify.ball import UP, gamma
from verify.model import Head, Prefix, Transformer
from verify.precision import arb_bounds, working_precision

__all__ = ["MOST_DATA_TOKENS", "AffineHead", "UnsupportedModelError", "affine_head", "within_scale"]

MOST_DATA_TOKENS = 20_000
"""Longest sequence that is handled: so many weights of e^-700, to which the forward pass raises what is less, are below e^-690."""


class UnsupportedModelError(ValueError):
    """A model whose sup norm this prover does not handle (several layers or heads, attention to data tokens)."""


@dataclass(frozen=True, eq=False)
class AffineHead:
    """A model read as one head with affine logits.

    slopes (tokens, n), biases (tokens,), values (tokens, k) with entrywise error bounds *_error of the same shapes (zero when
    the frozen matrices only select coordinates, as hand-built ones do); the logits of the float64 forward pass are within
    logit_gamma * (|slopes| |x| + |biases|) of the exact ones, its outputs get `output_gamma` * sum w |v| on top.

    normalised: a softmax head, g = sum e^s v / sum e^s; without it the core head of Petrov, Torr and Bibi, g = sum e^s v.
    data_tokens: of them, 0 or the T that the last token stands for. logit_slack (tokens,): what the logits themselves may be off by, on top of all that; executed_slack (tokens,): what only the
    logits of the float64 forward pass may be off by, on top (its input is a rounded point).
    """

    slopes: Float[np.ndarray, "tokens n"]
    biases: Float[np.ndarray, " tokens"]
    values: Float[np.ndarray, "tokens k"]
    slope_scale: Float[np.ndarray, "tokens n"]
    bias_scale: Float[np.ndarray, " tokens"]
    value_scale: Float[np.ndarray, "tokens k"]
    parameter_gamma: float
    value_gamma: float
    logit_gamma: float
    output_gamma: float
    normalised: bool = True
    data_tokens: int = 0
    logit_slack: np.ndarray = field(default_factory=lambda: np.zeros(0))
    executed_slack: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @property
    def prefix_tokens(self) -> int:
        """Tokens of the prefix."""
        return len(self.biases) - (self.data_tokens > 0)

    def __post_init__(self) -> None:
        for name in ("logit_slack", "executed_slack"):
            if not getattr(self, name).size:
                object.__setattr__(self, name, np.zeros(len(self.biases)))


def _selects(matrix: np.ndarray) -> bool:
    """Whether a product with this matrix is exact in floating point: at most one entry per row, a power of two."""
    nonzero = matrix[matrix != 0]
    return bool(((matrix != 0).sum(axis=1) <= 1).all() and (np.frexp(np.abs(nonzero))[0] == 0.5).all())


def within_scale(name: str, matrix: np.ndarray, least: float, most: float) -> None:
    """Refuse entries whose products could leave float64's range. Within these, what underflow loses anywhere in the logits is at
    most 2^-1074 2^150 1e150 times a few dimensions, far below `_UNDERFLOW`; matrices of zeros and ones lose nothing."""
    size = np.abs(matrix[matrix != 0])
    if size.size and not (size.min() >= least and size.max() <= most):
        raise UnsupportedModelError(
            f"{name} has entries outside [{least:.3g}, {most:.3g}], beyond the scale float64 can carry"
        )


def affine_head(model: Transformer, prefix: Prefix, length: int = 1, input_error: float = 0.0) -> AffineHead:
    """Read a one-layer, one-head model as a head with affine logits.

    logits = K W_Q (E x + e): slopes K W_Q E, biases K W_Q e; values V W_O^T R^T. Every matrix product of inner length m is
    computed within gamma_m of the product of absolute values. length: of the sequence that the query belongs to, for a head
    that attends to data tokens as well (see `_with_data_tokens`). input_error: Euclidean distance of the float point that the model is run
    on from the point that is meant; moves a logit by at most |slope|_1 input_error, in the forward pass.
    Raises UnsupportedModelError for other models.
    """
    model.accepts(prefix)
    if len(model.layers) != 1 or len(model.layers[0].heads) != 1 or model.layers[0].residual:
        raise UnsupportedModelError("this prover handles one layer with one head, without residual")
    if model.positions is not None:
        raise UnsupportedModelError("this prover handles models without positional encodings")
    head = model.layers[0].heads[0]
    frozen = (("embedding", model.embedding), ("offset", model.offset), ("query", head.query))
    frozen += (("output", head.output), ("readout", model.readout))
    if head.key is not None and head.value is not None:
        frozen += (("key", head.key), ("value", head.value))
    for name, matrix in frozen:
        within_scale(name, matrix, 2.0**-150, 2.0**150)
    if not all(np.isin(np.abs(matrix), (0.0, 1.0)).all() for _, matrix in frozen):
        within_scale("prefix keys", prefix.keys[0][0], 0.0, 1e150)
        within_scale("prefix values", prefix.values[0][0], 0.0, 1e150)
    keys, values = prefix.keys[0][0], prefix.values[0][0]
    d_k, d = head.query.shape
    n = model.inputs
    # a row that both copies a coordinate and adds a constant rounds
    in_place = (model.offset != 0)[:, None] & (model.embedding != 0)
    exact_in = _selects(model.embedding) and _selects(head.query) and not in_place.any()
    exact_out = _selects(head.output) and _selects(model.readout)
    query_in, query_offset = head.query @ model.embedding, head.query @ model.offset
    out = head.output.T @ model.readout.T
    size_in, size_offset = np.abs(head.query) @ np.abs(model.embedding), np.abs(head.query) @ np.abs(model.offset)
    size_out = np.abs(head.output).T @ np.abs(model.readout).T
    exact_slopes = exact_in and _selects(query_in.T)  # each slope is then a single product with a power of two
    exact_biases = exact_in and _selects(query_offset[None, :])
    parameter_gamma = 0.0 if exact_slopes and exact_biases else gamma(d_k + d + n + 4)
    exact_values = exact_out and _selects(out.T)
    # weights are summed before they are normalised, so the forward pass forms sums of up to `tokens` values
    largest = len(keys) * max(float(np.abs(values).max()), float((np.abs(values) @ size_out).max(initial=0.0)))
    if not largest < 2.0**1000:
        raise UnsupportedModelError(
            "sums of the values overflow float64 on their way through the head, output and readout"
        )
    slope_scale = np.abs(keys) @ size_in * (1 + gamma(d_k + d + 4))
    moved = slope_scale.sum(axis=1) * input_error * (1 + gamma(n + 8))
    read = AffineHead(
        slopes=keys @ query_in,
        biases=keys @ query_offset,
        values=values @ out,
        slope_scale=slope_scale,
        bias_scale=np.abs(keys) @ size_offset * (1 + gamma(d_k + d + 4)),
        value_scale=np.abs(values) @ size_out * (1 + gamma(out.shape[0] + model.readout.shape[1] + 4)),
        parameter_gamma=parameter_gamma,
        value_gamma=0.0 if exact_values else gamma(values.shape[1] + model.readout.shape[1] + 4),
        logit_gamma=gamma(d_k) if exact_in else gamma(d_k + d + n + 4),
        output_gamma=gamma(len(keys) + length + 1)
        + (0.0 if exact_values else gamma(values.shape[1] + model.readout.shape[1] + 4)),
    )
    read = replace(read, normalised=head.normalised, executed_slack=moved)
    return _with_data_tokens(read, model, head, length) if head.attends_to_data else read


def _with_data_tokens(read: AffineHead, model: Transformer, head: Head, length: int) -> AffineHead:
    """The T = `length` data tokens of a sequence as one more token of the head.

    W_K (E x + e) = 0 and W_V (E x + e) = 0 for every x exactly when |W_K||E|, |W_K||e|, |W_V||E|, |W_V||e| vanish entry by entry
    (sums of non-negative products of entries that do not underflow): then every data token scores 0 and carries the value 0,
    in floats as well, and T of them weigh as much as one of logit ln T. Other models are refused.
    """
    assert head.key is not None
    assert head.value is not None
    blind = all(
        not (np.abs(matrix) @ np.abs(source)).any()
        for matrix in (head.key, head.value)
        for source in (model.embedding, model.offset)
    )
    if not blind:
        raise UnsupportedModelError("data tokens whose scores or values depend on the data are not handled")
    if not head.normalised:
        raise UnsupportedModelError("a head without normalisation that attends to data tokens is not handled")
    if not 1 <= length <= MOST_DATA_TOKENS:
        raise UnsupportedModelError(f"sequences of {length} tokens: between 1 and {MOST_DATA_TOKENS} are handled")
    with working_precision(80):
        lo, hi = arb_bounds(flint.arb(length).log())
    return replace(
        read,
        data_tokens=length,
        slopes=np.vstack([read.slopes, np.zeros((1, read.slopes.shape[1]))]),
        biases=np.append(read.biases, lo),
        values=np.vstack([read.values, np.zeros((1, read.values.shape[1]))]),
        slope_scale=np.vstack([read.slope_scale, np.zeros((1, read.slopes.shape[1]))]),
        bias_scale=np.append(read.bias_scale, hi),
        value_scale=np.vstack([read.value_scale, np.zeros((1, read.values.shape[1]))]),
        logit_slack=np.append(read.logit_slack, (hi - lo) * UP),
        executed_slack=np.append(read.executed_slack, gamma(length + 2)),
    )
