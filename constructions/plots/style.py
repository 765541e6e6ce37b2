"""How every picture looks: colours that colour-blind readers tell apart, dark ink on a white ground whatever the theme."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from constructions.captions import shortened, status_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from constructions.compiled import Compiled

__all__ = ["BLACK", "BLUE", "CYCLE", "GREEN", "GREY", "ORANGE", "RED", "SKY", "chosen_output", "dressed", "legend", "new_axes", "titled"]

# Okabe and Ito's palette
BLACK, BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#111111", "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
GREY = "#8A8A8A"
CYCLE = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY)


def new_axes() -> Axes:
    """One set of axes in a new figure with a white ground."""
    import matplotlib.pyplot as plt

    _, ax = plt.subplots(figsize=(7.2, 4.6), layout="constrained", facecolor="white")
    return ax


def titled(ax: Axes, c: Compiled, what: str) -> None:
    """Two lines: what is shown and of what, then the status in words."""
    title = f"{what}: {shortened(str(c.target), 64)}\n{c.length} tokens ({c.method}), {status_words(c)}"
    ax.set_title(title.replace("$", r"\$"), fontsize=9.5, loc="left")


def chosen_output(c: Compiled, output: int) -> int:
    """`output`, if there is such a component. Raises ValueError."""
    if not (isinstance(output, (int, np.integer)) and 0 <= output < c.values.shape[1]):
        raise ValueError(f"output = {output!r}: the model has the outputs 0 to {c.values.shape[1] - 1}")
    return int(output)


def legend(ax: Axes, **options: Any) -> None:
    """A legend on a white ground."""
    ax.legend(fontsize=8.5, facecolor="white", edgecolor="#CCCCCC", labelcolor=BLACK, framealpha=0.9, **options)


def dressed(ax: Axes, own: bool) -> None:
    """White ground inside the axes. In a figure of our own the words get dark ink too; in the user's they keep the user's."""
    ax.set_facecolor("white")
    if not own:
        return
    figure = ax.figure
    for part in figure.axes:
        part.tick_params(colors=BLACK, which="both")
        for text in (part.title, part.xaxis.label, part.yaxis.label, part.get_children()[0]):
            if hasattr(text, "set_color"):
                text.set_color(BLACK)
        part._left_title.set_color(BLACK)  # type: ignore[attr-defined]
        for spine in part.spines.values():
            spine.set_color("#555555")
