"""The report in a real browser, opened from its folder: nothing is fetched or logged, tables sort, figures are drawn.

Pictures go to the folder named by UNISR_PICTURES, by default `build/pictures`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="install the extra `browser`")

from playwright.sync_api import Browser, Locator, Page

import unisr
from tests.report import hostile
from tests.report.pages import broken
from unisr.config import RunConfig
from unisr.report import notebooks, publish

pytestmark = pytest.mark.browser
RUNS = (("Popularity", 0), ("SASRec", 0), ("SASRec", 1), ("TEM", 0), ("UniSAR", 0))
PATIENT = 120_000
"""Milliseconds: machines of tests are often busy."""


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A report of a few trained methods and of a notebook with markup in every title."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNISR_RESULTS", str(tmp_path_factory.mktemp("results")))
        for method, seed in RUNS:
            unisr.run(RunConfig(method=method, dataset="synthetic", preset="quick", seed=seed))
        hostile.executed(notebooks.folder({"dataset": "synthetic"}) / "00_titles.ipynb")
        yield publish.report()


@contextmanager
def opened(browser: Browser, path: Path, width: int = 1400) -> Iterator[Page]:
    """A page from its file; at the end nothing must have been fetched from elsewhere, and no error logged."""
    page = browser.new_page(viewport={"width": width, "height": 1000})
    page.set_default_timeout(PATIENT)
    fetched, errors = [], []
    page.on("request", lambda request: fetched.append(request.url))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    yield page
    assert not [url for url in fetched if not url.startswith(("file:", "data:", "blob:"))]
    assert not errors
    page.close()


def column(table: Locator, place: int) -> list[str]:
    return table.locator(f"tbody td:nth-child({place})").all_inner_texts()


def drawn(page: Page, figure: Locator) -> None:
    figure.scroll_into_view_if_needed()
    figure.locator(".main-svg").first.wait_for()


def picture(page: Page, path: Path) -> None:
    """The whole page with everything unfolded."""
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    for figure in page.locator(".figure").all():
        drawn(page, figure)
    page.screenshot(path=path, full_page=True)


def test_a_click_and_a_key_on_a_head_sort_every_table(browser: Browser, index: Path) -> None:
    with opened(browser, index) as page:
        table = page.locator("table").first
        heads = table.locator("th")
        place = heads.all_inner_texts().index("NDCG@10") + 1
        before = column(table, place)
        heads.nth(place - 1).locator("button").click()
        assert column(table, place) == sorted(before, reverse=True) != sorted(before)
        assert heads.nth(place - 1).get_attribute("aria-sort") == "descending"
        page.keyboard.press("Enter")
        assert column(table, place) == sorted(before)
        heads.first.locator("button").focus()
        page.keyboard.press("Space")
        assert column(table, 1) == sorted(column(table, 1), key=str.lower)
        assert table.locator("th[aria-sort]").count() == 1
        assert page.locator("th").count() == page.locator("th > button").count() > 20


def test_numbers_are_sorted_as_numbers_and_empty_cells_come_last(browser: Browser, index: Path) -> None:
    with opened(browser, index) as page:
        page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
        runs = page.locator("table", has_text="parameters").first
        names = runs.locator("th").all_inner_texts()
        heads = runs.locator("th > button")
        for name in ("parameters", "NDCG@10 search"):
            place = names.index(name)
            heads.nth(place).click()
            shown = column(runs, place + 1)
            filled = [float(text.replace(",", "")) for text in shown if text != "–"]
            assert filled == sorted(filled, reverse=True) and shown[len(filled):] == ["–"] * (len(shown) - len(filled))
        assert "–" in shown


@pytest.mark.parametrize("width", [1400, 800])
def test_the_index_opens_offline_and_fits_its_window(
    browser: Browser, index: Path, width: int, pictures: Path
) -> None:
    with opened(browser, index, width) as page:
        picture(page, pictures / f"report-{width}.png")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator(".figure").count() >= 2


def test_every_link_leads_to_a_file_and_a_number_to_its_run(browser: Browser, index: Path) -> None:
    pages = [index, *(index.parent / "methods").glob("*.html")]
    assert not [link for path in pages for link in broken(path)]
    with opened(browser, index) as page:
        row = page.locator("table").first.locator("tr", has_text="SASRec")
        row.locator("a").last.click()
        assert page.url.endswith("methods/SASRec.html#synthetic-quick")
        page.locator("tr", has_text="the preset's").first.locator("td:nth-child(3) a").click()
        assert page.url.startswith((index.parent / "runs" / "synthetic" / "quick" / "SASRec-s0-").as_uri())
        assert "metrics.json" in page.content()


def test_a_methods_page_shows_its_curves(browser: Browser, index: Path, pictures: Path) -> None:
    with opened(browser, index.parent / "methods" / "SASRec.html") as page:
        figure = page.locator(".figure")
        drawn(page, figure)
        picture(page, pictures / "method.png")
        assert figure.locator(".legendtext").all_text_contents() == ["seed 0", "seed 1"]
        assert figure.locator(".scatterlayer .trace").count() == 4, "loss and validation of two seeds"
        figure.locator(".legendtoggle").first.click()
        page.wait_for_function("document.querySelectorAll('.scatterlayer .trace').length === 2")


def test_markup_in_titles_does_not_run(browser: Browser, index: Path) -> None:
    (path,) = index.parent.rglob("00_titles.html")
    with opened(browser, path) as page:
        page.locator(".main-svg").first.wait_for()
        page.wait_for_function("document.querySelectorAll('.js-plotly-plot').length === 3")
        assert page.evaluate("document.hostile") is None
        assert page.locator("img").count() == 0
        assert "<img src=x" in page.locator(".js-plotly-plot").first.text_content()
