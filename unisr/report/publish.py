"""From stored runs to tables, figures, `results/index.html` and the README's results; nothing is trained here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from unisr import registry
from unisr.data.schema import TASK_TITLES
from unisr.errors import UnisrError
from unisr.paths import home, results_dir
from unisr.report import figures, html, method_page, notebooks, sections, tables
from unisr.report.groups import Group, groups

TITLE = "unisr: search and recommendation, side by side"
LEAD = """This page is made by <code>unisr report</code> and opens offline. A method's name leads to its page; a number
leads to the folder of its run, a mean over seeds to the list of its runs. Heads of columns sort; the tooltip of a
number is its interval."""
MARKERS = ("<!-- results:begin -->", "<!-- results:end -->")


def report(*, readme: bool = False) -> Path:
    """Write tables, figures, a page per method and the index from the stored runs; return the index's path.

    Args:
        readme: also rewrite the results block of the checkout's README.md.

    Raises:
        UnisrError: `readme` is asked for, but README.md has no results block or there is no table to put in.
    """
    found, left_out = groups()
    script = html.write_assets(results_dir() / "assets")
    for group in found:
        left_out += write_group(group, script)
    for method in registry.methods().values():
        method_page.write(method.card, found, script)
    runs = [run for group in found for run in [*group.runs, *group.others]]
    parts = [*map(sections.results, found), sections.tuning(), sections.methods(runs), sections.datasets()]
    parts.append(sections.versions(runs))
    lead = f"<p>{len(runs)} stored runs. {LEAD}</p>"
    if left_out:
        lead += html.details(f"{len(left_out)} stored runs or notebooks left out", html.lines(left_out))
    index = results_dir() / "index.html"
    html.write(index, html.page(TITLE, lead, parts, plotly_js=html.address(script, results_dir())))
    if readme:
        write_readme(found, home() / "README.md")
    return index


def write_group(group: Group, script: Path) -> list[str]:
    """Tables as csv, html and md, figures as svg and html, executed notebooks as html; why some were left out."""
    for task, tidy in group.comparisons.items():
        path = group.folder / "tables" / group.file(TASK_TITLES[task])
        path.parent.mkdir(parents=True, exist_ok=True)
        tidy.to_csv(path.with_suffix(".csv"), index=False)
        path.with_suffix(".html").write_text(tables.to_html(tidy), encoding="utf-8")
        path.with_suffix(".md").write_text(tables.to_markdown(tidy), encoding="utf-8")
    if group.comparisons:
        path = group.folder / "figures" / f"{group.file('comparison')}.svg"
        figures.comparison_svg(group.tidy, sections.METRIC, path)
        figures.comparison(group.tidy, sections.METRIC).write_html(
            path.with_suffix(".html"), include_plotlyjs=os.path.relpath(script, path.parent), div_id="comparison"
        )
    damaged = []
    for executed in group.notebooks:
        try:
            notebooks.to_html(executed, script.parent)
        except notebooks.NotebookError as error:
            executed.with_suffix(".html").unlink(missing_ok=True)
            damaged.append(f"notebook left out: {error}")
    return damaged


def write_readme(found: Sequence[Group], readme: Path) -> None:
    """Rewrite the block between `MARKERS`: picture and tables of the first group that has some.

    Groups come with the fullest preset first, so full runs are shown where there are any.

    Raises:
        UnisrError: see `report`.
    """
    shown = next((g for g in found if g.comparisons), None)
    if shown is None:
        raise UnisrError(f"no table to put into {readme}: run `unisr reproduce` first")
    page = readme.read_text(encoding="utf-8")
    begin, end = MARKERS
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise UnisrError(f"{readme}: needs one line {begin} and, below it, one line {end}")
    picture = figures.comparison_svg(shown.tidy, sections.METRIC, results_dir() / "readme.svg")
    blocks = [f"![{sections.METRIC} of every method with 95 % intervals]({os.path.relpath(picture, readme.parent)})"]
    for task, tidy in shown.comparisons.items():
        blocks.append(f"**{TASK_TITLES[task].capitalize()}**\n\n{tables.to_markdown(tidy).strip()}")
    block = "\n\n".join([*blocks, f"**Cost**, mean over seeds\n\n{_costs(shown)}"])
    readme.write_text(f"{page[: page.index(begin)]}{begin}\n{block}\n{page[page.index(end) :]}", encoding="utf-8")


def _costs(group: Group) -> str:
    """Markdown table of what one run of each method took."""
    lines = ["| method | seeds | epochs | minutes | peak memory, MB | parameters |", "| --- |" + " ---: |" * 5]
    names = dict.fromkeys(run.config.method for run in group.runs)
    for name in names:
        costs = [run.cost for run in group.runs if run.config.method == name]
        epochs, minutes, memory = (
            sum(values) / len(costs)
            for values in zip(*((c.epochs, c.seconds.total / 60, c.peak_memory_mb) for c in costs), strict=True)
        )
        size = f"{costs[0].parameters:,}"
        lines.append(f"| {name} | {len(costs)} | {epochs:.0f} | {minutes:.1f} | {memory:,.0f} | {size} |")
    return "\n".join(lines)
