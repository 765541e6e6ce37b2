"""Bounds of executions in a float format against the worst execution that the stated machine allows, and term by term."""

import math
from dataclasses import replace

import numpy as np
import pytest
import sympy as sp

from constructions import compile_prefix
from constructions.compiled import backbone
from verify import Box, Claim, ExpressionTarget, Prefix, Sequences, Sphere, forward, prove
from verify.certificate import EXECUTION
from verify.circuit_proof import bound_on_box
from verify.circuit_ranges import ranges
from verify.circuit_stream import Heads, Reading, Refused, Stream
from verify.format_circuit import ExecutionInFormat
from verify.format_head import executed_in, rounding_on_boxes, rounding_on_domain
from verify.formats import (
    BFLOAT16,
    FLOAT32,
    FLOAT64,
    FloatFormat,
    cast_claim,
    prove_in_blocks,
    prove_in_format,
)
from verify.model import Head, Layer, Transformer

X, Y, Z = sp.symbols("x y z")
SIXTEEN = FloatFormat("sixteen bits", 16, 2.0**-126, 2.0**127, 4)
SQUARE = Box([(-1, 1)])


@pytest.fixture(scope="module")
def nothing():
    """The target 0 in one variable, and in two."""
    return {
        1: compile_prefix(sp.Integer(0) * X, 1.0, SQUARE).claim.target,
        2: compile_prefix(sp.Integer(0) * X, 1.0, Box({"x": (-1, 1), "y": (-1, 1)})).claim.target,
    }


def one_head(keys, values, target, box, eps, model=None):
    keys, values = np.asarray(keys, dtype=float), np.asarray(values, dtype=float).reshape(len(keys), -1)
    found = backbone(keys.shape[1] - 1, values.shape[1]) if model is None else model
    return Claim(found, Prefix(((keys,),), ((values,),)), target, box, eps)


def at(x):
    """A box around a point so small that a bound on it is one at the point."""
    return Box([(float(v) - 1e-7, float(v) + 1e-7) for v in x])


def off_most(keys, values, x, form, fused=False, normalised=True):
    """|executed - real| of the worst execution found that the machine of the format allows, every rounding chosen against the mean: tokens in
    several orders, largest terms first, blocks of form.block, exp2 of rescaled logits; `fused` multiply-adds of them, or rounded products."""
    real = np.append(x, 1.0) @ keys.T
    weights = np.exp(real - real.max()) if normalised else np.exp(real)
    mean = weights @ values / (weights.sum() if normalised else 1.0)
    orders = [np.arange(len(keys)), np.argsort(values), np.argsort(-values), np.argsort(real), np.argsort(-real)]
    ways = [(sign, moved, scale) for sign in (1, -1) for moved in (1, -1) for scale in (1, -1)]
    runs = [_run(keys[o], values[o], x, form, *way, mean, fused, normalised) for o in orders for way in ways]
    return max(abs(r - mean) for r in runs)


def _run(keys, values, x, form, sign, moved, scale, mean, fused, normalised):
    u, c = form.unit, form.exp_units * form.unit
    up = np.where((values - mean) * sign >= 0, 1.0, -1.0) if normalised else sign * np.sign(values)
    terms = keys * np.append(x * (1 + moved * u), 1.0)
    terms[:, :-1] += np.abs(terms[:, :-1]) * u * up[:, None]
    terms = np.take_along_axis(terms, np.argsort(-np.abs(terms), axis=1), 1)
    s = terms[:, 0]
    for i in range(1, keys.shape[1]):
        s = s + terms[:, i]
        s = s + np.abs(s) * u * up
    if not fused:  # log2 e s, rounded
        s = s + np.abs(s) * u * up
    if not normalised:
        p, total = np.exp(s) * (1 + c * up), 0.0
        for t in p * values * (1 + u * up):
            total = total + t
            total = total + abs(total) * u * sign
        return total
    against = -sign * np.sign(mean) if mean else 1.0
    num, den, largest = 0.0, 0.0, -np.inf
    for start in range(0, len(s), form.block):
        part = slice(start, start + form.block)
        before, largest = largest, max(largest, s[part].max())
        if before > -np.inf:
            aim = 1.0 if (num / den - mean) * sign >= 0 else -1.0
            gap = before - largest
            gap = gap * (1 + scale * u) + 2 * abs(gap) * u * aim
            factor = np.exp(gap) * (1 + c * aim)
            num, den = num * factor, den * factor
            num, den = num + abs(num) * u * sign, den + den * u * against
        gap = s[part] - largest
        # the maximum times log2 e is rounded alike for all tokens of a block, and for the last block the other way
        shift = (
            0.0
            if not fused
            else abs(largest)
            * u
            * (1.0 if (values[part] @ np.exp(gap) - mean * np.exp(gap).sum()) * sign > 0 else -1.0)
        )
        p = np.exp(gap * (1 + scale * u) + np.abs(gap) * u * up[part] + shift) * (1 + c * up[part] * (gap != 0))
        for w, v in zip(p, values[part], strict=True):
            t = w * v * (1 + u * np.sign(v) * sign)  # the weight is cast before it meets its value
            num = num + t + abs(t) * u * sign
            num = num + abs(num) * u * sign
            den = den + w
            den = den + den * u * against
    inverse = 1 / den * (1 + u * sign * np.sign(num))
    out = num * inverse
    return out + abs(out) * u * sign


@pytest.mark.parametrize("fused", [False, True], ids=["products", "fused"])
@pytest.mark.parametrize(
    "form", [FLOAT32, SIXTEEN, replace(SIXTEEN, block=4, exp_units=40)], ids=["24", "16", "blocks"]
)
def test_the_worst_execution_is_within_the_bounds_and_near_them(form, fused, nothing):
    """400 tokens, whose sums make most of the error, most of it where one of them comes first that has most of the weight; on boxes so small that
    bounds are those of a point."""
    rng = np.random.default_rng(0)
    boxes, over_all = [], []
    for n, tilt in ((1, 20.0), (2, 20.0), (1, 0.0)):
        x = rng.normal(size=n)
        keys = form.cast("keys", rng.normal(size=(400, n + 1)) * tilt)
        values = form.cast("values", rng.normal(size=400) * 0.01 + 1.0)
        found = prove_in_format(one_head(keys, values, nothing[n], at(x), 1e4), form, max_boxes=2000)
        assert found.proved
        worst = off_most(keys, values, x, form, fused)
        boxes.append(worst / found.certificate.rounding)
        over_all.append(worst / rounding_on_domain(found.claim, executed_in(found.claim, form), form))
    assert max(boxes + over_all) <= 1
    assert max(boxes) > (0.85 if form.block > 4 else 0.7)
    assert max(over_all) > 0.6


@pytest.mark.parametrize("fused", [False, True], ids=["products", "fused"])
def test_the_worst_execution_of_logits(fused, nothing):
    """Two tokens of opposite logits, each in a block of its own: roundings of logits, differences and rescalings are all there is."""
    form = FloatFormat("twenty bits", 20, 2.0**-126, 2.0**127, 0.01, 1)
    keys, values, x = np.array([[1.0, 0.0], [-1.0, 0.0]]), np.array([1.0, -1.0]), np.array([700.0])
    keys = np.array([[1.0, -699.5], [-1.0, 699.5]])
    for k, v, p in ((keys, values, x), (np.array([[1.0, 1.0], [-1.0, -1.0]]) * 4, values, np.array([0.1]))):
        found = prove_in_format(one_head(k, v, nothing[1], at(p), 1e4), form, max_boxes=2000)
        assert found.proved
        assert off_most(k, v, p, form, fused) <= found.certificate.rounding
    assert off_most(k, v, p, form, fused) > 0.3 * found.certificate.rounding


def test_the_worst_execution_of_a_core_head(nothing):
    model = Transformer(
        np.eye(2, 1), np.array([0.0, 1.0]), (Layer((Head(np.eye(2), np.eye(1), normalised=False),)),), np.eye(1)
    )
    rng = np.random.default_rng(2)
    for keys, least in ((np.abs(rng.normal(size=(200, 2))) * 4, 0.3), (np.array([[0.0, 20.0]]), 0.1)):
        keys = SIXTEEN.cast("keys", keys)
        values = np.ones(len(keys))
        claim = one_head(keys, values, nothing[1], at([0.3]), 1e12, model)
        bound = rounding_on_domain(claim, executed_in(claim, SIXTEEN), SIXTEEN)
        worst = off_most(keys, values, np.array([0.3]), SIXTEEN, normalised=False)
        assert least * bound < worst <= bound
        found = prove_in_format(claim, SIXTEEN, max_boxes=2000)
        assert found.proved
        assert worst <= found.certificate.rounding
    # e^90 is no number of float32
    claim = one_head([[0.0, 90.0]], [1e-30], nothing[1], SQUARE, 1e12, model)
    assert prove(claim).proved
    assert not prove_in_format(claim, "float32").proved


def flushed(claim, x, form, cast):
    """One point: what is below the smallest normal number is lost, at every operation; weights divided before they meet their values, or after."""

    def r(a):
        a = form.cast("a", np.asarray(a, dtype=float)) if cast else np.asarray(a, dtype=float)
        return np.where(np.abs(a) < form.smallest_normal, 0.0, a)

    def product(m, v):
        total = np.zeros(len(m))
        for i in range(m.shape[1]):
            total = r(total + r(m[:, i] * v[i]))
        return total

    model, head = claim.model, claim.model.layers[0].heads[0]
    h = r(product(model.embedding, r(x)) + model.offset)
    s = product(claim.prefix.keys[0][0], product(head.query, h))
    p = r(np.exp(r(s - s.max())))
    outs = []
    for w, den in ((p, p.sum()), (r(p / p.sum()), 1.0)):
        mixed = r(product(claim.prefix.values[0][0].T, w) / den)
        outs.append(product(model.readout, product(head.output, mixed)))
    return outs


@pytest.mark.parametrize("seed", range(12))
def test_what_underflows_is_counted(seed, nothing):
    """Narrow ranges, frozen matrices that bring back to size what has underflowed."""
    rng = np.random.default_rng(seed)
    form = FloatFormat("narrow", 20, 2.0 ** -int(rng.choice([12, 16, 24])), 2.0**60, 4)
    scales = 2.0 ** rng.integers(-9, 9, 4)
    query = np.diag([scales[1], 1.0])
    model = Transformer(
        np.array([[scales[0]], [0.0]]),
        np.array([0.0, 1.0]),
        (Layer((Head(query, np.array([[scales[2]]])),)),),
        np.array([[scales[3]]]),
    )
    tokens = int(rng.choice([2, 5, 40]))
    size = scales[0] * scales[1]
    keys = form.cast("k", rng.normal(size=(tokens, 2)) * np.array([4.0 / size, 3.0]))
    values = form.cast("v", rng.normal(size=tokens) / (scales[2] * scales[3]))
    x = np.array([rng.normal() * 0.3])
    claim = one_head(keys, values, nothing[1], at(x), 1e6, model)
    done = executed_in(claim, form)
    bound = rounding_on_domain(claim, done, form)
    found = prove_in_format(claim, form, max_boxes=500)
    real = forward(model, claim.prefix, x[None])[0]
    for cast in (False, True):
        worst = max(float(np.abs(out - real).max()) for out in flushed(claim, x, form, cast))
        assert worst <= bound
        assert not found.proved or worst <= found.certificate.rounding


def test_every_assumption_counts(nothing):
    """The bounds grow with each of a format's numbers alone."""
    rng = np.random.default_rng(1)
    claim = one_head(
        SIXTEEN.cast("k", rng.normal(size=(64, 2))), SIXTEEN.cast("v", rng.normal(size=64)), nothing[1], SQUARE, 100.0
    )
    plain = prove_in_format(claim, SIXTEEN).certificate
    over_all = rounding_on_domain(claim, executed_in(claim, SIXTEEN), SIXTEEN)
    for change in ({"precision": 12}, {"exp_units": 200}, {"block": 1}, {"smallest_normal": 2.0**-20}):
        form = replace(SIXTEEN, **change)
        found = prove_in_format(claim, form).certificate
        assert found.proved
        assert found.rounding > 1.15 * plain.rounding
        assert found.error_upper > plain.error_upper
        assert rounding_on_domain(claim, executed_in(claim, form), form) > 1.05 * over_all


def test_every_term_is_there(nothing):
    """What the derivation asks for, in numbers: a head whose second token's own logit is 0."""
    keys, values = np.array([[0.0, 50.0], [0.0, 0.0], [0.0, -50.0]]), np.array([1.0, -1.0, 0.0])
    assert SIXTEEN.gamma(50) < 1e-3  # the sums are small beside the logits
    claim = one_head(keys, values, nothing[1], SQUARE, 100.0)
    u = SIXTEEN.unit
    done = executed_in(claim, SIXTEEN)
    assert done.head.logit_gamma >= SIXTEEN.gamma(1 + 2 + 4)  # point, inner product, scaling and differences
    assert (done.head.executed_slack >= 4 * u * 50 + SIXTEEN.exp_units * u).all()
    assert done.head.output_gamma >= SIXTEEN.gamma(3 + 1 + 3) / (1 - SIXTEEN.gamma(3 + 1 + 3))
    assert done.in_boxes is not None
    off = math.expm1(float((done.head.logit_gamma * np.array([50, 0, 50]) + done.head.executed_slack).max()))
    assert done.in_boxes.output_gamma >= done.head.output_gamma * (1 + 4 * off / (1 - off)) * (1 - 1e-12)
    assert rounding_on_domain(claim, done, SIXTEEN) >= off / (1 - off) * 2  # times the spread of the values
    vague = one_head([[0.0, 30.0], [0.0, -30.0]], values[:2], nothing[1], SQUARE, 100.0)
    assert (
        rounding_on_domain(vague, executed_in(vague, BFLOAT16), BFLOAT16) >= 2
    )  # from one end of the values to the other
    negative = one_head(keys - np.array([0.0, 100.0]), values, nothing[1], SQUARE, 100.0)
    assert (executed_in(negative, SIXTEEN).head.executed_slack >= 4 * u * 50).all()  # of a maximum of -50
    many = replace(SIXTEEN, block=1, exp_units=0.0)
    more = executed_in(claim, many)
    assert more.head.output_gamma >= many.gamma(3 + 3 + 2)
    assert (
        executed_in(claim, replace(many, exp_units=20)).head.executed_slack >= more.head.executed_slack + 3 * 20 * u
    ).all()
    eta = replace(SIXTEEN, smallest_normal=2.0**-30)
    assert executed_in(claim, eta).lost >= 48 * 3 * 2.0**-30
    flat = one_head(
        np.zeros((3, 2)), values, nothing[1], SQUARE, 100.0
    )  # differences may be lost: of logits, and of 3 blocks' maxima
    assert (
        executed_in(flat, replace(many, smallest_normal=2.0**-10)).head.executed_slack >= (2 + 2 * 3) * 2.0**-10
    ).all()
    wide = one_head([[2.0**20, 0.0], [0.0, 0.0]], values[:2], nothing[1], Box([(-1e-6, 1e-6)]), 100.0)
    assert executed_in(wide, eta).head.executed_slack[0] >= 2.0**-10  # the point itself may be lost


def test_points_of_a_format_lie_off_the_sphere():
    c = compile_prefix(X * Y + Z, 0.15, Sphere(2), method="split")
    claim = cast_claim(c.claim, BFLOAT16)
    done = executed_in(claim, BFLOAT16)
    away = (2 * 3 + 8) * BFLOAT16.unit
    assert (done.head.executed_slack >= np.abs(claim.prefix.keys[0][0][:, :3]).sum(axis=1) * away).all()
    assert (done.reach >= 1 + away).all()


def test_lost_numbers_are_part_of_the_certificate(nothing):
    """In a format of few exponents, of a function whose error is known."""
    form = FloatFormat("few exponents", 24, 2.0**-20, 2.0**60, 4)
    claim = one_head([[1.0, 0.0], [-1.0, 0.0]], [0.5, 0.5], nothing[1], SQUARE, 1.0)
    done = executed_in(claim, form)
    boxes = rounding_on_boxes(claim, done, 2000, math.inf, None)
    found = prove_in_format(claim, form).certificate
    assert boxes.proved
    assert done.lost > 1e-4
    assert found.rounding >= done.lost
    assert found.error_upper >= 0.5 + done.lost
    # an eps between the error and what may be lost on top of it
    close = prove_in_format(replace(claim, eps=0.5 + done.lost / 2), form).certificate
    assert not close.proved


def test_data_tokens_are_bounded_at_all_lengths_at_once():
    c = compile_prefix(X, 0.2, Sphere(1), method="classical", sequence_length=4)
    found = prove_in_format(c.claim, "float32")
    assert found.proved
    assert found.certificate.rounding == rounding_on_domain(found.claim, executed_in(found.claim, FLOAT32), FLOAT32)


def test_float64_in_blocks():
    """The certificate of float64 is about one softmax in a single piece; kernels are bounded by the same derivation."""
    c = compile_prefix(sp.sin(3 * X), 1e-3, SQUARE)
    wide = prove_in_blocks(c.claim, c.certificate)
    assert wide.proved
    assert FLOAT64.execution in wide.assumptions
    assert EXECUTION not in wide.assumptions
    assert c.certificate.rounding < wide.rounding < 1e-11
    assert c.certificate.error_upper < wide.error_upper <= c.eps
    assert prove_in_format(c.claim, "float64").certificate.assumptions == c.certificate.assumptions
    points = np.linspace(-1, 1, 101)[:, None]
    for x in points[::10]:
        worst = off_most(c.keys, c.values[:, 0], x, FLOAT64)
        assert worst <= wide.rounding
    circuit = compile_prefix(X * Y / (1 + X**2), 0.05, Box({"x": (0, 1), "y": (1, 2)}), method="circuit")
    assert FLOAT64.execution in prove_in_blocks(circuit.claim, circuit.certificate).assumptions
    a, b = sp.symbols("x1 x2")
    gathered = compile_prefix([[a * b], [a + b]], 1e-2, Sequences(2, Box({"x": (0, 1)})), method="two-layer")
    assert (
        prove_in_blocks(gathered.claim, gathered.certificate) == gathered.certificate
    )  # not shown: the first one stands
    tight = replace(c.claim, eps=float(np.nextafter(c.certificate.error_upper, 1)))
    assert prove_in_blocks(tight, replace(c.certificate, eps=tight.eps)).proved


def test_the_real_function_is_bounded_more_closely_where_rounding_leaves_little():
    """The first proof stops above its target by half of its error; what is left of eps beside the rounding asks for more."""
    c = compile_prefix(X, 0.2, Sphere(1), method="classical", sequence_length=1)
    claim = cast_claim(c.claim, SIXTEEN)
    over_all = rounding_on_domain(claim, executed_in(claim, SIXTEEN), SIXTEEN)
    close = replace(claim, eps=prove(claim, tightness=0.5).error_lower * 1.001 + over_all)
    assert prove(close, tightness=0.5).error_upper + over_all > close.eps
    found = prove_in_format(close, SIXTEEN).certificate
    assert found.proved
    assert found.error_upper <= close.eps
    assert found.rounding == over_all


class Counted:
    """An execution of a circuit with nothing in it but what is given: see `verify.circuit_stream.Execution`."""

    def __init__(self, logits=0.0, sums=0.0, lost=0.0, stream=0.0):
        self.adds = (logits, sums, lost)
        self.stream = stream

    def gamma(self, terms):
        return self.stream * terms

    def holds(self, stream):
        pass

    def head(self, keys, values, reading, stream):
        logits, sums, lost = self.adds
        return np.full(len(keys), logits), sums, lost

    def words(self, values, reading):
        return ""


def test_every_term_of_an_execution_enters_the_bound_of_a_circuit():
    """Each alone, large beside everything else; u sup |x| + eta is what points are off by."""
    c = compile_prefix(X * Y / (1 + X**2), 0.05, Box({"x": (0, 1), "y": (1, 2)}), method="circuit")
    claim, eps, seen = c.claim, 0.5, []
    hint, target, domain = claim.circuit, claim.target, claim.domain
    assert hint is not None
    assert isinstance(target, ExpressionTarget)
    assert isinstance(domain, Box)

    def bound(points=0.0, **terms):
        known = ranges(hint.circuit, domain)
        heads = Heads(claim.prefix, hint, known, eps, math.inf, lambda done, words: None)
        with np.errstate(all="ignore"):
            return bound_on_box(claim.model, target, domain, heads, np.full(2, points), Counted(**terms))

    plain = bound()
    for terms, least in (
        ({"points": 3e-3}, 1e-3),
        ({"logits": 3e-3}, 1e-4),
        ({"sums": 3e-3}, 3e-3),
        ({"lost": 3e-3}, 3e-3),
        ({"stream": 3e-3}, 3e-3),
    ):
        assert bound(**terms) > plain + least, terms

    def spied(model, target, domain, heads, rounded, execution):
        seen.append((rounded, execution))
        return bound_on_box(model, target, domain, heads, rounded, execution)

    narrow = replace(SIXTEEN, smallest_normal=2.0**-60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("verify.format_circuit.bound_on_box", spied)
        prove_in_format(replace(claim, eps=eps), narrow)
    ((rounded, execution),) = seen
    assert (rounded >= narrow.unit * np.array([1.0, 2.0]) + narrow.smallest_normal).all()
    assert execution == ExecutionInFormat(narrow)


def test_every_term_of_a_head_of_a_circuit_is_there():
    """Three tokens whose logits are -50, 0 and 50 wherever they are read; a fourth coordinate that no key reads."""
    u, eta = SIXTEEN.unit, 2.0**-30
    form = replace(SIXTEEN, smallest_normal=eta, block=1)
    keys, values = np.array([[0.0, 50.0], [0.0, 0.0], [0.0, -50.0]]), np.array([1.0, -1.0, 0.0])
    zero = np.zeros(3)
    reading = Reading(np.zeros((3, 1)), keys[:, 1], zero, zero, np.zeros(1), np.ones(1), np.zeros(1), 0.0)
    stream = Stream(np.ones(2), np.zeros(2), {}, (1,))
    logits, sums, lost = ExecutionInFormat(form).head(keys, values, reading, stream)
    size, exp = np.array([50.0, 0.0, 50.0]), form.exp_units * u
    assert (
        logits
        >= form.gamma(1 + 2) * size + 4 * u * (size + 50) + 3 * exp / (1 - exp) + (16 * 2 * 51 + 4 * (3 + 1)) * eta
    ).all()
    g, off = form.gamma(3 + 3 + 7), math.expm1(float(logits.max()))
    assert sums >= g / (1 - g) * (1 + 4 * off / (1 - off))
    assert lost >= 48 * 3 * eta
    worse = ExecutionInFormat(form).head(keys, values, replace(reading, executed=np.full(3, 0.1)), stream)
    assert worse[1] >= g / (1 - g) * (1 + 4 * math.expm1(0.1) / (1 - math.expm1(0.1)))
    narrow = ExecutionInFormat(replace(form, largest=300.0))
    for k, v, s in (
        (keys, values, stream),  # logits of 50, eight times
        (keys / 50, values * 50, stream),  # sums of values
    ):
        with pytest.raises(Refused, match="range"):
            narrow.head(k, v, replace(reading, biases=k[:, 1]), s)
    with pytest.raises(Refused, match="range"):
        narrow.holds(Stream(np.array([100.0, 1.0]), np.zeros(2)))
    with pytest.raises(Refused, match="range"):
        narrow.holds(Stream(np.ones(2), np.array([100.0, 1.0])))
    narrow.holds(stream)
    with pytest.raises(Refused, match="no useful bound"):
        ExecutionInFormat(form).head(keys, values, replace(reading, executed=np.full(3, 0.5)), stream)
