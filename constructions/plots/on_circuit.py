"""Fit and error of a circuit: it has many heads, so no token has a place of its own in the picture, and one bound holds everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from constructions.captions import names_of, upward
from constructions.circuits.describe import layers_text
from constructions.plots.error import log_scale, measured_name
from constructions.plots.fit import curves
from constructions.plots.fit import draw_fit as draw_slices
from constructions.plots.style import BLACK, BLUE, CYCLE, GREY, ORANGE, RED, chosen_output, legend, titled
from constructions.sampled import grid_2d, line, pictured, sampled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

    from constructions.compiled import Compiled

__all__ = ["draw_attention", "draw_error", "draw_fit", "draw_tokens"]

_BINS = 12


def draw_fit(c: Compiled, ax: Axes, *, output: int = 0) -> None:
    """One variable: curves. Two: the model as a map. More: along the lines through the domain's centre."""
    chosen = chosen_output(c, output)
    if c.domain.dimension == 1:
        s = sampled(c, line(c, 0, 1001))
        curves(c, ax, s, s.points[:, 0], None)
        ax.set_xlabel(names_of(c)[0])
        legend(ax)
    elif c.domain.dimension == 2:
        x, y, points = grid_2d(c, 120)
        image = sampled(c, points).model[:, chosen].reshape(len(y), len(x))
        shown = _map(c, ax, image, cmap="cividis", interpolation="bilinear")
        ax.contour(x, y, image, levels=10, colors="white", linewidths=0.5, alpha=0.6)
        name = f"model g, output {chosen}" if c.target.outputs > 1 else "model g"
        ax.figure.colorbar(shown, ax=ax, label=name)
    else:
        draw_slices(c, ax, output=chosen)
    titled(ax, c, "Fit")


def draw_error(c: Compiled, ax: Axes) -> None:
    """The measured error, the bound proved for the whole domain, and eps. In more than two dimensions, for every coordinate the largest
    over the others."""
    n = c.domain.dimension
    if n == 1:
        s = sampled(c, line(c, 0, 2001))
        ax.plot(s.points[:, 0], _positive(s.error), color=ORANGE, lw=1.0, label=measured_name(c))
        _levels(c, ax, s.error)
        ax.set_xlabel(names_of(c)[0])
        ax.margins(x=0)
    elif n == 2:
        x, y, points = grid_2d(c, 160)
        error = sampled(c, points).error.reshape(len(y), len(x))
        proved = c.certificate.error_upper if c.certificate.proved else 0.0
        top = max(proved, float(np.nanmax(error)))
        shown = _map(c, ax, error, cmap="cividis", interpolation="nearest", vmin=0, vmax=top)
        bar = ax.figure.colorbar(shown, ax=ax, label=f"|g − f|, {measured_name(c)}")
        words = f"eps = {c.eps:g}"
        if proved:
            words += f"; the colours end at the {_bound(c)}"
        if c.eps < top:
            bar.ax.axhline(c.eps, color=RED, lw=2.5)
            words += " (red on the colour bar)"
        ax.annotate(words, (0.0, -0.16), xycoords="axes fraction", fontsize=8.5, color="#444444", annotation_clip=False)
    else:
        _shadows(c, ax)
    titled(ax, c, "Error")


def draw_tokens(c: Compiled, ax: Axes) -> None:
    """Raises ValueError: there is no such picture of a circuit."""
    raise _refusal(c, "tokens", "the tokens")


def draw_attention(c: Compiled, ax: Axes) -> None:
    """Raises ValueError: there is no such picture of a circuit."""
    raise _refusal(c, "attention", "the weights")


def _refusal(c: Compiled, kind: str, what: str) -> ValueError:
    return ValueError(
        f"kind = {kind!r} shows {what} of one head against x; this is a circuit ({layers_text(c)}). Use "
        "kind='circuit' for its graph, or c.trace(x) for what its stream holds at a point."
    )


def _map(c: Compiled, ax: Axes, image: np.ndarray, **options: Any) -> AxesImage:
    (x0, y0), (x1, y1) = pictured(c).lo, pictured(c).hi
    ax.set_xlabel(names_of(c)[0])
    ax.set_ylabel(names_of(c)[1])
    return ax.imshow(image, origin="lower", extent=(x0, x1, y0, y1), aspect="auto", **options)


def _positive(error: np.ndarray) -> np.ndarray:
    """Zeros are left out of a logarithmic scale."""
    return np.where(error > 0, error, np.nan)


def _bound(c: Compiled) -> str:
    return f"proved bound (whole domain) {upward(c.certificate.error_upper)}"


def _levels(c: Compiled, ax: Axes, error: np.ndarray) -> None:
    """Lines for eps and for the proved bound, and the scale."""
    seen = [*error[np.isfinite(error) & (error > 0)], c.eps]
    if c.certificate.proved:
        ax.axhline(c.certificate.error_upper, color=BLUE, lw=1.8, label=_bound(c))
        seen.append(c.certificate.error_upper)
    ax.axhline(c.eps, color=BLACK, lw=1.2, ls="--", label=f"eps = {c.eps:g}")
    log_scale(ax, np.array(seen), c.eps)
    ax.set_ylabel("|g − f|" + (", largest over outputs" if c.target.outputs > 1 else ""))
    legend(ax, loc="lower center", ncols=2)


def _shadows(c: Compiled, ax: Axes) -> None:
    lo, hi = pictured(c).bounds
    s = sampled(c, c.domain.sample(4000))
    tops = []
    for axis, name in enumerate(names_of(c)):
        t = (s.points[:, axis] - lo[axis]) / (hi[axis] - lo[axis])
        slot = np.minimum((t * _BINS).astype(int), _BINS - 1)
        top = np.array([s.error[slot == i].max(initial=0) for i in range(_BINS)])
        tops.append(top)
        at = (np.arange(_BINS) + 0.5) / _BINS
        ax.plot(at, _positive(top), color=CYCLE[axis % len(CYCLE)], lw=1, ls=":", marker=".", label=f"along {name}")
    ax.plot([], [], color=GREY, lw=1, ls=":", marker=".", label=measured_name(c))
    _levels(c, ax, np.concatenate(tops))
    ax.set_xlabel("position between the ends of the coordinate")
    ax.set_ylabel("|g − f|, largest over the other coordinates")
