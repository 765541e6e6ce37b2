"""Target and model, one over the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from constructions.captions import names_of
from constructions.plots.style import BLACK, CYCLE, GREY, SKY, chosen_output, legend, titled
from constructions.plots.tokens import peaks
from constructions.sampled import Sampled, grid_2d, line, pictured, sampled
from verify import LipschitzTarget

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from constructions.compiled import Compiled

__all__ = ["curves", "draw_fit", "token_ticks"]

_DOTS = 2000
"""Tokens above which their places would hide the map."""


def draw_fit(c: Compiled, ax: Axes, *, output: int = 0) -> None:
    """One variable: curves, and each token where it is attended to most. Two: the model as a map with the tokens on it. More: along
    the lines through the domain's centre."""
    chosen = chosen_output(c, output)
    if c.domain.dimension == 1:
        s = sampled(c, line(c, 0, 1001))
        recorded = c.target.points[:, 0] if isinstance(c.target, LipschitzTarget) else None
        curves(c, ax, s, s.points[:, 0], recorded)
        token_ticks(ax, peaks(c).points[:, 0], "token, where attended to most")
        ax.set_xlabel(names_of(c)[0])
        legend(ax)
    elif c.domain.dimension == 2:
        _map(c, ax, chosen)
    else:
        _slices(c, ax, chosen)
    titled(ax, c, "Fit")


def curves(
    c: Compiled,
    ax: Axes,
    s: Sampled,
    x: Float[np.ndarray, " m"],
    recorded: Float[np.ndarray, " samples"] | None,
) -> None:
    """Target and model against x, one colour for each output. recorded: where the values of a black box are known, on the same axis."""
    many = s.model.shape[1] > 1
    for i in range(s.model.shape[1]):
        colour, tail = CYCLE[i % len(CYCLE)], f" {i}" if many else ""
        if isinstance(c.target, LipschitzTarget) and recorded is not None:
            ax.fill_between(
                x, s.low[:, i], s.high[:, i], color=colour, alpha=0.25, lw=0, label=f"where the target may be{tail}"
            )
            few: Any = {"marker": "o", "ms": 3.5} if len(c.target.points) <= 100 else {"marker": ",", "ms": 1}
            ax.plot(recorded, c.target.values[:, i], ls="", color=colour, label=f"recorded values{tail}", **few)
        else:
            ax.plot(
                x,
                s.low[:, i],
                color=SKY if not many else colour,
                lw=6,
                alpha=0.9 if not many else 0.35,
                solid_capstyle="butt",
                label=f"target f{tail}",
            )
        ax.plot(x, s.model[:, i], color=BLACK if not many else colour, lw=1.2, label=f"model g{tail}")
    ax.set_ylabel("value")
    ax.margins(x=0.02, y=0.1)


def token_ticks(ax: Axes, where: Float[np.ndarray, " tokens"], label: str) -> None:
    """A tick at the foot of the axes for every token."""
    ax.plot(
        where,
        np.full(len(where), 0.015),
        "|",
        color=GREY,
        ms=9,
        mew=1.2,
        transform=ax.get_xaxis_transform(),
        label=label,
    )


def _map(c: Compiled, ax: Axes, output: int) -> None:
    x, y, points = grid_2d(c, 120 if c.length <= 4000 else 70)
    image = sampled(c, points).model[:, output].reshape(len(y), len(x))
    (x0, y0), (x1, y1) = pictured(c).lo, pictured(c).hi
    shown = ax.imshow(
        image, origin="lower", extent=(x0, x1, y0, y1), aspect="auto", cmap="cividis", interpolation="bilinear"
    )
    ax.contour(x, y, image, levels=10, colors="white", linewidths=0.5, alpha=0.6)
    if c.length <= _DOTS:
        where = peaks(c).points
        size = 14 if c.length <= 400 else 4
        ax.scatter(where[:, 0], where[:, 1], s=size, facecolor="white", edgecolor=BLACK, linewidth=0.6, clip_on=False, zorder=3,
                   label=f"the {c.length} tokens, where attended to most")  # fmt: skip
    name = f"model g, output {output}" if c.values.shape[1] > 1 else "model g"
    ax.figure.colorbar(shown, ax=ax, label=name)
    ax.set_xlabel(names_of(c)[0])
    ax.set_ylabel(names_of(c)[1])
    ax.set_xlim(x0, x1)
    ax.set_ylim(y0, y1)
    if c.length <= _DOTS:
        legend(ax, loc="upper right")


def _slices(c: Compiled, ax: Axes, output: int) -> None:
    lo, hi = pictured(c).bounds
    for axis, name in enumerate(names_of(c)):
        s = sampled(c, line(c, axis, 301))
        t = (s.points[:, axis] - lo[axis]) / (hi[axis] - lo[axis])
        colour = CYCLE[axis % len(CYCLE)]
        if isinstance(c.target, LipschitzTarget):
            ax.fill_between(t, s.low[:, output], s.high[:, output], color=colour, alpha=0.15, lw=0)
        else:
            ax.plot(t, s.low[:, output], color=colour, lw=5, alpha=0.3)
        ax.plot(t, s.model[:, output], color=colour, lw=1.3, label=f"along {name}")
    ax.plot(
        [],
        [],
        color=GREY,
        lw=5,
        alpha=0.4,
        label="target f" if not isinstance(c.target, LipschitzTarget) else "where the target may be",
    )
    ax.plot([], [], color=GREY, lw=1.3, label="model g")
    ax.set_xlabel("position between the ends of the coordinate, the others at the centre")
    ax.set_ylabel(f"value of output {output}" if c.values.shape[1] > 1 else "value")
    legend(ax)
