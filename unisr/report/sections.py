"""The sections of `results/index.html`: one per dataset and preset, then methods, datasets, machines."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

import pandas as pd

from unisr import registry
from unisr.data.schema import TASK_TITLES
from unisr.data.sources import sources
from unisr.paths import results_dir
from unisr.report import figures, html, searches, tables
from unisr.report.groups import Group
from unisr.report.store import Run

METRIC = "NDCG@10"
"""The metric of the figures."""
PAPER_TABLES = {"rec": 2, "src": 3}
"""GenSR's tables of the two tasks."""
FULL_RANKING = 4
"""GenSR's table of both tasks in full ranking."""
LINKED = ("config", "metrics", "environment")
"""Files of a run that its row links to, without `.json`."""


def results(group: Group) -> html.Section:
    """Figure, a table per task with its protocol, learning curves, runs and executed notebooks of one group."""
    key = re.sub(r"\W+", "-", group.title)
    parts = [f"<p class='muted'>{escape(group.problem)}</p>"] if group.problem else []
    if group.comparisons:
        parts.append(html.figure(figures.comparison(group.tidy, METRIC), f"{key}-comparison"))
    parts += [_task(task, tidy, group.candidates) for task, tidy in group.comparisons.items()]
    curves = learning_curves(group.runs)
    if len(curves):
        plot = figures.learning_curves(curves, title="Validation during training", y="mean NDCG@5 [0–1]")
        parts.append(html.details("learning curves", html.figure(plot, f"{key}-curves")))
    rows = [_run(run) for run in [*group.runs, *group.others]]
    parts.append(html.details("runs", html.table(rows, raw=["files"])))
    if group.notebooks:
        links = [f"<li>{html.link(relative(p.with_suffix('.html')), p.stem)}</li>" for p in group.notebooks]
        parts.append(f"<h3>Executed notebooks</h3><ul>{''.join(links)}</ul>")
    return html.Section(key, group.title, "\n".join(parts))


def paper_table(task: str, candidates: str) -> pd.DataFrame:
    """The paper's numbers for a task and a kind of candidates; GenSR's row of full ranking is our GenSR-full."""
    if candidates != "full":
        return tables.paper_numbers(PAPER_TABLES[task])
    return tables.paper_numbers(FULL_RANKING).replace({"method": {"GenSR": "GenSR-full"}})


def _task(task: str, tidy: pd.DataFrame, candidates: str) -> str:
    ours = f"<h3>{TASK_TITLES[task].capitalize()}</h3><div class='sortable scroll'>{tables.to_html(tidy)}</div>"
    beside = tables.to_html(tidy, paper_table(task, candidates))
    return ours + html.details("beside the paper's numbers (other datasets)", f"<div class='scroll'>{beside}</div>")


def learning_curves(runs: Sequence[Run]) -> pd.DataFrame:
    """Mean validation NDCG@5 over the epochs of every trained run: series, epoch, value."""
    parts = []
    for run in runs:
        columns = [c for c in run.losses if c.startswith("validation_") and c.endswith("NDCG@5")]
        if columns:
            frame = pd.DataFrame({"epoch": run.losses["epoch"], "value": run.losses[columns].mean(axis=1)})
            parts.append(frame.assign(series=f"{run.config.method} seed {run.config.seed}"))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _run(run: Run) -> dict[str, object]:
    row: dict[str, object] = {"method": run.config.method, "seed": run.config.seed, "config": run.config.config_id}
    for task, title in TASK_TITLES.items():
        row[f"{METRIC} {title}"] = f"{run.metrics[task][METRIC]:.4f}" if task in run.metrics else "–"
    cost = run.cost
    return row | {
        "epochs (best)": f"{cost.epochs} ({cost.best_epoch})",
        "minutes": f"{cost.seconds.total / 60:.1f}",
        "peak MB": f"{cost.peak_memory_mb:,.0f}",
        "parameters": f"{cost.parameters:,}",
        "files": "&nbsp;".join(html.link(relative(run.folder / f"{name}.json"), name) for name in LINKED),
    }


def tuning() -> html.Section:
    """What the hyper-parameter search of each method chose, per dataset."""
    body = "<p>One space and one number of trials for every method, judged on validation alone; trial 0 is the preset."
    for dataset in sorted(path.parent.name for path in results_dir().glob("*/tuning")):
        chosen = searches.summary(dataset).round(4).astype(object).fillna("–")
        body += f"<h3>{escape(dataset)}</h3>{html.table(chosen.to_dict('records'))}"
    return html.Section("tuning", "Tuning", body)


def methods() -> html.Section:
    """The card of every registered method."""
    return html.Section("methods", "Methods", "".join(html.card(m.card) for m in registry.methods().values()))


def datasets() -> html.Section:
    """What is known of every source."""
    return html.Section("datasets", "Datasets", html.table([s.as_dict() for s in sources().values()]))


def versions(runs: Sequence[Run]) -> html.Section:
    """Where and with what the runs were made, one row per distinct environment."""
    rows: dict[tuple[str, ...], dict[str, object]] = {}
    for run in runs:
        made = run.environment
        packages = ", ".join(f"{name} {version}" for name, version in made.packages.items())
        row = {"device": made.device, "cpu": made.cpu, "threads": str(made.threads), "python": made.python,
               "source revision": made.commit or "–", "packages": packages}
        counted = rows.setdefault(tuple(row.values()), row | {"runs": 0})
        counted["runs"] = int(str(counted["runs"])) + 1
    return html.Section("versions", "Machines and versions", html.table(list(rows.values())))


def relative(path: Path) -> str:
    """`path` as seen from the index."""
    return os.path.relpath(path, results_dir())
