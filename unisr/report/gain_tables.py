"""Tables with intervals drawn in their cells: metrics at a cut-off, gains per group of queries. Plain HTML and SVG."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
import pandas as pd

from unisr.data.schema import TASK_TITLES
from unisr.report import gains
from unisr.report.figures import FONT, PALETTE
from unisr.report.store import Run
from unisr.report.widgets import side_by_side

WIDTH = 260
"""Of the drawn interval, in pixels."""
CELL = "padding:2px 10px;white-space:nowrap"


def cutoffs(runs: Sequence[Run], task: str, k: int) -> str:
    """HTML of `gains.at_cutoff`, best first, with NDCG@k and its interval drawn from 0 on."""
    frame = gains.at_cutoff(runs, task, k)
    metric, kind = frame.columns[1], runs[0].config.candidates
    drawn = _drawings(frame[metric], frame["low"], frame["high"])
    caption = f"{TASK_TITLES[task].capitalize()}, {kind} candidates, the first {k}"
    return _table(frame.drop(columns=["low", "high"]), drawn, caption=caption, heading=f"{metric}, 95 % interval")


def gain(runs: Sequence[Run], known: pd.DataFrame, task: str, *, method: str, other: str, metric: str) -> str:
    """HTML of `gains.by_bin`: a table per property, side by side, with the gain and its interval drawn around 0.

    Args:
        known: from `gains.properties_of`.
    """
    parts = []
    for name, frame in gains.spread(runs, known, task, method=method, other=other, metric=metric).items():
        drawn = _drawings(frame["gain"], frame["low"], frame["high"])
        shown = frame.drop(columns=["low", "high"]).astype({"n": object})
        caption = f"{metric}, gain of {method} over {other} by {name}"
        parts.append(_table(shown, drawn, caption=caption, heading="gain, 95 % interval"))
    return side_by_side(*parts)


def _table(frame: pd.DataFrame, drawings: Sequence[str], *, caption: str, heading: str) -> str:
    titles = [*zip(frame.columns, frame.iloc[0], strict=True), (heading, heading)]
    head = "".join(f"<th style='{CELL};text-align:{_align(v)}'>{html.escape(str(c))}</th>" for c, v in titles)
    rows = "".join(
        "<tr>" + "".join(f"<td style='{CELL};text-align:{_align(v)}'>{_text(v)}</td>" for v in row)
        + f"<td style='{CELL}'>{drawing}</td></tr>"
        for row, drawing in zip(frame.itertuples(index=False, name=None), drawings, strict=True)
    )  # fmt: skip
    title = f"<caption style='text-align:left;font-weight:600;padding:4px 10px'>{html.escape(caption)}</caption>"
    return (f"<table style=\"border-collapse:collapse;font:13px {FONT};margin:8px 0\">{title}"
            f"<thead style='border-bottom:1px solid #999'><tr>{head}</tr></thead><tbody>{rows}</tbody></table>")


def _text(value: object) -> str:
    return f"{round(value, 3) + 0.0:.3f}" if isinstance(value, float) else html.escape(str(value))


def _align(value: object) -> str:
    return "left" if isinstance(value, str) else "right"


def _drawings(value: pd.Series, low: pd.Series, high: pd.Series) -> list[str]:
    """One SVG per row, all on one scale: a line from low to high with a dot at the value, and where zero is."""
    ends = np.array([value, low.fillna(value), high.fillna(value)], dtype=float)
    left, right = min(float(ends.min()), 0.0), max(float(ends.max()), 0.0)
    scale = (WIDTH - 12) / max(right - left, 1e-9)
    places = 6 + (ends - left) * scale
    origin = 6 - left * scale
    return [_drawing(x, a, b, origin) for x, a, b in places.T]


def _drawing(x: float, a: float, b: float, origin: float) -> str:
    return (f'<svg width="{WIDTH}" height="14" role="img">'
            f'<line x1="{origin:.1f}" x2="{origin:.1f}" y1="0" y2="14" stroke="#bbb"/>'
            f'<line x1="{a:.1f}" x2="{b:.1f}" y1="7" y2="7" stroke="{PALETTE[0]}" stroke-width="2"/>'
            f'<circle cx="{x:.1f}" cy="7" r="4" fill="{PALETTE[0]}"/></svg>')
