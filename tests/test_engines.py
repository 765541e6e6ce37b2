"""Every engine computes the same function as the reference, within the rounding that certificates assume."""

from __future__ import annotations

import dataclasses
import math
import threading

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from constructions import engines, fused
from constructions.compiled import backbone
from constructions.engines import ENGINES, available_engines, evaluate
from verify import Head, Layer, ModelError, Prefix, Transformer, forward

U = 2.0**-53
INSTALLED = [name for name in available_engines() if name != "numpy"]


def head_of(slopes: np.ndarray, biases: np.ndarray, values: np.ndarray) -> tuple[Transformer, Prefix]:
    model = backbone(slopes.shape[1], values.shape[1])
    return model, Prefix(((np.column_stack([slopes, biases]),),), ((values,),))


def covering_head(tokens: int) -> tuple[Transformer, Prefix]:
    """One Gaussian key per cell of [-1, 1], as sharp as the covering construction makes it."""
    centres = (np.arange(tokens) + 0.5) * 2 / tokens - 1
    beta = 8 / (2 / tokens) ** 2
    return head_of(2 * beta * centres[:, None], -beta * centres**2, np.sin(3 * centres)[:, None])


def random_head(seed: int, tokens: int, n: int, k: int, scale: float) -> tuple[Transformer, Prefix]:
    rng = np.random.default_rng(seed)
    d, d_k, d_v = rng.integers(1, 5, 3)
    model = Transformer(
        rng.normal(size=(d, n)), rng.normal(size=d),
        (Layer((Head(rng.normal(size=(d_k, d)), rng.normal(size=(3, d_v))),)),),
        rng.normal(size=(k, 3)),
    )  # fmt: skip
    return model, Prefix(((scale * rng.normal(size=(tokens, d_k)),),), ((rng.normal(size=(tokens, d_v)),),))


@pytest.mark.parametrize("engine", ["auto", *INSTALLED])
@given(
    seed=st.integers(0, 2**20),
    tokens=st.integers(1, 70),
    n=st.integers(1, 4),
    k=st.integers(1, 3),
    scale=st.sampled_from([1e-3, 1.0, 30.0]),
    batch=st.sampled_from([0, 1, 2, 77]),
)
def test_any_single_head_agrees_with_the_reference(
    engine: str, seed: int, tokens: int, n: int, k: int, scale: float, batch: int
) -> None:
    model, prefix = random_head(seed, tokens, n, k, scale)
    x = np.random.default_rng(seed).uniform(-1, 1, (batch, n))
    got = evaluate(model, prefix, x, engine)
    assert got.shape == (batch, k)
    want = forward(model, prefix, x) if batch else np.empty((0, k))
    np.testing.assert_allclose(got, want, atol=1e-11 * scale + 1e-12, rtol=0)


@pytest.mark.parametrize("engine", INSTALLED)
def test_engines_agree_on_a_long_sharp_head_in_several_blocks(engine: str) -> None:
    model, prefix = covering_head(1500)
    x = np.random.default_rng(0).uniform(-1, 1, (5000, 1))
    assert np.abs(evaluate(model, prefix, x, engine) - forward(model, prefix, x)).max() < 1e-12


@pytest.mark.parametrize("engine", INSTALLED)
def test_engines_agree_within_the_proved_rounding(engine: str) -> None:
    """Both are within `rounding` of the real function, hence within twice that of one another."""
    from constructions import Box, compile_prefix

    for f, eps in ((lambda x: np.sin(3 * x), 1e-8), (lambda x: np.exp(x), 1e-3)):
        c = compile_prefix(f, eps, Box([(-1, 1)]))
        x = np.linspace(-1, 1, 4001)[:, None]
        apart = np.abs(evaluate(c.model, c.prefix, x, engine) - forward(c.model, c.prefix, x)).max()
        assert apart <= 2 * c.certificate.rounding


def exponentials_inside(engine: str, exponents: np.ndarray) -> np.ndarray:
    """w / (1 - w) for the weight w of the second of two tokens, whose logits are 0 and x: e^x as the engine computes it, and a
    handful of further roundings. Both weights are read, as two outputs."""
    model, prefix = head_of(np.array([[0.0], [1.0]]), np.zeros(2), np.eye(2))
    w = evaluate(model, prefix, exponents[:, None], engine)
    return w[:, 1] / w[:, 0]


@pytest.mark.parametrize("engine", ["numpy", *INSTALLED])
@pytest.mark.parametrize("width", [0.3, 30.0, 700.0])
def test_the_exponential_is_within_the_machine_model(engine: str, width: float) -> None:
    """8 units of round-off for exp, and at most 5 roundings around it: the sum, two quotients of it, and the one taken here."""
    x = -np.random.default_rng(1).uniform(0, width, 1500)
    assert _worst_units(exponentials_inside(engine, x), x) <= 8 + 5


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_library_exponentials_are_within_the_machine_model(name: str) -> None:
    x = -np.random.default_rng(2).uniform(0, 700, 1500)
    e = np.exp(x) if name == "numpy" else pytest.importorskip("torch").from_numpy(x).exp().numpy()
    assert _worst_units(e, x) <= 8


def _worst_units(computed: np.ndarray, x: np.ndarray) -> float:
    with mpmath.workdps(40):
        return (
            max(
                float(abs(mpmath.mpf(float(e)) / mpmath.exp(mpmath.mpf(float(t))) - 1))
                for e, t in zip(computed, x, strict=True)
            )
            / U
        )


def test_the_fused_loop_is_right_without_being_compiled() -> None:
    rng = np.random.default_rng(3)
    queries, keys, values = rng.normal(size=(2, 9)), 3 * rng.normal(size=(7, 2)), rng.normal(size=(7, 3))
    logits = queries.T @ keys.T
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    out = np.empty((3, 9))
    fused.attend(queries, keys, values, out)
    np.testing.assert_allclose(out.T, weights @ values / weights.sum(axis=1, keepdims=True), rtol=0, atol=1e-14)


@pytest.mark.parametrize("engine", INSTALLED)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e308])
def test_points_whose_logits_overflow_are_treated_as_the_reference_treats_them(engine: str, bad: float) -> None:
    model, prefix = covering_head(5)
    x = np.array([[0.1], [bad], [0.2]])
    with np.errstate(all="ignore"):
        want = forward(model, prefix, x)
        got = evaluate(model, prefix, x, engine)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-13)
    assert np.isfinite(got[[0, 2]]).all()


@pytest.mark.parametrize("engine", INSTALLED)
def test_weights_that_underflow_vanish(engine: str) -> None:
    model, prefix = head_of(np.array([[0.0], [1e6]]), np.zeros(2), np.array([[1.0], [5.0]]))
    assert evaluate(model, prefix, np.array([[-1.0], [1.0]]), engine).ravel().tolist() == [1.0, 5.0]


@pytest.mark.parametrize("engine", ["auto", *INSTALLED])
def test_other_models_run_on_the_reference(engine: str) -> None:
    rng = np.random.default_rng(4)
    e = np.eye(2)
    two_heads = Transformer(e, np.zeros(2), (Layer((Head(e, e), Head(e, e))),), e)
    twice = Prefix(
        ((rng.normal(size=(3, 2)), rng.normal(size=(4, 2))),), ((rng.normal(size=(3, 2)), rng.normal(size=(4, 2))),)
    )
    once = Prefix((twice.keys[0][:1],), (twice.values[0][:1],))
    residual = Transformer(e, np.zeros(2), (Layer((Head(e, e),), residual=True),), e)
    with_data = Transformer(e, np.zeros(2), (Layer((Head(e, e, e, e),)),), e)
    two_layers = Transformer(e, np.zeros(2), (Layer((Head(e, e),)), Layer((Head(e, e),))), e)
    deep = Prefix(once.keys * 2, once.values * 2)
    x = rng.normal(size=(6, 2))
    for model, prefix in ((two_heads, twice), (residual, once), (with_data, once), (two_layers, deep)):
        np.testing.assert_array_equal(evaluate(model, prefix, x, engine), forward(model, prefix, x))


def test_numpy_is_the_reference_itself() -> None:
    model, prefix = covering_head(40)
    x = np.linspace(-1, 1, 50)[:, None]
    np.testing.assert_array_equal(evaluate(model, prefix, x, "numpy"), forward(model, prefix, x))
    assert available_engines()[-1] == "numpy"


def test_small_work_starts_no_engine() -> None:
    assert engines._automatic(1000).name == "numpy"


def test_an_unknown_engine_is_refused_with_the_known_ones() -> None:
    model, prefix = covering_head(3)
    with pytest.raises(ValueError, match=r"'jax' is unknown.*auto, numba, torch, numpy"):
        evaluate(model, prefix, np.zeros((1, 1)), "jax")


def test_a_missing_engine_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = dataclasses.replace(ENGINES[0], name="numba", package="no_such_package_here", ready=lambda: False)
    monkeypatch.setattr(engines, "ENGINES", (missing, *(e for e in ENGINES if e.package is None)))
    model, prefix = covering_head(3)
    with pytest.raises(ValueError, match=r"pip install 'prefix-compiler\[no_such_package_here\]'"):
        evaluate(model, prefix, np.zeros((1, 1)), "numba")
    assert available_engines() == ("numpy",)
    assert engines._automatic(2**60).name == "numpy"


def test_shapes_are_checked() -> None:
    model, prefix = covering_head(3)
    for shape in ((4,), (4, 2), (4, 1, 1)):
        with pytest.raises(ModelError, match="x: shape"):
            evaluate(model, prefix, np.zeros(shape))


@pytest.mark.parametrize("engine", INSTALLED)
def test_engines_may_be_called_from_several_threads(engine: str) -> None:
    model, prefix = covering_head(64)
    x = np.random.default_rng(5).uniform(-1, 1, (3000, 1))
    want = forward(model, prefix, x)
    apart: list[float] = []
    workers = [
        threading.Thread(target=lambda: apart.append(float(np.abs(evaluate(model, prefix, x, engine) - want).max())))
        for _ in range(4)
    ]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert len(apart) == 4 and max(apart) < 1e-12  # noqa: PT018
