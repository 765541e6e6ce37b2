"""Pictures of a compiled prefix with matplotlib: fit, error, tokens, attention, convergence, and on spheres the theorem's bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from constructions.plots import on_sphere
from constructions.plots.attention import draw_attention
from constructions.plots.bound import draw_bound
from constructions.plots.convergence import draw_convergence
from constructions.plots.error import draw_error
from constructions.plots.fit import draw_fit
from constructions.plots.style import dressed, new_axes
from constructions.plots.tokens import draw_tokens
from constructions.sampled import pictured
from verify import Sphere

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from constructions.compiled import Compiled

__all__ = ["KINDS", "SPHERE_KINDS", "plot"]

KINDS: Mapping[str, Callable[..., None]] = MappingProxyType({
    "fit": draw_fit,
    "error": draw_error,
    "tokens": draw_tokens,
    "attention": draw_attention,
    "convergence": draw_convergence,
})  # fmt: skip
"""On a box."""

SPHERE_KINDS: Mapping[str, Callable[..., None]] = MappingProxyType({
    "fit": on_sphere.draw_fit,
    "error": on_sphere.draw_error,
    "tokens": on_sphere.draw_tokens,
    "attention": on_sphere.draw_attention,
    "convergence": draw_convergence,
    "bound": draw_bound,
})  # fmt: skip
"""On a sphere."""


def plot(c: Compiled, kind: str = "fit", ax: Axes | None = None, **options: Any) -> Axes:
    """Draw one picture of a compiled prefix and return its axes; nothing is shown or saved.

    ax: where to draw; a new figure is made when None. Options, by kind:
    fit: output (default 0; which component, in two dimensions and on S^2);
    error: cells (boxes per axis of the proved bound, on a box);
    tokens: output (default 0, on spheres);
    attention: output (default 0; whose values colour the tokens);
    convergence: eps (errors to compile for), f (the function, needed for a black box), progress (as for compile_prefix);
    bound (spheres): no options; what the theorem says is enough, with a star at what was built.
    On S^2 fit, error, tokens and attention also take view: longitude and latitude the front is seen from, in degrees.

    Raises ValueError for an unknown kind or option value, a picture that does not exist in the domain's dimension, or a function of
    sequences; TypeError for an option that the kind does not have; ImportError without matplotlib.
    """
    kinds = SPHERE_KINDS if isinstance(pictured(c), Sphere) else KINDS
    if kind not in kinds:
        reason = f"belongs to spheres, not to {c.domain!r}" if kind in SPHERE_KINDS else "is unknown"
        raise ValueError(f"kind = {kind!r} {reason}. Choose among: {', '.join(map(repr, kinds))}.")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError("plotting needs matplotlib: pip install 'prefix-compiler[plot]'") from error
    own = ax is None
    axes = new_axes() if ax is None else ax
    try:
        kinds[kind](c, axes, **options)
    except BaseException:
        if own:  # a refused request leaves no empty figure behind
            import matplotlib.pyplot as plt

            plt.close(axes.figure)  # pyright: ignore[reportArgumentType]
        raise
    dressed(axes, own)
    return axes
