"""The audit of the paper's Tables 2 and 3 finds the known cells and no others."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from unisr.report import paper_audit as audit
from unisr.report.tables import paper_numbers


def printed(r5: float, r10: float, n5: float, n10: float, method: str = "M", star: bool = False) -> pd.DataFrame:
    """Four cells of one method in the form of `paper_numbers`."""
    cells = {"dataset": "D", "task": "search", "method": method, "metric": audit.CELLS, "value": [r5, r10, n5, n10]}
    return pd.DataFrame(cells).assign(significant=star)


def flagged(table: int, mark: str) -> set[tuple[str, str, str]]:
    found = audit.findings(paper_numbers(table))
    rows = found[found["mark"] == mark]
    return set(zip(rows["dataset"], rows["method"], rows["metric"], strict=True))


def test_impossible_rows_of_the_paper() -> None:
    assert flagged(2, audit.IMPOSSIBLE) == {("KuaiSAR", m, c) for m in ("GRU4Rec", "CoLLM") for c in audit.CELLS}
    assert flagged(3, audit.IMPOSSIBLE) == {("KuaiSAR", "GenSR", c) for c in audit.CELLS}
    ratios = audit.ratios(paper_numbers(2)).set_index(["dataset", "method"])["ratio"]
    assert ratios["KuaiSAR", "GRU4Rec"] == pytest.approx(0.367, abs=5e-4)
    assert ratios["KuaiSAR", "CoLLM"] == pytest.approx(0.265, abs=5e-4)
    assert ("KuaiSAR", "IDGenRec") not in ratios.index, "the paper leaves these cells empty"


def test_wrong_underlines_and_missing_stars_of_the_paper() -> None:
    assert flagged(2, audit.NOT_SECOND) == {("Amazon", "UniSAR", "NDCG@5"), ("Amazon", "UniSAR", "NDCG@10")}
    assert flagged(3, audit.NOT_SECOND) == {("Amazon", "UniSAR", "Recall@10")}
    assert flagged(2, audit.NO_STAR) == set()
    assert flagged(3, audit.NO_STAR) == {("KuaiSAR", "GenSR", "Recall@10")}
    text = audit.summary(paper_numbers(3)).set_index("mark")["finding"]
    assert "TEM and CoPPS with 0.9051" in text[audit.NOT_SECOND] and "0.128" in text[audit.IMPOSSIBLE]


def test_every_mark_stands_on_its_cell_and_has_a_meaning() -> None:
    marked = audit.marked(paper_numbers(3))
    assert len(marked) == len(paper_numbers(3))
    cell = marked[(marked["dataset"] == "KuaiSAR") & (marked["method"] == "GenSR") & (marked["metric"] == "Recall@10")]
    assert cell["mark"].tolist() == [audit.IMPOSSIBLE + audit.NO_STAR]
    assert (marked["mark"] != "").sum() == 5
    assert set("".join(marked["mark"])) <= set(audit.LEGEND)


@pytest.mark.parametrize("seed", range(20))
def test_means_of_real_ranks_pass_after_rounding(seed: int) -> None:
    rank = np.random.default_rng(seed).integers(1, 30, size=500)
    means = [np.mean(np.where(rank <= k, gain, 0)) for gain in (1.0, 1 / np.log2(rank + 1)) for k in (5, 10)]
    row = audit.ratios(printed(*(round(float(m), 4) for m in means))).iloc[0]
    assert row["possible"] and row["low"] <= row["ratio"] <= row["high"]
    assert row["low"] <= audit.WINDOW[1] and row["high"] >= audit.WINDOW[0]


def test_rounding_decides_close_calls() -> None:
    """Recall that grows by .0101 at most lets NDCG grow by .0101 / log2(7) = .00360; two printed means add .0001."""
    outside = audit.ratios(printed(0.5, 0.51, 0.4, 0.4036)).iloc[0]
    assert outside["ratio"] > audit.WINDOW[1] and outside["possible"]
    assert not audit.ratios(printed(0.5, 0.51, 0.4, 0.4038))["possible"].any()
    equal = audit.ratios(printed(0.5, 0.5, 0.4, 0.4001)).iloc[0]
    assert equal["possible"] and equal["ratio"] == np.inf


def test_best_and_second_with_a_tie() -> None:
    cells = pd.concat([printed(0.5, 0.6, 0.4, 0.43, method=m, star=m == "A") for m in ("A", "B")])
    third = printed(0.4, 0.5, 0.3, 0.33, method="UniSAR")
    places = audit.places(pd.concat([cells, third], ignore_index=True)).set_index("method")
    assert places.loc[["A", "B"], "best"].all() and not places.loc[["A", "B"], "second"].any()
    assert places.loc["UniSAR", "second"].all()
    found = audit.findings(pd.concat([cells, third], ignore_index=True))
    assert set(found["method"]) == {"B"} and set(found["mark"]) == {audit.NO_STAR}
