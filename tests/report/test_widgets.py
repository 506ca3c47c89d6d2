"""Widgets draw their default view first, redraw on change and print nothing."""

from __future__ import annotations

from typing import Any

import ipywidgets
import pandas as pd
import pytest

from unisr.errors import ConfigError
from unisr.report import widgets


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
    assert [w.value for w in box.children if isinstance(w, ipywidgets.HTML)] == ["<b>7</b>"]
    assert capsys.readouterr().out == ""


def test_a_user_error_is_shown_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = shown(monkeypatch)

    def view(user: int) -> str:
        raise ConfigError("user < 3")

    widgets.explore(view, user=widgets.slider("user", range(10), 3))
    assert calls[0].data == "<p>user &lt; 3</p>"


def test_dropdown_maps_labels_to_values() -> None:
    assert widgets.dropdown("task", {"search": "src", "recommendation": "rec"}, "rec").label == "recommendation"


def test_table_escapes_text_and_scales_bars() -> None:
    page = widgets.table(pd.DataFrame({"title": ["<i>"], "weight": [0.5]}), bars=["weight"], caption="a & b")
    assert "&lt;i&gt;" in page and "a &amp; b" in page and "width:120px" in page and "0.500" in page
