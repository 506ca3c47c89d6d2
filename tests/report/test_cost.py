"""Costs come from the store's own numbers; the front is what nothing dominates; the plot names every method."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.report.stored import COST, config, environment, ranking
from unisr.report import cost, pareto, readings, store
from unisr.report.store import Run, Seconds

LOSSES = pd.DataFrame({"epoch": [1, 2, 3], "loss": [3.0, 2.0, 1.0], "steps": [10, 10, 20], "seconds": [1.0, 2.0, 5.0],
                       "validation_seconds": [0.5, 0.5, 0.5]})


def trained(method: str, *, slower: float = 1.0, parameters: int = 10, device: str = "cpu", **settings: object) -> Run:
    """A stored run of three epochs, the second of which is best, with 4 + 4 test queries ranked in half a second."""
    seconds = LOSSES[["seconds", "validation_seconds"]] * slower
    made = COST.model_copy(update={"parameters": parameters, "seconds": Seconds(train=9.5, evaluate=0.5, total=10.0)})
    return store.save(config(method, **settings), per_query=ranking([1, 2, 3, 4], [1, 1, 2, 9]), cost=made,
                      losses=LOSSES.assign(**seconds), environment=environment(device=device))


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNISR_RESULTS", str(tmp_path))
    return tmp_path


def untrained() -> Run:
    made = COST.model_copy(update={"parameters": 0, "epochs": 0, "best_epoch": 0, "steps": 0})
    return store.save(config("Popularity"), per_query=ranking([5, 6, 7, 8], [9, 9, 9, 9]), cost=made,
                      losses=pd.DataFrame({"epoch": [], "loss": []}), environment=environment())


def test_cost_of_a_trained_run() -> None:
    found = cost.run_cost(trained("SASRec"))
    assert found["seconds_step"] == pytest.approx(8 / 40)
    assert found["seconds_epoch"] == pytest.approx(8 / 3)
    assert found["seconds_to_best"] == pytest.approx(1 + 2 + 0.5 + 0.5), "validation counts, the third epoch does not"
    assert found["queries_second"] == pytest.approx(8 / 0.5)
    assert (found["parameters"], found["peak_mb"], found["epochs"], found["best_epoch"]) == (10, 100.0, 3, 2)


def test_cost_of_a_run_without_training() -> None:
    found = cost.run_cost(untrained())
    assert found["seconds_to_best"] == 0 and np.isnan(found["seconds_step"]) and np.isnan(found["seconds_epoch"])


def test_means_over_seeds_and_what_a_method_reads() -> None:
    runs = [trained("LightGCN"), trained("LightGCN", slower=3, seed=1), trained("GenSR", slower=2)]
    frame = cost.costs(runs).set_index("method")
    assert list(frame.index) == ["LightGCN", "GenSR"] and frame["seeds"].tolist() == [2, 1]
    assert frame["seconds_to_best"].to_dict() == pytest.approx({"LightGCN": (4 + 12) / 2, "GenSR": 8})
    assert frame["seconds_with_required"].to_dict() == pytest.approx({"LightGCN": 8, "GenSR": 8 + 8})
    alone = cost.costs(runs[2:])
    assert np.isnan(alone["seconds_with_required"][0]), "what is not stored is unknown, not free"


def test_table_has_empty_cells_where_there_is_nothing() -> None:
    shown = cost.table([untrained(), trained("SASRec", parameters=123456)])
    assert shown.loc["Popularity", "ms a step"] == "" and shown.loc["SASRec", "ms a step"] == "200.0"
    assert shown.loc["SASRec", "parameters"] == "123,456" and shown.loc["SASRec", "epochs (best)"] == "3 (2)"
    value = np.mean([1, 1 / np.log2(3), 1 / np.log2(4), 1 / np.log2(5)])
    assert shown.loc["SASRec", "NDCG@10 rec."] == f"{value:.3f}"


def test_points_have_both_values() -> None:
    runs = [untrained(), trained("SASRec")]
    assert cost.points(runs, "src", "MRR", "seconds a step")["method"].tolist() == ["SASRec"]
    frame = cost.points(runs, "rec", "MRR", "parameters").set_index("method")
    assert frame["x"].to_dict() == {"Popularity": 0, "SASRec": 10}
    assert frame.loc["SASRec", "y"] == pytest.approx(np.mean(1 / np.arange(1, 5)))


def dominated(rows: pd.DataFrame, sign: int) -> list[bool]:
    """Row by row: whether another row is as good on both axes and better on one."""
    return [
        any((sign * b.x <= sign * a.x and b.y >= a.y) and (b.x != a.x or b.y != a.y) for b in rows.itertuples())
        for a in rows.itertuples()
    ]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("more", [False, True])
def test_front_is_what_nothing_dominates(seed: int, more: bool) -> None:
    numbers = np.random.default_rng(seed).integers(0, 6, size=(25, 2))
    frame = pd.DataFrame(numbers, columns=["x", "y"], index=np.arange(25)[::-1])
    front = cost.front(frame, more_is_better=more)
    assert front.tolist() == [not d for d in dominated(frame, -1 if more else 1)]
    assert front[frame["y"] == frame["y"].max()].any()


def many(n: int = 28) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    families = (["reference", "recommendation", "search", "joint"] * n)[:n]
    return pd.DataFrame({"method": [f"Method-{i}" for i in range(n)], "family": families,
                         "x": np.exp(generator.normal(3, 1, n)), "y": generator.normal(0.3, 0.05, n)})


def test_plot_names_every_method_and_is_deterministic() -> None:
    frame = many()
    page = pareto.svg(frame, x="seconds", y="NDCG@10")
    assert page == pareto.svg(frame, x="seconds", y="NDCG@10") and page.startswith("<svg")
    names = re.findall(r">(Method-\d+)(?: \(\d\.\d+\))?<", page)
    assert sorted(names) == sorted(frame["method"])
    assert "seconds" in page and "NDCG@10" in page and "more is better" not in page


def test_low_references_are_lifted_to_the_edge_with_their_value() -> None:
    frame = pd.DataFrame({"method": ["Popularity", "A", "B"], "family": ["reference", "search", "search"],
                          "x": [0.0, 10.0, 200.0], "y": [0.1, 0.8, 0.9]})
    assert ">Popularity (0.100)<" in pareto.svg(frame, x="seconds", y="NDCG@10")
    raised = pareto._raised(frame.assign(front=True))
    assert raised["low"].tolist() == [True, False, False] and 0.7 < raised["y"][0] < 0.8


def test_views_of_stored_runs() -> None:
    runs = [untrained(), trained("SASRec"), trained("UniSAR", slower=4)]
    for axis in cost.AXES:
        page = pareto.view(runs, "rec", "MRR", axis)
        assert "SASRec" in page and "MRR of recommendation" in page
        assert ("(more is better)" in page) == (cost.AXES[axis] in cost.MORE_IS_BETTER)


def test_reading_names_machines_and_spread() -> None:
    runs = [untrained(), trained("SASRec"), trained("SASRec", slower=3, seed=1)]
    text = readings.costs(runs, "MRR")
    assert "factor of 3.0 (SASRec)" in text and "All runs were made on cpu" in text
    assert "nothing is both faster and better than Popularity" in text
    text = readings.costs([*runs[:2], trained("UniSAR", device="cuda (H200)")], "MRR")
    assert "2 machines" in text and "one run" in text
