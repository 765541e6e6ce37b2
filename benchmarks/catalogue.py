"""Every benchmark, in one table."""

from __future__ import annotations

from benchmarks import (
    analytic,
    circuits,
    evaluation,
    export,
    franke,
    lipschitz,
    oymak,
    pretrained,
    proof,
    sequences,
    sphere,
    training,
    wang,
)
from benchmarks.outcome import Benchmark

__all__ = ["BENCHMARKS"]

BENCHMARKS: tuple[Benchmark, ...] = (
    Benchmark(
        "lipschitz",
        "prefix lengths of Lipschitz functions against the lower bound and the optimal covering",
        lipschitz.run,
    ),
    Benchmark(
        "analytic",
        "twelve analytic functions: tokens against Chebyshev coefficients, chebfun, AAA, lower bounds",
        analytic.run,
    ),
    Benchmark("franke", "Franke's function of two variables: tokens against tensor Chebyshev coefficients", franke.run),
    Benchmark(
        "sphere",
        "heads on spheres: black boxes against the thinnest coverings, smooth functions against Fourier coefficients",
        sphere.run,
    ),
    Benchmark("sequences", "functions of whole sequences: tokens of three constructions", sequences.run),
    Benchmark(
        "circuits",
        "fifty physics formulas at 1e-3 and 1e-6 of their range, and Newton's law of nine inputs",
        circuits.run,
        takes_suite=True,
    ),
    Benchmark(
        "wang",
        "a family of functions served by prompts, pair by pair; what no prompt does, certified for 120 layers",
        wang.run,
    ),
    Benchmark(
        "oymak",
        "prompts with a margin proved, rivals bounded, gradient steps and test errors predicted and measured",
        oymak.run,
    ),
    Benchmark("proof", "how long proofs take and how tight the proved bounds are", proof.run),
    Benchmark(
        "training",
        "the same number of tokens trained with Adam instead of compiled, and training from a compiled start (needs PyTorch)",
        training.run,
    ),
    Benchmark(
        "export",
        "PyTorch, ONNX and PEFT: speed beside plain attention, agreement to the stated bounds, bit-equal round trips",
        export.run,
    ),
    Benchmark(
        "pretrained",
        "heads of SmolLM2-135M: a trigger and a read-out proved for every text, confirmed on real text (needs its weights)",
        pretrained.run,
    ),
    Benchmark(
        "evaluation", "a hundred thousand points, a thousand tokens: seconds and memory of every engine", evaluation.run
    ),
)
