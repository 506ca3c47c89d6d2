"""Metrics: by hand, against ranx, by property, and the arithmetic audit against the paper's own cells."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unisr.evaluation.metrics import METRICS, chance, consistent, ndcg, per_query_metrics, summary
from unisr.evaluation.ranks import expected_rank
from unisr.paths import paper_dir
from unisr.random import generator

ranks = st.lists(st.integers(2, 200).map(lambda twice: twice / 2), min_size=1, max_size=40)
integer_ranks = st.lists(st.integers(1, 100), min_size=1, max_size=60)


def table(rank: list[float] | np.ndarray, task: str = "rec") -> pd.DataFrame:
    rank = np.asarray(rank, dtype=float)
    return pd.DataFrame({"task": task, "rank": rank, "ties": (rank % 1 > 0).astype(int)})


def test_by_hand() -> None:
    found = per_query_metrics(table([1, 5, 5.5, 10, 10.5]))
    assert found["Recall@5"].tolist() == [1, 1, 0, 0, 0]
    assert found["Recall@10"].tolist() == [1, 1, 1, 1, 0]
    assert found["NDCG@5"].tolist() == pytest.approx([1, 1 / math.log2(6), 0, 0, 0])
    assert found["NDCG@10"].tolist() == pytest.approx([1, 1 / math.log2(6), 1 / math.log2(6.5), 1 / math.log2(11), 0])
    assert found["MRR"].tolist() == pytest.approx([1, 0.2, 1 / 5.5, 0.1, 1 / 10.5])


def test_chance_is_the_mean_over_all_ranks() -> None:
    both = pd.concat([table(range(1, 4)), table(range(1, 31))]).assign(weight=[1 / 3] * 3 + [1 / 30] * 30)
    values = per_query_metrics(both)
    for metric, found in chance(np.array([30, 3])).items():
        assert found == pytest.approx((values[metric] * values["weight"]).sum() / 2)


def test_summary_keeps_tasks_apart() -> None:
    found = summary(pd.concat([table([1, 2.5]), table([20], "src")]))
    assert list(found) == ["rec", "src"]
    assert found["rec"] == pytest.approx(
        {"Recall@5": 1, "Recall@10": 1, "NDCG@5": (1 + 1 / math.log2(3.5)) / 2,
         "NDCG@10": (1 + 1 / math.log2(3.5)) / 2, "MRR": 0.7, "tie_rate": 0.5, "n": 2}
    )
    assert found["src"]["MRR"] == 0.05 and found["src"]["NDCG@10"] == 0 and found["src"]["n"] == 1


RANX = """
import json, sys
from ranx import Qrels, Run, evaluate
qrels, run = json.load(sys.stdin)
names = ["recall@5", "recall@10", "ndcg@5", "ndcg@10", "mrr"]
found = evaluate(Qrels(qrels), Run(run), names, return_mean=False)
print(json.dumps([found[name].tolist() for name in names]))
"""


def test_equals_ranx_on_untied_scores() -> None:
    rng = generator(0, "test")
    scores = np.stack([rng.permutation(30) for _ in range(80)]).astype(np.float32)
    positive = rng.integers(30, size=80)
    ours = per_query_metrics(table(expected_rank(scores, positive)[0]))
    qrels = {f"q{i:03d}": {f"d{p}": 1} for i, p in enumerate(positive)}
    run = {f"q{i:03d}": {f"d{c}": float(s) for c, s in enumerate(row)} for i, row in enumerate(scores)}
    # Without its compiler, which takes a minute, ranx is the same code; the switch is read at import.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RANX], input=json.dumps([qrels, run]), capture_output=True, text=True,
        check=True, env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
    )
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert np.allclose(ours[list(METRICS)].T, theirs, rtol=0, atol=1e-12)
    assert 0.1 < ours["Recall@5"].mean() < 0.9


@settings(max_examples=50, deadline=None)
@given(ranks)
def test_bounds_and_monotonicity(rank: list[float]) -> None:
    found = per_query_metrics(table(sorted(rank)))
    for metric in METRICS:
        assert found[metric].between(0, 1).all()
        assert (np.diff(found[metric]) <= 0).all(), "a later rank never scores more"
    assert (found["NDCG@5"] <= found["NDCG@10"]).all() and (found["Recall@5"] <= found["Recall@10"]).all()
    assert (found["NDCG@10"] <= found["Recall@10"]).all()
    assert np.array_equal(ndcg(found["rank"], 10), found["NDCG@10"])


@settings(max_examples=100, deadline=None)
@given(integer_ranks)
def test_means_of_integer_ranks_are_consistent(rank: list[int]) -> None:
    means = summary(table(rank))["rec"]
    exact = [means[m] for m in ("Recall@5", "Recall@10", "NDCG@5", "NDCG@10")]
    assert consistent(*exact, rounding=0)
    assert consistent(*[round(value, 4) for value in exact])


@pytest.mark.parametrize(
    "cells",
    [
        (0.5, 0.4, 0.3, 0.25),  # recall falls
        (0.5, 0.7, 0.4, 0.5),  # ratio 0.5
        (0.5, 0.7, 0.4, 0.42),  # ratio 0.1
        (0.5, 0.7, 0.55, 0.61),  # NDCG above recall
        (0.5, 0.7, 0.1, 0.16),  # NDCG below recall / log2(6)
        (0.9, 1.1, 0.8, 0.86),  # recall above 1
    ],
)
def test_impossible_cells(cells: tuple[float, float, float, float]) -> None:
    assert not consistent(*cells)


def test_finds_the_impossible_cells_of_the_paper() -> None:
    def impossible(number: int) -> set[tuple[str, str, str]]:
        cells = pd.read_csv(paper_dir() / f"gensr_table{number}.csv")
        wide = cells.pivot(index=["dataset", "task", "method"], columns="metric", values="value").astype(float)
        four = wide[["Recall@5", "Recall@10", "NDCG@5", "NDCG@10"]].dropna()
        return {key for key, row in zip(four.index, four.to_numpy(), strict=True) if not consistent(*row)}

    rec, src = "recommendation", "search"
    assert impossible(2) == {("KuaiSAR", rec, "GRU4Rec"), ("KuaiSAR", rec, "CoLLM")}
    assert impossible(3) == {("KuaiSAR", src, "GenSR")}
    assert len(impossible(4)) in (10, 11)
    assert ("Amazon", rec, "BSR") not in impossible(4)
