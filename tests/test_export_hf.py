"""The universal backbone in transformers, and compiled prefixes as PEFT adapters on it."""

import json
import os

import numpy as np
import pytest
import sympy as sp

from constructions import compile_prefix
from constructions.export import ExportError, MissingExtraError, backbone_for, past_key_values, to_peft
from verify import Box, Certificate, Sphere

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

X, Y, Z = sp.symbols("x y z")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

CASES = {
    "sine": lambda: compile_prefix(sp.sin(3 * X), 1e-3, Box([(-1, 1)])),
    "surface": lambda: compile_prefix(sp.exp(X) * sp.cos(Y), 1e-2, Box([(-1, 1)] * 2)),
    "sphere": lambda: compile_prefix(X * Y + Z, 0.15, Sphere(2), method="split"),
    "two outputs": lambda: compile_prefix([sp.sin(X), X**2], 1e-2, Box([(-1, 1)])),
    "circuit": lambda: compile_prefix(X * Y / (1 + X**2), 0.05, Box({"x": (0, 1), "y": (1, 2)}), method="circuit"),
}


@pytest.fixture(scope="module")
def compiled():
    return {name: make() for name, make in CASES.items()}


@pytest.fixture(scope="module")
def backbone(compiled):
    return backbone_for(*compiled.values())


def points_of(c, count=2000):
    if isinstance(c.domain, Sphere):
        return c.domain.sample(count)
    lo, hi = c.domain.bounds
    return np.random.default_rng(0).uniform(lo, hi, (count, len(lo)))


def embedded(x, backbone):
    """(1, points, inputs), coordinates that a function does not have being zero."""
    out = np.zeros((1, len(x), backbone.config.inputs))
    out[0, :, : x.shape[1]] = x
    return torch.from_numpy(out)


def on_backbone(model, x, config):
    with torch.inference_mode():
        return model(inputs_embeds=embedded(x, config)).last_hidden_state


def test_one_model_many_functions_one_adapter_each(compiled, backbone, tmp_path):
    """Saved and reloaded backbone; adapters are swapped, computed functions are those compiled, bit-equal to direct injection."""
    from constructions.export.backbone import Backbone

    backbone.save_pretrained(tmp_path / "backbone")
    reloaded = Backbone.from_pretrained(tmp_path / "backbone").eval()
    for a, b in zip(backbone.state_dict().items(), reloaded.state_dict().items(), strict=True):
        assert a[0] == b[0]
        assert torch.equal(a[1], b[1])
    assert reloaded.config.to_dict()["inputs"] == backbone.config.inputs
    model = None
    for name, c in compiled.items():
        path = c.to_peft(tmp_path / name, backbone)
        if model is None:
            model = peft.PeftModel.from_pretrained(reloaded, path, adapter_name=name)
        else:
            model.load_adapter(path, adapter_name=name)
    assert model is not None
    for name in [*compiled, "sine", "circuit"]:  # and back again
        c = compiled[name]
        model.set_adapter(name)
        x = points_of(c)
        out = on_backbone(model, x, backbone)
        with torch.inference_mode():
            direct = backbone(inputs_embeds=embedded(x, backbone), past_key_values=past_key_values(c, backbone))
        assert torch.equal(out, direct.last_hidden_state)
        proved = Certificate.from_json(json.loads((tmp_path / name / "certificate.json").read_text()))
        assert proved.proved
        k = c.model.outputs
        off = np.abs(out[0, :, :k].double().numpy() - c.target.evaluate(x).reshape(-1, k))
        assert off.max() <= proved.error_upper <= c.eps
        assert not out[0, :, k:].any()  # outputs that a function does not have
    assert not any(p.requires_grad for p in backbone.parameters())


def test_float64_backbone_holds_what_float32_cannot(tmp_path):
    c = compile_prefix(sp.sin(3 * X), 1e-6, Box([(-1, 1)]))
    with pytest.raises(ExportError, match=r"float32 rounding is at most .*dtype='float64'"):
        c.to_peft(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    path = c.to_peft(tmp_path / "a", dtype="float64")
    model = peft.PeftModel.from_pretrained(backbone_for(c, dtype="float64"), path)
    x = points_of(c)
    off = np.abs(on_backbone(model, x, model.base_model)[0].numpy() - np.sin(3 * x))
    assert off.max() <= 1e-6


def test_filling_up_changes_nothing(compiled, tmp_path):
    """More tokens, heads, layers and slots than needed."""
    from constructions.export.backbone import Backbone, BackboneConfig

    for name in ("sine", "circuit"):
        c = compiled[name]
        large = Backbone(BackboneConfig(inputs=3, outputs=2, work=7, num_hidden_layers=4, num_attention_heads=3)).eval()
        model = peft.PeftModel.from_pretrained(large, c.to_peft(tmp_path / name, large, tokens=40))
        x = points_of(c)
        out = on_backbone(model, x, large)[0].double().numpy()
        small = backbone_for(c)
        direct = small(inputs_embeds=embedded(x, small), past_key_values=past_key_values(c, small))
        proved = Certificate.from_json(json.loads((tmp_path / name / "certificate.json").read_text()))
        assert np.abs(out[:, :1] - direct.last_hidden_state[0].double().numpy()).max() <= 2 * proved.rounding
        assert np.abs(out[:, :1] - c.target.evaluate(x).reshape(-1, 1)).max() <= proved.error_upper
        assert not out[:, 1].any()
        with pytest.raises(ExportError, match="a head has"):
            c.to_peft(tmp_path / "few", large, tokens=1)


def test_batches_masks_and_auto_classes(compiled, backbone, tmp_path):
    from constructions.export.backbone import register

    register()
    register()
    from transformers import AutoModel

    backbone.save_pretrained(tmp_path / "b")
    model = peft.PeftModel.from_pretrained(
        AutoModel.from_pretrained(tmp_path / "b"), compiled["sine"].to_peft(tmp_path / "s", backbone)
    )
    x = torch.zeros(4, 6, backbone.config.inputs)
    x[..., 0] = torch.linspace(-1, 1, 24).reshape(4, 6)
    alone = model(inputs_embeds=x).last_hidden_state
    masked = model(inputs_embeds=x, attention_mask=torch.ones(4, 6, dtype=torch.long)).last_hidden_state
    assert torch.equal(alone, masked)
    assert float((alone[..., 0] - torch.sin(3 * x[..., 0])).abs().max()) <= 1e-3


def test_an_adapter_can_be_trained_further(compiled, backbone, tmp_path):
    path = compiled["sine"].to_peft(tmp_path / "s", backbone)
    model = peft.PeftModel.from_pretrained(backbone, path)  # PEFT loads prefixes frozen; they are thawed afterwards
    model.prompt_encoder.requires_grad_(True)
    x = torch.zeros(1, 50, backbone.config.inputs)
    x[0, :, 0] = torch.linspace(-1, 1, 50)
    loss = (model(inputs_embeds=x).last_hidden_state[..., 0] - torch.sin(3 * x[..., 0])).square().mean()
    loss.backward()
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert len(trainable) == 1
    assert trainable[0].grad is not None
    assert float(loss) < 1e-6


def test_what_the_backbone_cannot_be_is_refused(compiled, backbone, tmp_path):
    from constructions.export.backbone import Backbone, BackboneConfig

    for method, why in (("core", "does not divide"), ("classical", "attend to their prefix alone")):
        c = compile_prefix(X * Y, 0.15, Sphere(1), method=method)
        with pytest.raises(ExportError, match=why):
            c.to_peft(tmp_path / "a")
    with pytest.raises(ExportError, match="inputs = 1, this prefix needs 2"):
        compiled["surface"].to_peft(tmp_path / "a", Backbone(BackboneConfig()))
    with pytest.raises(ExportError, match="num_hidden_layers = 1, this prefix needs 2"):
        compiled["circuit"].to_peft(tmp_path / "a", BackboneConfig(inputs=2, work=4))
    with pytest.raises(ExportError, match="unknown"):
        compiled["sine"].to_peft(tmp_path / "a", dtype="float8")
    with pytest.raises(ValueError, match="heads"):
        BackboneConfig(num_attention_heads=0)
    with pytest.raises(ValueError, match="Load an adapter"):
        backbone(inputs_embeds=torch.zeros(1, 1, backbone.config.inputs))
    with pytest.raises(ValueError, match="no token ids"):
        backbone(input_ids=torch.zeros(1, 1, dtype=torch.long))
    with pytest.raises(ValueError, match="expected"):
        backbone(inputs_embeds=torch.zeros(1, 1, 99), past_key_values=past_key_values(compiled["sine"], backbone))
    assert list(tmp_path.iterdir()) == []


def test_the_folder_is_written_whole_and_replaced_only_by_its_like(compiled, backbone, tmp_path):
    c = compiled["sine"]
    path = c.to_peft(tmp_path / "a", backbone)
    names = {"adapter_config.json", "adapter_model.safetensors", "certificate.json"}
    assert set(os.listdir(path)) == names
    before = (path / "adapter_model.safetensors").read_bytes()
    assert c.to_peft(path, backbone) == path
    assert (path / "adapter_model.safetensors").read_bytes() == before
    (path / "mine.txt").write_text("keep")
    with pytest.raises(ExportError, match="is no adapter"):
        c.to_peft(path, backbone)
    assert (path / "mine.txt").read_text() == "keep"
    assert os.listdir(tmp_path) == ["a"]


def test_a_missing_extra_names_the_command(compiled, monkeypatch, tmp_path):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr("constructions.export.checked.import_module", missing)
    for call in (lambda: to_peft(compiled["sine"], tmp_path / "a"), lambda: backbone_for(compiled["sine"])):
        with pytest.raises(MissingExtraError, match=r"pip install 'prefix-compiler\[export\]'"):
            call()
