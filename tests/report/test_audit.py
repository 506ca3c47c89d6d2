"""The audit's tables and figures from hand-made ranks."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest

from unisr.analysis.artefacts import LEAK, PADDED, SAMPLED, START, underflow
from unisr.analysis.query_strings import QueryStringSettings
from unisr.report import audit, audit_figures

RANKS = {START: [1, 1, 1, 10, 10, 20], PADDED: [1, 1, 10, 10, 20], LEAK: [1, 1, 1, 1, 1], SAMPLED: [20, 20, 20, 20, 1]}


@pytest.fixture
def frame() -> pd.DataFrame:
    """Five queries; the first step has a row of padding before them."""
    parts = []
    for step, (removed, ranks) in enumerate(RANKS.items()):
        events = np.arange(5 - len(ranks), 5)
        parts.append(pd.DataFrame({
            "method": "TEM", "seed": 0, "task": "src", "step": step, "removed": removed, "event": events,
            "rank": np.array(ranks, dtype=float), "tied": events < 0,
        }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def test_steps_in_points(frame: pd.DataFrame) -> None:
    found = audit.waterfall(frame, "TEM", "src", "Recall@10")
    assert found["value"].round(6).tolist() == [83.333333, 80.0, 100.0, 20.0]
    assert found["change"].round(6).tolist() == [0.0, -3.333333, 20.0, -80.0]
    assert found["low"].isna().tolist() == [True, True, False, False], "padding is no query to pair"
    assert found["high"][3] < 0 and found["low"][2] == 0 and found["tied"][0] == pytest.approx(100 / 6)
    assert audit.clean(found) == 100
    words = audit.table(found)
    assert words["change"].tolist()[:2] == ["–", "-3.3"] and words["change"][3].startswith("-80.0 (-100.0 to ")


def test_the_reading_names_what_exceeds_chance(frame: pd.DataFrame) -> None:
    text = audit.reading(frame, "MRR")
    assert "**TEM, search**: 53.6 points as released" not in text and "100.0 clean" in text and "24.0 in full" in text
    assert f"{LEAK} +" in text and PADDED not in text and SAMPLED not in text


def test_bars_end_where_the_next_begins(frame: pd.DataFrame) -> None:
    found = audit.waterfall(frame, "TEM", "src", "Recall@10")
    bars = audit_figures._bars(found)
    assert bars["name"].tolist() == [START, PADDED, LEAK, "clean", SAMPLED, "full ranking"]
    assert bars["kind"].tolist() == ["total", "down", "up", "total", "down", "total"]
    ends = (bars["base"] + bars["height"]).tolist()
    assert ends == pytest.approx([100 * 5 / 6, 80, 100, 100, 20, 20])
    plot = audit_figures.waterfall(found, title="TEM, search")
    assert sum(len(trace.x) for trace in plot.data) == 6 and "points" in plot.layout.yaxis.title.text
    assert "full ranking" in audit_figures.waterfall_svg(found, title="")


def test_printed_rows_that_cannot_be() -> None:
    printed = audit.ratios()
    assert {n: int((~rows["possible"]).sum()) for n, rows in printed.groupby("table")} == {2: 2, 3: 1, 4: 11}
    rows = audit.impossible(printed)
    assert "GenSR, KuaiSAR" in rows.loc[rows["table"] == 3, "row"].tolist() and not rows.isna().any().any()
    assert "11 of 12" in audit.counted(printed)
    plot = audit_figures.ratios(printed)
    assert sum(len(trace.x) for trace in plot.data) == len(printed)
    assert "Table 4" in audit_figures.ratios_svg(printed)


def test_untrained_scores_stand_beside_each_other() -> None:
    nobody = pd.DataFrame({"method": "TEM", "task": "src", "event": [1, 2], "rank": [1.0, 50.0],
                           "released": [1.0, 50.0], "tied": False})  # fmt: skip
    shaped = pd.DataFrame({"model": [0, 0, 1], "event": [0, 1, 0], "rank": [50.5, 50.5, 3.0], "released": [1, 1, 3.0],
                           "tied": [True, True, False], "zeros": [1.0, 1.0, 0.0]})  # fmt: skip
    found = audit.untrained(nobody, shaped, "Recall@10").set_index("untrained")
    assert found.loc["TEM", ["expected rank", "released rank"]].tolist() == ["50.0", "50.0"]
    assert found.iloc[1][["expected rank", "released rank"]].tolist() == ["33.3", "100.0"]
    assert audit.untrained(nobody, shaped, "Recall@50")["expected rank"].tolist()[0] == "100.0", "any cut-off"
    assert audit.perfect(shaped).startswith("Of 2 untrained models") and "for 1 of them" in audit.perfect(shaped)
    assert set(underflow(models=1, queries=1, width=8, words=16)) == set(shaped)


def test_strings_stand_among_the_papers_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pd.DataFrame({"rank": [1.0, 6.0], "released": 1.0, "tied": [False, True], "found": True, "also": 0.1})
    table = audit.strings(frame).set_index("method")
    assert table.loc["query string alone, expected rank (ours)", "Recall@5"] == "0.5000"
    assert table.loc["query string alone, released rank (ours)", "NDCG@10"] == "1.0000"
    assert {"TEM", "GenSR", "UniSAR"} <= set(table.index)
    monkeypatch.delenv("UNISR_KINDLE", raising=False)
    monkeypatch.setattr(audit, "QueryStringSettings", partial(QueryStringSettings, seed=99))
    assert "named by UNISR_KINDLE" in audit.strings_page()
