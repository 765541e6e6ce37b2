"""How every picture looks: colours that colour-blind readers tell apart, dark ink on a white ground whatever the theme."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from constructions.captions import shortened, status_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from constructions.compiled import Compiled

__all__ = [
    "BLACK",
    "BLUE",
    "CYCLE",
    "GREEN",
    "GREY",
    "ORANGE",
    "RED",
    "SKY",
    "chosen_output",
    "dressed",
    "legend",
    "new_axes",
    "titled",
    "two_lines",
]

_TITLE = 9.5
_WIDTH = 100
"""Characters of a line of a title that fit into a figure of our own."""

# Okabe and Ito's palette
BLACK = "#111111"
BLUE = "#0072B2"
ORANGE = "#E69F00"
GREEN = "#009E73"
RED = "#D55E00"
PURPLE = "#CC79A7"
SKY = "#56B4E9"
GREY = "#8A8A8A"
CYCLE = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY)


def new_axes() -> Axes:
    """One set of axes in a new figure with a white ground."""
    import matplotlib.pyplot as plt

    _, ax = plt.subplots(figsize=(7.2, 4.6), layout="constrained", facecolor="white")
    return ax


def titled(ax: Axes, c: Compiled, what: str) -> None:
    """Two lines, or three if they are long: what is shown and of what, then the status in words."""
    second = f"{c.length} tokens ({c.method}), {status_words(c)}"
    two_lines(ax, f"{what}: {shortened(str(c.target), 64)}", second)


def two_lines(ax: Axes, first: str, second: str) -> None:
    """A title that is text, whatever it holds: a dollar sign starts no formula."""
    words = [line for text in (first, second) for line in wrap(text, _WIDTH)]
    ax.set_title("\n".join(words).replace("$", r"\$"), fontsize=_TITLE, loc="left")


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
    ax.set_title(ax.get_title(loc="left"), fontsize=_TITLE, loc="left", color=BLACK)
    for part in ax.figure.axes:
        part.tick_params(colors=BLACK, which="both")
        for text in (part.xaxis.label, part.yaxis.label, part.xaxis.get_offset_text(), part.yaxis.get_offset_text()):
            text.set_color(BLACK)
        for spine in part.spines.values():
            spine.set_color("#555555")
