"""Certificates of passes: three layers of SmolLM2, one prefix, every token of held-out documents bounded from one forward pass.

Held out by document: none of the documents that calibrated the keys. A violation would be a token whose recorded float32 error is above its bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp

from constructions.pretrained import smollm
from constructions.pretrained.corpus import deduplicated, from_standard_library, pieces_of, shipped, split
from constructions.pretrained.group import CalibratedPrefix, compile_group
from constructions.pretrained.injection import disturbance
from constructions.pretrained.posterior import PassReport, gathered, verify_pass
from constructions.pretrained.site import Site

__all__ = ["SiteRow", "build", "held_out_pieces", "posterior_benchmark"]

_SITES = ((5, 1), (14, 1), (24, 1))
_LENGTH = 256
_T = sp.symbols("t")


@dataclass(frozen=True)
class SiteRow:
    """One site over all held-out tokens. bounds are counted once for each token and head."""

    layer: int
    group: int
    bounds: int
    violations: int
    median_ratio: float
    median_bound: float
    largest_bound: float
    largest_error: float
    within_eps: float
    kappa_negative: int
    largest_logit: float


def posterior_benchmark(
    quick: bool = False, prefix: CalibratedPrefix | None = None, model: Any = None
) -> dict[str, Any]:
    """{"rows": [SiteRow, ...], and metrics by name}. quick: a few hundred tokens and one site."""
    model = model or smollm.load_model()
    tokenizer = smollm.load_tokenizer()
    prefix = prefix or build(model, tokenizer, _SITES[:1] if quick else _SITES, 1000 if quick else 4000)
    held = held_out_pieces(tokenizer, 600 if quick else 10_500)
    reports: list[PassReport] = [verify_pass(prefix, model, ids) for ids in held]
    rows = [_row(prefix, reports, i) for i in range(len(prefix.groups))]
    lost = disturbance(model, held[:2] if quick else held[:6], prefix.length, prefix.quiet)
    metrics = {
        "posterior_tokens": sum(len(p) for p in held),
        "posterior_bounds": sum(r.bounds for r in rows),
        "posterior_violations": sum(r.violations for r in rows),
        "posterior_layers": len({r.layer for r in rows}),
        "posterior_median_ratio": float(np.median([r.median_ratio for r in rows])),
        "posterior_prefix_tokens": prefix.length,
        "posterior_run_seconds": sum(r.run_seconds for r in reports),
        "posterior_proof_seconds": sum(r.proof_seconds for r in reports),
        "quiet_kl_mean": lost[0],
        "quiet_kl_max": lost[1],
    }
    return {"rows": rows, **metrics}


def build(model: Any, tokenizer: Any, sites: tuple[tuple[int, int], ...] = _SITES, tokens: int = 4000, eps: float = 0.1) -> CalibratedPrefix:  # fmt: skip
    """sin(3 t) in every one of these sites, calibrated on half of the documents."""
    own = deduplicated(shipped())
    others = deduplicated([*own, *from_standard_library()])[len(own) :]
    texts = pieces_of([*split(own)[0], *split(others)[0]], tokenizer, _LENGTH, tokens, each=_LENGTH)
    prefix: CalibratedPrefix | None = None
    for layer, group in sites:
        site = Site(model, layer=layer, group=group, length=_LENGTH)
        prefix = compile_group(sp.sin(3 * _T), eps, site, texts, on=prefix, progress=False)
    assert prefix is not None
    return prefix


def held_out_pieces(tokenizer: Any, tokens: int) -> list[np.ndarray]:
    """Pieces of the other half of the documents, the project's own ones first."""
    own = deduplicated(shipped())
    others = deduplicated([*own, *from_standard_library()])[len(own) :]
    return pieces_of([*split(own)[1], *split(others)[1]], tokenizer, _LENGTH, tokens, each=2 * _LENGTH)


def _row(prefix: CalibratedPrefix, reports: list[PassReport], i: int) -> SiteRow:
    g = prefix.groups[i]
    bound, measured, kappa = (gathered(reports, i, name) for name in ("bound", "measured", "kappa"))
    ratio = float(np.median(bound / np.maximum(measured, 1e-300)))
    return SiteRow(
        g.layer, g.group, bound.size, int((measured > bound).sum()), ratio, float(np.median(bound)), float(bound.max()), float(measured.max()),
        float((bound <= g.eps).mean()), int((kappa <= 0).sum()), g.largest_logit,
    )  # fmt: skip
