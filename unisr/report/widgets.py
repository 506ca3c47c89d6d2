"""Controls for notebooks that survive batch execution and nbval.

The default view is drawn as an ordinary output; a control then writes another view into an `HTML` widget. Nothing is
printed from a callback (text inside a widget reaches stdout under nbval) and no `FigureWidget` is used (its ids are
random and it stores megabytes).
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets
import pandas as pd
from IPython.display import HTML, display

from unisr.errors import UnisrError
from unisr.report.figures import FONT, PALETTE
from unisr.report.html import LONG
from unisr.report.svg import as_images

BAR = 60
"""Pixels of a column's longest bar."""
INTERVAL = re.compile(r"(?<= )(\(\S+ to \S+\))$")
"""In a crowded table it stands below its number, unbroken."""
WHOLE_LABEL = {"description_width": "initial"}
ROW = {"flex_flow": "row wrap", "grid_gap": "0 24px"}
FRAME = '<div class="jp-RenderedHTMLCommon" style="line-height:1.5">{}</div>'
"""Makes a view in a widget look as it does in an ordinary output."""
HINT = "<em>Move a control to see another view here.</em>"


def slider(label: str, values: Sequence[Any], value: Any) -> ipywidgets.SelectionSlider:
    """A slider over the given values that reports when it is released."""
    return ipywidgets.SelectionSlider(options=list(values), value=value, description=label, continuous_update=False,
                                      style=WHOLE_LABEL)  # fmt: skip


def dropdown(label: str, options: Sequence[Any] | dict[str, Any], value: Any) -> ipywidgets.Dropdown:
    """A list of choices; a dictionary maps what is shown to what the view receives."""
    shown = list(options.items()) if isinstance(options, dict) else list(options)
    return ipywidgets.Dropdown(options=shown, value=value, description=label, style=WHOLE_LABEL,
                               layout={"width": "max-content"})  # fmt: skip


class _Controls(ipywidgets.VBox):
    """A row of controls over the view that they redraw; in words where no kernel is behind them."""

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        names = ", ".join(control.description for control in self.children[0].children)
        words = f"Controls ({names}): run the notebook to move them."
        return super()._repr_mimebundle_(**kwargs) | {"text/plain": words}


def explore(view: Callable[..., str], **controls: ipywidgets.Widget) -> None:
    """Draw `view` for the controls' values, then show the controls, which redraw it in a widget below.

    Args:
        view: keyword arguments named as the controls; returns HTML. A `UnisrError` is shown as its message.
        controls: of `slider` and `dropdown`; those with a single choice are not shown.
    """
    target = ipywidgets.HTML(HINT)

    def draw() -> str:
        try:
            page = view(**{name: control.value for name, control in controls.items()})
            return as_images(page, ", ".join(f"{c.description}: {c.label or c.value}" for c in controls.values()))
        except UnisrError as error:
            return f"<p>{html.escape(str(error))}</p>"

    def redraw(_: Any) -> None:
        target.value = FRAME.format(draw())

    for control in controls.values():
        control.observe(redraw, names="value")
    display(HTML(draw()))
    if moved := [control for control in controls.values() if len(control.options) > 1]:
        display(_Controls([ipywidgets.HBox(moved, layout=ROW), target]))


def table(frame: pd.DataFrame, *, bars: Sequence[str] = (), caption: str = "") -> str:
    """A frame as an HTML table; numbers of the columns `bars` (0 or more) are drawn as bars to the column's largest."""
    top = {name: max(float(frame[name].max()), 1e-12) for name in bars if len(frame)}
    head = "".join(f"<th style='text-align:left;padding:2px 10px'>{html.escape(str(c))}</th>" for c in frame.columns)
    colors = dict(zip(bars, PALETTE, strict=False))
    rows = "".join(
        "<tr>" + "".join(_cell(v, top.get(c), colors.get(c, "")) for c, v in row.items()) + "</tr>"
        for row in frame.to_dict("records")
    )
    title = f"<caption style='text-align:left;font-weight:600;padding:4px 10px'>{html.escape(caption)}</caption>"
    return (f'<table style="border-collapse:collapse;font:13px {FONT};margin:8px 0">{title if caption else ""}'
            f"<thead style='border-bottom:1px solid #999'><tr>{head}</tr></thead><tbody>{rows}</tbody></table>")


def _cell(value: Any, top: float | None, color: str) -> str:
    style = "padding:2px 10px;text-align:left"
    if top is None:
        shown = f"{value:.3f}" if isinstance(value, float) else html.escape(str(value))
        short = len(shown) <= LONG
        shown = shown if short else re.sub(r"(?<=[A-Za-z]\.)(?=\S)", "<wbr>", shown)  # names of layers
        shown, breaks = INTERVAL.subn(r"<span style='white-space:nowrap'>\1</span>", shown)
        return f"<td style='{style};white-space:{'nowrap' if short and not breaks else 'normal'}'>{shown}</td>"
    width = BAR * max(0.0, float(value)) / top
    bar = f"<span style='display:inline-block;height:10px;width:{width:.0f}px;background:{color}'></span>"
    return f"<td style='{style};white-space:nowrap'>{bar} {value:.3f}</td>"


def side_by_side(*parts: str) -> str:
    """HTML fragments next to each other, wrapping on a narrow screen."""
    cells = "".join(f"<div style='max-width:100%;overflow-x:auto'>{part}</div>" for part in parts)
    return f"<div style='display:flex;flex-wrap:wrap;gap:24px;align-items:flex-start'>{cells}</div>"
