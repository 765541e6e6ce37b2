"""The best values for given keys: least squares with bounded values, then Lawson's weights towards the smallest sup error.

All three heads of Petrov, Torr and Bibi (2024, arXiv 2402.14753) have the form g = sum_k E_k v_k / D with exponentials
E_k(x) = e^{lambda(<x, b_k> - 1)} <= 1 and a denominator D that does not depend on the values, so g is linear in v:

    core: D = 1     split: D = sum_k E_k     classical: D = sum_k E_k + T e^{-lambda},  T data tokens of score and value 0.

(All logits are lowered by lambda: as biases in the core head; in a softmax it changes nothing.)

For the classical head T runs through 1..longest. g is monotone in T at each x, so the extremes decide; values are fitted for
the T half way, tau = (1 + longest)/2. The rest moves g by at most |g| (longest - 1)/2 e^{-lambda} / D.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.linalg import solve_triangular

__all__ = ["CORE", "SPLIT", "Family", "classical_family", "fit_values", "rounding_unit", "sup_error"]

_UNIT_ROUNDOFF = 2.0**-53
# Entries of the largest table of exponentials held at once.
_CHUNK = 2_000_000
# Lawson weights are kept above this share of the largest, so that no sample is forgotten.
_FLOOR = 1e-3


@dataclass(frozen=True)
class Family:
    """Which of the three heads. normalised: whether the prefix's own exponentials are in the denominator; longest: the largest
    number of data tokens that are (0: none)."""

    method: str
    normalised: bool
    longest: int = 0

    def denominators(self, total: np.ndarray, sharpness: float | np.ndarray) -> tuple[np.ndarray, ...]:
        """D for the T that values are fitted for, then for every T that must be checked. total: sum_k E_k, any shape."""
        if not self.normalised:
            return (np.ones_like(total),)
        if self.longest == 0:
            return (total,)
        data = np.exp(-np.asarray(sharpness))
        return tuple(total + data * t for t in ((1 + self.longest) / 2, *sorted({1, self.longest})))

    def sharpnesses(self, size: float, error: float, most: float) -> Float[np.ndarray, " c"]:
        """Sharpnesses worth trying up to `most`. Data tokens exclude the low ones: sum_k E_k hardly exceeds 20, so that their share
        changes g by size (longest - 1)/2 e^{-lambda}/20 at least, and that has to stay below `error`."""
        least = np.log(max((self.longest - 1) / 2 * size / (20 * error), 1e-300)) if self.longest > 1 else 0.0
        return np.geomspace(max(least, 0.05), most, 24) if least < most else np.empty(0)

    @property
    def checked(self) -> slice:
        """Which of `denominators` the error is to be checked for."""
        return slice(1, None) if self.longest else slice(None)


CORE = Family("core", normalised=False)
SPLIT = Family("split", normalised=True)


def classical_family(longest: int) -> Family:
    """The classical head for every sequence of 1 to `longest` tokens."""
    return Family("classical", normalised=True, longest=longest)


def rounding_unit(tokens: int, sharpness: float, ambient: int) -> float:
    """u (N + (m + 5)(1 + 2 lambda)): float64 moves g by about this times sum_k E_k |v_k| / D.

    Each exponential carries the rounding of its logit, gamma_{m+1} lambda plus that of the exponential, and the two sums over
    tokens another gamma_N each in the worst case.
    """
    return _UNIT_ROUNDOFF * (2 * tokens + (ambient + 4) * (1 + 2 * sharpness))


def exponentials(
    points: Float[np.ndarray, "P n"], keys: Float[np.ndarray, "tokens n"], sharpness: float
) -> Float[np.ndarray, "P tokens"]:
    """E_k(x) = e^{lambda(<x, b_k> - 1)}."""
    return np.exp(sharpness * (points @ keys.T - 1.0))


def fit_values(
    points: Float[np.ndarray, "P n"],
    targets: Float[np.ndarray, "P k"],
    keys: Float[np.ndarray, "tokens n"],
    sharpness: float,
    family: Family,
    *,
    goal: float,
    cap: float,
    rounds: int = 0,
) -> Float[np.ndarray, "tokens k"]:
    """Values with a small sup error at the points and sum_k E_k |v_k| / D about `cap` at most.

    Minimises mean omega^2 |W v - f|^2 + ridge^2 mean |v|^2, W = E/D rescaled to row sums about 1, by QR; ridge = goal/10/cap
    makes values as large as `cap` cost a tenth of `goal`. `rounds` of Lawson's iteration (omega^2 times |residual|) follow for
    each output whose error is not below `goal`. The best iterate is returned.
    """
    weights = exponentials(points, keys, sharpness)
    weights /= family.denominators(weights.sum(axis=1), sharpness)[0][:, None]
    scale = 1.0 if family.normalised else float(np.mean(weights.sum(axis=1)))
    weights /= scale
    many, tokens = weights.shape
    below = np.eye(tokens) * (0.1 * goal / cap * np.sqrt(many / tokens))
    values = np.empty((tokens, targets.shape[1]))
    plain = _solve(*_factored(np.concatenate([weights, below])), targets)
    for output in range(targets.shape[1]):
        best = current = plain[:, output]
        omega = np.ones(many)
        error = smallest = np.inf
        for step in range(rounds + 1):
            residual = np.abs(targets[:, output] - weights @ current)
            error = float(residual.max())
            if error < smallest:
                smallest, best = error, current
            # the weighted root mean square is below every head's sup error: Lawson's lower bound
            if smallest <= goal or step == rounds or np.sqrt(np.mean((omega * residual) ** 2)) > 1.1 * goal:
                break
            omega = omega * np.sqrt(np.maximum(residual / error, _FLOOR))
            omega /= np.sqrt(np.mean(omega**2))
            factors = _factored(np.concatenate([weights * omega[:, None], below]))
            current = _solve(*factors, (targets[:, output] * omega)[:, None])[:, 0]
        values[:, output] = best
    return values / scale


def _factored(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    basis, upper = np.linalg.qr(matrix)
    return basis, upper


def _solve(basis: np.ndarray, upper: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return solve_triangular(upper, basis[: len(targets)].T @ targets, check_finite=False)


def sup_error(
    points: Float[np.ndarray, "P n"],
    targets: Float[np.ndarray, "P k"],
    keys: Float[np.ndarray, "tokens n"],
    sharpness: float,
    values: Float[np.ndarray, "tokens k"],
    family: Family,
) -> tuple[Float[np.ndarray, " P"], float]:
    """|g - f| at each point (largest over outputs and over the numbers of data tokens), and the largest sum_k E_k |v_k| / D."""
    error, size = np.empty(len(points)), 0.0
    rows = max(1, _CHUNK // len(keys))
    for start in range(0, len(points), rows):
        part = slice(start, start + rows)
        table = exponentials(points[part], keys, sharpness)
        below = family.denominators(table.sum(axis=1), sharpness)[family.checked]
        above = table @ values
        error[part] = np.max([np.abs(above / d[:, None] - targets[part]).max(axis=1) for d in below], axis=0)
        size = max(size, float(np.max((table @ np.abs(values)) / below[0][:, None])))
    return error, size
