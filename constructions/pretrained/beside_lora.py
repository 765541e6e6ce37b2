"""A compiled prefix beside a LoRA adapter: one model, the prefix in place and frozen, low-rank changes of the weights trained around it.

What is trained changes queries (and the data tokens' keys and values) from the lowest adapted layer on, but no number of the prefix. So
  - a proof about layer 0, for every text, stays what it is where the adapter leaves layer 0 alone, and is about another model where it does not;
  - certificates of passes stay what they are: bounds at the queries of the very run, whoever made them. What may age is the calibration of the sites above the
    lowest adapted layer: queries wander off the text's, and bounds grow where they do.
Both are measured here, beside the losses on text that was not trained on, and beside those of the same adapter trained without the prefix.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from constructions.export.checked import required
from constructions.pretrained.group import CalibratedPrefix
from constructions.pretrained.posterior import verify_pass
from constructions.pretrained.site import SiteError
from constructions.progress import reporting

__all__ = ["BesideLora", "beside_lora"]

_TARGETS = ["q_proj", "v_proj"]


@dataclass(frozen=True, eq=False)
class BesideLora:
    """losses: of each step's text, the prefix in place; held: mean next-token loss of held-out text for the model as it is ("plain"), with the prefix ("prefix"),
    with the trained adapter beside it ("both"), and with the same adapter trained and run without the prefix ("lora"); before, after: for each site, the share of
    (token, head) on held-out text that is certified within eps; medians: of the bounds, (before, after) for each site; bounds: looked at in all; violations: recorded
    errors above their bound, before and after; layers: adapted."""

    losses: np.ndarray
    held: dict[str, float]
    before: tuple[float, ...]
    after: tuple[float, ...]
    medians: tuple[tuple[float, float], ...]
    bounds: int
    violations: int
    layers: tuple[int, ...]

    def __repr__(self) -> str:
        shares = ", ".join(f"{b:.1%} -> {a:.1%}" for b, a in zip(self.before, self.after, strict=True))
        return (
            f"<BesideLora (measured): held-out loss {self.held['prefix']:.3g} -> {self.held['both']:.3g} in {len(self.losses)} steps; "
            f"certified within eps {shares}; {self.violations} of {self.bounds} bounds violated; layer 0 {'kept' if self.keeps_first_layer else 'changed'}>"
        )

    @property
    def keeps_first_layer(self) -> bool:
        """Whether a proof about layer 0 (`compile_at_site`) is about the adapted model too: nothing there has changed."""
        return 0 not in self.layers


def beside_lora(
    prefix: CalibratedPrefix,
    model: Any,
    train: Sequence[np.ndarray],
    held: Sequence[np.ndarray],
    *,
    rank: int = 4,
    steps: int = 20,
    rate: float = 1e-3,
    layers: Sequence[int] | None = None,
    alone: bool = True,
    seed: int = 0,
    progress: bool | Callable[[float, str], None] | None = None,
) -> BesideLora:
    """Train a LoRA adapter on the query and value projections of `layers` (None: all) of a copy of the model, the compiled prefix in place, one text of `train`
    a step, with Adam; certify passes over `held` before and after.

    alone: train the same adapter without the prefix too, for comparison. progress: as in compile_prefix. Raises SiteError for what cannot be trained,
    MissingExtraError without torch or peft.
    """
    depth = model.config.num_hidden_layers
    chosen = tuple(range(depth)) if layers is None else tuple(sorted({int(i) for i in layers}))
    _check(train, held, rank, steps, rate, chosen, depth)
    required("torch", "beside_lora", "pretrained")
    required("peft", "beside_lora", "pretrained")
    with reporting(progress) as report:
        found = {"plain": _loss(model, held, None), "prefix": _loss(model, held, prefix)}
        before = _passes(prefix, model, held)
        adapted = _adapted(model, rank, chosen, seed)
        losses = _fit(
            adapted, train, prefix, steps, rate, lambda done: report(0.1 + 0.4 * done, "LoRA beside the prefix")
        )
        found["both"] = _loss(adapted, held, prefix)
        after = _passes(prefix, adapted, held)
        if alone:
            del adapted
            other = _adapted(model, rank, chosen, seed)
            _fit(other, train, None, steps, rate, lambda done: report(0.55 + 0.4 * done, "LoRA without the prefix"))
            found["lora"] = _loss(other, held, None)
    sites = range(len(prefix.groups))
    shares = [tuple(float((b[i][0] <= prefix.groups[i].eps).mean()) for i in sites) for b in (before, after)]
    medians = tuple((float(np.median(before[i][0])), float(np.median(after[i][0]))) for i in sites)
    violations = sum(int((measured > bound).sum()) for b in (before, after) for bound, measured in b)
    bounds = sum(bound.size for b in (before, after) for bound, _ in b)
    return BesideLora(losses, found, shares[0], shares[1], medians, bounds, violations, chosen)


def _check(train: Any, held: Any, rank: int, steps: int, rate: float, layers: tuple[int, ...], depth: int) -> None:
    for name, texts in (("train", train), ("held", held)):
        if not len(texts) or min(len(ids) for ids in texts) < 2:
            raise SiteError(f"{name}: {len(texts)} texts, expected one or more, each of two tokens at least")
    for name, count, least in (("rank", rank, 1), ("steps", steps, 0)):
        if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < least:
            raise SiteError(f"{name} = {count!r}: expected a whole number >= {least}")
    if not (math.isfinite(rate) and rate > 0):
        raise SiteError(f"rate = {rate}: expected a positive learning rate")
    if not layers or layers[0] < 0 or layers[-1] >= depth:
        raise SiteError(f"layers = {layers}: expected some of 0 to {depth - 1}")


def _adapted(model: Any, rank: int, layers: tuple[int, ...], seed: int) -> Any:
    """A copy with a fresh adapter, which changes nothing yet, alone trainable."""
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=_TARGETS, layers_to_transform=list(layers))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted: Any = inject_adapter_in_model(config, copy.deepcopy(model))
    for name, p in adapted.named_parameters():
        p.requires_grad_("lora_" in name)
    return adapted


def _fit(adapted: Any, train: Sequence[np.ndarray], prefix: CalibratedPrefix | None, steps: int, rate: float, report: Callable[[float], None]) -> np.ndarray:  # fmt: skip
    import torch

    optimiser = torch.optim.Adam([p for p in adapted.parameters() if p.requires_grad], lr=rate)
    losses = []
    for step in range(steps):
        report(step / steps)
        loss = _next_token_loss(adapted, train[step % len(train)], prefix)
        losses.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return np.array(losses)


def _next_token_loss(model: Any, ids: np.ndarray, prefix: CalibratedPrefix | None) -> Any:
    import torch

    x = torch.from_numpy(ids)[None]
    cache = None if prefix is None else prefix.cache(model)
    logits = model(x, past_key_values=cache, use_cache=cache is not None).logits[0]
    return torch.nn.functional.cross_entropy(logits[:-1], x[0, 1:])


def _loss(model: Any, texts: Sequence[np.ndarray], prefix: CalibratedPrefix | None) -> float:
    """Mean over all predicted tokens."""
    import torch

    with torch.inference_mode():
        sums = [float(_next_token_loss(model, ids, prefix)) * (len(ids) - 1) for ids in texts]
    return sum(sums) / sum(len(ids) - 1 for ids in texts)


def _passes(prefix: CalibratedPrefix, model: Any, texts: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """(bound, measured) over all tokens and heads, for each site."""
    reports = [verify_pass(prefix, model, ids) for ids in texts]
    return [
        tuple(
            np.concatenate([getattr(r.sites[i].bounds, name).ravel() for r in reports])
            for name in ("bound", "measured")
        )  # type: ignore[misc]
        for i in range(len(prefix.groups))
    ]
