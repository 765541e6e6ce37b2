"""Pictures of heads on S^1, against the angle t of the point (cos t, sin t): fit, error, tokens, attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from constructions.captions import names_of, upward
from constructions.plots.attention import LINES, areas, rows, value_name, value_norm
from constructions.plots.error import log_scale, measured_name
from constructions.plots.fit import curves, token_ticks
from constructions.plots.keys import directions, key_sizes
from constructions.plots.style import BLACK, BLUE, ORANGE, RED, chosen_output, legend, titled
from constructions.sampled import attends_to_data, attention_weights, circle, sampled
from verify import LipschitzTarget

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from constructions.compiled import Compiled

__all__ = ["draw_attention", "draw_error", "draw_fit", "draw_tokens"]

_RAYS = 64
"""Tokens up to which rays lead to their keys."""
_NOISE = 1e-12
"""What is left of 1 and may be rounding only."""


def draw_fit(c: Compiled, ax: Axes, *, output: int = 0) -> None:
    """Target and model as curves, every output, with a tick at the angle of every key."""
    chosen_output(c, output)
    angle, points = circle(_affordable(c, 1201))
    recorded = _angles(c.target.points) if isinstance(c.target, LipschitzTarget) else None
    curves(c, ax, sampled(c, points), angle, recorded)
    token_ticks(ax, _angles(directions(c)[0]), "key of a token")
    _angle_axis(c, ax)
    low, high = ax.get_ylim()
    ax.set_ylim(low - 0.05 * (high - low), high)
    legend(ax)
    titled(ax, c, "Fit")


def draw_error(c: Compiled, ax: Axes) -> None:
    """The measured error as a curve, the proved bound of the whole circle and eps as lines."""
    angle, points = circle(_affordable(c, 2401))
    s = sampled(c, points)
    positive = np.where(s.error > 0, s.error, np.nan)
    ax.plot(angle, positive, color=ORANGE, lw=1.1, label=measured_name(c))
    levels = [c.eps]
    if np.isfinite(c.certificate.error_upper):
        known = "proved bound" if c.rechecked and c.certificate.proved else "bound on record"
        bound = c.certificate.error_upper
        ax.axhline(bound, color=BLUE, lw=1.8, label=f"{known} (whole circle): {upward(bound)}")
        levels.append(bound)
    elif c.certificate.error_lower > 0:
        ax.axhline(c.certificate.error_lower, color=RED, lw=1.4, label="the error exceeds this somewhere (proved)")
    ax.axhline(c.eps, color=BLACK, lw=1.2, ls="--", label=f"eps = {c.eps:g}")
    log_scale(ax, np.array([*positive[np.isfinite(positive)], *levels]), c.eps)
    _angle_axis(c, ax)
    ax.set_ylabel("|g − f|" + (", largest over outputs" if c.values.shape[1] > 1 else ""))
    legend(ax, loc="lower center", ncols=2)
    titled(ax, c, "Error")


def draw_tokens(c: Compiled, ax: Axes, *, output: int = 0) -> None:
    """The unit circle with the keys' directions on it, coloured by value; outside it a ring coloured by the token with the largest
    logit."""
    from matplotlib.collections import LineCollection

    chosen = chosen_output(c, output)
    where, which = directions(c)
    norm, note = value_norm(c.values[:, chosen])
    values = c.values[which, chosen]
    turn = np.linspace(0, 2 * np.pi, 361)
    ax.plot(np.cos(turn), np.sin(turn), color="#555555", lw=1.0, zorder=1)
    if len(where) <= _RAYS:
        rays = np.stack([np.zeros_like(where), where], axis=1)
        ax.add_collection(LineCollection(list(rays), cmap="viridis", norm=norm, array=values, linewidths=1.2, zorder=2))
    angle, points = circle(1441)
    middle = points[:-1] + points[1:]
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    winner = np.concatenate([(part @ c.slopes.T + c.biases).argmax(axis=1) for part in np.array_split(middle, 24)])
    ring = np.array([[1.12], [1.2]])
    ax.pcolormesh(
        ring * np.cos(angle),
        ring * np.sin(angle),
        c.values[winner, chosen][None, :],
        cmap="viridis",
        norm=norm,
        shading="flat",
    )
    area = float(np.clip(4000 / c.length, 3.0, 70.0))
    dots = ax.scatter(where[:, 0], where[:, 1], c=values, s=area, cmap="viridis", norm=norm, edgecolors=BLACK,
                      linewidths=0.6 if c.length <= 400 else 0.2, zorder=3)  # fmt: skip
    ax.figure.colorbar(dots, ax=ax, label=value_name(c, chosen) + note, shrink=0.9)
    names = names_of(c)
    ax.plot([-1, 1, np.nan, 0, 0], [0, 0, np.nan, -1, 1], color="#CCCCCC", lw=0.7, zorder=0)
    for name, place, side in ((names[0], (1.24, 0), ("left", "center")), (names[1], (0, 1.23), ("center", "bottom"))):
        ax.annotate(name, place, ha=side[0], va=side[1], fontsize=10, fontweight="bold", color=BLACK)
    ax.set_aspect("equal")
    ax.set_xlim(-2.2, 2.2)  # wide enough for the title
    ax.set_ylim(-1.25, 1.4)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_xlabel(
        f"dots: directions of the keys;  ring: the token with the largest logit\n{key_sizes(c)}", fontsize=8.5
    )
    titled(ax, c, "Tokens")


def draw_attention(c: Compiled, ax: Axes, *, output: int = 0) -> None:
    """The weights as stacked areas coloured by value, in the order of the keys' angles, or as a map when tokens are many. Data tokens
    in the softmax leave a white gap; a head that does not normalise is drawn by the shares of its exponentials."""
    chosen = chosen_output(c, output)
    order = np.argsort(np.arctan2(c.slopes[:, 1], c.slopes[:, 0]), kind="stable")
    if c.length <= LINES:
        angle, points = circle(1001)
        weights = attention_weights(c, points)
        areas(c, ax, angle, weights, order, chosen)
        ax.set_ylabel(_stacked(c, weights))
    else:
        angle, points = circle(600)
        rows(c, ax, angle, points, order)
        ax.set_ylabel("token, in the order of the keys' angles")
    _angle_axis(c, ax)
    titled(ax, c, "Attention")


def _stacked(c: Compiled, weights: Float[np.ndarray, "m tokens"]) -> str:
    """What the stacked areas are."""
    if not c.model.layers[0].heads[0].normalised:
        return "shares of the exponentials, stacked\n(this head does not normalise)"
    if not attends_to_data(c):
        return "weights of the tokens, stacked (they add up to 1)"
    rest, t = max(1 - float(weights.sum(axis=1).min()), 0.0), c.claim.sequence_length
    others = "the data token takes" if t == 1 else f"{t} data tokens take"
    most = f"at most {upward(rest, 2)}" if rest > _NOISE else f"less than {_NOISE:g}"
    return f"weights of the prefix tokens, stacked\n({others} the rest: {most})"


def _affordable(c: Compiled, count: int) -> int:
    """Samples of a curve: fewer for a very long prefix."""
    return int(np.clip(40_000_000 // c.length, 201, count))


def _angles(points: Float[np.ndarray, "some 2"]) -> Float[np.ndarray, " some"]:
    return np.arctan2(points[:, 1], points[:, 0])


def _angle_axis(c: Compiled, ax: Axes) -> None:
    """Quarter turns as fractions of pi."""
    names = names_of(c)
    quarters: Any = ["−π", "−3π/4", "−π/2", "−π/4", "0", "π/4", "π/2", "3π/4", "π"]
    ax.set_xticks(np.linspace(-np.pi, np.pi, 9), quarters)
    ax.set_xlim(-np.pi, np.pi)
    ax.set_xlabel(f"angle t of the point ({names[0]}, {names[1]}) = (cos t, sin t)")
