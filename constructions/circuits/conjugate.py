"""sqrt(B^2 + c) +- B with c > 0 as sqrt(c) (sqrt(w^2 + 1) +- w), w = B/sqrt(c): one smooth positive function of one variable.

Read as a difference it cancels where |B| is large, and over a box nobody sees that it stays positive.
"""

from __future__ import annotations

from typing import Any, ClassVar

import sympy as sp

__all__ = ["RootDifference", "RootSum", "conjugated", "written_out"]


class RootDifference(sp.Function):
    """sqrt(w^2 + 1) - w, which sympy is to leave in one piece."""

    nargs: ClassVar[int] = 1
    sign = -1

    def _eval_is_positive(self) -> bool:
        return True

    @classmethod
    def of(cls, w: Any) -> Any:
        """The function itself."""
        return sp.sqrt(w**2 + 1) + cls.sign * w


class RootSum(RootDifference):
    """sqrt(w^2 + 1) + w, which sympy is to leave in one piece."""

    sign = 1


def conjugated(e: Any) -> Any:
    """The expression with every such sum written so; a part that is not one is left as it is."""
    if not e.args:
        return e
    e = e.func(*(conjugated(a) for a in e.args))
    return _sum(e) if e.is_Add else e


def written_out(e: Any) -> Any:
    """The same with the functions of w as sums again."""
    return e.replace(lambda a: isinstance(a, RootDifference), lambda a: type(a).of(a.args[0]))


def _sum(e: Any) -> Any:
    for root in e.args:
        scale, rest = root.as_coeff_Mul()
        if not (rest.is_Pow and rest.exp == sp.Rational(1, 2) and rest.base.is_Add):
            continue
        others = sp.expand((e - root) / scale)
        for square in rest.base.args:
            c = rest.base - square
            if not (square.is_Pow and square.exp == 2 and c.is_positive):
                continue
            base = square.base
            for sign, function in ((1, RootSum), (-1, RootDifference)):
                if sp.expand(others - sign * base) == 0:
                    return scale * sp.sqrt(c) * function(base / sp.sqrt(c))
    return e
