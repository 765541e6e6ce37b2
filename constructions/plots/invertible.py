"""Pictures of invertible transformers: Lipschitz constants against the radius, and the blocks of a model before and after rescaling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from constructions.plots.style import BLACK, BLUE, GREEN, GREY, RED, dressed, legend, new_axes, two_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from constructions.wang2023.invertible.slopes import LipschitzCurve
    from constructions.wang2023.invertible.verdict import Invertibility

__all__ = ["draw_blocks", "draw_lipschitz"]


def draw_lipschitz(curve: LipschitzCurve) -> Figure:
    """A block's proved Lipschitz bound against the radius of the ball (solid), the largest slopes found (points, sampled), and the line 1."""
    ax = new_axes()
    ax.plot(curve.radii, curve.bounds, "-", color=BLUE, lw=2, label="Lipschitz constant at most (proved)")
    ax.plot(curve.radii, curve.slopes, "o", color=RED, ms=5, label="largest slope found (sampled)")
    ax.axhline(1.0, color=GREY, lw=1.2, ls=":", label="1: below it the residual block is invertible")
    certain = curve.radii[curve.bounds < 1]
    if len(certain):
        ax.axvspan(0.0 if ax.get_xscale() == "linear" else curve.radii[0], certain.max(), color=GREEN, alpha=0.12, lw=0)
        ax.annotate(
            "proved invertible",
            (certain.max(), 1.0),
            (-4, 4),
            textcoords="offset points",
            fontsize=8.5,
            color=BLACK,
            ha="right",
            va="bottom",
        )
    ax.set_xlim(0.0, float(curve.radii.max()))
    ax.set_yscale("log")
    ax.set_xlabel("radius of the ball of tokens")
    ax.set_ylabel("Lipschitz constant of what the block adds")
    legend(ax, loc="upper left")
    ax.set_ylim(top=4 * float(np.max(curve.bounds)))
    two_lines(
        ax,
        f"{curve.block.name.capitalize()} block: proved bound and slopes found",
        f"bound at most {curve.factor:.3g} times the slope found",
    )
    dressed(ax, True)
    return ax.figure  # pyright: ignore[reportReturnType]


def draw_blocks(verdicts: Sequence[tuple[str, Invertibility]]) -> Figure:
    """Proved Lipschitz constants block by block, for models with the labels given: all below 1 means invertible."""
    ax = new_axes()
    width = 0.8 / max(len(verdicts), 1)
    most = max(len(v.model.blocks) for _, v in verdicts)
    for k, ((label, verdict), colour) in enumerate(
        zip(verdicts, (RED, BLUE, GREEN, BLACK) * len(verdicts), strict=False)
    ):
        places = np.arange(len(verdict.bounds)) + (k - (len(verdicts) - 1) / 2) * width
        words = "proved invertible" if verdict.proved else "not decided"
        ax.bar(places, [b.lipschitz for b in verdict.bounds], width, color=colour, label=f"{label}: {words}")
    ax.axhline(1.0, color=GREY, lw=1.2, ls=":")
    longest = max(verdicts, key=lambda pair: len(pair[1].bounds))[1]
    ax.set_xticks(np.arange(most), [longest.model.block_name(k).replace(" (", "\n(") for k in range(most)])
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * (high / low) ** 0.25)
    ax.set_ylabel("Lipschitz constant at most (proved)")
    legend(ax, loc="upper left")
    two_lines(ax, "Invertible if every block's Lipschitz constant is below 1", "")
    dressed(ax, True)
    return ax.figure  # pyright: ignore[reportReturnType]
