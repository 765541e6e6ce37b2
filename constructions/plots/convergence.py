"""Length against error: the same target compiled for several eps, every point a proof of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy as sp

from constructions.captions import shortened
from constructions.errors import CompileError
from constructions.plots.style import BLUE, GREEN, GREY, ORANGE, RED, legend, two_lines
from constructions.problem import GridData
from constructions.progress import reporting
from verify import Expression, ExpressionTarget, GridTarget, LipschitzTarget, Sphere

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from constructions.compiled import Compiled

__all__ = ["draw_convergence", "to_sympy"]


def draw_convergence(
    c: Compiled,
    ax: Axes,
    *,
    eps: Sequence[float] | None = None,
    f: Any = None,
    progress: bool | Callable[[float, str], None] | None = None,
) -> None:
    """Compile the target of `c` with its construction for every eps, and draw tokens against the proved bound.

    eps: by default 1000, 100, 10 and 1 times that of c, and 8, 4, 2 and 1 times for a black box on a sphere. f: the function itself, needed for a black box, of which c records a few
    values only. An eps that cannot be proved is marked as such. Raises ValueError for a black box without f, or without any point.
    """
    factor = 2.0 if isinstance(c.domain, Sphere) and isinstance(c.target, LipschitzTarget) else 10.0
    wanted = sorted(
        {float(e) for e in (eps if eps is not None else [c.eps * factor**k for k in range(4)])}, reverse=True
    )
    if not wanted or not all(math.isfinite(e) and e > 0 for e in wanted):
        raise ValueError(f"eps = {eps!r}, expected one or more finite numbers > 0")
    made, failed = _compile_all(c, _target(c, f), wanted, progress)
    if not made:
        raise ValueError(f"convergence: nothing was proved. {failed[-1][1]}")
    bounds = np.array([m.certificate.error_upper for m in made])
    lengths = np.array([m.length for m in made])
    ax.plot(bounds, lengths, "o-", color=BLUE, ms=5, zorder=3, label="tokens built, at the proved bound")
    drawn = [lengths, *(_theorems(ax, made) if isinstance(c.domain, Sphere) else _lower_bounds(c, ax, made))]
    _law(c, ax, bounds, lengths)
    for e, _ in failed:
        ax.axvline(e, color=RED, lw=1, ls=":", label="nothing proved at this eps" if e == failed[0][0] else None)
    ax.set_xscale("log")
    lengths = np.concatenate(drawn)
    if lengths.max() > 20 * lengths.min():
        ax.set_yscale("log")
        ax.set_ylim(float(lengths.min()) / 2, float(lengths.max()) * (lengths.max() / lengths.min()) ** 0.35)
    else:
        ax.set_ylim(0, lengths.max() * 1.25 + 1)
    ax.invert_xaxis()
    ax.set_xlabel("sup error (smaller to the right)")
    ax.set_ylabel("prefix tokens")
    legend(ax, loc="upper left")
    condition = ", if the declared Lipschitz constant holds" if c.certificate.conditional else ""
    words = f"proved for {len(made)} of {len(wanted)} eps{condition}"
    two_lines(ax, f"Convergence: {shortened(str(c.target), 64)}", f"{c.method}, {words}")


def _lower_bounds(c: Compiled, ax: Axes, made: list[Compiled]) -> list[np.ndarray]:
    """The fewest tokens of any head, at eps."""
    lower = [m.lower_bound.tokens for m in made if m.lower_bound is not None]
    which = "of some function of the class" if isinstance(c.target, LipschitzTarget) else "of this target"
    label = f"fewest tokens of any head, {which} (certified, at eps)"
    ax.plot([m.eps for m in made], lower, "v", color=ORANGE, ms=6, label=label)
    return []


def _theorems(ax: Axes, made: list[Compiled]) -> list[np.ndarray]:
    """What the theorem says of the whole class at eps: so many tokens are enough for every function, so many are needed for some."""
    known = [(m.eps, m.theorem.tokens(), m.theorem.lower_tokens()) for m in made if m.theorem is not None]
    enough = [(e, float(n)) for e, n, _ in known if n is not None and n < 1e300]
    needed = [(e, float(n)) for e, _, n in known if n is not None and n < 1e300]
    if enough:
        ax.plot(
            *zip(*enough, strict=True),
            "^",
            color=GREEN,
            ms=6,
            label="enough for every f as Lipschitz as this one (theorem, at eps)",
        )
    if needed:
        label = "needed for some such f, keys fixed beforehand (theorem, at eps)"
        ax.plot(*zip(*needed, strict=True), "v", color=ORANGE, ms=8, mfc="none", mew=1.6, label=label)
    return [np.array([n for _, n in part]) for part in (enough, needed) if part]


def _compile_all(
    c: Compiled, f: Any, wanted: list[float], progress: Any
) -> tuple[list[Compiled], list[tuple[float, str]]]:
    from constructions.compile import compile_prefix  # compile imports what draws

    declared: dict[str, Any] = {}
    if isinstance(c.target, LipschitzTarget):
        declared = {"lipschitz": c.target.lipschitz, "norm": c.target.norm}
    made, failed = [], []
    if isinstance(c.domain, Sphere):
        declared |= {"sequence_length": c.claim.sequence_length}
        declared.pop("norm", None)  # always the angle
    with reporting(progress) as report:
        for i, e in enumerate(wanted):

            def step(done: float, words: str, i: int = i, e: float = e) -> None:
                report((i + done) / len(wanted), f"eps = {e:g}: {words}")

            try:
                made.append(compile_prefix(f, e, c.domain, method=c.method, progress=step, **declared))
            except CompileError as error:
                failed.append((e, str(error)))
    return made, failed


def _law(c: Compiled, ax: Axes, bounds: np.ndarray, lengths: np.ndarray) -> None:
    """The growth that theory predicts, through the longest prefix: eps^-n by the covering law, log(1/eps)^n for analytic targets; n = m
    on S^m."""
    if len(bounds) < 2:
        return
    n = c.domain.m if isinstance(c.domain, Sphere) else c.domain.dimension
    e = np.geomspace(bounds.max(), bounds.min(), 60)
    if c.method == "covering" or isinstance(c.target, LipschitzTarget):
        rate, name = e ** (-n), "∝ 1/eps" if n == 1 else f"∝ eps^−{n}"
    elif bounds.max() < 1 and isinstance(c.target, ExpressionTarget):
        rate, name = np.log(1 / e) ** n, "∝ log(1/eps)" if n == 1 else f"∝ log(1/eps)^{n}"
    else:
        return
    ax.plot(e, rate * lengths[-1] / rate[-1], color=GREY, lw=1, ls="--", label=name)


def _target(c: Compiled, f: Any) -> Any:
    if f is not None:
        return f
    if isinstance(c.target, ExpressionTarget):
        return to_sympy(c.target.expression)
    if isinstance(c.target, GridTarget):
        return GridData(c.target.axes, c.target.values, c.target.interpolation)
    raise ValueError(
        "f is missing: of a black box only the recorded values are kept, so it cannot be compiled again for another eps. "
        "Pass the function: c.plot('convergence', f=f)."
    )


def to_sympy(expression: Expression) -> list[sp.Expr]:
    """The kernel's expression table as SymPy expressions, one per output: the inverse of from_sympy."""
    symbols = [sp.Symbol(name, real=True) for name in expression.variables]
    done: list[sp.Expr] = []
    for node in expression.nodes:
        args = [done[a] for a in node.args]
        done.append(_term(node.op, args, node.value or "", symbols))
    return [done[o] for o in expression.outputs]


def _term(op: str, args: list[sp.Expr], value: str, symbols: list[sp.Symbol]) -> Any:
    if op == "var":
        return symbols[int(value)]
    if op == "const":
        return {"pi": sp.pi, "e": sp.E}[value] if value in ("pi", "e") else sp.Rational(value)
    if op == "pow":
        return args[0] ** sp.Rational(value)
    if op == "select":
        test = args[0] > 0 if value == ">" else args[0] >= 0
        return sp.Piecewise((args[1], test), (args[2], True))
    combined = {"add": sp.Add, "mul": sp.Mul, "min": sp.Min, "max": sp.Max, "abs": sp.Abs}
    return (combined[op] if op in combined else getattr(sp, op))(*args)
