"""Every kind of statement of Wang et al. and of Oymak et al.: saved, decided again from its file alone, refused when changed, judged honestly when forged."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import sympy as sp
from tampering import rewrite

from constructions import compile_prefix
from constructions.oymak2023 import ContextualData, compile_context_prompt, rival_bound
from constructions.stated import explained, verdict_lines
from constructions.wang2023 import (
    Grid,
    apply_model,
    compile_prompt,
    generated_dataset,
    inverse,
    invertibility,
    random_head,
    random_layer,
    random_model,
    random_prefixes,
    rescaled,
    shared_target_floor,
    short_prompt_floor,
    universal_transformer,
    unmemorable,
)  # fmt: skip
from verify import Stated, Status, check_statement, holds_statement, load_statement, save_statement
from verify.artefact import ArtefactError
from verify.statements import STATEMENTS

X = sp.Symbol("x")
Arrays = dict[str, np.ndarray]


@cache
def stack() -> Any:
    return rescaled(random_model(4, 1, seed=0), 1.0, 1.0).model


@cache
def inputs() -> np.ndarray:
    x = np.random.default_rng(0).standard_normal((2, 3, 4))
    return x / (1.1 * np.linalg.norm(x, axis=-1, keepdims=True))


@cache
def dataset() -> Any:
    return generated_dataset(random_head(6, seed=1), 2)


def contextual(noise: float) -> ContextualData:
    """A mixture on which every self-attention layer is at 1/2."""
    q_star, w_star = np.eye(4)[:2]
    return ContextualData(q_star, w_star, 0.3, 20, (0.0, 8.0), (0.0, 8.0), noise, 0.5)


def inverted() -> Any:
    prefixes = random_prefixes(stack(), 2, 1.0, seed=0)
    return inverse(stack(), apply_model(stack(), inputs()[0], prefixes), 1.0, prefixes=prefixes)


def times(name: str, factor: float) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        arrays[name] = factor * arrays[name]

    return change


def nearer(arrays: Arrays) -> None:
    """Targets with one answer for all examples but rounding: nothing is left to miss."""
    arrays["targets"][:] = arrays["targets"].mean(axis=0)


@dataclass(frozen=True)
class Case:
    """make: a proved result; forge: changed arrays that the statement is not true of, or not provably; claim: a number of the document and a value that says more
    than is true."""

    make: Callable[[], Any]
    forge: Callable[[Arrays], None]
    claim: tuple[str, float | int]


CASES = {
    "family": Case(lambda: universal_transformer(Grid(1, 1, 4, 2, 1)), times("second", 1.5), ("steps", 0)),
    "prompted": Case(lambda: compile_prompt(X / 2 + sp.Rational(1, 4), 0.2), times("prompt", 0.0), ("eps", 0.01)),
    "prompt-floor": Case(lambda: unmemorable(random_layer(5, 3, seed=0), seed=0), nearer, ("floor", 1.8)),
    "layer-error": Case(dataset, times("up", 1.01), ("bound", 1e-17)),
    "lora-floor": Case(lambda: short_prompt_floor(dataset(), 1), nearer, ("floor", 0.47)),
    "invertible": Case(lambda: invertibility(stack(), 1.0, 1.0), times("block0.w_o", 3.0), ("radius", 50.0)),
    "invertible-floor": Case(
        lambda: shared_target_floor(stack(), inputs()[0], inputs()[1], 1.0), times("block0.w_o", 3.0), ("floor", 2.0)
    ),
    "context-margin": Case(
        lambda: compile_context_prompt(contextual(0.2), 0.5), times("prompt", 0.9), ("margin", 0.50001)
    ),
    "context-rival": Case(
        lambda: rival_bound(contextual(0.0), "self-attention"), times("pairs", 0.1), ("accuracy", 0.49)
    ),
    "invertible-preimage": Case(inverted, times("output", 0.9), ("error", 1e-40)),
}
KINDS = sorted(CASES)


@cache
def result(kind: str) -> Any:
    return CASES[kind].make()


@pytest.fixture
def path(request, tmp_path):
    return result(request.param).save(tmp_path / "statement.st")


def test_the_kinds_go_by_their_names():
    assert set(CASES) <= set(STATEMENTS)
    assert all(kind == STATEMENTS[kind].kind for kind in KINDS)


@pytest.mark.parametrize(("path", "kind"), [(k, k) for k in KINDS], indirect=["path"], ids=KINDS)
def test_a_statement_is_proved_again_from_its_file(path, kind):
    made, stated = result(kind), load_statement(path)
    assert holds_statement(path)
    assert made.verdict.proved
    assert type(stated.statement) is STATEMENTS[kind]
    assert stated.verdict == made.verdict == check_statement(path)
    assert stated.statement.sentence == made.statement.sentence
    assert "\n" not in repr(made)
    arrays = made.statement.to_json()[1]
    restored = stated.statement.to_json()
    assert restored[0] == made.statement.to_json()[0]
    assert all(np.array_equal(arrays[name], restored[1][name]) for name in arrays)
    assert len(arrays) == len(restored[1])


@pytest.mark.parametrize(("path", "kind"), [(k, k) for k in KINDS], indirect=["path"], ids=KINDS)
def test_a_changed_file_is_refused(path, kind, tmp_path):
    """Whatever is changed: an array, the document, the verdict."""
    changes: list[dict[str, Any]] = [
        {"arrays": CASES[kind].forge},
        {"document": lambda d: d["verdict"].update(status="refuted")},
        {"document": lambda d: d["data"].update({CASES[kind].claim[0]: 0})},
    ]
    for change in changes:
        with pytest.raises(ArtefactError, match="sha256"):
            check_statement(rewrite(path, tmp_path / "changed.st", **change, rehash=False))


@pytest.mark.parametrize(("path", "kind"), [(k, k) for k in KINDS], indirect=["path"], ids=KINDS)
def test_forged_numbers_get_an_honest_verdict(path, kind, tmp_path):
    """The hash is right again, the stored verdict still says proved: it is not believed, and the new one says why."""
    forged = rewrite(path, tmp_path / "forged.st", arrays=CASES[kind].forge)
    assert load_statement(forged).verdict.proved
    verdict = check_statement(forged)
    assert not verdict.proved
    assert verdict.reason
    if verdict.status is Status.UNDECIDED:
        assert "says proved" in verdict.reason
        assert "could not be proved again" in verdict.reason


@pytest.mark.parametrize(("path", "kind"), [(k, k) for k in KINDS], indirect=["path"], ids=KINDS)
def test_a_statement_that_says_more_is_not_proved(path, kind, tmp_path):
    name, value = CASES[kind].claim
    stored = value if isinstance(value, int) else float(value).hex()
    more = rewrite(path, tmp_path / "more.st", document=lambda d: d["data"].update({name: stored}))
    assert not check_statement(more).proved


@pytest.mark.parametrize(("path", "kind"), [(k, k) for k in KINDS], indirect=["path"], ids=KINDS)
def test_the_stored_verdict_plays_no_part(path, kind, tmp_path):
    def lie(document):
        document["verdict"] |= {"status": "refuted", "reason": "because", "lower": "0x0.0p+0", "upper": "inf"}

    assert check_statement(rewrite(path, tmp_path / "lie.st", document=lie)) == result(kind).verdict


@pytest.mark.parametrize(("path", "kind"), [(k, k) for k in KINDS], indirect=["path"], ids=KINDS)
def test_missing_parts_and_numbers_that_are_none_are_named(path, kind, tmp_path):
    name = next(iter(result(kind).statement.to_json()[1]))

    def spoil(arrays: Arrays) -> None:
        arrays[name] = np.full_like(arrays[name], np.nan)

    with pytest.raises(ArtefactError):
        check_statement(rewrite(path, tmp_path / "a.st", arrays=spoil))
    with pytest.raises(ArtefactError, match="is missing"):
        check_statement(rewrite(path, tmp_path / "b.st", arrays=lambda a: a.pop(name)))
    with pytest.raises(ArtefactError, match="is missing"):
        check_statement(rewrite(path, tmp_path / "c.st", document=lambda d: d["data"].pop(CASES[kind].claim[0])))
    with pytest.raises(ArtefactError, match="expected one of"):
        check_statement(rewrite(path, tmp_path / "d.st", document=lambda d: d.update(statement="theorem")))


@pytest.mark.parametrize("kind", KINDS)
def test_no_time_is_undecided(kind):
    statement = result(kind).statement
    assert statement.decide(seconds=0.0).status is not Status.REFUTED
    assert statement.quantity


@pytest.mark.parametrize("kind", KINDS)
def test_in_words(kind):
    made = result(kind)
    stated = Stated(made.statement, made.verdict, {"seed": 3})
    lines = verdict_lines(stated, made.verdict)
    assert lines[0].split(None, 1) == ["states", made.statement.sentence]
    assert "PROVED" in lines[1]
    assert "as stored in the file" in explained(stated)
    assert "note: seed        3" in explained(stated)


@pytest.mark.parametrize("kind", KINDS)
def test_the_card_is_static_well_formed_and_says_the_status(kind):
    made = result(kind)
    assert made.verdict.proved  # a family is checked only when asked
    html = made._repr_html_()
    root = ElementTree.fromstring(html)
    words = " ".join(root.itertext())
    assert "✓" in words
    assert "proved" in words
    assert made.statement.sentence[:40] in words
    assert not {e.tag for e in root.iter()} & {"script", "style", "link", "img", "a"}
    assert "http" not in html


def test_a_family_that_was_not_checked_says_so():
    g = universal_transformer(Grid(1, 1, 2, 2, 1))
    assert "not checked yet" in g._repr_html_()
    assert "verdict" not in vars(g)


def test_a_compiled_prefix_is_no_statement(tmp_path):
    path = compile_prefix(X, 0.1).save(tmp_path / "x.st")
    assert not holds_statement(path)
    with pytest.raises(ArtefactError, match="compiled prefix"):
        load_statement(path)
    (tmp_path / "text").write_text("no artefact")
    with pytest.raises(ArtefactError, match="text"):
        holds_statement(tmp_path / "text")
    odd = rewrite(path, tmp_path / "odd.st", document=lambda d: d.clear())
    assert not holds_statement(odd)


def test_a_verdict_may_be_saved_undecided(tmp_path):
    made = result("lora-floor")
    more = replace(made.statement, floor=made.floor * (1 + 1e-9))
    path = save_statement(tmp_path / "more.st", Stated(more, more.decide()))
    verdict = check_statement(path)
    assert verdict.status is Status.UNDECIDED
    assert "says proved" not in verdict.reason  # the file did not say so
    assert json.dumps(verdict.to_json()) == json.dumps(load_statement(path).verdict.to_json())
