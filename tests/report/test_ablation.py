"""The ablation's drops, tests and verdicts against plain computations, its figure, and the study's head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.report.stored import COST, environment, losses, random_ranks, ranking
from unisr.config import RunConfig
from unisr.errors import StoreError, UnknownNameError
from unisr.evaluation.metrics import ndcg
from unisr.evaluation.statistics import holm
from unisr.report import ablation, lineup, store, studies, study_figures, svg
from unisr.report.store import Run
from unisr.variants import STUDIES, variants

MEANS = {"GenSR": 10, "CF view only": 30, "semantic view only": 10.5, "without soft filtering": 6,
         "without contrastive learning": 10, "without the query": 11, "recommendation alone": 12, "search alone": 9}
"""About twice the mean rank of each row; `without task prompts` is not stored."""


def keep(config: RunConfig, mean: float) -> Run:
    """A run whose ranks in both tasks (or in the one it is trained on) have this mean."""
    ranks = {task: random_ranks(mean, seed=10 * config.seed + place) for place, task in enumerate(("rec", "src"))}
    tasks = config.training.tasks or tuple(ranks)
    table = ranking(*(ranks[task] if task in tasks else [] for task in ranks))
    return store.save(config, per_query=table, losses=losses(), cost=COST, environment=environment())


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    monkeypatch.setenv("UNISR_RESULTS", str(tmp_path))
    for seed in range(2):
        configs = variants("ablation", preset="small", dataset="synthetic", seed=seed)
        for name, mean in MEANS.items():
            keep(configs[name], mean)
    keep(RunConfig(method="GenSR", dataset="synthetic", preset="small"), 3)
    return lineup.stored_variants("synthetic", "small", "ablation")["uniform"]


def test_only_runs_of_the_study_are_taken_in_its_order(runs: list[Run]) -> None:
    assert list(dict.fromkeys(STUDIES["ablation"].name_of(run.config) for run in runs)) == list(MEANS)
    assert len(runs) == 2 * len(MEANS), "the preset's own, longer run is none of them"
    with pytest.raises(StoreError, match="--study sensitivity"):
        lineup.stored_variants("synthetic", "full", "sensitivity")
    with pytest.raises(UnknownNameError, match="GenSR"):
        lineup.stored_variants("synthetic", "full", "GenSA")


def test_drops_are_those_of_plain_arithmetic(runs: list[Run]) -> None:
    found = ablation.drops(runs, "NDCG@5")
    rec = found[found["task"] == "rec"].set_index("part")
    drawn = {name: [random_ranks(mean, seed=seed) for seed in (0, 10)] for name, mean in MEANS.items()}
    values = {name: (ndcg(a, 5) + ndcg(b, 5)) / 2 for name, (a, b) in drawn.items()}
    values[ablation.ALONE] = values.pop("recommendation alone")
    values.pop("search alone")
    whole = values.pop("GenSR")
    assert set(rec.index) == set(values)
    p = holm([stats.ttest_rel(value, whole).pvalue if (value != whole).any() else 1.0 for value in values.values()])
    for (name, value), corrected in zip(values.items(), p, strict=True):
        row = rec.loc[name]
        assert row["drop"] == pytest.approx(100 * (1 - value.mean() / whole.mean()))
        assert row["drop_low"] <= row["drop"] <= row["drop_high"] and row["p"] == pytest.approx(corrected)
        assert row["pairs"] == row["seeds"] == 2
    assert rec.loc["CF view only", "worse"] == 2 and rec.loc["without soft filtering", "worse"] == 0
    assert found.loc[found["part"] == ablation.ALONE, "task"].tolist() == ["rec", "src"]


def test_the_papers_drops() -> None:
    printed = {name: [ablation.paper_drop(name, task) for task in ("rec", "src")] for name in ablation.PAPER}
    assert printed == {"CF view only": [26.5, 6.1], "semantic view only": [26.5, 6.1],
                       "without soft filtering": [12.2, 3.1], "without contrastive learning": [6.1, 1.0]}  # fmt: skip
    assert np.isnan(ablation.paper_drop("without the query", "src"))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({}, "supported"), ({"worse": 2}, "undecided"), ({"p": 0.2}, "undecided"),
     ({"p": 0.2, "drop_high": 11.0}, "not supported"), ({"p": 0.2, "drop_high": 11.0, "paper": np.nan}, "undecided"),
     ({"drop": -5.0, "worse": 0}, "not supported"), ({"drop": -5.0, "worse": 1}, "undecided"),
     ({"learned": False}, "undecided"), ({"drop_high": 11.0}, "supported")],
)  # fmt: skip
def test_verdicts_follow_their_rule(changes: dict[str, float], expected: str) -> None:
    row = {"p": 0.001, "drop": 10.0, "drop_high": 15.0, "worse": 3, "pairs": 3, "paper": 12.2, "learned": True}
    assert ablation.verdict({**row, **changes}) == expected


def test_a_model_at_chance_decides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNISR_RESULTS", str(tmp_path))
    configs = variants("ablation", preset="quick", dataset="synthetic")
    made = [keep(configs["GenSR"], 150), keep(configs["CF view only"], 10)]
    assert set(ablation.drops(made, "NDCG@5")["verdict"]) == {"undecided"}


def test_head_reading_and_tables_follow_the_runs(runs: list[Run]) -> None:
    text = studies.about("ablation", runs)
    assert "GenSR and 7 variants, 2 seeds each" in text and "3 epochs of 4,000 examples" in text
    assert "Not stored: without task prompts. Make them with `unisr reproduce --data synthetic --preset small" in text
    frame = ablation.drops(runs, "NDCG@5")
    reading = ablation.reading(frame, "NDCG@5")
    assert "comes with *CF view only*" in reading and "supported: CF view only" in reading
    assert "One seed" not in reading and "One seed" in ablation.reading(frame.assign(pairs=1), "NDCG@5")
    shown = ablation.shown(frame)
    paper = shown["paper, about [%]"].tolist()
    assert len(paper) == len(frame) and paper[0] == "26.5" and "–" in paper
    tidy = ablation.table(runs, "src")
    assert set(tidy["method"]) == {"GenSR", *frame.loc[frame["task"] == "src", "part"]}
    assert set(tidy.loc[tidy["against"] != "", "against"]) == {"GenSR"}
    told = studies.changes("ablation", "small").set_index("variant")["settings"]
    assert told["CF view only"] == "model.views = cf" and len(told) == len(STUDIES["ablation"].changes)


def test_figure_and_its_twin(runs: list[Run], tmp_path: Path) -> None:
    frame = ablation.drops(runs, "NDCG@5")
    plot = study_figures.drops(frame, "NDCG@5", title="t")
    bars = {(trace.xaxis, name): value for trace in plot.data if trace.type == "bar"
            for name, value in zip(trace.y, trace.x, strict=True)}  # fmt: skip
    assert len(bars) == len(frame)
    rec = frame[frame["task"] == "rec"].set_index("part")["drop"]
    assert bars["x", "CF view only"] == pytest.approx(rec["CF view only"], abs=1e-3)
    diamonds = [trace for trace in plot.data if trace.type == "scatter"]
    assert [len(trace.x) for trace in diamonds] == [4, 4]
    text = study_figures.drops_svg(frame, "NDCG@5")
    assert text == study_figures.drops_svg(frame, "NDCG@5") and all(name in text for name in rec.index)
    path = svg.store_svg(text, "ablation", dataset="synthetic", preset="small")
    assert path == tmp_path / "synthetic" / "small" / "figures" / "ablation.svg" and path.read_text() == text


def test_an_unknown_section_of_the_paper_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="ablation_sec6.6"):
        studies.printed("ablation_sec6.7")
    assert isinstance(studies.printed("sensitivity_sec6.7"), pd.DataFrame)
