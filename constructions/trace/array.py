"""The array of symbols that a callable is called on: NumPy's dispatch protocols, answered by formulas."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import sympy as sp
from numpy.lib.mixins import NDArrayOperatorsMixin

from constructions.trace.branches import as_condition, as_number, is_condition, select
from constructions.trace.elementwise import REDUCTIONS, elementwise, exact_elements, matrix_product, reduce_axes
from constructions.trace.functions import FUNCTIONS, MULTILINEAR, REARRANGING, piecewise
from constructions.trace.outcome import CannotTrace
from constructions.trace.ufuncs import UFUNCS

__all__ = ["SymbolicArray", "unwrap"]


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
        return np.dtype(bool if self.size and all(is_condition(e) for e in self.elements.flat) else np.float64)

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
            raise CannotTrace("x[mask] selects by value: use np.where(mask, a, b)")
        return _wrap(self.elements[key])

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(key, SymbolicArray):
            if np.ndim(value) or key.shape != self.shape:
                raise CannotTrace("x[mask] = ... needs a mask of the shape of x and a single value: use np.where")
            self.elements[...] = elementwise(_chosen, key.elements, unwrap(value), self.elements)
        else:
            self.elements[key] = exact_elements(unwrap(value))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        out = kwargs.pop("out", None)
        operands = unwrap(inputs)
        if method == "reduce" and not out and ufunc in REDUCTIONS:
            return SymbolicArray(reduce_axes(REDUCTIONS[ufunc], *operands, **kwargs))
        if method != "__call__" or any(v is not None for v in kwargs.values()):
            raise CannotTrace(f"np.{ufunc.__name__}.{method} with {sorted(kwargs)} has no formula")
        if ufunc is np.matmul:
            result = matrix_product(*operands)
        elif ufunc in UFUNCS:
            result = elementwise(UFUNCS[ufunc], *operands)
        else:
            raise CannotTrace(f"{ufunc.__name__} has no formula here")
        if out is None:
            return SymbolicArray(result)
        if not isinstance(out[0], SymbolicArray):
            raise CannotTrace(f"np.{ufunc.__name__}(..., out=a) writes into an array of floats")
        out[0].elements[...] = result
        return out[0]

    def __array_function__(self, func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func is np.piecewise:
            return _piecewise(*args, **kwargs)
        if func in FUNCTIONS:
            return _wrap(FUNCTIONS[func](*unwrap(args), **unwrap(kwargs)))
        if func in REARRANGING:
            return _wrap(func(*unwrap(args), **unwrap(kwargs)))
        if func in MULTILINEAR:
            return _wrap(func(*unwrap(args, convert=True), **kwargs))
        raise CannotTrace(f"np.{func.__name__} has no formula here")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise CannotTrace("it needs an array of numbers (np.array, np.asarray, a loop): use np.stack([...], axis=-1)")

    def __bool__(self) -> bool:
        raise CannotTrace(
            "it branches on a value (if, while, and, or, min, max, an assertion): use np.where, np.maximum"
        )

    def _needs_number(self, *_: Any) -> Any:
        raise CannotTrace("it converts a value to a Python number (float, int, the math module): use NumPy's functions")

    __float__ = __int__ = __index__ = __complex__ = __round__ = _needs_number

    def __getattr__(self, name: str) -> Any:
        function = _METHODS.get(name)
        if function is None:
            raise AttributeError(f"symbolic arrays have no attribute {name!r}")
        return functools.partial(function, self)

    def __repr__(self) -> str:
        return f"SymbolicArray({self.elements.tolist()})"


def _chosen(mask: Any, a: Any, b: Any) -> Any:
    return select(as_condition(mask), a, as_number(b))


def _wrap(result: Any) -> Any:
    """Object arrays become symbolic arrays of exact elements; containers are searched."""
    if isinstance(result, (list, tuple)):
        return type(result)(_wrap(r) for r in result)
    if isinstance(result, np.ndarray) and result.dtype == object:
        # Mixed stacks hold floats beside expressions. Only then is a new array needed: indexing must stay a view.
        pure = all(isinstance(e, sp.Basic) for e in result.flat)
        return SymbolicArray(result if pure else exact_elements(result))
    return SymbolicArray(exact_elements(result)) if isinstance(result, sp.Basic) else result


def unwrap(value: Any, *, convert: bool = False) -> Any:
    """Symbolic arrays become object arrays; with `convert` so do arrays of numbers."""
    if isinstance(value, SymbolicArray):
        return elementwise(as_number, value.elements) if convert else value.elements
    if isinstance(value, (list, tuple)):
        return type(value)(unwrap(v, convert=convert) for v in value)
    if isinstance(value, dict):
        return {k: unwrap(v, convert=convert) for k, v in value.items()}
    return exact_elements(value) if convert and isinstance(value, np.ndarray) else value


def _piecewise(x: Any, conditions: Any, functions: Sequence[Any], *args: Any, **kwargs: Any) -> SymbolicArray:
    """np.piecewise: every function is called on all of x."""
    pieces = [f(x, *args, **kwargs) if callable(f) else f for f in functions]
    return SymbolicArray(piecewise(unwrap(x), unwrap(conditions), unwrap(pieces)))


def _astype(a: SymbolicArray, dtype: Any, **_: Any) -> SymbolicArray:
    if np.dtype(dtype) != np.float64:
        raise CannotTrace(f"astype({dtype!r}) rounds; float64 is what f is traced in")
    return SymbolicArray(elementwise(as_number, a.elements))


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
