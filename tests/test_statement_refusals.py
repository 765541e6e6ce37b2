"""What statements refuse, and that they stop: wrong types, text that is not printable, work without end, sentences that would say too much."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from verify.certificate import Status
from verify.context_margin import ContextMargin
from verify.family import Family, TooManyFunctions, component_functions, grid_points
from verify.invertible import Invertible, InvertibleFloor
from verify.invertible_model import AttentionBlock, FeedForwardBlock, ResidualModel
from verify.invertible_preimage import Preimage
from verify.prompt_floor import AttentionLayer, FloorHints, PromptFloorStatement
from verify.prompt_floor_precise import precise_errors
from verify.prompt_floor_run import Prompt
from verify.prompted import Prompted
from verify.stack import OutOfTime, Stack
from verify.statement import StatementError, Verdict
from verify.stored_arrays import stored_integer, stored_number


def empty_stack(**changed: object) -> Stack:
    """One data token of size one behind no blocks."""
    z = np.zeros
    parts = {
        "m": 1,
        "position": z((1, 1)),
        "order": z(0),
        "query": z((0, 2, 1)),
        "bias": z((0, 2)),
        "key": z((0, 2, 1)),
    }
    parts |= {
        "value": z((0, 2, 1)),
        "out": z((0, 2, 1)),
        "first": z((0, 4, 1)),
        "offset": z((0, 4)),
        "second": z((0, 1, 4)),
    }
    return Stack(**(parts | changed))  # type: ignore[arg-type]


def family(**changed: object) -> Family:
    parts = {"stack": empty_stack(), "cells": 2, "levels": 2, "steps": 1, "prompts": np.zeros((4, 0, 1))}
    return Family(**(parts | changed))  # type: ignore[arg-type]


def prompted(**changed: object) -> Prompted:
    parts = {"stack": empty_stack(), "prompt": np.zeros((0, 1)), "cells": 2, "margin": 0.1, "p": 2.0, "eps": 0.5}
    return Prompted(**(parts | {"centres": np.zeros((2, 1))} | changed))  # type: ignore[arg-type]


def floor_statement(**changed: object) -> PromptFloorStatement:
    eye = np.eye(2)
    parts = {
        "layer": AttentionLayer(eye, eye, eye),
        "examples": (eye, np.array([[2.0, 0.0], [0.0, 1.0]])),
        "targets": eye,
    }
    return PromptFloorStatement(**(parts | {"floor": 0.1} | changed))  # type: ignore[arg-type]


def margin_statement(rows: int) -> ContextMargin:
    q, w = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    deltas = np.tile([[0.0, 0.5, 0.5, 1.0]], (rows, 1))
    deltas[:, 1] += np.linspace(0.0, 0.1, rows)
    return ContextMargin(3 * q, w, q, w, 3, 5, deltas, 0.3, 0.1)


def halving() -> ResidualModel:
    block = FeedForwardBlock(np.eye(1), np.zeros(1), 0.1 * np.eye(1), np.zeros(1))
    return ResidualModel((block,))


@pytest.mark.parametrize(
    ("n", "cells", "levels", "steps"), [(1, 4, 4, 1), (1, 8, 2, 0), (2, 2, 4, 1), (2, 3, 3, 1), (3, 2, 2, 0)]
)
def test_the_family_is_all_maps_of_small_steps_in_order(n, cells, levels, steps):
    points = grid_points(n, cells)
    gap = np.abs(points[:, None] - points[None]).max(axis=2)
    every = np.array(list(itertools.product(range(levels), repeat=len(points))))
    change = np.abs(every[:, :, None] - every[:, None, :])
    expected = every[(change <= steps)[:, gap == 1].all(axis=1)]
    found = component_functions(n, cells, levels, steps)
    np.testing.assert_array_equal(found, expected)
    # every map of a part of the grid, in the order of the grid, goes on to the whole: so the count only grows
    for i in range(1, len(points)):
        near = gap[:i, :i] == 1
        part = np.unique(every[:, :i], axis=0)
        kept = part[(np.abs(part[:, :, None] - part[:, None, :]) <= steps)[:, near].all(axis=1)]
        np.testing.assert_array_equal(kept, np.unique(expected[:, :i], axis=0))


def test_a_family_of_more_functions_than_prompts_is_refuted_without_building_them():
    found = family(cells=4096, levels=1024, steps=0, prompts=np.zeros((1, 0, 1))).decide()
    assert found.status is Status.REFUTED
    assert "1024 functions" in found.reason


def test_enumeration_is_bounded_and_looks_at_the_clock():
    with pytest.raises(TooManyFunctions, match="too many to enumerate"):
        component_functions(1, 4096, 2**13, 0)
    with pytest.raises(OutOfTime):
        component_functions(1, 64, 64, 1, deadline=-math.inf)
    found = family(cells=4096, levels=2**13, steps=0, prompts=np.zeros((2**13, 0, 1))).decide()
    assert found.status is Status.UNDECIDED
    assert "too many" in found.reason
    assert family().decide(seconds=-1.0).status is Status.UNDECIDED


def test_more_digits_stop_at_the_deadline():
    statement = floor_statement()
    prompt = Prompt(np.ones((1, 2)), np.ones(1))
    examples = list(statement.examples)
    assert np.isnan(precise_errors(statement.layer, prompt, examples, statement.targets, -math.inf)).all()
    assert np.isfinite(precise_errors(statement.layer, prompt, examples, statement.targets)).all()
    found = replace(statement, hints=FloorHints(prompt=1e12 * np.ones((3, 2)))).decide(seconds=-1.0)
    assert found.status is Status.UNDECIDED
    assert found.upper < math.inf


def test_an_attack_on_many_boxes_stops_at_the_deadline_and_too_many_are_refused():
    found = margin_statement(2000).decide(seconds=-1.0)
    assert found.status is Status.UNDECIDED
    assert "out of time" in found.reason
    assert margin_statement(2).decide().lower <= found.upper
    with pytest.raises(StatementError, match="deltas: 4097 rows, at most 4096"):
        margin_statement(4097)


def test_lipschitz_constants_of_heads_stop_at_the_deadline():
    r = np.random.default_rng(0)
    block = AttentionBlock(*(0.1 * r.standard_normal((2, 3, 3)) for _ in range(4)))
    found = Invertible(ResidualModel((block,)), 1.0, 1.0).decide(seconds=-1.0)
    assert found.status is Status.UNDECIDED
    assert "out of time" in found.reason


@pytest.mark.parametrize("field", ["route", "reason", "assumptions", "numbers"])
@pytest.mark.parametrize("text", ["a\x1b[31m", "x\nstatus  PROVED", "\u202e", "a" * 10_001, 3])
def test_text_that_a_terminal_would_obey_is_refused(field, text):
    stored = Verdict(Status.PROVED, 0.0, 1.0, "a route", assumptions=("one",), numbers={"depth": 1.0}).to_json()
    assert Verdict.from_json(stored).proved
    stored[field] = {"assumptions": [text], "numbers": {text: "0x1p0"}}.get(field, text)
    with pytest.raises(StatementError, match=f"verdict.{field}"):
        Verdict.from_json(stored)


def test_sentences_round_away_from_what_is_not_proved():
    below, above = 0.9999998, 0.30000049
    model = halving()
    assert "at most 0.999999," in Invertible(model, below, below).sentence
    assert Invertible(model, below, below).sentence.endswith("at most 0.999999")
    assert "at most 0.999999 brings" in InvertibleFloor(model, np.ones((2, 1, 1)), below, 0.0).sentence
    assert "at most 0.9999998 gives" in Preimage(model, below, (), np.ones((1, 1)), np.ones((1, 1, 1)), 1.0).sentence
    assert "within 0.300001 of" in prompted(eps=above).sentence
    assert "L^1.0000001" in prompted(p=1.0000001).sentence
    assert family(tolerance=above).sentence.endswith("within 0.300001")


@pytest.mark.parametrize(
    ("build", "changed", "name"),
    [
        (empty_stack, {"m": 1.0}, "m"),
        (empty_stack, {"m": True}, "m"),
        (empty_stack, {"beta": "x"}, "beta"),
        (empty_stack, {"beta": math.nan}, "beta"),
        (empty_stack, {"position": None}, "position"),
        (family, {"steps": math.nan}, "steps"),
        (family, {"steps": True}, "steps"),
        (family, {"steps": 0.5}, "steps"),
        (family, {"cells": 2.0}, "cells"),
        (family, {"prompts": "x"}, "prompts"),
        (family, {"tolerance": None}, "tolerance"),
        (prompted, {"pieces": 2.5}, "pieces"),
        (prompted, {"pieces": 10**5000}, "pieces"),
        (prompted, {"p": None}, "p"),
        (prompted, {"expression": 1}, "expression"),
        (floor_statement, {"floor": "x"}, "floor"),
        (floor_statement, {"floor": None}, "floor"),
        (floor_statement, {"examples": 3}, "examples"),
        (floor_statement, {"targets": np.eye(2) + 0j}, "targets"),
        (floor_statement, {"targets": np.eye(2).astype(str)}, "targets"),
    ],
)
def test_wrong_types_are_refused_by_name(build, changed, name):
    build()
    with pytest.raises(StatementError, match=f"^{name}( |:)"):
        build(**changed)


def test_a_file_with_a_fraction_for_an_integer_is_refused():
    for statement, name in ((family(), "steps"), (family(), "m"), (prompted(), "pieces")):
        data, arrays = statement.to_json()
        restored = type(statement).from_json(data, arrays)
        assert restored.sentence == statement.sentence
        with pytest.raises(StatementError, match=name):
            type(statement).from_json(data | {name: 2.5}, arrays)


def test_numbers_of_other_types_are_refused():
    assert stored_integer("n", np.int64(3), least=0) == 3
    for x in (2.0, True, "2", None, -1, 10**5000):
        with pytest.raises(StatementError, match="n = "):
            stored_integer("n", x, least=0)
    for x in ("2", True, 1j, np.complex128(1), None, 10**400):
        with pytest.raises(StatementError, match="x = "):
            stored_number("x", x)


def test_statements_do_not_share_the_callers_arrays():
    prompts, prompt, position = np.zeros((4, 0, 1)), np.zeros((0, 1)), np.ones((1, 1))
    stack = empty_stack(position=position)
    position[:] = 7.0
    assert stack.position[0, 0] == 1.0
    for array in (
        *stack.arrays().values(),
        family(prompts=prompts).prompts,
        prompted(prompt=prompt).prompt,
        prompted().centres,
    ):
        assert not array.flags.writeable
