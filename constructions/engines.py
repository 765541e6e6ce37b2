"""Evaluation engines behind one call: the same head, the same float64, different speed.

numpy is the reference, `verify.forward`. The others compute the softmax in blocks and never hold a (batch, tokens) array. All
stay within the machine model under which certificates bound the rounding: sums in any order, exp within 8 units of round-off (a
block-wise softmax rescales partial sums once per block of tokens, which takes fewer roundings than adding those tokens one by one).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from itertools import chain
from typing import Any

import numpy as np
from jaxtyping import Float

from constructions import fused
from verify.model import ModelError, Prefix, Transformer, forward

__all__ = ["ENGINES", "Engine", "available_engines", "evaluate"]

Attention = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(queries (batch, d_k), keys (tokens, d_k), values (tokens, d_v)) -> (batch, d_v)"""

_BLOCK_BYTES = 2**25
"""What a block of attention weights may take, should PyTorch choose an algorithm that stores them."""

_POINTS = 1024
"""Points that the fused loop carries at once: a few arrays of this length fit a first-level cache."""

_WORTH_STARTING = 2**26
"""Weights (batch x tokens) from which importing an engine pays: half a second of NumPy, about what an import costs, and the
next call of that size is several times faster."""

_WORTH_CALLING = 2**16
"""Weights from which an engine that is already there beats NumPy in spite of its fixed cost."""

_LARGEST_LOGIT = 1e300


@dataclass(frozen=True)
class Engine:
    """package: what has to be installed, also the extra's name (None: nothing); ready: whether a call costs no start-up."""

    name: str
    summary: str
    package: str | None
    attention: Attention | None
    ready: Callable[[], bool]

    @property
    def installed(self) -> bool:
        """Whether the package can be imported; does not import it."""
        return self.package is None or self.package in sys.modules or find_spec(self.package) is not None

    def starts(self) -> bool:
        """Whether the package really can be imported; a broken installation cannot."""
        try:
            return self.installed and (self.package is None or import_module(self.package) is not None)
        except ImportError:
            return False


def _torch_attention(queries: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    import torch

    # PyTorch has a block-wise CPU algorithm for equal widths only: zero coordinates change no logit and no value
    width = max(keys.shape[1], values.shape[1])

    def padded(array: np.ndarray) -> Any:
        return torch.from_numpy(np.pad(array, ((0, 0), (0, width - array.shape[1]))))[None, None]

    k, v = padded(keys), padded(values)
    out = np.empty((len(queries), values.shape[1]))
    with torch.inference_mode():
        for rows in _blocks(len(queries), max(1, _BLOCK_BYTES // (8 * len(keys)))):
            mixed = torch.nn.functional.scaled_dot_product_attention(padded(queries[rows]), k, v, scale=1.0)
            out[rows] = mixed[0, 0, :, : values.shape[1]].numpy()
    return out


@cache
def _fused_kernel() -> Any:
    return fused.compiled()


def _numba_attention(queries: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    from numba.core import config

    kernel, out = _fused_kernel(), np.empty((len(queries), values.shape[1]))
    k, v = np.ascontiguousarray(keys), np.ascontiguousarray(values)

    def block(rows: slice) -> None:
        mixed = np.empty((values.shape[1], len(queries[rows])))
        kernel(np.ascontiguousarray(queries[rows].T), k, v, mixed)
        out[rows] = mixed.T

    blocks = list(_blocks(len(queries), _POINTS))
    if len(blocks) > 1:
        with ThreadPoolExecutor(vars(config)["NUMBA_NUM_THREADS"]) as threads:  # by default the processors it may use
            list(threads.map(block, blocks))
    else:
        for rows in blocks:
            block(rows)
    return out


def _blocks(total: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, total, size))


ENGINES: tuple[Engine, ...] = (
    Engine(
        "numba",
        "a fused, multi-threaded loop",
        "numba",
        _numba_attention,
        lambda: _fused_kernel.cache_info().currsize > 0,
    ),
    Engine(
        "torch", "PyTorch's scaled_dot_product_attention", "torch", _torch_attention, lambda: "torch" in sys.modules
    ),
    Engine("numpy", "the reference forward pass", None, None, lambda: True),
)
"""Every engine, the fastest first."""


def available_engines() -> tuple[str, ...]:
    """Names of the engines that are installed, the fastest first; "numpy" is always there."""
    return tuple(engine.name for engine in ENGINES if engine.installed)


def evaluate(
    model: Transformer, prefix: Prefix, x: Float[np.ndarray, "batch n"], engine: str = "auto"
) -> Float[np.ndarray, "batch k"]:
    """Run the model at points, in float64.

    engine: "numpy" (the reference), "torch", "numba", or "auto": the fastest installed one, where the work is worth it. A model of
    several heads or layers, one that attends to its data tokens or does not normalise, and inputs whose logits overflow run on the reference.
    Every engine is within the certificate's `rounding` of the real function, so two of them differ by at most twice that.
    Raises ValueError for an unknown engine or one that is not installed, ModelError for shapes that do not fit.
    """
    model.accepts(prefix)
    points = np.asarray(x, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != model.inputs:
        raise ModelError(f"x: shape {points.shape}, expected (batch, {model.inputs})")
    chosen = _automatic(len(points) * prefix.length) if engine == "auto" else _named(engine)
    if len(points) == 0:
        return np.empty((0, model.outputs))
    if chosen.attention is None or not _single_head(model):
        return forward(model, prefix, points)
    head, keys, values = model.layers[0].heads[0], prefix.keys[0][0], prefix.values[0][0]
    with np.errstate(all="ignore"):
        queries = (points @ model.embedding.T + model.offset) @ head.query.T
        largest = np.abs(queries).max() * np.abs(keys).max() * keys.shape[1]
    if not largest < _LARGEST_LOGIT:  # NaN too: what then comes out is the reference's business
        return forward(model, prefix, points)
    return chosen.attention(queries, keys, values) @ head.output.T @ model.readout.T


def _single_head(model: Transformer) -> bool:
    layer = model.layers[0]
    if len(model.layers) != 1 or len(layer.heads) != 1 or layer.residual or model.positions is not None:
        return False
    return layer.heads[0].normalised and not layer.heads[0].attends_to_data


def _automatic(work: int) -> Engine:
    """The fastest engine that is ready; where none is, and the work is worth it, the fastest that can be started."""
    fast = [engine for engine in ENGINES if engine.package is not None and work >= _WORTH_CALLING]
    ready = (engine for engine in fast if engine.ready())
    startable = (engine for engine in fast if work >= _WORTH_STARTING and engine.starts())
    return next(chain(ready, startable), ENGINES[-1])


def _named(name: str) -> Engine:
    for engine in ENGINES:
        if engine.name == name:
            if not engine.installed:
                raise ValueError(
                    f"engine: {name!r} needs the package {engine.package}, which is not installed. Run "
                    f"pip install 'prefix-compiler[{engine.package}]', or pass one of {', '.join(('auto', *available_engines()))}."
                )
            return engine
    raise ValueError(f"engine: {name!r} is unknown. Pass one of {', '.join(('auto', *(e.name for e in ENGINES)))}.")
