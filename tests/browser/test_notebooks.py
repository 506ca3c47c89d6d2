"""Every notebook in JupyterLab and a real browser: it runs, its controls work by keyboard, no error is logged.

Pictures go to the folder named by UNISR_PICTURES, by default `build/pictures`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="install the extra `browser`")

from playwright.sync_api import Browser

from tests.browser.lab import Notebook, jupyterlab
from unisr.report import notebooks

WINDOW = {"width": 1400, "height": 1000}
WAIT = 1_200_000
"""Milliseconds that a training may keep a reader waiting."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with jupyterlab(tmp_path_factory.mktemp("lab")) as found:
        yield found


def read_and_turned(browser: Browser, address: str, path: Path, pictures: Path) -> None:
    """Open a notebook, run it, turn all its controls, take its picture; what was counted is written beside that."""
    notebook = Notebook(browser.new_page(viewport=WINDOW), address, path.name)
    start = time.monotonic()
    notebook.run()
    seconds = {"first view": notebook.first_view, "all cells": time.monotonic() - start}
    turned: list[float | None] = []
    while len(turned) < len(found := notebook.controls()):  # a menu of methods brings other controls
        turned.append(notebook.turn(found[len(turned)]))
    seconds["slowest control"] = max(filter(None, turned), default=0.0)
    counted = {"controls": len(turned), "seconds": {name: round(value, 2) for name, value in seconds.items()}}
    (pictures / f"{path.stem}.json").write_text(json.dumps(counted), encoding="utf-8")
    print(path.stem, counted)
    notebook.picture(pictures / f"{path.stem}.png")
    assert not notebook.tracebacks()
    idle = [place for place, waited in enumerate(turned) if waited is None]
    assert not idle, f"controls {idle} change nothing"
    assert not notebook.errors
    notebook.close()


@pytest.mark.browser
def test_the_playground_trains_and_stops_by_keyboard(browser: Browser, address: str, pictures: Path) -> None:
    notebook = Notebook(browser.new_page(viewport=WINDOW), address, "15_playground.ipynb")
    notebook.run()
    page, row = notebook.page, "td:has-text('▶ GenSR')"
    notebook.controls()[0].focus()
    notebook.press("epochs", "End")
    notebook.press("Train", "Space")
    page.wait_for_selector("text=/\\d+ of \\d+ steps/", timeout=WAIT)
    notebook.press("Stop", "Space")
    page.wait_for_selector("[role=status]:has-text('Stopped')", timeout=WAIT)
    assert not page.query_selector(row)
    notebook.controls()[0].focus()
    notebook.press("epochs", "Home")  # none
    page.keyboard.press("ArrowRight")
    notebook.press("Train", "Space")
    page.wait_for_selector(row, timeout=WAIT)
    notebook.picture(pictures / "15_playground_trained.png")
    assert not notebook.tracebacks() and not notebook.errors
    notebook.close()


def test_the_quickstart_in_a_browser(browser: Browser, address: str, pictures: Path) -> None:
    read_and_turned(browser, address, notebooks.find("00"), pictures)


@pytest.mark.browser
@pytest.mark.parametrize("path", notebooks.sources(), ids=lambda path: path.stem)
def test_a_notebook_runs_and_its_controls_work_by_keyboard(
    browser: Browser, address: str, path: Path, pictures: Path
) -> None:
    read_and_turned(browser, address, path, pictures)
