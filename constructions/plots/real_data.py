"""Pictures of the experiment on framed digits: accuracies with error bars, and a sequence with what the prompt looks at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from constructions.plots.style import BLACK, BLUE, GREY, ORANGE, RED, dressed, new_axes, two_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from constructions.oymak2023.real_data.experiment import RealDataExperiment

__all__ = ["draw_accuracy", "draw_example"]


def draw_accuracy(found: RealDataExperiment) -> Figure:
    """Test accuracy of every model: bars of the mean, its 95 % interval, and the seeds."""
    ax, c = new_axes(), found.configuration
    x = np.arange(len(found.names))
    ax.bar(x, found.mean, color=(GREY, ORANGE, RED, BLUE), alpha=0.55, width=0.6)
    ax.errorbar(x, found.mean, found.half_width, fmt="none", ecolor=BLACK, capsize=5, lw=1.5)
    for k, values in enumerate(found.accuracy):
        ax.plot(k + np.linspace(-0.18, 0.18, len(values)), values, "o", color=BLACK, ms=3, mfc="none")
    ax.axhline(0.5, color=GREY, lw=1)
    ax.set_ylim(0.45, 1.02)
    labels = [f"{name}\n{count} parameters" for name, count in zip(found.names, found.numbers, strict=True)]
    ax.set_xticks(x, labels)
    ax.set_ylabel("test accuracy")
    first = f"Which of {c.digits[0]} and {c.digits[1]} do the framed patches show? {c.relevant} of {c.tokens} patches are framed"
    two_lines(ax, first, f"bars: mean of {c.seeds} seeds and 95 % interval, points: seeds (sampled); same training budget")  # fmt: skip
    dressed(ax, True)
    return ax.figure  # pyright: ignore[reportReturnType]


def draw_example(found: RealDataExperiment) -> Figure:
    """The patches of one test sequence, with the attention that the trained prompt gives them."""
    import matplotlib.pyplot as plt

    count = len(found.example)
    figure, axes = plt.subplots(1, count, figsize=(1.15 * count, 1.9), layout="constrained", facecolor="white", squeeze=False)  # fmt: skip
    limit = float(np.abs(found.example).max())
    for ax, patch, share in zip(axes[0], found.example, found.example_attention, strict=True):
        ax.imshow(patch, cmap="gray", vmin=-limit, vmax=limit)
        ax.set_title(f"{share:.1%}", fontsize=9, color=BLACK)
        ax.set_axis_off()
    figure.suptitle("A test sequence and the trained prompt's attention (sampled)", fontsize=9.5, color=BLACK)
    return figure
