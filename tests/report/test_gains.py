"""Values at any cut-off, paired differences, groups of queries, and the tables that show them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.report.stored import environment, random_ranks, saved
from unisr.data.corpus import words_of
from unisr.data.histories import Histories
from unisr.data.schema import Dataset, Split, Task
from unisr.errors import UnisrError, UnknownNameError
from unisr.report import figures, gain_tables, gains
from unisr.report.comparison import TableError, comparison
from unisr.report.store import Run


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    monkeypatch.setenv("UNISR_RESULTS", str(tmp_path))
    return [saved(random_ranks(31)), saved(random_ranks(9, seed=1), method="SASRec"),
            saved(random_ranks(9, seed=2), method="SASRec", seed=1), saved(random_ranks(10, seed=3), method="UniSAR")]


@pytest.mark.parametrize("k", [1, 3, 20])
def test_measures_at_any_cutoff(k: int) -> None:
    rank = np.array([1.0, 2.5, 3.0, 20.0, 21.0])
    assert gains.measure(f"Recall@{k}")(rank).tolist() == [float(r <= k) for r in rank]
    assert gains.measure(f"NDCG@{k}")(rank) == pytest.approx([1 / np.log2(r + 1) if r <= k else 0 for r in rank])


@pytest.mark.parametrize("name", ["NDCG", "Recall@0", "MAP@5", "NDCG@-1"])
def test_unknown_measures_are_refused(name: str) -> None:
    with pytest.raises(UnknownNameError, match="metric"):
        gains.measure(name)


def test_values_average_the_seeds_of_a_method(runs: list[Run]) -> None:
    wide = gains.values(runs, "rec", "MRR")
    assert list(wide) == ["Popularity", "SASRec", "UniSAR"]
    assert wide["SASRec"].to_numpy() == pytest.approx((1 / random_ranks(9, seed=1) + 1 / random_ranks(9, seed=2)) / 2)
    table = gains.at_cutoff(runs, "rec", 7)
    assert table["NDCG@7"].is_monotonic_decreasing and len(table) == 3
    assert (table["low"] < table["NDCG@7"]).all() and (table["NDCG@7"] < table["high"]).all()
    with pytest.raises(TableError, match="src"):
        gains.values(runs, "src", "MRR")


def test_values_refuse_other_candidates_or_queries(runs: list[Run]) -> None:
    with pytest.raises(TableError, match="not of one protocol"):
        gains.values([*runs, saved([1.0, 2.0], method="TEM", candidates="hard")], "rec", "MRR")
    with pytest.raises(TableError, match="different queries"):
        gains.values([*runs, saved([1.0, 2.0], method="LightGCN")], "rec", "MRR")


def test_differences_are_paired(runs: list[Run]) -> None:
    """All methods share each query's difficulty, so the paired interval is narrower than that of two means."""
    tidy = comparison(runs, "rec")
    frame = gains.against_best(runs, tidy, "NDCG@10").set_index("method")
    best, other = tidy[tidy["best"] & (tidy["metric"] == "NDCG@10")]["method"].iloc[0], "Popularity"
    assert frame.loc[best, "difference"] == frame.loc[best, "difference_low"] == 0
    wide = gains.values(runs, "rec", "NDCG@10")
    paired = (wide[other] - wide[best]).to_numpy()
    half = 1.96 * paired.std() / np.sqrt(len(paired))
    ends = frame.loc[other, ["difference_low", "difference_high"]].astype(float).to_numpy()
    assert ends == pytest.approx([paired.mean() - half, paired.mean() + half], abs=0.005)
    means = tidy[tidy["metric"] == "NDCG@10"].set_index("method")["significant"]
    assert frame["significant"].to_dict() == means.to_dict()


def test_the_figure_fills_what_differs(runs: list[Run]) -> None:
    frame = gains.against_best(runs, comparison(runs, "rec"), "NDCG@10")
    plot = figures.differences(frame, "NDCG@10", title="t")
    right = [t for t in plot.data if t.xaxis == "x2"]
    fills = {m: c for t in right for m, c in zip(t.y, t.marker.color, strict=True)}
    hollow = frame.loc[~frame["significant"] & (frame["difference"] < 0), "method"]
    assert {m for m, c in fills.items() if c == "white"} == set(hollow)
    assert len(fills) == 3 and sum(len(t.y) for t in plot.data if t.xaxis == "x") == 3


def test_a_reference_far_away_is_written_at_the_edge() -> None:
    rows = {"method": ["SASRec", "UniSAR", "Popularity"], "family": ["recommendation", "joint", "reference"]}
    frame = pd.DataFrame(rows).assign(value=[0.9, 0.8, 0.1], significant=[True, True, True])
    frame = frame.assign(low=frame["value"], high=frame["value"], difference=[0.0, -0.1, -0.8])
    frame = frame.assign(difference_low=frame["difference"] - 0.01, difference_high=frame["difference"] + 0.01)
    plot = figures.differences(frame, "NDCG@10", title="t")
    assert [(a.y, a.text) for a in plot.layout.annotations if a.y == "Popularity"] == [("Popularity", "◂ -0.800")]
    assert -0.2 < plot.layout.xaxis2.range[0] < -0.1


def test_bins_hold_every_value_once_and_are_even() -> None:
    numbers = pd.Series(np.random.default_rng(0).integers(0, 200, size=1000))
    groups = gains.bins(numbers)
    assert groups.notna().all() and len(groups.cat.categories) == gains.BINS
    assert groups.value_counts().between(200, 300).all()
    for label, part in numbers.groupby(groups, observed=True):
        low, high = map(int, str(label).split("–"))
        assert (part.min(), part.max()) == (low, high)


def test_bins_of_few_values_are_the_values() -> None:
    groups = gains.bins(pd.Series([4, 2, 2, 7], index=[10, 11, 12, 13]))
    assert groups.tolist() == ["4", "2", "2", "7"] and list(groups.cat.categories) == ["2", "4", "7"]
    assert gains.bins(pd.Series([3] * 50)).unique().tolist() == ["3"]


def test_bins_of_a_value_that_fills_several_quarters() -> None:
    numbers = pd.Series([0] * 900 + list(range(1, 101)))
    groups = gains.bins(numbers)
    assert groups.notna().all() and groups.cat.categories[0].startswith("0") and groups.value_counts().sum() == 1000


def test_gains_of_groups_add_up() -> None:
    wide = pd.DataFrame({"A": [1.0, 0.5, 0.5, 0.0], "B": [0.0, 0.0, 0.5, 1.0]}, index=[3, 5, 8, 9])
    groups = gains.bins(pd.Series([1, 1, 2, 2, 9], index=[3, 5, 8, 9, 99]))
    frame = gains.by_bin(wide, "A", "B", groups).set_index("bin")
    assert frame["n"].to_dict() == {"all": 4, "1": 2, "2": 2}, "a group without a query is left out"
    assert frame["gain"].to_dict() == {"all": 0.125, "1": 0.75, "2": -0.5}
    assert (frame["low"] <= frame["gain"]).all() and (frame["gain"] <= frame["high"]).all()
    with pytest.raises(UnknownNameError, match="did you mean A"):
        gains.by_bin(wide, "a", "B", groups)
    with pytest.raises(TableError, match="test targets"):
        gains.by_bin(wide, "A", "B", groups.drop(8))


def test_a_single_query_has_no_interval() -> None:
    wide = pd.DataFrame({"A": [1.0, 0.5], "B": [0.0, 0.0]})
    frame = gains.by_bin(wide, "A", "B", gains.bins(pd.Series([1, 2]))).set_index("bin")
    assert frame.loc[["1", "2"], ["low", "high"]].isna().all(axis=None) and frame.loc["all", "low"] > 0


@pytest.mark.parametrize("task", ["rec", "src"])
def test_properties_count_what_is_earlier_and_trained(world: Dataset, task: str) -> None:
    known = gains.properties(world, Histories(world), task)
    rows = world.rows(Split.TEST, {"rec": Task.REC, "src": Task.SRC}[task])
    assert known.index.tolist() == rows.tolist()
    events = world.events
    trained = events[(events["split"] == Split.TRAIN) & (events["task"] == Task.REC)]
    for row in rows[:40]:
        event = events.loc[row]
        earlier = events[(events["user"] == event["user"]) & (events["time"] < event["time"])]
        assert known.loc[row, "history length [events]"] == len(earlier)
        popularity = (trained["item"] == event["item"]).sum()
        assert known.loc[row, "item popularity [training events]"] == popularity
        if task == "src":
            text = world.queries["text"][event["query"]]
            assert known.loc[row, "query length [words]"] == len(words_of(text))
    assert ("query length [words]" in known) == (task == "src")


def test_properties_of_other_data_are_refused(runs: list[Run]) -> None:
    other = saved([1.0, 2.0], method="TEM", made=environment(dataset_hash="other"))
    with pytest.raises(UnisrError, match="other data"):
        gains.properties_of(other, "rec")


def test_tables_draw_every_row_and_escape_nothing_twice(runs: list[Run]) -> None:
    page = gain_tables.cutoffs(runs, "rec", 3)
    assert page.count("<svg") == 3 and "NDCG@3" in page and "uniform candidates, the first 3" in page
    number = np.arange(400)
    known = pd.DataFrame({"history length [events]": number % 5, "item popularity [training events]": number})
    page = gain_tables.gain(runs, known, "rec", method="SASRec", other="Popularity", metric="MRR")
    assert page.count("<table") == 2 and page.count("<svg") == (1 + 5) + (1 + gains.BINS)
    xs = [float(x) for x in re.findall(r'c[x]="([\d.]+)"', page)]
    assert all(0 <= x <= gain_tables.WIDTH for x in xs)
    with pytest.raises(TableError, match="choose two"):
        gain_tables.gain(runs, known, "rec", method="SASRec", other="SASRec", metric="MRR")


def test_best_two(runs: list[Run]) -> None:
    tidy = comparison(runs, "rec")
    first, second = gains.best_two(tidy, "MRR")
    values = tidy[tidy["metric"] == "MRR"].set_index("method")["value"]
    assert values[first] == values.max() and values[second] == values.drop(first).max()
    assert gains.best_two(comparison(runs[:1], "rec"), "MRR") == ("Popularity", "Popularity")
