"""The kernel stays a kernel: what it imports, what importing it does, how long its files are, what it leaves behind."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import flint
import numpy as np
import pytest
from formulas import apply, claim, lift, target, var

from verify import Box, lipschitz_constant, prove, value_range

ROOT = Path(__file__).resolve().parents[1]
KERNEL = sorted((ROOT / "verify").rglob("*.py"))
FILES = KERNEL + sorted((ROOT / "constructions").rglob("*.py"))
TRUSTED = {"numpy", "scipy", "flint", "safetensors", "threadpoolctl", "jaxtyping", "verify"}


def names(paths: list[Path]) -> list[str]:
    return [str(p.relative_to(ROOT)) for p in paths]


def imports(path: Path) -> set[str]:
    """Top-level names of everything a file imports, at any depth of its code."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("path", KERNEL, ids=names(KERNEL))
def test_the_kernel_imports_nothing_that_proposes(path):
    foreign = imports(path) - TRUSTED - set(sys.stdlib_module_names)
    assert not foreign


@pytest.mark.parametrize("path", KERNEL, ids=names(KERNEL))
def test_the_kernel_evaluates_no_code(path):
    """No eval, exec, compile, pickle or dynamic import: a file can hold nothing that runs."""
    assert not imports(path) & {"pickle", "marshal", "shelve", "importlib", "runpy", "ctypes", "subprocess"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec", "compile", "__import__", "globals", "vars")


@pytest.mark.parametrize("path", FILES, ids=names(FILES))
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= 450


@pytest.mark.parametrize("path", FILES, ids=names(FILES))
def test_importing_only_defines_things(path):
    """At module level: a docstring, imports, definitions, constants; no loops, no bare calls, no statements that do something."""
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    for node in ast.parse(path.read_text()).body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'")
        assert docstring or typing_only or isinstance(node, allowed), f"line {node.lineno}: {ast.unparse(node)[:60]}"


def test_importing_the_kernel_has_no_side_effects():
    """In a fresh process: precision, error handling, random state, warnings and the environment are as before; nothing is loaded
    of the constructions, of plotting or of symbolic algebra."""
    script = """
import os, sys, warnings
import numpy as np, flint, safetensors, scipy.interpolate, scipy.spatial, scipy.special
before = (flint.ctx.prec, np.geterr(), np.random.get_state()[1].tolist(), list(warnings.filters), dict(os.environ), os.getcwd())
import verify
after = (flint.ctx.prec, np.geterr(), np.random.get_state()[1].tolist(), list(warnings.filters), dict(os.environ), os.getcwd())
assert before == after
loaded = {name.split(".")[0] for name in sys.modules}
assert not loaded & {"constructions", "sympy", "matplotlib", "torch", "mpmath", "pytest"}, loaded
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""


def awkward_claims():
    one = (np.zeros((1, 1)), np.zeros(1), np.zeros((1, 1)))
    yield claim(*one, target(apply("sin", var())), [(0, 1)], 1.0)  # proved
    yield claim(*one, target(apply("sin", var())), [(0, 1)], 0.1)  # refuted
    yield claim(*one, target(apply("log", var())), [(-1, 1)], 1.0)  # undecided


class StopHere(Exception):
    """Raised by a progress callback."""


@pytest.mark.parametrize("bits", [53, 333])
def test_global_settings_survive_a_proof(bits):
    before = flint.ctx.prec
    flint.ctx.prec = bits
    try:
        for c in awkward_claims():
            state = np.geterr()
            prove(c, max_boxes=500)
            assert flint.ctx.prec == bits
            assert np.geterr() == state
        f = next(iter(awkward_claims())).target.expression  # type: ignore[union-attr]
        lipschitz_constant(f, Box([(0, 1)]))
        value_range(f, Box([(0, 1)]))
        assert flint.ctx.prec == bits
    finally:
        flint.ctx.prec = before


def test_global_settings_survive_an_exception(monkeypatch):
    before, state = flint.ctx.prec, np.geterr()
    c = claim(np.zeros((1, 1)), np.zeros(1), np.zeros((1, 1)), target(apply("sin", var())), [(0, 1)], 1.0)

    def stop(done: float, words: str) -> None:
        raise StopHere

    with pytest.raises(StopHere):
        prove(c, progress=stop)
    assert (flint.ctx.prec, np.geterr()) == (before, state)

    def broken(*args: object) -> None:
        raise StopHere

    monkeypatch.setattr("verify.jets._monotone", broken)  # in the middle of the arithmetic, at raised precision
    with pytest.raises(StopHere):
        prove(claim(np.zeros((1, 1)), np.zeros(1), np.zeros((1, 1)), target(apply("exp", var())), [(0, 1)], 9.0))
    assert (flint.ctx.prec, np.geterr()) == (before, state)


def test_the_same_precision_is_used_whatever_is_set():
    """A proof does not depend on the caller's precision."""
    c = claim(np.zeros((1, 1)), np.zeros(1), np.zeros((1, 1)), target(apply("exp", var()) + lift(1)), [(0, 1)], 4.0)
    before = flint.ctx.prec
    try:
        outcomes = []
        for bits in (20, 53, 1000):
            flint.ctx.prec = bits
            outcomes.append(prove(c))
    finally:
        flint.ctx.prec = before
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_extras_are_imported_when_they_are_used():
    """What is built on them can be imported without them; using it names the command that installs them."""
    absent = (
        "torch",
        "transformers",
        "peft",
        "onnx",
        "onnxruntime",
        "gguf",
        "matplotlib",
        "numba",
        "sklearn",
        "distributed",
    )
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {absent!r}: raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import constructions, constructions.cli, constructions.export, constructions.pretrained, constructions.suite\n"
        "import constructions.wang2023, constructions.oymak2023, constructions.petrov2024, verify\n"
        "import benchmarks.catalogue\n"
        "import sympy\n"
        "try: constructions.compile_prefix(sympy.Symbol('x'), 0.1, progress=False).to_torch()\n"
        "except constructions.export.MissingExtraError as error: assert 'pip install' in str(error)\n"
        "else: raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=120)
