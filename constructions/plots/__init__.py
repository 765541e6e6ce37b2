"""Pictures of a compiled prefix with matplotlib: fit, error, tokens, attention, convergence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from constructions.plots.attention import draw_attention
from constructions.plots.convergence import draw_convergence
from constructions.plots.error import draw_error
from constructions.plots.fit import draw_fit
from constructions.plots.style import dressed, new_axes
from constructions.plots.tokens import draw_tokens

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from constructions.compiled import Compiled

__all__ = ["KINDS", "plot"]

KINDS: Mapping[str, Callable[..., None]] = MappingProxyType({
    "fit": draw_fit,
    "error": draw_error,
    "tokens": draw_tokens,
    "attention": draw_attention,
    "convergence": draw_convergence,
})  # fmt: skip


def plot(c: Compiled, kind: str = "fit", ax: Axes | None = None, **options: Any) -> Axes:
    """Draw one picture of a compiled prefix and return its axes; nothing is shown or saved.

    ax: where to draw; a new figure is made when None. Options, by kind:
    fit: output (default 0; which component, in two dimensions);
    error: cells (boxes per axis of the proved bound);
    tokens: no options;
    attention: output (default 0; whose values colour the tokens);
    convergence: eps (errors to compile for), f (the function, needed for a black box), progress (as for compile_prefix).

    Raises ValueError for an unknown kind or option value, ImportError without matplotlib.
    """
    if kind not in KINDS:
        raise ValueError(f"kind = {kind!r} is unknown. Choose among: {', '.join(map(repr, KINDS))}.")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError("plotting needs matplotlib: pip install 'prefix-compiler[plot]'") from error
    own = ax is None
    axes = new_axes() if ax is None else ax
    try:
        KINDS[kind](c, axes, **options)
    except BaseException:
        if own:  # a refused request leaves no empty figure behind
            import matplotlib.pyplot as plt

            plt.close(axes.figure)  # pyright: ignore[reportArgumentType]
        raise
    dressed(axes, own)
    return axes
