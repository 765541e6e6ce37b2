"""How long a prefix is enough on the sphere, and how short is too short: Jackson-type bounds with every constant.

The class: f on S^m with |f(x) - f(y)| <= L angle(x, y) and |f| <= F (vectors: component by component). N tokens, sup error eps.

Cubed net. Cut each of the 2(m+1) faces of [-1, 1]^{m+1} into q^m cubes of side 2/q and project to the sphere. On a face |x| >= 1, where
x -> x/|x| is a contraction, so every point is within an angle sqrt(m)/q of the projected centre of its cell: 2(m+1) q^m
points of covering radius sqrt(m)/q, and as many cells of that radius. On S^1: N points or arcs of radius pi/N.

Split head (softmax over the prefix alone), keys lambda b_k, values f(b_k), net of radius r = (1 - eta) eps/L. The weight of a key farther than
r' = (1 + eta/2) r is at most e^{-lambda D}, D = cos r - cos min(r', pi), so sum_k w_k angle(x, b_k) <= r' + pi N e^{-lambda D}: the error is
at most L r' + L pi N e^{-lambda D} <= eps once lambda >= log(2 pi N L / (eta eps)) / D, as (1 - eta)(1 + eta/2) <= 1 - eta/2.

Classical head: T data tokens of score and value 0 only add T to the denominator, so the output shrinks by the share
T / (T + sum e^s) <= T e^{-lambda cos r} where r < pi/2: F T e^{-lambda cos r} more. With half of what is left for each,
lambda >= max(log(4 pi N L / (eta eps)) / D, log(4 F T / (eta eps)) / cos r) does. Hence the same N for every T, lambda growing like log(T F). The
radius must stay below pi/2 (three points on S^1; the cubed net's is at most arccos(1/sqrt(m+1)) for any q).

Core head, the route of Petrov, Torr and Bibi (2024, arXiv 2402.14753), with the kernel's and the cells' sizes made explicit: `smoothing`.

Core head by deconvolution on S^1. f has a trigonometric polynomial of degree < n within (pi/2) L/n: f - f_0 = (1/pi) f' * B with
B(t) = (pi - t)/2 on (0, 2 pi), and there is a polynomial P of degree < n such that B - P changes sign exactly with sin nt (Favard 1937, Akhiezer and Krein
1937; its coefficients give the multipliers (j pi/2n) cot(j pi/2n)), so that int |B - P| = |int B sgn sin nt| = (4/n) sum_{odd k} 1/k^2 =
pi^2/(2n). Amplitudes divided by I_j(lambda) on N >= 2n - 1 equispaced keys give that polynomial up to sum_{i != 0} I_{|j+iN|} / I_j, which tends to 0
with lambda as j < N - j. So 2n - 1 tokens do in exact arithmetic, with amplitudes that grow without bound; 3n keep them bounded.

Core head by deconvolution on S^m. With C the Gegenbauer polynomial of degree k, weight (1 - t^2)^{(m-2)/2}, and t_1 = cos theta_1 its largest zero, the
kernel (C/(t - t_1))^2 is non-negative, of degree n = 2k - 2, and E[t - t_1] is proportional to int C C/(t - t_1) = 0 by orthogonality (Newman and
Shapiro 1964). So E[theta] <= (pi/sqrt 2) E[1 - t]^{1/2} = pi sin(theta_1/2) <= (pi/2) theta_1 (theta^2 <= (pi^2/2)(1 - cos theta)), and f is within
L (pi/2) theta_1 of a spherical polynomial of degree n. Sturm's comparison of ((k + nu)^2 + nu(1 - nu)/sin^2 t, nu = (m-1)/2) with Bessel's
equation, 1/sin^2 t <= 1/t^2 + 1 - 4/pi^2 up to pi/2, gives theta_1 <= j_{m/2-1}/k, and j_a^2 < 2(a+1)(a+3) (Watson, section 15.3):
theta_1 <= sqrt(m(m+4)/2)/k, if that is at most pi/2; else eps > pi L/2 and a constant will do. Keys: a product Gauss rule exact to degree 2n,
(2n+1)(n+1)^{m-1} points. Dividing the l-th harmonic by its factor under e^{lambda<x,y>}, of order lambda^l, leaves an error O(lambda): the
Taylor tail lambda^{n+1} against amplitudes lambda^{-n}. Existence only: nothing is said of rounding.

Lower bound, keys fixed before f is seen (any softmax sum over a prefix, normalised or not, data tokens of value 0 or none). The
outputs form a linear space V of dimension <= N. Take M points pairwise more than 2 eps/L apart and bumps c_i L max(0, r - angle(x, p_i)), r > eps/L
half the least distance (or less, if F demands), |c_i| <= 1: L-Lipschitz functions that fill a ball of radius L r > eps in an M-dimensional space. If N < M one
of them is at distance L r from V (Krein, Krasnoselskii and Milman 1948; Tikhomirov 1960). So N >= M, for F > eps. On S^1 the largest M
has 2 pi/M > 2 eps/L: M = ceil(pi L/eps) - 1. On S^m a maximal set leaves caps of radius 2 eps/L that cover: M >= 1/sigma_m(2 eps/L).

On S^1, constants in V (split heads) and F >= pi L/2, sharper: N >= 2 ceil(pi L/(2 eps)) - 1. Let dim V = 2n and 1 in V. For z in the l1-sphere of R^{2n+1} of
radius 2 pi let f' = L sgn z_i on consecutive arcs of lengths |z_i|; Borsuk's theorem for the 2n odd continuous quantities "int f' and
the coordinates other than 1 of f's best L_p approximation" gives a periodic f with at most 2n monotone pieces whose best
approximation is constant; one piece is at least pi/n long, so as p -> oo the distance is at least (max - min)/2 >= pi L/(2n). This
equals Kolmogorov's width: trigonometric polynomials of degree < ceil(pi L/2eps) attain it, so on S^1 the law is exact up to taking a limit.

Keys chosen after f: a sphere contains no straight line, along a circle the logits are |a| cos(t - s) and Descartes' rule for exponential
sums says nothing, so the zigzag argument of heads on a box does not apply; a bound of order N >= c L/eps for free keys on S^1 is open.
If keys and values depend *continuously* on f (DeVore, Howard and Micchelli 1989), m + 2 numbers a token, then N (m+2) >= M: otherwise
by Borsuk and Ulam some f of norm above eps in the bumps' sphere has the same head as -f, and |f - (-f)| <= 2 eps is false.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy as sp
from jaxtyping import Float

from constructions.theorem import DIMENSION, EPS, LIPSCHITZ, SUP, CapShare, Theorem

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "BLUR",
    "METHODS",
    "BoundTable",
    "bound_table",
    "continuous_selection_bound",
    "net_radius",
    "packing_bound",
    "plot_bounds",
    "theorem_for",
]

BLUR = sp.Rational(1, 64)
"""eta: the share of eps left to the softmax's blur and the data tokens, or to aliasing."""
METHODS = ("split", "classical", "core", "deconvolution", "paper")

_PAPER = "Petrov, Torr, Bibi 2024 (arXiv 2402.14753)"
_PAPER_EXPONENT = 10 + 14 * DIMENSION + 4 * DIMENSION**2
_RATIO = LIPSCHITZ / EPS
_LINEAR = "For all L-Lipschitz f at once, with keys fixed before f is seen"


def net_radius(eps: float, lipschitz: float) -> float:
    """(1 - eta) eps / L, rounded down: the covering radius split and classical heads are built with; at most pi.

    For a classical head it must also stay below pi/2, or the data tokens cannot be drowned out. Raises ValueError for eps <= 0, L < 0.
    """
    _checked(1, eps, lipschitz, None, 1)
    if lipschitz == 0:
        return math.pi
    return min(math.pi, float(1 - BLUR) * eps / lipschitz * (1 - 2.0**-50))


def packing_bound(m: int) -> sp.Expr:
    """Lower bound of the number of points of S^m pairwise more than 2 eps/L apart (exact for m = 1)."""
    if m == 1:
        return sp.ceiling(sp.pi * _RATIO) - 1
    share: Any = CapShare(DIMENSION, 2 / _RATIO)
    return sp.ceiling(1 / share)


def theorem_for(
    method: str, m: int, *, eps: float, lipschitz: float, bound_f: float | None = None, length: int = 1
) -> Theorem:
    """The theorem behind a head on S^m: "split", "classical", "core" (the paper's route), "deconvolution", or "paper" (rate only).

    eps: sup error; lipschitz: L >= 0 for angles; bound_f: F >= sup |f|, needed by "core"; length: T, data tokens of a classical head
    ("classical" has the same bound for every T). The head of this file proves each. Raises ValueError.
    """
    if method not in METHODS:
        raise ValueError(f"method = {method!r}: no theorem. Choose among {', '.join(METHODS)}.")
    _checked(m, eps, lipschitz, bound_f, length)
    values = {"m": m, "eps": eps, "L": lipschitz, "T": length} | ({} if bound_f is None else {"F": bound_f})
    lower, words = _lower(method, m, eps, lipschitz, bound_f)
    if method == "core" and bound_f is None:
        raise ValueError("bound_f = None: the core head's length depends on sup |f|. Pass a bound of it.")
    name, statement, source, bound, rate, hypotheses = {
        "split": _split,
        "classical": _classical,
        "core": _core,
        "deconvolution": _deconvolution,
        "paper": _paper,
    }[method](m)
    return Theorem(name, statement, source, bound, values, lower, words, rate, hypotheses)


def continuous_selection_bound(m: int, *, eps: float, lipschitz: float) -> int:
    """Fewest tokens of any head on S^m without biases whose keys and values depend continuously on f: ceil(M / (m + 2)), at least 1.

    The class needs F > eps. Nothing is claimed of discontinuous choices of keys. Raises ValueError, also where M exceeds 10^400.
    """
    _checked(m, eps, lipschitz, None, 1)
    if lipschitz == 0:
        return 1
    values = {"m": m, "eps": eps, "L": lipschitz}
    points = Theorem("packing", "", "", None, values, packing_bound(m)).lower_tokens()
    if points is None:
        raise ValueError(f"eps = {eps!r}, m = {m!r}: more than 10^400 points. Use packing_bound(m).")
    return max(1, -(-points // (m + 2)))


def _checked(m: int, eps: float, lipschitz: float, bound_f: float | None, length: int) -> None:
    if not (isinstance(m, int | np.integer) and m >= 1):
        raise ValueError(f"m = {m!r}: the dimension of the sphere is an integer >= 1 (1 for the circle).")
    if not (math.isfinite(eps) and eps > 0):
        raise ValueError(f"eps = {eps!r}: the sup error is a finite number > 0.")
    if not (math.isfinite(lipschitz) and lipschitz >= 0):
        raise ValueError(f"lipschitz = {lipschitz!r}: a finite number >= 0 is expected.")
    if bound_f is not None and not (math.isfinite(bound_f) and bound_f >= 0):
        raise ValueError(f"bound_f = {bound_f!r}: a finite bound of sup |f|, >= 0, is expected.")
    if not (isinstance(length, int | np.integer) and length >= 0):
        raise ValueError(f"length = {length!r}: the number of data tokens is an integer >= 0.")


_Parts = tuple[str, str, str, sp.Expr | None, sp.Expr, str]


def _net_tokens() -> sp.Expr:
    """2(m+1) ceil(sqrt(m) L / ((1 - eta) eps))^m; the ceiling is 1 at least."""
    return 2 * (DIMENSION + 1) * sp.Max(1, sp.ceiling(sp.sqrt(DIMENSION) * _RATIO / (1 - BLUR))) ** DIMENSION


def _split(m: int) -> _Parts:
    bound = sp.floor(sp.pi * _RATIO / (1 - BLUR)) + 1 if m == 1 else _net_tokens()
    statement = "a softmax over N prefix tokens is within eps of any given f"
    return (
        f"Split head on S^{m}",
        statement,
        "covering net and partition of unity, proved here",
        bound,
        _RATIO**DIMENSION,
        "",
    )


def _classical(m: int) -> _Parts:
    bound = sp.Max(3, sp.floor(sp.pi * _RATIO / (1 - BLUR)) + 1) if m == 1 else _net_tokens()
    statement = "one frozen head with N prefix tokens is within eps of any given f beside any T data tokens; only the prefix depends on f, eps and T"
    return (
        f"Classical head on S^{m}",
        statement,
        "covering net and partition of unity, proved here",
        bound,
        _RATIO**DIMENSION,
        "",
    )


def _core(m: int) -> _Parts:
    size = sp.Max(SUP, EPS)
    y = 6 * EPS / (13 * size + 12 * EPS)
    sharpness = DIMENSION * (4 * (1 + y) ** 2 * _RATIO**2 + 3)
    # sqrt(m) / delta = m sqrt(lambda) / y; on S^1 an arc of radius delta is 2 delta long
    cells = (
        sp.ceiling(sp.pi * sp.sqrt(sharpness) / y).subs(DIMENSION, 1)
        if m == 1
        else 2 * (DIMENSION + 1) * sp.ceiling(DIMENSION * sp.sqrt(sharpness) / y) ** DIMENSION
    )
    statement = "f sampled on N cells and smoothed by the von Mises-Fisher kernel, unnormalised, is within eps of f"
    rate = (LIPSCHITZ * SUP / EPS**2) ** DIMENSION
    return (f"Core head on S^{m}", statement, f"the route of {_PAPER}, constants proved here", cells, rate, "")


def _deconvolution(m: int) -> _Parts:
    exact = "exact arithmetic and lambda small enough"
    if m == 1:
        n = sp.floor(sp.pi * _RATIO / (2 * (1 - BLUR))) + 1
        statement = "Favard's trigonometric polynomial of degree < n, deconvolved on 3n equispaced keys (2n - 1 suffice as lambda -> 0)"
        source = "Favard 1937; Akhiezer and Krein 1937"
        return ("Core head on S^1 by deconvolution", statement, source, 3 * n, _RATIO, exact)
    k = sp.Max(1, sp.ceiling(sp.pi * _RATIO * sp.sqrt(DIMENSION * (DIMENSION + 4) / sp.S(2)) / (2 * (1 - BLUR))))
    bound = (4 * k - 3) * (2 * k - 1) ** (DIMENSION - 1)
    statement = (
        "a spherical polynomial of degree 2k - 2, deconvolved on a product Gauss rule exact to twice that degree"
    )
    source = "Newman and Shapiro 1964; Watson 1944, section 15.3"
    return (f"Core head on S^{m} by deconvolution", statement, source, bound, _RATIO**DIMENSION, exact)


def _paper(m: int) -> _Parts:
    statement = "the paper's own bound: its exponent only, as its constant is not known"
    return (f"Core head on S^{m}, the paper's bound", statement, _PAPER, None, EPS ** (-_PAPER_EXPONENT), "m >= 8")


def _lower(method: str, m: int, eps: float, lipschitz: float, bound_f: float | None) -> tuple[sp.Expr | None, str]:
    """Lower bound over the class, for keys fixed before f is seen; none if a constant, or zero, serves the whole class."""
    if lipschitz == 0 or (bound_f is not None and bound_f <= eps):
        return None, ""
    # 1.5708 > pi/2: F >= pi L/2 lets f be centred at 0
    if m == 1 and method == "split" and (bound_f is None or bound_f >= 1.5708 * lipschitz):
        return 2 * sp.ceiling(
            sp.pi * _RATIO / 2
        ) - 1, "For all L-Lipschitz f at once, a normalised head with keys fixed before f is seen (exact)"
    return packing_bound(m), _LINEAR


@dataclass(frozen=True, eq=False)
class BoundTable:
    """log10 of the bounds for one m: core by the paper's route, split and classical heads, and the lower bound, each of shape (E,).

    slope: the paper's exponent, log10 N per factor ten of 1/eps.
    """

    m: int
    eps: Float[np.ndarray, " E"]
    core: Float[np.ndarray, " E"]
    split: Float[np.ndarray, " E"]
    lower: Float[np.ndarray, " E"]
    slope: int


def bound_table(eps_values: Iterable[float], m: int, *, lipschitz: float = 1.0, size: float = 1.0) -> BoundTable:
    """The bounds at several eps: L = lipschitz, F = size. Raises ValueError."""
    eps = np.array([float(e) for e in eps_values])
    rows = []
    for e in eps:
        core, split = (
            theorem_for(method, m, eps=float(e), lipschitz=lipschitz, bound_f=size) for method in ("core", "split")
        )
        rows.append((core.log10_tokens(), split.log10_tokens(), core.log10_lower()))
    columns = np.array(rows, dtype=np.float64).reshape(-1, 3)
    return BoundTable(int(m), eps, columns[:, 0], columns[:, 1], columns[:, 2], int(_PAPER_EXPONENT.subs(DIMENSION, m)))


def plot_bounds(
    ax: Axes | None = None,
    *,
    eps: Sequence[float] | Float[np.ndarray, " E"] | None = None,
    m: Iterable[int] = range(1, 9),
    lipschitz: float = 1.0,
    size: float = 1.0,
) -> Axes:
    """log10 N against eps on S^m: one colour for each m; solid core by the paper's route, dashed split and classical, dotted the lower bound;
    and the paper's exponent for the largest m as a guide, its constant being unknown. Returns the axes; shows and saves nothing.

    eps: 49 values from 1 to 10^-4 by default. Raises ValueError, ImportError without matplotlib.
    """
    from matplotlib import colormaps
    from matplotlib.lines import Line2D

    from constructions.plots.style import BLACK, dressed, new_axes, two_lines

    at = np.geomspace(1, 1e-4, 49) if eps is None else np.array(sorted((float(e) for e in eps), reverse=True))
    dimensions = sorted(set(m))
    if len(at) < 2 or not dimensions:
        raise ValueError(f"eps = {eps!r}, m = {dimensions!r}: at least two errors and one dimension are expected.")
    tables = [bound_table(at, d, lipschitz=lipschitz, size=size) for d in dimensions]
    own = ax is None
    axes = new_axes() if ax is None else ax
    if own:
        axes.figure.set_size_inches(7.6, 7.4)  # type: ignore[union-attr]
    colours = [colormaps["viridis"](x) for x in np.linspace(0.9, 0.0, len(dimensions))]
    for table, colour in zip(tables, colours, strict=True):
        axes.plot(at, table.core, "-", color=colour, lw=2.0)
        axes.plot(at, table.split, "--", color=colour, lw=1.4, dashes=(5, 2))
        axes.plot(at, table.lower, ":", color=colour, lw=1.4)
    top = 1.02 * max(float(t.core.max()) for t in tables)
    start, steepest = at[len(at) // 8], tables[-1]
    axes.plot([start, start * 10 ** (-top / steepest.slope)], [0, top], "-.", color=BLACK, lw=1.2)
    axes.set_xscale("log")
    axes.set_xlim(at[0], at[-1])
    axes.set_ylim(0, top)
    axes.set_xlabel("sup error eps (smaller to the right)")
    axes.set_ylabel("log10 of the number of tokens N")
    kinds = [
        Line2D(
            [],
            [],
            color=BLACK,
            lw=2,
            ls="-",
            label="enough: core head by the paper's route, all constants, O((L F / eps²)^m)",
        ),
        Line2D([], [], color=BLACK, ls="--", label="enough: split and classical heads, O((L / eps)^m)"),
        Line2D([], [], color=BLACK, ls=":", label="needed: by any head whose keys are fixed before f is seen"),
        Line2D([], [], color=BLACK, ls="-.", label=_guide_words(steepest)),
    ]
    by_dimension = [Line2D([], [], color=c, lw=3, label=f"m = {d}") for d, c in zip(dimensions, colours, strict=True)]
    _legends(axes, kinds, by_dimension)
    two_lines(
        axes, "Tokens that suffice on the sphere S^m", f"every f with Lipschitz constant {lipschitz:g}, |f| <= {size:g}"
    )
    dressed(axes, own)
    return axes


def _guide_words(table: BoundTable) -> str:
    place = "" if table.m >= 8 else ", which it shows for m >= 8 only"
    return f"slope guide: the paper's exponent 10 + 14m + 4m² = {table.slope} for m = {table.m}{place}; its constant is unknown"


def _legends(axes: Axes, kinds: list[Any], dimensions: list[Any]) -> None:
    """Kinds of bound below the axes, dimensions on the right: outside, where they hide nothing."""
    style = {"fontsize": 8, "facecolor": "white", "edgecolor": "#CCCCCC", "labelcolor": "#111111", "framealpha": 0.9}
    below = axes.legend(handles=kinds, loc="upper left", bbox_to_anchor=(0.0, -0.08), **style)
    axes.add_artist(below)
    below.set_clip_on(False)  # what is clipped to the axes is left out of the layout
    axes.legend(handles=dimensions[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5), **style)
