"""Verdicts on hidden states, and what is drawn and said of them."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from unisr.analysis.parameter_space import DATA, FINAL
from unisr.errors import StoreError, UnisrError
from unisr.report import space, space_figures
from unisr.report.space import Spaces

CHANCE = {"accuracy": 0.5, "silhouette": 0.0, "angle": 10.0, "equal": 0.0}


def rows(trained: dict[str, float], untrained: dict[str, float], *, seeds: int = 3) -> pd.DataFrame:
    """Numbers of one layer; what is not given is at chance. Intervals reach .04 to both sides."""
    parts = []
    for seed, (weights, given) in product(range(seeds), {"trained": trained, "untrained": untrained}.items()):
        for labels, values in (("tasks", {**CHANCE, **given}), ("shuffled", CHANCE), ("halves", {"angle": 20.0})):
            parts += [{"seed": seed, "weights": weights, "labels": labels, "measure": name, "value": v,
                       "low": v - 0.04, "high": v + 0.04} for name, v in values.items()]  # fmt: skip
    return pd.DataFrame(parts).assign(queries=60, width=8)


@pytest.mark.parametrize(("claim", "trained", "untrained", "word"), [
    ("overlap", {}, {}, "supported: together"),
    ("overlap", {"accuracy": 0.9}, {}, "not supported: apart"),
    ("overlap", {"equal": 1.0}, {"equal": 1.0}, "undecided: the layer does not see the task"),
    ("separation", {"accuracy": 0.9}, {"accuracy": 0.6}, "supported: more apart than untrained"),
    ("separation", {"accuracy": 0.9}, {"accuracy": 0.9}, "not supported: apart, but so is the untrained model"),
    ("separation", {}, {}, "not supported: together"),
    ("separation", {"accuracy": 1.0}, {"accuracy": 1.0}, "not supported: apart, but so is the untrained model"),
    ("separation", {"accuracy": 1.0, "silhouette": 0.6}, {"accuracy": 1.0, "silhouette": 0.3}, "supported: more"),
    ("", {"accuracy": 0.9}, {}, ""),
])  # fmt: skip
def test_the_rule_discounts_what_the_controls_show(
    claim: str, trained: dict[str, float], untrained: dict[str, float], word: str
) -> None:
    found = space.verdict(rows(trained, untrained), claim)
    assert found.startswith(word) and bool(found) == bool(word)


def test_seeds_that_disagree_are_undecided() -> None:
    mixed = pd.concat([rows({"accuracy": 0.9}, {}, seeds=1), rows({}, {}, seeds=1).assign(seed=1)])
    assert all(space.verdict(mixed, claim).startswith("undecided") for claim in ("overlap", "separation"))


def places(method: str, layer: str, weights: str) -> pd.DataFrame:
    rng = np.random.default_rng(len(method))
    frames = [pd.DataFrame({"task": task, "x": rng.normal(size=12), "y": rng.normal(size=12), "projection": projection})
              for task, projection in product(("rec", "src"), ("pca", "umap", "tsne"))]  # fmt: skip
    return pd.concat(frames).assign(method=method, layer=layer, weights=weights, seed=0)


@pytest.fixture
def all_() -> Spaces:
    good = rows({"accuracy": 0.9}, {"accuracy": 0.6})
    numbers, drawn = [], []
    for method, layer in product(("GenSR", "UniSAR"), ("attend", FINAL)):
        numbers.append(good.assign(method=method, layer=layer, main=True))
        drawn += [places(method, layer, weights) for weights in ("trained", "untrained")]
    for layer in ("history + target", "history + query + target"):
        own = good[(good["weights"] == "trained") & (good["seed"] == 0)]
        numbers.append(own.assign(method=DATA, layer=layer, weights="none", main=True))
        drawn.append(places(DATA, layer, "none"))
    return Spaces(pd.concat(numbers, ignore_index=True), pd.concat(drawn, ignore_index=True), ["JSR (no stored run)"])


def test_the_table_has_the_papers_claim_beside_ours(all_: Spaces) -> None:
    table = space.beside_paper(all_).set_index(["method", "layer"])
    assert all_.methods == ["GenSR", "UniSAR"] and len(table) == 4
    assert table["paper"].tolist() == ["separation"] * 2 + ["overlap"] * 2
    row = table.loc[("GenSR", "attend")]
    assert row["seeds"] == 3 and row["accuracy"] == "0.90 (0.86 to 0.94)" and row["untrained"].startswith("0.60")
    assert row["verdict"].startswith("supported") and table.loc[("UniSAR", FINAL), "verdict"].startswith("not supp")


def test_the_reading_names_every_verdict_the_controls_and_the_rule(all_: Spaces) -> None:
    text = space.reading(all_)
    assert text.count("supported: ") == 4 and "**undecided**; 2 of 4" in text
    assert "untrained 10.0" in text and "halves of a task 20.0" in text
    assert "90% of the queries" in text and space.RULE in text
    assert "GenSR 3, UniSAR 3" in all_._repr_markdown_() and "JSR (no stored run)" in all_._repr_markdown_()


@pytest.mark.parametrize("projection", ["pca", "umap", "tsne"])
def test_views_draw_trained_and_untrained_states(all_: Spaces, projection: str) -> None:
    text = space_figures.view(all_, method="GenSR", layer="", projection=projection)
    svg = text[text.index("<svg") : text.index("</svg>") + 6]
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert all(word in text for word in ("trained", "untrained", "shuffled tasks", "halves of a task", "0.90"))
    assert text == space_figures.view(all_, method="GenSR", layer="attend", projection=projection)
    data = space_figures.view(all_, method=DATA, layer="", projection=projection)
    assert "untrained" not in data and "history + target" in data


def test_a_layer_of_another_method_is_refused_with_the_own_ones(all_: Spaces) -> None:
    with pytest.raises(UnisrError, match="GenSR has no pca of layer 'other' here; it has attend: pca"):
        space_figures.view(all_, method="GenSR", layer="other", projection="pca")


def test_figure_3_has_three_panels_with_both_tasks(all_: Spaces) -> None:
    plot = space_figures.figure_3(all_, "UniSAR", "GenSR")
    marks = [trace for trace in plot.data if trace.type == "scatter"]
    assert len(marks) == 6 and sum(trace.showlegend for trace in marks) == 2
    assert sum(trace.type == "contour" for trace in plot.data) == 6
    expected = space.chosen(all_, "GenSR", "attend", "pca", "trained")
    assert marks[-1].x == pytest.approx(expected[expected["task"] == "src"]["x"].to_numpy())
    assert [a.text.split(":")[0] for a in plot.layout.annotations] == ["data", "UniSAR", "GenSR"]


def test_points_on_a_line_have_no_contour(all_: Spaces) -> None:
    flat = all_.places.assign(y=0.0)
    plot = space_figures.figure_3(Spaces(all_.numbers, flat, []), "UniSAR", "GenSR")
    assert not [trace for trace in plot.data if trace.type == "contour"]


def test_without_runs_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNISR_RESULTS", str(tmp_path))
    with pytest.raises(StoreError, match="unisr reproduce --data synthetic --preset small --methods GenSR,UniSAR"):
        space.spaces("synthetic", "small", "GenSR,UniSAR")
