"""Pictures of the known prompt: formulas solid and named, Monte Carlo as points with 99 % error bars. Drawn from a saved experiment, nothing is run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import t as student

from constructions.plots.style import BLACK, BLUE, GREEN, GREY, ORANGE, RED, dressed, legend, new_axes, two_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from constructions.oymak2023.asymptotics.experiment import AsymptoticsExperiment
    from constructions.oymak2023.asymptotics.temperature import TemperatureScan

__all__ = ["draw_agreement", "draw_temperature"]


def draw_temperature(scan: TemperatureScan) -> Figure:
    """Test error against temperature, with the optimum predicted and the one found."""
    ax = new_axes()
    errors, seeds = scan.errors, scan.errors.shape[1]
    band = student.ppf(0.995, seeds - 1) * errors.std(axis=1, ddof=1) / np.sqrt(seeds)
    ax.axvspan(*scan.interval, color=ORANGE, alpha=0.25, lw=0, label="optimum found: 99 % bootstrap interval (sampled)")
    ax.plot(scan.taus, scan.formula, "-", color=BLUE, lw=2, label="formula (law of the weights at this T)")
    good = scan.closed_reliable.astype(bool)
    ax.plot(scan.taus, np.where(good, scan.closed, np.nan), "-", color=GREEN, lw=1.5, label="closed form (large T)")
    if not good.all():
        from_here = max(int(np.argmin(good)) - 1, 0)
        ax.plot(
            scan.taus[from_here:],
            scan.closed[from_here:],
            ":",
            color=GREEN,
            lw=1.5,
            label="closed form, flagged as out of its range",
        )
    ax.errorbar(
        scan.taus,
        errors.mean(axis=1),
        band,
        fmt="o",
        color=BLACK,
        ms=4,
        capsize=2,
        label=f"Monte Carlo, {seeds} training sets, 99 % (sampled)",
    )
    ax.axvline(scan.predicted, color=BLUE, lw=1, label=f"optimum of the formula, τ = {scan.predicted:.3f}")
    ax.axvline(
        scan.predicted_closed, color=GREEN, lw=1, label=f"optimum of the closed form, τ = {scan.predicted_closed:.3f}"
    )
    if scan.taus[0] <= scan.peak <= scan.taus[-1]:
        ax.axvline(scan.peak, color=GREY, lw=1, label=f"most mass on relevant tokens, τ = {scan.peak:.3f}")
    ax.set_ylim(top=1.35 * float(np.maximum(scan.closed, errors.mean(axis=1)).max()) - 0.35 * float(scan.formula.min()))
    ax.set_xlabel("temperature τ of the prompt q = τ q*")
    ax.set_ylabel("test error of the least-squares head")
    legend(ax)
    two_lines(
        ax,
        "Known prompt, unknown head: the best temperature, predicted and found",
        scan.description.strip("<").replace(">", ""),
    )
    dressed(ax, True)
    return ax.figure  # pyright: ignore[reportReturnType]


def draw_agreement(found: AsymptoticsExperiment) -> Figure:
    """Measured less predicted, in units of the 99 % band, setting by setting."""
    ax = new_axes()
    order = np.argsort(found.predicted)
    x = np.arange(found.settings)
    ax.axhspan(-1, 1, color=BLUE, alpha=0.12, lw=0, label="99 % band of the Monte Carlo mean")
    ax.axhline(0, color=BLUE, lw=1.5, label="formula (law of the weights, corrected for finite d)")
    ax.plot(
        x,
        ((found.measured - found.predicted) / found.band)[order],
        "o",
        color=BLACK,
        ms=4,
        label=f"Monte Carlo, {found.errors.shape[1]} training sets (sampled)",
    )
    closed = np.where(found.closed_reliable.astype(bool), (found.measured - found.closed) / found.band, np.nan)[order]
    shown = np.abs(closed) <= 3
    ax.plot(
        x[shown],
        closed[shown],
        "x",
        color=RED,
        ms=4,
        label="Monte Carlo less the closed form, where that claims to hold",
    )
    ax.set_ylim(-2.2, 3.6)
    ax.set_xticks(x[::3], [f"{found.predicted[order][k]:.3f}" for k in x[::3]], rotation=60, fontsize=7)
    ax.set_xlabel("settings, in the order of their predicted test error")
    ax.set_ylabel("(measured − predicted) / half width of the band")
    legend(ax, loc="upper left")
    c = found.configuration
    second = f"{found.settings_inside_band} of {found.settings} inside (expected {0.99 * found.settings:.1f}); d = {c.dimension}, T = {c.tokens}"
    two_lines(ax, "Test error for a known prompt: formula against Monte Carlo", second)
    dressed(ax, True)
    return ax.figure  # pyright: ignore[reportReturnType]
