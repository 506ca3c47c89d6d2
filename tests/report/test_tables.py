"""Comparisons: means, tests, correction, what may not be compared; their renderings; the papers' numbers."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from tests.report.stored import environment, random_ranks, saved
from unisr.errors import UnisrError, UnknownNameError
from unisr.evaluation.metrics import METRICS, ndcg
from unisr.report import tables
from unisr.report.comparison import TableError, comparison
from unisr.report.store import Run
from unisr.report.tables import paper_numbers, style, to_html, to_markdown


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNISR_RESULTS", str(tmp_path))
    return tmp_path


@pytest.fixture
def three(results: Path) -> list[Run]:
    """SASRec (two seeds) is best by far, Lexical and Popularity are close."""
    return [
        saved(random_ranks(31), random_ranks(10, 50)),
        saved(random_ranks(29), method="Lexical"),
        saved(random_ranks(9, seed=1), method="SASRec"),
        saved(random_ranks(9, seed=2), method="SASRec", seed=1),
    ]


def cell(tidy: pd.DataFrame, method: str, metric: str = "NDCG@10") -> pd.Series:
    return tidy[(tidy["method"] == method) & (tidy["metric"] == metric)].iloc[0]


def test_means_intervals_and_seeds(three: list[Run]) -> None:
    tidy = comparison(three, "rec")
    assert tidy["method"].unique().tolist() == ["Popularity", "Lexical", "SASRec"]
    assert tidy["metric"].unique().tolist() == list(METRICS)
    best = cell(tidy, "SASRec")
    per_query = (ndcg(random_ranks(9, seed=1), 10) + ndcg(random_ranks(9, seed=2), 10)) / 2
    assert best["value"] == pytest.approx(per_query.mean())
    assert (best["seeds"], best["n"]) == (2, 400)
    half = 1.96 * per_query.std() / 20
    assert (best["low"], best["high"]) == pytest.approx((per_query.mean() - half, per_query.mean() + half), abs=0.005)
    assert ((tidy["low"] <= tidy["value"]) & (tidy["value"] <= tidy["high"])).all()


def test_tests_and_correction(three: list[Run]) -> None:
    tidy = comparison(three, "rec")
    best, second, third = (cell(tidy, name) for name in ("SASRec", "Lexical", "Popularity"))
    assert (best["against"], second["against"], third["against"]) == ("Lexical", "SASRec", "SASRec")
    ours = (ndcg(random_ranks(9, seed=1), 10) + ndcg(random_ranks(9, seed=2), 10)) / 2
    theirs = stats.ttest_rel(ours, ndcg(random_ranks(29), 10))
    assert best["p"] == pytest.approx(theirs.pvalue) and best["difference"] == -second["difference"] > 0
    assert (best["best"], best["second"], second["best"], second["second"]) == (True, False, False, True)
    assert best["p_adjusted"] == second["p_adjusted"] >= best["p"]
    counted = tidy[tidy["method"] != "SASRec"]
    assert len(counted) == 2 * len(METRICS)
    expected = multipletests(counted["p"], method="holm")[1]
    assert counted["p_adjusted"].to_numpy() == pytest.approx(expected)
    assert "10 comparisons" in tidy.attrs["star"] and "p < 0.01" in tidy.attrs["star"]


def test_only_a_clear_best_has_a_star(three: list[Run]) -> None:
    text = tables._text(comparison(three, "rec", metrics=["NDCG@10"]), None, 4)["NDCG@10"]
    assert text["SASRec"].endswith("*") and not text["Lexical"].endswith("*")
    close = comparison(three[:2], "rec", metrics=["NDCG@10"])
    assert not close["significant"].any() and not tables._text(close, None, 4)["NDCG@10"].str.endswith("*").any()


def test_named_reference(three: list[Run]) -> None:
    tidy = comparison(three, "rec", reference="Popularity", metrics=["MRR"])
    assert pd.isna(cell(tidy, "Popularity", "MRR")["p"]) and cell(tidy, "Popularity", "MRR")["against"] == ""
    assert cell(tidy, "Lexical", "MRR")["against"] == cell(tidy, "SASRec", "MRR")["against"] == "Popularity"
    assert cell(tidy, "SASRec", "MRR")["significant"] and "2 comparisons" in tidy.attrs["star"]
    with pytest.raises(UnknownNameError, match="did you mean Popularity"):
        comparison(three, "rec", reference="Popularty")


def test_other_test_without_correction(three: list[Run]) -> None:
    tidy = comparison(three, "rec", test="wilcoxon", correction="none", metrics=["MRR"])
    theirs = stats.wilcoxon(1 / random_ranks(31), (1 / random_ranks(9, seed=1) + 1 / random_ranks(9, seed=2)) / 2)
    assert cell(tidy, "Popularity", "MRR")["p"] == cell(tidy, "Popularity", "MRR")["p_adjusted"]
    assert cell(tidy, "Popularity", "MRR")["p"] == pytest.approx(theirs.pvalue)
    for wrong in ({"test": "t"}, {"correction": "bonferroni"}, {"metrics": ["NDCG@20"]}):
        with pytest.raises(UnknownNameError):
            comparison(three, "rec", **wrong)


def test_equal_methods_share_the_first_place(results: Path) -> None:
    runs = [saved([1, 2, 9]), saved([1, 2, 9], method="Lexical"), saved([4, 5, 30], method="SASRec")]
    tidy = comparison(runs, "rec", metrics=["MRR"])
    assert tidy["best"].tolist() == [True, True, False] and tidy["second"].tolist() == [False, False, True]
    assert tidy["p"].tolist()[:2] == [1, 1] and not tidy["significant"].any()


def test_a_single_row_has_no_test(results: Path) -> None:
    tidy = comparison([saved([1, 2, 30])], "rec")
    assert tidy["p"].isna().all() and not tidy["significant"].any() and tidy["best"].all()
    assert "SASRec" not in to_html(tidy) and "0 comparisons" in to_markdown(tidy)


def test_runs_without_the_task_are_left_out(three: list[Run]) -> None:
    assert comparison(three, "src")["method"].unique().tolist() == ["Popularity"]
    with pytest.raises(TableError, match="none of 3 runs has results for task 'src'"):
        comparison(three[1:], "src")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"candidates": "hard"}, "candidates 'uniform' and 'hard'"),
        ({"histories": "released"}, "histories 'clean' and 'released'"),
        ({"preset": "small", "max_users": 200}, "preset 'quick' and 'small'"),
        ({"max_users": 50}, "max_users 200 and 50"),
        ({"dataset": "ml-100k"}, "dataset 'synthetic' and 'ml-100k'"),
        ({"made": environment(candidates_hash="x")}, "candidates_hash 'c' and 'x'"),
        ({"made": environment(dataset_hash="x")}, "dataset_hash 'd' and 'x'"),
    ],
)
def test_other_protocols_are_refused(results: Path, settings: dict, message: str) -> None:
    first, other = saved([1, 2]), saved([1, 2], method="Lexical", **settings)
    with pytest.raises(TableError, match=f"{first.folder.name} and {other.folder.name} .*{message}"):
        comparison([first, other], "rec")


def test_other_queries_are_refused(results: Path) -> None:
    with pytest.raises(TableError, match="Popularity and Lexical ranked different queries"):
        comparison([saved([1, 2]), saved([1, 2, 3], method="Lexical")], "rec")


def test_variants_need_labels(results: Path) -> None:
    runs = [saved([1, 2, 4]), saved([1, 3, 4], training={"negatives": 9})]
    with pytest.raises(TableError, match="would both be the row 'Popularity'"):
        comparison(runs, "rec")
    tidy = comparison(runs, "rec", label=lambda run: f"{run.config.training.negatives} negatives")
    assert tidy["method"].unique().tolist() == ["4 negatives", "9 negatives"]
    with pytest.raises(TableError, match="given twice"):
        comparison([runs[0], runs[0]], "rec")


def test_html_marks_tooltips_and_caption(three: list[Run]) -> None:
    tidy = comparison(three, "rec", metrics=["NDCG@5", "NDCG@10"])
    page = to_html(tidy)
    assert page == to_html(tidy), "the same input gives the same text"
    assert "Recommendation, 400 queries · synthetic" in page and "higher than the best other row" in page
    assert "1 positive + 99 uniform negatives" in page and "2 seeds (0, 1)" in page
    assert "intervals: 95%, bootstrap over queries" in page
    assert re.search(r">(<b>[\d.*]+</b>)<", page) and re.search(r">(<u>[\d.*]+</u>)<", page)
    best = cell(tidy, "SASRec")
    assert f"{best['value']:.4f}*" in page and f"{best['low']:.4f} to {best['high']:.4f}" in page
    assert re.search(r"corrected p [\d.e-]+ against Lexical", page)
    assert style(tidy).data["seeds"].tolist() == ["1", "1", "2"]


def test_labels_are_escaped(results: Path) -> None:
    runs = [saved([1, 2, 9]), saved([3, 4, 9], method="Lexical")]
    tidy = comparison(runs, "rec", label=lambda run: f'<b>a|b</b> "{run.config.method}"')
    assert "<b>a" not in to_html(tidy) and "&lt;b&gt;a" in to_html(tidy)
    assert "against ‹b>a|b‹/b> 'Popularity'" in to_html(tidy)
    assert r"&lt;b&gt;a\|b&lt;/b&gt;" in to_markdown(tidy) and "<b>" not in to_markdown(tidy)


def test_markdown(three: list[Run]) -> None:
    tidy = comparison(three, "rec", metrics=["NDCG@10"])
    lines = to_markdown(tidy).splitlines()
    assert lines[:2] == ["| method | seeds | NDCG@10 |", "| --- | ---: | ---: |"]
    best, second, third = (cell(tidy, name)["value"] for name in ("SASRec", "Lexical", "Popularity"))
    assert lines[2:5] == [f"| Popularity | 1 | {third:.4f} |", f"| Lexical | 1 | <u>{second:.4f}</u> |",
                          rf"| SASRec | 2 | **{best:.4f}\*** |"]
    low, high = cell(tidy, "SASRec")[["low", "high"]]
    assert rf"**{best:.4f}\*** [{low:.4f}, {high:.4f}]" in to_markdown(tidy, intervals=True)


def test_beside_the_paper(three: list[Run]) -> None:
    tidy = comparison(three, "rec", metrics=["NDCG@5", "MRR"])
    text = style(tidy, paper_numbers(2)).data
    assert text.columns.tolist() == ["seeds", "NDCG@5", "NDCG@5 (paper, Amazon)", "NDCG@5 (paper, KuaiSAR)", "MRR"]
    rows = paper_numbers(2).set_index(["dataset", "method", "metric"])["value"]
    printed = rows["Amazon", "SASRec", "NDCG@5"]
    assert text.loc["SASRec", "NDCG@5 (paper, Amazon)"] == f"{printed:.4f}"
    assert text.loc["Popularity", "NDCG@5 (paper, Amazon)"] == ""
    assert f"{printed:.4f}" in to_markdown(tidy, paper_numbers(2))
    with pytest.raises(TableError, match="no numbers for recommendation, only for: search"):
        style(tidy, paper_numbers(3))


def test_paper_numbers() -> None:
    found = paper_numbers(2)
    assert list(found.columns) == ["dataset", "task", "method", "metric", "value", "significant"]
    gensr = found[(found["method"] == "GenSR") & (found["dataset"] == "Amazon")]
    assert gensr["significant"].all() and gensr["value"].between(0, 1).all() and len(gensr) == 4
    assert not found[found["method"] == "DIN"]["significant"].any()
    assert found[found["value"].isna()]["method"].unique().tolist() == ["IDGenRec"], "no number is printed on KuaiSAR"
    for number in (1, 3, 4, 5):
        assert np.isfinite(paper_numbers(number)["value"]).all()
    with pytest.raises(UnknownNameError, match="gensr_table"):
        paper_numbers(9)


def test_a_bad_paper_file_names_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "paper_dir", lambda: tmp_path)
    head = "dataset,task,method,metric,value,significant"
    (tmp_path / "gensr_table1.csv").write_text(f"{head}\na,b,c,d,0.5,0\na,b,c,e,o.5,0\n")
    with pytest.raises(UnisrError, match=r"gensr_table1.csv, line 3: value 'o.5'"):
        paper_numbers(1)
    (tmp_path / "gensr_table1.csv").write_text("dataset,value\na,0.5\n")
    with pytest.raises(UnisrError, match="columns are dataset, value"):
        paper_numbers(1)
