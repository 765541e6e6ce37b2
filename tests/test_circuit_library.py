"""Short heads for single nodes, their cache, and the split of eps over nodes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

from constructions.circuits import head_cache
from constructions.circuits.allocate import allocate, tolerances
from constructions.circuits.canonical import canonical
from constructions.circuits.ladder import Ladder, NodeHead
from constructions.circuits.library import NodeLadder, estimate, heads_for
from constructions.circuits.products import product_heads
from constructions.circuits.rungs import Rung
from constructions.from_sympy import from_sympy

z = sp.Symbol("z", real=True)
Function = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """All tests of a run share one folder, which is not the user's."""
    monkeypatch.setenv("PREFIXC_CACHE", str(tmp_path_factory.getbasetemp() / "heads"))


def independent_error(head: NodeHead, f: Function, count: int = 20_011) -> float:
    """Sup over uniform points (not those of any fit) of |head + alpha u + beta - f|, softmax written out again."""
    u = np.linspace(head.lo[0], head.hi[0], count)
    logits = head.slopes[:, 0] * u[:, None] + head.biases
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    means = (weights * head.values).sum(axis=1) / weights.sum(axis=1)
    return float(np.abs(means + head.alpha[0] * u + head.beta - f(u)).max())


def plain(value) -> str:
    """Names of cases that are the same in every process."""
    return "f" if callable(value) and not isinstance(value, sp.Basic) else str(value)


@pytest.mark.parametrize(
    ("expression", "f", "lo", "hi", "tolerance", "most", "affine"),
    [
        (sp.log(z), np.log, 1.0, 5.0, 1.35e-7, 5, True),
        (sp.log(z), np.log, 1.0, 5.0, 7e-7, 5, False),
        (sp.sqrt(z), np.sqrt, 1.0, 5.0, 1e-6, 4, True),
        (sp.sin(z), np.sin, -np.pi, np.pi, 1e-6, 4, True),
        (sp.exp(z), np.exp, -2.0, 1.0, 1e-8, 2, False),
        (z**2, np.square, -1.0, 3.0, 1e-6, 2, True),
        (z**2 - 3 * z + 1, lambda u: u**2 - 3 * u + 1, 0.0, 3.0, 1e-8, 3, False),
        (sp.tanh(z), np.tanh, -3.0, 4.0, 1e-10, 2, False),
        (1 / (sp.exp(z) + sp.exp(-z)), lambda u: 0.5 / np.cosh(u), -2.0, 2.0, 1e-10, 3, False),
        (1 / z, np.reciprocal, 1.0, 4.0, 2e-4, 3, True),
    ],
    ids=plain,
)
def test_short_heads(expression, f, lo, hi, tolerance, most, affine):
    head = heads_for(expression, lo, hi, modulo_affine=affine).head(tolerance)
    assert head is not None
    assert head.tokens <= most
    assert independent_error(head, f) <= 0.975 * tolerance
    assert head.rounding <= 0.04 * tolerance
    if not affine:
        assert head.alpha[0] == 0.0 == head.beta


def test_ladders_decrease_and_keep_their_word():
    ladder = heads_for(sp.cos(z), 0.2, 2.2, modulo_affine=True)
    errors = [ladder.error(tokens) for tokens in range(1, 6)]
    assert ladder.error(0) == np.inf
    assert all(a > b for a, b in itertools.pairwise(errors))
    for tokens in range(1, 6):
        head = ladder.head(errors[tokens - 1])
        assert head is not None
        assert head.tokens <= tokens
        assert independent_error(head, np.cos) <= errors[tokens - 1]


def test_leaving_out_an_affine_function_never_costs_tokens():
    for expression, lo, hi in ((sp.log(z), 1.0, 3.0), (sp.exp(-(z**2)), -1.0, 1.5)):
        whole, part = (heads_for(expression, lo, hi, modulo_affine=affine) for affine in (False, True))
        assert all(part.error(tokens) <= 1.1 * whole.error(tokens) for tokens in range(1, 5))


@pytest.mark.parametrize(
    ("one", "box", "other", "other_box", "factor"),
    [
        (sp.log(z), (1, 5), 3 - 2 * sp.log(4 * z - 2), (1, 3), 2.0),
        (sp.exp(z), (-1, 1), 5 * sp.exp(-z / 2), (0, 4), 5 * np.exp(-1)),
        (1 / z, (1, 3), 1 / (-z), (2, 6), 0.5),
        (sp.sqrt(z), (0, 1), sp.sqrt(8 - 2 * z), (0, 4), 8**0.5),
        (sp.sin(z), (0, 1), sp.cos(z), (sp.pi / 2 + 0, sp.pi / 2 + 1), 1.0),
    ],
)
@pytest.mark.parametrize("affine", [False, True])
def test_ladders_depend_on_the_canonical_problem_alone(one, box, other, other_box, factor, affine):
    first = canonical(one, float(box[0]), float(box[1]), affine=affine)
    second = canonical(other, float(other_box[0]), float(other_box[1]), affine=affine)
    assert first.key == second.key
    assert abs(second.scale) == pytest.approx(factor * abs(first.scale), rel=1e-9)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize(
    ("expression", "lo", "hi"),
    [
        (3 - 2 * sp.log(4 * z - 2) + z, 1.0, 3.0),
        (sp.exp(1 - z) / 3, -1.0, 2.0),
        (sp.Integer(2) ** z, 0.0, 3.0),
        ((2 * z - 9) ** 3, 0.0, 3.0),
        (1 / (z - 7), 2.0, 5.0),
        (sp.sqrt(1 - z), -2.0, 1.0),
        (-4 * z**2 + z + 2, -1.0, 2.0),
        (z**4, -1.0, 2.0),
        (sp.cos(3 * z + 11) - z, -0.5, 0.25),
        (sp.tanh(2 - z), -3.0, 1.0),
        (z * sp.exp(-(z**2)) + 2 * z, -1.0, 1.0),
        (5 * z - 1, 0.0, 2.0),
        (sp.Integer(3), 0.0, 1.0),
    ],
    ids=plain,
)
def test_canonical_problems_are_the_function(expression, lo, hi, affine):
    problem = canonical(expression, lo, hi, affine=affine)
    u = np.linspace(lo, hi, 101)
    t = (u - problem.centre) / problem.radius
    if not problem.function.is_zero:
        assert np.abs(t).max() <= 1 + 1e-12
        assert np.abs(t).max() >= 0.98  # widened a little at most
    restored = problem.offset + problem.linear * u + problem.scale * problem.evaluate(np.clip(t, -1, 1))
    wanted = from_sympy([expression], ["z"]).evaluate(u[:, None])[:, 0]
    np.testing.assert_allclose(restored, wanted, rtol=1e-11, atol=1e-11)
    assert affine or problem.linear == 0.0


def test_constants_and_free_affine_functions_take_one_token():
    for expression in (sp.Integer(4), 3 * z - 1):
        head = heads_for(expression, -1.0, 2.0, modulo_affine=True).head(1e-12)
        assert head is not None
        assert head.tokens == 1
        assert independent_error(head, sp.lambdify(z, expression + 0 * z)) <= 1e-14


def test_the_kernels_expressions_are_taken_too():
    table = from_sympy([sp.log(z) / 2], ["z"])
    assert heads_for(table, 1.0, 2.0).error(3) == heads_for(sp.log(z) / 2, 1.0, 2.0).error(3)


def test_boxes_and_symbols_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="lo < hi"):
        heads_for(sp.log(z), 2.0, 2.0)
    with pytest.raises(ValueError, match="one symbol"):
        heads_for(z + sp.Symbol("y"), 1.0, 2.0)
    with pytest.raises(ValueError, match="lo < hi"):
        product_heads(np.zeros(2), np.array([1.0, 0.0]))
    assert heads_for(sp.log(z), -1.0, 1.0).head(1e-3) is None


def product_error(head: NodeHead, factor: float) -> float:
    axes = [np.linspace(head.lo[i], head.hi[i], 173) for i in range(2)]
    points = np.stack([a.ravel() for a in np.meshgrid(*axes)], axis=1)
    logits = points @ head.slopes.T + head.biases
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    means = (weights @ head.values) / weights.sum(axis=1)
    return float(np.abs(means + points @ head.alpha + head.beta - factor * points[:, 0] * points[:, 1]).max())


@pytest.mark.parametrize(
    ("lo", "hi", "tolerance", "most", "affine"),
    [
        ((-1.0, -1.0), (1.0, 1.0), 1e-6, 3, True),
        ((1.0, -2.0), (5.0, 7.0), 2e-5, 3, True),
        ((-1.0, -1.0), (1.0, 1.0), 1e-6, 4, False),
        ((1.0, 1.0), (5.0, 5.0), 1e-5, 5, False),
    ],
)
def test_products_are_one_short_head(lo, hi, tolerance, most, affine):
    head = product_heads(np.array(lo), np.array(hi), factor=-1.5, modulo_affine=affine).head(1.5 * tolerance)
    assert head is not None
    assert head.tokens <= most
    assert product_error(head, -1.5) <= 0.98 * 1.5 * tolerance
    assert head.rounding <= 0.04 * 1.5 * tolerance


def test_all_boxes_share_one_ladder_of_products():
    one = product_heads(np.array([-1.0, -1.0]), np.array([1.0, 1.0]), modulo_affine=True)
    other = product_heads(np.array([3.0, 0.0]), np.array([7.0, 1.0]), factor=-6.0, modulo_affine=True)
    assert other.error(3) == pytest.approx(6.0 * one.error(3), rel=1e-12)


class Table(Ladder):
    """A ladder by its errors; counts the rungs that were asked for."""

    def __init__(self, errors: list[float]) -> None:
        self.errors, self.most, self.asked = errors, len(errors), 0

    def error(self, tokens: int) -> float:
        self.asked = max(self.asked, tokens)
        return self.errors[min(tokens, self.most) - 1] if tokens >= 1 else np.inf

    def head(self, tolerance: float) -> NodeHead | None:
        return None


@pytest.mark.parametrize("seed", range(40))
def test_allocation_is_optimal(seed):
    rng = np.random.default_rng(seed)
    ladders, sensitivities = [], []
    for _ in range(rng.integers(1, 5)):
        drops = 10.0 ** -rng.uniform(0, 2, size=rng.integers(2, 7)) * (rng.random() + 0.5)
        ladders.append(Table(list(np.cumprod(drops))))
        sensitivities.append(float(10.0 ** rng.uniform(-1, 1)))
    eps = float(10.0 ** rng.uniform(-5, 0))
    choices = itertools.product(*(range(1, ladder.most + 1) for ladder in ladders))
    costs = {
        c: sum(s * ladder.error(n) for s, ladder, n in zip(sensitivities, ladders, c, strict=True)) for c in choices
    }
    possible = [sum(c) for c, cost in costs.items() if cost <= eps]
    found = allocate(ladders, sensitivities, eps)
    if not possible:
        assert found is None
        return
    assert found is not None
    assert sum(found) == min(possible)
    assert costs[tuple(found)] <= eps * (1 + 1e-12)
    split = tolerances(ladders, sensitivities, eps, found)
    assert sum(s * t for s, t in zip(sensitivities, split, strict=True)) <= eps
    assert all(t >= ladder.error(n) for t, ladder, n in zip(split, ladders, found, strict=True))


def test_allocation_asks_for_few_rungs_and_refuses_nonsense():
    ladders = [Table([10.0 ** (1 - n) for n in range(50)]) for _ in range(10)]
    assert allocate(ladders, [1.0] * 10, 1e-2) is not None
    assert max(ladder.asked for ladder in ladders) <= 7
    assert allocate([], [], 1.0) == []
    assert allocate([Table([1.0])], [0.0], 1e-9) == [1]
    for arguments in (([Table([1.0])], [], 1.0), ([Table([1.0])], [np.nan], 1.0), ([], [], 0.0)):
        with pytest.raises(ValueError, match=r"sensitivities|eps"):
            allocate(*arguments)


def test_estimates_are_close():
    for tolerance in (1e-3, 1e-6, 1e-9):
        ladder = heads_for(sp.log(z), 1.0, 5.0)
        exact = ladder.tokens(tolerance)
        assert exact is not None
        assert abs(estimate(sp.log(z), 1.0, 5.0, tolerance) - exact) <= 1


def counted(monkeypatch: pytest.MonkeyPatch, ladder: NodeLadder) -> list[int]:
    """Searches made from now on by this ladder's rungs."""
    made: list[int] = []
    search = ladder.rungs.search
    monkeypatch.setattr(ladder.rungs, "search", lambda tokens, below: made.append(tokens) or search(tokens, below))
    return made


def fresh(folder: Path) -> NodeLadder:
    """A ladder that shares nothing in memory with any other."""
    from constructions.circuits import library

    library._rungs.cache_clear()
    ladder = heads_for(sp.atan(z), -1.0, 2.0)
    assert ladder.rungs.folder == folder
    return ladder


def test_disk_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PREFIXC_CACHE", str(tmp_path))
    errors = [fresh(tmp_path).error(3)]
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    assert all(json.loads(file.read_text())["version"] == head_cache.VERSION for file in files)
    again = fresh(tmp_path)
    made = counted(monkeypatch, again)
    assert again.error(3) == errors[0]
    assert made == []
    # damaged in every way: searched again, to the same end
    for text in ("", "{", "[]", "null", '{"version": 1}', files[0].read_text().replace(":", ": [", 1), "\x00" * 50):
        for file in files:
            file.write_text(text)
        damaged = fresh(tmp_path)
        assert head_cache.load(tmp_path, damaged.rungs.key, 3, 1) is None
    assert damaged.error(3) == errors[0]
    assert head_cache.load(tmp_path, damaged.rungs.key, 3, 1) is not None
    assert head_cache.load(tmp_path, damaged.rungs.key, 3, 2) is None


def test_numbers_that_are_no_head_are_misses(tmp_path: Path):
    good = Rung(np.zeros((2, 1)), np.zeros(2), np.ones(2), np.zeros(1), 0.1, 0.0)
    head_cache.store(tmp_path, "k", 2, good)
    (file,) = tmp_path.iterdir()
    data = json.loads(file.read_text())
    for change in (
        {"values": [1.0]},
        {"biases": [0.0, float("nan")]},
        {"error": -1},
        {"tokens": 3},
        {"slopes": "x"},
        {"key": "j"},
    ):
        file.write_text(json.dumps(data | change))
        assert head_cache.load(tmp_path, "k", 2, 1) is None
    file.write_text(json.dumps(data))
    assert head_cache.load(tmp_path, "k", 2, 1) is not None


def test_the_cache_can_be_switched_off_or_be_unwritable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for value in ("", "0", "off", "OFF"):
        monkeypatch.setenv("PREFIXC_CACHE", value)
        assert head_cache.cache_folder() is None
    monkeypatch.delenv("PREFIXC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = head_cache.cache_folder()
    assert folder is not None
    blocked = tmp_path / "file"
    blocked.write_text("")
    rung = Rung(np.zeros((1, 1)), np.zeros(1), np.ones(1), np.zeros(1), 0.1, 0.0)
    head_cache.store(blocked / "inside", "k", 1, rung)
    assert head_cache.load(blocked / "inside", "k", 1, 1) is None
    head_cache.store(None, "k", 1, rung)
    assert head_cache.load(None, "k", 1, 1) is None


def test_a_loose_tolerance_gives_small_values():
    square, product = (
        heads_for(z**2, -1.0, 1.0, modulo_affine=True),
        product_heads(-np.ones(2), np.ones(2), modulo_affine=True),
    )
    for ladder in (square, product):
        loose, tight = ladder.head(1e-3), ladder.head(1e-6)
        assert loose is not None
        assert tight is not None
        assert loose.tokens == tight.tokens
        assert loose.size < 2e3 < tight.size
        assert np.abs(loose.alpha).max() < 50
    assert product_error(product.head(1e-3), 1.0) <= 0.98e-3  # type: ignore[arg-type]
