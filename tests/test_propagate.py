"""Enclosures of whole transformers: sound for exact and executed outputs, tight where a token dominates, never proved on NaN."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest

from tests.formulas import apply, target, var
from verify import Box, BoxError, Head, Layer, ModelError, Prefix, Transformer, forward
from verify.affine import UnsupportedModelError
from verify.ball import Ball
from verify.cells import Cells
from verify.gathered import gathered_head
from verify.head import Tokens, enclose_head
from verify.propagate import enclose_model, enclose_stream, linear, rounded_sum
from verify.sequence_proof import prove_sequences
from verify.sequences import Sequences


def random_model(rng: np.random.Generator, scale: float, large: bool = True) -> tuple[Transformer, Prefix, int, int]:
    """One to three layers with one or two heads, with or without data attention, residual stream and positions."""
    T, width, n, k = (int(rng.integers(1, m)) for m in (4, 5, 3, 3))
    d, layers, keys, values = width, [], [], []
    for _ in range(int(rng.integers(1, 4))):
        residual = bool(rng.integers(2))
        out = width if residual else int(rng.integers(1, 5))
        heads, ks, vs = [], [], []
        for _ in range(int(rng.integers(1, 3))):
            d_k, d_v, tokens = (
                int(rng.integers(1, 4)),
                int(rng.integers(1, 4)),
                int(rng.integers(1, 120 if large else 8)),
            )
            data = bool(rng.integers(2))
            key, value = (rng.normal(size=(m, width)) if data else None for m in (d_k, d_v))
            heads.append(Head(rng.normal(size=(d_k, width)) * scale, rng.normal(size=(out, d_v)), key, value))
            ks.append(rng.normal(size=(tokens, d_k)) * 3 * scale)
            vs.append(rng.normal(size=(tokens, d_v)))
        layers.append(Layer(tuple(heads), residual))
        keys.append(tuple(ks))
        values.append(tuple(vs))
        width = out
    positions = rng.normal(size=(T, d)) if rng.integers(2) else None
    model = Transformer(
        rng.normal(size=(d, n)), rng.normal(size=d), tuple(layers), rng.normal(size=(k, width)), positions
    )
    return model, Prefix(tuple(keys), tuple(values)), T, n


def exact_forward(model: Transformer, prefix: Prefix, x: np.ndarray) -> list[list[Any]]:
    """The real function at one sequence (T, n), in 60 digits: what the certificate is about."""
    with mpmath.workdps(60):
        mat = lambda a: mpmath.matrix(np.atleast_2d(a).tolist())  # noqa: E731
        stream = []
        for t, token in enumerate(x):
            h = mat(model.embedding) * mat(token).T + mat(model.offset).T
            stream.append(h if model.positions is None else h + mat(model.positions[t]).T)
        for l, layer in enumerate(model.layers):
            new = []
            for h in stream:
                added = h * 1 if layer.residual else None
                for head, keys, values in zip(layer.heads, prefix.keys[l], prefix.values[l], strict=True):
                    q = mat(head.query) * h
                    pairs = [((mat(a) * q)[0], mat(v).T) for a, v in zip(keys, values, strict=True)]
                    if head.key is not None and head.value is not None:
                        pairs += [(((mat(head.key) * s).T * q)[0], mat(head.value) * s) for s in stream]
                    top = max(score for score, _ in pairs)
                    weights = [mpmath.exp(score - top) for score, _ in pairs]
                    mixed = sum((w * v for w, (_, v) in zip(weights, pairs, strict=True)), mat(values[0]).T * 0)
                    part = mat(head.output) * mixed / sum(weights)
                    added = part if added is None else added + part
                new.append(added)
            stream = new
        return [list(mat(model.readout) * h) for h in stream]


@pytest.mark.parametrize("seed", range(6))
def test_executed_outputs_lie_in_the_enclosure(seed):
    rng = np.random.default_rng(seed)
    for scale in (0.3, 1.0, 4.0, 30.0):
        for _ in range(6):
            model, prefix, T, n = random_model(rng, scale)
            centre = rng.normal(size=(6, T, n))
            radius = 10.0 ** rng.uniform(-12, 0, (6, 1, 1))
            lo, hi = centre - radius, centre + radius
            ball = enclose_model(model, prefix, lo, hi)
            for _ in range(12):
                x = np.clip(centre + radius * rng.choice([-1, 1, 0.3], centre.shape) * rng.random(centre.shape), lo, hi)
                assert (np.abs(forward(model, prefix, x) - ball.mid) <= ball.rad).all()
            for corner in (lo, hi):
                assert (np.abs(forward(model, prefix, corner) - ball.mid) <= ball.rad).all()


def test_exact_outputs_lie_in_the_enclosure_of_a_point():
    rng = np.random.default_rng(7)
    for scale in (0.3, 1.0, 4.0, 30.0):
        for _ in range(4):
            model, prefix, T, n = random_model(rng, scale, large=False)
            x = rng.normal(size=(1, T, n))
            ball = enclose_model(model, prefix, x, x)
            for t, row in enumerate(exact_forward(model, prefix, x[0])):
                for c, value in enumerate(row):
                    assert abs(value - float(ball.mid[0, t, c])) <= float(ball.rad[0, t, c])


def single(keys, values, **options) -> tuple[Transformer, Prefix]:
    layer = Layer((Head(np.eye(2), np.eye(1)),), **options)
    model = Transformer(np.array([[1.0], [0.0]]), np.array([0.0, 1.0]), (layer,), np.eye(1))
    return model, Prefix(((np.asarray(keys, dtype=float),),), ((np.asarray(values, dtype=float),),))


def test_a_dominating_token_gives_its_value_almost_exactly():
    model, prefix = single([[0.0, 0.0], [400.0, 0.0], [-400.0, 0.0]], [[1.0], [2.0], [-3.0]])
    ball = enclose_model(model, prefix, np.array([[[0.2]]]), np.array([[[0.4]]]))
    assert abs(ball.mid[0, 0, 0] - 2) + ball.rad[0, 0, 0] < 2 + 1e-13
    assert ball.rad[0, 0, 0] < 1e-13


def test_across_a_jump_the_hull_of_the_tokens_concerned_is_found():
    keys = [[2000 * c, -1000 * c * c] for c in (0.0, 1.0, 2.0, 3.0)]
    model, prefix = single(keys, [[0.0], [1.0], [7.0], [100.0]])
    ball = enclose_model(model, prefix, np.array([[[0.3]]]), np.array([[[0.7]]]))
    assert -1e-9 < ball.lower()[0, 0, 0] <= 0
    assert 1 <= ball.upper()[0, 0, 0] < 1 + 1e-9


@pytest.mark.parametrize(("below", "value"), [(30.0, 1e12), (50.0, 1e30), (70.0, 1e40), (300.0, 1e140)])
@pytest.mark.parametrize("boxes", [1, 40])
def test_a_token_of_tiny_weight_and_huge_value_is_not_forgotten(below, value, boxes):
    keys = [[0.0, 0.0]] * 12 + [[0.1, -below]]
    model, prefix = single(keys, [[1.0]] * 12 + [[value]])
    x = np.linspace(0.1, 0.2, boxes)[:, None, None]
    ball = enclose_model(model, prefix, x, x + 0.01)
    assert np.isfinite(ball.rad).all()
    for part in (0.0, 0.005, 0.01):
        assert (np.abs(forward(model, prefix, x + part) - ball.mid) <= ball.rad).all()


def test_rounding_of_logits_that_is_common_in_exact_arithmetic_only():
    """A large common part of all logits cancels in the real function; the execution rounds it away token by token."""
    rng = np.random.default_rng(1)
    model, prefix = single([[3.0, 1e12], [-3.0, 1e12]], [[1.0], [-1.0]])
    x = rng.random((50, 1, 1))
    ball = enclose_model(model, prefix, x, x)
    assert np.abs(forward(model, prefix, x) - np.tanh(3 * x)).max() > 1e-6
    assert (np.abs(forward(model, prefix, x) - ball.mid) <= ball.rad).all()
    assert ball.rad.max() < 0.1
    # the same among data tokens, whose keys and queries have the common part
    own = Head(np.eye(2), np.eye(1), np.array([[1.0, 0.0], [0.0, 1e12]]), np.array([[1.0, 0.0]]))
    data = Transformer(model.embedding, model.offset, (Layer((own,)),), model.readout)
    null = Prefix(((np.zeros((1, 2)),),), ((np.zeros((1, 1)),),))
    x = rng.random((50, 3, 1))
    ball = enclose_model(data, null, x, x)
    assert (np.abs(forward(data, null, x) - ball.mid) <= ball.rad).all()


def test_rounding_of_a_mean_of_equal_values():
    rng = np.random.default_rng(2)
    model, prefix = single(rng.normal(size=(200, 2)), np.full((200, 1), 0.1))
    x = rng.normal(size=(100, 1, 1))
    ball = enclose_model(model, prefix, x, x)
    assert (forward(model, prefix, x) != 0.1).any()
    assert (np.abs(forward(model, prefix, x) - ball.mid) <= ball.rad).all()
    assert ball.rad.max() < 1e-12


def test_sums_and_products_of_executed_entries():
    """What two executions at the ends of balls get lies in the ball of the sum, of the product: one rounding more than exact."""
    rng = np.random.default_rng(3)
    mid, rad = rng.random((20_000, 2)) + 1, rng.random((20_000, 2)) * 2.0**-50
    x = Ball(mid, rad)
    ends = [np.where(sign, mid + rad * (1 - 1e-9), mid - rad * (1 - 1e-9)) for sign in (True, False)]
    ends = [np.where(np.abs(e - mid) <= rad, e, mid) for e in ends]
    total = rounded_sum(x[:, 0], x[:, 1])
    matrix = np.array([[0.1, 0.7]])
    product = linear(x, matrix)[:, 0]
    for e in ends:
        assert (np.abs((e[:, 0] + e[:, 1]) - total.mid) <= total.rad).all()
        assert (np.abs((e @ matrix.T)[:, 0] - product.mid) <= product.rad).all()


def test_small_boxes_give_small_enclosures_between_tokens():
    model, prefix = single([[3.0, 0.0], [-3.0, 0.0]], [[1.0], [-1.0]])
    x = np.full((1, 1, 1), 0.1)
    for r in (1e-2, 1e-4, 1e-8):
        assert enclose_model(model, prefix, x - r, x + r).rad[0, 0, 0] < 40 * r
    assert abs(enclose_model(model, prefix, x, x).mid[0, 0, 0] - np.tanh(0.3)) < 1e-14


def test_dropping_tokens_for_groups_of_queries_changes_nothing_that_matters():
    """Thousands of queries against thousands of keys, as one group and one by one."""
    c = np.linspace(0, 1, 2000)
    model, prefix = single(np.stack([2e8 * c, -1e8 * c**2], axis=1), np.sin(9 * c)[:, None])
    x = np.random.default_rng(0).random((3000, 1, 1))
    ball = enclose_model(model, prefix, x, x + 1e-6)
    alone = [enclose_model(model, prefix, x[i : i + 1], x[i : i + 1] + 1e-6) for i in range(0, 3000, 500)]
    assert (np.abs(forward(model, prefix, x + 5e-7) - ball.mid) <= ball.rad).all()
    assert np.median(ball.rad) < 1e-3
    for i, one in zip(range(0, 3000, 500), alone, strict=True):
        assert abs(one.rad[0, 0, 0] - ball.rad[i, 0, 0]) < 1e-9
        assert abs(one.mid[0, 0, 0] - ball.mid[i, 0, 0]) < 1e-9


def test_the_softmax_clamp_is_within_the_bounds():
    """Weights far below e^-700 are raised to it by the execution; values as large as floats allow make that visible."""
    model, prefix = single([[0.0, 0.0], [0.0, -2000.0]], [[1e-5], [1e140]])
    x = np.zeros((1, 1, 1))
    ball = enclose_model(model, prefix, x, x)
    assert (np.abs(forward(model, prefix, x) - ball.mid) <= ball.rad).all()


@pytest.mark.parametrize(
    ("keys", "values"), [([[1e300, 0.0], [-1e300, 1e300]], [[1.0], [2.0]]), ([[1e308, 1e308]] * 2, [[1.0], [2.0]])]
)
def test_what_may_overflow_is_unknown_and_never_proved(keys, values):
    model, prefix = single(keys, values)
    ball = enclose_model(model, prefix, np.full((1, 1, 1), 5.0), np.full((1, 1, 1), 9.0))
    assert np.isinf(ball.rad).all()
    found = prove_sequences(model, prefix, target(var()), Sequences(1, Box([(5, 9)])), 1e9)
    assert not found.certificate.proved
    assert found.lp_bound == np.inf


def test_a_target_that_is_undefined_somewhere_is_not_proved():
    model, prefix = single([[0.0, 0.0]], [[0.0]])
    found = prove_sequences(model, prefix, target(apply("log", var())), Sequences(1, Box([(-1, 1)])), 1e9)
    assert str(found.certificate.status) == "undecided"


def test_heads_without_normalisation_are_refused():
    model, prefix = single([[0.0, 0.0]], [[0.0]])
    sums = Transformer(
        model.embedding, model.offset, (Layer((Head(np.eye(2), np.eye(1), normalised=False),)),), model.readout
    )
    with pytest.raises(UnsupportedModelError, match="normalisation"):
        enclose_stream(sums, prefix, np.zeros((1, 1, 1)), np.zeros((1, 1, 1)))


def test_positions_are_added_and_bound_the_length():
    layer = Layer((Head(np.eye(2), np.zeros((2, 1))),), residual=True)
    model = Transformer(np.eye(2), np.zeros(2), (layer,), np.eye(2), np.array([[1.0, 2.0], [3.0, 4.0]]))
    prefix = Prefix(((np.zeros((1, 2)),),), ((np.zeros((1, 1)),),))
    assert forward(model, prefix, np.zeros((1, 2, 2))).tolist() == [[[1, 2], [3, 4]]]
    assert forward(model, prefix, np.zeros((1, 2))).tolist() == [[1, 2]]
    with pytest.raises(ModelError, match="3 tokens, the model has positions for 2"):
        forward(model, prefix, np.zeros((1, 3, 2)))
    with pytest.raises(ModelError, match="3 tokens, the model has positions for 2"):
        enclose_model(model, prefix, np.zeros((1, 3, 2)), np.zeros((1, 3, 2)))
    with pytest.raises(ModelError, match=r"model\.positions"):
        Transformer(np.eye(2), np.zeros(2), (layer,), np.eye(2), np.zeros((2, 3)))
    with pytest.raises(ModelError, match="no rows"):
        Transformer(np.eye(2), np.zeros(2), (layer,), np.eye(2), np.zeros((0, 2)))


# --- domains of sequences ---------------------------------------------------------------------------------------------------


def test_the_measure_of_the_gaps_is_an_upper_bound_close_to_monte_carlo():
    box = Box([(-1, 2), (0, 1)])
    gaps = [(0, 0.0, 0.1), (0, 0.15, 0.1), (0, 2.0, 0.2), (1, 0.5, 0.01)]
    domain = Sequences(3, box, gaps)
    points = Sequences(3, box).sample(200_000, seed=3)
    outside = 1 - domain.contains(points).mean()
    measure = domain.measure_of_gaps()
    assert measure == pytest.approx(
        1 - ((1 - 0.55 / 3) * (1 - 0.02)) ** 3, rel=1e-12
    )  # overlaps count once, ends are cut off
    assert abs(outside - measure) < 4 * np.sqrt(measure * (1 - measure) / len(points))
    assert domain.measure_of_gaps(relative=False) == pytest.approx(27 * measure, rel=1e-12)
    assert Sequences(3, box).measure_of_gaps() == 0.0


def test_sequences_sample_contain_and_store():
    domain = Sequences(2, Box({"u": (0, 1), "v": (-1, 1)}), [(1, 0.0, 0.25)])
    points = domain.sample(500, seed=1)
    assert points.shape == (500, 2, 2)
    assert domain.contains(points).all()
    assert not domain.contains(np.zeros((2, 2)))
    assert domain.names == ("u1", "v1", "u2", "v2")
    assert domain.flattened.names == domain.names
    assert domain.flattened.hi == (1, 1, 1, 1)
    assert domain.dimension == 4
    assert Sequences.from_json(domain.to_json()) == domain
    assert Sequences(2, Box.unit(1)).names == ("x1", "x2")
    assert Sequences(2, Box.unit(2)).names == ("x1_1", "x1_2", "x2_1", "x2_2")
    assert domain.good_intervals(1) == [(-1.0, -0.25), (0.25, 1.0)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, Box.unit(1)), "T = 0"),
        ((True, Box.unit(1)), "T = True"),
        ((100, Box.unit(1)), "T = 100"),
        ((2, [(0, 1)]), "box"),
        ((2, Box.unit(1), [(1, 0.5, 0.1)]), "gaps\\[0\\]"),
        ((2, Box.unit(1), [(0, 0.5, 0.0)]), "half-width"),
        ((2, Box.unit(1), [(0, 0.5)]), "gaps\\[0\\]"),
        ((2, Box.unit(1), [(0, 0.5, 0.6)]), "nothing is left"),
    ],
)
def test_sequences_refuse_with_words(arguments, words):
    with pytest.raises(BoxError, match=words):
        Sequences(*arguments)


def test_sequences_stored_wrongly_are_refused():
    data = Sequences(2, Box.unit(1), [(0, 0.5, 0.1)]).to_json()
    for broken in ({**data, "T": "2"}, {**data, "lo": ["x"]}, {**data, "gaps": [[0.0, "0x1p0", "0x1p0"]]}, {"T": 2}):
        with pytest.raises(BoxError):
            Sequences.from_json(broken)


# --- proofs ------------------------------------------------------------------------------------------------------------------


def test_proofs_have_three_outcomes():
    """One head, two tokens: tanh 3x against tanh 3x (off by rounding), against x, and with too few boxes."""
    model, prefix = single([[3.0, 0.0], [-3.0, 0.0]], [[1.0], [-1.0]])
    domain = Sequences(1, Box([(-1, 1)]))
    right = target(apply("tanh", var() * 3))
    proof = prove_sequences(model, prefix, right, domain, 0.02)
    assert proof.certificate.proved
    assert proof.exceptional_measure == 0
    assert proof.lp_bound == proof.certificate.error_upper
    wrong = prove_sequences(model, prefix, target(var()), domain, 0.3).certificate
    assert str(wrong.status) == "refuted"
    assert wrong.witness is not None
    x = wrong.witness[0]
    assert abs(np.tanh(3 * x) - x) == pytest.approx(wrong.error_lower, abs=1e-9)
    assert wrong.error_lower > 0.3
    few = prove_sequences(model, prefix, right, domain, 1e-6, max_boxes=50).certificate
    assert str(few.status) == "undecided"
    assert few.unresolved is not None
    late = prove_sequences(model, prefix, right, domain, 1e-6, seconds=0.0).certificate
    assert str(late.status) == "undecided"


def test_gaps_are_left_out_and_their_price_is_in_the_lp_bound():
    """A steep two-token head against its limit, a step: impossible around 0, right elsewhere."""
    model, prefix = single([[100.0, 0.0], [-100.0, 0.0]], [[1.0], [-1.0]])
    step = target(apply("select", var(), var() * 0 + 1, var() * 0 - 1, value=">"))
    everywhere = prove_sequences(model, prefix, step, Sequences(1, Box([(-1, 1)])), 0.01)
    assert not everywhere.certificate.proved
    proof = prove_sequences(model, prefix, step, Sequences(1, Box([(-1, 1)]), [(0, 0.0, 0.05)]), 0.01, p=2)
    assert proof.certificate.proved
    assert proof.certificate.error_upper < 1e-3
    assert proof.exceptional_measure == pytest.approx(0.05, rel=1e-9)
    assert 1 <= proof.error_everywhere <= 2 + 1e-9
    x = np.linspace(-1, 1, 200_001)
    actual = np.sqrt(np.mean((np.tanh(100 * x) - np.sign(x)) ** 2))
    assert actual <= proof.lp_bound <= 2 * np.sqrt(0.0501)


def test_gathered_heads_describe_the_model():
    """Random two-layer models whose first scores depend on positions alone: exact and executed outputs against the affine head."""
    rng = np.random.default_rng(5)
    for case in range(6):
        T, d, k, width = 2 + case % 2, 1 + case % 2, 2, 7
        E = np.zeros((width, d))
        E[:d] = rng.normal(size=(d, d))
        positions = np.zeros((T, width))
        positions[:, d : d + 2] = rng.normal(size=(T, 2))
        feed = np.zeros((3, width))
        feed[:, d : d + 2] = rng.normal(size=(3, 2))
        write = np.zeros((width, 3))
        write[:5] = rng.normal(size=(5, 3))
        first = [Head(feed, write, feed[::-1].copy(), rng.normal(size=(3, width))), Head(feed * 2, write)]
        output = np.zeros((width, 2))
        output[5:] = rng.normal(size=(2, 2))
        second = Head(rng.normal(size=(4, width)), output)
        readout = np.zeros((k, width))
        readout[:, 5:] = rng.normal(size=(2, 2))
        offset = np.zeros(width)
        offset[:5] = rng.normal(size=5)
        layers = (Layer(tuple(first), residual=True), Layer((second,), residual=case % 3 > 0))
        model = Transformer(E, offset, layers, readout, positions)
        keys = ((rng.normal(size=(3, 3)), rng.normal(size=(4, 3))), (rng.normal(size=(9, 4)) * 5,))
        values = ((rng.normal(size=(3, 3)), rng.normal(size=(4, 3))), (rng.normal(size=(9, 2)),))
        prefix = Prefix(keys, values)
        domain = Sequences(T, Box([(-1, 1)] * d))
        points = domain.sample(40, seed=case)
        for t in range(T):
            head = gathered_head(model, prefix, domain, t)
            assert head.logit_slack.max() < 1e-9
            flat = points.reshape(len(points), -1)
            series = enclose_head(head, Tokens(np.arange(9), 0.0, np.zeros(k)), Cells.boxes(flat, flat), 1)
            exact = np.array([[float(v) for v in exact_forward(model, prefix, x)[t]] for x in points[:3]])
            executed = forward(model, prefix, points)[:, t]
            for i in range(k):
                part = series.parts[i][0]
                assert part is not None
                reach = part.rad[:, 0] + series.remainder[:, i]
                assert (np.abs(executed[:, i] - part.mid[:, 0]) <= reach + series.rounding[:, i]).all()
                assert (np.abs(exact[:, i] - part.mid[:3, 0]) <= reach[:3] + 1e-15).all()
                assert (reach + series.rounding[:, i]).max() < 1e-7


def test_gathered_heads_refuse_what_they_do_not_describe():
    model, prefix = single([[0.0, 0.0]], [[0.0]])
    with pytest.raises(UnsupportedModelError, match="two layers"):
        gathered_head(model, prefix, Sequences(1, Box.unit(1)), 0)
    depends = Layer((Head(np.eye(2), np.eye(2), np.eye(2), np.eye(2)),))
    deep = Transformer(model.embedding, model.offset, (depends, *model.layers), model.readout)
    two = Prefix(((np.zeros((1, 2)),), *prefix.keys), ((np.zeros((1, 2)),), *prefix.values))
    with pytest.raises(UnsupportedModelError, match="depend on the data"):
        gathered_head(deep, two, Sequences(1, Box.unit(1)), 0)
