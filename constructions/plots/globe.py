"""Both hemispheres of S^2 side by side in plain axes: maps, dots and great-circle arcs on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from constructions.captions import names_of
from constructions.plots.style import BLACK
from constructions.plots.view import View

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

    from constructions.compiled import Compiled

__all__ = ["Globe"]

_APART = 1.07
"""Half the distance between the discs' centres; their radius is 1."""
_WORK = 40_000_000
"""Points times tokens of a picture: about a second."""
_INK, _LINES = "#444444", "#FFFFFF"


class Globe:
    """Axes with two discs: the front seen along `view`, and the back."""

    def __init__(self, c: Compiled, ax: Axes, view: tuple[float, float]) -> None:
        near = View.towards(*view)
        self.c, self.ax = c, ax
        self.sides = ((near, -_APART), (near.opposite(), _APART))
        ax.set_aspect("equal")
        ax.set_xticks([])
        ax.set_yticks([])
        for spine in ax.spines.values():
            spine.set_visible(False)

    @property
    def resolution(self) -> int:
        """Samples across a disc that are affordable for a prefix of this length."""
        return int(np.clip(np.sqrt(_WORK / (2 * self.c.length)), 60, 260))

    def paint(
        self,
        evaluate: Callable[[Float[np.ndarray, "p 3"]], Float[np.ndarray, " p"]],
        *,
        smooth: bool = True,
        levels: int = 0,
        **colours: Any,
    ) -> tuple[AxesImage, Float[np.ndarray, " all"]]:
        """Both discs coloured by a function of points of the sphere. Returns an image for the colour bar, and the sampled values.

        smooth: whether to interpolate between samples; levels: about how many contour lines. colours: cmap and norm; by default linear from the least to the largest value.
        """
        from matplotlib.colors import Normalize
        from matplotlib.patches import Circle

        n = self.resolution
        inner = (np.arange(n) + 0.5) / n * 2 - 1
        u, v = (a.ravel() for a in np.meshgrid(inner, inner))
        values = [evaluate(view.points(u, v)) for view, _ in self.sides]
        every = np.concatenate(values)
        colours.setdefault("norm", Normalize(float(np.nanmin(every)), float(np.nanmax(every))))
        shown: list[AxesImage] = []
        for part, (_, centre) in zip(values, self.sides, strict=True):
            image = self.ax.imshow(
                part.reshape(n, n),
                origin="lower",
                extent=(centre - 1, centre + 1, -1, 1),
                aspect="equal",
                interpolation="bilinear" if smooth else "nearest",
                **colours,
            )
            image.set_clip_path(Circle((centre, 0), 1, transform=self.ax.transData))
            shown.append(image)
            if levels:
                self._contours(part.reshape(n, n), inner, centre, levels, shown[0].norm)
        return shown[0], every

    def _contours(self, image: np.ndarray, inner: np.ndarray, centre: float, levels: int, norm: Any) -> None:
        """Thin lines at the same heights on both discs."""
        from matplotlib.ticker import MaxNLocator

        if not norm.vmax > norm.vmin:
            return
        heights = MaxNLocator(levels).tick_values(norm.vmin, norm.vmax)
        inside = np.hypot(*np.meshgrid(inner, inner)) <= 1
        self.ax.contour(
            inner + centre,
            inner,
            np.where(inside, image, np.nan),
            levels=heights,
            colors="white",
            linewidths=0.6,
            alpha=0.6,
            linestyles="-",
        )

    def ground(self, colour: str = "#EEF1F4") -> None:
        """Discs of one colour."""
        from matplotlib.patches import Circle

        for _, centre in self.sides:
            self.ax.add_patch(Circle((centre, 0), 1, color=colour, lw=0, zorder=0))

    def arcs(self, start: Float[np.ndarray, "arcs 3"], end: Float[np.ndarray, "arcs 3"], **line: Any) -> None:
        """Great-circle arcs between pairs of points less than a half turn apart, on the side where they are seen."""
        share = np.linspace(0, 1, 17)[:, None, None]
        path = (1 - share) * start + share * end
        self.curves(np.swapaxes(path / np.linalg.norm(path, axis=2, keepdims=True), 0, 1), **line)

    def curves(self, path: Float[np.ndarray, "curves points 3"], **line: Any) -> None:
        """Curves through points of the sphere, on the side where they are seen."""
        from matplotlib.collections import LineCollection

        for view, centre in self.sides:
            place, depth = view.project(path)
            pieces = np.stack([place[:, :-1], place[:, 1:]], axis=2).reshape(-1, 2, 2)
            seen = (np.minimum(depth[:, :-1], depth[:, 1:]) >= -0.02).ravel()
            self.ax.add_collection(LineCollection(list(pieces[seen] + [centre, 0.0]), **line), autolim=False)

    def dots(
        self, points: Float[np.ndarray, "dots 3"], *, colour: Any = "white", label: str | None = None, **marks: Any
    ) -> Any:
        """A dot at every point, on the side where it is seen. colour: one, or one number for each dot. Returns the scatter."""
        drawn = None
        sizes = np.broadcast_to(np.asarray(marks.pop("s", 16.0)), len(points))
        for k, (view, centre) in enumerate(self.sides):
            place, depth = view.project(points)
            seen = depth > 0 if k else depth >= 0
            one: dict[str, Any] = {"color": colour} if isinstance(colour, str) else {"c": np.asarray(colour)[seen]}
            drawn = self.ax.scatter(
                place[seen, 0] + centre,
                place[seen, 1],
                s=sizes[seen],
                edgecolors=BLACK,
                zorder=4,
                clip_on=False,
                **one,
                **marks,
            )
        if drawn is not None:
            drawn.set_label(label)
        return drawn

    def finished(self, caption: str, *, dark: bool = False) -> None:
        """Graticule, rims, the places of the axes, what is front and what is back, and a caption below.

        dark: dark graticule, for a light ground.
        """
        from matplotlib.patches import Circle
        from matplotlib.patheffects import withStroke

        turn, tilt = np.linspace(0, 2 * np.pi, 145), np.radians(np.arange(-60, 61, 30))
        parallels = np.stack(
            np.broadcast_arrays(
                np.cos(tilt)[:, None] * np.cos(turn), np.cos(tilt)[:, None] * np.sin(turn), np.sin(tilt)[:, None]
            ),
            axis=-1,
        )
        half, around = np.linspace(-np.pi / 2, np.pi / 2, 73), np.radians(np.arange(0, 360, 30))[:, None]
        meridians = np.stack(
            np.broadcast_arrays(np.cos(half) * np.cos(around), np.cos(half) * np.sin(around), np.sin(half)), axis=-1
        )
        for path in (parallels, meridians):
            self.curves(path, colors=_INK if dark else _LINES, linewidths=0.5, alpha=0.22 if dark else 0.35, zorder=2)
        names = names_of(self.c)
        for k, (view, centre) in enumerate(self.sides):
            self.ax.add_patch(Circle((centre, 0), 1, fill=False, ec=_INK, lw=1.0, zorder=3, clip_on=False))
            for sign, i in ((s, i) for s in (1, -1) for i in range(3)):
                (px, py), depth = view.project(sign * np.eye(3)[i])
                if depth > 1e-9 or (k == 0 and depth >= 0):
                    self.ax.plot(px + centre, py, "+", color=BLACK, ms=6, mew=1.2, zorder=5,
                                 path_effects=[withStroke(linewidth=2.6, foreground="white")])  # fmt: skip
                    self.ax.annotate(
                        f"{'−' if sign < 0 else ''}{names[i]}".replace("$", r"\$"),
                        (px + centre, py),
                        xytext=(5, 3),
                        textcoords="offset points",
                        fontsize=9.5,
                        fontweight="bold",
                        color=BLACK,
                        zorder=6,
                        path_effects=[withStroke(linewidth=2.4, foreground="white")],
                    )
            side = "front" if k == 0 else "back, seen from the other side"
            self.ax.annotate(
                side, (centre, 1.03), ha="center", va="bottom", fontsize=8.5, color=_INK, annotation_clip=False
            )
        self.ax.set_xlim(-_APART - 1.03, _APART + 1.03)
        self.ax.set_ylim(-1.03, 1.13)
        self.ax.set_xlabel(caption.replace("$", r"\$"), fontsize=8.5)

    def colour_bar(self, shown: Any, label: str) -> Any:
        """Below the discs, which are wide."""
        from matplotlib.colors import Normalize
        from matplotlib.ticker import MaxNLocator

        bar = self.ax.figure.colorbar(shown, ax=self.ax, orientation="horizontal", shrink=0.62, aspect=42, pad=0.03)
        bar.set_label(label.replace("$", r"\$"), fontsize=9)
        if type(shown.norm) is Normalize:
            bar.locator = MaxNLocator(6)
            bar.update_ticks()
        return bar
