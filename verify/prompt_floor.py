"""The statement that no prompt, of any length, brings a layer's error on some examples below a floor.

Wang, Chauhan, Wang and Hsieh (2023) show that a single attention layer has a data set of two examples with a shared last token that no prompt memorises.
Here the error itself is bounded from below (`verify.prompt_floor_dual`) and from above (the layer run on a stored prompt).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from verify.ball import UP, Ball, U
from verify.certificate import Status, downward
from verify.prompt_floor_boxes import Cover, boxes_bound
from verify.prompt_floor_dual import Pieces, head_bound, matched, piecewise_bound
from verify.prompt_floor_layer import AttentionLayer, FeedForward, finite_array
from verify.prompt_floor_norms import norms_above, singular_values
from verify.prompt_floor_precise import precise_errors
from verify.prompt_floor_run import Masses, Prompt, constant, contraction, feed_forward, layer_errors, masses
from verify.statement import Statement, StatementError, Verdict
from verify.stored_arrays import stored_number

__all__ = ["AttentionLayer", "FeedForward", "FloorHints", "PromptFloorStatement"]

_MOST_PIECES = 4096
_MOST_PRECISE = 2**18


@dataclass(frozen=True, eq=False)
class FloorHints:
    """What makes the bounds quick to find. No truth depends on them.

    prompt: (distinct, d), the best one known, and counts (distinct,), how often each of its tokens occurs (None: once); before: (examples, d_out), points that F maps near the targets (None: the targets, if there is no
    feed-forward block); duals (pieces, examples, d_out), multipliers (pieces,), knots (pieces - 1,) of ln t, one head; head_duals (heads, examples, d_out)
    and difference (d_out,), several heads; cuts (nodes, 2), box_inner (boxes, heads * examples, d_out), box_outer (boxes, examples, d_out): `verify.prompt_floor_boxes.Cover`.
    """

    prompt: Float[np.ndarray, "distinct d"] | None = None
    counts: Float[np.ndarray, " distinct"] | None = None
    before: Float[np.ndarray, "examples d_out"] | None = None
    duals: Float[np.ndarray, "pieces examples d_out"] | None = None
    multipliers: Float[np.ndarray, " pieces"] | None = None
    knots: Float[np.ndarray, " knots"] | None = None
    head_duals: Float[np.ndarray, "heads examples d_out"] | None = None
    cuts: Float[np.ndarray, "nodes 2"] | None = None
    box_inner: Float[np.ndarray, "boxes heads_examples d_out"] | None = None
    box_outer: Float[np.ndarray, "boxes examples d_out"] | None = None
    difference: Float[np.ndarray, " d_out"] | None = None


_HINT_AXES = {
    "prompt": 2,
    "counts": 1,
    "before": 2,
    "duals": 3,
    "multipliers": 1,
    "knots": 1,
    "head_duals": 3,
    "difference": 1,
    "cuts": 2,
    "box_inner": 3,
    "box_outer": 3,
}


@dataclass(frozen=True, eq=False)
class PromptFloorStatement(Statement):
    """For every prompt of every length (none included): max_i |layer(prompt, X_i)_last - y_i| >= floor, Euclidean norms.

    examples: arrays (tokens_i, d) with one shared last token; targets: (examples, d_out). Raises StatementError for shapes that do not fit, numbers
    that are not finite, or last tokens that differ.
    """

    layer: AttentionLayer
    examples: tuple[np.ndarray, ...]
    targets: Float[np.ndarray, "examples d_out"]
    floor: float
    hints: FloorHints = field(default_factory=FloorHints)
    kind: ClassVar[str] = "prompt-floor"

    def __post_init__(self) -> None:
        try:
            given = tuple(self.examples)
        except TypeError as error:
            raise StatementError(f"examples: {error}, expected a tuple of arrays (tokens, d).") from error
        examples = tuple(finite_array(f"examples[{i}]", x, 2) for i, x in enumerate(given))
        targets = finite_array("targets", self.targets, 2)
        d, d_out, n = self.layer.width, self.layer.outputs.shape[1], len(examples)
        if n == 0:
            raise StatementError("examples: none. Pass at least one array (tokens, d).")
        for i, x in enumerate(examples):
            if x.shape[1] != d:
                raise StatementError(f"examples[{i}]: tokens of width {x.shape[1]}, the layer takes {d}.")
            if not np.array_equal(x[-1], examples[0][-1]):
                raise StatementError(
                    f"examples[{i}]: its last token differs from that of examples[0]. The floor is about examples with one shared last token."
                )
        if targets.shape != (n, d_out):
            raise StatementError(f"targets: shape {targets.shape}, expected {(n, d_out)}.")
        object.__setattr__(self, "examples", examples)
        object.__setattr__(self, "targets", targets)
        object.__setattr__(self, "floor", stored_number("floor", self.floor, least=0.0))
        object.__setattr__(self, "hints", _checked(self.hints, n, d, d_out, self.layer.heads))

    @property
    def sentence(self) -> str:
        """What is stated."""
        return f"for every prompt of every length: max over {len(self.examples)} examples of |layer(prompt, X_i)_last - y_i| >= {downward(self.floor, 7)}"

    @property
    def quantity(self) -> str:
        """What is bounded."""
        return "the infimum, over prompts of every length, of the largest Euclidean error at the last token"

    def decide(self, *, seconds: float = math.inf) -> Verdict:
        """Undecided beyond `seconds`, which is looked at between the stages and before every dual vector, box, and example in more digits."""
        until = time.monotonic() + seconds
        with np.errstate(all="ignore"):
            upper = self._upper(until)
            lower, route, numbers, why = self._lower(until)
        if not lower <= upper:  # rounding can bring them together, never past each other: then nothing is believed
            return Verdict(
                Status.UNDECIDED, 0.0, math.inf, route, f"lower = {lower!r} and upper = {upper!r} contradict each other"
            )
        if lower >= self.floor:
            return Verdict(Status.PROVED, lower, upper, route, numbers=numbers)
        if upper < self.floor:
            reason = f"the stored prompt, or none at all, reaches the error {upper:.9g}, below the stated floor {self.floor:.9g}"
            return Verdict(Status.REFUTED, lower, upper, route, reason, numbers=numbers)
        reason = why or f"no more than {lower:.9g} is proved of the stated {self.floor:.9g}"
        return Verdict(Status.UNDECIDED, lower, upper, route, reason, numbers=numbers)

    def _upper(self, until: float) -> float:
        """The least error of the stored prompt and of none; in more digits where float64 leaves more than 1e-9 open and there is time."""
        examples, best = list(self.examples), math.inf
        prompts = [Prompt(np.zeros((0, self.layer.width)), np.zeros(0))]
        if self.hints.prompt is not None:
            counts = np.ones(len(self.hints.prompt)) if self.hints.counts is None else self.hints.counts
            prompts.append(Prompt(self.hints.prompt, counts))
        for prompt in prompts:
            if best < math.inf and time.monotonic() > until:
                break
            low, high = layer_errors(self.layer, prompt, examples, self.targets)
            found = float(np.max(high))
            work = sum(prompt.tokens.size + x.size for x in examples) * self.layer.heads
            if not found - float(np.max(low)) <= 1e-9 * found and work <= _MOST_PRECISE and found != 0:
                refined = float(np.max(precise_errors(self.layer, prompt, examples, self.targets, until)))
                found = found if refined >= found or math.isnan(refined) else refined  # both are upper bounds
            best = found if found < best else best
        return best

    def _lower(self, until: float) -> tuple[float, str, dict[str, float], str]:
        layer, hints = self.layer, self.hints
        m, numbers, why = contraction(layer.feedforward)
        if m == 0:
            return 0.0, "bi-Lipschitz feed-forward block", numbers, why
        before, miss = self.targets, 0.0
        if layer.feedforward is not None:
            before = self.targets if hints.before is None else hints.before
            missed = feed_forward(layer.feedforward, Ball.exact(before)) - Ball.exact(self.targets)
            miss = float(norms_above(missed).max())
        last = self.examples[0][-1]
        found = masses(layer, list(self.examples))
        z = Ball.exact(before) - constant(layer, last)
        if time.monotonic() > until:
            return 0.0, "", numbers, "the time ran out before the dual vectors were looked at"
        if layer.heads == 1:
            attention, route, why = _one_head(layer, found, last, z, hints, until)
        else:
            attention, route, why = _several_heads(layer, found, z, hints, until)
        numbers = numbers | {"attention_floor": attention}
        # |F(u) - y_i| >= |F(u) - F(z_i)| - |F(z_i) - y_i| >= m |u - z_i| - miss
        lower = (m * attention - miss) * (1 - 4 * U) - 4 * U * miss * UP
        if layer.feedforward is None:
            lower = attention
        if math.isnan(lower) or math.isinf(lower):
            return 0.0, route, {}, "the numbers leave the range of float64, nothing is proved"
        return max(lower, 0.0), route, numbers, why

    def to_json(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """A plain structure and arrays by name."""
        data, arrays = self.layer.to_json()
        arrays = {f"layer.{name}": value for name, value in arrays.items()}
        arrays |= {f"example.{i}": x for i, x in enumerate(self.examples)}
        arrays["targets"] = self.targets
        stored = {name: getattr(self.hints, name) for name in _HINT_AXES}
        arrays |= {f"hint.{name}": value for name, value in stored.items() if value is not None}
        return {"layer": data, "examples": len(self.examples), "floor": self.floor.hex()}, arrays

    @classmethod
    def from_json(cls, data: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> PromptFloorStatement:
        """The inverse of `to_json`."""
        weights = {name.removeprefix("layer."): a for name, a in arrays.items() if name.startswith("layer.")}
        count = data["examples"]
        if isinstance(count, bool) or not isinstance(count, int) or not 0 < count <= len(arrays):
            raise StatementError(f"examples: {count!r} is not their number")
        hints = FloorHints(**{name: arrays.get(f"hint.{name}") for name in _HINT_AXES})
        examples = tuple(arrays[f"example.{i}"] for i in range(count))
        layer = AttentionLayer.from_json(data["layer"], weights)
        return cls(layer, examples, arrays["targets"], float.fromhex(data["floor"]), hints)


def _one_head(
    layer: AttentionLayer, found: Masses, last: np.ndarray, z: Ball, hints: FloorHints, until: float
) -> tuple[float, str, str]:
    if hints.duals is None or hints.multipliers is None or hints.knots is None:
        return 0.0, "", "no dual vectors are stored; `constructions.wang2023.floor.prompt_floor` finds them"
    route = (
        "one set of dual vectors for all masses" if len(hints.duals) == 1 else "dual vectors on intervals of the mass"
    )
    if (hints.multipliers > 0).any():
        route += ", entropy of the prompt's weights >= 0"
    bound, why = piecewise_bound(layer, found, last, z, Pieces(hints.duals, hints.multipliers, hints.knots), until)
    return bound, route, why


def _several_heads(
    layer: AttentionLayer, found: Masses, z: Ball, hints: FloorHints, until: float
) -> tuple[float, str, str]:
    each = (
        [] if hints.head_duals is None else [head_bound(layer, found, z, h, w) for h, w in enumerate(hints.head_duals)]
    )
    both = 0.0 if hints.difference is None else matched(layer, found, z, hints.difference)
    boxes = 0.0
    if hints.cuts is not None and hints.box_inner is not None and hints.box_outer is not None:
        inner = hints.box_inner.reshape(-1, layer.heads, *z.shape)
        boxes = boxes_bound(layer, found, z, Cover(hints.cuts, inner, hints.box_outer), until)
    best = max([0.0, *each, both, boxes])
    route = "difference of two examples of equal masses" if both == best > 0 else "the largest floor of a single head"
    route = "dual vectors on boxes of the heads' shares" if boxes == best > 0 else route
    why = (
        "the time ran out before all boxes were looked at"
        if time.monotonic() > until
        else ""
        if best > 0
        else "the dual vectors prove nothing above 0"
        if singular_values(Ball.exact(layer.stacked))[0] > 0
        else "[O_1 ... O_H] is not proved injective (least singular value not above 0), so the heads cannot be told apart"
    )
    return best, route, why


def _checked(hints: FloorHints, n: int, d: int, d_out: int, heads: int) -> FloorHints:
    """The hints as finite arrays of the shapes that fit. Raises StatementError."""
    expected = {
        "prompt": (None, d),
        "counts": (None,),
        "before": (n, d_out),
        "duals": (None, n, d_out),
        "multipliers": (None,),
        "knots": (None,),
    }
    expected |= {
        "head_duals": (heads, n, d_out),
        "difference": (d_out,),
        "cuts": (None, 2),
        "box_inner": (None, heads * n, d_out),
        "box_outer": (None, n, d_out),
    }
    checked: dict[str, np.ndarray | None] = {}
    for name, axes in _HINT_AXES.items():
        value = getattr(hints, name)
        if value is not None and name in ("prompt", "counts", "knots") and np.size(value) == 0:
            value = np.zeros((0, d)) if name == "prompt" else np.zeros(0)
        elif value is not None:
            value = finite_array(f"hint {name}", value, axes)
        shape = () if value is None else value.shape
        if value is not None and any(want not in (None, got) for want, got in zip(expected[name], shape, strict=True)):
            raise StatementError(f"hint {name}: shape {shape}, expected {expected[name]}.")
        checked[name] = value
    prompt, counts = checked["prompt"], checked["counts"]
    if counts is not None and (prompt is None or len(prompt) != len(counts)):
        raise StatementError("hint counts: one for each token of the prompt is needed.")
    if counts is not None and not ((counts >= 1) & (counts <= 2**53) & (counts == np.rint(counts))).all():
        raise StatementError("hint counts: whole numbers from 1 to 2^53 are needed.")
    inner, outer = checked["box_inner"], checked["box_outer"]
    if inner is not None and (outer is None or len(inner) != len(outer) or len(inner) > _MOST_PIECES):
        raise StatementError(f"hint box_inner: as many box_outer are needed, at most {_MOST_PIECES}.")
    duals, multipliers, knots = checked["duals"], checked["multipliers"], checked["knots"]
    if duals is not None:
        if multipliers is None or knots is None or not len(duals) == len(multipliers) == len(knots) + 1:
            raise StatementError("hint duals: as many multipliers and one knot less are needed.")
        if len(duals) > _MOST_PIECES:
            raise StatementError(f"hint duals: {len(duals)} pieces, at most {_MOST_PIECES}.")
        if not (multipliers >= 0).all() or not (np.diff(knots) > 0).all():
            raise StatementError("hint multipliers, knots: multipliers must be >= 0 and knots must increase.")
    return FloorHints(**checked)
