"""Pictures of a floor: loss curves that flatten on it, and the two rays that no prompt can stand on at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from constructions.captions import downward, upward
from constructions.plots.style import BLACK, BLUE, CYCLE, GREEN, GREY, RED, dressed, legend, new_axes, two_lines
from constructions.wang2023.floor.cones import frame_of
from constructions.wang2023.floor.forward import summary
from constructions.wang2023.floor.result import PromptFloor
from constructions.wang2023.floor.tuning import TuningCurves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_curves", "draw_rays"]


def draw_curves(floor: PromptFloor, curves: TuningCurves, ax: Axes | None = None) -> Figure:
    """The best error so far of gradient prompt-tuning with prompts of several lengths (dashed: sampled) above the certified floor (solid: proved).

    Raises ValueError where no positive floor is proved.
    """
    lower, upper = floor.floor
    if not (floor.verdict.proved and lower > 0):
        raise ValueError(f"floor: {floor!r} proves no positive floor to be drawn.")
    own = ax is None
    axes = new_axes() if ax is None else ax
    for k, (length, errors) in enumerate(zip(curves.lengths, curves.errors, strict=True)):
        colour = CYCLE[k % len(CYCLE)] if k < len(CYCLE) else BLACK
        axes.plot(
            curves.steps,
            errors,
            "--",
            color=colour,
            lw=1.3,
            label=f"{length} token{'s' if length > 1 else ''} (sampled)",
        )
    axes.axhline(lower, color=BLACK, lw=2, label=f"proved floor ≥ {downward(lower, 6)}, all prompts of all lengths")
    axes.axhspan(0, lower, color=GREY, alpha=0.18, lw=0)
    axes.axhline(upper, color=GREEN, lw=1, ls="-", label=f"reached by the built prompt: ≤ {upward(upper, 6)} (proved)")
    axes.set_xscale("log")
    top = float(curves.errors[:, 0].max())
    axes.set_ylim(0.9 * lower if top < 4 * lower else 0.0, min(top, 4 * lower) * 1.02)
    axes.set_xlabel("steps of Adam")
    axes.set_ylabel("largest error over the examples, best so far")
    legend(axes, loc="upper right")
    starts = curves.final.shape[1]
    two_lines(
        axes,
        f"Gradient prompt-tuning stops at the floor: d = {floor.layer.width}, d_v = {floor.layer.value_width}, heads = {floor.layer.heads}",
        f"{starts} starts per length; best sampled error {upward(curves.best, 7)}, proved floor {downward(lower, 7)}",
    )
    dressed(axes, own)
    return _figure(axes)


def draw_rays(floor: PromptFloor, ax: Axes | None = None) -> Figure:
    """Where a prompt's value would have to be. One head, two examples.

    With softmax mass t a prompt memorises example i exactly if its value O a_P is the point t_i = z_i + (Z_i/t)(z_i - O a_i) of the ray from z_i away from
    the example's own average. One prompt has one value and one mass: it would need t_1 = t_2 at the same t. Joined pairs of points belong
    to one t; the error left is (t_1 - t_2) times a factor below 1, and the floor is its least length. Drawn in the plane of the
    two rays' main directions. Raises ValueError for anything else.
    """
    if floor.layer.heads != 1 or len(floor.examples) != 2 or floor.layer.feedforward is not None:
        raise ValueError(
            f"floor: the rays exist for one head, two examples and no feed-forward block. Not so for {floor!r}."
        )
    own = ax is None
    axes = new_axes() if ax is None else ax
    s = summary(floor.layer, floor.examples)
    z = floor.targets - s.constant
    output = floor.layer.outputs[0] @ floor.layer.value[0]
    a = s.mean[:, 0] @ output.T
    centre = z.mean(axis=0)
    plane = _plane(np.stack([z[0] - z[1], z[0] - a[0], z[1] - a[1]]))
    tokens, counts = floor.tokens
    logits = tokens @ s.kappa[0] + np.log(counts)
    log_mass = float(np.logaddexp.reduce(logits))
    value = np.exp(logits - log_mass) @ tokens @ output.T

    def flat(points: np.ndarray) -> np.ndarray:
        return (points - centre) @ plane

    ratios = np.exp(s.log_mass[:, 0] - log_mass)  # Z_i / t of the built prompt
    reach = 2.2
    for i, colour in enumerate((BLUE, RED)):
        away = z[i] - a[i]
        ray = flat(z[i] + np.linspace(0, reach * ratios[i], 2)[:, None] * away)
        axes.plot(
            *ray.T,
            color=colour,
            lw=1.8,
            label=f"ray {i + 1}: values that memorise example {i + 1}, one for each mass t",
        )
        axes.plot(*flat(z[i][None]).T, "o", color=colour, ms=7, label=f"target {i + 1} (t = ∞)")
        axes.plot(*flat(a[i][None]).T, "s", color=colour, ms=6, mfc="white", label=f"average {i + 1}, without a prompt")
    for factor in (0.0, 0.5, 1.5, 2.0):
        joined = flat(z + factor * ratios[:, None] * (z - a))
        axes.plot(*joined.T, color=GREY, lw=0.8, ls=":")
    best = z + ratios[:, None] * (z - a)
    lower, upper = floor.floor
    axes.plot(*flat(best).T, color=BLACK, lw=1.4, label="the gap at the built prompt's mass")
    axes.plot(*flat(value[None]).T, "*", color=GREEN, ms=13, label="value of the built prompt")
    outputs = flat((ratios[:, None] * a + value) / (1 + ratios[:, None]))
    for i, colour in enumerate((BLUE, RED)):
        ends = np.stack([outputs[i], flat(z[i][None])[0]])
        axes.plot(*ends.T, color=colour, lw=2.6, alpha=0.45)
    axes.plot(*outputs.T, "x", color=BLACK, ms=7, label="outputs with it: thick bars are the errors that remain")
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel("first direction of the rays")
    axes.set_ylabel("second direction")
    legend(axes, loc="center left", bbox_to_anchor=(1.01, 0.5))
    words = f"proved: {downward(lower, 6)} ≤ floor ≤ {upward(upper, 6)}" if floor.verdict.proved else "floor undecided"
    two_lines(axes, "Two rays, one value: no prompt memorises both examples", words + "; dotted: other masses")
    dressed(axes, own)
    if own:
        _figure(axes).set_size_inches(10.2, 4.8)
    return _figure(axes)


def _plane(directions: np.ndarray) -> np.ndarray:
    """Two orthonormal columns along which the rows extend most; a zero column where they all lie on a line."""
    frame = frame_of(directions)[:, :2]
    return np.column_stack([frame, np.zeros((len(frame), 2 - frame.shape[1]))])


def _figure(axes: Axes) -> Figure:
    from matplotlib.figure import Figure

    figure = axes.figure
    assert isinstance(figure, Figure)
    return figure
