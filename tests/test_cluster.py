"""A grid on a Dask cluster gives what it gives on this machine, and outlives one of its workers.

Scheduler and workers are processes that listen on 127.0.0.1 alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import unisr
from tests.processes import alive, ancestors
from tests.report.stored import CLOCKS
from unisr.cli import app
from unisr.config import RunConfig
from unisr.data import load_dataset
from unisr.jobs import Job, run_jobs
from unisr.report import store

distributed = pytest.importorskip("distributed", reason="needs the extra `cluster`")
cluster = pytest.importorskip("unisr.cluster")

ROOT = Path(__file__).resolve().parent.parent
LONG = 600.0


@dataclass
class Cluster:
    address: str
    workers: list[subprocess.Popen[bytes]]


def dask(*arguments: str, folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "dask", *arguments, "--host", "127.0.0.1", "--no-dashboard"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("UNISR_")} | {"PYTHONPATH": str(ROOT)}
    log = (folder / f"{arguments[0]}.log").open("ab")
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A scheduler and two workers of one slot each, without the nannies that would start them again."""
    folder = tmp_path_factory.mktemp("cluster")
    file = folder / "scheduler.json"
    started = [dask("scheduler", "--port", "0", "--scheduler-file", str(file), folder=folder)]
    options = ("--scheduler-file", str(file), "--nthreads", "1", "--no-nanny", "--local-directory", str(folder))
    started += [dask("worker", *options, folder=folder) for _ in range(2)]
    try:
        waited(file.exists)
        address = json.loads(file.read_text())["address"]
        with distributed.Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=LONG)
        yield Cluster(address, started[1:])
    finally:
        for process in reversed(started):
            process.kill()
            process.wait()


def waited(ready: object, pause: float = 0.01) -> None:
    limit = time.monotonic() + LONG
    while not ready():  # type: ignore[operator]
        assert time.monotonic() < limit
        time.sleep(pause)


def made(config: RunConfig) -> str:
    return unisr.run(config).folder.name


def grid() -> list[Job]:
    """A training that is long enough to be killed in, and two shorter ones, one after the other."""
    world = {"dataset": "synthetic", "preset": "quick"}
    long = RunConfig(method="SASRec", training={"epochs": 10, "patience": 10}, **world)
    others = [Job(m, RunConfig(method=m, **world), needs) for m, needs in (("JSR", ()), ("LightGCN", ("JSR",)))]
    return [Job("SASRec", long), *others]


def kill_one_at_work(cluster: Cluster, config: RunConfig, found: dict[str, object]) -> None:
    """Kill the worker whose process has trained an epoch of `config`; tell its checkpoint's log."""
    folder = store.folder_of(config)
    checkpoints, lock = folder.with_name(f"{folder.name}.partial"), folder.with_name(f"{folder.name}.lock")

    waited(lambda: list(checkpoints.glob("epoch-0*/state.json")))
    found["job"] = process = int(lock.read_text())
    above = set(ancestors(process))
    (worker,) = (w for w in cluster.workers if w.pid in above)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    waited(lambda: not alive(process))
    (state,) = checkpoints.glob("epoch-0*/state.json")
    found["rows"] = json.loads(state.read_text())["rows"]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As a job's process has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks processes up in /proc")
@pytest.mark.usefixtures("one_thread")
def test_a_grid_outlives_a_worker_and_equals_one_made_here(
    two_workers: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_dataset("synthetic")
    monkeypatch.setenv("UNISR_DEVICE", "cpu")
    monkeypatch.setenv("UNISR_RESULTS", str(tmp_path / "there"))
    found: dict[str, object] = {}
    killer = threading.Thread(target=kill_one_at_work, args=(two_workers, grid()[0].payload, found))
    killer.start()
    outcomes = run_jobs(grid(), made, processes=2, cluster=two_workers.address)
    killer.join()
    assert not [o for o in outcomes if o.failed], outcomes
    there = store.runs()
    assert {run.config.method for run in there} == {"SASRec", "JSR", "LightGCN"}
    rows, losses = found["rows"], store.find(grid()[0].payload).losses
    assert len(rows) < len(losses) and losses["seconds"][: len(rows)].tolist() == [r["seconds"] for r in rows]

    monkeypatch.setenv("UNISR_RESULTS", str(tmp_path / "here"))
    for run in there:
        other = unisr.run(run.config)
        for file in ("per_query.parquet", "config.json"):
            assert (run.folder / file).read_bytes() == (other.folder / file).read_bytes(), run.folder.name
        assert run.metrics == other.metrics
        losses = (each.losses.drop(columns=CLOCKS, errors="ignore") for each in (run, other))
        pd.testing.assert_frame_equal(*losses, check_exact=True)
        weights, others = load_file(run.checkpoint), load_file(other.checkpoint)
        assert all(weights[k].equal(others[k]) for k in weights.keys() | others.keys())
    assert not list(tmp_path.rglob("*.lock")) and not list(tmp_path.rglob("*.partial"))


def test_the_command_takes_an_address(two_workers: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNISR_RESULTS", str(tmp_path))
    options = ["-d", "synthetic", "-p", "quick", "--methods", "Popularity", "--runs-only"]
    done = CliRunner().invoke(app, ["reproduce", *options, "--cluster", two_workers.address])
    assert done.exit_code == 0, done.output
    assert "1 of 1 done" in done.output and len(store.runs("synthetic", "quick", "Popularity")) == 4


def test_nobody_at_the_address_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "ANSWER", 0.5)
    for address in ("127.0.0.1:9", "no where"):
        with pytest.raises(cluster.ClusterError, match=f"(?s)cluster {address}: .*`dask scheduler`"):
            run_jobs(grid(), made, processes=2, cluster=address)


def test_workers_that_cannot_stand_in_are_refused(
    two_workers: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNISR_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(cluster, "versions", lambda: {"torch": "0.1"})
    with pytest.raises(cluster.ClusterError, match=r"worker tcp://127.0.0.1:\d+: has torch \S+ instead of 0.1; start"):
        run_jobs(grid(), made, processes=2, cluster=two_workers.address)


def test_what_a_worker_cannot_see_is_named(tmp_path: Path) -> None:
    marker = tmp_path / "marker.lock"
    world = cluster.World(cluster.versions(), (str(marker),), {})
    assert cluster.unfit(world) == f"{tmp_path} is not the client's folder of that name"
    marker.touch()
    assert "does not see the client's locks" in cluster.unfit(world)
    with cluster.exclusive(marker):
        assert cluster.unfit(world) == ""
