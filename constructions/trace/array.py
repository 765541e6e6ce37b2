"""The array of symbols that a callable is called on: NumPy's dispatch protocols, answered by formulas."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import sympy as sp
from numpy.lib.mixins import NDArrayOperatorsMixin

from constructions.trace.branches import Ranges, as_condition, as_number, decided, select
from constructions.trace.elementwise import (
    REDUCTIONS,
    elementwise,
    exact_elements,
    float_only,
    matrix_product,
    reduce_axes,
)
from constructions.trace.functions import FUNCTIONS, MULTILINEAR, REARRANGING, piecewise
from constructions.trace.kinds import BOOL, FLOAT, fit, no_narrowing
from constructions.trace.outcome import CannotTrace
from constructions.trace.ufuncs import RELATIONS, UFUNCS

__all__ = ["SymbolicArray", "unwrap"]


def _recorded(method: Callable[..., Any]) -> Callable[..., Any]:
    """Whatever the method raises is remembered for the rest of the trace: f may catch it and return something else."""

    @functools.wraps(method)
    def wrapper(self: SymbolicArray, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except BaseException as error:
            told = str(error) if isinstance(error, CannotTrace) else f"{type(error).__name__}: {error}"
            self.refusals.append(told)
            raise

    return wrapper


class SymbolicArray(NDArrayOperatorsMixin):
    """A NumPy array of SymPy expressions that NumPy's functions accept.

    elements: object array of SymPy expressions (conditions, where dtype is bool). dtype: bool, int64 or float64, the type NumPy's
    array would have. refusals: shared by all arrays of one trace; why something was refused. ranges: of the symbols, so that a
    comparison that the domain decides is a truth value (`if np.any(x < 0): raise ...` for x in [0, 1]). Indexing returns views and
    assignment writes through them, as in NumPy. Whatever else would need a number (`if x > 0`, `float(x)`, `math.sin(x)`) raises.
    """

    def __init__(
        self,
        elements: np.ndarray,
        dtype: np.dtype = FLOAT,
        refusals: list[str] | None = None,
        ranges: Ranges = MappingProxyType({}),
    ) -> None:
        self.elements = fit(elements, dtype)
        self.dtype = dtype
        self.refusals: list[str] = [] if refusals is None else refusals
        self.ranges = ranges

    def _like(self, elements: np.ndarray, dtype: np.dtype | None = None) -> SymbolicArray:
        return SymbolicArray(elements, dtype or self.dtype, self.refusals, self.ranges)

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
    def T(self) -> SymbolicArray:
        return self._like(self.elements.T)

    @property
    def real(self) -> SymbolicArray:
        return self

    def __len__(self) -> int:
        return len(self.elements)

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    @_recorded
    def __getitem__(self, key: Any) -> SymbolicArray:
        if isinstance(key, SymbolicArray):
            raise CannotTrace("x[mask] selects by value: use np.where(mask, a, b)")
        found = self.elements[key]
        return self._like(found if isinstance(found, np.ndarray) else exact_elements(found))

    @_recorded
    def __setitem__(self, key: Any, value: Any) -> None:
        no_narrowing(value, self.dtype)
        if isinstance(key, SymbolicArray):
            if np.ndim(value) or key.shape != self.shape or key.dtype != BOOL:
                raise CannotTrace("x[mask] = ... needs a mask of the shape of x and a single value: use np.where")
            if self.dtype == BOOL:
                raise CannotTrace("it assigns to part of an array of truth values: use &, | and ~")
            self.elements[...] = fit(elementwise(_chosen, key.elements, unwrap(value), self.elements), self.dtype)
        else:
            self.elements[key] = fit(exact_elements(unwrap(value)), self.dtype)

    @_recorded
    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        _known_types((*inputs, kwargs))
        out = kwargs.pop("out", None)
        spare = {"out": tuple(o.copy() if isinstance(o, np.ndarray) else o for o in _shadow(out))} if out else {}
        shadow = getattr(ufunc, method)(*_shadow(inputs), **_shadow(kwargs), **spare)
        operands = unwrap(inputs)
        if method == "reduce" and not out and ufunc in REDUCTIONS:
            return self._wrap(reduce_axes(REDUCTIONS[ufunc], *operands, **kwargs), shadow)
        if method != "__call__" or any(v is not None for v in kwargs.values()):
            raise CannotTrace(f"np.{ufunc.__name__}.{method} with {sorted(kwargs)} has no formula")
        if ufunc is np.matmul:
            result = matrix_product(*operands)
        elif ufunc in UFUNCS:
            result = elementwise(UFUNCS[ufunc], *operands)
            if self.ranges and ufunc in RELATIONS:
                result = elementwise(functools.partial(decided, ranges=self.ranges), result)
        else:
            raise CannotTrace(f"{ufunc.__name__} has no formula here")
        if out is None:
            return self._wrap(result, shadow)
        if not isinstance(out[0], SymbolicArray):
            return self._rebound(out[0], ufunc, result, shadow)
        out[0].elements[...] = fit(result, out[0].dtype)
        return out[0]

    def _rebound(self, total: np.ndarray, ufunc: Any, result: np.ndarray, shadow: Any) -> SymbolicArray:
        """The new value of `total` after `total += x`, where `total = np.zeros(len(x))` holds numbers.

        Python binds the name to what is returned here. Whatever else refers to the old array would see the new values in NumPy; it
        sees NaN here, which no formula may contain.
        """
        if total.dtype != FLOAT or not total.flags.writeable:
            raise CannotTrace(f"np.{ufunc.__name__}(..., out=a) writes into an array of {total.dtype}")
        wrapped = self._wrap(result, shadow)
        total.fill(np.nan)
        return wrapped

    @_recorded
    def __array_function__(self, func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        _known_types((args, kwargs))
        if _out_of(func, args, kwargs) is not None:
            raise CannotTrace("out= is supported for element-wise functions only")
        float_only(kwargs.get("dtype"))
        with_pieces = func is np.piecewise
        shadow = (
            func(*_shadow(args[:2]), [0] * len(args[2])) if with_pieces else func(*_shadow(args), **_shadow(kwargs))
        )
        if with_pieces:
            return self._wrap(_piecewise(*args, **kwargs), shadow)
        if func in FUNCTIONS:
            return self._wrap(FUNCTIONS[func](*unwrap(args), **unwrap(kwargs)), shadow)
        kwargs = {k: v for k, v in kwargs.items() if k != "dtype"}  # NumPy's own code runs on objects
        if func in REARRANGING:
            return self._wrap(func(*unwrap(args), **unwrap(kwargs)), shadow)
        if func in MULTILINEAR:
            return self._wrap(func(*unwrap(args, convert=True), **kwargs), shadow)
        raise CannotTrace(f"np.{func.__name__} has no formula here")

    def _wrap(self, result: Any, shadow: Any) -> Any:
        """The formulas of a result, with the type that NumPy gave it; containers are searched."""
        if isinstance(shadow, (list, tuple)):
            if not any(isinstance(v, np.ndarray) for v in shadow):
                return result  # a shape
            return type(shadow)(self._wrap(r, v) for r, v in zip(result, shadow, strict=True))
        if isinstance(shadow, (int, float)) and not isinstance(shadow, np.generic):
            return result  # np.ndim, np.size
        elements = result if isinstance(result, np.ndarray) and result.dtype == object else exact_elements(result)
        if elements.shape != shadow.shape:
            raise CannotTrace(f"its formula has the shape {elements.shape} where NumPy gives {shadow.shape}")
        return self._like(elements, shadow.dtype)

    @_recorded
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.dtype == BOOL and all(e in (sp.true, sp.false) for e in self.elements.flat):
            return self.elements.astype(BOOL).astype(dtype or BOOL)
        raise CannotTrace("it needs an array of numbers (np.array, np.asarray, a loop): use np.stack([...], axis=-1)")

    @_recorded
    def __bool__(self) -> bool:
        if self.dtype == BOOL and self.size == 1 and self.elements.item() in (sp.true, sp.false):
            return self.elements.item() == sp.true
        raise CannotTrace(
            "it branches on a value (if, while, and, or, min, max, an assertion): use np.where, np.maximum"
        )

    @_recorded
    def _needs_number(self, *_: Any) -> Any:
        raise CannotTrace("it converts a value to a Python number (float, int, the math module): use NumPy's functions")

    __float__ = __int__ = __index__ = __complex__ = __round__ = _needs_number

    def __getattr__(self, name: str) -> Any:
        function = _METHODS.get(name)
        if function is not None:
            return functools.partial(function, self)
        if not name.startswith("_") and hasattr(np.ndarray, name):
            self.refusals.append(f"it uses the attribute {name!r} of arrays, which has no formula")
        raise AttributeError(f"symbolic arrays have no attribute {name!r}")

    def __repr__(self) -> str:
        return f"SymbolicArray({self.elements.tolist()})"


def _chosen(mask: Any, a: Any, b: Any) -> Any:
    return select(as_condition(mask), as_number(a), as_number(b))


def _shadow(value: Any) -> Any:
    """The same arguments with arrays of ones for symbolic arrays: what NumPy does with those decides types and shapes."""
    if isinstance(value, SymbolicArray):
        return np.ones(value.shape, dtype=value.dtype)[()] if value.ndim else value.dtype.type(1)
    if isinstance(value, (list, tuple)):
        return type(value)(_shadow(v) for v in value)
    return {k: _shadow(v) for k, v in value.items()} if isinstance(value, dict) else value


def _known_types(value: Any) -> None:
    """Raises CannotTrace for arrays and scalars whose values are no real numbers of at most float64's precision."""
    if isinstance(value, (list, tuple)):
        for v in value:
            _known_types(v)
    elif isinstance(value, dict):
        _known_types(list(value.values()))
    elif isinstance(value, complex) or (
        isinstance(value, (np.ndarray, np.generic)) and (value.dtype.kind not in "biuf" or value.dtype.itemsize > 8)
    ):
        raise CannotTrace(
            f"it contains {'complex' if isinstance(value, complex) else value.dtype} numbers: only float64 can be traced"
        )


def _out_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The argument `out` of a NumPy function, given by name or by position."""
    try:
        return inspect.signature(func).bind(*args, **kwargs).arguments.get("out")
    except (TypeError, ValueError):  # functions written in C need not have a signature
        return kwargs.get("out")


def unwrap(value: Any, *, convert: bool = False) -> Any:
    """Symbolic arrays become object arrays; with `convert` so do arrays of numbers."""
    if isinstance(value, SymbolicArray):
        return elementwise(as_number, value.elements) if convert else value.elements
    if isinstance(value, (list, tuple)):
        return type(value)(unwrap(v, convert=convert) for v in value)
    if isinstance(value, dict):
        return {k: unwrap(v, convert=convert) for k, v in value.items()}
    return exact_elements(value) if convert and isinstance(value, np.ndarray) else value


def _piecewise(x: Any, conditions: Any, functions: Sequence[Any], *args: Any, **kwargs: Any) -> np.ndarray:
    """np.piecewise: every function is called on all of x."""
    pieces = [f(x, *args, **kwargs) if callable(f) else f for f in functions]
    for piece in pieces:
        no_narrowing(piece, x.dtype)
    return piecewise(unwrap(x), unwrap(conditions), unwrap(pieces))


def _astype(a: SymbolicArray, dtype: Any, **options: Any) -> SymbolicArray:
    try:
        if options:
            raise CannotTrace(
                f"astype(..., {', '.join(options)}=) is not supported: with copy=False it may return x itself"
            )
        if np.dtype(dtype) != FLOAT:
            raise CannotTrace(f"astype({dtype!r}) rounds; float64 is what f is traced in")
    except CannotTrace as error:
        a.refusals.append(str(error))
        raise
    return a._like(elementwise(as_number, a.elements), FLOAT)


def _shaped(function: Callable[..., Any]) -> Callable[..., Any]:
    """a.reshape(2, 3) as well as a.reshape((2, 3))."""
    return lambda a, *shape: function(
        a, shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape or None
    )


_METHODS: Mapping[str, Callable[..., Any]] = MappingProxyType({
    **{name: getattr(np, name) for name in (
        "sum", "prod", "max", "min", "all", "any", "mean", "var", "std", "clip", "dot", "squeeze", "swapaxes",
        "repeat", "take", "cumsum", "cumprod", "diagonal", "ravel",
    )},
    "reshape": _shaped(np.reshape), "transpose": _shaped(np.transpose), "flatten": lambda a: np.copy(np.ravel(a)),
    "copy": lambda a: np.copy(a, order="C"),
    "astype": _astype, "conj": lambda a: a, "conjugate": lambda a: a,
})  # fmt: skip
