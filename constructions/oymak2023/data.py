"""The contextual data model of Oymak, Rawat, Soltanolkotabi and Thrampoulidis (2023): relevant tokens among misleading ones.

A label y = +-1 is drawn, then T tokens in R^d: round(zeta T) *relevant* ones and the *irrelevant* rest,

    relevant:    q_star + y w_star                            (noise-free, or noisy where `noisy_relevant`)
    irrelevant:  -delta_q q_star - delta_w y w_star + noise.

q_star marks the context, w_star carries the label. Attention does not see the order of tokens: the relevant ones come first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from constructions.oymak2023.errors import ContextError

__all__ = ["ContextualData"]

_ORTHOGONAL = 1e-10
"""|<q_star, w_star>| may be this much of |q_star||w_star|: rounding, not a model."""
_WITHIN = 1 - 1e-14
"""Projected noise stays inside the ball in spite of rounding."""


@dataclass(frozen=True, eq=False, repr=False)
class ContextualData:
    """The distribution of (X, y), X: (T, d).

    q_star, w_star: (d,), orthogonal. zeta: share of relevant tokens, in (0, 1); round(zeta * tokens) of them exactly, see `share`.
    delta_q, delta_w: numbers, or tuples of equally likely values; two tuples are of one length and read together, as pairs (see `pairs`
    and `crossed`). One pair is drawn per sequence, independently of y. noise: standard deviation sigma of every coordinate, N(0, sigma^2 I)
    per token; with `bound` the noise is projected on the ball of radius `bound`. noisy_relevant: relevant tokens have noise too.
    Raises ContextError (a ValueError) naming the argument, its value and the reason.
    """

    q_star: Float[np.ndarray, " d"]
    w_star: Float[np.ndarray, " d"]
    zeta: float
    tokens: int
    delta_q: float | tuple[float, ...]
    delta_w: float | tuple[float, ...]
    noise: float = 0.0
    bound: float | None = None
    noisy_relevant: bool = False

    def __post_init__(self) -> None:
        q, w = _vector("q_star", self.q_star), _vector("w_star", self.w_star)
        if len(q) != len(w):
            step = "Give both the dimension d of a token."
            raise ContextError(
                argument="w_star",
                value=f"({len(w)},)-vector",
                reason=f"does not fit q_star of {len(q)} entries",
                next_step=step,
            )
        _check_directions(q, w)
        object.__setattr__(self, "q_star", q)
        object.__setattr__(self, "w_star", w)
        zeta = _number("zeta", self.zeta, "Give the share of relevant tokens, for example zeta=0.3.")
        if not 0 < zeta < 1:
            raise ContextError(
                argument="zeta",
                value=zeta,
                reason="is not in (0, 1)",
                next_step="zeta is the share of relevant tokens: with 0 there is no label in the data, with 1 no context to find. Give, for example, 0.3.",
            )
        object.__setattr__(self, "zeta", zeta)
        if isinstance(self.tokens, bool) or not isinstance(self.tokens, (int, np.integer)) or self.tokens < 2:
            raise ContextError(
                argument="tokens",
                value=self.tokens,
                reason="is not a whole number of at least 2",
                next_step="Give T, for example tokens=20.",
            )
        object.__setattr__(self, "tokens", int(self.tokens))
        if not 0 < round(zeta * self.tokens) < self.tokens:
            raise ContextError(
                argument="zeta",
                value=zeta,
                reason=f"makes {round(zeta * self.tokens)} of {self.tokens} tokens relevant",
                next_step=f"At least one token of each kind is needed: take zeta in [1/T, 1 - 1/T] = [{1 / self.tokens:.3g}, {1 - 1 / self.tokens:.3g}] or more tokens.",
            )
        _check_deltas(self)
        noise = _number("noise", self.noise, "Give a standard deviation, 0 for none.")
        if noise < 0:
            raise ContextError(
                argument="noise", value=noise, reason="is negative", next_step="Give a standard deviation, 0 for none."
            )
        object.__setattr__(self, "noise", noise)
        if self.bound is not None:
            radius = _number(
                "bound", self.bound, "Give the noise's largest Euclidean norm, or None for Gaussian noise."
            )
            if radius < 0:
                raise ContextError(
                    argument="bound",
                    value=radius,
                    reason="is negative",
                    next_step="Give the noise's largest Euclidean norm, or None for Gaussian noise.",
                )
            object.__setattr__(self, "bound", radius)

    @property
    def dimension(self) -> int:
        """d, entries of a token."""
        return len(self.q_star)

    @property
    def relevant(self) -> int:
        """Number of relevant tokens, round(zeta T)."""
        return round(self.zeta * self.tokens)

    @property
    def irrelevant(self) -> int:
        """Number of the others."""
        return self.tokens - self.relevant

    @property
    def share(self) -> float:
        """relevant / tokens: the zeta that formulas about this data have to use."""
        return self.relevant / self.tokens

    @property
    def pairs(self) -> Float[np.ndarray, "k 2"]:
        """The equally likely pairs (delta_q, delta_w)."""
        q, w = np.atleast_1d(self.delta_q), np.atleast_1d(self.delta_w)
        return np.column_stack(np.broadcast_arrays(q, w)).astype(np.float64)

    @property
    def radius(self) -> float:
        """Largest Euclidean norm that the noise of a token can have: 0 without noise, inf for Gaussian noise without `bound`."""
        if self.noise == 0:
            return 0.0 if self.bound is None else self.bound
        return math.inf if self.bound is None else self.bound

    def sample(
        self, n: int, seed: int | np.random.Generator
    ) -> tuple[Float[np.ndarray, "n T d"], Float[np.ndarray, " n"]]:
        """n sequences with their labels (+-1.0, equally likely). The same seed gives the same data. Raises ContextError for n < 0."""
        x, y, _ = self.sample_pairs(n, seed)
        return x, y

    def sample_pairs(
        self, n: int, seed: int | np.random.Generator
    ) -> tuple[Float[np.ndarray, "n T d"], Float[np.ndarray, " n"], Float[np.ndarray, "n 2"]]:
        """As `sample`, with the pair (delta_q, delta_w) of every sequence."""
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 0:
            raise ContextError(
                argument="n", value=n, reason="is not a number of samples", next_step="Give a whole number >= 0."
            )
        rng = np.random.default_rng(seed)
        y = 2.0 * rng.integers(0, 2, n) - 1.0
        drawn = self.pairs[rng.integers(0, len(self.pairs), n)]
        x = np.empty((n, self.tokens, self.dimension))
        labelled = y[:, None] * self.w_star
        x[:, : self.relevant] = (self.q_star + labelled)[:, None]
        x[:, self.relevant :] = -(drawn[:, :1] * self.q_star + drawn[:, 1:] * labelled)[:, None]
        if self.noise > 0:
            noisy = x if self.noisy_relevant else x[:, self.relevant :]
            drawn_noise = rng.standard_normal(noisy.shape)
            drawn_noise *= self.noise
            if self.bound is not None:
                norms = np.linalg.norm(drawn_noise, axis=2, keepdims=True)
                drawn_noise *= np.minimum(1.0, self.bound * _WITHIN / np.maximum(norms, 1e-300))
            noisy += drawn_noise
        return x, y, drawn

    @classmethod
    def crossed(
        cls,
        q_star: Float[np.ndarray, " d"],
        w_star: Float[np.ndarray, " d"],
        zeta: float,
        tokens: int,
        delta_q: Sequence[float],
        delta_w: Sequence[float],
        noise: float = 0.0,
        bound: float | None = None,
        noisy_relevant: bool = False,
    ) -> ContextualData:
        """delta_q and delta_w drawn independently, each equally likely among its values: all pairs."""
        every = [(float(a), float(b)) for a in delta_q for b in delta_w]
        first, second = tuple(a for a, _ in every), tuple(b for _, b in every)
        return cls(q_star, w_star, zeta, tokens, first, second, noise, bound, noisy_relevant)

    def __repr__(self) -> str:
        drawn = ", ".join(f"({a:.4g}, {b:.4g})" for a, b in self.pairs[:4]) + (", ..." if len(self.pairs) > 4 else "")
        limit = "" if self.bound is None else f" within {self.bound:.4g}"
        where = "every token" if self.noisy_relevant else "irrelevant tokens"
        noise = f"noise {self.noise:.4g}{limit} on {where}" if self.noise else "no noise"
        return f"<ContextualData {self.relevant} of {self.tokens} tokens relevant, d = {self.dimension}, (delta_q, delta_w) in {{{drawn}}}, {noise}>"


def _number(argument: str, value: object, step: str) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise ContextError(argument=argument, value=repr(value), reason="is not a number", next_step=step) from None
    if not math.isfinite(number):
        raise ContextError(argument=argument, value=number, reason="is not finite", next_step=step)
    return number


def _vector(argument: str, value: object) -> Float[np.ndarray, " d"]:
    step = "Give a vector (d,) of finite numbers, d >= 2."
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ContextError(
            argument=argument, value=repr(value)[:80], reason="is no array of numbers", next_step=step
        ) from None
    if array.ndim != 1 or len(array) < 2:
        raise ContextError(
            argument=argument,
            value=f"array of shape {array.shape}",
            reason="is no vector of at least two entries",
            next_step=step,
        )
    if not np.isfinite(array).all():
        place = int(np.argmin(np.isfinite(array)))
        raise ContextError(argument=f"{argument}[{place}]", value=array[place], reason="is not finite", next_step=step)
    array.setflags(write=False)
    return array


def _check_directions(q: Float[np.ndarray, " d"], w: Float[np.ndarray, " d"]) -> None:
    for argument, vector in (("q_star", q), ("w_star", w)):
        size = float(np.abs(vector).max())
        if not 1e-100 < size < 1e100:  # squares must neither vanish nor overflow
            raise ContextError(
                argument=argument,
                value=f"vector of largest entry {size:g}",
                reason="has no direction" if size == 0 else "is too small or too large for its square",
                next_step="Give a vector of length about 1.",
            )
    a, b = q / np.abs(q).max(), w / np.abs(w).max()
    cosine = float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
    if abs(cosine) > 1 - 1e-12:
        raise ContextError(
            argument="q_star",
            value=f"{cosine:+.0f} |q_star|/|w_star| w_star",
            reason="is parallel to w_star, so that the label moves along the context's direction and cannot be told from it",
            next_step="Give orthogonal vectors.",
        )
    if abs(cosine) > _ORTHOGONAL:
        raise ContextError(
            argument="q_star",
            value=f"vector at cosine {cosine:.4g} with w_star",
            reason="is not orthogonal to w_star, which the model requires",
            next_step="Subtract its component: q_star - <q_star, w_star>/|w_star|^2 w_star.",
        )


def _check_deltas(data: ContextualData) -> None:
    lengths = []
    for argument in ("delta_q", "delta_w"):
        value = getattr(data, argument)
        step = "Give a number, or a tuple of equally likely numbers."
        if isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, str) and np.ndim(value) == 1:
            if len(value) == 0:
                raise ContextError(argument=argument, value="()", reason="is empty", next_step=step)
            object.__setattr__(data, argument, tuple(_number(f"{argument}[{i}]", v, step) for i, v in enumerate(value)))
            lengths.append(len(value))
        else:
            object.__setattr__(data, argument, _number(argument, value, step))
            lengths.append(1)
    if 1 not in lengths and lengths[0] != lengths[1]:
        raise ContextError(
            argument="delta_w",
            value=f"tuple of {lengths[1]} values",
            reason=f"does not pair with the {lengths[0]} values of delta_q",
            next_step="Tuples are read together, as pairs; for independent draws use ContextualData.crossed.",
        )
