"""The command line: what it prints, what it writes, and the exit code of every outcome."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

from constructions import compile_prefix
from constructions.cli import main
from constructions.compiled import backbone
from constructions.errors import NotProvedError
from constructions.wang2023 import random_layer, unmemorable
from verify import Artefact, Claim, Head, Layer, Prefix, Stated, Transformer, prove, save_statement
from verify import load as load_artefact
from verify import save as save_artefact

ROOT = Path(__file__).resolve().parents[1]
X = sp.Symbol("x", real=True)


@pytest.fixture(scope="module")
def proved(tmp_path_factory):
    """A file whose claim holds."""
    path = tmp_path_factory.mktemp("cli") / "sin.prefix.safetensors"
    compile_prefix(sp.sin(3 * X), 1e-4, {"x": (-1, 1)}).save(path)
    return path


@pytest.fixture
def refuted(proved, tmp_path):
    """A file that says proved, with one value moved."""
    a = load_artefact(proved)
    values = a.claim.prefix.values[0][0].copy()
    values[0] += 0.5
    claim = replace(a.claim, prefix=Prefix(a.claim.prefix.keys, ((values,),)))
    return save_artefact(tmp_path / "moved.st", Artefact(claim, a.certificate, a.construction))


@pytest.fixture
def undecided(proved, tmp_path):
    """A claim about two heads, which this prover cannot read."""
    a = load_artefact(proved)
    one = backbone(1, 1)
    head = one.layers[0].heads[0]
    model = Transformer(one.embedding, one.offset, (Layer((head, Head(head.query, head.output))),), one.readout)
    keys, values = a.claim.prefix.keys[0][0], a.claim.prefix.values[0][0]
    claim = Claim(
        model, Prefix(((keys, keys),), ((values / 2, values / 2),)), a.claim.target, a.claim.domain, a.claim.eps
    )
    certificate = prove(claim)
    assert str(certificate.status) == "undecided"
    return save_artefact(tmp_path / "two.st", Artefact(claim, certificate, {}))


@pytest.fixture
def conditional(tmp_path):
    """A black box with a declared constant."""

    def distance(p):
        return np.array([abs(float(q) - 0.3) for q in np.ravel(p)])

    return compile_prefix(distance, 0.05, [(0, 1)], lipschitz=1.0).save(tmp_path / "box.st")


@pytest.fixture(scope="module")
def floor():
    """A statement that no prompt does better, with its verdict."""
    return unmemorable(random_layer(5, 3, seed=0), seed=0)


def message(capsys) -> str:
    """What went to stderr: one line, no traceback."""
    err = capsys.readouterr().err
    assert err.startswith("prefixc: ")
    assert len(err.splitlines()) == 1
    assert "Traceback" not in err
    return err


def test_compile_writes_what_verify_proves(tmp_path, capsys):
    out = tmp_path / "o.prefix.safetensors"
    assert main(["compile", "sin(3*x)", "--domain", "x=-1:1", "--eps", "1e-4", "-o", str(out)]) == 0
    seen = capsys.readouterr()
    assert "PROVED" in seen.out
    assert str(out) in seen.out
    assert seen.err == ""
    assert main(["verify", str(out)]) == 0
    seen = capsys.readouterr().out
    assert "PROVED" in seen
    assert "the file claimed" not in seen  # proving is deterministic: the fresh certificate is the stored one


@pytest.mark.parametrize("domains", [["x=-1:1,y=0:1"], ["x=-1:1", "y=0:1"]])
def test_domains_may_be_joined_or_repeated(tmp_path, domains):
    out = tmp_path / "o.st"
    options = [word for d in domains for word in ("--domain", d)]
    assert main(["compile", "x*y", *options, "--eps", "0.05", "-o", str(out), "--quiet"]) == 0
    assert load_artefact(out).claim.domain.names == ("x", "y")
    assert load_artefact(out).claim.domain.lo == (-1.0, 0.0)


def test_quiet_says_nothing(tmp_path, proved, capsys):
    assert main(["compile", "x", "--eps", "1e-3", "-o", str(tmp_path / "o.st"), "--quiet"]) == 0
    assert main(["verify", str(proved), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_refuted_file(refuted, capsys):
    assert main(["verify", str(refuted)]) == 1
    out = capsys.readouterr().out
    assert "REFUTED" in out
    assert "largest found at" in out
    assert "the file claimed  <Certificate proved" in out


def test_undecided_file(undecided, capsys):
    assert main(["verify", str(undecided)]) == 2
    out = capsys.readouterr().out
    assert "UNDECIDED" in out
    assert "PROVED" not in out


def test_conditional_proof_says_so(conditional, capsys):
    assert main(["verify", str(conditional)]) == 0
    out = capsys.readouterr().out
    assert "ON CONDITION of the declared Lipschitz constant" in out
    assert "declared, not proved" in out
    assert main(["explain", str(conditional)]) == 0
    assert "ON CONDITION" in capsys.readouterr().out


def test_a_statement_is_verified_and_explained(floor, tmp_path, capsys):
    path = str(floor.save(tmp_path / "floor.st"))
    assert main(["verify", path]) == 0
    out = capsys.readouterr().out
    assert "status            PROVED" in out
    assert floor.statement.sentence in out
    assert "the file claimed" not in out
    assert main(["verify", path, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["explain", path]) == 0
    out = capsys.readouterr().out
    assert out.startswith("As stored in ")
    assert "PROVED, as stored in the file" in out
    assert "note: room" in out


@pytest.mark.parametrize(("factor", "code", "words"), [(1.01, 1, "REFUTED"), (1 + 1e-15, 2, "UNDECIDED")])
def test_a_statement_that_says_too_much(floor, tmp_path, capsys, factor, code, words):
    """The stored prompt refutes a floor well above what it reaches; one between the two bounds is undecided."""
    more = replace(floor.statement, floor=floor.statement.floor * factor)
    path = save_statement(tmp_path / "more.st", Stated(more, floor.verdict))
    assert main(["verify", str(path)]) == code
    out = capsys.readouterr().out
    assert words in out
    assert "reason" in out
    assert "the file claimed  <Verdict proved" in out


def test_a_changed_statement_and_its_picture_are_bad_input(floor, tmp_path, capsys):
    path = floor.save(tmp_path / "floor.st")
    assert main(["plot", str(path), "-o", str(tmp_path / "o.png")]) == 3
    assert "holds a statement" in message(capsys)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert main(["verify", str(path)]) == 3
    assert "sha256" in message(capsys)
    assert main(["explain", str(path)]) == 3
    assert "sha256" in message(capsys)


@pytest.mark.parametrize(("status", "code"), [("refuted", 1), ("undecided", 2)])
def test_compile_without_a_proof(tmp_path, monkeypatch, capsys, status, code):
    def fails(*args, **options):
        raise NotProvedError(certificate=None, status=status, eps=1e-3)

    monkeypatch.setattr("constructions.compile.compile_prefix", fails)
    assert main(["compile", "x", "--eps", "1e-3", "-o", str(tmp_path / "o.st")]) == code
    assert status in message(capsys)
    assert not list(tmp_path.iterdir())


BAD = {
    "no command": ([], "command"),
    "unknown command": (["frobnicate"], "frobnicate"),
    "unknown option": (["verify", "FILE", "--wat"], "--wat"),
    "missing argument": (["verify"], "FILE"),
    "missing option": (["compile", "x", "--eps", "1e-3"], "-o"),
    "minus": (["compile", "-x", "--eps", "1e-3", "-o", "OUT"], "brackets"),
    "formula": (["compile", "sin(3*x", "--eps", "1e-3", "-o", "OUT"], "column 4"),
    "code": (["compile", "__import__('os')", "--eps", "1e-3", "-o", "OUT"], "column"),
    "no number": (["compile", "x", "--eps", "abc", "-o", "OUT"], "--eps"),
    "nan": (["compile", "x", "--eps", "nan", "-o", "OUT"], "eps = nan"),
    "negative": (["compile", "x", "--eps", "-1", "-o", "OUT"], "not positive"),
    "below float64": (["compile", "x", "--eps", "1e-30", "-o", "OUT"], "cannot be reached"),
    "domain": (["compile", "x", "--domain", "x=1", "--eps", "1e-3", "-o", "OUT"], "range"),
    "reversed": (["compile", "x", "--domain", "x=1:0", "--eps", "1e-3", "-o", "OUT"], "reversed"),
    "twice": (["compile", "x", "--domain", "x=0:1", "--domain", "x=0:1", "--eps", "1e-3", "-o", "OUT"], "second range"),
    "free symbol": (["compile", "x*z", "--domain", "x=0:1", "--eps", "1e-3", "-o", "OUT"], "z"),
    "singular": (["compile", "1/x", "--domain", "x=-1:1", "--eps", "1e-3", "-o", "OUT"], "undefined"),
    "method": (["compile", "x", "--eps", "1e-3", "--method", "foo", "-o", "OUT"], "'foo'"),
    "too long": (["compile", "x", "--eps", "1e-3", "--method", "covering", "--max-tokens", "3", "-o", "OUT"], "3"),
    "tokens": (["compile", "x", "--eps", "1e-3", "--max-tokens", "0", "-o", "OUT"], "max_tokens = 0"),
    "effort": (["compile", "x", "--eps", "1e-3", "--effort", "-1", "-o", "OUT"], "-1"),
    "folder": (["compile", "x", "--eps", "1e-3", "-o", "NOWHERE/o.st"], "there is no folder"),
    "is a folder": (["compile", "x", "--eps", "1e-3", "-o", "FOLDER"], "is a folder"),
    "no file": (["verify", "NOWHERE"], "no such file"),
    "no artefact": (["verify", "TEXT"], "TEXT"),
    "explain no artefact": (["explain", "TEXT"], "TEXT"),
    "plot no artefact": (["plot", "TEXT", "-o", "OUT.png"], "TEXT"),
    "kind": (["plot", "FILE", "-o", "OUT.png", "--kind", "foo"], "'foo'"),
    "ending": (["plot", "FILE", "-o", "OUT.xyz"], ".xyz"),
    "eps of a fit": (["plot", "FILE", "-o", "OUT.png", "--eps", "1e-3"], "convergence"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "part"), BAD.values(), ids=BAD.keys())
def test_bad_input(tmp_path, proved, capsys, words, part):
    """Exit code 3, one line that names what is wrong, and nothing written."""
    (tmp_path / "TEXT").write_text("not a prefix")
    places = {"FILE": proved, "FOLDER": tmp_path}
    places |= {name: tmp_path / name for name in ("OUT", "OUT.png", "OUT.xyz", "TEXT", "NOWHERE", "NOWHERE/o.st")}
    assert main([str(places.get(w, w)) for w in words]) == 3
    assert part in message(capsys)
    assert [p.name for p in tmp_path.iterdir()] == ["TEXT"]


def test_a_changed_file_is_named_with_its_field(proved, tmp_path, capsys):
    data = bytearray(proved.read_bytes())
    data[-1] ^= 1
    changed = tmp_path / "changed.st"
    changed.write_bytes(data)
    assert main(["verify", str(changed)]) == 3
    err = message(capsys)
    assert str(changed) in err
    assert "sha256" in err


def test_a_bad_place_is_refused_before_the_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("constructions.compile.compile_prefix", lambda *a, **o: pytest.fail("work was done"))
    assert main(["compile", "x", "--eps", "1e-3", "-o", str(tmp_path / "no" / "o.st")]) == 3
    message(capsys)


def test_explain_says_that_it_proves_nothing(proved, capsys):
    assert main(["explain", str(proved)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("As stored in ")
    assert re.search(r"PROVED .*as stored in the file", out)
    assert "sin(3*x)" in out


@pytest.mark.parametrize("kind", ["fit", "error", "tokens", "attention", "convergence"])
def test_plot(proved, tmp_path, kind, capsys):
    out = tmp_path / "o.png"
    assert main(["plot", str(proved), "-o", str(out), "--kind", kind]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == ["o.png"]
    assert capsys.readouterr().err == ""


def test_convergence_of_a_black_box_cannot_come_from_its_file(conditional, tmp_path, capsys):
    assert main(["plot", str(conditional), "-o", str(tmp_path / "o.png"), "--kind", "convergence"]) == 3
    assert "black box" in message(capsys)
    assert not (tmp_path / "o.png").exists()


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["compile", "--help"]])
def test_help_and_version(words, capsys):
    assert main(words) == 0
    seen = capsys.readouterr()
    assert "prefixc" in seen.out
    assert seen.err == ""


def test_interruption(tmp_path, monkeypatch, capsys):
    def stopped(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("constructions.compile.compile_prefix", stopped)
    assert main(["compile", "x", "--eps", "1e-3", "-o", str(tmp_path / "o.st")]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_defect_is_neither_refuted_nor_a_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("constructions.compile.compile_prefix", lambda *a, **o: 1 // 0)
    assert main(["compile", "x", "--eps", "1e-3", "-o", str(tmp_path / "o.st")]) == 2
    assert "nothing was decided" in message(capsys)


def start(*words: str, **options) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "constructions", *words],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def test_exit_codes_reach_the_shell(refuted, tmp_path):
    for words, code in [(["verify", str(refuted)], 1), (["verify", str(tmp_path / "no")], 3)]:
        process = start(*words)
        process.communicate()
        assert process.returncode == code


def test_ctrl_c_in_the_shell(tmp_path):
    """A real signal, sent when the work says that it has begun."""
    script = f"""
import signal, sys, time
import constructions.compile
from constructions.cli import main

# a suite started in the background inherits "ignore interrupts"; a terminal does not
signal.signal(signal.SIGINT, signal.default_int_handler)

def work(*a, **o):
    print("working", flush=True)
    time.sleep(60)

constructions.compile.compile_prefix = work
sys.exit(main(["compile", "x", "--eps", "1", "-o", {str(tmp_path / "o.st")!r}]))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=50)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_a_claim_is_proved_again_in_a_float_format(proved, tmp_path, capsys):
    """The file's prefix, executed in float32: the same function, another rounding."""
    path = tmp_path / "p.safetensors"
    compile_prefix(sp.sin(3 * X), 1e-3, {"x": (-1, 1)}, dtype="float32", progress=False).save(path)
    assert main(["verify", str(path), "--dtype", "float32"]) == 0
    out = capsys.readouterr().out
    assert "PROVED" in out
    assert "float32 execution" in out
    assert main(["verify", str(proved), "--dtype", "bfloat16"]) in (1, 2)
    assert main(["verify", str(proved), "--dtype", "float8"]) == 3
    assert "float8" in capsys.readouterr().err


def test_compiling_for_a_float_format_prints_its_certificate(tmp_path, capsys):
    assert main(["compile", "x*y", "--eps", "1e-3", "--dtype", "float32", "-o", str(tmp_path / "p.safetensors")]) == 0
    assert re.search(r"float32 +<Certificate proved: .* eps = 0.001>", capsys.readouterr().out)


def test_weights_are_for_statements_about_pretrained_models(proved, tmp_path, capsys):
    assert main(["verify", str(proved), "--weights", "smollm2"]) == 3
    assert "needs none" in capsys.readouterr().err
    path = unmemorable(random_layer(6, 3, seed=0), seed=0).save(tmp_path / "floor.safetensors")
    assert main(["verify", str(path), "--weights", "smollm2"]) == 3
    assert "first layer" in capsys.readouterr().err
    assert main(["verify", str(path), "--dtype", "float32"]) == 3
    assert "statement" in capsys.readouterr().err
