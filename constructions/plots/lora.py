"""Pictures of prompts against low-rank updates: what is proved is drawn solid, what training found as points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from constructions.captions import downward, upward
from constructions.plots.style import BLACK, BLUE, CYCLE, GREY, ORANGE, RED, dressed, legend, new_axes, two_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from constructions.wang2023.lora.imitation import Imitation
    from constructions.wang2023.lora.table import ParametersRow

__all__ = ["draw_floors", "draw_imitations", "draw_parameters"]


def draw_floors(rows: Sequence[ParametersRow]) -> Figure:
    """Error against prompt tokens, one colour for each n: the certified floor of every prompt, the prompts built and the prompts trained."""
    ax = new_axes()
    for colour, row in zip(CYCLE * len(rows), rows, strict=False):
        ax.plot([f.tokens for f in row.floors], [f.floor for f in row.floors], "-", color=colour, lw=2,
                label=f"n = {row.n}: no prompt has a smaller error (proved)")  # fmt: skip
        shown = [(f.tokens, f.attained) for f in row.floors if f.tokens > 0 and np.isfinite(f.attained)]
        ax.plot([t for t, _ in shown], [e for _, e in shown], "o", color=colour, ms=7, mfc="none")
        ax.plot([t for t, _ in row.tuned], [e for _, e in row.tuned], "x", color=colour, ms=5)
    ax.plot([], [], "o", color=BLACK, ms=7, mfc="none", label="error of a prompt built (proved)")
    if any(row.tuned for row in rows):
        ax.plot([], [], "x", color=BLACK, ms=5, label="error of the best prompt trained (sampled)")
    ax.axhline(
        0.0, color=GREY, lw=1.5, label=f"rank-1 update: error ≤ {upward(max(r.update_error for r in rows), 2)} (proved)"
    )
    ax.set_ylim(top=1.75 * max(f.floor for row in rows for f in row.floors))
    ax.set_xlabel("prompt tokens")
    ax.set_ylabel("largest error over the examples")
    legend(ax)
    two_lines(
        ax, f"No prompt of fewer than n tokens fits what a rank-1 update of the {rows[0].dataset.update.to} does", ""
    )
    dressed(ax, True)
    return ax.figure  # pyright: ignore[reportReturnType]


def draw_parameters(rows: Sequence[ParametersRow]) -> Figure:
    """Trainable numbers against the number of examples: the update, and a prompt long enough to have floor 0."""
    ax = new_axes()
    ns = [row.n for row in rows]
    enough = [row.prompt_numbers(row.enough_tokens) for row in rows]
    ax.fill_between(ns, 1, [e - row.d for e, row in zip(enough, rows, strict=True)], color=ORANGE, alpha=0.18, lw=0)
    ax.plot(ns, enough, "-s", color=RED, lw=2, ms=5, label="prompt: the fewest tokens with floor 0 (proved)")
    ax.plot(ns, [row.update_numbers for row in rows], "-o", color=BLUE, lw=2, ms=5,
            label=f"rank-1 update: error ≤ {upward(max(r.update_error for r in rows), 2)} (proved)")  # fmt: skip
    for row in rows:
        short = max((f for f in row.floors if f.floor > 0), key=lambda f: f.tokens, default=None)
        if short is not None:
            ax.annotate(f"one token less: ≥ {downward(short.floor, 2)}", (row.n, row.prompt_numbers(row.enough_tokens)), (-4, 5),
                        textcoords="offset points", fontsize=8, color=BLACK, ha="right", va="bottom")  # fmt: skip
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(ns, [str(n) for n in ns])
    ax.set_xlabel("examples n")
    ax.set_ylabel("trainable numbers")
    ax.set_xlim(min(ns) / 2.8, max(ns) * 1.3)
    ax.set_ylim(top=12 * max(enough))
    legend(ax, loc="upper left")
    two_lines(
        ax,
        "Numbers to train: a rank-1 update against prompts",
        "shaded: prompts with an error above 0, whatever their keys and values (proved)",
    )
    dressed(ax, True)
    return ax.figure  # pyright: ignore[reportReturnType]


def draw_imitations(found: Sequence[Imitation]) -> Figure:
    """The proved error of one token against the size of its value, on a dataset that an update of the values generates."""
    ax = new_axes()
    ax.plot(
        [i.size for i in found],
        [i.error for i in found],
        "-o",
        color=BLUE,
        lw=2,
        ms=5,
        label="error of the token (proved)",
    )
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("length of the token's value")
    ax.set_ylabel("largest error over the examples")
    legend(ax)
    two_lines(ax, "An update of the values has no lasting floor: one token imitates it as closely as wanted", "")
    dressed(ax, True)
    return ax.figure  # pyright: ignore[reportReturnType]
