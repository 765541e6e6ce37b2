"""The tokens built, beside the number that theory says suffices for the whole class."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from constructions.captions import status_words, upward
from constructions.plots.style import BLACK, BLUE, GREEN, ORANGE, RED, legend, two_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from constructions.compiled import Compiled

__all__ = ["draw_bound"]


def draw_bound(c: Compiled, ax: Axes) -> None:
    """The Jackson-type bounds of the head's kind against eps, for the Lipschitz constant and size of the target, and a star at what was
    built. Raises ValueError for a result without a theorem."""
    if c.theorem is None:
        raise ValueError(
            f"kind = 'bound': no bound of the length is recorded for this result of method {c.method!r}. It needs a sphere and a finite "
            "Lipschitz constant; draw 'convergence' instead."
        )
    from constructions.petrov2024.jackson import theorem_for

    known = c.theorem.values
    m, lipschitz, size, length = c.domain.dimension - 1, known["L"], known.get("F"), int(known.get("T", 1))
    decade = math.log10(c.eps)
    eps = 10.0 ** np.linspace(math.ceil(decade + 1), math.floor(decade - 1.5), 41)

    def growth(method: str) -> tuple[Float[np.ndarray, " E"], Float[np.ndarray, " E"]]:
        found = [theorem_for(method, m, eps=float(e), lipschitz=lipschitz, bound_f=size, length=length) for e in eps]
        return np.array([t.log10_tokens() for t in found]), np.array([t.log10_lower() for t in found])

    enough, needed = growth(c.method)
    ax.plot(eps, enough, "-", color=BLUE, lw=2, label=f"enough for every such f: {c.method} head (theorem)")
    if size is not None:
        other = "split" if c.method == "core" else "core"
        ax.plot(
            eps, growth(other)[0], "--", color=GREEN, lw=1.4, label=f"enough for every such f: {other} head (theorem)"
        )
    ax.plot(eps, needed, ":", color=ORANGE, lw=2, label="needed for some such f, keys fixed beforehand (theorem)")
    ax.plot(c.eps, math.log10(c.length), "*", color=RED, ms=15, mec=BLACK, mew=0.7, zorder=5,
            label=f"built for this f: {c.length} tokens ({c.method})")  # fmt: skip
    ax.set_xscale("log")
    ax.set_xlim(eps[0], eps[-1])
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, 0.0), high + 0.5 * (high - min(low, 0.0)))
    ax.set_xlabel("sup error eps (smaller to the right)")
    ax.set_ylabel("log10 of the number of tokens")
    legend(ax, loc="upper left")
    such = f"Lipschitz constant ≤ {upward(lipschitz, 4)}" + ("" if size is None else f", |f| ≤ {upward(size, 4)}")
    two_lines(ax, f"Tokens that suffice on S^{m}: {such}", f"{c.length} tokens ({c.method}), {status_words(c)}")
