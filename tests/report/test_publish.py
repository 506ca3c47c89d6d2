"""The report shows every stored run, only compares runs of one protocol, and rewrites only its block of the README."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from torch import Tensor

from tests.report import stored
from tests.report.pages import Page, broken
from unisr import registry
from unisr.data.batches import Batch
from unisr.errors import UnisrError
from unisr.models.reference import Popularity
from unisr.paths import results_dir
from unisr.report import linked, notebooks, publish
from unisr.report.groups import groups
from unisr.seals import SUMS


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
    assert not broken(index)
    assert index.read_text(encoding="utf-8") == publish.report().read_text(encoding="utf-8")


@pytest.mark.usefixtures("two")
def test_runs_with_changed_settings_are_listed_but_not_compared() -> None:
    stored.saved(stored.random_ranks(5), method="SASRec", training={"epochs": 1})
    (group,), left_out = groups()
    assert [run.config.method for run in group.runs] == ["Popularity", "SASRec"]
    assert [run.config.training.epochs for run in group.others] == [1]
    assert set(group.comparisons) == {"rec", "src"} and not left_out
    assert group.others[0].config.config_id in publish.report().read_text(encoding="utf-8")


def cell(page: Path, table: int, row: int, column: str) -> str:
    """Where a number of a page leads to."""
    frame = pd.read_html(page, extract_links="body")[table]
    return frame[column][row][1]


def test_a_number_leads_to_its_run_or_to_the_list_of_its_runs() -> None:
    alone = stored.saved(stored.random_ranks(60), method="Popularity")
    seeds = [stored.saved(stored.random_ranks(20, seed=seed), method="SASRec", seed=seed) for seed in (1, 2)]
    stored.saved(stored.random_ranks(20), method="SASRec", candidates="hard")
    index = publish.report()
    ours = index.parent / cell(index, 0, 0, "NDCG@10")
    assert ours.resolve() == alone.folder and (ours / "metrics.json").exists()
    assert cell(index, 0, 1, "MRR") == "methods/SASRec.html#synthetic-quick"
    page = index.parent / "methods" / "SASRec.html"
    assert {run.folder for run in seeds} <= {(page.parent / link).resolve() for link in Page.of(page).links}
    assert cell(index, 0, 1, "method") == "methods/SASRec.html"
    pages = sorted((index.parent / "methods").glob("*.html"))
    assert {page.stem for page in pages} == set(registry.methods())
    assert not [link for page in [index, *pages] for link in broken(page)]


def test_a_methods_page_has_its_card_rows_runs_curves_and_settings() -> None:
    stored.saved(stored.random_ranks(60), method="Popularity")
    for seed in (0, 1):
        stored.saved(stored.random_ranks(20), method="SASRec", seed=seed)
    stored.saved(stored.random_ranks(20), method="SASRec", candidates="hard")
    stored.saved(stored.random_ranks(30), method="SASRec", training={"epochs": 1})
    page = publish.report().parent / "methods" / "SASRec.html"
    results, runs, hard, settings = pd.read_html(page)
    assert results["place"].tolist() == ["1 (of 2)", "1 (of 1)"] and results["seeds"].tolist() == [2, 1]
    row = pd.read_csv(results_dir() / "synthetic" / "quick" / "tables" / "recommendation.csv")
    value = row.set_index(["method", "metric"])["value"]["SASRec", "NDCG@10"]
    assert results["NDCG@10"][0].strip("*") == f"{value:.4f}"
    assert runs["settings"].tolist() == ["the preset's", "the preset's", "training.epochs=1"]
    assert hard["seed"].tolist() == [0]
    width = settings.set_index("setting")["synthetic · quick"]["model.width"]
    assert int(width) == stored.config("SASRec").model.width
    text = Page.of(page).text
    assert "Kang" in text and "not trained" not in text
    drawn = json.loads(re.search(r'class="figure".*?json">(.*?)</script>', page.read_text(), re.DOTALL)[1])
    assert [(line["name"], line["visible"]) for line in drawn["data"]] == [
        ("seed 0", True), ("seed 1", True), ("seed 0, training.epochs=1", "legendonly"),
    ]  # fmt: skip
    assert drawn["data"][0]["y"] == stored.losses()["loss"].tolist()
    assert "No run of this method is stored" in Page.of(page.with_stem("UniSAR")).text


HOSTILE = "<img src=x onerror=alert(1)>&amp;\"'"


def test_markup_in_names_settings_machines_and_errors_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def rank(self: Popularity, batch: Batch) -> Tensor:
        raise NotImplementedError

    card = replace(Popularity.card, name=HOSTILE, paper=HOSTILE, departures=(HOSTILE,))
    monkeypatch.setitem(registry._methods, HOSTILE, type("Hostile", (Popularity,), {"card": card, "score": rank}))
    machine = stored.environment(device=HOSTILE, cpu=HOSTILE, packages={HOSTILE: HOSTILE}, counts={HOSTILE: 1})
    for seed in (0, 1):
        stored.saved(stored.random_ranks(60), method=HOSTILE, made=machine, seed=seed)
    damaged = stored.saved(stored.random_ranks(60), method=HOSTILE, made=machine, seed=2)
    (damaged.folder / "metrics.json").write_text("{")
    index = publish.report()
    folder = results_dir() / "synthetic" / "quick"
    for page in [index, linked.page_of(HOSTILE), *folder.rglob("*.html")]:
        read = Page.of(page)
        assert "img" not in read.tags and not read.handlers and not broken(page), page
    assert Page.of(index).text.count(HOSTILE) > 5 and "1 stored runs or notebooks left out" in Page.of(index).text
    assert "<img" not in (folder / "tables" / "recommendation.md").read_text()


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
    assert "1 stored runs or notebooks left out" in page and f"{run.folder.name}: lacks metrics.json" in page


@pytest.mark.parametrize("name", ["losses.parquet", "per_query.parquet"])
@pytest.mark.usefixtures("two")
def test_a_table_damaged_inside_is_left_out_and_named(name: str) -> None:
    run = next(r for r in groups()[0][0].runs if r.config.method == "SASRec")
    path = run.folder / name
    content = bytearray(path.read_bytes())
    content[4:60] = bytes(56)
    path.write_bytes(content)
    (run.folder / SUMS).unlink()  # as in runs that were stored without sums
    (group,), left_out = groups()
    assert [run.config.method for run in group.runs] == ["Popularity"]
    assert len(left_out) == 1 and str(path) in left_out[0]


@pytest.mark.usefixtures("two")
def test_a_damaged_notebook_or_search_is_named_and_the_rest_is_shown() -> None:
    folder = notebooks.folder({"dataset": "synthetic"})
    folder.mkdir(parents=True)
    (folder / "00_quickstart.ipynb").write_text('{"cells": [')
    search = results_dir() / "synthetic" / "tuning" / "SASRec.json"
    search.parent.mkdir(parents=True)
    search.write_text("{")
    index = publish.report()
    text = Page.of(index).text
    assert "00_quickstart.ipynb: no notebook" in text and f"{search}: no search" in text
    assert "Executed notebooks" not in text and not broken(index) and text.count("SASRec") > 3


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
