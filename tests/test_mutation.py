"""Changed files: whenever a changed number makes the claim false, `check` does not say proved; and a witness is a witness."""

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import oracle
import pytest
from formulas import apply, claim, fitted, fitted_bernstein, lift, target, var
from tampering import rewrite

from verify import (
    Artefact,
    ArtefactError,
    Claim,
    GridTarget,
    Head,
    Layer,
    LipschitzTarget,
    Prefix,
    Status,
    Transformer,
    check,
    forward,
    prove,
    save,
)


def tightly(c: Claim, slack: float = 1.02) -> Claim:
    """The same claim with eps just above its sampled error."""
    axes = [
        np.linspace(a, b, 4001 if c.domain.dimension == 1 else 101)
        for a, b in zip(c.domain.lo, c.domain.hi, strict=True)
    ]
    points = np.stack([m.ravel() for m in np.meshgrid(*axes, indexing="ij")], axis=1)
    error = np.abs(forward(c.model, c.prefix, points) - c.target.evaluate(points)).max()  # pyright: ignore
    return Claim(c.model, c.prefix, c.target, c.domain, float(error) * slack)


def mixing(c: Claim) -> Claim:
    """The same function in a model whose frozen matrices are not selections."""
    rng = np.random.default_rng(5)
    head = c.model.layers[0].heads[0]
    d = head.query.shape[0]
    mix, out = rng.standard_normal((d, d)) + 2 * np.eye(d), np.array([[2.0]])
    model = Transformer(c.model.embedding, c.model.offset, (Layer((Head(mix @ head.query, out),)),), np.array([[0.5]]))
    return Claim(
        model, Prefix(((c.prefix.keys[0][0] @ np.linalg.inv(mix),),), c.prefix.values), c.target, c.domain, c.eps
    )


def sine() -> Claim:
    f = target(apply("sin", var() * 3) + lift(Fraction(1, 3)))
    return tightly(claim(*fitted_bernstein(f, (-1, 1), 9), f, [(-1, 1)], 1.0))


def plane() -> Claim:
    f = target(apply("cos", var(0) * 2 + var(1) * Fraction(1, 3)), n=2)
    return tightly(claim(*fitted(f, [(-1, 1), (0, 1)], 4), f, [(-1, 1), (0, 1)], 1.0))


def kink() -> Claim:
    f = target(apply("abs", var() - Fraction(1, 8)))
    return tightly(claim(*fitted(f, [(-1, 1)], 7), f, [(-1, 1)], 1.0))


def grid() -> Claim:
    f = GridTarget((np.array([0.0, 0.3, 0.7, 1.0]),), np.array([[0.1], [1.0], [-0.5], [0.4]]), "linear")
    centres = np.linspace(0, 1, 8)
    x = np.linspace(0, 1, 200)[:, None]
    logits = 60 * x * centres - 30 * centres**2
    weights = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return tightly(
        claim(
            60 * centres[:, None],
            -30 * centres**2,
            np.linalg.lstsq(weights, f.evaluate(x), rcond=1e-10)[0],
            f,
            [(0, 1)],
            1.0,
        )
    )


def black_box() -> Claim:
    points = ((np.arange(8) + 0.5) / 8)[:, None]
    values = np.abs(points - 0.4)
    return claim(
        8000 * points,
        -4000 * (points**2).sum(axis=1),
        values,
        LipschitzTarget(points, values, 1.0),
        [(0, 1)],
        1.03 / 16,
    )


CLAIMS = {
    "sine": sine,
    "plane": plane,
    "kink": kink,
    "grid": grid,
    "mixing": lambda: tightly(mixing(sine())),
    "black box": black_box,
}
ARRAYS = [
    "prefix.0.0.keys",
    "prefix.0.0.values",
    "model.embedding",
    "model.offset",
    "model.layers.0.heads.0.query",
    "model.layers.0.heads.0.output",
    "model.readout",
    "target.",
]
CHANGES = ["1e-6", "1e-3", "0.3", "sign", "swap", "zero", "huge", "nan"]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("mutation")
    out = {}
    for name, build in CLAIMS.items():
        c = build()
        certificate = prove(c)
        assert certificate.status is Status.PROVED, name  # every claim starts as a proved one
        out[name] = save(folder / name.replace(" ", "-"), Artefact(c, certificate, {}))
    return out


def perturb(array: np.ndarray, change: str, rng: np.random.Generator) -> None:
    """Change one entry (a non-zero one where there is any), or swap two rows."""
    if change == "swap":
        rows = rng.choice(len(array), 2, replace=len(array) < 2)
        array[rows] = array[rows[::-1]]
        return
    nonzero = np.argwhere(array != 0)
    where = tuple(nonzero[rng.integers(len(nonzero))]) if len(nonzero) else (0,) * array.ndim
    value = array[where]
    changed = {"sign": -value, "zero": 0.0, "huge": value * 1e200, "nan": math.nan}
    array[where] = changed[change] if change in changed else value * (1 + float(change))


def judge(path: Path, refine: int = 6) -> tuple[bool, float]:
    """Whether the oracle certainly finds the claim false, and the error it finds."""
    o = oracle.Oracle(path)
    n = len(o.lo)
    u = (
        np.linspace(0, 1, 33)[:, None]
        if n == 1
        else np.stack([m.ravel() for m in np.meshgrid(*[np.linspace(0, 1, 6)] * n, indexing="ij")], axis=1)
    )
    error, _ = o.largest_error(np.clip(o.lo + (o.hi - o.lo) * u, o.lo, o.hi), refine)
    return bool(error > o.eps), float(error)


def assert_honest(path: Path) -> tuple[Status | None, bool]:
    """The outcome of a check, and whether the claim is false; fails where the two contradict each other."""
    with np.errstate(all="ignore"):
        try:
            certificate = check(path, max_boxes=3000)
        except ArtefactError:
            return None, True
    false, error = judge(path)
    if false:
        assert certificate.status is not Status.PROVED, error
    if certificate.status is Status.PROVED:
        assert certificate.error_upper >= error
    if certificate.status is Status.REFUTED:
        assert certificate.witness is not None
        assert oracle.Oracle(path).error(certificate.witness) >= certificate.error_lower > certificate.eps
    return certificate.status, false


@pytest.mark.parametrize("name", sorted(CLAIMS))
def test_changed_arrays(name, files, tmp_path):
    rng = np.random.default_rng(len(name))
    falsified = 0
    for prefix in ARRAYS:
        stored = [a for a in oracle.read_container(files[name])[0] if a.startswith(prefix)]
        for array in stored:
            for change in CHANGES:
                path = rewrite(
                    files[name],
                    tmp_path / "changed",
                    arrays=lambda arrays, a=array, c=change: perturb(arrays[a], c, rng),
                )
                status, false = assert_honest(path)
                falsified += false
                if change == "nan":
                    assert status is None
    assert falsified >= 15  # the changes do falsify claims


def undecided(document: dict, eps: float) -> None:
    """Another eps, with a stored certificate that fits it."""
    document["eps"] = float(eps).hex()
    document["certificate"].update(status="undecided", eps=float(eps).hex(), error_upper=math.inf.hex())


@pytest.mark.parametrize("name", sorted(CLAIMS))
def test_changed_eps(name, files, tmp_path):
    eps = oracle.Oracle(files[name]).eps
    outcomes = []
    for factor in (0.5, 0.9, 0.97, 1 + 1e-6, 1.5):
        outcomes.append(
            assert_honest(
                rewrite(files[name], tmp_path / "changed", document=lambda d, f=factor: undecided(d, eps * f))
            )[0]
        )
    assert Status.PROVED not in outcomes[:2]
    assert outcomes[-1] is Status.PROVED


@pytest.mark.parametrize("name", ["sine", "plane", "kink", "grid", "black box"])
def test_changed_domains(name, files, tmp_path):
    for side, factor in (("hi", 1e-6), ("hi", 1e-3), ("hi", 0.5), ("lo", 0.5), ("lo", 1e-3)):

        def wider(document, side=side, factor=factor):
            a, b = (float.fromhex(document["domain"][s][0]) for s in ("lo", "hi"))
            document["domain"][side][0] = (b + factor * (b - a) if side == "hi" else a - factor * (b - a)).hex()

        path = rewrite(files[name], tmp_path / "changed", document=wider)
        if name == "grid":  # beyond the grid there is no target
            assert check(path, max_boxes=3000).status is not Status.PROVED
        else:
            assert_honest(path)


@pytest.mark.parametrize("name", ["sine", "plane", "kink"])
def test_changed_constants_of_the_target(name, files, tmp_path):
    falsified = 0
    nodes = oracle.Oracle(files[name]).document["target"]["expression"]["nodes"]
    for i, (op, args, value) in enumerate(nodes):
        replacements = []
        if op == "const":
            q = Fraction(value)
            replacements = [
                ["const", [], str(c)]
                for c in (q * (1 + Fraction(1, 10**6)), q * (1 + Fraction(1, 1000)), -q, q + 1, Fraction(0), q * 10**30)
            ]
        elif op in ("sin", "cos", "abs"):
            replacements = [[other, args, None] for other in ("sin", "cos", "abs", "tanh", "exp", "log")]
        elif op == "add":
            replacements = [["mul", args, None], ["max", args, None]]
        for node in replacements:
            path = rewrite(
                files[name],
                tmp_path / "changed",
                document=lambda d, i=i, node=node: d["target"]["expression"]["nodes"].__setitem__(i, node),
            )
            falsified += assert_honest(path)[1]
    assert falsified >= 5


def test_a_changed_lipschitz_constant_or_norm(files, tmp_path):
    for value in (1.0 + 1e-6, 1.001, 1.2, 5.0):  # a smaller one contradicts the recorded values: an empty class
        assert_honest(
            rewrite(
                files["black box"],
                tmp_path / "changed",
                document=lambda d, v=value: d["target"].update(lipschitz=v.hex()),
            )
        )
    for norm in ("l1", "linf"):  # one variable: the same claim
        assert (
            assert_honest(
                rewrite(files["black box"], tmp_path / "changed", document=lambda d, n=norm: d["target"].update(norm=n))
            )[0]
            is Status.PROVED
        )
