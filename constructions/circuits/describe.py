"""A circuit in words: its nodes with what they read and cost, its layers, and the backbone under it.

Everything is read off the claim (the circuit, the places of its nodes, the prefix), so that a result loaded from a file is described like
a fresh one. Shares of eps are estimates, to first order and from sampled errors; the proof adds up bounds of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import sympy as sp

from constructions.captions import shortened
from constructions.circuits.sensitivity import sensitivities
from constructions.circuits.sequence_slots import SequenceSlots
from verify import Box, Expression, Sequences
from verify.circuit import CircuitHint, used_variables
from verify.circuit_ranges import ranges
from verify.circuit_sequences import taking_part

if TYPE_CHECKING:
    from constructions.compiled import Compiled

__all__ = [
    "NodeView",
    "explained",
    "hint_of",
    "layer_tokens",
    "layers_text",
    "node_sensitivities",
    "node_views",
    "output_name",
    "plain",
    "slot_names",
    "tokens_text",
]

_LONG_NUMBER = 8
"""Characters of a rational number above which it is shown as a decimal."""


@dataclass(frozen=True)
class NodeView:
    """A node as it is shown. layer, head, slot: its place; function: in the arguments; reads: what these are; tokens: of its head;
    error: the sampled error that the head was built for; sources: indices of the variables (from 0) and nodes (from n) that it reads."""

    name: str
    layer: int
    head: int
    slot: int
    function: str
    arguments: tuple[str, ...]
    reads: tuple[str, ...]
    tokens: int
    error: float
    sources: tuple[int, ...]

    @property
    def bound(self) -> tuple[str, ...]:
        """What each argument is, as text: "z = x + y"."""
        return tuple(f"{name} = {read}" for name, read in zip(self.arguments, self.reads, strict=True))


def hint_of(c: Compiled) -> CircuitHint:
    """The circuit that the model holds. Raises ValueError for a result that is no circuit."""
    if c.claim.circuit is None:
        raise ValueError(
            f"method = {c.method!r}: this result is no circuit, it has no nodes. Compile with method='circuit', or read `keys` and `values`."
        )
    return c.claim.circuit


def plain(expression: Expression) -> tuple[str, ...]:
    """The outputs as text, numbers rounded for reading."""
    from constructions.plots.convergence import to_sympy  # plots import this module

    shown = []
    for e in to_sympy(expression):
        long = {q: sp.Float(float(q), 5) for q in e.atoms(sp.Rational) if len(str(q)) > _LONG_NUMBER}
        shown.append(sp.sstr(e.xreplace(long), full_prec=False))
    return tuple(shown)


def node_views(c: Compiled) -> tuple[NodeView, ...]:
    """Every node with its place, function, reads and tokens. Raises ValueError for a result that is no circuit."""
    hint = hint_of(c)
    letter = _letter(hint.circuit.variables)
    views = []
    for i, (node, place, error) in enumerate(zip(hint.circuit.nodes, hint.places, hint.tolerances, strict=True)):
        arguments = tuple(letter + name[1:] for name in node.function.variables)
        function = plain(replace(node.function, variables=arguments))[0]
        sources = tuple(sorted(used_variables(node.reads)))
        tokens = _tokens(c, place[0], place[1])
        views.append(NodeView(f"n{i}", *place, function, arguments, plain(node.reads), tokens, error, sources))
    return tuple(views)


def _letter(variables: Sequence[str]) -> str:
    """What arguments of nodes are shown as: z, unless that is (or starts) the name of a variable."""
    return next((letter for letter in "zutsvq" if not any(name.startswith(letter) for name in variables)), "z")


def _tokens(c: Compiled, layer: int, head: int) -> int:
    """0 for a place that the model does not have, as a file may name one."""
    keys = c.prefix.keys
    return len(keys[layer][head]) if 0 <= layer < len(keys) and 0 <= head < len(keys[layer]) else 0


def node_sensitivities(c: Compiled) -> list[float]:
    """How much an error of each node moves the worst output, to first order. Raises ValueError for a result that is no circuit."""
    hint = hint_of(c)
    assert isinstance(c.domain, (Box, Sequences))
    box = c.domain.flattened if isinstance(c.domain, Sequences) else c.domain
    return sensitivities(hint.circuit, ranges(hint.circuit, box))


def slot_names(c: Compiled) -> tuple[str, ...]:
    """Names of the stream's coordinates: inputs, nodes (n0, or n0+n3 where several are added up), outputs (out0, ...), and "1".

    Raises ValueError for a result that is no circuit.
    """
    hint, d = hint_of(c), len(c.model.offset)
    names = [f"slot {s}" for s in range(d)]
    variables = hint.circuit.variables
    if isinstance(c.domain, Sequences):
        variables = SequenceSlots.of(c.model, c.domain.T).before_work(variables)[:d]
    for s, name in enumerate(variables):
        names[s] = name
    for s in {s for _, _, s in hint.places if 0 <= s < d}:
        names[s] = "+".join(f"n{i}" for i, place in enumerate(hint.places) if place[2] == s)
    for i, row in enumerate(c.model.readout):
        if (row != 0).sum() == 1:
            names[int(abs(row).argmax())] = f"out{i}"
    names[-1] = "1"
    return tuple(names)


def layer_tokens(c: Compiled) -> tuple[tuple[int, ...], ...]:
    """Tokens of every head, by layer."""
    return tuple(tuple(len(keys) for keys in layer) for layer in c.prefix.keys)


def layers_text(c: Compiled) -> str:
    """ "2 layers, 3 heads"."""
    counts = [len(layer) for layer in layer_tokens(c)]
    return f"{_count(len(counts), 'layer')}, {_count(sum(counts), 'head')}"


def tokens_text(c: Compiled) -> str:
    """The tokens of every head, heads of a layer joined by +, layers by |: "3 + 4 | 5"."""
    return " | ".join(" + ".join(map(str, layer)) for layer in layer_tokens(c))


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def explained(c: Compiled) -> list[str]:
    """Lines about the circuit: backbone, layers with their heads and nodes, outputs. Raises ValueError for a result that is no circuit."""
    return ["Circuit", *("  " + line for line in (*_backbone(c), *_layers(c), *_outputs(c)))]


def _backbone(c: Compiled) -> Iterator[str]:
    names, k = slot_names(c), c.model.outputs
    n, d = c.model.inputs, len(names)
    if isinstance(c.domain, Sequences):
        yield from _token_backbone(c, c.domain.T)
        return
    heads = ", ".join(str(len(layer)) for layer in layer_tokens(c))
    yield f"backbone  a residual stream of {d} slots: {', '.join(names)}"
    yield f"          ({_count(n, 'input')}, {d - n - k - 1} for work, {_count(k, 'output')}, and the constant 1)"
    yield f"          {_count(len(c.model.layers), 'layer')} of {heads} heads, identity weights: the same for every function of these sizes"


def _token_backbone(c: Compiled, T: int) -> Iterator[str]:
    slots, d = SequenceSlots.of(c.model, T), len(c.model.offset)
    heads = ", ".join(str(len(layer)) for layer in layer_tokens(c))
    yield f"backbone  every token has a residual stream of {d} slots: {', '.join(slot_names(c))}"
    kept = f"{_count(slots.n, 'own input')}, {_count(T, 'position')}, {slots.gatherers * slots.n} gathered"
    yield f"          ({kept}, {slots.work} for work, {_count(slots.k, 'output')}, and the constant 1)"
    yield f"          {_count(len(c.model.layers), 'layer')} of {heads} heads, fixed weights: the same for every function of these sizes"
    order = "from itself on, the first after the last" if slots.turned else "in their order"
    yield f"          layer 0 gathers: each token sees all tokens {order}; below, variables are what token 1 sees"


def _layers(c: Compiled) -> Iterator[str]:
    views, weights, names = node_views(c), node_sensitivities(c), slot_names(c)
    for l, tokens in enumerate(layer_tokens(c)):
        yield f"layer {l}   {_count(len(tokens), 'head')}, {_count(sum(tokens), 'token')}"
        for view, weight in zip(views, weights, strict=True):
            if view.layer == l:
                where = names[view.slot] if 0 <= view.slot < len(names) else "?"
                yield f"  {view.name} = {shortened(view.function, 160)},  {shortened(', '.join(view.bound), 240)}"
                yield f"      head {view.head}, {_count(view.tokens, 'token')}, adds to slot {view.slot} ({where})"
                if isinstance(c.domain, Sequences):
                    yield from _silent_at(c, int(view.name[1:]), c.domain.T)
                share = weight * view.error / c.eps
                yield f"      sensitivity {weight:.3g}, error {view.error:.3g}: {100 * share:.2g} % of eps"
    total = sum(w * v.error for w, v in zip(weights, views, strict=True))
    yield f"shares    {100 * total / c.eps:.3g} % of eps together (estimated: sampled errors, to first order; the proof adds up its own bounds)"


def _silent_at(c: Compiled, i: int, T: int) -> Iterator[str]:
    """Where a node takes part, unless at every token."""
    read_out = tuple(int(abs(row).argmax()) for row in c.model.readout)
    where = [str(t + 1) for t in range(T) if i in taking_part(hint_of(c), read_out, t)]
    if len(where) < T:
        yield f"      at token{'s' * (len(where) != 1)} {', '.join(where)}; elsewhere one token of the head keeps it silent"


def _outputs(c: Compiled) -> Iterator[str]:
    for i, text in enumerate(plain(hint_of(c).circuit.outputs)):
        yield f"{'outputs ' if i == 0 else ' ' * 8}  {output_name(c, i)} = {shortened(text, 240)}"


def output_name(c: Compiled, i: int) -> str:
    """What output i of the circuit is called: "out0"; on sequences "token 2 out0"."""
    if not isinstance(c.domain, Sequences):
        return f"out{i}"
    token, output = divmod(i, c.model.outputs)
    return f"token {token + 1} out{output}"
