"""The kernel of the floor: enclosures against plain runs, forged hints, changed numbers, hostile numbers."""

from dataclasses import replace

import flint
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_wang_floor import KINDS, examples_of

from constructions.wang2023.floor import AttentionLayer, FeedForward, random_layer, unmemorable
from constructions.wang2023.floor.forward import apply_block, errors
from verify import Status, check_statement, save_statement
from verify.ball import Ball
from verify.precision import working_precision
from verify.prompt_floor import FloorHints, PromptFloorStatement
from verify.prompt_floor_boxes import leaves
from verify.prompt_floor_norms import norms_above, norms_below, singular_values
from verify.prompt_floor_precise import precise_errors
from verify.prompt_floor_run import Prompt, feed_forward, layer_errors
from verify.statement_file import Stated


def test_only_covers_of_the_cube_are_boxes():
    assert leaves(np.array([[-1.0, 0.0]]), 2) == [((0.0, 0.0), (1.0, 1.0))]
    halves = np.array([[1.0, 0.25], [-1.0, 0.0], [-1.0, 0.0]])
    assert leaves(halves, 2) == [((0.0, 0.0), (1.0, 0.25)), ((0.0, 0.25), (1.0, 1.0))]
    for bad in ([[1.0, 0.25], [-1.0, 0.0]], [[-1.0, 0.0], [-1.0, 0.0]], [[2.0, 0.5], [-1, 0], [-1, 0]], [[0.5, 0.5], [-1, 0], [-1, 0]],
                [[0.0, 1.0], [-1, 0], [-1, 0]], [[0.0, 1e300], [-1, 0], [-1, 0]], []):  # fmt: skip
        assert leaves(np.array(bad, dtype=float).reshape(-1, 2), 2) is None


def test_a_hole_in_the_cover_proves_nothing():
    r = KINDS["heads, unequal masses"]()
    h = r.statement.hints
    assert r.verdict.route == "dual vectors on boxes of the heads' shares"
    less = replace(
        r.statement, hints=replace(h, cuts=h.cuts[:-1], box_inner=h.box_inner[:-1], box_outer=h.box_outer[:-1])
    )
    assert less.decide().lower < r.floor[0]
    assert not less.decide().proved


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh", "gelu", "identity"])
def test_both_runs_agree_with_the_plain_one(activation):

    rng = np.random.default_rng(5)
    block = FeedForward(
        rng.standard_normal((9, 6)), rng.standard_normal((6, 9)), rng.standard_normal(9), None, activation
    )
    layer = replace(random_layer(6, 3, seed=2, heads=2), feedforward=block, residual=True, query_bias=rng.standard_normal((2, 6)),
                    value_bias=rng.standard_normal((2, 3)), output_bias=rng.standard_normal(6))  # fmt: skip
    examples, _ = examples_of(6, 3, 1)
    targets, prompt = rng.standard_normal((3, 6)), rng.standard_normal((2, 6))
    plain = errors(layer, np.repeat(prompt, [1, 3], axis=0), examples, targets)
    low, high = layer_errors(layer, Prompt(prompt, np.array([1.0, 3.0])), examples, targets)
    assert (low <= plain * (1 + 1e-13)).all()
    assert (plain <= high * (1 + 1e-13)).all()
    assert (high - low <= 1e-11 * high).all()
    precise = precise_errors(layer, Prompt(prompt, np.array([1.0, 3.0])), examples, targets)
    assert (precise <= high).all()
    assert (precise >= low).all()
    u = rng.standard_normal((4, 6))
    wide = feed_forward(block, Ball(u, np.full(u.shape, 0.01)))
    for _ in range(50):
        value = apply_block(block, u + rng.uniform(-0.01, 0.01, u.shape))
        assert (wide.lower() <= value + 1e-12).all()
        assert (value <= wide.upper() + 1e-12).all()


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 6), st.floats(-200, 200))
@settings(max_examples=60, deadline=None)
def test_singular_values_and_norms_are_enclosed(seed, rows, columns, magnitude):
    a = np.random.default_rng(seed).standard_normal((rows, columns)) * 10**magnitude
    low, high = singular_values(Ball.exact(a))
    with working_precision(200):
        m = flint.arb_mat([[flint.arb(x) for x in row] for row in a.tolist()])
        gram = m.transpose() * m
        for t, sign in (
            (low * (1 - 1e-12), 1),
            (high * (1 + 1e-12), -1),
        ):  # gram - t^2 I is definite: all leading minors
            shifted = gram * sign - flint.arb_mat(
                [[sign * flint.arb(t) ** 2 if i == j else 0 for j in range(columns)] for i in range(columns)]
            )
            for k in range(1, columns + 1) if t > 0 else ():
                assert flint.arb_mat([[shifted[i, j] for j in range(k)] for i in range(k)]).det() > 0
    exact = np.linalg.norm(a / np.abs(a).max(), axis=1) * np.abs(a).max()
    assert (norms_below(Ball.exact(a)) <= exact * (1 + 1e-14)).all()
    assert (exact <= norms_above(Ball.exact(a)) * (1 + 1e-14)).all()


def test_changed_numbers_get_an_honest_verdict(tmp_path):
    r = unmemorable(random_layer(6, 3, seed=1), seed=2)
    s = r.statement
    assert replace(s, floor=r.floor[1] * 1.001).decide().status is Status.REFUTED
    assert replace(s, floor=(r.floor[0] + r.floor[1]) / 2).decide().status in (Status.PROVED, Status.UNDECIDED)
    near = replace(s, targets=s.targets * np.array([[1.0], [0.5]])).decide()
    assert not near.proved
    assert near.upper >= near.lower
    assert replace(s, hints=FloorHints()).decide().status is Status.UNDECIDED
    assert replace(s, hints=replace(s.hints, duals=-s.hints.duals)).decide().status is Status.UNDECIDED
    heavier = replace(s, layer=replace(s.layer, value=s.layer.value * 3))
    verdict = heavier.decide()
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert (
            errors(heavier.layer, rng.standard_normal((3, 6)), heavier.examples, heavier.targets).max() >= verdict.lower
        )
    path = save_statement(
        tmp_path / "forged.st",
        Stated(replace(s, floor=2 * r.floor[1]), replace(r.verdict, lower=2 * r.floor[1], upper=9.0)),
    )
    assert check_statement(path).status is Status.REFUTED


def test_forged_hints_prove_nothing_false():
    """Whatever is stored as a hint, the lower bound stays below what a prompt reaches."""
    rng = np.random.default_rng(0)
    for make in (KINDS["free five"], KINDS["tied pair"], KINDS["heads"], KINDS["heads, unequal masses"]):
        r = make()
        h = r.statement.hints
        for _ in range(25):
            changed = {
                name: getattr(h, name) + rng.standard_normal(getattr(h, name).shape) * 10 ** rng.uniform(-12, 2)
                for name in ("duals", "head_duals", "difference", "box_inner", "box_outer") if getattr(h, name) is not None
            }  # fmt: skip
            if h.multipliers is not None:
                changed |= {
                    "multipliers": h.multipliers * rng.uniform(0, 3),
                    "knots": np.sort(h.knots + rng.standard_normal(h.knots.shape)),
                }
            assert replace(r.statement, hints=replace(h, **changed)).decide().lower <= r.floor[1]


@given(st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_hostile_numbers_never_crash(seed):
    rng = np.random.default_rng(seed)

    def hostile(*shape):
        values = rng.choice([0.0, 1.0, -1.0, 1e300, -1e300, 1e-300, 5e-324, 1e154, 1e-160, 1e16], size=shape)
        return np.where(rng.random(shape) < rng.random(), values, rng.standard_normal(shape))

    heads, d, d_v = (int(k) for k in rng.integers(1, 4, 3))
    d_out = heads * d_v
    block = FeedForward(
        hostile(3, d_out),
        hostile(d_out, 3),
        hostile(3),
        hostile(d_out),
        str(rng.choice(["relu", "tanh", "gelu", "leaky_relu"])),
    )
    layer = AttentionLayer(
        hostile(heads, 2, d), hostile(heads, 2, d), hostile(heads, d_v, d), None, block if rng.random() < 0.3 else None
    )
    last = hostile(d)
    examples = tuple(np.vstack([hostile(int(rng.integers(0, 3)), d), last]) for _ in range(2))
    n, k = 2, 2
    hints = FloorHints(
        prompt=hostile(2, d),
        before=hostile(n, d_out),
        duals=hostile(k, n, d_out),
        multipliers=np.abs(hostile(k)),
        knots=hostile(1),
        head_duals=hostile(heads, n, d_out),
        difference=hostile(d_out),
        cuts=np.array([[0.0, 0.5], [-1.0, 0.0], [-1.0, 0.0]]) if rng.random() < 0.8 else hostile(3, 2),
        box_inner=hostile(2, heads * n, d_out),
        box_outer=hostile(2, n, d_out),
    )
    verdict = PromptFloorStatement(layer, examples, hostile(n, d_out), float(np.abs(hostile(1))[0]), hints).decide()
    assert 0 <= verdict.lower <= verdict.upper
    if verdict.status is not Status.PROVED:
        assert verdict.reason
