"""The graph of a circuit: layers as columns, the inputs on the left, the outputs on the right.

A value that is read beyond the next column gets a lane of its own through the columns between, so that no edge passes under a box.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np

from constructions.circuits.describe import hint_of, layer_tokens, node_sensitivities, node_views, plain
from constructions.plots.style import BLACK, BLUE, GREY, ORANGE, titled
from verify.circuit import used_variables

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from constructions.compiled import Compiled

__all__ = ["draw_circuit", "figure_size"]

_HALF = 0.36
"""Half the width of a box; columns are 1 apart."""
_END = 0.13
"""Half the width of the box of an input or output."""
_FONT = 8.0
_LINES = 2
"""Lines of text for a function, and for each thing it reads."""
_SWEEPS = 6


@dataclass(frozen=True)
class _Item:
    """What takes room in a column: a box with its text, or the lane (no text) of a value passing by. value: the index of a variable (from
    0), of a node (from n), or of an output (after the nodes)."""

    column: int
    value: int
    text: tuple[str, ...]
    sources: tuple[int, ...]

    @property
    def height(self) -> float:
        return 0.4 if not self.text else 0.55 + 0.45 * len(self.text)


def figure_size(c: Compiled) -> tuple[float, float]:
    """Inches for a figure in which the boxes are legible. Raises ValueError for a result that is no circuit."""
    layers = layer_tokens(c)
    tall = max(2.2 * max(len(layer) for layer in layers), 0.7 * hint_of(c).circuit.outputs.dimension / 2, 2.5)
    return max(7.2, 1.9 * len(layers) + 2.4), min(max(4.6, 0.55 * tall + 2.0), 14.0)


def draw_circuit(c: Compiled, ax: Axes) -> None:
    """Boxes: a node's function, what it reads, and its tokens. Lines: which values are read; the wider, the more an error of the value
    counts (its sensitivity, on a logarithmic scale). Raises ValueError for a result that is no circuit."""
    columns = len(layer_tokens(c)) + 2
    points = 72 * ax.get_window_extent().width / ax.figure.dpi  # of the whole width
    across = max(8, int(points / (columns - 1 + 2 * _END) * (2 * _HALF) / (0.6 * _FONT)))
    boxes = _boxes(c, columns, across)
    items = [*boxes, *_lanes(boxes)]
    places = _places(items, columns)
    by_place = {(item.column, item.value): item for item in items}
    widths = _line_widths(c)
    drawn: set[tuple[int, int, float]] = set()
    for box in boxes:
        for source in box.sources:
            _edge(ax, box, source, boxes, places, widths[source], columns, drawn)
    for item in items:
        if item.text:
            _box(ax, item, places[item.column, item.value], columns)
    top = max(places[key] + item.height / 2 for key, item in by_place.items())
    bottom = min(places[key] - item.height / 2 for key, item in by_place.items())
    counts = [f"layer {l}\n{sum(tokens)} tokens" for l, tokens in enumerate(layer_tokens(c))]
    for column, words in enumerate(["inputs", *counts, "outputs"]):
        ax.text(column, top + 0.25, words, ha="center", va="bottom", fontsize=_FONT + 0.5, color=BLACK)
    ax.text(
        -_END, bottom - 0.3, "lines: what is read; wider where an error counts more", fontsize=_FONT, color="#444444", va="top"
    )  # fmt: skip
    ax.set_xlim(-_END - 0.06, columns - 1 + _END + 0.06)
    ax.set_ylim(bottom - 0.9, top + 1.5)
    ax.set_axis_off()
    titled(ax, c, "Circuit")


def _boxes(c: Compiled, columns: int, across: int) -> list[_Item]:
    circuit = hint_of(c).circuit
    n, views = len(circuit.variables), node_views(c)
    out: list[_Item] = []
    for view in views:
        words = [*_wrapped(f"{view.name} = {view.function}", across)]
        for argument in view.arguments.split(", ") if len(view.reads) == 2 else [view.arguments]:
            words += _wrapped(argument, across)
        place = min(max(view.layer, 0), columns - 3) + 1
        out.append(_Item(place, n + view_index(view.name), (*words, f"{view.tokens} tokens"), view.sources))
    first = n + len(views)
    many = len(circuit.outputs.outputs) > 1
    # each output alone, as their expression shares one table
    for i, output in enumerate(circuit.outputs.outputs):
        alone = type(circuit.outputs)(circuit.outputs.nodes, (output,), circuit.outputs.variables)
        name = f"out{i}" if many else "out"
        out.append(_Item(columns - 1, first + i, (name,), tuple(sorted(used_variables(alone)))))
    used = {s for item in out for s in item.sources if s < n}
    return [_Item(0, v, (circuit.variables[v],), ()) for v in sorted(used)] + out
