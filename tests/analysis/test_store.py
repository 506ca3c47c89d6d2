"""Kept tables: computed once per settings and runs, whole, and refused when damaged."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from unisr.analysis.store import is_kept, kept
from unisr.config import RunConfig, Settings
from unisr.errors import ConfigError, StoreError

TABLE = pd.DataFrame({"task": ["rec", "src"], "value": [0.1 + 0.2, -1.5]}, index=[7, 3])


class Asked(Settings):
    steps: int = 10


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNISR_RESULTS", str(tmp_path))
    return tmp_path


@pytest.fixture
def configs() -> list[RunConfig]:
    return [RunConfig(method="Popularity", dataset="synthetic", preset="quick", seed=seed) for seed in (0, 1)]


def never() -> pd.DataFrame:
    raise AssertionError("computed again")


def test_a_table_is_computed_once_per_name_version_settings_and_runs(configs: list[RunConfig]) -> None:
    first = kept("mine", Asked(), configs, lambda: TABLE)
    assert_frame_equal(first, TABLE.reset_index(drop=True))
    assert_frame_equal(kept("mine", Asked(), configs, never), first)
    assert is_kept("mine", Asked(), configs)
    others = [("yours", Asked(), configs, 1), ("mine", Asked(steps=11), configs, 1), ("mine", Asked(), configs[:1], 1)]
    for name, settings, some, version in [*others, ("mine", Asked(), configs, 2)]:
        assert not is_kept(name, settings, some, version=version)
        with pytest.raises(AssertionError, match="computed again"):
            kept(name, settings, some, never, version=version)


def test_a_computation_that_fails_leaves_nothing(results: Path, configs: list[RunConfig]) -> None:
    with pytest.raises(AssertionError, match="computed again"):
        kept("mine", Asked(), configs, never)
    assert not [path for path in results.rglob("*") if path.is_file()]


def test_damage_is_named(results: Path, configs: list[RunConfig]) -> None:
    kept("mine", Asked(), configs, lambda: TABLE)
    (folder,) = (results / "analysis" / "synthetic" / "quick").iterdir()
    whole = (folder / "table.parquet").read_bytes()
    (folder / "table.parquet").write_bytes(whole[:-9])
    with pytest.raises(StoreError, match="table.parquet: is not what SHA256SUMS"):
        kept("mine", Asked(), configs, never)
    (folder / "table.parquet").write_bytes(whole)
    (folder / "analysis.json").write_text("{}")
    with pytest.raises(StoreError, match="analysis.json: is not what SHA256SUMS"):
        kept("mine", Asked(), configs, never)
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(StoreError, match="edited or moved"):
        kept("mine", Asked(), configs, never)
    (folder / "environment.json").unlink()
    with pytest.raises(StoreError, match="lacks environment.json"):
        kept("mine", Asked(), configs, never)


def test_runs_of_several_presets_are_refused(configs: list[RunConfig]) -> None:
    other = RunConfig(method="Popularity", dataset="synthetic", preset="small")
    for some in ([], [*configs, other]):
        with pytest.raises(ConfigError, match="one dataset and preset"):
            kept("mine", Asked(), some, never)
