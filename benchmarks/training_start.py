"""A compiled prefix as a start for training: targets whose known part is compiled and whose rest is seen in samples only; and what training beside a prefix does.

The targets are chosen so that both outcomes occur: known parts that leave a bump, an oscillation or a product of two variables to be learnt; the shortest head with
spare tokens, whose large values cancel; and known parts that are of no use or of the wrong sign.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp
from rich.table import Table

from benchmarks.outcome import Request, columns, number
from constructions import Box, compile_prefix
from constructions.export.warm_start import WarmStart, warm_start

__all__ = ["CASES", "Case", "from_compiled_starts", "on_the_pretrained_model"]

_X, _Y = sp.symbols("x y")
_LINE = Box({"x": (-1, 1)})
_SQUARE = Box({"x": (-1, 1), "y": (-1, 1)})
_BUMP = sp.Rational(3, 10) * sp.exp(-40 * (_X - sp.Rational(2, 5)) ** 2)
_BEND = sp.Abs(_X - sp.Rational(1, 5))
_WAVE = sp.exp(_X) * sp.cos(_Y)
_STEPS, _SEEDS, _RATES = 150, (0, 1, 2, 3, 4), (0.03, 0.1, 0.3, 1.0, 3.0)
_STEERING_LAYER, _STEERING_SIZE, _SHARE = 28, 30.0, 0.02


@dataclass(frozen=True)
class Case:
    """name: of metrics; helps: whether the known part is most of the target, in a head that trains well."""

    name: str
    words: str
    known: sp.Expr
    rest: sp.Expr
    box: Box
    eps: float
    method: str
    spare: int = 0
    helps: bool = True


CASES = (
    Case("bump", "sin 3x, a bump unknown", sp.sin(3 * _X), _BUMP, _LINE, 0.05, "laplacian"),
    Case("bend", "|x - 1/5|, an oscillation unknown", _BEND, sp.sin(6 * _X) / 5, _LINE, 0.05, "bernstein"),
    Case("plane", "e^x cos y, y sin(3x)/3 unknown", _WAVE, _Y * sp.sin(3 * _X) / 3, _SQUARE, 0.2, "laplacian"),
    Case("shortest", "the bump again, shortest head, 8 spare tokens", sp.sin(3 * _X), _BUMP, _LINE, 0.01, "minimax", 8, False),
    Case("useless", "cos 3x, the target is sin 7x", sp.cos(3 * _X), sp.sin(7 * _X) - sp.cos(3 * _X), _LINE, 0.05, "laplacian", 0, False),
    Case("wrong", "-sin 3x, the target is sin 3x", -sp.sin(3 * _X), 2 * sp.sin(3 * _X), _LINE, 0.05, "laplacian", 0, False),
)  # fmt: skip


def from_compiled_starts(request: Request) -> tuple[Table, dict[str, float]]:
    """One row for each target: the three starts with the same budget."""
    quick = request.quick
    steps, seeds, rates = (10, _SEEDS[:2], _RATES[1:3]) if quick else (_STEPS, _SEEDS, _RATES)
    table = columns(
        "training from a compiled start", "compiled, and not", "tokens", "untrained", "compiled start", "random start", "scaled start", "steps, random", "steps, scaled",
        caption=f"median test loss (mean squared error) of {len(seeds)} seeds, after {steps} steps of Adam with 64 fresh samples each, the same for every start. Peak rates tried: "
        f"{', '.join(f'{r:g}' for r in rates)}; the one chosen, in brackets, on validation points that are neither training nor test points. scaled: random with the spread of the compiled keys "
        "and of the known part's values. untrained: the compiled start's loss at step 0. steps: until a random start has that loss, median; never: not within the budget, for most seeds.",
    )  # fmt: skip
    metrics: dict[str, float] = {"start_steps": steps, "start_seeds": len(seeds), "start_rates": len(rates)}
    for case in request.track(CASES[:1] if quick else CASES, "training starts"):
        known = compile_prefix(case.known, case.eps, case.box, method=case.method, progress=False)
        found = warm_start(known, case.known + case.rest, spare=case.spare, steps=steps, seeds=seeds, rates=rates, progress=False)  # fmt: skip
        finals = [f"{number(found.final(s))} [{found.rate(s):g}]" for s in found.starts]
        table.add_row(case.words, str(found.tokens), number(found.before), *finals, *(_steps(found.reached(s)) for s in ("random", "scaled")))  # fmt: skip
        metrics |= _metrics(case, found)
    return table, metrics


def _steps(median: float) -> str:
    return f"{median:.0f}" if np.isfinite(median) else "never"


def _metrics(case: Case, found: WarmStart) -> dict[str, float]:
    """A median number of steps that is infinite is not stored; how many seeds get there is."""
    out = {f"start_{case.name}_before": found.before, f"start_{case.name}_tokens": found.tokens}
    for s in found.starts:
        name = f"start_{case.name}_{s}"
        out |= {f"{name}_final": found.final(s), f"{name}_rate": found.rate(s)}
        if s != "compiled":
            out |= {
                f"{name}_steps": found.reached(s),
                f"{name}_got_there": sum(c.reached(found.before) is not None for c in found.of(s)),
            }
    return out


@dataclass(frozen=True, eq=False)
class _Texts:
    """Texts that prefixes are calibrated on, others that choose a threshold, and held-out ones, split by document; manual: pages of Python's reference, of
    which some are held out too."""

    model: Any
    tokenizer: Any
    calibration: list[np.ndarray]
    threshold: list[np.ndarray]
    held: list[np.ndarray]
    manual: list[np.ndarray]
    manual_held: list[np.ndarray]
    quiet: np.ndarray

    @staticmethod
    def of() -> _Texts:
        from constructions.pretrained import smollm
        from constructions.pretrained.calibrate import quiet_directions
        from constructions.pretrained.corpus import deduplicated, from_standard_library, pieces_of, shipped, split

        model, tokenizer = smollm.load_model(), smollm.load_tokenizer()
        own = deduplicated(shipped())
        library = deduplicated([*own, *from_standard_library()])[len(own) :]
        (own_text, own_held), (more_text, _) = split(own), split(library)
        texts = pieces_of([*own_text, *more_text], tokenizer, 128, 5000, each=256)
        held = pieces_of(own_held, tokenizer, 128, 640, each=80)
        calibration = [p for i, p in enumerate(texts) if i % 3 < 2]
        pages, held_pages = split([d for d in library if d.name.startswith("reference_")])
        manual = pieces_of(pages, tokenizer, 48, each=48)[:24]
        manual_held = pieces_of(held_pages, tokenizer, 64, each=64)[:6]
        quiet = quiet_directions(model, calibration[:12], 9)
        return _Texts(model, tokenizer, calibration, texts[2::3], held, manual, manual_held, quiet)


def _beside_an_adapter(texts: _Texts) -> tuple[Table, dict[str, float]]:
    """sin 2t in two layers, LoRA above the first of them and in all layers."""
    from constructions.pretrained import Site, beside_lora, compile_group

    t = sp.Symbol("t")
    prefix = None
    for layer, group in ((5, 1), (20, 0)):
        site = Site(texts.model, layer=layer, group=group, length=128)
        prefix = compile_group(sp.sin(2 * t), 0.2, site, texts.calibration[:12], on=prefix, tokens=14, quiet=texts.quiet, progress=False)  # fmt: skip
    assert prefix is not None
    steps = 24
    table = columns(
        "a compiled prefix beside LoRA on SmolLM2", "LoRA, rank 4", "loss, model as it is", "prefix alone", "prefix and LoRA", "LoRA alone", "within eps, layer 5", "layer 20", "bounds", "violations",
        caption=f"sin 2t in layers 5 and 20, {prefix.length} tokens; loss: next token, held-out pages of Python's reference; LoRA: {steps} steps of 48 tokens of other pages, rate 2e-3, queries and values; "
        "within eps: share of (token, head) of the held-out pages certified from their passes, before -> after",
    )  # fmt: skip
    metrics: dict[str, float] = {}
    kinds = {"all": ("all layers", None), "above": ("layers 6 to 29", range(6, 30))}
    for name, (words, layers) in kinds.items():
        found = beside_lora(prefix, texts.model, texts.manual, texts.manual_held, rate=2e-3, steps=steps, layers=layers, alone=name == "all", progress=False)  # fmt: skip
        held = found.held
        shares = [f"{b:.1%} -> {a:.1%}" for b, a in zip(found.before, found.after, strict=True)]
        table.add_row(words, number(held["plain"], 4), number(held["prefix"], 4), number(held["both"], 4), number(held.get("lora"), 4), *shares, str(found.bounds), str(found.violations))  # fmt: skip
        metrics |= {f"lora_{name}_loss_{key}": loss for key, loss in held.items()}
        metrics |= {f"lora_{name}_within_before_{g.layer}": b for g, b in zip(prefix.groups, found.before, strict=True)}
        metrics |= {f"lora_{name}_within_after_{g.layer}": a for g, a in zip(prefix.groups, found.after, strict=True)}
        metrics |= {f"lora_{name}_bounds": found.bounds, f"lora_{name}_violations": found.violations}
    return table, metrics


def _steered(texts: _Texts) -> tuple[Table, dict[str, float]]:
    """Digits make " banana" likelier: the probe's own threshold, and one with few false alarms, at two sizes of the write."""
    from constructions.pretrained import Site, measure_steering, spare_others, steer

    tokenizer, model = texts.tokenizer, texts.model
    digits = np.array([any(ch.isdigit() for ch in tokenizer.decode([i])) for i in range(model.config.vocab_size)])
    target = tokenizer(" banana")["input_ids"][0]
    site = Site(model, layer=_STEERING_LAYER, group=0, length=128)
    table = columns(
        f"steering in layer {_STEERING_LAYER}: digits -> ' banana'", "step", "size", "p before", "p at triggers", "KL before any", "KL after one", "KL, no write", "missed", "false alarms",
        caption=f"all measured on held-out documents, nothing proved. few false alarms: the step moved up until {_SHARE:.0%} of the unmarked tokens of calibration documents that the probe has not seen are "
        "beyond it. KL: mean, of untouched tokens, in nats. missed, false alarms: shares of (token, head)",
    )  # fmt: skip
    metrics: dict[str, float] = {}
    for size in (_STEERING_SIZE, 1.5 * _STEERING_SIZE):
        plain = steer(site, texts.calibration, lambda ids: digits[ids], target, size, model=model, quiet=texts.quiet)
        rows = {"few": spare_others(plain, model, texts.threshold, _SHARE)}
        if size == _STEERING_SIZE:
            rows = {"probe": plain, **rows}
        for name, s in rows.items():
            r = measure_steering(s, model, texts.held)
            missed, false = r.missed[0] / r.missed[1], r.false_alarms[0] / r.false_alarms[1]
            words = "the probe's" if name == "probe" else "few false alarms"
            table.add_row(words, number(size), number(r.before), number(r.after), number(r.before_any.mean), number(r.after_one.mean), number(r.neutral.mean), f"{missed:.1%}", f"{false:.1%}")  # fmt: skip
            key = f"steering_{name}_{size:g}"
            metrics |= {
                f"{key}_p": r.after, f"{key}_kl_before": r.before_any.mean, f"{key}_kl_after": r.after_one.mean, f"{key}_kl_neutral": r.neutral.mean,
                f"{key}_missed": missed, f"{key}_false_alarms": false, "steering_p_without": r.before,
            }  # fmt: skip
    return table, metrics


def on_the_pretrained_model() -> tuple[tuple[Table, ...], dict[str, float]]:
    """Both tables about SmolLM2."""
    texts = _Texts.of()
    (first, some), (second, more) = _beside_an_adapter(texts), _steered(texts)
    return (first, second), some | more
