"""A comparison as HTML or Markdown (best bold, second underlined, star as in `comparison`), and the papers' numbers."""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from markupsafe import Markup
from pandas.io.formats.style import Styler

from unisr.data.schema import TASK_TITLES
from unisr.errors import UnisrError, UnknownNameError
from unisr.paths import paper_dir
from unisr.report.comparison import TableError, comparison, one_protocol, protocol_line

__all__ = [
    "TableError", "cells", "comparison", "legend", "one_protocol", "paper_numbers", "protocol_line", "style", "to_html",
    "to_markdown",
]
STYLES = [{"selector": "", "props": "margin: 8px 0"}, {"selector": "caption", "props": "caption-side: top"}]
MARKS = {"bold": Markup("<b>{}</b>"), "underlined": Markup("<u>{}</u>"), "": Markup("{}")}
CAPTION = "<div style='text-align:left;font-size:90%'>{}</div>"
"""Elements, since JupyterLab leaves style sheets out of a notebook that it does not trust yet."""
PAPER_COLUMNS = ["dataset", "task", "method", "metric", "value", "significant"]


def paper_numbers(table: int, paper: str = "gensr") -> pd.DataFrame:
    """Printed numbers of one table of a paper: dataset, task, method, metric, value, significant (the paper's star).

    A cell the paper leaves empty has the value NaN.

    Raises:
        UnknownNameError: there is no file of this table; the message lists those that are there.
        UnisrError: the file lacks a column or has a value that is no number.
    """
    name = f"{paper}_table{table}"
    path = paper_dir() / f"{name}.csv"
    if not path.exists():
        raise UnknownNameError("paper table", name, [p.stem for p in paper_dir().glob("*_table*.csv")])
    frame = pd.read_csv(path, keep_default_na=False, dtype=str)
    if list(frame.columns) != PAPER_COLUMNS:
        raise UnisrError(f"{path}: columns are {', '.join(frame.columns)}; they must be {', '.join(PAPER_COLUMNS)}")
    value = pd.to_numeric(frame["value"], errors="coerce")
    if (wrong := (value.isna() & (frame["value"] != "")).to_numpy()).any():
        row = int(wrong.argmax())
        raise UnisrError(f"{path}, line {row + 2}: value {frame['value'][row]!r} is no number")
    return frame.assign(value=value, significant=frame["significant"] == "1")


def style(tidy: pd.DataFrame, paper: pd.DataFrame | None = None, *, digits: int = 4) -> Styler:
    """The tidy frame of `comparison` as a table: a row per method, a column per metric, the interval as tooltip.

    Args:
        paper: from `paper_numbers`; its numbers for the same task and methods stand beside ours, one column per
            metric and dataset of the paper, with the paper's own stars.
    """
    text, marks, hints = cells(tidy, paper, digits=digits)
    # Tooltips are CSS strings, which format(escape=…) does not reach.
    safe = hints.map(lambda hint: hint.replace("<", "‹").replace('"', "'").replace("\\", "/"))
    key = hashlib.sha256(text.to_csv().encode()).hexdigest()[:8]
    return (
        marked(text, marks).style
        .format_index(escape="html")
        .format_index(escape="html", axis=1)
        .set_tooltips(safe)
        .set_table_styles(STYLES, overwrite=False)
        .set_caption(CAPTION.format(html.escape(legend(tidy), quote=False)))
        .set_uuid(key)
    )


def marked(text: pd.DataFrame, marks: pd.DataFrame) -> pd.DataFrame:
    """The cells as HTML: `text` escaped, with the elements of its mark ('bold', 'underlined' or '')."""
    shown = [[MARKS[m].format(t) for t, m in zip(*pair, strict=True)]
             for pair in zip(text.to_numpy(), marks.to_numpy(), strict=True)]  # fmt: skip
    return pd.DataFrame(shown, index=text.index, columns=text.columns)


def cells(
    tidy: pd.DataFrame, paper: pd.DataFrame | None = None, *, digits: int = 4
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """What stands in every cell of `style`'s table, in three frames of one shape.

    Returns:
        its text; its mark, 'bold', 'underlined' or ''; its tooltip: the interval, and the test where there is one.
    """
    text = _text(tidy, paper, digits)
    hints = [
        f"{row.low:.{digits}f} to {row.high:.{digits}f}"
        + (f"; corrected p {row.p_adjusted:.2g} against {row.against}" if row.against else "")
        for row in tidy.itertuples()
    ]
    return text, _marks(tidy, text), _pivot(tidy, hints, text)


def to_html(tidy: pd.DataFrame, paper: pd.DataFrame | None = None, *, digits: int = 4) -> str:
    """`style` as HTML that needs nothing else; the same input gives the same text."""
    return style(tidy, paper, digits=digits).to_html()


def to_markdown(
    tidy: pd.DataFrame, paper: pd.DataFrame | None = None, *, digits: int = 4, intervals: bool = False
) -> str:
    """The same table in Markdown, the legend below; `intervals` writes low and high after each value."""
    text, marks, _ = cells(tidy, paper, digits=digits)
    forms = {"bold": "**{}**", "underlined": "<u>{}</u>", "": "{}"}
    starred = text.replace(r"\*$", r"\\*", regex=True)
    bounds = _pivot(tidy, [f" [{r.low:.{digits}f}, {r.high:.{digits}f}]" for r in tidy.itertuples()], text)
    lines = [["method", *text.columns], ["---", *["---:"] * len(text.columns)]]
    for i, name in enumerate(text.index):
        row = [forms[marks.iat[i, j]].format(starred.iat[i, j]) + (bounds.iat[i, j] if intervals else "")
               for j in range(len(text.columns))]
        lines.append([html.escape(name, quote=False).replace("|", r"\|"), *row])
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    # "p < 0.01" is no tag; what a machine is called could hold one.
    told = re.sub(r"<(?=\S)", "&lt;", legend(tidy)).replace("*", r"\*")
    return f"{table}\n\n{told}\n"


def legend(tidy: pd.DataFrame) -> str:
    """Task, protocol and what the marks mean, in two sentences."""
    task = TASK_TITLES[tidy["task"].iloc[0]]
    protocol, star, interval = (tidy.attrs.get(key, "") for key in ("protocol", "star", "interval"))
    chance = f" · {tidy.attrs['chance']}" if "chance" in tidy.attrs else ""
    n = int(tidy["n"].iloc[0])
    return f"{task.capitalize()}, {n:,} queries · {protocol}{chance}. Best bold, second underlined; {star}; {interval}."


def _marks(tidy: pd.DataFrame, shape: pd.DataFrame) -> pd.DataFrame:
    """'bold', 'underlined' or '' for every cell."""
    return _pivot(tidy, np.select([tidy["best"], tidy["second"]], ["bold", "underlined"], ""), shape)


def _pivot(tidy: pd.DataFrame, values: Sequence[str] | np.ndarray, shape: pd.DataFrame) -> pd.DataFrame:
    """One text per (method, metric) in the rows and columns of `shape`, empty elsewhere."""
    wide = tidy.assign(cell=values).pivot(index="method", columns="metric", values="cell")
    return wide.reindex(index=shape.index, columns=shape.columns).astype(object).fillna("")


def _text(tidy: pd.DataFrame, paper: pd.DataFrame | None, digits: int) -> pd.DataFrame:
    """The table's cells as text: seeds, our values with stars and, if asked, the paper's."""
    methods = pd.Index(tidy["method"].unique())
    starred = tidy["significant"] & (tidy["difference"] > 0)
    ours = tidy.assign(cell=_cells(tidy["value"], starred, digits))
    wide = ours.pivot(index="method", columns="metric", values="cell")
    text = pd.DataFrame({"seeds": tidy.groupby("method")["seeds"].first()[methods].astype(str)})
    printed = {} if paper is None else _printed(paper, tidy["task"].iloc[0], digits)
    for metric in tidy["metric"].unique():
        text[metric] = wide[metric]
        for dataset, column in printed.get(metric, {}).items():
            text[f"{metric} (paper, {dataset})"] = column.reindex(methods.str.lower()).fillna("").to_numpy()
    text.index.name = None
    return text


def _cells(values: pd.Series, starred: pd.Series, digits: int) -> list[str]:
    return [f"{value:.{digits}f}" + "*" * bool(star) for value, star in zip(values, starred, strict=True)]


def _printed(paper: pd.DataFrame, task: str, digits: int) -> dict[str, pd.DataFrame]:
    """The paper's cells of a task as text: for each metric a frame [method in lower case, dataset]."""
    rows = paper[(paper["task"] == TASK_TITLES[task]) & paper["value"].notna()]
    if rows.empty:
        tasks = ", ".join(paper["task"].unique())
        raise TableError(f"the paper's table has no numbers for {TASK_TITLES[task]}, only for: {tasks}")
    rows = rows.assign(cell=_cells(rows["value"], rows["significant"], digits), method=rows["method"].str.lower())
    wide = rows.pivot(index="method", columns=["metric", "dataset"], values="cell")
    return {metric: wide[metric] for metric in rows["metric"].unique()}
