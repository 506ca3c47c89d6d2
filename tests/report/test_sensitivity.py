"""The grid's points, curves, ends and verdicts against plain computations, and their figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.report.stored import COST, environment, losses, random_ranks, ranking
from unisr.errors import UnisrError
from unisr.evaluation.metrics import ndcg
from unisr.evaluation.statistics import holm
from unisr.report import lineup, sensitivity, store, study_figures
from unisr.report.store import Run
from unisr.variants import OWN, variants

SMALL_TAUS = [0.01, 0.05, 0.07, 0.09]


def mean_rank(tau: float, beta: float) -> float:
    """Best at τ = 0.05 and β = 0.1."""
    return 8 + 300 * abs(tau - 0.05) + 5 * abs(np.log10(beta / 0.1))


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    monkeypatch.setenv("UNISR_RESULTS", str(tmp_path))
    for config in variants("sensitivity", preset="small", dataset="synthetic").values():
        mean = mean_rank(config.model.temperature, config.model.beta)
        table = ranking(random_ranks(mean), random_ranks(10, seed=1))
        store.save(config, per_query=table, losses=losses(), cost=COST, environment=environment())
    return lineup.stored_variants("synthetic", "small", "sensitivity")["uniform"]


def value(tau: float, beta: float) -> np.ndarray:
    return ndcg(random_ranks(mean_rank(tau, beta)), 5)


def test_points_and_curves_hold_the_means_of_their_runs(runs: list[Run]) -> None:
    frame = sensitivity.points(runs, "rec", "NDCG@5")
    assert len(frame) == len(runs) == 11
    for row in frame.itertuples():
        assert row.value == pytest.approx(value(row.tau, row.beta).mean()) and row.low < row.value < row.high
        assert row.difference == pytest.approx((value(row.tau, row.beta) - value(*OWN)).mean())
        assert np.isnan(row.p) == ((row.tau, row.beta) == OWN)
    line = sensitivity.curve(frame, "τ")
    assert line["x"].tolist() == SMALL_TAUS and set(line["beta"]) == {OWN[1]}
    assert sensitivity.curve(frame, "β")["x"].tolist() == [0.001, 0.01, 0.1, 0.3]
    with pytest.raises(UnisrError, match="whole model"):
        sensitivity.points([run for run in runs if sensitivity.name(run) != "τ 0.07, β 0.01"], "rec", "NDCG@5")


def test_ends_are_paired_with_the_best_point_inside(runs: list[Run]) -> None:
    found = sensitivity.ends(runs, "NDCG@5")
    rec = found[found["task"] == "rec"].set_index(["axis", "end"])
    assert set(rec.index) == {("τ", 0.01), ("τ", 0.09), ("β", 0.001), ("β", 0.3)}
    best = {"τ": value(0.05, OWN[1]), "β": value(OWN[0], 0.1)}
    for (axis, end), row in rec.iterrows():
        theirs = value(end, OWN[1]) if axis == "τ" else value(OWN[0], end)
        assert row["peak"] == {"τ": 0.05, "β": 0.1}[axis]
        assert row["drop"] == pytest.approx(100 * (1 - theirs.mean() / best[axis].mean()))
        assert row["drop_low"] <= row["drop"] <= row["drop_high"]
    raw = [stats.ttest_rel(best["τ"], value(end, OWN[1])).pvalue for end in (0.01, 0.09)]
    raw += [stats.ttest_rel(best["β"], value(OWN[0], end)).pvalue for end in (0.001, 0.3)]
    # Search has the same ranks everywhere: four tests with p = 1 beside these.
    assert rec["p"].to_numpy() == pytest.approx(holm([*raw, 1, 1, 1, 1])[:4])
    assert rec["paper"].dropna().to_dict() == {("τ", 0.01): 1.5, ("τ", 0.09): 0.8}
    assert not rec.loc[("β", 0.3), "claimed"] and rec["claimed"].sum() == 3


def test_verdicts(runs: list[Run]) -> None:
    judged = sensitivity.verdicts(sensitivity.ends(runs, "NDCG@5")).set_index(["axis", "task"])["verdict"]
    assert judged["τ", "rec"] == "supported"
    assert judged["τ", "src"] == judged["β", "src"] == "undecided", "no difference, and no number of the paper"


@pytest.mark.parametrize(
    ("p", "drop", "high", "expected"),
    [((0.001, 0.001), (5, 5), (9, 9), "supported"), ((0.001, 0.2), (5, 1), (9, 3), "undecided"),
     ((0.001, 0.001), (5, -5), (9, -1), "not supported"), ((0.5, 0.5), (0, 0), (1, 0.5), "not supported"),
     ((0.5, 0.5), (0, 0), (2, 0.5), "undecided")],
)  # fmt: skip
def test_the_rule_of_the_verdict(
    p: tuple[float, float], drop: tuple[float, float], high: tuple[float, float], expected: str
) -> None:
    claimed = pd.DataFrame({"p": p, "drop": drop, "drop_high": high, "paper": (1.5, 0.8), "learned": True})
    assert sensitivity._verdict("τ", claimed) == expected
    assert sensitivity._verdict("τ", claimed.assign(learned=False)) == "undecided"
    if expected == "supported":
        assert sensitivity._verdict("τ", claimed[:1]) == "undecided", "an end is not stored"


def test_one_point_and_the_reading(runs: list[Run]) -> None:
    here = sensitivity.at(runs, 0.01, 0.3, "NDCG@5").set_index("task")
    assert here.loc["recommendation", "NDCG@5"] == pytest.approx(value(0.01, 0.3).mean())
    assert sensitivity.at(runs, *OWN, "NDCG@5")["p, not corrected"].tolist() == ["–", "–"]
    with pytest.raises(UnisrError, match="no stored run of τ 0.03, β 0.3 at preset small; stored: τ 0.01, β 0.001"):
        sensitivity.at(runs, 0.03, 0.3, "NDCG@5")
    text = sensitivity.reading(runs, "NDCG@5")
    assert "range of τ: best inside at 0.05, **supported**" in text and "One seed" in text
    assert len(sensitivity.shown(sensitivity.ends(runs, "NDCG@5"))) == 8


def test_figures_and_their_twin(runs: list[Run]) -> None:
    frame, found = sensitivity.points(runs, "rec", "NDCG@5"), sensitivity.ends(runs, "NDCG@5")
    rec = found[found["task"] == "rec"]
    plot = study_figures.curves(frame, rec, "NDCG@5", title="t")
    lines = {trace.name: trace for trace in plot.data if trace.mode == "lines+markers"}
    assert lines["over τ"].y == pytest.approx([value(tau, OWN[1]).mean() for tau in SMALL_TAUS], abs=1e-4)
    (diamonds,) = [t for t in plot.data if t.name == "paper's drop from the peak" and len(t.x)]
    peak = value(0.05, OWN[1]).mean()
    assert diamonds.x == (0.01, 0.09) and diamonds.y == pytest.approx([peak * 0.985, peak * 0.992], abs=1e-4)
    (cells,) = study_figures.heat_map(frame, "NDCG@5", title="t").data
    z = np.array(cells.z, dtype=float)
    assert z.shape == (4, 4) and np.isfinite(z).sum() == len(runs)
    assert z[cells.y.index("0.07"), cells.x.index("0.3")] == pytest.approx(value(0.07, 0.3).mean(), abs=1e-4)
    assert study_figures.curves_svg(frame, rec, "NDCG@5") == study_figures.curves_svg(frame, rec, "NDCG@5")
    no_ends = study_figures.curves(frame[frame["tau"] == OWN[0]], rec[:0], "NDCG@5", title="t")
    assert len(no_ends.data) == len(plot.data)
