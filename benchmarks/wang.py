"""Both halves of Wang et al.: a family of functions and its prompts, checked pair by pair; floors of random layers, from both sides.

The family: every function of a quantised Lipschitz family times every grid point, run through one transformer in exact arithmetic. The floors: for
random layers of width 4 to 64 a pair of examples that no prompt memorises, the floor proved by its dual, and met from above by a prompt that is
run in balls; d_v < d, where one token is enough, and apart from these W_V invertible, where a prompt's mass is tied to its mean token. What a
rank-1 update of the keys memorises and a prompt one token too short does not; and how far a proved Lipschitz constant is from the slopes found.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from benchmarks.outcome import Outcome, Request, columns, number
from constructions.wang2023 import (
    Grid,
    ParametersRow,
    PromptFloor,
    lipschitz_curve,
    parameters_table,
    random_layer,
    random_model,
    universal_transformer,
    unmemorable,
)

__all__ = ["run"]

_LAYERS, _INVERTIBLE = 100, 20
_WIDTHS = (4, 64)


@dataclass(frozen=True)
class _Floors:
    """words: which layers; found: one result for each, in `seconds` altogether."""

    words: str
    found: tuple[PromptFloor, ...]
    seconds: float

    @property
    def certified(self) -> int:
        """Floors above 0 that are proved."""
        return sum(f.verdict.proved and f.floor[0] > 0 for f in self.found)

    @property
    def gap(self) -> float:
        return max(f.gap for f in self.found)


def run(request: Request) -> Outcome:
    """Four tables."""
    family, metrics = _family(request)
    free = _floors("d_v < d", 10 if request.quick else _LAYERS, _narrow, request)
    tied = _floors("d_v = d, W_V invertible", 2 if request.quick else _INVERTIBLE, _invertible, request)
    metrics |= {
        "floors_tried": len(free.found),
        "floors_certified": free.certified,
        "floor_gap_max": free.gap,
        "seconds_floors": free.seconds,
        "floors_tried_invertible": len(tied.found),
        "floors_certified_invertible": tied.certified,
        "floor_gap_max_invertible": tied.gap,
        "seconds_floors_invertible": tied.seconds,
        "prompt_tokens_max": max(f.length for f in free.found),
        "prompt_tokens_max_invertible": max(f.length for f in tied.found),
    }
    updates, more = _updates(request)
    slopes, most = _slopes(request)
    return Outcome((family, _floors_table((free, tied)), updates, slopes), metrics | more | most)


def _family(request: Request) -> tuple[Table, dict[str, float]]:
    """Every function and every grid point: hardmax, exactly; softmax on a smaller grid, within its tolerance."""
    table = columns("one transformer, every function a prompt", "attention", "functions", "pairs", "wrong", "blocks", "prompt", "largest error", "seconds")  # fmt: skip
    metrics: dict[str, float] = {}
    small = Grid(1, 1, 4, 4, 1)
    cases = [("", small if request.quick else Grid(1, 1, 8, 4, 1), False), ("_softmax", small, True)]
    for name, grid, softmax in request.track(cases, "families"):
        g = universal_transformer(grid, softmax=softmax, tolerance=1e-3)
        started = time.perf_counter()
        verdict = g.verdict
        seconds = time.perf_counter() - started
        pairs, wrong = int(verdict.numbers["pairs"]), int(verdict.numbers["wrong"])
        words = "softmax" if softmax else "hardmax"
        table.add_row(words, str(grid.functions), str(pairs), str(wrong), str(g.stack.depth), str(g.prompt_length), number(verdict.upper), number(seconds))  # fmt: skip
        metrics |= {f"family_pairs{name}": pairs, f"family_wrong{name}": wrong, f"seconds{name}": seconds}
        metrics |= {f"family_proved{name}": int(verdict.proved), f"family_error{name}": verdict.upper}
        metrics |= {f"family_depth{name}": g.stack.depth}
    return table, metrics


def _narrow(i: int) -> PromptFloor:
    rng = np.random.default_rng(i)
    d = int(rng.integers(_WIDTHS[0], _WIDTHS[1] + 1))
    return unmemorable(random_layer(d, int(rng.integers(1, d)), seed=i), seed=i)


def _invertible(i: int) -> PromptFloor:
    d = _WIDTHS[0] + round((_WIDTHS[1] - _WIDTHS[0]) * i / (_INVERTIBLE - 1))
    return unmemorable(random_layer(d, d, seed=i), seed=i)


def _floors(words: str, count: int, make: Callable[[int], PromptFloor], request: Request) -> _Floors:
    started = time.perf_counter()
    found = tuple(make(i) for i in request.track(range(count), f"floors, {words}"))
    return _Floors(words, found, time.perf_counter() - started)


def _floors_table(groups: tuple[_Floors, ...]) -> Table:
    table = columns(
        "floors of the error over all prompts of all lengths", "layers", "tried", "proved", "largest gap", "floor / half the distance", "most tokens",
        "seconds", caption="gap: (upper - lower) / upper, both proved, the upper by a prompt that is built. The distance is that of the two targets: half of it "
        "is what the best constant answer misses.",
    )  # fmt: skip
    for g in groups:
        share = np.median([f.floor[0] / (float(np.linalg.norm(f.targets[0] - f.targets[1])) / 2) for f in g.found])
        table.add_row(g.words, str(len(g.found)), str(g.certified), number(g.gap), number(float(share)), str(max(f.length for f in g.found)), number(g.seconds))  # fmt: skip
    return table


def _updates(request: Request) -> tuple[Table, dict[str, float]]:
    """n examples in dimension 3n: the update, the longest prompt that cannot do it, the shortest that can."""
    ns = (2, 4) if request.quick else (2, 4, 8, 16)
    started = time.perf_counter()
    rows = [parameters_table([n], tokens=(n - 1, n), progress=False)[0] for n in request.track(ns, "rank-1 updates")]
    table = columns(
        "a rank-1 update of the keys against prompts", "n", "d", "update: numbers", "error at most", "n - 1 tokens: numbers", "error at least", "n tokens",
        caption="All errors are proved.",
    )  # fmt: skip
    for r in rows:
        table.add_row(str(r.n), str(r.d), str(r.update_numbers), number(r.update_error), str(r.prompt_numbers(r.n - 1)), number(_short(r)), str(r.prompt_numbers(r.n)))  # fmt: skip
    return table, {
        "lora_examples_max": ns[-1],
        "lora_numbers_update": rows[-1].update_numbers,
        "lora_numbers_prompt": rows[-1].prompt_numbers(rows[-1].enough_tokens),
        "lora_update_error_max": max(r.update_error for r in rows),
        "lora_floor_least": min(map(_short, rows)),
        "seconds_lora": time.perf_counter() - started,
    }


def _short(row: ParametersRow) -> float:
    """The floor for one token less than there are examples."""
    return next(f.floor for f in row.floors if f.tokens == row.n - 1)


def _slopes(request: Request) -> tuple[Table, dict[str, float]]:
    """Lipschitz constants of random blocks on balls: proved bounds beside the largest slopes found."""
    radii = (1.0,) if request.quick else (0.3, 1.0, 3.0)
    blocks = random_model(4, 1, seed=0).blocks
    table = columns("Lipschitz constants of blocks, d = 4", "block", *(f"radius {r:g}" for r in radii), caption="proved bound / slope found")  # fmt: skip
    worst = 0.0
    for block in request.track(blocks, "slopes"):
        curve = lipschitz_curve(block, radii, progress=False)
        worst = max(worst, curve.factor)
        table.add_row(block.name, *(f"{b:.3g} / {s:.3g}" for b, s in zip(curve.bounds, curve.slopes, strict=True)))
    return table, {"lipschitz_bound_over_slope": worst if math.isfinite(worst) else 0.0}
