"""Pieces of the report's pages: plain HTML that opens offline, with plotly's script in a file beside it."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import plotly.graph_objects as go
from jinja2 import Environment
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from unisr.paths import whole_file
from unisr.registry import Card

PLOTLY_JS = "plotly.min.js"
LONG = 40
"""Characters that a cell of a table keeps on one line; a longer text may break."""


@dataclass(frozen=True)
class Section:
    """One part of the page with an entry in its table of contents."""

    key: str
    """Anchor: letters, digits and dashes."""
    title: str
    body: str
    """HTML."""


def page(title: str, lead: str, sections: Sequence[Section], *, plotly_js: str) -> str:
    """The whole page; `lead` is HTML, `plotly_js` the relative path of plotly's script."""
    source = files("unisr.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    parts = [{"key": s.key, "title": s.title, "body": Markup(s.body)} for s in sections]
    template = Environment(autoescape=True).from_string(source)
    return template.render(title=title, lead=Markup(lead), sections=parts, plotly=plotly_js)


def write(path: Path, page: str) -> None:
    """Store a page whole, in place of an older one."""
    with whole_file(path) as draft:
        draft.write_text(page, encoding="utf-8")


def write_assets(folder: Path) -> Path:
    """Put plotly's script into `folder` (once per version of plotly) and return its path."""
    script = get_plotlyjs()
    path = folder / PLOTLY_JS
    if not path.exists() or path.stat().st_size != len(script.encode()):
        write(path, script)
    return path


def figure(plot: go.Figure, key: str) -> str:
    """An interactive figure as a fragment: `page` draws it when the reader comes to it, so that a long page opens fast.

    The same figure and key give the same text.
    """
    # A script element ends at the first "</", whatever stands in a string.
    text = plot.to_json().replace("<", "\\u003c")
    height = f"height:{plot.layout.height or 450:g}px"
    return (f'<div class="figure" id="{html.escape(key)}" style="{height}">'
            f'<script type="application/json">{text}</script></div>')


def address(target: Path, start: Path) -> str:
    """`target` as a relative link on a page in the folder `start`."""
    return quote(Path(os.path.relpath(target, start)).as_posix())


def link(url: str, text: str, *, hint: str = "") -> Markup:
    """A link to a relative address; `hint` is its tooltip."""
    title = Markup(' title="{}"').format(hint) if hint else ""
    return Markup('<a href="{}"{}>{}</a>').format(url, title, text)


def table(rows: Sequence[Mapping[str, object]], *, caption: str = "") -> str:
    """Rows with the same keys as a table that `page` makes sortable; a cell that is no `Markup` stands as text."""
    if not rows:
        return "<p class='muted'>none</p>"
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in rows[0])
    body = "\n".join(f"<tr>{''.join(map(_cell, row.values()))}</tr>" for row in rows)
    told = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return f'<div class="scroll"><table>{told}<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def _cell(value: object) -> str:
    long = not isinstance(value, Markup) and len(str(value)) > LONG
    return f"<td{' class=long' * long}>{escape(value)}</td>"


def definitions(values: Mapping[str, Any]) -> str:
    """Names with their values; sequences become lists of lines, empty values are left out."""
    parts = []
    for name, value in values.items():
        lines = list(value) if isinstance(value, (list, tuple)) else [value]
        shown = "<br>".join(html.escape(str(line)) for line in lines)
        if shown:
            parts.append(f"<dt>{html.escape(name)}</dt><dd>{shown}</dd>")
    return f"<dl>{''.join(parts)}</dl>"


def lines(texts: Sequence[str]) -> str:
    """Texts as a list."""
    return "<ul>" + "".join(f"<li>{html.escape(text)}</li>" for text in texts) + "</ul>"


def details(summary: str, body: str, *, opened: bool = False) -> str:
    """A part that the reader can fold away."""
    return f"<details{' open' if opened else ''}><summary>{html.escape(summary)}</summary>{body}</details>"


def card(card: Card) -> str:
    """A method's card without its name."""
    fields = {"family": card.family, "tasks": ", ".join(card.tasks), "paper": card.paper,
              "signals": ", ".join(card.signals), "loss": card.loss, "departures": card.departures,
              "reads tables of": ", ".join(card.requires), "version": card.version}
    return definitions(fields)
