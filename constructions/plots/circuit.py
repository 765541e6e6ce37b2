"""The graph of a circuit: layers as columns, the inputs on the left, the outputs on the right.

A value that is read beyond the next column gets a lane of its own through the columns between, so that no line passes under a box.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import isotonic_regression

from constructions.circuits.describe import hint_of, layer_tokens, node_sensitivities, node_views, output_name
from constructions.plots.style import BLACK, CYCLE, titled
from verify.circuit import used_variables

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from constructions.compiled import Compiled

__all__ = ["draw_circuit", "figure_size"]

_HALF, _END = 0.37, 0.13
"""Half the width of a node's box, and of an input's or output's; columns are 1 apart."""
_FONT = 8.0
_LINE, _PAD, _LANE, _GAP = 0.45, 0.5, 0.5, 0.35
"""Heights: of a line of text, of a box beside its text, of a lane, between neighbours."""
_INCHES = 0.33
"""Of a figure of our own, for each unit of height."""
_LINES = 2
"""Lines of text for a function, and for each thing that it reads."""
_SWEEPS = 8

Place = tuple[int, int]
"""Column, and which value: the index of a variable (from 0), of a node (from n), of an output (after the nodes)."""


@dataclass(frozen=True)
class _Item:
    """What takes room in a column: a box with its text, or the lane (no text) of a value on its way. sources: values read."""

    place: Place
    text: tuple[str, ...]
    sources: tuple[int, ...]

    @property
    def height(self) -> float:
        return _PAD + _LINE * len(self.text) if self.text else _LANE


def figure_size(c: Compiled) -> tuple[float, float]:
    """Inches for a figure in which the boxes are legible. Raises ValueError for a result that is no circuit."""
    columns = len(layer_tokens(c)) + 2
    wide = max(7.2, 2.1 * (columns - 1))
    items = _items(c, _characters(72 * wide, columns))
    tallest = max(sum(i.height + _GAP for i in items if i.place[0] == column) for column in range(columns))
    return wide, min(max(3.6, _INCHES * (tallest + 4)), 20.0)


def draw_circuit(c: Compiled, ax: Axes) -> None:
    """Boxes: a node's function, what it reads, and its tokens. Lines: which values are read, one colour for each; the wider, the more an
    error of the value counts (its sensitivity, on a logarithmic scale). Raises ValueError for a result that is no circuit."""
    columns = len(layer_tokens(c)) + 2
    frame = ax.get_window_extent()
    items = _items(c, _characters(72 * frame.width / ax.figure.dpi, columns))
    heights = _heights(items, columns)
    top = max(heights[i.place] + i.height / 2 for i in items)
    bottom = min(heights[i.place] - i.height / 2 for i in items)
    low, high = bottom - 1.0, top + 1.5
    font = min(_FONT, _LINE * 72 * frame.height / ax.figure.dpi / (high - low) / 1.3)
    _lines(c, ax, items, heights, columns)
    for item in items:
        if item.text:
            _box(ax, item, heights[item.place], columns, font)
    layers = [f"layer {l}\n{sum(tokens)} tokens" for l, tokens in enumerate(layer_tokens(c))]
    for column, words in enumerate(["inputs", *layers, "outputs"]):
        ax.text(column, top + 0.3, words, ha="center", va="bottom", fontsize=font, color=BLACK, fontweight="bold")
    note = "lines: values that are read, wider where an error of the value counts more (inputs are exact)"
    ax.text(-_END, low + 0.1, note, ha="left", va="bottom", fontsize=font, color="#444444")
    ax.set_xlim(-_END - 0.05, columns - 1 + _END + 0.05)
    ax.set_ylim(low, high)
    ax.set_axis_off()
    titled(ax, c, "Circuit")


def _characters(points: float, columns: int) -> int:
    """Of text that fit on a line of a box, in axes of that width."""
    return max(10, int(points / (columns - 1 + 2 * _END) * 2 * _HALF / (0.56 * _FONT)))


def _wrapped(text: str, across: int) -> list[str]:
    lines = wrap(text, across, subsequent_indent="  ") or [""]
    return lines if len(lines) <= _LINES else [*lines[: _LINES - 1], lines[_LINES - 1][: across - 4] + " ..."]


def _items(c: Compiled, across: int) -> list[_Item]:
    """The boxes, and the lanes between each value and the last column that reads it."""
    circuit, last = hint_of(c).circuit, len(layer_tokens(c)) + 1
    n, views = len(circuit.variables), node_views(c)
    boxes = []
    for i, view in enumerate(views):
        words = [line for text in (f"{view.name} = {view.function}", *view.bound) for line in _wrapped(text, across)]
        column = min(max(view.layer + 1, 1), last - 1)
        boxes.append(_Item((column, n + i), (*words, f"{view.tokens} tokens"), view.sources))
    many = len(circuit.outputs.outputs) > 1
    for i, output in enumerate(circuit.outputs.outputs):
        read = used_variables(replace(circuit.outputs, outputs=(output,)))
        words = tuple(output_name(c, i).rsplit(" ", 1)) if many else ("out",)
        boxes.append(_Item((last, n + len(views) + i), words, tuple(sorted(read))))
    inputs = sorted({s for box in boxes for s in box.sources if s < n})
    boxes = [*(_Item((0, v), (circuit.variables[v],), ()) for v in inputs), *boxes]
    column_of = {box.place[1]: box.place[0] for box in boxes}
    reach = dict(column_of)
    for box in boxes:
        reach |= {s: max(reach[s], box.place[0]) for s in box.sources}
    lanes = [_Item((k, v), (), (v,)) for v, start in column_of.items() for k in range(start + 1, reach[v])]
    return [*boxes, *lanes]


def _heights(items: Sequence[_Item], columns: int) -> dict[Place, float]:
    """Where items stand: each column in the order of the means of its items' neighbours, as near to these means as room permits (least
    squares with an order, that is isotonic regression), columns visited from left to right and back."""
    table = [[item for item in items if item.place[0] == k] for k in range(columns)]
    left = {i.place: [(i.place[0] - 1, s) for s in i.sources] for i in items}
    right: dict[Place, list[Place]] = {i.place: [] for i in items}
    for place, sources in left.items():
        for source in sources:
            right.setdefault(source, []).append(place)
    y = {item.place: -float(k) for column in table for k, item in enumerate(column)}
    for sweep in range(_SWEEPS):
        last = sweep >= _SWEEPS - 2
        for column in table if sweep % 2 == 0 else table[::-1]:
            beside = {}
            for item in column:
                chosen = left if sweep % 2 == 0 else right
                near = [*left[item.place], *right[item.place]] if last else chosen[item.place]
                known = [y[p] for p in near if p in y]
                beside[item.place] = float(np.mean(known)) if known else y[item.place]
            column.sort(key=lambda item: -(y if last else beside)[item.place])
            _settle(column, beside, y)
    return y


def _settle(column: Sequence[_Item], wanted: Mapping[Place, float], y: dict[Place, float]) -> None:
    """Heights from the top as near to the wanted ones as the items' sizes permit."""
    if not column:
        return
    sizes = [item.height for item in column]
    apart = np.cumsum([0.0, *((a + b) / 2 + _GAP for a, b in pairwise(sizes))])
    free = isotonic_regression([wanted[i.place] + d for i, d in zip(column, apart, strict=True)], increasing=False).x
    y |= {item.place: float(v - d) for item, v, d in zip(column, free, apart, strict=True)}


def _half(column: int, columns: int) -> float:
    return _END if column in (0, columns - 1) else _HALF


def _lines(c: Compiled, ax: Axes, items: Sequence[_Item], y: Mapping[Place, float], columns: int) -> None:
    """From each value to the boxes that read it, through its lanes."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    n = len(hint_of(c).circuit.variables)
    weights = np.array([0.0 if not np.isfinite(w) else w for w in node_sensitivities(c)])
    size = np.log10(np.maximum(weights, 1e-300) / max(weights.max(initial=0.0), 1e-300))
    widths = [1.0] * n + [float(np.clip(3.5 + 0.8 * s, 1.0, 3.5)) for s in size]
    for item in items:
        column, own = item.place
        for s in item.sources:
            if (column - 1, s) not in y:  # a file may place a node before what it reads
                continue
            colour, width = CYCLE[s % len(CYCLE)], widths[s]
            start = (column - 1 + _half(column - 1, columns), y[column - 1, s])
            end = (column - _half(column, columns), y[column, own])
            middle = (start[0] + end[0]) / 2
            curve = [start, (middle, start[1]), (middle, end[1]), end]
            codes = [Path.MOVETO, *[Path.CURVE4] * 3]
            if not item.text:  # a lane: on to its other side
                curve.append((column + _half(column, columns), end[1]))
                codes.append(Path.LINETO)
            ax.add_patch(
                PathPatch(Path(curve, codes), fill=False, edgecolor=colour, lw=width, zorder=1, capstyle="round")
            )


def _box(ax: Axes, item: _Item, y: float, columns: int, font: float) -> None:
    from matplotlib.patches import FancyBboxPatch

    column = item.place[0]
    half, node = _half(column, columns), 0 < column < columns - 1
    corner = (column - half, y - item.height / 2)
    ground = "#F3F6FA" if node else "#E8E8E8"
    style = "round,pad=0,rounding_size=0.04"
    ax.add_patch(
        FancyBboxPatch(corner, 2 * half, item.height, style, facecolor=ground, edgecolor="#555555", lw=0.9, zorder=2)
    )
    start = y + _LINE * (len(item.text) - 1) / 2
    for k, words in enumerate(item.text):
        tokens = node and k == len(item.text) - 1
        ax.text(
            column,
            start - k * _LINE,
            words.replace("$", r"\$"),
            ha="center",
            va="center",
            fontsize=font,
            color="#444444" if tokens else BLACK,
            fontstyle="italic" if tokens else "normal",
            zorder=3,
        )
