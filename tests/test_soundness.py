"""A random campaign: formulas x heads x eps around the true error. No certificate may contradict the 50-digit oracle.

`pytest tests/test_soundness.py --campaign 50 -s` runs fifty times as many cases and prints the counts.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import oracle
import pytest
from formulas import claim, fitted, fitted_bernstein, random_formula, target

from verify import Artefact, Certificate, Claim, GridTarget, LipschitzTarget, Status, forward, prove, save

BOXES = {1: 3000, 2: 1500, 3: 400}
"""Boxes allowed per proof, by dimension: the campaign is to be wide rather than deep."""
UNKNOWN = Certificate(Status.UNDECIDED, 1.0, math.inf, 0.0, None, math.inf, 0)


def perturbed(
    rng: np.random.Generator, slopes: np.ndarray, biases: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A head with some of its numbers moved, by nothing up to a lot; tokens repeated, shifted all together, or far too large."""
    size = rng.choice([0.0, 0.0, 1e-8, 1e-4, 1e-2, 0.3])
    slopes, biases, values = (x * (1 + size * rng.standard_normal(x.shape)) for x in (slopes, biases, values))
    kind = rng.integers(6)
    if kind == 0:  # a repeated token, its weight shared
        j = int(rng.integers(len(biases)))
        slopes, values = np.concatenate([slopes, slopes[j : j + 1]]), np.concatenate([values, values[j : j + 1]])
        biases = np.append(biases, biases[j])
    elif kind == 1:  # all logits together
        slopes, biases = slopes + rng.choice([1.0, 1e3, 1e6]), biases - rng.choice([0.0, 1e3, 1e6])
    elif kind == 2:  # a token of no weight with an enormous value
        slopes, values = (
            np.concatenate([slopes, slopes[:1]]),
            np.concatenate([values, np.full((1, values.shape[1]), 10.0 ** rng.integers(0, 20))]),
        )
        biases = np.append(biases, biases[0] - 10.0 ** rng.uniform(1, 3))
    elif kind == 3 and len(biases) > 2:  # a token too few
        keep = np.delete(np.arange(len(biases)), int(rng.integers(len(biases))))
        slopes, biases, values = slopes[keep], biases[keep], values[keep]
    return slopes, biases, values


def random_claim(rng: np.random.Generator) -> Claim | None:
    """A claim whose eps lies between half and twice its (sampled) error; None where that error is not finite."""
    n = int(rng.choice([1, 1, 1, 2, 2, 3]))
    outputs = int(rng.choice([1, 1, 2]))
    place = float(rng.choice([0.0, 0.0, 0.3, -7.0]))
    width = float(rng.choice([0.9, 0.5, 1e-3]))
    sides = [(place - width, place + width)] * n
    kind = str(rng.choice(["smooth", "smooth", "kinks", "linear", "nearest"]))
    if kind in ("smooth", "kinks"):
        f = target(*[random_formula(rng, n, 3, kind == "kinks") for _ in range(outputs)], n=n)
        model = f
    else:
        axes = tuple(np.sort(np.concatenate([[a, b], rng.uniform(a, b, 3)])) for a, b in sides)
        f = GridTarget(axes, rng.standard_normal((*(len(a) for a in axes), outputs)), kind)
        model = f
    with np.errstate(all="ignore"):
        per_axis = int(rng.integers(1, {1: 14, 2: 5, 3: 3}[n] + 1))
        try:
            bernstein = n == 1 and kind == "smooth" and rng.random() < 0.5
            head = fitted_bernstein(model, sides[0], per_axis + 1) if bernstein else fitted(model, sides, per_axis)  # type: ignore[arg-type]
        except (np.linalg.LinAlgError, ValueError):  # the target is not finite at some sample
            return None
        head = perturbed(rng, *head)
        draft = claim(*head, f, sides, 1.0)
        axes = [np.linspace(a, b, {1: 801, 2: 29, 3: 9}[n]) for a, b in sides]
        points = np.stack([m.ravel() for m in np.meshgrid(*axes, indexing="ij")], axis=1)
        error = np.abs(forward(draft.model, draft.prefix, points) - f.evaluate(points)).max()
    if not (np.isfinite(error) and 0 < error < 1e100):
        return None
    factor = (
        2.0 ** float(rng.uniform(-1, 1))
        if rng.random() < 0.7
        else 1 + float(rng.choice([-1e-3, 1e-3, -1e-6, 1e-6, 1e-2, -1e-2]))
    )
    return Claim(draft.model, draft.prefix, f, draft.domain, float(error) * factor)


def assert_no_contradiction(c: Claim, certificate: Certificate, path: Path, rng: np.random.Generator) -> None:
    judge = oracle.Oracle(save(path, Artefact(c, Certificate(**{**UNKNOWN.__dict__, "eps": c.eps}), {})))
    n = c.domain.dimension
    lo, hi = c.domain.bounds
    axes = [np.linspace(a, b, {1: 301, 2: 21, 3: 9}[n]) for a, b in zip(lo, hi, strict=True)]
    points = np.stack([m.ravel() for m in np.meshgrid(*axes, indexing="ij")], axis=1)
    with np.errstate(all="ignore"):
        gap = np.abs(forward(c.model, c.prefix, points) - c.target.evaluate(points)).max(axis=1)  # type: ignore[union-attr]
    worst = points[np.argsort(np.nan_to_num(gap))[-4:]]  # the sample guides, the 50 digits judge
    error, where = judge.largest_error(np.concatenate([worst, c.domain.sample(3, int(rng.integers(1000)))]), refine=8)
    if certificate.status is Status.PROVED:
        assert error <= certificate.error_upper <= c.eps, where
        for x in worst[-2:]:  # float64 execution stays within its own bound, and so within error_upper
            executed = forward(c.model, c.prefix, x[None])[0]
            for got, exact in zip(executed, judge.head(x), strict=True):
                assert abs(oracle.mp.mpf(float(got)) - exact) <= certificate.rounding, where
    if certificate.status is Status.REFUTED:
        assert certificate.witness is not None
        assert c.domain.contains(np.array(certificate.witness)[None]).all()
        assert judge.error(certificate.witness) >= certificate.error_lower > c.eps
    if certificate.witness is not None:
        assert judge.error(certificate.witness) >= certificate.error_lower


def test_no_certificate_contradicts_the_oracle(campaign, tmp_path):
    counts: Counter[str] = Counter()
    for seed in range(150 * campaign):
        rng = np.random.default_rng(seed)
        c = random_claim(rng)
        if c is None:
            counts["no finite error"] += 1
            continue
        certificate = prove(c, max_boxes=BOXES[c.domain.dimension])
        assert_no_contradiction(c, certificate, tmp_path / "claim", rng)
        counts[str(certificate.status)] += 1
    print(dict(counts))
    decided = counts["proved"] + counts["refuted"]
    assert decided >= 0.7 * (decided + counts["undecided"])  # and the prover does decide
    assert min(counts["proved"], counts["refuted"]) >= 30 * campaign


def test_no_lipschitz_certificate_contradicts_the_worst_functions(campaign, tmp_path):
    counts: Counter[str] = Counter()
    for seed in range(12 * campaign):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(1, 3))
        tokens = int(rng.integers(2, 14))
        points = rng.random((tokens, n))
        constant = float(rng.choice([0.3, 1.0, 4.0]))
        norm = str(rng.choice(["l2", "linf", "l1"]))
        values = constant * 0.5 * np.abs(points - rng.random(n)).max(axis=1, keepdims=True)
        beta = 10.0 ** rng.uniform(0.5, 3.5)
        slopes, biases = 2 * beta * points, -beta * (points**2).sum(axis=1)
        moved = values + rng.choice([0.0, 0.02]) * rng.standard_normal(values.shape)
        f = LipschitzTarget(points, values, constant, norm)
        draft = claim(slopes, biases, moved, f, [(0, 1)] * n, 1.0)
        judge = oracle.Oracle(save(tmp_path / "claim", Artefact(draft, UNKNOWN, {})))
        sample = (
            np.linspace(0, 1, 41)[:, None]
            if n == 1
            else np.concatenate([rng.random((40, 2)), [[0, 0], [0, 1], [1, 0], [1, 1]]])
        )
        true, where = judge.largest_error(sample, refine=8)
        eps = float(true) * 2.0 ** float(rng.uniform(-0.5, 1.0))
        certificate = prove(Claim(draft.model, draft.prefix, f, draft.domain, eps), max_boxes=2000)
        counts[str(certificate.status)] += 1
        assert certificate.conditional
        if certificate.status is Status.PROVED:
            assert true <= certificate.error_upper, (seed, where)
        if certificate.witness is not None:
            assert judge.error(certificate.witness) >= certificate.error_lower
    print(dict(counts))
    assert counts["proved"] >= 2 * campaign


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_order_of_tokens_the_claim_is_the_same(seed):
    """Permuted tokens and a common shift of all logits change neither the function nor what can be proved."""
    rng = np.random.default_rng(seed)
    c = None
    while c is None:
        c = random_claim(rng)
    order = rng.permutation(len(c.prefix.keys[0][0]))
    permuted = Claim(
        c.model,
        type(c.prefix)(((c.prefix.keys[0][0][order],),), ((c.prefix.values[0][0][order],),)),
        c.target,
        c.domain,
        c.eps,
    )
    first, second = (prove(x, max_boxes=BOXES[c.domain.dimension]) for x in (c, permuted))
    assert {first.status, second.status} != {Status.PROVED, Status.REFUTED}
    assert first.error_lower <= second.error_upper
    assert second.error_lower <= first.error_upper
