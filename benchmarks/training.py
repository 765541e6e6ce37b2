"""The same number of tokens, trained with Adam instead of compiled; and training that starts from what is compiled (`training_start`).

Instead: all numbers of the head are free (slopes, biases, values); full batch of 1001 Chebyshev points, mean squared error, 6000 steps in
float64 with a cosine schedule, three learning rates of which the best counts.
"""

from __future__ import annotations

import math
import statistics
import time
from importlib.util import find_spec

import numpy as np
import sympy as sp
from rich.markup import escape

from benchmarks.functions import INTERVAL, X, lambdified
from benchmarks.outcome import Outcome, Request, columns, number
from constructions import compile_prefix
from constructions.pretrained import smollm

__all__ = ["instead", "run"]

_CASES = ((sp.sin(3 * X), 1e-6), (1 / (1 + 25 * X**2), 1e-6), (sp.cos(20 * X), 1e-6))
_RATES = (1e-3, 1e-2, 1e-1)
_STEPS = 6000
_EXPORT = ("torch", "transformers", "peft")


def run(request: Request) -> Outcome:
    """All parts whose packages there are, or the note that PyTorch is missing."""
    first = instead(request)
    tables, metrics = list(first.tables), dict(first.metrics)
    if all(find_spec(name) is not None for name in _EXPORT):
        from benchmarks.training_start import from_compiled_starts, on_the_pretrained_model

        table, more = from_compiled_starts(request)
        tables.append(table)
        metrics |= more
        if smollm.available() and not request.quick:
            others, more = on_the_pretrained_model()
            tables += others
            metrics |= more
    return Outcome(tuple(tables), metrics)


def instead(request: Request) -> Outcome:
    """One row per function, or the note that PyTorch is missing."""
    rates, steps = (_RATES[1:2], 30) if request.quick else (_RATES, _STEPS)
    table = columns(
        "trained against compiled", "function", "tokens", "compiled error (proved)", "compile s", "trained error (sampled)", "training s", "ratio of errors",
        caption=f"trained: Adam, {steps} steps, the best of the learning rates {', '.join(f'{r:g}' for r in rates)}; seconds of one run",
    )  # fmt: skip
    if find_spec("torch") is None:
        table.add_row(escape("not installed: pip install 'prefix-compiler[torch]'"))
        return Outcome((table,), {})
    # what is loaded once is not timed
    compile_prefix(X, 1e-3, INTERVAL, progress=False)
    _trained_error(X, 2, 1e-3, 1)
    errors, times = [], []
    for f, eps in request.track(_CASES[:1] if request.quick else _CASES, "training"):
        started = time.perf_counter()
        c = compile_prefix(f, eps, INTERVAL, progress=False)
        compiling = time.perf_counter() - started
        started = time.perf_counter()
        trained = min(_trained_error(f, c.length, rate, steps) for rate in rates)
        training = (time.perf_counter() - started) / len(rates)
        errors.append(trained / c.certificate.error_upper)
        times.append(training / compiling)
        table.add_row(
            str(f), str(c.length), number(c.certificate.error_upper), number(compiling), number(trained), number(training), number(errors[-1])
        )  # fmt: skip
    metrics = {
        "error_ratio_geomean": math.exp(statistics.fmean(math.log(e) for e in errors)),
        "error_ratio_min": min(errors),
        "time_ratio_geomean": math.exp(statistics.fmean(math.log(t) for t in times)),
        "cases": len(errors),
    }
    return Outcome((table,), metrics)


def _trained_error(f: sp.Expr, tokens: int, rate: float, steps: int) -> float:
    """Sampled sup error on 4001 points after training from a seeded random start."""
    import torch

    generator = torch.Generator().manual_seed(0)
    g = lambdified(f, X)
    x = torch.from_numpy(np.cos(np.linspace(0, np.pi, 1001)))[:, None]
    y = torch.from_numpy(g(x[:, 0].numpy()))
    slopes, biases, values = (
        torch.randn(tokens, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)
    )

    def head(points: torch.Tensor) -> torch.Tensor:
        return torch.softmax(points * slopes + biases, dim=1) @ values

    adam = torch.optim.Adam([slopes, biases, values], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in range(steps):
        adam.zero_grad()
        ((head(x) - y) ** 2).mean().backward()
        adam.step()
        schedule.step()
    dense = np.linspace(-1, 1, 4001)
    with torch.inference_mode():
        return float(np.abs(head(torch.from_numpy(dense)[:, None]).numpy() - g(dense)).max())
