"""Pieces of the report page: plain HTML that opens offline, with plotly's script in a file beside it."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from unisr.registry import Card

PLOTLY_JS = "plotly.min.js"
CONFIG = {"displaylogo": False, "displayModeBar": False, "responsive": True}


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
    source = files("unisr.report").joinpath("index.html.j2").read_text(encoding="utf-8")
    parts = [{"key": s.key, "title": s.title, "body": Markup(s.body)} for s in sections]
    template = Environment(autoescape=True).from_string(source)
    return template.render(title=title, lead=Markup(lead), sections=parts, plotly=plotly_js)


def write_assets(folder: Path) -> Path:
    """Put plotly's script into `folder` (once per version of plotly) and return its path."""
    script = get_plotlyjs()
    path = folder / PLOTLY_JS
    if not path.exists() or path.stat().st_size != len(script.encode()):
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(script, encoding="utf-8")
    return path


def figure(plot: go.Figure, key: str) -> str:
    """An interactive figure as a fragment for a page that loads plotly; the same figure and key give the same text."""
    return plot.to_html(full_html=False, include_plotlyjs=False, div_id=key, config=CONFIG)


def link(path: str, text: str) -> str:
    """A link to a relative path."""
    return f'<a href="{html.escape(path)}">{html.escape(text)}</a>'


def table(rows: Sequence[Mapping[str, Any]], *, raw: Sequence[str] = ()) -> str:
    """Rows with the same keys as a sortable table; columns named in `raw` hold HTML."""
    if not rows:
        return "<p class='muted'>none</p>"
    head = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{v if k in raw else html.escape(str(v))}</td>" for k, v in row.items()) + "</tr>"
        for row in rows
    )
    content = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll"><table class="sortable">{content}</table></div>'


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
    """A method's card."""
    fields = {"family": card.family, "tasks": ", ".join(card.tasks), "paper": card.paper,
              "signals": ", ".join(card.signals), "loss": card.loss, "departures": card.departures,
              "reads tables of": ", ".join(card.requires), "version": card.version}
    return details(card.name, definitions(fields))
