"""Figures draw the frame they are given, name their axes and write the same SVG twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from unisr.report import figures


@pytest.fixture
def frame() -> pd.DataFrame:
    rows = [("Popularity", "reference", "rec", 0.2), ("SASRec", "recommendation", "rec", 0.4),
            ("UniSAR", "joint", "rec", 0.3), ("UniSAR", "joint", "src", 0.8), ("TEM", "search", "src", 0.7)]
    made = pd.DataFrame(rows, columns=["method", "family", "task", "value"]).assign(metric="NDCG@10")
    return made.assign(low=made["value"] - 0.02, high=made["value"] + 0.03)


def test_comparison_shows_every_row_once(frame: pd.DataFrame) -> None:
    plot = figures.comparison(frame, "NDCG@10")
    points = sorted((m, float(v)) for t in plot.data for m, v in zip(t.y, t.x, strict=True))
    assert points == sorted(zip(frame["method"], frame["value"], strict=True))
    assert [t.name for t in plot.data if t.showlegend] == ["reference", "recommendation", "joint", "search"]
    assert list(plot.layout.yaxis.categoryarray) == figures.ordered(frame) == ["Popularity", "SASRec", "UniSAR", "TEM"]
    assert "NDCG@10" in plot.layout.xaxis.title.text


def test_comparison_svg_is_deterministic_and_readable(frame: pd.DataFrame, tmp_path: Path) -> None:
    first = figures.comparison_svg(frame, "NDCG@10", tmp_path / "a.svg").read_text()
    assert first == figures.comparison_svg(frame, "NDCG@10", tmp_path / "b.svg").read_text()
    assert all(f">{name}<" in first for name in ("Popularity", "SASRec", "UniSAR", "TEM", "recommendation", "search"))


def test_comparison_of_one_task_has_one_panel(frame: pd.DataFrame) -> None:
    plot = figures.comparison(frame[frame["task"] == "src"], "NDCG@10")
    assert {t.xaxis for t in plot.data} == {"x"}


def test_histogram_counts_all_values() -> None:
    frame = pd.DataFrame({"n": [1, 2, 3, 4, 7, 8, 1]})
    plot = figures.histogram(frame, "n", title="t", x="events", y="users")
    assert list(plot.data[0].x) == ["1", "2–3", "4–7", "8–15"]
    assert list(plot.data[0].y) == [2, 2, 2, 1]


def test_rank_frequency_is_descending() -> None:
    plot = figures.rank_frequency(np.array([0, 3, 9, 1]), title="t", x="rank", y="events")
    assert list(plot.data[0].y) == [9, 3, 1]


def test_bars_follow_their_frame() -> None:
    shares = pd.DataFrame({"event": ["x", "y"] * 2, "view": ["cf"] * 2 + ["semantic"] * 2, "weight": [0.5, 0.5, 1, 0]})
    assert [list(t.x) for t in figures.weights(shares, title="t").data] == [[0.5, 0.5], [1, 0]]
