"""A compiled prefix in words: its repr, and the proof with its numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from constructions.captions import downward, upward
from constructions.circuits.describe import explained, layers_text, tokens_text
from verify import Certificate, LipschitzTarget, Sequences, Sphere, Status

if TYPE_CHECKING:
    from constructions.compiled import Compiled

__all__ = ["budget", "explain", "sizes", "status_line", "text_repr", "together"]


def status_line(c: Compiled) -> str:
    """What is known, in words that cannot be mistaken for one another."""
    cert = c.certificate
    if cert.status is Status.PROVED:
        words = f"PROVED sup error <= {upward(cert.error_upper, 4)}"
        if cert.exceptional:
            words += f" OUTSIDE A SET of measure <= {upward(cert.exceptional)}"
        if cert.lp is not None and cert.exceptional:
            words += f", L^{cert.lp[0]:g} error <= {upward(cert.lp[1])} everywhere"
        if cert.conditional:
            words += ", ON CONDITION of the declared Lipschitz constant"
    elif cert.status is Status.REFUTED:
        words = f"REFUTED sup error > {downward(cert.error_lower, 4)}"
    else:
        words = f"UNDECIDED ({cert.reason})"
    return words if c.rechecked else words + "  [as stored in the file; verify.check proves it again]"


def together(cert: Certificate) -> bool:
    """Whether the proof bounds approximation and rounding as one: by balls through all layers, or through a circuit."""
    return cert.route.startswith(("a posteriori: balls", "a posteriori: a circuit"))


def budget(cert: Certificate) -> list[tuple[str, float]]:
    """The eps budget: what the real function takes, what float64 execution adds, what is left. A proof through several layers bounds
    the first two together."""
    unused = ("unused", max(cert.eps - cert.error_upper, 0.0))
    if together(cert):
        return [("approximation and rounding", cert.error_upper), unused]
    real = max(cert.error_upper - cert.rounding, 0.0)
    return [
        ("approximation (real arithmetic)", real),
        ("rounding of the forward pass", cert.rounding),
        unused,
    ]


def _short(text: str, width: int = 100) -> str:
    return text if len(text) <= width else text[: width - 4] + " ..."


def sizes(c: Compiled) -> list[tuple[str, float]]:
    """What rounding depends on; of a circuit the keys themselves, as no single range of logits belongs to it."""
    return [("max|logit|" if c.claim.circuit is None else "max|key|_1", c.max_logit), ("max|value|", c.max_value)]


def text_repr(c: Compiled) -> str:
    """One screen: target, domain, construction, tokens, proved bound, budget, sizes."""
    cert = c.certificate
    parts = ", ".join(f"{name} {value:.3g}" for name, value in budget(cert))
    rows = [
        ("target", _short(str(c.target))),
        ("domain", repr(c.domain)),
        (
            "construction",
            f"{c.method}"
            + (
                f" ({c.grid['family']})"
                if "family" in c.grid
                else f" ({c.grid['lattice']})"
                if "lattice" in c.grid
                else ""
            ),
        ),
        ("tokens", str(c.length)),
        *([] if c.claim.circuit is None else [("layers", f"{layers_text(c)} of {tokens_text(c)} tokens")]),
        ("error", status_line(c)),
        ("eps", f"{c.eps:.4g} = {parts}"),
        ("sizes", ", ".join(f"{name} {value:.3g}" for name, value in sizes(c))),
    ]
    return "Compiled prefix\n" + "\n".join(f"  {name:<13}{text}" for name, text in rows)


def explain(c: Compiled) -> str:
    """The proof with its numbers: the claim, the construction's a-priori budget, what the kernel proved and assumed, the lower bound."""
    cert = c.certificate
    lines = [
        "Claim",
        f"  |g(x) - f(x)| <= {c.eps:.6g} for every x in {c.domain!r}, maximum over {c.target.outputs} output(s)",
        f"  f = {_short(str(c.target), 300)}   [{c.target.provenance}]",
        f"  {_formula(c)}, {c.length} tokens, {c.method} construction",
        "",
    ]
    if c.claim.circuit is not None:
        lines += [*explained(c), ""]
    if c.terms:
        lines.append("A-priori budget (the construction's theorem; not needed by the proof)")
        for t in c.terms:
            lines.append(f"  {t.name:<16}{t.value:>12.4g}   {t.inequality}   [{t.source}]")
        lines.append(f"  {'total':<16}{sum(t.value for t in c.terms):>12.4g}")
        lines.append("")
    stored = "" if c.rechecked else ", as stored in the file: not proved again"
    lines.append(f"Proof (by the kernel, from the stored numbers{stored})")
    distance = "angle(x, z_j)" if isinstance(c.domain, Sphere) else "|x - z_j|"
    how = f"worst case over the Lipschitz class: sum_j w_j (L {distance} + |v_j - y_j|)"
    lines.append(f"  route           {cert.route or 'not recorded'}")
    lines += [f"  bounded         {how}"] if isinstance(c.target, LipschitzTarget) else []
    lines.append(f"  boxes           {cert.boxes}")
    for name, value in budget(cert):
        lines.append(f"  {name:<32}{upward(value, 4):>12}")
    lines.append(
        f"  {'proved upper bound':<32}{upward(cert.error_upper, 4):>12}   <= eps = {cert.eps:.4g}"
        if cert.proved
        else f"  status          {cert.status}: {cert.reason}"
    )
    where = "" if cert.witness is None else f"   attained at ({', '.join(f'{w:.6g}' for w in cert.witness)})"
    if cert.exceptional:
        lines.append(f"  {'outside a set of measure':<32}{upward(cert.exceptional):>12}   relative to the domain")
    if cert.lp is not None:
        lines.append(f"  {f'L^{cert.lp[0]:g} error over everything':<32}{upward(cert.lp[1], 4):>12}")
    lines.append(f"  {'proved lower bound':<32}{downward(cert.error_lower, 4):>12}{where}")
    lines.append(f"  {'status':<32}{status_line(c)}")
    lines.append("Assumes")
    lines += [f"  - {a}" for a in cert.assumptions]
    if c.attempts:
        lines += ["Search"] + [f"  - {method}: {length} tokens, {status}" for method, length, status in c.attempts]
    lower = c.lower_bound
    lines += ["", "Length", f"  {c.length} tokens built" + ("" if lower is None else f"; {lower!r}")]
    if c.theorem is not None:
        lines += ["", "Theorem", *("  " + line for line in str(c.theorem).splitlines())]
        promised = c.theorem.tokens() if c.theorem.bound is not None else None
        if promised is not None:
            lines.append(f"  built {c.length} <= promised {promised}")
    return "\n".join(lines)


def _formula(c: Compiled) -> str:
    """What the model computes, in one line."""
    if isinstance(c.domain, Sequences):
        heads = [len(layer.heads) for layer in c.model.layers]
        return f"g: a transformer of {len(heads)} attention layers with {', '.join(map(str, heads))} heads"
    if c.claim.circuit is not None:
        return f"g: a residual stream of {len(c.model.offset)} slots through {layers_text(c)}, each g_h = sum_j w_j V_j, w = softmax(<K_j, stream>)"
    if c.method == "core":
        return "g(x) = sum_j e^(<a_j, x> + b_j) v_j"
    if c.method == "classical":
        longest = c.claim.sequence_length
        return f"g(x) = sum_j e^<a_j, x> v_j / (T + sum_j e^<a_j, x>) beside any T = 1..{longest} data tokens"
    return "g(x) = sum_j w_j(x) v_j, w = softmax(<a_j, x> + b_j)"
