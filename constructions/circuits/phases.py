"""Waves under squares: (sum_i p_i sin a_i)^2 + (sum_i p_i cos a_i)^2 does not change when every phase is shifted by the same a_r.

It is |sum_i p_i e^(i a_i)|^2. Counted from one of its own phases the sum has a wave less, and slower ones: the arm of a robot is as far
from its foot wherever it starts to point.
"""

from __future__ import annotations

import itertools
from typing import Any

import sympy as sp

__all__ = ["rotated"]

_Waves = list[tuple[Any, Any]]


def rotated(e: Any) -> Any:
    """The expression with such sums of squares counted from their best phase; a part that is not one is left as it is."""
    if not e.args:
        return e
    e = e.func(*(rotated(a) for a in e.args))
    if not e.is_Add:
        return e
    for first, second in itertools.permutations(e.args, 2):
        (a, sines), (b, cosines) = _square(first), _square(second)
        waves = _waves(sines, cosines) if sines is not None and cosines is not None and a == b else None
        if waves is not None:
            others = [t for t in e.args if t is not first and t is not second]
            return sp.Add(*others, a * _from_best_phase(waves))
    return e


def _square(term: Any) -> tuple[Any, Any]:
    """a and s of a s^2, a a number; s is None if the term is not of this kind."""
    a, rest = term.as_coeff_Mul()
    return (a, rest.base) if rest.is_Pow and rest.exp == 2 else (a, None)


def _waves(sines: Any, cosines: Any) -> _Waves | None:
    """The pairs (p_i, a_i) if the sums are those of p_i sin a_i and of p_i cos a_i."""
    left: list[Any] = list(sp.Add.make_args(cosines))
    waves: _Waves = []
    for term in sp.Add.make_args(sines):
        for factor in sp.Mul.make_args(term):
            if isinstance(factor, sp.sin) and (partner := term / factor * sp.cos(factor.args[0])) in left:
                left.remove(partner)
                waves.append((term / factor, factor.args[0]))
                break
        else:
            return None
    return None if left else waves


def _from_best_phase(waves: _Waves) -> Any:
    """The squares again, counted from the phase that leaves the fewest symbols in the others."""

    def shifted(start: Any) -> _Waves:
        return [(p, sp.expand(a - start)) for p, a in waves]

    best = min((shifted(a) for _, a in waves), key=lambda found: sum(len(a.free_symbols) for _, a in found))
    return sp.Add(*(p * sp.sin(a) for p, a in best)) ** 2 + sp.Add(*(p * sp.cos(a) for p, a in best)) ** 2
