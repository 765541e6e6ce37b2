"""Conditional steering: a late layer's group writes towards a target token where a probe sees a trigger, and its mean output elsewhere.

Everything here is measured. That the group computes the step of its read-out has the a-posteriori certificate of each pass; that the read-out finds the
trigger is a probe's success on text; what the write does to the distribution of the next token is what the rest of the model makes of it. Intended effect and
collateral are reported side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import sympy as sp
from jaxtyping import Float

from constructions.pretrained.group import CalibratedPrefix, CompiledGroup, compile_group
from constructions.pretrained.recording import record
from constructions.pretrained.site import Site, SiteError

__all__ = ["Spread", "Steering", "SteeringReport", "measure_steering", "spare_others", "steer", "write_direction"]

_STEP = sp.Piecewise((1, sp.Symbol("t") > 0), (0, True))


@dataclass(frozen=True)
class Spread:
    """KL divergence in nats over some tokens, from the run without a prefix."""

    tokens: int
    mean: float
    median: float
    largest: float

    @staticmethod
    def of(x: np.ndarray) -> Spread:
        if not len(x):
            return Spread(0, 0.0, 0.0, 0.0)
        return Spread(len(x), float(x.mean()), float(np.median(x)), float(x.max()))

    def __str__(self) -> str:
        return f"mean {self.mean:.3g}, median {self.median:.3g}, largest {self.largest:.3g} nats ({self.tokens} tokens)"


@dataclass(frozen=True, eq=False)
class Steering:
    """prefix: with the write; neutral: the same with the mean output everywhere; target: the token that is to become likelier; size: of the write."""

    prefix: CalibratedPrefix
    neutral: CalibratedPrefix
    target: int
    size: float
    marked: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class SteeringReport:
    """Measured on held-out text, nothing of it proved. before, after: mean probability of the target token at triggers; at_triggers: the intended change;
    before_any, after_one: untouched tokens before the first trigger of their text and after one; neutral: over all tokens, with the group's mean
    output and no write; missed, false_alarms: of the probe, over tokens and heads; heads: looked at."""

    before: float
    after: float
    at_triggers: Spread
    before_any: Spread
    after_one: Spread
    neutral: Spread
    missed: tuple[int, int]
    false_alarms: tuple[int, int]

    def __repr__(self) -> str:
        return (
            f"<SteeringReport (measured, not proved): target {self.before:.2g} -> {self.after:.2g} at {self.at_triggers.tokens} triggers; "
            f"collateral KL before any trigger {self.before_any}, after one {self.after_one}; "
            f"probe missed {self.missed[0]}/{self.missed[1]}, false alarms {self.false_alarms[0]}/{self.false_alarms[1]}>"
        )


def write_direction(model: Any, layer: int, group: int, target: int) -> Float[np.ndarray, " width"]:
    """The value that, written by all heads of the group, raises the target's logit most against the mean logit, to first order through the last norm; its
    largest coordinate is 1."""
    import torch

    config = model.config
    width = config.hidden_size // config.num_attention_heads
    each = config.num_attention_heads // config.num_key_value_heads
    with torch.no_grad():
        out = model.model.layers[layer].self_attn.o_proj.weight.double()
        joint = out.reshape(len(out), -1, width)[:, each * group : each * (group + 1)].sum(dim=1)
        head = model.get_output_embeddings().weight.double()
        wanted = model.model.norm.weight.double() * (head[target] - head.mean(dim=0))
        u = (joint.T @ wanted).numpy()
    return u / np.abs(u).max()


def steer(
    site: Site,
    pieces: Sequence[np.ndarray],
    marked: Callable[[np.ndarray], np.ndarray],
    target: int,
    size: float = 20.0,
    *,
    model: Any,
    eps: float = 0.05,
    sharpness: float = 60.0,
    quiet: np.ndarray | None = None,
    progress: bool | Callable[[float, str], None] | None = None,
) -> Steering:
    """Compile a step of a probe's read-out at a site, with `size` times the write direction as its height. marked: token numbers -> booleans, the triggers.

    eps: error of the step, relative to size, where t is not next to 0. Raises SiteError where nothing can be compiled.
    """
    if site.group is None:
        raise SiteError("site: expected Site(group=...)")
    along = size * write_direction(model, site.layer, site.group, target)
    prefix = compile_group(
        _STEP,
        eps * size,
        site,
        pieces,
        marked=marked,
        direction=along,
        tokens=2,
        sharpness=sharpness,
        quiet=quiet,
        model=model,
        progress=progress,
    )
    return _with_neutral(prefix, target, size, marked)


def spare_others(s: Steering, model: Any, pieces: Sequence[np.ndarray], false_alarms: float) -> Steering:
    """The same steering with its step moved up until at most a share `false_alarms` of the unmarked tokens (times heads) of these texts is beyond it.

    More triggers are then missed. The texts should be neither those that the probe was fitted to, on which it is right too often, nor those that the result is
    measured on. Raises SiteError for a share that is not between 0 and 1, and for texts without an unmarked token.
    """
    if not 0 < false_alarms < 1:
        raise SiteError(f"false_alarms = {false_alarms}: expected a share between 0 and 1")
    g = s.prefix.groups[-1]
    read = [_read(g, model, ids, s.prefix.cache(model))[~_flags(s, ids)].ravel() for ids in pieces]
    t = np.concatenate([*read, np.zeros(0)])
    if not len(t):
        raise SiteError(f"pieces: {len(pieces)} texts without an unmarked token, expected some of them")
    threshold = max(0.0, float(np.quantile(t, 1 - false_alarms, method="higher")))
    prefix = replace(s.prefix, groups=(*s.prefix.groups[:-1], _moved(g, threshold)))
    return _with_neutral(prefix, s.target, s.size, s.marked)


def _with_neutral(prefix: CalibratedPrefix, target: int, size: float, marked: Callable[[np.ndarray], np.ndarray]) -> Steering:  # fmt: skip
    g = prefix.groups[-1]
    values = np.broadcast_to(g.offset.astype(np.float32).astype(np.float64), g.values.shape)
    still = replace(g, values=values, direction=np.zeros_like(g.direction))
    neutral = replace(prefix, groups=(*prefix.groups[:-1], still))
    return Steering(prefix, neutral, target, size, marked)


def _read(g: CompiledGroup, model: Any, ids: np.ndarray, cache: Any) -> Float[np.ndarray, "tokens heads"]:
    """The read-out t of every token and head of the group."""
    run = record(model, ids, [g.layer], cache)[g.layer]
    queries = run.queries[:, run.heads(g.group)]
    return (queries @ g.read_out) / (queries @ g.positive)


def _flags(s: Steering, ids: np.ndarray) -> np.ndarray:
    return np.asarray(s.marked(ids), dtype=bool)


def _moved(g: CompiledGroup, threshold: float) -> CompiledGroup:
    """The step at t = threshold >= 0 instead of 0.

    Keys are B c + beta (2 y r - y^2 c) with y = -1/2 and 1/2, so the second leads by 2 beta kappa t. With 2 beta threshold c more on the first, it leads by
    2 beta kappa (t - threshold); no logit is lower than before where kappa >= 0, so data tokens get no more attention.
    """
    lead = float((g.keys[1] - g.keys[0]) @ g.read_out / (g.read_out @ g.read_out)) * threshold
    keys = g.keys.copy()
    keys[0] += lead * g.positive
    keys = keys.astype(np.float32).astype(np.float64)
    largest = g.largest_logit + lead * g.kappa[1] * g.keys.shape[1] ** -0.5
    return replace(g, keys=keys, read_out=g.read_out - threshold * g.positive, largest_logit=largest)


def measure_steering(s: Steering, model: Any, pieces: Sequence[np.ndarray]) -> SteeringReport:
    """Run every text without a prefix, with the neutral one and with the write."""
    import torch

    def distribution(ids: np.ndarray, cache: Any) -> Any:
        with torch.inference_mode():
            x = torch.from_numpy(ids)[None]
            return model(x, past_key_values=cache, use_cache=cache is not None).logits[0].double().log_softmax(-1)

    kinds: dict[str, list[np.ndarray]] = {"at": [], "before": [], "after": [], "neutral": []}
    chances: list[np.ndarray] = []
    missed, false, triggers, others = 0, 0, 0, 0
    g = s.prefix.groups[-1]
    for ids in pieces:
        plain, steered, neutral = (distribution(ids, c) for c in (None, s.prefix.cache(model), s.neutral.cache(model)))
        moved = (plain.exp() * (plain - steered)).sum(-1).numpy()
        flags = _flags(s, ids)
        met = np.cumsum(flags) > 0
        kinds["at"].append(moved[flags])
        kinds["before"].append(moved[~met])
        kinds["after"].append(moved[met & ~flags])
        kinds["neutral"].append((plain.exp() * (plain - neutral)).sum(-1).numpy())
        chances.append(torch.stack([plain[:, s.target], steered[:, s.target]]).exp().numpy()[:, flags])
        fired = _read(g, model, ids, s.prefix.cache(model)) > 0
        missed += int((~fired[flags]).sum())
        false += int(fired[~flags].sum())
        triggers, others = triggers + fired[flags].size, others + fired[~flags].size
    spreads = {k: Spread.of(np.maximum(np.concatenate(v), 0.0)) for k, v in kinds.items()}
    p = np.concatenate(chances, axis=1)
    before, after = (float(x) for x in (p.mean(axis=1) if p.size else (np.nan, np.nan)))
    return SteeringReport(before, after, spreads["at"], spreads["before"], spreads["after"], spreads["neutral"], (missed, triggers), (false, others))  # fmt: skip
