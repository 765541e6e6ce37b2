"""Targets: the series encloses the target on every box: expressions, linear and nearest grids, in one to three dimensions."""

from fractions import Fraction
from itertools import product

import mpmath
import numpy as np
import oracle
import pytest
from formulas import apply, lift, random_formula, target, var

from verify import ExpressionTarget, GridTarget, LipschitzTarget, TargetError
from verify.cells import Cells
from verify.jets import monomials
from verify.target import target_from

mp = oracle.mp


def enclosed(series, lo, hi, rng, truth, points: int = 4) -> int:
    """Compare with `truth(x)` (a list of admissible values per output, for an mpmath point); how many boxes were bounded."""
    c = lo + (hi - lo) * 0.5
    r = np.maximum(hi - c, c - lo) * (1 + 4 * 2.0**-53)
    bounded = 0
    for box in range(len(lo)):
        if not np.isfinite(series.remainder[box]).all():
            continue
        bounded += 1
        for p in range(points):
            u = rng.random(lo.shape[1]) if p > 1 else np.full(lo.shape[1], float(p))
            x = [
                mp.mpf(float(a)) + (mp.mpf(float(b)) - mp.mpf(float(a))) * mp.mpf(float(t))
                for a, b, t in zip(lo[box], hi[box], u, strict=True)
            ]
            tau = [
                (xi - mp.mpf(float(ci))) / mp.mpf(float(ri)) if ri else mp.mpf(0)
                for xi, ci, ri in zip(x, c[box], r[box], strict=True)
            ]
            for i, admissible in enumerate(truth(x)):
                mid, rad = mp.mpf(0), mp.mpf(float(series.remainder[box, i]))
                for d, part in enumerate(series.parts[i]):
                    if part is None:
                        continue
                    for e, m, q in zip(monomials(len(x), d), part.mid[box], part.rad[box], strict=True):
                        power = mp.fprod(t ** int(k) for t, k in zip(tau, e, strict=True))
                        mid, rad = mid + mp.mpf(float(m)) * power, rad + mp.mpf(float(q)) * abs(power)
                for value in admissible:
                    assert mp.isnan(value) or abs(value - mid) <= rad + mp.mpf(10) ** -45 * (1 + abs(value)), (
                        box,
                        i,
                        value,
                        mid,
                        rad,
                    )
    return bounded


def expression_truth(f: ExpressionTarget):
    table = f.expression.to_json()
    return lambda x: [[v] for v in oracle.expression_values(table, x)]


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("kinks", [False, True])
def test_expression_series(n, kinks):
    rng = np.random.default_rng(20 + n)
    bounded = 0
    for _ in range(8):
        f = target(random_formula(rng, n, 4, kinks), random_formula(rng, n, 2, kinks), n=n)
        lo = rng.uniform(-0.9, 0.8, (5, n))
        hi = lo + rng.choice([0.0, 1e-9, 1e-2, 0.1], (5, 1)) * rng.random((5, n))
        lo[0] = -hi[0]  # around zero, where random formulas have their kinks
        lo, hi = np.minimum(lo, hi), np.maximum(lo, hi)
        for order in (1, 2, 5):
            with np.errstate(all="ignore"):
                bounded += enclosed(f.series(Cells.boxes(lo, hi), order), lo, hi, rng, expression_truth(f))
    assert bounded >= 60


def test_the_degree_follows_the_smoothness():
    """|x| is linear on either side and Lipschitz across zero; a jump leaves a range, sqrt a range at its end."""
    f = target(apply("abs", var()), apply("select", var(), lift(1), lift(0), value=">"), apply("abs", var()) ** "1/2")
    lo, hi = np.array([[0.25], [-0.25], [0.0]]), np.array([[0.5], [0.25], [0.25]])
    remainder = f.series(Cells.boxes(lo, hi), 6).remainder
    assert (remainder[0, :2] < 1e-15).all()
    assert remainder[0, 2] < 1e-3
    assert remainder[1, 0] == pytest.approx(0.125)  # the range [0, 1/4] about its middle, or the slopes in [-1, 1]
    assert remainder[1, 1] == pytest.approx(0.5)
    assert remainder[1, 2] == pytest.approx(0.25)
    assert remainder[2, 2] == pytest.approx(0.25)


def grid(rng, n: int, kind: str, uniform: bool, k: int = 2) -> GridTarget:
    sizes = {1: (9,), 2: (5, 4), 3: (3, 4, 3)}[n]
    axes = [np.linspace(-1, 1, m) if uniform else np.sort(rng.uniform(-1, 1, m)) for m in sizes]
    return GridTarget(tuple(axes), rng.standard_normal((*sizes, k)), kind)


def grid_truth(f: GridTarget):
    """The interpolant in exact arithmetic, from its definition: every admissible value at an mpmath point."""

    def values(x):
        if f.interpolation == "nearest":
            near = []
            for t, a in zip(x, f.axes, strict=True):
                distances = [abs(t - mp.mpf(float(z))) for z in a]
                near.append([j for j, d in enumerate(distances) if d == min(distances)])
            return [[mp.mpf(float(f.values[(*ix, o)])) for ix in product(*near)] for o in range(f.outputs)]
        admissible = []
        cells = [
            next(j for j in range(len(a) - 1) if mp.mpf(float(a[j])) <= t <= mp.mpf(float(a[j + 1])))
            for t, a in zip(x, f.axes, strict=True)
        ]
        for o in range(f.outputs):
            total = mp.mpf(0)
            for corner in product((0, 1), repeat=len(x)):
                weight = mp.mpf(1)
                for t, a, j, c in zip(x, f.axes, cells, corner, strict=True):
                    s = (t - mp.mpf(float(a[j]))) / (mp.mpf(float(a[j + 1])) - mp.mpf(float(a[j])))
                    weight *= s if c else 1 - s
                total += weight * mp.mpf(float(f.values[(*(j + c for j, c in zip(cells, corner, strict=True)), o)]))
            admissible.append([total])
        return admissible

    return values


@pytest.mark.parametrize("kind", ["linear", "nearest"])
@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("uniform", [True, False])
def test_grid_series(kind, n, uniform):
    rng = np.random.default_rng(n)
    f = grid(rng, n, kind, uniform)
    low, high = np.array([a[0] for a in f.axes]), np.array([a[-1] for a in f.axes])
    edges = [np.concatenate([[a, b], f.breakpoints(i, a, b)]) for i, (a, b) in enumerate(zip(low, high, strict=True))]
    edges = [np.unique(e) for e in edges]
    bounded = 0
    for order in (1, 2, 4):
        lo, hi = np.empty((24, n)), np.empty((24, n))
        for i, e in enumerate(edges):  # boxes of the kernel's own partition, and sub-boxes, points and slivers
            j = rng.integers(0, len(e) - 1, 24)
            lo[:, i], hi[:, i] = e[j], e[j + 1]
        lo[12:18] += (hi - lo)[12:18] * 0.25
        hi[18:] = lo[18:]
        bounded += enclosed(f.series(Cells.boxes(lo, hi), order), lo, hi, rng, grid_truth(f), points=3)
        lo = low + (high - low) * rng.random((12, n)) * 0.7  # boxes anywhere: bounded or not, never wrong
        hi = lo + (high - lo) * rng.random((12, n)) * rng.choice([1e-12, 0.1, 1.0])
        enclosed(f.series(Cells.boxes(lo, hi), order), lo, hi, rng, grid_truth(f), points=3)
    assert bounded >= 24


def test_a_linear_grid_is_reproduced_at_its_nodes_and_cut_at_them():
    f = GridTarget((np.array([0.0, 0.1, 1.0]),), np.array([[1.0], [-2.0], [5.0]]), "linear")
    for node, value in zip([0.0, 0.1, 1.0], [1.0, -2.0, 5.0], strict=True):
        series = f.series(Cells.boxes(np.array([[node]]), np.array([[node]])), 3)
        assert abs(series.parts[0][0].mid[0, 0] - value) <= series.parts[0][0].rad[0, 0] + series.remainder[0, 0]
        assert series.remainder[0, 0] < 1e-14
    assert not np.isfinite(f.series(Cells.boxes(np.array([[0.05]]), np.array([[0.2]])), 3).remainder[0, 0])
    assert list(f.breakpoints(0, 0.0, 1.0)) == [0.1]
    outside = f.series(Cells.boxes(np.array([[-1.0], [0.5], [2.0]]), np.array([[-0.5], [1.5], [3.0]])), 3)
    assert not np.isfinite(outside.remainder).any()


def test_a_tie_admits_every_nearest_value():
    f = GridTarget((np.array([0.0, 1.0, 3.0]),), np.array([[0.0], [10.0], [20.0]]), "nearest")
    for tie, low, high in ((0.5, 0.0, 10.0), (2.0, 10.0, 20.0)):
        series = f.series(Cells.boxes(np.array([[tie]]), np.array([[tie]])), 2)
        mid, reach = series.parts[0][0].mid[0, 0], series.parts[0][0].rad[0, 0] + series.remainder[0, 0]
        assert mid - reach <= low
        assert high <= mid + reach


MIDPOINTS = [
    (-1.0, 1 + 2.0**-52),
    (-1e16, 1.0),
    (1.0, 1 + 2.0**-52),
    (-1 - 2.0**-52, 1.0),
    (0.1, 0.3),
    (-1e300, 1e-300),
    (-5e-324, 5e-324),
    (1e16, 1e16 + 2),
    (-0.1, 0.1 + 2.0**-54),
]


@pytest.mark.parametrize(("a", "b"), MIDPOINTS)
def test_nearest_at_midpoints_that_no_float_represents(a, b):
    """Float64 rounds (a + b)/2, and cancellation may put that many floats away from the true tie."""
    f = GridTarget((np.array([a, b]),), np.array([[0.0], [1.0]]), "nearest")
    tie = (Fraction(a) + Fraction(b)) / 2
    near = [float(tie)]
    for k in range(40):
        near += [np.nextafter(near[-1], np.inf)] if k < 20 else [np.nextafter(near[-1] if k > 20 else near[0], -np.inf)]
    near += [
        float(tie + Fraction(t) * (Fraction(b) - Fraction(a)))
        for t in (1e-17, -1e-17, 4e-17, -4e-17, 1e-16, -1e-16, 3e-16, 1e-15, -1e-15)
    ]
    near += [a + (b - a) * 0.5, 5e-324, -5e-324]
    for x in near:
        if not a <= x <= b:
            continue
        true = [
            v
            for v, z, other in ((0.0, a, b), (1.0, b, a))
            if abs(Fraction(x) - Fraction(z)) <= abs(Fraction(x) - Fraction(other))
        ]
        series = f.series(Cells.boxes(np.array([[x]]), np.array([[x]])), 1)
        mid, reach = series.parts[0][0].mid[0, 0], series.parts[0][0].rad[0, 0] + series.remainder[0, 0]
        for value in true:
            assert abs(value - mid) <= reach


def test_float_values_are_admissible():
    rng = np.random.default_rng(6)
    for kind in ("linear", "nearest"):
        f = grid(rng, 2, kind, uniform=False)
        x = np.array([a[0] for a in f.axes]) + rng.random((20, 2)) * np.array([a[-1] - a[0] for a in f.axes])
        for row, values in zip(x, f.evaluate(x), strict=True):
            for value, admissible in zip(values, grid_truth(f)([mp.mpf(float(t)) for t in row]), strict=True):
                assert min(abs(mp.mpf(float(value)) - a) for a in admissible) < 1e-12


def test_stored_form_round_trips():
    rng = np.random.default_rng(7)
    for f in (
        grid(rng, 2, "linear", False),
        LipschitzTarget(rng.random((4, 2)), rng.random((4, 1)), 0.1, "l1", "box"),
        target(apply("sin", var()) * Fraction(1, 3)),
    ):
        again = target_from(*f.to_json())
        assert type(again) is type(f)
        assert str(again) == str(f)
        assert again.to_json()[0] == f.to_json()[0]
        for a, b in zip(again.to_json()[1].values(), f.to_json()[1].values(), strict=True):
            assert np.array_equal(a, b)


@pytest.mark.parametrize(
    ("axes", "values", "kind"),
    [
        ([[0.0, 1.0]], np.zeros((2, 1)), "cubic"),
        ([[0.0]], np.zeros((1, 1)), "linear"),
        ([[0.0, 0.0]], np.zeros((2, 1)), "linear"),
        ([[1.0, 0.0]], np.zeros((2, 1)), "linear"),
        ([[0.0, np.nan]], np.zeros((2, 1)), "linear"),
        ([[0.0, np.inf]], np.zeros((2, 1)), "nearest"),
        ([[0.0, 1.0]], np.zeros((3, 1)), "linear"),
        ([[0.0, 1.0]], np.zeros(2), "linear"),
        ([[0.0, 1.0]], np.full((2, 1), np.nan), "linear"),
    ],
)
def test_grids_that_do_not_fit_are_refused(axes, values, kind):
    with pytest.raises(TargetError):
        GridTarget(tuple(np.array(a) for a in axes), values, kind)


@pytest.mark.parametrize(
    "change",
    [
        {"points": np.zeros((2, 1))},
        {"values": np.full((3, 1), np.inf)},
        {"lipschitz": -1.0},
        {"lipschitz": np.nan},
        {"lipschitz": np.inf},
        {"norm": "l3"},
        {"points": np.zeros(3)},
    ],
)
def test_lipschitz_data_that_do_not_fit_are_refused(change):
    with pytest.raises(TargetError):
        LipschitzTarget(**({"points": np.zeros((3, 1)), "values": np.zeros((3, 1)), "lipschitz": 1.0} | change))


@pytest.mark.parametrize(
    "meta",
    [
        {},
        {"kind": "x"},
        {"kind": "grid"},
        {"kind": "grid", "dimension": "q", "interpolation": "linear"},
        {"kind": "lipschitz", "lipschitz": "1", "norm": 3, "name": ""},
        {"kind": ["grid"]},
    ],
)
def test_unreadable_targets_are_refused(meta):
    with pytest.raises(TargetError):
        target_from(meta, {})


def test_mpmath_is_at_fifty_digits():
    assert mp.dps == 50
    assert mpmath.mp.dps == 15  # the oracle's context is its own
