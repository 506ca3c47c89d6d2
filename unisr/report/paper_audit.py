"""What cannot be, or is wrongly marked, in Tables 2 and 3 of the GenSR paper, by arithmetic on the printed numbers.

With one positive per query, every query whose target is ranked 6…10 adds 1 to Recall@10 and between 1/log2(11) and
1/log2(7) to NDCG@10, so

    (NDCG@10 - NDCG@5) / (Recall@10 - Recall@5) ∈ [1/log2(11), 1/log2(7)] = [0.289, 0.356]

up to the rounding of the printed digits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd

from unisr.evaluation.metrics import consistent

WINDOW = (1 / math.log2(11), 1 / math.log2(7))
CELLS = ["Recall@5", "Recall@10", "NDCG@5", "NDCG@10"]
ROUNDING = 5e-5
"""Largest error of a number printed with four decimals."""
UNDERLINED = "UniSAR"
"""The method underlined as second in every column of the printed tables (the files of numbers hold stars only)."""

IMPOSSIBLE, NOT_SECOND, NO_STAR = "†", "‡", "§"
LEGEND = {
    IMPOSSIBLE: "cannot come from one target per query: Recall and NDCG of the row contradict each other",
    NOT_SECOND: "underlined as second in the paper, but another method is; the true second is underlined here",
    NO_STAR: "best, but without the star that the paper gives to its other best cells",
}

REMARKS = (
    ("KuaiSAR", "UniSAR", "The row equals, to four digits, the last test line of the log in UniSAR's own repository: "
     "it was copied from there or rerun on those data."),
    ("KuaiSAR", "all", "The data of that log have 22,700 users and 673,415 items after 5-core filtering; Table 1 "
     "prints the counts of the raw release instead."),
    ("Amazon", "GenSR", "The row equals the test log in GenSR's own repository."),
    ("both", "GenSR", "The released code leaves the placeholder of the query in the search prompt as it is: the model "
     "never reads the query."),
    ("both", "GenSR", "The released model fixes the temperature and has a LayerNorm after the L2 normalization, so its "
     "similarities are not cosines."),
)  # fmt: skip
"""(dataset, method, what is known of the row), from the repositories' logs and code; not found by this module."""


def ratios(paper: pd.DataFrame) -> pd.DataFrame:
    """The arithmetic test of every complete row of a frame of `paper_numbers`.

    Returns:
        columns dataset, task, method, ratio, low and high (the ratios that the printed digits allow), possible.
    """
    rows = []
    for (dataset, task, method), cells in _wide(paper).iterrows():
        r5, r10, n5, n10 = cells
        recall, gain, slack = r10 - r5, n10 - n5, 2 * ROUNDING
        rows.append({
            "dataset": dataset, "task": task, "method": method, "ratio": _divide(gain, recall),
            "low": _divide(gain - slack, recall + slack), "high": _divide(gain + slack, recall - slack),
            "possible": consistent(r5, r10, n5, n10, ROUNDING),
        })
    return pd.DataFrame(rows)


def findings(paper: pd.DataFrame) -> pd.DataFrame:
    """Every marked cell of a table: dataset, task, method, metric, mark and a sentence, in the paper's order."""
    found = [*_impossible(paper), *_not_second(paper), *_no_star(paper)]
    return pd.DataFrame(found, columns=["dataset", "task", "method", "metric", "mark", "finding"])


def summary(paper: pd.DataFrame) -> pd.DataFrame:
    """`findings` with one row per sentence: dataset, method, metrics (`all` for all four), mark, finding."""
    rows = findings(paper).groupby(["mark", "dataset", "method", "finding"], sort=False)["metric"].agg(list)
    rows = rows.map(lambda metrics: "all" if metrics == CELLS else ", ".join(metrics))
    return rows.rename("metrics").reset_index()[["dataset", "method", "metrics", "mark", "finding"]]


def remarks() -> pd.DataFrame:
    """What the released logs and code tell of rows of the tables: dataset, method, remark."""
    return pd.DataFrame(REMARKS, columns=["dataset", "method", "remark"])


def marked(paper: pd.DataFrame) -> pd.DataFrame:
    """`paper` with a column `mark`: the marks of each cell, mostly none."""
    keys = ["dataset", "task", "method", "metric"]
    marks = findings(paper).groupby(keys)["mark"].agg("".join).rename("mark").reset_index()
    return paper.merge(marks, on=keys, how="left", validate="1:1").fillna({"mark": ""})


def places(paper: pd.DataFrame) -> pd.DataFrame:
    """`paper` with columns best and second: highest and second-highest value of its dataset, task and metric."""
    columns = paper.groupby(["dataset", "task", "metric"])["value"]
    best = paper["value"] == columns.transform("max")
    below = paper["value"].where(~best)
    second = below == below.groupby([paper["dataset"], paper["task"], paper["metric"]]).transform("max")
    return paper.assign(best=best, second=second)


def _wide(paper: pd.DataFrame) -> pd.DataFrame:
    """The four printed means, a row per (dataset, task, method) that has them all, in the paper's order."""
    index = ["dataset", "task", "method"]
    wide = paper.pivot(index=index, columns="metric", values="value").reindex(columns=CELLS).dropna()
    order = pd.MultiIndex.from_frame(paper[index].drop_duplicates())
    return wide.loc[order[order.isin(wide.index)]]


def _divide(gain: float, recall: float) -> float:
    """gain / recall; infinite, with the sign of the gain, where recall does not grow."""
    return gain / recall if recall > 0 else math.copysign(math.inf, gain)


def _impossible(paper: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    for row in ratios(paper).itertuples():
        if not row.possible:
            text = (f"{row.ratio:.3f} ({row.low:.3f} to {row.high:.3f} with rounding); "
                    f"possible are {WINDOW[0]:.3f} to {WINDOW[1]:.3f}")
            for metric in CELLS:
                yield row.dataset, row.task, row.method, metric, IMPOSSIBLE, text


def _not_second(paper: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    for column, cells in _columns(paper):
        own = cells[(cells["method"] == UNDERLINED) & ~cells["second"]]
        for row in own.itertuples():
            text = f"{row.value:.4f} is underlined; {_second(cells)}"
            yield row.dataset, row.task, row.method, column, NOT_SECOND, text


def _no_star(paper: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    for column, cells in _columns(paper):
        for row in cells[cells["best"] & ~cells["significant"]].itertuples():
            text = f"{row.value:.4f} is best without a star; {_second(cells)}"
            yield row.dataset, row.task, row.method, column, NO_STAR, text


def _columns(paper: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The metric and the cells of every column of the printed table, with their places."""
    for (_, _, metric), cells in places(paper).groupby(["dataset", "task", "metric"], sort=False):
        yield metric, cells


def _second(cells: pd.DataFrame) -> str:
    second = cells[cells["second"]]
    return f"second is {' and '.join(second['method'])} with {second['value'].max():.4f}"
