"""Pictures of the separation: phase diagrams, the sharp threshold of self-attention, margins over temperatures, accuracies on samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from constructions.captions import downward, upward
from constructions.oymak2023.separation.compile import ContextPrompt
from constructions.oymak2023.separation.phases import DiagonalDiagram, PhaseDiagram
from constructions.oymak2023.separation.samples import TrainedOnSamples
from constructions.oymak2023.separation.temperature import least_margins
from constructions.oymak2023.separation.training import KINDS
from constructions.plots.style import BLACK, BLUE, GREEN, GREY, ORANGE, RED, dressed, legend, new_axes, two_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_margins", "draw_phases", "draw_samples", "draw_threshold"]

_NAMES = {
    "averaging": "averaging",
    "linear": "linear prompt-attention",
    "self-attention": "self-attention",
    "prompt": "softmax prompt-attention",
}
_SHOWN = 40


def draw_phases(diagram: PhaseDiagram) -> Figure:
    """One row per zeta, one column per model. Squares: the proved best accuracy over all weights (hatched: proved only to lie between two values, drawn as the lower
    one); dots: what optimised weights reach (sampled weights, exact accuracy)."""
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch, Rectangle

    rows = len(diagram.relevant)
    figure, axes = plt.subplots(
        rows,
        len(KINDS),
        figsize=(13, 3.1 * rows + 1.1),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
        facecolor="white",
    )
    colours = plt.get_cmap("viridis")
    width, height = (float(np.diff(a).min()) if len(a) > 1 else 1.0 for a in (diagram.delta_q, diagram.delta_w))
    x, y = np.meshgrid(diagram.delta_q, diagram.delta_w, indexing="ij")
    image = None
    for r in range(rows):
        for c, kind in enumerate(KINDS):
            ax = axes[r][c]
            low, high, seen = (a[c, r] for a in (diagram.lower, diagram.upper, diagram.measured))
            image = ax.pcolormesh(
                diagram.delta_q, diagram.delta_w, low.T, cmap=colours, vmin=0.5, vmax=1.0, shading="nearest", alpha=0.75
            )
            for i, j in np.argwhere(high > low):
                corner = (float(diagram.delta_q[i]) - width / 2, float(diagram.delta_w[j]) - height / 2)
                ax.add_patch(Rectangle(corner, width, height, hatch="////", fill=False, ec="white", lw=0))
            ax.scatter(x.ravel(), y.ravel(), c=seen.ravel(), cmap=colours, vmin=0.5, vmax=1.0, s=13, ec=BLACK, lw=0.4)
            if r == 0:
                ax.set_title(_NAMES[kind], fontsize=9.5, loc="left", color=BLACK)
            if c == 0:
                ax.set_ylabel(f"zeta = {diagram.relevant[r] / diagram.tokens:.3g}\ndelta_w")
            if r == rows - 1:
                ax.set_xlabel("delta_q")
            dressed(ax, False)
    assert image is not None
    bar = figure.colorbar(image, ax=axes, shrink=0.7, label="best accuracy over all weights")
    bar.ax.tick_params(labelsize=8.5)
    dot = Line2D([], [], marker="o", ls="", mfc=GREY, mec=BLACK, ms=5, label="optimised weights (measured)")
    square = Patch(fc=GREY, alpha=0.75, label="proved best accuracy")
    open_cell = Patch(fc=GREY, ec="white", hatch="////", label="proved to be at least this; 1 not excluded")
    figure.legend(handles=[square, open_cell, dot], loc="outside lower center", ncols=3, fontsize=8.5, frameon=False)
    mixture = "{(0, 0), (δq, δw)}" if diagram.family == "origin" else "{(δq, δw), (δq, −δw)}"
    figure.suptitle(
        f"Mixtures {mixture}, noise-free: measured never above the proved bounds (largest excess {max(diagram.excess, 0.0):g})",
        fontsize=10,
        color=BLACK,
    )
    return figure


def draw_threshold(diagram: DiagonalDiagram, ax: Axes | None = None) -> Figure:
    """Self-attention on the hard mixtures over (zeta, Delta): the threshold, proved from both sides (solid), the closed form (solid, thin), measured accuracies (dots)."""
    own = ax is None
    axes = _wide() if ax is None else ax
    zeta = diagram.relevant / diagram.tokens
    x, y = np.meshgrid(zeta, diagram.delta, indexing="ij")
    top = 1.25 * diagram.delta.max()
    axes.plot(zeta, diagram.threshold[:, 1], color=BLACK, lw=2, label="sharp threshold (proved on both sides)")
    axes.plot(zeta, diagram.sufficient, color=ORANGE, lw=1.2, label="1/((1−ζ) min(ζ, 1−ζ)) − 1 (proved, closed form)")
    axes.fill_between(zeta, diagram.threshold[:, 1], max(top, 1.0), color=GREY, alpha=0.2, lw=0)
    values = np.unique(diagram.measured)
    for value, colour in zip(values, (RED, ORANGE, BLUE, GREEN)[-len(values) :], strict=False):
        at = diagram.measured == value
        axes.plot(x[at], y[at], "o", ms=4, color=colour, label=f"accuracy {value:.4g} (measured, optimised weights)")
    axes.set_yscale("log")
    axes.set_ylim(0.8 * diagram.delta.min(), top)
    axes.set_xlabel("share of relevant tokens ζ")
    axes.set_ylabel("Δ")
    legend(axes, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    mixture = "{(0, 0), (Δ, Δ)}" if diagram.family == "origin" else "{(Δ, Δ), (Δ, −Δ)}"
    limit = "exactly 1/2" if diagram.family == "origin" else "at most 3/4"
    two_lines(
        axes,
        f"Self-attention on the mixture {mixture}: best accuracy {limit} above the line, 1 below",
        f"{diagram.measured.size} settings, T = {diagram.tokens}, no noise; softmax prompt-attention is at 1 everywhere",
    )
    dressed(axes, own)
    return _figure(axes)


def draw_margins(compiled: ContextPrompt, ax: Axes | None = None, *, samples: int = 2000, seed: int = 0) -> Figure:
    """The least margin over the support as a function of the temperature (line: worst noise, float64), the proved one (diamond), and the least of sampled sequences (dots)."""
    own = ax is None
    axes = _wide() if ax is None else ax
    end = 2.5 * compiled.temperature if compiled.temperature else 5 / float(compiled.data.q_star @ compiled.data.q_star)
    taus = np.linspace(0, end, 101)
    axes.plot(taus, least_margins(compiled.data, taus), color=BLUE, lw=1.6, label="worst noise (theory, float64)")
    x, y = compiled.data.sample(samples, seed)
    few = taus[:: len(taus) // 12]
    seen = [float((y * type(compiled.model)(t * compiled.data.q_star, compiled.head)(x)).min()) for t in few]
    axes.plot(few, seen, "o", ms=4, color=RED, label=f"least of {samples} sampled sequences")
    verdict = compiled.verdict
    if verdict.proved:
        axes.plot(
            [compiled.temperature],
            [verdict.lower],
            "D",
            ms=7,
            color=GREEN,
            label=f"proved: y f(X) ≥ {downward(verdict.lower, 4)} on the whole support",
        )
    axes.axhline(0, color=GREY, lw=0.8)
    axes.set_xlabel("temperature τ of the prompt τ q⋆")
    axes.set_ylabel("least margin y f(X)")
    legend(axes, loc="lower right")
    two_lines(axes, f"Margin of prompt-attention: {verdict.status}", repr(compiled.data).strip("<>"))
    dressed(axes, own)
    return _figure(axes)


def draw_samples(result: TrainedOnSamples, ax: Axes | None = None) -> Figure:
    """Test accuracies after training (points, standard errors over seeds) under the proved bounds for any weights (solid)."""
    own = ax is None
    axes = _wide() if ax is None else ax
    place = np.arange(len(KINDS))
    for k, bound in zip(place, result.bound, strict=True):
        words = "proved bound for all weights" + (", data without noise" if result.noisy else "")
        axes.plot([k - 0.3, k + 0.3], [bound] * 2, color=BLACK, lw=2, label=words if k == 0 else None)
    axes.errorbar(
        place,
        result.mean,
        yerr=2 * result.error,
        fmt="o",
        color=RED,
        capsize=4,
        label=f"trained, test accuracy (sampled; mean ± 2 s.e. of {result.test.shape[1]} seeds)",
    )
    axes.set_xticks(place, [_NAMES[kind].replace(" ", "\n", 1) for kind in KINDS])
    axes.set_ylim(0.4, 1.05)
    axes.set_ylabel("accuracy")
    legend(axes, loc="lower right")
    worst = upward(float((result.mean - result.bound).max()), 2)
    two_lines(
        axes, "Trained on samples, beside what is proved", f"{result.setting.strip('<>')}; largest excess {worst}"
    )
    dressed(axes, own)
    return _figure(axes)


def _wide() -> Axes:
    axes = new_axes()
    _figure(axes).set_size_inches(9.2, 5.2)
    return axes


def _figure(axes: Axes) -> Figure:
    from matplotlib.figure import Figure

    figure = axes.figure
    assert isinstance(figure, Figure)
    return figure
