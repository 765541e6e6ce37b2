"""Two different things on one picture: the error measured at sample points, and the bound proved box by box."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from constructions.captions import names_of, upward
from constructions.plots.style import BLACK, BLUE, CYCLE, GREY, ORANGE, RED, legend, titled
from constructions.sampled import attends_to_data, grid_2d, line, pictured, sampled, shown_length
from verify import LipschitzTarget
from verify.prove import error_profile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from constructions.compiled import Compiled

__all__ = ["draw_error", "log_scale", "measured_name"]

_CONTOURS = 1000
"""Tokens above which contours of the measured error would be finer than the samples."""
_WORK = 400_000
"""Boxes times tokens of a picture, about half a second; cutting boxes may take five times as much."""


def draw_error(c: Compiled, ax: Axes, *, cells: int | None = None) -> None:
    """The proved bound per box (as many boxes per axis as `cells`), the measured error, and eps. Raises ValueError for cells < 1.

    In more than two dimensions, every axis gets its own pair: the largest over the other coordinates.
    """
    n = c.domain.dimension
    count = _affordable(c) if cells is None else cells
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 1:
        raise ValueError(f"cells = {cells!r}, expected a whole number of boxes per axis, at least 1")
    cuts = int(np.clip(np.log2(5 * _WORK / (int(count) ** n * c.length)), 0, 10))
    lo, hi, upper = error_profile(c.claim, cells=int(count), levels=cuts)
    if c.rechecked and c.certificate.proved:  # the bound that was proved for the whole domain holds on every box
        upper = np.minimum(upper, c.certificate.error_upper)
    (_steps if n == 1 else _map if n == 2 else _shadows)(c, ax, lo, hi, upper)
    titled(ax, c, "Error")


def _affordable(c: Compiled) -> int:
    """Boxes per axis: fewer for a long prefix, as a bound on a box takes time in proportion to the tokens."""
    n = c.domain.dimension
    boxes = np.clip(_WORK / c.length, 2**n, {1: 200, 2: 1600}.get(n, 256))
    return max(2, int(boxes ** (1 / n) + 1e-9))


def _bound_name(upper: np.ndarray) -> str:
    """Where no box has a bound of its own, what is drawn is the one of the whole domain."""
    return "proved bound per box" if len(np.unique(upper)) > 1 else "proved bound (whole domain)"


def measured_name(c: Compiled) -> str:
    """What a sampled error is."""
    where, length = "sampled", shown_length(c)
    if attends_to_data(c) and length > 1:
        more = f" of up to {c.claim.sequence_length}" if c.claim.sequence_length > length else ""
        where += f", in sequences of {length}{more}"
    kind = "worst case over the Lipschitz class" if isinstance(c.target, LipschitzTarget) else "measured"
    return f"{kind} ({where})"


def _steps(c: Compiled, ax: Axes, lo: np.ndarray, hi: np.ndarray, upper: np.ndarray) -> None:
    s = sampled(c, line(c, 0, 2001))
    finite = np.isfinite(upper)
    ax.stairs(
        np.where(finite, upper, np.nan),
        np.append(lo[:, 0], hi[-1, 0]),
        baseline=None,
        color=BLUE,
        lw=1.8,
        label=_bound_name(upper),
    )
    for a, b in zip(lo[~finite, 0], hi[~finite, 0], strict=True):
        ax.axvspan(a, b, color=RED, alpha=0.25, lw=0, label="no bound reached" if a == lo[~finite, 0][0] else None)
    positive = np.where(s.error > 0, s.error, np.nan)
    ax.plot(s.points[:, 0], positive, color=ORANGE, lw=1.0, label=measured_name(c))
    ax.axhline(c.eps, color=BLACK, lw=1.2, ls="--", label=f"eps = {c.eps:g}")
    log_scale(ax, np.concatenate([upper[finite], positive[np.isfinite(positive)], [c.eps]]), c.eps)
    ax.set_xlabel(names_of(c)[0])
    ax.set_ylabel("|g − f|" + (", largest over outputs" if c.values.shape[1] > 1 else ""))
    ax.margins(x=0)
    legend(ax, loc="lower center", ncols=2)


def log_scale(ax: Axes, values: np.ndarray, eps: float) -> None:
    """Logarithmic, from a thousandth of eps where the error has zeros, with room for the legend below."""
    low = max(float(np.min(values)), eps * 1e-3)
    ax.set_yscale("log")
    high = float(np.max(values))
    ax.set_ylim(low * (low / high) ** 0.35 / 2, high * 2)


def _map(c: Compiled, ax: Axes, lo: np.ndarray, hi: np.ndarray, upper: np.ndarray) -> None:
    from matplotlib import colormaps
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    edges = [np.append(np.unique(lo[:, i]), hi[:, i].max()) for i in (0, 1)]
    image = upper.reshape(len(edges[0]) - 1, len(edges[1]) - 1).T
    image = np.where(np.isfinite(image), image, np.nan)
    colours = colormaps["cividis"].with_extremes(bad=RED)
    shown = ax.pcolormesh(edges[0], edges[1], image, cmap=colours, vmin=0, vmax=max(c.eps, np.nanmax(image, initial=0)))
    bar = ax.figure.colorbar(shown, ax=ax, label=_bound_name(upper))
    bar.ax.axhline(c.eps, color=RED, lw=2.5)
    x, y, points = grid_2d(c, 160 if c.length <= 4000 else 80)
    s = sampled(c, points)
    error = s.error.reshape(len(y), len(x))
    levels, styles = [c.eps * 0.5, c.eps * 0.9], ["--", "-"]
    handles: list[Any] = [
        Line2D([], [], color="white", lw=1.2, ls=style, label=f"{measured_name(c)} = {share} eps")
        for style, share in zip(styles, ("0.5", "0.9"), strict=True)
    ]
    if c.length > _CONTOURS:
        handles = [Line2D([], [], ls="", label=f"{measured_name(c)}: at most {upward(float(error.max()))}")]
    elif error.max() > levels[0]:
        ax.contour(x, y, error, levels=levels, colors="white", linewidths=0.9, linestyles=styles)
    handles.append(Line2D([], [], color=RED, lw=2.5, label=f"eps = {c.eps:g} (on the colour bar)"))
    if np.isnan(image).any():
        handles.append(Patch(color=RED, label="no bound reached"))
    below: Any = {"loc": "upper left", "bbox_to_anchor": (0.0, -0.16), "borderaxespad": 0.0}
    below["ncols"] = 1 if isinstance(c.target, LipschitzTarget) else 2
    ax.legend(
        handles=handles,
        fontsize=8.5,
        facecolor="#555555",
        edgecolor="#555555",
        labelcolor="white",
        framealpha=1.0,
        **below,
    )
    ax.set_xlabel(names_of(c)[0])
    ax.set_ylabel(names_of(c)[1])


def _shadows(c: Compiled, ax: Axes, lo: np.ndarray, hi: np.ndarray, upper: np.ndarray) -> None:
    low, high = pictured(c).bounds
    s = sampled(c, c.domain.sample(4000))
    bins, tops = 12, []
    for axis, name in enumerate(names_of(c)):
        colour = CYCLE[axis % len(CYCLE)]
        starts = np.unique(lo[:, axis])
        bound = [upper[lo[:, axis] == a].max() for a in starts]
        ends = (np.append(starts, high[axis]) - low[axis]) / (high[axis] - low[axis])
        ax.stairs(
            np.where(np.isfinite(bound), bound, np.nan),
            ends,
            baseline=None,
            color=colour,
            lw=1.8,
            label=f"proved bound, along {name}",
        )
        t = (s.points[:, axis] - low[axis]) / (high[axis] - low[axis])
        slot = np.minimum((t * bins).astype(int), bins - 1)
        top = np.array([s.error[slot == i].max(initial=0) for i in range(bins)])
        tops.append(top)
        ax.plot((np.arange(bins) + 0.5) / bins, np.where(top > 0, top, np.nan), color=colour, lw=1, ls=":", marker=".")
    ax.plot([], [], color=GREY, lw=1, ls=":", marker=".", label=measured_name(c))
    ax.axhline(c.eps, color=BLACK, lw=1.2, ls="--", label=f"eps = {c.eps:g}")
    log_scale(ax, np.concatenate([upper[np.isfinite(upper)], *(top[top > 0] for top in tops), [c.eps]]), c.eps)
    ax.set_xlabel("position between the ends of the coordinate")
    ax.set_ylabel("|g − f|, largest over the other coordinates")
    legend(ax, loc="lower center", ncols=2)
