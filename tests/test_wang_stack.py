"""The arithmetic of the universal transformer's stack: spans enclose any stack, and are points where float64 is exact."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from constructions.wang2023.universal import (
    Grid,
    universal_transformer,
)  # fmt: skip
from constructions.wang2023.universal.execute import execute
from verify.stack import Plan, Run, Span, Stack


@pytest.fixture(scope="module")
def four():
    return universal_transformer(Grid(1, 1, 4, 4, 1))


finite = st.floats(-1e12, 1e12) | st.floats().filter(math.isfinite)


@given(finite, finite)
def test_spans_enclose_and_stay_points_where_float64_is_exact(a, b):
    with np.errstate(all="ignore"):
        for found, exact in [
            (Span.exact(np.array([a])) + Span.exact(np.array([b])), Fraction(a) + Fraction(b)),
            (Span.exact(np.array([a])).scale(np.array([b])), Fraction(a) * Fraction(b)),
            (Span.exact(np.array([a])).times(Span.exact(np.array([b]))), Fraction(a) * Fraction(b)),
        ]:
            lo, hi = float(found.lo[0]), float(found.hi[0])
            assert lo == -math.inf or Fraction(lo) <= exact
            assert hi == math.inf or exact <= Fraction(hi)
            if lo == hi:
                assert Fraction(lo) == exact
    whole = Span.exact(np.array([float(int(a) % 2**30)])) + Span.exact(np.array([0.125]))
    assert whole.lo[0] == whole.hi[0]


def random_stack(seed: int, beta: float) -> tuple[Stack, np.ndarray]:
    r = np.random.default_rng(seed)
    order = r.permutation([0.0, 0.0, 0.0, 1.0, 1.0])
    w = {name: np.round(r.normal(size=(2, 2, 2)) * 4) / 8 for name in ("query", "key", "value", "out")}
    first = np.round(r.normal(size=(3, 4, 2)) * 4) / 8
    first[0] = first[0, 0]
    second = np.round(r.normal(size=(3, 2, 4)) * 4) / 8
    stack = Stack(
        1, np.round(r.normal(size=(3, 2)) * 8) / 8, order, w["query"], np.round(r.normal(size=(2, 2)) * 4) / 8, w["key"], w["value"],
        w["out"], first, r.normal(size=(3, 4)), second, beta,
    )  # fmt: skip
    return stack, r.normal(size=(2, 3, 2))


def by_mpmath(stack: Stack, tokens: np.ndarray) -> list:
    """One sequence through the stack in 60 digits."""
    with mpmath.workdps(60):
        z = mpmath.matrix(tokens.tolist()) + mpmath.matrix(stack.position.tolist())
        n, d, a, f = stack.n, stack.d, 0, 0
        dot = lambda w, row: mpmath.fsum(mpmath.mpf(float(c)) * t for c, t in zip(w, row, strict=True))  # noqa: E731
        for kind in stack.order:
            rows = [[z[j, i] for i in range(d)] for j in range(n)]
            new = z.copy()
            for j in range(n):
                if kind == 1:
                    for h in range(2):
                        q = dot(stack.query[a, h], rows[j]) + mpmath.mpf(float(stack.bias[a, h]))
                        logits = [q * dot(stack.key[a, h], row) for row in rows]
                        best = max(logits)
                        weights = [
                            mpmath.mpf(t == best) if math.isinf(stack.beta) else mpmath.exp(stack.beta * (t - best))
                            for t in logits
                        ]
                        out = mpmath.fsum(
                            w * dot(stack.value[a, h], row) for w, row in zip(weights, rows, strict=True)
                        ) / mpmath.fsum(weights)
                        for i in range(d):
                            new[j, i] += out * mpmath.mpf(float(stack.out[a, h, i]))
                else:
                    hidden = [
                        max(dot(stack.first[f, r], rows[j]) + mpmath.mpf(float(stack.offset[f, r])), mpmath.mpf(0))
                        for r in range(4)
                    ]
                    for i in range(d):
                        new[j, i] += dot(stack.second[f, i], hidden)
            z, a, f = new, a + int(kind == 1), f + int(kind == 0)
        return [z[n - 1, i] for i in range(d)]


@pytest.mark.parametrize("beta", [math.inf, 1.0, 40.0])
@pytest.mark.parametrize("seed", range(6))
def test_the_run_encloses_any_stack(seed, beta):
    stack, tokens = random_stack(seed, beta)
    found = stack.run(tokens, Plan.of(stack))
    for k in range(len(tokens)):
        for i, exact in enumerate(by_mpmath(stack, tokens[k])):
            assert mpmath.mpf(float(found.lo[k, 0, i])) <= exact <= mpmath.mpf(float(found.hi[k, 0, i]))
            assert found.hi[k, 0, i] - found.lo[k, 0, i] < 1e-9
    np.testing.assert_allclose(execute(stack, tokens), found.lo, atol=1e-9)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_hardmax_finds_the_largest_key_near_overflow(sign):
    heads = {name: np.zeros((1, 2, 1)) for name in ("query", "key", "value", "out")}
    heads["key"][:], heads["value"][:], heads["out"][0, 0] = 1e308, 1.0, 1.0
    position = np.array([[1.25], [1.5], [1.75]])
    stack = Stack(
        1, position, np.ones(1), heads["query"], np.array([[sign, 0.0]]), heads["key"], heads["value"], heads["out"],
        np.zeros((0, 4, 1)), np.zeros((0, 4)), np.zeros((0, 1, 4)),
    )  # fmt: skip
    found = stack.run(np.zeros((1, 3, 1)), Plan.of(stack))
    exact = 1.75 + (1.75 if sign > 0 else 1.25)
    assert found.lo[0, 0, 0] <= exact <= found.hi[0, 0, 0]


def test_sparse_runs_and_layer_by_layer_runs_agree(four):
    """The same stack with every feed-forward layer on its own, in the order of execution."""
    sparse, items = Plan.of(four.stack), []
    for item in sparse.items:
        if isinstance(item, int):
            items.append(item)
            continue
        order = np.argsort(item.layer)
        items += [Run(item.direction, item.starts[[k]], item.ends[[k]], item.layer[[k]]) for k in order]
    last = max(i for i, item in enumerate(items) if isinstance(item, int) and item >= 0)
    tokens = np.concatenate(
        [np.repeat(four.statement.prompts[::9], 4, axis=0), np.tile(four.grid.inputs, (8, 1, 1))], axis=1
    )
    one, two = four.stack.run(tokens, sparse), four.stack.run(tokens, Plan(tuple(items), last))
    for end in (one.hi, two.lo, two.hi):
        np.testing.assert_array_equal(one.lo, end)
    assert len(items) == four.stack.depth > 10 * len(sparse.items) / 3
