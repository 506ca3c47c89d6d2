"""Markup in titles, queries and errors stands on every page as text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.report import hostile
from tests.report.pages import Page
from unisr.report import html, notebooks


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNISR_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("UNISR_RESULTS", str(tmp_path / "results"))


def safe(page: Page) -> bool:
    """Whether nothing of the markup became an element."""
    return not {"img"} & set(page.tags) and not page.handlers and not any("hostile" in text for text in page.scripts)


def test_views_of_titles_queries_and_errors_show_markup_as_text() -> None:
    parts, _ = hostile.shown()
    for part in parts:
        page = Page(part)
        assert safe(page) and not page.scripts, part[:300]
        assert hostile.MARKUP[:40] in page.text, "pandas cuts long cells"


def test_labels_of_figures_are_entities_that_the_drawing_shows_as_text() -> None:
    _, plots = hostile.shown()
    for number, plot in enumerate(plots):
        fragment = html.figure(plot, f"plot-{number}")
        assert Page(fragment).tags == ["div", "script"], "no text ends the script"
        drawn = json.dumps(json.loads(Page(fragment).scripts[0]))
        assert "<img" not in drawn and "&lt;img" in drawn and "&amp;amp;" in drawn


def test_an_executed_notebook_shows_markup_as_text(tmp_path: Path) -> None:
    path = tmp_path / "results" / "shown.ipynb"
    hostile.executed(path)
    page = Page.of(notebooks.to_html(path, tmp_path / "assets"))
    assert not {"img"} & set(page.tags)
    assert page.text.count(hostile.MARKUP) > 20
    assert not [text for text in page.scripts if "<img" in text or "document.hostile=1</script>" in text]
