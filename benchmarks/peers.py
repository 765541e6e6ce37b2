"""Two other ways to represent a function of one variable to a given error: Chebyshev series (chebfun) and rational functions (AAA)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
from scipy.interpolate import AAA

__all__ = ["aaa", "aaa_terms_needed", "chebfun_installed", "chebfun_length"]

Function = Callable[[np.ndarray], np.ndarray]


def chebfun_installed() -> bool:
    """Whether PyPI's chebfun is there, whose module is called chebpy."""
    return find_spec("chebpy") is not None


def chebfun_length(f: Function, eps: float, scale: float) -> int:
    """Construct f on [-1, 1] with chebfun at tolerance eps / scale, scale the largest |f|: its coefficients."""
    from chebpy import UserPreferences, chebfun

    with UserPreferences() as preferences, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where it gives up, its length shows it
        preferences.eps = np.float64(eps / scale)
        return sum(len(piece.coeffs) for piece in chebfun(f, [-1, 1]).funs)


def aaa(f: Function, terms: int) -> AAA:
    """The AAA approximant with that many support points, each a value and a weight, fitted to 1001 Chebyshev points
    (Nakatsukasa, Sete, Trefethen 2018)."""
    nodes = np.cos(np.linspace(0, np.pi, 1001))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "failed to converge": to rounding, which is not asked for
        return AAA(nodes, f(nodes), rtol=0.0, max_terms=terms, clean_up=False)


def aaa_terms_needed(f: Function, eps: float, most: int = 80) -> int | None:
    """The fewest support points whose error on 4001 points of [-1, 1] is at most eps; None above `most`."""
    x = np.linspace(-1, 1, 4001)
    wanted = f(x)
    for terms in range(1, most + 1):
        with np.errstate(all="ignore"):
            error = np.abs(aaa(f, terms)(x) - wanted).max()
        if error <= eps:
            return terms
    return None
