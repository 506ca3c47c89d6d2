"""Sampled against full ranking: expectations by simulation, the table by hand."""

import numpy as np
import pytest

from tests.report import stored
from unisr.errors import UnisrError
from unisr.evaluation.metrics import METRICS
from unisr.evaluation.protocol import SIZE
from unisr.random import generator
from unisr.report import store
from unisr.report.gains import measure
from unisr.report.sampled import agreement, expected_sampled, reading
from unisr.report.store import Run


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("rank", "size"), [(1, 500), (7, 300), (60, 1000), (500, 500), (3, 101)])
def test_expectation_is_that_of_drawing_99_others(metric: str, rank: int, size: int) -> None:
    rng = generator(0, "simulation")
    others = np.delete(np.arange(1, size + 1), rank - 1)
    drawn = np.stack([rng.choice(others, 99, replace=False) for _ in range(4000)])
    values = measure(metric)(1 + (drawn < rank).sum(1))
    found = expected_sampled(np.array([rank]), np.array([size]), metric)[0]
    assert found == pytest.approx(values.mean(), abs=4 * values.std() / np.sqrt(len(values)) + 1e-9)


def run(method: str, ranks: np.ndarray, candidates: str) -> Run:
    """A stored run whose targets stand among 500 candidates in full ranking and 100 otherwise."""
    per_query = stored.ranking(ranks).assign(**{SIZE: 500 if candidates == "full" else 100})
    return store.save(stored.config(method, candidates=candidates), per_query=per_query, losses=stored.losses(),
                      cost=stored.COST, environment=stored.environment())


def test_orders_are_compared(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNISR_RESULTS", str(tmp_path))
    rng = generator(0, "ranks")
    full = {name: rng.integers(1, top, 300) for name, top in {"Popularity": 400, "SASRec": 30, "LightGCN": 100}.items()}
    sampled = {name: 1 + rng.hypergeometric(ranks - 1, 500 - ranks, 99) for name, ranks in full.items()}
    # LightGCN's stored sample is spoiled, so that it changes places with SASRec.
    sampled["LightGCN"] = np.ones(300)
    few = [run(name, ranks, "uniform") for name, ranks in sampled.items()]
    all_ = [run(name, ranks, "full") for name, ranks in full.items()]
    frame = agreement(few, all_, "rec", "NDCG@10")
    assert frame["method"].tolist() == ["SASRec", "LightGCN", "Popularity"]
    assert frame["full_place"].tolist() == [1, 2, 3] and frame["sampled_place"].tolist() == [2, 1, 3]
    assert frame.attrs["tau"] == pytest.approx(1 / 3)
    assert frame.attrs["low"] <= frame.attrs["tau"] <= frame.attrs["high"]
    honest = frame[frame["method"] != "LightGCN"]
    assert np.allclose(honest["sampled"], honest["expected"], atol=0.04)
    text = reading(frame, "NDCG@10")
    assert "**0.33**" in text and "LightGCN" in text and "1.000 in the stored draw" in text
    with pytest.raises(UnisrError, match="1 of 3 has both"):
        agreement(few[:1], all_, "rec", "NDCG@10")
