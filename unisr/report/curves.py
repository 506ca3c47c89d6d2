"""Learning curves from the epoch logs of stored runs: all methods side by side, and all trainings of one method."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from unisr import registry
from unisr.data.schema import TASK_TITLES
from unisr.report.figures import FAMILY_COLORS, LEGEND_BELOW, PALETTE, TEMPLATE, plain
from unisr.report.settings import changes, settings
from unisr.report.store import Run

METRIC = "NDCG@10"
"""The metric of the report's figures and of a method's places and runs."""
COLORS = [color for color in PALETTE if color != "#F0E442"]
"""A line of the palette's yellow can hardly be seen on white."""
DASHES = dict(zip(TASK_TITLES, ("solid", "dash"), strict=True))
EPOCHS = [digit * 10**power for power in range(4) for digit in (1, 2, 5)]
"""Ticks of the logarithmic axis."""


def of_methods(runs: Sequence[Run]) -> go.Figure | None:
    """Validation over the epochs of every method's first run, a panel per task, in its family's color; None if no run
    was validated.
    """
    first = {run.config.method: run for run in reversed(runs)}
    plot = make_subplots(cols=2, subplot_titles=list(TASK_TITLES.values()), horizontal_spacing=0.08)
    named: set[str] = set()
    for run in dict.fromkeys(first[run.config.method] for run in runs):
        family = registry.method(run.config.method).card.family
        for col, task in enumerate(TASK_TITLES, start=1):
            if (column := _column(task)) in run.losses:
                plot.add_scatter(
                    x=run.losses["epoch"].tolist(), y=run.losses[column].round(5).tolist(), mode="lines", name=family,
                    legendgroup=family, showlegend=family not in named, line={"color": FAMILY_COLORS[family]},
                    hovertemplate=f"{plain(run.config.method)}: %{{y:.4f}} at epoch %{{x}}<extra></extra>",
                    row=1, col=col,
                )  # fmt: skip
                named.add(family)
    plot.update_xaxes(title="epoch (logarithmic)", type="log", tickvals=EPOCHS)
    plot.update_yaxes(title=f"validation {METRIC} [0–1]", title_standoff=6, rangemode="tozero")
    plot.update_layout(template=TEMPLATE, height=460, **LEGEND_BELOW)
    return plot if named else None


def of_method(runs: Sequence[Run]) -> go.Figure | None:
    """Loss and validation over the epochs of every training, a color for each; None if there was none.

    Runs that rank other candidates with the weights of another run are not drawn twice. Trainings with changed settings
    are in the legend and are drawn when chosen there.
    """
    trained: dict[str, Run] = {}
    for run in runs:
        if len(run.losses):
            trained.setdefault(f"{run.config.seed} {settings(run.config)}", run)
    if not trained:
        return None
    plot = make_subplots(cols=2, horizontal_spacing=0.1)
    for number, run in enumerate(trained.values()):
        changed = changes(run.config)
        name = f"seed {run.config.seed}" + f", {plain(changed)}" * bool(changed)
        look = {"legendgroup": name, "visible": "legendonly" if changed else True, "mode": "lines+markers",
                "marker_size": 4, "line_color": COLORS[number % len(COLORS)]}  # fmt: skip
        epochs = run.losses["epoch"].tolist()
        plot.add_scatter(x=epochs, y=run.losses["loss"].round(5).tolist(), name=name, **look, row=1, col=1)
        for task, dash in DASHES.items():
            if (column := _column(task)) in run.losses:
                values = run.losses[column].round(5).tolist()
                plot.add_scatter(x=epochs, y=values, name=f"{name}, {TASK_TITLES[task]}", showlegend=False,
                                 line_dash=dash, **look, row=1, col=2)  # fmt: skip
    plot.update_xaxes(title="epoch")
    plot.update_yaxes(title="training loss", title_standoff=6, col=1)
    plot.update_yaxes(title=f"validation {METRIC} [0–1]", title_standoff=6, rangemode="tozero", col=2)
    plot.update_layout(template=TEMPLATE, height=380, **LEGEND_BELOW)
    return plot


def _column(task: str) -> str:
    """Of the epoch log."""
    return f"validation_{task}_{METRIC}"
