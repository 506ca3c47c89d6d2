"""What a command leaves under its home, compared with what the same command leaves where nothing disturbs it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.report.stored import CLOCKS
from unisr.data import prepare
from unisr.data.sources import source
from unisr.report import store
from unisr.training import checkpoint

WHOLE = {"manifest.json", "config.json"}
"""A folder that has one of these files appears whole or not at all."""


def content(path: Path) -> Any:
    """What a file says apart from how long it took, in how much memory, and from which revision."""
    if path.name == "metrics.json":
        return {k: v for k, v in json.loads(path.read_text()).items() if k not in ("seconds", "peak_memory_mb")}
    if path.name == "environment.json":
        return json.loads(path.read_text()) | {"commit": ""}
    if path.name == "losses.parquet":
        return pd.read_parquet(path).drop(columns=CLOCKS, errors="ignore").to_dict("list")
    if path.name == "SHA256SUMS":
        return sorted(line.split()[1] for line in path.read_text().splitlines())
    return path.read_bytes()


def shown(home: Path) -> dict[str, Path]:
    """The files that a listing shows: none of drafts, locks and checkpoints."""
    found = {}
    for path in sorted(home.rglob("*")):
        parts = path.relative_to(home).parts
        if path.is_file() and not any(part.startswith(".") or part.endswith((".lock", ".partial")) for part in parts):
            found["/".join(parts)] = path
    return found


def check_left(home: Path, undisturbed: Path) -> None:
    """What a disturbed command left is as it should be in the end, or not there yet; and readers find it sound."""
    left, expected = shown(home), shown(undisturbed)
    assert set(left) <= set(expected), "a file that the undisturbed command does not make"
    for name, path in left.items():
        assert content(path) == content(expected[name]), f"{name} is not what it should be"
    for folder in {path.parent for path in expected.values() if path.name in WHOLE}:
        own = home / folder.relative_to(undisturbed)
        names = {path.name for path in own.iterdir()} if own.exists() else set()
        assert names in (set(), {path.name for path in folder.iterdir()}), f"{own} is half there"
    _check_read(home)


def _check_read(home: Path) -> None:
    """The data cache, the run store and checkpoints say that they are sound."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        patch.setenv("UNISR_DATA", str(home / "data"))
        patch.setenv("UNISR_RESULTS", str(home / "results"))
        chosen = source("synthetic")
        there = (home / "data" / "synthetic" / "tables-s0").exists()
        assert (prepare._cached(chosen, 0, None) is not None) == there
        for run in store.runs():
            assert len(run.per_query) and run.losses is not None
    for state in home.rglob("*.partial/epoch-*/state.json"):
        owner = json.loads(state.read_text())["owner"]
        assert checkpoint.load(state.parent.parent, owner) is not None


def check_done(home: Path, undisturbed: Path) -> None:
    """A command that went on has made what the undisturbed one made, and cleared away locks and checkpoints."""
    check_left(home, undisturbed)
    assert set(shown(home)) == set(shown(undisturbed))
    assert not [path for pattern in ("*.lock", "*.partial") for path in home.rglob(pattern)]
