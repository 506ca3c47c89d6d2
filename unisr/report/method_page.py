"""The page of a method: its card, its rows in all tables, its runs with what they took, learning curves, settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from unisr.data.schema import TASK_TITLES
from unisr.paths import results_dir
from unisr.registry import Card
from unisr.report import curves, html, linked
from unisr.report.curves import METRIC
from unisr.report.groups import Group, anchor
from unisr.report.settings import changes, settings
from unisr.report.store import Run

FILES = ("metrics.json", "config.json", "losses.parquet")
"""Of a run's folder: what its row opens."""
CURVES = """<p class='muted'>Solid: recommendation, dashed: search. What is pale in the legend is drawn when chosen
there.</p>"""


def write(card: Card, groups: Sequence[Group], script: Path) -> Path:
    """Write the page of a method from all groups and return its path; `script` is plotly's."""
    path = linked.page_of(card.name)
    own = [group for group in groups if _of(card, group)]
    index = html.link(html.address(results_dir() / "index.html", path.parent), "all methods")
    lead = f"<p>{index}</p>{html.card(card)}"
    parts = [_results(card, own, path.parent)] if own else []
    parts += [_runs(card, place, own, path.parent) for place in _places(own)]
    if own:
        parts.append(_settings([run for group in own for run in group.runs if run.config.method == card.name]))
    else:
        lead += "<p class='muted'>No run of this method is stored.</p>"
    page = html.page(card.name, lead, parts, plotly_js=html.address(script, path.parent))
    html.write(path, page)
    return path


def _of(card: Card, group: Group) -> list[Run]:
    """The method's runs in a group, those with the preset's settings first."""
    return [run for run in [*group.runs, *group.others] if run.config.method == card.name]


def _places(groups: Sequence[Group]) -> list[tuple[str, str]]:
    """Dataset and preset of the groups, each once."""
    return list(dict.fromkeys((group.dataset, group.preset) for group in groups))


def _results(card: Card, groups: Sequence[Group], start: Path) -> html.Section:
    """The method's row in every table, with its place among all rows."""
    rows: list[dict[str, object]] = []
    for group in groups:
        for task, tidy in group.comparisons.items():
            values = tidy[tidy["metric"] == METRIC].set_index("method")["value"]
            if card.name not in values:
                continue
            table = f"{html.address(results_dir() / 'index.html', start)}#{group.key}"
            (row,) = linked.results(group, tidy[tidy["method"] == card.name], start)
            place = f"{int((values > values[card.name]).sum()) + 1} (of {len(values)})"
            rows.append({"table": html.link(table, group.title), "task": TASK_TITLES[task], "place": place,
                         **{column: cell for column, cell in row.items() if column != "method"}})  # fmt: skip
    told = (f"Its row in every table; its place is that by {METRIC}. A number leads to its run's folder, a mean over "
            "seeds to the list of its runs below. Bold: best of the table, underlined: second.")  # fmt: skip
    return html.Section("results", "Results", html.table(rows, caption=told))


def _runs(card: Card, place: tuple[str, str], groups: Sequence[Group], start: Path) -> html.Section:
    """The runs on one dataset with one preset, a table for each kind of candidates, and their curves."""
    here = [group for group in groups if (group.dataset, group.preset) == place]
    key, parts = anchor("-".join(place)), []
    for group in here:
        head = "" if group.key == key else f' id="{group.key}"'
        parts.append(f"<h3{head}>{group.candidates} candidates</h3>")
        parts.append(html.table([_run(run, start) for run in _of(card, group)]))
    plot = curves.of_method([run for group in here for run in _of(card, group)])
    if plot is None:
        parts.append("<p class='muted'>No learning curve: this method is not trained by epochs.</p>")
    else:
        parts.append(f"<h3>Learning curves</h3>{CURVES}{html.figure(plot, f'{key}-curves')}")
    return html.Section(key, " · ".join(place), "\n".join(parts))


def _run(run: Run, start: Path) -> dict[str, object]:
    """A row of the table of runs."""
    folder = html.address(run.folder, start)
    files = (html.link(f"{folder}/{name}", name.split(".")[0]) for name in FILES)
    return {
        "seed": run.config.seed, "settings": changes(run.config) or "the preset's",
        "folder": html.link(f"{folder}/", run.config.config_id), "files": Markup(" · ").join(files),
        **linked.outcome(run),
    }  # fmt: skip


def _settings(runs: Sequence[Run]) -> html.Section:
    """Settings of `runs`, which changed none, a column for each dataset and preset."""
    columns = {f"{run.config.dataset} · {run.config.preset}": settings(run.config)
               for run in runs}
    names = dict.fromkeys(name for values in columns.values() for name in values)
    rows = [{"setting": name} | {title: _word(values.get(name)) for title, values in columns.items()} for name in names]
    return html.Section("settings", "Settings of the presets", html.table(rows))


def _word(value: object) -> str:
    return "–" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
