"""Proofs: the three outcomes on known cases, never proved below the true error, nothing unbounded is believed."""

import math
from fractions import Fraction

import mpmath
import numpy as np
import oracle
import pytest
from formulas import Formula, apply, claim, expression, fitted, fitted_bernstein, head_model, lift, target, var

from verify import (
    Artefact,
    Box,
    Certificate,
    Claim,
    ExpressionTarget,
    GridTarget,
    Head,
    Layer,
    LipschitzTarget,
    Prefix,
    Status,
    Transformer,
    forward,
    prove,
    save,
)
from verify.prove import error_profile

mp = oracle.mp


def oracle_of(c: Claim, tmp_path) -> oracle.Oracle:
    certificate = Certificate(Status.UNDECIDED, c.eps, math.inf, 0.0, None, math.inf, 0)
    return oracle.Oracle(save(tmp_path / "claim.safetensors", Artefact(c, certificate, {})))


def dense_error(c: Claim, tmp_path, count: int = 4001) -> float:
    """A close lower bound of the sup error: float64 on a dense sample, then 50 digits and a pattern search at the worst points."""
    lo, hi = c.domain.bounds
    points = (
        np.linspace(lo, hi, count)
        if len(lo) == 1
        else np.concatenate(
            [c.domain.sample(4 * count), np.array(np.meshgrid(*zip(lo, hi, strict=True))).reshape(len(lo), -1).T]
        )
    )
    points = np.clip(points, lo, hi)
    gap = np.abs(forward(c.model, c.prefix, points) - c.target.evaluate(points)).max(axis=1)
    worst = points[np.argsort(gap)[-5:]]
    judge = oracle_of(c, tmp_path)
    best, where = max(((judge.error(p), p) for p in worst), key=lambda pair: pair[0])
    step = (hi - lo) / count ** (1 / len(lo))
    for _ in range(25):
        moves = np.clip(np.asarray(where) + np.concatenate([np.diag(step), -np.diag(step)]), lo, hi)
        top, at = max(((judge.error(p), p) for p in moves), key=lambda pair: pair[0])
        if top > best:
            best, where = top, at
        else:
            step = step / 2
    return float(best)


def with_eps(c: Claim, eps: float) -> Claim:
    return Claim(c.model, c.prefix, c.target, c.domain, eps)


def consistent(certificate: Certificate, true_error: float) -> None:
    """What every certificate must satisfy when the sup error is (at least) true_error."""
    assert certificate.error_lower <= true_error * (1 + 1e-9)
    assert certificate.error_upper >= true_error * (1 - 1e-12) or certificate.status is not Status.PROVED
    if certificate.status is Status.PROVED:
        assert certificate.eps >= true_error * (1 - 1e-12)
    if certificate.status is Status.REFUTED:
        assert certificate.eps < true_error * (1 + 1e-9)


SMOOTH = {
    "sin": (apply("sin", var() * 3), 1, 12),
    "tanh": (apply("tanh", var() * 4), 1, 16),
    "runge": ((var() * var() * 25 + 1) ** -1, 1, 24),
    "exp": (apply("exp", var()), 1, 9),
    "two variables": (apply("cos", var(0) * 2 + var(1)), 2, 5),
    "three variables": (apply("exp", var(0) * var(1) * Fraction(1, 2) + var(2) * Fraction(1, 3)), 3, 3),
}


@pytest.mark.parametrize("name", sorted(SMOOTH))
def test_a_hair_above_is_proved_and_a_hair_below_is_refuted(name, tmp_path):
    formula, n, per_axis = SMOOTH[name]
    f = target(formula, n=n)
    c = claim(*fitted(f, [(-1, 1)] * n, per_axis), f, [(-1, 1)] * n, 1.0)
    true = dense_error(c, tmp_path)
    above = prove(with_eps(c, true * 1.1))
    assert above.status is Status.PROVED
    assert above.error_upper <= true * 1.1
    assert above.error_lower >= true * 0.9
    below = prove(with_eps(c, true * 0.9))
    assert below.status is Status.REFUTED
    assert below.witness is not None
    assert oracle_of(c, tmp_path).error(below.witness) > true * 0.9
    just_below = prove(with_eps(c, true * (1 - 1e-6)), max_boxes=20_000)
    assert just_below.status is not Status.PROVED
    for certificate in (above, below, just_below):
        consistent(certificate, true)


@pytest.mark.parametrize(("tokens", "size"), [(9, 1e-5), (12, 1e-6), (17, 1e-9), (100, 1e-3)])
def test_upper_bounds_are_tight(tokens, size, tmp_path):
    f = target(apply("sin", var() * 3))
    head = fitted_bernstein(f, (-1, 1), tokens) if tokens < 100 else fitted(f, [(-1, 1)], tokens)
    c = claim(*head, f, [(-1, 1)], 1.0)
    true = dense_error(c, tmp_path)
    assert size / 100 < true < size  # the case is as demanding as it says
    certificate = prove(with_eps(c, 3 * true + 1e-14))
    assert certificate.status is Status.PROVED
    rounding = certificate.rounding
    assert true * (1 - 1e-12) <= certificate.error_upper <= 1.1 * true + 2 * rounding
    consistent(certificate, true)


def constant_claim(value: float, f: Formula, sides, eps: float, n: int = 1) -> Claim:
    return claim(np.zeros((1, n)), np.zeros(1), np.full((1, 1), value), target(f, n=n), sides, eps)


KNOWN = [  # formula, domain, best constant's value, exact sup error
    ("abs", apply("abs", var()), (-1.0, 1.0), 0.5, 0.5),
    ("shifted kink", apply("abs", var() - Fraction(1, 3)), (0.0, 1.0), 0.25, 5 / 12),
    ("max", apply("max", var(), var() * -2), (-1.0, 1.0), 1.0, 1.0),
    ("min", apply("min", var(), lift(Fraction(1, 7))), (-1.0, 1.0), -0.5, 0.5 + 1 / 7),
    ("square root", var() ** "1/2", (0.0, 1.0), 0.5, 0.5),
    ("square root at both ends", (1 - var() * var()) ** "1/2", (-1.0, 1.0), 0.5, 0.5),
    ("arc sine", apply("asin", var()), (-1.0, 1.0), 0.0, math.pi / 2),
    ("cube root of a square", (var() * var()) ** "1/3", (-1.0, 1.0), 0.5, 0.5),
    ("jump", apply("select", var(), lift(1), lift(0), value=">"), (-1.0, 1.0), 0.5, 0.5),
    ("piecewise", apply("select", var(), var(), var() * var(), value=">="), (-1.0, 1.0), 0.5, 0.5),
    ("undefined branch", apply("select", var(), var() ** "1/2", lift(0), value=">"), (-1.0, 1.0), 0.5, 0.5),
    (
        "logarithm behind a test",
        apply("select", var() - Fraction(1, 8), apply("log", var()), lift(0), value=">"),
        (-1.0, 1.0),
        -1.0,
        1 + math.log(8.0) - 2 + 0,
    ),
    ("far away", apply("sin", var()), (1e6, 1e6 + 1e-3), 0.0, None),
    ("zero", lift(0), (-1.0, 1.0), 0.25, 0.25),
]


@pytest.mark.parametrize(("name", "f", "side", "value", "error"), KNOWN, ids=[k[0] for k in KNOWN])
def test_known_errors_of_constants(name, f, side, value, error, tmp_path):
    c = constant_claim(value, f, [side], 1.0)
    true = dense_error(c, tmp_path)
    if error is not None:
        true = max(true, error)
    above = prove(with_eps(c, true * 1.01 + 1e-15), max_boxes=200_000)
    assert above.status is Status.PROVED
    below = prove(with_eps(c, true * 0.98), max_boxes=20_000)
    assert below.status is not Status.PROVED
    if name not in ("jump", "undefined branch"):
        assert below.status is Status.REFUTED
    consistent(above, true)
    consistent(below, true)


def test_several_outputs_take_the_largest(tmp_path):
    f = target(apply("sin", var() * 2), apply("cos", var() * 5), lift(Fraction(1, 3)))
    c = claim(*fitted(f, [(-1, 1)], 10), f, [(-1, 1)], 1.0)
    true = dense_error(c, tmp_path)
    assert prove(with_eps(c, true * 1.05)).status is Status.PROVED
    assert prove(with_eps(c, true * 0.95)).status is Status.REFUTED


def test_four_variables():
    f = target(var(0) * var(1) + var(2) - var(3) * Fraction(1, 2), n=4)
    c = claim(np.zeros((2, 4)), np.zeros(2), np.zeros((2, 1)), f, [(0, 1)] * 4, 2.01)
    assert prove(c).status is Status.PROVED
    assert prove(with_eps(c, 1.99)).status is Status.REFUTED


@pytest.mark.parametrize(
    ("lo", "hi"),
    [
        (0.1, np.nextafter(0.1, 1)),
        (1.0, 1.0 + 2.0**-51),
        (-5e-10, 5e-10),
        (1e6, 1e6 + 1e-9),
        (-4e149, 5e149),
        (0.0, 1e-149),
    ],
)
def test_extreme_domains(lo, hi):
    scale = max(abs(lo), abs(hi))
    f = target(apply("tanh", var() * Fraction(1 / scale)))
    c = claim(np.array([[0.0]]), np.array([0.0]), np.array([[0.0]]), f, [(lo, hi)], 1.0)
    size = max(abs(math.tanh(lo / scale)), abs(math.tanh(hi / scale)))
    assert prove(with_eps(c, size * 1.05)).status is Status.PROVED
    assert prove(with_eps(c, size * 0.95)).status is Status.REFUTED


@pytest.mark.parametrize("size", [1e-290, 1e-150, 1e100, 1e150])
def test_extreme_values_are_never_wrongly_proved(size):
    values = np.array([[size], [-size]])
    c = claim(np.array([[1.0], [-1.0]]), np.zeros(2), values, target(lift(0)), [(-1, 1)], 1.0)
    true = size * math.tanh(1.0)
    assert prove(with_eps(c, true * 0.9), max_boxes=20_000).status is not Status.PROVED
    if size > 1e-200:
        assert prove(with_eps(c, true * 1.1)).status is Status.PROVED


@pytest.mark.parametrize("eps", [5e-324, 1e-320, 1e-300, 1e-200, 1e300, 1.7e308])
def test_any_finite_eps_has_an_outcome(eps):
    c = claim(
        np.array([[1.0], [-1.0]]), np.zeros(2), np.array([[1.0], [-1.0]]), target(apply("tanh", var())), [(-1, 1)], eps
    )
    certificate = prove(c, max_boxes=3000)
    assert certificate.status is (Status.PROVED if eps > 1 else Status.UNDECIDED)


@pytest.mark.parametrize("eps", [0.0, -1.0, math.nan, math.inf])
def test_claims_without_a_positive_eps_are_refused(eps):
    with pytest.raises(ValueError, match="eps"):
        constant_claim(0.0, var(), [(0, 1)], eps)


@pytest.mark.parametrize(
    ("slopes", "biases", "values"),
    [
        ([[1e300], [-1e300]], [1e300, 0.0], [[1.0], [2.0]]),
        ([[1.0], [-1.0]], [1e308, -1e308], [[1.0], [2.0]]),
        ([[1.0], [-1.0]], [0.0, 0.0], [[1.7e308], [-1.7e308]]),
        ([[1.7e308], [1.7e308]], [0.0, 0.0], [[0.0], [1.0]]),
    ],
)
def test_overflow_is_never_proved(slopes, biases, values):
    c = claim(np.array(slopes), np.array(biases), np.array(values), target(lift(0)), [(-2, 2)], 0.5)
    assert prove(c, max_boxes=2000).status is not Status.PROVED


def test_an_overflow_in_the_readout_has_an_outcome():
    """V W_O is infinite in float64."""
    model = Transformer(
        np.ones((1, 1)), np.zeros(1), (Layer((Head(np.ones((1, 1)), np.array([[1e300]])),)),), np.eye(1)
    )
    c = Claim(model, Prefix(((np.zeros((1, 1)),),), ((np.array([[1e300]]),),)), target(lift(0)), Box([(0, 1)]), 1.0)
    assert prove(c).status is Status.UNDECIDED


@pytest.mark.parametrize("eps", [1e-20, 1e-3])
def test_products_of_weights_that_leave_the_range_of_float64_are_never_proved(eps):
    """W_O R underflows to zero, yet V W_O R = 1.7 e-17; and K W_Q E does, yet the logit is 2^58 2^-52."""
    outward = Transformer(
        np.ones((1, 1)), np.zeros(1), (Layer((Head(np.ones((1, 1)), np.array([[1e-162]])),)),), np.array([[1e-163]])
    )
    inward = Transformer(
        np.array([[2.0**-500]]), np.zeros(1), (Layer((Head(np.array([[2.0**-575]]), np.eye(1)),)),), np.eye(1)
    )
    cases = [
        (
            1.7e-17,
            Claim(
                outward,
                Prefix(((np.zeros((1, 1)),),), ((np.array([[1.7e308]]),),)),
                target(lift(0)),
                Box([(0, 1)]),
                eps,
            ),
        ),
        (
            1.0,
            Claim(
                inward,
                Prefix(((np.array([[2.0**1023], [0.0]]),),), ((np.array([[1.0], [-1.0]]),),)),
                target(lift(0)),
                Box([(0, 2.0**60)]),
                eps,
            ),
        ),
    ]
    for true, c in cases:
        if eps < true:
            assert prove(c, max_boxes=5000).status is not Status.PROVED


def test_float64_execution_stays_within_the_proved_bound_when_inputs_underflow():
    """E x leaves float64's range, so the forward pass loses the input altogether: a bound on it must say so."""
    model = Transformer(np.array([[1e-200]]), np.zeros(1), (Layer((Head(np.array([[1e150]]), np.eye(1)),)),), np.eye(1))
    prefix = Prefix(((np.array([[1e180], [0.0]]),),), ((np.array([[1.0], [-1.0]]),),))
    f = target(apply("tanh", var() * Fraction(5 * 10**129)))
    certificate = prove(Claim(model, prefix, f, Box([(1e-130, 2e-130)]), 1e-3))
    x = np.array([[1.5e-130]])
    executed = abs(forward(model, prefix, x) - f.evaluate(x))[0, 0]
    assert certificate.status is not Status.PROVED or executed <= certificate.error_upper


def test_float64_execution_stays_within_the_proved_bound_when_readouts_cancel(tmp_path):
    """Two large value coordinates whose difference is the output: the sums of the large ones round."""
    rng = np.random.default_rng(0)
    tokens = 300
    large = 1e9 * rng.standard_normal(tokens)
    values = np.column_stack([large, large + rng.random(tokens)])
    model = Transformer(
        np.ones((1, 1)), np.zeros(1), (Layer((Head(np.ones((1, 1)), np.array([[-1.0, 1.0]])),)),), np.eye(1)
    )
    prefix = Prefix(((rng.standard_normal((tokens, 1)),),), ((values,),))
    c = Claim(model, prefix, target(lift(Fraction(1, 2))), Box([(0, 1)]), 0.3)
    certificate = prove(c)
    judge = oracle_of(c, tmp_path)
    for x in np.linspace(0, 1, 7):
        executed = mp.mpf(float(forward(model, prefix, np.array([[x]]))[0, 0]))
        assert abs(executed - judge.head([x])[0]) <= certificate.rounding


def test_undefined_targets_are_not_proved():
    for f, side in (
        ((var()) ** "1/2", (-1.0, 1.0)),
        (apply("log", var()), (-1.0, 1.0)),
        (var() ** -1, (-1.0, 1.0)),
        (apply("log", var()), (0.0, 1.0)),
        (apply("asin", var()), (0.0, 1.5)),
    ):
        assert prove(constant_claim(0.0, f, [side], 1e6), max_boxes=20_000).status is not Status.PROVED


def test_targets_undefined_on_a_sliver_are_not_proved():
    """sqrt(x) on [-1e-9, 1]: no statement "at every point of the domain" can be true."""
    c = constant_claim(0.0, var() ** "1/2", [(-1e-9, 1.0)], 1.01)
    assert prove(c, max_boxes=20_000).status is not Status.PROVED


def test_a_domain_beyond_the_grid_is_undecided():
    f = GridTarget((np.array([0.0, 1.0]),), np.array([[0.0], [1.0]]), "linear")
    c = claim(np.zeros((1, 1)), np.zeros(1), np.zeros((1, 1)), f, [(0.0, 2.0)], 10.0)
    assert prove(c, max_boxes=2000).status is Status.UNDECIDED


@pytest.mark.parametrize("kind", ["linear", "nearest"])
@pytest.mark.parametrize("n", [1, 2])
def test_grid_targets(kind, n, tmp_path):
    rng = np.random.default_rng(n)
    sizes = (7,) if n == 1 else (4, 3)
    axes = tuple(np.sort(rng.uniform(-1, 1, m)) for m in sizes)
    f = GridTarget(axes, rng.standard_normal((*sizes, 1)), kind)
    sides = [(a[0], a[-1]) for a in axes]
    middle = (f.values.min() + f.values.max()) / 2
    true = float(np.abs(f.values - middle).max())
    c = claim(np.zeros((1, n)), np.zeros(1), np.array([[middle]]), f, sides, 1.0)
    assert prove(with_eps(c, true * 1.02)).status is Status.PROVED
    assert prove(with_eps(c, true * 0.98), max_boxes=20_000).status is not Status.PROVED


def test_a_nearest_target_on_a_sliver_no_float_midpoint_sees():
    """The tie of -1 and 1 + 2^-52 is at 2^-53, but (a + b)/2 rounds to 0: points in between belong to the left value."""
    f = GridTarget((np.array([-1.0, 1 + 2.0**-52]),), np.array([[0.0], [1.0]]), "nearest")
    c = claim(np.zeros((1, 1)), np.zeros(1), np.ones((1, 1)), f, [(1e-17, 1.0)], 0.1)
    assert prove(c, max_boxes=20_000).status is not Status.PROVED


def test_the_limit_on_boxes_is_respected():
    c = constant_claim(
        0.0, apply("sin", var() * 1000) + apply("cos", var() * 1000), [(-1.0, 1.0)], math.sqrt(2) * (1 + 1e-6)
    )
    for limit in (0, 100, 1000):
        certificate = prove(c, max_boxes=limit)
        assert certificate.status is Status.UNDECIDED
        assert certificate.unresolved is not None
        assert certificate.boxes <= limit + 4096
    f = target(
        apply("sin", var(0) * 400 + var(1)) * apply("cos", var(1) * 300) + apply("cos", var(0) * 400 + var(1)), n=2
    )
    flat = claim(np.zeros((1, 2)), np.zeros(1), np.zeros((1, 1)), f, [(-1, 1)] * 2, 1.99)
    assert prove(flat, max_boxes=5000).boxes <= 5000 + 4096


def test_logits_beyond_float64s_grasp_end_in_finite_time():
    """60 slopes up to 1e17: no token can be dropped anywhere, so regions must not be cut for ever."""
    from itertools import islice

    from verify.affine import affine_head
    from verify.bisection import Bisection

    c = claim(
        np.linspace(0, 1e17, 60)[:, None], np.zeros(60), np.linspace(-1, 1, 60)[:, None], target(lift(0)), [(0, 1)], 0.5
    )
    regions = Bisection(c, affine_head(c.model, c.prefix), 1000, None).regions()
    assert sum(1 for _ in islice(regions, 5001)) <= 5000
    assert prove(c, max_boxes=1000).status is not Status.PROVED


def deeper_models():
    one = Head(np.eye(2), np.eye(2))
    looking = Head(np.eye(2), np.eye(2), np.eye(2), np.eye(2))
    token = np.zeros((1, 2))
    embedding, offset = np.array([[1.0], [0.0]]), np.array([0.0, 1.0])
    readout = np.array([[1.0, 0.0]])
    for layers in (
        (Layer((one,)), Layer((one,))),
        (Layer((one, one)),),
        (Layer((looking,)),),
        (Layer((one,), residual=True),),
    ):
        model = Transformer(embedding, offset, layers, readout)
        prefix = Prefix(
            tuple(tuple(token for _ in layer.heads) for layer in layers),
            tuple(tuple(token for _ in layer.heads) for layer in layers),
        )
        yield model, prefix


def test_models_this_prover_cannot_read_are_undecided():
    for model, prefix in deeper_models():
        certificate = prove(Claim(model, prefix, target(lift(0)), Box([(-1, 1)]), 100.0))
        assert certificate.status is Status.UNDECIDED
        assert certificate.error_upper == math.inf
        assert certificate.reason


def test_claims_that_do_not_fit_are_refused():
    model, prefix = head_model(np.zeros((1, 1)), np.zeros(1), np.zeros((1, 1)))
    for f, box in (
        (target(lift(0), n=2), Box([(0, 1)] * 2)),
        (target(lift(0)), Box([(0, 1)] * 2)),
        (target(lift(0), lift(0)), Box([(0, 1)])),
    ):
        with pytest.raises(ValueError, match="claim"):
            Claim(model, prefix, f, box, 1.0)


# ---- black boxes of which only a Lipschitz constant is declared


def lipschitz_claim(rng, n: int, tokens: int, norm: str, beta: float, eps: float, lipschitz: float = 1.0) -> Claim:
    """Gaussian keys at the samples of a function with that constant."""
    points = rng.random((tokens, n)) if n > 1 else (np.arange(tokens)[:, None] + 0.5) / tokens
    values = lipschitz * np.abs(points - 0.4).max(axis=1, keepdims=True)
    return claim(
        2 * beta * points,
        -beta * (points**2).sum(axis=1),
        values,
        LipschitzTarget(points, values, lipschitz, norm),
        [(0, 1)] * n,
        eps,
    )


@pytest.mark.parametrize(("n", "tokens", "beta"), [(1, 8, 2000.0), (2, 30, 150.0)])
@pytest.mark.parametrize("norm", ["l2", "linf", "l1"])
def test_lipschitz_classes(n, tokens, beta, norm, tmp_path):
    rng = np.random.default_rng(n)
    c = lipschitz_claim(rng, n, tokens, norm, beta, 1.0)
    judge = oracle_of(c, tmp_path)
    points = (
        np.linspace(0, 1, 161)[:, None]
        if n == 1
        else np.concatenate([rng.random((150, n)), [[0, 0], [0, 1], [1, 0], [1, 1]]])
    )
    true = float(judge.largest_error(points, refine=8)[0])
    proved = prove(with_eps(c, true * 1.6), max_boxes=100_000)
    assert proved.status is Status.PROVED
    assert proved.conditional
    assert any("declared" in a for a in proved.assumptions)
    assert proved.error_upper >= true
    assert prove(with_eps(c, true * 0.99), max_boxes=3000).status is not Status.PROVED


def test_a_value_recorded_wrongly_refutes_a_lipschitz_claim():
    rng = np.random.default_rng(0)
    c = lipschitz_claim(rng, 1, 8, "l2", 2000.0, 0.2)
    values = np.array(c.prefix.values[0][0])
    values[3] += 1.0
    changed = Claim(c.model, Prefix(c.prefix.keys, ((values,),)), c.target, c.domain, c.eps)
    certificate = prove(changed)
    assert certificate.status is Status.REFUTED
    assert certificate.error_lower > 0.2


def test_a_lipschitz_target_with_the_wrong_number_of_values_is_undecided():
    f = LipschitzTarget(np.zeros((3, 1)), np.zeros((3, 1)), 1.0)
    c = claim(np.zeros((2, 1)), np.zeros(2), np.zeros((2, 1)), f, [(0, 1)], 10.0)
    assert prove(c).status is Status.UNDECIDED


# ---- profiles


def test_error_profiles_bound_the_error_box_by_box(tmp_path):
    f = target(apply("sin", var() * 3))
    c = claim(*fitted(f, [(-1, 1)], 8), f, [(-1, 1)], 0.01)
    lo, hi, upper = error_profile(c, cells=40)
    assert lo[0, 0] == -1
    assert hi[-1, 0] == 1
    assert (lo[1:] == hi[:-1]).all()
    judge = oracle_of(c, tmp_path)
    rng = np.random.default_rng(1)
    with mpmath.workdps(50):
        for a, b, bound in zip(lo[:, 0], hi[:, 0], upper, strict=True):
            for t in rng.random(3):
                assert judge.error([a + (b - a) * t]) <= bound


def test_progress_is_reported_and_ends_at_one():
    seen: list[float] = []
    prove(constant_claim(0.0, apply("sin", var()), [(-1, 1)], 1.0), progress=lambda done, words: seen.append(done))
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_expression_targets_need_no_floats_of_their_own():
    """1/3 and pi are exact in a proof: an error of half an ulp of the target is seen."""
    third = ExpressionTarget(expression(lift(Fraction(1, 3))))
    c = claim(np.zeros((1, 1)), np.zeros(1), np.array([[1 / 3]]), third, [(0, 1)], 1e-15)
    certificate = prove(c)
    assert certificate.status is Status.PROVED
    assert certificate.error_upper >= abs(Fraction(1, 3) - Fraction(1 / 3))
