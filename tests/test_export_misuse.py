"""Exports that are used in ways their certificates are not about, and requests that cannot be met: refused in words, nothing lost."""

import copy
import json
import os
import pickle
from typing import Any, cast

import numpy as np
import pytest
import sympy as sp

from constructions import compile_prefix
from constructions.export import ExportError, backbone_for, past_key_values
from verify import Box, Sequences, Sphere
from verify.certificate import EXECUTION
from verify.formats import FLOAT64

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
pytest.importorskip("onnx")

from constructions.export.adapter_folder import checked_adapter  # noqa: E402
from constructions.export.checked import ExecutionError  # noqa: E402
from constructions.export.torch_module import PrefixHead  # noqa: E402

X, Y = sp.symbols("x y")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def sine():
    return compile_prefix(sp.sin(3 * X), 1e-3, Box([(-1, 1)]))


@pytest.fixture(scope="module")
def surface():
    return compile_prefix(sp.exp(X) * sp.cos(Y), 1e-2, Box([(-1, 1)] * 2))


@pytest.fixture(scope="module")
def backbone(sine, surface):
    return backbone_for(sine, surface)


def line(count, width):
    out = torch.zeros(1, count, width)
    out[0, :, 0] = torch.linspace(-1, 1, count)
    return out


def test_a_certified_module_runs_in_its_dtype_alone(sine):
    module, x = sine.to_torch("float32"), torch.linspace(-1, 1, 5)[:, None]
    for change in (lambda m: m.double(), lambda m: m.half(), lambda m: m.bfloat16(), lambda m: m.to(torch.float64)):
        changed = change(copy.deepcopy(module))
        with pytest.raises(ExecutionError, match=r"certified in torch\.float32"):
            changed(x)
        changed.certified_dtype = None
        assert len(changed(x)) == 5
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(ExecutionError, match="autocast"):
        module(x)
    with torch.autocast("cpu", enabled=False):
        assert torch.equal(module(x), pickle.loads(pickle.dumps(module))(x))
    before = torch.get_float32_matmul_precision()
    try:
        for precision in ("high", "medium"):
            torch.set_float32_matmul_precision(precision)
            with pytest.raises(ExecutionError, match="Set it to 'highest'"):
                module(x)
            sine.to_torch("float64")(x)
    finally:
        torch.set_float32_matmul_precision(before)
    tight = compile_prefix(sp.sin(3 * X), 1e-6, Box([(-1, 1)])).to_torch("float32", unproved=True)
    assert tight.double()(x).dtype == torch.float64  # nothing is said of it


def test_what_is_assumed_of_the_execution_names_the_switches(sine):
    (stated,) = [a for a in sine.to_torch("float32").certificate.assumptions if "execution" in a]
    for word in ("no TF32", "'high' nor 'medium'", "attention kernels", "blocks", "reciprocal"):
        assert word in stated


def test_float64_modules_are_certified_for_kernels_that_work_in_blocks(sine):
    module = sine.to_torch()
    assert FLOAT64.execution in module.certificate.assumptions
    assert not any(part.whole for part in module.modules() if isinstance(part, PrefixHead))
    a, b = sp.symbols("x1 x2")
    c = compile_prefix([[a * b], [a + b]], 1e-2, Sequences(2, Box({"x": (0, 1)})), method="two-layer")
    gathered = c.to_torch()
    assert EXECUTION in gathered.certificate.assumptions  # not shown for blocks: one softmax in a single piece
    assert all(part.whole for part in gathered.modules() if isinstance(part, PrefixHead))
    for shape in ((3, 1), (3, 1, 1), (3, 3, 1)):
        with pytest.raises(ValueError, match="the certificate is about 2"):
            gathered(torch.zeros(shape))


def test_sequences_longer_than_certified_are_refused(tmp_path):
    c = compile_prefix(X * Y, 0.2, Sphere(1), method="classical", sequence_length=3)
    module = c.to_torch()
    x = torch.from_numpy(c.domain.sample(8).reshape(2, 4, 2))
    assert module(x[:, :3]).shape == (2, 3, 1)
    with pytest.raises(ValueError, match="sequences of 4 tokens, the certificate is about 1 to 3"):
        module(x)
    module.tokens = None
    assert module(x).shape == (2, 4, 1)
    import onnx

    notes = {p.key: p.value for p in onnx.load(str(c.to_onnx(tmp_path / "c.onnx"))).metadata_props}
    assert notes["prefix_compiler.tokens"] == "1 to 3"


def test_points_that_are_not_finite_give_nan(sine, backbone):
    bad = torch.tensor(
        [[math_bad] for math_bad in (float("nan"), float("inf"), -float("inf"), 0.5)], dtype=torch.float64
    )
    for dtype in ("float64", "float32"):
        out = sine.to_torch(dtype)(bad)
        assert torch.isnan(out[:3]).all()
        assert float(out[3, 0]) == pytest.approx(np.sin(1.5), abs=1e-3)
    beyond = sine.to_torch("float32")(torch.tensor([[1e39]], dtype=torch.float64))  # infinite in float32
    assert torch.isnan(beyond).all()
    padded = torch.zeros(1, 4, backbone.config.inputs)
    padded[0, :, 0] = bad[:, 0]
    out = backbone(inputs_embeds=padded, past_key_values=past_key_values(sine, backbone)).last_hidden_state
    assert torch.isnan(out[0, :3]).all()
    assert torch.isfinite(out[0, 3]).all()
    c = compile_prefix(X * Y, 0.2, Sphere(1), method="classical", sequence_length=2)
    x = torch.tensor([[[1.0, 0.0], [float("nan"), 0.0]], [[1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    out = c.to_torch()(x)
    assert torch.isnan(out[0]).all()  # every token attends to the one that is not
    assert torch.isfinite(out[1]).all()


def test_arrays_lists_and_what_is_neither(sine):
    module = sine.to_torch()
    x = np.linspace(-1, 1, 5)[:, None]
    assert torch.equal(module(x), module(torch.from_numpy(x)))
    assert torch.equal(module(x.tolist()), module(torch.from_numpy(x)))
    for wrong in (
        "text",
        None,
        {"x": 1},
        [[0.0], [1.0, 2.0]],
        np.array([["a"]]),
        torch.zeros(1, 1, dtype=torch.complex64),
    ):
        with pytest.raises((TypeError, ValueError), match="x: "):
            module(wrong)


def test_dtypes_devices_and_paths_that_are_none(sine, backbone, tmp_path):
    assert sine.to_torch(np.float32).certified_dtype == torch.float32
    assert sine.to_onnx(tmp_path / "a.onnx", torch.float32).exists()
    assert sine.to_peft(tmp_path / "a", backbone, dtype=torch.float32).exists()
    assert backbone_for(sine, dtype=np.float64).dtype == torch.float64
    for wrong in ("float16", None, torch.int32, 1.5, "", [], float):
        with pytest.raises(ExportError, match="dtype"):
            sine.to_torch(wrong)
        with pytest.raises(ExportError, match="dtype"):
            sine.to_onnx(tmp_path / "b.onnx", wrong)
        with pytest.raises(ExportError, match="dtype"):
            backbone_for(sine, dtype=wrong)
    for path in (None, 3, "", "a\0b", ["a"]):
        with pytest.raises(ExportError, match="path"):
            sine.to_onnx(path)
        with pytest.raises(ExportError, match="path"):
            sine.to_peft(path, backbone)
    for path in (".", "..", "/"):
        with pytest.raises(ExportError, match="current folder"):
            sine.to_peft(path, backbone)
    with pytest.raises(ExportError, match="cannot be used"):
        sine.to_torch(device="nonsense")
    if not torch.cuda.is_available():
        with pytest.raises(ExportError, match="device: 'cuda' cannot be used"):
            sine.to_torch(device="cuda")
    for tokens in ("8", float("nan"), 4.0, True, 0, -1):
        with pytest.raises(ExportError, match="tokens"):
            sine.to_peft(tmp_path / "b", backbone, tokens=tokens)
    for wrong in (5, object(), torch.nn.Linear(1, 1)):
        with pytest.raises(ExportError, match="backbone"):
            sine.to_peft(tmp_path / "b", wrong)
        with pytest.raises(ExportError, match="backbone"):
            past_key_values(sine, cast("Any", wrong))
    for batch in (0, -1, 1.5, True):
        with pytest.raises(ExportError, match="batch"):
            past_key_values(sine, backbone, batch=cast("Any", batch))
    with pytest.raises(ExportError, match="the backbone itself"):
        past_key_values(sine, backbone.config)
    with pytest.raises(ExportError, match="no compiled prefix"):
        backbone_for(sine, cast("Any", 3))
    assert sorted(os.listdir(tmp_path)) == ["a", "a.onnx"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_adapter_is_not_lost_where_another_cannot_be_put_in_its_place(
    error, sine, surface, backbone, tmp_path, monkeypatch
):
    path = sine.to_peft(tmp_path / "keep", backbone)
    before = {p.name: p.read_bytes() for p in path.iterdir()}
    real = os.replace

    def failing(a, b):
        if str(b).endswith("keep"):
            raise error
        return real(a, b)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else ExportError):
        surface.to_peft(path, backbone)
    assert {p.name: p.read_bytes() for p in path.iterdir()} == before
    assert os.listdir(tmp_path) == ["keep"]


def test_links_are_followed_and_other_folders_left_alone(sine, backbone, tmp_path):
    real = sine.to_peft(tmp_path / "real", backbone)
    for name, there in (("link", real), ("dangling", tmp_path / "new")):
        os.symlink(there, tmp_path / name)
        assert sine.to_peft(tmp_path / name, backbone) == tmp_path / name
        assert (tmp_path / name).is_symlink()
        assert (there / "certificate.json").exists()
    os.symlink(tmp_path / "loop", tmp_path / "loop")
    with pytest.raises(ExportError):
        sine.to_peft(tmp_path / "loop", backbone)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "README.md").write_text("mine")
    with pytest.raises(ExportError, match="is no adapter"):
        sine.to_peft(tmp_path / "notes", backbone)
    assert (tmp_path / "notes" / "README.md").read_text() == "mine"


def test_a_prefix_for_another_backbone_does_not_run(sine, backbone, tmp_path):
    from constructions.export.backbone import Backbone, BackboneConfig

    path, config = sine.to_peft(tmp_path / "s", backbone), backbone.config
    shape = (config.inputs, config.outputs, config.work)
    for other in ((*shape[:2], shape[2] + 1, 1, 1), (*shape, 1, 2), (*shape, 2, 1)):
        model = peft.PeftModel.from_pretrained(Backbone(BackboneConfig(*other)).eval(), path)
        with pytest.raises(ValueError, match="past_key_values"):
            model(inputs_embeds=line(3, config.inputs))
    x = line(5, config.inputs).expand(3, 5, -1)
    with pytest.raises(ValueError, match="for a batch of 2"):
        backbone(inputs_embeds=x, past_key_values=past_key_values(sine, backbone, batch=2))
    assert backbone(inputs_embeds=x, past_key_values=past_key_values(sine, backbone)).last_hidden_state.shape[0] == 3
    keys = torch.zeros(1, 1, 4, config.width)
    with pytest.raises(ValueError, match="values"):
        backbone(inputs_embeds=x, past_key_values=[(keys, keys[:, :, :3])])
    for wrong in (keys[0], keys[..., :-1], keys[:, :, :0]):
        with pytest.raises(ValueError, match="past_key_values"):
            backbone(inputs_embeds=x, past_key_values=[(wrong, wrong)])


def test_the_backbone_runs_in_its_own_dtype_under_autocast(sine, backbone):
    x = line(101, backbone.config.inputs)
    alone = backbone(inputs_embeds=x, past_key_values=past_key_values(sine, backbone)).last_hidden_state
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = backbone(inputs_embeds=x, past_key_values=past_key_values(sine, backbone)).last_hidden_state
    assert torch.equal(alone, under)


def test_the_dtype_certified_is_the_one_the_backbone_runs_in(sine, tmp_path):
    wide = backbone_for(sine, dtype="float64")
    for dtype, there in (("float32", wide), ("float64", backbone_for(sine))):
        with pytest.raises(ExportError, match="but the backbone given runs in"):
            sine.to_peft(tmp_path / "s", there, dtype=dtype)
    path = sine.to_peft(tmp_path / "s", wide)
    notes = json.loads((path / "certificate.json").read_text())
    assert notes["dtype"] == "float64"
    assert any("float64" in a and "blocks" in a for a in notes["assumptions"])
    assert checked_adapter(path, wide).proved
    with pytest.raises(ExportError, match="runs in float32, the certificate is about float64"):
        checked_adapter(path, wide.float())


def test_an_adapter_is_checked_against_its_certificate(sine, surface, backbone, tmp_path):
    """PEFT loads what lies there: what was changed, and what is for other inputs of the same width, computes something."""
    from safetensors.numpy import load_file, save_file

    from constructions.export.backbone import BackboneConfig

    path = surface.to_peft(tmp_path / "s", backbone)
    assert checked_adapter(path).proved
    assert checked_adapter(path, backbone).proved
    config = backbone.config
    assert checked_adapter(path, config).proved
    narrower = BackboneConfig(1, config.outputs, config.work + 1, 1, 1)  # of the same width
    assert narrower.width == config.width
    with pytest.raises(ExportError, match="the adapter is for"):
        checked_adapter(path, narrower)
    stored = path / "adapter_model.safetensors"
    arrays = load_file(stored)
    save_file({k: v * 2 for k, v in arrays.items()}, stored, {"format": "pt"})
    with pytest.raises(ExportError, match=r"is not the one that certificate\.json is about"):
        checked_adapter(path)
    save_file(arrays, stored, {"format": "pt"})
    assert checked_adapter(path).proved
    (path / "certificate.json").write_text("{}")
    for wrong in (path, tmp_path / "nothing"):
        with pytest.raises(ExportError, match="no adapter with a certificate"):
            checked_adapter(wrong)


def test_attention_on_a_gpu_and_in_a_single_piece_is_the_plain_one(monkeypatch):
    """Memory-efficient kernels of a GPU may take float32 products apart into TF32 ones."""
    from contextlib import nullcontext
    from types import SimpleNamespace

    from constructions.export import machine

    asked = []
    monkeypatch.setattr(machine, "sdpa_kernel", lambda kernel: asked.append(kernel) or nullcontext())
    monkeypatch.setattr(machine.nn.functional, "scaled_dot_product_attention", lambda *_, scale: scale)
    for on_gpu, whole, plain in ((False, False, 0), (True, False, 1), (False, True, 1)):
        asked.clear()
        assert (
            machine.attention(cast("Any", SimpleNamespace(is_cuda=on_gpu)), torch.zeros(1), torch.zeros(1), whole)
            == 1.0
        )
        assert asked == [machine.SDPBackend.MATH] * plain
