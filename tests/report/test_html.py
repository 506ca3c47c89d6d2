"""The page's pieces escape what they are given and load nothing from the network."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from unisr.registry import Card
from unisr.report import figures, html


def test_page_escapes_titles_and_keeps_bodies() -> None:
    section = html.Section("one", "R&D", "<b>body</b>")
    made = html.page("a < b", "<p>lead</p>", [section], plotly_js="assets/plotly.min.js")
    assert "<h1>a &lt; b</h1>" in made and "R&amp;D" in made
    assert "<p>lead</p>" in made and "<b>body</b>" in made and '<a href="#one">' in made
    assert not re.search(r"(src|href)=\"?https?:", made)


def test_assets_are_written_once_and_repaired(tmp_path: Path) -> None:
    path = html.write_assets(tmp_path / "assets")
    size, changed = path.stat().st_size, path.stat().st_mtime_ns
    assert size > 1_000_000
    assert html.write_assets(tmp_path / "assets").stat().st_mtime_ns == changed
    path.write_text("cut")
    assert html.write_assets(tmp_path / "assets").stat().st_size == size


def test_figure_is_deterministic_and_small() -> None:
    plot = figures.rank_frequency(np.array([3, 1]), title="t", x="rank", y="events")
    made = html.figure(plot, "key")
    assert made == html.figure(plot, "key") and 'id="key"' in made
    assert "http" not in re.sub(r'"plotlyServerURL":\s*"[^"]*"', "", made) and len(made) < 20_000


def test_table_escapes_all_but_markup() -> None:
    made = html.table([{"name": "<x>", "files": html.link("a&b.json", "a<b")}])
    assert "&lt;x&gt;" in made and '<a href="a&amp;b.json">a&lt;b</a>' in made
    assert html.table([]) == "<p class='muted'>none</p>"


def test_card_leaves_out_what_is_empty() -> None:
    card = Card(name="M", family="joint", tasks=("rec",), paper="P <1>", signals=("x", "y"), loss="l")
    made = html.card(card)
    assert "P &lt;1&gt;" in made and "x, y" in made and "departures" not in made
