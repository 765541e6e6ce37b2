"""What one layer's attention was given and put out in a pass: the very tensors, not a recomputation.

transformers lets an attention function be registered by name; ours copies what it is handed and calls the usual one (sdpa). Only the layers asked for use it,
through a copy of their configuration, so the pass is the pass that would have been run anyway. The pass stops after the last of them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from constructions.export.checked import required
from constructions.pretrained.shape import is_encoder
from constructions.pretrained.site import SiteError

__all__ = ["Recorded", "record", "token_numbers"]

_NAME = "prefix_compiler_recording"
_SINK = "_prefix_compiler_sink"


@dataclass(frozen=True, eq=False)
class Recorded:
    """float32 tensors of one attention layer as float64 arrays, queries and keys after the rotation; the first N keys and values are the prefix's.

    queries, outputs: (tokens, heads, width); keys, values: (groups, N + tokens, width); scale: of logits.
    """

    queries: Float[np.ndarray, "tokens heads width"]
    keys: Float[np.ndarray, "groups all width"]
    values: Float[np.ndarray, "groups all width"]
    outputs: Float[np.ndarray, "tokens heads width"]
    scale: float

    @property
    def prefix(self) -> int:
        """Prefix tokens."""
        return self.keys.shape[1] - len(self.queries)

    def heads(self, group: int) -> slice:
        """The query heads that read a group."""
        each = self.queries.shape[1] // len(self.keys)
        return slice(each * group, each * (group + 1))


class _Enough(Exception):
    """The last layer asked for has been read."""


def token_numbers(name: str, ids: Any, model: Any, most: int | None = None) -> Int[np.ndarray, " tokens"]:
    """The token numbers of one text, checked against the model's vocabulary. Raises SiteError: text, fractions and masks are none."""
    found = np.asarray(ids)
    if found.ndim != 1 or found.dtype.kind not in "iu" or not len(found):
        raise SiteError(f"{name}: shape {found.shape}, {found.dtype}; expected the whole token numbers of one text")
    if most is not None and len(found) > most:
        raise SiteError(f"{name}: a text of {len(found)} tokens, expected 1 to {most}")
    vocabulary = getattr(getattr(model, "config", None), "vocab_size", None)
    if vocabulary is None:
        raise SiteError(f"model: {type(model).__name__}, expected a transformers model")
    if found.min() < 0 or found.max() >= vocabulary:
        raise SiteError(f"{name}: tokens {found.min()} to {found.max()}, the model has 0 to {vocabulary - 1}")
    return found.astype(np.int64)


def record(
    model: Any, ids: np.ndarray, layers: Sequence[int], cache: Any = None, start: int = 0, stop: bool = True
) -> dict[int, Recorded]:
    """One pass over a text (its token numbers). cache: the prefix; start: position of the first token where there is none; stop: leave later layers out.

    Raises SiteError for a run that is not float32 (autocast included), drops weights out, or whose mask is not causal behind the prefix;
    MissingExtraError without torch.
    """
    torch = required("torch", "record", "pretrained")
    _refuse(model, layers)
    ids = token_numbers("ids", ids, model)
    found: dict[int, Recorded] = {}
    last = max(layers)

    def sink(module: Any, query: Any, key: Any, value: Any, mask: Any, output: Any, options: dict[str, Any]) -> None:
        tokens, width, scale = query.shape[2], query.shape[3], options.get("scaling")
        types = {str(x.dtype) for x in (query, key, value, output)}
        if types != {"torch.float32"}:
            raise SiteError(f"model: layer {module.layer_idx} attends in {', '.join(sorted(types))}; a pass is certified in float32, leave torch.autocast off")  # fmt: skip
        if options.get("dropout"):
            raise SiteError(f"model: layer {module.layer_idx} drops attention out with probability {options['dropout']:g}; call model.eval()")  # fmt: skip
        _check_mask(mask, tokens, key.shape[2])
        arrays = (query[0].transpose(0, 1), key[0], value[0], output[0])
        q, k, v, o = (a.detach().double().numpy() for a in arrays)
        found[module.layer_idx] = Recorded(q, k, v, o, width**-0.5 if scale is None else float(scale))
        if stop and module.layer_idx == last:
            raise _Enough

    x = torch.from_numpy(ids)[None]
    positions = None if cache is not None else torch.arange(start, start + len(ids))[None]
    with _recording(model, layers, sink), torch.inference_mode(), suppress(_Enough):
        model.model(x, past_key_values=cache, position_ids=positions, use_cache=cache is not None)
    return found


def _refuse(model: Any, layers: Sequence[int]) -> None:
    if is_encoder(model) or not hasattr(model, "model"):
        raise SiteError(f"model: {type(model).__name__}; passes are recorded of causal models laid out like Llama")
    depth = model.config.num_hidden_layers
    if not layers or not all(0 <= i < depth for i in layers):
        raise SiteError(f"layers = {list(layers)}: the model has layers 0 to {depth - 1}")
    if str(model.dtype) != "torch.float32":
        raise SiteError(f"model: runs in {model.dtype}; a pass is certified in float32, load it with dtype='float32'")
    p = getattr(model.config, "attention_dropout", 0.0)
    if p and any(model.model.layers[i].self_attn.training for i in layers):
        raise SiteError(f"model: in training mode with attention_dropout = {p:g}; a pass that drops weights out computes something else, call model.eval()")  # fmt: skip


def _check_mask(mask: Any, tokens: int, every: int) -> None:
    """Token i sees the prefix and tokens 0..i; None stands for just that where there is no prefix or one token."""
    import torch

    if mask is None:
        if every == tokens or tokens == 1:
            return
        raise SiteError(f"mask: none for {tokens} tokens behind {every - tokens} prefix tokens, expected a causal one")
    seen = mask if mask.dtype == torch.bool else mask == 0
    expected = torch.ones(tokens, every, dtype=torch.bool).tril(every - tokens)
    if not torch.equal(seen.reshape(-1, tokens, every)[0], expected):
        raise SiteError("mask: not causal behind the prefix. Omit attention_mask, or give it the length N + L")


@contextmanager
def _recording(model: Any, layers: Sequence[int], sink: Any) -> Iterator[None]:
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    def attend(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **options: Any) -> Any:
        out, weights = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        getattr(module, _SINK)(module, query, key, value, attention_mask, out, options)
        return out, weights

    if model.config._attn_implementation != "sdpa":
        raise SiteError(f"model: attention {model.config._attn_implementation!r}; load it with attn_implementation='sdpa', which is what is recorded")  # fmt: skip
    AttentionInterface.register(_NAME, attend)
    modules = [model.model.layers[i].self_attn for i in layers]
    before = [m.config for m in modules]
    try:
        for m in modules:
            m.config = copy.copy(m.config)
            m.config._attn_implementation_internal = _NAME
            object.__setattr__(m, _SINK, sink)
        yield
    finally:
        for m, config in zip(modules, before, strict=True):
            m.config = config
            if hasattr(m, _SINK):
                object.__delattr__(m, _SINK)
