"""Circuits in a float format, term by term: each bound of a head and of the layer that gathers against the formula of its derivation, worked out
here; each refusal alone; executions chosen to need a single term."""

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pytest
import sympy as sp
from test_circuit_formats import executed
from test_format_adversary import Counted

from constructions import compile_prefix
from constructions.from_sympy import from_sympy
from verify import Box, Claim, ExpressionTarget, Head, Layer, Prefix, Sequences, Transformer
from verify.circuit import Circuit, CircuitHint, CircuitNode
from verify.circuit_proof import bound_on_box
from verify.circuit_ranges import ranges
from verify.circuit_stream import Heads, Reading, Refused, Stream, through_layers
from verify.format_arithmetic import FloatFormat
from verify.format_circuit import ExecutionInFormat
from verify.format_sequences import _gathered_in
from verify.formats import prove_in_format

X, A, B = sp.symbols("x x1 x2")
TINY = 2.0**-1000
PLAIN = FloatFormat("sixteen bits", 16, TINY, 2.0**900, 0.0, 2**20)
"""Nothing but unit round-off: exp is exact, softmaxes are computed in one piece, next to nothing underflows."""
NEAR = 1.01
"""How far a bound may be above its formula, which leaves out what is of second order in u."""


def gamma(form, terms):
    """k u / (1 - k u)"""
    return terms * form.unit / (1 - terms * form.unit)


def of_exp(form, tokens):
    """What exp is off by, once per block, and the number of blocks."""
    c = form.exp_units * form.unit
    blocks = math.ceil(tokens / form.block)
    return blocks * c / (1 - c), blocks


def of_sums(form, terms, t):
    """Relative error of a quotient of two sums, under weights that are off by t."""
    g = gamma(form, terms)
    return g / (1 - g) * (1 + 4 * t / (1 - t))


@dataclass(frozen=True)
class OneHead:
    """Tokens read where their logits are biases + slope z, z in [lo, hi]; the stream's slots have sizes `reach`."""

    keys: tuple
    biases: tuple
    values: tuple
    slope: float = 0.0
    lo: float = 0.0
    hi: float = 0.0
    reach: float = 1.0
    earlier: float = 0.0

    def bounds(self, form):
        """What the code finds: of the logits (tokens,), of the sums, of the output."""
        keys, zero, z = np.array(self.keys), np.zeros(len(self.keys)), np.zeros(1)
        ends = np.array([self.lo]), np.array([self.hi])
        slopes, earlier = np.full((len(keys), 1), self.slope), np.full(len(keys), self.earlier)
        reading = Reading(slopes, np.array(self.biases), zero, earlier, *ends, z, 0.0)
        d = keys.shape[1]
        stream = Stream(np.full(d, 0.75 * self.reach), np.full(d, 0.25 * self.reach), {}, (d - 1,))
        return ExecutionInFormat(form).head(keys, np.array(self.values), reading, stream)

    def documented(self, form):
        """What the derivation says."""
        u, eta = form.unit, form.smallest_normal
        keys, values = np.array(self.keys), np.array(self.values)
        tokens, d = keys.shape
        most = max(sum(1 for k in row if k) for row in self.keys)
        inner = gamma(form, most + 2) * np.abs(keys).sum(axis=1) * self.reach
        low, high = (np.array(self.biases) + self.slope * end for end in (self.lo, self.hi))
        logits, top = np.maximum(np.abs(low), np.abs(high)), max(abs(low.max()), abs(high.max()))
        exp, blocks = of_exp(form, tokens)
        lost = 16 * d * eta * (1 + np.abs(keys).max()) + 4 * (blocks + 1) * eta
        rho = inner + 4 * u * (logits + inner + top + inner.max()) + exp + lost  # executed logits are rounded
        t = math.expm1(rho.max() + self.earlier)
        output = 48 * (tokens + 4) * eta * max(1.0, np.abs(values).max()) * math.exp(8 * u * logits.max())
        return rho, of_sums(form, tokens + blocks + 7, t), output


UNEVEN = OneHead(((0.0, 50.0), (0.0, 0.0), (0.0, -50.0)), (50.0, 0.0, -50.0), (1.0, -1.0, 0.0))
CANCELS = OneHead(((300.0, 0.0, -300.0), (0.0, 0.0, 7.0)), (0.0, 7.0), (1.0, 2.0))
COARSE = replace(PLAIN, smallest_normal=2.0**-24)


@pytest.mark.parametrize(
    ("form", "head"),
    [
        (PLAIN, UNEVEN),  # inner products with one coordinate; differences: the second token's own logit is 0
        (PLAIN, CANCELS),  # two coordinates, much larger than the logit
        (PLAIN, replace(UNEVEN, slope=2.0, lo=-40.0, hi=10.0)),  # the maximum is largest at one end
        (PLAIN, replace(UNEVEN, slope=2.0, lo=-90.0, hi=-70.0)),  # and here at the other, where it is negative
        (replace(PLAIN, exp_units=40.0, block=1), UNEVEN),
        (replace(PLAIN, exp_units=2000.0, block=2), UNEVEN),
        (COARSE, UNEVEN),  # underflow of inner products
        (replace(COARSE, block=1), OneHead(((0.0,),) * 300, (0.0,) * 300, (1.0,) * 300)),  # of blocks' maxima
        (COARSE, replace(UNEVEN, values=(1e4, -3e4, 2.0))),  # of the output
        (COARSE, OneHead(((0.0, 1.0),) * 2, (2000.0, 1990.0), (1.0, 2.0))),  # of weights that are far off
        (replace(PLAIN, block=4), OneHead(((0.0,),) * 400, (0.0,) * 400, (1.0,) * 400)),  # a rescaling per block
        (PLAIN, replace(UNEVEN, earlier=0.3)),  # sums under weights that are off already
    ],
)
def test_a_head_is_bounded_by_the_sum_of_its_terms(form, head):
    for found, wanted in zip(head.bounds(form), head.documented(form), strict=True):
        assert (found >= np.asarray(wanted) * (1 - 1e-12)).all()
        assert (found <= np.asarray(wanted) * NEAR).all()


def test_each_number_of_a_format_moves_its_own_terms():
    """The amounts, in round numbers, for 64 tokens of logits 50 and values of size 10."""
    head = OneHead(((0.0, 50.0),) * 64, (50.0,) * 64, (10.0,) * 64)
    u = PLAIN.unit
    logits, sums, lost = head.bounds(PLAIN)
    assert logits[0] == pytest.approx((3 * 50 + 4 * 100) * u, rel=0.01)
    assert sums == pytest.approx((64 + 1 + 7) * u, rel=0.05)
    assert lost < 1e-290
    blocked = replace(PLAIN, block=8)
    assert head.bounds(blocked)[1] - sums == pytest.approx(7 * u, rel=0.05)
    for form, blocks in ((PLAIN, 1), (blocked, 8)):
        exp = head.bounds(replace(form, exp_units=100.0))[0] - head.bounds(form)[0]
        assert exp == pytest.approx(blocks * 100 * u, rel=0.01)
    fell = head.bounds(replace(PLAIN, smallest_normal=2.0**-20))
    assert fell[0] - logits == pytest.approx((16 * 2 * 51 + 8) * 2.0**-20, rel=0.01)
    assert fell[2] == pytest.approx(48 * 68 * 10 * 2.0**-20, rel=0.01)


SMALL = replace(PLAIN, largest=95.0)
"""Numbers of 12, eight times, are beyond its range."""
ONE = OneHead(((0.0, 1.0),), (1.0,), (1.0,))


@pytest.mark.parametrize(
    ("form", "head", "reason"),
    [
        (SMALL, replace(ONE, keys=((6.0, -6.0),), biases=(0.0,)), "logits or values leave the range"),
        (SMALL, replace(ONE, reach=12.0), "logits or values leave the range"),
        (SMALL, replace(ONE, values=(-12.0,)), "logits or values leave the range"),
        (SMALL, OneHead(((0.0, 1.0),) * 12, (1.0,) * 12, (1.0,) * 12), "logits or values leave the range"),
        (replace(PLAIN, precision=6), OneHead(((0.0,),) * 24, (0.0,) * 24, (0.0,) * 24), "no useful"),  # sums
        (PLAIN, replace(ONE, earlier=0.41), "no useful bound"),  # e^0.41 - 1 > 1/2
        (replace(PLAIN, exp_units=2.0**13, block=1), OneHead(((0.0,),) * 5, (0.0,) * 5, (0.0,) * 5), "no useful"),
    ],
)
def test_each_range_of_a_head_is_checked(form, head, reason):
    ONE.bounds(form)  # nothing is wrong with the format
    with pytest.raises(Refused, match=reason):
        head.bounds(form)
    if form is SMALL:
        head.bounds(replace(PLAIN, largest=200.0))


def test_a_stream_near_the_end_of_the_range_is_refused():
    for size in (12.0, 0.0, 6.0):
        stream = Stream(np.array([size, 1.0]), np.array([12.0 - size, 0.0]))
        ExecutionInFormat(replace(SMALL, largest=200.0)).holds(stream)
        with pytest.raises(Refused, match="stream leaves the range"):
            ExecutionInFormat(SMALL).holds(stream)


# -- the layer that gathers: two tokens of two inputs; slots: inputs, positions, four gathered, an output, the constant

N, T, D, EYE = 2, 2, 10, np.eye(10)


def gathers(query=0.0, key=0.0, to=(4, 5), of=(0, 1)):
    """A head that scores positions: the query is `query` at every token, the key of token 1 is `key`."""
    q, k = np.zeros((1, D)), np.zeros((1, D))
    q[0, -1], k[0, N + 1] = query, key
    return Head(q, EYE[:, list(to)], k, EYE[list(of)])


def after(form, *heads, far=1.0, error=0.0, keys=0.0, tokens=1, values=0.0, t=0):
    """The errors of the stream after these heads, on prefix tokens of such keys and values, for tokens of size `far`."""
    model = Transformer(EYE[:, :N], EYE[-1], (Layer(heads, True),), EYE[[8]], EYE[N : N + T])
    some = tuple(np.full((tokens, len(h.query)), keys) for h in heads)
    prefix = Prefix((some,), (tuple(np.full((tokens, h.output.shape[1]), values) for h in heads),))
    box = Box({"a": (-far, far / 2), "b": (-far / 4, far / 4)})
    stream = Stream(np.full(D, far), np.full(D, error), {}, (N + t, D - 1))
    return _gathered_in(model, prefix, Sequences(T, box), form, stream, t).error


def documented_after(form, query, key, far, error, keys, tokens):
    """What the derivation says of a gathered slot, and of an input."""
    u, eta = form.unit, form.smallest_normal
    tokens, scores = tokens + T, abs(query) * max(abs(key), abs(keys))
    exp, blocks = of_exp(form, tokens)
    fallen = 4 * (blocks + 1) * eta + 16 * (D + 1) * eta * (1 + abs(query) + abs(key) + abs(keys))
    t = math.expm1(gamma(form, 2 * D + 1 + 8) * scores + 8 * u * scores + exp + fallen)
    point = u * far + eta
    sums = of_sums(form, tokens + blocks + 7, t) * 2 * far
    lost = 48 * (tokens + 4) * eta * max(1.0, far) * math.exp(8 * u * scores)
    return error * (1 + 2 * t / (1 - t)) + point + sums + lost, error + point


FEW = {"query": 1.0, "key": 2.0, "far": 1.0, "error": 0.0, "keys": 0.0, "tokens": 1}


@pytest.mark.parametrize(
    ("form", "change"),
    [
        (PLAIN, {}),  # the point and the sums
        (replace(PLAIN, block=4), {"tokens": 300}),
        (PLAIN, {"far": 1e-9, "error": 1.0}),  # the weights, moved by
        (PLAIN, {"far": 1e-9, "error": 1.0, "key": 300.0}),  # scores
        (PLAIN, {"far": 1e-9, "error": 1.0, "keys": -300.0}),  # those of prefix tokens
        (PLAIN, {"far": 1e-9, "error": 1.0, "query": -150.0}),
        (replace(PLAIN, exp_units=500.0), {"far": 1e-9, "error": 1.0}),  # exp
        (replace(PLAIN, exp_units=100.0, block=1), {"far": 1e-9, "error": 1.0, "tokens": 20}),  # in blocks
        (COARSE, {"far": 1e-9, "error": 1.0, "tokens": 50}),  # underflow of scores, and of a mean of small numbers
        (replace(COARSE, block=1), {"query": 0.0, "far": 1e-9, "error": 1e3, "tokens": 900}),
        (COARSE, {"far": 3000.0, "key": 300.0}),  # of one of large numbers
        (PLAIN, {"key": 500.0}),  # sums under weights that are off
    ],
)
def test_a_gathered_slot_is_bounded_by_the_sum_of_its_terms(form, change):
    given = FEW | change
    about = {name: x for name, x in given.items() if name not in ("query", "key")}
    for t in range(T):
        found = after(form, gathers(given["query"], given["key"]), **about, t=t)
        slot, own = documented_after(form, **given)
        assert (found[[4, 5]] >= slot * (1 - 1e-12)).all()
        assert (found[[4, 5]] <= slot * NEAR).all()
        assert (found[:N] >= own * (1 - 1e-12)).all()
        assert (found[:N] <= own * NEAR).all()
        assert (found[[2, 3, 6, 7, 8, 9]] == given["error"]).all()


ROW = EYE[:2].copy()


@pytest.mark.parametrize(
    ("heads", "reason"),
    [
        ([Head(ROW[:1], EYE[:, 4:6])], "does more than gather"),  # of its prefix alone
        ([gathers(of=(0, 9))], "does more than gather"),  # the constant
        ([gathers(of=(2, 1))], "does more than gather"),  # a position
        ([gathers(of=(4, 1))], "does more than gather"),  # what another head gathers
        ([replace(gathers(), value=-ROW)], "does not copy"),
        ([replace(gathers(), value=ROW * [[0.5], [1.0]] + 0.5 * ROW[::-1] * [[1.0], [0.0]])], "does not copy"),
        ([replace(gathers(), value=ROW * [[1.0], [0.0]])], "does not copy"),  # nothing
        ([replace(gathers(), value=ROW + ROW[::-1])], "does not copy"),  # a sum of two coordinates
        ([replace(gathers(), output=-EYE[:, 4:6])], "does not copy"),
        ([replace(gathers(), output=EYE[:, 4:6] + EYE[:, 6:8])], "does not copy"),  # twice
        ([replace(gathers(), output=EYE[:, 4:6] * [1.0, 0.0])], "does not copy"),
        ([gathers(to=(4, 4))], "adds coordinates up"),
        ([gathers(), gathers(to=(6, 5))], "head 1 writes where another head"),
        ([gathers(to=(1, 4))], "writes where another head, an input"),
        ([gathers(to=(4, 3))], "writes where another head, an input, a position"),
        ([gathers(to=(4, 9))], "or the constant"),
    ],
)
def test_a_layer_that_does_anything_but_copy_is_refused(heads, reason):
    after(PLAIN, gathers(), gathers(to=(6, 7)))
    with pytest.raises(Refused, match=reason):
        after(PLAIN, *heads)
    with pytest.raises(Refused, match="does more than gather"):
        after(PLAIN, gathers(), values=TINY)  # of prefix tokens


@pytest.mark.parametrize(
    ("form", "head", "about", "reason"),
    [
        (SMALL, gathers(), {"far": 2.0}, "tokens leave the range"),  # 16 * 3 * 2
        (SMALL, gathers(3.0, 4.0), {}, "leave the range"),  # scores
        (SMALL, gathers(3.0), {"keys": -4.0}, "leave the range"),  # those of prefix tokens
        (SMALL, gathers(), {"keys": 12.0}, "leave the range"),  # keys that meet queries of 0
        (SMALL, gathers(12.0), {}, "leave the range"),  # queries that meet keys of 0
        (SMALL, gathers(0.0, 12.0), {}, "leave the range"),  # those of tokens
        (PLAIN, gathers(1.0, 1000.0), {}, "not resolved"),  # 33 u of it, and 8 u
        (replace(PLAIN, exp_units=2.0**12, block=1), gathers(), {"tokens": 6}, "not resolved"),
        (replace(PLAIN, precision=6), gathers(), {"tokens": 30}, "not resolved"),  # sums
    ],
)
def test_each_range_of_the_layer_that_gathers_is_checked(form, head, about, reason):
    after(form, gathers())
    with pytest.raises(Refused, match=reason):
        after(form, head, **about)
    if form is SMALL:
        after(replace(PLAIN, largest=200.0), head, **about)


@pytest.fixture(scope="module")
def gated():
    """Two tokens, each with an output of its own, for float32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFIXC_CACHE", "off")
        domain = Sequences(2, Box({"x": (-1, 1)}))
        c = compile_prefix([[A * B], [sp.exp(A - B)]], 1e-3, domain, method="circuit", dtype="float32")
    return c.claim


def why_not(claim, form, **changed):
    """Why a claim that is proved in the format is not proved with another first head of layer 0, one of the real function still is."""
    model, prefix = claim.model, claim.prefix
    head, *others = model.layers[0].heads
    worse = replace(head, **changed)
    first = replace(model.layers[0], heads=(worse, *others))
    keys = (np.zeros((1, len(worse.query))), *prefix.keys[0][1:])
    values = (np.zeros((1, worse.output.shape[1])), *prefix.values[0][1:])
    own = Prefix((keys, *prefix.keys[1:]), (values, *prefix.values[1:]))
    assert prove_in_format(claim, form).proved
    found = prove_in_format(replace(claim, model=replace(model, layers=(first, *model.layers[1:])), prefix=own), form)
    assert found.real.proved
    assert not found.proved
    return found.certificate.reason


def test_a_copy_of_the_constant_beside_what_is_gathered_is_not_proved_in_a_format(gated):
    """Tokens of size 1e-2 and a mean of copies of 1: its sums are off by a hundred times what those of the tokens are."""
    claim = replace(gated, eps=3.0, domain=Sequences(2, Box({"x": (-1e-2, 1e-2)})))
    head, eye = gated.model.layers[0].heads[0], np.eye(7)
    value, output = np.vstack([head.value, eye[6:]]), np.column_stack([head.output, eye[5]])
    assert "layer 0 head 0" in why_not(claim, "float32", value=value, output=output)


@pytest.mark.parametrize("name", ["key", "query"])
def test_a_key_that_overflows_where_the_query_is_0_is_not_proved(gated, name):
    """inf * 0 is not a number; nor the other way round."""
    form = FloatFormat("range to 2^60", 24, 2.0**-1022, 2.0**60, 2)
    head, zero, huge = gated.model.layers[0].heads[0], np.zeros(7), np.zeros(7)
    huge[[1, 6]] = 0.75 * form.largest
    rows = {"key": zero, "query": zero, name: huge}
    changed = {which: np.vstack([getattr(head, which), row]) for which, row in rows.items()}
    assert "range" in why_not(replace(gated, eps=0.5), form, **changed)


def test_weights_that_underflow_before_they_meet_their_values(gated):
    """Values of 3e5 make up for weights of 1e-6: below 2^-20 these are lost."""
    form = FloatFormat("few exponents", 40, 2.0**-20, 2.0**60, 2)
    assert max(np.abs(v).max() for v in gated.prefix.values[1]) * form.smallest_normal > 0.1
    found = prove_in_format(replace(gated, eps=1e4), form)
    assert found.proved
    sequences = gated.domain.sample(400, seed=1)
    wanted = gated.target.evaluate(sequences.reshape(400, -1))
    off = np.abs(executed(found.claim, sequences, form) - wanted).max()
    assert 1e-3 * found.certificate.error_upper < off <= found.certificate.error_upper
    assert off > 10 * found.real.error_upper


def one_variable(function, read, keys, values, target, box, heads=1, slot=1):
    """So many nodes, each by one head on these keys and values, all written to slot 1 of 3: the input, their sum, the constant."""
    names = ("x", *(f"n{i}" for i in range(heads)))
    nodes = (CircuitNode(from_sympy([read], names[: i + 1]), from_sympy([function], ["z"])) for i in range(heads))
    circuit = Circuit(("x",), tuple(nodes), from_sympy([sp.Add(*map(sp.Symbol, names[1:])) if slot else X], names))
    hint = CircuitHint(circuit, tuple((0, i, 1) for i in range(heads)), (1e-6,) * heads)
    eye, count = np.eye(3), max(heads, 1)
    model = Transformer(eye[:, :1], eye[-1], (Layer((Head(eye, eye),) * count, True),), eye[[slot]])
    prefix = Prefix(((np.array(keys),) * count,), ((np.outer(values, eye[1]),) * count,))
    return Claim(model, prefix, ExpressionTarget(from_sympy([target], ["x"])), Box({"x": box}), 1e3, circuit=hint)


def fives(heads, values=(4.0, 6.0)) -> Any:
    """Each head is the mean of 4 and 6."""
    n = sp.Integer(5)
    return one_variable(n, X, np.zeros((len(values), 3)), values, n * heads, (0, 1), heads)


def heads_of(claim):
    hint = claim.circuit
    return Heads(claim.prefix, hint, ranges(hint.circuit, claim.domain), 1e3, math.inf, lambda *_: None)


@pytest.mark.parametrize(
    ("heads", "execution", "least", "most"),
    [
        (1, Counted(logits=0.1), math.tanh(0.1), 0.22),
        (1, Counted(sums=0.01), 0.1, 0.102),  # of numerator and denominator, both 5
        (1, Counted(lost=0.1), 0.1, 0.101),
        (1, Counted(stream=0.01), 0.1, 0.101),  # the stream and what a head adds: two terms
        (2, Counted(stream=0.01), 0.3, 0.303),  # of 10
    ],
)
def test_what_an_execution_is_off_by_enters_the_bound(heads, execution, least, most):
    claim = fives(heads)
    plain = bound_on_box(claim.model, claim.target, claim.domain, heads_of(claim))
    assert plain < 1e-4
    found = bound_on_box(claim.model, claim.target, claim.domain, heads_of(claim), np.zeros(1), execution)
    assert least <= found <= most + plain


@pytest.mark.parametrize(
    ("execution", "wanted"),
    [
        (Counted(), 4 + 6 * math.exp(-10)),
        (Counted(logits=1.0), 4 + 6 * math.exp(-8)),  # both tokens' logits
        (Counted(sums=0.01), (4 + 6 * math.exp(-10)) * 1.04),
        (Counted(lost=0.5), 4.5 + 6 * math.exp(-10)),
    ],
)
def test_a_head_that_should_be_silent(execution, wanted):
    """Two tokens whose logits are 10 apart."""
    claim = fives(1)
    claim = replace(claim, prefix=Prefix(((10 * np.eye(2, 3, 2),),), claim.prefix.values))
    stream = Stream(np.array([1.0, 0, 1]), np.zeros(3), {0: [0]}, (2,))
    through_layers(heads_of(claim), stream, range(1), live=lambda i: False, execution=execution)
    assert wanted * (1 - 1e-12) <= stream.error[1] <= wanted * (1 + 1e-5)


def test_points_are_off_by_their_rounding():
    """The function x, read from the slot of the input."""
    claim = one_variable(X, X, np.zeros((1, 3)), [0.0], X, (-3, 2), heads=0, slot=0)
    for form in (PLAIN, replace(PLAIN, smallest_normal=2.0**-10)):
        found = prove_in_format(claim, form)
        wanted = 3 * form.unit + form.smallest_normal
        assert found.proved
        assert wanted <= found.certificate.error_upper <= wanted * NEAR


def test_a_sum_that_leaves_the_range_is_not_proved():
    """Two heads of 5 in one slot: 8 * 5 is no matter, 8 * 10 is."""
    claim = fives(2, (5.0,))
    assert prove_in_format(claim, replace(PLAIN, largest=200.0)).proved
    assert "the stream leaves the range" in prove_in_format(claim, replace(PLAIN, largest=60.0)).certificate.reason


def test_logits_are_bounded_over_all_that_may_be_read():
    zero, one = np.zeros(1), np.ones(1)
    reading = Reading(2 * one[:, None], one, 3 * one, zero, -one, 3 * one, zero, 0.0)
    assert [float(x[0]) for x in reading.logits()] == pytest.approx([-4.0, 10.0], rel=1e-12)
    assert reading.logits()[0] <= -4
    assert reading.logits()[1] >= 10
    # whatever changes, a head that was proved before is proved again
    contents = {reading.content()}
    contents |= {replace(reading, **{f.name: getattr(reading, f.name) + 0.5}).content() for f in fields(reading)}
    assert len(contents) == 1 + len(fields(reading))


def test_products_that_cancel_need_the_term_of_inner_products():
    """tanh(x - 1000) from two tokens, in 20 bits: the point, and both tokens' products with it, rounded so that the output moves most."""
    form = FloatFormat("twenty bits", 20, 2.0**-126, 2.0**127, 1)
    keys, z = np.array([[1.0, 0, -1000], [-1, 0, 1000]]), sp.Symbol("z")
    claim = one_variable(sp.tanh(z), X - 1000, keys, (1.0, -1.0), sp.tanh(X - 1000), (999, 1001))
    found = prove_in_format(claim, form)
    assert found.proved
    x, up = np.linspace(999, 1001, 101), 1 + form.unit
    off = np.abs(np.tanh(x * up * up - 1000) - np.tanh(x - 1000)).max()
    assert off > 1900 * form.unit
    assert 0.15 * found.certificate.error_upper < off <= found.certificate.error_upper
