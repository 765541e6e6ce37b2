"""Oymak et al.: prompts of finite temperature with a proved margin, phase diagrams of proof and measurement, three gradient steps, the exact test error.

Margins: proved on the whole support, refuted a little warmer. Phase diagrams: in every cell the proved best accuracy of all weights of each model, beside
optimised weights, which must not exceed it. Descent: three steps in closed form against automatic differentiation (PyTorch where it is installed,
otherwise complex steps in NumPy), and the sample size of success against the dimension. Asymptotics: the formula against Monte Carlo, and the best temperature.
Real data (framed digits) only where scikit-learn is installed; it is not part of `seconds`.
"""

from __future__ import annotations

import time
from importlib.util import find_spec

import numpy as np
from rich.table import Table

from benchmarks.outcome import Outcome, Request, columns, number
from constructions.oymak2023 import (
    ContextualData,
    compile_context_prompt,
    diagonal_diagram,
    hard_mixture,
    phase_diagram,
    rival_bound,
)
from constructions.oymak2023 import asymptotics as exact
from constructions.oymak2023 import descent as steps
from constructions.oymak2023 import real_data as digits

__all__ = ["run"]

_MARGIN = 0.5
_RIVALS = ("averaging", "linear", "self-attention")


def run(request: Request) -> Outcome:
    """Four tables, and a fifth with scikit-learn."""
    started = time.perf_counter()
    parts = [_margins(request), _phases(request), _descent(request), _asymptotics(request)]
    metrics: dict[str, float] = {"seconds": time.perf_counter() - started}
    if find_spec("sklearn") is not None:
        parts.append(_real_data(request))
    for _, more in parts:
        metrics |= more
    return Outcome(tuple(table for table, _ in parts), metrics)


def _margins(request: Request) -> tuple[Table, dict[str, float]]:
    """Bounded noise; the rivals are bounded on the same mixture without its noise."""
    q, w = np.eye(16)[:2]
    hard, origin = hard_mixture("sign", 8.0), hard_mixture("origin", 8.0)
    mixtures = {
        "(0, 0), (8, 8)": ContextualData(q, w, 0.3, 20, *origin, 0.2, 0.5),
        "(8, 8), (8, -8)": ContextualData(q, w, 0.3, 20, *hard, 0.2, 0.5),
        "(0, 0), (8, 8), (8, -8)": ContextualData(q, w, 0.3, 20, (0.0, 8.0, 8.0), (0.0, 8.0, -8.0), 0.2, 0.5),
        "(0.5, 3), 5 % relevant": ContextualData(q, w, 0.05, 100, 0.5, 3.0, 0.2, 0.5),
        "(0, 0), (8, 8), all noisy": ContextualData(q, w, 0.3, 20, *origin, 0.1, 0.2, noisy_relevant=True),
    }
    if request.quick:
        mixtures = dict(list(mixtures.items())[:2])
    table = columns(
        f"a prompt with margin {_MARGIN} on the whole support", "pairs (delta_q, delta_w)", "temperature", "y f(X) at least", "gap", "refuted warmer by",
        *_RIVALS, "seconds", caption="y f(X) at least: proved. Refuted warmer by: this much less temperature, relatively, and the kernel refutes the margin. "
        "Rivals: proved best accuracy over all weights, on the mixture without noise.",
    )  # fmt: skip
    found, seconds, best = [], [], []
    for words, data in request.track(list(mixtures.items()), "margins"):
        started = time.perf_counter()
        c = compile_context_prompt(data, _MARGIN)
        seconds.append(time.perf_counter() - started)
        found.append(c)
        warm = 1 - c.too_warm / c.temperature if c.too_warm else None
        best.append([rival_bound(data, rival).accuracy[1] for rival in _RIVALS])
        gap = c.verdict.upper - c.margin
        table.add_row(words, f"{c.temperature:.6g}", f"{c.margin:.6g}", number(gap, 2), number(warm, 2), *map(number, best[-1]), number(seconds[-1]))  # fmt: skip
    return table, {
        "margins_tried": len(found),
        "margins_proved": sum(c.verdict.proved and c.accuracy == 1 for c in found),
        "margins_refuted_warmer": sum(c.too_warm is not None for c in found),
        "margin_gap_max": max(c.verdict.upper - c.margin for c in found),
        "rivals_below_1": int(np.sum(np.array(best) < 1)),
        "seconds_margin_max": max(seconds),
    }


def _phases(request: Request) -> tuple[Table, dict[str, float]]:
    """Both families on planes and on their diagonals."""
    started = time.perf_counter()
    plane = {"delta_q": (-2, 0, 2, 4), "delta_w": (-4, -1, 2, 5), "steps": 120} if request.quick else {}
    line = {"relevant": (4, 10), "delta": (0.5, 2.0, 8.0), "steps": 120} if request.quick else {}
    planes = [phase_diagram(family, **plane) for family in ("origin", "sign")]
    lines = [diagonal_diagram(family, **line) for family in ("origin", "sign")]
    table = columns(
        "best accuracies, proved for all weights and measured", "family", "settings", "bounds", "largest excess", "reached",
        caption="Bounds: proved for all weights; a measured accuracy may not exceed them: excess <= 0. Measured: the best of optimised weights, exact on the noise-free mixture.",
    )  # fmt: skip
    for words, diagrams in (("four models", planes), ("self-attention on the diagonal", lines)):
        for d in diagrams:
            settings = d.measured[0].size if words == "four models" else d.measured.size
            table.add_row(f"{d.family}, {words}", str(settings), str(d.measured.size), number(d.excess), f"{100 * d.reached:.1f} %")  # fmt: skip
    everything = [*planes, *lines]
    widths = [float((d.threshold[:, 1] / d.threshold[:, 0]).max()) - 1 for d in lines if d.family == "origin"]
    return table, {
        "phase_cells": sum(d.measured.size for d in everything),
        "phase_excess": max(d.excess for d in everything),
        "phase_cells_reached": sum(round(d.reached * d.measured.size) for d in everything),
        "threshold_width_max": max(widths),
        "seconds_phases": time.perf_counter() - started,
    }


def _descent(request: Request) -> tuple[Table, dict[str, float]]:
    """Gradients, and n* against d."""
    started = time.perf_counter()
    engine = "torch" if find_spec("torch") is not None else "complex"
    gap = steps.gradient_gap_max(engine)
    found = steps.experiment(steps.quick() if request.quick else steps.full())
    rate, derived = found.rate, found.predicted_rate_samples
    table = columns(
        f"three gradient steps: largest gradient gap {gap:.2g} ({'PyTorch' if engine == 'torch' else 'complex steps'})", "d", "n* measured", "95 % interval", "n* derived",
        caption=f"n*: samples per step for 45 degrees between the learned prompt and q*. Fit n* ~ d^{rate.exponent:.3f}, 95 % interval "
        f"[{rate.interval[0]:.3f}, {rate.interval[1]:.3f}] (sampled); derived {found.predicted_exponent:.3f} at these d, 1 in the limit.",
    )  # fmt: skip
    for d, n, (low, high), theory in zip(
        found.configuration.dimensions, rate.crossings, rate.crossing_intervals, derived, strict=True
    ):
        table.add_row(str(d), f"{n:.1f}", f"[{low:.1f}, {high:.1f}]", f"{theory:.1f}")
    distance = np.abs(np.array(rate.crossings) / derived - 1)
    return table, {
        "gradient_gap_max": gap,
        "gradient_by_torch": int(engine == "torch"),
        "rate_exponent": rate.exponent,
        "rate_low": rate.interval[0],
        "rate_high": rate.interval[1],
        "rate_derived": found.predicted_exponent,
        "samples_off_derived_max": float(distance.max()),
        "seconds_descent": time.perf_counter() - started,
    }


def _asymptotics(request: Request) -> tuple[Table, dict[str, float]]:
    """The formula inside the band, and the best temperature."""
    started = time.perf_counter()
    found = exact.experiment(exact.quick() if request.quick else exact.full())
    scan, off = found.temperature, np.abs(found.measured - found.predicted)
    table = columns(
        "known prompt, unknown head: formula against Monte Carlo", "", "settings", "inside the 99 % band", "largest distance", "as a share",
        caption=f"A true formula has {0.99 * found.settings:.1f} of {found.settings} inside on average. Best temperature: predicted {scan.predicted:.4f}, "
        f"found {scan.found:.4f}, 99 % interval [{scan.interval[0]:.4f}, {scan.interval[1]:.4f}] of the least of a cubic through seven means; "
        f"the same cubic through the formula has its least at {scan.fitted_prediction:.4f}.",
    )  # fmt: skip
    reliable = found.closed_reliable.astype(bool)
    rows = [("law of the weights at this T, corrected for finite d", found.predicted, np.ones_like(reliable))]
    rows += [("the same, d to infinity", found.limit, np.ones_like(reliable))]
    rows += [("closed form, where it claims to hold", found.closed, reliable)]
    for words, values, counted in rows:
        if counted.any():
            distance = np.abs(values - found.measured)[counted]
            inside = found.inside(values)[counted].sum()
            share = (distance / found.measured[counted]).max()
            table.add_row(words, str(counted.sum()), str(inside), number(float(distance.max()), 2), f"{share:.2%}")
    return table, {
        "settings": found.settings,
        "settings_inside_band": found.settings_inside_band,
        "error_off_max": float(off.max()),
        "closed_settings": int(reliable.sum()),
        "closed_off_max": float(np.abs(found.closed - found.measured)[reliable].max(initial=0.0)),
        "temperature_predicted": scan.predicted,
        "temperature_predicted_by_cubic": scan.fitted_prediction,
        "temperature_found": scan.found,
        "temperature_agrees": int(scan.agrees),
        "seconds_asymptotics": time.perf_counter() - started,
    }


def _real_data(request: Request) -> tuple[Table, dict[str, float]]:
    """Framed digits. Sampled: training runs on one data set."""
    started = time.perf_counter()
    found = digits.experiment(digits.quick() if request.quick else digits.full())
    table = columns(
        f"framed digits, {found.accuracy.shape[1]} seeds: test accuracy (sampled)", "model", "parameters", "mean", "+- 95 %", "prompt's advantage", "+- 95 %",
        caption="Advantage: of the softmax prompt, paired by seed. python -m constructions.oymak2023.real_data reproduces this table.",
    )  # fmt: skip
    metrics: dict[str, float] = {}
    for name, mean, half, count in zip(found.names, found.mean, found.half_width, found.numbers, strict=True):
        ahead = ("-", "-")
        metrics[f"digits_{name.replace(' ', '_').replace('-', '_')}"] = float(mean)
        if name != "softmax prompt":
            gain, error = found.advantage(name)
            ahead = (f"{gain:+.4f}", f"{error:.4f}")
            metrics[f"digits_ahead_of_{name.replace(' ', '_').replace('-', '_')}_at_least"] = gain - error
        table.add_row(name, str(count), f"{mean:.4f}", f"{half:.4f}", *ahead)
    return table, metrics | {"seconds_digits": time.perf_counter() - started}
