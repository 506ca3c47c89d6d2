"""Our table beside the paper's: rows by family as the paper has them, impossible and wrongly marked cells flagged."""

from __future__ import annotations

import hashlib
from html import escape

import pandas as pd

from unisr import registry
from unisr.data.schema import TASK_TITLES
from unisr.errors import UnknownNameError
from unisr.report import paper_audit, tables
from unisr.report.lineup import ordered

STYLES = [
    {"selector": "", "props": "border-collapse: collapse; margin: 8px 0"},
    {"selector": "caption", "props": "caption-side: top; max-width: 75em"},
    {"selector": "td, th", "props": "padding: 3px 5px; white-space: nowrap"},
    {"selector": "td", "props": "text-align: right"},
    {"selector": "th", "props": "text-align: left; vertical-align: top"},
    {"selector": "th.col_heading.level1", "props": "text-align: right"},
    {"selector": "tbody tr", "props": "border-top: 1px solid #ddd"},
]


def html(tidy: pd.DataFrame, paper: pd.DataFrame, dataset: str, *, digits: int = 4) -> str:
    """HTML of the frame of `comparison` beside the numbers of `paper_numbers` for one of the paper's datasets.

    Rows are the methods of either side; our intervals are tooltips. The same input gives the same text.

    Raises:
        UnknownNameError: the paper's table has no such dataset.
    """
    printed = _printed(paper, TASK_TITLES[tidy["task"].iloc[0]], dataset)
    own, flagged = _ours(tidy, digits), _paper(printed, digits)
    rows = _rows([*tidy["method"].unique(), *printed["method"].unique()])
    index = pd.MultiIndex.from_frame(rows, names=[None, None])
    text, marks, tips = (
        pd.concat({"here": left, f"paper, {dataset}": right}, axis=1, names=[None, None])
        .reindex(rows["method"]).fillna("").set_axis(index)
        for left, right in zip(own, flagged, strict=True)
    )  # fmt: skip
    styled = tables.marked(text, marks).style.format_index(escape="html").format_index(escape="html", axis=1)
    # An attribute, which also holds where JupyterLab leaves the style sheet out.
    styled = styled.set_table_attributes('style="font-size:12px"').set_tooltips(tips)
    styled = styled.set_table_styles(STYLES, overwrite=False)
    key = hashlib.sha256((text.to_csv() + tips.to_csv()).encode()).hexdigest()[:8]
    return styled.set_caption(tables.CAPTION.format(_caption(tidy, printed))).set_uuid(key).to_html()


def _ours(tidy: pd.DataFrame, digits: int) -> list[pd.DataFrame]:
    """Text, 'bold' or 'underlined', and tooltips, each with a row per method and a column per metric, seeds first."""
    star = tidy["significant"] & (tidy["difference"] > 0)
    text = [f"{v:.{digits}f}{'*' * bool(s)}" for v, s in zip(tidy["value"], star, strict=True)]
    hints = [f"{low:.{digits}f} to {high:.{digits}f}" for low, high in zip(tidy["low"], tidy["high"], strict=True)]
    frames = [_pivot(tidy, cells) for cells in (text, _emphasis(tidy), hints)]
    seeds = tidy.groupby("method")["seeds"].first().astype(str)
    for frame, column in zip(frames, (seeds, "", ""), strict=True):
        frame.insert(0, "seeds", column)
    return frames


def _printed(paper: pd.DataFrame, task: str, dataset: str) -> pd.DataFrame:
    """The paper's cells of one task and dataset with their places and flags, under the suite's names of the methods."""
    rows = paper_audit.places(paper_audit.marked(paper))
    rows = rows[(rows["task"] == task) & (rows["dataset"] == dataset)]
    if rows.empty:
        raise UnknownNameError("dataset of the paper", dataset, paper["dataset"].unique())
    ours = {name.lower(): name for name in registry.methods()}
    return rows.assign(method=[ours.get(name.lower(), name) for name in rows["method"]])


def _paper(printed: pd.DataFrame, digits: int) -> list[pd.DataFrame]:
    """As `_ours`, with the paper's stars and our flags; the tooltips say what a flag means."""
    text = [
        f"{row.value:.{digits}f}{'*' * row.significant}{row.mark}" if pd.notna(row.value) else "–"
        for row in printed.itertuples()
    ]
    hints = ["; ".join(paper_audit.LEGEND[mark] for mark in marks) for marks in printed["mark"]]
    return [_pivot(printed, cells) for cells in (text, _emphasis(printed), hints)]


def _pivot(long: pd.DataFrame, cells: list[str]) -> pd.DataFrame:
    wide = long.assign(cell=cells).pivot(index="method", columns="metric", values="cell")
    return wide.reindex(index=long["method"].unique(), columns=long["metric"].unique()).astype(object)


def _emphasis(rows: pd.DataFrame) -> list[str]:
    return ["bold" if b else "underlined" if s else "" for b, s in zip(rows["best"], rows["second"], strict=True)]


def _rows(names: list[str]) -> pd.DataFrame:
    """Columns family and method: every name once in the order of `ordered`, the paper's own last."""
    known, names = registry.methods(), list(dict.fromkeys(names))
    rows = [(known[name].card.family, name) for name in ordered([name for name in names if name in known])]
    rows += [("not in the suite", name) for name in names if name not in known]
    return pd.DataFrame(rows, columns=["family", "method"])


def _caption(tidy: pd.DataFrame, printed: pd.DataFrame) -> str:
    """The legend of our side, then of the flags that the shown cells carry."""
    meaning = "Of the paper: best and second by its numbers, stars as printed."
    flags = [f"{mark} {text}." for mark, text in paper_audit.LEGEND.items() if mark in "".join(printed["mark"])]
    return "<br>".join([escape(tables.legend(tidy)), meaning, *map(escape, flags)])
