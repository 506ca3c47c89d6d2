"""Widgets draw their default view first, redraw on change and print nothing."""

from __future__ import annotations

import base64
import re
from typing import Any

import ipywidgets
import pandas as pd
import pytest

from unisr.errors import ConfigError
from unisr.report import widgets
from unisr.report.figures import FONT
from unisr.report.svg import NAMESPACE


def shown(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []
    monkeypatch.setattr(widgets, "display", calls.append)
    return calls


def test_explore_draws_the_default_and_then_follows_the_control(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = shown(monkeypatch)
    control = widgets.slider("user", range(10), 3)
    widgets.explore(lambda user: f"<b>{user}</b>", user=control)
    first, box = calls
    assert first.data == "<b>3</b>"
    control.value = 7
    assert box._repr_mimebundle_()["text/plain"] == "Controls (user): run the notebook to move them."
    assert [w.value for w in box.children if isinstance(w, ipywidgets.HTML)] == [widgets.FRAME.format("<b>7</b>")]
    assert capsys.readouterr().out == ""


def test_a_view_shows_its_drawings_as_images_and_only_controls_that_can_move(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = shown(monkeypatch)
    one, two = widgets.slider("one", [5], 5), widgets.dropdown("two", ["<a>", "b"], "<a>")
    widgets.explore(lambda **chosen: f"<p>{sorted(chosen)}</p><svg width='9'><path/></svg>", one=one, two=two)
    first, box = calls
    image = re.search(r'<img .*alt="one: 5, two: &lt;a&gt;" src="data:image/svg\+xml;base64,(.*)">', first.data)
    drawn = base64.b64decode(image[1]).decode()
    assert "<svg" not in first.data and drawn == f"<svg xmlns=\"{NAMESPACE}\" width='9'><path/></svg>"
    assert list(box.children[0].children) == [two]
    widgets.explore(lambda one: f"<b>{one}</b>", one=one)
    assert [call.data for call in calls[2:]] == ["<b>5</b>"]


def test_a_user_error_is_shown_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = shown(monkeypatch)

    def view(user: int) -> str:
        raise ConfigError("user < 3")

    widgets.explore(view, user=widgets.slider("user", range(10), 3))
    assert calls[0].data == "<p>user &lt; 3</p>"


def test_dropdown_maps_labels_to_values() -> None:
    assert widgets.dropdown("task", {"search": "src", "recommendation": "rec"}, "rec").label == "recommendation"


def test_table_escapes_text_and_scales_bars() -> None:
    layer = widgets.table(pd.DataFrame({"layer": ["backbone.model.encoder.block.1.layer.0.SelfAttention"]}))
    assert "backbone.<wbr>model.<wbr>encoder.<wbr>block.<wbr>1.layer.<wbr>0.SelfAttention" in layer
    page = widgets.table(pd.DataFrame({"title": ["<i>"], "weight": [0.5]}), bars=["weight"], caption="a & b")
    assert "&lt;i&gt;" in page and "a &amp; b" in page and f"width:{widgets.BAR}px" in page and "0.500" in page
    assert FONT in re.search(r'<table style="([^"]*)"', page)[1]


def test_an_interval_may_stand_below_its_number_but_is_not_broken() -> None:
    page = widgets.table(pd.DataFrame({"accuracy": ["0.49 (0.48 to 0.50)"]}))
    assert "white-space:normal'>0.49 <span style='white-space:nowrap'>(0.48 to 0.50)</span></td>" in page
