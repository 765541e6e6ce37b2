"""Shortest smooth head on S^1: a scan over lengths, sharpnesses and rotations of equispaced keys, in Fourier space.

With v_k = sum_r V_r e^{irb_k} over the residues r modulo N, the harmonics of the numerator are those of (*) in
`deconvolution`: harmonic l is I_l(lambda) V_{l mod N} up to a phase. Least squares for the harmonics h_l of f D therefore
separates into one unknown per residue,

    V_r = sum_{l = r mod N} conj(c_l) h_l / (sum_{l = r mod N} |c_l|^2 + ridge^2),   c_l = I_l/I_0 e^{-i(l - r)s},

and costs one Fourier transform for a head, so all of them can be tried. What comes close is refined towards the minimax
values on samples. Nothing is monotone in N (cos 5t has an excellent head of 10 tokens, with alternating values, and none of
11), so lengths are scanned upwards rather than bisected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy.special import ive

from constructions.petrov2024.deconvolution import circle_points, equispaced_angles
from constructions.petrov2024.smooth_head import ERROR_SHARE, SmoothHead, cap_on_values
from constructions.petrov2024.values import Family, fit_values, sup_error
from constructions.sharp.deadline import check_deadline

__all__ = ["circle_heads"]

Evaluate = Callable[[np.ndarray], np.ndarray]

_SAMPLES = (256, 512, 1024, 2048)
# Refinement by Lawson's iteration gains about this factor over least squares.
_GAIN = 2.5
_ROUNDS = 15
# Within this factor of the goal finer scans of sharpnesses follow, on these relative ranges (the last is never scanned).
_NEAR = 1000.0
_SPREADS = (0.3, 0.05, 0.0)
_CHECKS = 2000
# Every length is tried up to about this one; beyond it every multiple of 1 + 1/_PRECISION, and where an error is this
# factor above the goal, lengths below are taken to be hopeless.
_FEW = 24
_PRECISION = 100
_HOPELESS = 30.0
_SHARPEST = 400.0
# Beyond this many e-folds between a key and the middle of its gap, keys no longer overlap: nothing smooth comes of them.
_OVERLAP = 30.0


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A head on keys rotated by `shift`, with its error on the target's grid."""

    error: float
    shift: float
    sharpness: float
    values: Float[np.ndarray, "tokens k"]


@dataclass(frozen=True, eq=False)
class _Target:
    """f on a uniform grid of angles, the first of them 0."""

    values: Float[np.ndarray, "M k"]
    family: Family
    eps: float

    @property
    def size(self) -> float:
        """Largest |f| on the grid."""
        return float(np.max(np.abs(self.values)))

    def screen(
        self, tokens: int, shift: float, sharpness: Float[np.ndarray, " c"]
    ) -> tuple[Float[np.ndarray, " c"], Float[np.ndarray, "c tokens k"]]:
        """Error on the grid (infinite where the values are larger than rounding allows) and values, for each sharpness."""
        # no finer than these keys can follow
        every = self.values[:: max(1, len(self.values) // max(256, 2 ** (12 * tokens).bit_length()))]
        many, lam = len(every), sharpness[:, None]
        orders = np.fft.fftfreq(many, 1 / many).astype(int)
        residues, centred = orders % tokens, _centred(orders, tokens)
        bessel = ive(np.abs(orders), lam)
        mean = ive(0, lam)
        # sum_k E_k = N sum_i I_{iN} e^{iN(t - s)}, as far as the grid resolves it
        copies = np.arange(1, many // 2 // tokens + 1) * tokens
        waves = np.cos(np.multiply.outer(copies, 2 * np.pi * np.arange(many) / many - shift))
        below = self.family.denominators(tokens * (mean + 2 * ive(copies, lam) @ waves), lam)
        unit = tokens * mean if self.family.normalised else np.ones_like(mean)
        spectrum = np.fft.fft(every * (below[0] / unit)[..., None], axis=1) / many
        response = (bessel / mean) * np.exp(-1j * (orders - centred) * shift)
        cap = np.array([cap_on_values(tokens, s, 2, self.eps, self.size) for s in sharpness])
        power = _folded(np.abs(response[..., None]) ** 2, tokens) + (0.1 * self.eps / cap[:, None, None]) ** 2
        amplitudes = _folded(np.conj(response)[..., None] * spectrum, tokens) / power
        above = np.fft.ifft(response[..., None] * amplitudes[:, residues], axis=1).real * many
        outputs = [above * (unit / d)[..., None] for d in below[self.family.checked]]
        error = np.max([np.abs(g - every).max(axis=(1, 2)) for g in outputs], axis=0)
        turned = amplitudes * np.exp(1j * _centred(np.arange(tokens), tokens) * shift)[:, None]
        values = np.fft.ifft(turned, axis=1).real * tokens
        error = np.where(np.abs(values).max(axis=(1, 2)) <= 2 * cap, error, np.inf)
        return error, values * (unit / (tokens * mean))[..., None]


def _folded(spectra: np.ndarray, tokens: int) -> np.ndarray:
    """Sums over all orders of the same residue modulo N. spectra: (c, M, k) in NumPy's order, M even -> (c, N, k)."""
    candidates, many, outputs = spectra.shape
    padded = np.zeros((candidates, -(-many // tokens) * tokens, outputs), spectra.dtype)
    padded[:, :many] = np.fft.fftshift(spectra, axes=1)
    sums = padded.reshape(candidates, -1, tokens, outputs).sum(axis=1)
    # the first column holds the residue of order -M/2
    return np.roll(sums, -(many // 2) % tokens, axis=1)


def _centred(orders: np.ndarray, tokens: int) -> np.ndarray:
    """The representative -N/2 <= r < N/2 of each order's residue modulo N."""
    return (orders + tokens // 2) % tokens - tokens // 2


def circle_heads(
    evaluate: Evaluate, family: Family, eps: float, *, max_tokens: int, deadline: float | None = None
) -> Iterator[SmoothHead]:
    """Heads on equispaced keys of S^1 whose sampled error is at most 0.9 eps, shortest first; a longer one of half the error follows.

    evaluate: (P, 2) points of the circle -> (P, k). Raises DeadlinePassed where `deadline` (of time.monotonic()) passes.
    """
    target = _sampled(evaluate, family, eps)
    longest = min(max_tokens, len(target.values) // 3)
    tokens = 1
    for goal in (ERROR_SHARE, ERROR_SHARE / 2):
        head = None
        tokens = _hopeless(target, tokens, longest, goal, deadline)
        while head is None:
            if tokens > longest:
                return
            head = _head_of_length(evaluate, target, tokens, goal, deadline)
            tokens += max(1, tokens // _PRECISION)
        yield head


def _hopeless(target: _Target, tokens: int, longest: int, goal: float, deadline: float | None) -> int:
    """Where to start: `tokens`, or the last of ever larger steps up to which nothing came within a large factor of the goal."""
    step = max(tokens, _FEW)
    while step <= longest and _screened(target, step, goal, deadline)[0].error > _HOPELESS * goal * target.eps:
        tokens = step
        step = int(1.15 * step)
    return tokens


def _sampled(evaluate: Evaluate, family: Family, eps: float) -> _Target:
    """f on a grid so fine that its upper half of harmonics is negligible, or on the finest."""
    values = np.empty((0, 1))
    for many in _SAMPLES:
        values = np.asarray(evaluate(circle_points(equispaced_angles(many))), dtype=np.float64)
        harmonics = np.abs(np.fft.fft(values, axis=0)) / many
        if harmonics[many // 4 : -many // 4].sum(axis=0).max() <= 0.01 * eps:
            break
    return _Target(values, family, eps)


def _screened(target: _Target, tokens: int, goal: float, deadline: float | None) -> list[_Candidate]:
    """The best sharpness for each rotation, the smallest error first."""
    sharpness = target.family.sharpnesses(target.size, goal * target.eps, _SHARPEST)
    sharpness = sharpness[sharpness * (1 - np.cos(np.pi / tokens)) <= _OVERLAP]
    if len(sharpness) == 0:
        return [_Candidate(np.inf, 0.0, 0.0, np.zeros((tokens, 1)))]
    check_deadline(deadline, 3e3 * len(sharpness) * len(target.values))
    found = []
    for shift in _shifts(target, tokens):
        scanned = sharpness
        for spread in _SPREADS:
            error, values = target.screen(tokens, shift, scanned)
            best = _choice(error, values, goal * target.eps)
            if spread == _SPREADS[-1] or not goal * target.eps < error[best] <= _NEAR * goal * target.eps:
                break
            # the error, as a function of the sharpness, has narrow valleys where its leading term changes sign
            scanned = scanned[best] * np.linspace(1 - spread, 1 + spread, 13)
        found.append(_Candidate(float(error[best]), shift, float(scanned[best]), values[best]))
    return sorted(found, key=lambda one: one.error)


def _head_of_length(
    evaluate: Evaluate, target: _Target, tokens: int, goal: float, deadline: float | None
) -> SmoothHead | None:
    """The best of all sharpnesses and rotations if it is within goal * eps; where it nearly is, refined on samples first."""
    for candidate in _screened(target, tokens, goal, deadline)[:2]:
        if candidate.error > _GAIN * goal * target.eps:
            break
        head = _checked(evaluate, target, tokens, candidate)
        if head.within(target.eps, goal):
            return head
        check_deadline(deadline, 30.0 * _ROUNDS * tokens**3)
        points = circle_points(equispaced_angles(max(10 * tokens, 240), candidate.shift))
        values = fit_values(
            points,
            np.asarray(evaluate(points), dtype=np.float64),
            circle_points(equispaced_angles(tokens, candidate.shift)),
            candidate.sharpness,
            target.family,
            goal=0.98 * goal * target.eps,
            cap=cap_on_values(tokens, candidate.sharpness, 2, target.eps, target.size),
            rounds=_ROUNDS,
        )
        head = _checked(evaluate, target, tokens, replace(candidate, values=values))
        if head.within(target.eps, goal):
            return head
    return None


def _choice(error: np.ndarray, values: np.ndarray, goal: float) -> int:
    """Among heads that will do, the one of the smallest values; else the one of the smallest error."""
    good = np.flatnonzero(error <= 0.95 * goal)
    return int(good[np.argmin(np.abs(values[good]).max(axis=(1, 2)))] if len(good) else np.argmin(error))


def _shifts(target: _Target, tokens: int) -> list[float]:
    """Rotations of the keys worth trying: multiples of a quarter step, which fit mirror symmetries about the axes, and for even N the
    one that puts keys on the extremes of harmonic N/2, of which equispaced keys see one phase only."""
    step = 2 * np.pi / tokens
    shifts = [0.0, step / 2, step / 4, 3 * step / 4]
    if tokens % 2 == 0:
        phase = -np.angle(np.fft.fft(target.values, axis=0)[tokens // 2]) / (tokens // 2)
        shifts += [float(p % step) for p in phase]
    return shifts


def _checked(evaluate: Evaluate, target: _Target, tokens: int, candidate: _Candidate) -> SmoothHead:
    """With the error on a grid that has nothing in common with the ones fitted on."""
    keys = circle_points(equispaced_angles(tokens, candidate.shift))
    points = circle_points(equispaced_angles(max(_CHECKS, 40 * tokens) + 1, 0.1))
    exact = np.asarray(evaluate(points), dtype=np.float64)
    error, size = sup_error(points, exact, keys, candidate.sharpness, candidate.values, target.family)
    return SmoothHead(keys, candidate.sharpness, candidate.values, float(error.max()), size)
