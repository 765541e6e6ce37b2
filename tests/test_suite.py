"""A suite of formulas: what is finished stays finished, what fails is told, and the work goes to any executor."""

from __future__ import annotations

import csv
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

import constructions.suite.run as suite_run
from constructions import load
from constructions.cli import main
from constructions.errors import MethodError
from constructions.from_sympy import from_sympy
from constructions.parse import parse_expression
from constructions.suite import Entry, SuiteError, WorkerPool, attained_range, read_entries, run_suite
from constructions.suite.rows import append, program_version, read_rows
from constructions.suite.work import compile_entry
from verify import Box, check

ROOT = Path(__file__).resolve().parents[1]
LINE = {"name": "line", "expression": "2*x", "domain": {"x": [0, 1]}}
WAVE = {"name": "wave 1.2", "expression": "sin(lambda)", "domain": {"lambda": [0, 3]}}
POLE = {"name": "pole", "expression": "1/x", "domain": {"x": [-1, 1]}}
TINY = [LINE, POLE, WAVE]


def run(entries, out, **options):
    return run_suite(entries, out=out, progress=False, **{"eps_rel": 0.1, "method": "minimax"} | options)


def facts(result):
    """The rows without what differs from run to run: the time, and the order of fields in a file's header."""
    return [replace(row, seconds=0.0, sha256=None) for row in result.rows]


def lines(out: Path) -> list[str]:
    return (out / "results.jsonl").read_text().splitlines()


@pytest.fixture(autouse=True)
def _same_program(monkeypatch):
    """Results do not expire because somebody edits the source while the tests run."""
    monkeypatch.setattr(suite_run, "program_version", lambda: "test")


@pytest.fixture
def calls(monkeypatch):
    """Names of the entries that were compiled, in order."""
    seen: list[str] = []

    def counted(entry, key, **options):
        seen.append(entry.name)
        return compile_entry(entry, key, **options)

    monkeypatch.setattr(suite_run, "compile_entry", counted)
    return seen


def test_everything_is_proved_or_says_why_not(tmp_path):
    result = run(TINY, tmp_path / "out")
    assert [row.status for row in result.rows] == ["proved", "error", "proved"]
    assert (result.proved, result.all_proved, result.reused) == (2, False, 0)
    assert "undefined or unbounded" in result.rows[1].message
    line = result.rows[0]
    assert line.range == pytest.approx(2.0, rel=1e-12)
    assert line.eps is not None
    assert line.eps <= 0.2
    assert check(tmp_path / "out" / "line.safetensors").proved
    stored = load(tmp_path / "out" / "wave 1.2.safetensors")
    assert stored.eps == result.rows[2].eps
    assert stored.length == result.rows[2].tokens == result.max_tokens
    assert not (tmp_path / "out" / "pole.safetensors").exists()
    with (tmp_path / "out" / "results.csv").open(newline="") as stream:
        assert [row["name"] for row in csv.DictReader(stream)] == ["line", "pole", "wave 1.2"]
    assert "2 of 3 proved" in repr(result)


def test_nothing_finished_is_computed_again(tmp_path, calls):
    first = run(TINY, tmp_path)
    again = run(TINY, tmp_path)
    assert calls == ["line", "pole", "wave 1.2"]
    assert again.rows == first.rows
    assert again.reused == 3
    assert len(lines(tmp_path)) == 3


def test_a_line_torn_by_a_kill_is_computed_again(tmp_path, calls):
    first = run(TINY, tmp_path)
    journal = tmp_path / "results.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole[: whole.rindex(b'"status"')])
    calls.clear()
    again = run(TINY, tmp_path)
    assert calls == ["wave 1.2"]
    assert facts(again) == facts(first)
    assert journal.read_bytes().startswith(whole[: whole.rindex(b'"status"')] + b"\n")  # appended, nothing rewritten
    assert run(TINY, tmp_path).reused == 3


def test_every_prefix_of_the_journal_is_a_usable_one(tmp_path):
    run(TINY, tmp_path)
    journal = tmp_path / "results.jsonl"
    whole = journal.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for size in range(0, len(whole) + 1, 13):
        journal.write_bytes(whole[:size])
        rows = read_rows(journal)
        assert len(rows) in (sum(end <= size for end in ends), sum(end - 1 <= size for end in ends))
        added = replace(next(iter(rows.values())), key="new") if rows else None
        if added is not None:
            append(journal, added)
            assert read_rows(journal) == rows | {"new": added}


@pytest.mark.parametrize("line", ["", "null", "[]", "{}", '{"key": 1}', "\udcff", "[" * 9000])
def test_lines_that_are_no_rows_are_passed_over(tmp_path, line):
    run([LINE], tmp_path)
    with (tmp_path / "results.jsonl").open("ab") as stream:
        stream.write(line.encode(errors="surrogateescape") + b"\n")
    assert run([LINE], tmp_path).reused == 1


def test_other_options_are_other_results(tmp_path, calls):
    run([LINE], tmp_path)
    run([LINE], tmp_path, eps_rel=0.05)
    run([LINE], tmp_path, eps_rel=0.05, method="covering")
    run([LINE | {"domain": {"x": [0, 2]}}], tmp_path, eps_rel=0.05)
    assert calls == ["line"] * 4
    # the file is by now another one's, so the first result has to be computed again
    run([LINE], tmp_path)
    assert calls == ["line"] * 5


def test_another_program_computes_again(tmp_path, calls, monkeypatch):
    run([LINE], tmp_path)
    monkeypatch.setattr(suite_run, "program_version", program_version)
    run([LINE], tmp_path)
    assert calls == ["line"] * 2
    assert program_version().count("+") == 1


def test_a_changed_or_missing_file_is_made_again(tmp_path, calls):
    run([LINE], tmp_path)
    path = tmp_path / "line.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"?")
    run([LINE], tmp_path)
    path.unlink()
    run([LINE], tmp_path)
    assert calls == ["line"] * 3
    assert check(path).proved


def test_a_failure_is_tried_again_when_it_may_take_longer(tmp_path, calls):
    run([POLE], tmp_path, time_limit=5)
    run([POLE], tmp_path, time_limit=4)
    run([POLE], tmp_path, time_limit=6)
    assert calls == ["pole"] * 2


def test_a_defect_does_not_stop_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr("constructions.suite.work.compile_prefix", lambda *a, **o: 1 // 0)
    result = run([LINE, WAVE], tmp_path)
    assert ["ZeroDivisionError" in row.message for row in result.rows] == [True, True]


def test_interruption_leaves_what_was_finished(tmp_path, monkeypatch):
    def interrupted(entry, key, **options):
        if entry.name == "pole":
            raise KeyboardInterrupt
        return compile_entry(entry, key, **options)

    monkeypatch.setattr(suite_run, "compile_entry", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(TINY, tmp_path)
    assert [json.loads(line)["name"] for line in lines(tmp_path)] == ["line"]
    assert "line" in (tmp_path / "results.csv").read_text()
    monkeypatch.setattr(suite_run, "compile_entry", compile_entry)
    assert run(TINY, tmp_path).reused == 1


def test_interruption_cancels_what_has_not_begun(tmp_path):
    gate, started = threading.Event(), threading.Event()

    class Gated(ThreadPoolExecutor):
        """The first call is done, the second waits for the gate."""

        def submit(self, fn, /, *args, **kwargs):
            def call():
                if args[0].name != "line":
                    started.set()
                    assert gate.wait(60)
                return fn(*args, **kwargs)

            return super().submit(call)

    def report(done: float, words: str) -> None:
        if words.startswith("line"):
            assert started.wait(60)
            gate.set()
            raise KeyboardInterrupt

    with Gated(1) as pool, pytest.raises(KeyboardInterrupt):
        run_suite(TINY, eps_rel=0.1, method="minimax", executor=pool, out=tmp_path, progress=report)
    assert [json.loads(line)["name"] for line in lines(tmp_path)] == ["line"]


def test_an_entry_whose_worker_is_lost_is_tried_again_by_the_next_run(tmp_path):
    class Losing(Executor):
        def submit(self, fn, /, *args, **kwargs):
            future: Future = Future()
            future.set_exception(BrokenProcessPool("gone")) if args[0].name == "line" else future.set_result(
                fn(*args, **kwargs)
            )
            return future

    result = run([LINE, WAVE], tmp_path, executor=Losing())
    assert "worker was lost" in result.rows[0].message
    assert [row.status for row in result.rows] == ["error", "proved"]
    assert run([LINE, WAVE], tmp_path).reused == 1


def test_two_jobs_and_the_loss_of_a_process(tmp_path):
    """The pool computes what is computed here, and goes on when a process dies: other calls are run again, alone."""
    with WorkerPool(2) as pool:
        result = run(TINY, tmp_path, executor=pool)
        hopeless = pool.submit(os._exit, 1)
        with pytest.raises(BrokenProcessPool):
            hopeless.result(60)
        assert pool.submit(math.sqrt, 4.0).result(60) == 2.0
    alone = run(TINY, tmp_path / "alone")
    assert facts(result) == facts(alone)
    assert check(tmp_path / "line.safetensors") == check(tmp_path / "alone" / "line.safetensors")


def test_a_dask_cluster(tmp_path):
    distributed = pytest.importorskip("distributed")
    settings = {"dashboard_address": None, "local_directory": str(tmp_path / "scratch")}
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=True, **settings) as cluster,
        distributed.Client(cluster) as client,
    ):
        result = run(TINY, tmp_path / "out", executor=client.get_executor())
    assert [row.status for row in result.rows] == ["proved", "error", "proved"]
    assert check(tmp_path / "out" / "line.safetensors").proved
    assert run(TINY, tmp_path / "out").reused == 3


def test_an_unknown_method_is_nobodys_failure(tmp_path):
    with pytest.raises(MethodError, match="nonsense"):
        run(TINY, tmp_path, method="nonsense")
    assert lines(tmp_path) == []


@pytest.mark.parametrize("bad", [{"eps_rel": 0.0}, {"eps_rel": math.nan}, {"eps_rel": True}, {"time_limit": -1.0}])
def test_options_are_checked(tmp_path, bad):
    with pytest.raises(SuiteError, match=next(iter(bad))):
        run(TINY, tmp_path / "out", **bad)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["file", "file/out", "no/out"])
def test_a_folder_that_cannot_be_written_is_refused_first(tmp_path, calls, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(SuiteError, match="cannot be written"):
        run(TINY, tmp_path / place)
    assert calls == []


BAD = {
    "no JSON": ("[{]", "line 1, column 3"),
    "cut off": ('[\n{"name": "a",', "line 2"),
    "no list": ('{"name": "a"}', "not a list"),
    "empty": ("[]", "none"),
    "no object": ("[1]", "entry 1"),
    "missing": ('[{"name": "a", "expression": "x"}]', "'domain' is missing"),
    "unknown": (json.dumps([LINE | {"eps": 1}]), "'eps' is unknown"),
    "twice": (json.dumps([LINE, WAVE, LINE | {"name": "LINE"}]), "entry 3.*entry 1"),
    "key twice": ('[{"name": "a", "name": "b"}]', "'name' occurs twice"),
    "symbol twice": ('[{"name": "a", "expression": "x", "domain": {"x": [0, 1], "x": [0, 2]}}]', "'x' occurs twice"),
    "path": (json.dumps([LINE | {"name": "../a"}]), "name of a file"),
    "name": (json.dumps([LINE | {"name": ""}]), "name of a file"),
    "number as name": (json.dumps([LINE | {"name": 3}]), "name = 3"),
    "expression": (json.dumps([LINE | {"expression": 3}]), "expression = 3"),
    "domain": (json.dumps([LINE | {"domain": [0, 1]}]), "domain = "),
    "side": (json.dumps([LINE | {"domain": {"x": [0, 1, 2]}}]), "domain.x"),
    "text": (json.dumps([LINE | {"domain": {"x": "01"}}]), "domain.x"),
    "nan": ('[{"name": "a", "expression": "x", "domain": {"x": [NaN, 1]}}]', "NaN"),
    "huge": (json.dumps([LINE | {"domain": {"x": [0, 10**400]}}]), "domain.x"),
    "deep": ("[" * 99999, "JSON"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "part"), BAD.values(), ids=BAD.keys())
def test_bad_files_are_refused_by_place(tmp_path, text, part):
    path = tmp_path / "suite.json"
    path.write_text(text)
    with pytest.raises(SuiteError, match=part) as caught:
        read_entries(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 600


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(SuiteError, match="cannot be read"):
        read_entries(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b'["\xff"]')
    with pytest.raises(SuiteError, match="UTF-8"):
        read_entries(tmp_path / "latin.json")


@pytest.mark.parametrize(
    ("entry", "part"),
    [
        (LINE | {"expression": "2*("}, "column 3"),
        (LINE | {"expression": "x*y"}, "y has no range"),
        (LINE | {"domain": {"x": [1, 0]}}, "reversed"),
        (LINE | {"domain": {"x!": [0, 1]}}, "plain names"),
        (LINE | {"domain": {}}, "at least one side"),
        (LINE | {"expression": "x - x + 3"}, "constant"),
        (LINE | {"expression": "log(-1 - x)"}, "undefined"),
        (LINE | {"expression": "1/(x - 2)", "domain": {"x": [0, 3]}}, "undefined or unbounded"),
    ],
)
def test_what_is_wrong_with_an_entry_is_in_its_row(tmp_path, entry, part):
    result = run([entry, WAVE], tmp_path)
    assert part in result.rows[0].message
    assert "defect" not in result.rows[0].message
    assert result.rows[1].proved


def test_names_of_a_domain_are_variables(tmp_path):
    """Also those that are constants or functions elsewhere, or words of Python."""
    entry = LINE | {"expression": "e*lambda + sin(sin)", "domain": {"e": [0, 1], "lambda": [0, 1], "sin": [0, 1]}}
    (row,) = run([entry], tmp_path, eps_rel=0.2).rows
    assert row.proved
    assert row.range == pytest.approx(1 + math.sin(1))


RANGES = {
    "x*y": ({"x": (-1, 2), "y": (0, 3)}, 9.0),
    "sin(3*x)": ({"x": (0, 1)}, 1.0),
    "exp(-20*((x - 0.3)**2 + (y - 0.7)**2))": ({"x": (0, 1), "y": (0, 1)}, 1 - math.exp(-20 * 0.98)),
    "sqrt(x)": ({"x": (0, 4)}, 2.0),
    "asin(x)": ({"x": (-1, 1)}, math.pi),
    "+".join(f"x{i}" for i in range(12)): ({f"x{i}": (0, 1) for i in range(12)}, 12.0),
}


@pytest.mark.parametrize("text", RANGES, ids=lambda t: t[:20])
def test_ranges_are_bounded_from_below_and_nearly_sharp(text):
    sides, wanted = RANGES[text]
    expression = from_sympy((parse_expression(text),), list(sides))  # type: ignore[arg-type]
    span = attained_range(expression, Box(sides))
    assert span <= wanted * (1 + 1e-15)
    assert span == pytest.approx(wanted, rel=1e-6)


def test_a_range_is_that_of_the_narrowest_output():
    x = sp.Symbol("x", real=True)
    box = Box({"x": (0, 1)})
    assert attained_range(from_sympy((3 * x, x / 2), ["x"]), box) == pytest.approx(0.5)
    assert attained_range(from_sympy((x, sp.Integer(2)), ["x"]), box) == 0.0
    assert math.isnan(attained_range(from_sympy((sp.log(-1 - x),), ["x"]), box))


def test_ranges_never_exceed_the_truth():
    """Random quadratics on an interval, whose ranges are known exactly."""
    rng = np.random.default_rng(0)
    x = sp.Symbol("x", real=True)
    for a, b in rng.integers(-9, 10, size=(30, 2)):
        f = int(a) * x**2 + int(b) * x
        spots = [sp.S.Zero, sp.S.One, *([s] if a and 0 < (s := sp.Rational(-int(b), 2 * int(a))) < 1 else [])]
        values = [f.subs(x, s) for s in spots]
        wanted = max(values) - min(values)
        if wanted:
            span = attained_range(from_sympy((f,), ["x"]), Box({"x": (0, 1)}))
            assert sp.Rational(span) <= wanted
            assert span == pytest.approx(float(wanted), rel=1e-6)


def test_entries_and_rows_travel():
    entry = Entry.of(WAVE)
    assert pickle.loads(pickle.dumps(entry)) == entry
    row, data = compile_entry(entry, "key", eps_rel=0.1, method="minimax", time_limit=60.0)
    assert pickle.loads(pickle.dumps((row, data))) == (row, data)


def write(tmp_path: Path, entries: list) -> Path:
    path = tmp_path / "suite.json"
    path.write_text(json.dumps(entries))
    return path


def test_command(tmp_path, capsys):
    path = write(tmp_path, [LINE, WAVE])
    assert main(["suite", str(path), "--eps-rel", "0.1", "--method", "minimax"]) == 0
    seen = capsys.readouterr()
    assert "2 of 2 proved" in seen.out
    assert "wave 1.2" in seen.out
    assert seen.err == ""
    out = tmp_path / "suite.results"
    assert sorted(p.name for p in out.iterdir()) == [
        "line.safetensors", "results.csv", "results.jsonl", "wave 1.2.safetensors",
    ]  # fmt: skip
    assert main(["verify", str(out / "line.safetensors"), "--quiet"]) == 0
    assert main(["suite", str(path), "--eps-rel", "0.1", "--method", "minimax", "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert len(lines(out)) == 2


def test_command_tells_failures(tmp_path, capsys):
    path = write(tmp_path, TINY)
    assert main(["suite", str(path), "--eps-rel", "0.1", "--method", "minimax", "-o", str(tmp_path / "o")]) == 2
    seen = " ".join(capsys.readouterr().out.split())
    assert "2 of 3 proved" in seen
    assert "undefined or unbounded" in seen


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["NONE", "--eps-rel", "0.1"], "cannot be read"),
        (["FILE", "--eps-rel", "0"], "eps_rel"),
        (["FILE"], "--eps-rel"),
        (["FILE", "--eps-rel", "0.1", "--jobs", "0"], "--jobs"),
        (["FILE", "--eps-rel", "0.1", "--method", "nonsense"], "nonsense"),
        (["FILE", "--eps-rel", "0.1", "-o", "FILE"], "cannot be written"),
    ],
)
def test_bad_input(tmp_path, capsys, words, part):
    places = {"FILE": str(write(tmp_path, [LINE])), "NONE": str(tmp_path / "none.json")}
    assert main(["suite", *(places.get(w, w) for w in words)]) == 3
    err = capsys.readouterr().err
    assert err.startswith("prefixc: ")
    assert part in err
    assert len(err.splitlines()) == 1


def test_ctrl_c_with_two_jobs_in_the_shell(tmp_path):
    """A real signal, while one entry is done and the others never end: the workers end too, and the next run goes on."""
    script = f"""
import signal, sys
import constructions.suite.run as run
from constructions.cli import main
from test_suite import slow_but_line

# a suite started in the background inherits "ignore interrupts"; a terminal does not
signal.signal(signal.SIGINT, signal.default_int_handler)
run.compile_entry = slow_but_line
run.program_version = lambda: "test"
append = run.append

def told(path, row):
    append(path, row)
    print(row.name, flush=True)

run.append = told
if __name__ == "__main__":
    sys.exit(main(["suite", {str(write(tmp_path, TINY))!r}, "--eps-rel", "0.1", "--method", "minimax", "--jobs", "2", "-q"]))
"""
    (tmp_path / "script.py").write_text(script)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "line\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=50)  # ends only when the workers, which hold the pipe too, have ended
    assert process.returncode == 130
    assert "goes on where this one stopped" in err
    assert "Traceback" not in err
    assert run(TINY, tmp_path / "suite.results").reused == 1


def slow_but_line(entry, key, **options):
    """A worker's task for the test above."""
    if entry.name != "line":
        threading.Event().wait(600)
    return compile_entry(entry, key, **options)


def test_a_suite_for_float32_has_rows_of_its_own(tmp_path):
    """Another format is another result; an unknown one is refused before anything is written."""
    entries = [Entry("product", "x*y", (("x", 0.0, 1.0), ("y", 0.0, 1.0)))]
    double = run_suite(entries, eps_rel=1e-3, out=tmp_path / "s", progress=False)
    single = run_suite(entries, eps_rel=1e-3, out=tmp_path / "s", progress=False, dtype="float32")
    assert double.all_proved
    assert single.all_proved
    assert double.rows[0].key != single.rows[0].key
    with pytest.raises(SuiteError, match="dtype"):
        run_suite(entries, eps_rel=1e-3, out=tmp_path / "t", dtype="float8")
    assert not (tmp_path / "t").exists()
