"""method="circuit": deep models compiled from formulas, and what the kernel makes of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import sympy as sp

from constructions.circuits.lower import backbone
from constructions.compile import compile_prefix
from constructions.compiled import load
from constructions.errors import CompileError, MethodError, UndefinedTargetError
from verify import Box, Prefix, Status, check, prove

a, b, c, d, x, y = sp.symbols("a b c d x y")
NAMES = "G m1 m2 x1 x2 y1 y2 z1 z2"
G, m1, m2, x1, x2, y1, y2, z1, z2 = sp.symbols(NAMES)
NEWTON = G * m1 * m2 / ((x2 - x1) ** 2 + (y2 - y1) ** 2 + (z2 - z1) ** 2)
NEWTON_BOX = Box({n: (3, 4) if n in ("x1", "y1", "z1") else (1, 2) for n in NAMES.split()})
CASES = {
    "product of three": (a * b * c, {"a": (1, 5), "b": (1, 5), "c": (1, 5)}, 1e-3),
    "Gaussian of a ratio": (sp.exp(-((x / y) ** 2) / 2), {"x": (-3, 3), "y": (1, 2)}, 1e-3),
    "distance, with its zero": (sp.sqrt((x - y) ** 2 + (a - b) ** 2), {s: (1, 5) for s in "xyab"}, 6e-3),
    "signed factor": (a * sp.sin(b) / c, {"a": (1, 5), "b": (0, 6), "c": (1, 5)}, 1e-3),
    "kinks": (sp.Abs(x - sp.Rational(1, 3)) + sp.Max(x, y), {"x": (-1, 1), "y": (-1, 1)}, 1e-3),
}


def errors(result, count=4000, seed=1):
    points = result.domain.sample(count, seed)
    return np.abs(result(points) - result.target.evaluate(points)).max()


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_formula_is_compiled_and_proved(name):
    f, sides, eps = CASES[name]
    result = compile_prefix(f, eps, Box(sides), method="circuit")
    assert result.certificate.proved
    assert errors(result) <= result.certificate.error_upper <= eps
    assert result.certificate.error_lower <= result.certificate.error_upper


def test_newtons_law_with_nine_inputs_in_three_layers():
    result = compile_prefix(NEWTON, 1e-3 * 2.6, NEWTON_BOX, method="circuit")
    assert result.certificate.proved
    assert len(result.model.layers) == 3
    assert result.length <= 25
    assert errors(result) <= result.certificate.error_upper


def test_the_backbone_depends_on_sizes_only():
    """Two functions with the same sizes run on equal weights; only the prefix differs."""
    first = compile_prefix(a * b, 1e-2, Box({"a": (1, 2), "b": (1, 2)}), method="circuit")
    second = compile_prefix(a * b, 1e-2, Box({"a": (2, 5), "b": (3, 4)}), method="circuit")
    for one, other in zip(first.model.layers, second.model.layers, strict=True):
        assert all((p.query == q.query).all() for p, q in zip(one.heads, other.heads, strict=True))
    n, k = 2, 1
    work = first.model.embedding.shape[0] - n - k - 1
    again = backbone(n, work, k, [len(layer.heads) for layer in first.model.layers])
    assert (again.embedding == first.model.embedding).all()
    assert (again.readout == first.model.readout).all()


def test_saved_and_proved_again(tmp_path):
    f, sides, eps = CASES["signed factor"]
    result = compile_prefix(f, eps, Box(sides), method="circuit")
    path = result.save(tmp_path / "c.safetensors")
    assert check(path).error_upper == result.certificate.error_upper
    again = load(path)
    points = result.domain.sample(20)
    assert (again(points) == result(points)).all()


def moved(result, layer, head, change):
    """The claim with one head's keys or values changed."""
    prefix = result.claim.prefix
    keys = [[k.copy() for k in row] for row in prefix.keys]
    values = [[v.copy() for v in row] for row in prefix.values]
    change(keys[layer][head], values[layer][head])
    return replace(result.claim, prefix=Prefix(tuple(map(tuple, keys)), tuple(map(tuple, values))))


def test_a_changed_number_is_not_proved():
    """Whatever is changed in any head, what is still proved is true."""
    f, sides, eps = CASES["product of three"]
    result = compile_prefix(f, eps, Box(sides), method="circuit")
    generator = np.random.default_rng(0)
    proved = 0
    for l, layer in enumerate(result.prefix.keys):
        for h in range(len(layer)):
            for size in (1e-13, 1e-6, 1e-1):

                def change(keys, values, size=size):
                    target = keys if generator.random() < 0.5 else values
                    j, i = generator.choice(np.argwhere(target != 0))
                    target[j, i] *= 1 + size

                claim = moved(result, l, h, change)
                found = prove(claim)
                points = claim.domain.sample(3000, seed=2)
                from verify import forward

                error = np.abs(forward(claim.model, claim.prefix, points) - claim.target.evaluate(points)).max()
                assert not (found.proved and error > found.error_upper)
                assert not (found.proved and error > eps)
                proved += found.proved
    assert proved > 0  # changes far below eps do no harm


def test_a_hint_about_another_function_proves_nothing():
    one = compile_prefix(a * b, 1e-2, Box({"a": (1, 2), "b": (1, 2)}), method="circuit")
    other = compile_prefix(a * b + a / 100, 1e-2, Box({"a": (1, 2), "b": (1, 2)}), method="circuit")
    assert not prove(replace(one.claim, circuit=other.claim.circuit)).proved
    assert not prove(replace(one.claim, target=other.claim.target, eps=1e-3)).proved
    wrong = replace(one.claim, target=other.claim.target, circuit=other.claim.circuit, eps=1e-3)
    assert prove(wrong).status is not Status.PROVED


def test_auto_takes_the_shorter_of_head_and_circuit():
    box = Box({"a": (1, 5), "b": (1, 5)})
    auto = compile_prefix(a * b, 1e-6, box)
    circuit = compile_prefix(a * b, 1e-6, box, method="circuit")
    assert auto.length <= circuit.length


def test_refusals():
    with pytest.raises(UndefinedTargetError):
        compile_prefix(a / (b - 1), 1e-2, Box({"a": (0, 1), "b": (0, 2)}), method="circuit")
    with pytest.raises(MethodError, match="one variable"):
        compile_prefix(sp.sin(x), 1e-2, Box({"x": (0, 1)}), method="circuit")
    with pytest.raises(CompileError):
        compile_prefix(a * b * c, 1e-6, Box({s: (1, 5) for s in "abc"}), method="circuit", max_tokens=3)
