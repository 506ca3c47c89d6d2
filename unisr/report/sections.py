"""The sections of `results/index.html`: one per dataset and preset, then methods, datasets, machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path

import pandas as pd

from unisr import registry
from unisr.data.schema import TASK_TITLES
from unisr.data.sources import sources
from unisr.errors import StoreError
from unisr.paths import results_dir
from unisr.report import curves, figures, html, linked, searches, tables
from unisr.report.curves import METRIC
from unisr.report.groups import Group
from unisr.report.store import Run

PAPER_TABLES = {"rec": 2, "src": 3}
"""GenSR's tables of the two tasks."""
FULL_RANKING = 4
"""GenSR's table of both tasks in full ranking."""


def results(group: Group) -> html.Section:
    """Figure, a table per task with its protocol, learning curves, runs and executed notebooks of one group."""
    parts = [f"<p class='muted'>{escape(group.problem)}</p>"] if group.problem else []
    if group.comparisons:
        parts.append(html.figure(figures.comparison(group.tidy, METRIC), f"{group.key}-comparison"))
    parts += [_task(group, task) for task in group.comparisons]
    plot = curves.of_methods(group.runs) if group.usual else None
    if plot is not None:
        told = "<p class='muted'>First seed of every method; the others are on its page. The mouse names a line.</p>"
        parts.append(html.details("learning curves", told + html.figure(plot, f"{group.key}-curves")))
    rows = [_run(run) for run in [*group.runs, *group.others]]
    parts.append(html.details("runs", html.table(rows)))
    pages = [path for notebook in group.notebooks if (path := notebook.with_suffix(".html")).exists()]
    if pages:
        links = [f"<li>{html.link(_address(path), path.stem)}</li>" for path in pages]
        parts.append(f"<h3>Executed notebooks</h3><ul>{''.join(links)}</ul>")
    return html.Section(group.key, group.title, "\n".join(parts))


def paper_table(task: str, candidates: str) -> pd.DataFrame:
    """The paper's numbers for a task and a kind of candidates; GenSR's row of full ranking is our GenSR-full."""
    if candidates != "full":
        return tables.paper_numbers(PAPER_TABLES[task])
    return tables.paper_numbers(FULL_RANKING).replace({"method": {"GenSR": "GenSR-full"}})


def _task(group: Group, task: str) -> str:
    """The table of a task, and folded away one metric beside the paper's numbers."""
    tidy, paper = group.comparisons[task], paper_table(task, group.candidates)
    shown = html.table(linked.results(group, tidy, results_dir()), caption=tables.legend(tidy))
    beside = html.table(linked.results(group, tidy[tidy["metric"] == METRIC], results_dir(), paper=paper))
    title = f"<h3>{TASK_TITLES[task].capitalize()}</h3>"
    return title + shown + html.details(f"{METRIC} beside the paper's (other datasets)", beside)


def _run(run: Run) -> dict[str, object]:
    name, folder = run.config.method, f"{_address(run.folder)}/"
    row: dict[str, object] = {"method": linked.to_page(name, results_dir()), "seed": run.config.seed}
    return row | linked.outcome(run) | {"run": html.link(folder, run.config.config_id)}


def tuning() -> html.Section:
    """What the hyper-parameter search of each method chose, per dataset."""
    body = "<p>One space and as many trials for every method, judged on validation alone; trial 0 is the preset.</p>"
    tuned = sorted(path.parent.name for path in results_dir().glob("*/tuning"))
    for dataset in tuned:
        try:
            chosen = searches.summary(dataset).round(4).astype(object).fillna("–")
            shown = html.table(chosen.to_dict("records"))
        except StoreError as error:
            shown = f"<p>{escape(str(error))}</p>"
        body += f"<h3>{escape(dataset)}</h3>{shown}"
    return html.Section("tuning", "Tuning", body if tuned else "<p class='muted'>No search is stored.</p>")


def methods(runs: Sequence[Run]) -> html.Section:
    """Every registered method with a link to its page."""
    counts = Counter(run.config.method for run in runs)
    rows = [
        {"method": linked.to_page(name, results_dir()), "family": method.card.family,
         "tasks": ", ".join(TASK_TITLES[task] for task in method.card.tasks), "stored runs": counts[name],
         "paper": method.card.paper}
        for name, method in registry.methods().items()
    ]  # fmt: skip
    return html.Section("methods", "Methods", html.table(rows))


def datasets() -> html.Section:
    """What is known of every source."""
    known = (source.as_dict() for source in sources().values())
    body = "".join(html.details(facts.pop("name"), html.definitions(facts)) for facts in known)
    return html.Section("datasets", "Datasets", body)


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


def _address(path: Path) -> str:
    """`path` as a link on the index."""
    return html.address(path, results_dir())
