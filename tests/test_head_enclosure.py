"""Enclosures of one softmax head: |g - polynomial| <= remainder, the rounding bound covers float64, dropped tokens stay bounded."""

import mpmath
import numpy as np
import pytest
from formulas import every_token, head_model, plain_head

from verify import Head, Layer, Prefix, Transformer, forward
from verify.affine import AffineHead, affine_head
from verify.cells import Cells
from verify.head import Tokens, TokenValues, enclose_head, select_tokens
from verify.jets import monomials

DIGITS = 60


def exact_head(slopes, biases, values, x) -> list:
    """g(x) of stored floats at an mpmath point."""
    logits = [
        mpmath.fsum(mpmath.mpf(float(a)) * t for a, t in zip(row, x, strict=True)) + mpmath.mpf(float(b))
        for row, b in zip(slopes, biases, strict=True)
    ]
    top = max(logits)
    weights = [mpmath.exp(s - top) for s in logits]
    total = mpmath.fsum(weights)
    return [
        mpmath.fsum(w * mpmath.mpf(float(v)) for w, v in zip(weights, column, strict=True)) / total
        for column in np.asarray(values).T
    ]


def polynomial(parts, box: int, tau) -> tuple:
    """Midpoint value at tau and the sum of radii."""
    mid, rad = mpmath.mpf(0), mpmath.mpf(0)
    for d, part in enumerate(parts):
        if part is None:
            continue
        for e, m, r in zip(monomials(len(tau), d), part.mid[box], part.rad[box], strict=True):
            power = mpmath.fprod(t ** int(k) for t, k in zip(tau, e, strict=True))
            mid += mpmath.mpf(float(m)) * power
            rad += mpmath.mpf(float(r)) * abs(power)
    return mid, rad


def frame(lo, hi):
    """Centre and half-widths exactly as the kernel's documentation defines them."""
    c = lo + (hi - lo) * 0.5
    return c, np.maximum(hi - c, c - lo) * (1 + 4 * 2.0**-53)


def assert_enclosed(head: AffineHead, series, lo, hi, rng, points: int = 4, rounding_of=None) -> int:
    """Check the enclosure at random points and corners of each box; how many boxes had a finite bound."""
    finite = 0
    c, r = frame(lo, hi)
    with mpmath.workdps(DIGITS):
        for box in range(len(lo)):
            if not np.isfinite(series.remainder[box]).all():
                continue
            finite += 1
            for p in range(points):
                u = rng.random(lo.shape[1]) if p else rng.integers(0, 2, lo.shape[1]).astype(float)
                x = [
                    mpmath.mpf(float(a)) + (mpmath.mpf(float(b)) - mpmath.mpf(float(a))) * mpmath.mpf(float(t))
                    for a, b, t in zip(lo[box], hi[box], u, strict=True)
                ]
                tau = [
                    (xi - mpmath.mpf(float(ci))) / mpmath.mpf(float(ri)) if ri else mpmath.mpf(0)
                    for xi, ci, ri in zip(x, c[box], r[box], strict=True)
                ]
                true = exact_head(head.slopes, head.biases, head.values, x)
                for i, g in enumerate(true):
                    mid, rad = polynomial(series.parts[i], box, tau)
                    assert abs(g - mid) <= rad + mpmath.mpf(float(series.remainder[box, i])), (box, i)
    return finite


def family(rng: np.random.Generator, kind: str, tokens: int, n: int, k: int):
    """Slopes, biases, values of one of the hostile families."""
    slopes = rng.standard_normal((tokens, n)) * 10.0 ** rng.uniform(-3, 1.5)
    biases = rng.standard_normal(tokens) * 10.0 ** rng.uniform(-2, 1)
    values = rng.standard_normal((tokens, k))
    if kind == "near-identical":
        slopes = slopes[:1] + 1e-13 * slopes
        biases = biases[:1] + 1e-13 * biases
    elif kind == "duplicated":
        half = rng.integers(0, tokens, tokens)
        slopes, biases = slopes[half], biases[half]
    elif kind == "huge keys":
        slopes *= 1e6
        biases *= 1e6
    elif kind == "cancelling logits":
        slopes = slopes + 1e9
        biases = biases - 1e9 * 0.37
    elif kind == "huge values":
        values *= 1e150
    elif kind == "cancelling values":
        values = 1e8 + values * 1e-6
    elif kind == "zero slopes":
        slopes[:] = 0.0
    elif kind == "vanishing":
        biases = -np.abs(rng.standard_normal(tokens)) * 400.0
        biases[0] = 0.0
        values *= 10.0 ** rng.uniform(0, 200, (tokens, k))
    return slopes, biases, values


KINDS = [
    "plain",
    "near-identical",
    "duplicated",
    "huge keys",
    "cancelling logits",
    "huge values",
    "cancelling values",
    "zero slopes",
    "vanishing",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_polynomial_and_remainder_enclose_the_head(kind, n):
    rng = np.random.default_rng(1000 * n + len(kind))
    finite = 0
    for _ in range(5):
        tokens, k = int(rng.integers(1, 25)), int(rng.integers(1, 3))
        slopes, biases, values = family(rng, kind, tokens, n, k)
        head = plain_head(slopes, biases, values)
        boxes = 5
        lo = rng.standard_normal((boxes, n))
        if kind == "cancelling logits":
            lo = 0.37 + 0.01 * lo
        width = 10.0 ** rng.uniform(-9, 0.3, (boxes, 1)) / (1 + np.abs(slopes - slopes.mean(axis=0)).max())
        hi = lo + width * rng.random((boxes, n))
        hi[0] = lo[0]  # a point
        hi[1] = np.nextafter(lo[1], np.inf)  # one ulp wide
        lo[2], hi[2] = -hi[2] + lo[2], hi[2] - lo[2]  # around zero
        order = int(rng.choice([1, 2, 3, 6] + ([12] if n == 1 else [])))
        finite += assert_enclosed(head, enclose_head(head, every_token(head), Cells.boxes(lo, hi), order), lo, hi, rng)
    assert finite >= 10  # the check is not vacuous


@pytest.mark.parametrize("place", [1e6, -1e12, 1e150])
def test_far_from_the_origin(place):
    rng = np.random.default_rng(3)
    slopes = rng.standard_normal((6, 1)) / abs(place) * 10
    head = plain_head(slopes, rng.standard_normal(6), rng.standard_normal((6, 1)))
    width = abs(place) * 1e-9
    lo = place + width * np.arange(4)[:, None]
    hi = lo + width
    for order in (1, 2, 6):
        assert (
            assert_enclosed(head, enclose_head(head, every_token(head), Cells.boxes(lo, hi), order), lo, hi, rng) == 4
        )


def test_four_dimensions():
    rng = np.random.default_rng(4)
    head = plain_head(rng.standard_normal((7, 4)), rng.standard_normal(7), rng.standard_normal((7, 2)))
    lo = rng.standard_normal((3, 4))
    hi = lo + 0.2
    assert assert_enclosed(head, enclose_head(head, every_token(head), Cells.boxes(lo, hi), 4), lo, hi, rng) == 3


def test_one_token_is_a_constant():
    head = plain_head(np.array([[3.0]]), np.array([1.0]), np.array([[0.1]]))
    series = enclose_head(head, every_token(head), Cells.boxes(np.array([[-1.0]]), np.array([[1.0]])), 6)
    assert series.remainder[0, 0] < 1e-14
    assert abs(series.parts[0][0].mid[0, 0] - 0.1) < 1e-15


def test_enclosure_is_tight_on_small_boxes():
    """The remainder falls like r^order until rounding is reached."""
    rng = np.random.default_rng(8)
    head = plain_head(rng.standard_normal((9, 1)) * 3, rng.standard_normal(9), rng.standard_normal((9, 1)))
    previous = None
    for r in (0.1, 0.05, 0.025):
        remainder = enclose_head(
            head, every_token(head), Cells.boxes(np.array([[0.3 - r]]), np.array([[0.3 + r]])), 6
        ).remainder[0, 0]
        if previous is not None:
            assert remainder < previous / 30
        previous = remainder


@pytest.mark.parametrize("order", [1, 2, 5])
@pytest.mark.parametrize("n", [1, 2])
def test_box_dependent_affine_values(order, n):
    """`own`: numerator sum p_j (value_j + <slope_j, tau>) e^{s_j}."""
    rng = np.random.default_rng(10 * order + n)
    for _ in range(6):
        tokens = int(rng.integers(1, 12))
        head = plain_head(rng.standard_normal((tokens, n)) * 3, rng.standard_normal(tokens), np.zeros((tokens, 1)))
        lo = rng.standard_normal((2, n))
        hi = lo + rng.choice([0.0, 1e-3, 0.2])
        value, slope = rng.random((2, tokens)), 0.3 * rng.standard_normal((2, tokens, n))
        excess = np.abs(rng.standard_normal((2, tokens))) * 1e-3
        own = TokenValues(value, slope, excess, 10.0)
        series = enclose_head(head, every_token(head), Cells.boxes(lo, hi), order, own)
        c, r = frame(lo, hi)
        with mpmath.workdps(DIGITS):
            for box in range(2):
                for _ in range(4):
                    tau = [mpmath.mpf(float(t)) for t in rng.uniform(-1, 1, n)]
                    x = [
                        mpmath.mpf(float(ci)) + mpmath.mpf(float(ri)) * t
                        for ci, ri, t in zip(c[box], r[box], tau, strict=True)
                    ]
                    sign = rng.choice([-1.0, 1.0])
                    values = [
                        [
                            mpmath.mpf(float(value[box, j]))
                            + mpmath.fsum(mpmath.mpf(float(s)) * t for s, t in zip(slope[box, j], tau, strict=True))
                            + sign * mpmath.mpf(float(excess[box, j]))
                        ]
                        for j in range(tokens)
                    ]
                    logits = [
                        mpmath.fsum(mpmath.mpf(float(a)) * t for a, t in zip(row, x, strict=True))
                        + mpmath.mpf(float(b))
                        for row, b in zip(head.slopes, head.biases, strict=True)
                    ]
                    weights = [mpmath.exp(s) for s in logits]
                    g = mpmath.fsum(w * v[0] for w, v in zip(weights, values, strict=True)) / mpmath.fsum(weights)
                    mid, rad = polynomial(series.parts[0], box, tau)
                    assert abs(g - mid) <= rad + mpmath.mpf(float(series.remainder[box, 0]))


# ---- rounding of the float64 forward pass


def executed_orders(slopes, biases, values, x, rng):
    """Forward passes that a machine may do: any order of the tokens, and of the sum."""
    model, prefix = head_model(slopes, biases, values)
    yield forward(model, prefix, x[None])[0]
    for _ in range(3):
        order = rng.permutation(len(biases))
        model, prefix = head_model(slopes[order], biases[order], np.asarray(values)[order])
        yield forward(model, prefix, x[None])[0]
    logits = slopes @ x + biases  # one by one, left to right, no blocking
    weights = np.exp(logits - logits.max())
    top, bottom = np.zeros(np.asarray(values).shape[1]), 0.0
    for w, v in zip(weights, values, strict=True):
        top, bottom = top + w * v, bottom + w
    yield top / bottom


@pytest.mark.parametrize("kind", [*KINDS, "float32-like logits"])
def test_rounding_bound_covers_every_execution(kind):
    rng = np.random.default_rng(len(kind))
    for _ in range(6):
        n = int(rng.integers(1, 4))
        tokens = int(rng.integers(1, 60))
        slopes, biases, values = family(rng, kind, tokens, n, 2)
        x = rng.standard_normal(n)
        if kind == "float32-like logits":  # logits near 1e12: exp loses four digits more
            slopes = slopes * 0 + 1e12 * (1 + 1e-12 * rng.standard_normal(slopes.shape))
            biases = -(slopes @ x) + rng.standard_normal(tokens)
        if kind == "cancelling logits":
            x = 0.37 + 0.01 * x
        head = plain_head(slopes, biases, values)
        lo, hi = x - 1e-12 * np.abs(x), x + 1e-12 * np.abs(x)
        with np.errstate(all="ignore"):
            at_point = enclose_head(head, every_token(head), Cells.boxes(x[None], x[None]), 2)
            around = enclose_head(head, every_token(head), Cells.boxes(lo[None], hi[None]), 4)
            with mpmath.workdps(DIGITS):
                true = exact_head(slopes, biases, values, [mpmath.mpf(float(t)) for t in x])
                for got in executed_orders(slopes, biases, values, x, rng):
                    for i, g in enumerate(true):
                        miss = abs(mpmath.mpf(float(got[i])) - g)
                        for series in (at_point, around):
                            bound = series.rounding[0, i]
                            assert not bound < float(miss)


def general_model(rng, tokens, n, k, d=5, d_k=4, d_v=3):
    """A model whose frozen matrices mix coordinates: products round."""
    model = Transformer(
        rng.standard_normal((d, n)),
        rng.standard_normal(d),
        (Layer((Head(rng.standard_normal((d_k, d)), rng.standard_normal((3, d_v))),)),),
        rng.standard_normal((k, 3)),
    )
    return model, Prefix(((rng.standard_normal((tokens, d_k)),),), ((rng.standard_normal((tokens, d_v)),),))


def exact_model(model: Transformer, prefix: Prefix, x) -> list:
    """The exact value of any one-layer, one-head model."""
    f = mpmath.mpf

    def product(matrix, vector):
        return [mpmath.fsum(f(float(a)) * b for a, b in zip(row, vector, strict=True)) for row in matrix]

    head = model.layers[0].heads[0]
    stream = [
        a + f(float(b)) for a, b in zip(product(model.embedding, [f(float(t)) for t in x]), model.offset, strict=True)
    ]
    logits = product(prefix.keys[0][0], product(head.query, stream))
    top = max(logits)
    weights = [mpmath.exp(s - top) for s in logits]
    mixed = [
        mpmath.fsum(w * f(float(v)) for w, v in zip(weights, column, strict=True)) / mpmath.fsum(weights)
        for column in prefix.values[0][0].T
    ]
    return product(model.readout, product(head.output, mixed))


@pytest.mark.parametrize("cancel", ["none", "values", "keys"])
def test_models_whose_matrices_mix(cancel):
    """Frozen matrices with cancellation: the parts of a value (or a logit) are far larger than the value itself."""
    rng = np.random.default_rng(len(cancel))
    for _ in range(4):
        tokens, n, k = int(rng.integers(2, 120)), int(rng.integers(1, 3)), int(rng.integers(1, 3))
        model, prefix = general_model(rng, tokens, n, k)
        keys, values = prefix.keys[0][0].copy(), prefix.values[0][0].copy()
        head = model.layers[0].heads[0]
        if cancel == "values":  # add 1e9 times a direction that W_O maps to (nearly) nothing
            hidden = np.linalg.svd(head.output[:2])[2][-1]
            values += 1e9 * rng.standard_normal((tokens, 1)) * hidden
            model = Transformer(
                model.embedding, model.offset, (Layer((Head(head.query, head.output[:2]),)),), model.readout[:, :2]
            )
        elif cancel == "keys":
            through = np.column_stack([head.query @ model.embedding, head.query @ model.offset])
            keys += 1e7 * rng.standard_normal((tokens, 1)) * np.linalg.svd(through.T)[2][-1]
        prefix = Prefix(((keys,),), ((values,),))
        read = affine_head(model, prefix)
        x = rng.standard_normal((3, n))
        series = enclose_head(read, every_token(read), Cells.boxes(x, x), 1)
        got = forward(model, prefix, x)
        with mpmath.workdps(DIGITS):
            for b in range(3):
                true = exact_model(model, prefix, x[b])
                for i, g in enumerate(true):
                    mid, rad = polynomial(series.parts[i], b, [mpmath.mpf(0)] * n)
                    assert abs(g - mid) <= rad + mpmath.mpf(float(series.remainder[b, i]))
                    assert not series.rounding[b, i] < float(abs(mpmath.mpf(float(got[b, i])) - g))


# ---- dropped tokens


@pytest.mark.parametrize("n", [1, 2])
def test_dropped_tokens_are_bounded_through_nested_regions(n):
    rng = np.random.default_rng(n)
    dropped_some = 0
    for _ in range(8):
        tokens = int(rng.integers(5, 40))
        slopes, biases = rng.standard_normal((tokens, n)) * 20, rng.standard_normal(tokens) * 3
        values = rng.standard_normal((tokens, 1)) * 10.0 ** rng.uniform(-2, 4, (tokens, 1))
        head = plain_head(slopes, biases, values)
        lo, hi = -np.ones(n), np.ones(n)
        kept = every_token(head)
        for _ in range(5):
            kept = select_tokens(head, kept, Cells.boxes(lo[None], hi[None]), -12.0)
            dropped = np.setdiff1d(np.arange(tokens), kept.index)
            dropped_some += len(dropped)
            with mpmath.workdps(DIGITS):
                for _ in range(3):
                    x = [
                        mpmath.mpf(float(a))
                        + (mpmath.mpf(float(b)) - mpmath.mpf(float(a))) * mpmath.mpf(float(rng.random()))
                        for a, b in zip(lo, hi, strict=True)
                    ]
                    logits = [
                        mpmath.fsum(mpmath.mpf(float(a)) * t for a, t in zip(row, x, strict=True))
                        + mpmath.mpf(float(b))
                        for row, b in zip(slopes, biases, strict=True)
                    ]
                    weights = [mpmath.exp(s) for s in logits]
                    total = mpmath.fsum(weights)
                    assert mpmath.fsum(weights[j] for j in dropped) / total <= kept.share
                    assert (
                        mpmath.fsum(weights[j] * abs(mpmath.mpf(float(values[j, 0]))) for j in dropped) / total
                        <= kept.moment[0]
                    )
            boxes_lo, boxes_hi = lo[None], (lo + (hi - lo) * 2.0**-6)[None]
            assert_enclosed(
                head, enclose_head(head, kept, Cells.boxes(boxes_lo, boxes_hi), 5), boxes_lo, boxes_hi, rng, points=2
            )
            axis = int(rng.integers(n))
            middle = (lo[axis] + hi[axis]) / 2
            lo, hi = lo.copy(), hi.copy()
            (lo if rng.random() < 0.5 else hi)[axis] = middle
    assert dropped_some > 0


def test_a_dropped_token_with_an_enormous_value_is_not_forgotten():
    slopes, biases = np.array([[0.0], [0.0], [0.0]]), np.array([0.0, -40.0, -0.5])
    values = np.array([[0.0], [1e18], [1.0]])
    head = plain_head(slopes, biases, values)
    kept = select_tokens(head, every_token(head), Cells.boxes(np.array([[0.0]]), np.array([[1.0]])), -12.0)
    assert len(kept.index) == 2
    box = np.array([[0.0]]), np.array([[1.0]])
    assert assert_enclosed(head, enclose_head(head, kept, Cells.boxes(*box), 4), *box, np.random.default_rng(0)) == 1
    assert enclose_head(head, kept, Cells.boxes(*box), 4).remainder[0, 0] >= 1e18 * np.exp(-40.0) / 2


@pytest.mark.parametrize("bad", [1e200, 1e308])
def test_overflow_bounds_nothing(bad):
    head = plain_head(np.array([[bad], [-bad]]), np.array([0.0, bad]), np.array([[1.0], [2.0]]))
    with np.errstate(all="ignore"):
        series = enclose_head(head, every_token(head), Cells.boxes(np.array([[1.0]]), np.array([[1e120]])), 4)
    assert not np.isfinite(series.remainder).any()


def test_small_magnitudes_do_not_underflow_into_false_proofs():
    """Entries near 2^-540 whose products leave float64's range although the model's logits are ordinary numbers."""
    model = Transformer(
        np.array([[2.0**-500]]), np.zeros(1), (Layer((Head(np.array([[2.0**-575]]), np.eye(1)),)),), np.eye(1)
    )
    prefix = Prefix(((np.array([[2.0**1023], [0.0]]),),), ((np.array([[1.0], [-1.0]]),),))
    x = np.array([[2.0**58]])
    try:
        head = affine_head(model, prefix)
    except ValueError:
        return  # refused: nothing is claimed
    series = enclose_head(head, Tokens(np.arange(2), 0.0, np.zeros(1)), Cells.boxes(x, x), 1)
    with mpmath.workdps(DIGITS):
        true = exact_model(model, prefix, x[0])[0]  # 1: the logit is 2^6
        mid, rad = polynomial(series.parts[0], 0, [mpmath.mpf(0)])
        assert not abs(true - mid) > rad + mpmath.mpf(float(series.remainder[0, 0]))
