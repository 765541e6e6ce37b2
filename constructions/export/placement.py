"""Where a compiled prefix goes in the universal backbone: slots, heads and layers, and tokens that fill up.

The backbone's stream has slots [inputs | work | outputs | 1], every layer is residual, every head copies. A compiled prefix whose own model is
of that kind (a single head, a circuit) moves over by renaming slots. What is left over does exactly nothing:

  - a head without work has keys 0 and values 0: its mean of zeros is 0, in floats as well;
  - a slot that no key reads is multiplied by 0; a layer of idle heads adds 0;
  - a head shorter than the others is filled up with tokens of key (0, ..., 0, -B) and value 0. B is so large that their weight is below
    e^{-200} everywhere on the domain, which underflows to 0 in float32; nothing depends on that: what is certified is the head with
    these tokens in it, like any other.

So the backbone with the adapter computes the function of the compiled model with the filled-up prefix, and executes the same roundings:
products with 0 and 1 and sums with 0 are exact.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from constructions.export.checked import ExportError
from verify.domain import Box
from verify.model import Prefix, Transformer
from verify.prove import Claim
from verify.sphere import Sphere

if TYPE_CHECKING:
    from constructions.compiled import Compiled

__all__ = ["Placement", "Sizes", "adapter_array", "filled", "needs", "placement"]


@dataclass(frozen=True)
class Sizes:
    """inputs, work and output slots; layers; heads per layer."""

    inputs: int
    outputs: int
    work: int
    layers: int
    heads: int

    @property
    def width(self) -> int:
        """Slots of the stream."""
        return self.inputs + self.work + self.outputs + 1


@dataclass(frozen=True)
class Placement:
    """keys, values: for each coordinate of a key, and of a value, of the compiled model, the kind of slot it is: ("input", i), ("work", i),
    ("output", i), ("one", 0), or ("none", 0) for a slot that nothing writes to."""

    keys: tuple[tuple[str, int], ...]
    values: tuple[tuple[str, int], ...]


def placement(model: Transformer) -> Placement:
    """Read the slots of a compiled model. Raises ExportError for one that the backbone's heads cannot be."""
    heads = [head for layer in model.layers for head in layer.heads]
    if model.positions is not None or any(head.attends_to_data for head in heads):
        raise ExportError(
            "to_peft: the backbone's heads attend to their prefix alone; this model's read other tokens or positions. Use to_torch or "
            "to_onnx, or on a sphere method='split'"
        )
    if not all(head.normalised for head in heads):
        raise ExportError(
            "to_peft: the backbone's heads are softmax heads; a core head does not divide. Use method='split'"
        )
    n, d = model.inputs, model.embedding.shape[0]
    eye = np.eye(d)
    if not (np.array_equal(model.embedding, eye[:, :n]) and np.array_equal(model.offset, eye[-1]) and d > n):
        raise ExportError("to_peft: the embedding does not put a point into the first slots and 1 into the last")
    if not all(np.array_equal(head.query, eye) for head in heads):
        raise ExportError("to_peft: a query matrix is not an identity")
    if not all(np.array_equal(head.output, np.eye(len(head.output))) for head in heads):
        raise ExportError("to_peft: an output matrix is not an identity")
    of_input = tuple(("input", i) for i in range(n))
    if len(model.layers) == 1 and not model.layers[0].residual and d == n + 1:
        if not np.array_equal(model.readout, np.eye(model.outputs)):
            raise ExportError("to_peft: the readout is not an identity")
        return Placement((*of_input, ("one", 0)), tuple(("output", j) for j in range(model.outputs)))
    if not all(layer.residual for layer in model.layers):
        raise ExportError("to_peft: a layer of several is not residual")
    chosen = [int(np.argmax(row)) for row in model.readout]
    if not np.array_equal(model.readout, eye[chosen]) or len(set(chosen)) != len(chosen) or min(chosen) < n:
        raise ExportError("to_peft: the readout does not copy slots of its own, one for each output")
    if d - 1 in chosen:
        raise ExportError("to_peft: the readout copies the constant")
    work = [s for s in range(n, d - 1) if s not in chosen]
    slots = {s: ("work", i) for i, s in enumerate(work)} | {s: ("output", j) for j, s in enumerate(chosen)}
    slots |= dict(enumerate(of_input)) | {d - 1: ("one", 0)}
    return Placement(tuple(slots[s] for s in range(d)), tuple(slots[s] for s in range(d)))


def needs(c: Compiled) -> Sizes:
    """The smallest backbone that holds a compiled prefix. Raises ExportError as `placement`."""
    found = placement(c.model)
    work = sum(kind == "work" for kind, _ in found.keys)
    return Sizes(c.model.inputs, c.model.outputs, work, len(c.model.layers), max(len(l.heads) for l in c.model.layers))


def filled(claim: Claim, tokens: int | None) -> Claim:
    """The claim with every head filled up to the same number of tokens (None: that of the longest). Raises ExportError if that is too few."""
    longest = max(len(keys) for layer in claim.prefix.keys for keys in layer)
    if tokens is not None and (isinstance(tokens, bool) or not isinstance(tokens, (int, np.integer))):
        raise ExportError(f"tokens: {tokens!r}, expected a whole number, or None for {longest}")
    count = longest if tokens is None else int(tokens)
    if count < longest:
        raise ExportError(f"tokens: {count}, but a head has {longest}. Pass {longest} or more, or None")
    if all(len(keys) == count for layer in claim.prefix.keys for keys in layer):
        return claim
    reach = _reach(claim)
    keys, values = [], []
    for ks, vs in zip(claim.prefix.keys, claim.prefix.values, strict=True):
        keys.append(tuple(_filled_keys(k, count, reach) for k in ks))
        values.append(tuple(np.vstack([v, np.zeros((count - len(v), v.shape[1]))]) for v in vs))
    return replace(claim, prefix=Prefix(tuple(keys), tuple(values)))


def _reach(claim: Claim) -> Float[np.ndarray, " d"]:
    """A bound of every slot of the stream: inputs by the domain, the constant by 1, others by what all heads could write there."""
    assert isinstance(claim.domain, Box | Sphere)
    lo, hi = claim.domain.bounds
    n, d = claim.model.inputs, claim.model.embedding.shape[0]
    reach = np.zeros(d)
    reach[:n] = np.maximum(np.abs(lo), np.abs(hi))
    reach[-1] = 1.0
    for layer, values in zip(claim.model.layers, claim.prefix.values, strict=True):
        if layer.residual:
            reach += sum(np.abs(v).max(axis=0) for v in values)
    return reach


def _filled_keys(keys: np.ndarray, count: int, reach: np.ndarray) -> np.ndarray:
    """-B on the constant: a power of two beyond every logit by 200 at least."""
    if len(keys) == count:
        return keys
    logits = float((np.abs(keys) @ reach).max())
    extra = np.zeros((count - len(keys), keys.shape[1]))
    extra[:, -1] = -(2.0 ** np.ceil(np.log2(logits + 200)))
    return np.vstack([keys, extra])


def adapter_array(claim: Claim, sizes: Sizes) -> Float[np.ndarray, "tokens layers two heads width"]:
    """Keys (index 0) and values (1) of every layer and head of a backbone of these sizes, from a claim that is filled up.

    Raises ExportError where the backbone is too small, naming what is.
    """
    found = placement(claim.model)
    work = sum(kind == "work" for kind, _ in found.keys)
    heads = max(len(layer.heads) for layer in claim.model.layers)
    for name, needed, there in (
        ("inputs", claim.model.inputs, sizes.inputs),
        ("outputs", claim.model.outputs, sizes.outputs),
        ("work", work, sizes.work),
        ("num_hidden_layers", len(claim.model.layers), sizes.layers),
        ("num_attention_heads", heads, sizes.heads),
    ):
        if there < needed:
            raise ExportError(
                f"backbone: {name} = {there}, this prefix needs {needed}: make it with {name} >= {needed}"
            )
    start = {"input": 0, "work": sizes.inputs, "output": sizes.inputs + sizes.work, "one": sizes.width - 1}
    to_keys = [start[kind] + i for kind, i in found.keys]
    to_values = [start[kind] + i for kind, i in found.values]
    count = len(claim.prefix.keys[0][0])
    out = np.zeros((count, sizes.layers, 2, sizes.heads, sizes.width))
    for l, (keys, values) in enumerate(zip(claim.prefix.keys, claim.prefix.values, strict=True)):
        for h in range(len(keys)):
            out[:, l, 0, h, to_keys] = keys[h]
            out[:, l, 1, h, to_values] = values[h]
    return out
