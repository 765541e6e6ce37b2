"""A NumPy callable becomes a SymPy expression, by calling it once on arrays of symbols.

The symbolic arrays answer NumPy's dispatch protocols (`__array_ufunc__`, NEP 13, and `__array_function__`, NEP 18), so that
`np.exp(-np.sum(p**2, axis=-1))` runs unchanged and returns its own formula. Every file builds on those before it: outcome,
graph, branches, formulas (of single elements), ufuncs, elementwise, kinds (NumPy's types), functions (NumPy's, on object arrays),
array (the symbolic one), convention (how f is called), float_values, breakpoints, comparison, tracing; and black_box for what has no formula.

Three things make the result trustworthy enough to be worth proving something about:

- every float constant is kept exactly, as the rational number it is;
- the batch axis holds several rows of *different* symbols, so a callable that mixes batch rows shows it in its formula;
- every operation is also run by NumPy on ordinary arrays of the same types and shapes, so the types are NumPy's own: what it would
  compute in anything but float64 (or exact integers and truth values) is refused, and a refusal counts even if f catches it;
- on seeded random points, corners and points around branches, and in batches of several lengths, the formula must reproduce f up to rounding, and f must reproduce itself bit by bit; random,
  stateful and data-dependent callables fail this and are left to be treated as black boxes.
"""

from constructions.trace.array import SymbolicArray
from constructions.trace.black_box import evaluate_callable
from constructions.trace.branches import select
from constructions.trace.convention import by_name
from constructions.trace.elementwise import exact
from constructions.trace.formulas import FORMULAS
from constructions.trace.outcome import NotTraceable, TracedTarget, traced_assumption
from constructions.trace.tracing import trace

__all__ = [
    "FORMULAS",
    "NotTraceable",
    "SymbolicArray",
    "TracedTarget",
    "by_name",
    "evaluate_callable",
    "exact",
    "select",
    "trace",
    "traced_assumption",
]
