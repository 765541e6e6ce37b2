"""Certificates for executions in other float formats, against executions that round at every single operation. No extras needed."""

from dataclasses import replace

import numpy as np
import pytest
import sympy as sp

from constructions import compile_prefix
from constructions.compiled import backbone
from verify import Box, Claim, Prefix, Sequences, Sphere, forward, prove
from verify.format_head import executed_in, rounding_on_domain
from verify.formats import BFLOAT16, FLOAT32, FLOAT64, FloatFormat, FormatError, cast_claim, prove_in_format

X, Y, Z = sp.symbols("x y z")
TWELVE = FloatFormat("twelve bits", 12, 2.0**-126, 2.0**127, 4)
BIN = FloatFormat("half", 11, 2.0**-14, 65504.0, 4)


def executed(claim, points, form):
    """The worst of executions: every product, every partial sum, every exponential rounded to the format, one after another; exp off by
    what is allowed."""

    def r(x):
        return form.cast("x", x)

    model, prefix = claim.model, claim.prefix
    keys, values = prefix.keys[0][0], prefix.values[0][0]
    h = r(r(points) @ model.embedding.T + model.offset)  # copies
    logits = np.zeros((len(points), len(keys)))
    for i in range(keys.shape[1]):
        logits = r(logits + r(h[:, i : i + 1] * keys[:, i]))
    normalised = model.layers[0].heads[0].normalised
    s = r(logits - logits.max(axis=1, keepdims=True)) if normalised else logits
    rng = np.random.default_rng(5)
    p = np.exp(s) * (1 + (form.exp_units - 1) * form.unit * rng.choice([-1, 1], s.shape))
    p = np.where(p < form.smallest_normal, 0, r(p))
    total, mixed = np.zeros((len(points), 1)), np.zeros((len(points), values.shape[1]))
    for j in range(len(keys)):
        total = r(total + p[:, j : j + 1])
        mixed = r(mixed + r(p[:, j : j + 1] * values[j]))
    out = r(mixed / total) if normalised else mixed
    return r(out @ model.readout.T @ np.eye(model.outputs))


def test_casts_are_the_nearest_numbers_of_the_format():
    x = np.random.default_rng(0).normal(size=1000) * 10.0 ** np.random.default_rng(1).integers(-30, 30, 1000)
    assert np.array_equal(FLOAT32.cast("x", x), x.astype(np.float32).astype(np.float64))
    assert np.array_equal(FLOAT64.cast("x", x), x)
    b = BFLOAT16.cast("x", x)
    assert (np.abs(b - x) <= BFLOAT16.unit * np.abs(x)).all()
    assert np.array_equal(BFLOAT16.cast("x", b), b)
    assert not (b.astype(np.float32).view(np.uint32) & 0xFFFF).any()
    assert FLOAT32.cast("x", np.array([1e-40])) == 0
    with pytest.raises(FormatError, match="holds at most"):
        FLOAT32.cast("x", np.array([1e39]))


@pytest.mark.parametrize("form", [FLOAT32, BFLOAT16, TWELVE], ids=lambda f: f.name)
@pytest.mark.parametrize("seed", range(4))
def test_the_bound_holds_for_a_pessimal_execution(form, seed):
    """Random heads with a constant target and an eps that anything meets: both bounds, by boxes and for the whole domain."""
    rng = np.random.default_rng(seed)
    n, tokens = 1 + seed % 2, (3, 8, 20, 5)[seed]
    keys, values = rng.normal(size=(tokens, n + 1)) * (1, 3, 1, 8)[seed], rng.normal(size=(tokens, 1)) + seed
    like = compile_prefix(sp.Integer(0) * X if n == 1 else 0 * X * Y, 1.0, Box([(-1, 1)] * n)).claim
    claim = Claim(backbone(n, 1), Prefix(((keys,),), ((values,),)), like.target, like.domain, 40.0)
    found = prove_in_format(claim, form)
    points = rng.uniform(-1, 1, (4000, n))
    off = np.abs(executed(found.claim, points, form) - forward(found.claim.model, found.claim.prefix, points)).max()
    over_all = rounding_on_domain(found.claim, executed_in(found.claim, form), form)
    assert off <= over_all
    if found.proved:
        assert off <= found.certificate.rounding <= over_all
        assert off > found.certificate.rounding * 1e-4  # not absurdly far
    else:
        assert form is not FLOAT32


def test_float32_at_a_thousandth_and_not_at_a_millionth():
    box = Box([(-1, 1)])
    held = prove_in_format(compile_prefix(sp.sin(3 * X), 1e-3, box).claim, "float32")
    assert held.proved
    assert held.certificate.error_upper <= 1e-3
    assert any("float32 execution" in a for a in held.certificate.assumptions)
    assert not any("float64 execution" in a for a in held.certificate.assumptions)
    points = np.linspace(-1, 1, 5001)[:, None]
    assert np.abs(executed(held.claim, points, FLOAT32) - np.sin(3 * points)).max() <= held.certificate.error_upper
    tight = prove_in_format(compile_prefix(sp.sin(3 * X), 1e-6, box).claim, "float32")
    assert not tight.proved
    assert "float32 rounding is at most" in tight.certificate.reason
    assert "eps is 1e-06" in tight.certificate.reason
    assert tight.real.proved  # the rounded parameters are good enough


def test_bfloat16_holds_a_coarse_function_and_says_what_it_misses():
    c = compile_prefix(sp.sin(X) / 2, 0.3, Box([(-1, 1)]))
    found = prove_in_format(c.claim, BFLOAT16)
    assert found.proved
    points = np.linspace(-1, 1, 2001)[:, None]
    assert np.abs(executed(found.claim, points, BFLOAT16) - np.sin(points) / 2).max() <= found.certificate.error_upper
    refused = prove_in_format(compile_prefix(sp.sin(3 * X), 1e-3, Box([(-1, 1)])).claim, "bfloat16")
    assert "parameters rounded to bfloat16 miss the target by" in refused.certificate.reason


@pytest.mark.parametrize("method", ["split", "core", "classical"])
def test_heads_on_spheres(method):
    f, m = (X * Y + Z, 2) if method == "split" else (X + X * Y, 1)
    c = compile_prefix(f, 0.15, Sphere(m), method=method)
    found = prove_in_format(c.claim, "float32")
    assert found.proved
    points = c.domain.sample(4000)
    if method != "classical":
        off = np.abs(executed(found.claim, points, FLOAT32) - forward(found.claim.model, found.claim.prefix, points))
        assert off.max() <= found.certificate.rounding
    # a point of the format is not on the float64 sphere, and is covered
    assert found.certificate.rounding > FLOAT32.unit


def test_a_class_of_lipschitz_functions():
    c = compile_prefix(lambda t: np.abs(t), 0.05, Box([(-1, 1)]), lipschitz=1.0, method="covering")
    found = prove_in_format(c.claim, "float32")
    assert found.proved
    assert found.certificate.conditional == c.certificate.conditional


def test_circuits():
    box = Box({"x": (0, 1), "y": (1, 2)})
    c = compile_prefix(X * Y / (1 + X**2), 0.05, box, method="circuit")
    found = prove_in_format(c.claim, "float32")
    assert found.proved
    assert found.certificate.error_upper > found.real.error_upper
    large = compile_prefix(X * Y / (1 + X**2), 1e-6, box, method="circuit")
    refused = prove_in_format(large.claim, "float32")
    assert not refused.proved
    assert "float32" in refused.certificate.reason
    # the hint is not believed in this proof either
    wrong = replace(c.claim, target=compile_prefix(X * Y, 0.05, box, method="circuit").claim.target)
    assert not prove_in_format(wrong, "float32").proved


def test_sequences_are_undecided_and_say_so():
    a, b = sp.symbols("x1 x2")
    c = compile_prefix([[a * b], [a + b]], 1e-2, Sequences(2, Box({"x": (0, 1)})), method="two-layer")
    assert prove_in_format(c.claim, "float64").proved
    found = prove_in_format(c.claim, "float32")
    assert not found.proved
    assert "sequences are handled in float64 alone" in found.certificate.reason


def test_hostile_numbers_are_refused_not_proved():
    like = compile_prefix(sp.sin(X), 0.1, Box([(-1, 1)])).claim

    def claim(keys, values):
        prefix = Prefix(((np.array(keys, dtype=float),),), ((np.array(values, dtype=float),),))
        return Claim(backbone(1, 1), prefix, like.target, like.domain, 1e9)

    with pytest.raises(FormatError, match="prefix values of layer 0 head 0"):
        prove_in_format(claim([[0, 0], [1, 0]], [[1e300], [0]]), "float32")
    with pytest.raises(FormatError, match="unknown"):
        prove_in_format(like, "float8")
    # exponents meet the end of the range: logits whose products overflow, sums of values that do
    assert not prove_in_format(claim([[1e38, 3e38], [0, 0]], [[1], [0]]), "float32", max_boxes=500).proved
    assert not prove_in_format(claim([[0, 0], [1, 0]], [[2e38], [2e38]]), "float32", max_boxes=500).proved
    # logits that are only noise in the format
    noisy = prove_in_format(claim([[1e9, 0], [-1e9, 1e9]], [[1], [-1]]), "bfloat16", max_boxes=500)
    assert not noisy.proved or noisy.certificate.rounding >= 2


def test_a_narrow_exponent_counts_what_underflows():
    c = compile_prefix(sp.sin(X), 0.2, Box([(-1, 1)]))
    found = prove_in_format(c.claim, BIN)
    assert not found.proved or found.certificate.rounding > 8 * BIN.smallest_normal


def test_casting_does_not_change_what_is_claimed():
    c = compile_prefix(sp.sin(X), 1e-3, Box([(-1, 1)]))
    cast = cast_claim(c.claim, FLOAT32)
    assert cast.target is c.claim.target
    assert cast.eps == c.claim.eps
    assert np.array_equal(cast.prefix.keys[0][0], c.keys.astype(np.float32))
    assert prove(cast_claim(c.claim, FLOAT64)).error_upper == pytest.approx(c.certificate.error_upper, rel=0.1)
