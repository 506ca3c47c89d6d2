"""Counts of a dataset agree with its tables."""

from __future__ import annotations

from unisr.data.schema import Dataset, Split
from unisr.report import datasets


def test_table1_has_ours_and_the_papers(world: Dataset) -> None:
    table = datasets.table1(world)
    assert list(table.columns) == ["synthetic", "Amazon (paper)", "KuaiSAR (paper)"]
    assert table.loc["#User", "synthetic"] == world.n_users
    assert table.notna().all(axis=None)


def test_splits_and_activity_add_up(world: Dataset) -> None:
    splits = datasets.splits(world)
    assert list(splits.columns) == [s.name.lower() for s in Split]
    assert splits.to_numpy().sum() == len(world.events) == datasets.events_per_user(world)["events"].sum()
    assert datasets.popularity(world).sum() == splits.loc["recommendation"].sum()


def test_queries_and_ties_count_events(world: Dataset) -> None:
    queries = datasets.queries(world)
    assert queries["events"].sum() == datasets.splits(world).loc["search"].sum()
    assert (queries["items"] <= queries["events"]).all() and queries["events"].is_monotonic_decreasing
    shares = datasets.ambiguity(world, sizes=(1, world.n_items))
    assert shares.is_monotonic_increasing and shares.iloc[-1] == 1
    ties = datasets.ties(world)
    assert (ties["tied"] <= ties["events"]).all()


def test_leaks_are_told_by_rule(world: Dataset) -> None:
    table = datasets.leak_table(world)
    assert table[table["rule"] == "clean"][["own_target", "not_earlier"]].to_numpy().sum() == 0
    assert set(table["rule"]) == {"clean", "released"}


def test_timeline_is_one_users_events_in_order(world: Dataset) -> None:
    line = datasets.timeline(world, 3)
    assert len(line) == (world.column("user") == 3).sum()
    assert line["time [s]"].iloc[0] == 0 and line["time [s]"].is_monotonic_increasing
    assert ((line["query"] != "") == (line["task"] == "search")).all()
