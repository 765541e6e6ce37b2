"""Exports: how fast the PyTorch module is, whether PEFT's round trip keeps every bit, how far NumPy, PyTorch and onnxruntime are apart.

Speed: a thousand tokens on 100 000 points beside `scaled_dot_product_attention` itself, called in turn with it: on the same shapes (keys as
wide as n + 1, values as wide as k), and on arrays that were padded to equal widths beforehand, which is all that can be reached. Agreement:
the largest difference from the reference forward pass on the parameters of the format, over the certificates' bounds of rounding.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import sympy as sp
from rich.markup import escape
from rich.table import Table

from benchmarks.functions import hardest_lipschitz
from benchmarks.outcome import Outcome, Request, columns, number
from benchmarks.timing import interleaved
from constructions import Box, Sphere, compile_prefix
from constructions.compiled import Compiled
from constructions.export import ExportError, backbone_for, past_key_values, to_onnx, to_torch
from verify import forward, zigzag
from verify.formats import FORMATS, cast_claim

__all__ = ["run"]

_X, _Y, _Z = sp.symbols("x y z")
_NEEDED = ("torch", "onnx", "onnxruntime", "transformers", "peft")
_FUNCTIONS: dict[str, Callable[[], Compiled]] = {
    "sin(3x), 1e-3": lambda: compile_prefix(sp.sin(3 * _X), 1e-3, Box({"x": (-1, 1)}), progress=False),
    "sin(3x), 1e-6": lambda: compile_prefix(sp.sin(3 * _X), 1e-6, Box({"x": (-1, 1)}), progress=False),
    "sin(x)/2, 0.3": lambda: compile_prefix(sp.sin(_X) / 2, 0.3, Box({"x": (-1, 1)}), progress=False),
    "exp(x) cos(y), 1e-2": lambda: compile_prefix(
        sp.exp(_X) * sp.cos(_Y), 1e-2, Box({"x": (-1, 1), "y": (-1, 1)}), progress=False
    ),
    "x y + z on S^2, 0.15": lambda: compile_prefix(_X * _Y + _Z, 0.15, Sphere(2), method="split", progress=False),
    "x y / (1 + x^2), 0.05, circuit": lambda: compile_prefix(
        _X * _Y / (1 + _X**2), 0.05, Box({"x": (0, 1), "y": (1, 2)}), method="circuit", progress=False
    ),
}


def run(request: Request) -> Outcome:
    """Three tables: speed, agreement, adapters; or the note that an extra is missing."""
    missing = [package for package in _NEEDED if find_spec(package) is None]
    if missing:
        table = columns("exports", "package")
        table.add_row(escape(f"{', '.join(missing)} not installed: pip install 'prefix-compiler[export]'"))
        return Outcome((table,), {})
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    names = ["sin(3x), 1e-3", "exp(x) cos(y), 1e-2"] if request.quick else list(_FUNCTIONS)
    try:
        compiled = {name: _FUNCTIONS[name]() for name in names}
        speed, metrics = _speed(request)
        agreement, more = _agreement(request, compiled)
        adapters, bits = _adapters(request, compiled)
    finally:
        torch.set_num_threads(before)
    return Outcome((speed, agreement, adapters), {**metrics, **more, **bits})


def _speed(request: Request) -> tuple[Table, dict[str, float]]:
    """The sharpest head of a thousand tokens: the covering of the hardest Lipschitz function."""
    import torch
    from torch.nn.functional import pad, scaled_dot_product_attention

    batch, tokens, rounds = (2000, 50, 2) if request.quick else (100_000, 1000, 11)
    eps = 1 / (tokens - 0.5)
    hardest = hardest_lipschitz(zigzag(1.0, -1.0, 1.0, eps))
    c = compile_prefix(hardest, eps, Box([(-1, 1)]), method="covering", lipschitz=1.0, progress=False)
    points = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (batch, 1)))
    table = columns(
        f"{batch} points, {c.length} tokens, {torch.get_num_threads()} threads", "dtype", "module s", "sdpa s", "sdpa, padded s", "module/sdpa", "module/padded",
        caption=f"medians of {rounds} calls in turn ({1 + rounds // 4} for the first sdpa); sdpa: on the same shapes; padded: on keys and values padded to one width beforehand",
    )  # fmt: skip
    metrics: dict[str, float] = {"tokens": c.length, "points": batch, "threads": torch.get_num_threads()}
    for name in request.track(["float64", "float32"], "timing"):
        dtype = getattr(torch, name)
        module = to_torch(c, name, unproved=True)
        x = points.to(dtype)
        queries = torch.cat([x, torch.ones_like(x)], dim=1)[None, None]
        keys, values = (torch.from_numpy(np.array(a)).to(dtype)[None, None] for a in (c.keys, c.values))
        wide = pad(values, (0, keys.shape[-1] - values.shape[-1]))
        with torch.inference_mode():
            own = {"module": lambda module=module, x=x: module(x)}
            plain = {"plain": lambda q=queries, k=keys, v=values: scaled_dot_product_attention(q, k, v, scale=1.0)}
            padded = {"padded": lambda q=queries, k=keys, v=wide: scaled_dot_product_attention(q, k, v, scale=1.0)}
            found = interleaved(own | plain, 1 + rounds // 4) | interleaved(own | padded, rounds)
        seconds = {key: found[key][0] for key in found}
        seconds = {key: seconds[key] for key in ("module", "plain", "padded")}
        ratios = {key: seconds["module"] / seconds[key] for key in ("plain", "padded")}
        metrics |= {f"ratio_torch_{key}_{name}": ratio for key, ratio in ratios.items()}
        metrics |= {f"seconds_{key}_{name}": s for key, s in seconds.items()}
        table.add_row(name, *(number(s) for s in seconds.values()), *(number(r) for r in ratios.values()))
    return table, metrics


def _agreement(request: Request, compiled: dict[str, Compiled]) -> tuple[Table, dict[str, float]]:
    """Every function in every format that is proved to hold its eps."""
    count = 2000 if request.quick else 100_000
    table = columns(
        f"agreement with the reference on {count} random points", "function", "dtype", "proved error", "rounding bound", "torch", "onnxruntime",
        caption="torch, onnxruntime: largest difference from verify.forward on the parameters of the format",
    )  # fmt: skip
    worst: dict[str, float] = {}
    held: dict[str, int] = dict.fromkeys(FORMATS, 0)
    for name, c in request.track(list(compiled.items()), "agreement"):
        x = _points(c, count)
        for dtype in FORMATS:
            try:
                found = _outputs(c, x, dtype)
            except ExportError as refused:
                table.add_row(name, dtype, escape(_short(str(refused))))
                continue
            held[dtype] += 1
            claim = cast_claim(c.claim, FORMATS[dtype])
            reference = forward(claim.model, claim.prefix, x)
            certificate = found.pop("certificate")
            bound = certificate.rounding + c.certificate.rounding
            apart = {engine: float(np.abs(out - reference).max()) for engine, out in found.items()}
            for engine, a in apart.items():
                key = f"max_apart_over_bound_{engine}_{dtype}"
                worst[key] = max(worst.get(key, 0.0), a / bound)
            table.add_row(
                name, dtype, number(certificate.error_upper), number(bound), number(apart["torch"]), number(apart.get("onnxruntime"))
            )  # fmt: skip
    metrics = worst | {f"held_{dtype}": n for dtype, n in held.items()} | {"functions": len(compiled)}
    return table, {**metrics, "max_apart_over_bound": max(worst.values())}


def _outputs(c: Compiled, x: np.ndarray, dtype: str, rows: int = 5000) -> dict[str, Any]:
    """What PyTorch and, for the formats that an ONNX graph has, onnxruntime make of the points; and the certificate."""
    import onnxruntime
    import torch

    module = to_torch(c, dtype)
    with torch.inference_mode():
        found: dict[str, Any] = {
            "certificate": module.certificate,
            "torch": module(torch.from_numpy(x)).double().numpy(),
        }
    if dtype != "bfloat16":
        with tempfile.TemporaryDirectory() as folder:
            session = onnxruntime.InferenceSession(
                str(to_onnx(c, Path(folder) / "c.onnx", dtype)), providers=["CPUExecutionProvider"]
            )
            parts: list[Any] = [
                session.run(None, {"x": x[i : i + rows].astype(dtype)})[0] for i in range(0, len(x), rows)
            ]
        found["onnxruntime"] = np.concatenate(parts).astype(np.float64)
    return found


def _adapters(request: Request, compiled: dict[str, Compiled]) -> tuple[Table, dict[str, float]]:
    """One backbone, saved and reloaded; every function an adapter on it, loaded by PEFT, against direct injection into the first."""
    import torch
    from peft import PeftModel

    from constructions.export.backbone import Backbone

    table = columns(
        "one backbone, one adapter each", "function", "tokens", "run in", "eps", "measured error", "bit-equal"
    )
    equal: list[bool] = []
    for dtype in ("float32", "float64"):
        model: Any = None
        backbone = backbone_for(*compiled.values(), dtype=dtype)
        with tempfile.TemporaryDirectory() as folder:
            backbone.save_pretrained(Path(folder) / "backbone")
            reloaded = Backbone.from_pretrained(Path(folder) / "backbone").eval()
            loaded: dict[str, Compiled] = {}  # by adapter, whose name may not contain a dot
            for adapter, (name, c) in zip((f"f{i}" for i in range(len(compiled))), compiled.items(), strict=True):
                try:
                    path = c.to_peft(Path(folder) / adapter, backbone, dtype=dtype)
                except ExportError as refused:
                    table.add_row(name, str(c.length), dtype, escape(_short(str(refused))))
                    continue
                if model is None:
                    model = PeftModel.from_pretrained(reloaded, path, adapter_name=adapter)
                else:
                    model.load_adapter(path, adapter_name=adapter)
                loaded[adapter] = c
            names = dict(zip((f"f{i}" for i in range(len(compiled))), compiled, strict=True))
            for adapter, c in loaded.items():
                name = names[adapter]
                model.set_adapter(adapter)
                x = _points(c, 10_000)
                embedded = torch.zeros(1, len(x), backbone.config.inputs, dtype=torch.float64)
                embedded[0, :, : x.shape[1]] = torch.from_numpy(x)
                with torch.inference_mode():
                    out = model(inputs_embeds=embedded).last_hidden_state
                    cache = past_key_values(c, backbone)
                    direct = backbone(inputs_embeds=embedded, past_key_values=cache).last_hidden_state
                equal.append(torch.equal(out, direct))
                k = c.model.outputs
                error = float(np.abs(out[0, :, :k].double().numpy() - c.target.evaluate(x).reshape(-1, k)).max())  # type: ignore[union-attr]
                table.add_row(name, str(c.length), dtype, number(c.eps), number(error), "yes" if equal[-1] else "no")
    return table, {"peft_bit_equal": float(all(equal)), "adapters": len(equal)}


def _points(c: Compiled, count: int) -> np.ndarray:
    if isinstance(c.domain, Sphere):
        return c.domain.sample(count)
    assert isinstance(c.domain, Box)
    lo, hi = c.domain.bounds
    return np.random.default_rng(0).uniform(lo, hi, (count, len(lo)))


def _short(message: str) -> str:
    """The reason of a refusal, without advice."""
    return message.split("not proved to be within ")[-1].split(" Use ")[0].split(". Export")[0].split(". Pass")[0]
