"""Which picture a sphere gets: curves against the angle on S^1, globes on S^2, and numbers beyond."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from constructions.captions import upward
from constructions.plots import on_circle, on_globe
from constructions.plots.error import measured_name
from constructions.plots.style import BLACK, BLUE, GREY, ORANGE, legend, titled
from constructions.sampled import sampled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from constructions.compiled import Compiled

__all__ = ["draw_attention", "draw_error", "draw_fit", "draw_tokens"]


def draw_fit(c: Compiled, ax: Axes, **options: Any) -> None:
    """Options: output, and on S^2 view."""
    _by_dimension(c, "fit", on_circle.draw_fit, on_globe.draw_fit)(c, ax, **options)


def draw_error(c: Compiled, ax: Axes, **options: Any) -> None:
    """From S^3 on a histogram of sampled errors. Options: on S^2 view."""
    draw = {1: on_circle.draw_error, 2: on_globe.draw_error}.get(c.domain.dimension - 1, _histogram)
    draw(c, ax, **options)


def draw_tokens(c: Compiled, ax: Axes, **options: Any) -> None:
    """Options: output, and on S^2 view."""
    _by_dimension(c, "tokens", on_circle.draw_tokens, on_globe.draw_tokens)(c, ax, **options)


def draw_attention(c: Compiled, ax: Axes, **options: Any) -> None:
    """Options: output, and on S^2 view."""
    _by_dimension(c, "attention", on_circle.draw_attention, on_globe.draw_attention)(c, ax, **options)


def _by_dimension(
    c: Compiled, kind: str, on_s1: Callable[..., None], on_s2: Callable[..., None]
) -> Callable[..., None]:
    m = c.domain.dimension - 1
    if m > 2:
        raise ValueError(
            f"kind = {kind!r}: the picture exists for S^1 and S^2, and the domain has m = {m}. Draw 'error' (a histogram of sampled "
            "errors beside the proved bound) or 'convergence', or evaluate the result at points of your own."
        )
    return on_s1 if m == 1 else on_s2


def _histogram(c: Compiled, ax: Axes) -> None:
    """How often which error occurs at random points, beside the bound that holds at every point."""
    count = int(np.clip(40_000_000 // c.length, 500, 20_000))
    error = sampled(c, c.domain.sample(count, seed=1)).error
    bound = c.certificate.error_upper
    ends = [c.eps, float(error.max()), *([bound] if np.isfinite(bound) else [])]
    ax.hist(
        error,
        bins=np.linspace(0, max(ends), 61).tolist(),
        color=ORANGE,
        alpha=0.75,
        label=f"{measured_name(c)}: {count} points",
    )
    for share, style in ((0.5, ":"), (0.99, "-.")):
        at = float(np.quantile(error, share))
        name = "half" if share == 0.5 else f"{share:.0%}"
        ax.axvline(at, color=GREY, lw=1.2, ls=style, label=f"{name} of the points below {upward(at)}")
    ax.axvline(float(error.max()), color=ORANGE, lw=1.4, label=f"largest sampled: {upward(float(error.max()))}")
    if np.isfinite(bound):
        known = "proved bound, at every point" if c.rechecked and c.certificate.proved else "bound on record"
        ax.axvline(bound, color=BLUE, lw=1.8, label=f"{known}: {upward(bound)}")
    ax.axvline(c.eps, color=BLACK, lw=1.2, ls="--", label=f"eps = {c.eps:g}")
    ax.set_xlim(0, 1.03 * max(ends))
    ax.set_ylim(0, ax.get_ylim()[1] * 1.75)
    ax.set_xlabel("|g − f|" + (", largest over outputs" if c.values.shape[1] > 1 else ""))
    ax.set_ylabel("points sampled uniformly")
    legend(ax, loc="upper left")
    titled(ax, c, "Error")
