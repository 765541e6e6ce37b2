"""The kernel on spheres against 50-digit arithmetic: patches, restriction, enclosures of heads, proofs, what a forger would change."""

import math
from fractions import Fraction

import numpy as np
import oracle
import pytest
from formulas import apply, every_token, expression, head_model, lift, random_formula, target, var
from hypothesis import given
from hypothesis import strategies as st
from tampering import rewrite

from verify import (
    Artefact,
    Box,
    Certificate,
    Claim,
    ExpressionTarget,
    Head,
    Layer,
    LipschitzTarget,
    Prefix,
    Status,
    Transformer,
    check,
    forward,
    prove,
    save,
)
from verify.affine import affine_head
from verify.ball import Ball
from verify.cells import restrict
from verify.core import enclose_core
from verify.head import enclose_head
from verify.monomials import Jet, monomials
from verify.regularity import lipschitz_constant, value_range
from verify.sphere import Sphere, around, patches
from verify.sphere_net import sphere_covering_radius_at_most

mp = oracle.mp
UNKNOWN = Certificate(Status.UNDECIDED, 1.0, math.inf, 0.0, None, math.inf, 0)
X, Y, Z = var(0), var(1), var(2)


def on_sphere(v) -> list:
    """v/|v| to 50 digits."""
    exact = [mp.mpf(float(t)) for t in v]
    length = mp.sqrt(mp.fsum(t * t for t in exact))
    return [t / length for t in exact]


def coordinates(cells, box: int, x) -> list:
    """The tau of a point: x = centre + axes tau."""
    n = len(x)
    axes = mp.matrix(n, n)
    for i in range(n):
        for j in range(n):
            axes[i, j] = mp.mpf(float(cells.axes[box, i, j]))
    away = mp.matrix([t - mp.mpf(float(c)) for t, c in zip(x, cells.centre[box], strict=True)])
    return list(mp.lu_solve(axes, away))


def polynomial(parts, box: int, tau) -> tuple:
    """Midpoint value at tau and the sum of radii."""
    mid, rad = mp.mpf(0), mp.mpf(0)
    for d, part in enumerate(parts):
        if part is None:
            continue
        row = min(box, part.mid.shape[0] - 1)
        for e, m, r in zip(monomials(len(tau), d), part.mid[row], part.rad[row], strict=True):
            if m == 0 and r == 0:
                continue
            power = mp.fprod(t ** int(k) for t, k in zip(tau, e, strict=True))
            mid += mp.mpf(float(m)) * power
            rad += mp.mpf(float(r)) * abs(power)
    return mid, rad


def random_patch(rng: np.random.Generator, m: int) -> tuple[int, np.ndarray, np.ndarray]:
    """A face and a box of it: wide, narrow, one float wide, or in a corner of the face."""
    face = int(rng.integers(2 * (m + 1)))
    size = 10.0 ** rng.uniform(-14, -0.35, m) if rng.random() < 0.5 else np.full(m, 10.0 ** rng.uniform(-9, -0.35))
    lo = rng.uniform(-1, 1, m) * (1 - size)
    kind = rng.integers(4)
    if kind == 0:  # a corner of the face
        corner = rng.choice([-1.0, 1.0], m)
        lo, hi = np.where(corner > 0, 1 - size, -1.0), np.where(corner > 0, 1.0, -1 + size)
    elif kind == 1:
        hi = np.nextafter(lo, 2)
    else:
        hi = np.minimum(lo + size, 1.0)
    return face, lo, hi


def points_of(face: int, lo: np.ndarray, hi: np.ndarray, rng: np.random.Generator, count: int) -> list[list]:
    """Points of the patch to 50 digits: corners of the box first, then points inside."""
    m, found = len(lo), []
    for k in range(count):
        u = rng.integers(0, 2, m).astype(float) if k % 2 == 0 else rng.random(m)
        v = [
            mp.mpf(float(a)) + (mp.mpf(float(b)) - mp.mpf(float(a))) * float(t)
            for a, b, t in zip(lo, hi, u, strict=True)
        ]
        v.insert(face // 2, mp.mpf(1 if face % 2 else -1))
        length = mp.sqrt(mp.fsum(t * t for t in v))
        found.append([t / length for t in v])
    return found


# ---- geometry


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 3]))
def test_patches_hold_their_points_and_the_curve_passes_through_them(seed, m):
    rng = np.random.default_rng(seed)
    face, lo, hi = random_patch(rng, m)
    cells = patches(m, face, lo[None], hi[None])
    assert cells.curve is not None
    assert cells.curve.known[0]  # patches of this size are known
    series, missed = cells.curve.series(int(rng.choice([1, 2, 3, 6, 11])))
    for x in points_of(face, lo, hi, rng, 2 if m == 3 else 4):
        tau = coordinates(cells, 0, x)
        assert max(abs(t) for t in tau) <= 1
        assert all(a <= t <= b for a, t, b in zip(cells.lo[0], x, cells.hi[0], strict=True))
        mid, rad = polynomial(series, 0, tau[:-1])
        assert abs(tau[-1] - mid) <= rad + mp.mpf(float(missed[0]))


@pytest.mark.parametrize("m", [1, 2, 3])
def test_whole_faces_are_bounded_or_said_to_be_unknown(m):
    rng = np.random.default_rng(m)
    for face in range(2 * (m + 1)):
        cells = patches(m, face, -np.ones((1, m)), np.ones((1, m)))
        assert cells.curve is not None
        if not cells.curve.known[0]:
            assert (cells.lo == -1).all()
            assert (cells.hi == 1).all()
            continue
        for x in points_of(face, -np.ones(m), np.ones(m), rng, 3):
            tau = coordinates(cells, 0, x)
            assert max(abs(t) for t in tau) <= 1


@pytest.mark.parametrize("m", [1, 2, 3])
def test_cells_around_points_hold_the_nearest_point_of_the_sphere(m):
    rng = np.random.default_rng(m)
    points = Sphere(m).sample(8) * (1 + Sphere(m).slack * rng.uniform(-1, 1, (8, 1)))
    points[0] = np.eye(m + 1)[0]
    points[1] = np.nextafter(np.eye(m + 1)[1], 2) * (np.eye(m + 1)[1] != 0)
    cells = around(points)
    for box, p in enumerate(points):
        x = on_sphere(p)
        assert max(abs(t) for t in coordinates(cells, box, x)) <= 1
        assert all(a <= t <= b for a, t, b in zip(cells.lo[box], x, cells.hi[box], strict=True))


@given(st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_points_that_are_divided_by_their_norm_belong_to_the_sphere(m, seed):
    domain = Sphere(m)
    points = domain.sample(20, seed)
    assert domain.contains(points).all()
    assert not domain.contains(points * (1 + 2 * domain.slack)).any()
    for p in points[:3]:
        length = mp.sqrt(mp.fsum(mp.mpf(float(t)) ** 2 for t in p))
        assert abs(length - 1) <= domain.slack
    assert not domain.contains(np.array([[np.nan] * (m + 1), [np.inf] * (m + 1), [0.0] * (m + 1)])).any()


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2]), st.integers(2, 7))
def test_restriction_to_the_curve_agrees_with_direct_evaluation(seed, m, order):
    """p(tau, tau_n) for tau_n anywhere the curve allows."""
    rng = np.random.default_rng(seed)
    face, lo, hi = random_patch(rng, m)
    curve = patches(m, face, lo[None], hi[None]).curve
    assert curve is not None
    depth, missing = mp.mpf(float(curve.depth[0])), mp.mpf(float(curve.missing[0]))
    parts = []
    for d in range(order):
        shape = (1, len(monomials(m + 1, d)))
        sparse = None if d and rng.random() < 0.2 else Ball(rng.standard_normal(shape), 0.01 * rng.random(shape))
        parts.append(sparse)
    jet, rest = restrict(parts, curve)
    for _ in range(3):
        tau = [mp.mpf(float(t)) for t in rng.uniform(-1, 1, m)]
        square = mp.fsum((t * mp.mpf(float(r))) ** 2 for t, r in zip(tau, curve.radii[0], strict=True))
        last = (mp.sqrt(1 - square) - 1 + missing * float(rng.uniform(-1, 1))) / depth
        value, slack = polynomial(parts, 0, [*tau, last])
        restricted, error = polynomial(jet, 0, tau)
        # every polynomial of the ball is enclosed: also the one whose coefficients are at the midpoints
        assert abs(value - restricted) <= error + mp.mpf(float(rest[0]))
        if rng.random() < 0.5:  # and one with its coefficients at the ends
            moved = [
                None if p is None else Ball.exact(p.mid + 0.999 * rng.choice([-1.0, 1.0], p.shape) * p.rad)
                for p in parts
            ]
            value, slack = polynomial(moved, 0, [*tau, last])
            assert abs(value - restricted) <= error + mp.mpf(float(rest[0])) + slack


def test_where_the_curve_is_unknown_so_is_the_restriction():
    curve = patches(2, 0, -np.ones((1, 2)), np.ones((1, 2))).curve
    assert curve is not None
    assert not curve.known[0]
    for order in (1, 2, 4):
        parts: Jet = [Ball.exact(np.ones((1, len(monomials(3, d))))) for d in range(order)]
        with np.errstate(invalid="ignore"):
            assert not np.isfinite(restrict(parts, curve)[1][0])


# ---- heads on patches


def model_of(keys, biases, values, kind: str) -> tuple[Transformer, Prefix]:
    """A head that only copies: "split" (softmax over the prefix), "core" (no normalisation), "classical" (blind to data tokens)."""
    model, prefix = head_model(keys, biases, values)
    plain = model.layers[0].heads[0]
    blind = {"key": np.zeros_like(plain.query), "value": np.zeros((plain.output.shape[1], plain.query.shape[1]))}
    head = Head(plain.query, plain.output, normalised=kind != "core", **(blind if kind == "classical" else {}))
    return Transformer(model.embedding, model.offset, (Layer((head,)),), model.readout), prefix


def exact_value(keys, biases, values, kind: str, x, length: int = 1) -> list:
    """The head at a point of 50 digits; with `length` data tokens where it sees them."""
    logits = [
        mp.mpf(float(b)) + mp.fsum(mp.mpf(float(a)) * t for a, t in zip(row, x, strict=True))
        for row, b in zip(keys, biases, strict=True)
    ]
    top = max(logits) if kind == "split" else mp.mpf(0)
    weights = [mp.exp(s - top) for s in logits]
    total = mp.fsum(weights) + (length if kind == "classical" else 0)
    return [
        mp.fsum(w * mp.mpf(float(v)) for w, v in zip(weights, column, strict=True)) / (1 if kind == "core" else total)
        for column in np.asarray(values).T
    ]


@pytest.mark.parametrize("kind", ["split", "core", "classical"])
@pytest.mark.parametrize("m", [1, 2, 3])
def test_heads_are_enclosed_on_patches(m, kind):
    rng = np.random.default_rng(10 * m + len(kind))
    finite = 0
    for _ in range(4):
        tokens, outputs = int(rng.integers(1, 9)), int(rng.integers(1, 3))
        sharpness = 10.0 ** rng.uniform(-3, 2)
        keys = sharpness * Sphere(m).sample(tokens, int(rng.integers(99))) * 10.0 ** rng.choice([0.0, 0.7], (tokens, 1))
        biases, values = rng.standard_normal(tokens) * rng.choice([0.0, 3.0]), rng.standard_normal((tokens, outputs))
        length = int(rng.choice([1, 7, 200, 20_000]))
        read = affine_head(*model_of(keys, biases, values, kind), length, Sphere(m).slack)
        face, lo, hi = random_patch(rng, m)
        hi = lo + (hi - lo) * min(1.0, 1 / sharpness)
        cells = patches(m, face, lo[None], hi[None])
        order = int(rng.integers(2, 5))
        if kind == "core":
            series = enclose_core(read, cells, order)
        else:
            series = enclose_head(read, every_token(read), cells, order)
        if not np.isfinite(series.remainder).all():
            continue
        finite += 1
        assert cells.curve is not None
        for x in points_of(face, lo, hi, rng, 3):
            tau = coordinates(cells, 0, x)
            for i, g in enumerate(exact_value(keys, biases, values, kind, x, length)):
                remainder = mp.mpf(float(series.remainder[0, i]))
                mid, rad = polynomial(series.parts[i], 0, tau)
                assert abs(g - mid) <= rad + remainder
                jet, missed = restrict(series.parts[i], cells.curve)
                mid, rad = polynomial(jet, 0, tau[:-1])
                assert abs(g - mid) <= rad + remainder + mp.mpf(float(missed[0]))
            if length > 200:  # too long to run here
                continue
            near = np.array([float(t) for t in x])
            near = near * (1 + 4 * 2.0**-53 * rng.uniform(-1, 1))
            assert Sphere(m).contains(near[None]).all()
            model, prefix = model_of(keys, biases, values, kind)
            ran = forward(model, prefix, np.tile(near, (1, length if kind == "classical" else 1, 1)))[0, 0]
            # the float point's own nearest point of the sphere is the one that counts
            truth = exact_value(keys, biases, values, kind, on_sphere(near), length)
            for i, g in enumerate(truth):
                assert abs(mp.mpf(float(ran[i])) - g) <= series.rounding[0, i] * 1.01
    assert finite >= 3


@pytest.mark.parametrize("size", [590.0, 599.0, 601.0, 720.0, 1e5])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_core_heads_at_the_ends_of_the_exponential(size, sign):
    """Logits at the limit are enclosed, or nothing is claimed; far below it they count for nothing."""
    rng = np.random.default_rng(0)
    keys, biases = np.array([[0.3, 0.4, 0.0], [0.0, 0.0, 0.01]]), np.array([sign * (size - 0.5), 0.0])
    values = np.array([[1.0], [2.0]])
    read = affine_head(*model_of(keys, biases, values, "core"), 1, Sphere(2).slack)
    lo, hi = np.array([0.6, 0.0]), np.array([0.61, 0.01])
    cells = patches(2, 1, lo[None], hi[None])
    series = enclose_core(read, cells, 4)
    known = np.isfinite(series.remainder[0, 0])
    assert known == (size < 600 or (sign < 0 and size > 600))
    if known:
        for x in points_of(1, lo, hi, rng, 4):
            (g,) = exact_value(keys, biases, values, "core", x)
            mid, rad = polynomial(series.parts[0], 0, coordinates(cells, 0, x))
            assert abs(g - mid) <= rad + mp.mpf(float(series.remainder[0, 0]))


# ---- a random campaign


def random_head(rng: np.random.Generator, m: int, f, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys around the sphere and least-squares values: a decent head for f, sometimes with a few numbers moved."""
    tokens = int(rng.integers(1, 13 if m == 1 else 24))
    sharpness = float(rng.uniform(0.3, 4.0))
    keys = sharpness * Sphere(m).sample(tokens, int(rng.integers(1000)))
    biases = np.zeros(tokens) if rng.random() < 0.5 else 0.5 * rng.standard_normal(tokens)
    points = Sphere(m).sample(300, 1)
    weights = np.exp(points @ keys.T + biases)
    if kind != "core":
        weights /= weights.sum(axis=1, keepdims=True) + (kind == "classical")
    values = np.linalg.lstsq(weights, f.evaluate(points), rcond=1e-10)[0]
    size = rng.choice([0.0, 0.0, 1e-6, 1e-2])
    return keys * (1 + size * rng.standard_normal(keys.shape)), biases, values


def exact_error(keys, biases, values, kind, f, x, length=1):
    found = oracle.expression_values(f.expression.to_json(), x)
    return max(abs(g - t) for g, t in zip(exact_value(keys, biases, values, kind, x, length), found, strict=True))


def worst_points(c: Claim, count: int = 3, length: int = 1) -> np.ndarray:
    assert isinstance(c.target, ExpressionTarget)
    points = c.domain.sample(4000, 5)
    if length > 1:
        gap = np.abs(
            forward(c.model, c.prefix, np.repeat(points[::20, None], length, axis=1))[:, 0]
            - c.target.evaluate(points[::20])
        ).max(axis=1)
        return points[::20][np.argsort(gap)[-count:]]
    gap = np.abs(forward(c.model, c.prefix, points) - c.target.evaluate(points)).max(axis=1)
    return points[np.argsort(gap)[-count:]]


def test_no_certificate_on_a_sphere_contradicts_the_oracle(campaign):
    counts = {Status.PROVED: 0, Status.REFUTED: 0, Status.UNDECIDED: 0}
    for seed in range(18 * campaign):
        rng = np.random.default_rng(seed)
        m, kind = int(rng.choice([1, 1, 2])), str(rng.choice(["split", "core", "classical"]))
        outputs = int(rng.choice([1, 1, 2]))
        f = target(*[random_formula(rng, m + 1, 2, seed % 5 == 0) for _ in range(outputs)], n=m + 1)
        keys, biases, values = random_head(rng, m, f, kind)
        length = int(rng.choice([1, 2, 64])) if kind == "classical" else 1
        draft = Claim(*model_of(keys, biases, values, kind), f, Sphere(m), 1.0, length)
        arms = (keys, biases, values, kind, f)
        lengths = sorted({1, length})
        worst = {t: max(exact_error(*arms, on_sphere(p), t) for p in worst_points(draft, 3, t)) for t in lengths}
        known = max(worst.values())  # a rigorous lower bound of the sup error
        if not 0 < known < 1e6:
            continue
        factor = float(rng.choice([0.5, 0.99, 1 - 1e-6, 1.02, 1.3, 2.0]))
        eps = float(known) * factor
        c = Claim(draft.model, draft.prefix, f, draft.domain, eps, length)
        certificate = prove(c, tightness=math.inf if seed % 2 else 0.05, max_boxes=400)
        counts[certificate.status] += 1
        if certificate.status is Status.PROVED:
            assert known <= certificate.error_upper <= eps, seed
            for p in worst_points(draft, 2):
                for t in sorted({1, (1 + length) // 2, length}):
                    ran = forward(c.model, c.prefix, np.tile(p, (1, t, 1)))[0, 0]
                    x = on_sphere(p)
                    for got, exact in zip(ran, exact_value(keys, biases, values, kind, x, t), strict=True):
                        assert abs(mp.mpf(float(got)) - exact) <= certificate.rounding, (seed, t)
                    assert exact_error(*arms, x, t) <= certificate.error_upper, (seed, t)
        if certificate.witness is not None:
            assert c.domain.contains(np.array([certificate.witness])).all()
            at = max(exact_error(*arms, on_sphere(certificate.witness), t) for t in lengths)
            assert at >= certificate.error_lower * (1 - 1e-12), seed  # the centre of a patch, rounded
    assert counts[Status.PROVED] >= 4 * campaign
    assert counts[Status.REFUTED] >= 4 * campaign


@pytest.mark.parametrize("lengths", [(1, 2), (3, 64), (400, 20_000)])
def test_a_claim_about_the_longest_sequence_holds_for_the_shorter_ones(lengths):
    """The error is convex in the head's value, which moves along a segment with the length."""
    some, longest = lengths
    keys, biases = 9.0 * np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]), np.full(4, 3.0)
    values = np.array([[1.0], [0.0], [-1.0], [0.0]])
    f = target(X, n=2)
    parts = model_of(keys, biases, values, "classical")
    draft = Claim(*parts, f, Sphere(1), 1.0, longest)
    points = Sphere(1).sample(50)
    exact = {
        t: max(exact_error(keys, biases, values, "classical", f, on_sphere(p), t) for p in points)
        for t in (1, some, longest)
    }
    assert exact[some] <= max(exact[1], exact[longest])
    high = prove(Claim(*parts, f, Sphere(1), 1.2 * float(max(exact.values())), longest))
    assert high.proved
    assert exact[some] <= high.error_upper
    low = prove(Claim(*parts, f, Sphere(1), 0.99 * float(max(exact.values())), longest))
    assert not low.proved
    assert draft.sequence_length == longest


# ---- kinks, constants, thin places


def test_expressions_that_only_the_sphere_makes_constant():
    f = target(X * X + Y * Y + Z * Z, n=3)
    parts = model_of(np.zeros((1, 3)), np.zeros(1), np.ones((1, 1)), "split")
    certificate = prove(Claim(*parts, f, Sphere(2), 1e-4), tightness=math.inf)
    assert certificate.proved
    assert certificate.error_upper < 1e-4
    moved = model_of(np.zeros((1, 3)), np.zeros(1), np.full((1, 1), 1 + 1e-12), "split")
    assert prove(Claim(*moved, f, Sphere(2), 0.9e-12)).status is Status.REFUTED


def test_kinks_and_steps():
    one = model_of(np.zeros((1, 2)), np.zeros(1), np.zeros((1, 1)), "split")
    step = apply("select", X - Fraction(1, 3), lift(1), lift(-1), value=">=")
    assert prove(Claim(*one, target(step, n=2), Sphere(1), 1.0 + 1e-9)).proved
    assert not prove(Claim(*one, target(step, n=2), Sphere(1), 0.999), max_boxes=2000).proved
    pole = apply("select", X - 1, lift(100), lift(0), value=">=")  # 100 at one point of the circle
    assert not prove(Claim(*one, target(pole, n=2), Sphere(1), 1.0), max_boxes=2000).proved
    assert prove(Claim(*one, target(apply("abs", X) - Fraction(1, 2), n=2), Sphere(1), 0.5 + 1e-9)).proved


@pytest.mark.parametrize("sharpness", [1e-8, 1e4, 1e8, 1e12])
def test_extreme_sharpness_is_never_called_proved_wrongly(sharpness):
    """Signs at two antipodes: the head is a step (or, hardly sharp, nothing); the step is not within 0.9 of y."""
    parts = model_of(sharpness * np.array([[0.0, 1.0], [0.0, -1.0]]), np.zeros(2), np.array([[1.0], [-1.0]]), "split")
    for eps in (0.5, 0.9, 0.999):
        assert not prove(Claim(*parts, target(Y, n=2), Sphere(1), eps), max_boxes=3000, seconds=5).proved
    assert prove(Claim(*parts, target(Y, n=2), Sphere(1), 1.01), max_boxes=6000).status is not Status.REFUTED


# ---- the covering theorem


def cones(rng: np.random.Generator, m: int, constant: float):
    """min_k (height_k + L angle(x, p_k)) and its negative: as steep as a Lipschitz function gets."""
    points, heights, sign = Sphere(m).sample(4, int(rng.integers(99))), 0.3 * rng.random(4), rng.choice([-1.0, 1.0])
    return lambda x: sign * (heights + constant * np.arccos(np.clip(x @ points.T, -1, 1))).min(axis=1, keepdims=True)


@pytest.mark.parametrize("kind", ["split", "classical"])
@pytest.mark.parametrize("m", [1, 2, 3])
def test_the_covering_theorem_holds_for_the_steepest_functions(m, kind):
    rng = np.random.default_rng(m)
    proved = 0
    for trial in range(4):
        tokens = {1: 40, 2: 120, 3: 200}[m]
        if m == 1:
            angle = np.linspace(0, 2 * np.pi, tokens, endpoint=False) + 0.05 * rng.random(tokens)
            net = np.column_stack([np.cos(angle), np.sin(angle)])
        else:
            net = Sphere(m).sample(tokens, trial)
        constant = float(rng.choice([0.5, 2.0]))
        f = cones(rng, m, constant)
        sharpness = float(rng.choice([40.0, 300.0, 5000.0]))
        norms = sharpness * (1 + rng.choice([0.0, 1e-4]) * rng.standard_normal((tokens, 1)))
        values = f(net) + rng.choice([0.0, 1e-3]) * rng.standard_normal((tokens, 1))
        length = 50 if kind == "classical" else 1
        black_box = LipschitzTarget(net, f(net), constant, "geodesic")
        parts = model_of(norms * net, np.zeros(tokens), values, kind)
        points = Sphere(m).sample(4000, 3)
        run = forward(*parts, points)
        # McShane's extreme extensions of the recorded values belong to the class as well
        away = constant * np.arccos(np.clip(points @ net.T, -1, 1))
        upper, lower = (f(net).T + away).min(axis=1, keepdims=True), (f(net).T - away).max(axis=1, keepdims=True)
        seen = max(float(np.abs(run - other).max()) for other in (f(points), upper, lower))
        for eps in (0.999 * seen, 1.5 * seen, 3 * seen, 20 * seen):
            certificate = prove(Claim(*parts, black_box, Sphere(m), eps, length), max_boxes=200_000)
            assert not (certificate.proved and eps < seen), (trial, eps)
            if certificate.proved:
                proved += 1
                assert certificate.conditional
                assert seen <= certificate.error_upper
    assert proved >= 2


def test_a_net_with_a_gap_does_not_cover():
    for m in (1, 2):
        net = Sphere(m).sample(300 if m == 2 else 60, 4)
        points = Sphere(m).sample(200_000, 5)
        gap = float(np.arccos(np.clip((points[::20] @ net.T).max(axis=1), -1, 1)).max())
        assert not sphere_covering_radius_at_most(net, gap * (1 - 1e-9), 10**6)[0]
        assert sphere_covering_radius_at_most(net, gap * 1.3, 10**6)[0]
    antipodes = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])
    assert not sphere_covering_radius_at_most(antipodes, np.pi / 2 * (1 - 1e-9), 10**6)[0]
    assert sphere_covering_radius_at_most(antipodes, np.pi / 2 * (1 + 1e-3), 10**6)[0]
    assert not sphere_covering_radius_at_most(antipodes[:1], 2.99, 10**6)[0]
    assert sphere_covering_radius_at_most(antipodes[:1] * 1e300, 3.2, 10**6)[0]


# ---- constants and ranges


def chebyshev(k: int):
    """cos(k theta) on the circle, as a polynomial in x = cos(theta)."""
    a, b = lift(1), X
    for _ in range(k - 1):
        a, b = b, X * b * 2 - a
    return b


@pytest.mark.parametrize(
    ("formula", "m", "constant"),
    [
        (Z, 2, 1.0),
        (X * 3 - Y * 4, 1, 5.0),
        (chebyshev(2), 1, 2.0),
        (chebyshev(5), 1, 5.0),
        (X * X - Y * Y, 2, 2.0),  # cos(2 phi) on the equator
        (X * X * X - X * Y * Y * 3, 2, 3.0),
        (apply("abs", Z), 2, 1.0),
        (X * X + Y * Y + Z * Z, 2, 0.0),
        (apply("exp", X * X + Y * Y), 1, 0.0),
    ],
)
def test_known_geodesic_constants(formula, m, constant):
    found = lipschitz_constant(expression(formula, n=m + 1), Sphere(m), tightness=0.02)
    assert constant <= found.upper <= constant * 1.03 + 0.35 * (constant == 0)
    assert found.lower <= constant + 1e-9


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2]))
def test_constants_and_ranges_bound_dense_samples(seed, m):
    rng = np.random.default_rng(seed)
    f = target(random_formula(rng, m + 1, 2, kinks=True), n=m + 1)
    constant = lipschitz_constant(f.expression, Sphere(m), tightness=0.5, max_boxes=64)
    span = value_range(f.expression, Sphere(m), tightness=0.5, max_boxes=64)
    points = Sphere(m).sample(300, 1)
    near = points + 1e-3 * rng.standard_normal(points.shape)
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    chord = np.linalg.norm(points - near, axis=1)
    angle = 2 * np.arcsin(chord / 2)
    if np.isfinite(constant.upper):  # with a jump there is none
        change = np.abs(f.evaluate(points) - f.evaluate(near))[:, 0]
        assert (change <= constant.upper * angle * (1 + 1e-9) + 1e-9).all()
        assert constant.lower <= constant.upper
    assert np.abs(f.evaluate(points)).max() <= span.upper * (1 + 1e-12)


# ---- what a forger would change


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One proved claim of each kind, saved."""
    place = tmp_path_factory.mktemp("spheres")
    found = {}
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    net = np.column_stack([np.cos(angle), np.sin(angle)])
    f = target(X + Y * Fraction(1, 2), n=2)
    for kind in ("split", "core", "classical"):
        points = Sphere(1).sample(400)
        weights = np.exp(3 * points @ net.T)
        if kind != "core":
            weights /= weights.sum(axis=1, keepdims=True) + 2 * (kind == "classical")
        values = np.linalg.lstsq(weights, f.evaluate(points), rcond=1e-12)[0]
        c = Claim(*model_of(3 * net, np.zeros(16), values, kind), f, Sphere(1), 0.05, 3 if kind == "classical" else 1)
        certificate = prove(c)
        assert certificate.proved, kind
        found[kind] = (save(place / kind, Artefact(c, certificate, {})), c)
    return found


CHANGES = {
    "value": lambda a: a["prefix.0.0.values"].__setitem__((3, 0), a["prefix.0.0.values"][3, 0] + 9.0),
    "key": lambda a: a["prefix.0.0.keys"].__setitem__((3, 0), -4.0),
    "bias": lambda a: a["prefix.0.0.keys"].__setitem__((3, 2), 2.0),
}


@pytest.mark.parametrize("kind", ["split", "core", "classical"])
@pytest.mark.parametrize("change", [*CHANGES, "eps", "length", "normalised", "names"])
def test_a_changed_file_does_not_stay_proved(files, kind, change, tmp_path):
    source, c = files[kind]
    read, length = kind, c.sequence_length

    def document(d):
        if change == "eps":
            d["eps"] = d["certificate"]["eps"] = (1e-11).hex()
            d["certificate"] |= {"error_upper": (0.5e-11).hex(), "error_lower": (0.0).hex()}
        if change == "length":
            d["sequence_length"] = 2000
        if change == "normalised":
            d["layers"][0]["normalised"] = [kind == "core"]
        if change == "names":
            d["domain"]["names"] = ["x1", "x0"]

    forged = rewrite(source, tmp_path / "forged", document=document, arrays=CHANGES.get(change))
    if change == "names" or (change == "normalised" and kind == "classical"):
        with pytest.raises(ValueError, match=r"domain|normalisation"):
            check(forged)
        return
    stored = oracle.read_container(forged)[0]
    keys, values = stored["prefix.0.0.keys"], stored["prefix.0.0.values"]
    if change == "length":
        length = 2000
    if change == "normalised":
        read = "split" if kind == "core" else "core"
    eps = 1e-11 if change == "eps" else c.eps
    points = [on_sphere(p) for p in Sphere(1).sample(60)]
    arms = (keys[:, :2], keys[:, 2], values, read, c.target)
    error = max(exact_error(*arms, x, length) for x in points)
    harmless = change == "length" and kind != "classical"  # nothing attends to data
    assert harmless or error > eps  # the change made the claim false
    assert check(forged).proved == harmless


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "sphere", "m": 0, "names": None},
        {"kind": "sphere", "m": 1.0, "names": None},
        {"kind": "sphere", "m": True, "names": None},
        {"kind": "sphere", "m": 2, "names": None},
        {"kind": "sphere", "m": 1, "names": ["x0", "x0"]},
        {"kind": "sphere", "m": 1, "names": 5},
        {"kind": "box", "m": 1, "names": None},
        {"kind": "torus", "m": 1, "names": None},
        {"kind": ["sphere"], "m": 1, "names": None},
    ],
)
def test_stored_domains_that_make_no_sense(files, wrong, tmp_path):
    forged = rewrite(files["split"][0], tmp_path / "forged", document=lambda d: d.__setitem__("domain", wrong))
    with pytest.raises(ValueError, match="forged"):
        check(forged)


@pytest.mark.parametrize("length", [0, -1, 2.0, "3", None, [1]])
def test_stored_lengths_that_make_no_sense(files, length, tmp_path):
    forged = rewrite(
        files["classical"][0], tmp_path / "forged", document=lambda d: d.__setitem__("sequence_length", length)
    )
    with pytest.raises(ValueError, match="forged"):
        check(forged)


def test_a_witness_off_the_sphere_is_not_read(files, tmp_path):
    def document(d):
        d["certificate"]["witness"] = [(0.7).hex(), (0.7).hex()]

    with pytest.raises(ValueError, match="witness"):
        check(rewrite(files["split"][0], tmp_path / "forged", document=document))


def test_sequences_too_long_to_handle_are_refused_not_proved():
    parts = model_of(np.zeros((1, 2)), np.zeros(1), np.zeros((1, 1)), "classical")
    f = target(X * 0, n=2)
    assert prove(Claim(*parts, f, Sphere(1), 0.1, 20_000)).proved
    assert prove(Claim(*parts, f, Sphere(1), 0.1, 20_001)).status is Status.UNDECIDED


# ---- claims that were once decided wrongly, or not at all (the one mark left: not mended)


def test_a_core_head_against_a_black_box_on_a_box_is_not_proved():
    x = np.linspace(0, 1, 30)[:, None]
    values = np.full((30, 1), 0.5)
    parts = model_of(4000 * x, -2000 * (x**2).sum(axis=1), values, "core")
    f = LipschitzTarget(x, values, 0.1, "l2")
    assert abs(forward(*parts, np.array([[0.5]]))[0, 0]) > 1e100
    assert not prove(Claim(*parts, f, Box([(0, 1)]), 0.1)).proved


def test_a_core_head_against_a_black_box_on_a_sphere_is_not_refuted():
    keys = 5 * Sphere(2).sample(50)
    parts = model_of(keys, np.zeros(50), np.full((50, 1), 5 / (50 * math.sinh(5))), "core")
    recorded = LipschitzTarget(keys / 5, forward(*parts, keys / 5), 10.0, "geodesic")
    found = prove(Claim(*parts, recorded, Sphere(2), 0.5))
    assert found.status is not Status.REFUTED  # the error at every recorded point is zero
    assert found.error_lower < 1e-9


def assert_not_taken_as_defined(found):
    """A hole is either found, or the result says that it looked at corners only."""
    assert found.bad is not None or found.corners > 0


def hidden_size(formula):
    """|formula|, written so that the kernel cannot see that it is defined everywhere."""
    return (formula * formula) ** "1/2"


def test_a_target_with_a_hole_is_refused_on_a_box():
    hole = (X - Fraction(-39, 61)) ** 2 - Fraction(1, 10**6)  # undefined on an interval of length 0.002
    f = target(hidden_size(apply("sin", X * 200)) + hole ** "1/2", n=1)
    assert np.isnan(f.evaluate(np.array([[-39 / 61]]))).all()
    parts = model_of(np.zeros((1, 1)), np.zeros(1), np.full((1, 1), 1.3), "split")
    assert not prove(Claim(*parts, f, Box([(-1, 1)]), 1.5), tightness=math.inf).proved


def test_a_target_with_a_hole_is_refused_on_a_sphere():
    centre = [Fraction(float(t)).limit_denominator(10**6) for t in Sphere(2).sample(1, 8)[0]]
    away = sum(((var(i) - c) ** 2 for i, c in enumerate(centre)), lift(0))
    hole = away - Fraction(1, 10**4)  # undefined in a cap of radius 0.01
    f = target(hidden_size(Z - Fraction(3, 10)) + hidden_size(Z - Fraction(1, 7)) + hole ** "1/2", n=3)
    assert np.isnan(f.evaluate(Sphere(2).sample(1, 8))).all()
    assert_not_taken_as_defined(value_range(f.expression, Sphere(2), tightness=math.inf))


def test_a_target_with_a_tiny_hole_is_refused_on_a_circle():
    away = (X - Fraction(3, 5)) ** 2 + (Y - Fraction(4, 5)) ** 2
    f = target((away - Fraction(1, 10**13)) ** "1/2", n=2)
    parts = model_of(np.zeros((1, 2)), np.zeros(1), np.ones((1, 1)), "split")
    found = prove(Claim(*parts, f, Sphere(1), 1.01))
    assert not found.proved or any("defined everywhere" in a for a in found.assumptions)


@pytest.mark.parametrize("most", [0, 5, 100])
def test_few_boxes_are_undecided(most):
    keys = 50 * Sphere(2).sample(400)
    parts = model_of(keys, np.zeros(400), np.ones((400, 1)), "split")
    f = LipschitzTarget(keys / 50, np.ones((400, 1)), 1.0, "geodesic")
    assert prove(Claim(*parts, f, Sphere(2), 0.6), max_boxes=most).status is Status.UNDECIDED


def test_data_tokens_against_a_black_box_on_a_box_do_not_crash():
    x = np.linspace(0, 1, 30)[:, None]
    parts = model_of(4000 * x, -2000 * (x**2).sum(axis=1), np.full((30, 1), 0.5), "classical")
    f = LipschitzTarget(x, np.full((30, 1), 0.5), 0.1, "l2")
    assert not prove(Claim(*parts, f, Box([(0, 1)]), 0.1, 3)).proved


@pytest.mark.parametrize("where", ["sphere", "box"])
def test_values_that_no_lipschitz_function_takes_prove_nothing(where):
    """Two clusters of twelve points whose values differ by a hundred: the class of functions is empty."""
    near = np.linspace(-0.1, 0.1, 12)
    values = np.repeat([0.0, 100.0], 12)[:, None]
    if where == "sphere":
        angle = np.concatenate([near, np.pi + near])
        points = np.column_stack([np.cos(angle), np.sin(angle)])
        parts = model_of(1000 * points, np.zeros(24), values, "split")
        f, domain = LipschitzTarget(points, values, 1.0, "geodesic"), Sphere(1)
    else:
        points = np.concatenate([0.1 + near, 0.9 + near])[:, None]
        parts = model_of(4000 * points, -2000 * (points**2).sum(axis=1), values, "split")
        f, domain = LipschitzTarget(points, values, 1.0, "l2"), Box([(0, 1)])
    assert not prove(Claim(*parts, f, domain, 10.0), max_boxes=20_000).proved


def test_a_target_with_a_small_hole_is_refused_on_a_sphere():
    centre = [Fraction(float(t)).limit_denominator(10**6) for t in Sphere(2).sample(1, 1)[0]]
    away = sum(((var(i) - c) ** 2 for i, c in enumerate(centre)), lift(0))
    hole = away - Fraction(1, 10**6)  # undefined in a cap of radius 0.001
    f = target(hidden_size(Z - Fraction(3, 10)) + hole ** "1/2", n=3)
    assert np.isnan(f.evaluate(Sphere(2).sample(1, 1))).all()
    assert_not_taken_as_defined(value_range(f.expression, Sphere(2), tightness=math.inf))
