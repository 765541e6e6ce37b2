"""What a head of the first layer computes for every text: a trigger, that is a table over the vocabulary.

The statement names the layer's weights by their hash, and holds the prefix and the claim. `decide` is given the weights, checks the hash and
looks at every token at every position (`verify.token_head`); without them nothing is decided.
"""

from __future__ import annotations

import functools
import inspect
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from verify.certificate import Status, downward, upward
from verify.first_layer import FirstLayer
from verify.projected import EnumeratedLayer, OutOfSeconds, View
from verify.statement import Statement, StatementError, Verdict
from verify.stored_arrays import stored_array, stored_number
from verify.token_head import Examined, Target, TokenHead, examine, spill_of_sibling

__all__ = ["HeadStatement", "TokenTrigger"]

_SHARED = ("keys", "values", "codes", "offset", "direction", "frequencies")
ROUTE = "enumeration of vocabulary x positions"


@dataclass(frozen=True, eq=False)
class HeadStatement(Statement):
    """|output of the head - (offset + phi direction)| <= eps in every coordinate, for every text and query allowed by `prefix`, in float32; and each
    sibling head gives the prefix a share of at most `spill` (1: nothing is claimed). weights: `FirstLayer.sha256`. Subclasses say what phi is."""

    prefix: TokenHead
    weights: str
    eps: float
    spill: float

    def __post_init__(self) -> None:
        if not isinstance(self.prefix, TokenHead):
            raise StatementError(f"prefix: {type(self.prefix).__name__}, expected a TokenHead")
        stored_number("eps", self.eps, above=0.0)
        if stored_number("spill", self.spill, above=0.0) > 1:
            raise StatementError(f"spill = {self.spill}: expected a share, above 0 and at most 1")
        if (
            not isinstance(self.weights, str)
            or len(self.weights) != 64
            or not set(self.weights) <= set("0123456789abcdef")
        ):
            raise StatementError(f"weights = {str(self.weights)[:80]!r}: expected a SHA-256 in hexadecimal digits")

    @property
    def quantity(self) -> str:
        return "largest error of a coordinate of the head's float32 output, over every text"

    def target(self, layer: EnumeratedLayer) -> Target:
        """phi for tokens at positions. Raises StatementError where it does not fit the layer."""
        raise NotImplementedError

    def decide(
        self, *, seconds: float = math.inf, weights: EnumeratedLayer | Callable[[], EnumeratedLayer] | None = None
    ) -> Verdict:
        """The verdict for these weights (or a function that loads them). Undecided without them, with others, or beyond `seconds`.

        Raises StatementError where `weights` is something else, or `seconds` no number.
        """
        started = time.monotonic()
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float, np.number)) or math.isnan(seconds):
            raise StatementError(f"seconds = {seconds!r}: expected a number of seconds, or math.inf")
        if weights is None:
            return self._undecided(
                f"needs the layer's weights, SHA-256 {self.weights}: prefixc verify FILE --weights smollm2 (or minilm), or verify.check_statement(path, weights=Site(...).first_layer)"
            )
        layer = weights() if inspect.isroutine(weights) or isinstance(weights, functools.partial) else weights
        if not isinstance(layer, EnumeratedLayer):
            raise StatementError(
                f"weights: {type(layer).__name__}, expected a layer: Site(...).first_layer, or constructions.pretrained.site.layer_of(model), or a function that returns one"
            )
        if layer.sha256 != self.weights:
            return self._undecided(
                f"these are other weights: SHA-256 {layer.sha256}, the statement is about {self.weights}"
            )
        deadline = started + seconds
        try:
            found = examine(layer, self.prefix, self.target(layer), deadline)
            spills = _spills(layer, self.prefix, deadline)
        except OutOfSeconds:
            return self._undecided(f"not every query was looked at within {seconds:g} s")
        except StatementError as error:
            return self._undecided(str(error))
        return self._verdict(found, spills, layer.assumption)

    def _verdict(self, found: Examined, spills: Mapping[int, float], assumption: str) -> Verdict:
        numbers = {
            "error of phi": found.scalar_error,
            "share of data tokens": found.data_share,
            "rounding of softmax and sum": found.execution,
            "largest logit": found.largest_logit,
            "rounding of logit differences": found.logit_rounding,
            "worst token": float(found.token),
            "worst position": float(found.position),
            **{f"prefix share of head {h}": share for h, share in spills.items()},
        }
        spilt = max(spills.values(), default=0.0)
        reason = ""
        if not found.error <= self.eps:
            reason = f"the bound {upward(found.error)} at token {found.token}, position {found.position} is above eps = {self.eps:g}"
        elif self.spill < 1 and not spilt <= self.spill:
            reason = f"a sibling head may give the prefix a share of {upward(spilt)}, above spill = {self.spill:g}"
        status = Status.UNDECIDED if reason else Status.PROVED
        return Verdict(status, 0.0, found.error, ROUTE, reason, (assumption,), numbers)

    def _undecided(self, reason: str) -> Verdict:
        return Verdict(Status.UNDECIDED, 0.0, math.inf, ROUTE, reason)

    def _where(self) -> str:
        p = self.prefix
        shared = "" if self.spill == 1 else f"; sibling heads give it a share <= {upward(self.spill)}"
        return f"every text of at most {p.length} tokens, positions {p.first} to {p.last}, {len(p.keys)} prefix tokens, error <= {downward(self.eps)} in float32{shared}"

    def _shared_json(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        p = self.prefix
        data = {"head": p.head, "first": p.first, "last": p.last, "length": p.length, "weights": self.weights}
        data |= {"eps": float(self.eps).hex(), "spill": float(self.spill).hex()}
        return data, {name: getattr(p, name) for name in _SHARED}

    @staticmethod
    def _shared_from(data: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> tuple[TokenHead, str, float, float]:
        numbers = {name: data[name] for name in ("head", "first", "last", "length")}
        parts = {name: arrays[name] for name in _SHARED}
        prefix = TokenHead(**parts, **numbers)  # type: ignore[arg-type]
        return prefix, str(data["weights"]), float.fromhex(data["eps"]), float.fromhex(data["spill"])


def _spills(layer: EnumeratedLayer, prefix: TokenHead, deadline: float) -> dict[int, float]:
    """What each sibling head gives to the prefix; heads have siblings in layers that share keys."""
    if not isinstance(layer, FirstLayer):
        return {}
    return {h: spill_of_sibling(layer, prefix, h, deadline) for h in layer.siblings(prefix.head)}


@dataclass(frozen=True, eq=False)
class TokenTrigger(HeadStatement):
    """phi(b) = `marks[i]` for b = `tokens[i]`, and `elsewhere` for every other token. tokens: (M,), increasing."""

    kind: ClassVar[str] = "token-trigger"

    tokens: Int[np.ndarray, " M"]
    marks: Float[np.ndarray, " M"]
    elsewhere: float

    def __post_init__(self) -> None:
        super().__post_init__()
        t = np.asarray(self.tokens)
        if t.ndim != 1 or t.dtype.kind not in "iu" or (t < 0).any() or (t >= 2**31).any():
            raise StatementError(
                f"tokens: shape {t.shape}, {t.dtype}; expected increasing numbers of tokens below 2^31"
            )
        t = t.astype(np.int64)
        if (np.diff(t) <= 0).any():
            raise StatementError("tokens: not increasing; sort them, each once")
        t.setflags(write=False)
        object.__setattr__(self, "tokens", t)
        object.__setattr__(self, "marks", stored_array("marks", self.marks, (len(t),)))
        stored_number("elsewhere", self.elsewhere)

    @property
    def sentence(self) -> str:
        return f"head {self.prefix.head} of layer 0 computes a trigger on {len(self.tokens)} tokens: {self._where()}"

    def target(self, layer: EnumeratedLayer) -> Target:
        if len(self.tokens) and self.tokens[-1] >= layer.vocabulary:
            raise StatementError(f"tokens: {self.tokens[-1]} is outside the vocabulary of {layer.vocabulary}")
        table = np.full(layer.vocabulary, self.elsewhere)
        table[self.tokens] = self.marks

        def phi(view: View, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return table[rows][:, None], table[rows][:, None]

        return phi

    def to_json(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        data, arrays = self._shared_json()
        data["elsewhere"] = float(self.elsewhere).hex()
        return data, arrays | {"tokens": self.tokens.astype(np.float64), "marks": self.marks}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> TokenTrigger:
        tokens = arrays["tokens"]
        if not ((tokens >= 0) & (tokens < 2**31) & (tokens == np.rint(tokens))).all():
            raise StatementError("tokens: expected whole numbers from 0")
        elsewhere = float.fromhex(data["elsewhere"])
        return cls(*cls._shared_from(data, arrays), tokens.astype(np.int64), arrays["marks"], elsewhere)
