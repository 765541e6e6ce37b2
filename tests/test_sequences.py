"""compile_prefix on sequences: one scalar code, shifted codes, two layers, for the same targets."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

from constructions.compile import compile_prefix
from constructions.compiled import load
from constructions.errors import (
    CompileError,
    DomainError,
    EpsilonError,
    FreeSymbolError,
    MethodError,
    TooLongError,
    UndefinedTargetError,
)
from constructions.sequences import SEQUENCE_METHODS
from verify import Box, Sequences, Status, check, prove
from verify.prove import Claim

x1, x2, x3 = sp.symbols("x1 x2 x3")
UNIT = Box.unit(1)
CASES = {
    "swap": (2, [[x2], [x1]], 0.32),
    "pair": (2, [[sp.Abs(sp.sin(3 * x1) - x2) / 3], [sp.Max(x1, 1 - x2) * sp.Rational(9, 10)]], 0.35),
}


def exact(c, points):
    """The target on sequences (batch, T, d), as (batch, T, k)."""
    return c.target.evaluate(points.reshape(len(points), -1)).reshape(len(points), c.domain.T, -1)


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("method", SEQUENCE_METHODS)
def test_a_sequence_function_is_proved(name, method, tmp_path):
    T, f, eps = CASES[name]
    c = compile_prefix(f, eps, Sequences(T, UNIT), method=method)
    assert c.certificate.proved
    assert method == "circuit" or len(c.model.layers) == (2 if method == "two-layer" else T + 2)
    points = c.domain.sample(500, seed=1)
    assert np.abs(c(points) - exact(c, points)).max() <= c.certificate.error_upper <= eps
    if method == "sequence":
        assert 0 < c.certificate.exceptional <= 0.01
        assert c.certificate.lp is not None
        p, bound = c.certificate.lp
        everywhere = Sequences(T, UNIT).sample(4000, seed=2)
        error = np.abs(c(everywhere) - exact(c, everywhere)).max(axis=(1, 2))
        assert np.mean(error**p) ** (1 / p) <= bound
        assert "OUTSIDE A SET" in repr(c)
    else:
        assert c.certificate.exceptional == 0
    path = c.save(tmp_path / "s.safetensors")
    assert check(path).status is Status.PROVED
    assert (load(path)(points) == c(points)).all()
    assert f"{T}" in c.explain()


def test_three_tokens_with_five_layers():
    f = [[x1 * x2 * x3], [sp.Max(x1, x2, x3)], [(x1 + x2 + x3) / 3]]
    c = compile_prefix(f, 0.4, Sequences(3, UNIT), method="sequence")
    assert len(c.model.layers) == 5
    assert c.certificate.proved
    assert compile_prefix(f, 0.4, Sequences(3, UNIT)).length < c.length


def test_two_layers_hold_everywhere_where_one_code_cannot():
    """The swap map: the one-code model is wrong by 1/2 somewhere, the two-layer model nowhere by more than eps."""
    from constructions.petrov2024.obstruction import obstruction
    from constructions.petrov2024.sequence import compile_sequence

    T, f, eps = CASES["swap"]
    found = obstruction(compile_sequence(f, T, UNIT, eps, K=2))
    assert found.error >= 0.5 - 1e-9
    one = compile_prefix(f, eps, Sequences(T, UNIT), method="sequence")
    everywhere = Claim(one.model, one.prefix, one.target, Sequences(T, UNIT), eps)
    assert not prove(everywhere, max_boxes=20_000).proved
    assert compile_prefix(f, eps, Sequences(T, UNIT)).certificate.exceptional == 0


def test_callables_are_traced():
    c = compile_prefix(lambda a, b: (b, np.maximum(a, b)), 0.3, Sequences(2, UNIT))
    assert c.certificate.proved
    assert any("traced" in a for a in c.certificate.assumptions)


def test_tokens_with_two_coordinates():
    box = Box({"u": (0, 1), "v": (-1, 1)})
    u1, v1, u2, v2 = sp.symbols("u1 v1 u2 v2")
    c = compile_prefix([[u1 * v2], [u2 + v1]], 0.2, Sequences(2, box))
    points = c.domain.sample(200)
    assert c(points).shape == (200, 2, 1)
    assert np.abs(c(points) - exact(c, points)).max() <= 0.2


def test_refusals():
    domain = Sequences(2, UNIT)
    with pytest.raises(MethodError):
        compile_prefix([[x2], [x1]], 0.3, domain, method="split")
    with pytest.raises(MethodError, match="not for this domain"):
        compile_prefix(sp.Symbol("x"), 0.3, UNIT, method="two-layer")
    with pytest.raises(CompileError, match="1 expressions for 2 tokens"):
        compile_prefix([[x1]], 0.3, domain)
    with pytest.raises(FreeSymbolError):
        compile_prefix([[sp.Symbol("q")], [x1]], 0.3, domain)
    with pytest.raises(UndefinedTargetError):
        compile_prefix([[1 / x1], [x2]], 0.3, domain)
    with pytest.raises(EpsilonError, match="binary digits"):
        compile_prefix([[x2], [x1]], 1e-9, domain, method="sequence")
    with pytest.raises(TooLongError):
        compile_prefix([[x2], [x1]], 0.01, domain, method="sequence", max_tokens=100)
    with pytest.raises(DomainError, match="gaps"):
        compile_prefix([[x2], [x1]], 0.3, Sequences(2, UNIT, [(0, 0.5, 0.01)]))
    c = compile_prefix([[x2], [x1]], 0.3, domain)
    with pytest.raises(ValueError, match="function of 2"):
        c(np.zeros((1, 3, 1)))
