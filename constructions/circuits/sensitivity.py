"""How much an error of each node of a circuit moves its outputs: what eps is split by.

The error of node i counts with S_i = [i is written to an output] + sum over the nodes j that read it of |coefficient| sup |partial derivative of
g_j| S_j, which is first-order: the kernel adds up the true bounds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from verify.circuit import Circuit
from verify.circuit_ranges import NodeRange, affine_form, variation
from verify.expression import Expression

__all__ = ["sensitivities", "sensitivities_and_margins"]

_CHORD = 0.15
"""Share of eps that the margin of a singular node moves the output by."""


def sensitivities(circuit: Circuit, known: list[NodeRange]) -> list[float]:
    """How much an error of each node moves the worst output, to first order."""
    return sensitivities_and_margins(circuit, known, [False] * len(circuit.nodes), 1.0)[0]


def sensitivities_and_margins(
    circuit: Circuit, known: list[NodeRange], singular: Sequence[bool], eps: float
) -> tuple[list[float], list[float]]:
    """How much an error of each node moves the worst output, and how far beyond its range each singular node should be served.

    singular: which nodes have an infinite slope at an end of their range (sqrt at 0, asin at 1). There the slope of the chord over a
    margin s counts, with s chosen so that an error of s in what is read moves the output by 0.15 eps. Where errors of reading are less
    than s they move it by more than this slope says, by at most a quarter of that (moved like sqrt(delta)).
    """
    n, count = len(circuit.variables), len(circuit.nodes)
    out = affine_form(circuit.outputs)
    total, margins = np.zeros(count), [0.0] * count
    if out is not None:
        total += np.abs(out.mid[:, n : n + count]).max(axis=0)
    for j in range(count - 1, -1, -1):
        form, (lo, hi) = affine_form(circuit.nodes[j].reads), known[j].reads
        if form is None:
            continue
        if singular[j]:
            margins[j] = _margin(circuit.nodes[j].function, lo, hi, _CHORD * eps / total[j] if total[j] > 0 else eps)
        for m in range(len(lo)):
            step = np.zeros(len(lo))
            step[m] = margins[j] or max(1e-5 * (hi[m] - lo[m]), 1e-12)
            slope = variation(circuit.nodes[j].function, lo, hi, step) / step[m]
            with np.errstate(invalid="ignore"):  # an infinite slope
                total[:j] += np.abs(form.mid[m, n : n + j]) * slope * total[j]
    return [float(s) for s in total], margins


def _margin(function: Expression, lo: np.ndarray, hi: np.ndarray, moved: float) -> float:
    """The largest power of two times the width for which the function varies by at most `moved`; at least 1e-15 of the width."""
    width = float((hi - lo).max())
    margin = width / 8
    while margin > 1e-15 * width and not variation(function, lo, hi, np.full(len(lo), margin)) <= moved:
        margin /= 2
    return margin
