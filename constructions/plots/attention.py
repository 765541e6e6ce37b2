"""Which token is attended to, where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from constructions.captions import names_of
from constructions.plots.style import BLACK, chosen_output, titled
from constructions.sampled import attention_weights, grid_2d, line, pictured

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from constructions.compiled import Compiled

__all__ = ["LINES", "areas", "draw_attention", "rows", "value_name", "value_norm"]

LINES = 48
"""Tokens up to which every one gets an area of its own."""
_ROWS = 2_000_000
_BORDERS = 3000


def draw_attention(c: Compiled, ax: Axes, *, output: int = 0) -> None:
    """One variable: the weights as areas that add up to one, coloured by value, or as a map when tokens are many. Two and more: the
    token attended to most, over the first two coordinates with the others at the domain's centre."""
    chosen = chosen_output(c, output)
    if c.domain.dimension > 1:
        _regions(c, ax, chosen)
    else:
        _curves(c, ax, chosen)
    titled(ax, c, "Attention")


def value_name(c: Compiled, output: int) -> str:
    """The label of colours that stand for values."""
    return f"value of the token, output {output}" if c.values.shape[1] > 1 else "value of the token"


def _curves(c: Compiled, ax: Axes, output: int) -> None:
    """The upper envelope of affine logits is convex, so tokens take over from one another in the order of their slopes."""
    if c.length <= LINES:
        points = line(c, 0, 801)
        weights = attention_weights(c, points)
        mean_place = (weights * np.arange(len(points))[:, None]).sum(axis=0) / weights.sum(axis=0)
        areas(c, ax, points[:, 0], weights, np.argsort(mean_place), output)
        ax.set_ylabel("weights of the tokens, stacked (they add up to 1)")
    else:
        points = line(c, 0, 600)
        rows(c, ax, points[:, 0], points, np.argsort(c.keys[:, 0], kind="stable"))
        ax.set_ylabel("token, in the order of the slopes")
    ax.set_xlabel(names_of(c)[0])


def areas(
    c: Compiled,
    ax: Axes,
    x: Float[np.ndarray, " m"],
    weights: Float[np.ndarray, "m tokens"],
    order: np.ndarray,
    output: int,
) -> None:
    """Weights against x as stacked areas, in the order given from below, coloured by value; what is missing to 1 stays white."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable

    norm, note = value_norm(c.values[:, output])
    colours = [colormaps["viridis"](norm(v)) for v in c.values[order, output]]
    ax.stackplot(x, weights[:, order].T, colors=colours, edgecolor="white", linewidth=0.8)
    ax.figure.colorbar(ScalarMappable(norm, "viridis"), ax=ax, label=value_name(c, output) + note)
    ax.set_xlim(x[0], x[-1])
    ax.set_ylim(0, 1)


def rows(
    c: Compiled, ax: Axes, x: Float[np.ndarray, " m"], points: Float[np.ndarray, "m n"], order: np.ndarray
) -> None:
    """Weights as a map: x to the right, tokens upwards in the order given, an image row for each or for a few."""
    starts = np.arange(0, c.length, -(-c.length // 400))
    step = max(1, _ROWS // c.length)
    parts = [attention_weights(c, points[k : k + step])[:, order] for k in range(0, len(points), step)]
    image = np.concatenate([np.maximum.reduceat(part, starts, axis=1) for part in parts]).T
    shown = ax.imshow(
        image,
        origin="lower",
        extent=(x[0], x[-1], 0.5, c.length + 0.5),
        aspect="auto",
        cmap="cividis",
        vmin=0,
        interpolation="nearest",
    )
    ax.figure.colorbar(
        shown, ax=ax, label="weight" if len(starts) == c.length else "largest weight of neighbouring tokens"
    )


def _regions(c: Compiled, ax: Axes, output: int) -> None:
    x, y, points = grid_2d(c, 240)
    step = max(1, _ROWS // c.length)
    parts = [points[i : i + step] for i in range(0, len(points), step)]
    winner = np.concatenate([(part @ c.keys[:, :-1].T + c.keys[:, -1]).argmax(axis=1) for part in parts])
    norm, note = value_norm(c.values[np.unique(winner), output])
    image = winner.reshape(len(y), len(x))
    extent = (pictured(c).lo[0], pictured(c).hi[0], pictured(c).lo[1], pictured(c).hi[1])
    shown = ax.imshow(
        c.values[image, output],
        origin="lower",
        extent=extent,
        aspect="auto",
        cmap="viridis",
        norm=norm,
        interpolation="nearest",
    )
    if c.length <= _BORDERS:
        _borders(ax, image, extent)
    names = names_of(c)
    where = f"regions of the token attended to most: {len(np.unique(winner))} of {c.length} tokens"
    if c.domain.dimension > 2:
        where += f"; {', '.join(names[2:])} at the centre"
    ax.annotate(
        where,
        (0.01, 0.02),
        xycoords="axes fraction",
        fontsize=8.5,
        color=BLACK,
        bbox={"fc": "white", "ec": "#CCCCCC", "alpha": 0.9, "pad": 2},
    )
    ax.figure.colorbar(shown, ax=ax, label=value_name(c, output) + note)
    ax.set_xlabel(names[0])
    ax.set_ylabel(names[1])


def _borders(ax: Axes, image: np.ndarray, extent: tuple[float, float, float, float]) -> None:
    border = np.zeros(image.shape)
    border[:, 1:] += image[:, 1:] != image[:, :-1]
    border[1:, :] += image[1:, :] != image[:-1, :]
    ink = np.zeros((*image.shape, 4))
    ink[..., 3] = 0.75 * (border > 0)
    ax.imshow(ink, origin="lower", extent=extent, aspect="auto", interpolation="nearest")


def value_norm(values: np.ndarray) -> tuple[Any, str]:
    """Linear colours, or symmetric logarithmic ones where the values spread over orders of magnitude."""
    from matplotlib.colors import Normalize, SymLogNorm

    low, high = float(values.min()), float(values.max())
    typical = float(np.median(np.abs(values)))
    if typical > 0 and max(-low, high) > 100 * typical:
        return SymLogNorm(10.0 ** np.ceil(np.log10(typical)), linscale=1.0, vmin=low, vmax=high), " (log scale)"
    # values that are equal up to rounding get one colour
    pad = 0.0 if high - low > 1e-6 * max(abs(low), abs(high)) else max(abs(low), 1.0) / 2
    return Normalize(low - pad, high + pad), ""
