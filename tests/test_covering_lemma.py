"""The covering lemma: never below the worst mean distance, radii never understated, keys that are not Gaussian cost what they cost."""

import math

import mpmath
import numpy as np
import pytest
from formulas import claim, plain_head
from scipy.spatial import cKDTree

from verify import Box, Claim, LipschitzTarget, Prefix, Status, forward, prove
from verify.covering import covering_radius_at_most, gaussian_keys, spread_of_error

STEPS = {1: 12, 2: 6, 3: 4}


def lattice(n: int, steps: int) -> np.ndarray:
    """Cell centres of a cubic grid on [0, 1]^n."""
    axis = (np.arange(steps) + 0.5) / steps
    return np.stack([m.ravel() for m in np.meshgrid(*[axis] * n, indexing="ij")], axis=1)


def gaussian_head(centres: np.ndarray, beta: float, shift: float = 0.0, tilt: float = 0.0):
    """Logits -beta |x - c|^2 with any common affine function added to them."""
    slopes = 2 * beta * centres + tilt
    return slopes, -beta * (centres**2).sum(axis=1) + shift


def mean_distance(slopes: np.ndarray, biases: np.ndarray, centres: np.ndarray, points: np.ndarray) -> np.ndarray:
    logits = points @ slopes.T + biases
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return (weights * np.linalg.norm(points[:, None] - centres[None], axis=2)).sum(axis=1)


def dense(n: int, rng) -> np.ndarray:
    axis = np.linspace(0, 1, {1: 4001, 2: 61, 3: 17}[n])
    regular = np.stack([m.ravel() for m in np.meshgrid(*[axis] * n, indexing="ij")], axis=1)
    return np.concatenate([regular, rng.random((2000, n))])


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("sharpness", [0.5, 2.0, 8.0, 100.0, 1e5])
def test_the_lemma_is_never_below_the_worst_mean_distance(n, sharpness):
    rng = np.random.default_rng(n)
    for jitter in (0.0, 0.2):
        centres = lattice(n, STEPS[n])
        centres = centres + jitter / STEPS[n] * rng.uniform(-1, 1, centres.shape)
        points = dense(n, rng)
        radius = float(cKDTree(centres).query(points)[0].max()) * 1.05
        beta = sharpness / radius**2
        slopes, biases = gaussian_head(centres, beta, 3.0, 0.5)
        keys = gaussian_keys(plain_head(slopes, biases, np.zeros(len(centres))), Box.unit(n))
        assert keys is not None
        assert keys.beta == pytest.approx(beta, rel=1e-6)
        bound = radius + spread_of_error(keys, radius)
        # a common tilt shifts every centre by the same vector: distances are to the centres the fit found
        assert mean_distance(slopes, biases, keys.centres, points).max() <= bound
        if sharpness >= 100:
            assert bound <= radius * 1.2  # and it says something


@pytest.mark.parametrize("n", [1, 2, 3])
def test_logits_are_read_within_the_residual(n):
    """s_j(x) + beta |x - c_j|^2 differs between tokens by at most twice the residual, in 40 digits."""
    rng = np.random.default_rng(n)
    for noise in (0.0, 1e-9, 1e-3):
        centres = lattice(n, 4)
        slopes, biases = gaussian_head(centres, 300.0, 1.0, -2.0)
        biases = biases + noise * rng.standard_normal(len(biases))
        keys = gaussian_keys(plain_head(slopes, biases, np.zeros(len(centres))), Box.unit(n))
        assert keys is not None
        with mpmath.workdps(40):
            for x in rng.random((6, n)):
                rest = []
                for a, b, c in zip(slopes, biases, keys.centres, strict=True):
                    logit = mpmath.fsum(
                        mpmath.mpf(float(s)) * mpmath.mpf(float(t)) for s, t in zip(a, x, strict=True)
                    ) + mpmath.mpf(float(b))
                    rest.append(
                        logit
                        + mpmath.mpf(keys.beta)
                        * mpmath.fsum(
                            (mpmath.mpf(float(t)) - mpmath.mpf(float(z))) ** 2 for t, z in zip(x, c, strict=True)
                        )
                    )
                assert max(rest) - min(rest) <= 2 * keys.residual
        assert keys.residual <= 6 * noise + 1e-9


def test_far_from_the_origin_the_residual_grows_with_rounding():
    centres = 1e6 + lattice(1, 10)
    slopes, biases = gaussian_head(centres, 1e4)
    keys = gaussian_keys(plain_head(slopes, biases, np.zeros(10)), Box([(1e6, 1e6 + 1)]))
    assert keys is None or keys.residual > 1e-3


@pytest.mark.parametrize("n", [1, 2, 3])
def test_radii_below_the_true_one_are_never_accepted(n):
    rng = np.random.default_rng(10 + n)
    box = Box.unit(n)
    for case in range(4):
        centres = lattice(n, STEPS[n])
        if case == 1:
            centres = np.delete(centres, int(rng.integers(len(centres))), axis=0)  # a hole
        elif case == 2:
            centres = rng.random((40, n))
        elif case == 3:
            centres = centres[centres[:, 0] < 0.9]  # a side left bare
        true = float(cKDTree(centres).query(dense(n, rng))[0].max())  # attained at one of these points
        for factor in (0.5, 0.9, 0.999, 1 - 1e-9):
            assert not covering_radius_at_most(centres, box, true * factor, 200_000)[0]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_radius_of_a_cubic_grid_is_accepted_closely(n):
    centres = lattice(n, STEPS[n])
    true = math.sqrt(n) / (2 * STEPS[n])
    assert covering_radius_at_most(centres, Box.unit(n), true * 1.001, 500_000)[0]
    assert not covering_radius_at_most(centres, Box.unit(n), true * 0.999, 500_000)[0]


def test_a_deleted_centre_is_noticed_even_at_a_corner():
    centres = lattice(2, 8)
    radius = math.sqrt(2) / 16 * 1.001
    assert covering_radius_at_most(centres, Box.unit(2), radius, 100_000)[0]
    for corner in (0, 7, 56, 63, 27):
        assert not covering_radius_at_most(np.delete(centres, corner, axis=0), Box.unit(2), radius, 100_000)[0]


def test_the_limit_on_boxes_is_respected():
    assert covering_radius_at_most(lattice(2, 8), Box.unit(2), 1e-9, 1000) == (False, 0)
    covered, seen = covering_radius_at_most(lattice(1, 8), Box.unit(1), 1 / 16, 500)
    assert seen <= 1000
    assert covered in (True, False)


def test_keys_that_are_no_gaussians_are_not_taken_for_some():
    rng = np.random.default_rng(0)
    head = plain_head(rng.standard_normal((9, 1)) * 100, rng.standard_normal(9) * 100, np.zeros(9))
    keys = gaussian_keys(head, Box.unit(1))
    assert keys is None or spread_of_error(keys, 0.1) == math.inf
    assert gaussian_keys(plain_head(np.zeros((9, 1)), np.zeros(9), np.zeros(9)), Box.unit(1)) is None
    assert gaussian_keys(plain_head(np.ones((9, 1)), np.zeros(9), np.zeros(9)), Box.unit(1)) is None
    assert gaussian_keys(plain_head(np.ones((2, 1)), np.zeros(2), np.zeros(2)), Box.unit(1)) is None
    slopes, biases = gaussian_head(lattice(1, 9), -50.0)  # the sign of an anti-Gaussian
    assert gaussian_keys(plain_head(slopes, biases, np.zeros(9)), Box.unit(1)) is None


def test_two_equal_centres_leave_no_bound():
    centres = np.concatenate([lattice(1, 9), lattice(1, 9)[:1]])
    slopes, biases = gaussian_head(centres, 5000.0)
    keys = gaussian_keys(plain_head(slopes, biases, np.zeros(10)), Box.unit(1))
    assert keys is None or spread_of_error(keys, 0.1) == math.inf


def covering_claim(n: int, steps: int, lipschitz: float, sharpness: float, slack: float) -> Claim:
    centres = lattice(n, steps)
    radius = math.sqrt(n) / (2 * steps)
    slopes, biases = gaussian_head(centres, sharpness / radius**2)
    values = lipschitz * np.linalg.norm(centres - 0.3, axis=1, keepdims=True)
    return claim(
        slopes, biases, values, LipschitzTarget(centres, values, lipschitz), [(0, 1)] * n, lipschitz * radius * slack
    )


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_covering_proves_the_sharp_law(n):
    c = covering_claim(n, STEPS[n] * 2, 2.0, 400.0, 1.05)
    certificate = prove(c)
    assert certificate.status is Status.PROVED
    assert certificate.conditional
    assert certificate.error_upper >= c.eps / 1.05 * (1 - 1e-9)
    below = Claim(
        c.model, c.prefix, c.target, c.domain, c.eps / 1.05 * 0.98
    )  # below L R: some function of the class is farther
    assert prove(below, max_boxes=3000).status is not Status.PROVED


@pytest.mark.parametrize("change", ["key", "bias", "value", "delete", "swap"])
def test_a_perturbed_covering_is_no_longer_proved(change):
    c = covering_claim(2, 8, 1.0, 400.0, 1.02)
    assert prove(c, max_boxes=5000).status is Status.PROVED
    keys, values = np.array(c.prefix.keys[0][0]), np.array(c.prefix.values[0][0])
    assert isinstance(c.target, LipschitzTarget)
    points, samples = c.target.points, c.target.values
    if change == "key":
        keys[20, 0] *= 1.02
    elif change == "bias":
        keys[20, 2] -= 50.0
    elif change == "value":
        values[20] += 0.2
    elif change == "delete":
        keys, values, points, samples = (np.delete(x, 20, axis=0) for x in (keys, values, points, samples))
    else:
        values[[3, 60]] = values[[60, 3]]
    changed = Claim(c.model, Prefix(((keys,),), ((values,),)), LipschitzTarget(points, samples, 1.0), c.domain, c.eps)
    assert prove(changed, max_boxes=5000).status is not Status.PROVED


@pytest.mark.parametrize("n", [1, 2])
def test_the_proved_bound_holds_for_the_worst_functions_of_the_class(n):
    """McShane's extensions of the recorded values are Lipschitz too, and the farthest from the model."""
    rng = np.random.default_rng(n)
    c = covering_claim(n, STEPS[n] * 2, 1.0, 60.0, 1.15)
    certificate = prove(c, max_boxes=50_000)
    assert certificate.status is Status.PROVED
    assert isinstance(c.target, LipschitzTarget)
    points = dense(n, rng)
    away = np.linalg.norm(points[:, None] - c.target.points[None], axis=2)
    upper, lower = (c.target.values[:, 0] + away).min(axis=1), (c.target.values[:, 0] - away).max(axis=1)
    g = forward(c.model, c.prefix, points)[:, 0]
    assert max(np.abs(g - upper).max(), np.abs(g - lower).max()) <= certificate.error_upper * (1 + 1e-12)
