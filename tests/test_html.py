"""The card in a notebook: well-formed, static, escaped, readable on any ground, and cheap."""

import re
import sys
from dataclasses import replace
from importlib import import_module
from xml.etree import ElementTree

import numpy as np
import pytest
import sympy as sp

from constructions import GridData, compile_prefix, load, sampled
from constructions.html import html_repr
from verify import BoxError, LipschitzTarget, Status

X, Y, Z = sp.symbols("x y z", real=True)


def distance(p):
    return np.array([abs(float(q) - 0.3) for q in np.ravel(p)])


MAKERS = {
    "1-D": lambda: compile_prefix(sp.sin(3 * X), 1e-3, {"x": (-1, 1)}),
    "two outputs": lambda: compile_prefix([sp.cos(X), sp.sin(X)], 1e-2, {"x": (-1, 1)}),
    "constant": lambda: compile_prefix(sp.Integer(2), 1e-2, {"x": (-1, 1)}),
    "2-D": lambda: compile_prefix(X * Y, 5e-2, {"x": (0, 1), "y": (0, 1)}),
    "3-D": lambda: compile_prefix(X * Y + Z, 0.4, {"x": (0, 1), "y": (0, 1), "z": (0, 1)}),
    "data": lambda: compile_prefix(GridData([[0, 0.5, 1]], [0, 1, 0]), 0.1),
    "black box": lambda: compile_prefix(distance, 0.1, [(0, 1)], lipschitz=1.0),
}


@pytest.fixture(scope="module")
def compiled():
    done = {}

    def get(name):
        if name not in done:
            done[name] = MAKERS[name]()
        return done[name]

    return get


@pytest.mark.parametrize("name", MAKERS)
def test_static_and_well_formed(compiled, name):
    text = html_repr(compiled(name))
    ElementTree.fromstring(text)
    for forbidden in ("<script", "http", "javascript", "onload", "<img", "<link", "@import", "url(", "nan"):
        assert forbidden not in text.lower()
    assert len(text) < 100_000


@pytest.mark.parametrize("name", MAKERS)
def test_no_colour_of_its_own_for_text_or_ground(compiled, name):
    text = html_repr(compiled(name))
    assert set(re.findall(r"background:([^;\"]+)", text)) <= {"transparent"}
    colours = set(re.findall(r"(?<![-\w])color:([^;\"]+)", text))
    marks = {"#2f8fd0", "#d9822b", "#2e9e6b", "#d9534f"}  # mid tones, of marks next to words, never of words
    assert colours <= marks | {"inherit"}
    for word in re.findall(r'<span style="color:#[0-9a-f]+">([^<]*)</span>', text):
        assert len(word) == 1


@pytest.mark.parametrize("name", ["1-D", "2-D", "black box"])
def test_shows_the_numbers(compiled, name):
    c = compiled(name)
    text = html_repr(c)
    for part in (
        "tokens",
        str(c.length),
        "proved: sup error",
        "approximation",
        "rounding",
        "unused",
        "max|logit|",
        "max|value|",
        "float64 execution",
    ):
        assert part in text
    assert text.count("<svg") == 3
    assert c._repr_html_() == text


def test_conditional_and_stored_are_said(compiled, tmp_path):
    assert "conditional: the Lipschitz constant is declared, not proved" in html_repr(compiled("black box"))
    assert "conditional" not in html_repr(compiled("1-D"))
    stored = html_repr(load(compiled("1-D").save(tmp_path / "o.st")))
    assert "as stored in the file, not proved again" in stored
    assert "✓" not in stored


def test_outcomes_that_are_no_proofs(compiled):
    c = compiled("1-D")
    undecided = replace(
        c.certificate, status=Status.UNDECIDED, error_upper=float("inf"), rounding=float("inf"), reason="a <b> & c"
    )
    text = html_repr(replace(c, certificate=undecided))
    ElementTree.fromstring(text)
    assert "undecided" in text
    assert "proved:" not in text
    assert "a &lt;b&gt; &amp; c" in text
    refuted = replace(c.certificate, status=Status.REFUTED, error_lower=1.0, error_upper=float("inf"))
    assert "refuted: sup error ≥ 1 &gt; eps" in html_repr(replace(c, certificate=refuted))


def test_what_the_user_wrote_is_escaped(compiled):
    c = compiled("black box")
    evil = "<script>alert('1')</script>\"&"
    target = LipschitzTarget(c.target.points, c.target.values, 1.0, "l2", evil)
    with pytest.raises(BoxError, match="plain names"):  # a coordinate cannot be called that in the first place
        c.domain.named(["<i>x"])
    claim = replace(c.claim, target=target)
    text = html_repr(replace(c, claim=claim, method="<u>", grid={"family": "<s>"}))
    ElementTree.fromstring(text)
    for tag in ("<script", "<u>", "<s>"):
        assert tag not in text


def test_proves_nothing_and_evaluates_little(compiled, monkeypatch):
    c = compiled("2-D")
    kernel = import_module("verify.prove")  # the package's attribute of this name is the function
    counted = []
    forward = sampled.forward

    def counting(model, prefix, points):
        counted.append(len(points))
        return forward(model, prefix, points)

    monkeypatch.setattr(sampled, "forward", counting)
    monkeypatch.setattr(kernel, "prove", lambda *a, **o: pytest.fail("a proof was started"))
    monkeypatch.setattr(kernel, "affine_head", lambda *a, **o: pytest.fail("a bound was computed"))
    html_repr(c)
    assert sum(counted) <= 400


def test_needs_no_matplotlib(compiled, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    html_repr(compiled("1-D"))
