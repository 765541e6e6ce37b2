"""Pictures of the first three steps: derived curves solid and named, sampled runs as points with error bars. Drawn from a saved experiment, nothing is run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from constructions.plots.style import BLACK, BLUE, CYCLE, GREY, RED, dressed, legend, new_axes, two_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from constructions.oymak2023.descent.experiment import DescentExperiment

__all__ = ["draw_alignment", "draw_rate", "draw_success", "draw_trajectory", "draw_zeta"]

_STEPS = ("start: w = q = 0", "head $w_1$", "prompt $q_1$", "head $w_2$")


def draw_alignment(found: DescentExperiment) -> Figure:
    """Alignment of q_1 and q* against n/d, one colour for each d."""
    ax, c = new_axes(), found.configuration
    for colour, d, n, values in zip(CYCLE, c.dimensions, found.samples, found.alignment, strict=False):
        data = c.data(d, c.zeta)
        fine = np.geomspace(n[0], n[-1], 60)
        ax.plot(
            fine / d,
            [c.predicted_alignment(data, m) for m in fine],
            "-",
            color=colour,
            lw=1.5,
            label=f"d = {d}, derived",
        )
        ax.errorbar(n / d, values.mean(axis=1), _error(values), fmt="o", color=colour, ms=4, capsize=2)
    ax.errorbar([], [], [], fmt="o", color=BLACK, ms=4, capsize=2, label=f"mean of {c.seeds} runs, 95 % (sampled)")
    ax.axhline(np.sqrt(0.5), color=GREY, lw=1, label="success: 45 degrees")
    ax.set_xscale("log")
    ax.set_xticks(c.ratios, [f"{r:g}" for r in c.ratios])
    ax.minorticks_off()
    ax.set_xlabel("samples per step and dimension, n/d")
    ax.set_ylabel("|cos| of the angle between q₁ and q*")
    legend(ax)
    two_lines(ax, "The first prompt turns to q* when n/d is large enough", f"ζ = {c.zeta:g}, T = {c.tokens}, noise {c.noise:g}, {c.loss} loss")  # fmt: skip
    dressed(ax, True)
    return ax.figure  # pyright: ignore[reportReturnType]


def draw_rate(found: DescentExperiment) -> Figure:
    """The sample size of success against d, with the fitted exponent."""
    ax, c, rate = new_axes(), found.configuration, found.rate
    d, stars = np.array(c.dimensions, dtype=float), np.array(rate.crossings)
    ax.plot(
        d,
        found.predicted_rate_samples,
        "-",
        color=BLUE,
        lw=2,
        label=f"derived n* (exponent {found.predicted_exponent:.3f} at these d, 1 in the limit)",
    )
    low, high = rate.interval
    ax.plot(
        d,
        rate.constant * d**rate.exponent,
        "--",
        color=RED,
        lw=1.5,
        label=f"fit: exponent {rate.exponent:.3f}, 95 % interval [{low:.3f}, {high:.3f}] (sampled)",
    )
    bars = np.abs(np.array(rate.crossing_intervals).T - stars)
    ax.errorbar(d, stars, bars, fmt="o", color=BLACK, ms=5, capsize=3, label="measured n*, 95 % bootstrap (sampled)")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.set_xticks(d, [f"{v:g}" for v in d])
    ax.set_xlabel("dimension d")
    ax.set_ylabel("samples per step for 45 degrees, n*")
    legend(ax)
    two_lines(
        ax,
        "The sample size of success grows in proportion to d",
        f"ζ = {c.zeta:g}, T = {c.tokens}, {c.seeds} runs per point",
    )
    dressed(ax, True)
    return ax.figure  # pyright: ignore[reportReturnType]


def draw_zeta(found: DescentExperiment) -> Figure:
    """The sample size of success against the share of relevant tokens."""
    ax, c, rate = new_axes(), found.configuration, found.zeta_rate
    zeta, stars = np.array(c.zetas), np.array(rate.crossings)
    ax.plot(zeta, found.predicted_zeta_samples, "-", color=BLUE, lw=2, label="derived n*")
    bars = np.abs(np.array(rate.crossing_intervals).T - stars)
    ax.errorbar(zeta, stars, bars, fmt="o", color=BLACK, ms=5, capsize=3, label="measured n*, 95 % bootstrap (sampled)")
    ax.plot(zeta, stars[0] * (zeta / zeta[0]) ** -2, ":", color=GREY, lw=1.5, label="ζ⁻² through the first point")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xticks(zeta, [f"{z:g}" for z in zeta])
    levels = [n for n in (10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if min(stars) / 2 < n < 2 * max(stars)]
    ax.set_yticks(levels, [str(n) for n in levels])
    ax.minorticks_off()
    ax.set_xlabel("share of relevant tokens ζ")
    ax.set_ylabel("samples per step for 45 degrees, n*")
    legend(ax)
    two_lines(
        ax, "Few relevant tokens cost many samples", f"d = {c.dimension}, T = {c.zeta_tokens}, {c.seeds} runs per point"
    )
    dressed(ax, True)
    return ax.figure  # pyright: ignore[reportReturnType]


def draw_success(found: DescentExperiment) -> Figure:
    """Phase diagram: share of runs within 45 degrees over (d, n), with the derived boundary."""
    ax, c = new_axes(), found.configuration
    d = np.array(c.dimensions, dtype=float)
    success = (found.alignment >= np.sqrt(0.5)).mean(axis=2)
    dots = ax.scatter(
        np.repeat(d, len(c.ratios)),
        found.samples.ravel(),
        c=success.ravel(),
        s=130,
        cmap="cividis",
        vmin=0,
        vmax=1,
        edgecolor=BLACK,
        lw=0.5,
        zorder=3,
    )
    ax.plot(d, found.predicted_rate_samples, "-", color=BLUE, lw=2, label="derived n*")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.set_xticks(d, [f"{v:g}" for v in d])
    ax.figure.colorbar(dots, ax=ax, label=f"share of {c.seeds} runs within 45 degrees (sampled)")  # pyright: ignore[reportAttributeAccessIssue]
    ax.set_xlabel("dimension d")
    ax.set_ylabel("samples per step n")
    legend(ax, loc="upper left")
    two_lines(ax, "Where three steps succeed", f"ζ = {c.zeta:g}, T = {c.tokens}, noise {c.noise:g}")
    dressed(ax, True)
    return ax.figure  # pyright: ignore[reportReturnType]


def draw_trajectory(found: DescentExperiment) -> Figure:
    """Test error after each of the three steps, for several n, and with infinitely many samples."""
    ax, c = new_axes(), found.configuration
    x = np.arange(4)
    largest = c.dimensions[-1]
    for colour, n, values in zip(CYCLE, found.samples[-1], found.trajectory.transpose(1, 0, 2), strict=False):
        ax.errorbar(
            x,
            values.mean(axis=1),
            _error(values),
            fmt="o--",
            color=colour,
            ms=4,
            lw=1,
            capsize=2,
            label=f"n = {n} per step: mean of {c.seeds} runs, 95 % (sampled)",
        )
    ax.plot(x, found.trajectory_limit, "-", color=BLACK, lw=2, label="infinitely many samples (steps in closed form)")
    ax.set_xticks(x, _STEPS)
    ax.set_ylabel("test error")
    ax.set_ylim(0, 0.85)
    legend(ax, loc="upper right")
    two_lines(
        ax,
        "Three gradient steps from zero",
        f"d = {largest}, ζ = {c.zeta:g}, T = {c.tokens}, noise {c.noise:g}, {c.loss} loss, fresh samples for each step",
    )
    dressed(ax, True)
    return ax.figure  # pyright: ignore[reportReturnType]


def _error(values: np.ndarray) -> np.ndarray:
    """Half width of the 95 % interval of means over the last axis."""
    return 1.96 * values.std(axis=-1, ddof=1) / np.sqrt(values.shape[-1])
