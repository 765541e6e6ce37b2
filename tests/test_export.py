"""Compiled prefixes as PyTorch modules and ONNX graphs: agreement within the stated bounds, refusals, files."""

import importlib

import numpy as np
import pytest
import sympy as sp

from constructions import compile_prefix
from constructions.export import ExportError, MissingExtraError, to_onnx, to_torch
from verify import ArtefactError, Box, Sequences, Sphere, forward
from verify.formats import FORMATS, cast_claim

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

X, Y, Z = sp.symbols("x y z")
A, B = sp.symbols("x1 x2")
COUNT = 100_000

CASES = {
    "one variable": lambda: compile_prefix(sp.sin(3 * X), 1e-3, Box([(-1, 1)])),
    "two variables": lambda: compile_prefix(sp.exp(X) * sp.cos(Y), 1e-2, Box([(-1, 1)] * 2)),
    "covering": lambda: compile_prefix(lambda t: np.abs(t), 0.05, Box([(-1, 1)]), lipschitz=1.0, method="covering"),
    "coarse": lambda: compile_prefix(sp.sin(X) / 2, 0.3, Box([(-1, 1)])),
    "split": lambda: compile_prefix(X * Y + Z, 0.15, Sphere(2), method="split"),
    "core": lambda: compile_prefix(X * Y + Z, 0.15, Sphere(2), method="core"),
    "classical": lambda: compile_prefix(X, 0.2, Sphere(1), method="classical"),
    "circuit": lambda: compile_prefix(X * Y / (1 + X**2), 0.05, Box({"x": (0, 1), "y": (1, 2)}), method="circuit"),
    "gathered": lambda: compile_prefix([[A * B], [A + B]], 1e-2, Sequences(2, Box({"x": (0, 1)})), method="two-layer"),
}
HELD = {"coarse": ("float64", "float32", "bfloat16"), "gathered": ("float64",)}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def compiled():
    made = {}

    def of(name):
        if name not in made:
            made[name] = CASES[name]()
        return made[name]

    return of


def points_for(c, count):
    if isinstance(c.domain, Sequences):
        return np.random.default_rng(0).uniform(0, 1, (count // c.domain.T, c.domain.T, 1))
    if isinstance(c.domain, Sphere):
        return c.domain.sample(count)
    lo, hi = c.domain.bounds
    return np.random.default_rng(0).uniform(lo, hi, (count, len(lo)))


def run_onnx(path, x, dtype, rows=5000):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    x = x.astype(dtype)
    if len(session.get_inputs()[0].shape) == 3 and x.ndim == 2:  # points as sequences of one token
        return run_onnx(path, x[:, None], dtype, rows)[:, 0]
    return np.concatenate([session.run(None, {"x": x[i : i + rows]})[0] for i in range(0, len(x), rows)])


@pytest.mark.parametrize("name", CASES)
def test_numpy_torch_and_onnxruntime_agree_to_their_bounds(name, compiled, tmp_path):
    """On 10^5 random points, in every format that holds eps; the reference runs in float64 on the parameters of the format."""
    c = compiled(name)
    x = points_for(c, COUNT)
    own = c.certificate.rounding
    for dtype in HELD.get(name, ("float64", "float32")):
        module = to_torch(c, dtype)
        assert module.certificate.proved
        claim = cast_claim(c.claim, FORMATS[dtype])
        reference = forward(claim.model, claim.prefix, x)
        bound = module.certificate.rounding + own
        with torch.inference_mode():
            out = module(torch.from_numpy(x)).double().numpy()
        assert out.shape == reference.shape
        assert np.abs(out - reference).max() <= bound
        if dtype != "bfloat16":
            path = to_onnx(c, tmp_path / "c.onnx", dtype)
            assert np.abs(run_onnx(path, x, dtype) - reference).max() <= bound
        if not isinstance(c.domain, Sequences) and hasattr(c.target, "evaluate"):
            assert np.abs(out - c.target.evaluate(x).reshape(out.shape)).max() <= module.certificate.error_upper


def test_sequences_of_the_classical_head(compiled, tmp_path):
    """Every token attends to all tokens: the same in all three, for several lengths."""
    c = compile_prefix(X * Y, 0.2, Sphere(1), method="classical", sequence_length=5)
    path, module = to_onnx(c, tmp_path / "c.onnx"), to_torch(c)
    for length in (1, 3, 5):
        x = c.domain.sample(20 * length, length).reshape(20, length, 2)
        reference = c.sequences(x)
        assert np.abs(module(torch.from_numpy(x)).numpy() - reference).max() <= 2 * c.certificate.rounding
        assert np.abs(run_onnx(path, x, "float64") - reference).max() <= 2 * c.certificate.rounding


def test_the_module_is_frozen_and_differentiable_in_its_input(compiled):
    module = compiled("one variable").to_torch()
    assert not list(module.parameters())
    assert {b.dtype for b in module.buffers()} == {torch.float64}
    x = torch.tensor([[0.3]], dtype=torch.float64, requires_grad=True)
    module(x).sum().backward()
    assert x.grad is not None
    assert float(x.grad) == pytest.approx(3 * np.cos(0.9), abs=0.05)
    assert "proved" in repr(module)
    again = compiled("one variable").to_torch()
    again.load_state_dict(module.state_dict())
    assert torch.equal(again(x), module(x))


def test_the_module_takes_dtypes_and_devices(compiled):
    c = compiled("one variable")
    module = c.to_torch(torch.float32, device="cpu")
    assert {b.dtype for b in module.buffers()} == {torch.float32}
    assert module(torch.zeros(3, 1, dtype=torch.float64)).dtype == torch.float32
    if torch.cuda.is_available():
        for dtype in ("float64", "float32"):
            x = points_for(c, 2000)
            here, there = c.to_torch(dtype), c.to_torch(dtype, device="cuda")
            off = here(torch.from_numpy(x)) - there(torch.from_numpy(x).cuda()).cpu()
            assert float(off.abs().max()) <= 2 * here.certificate.rounding


def test_wrong_points_are_refused(compiled):
    module = compiled("two variables").to_torch()
    for shape in ((3,), (3, 1), (2, 2, 3)):
        with pytest.raises(ValueError, match="expected"):
            module(torch.zeros(shape))
    gathered = compiled("gathered").to_torch()
    with pytest.raises(ValueError, match="the certificate is about 2"):
        gathered(torch.zeros(1, 3, 1))
    gathered.tokens = None
    with pytest.raises(ValueError, match="positions"):
        gathered(torch.zeros(1, 3, 1))


def test_a_format_that_cannot_hold_eps_is_refused_with_the_numbers(compiled, tmp_path):
    c = compile_prefix(sp.sin(3 * X), 1e-6, Box([(-1, 1)]))
    with pytest.raises(ExportError, match=r"float32 rounding is at most .* eps is 1e-06"):
        c.to_torch("float32")
    with pytest.raises(ExportError, match="eps is 1e-06"):
        c.to_onnx(tmp_path / "c.onnx", dtype="float32")
    assert not (tmp_path / "c.onnx").exists()
    module = c.to_torch("float32", unproved=True)
    assert not module.certificate.proved
    with pytest.raises(ExportError, match="bfloat16"):
        c.to_onnx(tmp_path / "c.onnx", dtype="bfloat16")
    with pytest.raises(ExportError, match="unknown"):
        c.to_torch("float16")


def test_an_onnx_file_is_plain_checked_and_whole(compiled, tmp_path):
    c = compiled("one variable")
    path = c.to_onnx(tmp_path / "c.onnx")
    read = onnx.load(str(path))
    onnx.checker.check_model(read, full_check=True)
    assert [o.version for o in read.opset_import] == [17]
    notes = {p.key: p.value for p in read.metadata_props}
    assert notes["prefix_compiler.status"] == "proved"
    stated = float(notes["prefix_compiler.error_upper"])  # kernels with a reciprocal included
    assert c.certificate.error_upper <= stated <= c.certificate.error_upper * (1 + 1e-6)
    assert {n.op_type for n in read.graph.node} <= {"MatMul", "Add", "Softmax", "Identity"}
    with pytest.raises(ArtefactError, match="cannot be written"):
        c.to_onnx(tmp_path / "no such folder" / "c.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["c.onnx"]


@pytest.mark.parametrize(("package", "call"), [("torch", to_torch), ("onnx", lambda c: to_onnx(c, "c.onnx"))])
def test_a_missing_extra_names_the_command(package, call, compiled, monkeypatch):
    def missing(name):
        if name == package:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return importlib.import_module(name)

    monkeypatch.setattr("constructions.export.checked.import_module", missing)
    with pytest.raises(MissingExtraError, match=r"pip install 'prefix-compiler\[export\]'"):
        call(compiled("one variable"))
