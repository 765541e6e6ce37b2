"""Circuits compiled for float32: proved in it, and executions in it (PyTorch's, and one that rounds as badly as it may) within the proved bound."""

from dataclasses import replace

import mpmath
import numpy as np
import pytest
import sympy as sp

from constructions import compile_prefix
from constructions.circuits.allocate import allocate
from constructions.circuits.arithmetic import FLOAT64, arithmetic_of
from constructions.circuits.free_keys import softmax
from constructions.circuits.head_cache import load
from constructions.circuits.library import heads_for
from constructions.circuits.products import product_heads
from constructions.circuits.rungs import Rung, measure
from constructions.errors import CompileError, EpsilonError, NotProvedError
from verify import Box, ExpressionTarget, Prefix, Sequences, forward
from verify.format_arithmetic import FLOAT32, FloatFormat
from verify.formats import prove_in_format

X, Y, W, A, B = sp.symbols("x y w x1 x2")
SIXTEEN = FloatFormat("sixteen bits", 16, 2.0**-126, 2.0**127, 4)
SINGLE = arithmetic_of(FLOAT32)
BOX = Box({"x": (0.5, 2), "y": (1, 3), "w": (-1, 1)})
FORMULAS = {
    "quotient": X * Y / (1 + X**2),
    "gaussian": sp.exp(-(X**2) / 2) * Y,
    "three layers": sp.sqrt(X**2 + Y**2 + sp.exp(W)),
    "sum of angles": X * sp.sin(Y + W),
}


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    """All tests of the module share one folder of heads, which is not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFIXC_CACHE", str(tmp_path_factory.mktemp("heads")))
        yield


def box_of(f):
    return Box(
        {n: (lo, hi) for n, lo, hi in zip(BOX.names or (), *BOX.bounds, strict=True) if sp.Symbol(n) in f.free_symbols}
    )


@pytest.fixture(scope="module")
def compiled(own_cache):
    """Each formula for float32 at 1e-3, once."""
    return {name: compile_prefix(f, 1e-3, box_of(f), method="circuit", dtype="float32") for name, f in FORMULAS.items()}


def exact(f, names, points):
    """The formula at the points with 50 digits, rounded to float64 at the end."""
    run = sp.lambdify([sp.Symbol(n) for n in names], f, "mpmath")
    with mpmath.workdps(50):
        return np.array([[float(run(*map(mpmath.mpf, map(float, p))))] for p in points])


def target(claim, points):
    """What should come out, in float64."""
    assert isinstance(claim.target, ExpressionTarget)
    return claim.target.evaluate(points)


def executed(claim, points, form, seed=5):
    """A bad execution: every product, partial sum, exponential and quotient rounded to the format, terms in a random order, exp off by what
    is allowed with random signs. points: (count, n), or sequences (count, T, n)."""
    rng = np.random.default_rng(seed)

    def r(x):
        return form.cast("x", x)

    def product(x, matrix):  # x (..., i) times matrix (..., j, i)
        out = np.zeros((*x.shape[:-1], matrix.shape[-2]))
        for i in rng.permutation(x.shape[-1]):
            out = r(out + r(x[..., i, None] * matrix[..., i]))
        return out

    model, prefix = claim.model, claim.prefix
    x = points if points.ndim == 3 else points[:, None]
    h = r(r(x) @ model.embedding.T + model.offset)  # copies
    if model.positions is not None:
        h = h + model.positions[: x.shape[1]]
    for layer, keys, values in zip(model.layers, prefix.keys, prefix.values, strict=True):
        added = np.zeros_like(h)
        for head, k, v in zip(layer.heads, keys, values, strict=True):
            k, v = np.broadcast_to(k, (len(x), *k.shape)), np.broadcast_to(v, (len(x), *v.shape))
            if head.attends_to_data:
                k = np.concatenate([k, product(h, head.key)], axis=1)
                v = np.concatenate([v, product(h, head.value)], axis=1)
            s = product(product(h, head.query), k[:, None])
            s = r(s - s.max(axis=-1, keepdims=True))
            p = np.exp(s) * (1 + (form.exp_units - 1) * form.unit * rng.choice([-1, 1], s.shape))
            p = np.where(p < form.smallest_normal, 0, r(p))
            total, mixed = np.zeros((*s.shape[:-1], 1)), np.zeros((*s.shape[:-1], v.shape[-1]))
            for j in rng.permutation(s.shape[-1]):
                total, mixed = r(total + p[..., j, None]), r(mixed + r(p[..., j, None] * v[:, None, j]))
            added = r(added + product(r(mixed * r(1 / total)), head.output))
        assert layer.residual
        h = r(h + added)
    return (h @ model.readout.T).reshape(len(points), -1)


@pytest.mark.parametrize("name", FORMULAS)
def test_compiled_for_float32_is_proved_in_float32(compiled, name):
    c, f = compiled[name], FORMULAS[name]
    assert c.certificate.proved
    assert any("float64 execution" in a for a in c.certificate.assumptions)
    for layer in (*c.prefix.keys, *c.prefix.values):
        assert all(np.array_equal(a, a.astype(np.float32)) for a in layer)
    found = prove_in_format(c.claim, "float32")
    assert found.proved
    assert c.certificate.error_lower <= found.certificate.error_upper <= 1e-3
    points = c.domain.sample(3000, seed=1)
    wanted = target(c, points)
    assert np.abs(exact(f, c.domain.names, points[:60]) - wanted[:60]).max() < 1e-12
    for seed in range(3):
        assert np.abs(executed(c.claim, points, FLOAT32, seed) - wanted).max() <= found.certificate.error_upper


@pytest.mark.parametrize("name", FORMULAS)
def test_torch_in_float32_is_within_the_bound(compiled, name):
    torch = pytest.importorskip("torch")
    c, f = compiled[name], FORMULAS[name]
    module = c.to_torch("float32")
    points = np.clip(c.domain.sample(20_000, seed=2), *c.domain.bounds)
    with torch.no_grad():
        out = module(torch.tensor(points, dtype=torch.float32)).double().numpy()
    off = np.abs(out - target(c, points)).max(axis=1)
    assert off.max() <= module.certificate.error_upper
    worst = np.argsort(off)[-50:]  # the oracle where it is nearest to the bound
    assert np.abs(out[worst] - exact(f, c.domain.names, points[worst])).max() <= module.certificate.error_upper


@pytest.mark.parametrize("seed", range(3))
def test_the_bound_holds_where_rounding_is_all_there_is(compiled, seed):
    """Sixteen bits and exponentials off by what is allowed, for an eps that is met easily: what a bad execution adds stays below the bound
    and is not absurdly far from it."""
    claim = replace(compiled["three layers"].claim, eps=10.0)
    found = prove_in_format(claim, SIXTEEN)
    assert found.proved
    points = claim.domain.sample(3000, seed=seed)
    off = np.abs(executed(found.claim, points, SIXTEEN, seed) - target(claim, points)).max()
    assert 1e-3 * found.certificate.error_upper < off <= found.certificate.error_upper


def test_large_values_with_small_weights_are_no_matter():
    """exp(z) from two tokens, values up to 1/w: the mean of |v| counts, not its maximum."""
    c = compile_prefix(sp.exp(X * Y), 2e-2, Box({"x": (-1, 1), "y": (-1, 1)}), method="circuit", dtype="float32")
    big = max(np.abs(v).max() for v in c.prefix.values[-1])
    assert big * FLOAT32.unit * 20 > 1e-3
    found = prove_in_format(c.claim, "float32")
    assert found.certificate.error_upper < 2e-2
    points = c.domain.sample(4000)
    assert np.abs(executed(c.claim, points, FLOAT32) - target(c, points)).max() <= found.certificate.error_upper


TURNING = [[A * B + 1], [A * B + 1]]
MIXED = [[A * B], [sp.exp(A - B)]]


@pytest.mark.parametrize(("f", "gathers"), [(TURNING, "turned"), (MIXED, "in order")], ids=["turned", "gated"])
def test_sequences_in_float32(f, gathers):
    c = compile_prefix(f, 1e-3, Sequences(2, Box({"x": (-1, 1)})), dtype="float32")
    assert c.certificate.proved
    assert c.method == "circuit"
    assert c.grid["gathers"] == gathers
    found = prove_in_format(c.claim, "float32")
    assert found.proved
    sequences = c.domain.sample(2000, seed=1)
    wanted = target(c, sequences.reshape(2000, -1))
    assert np.abs(executed(c.claim, sequences, FLOAT32) - wanted).max() <= found.certificate.error_upper
    coarse = prove_in_format(replace(c.claim, eps=2.0), SIXTEEN)
    assert coarse.proved
    for seed in range(2):
        off = np.abs(executed(coarse.claim, sequences, SIXTEEN, seed) - wanted).max()
        assert 1e-3 * coarse.certificate.error_upper < off <= coarse.certificate.error_upper


def test_sequences_in_torch():
    torch = pytest.importorskip("torch")
    c = compile_prefix(MIXED, 1e-3, Sequences(2, Box({"x": (-1, 1)})), dtype=torch.float32)
    module = c.to_torch(torch.float32)
    sequences = c.domain.sample(10_000, seed=2)
    with torch.no_grad():
        out = module(torch.tensor(sequences, dtype=torch.float32)).double().numpy()
    assert (
        np.abs(out.reshape(len(out), -1) - target(c, sequences.reshape(len(out), -1))).max()
        <= module.certificate.error_upper
    )


def test_a_layer_that_does_more_than_gather_is_not_proved_in_float32():
    c = compile_prefix(TURNING, 1e-3, Sequences(2, Box({"x": (-1, 1)})), dtype="float32")
    values = ((np.full_like(c.prefix.values[0][0], 2.0**-120), *c.prefix.values[0][1:]), *c.prefix.values[1:])
    found = prove_in_format(replace(c.claim, prefix=Prefix(c.prefix.keys, values)), "float32")
    assert found.real.proved
    assert "does more than gather" in found.certificate.reason


def test_a_tampered_prefix_is_not_proved(compiled):
    c = compiled["quotient"]
    values = [[v.copy() for v in layer] for layer in c.prefix.values]
    values[-1][0] = values[-1][0] * np.float64(np.float32(1.01))
    worse = Prefix(c.prefix.keys, tuple(tuple(layer) for layer in values))
    assert not prove_in_format(replace(c.claim, prefix=worse), "float32").proved


def test_one_variable_and_vectors_for_float32():
    f = sp.exp(X) * sp.sin(8 * X)
    c = compile_prefix(f, 1e-3, Box({"x": (0, 2)}), dtype=np.float32)
    found = prove_in_format(c.claim, "float32")
    assert found.proved
    assert c.length <= 10
    points = c.domain.sample(4000)
    out = forward(found.claim.model, found.claim.prefix, points)
    assert np.abs(out - target(c, points)).max() <= found.real.error_upper
    pair = compile_prefix([X * Y, X - Y], 1e-3, Box({"x": (0, 1), "y": (1, 2)}), method="circuit", dtype="float32")
    assert prove_in_format(pair.claim, "float32").proved


def test_float64_is_what_it_was():
    """The estimates, the charges and the names of stored heads of float64 do not know of other formats."""
    rng = np.random.default_rng(0)
    points, slopes, biases, values = (
        rng.normal(size=(50, 2)),
        rng.normal(size=(6, 2)),
        rng.normal(size=6),
        rng.normal(size=6),
    )
    weights = softmax(points, slopes, biases)
    outputs = weights @ values
    products = np.abs(points) @ np.abs(slopes).T
    sizes = weights * np.abs(values - outputs[:, None]) * (2.0 + np.abs(points @ slopes.T + biases) + products)
    error, rounding = measure(points, np.zeros(50), slopes, biases, values)
    assert error == np.abs(outputs).max()
    assert rounding == 2.0**-53 * float(sizes.sum(axis=1).max())
    assert Rung(slopes, biases, values, np.zeros(2), 3e-4, 1e-9).tolerance == max(3e-4 / 0.97, 1e-9 / 0.02)
    assert FLOAT64.ridge == 8.0 * 2.0**-53 / 0.02
    assert FLOAT64.key("full exp(t)") == "full exp(t)"
    box = Box({"x": (0, 1), "y": (1, 2)})
    a, b = (
        compile_prefix(X * Y, 1e-3, box, method="circuit"),
        compile_prefix(X * Y, 1e-3, box, method="circuit", dtype="float64"),
    )
    for mine, other in zip((*a.prefix.keys, *a.prefix.values), (*b.prefix.keys, *b.prefix.values), strict=True):
        assert all(np.array_equal(p, q) for p, q in zip(mine, other, strict=True))
    assert a.certificate == b.certificate


def test_heads_of_one_format_are_not_taken_for_another(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFIXC_CACHE", str(tmp_path))
    z = sp.Symbol("z")
    single = heads_for(z**2, 1, 3, arithmetic=SINGLE).rungs.rung(4)
    mine = {p.name for p in tmp_path.iterdir()}
    double = heads_for(z**2, 1, 3).rungs.rung(4)
    assert len({p.name for p in tmp_path.iterdir()}) == 2 * len(mine) > 0
    assert single.arithmetic == SINGLE
    assert double.arithmetic == FLOAT64
    assert np.abs(single.values).max() < 1e-2 * np.abs(double.values).max()  # what the format is for
    fresh = load(tmp_path, SINGLE.key(heads_for(z**2, 1, 3).problem.key), 4, 1, SINGLE)
    assert fresh is not None
    assert fresh.tolerance == single.tolerance > double.tolerance


def test_ladders_of_a_format_count_its_rounding():
    box = np.array([0.0, 1.0]), np.array([1.0, 2.0])
    ladder = product_heads(*box, arithmetic=SINGLE)
    for tokens in (4, 5, 6):
        reached = ladder.error(tokens)
        head = ladder.head(reached)
        assert head is not None
        assert head.tokens <= tokens
        assert head.error + head.rounding <= reached
        assert head.rounding > 10 * FLOAT32.unit
    assert ladder.error(6) > ladder.least
    assert product_heads(*box).error(6) < ladder.error(6)
    # what no rung can reach is not looked for
    assert allocate([ladder], [1.0], 0.5 * ladder.least) is None


@pytest.mark.parametrize(
    ("f", "eps", "most"),
    [(X * Y, 1e-6, 1e-3), (sp.sqrt((X - 1) ** 2 + (Y - 2) ** 2), 1e-3, 2.0), (1000 * X * Y, 1e-4, 1.0)],
)
def test_what_float32_does_not_hold_is_refused_with_numbers(f, eps, most):
    with pytest.raises(EpsilonError, match="out of reach in float32") as caught:
        compile_prefix(f, eps, box_of(f), method="circuit", dtype="float32", time_limit=60)
    assert caught.value.form == "float32"
    assert caught.value.reachable is not None
    assert eps < caught.value.reachable < most
    assert "dtype='float64'" in str(caught.value)


def test_the_number_in_a_refusal_can_be_had():
    with pytest.raises(EpsilonError) as caught:
        compile_prefix(X * Y, 1e-6, box_of(X * Y), method="circuit", dtype="float32")
    reachable = caught.value.reachable
    assert reachable is not None
    assert compile_prefix(X * Y, 2 * reachable, box_of(X * Y), method="circuit", dtype="float32").certificate.proved


def test_refusals_of_formats():
    with pytest.raises(CompileError, match="float16"):
        compile_prefix(X * Y, 1e-3, box_of(X * Y), dtype="float16")
    with pytest.raises(CompileError, match="is proved in float64 alone"):
        compile_prefix([[A]], 1e-2, Sequences(1, Box({"x": (0, 1)})), dtype="float32", method="two-layer")
    with pytest.raises((EpsilonError, NotProvedError), match="bfloat16"):
        compile_prefix(X * Y, 1e-3, box_of(X * Y), dtype="bfloat16", method="circuit")
