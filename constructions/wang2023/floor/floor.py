"""The exact floor of a layer's error over all prompts, for a user's own examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from constructions.wang2023.floor.cones import frame_of
from constructions.wang2023.floor.enclosing import free_optimum
from constructions.wang2023.floor.entropy import MOST_ENTROPY, Tied, spread_tokens
from constructions.wang2023.floor.errors import FloorError
from constructions.wang2023.floor.forward import Summary, branch, summary
from constructions.wang2023.floor.heads import difference, head_duals, joint_optimum, shares_cover, token_per_head
from constructions.wang2023.floor.ranks import Room, room_of
from constructions.wang2023.floor.result import PromptFloor
from verify.prompt_floor import AttentionLayer, FeedForward, FloorHints, PromptFloorStatement

__all__ = ["prompt_floor"]

_NEAR_END = 1e-8


def prompt_floor(
    layer: AttentionLayer,
    examples: Sequence[Float[np.ndarray, "tokens d"]],
    targets: Float[np.ndarray, "examples d_out"],
    *,
    before: Float[np.ndarray, "examples d_out"] | None = None,
) -> PromptFloor:
    """The largest number below max_i |layer(prompt, X_i)_last - y_i| for every prompt of every length, from both sides.

    examples: sequences with one shared last token, of any lengths; before: points that the feed-forward block maps near the targets, if they
    are known. One head: lower and upper bound meet (to 1e-6 relative where d_v < d, one token; to 1e-3 where O W_V is injective, a few tokens).
    Several heads: they meet for two examples of equal masses, and come close for a few heads by branch and bound over their masses. Feed-forward
    block F with m |u - u'| <= |F(u) - F(u')|: at least m times the floor of what comes before. An undecided verdict says which assumption fails.
    Raises StatementError for arrays that do not fit, FloorError where a rank that the theorem needs is missing.
    """
    plain = PromptFloorStatement(layer, tuple(examples), np.asarray(targets, dtype=np.float64), 0.0)
    layer, u = plain.layer, plain.targets
    with np.errstate(all="ignore"):
        s = summary(layer, plain.examples)
        room = room_of(layer, s.kappa)
        if layer.feedforward is not None:
            u = _before(layer.feedforward, u) if before is None else np.asarray(before, dtype=np.float64)
        try:
            hints = {Room.FREE: _free, Room.TIED: _tied, Room.HEADS: _heads}[room](layer, s, u - s.constant)
        except (np.linalg.LinAlgError, ValueError, OverflowError, ZeroDivisionError) as error:
            raise FloorError(
                where="layer, examples, targets",
                value=f"the numbers leave the range of float64 on the way ({error})",
                assumption="numbers of moderate size",
                next_step="Scale weights, tokens or targets to a common size.",
            ) from error
    if not np.isfinite(hints["prompt"]).all():
        hints |= {"prompt": None, "counts": None}
    hints = {name: value for name, value in hints.items() if value is None or np.isfinite(value).all()}
    known = replace(plain, hints=FloorHints(before=None if layer.feedforward is None else u, **hints))
    first = known.decide()
    statement = replace(known, floor=first.lower if first.lower > 0 else _claimed(known, first))
    return PromptFloor(statement, statement.decide(), {"construction": "floor", "room": str(room)})


def _claimed(known: PromptFloorStatement, first: Any) -> float:
    """What is stated where no positive bound was proved: 0 if the prompt comes down to rounding, else what the best prompt known reaches."""
    size = float(np.abs(known.targets).max())
    return 0.0 if first.upper <= 1e-6 * size or not np.isfinite(first.upper) else first.upper


def _one_head(layer: AttentionLayer, s: Summary, z: np.ndarray) -> tuple[np.ndarray, float, np.ndarray, np.ndarray]:
    """(masses e^-shift, shift, g, basis of the range of O)."""
    log_mass, o = s.log_mass[:, 0], layer.outputs[0]
    shift = float(log_mass.max())
    g = s.mean[:, 0] @ layer.value[0].T @ o.T - z
    return np.exp(log_mass - shift), shift, g, frame_of(o.T)


def _free(layer: AttentionLayer, s: Summary, z: np.ndarray) -> dict[str, Any]:
    mass, shift, g, basis = _one_head(layer, s, z)
    found = free_optimum(mass, g, z, basis)
    share = min(max(found.share, _NEAR_END), 1 - _NEAR_END)
    theta = np.array([np.log(share / (1 - share) * found.unit) + shift])
    a = np.linalg.lstsq(layer.outputs[0], found.b / share, rcond=None)[0]
    prompt = token_per_head(layer, s.kappa, theta, a[None])
    return {"prompt": prompt, "duals": found.duals[None], "multipliers": np.zeros(1), "knots": np.zeros(0)}


def _tied(layer: AttentionLayer, s: Summary, z: np.ndarray) -> dict[str, Any]:
    mass, shift, g, basis = _one_head(layer, s, z)
    m = layer.outputs[0] @ layer.value[0]
    c = np.linalg.lstsq(m.T, s.kappa[0], rcond=None)[0]
    problem = Tied(mass, shift, g, z, basis, c)
    found = free_optimum(mass, g, z, basis)
    share = min(max(found.share, _NEAR_END), 1 - _NEAR_END)
    theta = float(np.log(share / (1 - share) * found.unit)) + shift
    if found.share == share and 0 <= problem.entropy(theta, found) <= MOST_ENTROPY:  # the entropy is no obstacle
        pieces = found.duals[None], np.zeros(1), np.zeros(0)
    else:
        theta, found = problem.best(problem.at)
        pieces = problem.pieces(found)
        if problem.entropy(theta, found) > MOST_ENTROPY:
            theta, found = problem.best(problem.built)
    mean = np.linalg.lstsq(m, found.b / found.share, rcond=None)[0]
    prompt, counts = spread_tokens(s.kappa[0], mean, theta)
    return {"prompt": prompt, "counts": counts, "duals": pieces[0], "multipliers": pieces[1], "knots": pieces[2]}


def _heads(layer: AttentionLayer, s: Summary, z: np.ndarray) -> dict[str, Any]:
    hints: dict[str, Any] = {"head_duals": head_duals(layer, s, z)[0]}
    equal = len(z) == 2 and np.abs(s.log_mass[0] - s.log_mass[1]).max() < 1e-9
    cover = None if equal else shares_cover(layer, s, z)
    if equal:
        hints["difference"] = difference(layer, s, z)[0]
    if cover is not None:
        inner = cover.inner.reshape(len(cover.inner), -1, z.shape[1])
        hints |= {"cuts": cover.cuts, "box_inner": inner, "box_outer": cover.outer}
    theta, a = joint_optimum(layer, s, z, cover)
    return hints | {"prompt": token_per_head(layer, s.kappa, theta, a)}


def _before(block: FeedForward, targets: np.ndarray) -> np.ndarray:
    """Points that F maps near the targets: Banach's iteration for a residual block, activation and matrices undone for another; the targets
    themselves where neither is an inverse (the kernel measures how near they come)."""
    u = targets.copy()
    with np.errstate(all="ignore"):
        if block.residual:
            for _ in range(2000):
                step = targets - branch(block, u)
                if np.abs(step - u).max() <= 1e-16 * np.abs(step).max() or not np.isfinite(step).all():
                    break
                u = step
        elif block.activation in ("identity", "leaky_relu"):
            hidden = np.linalg.lstsq(block.second, (targets - block.biases[1]).T, rcond=None)[0].T
            if block.activation == "leaky_relu":
                hidden = np.where(hidden >= 0, hidden, hidden / block.slope)
            u = np.linalg.lstsq(block.first, (hidden - block.biases[0]).T, rcond=None)[0].T
    return u if np.isfinite(u).all() and np.abs(u).max() < 1e6 * (1 + np.abs(targets).max()) else targets
