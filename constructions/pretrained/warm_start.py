"""A compiled prefix as the start of gradient prefix-tuning, where the target is known in part; and a compiled prefix beside a LoRA adapter.

Start: the universal backbone and PEFT. The known part of a target is compiled and written as an adapter, loaded again as trainable, and trained with Adam on
samples of the whole target; beside it, adapters of the same number of tokens from PEFT's own random initialisation. Same samples, same steps, same learning
rates tried for every start; of each start the rate with the smallest final loss counts.

LoRA: on the pretrained model, with the compiled prefix in place and frozen. What the adapter changes are later queries, so certificates of passes stay what
they are, bounds at the queries of the run, while the calibration of the sites above the adapter's layers ages. Both are measured.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sympy as sp

from constructions.compile import compile_prefix
from constructions.export import backbone_for, to_peft
from constructions.export.checked import required
from constructions.pretrained.group import CalibratedPrefix
from constructions.pretrained.posterior import verify_pass
from verify import Box

__all__ = ["BesideLora", "Curve", "WarmStart", "beside_lora", "warm_start"]


@dataclass(frozen=True, eq=False)
class Curve:
    """start: "compiled" or "random"; losses: mean squared error on a fixed grid, before training and after each `every` steps."""

    start: str
    seed: int
    rate: float
    every: int
    losses: np.ndarray

    def __repr__(self) -> str:
        return f"<Curve {self.start}, seed {self.seed}, rate {self.rate:g}: {self.losses[0]:.3g} -> {self.losses[-1]:.3g} (measured)>"


@dataclass(frozen=True, eq=False)
class WarmStart:
    """curves: the best rate of each start and seed; tokens, steps: the budget; rates: tried; known, target: in words."""

    curves: tuple[Curve, ...]
    tokens: int
    steps: int
    rates: tuple[float, ...]
    known: str
    target: str

    def final(self, start: str) -> float:
        """Median of the final losses of a kind of start."""
        return float(np.median([c.losses[-1] for c in self.curves if c.start == start]))

    def __repr__(self) -> str:
        return f"<WarmStart (measured): {self.tokens} tokens, {self.steps} steps; median final loss compiled {self.final('compiled'):.3g}, random {self.final('random'):.3g}>"


def warm_start(
    known: sp.Expr,
    target: sp.Expr,
    *,
    eps: float = 1e-2,
    steps: int = 150,
    rates: Sequence[float] = (0.01, 0.03, 0.1, 0.3),
    seeds: Sequence[int] = (0, 1, 2),
    batch: int = 64,
    every: int = 10,
) -> WarmStart:
    """Train prefixes for `target`, an expression in one variable on [-1, 1], from the compiled `known` part and from random numbers.

    Raises MissingExtraError where torch, transformers or peft is missing.
    """
    torch = required("torch", "warm_start")
    required("peft", "warm_start")
    (x,) = sorted(target.free_symbols, key=str)
    compiled = compile_prefix(known, eps, Box({str(x): (-1, 1)}), progress=False)
    backbone = backbone_for(compiled)
    truth = sp.lambdify(x, target, "numpy")
    best: list[Curve] = []
    with tempfile.TemporaryDirectory() as folder:
        path = to_peft(compiled, Path(folder) / "known", backbone)
        for name, make in (("compiled", _loaded), ("random", _random)):
            for seed in seeds:
                tried = []
                for rate in rates:
                    torch.manual_seed(seed)
                    losses = _train(make(backbone, path), truth, rate, steps, batch, every, seed)
                    tried.append(Curve(name, seed, rate, every, losses))
                best.append(min(tried, key=lambda c: float(np.nan_to_num(c.losses[-1], nan=np.inf))))
    return WarmStart(tuple(best), compiled.length, steps, tuple(rates), str(known), str(target))


def _loaded(backbone: Any, path: Path) -> Any:
    """The adapter, trainable. `PeftModel.from_pretrained` refuses that for prefixes, so its numbers are put into a fresh one of the same sizes."""
    import torch
    from safetensors.torch import load_file

    model = _random(backbone, path)
    matrix = load_file(str(path / "adapter_model.safetensors"))["prompt_embeddings"]
    embedding = model.prompt_encoder["default"].embedding
    with torch.no_grad():
        embedding.weight.copy_(matrix)
    return model


def _random(backbone: Any, path: Path) -> Any:
    """The same adapter's sizes with PEFT's initialisation."""
    from peft import PrefixTuningConfig, get_peft_model

    config = PrefixTuningConfig.from_pretrained(str(path))
    config.inference_mode = False
    return get_peft_model(copy.deepcopy(backbone), config)


def _train(model: Any, truth: Callable[[np.ndarray], np.ndarray], rate: float, steps: int, batch: int, every: int, seed: int) -> np.ndarray:  # fmt: skip
    import torch

    rng = np.random.default_rng(seed)
    inputs = model.base_model.config.inputs
    grid = np.linspace(-1, 1, 401)

    def loss_at(x: np.ndarray) -> Any:
        points = torch.zeros(1, len(x), inputs)
        points[0, :, 0] = torch.from_numpy(x)
        wanted = torch.from_numpy(np.asarray(truth(x) + 0 * x, dtype=np.float32))
        return ((model(inputs_embeds=points).last_hidden_state[0, :, 0] - wanted) ** 2).mean()

    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    losses = []
    for step in range(steps + 1):
        if step % every == 0:
            with torch.no_grad():
                losses.append(float(loss_at(grid)))
        loss = loss_at(rng.uniform(-1, 1, batch))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return np.array(losses)


@dataclass(frozen=True, eq=False)
class BesideLora:
    """losses: next-token loss of the training text, step by step, with the prefix in place; within: the share of (token, head) certified within eps on held-out
    text, for each site, before and after; violations: recorded errors above their bound, after."""

    losses: np.ndarray
    before: tuple[float, ...]
    after: tuple[float, ...]
    violations: int

    def __repr__(self) -> str:
        return f"<BesideLora (measured): loss {self.losses[0]:.3g} -> {self.losses[-1]:.3g}; certified within eps {self.before} -> {self.after}, {self.violations} violations>"


def beside_lora(
    prefix: CalibratedPrefix,
    model: Any,
    train: Sequence[np.ndarray],
    held: Sequence[np.ndarray],
    *,
    rank: int = 4,
    steps: int = 6,
    rate: float = 1e-3,
    seed: int = 0,
) -> BesideLora:
    """Train a LoRA adapter on the query and value projections of a copy of the model, the compiled prefix in place, and certify passes before and after."""
    torch = required("torch", "beside_lora", "pretrained")
    required("peft", "beside_lora", "pretrained")
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["q_proj", "v_proj"])
    adapted: Any = inject_adapter_in_model(config, copy.deepcopy(model))
    for name, p in adapted.named_parameters():
        p.requires_grad_("lora_" in name)
    before = [verify_pass(prefix, adapted, ids) for ids in held]  # the adapter starts at zero
    optimiser = torch.optim.Adam([p for p in adapted.parameters() if p.requires_grad], lr=rate)
    losses = []
    for step in range(steps):
        x = torch.from_numpy(train[step % len(train)])[None]
        logits = adapted(x, past_key_values=prefix.cache(adapted)).logits[0]
        loss = torch.nn.functional.cross_entropy(logits[:-1], x[0, 1:])
        losses.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    after = [verify_pass(prefix, adapted, ids) for ids in held]

    def within(reports: list[Any]) -> tuple[float, ...]:
        return tuple(
            float(np.concatenate([(r.sites[i].bounds.bound <= g.eps).ravel() for r in reports]).mean())
            for i, g in enumerate(prefix.groups)
        )

    bad = sum(int((s.bounds.measured > s.bounds.bound).sum()) for r in after for s in r.sites)
    return BesideLora(np.array(losses), within(before), within(after), bad)
