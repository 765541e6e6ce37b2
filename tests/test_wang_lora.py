"""Prompts against low-rank updates: floors hold for every prompt tried, are reached by prompts built, and follow from the stored numbers."""

from itertools import pairwise

import matplotlib.pyplot as plt
import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tampering import rewrite

from constructions.plots.lora import draw_floors, draw_imitations, draw_parameters
from constructions.wang2023.lora.dataset import generated_dataset
from constructions.wang2023.lora.floor import short_prompt_floor
from constructions.wang2023.lora.imitation import imitations
from constructions.wang2023.lora.layer import SingleHead, outputs, random_head
from constructions.wang2023.lora.prompts import best_prompt, one_token, served, with_row_norms
from constructions.wang2023.lora.table import parameters_table
from constructions.wang2023.lora.tuned import tuned_prompt
from verify import ArtefactError, StatementError, Status, check_statement, load_statement
from verify.ball import Ball
from verify.lora_error import LayerError
from verify.lora_floor import LoraFloor
from verify.lora_run import AttentionTask, LowRank, Prompt
from verify.spectral import frobenius_upper, spectral_upper

plt.switch_backend("Agg")


@pytest.fixture(scope="module")
def keys():
    return generated_dataset(random_head(12, seed=1), 4)


@pytest.fixture(scope="module")
def values():
    return generated_dataset(random_head(12, seed=1), 4, update="values")


def error(task, **change):
    layer = SingleHead(task.w_q, task.w_k, task.w_v)
    return float(np.linalg.norm(outputs(layer, task.sequences, **change) - task.targets, axis=1).max())


def random_task(seed, n=3, d=5, d_v=4, length=2):
    rng = np.random.default_rng(seed)
    w_q, w_k = rng.standard_normal((2, 3, d))
    return AttentionTask(
        w_q, w_k, rng.standard_normal((d_v, d)), rng.standard_normal((n, length, d)), rng.standard_normal((n, d_v))
    )


@pytest.mark.parametrize("update", ["keys", "queries", "values"])
@pytest.mark.parametrize(("n", "d"), [(1, 3), (2, 9), (4, 12), (8, 24)])
def test_the_update_memorises(update, n, d):
    data = generated_dataset(random_head(d, seed=n), n, update=update, seed=d)
    assert data.verdict.proved
    assert data.update.rank == 1
    assert data.update.numbers == 2 * d
    assert data.verdict.upper < 1e-13
    plain = LayerError(data.task, 0.1).decide()
    assert plain.status is Status.REFUTED  # without the update it is far off
    assert plain.lower <= error(data.task) * (1 + 1e-12)


@pytest.mark.parametrize("update", ["keys", "queries"])
@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_floor_and_prompt_meet(update, n):
    """The infimum over all prompts of N < n tokens, whatever their keys and values, is known to seven digits."""
    data = generated_dataset(random_head(3 * n, seed=n), n, update=update)
    floors = [short_prompt_floor(data, tokens) for tokens in range(n + 1)]
    for f in floors[:-1]:
        assert f.verdict.proved
        assert 0 < f.floor <= f.attained <= f.floor * (1 + 1e-6)
    assert floors[-1].floor == 0
    assert floors[-1].attained < 1e-10
    assert all(a.floor > b.floor for a, b in pairwise(floors))


def test_the_closed_form(keys):
    """floor^2 = max_s (s - N) / sum_{i <= s} d_i^-2, with d_i the distance of z_i to the segment [0, a_i]."""
    layer = keys.layer
    a, z = outputs(layer, keys.sequences), keys.targets
    share = np.clip((z * a).sum(axis=1) / (a * a).sum(axis=1), 0, 1)
    d = np.sort(np.linalg.norm(z - share[:, None] * a, axis=1))[::-1]
    for tokens in range(1, 4):
        best = max((s - tokens) / (d[:s] ** -2.0).sum() for s in range(tokens + 1, 5)) ** 0.5
        assert short_prompt_floor(keys, tokens).floor == pytest.approx(best, rel=1e-12)
        # never less than the bound with equal weights (Eckart and Young)
        assert best >= np.sqrt((d[tokens:] ** 2).sum() / 4) * (1 - 1e-12)


@given(st.integers(0, 10**6), st.integers(1, 4), st.sampled_from([0.1, 1.0, 30.0]))
def test_no_prompt_beats_the_floor(seed, tokens, size):
    task = random_task(seed)
    rng = np.random.default_rng(seed + 1)
    floor = LoraFloor(task, tokens, 0.0).decide().lower
    for _ in range(5):
        prompt = Prompt(size * rng.standard_normal((tokens, 3)), size * rng.standard_normal((tokens, 4)))
        assert error(task, prompt=prompt) >= floor


@pytest.mark.parametrize("tokens", [1, 2, 3])
def test_no_trained_prompt_beats_the_floor(keys, tokens):
    floor = short_prompt_floor(keys, tokens).floor
    found = tuned_prompt(keys.task, tokens, starts=2, seed=tokens)[1]
    assert floor <= found <= 1.02 * floor
    task = random_task(tokens, n=5, d=8, d_v=7)  # nothing is orthogonal here
    low = short_prompt_floor(task, tokens)
    assert low.verdict.proved
    assert tuned_prompt(task, tokens, starts=2)[1] >= low.floor


def test_projection_gives_floors_where_nothing_is_orthogonal():
    rng = np.random.default_rng(5)
    task = random_task(1, n=3, d=12, d_v=12)
    mixed = AttentionTask(
        task.w_q, task.w_k, task.w_v, task.sequences, rng.standard_normal((3, 12)) + rng.standard_normal(12)
    )
    verdict = LoraFloor(mixed, 1, 0.0).decide()
    assert verdict.lower > 0.3
    assert "span" in verdict.route
    assert tuned_prompt(mixed, 1)[1] >= verdict.lower


def test_values_have_no_lasting_floor(values):
    found = imitations(values)
    assert all(i.verdict.proved for i in found)
    errors = [i.error for i in found]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-7
    for before, after in pairwise(found):  # the error is the inverse of the value's size
        assert before.error * before.size == pytest.approx(after.error * after.size, rel=0.2)
    assert short_prompt_floor(values, 1).floor == 0


def test_updates_of_keys_are_not_imitated(keys):
    with pytest.raises(StatementError, match="along one ray"):
        one_token(keys.task, 1e-3)


def test_prompts_need_independent_queries():
    data = generated_dataset(random_head(12, 2, seed=0), 4)
    assert best_prompt(data.task, 2) is None
    floor = short_prompt_floor(data, 2)  # holds all the same
    assert floor.verdict.proved
    assert floor.floor > 0.3
    assert floor.attained == np.inf
    with pytest.raises(StatementError, match="d_k >= 4"):
        one_token(generated_dataset(random_head(12, 2, seed=0), 4, update="values").task, 1e-3)


def test_the_layer_in_fifty_digits(keys):
    """The enclosure of the error contains an independent evaluation."""
    task, up, down = keys.task, keys.update.up, keys.update.down
    prompt = Prompt(np.full((2, 12), 0.25), np.linspace(-1, 1, 24).reshape(2, 12))
    verdict = LayerError(task, 10.0, keys.update, prompt).decide()
    with mp.workdps(50):

        def matrix(x):
            return mp.matrix([[mp.mpf(float(v)) for v in row] for row in np.atleast_2d(x)])

        w_k = matrix(task.w_k) + matrix(up) * matrix(down)
        worst = mp.mpf(0)
        for x, z in zip(task.sequences, task.targets, strict=True):
            query = matrix(task.w_q) * matrix(x[-1]).T
            tokens = [matrix(t).T for t in x]
            ks = [w_k * t for t in tokens] + [matrix(k).T for k in prompt.keys]
            vs = [matrix(task.w_v) * t for t in tokens] + [matrix(v).T for v in prompt.values]
            logits = [(query.T * k)[0] / mp.sqrt(12) for k in ks]
            mass = [mp.exp(l) for l in logits]
            miss = sum((m * v for m, v in zip(mass, vs, strict=True)), mp.zeros(12, 1)) / mp.fsum(mass) - matrix(z).T
            worst = max(worst, mp.norm(miss))
        assert mp.mpf(verdict.lower) <= worst <= mp.mpf(verdict.upper)
        assert verdict.upper - verdict.lower < 1e-14


def test_files(tmp_path, keys):
    floor = short_prompt_floor(keys, 2)
    path = floor.save(tmp_path / "floor.st")
    assert load_statement(path).verdict == floor.verdict
    assert check_statement(path) == floor.verdict
    assert check_statement(keys.save(tmp_path / "update.st")).proved

    def weaker(arrays):
        arrays["w_v"] = arrays["w_v"] * 0.5

    with pytest.raises(ArtefactError):
        check_statement(rewrite(path, tmp_path / "forged.st", arrays=weaker, rehash=False))

    def better(document):
        document["data"]["floor"] = (1.01 * floor.floor).hex()

    forged = check_statement(rewrite(path, tmp_path / "more.st", document=better))
    assert forged.status is Status.REFUTED  # the stored prompt shows it

    def nearer(arrays):
        arrays["targets"] = 0.9 * arrays["targets"] + 0.1 * outputs(keys.layer, keys.sequences)

    assert not check_statement(rewrite(path, tmp_path / "nearer.st", arrays=nearer)).proved

    def worse(arrays):
        arrays["up"] = arrays["up"] * 1.01

    assert (
        check_statement(rewrite(keys.save(tmp_path / "u.st"), tmp_path / "v.st", arrays=worse)).status is Status.REFUTED
    )

    def missing(document):
        document["data"]["tokens"] = "two"

    with pytest.raises(ArtefactError, match="tokens"):
        check_statement(rewrite(path, tmp_path / "bad.st", document=missing))


def test_floor_statement_above_what_is_known(keys):
    floor = short_prompt_floor(keys, 2)
    said = LoraFloor(keys.task, 2, floor.floor * (1 + 1e-9))
    verdict = said.decide()
    assert verdict.status is Status.UNDECIDED
    assert "state less" in verdict.reason
    assert "every prompt of 2 tokens" in said.sentence
    assert LoraFloor(keys.task, 2, floor.floor).decide(seconds=0.0).status is Status.UNDECIDED


@pytest.mark.parametrize("scale", [0.0, 5e-324, 1e-160, 1e150, 1e300])
@pytest.mark.parametrize("part", ["w_q", "w_v", "sequences", "targets"])
def test_hostile_numbers_are_never_a_crash(scale, part):
    arrays = random_task(0).arrays()
    with np.errstate(over="ignore"):
        arrays[part] = arrays[part] * scale
    if not np.isfinite(arrays[part]).all():
        return
    task = AttentionTask(**arrays)
    prompt = Prompt(np.full((1, 3), 1e200), np.full((1, 4), -1e300))
    for tokens in (0, 1, 3):
        verdict = LoraFloor(task, tokens, 0.5, prompt if tokens == 1 else None).decide()
        assert 0 <= verdict.lower <= verdict.upper
    verdict = LayerError(task, 1.0, prompt=prompt).decide()
    assert verdict.status in (Status.REFUTED, Status.UNDECIDED)


def test_bad_input_is_named():
    arrays = random_task(0).arrays()
    broken = arrays["w_k"].copy()
    broken[1, 2] = np.nan
    with pytest.raises(StatementError, match=r"w_k\[1, 2\] = nan"):
        AttentionTask(**{**arrays, "w_k": broken})
    with pytest.raises(StatementError, match=r"targets: shape \(2, 4\), expected \(3, 4\)"):
        AttentionTask(**{**arrays, "targets": np.zeros((2, 4))})
    task = random_task(0)
    with pytest.raises(StatementError, match="tokens = -1"):
        LoraFloor(task, -1, 0.0)
    with pytest.raises(StatementError, match="floor = nan"):
        LoraFloor(task, 1, float("nan"))
    with pytest.raises(StatementError, match="prompt: 2 tokens, but the statement is about 1"):
        LoraFloor(task, 1, 0.0, Prompt(np.zeros((2, 3)), np.zeros((2, 4))))
    with pytest.raises(StatementError, match="to = 'biases'"):
        LayerError(task, 0.0, LowRank("biases", np.zeros((3, 1)), np.zeros((1, 5))))
    with pytest.raises(StatementError, match="3n = 12"):
        generated_dataset(random_head(11, seed=0), 4)
    layer = random_head(12, seed=0)
    flat = layer.w_v.copy()
    flat[3] = flat[2]
    with pytest.raises(StatementError, match=r"w_v: rank 11 .* full row rank 12 is assumed"):
        generated_dataset(SingleHead(layer.w_q, layer.w_k, flat), 4)
    with pytest.raises(StatementError, match="w_q: queries vanish"):
        generated_dataset(SingleHead(0 * layer.w_q, layer.w_k, layer.w_v), 4)
    with pytest.raises(StatementError, match="w_k: no update of the queries"):
        generated_dataset(random_head(12, 5, seed=0), 4, update="queries")
    with pytest.raises(StatementError, match="update = 'bias'"):
        generated_dataset(layer, 4, update="bias")


@given(st.integers(0, 10**6), st.integers(1, 9))
def test_rows_of_an_isometry(seed, s):
    """Schur and Horn: every diagonal in [0, 1] with an integer sum is that of a projection."""
    rng = np.random.default_rng(seed)
    lengths = rng.uniform(0.1, 2.0, s) ** 3
    for tokens in range(s):
        chosen, left = served(lengths, tokens)
        f = with_row_norms(left)
        np.testing.assert_allclose(f.T @ f, np.eye(len(chosen) - tokens), atol=1e-12)
        np.testing.assert_allclose((f * f).sum(axis=1), left, atol=1e-12)
        assert left.max() <= 1


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 6), st.sampled_from([1e-300, 1e-100, 1e-5, 1.0, 1e90]))
def test_spectral_norms_are_enclosed(seed, a, b, scale):
    rng = np.random.default_rng(seed)
    x = scale * rng.standard_normal((a, b))
    x[:, : rng.integers(0, b)] *= 1e-9
    with mp.workdps(40):
        exact = max(mp.svd_r(mp.matrix([[mp.mpf(float(v)) for v in row] for row in x]), compute_uv=False))
    assert mp.mpf(spectral_upper(Ball.exact(x))) >= exact
    if scale > 1e-290:
        assert spectral_upper(Ball.exact(x)) <= float(exact) * (1 + 1e-11) + 1e-280
    assert spectral_upper(Ball(x, np.full_like(x, scale))) >= np.linalg.norm(
        x + scale * np.sign(rng.standard_normal(x.shape)), 2
    )
    assert frobenius_upper(Ball.exact(x)) >= float(exact)
    assert spectral_upper(Ball.exact(np.full((2, 2), np.inf))) == np.inf
    assert spectral_upper(Ball.exact(np.zeros((3, 2)))) == 0


def test_table_and_pictures(values):
    rows = parameters_table([2, 4], tune=True)
    assert [row.update_numbers for row in rows] == [12, 24]
    assert [row.prompt_numbers(row.enough_tokens) for row in rows] == [12, 48]
    assert all(row.update_error < 1e-13 for row in rows)
    assert all(found >= row.floors[t].floor for row in rows for t, found in row.tuned)
    assert "proved" in repr(rows[1])
    assert "proved" in repr(rows[1].floors[1])
    assert "proved" in repr(rows[1].dataset)
    assert "\n" not in repr(rows[1]) + repr(rows[1].floors[1]) + repr(imitations(values, [0.1]))
    for figure in (draw_floors(rows), draw_parameters(rows), draw_imitations(imitations(values, [0.1, 0.01]))):
        legend = figure.axes[0].get_legend()
        assert legend is not None
        assert "proved" in " ".join(t.get_text() for t in legend.get_texts())
        plt.close(figure)
    few = parameters_table([4], tokens=[3, 9], d=15)
    assert [f.tokens for f in few[0].floors] == [3]
    assert few[0].d == 15
