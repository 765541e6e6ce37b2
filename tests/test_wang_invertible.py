"""Invertible transformers: proved Lipschitz constants exceed every slope found, inverses undo the model, floors hold for every prefix tried."""

from itertools import pairwise

import matplotlib.pyplot as plt
import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf
from tampering import rewrite

from constructions.plots.invertible import draw_blocks, draw_lipschitz
from constructions.wang2023.invertible.floor import shared_target_floor
from constructions.wang2023.invertible.inverse import inverse
from constructions.wang2023.invertible.model import added, apply_model, random_model, random_prefixes
from constructions.wang2023.invertible.rescaled import rescaled
from constructions.wang2023.invertible.slopes import largest_slope, lipschitz_curve, slope_at
from constructions.wang2023.invertible.verdict import invertibility
from verify import ArtefactError, StatementError, Status, check_statement, load_statement
from verify.activations import ACTIVATIONS
from verify.invertible import Invertible, InvertibleFloor
from verify.invertible_lipschitz import block_bound
from verify.invertible_model import AttentionBlock, FeedForwardBlock, ResidualModel, block_output, rows_of
from verify.invertible_preimage import Preimage
from verify.precision import arb_bounds, working_precision

plt.switch_backend("Agg")


def sequences(rng, many, length, d, radius):
    x = rng.standard_normal((many, length, d))
    return radius * rng.uniform(0.2, 0.999, (many, length, 1)) * x / np.linalg.norm(x, axis=-1, keepdims=True)


def legend_of(figure):
    legend = figure.axes[0].get_legend()
    assert legend is not None
    return " ".join(t.get_text() for t in legend.get_texts())


def size(x):
    return float(np.linalg.norm(x, axis=-1).max())


@pytest.fixture(scope="module")
def model():
    return rescaled(random_model(8, 2, seed=0), 1.0, 1.0).model


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("radius", [0.3, 3.0])
def test_no_slope_exceeds_the_bound(heads, radius):
    """Ascent, and difference quotients of random pairs with random prefixes."""
    rng = np.random.default_rng(heads)
    for seed in range(2):
        block = random_model(4, 1, heads=heads, seed=seed).blocks[0]
        bound = block_bound(block, radius, radius)
        slope = largest_slope(block, radius, radius, starts=1, seed=seed)
        assert (
            slope <= bound.lipschitz <= 2.6 * slope
        )  # and not far above: 3 to 13 times is what the crude bound leaves
        assert largest_slope(block, radius, radius, tokens=2, prefix=2, starts=1) <= bound.lipschitz
        for x, y, p in zip(*(sequences(rng, 20, 3, 4, radius) for _ in range(3)), strict=True):
            assert size(added(block, x, p) - added(block, y, p)) <= bound.lipschitz * size(x - y)
            near = y + 1e-4 * (x - y)
            assert size(added(block, near, p) - added(block, y, p)) <= bound.lipschitz * size(near - y) * (1 + 1e-9)
            assert size(added(block, x, p)) <= bound.reach


def test_a_prefix_further_out_counts():
    block = random_model(4, 1, seed=3).blocks[0]
    assert isinstance(block, AttentionBlock)
    inside, outside = block_bound(block, 1.0, 1.0), block_bound(block, 1.0, 5.0)
    assert outside.lipschitz > inside.lipschitz
    assert largest_slope(block, 1.0, 5.0, tokens=2, prefix=2, starts=2) <= outside.lipschitz
    assert block_bound(block, 1.0, 0.5).lipschitz == inside.lipschitz


def test_single_heads_are_close():
    """For one head the bound is within a few per cent of what ascent finds, on small balls within one."""
    for seed in range(2):
        block = random_model(4, 1, heads=1, seed=seed).blocks[0]
        for radius, factor in ((0.3, 1.01), (1.0, 1.03), (4.0, 1.06)):
            slope = largest_slope(block, radius, radius, starts=1)
            assert slope <= block_bound(block, radius, radius).lipschitz <= factor * slope


def test_the_derivative_is_the_derivative():
    rng = np.random.default_rng(0)
    for block in random_model(4, 1, seed=2).blocks:
        x, p = sequences(rng, 1, 3, 4, 1.0)[0], sequences(rng, 1, 2, 4, 1.0)[0]
        found = max(
            np.linalg.norm((added(block, x + 1e-6 * v, p) - added(block, x - 1e-6 * v, p))[0]) / 2e-6
            for v in rng.standard_normal((300, 3, 4))
            for v in [v / np.linalg.norm(v, axis=1, keepdims=True)]
        )
        slope = slope_at(block, x, p)
        assert 0.6 * slope <= found <= slope * (1 + 1e-6)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
@given(st.floats(-6, 6), st.floats(0, 5), st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_slopes_of_activations(name, lo, width, shares):
    low, high = ACTIVATIONS[name].slopes(lo, lo + width)
    act = {"relu": lambda x: max(x, mp.mpf(0)), "tanh": mp.tanh, "gelu": lambda x: x * mp.ncdf(x)}[name]
    with mp.workdps(50):
        points = [mp.mpf(lo) + mp.mpf(s) * (mp.mpf(lo + width) - mp.mpf(lo)) for s in shares]
        for a, b in pairwise(points):
            if a != b:
                quotient = (act(a) - act(b)) / (a - b)
                assert mp.mpf(low) - mp.mpf(10) ** -25 <= quotient <= mp.mpf(high) + mp.mpf(10) ** -25
    assert ACTIVATIONS[name].slopes(-np.inf, np.inf)[1] >= ACTIVATIONS[name].slopes(lo, lo + width)[1]


def test_feed_forward_uses_the_actual_biases():
    """Far from its kink a ReLU is affine, and the bound is that of the affine map."""
    rng = np.random.default_rng(0)
    w_1, w_2 = rng.standard_normal((6, 3)), rng.standard_normal((3, 6))
    block = FeedForwardBlock(w_1, np.full(6, 100.0), w_2, np.zeros(3), "relu")
    exact = np.linalg.norm(w_2 @ w_1, 2)
    assert exact <= block_bound(block, 1.0, 0.0).lipschitz <= exact * (1 + 1e-10)
    off = FeedForwardBlock(w_1, np.full(6, -100.0), w_2, np.zeros(3), "relu")
    assert block_bound(off, 1.0, 0.0).lipschitz <= 1e-200
    for activation, factor in (("gelu", 2.0), ("tanh", 1.5)):
        for seed in range(3):
            some = random_model(4, 1, activation=activation, seed=seed).blocks[1]
            for radius in (0.3, 3.0):
                slope = largest_slope(some, radius, 0.0)
                assert slope <= block_bound(some, radius, 0.0).lipschitz <= factor * slope
    near = FeedForwardBlock(w_1, np.zeros(6), w_2, np.zeros(3), "relu")
    assert (
        largest_slope(near, 1.0, 0.0)
        <= block_bound(near, 1.0, 0.0).lipschitz
        <= np.linalg.norm(w_2, 2) * np.linalg.norm(w_1, 2)
    )


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_rescaled_models_are_invertible(activation):
    given_model = random_model(6, 2, activation=activation, seed=4)
    before = invertibility(given_model, 1.0, 2.0)
    assert not before.proved
    assert "block 1 (attention): the Lipschitz constant on the ball of radius 1 " in before.verdict.reason
    scaled = rescaled(given_model, 1.0, 2.0, limit=0.6)
    assert all(0 < f < 1 for f in scaled.factors)
    after = invertibility(scaled.model, 1.0, 2.0)
    assert after.proved
    assert 0.4**4 * 0.999 <= after.least_slope <= 0.4**4 * 1.01
    again = rescaled(scaled.model, 1.0, 2.0, limit=0.6)
    assert again.factors == (1.0,) * 4
    rng = np.random.default_rng(1)
    prefixes = random_prefixes(scaled.model, 3, 2.0, seed=0)
    for x, y in zip(sequences(rng, 10, 4, 6, 1.0), sequences(rng, 10, 4, 6, 1.0), strict=True):
        for other in (y, x + 1e-3 * (y - x)):
            ratio = size(apply_model(scaled.model, x, prefixes) - apply_model(scaled.model, other, prefixes)) / size(
                x - other
            )
            assert after.verdict.lower <= ratio <= after.verdict.upper


def test_only_the_block_in_the_way_is_named(model):
    blocks = list(model.blocks)
    third = blocks[2]
    assert isinstance(third, AttentionBlock)
    blocks[2] = AttentionBlock(third.w_q, third.w_k, third.w_v, 5 * third.w_o)
    verdict = invertibility(ResidualModel(tuple(blocks)), 1.0, 1.0)
    assert verdict.verdict.reason.startswith("block 3 (attention)")
    assert "less than 1 is assumed" in verdict.verdict.reason
    assert verdict.bounds[1].lipschitz < 1 < verdict.bounds[2].lipschitz
    assert verdict.verdict.numbers["Lipschitz constant of block 1 (attention)"] < 1


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(0, 4))
def test_the_inverse_undoes_the_model(seed, length, tokens):
    small = rescaled(random_model(4, 1, seed=seed % 5), 1.0, 1.0, limit=0.7).model
    x = 0.95 * sequences(np.random.default_rng(seed), 1, length, 4, 1.0)[0]
    prefixes = random_prefixes(small, tokens, 1.0, seed=seed)
    found = inverse(small, apply_model(small, x, prefixes), 1.0, prefixes=prefixes)
    assert found.verdict.proved
    assert found.error < 1e-13
    # the float64 forward pass is off by some 1e-16 itself, and the inverse stretches that by at most 1 / 0.09
    assert size(found.sequence - x) <= found.error + 1e-14


def test_an_inverse_that_is_not_there(model):
    far = np.full((2, 8), 50.0)
    found = inverse(model, far, 1.0)
    assert not found.verdict.proved
    assert "does not stay in the ball" in found.verdict.reason
    assert found.error == np.inf
    unscaled = inverse(random_model(8, 2, seed=0), np.zeros((2, 8)), 1.0, most=50)
    assert "less than 1 is assumed" in unscaled.verdict.reason


def test_a_wrong_inverse_is_not_proved(model):
    x = sequences(np.random.default_rng(0), 1, 3, 8, 0.9)[0]
    found = inverse(model, apply_model(model, x), 1.0)
    s = found.statement
    moved = np.array(s.states)
    moved[0, 0, 0] += 1e-6
    verdict = Preimage(s.model, s.radius, s.prefixes, s.output, moved, s.error).decide()
    assert verdict.status is Status.UNDECIDED
    assert verdict.upper > 1e-7
    # the bound holds: the real preimage is still there
    assert size(moved[0] - x) <= verdict.upper


def test_no_prefix_beats_the_floor(model):
    rng = np.random.default_rng(0)
    x, y = sequences(rng, 2, 4, 8, 1.0)
    floor = shared_target_floor(model, x, y, 1.0)
    assert floor.verdict.proved
    assert floor.floor > 0.02
    for seed in range(40):
        prefixes = random_prefixes(model, 1 + seed % 4, 1.0, seed=seed)
        a, b = apply_model(model, x, prefixes), apply_model(model, y, prefixes)
        middle = (a + b) / 2  # the best target there is
        assert floor.floor <= max(size(a - middle), size(b - middle)) <= floor.verdict.upper
    assert shared_target_floor(model, x, x, 1.0).floor == 0
    undecided = shared_target_floor(random_model(8, 2, seed=0), x, y, 1.0)
    assert undecided.floor == 0
    assert "block 1 (attention)" in undecided.verdict.reason
    more = InvertibleFloor(model, np.stack([x, y]), 1.0, 2 * floor.floor).decide()
    assert more.status is Status.UNDECIDED
    assert InvertibleFloor(model, np.stack([x, y]), 1.0, 100.0).decide().status is Status.REFUTED


def test_files(tmp_path, model):
    x, y = sequences(np.random.default_rng(0), 2, 3, 8, 0.9)
    prefixes = random_prefixes(model, 2, 1.0, seed=0)
    results = {
        "invertible": invertibility(model, 1.0, 1.0),
        "floor": shared_target_floor(model, x, y, 1.0),
        "inverse": inverse(model, apply_model(model, x, prefixes), 1.0, prefixes=prefixes),
        "bare": inverse(model, apply_model(model, x), 1.0),
    }
    for name, result in results.items():
        path = result.save(tmp_path / f"{name}.st")
        assert load_statement(path).verdict == result.verdict
        assert check_statement(path) == result.verdict
        assert "proved" in repr(result)
        assert "\n" not in repr(result)
        with pytest.raises(ArtefactError):
            check_statement(
                rewrite(
                    path,
                    tmp_path / "f.st",
                    arrays=lambda a: a.update({"block0.w_o": 2 * a["block0.w_o"]}),
                    rehash=False,
                )
            )
        loud = rewrite(path, tmp_path / "g.st", arrays=lambda a: a.update({"block0.w_o": 3 * a["block0.w_o"]}))
        verdict = check_statement(loud)
        assert verdict.status is Status.UNDECIDED
        assert "block 1 (attention)" in verdict.reason
        assert "could not be proved again" in verdict.reason

    def callable_name(document):
        document["data"]["blocks"][1] = "os.system"

    with pytest.raises(ArtefactError, match=r"activation = 'os\.system' is unknown"):
        check_statement(rewrite(tmp_path / "invertible.st", tmp_path / "h.st", document=callable_name))
    with pytest.raises(ArtefactError, match="is missing"):
        check_statement(rewrite(tmp_path / "invertible.st", tmp_path / "i.st", arrays=lambda a: a.pop("block1.w_1")))


def test_the_model_in_balls(model):
    """The kernel's run encloses the float64 one."""
    x, p = sequences(np.random.default_rng(0), 2, 3, 8, 1.0)
    with working_precision(128):
        for block in model.blocks:
            balls = block_output(block, rows_of(x), p, np.inf)
            for row, floats in zip(balls, added(block, x, p), strict=True):
                for ball, value in zip(row, floats, strict=True):
                    low, high = arb_bounds(ball)
                    assert low - 1e-14 <= value <= high + 1e-14
                    assert high - low < 1e-14
    h = np.linspace(-3, 3, 7)
    one = FeedForwardBlock(np.eye(7), np.zeros(7), np.eye(7), np.zeros(7), "gelu")
    np.testing.assert_allclose(added(one, h[None])[0], h * (1 + erf(h / np.sqrt(2))) / 2, atol=1e-15)


def test_bad_input_is_named():
    rng = np.random.default_rng(0)
    good = random_model(4, 1, seed=0)
    attention, feed = good.blocks
    assert isinstance(attention, AttentionBlock)
    assert isinstance(feed, FeedForwardBlock)
    with pytest.raises(StatementError, match=r"activation = .* is a function: no Lipschitz constant is proved"):
        FeedForwardBlock(feed.w_1, feed.b_1, feed.w_2, feed.b_2, np.tanh)  # type: ignore[arg-type]
    with pytest.raises(StatementError, match="activation = 'swish' is unknown"):
        random_model(4, 1, activation="swish", seed=0)
    broken = attention.w_k.copy()
    broken[1, 0, 2] = np.inf
    with pytest.raises(StatementError, match=r"w_k\[1, 0, 2\] = inf"):
        AttentionBlock(attention.w_q, broken, attention.w_v, attention.w_o)
    with pytest.raises(StatementError, match="block 2: width 5, but block 1 has 4"):
        ResidualModel((attention, random_model(5, 1, heads=1, seed=0).blocks[1]))
    with pytest.raises(StatementError, match="blocks: none"):
        ResidualModel(())
    with pytest.raises(StatementError, match="radius = 0"):
        invertibility(good, 0.0, 1.0)
    with pytest.raises(StatementError, match="prefix_radius = -1"):
        Invertible(good, 1.0, -1.0)
    with pytest.raises(StatementError, match="prefixes: 2, but the model has 1"):
        apply_model(good, rng.standard_normal((2, 4)), [np.zeros((1, 4))] * 2)
    with pytest.raises(StatementError, match="limit = 1"):
        rescaled(good, 1.0, 1.0, limit=1.0)
    with pytest.raises(ValueError, match="first, second: shapes"):
        shared_target_floor(good, np.zeros((2, 4)), np.zeros((3, 4)), 1.0)


@pytest.mark.parametrize("scale", [0.0, 5e-324, 1e-200, 1e160, 1e300])
@pytest.mark.parametrize("part", ["w_q", "w_k", "w_v", "w_o", "w_1", "b_1", "w_2", "b_2"])
def test_hostile_numbers_are_never_a_crash(part, scale):
    blocks = []
    for block in random_model(4, 1, seed=0).blocks:
        arrays = {n: getattr(block, n) for n in block.__dataclass_fields__}
        if part in arrays:
            arrays[part] = arrays[part] * scale
            if not np.isfinite(arrays[part]).all():
                return
        blocks.append(type(block)(**arrays))
    hostile = ResidualModel(tuple(blocks))
    x = np.array([[[0.5, 0, 0, 0]], [[0, 0.5, 0, 0]]])
    for radius in (1e-300, 1.0, 1e300):
        verdict = Invertible(hostile, radius, 1.0).decide()
        assert 0 <= verdict.lower <= verdict.upper
    verdict = InvertibleFloor(hostile, x, 1.0, 0.1).decide()
    assert 0 <= verdict.lower <= verdict.upper
    verdict = Preimage(hostile, 1.0, (np.zeros((0, 4)),), x[0], np.stack([x[0]] * 2), 1.0).decide()
    assert 0 <= verdict.lower <= verdict.upper


def test_out_of_time(model):
    assert "out of time" in Invertible(model, 1.0, 1.0).decide(seconds=0.0).reason


def test_pictures(model):
    curve = lipschitz_curve(model.blocks[0], [0.2, 0.6, 1.5, 3.0], starts=1)
    assert (curve.slopes <= curve.bounds).all()
    assert "times the slope found" in repr(curve)
    figure = draw_lipschitz(curve)
    words = legend_of(figure)
    assert "proved" in words
    assert "sampled" in words
    plt.close(figure)
    raw = random_model(8, 2, seed=0)
    both = draw_blocks([("as given", invertibility(raw, 1.0, 1.0)), ("rescaled", invertibility(model, 1.0, 1.0))])
    words = legend_of(both)
    assert "as given: not decided" in words
    assert "rescaled: proved invertible" in words
    plt.close(both)


def shrinking(d, blocks):
    """x -> x / 2 in every block, by ReLUs that are never at their kink: the bounds are attained."""
    block = FeedForwardBlock(np.eye(d), np.full(d, 50.0), -0.5 * np.eye(d), np.full(d, 25.0), "relu")
    return ResidualModel((block,) * blocks)


def test_the_floor_is_attained_where_the_model_shrinks_everything():
    x, y = sequences(np.random.default_rng(0), 2, 3, 4, 1.0)
    model = shrinking(4, 3)
    floor = shared_target_floor(model, x, y, 0.0)
    a, b = apply_model(model, x), apply_model(model, y)
    assert size(a - b) / 2 * (1 - 1e-9) <= floor.floor <= size(a - b) / 2 * (1 + 1e-12)


def test_errors_of_later_blocks_are_carried_to_the_first():
    x = np.array([[0.5, 0.25]])
    model = shrinking(2, 2)
    moved = x / 2 + np.array([[2.0**-10, 0.0]])  # not the input of block 2, but an exact output of block 1 at 2 moved
    verdict = Preimage(model, 1.0, (), x / 4, np.stack([2 * moved, moved]), 1.0).decide()
    assert verdict.proved
    assert size(2 * moved - x) <= verdict.upper * (1 + 1e-12)


def test_equal_heads_add_up():
    """Two heads whose matrices all agree reach the sum of both: nothing may be lost between heads."""
    one = np.stack([np.eye(2)] * 2)
    block = AttentionBlock(one, one, one, one)
    for radius in (0.5, 1.5):
        bound = block_bound(block, radius, radius).lipschitz
        assert 0.95 * bound <= largest_slope(block, radius, radius) <= bound
