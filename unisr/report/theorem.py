"""Theorem 4.1 by simulation, drawn and worded: errors, information, who wins where, and the proof step by step."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from matplotlib.figure import Figure
from plotly.subplots import make_subplots

from unisr.analysis import theory
from unisr.analysis.theory import Setting
from unisr.report.figures import LEGEND_BELOW, PALETTE, TEMPLATE, figure
from unisr.report.svg import svg_text
from unisr.report.widgets import side_by_side, table

NAMES = {
    "shared": "discriminative: one shared vector",
    "blocks": "generative: a vector per task",
    "subspaces": "generative: half a vector per task",
}
COLORS = dict(zip(NAMES, PALETTE, strict=False))
TITLES = {
    "error": "error from w_t (squared length)",
    "own": "error from its own target (squared length)",
    "printed": "Eq. 15 as printed [nats]",
    "squared": "Eq. 15 with w² [nats]",
    "label": "I(ŵX; Y) [nats]",
}
SIMILARITIES = tuple(np.round(np.linspace(-1, 1, 21), 2).tolist())


def view(*, dimension: int, samples: int, noise: float, similarity: float, repetitions: int) -> str:
    """HTML: the errors over all similarities as SVG, a table of the chosen point, and what it says."""
    setting = Setting(
        dimension=dimension, samples=samples, noise=noise, similarity=similarity, repetitions=repetitions
    )  # fmt: skip
    frame = theory.simulate(setting)
    return f"{side_by_side(errors_svg(setting), point(frame))}<p>{_sentence(setting, frame)}</p>"


def point(frame: pd.DataFrame) -> str:
    """An HTML table of a simulated point: rows are estimators.

    Args:
        frame: from `theory.simulate`.
    """
    wide = theory.means(frame).pivot(index="estimator", columns="measure", values="value")
    shown = wide.loc[list(NAMES), list(TITLES)].rename(index=NAMES, columns=TITLES)
    shown = shown.rename_axis("estimator").reset_index()
    return table(shown, bars=[TITLES["error"], TITLES["squared"], TITLES["label"]], caption="means over repetitions")


def _sentence(setting: Setting, frame: pd.DataFrame) -> str:
    rows = theory.contrast(frame).set_index("measure")
    edge = theory.break_even(setting.dimension, setting.samples, setting.noise)
    told = {name: _sign(rows.loc[name]) for name in ("error", "squared", "label")}
    where = ("With so few samples the expected error of a vector per task is not finite, so no similarity is named"
             if np.isnan(edge) else
             "Sharing has the smaller expected error whatever the tasks" if edge < -1 else
             f"In expectation sharing has the smaller error above a similarity of {edge:.2f}")  # fmt: skip
    bound = 2 * float(theory.information(1.0, setting.noise))
    return (f"A vector per task against the shared one: error {told['error']}, I by Eq. 15 with w² {told['squared']}, "
            f"I(ŵX; Y) {told['label']} (by the 95 % interval over repetitions). {where}. "
            f"The upper bound I(X; Y) is {bound:.2f} nats for both tasks together.")  # fmt: skip


def _sign(row: pd.Series) -> str:
    return "lower" if row["high"] < 0 else "higher" if row["low"] > 0 else "not clearly different"


def errors(setting: Setting, measure: str = "error") -> go.Figure:
    """Means of one measure over the similarity of the tasks with 95 % bands; dashed where a closed form exists."""
    frame = theory.sweep(setting, SIMILARITIES)
    plot = figure(_title(setting), "similarity of the tasks (cosine)", TITLES[measure], height=420)
    for name, rows in frame[frame["measure"] == measure].groupby("estimator", sort=False):
        x, color = rows["similarity"].tolist(), COLORS[name]
        ends = [*rows["high"].round(4), *rows["low"].round(4)[::-1]]
        plot.add_scatter(x=[*x, *x[::-1]], y=ends, fill="toself", fillcolor=color, opacity=0.2, mode="none",
                         hoverinfo="skip", showlegend=False)  # fmt: skip
        plot.add_scatter(x=x, y=rows["value"].round(4).tolist(), mode="lines+markers", name=NAMES[name],
                         line={"color": color}, marker={"size": 4})  # fmt: skip
    if measure == "error":
        for name, values in _expected(setting).items():
            plot.add_scatter(x=list(SIMILARITIES), y=values, mode="lines", showlegend=False, hoverinfo="skip",
                             line={"color": COLORS[name], "dash": "dot"})  # fmt: skip
    else:
        bound = 2 * float(theory.information(1.0, setting.noise))
        plot.add_hline(y=bound, line={"dash": "dash", "color": "#666"}, annotation_text="upper bound I(X; Y)")
    return plot.update_layout(**LEGEND_BELOW)


def errors_svg(setting: Setting) -> str:
    """The error figure as an SVG element, with the setting's similarity marked."""
    frame = theory.sweep(setting, SIMILARITIES[::2])
    def draw() -> Figure:
        plot = Figure(figsize=(5.6, 3.6), layout="constrained", dpi=72)
        axis = plot.subplots()
        for name, rows in frame[frame["measure"] == "error"].groupby("estimator", sort=False):
            axis.fill_between(rows["similarity"], rows["low"], rows["high"], color=COLORS[name], alpha=0.2, lw=0)
            axis.plot(rows["similarity"], rows["value"], "o-", ms=3, color=COLORS[name], label=NAMES[name])
        for name, values in _expected(setting).items():
            axis.plot(SIMILARITIES, values, ":", color=COLORS[name])
        axis.axvline(setting.similarity, color="#999", lw=1)
        axis.set(xlabel="similarity of the tasks (cosine)", ylabel=TITLES["error"], title=_title(setting))
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8)
        return plot

    return svg_text(draw)


def _title(setting: Setting) -> str:
    return f"d = {setting.dimension}, N = {setting.samples} per task, noise {setting.noise:g}"


def _expected(setting: Setting) -> dict[str, list[float]]:
    """Closed forms over `SIMILARITIES`."""
    at = [setting.model_copy(update={"similarity": c}) for c in SIMILARITIES]
    return {name: [theory.expected_error(one, name) for one in at] for name in ("shared", "blocks")}


def winners(grid: pd.DataFrame, noise: float, measure: str = "error") -> go.Figure:
    """Who is better at every simulated point of one noise level, with the exact break-even line of the error.

    Args:
        grid: from `theory.grid`.
    """
    rows = grid[(grid["measure"] == measure) & (grid["noise"] == noise)]
    sizes = sorted(rows["dimension"].unique())
    plot = make_subplots(cols=len(sizes), shared_yaxes=True, subplot_titles=[f"d = {d}" for d in sizes],
                         horizontal_spacing=0.03)  # fmt: skip
    better, worse = (rows["high"] < 0, rows["low"] > 0) if measure in ("error", "own") else (
        rows["low"] > 0, rows["high"] < 0)  # fmt: skip
    groups = {"a vector per task": (better, PALETTE[1], "circle"), "the shared vector": (worse, PALETTE[0], "square"),
              "undecided": (~better & ~worse, "#bbbbbb", "x")}  # fmt: skip
    for col, d in enumerate(sizes, start=1):
        for name, (chosen, color, symbol) in groups.items():
            some, first = rows[chosen & (rows["dimension"] == d)], rows.loc[chosen, "dimension"].min()
            plot.add_scatter(x=some["samples"].tolist(), y=some["similarity"].tolist(), mode="markers", name=name,
                             legendgroup=name, showlegend=bool(d == first), row=1, col=col,
                             marker={"color": color, "symbol": symbol, "size": 10})  # fmt: skip
        at = np.unique(np.geomspace(d + 2, rows["samples"].max(), 30).astype(int))
        edge = [theory.break_even(int(d), int(n), noise) for n in at]
        plot.add_scatter(x=at.tolist(), y=np.round(edge, 3).tolist(), mode="lines", name="break-even, exact",
                         legendgroup="edge", showlegend=col == 1, line={"color": "black", "width": 1}, row=1, col=col)
    plot.update_xaxes(type="log", title="samples per task", tickvals=sorted(rows["samples"].unique().tolist()))
    plot.update_yaxes(range=[-1.1, 1.1])
    plot.update_yaxes(title="similarity of the tasks (cosine)", col=1)
    plot.update_layout(template=TEMPLATE, title=f"{TITLES[measure]}: who is better at noise {noise:g}", height=420)
    return plot.update_layout(margin_t=80, **LEGEND_BELOW)


def channel(noise: float = 1.0) -> pd.DataFrame:
    """Columns w, printed, squared (closed forms) and measured (by nearest neighbors from samples), nats, of one X."""
    weights = (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 4.0)
    return pd.DataFrame({
        "w": weights, "printed": [float(theory.information(w, noise, squared=False)) for w in weights],
        "squared": [float(theory.information(w, noise)) for w in weights],
        "measured": [theory.measured_information(w, noise) for w in weights],
    })  # fmt: skip


def channel_figure(frame: pd.DataFrame) -> go.Figure:
    """Both forms of Eq. 15 and the measured information over w.

    Args:
        frame: from `channel`.
    """
    plot = figure("information of a Gaussian channel, noise 1", "w", "I(X; wX + e) [nats]")
    fine = np.round(np.linspace(-2.2, 4.2, 65), 2)
    for name, squared, color in (("w, as printed", False, PALETTE[3]), ("w²", True, PALETTE[2])):
        values = theory.information(fine, 1.0, squared=squared)
        kept = np.isfinite(values)
        plot.add_scatter(x=fine[kept].tolist(), y=values[kept].round(4).tolist(), mode="lines",
                         name=f"Eq. 15 with {name}", line={"color": color})  # fmt: skip
    plot.add_scatter(x=frame["w"].tolist(), y=frame["measured"].round(4).tolist(), mode="markers", name="measured",
                     marker={"color": "black", "size": 9})  # fmt: skip
    return plot.update_layout(**LEGEND_BELOW)
