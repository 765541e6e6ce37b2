"""Pictures: every kind for every sort of target and dimension gives axes with labels, and says what is known in words."""

import matplotlib as mpl
import numpy as np
import pytest
import sympy as sp

from constructions import GridData, compile_prefix, load
from constructions.captions import downward, upward
from constructions.plots import KINDS
from constructions.plots.convergence import to_sympy
from constructions.sampled import sampled
from verify import ExpressionTarget

X, Y, Z = sp.symbols("x y z", real=True)
NODES = np.linspace(0, 1, 6)


def distance(p):
    """A black box: it cannot be traced, as it asks for a float."""
    return np.array([abs(float(q) - 0.3) for q in np.ravel(p)])


def distance_2d(p):
    points = np.asarray(p).reshape(-1, 2)
    return np.array([abs(float(q[0]) - 0.3) for q in points]).reshape(np.shape(p)[:-1])


MAKERS = {
    "1-D": lambda: compile_prefix(sp.sin(3 * X), 1e-3, {"x": (-1, 1)}),
    "1-D, two outputs": lambda: compile_prefix([sp.cos(X), sp.sin(X)], 1e-2, {"x": (-1, 1)}),
    "1-D, many tokens": lambda: compile_prefix(X, 5e-3, {"x": (0, 1)}, method="covering"),
    "1-D, data": lambda: compile_prefix(GridData([NODES], np.sin(3 * NODES)), 5e-2),
    "1-D, black box": lambda: compile_prefix(distance, 0.1, [(0, 1)], lipschitz=1.0),
    "2-D": lambda: compile_prefix(X * Y, 5e-2, {"x": (0, 1), "y": (0, 1)}),
    "2-D, two outputs": lambda: compile_prefix([X, Y], 5e-2, {"x": (0, 1), "y": (0, 1)}),
    "2-D, black box": lambda: compile_prefix(distance_2d, 0.3, [(0, 1), (0, 1)], lipschitz=1.0),
    "3-D": lambda: compile_prefix(X * Y + Z, 0.4, {"x": (0, 1), "y": (0, 1), "z": (0, 1)}),
}
FUNCTIONS = {"1-D, black box": distance, "2-D, black box": distance_2d}


@pytest.fixture(scope="module")
def compiled():
    """Each target, compiled when first asked for."""
    done = {}

    def get(name):
        if name not in done:
            done[name] = MAKERS[name]()
        return done[name]

    return get


@pytest.fixture(autouse=True)
def agg():
    """Draw into memory, and close what was drawn."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MAKERS)
def test_every_kind_for_every_target(compiled, agg, name, kind):
    c = compiled(name)
    options = {"eps": [4 * c.eps, 2 * c.eps], "f": FUNCTIONS.get(name)} if kind == "convergence" else {}
    ax = c.plot(kind, **options)
    assert isinstance(ax, agg.Axes)
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    assert "proved" in ax.get_title(loc="left")
    assert ("declared Lipschitz constant holds" in ax.get_title(loc="left")) == c.certificate.conditional
    ax.figure.canvas.draw()
    assert len(agg.get_fignums()) == 1


@pytest.mark.parametrize("kind", ["fit", "error", "tokens", "attention"])
def test_drawing_into_given_axes_makes_no_figure(compiled, agg, kind):
    figure, axes = agg.subplots(1, 2)
    assert compiled("2-D").plot(kind, ax=axes[1]) is axes[1]
    assert agg.get_fignums() == [figure.number]
    assert not axes[0].has_data()


def test_measured_and_proved_are_told_apart(compiled):
    ax = compiled("1-D").plot("error")
    labels = ax.get_legend_handles_labels()[1]
    assert "measured (sampled)" in labels
    assert "proved bound per box" in labels
    assert any(label.startswith("eps = ") for label in labels)


def test_the_drawn_bound_is_above_what_is_measured(compiled):
    ax = compiled("1-D").plot("error", cells=64)
    (steps,) = ax.patches
    bound, edges = steps.get_data()[:2]
    measured = next(line for line in ax.lines if line.get_label() == "measured (sampled)")
    x, e = measured.get_data()
    cell = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(bound) - 1)
    assert np.nanmax(e - bound[cell]) <= 0
    assert np.nanmax(bound) <= compiled("1-D").eps


def test_a_file_is_not_called_proved(compiled, tmp_path):
    stored = load(compiled("1-D").save(tmp_path / "o.st"))
    title = stored.plot("fit").get_title(loc="left")
    assert "as stored in the file, not proved again" in title
    assert "proved: " not in title


def test_text_is_no_formula_and_themes_do_not_matter(compiled, agg):
    """Dark ink on a white ground, under a dark style too."""
    with agg.style.context("dark_background"):
        ax = compiled("1-D").plot("fit")
    assert mpl.colors.to_hex(ax.get_facecolor()) == "#ffffff"
    assert mpl.colors.to_hex(ax.figure.get_facecolor()) == "#ffffff"
    assert mpl.colors.to_hex(ax.xaxis.label.get_color()) == "#111111"


@pytest.mark.parametrize(
    ("kind", "options", "part"),
    [
        ("pie", {}, "unknown"),
        ("error", {"cells": 0}, "cells"),
        ("fit", {"output": 1}, "output"),
        ("convergence", {"eps": []}, "eps"),
        ("convergence", {"eps": [-1.0]}, "eps"),
    ],
)
def test_bad_options_leave_no_figure(compiled, agg, kind, options, part):
    with pytest.raises(ValueError, match=part):
        compiled("1-D").plot(kind, **options)
    assert agg.get_fignums() == []


def test_convergence_of_a_black_box_asks_for_the_function(compiled):
    with pytest.raises(ValueError, match="f is missing"):
        compiled("1-D, black box").plot("convergence")


def test_convergence_reports_progress(compiled):
    seen = []
    c = compiled("1-D")
    c.plot("convergence", eps=[0.1, 0.01], progress=lambda done, words: seen.append((done, words)))
    assert seen[-1][0] <= 1
    assert any("eps = 0.01" in words for _, words in seen)


def test_an_expression_table_becomes_the_same_function():
    f = [
        sp.Piecewise((sp.exp(X) / (1 + Y**2), X > Y), (sp.Abs(X) + sp.Max(X, Y), True)),
        sp.sqrt(X + 2) * sp.pi - sp.tanh(Y) / 3,
    ]
    c = compile_prefix(f[1], 0.5, {"x": (0, 1), "y": (0, 1)})
    assert isinstance(c.target, ExpressionTarget)
    from constructions.from_sympy import from_sympy

    table = from_sympy(f, ["x", "y"])
    points = np.random.default_rng(0).uniform(-1, 1, (50, 2))
    again = from_sympy(to_sympy(table), ["x", "y"])
    np.testing.assert_allclose(again.evaluate(points), table.evaluate(points), rtol=1e-13)


def test_a_black_box_is_drawn_with_all_it_may_be(compiled):
    """The extreme functions of the class enclose the true one, and meet at the recorded values."""
    c = compiled("1-D, black box")
    points = np.linspace(0, 1, 101)[:, None]
    s = sampled(c, points)
    truth = distance(points)[:, None]
    assert (s.low <= truth + 1e-12).all()
    assert (s.high >= truth - 1e-12).all()
    assert s.error.max() <= c.certificate.error_upper
    at = sampled(c, c.target.points)
    np.testing.assert_allclose(at.low, at.high, atol=1e-12)


@pytest.mark.parametrize("x", [1.0, 0.12345, 9.999e-7, 3.14159e12, 5e-324, 1.7e308, -2.7182])
def test_numbers_are_rounded_to_the_safe_side(x):
    assert float(downward(x)) <= x <= float(upward(x))
    assert abs(float(upward(x)) - x) <= 0.01 * abs(x) + 5e-324
