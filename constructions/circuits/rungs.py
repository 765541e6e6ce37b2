"""One rung of a ladder: the best head found with a given number of tokens, in coordinates where the box is [-1, 1]^n.

A rung is searched from families of keys and from the rung below it (one key more at every place, or all keys resampled), so it depends
on its problem and its number of tokens alone. Its error is measured on points that were not fitted: sampled, never proved.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from constructions.circuits.arithmetic import FLOAT64, Arithmetic
from constructions.circuits.free_keys import LEAST_PEAK, Fitted, fit_keys, softmax

__all__ = ["Fit", "Rung", "measure", "search", "tamed"]

_PAID = 1.05  # error that smaller values may cost


@dataclass(frozen=True, eq=False)
class Fit:
    """What is approximated, on [-1, 1]^n: points (m, n) and targets (m,) to fit, checks (M, n) and wanted (M,) to measure on.

    affine: whether an affine function of the coordinates costs nothing; arithmetic: where the head is to run.
    """

    points: np.ndarray
    targets: np.ndarray
    checks: np.ndarray
    wanted: np.ndarray
    affine: bool
    arithmetic: Arithmetic = FLOAT64

    @property
    def free(self) -> Float[np.ndarray, "m q"]:
        """The functions that cost no token, at `points` (the constant is one of every head's own)."""
        return self.points if self.affine else self.points[:, :0]


@dataclass(frozen=True, eq=False)
class Rung:
    """A head and a linear form: sum_j w_j(t) values_j + <factors, t>.

    slopes: (N, n); biases, values: (N,); factors: (n,), zero where the affine part is not free; error: sampled sup error;
    rounding: estimated rounding in the arithmetic it is for.
    """

    slopes: np.ndarray
    biases: np.ndarray
    values: np.ndarray
    factors: np.ndarray
    error: float
    rounding: float
    arithmetic: Arithmetic = field(default=FLOAT64, repr=False)

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return len(self.biases)

    @property
    def tolerance(self) -> float:
        """The smallest tolerance of which error and rounding take no more than their shares."""
        return self.arithmetic.tolerance(self.error, self.rounding)


def measure(
    points: Float[np.ndarray, "m n"],
    wanted: Float[np.ndarray, " m"],
    slopes: Float[np.ndarray, "N n"],
    biases: Float[np.ndarray, " N"],
    values: Float[np.ndarray, " N"],
    arithmetic: Arithmetic = FLOAT64,
) -> tuple[float, float]:
    """Largest |head - wanted| on the points as float64 gives it, and the estimated rounding in the arithmetic.

    To first order d_j in logit j moves g by w_j (v_j - g) d_j; product, sum, shift and exponential round by u times their sizes.
    """
    with np.errstate(all="ignore"):
        weights = softmax(points, slopes, biases)
        products = np.abs(points) @ np.abs(slopes).T
        error = float(np.abs(weights @ values - wanted).max())
        rounding = arithmetic.rounding(weights, values, points @ slopes.T + biases, products)
    return (error, rounding) if np.isfinite(error + rounding) else (np.inf, np.inf)


def search(fit: Fit, starts: tuple[np.ndarray, np.ndarray], below: Rung | None = None) -> Rung:
    """The best head from these starts, slopes (c, N, n) and biases (c, N), by the tolerance it reaches on `checks`.

    below: the rung below. In float64 values are first charged for their size as suits an error a hundred times smaller than its; a head
    that does better than that is searched for again with the charge of rounding alone, which in narrower formats is enough.
    """
    if not fit.arithmetic.apart:
        return _searched(fit, starts, LEAST_PEAK)
    expected = below.tolerance / 100.0 if below is not None else 0.0
    if expected > 1e-9:
        best = _searched(fit, starts, _least_peak(expected, fit.arithmetic))
        if best.tolerance > expected:
            return best
        best = min(best, _searched(fit, starts, LEAST_PEAK), key=lambda rung: rung.tolerance)
    else:
        best = _searched(fit, starts, LEAST_PEAK)
    return _settled(fit, best)


def _least_peak(error: float, arithmetic: Arithmetic) -> float:
    """The charge for which values as large as an error like this may well need cost a twentieth of it."""
    size = float(np.clip(10.0 / max(error, 1e-300), 1e4, 1e9))
    return max(LEAST_PEAK, 0.05 * error / (arithmetic.ridge * size))


def _searched(fit: Fit, starts: tuple[np.ndarray, np.ndarray], least_peak: float) -> Rung:
    slopes, biases = starts
    ridge = fit.arithmetic.ridge
    found = fit_keys(fit.points, fit.targets, fit.free, slopes, biases, ridge=ridge, least_peak=least_peak)
    best = min(_rungs(fit, found), key=lambda rung: rung.tolerance)
    peak = _worst_points(fit, best)
    sampled = np.abs(_residual(fit.points, fit.targets, best)).max()
    if best.error > 1.02 * sampled and np.isfinite(best.error):
        # peaks between the fitted points: they are fitted too
        more = Fit(
            np.concatenate([fit.points, fit.checks[peak]]),
            np.concatenate([fit.targets, fit.wanted[peak]]),
            fit.checks,
            fit.wanted,
            fit.affine,
            fit.arithmetic,
        )
        again = fit_keys(
            more.points,
            more.targets,
            more.free,
            best.slopes[None],
            best.biases[None],
            ridge=ridge,
            iterations=20,
            least_peak=least_peak,
        )
        best = min([best, *_rungs(fit, again)], key=lambda rung: rung.tolerance)
    return best


def _settled(fit: Fit, best: Rung) -> Rung:
    """About the same error with smaller values, if there is such a head nearby."""
    size = np.abs(best.values).max()
    if not np.isfinite(best.error) or size <= 1e4:
        return best
    found = fit_keys(
        fit.points,
        fit.targets,
        fit.free,
        best.slopes[None],
        best.biases[None],
        ridge=fit.arithmetic.ridge,
        least_peak=_least_peak(best.error, fit.arithmetic),
    )
    settled = _rungs(fit, found)[0]
    close = settled.tolerance <= _PAID * best.tolerance and np.abs(settled.values).max() < 0.5 * size
    return settled if close else best


def tamed(fit: Fit, rung: Rung, tolerance: float) -> Rung:
    """For a tolerance well above the rung's: the same number of tokens with smaller values and factors, where there is such a head.

    Keys that nearly coalesce buy accuracy with size. The charge on sizes is lowered until the error is within its share. Only where
    rounding is far below the errors: elsewhere heads have been charged for it.
    """

    def size(head: Rung) -> float:
        return float(max(np.abs(head.values).max() / 1e3, np.abs(head.factors).max() / 30.0))

    if not fit.arithmetic.apart or rung.tokens < 2 or rung.tolerance > 0.25 * tolerance or size(rung) <= 1.0:
        return rung
    for step in range(7):
        found = fit_keys(
            fit.points,
            fit.targets,
            fit.free,
            rung.slopes[None],
            rung.biases[None],
            ridge=max(fit.arithmetic.ridge, 0.1 * tolerance * 10.0**-step),
            least_peak=1e-3,
            iterations=60,
            lawson=0,
        )
        head = _rungs(fit, found)[0]
        if head.tolerance <= tolerance and size(head) < 0.5 * size(rung):
            return head
    return rung


def _rungs(fit: Fit, found: Fitted) -> list[Rung]:
    """Each fitted start measured, its logits first shifted by what they have in common."""
    out = []
    n = fit.points.shape[1]
    for i in range(len(found.biases)):
        slopes = found.slopes[i] - 0.5 * (found.slopes[i].max(axis=0) + found.slopes[i].min(axis=0))
        biases = found.biases[i]
        envelope = (fit.checks @ slopes.T + biases).max(axis=1)
        # the best affine function under the (convex) envelope of the logits, roughly: its least-squares fit
        design = np.column_stack([fit.checks, np.ones(len(fit.checks))])
        common = np.linalg.lstsq(design, envelope, rcond=None)[0]
        slopes, biases = slopes - common[:n], biases - common[n]
        factors = found.free[i] if fit.affine else np.zeros(n)
        rest, arithmetic = fit.wanted - fit.checks @ factors, fit.arithmetic
        error, rounding = measure(fit.checks, rest, slopes, biases, found.values[i], arithmetic)
        out.append(Rung(slopes, biases, found.values[i], factors, error, rounding, arithmetic))
    return out


def _residual(points, wanted, rung: Rung) -> np.ndarray:
    return wanted - points @ rung.factors - softmax(points, rung.slopes, rung.biases) @ rung.values


def _worst_points(fit: Fit, rung: Rung) -> np.ndarray:
    """The checks with the largest errors: one for every few of them in order, up to forty."""
    size = np.abs(_residual(fit.checks, fit.wanted, rung))
    blocks = np.array_split(np.arange(len(size)), min(len(size), 40 * fit.points.shape[1] ** 2))
    worst = np.array([block[np.argmax(size[block])] for block in blocks])
    return worst[size[worst] > 0.7 * size.max()]
