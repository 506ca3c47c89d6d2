"""Every notebook in JupyterLab and a real browser: it runs, its controls work by keyboard, no error is logged.

Pictures go to the folder named by UNISR_PICTURES, by default `build/pictures`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="install the extra `browser`")

from playwright.sync_api import Browser, sync_playwright

from tests.browser.lab import ROOT, Notebook, jupyterlab
from unisr.report import notebooks

pytestmark = pytest.mark.browser
CHROMIUM = os.environ.get("UNISR_CHROMIUM", "/usr/bin/chromium")
PICTURES = Path(os.environ.get("UNISR_PICTURES", ROOT / "build" / "pictures"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no browser at {CHROMIUM}; install chromium, or name one by UNISR_CHROMIUM")
    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with jupyterlab(tmp_path_factory.mktemp("lab")) as found:
        yield found


@pytest.mark.parametrize("path", notebooks.sources(), ids=lambda path: path.stem)
def test_a_notebook_runs_and_its_controls_work_by_keyboard(browser: Browser, address: str, path: Path) -> None:
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    notebook = Notebook(page, address, path.name)
    notebook.run()
    PICTURES.mkdir(parents=True, exist_ok=True)
    notebook.picture(PICTURES / f"{path.stem}.png")
    assert not notebook.tracebacks()
    idle = [place for place, control in enumerate(notebook.controls()) if not notebook.turn(control)]
    assert not idle, f"controls {idle} change nothing"
    assert not notebook.errors
    page.close()
