"""`unisr bench raw` writes official files, prepares them and streams their training batches."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from unisr.benchmarks import raw
from unisr.data import load_dataset
from unisr.data.schema import Split

ROOT = Path(__file__).resolve().parent.parent
SIZES = {
    "kindle": {"users": 60, "items": 40, "events": 600},
    "kuaisar": {"users": 40, "items": 80, "recs": 2000, "searches": 1000},
}


@pytest.mark.parametrize("name", SIZES)
def test_what_is_written_is_prepared_and_streamed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # In this process: three new ones would take seconds. The variable is the one that each step sets.
    monkeypatch.setattr(raw, "_apart", raw._timed)
    monkeypatch.setenv("UNISR_DATA", str(tmp_path / "data"))
    shape = dataclasses.replace(raw.SHAPES[name], sizes={n: 2 * size for n, size in SIZES[name].items()})
    monkeypatch.setitem(raw.SHAPES, name, shape)
    steps = raw.measure(name, 0.5, tmp_path)
    dataset = load_dataset(shape.source)
    found = steps["prepare"].found
    assert found == {"users": dataset.n_users, "items": dataset.n_items, "events": len(dataset.events)}
    assert 0 < dataset.n_users <= SIZES[name]["users"] and 0 < dataset.n_items <= SIZES[name]["items"]
    streamed = steps["stream"].found
    assert streamed["examples"] == (dataset.column("split") == Split.TRAIN).sum()
    assert steps["write"].found["gigabytes"] == sum(p.stat().st_size for p in (tmp_path / "raw").iterdir()) / 1e9
    assert all(step.seconds > 0 and step.peak_gigabytes > 0 for step in steps.values())
    cells = raw.table({name: steps})[name]
    assert cells["events of the tables"] == f"{len(dataset.events):,}"
    assert cells["prepared, s"].endswith(f"(at most {shape.seconds})") and "20,000" in cells["examples/s"]


def test_full_size_is_that_of_the_papers() -> None:
    kindle, kuaisar = (load["sizes"] for load in map(dataclasses.asdict, raw.SHAPES.values()))
    assert kindle == {"users": 68_223, "items": 61_934, "events": 1_000_000}
    assert kuaisar["items"] == 6_890_707 and kuaisar["recs"] + kuaisar["searches"] == 19_664_885


@pytest.mark.slow
def test_the_command_prints_one_object(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "unisr", "bench", "raw", "--dataset", "kindle", "--scale", "0.002", "--json"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["scale"] == 0.002 and list(told["measured"]["kindle"]) == ["write", "prepare", "stream"]
    assert not list(tmp_path.glob("unisr-raw-*"))
