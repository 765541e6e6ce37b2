"""Core, split and classical heads on S^m: how many tokens, within what error, and what the pretrained head computes."""

from math import ceil, inf, pi

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from constructions.errors import CompileError
from constructions.petrov2024.classical import (
    TooManyOutputsError,
    embedding,
    model,
    prefix_of,
    prefix_tokens,
    pretrained,
    propose_classical,
)
from constructions.petrov2024.core import favard_core, paper_core, propose_core
from constructions.petrov2024.deconvolution import aliasing, circle_points, equispaced_angles, favard_multipliers
from constructions.petrov2024.nets import fewest_points
from constructions.petrov2024.sphere import golden_spiral
from constructions.petrov2024.split import propose_split
from verify import forward
from verify.sphere_net import angular_spread, data_share


def coordinates(function):
    """A function of ambient coordinates as (P, n) -> (P, k); a tuple is several outputs."""

    def evaluate(points):
        out = function(*points.T)
        return np.stack(out, axis=1) if isinstance(out, tuple) else out[:, None]

    return evaluate


def angle_to(point, lipschitz=1.0):
    """lipschitz * (angle to a point - pi/2): the extremal Lipschitz functions."""
    unit = np.asarray(point) / np.linalg.norm(point)
    return lambda p: lipschitz * (np.arccos(np.clip(p @ unit, -1, 1)) - pi / 2)[:, None]


def first(proposals):
    return next(iter(proposals))


def output(p, points, data_tokens=0):
    """What the proposal's head computes, written out."""
    logits = points @ p.slopes.T + p.biases
    if p.method == "core":
        return np.exp(logits) @ p.values
    top = logits.max(axis=1, keepdims=True)
    table = np.exp(logits - top)
    return table @ p.values / (table.sum(axis=1, keepdims=True) + data_tokens * np.exp(-top))


def random_points(m, count, seed=0):
    x = np.random.default_rng(seed).normal(size=(count, m + 1))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def fourier_length(f, eps):
    """2n + 1 for the least n whose truncated Fourier series is within eps."""
    many = 2048
    values = f(circle_points(equispaced_angles(many)))
    harmonics = np.fft.fft(values, axis=0)
    orders = np.abs(np.fft.fftfreq(many, 1 / many))
    for n in range(many // 2):
        if np.abs(np.fft.ifft(harmonics * (orders <= n)[:, None], axis=0).real - values).max() <= eps:
            return 2 * n + 1
    raise AssertionError


CIRCLE = {
    "exp(x) sin(3y)": coordinates(lambda x, y: np.exp(x) * np.sin(3 * y)),
    "cos 5t": coordinates(lambda x, y: 16 * x**5 - 20 * x**3 + 5 * x),
    "1/(1.2 - x)": coordinates(lambda x, y: 1 / (1.2 - x)),
    "tanh(3x + y)": coordinates(lambda x, y: np.tanh(3 * x + y)),
    "exp(x), xy": coordinates(lambda x, y: (np.exp(x), x * y)),
}


@pytest.mark.parametrize("method", ["core", "split"])
@pytest.mark.parametrize("name", CIRCLE)
def test_smooth_circle_targets_need_at_most_their_fourier_length(name, method):
    f, eps = CIRCLE[name], 1e-9
    p = first(propose(method, f, 1, eps))
    assert p.length <= fourier_length(f, eps)
    x = random_points(1, 5_000)
    assert np.abs(output(p, x) - f(x)).max() <= 0.95 * eps
    assert p.grid["rounding"] <= 0.1 * eps


def propose(method, f, m, eps, **options):
    if method == "core":
        return propose_core(f, m, eps, max_tokens=2000)
    shared = {"lipschitz": None, "smooth": True, "max_tokens": 2000, **options}
    if method == "split":
        return propose_split(f, m, eps, **shared)
    return propose_classical(f, m, eps, **{"sequence_length": 1, **shared})


@pytest.mark.parametrize("name", ["exp(x) sin(3y)", "1/(1.2 - x)", "tanh(3x + y)"])
def test_classical_circle_targets_hold_for_every_length(name):
    f, eps = CIRCLE[name], 1e-9
    p = first(propose("classical", f, 1, eps, sequence_length=64))
    assert p.length <= 1.5 * fourier_length(f, eps)
    assert not p.biases.any()
    x = random_points(1, 5_000)
    for data_tokens in (1, 2, 31, 64):
        assert np.abs(output(p, x, data_tokens) - f(x)).max() <= 0.95 * eps


def test_a_symmetric_target_uses_its_symmetry():
    """Ten keys on the extremes of cos 5t, with alternating values: the harmonics left are 15, 25, ..."""
    f = CIRCLE["cos 5t"]
    assert first(propose("split", f, 1, 1e-9)).length == 10
    turned = coordinates(lambda x, y: np.cos(5 * np.arctan2(y, x) + 0.3))
    assert first(propose("core", turned, 1, 1e-9)).length == 10


@pytest.mark.parametrize("method", ["core", "split", "classical"])
@pytest.mark.parametrize(
    ("f", "eps", "degree"),
    [
        (coordinates(lambda x, y, z: np.exp(x) * np.sin(3 * y + z)), 1e-3, 9),
        (coordinates(lambda x, y, z: 1 / (1.5 - x)), 1e-2, 6),
        (coordinates(lambda x, y, z: (np.cos(4 * x) + y * z, np.sin(x + 2 * z))), 1e-2, 8),
    ],
)
def test_smooth_sphere_targets_need_about_as_many_tokens_as_harmonics(f, eps, degree, method):
    """degree: the least whose truncated series of spherical harmonics is within eps."""
    p = first(propose(method, f, 2, eps, sequence_length=16) if method == "classical" else propose(method, f, 2, eps))
    assert p.length <= (1.4 if method == "classical" else 1.1) * (degree + 1) ** 2
    x = golden_spiral(20_000, 0.9)
    for data_tokens in (1, 16) if method == "classical" else (0,):
        assert np.abs(output(p, x, data_tokens) - f(x)).max() <= 0.95 * eps


@settings(max_examples=30)
@given(
    lipschitz=st.floats(0.3, 5.0),
    eps=st.floats(0.05, 2.0),
    length=st.sampled_from([0, 1, 64]),
    phi=st.floats(0, 2 * pi),
)
def test_the_circle_needs_its_covering_number(lipschitz, eps, length, phi):
    f = angle_to([np.cos(phi), np.sin(phi)], lipschitz)
    options = {"lipschitz": lipschitz, "smooth": False, "max_tokens": 1000}
    if length:
        p = first(propose_classical(f, 1, eps, sequence_length=length, **options))
    else:
        p = first(propose_split(f, 1, eps, **options))
    covering = ceil(pi * lipschitz / eps)
    least = (3 if eps / lipschitz > pi / 2 else covering) if length else covering
    assert p.length in (least, least + 1)
    assert within(p, lipschitz, eps, length)


def within(p, lipschitz, eps, length):
    """The kernel's covering bound, for the radius the net claims."""
    radius, lam = p.grid["covering radius"], p.grid["sharpness"]
    if p.length == 1:
        return lipschitz * pi <= eps
    residual = 1e-15 * lam
    spread = angular_spread(p.slopes, lam, radius, residual)
    size = np.abs(p.values).max() + lipschitz * radius
    return lipschitz * (radius + spread) + size * data_share(lam, radius, length, residual) <= eps


def test_the_example_of_eight_tokens():
    f = angle_to([1.0, 0.0], 3.0)
    for length in (1, 16, 64):
        p = first(propose_classical(f, 1, 1.2, lipschitz=3.0, smooth=False, sequence_length=length, max_tokens=100))
        assert p.length == 8 == ceil(pi * 3 / 1.2)
        x = random_points(1, 4000)
        for data_tokens in range(1, length + 1, 7):
            assert np.abs(output(p, x, data_tokens) - f(x)).max() <= 1.2


def test_the_sphere_needs_no_more_than_522_tokens():
    f = angle_to([0.0, 0.6, 0.8])
    p = first(propose_split(f, 2, 0.1, lipschitz=1.0, smooth=False, max_tokens=2000))
    assert fewest_points(2, 0.1) <= p.length <= 522
    assert within(p, 1.0, 0.1, 0)
    x = golden_spiral(20_000)
    assert np.abs(output(p, x) - f(x)).max() <= 0.1
    assert np.array_equal(p.values, f(p.grid["keys"]))


def test_three_dimensions_have_nets_only():
    f = angle_to(np.ones(4))
    assert list(propose_core(f, 3, 0.9, max_tokens=1000)) == []
    p = first(propose_split(f, 3, 0.9, lipschitz=1.0, smooth=True, max_tokens=5000))
    assert within(p, 1.0, 0.9, 0)


def test_a_nearly_constant_function_is_one_token():
    f = angle_to([1.0, 0.0, 0.0], 0.01)
    assert first(propose_split(f, 2, 0.1, lipschitz=0.01, smooth=False, max_tokens=10)).length == 1
    p = first(propose_classical(f, 2, 0.1, lipschitz=0.01, smooth=False, sequence_length=5, max_tokens=10))
    assert p.length == 4


def test_too_few_tokens_or_too_little_time_give_nothing():
    f = angle_to([1.0, 0.0])
    options = {"lipschitz": 1.0, "smooth": True}
    assert list(propose_split(f, 1, 0.01, max_tokens=5, **options)) == []
    assert list(propose_core(CIRCLE["1/(1.2 - x)"], 1, 1e-9, max_tokens=400, deadline=-inf)) == []


# --- the pretrained head


@pytest.mark.parametrize("m", [1, 2, 3])
def test_one_object_serves_every_target_and_length(m):
    layer = pretrained(m)
    assert pretrained(m) is layer
    assert model(m, 1).layers[0] is layer
    assert model(m, m + 1).layers[0] is layer
    (head,) = layer.heads
    assert head.query.shape == head.key.shape == head.value.shape == (m + 1, 3 * (m + 1))
    assert embedding(m).shape == (3 * (m + 1), m + 1)
    for matrix in (head.query, head.key, head.value, head.output):
        assert np.isin(matrix, (0.0, 1.0)).all()


@settings(max_examples=30)
@given(length=st.integers(1, 64), seed=st.integers(0, 1000), outputs=st.integers(1, 3))
def test_the_forward_pass_is_the_formula_and_ignores_order(length, seed, outputs):
    rng = np.random.default_rng(seed)
    keys, values = 6.0 * random_points(2, 20, seed), rng.normal(size=(20, outputs))
    transformer, prefix = model(2, outputs), prefix_of(prefix_tokens(keys, values, 2), 2)
    x = random_points(2, length, seed + 1)
    table = np.exp(x @ keys.T)
    expected = table @ values / (length + table.sum(axis=1, keepdims=True))
    got = forward(transformer, prefix, x[None])[0]
    assert np.allclose(got, expected, rtol=0, atol=1e-13)
    order = rng.permutation(length)
    assert np.allclose(forward(transformer, prefix, x[order][None])[0], got[order], rtol=0, atol=1e-14)


def test_a_proposal_runs_in_the_pretrained_head():
    f = angle_to([1.0, 0.0], 3.0)
    p = first(propose_classical(f, 1, 1.2, lipschitz=3.0, smooth=False, sequence_length=64, max_tokens=100))
    tokens = prefix_tokens(p.slopes, p.values, 1)
    assert tokens.shape == (8, 6)
    for length in range(1, 65):
        x = random_points(1, length, length)
        got = forward(model(1, 1), prefix_of(tokens, 1), x[None])[0]
        assert np.abs(got - f(x)).max() <= 1.2
        assert np.allclose(got, output(p, x, length), atol=1e-11)


def test_more_outputs_than_coordinates_are_refused():
    f = lambda p: np.tile(p[:, :1], (1, 3))  # noqa: E731
    with pytest.raises(TooManyOutputsError, match=r"3 outputs.*hidden size 6") as caught:
        list(propose_classical(f, 1, 0.1, lipschitz=1.0, smooth=False, sequence_length=1, max_tokens=100))
    assert isinstance(caught.value, CompileError)
    assert (caught.value.outputs, caught.value.most) == (3, 2)
    with pytest.raises(TooManyOutputsError):
        model(1, 3)
    with pytest.raises(ValueError, match="sequence_length = 0"):
        list(propose_classical(f, 2, 0.1, lipschitz=1.0, smooth=False, sequence_length=0, max_tokens=100))


# --- the core head


@pytest.mark.parametrize("n", [4, 8, 16, 32])
def test_favard_multipliers_keep_their_bound(n):
    """(pi/2) L / n for angles to points, their minima and a zigzag; aliasing is negligible at N = 3n, lambda = n^2/8."""
    tokens, lam = 3 * n, n * n / 8
    zigzag = coordinates(lambda x, y: np.arcsin(np.sin(n * np.arctan2(y, x))) / n)
    targets = [angle_to([1.0, 0.0]), angle_to([0.3, 0.8]), zigzag]
    targets.append(lambda p: np.minimum(angle_to([1.0, 0.0])(p), angle_to([-0.4, 0.9])(p)))
    x = random_points(1, 5000)
    bound = pi / (2 * n)
    for f in targets:
        p = favard_core(f, n, tokens, lam)
        assert (p.slopes @ p.grid["keys"][0]).max() + p.biases.max() <= 1e-9
        assert np.abs(output(p, x) - f(x)).max() <= bound * (1 + 1e-3) + pi * aliasing(n - 1, tokens, lam)
    # a zigzag of n periods is orthogonal to all degrees below n: the bound is attained
    p = favard_core(zigzag, n, tokens, lam)
    assert np.abs(output(p, x) - zigzag(x)).max() >= 0.99 * bound


def test_favard_multipliers_are_what_they_should_be():
    mu = favard_multipliers(4)
    assert mu[0] == 1
    assert np.allclose(mu[1:], [j * pi / 8 / np.tan(j * pi / 8) for j in (1, 2, 3)])
    with pytest.raises(ValueError, match="N >= 2n - 1 keys"):
        favard_core(angle_to([1.0, 0.0]), 8, 14, 1.0)


@pytest.mark.parametrize(("m", "eps"), [(1, 0.3), (2, 0.9)])
def test_the_papers_own_route_keeps_its_bound(m, eps):
    f = angle_to(np.eye(m + 1)[0])
    p = paper_core(f, 1.0, pi / 2, m, eps)
    assert p is not None
    assert p.terms[0].value <= eps
    x = random_points(m, 2000)
    assert np.abs(output(p, x) - f(x)).max() <= eps
    assert paper_core(f, 1.0, pi / 2, m, eps, max_tokens=10) is None
