"""Pictures of prefixes in a pretrained model: what is proved is drawn solid, what is measured as points or dashed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from constructions.plots.style import BLACK, BLUE, CYCLE, GREY, ORANGE, RED, dressed, legend, new_axes, two_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from constructions.export.warm_start import WarmStart
    from constructions.pretrained.posterior import PassReport
    from constructions.pretrained.steering import SteeringReport

__all__ = ["draw_bounds_against_errors", "draw_pass", "draw_steering", "draw_warm_start"]


def draw_pass(report: PassReport, site: int = 0, head: int = 0) -> Figure:
    """Token by token: the proved bound of a head's error in this pass, and the error that its recorded output has."""
    s = report.sites[site]
    ax = new_axes()
    x = np.arange(len(s.bounds.bound))
    ax.plot(x, s.bounds.bound[:, head], "-", color=BLUE, lw=1.2, label="bound, rounding of float32 included (proved)")
    ax.plot(x, s.bounds.measured[:, head], ".", color=ORANGE, ms=3, label="error of the recorded output (measured)")
    ax.axhline(
        s.compiled.eps, color=GREY, lw=1.2, ls="--", label=f"eps = {s.compiled.eps:g}, aimed at on the calibration text"
    )
    ax.set_yscale("log")
    ax.margins(y=0.3)  # room for the legend
    ax.set_xlabel("token")
    ax.set_ylabel("largest error of a coordinate")
    legend(ax)
    two_lines(ax, f"One pass: layer {s.compiled.layer}, group {s.compiled.group}, head {head} of the group computes {s.compiled.expression}", f"{len(s.compiled.keys)} prefix tokens, {len(x)} text tokens")  # fmt: skip
    dressed(ax, True)
    return ax.figure  # pyright: ignore[reportReturnType]


def draw_bounds_against_errors(reports: Sequence[PassReport]) -> Figure:
    """Bound against measured error for every token and head; nothing may lie under the diagonal."""
    from constructions.pretrained.posterior import gathered

    ax = new_axes()
    low, high, count = np.inf, 0.0, 0
    for i, (colour, site) in enumerate(zip(CYCLE * 9, reports[0].sites, strict=False)):
        measured, bound = (gathered(reports, i, name).ravel() for name in ("measured", "bound"))
        ax.plot(measured, bound, ".", color=colour, ms=2, alpha=0.4, rasterized=True, label=f"layer {site.compiled.layer}, group {site.compiled.group}")  # fmt: skip
        low, high, count = (
            min(low, float(measured[measured > 0].min())),
            max(high, float(bound.max())),
            count + bound.size,
        )
    ax.plot([low, high], [low, high], "-", color=BLACK, lw=1, label="bound = error: nothing may be below (proved)")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("error of the recorded float32 output (measured)")
    ax.set_ylabel("bound from the arrays of the pass (proved)")
    legend(ax, markerscale=4)
    two_lines(ax, f"{count} bounds (tokens x heads) on {sum(len(r.ids) for r in reports)} tokens", "")
    dressed(ax, True)
    return ax.figure  # pyright: ignore[reportReturnType]


def draw_steering(reports: Sequence[tuple[float, SteeringReport]]) -> Figure:
    """Pairs (size of the write, report): what was intended and what it did beside that, on one axis of sizes. All measured."""
    ax = new_axes()
    sizes = [size for size, _ in reports]
    ax.plot(sizes, [r.after for _, r in reports], "o--", color=BLUE, label="probability of the target at triggers")
    ax.plot(
        sizes,
        [r.after_one.mean for _, r in reports],
        "s--",
        color=RED,
        label="collateral: mean KL after a trigger (nats)",
    )
    ax.plot(
        sizes,
        [r.before_any.mean for _, r in reports],
        "^--",
        color=ORANGE,
        label="collateral: mean KL before any trigger (nats)",
    )
    ax.plot(
        sizes,
        [r.neutral.mean for _, r in reports],
        "v--",
        color=GREY,
        label="of which the mean output instead of the group's own",
    )
    ax.set_yscale("log")
    ax.set_xlabel("size of the write")
    ax.set_ylabel("probability, or nats")
    legend(ax)
    two_lines(
        ax, "Conditional steering: intended effect and collateral", "measured on held-out text, nothing of it proved"
    )
    dressed(ax, True)
    return ax.figure  # pyright: ignore[reportReturnType]


def draw_warm_start(found: WarmStart, ax: Axes | None = None) -> Figure:
    """Test losses of each kind of start at its learning rate: median over the seeds and, shaded, their range. ax: axes to draw on; None: a new figure."""
    ax = new_axes() if ax is None else ax
    seeds = len(found.of(found.starts[0]))
    for start in found.starts:
        curves = found.of(start)
        losses = np.stack([c.losses for c in curves])
        colour = {"compiled": BLUE, "random": RED, "scaled": ORANGE}[start]
        label = f"{start} start, rate {curves[0].rate:g}"
        ax.fill_between(curves[0].steps, losses.min(axis=0), losses.max(axis=0), color=colour, alpha=0.2, lw=0)
        ax.plot(curves[0].steps, np.median(losses, axis=0), "--", color=colour, lw=1.6, label=label)
    if "compiled" in found.starts:
        ax.axhline(found.before, color=GREY, lw=1, ls=":", label="compiled, before training")
    ax.set_yscale("log")
    ax.set_xlabel("step")
    ax.set_ylabel("mean squared error (sampled)")
    legend(ax)
    two_lines(ax, f"{found.tokens} tokens trained towards {found.target}", f"known part: {found.known}; median and range of {seeds} seeds; measured")  # fmt: skip
    dressed(ax, True)
    return ax.figure  # pyright: ignore[reportReturnType]
