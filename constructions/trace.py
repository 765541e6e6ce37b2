"""A NumPy callable becomes a SymPy expression, by calling it once on arrays of symbols.

The symbolic arrays answer NumPy's dispatch protocols (`__array_ufunc__`, NEP 13, and `__array_function__`, NEP 18), so that
`np.exp(-np.sum(p**2, axis=-1))` runs unchanged and returns its own formula. The order of the file: formulas of single
elements; symbolic arrays; the NumPy functions they answer; calling conventions; the trace; its comparison with f.

Three things make the result trustworthy enough to be worth proving something about:

- every float constant is kept exactly, as the rational number it is;
- the batch axis holds several rows of *different* symbols, so a callable that mixes batch rows shows it in its formula;
- on seeded random points the formula must reproduce f up to rounding, and f must reproduce itself bit by bit; random,
  stateful and data-dependent callables fail this and are left to be treated as black boxes.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
import sympy as sp
from jaxtyping import Float
from numpy.lib.array_utils import normalize_axis_tuple
from numpy.lib.mixins import NDArrayOperatorsMixin
from scipy import special
from sympy.functions.elementary.piecewise import ExprCondPair
from sympy.logic.boolalg import Boolean

from constructions.errors import CallableError, DomainError

__all__ = ["FORMULAS", "NotTraceable", "SymbolicArray", "TracedTarget", "evaluate_callable", "exact", "select", "trace"]

_MAX_NODES = 100_000
_MAX_BITS = 4096
_MAX_INNER = 6
_SAMPLES = 61
_JITTERS = 8


@dataclass(frozen=True)
class TracedTarget:
    """The formula of a callable.

    expressions: one per component. symbols: the coordinates of a point, in order, all `real=True`. scalar: whether the
    callable returns shape (...) rather than (..., k).
    """

    expressions: tuple[sp.Expr, ...]
    symbols: tuple[sp.Symbol, ...]
    scalar: bool


@dataclass(frozen=True)
class NotTraceable:
    """Why a callable has no formula; it can still be used as a black box with a Lipschitz constant."""

    reason: str


class _CannotTrace(TypeError):
    """Raised inside the callable being traced; `trace` turns it into `NotTraceable`."""


# --- formulas of single elements -------------------------------------------------------------------------------------


def exact(value: Any) -> Any:
    """`value` as a SymPy object with nothing rounded: a float becomes the rational number it is (0.5 -> 1/2).

    Raises _CannotTrace for NaN and for anything that is not a real number, a truth value or a SymPy expression.
    """
    if isinstance(value, sp.Basic):
        return value
    if isinstance(value, SymbolicArray) and value.ndim == 0:
        return value.elements[()]
    if isinstance(value, (bool, np.bool_)):
        return sp.true if value else sp.false
    if isinstance(value, (int, np.integer)):
        return sp.Integer(int(value))
    if isinstance(value, Fraction):
        return sp.Rational(value.numerator, value.denominator)
    if isinstance(value, (float, np.floating)):
        if np.isnan(value):
            raise _CannotTrace("it contains the constant nan")
        if np.isinf(value):
            return sp.oo if value > 0 else -sp.oo
        return sp.Rational(*value.as_integer_ratio())
    raise _CannotTrace(
        f"it contains {value!r}, a {type(value).__name__}: only real numbers and NumPy arrays can be traced"
    )


def _is_condition(e: Any) -> bool:
    return isinstance(e, Boolean) and not isinstance(e, sp.Expr)  # SymPy's symbols are both


def _is_true(condition: Any) -> bool | None:
    return True if condition in (sp.true, True) else False if condition in (sp.false, False) else None


def _number(e: Any) -> Any:
    """A truth value used as a number is 1 or 0."""
    return select(e, sp.S.One, sp.S.Zero) if _is_condition(e) else e


def _condition(e: Any) -> Any:
    """A number used as a truth value: is it nonzero?"""
    return e if _is_condition(e) else _compare(sp.Ne, e, sp.S.Zero)


def _compare(relation: Any, a: Any, b: Any) -> Any:
    a, b = _number(a), _number(b)
    # SymPy would search its assumptions for an answer, which takes minutes on the sums of a small neural network.
    return relation(a, b, evaluate=bool(a == b or (a.is_number and b.is_number)))


def select(condition: Any, a: sp.Expr, b: sp.Expr) -> sp.Expr:
    """a where the condition holds, b elsewhere; compound conditions are nested, so every Piecewise tests one relation.

    With d the difference of the two sides of "d > 0" (or >=) and a - b = c d for a number c, the value is b + c max(d, 0)
    everywhere, d = 0 included (c |d| / 2 if a = -b): so |x|, relu and leaky relu written with np.where are visibly continuous.
    """
    known = _is_true(condition)
    if known is not None or a == b:
        return a if known is not False else b
    if isinstance(condition, sp.Not):
        return select(condition.args[0], b, a)
    if isinstance(condition, sp.And):
        return functools.reduce(lambda inner, c: select(c, inner, b), condition.args, a)
    if isinstance(condition, sp.Or):
        return functools.reduce(lambda inner, c: select(c, a, inner), condition.args, b)
    if isinstance(condition, sp.Ne):
        return select(sp.Eq(*condition.args, evaluate=False), b, a)
    if isinstance(condition, (sp.Gt, sp.Ge, sp.Lt, sp.Le)):
        more: Any = condition.gts
        less: Any = condition.lts
        scale = _multiple(a - b, more - less)
        if (scale, b) in ((1, less), (-1, more)):
            return _extreme(sp.Max if scale == 1 else sp.Min, a, b)
        if scale is not None:
            return scale / 2 * sp.Abs(more - less) if a == -b else b + scale * _extreme(sp.Max, more - less, sp.S.Zero)
    # SymPy wants no branches inside a condition: decide the inner branch first.
    inner = [node for node in _postorder([condition]) if isinstance(node, sp.Piecewise)]
    if len(inner) > _MAX_INNER:
        raise _CannotTrace(f"it compares a value made of more than {_MAX_INNER} branches")
    if inner:
        yes, no = (_substitute([condition], {inner[0]: branch.args[0]})[0] for branch in inner[0].args)
        return select(inner[0].args[0].args[1], select(yes, a, b), select(no, a, b))
    return sp.Piecewise((a, condition), (b, True), evaluate=False)


def _multiple(e: sp.Expr, d: sp.Expr) -> sp.Expr | None:
    """The number c with e = c d, where it can be seen from the coefficients; None otherwise."""
    (p, e_part), (q, d_part) = e.as_content_primitive(), d.as_content_primitive()
    return p / q if e_part == d_part else -p / q if e_part == -d_part else None


def _extreme(kind: Any, *arguments: sp.Expr) -> Any:
    """sp.Max or sp.Min, numbers folded. SymPy would compare all pairs: seconds for a neural network, minutes for a wide one."""
    flat = dict.fromkeys(x for e in arguments for x in (e.args if isinstance(e, kind) else (e,)))
    number = kind(*(x for x in flat if x.is_number))  # of none: the neutral infinity
    rest = [x for x in flat if not x.is_number]
    if not rest or number == (sp.oo if kind is sp.Max else -sp.oo):
        return number
    if number.is_finite:
        rest.append(number)
    return rest[0] if len(rest) == 1 else kind(*rest, evaluate=False)


def _multiply(a: Any, b: Any) -> Any:
    # (x > 0) * x is a branch, not a product: say so, for `select` to recognise.
    if _is_condition(a):
        return select(a, _number(b), sp.S.Zero)
    return select(b, a, sp.S.Zero) if _is_condition(b) else a * b


def _power(a: sp.Expr, b: sp.Expr) -> sp.Expr:
    if isinstance(b, sp.Rational) and abs(b) * _bits(a.as_coeff_Mul()[0]) > _MAX_BITS:  # SymPy multiplies (c x)**b out
        raise _CannotTrace(f"a power in it needs an exact constant of more than {_MAX_BITS} bits")
    return a**b


def _bits(number: sp.Basic) -> int:
    return max(abs(int(number.p)), int(number.q)).bit_length() if isinstance(number, sp.Rational) else 0


def _cbrt(x: sp.Expr) -> sp.Expr:
    """The real cube root: one of the two terms is zero, and SymPy's x**(1/3) is complex for x < 0."""
    third = sp.Rational(1, 3)
    return _extreme(sp.Max, x, sp.S.Zero) ** third - _extreme(sp.Max, -x, sp.S.Zero) ** third


def _arctan2(y: sp.Expr, x: sp.Expr) -> sp.Expr:
    """Half-angle formula tan(t/2) = sin t / (1 + cos t): undefined exactly on y = 0, x <= 0, where atan2 jumps."""
    return 2 * sp.atan(y / (sp.sqrt(x**2 + y**2) + x))


def _sign(x: sp.Expr) -> sp.Expr:
    negative = select(_compare(sp.Lt, x, sp.S.Zero), sp.S.NegativeOne, sp.S.Zero)
    return select(_compare(sp.Gt, x, sp.S.Zero), sp.S.One, negative)


def _sinc(x: sp.Expr) -> sp.Expr:
    return sp.sinc(sp.pi * x)


FORMULAS: Mapping[str, Callable[..., Any]] = MappingProxyType({
    "add": operator.add, "subtract": operator.sub, "divide": operator.truediv, "negative": operator.neg,
    "positive": operator.pos, "absolute": sp.Abs, "fabs": sp.Abs, "conjugate": operator.pos,
    "power": _power, "float_power": _power, "square": lambda x: _power(x, sp.Integer(2)), "reciprocal": lambda x: 1 / x,
    "sqrt": sp.sqrt, "cbrt": _cbrt, "hypot": lambda x, y: sp.sqrt(x**2 + y**2),
    "exp": sp.exp, "exp2": lambda x: sp.S(2) ** x, "expm1": lambda x: sp.exp(x) - 1,
    "log": sp.log, "log2": lambda x: sp.log(x) / sp.log(2), "log10": lambda x: sp.log(x) / sp.log(10),
    "log1p": lambda x: sp.log(1 + x), "logaddexp": lambda a, b: sp.log(sp.exp(a) + sp.exp(b)),
    "logaddexp2": lambda a, b: sp.log(sp.S(2) ** a + sp.S(2) ** b) / sp.log(2),
    "sin": sp.sin, "cos": sp.cos, "tan": sp.tan, "arcsin": sp.asin, "arccos": sp.acos, "arctan": sp.atan,
    "arctan2": _arctan2, "sinh": sp.sinh, "cosh": sp.cosh, "tanh": sp.tanh, "arcsinh": sp.asinh,
    "arccosh": sp.acosh, "arctanh": sp.atanh, "deg2rad": lambda x: x * sp.pi / 180, "rad2deg": lambda x: x * 180 / sp.pi,
    "maximum": functools.partial(_extreme, sp.Max), "minimum": functools.partial(_extreme, sp.Min), "sign": _sign,
    "erf": sp.erf, "erfc": lambda x: 1 - sp.erf(x), "ndtr": lambda x: (1 + sp.erf(x / sp.sqrt(2))) / 2,
    "expit": lambda x: 1 / (1 + sp.exp(-x)), "logit": lambda x: sp.log(x / (1 - x)), "sinc": _sinc,
})  # fmt: skip
"""Formulas by NumPy (or scipy.special) name, each taking and returning SymPy expressions of real symbols."""

_ALIASES = {"fmax": "maximum", "fmin": "minimum", "radians": "deg2rad", "degrees": "rad2deg"}
_RELATIONS = {
    "greater": sp.Gt,
    "greater_equal": sp.Ge,
    "less": sp.Lt,
    "less_equal": sp.Le,
    "equal": sp.Eq,
    "not_equal": sp.Ne,
}


def _logical(kind: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: kind(*(_condition(a) for a in args))


def _xor(a: Any, b: Any) -> Any:
    return sp.And(sp.Or(a, b), sp.Not(sp.And(a, b)))


def _ufunc_table() -> dict[Any, Callable[..., Any]]:
    """Formulas by ufunc object, not by name: a foreign ufunc that happens to be called "exp" is not np.exp."""

    def numeric(formula: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: formula(*(_number(a) for a in args))

    table: dict[Any, Callable[..., Any]] = {np.multiply: _multiply}
    for name, formula in FORMULAS.items():
        if name != "sinc":  # np.sinc is no ufunc, and special.sinc does not exist
            table[getattr(np, name, None) or getattr(special, name)] = numeric(formula)
    for alias, name in _ALIASES.items():
        table[getattr(np, alias)] = numeric(FORMULAS[name])
    for name, relation in _RELATIONS.items():
        table[getattr(np, name)] = functools.partial(_compare, relation)
    for name, kind in {"and": sp.And, "or": sp.Or, "xor": _xor, "not": sp.Not}.items():
        table[getattr(np, "logical_" + name)] = _logical(kind)
    for name, kind in {"bitwise_and": sp.And, "bitwise_or": sp.Or, "bitwise_xor": _xor, "invert": sp.Not}.items():
        table[getattr(np, name)] = _bitwise(kind)
    return table


def _bitwise(kind: Callable[..., Any]) -> Callable[..., Any]:
    def formula(*args: Any) -> Any:
        if not all(_is_condition(a) for a in args):
            raise _CannotTrace("bitwise operations are defined for comparisons only")
        return kind(*args)

    return formula


_UFUNCS: Mapping[Any, Callable[..., Any]] = MappingProxyType(_ufunc_table())


# --- symbolic arrays -------------------------------------------------------------------------------------------------


class SymbolicArray(NDArrayOperatorsMixin):
    """A NumPy array of SymPy expressions that NumPy's functions accept.

    elements: object array of SymPy expressions and conditions. Indexing returns views and assignment writes through them,
    as in NumPy. Whatever would need a number (`if x > 0`, `float(x)`, `math.sin(x)`) raises.
    """

    def __init__(self, elements: np.ndarray) -> None:
        self.elements = elements

    @property
    def shape(self) -> tuple[int, ...]:
        return self.elements.shape

    @property
    def ndim(self) -> int:
        return self.elements.ndim

    @property
    def size(self) -> int:
        return self.elements.size

    @property
    def dtype(self) -> np.dtype:
        """The type the elements stand for: bool for comparisons, float64 otherwise."""
        return np.dtype(bool if self.size and all(_is_condition(e) for e in self.elements.flat) else np.float64)

    @property
    def T(self) -> SymbolicArray:
        return SymbolicArray(self.elements.T)

    @property
    def real(self) -> SymbolicArray:
        return self

    def __len__(self) -> int:
        return len(self.elements)

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, key: Any) -> SymbolicArray:
        if isinstance(key, SymbolicArray):
            raise _CannotTrace("x[mask] selects by value: use np.where(mask, a, b)")
        return _wrap(self.elements[key])

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(key, SymbolicArray):
            if np.ndim(value) or key.shape != self.shape:
                raise _CannotTrace("x[mask] = ... needs a mask of the shape of x and a single value: use np.where")
            chosen = _elementwise(lambda c, a, b: select(_condition(c), a, _number(b)), key, value, self)
            self.elements[...] = chosen.elements
        else:
            self.elements[key] = _elements(value)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        out = kwargs.pop("out", None)
        if method == "reduce" and not out and ufunc in _REDUCTIONS:
            return _reduce(_REDUCTIONS[ufunc], *inputs, **kwargs)
        if method != "__call__" or any(v is not None for v in kwargs.values()):
            raise _CannotTrace(f"np.{ufunc.__name__}.{method} with {sorted(kwargs)} has no formula")
        if ufunc is np.matmul:
            result = _matmul(*inputs)
        elif ufunc in _UFUNCS:
            result = _elementwise(_UFUNCS[ufunc], *inputs)
        else:
            raise _CannotTrace(f"{ufunc.__name__} has no formula here")
        if out is None:
            return result
        if not isinstance(out[0], SymbolicArray):
            raise _CannotTrace(f"np.{ufunc.__name__}(..., out=a) writes into an array of floats")
        out[0].elements[...] = result.elements
        return out[0]

    def __array_function__(self, func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func in _FUNCTIONS:
            return _FUNCTIONS[func](*args, **kwargs)
        if func in _REARRANGING:
            return _wrap(func(*_unwrap(args), **_unwrap(kwargs)))
        if func in _MULTILINEAR:
            return _wrap(func(*_unwrap(args, convert=True), **kwargs))
        raise _CannotTrace(f"np.{func.__name__} has no formula here")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise _CannotTrace("it needs an array of numbers (np.array, np.asarray, a loop): use np.stack([...], axis=-1)")

    def __bool__(self) -> bool:
        raise _CannotTrace(
            "it branches on a value (if, while, and, or, min, max, an assertion): use np.where, np.maximum"
        )

    def _needs_number(self, *_: Any) -> Any:
        raise _CannotTrace(
            "it converts a value to a Python number (float, int, the math module): use NumPy's functions"
        )

    __float__ = __int__ = __index__ = __complex__ = __round__ = _needs_number

    def __getattr__(self, name: str) -> Any:
        function = _METHODS.get(name)
        if function is None:
            raise AttributeError(f"symbolic arrays have no attribute {name!r}")
        return functools.partial(function, self)

    def __repr__(self) -> str:
        return f"SymbolicArray({self.elements.tolist()})"


def _wrap(result: Any) -> Any:
    """Object arrays become symbolic arrays of exact elements; containers are searched."""
    if isinstance(result, (list, tuple)):
        return type(result)(_wrap(r) for r in result)
    if isinstance(result, np.ndarray) and result.dtype == object:
        # Mixed stacks hold floats beside expressions. Only then is a new array needed: indexing must stay a view.
        pure = all(isinstance(e, sp.Basic) for e in result.flat)
        return SymbolicArray(result if pure else _elements(result))
    return SymbolicArray(_elements(result)) if isinstance(result, sp.Basic) else result


def _unwrap(value: Any, *, convert: bool = False) -> Any:
    """Symbolic arrays become object arrays; with `convert` so do arrays of numbers."""
    if isinstance(value, SymbolicArray):
        return _elementwise(_number, value).elements if convert else value.elements
    if isinstance(value, (list, tuple)):
        return type(value)(_unwrap(v, convert=convert) for v in value)
    if isinstance(value, dict):
        return {k: _unwrap(v, convert=convert) for k, v in value.items()}
    return _elements(value) if convert and isinstance(value, np.ndarray) else value


def _elements(value: Any) -> np.ndarray:
    """`value` as an object array of exact SymPy elements."""
    if isinstance(value, SymbolicArray):
        return value.elements
    if isinstance(value, (list, tuple)):
        return _elements(np.stack([SymbolicArray(_elements(v)) for v in value]))  # type: ignore[call-overload]
    raw = value if isinstance(value, np.ndarray) else np.array(value, dtype=object)
    out = np.empty(raw.shape, dtype=object)
    for i in np.ndindex(raw.shape):
        out[i] = exact(raw[i])
    return out


def _elementwise(formula: Callable[..., Any], *inputs: Any) -> SymbolicArray:
    """NumPy's broadcasting, one formula per element."""
    arrays = [_elements(a) for a in inputs]
    result = np.frompyfunc(formula, len(arrays), 1)(*arrays)
    return SymbolicArray(result if isinstance(result, np.ndarray) else _elements(result))


def _reduce(
    combine: Callable[..., Any], a: Any, axis: Any = 0, dtype: Any = None, out: Any = None, keepdims: bool = False
) -> SymbolicArray:
    data = _elements(a)
    axes = tuple(range(data.ndim)) if axis is None else normalize_axis_tuple(axis, data.ndim)
    if out is not None:
        raise _CannotTrace("out= is supported for element-wise functions only")
    kept = [i for i in range(data.ndim) if i not in axes]
    shape = [data.shape[i] for i in kept]
    rows = data.transpose([*kept, *axes]).reshape([*shape, -1])
    result = np.empty(shape, dtype=object)
    for i in np.ndindex(*shape):
        result[i] = combine(*rows[i])
    return SymbolicArray(
        result.reshape([1 if i in axes else s for i, s in enumerate(data.shape)]) if keepdims else result
    )


def _fold(kind: Any) -> Callable[..., Any]:
    return lambda *row: _extreme(kind, *(_number(e) for e in row))


def _add(*row: Any) -> sp.Expr:
    return sp.Add(*(_number(e) for e in row))  # one flattening instead of one per term


_REDUCTIONS: Mapping[Any, Callable[..., Any]] = MappingProxyType({
    np.add: _add, np.multiply: lambda *row: sp.Mul(*(_number(e) for e in row)), np.maximum: _fold(sp.Max),
    np.minimum: _fold(sp.Min), np.logical_and: _logical(sp.And), np.logical_or: _logical(sp.Or),
})  # fmt: skip


def _matmul(a: Any, b: Any) -> SymbolicArray:
    left, right = _elements(a), _elements(b)
    if not left.ndim or not right.ndim:
        raise _CannotTrace("matmul needs arrays, not numbers")
    rows = left[None, :] if left.ndim == 1 else left
    columns = right[:, None] if right.ndim == 1 else right
    if rows.shape[-1] != columns.shape[-2]:
        raise _CannotTrace(f"matmul of shapes {left.shape} and {right.shape} does not fit")
    terms = _elementwise(_multiply, SymbolicArray(rows[..., :, :, None]), SymbolicArray(columns[..., None, :, :]))
    result = _reduce(_add, terms, axis=-2).elements
    result = result[..., 0] if right.ndim == 1 else result
    return SymbolicArray(
        result[..., 0, :] if left.ndim == 1 and right.ndim > 1 else result[..., 0] if left.ndim == 1 else result
    )


# --- the NumPy functions that are no ufuncs --------------------------------------------------------------------------


def _reduction(ufunc: Any) -> Callable[..., Any]:
    def reduction(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        return _reduce(_REDUCTIONS[ufunc], a, axis, dtype, out, keepdims)

    return reduction


def _extremum(ufunc: Any) -> Callable[..., Any]:
    def extremum(a: Any, axis: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        return _reduce(_REDUCTIONS[ufunc], a, axis, None, out, keepdims)

    return extremum


def _where(condition: Any, a: Any, b: Any) -> SymbolicArray:
    return _elementwise(lambda c, u, v: select(_condition(c), _number(u), _number(v)), condition, a, b)


def _select(conditions: Sequence[Any], choices: Sequence[Any], default: Any = 0) -> Any:
    result = default
    for condition, choice in zip(reversed(conditions), reversed(choices), strict=True):
        result = _where(condition, choice, result)
    return result


def _piecewise(x: Any, conditions: Any, functions: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
    """np.piecewise: a later condition overrides an earlier one, and one function more than conditions is the default."""
    conditions = list(conditions) if isinstance(conditions, (list, tuple)) else [conditions]
    if len(functions) not in (len(conditions), len(conditions) + 1):
        raise _CannotTrace("np.piecewise needs one function per condition, or one more")
    pieces = [f(x, *args, **kwargs) if callable(f) else f for f in functions]
    result = _where(True, pieces[-1] if len(pieces) > len(conditions) else 0, np.zeros_like(x))
    for condition, piece in zip(conditions, pieces, strict=False):
        result = _where(condition, piece, result)
    return result


def _clip(a: Any, a_min: Any = None, a_max: Any = None, out: Any = None, *, min: Any = None, max: Any = None) -> Any:
    low, high = a_min if min is None else min, a_max if max is None else max
    if out is not None:
        raise _CannotTrace("np.clip(..., out=) is not supported")
    result = a if low is None else np.maximum(a, low)
    return result if high is None else np.minimum(result, high)


def _count(a: Any, axis: Any) -> int:
    data = _elements(a)
    return data.size if axis is None else math.prod(data.shape[i] for i in normalize_axis_tuple(axis, data.ndim))


def _mean(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
    return _reduce(_add, a, axis, dtype, out, keepdims) / _count(a, axis)


def _var(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: int = 0, keepdims: bool = False) -> Any:
    squares = (a - _mean(a, axis, keepdims=True)) ** 2
    return _reduce(_add, squares, axis, dtype, out, keepdims) / (_count(a, axis) - ddof)


def _std(*args: Any, **kwargs: Any) -> Any:
    return np.sqrt(_var(*args, **kwargs))


def _ptp(a: Any, axis: Any = None) -> Any:
    return np.max(a, axis=axis) - np.min(a, axis=axis)


def _norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    lengths = axis is None or np.ndim(axis) == 0
    if ord in (None, "fro") or (lengths and ord == 2):
        return np.sqrt(_reduce(_add, np.square(x), axis, keepdims=keepdims))
    if not lengths or (axis is None and np.ndim(x) > 1) or isinstance(ord, str) or ord == 0:
        raise _CannotTrace(f"np.linalg.norm(ord={ord!r}, axis={axis!r}) has no formula here")
    if abs(ord) == math.inf:
        return _reduce(_fold(sp.Max if ord > 0 else sp.Min), np.abs(x), axis, keepdims=keepdims)
    total = _reduce(_add, np.abs(x) ** ord, axis, keepdims=keepdims)
    return total if ord == 1 else total ** (Fraction(1) / Fraction(ord))


def _dot(a: Any, b: Any) -> Any:
    if not np.ndim(a) or not np.ndim(b):
        return a * b
    if np.ndim(b) > 2:
        raise _CannotTrace("np.dot with a second argument of more than two axes: use np.matmul or np.einsum")
    return np.matmul(a, b)


def _polyval(p: Any, x: Any) -> Any:
    return functools.reduce(lambda value, c: value * x + c, p, np.zeros_like(x))


def _interp(x: Any, xp: Any, fp: Any, left: Any = None, right: Any = None, period: Any = None) -> Any:
    """fp_0 + sum_k (s_k - s_{k-1}) max(x - xp_k, 0), s_k the slope right of knot k, zero outside the knots."""
    knots, values = [list(_elements(v)) for v in (xp, fp)]
    if left is not None or right is not None or period is not None or any(b <= a for a, b in pairwise(knots)):
        raise _CannotTrace("np.interp with left=, right=, period= or knots that do not increase has no formula here")
    run = range(len(knots) - 1)
    slopes = [sp.S.Zero, *((values[i + 1] - values[i]) / (knots[i + 1] - knots[i]) for i in run), sp.S.Zero]

    def formula(u: sp.Expr) -> sp.Expr:
        hinges = zip(knots, slopes, slopes[1:], strict=False)
        return sp.Add(
            values[0], *((after - before) * _extreme(sp.Max, u - knot, sp.S.Zero) for knot, before, after in hinges)
        )

    return _elementwise(formula, x)


def _full_like(
    a: Any, fill_value: Any, dtype: Any = None, order: str = "K", subok: bool = True, shape: Any = None
) -> Any:
    if shape is not None:
        raise _CannotTrace("np.full_like(..., shape=) is not supported")
    return SymbolicArray(np.broadcast_to(_elements(fill_value), np.shape(a)).copy())


def _like(value: int) -> Callable[..., Any]:
    return lambda a, dtype=None, order="K", subok=True, shape=None: _full_like(a, value, shape=shape)


def _astype(a: SymbolicArray, dtype: Any, **_: Any) -> SymbolicArray:
    if np.dtype(dtype) != np.float64:
        raise _CannotTrace(f"astype({dtype!r}) rounds; float64 is what f is traced in")
    return _elementwise(_number, a)


_FUNCTIONS: Mapping[Hashable, Callable[..., Any]] = MappingProxyType({
    np.sum: _reduction(np.add), np.prod: _reduction(np.multiply), np.max: _extremum(np.maximum), np.amax: _extremum(np.maximum),
    np.min: _extremum(np.minimum), np.amin: _extremum(np.minimum), np.all: _extremum(np.logical_and),
    np.any: _extremum(np.logical_or), np.mean: _mean, np.var: _var, np.std: _std, np.ptp: _ptp, np.linalg.norm: _norm,
    np.where: _where, np.select: _select, np.piecewise: _piecewise, np.clip: _clip, np.dot: _dot, np.polyval: _polyval,
    np.interp: _interp, np.sinc: lambda x: _elementwise(lambda e: _sinc(_number(e)), x),
    np.zeros_like: _like(0), np.empty_like: _like(0), np.ones_like: _like(1), np.full_like: _full_like,
    np.shape: lambda a: a.shape, np.ndim: lambda a: a.ndim, np.real: lambda a: a,
    np.size: lambda a, axis=None: a.size if axis is None else a.shape[axis],
})  # fmt: skip

_REARRANGING = frozenset({
    np.reshape, np.ravel, np.transpose, np.permute_dims, np.swapaxes, np.moveaxis, np.squeeze, np.expand_dims, np.stack, np.concatenate,
    np.hstack, np.vstack, np.dstack, np.column_stack, np.atleast_1d, np.atleast_2d, np.atleast_3d, np.broadcast_to,
    np.broadcast_arrays, np.split, np.array_split, np.flip, np.roll, np.repeat, np.tile, np.take, np.diagonal, np.append, np.copy,
})  # fmt: skip
"""Functions that only move elements: NumPy's own code runs on the object array."""

_MULTILINEAR = frozenset(
    {np.inner, np.outer, np.tensordot, np.einsum, np.kron, np.cross, np.diff, np.cumsum, np.cumprod, np.trace}
)
"""Functions made of + and * alone: NumPy's own code runs on object arrays, after numbers were made exact."""


def _shaped(function: Callable[..., Any]) -> Callable[..., Any]:
    """a.reshape(2, 3) as well as a.reshape((2, 3))."""
    return lambda a, *shape: function(
        a, shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape or None
    )


_METHODS: Mapping[str, Callable[..., Any]] = MappingProxyType({
    **{name: getattr(np, name) for name in (
        "sum", "prod", "max", "min", "all", "any", "mean", "var", "std", "clip", "dot", "squeeze", "swapaxes",
        "repeat", "take", "cumsum", "cumprod", "diagonal", "copy", "ravel",
    )},
    "reshape": _shaped(np.reshape), "transpose": _shaped(np.transpose), "flatten": lambda a: np.copy(np.ravel(a)),
    "astype": _astype, "conj": lambda a: a, "conjugate": lambda a: a,
})  # fmt: skip


# --- calling conventions ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Convention:
    """How f is called: with `dimension` arrays of shape (m,), or with one array, (m, n), or (m,) when n = 1."""

    separate: bool
    names: tuple[str, ...]

    @property
    def dimension(self) -> int:
        return len(self.names)

    def arguments(self, points: Any) -> list[Any]:
        """points: (m, n), an array or a SymbolicArray. Copies, because f may write into what it is given."""
        if self.separate or self.dimension == 1:
            return [points[:, i].copy() for i in range(self.dimension)]
        return [points.copy()]


def _convention(f: Callable[..., Any], dimension: int | None, names: Sequence[str] | None) -> _Convention:
    """Counts the required positional parameters of f; raises CallableError when they do not fit the dimension."""
    parameters, variadic = _parameters(f)
    count = len(parameters)
    n = len(names) if dimension is None and names is not None else dimension
    if variadic:
        n = max(count, 1) if n is None else n
        parameters = [*parameters, *(f"x{i}" for i in range(count, n))] if count else [f"x{i}" for i in range(n)]
        count = n
    n = max(count, 1) if n is None else n
    if count == 0 or (count > 1 and count != n):
        raise CallableError(
            problem=f"takes {count} arguments where the domain has {n} variables",
            next_step="Let f take one array per variable, or one array of points of shape (..., n).",
        )
    if names is not None and len(names) != n:
        raise DomainError(
            value=list(names), reason=f"names {len(names)} variables where there are {n}", argument="names"
        )
    if names is None:
        names = parameters if count == n else [f"x{i}" for i in range(n)]
    return _Convention(separate=count > 1, names=tuple(names))


def _parameters(f: Callable[..., Any]) -> tuple[list[str], bool]:
    """Names of the required positional parameters, and whether f also takes *args."""
    if isinstance(f, np.vectorize):
        f = f.pyfunc
    if isinstance(f, np.ufunc):
        return (["x"] if f.nin == 1 else [f"x{i}" for i in range(f.nin)]), False
    try:
        parameters = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):  # compiled functions need not have one
        return ["x"], False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p.name for p in positional if p.default is p.empty]
    return (required or [p.name for p in positional[:1]]), any(p.kind == p.VAR_POSITIONAL for p in parameters)


# --- the trace -------------------------------------------------------------------------------------------------------


def trace(
    f: Callable[..., Any],
    *,
    dimension: int | None = None,
    bounds: Sequence[tuple[float, float]] | None = None,
    names: Sequence[str] | None = None,
    seed: int = 0,
) -> TracedTarget | NotTraceable:
    """The formula of a NumPy callable, or why it has none.

    f takes n > 1 arrays of one shape, or one array: points of shape (..., n), or of shape (...) when n = 1; it returns (...)
    or (..., k). dimension: n, by default len(bounds), or else the number of f's arguments. bounds: (lo, hi) of every
    variable; with them the formula is compared with f on seeded random points. names: of the variables, by default the
    parameters of f, or x0, x1, ... for a callable on points.

    Raises CallableError when f's number of arguments does not fit, DomainError when bounds or names do not. A callable
    that fails, branches on values, mixes the rows of a batch, or is not a fixed function is NotTraceable.
    """
    box = None if bounds is None else _box(bounds)
    if box is not None and dimension not in (None, len(box)):
        raise DomainError(
            value=bounds, reason=f"has {len(box)} intervals where dimension = {dimension}", argument="bounds"
        )
    convention = _convention(f, len(box) if box is not None else dimension, names)
    rng = np.random.default_rng(seed)
    low, high = (-1.0, 1.0) if box is None else box.T
    points = rng.uniform(low, high, size=(_SAMPLES, convention.dimension))
    try:
        with np.errstate(all="ignore"):
            traced, constant = _trace(f, convention, points)
            why = None if box is None else _disagreement(f, traced, constant, convention, points, rng)
    except _CannotTrace as error:
        return NotTraceable(str(error))
    except Exception as error:  # f is the user's: anything may come out of it
        return NotTraceable(f"calling it on symbols raised {type(error).__name__}: {error}")
    return traced if why is None else NotTraceable(why)


def _box(bounds: Sequence[tuple[float, float]]) -> Float[np.ndarray, "n 2"]:
    box = np.asarray(bounds, dtype=np.float64)
    if box.ndim != 2 or box.shape[1] != 2 or not len(box):
        raise DomainError(value=bounds, reason="is not a sequence of intervals (lo, hi)", argument="bounds")
    if not np.isfinite(box).all() or (box[:, 0] > box[:, 1]).any():
        raise DomainError(value=bounds, reason="is infinite or reversed", argument="bounds")
    return box


def _trace(
    f: Callable[..., Any], convention: _Convention, points: Float[np.ndarray, "m n"]
) -> tuple[TracedTarget, bool]:
    """The formula, and whether f returned a plain number instead of an array."""
    n = convention.dimension
    symbols = tuple(sp.Symbol(name, real=True) for name in convention.names)
    batch = 2 if n != 2 else 3  # different from n, so that the two axes cannot be taken for each other
    rows = [symbols, *(tuple(sp.Dummy(name, real=True) for name in convention.names) for _ in range(batch - 1))]
    result = f(*convention.arguments(SymbolicArray(np.array(rows, dtype=object).reshape(batch, n))))
    if isinstance(result, (int, float, np.integer, np.floating)):
        return TracedTarget((_checked(exact(result), symbols),), symbols, True), True
    if not isinstance(result, SymbolicArray) and not (isinstance(result, np.ndarray) and result.dtype != object):
        raise _CannotTrace(
            f"it returned a {type(result).__name__}, not an array: use np.stack([...], axis=-1) for several components"
        )
    values = np.frompyfunc(_number, 1, 1)(_elements(result))
    if np.shape(values) != (batch,) and not (np.ndim(values) == 2 and len(values) == batch and values.shape[1]):
        raise _CannotTrace(
            f"{batch} points gave the shape {np.shape(values)}, not ({batch},) or ({batch}, k): an axis is mixed up"
        )
    components = values.reshape(batch, -1)
    expressions = tuple(_checked(e, symbols) for e in components[0])
    traced = TracedTarget(expressions, symbols, values.ndim == 1)
    wanted = _evaluate(traced, points, None)
    for row, others in zip(rows[1:], components[1:], strict=True):
        for e in others:
            _checked(e, row)
        other = TracedTarget(tuple(others), row, traced.scalar)
        # Values, not structure: SymPy may arrange the same expression in other symbols differently.
        if not np.allclose(_evaluate(other, points, None), wanted, rtol=1e-6, atol=1e-9, equal_nan=True):
            raise _CannotTrace("the value at a point depends on where in the batch the point is")
    return traced, False


def _checked(e: Any, symbols: Sequence[sp.Symbol]) -> sp.Expr:
    for node in _postorder([e]):
        if node in (sp.oo, -sp.oo, sp.zoo, sp.nan, sp.I):
            raise _CannotTrace(f"its formula contains {node}: it is not finite, or not real")
        if isinstance(node, sp.Float):
            raise _CannotTrace(f"its formula contains the rounded constant {node}")
        if _bits(node) > _MAX_BITS:
            raise _CannotTrace(f"its formula contains an exact constant of more than {_MAX_BITS} bits (a large power?)")
        if isinstance(node, sp.Symbol) and node not in symbols:
            raise _CannotTrace(
                "the value at one point depends on other points of the batch (an axis is missing: axis=-1?)"
            )
    return e


def _postorder(roots: Iterable[sp.Basic]) -> list[sp.Basic]:
    """The distinct nodes below the roots, arguments before users. SymPy's own traversals repeat shared nodes."""
    seen: set[sp.Basic] = set()
    order: list[sp.Basic] = []
    stack = [(root, False) for root in roots]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            if len(seen) > _MAX_NODES:
                raise _CannotTrace(f"its formula has more than {_MAX_NODES} operations")
            stack.append((node, True))
            stack.extend((argument, False) for argument in node.args)
    return order


def _substitute(roots: Iterable[sp.Basic], mapping: Mapping[sp.Basic, sp.Basic]) -> list[sp.Basic]:
    """`xreplace` that visits shared nodes once and lets SymPy re-evaluate nothing that was left unevaluated."""
    roots = list(roots)
    new: dict[sp.Basic, sp.Basic] = dict(mapping)
    for node in _postorder(roots):
        if node not in new:
            arguments = [new[a] for a in node.args]
            if all(a is b for a, b in zip(arguments, node.args, strict=True)):
                new[node] = node
            elif getattr(node, "is_Relational", False):
                new[node] = _compare(node.func, *arguments)
            else:
                lazy = {"evaluate": False} if isinstance(node, (sp.Max, sp.Min, sp.Piecewise)) else {}
                new[node] = node.func(*arguments, **lazy)
    return [new[root] for root in roots]


# --- comparison with f -----------------------------------------------------------------------------------------------


def _disagreement(
    f: Callable[..., Any],
    traced: TracedTarget,
    constant: bool,
    convention: _Convention,
    points: Float[np.ndarray, "m n"],
    rng: np.random.Generator,
) -> str | None:
    """Where f and its formula differ beyond rounding, as a sentence; None if nowhere.

    How much rounding may matter is measured by Monte Carlo arithmetic (D. S. Parker, 1997): the formula is evaluated again
    with every intermediate result multiplied by 1 + delta, |delta| <= 2^-46 (64 units in the last place, so that sums in
    another order and less careful library functions are covered), and differences up to four times the spread are allowed,
    plus 2^-46 (1 or |f|) because SymPy may have cancelled exactly what f cancels in floats: sin(pi) is 0 here, 1e-16 there.
    """
    shape = (len(points),) if traced.scalar else (len(points), len(traced.expressions))
    first, second = (np.asarray(f(*convention.arguments(points)), dtype=np.float64) for _ in range(2))
    if constant and first.shape == second.shape == ():
        first, second = (np.broadcast_to(v, shape) for v in (first, second))
    if first.shape != shape or second.shape != shape:
        return f"{len(points)} points gave the shape {first.shape} where the formula gives {shape}"
    if not np.array_equal(first, second, equal_nan=True):
        return "two calls with the same points gave different values: it is random or keeps state"
    values = first.reshape(len(points), -1)
    formula = _evaluate(traced, points, None)
    spread = np.max([np.abs(np.nan_to_num(_evaluate(traced, points, rng) - formula)) for _ in range(_JITTERS)], axis=0)
    unit = np.maximum(1.0, np.nan_to_num(np.abs(formula), posinf=1.0))
    close = np.abs(values - formula) <= 4 * spread + 2.0**-46 * unit
    agree = close | (values == formula) | (np.isnan(values) & np.isnan(formula))
    if agree.all():
        return None
    i, j = np.argwhere(~agree)[0]
    at = ", ".join(f"{s} = {x:.17g}" for s, x in zip(traced.symbols, points[i], strict=True))
    return f"at {at} it returns {values[i, j]:.17g} but its formula {formula[i, j]:.17g}: not a fixed function, or undefined there"


_FLOAT_FUNCTIONS: Mapping[Any, Any] = MappingProxyType({
    sp.exp: np.exp, sp.log: np.log, sp.sin: np.sin, sp.cos: np.cos, sp.tan: np.tan, sp.asin: np.arcsin, sp.acos: np.arccos,
    sp.atan: np.arctan, sp.sinh: np.sinh, sp.cosh: np.cosh, sp.tanh: np.tanh, sp.asinh: np.arcsinh, sp.acosh: np.arccosh,
    sp.atanh: np.arctanh, sp.erf: special.erf, sp.Abs: np.abs, sp.Gt: np.greater, sp.Ge: np.greater_equal, sp.Lt: np.less,
    sp.Le: np.less_equal, sp.Eq: np.equal, sp.sinc: lambda x: np.sinc(x / np.pi),
})  # fmt: skip
_FLOAT_FOLDS: Mapping[Any, Any] = MappingProxyType(
    {sp.Add: np.add, sp.Mul: np.multiply, sp.Max: np.maximum, sp.Min: np.minimum}
)


def _evaluate(
    traced: TracedTarget, points: Float[np.ndarray, "m n"], rng: np.random.Generator | None
) -> Float[np.ndarray, "m k"]:
    """Float64 values of the formula, visiting shared nodes once; with `rng`, every operation is perturbed."""
    values: dict[sp.Basic, Any] = {s: points[:, i] for i, s in enumerate(traced.symbols)}
    constants: set[sp.Basic] = set()
    for node in _postorder(traced.expressions):
        if node in values:
            continue
        if isinstance(node, sp.Expr) and constants.issuperset(node.args):
            constants.add(node)
            values[node] = _float_constant(node)
            continue
        value = _float_value(node, [values[a] for a in node.args])
        if rng is not None and isinstance(node, sp.Expr):
            value = value * (1 + 2.0**-46 * rng.uniform(-1, 1, size=len(points)))
        values[node] = value
    return np.stack([np.broadcast_to(values[e], len(points)) for e in traced.expressions], axis=-1)


def _float_constant(node: Any) -> np.float64:
    """By SymPy, with as many digits as it takes: the parts of sqrt(1 + 10**-600) may overflow where it does not."""
    try:
        return np.float64(float(node))
    except (TypeError, OverflowError):  # complex, or too large
        return np.float64(np.nan)


def _float_value(node: Any, arguments: list[Any]) -> Any:
    if isinstance(node, sp.Pow):
        root = node.exp == sp.S.Half
        return np.sqrt(arguments[0]) if root else np.power(arguments[0], arguments[1])
    if isinstance(node, ExprCondPair):
        return tuple(arguments)
    if isinstance(node, sp.Piecewise):
        *branches, (otherwise, _) = arguments
        return functools.reduce(lambda rest, pair: np.where(pair[1], pair[0], rest), reversed(branches), otherwise)
    if type(node) in _FLOAT_FOLDS:
        return functools.reduce(_FLOAT_FOLDS[type(node)], arguments)
    if type(node) in _FLOAT_FUNCTIONS:
        return _FLOAT_FUNCTIONS[type(node)](*arguments)
    if node in (sp.true, sp.false):
        return node is sp.true
    raise _CannotTrace(f"its formula contains {node}, which cannot be evaluated")


# --- black boxes -----------------------------------------------------------------------------------------------------

_VECTORISE = (
    "f is called on arrays: n arrays of shape (m,), or one of shape (m, n) ((m,) for n = 1), and returns (m,) or (m, k). "
    "If it is written for one point, wrap it: np.vectorize(f), or np.vectorize(f, signature='(n)->()') for a function of points."
)


def evaluate_callable(f: Callable[..., Any], points: Float[np.ndarray, "m n"]) -> Float[np.ndarray, "m k"]:
    """Values of a black box at the points, called by the conventions of `trace`.

    Raises CallableError when f raises (the point and the exception are attached), returns the wrong shape or type, or
    returns NaN or an infinity (the point is attached); DomainError when `points` is not a non-empty (m, n) array.
    """
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or not points.size:
        raise DomainError(
            value=points.shape, reason="is not the shape (m, n) of at least one point", argument="points.shape"
        )
    m, n = points.shape
    convention = _convention(f, n, None)
    # An f written for single points would pass unnoticed on a batch of 1 or n points: repeat one of them.
    padded = points
    while len(padded) in (1, n):
        padded = np.concatenate([padded, points[-1:]])
    try:
        result = f(*convention.arguments(padded))
    except Exception as error:
        point, cause = _first_failure(f, convention, points, error)
        raise CallableError(
            problem=f"raised {type(cause).__name__} ({cause})", point=point.tolist(), next_step=_VECTORISE, cause=cause
        ) from cause
    values = _real_array(result, len(padded))[:m]
    bad = ~np.isfinite(values)
    if bad.any():
        i, j = np.argwhere(bad)[0]
        raise CallableError(
            problem=f"returned {values[i, j]}",
            point=points[i].tolist(),
            next_step="Restrict the domain to where f is finite, or define f there.",
        )
    return values


def _real_array(result: Any, rows: int) -> Float[np.ndarray, "rows k"]:
    try:
        raw = np.asarray(result)
        if np.iscomplexobj(raw):
            raise CallableError(
                problem="returned complex numbers",
                next_step="Return the real and the imaginary part as two components.",
            )
        values = raw.astype(np.float64)
    except (TypeError, ValueError) as error:
        if isinstance(error, CallableError):
            raise
        kind = type(result).__name__
        raise CallableError(
            problem=f"returned a {kind} that is no array of numbers", next_step=_VECTORISE, cause=error
        ) from error
    if values.shape != (rows,) and not (values.ndim == 2 and len(values) == rows and values.shape[1]):
        raise CallableError(problem=f"returned the shape {values.shape} for {rows} points", next_step=_VECTORISE)
    return values.reshape(rows, -1)


def _first_failure(
    f: Callable[..., Any], convention: _Convention, points: Float[np.ndarray, "m n"], error: Exception
) -> tuple[np.ndarray, Exception]:
    """A point at which f raises, by bisection, and what it raises there; the first point if f fails on batches only."""
    block = points
    while len(block) > 1:
        half = block[: len(block) // 2]
        caught = _exception(f, convention, half)
        block, error = (half, caught) if caught is not None else (block[len(half) :], error)
    caught = _exception(f, convention, block)
    return (points[0], error) if caught is None else (block[0], caught)


def _exception(f: Callable[..., Any], convention: _Convention, block: Float[np.ndarray, "m n"]) -> Exception | None:
    # At least as many rows as leave no room for `if x > 0` or math.sin(x) to work by accident.
    padded = np.concatenate([block, *[block[-1:]] * 2])
    try:
        f(*convention.arguments(padded))
    except Exception as error:
        return error
    return None
