"""Tables whose numbers lead to their runs: a single run's to its folder, a mean's to the list of its runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from markupsafe import Markup

from unisr.data.schema import TASK_TITLES
from unisr.evaluation import METRICS
from unisr.paths import results_dir
from unisr.report import html, tables
from unisr.report.curves import METRIC
from unisr.report.groups import Group
from unisr.report.store import Run

OURS = ("seeds", *METRICS)
"""Columns whose numbers are of stored runs; the others are the paper's."""


def page_of(method: str) -> Path:
    """Where the page of a method is."""
    return results_dir() / "methods" / f"{method.replace('/', '_')}.html"


def to_page(method: str, start: Path) -> Markup:
    """A method's name as a link to its page, for a page in the folder `start`."""
    return html.link(html.address(page_of(method), start), method)


def source(runs: Sequence[Run], group: Group, start: Path) -> str:
    """Address of what the mean of `runs` (of one method) was made from: the folder of the only run, or their list."""
    if len(runs) == 1:
        return html.address(runs[0].folder, start) + "/"
    return f"{html.address(page_of(runs[0].config.method), start)}#{group.key}"


def outcome(run: Run) -> dict[str, str]:
    """Cells of a run for `html.table`: its quality, and what it took."""
    cost = run.cost
    means = {f"{METRIC} {title}": f"{run.metrics[task][METRIC]:.4f}" if task in run.metrics else "–"
             for task, title in TASK_TITLES.items()}  # fmt: skip
    return means | {
        "epochs (best)": f"{cost.epochs} ({cost.best_epoch})",
        "minutes": f"{cost.seconds.total / 60:.1f}",
        "peak memory, MB": f"{cost.peak_memory_mb:,.0f}",
        "parameters": f"{cost.parameters:,}",
    }


def results(
    group: Group, tidy: pd.DataFrame, start: Path, *, paper: pd.DataFrame | None = None
) -> list[dict[str, Markup]]:
    """Rows for `html.table`, one a method, on a page in the folder `start`.

    Args:
        tidy: a comparison of the group, or some of its methods and metrics.
        paper: from `unisr.report.tables.paper_numbers`; its numbers stand beside ours, without a link.
    """
    text, marks, hints = tables.cells(tidy, paper)
    made = []
    for name in text.index:
        runs = [run for run in group.runs if run.config.method == name and tidy["task"].iloc[0] in run.metrics]
        url = source(runs, group, start)
        cells = {column: html.link(url, value, hint=hints.at[name, column]) if column in OURS else value
                 for column, value in text.loc[name].items()}  # fmt: skip
        marked = {column: tables.MARKS[marks.at[name, column]].format(cell) for column, cell in cells.items()}
        made.append({"method": to_page(name, start)} | marked)
    return made
