"""Circuits as they are shown: words, card, pictures, and the stream for one input; fresh and from a file."""

from dataclasses import replace
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
import sympy as sp

from constructions import compile_prefix, load
from constructions.circuits.describe import layer_tokens, node_sensitivities, node_views, slot_names
from constructions.html import html_repr
from constructions.plots import CIRCUIT_KINDS
from constructions.plots.circuit import _heights, _items

X, Y, Z = sp.symbols("x y z", real=True)
MAKERS = {
    "two layers": lambda: compile_prefix(X * Y / (1 + X**2), 1e-2, {"x": (0, 1), "y": (1, 2)}, method="circuit"),
    "one layer": lambda: compile_prefix(
        sp.Abs(X - Y) + sp.Abs(X + Y - 1), 1e-2, {"x": (0, 1), "y": (0, 1)}, method="circuit"
    ),
    "two outputs": lambda: compile_prefix(
        [X * Y + Z, X * sp.exp(Z)], 1e-2, {"x": (1, 2), "y": (1, 2), "z": (0, 1)}, method="circuit"
    ),
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Each circuit, compiled when first asked for; "stored" is the one of two layers, from its file."""
    done = {}

    def get(name):
        if name not in done and name == "stored":
            path = tmp_path_factory.mktemp("circuits") / "c.safetensors"
            get("two layers").save(path)
            done[name] = load(path)
        elif name not in done:
            done[name] = MAKERS[name]()
        return done[name]

    return get


@pytest.fixture(scope="module")
def head():
    return compile_prefix(sp.sin(X), 1e-2, {"x": (-1, 1)})


@pytest.fixture(autouse=True)
def agg():
    """Draw into memory, and close what was drawn."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


NAMES = [*MAKERS, "stored"]


@pytest.mark.parametrize("name", NAMES)
def test_every_node_is_explained(compiled, name):
    c = compiled(name)
    text = c.explain()
    for view in node_views(c):
        assert f"{view.name} = {view.function},  {', '.join(view.bound)}" in text
        assert f"head {view.head}, {view.tokens} tokens, adds to slot {view.slot}" in text
    for weight in node_sensitivities(c):
        assert f"sensitivity {weight:.3g}" in text
    for l in range(len(c.model.layers)):
        assert f"layer {l} " in text
    assert f"a residual stream of {len(c.model.offset)} slots: {', '.join(slot_names(c))}" in text
    assert "of eps together" in text
    assert "approximation and rounding" in text


def test_a_file_is_explained_like_a_fresh_result(compiled):
    def circuit(c):
        text = c.explain()
        return text[text.index("Circuit\n") : text.index("Proof")]

    assert circuit(compiled("stored")) == circuit(compiled("two layers"))


@pytest.mark.parametrize("name", NAMES)
def test_views_agree_with_the_notes_of_the_construction(compiled, name):
    c = compiled(name)
    assert slot_names(c) == tuple(c.grid["slots"])
    assert [len(layer) for layer in layer_tokens(c)] == list(c.grid["heads"])
    assert [v.tokens for v in node_views(c)] == [row[2] for row in c.grid["nodes"]]
    assert node_sensitivities(c) == pytest.approx([row[3] for row in c.grid["nodes"]])
    assert sum(map(sum, layer_tokens(c))) == c.length


@pytest.mark.parametrize("name", NAMES)
def test_repr_shows_layers_heads_and_tokens(compiled, name):
    c = compiled(name)
    heads = sum(len(layer) for layer in c.prefix.keys)
    for text in (repr(c), html_repr(c)):
        assert f"{heads} heads of" in text
        assert "max|logit|" not in text
        assert "approximation and rounding" in text
    ElementTree.fromstring(html_repr(c))


def test_arguments_of_nodes_are_not_called_like_a_variable(compiled):
    views = node_views(compiled("two outputs"))
    assert all(not a.startswith("z") for v in views for a in v.arguments)
    assert node_views(compiled("two layers"))[0].bound == ("z = x",)


@pytest.mark.parametrize("name", NAMES)
def test_trace_ends_in_the_output_and_stays_near_the_circuit(compiled, name):
    c = compiled(name)
    for x in c.domain.sample(5):
        t = c.trace(x)
        stages = len(c.model.layers) + 1
        assert t.values.shape == t.ideal.shape == (stages, len(t.names))
        outputs = [t.names.index(f"out{i}") for i in range(c.model.outputs)]
        np.testing.assert_allclose(t.values[-1, outputs], c(x), rtol=0, atol=1e-12 * c.max_value)
        np.testing.assert_allclose(t.ideal[-1, outputs], c.target.evaluate(x[None])[0], rtol=1e-12)
        np.testing.assert_array_equal(t.values[:, : len(x)], np.tile(x, (stages, 1)))
        assert (t.values[:, -1] == 1).all()
        assert (t.values[0, len(x) : -1] == 0).all()
        assert np.abs(t.values - t.ideal).max() <= c.eps
        assert all(line.startswith(name) for line, name in zip(repr(t).splitlines()[1:], t.names, strict=True))


def test_trace_fills_slots_layer_by_layer(compiled):
    c = compiled("two layers")
    t = c.trace([0.5, 1.5])
    assert t.ideal[:, t.names.index("n0")] == pytest.approx([0, 0.4, 0.4])
    assert t.ideal[:, t.names.index("out0")] == pytest.approx([0, 0, 0.6])


@pytest.mark.parametrize("x", [0.5, [0.5], [[0.5, 1.5]], ["a", "b"]])
def test_trace_refuses_other_shapes(compiled, x):
    with pytest.raises(ValueError, match=r"expected one point of 2 real coordinates"):
        compiled("two layers").trace(x)


def test_a_single_head_has_no_trace_and_no_graph(head):
    with pytest.raises(ValueError, match="is no circuit"):
        head.trace([0.0])
    with pytest.raises(ValueError, match="belongs to circuits"):
        head.plot("circuit")
    assert "max|logit|" in repr(head)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["circuit", "fit", "error"])
def test_pictures(compiled, name, kind):
    c = compiled(name)
    ax = c.plot(kind)
    ax.figure.canvas.draw()
    assert f"{c.length} tokens (circuit)" in ax.get_title(loc="left")
    if kind == "circuit":
        words = [t.get_text() for t in ax.texts]
        for view in node_views(c):
            assert any(w.startswith(f"{view.name} = ") for w in words)
            assert f"{view.tokens} tokens" in words
        assert set(c.claim.circuit.circuit.variables) <= set(words)


def test_the_graph_fits_into_given_axes(compiled):
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(3, 2))
    assert compiled("two layers").plot("circuit", ax) is ax
    assert tuple(figure.get_size_inches()) == (3, 2)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_overlaps_in_the_graph(compiled, name):
    c = compiled(name)
    columns = len(c.model.layers) + 2
    items = _items(c, 20)
    y = _heights(items, columns)
    for a in items:
        for b in items:
            if a is not b and a.place[0] == b.place[0]:
                assert abs(y[a.place] - y[b.place]) >= (a.height + b.height) / 2
    for item in items:  # every value that is read stands one column to the left, as a box or a lane
        assert all((item.place[0] - 1, s) in y for s in item.sources)


@pytest.mark.parametrize("kind", ["tokens", "attention"])
def test_pictures_of_one_head_name_what_to_use_instead(compiled, kind):
    import matplotlib.pyplot as plt

    assert kind in CIRCUIT_KINDS
    with pytest.raises(ValueError, match=rf"kind = '{kind}' shows .*kind='circuit'.*c\.trace"):
        compiled("two layers").plot(kind)
    assert not plt.get_fignums()


def test_convergence_compiles_the_circuit_again(compiled):
    c = compiled("one layer")
    ax = c.plot("convergence", eps=[0.1, 0.01], progress=False)
    assert "Convergence" in ax.get_title(loc="left")


def test_a_file_with_places_that_do_not_exist_is_still_described(compiled):
    c = compiled("two layers")
    hint = c.claim.circuit
    odd = replace(c, claim=replace(c.claim, circuit=replace(hint, places=((0, 7, 2), (9, 0, 99)))), rechecked=False)
    assert "0 tokens" in odd.explain()
    assert repr(odd)
    ElementTree.fromstring(html_repr(odd))
    odd.plot("circuit").figure.canvas.draw()
