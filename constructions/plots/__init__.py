"""Pictures of a compiled prefix with matplotlib: fit, error, tokens, attention, convergence; on spheres the theorem's bound; of a circuit
its graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from constructions.plots import on_circuit, on_sphere
from constructions.plots.attention import draw_attention
from constructions.plots.bound import draw_bound
from constructions.plots.circuit import draw_circuit, figure_size
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

__all__ = ["CIRCUIT_KINDS", "KINDS", "SPHERE_KINDS", "plot"]

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

CIRCUIT_KINDS: Mapping[str, Callable[..., None]] = MappingProxyType({
    "fit": on_circuit.draw_fit,
    "error": on_circuit.draw_error,
    "circuit": draw_circuit,
    "convergence": draw_convergence,
    "tokens": on_circuit.draw_tokens,
    "attention": on_circuit.draw_attention,
})  # fmt: skip
"""Of a circuit; tokens and attention say what to use instead."""


def plot(c: Compiled, kind: str = "fit", ax: Axes | None = None, **options: Any) -> Axes:
    """Draw one picture of a compiled prefix and return its axes; nothing is shown or saved.

    ax: where to draw; a new figure is made when None. Options, by kind:
    fit: output (default 0; which component, in two dimensions and on S^2);
    error: cells (boxes per axis of the proved bound, on a box);
    tokens: output (default 0, on spheres);
    attention: output (default 0; whose values colour the tokens);
    convergence: eps (errors to compile for), f (the function, needed for a black box), progress (as for compile_prefix);
    bound (spheres): no options; what the theorem says is enough, with a star at what was built;
    circuit (circuits): no options; the graph. Circuits have no tokens and attention, and no cells.
    On S^2 fit, error, tokens and attention also take view: longitude and latitude the front is seen from, in degrees.

    Raises ValueError for an unknown kind or option value, a picture that does not exist in the domain's dimension, or a function of
    sequences (but for the graph of its circuit); TypeError for an option that the kind does not have; ImportError without matplotlib.
    """
    several = c.claim.circuit is not None
    if several and kind == "circuit":  # the one picture of a function of sequences
        kinds = CIRCUIT_KINDS
    else:
        kinds = SPHERE_KINDS if isinstance(pictured(c), Sphere) else CIRCUIT_KINDS if several else KINDS
    if kind not in kinds:
        reason = f"belongs to spheres, not to {c.domain!r}" if kind in SPHERE_KINDS else "is unknown"
        if kind in CIRCUIT_KINDS:
            reason = f"belongs to circuits, and this is one head of method {c.method!r}"
        raise ValueError(f"kind = {kind!r} {reason}. Choose among: {', '.join(map(repr, kinds))}.")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError("plotting needs matplotlib: pip install 'prefix-compiler[plot]'") from error
    own = ax is None
    axes = new_axes() if ax is None else ax
    if own and kind == "circuit":
        axes.figure.set_size_inches(figure_size(c))  # pyright: ignore[reportAttributeAccessIssue]
    try:
        kinds[kind](c, axes, **options)
    except BaseException:
        if own:  # a refused request leaves no empty figure behind
            import matplotlib.pyplot as plt

            plt.close(axes.figure)  # pyright: ignore[reportArgumentType]
        raise
    dressed(axes, own)
    return axes
