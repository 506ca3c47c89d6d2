"""Counts beside the papers': which filter a difference is put down to, and what `unisr prepare` prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from unisr.benchmarks.official_files import write_kuaisar
from unisr.cli import app
from unisr.data.counts import explain

FILTERS = (
    ("rows", {"#Item": 1000, "#Inter-R": 5000}),
    ("clicks", {"#Item": 800, "#Inter-R": 2500}),
    ("5-core", {"#Item": 90, "#Inter-R": 2400}),
    ("both tasks", {"#Item": 90, "#Inter-R": 2300}),
)


@pytest.mark.parametrize(
    ("name", "here", "paper", "expected"),
    [
        ("#Item", 90, 1000, "#Item: -910 (-91.0%); the paper's is that of 'rows', after which '5-core' takes "
         "most, 710"),
        ("#Item", 90, 810, "#Item: -720 (-88.9%); the paper's is nearest to the 800 of 'clicks', after which '5-core' "
         "takes most, 710"),
        ("#Item", 90, 100, "#Item: -10 (-10.0%); the paper's is nearest to the 90 of 'both tasks'"),
        ("#Item", 90, 80, "#Item: +10 (+12.5%); the paper's is nearest to the 90 of 'both tasks'"),
        ("#Item", 90, 1001, "#Item: -911 (-91.0%); no filter explains it: there are 1,000 at most ('rows')"),
        ("#Inter-R", 2300, 2500, "#Inter-R: -200 (-8.0%); the paper's is that of 'clicks', after which '5-core' takes "
         "most, 100"),
        ("#User", 7, 8, "#User: -1 (-12.5%); no filter counts it"),
    ],
    ids=["equal", "near", "last", "more", "beyond", "tie", "uncounted"],
)  # fmt: skip
def test_a_difference_is_put_down_to_the_filter_that_makes_it(name: str, here: int, paper: int, expected: str) -> None:
    assert explain(name, here, paper, FILTERS) == expected


def test_prepare_prints_filters_and_paper_also_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNISR_DATA", str(tmp_path / "data"))
    write_kuaisar(tmp_path / "raw", users=40, items=80, recs=2000, searches=1000, days=4)
    first = CliRunner().invoke(app, ["prepare", "kuaisar-small", "--from", str(tmp_path / "raw")]).stdout
    lines = [line.split("  ") for line in first.splitlines()]
    titles = [line[0] for line in lines]
    assert titles[:4] == [lines[0][0], "filter", "rows of the files", "clicks"] and "prepared" in titles
    assert "4,195,529" in next(line for line in first.splitlines() if line.startswith("paper"))
    assert "#Item: -4,195,449 (-100.0%); no filter explains it: there are 80 at most" in first
    again = CliRunner().invoke(app, ["prepare", "kuaisar-small"]).stdout
    assert again == first
    told = json.loads(CliRunner().invoke(app, ["prepare", "kuaisar-small", "--json"]).stdout)
    assert told["filters"][0] == {
        "filter": "rows of the files",
        "counts": {"#User": 40, "#Item": 80, "#Queries": 1000, "#Inter-S": 1000, "#Inter-R": 2000},
    }
    assert set(told) == {"dataset", "counts", "filters", "paper", "differences"}
    assert "#User" not in told["paper"] and len(told["differences"]) == 4


def test_prepare_prints_one_line_where_nothing_is_published() -> None:
    assert len(CliRunner().invoke(app, ["prepare", "synthetic"]).stdout.splitlines()) == 1
