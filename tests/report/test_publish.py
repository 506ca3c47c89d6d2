"""The report shows every stored run, only compares runs of one protocol, and rewrites only its block of the README."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.report import stored
from unisr.errors import UnisrError
from unisr.paths import results_dir
from unisr.report import publish
from unisr.report.groups import groups


@pytest.fixture(autouse=True)
def _results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("UNISR_RESULTS", str(tmp_path / "results"))
    yield


@pytest.fixture
def two() -> None:
    stored.saved(stored.random_ranks(60), stored.random_ranks(50, seed=1), method="Popularity")
    stored.saved(stored.random_ranks(20, seed=2), method="SASRec")


@pytest.mark.usefixtures("two")
def test_report_writes_tables_figures_and_an_offline_index() -> None:
    index = publish.report()
    page = index.read_text(encoding="utf-8")
    folder = results_dir() / "synthetic" / "quick"
    for name in ("recommendation", "search"):
        assert all((folder / "tables" / f"{name}.{kind}").exists() for kind in ("csv", "html", "md"))
    assert (folder / "figures" / "comparison.svg").read_text().count("SASRec") >= 1
    assert set(pd.read_csv(folder / "tables" / "recommendation.csv")["method"]) == {"Popularity", "SASRec"}
    assert set(pd.read_csv(folder / "tables" / "search.csv")["method"]) == {"Popularity"}
    assert not re.search(r"<(script|link)[^>]*https?:", page)
    links = [link for link in re.findall(r'(?:href|src)="([^"#]+)"', page)]
    assert links and all((results_dir() / link).exists() for link in links)
    assert index.read_text(encoding="utf-8") == publish.report().read_text(encoding="utf-8")


@pytest.mark.usefixtures("two")
def test_runs_with_changed_settings_are_listed_but_not_compared() -> None:
    stored.saved(stored.random_ranks(5), method="SASRec", training={"epochs": 1})
    (group,), left_out = groups()
    assert [run.config.method for run in group.runs] == ["Popularity", "SASRec"]
    assert [run.config.training.epochs for run in group.others] == [1]
    assert set(group.comparisons) == {"rec", "src"} and not left_out
    assert group.others[0].config.config_id in publish.report().read_text(encoding="utf-8")


@pytest.mark.usefixtures("two")
def test_runs_of_two_protocols_give_a_message_instead_of_a_table() -> None:
    stored.saved(stored.random_ranks(5), method="LightGCN", made=stored.environment(candidates_hash="other"))
    (group,), _ = groups()
    assert "not of one protocol" in group.problem and not group.comparisons
    assert "not of one protocol" in publish.report().read_text(encoding="utf-8")


@pytest.mark.usefixtures("two")
def test_a_damaged_run_is_left_out_and_named() -> None:
    run = next(r for r in groups()[0][0].runs if r.config.method == "SASRec")
    (run.folder / "metrics.json").unlink()
    page = publish.report().read_text(encoding="utf-8")
    assert "1 stored runs left out" in page and f"{run.folder.name}: lacks metrics.json" in page


def test_an_empty_store_gives_a_page_that_says_so() -> None:
    assert "0 stored runs" in publish.report().read_text(encoding="utf-8")


@pytest.mark.usefixtures("two")
def test_readme_keeps_everything_outside_its_block(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("above\n<!-- results:begin -->\nBLOCK OF BEFORE\n<!-- results:end -->\nbelow\n", encoding="utf-8")
    for _ in range(2):
        publish.write_readme(groups()[0], readme)
        page = readme.read_text(encoding="utf-8")
        assert page.startswith("above\n<!-- results:begin -->\n![") and page.endswith("<!-- results:end -->\nbelow\n")
        assert "BLOCK OF BEFORE" not in page and page.count("| SASRec | 1 |") == 2
    assert (tmp_path / "results" / "readme.svg").exists()


@pytest.mark.parametrize("page", ["no block", "<!-- results:end --><!-- results:begin -->"])
@pytest.mark.usefixtures("two")
def test_a_readme_without_its_block_is_refused(tmp_path: Path, page: str) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(page)
    with pytest.raises(UnisrError, match="needs one line"):
        publish.write_readme(groups()[0], readme)
    assert readme.read_text() == page


def test_a_readme_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnisrError, match="unisr reproduce"):
        publish.write_readme([], tmp_path / "README.md")
