"""Short ways to write targets, heads and claims in the kernel's own types, and seeded random ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from verify import Box, Claim, Expression, ExpressionTarget, Head, Layer, Node, Prefix, Target, Transformer
from verify.affine import AffineHead, affine_head
from verify.head import Tokens


@dataclass(frozen=True)
class Formula:
    """A formula under construction: a table of operations whose last node is its value."""

    nodes: tuple[Node, ...]

    def __add__(self, other: Formula | float | Fraction) -> Formula:
        return apply("add", self, lift(other))

    def __sub__(self, other: Formula | float | Fraction) -> Formula:
        return self + lift(other) * -1

    def __rsub__(self, other: float | Fraction) -> Formula:
        return lift(other) - self

    def __mul__(self, other: Formula | float | Fraction) -> Formula:
        return apply("mul", self, lift(other))

    __radd__, __rmul__ = __add__, __mul__

    def __pow__(self, exponent: int | Fraction | str) -> Formula:
        return apply("pow", self, value=str(exponent))


def lift(x: Formula | float | Fraction) -> Formula:
    """A number as a formula, exactly."""
    return x if isinstance(x, Formula) else Formula((Node("const", (), str(Fraction(x))),))


def var(i: int = 0) -> Formula:
    """The i-th variable."""
    return Formula((Node("var", (), str(i)),))


def named(constant: str) -> Formula:
    """pi or e."""
    return Formula((Node("const", (), constant),))


def apply(op: str, *args: Formula, value: str | None = None) -> Formula:
    """An operation on formulas; their tables are concatenated."""
    nodes: list[Node] = []
    ends = []
    for a in args:
        shift = len(nodes)
        nodes += [Node(n.op, tuple(i + shift for i in n.args), n.value) for n in a.nodes]
        ends.append(len(nodes) - 1)
    return Formula((*nodes, Node(op, tuple(ends), value)))


def expression(*outputs: Formula, n: int = 1) -> Expression:
    """A vector of formulas in x0 .. x{n-1}."""
    nodes: list[Node] = []
    ends = []
    for f in outputs:
        shift = len(nodes)
        nodes += [Node(k.op, tuple(i + shift for i in k.args), k.value) for k in f.nodes]
        ends.append(len(nodes) - 1)
    return Expression(tuple(nodes), tuple(ends), tuple(f"x{i}" for i in range(n)))


def target(*outputs: Formula, n: int = 1) -> ExpressionTarget:
    """The same as a target."""
    return ExpressionTarget(expression(*outputs, n=n))


def head_model(slopes: np.ndarray, biases: np.ndarray, values: np.ndarray) -> tuple[Transformer, Prefix]:
    """A model whose frozen matrices only copy: logits <slopes_j, x> + biases_j, values as given."""
    slopes, values = np.asarray(slopes, float), np.asarray(values, float)
    tokens, n = slopes.shape
    values = values.reshape(tokens, -1)
    k = values.shape[1]
    embedding = np.vstack([np.eye(n), np.zeros((1, n))])
    offset = np.concatenate([np.zeros(n), [1.0]])
    model = Transformer(embedding, offset, (Layer((Head(np.eye(n + 1), np.eye(k)),)),), np.eye(k))
    return model, Prefix(((np.column_stack([slopes, biases]),),), ((values,),))


def plain_head(slopes: np.ndarray, biases: np.ndarray, values: np.ndarray) -> AffineHead:
    """The kernel's reading of such a model."""
    return affine_head(*head_model(slopes, biases, values))


def every_token(head: AffineHead) -> Tokens:
    """All tokens, nothing dropped."""
    return Tokens(np.arange(len(head.biases)), 0.0, np.zeros(head.values.shape[1]))


def claim(
    slopes: np.ndarray,
    biases: np.ndarray,
    values: np.ndarray,
    f: Target,
    sides: Sequence[tuple[float, float]],
    eps: float,
) -> Claim:
    """A claim about a head that only copies."""
    return Claim(*head_model(slopes, biases, values), f, Box(sides), eps)


def fitted(
    f: ExpressionTarget, sides: Sequence[tuple[float, float]], per_axis: int, sharpness: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Slopes, biases and least-squares values of Gaussian keys on a regular grid: a decent head for f."""
    lo, hi = np.array(sides, dtype=float).T
    len(lo)
    ends = [
        np.linspace(a, b, per_axis) if per_axis > 1 else np.array([(a + b) / 2]) for a, b in zip(lo, hi, strict=True)
    ]
    centres = np.stack([m.ravel() for m in np.meshgrid(*ends, indexing="ij")], axis=1)
    step = (hi - lo) / max(per_axis - 1, 1)
    slopes = sharpness * centres / step**2
    biases = -0.5 * sharpness * ((centres / step) ** 2).sum(axis=1)
    points = Box(sides).sample(max(400, 6 * len(centres)), seed=1)
    edges = np.stack(
        [m.ravel() for m in np.meshgrid(*[np.linspace(a, b, 9) for a, b in zip(lo, hi, strict=True)], indexing="ij")],
        axis=1,
    )
    points = np.concatenate([points, edges])
    logits = points @ slopes.T + biases
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    values = np.linalg.lstsq(weights, f.evaluate(points), rcond=1e-12)[0]
    return slopes, biases, values


def fitted_bernstein(
    f: ExpressionTarget, side: tuple[float, float], tokens: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys whose weights are the Bernstein basis in t = sigmoid(2 (x - middle) / width), and least-squares values: very accurate."""
    lo, hi = side
    middle, scale = (lo + hi) / 2, 2 / (hi - lo)
    j = np.arange(tokens)
    slopes = j * scale
    biases = np.array([math.log(math.comb(tokens - 1, i)) for i in j]) - slopes * middle
    points = np.clip(middle - (hi - lo) / 2 * np.cos(np.linspace(0, np.pi, 20 * tokens)), lo, hi)[:, None]
    logits = points @ slopes[None] + biases
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return slopes[:, None], biases, np.linalg.lstsq(weights, f.evaluate(points), rcond=1e-13)[0]


def random_formula(rng: np.random.Generator, n: int, depth: int, kinks: bool = False) -> Formula:
    """A random smooth formula in n variables (with kinks if asked) that is defined on a neighbourhood of [-1, 1]^n."""
    if depth == 0 or rng.random() < 0.1:
        if rng.random() < 0.8:
            return var(int(rng.integers(n))) * Fraction(int(rng.integers(-12, 13)) or 1, 8) + Fraction(
                int(rng.integers(-8, 9)), 8
            )
        return lift(Fraction(int(rng.integers(-9, 10)), 7))
    a = random_formula(rng, n, depth - 1, kinks)
    tame = apply("tanh", a)  # in (-1, 1): a safe argument of what grows or has a boundary
    choices = [
        lambda: a + random_formula(rng, n, depth - 1, kinks),
        lambda: a * random_formula(rng, n, depth - 1, kinks),
        lambda: apply(str(rng.choice(["sin", "cos", "atan", "erf", "asinh", "tanh"])), a),
        lambda: apply(str(rng.choice(["exp", "sinh", "cosh", "tan"])), tame),
        lambda: apply(str(rng.choice(["asin", "acos", "atanh"])), tame * Fraction(3, 4)),
        lambda: apply("log", tame + Fraction(5, 4)),
        lambda: apply("acosh", tame + Fraction(5, 2)),
        lambda: (tame + Fraction(9, 8)) ** str(rng.choice(["1/2", "-1", "-3", "5/3", "-1/2", "70"])),
        lambda: tame ** int(rng.integers(0, 6)),
    ]
    if kinks:
        b = random_formula(rng, n, depth - 1, kinks)
        choices += [
            lambda: apply("abs", a),
            lambda: apply("min", a, b),
            lambda: apply("max", a, b),
            lambda: apply("select", a, b, a, value=">"),
        ]
    return choices[int(rng.integers(len(choices)))]()
