"""Pictures of heads on S^2: fit, error, tokens, attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from constructions.captions import upward
from constructions.plots.attention import value_name, value_norm
from constructions.plots.error import measured_name
from constructions.plots.globe import Globe
from constructions.plots.keys import directions, key_sizes
from constructions.plots.style import BLACK, GREY, RED, chosen_output, legend, titled
from constructions.plots.view import DEFAULT
from constructions.sampled import attends_to_data, sampled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from constructions.compiled import Compiled

__all__ = ["draw_attention", "draw_error", "draw_fit", "draw_tokens"]

_DOTS = 1500
"""Tokens above which their dots would hide what is below them."""
_NAMED = "of the token attended to most"


def draw_fit(c: Compiled, ax: Axes, *, output: int = 0, view: tuple[float, float] = DEFAULT) -> None:
    """The model as colours on both hemispheres, with the keys on it. view: longitude and latitude it is seen from, in degrees."""
    chosen = chosen_output(c, output)
    globe = Globe(c, ax, view)
    worst = 0.0

    def model(points: Float[np.ndarray, "p 3"]) -> Float[np.ndarray, " p"]:
        nonlocal worst
        s = sampled(c, points)
        worst = max(worst, float(s.error.max()))
        return s.model[:, chosen]

    shown, _ = globe.paint(model, levels=10, cmap="cividis")
    name = f"model g, output {output}" if c.values.shape[1] > 1 else "model g"
    globe.colour_bar(shown, name)
    keys = ""
    if c.length <= _DOTS:
        where, _ = directions(c)
        globe.dots(where, s=_area(c, 16), linewidths=0.6 if c.length <= 400 else 0.3)
        keys = f"white dots: the keys of the {len(where)} tokens\n"
    globe.finished(f"{keys}error, {measured_name(c)}: at most {upward(worst)}")
    titled(ax, c, "Fit")


def draw_error(c: Compiled, ax: Axes, *, view: tuple[float, float] = DEFAULT) -> None:
    """The measured error as colours from 0 to eps, and the proved bound of the whole sphere as a line on the colour bar."""
    from matplotlib.colors import Normalize

    globe = Globe(c, ax, view)
    bound = c.certificate.error_upper
    marks = [c.eps, *([bound] if np.isfinite(bound) else [])]
    values = Normalize(0.0, 1.03 * max(marks))
    shown, error = globe.paint(lambda points: sampled(c, points).error, cmap="cividis", norm=values)
    top = float(error.max())
    if top > 1.03 * max(marks):
        values.vmax = top
    name = "|g − f|" + (", largest over outputs" if c.values.shape[1] > 1 else "")
    bar = globe.colour_bar(shown, f"{name}, {measured_name(c)}")
    bar.ax.axvline(c.eps, color=BLACK, lw=2, ls=(0, (1.5, 1)))
    words = "no bound was reached"
    if np.isfinite(bound):
        bar.ax.axvline(bound, color=RED, lw=2.5)
        kind = "proved bound" if c.rechecked and c.certificate.proved else "bound on record"
        words = f"{kind} for the whole sphere (red): {upward(bound)}"
    globe.finished(f"largest sampled: {upward(top)};  {words};  eps = {c.eps:g} (dotted)")
    titled(ax, c, "Error")


def draw_tokens(c: Compiled, ax: Axes, *, output: int = 0, view: tuple[float, float] = DEFAULT) -> None:
    """The keys' directions coloured by value, joined to their neighbours: the edges of the convex hull, which is Delaunay's
    triangulation of the sphere."""
    chosen = chosen_output(c, output)
    globe = Globe(c, ax, view)
    globe.ground()
    where, which = directions(c)
    edges = _delaunay(where) if len(where) <= 4 * _DOTS else None
    if edges is not None:
        globe.arcs(where[edges[:, 0]], where[edges[:, 1]], colors="#5A6B7B", linewidths=0.7, alpha=0.55, zorder=2.5)
    norm, note = value_norm(c.values[:, chosen])
    width = 0.6 if c.length <= 400 else 0.2
    dots = globe.dots(
        where, colour=c.values[which, chosen], s=_area(c, 60), cmap="viridis", norm=norm, linewidths=width
    )
    globe.colour_bar(dots, value_name(c, chosen) + note)
    joined = ", neighbours joined (Delaunay)" if edges is not None else ""
    globe.finished(f"dots: directions of the keys{joined}\n{key_sizes(c)}", dark=True)
    titled(ax, c, "Tokens")


def draw_attention(c: Compiled, ax: Axes, *, output: int = 0, view: tuple[float, float] = DEFAULT) -> None:
    """The regions of the token with the largest logit, coloured by its value; grey where the data tokens of the sequence, taken one
    by one, score higher than every prefix token."""
    from matplotlib import colormaps
    from matplotlib.patches import Patch

    chosen = chosen_output(c, output)
    globe = Globe(c, ax, view)
    found: list[np.ndarray] = []
    beside = attends_to_data(c)

    def winner(points: Float[np.ndarray, "p 3"]) -> Float[np.ndarray, " p"]:
        token = _winner(c, points, beside)
        found.append(token)
        return np.where(token >= 0, c.values[token, chosen], np.nan)

    norm, note = value_norm(c.values[:, chosen])
    shown, _ = globe.paint(winner, smooth=False, cmap=colormaps["viridis"].with_extremes(bad=GREY), norm=norm)
    globe.colour_bar(shown, value_name(c, chosen).replace("of the token", _NAMED) + note)
    if c.length <= _DOTS:
        for image, (_, centre) in zip(found, globe.sides, strict=True):
            _borders(ax, image.reshape(globe.resolution, -1), centre)
    tokens = np.unique(np.concatenate(found))
    if tokens[0] < 0:
        legend(ax, handles=[Patch(color=GREY, label="a data token")], loc="lower center")
    most = "with the largest exponential" if not c.model.layers[0].heads[0].normalised else "attended to most"
    globe.finished(
        f"regions of the token {most}, on a grid of samples: {int((tokens >= 0).sum())} of {c.length} tokens seen"
    )
    titled(ax, c, "Attention")


def _winner(c: Compiled, points: Float[np.ndarray, "p 3"], beside: bool) -> np.ndarray:
    """Index of the token with the largest logit; -1 where it is below the score 0 of a data token."""
    step = max(1, 4_000_000 // c.length)
    parts = []
    for k in range(0, len(points), step):
        logits = points[k : k + step] @ c.slopes.T + c.biases
        best = logits.argmax(axis=1)
        parts.append(np.where((logits.max(axis=1) < 0) & beside, -1, best))
    return np.concatenate(parts)


def _borders(ax: Axes, image: np.ndarray, centre: float) -> None:
    """Dark pixels between regions, inside the disc."""
    from matplotlib.patches import Circle

    border = np.zeros(image.shape, dtype=bool)
    border[:, 1:] |= image[:, 1:] != image[:, :-1]
    border[1:, :] |= image[1:, :] != image[:-1, :]
    ink: Any = np.zeros((*image.shape, 4))
    ink[..., 3] = 0.7 * border
    drawn = ax.imshow(
        ink, origin="lower", extent=(centre - 1, centre + 1, -1, 1), aspect="equal", interpolation="bilinear"
    )
    drawn.set_clip_path(Circle((centre, 0), 1, transform=ax.transData))


def _area(c: Compiled, largest: float) -> float:
    """Area of a dot that leaves gaps between dots: smaller the more there are."""
    return float(np.clip(6000 / c.length, 2.0, largest))


def _delaunay(where: Float[np.ndarray, "tokens 3"]) -> np.ndarray | None:
    """Pairs of neighbours; None for points in a plane, of which there is no hull."""
    from scipy.spatial import ConvexHull, QhullError

    if len(where) < 4:
        return None
    try:
        faces = ConvexHull(where).simplices
    except QhullError:
        return None
    pairs = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    return np.unique(pairs, axis=0)
