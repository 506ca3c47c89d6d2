"""Artefacts of the released evaluation: one switch a step, and ranks that the stored runs confirm."""

from __future__ import annotations

import pandas as pd
import pytest

import unisr
from unisr.analysis import artefacts as audit
from unisr.analysis.artefacts import METHODS, AuditSettings, artefacts, steps, underflow, untrained
from unisr.config import RunConfig
from unisr.variants import STUDIES

WORLD = {"dataset": "synthetic", "preset": "quick"}


@pytest.mark.parametrize("method", METHODS)
def test_every_step_removes_one_artefact(method: str) -> None:
    found = steps(method, dataset="ml-100k", preset="small")
    assert found[0].removed == audit.START and found[0].config.histories == "released" and found[0].padded
    for before, after in zip(found, found[1:], strict=False):
        one, other = (step.config.model_dump() for step in (before, after))
        flat = [{**c, **c["model"], "model": None} for c in (one, other)]
        changed = [name for name in flat[0] if flat[0][name] != flat[1][name]]
        changed += ["rule"] * (before.rule is not after.rule) + ["padded"] * (before.padded != after.padded)
        assert len(changed) == 1, (after.removed, changed)
    assert found[-1].config.candidates == "full" and found[-2].config.histories == "clean"


def test_the_clean_gensr_is_the_whole_method_of_the_ablation() -> None:
    clean = next(s for s in steps("GenSR", dataset="ml-100k", preset="small") if s.removed == audit.QUERY).config
    assert clean == STUDIES["ablation"].configs("small")["GenSR"]
    assert steps("UniSAR", dataset="ml-100k", preset="small")[-2].config == RunConfig(method="UniSAR")


def test_clean_and_full_ranks_are_those_of_the_stored_runs() -> None:
    frame = artefacts(["TEM"], AuditSettings(), **WORLD)
    for step, kind in ((5, "uniform"), (6, "full")):
        own = frame[frame["step"] == step].set_index("event")["rank"].sort_index()
        stored = unisr.run(RunConfig(method="TEM", candidates=kind, **WORLD)).per_query.set_index("event")["rank"]
        pd.testing.assert_series_equal(own, stored.sort_index(), check_dtype=False)
    counts = frame.groupby("step")["event"].agg(["size", "nunique"])
    assert counts["size"][0] % 14 == 0 and (counts["size"][1:] == counts["size"][1]).all()
    assert (frame.loc[frame["event"] < 0, "rank"] == 1).all()


def test_fewer_users_are_ranked_where_asked() -> None:
    frame = artefacts(["TEM"], AuditSettings(users=10), **WORLD)
    assert (frame[frame["step"] > 0].groupby("step").size() == 10).all()


def test_an_untrained_model_is_at_chance_by_both_rules() -> None:
    frame = untrained(["UniSAR"], AuditSettings(), **WORLD)
    assert set(frame["task"]) == {"rec", "src"} and not frame["tied"].any()
    # Scores that differ little are one probability in fp32, and the sort then decides.
    assert (frame["released"] == frame["rank"]).mean() > 0.9 and (frame["released"] - frame["rank"]).abs().max() <= 3
    assert 35 < frame["rank"].mean() < 66, "nothing was learned"


def test_probabilities_that_underflow_are_perfect_by_the_released_rule_alone() -> None:
    frame = underflow(models=8, queries=2, words=4_000)
    zero = frame[frame["zeros"] == 1]
    assert len(zero) and (zero["released"] == 1).all() and (zero["rank"] == 50.5).all()
    assert not underflow(models=8, queries=2, width=4, words=400)["tied"].any(), "logits of a narrow model are close"
