"""Which runs the tables show, in which order, and what is missing; the table beside the paper's; the readings."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from tests.report.stored import random_ranks, saved
from unisr import registry
from unisr.data.candidates import KINDS
from unisr.errors import ConfigError, StoreError, UnknownNameError
from unisr.report import beside, lineup, paper_audit, readings
from unisr.report.comparison import comparison
from unisr.report.tables import paper_numbers


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNISR_RESULTS", str(tmp_path))
    return tmp_path


def store_some() -> None:
    saved(random_ranks(30), random_ranks(28), preset="small")
    saved(random_ranks(8, seed=1), random_ranks(5, seed=1), method="UniSAR", preset="small", seed=1)
    saved(random_ranks(8, seed=2), random_ranks(5, seed=2), method="UniSAR", preset="small")
    saved(random_ranks(20, seed=3), method="SASRec", preset="small")
    saved(random_ranks(24, seed=3), method="SASRec", preset="small", candidates="hard")
    saved(random_ranks(20, seed=3), method="SASRec", preset="small", seed=5, training={"epochs": 1})


def test_stored_runs_in_the_order_of_the_paper() -> None:
    store_some()
    found = lineup.stored("synthetic", "small", ["rec"])
    assert [(r.config.method, r.config.seed) for r in found.main] == [
        ("Popularity", 0), ("SASRec", 0), ("UniSAR", 0), ("UniSAR", 1)
    ], "families in order, seeds ascending, changed settings left out"
    assert found.kinds == ["uniform", "hard"] and [r.config.method for r in found.runs["hard"]] == ["SASRec"]
    assert {"LightGCN", "GenSR"} <= set(found.missing) and not {"SASRec", "TEM"} & set(found.missing)
    assert "unisr reproduce --data synthetic --preset small" in str(found) and "hard 1" in str(found)


def test_named_methods_only() -> None:
    store_some()
    found = lineup.stored("synthetic", "small", ["rec"], "sasrec, LightGCN")
    assert {r.config.method for r in found.main} == {"SASRec"} and found.missing == ["LightGCN"]
    assert "--methods LightGCN`" in str(found)
    with pytest.raises(UnknownNameError, match="did you mean SASRec"):
        lineup.stored("synthetic", "small", ["rec"], "SASRek")
    with pytest.raises(ConfigError, match="does not do rec"):
        lineup.stored("synthetic", "small", ["rec"], "Lexical")


def test_nothing_stored_says_how_to_make_it() -> None:
    with pytest.raises(StoreError, match="unisr reproduce --data synthetic --preset full"):
        lineup.stored("synthetic", "full", ["rec"])


def test_only_quick_makes_runs() -> None:
    assert lineup.to_make("synthetic", "full", ["rec"]) == lineup.to_make("synthetic", "small", ["rec"], "SASRec") == []
    made = lineup.to_make("synthetic", "quick", ["rec", "src"])
    names = list(dict.fromkeys(c.method for c in made))
    assert set(names) == set(lineup.FAST["rec"]) | set(lineup.FAST["src"])
    assert len(made) == len(KINDS) * len(names) and {c.preset for c in made} == {"quick"}
    named = lineup.to_make("synthetic", "quick", ["rec"], "SASRec")
    assert [(c.method, c.candidates) for c in named] == [("SASRec", k) for k in KINDS]


def test_order_of_all_methods() -> None:
    names = lineup.ordered(list(registry.methods())[::-1])
    families = [registry.FAMILIES.index(registry.method(n).card.family) for n in names]
    assert families == sorted(families) and len(names) == len(registry.methods())
    assert names.index("SASRec-merged") == names.index("SASRec") + 1
    assert names.index("LightGCN") < names.index("SASRec")
    assert [n for n in names if registry.method(n).card.family == "joint"][-1] == "GenSR"


def small_table() -> pd.DataFrame:
    store_some()
    return comparison(lineup.stored("synthetic", "small", ["rec"]).main, "rec")


def cells(page: str) -> dict[str, list[str]]:
    """Method -> its cells: seeds, five metrics of ours, four of the paper."""
    rows = {}
    for row in page.split("<tbody>")[1].split("<tr>")[1:]:
        name = re.search(r'class="row_heading level1[^"]*"[^>]*>([^<]+)', row)
        assert name and name[1] not in rows, "a method has one row"
        rows[name[1]] = re.findall(r'class="data[^"]*"[^>]*>(?:<[bu]>)?([^<]*)', row)
    return rows


def test_table_beside_the_paper_has_the_methods_of_both_sides() -> None:
    tidy, paper = small_table(), paper_numbers(2)
    page = beside.html(tidy, paper, "Amazon")
    assert page == beside.html(tidy, paper, "Amazon")
    rows = cells(page)
    assert set(rows) == {"Popularity", *paper["method"]} and next(iter(rows)) == "Popularity"
    assert "<b>0.7200*</b>" in page and "<u>0.7020</u>" in page
    best = tidy[(tidy["method"] == "UniSAR") & (tidy["metric"] == "NDCG@10")].iloc[0]
    assert rows["UniSAR"][0] == "2" and rows["UniSAR"][4] == f"{best['value']:.4f}*"
    assert rows["UniSAR"][-1] == "0.4885‡" and rows["GenSR"] == [""] * 6 + ["0.6102*", "0.7200*", "0.4922*", "0.5278*"]
    assert rows["Popularity"][6:] == [""] * 4 and f"{best['low']:.4f} to {best['high']:.4f}" in page
    assert paper_audit.LEGEND["‡"] in page and paper_audit.LEGEND["†"] not in page


def test_the_other_dataset_has_its_own_flags() -> None:
    rows = cells(beside.html(small_table(), paper_numbers(2), "KuaiSAR"))
    assert {name for name, row in rows.items() if all("†" in cell for cell in row[6:])} == {"GRU4Rec", "CoLLM"}
    assert sum("†" in cell for row in rows.values() for cell in row) == 8
    assert rows["IDGenRec"][6:] == ["–"] * 4
    with pytest.raises(UnknownNameError, match="KuaiSAR"):
        beside.html(small_table(), paper_numbers(2), "Kuaisar")


def test_reading_follows_the_numbers() -> None:
    tidy, paper = small_table(), paper_numbers(2)
    text = readings.comparison(tidy, paper)
    assert text.startswith("**UniSAR** has the highest NDCG@10") and "a clear difference" in text
    assert "Every trained method (2) is above Popularity" in text and "GenSR, the paper's best, has no run here" in text
    assert "400 queries; seeds a method: 1 to 2" in text
    worse = tidy.assign(value=tidy["value"].where(tidy["method"] != "SASRec", 0.0))
    assert "1 of 2 trained methods are above Popularity" in readings.comparison(worse, paper)
    assert "SASRec is not" in readings.comparison(worse, paper)


def test_orders_are_compared_over_enough_methods() -> None:
    """A table with the paper's own values agrees with it; reversed, it disagrees."""
    paper = paper_numbers(2)
    printed = paper[(paper["dataset"] == "Amazon") & (paper["metric"] == "NDCG@10")]
    rows = printed.set_index("method")[["value"]]
    assert "1.00 with Amazon (16 methods)" in readings._orders(rows, printed)
    assert "-1.00 with Amazon" in readings._orders(-rows, printed)
    assert readings._orders(rows.iloc[:3], printed) == ""


def test_reading_of_gains() -> None:
    frame = pd.DataFrame({"bin": ["all", "1–5", "6–9", "10–11"], "n": [100, 50, 48, 2], "A": 0.5, "B": 0.4,
                          "gain": [0.1, 0.2, -0.1, 0.9], "low": [0.05, 0.1, -0.2, 0.8], "high": [0.2, 0.3, -0.01, 1.0]})
    text = readings.gain(frame, "history length", "MRR")
    assert "largest at 1–5 (+0.200, 50 queries)" in text, "two queries are too few to be called the largest gain"
    assert "above 0: 1–5, 10–11; below 0: 6–9" in text
