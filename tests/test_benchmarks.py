"""The benchmarks run, in small, and write what they promise. What they measure is not judged here."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import evaluation
from benchmarks.catalogue import BENCHMARKS
from benchmarks.chebyshev import coefficients_needed, tensor_coefficients_needed
from benchmarks.command import RESULTS, UNKNOWN_NAME, app, store
from benchmarks.functions import ANALYTIC, X, Y, franke, lambdified
from benchmarks.peers import aaa, aaa_terms_needed
from benchmarks.timing import interleaved

NAMES = [b.name for b in BENCHMARKS]
QUICK_ONES = ["lipschitz", "analytic", "franke", "proof", "training"]
"""Those that start no processes."""


def test_without_a_name_all_are_listed() -> None:
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 0
    assert all(name in result.output for name in NAMES)
    assert len(set(NAMES)) == len(NAMES)


def test_an_unknown_name_is_refused_with_the_list() -> None:
    result = CliRunner().invoke(app, ["no-such-benchmark"])
    assert result.exit_code == UNKNOWN_NAME
    assert all(name in result.output for name in ["no-such-benchmark", *NAMES])


@pytest.mark.parametrize("name", QUICK_ONES)
def test_a_small_run_prints_and_writes_flat_numbers(name: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [name, "--quick", "--results", str(tmp_path)])
    assert result.exit_code == 0, result.output
    if name == "training" and find_spec("torch") is None:
        assert "prefix-compiler[torch]" in "".join(result.output.split())
        assert not list(tmp_path.iterdir())
        return
    assert "metrics" in result.output
    metrics = json.loads((tmp_path / f"{name}.json").read_text())
    assert isinstance(metrics, dict)
    assert all(isinstance(key, str) and isinstance(x, (int, float)) for key, x in metrics.items())
    assert metrics
    if "claims" in metrics:
        assert metrics["proved"] == metrics["claims"]


def test_a_quick_run_leaves_the_stored_results_alone() -> None:
    before = {p: p.stat().st_mtime_ns for p in RESULTS.glob("*.json")}
    assert CliRunner().invoke(app, ["lipschitz", "--quick"]).exit_code == 0
    assert {p: p.stat().st_mtime_ns for p in RESULTS.glob("*.json")} == before


def test_evaluation_measures_engines_in_processes_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "available_engines", lambda: ("numpy",))  # importing the others takes long
    result = CliRunner().invoke(app, ["evaluation", "--quick", "--results", str(tmp_path)])
    assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / "evaluation.json").read_text())
    assert {"seconds_numpy", "seconds_auto", "peak_mb", "max_difference_over_bound"} <= set(metrics)
    assert 0 <= metrics["max_difference_over_bound"] <= 1
    assert metrics["peak_mb"] >= 0


def test_metrics_are_stored_sorted_short_and_finite(tmp_path: Path) -> None:
    path = store({"b": 1 / 3, "a": 2.0, "c": float("nan")}, tmp_path / "new", "name")
    assert path.read_text() == '{\n  "a": 2,\n  "b": 0.333333\n}\n'


def test_stored_results_are_flat_numbers() -> None:
    for path in RESULTS.glob("*.json"):
        assert path.stem in NAMES
        assert all(isinstance(x, (int, float)) for x in json.loads(path.read_text()).values())


@pytest.mark.parametrize(("degree", "wanted"), [(0, 1), (1, 2), (7, 8)])
def test_a_polynomial_needs_its_degree_and_one_coefficient(degree: int, wanted: int) -> None:
    assert coefficients_needed(lambda x: np.cos(degree * np.arccos(x)), 1e-9) == wanted


def test_a_known_series_is_cut_where_it_must_be() -> None:
    """1/(1.2 - x) has coefficients 2 rho^-k / sqrt(0.44), rho = 1.2 + sqrt(0.44): their sum from m on is the error of the truncated
    series, at x = 1, and no polynomial is better by more than a factor of (rho + 1) / (rho - 1)."""
    rho, eps = 1.2 + 0.44**0.5, 1e-6
    tail = [2 / 0.44**0.5 * rho**-m / (1 - 1 / rho) for m in range(100)]
    upper = next(m for m, t in enumerate(tail) if t <= eps)
    lower = next(m for m, t in enumerate(tail) if t * (rho - 1) / (rho + 1) <= eps)
    needed = coefficients_needed(lambda x: 1 / (1.2 - x), eps)
    assert needed is not None
    assert lower <= needed <= upper
    assert coefficients_needed(lambda x: 1 / (1.2 - x), eps, most=5) is None


def test_tensor_coefficients() -> None:
    assert tensor_coefficients_needed(lambda x, y: x**2 * y + y, 1e-10) == 9
    assert tensor_coefficients_needed(lambdified(franke(), X, Y), 1e-2) == 196


def test_aaa_finds_a_rational_function() -> None:
    assert aaa_terms_needed(lambda x: 1 / (1 + 25 * x**2), 1e-9) == 3
    assert aaa_terms_needed(np.abs, 1e-9, most=4) is None
    assert len(aaa(np.exp, 5).support_points) == 5


def test_the_functions_are_finite_where_they_are_compared() -> None:
    x = np.linspace(-1, 1, 101)
    assert len(ANALYTIC) == 12
    assert all(np.isfinite(lambdified(f, X)(x)).all() for f in ANALYTIC)


def test_rivals_take_turns() -> None:
    order: list[str] = []
    timed = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b"] * 3
    assert all(seconds >= 0 for seconds, _ in timed.values())
