"""Files: what is saved is what is loaded and proved again; anything else is an ArtefactError that names file and field."""

import math
import os
from fractions import Fraction

import numpy as np
import oracle
import pytest
from formulas import apply, claim, expression, fitted, lift, target, var
from safetensors.numpy import save as serialise
from tampering import rewrite

from verify import (
    Artefact,
    ArtefactError,
    Box,
    Claim,
    ExpressionTarget,
    GridTarget,
    Head,
    Layer,
    LipschitzTarget,
    Prefix,
    Status,
    Transformer,
    check,
    load,
    prove,
    save,
)
from verify.artefact import content_hash


def sine(eps: float = 0.05) -> Claim:
    f = target(apply("sin", var() * 3))
    return claim(*fitted(f, [(-1, 1)], 10), f, [(-1, 1)], eps)


def artefact(c: Claim | None = None) -> Artefact:
    c = c or sine()
    return Artefact(
        c,
        prove(c, max_boxes=5000),
        {"method": "least squares", "note": [1, None, {"a": "b"}]},
        {"keys": np.arange(6.0).reshape(2, 3)},
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(tmp_path_factory.mktemp("artefact") / "sine.prefix.safetensors", artefact())


def every_kind_of_claim():
    rng = np.random.default_rng(0)
    zero = (np.zeros((4, 1)), np.zeros(4), np.zeros((4, 1)))
    yield sine()
    yield claim(*zero, GridTarget((np.arange(3.0),), rng.random((3, 1)), "linear"), [(0, 2)], 2.0)
    yield claim(*zero, GridTarget((np.arange(3.0),), rng.random((3, 1)), "nearest"), [(0, 2)], 2.0)
    yield claim(*zero, LipschitzTarget(rng.random((4, 1)), np.zeros((4, 1)), 0.1), [(0, 1)], 2.0)
    two = target(var(0) * var(1), lift(Fraction(1, 3)), n=2)
    named = Box({"x0": (0.1, 0.3), "x1": (-1e-7, 1 / 3)})
    base = claim(rng.random((3, 2)), rng.random(3), rng.random((3, 2)), two, [(0.1, 0.3), (-1e-7, 1 / 3)], 1.0)
    yield Claim(base.model, base.prefix, two, named, 1.0)
    head = Head(
        np.eye(2), np.eye(2), np.eye(2), np.eye(2)
    )  # deeper, residual, attending to data: stored although not proved
    plain = Head(np.eye(2), np.eye(2))
    model = Transformer(
        np.ones((2, 1)), np.zeros(2), (Layer((head, plain), residual=True), Layer((plain,))), np.ones((1, 2))
    )
    token = rng.random((2, 2))
    yield Claim(
        model, Prefix(((token, token), (token,)), ((token, token), (token,))), target(var()), Box([(0, 1)]), 1.0
    )


@pytest.mark.parametrize("index", range(6))
def test_round_trip_of_every_kind(index, tmp_path):
    c = list(every_kind_of_claim())[index]
    original = artefact(c)
    again = load(save(tmp_path / "a.safetensors", original))
    assert again.certificate == original.certificate
    assert dict(again.construction) == dict(original.construction)
    assert np.array_equal(again.arrays["keys"], original.arrays["keys"])
    assert again.claim.eps == c.eps
    assert again.claim.domain == c.domain
    assert str(again.claim.target) == str(c.target)
    assert again.claim.target.provenance == c.target.provenance
    for a, b in zip(again.claim.prefix.keys + again.claim.prefix.values, c.prefix.keys + c.prefix.values, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(c.target, ExpressionTarget) and isinstance(again.claim.target, ExpressionTarget):
        assert again.claim.target.expression == c.target.expression
    fresh = check(tmp_path / "a.safetensors", max_boxes=5000)
    assert fresh == original.certificate  # the proof is deterministic


def test_saving_is_deterministic_and_whole(tmp_path):
    a, b = artefact(), artefact()
    first, second = (oracle.read_container(save(tmp_path / name, x))[1] for name, x in (("a", a), ("b", b)))
    assert first == second  # the hash of every number included (the container may order its header either way)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]  # nothing temporary is left
    save(tmp_path / "a", a)  # over an existing file
    assert load(tmp_path / "a").certificate == a.certificate


def test_an_independent_reader_sees_the_same_numbers(saved):
    judge = oracle.Oracle(saved)
    c = load(saved).claim
    assert judge.eps == c.eps
    assert float(judge.error([0.25])) <= load(saved).certificate.error_upper


def test_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(ArtefactError, match="cannot be written"):
        save(tmp_path / "missing" / "a.safetensors", artefact())
    (tmp_path / "folder").mkdir()
    with pytest.raises(ArtefactError, match="cannot be written"):
        save(tmp_path / "folder", artefact())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder"]


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"{}", b"\x00" * 8, b"\xff" * 64, b"\x02" + b"\x00" * 7 + b"{}", b"\xff\xff\xff\xff\xff\xff\xff\x7f{}"],
)
def test_files_of_another_kind(content, tmp_path):
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(ArtefactError, match="other"):
        load(path)


def test_files_that_are_not_there(tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(ArtefactError, match="no such file"):
            load(path)


def test_the_rewriter_itself_changes_nothing(saved, tmp_path):
    assert load(rewrite(saved, tmp_path / "same")).certificate == load(saved).certificate


def setter(*path, value):
    def change(document):
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


def remover(*path):
    def change(document):
        for key in path[:-1]:
            document = document[key]
        del document[path[-1]]

    return change


BAD_DOCUMENTS = {
    "no eps": remover("eps"),
    "no target": remover("target"),
    "no domain": remover("domain"),
    "no layers": remover("layers"),
    "no certificate": remover("certificate"),
    "no construction": remover("construction"),
    "eps text": setter("eps", value="soon"),
    "eps number": setter("eps", value=0.1),
    "eps zero": setter("eps", value=(0.0).hex()),
    "eps nan": setter("eps", value="nan"),
    "eps inf": setter("eps", value="inf"),
    "eps huge": setter("eps", value="0x1p99999"),
    "eps of another claim": setter("eps", value=(1.0).hex()),
    "layers none": setter("layers", value=None),
    "layers empty": setter("layers", value=[]),
    "layers number": setter("layers", value=3),
    "heads many": setter("layers", 0, "heads", value=10**9),
    "heads negative": setter("layers", 0, "heads", value=-1),
    "heads text": setter("layers", 0, "heads", value="one"),
    "data short": setter("layers", 0, "data", value=[]),
    "data claimed": setter("layers", 0, "data", value=[True]),
    "target kind": setter("target", "kind", value="oracle"),
    "target list": setter("target", value=[]),
    "expression empty": setter("target", "expression", value={}),
    "expression nodes": setter("target", "expression", "nodes", value=[["var", [], "7"]]),
    "expression loop": setter("target", "expression", "nodes", 0, value=["sin", [0], None]),
    "expression variables": setter("target", "expression", "variables", value=["x", "y"]),
    "domain reversed": setter("domain", "lo", value=[(2.0).hex()]),
    "domain nan": setter("domain", "hi", value=["nan"]),
    "domain inf": setter("domain", "hi", value=["inf"]),
    "domain longer": setter("domain", "hi", value=[(1.0).hex()] * 2),
    "domain plane": lambda d: d["domain"].update(lo=[(0.0).hex()] * 2, hi=[(1.0).hex()] * 2),
    "domain names": setter("domain", "names", value=["x", "y"]),
    "domain names number": setter("domain", "names", value=4),
    "certificate empty": setter("certificate", value={}),
    "certificate status": setter("certificate", "status", value="certain"),
    "certificate bound above eps": setter("certificate", "error_upper", value=(1.0).hex()),
    "certificate bound nan": setter("certificate", "error_upper", value="nan"),
    "certificate refuted without witness": lambda d: d["certificate"].update(status="refuted", witness=None),
    "certificate boxes": setter("certificate", "boxes", value="many"),
    "certificate witness": setter("certificate", "witness", value=["x"]),
    "construction": setter("construction", value=7),
}


@pytest.mark.parametrize("name", sorted(BAD_DOCUMENTS))
def test_documents_that_do_not_fit(name, saved, tmp_path):
    with pytest.raises(ArtefactError, match=r"bad\.safetensors: \S"):
        load(rewrite(saved, tmp_path / "bad.safetensors", document=BAD_DOCUMENTS[name]))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "[]",
        "null",
        "3",
        '"x"',
        "{}",
        "[" * 100_000,
        '{"layers": ' * 2000,
        "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
    ],
)
def test_documents_that_are_no_json_object(text, saved, tmp_path):
    stored, meta = oracle.read_container(saved)
    meta["document"] = text
    meta["sha256"] = content_hash(stored, text)
    path = tmp_path / "bad.safetensors"
    path.write_bytes(serialise({k: np.ascontiguousarray(v) for k, v in stored.items()}, meta))
    with pytest.raises(ArtefactError, match=r"bad\.safetensors"):
        load(path)


def replace_array(name, value):
    return lambda arrays: arrays.update({name: value})


BAD_ARRAYS = {
    "keys missing": lambda a: a.pop("prefix.0.0.keys"),
    "readout missing": lambda a: a.pop("model.readout"),
    "one more": replace_array("model.layers.3.heads.0.query", np.zeros((1, 1))),
    "another type": replace_array("prefix.0.0.values", np.zeros((10, 1), dtype=np.float32)),
    "integers": replace_array("prefix.0.0.values", np.zeros((10, 1), dtype=np.int64)),
    "a row short": lambda a: a.update({"prefix.0.0.values": a["prefix.0.0.values"][:-1]}),
    "flat": lambda a: a.update({"prefix.0.0.values": a["prefix.0.0.values"].ravel()}),
    "no tokens": lambda a: a.update({"prefix.0.0.values": np.zeros((0, 1)), "prefix.0.0.keys": np.zeros((0, 2))}),
    "nan": lambda a: a["prefix.0.0.values"].__setitem__((0, 0), math.nan),
    "inf": lambda a: a["prefix.0.0.keys"].__setitem__((0, 0), math.inf),
    "embedding": replace_array("model.embedding", np.zeros((5, 1))),
    "transposed": lambda a: a.update({"prefix.0.0.keys": a["prefix.0.0.keys"].T}),
}


@pytest.mark.parametrize("name", sorted(BAD_ARRAYS))
def test_arrays_that_do_not_fit(name, saved, tmp_path):
    with pytest.raises(ArtefactError, match=r"bad\.safetensors"):
        load(rewrite(saved, tmp_path / "bad.safetensors", arrays=BAD_ARRAYS[name]))


@pytest.mark.parametrize("field", ["format", "version", "document", "sha256"])
def test_metadata_missing_or_changed(field, saved, tmp_path):
    with pytest.raises(ArtefactError, match=field):
        load(rewrite(saved, tmp_path / "missing", metadata=lambda m: m.pop(field)))
    with pytest.raises(ArtefactError):
        load(rewrite(saved, tmp_path / "changed", metadata=lambda m: m.update({field: m[field] + "x"})))


def test_a_stale_hash_is_noticed(saved, tmp_path):
    with pytest.raises(ArtefactError, match="sha256"):
        load(
            rewrite(
                saved,
                tmp_path / "stale",
                arrays=lambda a: a["prefix.0.0.values"].__setitem__((0, 0), 0.125),
                rehash=False,
            )
        )
    with pytest.raises(ArtefactError, match="sha256"):
        load(rewrite(saved, tmp_path / "stale", document=setter("construction", value={}), rehash=False))


def test_a_forged_certificate_is_not_believed(tmp_path):
    c = sine(eps=1e-4)  # false
    path = save(tmp_path / "honest", Artefact(c, prove(c), {}))

    def forge(document):
        document["certificate"].update(status="proved", error_upper=(1e-5).hex(), error_lower=(0.0).hex(), witness=None)
        document["certificate"].update(rounding=(1e-9).hex())

    forged = rewrite(path, tmp_path / "forged", document=forge)
    assert load(forged).certificate.proved  # that is what the file says
    assert check(forged).status is Status.REFUTED


def test_what_cannot_be_proved_again_is_said(tmp_path):
    path = save(tmp_path / "a", artefact(sine(eps=0.02)))
    assert load(path).certificate.proved
    again = check(path, max_boxes=0)
    if again.status is Status.UNDECIDED:
        assert "could not be proved again" in again.reason


def flips(data: bytes, rng) -> bytes:
    """One random damage: flipped bits, a cut, an insertion, or a repeated piece."""
    kind, at = rng.integers(5), int(rng.integers(len(data)))
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + bytes(rng.integers(0, 256, int(rng.integers(1, 9)), dtype=np.uint8)) + data[at:]
    if kind == 2:
        return data + data[at : at + 16]
    changed = bytearray(data)
    for _ in range(1 if kind == 3 else int(rng.integers(2, 30))):
        at = int(rng.integers(len(data))) if rng.random() < 0.5 else int(rng.integers(min(len(data), 2500)))
        changed[at] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def test_three_hundred_damaged_files_are_all_refused(saved, tmp_path):
    data = saved.read_bytes()
    rng = np.random.default_rng(300)
    path = tmp_path / "damaged"
    refused = 0
    for _ in range(300):
        damaged = flips(data, rng)
        if damaged == data:
            continue
        path.write_bytes(damaged)
        with pytest.raises(ArtefactError, match="damaged"):
            load(path)
        refused += 1
    assert refused >= 290


def test_loading_executes_nothing(saved, tmp_path):
    """An operation's name is looked up in a fixed list, never in a namespace."""
    marker = tmp_path / "marker"
    command = f"__import__('os').system('touch {marker}')"
    for node in ([command, [0], None], ["const", [], command], ["pow", [0], command], ["__class__", [0], None]):
        with pytest.raises(ArtefactError):
            load(
                rewrite(
                    saved,
                    tmp_path / "bad",
                    document=lambda d, node=node: d["target"]["expression"]["nodes"].append(node),
                )
            )
    assert not os.path.exists(marker)


def test_a_stored_expression_is_the_one_that_is_proved(tmp_path):
    """Changing the target, with a right hash, changes the outcome."""
    path = save(tmp_path / "a", artefact(sine()))
    assert check(path).status is Status.PROVED

    def steeper(document):
        document["target"]["expression"] = expression(apply("sin", var() * 4)).to_json()

    assert check(rewrite(path, tmp_path / "b", document=steeper)).status is Status.REFUTED
