"""The prefix itself: where each token is attended to most, how much, and with which value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from constructions.captions import names_of
from constructions.plots.style import BLACK, CYCLE, legend, titled
from constructions.sampled import attention_weights, line, pictured

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from constructions.compiled import Compiled

__all__ = ["Peaks", "draw_tokens", "peaks"]

_BLOCK = 2_000_000


@dataclass(frozen=True, eq=False)
class Peaks:
    """Sampled: points (tokens, n), where each token's weight is largest, and that weight (tokens,)."""

    points: Float[np.ndarray, "tokens n"]
    weight: Float[np.ndarray, " tokens"]


def peaks(c: Compiled) -> Peaks:
    """Look for every token's largest weight on a sample: a fine grid in one and two dimensions, random points and corners beyond."""
    n = c.domain.dimension
    if n == 1:
        points = line(c, 0, 2001)
    elif n == 2:
        lo, hi = pictured(c).bounds
        a, b = (np.clip(np.linspace(lo[i], hi[i], 81), lo[i], hi[i]) for i in (0, 1))
        points = np.stack(np.meshgrid(a, b, indexing="ij"), axis=-1).reshape(-1, 2)
    else:
        ends = tuple(zip(pictured(c).lo, pictured(c).hi, strict=True))
        corners = np.array(np.meshgrid(*ends)).reshape(n, -1).T if n <= 10 else np.array(ends).T
        points = np.concatenate([c.domain.sample(3000), corners])
    best, where = np.zeros(c.length), np.zeros(c.length, dtype=int)
    rows = max(1, _BLOCK // c.length)
    for start in range(0, len(points), rows):
        w = attention_weights(c, points[start : start + rows])
        top = w.max(axis=0)
        where = np.where(top > best, start + w.argmax(axis=0), where)
        best = np.maximum(best, top)
    return Peaks(points[where], best)


def draw_tokens(c: Compiled, ax: Axes) -> None:
    """Values against the place of largest weight, marker area growing with that weight; with the sizes that rounding depends on."""
    found = peaks(c)
    area = 12 + 110 * found.weight if c.length <= 200 else 3 + 20 * found.weight
    if c.domain.dimension == 2:
        _places(c, ax, found, area)
    else:
        _values(c, ax, found, area)
    sizes = f"max|value| {c.max_value:.3g},  max|logit| {c.max_logit:.3g}"
    ax.annotate(
        sizes,
        (0.99, -0.16),
        xycoords="axes fraction",
        ha="right",
        va="top",
        fontsize=8.5,
        color="#444444",
        annotation_clip=False,
    )
    titled(ax, c, "Tokens")


def _values(c: Compiled, ax: Axes, found: Peaks, area: np.ndarray) -> None:
    one = c.domain.dimension == 1
    across = found.points[:, 0] if one else found.weight
    many = c.values.shape[1] > 1
    for i in range(c.values.shape[1]):
        colour = CYCLE[i % len(CYCLE)]
        name = f"value of a token, output {i}" if many else "value of a token"
        ax.scatter(
            across,
            c.values[:, i],
            s=area if one else 14,
            color=colour,
            alpha=0.55,
            edgecolor=BLACK,
            linewidth=0.5 if c.length <= 1000 else 0.0,
            label=name,
        )
    _scale_values(ax, c.values)
    ax.axhline(0, color="#BBBBBB", lw=0.8, zorder=0)
    where = f"{names_of(c)[0]} where the token is attended to most (area: its weight there)"
    ax.set_xlabel(where if one else "largest weight of the token (sampled)")
    ax.set_ylabel("value")
    ax.margins(0.06)
    legend(ax)


def _places(c: Compiled, ax: Axes, found: Peaks, area: np.ndarray) -> None:
    from matplotlib.colors import Normalize, SymLogNorm

    shown = c.values[:, 0]
    size = float(np.abs(shown).max()) or 1.0
    typical = float(np.median(np.abs(shown))) or size
    norm: Any = Normalize(-size, size)
    if size > 100 * typical:
        norm = SymLogNorm(10.0 ** np.ceil(np.log10(typical)), linscale=1.0, vmin=-size, vmax=size)
    dots = ax.scatter(
        found.points[:, 0],
        found.points[:, 1],
        s=area,
        c=shown,
        cmap="PuOr",
        norm=norm,
        edgecolor=BLACK,
        linewidth=0.5 if c.length <= 1000 else 0.0,
        clip_on=False,
    )
    name = "value, output 0" if c.values.shape[1] > 1 else "value"
    ax.figure.colorbar(dots, ax=ax, label=name)
    ax.set_xlabel(f"{names_of(c)[0]} where attended to most (area: the weight there)")
    ax.set_ylabel(names_of(c)[1])
    ax.set_xlim(pictured(c).lo[0], pictured(c).hi[0])
    ax.set_ylim(pictured(c).lo[1], pictured(c).hi[1])


def _scale_values(ax: Axes, values: np.ndarray) -> None:
    """Values that spread over several orders of magnitude are drawn on a symmetric logarithmic axis."""
    sizes = np.abs(values[values != 0])
    if len(sizes) and sizes.max() > 300 * np.median(sizes):
        ax.set_yscale("symlog", linthresh=10.0 ** np.ceil(np.log10(np.median(sizes))), linscale=1.0)
