"""The card a notebook shows for a compiled prefix: one piece of static HTML with inline SVG, no script, nothing fetched.

It proves nothing and is cheap: a few hundred float64 evaluations. Text has the page's own colour, so that it reads on a light and on
a dark ground; strokes have mid tones that read on both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from constructions.captions import downward, names_of, shortened, status_words, upward
from constructions.circuits.describe import layers_text, node_views, tokens_text
from constructions.describe import sizes, together
from constructions.plots.view import DEFAULT, View
from constructions.sampled import Sampled, circle, grid_2d, line, sampled
from verify import Box, LipschitzTarget, Sphere, Status

if TYPE_CHECKING:
    from constructions.compiled import Compiled

__all__ = ["html_repr"]

_MODEL, _ERROR, _GOOD, _BAD = "#2f8fd0", "#d9822b", "#2e9e6b", "#d9534f"
_WIDTH, _HEIGHT = 260, 120
_CURVE, _TILES, _ROWS = 200, 20, 24
"""Evaluations of a picture: 200 points of a curve, 20 x 20 tiles of a map, 24 rows of tiles in each disc of a globe."""
_SHADES = 16
"""Opacities in a globe; tiles of one shade that touch are drawn as one strip."""
_NODES = 20
"""Nodes of a circuit that are listed."""
_LONGEST = 100_000
"""Tokens (or recorded values) above which nothing is evaluated."""


def html_repr(c: Compiled) -> str:
    """Target, domain, construction, tokens, status, the eps budget as a bar, sizes and assumptions; with a picture of the fit and of
    the error in one and two dimensions, and on S^1 and S^2. Everything that comes from the user is escaped."""
    rows = "".join(
        f'<tr style="background:transparent"><th style="text-align:left;vertical-align:top;padding:2px 12px 2px 0;font-weight:600;'
        f'white-space:nowrap;background:transparent">{name}</th><td style="text-align:left;padding:2px 0;background:transparent">{cell}</td></tr>'
        for name, cell in _facts(c)
    )
    return (
        '<div style="color:inherit;background:transparent;font-size:13px;line-height:1.45;max-width:860px">'
        '<div style="font-weight:700;margin-bottom:4px">Compiled prefix</div>'
        '<div style="display:flex;flex-wrap:wrap;gap:20px;align-items:flex-start">'
        f'<table style="border-collapse:collapse;border:none;margin:0;font-size:13px;flex:0 1 540px"><tbody>{rows}</tbody></table>'
        f'<div style="flex:0 0 {_WIDTH}px;max-width:{_WIDTH}px">{_pictures(c)}</div></div></div>'
    )


def _facts(c: Compiled) -> list[tuple[str, str]]:
    cert = c.certificate
    variant = next((str(c.grid[key]) for key in ("family", "lattice") if key in c.grid), "")
    sides = repr(c.domain)
    if isinstance(c.domain, Box):
        ends = zip(names_of(c), c.domain.lo, c.domain.hi, strict=True)
        sides = ", ".join(f"{n} ∈ [{a:.6g}, {b:.6g}]" for n, a, b in ends)
    formula = f'<code style="background:transparent;color:inherit">{_text(str(c.target), 160)}</code>'
    facts = [
        ("target", f'{formula} <span style="opacity:.7">({_text(c.target.provenance)})</span>'),
        ("domain", _text(sides, 160)),
        ("construction", _text(c.method + (f" ({variant})" if variant else ""))),
        ("tokens", str(c.length)),
        ("error", _status(c)),
        (f"eps = {c.eps:.4g}", _budget_bar(c)),
        *((name, f"{value:.3g}") for name, value in sizes(c)),
    ]
    if c.claim.circuit is not None:
        facts[4:4] = [("layers", _text(f"{layers_text(c)} of {tokens_text(c)} tokens")), ("nodes", _nodes(c))]
    if cert.witness is not None:
        place = ", ".join(f"{name} = {w:.6g}" for name, w in zip(names_of(c), cert.witness, strict=False))
        after = 1 + [name for name, _ in facts].index("error")
        facts.insert(after, ("error found", f"≥ {downward(cert.error_lower)} at {_text(place)}"))
    assumed = "".join(f'<li style="margin:0">{_text(a, 400)}</li>' for a in cert.assumptions)
    facts.append(("assumes", f'<ul style="margin:0;padding-left:16px;font-size:12px;opacity:.85">{assumed}</ul>'))
    return facts


def _nodes(c: Compiled) -> str:
    """A line for each node of a circuit, the first twenty."""
    views = node_views(c)
    lines = [
        f"<div>{_text(v.name)} = {_text(v.function, 60)}, {_text(', '.join(v.bound), 80)} "
        f'<span style="opacity:.7">(layer {v.layer}, {v.tokens} tokens)</span></div>'
        for v in views[:_NODES]
    ]
    more = f"<div>and {len(views) - _NODES} more: see explain()</div>" if len(views) > _NODES else ""
    return f'<div style="font-size:12px">{"".join(lines)}{more}</div>'


def _text(text: str, width: int = 200) -> str:
    return escape(shortened(str(text), width), quote=True)


def _status(c: Compiled) -> str:
    cert = c.certificate
    marks = {Status.PROVED: ("✓", _GOOD), Status.REFUTED: ("✗", _BAD), Status.UNDECIDED: ("?", _ERROR)}
    mark, colour = marks[cert.status]
    if not c.rechecked:
        mark, colour = "○", _ERROR  # a file's claim, whatever it is
    words = f'<b><span style="color:{colour}">{mark}</span> {_text(status_words(c))}</b>'
    if cert.conditional and cert.proved:
        words += f'<br/><span style="border:1px solid {_ERROR};border-radius:3px;padding:0 4px">conditional: the Lipschitz constant is declared, not proved</span>'
    if cert.status is Status.UNDECIDED and cert.reason:
        words += f"<br/>{_text(cert.reason)}"
    return words


def _budget_bar(c: Compiled) -> str:
    """What the approximation takes of eps, what rounding adds, what is left."""
    cert = c.certificate
    if not (math.isfinite(cert.error_upper) and math.isfinite(cert.rounding)):
        return "no bound was reached"
    unused = downward(max(c.eps - cert.error_upper, 0.0))
    if together(cert):
        real, rounding = cert.error_upper, 0.0
        parts = [("approximation and rounding", upward(real)), ("unused", unused)]
    else:
        real, rounding = max(cert.error_upper - cert.rounding, 0.0), cert.rounding
        parts = [("approximation", upward(real)), ("rounding", upward(rounding)), ("unused", unused)]
    label = ", ".join(f"{name} {value}" for name, value in parts)
    shares = [min(max(x / c.eps, 0.0), 1.0) for x in (real, rounding)]
    first, second = (_WIDTH * s for s in shares)
    bar = (
        f'<rect x="0" y="1" width="{first:.1f}" height="10" fill="{_MODEL}"/>'
        f'<rect x="{first:.1f}" y="1" width="{min(second, _WIDTH - first):.1f}" height="10" fill="{_ERROR}"/>'
        f'<rect x=".5" y=".5" width="{_WIDTH - 1}" height="11" fill="none" stroke="currentColor" stroke-opacity=".5"/>'
    )
    drawing = f'<svg role="img" aria-label="{label}" width="{_WIDTH}" height="12" viewBox="0 0 {_WIDTH} 12">{bar}</svg>'
    marks = [f'<span style="color:{colour}">■</span>' for colour in (_MODEL, _ERROR)]
    squares = [*marks[: len(parts) - 1], "□"]
    words = "&#8194;".join(f"{square} {name} {value}" for square, (name, value) in zip(squares, parts, strict=True))
    return f'{drawing}<br/><span style="font-size:12px">{words}</span>'


def _pictures(c: Compiled) -> str:
    size = max(c.length, len(c.target.points) if isinstance(c.target, LipschitzTarget) else 0)
    if not isinstance(c.domain, (Box, Sphere)) or size > _LONGEST:
        return ""
    dimension = c.domain.m if isinstance(c.domain, Sphere) else c.domain.dimension
    if dimension > 2:
        return ""
    with np.errstate(all="ignore"):
        if dimension == 1:
            around = isinstance(c.domain, Sphere)
            s = sampled(c, circle(_CURVE)[1] if around else line(c, 0, _CURVE))
            return _fit_curve(c, s, ", against the angle" if around else "") + _error_curve(c, s)
        if isinstance(c.domain, Sphere):
            discs = [_disc(view) for view in (View.towards(*DEFAULT), View.towards(*DEFAULT).opposite())]
            s, draw = sampled(c, np.concatenate(discs)), _globe
        else:
            s, draw = sampled(c, grid_2d(c, _TILES)[2]), _tiles
        name = "model, output 0" if s.model.shape[1] > 1 else "model"
        kind = "worst-case error" if isinstance(c.target, LipschitzTarget) else "error"
        model, error = s.model[:, 0], s.error
        low, high = float(np.nanmin(model)), float(np.nanmax(model))
        sides = "; front and back" if draw is _globe else ""
        fit = draw(model, f"{name}, {low:.3g} to {high:.3g}{sides}", _MODEL, low, high)
        return fit + draw(error, f"measured {kind} (sampled), 0 to eps", _ERROR, 0.0, c.eps)


def _figure(title: str, inside: str, framed: bool = True) -> str:
    frame = (
        ""
        if not framed
        else f'<rect x=".5" y=".5" width="{_WIDTH - 1}" height="{_HEIGHT - 1}" fill="none" stroke="currentColor" stroke-opacity=".4"/>'
    )
    return (
        f'<div style="font-size:12px;margin-bottom:6px"><div>{title}</div>'
        f'<svg role="img" aria-label="{title}" width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}">{inside}{frame}</svg></div>'
    )


def _path(y: Iterable[float], colour: str, width: float, opacity: float = 1.0) -> str:
    """A polyline through heights in [0, 1] at equal steps; a height that is no number interrupts it."""
    heights = list(y)
    parts, pen = [], "M"
    for i, v in enumerate(heights):
        if not math.isfinite(v):
            pen = "M"
            continue
        parts.append(f"{pen}{i * _WIDTH / (len(heights) - 1):.1f} {(_HEIGHT - 6) * (1 - v) + 3:.1f}")
        pen = "L"
    return f'<path d="{"".join(parts)}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-opacity="{opacity}" stroke-linejoin="round"/>'


def _fit_curve(c: Compiled, s: Sampled, where: str) -> str:
    every = np.concatenate([s.low, s.high, s.model])
    low, high = float(np.nanmin(every)), float(np.nanmax(every))
    span = high - low or 1.0
    drawn = ""
    for i in range(s.model.shape[1]):
        for side in (s.low, s.high) if isinstance(c.target, LipschitzTarget) else (s.low,):
            drawn += _path((side[:, i] - low) / span, "currentColor", 4, 0.25)
        drawn += _path((s.model[:, i] - low) / span, _MODEL, 1.6)
    what = "range of the target (grey)" if isinstance(c.target, LipschitzTarget) else "target (grey)"
    return _figure(f"{what} and model (blue), {low:.3g} to {high:.3g}{where}", drawn)


def _error_curve(c: Compiled, s: Sampled) -> str:
    """Error on a logarithmic scale from eps / 1000 to 2 eps, and eps itself."""
    bottom, top = math.log10(c.eps) - 3, math.log10(2 * c.eps)

    def height(e: float) -> float:
        share = (math.log10(max(e, 1e-300)) - bottom) / (top - bottom) if math.isfinite(e) else math.nan
        return min(max(share, 0.0), 1.0) if math.isfinite(share) else math.nan

    limit = (_HEIGHT - 6) * (1 - height(c.eps)) + 3
    dashes = f'<path d="M0 {limit:.1f}H{_WIDTH}" stroke="currentColor" stroke-dasharray="5 4" stroke-width="1.2"/>'
    kind = "worst-case error" if isinstance(c.target, LipschitzTarget) else "error"
    return _figure(
        f"measured {kind} (sampled, log scale); dashes: eps", _path(map(height, s.error), _ERROR, 1.2) + dashes
    )


def _tiles(values: np.ndarray, title: str, colour: str, low: float, high: float) -> str:
    """Tiles whose opacity grows with the value; the first coordinate to the right, the second upwards."""
    image = values.reshape(_TILES, _TILES)
    w, h = _WIDTH / _TILES, _HEIGHT / _TILES
    drawn = ""
    for j in range(_TILES):
        for i in range(_TILES):
            v = float(image[j, i])
            if math.isfinite(v):
                share = min(max((v - low) / ((high - low) or 1.0), 0.0), 1.0)
                drawn += f'<rect x="{i * w:g}" y="{(_TILES - 1 - j) * h:g}" width="{w:g}" height="{h:g}" fill-opacity="{share:.2f}"/>'
    return _figure(title, f'<g fill="{colour}">{drawn}</g>')


def _chords() -> list[tuple[float, np.ndarray]]:
    """The rows of tiles of the unit disc, from the top: height of the middle, and the tiles' edges from rim to rim."""
    heights = 1 - (np.arange(_ROWS) + 0.5) * 2 / _ROWS
    found = []
    for v in heights:
        half = math.sqrt(1 - v * v)
        found.append((float(v), np.linspace(-half, half, max(3, round(half * _ROWS)) + 1)))
    return found


def _disc(view: View) -> np.ndarray:
    """The points of the sphere at the tiles' middles, row by row."""
    places = [(u, v) for v, edges in _chords() for u in (edges[:-1] + edges[1:]) / 2]
    u, v = np.array(places).T
    return view.points(u, v)


def _globe(values: np.ndarray, title: str, colour: str, low: float, high: float) -> str:
    """Front and back of the sphere as discs of tiles whose opacity grows with the value."""
    shares = np.clip((values - low) / ((high - low) or 1.0), 0.0, 1.0)
    level = np.where(np.isfinite(shares), np.round(np.nan_to_num(shares) * (_SHADES - 1)), 0).astype(int)
    radius, h = _HEIGHT / 2 - 3, round((_HEIGHT - 6) / _ROWS, 2)
    strips: list[list[str]] = [[] for _ in range(_SHADES)]
    rims, k = "", 0
    for centre in (_WIDTH / 2 - radius - 4, _WIDTH / 2 + radius + 4):
        for v, edges in _chords():
            row = level[k : k + len(edges) - 1]
            k += len(row)
            ends = np.flatnonzero(np.diff(row, append=-1)) + 1
            top = round(_HEIGHT / 2 - v * radius - h / 2, 2)
            for a, b in zip(np.concatenate([[0], ends[:-1]]), ends, strict=True):
                left, right = centre + edges[a] * radius, centre + edges[b] * radius
                strips[row[a]].append(f"M{left:.1f} {top:g}H{right:.1f}v{h:g}H{left:.1f}z")
        rims += f'<circle cx="{centre:g}" cy="{_HEIGHT / 2:g}" r="{radius:g}"/>'
    drawn = "".join(
        f'<path d="{"".join(parts)}" fill-opacity="{i / (_SHADES - 1):.2f}"/>'
        for i, parts in enumerate(strips)
        if i and parts
    )
    rim = f'<g fill="none" stroke="currentColor" stroke-opacity=".5">{rims}</g>'
    return _figure(title, f'<g fill="{colour}" shape-rendering="crispEdges">{drawn}</g>{rim}', framed=False)
