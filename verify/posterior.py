"""What the heads of one key/value group computed in one float32 pass, token by token: a bound from the arrays of that pass.

No bound can be given in advance for layers whose queries depend on the text. But one pass holds all that matters: for a token with executed query q, prefix
keys and values (k_j, v_j), visible data keys and values (k_d, v_d), a = 1/sqrt(width) and phi = offset + f(t) direction, t = <r, q>/<c, q>,

    g - phi = [ sum_j e^{a<q, k_j>} (v_j - phi) + sum_d e^{a<q, k_d>} (v_d - phi) ] / (P + D) =: kernel + leak,

P and D the masses of prefix and data. Both parts are enclosed in ball arithmetic, coordinate by coordinate, whatever the sign or size of kappa = <c, q>.
(For keys B c + beta (2 y_j r - y_j^2 c) the weights inside the prefix are exp(-beta kappa (t - y_j)^2): kappa > 0 makes the first part small, but no truth
depends on it.) The second part is share |leak|, share = D/(P + D).

Rounding of the pass, u = 2^-24, c u the error of exp, n tokens in blocks of `block` or more, eta the smallest normal number (`FLOAT32`). An executed
logit is within gamma_{m+8} S_j, S_j = a sum_i |q_i k_ji|, of the real one (products, sums, a scale that is split into square roots); with M = max S the
unnormalised weight carries a factor e^{theta_j},

    |theta_j| <= rho_j = gamma_{m+8} S_j + 3 u (S_j + M) + c u ceil(n/block) + 16 m eta max(1, a) (1 + max |q| + max |k|)

(difference from the maximum, two roundings of a scaling by log2 e, exp, and one more exp for each rescaling of a block; operands and products that underflow,
the scale applied before, after or in two parts). Nothing overflows where max(1, a) sum_i |q_i| max_j |k_ji|, masked keys and sums before a scale that is applied
last included, is below an eighth of the largest number; otherwise nothing is said at all. Since sum_j w_j (v_j - g) = 0,

    |sum w_j e^theta_j v_j / sum w_j e^theta_j - g| <= sum_j w_j (e^rho_j - 1) |v_j - g| e^{max rho},

and the sums and the quotient add G/(1 - G) (|numerator| + sum of absolute values) with G = gamma_{n + ceil(n/block) + 7}: at most
2 G/(1 - G) e^{2 max rho} sum_j w_j |v_j|. Weights that underflow add 8 (n + 4) eta max(1, |v|). In any case the output is a mean of visible values up to that
quotient's rounding, which caps the bound where logits are too large to say more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from verify.ball import UP, Ball, exp, inverse, matmul, total
from verify.certificate import Status, downward, upward
from verify.expression import Expression
from verify.format_arithmetic import FLOAT32
from verify.jets import jets
from verify.statement import Statement, StatementError, Verdict
from verify.stored_arrays import stored_array, stored_number

__all__ = ["GroupPass", "TokenBounds", "token_bounds"]

_ROWS = 256  # queries looked at together: the arrays are (rows, tokens)
_ARRAYS = ("queries", "outputs", "prefix_keys", "prefix_values", "data_keys", "data_values", "offset", "direction", "read_out", "positive")  # fmt: skip


@dataclass(frozen=True, eq=False)
class TokenBounds:
    """For every token and head, (tokens, heads): t and kappa in float64 (for people); outward bounds of |head output - phi|, the largest coordinate, and of its
    parts: the prefix's own error `kernel`, what data tokens add `leak`, float32 `rounding`; `share` of the data tokens in the attention; and
    `measured`, a lower bound of the error of the recorded outputs (NaN where none were recorded). One `measured` above its `bound` shows that the outputs are
    of another pass or that the machine is not the one assumed: then no bound of the pass is proved (`refuted_at`)."""

    t: Float[np.ndarray, "tokens heads"]
    kappa: Float[np.ndarray, "tokens heads"]
    bound: Float[np.ndarray, "tokens heads"]
    kernel: Float[np.ndarray, "tokens heads"]
    leak: Float[np.ndarray, "tokens heads"]
    rounding: Float[np.ndarray, "tokens heads"]
    share: Float[np.ndarray, "tokens heads"]
    measured: Float[np.ndarray, "tokens heads"]

    @property
    def refuted_at(self) -> tuple[int, int] | None:
        """The first token and head whose recorded output is outside its bound."""
        outside = np.argwhere(self.measured > self.bound)
        return (int(outside[0, 0]), int(outside[0, 1])) if len(outside) else None


@dataclass(frozen=True, eq=False)
class GroupPass(Statement):
    """|output of each head - (offset + f(t) direction)| <= eps in every coordinate, for every token of this pass.

    queries: (tokens, heads, m), as executed, after the rotation; outputs: (tokens, heads, k) as executed, or (0, heads, k); prefix_keys, prefix_values:
    (N, m), (N, k); data_keys, data_values: (tokens, m), (tokens, k), token i sees the first i + 1 of them and the whole prefix; scale: of logits;
    read_out, positive: r and c, (m,); expression: f, of t cut to [-1, 1]. What comes from the pass are numbers of float32. Raises StatementError.
    """

    kind: ClassVar[str] = "group-pass"

    queries: Float[np.ndarray, "tokens heads m"]
    outputs: Float[np.ndarray, "recorded heads k"]
    prefix_keys: Float[np.ndarray, "N m"]
    prefix_values: Float[np.ndarray, "N k"]
    data_keys: Float[np.ndarray, "tokens m"]
    data_values: Float[np.ndarray, "tokens k"]
    offset: Float[np.ndarray, " k"]
    direction: Float[np.ndarray, " k"]
    read_out: Float[np.ndarray, " m"]
    positive: Float[np.ndarray, " m"]
    scale: float
    expression: Expression
    eps: float

    def __post_init__(self) -> None:
        queries = stored_array("queries", self.queries, (None, None, None))
        tokens, heads, m = queries.shape
        keys = stored_array("prefix_keys", self.prefix_keys, (None, m))
        values = stored_array("prefix_values", self.prefix_values, (len(keys), None))
        k = values.shape[1]
        outputs = stored_array("outputs", self.outputs, (None, heads, k))
        if not (tokens and heads and m and k and len(keys)) or len(outputs) not in (0, tokens):
            raise StatementError(
                f"queries: shape {queries.shape}, prefix_keys: {keys.shape}, outputs: {outputs.shape}; expected tokens, heads and widths of at least 1, outputs for all tokens or none"
            )
        parts = {"queries": queries, "outputs": outputs, "prefix_keys": keys, "prefix_values": values}
        shapes = {"data_keys": (tokens, m), "data_values": (tokens, k), "offset": (k,), "direction": (k,), "read_out": (m,), "positive": (m,)}  # fmt: skip
        parts |= {name: stored_array(name, getattr(self, name), shape) for name, shape in shapes.items()}
        for name, array in parts.items():
            executed = name in _ARRAYS[:6]
            if not (np.abs(array) <= (1e30 if executed else 1e9)).all():
                raise StatementError(f"{name}: has an entry of size {np.abs(array).max():.3g}, nothing useful is said above {'1e30' if executed else '1e9'}")  # fmt: skip
            with np.errstate(over="ignore"):
                if executed and not (array.astype(np.float32) == array).all():
                    raise StatementError(f"{name}: not numbers of float32; pass the arrays of the pass itself")
            object.__setattr__(self, name, array)
        stored_number("eps", self.eps, above=0.0)
        if not FLOAT32.smallest_normal <= stored_number("scale", self.scale, above=0.0) <= 1e6:
            raise StatementError(
                f"scale = {self.scale}: expected 2^-126 to 1e6, a number of float32 such as 1/sqrt(width)"
            )
        if not isinstance(self.expression, Expression):
            raise StatementError(f"expression: {type(self.expression).__name__}, expected a verify Expression")
        if self.expression.dimension != 1 or len(self.expression.outputs) != 1:
            raise StatementError(f"expression: {self.expression}, expected one value of one variable")

    @property
    def sentence(self) -> str:
        tokens, heads, _ = self.queries.shape
        return f"in this float32 pass over {tokens} tokens, {heads} heads computed {self.expression} of their read-out: {len(self.prefix_keys)} prefix tokens, error <= {downward(self.eps)}"

    @property
    def quantity(self) -> str:
        return "largest error of a coordinate of the heads' float32 outputs, over the tokens of this pass"

    def decide(self, *, seconds: float = math.inf) -> Verdict:
        """Proved or refuted at eps, from the arrays. Undecided too where recorded outputs are further from f(t) than the execution model allows."""
        found = token_bounds(self)
        known = found.measured[np.isfinite(found.measured)]
        lower, top = (float(known.max()) if known.size else 0.0), float(found.bound.max())
        numbers = {
            "tokens": float(len(found.bound)),
            "prefix error": float(found.kernel.max()),
            "share of data tokens": float(found.share.max()),
            "rounding": float(found.rounding.max()),
            "median bound": float(np.median(found.bound)),
            "smallest kappa": float(found.kappa.min()),
        }
        status, reason = Status.PROVED, ""
        if found.refuted_at is not None:
            i, h = found.refuted_at
            status = Status.UNDECIDED
            reason = f"the recorded output of head {h} at token {i} is outside the bound: these outputs are of another pass, or the machine rounds worse than assumed"
            lower, top = 0.0, math.inf
        elif lower > self.eps:
            status, reason = Status.REFUTED, f"the recorded output is off by {downward(lower)} > eps = {self.eps:g}"
        elif not top <= self.eps:
            i, h = (int(x) for x in np.unravel_index(int(found.bound.argmax()), found.bound.shape))
            status = Status.UNDECIDED
            reason = f"the bound {upward(top)} of head {h} at token {i} is above eps = {self.eps:g}"
        return Verdict(status, lower, top, "a posteriori, from the arrays of one pass", reason, (FLOAT32.execution,), numbers)  # fmt: skip

    def to_json(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        data = {"expression": self.expression.to_json(), "scale": float(self.scale).hex(), "eps": float(self.eps).hex()}
        return data, {name: getattr(self, name) for name in _ARRAYS}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> GroupPass:
        numbers = (float.fromhex(data["scale"]), Expression.from_json(data["expression"]), float.fromhex(data["eps"]))
        return cls(*[arrays[name] for name in _ARRAYS], *numbers)  # pyright: ignore[reportCallIssue]


def token_bounds(run: GroupPass) -> TokenBounds:
    """See the module. Outward-rounded; inf where f is not defined."""
    tokens, heads, _ = run.queries.shape
    values = _Values.of(run)
    blocks: list[list[TokenBounds]] = []
    with np.errstate(all="ignore"):
        for start in range(0, tokens, _ROWS):
            rows = np.arange(start, min(start + _ROWS, tokens))
            blocks.append([_bounds(run, values, rows, h) for h in range(heads)])

    def joined(name: str) -> np.ndarray:
        return np.concatenate([np.stack([getattr(b, name) for b in block], axis=1) for block in blocks])

    names = ("t", "kappa", "bound", "kernel", "leak", "rounding", "share", "measured")
    return TokenBounds(*[joined(name) for name in names])  # pyright: ignore[reportCallIssue]


@dataclass(frozen=True, eq=False)
class _Values:
    """least, most: (tokens, k), over the data values that a token sees; largest: of all values."""

    least: np.ndarray
    most: np.ndarray
    largest: float

    @staticmethod
    def of(run: GroupPass) -> _Values:
        v = run.data_values
        largest = max(float(np.abs(v).max()), float(np.abs(run.prefix_values).max()))
        return _Values(np.minimum.accumulate(v), np.maximum.accumulate(v), largest)

    def distance(self, rows: np.ndarray, point: Ball) -> np.ndarray:
        """Above |v_d - point|, (rows, k), for every data value seen."""
        return (np.maximum(self.most[rows] - point.mid, point.mid - self.least[rows]) + point.rad) * UP


def _bounds(run: GroupPass, values: _Values, rows: np.ndarray, head: int) -> TokenBounds:
    """Every field (rows,)."""
    q = run.queries[rows, head]
    keys = np.concatenate([run.prefix_keys, run.data_keys[: rows[-1] + 1]])
    count, m = len(run.prefix_keys), keys.shape[1]
    seen = np.concatenate([np.ones((len(rows), count), bool), np.arange(rows[-1] + 1) <= rows[:, None]], axis=1)
    logits = matmul(Ball.exact(q), Ball.exact(keys.T)).scale(run.scale)
    top = np.where(seen, logits.mid, -np.inf).max(axis=1, keepdims=True)
    weights = exp(logits + Ball.exact(-top)).where(seen, Ball.exact(0.0))
    prefix, data = weights[:, :count], weights[:, count:]
    mass, data_mass = total(prefix, 1), total(data, 1)
    all_mass = total(weights, 1)
    least = np.where(all_mass.lower() > 0.5, all_mass.lower(), np.nan)  # the largest weight is about 1
    t, kappa, target = _target(run, q)
    # kernel and leak, coordinate by coordinate
    own = matmul(prefix, Ball.exact(run.prefix_values)) + -(mass[:, None] * target)
    others = matmul(data, Ball.exact(run.data_values[: rows[-1] + 1])) + -(data_mass[:, None] * target)
    kernel = own.magnitude() / least[:, None] * UP
    leak = others.magnitude() / least[:, None] * UP
    # rounding of the pass
    rounding, cap = _rounding(run, values, rows, q, keys, seen, weights, least, target, m)
    bound = np.nan_to_num(
        np.fmin((kernel + leak + rounding) * UP, cap), nan=np.inf, posinf=np.inf
    )  # fmin: NaN is no bound
    share = np.fmin(data_mass.upper() / least * UP, 1.0)
    measured = np.full(len(rows), np.nan)
    if len(run.outputs):
        off = Ball.exact(run.outputs[rows, head]) - target
        measured = np.maximum(np.abs(off.mid) * (1 - 1e-15) - off.rad, 0.0).max(axis=1)
    own_part, data_part, lost = (
        np.nan_to_num(x.max(axis=1), nan=np.inf, posinf=np.inf) for x in (kernel, leak, rounding)
    )
    return TokenBounds(t, kappa, bound.max(axis=1), own_part, data_part, lost, share, measured)


def _target(run: GroupPass, q: np.ndarray) -> tuple[np.ndarray, np.ndarray, Ball]:
    """t, kappa, and balls around phi, (rows, k): f over all of [-1, 1] where kappa may be 0."""
    both = matmul(Ball.exact(q), Ball.exact(np.stack([run.read_out, run.positive], axis=1)))
    t = both[:, 0] * inverse(both[:, 1])
    known = np.isfinite(t.mid) & np.isfinite(t.rad)
    low, high = (np.where(known, np.clip(x, -1.0, 1.0), end) for x, end in ((t.lower(), -1.0), (t.upper(), 1.0)))
    where = Ball.between(low, high)[:, None]
    value = jets(run.expression, where, np.ones((len(q), 1)), 0, strict=True)[0][0]
    assert value is not None
    f = Ball(*(np.broadcast_to(x.reshape(-1), (len(q),)) for x in (value.mid, value.rad)))
    target = Ball.exact(run.offset) + f[:, None] * Ball.exact(run.direction)
    return t.mid, both.mid[:, 1], target


def _rounding(
    run: GroupPass,
    values: _Values,
    rows: np.ndarray,
    q: np.ndarray,
    keys: np.ndarray,
    seen: np.ndarray,
    weights: Ball,
    least: np.ndarray,
    target: Ball,
    m: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Above |executed - real| and above |executed - phi|, (rows, k) each. See the module; float64's own errors are inside the factors 1 + 1e-9."""
    n, count = len(run.prefix_keys) + len(run.data_keys), len(run.prefix_keys)
    form, blocks = FLOAT32, -(-n // FLOAT32.block)
    sizes = np.where(seen, (np.abs(q) @ np.abs(keys).T) * run.scale * (1 + 1e-9), 0.0)
    largest = sizes.max(axis=1, keepdims=True)
    rho = form.gamma(m + 8) * sizes + 3 * form.unit * (sizes + largest) + form.exp_units * form.unit * blocks
    rho += (
        16
        * m
        * form.smallest_normal
        * max(1.0, run.scale)
        * (1 + np.abs(q).max(axis=1, keepdims=True) + np.abs(keys).max())
    )
    rho = np.where(seen, rho, 0.0) * (1 + 1e-9)
    most = rho.max(axis=1)
    w = weights.upper() / least[:, None] * UP  # above the real weights
    moved = w * np.expm1(np.minimum(rho, 50.0)) * (1 + 1e-9)
    v, d = run.prefix_values, run.data_values[: rows[-1] + 1]
    mean = (weights.mid @ np.concatenate([v, d])) / least[:, None]
    # |g - mean| <= largest (sum of w - 1), as `least` is below the mass, + largest (sum of the weights' radii), and n roundings
    high = w.sum(axis=1)
    off = np.abs(high - 1) + np.abs(high - weights.mid.sum(axis=1) / least) + (n + 8) * 2.0**-49
    centre = Ball(mean, np.broadcast_to(off[:, None] * values.largest * UP, mean.shape))
    apart = np.abs(v[None] - mean[:, None]) + centre.rad[:, None]
    spread = np.einsum("ij,ijk->ik", moved[:, :count], apart)
    spread += moved[:, count:].sum(axis=1)[:, None] * values.distance(rows, centre)
    spread *= np.exp(np.minimum(most, 50.0))[:, None] * (1 + 1e-9)
    absolute = w[:, :count] @ np.abs(v) + w[:, count:] @ np.abs(d)
    quotient = 2 * form.gamma(n + blocks + 7) / (1 - form.gamma(n + blocks + 7))
    lost = 8 * (n + 4) * form.smallest_normal * max(1.0, values.largest)
    sums = quotient * np.exp(2 * np.minimum(most, 50.0))[:, None] * absolute * (1 + 1e-9)
    # an execution may compute the logits of keys that it then masks: inf - inf is NaN
    widest = np.maximum(np.abs(run.prefix_keys).max(axis=0), np.abs(run.data_keys).max(axis=0))
    fits = (np.abs(q) @ widest)[:, None] * max(run.scale, 1.0) * (1 + 1e-9) < form.largest / 8
    rounding = np.where(fits & (most[:, None] < 50.0), spread + sums + lost, np.inf)
    furthest = np.maximum(np.abs(v[None] - target.mid[:, None]).max(axis=1) + target.rad, values.distance(rows, target))
    cap = (furthest + quotient * values.largest + lost) * (1 + 1e-9)
    return rounding, np.where(fits, cap, np.inf)
