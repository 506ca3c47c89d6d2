"""Learning curves: one line a method and task side by side; of one method every training once."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.report import stored
from unisr.report import curves, store
from unisr.report.settings import changes, settings
from unisr.report.store import Run


@pytest.fixture(autouse=True)
def _results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNISR_RESULTS", str(tmp_path / "results"))


def trained(method: str, *tasks: str, value: float = 0.5, **given: object) -> Run:
    log = stored.losses().assign(**{f"validation_{task}_NDCG@10": value for task in tasks})
    return store.save(stored.config(method, **given), per_query=stored.ranking([1, 2], [1, 2]), losses=log,
                      cost=stored.COST, environment=stored.environment())  # fmt: skip


def test_methods_have_one_line_a_task_in_the_color_of_their_family() -> None:
    runs = [trained("SASRec", "rec", value=0.1), trained("SASRec", "rec", value=0.2, seed=1),
            trained("UniSAR", "rec", "src"), trained("USER", "rec", "src")]  # fmt: skip
    lines = curves.of_methods(runs).data
    joint = [("joint", "x"), ("joint", "x2")]
    assert [(line.name, line.xaxis) for line in lines] == [("recommendation", "x"), *joint, *joint]
    assert list(lines[0].y) == [0.1] * 3, "the first seed"
    assert [line.showlegend for line in lines] == [True, True, False, False, False]
    assert curves.of_methods([stored.saved([1, 2])]) is None, "never validated"


def test_a_training_is_drawn_once_whatever_it_ranks() -> None:
    runs = [trained("UniSAR", "rec", "src", **given)
            for given in ({}, {"seed": 1}, {"candidates": "hard"}, {"training": {"epochs": 1}})]  # fmt: skip
    lines = curves.of_method(runs).data
    named = [line.name for line in lines if line.showlegend is None]
    assert named == ["seed 0", "seed 1", "seed 0, training.epochs=1"]
    assert [line.line.dash for line in lines[:3]] == [None, "solid", "dash"]
    assert curves.of_method([store.save(stored.config(), per_query=stored.ranking([1]), cost=stored.COST,
                                        losses=pd.DataFrame({"epoch": [], "loss": []}),
                                        environment=stored.environment())]) is None  # fmt: skip


def test_changes_name_what_differs_from_the_preset() -> None:
    config = stored.config("UniSAR", histories="released", training={"learning_rate": 0.5}, seed=3, candidates="hard")
    assert changes(config) == "histories=released, training.learning_rate=0.5"
    assert changes(stored.config("UniSAR")) == ""
    assert settings(config)["training.learning_rate"] == 0.5 and not {"seed", "method"} & set(settings(config))
