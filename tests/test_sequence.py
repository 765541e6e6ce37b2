"""Sequence functions: T + 2 layers off an exceptional set, shifted grids and two layers everywhere, and what cannot be done."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

from constructions.errors import CompileError, EpsilonError, TooLongError
from constructions.petrov2024.kolmogorov import Code, most_digits
from constructions.petrov2024.obstruction import obstruction
from constructions.petrov2024.sequence import Slots, compile_sequence
from constructions.petrov2024.shifted import compile_shifted, shifted_grids
from constructions.petrov2024.two_layer import compile_two_layer
from verify import Box, forward
from verify.gathered import prove_gathered
from verify.propagate import enclose_stream
from verify.sequence_proof import SequenceProof, prove_sequences

x1, x2, x3 = sp.symbols("x1 x2 x3")
PAIR = [sp.Abs(sp.sin(3 * x1) - x2), sp.Max(x1, 1 - x2)]
SWAP = [x2, x1]
TRIPLE = [x1 * x2 * x3, sp.Max(x1, x2, x3), sp.Min(x1, x2, x3)]


def proof_of(proposal, **options) -> SequenceProof:
    return prove_sequences(
        proposal.model, proposal.prefix, proposal.target, proposal.domain, proposal.eps, cuts=proposal.cuts, **options
    )


def sampled_error(proposal, points) -> np.ndarray:
    found = forward(proposal.model, proposal.prefix, points).reshape(len(points), -1)
    return np.abs(found - proposal.target.evaluate(points.reshape(len(points), -1))).max(axis=1)


# --- the code ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("T", "d", "K"), [(1, 1, 3), (2, 1, 4), (3, 1, 3), (2, 2, 2), (1, 3, 3)])
def test_the_code_runs_through_all_multiples_of_its_gap(T, d, K):
    code = Code(T, d, K)
    cells = code.cells()
    assert cells.shape == (2 ** (K * T * d), T * d)
    assert cells.min() == 0
    assert cells.max() == 2**K - 1
    assert len(np.unique(cells, axis=0)) == code.size
    assert (code.value(cells) == np.arange(code.size) * code.gap).all()


def test_digits_beyond_float64_are_refused_with_the_number_that_fits():
    limit = most_digits()
    assert 20 <= limit <= 26
    Code(2, 1, limit // 2)
    with pytest.raises(CompileError, match=rf"K T d = {2 * (limit // 2 + 1)} binary digits.*K = {limit // 2} fits"):
        Code(2, 1, limit // 2 + 1)
    with pytest.raises(CompileError, match="two-layer"):
        Code(limit + 1, 1, 1)
    with pytest.raises(CompileError, match="K = 0"):
        Code(2, 1, 0)


def test_the_limit_on_digits_is_where_float64_logits_stop_telling_codes_apart():
    """Logits as the last layers have them, at neighbouring codes in the middle and at the ends of the range."""
    for digits, right in ((most_digits(), True), (most_digits() + 6, False)):
        gap, size = 2.0**-digits, 2**digits
        n = np.concatenate([np.arange(1, 2000), size // 2 + np.arange(2000), size - 2 - np.arange(2000)])
        zeta = n * gap - (1 - gap) / 2
        logits = [
            (80 * (n + s - (size - 1) / 2) / gap) * zeta + -40 * (n + s - (size - 1) / 2) ** 2 for s in (-1.0, 0.0, 1.0)
        ]
        apart = np.minimum(logits[1] - logits[0], logits[1] - logits[2])
        assert (apart > 20).all() == right


# --- T + 2 layers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("f", "T", "d", "eps", "K"),
    [
        (PAIR, 2, 1, 0.1, 5),
        ([sp.Max(x1, x2), sp.Min(x1, x2)], 2, 1, 0.04, 4),
        (TRIPLE, 3, 1, 0.1, 4),
    ],
)
def test_a_sequence_function_is_proved_off_the_exceptional_set(f, T, d, eps, K):
    proposal = compile_sequence(f, T, Box.unit(d), eps, measure=1e-2)
    assert len(proposal.model.layers) == T + 2
    assert proposal.grid["K"] == K
    assert proposal.length == d * 2**K + 1 + T * (2 ** (K * T * d) + 1)
    proof = proof_of(proposal)
    assert proof.certificate.proved
    assert proof.certificate.error_upper <= eps
    # the bound is the modulus of f on the cells, and is nearly attained
    assert proof.certificate.error_upper <= proposal.modulus * (1 + 1e-6)
    assert proof.certificate.error_lower >= 0.9 * proof.certificate.error_upper
    assert proof.exceptional_measure <= 1e-2
    error = sampled_error(proposal, proposal.domain.sample(2000, seed=1))
    assert error.max() <= proof.certificate.error_upper
    # L^2 over everything, exceptional set included
    everything = type(proposal.domain)(T, Box.unit(d)).sample(20_000, seed=2)
    assert np.sqrt(np.mean(sampled_error(proposal, everything) ** 2)) <= proof.lp_bound <= eps + 0.11


def test_tokens_of_two_dimensions():
    a, b, c, d = sp.symbols("x1_1 x1_2 x2_1 x2_2")
    proposal = compile_sequence([[a * c + b * d, a], [d, sp.sin(a + d)]], 2, Box.unit(2), 0.6)
    assert proposal.grid["K"] == 2
    assert proposal.grid["codes"] == 256
    assert proposal.model.outputs == 2
    assert proof_of(proposal).certificate.proved


def test_other_boxes_and_names():
    u1, u2 = sp.symbols("u1 u2")
    proposal = compile_sequence([u1 - u2, u1 * u2], 2, Box({"u": (-3, 5)}), 3.0)
    proof = proof_of(proposal)
    assert proof.certificate.proved


def test_the_stream_holds_digits_then_codes():
    proposal = compile_sequence(PAIR, 2, Box.unit(1), 0.3)
    code, slots = Code(2, 1, proposal.grid["K"]), Slots(1, 2, 1, 1)
    points = proposal.domain.sample(50, seed=4)
    cells = np.floor(points[..., 0] * 2**code.K).astype(int)
    stream = enclose_stream(proposal.model, proposal.prefix, points, points)
    digits, z = stream[1], stream[2]
    assert np.abs(digits.mid[..., slots.digits(0)] - code.digit_values(0)[cells]).max() < code.gap / 8
    for t in range(2):
        assert np.abs(z.mid[:, t, slots.code(0)] - code.value(cells)).max() < code.gap / 8
    assert z.rad.max() < 1e-6


def test_sharper_heads_have_smaller_exceptional_sets():
    measures = [
        compile_sequence(SWAP, 2, Box.unit(1), 0.2, measure=m).domain.measure_of_gaps() for m in (0.1, 1e-3, 1e-6)
    ]
    assert all(found <= wanted * (1 + 1e-9) for found, wanted in zip(measures, (0.1, 1e-3, 1e-6), strict=True))
    assert measures[2] > 5e-7


def test_requests_that_cannot_be_met_are_refused_with_numbers():
    box = Box.unit(1)
    with pytest.raises(EpsilonError, match="binary digits"):
        compile_sequence(SWAP, 2, box, 1e-6)
    with pytest.raises(TooLongError, match=r"max_tokens = 1000 is too few: 2083 .*K = 4 fits and reaches about 0.03"):
        compile_sequence(SWAP, 2, box, 0.01, max_tokens=1000)
    with pytest.raises(CompileError, match=r"does not resolve\. Pass measure >= "):
        compile_sequence(SWAP, 2, box, 0.1, measure=1e-15)
    with pytest.raises(CompileError, match="measure = 2"):
        compile_sequence(SWAP, 2, box, 0.1, measure=2)
    with pytest.raises(CompileError, match="3 expressions for 2 tokens"):
        compile_sequence([x1, x2, x1], 2, box, 0.1)
    with pytest.raises(EpsilonError):
        compile_sequence(SWAP, 2, box, -1.0)
    with pytest.raises(EpsilonError, match="strips"):
        compile_shifted(SWAP, 2, box, 1e-3)


# --- everywhere --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("K", [1, 2, 4])
def test_one_code_is_wrong_by_half_on_the_swap_map(K):
    """By Lebesgue's covering theorem every such prefix has sup error >= 1/2; here is where, rigorously."""
    proposal = compile_sequence(SWAP, 2, Box.unit(1), 0.1, K=K)
    found = obstruction(proposal)
    assert found.error >= 0.49
    point = np.array(found.witness)
    assert sampled_error(proposal, point.reshape(1, 2, 1))[0] >= found.error
    assert not proposal.domain.contains(point.reshape(2, 1))


def test_shifted_grids_cover_the_box_with_jumps_apart():
    box = Box([(-1, 2)])
    grids = shifted_grids(2, box, 3, 7)
    jumps = np.sort(np.concatenate([grid.jumps(0) for grid in grids]))
    for grid in grids:
        assert grid.start[0] <= -1
        assert grid.start[0] + 8 * grid.width[0] >= 2
    assert np.diff(jumps).min() > 0.99 * grids[0].width[0] / 7


def test_shifted_grids_are_proved_everywhere():
    proposal = compile_shifted(SWAP, 2, Box.unit(1), 0.4)
    assert len(proposal.model.layers) == 4
    assert not proposal.domain.gaps
    proof = proof_of(proposal)
    assert proof.certificate.proved
    assert proof.certificate.error_upper < 0.4
    assert proof.exceptional_measure == 0
    assert proof.lp_bound == proof.certificate.error_upper
    # also within the strips, where single codes fail
    rng = np.random.default_rng(0)
    cuts = proposal.cuts
    assert cuts is not None
    points = rng.choice(cuts[0], (4000, 2)) + rng.normal(size=(4000, 2)) * 1e-3
    assert sampled_error(proposal, np.clip(points, 0, 1)[..., None]).max() <= proof.certificate.error_upper


def test_two_layers_are_proved_everywhere():
    proposal = compile_two_layer([*TRIPLE[:1], sp.sin(x1 + x2) * x3, x1 + x2 * x3], 3, Box.unit(1), 0.1)
    assert len(proposal.model.layers) == 2
    certificate = prove_gathered(proposal.model, proposal.prefix, proposal.target, proposal.domain, 0.1)
    assert certificate.proved
    assert sampled_error(proposal, proposal.domain.sample(2000, seed=1)).max() <= certificate.error_upper
    refuted = prove_gathered(proposal.model, proposal.prefix, proposal.target, proposal.domain, 1e-4)
    assert str(refuted.status) == "refuted"


def test_tokens_of_the_three_constructions_for_the_same_targets():
    """Two layers need the fewest tokens by far, and hold everywhere; one code holds off a set, at depth T + 2."""
    box, rows = Box.unit(1), []
    for f, eps in ((SWAP, 0.4), (SWAP, 0.2), (PAIR, 0.45)):
        one, shifted, two = (
            compile_sequence(f, 2, box, eps),
            compile_shifted(f, 2, box, eps),
            compile_two_layer(f, 2, box, eps),
        )
        assert prove_gathered(two.model, two.prefix, two.target, two.domain, eps).proved
        rows.append((two.length, one.length, shifted.length))
    assert all(two < one < shifted for two, one, shifted in rows)
    assert rows[1][2] > 4 * rows[1][1]
