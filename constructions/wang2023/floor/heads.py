"""Several heads: dual vectors of each head, of the difference of two examples, and a prompt with a token for each head."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.linalg import null_space
from scipy.optimize import lsq_linear, minimize
from scipy.special import expit

from constructions.wang2023.floor.cones import frame_of
from constructions.wang2023.floor.enclosing import free_optimum
from constructions.wang2023.floor.forward import Summary
from constructions.wang2023.floor.shares import SharesCover, SharesProblem, branch_and_bound
from verify.prompt_floor import AttentionLayer

__all__ = ["difference", "head_duals", "joint_optimum", "shares_cover", "token_per_head"]

_SILENCE = 36.0
"""How far below its mass a head hears the tokens of the others: e^-36 = 2e-16."""
_NEAR_END = 1e-8
_MOST_HEADS, _MOST_BOXES, _TOLERANCE = 6, 512, 5e-4
"""Boxes of shares are looked at for so many heads, so many of them, until so close."""


def shares_cover(layer: AttentionLayer, s: Summary, z: Float[np.ndarray, "examples d_out"]) -> SharesCover | None:
    """Dual vectors on boxes, for a few heads whose output matrices together are injective."""
    stacked = layer.stacked
    if layer.heads > _MOST_HEADS or np.linalg.matrix_rank(stacked) < stacked.shape[1]:
        return None
    image = np.einsum("hov,nhv->nho", layer.outputs, _values(layer, s))
    dual = np.linalg.pinv(stacked).reshape(layer.heads, layer.value_width, -1)
    mass = np.exp(s.log_mass - s.largest)  # the unit of the kernel's shares
    return branch_and_bound(SharesProblem(layer, mass, image, z, dual), most=_MOST_BOXES, tolerance=_TOLERANCE)


def _values(layer: AttentionLayer, s: Summary) -> Float[np.ndarray, "examples heads d_v"]:
    return np.einsum("hvd,nhd->nhv", layer.value, s.mean)


def head_duals(
    layer: AttentionLayer, s: Summary, z: Float[np.ndarray, "examples d_out"]
) -> tuple[np.ndarray, np.ndarray]:
    """(duals (heads, examples, d_out), floors (heads,)): of each head seen from the complement of the other heads' ranges."""
    values, duals, floors = _values(layer, s), [], []
    for h, o in enumerate(layer.outputs):
        others = np.concatenate([x for g, x in enumerate(layer.outputs) if g != h], axis=1)
        view = null_space(others.T)
        seen = view.T @ o
        if view.shape[1] == 0 or not np.abs(seen).max() > 0:
            duals.append(np.zeros_like(z))
            floors.append(0.0)
            continue
        mass = np.exp(s.log_mass[:, h] - s.log_mass[:, h].max())
        found = free_optimum(mass, values[:, h] @ seen.T - z @ view, z @ view, frame_of(seen.T))
        duals.append(found.duals @ view.T)
        floors.append(found.value)
    return np.stack(duals), np.array(floors)


def difference(layer: AttentionLayer, s: Summary, z: Float[np.ndarray, "two d_out"]) -> tuple[np.ndarray, np.ndarray]:
    """(w, m): the residual of the least |sum_h m_h d_h - (z_1 - z_2)| over m in [0, 1]^heads, d_h = O_h(a_1^h - a_2^h)."""
    values = _values(layer, s)
    d = np.einsum("hov,hv->oh", layer.outputs, values[0] - values[1])
    m = lsq_linear(d, z[0] - z[1], (0.0, 1.0), method="bvls", tol=1e-15).x
    return d @ m - (z[0] - z[1]), m


def joint_optimum(
    layer: AttentionLayer, s: Summary, z: Float[np.ndarray, "examples d_out"], cover: SharesCover | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(ln t (heads,), a (heads, d_v)): masses and averages of the prompt in every head with a small max_i |e_i|. For two examples with equal masses the
    optimum, from the least squares above: e_1 = -e_2; else a local minimum."""
    values, log_mass = _values(layer, s), s.log_mass
    if cover is not None:
        share = np.clip(cover.share, _NEAR_END, 1 - _NEAR_END)
        theta = np.log(share / (1 - share)) + s.largest
        return _searched(layer, values, log_mass, z, theta, cover.b / share[:, None])
    if len(z) == 2:
        share = 1 - np.clip(difference(layer, s, z)[1], _NEAR_END, 1 - _NEAR_END)
    else:
        share = np.full(layer.heads, 0.5)
    theta = log_mass.mean(axis=0) + np.log(share / (1 - share))
    weight = expit(theta - log_mass)  # of the prompt, (examples, heads)
    fixed = np.einsum("hov,nhv->no", layer.outputs, (1 - weight)[:, :, None] * values)
    scaled = layer.stacked * np.repeat(weight.mean(axis=0), layer.value_width)
    a = np.linalg.lstsq(scaled, (z - fixed).mean(axis=0), rcond=None)[0].reshape(layer.heads, -1)
    if len(z) == 2 and np.abs(log_mass[0] - log_mass[1]).max() < 1e-9:
        return theta, a
    return _searched(layer, values, log_mass, z, theta, a)


def _searched(
    layer: AttentionLayer, values: np.ndarray, log_mass: np.ndarray, z: np.ndarray, theta: np.ndarray, a: np.ndarray
) -> Any:
    heads, d_v = a.shape

    def e_of(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        weight = expit(x[:heads] - log_mass)
        gap = x[heads:-1].reshape(heads, d_v) - values
        return np.einsum("hov,nhv->no", layer.outputs, values + weight[:, :, None] * gap) - z, weight, gap

    def room(x: np.ndarray) -> np.ndarray:
        return x[-1] ** 2 - (e_of(x)[0] ** 2).sum(axis=1)

    def slope(x: np.ndarray) -> np.ndarray:
        e, weight, gap = e_of(x)
        back = np.einsum("hov,no->nhv", layer.outputs, e)
        in_theta = (back * gap).sum(axis=2) * weight * (1 - weight)
        in_a = (back * weight[:, :, None]).reshape(len(e), -1)
        return np.column_stack([-2 * in_theta, -2 * in_a, np.full(len(e), 2 * x[-1])])

    x = np.concatenate([theta, a.ravel(), [0.0]])
    x[-1] = float(np.linalg.norm(e_of(x)[0], axis=1).max())
    goal = np.append(np.zeros(len(x) - 1), 1.0)
    low, high = log_mass.min() - 20, log_mass.max() + 20
    found = minimize(
        lambda x: x[-1],
        x,
        jac=lambda x: goal,
        bounds=[(low, high)] * heads + [(None, None)] * (heads * d_v) + [(0.0, None)],
        constraints=[{"type": "ineq", "fun": room, "jac": slope}],
        method="SLSQP",
        options={"maxiter": 400, "ftol": 1e-13},
    ).x
    better = np.linalg.norm(e_of(found)[0], axis=1).max() <= x[-1]
    best = found if np.isfinite(found).all() and better else x
    return best[:heads], best[heads:-1].reshape(heads, d_v)


def token_per_head(
    layer: AttentionLayer,
    kappa: Float[np.ndarray, "heads d"],
    theta: Float[np.ndarray, " heads"],
    a: Float[np.ndarray, "heads d_v"],
) -> Float[np.ndarray, "tokens d"]:
    """One token that serves all heads, if W_V and kappa of all of them leave room; else one for each, which the others hardly hear: their logit for it is
    `_SILENCE` below their mass, and its value grows more slowly than its weight falls."""
    heads, d_v, d = layer.heads, layer.value_width, layer.width
    if heads * (d_v + 1) <= d:
        rows = np.concatenate([layer.value.reshape(-1, d), kappa])
        return np.linalg.lstsq(rows, np.concatenate([a.ravel(), theta]), rcond=None)[0][None]
    tokens = []
    for h in range(heads):
        logits = theta - np.where(np.arange(heads) == h, 0.0, _SILENCE + math.log(heads))
        tokens.append(
            np.linalg.lstsq(np.concatenate([layer.value[h], kappa]), np.concatenate([a[h], logits]), rcond=None)[0]
        )
    return np.stack(tokens)
