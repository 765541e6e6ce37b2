"""Pictures of heads on spheres: curves on S^1, globes on S^2, numbers beyond; they prove nothing and say what is known in words."""

import re
import sys
from dataclasses import replace
from importlib import import_module
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
import sympy as sp
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text

from constructions import compile_prefix, load
from constructions.cli import main
from constructions.html import html_repr
from constructions.plots import KINDS, SPHERE_KINDS, plot
from constructions.plots.view import DEFAULT, View
from constructions.sampled import attention_weights, circle, sampled
from verify import Sphere, Status

X, Y, Z = sp.symbols("x y z")
METHODS = ("split", "core", "classical")
DRAWN = ("fit", "error", "tokens", "attention")


def angle(p):
    """The angle to a fixed point: a black box, as it asks for floats."""
    points = np.asarray(p)
    if points.dtype == object or type(p) is not np.ndarray:
        raise TypeError("opaque")
    east = np.eye(points.shape[-1])[0]
    flat = points.reshape(-1, points.shape[-1])
    found = [2 * np.arctan2(float(np.linalg.norm(q - east)), float(np.linalg.norm(q + east))) for q in flat]
    return np.array(found).reshape(points.shape[:-1])


def two_angles(p):
    """Two outputs: the angles to a point and to its antipode."""
    return np.stack([angle(p), np.pi - angle(p)], axis=-1)


MAKERS = {
    **{f"S1 {m}": lambda m=m: compile_prefix(sp.exp(X) * Y, 5e-2, Sphere(1), method=m) for m in METHODS},
    "S1 black box": lambda: compile_prefix(angle, 0.6, Sphere(1), lipschitz=1),
    "S1 many": lambda: compile_prefix(angle, 0.04, Sphere(1), lipschitz=1),
    "S2 core": lambda: compile_prefix([X * Y, Z], 0.4, Sphere(2), method="core"),
    "S2 split": lambda: compile_prefix(two_angles, 0.8, Sphere(2), lipschitz=1, method="split"),
    "S2 classical": lambda: compile_prefix(angle, 0.8, Sphere(2), lipschitz=1, method="classical", sequence_length=300),
    "S3 black box": lambda: compile_prefix(angle, 1.2, Sphere(3), lipschitz=1),
    "constant": lambda: compile_prefix(sp.Integer(2), 0.1, Sphere(1)),
}
FUNCTIONS = {"S1 black box": angle, "S2 split": two_angles}


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


def words(ax):
    """All text of a picture."""
    return "\n".join(t.get_text() for t in ax.figure.findobj(Text))


PICTURES = [n for n in MAKERS if not n.startswith(("S3", "constant", "S1 many"))]


@pytest.mark.parametrize("kind", DRAWN)
@pytest.mark.parametrize("name", PICTURES)
def test_every_kind_on_the_circle_and_the_sphere(compiled, agg, name, kind):
    c = compiled(name)
    ax = c.plot(kind)
    assert isinstance(ax, agg.Axes)
    assert ax.get_xlabel()
    assert "proved" in ax.get_title(loc="left")
    assert ("declared Lipschitz constant holds" in ax.get_title(loc="left")) == c.certificate.conditional
    if "classical" in name:
        ax.figure.canvas.draw()
    assert len(agg.get_fignums()) == 1
    if name.startswith("S2"):
        assert ax.get_aspect() == 1


@pytest.mark.parametrize("name", ["S1 classical", "S2 core", "constant", "S1 many"])
def test_pictures_and_cards_prove_nothing(compiled, monkeypatch, name):
    c = compiled(name)
    kernel = import_module("verify.prove")  # the package's attribute of this name is the function
    monkeypatch.setattr(kernel, "prove", lambda *a, **o: pytest.fail("a proof was started"))
    monkeypatch.setattr(kernel, "affine_head", lambda *a, **o: pytest.fail("a bound was computed"))
    for kind in DRAWN:
        c.plot(kind)
    html_repr(c)


@pytest.mark.parametrize("name", ["S1 split", "S2 core", "S3 black box"])
def test_what_is_undecided_is_not_called_proved(compiled, name):
    c = compiled(name)
    unknown = replace(c.certificate, status=Status.UNDECIDED, error_upper=np.inf, rounding=np.inf)
    text = words(replace(c, certificate=unknown).plot("error"))
    assert "undecided" in text
    assert "proved bound" not in text
    assert "proved:" not in text


@pytest.mark.parametrize("kind", DRAWN)
def test_drawing_into_given_axes_makes_no_figure(compiled, agg, kind):
    figure, axes = agg.subplots(1, 2)
    assert compiled("S2 split").plot(kind, ax=axes[1]) is axes[1]
    assert agg.get_fignums() == [figure.number]
    assert not axes[0].has_data()


@pytest.mark.parametrize("kind", ["fit", "tokens", "attention"])
def test_three_spheres_and_more_are_refused(compiled, agg, kind):
    with pytest.raises(ValueError, match=rf"'{kind}'.*m = 3.*'error'"):
        compiled("S3 black box").plot(kind)
    assert agg.get_fignums() == []


def test_errors_on_three_spheres_are_numbers(compiled):
    c = compiled("S3 black box")
    ax = c.plot("error")
    text = words(ax)
    assert "sampled" in text
    assert "proved bound, at every point" in text
    measured = sum(patch.get_height() for patch in ax.patches)
    assert f"{measured:g} points" in text


@pytest.mark.parametrize(
    ("name", "kind", "options", "part"),
    [
        ("S2 split", "pie", {}, "unknown.*'bound'"),
        ("S2 split", "fit", {"output": 2}, "output"),
        ("S1 split", "fit", {"output": 1}, "output"),
        ("S2 split", "tokens", {"output": -1}, "output"),
        ("S2 split", "error", {"view": (0, 91)}, "view"),
        ("S1 black box", "convergence", {}, "f is missing"),
        ("constant", "bound", {}, "bound"),
    ],
)
def test_bad_requests_leave_no_figure(compiled, agg, name, kind, options, part):
    c = replace(compiled(name), theorem=None)
    with pytest.raises(ValueError, match=part):
        c.plot(kind, **options)
    assert agg.get_fignums() == []


def test_a_box_has_no_theorem_to_draw(agg):
    with pytest.raises(ValueError, match="belongs to spheres"):
        plot(compile_prefix(X, 0.5, {"x": (0, 1)}), "bound")
    assert set(KINDS) < set(SPHERE_KINDS)


def test_measured_and_proved_are_told_apart(compiled):
    ax = compiled("S1 split").plot("error")
    labels = ax.get_legend_handles_labels()[1]
    assert "measured (sampled)" in labels
    assert any(label.startswith("proved bound (whole circle)") for label in labels)
    text = words(compiled("S2 core").plot("error"))
    assert "proved bound for the whole sphere" in text
    assert "measured (sampled)" in text
    assert "worst case over the Lipschitz class (sampled, in sequences of 256 of up to 300)" in words(
        compiled("S2 classical").plot("error")
    )


def test_what_is_measured_is_below_the_bound(compiled):
    for name in ("S1 classical", "S1 core", "S1 black box"):
        c = compiled(name)
        measured = c.plot("error").lines[0].get_ydata()
        assert np.nanmax(measured) <= c.certificate.error_upper


def test_colours_of_the_globe_are_values_of_the_model(compiled):
    """The middle of each disc is the point the globe is seen from, and its antipode."""
    c = compiled("S2 core")
    first, second = c.plot("fit", output=1, view=(0, 90)).images[:2]
    for image, z in ((first, 1.0), (second, -1.0)):
        array = np.asarray(image.get_array())
        n = len(array)
        middle = array[n // 2 - 1 : n // 2 + 1, n // 2 - 1 : n // 2 + 1].mean()
        assert middle == pytest.approx(float(c(np.array([[0.0, 0.0, z]]))[0, 1]), abs=5e-3)


def test_a_file_is_not_called_proved(compiled, tmp_path):
    for name in ("S1 split", "S2 classical"):
        stored = load(compiled(name).save(tmp_path / "o.st"))
        text = words(stored.plot("error"))
        assert "not proved again" in " ".join(text.split())
        assert "proved bound" not in text
        assert "on record" in text


@pytest.mark.parametrize("kind", ["fit", "bound"])
def test_the_command_line_draws_stored_spheres(compiled, tmp_path, kind):
    out = tmp_path / "o.png"
    path = compiled("S2 classical").save(tmp_path / "o.st")
    assert main(["plot", str(path), "-o", str(out), "--kind", kind]) == 0
    assert out.stat().st_size > 10_000


@pytest.mark.parametrize("name", ["S1 black box", "S1 split", "S2 split"])
def test_convergence_on_spheres(compiled, name):
    c = compiled(name)
    ax = c.plot("convergence", eps=[4 * c.eps, 2 * c.eps], f=FUNCTIONS.get(name))
    assert "proved for 2 of 2" in ax.get_title(loc="left")
    assert "theorem" in words(ax)


def test_the_theorem_and_what_was_built(compiled):
    c = compiled("S2 classical")
    ax = c.plot("bound")
    assert f"{c.length} tokens" in words(ax)
    assert ax.lines[-1].get_xdata()[0] == c.eps


def test_data_tokens_take_their_share(compiled):
    _, points = circle(50)
    classical, split = (attention_weights(compiled(f"S1 {m}"), points).sum(axis=1) for m in ("classical", "split"))
    assert (classical < 1).all()
    np.testing.assert_allclose(split, 1, rtol=1e-12)


def test_samples_see_whole_sequences(compiled):
    """A classical head's answer depends on the number of data tokens, and on nothing else of the other tokens."""
    c = compiled("S1 classical")
    points = Sphere(1).sample(7)
    length = c.claim.sequence_length
    alone = np.stack([c.sequences(np.tile(p, (length, 1)))[0] for p in points])
    np.testing.assert_allclose(sampled(c, points).model, alone, rtol=1e-9)


def test_a_black_box_is_drawn_with_all_it_may_be(compiled):
    c = compiled("S2 classical")
    points = Sphere(2).sample(200)
    s = sampled(c, points)
    truth = angle(points)[:, None]
    assert (s.low <= truth + 1e-9).all()
    assert (s.high >= truth - 1e-9).all()
    assert s.error.max() <= c.certificate.error_upper
    at = sampled(c, c.target.points)
    np.testing.assert_allclose(at.low, at.high, atol=1e-12)


@pytest.mark.parametrize("name", MAKERS)
def test_cards_are_static_light_and_well_formed(compiled, name, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    text = html_repr(compiled(name))
    ElementTree.fromstring(text)
    for forbidden in ("<script", "http", "javascript", "<img", "<link", "url(", " id=", "nan"):
        assert forbidden not in text.lower()
    assert len(text) < 60_000
    assert text.count("<svg") == (1 if name.startswith("S3") else 3)
    assert set(re.findall(r"background:([^;\"]+)", text)) <= {"transparent"}
    assert set(re.findall(r'fill="(#[0-9a-f]+)"', text)) <= {
        "#2f8fd0",
        "#d9822b",
    }  # mid tones, for light and dark grounds


@given(st.floats(-720, 720), st.floats(-90, 90), st.integers(0, 10_000))
def test_a_point_is_seen_where_it_is(longitude, latitude, seed):
    """Projection and its inverse on the near side; on the far side the opposite view takes over, mirrored left to right."""
    view = View.towards(longitude, latitude)
    points = Sphere(2).sample(50, seed=seed)
    place, depth = view.project(points)
    again = view.points(*place.T)
    np.testing.assert_allclose(again[depth > 0.05], points[depth > 0.05], atol=1e-12)
    behind, far = view.opposite().project(points)
    np.testing.assert_allclose(far, -depth, atol=1e-15)
    np.testing.assert_allclose(behind, place * [-1, 1], atol=1e-15)


def test_the_positive_axes_are_in_front():
    assert (View.towards(*DEFAULT).project(np.eye(3))[1] > 0).all()
