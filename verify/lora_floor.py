"""What no prompt of N tokens can do for n examples of one attention layer, whatever its keys and values.

A prompt adds sum_j c_ij v_j with c_ij > 0 to the output of example i and scales what was there: output_i = tau_i a_i + sum_j c_ij v_j with
tau_i in [0, 1] and a_i the unprompted output. The errors r_i = output_i - z_i are therefore the columns of C - M(tau), where C has
rank at most N and M(tau) has the columns z_i - tau_i a_i. For weights w_i >= 0

    max_i |r_i|^2 sum_i w_i >= |(C - M) diag(w)^(1/2)|_F^2 >= sum_{k > N} sigma_k(M diag(w)^(1/2))^2        (Eckart and Young)

and the floor is the least right-hand side over tau. Two rigorous lower bounds of it, the larger counts:

* Gram matrix. lambda(D + E) of the matrix <w_i^(1/2) m_i, w_j^(1/2) m_j>, with D its diagonal: the sum of the s - N smallest eigenvalues of an s x s matrix
  is superadditive and monotone, hence at least that of D minus (s - N) |E|. The diagonal is at least w_i dist(z_i, [0, a_i])^2,
  and E is bilinear in (tau_i, tau_j), hence largest at the corners. Any subset of examples may be taken. With orthogonal columns (E = 0), distances
  d_1 >= d_2 >= ... and w_i = d_i^-2 this is floor^2 = max_{s > N} (s - N) / sum_{i <= s} d_i^-2, which no other weights beat (Schur and Horn).
* Projection. A matrix L with L a_i = 0 up to rounding makes L M independent of tau, and sigma_k(M) >= sigma_k(L M) / |L|. With any
  V: sum_{k > N} sigma_k(L M)^2 >= sum_{k > N} sigma_k(L M V)^2 / |V|^2; numerical singular vectors make L M V nearly orthogonal.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import flint
import numpy as np
from jaxtyping import Float

from verify.ball import Ball
from verify.certificate import Status, downward
from verify.lora_run import BITS, AttentionTask, OutOfTime, Prompt, Run, run, squared_errors
from verify.precision import arb_bounds, working_precision
from verify.spectral import spectral_upper
from verify.statement import Statement, StatementError, Verdict
from verify.stored_arrays import stored_number

__all__ = ["LoraFloor"]

Vector = list[flint.arb]


@dataclass(frozen=True, eq=False)
class LoraFloor(Statement):
    """max_i |error_i| >= floor for every prompt of `tokens` tokens with any keys and values. prompt: a hint that shows how far one gets.

    Raises StatementError for tokens < 0, a floor that is no number >= 0, or a prompt of another length.
    """

    task: AttentionTask
    tokens: int
    floor: float
    prompt: Prompt | None = None

    kind: ClassVar[str] = "lora-floor"

    def __post_init__(self) -> None:
        if isinstance(self.tokens, bool) or not isinstance(self.tokens, (int, np.integer)) or self.tokens < 0:
            raise StatementError(f"tokens = {self.tokens!r}: expected a number of prompt tokens, 0 or more")
        object.__setattr__(self, "tokens", int(self.tokens))
        object.__setattr__(self, "floor", stored_number("floor", self.floor, least=0.0))
        if self.prompt is not None:
            prompt = self.prompt.fitted(self.task)
            if prompt.tokens != self.tokens:
                raise StatementError(f"prompt: {prompt.tokens} tokens, but the statement is about {self.tokens}")
            object.__setattr__(self, "prompt", prompt)

    @property
    def sentence(self) -> str:
        return (
            f"every prompt of {self.tokens} token{'' if self.tokens == 1 else 's'}, whatever its keys and values, misses one of {self.task.examples} targets by at least "
            f"{downward(self.floor, 6)}"
        )

    @property
    def quantity(self) -> str:
        return f"inf over prompts of {self.tokens} tokens of max_i |output_i - target_i| (Euclidean)"

    def decide(self, *, seconds: float = math.inf) -> Verdict:
        """lower: the bound of the module's text; upper: the error of the stored prompt, inf without one."""
        deadline = time.monotonic() + seconds
        upper, route = math.inf, ""
        with working_precision(BITS):
            try:
                plain = run(self.task, deadline=deadline)
                if self.tokens == 0:
                    lower, upper, route = *_extremes(plain), "one run of the layer, no prompt"
                else:
                    lower, route = _floor(plain, self.tokens, deadline)
                if self.prompt is not None:
                    upper = _extremes(run(self.task, prompt=self.prompt, deadline=deadline))[1]
            except OutOfTime:
                reason = f"out of time after {seconds:g} s; allow more seconds"
                return Verdict(Status.UNDECIDED, 0.0, math.inf, reason=reason)
        numbers = {"prompt_error": upper} if upper < math.inf else {}
        if lower >= self.floor:
            return Verdict(Status.PROVED, lower, upper, route, numbers=numbers)
        if upper < self.floor:
            return Verdict(Status.REFUTED, lower, upper, route, "the stored prompt does better", numbers=numbers)
        reason = f"the bound reached is {downward(lower, 6)} < {self.floor!r}; state less, or fewer tokens than {self.task.examples} examples"
        return Verdict(Status.UNDECIDED, lower, upper, route, reason, numbers=numbers)

    def to_json(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        arrays = self.task.arrays()
        if self.prompt is not None:
            arrays |= {"prompt_keys": self.prompt.keys, "prompt_values": self.prompt.values}
        return {"tokens": self.tokens, "floor": self.floor.hex()}, arrays

    @classmethod
    def from_json(cls, data: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> LoraFloor:
        prompt = Prompt(arrays["prompt_keys"], arrays["prompt_values"]) if "prompt_keys" in arrays else None
        return cls(AttentionTask.of(arrays), data["tokens"], float.fromhex(data["floor"]), prompt)


def _extremes(result: Run) -> tuple[float, float]:
    """Floats below and above max_i |error_i|; 0 and inf where nothing is known."""
    bounds = [arb_bounds(square) for square in squared_errors(result)]
    if any(map(math.isnan, (end for pair in bounds for end in pair))):
        return 0.0, math.inf
    low, high = (max(0.0, *ends) for ends in zip(*bounds, strict=True))
    return max(math.nextafter(math.sqrt(low), 0.0), 0.0), math.nextafter(math.sqrt(high), math.inf)


def _floor(plain: Run, tokens: int, deadline: float) -> tuple[float, str]:
    """The larger of the two bounds, a float below it, and its name."""
    z, a = plain.targets, plain.outputs
    if tokens >= min(len(z), len(z[0])):
        return 0.0, "none: a prompt of so many tokens is not limited by its rank"
    nearest = [_distance_squared(zi, ai) for zi, ai in zip(z, a, strict=True)]
    gram = _by_gram(nearest, _cross(z, a, deadline), tokens)
    if time.monotonic() > deadline:
        raise OutOfTime
    projected = _by_projection(z, a, tokens)
    if gram >= projected:
        return gram, "rank of a prompt (Eckart-Young) on a nearly diagonal Gram matrix"
    return projected, "rank of a prompt (Eckart-Young) beside the span of the unprompted outputs"


def _dot(x: Vector, y: Vector) -> flint.arb:
    return sum((p * q for p, q in zip(x, y, strict=True)), flint.arb(0))


def _distance_squared(z: Vector, a: Vector) -> float:
    """A float below min over tau in [0, 1] of f(tau) = |z - tau a|^2, which is convex: it lies above its tangent at any t,
    whose least value on [0, 1] is f(t) + min(-t f'(t), (1 - t) f'(t))."""
    zz, za, aa = _dot(z, z), _dot(z, a), _dot(a, a)
    if not (zz.is_finite() and za.is_finite() and aa.is_finite()):
        return 0.0
    best = 0.0
    ratio = float((za / aa).mid()) if aa > 0 else 0.0
    for at in {0.0, 1.0, min(max(ratio, 0.0), 1.0) if math.isfinite(ratio) else 0.0}:
        t = flint.arb(at)
        slope = 2 * (t * aa - za)
        value = zz - 2 * t * za + t * t * aa
        ends = [arb_bounds(value - t * slope)[0], arb_bounds(value + (1 - t) * slope)[0]]
        if not any(map(math.isnan, ends)):
            best = max(best, min(ends))
    return best


def _cross(z: list[Vector], a: list[Vector], deadline: float) -> Float[np.ndarray, "n n"]:
    """Floats above |<z_i - tau_i a_i, z_j - tau_j a_j>| for all tau, i != j; 0 on the diagonal."""
    n = len(z)
    corners = [z, [[p - q for p, q in zip(zi, ai, strict=True)] for zi, ai in zip(z, a, strict=True)]]
    worst = np.zeros((n, n))
    for first in corners:
        for second in corners:
            if time.monotonic() > deadline:
                raise OutOfTime
            products = (flint.arb_mat(first) * flint.arb_mat(second).transpose()).tolist()
            for i in range(n):
                for j in range(n):
                    if i != j:
                        low, high = arb_bounds(products[i][j])
                        size = max(-low, high)
                        worst[i, j] = max(worst[i, j], size) if size == size else math.inf
    return worst


def _tail(diagonal: list[flint.arb], cross: list[flint.arb], many: int) -> flint.arb:
    """Below the sum of the `many` smallest eigenvalues of a symmetric matrix of that diagonal; cross: sums of |entries| off it, by row."""
    lows = sorted(arb_bounds(d)[0] for d in diagonal)[:many]
    worst = flint.arb(max(arb_bounds(c)[1] for c in cross))
    return sum((flint.arb(low) for low in lows), flint.arb(0)) - many * worst


def _by_gram(nearest: list[float], cross: Float[np.ndarray, "n n"], tokens: int) -> float:
    """The first bound, for the s examples of the largest distances, every s."""
    order = [i for i in np.argsort(nearest)[::-1] if nearest[i] > 0]
    best = 0.0
    for s in range(tokens + 1, len(order) + 1):
        chosen = order[:s]
        least = min(nearest[i] for i in chosen)
        roots = [
            flint.arb(math.sqrt(least / nearest[i])) for i in chosen
        ]  # square roots of weights, any floats will do
        diagonal = [r * r * flint.arb(nearest[i]) for r, i in zip(roots, chosen, strict=True)]
        rows = [
            sum((r * q * flint.arb(float(cross[i, j])) for q, j in zip(roots, chosen, strict=True)), flint.arb(0))
            for r, i in zip(roots, chosen, strict=True)
        ]
        if not all(row.is_finite() for row in rows):
            continue
        square = _tail(diagonal, rows, s - tokens) / sum((r * r for r in roots), flint.arb(0))
        best = max(best, _root_below(square))
    return best


def _root_below(square: flint.arb) -> float:
    low = arb_bounds(square)[0]
    return max(math.nextafter(math.sqrt(low), 0.0), 0.0) if low > 0 else 0.0


def _by_projection(z: list[Vector], a: list[Vector], tokens: int) -> float:
    """The second bound, all weights equal."""
    n = len(z)
    targets = np.array([[float(v.mid()) for v in row] for row in z])
    outputs = np.array([[float(v.mid()) for v in row] for row in a])
    if not (np.isfinite(targets).all() and np.isfinite(outputs).all() and np.abs(targets).max() < 1e100):
        return 0.0
    try:
        left, sizes, _ = np.linalg.svd(outputs.T, full_matrices=False)
        span = left[:, sizes > 1e-12 * sizes.max(initial=0.0)]
        along = np.eye(len(left)) - span @ span.T
        turn = np.linalg.svd(targets @ along.T, full_matrices=False)[0]
    except np.linalg.LinAlgError:
        return 0.0
    if turn.shape[1] < n:
        turn = np.linalg.qr(turn, mode="complete")[0]
    norms = spectral_upper(Ball.exact(along)), spectral_upper(Ball.exact(turn))
    if not all(0 < norm < math.inf for norm in norms):
        return 0.0
    project = flint.arb_mat([[flint.arb(float(v)) for v in row] for row in along])
    mixed = flint.arb_mat([[flint.arb(float(v)) for v in row] for row in turn.T])
    columns = mixed * (flint.arb_mat(z) * project.transpose())  # rows: V^T (L M)^T at tau = 0
    leak = sum((v * v for row in (flint.arb_mat(a) * project.transpose()).tolist() for v in row), flint.arb(0)).sqrt()
    gram = (columns * columns.transpose()).tolist()
    if not all(v.is_finite() for row in gram for v in row) or not leak.is_finite():
        return 0.0
    rows = [sum((abs(v) for j, v in enumerate(row) if j != i), flint.arb(0)) for i, row in enumerate(gram)]
    tail = flint.arb(_root_below(_tail([gram[i][i] for i in range(n)], rows, n - tokens))) / flint.arb(norms[1])
    # tau moves L M by at most |L A|_F, and the tail's norm is 1-Lipschitz in the Frobenius norm
    low = arb_bounds((tail - leak) / (flint.arb(norms[0]) * flint.arb(n).sqrt()))[0]
    return low if low > 0 else 0.0
