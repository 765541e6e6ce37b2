"""Prefixes for heads of models that somebody else trained (SmolLM2-135M-Instruct, MiniLM), proved on what can be proved and confirmed on text.

`first_layer`: a trigger on digits and a function of a read-out at head 0 of layer 0, for every text of up to 256 tokens, in float32.
`encoder`: a trigger on the full stop at head 2 of layer 0 of a sentence encoder with absolute positions, likewise.
`later_layers`: a function in three later layers, every token of held-out text bounded from the run itself.
"""

from __future__ import annotations

import inspect
import statistics
import time
from typing import Any

import sympy as sp
from rich.markup import escape
from rich.table import Table

from benchmarks.outcome import Outcome, Request, columns, number
from constructions.pretrained import smollm

__all__ = ["first_layer", "later_layers", "run"]

_LENGTH = 256


def run(request: Request) -> Outcome:
    """All parts, or the note that the weights are missing."""
    if not smollm.available():
        table = columns("a pretrained model", "head")
        table.add_row(escape(f"not installed: {smollm.INSTALL}"))
        return Outcome((table,), {})
    table, metrics = first_layer(request)
    if request.quick:
        return Outcome((table,), metrics)
    metrics |= encoder(table)
    passes, more = later_layers()
    return Outcome((table, passes), metrics | more)


def encoder(table: Table) -> dict[str, float]:
    """A row for MiniLM, where its weights are installed."""
    from constructions.pretrained import minilm
    from constructions.pretrained.injection import confirm, silent_directions, token_pieces
    from constructions.pretrained.site import Site, compile_at_site

    if not minilm.available():
        table.add_row(escape(f"MiniLM: {minilm.INSTALL}"))
        return {}
    model, tokenizer = minilm.load_model(), minilm.load_tokenizer()
    site = Site("minilm", layer=0, head=2, length=_LENGTH)
    started = time.perf_counter()
    c = compile_at_site({tokenizer.convert_tokens_to_ids(".")}, 1e-3, site, progress=False)
    seconds = time.perf_counter() - started
    pieces = token_pieces(tokenizer, inspect.getsource(statistics), _LENGTH)[:40]
    seen = confirm(c, model, pieces, silent_directions(model, pieces[:2]))
    numbers = c.verdict.numbers
    table.add_row(
        "MiniLM: full stop", str(c.length), number(c.verdict.upper), number(seen.error), str(seen.tokens), "-", number(numbers["largest logit"]), number(seconds)
    )  # fmt: skip
    return {
        "encoder_proved": float(c.verdict.proved),
        "encoder_error_proved": c.verdict.upper,
        "encoder_error_measured": seen.error,
        "encoder_text_length": _LENGTH,
        "encoder_text_tokens": seen.tokens,
        "encoder_marked": seen.marked,
        "encoder_largest_logit": numbers["largest logit"],
        "encoder_seconds": seconds,
    }


def later_layers() -> tuple[Table, dict[str, float]]:
    """One row for each group of heads: bounds from single forward passes over documents that calibrated nothing."""
    from benchmarks.posterior import posterior_benchmark

    table = columns(
        "sin(3t) in later layers, bounds from each run", "layer", "group", "bounds", "violations", "bound / error, median", "bound, median",
        "bound, largest", "error, largest", "within eps",
        caption="bounds: one for each token and head of held-out documents, proved from one forward pass; a violation would be a larger recorded error.",
    )  # fmt: skip
    found = posterior_benchmark()
    for row in found.pop("rows"):
        table.add_row(
            str(row.layer), str(row.group), str(row.bounds), str(row.violations), number(row.median_ratio), number(row.median_bound),
            number(row.largest_bound), number(row.largest_error), f"{row.within_eps:.3%}",
        )  # fmt: skip
    return table, {name: float(value) for name, value in found.items()}


def first_layer(request: Request) -> tuple[Table, dict[str, float]]:
    """One row for each head and function; the metrics are those of the digit trigger and, unless quick, of the read-out."""
    from constructions.pretrained.injection import confirm, disturbance, silent_directions, token_pieces
    from constructions.pretrained.site import Site, compile_at_site

    table = columns(
        "layer 0 of SmolLM2-135M and MiniLM", "f", "prefix tokens", "proved error", "measured error", "text tokens", "share of siblings", "largest logit", "seconds",
        caption=f"proved: for every text of up to {_LENGTH} tokens, in float32. measured: on the source text of Python's statistics module. "
        "share of siblings: proved bound of what the two other heads of the group give to the prefix. seconds: keys and proof.",
    )  # fmt: skip
    site = Site(layer=0, head=0, length=_LENGTH)
    model, tokenizer = smollm.load_model(), smollm.load_tokenizer()  # fills the cache of weights, the first time
    started = time.perf_counter()
    layer = site.first_layer
    loading = time.perf_counter() - started
    pieces = token_pieces(tokenizer, inspect.getsource(statistics), _LENGTH)[: 4 if request.quick else 40]
    cases: list[tuple[str, Any, float]] = [("digits", lambda text: text.strip().isdigit(), 1e-3)]
    if not request.quick:
        cases.append(("sin(2t)", sp.sin(2 * sp.Symbol("t")), 0.2))
    metrics: dict[str, float] = {"seconds_weights": loading, "queries": float(layer.vocabulary * _LENGTH)}
    for name, f, eps in request.track(cases, "pretrained, layer 0"):
        started = time.perf_counter()
        c = compile_at_site(f, eps, site, progress=False)
        seconds = time.perf_counter() - started
        seen = confirm(c, model, pieces)
        numbers = c.verdict.numbers
        spilt = max(share for key, share in numbers.items() if key.startswith("prefix share"))
        table.add_row(
            name, str(c.length), number(c.verdict.upper), number(seen.error), str(seen.tokens), number(spilt), number(numbers["largest logit"]), number(seconds)
        )  # fmt: skip
        prefix = "trigger" if name == "digits" else "read_out"
        metrics |= {
            f"{prefix}_proved": float(c.verdict.proved),
            f"{prefix}_error_proved": c.verdict.upper,
            f"{prefix}_error_measured": seen.error,
            f"{prefix}_tokens": c.length,
            f"{prefix}_text_length": _LENGTH,
            f"{prefix}_text_tokens": seen.tokens,
            f"{prefix}_siblings_share": spilt,
            f"{prefix}_largest_logit": numbers["largest logit"],
            f"{prefix}_logit_rounding": numbers["rounding of logit differences"],
            f"{prefix}_seconds": seconds,
        }
    cut = [piece[:64] for piece in pieces]
    mean, largest = disturbance(model, cut[2:4], 2, silent_directions(model, cut[:2]))
    return table, metrics | {"ignored_prefix_kl_mean": mean, "ignored_prefix_kl_max": largest}
