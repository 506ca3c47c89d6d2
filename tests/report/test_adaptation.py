"""GEMS beside other ways of tuning: tables and verdicts against plain arithmetic on hand-made runs and knowledge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from torch import nn

from tests.report.stored import COST, environment, random_ranks, ranking
from unisr.analysis.general_knowledge import LM
from unisr.config import RunConfig, SubspaceConfig
from unisr.evaluation.metrics import ndcg
from unisr.report import adaptation, adaptation_figures, lineup, store
from unisr.report.adaptation import FULL, REFUSED, SUPPORTED, UNDECIDED, WHOLE
from unisr.report.store import Run
from unisr.variants import variants

MEANS = {WHOLE: 10, FULL: 14, "LoRA": 18, "without null space": 10}
"""About twice the mean rank of each row."""
NATS = {WHOLE: 0.1, FULL: 0.6, "LoRA": 0.5, "without null space": 0.4}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    monkeypatch.setenv("UNISR_RESULTS", str(tmp_path))
    configs = variants("adaptation", preset="small", dataset="synthetic")
    for name, mean in MEANS.items():
        save(configs[name], mean)
    return lineup.stored_variants("synthetic", "small", "adaptation")["uniform"]


def save(config: RunConfig, mean: float) -> None:
    losses = pd.DataFrame({"epoch": [1, 2], "loss": [2.0, 1.0], "steps": [10, 10], "seconds": [1.0, 3.0]})
    table = ranking(random_ranks(mean), random_ranks(mean, seed=1))
    store.save(config, per_query=table, losses=losses, cost=COST, environment=environment())


def knowledge(nats: dict[str, float] = NATS, *, width: float = 0.05) -> pd.DataFrame:
    """A frame as `adaptation.known` gives it; LoRA has two adapters with 0.1 nats on either side of its mean."""
    rows = []

    def add(variant: str, weights: str, part: str, measure: str, value: float, spread: float = np.nan) -> None:
        rows.append({"method": WHOLE, "seed": 0, "weights": weights, "adapter": "", "part": part, "measure": measure,
                     "value": value, "low": value - spread, "high": value + spread, "variant": variant})  # fmt: skip

    for variant, mean in nats.items():
        add(variant, "before", LM, "perplexity", 50.0)
        add(variant, "before", LM, "cloze", 0.6)
        for shift in (-0.1, 0.1) if variant == "LoRA" else (0.0,):
            add(variant, "after", LM, "perplexity", 50 * np.exp(mean + shift))
            add(variant, "change", LM, "nats", mean + shift, width)
            add(variant, "change", LM, "cloze", -mean / 10, width)
        for state, moved in ((0, 0.0), (1, 0.2), (2, mean)):
            add(variant, "change", str(state), "distance", moved)
        for layer, share in (("a.q_proj", 0.2), ("a.k_proj", 0.4)):
            add(variant, "change", layer, "leakage", 0.0 if variant == WHOLE else share)
            add(variant, "change", layer, "weights", 0.5)
    return pd.DataFrame(rows)


def test_quality_is_held_against_gems(runs: list[Run]) -> None:
    tidy = adaptation.quality(runs, "rec").query("metric == 'NDCG@10'").set_index("method")
    assert list(tidy.index) == list(MEANS)
    assert tidy.loc[FULL, "value"] == pytest.approx(ndcg(random_ranks(14), 10).mean())
    assert tidy.loc[FULL, "against"] == WHOLE and tidy.loc[FULL, "significant"]
    means = adaptation.means(runs).set_index("variant")
    assert means.loc["LoRA", "src"] == pytest.approx(ndcg(random_ranks(18, seed=1), 10).mean())


def test_knowledge_is_a_row_per_variant_with_the_outermost_intervals() -> None:
    left = adaptation.kept_knowledge(knowledge()).set_index("variant")
    assert list(left.index) == list(NATS)
    assert left.loc["LoRA", ["nats", "nats_low", "nats_high"]].tolist() == pytest.approx([0.5, 0.35, 0.65])
    assert left.loc[FULL, "distance"] == pytest.approx(0.6), "of the last state"
    assert left.loc[WHOLE, "leakage"] == 0 and left.loc[FULL, "leakage"] == pytest.approx(0.3)
    assert left.loc[FULL, "perplexity"] == pytest.approx(50 * np.exp(0.6))
    assert adaptation.before(knowledge()) == {"perplexity": 50.0, "cloze": 0.6}
    layers = adaptation.by_layer(knowledge(), FULL).set_index("layer")
    assert layers["share outside the null space"].to_dict() == {"a.q_proj": 0.2, "a.k_proj": 0.4}


class Tuned(nn.Module):
    """A layer that GEMS covers and an item table."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.items = nn.Linear(16, 32, bias=False), nn.Embedding(10, 16)

    def covered(self) -> dict[str, nn.Linear]:
        return {"layer": self.layer}


def test_state_is_counted_by_what_the_optimizer_keeps(runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptation, "build_scorer", lambda config, device: Tuned())
    cost = adaptation.costs(runs).set_index("variant")
    space = runs[0].config.training.subspace
    assert isinstance(space, SubspaceConfig) and space.rank == 16
    # Bases of 16 x r and two moments of 32 x r, for r = 16, 8 and 8.
    assert cost.loc[WHOLE, "state"] == (16 + 2 * 32) * (16 + 8 + 8) + 2 * 160
    assert cost.loc[FULL, "state"] == 2 * (512 + 160) and cost.loc[FULL, "of_adamw"] == 1
    assert cost.loc[FULL, "step"] == pytest.approx(4 / 20)


def conflict(cosines: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"space": "whole", "layer": "a.q_proj", "cosine": cosines, "noise_rec": 0.8, "noise_src": 0.6})


def costs(step: float = 0.12, state: float = 40.0) -> pd.DataFrame:
    return pd.DataFrame({"variant": [WHOLE, FULL], "state": [state, 100.0], "step": [step, 0.1]})


def verdicts(runs: list[Run], **changes: Any) -> list[str]:
    given = {"nats": NATS, "cost": costs(), "conflict": conflict([-0.2, -0.1, 0.3])} | changes
    left = adaptation.kept_knowledge(knowledge(given["nats"]))
    return adaptation.claims(runs, left, given["cost"], given["conflict"])["verdict"].tolist()


def test_claims_are_judged_by_their_rules(runs: list[Run]) -> None:
    assert verdicts(runs) == [SUPPORTED] * 5
    assert verdicts(runs, nats=NATS | {WHOLE: 0.58})[3] == UNDECIDED
    assert verdicts(runs, nats=NATS | {WHOLE: 0.9})[3] == REFUSED
    assert verdicts(runs, conflict=conflict([0.2] * 30))[2] == REFUSED
    assert verdicts(runs, conflict=conflict([-0.2, 0.2, 0.2]))[2] == UNDECIDED
    assert verdicts(runs, cost=costs(step=0.2))[4] == UNDECIDED
    assert verdicts(runs, cost=costs(state=100.0))[4] == REFUSED


def test_claims_and_costs_are_told_in_words(runs: list[Run]) -> None:
    found = adaptation.claims(runs, adaptation.kept_knowledge(knowledge()), costs(), conflict([-0.2, -0.1, 0.3]))
    text = adaptation.reading(found)
    assert text.count("\n- **") == 4 and "GEMS +0.100 nats a token; full fine-tuning +0.600" in text
    told = adaptation.thrift(costs().assign(trained=1e6, of_adamw=0.4, peak_mb=2000.0)).set_index("tuned by")
    assert told.loc[WHOLE].tolist() == ["1,000,000", "40", "0.40", "120", "2,000"]


def test_a_clearly_better_comparator_refutes_and_an_equal_one_leaves_open(runs: list[Run]) -> None:
    configs = variants("adaptation", preset="small", dataset="synthetic")
    save(configs["DoRA"], 10)
    some = lineup.stored_variants("synthetic", "small", "adaptation")["uniform"]
    assert verdicts(some)[:2] == [UNDECIDED] * 2
    save(configs["DoRA"], 4)
    some = lineup.stored_variants("synthetic", "small", "adaptation")["uniform"]
    assert verdicts(some)[:2] == [REFUSED] * 2


def test_settings_are_turned_one_at_a_time(runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    configs = variants("subspace", preset="small", dataset="synthetic")
    for name, mean in {"rank 4": 20, "gap 10": 12}.items():
        save(configs[name], mean)
    nats = {WHOLE: 0.1, "rank 4": 0.05, "gap 10": 0.2}
    monkeypatch.setattr(adaptation, "known", lambda runs: knowledge(nats))
    frame = adaptation.turned("synthetic", "small")
    rank = frame[frame["setting"] == "rank"].set_index("value")
    assert rank.index.tolist() == [4, 16] and rank.loc[4, "nats"] == pytest.approx(0.05)
    assert rank.loc[4, "rec"] == pytest.approx(ndcg(random_ranks(20), 10).mean())
    sliders = adaptation.sliders(frame)
    assert {name: slider.value for name, slider in sliders.items()} == {"gap": 50, "null_space": 0.01, "rank": 16}
    html = adaptation.at(frame, rank=4.0, gap=50.0, null_space=0.01)
    assert html.count("<tr>") == 4 and "0.050" in html
    assert len(adaptation_figures.over(frame, "rank").data) == 3


def test_figures_hold_their_rows(runs: list[Run]) -> None:
    left, means = adaptation.kept_knowledge(knowledge()), adaptation.means(runs)
    plot = adaptation_figures.trade_off(left, means, "src")
    points = dict(zip(plot.data[1].text, plot.data[1].x, strict=True))
    assert points == pytest.approx({name: value for name, value in NATS.items() if name != WHOLE})
    shown = adaptation.summary(means, left).set_index("tuned by")
    assert shown.loc["LoRA", "change [nats a token]"] == "+0.500 (+0.350 to +0.650)"
    text = adaptation_figures.trade_off_svg(left, means)
    assert text == adaptation_figures.trade_off_svg(left, means) and all(name in text for name in MEANS)


def test_rank_buys_draws_means_over_probes() -> None:
    rows = [
        {"layer": "all", "rank": rank, "space": space, "cosine": 0.1 * step, "noise_rec": 0.5, "noise_src": 0.7,
         "energy_rec": 0.2, "energy_src": 0.3, "energy_own": 0.9, "random": 0.1}
        for rank in (4, 8) for space in ("inside", "outside") for step in (1, 3)
    ]  # fmt: skip
    plot = adaptation_figures.rank_buys(pd.DataFrame(rows))
    lines = {trace.name: list(trace.y) for trace in plot.data}
    assert adaptation_figures.rank_buys_svg(pd.DataFrame(rows), "all").startswith("<svg")
    assert lines["inside"] == pytest.approx([0.2, 0.2]) and lines["two halves of one task, inside"] == [0.6, 0.6]


def test_quick_makes_what_the_notebook_shows_and_others_make_nothing() -> None:
    made = adaptation.to_make("synthetic", "quick")
    assert [config.training.subspace is None for config in made] == [False, True, True, False]
    assert adaptation.to_make("synthetic", "small") == []
