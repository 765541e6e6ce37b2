"""compile_prefix on spheres: lengths, proofs, sequences, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sympy as sp

from constructions.compile import compile_prefix
from constructions.compiled import load
from constructions.errors import (
    CompileError,
    DomainError,
    LipschitzError,
    MethodError,
    TooLongError,
    UndefinedTargetError,
)
from constructions.petrov2024.classical import pretrained
from verify import Sphere, SphereError, Status, check

x, y, z = sp.symbols("x y z")
HEADS = ("split", "core", "classical")


class Angle:
    """scale * (angle to a fixed point): Lipschitz with constant `scale`, opaque to tracing."""

    def __init__(self, m: int, scale: float = 1.0) -> None:
        e = np.array([0.3, 0.5, 0.81, 0.2])[: m + 1]
        self.e, self.scale = e / np.linalg.norm(e), scale

    def __call__(self, points: np.ndarray) -> np.ndarray:
        flat = [self.scale * math.acos(max(-1.0, min(1.0, float(p @ self.e)))) for p in np.asarray(points, dtype=float)]
        return np.array(flat)


def test_the_classical_head_on_the_circle_needs_the_covering_number():
    """L = 3, eps = 1.2: ceil(pi L / eps) = 8 tokens beside any 1 to 64 data tokens."""
    c = compile_prefix(Angle(1, 3.0), 1.2, Sphere(1), lipschitz=3, method="classical", sequence_length=64)
    assert c.length == math.ceil(math.pi * 3 / 1.2) == 8
    assert c.certificate.proved
    assert c.certificate.conditional
    assert c.certificate.route.startswith("a priori")
    for length in (1, 2, 7, 64):
        points = c.domain.sample(length, seed=length)
        error = np.abs(c.sequences(points)[:, 0] - Angle(1, 3.0)(points))
        assert error.max() <= c.certificate.error_upper


def test_a_black_box_on_the_sphere_needs_hardly_more_than_the_thinnest_covering():
    """S^2, L = 1, eps = 0.1: at most 1.15 times 4.84 (L/eps)^2; never more than the theorem promises."""
    c = compile_prefix(Angle(2), 0.1, Sphere(2), lipschitz=1)
    assert c.length <= 1.15 * 484
    assert c.certificate.proved
    assert c.theorem is not None
    assert c.length <= c.theorem.tokens()
    points = c.domain.sample(3000)
    assert np.abs(c(points)[:, 0] - Angle(2)(points)).max() <= c.certificate.error_upper


@pytest.mark.parametrize("method", HEADS)
@pytest.mark.parametrize("f", [sp.exp(x) * sp.sin(3 * y), 1 / (sp.Rational(6, 5) - x)], ids=str)
def test_smooth_targets_on_the_circle_at_1e_9(f, method):
    c = compile_prefix(f, 1e-9, Sphere(1), method=method)
    assert c.certificate.proved
    angles = np.linspace(0, 2 * np.pi, 4097)[:-1]
    values = sp.lambdify((x, y), f, "numpy")(np.cos(angles), np.sin(angles))
    size = np.abs(np.fft.fft(values)) / len(values)
    tail = 2 * np.cumsum(size[1:2048][::-1])[::-1]
    degree = int(np.argmax(tail <= 1e-9))
    assert c.length <= 2.5 * (2 * degree + 1)
    assert np.abs(c(np.column_stack([np.cos(angles), np.sin(angles)]))[:, 0] - values).max() <= 1e-9


@pytest.mark.parametrize("method", HEADS)
def test_maps_from_the_sphere_to_space(method):
    f = [x * y, y * z, sp.exp(z) / 2]
    c = compile_prefix(f, 1e-2, Sphere(2, (x, y, z)), method=method, sequence_length=8)
    points = c.domain.sample(2000, seed=3)
    exact = np.column_stack([points[:, 0] * points[:, 1], points[:, 1] * points[:, 2], np.exp(points[:, 2]) / 2])
    error = np.abs(c(points) - exact).max()
    assert error <= c.certificate.error_upper <= 1e-2
    assert c.certificate.error_lower <= c.certificate.error_upper
    assert c.theorem is not None
    assert c.length <= c.theorem.tokens()


@pytest.mark.parametrize("method", HEADS)
@pytest.mark.parametrize("engine", ["auto", "numpy"])
def test_every_engine_runs_the_same_model(method, engine):
    """Many points, so that "auto" takes the fastest engine there is; a core head must not be run as a softmax."""
    c = compile_prefix(sp.exp(x) * sp.sin(y), 1e-3, Sphere(1), method=method, sequence_length=1)
    points = c.domain.sample(60_000)
    error = np.abs(c(points, engine)[:, 0] - np.exp(points[:, 0]) * np.sin(points[:, 1])).max()
    assert error <= c.certificate.error_upper


def test_auto_takes_the_shortest():
    f = sp.exp(x) * sp.cos(y)
    lengths = {m: compile_prefix(f, 1e-4, Sphere(1), method=m).length for m in HEADS}
    assert compile_prefix(f, 1e-4, Sphere(1)).length == min(lengths.values())


def test_one_pretrained_head_serves_every_target_eps_and_length():
    made = [
        compile_prefix(f, eps, Sphere(2), method="classical", sequence_length=length)
        for f, eps, length in ((z, 0.2, 1), ([x * y, z], 0.1, 16), (sp.sin(x + y), 0.05, 64))
    ]
    layers = [c.model.layers[0] for c in made]
    assert all(layer is pretrained(2) for layer in layers)
    head = pretrained(2).heads[0]
    assert head.query.shape[1] == 3 * (2 + 1) == made[0].model.embedding.shape[0]
    assert not head.query.flags.writeable
    for c in made:
        assert c.certificate.proved
        assert c.claim.sequence_length in (1, 16, 64)


def test_sequences_element_by_element():
    """Permuting a sequence permutes its outputs; a longer one changes them by the data tokens' share at most."""
    c = compile_prefix(x * y, 0.01, Sphere(1), method="classical", sequence_length=32)
    points = c.domain.sample(32, seed=1)
    out = c.sequences(points)
    order = np.random.default_rng(0).permutation(32)
    assert np.allclose(c.sequences(points[order]), out[order], atol=1e-14)
    exact = points[:, 0] * points[:, 1]
    for length in (1, 3, 32):
        assert np.abs(c.sequences(points[:length])[:, 0] - exact[:length]).max() <= c.certificate.error_upper
    assert c.sequences(points.reshape(4, 8, 2)).shape == (4, 8, 1)


@pytest.mark.parametrize("m", [3, 4])
def test_higher_spheres_are_proved_a_priori(m):
    first = sp.Symbol("x0")
    c = compile_prefix(first, 0.9 if m == 4 else 0.5, Sphere(m))
    assert c.certificate.proved
    assert not c.certificate.conditional
    assert c.theorem is not None
    assert c.length <= c.theorem.tokens()
    points = c.domain.sample(500)
    assert np.abs(c(points)[:, 0] - points[:, 0]).max() <= c.certificate.error_upper


def test_a_constant_takes_one_token():
    assert compile_prefix(sp.Integer(3), 0.1, Sphere(2)).length == 1


@pytest.mark.parametrize("method", HEADS)
def test_saved_and_proved_again(tmp_path, method):
    c = compile_prefix(x + y**2, 1e-3, Sphere(1), method=method, sequence_length=5)
    path = c.save(tmp_path / "c.safetensors")
    again = load(path)
    assert check(path).error_upper == c.certificate.error_upper
    assert again.claim.sequence_length == c.claim.sequence_length
    assert again.domain == c.domain
    assert str(again.theorem) == str(c.theorem)
    assert "promised" in again.explain()
    points = c.domain.sample(10)
    assert (again(points) == c(points)).all()


def test_refusals_name_the_reason(tmp_path):
    c = compile_prefix(x * y, 0.1, Sphere(1), method="classical", sequence_length=4)
    with pytest.raises(ValueError, match="not on Sphere"):
        c([[0.5, 0.5]])
    with pytest.raises(ValueError, match="not on Sphere"):
        c([[np.nan, 1.0]])
    with pytest.raises(ValueError, match="proved for at most 4"):
        c.sequences(np.tile([0.6, 0.8], (5, 1)))
    with pytest.raises(ValueError, match="one row of 2 coordinates"):
        c(np.zeros((2, 3)))
    for m in (0, -1, 1.5, True, "2", None):
        with pytest.raises(SphereError, match="m"):
            Sphere(m)
    with pytest.raises(SphereError, match="ambient coordinates"):
        Sphere(2, ("x", "y"))
    for f in (sp.log(x), 1 / y, sp.sqrt(x)):
        with pytest.raises(UndefinedTargetError):
            compile_prefix(f, 0.1, Sphere(1))
    with pytest.raises(DomainError, match="symbols"):
        compile_prefix(sp.Symbol("u") + x, 0.1, Sphere(2))
    with pytest.raises(MethodError, match="not for this domain"):
        compile_prefix(x, 0.1, Sphere(1), method="minimax")
    with pytest.raises(MethodError, match="not for this domain"):
        compile_prefix(x, 0.1, [(0, 1)], method="split")
    with pytest.raises(MethodError, match="outputs"):
        compile_prefix([x, y, x * y], 0.1, Sphere(1), method="classical")
    with pytest.raises(TooLongError, match="tokens are needed"):
        compile_prefix(Angle(3), 1e-3, Sphere(3), lipschitz=1)
    with pytest.raises(LipschitzError):
        compile_prefix(Angle(2, 2.0), 0.5, Sphere(2), lipschitz=1)
    for length in (0, -1, 1.5, True, 10**6):
        with pytest.raises(CompileError, match="sequence_length"):
            compile_prefix(x, 0.1, Sphere(1), sequence_length=length)


def test_functions_defined_on_the_sphere_but_not_around_it():
    """acos of a scalar product of unit vectors leaves its domain at any distance outside the sphere."""
    f = sp.acos((3 * x + 4 * y) / 5)
    c = compile_prefix(f, 0.3, Sphere(1))
    assert c.certificate.status is Status.PROVED
    points = c.domain.sample(200)
    exact = np.arccos(np.clip((3 * points[:, 0] + 4 * points[:, 1]) / 5, -1, 1))
    assert np.abs(c(points)[:, 0] - exact).max() <= 0.3


@pytest.mark.parametrize(("m", "names"), [(1, None), (2, ("u", "v", "w"))])
def test_callables_are_traced(m, names):
    c = compile_prefix(lambda p: p[..., 0] * p[..., 1], 0.05, Sphere(m, names))
    assert c.certificate.proved
    assert not c.certificate.conditional
    assert any("traced" in a for a in c.certificate.assumptions)
