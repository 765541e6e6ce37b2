"""A compiled prefix as the start of gradient prefix-tuning, where a target is known in part: its known part compiled, the whole of it seen in samples only.

Three starts of the same number of tokens, as trainable PEFT adapters of one frozen backbone:

  compiled: the compiled prefix, with spare tokens split off so that its function stays what it is;
  random:   PEFT's own initialisation, standard normal numbers;
  scaled:   keys normal with the mean and the standard deviation that the compiled keys have in each coordinate, values with those of the known part's values
            on the domain: what of a compiled start is its scale, and not its function.

All have the same budget: the same samples, drawn anew for each step, the same number of steps of Adam with a learning rate that falls to 0 as a cosine, the same
peak rates tried. For each kind of start one rate counts for all seeds, the one with the smallest median loss on validation points after the last step. What
is reported are losses on test points, which neither training nor the choice of the rate has seen. A seed draws the samples of a run and, but for the compiled
start, its numbers. Everything is measured; once training has begun, the certificate of the compiled prefix is about another prefix.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import sympy as sp
from jaxtyping import Float

from constructions.compiled import Compiled
from constructions.export.adapter import backbone_for, to_peft
from constructions.export.checked import required
from constructions.progress import reporting
from verify.domain import Box

__all__ = ["STARTS", "Curve", "WarmStart", "WarmStartError", "split_tokens", "trainable", "warm_start"]

STARTS = ("compiled", "random", "scaled")
_RATES = (0.03, 0.1, 0.3, 1.0, 3.0)
_POINTS = 1024
_MARKS = 40
"""Test losses recorded over a run, besides the first."""


class WarmStartError(ValueError):
    """Something that cannot be trained as asked; the message names the argument, the value and what is expected."""


@dataclass(frozen=True, eq=False)
class Curve:
    """start: one of STARTS; steps, losses: mean squared error on the test points after so many steps, 0 first; validation: the last loss on the validation points."""

    start: str
    seed: int
    rate: float
    steps: np.ndarray
    losses: np.ndarray
    validation: float

    def __repr__(self) -> str:
        return f"<Curve {self.start}, seed {self.seed}, rate {self.rate:g}: {self.losses[0]:.3g} -> {self.losses[-1]:.3g} (measured)>"

    def reached(self, level: float) -> int | None:
        """The first recorded step with a loss of at most `level`; None where there is none."""
        below = np.flatnonzero(self.losses <= level)
        return int(self.steps[below[0]]) if len(below) else None


@dataclass(frozen=True, eq=False)
class WarmStart:
    """curves: for each start and seed, at the rate chosen for the start; tokens, steps, batch: the budget of one run; tried: median validation losses by
    (start, rate); known, target: in words."""

    curves: tuple[Curve, ...]
    tokens: int
    steps: int
    batch: int
    tried: Mapping[tuple[str, float], float] = field(repr=False)
    known: str
    target: str

    def of(self, start: str) -> tuple[Curve, ...]:
        """The curves of a kind of start, one for each seed."""
        return tuple(c for c in self.curves if c.start == start)

    def rate(self, start: str) -> float:
        """The learning rate chosen for a kind of start."""
        return self.of(start)[0].rate

    @property
    def starts(self) -> tuple[str, ...]:
        """The kinds of start, in order."""
        return tuple(dict.fromkeys(c.start for c in self.curves))

    def final(self, start: str) -> float:
        """Median of the final test losses of a kind of start."""
        return float(np.median([c.losses[-1] for c in self.of(start)]))

    @property
    def before(self) -> float:
        """Test loss of the compiled start before training. Raises WarmStartError if there was none."""
        if "compiled" not in self.starts:
            raise WarmStartError(f"starts: {', '.join(self.starts)}; train a 'compiled' one too, or pass a level")
        return float(self.of("compiled")[0].losses[0])

    def reached(self, start: str, level: float | None = None) -> float:
        """Median over the seeds of the first recorded step with a test loss of at most `level` (None: `before`); infinite where most never get there."""
        level = self.before if level is None else level
        found = sorted(math.inf if s is None else s for s in (c.reached(level) for c in self.of(start)))
        return float(found[len(found) // 2])

    def __repr__(self) -> str:
        finals = ", ".join(f"{s} {self.final(s):.3g}" for s in self.starts)
        return f"<WarmStart (measured): {self.tokens} tokens, {self.steps} steps; median final loss {finals}>"


def warm_start(
    known: Compiled,
    target: sp.Expr,
    *,
    spare: int = 0,
    steps: int = 200,
    rates: Sequence[float] = _RATES,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    batch: int = 64,
    starts: Sequence[str] = STARTS,
    progress: bool | Callable[[float, str], None] | None = None,
) -> WarmStart:
    """Train prefixes for `target`, an expression in the coordinates of the compiled `known` part's box, from each of `starts`.

    spare: tokens beyond those of the compiled prefix, for what is not known; steps, batch: of each run; rates: peak learning rates tried; progress: as in
    compile_prefix. Heads with values of the size of the function ("laplacian", "bernstein", "covering") train better than the shortest ones, whose large values
    cancel. Raises WarmStartError for what cannot be trained, ExportError where float32 does not hold `known`, MissingExtraError where torch, transformers
    or peft is missing.
    """
    names = _checked(known, target, spare, steps, rates, seeds, batch, starts)
    assert isinstance(known.domain, Box)
    truth = _evaluated(target, names)
    validation, test = (_Points.of(known.domain, truth, seed, target) for seed in (1, 2))
    torch = required("torch", "warm_start")
    required("peft", "warm_start")
    backbone = backbone_for(known)
    jobs = [(start, rate, seed) for start in starts for rate in rates for seed in seeds]
    curves = []
    with reporting(progress) as report:
        report(0.0, "the compiled start")
        exact, outputs = _stored(known, backbone), np.asarray(known(test.x)).ravel()
        for i, (start, rate, seed) in enumerate(jobs):
            report(i / len(jobs), f"{start} start, rate {rate:g}")
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = trainable(backbone, _start(start, exact, spare, seed, outputs))
            curves.append(_train(model, start, seed, rate, steps, batch, known.domain, truth, validation, test))
    tried = {
        (start, rate): float(np.median([c.validation for c in curves if (c.start, c.rate) == (start, rate)]))
        for start in starts
        for rate in rates
    }
    best = {start: min(rates, key=lambda rate: tried[start, rate]) for start in starts}
    kept = tuple(c for c in curves if c.rate == best[c.start])
    return WarmStart(kept, len(exact) + spare, steps, batch, tried, str(known.target), str(target))


def split_tokens(
    keys: Float[np.ndarray, "tokens d"],
    values: Float[np.ndarray, "tokens k"],
    spare: int,
    apart: float,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "more d"], Float[np.ndarray, "more k"]]:
    """A head of `spare` more tokens with the same function, up to rounding, each new one split off an old one in turn.

    m copies of a token, each with log m less on the constant (a key's last coordinate), have its weight together. Copies that are equal would get equal
    gradients and stay equal; so their values differ, by normal numbers of standard deviation `apart` less their mean: the copies, all of the same
    weight, have the old value as their mean. (Chen, Goodfellow and Shlens, Net2Net, ICLR 2016, widen layers in this way.)
    """
    count = len(keys)
    source = np.arange(count + spare) % count
    copies = np.bincount(source, minlength=count)
    noise = np.random.default_rng(seed).normal(0, apart, (count + spare, values.shape[1]))
    sums = np.zeros_like(values)
    np.add.at(sums, source, noise)
    noise -= (sums / copies[:, None])[source]  # of a token without copies nothing is left
    more = keys[source]
    more[:, -1] -= np.log(copies[source])
    return more, values[source] + noise


def trainable(backbone: Any, prefix: Float[np.ndarray, "tokens two width"] | int) -> Any:
    """A prefix-tuning adapter that can be trained, on a copy of a backbone of one head: a key and a value for each token, or a number of tokens with PEFT's
    initialisation. `PeftModel.from_pretrained` refuses prefixes that are to be trained, so the numbers are put into a fresh adapter."""
    import torch
    from peft import PrefixTuningConfig, TaskType, get_peft_model

    c = backbone.config
    tokens = prefix if isinstance(prefix, int) else len(prefix)
    config = PrefixTuningConfig(
        task_type=TaskType.FEATURE_EXTRACTION, num_virtual_tokens=tokens, token_dim=c.hidden_size, num_transformer_submodules=1,
        num_attention_heads=c.num_attention_heads, num_layers=c.num_hidden_layers, encoder_hidden_size=c.hidden_size, prefix_projection=False,
    )  # fmt: skip
    model = get_peft_model(copy.deepcopy(backbone), config)
    if not isinstance(prefix, int):
        embedding: Any = model.prompt_encoder["default"].embedding
        with torch.no_grad():
            embedding.weight.copy_(torch.from_numpy(prefix.reshape(tokens, -1).astype(np.float32)))
    return model


@dataclass(frozen=True, eq=False)
class _Points:
    """x: (count, n); y: (count,)"""

    x: np.ndarray
    y: np.ndarray

    @staticmethod
    def of(domain: Box, truth: Callable[[np.ndarray], np.ndarray], seed: int, target: sp.Expr) -> _Points:
        """A scrambled Sobol' sequence. Raises WarmStartError where the target is not a finite real number."""
        from scipy.stats import qmc

        lo, hi = domain.bounds
        x = lo + (hi - lo) * qmc.Sobol(domain.dimension, rng=seed).random(_POINTS)
        with np.errstate(all="ignore"):
            y = truth(x)
        bad = np.flatnonzero(~np.isfinite(y) | (np.abs(np.imag(y)) > 0))
        if len(bad):
            raise WarmStartError(
                f"target: {target} is {y[bad[0]]:.3g} at {np.round(x[bad[0]], 3).tolist()}, and is to be a finite real number on the whole of {domain}"
            )
        return _Points(x, np.real(y))


def _evaluated(target: sp.Expr, names: tuple[str, ...]) -> Callable[[np.ndarray], np.ndarray]:
    """Points (count, n) to values (count,). Symbols are known by their names, whatever is assumed of them. Raises WarmStartError."""
    coordinates = [sp.Symbol(name) for name in names]
    plain = target.xreplace({s: sp.Symbol(str(s)) for s in target.free_symbols})
    try:
        f = sp.lambdify(coordinates, plain, "numpy")
        f(*np.full((len(names), 1), 0.5))
    except (TypeError, NameError, AttributeError, KeyError) as error:
        raise WarmStartError(
            f"target: {target} cannot be evaluated with NumPy ({type(error).__name__}: {error}); expected one of functions that NumPy has"
        ) from error
    except ArithmeticError:
        pass  # at the points it will be seen where
    return lambda x: np.asarray(f(*x.T) + 0 * x[:, 0])


def _checked(known: Any, target: Any, spare: Any, steps: Any, rates: Any, seeds: Any, batch: Any, starts: Any) -> tuple[str, ...]:  # fmt: skip
    """The names of the coordinates. Raises WarmStartError."""
    if not isinstance(known, Compiled) or not isinstance(known.domain, Box) or known.model.outputs != 1:
        raise WarmStartError(f"known: {known!r}, expected what compile_prefix returns for one function on a Box")
    if sum(len(layer.heads) for layer in known.model.layers) != 1:
        raise WarmStartError(
            f"known: {known!r} is a circuit of several heads, expected one; compile with method='laplacian', 'bernstein' or 'covering'"
        )
    names = known.domain.names or tuple(getattr(known.target, "names", ()))
    if not isinstance(target, sp.Expr):
        raise WarmStartError(f"target: {target!r}, expected a SymPy expression in {', '.join(names)}")
    unknown = sorted(str(s) for s in target.free_symbols if str(s) not in names)
    if unknown:
        raise WarmStartError(
            f"target: {target} has {', '.join(unknown)}, the compiled part's box has {', '.join(names)}; substitute numbers for the others"
        )
    for name, count, least in (("spare", spare, 0), ("steps", steps, 0), ("batch", batch, 1)):
        if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < least:
            raise WarmStartError(f"{name} = {count!r}: expected a whole number >= {least}")
    if not len(rates) or not all(math.isfinite(r) and r > 0 for r in rates):
        raise WarmStartError(f"rates = {tuple(rates)}: expected one positive learning rate or more")
    if not len(seeds) or len(set(seeds)) != len(seeds) or not all(isinstance(s, (int, np.integer)) and s >= 0 for s in seeds):  # fmt: skip
        raise WarmStartError(f"seeds = {tuple(seeds)}: expected one whole number >= 0 or more, each once")
    if isinstance(starts, str) or not len(starts) or not set(starts) <= set(STARTS):
        raise WarmStartError(f"starts = {starts!r}: expected some of {', '.join(STARTS)}")
    return names


def _stored(known: Compiled, backbone: Any) -> Float[np.ndarray, "tokens two width"]:
    """Key and value of each token, as `to_peft` writes them."""
    from safetensors.numpy import load_file

    with tempfile.TemporaryDirectory() as folder:
        path = to_peft(known, Path(folder) / "known", backbone, unproved=True)  # it is going to change
        matrix = load_file(path / "adapter_model.safetensors")["prompt_embeddings"]
    return matrix.astype(np.float64).reshape(len(matrix), 2, backbone.config.width)


def _start(kind: str, exact: np.ndarray, spare: int, seed: int, outputs: np.ndarray) -> np.ndarray | int:
    """exact: keys and values; outputs: of the known part over its domain."""
    if kind == "random":
        return len(exact) + spare
    keys, values = exact[:, 0], exact[:, 1]
    slot = np.any(values != 0, axis=0)  # the one the readout copies
    if kind == "compiled":
        keys, values = split_tokens(keys, values, spare, float(outputs.std()))
        return np.stack([keys, values * slot], axis=1)
    drawn = np.random.default_rng([seed, 1]).standard_normal((len(exact) + spare, *exact.shape[1:]))
    return np.stack([keys.mean(axis=0) + keys.std(axis=0) * drawn[:, 0], (outputs.mean() + outputs.std() * drawn[:, 1]) * slot], axis=1)  # fmt: skip


def _train(
    model: Any,
    start: str,
    seed: int,
    rate: float,
    steps: int,
    batch: int,
    domain: Box,
    truth: Callable[[np.ndarray], np.ndarray],
    validation: _Points,
    test: _Points,
) -> Curve:
    import torch

    inputs = model.base_model.config.inputs
    rng = np.random.default_rng([seed, 0])
    lo, hi = domain.bounds

    def loss_at(x: np.ndarray, y: np.ndarray) -> Any:
        points = torch.zeros(1, len(x), inputs)
        points[0, :, : x.shape[1]] = torch.from_numpy(x)
        out = model(inputs_embeds=points).last_hidden_state[0, :, 0]
        return ((out - torch.from_numpy(y.astype(np.float32))) ** 2).mean()

    def measured(on: _Points) -> float:
        with torch.inference_mode():
            loss = float(loss_at(on.x, on.y))
        return loss if math.isfinite(loss) else math.inf

    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    marks = np.unique(np.linspace(0, steps, min(_MARKS, steps) + 1).astype(int))
    losses = [measured(test)]
    for step in range(1, steps + 1):
        x = lo + (hi - lo) * rng.random((batch, len(lo)))
        loss = loss_at(x, np.real(truth(x)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step in marks:
            losses.append(measured(test))
    return Curve(start, seed, rate, marks, np.array(losses), measured(validation))
