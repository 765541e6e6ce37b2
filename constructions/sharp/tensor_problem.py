"""A target in normal form, the samples it is fitted and checked on, and the test that a head must pass."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from constructions.sharp.deadline import check_deadline
from constructions.sharp.tensor_head import Head, head_error, softmax_weights
from constructions.sharp.tensor_newton import Fit
from constructions.sharp.tensor_samples import (
    Box,
    Samples,
    Target,
    check_points,
    fit_points,
    sample,
    scattered_points,
    tensor_points,
)

__all__ = ["Candidate", "Problem", "accepted", "normal_form", "on_box", "rounding_estimate"]

_ACCEPT = 0.97  # largest sampled error proposed, in units of eps: the rest is for what lies between samples
_POINTS_PER_PARAMETER = 4.0
_RIDGE_FLOOR = 1e-14  # about the rounding of a Gram matrix
_UNIT = float(np.finfo(np.float64).eps) / 2


@dataclass(frozen=True, eq=False)
class Candidate:
    """A head on the reference cube that met eps on the check grid. error: sampled, rounding estimate included."""

    head: Head
    error: float
    grid: dict[str, object]
    fit: Fit | None = None


@dataclass(eq=False)
class Problem:
    """The target in normal form, its samples, the work done and when to stop. The one mutable thing here."""

    f: Target
    box: Box
    eps: float
    centre: Float[np.ndarray, " k"]
    scale: float
    metric: Float[np.ndarray, "n n"]
    deadline: float | None = None
    work: float = 0.0
    grids: dict[tuple[str, int], Samples] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return len(self.box.lo)

    @property
    def k(self) -> int:
        return len(self.centre)

    @property
    def goal(self) -> float:
        """eps in units of the normalised target."""
        return self.eps / self.scale

    def ridge(self, tokens: int) -> float:
        """Relative ridge of the values: far below what eps^2 notices; tiny (and dearer) only where that can pay."""
        floor = _RIDGE_FLOOR if tokens > 9 and self.goal > 1e-7 else 1e-26
        return float(np.clip(1e-4 * self.goal**2, floor, 1e-7))

    def samples(self, kind: str, points: np.ndarray) -> Samples:
        key = (kind, len(points))
        if key not in self.grids:
            check_deadline(self.deadline)
            raw = sample(self.f, self.box, points)
            self.grids[key] = Samples(points, (raw.values - self.centre) / self.scale)
        return self.grids[key]

    def fit_grid(self, tokens: int, density: float = 1.0) -> Samples:
        """Samples for fitting a head of that length: a few per free parameter."""
        count = density * _POINTS_PER_PARAMETER * tokens * (self.n + 1 + 1.0 / self.k)
        least = (0, 0, 15**2, 7**3, 5**4)[self.n] if self.n < 5 else 4**self.n
        return self.samples("fit", fit_points(self.n, int(min(max(count, density * least), 60_000))))

    def check_grid(self, tokens: int) -> Samples:
        """Samples to accept by: per axis at least 2.3 times as dense as the fit grid, and half as many scattered."""
        grid = check_points(self.n, self._check_size(tokens))
        return self.samples("check", np.concatenate([grid, scattered_points(self.n, len(grid) // 2)]))

    def check_spacing(self, tokens: int) -> float:
        """Mean distance of neighbours on an axis of the check grid."""
        return 2.0 / (self._check_size(tokens) ** (1.0 / self.n) - 1.0)

    def _check_size(self, tokens: int) -> int:
        per_axis = 2.3 * len(self.fit_grid(tokens).points) ** (1.0 / self.n) + 20.0
        return int(min(per_axis**self.n, 80_000, max(15_000, int(1e8) // tokens)))


def normal_form(f: Target, box: Box, eps: float, deadline: float | None = None) -> Problem | None:
    """Move and scale the target to sup norm 1 about its mid-range; None where a sample is not finite."""
    check_deadline(deadline)
    n = len(box.lo)
    probe = sample(f, box, fit_points(n, min(20_000, max(1000, 9**n))))
    if not np.all(np.isfinite(probe.values)):
        return None
    top, bottom = probe.values.max(axis=0), probe.values.min(axis=0)
    centre = 0.5 * top + 0.5 * bottom
    scale = float(np.max(0.5 * top - 0.5 * bottom))
    if not np.isfinite(scale):
        return None
    scale = scale if scale > 0.0 else 1.0
    return Problem(f, box, eps, centre, scale, _gradient_metric(probe, scale), deadline)


def _gradient_metric(probe: Samples, scale: float) -> Float[np.ndarray, "n n"]:
    """Mean outer product of the target's gradients on a tensor grid, made safe and scaled to determinant 1.

    Lattice cells round in this metric are short where f changes fast. Aspect ratios are kept below 8 (4 for n > 2).
    """
    points, n = probe.points, probe.points.shape[1]
    per_axis = round(len(points) ** (1.0 / n))
    axis = np.unique(np.round(points[:, -1], 12))
    tensor = probe.values.reshape([per_axis] * n + [-1]) / scale
    slopes = np.stack([np.gradient(tensor, axis, axis=i) for i in range(n)], axis=-1).reshape(-1, n)
    values, vectors = np.linalg.eigh(slopes.T @ slopes / len(slopes) + 1e-12 * np.eye(n))
    values = np.maximum(values, values.max() / (64.0 if n < 3 else 16.0))
    values /= np.exp(np.mean(np.log(values)))
    return (vectors * values) @ vectors.T


def on_box(problem: Problem, head: Head) -> Head:
    """The head in the target's own coordinates and units."""
    slopes = head.slopes / problem.box.radius
    return Head(slopes, head.biases - slopes @ problem.box.centre, problem.centre + problem.scale * head.values)


def rounding_estimate(problem: Problem, head: Head) -> float:
    """Estimate, in units of the normalised target, of what float64 evaluation on the box rounds.

    u max_x sum_j w_j |v_j - g| (2 + |a_j| |x| + |b_j|): a logit is rounded relative to the terms it is summed from.
    """
    points = check_points(problem.n, 1500)
    weights = softmax_weights(points, head.slopes, head.biases)
    actual = on_box(problem, head)
    logits = np.abs(problem.box.point(points)) @ np.abs(actual.slopes).T + np.abs(actual.biases)
    weights_logits, outputs, size = weights * (2.0 + logits), weights @ head.values, 0.0
    for c in range(problem.k):
        check_deadline(problem.deadline, 5.0 * weights.size)
        spread = np.abs(head.values[:, c] - outputs[:, c : c + 1])
        size = max(size, float(np.max(np.sum(weights_logits * spread, axis=1))))
    offset = float(np.abs(problem.centre).max()) / problem.scale
    return _UNIT * (size + 2.0 * offset)


def accepted(problem: Problem, head: Head, grid: dict[str, object], fit: Fit | None = None) -> Candidate | None:
    """The candidate, if its error on the check grid, rounding included, leaves the margin."""
    samples = problem.check_grid(head.length)
    if not np.all(np.isfinite(head.values)):
        return None
    head = head.recentred(check_points(problem.n, 1500))
    error = rounding_estimate(problem, head)
    if error < problem.goal:
        coarse, worst = head_error(head, samples, deadline=problem.deadline)
        error += coarse
        if error <= _ACCEPT * problem.goal:
            error += max(
                0.0, _local_error(problem, head, samples.points[worst], problem.check_spacing(head.length)) - coarse
            )
    return Candidate(head, error, grid, fit) if error <= _ACCEPT * problem.goal else None


def _local_error(problem: Problem, head: Head, peaks: np.ndarray, spacing: float) -> float:
    """Sampled sup error on small grids about the given points, then on smaller ones about the worst of those.

    Finds the peaks between the samples: first one grid spacing either way, then one of the finer spacing.
    """
    n = problem.n
    ticks = 9 if n == 2 else 5 if n == 3 else 3
    worst = 0.0
    for _ in range(2):
        offsets = tensor_points([np.linspace(-spacing, spacing, ticks)] * n)
        points = np.clip((peaks[:, None, :] + offsets).reshape(-1, n), -1.0, 1.0)
        raw = sample(problem.f, problem.box, points)
        error, order = head_error(
            head, Samples(points, (raw.values - problem.centre) / problem.scale), deadline=problem.deadline
        )
        worst, peaks, spacing = max(worst, error), points[order], 2.0 * spacing / (ticks - 1)
    return worst
