"""Which token is attended to, where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from constructions.captions import names_of
from constructions.plots.style import BLACK, chosen_output, titled
from constructions.sampled import attention_weights, grid_2d, line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from constructions.compiled import Compiled

__all__ = ["draw_attention"]

_LINES = 48
_ROWS = 2_000_000
_BORDERS = 3000


def draw_attention(c: Compiled, ax: Axes, *, output: int = 0) -> None:
    """One variable: the weights as areas that add up to one, coloured by value, or as a map when tokens are many. Two and more: the
    token attended to most, over the first two coordinates with the others at the domain's centre."""
    chosen = chosen_output(c, output)
    if c.domain.dimension > 1:
        _regions(c, ax, chosen)
    elif c.length <= _LINES:
        _areas(c, ax, chosen)
    else:
        _rows(c, ax)
    titled(ax, c, "Attention")


def _value_name(c: Compiled, output: int) -> str:
    return f"value of the token, output {output}" if c.values.shape[1] > 1 else "value of the token"


def _areas(c: Compiled, ax: Axes, output: int) -> None:
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable

    points = line(c, 0, 801)
    weights = attention_weights(c, points)
    mean_place = (weights * np.arange(len(points))[:, None]).sum(axis=0) / weights.sum(axis=0)
    order = np.argsort(mean_place)
    norm, note = _value_norm(c.values[:, output])
    colours = [colormaps["viridis"](norm(v)) for v in c.values[order, output]]
    ax.stackplot(points[:, 0], weights[:, order].T, colors=colours, edgecolor="white", linewidth=0.8)
    ax.figure.colorbar(ScalarMappable(norm, "viridis"), ax=ax, label=_value_name(c, output) + note)
    ax.set_xlabel(names_of(c)[0])
    ax.set_ylabel("weights of the tokens, stacked (they add up to 1)")
    ax.set_xlim(c.domain.lo[0], c.domain.hi[0])
    ax.set_ylim(0, 1)


def _rows(c: Compiled, ax: Axes) -> None:
    """The upper envelope of affine logits is convex, so tokens take over from one another in the order of their slopes."""
    points = line(c, 0, 600)
    order = np.argsort(c.keys[:, 0], kind="stable")
    starts = np.arange(0, c.length, -(-c.length // 400))  # an image row per token, or per few tokens
    step = max(1, _ROWS // c.length)
    parts = [attention_weights(c, points[k : k + step])[:, order] for k in range(0, len(points), step)]
    image = np.concatenate([np.maximum.reduceat(part, starts, axis=1) for part in parts]).T
    extent = (c.domain.lo[0], c.domain.hi[0], 0.5, c.length + 0.5)
    shown = ax.imshow(
        image, origin="lower", extent=extent, aspect="auto", cmap="cividis", vmin=0, interpolation="nearest"
    )
    ax.figure.colorbar(
        shown, ax=ax, label="weight" if len(starts) == c.length else "largest weight of neighbouring tokens"
    )
    ax.set_xlabel(names_of(c)[0])
    ax.set_ylabel("token, in the order of the slopes")


def _regions(c: Compiled, ax: Axes, output: int) -> None:
    x, y, points = grid_2d(c, 240)
    rows = max(1, _ROWS // c.length)
    parts = [points[i : i + rows] for i in range(0, len(points), rows)]
    winner = np.concatenate([(part @ c.keys[:, :-1].T + c.keys[:, -1]).argmax(axis=1) for part in parts])
    norm, note = _value_norm(c.values[np.unique(winner), output])
    image = winner.reshape(len(y), len(x))
    extent = (c.domain.lo[0], c.domain.hi[0], c.domain.lo[1], c.domain.hi[1])
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
    ax.figure.colorbar(shown, ax=ax, label=_value_name(c, output) + note)
    ax.set_xlabel(names[0])
    ax.set_ylabel(names[1])


def _borders(ax: Axes, image: np.ndarray, extent: tuple[float, float, float, float]) -> None:
    border = np.zeros(image.shape)
    border[:, 1:] += image[:, 1:] != image[:, :-1]
    border[1:, :] += image[1:, :] != image[:-1, :]
    ink = np.zeros((*image.shape, 4))
    ink[..., 3] = 0.75 * (border > 0)
    ax.imshow(ink, origin="lower", extent=extent, aspect="auto", interpolation="nearest")


def _value_norm(values: np.ndarray) -> tuple[Any, str]:
    """Linear colours, or symmetric logarithmic ones where the values spread over orders of magnitude."""
    from matplotlib.colors import Normalize, SymLogNorm

    low, high = float(values.min()), float(values.max())
    typical = float(np.median(np.abs(values)))
    if typical > 0 and max(-low, high) > 100 * typical:
        return SymLogNorm(10.0 ** np.ceil(np.log10(typical)), linscale=1.0, vmin=low, vmax=high), " (log scale)"
    # values that are equal up to rounding get one colour
    pad = 0.0 if high - low > 1e-6 * max(abs(low), abs(high)) else max(abs(low), 1.0) / 2
    return Normalize(low - pad, high + pad), ""
